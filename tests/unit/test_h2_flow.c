/* HTTP/2 sessions back to back: credit, windows, memory pressure, fairness, and what goes out how. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/h2/session.c"
#include "daemon/h2/input.c"
#include "daemon/h2/window.c"
#include "unit/h2_pair.h"
#include "unit/rand.h"

static struct side *c, *s; /* client, server */

static int setup(void **state)
{
	(void)state;
	c = side_new();
	s = side_new();
	assert_non_null(c);
	assert_non_null(s);
	assert_int_equal(h2_init(&c->h2, &c->l, false, 0, &side_ops, c), 0);
	assert_int_equal(h2_init(&s->h2, &s->l, true, 1024, &side_ops, s), 0);
	return sides_settle(c, s);
}

static int teardown(void **state)
{
	(void)state;
	for (int k = 0; k < 2; k++) {
		struct side *x = k ? s : c;

		for (unsigned int i = 0; i < x->n_str; i++)
			assert_false(x->str[i].wrong);
		h2_abort(&x->h2);
		side_free(x);
	}
	return 0;
}

static void settle(void)
{
	assert_int_equal(sides_settle(c, s), 0);
}

static struct str *open_one(uint64_t to_send)
{
	struct str *t = str_open(c, "10.0.0.7:8080");

	assert_non_null(t);
	t->to_send = to_send;
	return t;
}

static struct str *other(const struct str *t)
{
	struct str *o = str_by_id(t->side == c ? s : c, t->id);

	assert_non_null(o);
	return o;
}

static void consume(struct str *t, uint64_t n)
{
	assert_true(n <= t->owed);
	t->owed -= n;
	h2_consumed(&t->s, n);
}

/* ---- credit ---- */

static void credit_comes_for_consumed_bytes_only(void **state)
{
	uint32_t window = s->cfg.limits.stream_window;
	struct str *t, *o;

	(void)state;
	s->hold_all = true;
	t = open_one(10 << 20);
	settle();
	o = other(t);
	assert_int_equal(t->sent, window);
	assert_int_equal(o->got, window);
	consume(o, window / 4); /* too little for a frame of its own */
	settle();
	assert_in_range(t->sent, window, window + window / 4);
	consume(o, window / 2);
	settle();
	assert_int_equal(t->sent, window + window / 2 + window / 4);
	for (int i = 0; i < 1000 && o->got < t->to_send; i++) {
		consume(o, o->owed);
		settle();
		assert_in_range(o->owed, 0, o->s.window);
	}
	assert_int_equal(o->got, 10 << 20);
}

static void an_unread_stream_stops_its_sender_and_nobody_else(void **state)
{
	struct str *t[4], *fifth, *o;

	(void)state;
	s->hold_all = true;
	for (int i = 0; i < 4; i++)
		t[i] = open_one(1u << 30);
	settle();
	s->hold_all = false;
	fifth = open_one(50u << 20);
	fifth->eof = true;
	settle();
	o = other(fifth);
	assert_int_equal(o->got, 50u << 20);
	assert_true(o->ended);
	for (int i = 0; i < 4; i++) {
		assert_int_equal(t[i]->sent, s->cfg.limits.stream_window);
		assert_int_equal(other(t[i])->owed, t[i]->sent);
	}
}

static void the_same_towards_the_client(void **state)
{
	struct str *t[4], *fifth;

	(void)state;
	c->hold_all = true;
	for (int i = 0; i < 4; i++) {
		t[i] = open_one(0);
		settle();
		other(t[i])->to_send = 1u << 30;
		h2_resume(&other(t[i])->s);
	}
	settle();
	c->hold_all = false;
	fifth = open_one(0);
	settle();
	other(fifth)->to_send = 50u << 20;
	h2_resume(&other(fifth)->s);
	settle();
	assert_int_equal(fifth->got, 50u << 20);
	for (int i = 0; i < 4; i++)
		assert_int_equal(t[i]->got, c->cfg.limits.stream_window);
}

static void credit_for_a_stream_that_has_ended_is_harmless(void **state)
{
	struct str *t, *o;

	(void)state;
	s->hold_all = true;
	t = open_one(1000);
	t->eof = true;
	settle();
	o = other(t);
	assert_true(o->ended);
	o->eof = true;
	h2_resume(&o->s);
	settle();
	assert_true(o->closed);
	consume(o, 1000); /* written to the application after the stream's end */
	settle();
	assert_int_equal(s->hostiles + c->goaways, 0);
}

/* ---- memory pressure ---- */

static bool from_outside; /* the machine's memory is short, not what connections may hold */

static void press(struct side *x, bool on)
{
	if (from_outside) {
		x->l.pressure_now = on ? pressure_pack(PRESSURE_SHRINK, 0, 0) : 0;
		return;
	}
	atomic_store(&x->l.stats.g[SG_BUFFERED], on ? (int64_t)x->cfg.limits.memory + 1 : 0);
}

static void under_pressure_unread_streams_stop_and_others_go_on(void **state)
{
	struct str *t[8], *fresh;
	uint64_t before = 0, after = 0;

	(void)state;
	s->hold_all = true;
	for (int i = 0; i < 8; i++)
		t[i] = open_one(200000);
	settle();
	for (int i = 0; i < 8; i++)
		before += t[i]->sent;
	assert_int_equal(before, 8 * 200000);
	press(s, true);
	for (int i = 0; i < 8; i++) { /* the first bytes after memory got short are what makes it known */
		t[i]->to_send += 1 << 20;
		h2_resume(&t[i]->s);
	}
	settle();
	for (int i = 0; i < 8; i++)
		after += t[i]->sent;
	assert_true(after - before <= H2_WINDOW_START); /* what was on its way, at the most */
	assert_int_equal(atomic_load(&s->l.stats.c[ST_MEMORY_PRESSURE]), 1);
	/* who reads goes on, with a small window */
	s->hold_all = false;
	fresh = open_one(1 << 20);
	settle();
	assert_int_equal(other(fresh)->got, 1 << 20);
	assert_int_equal(other(fresh)->s.window, SQUEEZED);
	/* and when memory is there again, all get their windows back */
	press(s, false);
	side_pass_ms(s, SQUEEZE_MS);
	h2_window_check(&s->h2);
	for (int n = 0; n < 100; n++) {
		for (int i = 0; i < 8; i++)
			consume(other(t[i]), other(t[i])->owed);
		settle();
	}
	for (int i = 0; i < 8; i++)
		assert_int_equal(other(t[i])->got, 200000 + (1 << 20));
	assert_false(s->h2.squeezed);
}

static void a_machine_without_memory_is_the_same(void **state)
{
	from_outside = true;
	under_pressure_unread_streams_stop_and_others_go_on(state);
	from_outside = false;
	s->l.pressure_now = pressure_pack(0, PRESSURE_PAUSE, PRESSURE_PAUSE); /* descriptors and CPU are no reason */
	h2_window_check(&s->h2);
	assert_false(s->h2.squeezed);
	s->l.pressure_now = 0;
}

static void windows_are_not_shrunk_and_restored_all_the_time(void **state)
{
	(void)state;
	for (int i = 0; i < 10; i++) {
		press(s, true);
		h2_window_check(&s->h2);
		press(s, false);
		h2_window_check(&s->h2);
		settle();
	}
	assert_int_equal(atomic_load(&s->l.stats.c[ST_MEMORY_PRESSURE]), 1);
	assert_true(s->h2.squeezed);
}

static void who_ignores_smaller_windows_is_ended(void **state)
{
	(void)state;
	press(s, true);
	h2_window_check(&s->h2); /* nothing is delivered: no acknowledgement */
	side_pass_ms(s, ACK_MS);
	h2_window_check(&s->h2);
	assert_int_equal(s->hostiles, 0);
	side_pass_ms(s, 1);
	h2_window_check(&s->h2);
	assert_int_equal(s->hostiles, 1);
}

/* ---- windows that grow and shrink ---- */

static void a_window_grows_while_the_peer_waits_for_credit(void **state)
{
	struct str *t, *o;

	(void)state;
	s->rtt = 100000;
	t = open_one(60u << 20);
	settle(); /* time stands still: half a window within two round trips */
	o = other(t);
	assert_int_equal(o->got, 60u << 20);
	assert_int_equal(o->s.window, s->cfg.limits.stream_window_max);
	assert_int_equal(s->h2.window, s->cfg.limits.connection_window);
	/* and shrinks after a pause: from the next half window on */
	side_pass_ms(s, IDLE_SHRINK_MS + 1);
	s->rtt = 0;
	s->h2.rtt_us = 0;
	t->to_send += s->cfg.limits.connection_window;
	h2_resume(&t->s);
	settle();
	assert_int_equal(s->h2.window, H2_WINDOW_START);
	assert_int_equal(o->s.window, s->cfg.limits.stream_window);
	t->to_send += 30u << 20; /* with what was more than it has now still on its way */
	h2_resume(&t->s);
	settle();
	assert_int_equal(o->got, t->to_send);
}

static void a_window_does_not_grow_for_a_slow_peer(void **state)
{
	struct str *t, *o;

	(void)state;
	s->rtt = 1000;
	t = open_one(0);
	settle();
	o = other(t);
	for (int i = 0; i < 100; i++) { /* 100 KB each 50 ms over a path of 1 ms */
		t->to_send += 100000;
		h2_resume(&t->s);
		settle();
		side_pass_ms(s, 50);
	}
	assert_int_equal(o->got, 10000000);
	assert_int_equal(o->s.window, s->cfg.limits.stream_window);
	assert_int_equal(s->h2.window, H2_WINDOW_START);
}

static void pressure_keeps_windows_small(void **state)
{
	struct str *t, *o;

	(void)state;
	s->rtt = 100000;
	t = open_one(60u << 20);
	settle();
	o = other(t);
	assert_int_equal(o->s.window, s->cfg.limits.stream_window_max);
	press(s, true);
	t->to_send += 20u << 20;
	h2_resume(&t->s);
	settle(); /* consumed at once, so it flows on */
	assert_int_equal(o->got, t->to_send);
	assert_int_equal(o->s.window, SQUEEZED);
	assert_int_equal(s->h2.window, H2_WINDOW_START);
}

/* ---- a peer's windows and frames ---- */

static void tiny_windows_are_filled_byte_by_byte(void **state)
{
	struct str *t, *o;

	(void)state;
	side_free(c);
	side_free(s);
	c = side_new();
	s = side_new();
	s->cfg.limits.stream_window = 1;
	s->cfg.limits.stream_window_max = 1;
	assert_int_equal(h2_init(&c->h2, &c->l, false, 0, &side_ops, c), 0);
	assert_int_equal(h2_init(&s->h2, &s->l, true, 1024, &side_ops, s), 0);
	settle();
	t = open_one(300);
	t->eof = true;
	settle();
	o = other(t);
	assert_int_equal(o->got, 300);
	assert_true(o->ended);
}

static void the_peers_frame_size_is_kept(void **state)
{
	struct frame f;
	size_t off = 0;
	struct str *t;

	(void)state;
	side_free(c);
	side_free(s);
	c = side_new();
	s = side_new();
	s->cfg.limits.max_frame_size = 16384;
	assert_int_equal(h2_init(&c->h2, &c->l, false, 0, &side_ops, c), 0);
	assert_int_equal(h2_init(&s->h2, &s->l, true, 1024, &side_ops, s), 0);
	settle();
	t = open_one(1 << 20);
	assert_in_range(side_flush(c), 0, 1);
	while (frame_next(c->wire, c->n, &off, &f))
		assert_in_range(f.n, 0, 16384);
	assert_int_equal(off, c->n);
	settle();
	assert_int_equal(other(t)->got, 1 << 20);
}

/* ---- output ---- */

static void frames_fill_the_records_of_a_stream_alone(void **state)
{
	unsigned int full = 0;
	struct frame f;
	size_t off = 0;
	struct str *t;

	(void)state;
	t = open_one(0);
	settle();
	t->to_send = 2 * FRAME_ONE;
	h2_resume(&t->s);
	c->longest_write = c->writes = 0;
	assert_in_range(side_flush(c), 0, 1);
	while (frame_next(c->wire, c->n, &off, &f))
		full += f.type == NGHTTP2_DATA && f.n == FRAME_ONE;
	assert_int_equal(full, 2);
	assert_int_equal(c->longest_write, SCRATCH_PLAIN); /* eight records to the last byte */
	assert_int_equal(c->writes, 2);
	settle();
}

static void small_things_leave_together(void **state)
{
	struct str *t[50];

	(void)state;
	for (int i = 0; i < 50; i++)
		t[i] = open_one(100);
	settle();
	for (int i = 0; i < 50; i++) {
		t[i]->to_send += 100;
		h2_resume(&t[i]->s);
	}
	h2_ping(&c->h2, false);
	c->writes = 0;
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(c->writes, 1);
	assert_int_equal(wire_count(c, 0, NGHTTP2_DATA, 0, NULL), 50);
	settle();
}

static void a_full_socket_is_not_pulled_for(void **state)
{
	struct str *t;
	uint64_t was;

	(void)state;
	t = open_one(0);
	settle();
	t->to_send = 10u << 20;
	h2_resume(&t->s);
	c->room = 0;
	was = t->sent;
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(t->sent, was);
	assert_int_equal(c->n, 0);
	c->room = 1; /* takes one write, then is full */
	assert_int_equal(side_flush(c), 0);
	assert_in_range(t->sent, 1, SCRATCH_PLAIN);
	assert_int_equal(c->writes > 0, true);
	was = t->sent;
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(t->sent, was);
	c->room = SIZE_MAX;
	settle();
	assert_int_equal(other(t)->got, 10u << 20);
}

static void a_turn_sends_its_share_and_asks_for_another(void **state)
{
	struct str *t[4];
	int r;

	(void)state;
	for (int i = 0; i < 4; i++)
		t[i] = open_one(0);
	settle();
	for (int i = 0; i < 4; i++) {
		t[i]->to_send = 200000;
		h2_resume(&t[i]->s);
	}
	r = side_flush(c);
	assert_int_equal(r, 1);
	assert_in_range(c->n, FLUSH_TURN, FLUSH_TURN + SCRATCH_PLAIN);
	settle();
	for (int i = 0; i < 4; i++)
		assert_int_equal(other(t[i])->got, 200000);
}

/* ---- fairness ---- */

static void exchange(void)
{
	assert_in_range(side_flush(c), 0, 1);
	assert_int_equal(side_deliver(c, s), 0);
	assert_in_range(side_flush(s), 0, 1);
	assert_int_equal(side_deliver(s, c), 0);
}

static void fair_among(unsigned int n, uint64_t total)
{
	uint64_t sum = 0, least = UINT64_MAX, most = 0;
	struct str *t[64];

	for (unsigned int i = 0; i < n; i++)
		t[i] = open_one(0);
	settle();
	for (unsigned int i = 0; i < n; i++) {
		t[i]->to_send = UINT64_MAX / 2;
		h2_resume(&t[i]->s);
	}
	for (int turn = 0; sum < total; turn++) {
		assert_in_range(turn, 0, 100000);
		exchange();
		sum = 0;
		for (unsigned int i = 0; i < n; i++)
			sum += other(t[i])->got;
	}
	for (unsigned int i = 0; i < n; i++) {
		least = min_u64(least, other(t[i])->got);
		most = max_u64(most, other(t[i])->got);
	}
	print_message("%u streams: slowest/fastest %.3f over %llu bytes\n", n, (double)least / (double)most, (unsigned long long)sum);
	assert_true((double)least / (double)most >= 0.8);
}

static void streams_that_always_have_bytes_get_equal_shares(void **state)
{
	(void)state;
	fair_among(16, 10u << 20);
}

static void equal_shares_for_two_and_for_many(void **state)
{
	(void)state;
	fair_among(2, 10u << 20);
	teardown(NULL);
	setup(NULL);
	fair_among(60, 40u << 20);
}

/* count what is in front of @id's first DATA on the wire; Return: it is there */
static bool in_front_of(const struct side *x, uint32_t id, unsigned int *frames, uint64_t *bytes)
{
	struct frame f;
	size_t off = 0;

	while (frame_next(x->wire, x->n, &off, &f)) {
		if (f.type != NGHTTP2_DATA)
			continue;
		if (f.id == id)
			return true;
		*bytes += f.n;
		++*frames;
	}
	return false;
}

static void small_beside(unsigned int n)
{
	uint64_t worst = 0, bytes;
	unsigned int frames, worst_frames = 0;
	struct str *bulk[32], *small;

	small = open_one(0);
	for (unsigned int i = 0; i < n; i++)
		bulk[i] = open_one(0);
	settle();
	for (unsigned int i = 0; i < n; i++) {
		bulk[i]->to_send = UINT64_MAX / 2;
		h2_resume(&bulk[i]->s);
	}
	for (int turn = 0; turn < 200; turn++) {
		if (turn >= 20 && turn % 7 == 0) {
			bool found = false;

			small->to_send += 100;
			h2_resume(&small->s);
			bytes = frames = 0;
			for (int k = 0; !found && k < 10; k++) {
				assert_in_range(side_flush(c), 0, 1);
				found = in_front_of(c, (uint32_t)small->id, &frames, &bytes);
				assert_int_equal(side_deliver(c, s), 0);
				assert_in_range(side_flush(s), 0, 1);
				assert_int_equal(side_deliver(s, c), 0);
			}
			assert_true(found);
			worst = max_u64(worst, bytes);
			worst_frames = frames > worst_frames ? frames : worst_frames;
		}
		exchange();
	}
	print_message("%u bulk streams: a small message waits for %u frames, %llu bytes at most\n", n, worst_frames,
		      (unsigned long long)worst);
	assert_true(worst_frames <= n); /* one round */
	assert_int_equal(other(small)->got, small->to_send);
}

static void a_small_message_leaves_within_one_round(void **state)
{
	(void)state;
	small_beside(16);
	teardown(NULL);
	setup(NULL);
	small_beside(1);
	teardown(NULL);
	setup(NULL);
	small_beside(4);
}

/* ---- everything at once ---- */

static void step(struct side *x, struct side *y, struct rnd *r)
{
	struct str *t = x->n_str ? &x->str[rnd_below(r, x->n_str)] : NULL;

	switch (rnd_below(r, 12)) {
	case 0:
		if (x == c && x->n_str < 60 && h2_room(&x->h2))
			(void)open_one(rnd_u64(r) >> (40 + rnd_below(r, 24)));
		break;
	case 1:
	case 2:
		if (t && !t->eof) {
			t->to_send += rnd_u64(r) >> (44 + rnd_below(r, 20));
			t->eof = rnd_below(r, 8) == 0;
			h2_resume(&t->s);
		}
		break;
	case 3:
	case 4:
		if (t && t->owed)
			consume(t, 1 + rnd_below(r, t->owed));
		break;
	case 5:
		if (t)
			t->hold = !t->hold;
		break;
	case 6: x->room = rnd_below(r, 3) ? SIZE_MAX : rnd_below(r, 200000); break;
	case 7: press(x, rnd_below(r, 4) == 0); break;
	case 8: side_pass_ms(x, rnd_u64(r) >> (50 + rnd_below(r, 14))); break;
	case 9:
		if (rnd_below(r, 20) == 0)
			h2_ping(&x->h2, false);
		break;
	case 10:
	case 11:
		assert_in_range(side_flush(x), 0, 1);
		if (x->n && rnd_below(r, 2)) { /* in two pieces */
			size_t n = 1 + rnd_below(r, x->n);

			assert_int_equal(h2_input(&y->h2, x->wire, n), 0);
			memmove(x->wire, x->wire + n, x->n - n);
			x->n -= n;
		} else {
			assert_int_equal(side_deliver(x, y), 0);
		}
		break;
	}
}

static void nothing_is_lost_whatever_happens(void **state)
{
	struct rnd r = rnd_start("two sessions");
	uint64_t sum = 0;

	(void)state;
	for (int round = 0; round < 4; round++) {
		if (round) {
			teardown(NULL);
			setup(NULL);
		}
		c->rtt = (uint32_t)rnd_below(&r, 200000);
		s->rtt = (uint32_t)rnd_below(&r, 200000);
		for (int i = 0; i < 20000; i++) {
			struct side *x = rnd_below(&r, 2) ? c : s;

			step(x, x == c ? s : c, &r);
		}
		/* now let all of it through */
		for (int i = 0; i < 20; i++) {
			for (int k = 0; k < 2; k++) {
				struct side *x = k ? s : c;

				x->room = SIZE_MAX;
				press(x, false);
				for (unsigned int n = 0; n < x->n_str; n++) {
					x->str[n].hold = false;
					x->str[n].eof = true;
					consume(&x->str[n], x->str[n].owed);
					h2_resume(&x->str[n].s);
				}
			}
			settle();
		}
		assert_int_equal(c->n_str, s->n_str);
		for (unsigned int i = 0; i < c->n_str; i++) {
			struct str *t = &c->str[i], *o = other(t);

			assert_true(o->got == t->to_send && t->got == o->to_send);
			assert_true(t->ended && o->ended);
			assert_int_equal(t->n_closed + o->n_closed, 2);
			assert_int_equal(t->code | o->code, NGHTTP2_NO_ERROR);
			sum += t->got + o->got;
		}
		assert_int_equal(c->h2.streams | s->h2.streams, 0);
		assert_int_equal(c->hostiles | s->hostiles, 0);
	}
	assert_true(sum > 1 << 20);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(credit_comes_for_consumed_bytes_only),
		T(an_unread_stream_stops_its_sender_and_nobody_else),
		T(the_same_towards_the_client),
		T(credit_for_a_stream_that_has_ended_is_harmless),
		T(under_pressure_unread_streams_stop_and_others_go_on),
		T(a_machine_without_memory_is_the_same),
		T(windows_are_not_shrunk_and_restored_all_the_time),
		T(who_ignores_smaller_windows_is_ended),
		T(a_window_grows_while_the_peer_waits_for_credit),
		T(a_window_does_not_grow_for_a_slow_peer),
		T(pressure_keeps_windows_small),
		T(tiny_windows_are_filled_byte_by_byte),
		T(the_peers_frame_size_is_kept),
		T(frames_fill_the_records_of_a_stream_alone),
		T(small_things_leave_together),
		T(a_full_socket_is_not_pulled_for),
		T(a_turn_sends_its_share_and_asks_for_another),
		T(streams_that_always_have_bytes_get_equal_shares),
		T(equal_shares_for_two_and_for_many),
		T(a_small_message_leaves_within_one_round),
		T(nothing_is_lost_whatever_happens),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
