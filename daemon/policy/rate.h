/*
 * How often something may happen: a token bucket that is one number, shared by all threads. Pure but for that number; any thread.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#define RATE_MAX 1000000u	/* per second; also of the burst */
#define RATE_SECOND 16000000000u /* units of time per second: a sixteenth of a nanosecond */

/** struct rate - a bucket; zeroed memory is a full one */
struct rate {
	_Atomic uint64_t full_at; /* units of time (RATE_SECOND) since CLOCK_MONOTONIC began: then it will be full again */
};

/** struct rate_limit - what a bucket is measured with; per_second 0: no limit. A change takes effect with the next call. */
struct rate_limit {
	uint32_t per_second; /* 1 .. RATE_MAX */
	uint32_t burst;	     /* tokens of a full bucket, 1 .. RATE_MAX */
};

/** rate_take() - one token, at @now_us (CLOCK_MONOTONIC; threads may differ by a little). Return: was there one? */
bool rate_take(struct rate *r, struct rate_limit l, uint64_t now_us);
/** rate_left() - whole tokens in the bucket at @now_us; the burst when there is no limit */
uint32_t rate_left(const struct rate *r, struct rate_limit l, uint64_t now_us);
/** rate_wait_us() - until there is a token again; 0: there is one */
uint64_t rate_wait_us(const struct rate *r, struct rate_limit l, uint64_t now_us);
