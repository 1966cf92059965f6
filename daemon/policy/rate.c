/*
 * A token bucket as the generic cell rate algorithm has it (ITU-T I.371, annex A): instead of a number of tokens and the time when they were
 * counted, which two threads could not change together without a lock, one point in time is kept, T. A token costs an interval, 1 s / rate:
 *
 *	missing from a full bucket = max(T - now, 0)
 *	a token may be taken while missing + interval <= burst * interval; then T = max(T, now) + interval
 *
 * That is one compare-and-swap, and exact: over any time t no more than burst + t * rate are let through, by all threads together. Time is
 * counted in sixteenths of a nanosecond, so that the interval of the highest rate is rounded by 1/32000 at the most; 64 bits of them last for
 * 36 years of uptime.
 *
 * When a configuration is replaced the bucket stays. A T that lies further ahead than the new burst reaches (it was made by a slow rate with
 * a large burst) is pulled in, so that nobody waits for what an old configuration has cost. Not if it is further by less than a second: that
 * is another thread whose clock (the beginning of its turn) is ahead of ours.
 */
#include "policy/rate.h"
#include "base/clean.h"

#define UNITS_PER_US (RATE_SECOND / 1000000u)

static uint64_t interval(struct rate_limit l)
{
	return (RATE_SECOND + l.per_second / 2) / l.per_second;
}

/* how far ahead of now T may be */
static uint64_t depth(struct rate_limit l)
{
	return interval(l) * l.burst;
}

static uint64_t missing(const struct rate *r, struct rate_limit l, uint64_t now)
{
	uint64_t t = atomic_load_explicit(&r->full_at, memory_order_relaxed);

	return t > now ? min_u64(t - now, depth(l)) : 0;
}

bool rate_take(struct rate *r, struct rate_limit l, uint64_t now_us)
{
	uint64_t now = now_us * UNITS_PER_US, t = atomic_load_explicit(&r->full_at, memory_order_relaxed), base;

	if (!l.per_second)
		return true;
	for (;;) {
		base = max_u64(t, now);
		if (base - now > depth(l) + RATE_SECOND) { /* of an older configuration */
			if (atomic_compare_exchange_weak_explicit(&r->full_at, &t, now + depth(l), memory_order_relaxed,
								  memory_order_relaxed))
				return false;
			continue;
		}
		if (base - now + interval(l) > depth(l))
			return false;
		if (atomic_compare_exchange_weak_explicit(&r->full_at, &t, base + interval(l), memory_order_relaxed, memory_order_relaxed))
			return true;
	}
}

uint32_t rate_left(const struct rate *r, struct rate_limit l, uint64_t now_us)
{
	if (!l.per_second)
		return l.burst;
	return (uint32_t)((depth(l) - missing(r, l, now_us * UNITS_PER_US)) / interval(l));
}

uint64_t rate_wait_us(const struct rate *r, struct rate_limit l, uint64_t now_us)
{
	uint64_t m;

	if (!l.per_second)
		return 0;
	m = missing(r, l, now_us * UNITS_PER_US) + interval(l);
	return m > depth(l) ? (m - depth(l) + UNITS_PER_US - 1) / UNITS_PER_US : 0;
}
