/*
 * What would become of a connection: which listener takes it, which routes and policies of each stage match it and why the others do
 * not, where it ends up. Nothing is sent. The decisions are those of stage.c, asked with the same input; what stands beside them is why.
 *
 * explain_entry() and explain_steps() are pure over a configuration. explain_connection() adds what only the running daemon knows
 * (explain_out.c): accepted identities, endpoints, names, tunnels, limits, movers. Main thread.
 */
#pragma once
#include "base/text.h"
#include "chain/stage.h"
#include "codec/authority.h"
#include "codec/codec_types.h"

struct daemon;

#define EXPLAIN_HEADERS 64u /* of the CONNECT, those that are made up here included */
#define EXPLAIN_POLICIES 200u /* told per place, beside those that match */

/** struct explain_ask - the connection that is asked about; NULL and AF_UNSPEC: not said */
struct explain_ask {
	struct addr src, dst;	    /* the application's view */
	const char *listener;	    /* where it enters; NULL: found out */
	const char *principal;	    /* of the source */
	const char *authority;	    /* NAME:PORT or ADDR:PORT of the CONNECT, or of a PROXY header */
	const struct header *headers; /* of the CONNECT, names in lower case */
	size_t n_headers;
	const struct header *members; /* of its baggage */
	size_t n_members;
	const struct metadata *md;  /* of a connection that there is: in place of both */
	bool (*here)(void *arg, const struct addr *a); /* is it an address of this node? NULL: only loopback is */
	void *here_arg;
};

enum explain_verdict {
	EXPLAIN_GO,
	EXPLAIN_NO_ROUTE,
	EXPLAIN_DENIED,
	EXPLAIN_LOOP,
	EXPLAIN_BAD,
	EXPLAIN_IDENTITY,
	EXPLAIN_LIMIT,
	EXPLAIN_ELSEWHERE
};
const char *explain_verdict_str(enum explain_verdict v); /* "go", "no-route", ... */

/** struct explain_way - what has been found out so far. Owner finishes it with explain_way_finish(); zeroed at first. */
struct explain_way {
	enum explain_verdict verdict;
	struct err why; /* of what is not EXPLAIN_GO */
	const struct cfg_listener *entry;
	struct stages stages;
	struct addr src, wanted; /* as the stages see it; wanted: the original destination, AF_UNSPEC: the name in authority */
	const char *principal;
	const struct cfg_workload *workload; /* of the application that opens it; NULL: none, or not known */
	/* what the context refers to */
	struct stage_context ctx;
	struct metadata *md;
	struct header h[EXPLAIN_HEADERS];
	char *baggage, named[AUTHORITY_HOST_MAX + 16];
	char text[ADDR_STR];
};
void explain_way_finish(struct explain_way *w);

/**
 * explain_entry() - by which listener it enters; member "entry" of @j: listener, how, why
 * Return: 0 with w->entry and w->ctx set; or w->verdict is EXPLAIN_ELSEWHERE (it enters none) or EXPLAIN_BAD; or -EINVAL with the
 * sentence when the question is wrong, -ENOMEM.
 */
int explain_entry(const struct config *cfg, const struct explain_ask *ask, struct explain_way *w, struct json *j, struct err *reterr);
/**
 * explain_steps() - the stages from w->entry on, as objects of an array that the caller has opened
 * @from: index in w->stages where this part begins: 0, or behind the short way
 * Return: 0 (w->verdict says more) or -ENOMEM.
 */
int explain_steps(const struct config *cfg, struct explain_way *w, uint32_t from, struct json *j);

struct conn_row;
/**
 * explain_conn() - the live or remembered connection @id, as members of an object that the caller has opened
 * @ret_row:	its row while it is live, id 0 else
 * Return: 0, -ENOENT: neither live nor remembered, or -errno.
 */
int explain_conn(struct daemon *d, uint64_t id, struct json *j, struct conn_row *ret_row);
/** explain_connection() - all of it, as members of an object that the caller has opened. Return: 0, or -errno with the sentence. */
int explain_connection(struct daemon *d, const struct explain_ask *ask, struct json *j, struct err *reterr);
