/*
 * Single-producer single-consumer rings.
 *
 * head and tail only ever go up; position is their value modulo the size, a power of two, and head - tail is what is in use,
 * also when they wrap. The producer publishes with a release store of head that the consumer acquires: it sees the item's
 * content. The consumer gives room back with a release store of tail that the producer acquires: what it overwrites was read.
 *
 * Byte ring: each record is an 8-byte header with its length, then the bytes, rounded up to 8. A record that does not fit in
 * front of the ring's end starts at its beginning, and a header with SKIP fills the gap. Both are published by one
 * commit; the producer finds the record's place again by the same arithmetic, so nothing is kept between reserve and commit.
 */
#include "base/ring.h"

#include <assert.h>
#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

static bool power_of_two(uint32_t n)
{
	return n && !(n & (n - 1));
}

int ring_init(struct ring *r, uint32_t slots)
{
	*r = (struct ring){.slots = slots};
	if (!power_of_two(slots))
		return -EINVAL;
	r->slot = calloc(slots, sizeof(*r->slot));
	return r->slot ? 0 : -ENOMEM;
}

void ring_finish(struct ring *r)
{
	free(r->slot);
	*r = (struct ring){0};
}

bool ring_push(struct ring *r, void *item)
{
	uint32_t h = atomic_load_explicit(&r->head, memory_order_relaxed);

	assert(item);
	if (h - atomic_load_explicit(&r->tail, memory_order_acquire) == r->slots)
		return false;
	r->slot[h & (r->slots - 1)] = item;
	atomic_store_explicit(&r->head, h + 1, memory_order_release);
	return true;
}

void *ring_pop(struct ring *r)
{
	uint32_t t = atomic_load_explicit(&r->tail, memory_order_relaxed);
	void *item;

	if (t == atomic_load_explicit(&r->head, memory_order_acquire))
		return NULL;
	item = r->slot[t & (r->slots - 1)];
	atomic_store_explicit(&r->tail, t + 1, memory_order_release);
	return item;
}

#define HEADER	 8u
#define SKIP	 UINT32_MAX /* as length: the next record is at the ring's beginning */
#define SIZE_MIN 64u

/* Return: bytes that a record of n bytes takes, header included. */
static uint64_t record_bytes(uint32_t n)
{
	return HEADER + (((uint64_t)n + 7) & ~UINT64_C(7));
}

/* Return: bytes to skip so that @need bytes from there are contiguous. */
static uint32_t gap_at(const struct bytering *r, uint64_t at, uint64_t need)
{
	uint32_t to_end = r->size - (uint32_t)(at & (r->size - 1));

	return need > to_end ? to_end : 0;
}

static uint8_t *place(const struct bytering *r, uint64_t at)
{
	return r->mem + (at & (r->size - 1));
}

static void header_write(uint8_t *p, uint32_t n)
{
	memcpy(p, &n, sizeof(n));
}

static uint32_t header_read(const uint8_t *p)
{
	uint32_t n;

	memcpy(&n, p, sizeof(n));
	return n;
}

int bytering_init(struct bytering *r, uint32_t size)
{
	*r = (struct bytering){.size = size};
	if (!power_of_two(size) || size < SIZE_MIN)
		return -EINVAL;
	r->mem = malloc(size);
	return r->mem ? 0 : -ENOMEM;
}

void bytering_finish(struct bytering *r)
{
	free(r->mem);
	*r = (struct bytering){0};
}

void *bytering_reserve(struct bytering *r, uint32_t n)
{
	uint64_t h = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint64_t t = atomic_load_explicit(&r->tail, memory_order_acquire);
	uint64_t need = record_bytes(n);
	uint32_t gap = gap_at(r, h, need);

	if (need > r->size / 2 || gap + need > r->size - (h - t)) {
		uint64_t d = atomic_load_explicit(&r->dropped, memory_order_relaxed);

		atomic_store_explicit(&r->dropped, d + 1, memory_order_relaxed);
		return NULL;
	}
	if (gap)
		header_write(place(r, h), SKIP);
	header_write(place(r, h + gap), n);
	return place(r, h + gap) + HEADER;
}

void bytering_commit(struct bytering *r, uint32_t n)
{
	uint64_t h = atomic_load_explicit(&r->head, memory_order_relaxed);
	uint64_t need = record_bytes(n);

	atomic_store_explicit(&r->head, h + gap_at(r, h, need) + need, memory_order_release);
}

const void *bytering_peek(struct bytering *r, uint32_t *ret_n)
{
	uint64_t t = atomic_load_explicit(&r->tail, memory_order_relaxed);

	if (t == atomic_load_explicit(&r->head, memory_order_acquire))
		return NULL;
	if (header_read(place(r, t)) == SKIP) {
		t += r->size - (t & (r->size - 1));
		atomic_store_explicit(&r->tail, t, memory_order_release);
	}
	*ret_n = header_read(place(r, t));
	return place(r, t) + HEADER;
}

void bytering_release(struct bytering *r)
{
	uint64_t t = atomic_load_explicit(&r->tail, memory_order_relaxed);

	atomic_store_explicit(&r->tail, t + record_bytes(header_read(place(r, t))), memory_order_release);
}

uint64_t bytering_used(const struct bytering *r)
{
	uint64_t t = atomic_load_explicit(&r->tail, memory_order_acquire); /* first: so head is not older */
	uint64_t used = atomic_load_explicit(&r->head, memory_order_relaxed) - t;

	return used < r->size ? used : r->size;
}
