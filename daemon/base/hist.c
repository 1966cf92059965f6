/*
 * Log-linear histogram.
 *
 * Values below 16 have a slot each. Above, each power of two is cut in 16 equal steps, so a slot is at most 1/16 of its lower
 * bound wide. The slot's number is made of the exponent and the four bits behind the leading one; no search, no table.
 * There is one writer, so an increment is a relaxed load and store, not a locked instruction. A reader may see a count that
 * its slot does not show yet; so merging counts what it saw in the slots, and a merged histogram is consistent in itself.
 */
#include "base/hist.h"

#include <stdatomic.h>

#define HIST_SUB_BITS 4u

static unsigned int hist_slot(uint64_t v)
{
	unsigned int e;

	if (v < HIST_SUB)
		return (unsigned int)v;
	e = 63 - (unsigned int)__builtin_clzll(v);
	return (e - HIST_SUB_BITS + 1) * HIST_SUB + ((v >> (e - HIST_SUB_BITS)) & (HIST_SUB - 1));
}

static uint64_t hist_upper(unsigned int slot)
{
	unsigned int shift;

	if (slot < HIST_SUB)
		return slot;
	shift = slot / HIST_SUB - 1;
	return ((uint64_t)(HIST_SUB + slot % HIST_SUB + 1) << shift) - 1; /* the last one wraps to UINT64_MAX */
}

static uint64_t get(const _Atomic uint64_t *p)
{
	return atomic_load_explicit(p, memory_order_relaxed);
}

static void bump(_Atomic uint64_t *p, uint64_t n)
{
	atomic_store_explicit(p, get(p) + n, memory_order_relaxed);
}

void hist_add(struct hist *h, uint64_t v)
{
	bump(&h->slot[hist_slot(v)], 1);
	bump(&h->sum, v);
	bump(&h->count, 1);
}

void hist_merge(struct hist *to, const struct hist *from)
{
	uint64_t total = 0;

	for (unsigned int i = 0; i < HIST_SLOTS; i++) {
		uint64_t n = get(&from->slot[i]);

		if (n == 0)
			continue;
		bump(&to->slot[i], n);
		total += n;
	}
	bump(&to->count, total);
	bump(&to->sum, get(&from->sum));
}

uint64_t hist_quantile(const struct hist *h, double q)
{
	uint64_t total = 0, want, seen = 0;
	unsigned int i;

	for (i = 0; i < HIST_SLOTS; i++)
		total += get(&h->slot[i]);
	if (total == 0)
		return 0;
	if (!(q > 0)) /* NaN too */
		want = 1;
	else if (q >= 1)
		want = total;
	else
		want = (uint64_t)(q * (double)total) + 1;
	if (want > total)
		want = total;
	for (i = 0; i < HIST_SLOTS - 1; i++) {
		seen += get(&h->slot[i]);
		if (seen >= want)
			break;
	}
	return hist_upper(i);
}

uint64_t hist_below(const struct hist *h, uint64_t v)
{
	unsigned int last = hist_slot(v);
	uint64_t n = 0;

	for (unsigned int i = 0; i <= last; i++)
		n += get(&h->slot[i]);
	return n;
}
