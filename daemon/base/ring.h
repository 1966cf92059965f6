/*
 * Single-producer single-consumer rings. C11 atomics only (TSan can judge them).
 *   ring:   pointers; ownership moves with success.
 *   bytes:  variable-length records, contiguous, 8-byte aligned; the producer drops and counts when full.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct ring {
	_Atomic uint32_t head; /* producer */
	char pad0[60];
	_Atomic uint32_t tail; /* consumer */
	char pad1[60];
	uint32_t slots; /* power of two */
	void **slot;
};
int ring_init(struct ring *r, uint32_t slots); /* 0, -EINVAL (not a power of two), -ENOMEM */
void ring_finish(struct ring *r);
bool ring_push(struct ring *r, void *item); /* false: full, the caller still owns item */
void *ring_pop(struct ring *r);		    /* NULL: empty */

struct bytering {
	_Atomic uint64_t head;
	char pad0[56];
	_Atomic uint64_t tail;
	char pad1[56];
	_Atomic uint64_t dropped; /* records that found no room; producer writes */
	uint32_t size;		  /* bytes, power of two */
	uint8_t *mem;
};
int bytering_init(struct bytering *r, uint32_t size); /* 0, -EINVAL (not a power of two from 64), -ENOMEM */
void bytering_finish(struct bytering *r);
/**
 * bytering_reserve() - Return: @n contiguous bytes to fill, or NULL (full; counted); then bytering_commit(same n)
 * A record may take half of the ring, 8 bytes of header included: more would not fit at every position.
 */
void *bytering_reserve(struct bytering *r, uint32_t n);
void bytering_commit(struct bytering *r, uint32_t n);
/** bytering_peek() - Return: oldest record and its length, or NULL; valid until bytering_release(). */
const void *bytering_peek(struct bytering *r, uint32_t *ret_n);
void bytering_release(struct bytering *r);
/** bytering_used() - bytes in use now; any thread, approximate. */
uint64_t bytering_used(const struct bytering *r);
