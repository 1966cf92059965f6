/* The API's part on why: how questions are read, what is refused, and what denials look like. */
#include "../../daemon/admin/explain.c"
#include "unit/admin_ask.h"

static const json_t *at(const json_t *list, size_t i)
{
	return json_array_get(list, i);
}

static void questions_are_read(void **state)
{
	json_t *o = get("/v1/explain?src=10.0.0.7&dst=10.0.0.9:80&header=X-Team=shop=a&metadata=K8s.Name=b&principal=");
	const json_t *asked = json_object_get(o, "asked"), *pairs_ = json_object_get(asked, "pairs");

	(void)state;
	assert_string_equal(str(asked, "src"), "10.0.0.7:0");
	assert_string_equal(json_string_value(at(pairs_, 0)), "x-team"); /* names of headers are in lower case */
	assert_string_equal(json_string_value(at(pairs_, 1)), "shop=a");
	assert_string_equal(json_string_value(at(pairs_, 2)), "K8s.Name");
	assert_string_equal(json_string_value(at(pairs_, 3)), "b");
	assert_string_equal(str(o, "verdict"), "go");
	json_decref(o);
	o = get("/v1/explain?dst=10.0.0.9:6666&listener=outbound");
	assert_string_equal(str(o, "verdict"), "denied");
	json_decref(o);
	o = get("/v1/explain?dst=db.prod:80"); /* a name is what a CONNECT asks for */
	assert_string_equal(str(json_object_get(o, "asked"), "authority"), "db.prod:80");
	json_decref(o);
}

static void wrong_questions_are_refused(void **state)
{
	char many[512] = "/v1/explain?dst=1.2.3.4:1&header=";

	(void)state;
	refused(400, "GET", "/v1/explain?dst=nobody", NULL, false, "dst 'nobody': want ADDRESS:PORT or NAME:PORT");
	refused(400, "GET", "/v1/explain?dst=a:b", NULL, false, "dst 'a:b': want ADDRESS:PORT or NAME:PORT");
	refused(400, "GET", "/v1/explain?dst=:80", NULL, false, "dst ':80': want ADDRESS:PORT or NAME:PORT");
	refused(400, "GET", "/v1/explain?src=me", NULL, false, "src 'me': want ADDRESS or ADDRESS:PORT");
	refused(400, "GET", "/v1/explain?header=x", NULL, false, "header 'x': want NAME=VALUE");
	refused(400, "GET", "/v1/explain?metadata==x", NULL, false, "metadata '=x': want NAME=VALUE");
	refused(400, "GET", "/v1/explain?listener=nobody", NULL, false, "there is no listener 'nobody'");
	refused(400, "GET", "/v1/explain?where=x", NULL, false,
		"unknown parameter 'where'; /v1/explain takes: src dst listener principal authority header metadata");
	memset(many + strlen(many), 'x', 200);
	strcpy(many + strlen(many), "=1");
	json_decref(ask(400, "GET", many, NULL, false)); /* a name that is too long */
}

static void connections_are_explained(void **state)
{
	json_t *o = get("/v1/explain/7");

	(void)state;
	assert_true(json_is_object(json_object_get(o, "tcp"))); /* it lives */
	assert_true(json_is_object(json_object_get(o, "now")));
	json_decref(o);
	o = get("/v1/explain/8");
	assert_null(json_object_get(o, "tcp"));
	assert_string_equal(str(json_object_get(o, "end"), "flags"), "UAEX");
	json_decref(o);
	refused(404, "GET", "/v1/explain/9", NULL, false,
		"connection 9 is neither live nor remembered (limits.recent); its access log line says how it ended");
	json_decref(ask(400, "GET", "/v1/explain/x", NULL, false));
}

static void denials_name_the_command(void **state)
{
	json_t *o = get("/v1/denied"), *list = json_object_get(o, "denied");

	(void)state;
	assert_int_equal(json_array_size(list), 2);
	assert_string_equal(str(at(list, 0), "kind"), "policy");
	assert_string_equal(str(at(list, 0), "explain"), "aditctl conn explain 8");
	assert_int_equal(num(at(list, 0), "count"), 12);
	assert_string_equal(str(at(list, 1), "explain"), "aditctl policy explain --listener 'tunnel-in' --principal 'spiffe://other.test/x'");
	json_decref(o);
}

static void denials_are_filtered(void **state)
{
	json_t *o = get("/v1/denied?limit=1");

	(void)state;
	assert_int_equal(json_array_size(json_object_get(o, "denied")), 1);
	assert_int_equal(num(o, "matched"), 2);
	json_decref(o);
	o = get("/v1/denied?listener=tunnel-in");
	assert_int_equal(num(o, "matched"), 1);
	json_decref(o);
	o = get("/v1/denied?since_ms=60000"); /* those are of another year */
	assert_int_equal(num(o, "matched"), 0);
	assert_int_equal(num(o, "total"), 2);
	json_decref(o);
	refused(400, "GET", "/v1/denied?since_ms=soon", NULL, false, "since_ms 'soon': want milliseconds");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(questions_are_read, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_questions_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(connections_are_explained, setup, teardown),
		cmocka_unit_test_setup_teardown(denials_name_the_command, setup, teardown),
		cmocka_unit_test_setup_teardown(denials_are_filtered, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
