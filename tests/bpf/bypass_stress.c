/*
 * Every byte, in order, both ways: many connections through one to three relays that join them at random moments, with random sizes,
 * stalls, half-closes, resets, gates opened and closed in mid-stream, the kill switch toggled, demotion. A wrong byte, a missing one, an
 * end that never comes are counted and shown. The control has the order rule off: if it does not fail, the rest means nothing.
 *
 * usage: bypass_stress [CONNECTIONS [AT-A-TIME [SEED]]]	one run of the whole mix instead of the short ones, with figures
 */
/* vm: 60 4 7 */
#include "bpf/relay.h"

#define TABLE (1u << 20)
#define MAGIC 0x1234567890abcdefull

static uint8_t table[2 * TABLE]; /* no stream is longer than half of it */

/* ---- one end of one connection ---- */

struct head {
	uint64_t magic;
	uint32_t seed, client_len, server_len, flags;
};
enum { ABORT = 1, SERVER_ABORTS = 2, CHATTY = 4 /* small messages, each after one came: what the gate lets through */ };

struct end {
	int fd; /* -1: free */
	bool server, edge, readable, writable, shut, eof, aborts;
	struct head head;
	size_t head_at, skipped, sent, send_len, got, get_len, abort_at, answered /* got, when it last sent */;
	uint64_t read_stall, write_stall, started; /* us */
};

struct tally {
	_Atomic uint64_t done, bytes, bad, hung, aborted;
	_Atomic uint32_t stop;
};

struct run {
	uint32_t n, at_a_time, relays, taken, injected;
	uint64_t seed, bulk;
	bool no_order, small, switches;
	struct tally *t;
};
#define PORT 7000

static const struct run *run;
static uint64_t state = 1;

static uint32_t any(uint32_t n)
{
	return below(&state, n);
}

static uint32_t stream_len(void)
{
	uint32_t r = any(100), cut = run->small ? 4 : 1;

	return r < 6 ? 0 : r < 30 ? any(2000) : r < 75 ? any(150000 / cut) : any(400000 / cut);
}

static uint32_t message_len(const struct end *e)
{
	uint32_t r = any(100);

	if (e->head.flags & CHATTY && r < 98)
		return 1 + any(900);
	return 1 + (r < 50 ? any(200) : r < 90 ? any(4000) : r < 98 ? any(40000) : any(300000));
}

static void bad(const struct end *e, const char *what)
{
	if (run->t->bad++ < 8 && !run->no_order)
		printf("# %s: %s: sent %zu of %zu, received %zu of %zu, end of file %d, shut %d, flags %u: %s\n",
		       e->server ? "server" : "client", what, e->sent, e->send_len, e->got, e->get_len, e->eof, e->shut,
		       e->head.flags, strerror(errno));
}

static const uint8_t *sends(const struct end *e, size_t at)
{
	return table + (e->server ? e->head.seed * 7 : e->head.seed) % TABLE + at;
}
static const uint8_t *gets(const struct end *e, size_t at)
{
	return table + (e->server ? e->head.seed : e->head.seed * 7) % TABLE + at;
}

static void set_up(struct end *e)
{
	e->send_len = e->server ? e->head.server_len : e->head.client_len;
	e->get_len = e->server ? e->head.client_len : e->head.server_len;
	e->aborts = e->head.flags & ABORT && !!(e->head.flags & SERVER_ABORTS) == e->server;
	e->abort_at = any((uint32_t)(e->send_len + e->get_len) + 1);
}

/* Return: 0 nothing, 1 progress, -1 over */
static int write_some(struct end *e, uint64_t now)
{
	int moved = 0;

	if (e->shut || (e->write_stall > now && (!(e->head.flags & CHATTY) || e->got == e->answered)) || (e->edge && !e->writable) || (e->server && e->head_at < sizeof(e->head)))
		return 0;
	for (int i = 0; i < 4; i++) {
		size_t n = message_len(e);
		const uint8_t *p = sends(e, e->sent);
		uint32_t how = any(10), z;
		struct iovec v[3];
		ssize_t r;

		if (e->sent == e->send_len) {
			if (!e->write_stall && any(4) == 0) {
				e->write_stall = now + any(5000);
				return 1;
			}
			shutdown(e->fd, SHUT_WR);
			e->shut = true;
			return 1;
		}
		n = min_u64(n, e->send_len - e->sent);
		v[0] = (struct iovec){(void *)p, n / 3};
		v[1] = (struct iovec){(void *)(p + n / 3), n / 3};
		v[2] = (struct iovec){(void *)(p + 2 * (n / 3)), n - 2 * (n / 3)};
		r = how < 6 ? send(e->fd, p, n, MSG_NOSIGNAL) : how < 7 ? send(e->fd, p, n, MSG_NOSIGNAL | MSG_MORE) :
		    how < 9 ? writev(e->fd, v, 3) : write(e->fd, p, n);
		if (r < 0) {
			if (errno == EAGAIN) {
				e->writable = false;
				return moved;
			}
			if (!(e->head.flags & ABORT))
				bad(e, "send");
			return -1;
		}
		e->sent += (size_t)r;
		moved = 1;
		z = any(1000);
		if (e->head.flags & CHATTY && z > 20) {
			e->write_stall = now + (e->server ? 15000 : 8000) + any(4000);
			e->answered = e->got;
			return 1;
		}
		if (z < 300) {
			e->write_stall = now + any(3000);
			return 1;
		}
		if (z < 305) {
			e->write_stall = now + any(30000);
			return 1;
		}
	}
	return moved;
}

static ssize_t receive(struct end *e, uint8_t *buf, size_t n)
{
	struct iovec v[2] = {{buf, n / 2}, {buf + n / 2, n - n / 2}};
	uint32_t how = any(10);
	ssize_t r;

	if (how < 7)
		return recv(e->fd, buf, n, 0);
	if (how < 9)
		return how < 8 ? readv(e->fd, v, 2) : read(e->fd, buf, n);
	r = recv(e->fd, buf, n, MSG_PEEK);
	if (r > 0 && (e->got + (size_t)r > e->get_len || memcmp(buf, gets(e, e->got), (size_t)r))) {
		bad(e, "peeked bytes");
		return -2;
	}
	return r > 0 ? recv(e->fd, buf, (size_t)r, 0) : r;
}

/* what comes before the stream. Return: 1 all there, 0 not yet, -1 over */
static int read_head(struct end *e)
{
	while (e->server && (e->skipped < run->injected || e->head_at < sizeof(e->head))) {
		char q[256];
		bool skip_it = e->skipped < run->injected;
		ssize_t r = skip_it ? recv(e->fd, q, run->injected - e->skipped, 0) :
				      recv(e->fd, (char *)&e->head + e->head_at, sizeof(e->head) - e->head_at, 0);

		if (r <= 0) {
			e->readable = false;
			return r < 0 && errno == EAGAIN ? 0 : -1; /* the client aborted: flags are not known yet */
		}
		if (skip_it) {
			e->skipped += (size_t)r;
		} else {
			e->head_at += (size_t)r;
			if (e->head_at == sizeof(e->head) && e->head.magic != MAGIC) {
				bad(e, "header");
				return -1;
			}
			if (e->head_at == sizeof(e->head))
				set_up(e);
		}
	}
	return 1;
}

static int read_some(struct end *e, uint64_t now)
{
	static uint8_t buf[400000];
	int moved;

	if (e->eof || e->read_stall > now || (e->edge && !e->readable))
		return 0;
	moved = read_head(e);
	if (moved <= 0)
		return moved;
	for (int i = 0; i < 4; i++) {
		ssize_t r = receive(e, buf, message_len(e));
		uint32_t z = any(1000);

		if (r == -2)
			return -1;
		if (r < 0) {
			if (errno == EAGAIN) {
				e->readable = false;
				return moved;
			}
			if (!(e->head.flags & ABORT))
				bad(e, "recv");
			return -1;
		}
		if (r == 0) {
			e->eof = true;
			if (e->got != e->get_len && !(e->head.flags & ABORT))
				bad(e, "end of file too early");
			return 1;
		}
		if (e->got + (size_t)r > e->get_len || memcmp(buf, gets(e, e->got), (size_t)r)) {
			bad(e, "bytes are wrong");
			return -1;
		}
		e->got += (size_t)r;
		moved = 1;
		if (z < 55) {
			e->read_stall = now + any(z < 50 ? 5000 : 50000);
			return 1;
		}
	}
	return moved;
}

static int end_over(struct end *e, bool abort)
{
	run->t->bytes += e->got;
	if (!e->server)
		run->t->done++;
	if (abort)
		reset(e->fd);
	else
		close(e->fd);
	e->fd = -1;
	return -1;
}

static int end_step(struct end *e, uint64_t now)
{
	int r = read_some(e, now), w = r < 0 ? -1 : write_some(e, now);

	if (r < 0 || w < 0)
		return end_over(e, false);
	if (e->aborts && e->head_at == sizeof(e->head) && e->sent + e->got >= e->abort_at) {
		run->t->aborted++;
		return end_over(e, true);
	}
	if (e->eof && e->shut)
		return end_over(e, false);
	if (now - e->started > (uint64_t)LONG_MS * 1000) {
		run->t->hung++;
		bad(e, "never ended");
		return end_over(e, true);
	}
	return r | w;
}

/* ---- all of one side ---- */

static void end_new(struct end *e, int fd, int ep)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = e};

	*e = (struct end){.fd = fd, .server = e->server, .edge = any(2), .started = now_us(), .get_len = SIZE_MAX};
	e->write_stall = e->server ? e->started + 5000 : 0; /* the client begins; or is slow */
	if (any(2))
		nodelay(fd);
	if (!e->server) {
		char p[256];

		bool chatty = any(3);
		uint32_t len = 3000 + any(40000);

		e->head = (struct head){MAGIC, rnd(&state), chatty ? len : stream_len(), chatty ? len + any(2000) : stream_len(),
					(any(100) < 3 ? ABORT | (any(2) ? SERVER_ABORTS : 0) : 0) | (chatty ? CHATTY : 0)};
		e->head_at = sizeof(e->head);
		set_up(e);
		memset(p, 'P', sizeof(p));
		if (any(10) == 0)
			sleep_ms(any(2));
		if (run->taken && send(fd, p, run->taken, MSG_NOSIGNAL) != (ssize_t)run->taken)
			bad(e, "header");
		if (send(fd, &e->head, sizeof(e->head), MSG_NOSIGNAL) != sizeof(e->head))
			bad(e, "header");
	}
	nonblock(fd, true);
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
}

static void side(bool server, int l)
{
	uint32_t max = run->at_a_time * (server ? 2 : 1), started = 0, live = 0;
	uint64_t next = 0;
	struct end *all = calloc(max, sizeof(*all));
	struct epoll_event ev[256], in = {.events = EPOLLIN};
	int ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	bool busy = true;

	for (uint32_t i = 0; i < max; i++)
		all[i] = (struct end){.fd = -1, .server = server};
	if (server) {
		nonblock(l, true);
		MUST(epoll_ctl(ep, EPOLL_CTL_ADD, l, &in));
	}
	while (!run->t->stop && (server || started < run->n || live)) {
		uint64_t now = now_us();
		int n = epoll_wait(ep, ev, 256, busy ? 0 : next <= now ? 1 : (int)((next - now) / 1000 + 1));

		for (int i = 0; i < n; i++) {
			struct end *e = ev[i].data.ptr;

			if (!e)
				continue;
			e->readable |= !!(ev[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR));
			e->writable |= !!(ev[i].events & (EPOLLOUT | EPOLLHUP | EPOLLERR));
		}
		busy = false;
		now = now_us();
		next = now + 20000;
		for (uint32_t i = 0; i < max; i++) {
			struct end *e = &all[i];

			if (e->fd >= 0) {
				int r = end_step(e, now);

				live -= r < 0;
				busy |= r != 0;
				if (e->read_stall > now)
					next = min_u64(next, e->read_stall);
				if (e->write_stall > now)
					next = min_u64(next, e->write_stall);
			} else if (server || started < run->n) {
				int fd = server ? accept4(l, NULL, NULL, SOCK_CLOEXEC) :
						  connect_to("127.0.0.1", (uint16_t)(PORT + run->relays));

				if (fd < 0)
					continue;
				started++;
				live++;
				end_new(e, fd, ep);
				busy = true;
			}
		}
	}
}

static void client(void *arg)
{
	(void)arg;
	state ^= run->seed * 0x9e3779b97f4a7c15ull;
	side(false, -1);
}
static void server(void *arg)
{
	state ^= run->seed * 0xc2b2ae3d27d4eb4full;
	side(true, *(int *)arg);
}

/* ---- a run: server, relays, client ---- */

static struct relay_sums *stress(const struct run *r, uint64_t limit_ms, uint64_t *ret_ms)
{
	struct relay_sums *sums = relay_sums();
	struct relay_opts o[3];
	uint64_t start = now_us();
	pid_t relay[3], s, c;
	struct bypass *b = NULL;
	int l;

	run = r;
	state = r->seed | 1;
	for (size_t i = 0; i < sizeof(table); i++)
		table[i] = (uint8_t)(rnd(&state) >> 3);
	l = listen_on("127.0.0.1", PORT);
	s = lab_child(server, &l);
	close(l);
	for (uint32_t i = 0; i < r->relays; i++) {
		o[i] = (struct relay_opts){.ip = "127.0.0.1",
					   .to_ip = "127.0.0.1",
					   .port = (uint16_t)(PORT + 1 + i),
					   .to = (uint16_t)(PORT + i),
					   .after = 1,
					   .seed = r->seed * (i + 3) | 1,
					   .bulk = r->bulk,
					   .taken = i == r->relays - 1 ? r->taken : 0,
					   .injected = i == 0 ? r->injected : 0,
					   .sums = sums,
					   .knobs = {.no_order = r->no_order, .no_test = r->no_order},
					   .max = r->at_a_time * 2 + 50};
		relay[i] = relay_start(&o[i]);
	}
	if (r->switches)
		b = lab_bypass(NULL, &(struct bypass_knobs){.no_test = true});
	c = lab_child(client, NULL);
	while (waitpid(c, NULL, WNOHANG) != c && (now_us() - start) / 1000 < limit_ms) {
		sleep_ms(b ? 3 : 20);
		if (b)
			bypass_switch(b, now_us() % 4 != 0);
	}
	*ret_ms = (now_us() - start) / 1000;
	kill(c, SIGKILL);
	sleep_ms(50);
	lab_kill(s);
	sums->stop = 1;
	for (uint32_t i = 0; i < r->relays; i++)
		waitpid(relay[i], NULL, 0);
	bypass_destroy(b);
	waitpid(c, NULL, WNOHANG);
	return sums;
}

static struct tally *tally(void)
{
	struct tally *t = mmap(NULL, sizeof(*t), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (t == MAP_FAILED)
		exit(1);
	return t;
}

static void figures(const struct run *r, const struct relay_sums *s, uint64_t ms)
{
	printf("# %u relays: %llu connections (%llu reset), %.2f GB in %.1f s; joined %llu, watched %llu, demoted %llu; redirected %.1f MB, "
	       "by TCP %.1f MB after joining; wrong %llu, hung %llu\n", r->relays, (unsigned long long)r->t->done,
	       (unsigned long long)r->t->aborted, (double)r->t->bytes / 1e9, (double)ms / 1e3, (unsigned long long)s->joins,
	       (unsigned long long)s->watches, (unsigned long long)s->demoted, (double)s->redirected / 1e6, (double)s->passed / 1e6,
	       (unsigned long long)r->t->bad, (unsigned long long)r->t->hung);
	for (uint32_t i = 0; i < BYPASS_WHYS; i++)
		if (s->refused[i])
			printf("#   not joined: %s: %llu\n", bypass_why_str((enum bypass_why)i), (unsigned long long)s->refused[i]);
	printf("#   messages by TCP:");
	for (uint32_t i = 0; i < BYPASS_REFUSALS; i++)
		printf(" %s %llu", bypass_refusal_str(i), (unsigned long long)s->gate[i]);
	putchar('\n');
}

static bool every_byte(const struct run *r)
{
	return !r->t->bad && !r->t->hung && r->t->done == r->n;
}

static bool right(const struct run *r, const struct relay_sums *s)
{
	return every_byte(r) && s->joins > r->n / 10 && s->redirected;
}

static void short_run(const char *name, struct run r)
{
	struct relay_sums *s;
	uint64_t ms;

	r.t = tally();
	s = stress(&r, 3 * LONG_MS, &ms);
	figures(&r, s, ms);
	show(right(&r, s), "%s", name);
}

/* without the rule it must go wrong */
static void control(uint32_t n, uint32_t at_a_time, uint64_t seed)
{
	struct run r = {.n = n, .at_a_time = at_a_time, .relays = 1, .seed = seed, .no_order = true, .small = true, .t = tally()};
	struct relay_sums *s;
	uint64_t ms;

	s = stress(&r, LONG_MS, &ms);
	figures(&r, s, ms);
	show(r.t->bad > 0, "the control, without the rule of order, fails");
}

int main(int argc, char **argv)
{
	uint32_t n = argc > 1 ? (uint32_t)atoi(argv[1]) : 0, at_a_time = argc > 2 ? (uint32_t)atoi(argv[2]) : 64;
	uint64_t joins = 0, redirected = 0, seed = argc > 3 ? strtoull(argv[3], NULL, 0) : (uint64_t)time(NULL);

	lab_enter();
	printf("# seed %llu\n", (unsigned long long)seed);
	if (n == 0) {
		short_run("one relay", (struct run){.n = 500, .at_a_time = 48, .relays = 1, .seed = seed, .small = true});
		short_run("one relay, bytes taken and put in, demotion",
			  (struct run){.n = 300, .at_a_time = 48, .relays = 1, .seed = seed + 1, .taken = 17, .injected = 107, .bulk = 30000});
		short_run("two relays, the kill switch toggled",
			  (struct run){.n = 300, .at_a_time = 48, .relays = 2, .seed = seed + 2, .taken = 30, .injected = 9, .small = true, .switches = true});
		short_run("three relays", (struct run){.n = 200, .at_a_time = 32, .relays = 3, .seed = seed + 3, .injected = 40, .small = true});
		control(300, 48, seed + 4);
		return lab_done();
	}
	for (uint32_t relays = 1; relays <= 3; relays++) {
		struct run r = {.n = relays == 1 ? n / 2 : n / 4,
				.at_a_time = at_a_time,
				.relays = relays,
				.seed = seed + relays,
				.taken = 17 * (relays % 2),
				.injected = 50,
				.bulk = 60000,
				.small = true,
				.switches = relays == 2,
				.t = tally()};
		struct relay_sums *s;
		uint64_t ms;

		s = stress(&r, (uint64_t)n * 200 + LONG_MS, &ms);
		figures(&r, s, ms);
		show(every_byte(&r), "%u relays", relays);
		joins += s->joins;
		redirected += s->redirected;
	}
	show(joins > n / 20, "%llu joined, %llu bytes redirected", (unsigned long long)joins, (unsigned long long)redirected); /* few of few, if slow */
	control(n < 1000 ? n : 1000, at_a_time, seed);
	return lab_done();
}
