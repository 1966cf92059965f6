/*
 * sockops at ESTABLISHED: on loopback the active side's snd_nxt is the passive side's rcv_nxt and the other way round, whatever
 * addresses the two see; that pair of numbers with the ports finds the two ends of a connection. The callback can set TCP_NODELAY with
 * bpf_setsockopt() before the application has written a byte, and sees the cookie that SO_COOKIE gives. The program sees sockets below
 * the cgroup it is attached to. bpf/bypass.bpf.c. Source: net/ipv4/tcp_input.c, tcp_init_transfer(); linux/bpf.h, struct bpf_sock_ops.
 */
/* link: -lbpf */
#include "cgroup.h"

struct note {
	uint64_t cookie;
	uint32_t snd_nxt, rcv_nxt;
};

#define OPS(f) ((int16_t)offsetof(struct bpf_sock_ops, f))
#define NOTE(f) ((int16_t)(-24 + (int)offsetof(struct note, f)))

static uint64_t cookie(int fd)
{
	uint64_t v;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, SOL_SOCKET, SO_COOKIE, &v, &n) && v, "SO_COOKIE");
	return v;
}

int main(void)
{
	int notes = map_new(BPF_MAP_TYPE_ARRAY, "notes", 4, sizeof(struct note), 2, 0), prog, fd[2];
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		LOAD(BPF_W, R(7), R(6), OPS(op)),
		JEQI(R(7), BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB, 3),
		JEQI(R(7), BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB, 2),
		MOVI(R(0), 1),
		END(),
		ADDI(R(7), -BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB), /* 0 active, 1 passive */
		STORE(BPF_W, R(10), -4, R(7)),
		LOAD(BPF_W, R(1), R(6), OPS(snd_nxt)),
		STORE(BPF_W, R(10), NOTE(snd_nxt), R(1)),
		LOAD(BPF_W, R(1), R(6), OPS(rcv_nxt)),
		STORE(BPF_W, R(10), NOTE(rcv_nxt), R(1)),
		MOV(R(1), R(6)),
		CALL(BPF_FUNC_get_socket_cookie),
		STORE(BPF_DW, R(10), NOTE(cookie), R(0)),
		MAP(R(1), notes),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		MOV(R(3), R(10)),
		ADDI(R(3), -24),
		MOVI(R(4), BPF_ANY),
		CALL(BPF_FUNC_map_update_elem),
		STOREI(BPF_W, R(10), -4, 1),
		MOV(R(1), R(6)),
		MOVI(R(2), IPPROTO_TCP),
		MOVI(R(3), TCP_NODELAY),
		MOV(R(4), R(10)),
		ADDI(R(4), -4),
		MOVI(R(5), 4),
		CALL(BPF_FUNC_setsockopt),
		MOVI(R(0), 1),
		END(),
	};
	struct sockaddr_in a;
	struct note n[2];
	int l;

	prog = prog_new(BPF_PROG_TYPE_SOCK_OPS, BPF_CGROUP_SOCK_OPS, insn, COUNT(insn));
	cgroup_enter();
	CHECK(bpf_link_create(prog, cgroup_fd, BPF_CGROUP_SOCK_OPS, NULL) >= 0, "attach to the cgroup");
	l = listener(0, false);
	a = loopback(port_of(l));
	fd[0] = new_socket();
	CHECK(!connect(fd[0], (struct sockaddr *)&a, sizeof(a)), "connect");
	fd[1] = accept(l, NULL, NULL);
	CHECK(fd[1] >= 0, "accept");
	for (uint32_t i = 0; i < 2; i++) {
		CHECK(!bpf_map_lookup_elem(notes, &i, &n[i]), "look-up");
		CHECK(n[i].cookie == cookie(fd[i]), "cookie of side %u: %llu", i, (unsigned long long)n[i].cookie);
		CHECK(get_int(fd[i], IPPROTO_TCP, TCP_NODELAY) == 1, "TCP_NODELAY of side %u", i);
	}
	CHECK(n[0].snd_nxt == n[1].rcv_nxt && n[1].snd_nxt == n[0].rcv_nxt, "active %u/%u, passive %u/%u", n[0].snd_nxt, n[0].rcv_nxt,
	      n[1].snd_nxt, n[1].rcv_nxt);
	CHECK(n[0].snd_nxt, "no numbers at all");
	close(fd[0]);
	close(fd[1]);
	close(l);
	return 0;
}
