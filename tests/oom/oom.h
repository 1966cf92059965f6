#pragma once
/*
 * Failing-malloc sweeps: the n-th allocation fails, for n = 1, 2, ... until everything has been refused once.
 *
 * A program tests/oom/oom_*.c is linked with malloc and its relatives wrapped, in the library's objects and in itself, not
 * inside shared libraries. A sweep calls a function that does something and cleans up after itself; where the thing under
 * test reports failure, the function checks that it is -ENOMEM and returns. What may not happen: a crash, a leak (each run
 * must free what it allocated), success that is none.
 *
 *	static void parse_once(void)
 *	{
 *		struct thing *t;
 *		int r = thing_create(&t);
 *
 *		if (r < 0) {
 *			assert_int_equal(r, -ENOMEM);
 *			return;
 *		}
 *		thing_destroy(t);
 *	}
 *	static void thing_survives_every_failure(void **state)
 *	{
 *		(void)state;
 *		assert_true(oom_sweep(parse_once) >= 3);
 *	}
 *
 * OOM_VERBOSE=1 in the environment prints each n before it runs; OOM_AT=n runs that one only, for a debugger.
 */
#include <stdbool.h>

/**
 * oom_sweep() - run @fn with each of its allocations failing
 * First once undisturbed (lazy global initialization may happen then), then with only the n-th failing, then with the n-th
 * and all later ones. Fails the running cmocka test when a run leaves memory allocated that was allocated in it.
 * Only the calling thread's allocations count and fail.
 * Return: how many allocations an undisturbed run makes.
 */
unsigned int oom_sweep(void (*fn)(void));

/**
 * oom_struck() - has an allocation been refused in this run?
 * For functions that check that success means success, and that failure has a reason.
 */
bool oom_struck(void);
