/*
 * Limits of listeners, clusters, and of whose a connection is: what they count. The limits themselves are the configuration's; the counts
 * are carried over by name when a configuration is replaced, so that a reload gives nobody a fresh bucket.
 *
 * Made and destroyed by the main thread; in between any worker uses it, without locks but the quotas' own.
 */
#pragma once
#include "model/snapshot.h"
#include "policy/quota.h"

struct conn;
struct daemon;
struct worker;

/** struct limit_place - a listener or cluster */
struct limit_place {
	uint32_t refs; /* of struct limits; main thread */
	struct rate rate, tunnel_rate;
	_Atomic uint64_t refused_connections, refused_rate, refused_tunnels;
};

struct limits {
	uint32_t n_listeners, n_clusters, n_principals, n_sources;
	struct limit_place **listener, **cluster; /* by id in its configuration */
	struct quota **principal, **source;	  /* by index of limits.principals, limits.sources */
};

/**
 * limits_create() - for @cfg
 * @before, @old:	those in force until now, for what has the same name; NULL: there are none. They stay as they are.
 * Return: 0 or -ENOMEM.
 */
int limits_create(struct limits **ret, const struct config *cfg, const struct limits *before, const struct config *old);
void limits_destroy(struct limits *l); /* no connection needs it any more; NULL is fine */

/** limits_subject() - is whose @c is within his limits? Once, before its chain is resolved. false: it has ended */
bool limits_subject(struct conn *c);
/** limits_listeners() - the rates of the listeners passed, from index @from of its stages on. false: it has ended */
bool limits_listeners(struct conn *c, uint32_t from);
/** limits_cluster() - the rate of its cluster. false: it has ended */
bool limits_cluster(struct conn *c);
/** limits_tunnel() - may @l take in one more tunnel? */
bool limits_tunnel(struct worker *w, const struct cfg_listener *l);
/** limits_leave() - @c has ended */
void limits_leave(struct conn *c);
/** limits_refused_listener(), limits_refused_cluster() - by max_connections: counted; @l, @cl: of @s; NULL: by the daemon's */
void limits_refused_listener(struct daemon *d, const struct snapshot *s, const struct cfg_listener *l);
void limits_refused_cluster(const struct snapshot *s, const struct cfg_cluster *cl);

/* ---- looking; main thread ---- */

/**
 * limits_look() - would a connection of @id (NULL: none), from @from, be within its subject's limits now? Nothing is taken.
 * Return: QUOTA_OK, or why not, with the sentence.
 */
enum quota_verdict limits_look(const struct snapshot *s, const char *id, const struct addr *from, uint64_t now_us, struct err *reterr);
bool limits_rate_left(const struct limit_place *p, const struct cfg_rate *r, uint64_t now_us); /* is there room for one more? */

enum limit_at { LIMIT_DAEMON, LIMIT_LISTENER, LIMIT_CLUSTER, LIMIT_PRINCIPAL, LIMIT_SOURCE };

struct limit_row {
	enum limit_at at;
	const char *name; /* of the listener, cluster or class; as long as the configuration */
	uint64_t active;
	uint32_t max_connections; /* 0: none */
	struct cfg_rate rate;	  /* per_second 0: none */
	uint32_t left;		  /* whole tokens in the bucket now; classes: 0 */
	struct cfg_rate tunnel_rate;
	uint64_t refused_connections, refused_rate, refused_tunnels;
	/* classes */
	uint32_t subjects, remember;
	uint64_t overflowed;
};
struct limit_subject_row {
	enum limit_at at;
	const char *name; /* of the class */
	struct quota_row r;
};
/** inspect_limits() - all that have a limit, or have refused; malloc'd. Return: 0 or -ENOMEM. */
int inspect_limits(struct daemon *d, struct limit_row **ret, size_t *ret_n);
/** inspect_limit_subjects() - of each class the @each who were refused most, then those with most connections; malloc'd */
int inspect_limit_subjects(struct daemon *d, size_t each, struct limit_subject_row **ret, size_t *ret_n);
