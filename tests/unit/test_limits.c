/* Limits over configurations: what has the same name goes on counting, whatever its place; what is gone is freed with its last user. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/chain/limits.c"

static struct cfg_listener ab[2] = { { .name = "a" }, { .name = "b" } }, bca[3] = { { .name = "b" }, { .name = "c" }, { .name = "a" } };
static struct cfg_cluster x[1] = { { .name = "x" } }, yx[2] = { { .name = "y" }, { .name = "x" } };
static struct cfg_quota p1[1] = { { .name = "one", .remember = 5 } }, p2[2] = { { .name = "two", .remember = 9 }, { .name = "one", .remember = 6 } };

static struct limits *made(const struct config *c, const struct limits *before, const struct config *old)
{
	struct limits *l = NULL;

	assert_int_equal(limits_create(&l, c, before, old), 0);
	return l;
}

static void what_has_the_same_name_goes_on(void **state)
{
	const struct config first = { .listeners = ab, .n_listeners = 2, .clusters = x, .n_clusters = 1, .limits = { .principals = p1, .n_principals = 1 } };
	const struct config second = {
		.listeners = bca, .n_listeners = 3, .clusters = yx, .n_clusters = 2, .limits = { .principals = p2, .n_principals = 2 } };
	const struct config empty = { .n_listeners = 0 };
	struct limits *l1 = made(&first, NULL, NULL), *l2 = made(&second, l1, &first), *l3;
	struct quota_subject *s;
	struct quota_sums sums;

	(void)state;
	assert_ptr_equal(l2->listener[0], l1->listener[1]);
	assert_ptr_equal(l2->listener[2], l1->listener[0]);
	assert_int_equal(l2->listener[1]->refs, 1);
	assert_int_equal(l2->listener[0]->refs, 2);
	assert_ptr_equal(l2->cluster[1], l1->cluster[0]);
	assert_ptr_equal(l2->principal[1], l1->principal[0]);
	quota_sums(l2->principal[1], &sums);
	assert_int_equal(sums.most, 6); /* as the newest says */
	limits_destroy(l1);
	assert_int_equal(l2->listener[0]->refs, 1);
	assert_int_equal(quota_enter(l2->principal[1], (struct slice){ "who", 3 }, (struct quota_limits){ 0 }, 1, &s), QUOTA_OK);
	l3 = made(&empty, l2, &second);
	limits_destroy(l2);
	limits_destroy(l3);
	quota_leave(s, 2); /* the connection was the last who needed the class */
	limits_destroy(NULL);
}

static void networks_are_named_by_their_prefix(void **state)
{
	struct cfg_quota q = { .v4_bits = 32, .v6_bits = 64 };
	char out[ADDR_STR + 8];
	struct addr a;
	static const struct {
		const char *ip, *want;
		uint32_t v4, v6;
	} cases[] = {
		{ "10.1.2.3", "10.1.2.3", 32, 64 },	      { "10.1.2.3", "10.1.2.0/24", 24, 64 },
		{ "10.1.255.3", "10.1.240.0/20", 20, 64 },    { "2001:db8:1:2:3::4", "2001:db8:1:2::/64", 32, 64 },
		{ "2001:db8:1:ffff::4", "2001:db8:1:fe00::/55", 32, 55 }, { "2001:db8::4", "2001:db8::4", 32, 128 },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		q.v4_bits = cases[i].v4;
		q.v6_bits = cases[i].v6;
		assert_int_equal(addr_parse_ip(cases[i].ip, strlen(cases[i].ip), &a, NULL), 0);
		assert_int_equal(source_text(&q, &a, out).n, strlen(cases[i].want));
		assert_string_equal(out, cases[i].want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_has_the_same_name_goes_on),
		cmocka_unit_test(networks_are_named_by_their_prefix),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
