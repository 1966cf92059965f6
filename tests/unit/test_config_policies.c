/* Policies in the configuration: every key reaches its member, the forms a value has, mistakes with their places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "base/clean.h"
#include "base/log.h"
#include "config/config.h"
#include "policy/policy.h"

#define TOP                                                                                   \
	"node: {id: n1, workload: db, namespace: shop, metadata: {app: db}}\n"                \
	"clusters:\n  - {name: db, type: tcp, endpoints: [\"127.0.0.1:5432\"]}\n"             \
	"  - {name: web, type: tcp, endpoints: [\"127.0.0.1:80\"]}\n"                         \
	"listeners:\n  - {name: in, type: tcp, address: \"127.0.0.1:7777\", listener: audit}\n" \
	"  - {name: audit, type: internal, cluster: db}\n"                                    \
	"policies:\n"
#define TOP_LINES 8

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

static const struct policy_match *match_of(const struct config *c, uint32_t rule, uint32_t match)
{
	assert_true(c->policies[0].n_rules > rule && c->policies[0].rules[rule].n > match);
	return &c->policies[0].rules[rule].matches[match];
}

static void text_is(const struct policy_match *m, uint32_t i, enum policy_text_kind kind, const char *text)
{
	assert_true(i < m->n);
	assert_int_equal(m->texts[i].kind, kind);
	assert_string_equal(m->texts[i].text, text);
}

static void without_policies_there_is_no_set(void **state)
{
	static const char *const same[] = {"", "  []\n"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(same); i++) {
		struct config *c = good(same[i]);

		assert_int_equal(c->n_policies, 0);
		assert_null(c->policy_set);
		config_free(c);
	}
}

static void every_key_reaches_its_member(void **state)
{
	struct config *c = good("  - name: p\n    action: deny\n    dry_run: true\n"
				"    scope: {listeners: [audit, in], clusters: web, labels: {app: db, workload: db}}\n"
				"    rules:\n"
				"      - principal: spiffe://td/ns/a/sa/b\n        trust_domain: td\n        namespace: [a, b]\n"
				"        service_account: b\n        authority: db.prod\n        metadata: {x-team: shop, k8s.pod.name: [a, \"b*\"]}\n"
				"        source_ip: 10.0.0.0/8\n        destination_ip: [10.1.0.0/16, \"::1\"]\n"
				"        destination_port: [80, 8000-9000]\n        listener: in\n"
				"      - {not_namespace: dev, not_metadata: {x-old: \"*\"}, not_destination_port: 22, not_listener: in}\n");
	static const enum policy_field order[] = {POLICY_PRINCIPAL, POLICY_TRUST_DOMAIN, POLICY_NAMESPACE, POLICY_SERVICE_ACCOUNT,
						  POLICY_AUTHORITY, POLICY_METADATA,	POLICY_METADATA,  POLICY_SOURCE_IP,
						  POLICY_DESTINATION_IP, POLICY_DESTINATION_PORT, POLICY_LISTENER};
	const struct policy *p = c->policies;
	struct policy_info info;

	(void)state;
	assert_int_equal(c->n_policies, 1);
	assert_string_equal(p->name, "p");
	assert_int_equal(p->action, POLICY_DENY);
	assert_true(p->dry_run && !p->everywhere && !p->elsewhere);
	assert_int_equal(p->n_listeners, 2);
	assert_int_equal(p->listeners[0], 1);
	assert_int_equal(p->listeners[1], 0);
	assert_int_equal(p->n_clusters, 1);
	assert_int_equal(p->clusters[0], 1);
	assert_int_equal(p->n_labels, 2);
	assert_string_equal(p->labels[0].key, "app");
	assert_string_equal(p->labels[0].value, "db");
	assert_int_equal(p->n_rules, 2);
	assert_int_equal(p->rules[0].n, ARRAY_LEN(order));
	for (uint32_t i = 0; i < ARRAY_LEN(order); i++) {
		assert_int_equal(match_of(c, 0, i)->field, order[i]);
		assert_false(match_of(c, 0, i)->negate || match_of(c, 0, i)->present);
	}
	text_is(match_of(c, 0, 0), 0, POLICY_EXACT, "spiffe://td/ns/a/sa/b");
	text_is(match_of(c, 0, 2), 1, POLICY_EXACT, "b");
	assert_string_equal(match_of(c, 0, 5)->name, "x-team");
	assert_string_equal(match_of(c, 0, 6)->name, "k8s.pod.name");
	text_is(match_of(c, 0, 6), 1, POLICY_PREFIX, "b");
	assert_int_equal(match_of(c, 0, 7)->nets[0].bits, 8);
	assert_int_equal(match_of(c, 0, 8)->n, 2);
	assert_int_equal(match_of(c, 0, 8)->nets[1].bits, 128);
	assert_int_equal(match_of(c, 0, 9)->ports[1].last, 9000);
	assert_int_equal(match_of(c, 0, 10)->listeners[0], 0);
	assert_true(match_of(c, 1, 0)->negate && match_of(c, 1, 1)->negate && match_of(c, 1, 1)->present);
	assert_int_equal(match_of(c, 1, 2)->ports[0].first, 22);
	assert_non_null(c->policy_set);
	policy_info(c->policy_set, 0, &info);
	assert_string_equal(info.name, "p");
	config_free(c);
}

static void a_value_has_several_forms(void **state)
{
	static const struct {
		const char *yaml;
		enum policy_text_kind kind;
		const char *text;
	} t[] = {
		{"{principal: td/ns/a/sa/b}", POLICY_EXACT, "spiffe://td/ns/a/sa/b"}, /* as Istio writes them */
		{"{principal: \"td/ns/a/*\"}", POLICY_PREFIX, "spiffe://td/ns/a/"},
		{"{principal: \"spiffe://td/*\"}", POLICY_PREFIX, "spiffe://td/"},
		{"{principal: \"spiffe:*\"}", POLICY_PREFIX, "spiffe:"},
		{"{principal: \"*/sa/b\"}", POLICY_SUFFIX, "/sa/b"},
		{"{principal: {exact: spiffe://td/a}}", POLICY_EXACT, "spiffe://td/a"},
		{"{principal: {prefix: td/ns/}}", POLICY_PREFIX, "spiffe://td/ns/"},
		{"{principal: [{suffix: /b}]}", POLICY_SUFFIX, "/b"},
		{"{authority: Db.Prod}", POLICY_EXACT, "db.prod"},
		{"{authority: Db.Prod.}", POLICY_EXACT, "db.prod"},
		{"{authority: \"*.Prod:80\"}", POLICY_SUFFIX, ".prod:80"},
		{"{authority: \"2001:DB8:0::7\"}", POLICY_EXACT, "[2001:db8::7]"},
		{"{authority: \"[2001:DB8:0::7]\"}", POLICY_EXACT, "[2001:db8::7]"},
		{"{authority: \"[2001:DB8:0::7]:80\"}", POLICY_EXACT, "[2001:db8::7]:80"},
		{"{authority: \"[::ffff:10.0.0.7]:80\"}", POLICY_EXACT, "10.0.0.7:80"},
		{"{metadata: {x-a: {exact: \"a*\"}}}", POLICY_EXACT, "a*"},
		{"{metadata: {x-a: \"a*\"}}", POLICY_PREFIX, "a"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		char yaml[256];
		struct config *c;

		snprintf(yaml, sizeof(yaml), "  - {name: p, action: allow, rules: [%s]}\n", t[i].yaml);
		c = good(yaml);
		text_is(match_of(c, 0, 0), 0, t[i].kind, t[i].text);
		config_free(c);
	}
}

static void a_star_is_presence(void **state)
{
	static const char *const t[] = {"{principal: \"*\"}", "{namespace: [\"*\"]}", "{metadata: {x-a: {present: true}}}", "{listener: \"*\"}",
					"{not_principal: \"*\"}"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		char yaml[256];
		struct config *c;

		snprintf(yaml, sizeof(yaml), "  - {name: p, action: allow, rules: [%s]}\n", t[i]);
		c = good(yaml);
		assert_true(match_of(c, 0, 0)->present);
		assert_int_equal(match_of(c, 0, 0)->n, 0);
		config_free(c);
	}
}

static void labels_choose_nodes(void **state)
{
	static const struct {
		const char *labels;
		bool here;
	} t[] = {
		{"{app: db}", true},
		{"{app: web}", false},
		{"{app: db, namespace: shop, workload: db, id: n1}", true},
		{"{app: db, namespace: dev}", false},
		{"{nothing: of-this}", false},
		{"{zone: a}", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		char yaml[256];
		struct config *c;

		snprintf(yaml, sizeof(yaml), "  - {name: p, action: deny, scope: {labels: %s}, rules: [{listener: \"*\"}]}\n", t[i].labels);
		c = good(yaml);
		assert_int_equal(c->policies[0].elsewhere, !t[i].here);
		assert_true(c->policies[0].everywhere);
		config_free(c);
	}
}

static void mistakes_are_told_with_their_place(void **state)
{
	static const struct {
		const char *yaml, *say; /* line numbers count from TOP on */
	} t[] = {
		{"  - {action: allow, rules: []}\n", "1:5: policies[0]: 'name' is missing"},
		{"  - {name: p, rules: []}\n", "1:5: policies[0] 'p': 'action' is missing"},
		{"  - {name: p, action: allow}\n", "1:5: policies[0] 'p': 'rules' is missing"},
		{"  - {name: p, action: alow, rules: []}\n", "1:23: policies[0] 'p' action: 'alow': want allow or deny (did you mean 'allow'?)"},
		{"  - {name: default-deny, action: allow, rules: []}\n",
		 "1:12: policies[0] 'default-deny': 'default-deny' is what logs and metrics call it when no policy allows"},
		{"  - {name: p, action: allow, rules: []}\n  - {name: q, action: deny, rules: [{listener: in}]}\n"
		 "  - {name: p, action: deny, rules: []}\n",
		 "3:12: policies[2]: name 'p' is taken: t.yaml:9:12 has it, too"},
		{"  - {name: p, action: allow, scope: {listeners: inn}, rules: []}\n",
		 "1:49: policies[0] 'p' scope.listeners: there is no listener 'inn' (did you mean 'in'?)"},
		{"  - {name: p, action: allow, scope: {clusters: [db, dbb]}, rules: []}\n",
		 "1:53: policies[0] 'p' scope.clusters[1]: there is no cluster 'dbb' (did you mean 'db'?)"},
		{"  - {name: p, action: allow, scope: {listeners: []}, rules: []}\n",
		 "1:49: policies[0] 'p' scope.listeners: is empty: the policy would be asked nowhere; leave the key out for any"},
		{"  - {name: p, action: allow, scope: {labels: {}}, rules: []}\n",
		 "1:46: policies[0] 'p' scope.labels: want a mapping (label: value) with at least one label, not an empty one"},
		{"  - {name: p, action: allow, scope: none, rules: []}\n",
		 "1:37: policies[0] 'p' scope: want all, or a mapping with listeners, clusters or labels"},
		{"  - name: p\n    action: allow\n    rules:\n      - {princpal: a}\n",
		 "4:10: policies[0] 'p' rules[0]: unknown key 'princpal' (did you mean 'principal'?)"},
		{"  - {name: p, action: allow, rules: [{}]}\n",
		 "1:38: policies[0] 'p' rules[0]: a rule without matches never matches; for everybody write listener: \"*\""},
		{"  - {name: p, action: allow, rules: [{namespace: []}]}\n",
		 "1:50: policies[0] 'p' rules[0].namespace: is empty: the rule would never match; leave the key out for any"},
		{"  - {name: p, action: allow, rules: [{source_ip: []}]}\n",
		 "1:50: policies[0] 'p' rules[0].source_ip: is empty: the rule would never match; leave the key out for any"},
		{"  - {name: p, action: allow, rules: [{namespace: \"*a*\"}]}\n",
		 "1:50: policies[0] 'p' rules[0].namespace: '*a*': want at most one *, at the beginning or the end"},
		{"  - {name: p, action: allow, rules: [{namespace: {exact: a, prefix: b}}]}\n",
		 "1:50: policies[0] 'p' rules[0].namespace: want one of exact, prefix, suffix or present"},
		{"  - {name: p, action: allow, rules: [{namespace: {present: false}}]}\n",
		 "1:60: policies[0] 'p' rules[0].namespace.present: want true; for 'must be absent' write the match with not_ and \"*\""},
		{"  - {name: p, action: allow, rules: [{service_account: ns/sa}]}\n",
		 "1:56: policies[0] 'p' rules[0].service_account: 'ns/sa': want one segment of spiffe://TD/ns/NAMESPACE/sa/SERVICE_ACCOUNT"},
		{"  - {name: p, action: allow, rules: [{trust_domain: TD}]}\n",
		 "1:53: policies[0] 'p' rules[0].trust_domain: 'TD': want a trust domain: lower-case letters, digits and . - _"},
		{"  - {name: p, action: allow, rules: [{principal: \"td//x\"}]}\n",
		 "1:50: policies[0] 'p' rules[0].principal: SPIFFE id \"spiffe://td//x\": empty path segment"},
		{"  - {name: p, action: allow, rules: [{authority: \"https://db\"}]}\n",
		 "1:50: policies[0] 'p' rules[0].authority: 'https://db': want host or host:port, without scheme and path"},
		{"  - {name: p, action: allow, rules: [{source_ip: \"10.0.0.0/8:80\"}]}\n",
		 "1:50: policies[0] 'p' rules[0].source_ip: '10.0.0.0/8:80': no port here; destination_port is a match of its own"},
		{"  - {name: p, action: allow, rules: [{source_ip: 10.0.0.1/8}]}\n",
		 "1:50: policies[0] 'p' rules[0].source_ip: \"10.0.0.1/8\": want 10.0.0.0/8, or /32 for one address"},
		{"  - {name: p, action: allow, rules: [{destination_port: 0}]}\n",
		 "1:57: policies[0] 'p' rules[0].destination_port: '0': want a port from 1 to 65535, or a range like \"8000-9000\""},
		{"  - {name: p, action: allow, rules: [{listener: audit}]}\n",
		 "1:49: policies[0] 'p' rules[0].listener: 'audit' is internal: no connection enters this node by it."},
		{"  - {name: p, action: allow, rules: [{metadata: x-team}]}\n",
		 "1:49: policies[0] 'p' rules[0].metadata: want a mapping from names of headers or baggage members to values, not a single value"},
		{"  - {name: p, action: allow, rules: [{metadata: {x-team: []}}]}\n",
		 "1:58: policies[0] 'p' rules[0].metadata.x-team: is empty: the rule would never match"},
		{"  - {name: p, action: allow, rules: [{namespace: a, namespace: b}]}\n", "1:53: "},
		{"  - p\n", "1:5: policies[0]: want a mapping (key: value), not a single value"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct config *c = NULL;
		struct err e = {""};
		char all[4096], want[512];
		unsigned int line = (unsigned int)atoi(t[i].say);

		snprintf(all, sizeof(all), "%s%s", TOP, t[i].yaml);
		snprintf(want, sizeof(want), "t.yaml:%u%s", line + TOP_LINES, strchr(t[i].say, ':'));
		if (config_parse("t.yaml", all, strlen(all), &c, &e) != -EINVAL)
			fail_msg("case %zu is accepted: %s", i, t[i].yaml);
		if (strncmp(e.msg, want, strlen(want)) != 0)
			fail_msg("case %zu: '%s', want '%s'", i, e.msg, want);
		assert_null(c);
	}
}

static void files_of_conf_d_add_policies(void **state)
{
	char dir[] = "/tmp/adit-policies-XXXXXX", path[128];
	struct config *c = NULL;
	struct err e = {""};
	FILE *f;

	(void)state;
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/conf.d", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	snprintf(path, sizeof(path), "%s/conf.d/a.yaml", dir);
	f = fopen(path, "we");
	fprintf(f, "policies:\n  - {name: second, action: deny, rules: [{namespace: dev}]}\n");
	fclose(f);
	snprintf(path, sizeof(path), "%s/adit.yaml", dir);
	f = fopen(path, "we");
	fprintf(f, "%s  - {name: first, action: allow, rules: [{listener: in}]}\n", TOP);
	fclose(f);
	if (config_load(path, &c, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(c->n_policies, 2);
	assert_string_equal(c->policies[0].name, "first");
	assert_string_equal(c->policies[1].name, "second");
	config_free(c);
	unlink(path);
	snprintf(path, sizeof(path), "%s/conf.d/a.yaml", dir);
	unlink(path);
	snprintf(path, sizeof(path), "%s/conf.d", dir);
	rmdir(path);
	rmdir(dir);
}

static void ten_thousand_policies_are_read(void **state)
{
	const size_t room = 2 << 20;
	char *all = malloc(room);
	struct config *c = NULL;
	struct err e = {""};
	size_t n;

	(void)state;
	assert_non_null(all);
	n = (size_t)snprintf(all, room, "%s", TOP);
	for (int i = 0; i < 10000; i++)
		n += (size_t)snprintf(all + n, room - n,
				      "  - {name: p%d, action: allow, rules: [{principal: td/ns/n%d/sa/s%d, destination_port: %d}]}\n", i, i % 200, i,
				      1 + i % 60000);
	if (config_parse("t.yaml", all, n, &c, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(policy_count(c->policy_set), 10000);
	config_free(c);
	free(all);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_policies_there_is_no_set),
		cmocka_unit_test(every_key_reaches_its_member),
		cmocka_unit_test(a_value_has_several_forms),
		cmocka_unit_test(a_star_is_presence),
		cmocka_unit_test(labels_choose_nodes),
		cmocka_unit_test(mistakes_are_told_with_their_place),
		cmocka_unit_test(files_of_conf_d_add_policies),
		cmocka_unit_test(ten_thousand_policies_are_read),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
