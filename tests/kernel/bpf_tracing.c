/*
 * What watches how programs read (evidence mode) and reads a peer's socket without a helper call per member: whether this kernel lets
 * programs be put at the entry of tcp_bpf_recvmsg and tcp_splice_read (fentry: CONFIG_FUNCTION_TRACER with direct calls, BTF), whether
 * such a program then runs; whether bpf_rdonly_cast() is there (6.2) and may be called from sk_msg; whether a program can walk the open
 * files of all tasks (to find sockets that are older than it). A kernel that is locked down says EPERM to all kinds of tracing. What is
 * there is used, and done without if not. bpf/bypass.bpf.c. Source: kernel/bpf/trampoline.c; kernel/bpf/helpers.c.
 */
/* link: -lbpf */
#include "bpf.h"

static struct btf *vmlinux;

static int32_t id_of(const char *function)
{
	return btf__find_by_name_kind(vmlinux, function, BTF_KIND_FUNC);
}

/* counts its calls in @hits. Return: the link, or -errno; what it was that failed goes to *what */
static int at_entry(const char *function, int hits, const char **what)
{
	struct bpf_insn insn[] = {
		STOREI(BPF_W, R(10), -4, 0),
		MAP(R(1), hits),
		MOV(R(2), R(10)),
		ADDI(R(2), -4),
		CALL(BPF_FUNC_map_lookup_elem),
		JEQI(R(0), 0, 2),
		MOVI(R(1), 1),
		INSN(BPF_STX | BPF_ATOMIC | BPF_DW, R(0), R(1), 0, BPF_ADD),
		MOVI(R(0), 0),
		END(),
	};
	LIBBPF_OPTS(bpf_prog_load_opts, o);
	const char *log;
	int32_t id = id_of(function);
	int prog, link;

	*what = "not in the kernel's BTF";
	if (id < 0)
		return -ENOENT;
	o.attach_btf_id = (uint32_t)id;
	prog = prog_try(BPF_PROG_TYPE_TRACING, BPF_TRACE_FENTRY, insn, COUNT(insn), &o, &log);
	*what = "load";
	if (prog < 0)
		return prog;
	link = bpf_raw_tracepoint_open(NULL, prog);
	*what = "attach";
	return link < 0 ? -errno : link;
}

static void evidence(void)
{
	int hits = map_new(BPF_MAP_TYPE_ARRAY, "hits", 4, 8, 1, BPF_F_MMAPABLE), link, fd[2];
	struct sockmap m;
	const char *what;
	uint32_t zero = 0;
	uint64_t n = 0;
	char b[8];

	link = at_entry("tcp_bpf_recvmsg", hits, &what);
	if (link < 0) {
		found("fentry on tcp_bpf_recvmsg: no (%s: %s)", what, strerror(-link));
		return;
	}
	sockmap_init(&m);
	sockmap_pair(&m, fd);
	CHECK(send(fd[0], "hello", 5, 0) == 5 && recv(fd[1], b, sizeof(b), 0) == 5, "a socket in a sockmap");
	CHECK(!bpf_map_lookup_elem(hits, &zero, &n) && n == 1, "%llu calls seen, not 1", (unsigned long long)n);
	close(fd[0]);
	close(fd[1]);
	tcp_pair(fd);
	CHECK(send(fd[0], "hello", 5, 0) == 5 && recv(fd[1], b, sizeof(b), 0) == 5, "a socket in none");
	CHECK(!bpf_map_lookup_elem(hits, &zero, &n) && n == 1, "sockets in no sockmap are concerned, too");
	link = at_entry("tcp_splice_read", hits, &what);
	found("fentry on tcp_bpf_recvmsg: yes, on tcp_splice_read: %s", link < 0 ? what : "yes");
	close(fd[0]);
	close(fd[1]);
}

static void casts(void)
{
	int32_t cast = id_of("bpf_rdonly_cast"), sock = btf__find_by_name_kind(vmlinux, "sock", BTF_KIND_STRUCT);
	LIBBPF_OPTS(bpf_prog_load_opts, o);
	const char *log;
	int prog;
	/* a member of this socket, and the same by bpf_rdonly_cast() of its address */
	struct bpf_insn insn[] = {
		LOAD(BPF_DW, R(1), R(1), offsetof(struct sk_msg_md, sk)),
		JEQI(R(1), 0, 5),
		CALL(BPF_FUNC_skc_to_tcp_sock),
		JEQI(R(0), 0, 3),
		MOV(R(1), R(0)),
		MOVI(R(2), sock),
		INSN(BPF_JMP | BPF_CALL, 0, BPF_PSEUDO_KFUNC_CALL, 0, cast),
		MOVI(R(0), SK_PASS),
		END(),
	};

	if (cast < 0) {
		found("bpf_rdonly_cast(): no");
		return;
	}
	prog = prog_try(BPF_PROG_TYPE_SK_MSG, BPF_SK_MSG_VERDICT, insn, COUNT(insn), &o, &log);
	found("bpf_rdonly_cast(): yes; in sk_msg: %s", prog >= 0 ? "yes" : strerror(-prog));
}

/* walks the open files of all tasks: sockets that are older than the program */
static void iterator(void)
{
	struct bpf_insn insn[] = {MOVI(R(0), 0), END()};
	LIBBPF_OPTS(bpf_prog_load_opts, o);
	int32_t id = id_of("bpf_iter_task_file");
	const char *log;
	int prog, link, it;
	char b[8];

	CHECK(id > 0, "no iterator over files");
	o.attach_btf_id = (uint32_t)id;
	prog = prog_try(BPF_PROG_TYPE_TRACING, BPF_TRACE_ITER, insn, COUNT(insn), &o, &log);
	if (prog < 0) {
		found("iter/task_file: no (load: %s)", strerror(-prog));
		return;
	}
	link = bpf_link_create(prog, 0, BPF_TRACE_ITER, NULL);
	CHECK(link >= 0, "iter/task_file: link");
	it = bpf_iter_create(link);
	CHECK(it >= 0 && read(it, b, sizeof(b)) == 0, "iter/task_file: run");
	found("iter/task_file: yes");
}

int main(void)
{
	vmlinux = btf__load_vmlinux_btf();
	if (!vmlinux)
		skip("no BTF of the kernel (CONFIG_DEBUG_INFO_BTF)");
	evidence();
	casts();
	iterator();
	btf__free(vmlinux);
	return 0;
}
