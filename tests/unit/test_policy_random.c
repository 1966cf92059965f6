/*
 * The compiled form against the words: random policies, random inputs, at every listener and cluster. Small sets meet the corners of the
 * semantics, large ones those of the index (cut prefixes, combinations given up, rules in many places).
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include "policy_random.h"
#include "rand.h"

struct random_picker {
	struct picker p;
	struct rnd r;
};

static uint32_t random_below(struct picker *p, uint32_t n)
{
	return (uint32_t)rnd_below(&((struct random_picker *)p)->r, n);
}

/* of so many sets with up to @policies policies each, @inputs inputs each; a few sets have none at all */
static void compare(const char *what, uint32_t words, uint32_t sets, uint32_t policies, uint32_t inputs)
{
	struct random_picker rp = {{random_below, words}, rnd_start(what)};
	uint64_t asked = 0, denied = 0, by_default = 0, dry = 0;
	struct r_input in;

	for (uint32_t i = 0; i < sets; i++) {
		uint64_t seed = rp.r.s;
		struct r_set set = r_set_make(&rp.p, pick(&rp.p, policies + 1));
		struct policy_set *s = NULL;
		struct err e = {{0}};

		assert_true(set.p && set.r);
		if (policy_compile(set.p, set.n, R_LISTENERS, R_CLUSTERS, rnd_u64(&rp.r), &s, &e) < 0)
			fail_msg("%s", e.msg);
		for (uint32_t k = 0; k < inputs; k++) {
			struct policy_verdict v;
			const char *wrong;

			r_input(&rp.p, &in);
			wrong = r_compare(&set, s, &in.in);
			if (wrong)
				fail_msg("set %u of %u policies, input %u: %s (TEST_SEED=0x%llx repeats it from this set on)", i, set.n, k, wrong,
					 (unsigned long long)seed);
			naive_decide(set.p, set.n, &in.in, POLICY_AT_LISTENER, 0, &v);
			asked++;
			denied += !v.allowed;
			by_default += !v.allowed && v.policy == POLICY_NONE;
			dry += v.n_dry || v.dry_default;
		}
		policy_free(s);
		r_set_free(&set);
	}
	printf("# %s: %llu inputs; at one listener %llu denied, %llu of them by default, %llu told by dry run\n", what,
	       (unsigned long long)asked, (unsigned long long)denied, (unsigned long long)by_default, (unsigned long long)dry);
	assert_true(denied > asked / 20 && denied < asked - asked / 20 && by_default && dry > asked / 50);
}

#if defined(ADIT_SAN_asan) || defined(ADIT_SAN_tsan) || defined(ADIT_SAN_ubsan)
#define SCALE 8u
#else
#define SCALE 1u
#endif

static void small_sets_decide_as_the_words_say(void **state)
{
	(void)state;
	compare("small", 1, 16000 / SCALE, 6, 8);
}

static void large_sets_decide_as_the_words_say(void **state)
{
	(void)state;
	compare("large", 8, 120 / SCALE, 400, 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(small_sets_decide_as_the_words_say),
		cmocka_unit_test(large_sets_decide_as_the_words_say),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
