/* Slots that several processes share: taken once, given back with a rest, reclaimed from the dead. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <pthread.h>
#include "daemon/kern/bypass_slots.c"

#define N 8u /* four pairs */

static struct adit_slot memory[N];

static struct slots table(uint32_t agent)
{
	return (struct slots){.at = memory, .n = N, .agent = agent};
}

static int clear(void **state)
{
	(void)state;
	memset(memory, 0, sizeof(memory));
	return 0;
}

static void pairs_are_even_and_taken_once(void **state)
{
	struct slots a = table(1), b = table(2);
	bool seen[N] = {false};
	uint32_t at;

	(void)state;
	for (uint32_t i = 0; i < N / 2; i++) {
		assert_int_equal(slots_take(i & 1 ? &a : &b, 10000, &at), 0);
		assert_int_equal(at % 2, 0);
		assert_false(seen[at]);
		seen[at] = true;
		assert_int_equal(memory[at].owner, i & 1 ? 1 : 2);
	}
	assert_int_equal(slots_used(&a), N);
	assert_int_equal(slots_take(&a, 10000, &at), -ENOSPC);
}

static void what_is_taken_is_clean_and_closed(void **state)
{
	struct slots a = table(1);
	uint32_t at;

	(void)state;
	for (uint32_t i = 0; i < N; i++) {
		memset(&memory[i], 0xff, sizeof(memory[i]));
		memory[i].owner = 0;
		memory[i].freed_ms = 1;
	}
	assert_int_equal(slots_take(&a, 100000, &at), 0);
	for (uint32_t i = at; i < at + 2; i++) {
		assert_int_equal(memory[i].cookie, 0);
		assert_int_equal(memory[i].open, 0);
		assert_int_equal(memory[i].bytes, 0);
		assert_int_equal(memory[i].refused[ADIT_REFUSALS - 1], 0);
		assert_int_equal(memory[i].banned, 0);
	}
}

static void giving_closes_and_keeps_the_counts_for_a_while(void **state)
{
	struct slots a = table(1);
	uint32_t first, at;

	(void)state;
	assert_int_equal(slots_take(&a, 10000, &first), 0);
	memory[first].cookie = 77;
	memory[first].open = memory[first + 1].open = 1;
	memory[first].bytes = 5;
	slots_give(&a, first, 10000);
	assert_int_equal(memory[first].open | memory[first + 1].open, 0);
	assert_int_equal(memory[first].bytes, 5);
	for (uint32_t i = 0; i < N / 2 - 1; i++) { /* the others first */
		assert_int_equal(slots_take(&a, 10001, &at), 0);
		assert_int_not_equal(at, first);
	}
	assert_int_equal(memory[first].cookie, 77);
	assert_int_equal(slots_take(&a, 10001, &at), 0); /* rather than none */
	assert_int_equal(at, first);
	assert_int_equal(memory[first].cookie, 0);
}

static void rested_slots_are_as_good_as_new(void **state)
{
	struct slots a = table(1);
	uint32_t at;

	(void)state;
	assert_int_equal(slots_take(&a, UINT32_MAX - 1000, &at), 0);
	slots_give(&a, at, UINT32_MAX - 1000);
	assert_true(resting(&memory[at], 500)); /* the clock wraps after 49 days */
	assert_false(resting(&memory[at], 2500));
}

static void a_search_in_vain_is_not_repeated_at_once(void **state)
{
	struct slots a = table(1);
	uint32_t at, i;

	(void)state;
	for (i = 0; i < N / 2; i++)
		assert_int_equal(slots_take(&a, 1000, &at), 0);
	assert_int_equal(slots_take(&a, 1000, &at), -ENOSPC);
	slots_give(&a, at, 1000);
	assert_int_equal(slots_take(&a, 1001, &at), -ENOSPC);
	assert_int_equal(slots_take(&a, 1000 + 2 * FULL_MS, &at), 0);
}

static bool odd_ones_live(void *arg, uint32_t agent)
{
	++*(uint32_t *)arg;
	return agent & 1;
}

static void slots_of_the_dead_are_reclaimed(void **state)
{
	struct slots a = table(1), dead = table(2), other = table(3);
	uint32_t at, asked = 0;

	(void)state;
	assert_int_equal(slots_take(&dead, 1000, &at), 0);
	memory[at].open = 1;
	assert_int_equal(slots_take(&dead, 1000, &at), 0);
	assert_int_equal(slots_take(&other, 1000, &at), 0);
	assert_int_equal(slots_take(&a, 1000, &at), 0);
	assert_int_equal(slots_reclaim(&a, odd_ones_live, &asked, 2000), 2);
	assert_true(asked <= 3); /* not about ourselves */
	assert_int_equal(slots_used(&a), 4);
	for (uint32_t i = 0; i < N; i++)
		assert_int_equal(memory[i].open, 0);
	assert_int_equal(slots_reclaim(&a, odd_ones_live, &asked, 2000), 0);
}

/* two agents take and give, each marks what it has: nobody ever sees the other's mark in its own */
static void *taker(void *arg)
{
	struct slots *s = arg;
	uint32_t at[2], wrong = 0;

	for (int i = 0; i < 20000; i++) {
		uint32_t n = 0;

		for (; n < 2 && slots_take(s, (uint32_t)i * 10000, &at[n]) == 0; n++)
			__atomic_store_n(&memory[at[n]].last_ns, s->agent, __ATOMIC_RELAXED);
		for (uint32_t k = 0; k < n; k++)
			wrong += __atomic_load_n(&memory[at[k]].last_ns, __ATOMIC_RELAXED) != s->agent;
		while (n)
			slots_give(s, at[--n], (uint32_t)i * 10000);
	}
	return (void *)(uintptr_t)wrong;
}

static void two_agents_never_have_the_same(void **state)
{
	struct slots a = table(1), b = table(2);
	pthread_t t[2];

	(void)state;
	pthread_create(&t[0], NULL, taker, &a);
	pthread_create(&t[1], NULL, taker, &b);
	for (int i = 0; i < 2; i++) {
		void *wrong;

		pthread_join(t[i], &wrong);
		assert_null(wrong);
	}
	assert_int_equal(slots_used(&a), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup(pairs_are_even_and_taken_once, clear),
		cmocka_unit_test_setup(what_is_taken_is_clean_and_closed, clear),
		cmocka_unit_test_setup(giving_closes_and_keeps_the_counts_for_a_while, clear),
		cmocka_unit_test_setup(rested_slots_are_as_good_as_new, clear),
		cmocka_unit_test_setup(a_search_in_vain_is_not_repeated_at_once, clear),
		cmocka_unit_test_setup(slots_of_the_dead_are_reclaimed, clear),
		cmocka_unit_test_setup(two_agents_never_have_the_same, clear),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
