/*
 * Finding the rules that may match, among many. Nothing is decided here: who is found is looked at in full (decide.c), so the index
 * may find too much, never too little. That is why hashes stand for keys, prefixes may be cut, and no key is kept.
 *
 * A *type* is one thing that an input has or has not: its principal, its namespace, the first 24 bits of its source, the first 31
 * bytes of its principal, the listener where it is asked. Each value of a match that must be true has a type and a hash (parts.c).
 * A *tuple* is a few types looked up together: the hash over an input's hashes for them leads to the rules that have these very
 * values. A decision costs one look-up per tuple, however many rules there are (tuple space search; Srinivasan, Suri, Varghese,
 * SIGCOMM 1999).
 *
 * Which matches of a rule go into its tuple is chosen by how often their values occur in all rules: the rarest first, and further
 * ones while it alone would lead to more than GOOD rules. A rule whose values are lists stands in several places, one per
 * combination. So that the number of look-ups is bounded, only the TUPLES_MAX most used combinations of types are kept; other rules
 * are found by their rarest match alone. Rules without a match to be found by (all negated, only "*", or wide port ranges) are in
 * `rest`, which every decision goes through.
 */
#include "policy/parts.h"
#include <stdlib.h>
#include <string.h>

#define GOOD   8u  /* rules that one look-up may lead to without another match being added */
#define EXPAND 16u /* places of one rule that further matches may bring about */

/* 64-bit keys, counted */
struct tally {
	struct tally_slot {
		uint64_t key;
		uint32_t n; /* 0: free */
	} *slot;
	uint32_t mask, used;
};

struct choice { /* matches a rule is found by, the rarest first; SCOPE: where its policy is asked */
	uint16_t m[TUPLE_MAX];
	uint8_t n;
};
struct place {
	uint64_t key;
	uint32_t clause;
	bool unclear;
};

struct builder {
	struct policy_set *s;
	struct cutter *cut;
	struct tally values, tuples;
	struct parts parts[TUPLE_MAX + 1]; /* of the matches chosen; the last: scratch */
	struct choice *choice;
	struct place *place;
	uint32_t n_place, cap_place, n_rest;
	uint64_t kept[TUPLES_MAX]; /* tuples of several types */
	uint32_t n_kept;
	bool failed;
};

static bool parts_get(struct builder *b, const struct clause *cl, uint32_t which, struct parts *to)
{
	bool found = parts_of(b->s, b->cut, cl, which, to);

	b->failed |= to->failed;
	return found;
}

static uint64_t mix(uint64_t h, uint64_t v)
{
	h = (h ^ v) * 0x9fb21c651e98df25u;
	return h ^ h >> 32;
}

/* ---- tally */

static uint32_t *tally_at(struct builder *b, struct tally *t, uint64_t key)
{
	struct tally old = *t;
	uint32_t i;

	if (t->used * 2 >= t->mask) {
		t->mask = old.mask ? old.mask * 2 + 1 : 255;
		t->slot = calloc(t->mask + 1u, sizeof(*t->slot));
		if (!t->slot) {
			*t = old;
			b->failed = true;
			return NULL;
		}
		for (uint32_t k = 0; old.slot && k <= old.mask; k++) {
			if (!old.slot[k].n)
				continue;
			for (i = (uint32_t)(old.slot[k].key & t->mask); t->slot[i].n; i = (i + 1) & t->mask)
				;
			t->slot[i] = old.slot[k];
		}
		free(old.slot);
	}
	for (i = (uint32_t)(key & t->mask); t->slot[i].n; i = (i + 1) & t->mask)
		if (t->slot[i].key == key)
			return &t->slot[i].n;
	t->slot[i].key = key;
	t->used++;
	return &t->slot[i].n; /* 0: the caller counts at once */
}

static void tally_add(struct builder *b, struct tally *t, uint64_t key)
{
	uint32_t *n = tally_at(b, t, key);

	if (n)
		++*n;
}

static uint32_t tally_get(const struct tally *t, uint64_t key)
{
	for (uint32_t i = (uint32_t)(key & t->mask); t->slot && t->slot[i].n; i = (i + 1) & t->mask)
		if (t->slot[i].key == key)
			return t->slot[i].n;
	return 0;
}

/* ---- which matches a rule is found by */

static bool live(const struct policy_set *s, const struct clause *cl)
{
	const struct pol *p = &s->pol[cl->policy];

	return !cl->empty && !p->elsewhere && (p->everywhere || p->n_points);
}

/* a rule's matches, then SCOPE; from 0 to cl->n */
static uint32_t which_of(const struct clause *cl, uint32_t w)
{
	return w == cl->n ? SCOPE : w;
}

static void values_count(struct builder *b, const struct clause *cl)
{
	struct parts *t = &b->parts[TUPLE_MAX];

	for (uint32_t w = 0; w <= cl->n; w++)
		for (uint32_t i = 0, n = parts_get(b, cl, which_of(cl, w), t) ? t->n : 0; i < n; i++)
			tally_add(b, &b->values, t->p[i].hash);
}

struct candidate {
	uint32_t which, rules /* with the same value, at the most */, places;
};

static int by_rules(const void *a, const void *b)
{
	const struct candidate *x = a, *y = b;

	if (x->rules != y->rules)
		return x->rules < y->rules ? -1 : 1;
	if (x->places != y->places)
		return x->places < y->places ? -1 : 1;
	return x->which < y->which ? -1 : 1;
}

static void choose(struct builder *b, const struct clause *cl, struct choice *ret)
{
	struct candidate c[16];
	struct parts *t = &b->parts[TUPLE_MAX];
	uint64_t places;
	uint32_t n = 0;

	for (uint32_t w = 0; w <= cl->n; w++) {
		if (n == ARRAY_LEN(c) || !parts_get(b, cl, which_of(cl, w), t))
			continue;
		c[n] = (struct candidate){.which = which_of(cl, w), .places = t->n};
		for (uint32_t i = 0; i < t->n; i++) {
			uint32_t k = tally_get(&b->values, t->p[i].hash);

			/* unclear inputs are an exception: for them it may take long */
			if (b->s->type[t->p[i].type].shape != SHAPE_UNCLEAR && k > c[n].rules)
				c[n].rules = k;
		}
		n++;
	}
	if (!n)
		return;
	qsort(c, n, sizeof(*c), by_rules);
	places = c[0].places;
	ret->m[ret->n++] = (uint16_t)c[0].which;
	for (uint32_t i = 1; i < n && ret->n < TUPLE_MAX && c[0].rules > GOOD; i++)
		if (c[i].places == 1 || places * c[i].places <= max_u64(EXPAND, c[0].places)) {
			places *= c[i].places;
			ret->m[ret->n++] = (uint16_t)c[i].which;
		}
}

/* ---- places: one per combination of values */

/* the types of @v, in order, as one number; the parts are sorted by it */
static uint64_t tuple_key(struct part *v, uint32_t n)
{
	uint64_t key = n;

	for (uint32_t i = 1; i < n; i++)
		for (uint32_t k = i; k && v[k].type < v[k - 1].type; k--) {
			struct part x = v[k];

			v[k] = v[k - 1];
			v[k - 1] = x;
		}
	for (uint32_t i = 0; i < n; i++)
		key = key << 8 | v[i].type;
	return key;
}

/* call @fn for each combination of the parts of @n matches */
static bool combine(struct builder *b, const struct clause *cl, const struct choice *ch,
		    bool (*fn)(struct builder *b, const struct clause *cl, struct part *v, uint32_t n))
{
	uint32_t at[TUPLE_MAX] = {0}, i;
	struct part v[TUPLE_MAX];

	for (i = 0; i < ch->n; i++)
		if (!parts_get(b, cl, ch->m[i], &b->parts[i]))
			return false;
	for (;;) {
		for (i = 0; i < ch->n; i++)
			v[i] = b->parts[i].p[at[i]];
		if (!fn(b, cl, v, ch->n))
			return false;
		for (i = 0; i < ch->n && ++at[i] == b->parts[i].n; i++)
			at[i] = 0;
		if (i == ch->n)
			return true;
	}
}

static bool tuple_count(struct builder *b, const struct clause *cl, struct part *v, uint32_t n)
{
	(void)cl;
	tally_add(b, &b->tuples, tuple_key(v, n));
	return true;
}

static bool tuple_kept(struct builder *b, const struct clause *cl, struct part *v, uint32_t n)
{
	uint64_t key = tuple_key(v, n);

	(void)cl;
	for (uint32_t i = 0; i < b->n_kept; i++)
		if (b->kept[i] == key)
			return true;
	return false;
}

static int by_count(const void *a, const void *b)
{
	const struct tally_slot *x = a, *y = b;

	if (x->n != y->n)
		return x->n > y->n ? -1 : 1;
	return (x->key > y->key) - (x->key < y->key);
}

static void tuples_keep(struct builder *b)
{
	struct tally *t = &b->tuples;

	if (!t->slot)
		return;
	qsort(t->slot, t->mask + 1u, sizeof(*t->slot), by_count); /* it is of no use as a table from here on */
	for (uint32_t i = 0; i <= t->mask && t->slot[i].n && b->n_kept < TUPLES_MAX; i++)
		b->kept[b->n_kept++] = t->slot[i].key;
}

static uint64_t place_key(const struct tuple *t, const struct part *v)
{
	uint64_t h = t->start;

	for (uint32_t i = 0; i < t->n; i++)
		h = mix(h, v[i].hash);
	return h;
}

static const struct tuple *tuple_get(struct policy_set *s, uint64_t key, const struct part *v, uint32_t n)
{
	uint64_t start = mix(s->seed, key);
	struct tuple *t;

	for (uint32_t i = 0; i < s->n_tuples; i++)
		if (s->tuple[i].start == start)
			return &s->tuple[i];
	t = &s->tuple[s->n_tuples++];
	t->start = start;
	t->n = (uint8_t)n;
	for (uint32_t i = 0; i < n; i++) {
		t->type[i] = v[i].type;
		s->type[v[i].type].used = true;
	}
	return t;
}

static bool place_add(struct builder *b, const struct clause *cl, struct part *v, uint32_t n)
{
	struct place to = {.clause = (uint32_t)(cl - b->s->clause)}, *more;
	uint64_t key = tuple_key(v, n);

	if (b->n_place == b->cap_place) {
		more = reallocarray(b->place, b->cap_place * 2u + 64, sizeof(*more));
		if (!more) {
			b->failed = true;
			return false;
		}
		b->place = more;
		b->cap_place = b->cap_place * 2 + 64;
	}
	to.key = place_key(tuple_get(b->s, key, v, n), v);
	for (uint32_t i = 0; i < n; i++)
		to.unclear |= b->s->type[v[i].type].shape == SHAPE_UNCLEAR;
	b->place[b->n_place++] = to;
	return true;
}

static void places_make(struct builder *b)
{
	struct policy_set *s = b->s;

	for (uint32_t i = 0; i < s->n_clauses && !b->failed; i++) {
		struct choice *ch = &b->choice[i];

		if (ch->n > 1 && !combine(b, &s->clause[i], ch, tuple_kept))
			ch->n = 1;
		if (ch->n)
			(void)combine(b, &s->clause[i], ch, place_add);
		else if (live(s, &s->clause[i]))
			b->n_rest++;
	}
}

/* ---- the table */

static int by_key(const void *a, const void *b)
{
	const struct place *x = a, *y = b;

	if (x->key != y->key)
		return x->key < y->key ? -1 : 1;
	return (x->clause > y->clause) - (x->clause < y->clause);
}

static uint8_t tag_of(uint64_t key)
{
	uint8_t tag = (uint8_t)(key >> 56);

	return tag ? tag : 1;
}

/* the rules from @at on */
static void slot_put(struct policy_set *s, const struct place *p, uint32_t at)
{
	uint32_t i = (uint32_t)p->key & s->slot_mask, n = s->n_postings - at;

	while (s->tag[i])
		i = (i + 1) & s->slot_mask;
	s->tag[i] = tag_of(p->key);
	s->slot[i] = (struct slot){p->key, n, n == 1 ? s->posting[at] : at};
	if (!p->unclear && n > s->longest)
		s->longest = n;
}

/* those with SHAPE_POINT go last: they are looked up at each listener and cluster */
static void tuples_order(struct policy_set *s)
{
	uint32_t kept = 0;

	s->point_type = TYPES_MAX;
	for (uint32_t i = 0; i < s->n_types; i++)
		if (s->type[i].shape == SHAPE_POINT && s->type[i].used)
			s->point_type = i;
	for (uint32_t i = 0; i < s->n_tuples; i++) {
		struct tuple t = s->tuple[i];
		bool point = false;

		for (uint32_t k = 0; k < t.n; k++)
			point |= t.type[k] == s->point_type;
		if (point)
			continue;
		s->tuple[i] = s->tuple[kept];
		s->tuple[kept++] = t;
	}
	s->n_placed = kept;
}

static int table_make(struct builder *b)
{
	struct policy_set *s = b->s;
	uint32_t keys = 0, first = 0, slots = 16;
	size_t n;

	if (b->n_place)
		qsort(b->place, b->n_place, sizeof(*b->place), by_key);
	for (uint32_t i = 0; i < b->n_place; i++)
		keys += !i || b->place[i].key != b->place[i - 1].key;
	while (slots < keys * 2u)
		slots *= 2;
	n = slots * (sizeof(*s->slot) + sizeof(*s->tag)) + ((size_t)b->n_place + b->n_rest) * sizeof(uint32_t);
	s->index = calloc(1, n);
	if (!s->index)
		return -ENOMEM;
	s->bytes += n;
	s->slot = s->index;
	s->slot_mask = slots - 1;
	s->tag = (uint8_t *)(s->slot + slots);
	s->posting = (uint32_t *)(s->tag + slots);
	s->rest = s->posting + b->n_place;
	for (uint32_t i = 0; i < b->n_place; i++) {
		bool new = !i || b->place[i].key != b->place[i - 1].key;

		if (!new && b->place[i].clause == b->place[i - 1].clause)
			continue;
		if (new && i)
			slot_put(s, &b->place[i - 1], first);
		first = new ? s->n_postings : first;
		s->posting[s->n_postings++] = b->place[i].clause;
	}
	if (b->n_place)
		slot_put(s, &b->place[b->n_place - 1], first);
	for (uint32_t i = 0; i < s->n_clauses; i++)
		if (!b->choice[i].n && live(s, &s->clause[i]))
			s->rest[s->n_rest++] = i;
	tuples_order(s);
	return 0;
}

/* ---- all together */

static void builder_finish(struct builder *b)
{
	cutter_destroy(b->cut);
	free(b->values.slot);
	free(b->tuples.slot);
	for (uint32_t i = 0; i < ARRAY_LEN(b->parts); i++)
		free(b->parts[i].p);
	free(b->choice);
	free(b->place);
}

static int build(struct builder *b)
{
	struct policy_set *s = b->s;

	b->cut = cutter_create(s);
	b->choice = calloc(s->n_clauses + 1u, sizeof(*b->choice));
	if (!b->cut || !b->choice)
		return -ENOMEM;
	for (uint32_t i = 0; i < s->n_clauses && !b->failed; i++)
		if (live(s, &s->clause[i]))
			values_count(b, &s->clause[i]);
	for (uint32_t i = 0; i < s->n_clauses && !b->failed; i++) {
		if (live(s, &s->clause[i]))
			choose(b, &s->clause[i], &b->choice[i]);
		if (b->choice[i].n > 1)
			(void)combine(b, &s->clause[i], &b->choice[i], tuple_count);
	}
	if (b->failed)
		return -ENOMEM;
	tuples_keep(b);
	places_make(b);
	return b->failed ? -ENOMEM : table_make(b);
}

int index_build(struct policy_set *s)
{
	struct builder *b = calloc(1, sizeof(*b));
	int r = b ? 0 : -ENOMEM;

	if (r < 0)
		return r;
	b->s = s;
	r = build(b);
	builder_finish(b);
	free(b);
	return r;
}

/* ---- looking up */

static bool has_all(const struct tuple *t, const uint64_t *has)
{
	for (uint32_t i = 0; i < t->n; i++)
		if (!(has[t->type[i] / 64] >> t->type[i] % 64 & 1))
			return false;
	return true;
}

static bool find(const struct policy_set *s, uint64_t key, struct run *ret)
{
	uint8_t tag = tag_of(key);

	for (uint32_t i = (uint32_t)key & s->slot_mask; s->tag[i]; i = (i + 1) & s->slot_mask) {
		const struct slot *sl = &s->slot[i];

		if (s->tag[i] != tag || sl->key != key)
			continue;
		ret->at = sl->n == 1 ? &sl->at : s->posting + sl->at;
		ret->end = ret->at + sl->n;
		return true;
	}
	return false;
}

/* all keys first: what they lead to is on its way from memory while the next is computed */
uint32_t index_look(const struct policy_set *s, uint32_t t, uint32_t end, const uint64_t *has, const uint64_t *hash, struct run *ret)
{
	uint64_t key[TUPLES_MAX + TYPES_MAX];
	uint32_t n = 0, found = 0;

	for (; t < end; t++) {
		const struct tuple *tu = &s->tuple[t];
		uint64_t h = tu->start;

		if (!has_all(tu, has))
			continue;
		for (uint32_t i = 0; i < tu->n; i++)
			h = mix(h, hash[tu->type[i]]);
		key[n++] = h;
		__builtin_prefetch(&s->tag[(uint32_t)h & s->slot_mask]);
	}
	for (uint32_t i = 0; i < n; i++)
		found += find(s, key[i], &ret[found]);
	return found;
}
