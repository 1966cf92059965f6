/* Levels of overload: up at once, down slowly, and what may be taken in between two looks. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/chain/overload.c"
#include "unit/rand.h"

static const struct cfg_steps steps_usual = { 70, 80, 90, 95 };

static void it_rises_at_once_and_as_far_as_it_must(void **state)
{
	struct overload_gauge g = { 0 };

	(void)state;
	assert_int_equal(overload_step(&g, &steps_usual, 6999, 1), PRESSURE_NONE);
	assert_int_equal(overload_step(&g, &steps_usual, 7000, 1), PRESSURE_SHRINK);
	assert_int_equal(overload_step(&g, &steps_usual, 9000, 1), PRESSURE_REFUSE);
	g = (struct overload_gauge){ 0 };
	assert_int_equal(overload_step(&g, &steps_usual, 20000, 1), PRESSURE_PAUSE);
}

static void it_falls_one_by_one_after_a_second_of_calm(void **state)
{
	struct overload_gauge g = { 0 };

	(void)state;
	assert_int_equal(overload_step(&g, &steps_usual, 9600, 1000), PRESSURE_PAUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 9400, 5000), PRESSURE_PAUSE); /* not five points below */
	assert_int_equal(overload_step(&g, &steps_usual, 9400, 9000), PRESSURE_PAUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 8999, 9100), PRESSURE_PAUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 8999, 10099), PRESSURE_PAUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 8999, 10100), PRESSURE_REFUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 8999, 20000), PRESSURE_REFUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 0, 20001), PRESSURE_REFUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 8600, 20500), PRESSURE_REFUSE); /* the calm begins anew */
	assert_int_equal(overload_step(&g, &steps_usual, 0, 21000), PRESSURE_REFUSE);
	assert_int_equal(overload_step(&g, &steps_usual, 0, 22000), PRESSURE_CLOSE_IDLE);
	assert_int_equal(overload_step(&g, &steps_usual, 0, 22999), PRESSURE_CLOSE_IDLE);
	assert_int_equal(overload_step(&g, &steps_usual, 0, 23000), PRESSURE_SHRINK);
	assert_int_equal(overload_step(&g, &steps_usual, 0, 24000), PRESSURE_NONE);
}

static void steps_that_are_off_are_passed_over(void **state)
{
	const struct cfg_steps s = { 0, 50, 0, 0 }, none = { 0, 0, 0, 0 };
	struct overload_gauge g = { 0 };

	(void)state;
	assert_int_equal(overload_step(&g, &s, 4900, 1), PRESSURE_NONE);
	assert_int_equal(overload_step(&g, &s, 99999, 1), PRESSURE_CLOSE_IDLE);
	g = (struct overload_gauge){ 0 };
	assert_int_equal(overload_step(&g, &none, 99999, 1), PRESSURE_NONE);
}

/* whatever the shares are: never below what the share asks for, and no more than one change per second downwards */
static void random_shares_do_not_make_it_flap(void **state)
{
	struct rnd rnd = rnd_start("overload");
	struct overload_gauge g = { 0 };
	uint64_t t = 1000, fell = 0;

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint32_t share = (uint32_t)rnd_below(&rnd, 10500);
		uint8_t before = g.level, now;

		t += rnd_below(&rnd, 400);
		now = overload_step(&g, &steps_usual, share, t);
		assert_true(now >= level_at(&steps_usual, share));
		if (now < before) {
			assert_int_equal(now, before - 1);
			assert_true(t - fell >= CALM_MS);
			fell = t;
		}
	}
}

static void cpu_needs_a_busy_worker_and_slow_turns(void **state)
{
	const struct cfg_overload o = { .cpu_busy = 95, .cpu_refuse_ms = 250, .cpu_pause_ms = 2000 };
	struct overload_gauge g = { 0 };

	(void)state;
	assert_int_equal(overload_step_cpu(&g, &o, 10000, 249, 1), PRESSURE_NONE); /* bulk */
	assert_int_equal(overload_step_cpu(&g, &o, 5000, 9999, 1), PRESSURE_NONE); /* it sleeps */
	assert_int_equal(overload_step_cpu(&g, &o, 9500, 250, 1000), PRESSURE_REFUSE);
	assert_int_equal(overload_step_cpu(&g, &o, 9600, 2000, 1200), PRESSURE_PAUSE);
	assert_int_equal(overload_step_cpu(&g, &o, 0, 0, 1400), PRESSURE_PAUSE);
	assert_int_equal(overload_step_cpu(&g, &o, 0, 0, 2400), PRESSURE_REFUSE);
	assert_int_equal(overload_step_cpu(&g, &o, 0, 0, 3400), PRESSURE_NONE); /* nothing is shrunk for it */
}

static void the_credit_is_half_of_what_is_left(void **state)
{
	struct cfg_overload o = { .enabled = true, .memory = steps_usual };
	struct overload_row r = { .has_cgroup = true, .cgroup_limit = 1000000, .cgroup_used = 500000 };

	(void)state;
	assert_int_equal(credit(&o, &r), 200000);
	r.cgroup_used = 900000;
	assert_int_equal(credit(&o, &r), 0);
	r.cgroup_used = 990000;
	assert_int_equal(credit(&o, &r), 0);
	r.has_cgroup = false;
	assert_int_equal(credit(&o, &r), INT64_MAX);
}

static void credit_is_used_up(void **state)
{
	struct daemon *d = calloc(1, sizeof(*d));
	uint64_t n = 0;

	(void)state;
	assert_non_null(d);
	d->overload.wake = eventfd(0, EFD_NONBLOCK);
	d->overload.credit = INT64_MAX;
	for (int i = 0; i < 1000; i++)
		assert_true(overload_admit(d, INT64_MAX));
	d->overload.credit = 100;
	assert_true(overload_admit(d, 60));
	assert_false(overload_admit(d, 60));
	assert_int_equal(read(d->overload.wake, &n, sizeof(n)), sizeof(n));
	assert_int_equal(n, 1); /* asked once for another look */
	close(d->overload.wake);
	free(d);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(it_rises_at_once_and_as_far_as_it_must),
		cmocka_unit_test(it_falls_one_by_one_after_a_second_of_calm),
		cmocka_unit_test(steps_that_are_off_are_passed_over),
		cmocka_unit_test(random_shares_do_not_make_it_flap),
		cmocka_unit_test(cpu_needs_a_busy_worker_and_slow_turns),
		cmocka_unit_test(the_credit_is_half_of_what_is_left),
		cmocka_unit_test(credit_is_used_up),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
