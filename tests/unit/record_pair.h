/*
 * Two ends of a connection with records, over TCP on loopback: 0 connected (client), 1 accepted (server). For tests that include
 * daemon/tls/record.c before it. Certificates are made by record_setup(): those of node and b, or with CERTS_ALL defined all.
 */
#pragma once
#include "net/sock.h"
#include "unit/certs.h"
#include <poll.h>
#include <signal.h>

#define WAIT_MS 10000
#define AES128	"TLS13-AES128-GCM-SHA256"
#define AES256	"TLS13-AES256-GCM-SHA384"
#define CHACHA	"TLS13-CHACHA20-POLY1305-SHA256"

static struct config cfg = {.workers = 1, .kernel.ktls = SWITCH_OFF}; /* whatever the kernel can: these are about the user engine */
static struct loop l;

static inline void no_event(void *owner, union ev_ref ref, uint32_t events)
{
	(void)owner, (void)ref, (void)events;
}

static inline int64_t buffered(void)
{
	return atomic_load(&l.stats.g[SG_BUFFERED]);
}

static inline uint64_t counter(enum stats_counter c)
{
	return atomic_load(&l.stats.c[c]);
}

/* ---- two ends of a connection: 0 connected (client), 1 accepted (server) ---- */

struct two {
	struct tls_ctx *ctx[2];
	struct rec r[2];
	const char *ids[2];
	int res[2];
	struct err e[2];
	struct tls_peer peer[2];
};

static inline void tcp_pair(int fd[2])
{
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}}, peer;
	struct pollfd p = {.events = POLLIN};
	struct err e = {""};
	int s;

	if (sock_listen(&a, 8, &s, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(sock_local(s, &a), 0);
	fd[0] = sock_connect(&a);
	assert_true(fd[0] >= 0);
	p.fd = s;
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	fd[1] = sock_accept(s, &peer);
	assert_true(fd[1] >= 0);
	close(s);
}

static inline struct tls_ctx *ctx_of(const struct cfg_identity *id)
{
	struct tls_ctx *t = NULL;
	struct err w = {""}, e = {""};

	if (tls_ctx_create(&t, id, &w, &e) < 0)
		fail_msg("%s", e.msg);
	return t;
}

static inline void open_ctx(struct two *t, const struct cfg_identity *client, const struct cfg_identity *server)
{
	int fd[2];

	memset(t, 0, sizeof(*t));
	tcp_pair(fd);
	if (client) {
		t->ctx[0] = ctx_of(client);
		t->ctx[1] = ctx_of(server);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(rec_open(&t->r[i], &l, fd[i], t->ctx[i], i, NULL), 0);
		t->res[i] = -EAGAIN;
	}
}

static inline int ms_left(const struct timespec *from)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return WAIT_MS - (int)((now.tv_sec - from->tv_sec) * 1000 + (now.tv_nsec - from->tv_nsec) / 1000000);
}

static inline void shake(struct two *t)
{
	struct timespec t0;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (t->res[0] == -EAGAIN || t->res[1] == -EAGAIN) {
		struct pollfd p[2];

		for (int i = 0; i < 2; i++) {
			if (t->res[i] == -EAGAIN)
				t->res[i] = rec_handshake(&t->r[i], t->ids[i] ? &t->ids[i] : NULL, t->ids[i] ? 1 : 0, &t->peer[i], &t->e[i]);
			if (t->res[i] < 0 && t->res[i] != -EAGAIN)
				rec_close(&t->r[i], false);
			p[i] = (struct pollfd){.fd = t->res[i] == -EAGAIN ? t->r[i].fd : -1, .events = POLLIN};
		}
		assert_true(ms_left(&t0) > 0);
		(void)poll(p, 2, 20);
	}
}

static inline void two_close(struct two *t)
{
	for (int i = 0; i < 2; i++) {
		rec_close(&t->r[i], false);
		tls_ctx_put(t->ctx[i]);
	}
	assert_int_equal(buffered(), 0);
}

static inline void two_open(struct two *t, const char *ciphers)
{
	struct cfg_identity client = certs_identity("node", ciphers), server = certs_identity("b", ciphers);

	open_ctx(t, &client, &server);
	shake(t);
	for (int i = 0; i < 2; i++)
		if (t->res[i])
			fail_msg("%s", t->e[i].msg);
}

/* ---- what arrives ---- */

/* what side @side sends as its @i-th byte */
static inline uint8_t byte_at(int side, uint64_t i)
{
	return (uint8_t)(i * 131 + (i >> 8) * 7 + (i >> 16) * 3 + (uint64_t)side * 91);
}

struct got {
	uint8_t *p;
	size_t n, cap, calls, largest;
	int refuse; /* errno for the next call */
};

static inline int take(void *arg, const uint8_t *p, size_t n)
{
	struct got *g = arg;

	if (g->refuse)
		return g->refuse;
	g->calls++;
	g->largest = n > g->largest ? n : g->largest;
	if (g->n + n > g->cap) {
		g->cap = 2 * (g->n + n);
		g->p = realloc(g->p, g->cap);
		assert_non_null(g->p);
	}
	if (n)
		memcpy(g->p + g->n, p, n);
	g->n += n;
	return 0;
}

/* read until @want bytes are there or something else than bytes came; Return: the last of rec_read() */
static inline ssize_t read_some(struct rec *r, struct got *g, size_t want, struct err *e)
{
	struct pollfd p = {.fd = r->fd, .events = POLLIN};
	ssize_t n = 0;

	do {
		if (!r->ended && poll(&p, 1, WAIT_MS) != 1)
			return -ETIME;
		r->readable = true;
		n = rec_read(r, take, g, e);
	} while ((n > 0 || n == -EAGAIN) && (!want || g->n < want));
	return n;
}

static inline ssize_t read_end(struct rec *r, struct got *g, struct err *e)
{
	return read_some(r, g, 0, e);
}

static inline void put(struct rec *r, const void *p, size_t n)
{
	memcpy(l.scratch.plain, p, n);
	assert_int_equal(rec_write(r, n), 0);
}

static inline void crosses(struct rec *from, struct rec *to, const char *text)
{
	struct got g = {0};
	struct err e = {""};

	put(from, text, strlen(text));
	if (read_some(to, &g, strlen(text), &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(g.n, strlen(text));
	assert_memory_equal(g.p, text, g.n);
	free(g.p);
}

/* ---- records made by hand ---- */

struct wire {
	uint8_t p[400000];
	size_t n;
};
static struct wire w;

/* append a record of @type as @r would send it, with @pad zeros behind the content type */
static inline uint8_t *craft(struct rec *r, uint8_t type, const void *p, size_t n, size_t pad)
{
	static uint8_t inner[40000];
	uint8_t *at = w.p + w.n;
	ssize_t len;

	assert_true(n + pad < sizeof(inner) - 2 && w.n + n + pad + 64 < sizeof(w.p));
	if (n)
		memcpy(inner, p, n);
	if (pad) {
		inner[n] = type;
		memset(inner + n + 1, 0, pad);
		len = seal(r->keys, 0, inner, n + pad, at);
	} else {
		len = seal(r->keys, type, inner, n, at);
	}
	assert_true(len > 0);
	w.n += (size_t)len;
	return at;
}

static inline void wire_send(struct rec *r)
{
	size_t off = 0;

	while (off < w.n) {
		struct pollfd p = {.fd = r->fd, .events = POLLOUT};
		ssize_t n;

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		n = send(r->fd, w.p + off, w.n - off, MSG_DONTWAIT | MSG_NOSIGNAL);
		assert_true(n > 0);
		off += (size_t)n;
	}
	w.n = 0;
}

/* the client's bytes as they are in @w, then FIN */
static inline void raw(struct two *t, int want, const char *because)
{
	struct got g = {0};
	struct err e = {""};
	ssize_t r;

	wire_send(&t->r[0]);
	(void)shutdown(t->r[0].fd, SHUT_WR);
	r = read_end(&t->r[1], &g, &e);
	if (r != want || !strstr(e.msg, because))
		fail_msg("%zd '%s', not %d '%s'", r, e.msg, want, because);
	assert_int_equal(g.n, 0); /* nothing of it came through */
	free(g.p);
}

static inline int record_setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	wolfSSL_Init();
#ifdef CERTS_ALL
	if (certs_make(true))
#else
	if (certs_make(false))
#endif
		return -1;
	return loop_init(&l, 0, &cfg, NULL, no_event);
}

static inline int record_teardown(void **state)
{
	(void)state;
	loop_finish(&l);
	wolfSSL_Cleanup();
	return 0;
}
