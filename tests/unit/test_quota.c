/* Limits per subject: each apart, bounded memory, and nobody locked out by somebody else's many names. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdio.h>

#include "daemon/policy/quota.c"
#include "unit/rand.h"

#define SECOND UINT64_C(1000000)

static struct quota *made(uint32_t n)
{
	struct quota *q = NULL;

	assert_int_equal(quota_create(&q, n), 0);
	return q;
}

static struct slice sl(const char *s)
{
	return (struct slice){ s, strlen(s) };
}

static struct slice numbered(char out[32], unsigned i)
{
	return (struct slice){ out, (size_t)snprintf(out, 32, "spiffe://td/sa/%u", i) };
}

static void each_subject_has_its_own_connections(void **state)
{
	const struct quota_limits l = { .max_connections = 2 };
	struct quota *q = made(16);
	struct quota_subject *s[5];

	(void)state;
	assert_int_equal(quota_enter(q, sl("a"), l, 1, &s[0]), QUOTA_OK);
	assert_int_equal(quota_enter(q, sl("a"), l, 1, &s[1]), QUOTA_OK);
	assert_int_equal(quota_look(q, sl("a"), l, 1), QUOTA_CONNECTIONS);
	assert_int_equal(quota_enter(q, sl("a"), l, 1, &s[2]), QUOTA_CONNECTIONS);
	assert_null(s[2]);
	assert_int_equal(quota_look(q, sl("b"), l, 1), QUOTA_OK); /* looking remembers nobody */
	assert_int_equal(q->n, 1);
	assert_int_equal(quota_enter(q, sl("b"), l, 1, &s[3]), QUOTA_OK);
	assert_ptr_not_equal(s[0], s[3]);
	quota_leave(s[0], 2);
	assert_int_equal(quota_enter(q, sl("a"), l, 2, &s[0]), QUOTA_OK);
	for (int i = 0; i < 4; i++)
		quota_leave(s[i], 3);
	assert_int_equal(q->refs, 1);
	quota_put(q);
}

static void each_subject_has_its_own_bucket(void **state)
{
	const struct quota_limits l = { .rate = { 10, 3 } };
	struct quota *q = made(16);
	struct quota_subject *s;

	(void)state;
	for (int i = 0; i < 20; i++) { /* the greedy one takes nothing from the modest one */
		assert_int_equal(quota_look(q, sl("greedy"), l, SECOND), i < 3 ? QUOTA_OK : QUOTA_RATE);
		assert_int_equal(quota_enter(q, sl("greedy"), l, SECOND, &s), i < 3 ? QUOTA_OK : QUOTA_RATE);
		quota_leave(s, SECOND);
	}
	for (int i = 0; i < 3; i++) {
		assert_int_equal(quota_enter(q, sl("modest"), l, SECOND, &s), QUOTA_OK);
		quota_leave(s, SECOND);
	}
	assert_int_equal(quota_enter(q, sl("greedy"), l, SECOND + 100000, &s), QUOTA_OK);
	quota_leave(s, SECOND);
	quota_put(q);
}

static void the_table_is_bounded_and_newcomers_share_a_bucket(void **state)
{
	const struct quota_limits l = { .max_connections = 3, .rate = { 1, 3 } };
	struct quota_subject *held[100] = { NULL }, *s;
	uint32_t in = 0, refused_ = 0;
	struct quota *q = made(10);
	struct quota_sums sums;
	char t[32];

	(void)state;
	for (unsigned i = 0; i < 10; i++)
		assert_int_equal(quota_enter(q, numbered(t, i), l, SECOND, &held[in++]), QUOTA_OK);
	for (unsigned i = 10; i < 1000; i++) { /* a flood of names, each of whom holds on to what he gets */
		if (quota_enter(q, numbered(t, i), l, SECOND, &s) == QUOTA_OK)
			held[in++] = s;
		else
			refused_++;
	}
	assert_int_equal(in, 10 + 3);
	assert_int_equal(refused_, 990 - 3);
	quota_sums(q, &sums);
	assert_int_equal(sums.subjects, 10);
	assert_int_equal(sums.active, 13);
	assert_int_equal(sums.overflowed, 990);
	assert_int_equal(quota_enter(q, numbered(t, 4), l, SECOND, &s), QUOTA_OK); /* who is in is not concerned */
	quota_leave(s, SECOND);
	for (uint32_t i = 0; i < in; i++)
		quota_leave(held[i], SECOND);
	/* all have left and the buckets are full again: there is room for others */
	assert_int_equal(quota_enter(q, sl("late"), l, 100 * SECOND, &s), QUOTA_OK);
	assert_ptr_not_equal(s, q->overflow);
	assert_int_equal(q->n, 10);
	quota_leave(s, 100 * SECOND);
	quota_put(q);
}

static void nobody_is_forgotten_who_would_gain_by_it(void **state)
{
	const struct quota_limits l = { .rate = { 1, 2 } };
	struct quota *q = made(2);
	struct quota_subject *s;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_int_equal(quota_enter(q, sl("spent"), l, SECOND, &s), QUOTA_OK);
		quota_leave(s, SECOND);
	}
	assert_int_equal(quota_enter(q, sl("other"), l, SECOND, &s), QUOTA_OK);
	quota_leave(s, SECOND);
	for (int i = 0; i < 100; i++) /* new names do not push it out */
		if (quota_enter(q, sl(i & 1 ? "x" : "y"), l, SECOND, &s) == QUOTA_OK)
			quota_leave(s, SECOND);
	assert_int_equal(quota_enter(q, sl("spent"), l, SECOND, &s), QUOTA_RATE);
	/* a second later "other" is whole again and makes room; "spent" is not */
	assert_int_equal(quota_enter(q, sl("x"), l, 2 * SECOND, &s), QUOTA_OK);
	assert_ptr_not_equal(s, q->overflow);
	quota_leave(s, 2 * SECOND);
	assert_int_equal(quota_enter(q, sl("spent"), l, 2 * SECOND, &s), QUOTA_OK);
	quota_leave(s, 2 * SECOND);
	assert_int_equal(quota_enter(q, sl("spent"), l, 2 * SECOND, &s), QUOTA_RATE);
	quota_put(q);
}

static void the_idle_ones_age_out(void **state)
{
	const struct quota_limits l = { .max_connections = 5 };
	struct quota *q = made(1000);
	struct quota_subject *s;
	char t[32];

	(void)state;
	for (unsigned i = 0; i < 100; i++) {
		assert_int_equal(quota_enter(q, numbered(t, i), l, SECOND, &s), QUOTA_OK);
		quota_leave(s, SECOND);
	}
	assert_int_equal(q->n, 100);
	for (unsigned i = 0; i < 60; i++) {
		assert_int_equal(quota_enter(q, numbered(t, 200 + i), l, 1000 * SECOND, &s), QUOTA_OK);
		quota_leave(s, 1000 * SECOND);
	}
	assert_int_equal(q->n, 60);
	quota_put(q);
}

static void limits_may_change_under_way(void **state)
{
	struct quota_limits l = { .max_connections = 1 };
	struct quota *q = made(4);
	struct quota_subject *a, *b, *s;

	(void)state;
	assert_int_equal(quota_enter(q, sl("a"), l, 1, &a), QUOTA_OK);
	assert_int_equal(quota_enter(q, sl("a"), l, 1, &s), QUOTA_CONNECTIONS);
	l.max_connections = 2;
	assert_int_equal(quota_enter(q, sl("a"), l, 1, &b), QUOTA_OK);
	l.max_connections = 1; /* who is there stays */
	quota_leave(b, 2);
	assert_int_equal(quota_enter(q, sl("a"), l, 2, &s), QUOTA_CONNECTIONS);
	quota_resize(q, 1);
	assert_int_equal(quota_enter(q, sl("b"), l, 2, &s), QUOTA_OK);
	assert_ptr_equal(s, q->overflow);
	quota_put(q); /* the class is gone from the configuration; its connections are not */
	quota_leave(s, 3);
	quota_leave(a, 3);
}

static void rows_show_the_worst_first(void **state)
{
	const struct quota_limits l = { .max_connections = 1, .rate = { 5, 10 } };
	struct quota *q = made(100);
	struct quota_subject *s[50];
	struct quota_row r[3];
	char t[32];

	(void)state;
	for (unsigned i = 0; i < 50; i++) {
		struct quota_subject *none;

		assert_int_equal(quota_enter(q, numbered(t, i), l, SECOND, &s[i]), QUOTA_OK);
		for (unsigned k = 0; k < i; k++)
			assert_int_equal(quota_enter(q, numbered(t, i), l, SECOND, &none), QUOTA_CONNECTIONS);
	}
	assert_int_equal(quota_rows(q, l, 3 * SECOND, r, 3), 3);
	assert_string_equal(r[0].who, "spiffe://td/sa/49");
	assert_int_equal(r[0].refused_connections, 49);
	assert_int_equal(r[0].active, 1);
	assert_int_equal(r[0].left, 10);
	assert_int_equal(r[0].idle_us, 2 * SECOND);
	assert_string_equal(r[2].who, "spiffe://td/sa/47");
	assert_int_equal(quota_rows(q, l, SECOND, r, 0), 0);
	for (unsigned i = 0; i < 50; i++)
		quota_leave(s[i], SECOND);
	quota_put(q);
}

/* against counting by hand, with few names and a table that is large enough */
static void random_comings_and_goings_are_counted(void **state)
{
	struct rnd rnd = rnd_start("quota");
	const struct quota_limits l = { .max_connections = 4 };
	struct quota *q = made(8);
	struct quota_subject *held[8][4] = { { NULL } };
	uint32_t n[8] = { 0 };

	(void)state;
	for (int i = 0; i < 20000; i++) {
		uint32_t who = (uint32_t)rnd_below(&rnd, 8);
		struct quota_subject *s;
		char t[32];

		if (rnd_below(&rnd, 2)) {
			enum quota_verdict v = quota_enter(q, numbered(t, who), l, (uint64_t)i, &s);

			assert_int_equal(v, n[who] < 4 ? QUOTA_OK : QUOTA_CONNECTIONS);
			if (s)
				held[who][n[who]++] = s;
		} else if (n[who]) {
			quota_leave(held[who][--n[who]], (uint64_t)i);
		}
	}
	for (uint32_t i = 0; i < 8; i++)
		while (n[i])
			quota_leave(held[i][--n[i]], 0);
	assert_int_equal(q->active, 0);
	quota_put(q);
}

struct crowd {
	struct quota *q;
	_Atomic uint32_t in, most;
};

static void *comes_and_goes(void *arg)
{
	const struct quota_limits l = { .max_connections = 3 };
	struct crowd *c = arg;
	struct quota_subject *s;
	char t[32];

	for (unsigned i = 0; i < 3000; i++) {
		if (quota_enter(c->q, sl("one"), l, i, &s) == QUOTA_OK) {
			uint32_t now = atomic_fetch_add(&c->in, 1) + 1;

			if (now > atomic_load(&c->most))
				atomic_store(&c->most, now);
			atomic_fetch_sub(&c->in, 1);
			quota_leave(s, i);
		}
		if (quota_enter(c->q, numbered(t, i % 50), l, i, &s) == QUOTA_OK)
			quota_leave(s, i);
	}
	return NULL;
}

static void threads_never_exceed_a_limit(void **state)
{
	struct crowd c = { .q = made(20) };
	pthread_t t[6];

	(void)state;
	for (int i = 0; i < 6; i++)
		assert_int_equal(pthread_create(&t[i], NULL, comes_and_goes, &c), 0);
	for (int i = 0; i < 6; i++)
		pthread_join(t[i], NULL);
	assert_in_range(c.most, 1, 3);
	assert_int_equal(c.q->active, 0);
	assert_true(c.q->n <= 20);
	quota_put(c.q);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(each_subject_has_its_own_connections),
		cmocka_unit_test(each_subject_has_its_own_bucket),
		cmocka_unit_test(the_table_is_bounded_and_newcomers_share_a_bucket),
		cmocka_unit_test(nobody_is_forgotten_who_would_gain_by_it),
		cmocka_unit_test(the_idle_ones_age_out),
		cmocka_unit_test(limits_may_change_under_way),
		cmocka_unit_test(rows_show_the_worst_first),
		cmocka_unit_test(random_comings_and_goings_are_counted),
		cmocka_unit_test(threads_never_exceed_a_limit),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
