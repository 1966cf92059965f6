/* Slices: bytes that belong to somebody else. */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

struct slice {
	const char *p;
	size_t n;
};
#define SLICE(lit) ((struct slice){(lit), sizeof(lit) - 1})
static inline bool slice_is(struct slice s, const char *lit)
{
	return s.n == strlen(lit) && !memcmp(s.p, lit, s.n);
}
struct header {
	struct slice name, value; /* name is lower case */
};
