/*
 * Metric series per service pair.
 *
 * A look-up happens once per connection, an insertion once per pair of services. The labels are laid out in one block, value
 * behind value with their NULs, hashed as a whole (XXH3, a random seed per table) and looked for by linear probing in a
 * table that is at most half full. A new series is one allocation, counters and block together. It is immutable but for its
 * counters before its place in the list is published by the release store of n, so the reader, who loads n with acquire and looks
 * no further, never sees half of one.
 *
 * Values may come from a peer's metadata. Bytes that are not UTF-8 are replaced, and long values cut between characters,
 * because one bad byte would make a scraper refuse the whole page.
 */
#include "obs/series.h"
#include "base/text.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define SLOTS (2 * SERIES_MAX)
static_assert((SLOTS & (SLOTS - 1)) == 0, "power of two");

/* all values of a series, each with its NUL */
struct block {
	char s[SL_LABELS * (SERIES_LABEL_MAX + 1)];
	uint16_t at[SL_LABELS];
	uint16_t len; /* bytes of s in use */
};
static_assert(sizeof(((struct block *)0)->s) <= UINT16_MAX, "at and len");

static size_t label_copy(char *out, const char *s)
{
	size_t n = strnlen(s, SERIES_LABEL_MAX + 4), at = 0,
	       len; /* 4: enough to tell whether the last character is whole */

	while (at < n) {
		len = text_utf8(s + at, n - at);
		if (at + (len ? len : 1) > SERIES_LABEL_MAX)
			break;
		if (len == 0)
			out[at++] = '?';
		for (; len; len--, at++)
			out[at] = s[at];
	}
	out[at++] = '\0';
	return at;
}

static void block_fill(struct block *b, const struct series_labels *l)
{
	b->len = 0;
	for (unsigned int i = 0; i < SL_LABELS; i++) {
		const char *v = l->v[i];

		if (!v || !v[0])
			v = i == SL_RESPONSE_FLAGS ? "-" : "unknown";
		b->at[i] = b->len;
		b->len += (uint16_t)label_copy(b->s + b->len, v);
	}
}

static struct series *series_new(const struct block *b, uint64_t hash)
{
	struct series *s = malloc(sizeof(*s) + b->len);
	char *text;

	if (!s)
		return NULL;
	text = (char *)(s + 1);
	memset(s, 0, sizeof(*s));
	s->hash = hash;
	memcpy(text, b->s, b->len);
	for (unsigned int i = 0; i < SL_LABELS; i++)
		s->v[i] = text + b->at[i];
	return s;
}

static bool series_is(const struct series *s, const struct block *b, uint64_t hash)
{
	if (s->hash != hash)
		return false;
	for (unsigned int i = 0; i < SL_LABELS; i++)
		if (strcmp(s->v[i], b->s + b->at[i]) != 0)
			return false;
	return true;
}

int series_init(struct series_table *t)
{
	struct series_labels other;
	struct block b;

	memset(t, 0, sizeof(*t));
	for (unsigned int i = 0; i < SL_LABELS; i++)
		other.v[i] = "other";
	block_fill(&b, &other);
	t->slot = calloc(SLOTS,
			 sizeof(*t->slot)); /* index in list; 0 is no entry, for the overflow series is not looked up */
	t->list[0] = series_new(&b, 0);
	if (!t->slot || !t->list[0]) {
		series_finish(t);
		return -ENOMEM;
	}
	if (getrandom(&t->seed, sizeof(t->seed), GRND_NONBLOCK) != sizeof(t->seed)) /* early boot only */
		t->seed = (uint64_t)(uintptr_t)t->slot ^ (uint64_t)time(NULL) << 32;
	atomic_store_explicit(&t->n, 1, memory_order_release);
	return 0;
}

void series_finish(struct series_table *t)
{
	uint32_t n = atomic_load_explicit(&t->n, memory_order_relaxed);

	free(t->list[0]); /* also when series_init() failed half-way, n being 0 */
	for (uint32_t i = 1; i < n; i++)
		free(t->list[i]);
	free(t->slot);
	memset(t, 0, sizeof(*t));
}

struct series *series_get(struct series_table *t, const struct series_labels *l)
{
	uint32_t n = atomic_load_explicit(&t->n, memory_order_relaxed), at;
	struct series *s;
	struct block b;
	uint64_t hash;

	block_fill(&b, l);
	hash = XXH3_64bits_withSeed(b.s, b.len, t->seed);
	for (at = hash & (SLOTS - 1); t->slot[at]; at = (at + 1) & (SLOTS - 1))
		if (series_is(t->list[t->slot[at]], &b, hash))
			return t->list[t->slot[at]];
	if (n == SERIES_MAX + 1)
		return t->list[0];
	s = series_new(&b, hash);
	if (!s)
		return t->list[0];
	t->list[n] = s;
	t->slot[at] = n;
	atomic_store_explicit(&t->n, n + 1, memory_order_release);
	return s;
}
