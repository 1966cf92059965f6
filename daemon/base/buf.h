/*
 * A byte queue of one owner: append at the end, take from the front, memory returned when empty.
 * Not thread-safe; zeroed is ready; buf_finish() accepts zeroed.
 */
#pragma once
#include <stddef.h>
#include <stdint.h>

struct buf {
	uint8_t *data; /* malloc'd, NULL while empty and released */
	uint32_t off;  /* bytes already taken from the front */
	uint32_t len;  /* bytes waiting, from off */
	uint32_t cap;
};

static inline uint8_t *buf_at(const struct buf *b)
{
	return b->data + b->off;
}

/** buf_append() - copy @n bytes to the end. Return: 0 or -ENOMEM (nothing appended). */
int buf_append(struct buf *b, const void *p, size_t n);
/**
 * buf_room() - make room for @n bytes at the end and return where to write them, or NULL
 * Then buf_added() with what was written; 0 gives the memory of an empty queue back.
 */
uint8_t *buf_room(struct buf *b, size_t n);
void buf_added(struct buf *b, size_t n);
/** buf_take() - drop @n (<= len) bytes from the front; memory is freed when the queue gets empty. */
void buf_take(struct buf *b, size_t n);
void buf_finish(struct buf *b);
