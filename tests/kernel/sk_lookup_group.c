/*
 * An sk_lookup program takes connections for addresses and ports where nobody listens to a listener in a sockmap; getsockname() of the
 * accepted socket is the address that was asked for. A listener in a reuseport group stands for the whole group only if the program
 * says so (without BPF_SK_LOOKUP_F_NO_REUSEPORT). One program serves one network namespace. bpf/steer.bpf.c. Source:
 * Documentation/bpf/prog_sk_lookup.rst.
 */
/* link: -lbpf */
#include "bpf.h"
#include "netns.h"

#define LOOKUP(f) ((int16_t)offsetof(struct bpf_sk_lookup, f))

int main(void)
{
	struct sockaddr_in to = {.sin_family = AF_INET}, a;
	int socks, prog, group[2], c, s, ns, got[2] = {0, 0};
	socklen_t n = sizeof(a);
	uint32_t zero = 0;
	uint64_t v;

	ns = netns_new();
	socks = map_new(BPF_MAP_TYPE_SOCKMAP, "listeners", 4, 8, 1, 0);
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		LOAD(BPF_W, R(1), R(6), LOOKUP(local_port)),
		INSN(BPF_JMP | BPF_JLT | BPF_K, R(1), 0, 17, 7000),
		INSN(BPF_JMP | BPF_JGT | BPF_K, R(1), 0, 16, 7999),
		STOREI(BPF_W, R(10), -4, 0),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		MAP(R(1), socks),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(R(0), 0, 9),
		MOV(R(7), R(0)),
		MOV(R(1), R(6)),
		MOV(R(2), R(7)),
		MOVI(R(3), 0),
		CALL(BPF_FUNC_sk_assign),
		MOV(R(8), R(0)),
		MOV(R(1), R(7)),
		CALL(BPF_FUNC_sk_release),
		INSN(BPF_JMP | BPF_JNE | BPF_K, R(8), 0, 0, 0),
		MOVI(R(0), SK_PASS),
		END(),
	};

	prog = prog_new(BPF_PROG_TYPE_SK_LOOKUP, BPF_SK_LOOKUP, insn, COUNT(insn));
	CHECK(bpf_link_create(prog, ns, BPF_SK_LOOKUP, NULL) >= 0, "attach to the namespace");
	group[0] = listener(0, true);
	group[1] = listener(port_of(group[0]), true);
	v = (uint64_t)group[0];
	CHECK(!bpf_map_update_elem(socks, &zero, &v, BPF_ANY), "a listener into a sockmap");
	for (uint16_t port = 7000; port < 7040; port++) {
		to.sin_port = htons(port);
		to.sin_addr.s_addr = htonl(0x7f010203u + port);
		c = new_socket();
		CHECK(!connect(c, (struct sockaddr *)&to, sizeof(to)), "connect to %s:%u", inet_ntoa(to.sin_addr), port);
		struct pollfd p[2] = {{.fd = group[0], .events = POLLIN}, {.fd = group[1], .events = POLLIN}};

		CHECK(poll(p, 2, WAIT_MS) == 1, "nobody has it");
		got[!p[0].revents]++;
		s = accept(group[!p[0].revents], NULL, NULL);
		CHECK(s >= 0 && !getsockname(s, (struct sockaddr *)&a, &n), "accept");
		CHECK(a.sin_addr.s_addr == to.sin_addr.s_addr && a.sin_port == to.sin_port, "getsockname: %s:%u", inet_ntoa(a.sin_addr),
		      ntohs(a.sin_port));
		close(c);
		close(s);
	}
	CHECK(got[0] && got[1], "one listener of the group has all: %d and %d", got[0], got[1]);
	to.sin_port = htons(8000);
	c = new_socket();
	CHECK(connect(c, (struct sockaddr *)&to, sizeof(to)) == -1 && errno == ECONNREFUSED, "a port that is not steered");
	close(c);
	close(group[0]);
	close(group[1]);
	return 0;
}
