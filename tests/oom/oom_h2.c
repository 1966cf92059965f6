/*
 * HTTP/2 sessions when memory runs out, nghttp2's own included: an error or a lost stream, never a crash, a leak, or a stream whose end
 * nobody hears of on our side.
 */
/* link: -Wl,--wrap=nghttp2_session_server_new2 -Wl,--wrap=nghttp2_session_client_new2 -Wl,--wrap=nghttp2_session_callbacks_new -Wl,--wrap=nghttp2_option_new */
#include "oom/oom.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define STREAMS 16
#include "oom/h2_memory.h"
#include "unit/h2_pair.h"

static struct side *c, *s; /* client, server; their memory is not part of a run */

static int setup(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct side *x = side_new();

		if (!x)
			return -1;
		x->cap = 1 << 22;
		x->wire = malloc(x->cap);
		if (!x->wire)
			return -1;
		*(i ? &s : &c) = x;
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	side_free(c);
	side_free(s);
	return 0;
}

static void start(struct side *x)
{
	memset(x->str, 0, STREAMS * sizeof(*x->str));
	memset(&x->h2, 0, sizeof(x->h2));
	memset(&x->l.stats, 0, sizeof(x->l.stats));
	x->n = x->n_str = 0;
	x->no_answer = x->refuse_all = false;
}

/* Return: it still works. What fails has a reason: there is nothing else than memory that could go wrong. */
static bool fine(int r)
{
	if (r >= 0)
		return true;
	assert_true(r == -ENOMEM || r == -EPROTO);
	assert_true(oom_struck());
	return false;
}

static bool deliver(struct side *from, struct side *to)
{
	size_t n = from->n;

	from->n = 0;
	return !n || fine(h2_input(&to->h2, from->wire, n));
}

static bool settle(void)
{
	for (int i = 0; i < 200; i++) {
		size_t moved;

		if (!fine(side_flush(c)) || !fine(side_flush(s)))
			return false;
		moved = c->n + s->n;
		if (!deliver(c, s) || !deliver(s, c))
			return false;
		if (!moved)
			return true;
	}
	assert_true(oom_struck());
	return false;
}

static void end(void)
{
	for (int i = 0; i < 2; i++) {
		struct side *x = i ? s : c;

		h2_abort(&x->h2);
		assert_int_equal(x->h2.streams, 0);
		assert_int_equal(atomic_load(&x->l.stats.g[SG_STREAMS]), 0);
		for (unsigned int k = 0; k < x->n_str; k++) {
			assert_in_range(x->str[k].n_closed, 0, 1);
			assert_int_equal(x->str[k].s.id, 0);
			assert_false(x->str[k].wrong);
		}
	}
}

static void init_once(void)
{
	start(s);
	if (fine(h2_init(&s->h2, &s->l, true, 10, &side_ops, s)))
		(void)fine(side_flush(s));
	assert_true(s->h2.ng || oom_struck());
	h2_abort(&s->h2);
	start(c);
	if (fine(h2_init(&c->h2, &c->l, false, 0, &side_ops, c)))
		(void)fine(side_flush(c));
	h2_abort(&c->h2);
}

static void a_session_is_whole_or_not_there(void **state)
{
	(void)state;
	assert_true(oom_sweep(init_once) >= 20);
}

static bool begin(void)
{
	start(c);
	start(s);
	return fine(h2_init(&c->h2, &c->l, false, 0, &side_ops, c)) && fine(h2_init(&s->h2, &s->l, true, 10, &side_ops, s)) && settle();
}

static struct str *open_one(uint64_t to_send)
{
	struct str *t = str_open(c, "10.0.0.7:80");

	if (!t) {
		assert_true(errno == ENOMEM || errno == ESTALE); /* the other side may have said GOAWAY */
		assert_true(oom_struck());
		return NULL;
	}
	t->to_send = to_send;
	return t;
}

/* a stream from request to end, bytes both ways */
static bool exchange(void)
{
	struct str *t = open_one(50000), *o;

	if (!t || !settle())
		return false;
	o = str_by_id(s, t->id);
	if (!o || !o->s.id) {
		assert_true(oom_struck());
		return false;
	}
	o->to_send = 70000;
	o->eof = t->eof = true;
	h2_resume(&o->s);
	h2_resume(&t->s);
	if (!settle())
		return false;
	if (!oom_struck()) {
		assert_true(t->got == 70000 && o->got == 50000);
		assert_true(t->closed && o->closed);
	}
	return true;
}

static void exchange_once(void)
{
	if (begin())
		(void)exchange();
	end();
}

static void streams_end_whatever_is_refused(void **state)
{
	(void)state;
	assert_true(oom_sweep(exchange_once) >= 50);
}

/* resets, refusals, PING, GOAWAY, windows that change */
static bool everything_else(void)
{
	nghttp2_nv busy = NV_LIT(":status", "503");
	struct str *t[4];

	s->no_answer = true;
	for (int i = 0; i < 4; i++) {
		t[i] = open_one(1000);
		if (!t[i])
			return false;
	}
	if (!settle())
		return false;
	h2_reset(&t[0]->s, NGHTTP2_CANCEL);
	if (s->n_str > 1 && s->str[1].s.id)
		h2_refuse(&s->h2, s->str[1].s.id, &busy, 1);
	if (s->n_str > 2 && s->str[2].s.id)
		h2_reset(&s->str[2].s, NGHTTP2_CONNECT_ERROR);
	h2_forget(&t[3]->s);
	h2_ping(&c->h2, false);
	atomic_store(&s->l.stats.g[SG_BUFFERED], (int64_t)s->cfg.limits.memory + 1);
	h2_window_check(&s->h2);
	if (!settle())
		return false;
	atomic_store(&s->l.stats.g[SG_BUFFERED], 0);
	s->refuse_all = true;
	if (!open_one(10) || !settle())
		return false;
	h2_goaway_first(&s->h2);
	if (!settle())
		return false;
	h2_goaway_last(&s->h2, NGHTTP2_NO_ERROR);
	return settle();
}

static void everything_else_once(void)
{
	if (begin())
		(void)everything_else();
	end();
}

static void so_do_resets_refusals_and_goodbyes(void **state)
{
	(void)state;
	assert_true(oom_sweep(everything_else_once) >= 50);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_session_is_whole_or_not_there),
		cmocka_unit_test(streams_end_whatever_is_refused),
		cmocka_unit_test(so_do_resets_refusals_and_goodbyes),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
