/*
 * The pool against peers on loopback. A peer is a listener whose connections each have a session of tests/unit/h2_pair.h; clients
 * ask the pool for tunnels and open streams on them; all in one thread. For tests that include daemon/tunnel/pool.c before it.
 */
#pragma once
#define STREAMS 64
#include "net/sock.h"
#include "unit/h2_pair.h"
#include <time.h>

#define CLIENTS 64
#define LINKS	32

/* ---- a peer ---- */

struct link_ {
	int fd;
	struct side *x;
};

struct peer {
	int fd;
	struct addr at;
	uint32_t max_streams;
	bool mute;	/* accepts, and says nothing */
	bool backwards; /* serves the newest connection first */
	struct link_ link[LINKS];
	unsigned int n;
};

static struct peer peer[2];
static char order_seen[4096]; /* authorities in the order in which peers saw them */
static struct h2_ops peer_ops;

static inline void peer_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	for (size_t i = 0; i < n; i++)
		if (slice_is(h[i].name, ":authority")) {
			size_t at = strlen(order_seen);

			snprintf(order_seen + at, sizeof(order_seen) - at, "%.*s ", (int)h[i].value.n, h[i].value.p);
		}
	side_ops.request(owner, id, h, n, flags);
}

static inline void peer_listen(struct peer *p)
{
	struct err e = {""};

	memset(p, 0, sizeof(*p));
	assert_int_equal(addr_parse("127.0.0.1:0", 11, &p->at, &e), 0);
	assert_int_equal(sock_listen(&p->at, 64, &p->fd, &e), 0);
	assert_int_equal(sock_local(p->fd, &p->at), 0);
	p->max_streams = 100;
}

static inline void link_close(struct link_ *k)
{
	if (k->fd >= 0)
		close(k->fd);
	k->fd = -1;
	if (k->x) {
		h2_abort(&k->x->h2);
		side_free(k->x);
	}
	k->x = NULL;
}

static inline bool link_pump(struct link_ *k)
{
	uint8_t b[65536];
	bool moved = false;
	ssize_t n;

	if (k->fd < 0 || !k->x)
		return false;
	while ((n = recv(k->fd, b, sizeof(b), MSG_DONTWAIT)) > 0) {
		moved = true;
		assert_int_equal(h2_input(&k->x->h2, b, (size_t)n), 0);
	}
	assert_in_range(side_flush(k->x), 0, 1);
	if (k->x->n) {
		moved = true;
		(void)!send(k->fd, k->x->wire, k->x->n, MSG_NOSIGNAL);
		k->x->n = 0;
	}
	if (n == 0)
		link_close(k);
	return moved;
}

static inline bool peer_pump(struct peer *p)
{
	struct link_ *k;
	struct addr from;
	bool moved = false;
	int fd;

	while (p->fd >= 0 && (fd = sock_accept(p->fd, &from)) >= 0) {
		assert_in_range(p->n, 0, LINKS - 1);
		k = &p->link[p->n++];
		k->fd = fd;
		moved = true;
		if (p->mute)
			continue;
		k->x = side_new();
		assert_non_null(k->x);
		assert_int_equal(h2_init(&k->x->h2, &k->x->l, true, p->max_streams, &peer_ops, k->x), 0);
	}
	for (unsigned int i = 0; i < p->n; i++)
		moved |= link_pump(&p->link[p->backwards ? p->n - 1 - i : i]);
	return moved;
}

static inline void peer_close(struct peer *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		link_close(&p->link[i]);
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

static inline unsigned int links(const struct peer *p)
{
	unsigned int n = 0;

	for (unsigned int i = 0; i < p->n; i++)
		n += p->link[i].fd >= 0;
	return n;
}

/* ---- our side ---- */

static struct loop l;
static struct config cfg;
static struct tunnels ts;
static struct pool pool, pool2;
static struct cfg_cluster cluster, cluster2;

struct client {
	struct pool_wait w;
	struct h2_stream s;
	struct tunnel *t;
	unsigned int n_ready, n_closed;
	int error;
	char why[200];
	bool waited, answered;
	uint32_t code;
	unsigned int again; /* so often it tries anew when it fails */
	struct client *cancels;
};
static struct client cl[CLIENTS];
static unsigned int served; /* how many have been called, and in which order */
static unsigned int serial[CLIENTS];

static inline void ready(struct pool_wait *w, struct tunnel *t, int error, const char *why)
{
	struct client *c = container_of(w, struct client, w);
	char name[16];
	bool waited;

	c->n_ready++;
	serial[c - cl] = ++served;
	c->t = t;
	c->error = error;
	snprintf(c->why, sizeof(c->why), "%s", why ? why : "");
	if (c->cancels)
		pool_cancel(&c->cancels->w);
	if (!t) {
		assert_true(error < 0);
		assert_string_not_equal(c->why, "");
		if (c->again) {
			c->again--;
			(void)pool_get(&pool, &peer[0].at, NULL, w, &waited);
		}
		return;
	}
	assert_int_equal(t->state, TUNNEL_OPEN);
	assert_true(h2_room(&t->h2) > 0);
	snprintf(name, sizeof(name), "c%u:1", (unsigned int)(c - cl));
	{
		nghttp2_nv nv[2] = {NV_LIT(":method", "CONNECT"), NV_LIT(":authority", name)};

		assert_int_equal(h2_open(&t->h2, &c->s, nv, 2), 0);
	}
	t->idle_ms = 0;
}

static inline void hook_request(void *owner, struct tunnel *t, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	(void)owner, (void)t, (void)id, (void)h, (void)n, (void)flags;
	fail_msg("nobody opens streams to us");
}

static inline void hook_response(void *owner, struct tunnel *t, struct h2_stream *s, const struct header *h, size_t n, unsigned int flags)
{
	(void)owner, (void)t, (void)h, (void)n, (void)flags;
	container_of(s, struct client, s)->answered = true;
}

static inline void hook_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	(void)owner, (void)p;
	h2_consumed(s, n);
}

static inline void hook_end(void *owner, struct h2_stream *s)
{
	(void)owner, (void)s;
}

static inline void hook_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	struct client *c = container_of(s, struct client, s);

	(void)owner, (void)by_peer;
	c->n_closed++;
	c->code = code;
}

static inline ssize_t hook_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	(void)owner, (void)s, (void)dst, (void)max, (void)ret_eof;
	return -EAGAIN;
}

static inline void hook_batch(void *owner)
{
	(void)owner;
}

static const struct tunnel_hooks hooks = {
	.request = hook_request,
	.response = hook_response,
	.data = hook_data,
	.end = hook_end,
	.closed = hook_closed,
	.pull = hook_pull,
	.batch = hook_batch,
};

static inline void dispatch(void *owner, union ev_ref ref, uint32_t events)
{
	(void)owner;
	assert_int_equal(ref.kind, EV_TUNNEL);
	tunnel_event(&ts, ref, events);
}

static inline int setup(void **state)
{
	(void)state;
	side_limits(&cfg);
	cfg.timeouts = (struct cfg_timeouts){.connect_ms = 5000, .handshake_ms = 5000, .ping_ms = 10000, .ping_timeout_ms = 20000};
	cluster = (struct cfg_cluster){
		.name = "to-b",
		.type = CLUSTER_TUNNEL,
		.pool = {.max_tunnels = 16, .max_streams = 1024, .queue = 50, .queue_timeout_ms = 5000},
	};
	memset(cl, 0, sizeof(cl));
	served = 0;
	order_seen[0] = '\0';
	peer_ops = side_ops;
	peer_ops.request = peer_request;
	(void)log_level_set("all", "error");
	if (loop_init(&l, 0, &cfg, NULL, dispatch) < 0)
		return -1;
	tunnels_init(&ts, &l, 100, &hooks, NULL);
	for (int i = 0; i < 2; i++)
		peer_listen(&peer[i]);
	pool_init(&pool, &ts, NULL, &cluster);
	pool_init(&pool2, &ts, NULL, &cluster2);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < CLIENTS; i++) {
		pool_cancel(&cl[i].w);
		h2_reset(&cl[i].s, NGHTTP2_CANCEL);
	}
	tunnels_finish(&ts);
	pool_finish(&pool);
	pool_finish(&pool2);
	assert_int_equal(atomic_load(&l.stats.g[SG_QUEUED]), 0);
	assert_int_equal(atomic_load(&l.stats.g[SG_TUNNELS_OUT]), 0);
	assert_int_equal(atomic_load(&l.stats.g[SG_STREAMS]), 0);
	assert_int_equal(atomic_load(&l.stats.g[SG_BUFFERED]), 0);
	assert_int_equal(l.timers.armed, 0);
	loop_finish(&l);
	for (int i = 0; i < 2; i++)
		peer_close(&peer[i]);
	return 0;
}

static inline uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* until @done, or until nothing happens any more */
static inline void run(bool (*done)(void))
{
	uint64_t t0 = ms();
	int quiet = 0;

	while (done ? !done() : quiet < 5) {
		uint64_t events = atomic_load(&l.stats.c[ST_SYS_RECV]) + atomic_load(&l.stats.c[ST_SYS_SEND]);
		bool moved;

		loop_turn(&l, 2);
		moved = peer_pump(&peer[0]) | peer_pump(&peer[1]);
		moved |= events != atomic_load(&l.stats.c[ST_SYS_RECV]) + atomic_load(&l.stats.c[ST_SYS_SEND]);
		quiet = moved ? 0 : quiet + 1;
		assert_in_range(ms() - t0, 0, 10000);
	}
}

static inline void settle(void)
{
	run(NULL);
}

static inline int get(unsigned int i)
{
	cl[i].w.ready = ready;
	return pool_get(&pool, &peer[0].at, NULL, &cl[i].w, &cl[i].waited);
}

static inline void get_many(unsigned int from, unsigned int to)
{
	for (unsigned int i = from; i < to; i++)
		assert_int_equal(get(i), 0);
}

static inline void end(unsigned int i)
{
	struct tunnel *t = cl[i].t;

	assert_true(cl[i].s.id != 0);
	h2_reset(&cl[i].s, NGHTTP2_CANCEL);
	tunnel_stream_ended(t);
}

static inline unsigned int opened(unsigned int from, unsigned int to)
{
	unsigned int n = 0;

	for (unsigned int i = from; i < to; i++)
		n += cl[i].s.id != 0;
	return n;
}
