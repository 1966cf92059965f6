/* A class of limits with each allocation failing: nobody is refused for it, nothing is left behind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include "oom.h"
#include "policy/quota.h"

static void quota_once(void)
{
	const struct quota_limits l = {.max_connections = 100};
	struct quota_subject *s[20];
	struct quota_sums sums;
	struct quota *q;
	char who[32];

	if (quota_create(&q, 64) < 0) {
		assert_true(oom_struck());
		return;
	}
	for (int i = 0; i < 20; i++) {
		snprintf(who, sizeof(who), "10.0.0.%d", i);
		assert_int_equal(quota_enter(q, (struct slice){who, strlen(who)}, l, 1, &s[i]), QUOTA_OK);
	}
	quota_sums(q, &sums);
	assert_int_equal(sums.subjects + sums.overflowed, 20);
	assert_true(!sums.overflowed || oom_struck());
	for (int i = 0; i < 20; i++)
		quota_leave(s[i], 2);
	quota_put(q);
}

static void entering_survives_every_failure(void **state)
{
	(void)state;
	assert_true(oom_sweep(quota_once) >= 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(entering_survives_every_failure)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
