#pragma once
/*
 * Random tests: a fresh seed for each run, printed; TEST_SEED=n in the environment repeats a run.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

struct rnd {
	uint64_t s;
};

static inline struct rnd rnd_start(const char *what)
{
	const char *env = getenv("TEST_SEED");
	struct timespec now;
	uint64_t seed;

	clock_gettime(CLOCK_REALTIME, &now);
	seed = env ? strtoull(env, NULL, 0) : (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
	printf("# %s: TEST_SEED=%llu\n", what, (unsigned long long)seed);
	fflush(stdout);
	return (struct rnd){seed};
}

/* splitmix64 */
static inline uint64_t rnd_u64(struct rnd *r)
{
	uint64_t z = r->s += 0x9e3779b97f4a7c15u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	return z ^ (z >> 31);
}

/* from 0 to n - 1 */
static inline uint64_t rnd_below(struct rnd *r, uint64_t n)
{
	return rnd_u64(r) % n;
}
