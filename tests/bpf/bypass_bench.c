/*
 * What the bypass gains and what it costs, variants side by side in one run, medians of several rounds. CPU is busy time of the whole
 * machine: figures mean something on a quiet one only.
 *
 * usage: bypass_bench [ROUNDS [SECONDS]]	without arguments: one quick round, so that this program keeps working
 */
/* vm: never */
#include "bpf/relay.h"

#define FRONT 7001
#define BACK  7000
#define MAX_LATENCIES 2000000

struct shared {
	_Atomic uint64_t n;
	_Atomic uint32_t stop, count;
	uint32_t ns[MAX_LATENCIES];
} *shared;

enum variant { DIRECT, RELAY, JOINED, RELAY2, JOINED2, LEG_PLAIN, LEG, SHORT_PLAIN, SHORT_ARMED, SHORT_DIRECT, SHORT_DIRECT_ARMED, VARIANTS };
static const struct {
	const char *name;
	uint32_t relays;
	bool bypass, join, leg, brief;
} variants[VARIANTS] = {
	[DIRECT] = {.name = "round trip, direct"},
	[RELAY] = {.name = "round trip, one relay", .relays = 1},
	[JOINED] = {.name = "round trip, one relay, joined", .relays = 1, .bypass = true, .join = true},
	[RELAY2] = {.name = "round trip, two agents", .relays = 2},
	[JOINED2] = {.name = "round trip, two agents, joined", .relays = 2, .bypass = true, .join = true},
	[LEG_PLAIN] = {.name = "one leg, plain", .leg = true},
	[LEG] = {.name = "one leg, bypassed", .leg = true, .bypass = true, .join = true},
	[SHORT_PLAIN] = {.name = "short connections, one relay", .relays = 1, .brief = true},
	[SHORT_ARMED] = {.name = "short connections, one relay, armed", .relays = 1, .bypass = true, .join = true, .brief = true},
	[SHORT_DIRECT] = {.name = "short connections, direct", .brief = true},
	[SHORT_DIRECT_ARMED] = {.name = "short connections, direct, armed", .bypass = true, .brief = true},
};

struct result {
	double p50, p99, cpu, rate;
};

static double cpu_busy(void) /* seconds */
{
	unsigned long long v[8] = {0};
	FILE *f = fopen("/proc/stat", "re");
	int n = fscanf(f, "cpu %llu %llu %llu %llu %llu %llu %llu", &v[0], &v[1], &v[2], &v[3], &v[4], &v[5], &v[6]);

	fclose(f);
	return n == 7 ? (double)(v[0] + v[1] + v[2] + v[5] + v[6]) / (double)sysconf(_SC_CLK_TCK) : 0;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* ---- the server: answers what it gets; it may be an agent whose leg is bypassed ---- */

static bool serve_as_leg, serve_with_bypass;

static void serve(void *arg)
{
	struct epoll_event ev[64], in = {.events = EPOLLIN};
	struct bypass_join *join = calloc(4096, sizeof(*join));
	uint32_t *reads = calloc(4096, sizeof(*reads));
	int l, ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	struct bypass *b = NULL;
	char buf[4096];

	(void)arg;
	if (serve_as_leg && serve_with_bypass)
		b = lab_bypass(NULL, NULL);
	l = listen_on("127.0.0.1", BACK);
	nonblock(l, true);
	in.data.fd = l;
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, l, &in));
	shared->count = 1;
	for (;;) {
		int n = epoll_wait(ep, ev, 64, -1);

		for (int i = 0; i < n; i++) {
			int fd = ev[i].data.fd;
			ssize_t r;

			if (fd == l) {
				while ((fd = accept4(l, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK)) >= 0) {
					nodelay(fd);
					in.data.fd = fd;
					epoll_ctl(ep, EPOLL_CTL_ADD, fd, &in);
				}
				continue;
			}
			r = recv(fd, buf, sizeof(buf), 0);
			if (r < 0 && errno == EAGAIN)
				continue;
			if (r <= 0 || send(fd, buf, (size_t)r, MSG_NOSIGNAL) != r) {
				if (b)
					bypass_leave(b, &join[fd]);
				join[fd] = (struct bypass_join){0};
				reads[fd] = 0;
				close(fd);
			} else if (b && ++reads[fd] > 3 && join[fd].state == BYPASS_NONE && join[fd].tries++ < 20) {
				bypass_join_leg(b, fd, &join[fd]);
			}
		}
	}
}

/* ---- the client ---- */

static uint16_t target;
static bool brief;

static void note(uint64_t from)
{
	uint64_t i = shared->n++;

	if (i < MAX_LATENCIES)
		shared->ns[i] = (uint32_t)(now_ns() - from);
}

static void talk(void *arg)
{
	struct epoll_event ev = {.events = EPOLLIN};
	int ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC)), fd;
	char buf[64] = {0};

	(void)arg;
	for (;;) {
		fd = (int)MUST(connect_to("127.0.0.1", target));
		nodelay(fd);
		nonblock(fd, true);
		if (!brief)
			MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
		for (;;) {
			uint64_t from = now_ns();

			if (send(fd, buf, 64, MSG_NOSIGNAL) != 64)
				exit(1);
			if (brief) {
				struct pollfd p = {.fd = fd, .events = POLLIN};

				poll(&p, 1, -1);
			} else {
				epoll_wait(ep, &ev, 1, -1);
			}
			if (recv(fd, buf, 64, 0) != 64)
				exit(1);
			note(from);
			if (brief)
				break;
		}
		close(fd);
	}
}

static int by_value(const void *a, const void *b)
{
	return (*(const uint32_t *)a > *(const uint32_t *)b) - (*(const uint32_t *)a < *(const uint32_t *)b);
}

static struct result measure(enum variant v, double seconds)
{
	struct relay_sums *sums = relay_sums();
	struct relay_opts o[2];
	pid_t relay[2], s, c;
	struct bypass *b = NULL;
	uint64_t from;
	double busy;
	struct result r;

	shared->n = shared->count = 0;
	serve_as_leg = variants[v].leg;
	serve_with_bypass = variants[v].bypass;
	brief = variants[v].brief;
	if (variants[v].bypass && !variants[v].relays && !variants[v].leg)
		b = lab_bypass(NULL, NULL);
	s = lab_child(serve, NULL);
	while (!shared->count)
		sleep_ms(1);
	for (uint32_t i = 0; i < variants[v].relays; i++) {
		o[i] = (struct relay_opts){.ip = "127.0.0.1",
					   .to_ip = "127.0.0.1",
					   .port = (uint16_t)(FRONT + i),
					   .to = (uint16_t)(BACK + i),
					   .after = variants[v].join ? 3 : 0,
					   .max = 64,
					   .no_bypass = !variants[v].bypass,
					   .sums = sums};
		relay[i] = relay_start(&o[i]);
	}
	target = (uint16_t)(BACK + variants[v].relays);
	c = lab_child(talk, NULL);
	sleep_ms(200);
	shared->n = 0;
	busy = cpu_busy();
	from = now_us();
	sleep_ms((unsigned)(seconds * 1000));
	r.rate = (double)shared->n / ((double)(now_us() - from) / 1e6);
	r.cpu = (cpu_busy() - busy) * 1e6 / (double)shared->n;
	lab_kill(c);
	lab_kill(s);
	for (uint32_t i = 0; i < variants[v].relays; i++)
		lab_kill(relay[i]);
	bypass_destroy(b);
	uint32_t n = (uint32_t)min_u64(shared->n, MAX_LATENCIES);
	qsort(shared->ns, n, sizeof(*shared->ns), by_value);
	r.p50 = n ? shared->ns[n / 2] / 1e3 : 0;
	r.p99 = n ? shared->ns[(uint64_t)n * 99 / 100] / 1e3 : 0;
	if (variants[v].join && !brief && !variants[v].leg && sums->joins != 1)
		show(false, "%s: not joined", variants[v].name);
	return r;
}

/* what an agent pays per connection that it joins */
static void join_cost(void)
{
	struct bypass *b = lab_bypass(NULL, NULL);
	uint64_t spent = 0;
	int l = listen_on("127.0.0.1", BACK), n = 300;

	for (int i = 0; i < n; i++) {
		int c = connect_to("127.0.0.1", BACK), s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
		struct bypass_at at[2];
		struct bypass_join j = {0};
		uint64_t from;

		nodelay(c);
		nodelay(s);
		from = now_ns();
		if (bypass_whereis(b, c, &at[0]) || bypass_whereis(b, s, &at[1]) || bypass_bind(b, &at[0], &at[1], 0, 0, (const int[2]){-1, -1}, 0, &j))
			show(false, "join");
		spent += now_ns() - from;
		bypass_leave(b, &j);
		close(c);
		close(s);
	}
	printf("# joining: %.1f us\n", (double)spent / n / 1e3);
	close(l);
	bypass_destroy(b);
}

static int by_double(const void *a, const void *b)
{
	return (*(const double *)a > *(const double *)b) - (*(const double *)a < *(const double *)b);
}
static double median(const struct result *r, int rounds, size_t member)
{
	double v[64];

	for (int i = 0; i < rounds; i++)
		memcpy(&v[i], (const char *)&r[i] + member, sizeof(double));
	qsort(v, (size_t)rounds, sizeof(*v), by_double);
	return v[rounds / 2];
}

static double cpu_own(void) /* us of this thread, what interrupts it and what it sends to itself included */
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

/* CPU of a whole short connection, both ends in one thread: says more on a busy machine than connections per second */
static double connection_cost(int n)
{
	int l = listen_on("127.0.0.1", BACK);
	double from = cpu_own();
	char buf[64] = {0};

	for (int i = 0; i < n; i++) {
		int c = connect_to("127.0.0.1", BACK), s = accept4(l, NULL, NULL, SOCK_CLOEXEC);

		for (int k = 0; k < 2; k++)
			if (send(k ? s : c, buf, 64, 0) != 64 || recv(k ? c : s, buf, 64, 0) != 64)
				exit(1);
		close(c);
		close(s);
	}
	from = cpu_own() - from;
	close(l);
	return from / n;
}

static void connection_costs(int rounds, int n)
{
	struct result plain[64], armed[64];
	for (int i = 0; i < rounds; i++) {
		plain[i].cpu = connection_cost(n);
		lab_hold();
		armed[i].cpu = connection_cost(n);
		lab_release();
	}
	printf("# CPU of a short connection, both ends: %.2f us, armed %.2f us\n", median(plain, rounds, offsetof(struct result, cpu)),
	       median(armed, rounds, offsetof(struct result, cpu)));
}

int main(int argc, char **argv)
{
	int rounds = argc > 1 ? atoi(argv[1]) : 1;
	double seconds = argc > 2 ? atof(argv[2]) : 0.3;
	static struct result r[VARIANTS][64];

	lab_enter();
	if (argc > 1 && !strcmp(argv[1], "connections")) {
		connection_costs(argc > 2 ? atoi(argv[2]) : 5, 10000);
		return 0;
	}
	rounds = rounds < 1 ? 1 : rounds > 64 ? 64 : rounds;
	shared = mmap(NULL, sizeof(*shared), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	for (int i = 0; i < rounds; i++)
		for (int v = 0; v < VARIANTS; v++)
			r[v][i] = measure((enum variant)v, seconds);
	for (int v = 0; v < VARIANTS; v++)
		printf("# %-38s p50 %6.1f us  p99 %6.1f us  CPU %6.1f us  %7.0f/s\n", variants[v].name,
		       median(r[v], rounds, offsetof(struct result, p50)), median(r[v], rounds, offsetof(struct result, p99)),
		       median(r[v], rounds, offsetof(struct result, cpu)), median(r[v], rounds, offsetof(struct result, rate)));
	join_cost();
	connection_costs(rounds, rounds > 1 ? 10000 : 500);
	show(r[JOINED][0].p50 < r[RELAY][0].p50, "joined is quicker than relayed");
	return lab_done();
}
