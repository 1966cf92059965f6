/* The API: what each path answers, what is refused and how; metrics as a scraper reads them. No socket. */
#include "unit/admin_ask.h"

static void status_has_all_facts(void **state)
{
	json_t *o = get("/v1/status");

	(void)state;
	assert_string_equal(str(o, "node"), "node-a");
	assert_string_equal(str(o, "wolfssl"), "5.5.4 tuned");
	assert_int_equal(num(o, "uptime_us"), 273847000000);
	assert_int_equal(num(o, "listeners"), 3);
	assert_int_equal(num(o, "access_log_dropped"), 3);
	assert_true(json_is_true(json_object_get(o, "ready")));
	json_decref(o);
}

static void listeners_say_where_they_lead(void **state)
{
	json_t *o = get("/v1/listeners"), *list = json_object_get(o, "listeners");

	(void)state;
	assert_int_equal(json_array_size(list), 3);
	assert_string_equal(str(json_array_get(list, 0), "address"), "10.0.0.1:15001");
	assert_string_equal(str(json_array_get(list, 0), "to"), "cluster:via-audit");
	assert_string_equal(str(json_array_get(list, 1), "to"), "(none)");
	assert_string_equal(str(json_array_get(list, 1), "identity"), "node");
	assert_string_equal(str(json_array_get(list, 2), "address"), "(none)");
	assert_string_equal(str(json_array_get(list, 2), "to"), "cluster:to-b (forward)");
	assert_int_equal(num(json_array_get(list, 2), "accepted"), 102);
	json_decref(o);
}

static void chains_are_every_way(void **state)
{
	static const char *const want[][3] = {
		{"outbound", "outbound > audit > cluster:to-b (forward)", "audited: authority ends with .db.local"},
		{"outbound", "outbound > cluster:via-audit > audit > cluster:to-b (forward)", "(none)"},
		{"tunnel-in", "tunnel-in > cluster:local-redis", "redis: port 6379, x-client-id=node-a"},
		{"tunnel-in", "tunnel-in > refused (no route)", "(none)"},
	};
	json_t *o = get("/v1/chains"), *list = json_object_get(o, "chains");

	(void)state;
	assert_int_equal(json_array_size(list), 4);
	for (size_t i = 0; i < 4; i++) {
		assert_string_equal(str(json_array_get(list, i), "entry"), want[i][0]);
		assert_string_equal(str(json_array_get(list, i), "chain"), want[i][1]);
		assert_string_equal(str(json_array_get(list, i), "when"), want[i][2]);
	}
	assert_int_equal(json_array_size(json_object_get(json_array_get(list, 1), "hops")), 4);
	assert_true(json_is_false(json_object_get(o, "truncated")));
	json_decref(o);
}

static void a_route_that_always_matches_ends_the_list(void **state)
{
	struct cfg_route always = {.name = "all", .to.listener = &fake_listeners[2]};
	json_t *o, *list;

	(void)state;
	fake_listeners[1].routes = &always;
	o = get("/v1/chains");
	list = json_object_get(o, "chains");
	assert_int_equal(json_array_size(list), 3);
	assert_string_equal(str(json_array_get(list, 2), "when"), "all: always");
	json_decref(o);
	fake_setup(&d);
}

/* 8 listeners with 8 routes each, all to the next: 8^8 ways */
static void chains_that_multiply_are_bounded(void **state)
{
	static struct cfg_listener l[8];
	static struct cfg_route r[8][8];
	struct config old = fake_config;
	json_t *o;

	(void)state;
	for (uint32_t i = 0; i < 8; i++) {
		l[i] = (struct cfg_listener){
			.name = "l", .type = i ? LISTENER_INTERNAL : LISTENER_TCP, .routes = r[i], .n_routes = 8};
		for (uint32_t k = 0; k < 8; k++) {
			r[i][k] = (struct cfg_route){.name = "r", .port = 1};
			if (i < 7)
				r[i][k].to.listener = &l[i + 1];
			else
				r[i][k].to.cluster = &fake_clusters[0];
		}
	}
	fake_config.listeners = l;
	fake_config.n_listeners = 8;
	o = get("/v1/chains");
	assert_int_equal(json_array_size(json_object_get(o, "chains")), CHAINS_MAX);
	assert_true(json_is_true(json_object_get(o, "truncated")));
	json_decref(o);
	fake_config = old;
}

static void clusters_have_their_endpoints(void **state)
{
	json_t *o = get("/v1/clusters"), *list = json_object_get(o, "clusters"), *e;

	(void)state;
	assert_int_equal(json_array_size(list), 4);
	assert_int_equal(json_array_size(json_object_get(json_array_get(list, 0), "endpoints")), 2);
	e = json_array_get(json_object_get(json_array_get(list, 1), "endpoints"), 0);
	assert_string_equal(str(e, "endpoint"), "redis.local:6379");
	assert_true(json_is_null(json_object_get(e, "address")));
	assert_string_equal(
		json_string_value(json_array_get(json_object_get(json_array_get(list, 2), "destinations"), 0)),
		"10.0.0.0/8:80-90");
	assert_string_equal(str(json_array_get(list, 3), "listener"), "audit");
	json_decref(o);
}

static void tunnels_can_be_filtered(void **state)
{
	json_t *o = get("/v1/tunnels"), *t = json_array_get(json_object_get(o, "tunnels"), 0);

	(void)state;
	assert_int_equal(json_array_size(json_object_get(o, "tunnels")), 2);
	assert_string_equal(str(t, "cluster"), "to-b");
	assert_int_equal(num(t, "send_window"), -5);
	assert_string_equal(str(json_array_get(json_object_get(o, "tunnels"), 1), "listener"), "tunnel-in");
	json_decref(o);
	o = get("/v1/tunnels?peer=node-b");
	assert_int_equal(num(o, "matched"), 1);
	assert_int_equal(num(o, "total"), 2);
	json_decref(o);
}

static void connections_can_be_filtered_and_limited(void **state)
{
	json_t *o = get("/v1/conns");

	(void)state;
	assert_int_equal(json_array_size(json_object_get(o, "conns")), 2);
	json_decref(o);
	o = get("/v1/conns?listener=tunnel-in");
	assert_int_equal(num(o, "matched"), 1);
	json_decref(o);
	o = get("/v1/conns?peer=db.local");
	assert_int_equal(num(json_array_get(json_object_get(o, "conns"), 0), "id"), 7);
	json_decref(o);
	o = get("/v1/conns?peer=nobody");
	assert_int_equal(num(o, "matched"), 0);
	json_decref(o);
	d.more_conns = 2000;
	o = get("/v1/conns");
	assert_int_equal(json_array_size(json_object_get(o, "conns")), ADIT_API_CONNS_LIMIT);
	assert_int_equal(num(o, "matched"), 2002);
	json_decref(o);
	o = get("/v1/conns?limit=0");
	assert_int_equal(json_array_size(json_object_get(o, "conns")), 2002);
	json_decref(o);
	o = get("/v1/conns?limit=1&listener=tunnel-in");
	assert_int_equal(json_array_size(json_object_get(o, "conns")), 1);
	json_decref(o);
	d.more_conns = 0;
	refused(400, "GET", "/v1/conns?limit=ten", NULL, true, "limit 'ten': want a whole number; 0 is no limit");
	refused(400, "GET", "/v1/conns?limit=99999999999999999999", NULL, true,
		"limit '99999999999999999999': want a whole number; 0 is no limit");
	refused(400, "GET", "/v1/conns?limt=1", NULL, true,
		"unknown parameter 'limt'; /v1/conns takes: limit listener peer");
	refused(400, "GET", "/v1/status?x", NULL, true, "unknown parameter 'x'; /v1/status takes: none");
}

static void one_connection_by_id(void **state)
{
	json_t *o = get("/v1/conns/9007199254740993");

	(void)state;
	assert_int_equal(num(o, "id"), 9007199254740993);
	json_decref(o);
	o = get("/v1/conns/7");
	assert_string_equal(str(o, "metadata"), "x-server-id=node-b, rack=\x1b[31mred");
	json_decref(o);
	refused(404, "GET", "/v1/conns/8", NULL, true,
		"no connection 8; it may have ended (its access log line says how)");
	refused(400, "GET", "/v1/conns/7x", NULL, true,
		"connection '7x': want its id, a number that GET /v1/conns shows");
	refused(404, "GET", "/v1/conns/7/8", NULL, true, "no such path: GET /v1 lists what there is");
}

static void only_the_right_people_change_things(void **state)
{
	(void)state;
	refused(403, "DELETE", "/v1/conns/7", NULL, false, "only root and the daemon's own user may do this; try sudo");
	refused(403, "PUT", "/v1/log-level", "{\"all\":\"debug\"}", false,
		"only root and the daemon's own user may do this; try sudo");
	refused(403, "POST", "/v1/drain", NULL, false, "only root and the daemon's own user may do this; try sudo");
	refused(403, "POST", "/v1/config/check", "x", false,
		"only root and the daemon's own user may do this; try sudo");
	assert_int_equal(d.killed, 0);
	assert_int_equal(log_levels[LA_TLS], LOG_INFO);
}

static void a_connection_is_killed(void **state)
{
	json_t *o = ask(200, "DELETE", "/v1/conns/7", NULL, true);

	(void)state;
	assert_int_equal(num(o, "closed"), 7);
	assert_int_equal(d.killed, 1);
	json_decref(o);
	refused(404, "DELETE", "/v1/conns/8", NULL, true,
		"no connection 8; it may have ended (its access log line says how)");
}

static void workers_that_do_not_answer_are_503(void **state)
{
	static const char why[] =
		"a worker did not answer within a second; try again, and if that lasts, look at the log";

	(void)state;
	d.deaf = true;
	refused(503, "GET", "/v1/conns", NULL, true, why);
	refused(503, "GET", "/v1/tunnels", NULL, true, why);
	refused(503, "GET", "/v1/conns/7", NULL, true, why);
	refused(503, "DELETE", "/v1/conns/7", NULL, true, why);
	d.deaf = false;
}

static void stats_are_complete_and_filtered(void **state)
{
	json_t *o = get("/v1/stats"), *part;

	(void)state;
	assert_int_equal(json_object_size(json_object_get(o, "counters")), ST_COUNTERS + 1);
	assert_int_equal(num(json_object_get(o, "gauges"), "streams"), 812);
	assert_int_equal(num(json_object_get(json_object_get(o, "resets"), "sent"), "CANCEL"), 2);
	part = json_object_get(json_object_get(o, "latencies"), "open");
	assert_int_equal(num(part, "count"), 1);
	assert_true(num(part, "p99_us") >= 812 && num(part, "p99_us") < 870);
	json_decref(o);
	o = get("/v1/stats?match=tls_hand*");
	assert_int_equal(json_object_size(json_object_get(o, "counters")), 3);
	assert_int_equal(json_object_size(json_object_get(o, "gauges")), 0);
	assert_int_equal(json_object_size(json_object_get(o, "latencies")), 0);
	json_decref(o);
	o = get("/v1/stats?match=CANCEL");
	assert_int_equal(json_object_size(json_object_get(json_object_get(o, "resets"), "sent")), 1);
	json_decref(o);
}

static void log_levels_are_set_all_or_none(void **state)
{
	json_t *o = ask(200, "PUT", "/v1/log-level", "{\"tls\": \"debug\", \"all\": \"warn\"}", true);

	(void)state;
	assert_string_equal(str(json_object_get(o, "levels"), "tls"), "debug");
	assert_string_equal(str(json_object_get(o, "levels"), "chain"), "warn");
	json_decref(o);
	refused(400, "PUT", "/v1/log-level", "{\"net\": \"debug\", \"nte\": \"debug\"}", true,
		"unknown log area 'nte'; there are: all, main, config, admin, chain, tunnel, tls, net");
	assert_int_equal(log_levels[LA_NET], LOG_WARN);
	refused(400, "PUT", "/v1/log-level", "{\"net\": \"loud\"}", true,
		"unknown log level 'loud' for net; there are: error, warn, info, debug");
	refused(400, "PUT", "/v1/log-level", "{\"net\": 3}", true,
		"unknown log level '(no text)' for net; there are: error, warn, info, debug");
	refused(400, "PUT", "/v1/log-level", "", true,
		"nothing to set: want {\"AREA\": \"LEVEL\"}, for instance {\"tls\": \"debug\"}");
	refused(400, "PUT", "/v1/log-level", "[1]", true, "body: want a JSON object, {...}");
	json_decref(ask(400, "PUT", "/v1/log-level", "{\"net\":", true));
	json_decref(ask(200, "PUT", "/v1/log-level", "{\"all\": \"info\"}", true));
	o = get("/v1/log-level");
	assert_string_equal(str(json_object_get(o, "levels"), "tls"), "info");
	json_decref(o);
}

static void drain_passes_the_time_on(void **state)
{
	json_t *o = ask(202, "POST", "/v1/drain", NULL, true);

	(void)state;
	assert_int_equal(drained_within, 5000);
	assert_int_equal(num(o, "within_ms"), 5000);
	json_decref(o);
	json_decref(ask(202, "POST", "/v1/drain", "{\"within_ms\": 250}", true));
	assert_int_equal(drained_within, 250);
	json_decref(ask(400, "POST", "/v1/drain", "{\"within\": 250}", true));
	json_decref(ask(400, "POST", "/v1/drain", "{\"within_ms\": -1}", true));
	json_decref(ask(400, "POST", "/v1/drain", "{\"within_ms\": \"1s\"}", true));
	assert_int_equal(drained_within, 250);
	api.ops.drain = NULL;
	json_decref(ask(501, "POST", "/v1/drain", NULL, true));
	api.ops.drain = fake_drain;
}

static void configurations_are_judged(void **state)
{
	(void)state;
	json_decref(ask(200, "POST", "/v1/config/check", "good\n", true));
	json_decref(ask(200, "POST", "/v1/config/check", "{\"path\": \"/etc/good.yaml\"}", true));
	refused(422, "POST", "/v1/config/check", "{\"path\": \"/none\"}", true, "/none: no such file");
	refused(422, "POST", "/v1/config/check", "{\"path\": \"/none\", \"node\": 1}", true, "body:1:1: bad");
	refused(422, "POST", "/v1/config/check", "nodes:", true, "body:1:1: bad");
	refused(400, "POST", "/v1/config/check", NULL, true,
		"no body: want the YAML text, or {\"path\": \"/etc/adit/adit.yaml\"}");
}

static void wrong_paths_and_methods_are_told(void **state)
{
	(void)state;
	refused(404, "GET", "/v2/status", NULL, true, "no such path: GET /v1 lists what there is");
	refused(404, "GET", "/v1/conns/", NULL, true, "no such path: GET /v1 lists what there is");
	refused(405, "POST", "/v1/status", NULL, true, "this path takes GET");
	assert_string_equal(ans.allow, "GET");
	refused(405, "PATCH", "/v1/conns/7", NULL, true, "this path takes GET, DELETE");
	json_decref(get("/v1"));
	json_decref(ask(200, "HEAD", "/v1/status", NULL, false));
}

static void the_public_address_serves_metrics_and_health_only(void **state)
{
	struct api_req req = {.method = "GET", .path = "/v1/status", .public_ = true};
	static const char *const open[] = {"/metrics", "/stats/prometheus", "/healthz/ready", "/healthz/live"};

	(void)state;
	text_finish(&ans.body);
	api_handle(&api, &req, &ans);
	assert_int_equal(ans.status, 404);
	for (size_t i = 0; i < ARRAY_LEN(open); i++) {
		req.path = open[i];
		text_finish(&ans.body);
		api_handle(&api, &req, &ans);
		assert_int_equal(ans.status, 200);
	}
	req.method = "POST";
	text_finish(&ans.body);
	api_handle(&api, &req, &ans);
	assert_int_equal(ans.status, 405);
}

static void readiness_ends_with_draining(void **state)
{
	(void)state;
	assert_null(get("/healthz/ready"));
	assert_string_equal(ans.body.s, "ready\n");
	d.draining = true;
	assert_null(ask(503, "GET", "/healthz/ready", NULL, false));
	assert_string_equal(ans.body.s, "draining\n2 connections left, 4.0 s to the deadline\n");
	assert_null(get("/healthz/live"));
	d.draining = false;
	d.stuck = true;
	assert_null(ask(503, "GET", "/healthz/live", NULL, false));
	assert_string_equal(ans.body.s, "stuck\nworker 0 (thread 7) does not turn; it is at: timers\n");
	assert_null(get("/healthz/ready"));
	d.stuck = false;
}

static void metrics_are_what_a_scraper_accepts(void **state)
{
	(void)state;
	assert_null(get("/metrics"));
	assert_string_equal(ans.type, "text/plain; version=0.0.4; charset=utf-8");
	assert_true(prom_check(&ans.body) > 150);
	assert_true(
		prom_has(&ans.body, "adit_build_info{version=\"0.1.0\",wolfssl=\"5.5.4 tuned\",node=\"node-a\"} 1"));
	assert_true(prom_has(&ans.body, "adit_access_log_dropped_total 3"));
	assert_true(prom_has(&ans.body, "adit_listener_connections{listener=\"audit\",type=\"internal\"} 2"));
	/* given twice, one sample */
	assert_true(
		prom_has(&ans.body, "adit_endpoint_connections{cluster=\"to-b\",endpoint=\"10.0.0.2:15008\"} 1624"));
	assert_true(
		prom_has(&ans.body, "adit_endpoint_resolved{cluster=\"local-redis\",endpoint=\"redis.local:6379\"} 0"));
	assert_true(prom_has(&ans.body, "adit_connection_open_seconds_count 1"));
	assert_true(prom_has(&ans.body, "adit_policies 4"));
	assert_true(prom_has(&ans.body, "adit_policy_allowed_total{policy=\"allow-web\"} 70"));
	assert_true(prom_has(&ans.body, "adit_policy_denied_total{policy=\"no-dev\"} 3"));
	assert_true(prom_has(&ans.body, "adit_policy_denied_total{policy=\"default-deny\"} 9"));
	assert_true(prom_has(&ans.body, "adit_policy_dry_run_denied_total{policy=\"try\"} 4"));
	assert_true(prom_has(&ans.body, "adit_policy_dry_run_denied_total{policy=\"default-deny\"} 0"));
	assert_null(strstr(ans.body.s, "policy=\"far\"")); /* for other nodes: it never counts */
	assert_non_null(strstr(ans.body.s, "\nistio_tcp_connections_opened_total{reporter=\"source\""));
	assert_non_null(strstr(ans.body.s, "destination_zone=\"unknown\"} 11\n"));
}

/* Return: a file of the source tree, or NULL when the test runs elsewhere. */
static char *slurp(const char *name)
{
	struct text t = {0};
	FILE *f = fopen(name, "re");
	char buf[4096];
	size_t n;

	while (f && (n = fread(buf, 1, sizeof(buf), f)) > 0)
		text_addn(&t, buf, n);
	if (f)
		fclose(f);
	return t.s;
}

static void all_is_documented(void **state)
{
	char *api_doc = slurp("docs/ADMIN-API.md"), *metrics_doc = slurp("docs/METRICS.md"), name[128];

	(void)state;
	if (!api_doc || !metrics_doc) {
		free(api_doc);
		free(metrics_doc);
		skip();
	}
	for (size_t i = 0; i < ARRAY_LEN(routes); i++) {
		snprintf(name, sizeof(name), "%s%s", routes[i].path, routes[i].flags & R_ID ? "ID" : "");
		if (!strstr(api_doc, name))
			fail_msg("docs/ADMIN-API.md does not tell of %s", name);
	}
	d.bypass = true;
	get("/metrics");
	for (char *s = ans.body.s; (s = strstr(s, "# TYPE ")); s++) {
		snprintf(name, sizeof(name), "`%.*s", (int)strcspn(s + 7, " "), s + 7);
		if (!strstr(metrics_doc, name))
			fail_msg("docs/METRICS.md does not tell of %s`", name);
	}
	free(api_doc);
	free(metrics_doc);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(status_has_all_facts),
		cmocka_unit_test(listeners_say_where_they_lead),
		cmocka_unit_test(chains_are_every_way),
		cmocka_unit_test(a_route_that_always_matches_ends_the_list),
		cmocka_unit_test(chains_that_multiply_are_bounded),
		cmocka_unit_test(clusters_have_their_endpoints),
		cmocka_unit_test(tunnels_can_be_filtered),
		cmocka_unit_test(connections_can_be_filtered_and_limited),
		cmocka_unit_test(one_connection_by_id),
		cmocka_unit_test(only_the_right_people_change_things),
		cmocka_unit_test(a_connection_is_killed),
		cmocka_unit_test(workers_that_do_not_answer_are_503),
		cmocka_unit_test(stats_are_complete_and_filtered),
		cmocka_unit_test(log_levels_are_set_all_or_none),
		cmocka_unit_test(drain_passes_the_time_on),
		cmocka_unit_test(configurations_are_judged),
		cmocka_unit_test(wrong_paths_and_methods_are_told),
		cmocka_unit_test(the_public_address_serves_metrics_and_health_only),
		cmocka_unit_test(readiness_ends_with_draining),
		cmocka_unit_test(metrics_are_what_a_scraper_accepts),
		cmocka_unit_test(all_is_documented),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
