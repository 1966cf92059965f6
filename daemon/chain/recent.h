/*
 * What is remembered of connections after their end, for `aditctl conn explain ID` and `aditctl denied`. Per worker, bounded, in memory
 * that is allocated once: noting something is a few copies, no system call, no allocation, no lock.
 *
 *  * ended connections, the last ones: struct recent_conn. Those that never got through have a ring of their own, so that the good
 *    ones do not push them out.
 *  * denials: struct recent_denial, equal ones folded. When there is no room, the kind of denial that fills most of it loses its
 *    oldest, so a flood of one kind, by whomever, does not push out the others.
 *
 * Worker thread only; the main thread gets copies by orders (inspect_denied(), inspect_recent()).
 */
#pragma once
#include "model/addr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct conn;
struct worker;

enum denial {
	DENIAL_POLICY,	    /* a policy, or default-deny */
	DENIAL_DESTINATION, /* not among the destinations of an original_dst cluster */
	DENIAL_IDENTITY,    /* the peer's certificate is good, its id is not one of those accepted or expected */
	DENIAL_ROUTE,	    /* no route, or a loop */
	DENIAL_LIMIT,	    /* so many at the same time: connections, tunnels, waiting for a tunnel */
	DENIAL_RATE,	    /* so many per second */
	DENIAL_OVERLOAD,    /* memory, descriptors, CPU; draining */
	DENIAL_PROXY,	    /* no right to send a PROXY header, or a bad one */
	DENIAL_PEER,	    /* the peer agent said 401 or 403 */
	DENIALS
};
static inline const char *denial_str(enum denial d)
{
	static const char *const name[DENIALS] = {
		[DENIAL_POLICY] = "policy",
		[DENIAL_DESTINATION] = "destination",
		[DENIAL_IDENTITY] = "identity",
		[DENIAL_ROUTE] = "no-route",
		[DENIAL_LIMIT] = "limit",
		[DENIAL_RATE] = "rate",
		[DENIAL_OVERLOAD] = "overload",
		[DENIAL_PROXY] = "proxy",
		[DENIAL_PEER] = "peer",
	};

	return d < DENIALS ? name[d] : "?";
}

/** struct denial_facts - what is known when it happens; copied. Pointers may be NULL. */
struct denial_facts {
	enum denial kind;
	const char *listener, *cluster;	 /* names: where it entered; where it was refused, if a cluster did */
	const struct addr *src, *dst;	 /* dst: as asked for */
	const char *authority;		 /* the name asked for, when dst is none */
	const char *principal;		 /* of the source */
	const char *policy;		 /* "NAME/rules/N" */
	const char *why;		 /* a sentence */
	uint64_t conn;			 /* its number; 0: it never had one */
};
/** denied_note() - for what never became a connection. What ends with conn_end() is noted there. */
void denied_note(struct worker *w, const struct denial_facts *f);

#define RECENT_DENIALS	256u /* different ones, per worker */
#define RECENT_WHY	192u

/** struct recent_denial - one or many equal ones; address and number are those of the last */
struct recent_denial {
	uint64_t first_us, last_us; /* CLOCK_REALTIME */
	uint64_t n, conn;
	struct addr src, dst;
	uint8_t kind;		    /* enum denial */
	char listener[48], cluster[48], principal[192], authority[128], policy[96], why[RECENT_WHY];
};

/* when things were reached, after the start of a connection; conn_phase() notes it */
enum phase {
	AT_ROUTED, /* the chain is known and the policies have decided; before: its PROXY header */
	AT_NAMED,  /* the endpoint's address is known; before: DNS */
	AT_FIRST,  /* first byte of the destination */
	PHASES
};

/* its texts, one behind the other */
enum recent_text { RT_LISTENER, RT_CHAIN, RT_POLICY, RT_WHY, RT_PRINCIPAL, RT_PEER, RT_AUTHORITY, RT_ROUTE, RT_MOVER_WHY, RECENT_TEXTS };
#define RECENT_TEXT 328u

/** struct recent_conn - an ended connection */
struct recent_conn {
	uint64_t id, end_us /* CLOCK_REALTIME */, start_us, duration_us;
	uint64_t bytes[2], bypassed, spliced;
	struct addr src, orig_dst, dst;
	/* microseconds after the start, 0: never. begun: connect() called, or CONNECT sent, the last time; queue: so long it waited for a tunnel */
	uint32_t at[PHASES], begun_us, open_us, queue_us;
	uint32_t stuck_ms[2];			/* so long the leg could not be written */
	uint32_t tunnel_in, stream_in, tunnel_out, stream_out;
	uint16_t status, worker;
	uint8_t ending, by, mover, tries, n_via;
	uint8_t end[RECENT_TEXTS];		/* how long each text is */
	char text[RECENT_TEXT];			/* without NUL */
};

#define RECENT_BY 5
#define RECENT_MOVERS 4
extern const char *const recent_by[RECENT_BY], *const recent_mover[RECENT_MOVERS]; /* what `by` and `mover` mean */

struct recent {
	struct recent_denial *denial; /* RECENT_DENIALS */
	/* of each, by themselves, since all are looked through: hashes of what makes them equal; of listener, cluster, kind and policy */
	uint64_t key[RECENT_DENIALS];
	uint8_t group[RECENT_DENIALS];
	uint32_t n_denials;
	struct recent_ring {
		struct recent_conn *c;
		uint32_t size, n, next;
	} ended, failed;
	uint64_t seed;
};

/**
 * recent_init() - room for the last @conns connections, and a quarter of that, 16 at least, for those that failed; 0: for none
 * Return: 0 or -ENOMEM.
 */
int recent_init(struct recent *r, uint32_t conns, uint64_t seed);
void recent_finish(struct recent *r); /* zeroed memory is fine */

/** recent_end() - @c has ended: remembered, and noted as a denial if it was one. From conn_end(). */
void recent_end(struct conn *c);
/** recent_facts() - what would be remembered of @c if it ended now */
void recent_facts(const struct conn *c, struct recent_conn *ret);
/** recent_text() - Return: the text of @c, in @out. */
const char *recent_text(const struct recent_conn *c, enum recent_text which, char out[RECENT_TEXT]);
/** recent_each() - walk the ended ones: *i from 0 on. Return: the next, or NULL. */
const struct recent_conn *recent_each(const struct recent *r, uint32_t *i);
