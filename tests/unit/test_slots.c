/* Which slot a name gets, keeps, and when it is free again. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "daemon/chain/slots.c"

#include <stdio.h>

static struct slots s;
static uint64_t used[8]; /* numbers of snapshots that somebody uses */
static uint32_t n_used;

static bool is_used(void *arg, uint64_t first, uint64_t last)
{
	(void)arg;
	for (uint32_t i = 0; i < n_used; i++)
		if (used[i] >= first && used[i] <= last)
			return true;
	return false;
}

static int setup(void **state)
{
	(void)state;
	n_used = 0;
	return slots_init(&s, 16);
}

static int teardown(void **state)
{
	(void)state;
	slots_finish(&s);
	return 0;
}

/* the snapshot @number has these names, types 0; slots are written to @ret */
static void take(uint64_t number, const char *const *names, uint32_t n, uint32_t *ret)
{
	struct slots_name k[16] = {{NULL}};

	for (uint32_t i = 0; i < n; i++)
		k[i].name = names[i];
	assert_int_equal(slots_plan(&s, k, n), 0);
	slots_commit(&s, k, n, number);
	for (uint32_t i = 0; i < n; i++)
		ret[i] = k[i].slot;
	slots_forget(k, n);
}

static uint32_t dead(void)
{
	uint32_t at = 0, n = 0;

	for (; slots_next_dead(&s, &at, is_used, NULL); n++)
		slots_drop(&s, at);
	return n;
}

static void a_name_keeps_its_slot(void **state)
{
	uint32_t a[3], b[3];

	(void)state;
	take(1, (const char *const[]){"x", "y", "z"}, 3, a);
	take(2, (const char *const[]){"z", "w", "x"}, 3, b);
	assert_int_equal(b[0], a[2]);
	assert_int_equal(b[2], a[0]);
	assert_int_not_equal(b[1], a[1]); /* y's objects may still be used */
}

static void another_type_is_another_object(void **state)
{
	struct slots_name one = {.name = "x", .type = 1}, two = {.name = "x", .type = 2};

	(void)state;
	assert_int_equal(slots_plan(&s, &one, 1), 0);
	slots_commit(&s, &one, 1, 1);
	assert_int_equal(slots_plan(&s, &two, 1), 0);
	assert_true(two.fresh);
	assert_int_not_equal(one.slot, two.slot);
	slots_forget(&two, 1);
}

static void a_plan_that_is_not_carried_out_changes_nothing(void **state)
{
	struct slots_name k = {.name = "new"};
	uint32_t a[1], b[1];

	(void)state;
	take(1, (const char *const[]){"x"}, 1, a);
	assert_int_equal(slots_plan(&s, &k, 1), 0);
	slots_forget(&k, 1);
	take(2, (const char *const[]){"x"}, 1, b);
	assert_int_equal(a[0], b[0]);
	assert_int_equal(s.n, 1);
}

static void a_slot_is_free_when_no_snapshot_that_had_the_name_is_used(void **state)
{
	uint32_t a[2], b[2];

	(void)state;
	take(1, (const char *const[]){"x", "y"}, 2, a);
	take(2, (const char *const[]){"x", "y"}, 2, a);
	take(3, (const char *const[]){"x"}, 1, b);
	assert_true(slots_need(&s, 2)); /* y's objects point into it */
	used[n_used++] = 1;
	used[n_used++] = 3;
	assert_int_equal(dead(), 0); /* a connection of the first one may pass y */
	n_used = 0;
	used[n_used++] = 3;
	assert_int_equal(dead(), 1);
	assert_false(slots_need(&s, 2));
	take(4, (const char *const[]){"x", "new"}, 2, b);
	assert_int_equal(b[1], a[1]); /* used again */
}

static void a_name_that_comes_back_gets_new_objects(void **state)
{
	uint32_t a[1], b[1];

	(void)state;
	take(1, (const char *const[]){"x"}, 1, a);
	take(2, NULL, 0, b);
	take(3, (const char *const[]){"x"}, 1, b);
	assert_int_not_equal(a[0], b[0]);
	used[n_used++] = 3;
	assert_int_equal(dead(), 1);
}

static void too_many_are_refused(void **state)
{
	struct slots_name k[17] = {{NULL}};
	char name[17][8];

	(void)state;
	for (uint32_t i = 0; i < 17; i++) {
		snprintf(name[i], sizeof(name[i]), "n%u", i);
		k[i].name = name[i];
	}
	assert_int_equal(slots_plan(&s, k, 17), -ENOSPC);
	slots_forget(k, 17);
	assert_int_equal(slots_plan(&s, k, 16), 0);
	slots_commit(&s, k, 16, 1);
	slots_forget(k, 16);
	assert_int_equal(slots_plan(&s, k + 16, 1), -ENOSPC);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(a_name_keeps_its_slot, setup, teardown),
		cmocka_unit_test_setup_teardown(another_type_is_another_object, setup, teardown),
		cmocka_unit_test_setup_teardown(a_plan_that_is_not_carried_out_changes_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(a_slot_is_free_when_no_snapshot_that_had_the_name_is_used, setup, teardown),
		cmocka_unit_test_setup_teardown(a_name_that_comes_back_gets_new_objects, setup, teardown),
		cmocka_unit_test_setup_teardown(too_many_are_refused, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
