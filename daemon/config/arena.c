/*
 * Bump allocation in chunks that double up to a limit. A configuration is built once and freed as a whole, so single pieces
 * need no bookkeeping; a piece larger than a chunk gets a chunk of its own.
 */
#include "config/arena.h"
#include <stdalign.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK_MIN 4096u
#define CHUNK_MAX (256u * 1024)

struct arena_chunk {
	struct arena_chunk *next;
	size_t used, size; /* bytes of data */
	alignas(max_align_t) char data[];
};

void *arena_alloc(struct arena *a, size_t n)
{
	const size_t align = alignof(max_align_t);
	struct arena_chunk *c = a->chunks;
	size_t size;
	void *p;

	if (n > SIZE_MAX / 2)
		return NULL;
	n = n ? (n + align - 1) / align * align : align;
	if (!c || c->size - c->used < n) {
		size = c ? c->size * 2 : CHUNK_MIN;
		if (size > CHUNK_MAX)
			size = CHUNK_MAX;
		if (size < n)
			size = n;
		c = calloc(1, sizeof(*c) + size);
		if (!c)
			return NULL;
		c->size = size;
		c->next = a->chunks;
		a->chunks = c;
	}
	p = c->data + c->used;
	c->used += n;
	return p;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
	size_t all;

	if (__builtin_mul_overflow(n, size, &all))
		return NULL;
	return arena_alloc(a, all);
}

char *arena_text(struct arena *a, const char *s, size_t n)
{
	char *p = arena_alloc(a, n + 1);

	if (p)
		memcpy(p, s, n);
	return p;
}

void arena_finish(struct arena *a)
{
	struct arena_chunk *c, *next;

	for (c = a->chunks; c; c = next) {
		next = c->next;
		free(c);
	}
	a->chunks = NULL;
}
