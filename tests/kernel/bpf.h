/*
 * For the programs that load BPF: a few instructions by hand instead of a compiler, and a sockmap with a switchable redirect.
 * Everything goes away with the process.
 */
#pragma once
#include "kernel.h"
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <linux/bpf.h>
#include <poll.h>
#include <sys/ioctl.h>

#define INSN(c, d, s, o, i)  ((struct bpf_insn){.code = (c), .dst_reg = (d), .src_reg = (s), .off = (o), .imm = (i)})
#define MOV(d, s)	     INSN(BPF_ALU64 | BPF_MOV | BPF_X, d, s, 0, 0)
#define MOVI(d, i)	     INSN(BPF_ALU64 | BPF_MOV | BPF_K, d, 0, 0, i)
#define ADDI(d, i)	     INSN(BPF_ALU64 | BPF_ADD | BPF_K, d, 0, 0, i)
#define LOAD(size, d, s, o)  INSN(BPF_LDX | BPF_MEM | (size), d, s, o, 0)
#define STORE(size, d, o, s) INSN(BPF_STX | BPF_MEM | (size), d, s, o, 0)
#define STOREI(size, d, o, i) INSN(BPF_ST | BPF_MEM | (size), d, 0, o, i)
#define MAP(d, fd)	     INSN(BPF_LD | BPF_DW | BPF_IMM, d, BPF_PSEUDO_MAP_FD, 0, fd), INSN(0, 0, 0, 0, 0)
#define CALL(f)		     INSN(BPF_JMP | BPF_CALL, 0, 0, 0, f)
#define JEQI(d, i, o)	     INSN(BPF_JMP | BPF_JEQ | BPF_K, d, 0, o, i)
#define JNEI(d, i, o)	     INSN(BPF_JMP | BPF_JNE | BPF_K, d, 0, o, i)
#define END()		     INSN(BPF_JMP | BPF_EXIT, 0, 0, 0, 0)
#define R(n)		     BPF_REG_##n
#define COUNT(a)	     (sizeof(a) / sizeof((a)[0]))

static inline int map_new(enum bpf_map_type type, const char *name, uint32_t key, uint32_t value, uint32_t entries, uint32_t flags)
{
	LIBBPF_OPTS(bpf_map_create_opts, o, .map_flags = flags);
	int fd = bpf_map_create(type, name, key, value, entries, &o);

	if (fd < 0 && errno == EPERM)
		skip("no right to use BPF (CAP_BPF, CAP_NET_ADMIN)");
	CHECK(fd >= 0, "map %s", name);
	return fd;
}

/* Return: the program, or -errno when the kernel does not take it; *log is what the verifier said */
static inline int prog_try(enum bpf_prog_type type, enum bpf_attach_type attach, const struct bpf_insn *insn, size_t n,
			   struct bpf_prog_load_opts *o, const char **ret_log)
{
	static char log[65536];
	int fd;

	o->expected_attach_type = attach;
	o->log_buf = log;
	o->log_size = sizeof(log);
	o->log_level = 1;
	log[0] = 0;
	fd = bpf_prog_load(type, "adit_test", "GPL", insn, n, o);
	*ret_log = log;
	return fd < 0 ? -errno : fd;
}

static inline int prog_new(enum bpf_prog_type type, enum bpf_attach_type attach, const struct bpf_insn *insn, size_t n)
{
	LIBBPF_OPTS(bpf_prog_load_opts, o);
	const char *log;
	int fd = prog_try(type, attach, insn, n, &o, &log);

	if (fd == -EPERM && !log[0])
		skip("no right to load this kind of BPF program (CAP_BPF, CAP_NET_ADMIN)");
	CHECK(fd >= 0, "program refused: %s\n%s", strerror(-fd), log);
	return fd;
}

/*
 * What send() on the first socket of a pair writes goes by TCP, or, while `on`, into the second socket's queue. Two sockmaps: only who is
 * in the first has the sk_msg program.
 */
struct sockmap {
	int senders, receivers, mode, prog;
};

static inline void sockmap_init(struct sockmap *m)
{
	uint32_t zero = 0;

	m->senders = map_new(BPF_MAP_TYPE_SOCKMAP, "senders", 4, 8, 2, 0);
	m->receivers = map_new(BPF_MAP_TYPE_SOCKMAP, "receivers", 4, 8, 2, 0);
	m->mode = map_new(BPF_MAP_TYPE_ARRAY, "mode", 4, 4, 1, 0);
	struct bpf_insn insn[] = {
		MOV(R(6), R(1)),
		STOREI(BPF_W, R(10), -4, 0),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		MAP(R(1), m->mode),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(R(0), 0, 9),
		LOAD(BPF_W, R(0), R(0), 0),
		JEQI(R(0), 0, 7),
		MOV(R(1), R(6)),
		MAP(R(2), m->receivers),
		MOVI(R(3), 0),
		MOVI(R(4), BPF_F_INGRESS),
		CALL(BPF_FUNC_msg_redirect_map),
		END(),
		MOVI(R(0), SK_PASS),
		END(),
	};

	m->prog = prog_new(BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT, insn, COUNT(insn));
	CHECK(!bpf_prog_attach(m->prog, m->senders, BPF_SK_MSG_VERDICT, 0), "attach");
	CHECK(!bpf_map_update_elem(m->mode, &zero, &zero, BPF_ANY), "mode");
}

static inline void sockmap_redirect(struct sockmap *m, bool on)
{
	uint32_t zero = 0, v = on;

	CHECK(!bpf_map_update_elem(m->mode, &zero, &v, BPF_ANY), "mode");
}

/* fd[0] is the sender, fd[1] the receiver; Return as bpf_map_update_elem() */
static inline int sockmap_put(int map, int fd)
{
	uint32_t zero = 0;
	uint64_t v = (uint64_t)fd;

	return bpf_map_update_elem(map, &zero, &v, BPF_ANY);
}

static inline void sockmap_pair(struct sockmap *m, int fd[2])
{
	tcp_pair(fd);
	CHECK(!sockmap_put(m->senders, fd[0]), "the sender into the sockmap");
	CHECK(!sockmap_put(m->receivers, fd[1]), "the receiver into the sockmap");
}
