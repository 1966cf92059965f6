/* The token bucket: bursts, refill, never more than promised, whoever asks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "daemon/policy/rate.c"
#include "unit/rand.h"

static void a_full_bucket_gives_its_burst_then_the_rate(void **state)
{
	const struct rate_limit l = { 10, 5 };
	struct rate r = { 0 };
	uint64_t t = 1000000000;

	(void)state;
	for (int i = 0; i < 5; i++) {
		assert_int_equal(rate_left(&r, l, t), 5 - i);
		assert_true(rate_take(&r, l, t));
	}
	assert_int_equal(rate_left(&r, l, t), 0);
	assert_false(rate_take(&r, l, t));
	assert_int_equal(rate_wait_us(&r, l, t), 100000);
	assert_false(rate_take(&r, l, t + 99999));
	assert_true(rate_take(&r, l, t + 100000));
	assert_false(rate_take(&r, l, t + 100000));
	assert_int_equal(rate_left(&r, l, t + 350000), 2);
	assert_int_equal(rate_left(&r, l, t + 100000000), 5); /* not more than full */
	t += 100000000;
	for (int i = 0; i < 5; i++)
		assert_true(rate_take(&r, l, t));
	assert_false(rate_take(&r, l, t));
}

static void without_a_rate_all_pass(void **state)
{
	struct rate r = { 0 };

	(void)state;
	for (int i = 0; i < 1000; i++)
		assert_true(rate_take(&r, (struct rate_limit){ 0, 0 }, 5));
	assert_int_equal(rate_wait_us(&r, (struct rate_limit){ 0, 0 }, 5), 0);
}

static void a_refusal_costs_nothing(void **state)
{
	const struct rate_limit l = { 1, 1 };
	struct rate r = { 0 };

	(void)state;
	assert_true(rate_take(&r, l, 5000000));
	for (int i = 0; i < 1000; i++)
		assert_false(rate_take(&r, l, 5000001));
	assert_true(rate_take(&r, l, 6000000));
}

static void a_new_limit_counts_at_once(void **state)
{
	const struct rate_limit slow = { 1, 1000000 }, fast = { 1000, 10 };
	struct rate r = { 0 };
	uint64_t t = 1000000;

	(void)state;
	for (int i = 0; i < 100000; i++)
		assert_true(rate_take(&r, slow, t)); /* a day's worth of tokens */
	assert_false(rate_take(&r, fast, t));
	assert_true(rate_take(&r, fast, t + 1000)); /* not a day later */
	assert_int_equal(rate_left(&r, fast, t + 1000000), 10);
}

static void a_clock_that_differs_between_threads_does_no_harm(void **state)
{
	const struct rate_limit l = { 1000, 3 };
	struct rate r = { 0 };

	(void)state;
	assert_true(rate_take(&r, l, 2000000));
	assert_true(rate_take(&r, l, 1999000)); /* a little behind */
	assert_true(rate_take(&r, l, 2000000));
	for (uint64_t i = 0; i < 1000; i++)
		assert_false(rate_take(&r, l, 1500000 + i)); /* whoever is behind takes nothing from the future */
	assert_false(rate_take(&r, l, 2000000));
	assert_true(rate_take(&r, l, 2001000));
}

/* for any rate, burst and times: what was let through from a to b is at most burst + rate * (b - a), and a bucket asked often enough gives it */
static void never_more_than_promised_and_not_less(void **state)
{
	struct rnd rnd = rnd_start("rate");

	(void)state;
	for (int round = 0; round < 300; round++) {
		struct rate_limit l = { (uint32_t)(1 + rnd_below(&rnd, round % 3 ? 1000 : RATE_MAX)), (uint32_t)(1 + rnd_below(&rnd, 50)) };
		uint64_t t = 1000000000 + rnd_below(&rnd, 1u << 30), start = t, n = 0, step = 1 + rnd_below(&rnd, 3000000 / l.per_second + 1);
		struct rate r = { 0 };

		for (int i = 0; i < 3000; i++) {
			uint32_t left = rate_left(&r, l, t);
			bool got = rate_take(&r, l, t);

			assert_int_equal(got, left > 0);
			n += got;
			/* the interval is rounded: 1/32000 at the most */
			assert_true((double)n <= l.burst + (double)(t - start) * l.per_second / 1e6 * 1.0001 + 1e-6);
			if (!got) {
				uint64_t w = rate_wait_us(&r, l, t);

				assert_true(w > 0);
				assert_int_equal(rate_left(&r, l, t + w), 1);
			}
			t += rnd_below(&rnd, step + 1);
		}
		for (uint64_t w = 0; w < 10; w++) { /* drained as soon as there is one: nothing is withheld */
			t += rate_wait_us(&r, l, t);
			assert_true(rate_take(&r, l, t));
		}
	}
}

#define THREADS 4
#define ROUNDS 20000

struct shared {
	struct rate r;
	struct rate_limit l;
	_Atomic uint64_t let;
};

static void *taker(void *arg)
{
	struct shared *s = arg;

	for (uint64_t i = 0; i < ROUNDS; i++)
		if (rate_take(&s->r, s->l, 1000000 + i))
			atomic_fetch_add(&s->let, 1);
	return NULL;
}

static void threads_share_one_bucket_exactly(void **state)
{
	struct shared s = { .l = { 100000, 50 } }; /* in 20 ms: 2000 tokens and 50 */
	pthread_t t[THREADS];

	(void)state;
	for (int i = 0; i < THREADS; i++)
		assert_int_equal(pthread_create(&t[i], NULL, taker, &s), 0);
	for (int i = 0; i < THREADS; i++)
		pthread_join(t[i], NULL);
	assert_true(s.let <= 50 + 2000);
	assert_true(s.let >= 1900); /* the last thread alone sees all of the time */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_full_bucket_gives_its_burst_then_the_rate),
		cmocka_unit_test(without_a_rate_all_pass),
		cmocka_unit_test(a_refusal_costs_nothing),
		cmocka_unit_test(a_new_limit_counts_at_once),
		cmocka_unit_test(a_clock_that_differs_between_threads_does_no_harm),
		cmocka_unit_test(never_more_than_promised_and_not_less),
		cmocka_unit_test(threads_share_one_bucket_exactly),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
