/* Metric series: same labels same series, bounded memory, a reader that runs along. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>

#include "daemon/obs/series.c"
#include "unit/rand.h"

static void same_labels_same_series(void **state)
{
	static struct series_table t;
	struct series_labels l = {.v = {[SL_REPORTER] = "source", [SL_SRC_WORKLOAD] = "web"}}, m = l;
	char copy[] = "web";
	struct series *s;

	(void)state;
	assert_int_equal(series_init(&t), 0);
	s = series_get(&t, &l);
	assert_int_equal(t.n, 2);
	m.v[SL_SRC_WORKLOAD] = copy;
	assert_ptr_equal(series_get(&t, &m), s);
	copy[0] = 'x'; /* values were copied */
	assert_string_equal(s->v[SL_SRC_WORKLOAD], "web");
	assert_ptr_not_equal(series_get(&t, &m), s);
	assert_int_equal(t.n, 3);
	assert_ptr_equal(t.list[1], s);
	series_finish(&t);
}

static void a_value_moved_to_the_next_label_is_another_series(void **state)
{
	static struct series_table t;
	struct series_labels a = {.v = {"ab", "c"}}, b = {.v = {"a", "bc"}};

	(void)state;
	assert_int_equal(series_init(&t), 0);
	assert_ptr_not_equal(series_get(&t, &a), series_get(&t, &b));
	series_finish(&t);
}

static void absent_labels_have_their_defaults(void **state)
{
	static struct series_table t;
	struct series_labels none = {0}, empty;
	struct series *s;

	(void)state;
	for (int i = 0; i < SL_LABELS; i++)
		empty.v[i] = "";
	assert_int_equal(series_init(&t), 0);
	s = series_get(&t, &none);
	for (int i = 0; i < SL_LABELS; i++)
		assert_string_equal(s->v[i], i == SL_RESPONSE_FLAGS ? "-" : "unknown");
	assert_ptr_equal(series_get(&t, &empty), s);
	series_finish(&t);
}

static void long_values_are_cut_between_characters(void **state)
{
	static struct series_table t;
	struct series_labels l = {0};
	char big[300], edge[300];
	struct series *s;

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	memcpy(edge, big, sizeof(edge));
	memcpy(edge + SERIES_LABEL_MAX - 1, "\xc3\xa9", 2); /* would be cut in the middle */
	l.v[SL_SRC_APP] = big;
	l.v[SL_DST_APP] = edge;
	assert_int_equal(series_init(&t), 0);
	s = series_get(&t, &l);
	assert_int_equal(strlen(s->v[SL_SRC_APP]), SERIES_LABEL_MAX);
	assert_int_equal(strlen(s->v[SL_DST_APP]), SERIES_LABEL_MAX - 1);
	memcpy(edge + SERIES_LABEL_MAX - 2, "\xc3\xa9", 2); /* just fits */
	s = series_get(&t, &l);
	assert_int_equal(strlen(s->v[SL_DST_APP]), SERIES_LABEL_MAX);
	assert_string_equal(s->v[SL_DST_APP] + SERIES_LABEL_MAX - 2, "\xc3\xa9");
	series_finish(&t);
}

static void bytes_that_are_not_utf8_are_replaced(void **state)
{
	static struct series_table t;
	struct series_labels l = {.v = {[SL_SRC_APP] = "caf\xc3\xa9\xff!\xc3"}};

	(void)state;
	assert_int_equal(series_init(&t), 0);
	assert_string_equal(series_get(&t, &l)->v[SL_SRC_APP], "caf\xc3\xa9?!?");
	series_finish(&t);
}

static void the_table_is_bounded_and_the_rest_share_one(void **state)
{
	static struct series_table t;
	static struct series *s[SERIES_MAX];
	char name[32];
	struct series_labels l = {.v = {[SL_DST_SERVICE] = name}};

	(void)state;
	assert_int_equal(series_init(&t), 0);
	assert_int_equal(t.n, 1);
	for (unsigned int i = 0; i < SERIES_MAX; i++) {
		snprintf(name, sizeof(name), "svc-%u", i);
		s[i] = series_get(&t, &l);
		assert_ptr_not_equal(s[i], t.list[0]);
	}
	assert_int_equal(t.n, SERIES_MAX + 1);
	snprintf(name, sizeof(name), "one-more");
	assert_ptr_equal(series_get(&t, &l), t.list[0]);
	for (int i = 0; i < SL_LABELS; i++)
		assert_string_equal(t.list[0]->v[i], "other");
	for (unsigned int i = 0; i < SERIES_MAX; i++) { /* those that are in are still found */
		snprintf(name, sizeof(name), "svc-%u", i);
		assert_ptr_equal(series_get(&t, &l), s[i]);
		assert_ptr_equal(t.list[i + 1], s[i]);
	}
	series_finish(&t);
}

static void seeds_differ(void **state)
{
	static struct series_table a, b;

	(void)state;
	assert_int_equal(series_init(&a), 0);
	assert_int_equal(series_init(&b), 0);
	assert_true(a.seed != b.seed);
	series_finish(&a);
	series_finish(&b);
}

static struct series_table shared;
static _Atomic bool done;

static void *reader(void *arg)
{
	uint64_t *bad = arg;
	bool last;

	do {
		uint32_t n = atomic_load_explicit(&shared.n, memory_order_acquire);

		last = atomic_load(&done);
		for (uint32_t i = 0; i < n; i++) {
			const struct series *s = shared.list[i];

			for (int k = 0; k < SL_LABELS; k++)
				*bad += s->v[k][0] == '\0';
			*bad += atomic_load_explicit(&s->opened, memory_order_relaxed) > 1000000;
		}
	} while (!last);
	return NULL;
}

static void a_reader_may_run_along(void **state)
{
	struct rnd r = rnd_start("series, two threads");
	uint64_t bad = 0, opened = 0;
	pthread_t t;

	(void)state;
	assert_int_equal(series_init(&shared), 0);
	assert_int_equal(pthread_create(&t, NULL, reader, &bad), 0);
	for (int i = 0; i < 20000; i++) {
		char name[32];
		struct series_labels l = {.v = {[SL_DST_SERVICE] = name}};

		snprintf(name, sizeof(name), "svc-%u", (unsigned int)rnd_below(&r, 500));
		stats_bump(&series_get(&shared, &l)->opened, 1);
	}
	atomic_store(&done, true);
	pthread_join(t, NULL);
	assert_int_equal(bad, 0);
	for (uint32_t i = 0; i < shared.n; i++)
		opened += shared.list[i]->opened;
	assert_int_equal(opened, 20000);
	assert_true(shared.n <= 501);
	series_finish(&shared);
}

static void finish_accepts_zeroed(void **state)
{
	static struct series_table t;

	(void)state;
	series_finish(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(same_labels_same_series),
		cmocka_unit_test(a_value_moved_to_the_next_label_is_another_series),
		cmocka_unit_test(absent_labels_have_their_defaults),
		cmocka_unit_test(long_values_are_cut_between_characters),
		cmocka_unit_test(bytes_that_are_not_utf8_are_replaced),
		cmocka_unit_test(the_table_is_bounded_and_the_rest_share_one),
		cmocka_unit_test(seeds_differ),
		cmocka_unit_test(a_reader_may_run_along),
		cmocka_unit_test(finish_accepts_zeroed),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
