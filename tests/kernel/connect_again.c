/*
 * A socket that connects more than once, and in other ways than connect(2). The connect hooks of cgroups are asked each time somebody
 * really begins to connect: by connect(), by MSG_FASTOPEN, again after a failure; not while it is under way or done. An IPv6 socket may be
 * sent to an IPv4 address; but once it has tried one, it cannot go to IPv6 addresses any more: it keeps IPv4's operations, and the
 * connect() hangs. A refusing program can choose the errno (bpf_set_retval(), since 5.18). bpf/capture.bpf.c. Source: net/ipv4/af_inet.c,
 * __inet_stream_connect(); net/ipv4/tcp.c, tcp_sendmsg_fastopen(); net/ipv6/tcp_ipv6.c, tcp_v6_connect(), icsk_af_ops.
 */
/* link: -lbpf */
#include "cgroup.h"

#define ADDR(f) ((int16_t)offsetof(struct bpf_sock_addr, f))

static uint16_t port4;

/* counts in the map and lets pass */
static int counter(int calls)
{
	struct bpf_insn insn[] = {
		STOREI(BPF_W, R(10), -4, 0),
		MAP(R(1), calls),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(R(0), 0, 2),
		MOVI(R(1), 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, R(0), R(1), 0, BPF_ADD),
		MOVI(R(0), 1),
		END(),
	};

	return prog_new(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, insn, COUNT(insn));
}

static int refuser(void)
{
	struct bpf_insn insn[] = {
		MOVI(R(1), -EHOSTUNREACH),
		CALL(BPF_FUNC_set_retval),
		MOVI(R(0), 0),
		END(),
	};

	return prog_new(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET4_CONNECT, insn, COUNT(insn));
}

/* an IPv6 connect() to wherever goes to the IPv4 listener */
static int mapper(void)
{
	struct bpf_insn insn[] = {
		MOVI(R(2), 0),
		STORE(BPF_W, R(1), ADDR(user_ip6[0]), R(2)),
		STORE(BPF_W, R(1), ADDR(user_ip6[1]), R(2)),
		MOVI(R(2), (int32_t)htonl(0xffff)),
		STORE(BPF_W, R(1), ADDR(user_ip6[2]), R(2)),
		MOVI(R(2), (int32_t)htonl(INADDR_LOOPBACK)),
		STORE(BPF_W, R(1), ADDR(user_ip6[3]), R(2)),
		MOVI(R(2), htons(port4)),
		STORE(BPF_W, R(1), ADDR(user_port), R(2)),
		MOVI(R(0), 1),
		END(),
	};

	return prog_new(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, BPF_CGROUP_INET6_CONNECT, insn, COUNT(insn));
}

static struct sockaddr_in6 six(const char *ip, uint16_t port)
{
	struct sockaddr_in6 a = {.sin6_family = AF_INET6, .sin6_port = htons(port)};

	CHECK(inet_pton(AF_INET6, ip, &a.sin6_addr) == 1, "%s", ip);
	return a;
}

static int new_six(void)
{
	int fd = socket(AF_INET6, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd < 0)
		skip("no IPv6: %s", strerror(errno));
	return fd;
}

/* Return: the socket's error, or -1: still under way after @ms */
static int connect_six(int fd, struct sockaddr_in6 a, int ms)
{
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	if (!connect(fd, (struct sockaddr *)&a, sizeof(a)))
		return 0;
	if (errno == ECONNABORTED) /* the end of the former attempt, said once */
		return connect_six(fd, a, ms);
	if (errno != EINPROGRESS)
		return errno;
	return poll(&p, 1, ms) == 1 ? get_int(fd, SOL_SOCKET, SO_ERROR) : -1;
}

static uint64_t asked(int calls)
{
	uint32_t zero = 0;
	uint64_t n = 0;

	CHECK(!bpf_map_lookup_elem(calls, &zero, &n), "map");
	return n;
}

static void every_beginning_is_asked_for(int l)
{
	int calls = map_new(BPF_MAP_TYPE_ARRAY, "calls", 4, 8, 1, 0), c = new_socket();
	int link = bpf_link_create(counter(calls), cgroup_fd, BPF_CGROUP_INET4_CONNECT, NULL);
	struct sockaddr_in nowhere = loopback(1), there = loopback(port4);

	CHECK(link >= 0, "attach");
	CHECK(connect(c, (struct sockaddr *)&nowhere, sizeof(nowhere)) && errno == ECONNREFUSED, "nobody listens on port 1");
	CHECK(asked(calls) == 1, "asked %llu times", (unsigned long long)asked(calls));
	CHECK(!connect(c, (struct sockaddr *)&there, sizeof(there)), "the same socket again");
	CHECK(asked(calls) == 2, "asked %llu times", (unsigned long long)asked(calls));
	CHECK(connect(c, (struct sockaddr *)&there, sizeof(there)) && errno == EISCONN && asked(calls) == 2, "connected already");
	close(c);
	close(accept(l, NULL, NULL));
	c = new_socket();
	CHECK(sendto(c, "x", 1, MSG_FASTOPEN, (struct sockaddr *)&there, sizeof(there)) == 1 || errno == EOPNOTSUPP, "MSG_FASTOPEN");
	CHECK(asked(calls) == 3, "MSG_FASTOPEN is not asked for: %llu", (unsigned long long)asked(calls));
	close(c);
	close(accept(l, NULL, NULL));
	CHECK(!bpf_link_update(link, refuser(), NULL), "replace");
	c = new_socket();
	CHECK(connect(c, (struct sockaddr *)&there, sizeof(there)) && errno == EHOSTUNREACH, "bpf_set_retval");
	close(c);
	close(link);
}

static void once_ipv4_always_ipv4(int l)
{
	int c = new_six(), d = new_six(), l6 = new_six(), link, one = 1;
	struct sockaddr_in6 a = six("::1", 0);
	socklen_t n = sizeof(a);

	if (bind(l6, (struct sockaddr *)&a, sizeof(a)))
		skip("no ::1: %s", strerror(errno));
	CHECK(!listen(l6, 8) && !getsockname(l6, (struct sockaddr *)&a, &n), "listen");
	link = bpf_link_create(mapper(), cgroup_fd, BPF_CGROUP_INET6_CONNECT, NULL);
	CHECK(link >= 0, "attach");
	CHECK(connect_six(d, six("2001:db8::1", 80), WAIT_MS) == 0, "an IPv6 socket to an IPv4 listener");
	close(d);
	close(accept(l, NULL, NULL));
	d = new_six();
	CHECK(!setsockopt(d, IPPROTO_IPV6, IPV6_V6ONLY, &one, sizeof(one)), "IPV6_V6ONLY");
	CHECK(connect_six(d, six("2001:db8::1", 80), WAIT_MS) == ENETUNREACH, "IPV6_V6ONLY");
	close(d);
	close(link);
	CHECK(connect_six(c, six("::ffff:127.0.0.1", 1), WAIT_MS) == ECONNREFUSED, "nobody listens on port 1");
	CHECK(connect_six(c, a, 300) == -1, "it can go to IPv6 again: this kernel is better than what is done for it");
	d = new_six();
	CHECK(connect_six(d, a, WAIT_MS) == 0, "a socket that has not");
	close(c);
	close(d);
	close(l6);
}

int main(void)
{
	int l = listener(0, false);

	port4 = port_of(l);
	cgroup_enter();
	every_beginning_is_asked_for(l);
	once_ipv4_always_ipv4(l);
	close(l);
	return 0;
}
