/*
 * A sockops program can ask to be called for every round trip sample of a socket (BPF_SOCK_OPS_RTT_CB_FLAG), set an option of the socket
 * from there, and stop the calls again: how TCP_NODELAY reaches a socket only when it is about to be joined. The flags say what is asked
 * for, per socket. bpf/bypass.bpf.c. Source: linux/bpf.h; net/ipv4/tcp_input.c, tcp_bpf_rtt().
 */
/* link: -lbpf */
#include "cgroup.h"

#define OPS(f) ((int16_t)offsetof(struct bpf_sock_ops, f))

int main(void)
{
	int calls = map_new(BPF_MAP_TYPE_ARRAY, "calls", 4, 8, 1, 0), prog, fd[2];
	/* at ESTABLISHED of the active side: ask. At the third sample: TCP_NODELAY, and no more. */
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		LOAD(BPF_W, R(7), R(6), OPS(op)),
		JNEI(R(7), BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 5),
		MOV(R(1), R(6)),
		MOVI(R(2), BPF_SOCK_OPS_RTT_CB_FLAG),
		CALL(BPF_FUNC_sock_ops_cb_flags_set),
		MOVI(R(0), 1),
		END(),
		JNEI(R(7), BPF_SOCK_OPS_RTT_CB, 24),
		STOREI(BPF_W, R(10), -4, 0),
		MAP(R(1), calls),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(R(0), 0, 17),
		LOAD(BPF_DW, R(1), R(0), 0),
		ADDI(R(1), 1),
		STORE(BPF_DW, R(0), 0, R(1)),
		JNEI(R(1), 3, 13),
		STOREI(BPF_W, R(10), -4, 1),
		MOV(R(1), R(6)),
		MOVI(R(2), IPPROTO_TCP),
		MOVI(R(3), TCP_NODELAY),
		MOV(R(4), R(10)),
		ADDI(R(4), -4),
		MOVI(R(5), 4),
		CALL(BPF_FUNC_setsockopt),
		MOV(R(1), R(6)),
		MOVI(R(2), 0),
		CALL(BPF_FUNC_sock_ops_cb_flags_set),
		MOVI(R(0), 1),
		END(),
		MOVI(R(0), 1),
		END(),
	};
	struct sockaddr_in a;
	uint64_t n = 0;
	uint32_t zero = 0;
	char b[8];
	int l;

	prog = prog_new(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, insn, COUNT(insn));
	cgroup_enter();
	CHECK(bpf_link_create(prog, cgroup_fd, BPF_CGROUP_SOCK_OPS, NULL) >= 0, "attach to the cgroup");
	l = listener(0, false);
	a = loopback(port_of(l));
	fd[0] = new_socket();
	CHECK(!connect(fd[0], (struct sockaddr *)&a, sizeof(a)), "connect");
	fd[1] = accept(l, NULL, NULL);
	CHECK(get_int(fd[0], IPPROTO_TCP, TCP_NODELAY) == 0, "TCP_NODELAY from the beginning");
	for (int i = 0; i < 20; i++) {
		CHECK(send(fd[0], "there", 5, 0) == 5 && recv(fd[1], b, sizeof(b), 0) == 5, "there");
		CHECK(send(fd[1], "back", 4, 0) == 4 && recv(fd[0], b, sizeof(b), 0) == 4, "back");
	}
	CHECK(!bpf_map_lookup_elem(calls, &zero, &n), "look-up");
	CHECK(n == 3, "called %llu times, not 3", (unsigned long long)n);
	CHECK(get_int(fd[0], IPPROTO_TCP, TCP_NODELAY) == 1, "TCP_NODELAY was not set");
	CHECK(get_int(fd[1], IPPROTO_TCP, TCP_NODELAY) == 0, "the other end has it, too");
	close(fd[0]);
	close(fd[1]);
	close(l);
	return 0;
}
