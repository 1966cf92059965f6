/*
 * How connections end: each ending is played once through a relay that only relays and once joined, and what both applications see is
 * compared. The one difference known (docs/DATAPATH.md): an end that closes with redirected bytes unread sends FIN, not RST. The
 * agent killed: both applications see the end within milliseconds. A receiver that never reads stops the sender.
 */
#include "bpf/relay.h"

#define FRONT 7001
#define BACK  7000

struct trial {
	struct relay_sums *sums;
	struct relay_opts o;
	pid_t relay;
	int c, s;
};

static char buf[1 << 20];

static void trip(struct trial *t, size_t n)
{
	char got[1000];

	MUST(send(t->c, buf, n, MSG_NOSIGNAL));
	if (!read_exactly(t->s, got, n, LONG_MS))
		show(false, "the way there");
	MUST(send(t->s, buf, n, MSG_NOSIGNAL));
	if (!read_exactly(t->c, got, n, LONG_MS))
		show(false, "the way back");
}

static bool hasty;

static void start(struct trial *t, bool joined)
{
	int l = listen_on("127.0.0.1", BACK);

	*t = (struct trial){.sums = relay_sums()};
	t->o = (struct relay_opts){.ip = "127.0.0.1",
				   .to_ip = "127.0.0.1",
				   .port = FRONT,
				   .to = BACK,
				   .after = joined ? 2 : 0,
				   .cut = true,
				   .hasty = hasty,
				   .sums = t->sums,
				   .max = 4};
	t->relay = relay_start(&t->o);
	t->c = (int)MUST(connect_to("127.0.0.1", FRONT));
	t->s = (int)MUST(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	close(l);
	nodelay(t->c);
	nodelay(t->s);
	for (int i = 0; i < 200 && (i < 12 || t->sums->joins < joined); i++) {
		trip(t, 100);
		sleep_ms(1);
	}
	for (int i = 0; i < 6; i++)
		trip(t, 10); /* the gate changes over */
	if (t->sums->joins != joined)
		show(false, "%sjoined", joined ? "not " : "");
}

static void finish(struct trial *t)
{
	if (t->c >= 0)
		close(t->c);
	if (t->s >= 0)
		close(t->s);
	lab_kill(t->relay);
}

static void shut(int *fd)
{
	close(*fd);
	*fd = -1;
}

static void pieces(int fd, size_t n, size_t size)
{
	for (size_t at = 0; at < n; at += size)
		if (send(fd, buf, size, MSG_NOSIGNAL) != (ssize_t)size)
			show(false, "send: %s", strerror(errno));
}

/* all that comes, and how it ends */
static const char *drain(int fd, char out[80], bool count)
{
	const char *how = "nothing";
	size_t n = 0;

	for (;;) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t r = poll(&p, 1, 2000) == 1 ? recv(fd, buf, sizeof(buf), MSG_DONTWAIT) : -2;

		if (r <= 0) {
			how = r == -2 ? "nothing" : r == 0 ? "end of file" : strerror(errno);
			break;
		}
		n += (size_t)r;
	}
	snprintf(out, 80, count ? "%2$zu then %1$s" : "%s", how, n);
	return out;
}

/* how long can it still send? */
static const char *exhaust(int fd)
{
	for (int i = 0; i < 5000; i++) {
		if (send(fd, buf, 10, MSG_NOSIGNAL | MSG_DONTWAIT) < 0 && errno != EAGAIN)
			return errno == EPIPE || errno == ECONNRESET ? "an error" : strerror(errno);
		usleep(200);
	}
	return "no error";
}

static void client_closes(struct trial *t, char *said)
{
	char a[80];

	pieces(t->c, 10000, 500);
	shut(&t->c);
	sprintf(said, "server: %s, sends: ", drain(t->s, a, true));
	strcat(said, exhaust(t->s));
}

static void client_half_closes(struct trial *t, char *said)
{
	char a[80], b[80];

	pieces(t->c, 10000, 500);
	shutdown(t->c, SHUT_WR);
	drain(t->s, a, true);
	pieces(t->s, 12000, 500);
	shut(&t->s);
	sprintf(said, "server: %s, client: %s", a, drain(t->c, b, true));
}

static void server_half_closes(struct trial *t, char *said)
{
	char a[80], b[80];

	pieces(t->s, 10000, 500);
	shutdown(t->s, SHUT_WR);
	drain(t->c, a, true);
	pieces(t->c, 12000, 500);
	shutdown(t->c, SHUT_WR);
	sprintf(said, "client: %s, server: %s", a, drain(t->s, b, true));
}

static void server_resets(struct trial *t, char *said)
{
	char a[80];

	reset(t->s);
	t->s = -1;
	sprintf(said, "client: %s, sends: ", drain(t->c, a, false));
	strcat(said, exhaust(t->c));
}

static void client_resets(struct trial *t, char *said)
{
	char a[80];

	reset(t->c);
	t->c = -1;
	sprintf(said, "server: %s, sends: ", drain(t->s, a, false));
	strcat(said, exhaust(t->s));
}

static void server_closes(struct trial *t, char *said)
{
	char a[80];

	shut(&t->s);
	sprintf(said, "client: %s, sends: ", drain(t->c, a, true));
	strcat(said, exhaust(t->c));
}

/* the difference: only that nobody hangs, and that sending fails */
static void server_closes_unread(struct trial *t, char *said)
{
	char a[80];

	pieces(t->c, 10000, 500);
	sleep_ms(20);
	shut(&t->s);
	drain(t->c, a, false);
	sprintf(said, "client: %s, sends: ", strcmp(a, "nothing") ? "an end" : a);
	strcat(said, exhaust(t->c));
}

static void agent_killed_idle(struct trial *t, char *said)
{
	char a[80], b[80];

	lab_kill(t->relay);
	sprintf(said, "client: %s, server: %s, client sends: ", drain(t->c, a, true), drain(t->s, b, true));
	strcat(said, exhaust(t->c));
}

static void agent_killed_full(struct trial *t, char *said)
{
	char a[80], b[80];

	for (int i = 0; i < 20; i++) {
		pieces(t->c, 500, 500);
		pieces(t->s, 300, 300);
	}
	sleep_ms(50);
	lab_kill(t->relay);
	sprintf(said, "client: %s, server: %s, client sends: ", drain(t->c, a, true), drain(t->s, b, true));
	strcat(said, exhaust(t->c));
	strcat(said, ", server sends: ");
	strcat(said, exhaust(t->s));
}

static void revoked(struct trial *t, char *said)
{
	char a[80], b[80];

	t->sums->stop = 1;
	sprintf(said, "client: %s, server: %s", drain(t->c, a, false), drain(t->s, b, false));
}

static const struct {
	const char *name;
	void (*play)(struct trial *t, char *said);
} ending[] = {
	{"the client sends and closes", client_closes},
	{"the client sends and shuts down, the server answers and closes", client_half_closes},
	{"the server sends and shuts down, the client answers", server_half_closes},
	{"the server resets", server_resets},
	{"the client resets", client_resets},
	{"the server closes", server_closes},
	{"the server closes with bytes unread", server_closes_unread},
	{"the agent is killed", agent_killed_idle},
	{"the agent is killed with bytes queued both ways", agent_killed_full},
	{"the agent resets both", revoked},
};

/* ---- the agent killed under traffic: how long until both know ---- */

static void ping(void *arg)
{
	struct trial *t = arg;
	char b[64];

	close(t->s);
	while (send(t->c, buf, 64, MSG_NOSIGNAL) == 64 && read_exactly(t->c, b, 64, LONG_MS))
		;
}
static void pong(void *arg)
{
	struct trial *t = arg;
	char b[64];

	close(t->c);
	while (read_exactly(t->s, b, 64, LONG_MS) && send(t->s, buf, 64, MSG_NOSIGNAL) == 64)
		;
}
static void flood(void *arg)
{
	struct trial *t = arg;

	close(t->s);
	while (send(t->c, buf, 64, MSG_NOSIGNAL) == 64)
		usleep(20);
}
static void swallow(void *arg)
{
	struct trial *t = arg;

	close(t->c);
	while (recv(t->s, buf, sizeof(buf), 0) > 0)
		;
}

static void killed(const char *name, bool joined, void (*left)(void *), void (*right)(void *))
{
	uint64_t from, each[2];
	struct trial t;
	pid_t p[2];

	start(&t, joined);
	p[0] = lab_child(left, &t);
	p[1] = lab_child(right, &t);
	shut(&t.c);
	shut(&t.s);
	sleep_ms(200);
	from = now_us();
	kill(t.relay, SIGKILL);
	for (int i = 0; i < 2; i++) {
		waitpid(p[i], NULL, 0);
		each[i] = now_us() - from;
	}
	show(each[1] < 2000000, "%s, %s: the ends knew after %.1f and %.1f ms", name, joined ? "joined" : "relayed", (double)each[0] / 1e3,
	     (double)each[1] / 1e3);
	finish(&t);
}

static void never_reads(bool joined)
{
	uint64_t until = now_us() + 15000000, stuck = 0;
	size_t sent = 0, got = 0;
	struct trial t;
	bool full;

	start(&t, joined);
	nonblock(t.c, true);
	for (int i = 0; now_us() < until && (!stuck || now_us() - stuck < 500000); i++) {
		ssize_t r = send(t.c, buf, i & 1 ? 4000 : 40, MSG_NOSIGNAL);

		if (r > 0) {
			sent += (size_t)r;
			stuck = 0;
		} else {
			stuck = stuck ? stuck : now_us();
			sleep_ms(1);
		}
	}
	full = poll(&(struct pollfd){.fd = t.c, .events = POLLOUT}, 1, 0) == 0;
	while (got < sent) {
		struct pollfd p = {.fd = t.s, .events = POLLIN};
		ssize_t r = poll(&p, 1, LONG_MS) == 1 ? recv(t.s, buf, sizeof(buf), MSG_DONTWAIT) : -1;

		if (r <= 0)
			break;
		got += (size_t)r;
	}
	show(full && sent < 20000000 && got == sent, "a receiver that never reads stops the sender, %s: at %.1f MB, of which %.1f MB were there later",
	     joined ? "joined" : "relayed", (double)sent / 1e6, (double)got / 1e6);
	finish(&t);
}

/* single bytes: 65,536 of them unread would be 60 MB of the kernel's memory */
static void small_messages(void)
{
	uint64_t until = now_us() + 1500000;
	uint32_t mem[16] = {0};
	socklen_t n = sizeof(mem);
	struct trial t;

	start(&t, true);
	nonblock(t.c, true);
	for (int i = 0; i < 60000 && now_us() < until; i++)
		if (send(t.c, buf, 1, MSG_NOSIGNAL) < 0)
			break;
	getsockopt(t.s, SOL_SOCKET, 55 /* SO_MEMINFO */, mem, &n);
	show(mem[0] < 8 << 20, "single bytes, unread: the receiver is charged %u KB", mem[0] / 1024);
	finish(&t);
}

/*
 * A reader that waits for edges and takes a short read for the end, as tokio and nginx do: redirected bytes, and bytes that went by TCP
 * behind them, must never wait for it together. Without holding the latter back they do.
 */
static size_t edges_and_short_reads(void)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	AUTO_FD ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	size_t got = 0;
	struct trial t;
	ssize_t r;

	start(&t, true);
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, t.s, &ev));
	epoll_wait(ep, &ev, 1, 0);
	pieces(t.c, 100, 100);
	nonblock(t.c, true);
	MUST(send(t.c, buf, 90000, MSG_NOSIGNAL)); /* more than may wait redirected */
	sleep_ms(200);
	while (got < 90100 && epoll_wait(ep, &ev, 1, 1000) == 1)
		do {
			r = recv(t.s, buf, 16384, MSG_DONTWAIT);
			got += r > 0 ? (size_t)r : 0;
		} while (r == 16384);
	finish(&t);
	return got;
}

static void short_reads(void)
{
	size_t got = edges_and_short_reads();

	show(got == 90100, "edges and short reads: %zu of 90100 bytes", got);
	hasty = true;
	got = edges_and_short_reads();
	show(got < 90100, "edges and short reads, nothing held back: %zu of 90100 bytes, then none, as feared", got);
	hasty = false;
}

int main(void)
{
	lab_enter();
	lab_hold();
	for (size_t i = 0; i < ARRAY_LEN(ending); i++) {
		char said[2][400] = {0};

		for (int joined = 0; joined < 2; joined++) {
			struct trial t;

			start(&t, joined);
			ending[i].play(&t, said[joined]);
			finish(&t);
		}
		show(!strcmp(said[0], said[1]) && !strstr(said[1], "nothing"), "%s: %s", ending[i].name, said[1]);
		if (strcmp(said[0], said[1]))
			printf("# but relayed: %s\n", said[0]);
	}
	for (int joined = 0; joined < 2; joined++) {
		killed("the agent is killed while they talk", joined, ping, pong);
		killed("the agent is killed while one sends", joined, flood, swallow);
		never_reads(joined);
	}
	small_messages();
	short_reads();
	return lab_done();
}
