/*
 * Hierarchical timer wheel.
 *
 * Read a time as digits of 6 bits. A timer lies on the level of the highest digit in which its time differs from the wheel's,
 * in the slot of that digit's value. So on every level the slots in use are those after the wheel's own digit, all of a level
 * come before all of the next one, and the next event is the lowest bit of the lowest level that has any: no search.
 * An event on level 0 is a set of timers that are due; on a higher level it is a slot whose timers are placed again, on
 * lower levels ("cascade"), at most four times in a timer's life. The top level is a circle: it serves the next 63 slots
 * whatever the digits above, and timers beyond wait in the last of them to be placed again.
 *
 * A timer that is armed for now or the past goes to the wheel's own slot on level 0, the first that a run looks at.
 *
 * timers_run() first moves the wheel to its new time and collects what is due, then fires. So callbacks find a consistent wheel;
 * those that disarm a timer that is due too just unlink it from the collection; and a timer that is armed again for "now"
 * in its own callback waits for the next run instead of looping in this one.
 */
#include "base/timer.h"

#include <assert.h>
#include <limits.h>
#include <stddef.h>

#define TIMER_SLOTS (1u << TIMER_BITS)
#define TIMER_TOP   (TIMER_LEVELS - 1)

static_assert(TIMER_SLOTS == 64, "one bitmap word per level");

static unsigned int digit_of(uint64_t ms, unsigned int level)
{
	return (ms >> (level * TIMER_BITS)) & (TIMER_SLOTS - 1);
}

static uint64_t rotate_right(uint64_t v, unsigned int n)
{
	return (v >> n) | (v << (-n & 63));
}

static void timer_place(struct timers *w, struct timer *t)
{
	uint64_t at = t->at_ms > w->now_ms ? t->at_ms : w->now_ms;
	uint64_t diff = at ^ w->now_ms, ahead;
	unsigned int level = diff ? (63 - (unsigned int)__builtin_clzll(diff)) / TIMER_BITS : 0, slot;

	if (level < TIMER_TOP) {
		slot = digit_of(at, level);
	} else {
		level = TIMER_TOP;
		ahead = (at >> (TIMER_TOP * TIMER_BITS)) - (w->now_ms >> (TIMER_TOP * TIMER_BITS));
		if (ahead > TIMER_SLOTS - 1)
			ahead = TIMER_SLOTS - 1;
		slot = (digit_of(w->now_ms, TIMER_TOP) + (unsigned int)ahead) % TIMER_SLOTS;
	}
	LIST_INSERT_HEAD(&w->slot[level][slot], t, link);
	w->bits[level] |= UINT64_C(1) << slot;
}

/* A list knows its head only by the back link of its first element; so it is found when the last one leaves. */
static void timer_unlink(struct timers *w, struct timer *t)
{
	uintptr_t at = (uintptr_t)t->link.le_prev - (uintptr_t)w->slot;
	size_t i = at / sizeof(w->slot[0][0]);

	if (!LIST_NEXT(t, link) && at < sizeof(w->slot))
		w->bits[i / TIMER_SLOTS] &= ~(UINT64_C(1) << i % TIMER_SLOTS);
	LIST_REMOVE(t, link);
}

/* Return: level and slot of the next event and its time, or false: the wheel is empty. */
static bool timers_next(const struct timers *w, unsigned int *ret_level, unsigned int *ret_slot, uint64_t *ret_ms)
{
	unsigned int level = 0, shift, own, ahead;

	while (!w->bits[level])
		if (++level == TIMER_LEVELS)
			return false;
	shift = level * TIMER_BITS;
	own = digit_of(w->now_ms, level);
	ahead = (unsigned int)__builtin_ctzll(rotate_right(w->bits[level], own));
	*ret_level = level;
	*ret_slot = (own + ahead) % TIMER_SLOTS;
	*ret_ms = ((w->now_ms >> shift) + ahead) << shift;
	return true;
}

void timers_init(struct timers *w, uint64_t now_ms)
{
	*w = (struct timers){.now_ms = now_ms};
}

void timer_arm(struct timers *w, struct timer *t, uint64_t at_ms)
{
	timer_disarm(w, t);
	t->at_ms = at_ms ? at_ms : 1; /* 0 says "not armed" */
	timer_place(w, t);
	w->armed++;
}

void timer_disarm(struct timers *w, struct timer *t)
{
	if (!timer_armed(t))
		return;
	timer_unlink(w, t);
	t->at_ms = 0;
	w->armed--;
}

void timers_run(struct timers *w, uint64_t now_ms)
{
	struct timer_list due = LIST_HEAD_INITIALIZER(due);
	struct timer *t, *last = NULL;
	unsigned int level, slot;
	uint64_t ms;

	if (now_ms < w->now_ms)
		now_ms = w->now_ms;
	while (timers_next(w, &level, &slot, &ms) && ms <= now_ms) {
		w->now_ms = ms;
		w->bits[level] &= ~(UINT64_C(1) << slot);
		while ((t = LIST_FIRST(&w->slot[level][slot]))) {
			LIST_REMOVE(t, link);
			if (level > 0)
				timer_place(w, t);
			else if (last)
				LIST_INSERT_AFTER(last, t, link);
			else
				LIST_INSERT_HEAD(&due, t, link);
			if (level == 0)
				last = t;
		}
	}
	w->now_ms = now_ms;

	while ((t = LIST_FIRST(&due))) {
		LIST_REMOVE(t, link);
		t->at_ms = 0;
		w->armed--;
		t->fire(t, t->arg); /* may free t */
	}
}

int timers_wait(const struct timers *w, uint64_t now_ms)
{
	unsigned int level, slot;
	uint64_t ms;

	if (!timers_next(w, &level, &slot, &ms))
		return w->armed ? 0 : -1; /* 0: asked by a callback, the others of this run are still to fire */
	if (ms <= now_ms)
		return 0;
	return ms - now_ms < INT_MAX ? (int)(ms - now_ms) : INT_MAX;
}
