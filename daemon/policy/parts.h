/* Values of a rule's matches as what can be looked up; while a set is being built. */
#pragma once
#include "policy/set.h"

#define SCOPE UINT16_MAX /* instead of a match: where the policy is asked */

/* one value of a match */
struct part {
	uint64_t hash;
	uint8_t type;
};
struct parts { /* reused; the owner frees p */
	struct part *p;
	uint32_t n, cap;
	bool failed; /* out of memory */
};

/** struct cutter - the lengths that prefixes, suffixes and networks are cut to */
struct cutter;
struct cutter *cutter_create(const struct policy_set *s); /* NULL: out of memory */
void cutter_destroy(struct cutter *c);
/**
 * parts_of() - the values of match @which of @cl, or of SCOPE; types are added to @s
 * Return: false: a rule cannot be found by this, or @to->failed.
 */
bool parts_of(struct policy_set *s, const struct cutter *c, const struct clause *cl, uint32_t which, struct parts *to);
