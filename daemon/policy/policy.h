/*
 * Decisions: may this connection pass this listener, or leave for this cluster? Pure: no descriptor, no clock, no log, and after
 * policy_compile() no allocation. A compiled set is immutable and read by all threads at once.
 *
 * At each listener and cluster the policies in its scope are asked, in this order:
 *   1. a DENY rule matches: denied
 *   2. there is no ALLOW policy: allowed
 *   3. an ALLOW rule matches: allowed
 *   4. otherwise: denied, by default
 * Policies in dry run take no part; what they would have changed is told beside the verdict.
 *
 * What a connection does not have (no certificate, no such header) matches no value. A negated match on it is true in a DENY
 * policy and false in an ALLOW policy, so that doubt denies; only `present` looks at absence itself: not present is true in both. Metadata
 * that the peer gives twice with different values has no value to be compared: in a DENY policy every match on it is true, in an
 * ALLOW policy none, but it is present.
 */
#pragma once
#include "base/err.h"
#include "model/metadata_block.h"
#include "model/policy.h"
#include "model/slice.h"

struct policy_set;

/**
 * policy_compile() - @p, in this order, for a configuration with so many listeners and clusters
 * Everything is copied: @p may go.
 * @seed:	random: peers must not know which texts share a place
 * Return: 0, -ENOMEM, or -EINVAL with the sentence: too many policies, metadata names or values, an id out of range.
 */
int policy_compile(const struct policy *p, uint32_t n, uint32_t n_listeners, uint32_t n_clusters, uint64_t seed, struct policy_set **ret,
		   struct err *reterr);
void policy_free(struct policy_set *s); /* NULL is fine */

/** struct policy_input - what is known of a connection; slices with p NULL are absent */
struct policy_input {
	struct slice principal, trust_domain, ns, sa; /* proven; the three are parts of the first */
	struct slice authority;			      /* host:port */
	struct addr source, destination;	      /* AF_UNSPEC: absent; their ports are not looked at */
	uint16_t port;				      /* 0: absent */
	uint32_t listener;			      /* id */
	const struct metadata *md;		      /* may be NULL */
};

#define POLICY_LOOKED 1152u /* in eights: 9 KiB, of which only what the set asks for is touched */
/** struct policy_facts - an input as a set sees it, on the caller's stack, for decisions at several places; refers to the input */
struct policy_facts {
	uint64_t opaque[POLICY_LOOKED];
};
void policy_look(const struct policy_set *s, const struct policy_input *in, struct policy_facts *ret);

enum policy_place { POLICY_AT_LISTENER, POLICY_AT_CLUSTER };

#define POLICY_DRY_MAX 16u
struct policy_verdict {
	bool allowed;
	/* what decided, as index of the policy given to policy_compile() and of its rule; POLICY_NONE: nothing did. Then it is allowed
	 * because there is no ALLOW policy, or denied by default. Of several that match, the first in the order given. */
	uint32_t policy, rule;
	/* policies in dry run each of which would alone have turned the verdict, in order, DENY first; at most POLICY_DRY_MAX of them */
	uint32_t n_dry;
	struct {
		uint32_t policy, rule;
		bool allow; /* so; else denied */
	} dry[POLICY_DRY_MAX];
	bool dry_default; /* with all ALLOW policies in dry run in force, it would be denied by default */
};
/** policy_decide() - at listener or cluster @id */
void policy_decide(const struct policy_set *s, const struct policy_facts *f, enum policy_place at, uint32_t id, struct policy_verdict *ret);

/* ---- for people ---- */

#define POLICY_DEFAULT	 "default-deny" /* named where no policy decided; no policy may be called so */
#define POLICY_RULE_NAME 96u
/** policy_rule_name() - "NAME/rules/N", or POLICY_DEFAULT for POLICY_NONE. Return: @out. */
const char *policy_rule_name(const struct policy_set *s, uint32_t policy, uint32_t rule, char out[POLICY_RULE_NAME]);
const char *policy_field_str(enum policy_field f); /* as in the configuration: "source_ip" */

/** policy_looks_at() - has any rule of any policy a match on @f? Without policies (@s NULL): no. */
bool policy_looks_at(const struct policy_set *s, enum policy_field f);

/** struct policy_info - of one policy of the set */
struct policy_info {
	const char *name;
	enum policy_action action;
	bool dry_run, elsewhere;
	uint32_t rules, values; /* values of all matches */
};
uint32_t policy_count(const struct policy_set *s); /* 0 for NULL */
void policy_info(const struct policy_set *s, uint32_t policy, struct policy_info *ret);

/** struct policy_cost - what a set takes, and what it makes of decisions */
struct policy_cost {
	size_t bytes;
	uint32_t rules, lookups /* per decision, at the most */, unindexed /* rules that every decision goes through */,
		longest; /* rules that share all that can be looked up: the most that one look-up leads to */
};
void policy_cost(const struct policy_set *s, struct policy_cost *ret);

/* why a match failed */
enum policy_why {
	POLICY_OTHER,	/* another value; negated: one of those */
	POLICY_ABSENT,	/* the connection has none */
	POLICY_UNCLEAR, /* it has several */
};
/** struct policy_step - one line of an explanation */
struct policy_step {
	uint32_t policy, rule; /* rule POLICY_NONE: the policy as a whole, behind its rules */
	bool matched;
	/* a match of the rule that failed, when not matched; all that failed are told */
	enum policy_field field;
	const char *name; /* metadata */
	bool negate, empty /* the rule has no matches, or one without values; field is not set */;
	enum policy_why why;
};
/**
 * policy_explain() - for each policy in scope, in the order given: a step per rule that matches, one per failed match of the others, and
 * one for the policy. Goes through all rules: not for the path of connections.
 */
void policy_explain(const struct policy_set *s, const struct policy_facts *f, enum policy_place at, uint32_t id,
		    void (*step)(void *arg, const struct policy_step *st), void *arg);
