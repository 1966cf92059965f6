/*
 * The pool against peers on loopback: how streams are spread over tunnels, who waits and for how long, and what happens when tunnels
 * fail, drain, age. A peer is a listener whose connections each have a session of tests/unit/h2_pair.h; all in one thread.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tunnel/pool.c"
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

static void peer_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	for (size_t i = 0; i < n; i++)
		if (slice_is(h[i].name, ":authority")) {
			size_t at = strlen(order_seen);

			snprintf(order_seen + at, sizeof(order_seen) - at, "%.*s ", (int)h[i].value.n, h[i].value.p);
		}
	side_ops.request(owner, id, h, n, flags);
}

static void peer_listen(struct peer *p)
{
	struct err e = {""};

	memset(p, 0, sizeof(*p));
	assert_int_equal(addr_parse("127.0.0.1:0", 11, &p->at, &e), 0);
	assert_int_equal(sock_listen(&p->at, 64, &p->fd, &e), 0);
	assert_int_equal(sock_local(p->fd, &p->at), 0);
	p->max_streams = 100;
}

static void link_close(struct link_ *k)
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

static bool link_pump(struct link_ *k)
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

static bool peer_pump(struct peer *p)
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

static void peer_close(struct peer *p)
{
	for (unsigned int i = 0; i < p->n; i++)
		link_close(&p->link[i]);
	if (p->fd >= 0)
		close(p->fd);
	p->fd = -1;
}

static unsigned int links(const struct peer *p)
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

static void ready(struct pool_wait *w, struct tunnel *t, int error, const char *why)
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
			(void)pool_get(&pool, &peer[0].at, w, &waited);
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

static void hook_request(void *owner, struct tunnel *t, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	(void)owner, (void)t, (void)id, (void)h, (void)n, (void)flags;
	fail_msg("nobody opens streams to us");
}

static void hook_response(void *owner, struct tunnel *t, struct h2_stream *s, const struct header *h, size_t n, unsigned int flags)
{
	(void)owner, (void)t, (void)h, (void)n, (void)flags;
	container_of(s, struct client, s)->answered = true;
}

static void hook_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	(void)owner, (void)p;
	h2_consumed(s, n);
}

static void hook_end(void *owner, struct h2_stream *s)
{
	(void)owner, (void)s;
}

static void hook_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	struct client *c = container_of(s, struct client, s);

	(void)owner, (void)by_peer;
	c->n_closed++;
	c->code = code;
}

static ssize_t hook_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	(void)owner, (void)s, (void)dst, (void)max, (void)ret_eof;
	return -EAGAIN;
}

static void hook_batch(void *owner)
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

static void dispatch(void *owner, union ev_ref ref, uint32_t events)
{
	(void)owner;
	assert_int_equal(ref.kind, EV_TUNNEL);
	tunnel_event(&ts, ref, events);
}

static int setup(void **state)
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
	tunnels_init(&ts, &l, 100, &hooks, NULL, NULL);
	for (int i = 0; i < 2; i++)
		peer_listen(&peer[i]);
	pool_init(&pool, &ts, &cluster);
	pool_init(&pool2, &ts, &cluster2);
	return 0;
}

static int teardown(void **state)
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

static uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

/* until @done, or until nothing happens any more */
static void run(bool (*done)(void))
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

static void settle(void)
{
	run(NULL);
}

static int get(unsigned int i)
{
	cl[i].w.ready = ready;
	return pool_get(&pool, &peer[0].at, &cl[i].w, &cl[i].waited);
}

static void get_many(unsigned int from, unsigned int to)
{
	for (unsigned int i = from; i < to; i++)
		assert_int_equal(get(i), 0);
}

static void end(unsigned int i)
{
	struct tunnel *t = cl[i].t;

	assert_true(cl[i].s.id != 0);
	h2_reset(&cl[i].s, NGHTTP2_CANCEL);
	tunnel_stream_ended(t);
}

static unsigned int opened(unsigned int from, unsigned int to)
{
	unsigned int n = 0;

	for (unsigned int i = from; i < to; i++)
		n += cl[i].s.id != 0;
	return n;
}

/* ---- spreading ---- */

static void many_streams_share_a_tunnel(void **state)
{
	(void)state;
	get_many(0, 50);
	assert_int_equal(opened(0, 50), 0); /* they wait for the handshake */
	assert_int_equal(pool_queued(&pool), 50);
	settle();
	assert_int_equal(opened(0, 50), 50);
	assert_int_equal(links(&peer[0]), 1);
	assert_int_equal(pool_tunnels(&pool), 1);
	for (unsigned int i = 0; i < 50; i++) {
		assert_true(cl[i].waited && cl[i].answered);
		assert_int_equal(cl[i].n_ready, 1);
		assert_int_equal(serial[i], i + 1); /* first come, first served */
		assert_ptr_equal(cl[i].t, cl[0].t);
	}
	assert_int_equal(get(50), 0); /* no waiting any more */
	assert_false(cl[50].waited);
	assert_int_equal(cl[50].n_ready, 1);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_HIT]), 1);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_MISS]), 1);
}

static void a_full_tunnel_gets_a_second_and_is_used_again(void **state)
{
	(void)state;
	cluster.pool.max_streams = 10;
	get_many(0, 25);
	settle();
	assert_int_equal(opened(0, 25), 25);
	assert_int_equal(links(&peer[0]), 3);
	for (unsigned int i = 0; i < 15; i++)
		end(i);
	settle();
	get_many(25, 40); /* as many as ended */
	settle();
	assert_int_equal(opened(25, 40), 15);
	assert_int_equal(links(&peer[0]), 3);
	assert_int_equal(pool_tunnels(&pool), 3);
	for (unsigned int i = 25; i < 40; i++)
		assert_in_range(cl[i].t->h2.streams, 1, 10);
}

static void the_peers_limit_counts(void **state)
{
	(void)state;
	peer[0].max_streams = 4;
	get_many(0, 10);
	settle();
	assert_int_equal(opened(0, 10), 10);
	assert_int_equal(links(&peer[0]), 3);
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(cl[i].n_closed, 0); /* none was refused */
}

static void a_limit_that_changes_counts(void **state)
{
	nghttp2_settings_entry iv = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 2};

	(void)state;
	get_many(0, 3);
	settle();
	assert_int_equal(links(&peer[0]), 1);
	peer[0].link[0].x->h2.max_streams = 2;
	assert_int_equal(nghttp2_submit_settings(peer[0].link[0].x->h2.ng, NGHTTP2_FLAG_NONE, &iv, 1), 0);
	settle();
	get_many(3, 5);
	settle();
	assert_int_equal(links(&peer[0]), 2);
	assert_ptr_not_equal(cl[3].t, cl[0].t);
	assert_int_equal(opened(0, 5), 5); /* those that were there go on */
	iv.value = 50;
	peer[0].link[0].x->h2.max_streams = 50;
	assert_int_equal(nghttp2_submit_settings(peer[0].link[0].x->h2.ng, NGHTTP2_FLAG_NONE, &iv, 1), 0);
	settle();
	for (unsigned int i = 3; i < 5; i++)
		end(i);
	settle();
	assert_int_equal(h2_room(&cl[0].t->h2), 47);
}

static void the_fullest_is_filled_first(void **state)
{
	struct tunnel *a, *b;

	(void)state;
	cluster.pool.max_streams = 10;
	get_many(0, 30);
	settle();
	assert_int_equal(links(&peer[0]), 3);
	a = cl[0].t;
	b = cl[10].t;
	for (unsigned int i = 0; i < 8; i++)
		end(i); /* a: 2 left */
	for (unsigned int i = 10; i < 15; i++)
		end(i); /* b: 5 left; the third, which took the last stream, is full */
	settle();
	assert_int_equal(a->h2.streams, 2);
	assert_int_equal(b->h2.streams, 5);
	get_many(30, 34);
	settle();
	for (unsigned int i = 30; i < 34; i++)
		assert_ptr_equal(cl[i].t, b);
	assert_int_equal(a->h2.streams, 2);
}

static void addresses_and_clusters_have_tunnels_of_their_own(void **state)
{
	bool waited;

	(void)state;
	cluster2 = cluster; /* the same peer, another identity perhaps */
	get_many(0, 3);
	cl[3].w.ready = cl[4].w.ready = ready;
	assert_int_equal(pool_get(&pool2, &peer[0].at, &cl[3].w, &waited), 0);
	assert_int_equal(pool_get(&pool, &peer[1].at, &cl[4].w, &waited), 0);
	settle();
	assert_int_equal(opened(0, 5), 5);
	assert_int_equal(links(&peer[0]), 2);
	assert_int_equal(links(&peer[1]), 1);
	assert_int_equal(pool_tunnels(&pool), 2);
	assert_int_equal(pool_tunnels(&pool2), 1);
	assert_ptr_not_equal(cl[3].t, cl[0].t);
	assert_ptr_not_equal(cl[4].t, cl[0].t);
}

static void streams_reach_the_peer_in_order_over_several_tunnels(void **state)
{
	char want[1000] = "", *p = want;

	(void)state;
	cluster.pool.max_streams = 7;
	peer[0].backwards = true; /* the new tunnel would overtake the old one */
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(get(i), 0);
		if (i % 5 == 0) {
			loop_turn(&l, 0);
			(void)peer_pump(&peer[0]);
		}
		p += sprintf(p, "c%u:1 ", i);
	}
	settle();
	assert_int_equal(opened(0, 40), 40);
	assert_int_equal(links(&peer[0]), 6);
	assert_string_equal(order_seen, want);
}

/* ---- waiting ---- */

static void who_waits_is_served_in_order_when_a_stream_ends(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 2;
	cluster.pool.max_streams = 4;
	get_many(0, 12);
	settle();
	assert_int_equal(links(&peer[0]), 2);
	assert_int_equal(opened(0, 8), 8);
	assert_int_equal(opened(8, 12), 0);
	assert_int_equal(pool_queued(&pool), 4);
	for (unsigned int i = 0; i < 4; i++) {
		end(i);
		settle();
		assert_int_equal(opened(8, 12), i + 1);
		assert_true(cl[8 + i].s.id != 0);
	}
	assert_int_equal(pool_queued(&pool), 0);
}

static void the_queue_is_bounded(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	cluster.pool.queue = 3;
	get_many(0, 1);
	settle();
	get_many(1, 4);
	assert_int_equal(get(4), -EBUSY);
	assert_int_equal(cl[4].n_ready, 0); /* and will not be called */
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_OVERFLOW]), 1);
	end(0);
	settle();
	assert_int_equal(get(4), 0);
	assert_int_equal(cl[4].n_ready, 0);
}

static bool first_two_gone(void)
{
	return cl[1].n_ready && cl[2].n_ready;
}

static void waiting_has_an_end(void **state)
{
	uint64_t t0;

	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	cluster.pool.queue_timeout_ms = 60;
	get_many(0, 1);
	settle();
	t0 = ms();
	get_many(1, 3);
	run(first_two_gone);
	assert_in_range(ms() - t0, 50, 3000);
	for (unsigned int i = 1; i < 3; i++) {
		assert_null(cl[i].t);
		assert_int_equal(cl[i].error, -ETIMEDOUT);
		assert_non_null(strstr(cl[i].why, "full"));
		assert_int_equal(cl[i].n_ready, 1);
	}
	assert_true(serial[1] < serial[2]);
	assert_int_equal(pool_queued(&pool), 0);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_TIMEOUT]), 2);
}

static void each_waits_its_own_time(void **state)
{
	uint64_t t0 = ms();

	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	cluster.pool.queue_timeout_ms = 120;
	get_many(0, 1);
	settle();
	t0 = ms();
	get_many(1, 2);
	while (ms() - t0 < 80)
		loop_turn(&l, 5);
	get_many(2, 3);
	run(first_two_gone);
	assert_in_range(ms() - t0, 190, 3000); /* the second came 80 ms later */
}

static void who_goes_away_is_not_called(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	get_many(0, 1);
	settle();
	get_many(1, 4);
	pool_cancel(&cl[1].w);
	pool_cancel(&cl[1].w); /* not queued: nothing happens */
	pool_cancel(&cl[3].w);
	pool_cancel(&cl[40].w); /* never queued */
	assert_int_equal(pool_queued(&pool), 1);
	end(0);
	settle();
	assert_true(cl[2].s.id != 0);
	assert_int_equal(cl[1].n_ready + cl[3].n_ready, 0);
}

static void all_may_go_away_before_the_tunnel_is_there(void **state)
{
	(void)state;
	get_many(0, 5);
	for (unsigned int i = 0; i < 5; i++)
		pool_cancel(&cl[i].w);
	settle();
	assert_int_equal(served, 0);
	assert_int_equal(pool_tunnels(&pool), 1); /* the next will be glad */
	assert_int_equal(get(5), 0);
	assert_true(cl[5].s.id != 0);
}

/* ---- failures ---- */

static void a_dial_that_fails_fails_all_who_wait_once(void **state)
{
	(void)state;
	close(peer[0].fd);
	peer[0].fd = -1;
	get_many(0, 5);
	settle();
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(cl[i].n_ready, 1);
		assert_null(cl[i].t);
		assert_int_equal(cl[i].error, -ECONNREFUSED);
		assert_non_null(strstr(cl[i].why, "is the agent running there?"));
	}
	assert_int_equal(pool_tunnels(&pool), 0);
	assert_int_equal(pool_queued(&pool), 0);
	get_many(5, 6); /* each new one is an attempt of its own */
	settle();
	assert_int_equal(cl[5].n_ready, 1);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_MISS]), 2);
}

static void who_failed_may_ask_again_at_once(void **state)
{
	(void)state;
	close(peer[0].fd);
	peer[0].fd = -1;
	for (unsigned int i = 0; i < 5; i++)
		cl[i].again = 2;
	get_many(0, 5);
	settle();
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(cl[i].n_ready, 3);
	assert_int_equal(pool_queued(&pool), 0);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_MISS]), 3); /* they share the attempts */
}

static void who_is_cancelled_by_another_is_not_called(void **state)
{
	(void)state;
	cl[0].cancels = &cl[1];
	get_many(0, 3);
	settle();
	assert_int_equal(cl[0].n_ready, 1);
	assert_int_equal(cl[1].n_ready, 0);
	assert_int_equal(cl[2].n_ready, 1);
}

static void a_peer_that_says_nothing_is_given_up(void **state)
{
	(void)state;
	cfg.timeouts.handshake_ms = 60;
	peer[0].mute = true;
	get_many(0, 3);
	settle();
	while (!cl[2].n_ready)
		loop_turn(&l, 5);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(cl[i].error, -ETIMEDOUT);
		assert_non_null(strstr(cl[i].why, "SETTINGS"));
	}
}

static void a_peer_that_is_none_is_given_up(void **state)
{
	(void)state;
	peer[0].mute = true;
	get_many(0, 3);
	settle();
	assert_int_equal(links(&peer[0]), 1);
	assert_int_equal(send(peer[0].link[0].fd, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 32, 0), 32);
	settle();
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(cl[i].n_ready, 1);
		assert_true(cl[i].error < 0);
	}
	assert_int_equal(pool_tunnels(&pool), 0);
}

static bool all_lost(void)
{
	for (unsigned int i = 0; i < 3; i++)
		if (!cl[i].n_closed)
			return false;
	return true;
}

static void a_tunnel_that_ends_loses_its_streams_at_once(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		struct link_ *k;
		uint64_t t0;

		if (how) {
			teardown(NULL);
			setup(NULL);
		}
		get_many(0, 3);
		settle();
		k = &peer[0].link[0];
		switch (how) {
		case 0: /* FIN */ break;
		case 1: /* bytes and FIN, seen with one edge */
			h2_ping(&k->x->h2, false);
			assert_int_equal(side_flush(k->x), 0);
			assert_int_equal(send(k->fd, k->x->wire, k->x->n, 0), (ssize_t)k->x->n);
			break;
		case 2: /* RST */
			sock_reset(k->fd);
			k->fd = -1;
			break;
		}
		link_close(k);
		t0 = ms();
		run(all_lost);
		assert_in_range(ms() - t0, 0, 2000);
		for (unsigned int i = 0; i < 3; i++) {
			assert_int_equal(cl[i].n_closed, 1);
			assert_true(cl[i].code == H2_LOST);
		}
		assert_int_equal(pool_tunnels(&pool), 0);
		get_many(3, 4); /* and the next gets a new one */
		settle();
		assert_true(cl[3].s.id != 0);
	}
}

/* ---- GOAWAY, age ---- */

static void a_tunnel_that_drains_gets_no_new_streams(void **state)
{
	struct tunnel *old;

	(void)state;
	get_many(0, 3);
	settle();
	old = cl[0].t;
	h2_goaway_last(&peer[0].link[0].x->h2, NGHTTP2_NO_ERROR);
	settle();
	assert_int_equal(old->state, TUNNEL_DRAINING);
	get_many(3, 6);
	settle();
	for (unsigned int i = 3; i < 6; i++)
		assert_ptr_not_equal(cl[i].t, old);
	assert_int_equal(opened(0, 6), 6); /* the old ones go on */
	assert_int_equal(links(&peer[0]), 2);
	for (unsigned int i = 0; i < 3; i++)
		end(i);
	settle();
	assert_int_equal(links(&peer[0]), 1); /* closed once empty */
	assert_int_equal(pool_tunnels(&pool), 1);
}

static void draining_tunnels_do_not_count_as_room_taken(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 1;
	get_many(0, 2);
	settle();
	h2_goaway_last(&peer[0].link[0].x->h2, NGHTTP2_NO_ERROR);
	settle();
	get_many(2, 3);
	settle();
	assert_true(cl[2].s.id != 0);
}

static void a_tunnel_is_replaced_after_so_many_streams(void **state)
{
	struct tunnel *first;

	(void)state;
	cluster.pool.max_requests = 5;
	for (unsigned int i = 0; i < 12; i++) {
		get_many(i, i + 1);
		settle();
		assert_true(cl[i].s.id != 0);
		if (i == 0)
			first = cl[0].t;
		if (i == 4)
			assert_ptr_equal(cl[4].t, first);
		if (i == 5)
			assert_ptr_not_equal(cl[5].t, first);
	}
	assert_int_equal(peer[0].n, 3);
	for (unsigned int i = 0; i < 12; i++)
		end(i);
	settle();
	assert_int_equal(links(&peer[0]), 1); /* spent ones are closed, the last has some left */
}

static bool none_left(void)
{
	return pool_tunnels(&pool) == 0;
}

static void an_idle_tunnel_is_closed(void **state)
{
	uint64_t t0;

	(void)state;
	cluster.pool.idle_timeout_ms = 80;
	get_many(0, 2);
	settle();
	t0 = ms();
	while (ms() - t0 < 200)
		settle();
	assert_int_equal(pool_tunnels(&pool), 1); /* in use */
	end(0);
	end(1);
	t0 = ms();
	run(none_left);
	assert_in_range(ms() - t0, 70, 3000);
	settle();
	assert_int_equal(links(&peer[0]), 0);
}

static void an_old_tunnel_is_replaced(void **state)
{
	(void)state;
	cluster.pool.max_age_ms = 60;
	get_many(0, 1);
	settle();
	while (cl[0].t->state == TUNNEL_OPEN)
		loop_turn(&l, 5);
	assert_int_equal(cl[0].t->state, TUNNEL_DRAINING);
	assert_true(cl[0].s.id != 0); /* its stream goes on */
	get_many(1, 2);
	settle();
	assert_ptr_not_equal(cl[0].t, cl[1].t);
}

static void draining_closes_what_is_empty(void **state)
{
	(void)state;
	cluster.pool.max_streams = 2;
	get_many(0, 4);
	settle();
	assert_int_equal(pool_tunnels(&pool), 2);
	end(0);
	end(1);
	pool_drain(&pool);
	settle();
	assert_int_equal(pool_tunnels(&pool), 1);
	end(2);
	end(3);
	settle();
	assert_int_equal(pool_tunnels(&pool), 0);
	assert_int_equal(links(&peer[0]), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(many_streams_share_a_tunnel),
		T(a_full_tunnel_gets_a_second_and_is_used_again),
		T(the_peers_limit_counts),
		T(a_limit_that_changes_counts),
		T(the_fullest_is_filled_first),
		T(addresses_and_clusters_have_tunnels_of_their_own),
		T(streams_reach_the_peer_in_order_over_several_tunnels),
		T(who_waits_is_served_in_order_when_a_stream_ends),
		T(the_queue_is_bounded),
		T(waiting_has_an_end),
		T(each_waits_its_own_time),
		T(who_goes_away_is_not_called),
		T(all_may_go_away_before_the_tunnel_is_there),
		T(a_dial_that_fails_fails_all_who_wait_once),
		T(who_failed_may_ask_again_at_once),
		T(who_is_cancelled_by_another_is_not_called),
		T(a_peer_that_says_nothing_is_given_up),
		T(a_peer_that_is_none_is_given_up),
		T(a_tunnel_that_ends_loses_its_streams_at_once),
		T(a_tunnel_that_drains_gets_no_new_streams),
		T(draining_tunnels_do_not_count_as_room_taken),
		T(a_tunnel_is_replaced_after_so_many_streams),
		T(an_idle_tunnel_is_closed),
		T(an_old_tunnel_is_replaced),
		T(draining_closes_what_is_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
