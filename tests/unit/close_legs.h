/*
 * Connections with legs of every kind: streams are those of in-memory sessions, sockets are TCP pairs; worker and daemon are real, but
 * nothing runs: the test turns the loop. For tests that include daemon/chain/close.c before it.
 */
#pragma once
#define STREAMS 64
#include "unit/h2_pair.h"
#include <poll.h>

static struct cfg_listener listener[1];
static struct cfg_cluster cluster[1];
static struct cfg_endpoint endpoint[1];
static struct config cfg;
static struct daemon *d;
static struct worker *w;

/* ---- a tunnel whose far end is a side ---- */

struct tun {
	struct tunnel t;
	struct side *peer;
	uint8_t *wire;
	size_t n, cap;
	struct conn *c; /* takes the next request, or has the stream */
};
static struct tun tun[2]; /* the source's (server), the destination's (client) */

static inline struct tun *tun_of(void *owner)
{
	return container_of((struct tunnel *)owner, struct tun, t);
}

static inline void tun_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	struct tun *x = tun_of(owner);

	(void)h, (void)n, (void)flags;
	assert_int_equal(h2_accept(&x->t.h2, &x->c->leg[SRC].s, id), 0);
}

static inline void tun_response(void *owner, struct h2_stream *s, const struct header *h, size_t n, unsigned int flags)
{
	(void)owner, (void)s, (void)h, (void)n, (void)flags;
}

static inline void tun_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	(void)owner, (void)p;
	h2_consumed(s, n);
}

static inline void tun_end(void *owner, struct h2_stream *s)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	c->leg[side].in_done = true;
}

static inline void tun_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	conn_stream_closed(c, side, code, by_peer);
}

static inline ssize_t tun_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	(void)owner, (void)s, (void)dst, (void)max, (void)ret_eof;
	return -EAGAIN;
}

static inline void tun_nothing(void *owner)
{
	(void)owner;
}

static inline void tun_goaway(void *owner, uint32_t code)
{
	(void)owner, (void)code;
}

static inline void tun_pong(void *owner, uint64_t sent_us, bool fence)
{
	(void)owner, (void)sent_us, (void)fence;
}

static inline void tun_hostile(void *owner, const char *why)
{
	(void)owner;
	fail_msg("%s", why);
}

static inline int tun_write(void *owner, size_t n)
{
	struct tun *x = tun_of(owner);

	if (x->n + n > x->cap) {
		x->cap = 2 * (x->n + n);
		x->wire = realloc(x->wire, x->cap);
		assert_non_null(x->wire);
	}
	memcpy(x->wire + x->n, w->loop.scratch.plain, n);
	x->n += n;
	return 0;
}

static inline bool tun_blocked(void *owner)
{
	(void)owner;
	return false;
}

static inline uint32_t tun_rtt(void *owner)
{
	(void)owner;
	return 0;
}

static const struct h2_ops tun_ops = {
	.request = tun_request,
	.response = tun_response,
	.data = tun_data,
	.end = tun_end,
	.closed = tun_closed,
	.pull = tun_pull,
	.settings = tun_nothing,
	.goaway = tun_goaway,
	.pong = tun_pong,
	.dirty = tun_nothing,
	.hostile = tun_hostile,
	.write = tun_write,
	.blocked = tun_blocked,
	.rtt_us = tun_rtt,
};

static inline void tun_settle(struct tun *x)
{
	for (int quiet = 0; quiet < 2;) {
		size_t moved;

		assert_int_equal(h2_flush(&x->t.h2), 0);
		assert_int_equal(side_flush(x->peer), 0);
		moved = x->n + x->peer->n;
		if (x->n)
			assert_int_equal(h2_input(&x->peer->h2, x->wire, x->n), 0);
		x->n = 0;
		if (x->peer->n) {
			size_t n = x->peer->n;

			x->peer->n = 0;
			assert_int_equal(h2_input(&x->t.h2, x->peer->wire, n), 0);
		}
		quiet = moved ? 0 : quiet + 1;
	}
}

static inline void tun_init(struct tun *x, bool server)
{
	memset(x, 0, sizeof(*x));
	x->t.l = &w->loop;
	x->t.snap = w->snap;
	x->t.server = server;
	x->t.state = TUNNEL_OPEN;
	assert_int_equal(h2_init(&x->t.h2, &w->loop, server, 100, &tun_ops, &x->t), 0);
	x->peer = side_new();
	assert_non_null(x->peer);
	x->peer->no_answer = true;
	assert_int_equal(h2_init(&x->peer->h2, &x->peer->l, !server, 100, &side_ops, x->peer), 0);
	tun_settle(x);
}

static inline void tun_finish(struct tun *x)
{
	h2_abort(&x->t.h2);
	h2_abort(&x->peer->h2);
	side_free(x->peer);
	free(x->wire);
}

/* ---- connections ---- */

static inline void tcp_pair(int fd[2])
{
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}}, peer;
	struct pollfd p = {.events = POLLIN};
	struct err e = {""};

	assert_int_equal(sock_listen(&a, 8, &p.fd, &e), 0);
	assert_int_equal(sock_local(p.fd, &a), 0);
	fd[0] = sock_connect(&a);
	assert_true(fd[0] >= 0);
	assert_int_equal(poll(&p, 1, 5000), 1);
	fd[1] = sock_accept(p.fd, &peer);
	assert_true(fd[1] >= 0);
	close(p.fd);
}

static int app[2]; /* the applications' ends of the legs that are sockets */

static inline struct conn *conn_of(enum leg_kind src, enum leg_kind dst, bool open)
{
	struct conn *c = conn_new(w, w->snap, &listener[0]);
	int fd[2];

	assert_non_null(c);
	c->stages.cluster = &cluster[0];
	app[0] = app[1] = -1;
	for (int i = 0; i < 2; i++) {
		enum leg_kind k = i ? dst : src;

		c->leg[i].kind = (uint8_t)k;
		tun[i].c = c;
		if (k == LEG_SOCK) {
			tcp_pair(fd);
			app[i] = fd[0];
			c->leg[i].fd = fd[1];
		}
	}
	if (src == LEG_STREAM) {
		assert_non_null(str_open(tun[0].peer, "10.0.0.7:80"));
		tun_settle(&tun[0]);
	}
	if (dst == LEG_STREAM) {
		nghttp2_nv nv[2] = {NV_LIT(":method", "CONNECT"), NV_LIT(":authority", "10.0.0.7:80")};

		assert_int_equal(h2_open(&tun[1].t.h2, &c->leg[DST].s, nv, 2), 0);
		tun_settle(&tun[1]);
	}
	if (open) {
		nghttp2_nv ok = NV_LIT(":status", "200");

		assert_true(conn_set_state(c, CONN_OPEN));
		c->open_us = w->loop.now_us;
		if (src == LEG_STREAM) {
			assert_int_equal(h2_respond(&c->leg[SRC].s, &ok, 1), 0);
			c->leg[SRC].answered = true;
		}
		if (dst == LEG_STREAM) {
			assert_int_equal(str_answer(&tun[1].peer->str[tun[1].peer->n_str - 1], "200"), 0);
			c->leg[DST].answered = true;
		}
		for (int i = 0; i < 2; i++)
			tun_settle(&tun[i]);
	}
	return c;
}

/* what the peer of a leg's stream has: its last stream */
static inline struct str *far(int side)
{
	assert_true(tun[side].peer->n_str > 0);
	return &tun[side].peer->str[tun[side].peer->n_str - 1];
}

static inline int seen_by(int fd)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};
	char b[64];
	ssize_t n;

	if (poll(&p, 1, 50) != 1)
		return 1; /* nothing */
	do
		n = recv(fd, b, sizeof(b), MSG_DONTWAIT);
	while (n > 0);
	return n == 0 ? 0 : -errno;
}

static inline void settle(void)
{
	for (int i = 0; i < 2; i++)
		tun_settle(&tun[i]);
}

static inline void over(void)
{
	loop_turn(&w->loop, 0);
	loop_turn(&w->loop, 0);
	assert_int_equal(w->conns.used, 0); /* freed at the end of the turn */
	assert_int_equal(atomic_load(&d->connections), 0);
	assert_int_equal(atomic_load(&d->per_listener[0]), 0);
	assert_int_equal(atomic_load(&d->per_cluster[0]), 0);
	assert_int_equal(atomic_load(&w->loop.stats.g[SG_CONNECTIONS]), 0);
	assert_int_equal(atomic_load(&w->loop.stats.g[SG_BUFFERED]), 0);
	for (int i = 0; i < 2; i++)
		if (app[i] >= 0)
			close(app[i]);
	app[0] = app[1] = -1;
}

static inline int setup(void **state)
{
	struct snapshot *snap;
	struct err e = {""};

	(void)state;
	(void)log_level_set("all", "error");
	side_limits(&cfg);
	cfg.limits.max_connections = 100;
	cfg.limits.max_tunnels_in = 10;
	cfg.limits.early_data = 65536;
	cfg.timeouts.open_ms = cfg.timeouts.handshake_ms = 5000;
	endpoint[0] = (struct cfg_endpoint){.address = {.family = AF_INET, .port = 1, .ip = {127, 0, 0, 1}}};
	cluster[0] = (struct cfg_cluster){.name = "to-b",
					  .type = CLUSTER_TUNNEL,
					  .endpoints = endpoint,
					  .n_endpoints = 1,
					  .pool = {.max_tunnels = 4, .max_streams = 10, .queue = 10, .queue_timeout_ms = 1000}};
	listener[0] = (struct cfg_listener){.name = "inner", .type = LISTENER_INTERNAL, .to = {.cluster = cluster}};
	cfg.listeners = listener;
	cfg.clusters = cluster;
	cfg.n_listeners = cfg.n_clusters = cfg.n_endpoints = 1;
	if (snapshot_create(&snap, &cfg, NULL, cfg.workers, NULL, &e) < 0 || daemon_create(&d, snap, &e) < 0)
		fail_msg("%s", e.msg);
	w = &d->workers[0];
	tun_init(&tun[0], true);
	tun_init(&tun[1], false);
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		tun_finish(&tun[i]);
	daemon_destroy(d);
	return 0;
}
