/*
 * The question is net/diag.c's; here a worker asks it, so the socket is kept, the messages lie on the stack, and nothing ever waits: the
 * kernel makes the answer within our send() (netlink_rcv_skb()), so recv() with MSG_DONTWAIT finds it. The only thing that can hold it up
 * is another process' question: before Linux 6.9 one mutex is held for the time of each message of an answer (net/core/sock_diag.c).
 *
 * What the answer is worth. uid is that of the socket's inode: 0 when the process has closed its end (sock_i_uid()), which must not
 * be taken for root; the inode's number, read after it, is 0 then, too. The cgroup (INET_DIAG_CGROUP_ID, since 5.8) outlives close(). A
 * connection in TIME_WAIT has neither. Addresses are compared, since the kernel's look-up goes on to listeners.
 */
#include "net/owner.h"
#include "base/clean.h"
#include "net/netns.h"
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>
#include <netinet/tcp.h>

#define TRIES 4 /* answers to earlier questions that were given up */

struct question {
	struct nlmsghdr h;
	struct inet_diag_req_v2 q;
};

int owner_open(struct owner *o, int netns_fd)
{
	int back, fd, r = netns_enter(netns_fd, &back);

	o->fd = -1;
	if (r < 0)
		return r;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, NETLINK_SOCK_DIAG);
	r = fd < 0 ? -errno : 0;
	netns_leave(back);
	o->fd = fd;
	return r;
}

void owner_close(struct owner *o)
{
	clean_fd(&o->fd);
}

static bool same_socket(const struct inet_diag_msg *m, const struct inet_diag_req_v2 *q)
{
	size_t n = q->sdiag_family == AF_INET ? 4 : 16;

	/* an IPv6 socket that speaks IPv4 is found by its IPv4 addresses, and told with ::ffff: in front */
	if (m->id.idiag_sport != q->id.idiag_sport || m->id.idiag_dport != q->id.idiag_dport)
		return false;
	if (m->idiag_family == q->sdiag_family)
		return !memcmp(m->id.idiag_src, q->id.idiag_src, n) && !memcmp(m->id.idiag_dst, q->id.idiag_dst, n);
	return m->idiag_family == AF_INET6 && !memcmp(&m->id.idiag_src[3], q->id.idiag_src, 4) &&
	       !memcmp(&m->id.idiag_dst[3], q->id.idiag_dst, 4);
}

static void take(const struct nlmsghdr *h, struct owner_facts *ret)
{
	const struct inet_diag_msg *m = (const struct inet_diag_msg *)(h + 1);
	const struct rtattr *a = (const struct rtattr *)(m + 1);
	size_t left = h->nlmsg_len - NLMSG_LENGTH(sizeof(*m));

	if (m->idiag_state == TCP_TIME_WAIT || m->idiag_state >= TCP_LISTEN)
		return;
	ret->has_uid = m->idiag_inode != 0;
	ret->uid = m->idiag_uid;
	for (; RTA_OK(a, left); a = RTA_NEXT(a, left))
		if (a->rta_type == INET_DIAG_CGROUP_ID && RTA_PAYLOAD(a) == sizeof(ret->cgroup))
			memcpy(&ret->cgroup, RTA_DATA(a), sizeof(ret->cgroup));
}

/* Return: 0, -EAGAIN: that was the answer to an earlier question, or -errno */
static int answer(const struct owner *o, const struct question *q, struct owner_facts *ret)
{
	_Alignas(struct nlmsghdr) char room[4096];
	const struct nlmsghdr *h = (const struct nlmsghdr *)room;
	const struct nlmsgerr *e = (const struct nlmsgerr *)(h + 1);
	ssize_t n = recv(o->fd, room, sizeof(room), MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN ? -EIO : -errno; /* -EAGAIN here would be no answer at all */
	if (!NLMSG_OK(h, (size_t)n) || h->nlmsg_seq != q->h.nlmsg_seq)
		return -EAGAIN;
	if (h->nlmsg_type == NLMSG_ERROR)
		return h->nlmsg_len < NLMSG_LENGTH(sizeof(*e)) ? -EIO : e->error ? e->error : -EIO;
	if (h->nlmsg_type != SOCK_DIAG_BY_FAMILY || h->nlmsg_len < NLMSG_LENGTH(sizeof(struct inet_diag_msg)))
		return -EIO;
	if (!same_socket((const struct inet_diag_msg *)(h + 1), &q->q))
		return -ENOENT;
	take(h, ret);
	return 0;
}

int owner_ask(struct owner *o, const struct addr *peer, const struct addr *local, struct owner_facts *ret)
{
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};
	struct question q = {.h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
			     .q = {.sdiag_family = peer->family, .sdiag_protocol = IPPROTO_TCP, .idiag_states = UINT32_MAX}};
	size_t n = peer->family == AF_INET ? 4 : 16;
	int r = -EAGAIN;

	memset(ret, 0, sizeof(*ret));
	if (peer->family != local->family || (peer->family != AF_INET && peer->family != AF_INET6))
		return -EINVAL;
	if (o->fd < 0)
		return -EBADF;
	q.h.nlmsg_seq = ++o->seq;
	q.q.id.idiag_sport = htons(peer->port);
	q.q.id.idiag_dport = htons(local->port);
	memcpy(q.q.id.idiag_src, peer->ip, n);
	memcpy(q.q.id.idiag_dst, local->ip, n);
	q.q.id.idiag_cookie[0] = q.q.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	if (sendto(o->fd, &q, sizeof(q), MSG_DONTWAIT, (struct sockaddr *)&kernel, sizeof(kernel)) < 0)
		return -errno;
	for (int i = 0; i < TRIES && r == -EAGAIN; i++)
		r = answer(o, &q, ret);
	return r == -EAGAIN ? -EIO : r;
}
