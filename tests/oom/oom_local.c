/* The addresses of the node with every allocation refused once: what was known stays known. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "net/local_int.h"
#include "oom/oom.h"

static void local_once(void)
{
	struct addr loopback = {.family = AF_INET, .ip = {127, 0, 0, 1}};
	struct err e = {""};
	struct local *l;
	int r = local_create(&l, &e);

	if (r < 0) {
		assert_true(oom_struck());
		assert_int_equal(r, -ENOMEM);
		assert_true(e.msg[0]);
		return;
	}
	assert_true(local_has(l, &loopback));
	l->dirty = true; /* another look, which may fail */
	local_tick(l);
	assert_true(!l->dirty || oom_struck());
	assert_true(local_has(l, &loopback));
	r = local_transparent(l, "no-such-namespace", &e);
	assert_true(r == -ENOENT || (r == -ENOMEM && oom_struck()));
	local_tick(l);
	local_destroy(l);
}

static void addresses_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(local_once) >= 6);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_survive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
