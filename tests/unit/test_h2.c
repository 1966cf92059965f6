/* HTTP/2 sessions back to back: streams from request to end, and what each side learns of it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/h2/session.c"
#include "daemon/h2/input.c"
#include "unit/h2_pair.h"

static struct side *c, *s; /* client, server */

static void open_with(uint32_t max_streams)
{
	c = side_new();
	s = side_new();
	assert_non_null(c);
	assert_non_null(s);
	assert_int_equal(h2_init(&c->h2, &c->l, false, 0, &side_ops, c), 0);
	assert_int_equal(h2_init(&s->h2, &s->l, true, max_streams, &side_ops, s), 0);
}

static int setup(void **state)
{
	(void)state;
	open_with(1024);
	return sides_settle(c, s);
}

static void check_streams(const struct side *x)
{
	for (unsigned int i = 0; i < x->n_str; i++) {
		assert_false(x->str[i].wrong);
		assert_in_range(x->str[i].n_closed, 0, 1);
	}
}

static int teardown(void **state)
{
	(void)state;
	check_streams(c);
	check_streams(s);
	h2_abort(&c->h2);
	h2_abort(&s->h2);
	for (int i = 0; i < 2; i++) {
		struct side *x = i ? s : c;

		assert_int_equal(x->h2.streams, 0);
		assert_int_equal(atomic_load(&x->l.stats.g[SG_STREAMS]), 0);
		assert_int_equal(atomic_load(&x->l.stats.c[ST_STREAMS_OPENED]), atomic_load(&x->l.stats.c[ST_STREAMS_CLOSED]));
		side_free(x);
	}
	return 0;
}

static void settle(void)
{
	assert_int_equal(sides_settle(c, s), 0);
}

static struct str *open_one(void)
{
	struct str *t = str_open(c, "10.0.0.7:8080");

	assert_non_null(t);
	return t;
}

/* the server's object of the same stream */
static struct str *other(const struct str *t)
{
	struct str *o = str_by_id(t->side == c ? s : c, t->id);

	assert_non_null(o);
	return o;
}

/* ---- settings ---- */

static uint32_t setting(const struct frame *f, uint16_t id)
{
	for (uint32_t i = 0; i + 6 <= f->n; i += 6)
		if ((f->p[i] << 8 | f->p[i + 1]) == id)
			return u32_get(f->p + i + 2);
	return UINT32_MAX;
}

static void each_side_says_its_limits(void **state)
{
	struct frame f = {0};

	(void)state;
	open_with(77);
	c->cfg.limits.header_bytes = 9999;
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(side_flush(s), 0);
	assert_memory_equal(c->wire, "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 24);
	assert_int_equal(wire_count(c, 24, NGHTTP2_SETTINGS, 0, &f), 1);
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_ENABLE_PUSH), 0);
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE), 262144);
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_MAX_FRAME_SIZE), 1 << 20);
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS), UINT32_MAX); /* not sent */
	assert_int_equal(wire_count(c, 24, NGHTTP2_WINDOW_UPDATE, 0, &f), 1);
	assert_int_equal(f.id, 0);
	assert_int_equal(u32_get(f.p), H2_WINDOW_START - 65535);
	assert_int_equal(wire_count(s, 0, NGHTTP2_SETTINGS, 0, &f), 1);
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS), 77); /* the truth */
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_ENABLE_PUSH), UINT32_MAX);
	assert_int_equal(setting(&f, NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE), 16384);
	settle();
	assert_int_equal(c->settings, 1);
	assert_int_equal(s->settings, 1);
	assert_true(c->h2.settled && s->h2.settled);
	assert_int_equal(h2_peer_max_streams(&c->h2), 77);
	assert_int_equal(h2_room(&c->h2), 77);
}

/* the server as a peer that changes its mind */
static void server_sets_max_streams(uint32_t v)
{
	nghttp2_settings_entry iv = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, v};

	s->h2.max_streams = v; /* or the value would be put "right" on its way out */
	assert_int_equal(nghttp2_submit_settings(s->h2.ng, NGHTTP2_FLAG_NONE, &iv, 1), 0);
	settle();
}

static void a_changed_limit_is_honoured(void **state)
{
	unsigned int settings = c->settings;

	(void)state;
	for (int i = 0; i < 5; i++)
		assert_non_null(open_one());
	settle();
	assert_int_equal(h2_room(&c->h2), 1019);
	server_sets_max_streams(8);
	assert_int_equal(c->settings, settings + 1); /* the pool is told */
	assert_int_equal(h2_room(&c->h2), 3);
	server_sets_max_streams(2); /* fewer than there are: they go on */
	assert_int_equal(h2_room(&c->h2), 0);
	assert_int_equal(c->h2.streams, 5);
	server_sets_max_streams(0);
	assert_int_equal(h2_room(&c->h2), 0);
	server_sets_max_streams(10);
	assert_int_equal(h2_room(&c->h2), 5);
	for (unsigned int i = 0; i < c->n_str; i++)
		assert_false(c->str[i].closed);
}

/* ---- request, answer, bytes, end ---- */

static void a_stream_from_request_to_end(void **state)
{
	struct str *t, *o;

	(void)state;
	t = open_one();
	assert_int_equal(t->id, 1);
	t->to_send = 100000;
	settle();
	assert_int_equal(s->requests, 1);
	o = other(t);
	assert_string_equal(o->authority, "10.0.0.7:8080");
	assert_int_equal(o->headers_flags, 0);
	assert_string_equal(t->status, "200");
	assert_true(o->got == 100000);
	o->to_send = 300000;
	o->eof = true;
	h2_resume(&o->s);
	settle();
	assert_true(t->got == 300000);
	assert_true(t->ended);
	assert_false(t->closed); /* the other direction goes on */
	assert_false(o->ended);
	t->to_send = 200000;
	h2_resume(&t->s);
	settle();
	assert_true(o->got == 200000);
	t->eof = true;
	h2_resume(&t->s);
	settle();
	assert_true(o->ended);
	assert_int_equal(t->n_closed, 1);
	assert_int_equal(o->n_closed, 1);
	assert_int_equal(t->code, NGHTTP2_NO_ERROR);
	assert_int_equal(o->code, NGHTTP2_NO_ERROR);
	assert_false(t->by_peer || o->by_peer);
	assert_int_equal(c->h2.streams, 0);
	assert_int_equal(s->h2.streams, 0);
	assert_int_equal(c->h2.total, 1);
}

static void either_side_may_end_first(void **state)
{
	struct str *t, *o;

	(void)state;
	t = open_one();
	t->eof = true; /* nothing to say at all */
	settle();
	o = other(t);
	assert_true(o->ended);
	assert_false(t->closed);
	o->to_send = 5000000;
	h2_resume(&o->s);
	settle();
	assert_true(t->got == 5000000);
	o->eof = true;
	h2_resume(&o->s);
	settle();
	assert_true(t->ended && t->closed && o->closed);
}

static void bytes_may_go_before_the_answer(void **state)
{
	struct str *t, *o;

	(void)state;
	s->no_answer = true;
	t = open_one();
	t->to_send = 50000;
	settle();
	o = other(t);
	assert_true(o->got == 50000);
	assert_false(t->answered);
	assert_int_equal(str_answer(o, "200"), 0);
	settle();
	assert_true(t->answered);
}

static void a_refusal_is_an_answer_and_no_more_is_wanted(void **state)
{
	struct str *t;
	struct frame f = {0};

	(void)state;
	s->refuse_all = true;
	t = open_one();
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(side_deliver(c, s), 0);
	assert_int_equal(side_flush(s), 0);
	assert_int_equal(wire_count(s, 0, NGHTTP2_HEADERS, 1, &f), 1);
	assert_true(f.flags & NGHTTP2_FLAG_END_STREAM);
	assert_int_equal(wire_count(s, 0, NGHTTP2_RST_STREAM, 1, &f), 1);
	assert_int_equal(u32_get(f.p), NGHTTP2_NO_ERROR); /* RFC 9113 8.1 */
	settle();
	assert_string_equal(t->status, "503");
	assert_int_equal(t->headers_flags, H2_HEADERS_END);
	assert_true(t->closed);
	assert_int_equal(t->code, NGHTTP2_NO_ERROR);
	s->refuse_all = false; /* the session is fine */
	t = open_one();
	settle();
	assert_string_equal(t->status, "200");
}

static void an_accepted_stream_may_still_be_refused(void **state)
{
	nghttp2_nv nv = NV_LIT(":status", "504");
	struct str *t, *o;

	(void)state;
	s->no_answer = true;
	t = open_one();
	t->to_send = 1000;
	settle();
	o = other(t);
	h2_refuse(&s->h2, t->id, &nv, 1);
	assert_int_equal(o->s.id, 0); /* forgotten, no callback */
	assert_null(o->s.h);
	settle();
	assert_false(o->closed);
	assert_string_equal(t->status, "504");
	assert_true(t->closed);
	assert_int_equal(s->h2.streams, 0);
}

static void trailers_are_an_end(void **state)
{
	nghttp2_nv nv = NV_LIT("x-checksum", "0");
	struct str *t;

	(void)state;
	t = open_one();
	t->to_send = 10;
	settle();
	/* what is pulled next ends with trailers, as a peer that is not ours may do */
	assert_int_equal(nghttp2_submit_trailer(s->h2.ng, t->id, &nv, 1), 0);
	other(t)->eof = true;
	h2_resume(&other(t)->s);
	settle();
	assert_true(t->ended);
}

/* ---- resets ---- */

static void reset_codes_come_through(void **state)
{
	(void)state;
	for (uint32_t code = NGHTTP2_NO_ERROR; code <= NGHTTP2_HTTP_1_1_REQUIRED; code++)
		for (int side = 0; side < 2; side++) {
			struct str *t = open_one(), *o;

			settle();
			o = other(t);
			h2_reset(side ? &o->s : &t->s, code);
			assert_int_equal((side ? o : t)->s.id, 0); /* forgotten at once */
			settle();
			assert_false((side ? o : t)->closed); /* without a callback */
			assert_int_equal((side ? t : o)->n_closed, 1);
			assert_int_equal((side ? t : o)->code, code);
			assert_true((side ? t : o)->by_peer);
			assert_int_equal(atomic_load(&(side ? s : c)->l.stats.rst_tx[code]), 1);
			assert_int_equal(atomic_load(&(side ? c : s)->l.stats.rst_rx[code]), 1);
		}
	assert_int_equal(c->h2.streams, 0);
	assert_int_equal(s->h2.streams, 0);
	assert_int_equal(c->hostiles + s->hostiles, 0); /* after an answer, an application's right */
}

static void what_was_reset_is_not_heard_of_again(void **state)
{
	struct str *t;

	(void)state;
	for (int i = 0; i < 200; i++) { /* 20 MB: more than the connection's window */
		t = open_one();
		settle();
		other(t)->to_send = 100000;
		h2_resume(&other(t)->s);
		assert_int_equal(side_flush(s), 0); /* on its way */
		h2_reset(&t->s, NGHTTP2_CANCEL);
		h2_reset(&t->s, NGHTTP2_CANCEL); /* none left: fine */
		h2_resume(&t->s);
		h2_consumed(&t->s, 5);
		h2_forget(&t->s);
		settle();
		assert_true(t->got == 0);
		assert_false(t->closed || t->ended);
	}
	t = open_one(); /* and none of it stays counted against the connection */
	settle();
	other(t)->to_send = 3000000;
	h2_resume(&other(t)->s);
	settle();
	assert_true(t->got == 3000000);
}

static void resets_before_an_answer_are_rationed(void **state)
{
	unsigned int n = 0;

	(void)state;
	for (int i = 0; i < 200; i++)
		n += h2_may_reset_early(&c->h2);
	assert_int_equal(n, EARLY_RST_S);
	side_pass_ms(c, 1000);
	assert_true(h2_may_reset_early(&c->h2));
}

static void a_forgotten_request_is_reset_when_its_answer_comes(void **state)
{
	struct frame f = {0};
	struct str *t;

	(void)state;
	s->no_answer = true;
	t = open_one();
	settle();
	h2_forget(&t->s);
	settle();
	assert_false(other(t)->closed); /* nothing was said */
	assert_int_equal(c->h2.streams, 0);
	assert_int_equal(str_answer(other(t), "200"), 0);
	assert_int_equal(side_flush(s), 0);
	assert_int_equal(side_deliver(s, c), 0);
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(wire_count(c, 0, NGHTTP2_RST_STREAM, (uint32_t)t->id, &f), 1);
	assert_int_equal(u32_get(f.p), NGHTTP2_CONNECT_ERROR);
	settle();
	assert_false(t->answered);
	assert_true(other(t)->closed);
}

static void forgetting_is_not_resetting(void **state)
{
	struct str *t, *o;

	(void)state;
	t = open_one();
	t->eof = true;
	settle();
	o = other(t);
	o->to_send = 70000;
	o->eof = true;
	h2_resume(&o->s);
	settle();
	assert_true(t->ended && t->closed);
	h2_forget(&t->s); /* gone already */
	t = open_one();
	settle();
	o = other(t);
	h2_forget(&o->s);
	assert_int_equal(s->h2.streams, 0);
	settle();
	assert_false(t->closed);
}

/* ---- how many ---- */

static void streams_above_the_limit_are_refused_one_by_one(void **state)
{
	unsigned int refused = 0;

	(void)state;
	teardown(NULL);
	open_with(4);
	for (int i = 0; i < 50; i++) /* before its SETTINGS are known */
		assert_non_null(open_one());
	settle();
	assert_int_equal(s->requests, 4);
	for (unsigned int i = 0; i < c->n_str; i++) {
		refused += c->str[i].closed;
		if (c->str[i].closed) {
			assert_int_equal(c->str[i].code, NGHTTP2_REFUSED_STREAM);
			assert_true(c->str[i].by_peer);
		} else {
			assert_string_equal(c->str[i].status, "200");
		}
	}
	assert_int_equal(refused, 46);
	assert_int_equal(s->h2.streams, 4);
	assert_int_equal(s->hostiles + c->goaways, 0);
	assert_int_equal(h2_room(&c->h2), 0);
	h2_reset(&c->str[0].s, NGHTTP2_CANCEL);
	settle();
	assert_int_equal(h2_room(&c->h2), 1);
	assert_non_null(open_one());
	settle();
	assert_string_equal(c->str[50].status, "200");
}

static void ids_are_odd_and_increase(void **state)
{
	(void)state;
	for (int i = 0; i < 100; i++)
		assert_int_equal(open_one()->id, 2 * i + 1);
	settle();
	assert_int_equal(s->requests, 100);
}

static void ids_that_are_used_up_are_told(void **state)
{
	(void)state;
	assert_int_equal(nghttp2_session_set_next_stream_id(c->h2.ng, INT32_MAX), 0);
	assert_int_equal(open_one()->id, INT32_MAX);
	assert_null(str_open(c, "x:1"));
	assert_int_equal(errno, ESTALE);
}

/* ---- GOAWAY ---- */

static void goaway_closes_what_was_not_processed(void **state)
{
	struct str *kept, *lost[2];

	(void)state;
	kept = open_one();
	settle();
	for (int i = 0; i < 2; i++)
		lost[i] = open_one();
	assert_int_equal(side_flush(c), 0); /* on the way when the server says GOAWAY */
	h2_goaway_last(&s->h2, NGHTTP2_NO_ERROR);
	h2_goaway_last(&s->h2, NGHTTP2_NO_ERROR); /* said once */
	assert_int_equal(side_flush(s), 0);
	assert_int_equal(wire_count(s, 0, NGHTTP2_GOAWAY, 0, NULL), 1);
	assert_int_equal(side_deliver(s, c), 0);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(lost[i]->n_closed, 1);
		assert_int_equal(lost[i]->code, NGHTTP2_REFUSED_STREAM); /* to be sent elsewhere */
		assert_true(lost[i]->by_peer);
	}
	assert_int_equal(c->goaways, 1);
	assert_int_equal(c->goaway_code, NGHTTP2_NO_ERROR);
	assert_int_equal(h2_room(&c->h2), 0);
	assert_null(str_open(c, "x:1"));
	assert_int_equal(errno, ESTALE);
	settle();
	assert_int_equal(s->requests, 1); /* they were on the wire, but it had said so */
	assert_false(kept->closed);
	kept->to_send = 100000;
	kept->eof = true;
	h2_resume(&kept->s);
	other(kept)->eof = true;
	h2_resume(&other(kept)->s);
	settle();
	assert_true(other(kept)->got == 100000);
	assert_true(kept->closed);
	assert_true(h2_over(&s->h2));
	assert_true(h2_over(&c->h2));
}

static void the_first_goaway_refuses_nothing_yet(void **state)
{
	struct str *t;
	struct frame f = {0};

	(void)state;
	h2_goaway_first(&s->h2);
	t = open_one(); /* crosses it on the wire */
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(side_flush(s), 0);
	assert_int_equal(wire_count(s, 0, NGHTTP2_GOAWAY, 0, &f), 1);
	assert_int_equal(u32_get(f.p), INT32_MAX);
	assert_int_equal(wire_count(s, 0, NGHTTP2_PING, 0, NULL), 1);
	settle();
	assert_string_equal(t->status, "200");
	assert_false(t->closed);
	assert_int_equal(s->pongs, 1); /* now the second may go */
	assert_true(s->pong_us == s->l.now_us);
	assert_int_equal(h2_room(&c->h2), 0);
	h2_goaway_last(&s->h2, NGHTTP2_NO_ERROR);
	assert_int_equal(side_flush(s), 0);
	assert_int_equal(wire_count(s, 0, NGHTTP2_GOAWAY, 0, &f), 1);
	assert_int_equal(u32_get(f.p), (uint32_t)t->id);
	settle();
	assert_false(t->closed);
}

static void a_client_says_goodbye(void **state)
{
	struct str *t = open_one();

	(void)state;
	settle();
	h2_goaway_last(&c->h2, NGHTTP2_NO_ERROR);
	settle();
	assert_int_equal(s->goaways, 1);
	assert_false(t->closed);
	assert_null(str_open(c, "x:1"));
	h2_reset(&t->s, NGHTTP2_CANCEL);
	settle();
	assert_true(h2_over(&c->h2) || h2_over(&s->h2));
}

/* ---- the session's own life ---- */

static void pings_are_answered_and_timed(void **state)
{
	uint64_t sent = c->l.now_us;

	(void)state;
	h2_ping(&c->h2, false);
	assert_int_equal(side_flush(c), 0);
	side_pass_ms(c, 7);
	settle();
	assert_int_equal(c->pongs, 1);
	assert_true(c->pong_us == sent);
	h2_ping(&c->h2, true); /* told apart */
	settle();
	assert_int_equal(c->pongs, 1);
	assert_int_equal(c->fences, 1);
}

static void a_lost_connection_closes_each_stream_once(void **state)
{
	(void)state;
	for (int i = 0; i < 20; i++)
		(void)open_one();
	settle();
	h2_reset(&c->str[3].s, NGHTTP2_CANCEL);
	h2_abort(&c->h2);
	for (unsigned int i = 0; i < 20; i++) {
		assert_int_equal(c->str[i].n_closed, i != 3);
		if (i != 3) {
			assert_true(c->str[i].code == H2_LOST);
			assert_true(c->str[i].by_peer);
		}
	}
	assert_int_equal(c->h2.streams, 0);
	h2_abort(&c->h2);
	h2_finish(&c->h2);
	assert_int_equal(c->str[0].n_closed, 1);
}

static void nothing_is_fine_where_nothing_is(void **state)
{
	struct h2 none = {0};

	(void)state;
	h2_abort(&none);
	h2_finish(&none);
	h2_finish(&c->h2);
}

/* whoever has something to write says so: flushing only then must be enough */
static void dirty_is_said_whenever_there_is_something_to_flush(void **state)
{
	unsigned int idle = 0;

	(void)state;
	for (int i = 0; i < 6; i++) {
		struct str *t = open_one();

		t->to_send = 1000000;
		t->eof = i & 1;
	}
	for (int turn = 0; turn < 2000 && idle < 3; turn++) {
		bool moved = false;

		for (int k = 0; k < 2; k++) {
			struct side *x = k ? s : c;

			if (x->dirty) {
				int r;

				x->dirty = false;
				r = h2_flush(&x->h2);
				assert_in_range(r, 0, 1);
				if (r == 1)
					x->dirty = true; /* as the tunnel does */
			}
			moved |= x->n > 0;
			assert_int_equal(side_deliver(x, k ? c : s), 0);
		}
		if (turn == 50)
			for (unsigned int i = 0; i < s->n_str; i++) {
				s->str[i].to_send = 600000;
				s->str[i].eof = true;
				h2_resume(&s->str[i].s);
			}
		if (turn == 60) {
			h2_reset(&c->str[0].s, NGHTTP2_CANCEL);
			h2_ping(&s->h2, false);
		}
		if (turn > 60)
			idle = moved ? 0 : idle + 1;
	}
	assert_int_equal(idle, 3);
	assert_int_equal(s->pongs, 1);
	for (unsigned int i = 0; i < s->n_str; i++) {
		assert_true(s->str[i].got == 1000000);
		assert_int_equal(s->str[i].ended, i & 1);
		if (i)
			assert_true(c->str[i].got == 600000 && c->str[i].ended);
	}
	assert_true(s->str[0].closed);
	assert_int_equal(s->str[0].code, NGHTTP2_CANCEL);
}

static void a_write_that_fails_is_told(void **state)
{
	(void)state;
	(void)open_one();
	c->write_error = -EPIPE;
	assert_int_equal(side_flush(c), -EPIPE);
	c->write_error = 0;
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(each_side_says_its_limits, NULL, teardown),
		T(a_changed_limit_is_honoured),
		T(a_stream_from_request_to_end),
		T(either_side_may_end_first),
		T(bytes_may_go_before_the_answer),
		T(a_refusal_is_an_answer_and_no_more_is_wanted),
		T(an_accepted_stream_may_still_be_refused),
		T(trailers_are_an_end),
		T(reset_codes_come_through),
		T(what_was_reset_is_not_heard_of_again),
		T(resets_before_an_answer_are_rationed),
		T(a_forgotten_request_is_reset_when_its_answer_comes),
		T(forgetting_is_not_resetting),
		T(streams_above_the_limit_are_refused_one_by_one),
		T(ids_are_odd_and_increase),
		T(ids_that_are_used_up_are_told),
		T(goaway_closes_what_was_not_processed),
		T(the_first_goaway_refuses_nothing_yet),
		T(a_client_says_goodbye),
		T(pings_are_answered_and_timed),
		T(a_lost_connection_closes_each_stream_once),
		T(nothing_is_fine_where_nothing_is),
		T(dirty_is_said_whenever_there_is_something_to_flush),
		T(a_write_that_fails_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
