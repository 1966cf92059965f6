/* meshload - load generator and backend for TCP tunnels.
 *
 * One binary, two roles.  "server" is the backend behind the tunnel; the other
 * modes are clients that drive the near end of the tunnel.  Both roles verify
 * every byte stream against a position-dependent pattern, so lost, duplicated,
 * reordered or cross-wired bytes are reported, not just counted.
 *
 *   meshload server   --listen IP:PORT [--shm PATH] [--verify full|sample]
 *   meshload bulk     --target IP:PORT --dir up|down|both --streams N --warmup S --time S --shm PATH
 *   meshload pingpong --target IP:PORT --streams N --size B --time S [--rate R]
 *   meshload short    --target IP:PORT --streams N --size B --time S [--rst]
 *   meshload idle     --target IP:PORT --count N [--window W]   (holds until stdin closes)
 *   common: [--connect HOST:PORT] [--verify full|sample] [--first-slot N]
 *
 * Streams are numbered; the number chooses the pattern and the counter shared with the server.  Two clients that run
 * at once against one server must not use the same numbers: --first-slot.
 *
 * Every client prints exactly one JSON object per line on stdout.
 * Exit status: 0 clean, 1 data errors or failed connections, 2 usage/setup.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define HELLO_LEN	 16
#define PAT_PERIOD	 65521u /* prime, so no power-of-two block hides a shift */
#define IO_MAX		 (256 * 1024)
#define MAX_SLOTS	 4096
#define MAX_MSG		 65536
#define ROUNDS_PER_EVENT 4 /* fairness bound: reads or writes per readiness event */

/* ---------------------------------------------------------------- helpers */

static void die(const char *fmt, ...)
{
	va_list ap;
	va_start(ap, fmt);
	fprintf(stderr, "meshload: ");
	vfprintf(stderr, fmt, ap);
	fprintf(stderr, "\n");
	va_end(ap);
	exit(2);
}

static uint64_t now_ns(void)
{
	struct timespec ts;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000ull + (uint64_t)ts.tv_nsec;
}

static double cpu_self(void)
{
	struct rusage r;
	getrusage(RUSAGE_SELF, &r);
	return (double)r.ru_utime.tv_sec + (double)r.ru_utime.tv_usec / 1e6 + (double)r.ru_stime.tv_sec +
	       (double)r.ru_stime.tv_usec / 1e6;
}

static struct sockaddr_in parse_addr(const char *s)
{
	struct sockaddr_in sa = {.sin_family = AF_INET};
	char ip[64];
	const char *c = s ? strrchr(s, ':') : NULL;
	if (!c || (size_t)(c - s) >= sizeof ip)
		die("bad address '%s' (want IP:PORT)", s ? s : "");
	memcpy(ip, s, (size_t)(c - s));
	ip[c - s] = 0;
	if (inet_pton(AF_INET, ip, &sa.sin_addr) != 1)
		die("bad IPv4 address '%s'", ip);
	sa.sin_port = htons((uint16_t)atoi(c + 1));
	return sa;
}

/* ---------------------------------------------------------------- pattern */

static unsigned char pat[PAT_PERIOD + IO_MAX];
static int verify_full;

static void pat_init(void)
{
	uint32_t x = 2463534242u;
	for (unsigned i = 0; i < PAT_PERIOD; i++) {
		x ^= x << 13;
		x ^= x >> 17;
		x ^= x << 5;
		pat[i] = (unsigned char)(x >> 11);
	}
	for (unsigned i = 0; i < IO_MAX; i++)
		pat[PAT_PERIOD + i] = pat[i % PAT_PERIOD];
}

/* Expected bytes at stream offset `off` of stream `slot`; dir 0 = to server, 1 = from it. */
static const unsigned char *pat_at(uint32_t slot, int dir, uint64_t off)
{
	return pat + (off + (uint64_t)slot * 131u + (uint64_t)dir * 7777u) % PAT_PERIOD;
}

/* 0 when buf matches.  Sampling still sees any loss, duplication or reordering,
 * because those shift every later byte; only isolated corruption can hide. */
static int pat_check(const unsigned char *buf, size_t n, uint32_t slot, int dir, uint64_t off)
{
	const unsigned char *e = pat_at(slot, dir, off);
	if (verify_full || n <= 192)
		return memcmp(buf, e, n) != 0;
	size_t mid = (n / 2) & ~(size_t)63;
	return memcmp(buf, e, 64) || memcmp(buf + mid, e + mid, 64) || memcmp(buf + n - 64, e + n - 64, 64);
}

/* -------------------------------------------------------------- histogram */
/* Log-linear: 64 sub-buckets per power of two, so under 1.6 % error. */

#define H_SUB 64
static uint64_t hist[64 * H_SUB], hist_n, hist_max;

static unsigned hist_idx(uint64_t v)
{
	if (v < H_SUB)
		return (unsigned)v;
	unsigned e = 63u - (unsigned)__builtin_clzll(v); /* e >= 6 */
	return (e - 5) * H_SUB + (unsigned)((v >> (e - 6)) & (H_SUB - 1));
}

static uint64_t hist_val(unsigned i)
{
	if (i < H_SUB)
		return i;
	unsigned e = i / H_SUB + 5;
	return (((uint64_t)H_SUB + i % H_SUB) << (e - 6)) + ((1ull << (e - 6)) >> 1);
}

static void hist_add(uint64_t v)
{
	hist[hist_idx(v)]++;
	hist_n++;
	if (v > hist_max)
		hist_max = v;
}

static double hist_us(double q)
{
	uint64_t want = (uint64_t)(q * (double)hist_n), seen = 0;
	for (unsigned i = 0; i < 64 * H_SUB; i++) {
		seen += hist[i];
		if (seen > want)
			return (double)hist_val(i) / 1e3;
	}
	return (double)hist_max / 1e3;
}

static void hist_print(void)
{
	if (!hist_n) {
		printf("\"lat_us\":null");
		return;
	}
	printf("\"lat_us\":{\"p50\":%.1f,\"p90\":%.1f,\"p99\":%.1f,\"p999\":%.1f,\"max\":%.1f}", hist_us(.5),
	       hist_us(.9), hist_us(.99), hist_us(.999), (double)hist_max / 1e3);
}

/* ---------------------------------------------- counters shared with server */

struct shared {
	volatile uint64_t rx[MAX_SLOTS]; /* payload bytes the server received, per slot */
	volatile uint64_t errors;	 /* pattern mismatches seen by the server */
	volatile uint64_t conns, open;
	volatile uint64_t eofs, resets; /* how connections ended */
};
static struct shared *sh;

static void shm_open_file(const char *path)
{
	if (!path) {
		sh = calloc(1, sizeof *sh);
		if (!sh)
			die("out of memory");
		return;
	}
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0 || ftruncate(fd, sizeof *sh) < 0)
		die("%s: %s", path, strerror(errno));
	sh = mmap(NULL, sizeof *sh, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (sh == MAP_FAILED)
		die("mmap %s: %s", path, strerror(errno));
	close(fd);
}

/* ------------------------------------------------------------------ common */

enum { M_ECHO = 'E', M_SINK = 'U', M_SOURCE = 'D', M_BOTH = 'B', M_REQ = 'R' };
enum { ST_CONNECTING, ST_PREAMBLE, ST_RUN, ST_DEAD };

struct conn {
	int fd;
	unsigned char st, mode, busy, hello_got, want_w;
	uint32_t slot, size;
	uint64_t tx, rx; /* payload offsets, hello excluded */
	uint64_t t0;	 /* start of the operation being timed */
	union {
		unsigned char hello[HELLO_LEN];
		char tail[4]; /* last bytes of a CONNECT answer */
	};
	unsigned char code_ok, hdr_n;
	char hdr[12];
	unsigned char *pend; /* server echo: bytes not yet written back */
	size_t pend_len, pend_off;
};

static int ep;
static unsigned char iobuf[IO_MAX];

static void ep_set(struct conn *c, int op, uint32_t ev)
{
	struct epoll_event e = {.events = ev, .data.ptr = c};
	if (epoll_ctl(ep, op, c->fd, &e) < 0)
		die("epoll_ctl: %s", strerror(errno));
}

static void want_write(struct conn *c, int on, uint32_t base)
{
	if (c->want_w == on)
		return;
	c->want_w = (unsigned char)on;
	ep_set(c, EPOLL_CTL_MOD, base | (on ? (uint32_t)EPOLLOUT : 0u));
}

static void nodelay(int fd)
{
	int one = 1;
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
}

static void hello_make(unsigned char h[HELLO_LEN], int mode, uint32_t slot, uint32_t size)
{
	memset(h, 0, HELLO_LEN);
	memcpy(h, "MLH1", 4);
	h[4] = (unsigned char)mode;
	memcpy(h + 8, &slot, 4);
	memcpy(h + 12, &size, 4);
}

/* ------------------------------------------------------------------ server */

static void srv_close(struct conn *c, int reset)
{
	close(c->fd);
	free(c->pend);
	free(c);
	sh->open--;
	if (reset)
		sh->resets++;
	else
		sh->eofs++;
}

/* Returns -1 when the connection is gone. */
static int srv_send(struct conn *c, const unsigned char *p, size_t n)
{
	while (n) {
		ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				return -1;
			c->pend = malloc(n);
			if (!c->pend)
				die("out of memory");
			memcpy(c->pend, p, n);
			c->pend_len = n;
			c->pend_off = 0;
			c->want_w = 1;
			ep_set(c, EPOLL_CTL_MOD, EPOLLOUT); /* stop reading until drained */
			return 0;
		}
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static int srv_source(struct conn *c)
{
	for (int i = 0; i < ROUNDS_PER_EVENT; i++) {
		ssize_t w = send(c->fd, pat_at(c->slot, 1, c->tx), 128 * 1024, MSG_NOSIGNAL);
		if (w < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		c->tx += (uint64_t)w;
	}
	return 0;
}

static int srv_payload(struct conn *c, const unsigned char *p, size_t n)
{
	if (pat_check(p, n, c->slot, 0, c->rx))
		sh->errors++;
	c->rx += n;
	sh->rx[c->slot % MAX_SLOTS] += n;
	if (c->mode == M_ECHO)
		return srv_send(c, p, n);
	if (c->mode == M_REQ && c->rx + HELLO_LEN >= c->size && !c->busy) {
		c->busy = 1;
		return srv_send(c, pat_at(c->slot, 1, 0), c->size);
	}
	return 0;
}

/* A backend that also terminates HTTP/1 CONNECT lets a forward proxy be measured
 * without a third hop behind it.  Consumes an optional "CONNECT ..." head, answers
 * 200, and returns the bytes used (SIZE_MAX on a write error). */
static size_t srv_connect(struct conn *c, const unsigned char *p, size_t n)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\n\r\n";
	if (!c->hello_got && !c->code_ok && n && *p == 'C')
		c->st = ST_PREAMBLE;
	if (c->st != ST_PREAMBLE)
		return 0;
	for (size_t i = 0; i < n; i++) {
		memmove(c->hdr, c->hdr + 1, 3);
		c->hdr[3] = (char)p[i];
		if (memcmp(c->hdr, "\r\n\r\n", 4))
			continue;
		c->st = ST_RUN;
		c->code_ok = 1;
		return send(c->fd, ok, sizeof ok - 1, MSG_NOSIGNAL) < 0 ? SIZE_MAX : i + 1;
	}
	return n;
}

static int srv_read(struct conn *c)
{
	for (int i = 0; i < ROUNDS_PER_EVENT && !c->pend; i++) {
		ssize_t r = recv(c->fd, iobuf, sizeof iobuf, 0);
		if (r < 0) {
			if (errno == EAGAIN || errno == EINTR)
				return 0;
			return -2;
		}
		if (r == 0)
			return -1;
		unsigned char *p = iobuf;
		size_t n = (size_t)r;
		if (c->hello_got < HELLO_LEN) {
			size_t skip = srv_connect(c, p, n);
			if (skip == SIZE_MAX)
				return -2;
			p += skip;
			n -= skip;
			size_t k = HELLO_LEN - c->hello_got;
			if (k > n)
				k = n;
			memcpy(c->hello + c->hello_got, p, k);
			c->hello_got = (unsigned char)(c->hello_got + k);
			p += k;
			n -= k;
			if (c->hello_got < HELLO_LEN)
				continue;
			if (memcmp(c->hello, "MLH1", 4)) {
				sh->errors++;
				return -2;
			}
			c->mode = c->hello[4];
			memcpy(&c->slot, c->hello + 8, 4);
			memcpy(&c->size, c->hello + 12, 4);
			if (c->size > MAX_MSG)
				return -2;
			if (c->mode == M_SOURCE || c->mode == M_BOTH)
				want_write(c, 1, EPOLLIN | EPOLLRDHUP);
		}
		if (n && srv_payload(c, p, n) < 0)
			return -2;
		if ((size_t)r < sizeof iobuf / 8)
			break;
	}
	return 0;
}

static void run_server(const char *listen_at)
{
	struct sockaddr_in sa = parse_addr(listen_at);
	int one = 1, ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(ls, (void *)&sa, sizeof sa) < 0 || listen(ls, 4096) < 0)
		die("listen %s: %s", listen_at, strerror(errno));
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
	epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
	printf("{\"listening\":\"%s\"}\n", listen_at);
	fflush(stdout);
	struct epoll_event evs[256];
	for (;;) {
		int n = epoll_wait(ep, evs, 256, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (!c) {
				int fd;
				while ((fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
					c = calloc(1, sizeof *c);
					if (!c)
						die("out of memory");
					c->fd = fd;
					nodelay(fd);
					sh->conns++;
					sh->open++;
					ep_set(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
				}
				continue;
			}
			int rc = 0;
			if (evs[i].events & EPOLLOUT) {
				if (c->pend) {
					ssize_t w = send(c->fd, c->pend + c->pend_off, c->pend_len - c->pend_off,
							 MSG_NOSIGNAL);
					if (w < 0 && errno != EAGAIN && errno != EINTR)
						rc = -2;
					else if (w > 0 && (c->pend_off += (size_t)w) == c->pend_len) {
						free(c->pend);
						c->pend = NULL;
						c->want_w = 0;
						ep_set(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
					}
				} else if (srv_source(c) < 0) {
					rc = -2;
				}
			}
			if (!rc && (evs[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
				rc = srv_read(c);
			if (rc)
				srv_close(c, rc == -2);
		}
	}
}

/* ------------------------------------------------------------------ client */

static struct {
	struct sockaddr_in target;
	const char *connect;
	int streams, count, window, size, dir, rst, first;
	double warmup, time, rate;
} o = {.streams = 1, .count = 1000, .window = 128, .size = 64, .dir = M_SINK, .warmup = 0.5, .time = 2};

static uint64_t n_fail, n_err, n_done, n_est;
static struct conn *conns;

static void c_fail(struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->st = ST_DEAD;
	n_fail++;
}

static int c_open(struct conn *c)
{
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("socket: %s (raise ulimit -n?)", strerror(errno));
	nodelay(c->fd);
	c->st = ST_CONNECTING;
	c->tx = c->rx = 0;
	c->busy = c->want_w = c->code_ok = c->hdr_n = 0;
	memset(c->tail, 0, sizeof c->tail);
	if (connect(c->fd, (void *)&o.target, sizeof o.target) < 0 && errno != EINPROGRESS) {
		c_fail(c);
		return -1;
	}
	c->want_w = 1;
	ep_set(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
	return 0;
}

static int send_all(struct conn *c, const void *p, size_t n)
{
	/* Only for small messages on a connection with nothing else in flight. */
	ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
	return w == (ssize_t)n ? 0 : -1;
}

static int c_ping(struct conn *c)
{
	int rc = send_all(c, pat_at(c->slot, 0, c->tx), (size_t)o.size);
	c->tx += (uint64_t)o.size;
	c->busy = 1;
	return rc;
}

/* The tunnel is open: greet the backend and start the first operation. */
static int c_ready(struct conn *c)
{
	unsigned char b[HELLO_LEN + MAX_MSG];
	size_t n = HELLO_LEN;
	c->st = ST_RUN;
	n_est++;
	hello_make(b, c->mode, c->slot, (uint32_t)o.size);
	if (c->mode == M_REQ) {
		size_t k = (size_t)o.size - HELLO_LEN;
		memcpy(b + n, pat_at(c->slot, 0, 0), k);
		n += k;
		c->busy = 1;
	}
	if (send_all(c, b, n) < 0)
		return -1;
	want_write(c, c->mode == M_SINK || c->mode == M_BOTH, EPOLLIN);
	return 0;
}

static int c_connected(struct conn *c)
{
	int err = 0;
	socklen_t l = sizeof err;
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
	if (err)
		return -1;
	if (o.connect) {
		char req[512];
		int n = snprintf(req, sizeof req, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", o.connect, o.connect);
		c->st = ST_PREAMBLE;
		want_write(c, 0, EPOLLIN);
		return send_all(c, req, (size_t)n);
	}
	return c_ready(c);
}

/* Reads the proxy's answer byte-exactly; never consumes tunnel bytes. */
static int c_preamble(struct conn *c)
{
	char ch;
	for (;;) {
		ssize_t r = recv(c->fd, &ch, 1, 0);
		if (r < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		if (r == 0)
			return -1;
		if (c->hdr_n < sizeof c->hdr)
			c->hdr[c->hdr_n++] = ch;
		memmove(c->tail, c->tail + 1, 3);
		c->tail[3] = ch;
		if (c->hdr_n == 12 && !c->code_ok) {
			if (memcmp(c->hdr + 9, "200", 3))
				return -1;
			c->code_ok = 1;
		}
		if (!memcmp(c->tail, "\r\n\r\n", 4))
			return c->code_ok ? c_ready(c) : -1;
	}
}

/* Reads payload; returns bytes read, 0 when none, -1 when the connection ended. */
static ssize_t c_read(struct conn *c)
{
	ssize_t r = recv(c->fd, iobuf, sizeof iobuf, 0);
	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (r == 0)
		return -1;
	/* An echo repeats what went up (direction 0); everything else is direction 1. */
	if (pat_check(iobuf, (size_t)r, c->slot, c->mode != M_ECHO, c->rx))
		n_err++;
	c->rx += (uint64_t)r;
	return r;
}

static int c_setup(struct conn *c, uint32_t ev)
{
	(void)ev;
	if (c->st == ST_CONNECTING)
		return c_connected(c);
	return c_preamble(c);
}

/* Blocks until `want` connections run, or 10 s pass. */
static void wait_established(int want)
{
	struct epoll_event evs[256];
	uint64_t end = now_ns() + 10000000000ull;
	while ((int)(n_est + n_fail) < want && now_ns() < end) {
		int n = epoll_wait(ep, evs, 256, 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c->st == ST_RUN || c->st == ST_DEAD) {
				/* level-triggered readiness of already running streams */
				if (c->st == ST_RUN)
					ep_set(c, EPOLL_CTL_MOD, 0);
				continue;
			}
			if (c_setup(c, evs[i].events) < 0)
				c_fail(c);
		}
	}
	for (int i = 0; i < want; i++)
		if (conns[i].st == ST_RUN)
			ep_set(&conns[i], EPOLL_CTL_MOD, EPOLLIN | (conns[i].want_w ? (uint32_t)EPOLLOUT : 0u));
}

static void head(const char *mode)
{
	printf("{\"mode\":\"%s\",\"streams\":%d,", mode, o.streams);
}

static int tail_print(double cpu0)
{
	printf("\"established\":%llu,\"failed\":%llu,\"errors\":%llu,\"client_cpu_s\":%.3f}\n",
	       (unsigned long long)n_est, (unsigned long long)n_fail, (unsigned long long)(n_err + sh->errors),
	       cpu_self() - cpu0);
	fflush(stdout);
	return n_fail || n_err || sh->errors;
}

static int run_bulk(void)
{
	double cpu0 = cpu_self();
	if (o.streams + o.first > MAX_SLOTS)
		die("too many streams");
	memset((void *)(sh->rx + o.first), 0, (size_t)o.streams * sizeof sh->rx[0]);
	if (!o.first)
		sh->errors = 0;
	conns = calloc((size_t)o.streams, sizeof *conns);
	for (int i = 0; i < o.streams; i++) {
		conns[i].slot = (uint32_t)(o.first + i);
		conns[i].mode = (unsigned char)o.dir;
		c_open(&conns[i]);
	}
	wait_established(o.streams);
	uint64_t t = now_ns(), start = t + (uint64_t)(o.warmup * 1e9);
	uint64_t end = start + (uint64_t)(o.time * 1e9), t_meas = 0;
	uint64_t *up0 = calloc((size_t)o.streams, 8), *dn0 = calloc((size_t)o.streams, 8);
	struct epoll_event evs[256];
	while (t < end) {
		int n = epoll_wait(ep, evs, 256, 50);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c->st != ST_RUN)
				continue;
			if (evs[i].events & EPOLLOUT) {
				for (int k = 0; k < ROUNDS_PER_EVENT; k++) {
					ssize_t w = send(c->fd, pat_at(c->slot, 0, c->tx), 128 * 1024, MSG_NOSIGNAL);
					if (w < 0) {
						if (errno != EAGAIN && errno != EINTR)
							c_fail(c);
						break;
					}
					c->tx += (uint64_t)w;
				}
			}
			if (c->st == ST_RUN && (evs[i].events & ~(uint32_t)EPOLLOUT))
				for (int k = 0; k < ROUNDS_PER_EVENT; k++) {
					ssize_t r = c_read(c);
					if (r < 0)
						c_fail(c);
					if (r < IO_MAX / 8)
						break;
				}
		}
		t = now_ns();
		if (!t_meas && t >= start) {
			t_meas = t;
			for (int i = 0; i < o.streams; i++) {
				up0[i] = sh->rx[o.first + i];
				dn0[i] = conns[i].rx;
			}
		}
	}
	double sec = (double)(t - t_meas) / 1e9, up = 0, dn = 0, tot = 0, lo = 1e30, hi = 0;
	for (int i = 0; i < o.streams; i++) {
		double u = (double)(sh->rx[o.first + i] - up0[i]), d = (double)(conns[i].rx - dn0[i]);
		up += u;
		dn += d;
		tot += (double)sh->rx[o.first + i] + (double)conns[i].rx;
		if (u + d < lo)
			lo = u + d;
		if (u + d > hi)
			hi = u + d;
	}
	head("bulk");
	printf("\"dir\":\"%c\",\"seconds\":%.3f,\"up_MBps\":%.1f,\"down_MBps\":%.1f,"
	       "\"total_bytes\":%.0f,\"min_over_max_stream\":%.3f,",
	       o.dir, sec, up / sec / 1e6, dn / sec / 1e6, tot, hi > 0 ? lo / hi : 0);
	return tail_print(cpu0);
}

static int run_pingpong(void)
{
	double cpu0 = cpu_self();
	if (!o.first)
		sh->errors = 0;
	conns = calloc((size_t)o.streams, sizeof *conns);
	for (int i = 0; i < o.streams; i++) {
		conns[i].slot = (uint32_t)(o.first + i);
		conns[i].mode = M_ECHO;
		c_open(&conns[i]);
	}
	wait_established(o.streams);
	uint64_t t = now_ns(), start = t + (uint64_t)(o.warmup * 1e9);
	uint64_t end = start + (uint64_t)(o.time * 1e9);
	double gap = o.rate > 0 ? 1e9 / o.rate : 0;
	uint64_t t_first = t, seq = 0, late = 0;
	struct epoll_event evs[256];
	if (!gap)
		for (int i = 0; i < o.streams; i++)
			if (conns[i].st == ST_RUN) {
				conns[i].t0 = now_ns();
				if (c_ping(&conns[i]) < 0)
					c_fail(&conns[i]);
			}
	while (t < end) {
		struct timespec to = {.tv_nsec = 50000000};
		if (gap) {
			/* paced: stream seq % N sends at t_first + seq * gap; latency is
			 * counted from that intended moment, so a stall is not hidden */
			for (;;) {
				uint64_t due = t_first + (uint64_t)((double)seq * gap);
				if (due > t) {
					to.tv_nsec = (long)(due - t);
					break;
				}
				struct conn *c = &conns[seq % (uint64_t)o.streams];
				if (c->st == ST_RUN && !c->busy) {
					c->t0 = due;
					if (c_ping(c) < 0)
						c_fail(c);
				} else {
					late++;
				}
				seq++;
			}
			if (to.tv_nsec > 50000000)
				to.tv_nsec = 50000000;
		}
		int n = epoll_pwait2(ep, evs, 256, &to, NULL);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c->st != ST_RUN)
				continue;
			if (c_read(c) < 0) {
				c_fail(c);
				continue;
			}
			if (c->busy && c->rx == c->tx) {
				t = now_ns();
				c->busy = 0;
				if (t >= start) {
					hist_add(t - c->t0);
					n_done++;
				}
				if (!gap && t < end) {
					c->t0 = t;
					if (c_ping(c) < 0)
						c_fail(c);
				}
			}
		}
		t = now_ns();
	}
	head("pingpong");
	printf("\"size\":%d,\"rate_set\":%.0f,\"per_s\":%.0f,\"skipped\":%llu,", o.size, o.rate,
	       (double)n_done / ((double)(t - start) / 1e9), (unsigned long long)late);
	hist_print();
	printf(",");
	return tail_print(cpu0);
}

static int run_short(void)
{
	double cpu0 = cpu_self();
	if (o.size < HELLO_LEN || o.size > MAX_MSG)
		die("short needs --size >= %d", HELLO_LEN);
	if (!o.first)
		sh->errors = 0;
	uint32_t next = 0;
	conns = calloc((size_t)o.streams, sizeof *conns);
	uint64_t t = now_ns(), start = t + (uint64_t)(o.warmup * 1e9);
	uint64_t end = start + (uint64_t)(o.time * 1e9), drain = end + 3000000000ull;
	int live = 0;
	for (int i = 0; i < o.streams; i++) {
		conns[i].mode = M_REQ;
		conns[i].slot = next++ % MAX_SLOTS;
		conns[i].t0 = now_ns();
		if (c_open(&conns[i]) == 0)
			live++;
	}
	struct epoll_event evs[256];
	uint64_t in_window = 0;
	while (live && t < drain) {
		int n = epoll_wait(ep, evs, 256, 50);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			int fin = 0;
			if (c->st == ST_DEAD)
				continue;
			if (c->st != ST_RUN) {
				if (c_setup(c, evs[i].events) < 0) {
					c_fail(c);
					fin = 1;
				}
			} else if (c_read(c) < 0) {
				c_fail(c);
				fin = 1;
			} else if (c->rx >= (uint64_t)o.size) {
				t = now_ns();
				if (o.rst) {
					struct linger l = {1, 0};
					setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
				}
				close(c->fd);
				n_done++;
				if (t >= start && t < end) {
					in_window++;
					hist_add(t - c->t0);
				}
				fin = 1;
			}
			if (fin) {
				live--;
				if (now_ns() < end) {
					c->slot = next++ % MAX_SLOTS;
					c->t0 = now_ns();
					if (c_open(c) == 0)
						live++;
				}
			}
		}
		t = now_ns();
	}
	head("short");
	printf("\"size\":%d,\"per_s\":%.0f,\"completed\":%llu,\"stuck\":%d,", o.size, (double)in_window / o.time,
	       (unsigned long long)n_done, live);
	hist_print();
	printf(",");
	return tail_print(cpu0) || live;
}

/* Echo one message on each running connection, `window` at a time.  Returns answers seen. */
static int idle_round(int *opened)
{
	struct epoll_event evs[256];
	int next = 0, inflight = 0, ok = 0;
	uint64_t last = now_ns();
	while ((next < o.count || inflight) && now_ns() - last < 10000000000ull) {
		while (next < o.count && inflight < o.window) {
			struct conn *c = &conns[next++];
			if (opened) {
				c->slot = (uint32_t)(next - 1) % MAX_SLOTS;
				c->mode = M_ECHO;
				if (c_open(c) == 0)
					inflight++;
			} else if (c->st == ST_RUN) {
				if (c_ping(c) < 0)
					c_fail(c);
				else
					inflight++;
			}
		}
		int n = epoll_wait(ep, evs, 256, 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			last = now_ns();
			if (c->st == ST_DEAD)
				continue;
			if (c->st != ST_RUN) {
				int rc = c_setup(c, evs[i].events);
				if (!rc && c->st == ST_RUN)
					rc = c_ping(c);
				if (rc < 0) {
					c_fail(c);
					inflight--;
				}
			} else if (c_read(c) < 0) {
				if (c->busy)
					inflight--;
				c_fail(c);
			} else if (c->busy && c->rx == c->tx) {
				c->busy = 0;
				inflight--;
				ok++;
			}
		}
	}
	if (opened)
		*opened = ok;
	return ok;
}

static int run_idle(void)
{
	double cpu0 = cpu_self();
	int ok = 0;
	char b;
	if (!o.first)
		sh->errors = 0;
	o.streams = o.count;
	conns = calloc((size_t)o.count, sizeof *conns);
	uint64_t t = now_ns();
	idle_round(&ok);
	head("idle");
	printf("\"phase\":\"open\",\"verified\":%d,\"seconds\":%.3f,", ok, (double)(now_ns() - t) / 1e9);
	int rc = tail_print(cpu0);
	while (read(0, &b, 1) > 0)
		;
	t = now_ns();
	int alive = idle_round(NULL);
	head("idle");
	printf("\"phase\":\"reuse\",\"verified\":%d,\"seconds\":%.3f,", alive, (double)(now_ns() - t) / 1e9);
	return tail_print(cpu0) || rc || ok != o.count;
}

int main(int argc, char **argv)
{
	const char *listen_at = NULL, *shm = NULL, *target = NULL;
	if (argc < 2)
		die("usage: see the head of meshload.c");
	for (int i = 2; i < argc; i++) {
		const char *k = argv[i], *v = i + 1 < argc ? argv[i + 1] : "";
		if (!strcmp(k, "--rst")) {
			o.rst = 1;
			continue;
		}
		i++;
		if (!strcmp(k, "--listen"))
			listen_at = v;
		else if (!strcmp(k, "--shm"))
			shm = v;
		else if (!strcmp(k, "--target"))
			target = v;
		else if (!strcmp(k, "--connect"))
			o.connect = v;
		else if (!strcmp(k, "--first-slot"))
			o.first = atoi(v);
		else if (!strcmp(k, "--streams"))
			o.streams = atoi(v);
		else if (!strcmp(k, "--count"))
			o.count = atoi(v);
		else if (!strcmp(k, "--window"))
			o.window = atoi(v);
		else if (!strcmp(k, "--size"))
			o.size = atoi(v);
		else if (!strcmp(k, "--warmup"))
			o.warmup = atof(v);
		else if (!strcmp(k, "--time"))
			o.time = atof(v);
		else if (!strcmp(k, "--rate"))
			o.rate = atof(v);
		else if (!strcmp(k, "--verify"))
			verify_full = !strcmp(v, "full");
		else if (!strcmp(k, "--dir"))
			o.dir = !strcmp(v, "up") ? M_SINK : !strcmp(v, "down") ? M_SOURCE : M_BOTH;
		else
			die("unknown option %s", k);
	}
	if (o.size < 1 || o.size > MAX_MSG || o.streams < 1 || o.count < 1 || o.first < 0)
		die("bad --size, --streams, --count or --first-slot");
	struct rlimit rl = {1000000, 1000000};
	if (setrlimit(RLIMIT_NOFILE, &rl) < 0) {
		getrlimit(RLIMIT_NOFILE, &rl);
		rl.rlim_cur = rl.rlim_max;
		setrlimit(RLIMIT_NOFILE, &rl);
	}
	signal(SIGPIPE, SIG_IGN);
	pat_init();
	shm_open_file(shm);
	ep = epoll_create1(EPOLL_CLOEXEC);
	if (!strcmp(argv[1], "server")) {
		if (!listen_at)
			die("server needs --listen");
		run_server(listen_at);
	}
	o.target = parse_addr(target);
	if (!strcmp(argv[1], "bulk"))
		return run_bulk();
	if (!strcmp(argv[1], "pingpong"))
		return run_pingpong();
	if (!strcmp(argv[1], "short"))
		return run_short();
	if (!strcmp(argv[1], "idle"))
		return run_idle();
	die("unknown mode %s", argv[1]);
}
