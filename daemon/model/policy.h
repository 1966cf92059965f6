/*
 * Policies as plain data: who may connect to what. What config/ reads and policy/ compiles; immutable, and owned by whoever built it.
 *
 * A policy holds for listeners and clusters (its scope). Its rules are OR-ed; the matches of one rule are AND-ed; the values of one
 * match are OR-ed. A rule without matches never matches, nor does a policy without rules.
 */
#pragma once
#include "model/addr.h"
#include <stdbool.h>
#include <stdint.h>

struct cfg_ports; /* model/config.h */

#define POLICY_MAX	 65536u /* policies of one set */
#define POLICY_NAMES_MAX 64u	/* different metadata names of one set */
#define POLICY_NONE	 UINT32_MAX

enum policy_action { POLICY_ALLOW, POLICY_DENY };

/* what is looked at; always of the outermost leg: the one by which a connection entered this node */
enum policy_field {
	/* of the SPIFFE id that the peer's certificate proves; absent without one, or when it is of another form */
	POLICY_PRINCIPAL,	  /* the whole id */
	POLICY_TRUST_DOMAIN,
	POLICY_NAMESPACE,	  /* NS of spiffe://TD/ns/NS/sa/SA */
	POLICY_SERVICE_ACCOUNT,	  /* SA of it */
	POLICY_AUTHORITY,	  /* host:port asked for; values match with the port or without, in lower case */
	POLICY_METADATA,	  /* a header or baggage member: what the peer agent says, no proof */
	POLICY_SOURCE_IP,	  /* the client's address */
	POLICY_DESTINATION_IP,	  /* asked for; absent for a name until it is resolved */
	POLICY_DESTINATION_PORT,  /* asked for */
	POLICY_LISTENER,	  /* where it entered this node */
	POLICY_FIELDS
};
#define POLICY_TEXTS (POLICY_METADATA + 1) /* fields whose values are texts; they come first */

enum policy_text_kind { POLICY_EXACT, POLICY_PREFIX, POLICY_SUFFIX };
struct policy_text {
	enum policy_text_kind kind;
	const char *text; /* never empty */
};

/** struct policy_match - one condition; `negate`: none of the values may match */
struct policy_match {
	enum policy_field field;
	bool negate;
	bool present;	  /* "*": any value, as long as there is one. Counts beside the other values */
	const char *name; /* POLICY_METADATA: of the header or member, lower case as peers send it */
	union {
		const struct policy_text *texts;
		const struct cidr *nets;	  /* without ports */
		const struct cfg_ports *ports; /* from 1 on */
		const uint32_t *listeners;	  /* ids */
	};
	uint32_t n; /* of them; 0 without `present`: the rule never matches */
};
struct policy_rule {
	const struct policy_match *matches;
	uint32_t n;
};
struct policy_label {
	const char *key, *value;
};

struct policy {
	const char *name;
	enum policy_action action;
	bool dry_run;		/* only told what it would have decided */
	bool everywhere;	/* asked at every listener and cluster; else at those listed */
	bool elsewhere;		/* its labels are not those of this node: it is asked nowhere */
	const uint32_t *listeners, *clusters; /* ids */
	uint32_t n_listeners, n_clusters;
	const struct policy_label *labels; /* for which nodes it is */
	uint32_t n_labels;
	const struct policy_rule *rules;
	uint32_t n_rules;
};
