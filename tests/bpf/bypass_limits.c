/*
 * What must not be bypassed is not, and says why: ends that are not on the allow-list, by port, user, program and cgroup; sockets with
 * another upper layer protocol; TCP Fast Open; more than the maps hold; a reader that evidence speaks against. The kill switch. And what
 * the bypass says where it cannot be had: no rights, no bpffs, another version, a cgroup that is not ours or is removed.
 *
 * usage: bypass_limits [PART]
 */
/* vm: evidence */
#include "bpf/relay.h"
#include <bpf/bpf.h>
#include <linux/capability.h>
#include <sys/syscall.h>

#define FRONT 7001
#define BACK  7000
#ifndef IPPROTO_MPTCP
#define IPPROTO_MPTCP 262
#endif

struct ends {
	struct relay_opts o;
	struct cfg_kernel cfg;
	pid_t relay;
	int l, c, s;
};

static int dial_plain(void)
{
	return connect_to("127.0.0.1", FRONT);
}

static void round_trips(struct ends *e, int n)
{
	uint8_t out[200], in[200];

	for (int i = 0; i < n; i++)
		for (int way = 0; way < 2; way++) {
			memset(out, i, sizeof(out));
			if (send(way ? e->s : e->c, out, sizeof(out), MSG_NOSIGNAL) != sizeof(out) ||
			    !read_exactly(way ? e->c : e->s, in, sizeof(in), LONG_MS) || memcmp(in, out, sizeof(in))) {
				show(false, "bytes of round trip %d", i);
				return;
			}
			sleep_ms(1);
		}
}

static struct ends up(const struct cfg_who *allow, const struct bypass_knobs *knobs, int (*dial)(void))
{
	struct ends e = {.cfg = lab_cfg()};

	if (allow)
		e.cfg.bypass.allow = (struct cfg_who *)allow;
	e.l = listen_on("127.0.0.1", BACK); /* older than the bypass: who made it must be found out all the same */
	e.o = (struct relay_opts){
		.ip = "127.0.0.1", .to_ip = "127.0.0.1", .port = FRONT, .to = BACK, .after = 2, .max = 64, .sums = relay_sums(), .cfg = &e.cfg};
	if (knobs)
		e.o.knobs = *knobs;
	e.relay = relay_start(&e.o);
	e.c = (int)MUST(dial());
	e.s = (int)MUST(accept4(e.l, NULL, NULL, SOCK_CLOEXEC));
	round_trips(&e, 15);
	return e;
}

static void down(struct ends *e)
{
	close(e->c);
	close(e->s);
	close(e->l);
	e->o.sums->stop = 1;
	waitpid(e->relay, NULL, 0);
}

static void reasons(const struct relay_sums *s)
{
	for (uint32_t i = 0; i < BYPASS_WHYS; i++)
		if (s->refused[i])
			printf("# not joined: %s: %llu\n", bypass_why_str((enum bypass_why)i), (unsigned long long)s->refused[i]);
}

static bool expect(const struct ends *e, enum bypass_why want, const char *name)
{
	const struct relay_sums *s = e->o.sums;
	bool good = want == BYPASS_WHY_NONE ? s->joins == 1 : s->joins == 0 && s->refused[want] == 1;

	show(good, "%s: %s", name, want == BYPASS_WHY_NONE ? "joined" : bypass_why_str(want));
	if (!good)
		reasons(s);
	return good;
}

static void once(const struct cfg_who *allow, int (*dial)(void), enum bypass_why want, const char *name)
{
	struct ends e = up(allow, NULL, dial);

	expect(&e, want, name);
	down(&e);
}

/* ---- the allow-list ---- */

static void allow_list(void)
{
	char self[500] = {0};
	const char *const exe[] = {"/usr/bin/other", self}, *const none[] = {"/usr/bin/other"};
	const char *const cgroup[] = {"/other.slice", lab.below}, *const stranger[] = {"/other.slice", "/adit-lab"}, *const all[] = {"/"};
	struct cfg_ports back = {BACK, BACK}, front = {FRONT, FRONT}, other = {1, 6999};
	uint32_t uid = 0, nobody = 65534;

	lab_hold();
	MUST(readlink("/proc/self/exe", self, sizeof(self) - 1));
	once(&(struct cfg_who){.executables = (const char **)exe, .n_executables = 2}, dial_plain, BYPASS_WHY_NONE, "by program");
	once(&(struct cfg_who){.executables = (const char **)none, .n_executables = 1}, dial_plain, BYPASS_WHY_UNLISTED, "another program");
	once(&(struct cfg_who){.cgroups = (const char **)cgroup, .n_cgroups = 2}, dial_plain, BYPASS_WHY_NONE, "by cgroup");
	once(&(struct cfg_who){.cgroups = (const char **)stranger, .n_cgroups = 2}, dial_plain, BYPASS_WHY_UNLISTED, "another cgroup");
	once(&(struct cfg_who){.cgroups = (const char **)all, .n_cgroups = 1}, dial_plain, BYPASS_WHY_NONE, "the root cgroup");
	once(&(struct cfg_who){.uids = &uid, .n_uids = 1}, dial_plain, BYPASS_WHY_NONE, "by user");
	once(&(struct cfg_who){.uids = &nobody, .n_uids = 1}, dial_plain, BYPASS_WHY_UNLISTED, "another user");
	once(&(struct cfg_who){.ports = &back, .n_ports = 1}, dial_plain, BYPASS_WHY_NONE, "by the server's port");
	once(&(struct cfg_who){.ports = &front, .n_ports = 1}, dial_plain, BYPASS_WHY_NONE, "by the listener's port");
	once(&(struct cfg_who){.ports = &other, .n_ports = 1}, dial_plain, BYPASS_WHY_UNLISTED, "other ports");
	once(&(struct cfg_who){.ports = &back, .n_ports = 1, .uids = &nobody, .n_uids = 1}, dial_plain, BYPASS_WHY_UNLISTED,
	     "the port but not the user");
	lab_release();
}

/* ---- sockets that are left alone ---- */

static int dial_fast(void)
{
	struct sockaddr_storage a;
	socklen_t n = sa_of("127.0.0.1", FRONT, &a);
	int fd = (int)MUST(socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0)), on = 1;

	if (setsockopt(fd, IPPROTO_TCP, TCP_FASTOPEN_CONNECT, &on, sizeof(on)))
		printf("# no TCP Fast Open: %s\n", strerror(errno));
	nodelay(fd);
	MUST(connect(fd, (struct sockaddr *)&a, n));
	return fd;
}

/* the first connection gets the cookie, the second sends with its SYN, as the first of round_trips() finds out */
static void fast_open(void)
{
	struct ends e;
	int on = 5;

	file_write("/proc/sys/net/ipv4/tcp_fastopen", "1027"); /* both sides, for all listeners, and without cookies from clients */
	e = up(NULL, NULL, dial_fast);
	close(e.c);
	close(e.s);
	e.c = dial_fast();
	MUST(send(e.c, "hello", 5, MSG_NOSIGNAL));
	e.s = (int)MUST(accept4(e.l, NULL, NULL, SOCK_CLOEXEC));
	if (!read_exactly(e.s, &on, 1, LONG_MS) || !read_exactly(e.s, &on, 4, LONG_MS))
		show(false, "the first bytes");
	round_trips(&e, 15);
	show(e.o.sums->joins + e.o.sums->refused[BYPASS_WHY_REMOTE] == 2,
	     "TCP Fast Open: %llu of two connections joined, with every byte; the others relayed", (unsigned long long)e.o.sums->joins);
	down(&e);
	file_write("/proc/sys/net/ipv4/tcp_fastopen", "1");
}

static int dial_mptcp(void)
{
	struct sockaddr_storage a;
	socklen_t n = sa_of("127.0.0.1", FRONT, &a);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);

	if (fd >= 0)
		MUST(connect(fd, (struct sockaddr *)&a, n));
	return fd;
}

static int dial_ktls(void)
{
	int fd = (int)MUST(connect_to("127.0.0.1", FRONT));

	nodelay(fd);
	MUST(setsockopt(fd, IPPROTO_TCP, 31 /* TCP_ULP */, "tls", 4));
	return fd;
}

static bool has_ktls(void)
{
	int l = listen_on("127.0.0.1", BACK), c = connect_to("127.0.0.1", BACK);
	bool ok = setsockopt(c, IPPROTO_TCP, 31, "tls", 4) == 0;

	close(l);
	close(c);
	return ok;
}

static void left_alone(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, IPPROTO_MPTCP);

	lab_hold();
	if (fd >= 0) {
		close(fd);
		once(NULL, dial_mptcp, BYPASS_WHY_ULP, "MPTCP");
	} else {
		printf("ok - MPTCP # SKIP %s\n", strerror(errno));
	}
	if (has_ktls())
		once(NULL, dial_ktls, BYPASS_WHY_ULP, "kTLS");
	else
		printf("ok - kTLS # SKIP no tls module\n");
	fast_open();
	lab_release();
}

/* ---- full ---- */

static void full(const char *name, struct bypass_knobs knobs)
{
	struct ends e = up(NULL, &knobs, dial_plain), f = e;

	f.c = (int)MUST(dial_plain());
	f.s = (int)MUST(accept4(f.l, NULL, NULL, SOCK_CLOEXEC));
	round_trips(&f, 15);
	if (!show(e.o.sums->joins == 1 && e.o.sums->refused[BYPASS_WHY_FULL] == 1, "%s: one joined, the next one relayed", name))
		reasons(e.o.sums);
	round_trips(&e, 5);
	close(f.c);
	close(f.s);
	down(&e);
}

/* ---- the kill switch ---- */

static void kill_switch(void)
{
	struct ends e = up(NULL, NULL, dial_plain);
	struct bypass *b = lab_bypass(&e.cfg, NULL);
	uint64_t at[3];
	struct adit_slot sum;

	for (int i = 0; i < 3; i++) {
		bypass_switch(b, i != 1);
		round_trips(&e, 10);
		memset(&sum, 0, sizeof(sum));
		for (uint32_t k = 0; k < b->slots.n; k++)
			sum.messages += b->slots.at[k].messages;
		at[i] = sum.messages;
	}
	show(at[0] > 10 && at[1] == at[0] && at[2] > at[1] + 10, "the kill switch: %llu messages redirected, off: %llu more, on: %llu more",
	     (unsigned long long)at[0], (unsigned long long)(at[1] - at[0]), (unsigned long long)(at[2] - at[1]));
	bypass_destroy(b);
	down(&e);
}

/* ---- evidence ---- */

static void evidence(void)
{
	struct cfg_kernel cfg = lab_cfg();
	struct bypass_info info;
	struct bypass *b;
	struct ends e;
	char in[64];
	int pipe_fd[2];

	cfg.bypass.evidence = SWITCH_AUTO;
	b = lab_bypass(&cfg, NULL);
	bypass_info(b, &info);
	if (!info.evidence) {
		printf("ok - evidence # SKIP this kernel cannot watch tcp_bpf_recvmsg\n");
		bypass_destroy(b);
		return;
	}
	/* our sockets would be an agent's, if the bypass were ours for longer than that */
	bypass_destroy(b);
	for (int how = 0; how < 2; how++) {
		e = (struct ends){.cfg = cfg};
		e.l = listen_on("127.0.0.1", BACK);
		e.o = (struct relay_opts){.ip = "127.0.0.1", .to_ip = "127.0.0.1", .port = FRONT, .to = BACK, .after = 2, .max = 4,
					  .sums = relay_sums(), .cfg = &e.cfg};
		e.relay = relay_start(&e.o);
		e.c = (int)MUST(dial_plain());
		e.s = (int)MUST(accept4(e.l, NULL, NULL, SOCK_CLOEXEC));
		round_trips(&e, 20);
		b = lab_bypass(&e.cfg, &(struct bypass_knobs){.no_test = true});
		uint64_t before = 0, after = 0, refused = 0;
		for (uint32_t k = 0; k < b->slots.n; k += 2)
			before += b->slots.at[k].messages;
		MUST(pipe(pipe_fd));
		MUST(send(e.c, "0123456789", 10, MSG_NOSIGNAL));
		/* the reader does what cannot work; once, and it is found out by it */
		sleep_ms(20);
		nonblock(e.s, true);
		ssize_t r = how ? splice(e.s, NULL, pipe_fd[1], NULL, 10, SPLICE_F_NONBLOCK) : recv(e.s, in, 10, MSG_WAITALL | MSG_DONTWAIT);
		if (r < 10)
			r = recv(e.s, in, 10, MSG_DONTWAIT);
		for (int i = 0; i < 8; i++) {
			MUST(send(e.c, "0123456789", 10, MSG_NOSIGNAL));
			if (!read_exactly(e.s, in, 10, LONG_MS))
				show(false, "bytes after it was found out");
			sleep_ms(2);
		}
		for (uint32_t k = 0; k < b->slots.n; k += 2) {
			after += b->slots.at[k].messages;
			refused += b->slots.at[k].refused[ADIT_NO_EVIDENCE];
		}
		show(before > 3 && after <= before + 1 && refused >= 8, "evidence: %llu messages redirected to a plain reader, %llu more after it "
		     "used %s", (unsigned long long)before, (unsigned long long)(after - before), how ? "splice" : "MSG_WAITALL");
		bypass_destroy(b);
		close(pipe_fd[0]);
		close(pipe_fd[1]);
		down(&e);
	}
}

/* ---- where it cannot be had ---- */

static int try(const struct cfg_kernel *cfg, struct err *e)
{
	struct bypass *b = NULL;
	int r = bypass_create(&b, cfg, e);

	bypass_destroy(b);
	return r;
}

static void no_rights(void *arg)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {{0}};
	struct cfg_kernel cfg = lab_cfg();
	struct err e = {0};
	int r;

	(void)arg;
	MUST(syscall(SYS_capset, &h, none));
	cfg.pin = NULL;
	r = try(&cfg, &e);
	_exit(show(r < 0 && strstr(e.msg, "CAP_BPF"), "without rights: %s", e.msg) ? 0 : 1);
}

static void sentences(void)
{
	struct cfg_kernel cfg = lab_cfg();
	struct bypass_info info;
	struct bypass *b, *c = NULL;
	struct err e = {0};
	char path[400];
	int status;

	waitpid(lab_child(no_rights, NULL), &status, 0);
	lab.shown++;
	lab.failed += status != 0;

	cfg.pin = "/tmp/adit-not-there/adit";
	b = lab_bypass(&cfg, NULL);
	bypass_info(b, &info);
	show(!info.shared && *info.unshared, "no such folder: it works alone: %s", info.unshared);
	bypass_destroy(b);
	cfg.pin = "/tmp/adit";
	b = lab_bypass(&cfg, NULL);
	bypass_info(b, &info);
	show(strstr(info.unshared, "no bpffs") && access("/tmp/adit/bypass", F_OK), "no bpffs: it works alone: %s", info.unshared);
	bypass_destroy(b);
	cfg.pin = NULL;
	b = lab_bypass(&cfg, NULL);
	bypass_info(b, &info);
	show(!*info.unshared && !info.shared, "pin: none works alone");
	bypass_destroy(b);

	cfg = lab_cfg();
	cfg.cgroup = "/adit-not-there";
	show(try(&cfg, &e) < 0 && strstr(e.msg, "not below"), "another cgroup: %s", e.msg);

	cfg = lab_cfg();
	b = lab_bypass(&cfg, NULL);
	b->obj.node->abi++;
	/* the process that holds it lives: it is us */
	pid_t other = fork();
	MUST(other);
	if (other == 0)
		_exit(show(try(&cfg, &e) == -EBUSY && strstr(e.msg, "another version"), "another version: %s", e.msg) ? 0 : 1);
	waitpid(other, &status, 0);
	lab.failed += status != 0;
	/* it dies without a word: what it left is no longer in the way */
	other = fork();
	MUST(other);
	if (other == 0) {
		snprintf(path, sizeof(path), "%s/bypass/agents", lab.pin);
		uint32_t us = b->obj.tgid;
		bpf_map_delete_elem(bpf_obj_get(path), &us);
		int r = bypass_create(&c, &cfg, &e);
		if (r == 0)
			bypass_info(c, &info);
		_exit(show(r == 0 && !info.shared, "what a dead agent of another version left is replaced%s%s", r ? ": " : "", r ? e.msg : "") ? 0 : 1);
	}
	waitpid(other, &status, 0);
	lab.failed += status != 0;
	bypass_destroy(b);

	snprintf(path, sizeof(path), "%s/below", lab.cgroup);
	MUST(mkdir(path, 0755));
	snprintf(path, sizeof(path), "%s/below/cgroup.procs", lab.cgroup);
	MUST(file_write(path, "0") ? 0 : -1);
	snprintf(path, sizeof(path), "%s/below", lab.below);
	cfg = lab_cfg();
	cfg.cgroup = path;
	b = lab_bypass(&cfg, NULL);
	bypass_info(b, &info);
	bool before = info.attached;
	char back[400];
	snprintf(back, sizeof(back), "%s/cgroup.procs", lab.cgroup);
	MUST(file_write(back, "0") ? 0 : -1);
	snprintf(back, sizeof(back), "%s/below", lab.cgroup);
	MUST(rmdir(back));
	for (int i = 0; i < 200 && info.attached; i++) { /* the kernel detaches later */
		sleep_ms(10);
		bypass_info(b, &info);
	}
	show(before && !info.attached, "the cgroup removed: said");
	bypass_destroy(b);
}

static void all_full(void)
{
	full("few slots", (struct bypass_knobs){.slots = 2});
	full("a small sockhash", (struct bypass_knobs){.socks = 3});
}

static const struct {
	const char *name;
	void (*run)(void);
} parts[] = {
	{"allow", allow_list}, {"alone", left_alone}, {"full", all_full}, {"switch", kill_switch}, {"evidence", evidence}, {"sentences", sentences},
};

int main(int argc, char **argv)
{
	lab_enter();
	for (size_t i = 0; i < ARRAY_LEN(parts); i++)
		if (argc < 2 || !strcmp(argv[1], parts[i].name))
			parts[i].run();
	return lab_done();
}
