/*
 * Log-linear histogram: 64 powers of two x 16 steps, error below 6.25 %. One writer thread (relaxed atomics), any reader.
 */
#pragma once
#include <stdint.h>

#define HIST_SUB 16u
#define HIST_SLOTS (61u * HIST_SUB)

struct hist {
	_Atomic uint64_t count, sum;
	_Atomic uint64_t slot[HIST_SLOTS];
};

void hist_add(struct hist *h, uint64_t v);
/** hist_merge() - add @from to @to; @to belongs to the caller alone. */
void hist_merge(struct hist *to, const struct hist *from);
/** hist_quantile() - @q in 0..1; Return: upper bound of the slot, 0 when empty. */
uint64_t hist_quantile(const struct hist *h, double q);
/** hist_below() - Return: how many values were <= @v (slot resolution); for Prometheus buckets. */
uint64_t hist_below(const struct hist *h, uint64_t v);
