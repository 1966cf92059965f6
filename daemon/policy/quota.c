/*
 * A class of subjects: a hash table under a mutex. It is asked once per connection, for a fraction of a microsecond, so nothing finer than a
 * lock is worth its trouble.
 *
 * Who comes in may be hostile and have many names (addresses of a /48, certificates of a tool that makes them), so the table has a limit, and
 * a subject is forgotten only when that is free of charge: when it has no connection and its bucket is full again, a new entry would be
 * just the same. Subjects without connections wait in the order of their last use, and the oldest ones go first: whenever somebody new
 * comes, those that have been idle for IDLE_US, and when the table is full the oldest that is free of charge, if one is among the first LOOK.
 *
 * When there is none, the newcomer is measured with one bucket that all such newcomers share, with the limits of one subject. So a flood of
 * names gets no more than all the table's subjects and one, its memory is bounded, and who is in the table already does not notice
 * anything of it. Classes have tables of their own: names in one cannot crowd out those of another.
 *
 * The hash is keyed by chance: who chooses names cannot choose what collides.
 */
#include "policy/quota.h"
#include "base/clean.h"
#include <errno.h>
#include <pthread.h>
#include <string.h>
#include <sys/queue.h>
#include <sys/random.h>
#include <xxhash.h>

#define IDLE_US 300000000u /* five minutes */
#define LOOK 8u		   /* so many of the oldest are looked at */
#define AGED_OUT 2u	   /* so many are forgotten for one that comes */

struct quota_subject {
	struct quota *q;
	LIST_ENTRY(quota_subject) same;	 /* of the hash's chain */
	TAILQ_ENTRY(quota_subject) idle; /* while active == 0, but not the overflow's */
	uint64_t hash, last_us;
	uint64_t refused_connections, refused_rate;
	struct rate rate;
	uint32_t active, len;
	char who[]; /* len bytes; not ended */
};
LIST_HEAD(quota_chain, quota_subject);
TAILQ_HEAD(quota_idle, quota_subject);

struct quota {
	pthread_mutex_t lock; /* of all below */
	uint32_t refs, n, most;
	uint32_t chains; /* a power of two */
	struct quota_chain *chain;
	struct quota_idle idle; /* the oldest first */
	struct quota_subject *overflow;
	struct quota_limits limits; /* of the last call: what a full bucket is */
	uint64_t seed, active, refused_connections, refused_rate, overflowed;
};

static uint32_t chains_for(uint32_t subjects)
{
	uint32_t n = 64;

	while (n < subjects && n < 1u << 16)
		n *= 2;
	return n;
}

int quota_create(struct quota **ret, uint32_t subjects)
{
	struct quota *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->refs = 1;
	q->most = subjects;
	q->chains = chains_for(subjects);
	q->chain = calloc(q->chains, sizeof(*q->chain));
	q->overflow = calloc(1, sizeof(*q->overflow));
	if (!q->chain || !q->overflow) {
		free(q->chain);
		free(q->overflow);
		free(q);
		return -ENOMEM;
	}
	TAILQ_INIT(&q->idle);
	q->overflow->q = q;
	if (getrandom(&q->seed, sizeof(q->seed), GRND_NONBLOCK) != sizeof(q->seed))
		q->seed = (uint64_t)(uintptr_t)q;
	pthread_mutex_init(&q->lock, NULL);
	*ret = q;
	return 0;
}

struct quota *quota_get(struct quota *q)
{
	pthread_mutex_lock(&q->lock);
	q->refs++;
	pthread_mutex_unlock(&q->lock);
	return q;
}

static void destroy(struct quota *q)
{
	struct quota_subject *s;

	for (uint32_t i = 0; i < q->chains; i++)
		while ((s = LIST_FIRST(&q->chain[i]))) {
			LIST_REMOVE(s, same);
			free(s);
		}
	pthread_mutex_destroy(&q->lock);
	free(q->overflow);
	free(q->chain);
	free(q);
}

/* with the lock, which is gone afterwards */
static void unlock_put(struct quota *q)
{
	bool last = --q->refs == 0;

	pthread_mutex_unlock(&q->lock);
	if (last)
		destroy(q);
}

void quota_put(struct quota *q)
{
	if (!q)
		return;
	pthread_mutex_lock(&q->lock);
	unlock_put(q);
}

static void forget(struct quota *q, struct quota_subject *s)
{
	TAILQ_REMOVE(&q->idle, s, idle);
	LIST_REMOVE(s, same);
	q->n--;
	free(s);
}

/* a new entry would be the same as this one */
static bool is_full(const struct quota *q, const struct quota_subject *s, uint64_t now_us)
{
	return rate_left(&s->rate, q->limits.rate, now_us) >= q->limits.rate.burst;
}

static void age(struct quota *q, uint64_t now_us)
{
	struct quota_subject *s;

	for (uint32_t i = 0; i < AGED_OUT && (s = TAILQ_FIRST(&q->idle)); i++) {
		if (q->n <= q->most && now_us < s->last_us + IDLE_US)
			return;
		if (!is_full(q, s, now_us))
			return;
		forget(q, s);
	}
}

/* Return: is there room for one more? */
static bool make_room(struct quota *q, uint64_t now_us)
{
	struct quota_subject *s = TAILQ_FIRST(&q->idle);

	for (uint32_t i = 0; q->n >= q->most && s && i < LOOK; i++) {
		struct quota_subject *next = TAILQ_NEXT(s, idle);

		if (is_full(q, s, now_us))
			forget(q, s);
		s = next;
	}
	return q->n < q->most;
}

static struct quota_subject *find(const struct quota *q, struct slice who, uint64_t hash)
{
	struct quota_subject *s;

	LIST_FOREACH(s, &q->chain[hash & (q->chains - 1)], same)
		if (s->hash == hash && s->len == who.n && !memcmp(s->who, who.p, who.n))
			return s;
	return NULL;
}

static struct quota_subject *remember(struct quota *q, struct slice who, uint64_t hash)
{
	struct quota_subject *s = malloc(sizeof(*s) + who.n);

	if (!s)
		return NULL;
	memset(s, 0, sizeof(*s));
	s->q = q;
	s->hash = hash;
	s->len = (uint32_t)who.n;
	memcpy(s->who, who.p, who.n);
	LIST_INSERT_HEAD(&q->chain[hash & (q->chains - 1)], s, same);
	TAILQ_INSERT_TAIL(&q->idle, s, idle);
	q->n++;
	return s;
}

static struct quota_subject *subject_of(struct quota *q, struct slice who, uint64_t now_us)
{
	uint64_t hash = XXH3_64bits_withSeed(who.p, who.n, q->seed);
	struct quota_subject *s = find(q, who, hash);

	if (s)
		return s;
	age(q, now_us);
	s = make_room(q, now_us) ? remember(q, who, hash) : NULL;
	if (s)
		return s;
	q->overflowed++;
	return q->overflow;
}

static enum quota_verdict judge(struct quota *q, struct quota_subject *s, uint64_t now_us)
{
	if (q->limits.max_connections && s->active >= q->limits.max_connections) {
		s->refused_connections++;
		q->refused_connections++;
		return QUOTA_CONNECTIONS;
	}
	if (!rate_take(&s->rate, q->limits.rate, now_us)) {
		s->refused_rate++;
		q->refused_rate++;
		return QUOTA_RATE;
	}
	return QUOTA_OK;
}

enum quota_verdict quota_enter(struct quota *q, struct slice who, struct quota_limits l, uint64_t now_us, struct quota_subject **ret)
{
	struct quota_subject *s;
	enum quota_verdict v;

	*ret = NULL;
	pthread_mutex_lock(&q->lock);
	q->limits = l;
	s = subject_of(q, who, now_us);
	v = judge(q, s, now_us);
	s->last_us = now_us;
	if (s != q->overflow && !s->active)
		TAILQ_REMOVE(&q->idle, s, idle);
	if (v == QUOTA_OK) {
		s->active++;
		q->active++;
		q->refs++;
		*ret = s;
	} else if (s != q->overflow && !s->active) {
		TAILQ_INSERT_TAIL(&q->idle, s, idle);
	}
	pthread_mutex_unlock(&q->lock);
	return v;
}

enum quota_verdict quota_look(struct quota *q, struct slice who, struct quota_limits l, uint64_t now_us)
{
	enum quota_verdict v = QUOTA_OK;
	struct quota_subject *s;

	pthread_mutex_lock(&q->lock);
	s = find(q, who, XXH3_64bits_withSeed(who.p, who.n, q->seed)); /* a new one has nothing yet: it gets in */
	if (s && l.max_connections && s->active >= l.max_connections)
		v = QUOTA_CONNECTIONS;
	else if (s && l.rate.per_second && !rate_left(&s->rate, l.rate, now_us))
		v = QUOTA_RATE;
	pthread_mutex_unlock(&q->lock);
	return v;
}

void quota_leave(struct quota_subject *s, uint64_t now_us)
{
	struct quota *q = s ? s->q : NULL;

	if (!q)
		return;
	pthread_mutex_lock(&q->lock);
	q->active--;
	s->last_us = now_us;
	if (--s->active == 0 && s != q->overflow)
		TAILQ_INSERT_TAIL(&q->idle, s, idle);
	unlock_put(q);
}

void quota_resize(struct quota *q, uint32_t subjects)
{
	pthread_mutex_lock(&q->lock);
	q->most = subjects;
	pthread_mutex_unlock(&q->lock);
}

/* ---- looking ---- */

void quota_sums(struct quota *q, struct quota_sums *ret)
{
	pthread_mutex_lock(&q->lock);
	*ret = (struct quota_sums){
		.subjects = q->n,
		.most = q->most,
		.active = q->active,
		.refused_connections = q->refused_connections,
		.refused_rate = q->refused_rate,
		.overflowed = q->overflowed,
	};
	pthread_mutex_unlock(&q->lock);
}

static uint64_t refused(const struct quota_row *r)
{
	return r->refused_connections + r->refused_rate;
}

static bool before(const struct quota_row *a, const struct quota_row *b)
{
	return refused(a) != refused(b) ? refused(a) > refused(b) : a->active > b->active;
}

static void row_fill(const struct quota *q, const struct quota_subject *s, struct quota_limits l, uint64_t now_us, struct quota_row *r)
{
	size_t n = min_u64(s->len, sizeof(r->who) - 1);

	*r = (struct quota_row){
		.active = s->active,
		.left = rate_left(&s->rate, l.rate, now_us),
		.refused_connections = s->refused_connections,
		.refused_rate = s->refused_rate,
		.idle_us = now_us > s->last_us ? now_us - s->last_us : 0,
		.overflow = s == q->overflow,
	};
	memcpy(r->who, s->who, n);
}

/* into the rows in their order, if it belongs to the first @max. Return: rows now. */
static size_t row_put(struct quota_row *all, size_t n, size_t max, const struct quota_row *r)
{
	size_t at = n;

	while (at && before(r, &all[at - 1]))
		at--;
	if (at == max)
		return n;
	n = min_u64(n + 1, max);
	memmove(&all[at + 1], &all[at], (n - 1 - at) * sizeof(*all));
	all[at] = *r;
	return n;
}

size_t quota_rows(struct quota *q, struct quota_limits l, uint64_t now_us, struct quota_row *ret, size_t max)
{
	const struct quota_subject *s;
	struct quota_row r;
	size_t n = 0;

	pthread_mutex_lock(&q->lock);
	for (uint32_t i = 0; max && i < q->chains; i++)
		LIST_FOREACH(s, &q->chain[i], same) {
			row_fill(q, s, l, now_us, &r);
			n = row_put(ret, n, max, &r);
		}
	if (max && q->overflowed) {
		row_fill(q, q->overflow, l, now_us, &r);
		n = row_put(ret, n, max, &r);
	}
	pthread_mutex_unlock(&q->lock);
	return n;
}
