/* The API's part on limits and overload: what is used, who was refused, metrics. */
#include "unit/admin_ask.h"

static void limits_are_listed_with_their_use(void **state)
{
	json_t *o = get("/v1/limits"), *list = json_object_get(o, "limits"), *l;

	(void)state;
	assert_int_equal(json_array_size(list), 3);
	l = json_array_get(list, 0);
	assert_string_equal(str(l, "at"), "daemon");
	assert_int_equal(num(l, "max_connections"), 100000);
	assert_true(json_is_null(json_object_get(l, "rate")));
	l = json_array_get(list, 1);
	assert_string_equal(str(l, "at"), "listener");
	assert_int_equal(num(json_object_get(l, "rate"), "burst"), 200);
	assert_int_equal(num(l, "left"), 199);
	assert_int_equal(num(json_object_get(l, "tunnel_rate"), "per_second"), 5);
	assert_int_equal(num(l, "refused_tunnels"), 2);
	l = json_array_get(list, 2);
	assert_string_equal(str(l, "at"), "principal");
	assert_int_equal(num(l, "subjects"), 1);
	assert_int_equal(num(l, "overflowed"), 1);
	list = json_object_get(o, "subjects");
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(str(json_array_get(list, 0), "who"), "spiffe://td/ns/batch/sa/a");
	assert_int_equal(num(json_array_get(list, 0), "refused_connections"), 4);
	assert_true(json_is_null(json_object_get(json_array_get(list, 1), "who")));
	json_decref(o);
	o = get("/v1/limits?limit=1");
	assert_int_equal(json_array_size(json_object_get(o, "subjects")), 1);
	json_decref(o);
	refused(400, "GET", "/v1/limits?limit=x", NULL, false, "limit 'x': want a whole number; 0 is no limit");
	json_decref(ask(400, "GET", "/v1/limits?peer=x", NULL, false));
}

static void overload_is_in_the_status(void **state)
{
	json_t *o = get("/v1/status"), *ov = json_object_get(o, "overload"), *m = json_object_get(ov, "memory"), *g = json_object_get(m, "cgroup");

	(void)state;
	assert_true(json_is_true(json_object_get(ov, "enabled")));
	assert_string_equal(str(ov, "level"), "refuse");
	assert_string_equal(str(m, "level"), "refuse");
	assert_int_equal(num(m, "percent"), 4);
	assert_int_equal(num(g, "percent"), 93);
	assert_int_equal(num(g, "sockets"), 40 << 20);
	assert_string_equal(str(g, "path"), "/adit.slice");
	assert_string_equal(str(json_object_get(ov, "descriptors"), "level"), "none");
	assert_int_equal(num(json_object_get(ov, "cpu"), "busy_percent"), 20);
	json_decref(o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(limits_are_listed_with_their_use),
		cmocka_unit_test(overload_is_in_the_status),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
