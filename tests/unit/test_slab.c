/* Slots and generations: stale references are refused, also when generations wrap. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/base/slab.c"
#include "unit/rand.h"

struct thing {
	struct slab_head h;
	uint64_t v[5];
};

static void stale_reference_is_refused(void **state)
{
	struct slab s;
	struct thing *a, *b;
	uint32_t idx;
	uint16_t gen;

	(void)state;
	slab_init(&s, sizeof(*a), 100);
	a = slab_alloc(&s);
	idx = a->h.idx;
	gen = a->h.gen;
	assert_ptr_equal(slab_get(&s, idx, gen), a);
	slab_free(&s, a);
	assert_null(slab_get(&s, idx, gen));
	assert_null(slab_get(&s, idx, (uint16_t)(gen + 1))); /* the generation that the free slot has now */
	b = slab_alloc(&s);
	assert_ptr_equal(a, b); /* same slot, next generation */
	assert_null(slab_get(&s, idx, gen));
	assert_ptr_equal(slab_get(&s, idx, b->h.gen), b);
	slab_finish(&s);
}

static void references_to_what_never_was_are_refused(void **state)
{
	struct slab s;
	struct thing *a;

	(void)state;
	slab_init(&s, sizeof(*a), 100);
	assert_null(slab_get(&s, 0, 0));
	assert_null(slab_get(&s, 0, 1));
	a = slab_alloc(&s);
	assert_non_null(a);
	assert_null(slab_get(&s, 1, 0)); /* allocated with the chunk, never used */
	assert_null(slab_get(&s, 1, 1));
	assert_null(slab_get(&s, SLAB_CHUNK, 1));
	assert_null(slab_get(&s, SLAB_NONE, 1));
	slab_finish(&s);
}

static void generations_stay_odd_in_use_when_they_wrap(void **state)
{
	struct slab s;
	struct thing *a;
	uint16_t old = 0;

	(void)state;
	slab_init(&s, sizeof(*a), 1);
	for (int i = 0; i < 70000; i++) {
		a = slab_alloc(&s);
		assert_non_null(a);
		assert_true(a->h.gen & 1);
		assert_null(slab_get(&s, 0, old));
		old = a->h.gen;
		slab_free(&s, a);
	}
	slab_finish(&s);
}

static void objects_come_zeroed_each_time(void **state)
{
	static const uint64_t zero[5];
	struct slab s;
	struct thing *a;

	(void)state;
	slab_init(&s, sizeof(*a), 3);
	for (int i = 0; i < 10; i++) {
		a = slab_alloc(&s);
		assert_memory_equal(a->v, zero, sizeof(zero));
		memset(a->v, 0xaa, sizeof(a->v));
		slab_free(&s, a);
	}
	slab_finish(&s);
}

static void the_limit_holds_whatever_the_chunk_size(void **state)
{
	static const uint32_t limits[] = {0, 1, 63, 64, 65, 128, 200};

	(void)state;
	for (unsigned int i = 0; i < sizeof(limits) / sizeof(limits[0]); i++) {
		void *last = NULL;
		struct slab s;

		slab_init(&s, sizeof(struct thing), limits[i]);
		for (uint32_t n = 0; n < limits[i]; n++) {
			last = slab_alloc(&s);
			assert_non_null(last);
			assert_int_equal(((struct thing *)last)->h.idx, n); /* in order while fresh */
		}
		assert_null(slab_alloc(&s));
		assert_int_equal(s.used, limits[i]);
		assert_int_equal(s.slots, limits[i]);
		slab_free(&s, last);
		if (last)
			assert_ptr_equal(slab_alloc(&s), last);
		slab_finish(&s);
	}
}

static void addresses_do_not_move_when_the_slab_grows(void **state)
{
	struct thing *t[1000];
	struct slab s;

	(void)state;
	slab_init(&s, sizeof(struct thing), 1000);
	for (uint64_t i = 0; i < 1000; i++) {
		t[i] = slab_alloc(&s);
		t[i]->v[4] = i;
	}
	for (uint64_t i = 0; i < 1000; i++) {
		assert_ptr_equal(slab_get(&s, t[i]->h.idx, t[i]->h.gen), t[i]);
		assert_int_equal(t[i]->v[4], i);
	}
	slab_finish(&s);
}

static void small_objects_have_room_for_the_free_list(void **state)
{
	struct slab_head *a, *b, *c;
	struct slab s;

	(void)state;
	slab_init(&s, sizeof(*a), 100);
	a = slab_alloc(&s);
	b = slab_alloc(&s);
	slab_free(&s, a);
	c = slab_alloc(&s);
	assert_ptr_equal(a, c);
	assert_ptr_not_equal(b, c);
	slab_finish(&s);
}

static void walk_sees_what_is_in_use_and_survives_frees(void **state)
{
	enum { LIMIT = 300 };
	struct rnd r = rnd_start("slab walk");
	struct thing *t[LIMIT] = {0}, *p;
	struct slab s;
	uint32_t idx, seen;

	(void)state;
	slab_init(&s, sizeof(struct thing), LIMIT);
	for (int step = 0; step < 5000; step++) {
		uint32_t i = (uint32_t)rnd_below(&r, LIMIT);

		if (t[i]) {
			slab_free(&s, t[i]);
			t[i] = NULL;
		} else {
			p = slab_alloc(&s);
			assert_non_null(p);
			p->v[0] = i;
			t[i] = p;
		}
		if (step % 100)
			continue;
		idx = seen = 0;
		while ((p = slab_next(&s, &idx))) {
			assert_ptr_equal(t[p->v[0]], p);
			assert_int_equal(idx, p->h.idx + 1);
			seen++;
		}
		assert_int_equal(seen, s.used);
	}
	idx = 0;
	while ((p = slab_next(&s, &idx)))
		slab_free(&s, p);
	assert_int_equal(s.used, 0);
	slab_finish(&s);
}

static void finish_accepts_what_was_never_used(void **state)
{
	struct slab s = {0};

	(void)state;
	slab_finish(&s);
	slab_init(&s, sizeof(struct thing), 10);
	slab_free(&s, NULL);
	slab_finish(&s);
	slab_finish(&s);
	assert_null(slab_alloc(&s));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(stale_reference_is_refused),
		cmocka_unit_test(references_to_what_never_was_are_refused),
		cmocka_unit_test(generations_stay_odd_in_use_when_they_wrap),
		cmocka_unit_test(objects_come_zeroed_each_time),
		cmocka_unit_test(the_limit_holds_whatever_the_chunk_size),
		cmocka_unit_test(addresses_do_not_move_when_the_slab_grows),
		cmocka_unit_test(small_objects_have_room_for_the_free_list),
		cmocka_unit_test(walk_sees_what_is_in_use_and_survives_frees),
		cmocka_unit_test(finish_accepts_what_was_never_used),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
