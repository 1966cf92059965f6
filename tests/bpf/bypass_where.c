/*
 * Wherever the ends are: IPv4, IPv6, IPv4-mapped, own addresses, other network namespaces; one leg alone, also one that reaches its
 * application through another agent; agents that come and go. Each is joined, bytes are checked, and the counters must have seen them.
 *
 * usage: bypass_where [quick]
 */
/* vm: quick */
#include "bpf/relay.h"

#define FRONT 7001
#define BACK  7000

static void trips(int c, int s, int n, const char *what)
{
	uint8_t out[300], in[300];

	for (int i = 0; i < n; i++) {
		for (int way = 0; way < 2; way++) {
			size_t len = 1 + (size_t)(i * 37 + way * 11) % sizeof(out);

			memset(out, i + way, sizeof(out));
			if (send(way ? s : c, out, len, MSG_NOSIGNAL) != (ssize_t)len || !read_exactly(way ? c : s, in, len, LONG_MS) ||
			    memcmp(in, out, len)) {
				show(false, "%s: bytes of round trip %d", what, i);
				return;
			}
		}
		if (i < 20)
			sleep_ms(1);
	}
}

static bool wait_for(const _Atomic uint64_t *what, uint64_t least)
{
	for (int i = 0; i < LONG_MS / 10 && *what < least; i++)
		sleep_ms(10);
	return *what >= least;
}

static void why(const struct relay_sums *s)
{
	for (uint32_t i = 0; i < BYPASS_WHYS; i++)
		if (s->refused[i])
			printf("# not joined: %s: %llu\n", bypass_why_str((enum bypass_why)i), (unsigned long long)s->refused[i]);
}

/* ---- addresses ---- */

static const struct {
	const char *name, *front, *dial, *back, *to;
} where[] = {
	{"127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1", "127.0.0.1"},
	{"other loopback addresses", "127.3.4.5", "127.3.4.5", "0.0.0.0", "127.9.9.9"},
	{"0.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0", "0.0.0.0"},
	{"::1", "::1", "::1", "::1", "::1"},
	{"IPv4 to listeners of both families", "::", "127.0.0.1", "::", "127.0.0.1"},
	{"IPv6 in, IPv4 out", "::1", "::1", "127.0.0.1", "127.0.0.1"},
	{"IPv4-mapped to IPv4 listeners", "127.0.0.1", "::ffff:127.0.0.1", "127.0.0.1", "::ffff:127.0.0.1"},
	{"own addresses", "10.9.9.9", "10.9.9.9", "fd00:9::9", "fd00:9::9"},
};

static void chain(const char *name, struct relay_opts o, int l, int client_ns, const char *dial)
{
	int back = -1, c, s;
	pid_t p;

	o.port = FRONT;
	o.to = BACK;
	o.after = 3;
	o.max = 4;
	o.sums = relay_sums();
	p = relay_start(&o);
	if (client_ns >= 0) {
		back = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		MUST(setns(client_ns, CLONE_NEWNET));
	}
	c = connect_to(dial, FRONT);
	if (back >= 0) {
		MUST(setns(back, CLONE_NEWNET));
		close(back);
	}
	s = c < 0 ? -1 : accept4(l, NULL, NULL, SOCK_CLOEXEC);
	if (s < 0) {
		show(false, "%s: no connection: %s", name, strerror(errno));
		lab_kill(p);
		return;
	}
	trips(c, s, 60, name);
	close(c);
	close(s);
	wait_for(&o.sums->redirected, 1);
	show(o.sums->joins == 1 && o.sums->redirected > 5000, "%s: %llu bytes redirected, %llu by TCP", name,
	     (unsigned long long)o.sums->redirected, (unsigned long long)o.sums->passed);
	why(o.sums);
	lab_kill(p);
}

static void addresses(bool quick)
{
	if (system("ip addr add 10.9.9.9/24 dev lo && ip -6 addr add fd00:9::9/64 dev lo nodad"))
		printf("# own addresses cannot be made\n");
	for (size_t i = 0; i < ARRAY_LEN(where); i += quick ? 3 : 1) {
		int l = listen_on(where[i].back, BACK);

		chain(where[i].name, (struct relay_opts){.ip = where[i].front, .to_ip = where[i].to}, l, -1, where[i].dial);
		close(l);
	}
}

/* ---- namespaces ---- */

static pid_t namespace_new(int *ret_fd)
{
	int to_us[2], to_it[2];
	char path[40], x;
	pid_t p;

	MUST(pipe2(to_us, 0));
	MUST(pipe2(to_it, 0));
	p = fork();
	MUST(p);
	if (p == 0) {
		close(to_it[1]);
		MUST(unshare(CLONE_NEWNET));
		loopback_up();
		if (write(to_us[1], "x", 1) != 1 || read(to_it[0], &x, 1) < 0)
			_exit(1);
		_exit(0);
	}
	close(to_us[1]);
	close(to_it[0]);
	MUST(read(to_us[0], &x, 1));
	close(to_us[0]);
	snprintf(path, sizeof(path), "/proc/%d/ns/net", p);
	*ret_fd = (int)MUST(open(path, O_RDONLY | O_CLOEXEC));
	return p; /* ends when we do */
}

static bool veth(const char *name, pid_t to, const char *here, const char *there)
{
	char cmd[600];

	snprintf(cmd, sizeof(cmd),
		 "ip link add %s type veth peer name p0 netns %d && ip addr add %s/24 dev %s && ip link set %s up && "
		 "nsenter -t %d -n ip addr add %s/24 dev p0 && nsenter -t %d -n ip link set p0 up",
		 name, to, here, name, name, to, there, to);
	return system(cmd) == 0;
}

static int listen_in(int ns, const char *ip, uint16_t port)
{
	int back = (int)MUST(open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC)), l;

	MUST(setns(ns, CLONE_NEWNET));
	l = listen_on(ip, port);
	MUST(setns(back, CLONE_NEWNET));
	close(back);
	return l;
}

static void client_elsewhere(void *arg)
{
	const int *pipe_fd = arg; /* [0] namespace, [1] where the socket goes to */
	struct msghdr m = {0};
	struct iovec v = {"x", 1};
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u = {0};
	int fd;

	MUST(setns(pipe_fd[0], CLONE_NEWNET));
	fd = (int)MUST(connect_to("10.77.1.1", FRONT));
	m.msg_iov = &v;
	m.msg_iovlen = 1;
	m.msg_control = u.buf;
	m.msg_controllen = sizeof(u.buf);
	u.align.cmsg_level = SOL_SOCKET;
	u.align.cmsg_type = SCM_RIGHTS;
	u.align.cmsg_len = CMSG_LEN(sizeof(int));
	memcpy(CMSG_DATA(&u.align), &fd, sizeof(fd));
	MUST(sendmsg(pipe_fd[1], &m, 0));
}

/* its maker is dead, so nobody knows the way to its namespace: relayed for ever, and nothing else happens */
static void unreachable(int ns, int l)
{
	struct relay_opts o = {.ip = "10.77.1.1", .to_ip = "10.77.2.2", .port = FRONT, .to = BACK, .after = 3, .max = 4, .sums = relay_sums()};
	union {
		char buf[CMSG_SPACE(sizeof(int))];
		struct cmsghdr align;
	} u;
	char x;
	struct iovec v = {&x, 1};
	struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = u.buf, .msg_controllen = sizeof(u.buf)};
	pid_t p = relay_start(&o), maker;
	int pair[2], arg[2], c, s;

	MUST(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair));
	arg[0] = ns;
	arg[1] = pair[1];
	maker = lab_child(client_elsewhere, arg);
	MUST(recvmsg(pair[0], &m, MSG_CMSG_CLOEXEC));
	waitpid(maker, NULL, 0);
	memcpy(&c, CMSG_DATA(&u.align), sizeof(c));
	s = (int)MUST(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	trips(c, s, 60, "unreachable namespace");
	show(o.sums->joins == 0 && o.sums->refused[BYPASS_WHY_NETNS] == 1, "a namespace that cannot be reached: refused, and relayed");
	why(o.sums);
	close(c);
	close(s);
	lab_kill(p);
}

struct apart {
	int ns;
	_Atomic int *up;
};

static void server_apart(void *arg)
{
	struct apart *a = arg;
	char buf[4096];
	ssize_t r;
	int l, fd;

	MUST(setns(a->ns, CLONE_NEWNET));
	l = listen_on("10.77.2.2", BACK);
	*a->up = 1;
	fd = (int)MUST(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	nonblock(fd, true);
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		poll(&p, 1, -1);
		r = recv(fd, buf, sizeof(buf), 0);
		if (r <= 0 || send(fd, buf, (size_t)r, MSG_NOSIGNAL) != r)
			return;
	}
}

static void echo(int fd, const char *what, int n);
static void client_apart(void *arg)
{
	struct apart *a = arg;

	MUST(setns(a->ns, CLONE_NEWNET));
	echo((int)MUST(connect_to("10.77.1.1", FRONT)), "other namespaces", 60);
	_exit(lab.failed);
}

/* both applications are processes that live in their namespaces */
static void apart(const int ns[2])
{
	struct relay_opts o = {.ip = "10.77.1.1", .to_ip = "10.77.2.2", .port = FRONT, .to = BACK, .after = 3, .max = 4, .sums = relay_sums()};
	_Atomic int *up = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct apart client = {.ns = ns[0], .up = up}, server = {.ns = ns[1], .up = up};
	pid_t relay = relay_start(&o), s = lab_child(server_apart, &server), c;
	int status;

	while (!*up)
		sleep_ms(1);
	c = lab_child(client_apart, &client);
	waitpid(c, &status, 0);
	wait_for(&o.sums->redirected, 1);
	show(status == 0 && o.sums->joins == 1 && o.sums->redirected > 5000,
	     "client and server in namespaces of their own: %llu bytes redirected, %llu by TCP", (unsigned long long)o.sums->redirected,
	     (unsigned long long)o.sums->passed);
	why(o.sums);
	lab_kill(s);
	lab_kill(relay);
}

static void namespaces(void)
{
	int ns[2], l;
	pid_t p[2] = {namespace_new(&ns[0]), namespace_new(&ns[1])};

	if (!veth("v1", p[0], "10.77.1.1", "10.77.1.2") || !veth("v2", p[1], "10.77.2.1", "10.77.2.2")) {
		printf("ok - other namespaces # SKIP no veth here\n");
		return;
	}
	l = listen_in(ns[1], "10.77.2.2", BACK);
	unreachable(ns[0], l);
	close(l);
	apart(ns);
	l = listen_in(ns[1], "127.0.0.1", BACK);
	chain("our sockets within the applications' namespaces",
	      (struct relay_opts){.listen_fd = listen_in(ns[0], "127.0.0.1", FRONT), .to_ip = "127.0.0.1", .to_netns = ns[1]}, l, ns[0],
	      "127.0.0.1");
	close(l);
	lab_kill(p[0]);
	lab_kill(p[1]);
}

/* ---- one leg: the agent itself is the other end ---- */

struct leg {
	struct relay_sums *sums;
	bool dials;	/* it connects to the application, which accepts */
	uint16_t port;
};

static void leg_run(void *arg)
{
	const struct leg *g = arg;
	struct bypass *b;
	struct bypass_join j = {0};
	struct bypass_counts n;
	uint64_t reads = 0;
	char buf[4096];
	ssize_t r;
	int fd;

	close_others(-1, -1);
	b = lab_bypass(NULL, NULL);
	if (!g->dials) {
		int l = listen_on("127.0.0.1", g->port);

		g->sums->up++;
		fd = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	} else {
		g->sums->up++;
		fd = (int)MUST(connect_to("127.0.0.1", g->port));
	}
	nodelay(fd);
	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};

		poll(&p, 1, -1);
		r = recv(fd, buf, sizeof(buf), MSG_DONTWAIT);
		if (r <= 0)
			break;
		if (++reads > 3 && j.state == BYPASS_NONE && j.tries < 50 && bypass_join_leg(b, fd, &j) < 0) {
			g->sums->refused[j.why]++;
			j.tries++;
		}
		if (send(fd, buf, (size_t)r, MSG_NOSIGNAL) != r)
			break;
	}
	if (j.state != BYPASS_NONE) {
		bypass_counts(b, &j, &n);
		/* the application's direction apart from ours: a mistake in the order would show */
		g->sums->redirected = n.bytes[g->dials];
		g->sums->passed = n.bytes[!g->dials];
		g->sums->legs = 1;
	}
	bypass_leave(b, &j);
	bypass_destroy(b);
}

static void echo(int fd, const char *what, int n)
{
	uint8_t out[300], in[300];

	for (int i = 0; i < n; i++) {
		size_t len = 1 + (size_t)(i * 37) % sizeof(out);

		memset(out, i, sizeof(out));
		if (send(fd, out, len, MSG_NOSIGNAL) != (ssize_t)len || !read_exactly(fd, in, len, LONG_MS) || memcmp(in, out, len)) {
			show(false, "%s: bytes of round trip %d", what, i);
			return;
		}
		if (i < 20)
			sleep_ms(1);
	}
}

static void legs(const char *name, bool dials, bool through)
{
	struct leg g = {.sums = relay_sums(), .dials = dials, .port = dials ? FRONT : BACK};
	struct relay_opts o = {.ip = "127.0.0.1", .to_ip = "127.0.0.1", .port = FRONT, .to = BACK, .after = 2, .max = 4, .injected = 20,
			       .sums = relay_sums()};
	int l = -1, fd;
	pid_t leg, relay = 0;

	if (dials)
		l = listen_on("127.0.0.1", through ? BACK : FRONT);
	if (through)
		relay = relay_start(&o);
	leg = lab_child(leg_run, &g);
	while (!g.sums->up)
		sleep_ms(1);
	fd = dials ? accept4(l, NULL, NULL, SOCK_CLOEXEC) : connect_to("127.0.0.1", through ? FRONT : BACK);
	MUST(fd);
	if (through) { /* what the relay puts in front */
		char q[20];

		if (!dials)
			MUST(send(fd, "hello", 5, 0)); /* and then the echo of both */
		if (!read_exactly(fd, q, 20, LONG_MS) || (!dials && !read_exactly(fd, q, 5, LONG_MS)))
			show(false, "%s: the bytes put in front", name);
	}
	echo(fd, name, 80);
	close(fd);
	waitpid(leg, NULL, 0);
	if (relay)
		lab_kill(relay);
	if (l >= 0)
		close(l);
	show(g.sums->legs && g.sums->redirected > 5000 && g.sums->passed > 5000,
	     "%s: %llu bytes redirected from the application, %llu to it", name, (unsigned long long)g.sums->redirected,
	     (unsigned long long)g.sums->passed);
	if (!g.sums->legs)
		why(g.sums);
}

/* ---- agents come and go ---- */

static void agents(void)
{
	struct relay_opts o[3];
	pid_t p[3];
	char path[200];
	int l = listen_on("127.0.0.1", BACK);

	for (int i = 0; i < 3; i++) {
		o[i] = (struct relay_opts){.ip = "127.0.0.1", .to_ip = "127.0.0.1", .port = (uint16_t)(FRONT + i), .to = BACK, .after = 3,
					   .max = 4, .sums = relay_sums(), .knobs = {.slots = 4}};
		if (i < 2)
			p[i] = relay_start(&o[i]);
	}
	/* one dies with a connection joined, and its slots with it: there are two pairs in all */
	int c0 = connect_to("127.0.0.1", FRONT), s0 = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	trips(c0, s0, 30, "first agent");
	show(o[0].sums->joins == 1, "the first agent joins");
	lab_kill(p[0]);
	close(c0);
	close(s0);
	p[2] = relay_start(&o[2]);
	int c[2], s[2];
	for (int i = 0; i < 2; i++) {
		c[i] = connect_to("127.0.0.1", (uint16_t)(FRONT + 1 + i));
		s[i] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		trips(c[i], s[i], 30, "other agents");
	}
	show(o[1].sums->joins == 1 && o[2].sums->joins == 1, "two more agents join, with the slots of the dead one");
	why(o[1].sums);
	why(o[2].sums);
	for (int i = 0; i < 2; i++) {
		close(c[i]);
		close(s[i]);
		o[1 + i].sums->stop = 1;
		waitpid(p[1 + i], NULL, 0);
	}
	snprintf(path, sizeof(path), "%s/bypass", lab.pin);
	show(access(path, F_OK) != 0, "the last agent takes pinned objects away");
	close(l);
}

/* ---- beside another bypass, whose programs see the same sockets and know nothing of us ---- */

static void with_stranger(const char *name, bool first)
{
	struct relay_opts o = {.ip = "127.0.0.1", .to_ip = "127.0.0.1", .port = FRONT, .to = BACK, .after = 3, .max = 4, .sums = relay_sums()};
	int l = listen_on("127.0.0.1", BACK), c, s;
	pid_t p = 0;

	lab.strange = true;
	if (!first)
		p = relay_start(&o);
	lab_hold();
	if (first)
		p = relay_start(&o);
	c = (int)MUST(connect_to("127.0.0.1", FRONT));
	s = (int)MUST(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	trips(c, s, 40, name);
	show(o.sums->joins == 1, "beside %s bypass: joined", name);
	why(o.sums);
	close(c);
	close(s);
	close(l);
	o.sums->stop = 1;
	waitpid(p, NULL, 0);
	lab_release();
	lab.strange = false;
}

int main(int argc, char **argv)
{
	bool quick = argc > 1 && !strcmp(argv[1], "quick");

	lab_enter();
	agents();
	if (!quick) {
		with_stranger("an older", true);
		with_stranger("a younger", false);
	}
	lab_hold();
	addresses(quick);
	legs("a leg, accepted", false, false);
	legs("a leg, dialled", true, false);
	legs("a leg, accepted, through another agent", false, true);
	legs("a leg, dialled, through another agent", true, true);
	namespaces();
	return lab_done();
}
