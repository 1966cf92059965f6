/* Explanations without a daemon: the text of every reason, where a connection enters, and the verdicts of stages beside them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "daemon/chain/explain.c"
#include "daemon/chain/explain_policy.c"
#include "config/config.h"
#include "unit/explain_config.h"
#include <jansson.h>

static struct config *cfg;
static json_t *said;
static enum explain_verdict verdict;
static struct err error;

static struct addr at(const char *s)
{
	struct addr a;

	assert_int_equal(addr_parse(s, strlen(s), &a, NULL), 0);
	return a;
}

static bool ten(void *arg, const struct addr *a) /* 10.0.0.0/8 is this node */
{
	(void)arg;
	return a->family == AF_INET && a->ip[0] == 10;
}

/* Return: of explain_entry() and explain_steps() */
static int explain(const struct explain_ask *ask)
{
	struct explain_way *w = calloc(1, sizeof(*w));
	struct explain_ask q = *ask;
	struct text t = {0};
	json_error_t e;
	struct json j;
	int r;

	assert_non_null(w);
	q.here = ten;
	error.msg[0] = '\0';
	json_init(&j, &t, false);
	json_open(&j, NULL, '{');
	r = explain_entry(cfg, &q, w, &j, &error);
	json_open(&j, "steps", '[');
	if (r == 0 && w->entry && w->verdict == EXPLAIN_GO)
		r = explain_steps(cfg, w, 0, &j);
	json_close(&j, ']');
	json_str(&j, "why", w->why.msg);
	json_close(&j, '}');
	verdict = w->verdict;
	explain_way_finish(w);
	free(w);
	json_decref(said);
	said = json_loads(t.s, 0, &e);
	if (!said)
		fail_msg("%s: %s", e.text, t.s);
	text_finish(&t);
	return r;
}

static int setup(void **state)
{
	struct err e = {""};

	(void)state;
	if (config_parse("test", explain_config, strlen(explain_config), &cfg, &e) < 0)
		fail_msg("%s", e.msg);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	json_decref(said);
	said = NULL;
	config_free(cfg);
	return 0;
}

/* is @text a value somewhere in @o? */
static bool has(const json_t *o, const char *text)
{
	const char *key;
	json_t *v;
	size_t i;

	if (json_is_string(o))
		return !strcmp(json_string_value(o), text);
	json_array_foreach(o, i, v)
		if (has(v, text))
			return true;
	json_object_foreach((json_t *)(uintptr_t)o, key, v)
		if (has(v, text))
			return true;
	return false;
}

static void says(const char *text)
{
	char *all;

	if (has(said, text))
		return;
	all = json_dumps(said, JSON_INDENT(1));
	fail_msg("no '%s' in %s", text, all);
}

/* ---- where it enters ---- */

static void enters(const char *src, const char *dst, const char *listener, const char *how)
{
	struct explain_ask ask = {.dst = at(dst)};
	const json_t *entry;

	if (src)
		ask.src = at(src);
	assert_int_equal(explain(&ask), 0);
	entry = json_object_get(said, "entry");
	assert_string_equal(json_string_value(json_object_get(entry, "how")), how);
	if (listener)
		assert_string_equal(json_string_value(json_object_get(entry, "listener")), listener);
	else
		assert_int_equal(verdict, EXPLAIN_ELSEWHERE);
}

static void the_listener_is_found(void **state)
{
	(void)state;
	enters(NULL, "192.0.2.1:80", "captured", "captured");
	says("its capture takes this destination if the application is in cgroup /shop.slice, with uid 33");
	enters("10.0.0.1:1", "192.0.2.1:80", "captured", "captured");
	enters("203.0.113.1:1", "192.0.2.1:80", NULL, "none"); /* from elsewhere nothing is captured */
	enters(NULL, "192.0.2.77:80", NULL, "none");	       /* except */
	enters(NULL, "192.0.2.1:22", NULL, "none");	       /* except_ports */
	enters(NULL, "198.51.100.1:80", NULL, "none");
	enters(NULL, "10.0.0.5:8080", "steered", "steered");
	enters(NULL, "10.0.0.5:8081", NULL, "none");
	enters(NULL, "198.51.100.1:8080", NULL, "none"); /* not an address of this node */
	enters(NULL, "127.0.0.1:15001", "out", "address");
	enters(NULL, "10.0.0.5:15008", "in", "address"); /* by the wildcard */
	enters(NULL, "198.51.100.1:15008", NULL, "none");
}

static void wrong_questions_are_refused(void **state)
{
	static const struct {
		struct explain_ask ask;
		const char *said;
	} cases[] = {
		{{.listener = "nobody"}, "there is no listener 'nobody'; aditctl listener shows them"},
		{{.listener = "audit"}, "listener 'audit' is an internal one: say the tcp or tunnel listener where it enters"},
		{{.src = {.family = AF_INET}}, "say --dst ADDRESS:PORT, or --listener"},
		{{.authority = "db:80", .listener = "out"},
		 "an application connects to an address, the name is not seen at listener 'out': say --dst ADDRESS:PORT"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		assert_int_equal(explain(&cases[i].ask), -EINVAL);
		assert_string_equal(error.msg, cases[i].said);
	}
}

static void the_only_tunnel_listener_is_found(void **state)
{
	struct explain_ask ask = {.authority = "db.prod:80"};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	says("identity, authority and metadata come by a tunnel, and this is the only tunnel listener");
	cfg->listeners[0].type = LISTENER_TUNNEL;
	assert_int_equal(explain(&ask), -EINVAL);
	assert_non_null(strstr(error.msg, "there are 2 tunnel listeners: say --listener, one of "));
	cfg->listeners[0].type = LISTENER_TCP;
}

static void what_a_real_one_would_have_is_noted(void **state)
{
	static const struct header h = {{"x-team", 6}, {"shop", 4}};
	struct explain_ask ask = {.listener = "out", .headers = &h, .n_headers = 1};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	says("headers and metadata come by tunnels: a tcp listener does not see any");
	ask = (struct explain_ask){.listener = "out", .principal = "spiffe://a/b"};
	assert_int_equal(explain(&ask), 0);
	says("a tcp listener without proxy_protocol knows no identity: a real connection would have none");
	ask = (struct explain_ask){.listener = "in", .authority = "db:80"};
	assert_int_equal(explain(&ask), 0);
	says("no source address was said (--src): matches on source_ip see none");
}

static void what_no_connect_asks_for_is_refused(void **state)
{
	struct explain_ask ask = {.listener = "in", .authority = "no port"};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_BAD);
	ask.authority = NULL;
	assert_int_equal(explain(&ask), 0);
	says(":authority is missing");
}

/* ---- reasons ---- */

static void every_reason_of_a_route(void **state)
{
	struct explain_ask ask = {.listener = "in", .src = at("10.0.0.1:1"), .authority = "db.prod:80"};
	struct header h = {{"x-team", 6}, {"ops", 3}};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	says("port is 80; it wants 6379");
	says("a name is asked for; its networks take addresses only");
	says("authority is 'db.prod:80'; it wants an end with .dev");
	says("there is no x-team; it wants shop");
	ask.authority = "192.0.2.1:80";
	ask.headers = &h;
	ask.n_headers = 1;
	assert_int_equal(explain(&ask), 0);
	says("the address is in none of its networks");
	says("x-team is 'ops'; it wants shop");
	says("x-team is 'ops'; it wants not a beginning with op");
	ask.authority = "a.dev:6379";
	assert_int_equal(explain(&ask), 0); /* the first is taken, nothing behind it is told */
	assert_false(has(said, "by-net"));
}

static void every_reason_of_a_policy(void **state)
{
	struct header twice[] = {{{"x-two", 5}, {"a", 1}}, {{"x-two", 5}, {"b", 1}}, {{"x-team", 6}, {"ops", 3}}};
	struct explain_ask ask = {.listener = "in", .authority = "db.prod:80", .headers = twice, .n_headers = 3};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	says("no principal: the source proves no identity; the rule wants spiffe://a/b");
	says("no namespace: the source proves no identity; the rule wants shop");
	says("no source_ip: the source's address is not known; the rule wants 10.0.0.0/8");
	says("no destination_ip: a name was asked for, not an address; the rule wants 10.1.0.0/16");
	says("destination_port is '80'; the rule wants 5432, 6000-7000");
	says("authority is 'db.prod:80'; the rule wants *.dev");
	says("listener is 'in'; the rule wants out");
	says("x-team is 'ops'; the rule wants a, b, c, d and 2 more");
	says("no x-none: the peer sends no such header or baggage member; the rule wants *");
	ask.authority = "db.prod:6379"; /* as far as the cluster */
	assert_int_equal(explain(&ask), 0);
	says("x-two comes with different values, so it counts as none; the rule wants a");
	says("it has no rules, so it never matches");
	ask.principal = "spiffe://cluster.local/odd";
	ask.src = at("192.0.2.1:1");
	ask.authority = "10.2.0.1:80";
	assert_int_equal(explain(&ask), 0);
	says("no namespace: the source's id is not of the form spiffe://TD/ns/NS/sa/SA; the rule wants shop");
	says("source_ip is '192.0.2.1'; the rule wants 10.0.0.0/8");
	says("destination_ip is '10.2.0.1'; the rule wants 10.1.0.0/16");
	says("trust_domain is 'cluster.local'; the rule wants none of cluster.local");
}

static void every_verdict(void **state)
{
	struct explain_ask ask = {.listener = "in", .authority = "db.prod:80", .src = at("10.0.0.1:1")};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_NO_ROUTE);
	says("no route of listener 'in' takes it");
	ask.authority = "db.prod:6379";
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_DENIED);
	says("no ALLOW policy at cluster 'db' matches (default-deny)");
	says("there are ALLOW policies, and none matches");
	ask.principal = "spiffe://cluster.local/ns/shop/sa/web";
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_GO);
	says("an ALLOW policy matches and no DENY policy does");
	ask.principal = "spiffe://cluster.local/ns/evil/sa/web";
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_DENIED);
	says("denied by policy no-evil/rules/0 at listener 'in'");
	says("a DENY policy matches");
	for (int v = 0; v <= EXPLAIN_ELSEWHERE; v++)
		assert_string_not_equal(explain_verdict_str((enum explain_verdict)v), "?");
}

static void dry_run_is_told(void **state)
{
	struct explain_ask ask = {.listener = "in", .authority = "db.prod:6379", .principal = "spiffe://cluster.local/ns/shop/sa/try"};

	(void)state;
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_GO);
	says("try/rules/0");
}

static void of_many_the_matching_are_told(void **state)
{
	struct explain_ask ask = {.listener = "in", .authority = "db.prod:6379", .principal = "spiffe://cluster.local/ns/n499/sa/x"};
	struct err e = {""};
	struct text t = {0};
	const json_t *p;

	(void)state;
	text_add(&t, explain_config);
	for (int i = 0; i < 500; i++)
		text_addf(&t, "  - { name: m%d, action: deny, rules: [ { namespace: n%d } ] }\n", i, i);
	config_free(cfg);
	if (config_parse("many", t.s, t.len, &cfg, &e) < 0)
		fail_msg("%s", e.msg);
	text_finish(&t);
	assert_int_equal(explain(&ask), 0);
	assert_int_equal(verdict, EXPLAIN_DENIED);
	p = json_object_get(json_array_get(json_object_get(said, "steps"), 0), "policies");
	assert_true(has(p, "m499"));
	assert_int_equal(json_array_size(json_object_get(p, "list")), EXPLAIN_POLICIES + 1);
	assert_int_equal(json_integer_value(json_object_get(p, "left_out")) + EXPLAIN_POLICIES + 1,
			 json_integer_value(json_object_get(p, "asked")));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(the_listener_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(wrong_questions_are_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(the_only_tunnel_listener_is_found, setup, teardown),
		cmocka_unit_test_setup_teardown(what_a_real_one_would_have_is_noted, setup, teardown),
		cmocka_unit_test_setup_teardown(what_no_connect_asks_for_is_refused, setup, teardown),
		cmocka_unit_test_setup_teardown(every_reason_of_a_route, setup, teardown),
		cmocka_unit_test_setup_teardown(every_reason_of_a_policy, setup, teardown),
		cmocka_unit_test_setup_teardown(every_verdict, setup, teardown),
		cmocka_unit_test_setup_teardown(dry_run_is_told, setup, teardown),
		cmocka_unit_test_setup_teardown(of_many_the_matching_are_told, setup, teardown),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
