/*
 * What capture is made of. A cgroup/connect4 program rewrites where connect() goes, and getpeername4 what the application is told: it
 * asks for 192.0.2.7:80 and is told it got that, while the connection is with a listener on loopback. At connect() the socket's cookie
 * is known already, the one that SO_COOKIE gives. Then sockops is told TCP_CONNECT_CB: the source port is chosen, and nothing is sent
 * yet, so what is noted there under the connection's addresses is there before anybody can accept it. Verdict 0 refuses with EPERM. A
 * program can be replaced under its link, and goes with it. bpf/capture.bpf.c. Source: net/ipv4/af_inet.c, __inet_stream_connect(),
 * inet_getname(); net/ipv4/tcp_ipv4.c, tcp_v4_connect(); net/ipv4/tcp_output.c, tcp_connect().
 */
/* link: -lbpf */
#include "cgroup.h"

#define ADDR(f) ((int16_t)offsetof(struct bpf_sock_addr, f))

static struct sockaddr_in service(void)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(80)};

	CHECK(inet_pton(AF_INET, "192.0.2.7", &a.sin_addr) == 1, "address");
	return a;
}

/* a program that, if the socket's destination (or peer) is @from, makes it @to, and notes the cookie */
static int rewriter(enum bpf_attach_type attach, int cookies, struct sockaddr_in from, struct sockaddr_in to)
{
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		LOAD(BPF_W, R(1), R(6), ADDR(user_ip4)),
		INSN(BPF_JMP32 | BPF_JNE | BPF_K, R(1), 0, 18, (int32_t)from.sin_addr.s_addr),
		LOAD(BPF_W, R(1), R(6), ADDR(user_port)),
		INSN(BPF_JMP32 | BPF_JNE | BPF_K, R(1), 0, 16, (int32_t)from.sin_port),
		MOVI(R(1), (int32_t)to.sin_addr.s_addr),
		STORE(BPF_W, R(6), ADDR(user_ip4), R(1)),
		MOVI(R(1), (int32_t)to.sin_port),
		STORE(BPF_W, R(6), ADDR(user_port), R(1)),
		MOV(R(1), R(6)),
		CALL(BPF_FUNC_get_socket_cookie),
		STORE(BPF_DW, R(10), -16, R(0)),
		STOREI(BPF_W, R(10), -4, 0),
		MAP(R(1), cookies),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		MOV(R(3), R(10)),
		ADDI(R(3), -16),
		MOVI(R(4), BPF_ANY),
		CALL(BPF_FUNC_map_update_elem),
		MOVI(R(0), 1),
		END(),
	};

	return prog_new(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach, insn, COUNT(insn));
}

/* the first event of a socket: its kind and its source port */
static int watcher(int first)
{
	struct bpf_insn insn[] = {
		LOAD(BPF_W, R(2), R(1), offsetof(struct bpf_sock_ops, op)),
		LOAD(BPF_W, R(3), R(1), offsetof(struct bpf_sock_ops, local_port)),
		JEQI(R(2), BPF_SOCK_OPS_TCP_CONNECT_CB, 3),
		JEQI(R(2), BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 2),
		MOVI(R(0), 1),
		END(),
		STORE(BPF_W, R(10), -8, R(2)),
		STORE(BPF_W, R(10), -4, R(3)),
		STORE(BPF_W, R(10), -12, R(3)),
		MAP(R(1), first),
		MOV(R(2), R(10)),
		ADDI(R(2), -12),
		MOV(R(3), R(10)),
		ADDI(R(3), -8),
		MOVI(R(4), BPF_NOEXIST),
		CALL(BPF_FUNC_map_update_elem),
		MOVI(R(0), 1),
		END(),
	};

	return prog_new(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, insn, COUNT(insn));
}

static int answer(enum bpf_attach_type attach, int verdict)
{
	struct bpf_insn insn[] = {MOVI(R(0), verdict), END()};

	return prog_new(BPF_PROG_TYPE_CGROUP_SOCK_ADDR, attach, insn, COUNT(insn));
}

static int try_connect(struct sockaddr_in a)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	CHECK(fd >= 0, "socket");
	if (connect(fd, (struct sockaddr *)&a, sizeof(a)) && errno != EINPROGRESS) {
		int e = errno;

		close(fd);
		errno = e;
		return -1;
	}
	CHECK(poll(&p, 1, WAIT_MS) == 1 && get_int(fd, SOL_SOCKET, SO_ERROR) == 0, "connect");
	return fd;
}

int main(void)
{
	int cookies = map_new(BPF_MAP_TYPE_ARRAY, "cookies", 4, 8, 1, 0), l = listener(0, false), c, s, link, refuse, first;
	struct sockaddr_in mine = loopback(port_of(l)), asked = service(), peer;
	socklen_t n = sizeof(peer);
	uint64_t cookie = 0, noted = 0;
	uint32_t zero = 0, port, event[2];

	first = map_new(BPF_MAP_TYPE_HASH, "first", 4, 8, 16, 0);
	cgroup_enter();
	CHECK(bpf_link_create(watcher(first), cgroup_fd, BPF_CGROUP_SOCK_OPS, NULL) >= 0, "sockops");
	link = bpf_link_create(rewriter(BPF_CGROUP_INET4_CONNECT, cookies, asked, mine), cgroup_fd, BPF_CGROUP_INET4_CONNECT, NULL);
	CHECK(link >= 0, "connect4");
	c = try_connect(asked);
	CHECK(c >= 0, "connect to 192.0.2.7");
	s = accept(l, NULL, NULL);
	CHECK(s >= 0, "the listener has it");
	CHECK(!getsockname(c, (struct sockaddr *)&peer, &n), "getsockname");
	port = ntohs(peer.sin_port);
	CHECK(!bpf_map_lookup_elem(first, &port, event), "sockops knows nothing of port %u", port);
	CHECK(event[0] == BPF_SOCK_OPS_TCP_CONNECT_CB, "the first event is %u", event[0]);
	CHECK(!getpeername(c, (struct sockaddr *)&peer, &n) && peer.sin_port == mine.sin_port, "without getpeername4 it shows the listener");
	n = sizeof(cookie);
	CHECK(!getsockopt(c, SOL_SOCKET, SO_COOKIE, &cookie, &n), "SO_COOKIE");
	CHECK(!bpf_map_lookup_elem(cookies, &zero, &noted) && noted == cookie, "cookie at connect(): %llu, SO_COOKIE: %llu",
	      (unsigned long long)noted, (unsigned long long)cookie);
	CHECK(bpf_link_create(rewriter(BPF_CGROUP_INET4_GETPEERNAME, cookies, mine, asked), cgroup_fd, BPF_CGROUP_INET4_GETPEERNAME, NULL) >= 0,
	      "getpeername4");
	n = sizeof(peer);
	CHECK(!getpeername(c, (struct sockaddr *)&peer, &n), "getpeername");
	CHECK(peer.sin_addr.s_addr == asked.sin_addr.s_addr && peer.sin_port == asked.sin_port, "getpeername: %s:%u", inet_ntoa(peer.sin_addr),
	      ntohs(peer.sin_port));
	close(c);
	close(s);

	refuse = answer(BPF_CGROUP_INET4_CONNECT, 0);
	CHECK(!bpf_link_update(link, refuse, NULL), "another program under the same link");
	CHECK(try_connect(mine) == -1 && errno == EPERM, "verdict 0");
	close(link);
	c = try_connect(mine);
	CHECK(c >= 0, "the link is gone, and with it the program");
	close(c);
	close(l);
	return 0;
}
