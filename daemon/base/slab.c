/*
 * Slots with generations.
 *
 * Slots come in chunks that are never moved or returned, so an object's address is good for the slab's life. The generation
 * goes up by one on each alloc and each free: odd means in use, and 65535 + 1 = 0 keeps that true when it wraps. Slots never
 * used have generation 0, so no reference is ever all zero. A freed slot keeps its head; the index of the next free slot is
 * written behind it. With AddressSanitizer, the rest of a free slot is poisoned: late use of a freed object is seen although
 * its memory stays allocated.
 */
#include "base/slab.h"

#include <assert.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#if __has_include(<sanitizer/asan_interface.h>)
#include <sanitizer/asan_interface.h> /* both macros are empty without AddressSanitizer */
#else
#define ASAN_POISON_MEMORY_REGION(p, n)	  ((void)(p), (void)(n))
#define ASAN_UNPOISON_MEMORY_REGION(p, n) ((void)(p), (void)(n))
#endif

#define SLAB_ALIGN 16u /* bytes, as malloc */

struct slab_free_slot {
	struct slab_head head;
	uint32_t next;
	uint32_t pad;
};
static_assert(sizeof(struct slab_free_slot) == SLAB_ALIGN, "fits the smallest slot, and whole shadow bytes");

static struct slab_head *slab_at(const struct slab *s, uint32_t idx)
{
	return (struct slab_head *)(s->chunk[idx / SLAB_CHUNK] + (idx % SLAB_CHUNK) * s->size);
}

static bool slab_in_use(const struct slab_head *h)
{
	return h->gen & 1;
}

static void slab_put(struct slab *s, struct slab_head *h)
{
	struct slab_free_slot *f = (struct slab_free_slot *)h;

	f->next = s->free;
	s->free = h->idx;
	ASAN_POISON_MEMORY_REGION(f + 1, s->size - sizeof(*f));
}

static bool slab_grow(struct slab *s)
{
	uint32_t at = s->slots / SLAB_CHUNK;
	uint32_t n = s->limit - s->slots < SLAB_CHUNK ? s->limit - s->slots : SLAB_CHUNK;
	uint8_t **list;
	uint8_t *chunk;

	if (n == 0)
		return false;
	list = realloc(s->chunk, (at + 1) * sizeof(*list));
	if (!list)
		return false;
	s->chunk = list;
	chunk = malloc(n * s->size);
	if (!chunk)
		return false;
	s->chunk[at] = chunk;
	while (n--) { /* backwards: the lowest index is taken first */
		struct slab_head *h = (struct slab_head *)(chunk + n * s->size);

		*h = (struct slab_head){.idx = at * SLAB_CHUNK + n};
		slab_put(s, h);
		s->slots++;
	}
	return true;
}

void slab_init(struct slab *s, size_t size, uint32_t limit)
{
	assert(size >= sizeof(struct slab_head));
	*s = (struct slab){
		.size = (size + SLAB_ALIGN - 1) & ~(size_t)(SLAB_ALIGN - 1),
		.limit = limit,
		.free = SLAB_NONE,
	};
}

void slab_finish(struct slab *s)
{
	for (uint32_t i = 0; i < s->slots; i += SLAB_CHUNK)
		free(s->chunk[i / SLAB_CHUNK]);
	free(s->chunk);
	*s = (struct slab){.free = SLAB_NONE};
}

void *slab_alloc(struct slab *s)
{
	struct slab_free_slot *f;
	struct slab_head *h;

	if (s->free == SLAB_NONE && !slab_grow(s))
		return NULL;
	h = slab_at(s, s->free);
	f = (struct slab_free_slot *)h;
	s->free = f->next;
	ASAN_UNPOISON_MEMORY_REGION(f + 1, s->size - sizeof(*f));
	memset(h + 1, 0, s->size - sizeof(*h));
	h->gen++;
	s->used++;
	return h;
}

void slab_free(struct slab *s, void *obj)
{
	struct slab_head *h = obj;

	if (!h)
		return;
	assert(h->idx < s->slots && slab_at(s, h->idx) == h);
	assert(slab_in_use(h));
	h->gen++;
	s->used--;
	slab_put(s, h);
}

void *slab_get(const struct slab *s, uint32_t idx, uint16_t gen)
{
	struct slab_head *h;

	if (idx >= s->slots)
		return NULL;
	h = slab_at(s, idx);
	return slab_in_use(h) && h->gen == gen ? h : NULL;
}

void *slab_next(const struct slab *s, uint32_t *idx)
{
	while (*idx < s->slots) {
		struct slab_head *h = slab_at(s, (*idx)++);

		if (slab_in_use(h))
			return h;
	}
	return NULL;
}
