/* Policies tried on cases: what is decided, by whom, and what is said of cases that are none. */
#include "../../daemon/config/cases.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
// clang-format off
#include <cmocka.h>
// clang-format on

static const char policies[] =
	"policies:\n"
	"- {name: db, action: allow, scope: {clusters: db}, rules: [{namespace: shop, destination_port: 5432}, {principal: cluster.local/ns/ops/sa/backup}]}\n"
	"- {name: outside, action: deny, rules: [{not_source_ip: 10.0.0.0/8}]}\n"
	"- {name: old, action: deny, scope: {listeners: [inbound, audit]}, rules: [{metadata: {x-version: \"1.*\"}, listener: inbound}]}\n"
	"- {name: far, action: deny, scope: {labels: {app: db}}, rules: [{authority: \"*.dev\"}]}\n"
	"- {name: try, action: deny, dry_run: true, rules: [{listener: \"*\"}]}\n";

static struct err e;
static struct text said;

static void told(void *arg, const struct case_verdict *v)
{
	(void)arg;
	text_addf(&said, "%u:%u %s %s %s by %s%s%s\n", v->index, v->line, v->name ? v->name : "-", v->ok ? "ok" : "WRONG",
		  v->allowed ? "allowed" : "denied", v->policy, v->at ? " at " : "", v->at ? v->at : "");
}

static int run(const char *p, const char *cases, const char *config)
{
	struct cases c = {.policies_name = "p.yaml",
			  .policies = p,
			  .n_policies = strlen(p),
			  .cases_name = "c.yaml",
			  .cases = cases,
			  .n_cases = strlen(cases),
			  .config = config};

	text_finish(&said);
	e.msg[0] = '\0';
	return cases_run(&c, told, NULL, &e);
}

static void tried(int wrong, const char *cases, const char *want)
{
	int r = run(policies, cases, NULL);

	if (r < 0)
		fail_msg("%s", e.msg);
	assert_string_equal(said.s, want);
	assert_int_equal(r, wrong);
	text_finish(&said);
}

static void cases_are_decided(void **state)
{
	(void)state;
	tried(0,
	      "cases:\n"
	      "- {name: shop, source: 10.1.2.3, principal: cluster.local/ns/shop/sa/web, destination: 10.0.0.5:5432, listener: inbound, cluster: db, expect: allow, policy: db}\n"
	      "- {source: 10.1.2.3, principal: spiffe://cluster.local/ns/shop/sa/web, destination: 10.0.0.5:80, cluster: db, expect: deny, policy: default-deny}\n"
	      "- {source: 10.1.2.3, authority: \"db:5432\", principal: cluster.local/ns/ops/sa/backup, cluster: db, expect: allow, policy: db/rules/1}\n"
	      "- {source: \"[fd00::1]:4711\", cluster: other, expect: deny, policy: outside}\n"
	      "- {source: 10.0.0.1, metadata: {x-version: 1.5}, listener: inbound, chain: [first, audit], cluster: x, expect: deny, policy: old/rules/0}\n"
	      "- {source: 10.0.0.1, metadata: {x-version: 1.5}, listener: other, chain: [first, audit], expect: allow, policy: none}\n"
	      "- {source: 10.0.0.1, metadata: {x-version: [\"2\", \"3\"]}, listener: inbound, expect: deny}\n"
	      "- {source: 10.0.0.1, authority: \"a.dev:1\", listener: inbound, expect: allow}\n",
	      "0:2 shop ok allowed by db/rules/0\n"
	      "1:3 - ok denied by default-deny at db\n"
	      "2:4 - ok allowed by db/rules/1\n"
	      "3:5 - ok denied by outside/rules/0 at any@test\n"
	      "4:6 - ok denied by old/rules/0 at audit\n"
	      "5:7 - ok allowed by none\n"
	      "6:8 - ok denied by old/rules/0 at inbound\n"
	      "7:9 - ok allowed by none\n");
	tried(0, "node: {metadata: {app: db}}\ncases:\n- {source: 10.0.0.1, authority: \"A.dev:1\", expect: deny, policy: far}\n",
	      "0:3 - ok denied by far/rules/0 at any@test\n");
}

static void wrong_ones_are_counted(void **state)
{
	(void)state;
	tried(2,
	      "cases:\n"
	      "- {source: 10.0.0.1, expect: deny}\n"
	      "- {source: 11.0.0.1, expect: deny, policy: old}\n"
	      "- {source: 11.0.0.1, expect: deny, policy: outside/rules/0}\n",
	      "0:2 - WRONG allowed by none\n1:3 - WRONG denied by outside/rules/0 at any@test\n2:4 - ok denied by outside/rules/0 at any@test\n");
}

static void refused(const char *p, const char *cases, const char *config, const char *sentence)
{
	assert_true(run(p, cases, config) < 0);
	assert_string_equal(e.msg, sentence);
	text_finish(&said);
}

static void mistakes_have_their_place(void **state)
{
	(void)state;
	refused("policies: [{name: a, action: allow}]", "cases: []", NULL, "p.yaml:1:12: policies[0] 'a': 'rules' is missing");
	refused("{name: a, action: allow, rules: [], scope: {listeners: 5 5}}", "cases: []", NULL,
		"p.yaml:6:18: policies[0] 'a' scope.listeners: '5 5': want a name: 1 to 64 letters, digits and . _ - / : @ +");
	refused(policies, "cases: [{expect: maybe}]", NULL, "c.yaml:1:18: cases[0].expect: 'maybe': want allow or deny");
	refused(policies, "cases: [{}]", NULL, "c.yaml:1:9: cases[0]: 'expect' is missing");
	refused(policies, "cases: [{expect: deny, source: x}]", NULL,
		"c.yaml:1:32: cases[0].source: 'x': want an address: 10.0.0.7, 10.0.0.7:5432, fd00::7 or [fd00::7]:5432");
	refused(policies, "cases: [{expect: deny, principal: X/a}]", NULL, "c.yaml:1:9: cases[0]: principal: SPIFFE id \"spiffe://X/a\": character not allowed in trust domain");
	refused(policies, "cases: [{expect: deny, metadata: [x]}]", NULL,
		"c.yaml:1:34: cases[0].metadata: want a mapping from names to values, not a list");
	refused(policies, "", NULL, "there are no cases: want cases: and a list of them");
	refused(policies, "case: []", NULL, "c.yaml:1:1: unknown key 'case' (did you mean 'cases'?)");
	refused(policies, "cases: []", "/nonexistent/adit.yaml", "/nonexistent/adit.yaml: No such file or directory");
}

static void with_a_configuration_names_are_its_own(void **state)
{
	char path[] = "/tmp/adit-cases-XXXXXX";
	static const char text[] = "listeners:\n- {name: in, type: tcp, address: 127.0.0.1:1, cluster: db}\n"
				   "clusters:\n- {name: db, type: tcp, endpoints: [127.0.0.1:2]}\n"
				   "policies:\n- {name: base, action: deny, rules: [{source_ip: 10.9.0.0/16}]}\n";
	int fd = mkstemp(path);

	(void)state;
	assert_int_equal(write(fd, text, sizeof(text) - 1), sizeof(text) - 1);
	close(fd);
	assert_int_equal(run("[{name: a, action: deny, rules: [{listener: in, destination_port: 5}]}]",
			     "cases:\n- {source: 10.9.0.1, listener: in, cluster: db, expect: deny, policy: base}\n"
			     "- {source: 10.8.0.1, listener: in, cluster: db, destination: 1.2.3.4:5, expect: deny, policy: a}\n",
			     path), 0);
	refused("policies: [{name: a, action: deny, rules: [{listener: inn}]}]", "cases: []", path,
		"p.yaml:1:55: policies[1] 'a' rules[0].listener: there is no listener 'inn' (did you mean 'in'?)");
	refused("policies:\n", "cases: [{listener: x, expect: deny}]", path, "c.yaml:1:9: cases[0]: there is no listener 'x'");
	unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(cases_are_decided),
		cmocka_unit_test(wrong_ones_are_counted),
		cmocka_unit_test(mistakes_have_their_place),
		cmocka_unit_test(with_a_configuration_names_are_its_own),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
