/*
 * Draining as a whole: first readiness fails (and nothing else, for the quiet period), then the workers stop taking connections and let
 * go of what is there, then the daemon ends. Main thread.
 */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct notify;

enum drain_step { DRAIN_NOT, DRAIN_QUIET, DRAIN_CLOSING };

struct drain {
	struct daemon *d;
	const struct notify *notify;
	enum drain_step step;
	uint64_t quiet_end_ms, told_ms; /* CLOCK_MONOTONIC */
	uint64_t within_ms, jitter_ms;
	uint64_t began; /* connections that there were */
};

/** drain_init() - @d and @n outlive it */
void drain_init(struct drain *dr, struct daemon *d, const struct notify *n);
/** drain_begin() - within @within_ms from now on, and the configuration's quiet period before; a second call changes nothing */
void drain_begin(struct drain *dr, uint64_t within_ms, bool quiet);
/** drain_tick() - as often as the main loop turns. Return: ms until it must be called again. */
uint64_t drain_tick(struct drain *dr);
