/*
 * Slots: pairs of counters in memory that the kernel's gate writes and all agents of a node have mapped.
 *
 * A pair of slots belongs to the agent whose id is in the owner word of the even one; the word is taken by compare and swap, since
 * agents are processes and know nothing of each other. What was given back rests for a while: another agent of the same chain may
 * still want the last counts. An agent that was killed gives nothing back; whoever finds no slot looks for those.
 *
 * A binding in the kernel names slot and cookie, and obeys only a slot with its cookie: one that was given away again does no harm.
 */
#include "kern/bypass_int.h"
#include <string.h>

#define FULL_MS 100u /* after a search in vain: searching is a walk over megabytes */

static bool resting(const struct adit_slot *s, uint32_t now_ms)
{
	uint32_t freed_ms = __atomic_load_n(&s->freed_ms, __ATOMIC_RELAXED);

	return freed_ms && now_ms - freed_ms < SLOTS_QUARANTINE_MS;
}

static bool search(struct slots *s, uint32_t now_ms, bool any, uint32_t *ret)
{
	uint32_t pairs = s->n / 2, from = atomic_fetch_add_explicit(&s->hint, 1, memory_order_relaxed);

	for (uint32_t i = 0; i < pairs; i++) {
		uint32_t at = (from + i) % pairs * 2, none = 0;
		struct adit_slot *p = &s->at[at];

		if (__atomic_load_n(&p->owner, __ATOMIC_RELAXED) || (!any && resting(p, now_ms)))
			continue;
		if (!__atomic_compare_exchange_n(&p->owner, &none, s->agent, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
			continue;
		atomic_store_explicit(&s->hint, at / 2 + 1, memory_order_relaxed);
		*ret = at;
		return true;
	}
	return false;
}

int slots_take(struct slots *s, uint32_t now_ms, uint32_t *ret)
{
	uint32_t until = atomic_load_explicit(&s->full_until_ms, memory_order_relaxed), at;

	if (until && (int32_t)(until - now_ms) > 0)
		return -ENOSPC;
	if (!search(s, now_ms, false, &at) && !search(s, now_ms, true, &at)) {
		atomic_store_explicit(&s->full_until_ms, (now_ms + FULL_MS) | 1, memory_order_relaxed);
		return -ENOSPC;
	}
	atomic_store_explicit(&s->full_until_ms, 0, memory_order_relaxed);
	for (uint32_t i = at; i < at + 2; i++) { /* never the owner: 0 for a moment would be an invitation */
		struct adit_slot *p = &s->at[i];

		__atomic_store_n(&p->cookie, 0, __ATOMIC_RELEASE); /* who still counts there counts for nobody */
		__atomic_store_n(&p->open, 0, __ATOMIC_RELEASE);
		memset(&p->bytes, 0, offsetof(struct adit_slot, freed_ms) - offsetof(struct adit_slot, bytes));
		__atomic_store_n(&p->freed_ms, 0, __ATOMIC_RELAXED);
	}
	*ret = at;
	return 0;
}

void slots_give(struct slots *s, uint32_t slot, uint32_t now_ms)
{
	__atomic_store_n(&s->at[slot].open, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&s->at[slot + 1].open, 0, __ATOMIC_RELEASE);
	__atomic_store_n(&s->at[slot].freed_ms, now_ms | 1, __ATOMIC_RELAXED);
	__atomic_store_n(&s->at[slot].owner, 0, __ATOMIC_RELEASE);
}

uint32_t slots_reclaim(struct slots *s, bool (*alive)(void *arg, uint32_t agent), void *arg, uint32_t now_ms)
{
	uint32_t found = 0, last = 0;
	bool last_alive = true;

	for (uint32_t at = 0; at < s->n; at += 2) {
		uint32_t owner = __atomic_load_n(&s->at[at].owner, __ATOMIC_RELAXED);

		if (!owner || owner == s->agent)
			continue;
		if (owner != last) {
			last = owner;
			last_alive = alive(arg, owner);
		}
		if (last_alive)
			continue;
		slots_give(s, at, now_ms);
		found++;
	}
	return found;
}

uint32_t slots_used(const struct slots *s)
{
	uint32_t used = 0;

	for (uint32_t at = 0; at < s->n; at += 2)
		used += __atomic_load_n(&s->at[at].owner, __ATOMIC_RELAXED) ? 2 : 0;
	return used;
}
