/*
 * A tc program that user space runs with BPF_PROG_RUN finds a connected socket by its addresses (bpf_skc_lookup_tcp) in the network
 * namespace of the caller, or in another by its id, and can then put it into a sockmap: no descriptor of that socket is needed. So an
 * agent joins sockets of applications. It takes microseconds. bpf/bypass.bpf.c, bind(). Source: linux/bpf.h; net/bpf/test_run.c,
 * net/core/filter.c.
 */
/* link: -lbpf */
#include "bpf.h"
#include "netns.h"
#include <time.h>

struct ask {
	uint8_t ethernet[14]; /* what the kernel wants in front of a packet */
	uint8_t pad[2];
	struct bpf_sock_tuple tuple;
	uint32_t found;
};

static int prog;

/* Return: was it found, and put into the sockmap? */
static bool find(int fd)
{
	struct ask q = {0}, out;
	struct sockaddr_in l, r;
	socklen_t n = sizeof(l);
	LIBBPF_OPTS(bpf_test_run_opts, o, .data_in = &q, .data_size_in = sizeof(q), .data_out = &out, .data_size_out = sizeof(out));

	CHECK(!getsockname(fd, (struct sockaddr *)&l, &n) && !getpeername(fd, (struct sockaddr *)&r, &n), "names");
	/* as in a packet that this socket would receive */
	q.tuple.ipv4.saddr = r.sin_addr.s_addr;
	q.tuple.ipv4.sport = r.sin_port;
	q.tuple.ipv4.daddr = l.sin_addr.s_addr;
	q.tuple.ipv4.dport = l.sin_port;
	CHECK(!bpf_prog_test_run_opts(prog, &o), "BPF_PROG_RUN");
	CHECK(o.data_size_out == sizeof(out), "%u bytes came back", o.data_size_out);
	return out.found == 1;
}

static uint64_t cookie_of(int fd)
{
	uint64_t v = 0;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, SOL_SOCKET, SO_COOKIE, &v, &n), "SO_COOKIE");
	return v;
}

int main(void)
{
	int socks = map_new(BPF_MAP_TYPE_SOCKMAP, "socks", 4, 8, 4, 0), fd[2];
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		MOVI(R(2), offsetof(struct ask, tuple)),
		MOV(R(3), R(10)),
		ADDI(R(3), -64),
		MOVI(R(4), sizeof(((struct ask *)0)->tuple.ipv4)),
		CALL(BPF_FUNC_skb_load_bytes),
		JEQI(R(0), 0, 2),
		MOVI(R(0), 0),
		END(),
		MOV(R(1), R(6)),
		MOV(R(2), R(10)),
		ADDI(R(2), -64),
		MOVI(R(3), sizeof(((struct ask *)0)->tuple.ipv4)),
		MOVI(R(4), BPF_F_CURRENT_NETNS),
		MOVI(R(5), 0),
		CALL(BPF_FUNC_skc_lookup_tcp),
		JNEI(R(0), 0, 2),
		MOVI(R(0), 0),
		END(),
		MOV(R(7), R(0)),
		STOREI(BPF_W, R(10), -4, 0),
		MAP(R(1), socks),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		MOV(R(3), R(7)),
		MOVI(R(4), BPF_ANY),
		CALL(BPF_FUNC_map_update_elem),
		MOV(R(8), R(0)),
		MOV(R(1), R(7)),
		CALL(BPF_FUNC_sk_release),
		JEQI(R(8), 0, 2),
		MOVI(R(0), 0),
		END(),
		STOREI(BPF_W, R(10), -4, 1),
		MOV(R(1), R(6)),
		MOVI(R(2), offsetof(struct ask, found)),
		MOV(R(3), R(10)),
		ADDI(R(3), -4),
		MOVI(R(4), 4),
		MOVI(R(5), 0),
		CALL(BPF_FUNC_skb_store_bytes),
		MOVI(R(0), 0),
		END(),
	};
	uint64_t in_map;
	uint32_t zero = 0;
	struct timespec t0, t1;

	prog = prog_new(BPF_PROG_TYPE_SCHED_CLS, 0, insn, COUNT(insn));
	tcp_pair(fd);
	for (int i = 0; i < 2; i++) {
		CHECK(find(fd[i]), "side %d", i);
		CHECK(!bpf_map_lookup_elem(socks, &zero, &in_map) && in_map == cookie_of(fd[i]), "side %d is not what is in the sockmap", i);
	}
	clock_gettime(CLOCK_MONOTONIC, &t0);
	for (int i = 0; i < 200; i++)
		CHECK(find(fd[i & 1]), "again");
	clock_gettime(CLOCK_MONOTONIC, &t1);
	printf("# %.1f us each\n", ((double)(t1.tv_sec - t0.tv_sec) * 1e9 + (double)(t1.tv_nsec - t0.tv_nsec)) / 200e3);
	(void)netns_new();
	CHECK(!find(fd[0]), "found from another namespace");
	close(fd[0]);
	close(fd[1]);
	return 0;
}
