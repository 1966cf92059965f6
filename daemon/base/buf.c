/*
 * Byte queue.
 *
 *   data        off              off+len           cap
 *    | taken     | waiting        | room            |
 *
 * Most queues are filled and emptied within one loop turn, so the memory is given back as soon as nothing waits. A queue that
 * does not drain moves what waits to the front instead of growing, but only when at least half as much has been taken
 * since: a long queue that is nibbled at would otherwise be copied whole for every append. So each byte is moved a bounded
 * number of times, and the capacity stays below four times what waits at the most (or BUF_MIN).
 */
#include "base/buf.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#define BUF_MIN 256u		    /* bytes; the first allocation */
#define BUF_MAX (UINT32_C(1) << 31) /* bytes; the greatest power of two that fits cap */

static bool buf_reserve(struct buf *b, size_t n)
{
	uint64_t cap = b->cap ? 2ull * b->cap : BUF_MIN;
	uint8_t *p;

	if (n <= b->cap - b->off - b->len)
		return true;
	if (n <= b->cap - b->len && b->off >= b->len / 2) {
		memmove(b->data, b->data + b->off, b->len);
		b->off = 0;
		return true;
	}
	if (n > BUF_MAX - b->len)
		return false;
	while (cap < b->len + n)
		cap *= 2;
	if (cap > BUF_MAX)
		return false;
	p = malloc(cap);
	if (!p)
		return false;
	if (b->len)
		memcpy(p, b->data + b->off, b->len);
	free(b->data);
	b->data = p;
	b->off = 0;
	b->cap = (uint32_t)cap;
	return true;
}

int buf_append(struct buf *b, const void *p, size_t n)
{
	if (n == 0)
		return 0;
	if (!buf_reserve(b, n))
		return -ENOMEM;
	memcpy(b->data + b->off + b->len, p, n);
	b->len += (uint32_t)n;
	return 0;
}

uint8_t *buf_room(struct buf *b, size_t n)
{
	if (!buf_reserve(b, n ? n : 1))
		return NULL;
	return b->data + b->off + b->len;
}

void buf_added(struct buf *b, size_t n)
{
	assert(n <= b->cap - b->off - b->len);
	b->len += (uint32_t)n;
	if (b->len == 0) /* asked for room, had nothing to write */
		buf_finish(b);
}

void buf_take(struct buf *b, size_t n)
{
	assert(n <= b->len);
	b->off += (uint32_t)n;
	b->len -= (uint32_t)n;
	if (b->len == 0)
		buf_finish(b);
}

void buf_finish(struct buf *b)
{
	free(b->data);
	*b = (struct buf){0};
}
