/*
 * What decisions cost, from 10 to 10,000 policies of a realistic mix. What is checked does not depend on the machine: how many look-ups
 * there are, and how many rules one leads to. Times are printed: docs/POLICY.md has those of a quiet machine.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>
#include "model/config.h"
#include "policy/policy.h"
#include "base/clean.h"
#include "rand.h"

#define INPUTS 20000u
#define NAMESPACES 200u
#define LISTENERS 8u

struct mixed {
	struct policy p;
	struct policy_rule rule;
	struct policy_match match[3];
	struct policy_text text[4];
	struct cidr net[2];
	struct cfg_ports port[2];
	uint32_t listener[1];
	char name[24], words[4][64];
};

static const uint16_t ports[] = {80, 443, 5432, 6379, 8080, 8443, 9000, 9090};

static void add_text(struct mixed *m, enum policy_field f, const char *name, uint32_t n, bool negate)
{
	m->match[m->rule.n++] = (struct policy_match){.field = f, .name = name, .negate = negate, .texts = m->text, .n = n};
	for (uint32_t i = 0; i < n; i++)
		m->text[i] = (struct policy_text){POLICY_EXACT, m->words[i]};
}

static void add_net(struct mixed *m, struct rnd *r, enum policy_field f, uint8_t bits)
{
	uint32_t ip = (uint32_t)rnd_u64(r);

	m->net[0] = (struct cidr){.net = {.family = AF_INET, .ip = {10, (uint8_t)ip, (uint8_t)(ip >> 8)}}, .bits = bits};
	if (bits > 24)
		m->net[0].net.ip[3] = (uint8_t)(ip >> 16 & (0xffu << (32 - bits)));
	m->match[m->rule.n++] = (struct policy_match){.field = f, .nets = m->net, .n = 1};
}

static void add_port(struct mixed *m, struct rnd *r)
{
	m->port[0].first = m->port[0].last = ports[rnd_below(r, ARRAY_LEN(ports))];
	m->match[m->rule.n++] = (struct policy_match){.field = POLICY_DESTINATION_PORT, .ports = m->port, .n = 1};
}

/* as people write them: most allow principals or namespaces to a port; some are for one listener; some deny networks or by metadata */
static void mixed_make(struct mixed *m, uint32_t i, struct rnd *r)
{
	uint32_t kind = (uint32_t)rnd_below(r, 20), n = 1 + (uint32_t)rnd_below(r, 3);

	snprintf(m->name, sizeof(m->name), "policy-%u", i);
	m->rule.matches = m->match;
	m->listener[0] = (uint32_t)rnd_below(r, LISTENERS);
	m->p = (struct policy){.name = m->name, .action = kind >= 14 ? POLICY_DENY : POLICY_ALLOW, .everywhere = kind % 4 != 0, .rules = &m->rule,
			       .n_rules = 1, .listeners = m->listener, .n_listeners = kind % 4 == 0};
	for (uint32_t k = 0; k < n; k++)
		snprintf(m->words[k], sizeof(m->words[k]), kind < 8 ? "spiffe://cluster.local/ns/ns-%u/sa/app-%u" : "ns-%u",
			 (uint32_t)rnd_below(r, NAMESPACES), (uint32_t)rnd_below(r, 50));
	if (kind < 8) {
		add_text(m, POLICY_PRINCIPAL, NULL, n, false);
		if (kind < 4)
			add_port(m, r);
	} else if (kind < 12) {
		add_text(m, POLICY_NAMESPACE, NULL, n, false);
		add_port(m, r);
	} else if (kind < 14) {
		add_net(m, r, POLICY_SOURCE_IP, 24);
		add_port(m, r);
	} else if (kind < 17) {
		add_net(m, r, kind == 14 ? POLICY_DESTINATION_IP : POLICY_SOURCE_IP, kind == 16 ? 32 : 28);
		add_text(m, POLICY_NAMESPACE, NULL, 1, true);
	} else if (kind < 18) {
		snprintf(m->words[0], sizeof(m->words[0]), ".team-%u.internal", (uint32_t)rnd_below(r, 2000));
		add_text(m, POLICY_AUTHORITY, NULL, 1, false);
		m->text[0].kind = POLICY_SUFFIX;
	} else if (kind < 19) {
		snprintf(m->words[0], sizeof(m->words[0]), "client-%u", i);
		add_text(m, POLICY_METADATA, "x-client-id", 1, false);
	} else {
		snprintf(m->words[0], sizeof(m->words[0]), "spiffe://old.local/ns/ns-%u/", (uint32_t)rnd_below(r, NAMESPACES));
		add_text(m, POLICY_PRINCIPAL, NULL, 1, false);
		m->text[0].kind = POLICY_PREFIX;
	}
}

struct asked {
	struct policy_input in;
	char principal[80], authority[40], ns[16], sa[16];
	union {
		struct metadata md;
		char room[128];
	};
};

static void asked_make(struct asked *a, struct rnd *r, uint32_t n)
{
	uint32_t ip = (uint32_t)rnd_u64(r), at;
	char *text;

	memset(a, 0, sizeof(*a));
	snprintf(a->ns, sizeof(a->ns), "ns-%u", (uint32_t)rnd_below(r, NAMESPACES));
	snprintf(a->sa, sizeof(a->sa), "app-%u", (uint32_t)rnd_below(r, 50));
	snprintf(a->principal, sizeof(a->principal), "spiffe://cluster.local/ns/%s/sa/%s", a->ns, a->sa);
	snprintf(a->authority, sizeof(a->authority), "db.team-%u.internal:5432", (uint32_t)rnd_below(r, 2000));
	text = a->room + sizeof(a->md) + 1;
	at = 1 + (uint32_t)snprintf(text, sizeof(a->room) - sizeof(a->md) - 1, "k8s.namespace.name%c%s%cx-client-id%cclient-%u%cx-team%cshop",
				    0, a->ns, 0, 0, (uint32_t)rnd_below(r, n * 20), 0, 0);
	a->md.size = (uint32_t)sizeof(a->md) + at + 1;
	a->md.n = 3;
	a->in = (struct policy_input){
		.principal = {a->principal, strlen(a->principal)},
		.trust_domain = SLICE("cluster.local"),
		.ns = {a->ns, strlen(a->ns)},
		.sa = {a->sa, strlen(a->sa)},
		.authority = {a->authority, strlen(a->authority)},
		.source = {.family = AF_INET, .ip = {10, (uint8_t)ip, (uint8_t)(ip >> 8), (uint8_t)(ip >> 16)}},
		.destination = {.family = AF_INET, .ip = {10, (uint8_t)(ip >> 24), (uint8_t)(ip >> 4), 9}},
		.port = ports[ip % ARRAY_LEN(ports)],
		.listener = ip % LISTENERS,
		.md = &a->md,
	};
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static int by_value(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint32_t at(const uint32_t *sorted, uint32_t percent)
{
	return sorted[INPUTS / 100 * percent];
}

/* nanoseconds of one decision with all that belongs to it, and of one more at a second place; p50 and p99 without the clock's own */
static void measure(const struct policy_set *s, uint32_t n, struct rnd *r)
{
	static uint32_t first[INPUTS], second[INPUTS], clock[INPUTS];
	static struct policy_facts f;
	struct policy_verdict v, w;
	uint32_t allowed = 0;
	struct asked a;

	for (uint32_t i = 0; i < INPUTS; i++) {
		uint64_t t0, t1, t2, t3;

		asked_make(&a, r, n);
		t0 = now_ns();
		t1 = now_ns();
		policy_look(s, &a.in, &f);
		policy_decide(s, &f, POLICY_AT_LISTENER, a.in.listener, &v);
		t2 = now_ns();
		policy_decide(s, &f, POLICY_AT_CLUSTER, 0, &w);
		t3 = now_ns();
		clock[i] = (uint32_t)(t1 - t0);
		first[i] = (uint32_t)(t2 - t1);
		second[i] = (uint32_t)(t3 - t2);
		allowed += v.allowed;
	}
	qsort(clock, INPUTS, sizeof(*clock), by_value);
	qsort(first, INPUTS, sizeof(*first), by_value);
	qsort(second, INPUTS, sizeof(*second), by_value);
	printf("# %6u policies: p50 %u ns, p99 %u ns; at one place more p50 %u ns, p99 %u ns; %u%% allowed\n", n,
	       at(first, 50) - at(clock, 50), at(first, 99) - at(clock, 50), at(second, 50) - at(clock, 50), at(second, 99) - at(clock, 50),
	       allowed * 100 / INPUTS);
}

static void cost_of(uint32_t n, struct policy_cost *ret)
{
	struct mixed *m = calloc(n, sizeof(*m));
	struct policy *p = calloc(n, sizeof(*p));
	struct rnd r = rnd_start("mix");
	struct policy_set *s;
	uint64_t t;

	assert_true(m && p);
	for (uint32_t i = 0; i < n; i++) {
		mixed_make(&m[i], i, &r);
		p[i] = m[i].p;
	}
	t = now_ns();
	assert_int_equal(policy_compile(p, n, LISTENERS, 1, rnd_u64(&r), &s, NULL), 0);
	t = now_ns() - t;
	policy_cost(s, ret);
	printf("# %6u policies: %u rules, %zu bytes each, %u look-ups, at most %u rules found by one, %u by none; compiled in %llu us\n",
	       n, ret->rules, ret->bytes / n, ret->lookups, ret->longest, ret->unindexed, (unsigned long long)t / 1000);
	measure(s, n, &r);
	policy_free(s);
	free(m);
	free(p);
}

static void many_policies_cost_what_few_do(void **state)
{
	struct policy_cost few, many;

	(void)state;
	cost_of(10, &few);
	cost_of(100, &few);
	cost_of(1000, &many);
	cost_of(10000, &many);
	assert_true(few.lookups <= 32 && many.lookups <= 32);
	assert_true(many.longest <= 48); /* ten thousand share 200 namespaces and 8 ports */
	assert_int_equal(many.unindexed, 0);
	assert_true(many.bytes / 10000 < 600);
}

/* whatever is configured, look-ups are bounded: combinations and lengths are given up */
static void strange_sets_are_bounded(void **state)
{
	enum { N = 4000 };
	struct mixed *m = calloc(N, sizeof(*m));
	struct policy *p = calloc(N, sizeof(*p));
	struct rnd r = rnd_start("strange");
	struct policy_cost cost;
	struct policy_set *s;

	(void)state;
	assert_true(m && p);
	for (uint32_t i = 0; i < N; i++) { /* prefixes of every length, networks of every length, in any combination */
		struct mixed *x = &m[i];

		mixed_make(x, i, &r);
		x->rule.n = 0;
		x->p.n_listeners = 1;
		x->p.everywhere = rnd_below(&r, 2);
		memset(x->words[0], 'a', 40);
		x->words[0][1 + rnd_below(&r, 39)] = '\0';
		add_text(x, (enum policy_field)rnd_below(&r, POLICY_METADATA), NULL, 1, false);
		x->text[0].kind = (enum policy_text_kind)rnd_below(&r, 3);
		add_net(x, &r, POLICY_SOURCE_IP, (uint8_t)(8 + rnd_below(&r, 25)));
		if (rnd_below(&r, 2))
			add_port(x, &r);
		p[i] = x->p;
	}
	assert_int_equal(policy_compile(p, N, LISTENERS, 1, rnd_u64(&r), &s, NULL), 0);
	policy_cost(s, &cost);
	printf("# strange: %u look-ups, at most %u rules found by one, %u by none\n", cost.lookups, cost.longest, cost.unindexed);
	measure(s, N, &r);
	assert_true(cost.lookups <= 320);
	policy_free(s);
	free(m);
	free(p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(many_policies_cost_what_few_do),
		cmocka_unit_test(strange_sets_are_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
