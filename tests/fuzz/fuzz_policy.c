/*
 * Policies and inputs made from any bytes: the compiled set must decide and explain as the evaluator of tests/unit/policy_random.h does.
 * The first byte says how many policies, the second how many inputs; the others are choices, zeros when they run out. Sets are small here;
 * large ones are test_policy_random.c's.
 */
/* fuzz: -max_len=4096 */
#include "unit/policy_random.h"

struct byte_picker {
	struct picker p;
	const uint8_t *at, *end;
};

static uint32_t byte_below(struct picker *p, uint32_t n)
{
	struct byte_picker *b = (struct byte_picker *)p;
	uint32_t v = b->at < b->end ? *b->at++ : 0;

	if (n > 256)
		v = v << 8 | (b->at < b->end ? *b->at++ : 0);
	return v % n;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct byte_picker b = {{byte_below, 1}, data, data + size};
	uint32_t n = pick(&b.p, 12), inputs = 1 + pick(&b.p, 3);
	struct r_set set;
	struct policy_set *s;
	struct r_input in;
	struct err e = {{0}};

	set = r_set_make(&b.p, n);
	if (policy_compile(set.p, n, R_LISTENERS, R_CLUSTERS, size, &s, &e) < 0) {
		fprintf(stderr, "broken promise: %s\n", e.msg);
		abort();
	}
	for (uint32_t i = 0; i < inputs; i++) {
		const char *wrong;

		r_input(&b.p, &in);
		wrong = r_compare(&set, s, &in.in);
		if (wrong) {
			fprintf(stderr, "broken promise: %s\n", wrong);
			abort();
		}
	}
	policy_free(s);
	r_set_free(&set);
	return 0;
}
