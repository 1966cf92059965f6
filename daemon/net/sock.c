/*
 * TCP sockets. Options that accepted sockets inherit from the listener (TCP_NODELAY, SO_KEEPALIVE and its times: the child is a
 * copy of the listener in net/core/sock.c, sk_clone_lock()) are set once on the listener.
 */
#include "net/sock.h"
#include "base/clean.h"
#include <fcntl.h>
#include <linux/filter.h>
#include <linux/sock_diag.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define KEEP_IDLE_S 180 /* HBONE's values (ztunnel): idle, interval, probes */
#define KEEP_INTERVAL_S 180
#define KEEP_PROBES 9
#define NOTSENT_LOWAT (128 * 1024) /* bytes; what waits in the kernel beyond it cannot be rescheduled any more */

static void opt_int(int fd, int level, int name, int v)
{
	(void)setsockopt(fd, level, name, &v, sizeof(v)); /* best effort: an unknown option changes speed, not correctness */
}

static void keep_alive(int fd)
{
	opt_int(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
	opt_int(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEP_IDLE_S);
	opt_int(fd, IPPROTO_TCP, TCP_KEEPINTVL, KEEP_INTERVAL_S);
	opt_int(fd, IPPROTO_TCP, TCP_KEEPCNT, KEEP_PROBES);
}

static int scarce_from = INT32_MAX; /* written before threads start */

void sock_reserve(uint64_t limit)
{
	uint64_t keep = min_u64(limit / 4, 32);

	if (limit && limit < INT32_MAX)
		scarce_from = (int)(limit - keep);
}

bool sock_scarce(int fd)
{
	return fd >= scarce_from;
}

bool sock_scarce_now(void)
{
	/* the kernel hands out the lowest free number (open(2)), so a number says how many are in use */
	AUTO_FD fd = fcntl(0, F_DUPFD_CLOEXEC, 0);

	return fd < 0 || sock_scarce(fd);
}

static const char *listen_hint(int e)
{
	switch (e) {
	case EADDRINUSE:
		return "; another process listens there (see: ss -ltnp)";
	case EACCES:
		return "; ports below 1024 need CAP_NET_BIND_SERVICE";
	case EADDRNOTAVAIL:
		return "; no interface has this address (see: ip addr)";
	}
	return "";
}

int sock_probe(const struct addr *a, struct err *reterr)
{
	struct sockaddr_storage sa;
	socklen_t n = addr_to_sa(a, &sa);
	char s[ADDR_STR];
	int e;
	AUTO_FD fd = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return err_set(reterr, -errno, "socket: %s", strerror(errno));
	opt_int(fd, SOL_SOCKET, SO_REUSEADDR, 1);
	if (a->family == AF_INET6)
		opt_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
	if (!bind(fd, (struct sockaddr *)&sa, n))
		return 0;
	e = errno;
	return err_set(reterr, -e, "cannot listen on %s: %s%s", addr_str(a, s), strerror(e), listen_hint(e));
}

int sock_listen(const struct addr *a, int backlog, int *ret_fd, struct err *reterr)
{
	struct sockaddr_storage sa;
	socklen_t n = addr_to_sa(a, &sa);
	char s[ADDR_STR];
	int one = 1, e;
	AUTO_FD fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0 && !setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one))) {
		if (a->family == AF_INET6)
			opt_int(fd, IPPROTO_IPV6, IPV6_V6ONLY, 1);
		opt_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
		keep_alive(fd);
		if (!bind(fd, (struct sockaddr *)&sa, n) && !listen(fd, backlog)) {
			*ret_fd = fd_take(&fd);
			return 0;
		}
	}
	e = errno;
	return err_set(reterr, -e, "cannot listen on %s: %s%s", addr_str(a, s), strerror(e), listen_hint(e));
}

void sock_listener_options(int fd)
{
	(void)fcntl(fd, F_SETFL, O_NONBLOCK);
	opt_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	keep_alive(fd);
}

void sock_listener_quiet(int fd)
{
	/* a socket's filter sees a segment from its TCP header on (net/ipv4/tcp_ipv4.c, tcp_filter()): byte 13 has the flags */
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 13),
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0x12), /* ACK, SYN */
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x02, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, 0),
		BPF_STMT(BPF_RET | BPF_K, UINT32_MAX),
	};
	struct sock_fprog p = { .len = ARRAY_LEN(f), .filter = f };

	(void)setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &p, sizeof(p)); /* without it a few may be reset that knock in this moment */
}

int sock_spread_by_source(int fd, uint32_t n)
{
	/* classic BPF: hash the source address of the SYN; the result picks the listener (socket(7), SO_ATTACH_REUSEPORT_CBPF) */
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_B | BPF_ABS, (uint32_t)SKF_NET_OFF),	/* version nibble */
		BPF_STMT(BPF_ALU | BPF_AND | BPF_K, 0xf0),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 0x60, 2, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + 12), /* IPv4 source */
		BPF_JUMP(BPF_JMP | BPF_JA, 4, 0, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + 20), /* IPv6 source: last word */
		BPF_STMT(BPF_MISC | BPF_TAX, 0),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)SKF_NET_OFF + 12), /* and the network part */
		BPF_STMT(BPF_ALU | BPF_ADD | BPF_X, 0),
		BPF_STMT(BPF_ALU | BPF_MUL | BPF_K, 0x9e3779b1),
		BPF_STMT(BPF_ALU | BPF_RSH | BPF_K, 16),
		BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, n),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};
	struct sock_fprog p = { .len = ARRAY_LEN(f), .filter = f };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, sizeof(p)) ? -errno : 0;
}

int sock_spread_first(int fd, uint32_t n)
{
	struct sock_filter f[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, (uint32_t)(SKF_AD_OFF + SKF_AD_RANDOM)),
		BPF_STMT(BPF_ALU | BPF_MOD | BPF_K, n),
		BPF_STMT(BPF_RET | BPF_A, 0),
	};
	struct sock_fprog p = { .len = ARRAY_LEN(f), .filter = f };

	return setsockopt(fd, SOL_SOCKET, SO_ATTACH_REUSEPORT_CBPF, &p, sizeof(p)) ? -errno : 0;
}

int sock_spread_plain(int fd)
{
	int zero = 0;

	return setsockopt(fd, SOL_SOCKET, SO_DETACH_REUSEPORT_BPF, &zero, sizeof(zero)) && errno != ENOENT ? -errno : 0;
}

int sock_accept(int fd, struct addr *ret_peer)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	int c = accept4(fd, (struct sockaddr *)&sa, &n, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (c < 0)
		return -errno;
	addr_from_sa((struct sockaddr *)&sa, ret_peer);
	return c;
}

static int socket_in(struct netns *ns, int family, struct err *reterr)
{
	int in = -1, back, fd, e, r = ns ? netns_get(ns, &in, reterr) : 0;

	if (r < 0)
		return r;
	r = netns_enter(in, &back);
	if (r < 0)
		return err_set(reterr, r, "network namespace '%s': %s", ns ? ns->name : "", netns_why(r));
	fd = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	e = errno;
	netns_leave(back);
	return fd < 0 ? err_set(reterr, -e, "socket: %s", strerror(e)) : fd;
}

/* a source address that need not be ours: IP_TRANSPARENT and IP_BIND_ADDRESS_NO_PORT, ip(7). The port is chosen by connect(), so that
   as many connections are possible as there are ports for each pair of addresses. */
static int bind_as(int fd, const struct sock_how *how, struct err *reterr)
{
	bool v6 = how->from->family == AF_INET6;
	struct addr from = *how->from;
	struct sockaddr_storage sa;
	char s[ADDR_STR];
	socklen_t n;
	int one = 1, e;

	from.port = 0;
	n = addr_to_sa(&from, &sa);
	opt_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	if (!setsockopt(fd, v6 ? IPPROTO_IPV6 : IPPROTO_IP, v6 ? IPV6_TRANSPARENT : IP_TRANSPARENT, &one, sizeof(one)) &&
	    !setsockopt(fd, SOL_SOCKET, SO_MARK, &how->mark, sizeof(how->mark)) && !bind(fd, (struct sockaddr *)&sa, n))
		return 0;
	e = errno;
	return err_set(reterr, -e, "as %s: %s%s", addr_ip_str(&from, s), strerror(e),
		       e == EPERM ? "; the client's address as source needs CAP_NET_ADMIN" : "");
}

int sock_connect_how(const struct addr *a, const struct sock_how *how, struct err *reterr)
{
	struct sockaddr_storage sa;
	socklen_t n = addr_to_sa(a, &sa);
	AUTO_FD fd = -1;
	int r;

	if (!n)
		return err_set(reterr, -EADDRNOTAVAIL, "%s", strerror(EADDRNOTAVAIL));
	if (how->from && how->from->family != a->family)
		return err_set(reterr, -EAFNOSUPPORT, "the client's address is of the other family and cannot be the source");
	fd = socket_in(how->netns, sa.ss_family, reterr);
	if (fd < 0)
		return fd;
	opt_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	r = how->from ? bind_as(fd, how, reterr) : 0;
	if (r < 0)
		return r;
	if (connect(fd, (struct sockaddr *)&sa, n) && errno != EINPROGRESS)
		return err_set(reterr, -errno, "%s", strerror(errno));
	return fd_take(&fd);
}

int sock_connect(const struct addr *a)
{
	static const struct sock_how plainly;

	return sock_connect_how(a, &plainly, NULL);
}

int sock_error(int fd)
{
	int e = 0;
	socklen_t n = sizeof(e);

	if (getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &n))
		return -errno;
	return -e;
}

int sock_local(int fd, struct addr *ret)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);

	if (getsockname(fd, (struct sockaddr *)&sa, &n))
		return -errno;
	addr_from_sa((struct sockaddr *)&sa, ret);
	return 0;
}

void sock_reset(int fd)
{
	struct linger l = { .l_onoff = 1 };

	(void)setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

void sock_bound(int fd, int bytes)
{
	opt_int(fd, SOL_SOCKET, SO_RCVBUF, bytes);
	opt_int(fd, SOL_SOCKET, SO_SNDBUF, bytes);
}

void sock_unbound(int fd)
{
	opt_int(fd, SOL_SOCKET, SO_BUF_LOCK, 0);
}

uint64_t sock_memory(int fd)
{
	uint32_t m[SK_MEMINFO_VARS] = { 0 };
	socklen_t n = sizeof(m);

	if (getsockopt(fd, SOL_SOCKET, SO_MEMINFO, m, &n))
		return 0;
	return (uint64_t)m[SK_MEMINFO_RMEM_ALLOC] + m[SK_MEMINFO_WMEM_QUEUED] + m[SK_MEMINFO_BACKLOG];
}

void sock_tunnel_options(int fd)
{
	opt_int(fd, IPPROTO_TCP, TCP_NODELAY, 1);
	opt_int(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_LOWAT);
	keep_alive(fd);
}

uint32_t sock_rtt_us(int fd)
{
	struct tcp_info ti;
	socklen_t n = sizeof(ti);

	if (getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &n))
		return 0;
	return n > offsetof(struct tcp_info, tcpi_min_rtt) && ti.tcpi_min_rtt && ti.tcpi_min_rtt != UINT32_MAX ? ti.tcpi_min_rtt : ti.tcpi_rtt;
}
