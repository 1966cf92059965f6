/* Compiling policies with each allocation failing: -ENOMEM, nothing left behind, and what succeeds decides. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "oom.h"
#include "unit/policy_random.h"

struct oom_picker {
	struct picker p;
	uint32_t s;
};

static uint32_t oom_below(struct picker *p, uint32_t n)
{
	struct oom_picker *o = (struct oom_picker *)p;

	o->s = o->s * 1664525u + 1013904223u;
	return (o->s >> 8) % n;
}

static struct r_set set;

static void compile_once(void)
{
	struct oom_picker o = {{oom_below, 1}, 3};
	struct err e = {{0}};
	struct policy_set *s;
	struct r_input in;
	int r = policy_compile(set.p, set.n, R_LISTENERS, R_CLUSTERS, 5, &s, &e);

	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_true(oom_struck() && e.msg[0]);
		return;
	}
	assert_false(oom_struck());
	r_input(&o.p, &in);
	assert_null(r_compare(&set, s, &in.in));
	policy_free(s);
}

static void compiling_survives_every_failure(void **state)
{
	struct oom_picker o = {{oom_below, 4}, 9};

	(void)state;
	set = r_set_make(&o.p, 200);
	assert_true(oom_sweep(compile_once) >= 8);
	r_set_free(&set);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(compiling_survives_every_failure)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
