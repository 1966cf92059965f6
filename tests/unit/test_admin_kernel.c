/* The API's part on the kernel plane: its means, the switch of the bypass, what listeners take, TCP details of a connection. */
#include "unit/admin_ask.h"

static void the_kernel_plane_is_explained(void **state)
{
	json_t *o = get("/v1/kernel"), *list = json_object_get(o, "means"), *b;

	(void)state;
	assert_string_equal(str(o, "release"), "6.1.0-fake");
	assert_int_equal(json_array_size(list), 3);
	assert_string_equal(str(json_array_get(list, 0), "state"), "off");
	assert_string_equal(str(json_array_get(list, 0), "why"), "kernel.bypass.enabled is false");
	assert_string_equal(str(json_array_get(list, 2), "detail"), "17 MB moved");
	assert_true(json_is_null(json_object_get(o, "bypass")));
	assert_true(json_is_null(json_object_get(o, "capture")));
	assert_true(json_is_null(json_object_get(o, "steer")));
	json_decref(o);
	refused(409, "POST", "/v1/kernel/bypass", "{\"on\": true}", true, "there is no bypass to switch; GET /v1/kernel says why");

	d.bypass = true;
	o = get("/v1/kernel");
	b = json_object_get(o, "bypass");
	assert_true(json_is_true(json_object_get(b, "on")));
	assert_int_equal(num(b, "joined"), 2);
	assert_int_equal(num(b, "bytes"), 5000);
	assert_int_equal(json_object_size(json_object_get(b, "refused")), BYPASS_REFUSALS);
	assert_int_equal(num(json_object_get(b, "refused"), bypass_refusal_str(1)), 12);
	assert_int_equal(num(json_object_get(o, "capture"), "failed_closed"), 2);
	assert_int_equal(num(json_object_get(o, "steer"), "steered"), 4);
	json_decref(o);
	o = get("/v1/status");
	b = json_object_get(o, "kernel");
	assert_int_equal(json_array_size(json_object_get(b, "on")), 2);
	assert_string_equal(json_string_value(json_array_get(json_object_get(b, "missing"), 0)), "evidence");
	json_decref(o);
}

static void the_bypass_is_switched(void **state)
{
	(void)state;
	d.bypass = true;
	json_decref(ask(200, "POST", "/v1/kernel/bypass", "{\"on\": false}", true));
	assert_int_equal(d.switched, 2);
	json_decref(ask(200, "POST", "/v1/kernel/bypass", "{\"on\": true}", true));
	assert_int_equal(d.switched, 1);
	refused(403, "POST", "/v1/kernel/bypass", "{\"on\": true}", false, "only root and the daemon's own user may do this; try sudo");
	json_decref(ask(400, "POST", "/v1/kernel/bypass", "{}", true));
	json_decref(ask(400, "POST", "/v1/kernel/bypass", "{\"on\": \"off\"}", true));
	json_decref(ask(400, "POST", "/v1/kernel/bypass", "{\"on\": true, \"now\": 1}", true));
	assert_int_equal(d.switched, 1);
}

static void listeners_say_what_they_take(void **state)
{
	json_t *o = get("/v1/listeners"), *list = json_object_get(o, "listeners"), *c;

	(void)state;
	c = json_object_get(json_array_get(list, 0), "capture");
	assert_string_equal(json_string_value(json_array_get(json_object_get(c, "cgroups"), 0)), "/shop.slice");
	assert_int_equal(json_integer_value(json_array_get(json_object_get(c, "uids"), 0)), 33);
	assert_string_equal(json_string_value(json_array_get(json_object_get(c, "ports"), 1)), "8000-9000");
	assert_string_equal(json_string_value(json_array_get(json_object_get(c, "to"), 0)), "10.0.0.0/8:80-90");
	assert_string_equal(str(c, "when_away"), "closed");
	assert_string_equal(str(json_array_get(list, 0), "netns"), "(none)");
	assert_string_equal(str(json_array_get(list, 1), "netns"), "blue");
	c = json_object_get(json_array_get(list, 1), "steer");
	assert_string_equal(json_string_value(json_array_get(json_object_get(c, "ports"), 0)), "80");
	assert_null(json_object_get(json_array_get(list, 2), "netns"));
	json_decref(o);
}

/* a connection of this test to itself: our end and the other one, both on this node */
static void tcp_details_come_from_the_kernel(void **state)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)}, other;
	struct conn_row row = {.listener = "outbound", .chain = "outbound > cluster:via-audit > audit > cluster:to-b"};
	int l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), s;
	struct addr nobody = {.family = AF_INET, .port = 9, .ip = {127, 0, 0, 1}};
	socklen_t n = sizeof(sa);
	struct diag_tcp probe;
	struct text out = {0};
	json_t *o, *leg;
	struct json j;

	(void)state;
	assert_int_equal(bind(l, (struct sockaddr *)&sa, n) | listen(l, 1) | getsockname(l, (struct sockaddr *)&sa, &n), 0);
	assert_int_equal(connect(c, (struct sockaddr *)&sa, n), 0);
	s = accept4(l, (struct sockaddr *)&other, &n, SOCK_CLOEXEC);
	assert_true(s >= 0);
	addr_from_sa((struct sockaddr *)&sa, &row.tcp[0][0]);
	addr_from_sa((struct sockaddr *)&other, &row.tcp[0][1]);
	row.tcp[1][0] = row.tcp[1][1] = nobody;
	assert_int_equal(write(c, "hello", 5), 5);
	if (diag_tcp(-1, &row.tcp[0][0], &row.tcp[0][1], &probe) < 0 && (close(l), close(c), close(s), true))
		skip();
	json_init(&j, &out, true);
	json_open(&j, NULL, '{');
	api_put_tcp(&j, &fake_config, &row);
	json_close(&j, '}');
	o = json_loads(out.s, 0, NULL);
	assert_non_null(o);
	leg = json_object_get(json_object_get(o, "tcp"), "source");
	assert_string_equal(str(json_object_get(leg, "agent"), "state"), "established");
	assert_int_equal(num(json_object_get(leg, "agent"), "rqueue"), 5);
	assert_string_equal(str(json_object_get(leg, "application"), "local"), str(json_object_get(leg, "agent"), "remote"));
	leg = json_object_get(json_object_get(o, "tcp"), "destination");
	assert_true(json_is_null(json_object_get(leg, "agent")));
	assert_true(json_is_null(json_object_get(leg, "application")));
	json_decref(o);
	text_finish(&out);
	close(l);
	close(c);
	close(s);
	/* a leg that is a stream; a namespace that does not exist */
	row.tcp[0][0].family = AF_UNSPEC;
	snprintf(row.chain, sizeof(row.chain), "outbound > cluster:to-b");
	fake_clusters[0].netns = "/nonexistent/netns";
	json_init(&j, &out, true);
	json_open(&j, NULL, '{');
	api_put_tcp(&j, &fake_config, &row);
	json_close(&j, '}');
	o = json_loads(out.s, 0, NULL);
	assert_true(json_is_null(json_object_get(json_object_get(o, "tcp"), "source")));
	assert_true(json_is_null(json_object_get(json_object_get(o, "tcp"), "destination")));
	json_decref(o);
	text_finish(&out);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_kernel_plane_is_explained),
		cmocka_unit_test(the_bypass_is_switched),
		cmocka_unit_test(listeners_say_what_they_take),
		cmocka_unit_test(tcp_details_come_from_the_kernel),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
