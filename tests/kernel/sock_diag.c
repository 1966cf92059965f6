/*
 * sock_diag answers for one connection, asked for by its addresses, with TCP_INFO and the congestion control; the socket may belong to
 * any process; one that is not there is ENOENT. It looks in the namespace of the netlink socket. net/diag.c: `aditctl conn`. Source:
 * sock_diag(7); net/ipv4/inet_diag.c. Kernels with inet_diag as a module load it by themselves if they can.
 */
#include "netns.h"
#include <linux/inet_diag.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <linux/sock_diag.h>

/* Return: 0 and what TCP says, or -errno */
static int ask(int nl, struct sockaddr_in l, struct sockaddr_in r, struct tcp_info *ret)
{
	struct {
		struct nlmsghdr h;
		struct inet_diag_req_v2 q;
	} m = {.h = {.nlmsg_len = sizeof(m), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST},
	       .q = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP, .idiag_ext = 1 << (INET_DIAG_INFO - 1), .idiag_states = ~0u}};
	static union {
		struct nlmsghdr h;
		char bytes[8192];
	} answer;
	struct rtattr *at;
	int left;
	ssize_t n;

	m.q.id.idiag_sport = l.sin_port;
	m.q.id.idiag_dport = r.sin_port;
	m.q.id.idiag_src[0] = l.sin_addr.s_addr;
	m.q.id.idiag_dst[0] = r.sin_addr.s_addr;
	m.q.id.idiag_cookie[0] = m.q.id.idiag_cookie[1] = INET_DIAG_NOCOOKIE;
	CHECK(send(nl, &m, sizeof(m), 0) == sizeof(m), "send");
	n = recv(nl, &answer, sizeof(answer), 0);
	CHECK(n > 0 && NLMSG_OK(&answer.h, (size_t)n), "recv");
	if (answer.h.nlmsg_type == NLMSG_ERROR)
		return ((struct nlmsgerr *)NLMSG_DATA(&answer.h))->error;
	left = (int)(answer.h.nlmsg_len - NLMSG_LENGTH(sizeof(struct inet_diag_msg)));
	at = (struct rtattr *)((char *)NLMSG_DATA(&answer.h) + NLMSG_ALIGN(sizeof(struct inet_diag_msg)));
	for (; RTA_OK(at, left); at = RTA_NEXT(at, left))
		if (at->rta_type == INET_DIAG_INFO) {
			size_t len = RTA_PAYLOAD(at);

			memcpy(ret, RTA_DATA(at), len < sizeof(*ret) ? len : sizeof(*ret));
			return 0;
		}
	return -ENODATA;
}

static int netlink(void)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_SOCK_DIAG);

	if (fd < 0)
		skip("no NETLINK_SOCK_DIAG: %s", strerror(errno));
	return fd;
}

int main(void)
{
	struct sockaddr_in l, r;
	socklen_t n = sizeof(l);
	struct tcp_info i = {0};
	int fd[2], nl = netlink(), e;
	char b[8];

	tcp_pair(fd);
	CHECK(send(fd[0], "hello", 5, 0) == 5 && recv(fd[1], b, sizeof(b), 0) == 5, "bytes");
	CHECK(!getsockname(fd[0], (struct sockaddr *)&l, &n) && !getpeername(fd[0], (struct sockaddr *)&r, &n), "names");
	e = ask(nl, l, r, &i);
	CHECK(e == 0, "error %d", e);
	CHECK(i.tcpi_state == 1 && i.tcpi_bytes_acked >= 5, "state %u, %llu bytes acknowledged", i.tcpi_state,
	      (unsigned long long)i.tcpi_bytes_acked);
	l.sin_port = htons(1);
	e = ask(nl, l, r, &i);
	CHECK(e == -ENOENT, "a connection that is not there: %d", e);
	n = sizeof(l);
	CHECK(!getsockname(fd[0], (struct sockaddr *)&l, &n), "getsockname");
	(void)netns_new();
	CHECK(ask(nl, l, r, &i) == 0, "the netlink socket's namespace does not count");
	CHECK(ask(netlink(), l, r, &i) == -ENOENT, "found from another namespace");
	close(fd[0]);
	close(fd[1]);
	return 0;
}
