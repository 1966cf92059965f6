/*
 * Payload that passes the session by: sent from pipes, and received by a reader that does as tunnel/ops.c does, headers one by one and
 * what they announce in pieces of its own. The other side knows nothing of it and must not notice.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define STREAMS 64
#include "daemon/h2/session.c"
#include "daemon/h2/input.c"
#include "unit/h2_pair.h"
#include "unit/rand.h"
#include <fcntl.h>

static struct side *c, *s; /* client, server */
static struct h2_ops ops;  /* of the client: by pipe */
static struct rnd *dice;   /* NULL: whatever can go by pipe does */
static unsigned int piped, by_memory;
static size_t pipe_max;
static int pipe_error;
static bool pings;	   /* each pull from a pipe queues a PING */
static const uint8_t *at;  /* where the bytes are that h2_spliced() tells of */

static ssize_t pull_pipe(void *owner, struct h2_stream *st, size_t max, struct pipe **ret)
{
	struct side *x = owner;
	struct str *t = container_of(st, struct str, s);
	size_t n = min_u64(min_u64(max, pipe_max), t->to_send - t->sent), in = 0;
	struct pipe *p;

	if (!n || (dice && rnd_below(dice, 2))) {
		by_memory++;
		return -EAGAIN;
	}
	p = pipe_get(&x->l);
	assert_non_null(p);
	while (in < n) {
		size_t k = min_u64(n - in, PATTERN_PERIOD);

		assert_int_equal(write(p->w, pattern(t->id, x->h2.server, t->sent + in), k), k);
		in += k;
	}
	p->len = (uint32_t)n;
	t->sent += n;
	stats_gauge(&x->l.stats, SG_BUFFERED, (int64_t)n);
	*ret = p;
	piped++;
	if (pings)
		h2_ping(&x->h2, false);
	return (ssize_t)n;
}

static int write_pipe(void *owner, size_t n, struct pipe *p)
{
	struct side *x = owner;
	size_t more = p->len;

	if (pipe_error) {
		pipe_put(&x->l, p);
		return pipe_error;
	}
	assert_true(n >= FRAME_HDR);
	assert_int_equal(ops_write(owner, n), 0);
	x->wire = realloc(x->wire, x->n + more);
	assert_non_null(x->wire);
	x->cap = x->n + more;
	assert_int_equal(read(p->r, x->wire + x->n, more), more);
	x->n += more;
	x->room = x->room == SIZE_MAX ? SIZE_MAX : x->room > more ? x->room - more : 0;
	stats_gauge(&x->l.stats, SG_BUFFERED, -(int64_t)more);
	p->len = 0;
	pipe_put(&x->l, p);
	return 0;
}

static int write_memory(void *owner, size_t n)
{
	assert_false(ops_blocked(owner)); /* the promise of session.h */
	return ops_write(owner, n);
}

static void data(void *owner, struct h2_stream *st, const uint8_t *p, size_t n)
{
	if (!p) {
		assert_non_null(at);
		p = at;
		at += n;
	}
	ops_data(owner, st, p, n);
}

static struct side *new_side(void)
{
	struct side *x = side_new();

	assert_non_null(x);
	timers_init(&x->l.timers, x->l.now_ms);
	pipes_init(&x->l.pipes);
	x->cfg.kernel.splice_above = 4096;
	return x;
}

static int setup(void **state)
{
	(void)state;
	dice = NULL;
	piped = by_memory = 0;
	pipe_max = 1 << 20;
	pipe_error = 0;
	pings = false;
	ops = side_ops;
	ops.pull_pipe = pull_pipe;
	ops.write_pipe = write_pipe;
	ops.write = write_memory;
	ops.data = data;
	c = new_side();
	s = new_side();
	assert_int_equal(h2_init(&c->h2, &c->l, false, 0, &ops, c), 0);
	assert_int_equal(h2_init(&s->h2, &s->l, true, 100, &ops, s), 0);
	return sides_settle(c, s);
}

static int teardown(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct side *x = i ? s : c;

		for (unsigned int k = 0; k < x->n_str; k++)
			assert_false(x->str[k].wrong);
		h2_abort(&x->h2);
		assert_int_equal(atomic_load(&x->l.stats.g[SG_BUFFERED]), 0);
		assert_int_equal(x->l.pipes.made, x->l.pipes.n_idle);
		pipes_finish(&x->l);
		side_free(x);
	}
	return 0;
}

static void settle(void)
{
	assert_int_equal(sides_settle(c, s), 0);
}

static struct str *open_one(uint64_t bytes, bool eof)
{
	struct str *t = str_open(c, "10.0.0.7:80");

	assert_non_null(t);
	settle();
	t->to_send = bytes;
	t->eof = eof;
	h2_resume(&t->s);
	return t;
}

static struct str *other(const struct str *t)
{
	struct str *o = str_by_id(t->side == c ? s : c, t->id);

	assert_non_null(o);
	return o;
}

/* ---- out ---- */

static void the_peer_does_not_see_where_it_came_from(void **state)
{
	struct rnd r = rnd_start("frames from pipes and from memory");
	struct str *t[8];

	(void)state;
	dice = &r;
	for (int round = 0; round < 3; round++) {
		pipe_max = round ? 1 + rnd_below(&r, 200000) : 1 << 20;
		for (int i = 0; i < 8; i++)
			t[i] = open_one(rnd_below(&r, 3000000), true);
		settle();
		for (int i = 0; i < 8; i++) {
			assert_true(other(t[i])->ended);
			assert_true(other(t[i])->got == t[i]->to_send);
		}
	}
	assert_true(piped > 20 && by_memory > 20);
}

static void frames_stay_within_what_the_peer_allows(void **state)
{
	struct str *t = open_one(2000000, true);
	size_t off = 0;
	struct frame f;
	uint64_t sum = 0;

	(void)state;
	other(t)->hold = true;
	for (int i = 0; i < 20; i++)
		assert_true(side_flush(c) >= 0);
	while (frame_next(c->wire, c->n, &off, &f)) {
		assert_int_equal(f.type, NGHTTP2_DATA);
		assert_true(f.n <= 1u << 20);
		sum += f.n;
	}
	assert_int_equal(off, c->n);
	assert_true(sum == 262144); /* the stream's window */
	other(t)->hold = false;
	assert_int_equal(side_deliver(c, s), 0);
	settle();
	assert_true(other(t)->got == 2000000);
}

/* one flush does not go on for as long as there are bytes */
static void a_flush_is_bounded(void **state)
{
	struct str *t = open_one(0, false);

	(void)state;
	assert_int_equal(nghttp2_session_set_local_window_size(s->h2.ng, NGHTTP2_FLAG_NONE, 0, 64 << 20), 0);
	assert_int_equal(nghttp2_session_set_local_window_size(s->h2.ng, NGHTTP2_FLAG_NONE, t->id, 64 << 20), 0);
	settle();
	t->to_send = 20u << 20;
	h2_resume(&t->s);
	assert_int_equal(side_flush(c), 1);
	assert_in_range(c->n, FLUSH_TURN, FLUSH_TURN + FRAME_HDR + FRAME_ONE + FRAME_HDR);
	settle();
	assert_true(other(t)->got == t->to_send);
}

/* a socket that is full after a payload: what nghttp2 has ready by then goes behind it, later */
static void control_frames_go_behind_a_payload_that_blocks(void **state)
{
	struct str *t = open_one(100000, true);
	struct frame f;
	size_t off = 0, n;

	(void)state;
	c->room = 1000;
	h2_ping(&c->h2, false); /* goes first: nghttp2 prefers them */
	assert_true(side_flush(c) >= 0);
	n = c->n;
	assert_true(n > 100000);
	while (frame_next(c->wire, c->n, &off, &f))
		;
	assert_int_equal(off, n); /* whole frames only */
	h2_ping(&c->h2, false);
	for (int i = 0; i < 3; i++)
		assert_true(side_flush(c) >= 0);
	assert_int_equal(c->n, n); /* blocked: nothing */
	c->room = SIZE_MAX;
	settle();
	assert_int_equal(c->pongs, 2);
	assert_true(other(t)->ended && other(t)->got == 100000);
}

/* the same when nghttp2 has it within the call that sent the payload: pulling bytes often makes a WINDOW_UPDATE */
static void not_even_one_of_the_same_call(void **state)
{
	struct str *t = open_one(0, false), *u = open_one(0, false);
	unsigned int behind = 0;

	(void)state;
	pings = true;
	for (int i = 0; i < 50; i++) {
		t->to_send += 30000;
		u->to_send += 30000;
		h2_resume(&t->s);
		h2_resume(&u->s);
		c->room = 1 + (size_t)i * 700;
		assert_true(side_flush(c) >= 0);
		behind += c->h2.behind.len != 0;
		c->room = SIZE_MAX;
		settle();
	}
	assert_true(behind > 10);
	assert_int_equal(c->h2.behind.len, 0);
	assert_int_equal(c->pongs, 100);
	assert_true(other(t)->got == t->to_send && other(u)->got == u->to_send);
}

static void an_error_of_the_socket_is_told_as_it_is(void **state)
{
	struct str *t = open_one(100000, true);

	(void)state;
	(void)t;
	pipe_error = -ECONNRESET;
	assert_int_equal(side_flush(c), -ECONNRESET);
}

/* ---- in ---- */

/* what tunnel_read_payload() does, with a wire instead of a socket. Return: of h2_input(); *ret_n: bytes read */
static int read_some(struct side *x, const uint8_t *p, size_t n, size_t max, size_t *ret_n, uint64_t *spliced)
{
	struct h2_stream *st;
	size_t left = h2_payload(&x->h2, &st), want = left ? 0 : h2_header(&x->h2), k;

	if (left) {
		k = min_u64(min_u64(left, H2_SPLICE_MAX), min_u64(n, max));
		*ret_n = k;
		*spliced += k;
		at = p;
		return h2_spliced(&x->h2, st, k);
	}
	at = NULL;
	k = want ? min_u64(want, min_u64(n, max)) : min_u64(n, max);
	*ret_n = k;
	return h2_input(&x->h2, p, k);
}

static int deliver_spliced(struct side *from, struct side *to, struct rnd *r, uint64_t *spliced)
{
	uint8_t *p = from->wire;
	size_t n = from->n, off = 0, k;
	int e = 0;

	from->wire = NULL;
	from->n = from->cap = 0;
	while (off < n && e == 0) {
		e = read_some(to, p + off, n - off, 1 + rnd_below(r, 1u << rnd_below(r, 19)), &k, spliced);
		off += k;
	}
	free(p);
	return e;
}

static void bytes_that_never_came_are_counted_all_the_same(void **state)
{
	struct rnd r = rnd_start("payload read past the session");
	uint64_t spliced = 0, total = 0;
	struct str *t[6];

	(void)state;
	for (int i = 0; i < 6; i++)
		t[i] = open_one(0, false);
	for (int round = 0; round < 60; round++) {
		struct str *one = t[rnd_below(&r, 6)];

		for (int i = 0; i < 6; i++) {
			t[i]->to_send += t[i] == one ? rnd_below(&r, 2000000) : rnd_below(&r, 4) ? 0 : rnd_below(&r, 50000);
			h2_resume(&t[i]->s);
		}
		if (rnd_below(&r, 3) == 0)
			h2_ping(&c->h2, false);
		for (int quiet = 0; quiet < 2;) {
			size_t moved;

			assert_true(side_flush(c) >= 0);
			assert_true(side_flush(s) >= 0);
			moved = c->n + s->n;
			assert_int_equal(deliver_spliced(c, s, &r, &spliced), 0);
			assert_int_equal(side_deliver(s, c), 0);
			quiet = moved ? 0 : quiet + 1;
		}
	}
	for (int i = 0; i < 6; i++) {
		assert_true(other(t[i])->got == t[i]->to_send);
		assert_false(other(t[i])->wrong);
		total += t[i]->to_send;
	}
	print_message("%llu of %llu bytes\n", (unsigned long long)spliced, (unsigned long long)total);
	assert_true(spliced > total / 3);
}

/* a server that has seen @n bytes of large frames of its only stream */
static struct str *a_run_of(size_t n)
{
	struct str *t = open_one(n, false);

	settle();
	assert_true(other(t)->got == n);
	return t;
}

static size_t put_data(uint8_t *out, const struct str *t, uint8_t flags, size_t n)
{
	static uint8_t zero[100000];

	return frame_put(out, NGHTTP2_DATA, flags, (uint32_t)t->id, zero, n);
}

static void only_large_frames_of_one_stream_are_expected(void **state)
{
	static uint8_t b[200000];
	struct str *t = a_run_of(1000000), *u;
	struct h2_stream *st;
	size_t n;

	(void)state;
	assert_int_equal(h2_header(&s->h2), 9);
	n = put_data(b, t, 0, 50000);
	assert_int_equal(h2_input(&s->h2, b, 4), 0);
	assert_int_equal(h2_header(&s->h2), 5);
	assert_int_equal(h2_payload(&s->h2, &st), 0);
	assert_int_equal(h2_input(&s->h2, b + 4, 5), 0);
	assert_int_equal(h2_header(&s->h2), 0);
	assert_int_equal(h2_payload(&s->h2, &st), 50000);
	assert_ptr_equal(st, &other(t)->s);
	other(t)->wrong = false;
	other(t)->got = 0; /* not the pattern from here on */
	assert_int_equal(h2_input(&s->h2, b + 9, 47000), 0);
	assert_int_equal(h2_payload(&s->h2, &st), 0); /* so little is not worth it */
	assert_int_equal(h2_input(&s->h2, b + 9 + 47000, n - 9 - 47000), 0);
	assert_int_equal(h2_header(&s->h2), 9);

	n = put_data(b, t, NGHTTP2_FLAG_PADDED, 50000); /* padding length 0: all of it is data, but who knows */
	assert_int_equal(h2_input(&s->h2, b, 9), 0);
	assert_int_equal(h2_payload(&s->h2, &st), 0);
	assert_int_equal(h2_input(&s->h2, b + 9, n - 9), 0);
	assert_int_equal(h2_header(&s->h2), 0); /* the run is over */

	u = a_run_of(1000000);
	n = put_data(b, u, 0, 100); /* a small one ends it, too */
	assert_int_equal(h2_input(&s->h2, b, n), 0);
	assert_int_equal(h2_header(&s->h2), 0);
	for (unsigned int i = 0; i < s->n_str; i++)
		s->str[i].wrong = false;
}

static void a_stream_that_is_gone_gets_nothing(void **state)
{
	static uint8_t b[200000];
	struct str *t = a_run_of(1000000), *o = other(t);
	struct h2_stream *st;
	size_t n = put_data(b, t, 0, 90000);

	(void)state;
	assert_int_equal(h2_input(&s->h2, b, 9), 0);
	assert_int_equal(h2_payload(&s->h2, &st), 90000);
	at = b + 9;
	o->got = 0;
	assert_int_equal(h2_spliced(&s->h2, st, 40000), 0);
	o->wrong = false;
	assert_int_equal(o->got, 40000);
	h2_reset(&o->s, NGHTTP2_CANCEL);
	assert_int_equal(h2_payload(&s->h2, &st), 0);
	assert_int_equal(h2_input(&s->h2, b + 9 + 40000, n - 9 - 40000), 0);
	assert_int_equal(o->got, 40000);
	assert_int_equal(h2_payload(&s->h2, &st), 0);
	settle();
}

/* DATA behind END_STREAM must not reach the application, whoever reads it */
static void what_the_session_does_not_take_ends_the_stream(void **state)
{
	static uint8_t b[200000];
	struct str *t = a_run_of(1000000), *o = other(t);
	struct h2_stream *st;
	size_t n = put_data(b, t, NGHTTP2_FLAG_END_STREAM, 20000);

	(void)state;
	o->got = 0;
	assert_int_equal(h2_input(&s->h2, b, n), 0);
	assert_true(o->ended);
	o->wrong = false;
	o->got = 0;
	(void)put_data(b, t, 0, 50000);
	assert_int_equal(h2_input(&s->h2, b, 9), 0);
	assert_int_equal(h2_payload(&s->h2, &st), 50000);
	at = NULL; /* nobody may look */
	assert_true(h2_spliced(&s->h2, st, 50000) <= 0);
	assert_int_equal(o->got, 0);
	assert_int_equal(o->n_closed, 1);
	o->wrong = false;
}

static void a_stream_beyond_its_window_is_not_fed(void **state)
{
	static uint8_t b[200000];
	struct str *t = a_run_of(1000000), *o = other(t);
	struct h2_stream *st;
	uint64_t got = 0;
	int e = 0;

	(void)state;
	o->hold = true;
	o->got = 0;
	for (int i = 0; i < 400 && e == 0 && !o->closed; i++) {
		(void)put_data(b, t, 0, 90000);
		e = h2_input(&s->h2, b, 9);
		at = b + 9;
		if (e == 0 && h2_payload(&s->h2, &st))
			e = h2_spliced(&s->h2, st, 90000);
		else if (e == 0)
			e = h2_input(&s->h2, b + 9, 90000);
		o->wrong = false;
		got = o->got;
		assert_true(side_flush(s) >= 0);
	}
	assert_true(e < 0 || o->closed || s->h2.dead);
	assert_true(got <= 8u << 20);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(the_peer_does_not_see_where_it_came_from),
		T(frames_stay_within_what_the_peer_allows),
		T(a_flush_is_bounded),
		T(control_frames_go_behind_a_payload_that_blocks),
		T(not_even_one_of_the_same_call),
		T(an_error_of_the_socket_is_told_as_it_is),
		T(bytes_that_never_came_are_counted_all_the_same),
		T(only_large_frames_of_one_stream_are_expected),
		T(a_stream_that_is_gone_gets_nothing),
		T(what_the_session_does_not_take_ends_the_stream),
		T(a_stream_beyond_its_window_is_not_fed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
