/*
 * Sockets in other network namespaces. The program that binds looks a socket up in the namespace that runs it, or in one that this
 * names by a small number (rtnetlink, RTM_NEWNSID); so no thread ever has to enter another namespace. A namespace is reached by
 * a process that lives in it or by a socket of ours there (SIOCGSKNS), and believed only if its inode number is the one that was
 * noted. The number stays for the life of either namespace; `ip netns list-id` shows it.
 */
#include "kern/bypass_int.h"
#include "base/clean.h"
#include <fcntl.h>
#include <linux/net_namespace.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

static uint32_t inum_of(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : (uint32_t)st.st_ino;
}

int nsids_init(struct nsids *n, bool proc)
{
	AUTO_FD fd = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);

	*n = (struct nsids){.proc = proc};
	if (fd < 0)
		return -errno;
	n->own = inum_of(fd);
	return -pthread_mutex_init(&n->lock, NULL);
}

void nsids_finish(struct nsids *n)
{
	pthread_mutex_destroy(&n->lock);
}

/* one request and its answer; *ret_id: NETNSA_NSID of the answer, if there is one */
static int ask(int nl, uint16_t type, int ns_fd, int32_t *ret_id)
{
	struct {
		struct nlmsghdr h;
		struct rtgenmsg g;
		char attr[2 * NLA_ALIGN(NLA_HDRLEN + 4)];
	} __attribute__((aligned(4))) q = {0};
	char buf[512] __attribute__((aligned(4)));
	const struct nlmsghdr *h = (const struct nlmsghdr *)buf;
	uint32_t n = NLMSG_LENGTH(sizeof(struct rtgenmsg));
	int32_t any = NETNSA_NSID_NOT_ASSIGNED;
	ssize_t got;

	q.h.nlmsg_type = type;
	q.h.nlmsg_flags = NLM_F_REQUEST | (type == RTM_NEWNSID ? NLM_F_ACK : 0);
	q.g.rtgen_family = AF_UNSPEC;
	for (int i = 0; i < (type == RTM_NEWNSID ? 2 : 1); i++) {
		struct nlattr *a = (struct nlattr *)((char *)&q + NLMSG_ALIGN(n));

		a->nla_len = NLA_HDRLEN + 4;
		a->nla_type = i ? NETNSA_NSID : NETNSA_FD;
		memcpy((char *)a + NLA_HDRLEN, i ? (const void *)&any : (const void *)&ns_fd, 4);
		n = NLMSG_ALIGN(n) + a->nla_len;
	}
	q.h.nlmsg_len = n;
	if (send(nl, &q, n, 0) < 0)
		return -errno;
	got = recv(nl, buf, sizeof(buf), 0);
	if (got < 0)
		return -errno;
	if (!NLMSG_OK(h, (uint32_t)got))
		return -EPROTO;
	if (h->nlmsg_type == NLMSG_ERROR)
		return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
	for (size_t at = NLMSG_LENGTH(sizeof(struct rtgenmsg)); at + NLA_HDRLEN + 4 <= h->nlmsg_len;) {
		const struct nlattr *a = (const struct nlattr *)(buf + NLMSG_ALIGN(at));

		if (a->nla_len < NLA_HDRLEN)
			break;
		if (a->nla_type == NETNSA_NSID)
			memcpy(ret_id, (const char *)a + NLA_HDRLEN, 4);
		at = NLMSG_ALIGN(at) + NLA_ALIGN(a->nla_len);
	}
	return 0;
}

static int id_of(int ns_fd, int32_t *ret)
{
	struct timeval limit = {.tv_sec = 1};
	AUTO_FD nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	int32_t id = NETNSA_NSID_NOT_ASSIGNED;
	int r;

	if (nl < 0 || setsockopt(nl, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit)))
		return -errno;
	r = ask(nl, RTM_GETNSID, ns_fd, &id);
	if (r == 0 && id < 0) {
		r = ask(nl, RTM_NEWNSID, ns_fd, &id);
		if (r == 0 || r == -EEXIST)
			r = ask(nl, RTM_GETNSID, ns_fd, &id);
	}
	if (r < 0)
		return r;
	if (id < 0)
		return -ENOENT;
	*ret = id;
	return 0;
}

static int reach(const struct nsids *n, uint32_t inum, uint32_t tgid, const int fd[2])
{
	char path[40];

	for (int i = 0; i < 2; i++) {
		AUTO_FD ns = fd[i] < 0 ? -1 : ioctl(fd[i], SIOCGSKNS);

		if (ns >= 0 && inum_of(ns) == inum)
			return fd_take(&ns);
	}
	if (n->proc && tgid) {
		snprintf(path, sizeof(path), "/proc/%u/ns/net", tgid);
		AUTO_FD ns = open(path, O_RDONLY | O_CLOEXEC);

		if (ns >= 0 && inum_of(ns) == inum)
			return fd_take(&ns);
	}
	return -ENOENT;
}

int nsids_get(struct nsids *n, uint32_t inum, uint32_t tgid, const int fd[2], int32_t *ret)
{
	uint32_t at = inum % ARRAY_LEN(n->known);
	int r = -ENOENT;

	if (!inum)
		return -ENOENT;
	if (inum == n->own) {
		*ret = -1;
		return 0;
	}
	pthread_mutex_lock(&n->lock);
	if (n->known[at].inum == inum) {
		*ret = n->known[at].id;
		r = 0;
	} else {
		AUTO_FD ns = reach(n, inum, tgid, fd);

		r = ns < 0 ? ns : id_of(ns, ret);
		if (r == 0) {
			n->known[at].inum = inum;
			n->known[at].id = *ret;
		}
	}
	pthread_mutex_unlock(&n->lock);
	return r;
}

void nsids_forget(struct nsids *n, uint32_t inum)
{
	uint32_t at = inum % ARRAY_LEN(n->known);

	pthread_mutex_lock(&n->lock);
	if (n->known[at].inum == inum)
		n->known[at].inum = 0;
	pthread_mutex_unlock(&n->lock);
}
