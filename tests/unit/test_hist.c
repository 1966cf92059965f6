/* The histogram: the error bound over all magnitudes, and what a merged one promises. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "daemon/base/hist.c"
#include "unit/rand.h"

static void every_value_lies_in_its_slot(void **state)
{
	struct rnd r = rnd_start("hist slots");

	(void)state;
	for (int i = 0; i < 200000; i++) {
		uint64_t v = rnd_u64(&r) >> rnd_below(&r, 64), low;
		unsigned int s = hist_slot(v);

		assert_true(s < HIST_SLOTS);
		assert_true(v <= hist_upper(s));
		low = s ? hist_upper(s - 1) + 1 : 0;
		assert_true(v >= low);
		assert_true(hist_upper(s) - low <= v / 16); /* below 6.25 % */
	}
}

static void slots_cover_all_values_without_gaps(void **state)
{
	(void)state;
	for (unsigned int s = 0; s + 1 < HIST_SLOTS; s++) {
		assert_int_equal(hist_slot(hist_upper(s)), s);
		assert_int_equal(hist_slot(hist_upper(s) + 1), s + 1);
	}
	assert_int_equal(hist_slot(0), 0);
	assert_int_equal(hist_slot(UINT64_MAX), HIST_SLOTS - 1);
	assert_true(hist_upper(HIST_SLOTS - 1) == UINT64_MAX);
}

static int u64_cmp(const void *a, const void *b)
{
	uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

	return (x > y) - (x < y);
}

static void quantiles_are_within_the_error(void **state)
{
	enum { N = 5000 };
	struct rnd r = rnd_start("hist quantiles");
	static struct hist h;
	static uint64_t v[N];

	(void)state;
	for (int i = 0; i < N; i++) {
		v[i] = rnd_u64(&r) >> (20 + rnd_below(&r, 44));
		hist_add(&h, v[i]);
	}
	qsort(v, N, sizeof(v[0]), u64_cmp);
	for (int q = 0; q < 1000; q++) {
		uint64_t real = v[(size_t)(q / 1000.0 * N)], got = hist_quantile(&h, q / 1000.0);

		assert_true(got >= real);
		assert_true(got - real <= real / 16 + 1);
	}
	assert_true(hist_quantile(&h, 1) >= v[N - 1]);
	for (int i = 0; i < N; i++) {
		uint64_t below = hist_below(&h, v[i]);

		assert_true(below > (uint64_t)i);
		assert_true(below == N || v[below] > v[i]);
	}
	assert_int_equal(hist_below(&h, UINT64_MAX), N);
}

static void an_empty_one_answers_zero(void **state)
{
	static struct hist h;

	(void)state;
	assert_int_equal(hist_quantile(&h, 0.5), 0);
	assert_int_equal(hist_below(&h, UINT64_MAX), 0);
}

static void odd_quantiles_are_clamped(void **state)
{
	static struct hist h;

	(void)state;
	hist_add(&h, 3);
	hist_add(&h, 9);
	assert_int_equal(hist_quantile(&h, -1), 3);
	assert_int_equal(hist_quantile(&h, 0), 3);
	assert_int_equal(hist_quantile(&h, 0.0 / 0.0), 3);
	assert_int_equal(hist_quantile(&h, 0.99), 9);
	assert_int_equal(hist_quantile(&h, 1), 9);
	assert_int_equal(hist_quantile(&h, 7), 9);
}

static void below_is_exact_for_small_values(void **state)
{
	static struct hist h;

	(void)state;
	for (uint64_t v = 0; v < 32; v++)
		hist_add(&h, v);
	for (uint64_t v = 0; v < 32; v++)
		assert_int_equal(hist_below(&h, v), v + 1);
	assert_int_equal(h.sum, 31 * 32 / 2);
	assert_int_equal(h.count, 32);
}

static void merged_count_is_what_its_slots_hold(void **state)
{
	static struct hist a, b, sum;

	(void)state;
	for (uint64_t v = 1; v < 1000; v++) {
		hist_add(&a, v);
		hist_add(&b, v * 1000);
	}
	b.count = 1; /* as a reader may see it while the writer is at work */
	hist_merge(&sum, &a);
	hist_merge(&sum, &b);
	assert_int_equal(sum.count, 2 * 999);
	assert_int_equal(hist_below(&sum, UINT64_MAX), sum.count);
	assert_int_equal(sum.sum, (uint64_t)1001 * 999 * 1000 / 2);
	assert_int_equal(hist_below(&sum, 1023), 999 + 1); /* all of a, and 1000 */
}

static void a_slot_counts_beyond_32_bits(void **state)
{
	static struct hist h, sum;

	(void)state;
	h.slot[5] = UINT32_MAX;
	h.count = UINT32_MAX;
	hist_add(&h, 5);
	hist_merge(&sum, &h);
	hist_merge(&sum, &h);
	assert_true(hist_below(&sum, 5) == UINT64_C(1) << 33);
	assert_int_equal(hist_quantile(&sum, 0.999), 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_value_lies_in_its_slot),
		cmocka_unit_test(slots_cover_all_values_without_gaps),
		cmocka_unit_test(quantiles_are_within_the_error),
		cmocka_unit_test(an_empty_one_answers_zero),
		cmocka_unit_test(odd_quantiles_are_clamped),
		cmocka_unit_test(below_is_exact_for_small_values),
		cmocka_unit_test(merged_count_is_what_its_slots_hold),
		cmocka_unit_test(a_slot_counts_beyond_32_bits),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
