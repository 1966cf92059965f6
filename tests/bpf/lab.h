/*
 * Where the programs beside it work: a network and mount namespace of their own, a bpffs, a cgroup that programs are attached to, so that
 * nothing of the machine is touched and several can run at a time. Exit status 77: cannot be done here, the last line says why.
 * Output is TAP: ok()/bad() print one line per thing shown.
 */
#pragma once
#include "base/clean.h"
#include "kern/bypass_int.h"
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <net/if.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/wait.h>
#include <time.h>

/* time-outs are for what never takes that long, except in an emulated machine */
#define LONG_MS 20000

static struct lab {
	pid_t pid, holder;
	char bpffs[64], pin[80], cgroup[300], below[64];
	bool strange; /* the holder shares nothing with others */
	int failed, shown;
} lab;

static inline uint64_t now_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000 + (uint64_t)t.tv_nsec / 1000;
}

static inline void sleep_ms(unsigned ms)
{
	struct timespec t = {.tv_sec = ms / 1000, .tv_nsec = (long)(ms % 1000) * 1000000};

	nanosleep(&t, NULL);
}

static inline __attribute__((format(printf, 1, 2), noreturn)) void skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	exit(77);
}

static inline __attribute__((format(printf, 2, 3))) bool show(bool good, const char *fmt, ...)
{
	va_list ap;

	printf("%sok - ", good ? "" : "not ");
	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	lab.shown++;
	lab.failed += !good;
	return good;
}

/* what must work for anything to be shown */
#define MUST(what)                                                                                         \
	({                                                                                                 \
		long must_ = (long)(what);                                                                 \
		if (must_ < 0) {                                                                           \
			printf("Bail out! %s:%d: %s: %s\n", __FILE__, __LINE__, #what, strerror(errno));   \
			exit(1);                                                                           \
		}                                                                                          \
		must_;                                                                                     \
	})

static inline bool file_write(const char *path, const char *text)
{
	AUTO_FD fd = open(path, O_WRONLY | O_CLOEXEC);

	return fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);
}

static inline const char *cgroup2(void)
{
	static char path[256];
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], type[32];

	*path = '\0';
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %255s %31s", path, type) == 2 && !strcmp(type, "cgroup2"))
			break;
		else
			*path = '\0';
	if (f)
		fclose(f);
	return path;
}

static inline void lab_leave(void)
{
	char path[400];

	if (getpid() != lab.pid)
		return;
	if (lab.holder)
		kill(lab.holder, SIGKILL);
	while (waitpid(-1, NULL, lab.holder ? 0 : WNOHANG) > 0)
		;
	snprintf(path, sizeof(path), "%s/cgroup.procs", cgroup2());
	file_write(path, "0");
	for (int i = 0; i < 50 && rmdir(lab.cgroup) && errno == EBUSY; i++)
		sleep_ms(20);
	umount2(lab.bpffs, MNT_DETACH);
	rmdir(lab.bpffs);
}

static inline void loopback_up(void)
{
	struct ifreq r = {.ifr_name = "lo", .ifr_flags = IFF_UP};
	AUTO_FD s = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);

	MUST(ioctl(s, SIOCSIFFLAGS, &r));
	file_write("/proc/sys/net/ipv4/ip_local_port_range", "10000 65535");
	file_write("/proc/sys/net/ipv4/tcp_tw_reuse", "1");
}

static inline void lab_enter(void)
{
	struct rlimit files = {.rlim_cur = 20000, .rlim_max = 20000};
	char path[400];

	setvbuf(stdout, NULL, _IOLBF, 0);
	signal(SIGPIPE, SIG_IGN);
	lab.pid = getpid();
	if (geteuid() != 0)
		skip("root is needed");
	if (!*cgroup2())
		skip("no cgroup2 hierarchy is mounted");
	if (unshare(CLONE_NEWNET | CLONE_NEWNS))
		skip("no namespaces of our own: %s", strerror(errno));
	MUST(mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL));
	snprintf(lab.bpffs, sizeof(lab.bpffs), "/tmp/adit-lab-%d", lab.pid);
	snprintf(lab.pin, sizeof(lab.pin), "%s/adit", lab.bpffs);
	MUST(mkdir(lab.bpffs, 0700));
	snprintf(lab.below, sizeof(lab.below), "/adit-lab-%d", lab.pid);
	snprintf(lab.cgroup, sizeof(lab.cgroup), "%s%s", cgroup2(), lab.below);
	MUST(mkdir(lab.cgroup, 0755));
	atexit(lab_leave);
	if (mount("bpf", lab.bpffs, "bpf", 0, NULL))
		skip("bpffs cannot be mounted: %s", strerror(errno));
	snprintf(path, sizeof(path), "%s/cgroup.procs", lab.cgroup);
	if (!file_write(path, "0"))
		skip("cannot enter %s: %s", lab.cgroup, strerror(errno));
	loopback_up();
	setrlimit(RLIMIT_NOFILE, &files);
}

static inline int lab_done(void)
{
	if (!lab.shown)
		show(true, "nothing to show");
	return lab.failed != 0;
}

/* a process that dies with us */
static inline pid_t lab_child(void (*run)(void *arg), void *arg)
{
	pid_t parent = getpid(), p;

	fflush(stdout);
	p = fork();
	MUST(p);
	if (p)
		return p;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(1);
	run(arg);
	_exit(0);
}

static inline void lab_kill(pid_t p)
{
	kill(p, SIGKILL);
	waitpid(p, NULL, 0);
}

/* ---- the bypass ---- */

static struct cfg_who everybody;

static inline struct cfg_kernel lab_cfg(void)
{
	return (struct cfg_kernel){
		.bypass = {.enabled = true,
			   .allow = &everybody,
			   .n_allow = 1,
			   .evidence = SWITCH_OFF,
			   .legs = true,
			   .after = 3,
			   .queue_bytes = 65536,
			   .queue_messages = 64,
			   .bulk = 8 << 20},
		.pin = lab.pin,
		.cgroup = lab.below,
	};
}

static inline struct bypass *lab_bypass(const struct cfg_kernel *cfg, const struct bypass_knobs *knobs)
{
	struct cfg_kernel def = lab_cfg();
	struct bypass_knobs none = {0};
	struct bypass *b = NULL;
	struct err e = {0};

	if (bypass_create_with(&b, cfg ? cfg : &def, knobs ? knobs : &none, &e) < 0)
		skip("no bypass here: %s", e.msg);
	return b;
}

static inline void lab_wake(int sig)
{
	(void)sig;
}
static inline void lab_holder(void *arg)
{
	AUTO_FD ready = *(int *)arg;
	struct cfg_kernel cfg = lab_cfg();
	struct bypass *b;

	if (lab.strange)
		cfg.pin = NULL;
	b = lab_bypass(&cfg, &(struct bypass_knobs){.no_test = true});

	signal(SIGTERM, lab_wake);
	if (write(ready, "x", 1) == 1)
		pause();
	bypass_destroy(b);
}

/* an agent that does nothing: those that come later find the programs loaded, which takes seconds in an emulated machine */
static inline void lab_hold(void)
{
	int ready[2], status;
	char x;

	MUST(pipe2(ready, O_CLOEXEC));
	lab.holder = lab_child(lab_holder, &ready[1]);
	close(ready[1]);
	if (read(ready[0], &x, 1) != 1) {
		waitpid(lab.holder, &status, 0);
		exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
	}
	close(ready[0]);
}
static inline void lab_release(void)
{
	kill(lab.holder, SIGTERM);
	waitpid(lab.holder, NULL, 0);
	lab.holder = 0;
}

/* ---- sockets ---- */

static inline uint32_t rnd(uint64_t *state) /* xorshift; *state never 0 */
{
	*state ^= *state << 13;
	*state ^= *state >> 7;
	*state ^= *state << 17;
	return (uint32_t)(*state >> 16);
}
static inline uint32_t below(uint64_t *state, uint32_t n)
{
	return n ? rnd(state) % n : 0;
}

/* "127.0.0.1", "::1", "::ffff:127.0.0.1" */
static inline socklen_t sa_of(const char *ip, uint16_t port, struct sockaddr_storage *ret)
{
	struct sockaddr_in *a = (struct sockaddr_in *)ret;
	struct sockaddr_in6 *b = (struct sockaddr_in6 *)ret;

	memset(ret, 0, sizeof(*ret));
	if (inet_pton(AF_INET, ip, &a->sin_addr) == 1) {
		a->sin_family = AF_INET;
		a->sin_port = htons(port);
		return sizeof(*a);
	}
	if (inet_pton(AF_INET6, ip, &b->sin6_addr) != 1)
		exit(1);
	b->sin6_family = AF_INET6;
	b->sin6_port = htons(port);
	return sizeof(*b);
}

static inline int listen_on(const char *ip, uint16_t port)
{
	struct sockaddr_storage a;
	socklen_t n = sa_of(ip, port, &a);
	int fd = (int)MUST(socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0)), one = 1;

	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	MUST(bind(fd, (struct sockaddr *)&a, n));
	MUST(listen(fd, 4096));
	return fd;
}

static inline int connect_to(const char *ip, uint16_t port)
{
	struct sockaddr_storage a;
	socklen_t n = sa_of(ip, port, &a);
	int fd = socket(a.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&a, n)) {
		close(fd);
		return -1;
	}
	return fd;
}

static inline void nodelay(int fd)
{
	int one = 1;

	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
}

static inline void nonblock(int fd, bool on)
{
	int f = fcntl(fd, F_GETFL);

	fcntl(fd, F_SETFL, on ? f | O_NONBLOCK : f & ~O_NONBLOCK);
}

static inline void reset(int fd)
{
	struct linger l = {.l_onoff = 1};

	setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l));
	close(fd);
}

/* exactly @n bytes within @ms of silence each; false: end, error or time */
static inline bool read_exactly(int fd, void *buf, size_t n, int ms)
{
	for (size_t have = 0; have < n;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t r = poll(&p, 1, ms) == 1 ? recv(fd, (char *)buf + have, n - have, MSG_DONTWAIT) : -1;

		if (r <= 0)
			return false;
		have += (size_t)r;
	}
	return true;
}
