/*
 * Every ending: what the table says, and what each kind of leg is told. Streams are those of in-memory sessions, sockets are TCP pairs;
 * worker and daemon are real, but nothing runs: the test turns the loop.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/chain/close.c"
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

static struct tun *tun_of(void *owner)
{
	return container_of((struct tunnel *)owner, struct tun, t);
}

static void tun_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	struct tun *x = tun_of(owner);

	(void)h, (void)n, (void)flags;
	assert_int_equal(h2_accept(&x->t.h2, &x->c->leg[SRC].s, id), 0);
}

static void tun_response(void *owner, struct h2_stream *s, const struct header *h, size_t n, unsigned int flags)
{
	(void)owner, (void)s, (void)h, (void)n, (void)flags;
}

static void tun_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	(void)owner, (void)p;
	h2_consumed(s, n);
}

static void tun_end(void *owner, struct h2_stream *s)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	c->leg[side].in_done = true;
}

static void tun_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	conn_stream_closed(c, side, code, by_peer);
}

static ssize_t tun_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	(void)owner, (void)s, (void)dst, (void)max, (void)ret_eof;
	return -EAGAIN;
}

static void tun_nothing(void *owner)
{
	(void)owner;
}

static void tun_goaway(void *owner, uint32_t code)
{
	(void)owner, (void)code;
}

static void tun_pong(void *owner, uint64_t sent_us, bool fence)
{
	(void)owner, (void)sent_us, (void)fence;
}

static void tun_hostile(void *owner, const char *why)
{
	(void)owner;
	fail_msg("%s", why);
}

static int tun_write(void *owner, size_t n)
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

static bool tun_blocked(void *owner)
{
	(void)owner;
	return false;
}

static uint32_t tun_rtt(void *owner)
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

static void tun_settle(struct tun *x)
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

static void tun_init(struct tun *x, bool server)
{
	memset(x, 0, sizeof(*x));
	x->t.l = &w->loop;
	x->t.server = server;
	x->t.state = TUNNEL_OPEN;
	assert_int_equal(h2_init(&x->t.h2, &w->loop, server, 100, &tun_ops, &x->t), 0);
	x->peer = side_new();
	assert_non_null(x->peer);
	x->peer->no_answer = true;
	assert_int_equal(h2_init(&x->peer->h2, &x->peer->l, !server, 100, &side_ops, x->peer), 0);
	tun_settle(x);
}

static void tun_finish(struct tun *x)
{
	h2_abort(&x->t.h2);
	h2_abort(&x->peer->h2);
	side_free(x->peer);
	free(x->wire);
}

/* ---- connections ---- */

static void tcp_pair(int fd[2])
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

static struct conn *conn_of(enum leg_kind src, enum leg_kind dst, bool open)
{
	struct conn *c = conn_new(w, &listener[0]);
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
static struct str *far(int side)
{
	assert_true(tun[side].peer->n_str > 0);
	return &tun[side].peer->str[tun[side].peer->n_str - 1];
}

static int seen_by(int fd)
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

static void settle(void)
{
	for (int i = 0; i < 2; i++)
		tun_settle(&tun[i]);
}

static void over(void)
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

static int setup(void **state)
{
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
	if (daemon_create(&d, &cfg, &e) < 0)
		fail_msg("%s", e.msg);
	w = &d->workers[0];
	tun_init(&tun[0], true);
	tun_init(&tun[1], false);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++)
		tun_finish(&tun[i]);
	daemon_destroy(d);
	return 0;
}

/* ---- the table ---- */

/* DESIGN's table, HBONE's status codes, RFC 9113's error codes, Envoy's flags: written down a second time */
static const struct {
	enum ending e;
	int status;
	uint32_t code;
	const char *flags, *by;
} expected[] = {
	{END_COMPLETE, 0, NGHTTP2_NO_ERROR, "-", "both"},
	{END_SRC_RESET, 0, NGHTTP2_CONNECT_ERROR, "DC", "src"},
	{END_DST_RESET, 503, NGHTTP2_CONNECT_ERROR, "UC", "dst"},
	{END_SRC_TUNNEL, 0, NGHTTP2_CONNECT_ERROR, "DC", "peer"},
	{END_DST_TUNNEL, 503, NGHTTP2_CONNECT_ERROR, "UC", "peer"},
	{END_BAD_REQUEST, 400, NGHTTP2_PROTOCOL_ERROR, "DPE", "src"},
	{END_HEADERS, 431, NGHTTP2_ENHANCE_YOUR_CALM, "DPE", "src"},
	{END_NO_ROUTE, 404, NGHTTP2_REFUSED_STREAM, "NR", "adit"},
	{END_DENIED, 401, NGHTTP2_REFUSED_STREAM, "UAEX", "adit"},
	{END_CONNECT, 503, NGHTTP2_CONNECT_ERROR, "UF", "dst"},
	{END_CONNECT_TIME, 504, NGHTTP2_CONNECT_ERROR, "UF", "dst"},
	{END_NO_NAME, 503, NGHTTP2_CONNECT_ERROR, "DF", "adit"},
	{END_NO_TUNNEL, 503, NGHTTP2_CONNECT_ERROR, "UF", "peer"},
	{END_QUEUE_FULL, 503, NGHTTP2_REFUSED_STREAM, "UO", "adit"},
	{END_QUEUE_TIME, 503, NGHTTP2_CONNECT_ERROR, "UT", "adit"},
	{END_PEER_DENIED, 401, NGHTTP2_CONNECT_ERROR, "UAEX", "peer"},
	{END_PEER_REFUSED, 503, NGHTTP2_CONNECT_ERROR, "UF", "peer"},
	{END_OPEN_TIME, 504, NGHTTP2_CANCEL, "UT", "peer"},
	{END_LIMIT, 503, NGHTTP2_REFUSED_STREAM, "UO", "adit"},
	{END_MEMORY, 503, NGHTTP2_INTERNAL_ERROR, "OM", "adit"},
	{END_IDLE, 503, NGHTTP2_CANCEL, "SI", "adit"},
	{END_KILLED, 503, NGHTTP2_CANCEL, "LR", "adit"},
	{END_SHUTDOWN, 503, NGHTTP2_CANCEL, "LR", "adit"},
};

static void each_row_is_as_designed(void **state)
{
	(void)state;
	assert_int_equal(ARRAY_LEN(expected), ENDINGS);
	for (size_t i = 0; i < ARRAY_LEN(expected); i++) {
		enum ending e = expected[i].e;

		assert_int_equal(e, i);
		assert_int_equal(table[e].status, expected[i].status);
		assert_int_equal(table[e].code, expected[i].code);
		assert_string_equal(ending_flags(e), expected[i].flags);
		assert_string_equal(ending_by(e), expected[i].by);
		assert_string_not_equal(ending_text(e), "");
	}
}

static void states_go_forward_only(void **state)
{
	struct conn c = {.state = CONN_DIALING};

	(void)state;
	assert_false(conn_set_state(&c, CONN_DIALING));
	assert_true(conn_set_state(&c, CONN_OPEN));
	assert_false(conn_set_state(&c, CONN_OPEN));
	assert_false(conn_set_state(&c, CONN_DIALING));
	assert_true(conn_set_state(&c, CONN_CLOSED));
	for (int s = 0; s < CONN_STATES; s++)
		assert_false(conn_set_state(&c, (enum conn_state)s));
}

/* ---- what legs are told ---- */

static bool own_doing(enum ending e, int side)
{
	return side == SRC ? e == END_SRC_RESET : e == END_DST_RESET;
}

static void sockets_see_rst_unless_it_is_complete(void **state)
{
	(void)state;
	for (int open = 0; open < 2; open++)
		for (enum ending e = 0; e < ENDINGS; e++) {
			struct conn *c = conn_of(LEG_SOCK, LEG_SOCK, open);

			conn_end(c, e, "because");
			for (int i = 0; i < 2; i++) {
				int want = e == END_COMPLETE || own_doing(e, i) ? 0 : -ECONNRESET;

				if (seen_by(app[i]) != want)
					fail_msg("%s: side %d does not see %d", ending_text(e), i, want);
			}
			over();
		}
}

static void a_truncated_transfer_is_no_clean_end(void **state)
{
	(void)state;
	for (enum ending e = END_COMPLETE + 1; e < ENDINGS; e++) {
		struct conn *c = conn_of(LEG_SOCK, LEG_SOCK, true);

		if (own_doing(e, SRC)) {
			conn_end(c, e, NULL);
			over();
			continue;
		}
		assert_int_equal(send(c->leg[SRC].fd, "half of it", 10, 0), 10); /* some bytes have been written already */
		conn_end(c, e, NULL);
		assert_int_equal(seen_by(app[SRC]), -ECONNRESET);
		over();
	}
}

static void a_stream_not_yet_answered_gets_the_status(void **state)
{
	char want[8];

	(void)state;
	for (enum ending e = END_COMPLETE + 1; e < ENDINGS; e++) {
		struct conn *c = conn_of(LEG_STREAM, LEG_NONE, false);
		struct str *f = far(SRC);

		conn_end(c, e, NULL);
		if (table[e].status)
			assert_int_equal(c->status, table[e].status);
		settle();
		assert_true(f->closed);
		if (table[e].status) {
			snprintf(want, sizeof(want), "%u", table[e].status);
			assert_string_equal(f->status, want);
			assert_int_equal(f->headers_flags, H2_HEADERS_END);
			assert_int_equal(f->code, NGHTTP2_NO_ERROR);
		} else {
			assert_string_equal(f->status, ""); /* the source itself is gone */
			assert_int_equal(f->code, table[e].code);
		}
		over();
	}
}

static void a_stream_that_was_answered_is_reset(void **state)
{
	(void)state;
	for (enum ending e = END_COMPLETE + 1; e < ENDINGS; e++) {
		struct conn *c = conn_of(LEG_STREAM, LEG_SOCK, true);
		struct str *f = far(SRC);

		conn_end(c, e, NULL);
		settle();
		assert_string_equal(f->status, "200");
		assert_int_equal(f->n_closed, 1);
		assert_int_equal(f->code, table[e].code);
		assert_true(f->by_peer);
		assert_int_equal(seen_by(app[DST]), own_doing(e, DST) ? 0 : -ECONNRESET);
		over();
	}
}

static void a_stream_that_we_opened_is_reset(void **state)
{
	(void)state;
	for (int open = 0; open < 2; open++)
		for (enum ending e = END_COMPLETE + 1; e < ENDINGS; e++) {
			struct conn *c = conn_of(LEG_SOCK, LEG_STREAM, open);
			struct str *f = far(DST);

			conn_end(c, e, NULL);
			settle();
			assert_int_equal(f->n_closed, 1);
			assert_int_equal(f->code, table[e].code);
			assert_int_equal(seen_by(app[SRC]), own_doing(e, SRC) ? 0 : -ECONNRESET);
			over();
		}
}

static void both_streams_of_a_forwarded_one_are_told(void **state)
{
	(void)state;
	for (enum ending e = END_COMPLETE + 1; e < ENDINGS; e++) {
		struct conn *c = conn_of(LEG_STREAM, LEG_STREAM, true);

		conn_end(c, e, NULL);
		settle();
		for (int i = 0; i < 2; i++) {
			assert_int_equal(far(i)->n_closed, 1);
			assert_int_equal(far(i)->code, table[e].code);
		}
		over();
	}
}

static void what_is_complete_tells_nobody_anything(void **state)
{
	struct conn *c = conn_of(LEG_STREAM, LEG_STREAM, true);

	(void)state;
	conn_end(c, END_COMPLETE, "no reason is kept");
	assert_null(c->why);
	settle();
	for (int i = 0; i < 2; i++) {
		assert_false(far(i)->closed);
		h2_reset(&far(i)->s, NGHTTP2_CANCEL); /* for the next test */
	}
	settle();
	over();
}

static void many_early_resets_are_held_back(void **state)
{
	unsigned int reset = 0;

	(void)state;
	for (int i = 0; i < 60; i++) {
		struct conn *c = conn_of(LEG_SOCK, LEG_STREAM, false);

		conn_end(c, END_KILLED, NULL);
		settle();
		reset += far(DST)->closed;
		over();
	}
	assert_int_equal(reset, 50); /* the rest when their answers come */
	assert_int_equal(tun[1].t.h2.streams, 0);
}

static void an_ending_is_the_only_one(void **state)
{
	struct conn *c = conn_of(LEG_SOCK, LEG_SOCK, true);

	(void)state;
	conn_end(c, END_KILLED, "by %s", "hand");
	assert_string_equal(c->why, "by hand");
	conn_end(c, END_IDLE, "later");
	assert_int_equal(c->ending, END_KILLED);
	assert_string_equal(c->why, "by hand");
	conn_stream_closed(c, SRC, NGHTTP2_CANCEL, true);
	conn_complete(c);
	assert_int_equal(c->ending, END_KILLED);
	over();
}

/* ---- streams that end ---- */

static enum ending after(int side, uint32_t code, bool by_peer, bool in_done)
{
	struct conn *c = side == SRC ? conn_of(LEG_STREAM, LEG_SOCK, true) : conn_of(LEG_SOCK, LEG_STREAM, true);
	enum ending e;

	c->leg[side].in_done = in_done;
	conn_stream_closed(c, side, code, by_peer);
	e = c->state == CONN_CLOSED ? c->ending : ENDINGS;
	assert_int_equal(c->leg[side].out_done, e == ENDINGS);
	if (e == ENDINGS)
		conn_end(c, END_KILLED, NULL);
	else
		assert_non_null(c->why);
	settle();
	over();
	return e;
}

static void a_reset_stream_is_a_reset_connection(void **state)
{
	(void)state;
	for (uint32_t code = NGHTTP2_PROTOCOL_ERROR; code <= NGHTTP2_HTTP_1_1_REQUIRED; code++)
		for (int in_done = 0; in_done < 2; in_done++) {
			assert_int_equal(after(SRC, code, true, in_done), END_SRC_RESET);
			assert_int_equal(after(DST, code, true, in_done), END_DST_RESET);
			assert_int_equal(after(SRC, code, false, in_done), END_SRC_RESET);
		}
	assert_int_equal(after(SRC, NGHTTP2_NO_ERROR, true, false), END_SRC_RESET); /* before its END_STREAM: truncated */
	assert_int_equal(after(DST, NGHTTP2_NO_ERROR, true, false), END_DST_RESET);
}

static void a_lost_tunnel_is_told_apart(void **state)
{
	(void)state;
	assert_int_equal(after(SRC, H2_LOST, true, false), END_SRC_TUNNEL);
	assert_int_equal(after(DST, H2_LOST, true, false), END_DST_TUNNEL);
	assert_int_equal(after(DST, H2_LOST, true, true), END_DST_TUNNEL);
}

static void no_error_after_the_end_is_a_clean_half_close(void **state)
{
	(void)state;
	assert_int_equal(after(SRC, NGHTTP2_NO_ERROR, true, true), ENDINGS); /* goes on */
	assert_int_equal(after(DST, NGHTTP2_NO_ERROR, true, true), ENDINGS);
	{
		struct conn *c = conn_of(LEG_STREAM, LEG_SOCK, true); /* and it was the last thing awaited */

		c->leg[SRC].in_done = c->leg[DST].out_done = c->leg[DST].in_done = true;
		conn_stream_closed(c, SRC, NGHTTP2_NO_ERROR, true);
		assert_int_equal(c->state, CONN_CLOSED);
		assert_int_equal(c->ending, END_COMPLETE);
		settle();
		over();
	}
}

static void a_stream_that_has_ended_both_ways_may_close(void **state)
{
	struct conn *c = conn_of(LEG_STREAM, LEG_SOCK, true);

	(void)state;
	c->leg[SRC].in_done = c->leg[SRC].out_done = true;
	conn_stream_closed(c, SRC, NGHTTP2_NO_ERROR, false);
	assert_int_equal(c->state, CONN_OPEN); /* bytes may still wait for the other leg */
	conn_complete(c);
	assert_int_equal(c->state, CONN_OPEN);
	c->leg[DST].in_done = c->leg[DST].out_done = true;
	conn_complete(c);
	assert_int_equal(c->ending, END_COMPLETE);
	assert_int_equal(seen_by(app[DST]), 0); /* FIN */
	settle();
	over();
}

static void nothing_is_complete_before_all_four_are_done(void **state)
{
	(void)state;
	for (unsigned int m = 0; m < 16; m++) {
		struct conn *c = conn_of(LEG_SOCK, LEG_SOCK, true);

		c->leg[SRC].in_done = m & 1;
		c->leg[SRC].out_done = m & 2;
		c->leg[DST].in_done = m & 4;
		c->leg[DST].out_done = m & 8;
		conn_complete(c);
		assert_int_equal(c->state, m == 15 ? CONN_CLOSED : CONN_OPEN);
		conn_end(c, END_KILLED, NULL);
		over();
	}
}

static void an_unprocessed_stream_is_sent_again(void **state)
{
	struct conn *c = conn_of(LEG_SOCK, LEG_STREAM, false);

	(void)state;
	c->ep = &w->clusters[0].ep[0];
	c->dst = endpoint[0].address;
	assert_int_equal(buf_append(&c->early_data, "was sent in vain", 16), 0);
	stats_gauge(&w->loop.stats, SG_BUFFERED, 16);
	c->bytes[SRC] = 16;
	h2_reset(&far(DST)->s, NGHTTP2_REFUSED_STREAM);
	settle();
	assert_int_equal(c->state, CONN_DIALING); /* waits for another tunnel */
	assert_int_equal(c->tries, 1);
	assert_int_equal(c->leg[DST].kind, LEG_NONE);
	assert_int_equal(c->leg[DST].q.len, 16); /* what was sent goes first */
	assert_int_equal(c->bytes[SRC], 0);
	assert_int_equal(atomic_load(&w->loop.stats.c[ST_REDISPATCHED]), 1);
	conn_end(c, END_KILLED, NULL);
	over();
}

static void a_stream_that_may_have_been_processed_is_not(void **state)
{
	struct conn *c = conn_of(LEG_SOCK, LEG_STREAM, false);

	(void)state;
	c->ep = &w->clusters[0].ep[0];
	c->dst = endpoint[0].address;
	c->bytes[SRC] = 16;
	conn_stream_closed(c, DST, H2_LOST, true); /* bytes went out: the peer may have taken them */
	assert_int_equal(c->state, CONN_CLOSED);
	assert_int_equal(c->ending, END_DST_TUNNEL);
	assert_int_equal(seen_by(app[SRC]), -ECONNRESET);
	settle();
	over();
	assert_int_equal(atomic_load(&w->loop.stats.c[ST_REDISPATCHED]), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_row_is_as_designed),
		cmocka_unit_test(states_go_forward_only),
		T(sockets_see_rst_unless_it_is_complete),
		T(a_truncated_transfer_is_no_clean_end),
		T(a_stream_not_yet_answered_gets_the_status),
		T(a_stream_that_was_answered_is_reset),
		T(a_stream_that_we_opened_is_reset),
		T(both_streams_of_a_forwarded_one_are_told),
		T(what_is_complete_tells_nobody_anything),
		T(many_early_resets_are_held_back),
		T(an_ending_is_the_only_one),
		T(a_reset_stream_is_a_reset_connection),
		T(a_lost_tunnel_is_told_apart),
		T(no_error_after_the_end_is_a_clean_half_close),
		T(a_stream_that_has_ended_both_ways_may_close),
		T(nothing_is_complete_before_all_four_are_done),
		T(an_unprocessed_stream_is_sent_again),
		T(a_stream_that_may_have_been_processed_is_not),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
