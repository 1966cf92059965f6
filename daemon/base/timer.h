/*
 * Hierarchical timer wheel, 1 ms ticks, intrusive, O(1) to arm and disarm. One thread owns a wheel.
 * Time is given by the caller (CLOCK_MONOTONIC in ms), so tests can run in virtual time.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>
#include <sys/queue.h>

#define TIMER_BITS 6u
#define TIMER_LEVELS 5u /* 64^5 ms = 12 days; later ones are parked at the end and armed again */

struct timer {
	LIST_ENTRY(timer) link;
	uint64_t at_ms;	 /* 0: not armed */
	void (*fire)(struct timer *t, void *arg);
	void *arg;
};
LIST_HEAD(timer_list, timer);

struct timers {
	uint64_t now_ms;
	uint32_t armed;
	uint64_t bits[TIMER_LEVELS]; /* slots that hold something */
	struct timer_list slot[TIMER_LEVELS][1u << TIMER_BITS];
};

void timers_init(struct timers *w, uint64_t now_ms);
/** timer_arm() - fire once at @at_ms (now or past: next run); arming an armed timer moves it. */
void timer_arm(struct timers *w, struct timer *t, uint64_t at_ms);
void timer_disarm(struct timers *w, struct timer *t);
static inline bool timer_armed(const struct timer *t)
{
	return t->at_ms != 0;
}
/** timers_run() - fire all that is due until @now_ms; a callback may arm and disarm any timer. */
void timers_run(struct timers *w, uint64_t now_ms);
/** timers_wait() - Return: ms until the next run is worthwhile, -1 if nothing is armed (epoll_wait's argument). */
int timers_wait(const struct timers *w, uint64_t now_ms);
