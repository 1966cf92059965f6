/* SPIFFE ids and the patterns that accept them. */
#include "../../daemon/codec/spiffe.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include "rand.h"

static bool is(struct slice s, const char *text)
{
	return slice_is(s, text);
}

static int parse(const char *s, struct spiffe *id)
{
	return spiffe_parse(s, strlen(s), id, NULL);
}

static void ids_are_taken_apart(void **state)
{
	struct spiffe id;

	(void)state;
	assert_int_equal(parse("spiffe://cluster.local/ns/shop/sa/web", &id), 0);
	assert_true(is(id.trust_domain, "cluster.local"));
	assert_true(is(id.path, "ns/shop/sa/web"));
	assert_true(is(id.ns, "shop"));
	assert_true(is(id.sa, "web"));
	assert_int_equal(parse("spiffe://td/a/B_c.d-9", &id), 0);
	assert_true(is(id.path, "a/B_c.d-9"));
	assert_int_equal(id.ns.n, 0);
	assert_int_equal(parse("spiffe://td", &id), 0); /* a trust domain's own */
	assert_true(is(id.trust_domain, "td"));
	assert_int_equal(id.path.n, 0);
	assert_int_equal(parse("spiffe://td/ns/a/sa/b/more", &id), 0);
	assert_int_equal(id.ns.n, 0); /* exactly five parts, or it is no workload of Istio's form */
	assert_int_equal(parse("spiffe://td/sa/a/ns/b", &id), 0);
	assert_int_equal(id.sa.n, 0);
	assert_int_equal(parse("spiffe://td/ns/a/sa", &id), 0);
	assert_int_equal(id.ns.n, 0);
	assert_int_equal(parse("spiffe://td/...", &id), 0);
}

static void malformed_ids_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		"spiffe",
		"spiffe:/td/a",
		"spiffe://",
		"spiffe:///a",
		"SPIFFE://td/a",
		"http://td/a",
		" spiffe://td/a",
		"spiffe://TD/a",
		"spiffe://td:80/a",
		"spiffe://u@td/a",
		"spiffe://td?x=1",
		"spiffe://td#f",
		"spiffe://t d/a",
		"spiffe://td/",
		"spiffe://td//a",
		"spiffe://td/a/",
		"spiffe://td/a//b",
		"spiffe://td/.",
		"spiffe://td/a/../b",
		"spiffe://td/a?b",
		"spiffe://td/a#b",
		"spiffe://td/a%20b",
		"spiffe://td/a b",
		"spiffe://td/*",
		"spiffe://td/\xc3\xa4",
		"spiffe://td/a:b",
		"spiffe://td\\a",
		"spiffe://td/a\\b",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct spiffe id, before;
		struct err e = {{0}};

		memset(&id, 0x5a, sizeof(id));
		before = id;
		if (spiffe_parse(bad[i], strlen(bad[i]), &id, &e) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		assert_memory_equal(&id, &before, sizeof(id));
		assert_non_null(strstr(e.msg, "SPIFFE id \""));
	}
	assert_int_equal(spiffe_parse("spiffe://td/a\0b", 15, &(struct spiffe){0}, NULL), -EINVAL);
}

static void lengths_are_bounded(void **state)
{
	static char s[SPIFFE_MAX + 2];
	struct spiffe id;

	(void)state;
	memset(s, 'a', sizeof(s));
	memcpy(s, "spiffe://td/", 12);
	assert_int_equal(spiffe_parse(s, SPIFFE_MAX, &id, NULL), 0);
	assert_int_equal(spiffe_parse(s, SPIFFE_MAX + 1, &id, NULL), -EINVAL);
	memset(s, 'a', sizeof(s));
	memcpy(s, "spiffe://", 9);
	assert_int_equal(spiffe_parse(s, 9 + 255, &id, NULL), 0);
	assert_int_equal(spiffe_parse(s, 9 + 256, &id, NULL), -EINVAL);
}

static void patterns_match_what_they_say(void **state)
{
	static const struct {
		const char *pattern, *id;
		bool yes;
	} t[] = {
		{"spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/b", true},
		{"spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/bb", false},
		{"spiffe://td/ns/a/sa/b", "spiffe://td/ns/a/sa/", false},
		{"spiffe://td/ns/a/sa/b", "SPIFFE://td/ns/a/sa/b", false},
		{"*", "spiffe://td/a", true},
		{"*", "", false},
		{"", "", false},
		{"", "spiffe://td", false},
		{"spiffe://td/*", "spiffe://td/ns/a/sa/b", true}, /* at the end: any number of segments */
		{"spiffe://td/*", "spiffe://td/", true},
		{"spiffe://td/*", "spiffe://td", false},
		{"spiffe://td/*", "spiffe://tdx/a", false},
		{"spiffe://td*", "spiffe://td.evil/a", true}, /* as written */
		{"spiffe://td/ns/a/*", "spiffe://td/ns/ab/sa/b", false},
		{"*/sa/b", "spiffe://td/ns/a/sa/b", true},
		{"*/sa/b", "spiffe://td/ns/a/sa/bb", false},
		{"*b", "b", true},
		{"*b", "a", false},
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/b", true},
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/b/sa/c", false}, /* one segment each */
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/b/c", false},
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/", false},
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns//sa/b", false},
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa/b/", false}, /* an empty one behind it */
		{"spiffe://td/ns/*/sa/*", "spiffe://td/ns/a/sa", false},
		{"spiffe://td/ns/*/sa/b", "spiffe://td/ns/a/sa/b", true},
		{"spiffe://td/ns/*/sa/b", "spiffe://td/ns/a/sa/c", false},
		{"spiffe://*/ns/a/sa/b", "spiffe://td/ns/a/sa/b", true},
		{"spiffe://td/ns/a*/sa/b", "spiffe://td/ns/ab/sa/b", false}, /* not a whole segment: no wildcard */
		{"*td*", "spiffe://td/a", false},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(t) / sizeof(t[0]); i++)
		if (spiffe_match(t[i].pattern, t[i].id, strlen(t[i].id)) != t[i].yes)
			fail_msg("'%s' and '%s': want %d", t[i].pattern, t[i].id, t[i].yes);
	/* an id with a NUL inside is not the one before the NUL */
	assert_false(spiffe_match("spiffe://td/a", "spiffe://td/a\0b", 15));
	assert_false(spiffe_match("*/a", "spiffe://td/a\0b", 15));
}

static unsigned int pick(struct rnd *r)
{
	return (unsigned int)rnd_below(r, 3);
}

static void every_id_matches_itself_and_its_generalisations(void **state)
{
	struct rnd r;

	(void)state;
	r = rnd_start(__func__);
	for (int i = 0; i < 20000; i++) {
		char id[64], other[64], pattern[80];
		size_t n = (size_t)snprintf(id, sizeof(id), "spiffe://td%u/ns/n%u/sa/s%u", pick(&r), pick(&r),
					    pick(&r));
		size_t m = (size_t)snprintf(other, sizeof(other), "spiffe://td%u/ns/n%u/sa/s%u", pick(&r), pick(&r),
					    pick(&r));
		size_t cut = rnd_below(&r, n + 1);

		assert_int_equal(spiffe_match(id, other, m), n == m && !memcmp(id, other, n));
		snprintf(pattern, sizeof(pattern), "%.*s*", (int)cut, id);
		assert_true(spiffe_match(pattern, id, n));
		assert_int_equal(spiffe_match(pattern, other, m), m >= cut && !memcmp(id, other, cut));
		snprintf(pattern, sizeof(pattern), "*%s", id + cut);
		assert_true(spiffe_match(pattern, id, n));
		assert_int_equal(spiffe_match(pattern, other, m),
				 m >= n - cut && !memcmp(id + cut, other + m - (n - cut), n - cut));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(ids_are_taken_apart),
		cmocka_unit_test(malformed_ids_are_refused),
		cmocka_unit_test(lengths_are_bounded),
		cmocka_unit_test(patterns_match_what_they_say),
		cmocka_unit_test(every_id_matches_itself_and_its_generalisations),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
