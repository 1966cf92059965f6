/*
 * A snapshot: all that is in force at a time, as one immutable object. The main thread makes it (control/) and gives it to the workers
 * (chain/swap.c); what changes what is in force makes another one.
 *
 * Who uses it: each worker its current one; each connection the one it began with, so that a change never reaches into it; each
 * tunnel the newest that has its listener or cluster. A use is a count of its worker's own: workers share no cache line. The main
 * thread frees it when nobody uses it.
 *
 * Indexes (cfg_listener.id, cfg_cluster.id, an identity's place) belong to one snapshot. What outlives snapshots, counters and
 * sockets and pools, lies in run-time objects by slot: the same for the same name and type from snapshot to snapshot.
 */
#pragma once
#include "model/config.h"
#include <stdatomic.h>

struct tls_ctx;	     /* tls/ctx.h */
struct connect_self; /* tunnel/connect.h */
struct limits;	     /* chain/limits.h */
struct workload_counts; /* chain/whose.h */

struct snapshot_users {
	_Alignas(64) _Atomic uint32_t n;
};

struct snapshot {
	uint64_t number;	    /* 1, 2, ...: in the order in which they came into force; 0: not yet */
	struct config *cfg;
	struct tls_ctx **tls;	    /* by identity index */
	struct connect_self *self;  /* what we say of ourselves: by identity index; then without one; then by workload index */
	struct workload_counts **workloads; /* by workload index; the last: of none */
	struct limits *limits;	    /* what its limits have counted: since it came into force, or from the one before */
	uint32_t *policy_slot;	    /* by policy index: where its counters are; of its own memory */
	void (*cfg_free)(struct config *c); /* NULL: cfg is not ours; main thread */
	struct snapshot *next;	    /* the main thread's list, newest first */
	uint32_t n_workers;
	struct snapshot_users users[]; /* by worker */
};

/* by worker @w on its own thread; NULL is fine */
static inline struct snapshot *snapshot_get(struct snapshot *s, uint32_t w)
{
	if (s)
		atomic_store_explicit(&s->users[w].n, atomic_load_explicit(&s->users[w].n, memory_order_relaxed) + 1, memory_order_relaxed);
	return s;
}

static inline void snapshot_put(struct snapshot *s, uint32_t w)
{
	if (s)
		atomic_store_explicit(&s->users[w].n, atomic_load_explicit(&s->users[w].n, memory_order_relaxed) - 1, memory_order_release);
}

/* main thread, for a snapshot that is no worker's current one: does anybody use it? */
static inline bool snapshot_used(const struct snapshot *s)
{
	for (uint32_t i = 0; i < s->n_workers; i++)
		if (atomic_load_explicit(&s->users[i].n, memory_order_acquire))
			return true;
	return false;
}

/** snapshot_tls() - the context of @id, one of this snapshot's identities; NULL: without TLS */
static inline struct tls_ctx *snapshot_tls(const struct snapshot *s, const struct cfg_identity *id)
{
	return id ? s->tls[id - s->cfg->identities] : NULL;
}
