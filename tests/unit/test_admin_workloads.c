/* The API's part on workloads: how they match, what they serve, their counts and metrics. */
#include "unit/admin_ask.h"

static void workloads_are_listed_with_the_rest(void **state)
{
	json_t *o = get("/v1/workloads"), *list = json_object_get(o, "workloads"), *l, *m;

	(void)state;
	assert_int_equal(json_array_size(list), 2);
	l = json_array_get(list, 0);
	assert_string_equal(str(l, "name"), "shop-web");
	assert_string_equal(str(l, "identity"), "web");
	assert_string_equal(str(l, "spiffe_id"), "spiffe://td/ns/shop/sa/web");
	assert_int_equal(num(l, "connections"), 12);
	assert_int_equal(num(l, "active"), 3);
	assert_int_equal(num(l, "refused"), 1);
	m = json_object_get(l, "match");
	assert_string_equal(json_string_value(json_array_get(json_object_get(m, "source"), 0)), "10.0.0.0/8");
	assert_string_equal(json_string_value(json_array_get(json_object_get(m, "cgroups"), 0)), "/shop.slice");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(m, "uids"), 1)), 1001);
	assert_int_equal(json_array_size(json_object_get(m, "listeners")), 1);
	m = json_object_get(l, "serves");
	assert_string_equal(json_string_value(json_array_get(json_object_get(m, "addresses"), 0)), "10.0.0.7/32");
	assert_string_equal(json_string_value(json_array_get(json_object_get(m, "server_names"), 0)), "web.example");
	l = json_array_get(list, 1);
	assert_true(json_is_null(json_object_get(l, "name")));
	assert_null(json_object_get(l, "match"));
	assert_int_equal(num(l, "refused"), 2);
	json_decref(o);
	refused(400, "GET", "/v1/workloads?limit=1", NULL, false, "unknown parameter 'limit'; /v1/workloads takes: none");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(workloads_are_listed_with_the_rest),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
