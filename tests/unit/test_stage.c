/* Chains: every form, several deep, and what inner listeners see. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include "daemon/chain/stage.c"
#include "base/clean.h"
#include "codec/metadata.h"

/*
 * outbound (tcp)  -> audit -> meter -> to_b (tunnel)	TCP -> tunnel, three deep
 * tunnel_in	   -> route "tcp"      -> local (tcp)	tunnel -> TCP
 *		   -> route "onward"   -> to_c, forward	tunnel -> tunnel
 *		   -> route "checked"  -> via_check (internal cluster) -> check -> local
 *		   -> nothing
 * plain (tcp)	   -> direct (tcp)			TCP -> TCP
 */
enum { OUTBOUND, AUDIT, METER, TUNNEL_IN, CHECK, PLAIN, LISTENERS };
static struct cfg_listener li[LISTENERS];
static struct cfg_cluster to_b, to_c, local, direct, via_check;
static struct cfg_route routes[3], check_routes[3];
static struct cfg_match to_tcp, to_onward, to_checked;
static struct cfg_header_match tenant, namespace_;

static struct cfg_match exact(const char *text)
{
	return (struct cfg_match){.kind = MATCH_EXACT, .text = text};
}

static int setup(void **state)
{
	(void)state;
	memset(li, 0, sizeof(li));
	memset(routes, 0, sizeof(routes));
	memset(check_routes, 0, sizeof(check_routes));
	for (uint32_t i = 0; i < LISTENERS; i++)
		li[i] = (struct cfg_listener){.id = i, .type = LISTENER_INTERNAL};
	to_b = (struct cfg_cluster){.name = "to_b", .type = CLUSTER_TUNNEL};
	to_c = (struct cfg_cluster){.name = "to_c", .type = CLUSTER_TUNNEL};
	local = (struct cfg_cluster){.name = "local", .type = CLUSTER_TCP};
	direct = (struct cfg_cluster){.name = "direct", .type = CLUSTER_ORIGINAL_DST};
	via_check = (struct cfg_cluster){.name = "via_check", .type = CLUSTER_INTERNAL, .listener = &li[CHECK]};

	li[OUTBOUND].type = LISTENER_TCP;
	li[OUTBOUND].to.listener = &li[AUDIT];
	li[AUDIT].to.listener = &li[METER];
	li[METER].to.cluster = &to_b;
	li[PLAIN].type = LISTENER_TCP;
	li[PLAIN].to.cluster = &direct;
	li[CHECK].to.cluster = &local;
	li[TUNNEL_IN].type = LISTENER_TUNNEL;
	to_tcp = exact("tcp.local:1");
	to_onward = exact("onward.local:1");
	to_checked = exact("checked.local:1");
	routes[0] = (struct cfg_route){.name = "tcp", .authority = &to_tcp, .to = {.cluster = &local}};
	routes[1] = (struct cfg_route){.name = "onward", .authority = &to_onward, .to = {.cluster = &to_c, .forward = true}};
	routes[2] = (struct cfg_route){.name = "checked", .authority = &to_checked, .to = {.cluster = &via_check}};
	li[TUNNEL_IN].routes = routes;
	li[TUNNEL_IN].n_routes = 3;
	return 0;
}

static struct stage_context asking(const char *authority)
{
	return (struct stage_context){.in = {.authority = {authority, strlen(authority)}, .port = 1}};
}

static void passes(const struct stages *s, unsigned int n, ...)
{
	va_list ap;

	assert_int_equal(s->n, n);
	va_start(ap, n);
	for (unsigned int i = 0; i < n; i++)
		assert_int_equal(s->id[i], va_arg(ap, int));
	va_end(ap);
}

static void tcp_to_tunnel_three_deep(void **state)
{
	struct stage_context ctx = asking("10.0.0.7:80");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO);
	passes(&s, 3, OUTBOUND, AUDIT, METER);
	assert_ptr_equal(s.cluster, &to_b);
	assert_null(s.route);
	assert_null(s.denied);
	assert_false(s.forward);
}

static void tunnel_to_tcp(void **state)
{
	struct stage_context ctx = asking("tcp.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	passes(&s, 1, TUNNEL_IN);
	assert_ptr_equal(s.cluster, &local);
	assert_ptr_equal(s.route, &routes[0]);
	assert_false(s.forward);
}

static void tunnel_to_tunnel(void **state)
{
	struct stage_context ctx = asking("onward.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	passes(&s, 1, TUNNEL_IN);
	assert_ptr_equal(s.cluster, &to_c);
	assert_true(s.forward);
}

static void tcp_to_tcp(void **state)
{
	struct stage_context ctx = asking("10.0.0.7:80");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[PLAIN], &ctx, &s), STAGE_GO);
	passes(&s, 1, PLAIN);
	assert_ptr_equal(s.cluster, &direct);
}

static void an_internal_cluster_leads_to_its_listener(void **state)
{
	struct stage_context ctx = asking("checked.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	passes(&s, 2, TUNNEL_IN, CHECK);
	assert_ptr_equal(s.cluster, &local);
	assert_ptr_equal(s.route, &routes[2]); /* the last that matched: check has none */
}

static void no_match_is_no_route_and_says_how_far_it_came(void **state)
{
	struct stage_context ctx = asking("elsewhere.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_NO_ROUTE);
	passes(&s, 1, TUNNEL_IN);
	assert_null(s.cluster);
	assert_null(s.route);
	li[TUNNEL_IN].to.listener = &li[METER]; /* now there is a default, and the chain breaks off behind it */
	li[METER].to.cluster = NULL;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_NO_ROUTE);
	passes(&s, 2, TUNNEL_IN, METER);
}

/* ---- what inner listeners see ---- */

static void inner_listeners_route_on_the_outermost_leg(void **state)
{
	static const struct header h[] = {{{"x-tenant", 8}, {"blue", 4}}};
	struct stage_context ctx = asking("checked.local:1");
	struct stages s;

	(void)state;
	tenant = (struct cfg_header_match){"x-tenant", exact("blue")};
	check_routes[0] = (struct cfg_route){.name = "blue", .headers = &tenant, .n_headers = 1, .to = {.listener = &li[METER]}};
	li[CHECK].routes = check_routes;
	li[CHECK].n_routes = 1;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	assert_ptr_equal(s.cluster, &local); /* no such header: the default */
	ctx.in.headers = h;
	ctx.in.n_headers = 1;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	passes(&s, 3, TUNNEL_IN, CHECK, METER);
	assert_ptr_equal(s.cluster, &to_b);
	assert_ptr_equal(s.route, &check_routes[0]);
}

static void inner_listeners_see_its_metadata(void **state)
{
	static const struct header h[] = {{{"baggage", 7}, {"k8s.namespace.name=shop", 23}}};
	const struct metadata_limits lim = {8192, 64};
	struct stage_context ctx = asking("checked.local:1");
	struct metadata *md;
	struct stages s;
	int err;

	(void)state;
	namespace_ = (struct cfg_header_match){"k8s.namespace.name", exact("shop")};
	check_routes[0] = (struct cfg_route){.headers = &namespace_, .n_headers = 1, .to = {.cluster = &to_c, .forward = true}};
	li[CHECK].routes = check_routes;
	li[CHECK].n_routes = 1;
	md = metadata_build(h, 1, &lim, &err);
	assert_non_null(md);
	ctx.in.md = md;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	assert_ptr_equal(s.cluster, &to_c);
	assert_true(s.forward);
	metadata_put(md);
}

static void inner_listeners_see_its_addresses(void **state)
{
	struct stage_context ctx = asking("checked.local:1");
	struct cidr net;
	struct stages s;

	(void)state;
	assert_int_equal(cidr_parse("10.1.0.0/16", 11, &net, NULL), 0);
	check_routes[0] = (struct cfg_route){.cidr = &net, .n_cidr = 1, .to = {.cluster = &direct}};
	check_routes[1] = (struct cfg_route){.port = 5432, .to = {.cluster = &to_b}};
	li[CHECK].routes = check_routes;
	li[CHECK].n_routes = 2;
	assert_int_equal(addr_parse("10.1.2.3:80", 11, &ctx.in.addr, NULL), 0);
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	assert_ptr_equal(s.cluster, &direct);
	ctx.in.addr.ip[1] = 2;
	ctx.in.port = 5432;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	assert_ptr_equal(s.cluster, &to_b);
}

/* ---- the short way: the chain goes on at a listener of this node ---- */

static void a_chain_goes_on_with_what_that_listener_sees(void **state)
{
	struct stage_context ctx = asking("10.0.0.7:80"), there = asking("tcp.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO);
	assert_int_equal(stages_extend(&li[TUNNEL_IN], &there, &s), STAGE_GO);
	passes(&s, 4, OUTBOUND, AUDIT, METER, TUNNEL_IN);
	assert_ptr_equal(s.cluster, &local);
	assert_ptr_equal(s.route, &routes[0]);
	assert_false(s.forward);
}

static void an_internal_listener_may_be_passed_on_both_sides(void **state)
{
	struct stage_context ctx = asking("10.0.0.7:80"), there = asking("checked.local:1");
	struct stages s;

	(void)state;
	li[METER].to = (struct cfg_target){.listener = &li[CHECK]};
	li[CHECK].to = (struct cfg_target){.cluster = &to_b};
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO);
	assert_ptr_equal(s.cluster, &to_b);
	li[CHECK].to = (struct cfg_target){.cluster = &local};
	assert_int_equal(stages_extend(&li[TUNNEL_IN], &there, &s), STAGE_GO);
	passes(&s, 6, OUTBOUND, AUDIT, METER, CHECK, TUNNEL_IN, CHECK);
	assert_ptr_equal(s.cluster, &local);
}

static void a_chain_that_comes_back_is_a_loop(void **state)
{
	struct stage_context ctx = asking("onward.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[TUNNEL_IN], &ctx, &s), STAGE_GO);
	assert_true(s.forward);
	assert_int_equal(stages_extend(&li[TUNNEL_IN], &ctx, &s), STAGE_LOOP);
	passes(&s, 1, TUNNEL_IN); /* nothing was added */
	assert_null(s.cluster);
	assert_false(s.forward);
}

static void what_finds_no_route_there_says_how_far_it_came(void **state)
{
	struct stage_context ctx = asking("10.0.0.7:80"), there = asking("elsewhere.local:1");
	struct stages s;

	(void)state;
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO);
	assert_int_equal(stages_extend(&li[TUNNEL_IN], &there, &s), STAGE_NO_ROUTE);
	passes(&s, 4, OUTBOUND, AUDIT, METER, TUNNEL_IN);
	assert_null(s.cluster);
}

static void the_bound_is_that_of_the_whole_chain(void **state)
{
	static struct cfg_listener l[CFG_CHAIN_MAX];
	struct stage_context ctx = asking("a:1");
	struct stages s;

	(void)state;
	for (uint32_t i = 0; i < ARRAY_LEN(l); i++)
		l[i] = (struct cfg_listener){.id = 10 + i, .to = {.listener = i + 1 < ARRAY_LEN(l) ? &l[i + 1] : NULL}};
	l[CFG_CHAIN_MAX - 1].to = (struct cfg_target){.cluster = &local};
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO); /* three */
	assert_int_equal(stages_extend(&l[3], &ctx, &s), STAGE_GO);
	assert_int_equal(s.n, CFG_CHAIN_MAX);
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO);
	assert_int_equal(stages_extend(&l[2], &ctx, &s), STAGE_NO_ROUTE);
	assert_int_equal(s.n, CFG_CHAIN_MAX);
}

/* ---- length ---- */

static void a_chain_may_be_as_long_as_allowed(void **state)
{
	static struct cfg_listener l[CFG_CHAIN_MAX + 2];
	struct stage_context ctx = asking("a:1");
	struct stages s;

	(void)state;
	for (uint32_t i = 0; i < ARRAY_LEN(l); i++)
		l[i] = (struct cfg_listener){.id = i, .to.listener = i + 1 < ARRAY_LEN(l) ? &l[i + 1] : NULL};
	l[CFG_CHAIN_MAX - 1].to = (struct cfg_target){.cluster = &local};
	assert_int_equal(stages_resolve(&l[0], &ctx, &s), STAGE_GO);
	assert_int_equal(s.n, CFG_CHAIN_MAX);
	for (uint32_t i = 0; i < CFG_CHAIN_MAX; i++)
		assert_int_equal(s.id[i], i);
	l[CFG_CHAIN_MAX - 1].to = (struct cfg_target){.listener = &l[CFG_CHAIN_MAX]}; /* one more */
	l[CFG_CHAIN_MAX].to = (struct cfg_target){.cluster = &local};
	assert_int_equal(stages_resolve(&l[0], &ctx, &s), STAGE_NO_ROUTE);
	l[2].to = (struct cfg_target){.listener = &l[1]}; /* a loop, which the configuration check refuses */
	assert_int_equal(stages_resolve(&l[0], &ctx, &s), STAGE_NO_ROUTE);
	assert_int_equal(s.n, CFG_CHAIN_MAX);
}

/* ---- policies: asked at each listener and cluster with what the outermost leg shows */

struct seen {
	char text[256];
};

static void note(void *arg, enum policy_place at, uint32_t id, const struct policy_verdict *v)
{
	struct seen *s = arg;
	size_t n = strlen(s->text);

	snprintf(s->text + n, sizeof(s->text) - n, "%c%u%s ", at == POLICY_AT_CLUSTER ? 'c' : 'l', id, v->allowed ? "" : "!");
}

static const char td_web[] = "spiffe://td/ns/shop/sa/web";

/* one policy that denies namespace shop at one place */
static struct policy_set *deny_shop(const uint32_t *listener, const uint32_t *cluster)
{
	static const struct policy_text shop = {POLICY_EXACT, "shop"};
	static const struct policy_match m = {.field = POLICY_NAMESPACE, .texts = &shop, .n = 1};
	static const struct policy_rule rule = {&m, 1};
	const struct policy p = {.name = "no-shop", .action = POLICY_DENY, .listeners = listener, .n_listeners = listener != NULL,
				 .clusters = cluster, .n_clusters = cluster != NULL, .rules = &rule, .n_rules = 1};
	struct policy_set *s;

	assert_int_equal(policy_compile(&p, 1, LISTENERS, 8, 1, &s, NULL), 0);
	return s;
}

static enum stage_verdict judged(struct policy_set *set, const struct cfg_listener *first, const char *authority, const char *who,
				 struct stages *s, struct seen *seen)
{
	struct stage_context ctx = asking(authority);
	enum stage_verdict v;

	*seen = (struct seen){""};
	ctx.policies = set;
	ctx.principal = who;
	ctx.judged = note;
	ctx.judged_arg = seen;
	v = stages_resolve(first, &ctx, s);
	policy_free(set);
	return v;
}

static void every_listener_and_cluster_is_asked(void **state)
{
	const uint32_t nowhere = PLAIN;
	struct stages s;
	struct seen seen;

	(void)state;
	local.id = 3;
	to_b.id = 4;
	via_check.id = 5;
	assert_int_equal(judged(deny_shop(&nowhere, NULL), &li[OUTBOUND], "10.0.0.7:80", NULL, &s, &seen), STAGE_GO);
	assert_string_equal(seen.text, "l0 l1 l2 c4 ");
	assert_int_equal(s.policy, POLICY_NONE);
	assert_int_equal(judged(deny_shop(&nowhere, NULL), &li[TUNNEL_IN], "checked.local:1", td_web, &s, &seen), STAGE_GO);
	assert_string_equal(seen.text, "l3 c5 l4 c3 ");
}

static void an_inner_listener_denies_by_the_outer_principal(void **state)
{
	const uint32_t check = CHECK;
	struct stages s;
	struct seen seen;

	(void)state;
	li[CHECK].name = "check";
	assert_int_equal(judged(deny_shop(&check, NULL), &li[TUNNEL_IN], "checked.local:1", td_web, &s, &seen), STAGE_DENIED);
	passes(&s, 2, TUNNEL_IN, CHECK);
	assert_string_equal(s.denied, "check");
	assert_false(s.denied_cluster);
	assert_int_equal(s.policy, 0);
	assert_int_equal(s.rule, 0);
	assert_int_equal(judged(deny_shop(&check, NULL), &li[TUNNEL_IN], "checked.local:1", "spiffe://td/ns/ops/sa/a", &s, &seen), STAGE_GO);
	assert_null(s.denied);
	/* what is no SPIFFE id proves nothing, and a DENY on a namespace does not concern it */
	assert_int_equal(judged(deny_shop(&check, NULL), &li[TUNNEL_IN], "checked.local:1", "ns/shop/sa/web", &s, &seen), STAGE_GO);
}

static void a_cluster_denies(void **state)
{
	const uint32_t three = 3, five = 5;
	struct stages s;
	struct seen seen;

	(void)state;
	local.id = 3;
	via_check.id = 5;
	assert_int_equal(judged(deny_shop(NULL, &three), &li[TUNNEL_IN], "tcp.local:1", td_web, &s, &seen), STAGE_DENIED);
	assert_string_equal(s.denied, "local");
	assert_true(s.denied_cluster);
	assert_int_equal(judged(deny_shop(NULL, &five), &li[TUNNEL_IN], "checked.local:1", td_web, &s, &seen), STAGE_DENIED);
	assert_string_equal(s.denied, "via_check");
	assert_string_equal(seen.text, "l3 c5! ");
}

/* the spelling of an address does not matter, and a name stays a name when its address is known */
static void authorities_are_judged_in_one_spelling(void **state)
{
	static const struct policy_text text[] = {{POLICY_EXACT, "10.0.0.7"}, {POLICY_EXACT, "db.prod"}};
	static const struct policy_match m = {.field = POLICY_AUTHORITY, .texts = text, .n = 2};
	static const struct policy_rule rule = {&m, 1};
	static const struct policy p = {.name = "p", .action = POLICY_DENY, .everywhere = true, .rules = &rule, .n_rules = 1};
	static const struct {
		const char *authority, *ip;
		bool denied;
	} t[] = {
		{"10.0.0.7:80", "10.0.0.7", true},
		{"[::ffff:10.0.0.7]:80", "10.0.0.7", true},
		{"[::ffff:a00:7]:80", "10.0.0.7", true},
		{NULL, "10.0.0.7", true}, /* a tcp listener: nobody said an authority */
		{"10.0.0.8:80", "10.0.0.8", false},
		{"DB.prod.:80", NULL, true},
		{"DB.prod:80", "10.0.0.9", true},
		{"web.prod:80", "10.0.0.7", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct stage_context ctx = {.in = {.authority = {t[i].authority, t[i].authority ? strlen(t[i].authority) : 0}, .port = 80}};
		struct policy_set *set;
		struct stages s;

		if (t[i].ip)
			assert_int_equal(addr_parse_ip(t[i].ip, strlen(t[i].ip), &ctx.in.addr, NULL), 0);
		assert_int_equal(policy_compile(&p, 1, LISTENERS, 8, 1, &set, NULL), 0);
		ctx.policies = set;
		if ((stages_resolve(&li[PLAIN], &ctx, &s) == STAGE_DENIED) != t[i].denied)
			fail_msg("case %zu", i);
		policy_free(set);
	}
}

/* asked again with an address: as if it had been one from the beginning */
static void a_resolved_name_is_judged_again(void **state)
{
	static struct cidr ten;
	static const struct policy_match m = {.field = POLICY_DESTINATION_IP, .nets = &ten, .n = 1};
	static const struct policy_rule rule = {&m, 1};
	static const struct policy p = {.name = "p", .action = POLICY_DENY, .everywhere = true, .rules = &rule, .n_rules = 1};
	const struct config cfg = {.listeners = li, .n_listeners = LISTENERS};
	struct stage_context ctx = asking("db.prod:80");
	struct policy_set *set;
	struct stages s;

	(void)state;
	assert_int_equal(cidr_parse("10.0.0.0/8", 10, &ten, NULL), 0);
	assert_int_equal(policy_compile(&p, 1, LISTENERS, 8, 1, &set, NULL), 0);
	ctx.policies = set;
	assert_int_equal(stages_resolve(&li[OUTBOUND], &ctx, &s), STAGE_GO);
	assert_int_equal(addr_parse_ip("11.0.0.1", 8, &ctx.in.addr, NULL), 0);
	assert_int_equal(stages_judge(&cfg, 0, &ctx, &s), STAGE_GO);
	assert_int_equal(addr_parse_ip("10.0.0.1", 8, &ctx.in.addr, NULL), 0);
	assert_int_equal(stages_judge(&cfg, 0, &ctx, &s), STAGE_DENIED);
	assert_int_equal(s.policy, 0);
	policy_free(set);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup(f, setup)
	const struct CMUnitTest tests[] = {
		T(tcp_to_tunnel_three_deep),
		T(tunnel_to_tcp),
		T(tunnel_to_tunnel),
		T(tcp_to_tcp),
		T(an_internal_cluster_leads_to_its_listener),
		T(no_match_is_no_route_and_says_how_far_it_came),
		T(inner_listeners_route_on_the_outermost_leg),
		T(inner_listeners_see_its_metadata),
		T(inner_listeners_see_its_addresses),
		T(a_chain_goes_on_with_what_that_listener_sees),
		T(an_internal_listener_may_be_passed_on_both_sides),
		T(a_chain_that_comes_back_is_a_loop),
		T(what_finds_no_route_there_says_how_far_it_came),
		T(the_bound_is_that_of_the_whole_chain),
		T(a_chain_may_be_as_long_as_allowed),
		T(every_listener_and_cluster_is_asked),
		T(an_inner_listener_denies_by_the_outer_principal),
		T(a_cluster_denies),
		T(authorities_are_judged_in_one_spelling),
		T(a_resolved_name_is_judged_again),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
