/* Every ending: what the table says, and what each kind of leg is told. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/chain/close.c"
#include "unit/close_legs.h"

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
	{END_EXPIRED, 503, NGHTTP2_CANCEL, "LR", "adit"},
	{END_UNTRUSTED, 503, NGHTTP2_CANCEL, "LR", "adit"},
	{END_BAD_REQUEST, 400, NGHTTP2_PROTOCOL_ERROR, "DPE", "src"},
	{END_HEADERS, 431, NGHTTP2_ENHANCE_YOUR_CALM, "DPE", "src"},
	{END_PROXY, 400, NGHTTP2_PROTOCOL_ERROR, "DPE", "src"},
	{END_NO_ROUTE, 404, NGHTTP2_REFUSED_STREAM, "NR", "adit"},
	{END_DENIED, 401, NGHTTP2_REFUSED_STREAM, "UAEX", "adit"},
	{END_REVOKED, 401, NGHTTP2_CANCEL, "UAEX", "adit"},
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
	{END_RATE, 429, NGHTTP2_REFUSED_STREAM, "RL", "adit"},
	{END_OVERLOAD, 503, NGHTTP2_ENHANCE_YOUR_CALM, "OM", "adit"},
	{END_MEMORY, 503, NGHTTP2_INTERNAL_ERROR, "OM", "adit"},
	{END_IDLE, 503, NGHTTP2_CANCEL, "SI", "adit"},
	{END_KILLED, 503, NGHTTP2_CANCEL, "LR", "adit"},
	{END_SHUTDOWN, 503, NGHTTP2_CANCEL, "LR", "adit"},
	{END_DRAINED, 503, NGHTTP2_CANCEL, "LR", "adit"},
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
		assert_string_equal(ending_by(&(struct conn){ .ending = (uint8_t)e }), expected[i].by);
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
	c->ep = endpoint_get(w->clusters[0]->ep[0]);
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
	c->ep = endpoint_get(w->clusters[0]->ep[0]);
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
