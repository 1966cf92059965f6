/* The timer wheel, in virtual time: against a naive list of timers, and what callbacks may do. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "daemon/base/timer.c"
#include "unit/rand.h"

static void count(struct timer *t, void *arg)
{
	assert_false(timer_armed(t));
	++*(int *)arg;
}

static void fires_once_and_not_early(void **state)
{
	static const uint64_t after[] = {1,	 2,	 63,	   64,	       65,	   4095,       4096,	  4097,
					 262143, 262144, 16777216, 1073741823, 1073741824, 1073741825, 5000000000};
	static const uint64_t start[] = {0, 1, 63, 64, 123456789, (UINT64_C(1) << 30) - 1, UINT64_C(1) << 40};

	(void)state;
	for (unsigned int s = 0; s < sizeof(start) / sizeof(start[0]); s++)
		for (unsigned int i = 0; i < sizeof(after) / sizeof(after[0]); i++) {
			int fired = 0;
			struct timer t = {.fire = count, .arg = &fired};
			struct timers w;
			uint64_t at = start[s] + after[i];

			timers_init(&w, start[s]);
			timer_arm(&w, &t, at);
			timers_run(&w, start[s]);
			timers_run(&w, at - 1);
			assert_int_equal(fired, 0);
			assert_int_equal(timers_wait(&w, at - 1), 1);
			timers_run(&w, at);
			assert_int_equal(fired, 1);
			assert_int_equal(timers_wait(&w, at), -1);
			timers_run(&w, at + 10000000000);
			assert_int_equal(fired, 1);
			assert_int_equal(w.armed, 0);
		}
}

static void now_and_past_fire_in_the_next_run(void **state)
{
	int fired = 0;
	struct timer a = {.fire = count, .arg = &fired}, b = a, c = a;
	struct timers w;

	(void)state;
	timers_init(&w, 1000);
	timer_arm(&w, &a, 1000);
	timer_arm(&w, &b, 1);
	timer_arm(&w, &c, 0);
	assert_true(timer_armed(&c));
	assert_int_equal(timers_wait(&w, 1000), 0);
	timers_run(&w, 1000);
	assert_int_equal(fired, 3);
}

static void arming_an_armed_timer_moves_it(void **state)
{
	int fired = 0;
	struct timer t = {.fire = count, .arg = &fired};
	struct timers w;

	(void)state;
	timers_init(&w, 1000);
	timer_arm(&w, &t, 1010);
	timer_arm(&w, &t, 500000);
	assert_int_equal(w.armed, 1);
	timers_run(&w, 2000);
	assert_int_equal(fired, 0);
	timer_arm(&w, &t, 2001);
	assert_int_equal(timers_wait(&w, 2000), 1);
	timers_run(&w, 2001);
	assert_int_equal(fired, 1);
}

static void disarmed_never_fires_and_leaves_no_trace(void **state)
{
	static const struct timers empty;
	int fired = 0;
	struct timer t = {.fire = count, .arg = &fired}, u = t;
	struct timers w;

	(void)state;
	timers_init(&w, 0);
	timer_disarm(&w, &t); /* never armed */
	for (uint64_t at = 1; at < UINT64_C(1) << 40; at = at * 3 + 1) {
		timer_arm(&w, &t, at);
		timer_arm(&w, &u, at);
		timer_disarm(&w, &t);
		assert_false(timer_armed(&t));
		assert_true(timers_wait(&w, 0) > 0);
		timer_disarm(&w, &u);
		assert_int_equal(timers_wait(&w, 0), -1);
		assert_memory_equal(w.bits, empty.bits, sizeof(w.bits));
	}
	timers_run(&w, UINT64_C(1) << 41);
	assert_int_equal(fired, 0);
}

static void time_that_goes_back_does_no_harm(void **state)
{
	int fired = 0;
	struct timer t = {.fire = count, .arg = &fired};
	struct timers w;

	(void)state;
	timers_init(&w, 1000);
	timers_run(&w, 500);
	assert_int_equal(w.now_ms, 1000);
	timer_arm(&w, &t, 700);
	timers_run(&w, 500);
	assert_int_equal(fired, 1);
}

/* ---- callbacks ---- */

struct act {
	struct timer t;
	struct timers *w;
	struct act *other;
	uint64_t again_ms;
	int fired;
};

static void act_again(struct timer *t, void *arg)
{
	struct act *a = arg;

	a->fired++;
	timer_arm(a->w, t, a->again_ms);
}

static void a_callback_that_arms_itself_for_now_waits_for_the_next_run(void **state)
{
	struct timers w;
	struct act a = {.t = {.fire = act_again, .arg = &a}, .w = &w};

	(void)state;
	timers_init(&w, 100);
	timer_arm(&w, &a.t, 200);
	for (int i = 1; i < 10; i++) {
		a.again_ms = 150 + (uint64_t)i * 20; /* past and future */
		timers_run(&w, 300);
		assert_int_equal(a.fired, i);
		assert_int_equal(timers_wait(&w, 300), a.again_ms <= 300 ? 0 : a.again_ms - 300);
		if (a.again_ms > 300)
			break;
	}
	timer_disarm(&w, &a.t);
}

static void act_disarm_other(struct timer *t, void *arg)
{
	struct act *a = arg;

	(void)t;
	a->fired++;
	timer_disarm(a->w, &a->other->t);
}

static void act_move_other(struct timer *t, void *arg)
{
	struct act *a = arg;

	(void)t;
	a->fired++;
	timer_arm(a->w, &a->other->t, a->again_ms);
}

static void a_callback_may_disarm_a_timer_that_is_due_too(void **state)
{
	struct timers w;
	struct act a = {.t = {.fire = act_disarm_other, .arg = &a}, .w = &w};
	struct act b = {.t = {.fire = act_disarm_other, .arg = &b}, .w = &w, .other = &a};

	(void)state;
	a.other = &b;
	timers_init(&w, 100);
	timer_arm(&w, &a.t, 110);
	timer_arm(&w, &b.t, 110);
	timers_run(&w, 200);
	assert_int_equal(a.fired + b.fired, 1); /* either one disarmed the other */
	assert_int_equal(w.armed, 0);
	assert_int_equal(timers_wait(&w, 200), -1);
}

static void a_callback_may_move_a_timer_that_is_due_too(void **state)
{
	struct timers w;
	struct act a = {.t = {.fire = act_move_other, .arg = &a}, .w = &w, .again_ms = 1000};
	struct act b = {.t = {.fire = act_move_other, .arg = &b}, .w = &w, .other = &a, .again_ms = 5000};

	(void)state;
	a.other = &b;
	timers_init(&w, 100);
	timer_arm(&w, &a.t, 110);
	timer_arm(&w, &b.t, 111); /* later: it is the one that is moved */
	timers_run(&w, 200);
	assert_int_equal(a.fired, 1);
	assert_int_equal(b.fired, 0);
	timers_run(&w, 999);
	assert_int_equal(b.fired, 0);
	timers_run(&w, 1000);
	assert_int_equal(b.fired, 1); /* and it has moved a to 5000 */
	timers_run(&w, 5000);
	assert_int_equal(a.fired, 2);
}

static void act_free(struct timer *t, void *arg)
{
	++*(int *)arg;
	free(t);
}

static void a_callback_may_free_its_timer(void **state)
{
	struct timers w;
	int freed = 0;

	(void)state;
	timers_init(&w, 100);
	for (uint64_t i = 0; i < 100; i++) {
		struct timer *t = calloc(1, sizeof(*t));

		t->fire = act_free;
		t->arg = &freed;
		timer_arm(&w, t, 100 + i / 3);
	}
	timers_run(&w, 1000);
	assert_int_equal(freed, 100);
}

struct order {
	struct timer t;
	struct timers *w;
	uint64_t *last;
	uint64_t at;
};

static void order_check(struct timer *t, void *arg)
{
	struct order *o = arg;

	(void)t;
	assert_true(o->at >= *o->last);
	assert_true(timers_wait(o->w, 1000000) >= -1); /* asked in a callback */
	*o->last = o->at;
}

static void one_run_fires_in_the_order_of_time(void **state)
{
	enum { N = 500 };
	struct rnd r = rnd_start("timer order");
	static struct order o[N];
	struct timers w;
	uint64_t last = 0;

	(void)state;
	timers_init(&w, 77);
	for (int i = 0; i < N; i++) {
		o[i] = (struct order){.t = {.fire = order_check, .arg = &o[i]}, .w = &w, .last = &last};
		o[i].at = 77 + rnd_below(&r, 1u << rnd_below(&r, 20));
		timer_arm(&w, &o[i].t, o[i].at);
	}
	timers_run(&w, 77 + (1 << 20));
	assert_int_equal(w.armed, 0);
}

/* ---- against a model: an array that is searched ---- */

enum { MODEL_TIMERS = 200 };

struct model {
	struct timer t;
	uint64_t at; /* 0: not armed */
	bool due;    /* in this run */
};

static struct model_world {
	struct timers w;
	struct rnd r;
	struct model m[MODEL_TIMERS];
	uint64_t now;
	uint64_t fired;
} world;

static uint64_t random_time(struct model_world *x)
{
	uint64_t d = rnd_u64(&x->r) >> (30 + rnd_below(&x->r, 34)); /* 0 to 2^34 ms, all magnitudes alike */

	if (rnd_below(&x->r, 10) == 0)
		return x->now > d ? x->now - d : 1;
	return x->now + d;
}

static void model_arm(struct model_world *x, struct model *m)
{
	m->at = random_time(x);
	m->due = false;
	timer_arm(&x->w, &m->t, m->at);
}

static void model_disarm(struct model_world *x, struct model *m)
{
	m->at = 0;
	m->due = false;
	timer_disarm(&x->w, &m->t);
}

static void model_fire(struct timer *t, void *arg)
{
	struct model *m = arg;

	(void)t;
	assert_true(m->due); /* exactly those, and not again after they were moved */
	m->due = false;
	m->at = 0;
	world.fired++;
	for (uint64_t n = rnd_below(&world.r, 3); n; n--) {
		struct model *o = rnd_below(&world.r, 3) ? &world.m[rnd_below(&world.r, MODEL_TIMERS)] : m;

		if (rnd_below(&world.r, 3))
			model_arm(&world, o);
		else
			model_disarm(&world, o);
	}
}

static void model_check(struct model_world *x)
{
	uint64_t next = UINT64_MAX;
	uint32_t armed = 0;
	int wait = timers_wait(&x->w, x->now);

	for (int i = 0; i < MODEL_TIMERS; i++) {
		struct model *m = &x->m[i];

		assert_int_equal(timer_armed(&m->t), m->at != 0);
		assert_false(m->due);
		if (!m->at)
			continue;
		armed++;
		next = m->at < next ? m->at : next;
	}
	assert_int_equal(x->w.armed, armed);
	if (!armed) {
		assert_int_equal(wait, -1);
		return;
	}
	assert_true(wait >= 0);
	assert_true(next <= x->now ? wait == 0 : (uint64_t)wait <= next - x->now); /* never late */
	assert_true(next <= x->now || wait > 0);				   /* never a busy loop */
}

static void behaves_as_a_plain_list(void **state)
{
	struct model_world *x = &world;

	(void)state;
	x->r = rnd_start("timer wheel against a model");
	x->now = rnd_u64(&x->r) >> (10 + rnd_below(&x->r, 50));
	timers_init(&x->w, x->now);
	for (int i = 0; i < MODEL_TIMERS; i++)
		x->m[i].t = (struct timer){.fire = model_fire, .arg = &x->m[i]};

	for (int step = 0; step < 30000; step++) {
		struct model *m = &x->m[rnd_below(&x->r, MODEL_TIMERS)];
		int wait;

		switch (rnd_below(&x->r, 8)) {
		case 0:
		case 1:
		case 2: model_arm(x, m); continue;
		case 3: model_disarm(x, m); continue;
		case 4:
		case 5: /* as the event loop does */
			wait = timers_wait(&x->w, x->now);
			x->now += wait > 0 ? (uint64_t)wait : 0;
			break;
		case 6: x->now += rnd_below(&x->r, 100); break;
		case 7: /* the machine slept */ x->now += rnd_u64(&x->r) >> (31 + rnd_below(&x->r, 33)); break;
		}
		for (int i = 0; i < MODEL_TIMERS; i++)
			x->m[i].due = x->m[i].at && x->m[i].at <= x->now;
		timers_run(&x->w, x->now);
		model_check(x);
	}
	assert_true(x->fired > 5000);
}

static void sleeping_as_told_is_never_late_and_wakes_rarely(void **state)
{
	struct rnd r = rnd_start("timer wait");

	(void)state;
	for (int i = 0; i < 2000; i++) {
		int fired = 0, wakes = 0;
		struct timer t = {.fire = count, .arg = &fired};
		uint64_t now = rnd_u64(&r) >> (10 + rnd_below(&r, 50)), at;
		struct timers w;

		at = now + 1 + (rnd_u64(&r) >> (35 + rnd_below(&r, 29)));
		timers_init(&w, now);
		timer_arm(&w, &t, at);
		while (!fired) {
			now += (uint64_t)timers_wait(&w, now);
			timers_run(&w, now);
			wakes++;
		}
		assert_true(now == at);
		assert_true(wakes <= (int)TIMER_LEVELS);
	}
}

static void waits_longer_than_int_are_clamped(void **state)
{
	int fired = 0;
	struct timer t = {.fire = count, .arg = &fired};
	struct timers w;

	(void)state;
	timers_init(&w, 1);
	timer_arm(&w, &t, UINT64_C(1) << 50);
	assert_true(timers_wait(&w, 1) > 1000000);
	assert_int_equal(timers_wait(&w, 0), (1 << 30) - (1 << 24)); /* parked: the last slot of the top level */
	timers_init(&w, UINT64_C(1) << 40);
	timer_arm(&w, &(struct timer){.fire = count, .arg = &fired}, 5);
	assert_int_equal(timers_wait(&w, 0), INT32_MAX); /* whatever the caller's clock says */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(fires_once_and_not_early),
		cmocka_unit_test(now_and_past_fire_in_the_next_run),
		cmocka_unit_test(arming_an_armed_timer_moves_it),
		cmocka_unit_test(disarmed_never_fires_and_leaves_no_trace),
		cmocka_unit_test(time_that_goes_back_does_no_harm),
		cmocka_unit_test(a_callback_that_arms_itself_for_now_waits_for_the_next_run),
		cmocka_unit_test(a_callback_may_disarm_a_timer_that_is_due_too),
		cmocka_unit_test(a_callback_may_move_a_timer_that_is_due_too),
		cmocka_unit_test(a_callback_may_free_its_timer),
		cmocka_unit_test(one_run_fires_in_the_order_of_time),
		cmocka_unit_test(behaves_as_a_plain_list),
		cmocka_unit_test(sleeping_as_told_is_never_late_and_wakes_rarely),
		cmocka_unit_test(waits_longer_than_int_are_clamped),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
