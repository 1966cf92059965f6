/*
 * Slots of one size with generations. A slot's address never changes; an index plus generation is a reference
 * that a late event may hold: slab_get() refuses it once the slot was freed. One thread.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

#define SLAB_CHUNK 64u	 /* slots per allocation */
#define SLAB_NONE UINT32_MAX

/* every object starts with this; written by slab.c only */
struct slab_head {
	uint32_t idx;
	uint16_t gen; /* odd while in use */
	uint16_t pad;
};

struct slab {
	size_t size;	 /* bytes per object, struct slab_head included */
	uint32_t limit;	 /* slots at the most */
	uint32_t slots;	 /* slots allocated so far */
	uint32_t used;
	uint32_t free;	 /* first free slot, chained; SLAB_NONE */
	uint8_t **chunk; /* slots / SLAB_CHUNK of them */
};

void slab_init(struct slab *s, size_t size, uint32_t limit);
void slab_finish(struct slab *s); /* frees memory whatever is still in use */
/** slab_alloc() - Return: a zeroed object (head filled in), or NULL at the limit or out of memory. */
void *slab_alloc(struct slab *s);
void slab_free(struct slab *s, void *obj);
/** slab_get() - Return: the object if @gen is still its generation, else NULL. */
void *slab_get(const struct slab *s, uint32_t idx, uint16_t gen);
/** slab_next() - walk: first in-use object with index >= *idx, or NULL; *idx becomes its index + 1. */
void *slab_next(const struct slab *s, uint32_t *idx);
