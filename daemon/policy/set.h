/*
 * Inside a compiled set: what compile.c and index.c write, and facts.c, decide.c and explain.c read. See compile.c for the values,
 * index.c for how rules are found.
 */
#pragma once
#include "base/clean.h"
#include "model/config.h"
#include "policy/policy.h"
#include <assert.h>

/* ---- inputs: channels are texts, each absent, unclear or a value */
enum channel {
	CH_PRINCIPAL,
	CH_TRUST_DOMAIN,
	CH_NAMESPACE,
	CH_SERVICE_ACCOUNT,
	CH_AUTHORITY, /* with its port */
	CH_METADATA,  /* and on: by index of the name */
	CH_HOST = CH_METADATA + POLICY_NAMES_MAX, /* the authority without its port */
	CHANNELS,
};
static_assert(CH_AUTHORITY == (int)POLICY_AUTHORITY && CH_METADATA == (int)POLICY_METADATA, "text fields are channels");
enum state { ABSENT, UNCLEAR, VALUE };

/* ---- rules */
enum {
	M_NEGATE = 1,
	M_PRESENT = 2,
	M_DENY = 4,  /* of a DENY policy: doubt is true */
	M_EMPTY = 8, /* no value: never true */
};
struct text {
	uint32_t at, n; /* in heap */
};
struct net {
	uint8_t ip[16], bits;
};
struct match {
	uint8_t field, flags; /* enum policy_field, M_ */
	uint16_t name;	      /* metadata: index in names */
	uint32_t at;	      /* its values, in heap: struct text, struct net, struct cfg_ports, or uint32_t */
	uint32_t n[3];	      /* texts: exact, prefixes, suffixes; nets: IPv4, IPv6; others: [0]. Each part sorted for a search */
};
struct clause { /* a rule */
	uint32_t policy, rule;
	uint32_t match;	 /* in heap */
	uint16_t n;	 /* of them */
	bool empty;	 /* never matches */
	bool everywhere; /* its policy is: one place in memory less to look at */
};
struct pol {
	uint32_t name; /* in heap, NUL-terminated */
	uint32_t clause, n_rules, values;
	uint32_t points, n_points; /* in heap: points of its scope, sorted */
	uint8_t action;
	bool dry_run, everywhere, elsewhere;
};
/* clauses are ordered by class, then as given */
enum rank { RANK_DENY, RANK_ALLOW, RANK_DRY_DENY, RANK_DRY_ALLOW, RANKS };

/* ---- index */
enum shape {
	SHAPE_EXACT,
	SHAPE_PREFIX,
	SHAPE_SUFFIX,
	SHAPE_UNCLEAR,
	SHAPE_SOURCE4,
	SHAPE_SOURCE6,
	SHAPE_DESTINATION4,
	SHAPE_DESTINATION6,
	SHAPE_PORT,
	SHAPE_LISTENER,
	SHAPE_POINT,
};
struct type { /* one thing that can be looked up, if the input has it */
	uint8_t shape, channel;
	uint16_t n; /* bytes of a prefix or suffix, bits of a network */
	bool used;  /* by a tuple */
};
#define TYPES_MAX  256u
#define TUPLE_MAX  4u
#define TUPLES_MAX 64u	/* of more than one type */
#define RUNS_MAX   (TUPLES_MAX + TYPES_MAX + 1u)
struct tuple { /* types that are looked up together */
	uint64_t start; /* of the hash: the types */
	uint8_t n, type[TUPLE_MAX];
};
struct slot {
	uint64_t key;
	uint32_t n;  /* clauses */
	uint32_t at; /* of them in posting; n 1: the clause itself */
};

struct policy_set {
	uint64_t seed;
	uint32_t n_policies, n_listeners, n_points, n_clauses, n_names;
	uint32_t rank_end[RANKS]; /* one past its last clause */
	uint32_t fields; /* bits: which any rule looks at */
	bool allow_everywhere, dry_allow_everywhere;
	struct pol *pol;
	struct clause *clause;
	uint8_t *point; /* by point: P_ */
	char *heap;	/* matches and values, those of one rule side by side: what is read together comes from memory together */
	struct text name[POLICY_NAMES_MAX]; /* of metadata */
	size_t bytes;
	/* the index; its memory is apart */
	void *index;
	struct type type[TYPES_MAX];
	uint32_t n_types, n_tuples, n_placed; /* tuples from n_placed on have SHAPE_POINT in them */
	struct tuple tuple[TUPLES_MAX + TYPES_MAX];
	uint32_t point_type; /* of SHAPE_POINT; TYPES_MAX: nothing is found by it */
	struct slot *slot;
	uint8_t *tag; /* of each slot: a byte of its key, 0: free. Most look-ups find nothing and end here, in a sixteenth of the memory */
	uint32_t slot_mask;
	uint32_t *posting, n_postings;
	uint32_t *rest, n_rest; /* clauses that cannot be looked up */
	uint32_t longest; /* clauses found by one look-up; unclear inputs apart */
};
enum { P_ALLOW = 1, P_DRY_ALLOW = 2 }; /* there is such a policy for this listener or cluster alone */

/** channel_of() - for fields whose values are texts */
static inline uint32_t channel_of(const struct match *m)
{
	return m->field == POLICY_METADATA ? (uint32_t)CH_METADATA + m->name : m->field;
}
/* what lies in heap at @at */
static inline const struct match *set_matches(const struct policy_set *s, const struct clause *c)
{
	return (const struct match *)(s->heap + c->match);
}
static inline const struct text *set_texts(const struct policy_set *s, const struct match *m)
{
	return (const struct text *)(s->heap + m->at);
}
static inline const struct net *set_nets(const struct policy_set *s, const struct match *m)
{
	return (const struct net *)(s->heap + m->at);
}
static inline const struct cfg_ports *set_ports(const struct policy_set *s, const struct match *m)
{
	return (const struct cfg_ports *)(s->heap + m->at);
}
static inline const uint32_t *set_ids(const struct policy_set *s, uint32_t at)
{
	return (const uint32_t *)(s->heap + at);
}
static inline const char *set_text(const struct policy_set *s, const struct text *t)
{
	return s->heap + t->at;
}
static inline uint32_t set_point(const struct policy_set *s, enum policy_place at, uint32_t id)
{
	return at == POLICY_AT_LISTENER ? id : s->n_listeners + id;
}

/** struct run - clauses, in ascending order, that may match */
struct run {
	const uint32_t *at, *end;
};
struct facts {
	struct slice text[CHANNELS];
	uint8_t state[CHANNELS];
	struct addr source, destination;
	uint16_t port;
	uint32_t listener, n_runs;
	uint64_t has[TYPES_MAX / 64], hash[TYPES_MAX]; /* by type */
	struct run run[RUNS_MAX];
	char authority[320]; /* in lower case */
};
static_assert(sizeof(struct facts) <= sizeof(struct policy_facts), "POLICY_LOOKED");

/* ---- index.c */
/** index_build() - Return: 0 or -ENOMEM. */
int index_build(struct policy_set *s);
#define XXH_INLINE_ALL
#include <xxhash.h>
/** index_hash() - of one thing of @type */
static inline uint64_t index_hash(const struct policy_set *s, uint32_t type, const void *p, size_t n)
{
	return XXH3_64bits_withSeed(p, n, s->seed + type * 0x9e3779b97f4a7c15u);
}
/** index_look() - in tuples from @t to @end that @has all types for, under @hash by type. Return: how many of @ret were written. */
uint32_t index_look(const struct policy_set *s, uint32_t t, uint32_t end, const uint64_t *has, const uint64_t *hash, struct run *ret);
/* ---- facts.c */
/** net_mask() - the first @bits of @ip, zeros behind */
void net_mask(const uint8_t ip[16], uint32_t bits, uint8_t ret[16]);
/* ---- decide.c */
/** scope_has() - is @p asked at @point? */
bool scope_has(const struct policy_set *s, const struct pol *p, uint32_t point);
/** match_ok() - Return: is it true? */
bool match_ok(const struct policy_set *s, const struct match *m, const struct facts *f);
/** match_state() - has @f what @m looks at? */
enum state match_state(const struct match *m, const struct facts *f);
