/* Workloads in the configuration: every key reaches its member, the node's metadata lies under, mistakes with their places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/clean.h"
#include "base/log.h"
#include "config/config.h"
#include "model/workload.h"

#define PEM "certificate: /etc/passwd, key: /etc/passwd, ca: /etc/passwd"
#define TOP                                                                                                          \
	"node: {id: n1, workload: agent, namespace: sys, service: s, zone: z, metadata: {a: 1, b: 2}, request_headers: {x-a: n, x-b: n}}\n" \
	"identities:\n  - {name: web, " PEM "}\n  - {name: db, " PEM "}\n"                                           \
	"listeners:\n  - {name: in, type: tcp, address: \"127.0.0.1:7777\", cluster: far}\n"                       \
	"  - {name: tun, type: tunnel, address: \"127.0.0.1:15008\", identity: workload, cluster: far}\n"           \
	"clusters:\n  - {name: far, type: tunnel, endpoints: [\"127.0.0.1:1\"], identity: workload, identity_default: db}\n" \
	"workloads:\n"
#define TOP_LINES 10

static struct config *good(const char *yaml)
{
	struct config *c = NULL;
	struct err e = {""};
	char all[4096];

	snprintf(all, sizeof(all), "%s%s", TOP, yaml);
	if (config_parse("t.yaml", all, strlen(all), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static const char *value_of(const struct cfg_kv *all, uint32_t n, const char *key)
{
	for (uint32_t i = 0; i < n; i++)
		if (!strcmp(all[i].key, key))
			return all[i].value;
	return NULL;
}

static void every_key_reaches_its_member(void **state)
{
	struct config *c = good("  - name: w\n    identity: web\n"
				"    match: {source: [10.0.0.0/8, 127.0.0.2], cgroups: /shop.slice/, uids: [1000, 1001], listeners: in}\n"
				"    serves: {addresses: [10.0.0.7, \"fd00::/64\"], server_names: [Web.Example, \"*.x.example\"]}\n"
				"    namespace: shop\n    workload: front\n    workload_type: deployment\n    service: web\n    version: v2\n"
				"    metadata: {b: 3, c: 4}\n    request_headers: {X-B: w}\n    response_headers: {x-r: w}\n"
				"  - {name: v, identity: db, match: {uids: 0}}\n");
	const struct cfg_workload *w = &c->workloads[0], *v = &c->workloads[1];

	(void)state;
	assert_int_equal(c->n_workloads, 2);
	assert_string_equal(w->name, "w");
	assert_int_equal(w->id, 0);
	assert_int_equal(v->id, 1);
	assert_ptr_equal(w->identity, &c->identities[0]);
	assert_ptr_equal(v->identity, &c->identities[1]);
	assert_int_equal(w->n_source, 2);
	assert_int_equal(w->source[1].bits, 32);
	assert_int_equal(w->n_cgroups, 1);
	assert_string_equal(w->cgroups[0], "/shop.slice");
	assert_int_equal(w->n_uids, 2);
	assert_int_equal(w->uids[1], 1001);
	assert_int_equal(w->n_listeners, 1);
	assert_int_equal(w->listeners[0], 0);
	assert_int_equal(w->n_addresses, 2);
	assert_int_equal(w->n_server_names, 2);
	assert_string_equal(w->server_names[0], "web.example");
	assert_string_equal(w->node.namespace_, "shop");
	assert_string_equal(w->node.workload, "front");
	assert_string_equal(w->node.workload_type, "deployment");
	assert_string_equal(w->node.service, "web");
	assert_string_equal(w->node.version, "v2");
	assert_int_equal(w->node.n_response_headers, 1);
	config_free(c);
}

static void the_nodes_metadata_lies_under(void **state)
{
	struct config *c = good("  - {name: w, identity: web, match: {uids: 1}, metadata: {b: 3, c: 4}, request_headers: {x-b: w}}\n"
				"  - {name: v, identity: web, match: {uids: 2}}\n");
	const struct cfg_node *w = &c->workloads[0].node, *v = &c->workloads[1].node;

	(void)state;
	assert_int_equal(w->n_metadata, 3);
	assert_string_equal(value_of(w->metadata, w->n_metadata, "a"), "1");
	assert_string_equal(value_of(w->metadata, w->n_metadata, "b"), "3");
	assert_string_equal(value_of(w->metadata, w->n_metadata, "c"), "4");
	assert_int_equal(w->n_request_headers, 2);
	assert_string_equal(value_of(w->request_headers, 2, "x-a"), "n");
	assert_string_equal(value_of(w->request_headers, 2, "x-b"), "w");
	assert_string_equal(w->namespace_, "sys");
	assert_string_equal(w->service, "s");
	assert_string_equal(w->zone, "z");
	assert_string_equal(w->workload, "w"); /* the node's would be a lie */
	assert_true(w->send_baggage);
	assert_int_equal(v->n_metadata, 2);
	assert_string_equal(v->workload, "v");
	assert_string_equal(c->node.workload, "agent");
	assert_int_equal(c->node.n_metadata, 2);
	config_free(c);
}

static void who_has_no_workload_may_have_a_default(void **state)
{
	struct config *c = good("  - {name: w, identity: web, match: {uids: 1}}\n");

	(void)state;
	assert_true(c->clusters[0].by_workload);
	assert_ptr_equal(c->clusters[0].identity, &c->identities[1]);
	assert_true(c->listeners[1].by_workload);
	assert_null(c->listeners[1].identity);
	assert_false(c->listeners[0].by_workload);
	config_free(c);
}

static struct config *parsed(const char *all, struct err *e)
{
	struct config *c = NULL;

	(void)config_parse("t.yaml", all, strlen(all), &c, e);
	return c;
}

#define FAR(identity) "clusters: [{name: far, type: tunnel, endpoints: \"127.0.0.1:1\", " identity "}]\n"

static void the_word_workload_is_an_identity_only_without_workloads(void **state)
{
	struct err e = {""};
	struct config *c = parsed("identities: [{name: workload, " PEM "}]\n" FAR("identity: workload"), &e);

	(void)state;
	assert_non_null(c);
	assert_false(c->clusters[0].by_workload);
	assert_non_null(c->clusters[0].identity);
	config_free(c);
	assert_null(parsed("identities: [{name: workload, " PEM "}]\nworkloads: [{name: w, match: {uids: 1}}]\n" FAR("identity: workload"), &e));
	assert_non_null(strstr(e.msg, "name it otherwise"));
	assert_null(parsed("identities: [{name: a, " PEM "}]\n" FAR("identity: workload"), &e));
	assert_non_null(strstr(e.msg, "there are no 'workloads' to have one of"));
	assert_null(parsed("identities: [{name: a, " PEM "}]\n" FAR("identity_default: a"), &e));
	assert_non_null(strstr(e.msg, "'identity_default' is for 'identity: workload'"));
}

static void without_identities_a_workload_is_metadata_only(void **state)
{
	struct err e = {""};
	struct config *c = parsed("workloads: [{name: w, match: {source: \"*\"}}]\n", &e);

	(void)state;
	assert_non_null(c);
	assert_null(c->workloads[0].identity);
	config_free(c);
}

static void mistakes_are_told_with_their_place(void **state)
{
	static const struct {
		const char *yaml, *say; /* line numbers count from TOP on */
	} t[] = {
		{"  - {identity: web, match: {uids: 1}}\n", "1:5: workloads[0]: 'name' is missing"},
		{"  - {name: w, match: {uids: 1}}\n", "1:5: workloads[0] 'w': 'identity' is missing"},
		{"  - {name: w, identity: wbe, match: {uids: 1}}\n", "1:25: workloads[0] 'w' identity: there is no identity 'wbe' (did you mean 'web'?)"},
		{"  - {name: w, identity: web}\n", "1:5: workloads[0] 'w': would be nobody's: want 'match'"},
		{"  - {name: w, identity: web, match: {}}\n", "1:37: workloads[0] 'w' match: is empty: want at least one of source, cgroups, uids"},
		{"  - {name: w, identity: web, serves: {}}\n", "1:38: workloads[0] 'w' serves: is empty: want at least one of addresses"},
		{"  - {name: w, identity: web, match: {source: []}}\n", "1:46: workloads[0] 'w' match.source: is empty: nothing would match"},
		{"  - {name: w, identity: web, match: {uids: []}}\n", "1:44: workloads[0] 'w' match.uids: is empty: nothing would match"},
		{"  - {name: w, identity: web, match: {source: \"10.0.0.0/8:80\"}}\n", "1:46: workloads[0] 'w' match.source: '10.0.0.0/8:80': no port here"},
		{"  - {name: w, identity: web, match: {cgroups: shop}}\n", "1:47: workloads[0] 'w' match.cgroups: 'shop': want a path"},
		{"  - {name: w, identity: web, match: {listeners: tun}}\n", "1:49: workloads[0] 'w' match.listeners: 'tun' is no tcp listener"},
		{"  - {name: w, identity: web, match: {listeners: im}}\n", "1:49: workloads[0] 'w' match.listeners: there is no listener 'im' (did you mean 'in'?)"},
		{"  - {name: w, identity: web, serves: {server_names: a..b}}\n", "1:53: workloads[0] 'w' serves.server_names: 'a..b': want a host name"},
		{"  - {name: w, identity: web, serves: {server_names: \"a.*\"}}\n", "1:53: workloads[0] 'w' serves.server_names: 'a.*': want a host name"},
		{"  - {name: w, identity: web, match: {uid: 1}}\n", "1:38: workloads[0] 'w' match: unknown key 'uid' (did you mean 'uids'?)"},
		{"  - {name: w, identity: web, match: {uids: 1}, zone: a}\n", "1:48: workloads[0] 'w': unknown key 'zone'"},
		{"  - {name: w, identity: web, match: {uids: 1}, request_headers: {baggage: a}}\n",
		 "1:66: workloads[0] 'w' request_headers.baggage: Adit writes this header itself"},
		{"  - {name: w, identity: web, match: {uids: 1}}\n  - {name: w, identity: web, match: {uids: 2}}\n",
		 "2:12: workloads[1]: name 'w' is taken"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct err e = {""};
		char all[4096], want[512];
		unsigned int line = (unsigned int)atoi(t[i].say);

		snprintf(all, sizeof(all), "%s%s", TOP, t[i].yaml);
		snprintf(want, sizeof(want), "t.yaml:%u%s", line + TOP_LINES, strchr(t[i].say, ':'));
		if (parsed(all, &e))
			fail_msg("case %zu is accepted: %s", i, t[i].yaml);
		if (strncmp(e.msg, want, strlen(want)) != 0)
			fail_msg("case %zu: '%s', want '%s'", i, e.msg, want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_key_reaches_its_member),
		cmocka_unit_test(the_nodes_metadata_lies_under),
		cmocka_unit_test(who_has_no_workload_may_have_a_default),
		cmocka_unit_test(the_word_workload_is_an_identity_only_without_workloads),
		cmocka_unit_test(without_identities_a_workload_is_metadata_only),
		cmocka_unit_test(mistakes_are_told_with_their_place),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
