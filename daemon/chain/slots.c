/*
 * Slots. Names are found by a hash made for the occasion: it is asked for once per change of configuration, for all names at a time.
 */
#include "chain/slots.h"
#include "base/clean.h"
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

int slots_init(struct slots *s, uint32_t limit)
{
	*s = (struct slots){.limit = limit, .at = calloc(limit, sizeof(*s->at))};
	return s->at ? 0 : -ENOMEM;
}

void slots_finish(struct slots *s)
{
	for (uint32_t i = 0; i < s->n; i++)
		free(s->at[i].name);
	free(TAKE(s->at));
	s->n = 0;
}

static uint64_t hash(const char *name, uint32_t type)
{
	return XXH3_64bits_withSeed(name, strlen(name), type);
}

static bool newest(const struct slot *s)
{
	return s->name && s->last == UINT64_MAX;
}

/* of those in the newest snapshot; slot + 1, 0: none. Return: NULL: out of memory */
static uint32_t *index_new(const struct slots *s, uint32_t *ret_mask)
{
	uint32_t n = 0, mask = 15, *t;

	for (uint32_t i = 0; i < s->n; i++)
		n += newest(&s->at[i]);
	while (mask < 2 * n)
		mask = mask * 2 + 1;
	t = calloc(mask + 1u, sizeof(*t));
	for (uint32_t i = 0; t && i < s->n; i++)
		if (newest(&s->at[i])) {
			uint32_t h = (uint32_t)hash(s->at[i].name, s->at[i].type) & mask;

			while (t[h])
				h = (h + 1) & mask;
			t[h] = i + 1;
		}
	*ret_mask = mask;
	return t;
}

static bool find(const struct slots *s, const uint32_t *t, uint32_t mask, struct slots_name *k)
{
	for (uint32_t h = (uint32_t)hash(k->name, k->type) & mask; t[h]; h = (h + 1) & mask) {
		const struct slot *x = &s->at[t[h] - 1];

		if (x->type == k->type && !strcmp(x->name, k->name)) {
			k->slot = t[h] - 1;
			return true;
		}
	}
	return false;
}

int slots_plan(const struct slots *s, struct slots_name *names, uint32_t n)
{
	uint32_t mask, next = s->free;
	AUTO_FREE uint32_t *t = index_new(s, &mask);

	if (!t)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		names[i].fresh = !find(s, t, mask, &names[i]);
		if (!names[i].fresh)
			continue;
		while (next < s->limit && s->at[next].name)
			next++;
		if (next == s->limit)
			return -ENOSPC;
		names[i].slot = next++;
		names[i].copy = strdup(names[i].name);
		if (!names[i].copy)
			return -ENOMEM;
	}
	return 0;
}

void slots_forget(struct slots_name *names, uint32_t n)
{
	for (uint32_t i = 0; names && i < n; i++)
		free(TAKE(names[i].copy));
}

void slots_commit(struct slots *s, struct slots_name *names, uint32_t n, uint64_t number)
{
	for (uint32_t i = 0; i < s->n; i++) /* those that go on are put right below */
		if (newest(&s->at[i]))
			s->at[i].last = number - 1;
	for (uint32_t i = 0; i < n; i++) {
		struct slot *x = &s->at[names[i].slot];

		if (names[i].fresh)
			*x = (struct slot){.name = TAKE(names[i].copy), .type = names[i].type, .first = number};
		x->last = UINT64_MAX;
		if (names[i].slot >= s->n)
			s->n = names[i].slot + 1;
	}
	while (s->free < s->n && s->at[s->free].name)
		s->free++;
}

bool slots_need(const struct slots *s, uint64_t number)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->at[i].name && s->at[i].last == number)
			return true;
	return false;
}

bool slots_next_dead(const struct slots *s, uint32_t *at, bool (*alive)(void *arg, uint64_t first, uint64_t last), void *arg)
{
	for (; *at < s->n; (*at)++) {
		const struct slot *x = &s->at[*at];

		if (x->name && x->last != UINT64_MAX && !alive(arg, x->first, x->last))
			return true;
	}
	return false;
}

void slots_drop(struct slots *s, uint32_t slot)
{
	free(s->at[slot].name);
	s->at[slot] = (struct slot){.name = NULL};
	if (slot < s->free)
		s->free = slot;
	while (s->n && !s->at[s->n - 1].name)
		s->n--;
}
