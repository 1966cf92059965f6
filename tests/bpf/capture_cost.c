/*
 * What capture costs a connection: connect(), accept(), close() on loopback, without programs, with programs that let it pass, and
 * captured, with the claim. CPU time of both processes (getrusage(2)), variants by turns; the lowest of the rounds is the one that other
 * programs of the machine disturbed least. That each captured connection is claimed with the right address is checked on the way.
 *
 * usage: capture_cost [ROUNDS [CONNECTIONS]]	without arguments: quick, so that this program keeps working
 */
/* vm: never */
#include "kernel/cgroup.h"
#include "kern/capture.h"
#include <sys/resource.h>

enum variant { BARE, PASSED, CAPTURED, VARIANTS };
static const char *const names[VARIANTS] = {"no programs", "let pass", "captured"};

static int sock[2]; /* the listener that captures; another one */

static int listener_fd(void *arg, uint32_t i, uint32_t w)
{
	(void)arg, (void)w;
	return sock[i];
}

static double cpu_us(void)
{
	double us = 0;

	for (int who = 0; who < 2; who++) {
		struct rusage u;

		getrusage(who ? RUSAGE_CHILDREN : RUSAGE_SELF, &u);
		us += (double)(u.ru_utime.tv_sec + u.ru_stime.tv_sec) * 1e6 + (double)(u.ru_utime.tv_usec + u.ru_stime.tv_usec);
	}
	return us;
}

/* an application: @n connections to @port of @ip + the connection's number modulo 250 */
static void connects(uint32_t ip, uint16_t port, int n, bool spread)
{
	for (int i = 0; i < n; i++) {
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(ip + (spread ? (uint32_t)i % 250 : 0))};
		struct linger reset = {1, 0}; /* no TIME_WAIT */
		int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)))
			_exit(1);
		setsockopt(fd, SOL_SOCKET, SO_LINGER, &reset, sizeof(reset));
		close(fd);
	}
	_exit(0);
}

/* Return: us of CPU per connection, of both sides */
static double measure(enum variant v, int n, struct capture *c, const struct cfg_listener *l)
{
	int at = v == PASSED, fd = sock[at];
	uint16_t port = port_of(fd);
	double before = cpu_us();
	pid_t p;
	int status;

	fflush(stdout);
	p = fork();
	CHECK(p >= 0, "fork");
	if (!p)
		connects(v == CAPTURED ? 0x0a630001u : INADDR_LOOPBACK, v == CAPTURED ? 80 : port, n, v == CAPTURED);
	for (int i = 0; i < n; i++) {
		struct sockaddr_storage sa;
		socklen_t len = sizeof(sa);
		struct addr peer, local;
		struct capture_claim claim;
		int s = accept4(fd, (struct sockaddr *)&sa, &len, SOCK_CLOEXEC);

		CHECK(s >= 0, "accept");
		addr_from_sa((struct sockaddr *)&sa, &peer);
		len = sizeof(sa);
		CHECK(!getsockname(s, (struct sockaddr *)&sa, &len), "getsockname");
		addr_from_sa((struct sockaddr *)&sa, &local);
		if (v == CAPTURED) {
			int r = capture_claim(c, l, &peer, &local, &claim);

			CHECK(r == 0, "connection %d: claim: %s", i, strerror(-r));
			CHECK(claim.to.port == 80 && claim.to.ip[0] == 10 && claim.to.ip[1] == 99 && claim.to.ip[3] == 1 + i % 250,
			      "connection %d wanted elsewhere", i);
			CHECK(claim.uid == getuid() && claim.cgroup, "connection %d: uid %u, cgroup %llu", i, claim.uid,
			      (unsigned long long)claim.cgroup);
		}
		close(s);
	}
	CHECK(waitpid(p, &status, 0) == p && status == 0, "the application");
	return (cpu_us() - before) / n;
}

static int cmp(const void *a, const void *b)
{
	double d = *(const double *)a - *(const double *)b;

	return d < 0 ? -1 : d > 0;
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 3, n = argc > 2 ? atoi(argv[2]) : 300;
	struct cidr to = {.net = {.family = AF_INET, .ip = {10, 99}}, .bits = 16};
	struct cfg_capture cap = {.to = &to, .n_to = 1};
	struct cfg_listener l[2] = {{.name = "captures", .id = 0, .capture = &cap}, {.name = "other", .id = 1}};
	struct config cfg = {.node.id = "cost", .listeners = l, .n_listeners = 2, .kernel.orphan_ms = 30000};
	double us[VARIANTS][100];
	struct capture *c = NULL;
	struct err e = {""};
	const char *path;

	CHECK(rounds > 0 && rounds <= 100 && n > 0, "usage: capture_cost [ROUNDS [CONNECTIONS]]");
	cgroup_enter();
	path = strrchr(cgroup_dir, '/');
	cap.who = (struct cfg_who){.cgroups = &path, .n_cgroups = 1};
	for (int i = 0; i < 2; i++) {
		sock[i] = listener(0, false);
		l[i].address = (struct addr){.family = AF_INET, .ip = {127, 0, 0, 1}, .port = port_of(sock[i])};
	}
	for (int i = 0; i < rounds; i++) {
		us[BARE][i] = measure(BARE, n, NULL, NULL);
		if (capture_create(&c, &cfg, listener_fd, NULL, &e) < 0)
			skip("%s", e.msg);
		us[PASSED][i] = measure(PASSED, n, c, NULL);
		us[CAPTURED][i] = measure(CAPTURED, n, c, &l[0]);
		capture_destroy(c, false);
	}
	for (int v = 0; v < VARIANTS; v++) {
		qsort(us[v], (size_t)rounds, sizeof(us[v][0]), cmp);
		printf("# %-12s %6.1f us of CPU per connection (%+.1f), median %.1f\n", names[v], us[v][0], us[v][0] - us[BARE][0],
		       us[v][rounds / 2]);
	}
	printf("ok 1 - every captured connection is claimed, with its address\n");
	return 0;
}
