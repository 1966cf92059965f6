/* Memory that is given back all at once: chunks, bump allocation, no free of single pieces. One owner; zeroed is ready. */
#pragma once
#include <stddef.h>

struct arena_chunk;
struct arena {
	struct arena_chunk *chunks; /* newest first */
};

/** arena_alloc() - Return: @n zeroed bytes, aligned for any type, valid until arena_finish(); NULL: out of memory. */
void *arena_alloc(struct arena *a, size_t n);
/** arena_array() - the same for @n elements; NULL also when the product overflows. */
void *arena_array(struct arena *a, size_t n, size_t size);
/** arena_text() - a NUL-terminated copy of @n bytes. */
char *arena_text(struct arena *a, const char *s, size_t n);
void arena_finish(struct arena *a);
