/* Rates, classes of limits and overload in the configuration: every key reaches its member, defaults, mistakes with their places. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>

#include "config/config.h"

static struct config *good(const char *yaml)
{
	struct config *c = NULL;
	struct err e = {""};

	if (config_parse("t.yaml", yaml, strlen(yaml), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static void steps_are(const struct cfg_steps *s, uint32_t shrink, uint32_t close_idle, uint32_t refuse, uint32_t pause)
{
	assert_int_equal(s->shrink, shrink);
	assert_int_equal(s->close_idle, close_idle);
	assert_int_equal(s->refuse, refuse);
	assert_int_equal(s->pause, pause);
}

static void without_them_there_are_defaults(void **state)
{
	static const char *const same[] = {"", "limits:\noverload:\n", "limits: {principals: , sources: []}\noverload: {memory: , cpu: }\n"};

	(void)state;
	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
		struct config *c = good(same[i]);

		assert_int_equal(c->limits.n_principals + c->limits.n_sources, 0);
		assert_true(c->overload.enabled);
		steps_are(&c->overload.memory, 70, 80, 90, 95);
		steps_are(&c->overload.descriptors, 70, 80, 90, 95);
		assert_int_equal(c->overload.cpu_busy, 95);
		assert_int_equal(c->overload.cpu_refuse_ms, 250);
		assert_int_equal(c->overload.cpu_pause_ms, 2000);
		assert_int_equal(c->overload.idle_ms, 10000);
		config_free(c);
	}
}

static void rates_of_listeners_and_clusters(void **state)
{
	struct config *c = good("listeners:\n"
				"  - {name: a, type: tcp, address: '127.0.0.1:1', cluster: c, rate: {per_second: 50}}\n"
				"  - {name: b, type: tunnel, tls: false, address: '127.0.0.1:2', listener: i,\n"
				"     rate: {per_second: 1000000, burst: 1}, tunnel_rate: {per_second: 7, burst: 9}}\n"
				"  - {name: i, type: internal, cluster: c, rate: {burst: 3, per_second: 2}}\n"
				"clusters: [{name: c, type: tcp, endpoints: ['127.0.0.1:3'], rate: {per_second: 5, burst: 6}}]\n");

	(void)state;
	assert_int_equal(c->listeners[0].rate.per_second, 50);
	assert_int_equal(c->listeners[0].rate.burst, 50);
	assert_int_equal(c->listeners[0].tunnel_rate.per_second, 0);
	assert_int_equal(c->listeners[1].rate.per_second, 1000000);
	assert_int_equal(c->listeners[1].rate.burst, 1);
	assert_int_equal(c->listeners[1].tunnel_rate.per_second, 7);
	assert_int_equal(c->listeners[1].tunnel_rate.burst, 9);
	assert_int_equal(c->listeners[2].rate.per_second, 2);
	assert_int_equal(c->listeners[2].rate.burst, 3);
	assert_int_equal(c->clusters[0].rate.per_second, 5);
	assert_int_equal(c->clusters[0].rate.burst, 6);
	config_free(c);
}

static void classes_take_every_key(void **state)
{
	struct config *c = good("limits:\n"
				"  principals:\n"
				"    - {name: batch, match: ['spiffe://td/ns/batch/*', 'spiffe://td/x'], max_connections: 7, rate: {per_second: 3}, remember: 10}\n"
				"    - {match: 'spiffe://td/ns/*/sa/one'}\n"
				"    - {}\n"
				"  sources:\n"
				"    - {match: 10.0.0.0/8, max_connections: 2, ipv4_prefix: 24, ipv6_prefix: 48}\n"
				"    - {name: rest, rate: {per_second: 1, burst: 5}}\n");
	const struct cfg_quota *p = c->limits.principals, *s = c->limits.sources;

	(void)state;
	assert_int_equal(c->limits.n_principals, 3);
	assert_string_equal(p[0].name, "batch");
	assert_int_equal(p[0].n_ids, 2);
	assert_string_equal(p[0].ids[1], "spiffe://td/x");
	assert_int_equal(p[0].max_connections, 7);
	assert_int_equal(p[0].rate.per_second, 3);
	assert_int_equal(p[0].rate.burst, 3);
	assert_int_equal(p[0].remember, 10);
	assert_string_equal(p[1].name, "principals/1");
	assert_int_equal(p[1].max_connections, 0);
	assert_int_equal(p[1].rate.per_second, 0);
	assert_int_equal(p[1].remember, 4096);
	assert_int_equal(p[2].n_ids, 0);
	assert_int_equal(c->limits.n_sources, 2);
	assert_int_equal(s[0].n_from, 1);
	assert_int_equal(s[0].from[0].bits, 8);
	assert_int_equal(s[0].v4_bits, 24);
	assert_int_equal(s[0].v6_bits, 48);
	assert_string_equal(s[1].name, "rest");
	assert_int_equal(s[1].v4_bits, 32);
	assert_int_equal(s[1].v6_bits, 64);
	config_free(c);
}

static void overload_takes_every_key(void **state)
{
	struct config *c = good("overload:\n"
				"  enabled: false\n"
				"  memory: {shrink: 10%, close_idle: 20%, refuse: 30%, pause: 100%}\n"
				"  descriptors: \n");

	(void)state;
	assert_false(c->overload.enabled);
	steps_are(&c->overload.memory, 10, 20, 30, 100);
	config_free(c);
	c = good("overload: {descriptors: {shrink: off, close_idle: 90%}, cpu: {busy: 50%, refuse: 1s, pause: 0}, idle: 1m}\n");
	steps_are(&c->overload.descriptors, 0, 90, 90, 95);
	assert_int_equal(c->overload.cpu_busy, 50);
	assert_int_equal(c->overload.cpu_refuse_ms, 1000);
	assert_int_equal(c->overload.cpu_pause_ms, 0);
	assert_int_equal(c->overload.idle_ms, 60000);
	config_free(c);
}

static void mistakes_have_a_place_and_a_sentence(void **state)
{
	static const struct {
		const char *yaml, *want;
	} bad[] = {
		{"limits: {principals: 5}", "t.yaml:1:22: limits.principals: want a list, not"},
		{"limits: {principals: [{match: nobody}]}", "limits.principals[0]"},
		{"limits: {principals: [{match: []}]}", "is empty: nobody would match"},
		{"limits: {sources: [{match: []}]}", "is empty: nobody would match"},
		{"limits: {sources: [{match: 'spiffe://a/b'}]}", "limits.sources[0]"},
		{"limits: {principals: [{ipv6_prefix: 64}]}", "unknown key 'ipv6_prefix'"},
		{"limits: {sources: [{ipv6_prefix: 8}]}", "want a whole number from 16 to 128"},
		{"limits: {principals: [{name: a}, {name: a}]}", "name 'a' is taken"},
		{"limits: {principals: [{name: principals/1}, {}]}", "name 'principals/1' is taken"},
		{"limits: {principals: [{rate: {}}]}", "'per_second' is missing"},
		{"limits: {principals: [{rate: 5}]}", "want a mapping"},
		{"limits: {principals: [{rate: {per_second: 0}}]}", "want a whole number from 1 to 1000000"},
		{"limits: {principals: [{rate: {per_second: 1, burst: 0}}]}", "want a whole number from 1 to 1000000"},
		{"limits: {principals: [{remember: 0}]}", "want a whole number from 1 to 1000000"},
		{"overload: {memory: {shrink: 70}}", "'70': want a share from 1% to 100%, or off"},
		{"overload: {memory: {shrink: 0%}}", "want a share"},
		{"overload: {memory: {shrink: 101%}}", "want a share"},
		{"overload: {memory: {shrink: 5%%}}", "want a share"},
		{"overload: {memory: {shrink: [5%]}}", "want a share"},
		{"overload: {memory: {shrink: 85%}}", "close_idle (80%) comes before shrink (85%)"},
		{"overload: {memory: {pause: 50%}}", "pause (50%) comes before refuse (90%)"},
		{"overload: {disk: {}}", "unknown key 'disk'"},
		{"overload: {cpu: {shrink: 5%}}", "unknown key 'shrink'"},
		{"overload: {idle: 0}", "overload.idle"},
		{"clusters: [{name: c, type: tcp, endpoints: ['127.0.0.1:3'], tunnel_rate: {per_second: 1}}]", "unknown key 'tunnel_rate'"},
		{"listeners: [{name: a, type: tcp, address: '127.0.0.1:1', cluster: c, tunnel_rate: {per_second: 1}}]\n"
		 "clusters: [{name: c, type: tcp, endpoints: ['127.0.0.1:3']}]", "'tunnel_rate' is for tunnel listeners"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++) {
		struct config *c = NULL;
		struct err e = {""};

		if (config_parse("t.yaml", bad[i].yaml, strlen(bad[i].yaml), &c, &e) >= 0)
			fail_msg("%s: is taken", bad[i].yaml);
		if (strncmp(e.msg, "t.yaml:1:", 9) != 0 || !strstr(e.msg, bad[i].want))
			fail_msg("%s: \"%s\", without \"%s\"", bad[i].yaml, e.msg, bad[i].want);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_them_there_are_defaults),
		cmocka_unit_test(rates_of_listeners_and_clusters),
		cmocka_unit_test(classes_take_every_key),
		cmocka_unit_test(overload_takes_every_key),
		cmocka_unit_test(mistakes_have_a_place_and_a_sentence),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
