/* Policies, case by case: what docs/POLICY.md promises. Random sets are test_policy_random.c's, cost is test_policy_cost.c's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>
#include "base/clean.h"
#include "model/config.h"
#include "policy/policy.h"

#define LISTENERS 4u
#define CLUSTERS  4u

/* ---- building blocks: everything lives as long as the test */

#define EXACT(s)  {POLICY_EXACT, s}
#define PREFIX(s) {POLICY_PREFIX, s}
#define SUFFIX(s) {POLICY_SUFFIX, s}
#define LIST(type, ...) (const struct type[]){__VA_ARGS__}
#define TEXTS(f, ...)                                                                                                     \
	{                                                                                                                 \
		.field = f, .texts = LIST(policy_text, __VA_ARGS__), .n = ARRAY_LEN((LIST(policy_text, __VA_ARGS__)))     \
	}
#define NOT_TEXTS(f, ...)                                                                                                 \
	{                                                                                                                 \
		.field = f, .negate = true, .texts = LIST(policy_text, __VA_ARGS__),                                      \
		.n = ARRAY_LEN((LIST(policy_text, __VA_ARGS__)))                                                          \
	}
#define RULE(...)                                                                                     \
	{                                                                                             \
		LIST(policy_match, __VA_ARGS__), ARRAY_LEN((LIST(policy_match, __VA_ARGS__)))         \
	}
#define RULES(...) .rules = LIST(policy_rule, __VA_ARGS__), .n_rules = ARRAY_LEN((LIST(policy_rule, __VA_ARGS__)))
#define ANYBODY	   {.field = POLICY_LISTENER, .present = true}

#define WEB "spiffe://td/ns/shop/sa/web"

static struct policy_input web_input(void)
{
	return (struct policy_input){
		.principal = SLICE(WEB),
		.trust_domain = SLICE("td"),
		.ns = SLICE("shop"),
		.sa = SLICE("web"),
		.authority = SLICE("db.prod:5432"),
		.source = {.family = AF_INET, .ip = {10, 1, 2, 3}},
		.destination = {.family = AF_INET, .ip = {10, 9, 0, 1}},
		.port = 5432,
		.listener = 1,
	};
}

static struct policy_input nobody(void)
{
	return (struct policy_input){.source = {.family = AF_INET, .ip = {10, 1, 2, 3}}, .port = 5432, .listener = 1};
}

static struct policy_verdict ask(const struct policy *p, uint32_t n, const struct policy_input *in, enum policy_place at, uint32_t id)
{
	struct policy_verdict v;
	struct policy_facts f;
	struct policy_set *s;
	struct err e = {{0}};

	if (policy_compile(p, n, LISTENERS, CLUSTERS, 7, &s, &e) < 0)
		fail_msg("%s", e.msg);
	policy_look(s, in, &f);
	policy_decide(s, &f, at, id, &v);
	policy_free(s);
	return v;
}

static bool allows(const struct policy *p, uint32_t n, const struct policy_input *in)
{
	return ask(p, n, in, POLICY_AT_LISTENER, 1).allowed;
}

/* does a rule with this one match hold for @in, in a policy of @action? */
static bool holds(enum policy_action action, const struct policy_match *m, const struct policy_input *in)
{
	struct policy_rule rule = {m, 1};
	struct policy p = {.name = "p", .action = action, .everywhere = true, .rules = &rule, .n_rules = 1};

	return allows(&p, 1, in) == (action == POLICY_ALLOW);
}

/* ---- order */

static void without_policies_everything_is_allowed(void **state)
{
	struct policy_input in = nobody();
	struct policy_verdict v;

	(void)state;
	v = ask(NULL, 0, &in, POLICY_AT_CLUSTER, 3);
	assert_true(v.allowed);
	assert_int_equal(v.policy, POLICY_NONE);
	assert_false(v.dry_default);
}

static void deny_goes_before_allow(void **state)
{
	const struct policy p[] = {
		{.name = "allow", .action = POLICY_ALLOW, .everywhere = true, RULES(RULE(ANYBODY))},
		{.name = "deny-dev", .action = POLICY_DENY, .everywhere = true,
		 RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("dev"))), RULE(TEXTS(POLICY_NAMESPACE, EXACT("shop"))))},
	};
	struct policy_input in = web_input();
	struct policy_verdict v;

	(void)state;
	v = ask(p, 2, &in, POLICY_AT_LISTENER, 0);
	assert_false(v.allowed);
	assert_int_equal(v.policy, 1);
	assert_int_equal(v.rule, 1);
	in.ns = SLICE("other");
	v = ask(p, 2, &in, POLICY_AT_LISTENER, 0);
	assert_true(v.allowed);
	assert_int_equal(v.policy, 0);
}

static void an_allow_policy_means_default_deny(void **state)
{
	const struct policy p[] = {
		{.name = "allow-ops", .action = POLICY_ALLOW, .everywhere = true, RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("ops"))))},
	};
	struct policy_input in = web_input();
	struct policy_verdict v;

	(void)state;
	v = ask(p, 1, &in, POLICY_AT_LISTENER, 1);
	assert_false(v.allowed);
	assert_int_equal(v.policy, POLICY_NONE);
	in.ns = SLICE("ops");
	assert_true(allows(p, 1, &in));
}

static void deny_policies_alone_deny_what_they_name(void **state)
{
	const struct policy p[] = {
		{.name = "no-dev", .action = POLICY_DENY, .everywhere = true, RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("dev"))))},
	};
	struct policy_input in = web_input();

	(void)state;
	assert_true(allows(p, 1, &in));
}

static void empty_rules_never_match(void **state)
{
	const struct policy nothing[] = {{.name = "nothing", .action = POLICY_ALLOW, .everywhere = true}};
	const struct policy empty[] = {{.name = "empty", .action = POLICY_ALLOW, .everywhere = true, RULES({NULL, 0})}};
	const struct policy_match none = {.field = POLICY_NAMESPACE}, no_none = {.field = POLICY_NAMESPACE, .negate = true};
	const struct policy deny[] = {{.name = "deny", .action = POLICY_DENY, .everywhere = true, RULES({NULL, 0}, {&none, 1}, {&no_none, 1})}};
	struct policy_input in = web_input();

	(void)state;
	assert_false(allows(nothing, 1, &in)); /* and yet it is an ALLOW policy: default deny */
	assert_false(allows(empty, 1, &in));
	assert_true(allows(deny, 1, &in));
	assert_false(holds(POLICY_ALLOW, &none, &in));
	assert_false(holds(POLICY_ALLOW, &no_none, &in));
}

static void matches_of_a_rule_are_and_rules_are_or(void **state)
{
	const struct policy p[] = {
		{.name = "p", .action = POLICY_ALLOW, .everywhere = true,
		 RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("shop")), TEXTS(POLICY_SERVICE_ACCOUNT, EXACT("other"))),
		       RULE(TEXTS(POLICY_NAMESPACE, EXACT("ops")), TEXTS(POLICY_SERVICE_ACCOUNT, EXACT("web"), EXACT("other"))))},
	};
	struct policy_input in = web_input();

	(void)state;
	assert_false(allows(p, 1, &in));
	in.sa = SLICE("other");
	assert_int_equal(ask(p, 1, &in, POLICY_AT_LISTENER, 1).rule, 0);
	in.ns = SLICE("ops");
	assert_int_equal(ask(p, 1, &in, POLICY_AT_LISTENER, 1).rule, 1);
}

/* ---- scope */

static void policies_hold_where_their_scope_says(void **state)
{
	const uint32_t one = 1, two = 2;
	const struct policy p[] = {
		{.name = "at-1", .action = POLICY_ALLOW, .listeners = &one, .n_listeners = 1, RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("ops"))))},
		{.name = "to-2", .action = POLICY_DENY, .clusters = &two, .n_clusters = 1, RULES(RULE(ANYBODY))},
		{.name = "other-node", .action = POLICY_DENY, .everywhere = true, .elsewhere = true, RULES(RULE(ANYBODY))},
		{.name = "no-place", .action = POLICY_DENY, RULES(RULE(ANYBODY))},
	};
	struct policy_input in = web_input();

	(void)state;
	assert_false(ask(p, 4, &in, POLICY_AT_LISTENER, 1).allowed);
	assert_int_equal(ask(p, 4, &in, POLICY_AT_LISTENER, 1).policy, POLICY_NONE);
	assert_true(ask(p, 4, &in, POLICY_AT_LISTENER, 2).allowed);
	assert_true(ask(p, 4, &in, POLICY_AT_CLUSTER, 1).allowed);
	assert_int_equal(ask(p, 4, &in, POLICY_AT_CLUSTER, 2).policy, 1);
}

static void the_listener_matched_is_where_it_entered(void **state)
{
	const uint32_t one = 1;
	const struct policy p[] = {
		{.name = "p", .action = POLICY_DENY, .everywhere = true, RULES(RULE({.field = POLICY_LISTENER, .listeners = &one, .n = 1}))},
	};
	struct policy_input in = web_input();

	(void)state;
	assert_false(ask(p, 1, &in, POLICY_AT_LISTENER, 3).allowed); /* asked at an inner listener */
	in.listener = 3;
	assert_true(ask(p, 1, &in, POLICY_AT_LISTENER, 1).allowed);
}

/* ---- values */

static void values_match_by_kind(void **state)
{
	const struct {
		struct policy_match m;
		bool yes;
	} t[] = {
		{TEXTS(POLICY_PRINCIPAL, EXACT(WEB)), true},
		{TEXTS(POLICY_PRINCIPAL, EXACT("spiffe://td/ns/shop/sa/we")), false},
		{TEXTS(POLICY_PRINCIPAL, PREFIX("spiffe://td/ns/shop/")), true},
		{TEXTS(POLICY_PRINCIPAL, PREFIX("spiffe://td/ns/shopping/")), false},
		{TEXTS(POLICY_PRINCIPAL, PREFIX(WEB)), true},
		{TEXTS(POLICY_PRINCIPAL, PREFIX(WEB "s")), false},
		{TEXTS(POLICY_PRINCIPAL, SUFFIX("/sa/web")), true},
		{TEXTS(POLICY_PRINCIPAL, SUFFIX("/sa/WEB")), false},
		{TEXTS(POLICY_PRINCIPAL, PREFIX("spiffe://td/a"), PREFIX("spiffe://td/ns/"), PREFIX("spiffe://td/ns/shop/sa/z")), true},
		{TEXTS(POLICY_PRINCIPAL, SUFFIX("b"), SUFFIX("ab"), SUFFIX("a/web")), true},
		{TEXTS(POLICY_TRUST_DOMAIN, EXACT("td")), true},
		{TEXTS(POLICY_TRUST_DOMAIN, EXACT("t")), false},
		{TEXTS(POLICY_NAMESPACE, EXACT("a"), EXACT("shop"), EXACT("zz")), true},
		{TEXTS(POLICY_NAMESPACE, EXACT("a"), EXACT("zz"), SUFFIX("op")), true},
		{TEXTS(POLICY_SERVICE_ACCOUNT, PREFIX("w")), true},
		{TEXTS(POLICY_AUTHORITY, EXACT("db.prod")), true},
		{TEXTS(POLICY_AUTHORITY, EXACT("DB.prod:5432")), true},
		{TEXTS(POLICY_AUTHORITY, EXACT("db.prod:543")), false},
		{TEXTS(POLICY_AUTHORITY, SUFFIX(".prod")), true},
		{TEXTS(POLICY_AUTHORITY, SUFFIX(":5432")), true},
		{TEXTS(POLICY_AUTHORITY, PREFIX("db.")), true},
		{TEXTS(POLICY_AUTHORITY, PREFIX("prod")), false},
		{{.field = POLICY_NAMESPACE, .present = true}, true},
		{{.field = POLICY_NAMESPACE, .present = true, .negate = true}, false},
		{NOT_TEXTS(POLICY_NAMESPACE, EXACT("dev"), EXACT("shop")), false},
		{NOT_TEXTS(POLICY_NAMESPACE, EXACT("dev"), PREFIX("s-")), true},
	};
	struct policy_input in = web_input();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		if (holds(POLICY_ALLOW, &t[i].m, &in) != t[i].yes || holds(POLICY_DENY, &t[i].m, &in) != t[i].yes)
			fail_msg("case %zu, %s", i, policy_field_str(t[i].m.field));
	}
}

static void an_authority_has_one_spelling(void **state)
{
	static const char *const spelling[] = {"db.prod:5432", "DB.Prod:5432", "db.prod.:5432", "db.prod.", "db.prod"};
	const struct policy_match m = TEXTS(POLICY_AUTHORITY, EXACT("db.prod"));
	const struct policy_match v6 = TEXTS(POLICY_AUTHORITY, EXACT("[2001:db8::1]"));
	struct policy_input in = web_input();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(spelling); i++) {
		in.authority = (struct slice){spelling[i], strlen(spelling[i])};
		assert_true(holds(POLICY_DENY, &m, &in));
	}
	in.authority = SLICE("[2001:db8::1]:80");
	assert_true(holds(POLICY_DENY, &v6, &in));
	in.authority = SLICE("[2001:db8::1]");
	assert_true(holds(POLICY_DENY, &v6, &in));
}

static void addresses_match_by_network(void **state)
{
	static const struct {
		const char *nets[3];
		const char *ip;
		bool yes;
	} t[] = {
		{{"10.0.0.0/8"}, "10.255.0.1", true},
		{{"10.0.0.0/8"}, "11.0.0.1", false},
		{{"10.1.0.0/16", "10.0.0.0/8", "192.168.0.0/16"}, "10.200.0.1", true},
		{{"10.1.0.0/16", "192.168.0.0/16"}, "10.200.0.1", false},
		{{"10.0.0.7"}, "10.0.0.7", true},
		{{"10.0.0.7"}, "10.0.0.8", false},
		{{"0.0.0.0/0"}, "1.2.3.4", true},
		{{"0.0.0.0/0"}, "::1", false},
		{{"::/0"}, "2001:db8::1", true},
		{{"::/0"}, "10.0.0.1", false},
		{{"2001:db8::/33"}, "2001:db8:8000::1", false},
		{{"2001:db8::/33"}, "2001:db8:7fff::1", true},
		{{"*"}, "10.0.0.1", true},
		{{"*"}, "::1", true},
		{{"10.0.0.0/8", "2001:db8::/32"}, "2001:db8::9", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++)
		for (enum policy_field f = POLICY_SOURCE_IP; f <= POLICY_DESTINATION_IP; f++) {
			struct policy_match m = {.field = f};
			struct policy_input in = web_input();
			struct cidr nets[3];

			for (; m.n < 3 && t[i].nets[m.n]; m.n++)
				assert_int_equal(cidr_parse(t[i].nets[m.n], strlen(t[i].nets[m.n]), &nets[m.n], NULL), 0);
			m.nets = nets;
			assert_int_equal(addr_parse_ip(t[i].ip, strlen(t[i].ip), f == POLICY_SOURCE_IP ? &in.source : &in.destination, NULL), 0);
			if (holds(POLICY_ALLOW, &m, &in) != t[i].yes)
				fail_msg("case %zu", i);
			m.negate = true;
			if (holds(POLICY_ALLOW, &m, &in) == t[i].yes)
				fail_msg("case %zu, negated", i);
		}
}

static void ports_match_by_range(void **state)
{
	static const struct cfg_ports ports[] = {{8000, 8100}, {80, 80}, {8050, 9000}, {65535, 65535}};
	static const struct {
		uint16_t port;
		bool yes;
	} t[] = {{80, true}, {79, false}, {81, false}, {8000, true}, {9000, true}, {9001, false}, {65535, true}, {65534, false}};
	const struct policy_match m = {.field = POLICY_DESTINATION_PORT, .ports = ports, .n = ARRAY_LEN(ports)};
	struct policy_input in = web_input();

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		in.port = t[i].port;
		assert_int_equal(holds(POLICY_ALLOW, &m, &in), t[i].yes);
	}
}

/* ---- what is missing */

static void who_has_no_identity_matches_none(void **state)
{
	const struct policy_match web = TEXTS(POLICY_PRINCIPAL, EXACT(WEB)), not_web = NOT_TEXTS(POLICY_PRINCIPAL, EXACT(WEB)),
				  any = {.field = POLICY_PRINCIPAL, .present = true},
				  none = {.field = POLICY_PRINCIPAL, .present = true, .negate = true},
				  not_web_nor_any = {.field = POLICY_PRINCIPAL, .present = true, .negate = true,
						     .texts = (const struct policy_text[]){EXACT(WEB)}, .n = 1};
	struct policy_input in = nobody();

	(void)state;
	assert_false(holds(POLICY_ALLOW, &web, &in));
	assert_false(holds(POLICY_DENY, &web, &in));
	/* "everybody but web": who cannot say who it is does not get in by that, and is not let off by it */
	assert_false(holds(POLICY_ALLOW, &not_web, &in));
	assert_true(holds(POLICY_DENY, &not_web, &in));
	assert_false(holds(POLICY_ALLOW, &any, &in));
	assert_false(holds(POLICY_DENY, &any, &in));
	/* absence itself is meant */
	assert_true(holds(POLICY_ALLOW, &none, &in));
	assert_true(holds(POLICY_DENY, &none, &in));
	assert_true(holds(POLICY_ALLOW, &not_web_nor_any, &in));
}

static void an_id_of_another_form_has_no_namespace(void **state)
{
	const struct policy_match ns = NOT_TEXTS(POLICY_NAMESPACE, EXACT("dev")), td = TEXTS(POLICY_TRUST_DOMAIN, EXACT("td"));
	struct policy_input in = nobody();

	(void)state;
	in.principal = SLICE("spiffe://td/agent/one");
	in.trust_domain = SLICE("td");
	assert_false(holds(POLICY_ALLOW, &ns, &in));
	assert_true(holds(POLICY_DENY, &ns, &in));
	assert_true(holds(POLICY_ALLOW, &td, &in));
}

static void a_name_has_no_address(void **state)
{
	struct cidr ten;
	const struct policy_match is = {.field = POLICY_DESTINATION_IP, .nets = &ten, .n = 1},
				  not = {.field = POLICY_DESTINATION_IP, .negate = true, .nets = &ten, .n = 1};
	struct policy_input in = web_input();

	(void)state;
	assert_int_equal(cidr_parse("10.0.0.0/8", 10, &ten, NULL), 0);
	in.destination.family = AF_UNSPEC;
	assert_false(holds(POLICY_ALLOW, &is, &in));
	assert_false(holds(POLICY_ALLOW, &not, &in));
	assert_true(holds(POLICY_DENY, &not, &in));
}

/* ---- metadata */

struct block {
	struct metadata md;
	char room[256];
};

static void block_add(struct block *b, const char *name, const char *value)
{
	uint32_t at = b->md.size ? b->md.size - (uint32_t)sizeof(b->md) : 1;

	strcpy(b->md.text + at, name);
	at += (uint32_t)strlen(name) + 1;
	strcpy(b->md.text + at, value);
	b->md.size = (uint32_t)sizeof(b->md) + at + (uint32_t)strlen(value) + 1;
}

static void metadata_matches_by_name(void **state)
{
	struct policy_match m = TEXTS(POLICY_METADATA, EXACT("shop"), PREFIX("sh-"));
	struct policy_input in = web_input();
	struct block b = {0};

	(void)state;
	m.name = "x-team";
	assert_false(holds(POLICY_ALLOW, &m, &in));
	block_add(&b, "x-other", "shop");
	in.md = &b.md;
	assert_false(holds(POLICY_ALLOW, &m, &in));
	block_add(&b, "x-team", "shop");
	assert_true(holds(POLICY_ALLOW, &m, &in));
	block_add(&b, "x-team", "shop"); /* twice the same is once */
	assert_true(holds(POLICY_ALLOW, &m, &in));
	m.negate = true;
	assert_false(holds(POLICY_ALLOW, &m, &in));
	assert_false(holds(POLICY_DENY, &m, &in));
}

static void contradicting_metadata_never_helps_the_peer(void **state)
{
	struct policy_match m = TEXTS(POLICY_METADATA, EXACT("shop"));
	struct policy_match any = {.field = POLICY_METADATA, .name = "x-team", .present = true};
	struct policy_input in = web_input();
	struct block b = {0};

	(void)state;
	m.name = "x-team";
	block_add(&b, "x-team", "shop");
	block_add(&b, "x-team", "dev");
	in.md = &b.md;
	for (int negate = 0; negate < 2; negate++) {
		m.negate = negate;
		assert_false(holds(POLICY_ALLOW, &m, &in));
		assert_true(holds(POLICY_DENY, &m, &in));
	}
	assert_true(holds(POLICY_ALLOW, &any, &in));
	any.negate = true;
	assert_false(holds(POLICY_ALLOW, &any, &in));
}

/* ---- dry run */

static void dry_run_changes_nothing_and_says_what_it_would(void **state)
{
	const struct policy p[] = {
		{.name = "deny", .action = POLICY_DENY, .dry_run = true, .everywhere = true, RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("shop"))))},
		{.name = "allow-ops", .action = POLICY_ALLOW, .everywhere = true, RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("ops"))))},
		{.name = "allow-web", .action = POLICY_ALLOW, .dry_run = true, .everywhere = true,
		 RULES(RULE(TEXTS(POLICY_SERVICE_ACCOUNT, EXACT("web"))))},
	};
	struct policy_input in = web_input();
	struct policy_verdict v;

	(void)state;
	v = ask(p, 1, &in, POLICY_AT_LISTENER, 1); /* the DENY alone */
	assert_true(v.allowed);
	assert_int_equal(v.n_dry, 1);
	assert_int_equal(v.dry[0].policy, 0);
	assert_false(v.dry[0].allow);
	v = ask(p, 3, &in, POLICY_AT_LISTENER, 1); /* denied by default: the DENY would not change that, the ALLOW would */
	assert_false(v.allowed);
	assert_int_equal(v.policy, POLICY_NONE);
	assert_int_equal(v.n_dry, 1);
	assert_int_equal(v.dry[0].policy, 2);
	assert_true(v.dry[0].allow);
	in.ns = SLICE("ops");
	v = ask(p, 3, &in, POLICY_AT_LISTENER, 1);
	assert_true(v.allowed);
	assert_int_equal(v.n_dry, 0);
}

/* the first ALLOW policy is the dangerous one: in dry run, it tells whom it would shut out */
static void allow_in_dry_run_tells_of_default_deny(void **state)
{
	const struct policy p[] = {
		{.name = "allow-web", .action = POLICY_ALLOW, .dry_run = true, .everywhere = true,
		 RULES(RULE(TEXTS(POLICY_SERVICE_ACCOUNT, EXACT("web"))))},
		{.name = "allow-ops", .action = POLICY_ALLOW, .dry_run = true, .everywhere = true, RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("ops"))))},
	};
	struct policy_input in = web_input();
	struct policy_verdict v;

	(void)state;
	v = ask(p, 2, &in, POLICY_AT_LISTENER, 1);
	assert_true(v.allowed && !v.dry_default && !v.n_dry);
	in = nobody();
	v = ask(p, 2, &in, POLICY_AT_LISTENER, 1);
	assert_true(v.allowed && v.dry_default && !v.n_dry);
}

static void dry_runs_told_are_bounded(void **state)
{
	static const struct policy_match any = ANYBODY;
	static const struct policy_rule rule = {&any, 1};
	struct policy_input in = web_input();
	struct policy p[POLICY_DRY_MAX + 9];
	struct policy_verdict v;

	(void)state;
	for (uint32_t i = 0; i < ARRAY_LEN(p); i++)
		p[i] = (struct policy){.name = "p", .action = POLICY_DENY, .dry_run = true, .everywhere = true, .rules = &rule, .n_rules = 1};
	v = ask(p, ARRAY_LEN(p), &in, POLICY_AT_LISTENER, 1);
	assert_true(v.allowed);
	assert_int_equal(v.n_dry, POLICY_DRY_MAX);
	for (uint32_t i = 0; i < v.n_dry; i++)
		assert_int_equal(v.dry[i].policy, i);
}

/* ---- what is refused */

static void nonsense_is_refused_with_the_policy_named(void **state)
{
	const uint32_t far = 99;
	const struct cfg_ports wrong = {10, 9};
	struct cidr ports;
	const struct policy p[] = {
		{.name = "bad-1", .listeners = &far, .n_listeners = 1},
		{.name = "bad-2", .clusters = &far, .n_clusters = 1},
		{.name = "bad-3", .everywhere = true, RULES(RULE({.field = POLICY_LISTENER, .listeners = &far, .n = 1}))},
		{.name = "bad-4", .everywhere = true, RULES(RULE({.field = POLICY_DESTINATION_PORT, .ports = &wrong, .n = 1}))},
		{.name = "bad-5", .everywhere = true, RULES(RULE({.field = POLICY_SOURCE_IP, .nets = &ports, .n = 1}))},
		{.name = "bad-6", .everywhere = true, RULES(RULE({.field = POLICY_METADATA, .present = true}))},
		{.name = "bad-7", .everywhere = true, RULES(RULE(TEXTS(POLICY_PRINCIPAL, PREFIX(""))))},
	};
	struct policy_set *s;

	(void)state;
	assert_int_equal(cidr_parse("10.0.0.0/8:80", 13, &ports, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(p); i++) {
		struct err e = {{0}};

		assert_int_equal(policy_compile(&p[i], 1, LISTENERS, CLUSTERS, 1, &s, &e), -EINVAL);
		assert_non_null(strstr(e.msg, p[i].name));
	}
	assert_int_equal(policy_compile(p, POLICY_MAX + 1, LISTENERS, CLUSTERS, 1, &s, NULL), -EINVAL);
}

/* ---- explanations */

struct told {
	char text[1024];
	const struct policy_set *s;
};

static void tell(void *arg, const struct policy_step *st)
{
	static const char *const why[] = {"other", "absent", "unclear"};
	struct told *t = arg;
	char name[POLICY_RULE_NAME];
	size_t n = strlen(t->text);
	struct policy_info info;

	policy_info(t->s, st->policy, &info);
	if (st->rule == POLICY_NONE)
		snprintf(t->text + n, sizeof(t->text) - n, "%s: %s\n", info.name, st->matched ? "yes" : st->empty ? "no rules" : "no");
	else if (st->matched || st->empty)
		snprintf(t->text + n, sizeof(t->text) - n, "%s: %s\n", policy_rule_name(t->s, st->policy, st->rule, name), st->matched ? "yes" : "empty");
	else
		snprintf(t->text + n, sizeof(t->text) - n, "%s: %s%s%s%s: %s\n", policy_rule_name(t->s, st->policy, st->rule, name),
			 st->negate ? "not " : "", policy_field_str(st->field), st->name ? " " : "", st->name ? st->name : "", why[st->why]);
}

static void an_explanation_says_which_match_failed(void **state)
{
	const uint32_t three = 3;
	const struct policy_match team = {.field = POLICY_METADATA, .name = "x-team", .present = true};
	const struct policy p[] = {
		{.name = "a", .action = POLICY_ALLOW, .everywhere = true,
		 RULES(RULE(TEXTS(POLICY_NAMESPACE, EXACT("ops")), NOT_TEXTS(POLICY_SERVICE_ACCOUNT, EXACT("web")), team), {NULL, 0},
		       RULE(TEXTS(POLICY_NAMESPACE, EXACT("shop"))))},
		{.name = "b", .action = POLICY_DENY, .listeners = &three, .n_listeners = 1, RULES(RULE(ANYBODY))},
		{.name = "c", .action = POLICY_ALLOW, .everywhere = true},
	};
	struct policy_input in = web_input();
	struct policy_facts f;
	struct told t = {"", NULL};
	struct policy_set *s;

	(void)state;
	assert_int_equal(policy_compile(p, 3, LISTENERS, CLUSTERS, 1, &s, NULL), 0);
	t.s = s;
	policy_look(s, &in, &f);
	policy_explain(s, &f, POLICY_AT_LISTENER, 1, tell, &t);
	assert_string_equal(t.text, "a/rules/0: namespace: other\n"
				    "a/rules/0: not service_account: other\n"
				    "a/rules/0: metadata x-team: absent\n"
				    "a/rules/1: empty\n"
				    "a/rules/2: yes\n"
				    "a: yes\n"
				    "c: no rules\n");
	assert_int_equal(policy_count(s), 3);
	policy_free(s);
	assert_int_equal(policy_count(NULL), 0);
}

static void what_decided_has_a_name(void **state)
{
	const struct policy p[] = {{.name = "no-dev", .action = POLICY_DENY, .everywhere = true}};
	char name[POLICY_RULE_NAME];
	struct policy_set *s;

	(void)state;
	assert_int_equal(policy_compile(p, 1, LISTENERS, CLUSTERS, 1, &s, NULL), 0);
	assert_string_equal(policy_rule_name(s, 0, 3, name), "no-dev/rules/3");
	assert_string_equal(policy_rule_name(s, POLICY_NONE, POLICY_NONE, name), POLICY_DEFAULT);
	assert_string_equal(policy_rule_name(NULL, 0, 0, name), POLICY_DEFAULT);
	policy_free(s);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_policies_everything_is_allowed),
		cmocka_unit_test(deny_goes_before_allow),
		cmocka_unit_test(an_allow_policy_means_default_deny),
		cmocka_unit_test(deny_policies_alone_deny_what_they_name),
		cmocka_unit_test(empty_rules_never_match),
		cmocka_unit_test(matches_of_a_rule_are_and_rules_are_or),
		cmocka_unit_test(policies_hold_where_their_scope_says),
		cmocka_unit_test(the_listener_matched_is_where_it_entered),
		cmocka_unit_test(values_match_by_kind),
		cmocka_unit_test(an_authority_has_one_spelling),
		cmocka_unit_test(addresses_match_by_network),
		cmocka_unit_test(ports_match_by_range),
		cmocka_unit_test(who_has_no_identity_matches_none),
		cmocka_unit_test(an_id_of_another_form_has_no_namespace),
		cmocka_unit_test(a_name_has_no_address),
		cmocka_unit_test(metadata_matches_by_name),
		cmocka_unit_test(contradicting_metadata_never_helps_the_peer),
		cmocka_unit_test(dry_run_changes_nothing_and_says_what_it_would),
		cmocka_unit_test(allow_in_dry_run_tells_of_default_deny),
		cmocka_unit_test(dry_runs_told_are_bounded),
		cmocka_unit_test(nonsense_is_refused_with_the_policy_named),
		cmocka_unit_test(an_explanation_says_which_match_failed),
		cmocka_unit_test(what_decided_has_a_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
