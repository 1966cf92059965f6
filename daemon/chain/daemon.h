/*
 * The daemon as a whole, below people and configuration: workers, certificates, limits that all workers share. Main thread, except
 * where said.
 */
#pragma once
#include "base/err.h"
#include "chain/health.h"
#include "chain/kernel.h"
#include "chain/takeover.h"
#include "chain/limits.h"
#include "chain/overload.h"
#include "chain/worker.h"
#include <stdatomic.h>

/** struct changes - of what is in force; written by who changes it (control/) */
struct changes {
	uint64_t done, refused;
	uint64_t last_us; /* CLOCK_REALTIME of the last that came into force, the start included */
	struct err why;	  /* of the last, if it was refused; "" else */
};

struct swap; /* swap.c */
struct reap;

struct daemon {
	struct snapshot *snap;	  /* in force; ours. Those before it hang on it while somebody uses them */
	const struct config *cfg; /* its configuration; main thread */
	struct changes changes;
	struct slots listener_slots, cluster_slots, policy_slots;
	struct swap *swap;	  /* not NULL: a worker has not taken the newest snapshot yet */
	struct reap *reap;	  /* not NULL: a worker has not let go of removed objects yet */
	struct kernel kernel;
	struct health health;
	struct overload overload;
	struct worker *workers;
	uint32_t n_workers;
	struct tracing *tracing; /* NULL: nobody has ever traced */
	struct access_log *access_log;
	struct access_ring **rings;
	uint64_t start_us;		 /* CLOCK_MONOTONIC */
	_Atomic uint32_t connections;	 /* live, all workers */
	_Atomic uint64_t refused;	 /* by limits.max_connections */
	_Atomic uint32_t *per_listener, *per_cluster; /* live, by slot; for limits */
	_Atomic uint32_t drained;	 /* workers that have finished draining */
	int drained_fd;			 /* eventfd: a worker has drained */
	bool ready, draining;
	bool hold;			 /* workers do not accept before daemon_open() */
	struct spares *spares;		 /* takeover.c; the first worker's once it runs */
	bool sockets_shared;		 /* listening sockets are somebody else's, too; before workers look at it */
};

/**
 * daemon_create() - listeners bound; nothing runs yet
 * @first: taken, whatever comes of it
 * Return: 0 or -errno with the sentence.
 */
int daemon_create(struct daemon **ret, struct snapshot *first, struct err *reterr);
/**
 * daemon_create_from() - the same with sockets of others, who may still use them: those of @set that listeners want are taken
 * @hold: accept nothing and attach nothing to the kernel before daemon_open()
 */
int daemon_create_from(struct daemon **ret, struct snapshot *first, struct adopt *set, bool hold, struct err *reterr);
/** daemon_open() - after daemon_start(), when it was to hold: now it is ours */
void daemon_open(struct daemon *d);
int daemon_start(struct daemon *d, struct err *reterr);
/**
 * daemon_drain() - returns at once; daemon_drained() when all workers are empty or the time is over. What is still open in the last
 * @jitter_ms of @within_ms is closed one by one.
 */
void daemon_drain(struct daemon *d, uint64_t within_ms, uint64_t jitter_ms);
bool daemon_drained(const struct daemon *d);
void daemon_destroy(struct daemon *d); /* stops the workers */
/* ---- swap.c: what is in force ---- */
/**
 * daemon_swap() - @next comes into force: sockets are bound first, then each worker takes it between two turns of its loop. Connections
 * go on with what they began with. All or nothing: on an error nothing has changed.
 * @next: taken, unless there is an error
 * Return: 0, or -errno with the sentence; -EBUSY: a worker has not taken the last one yet.
 */
int daemon_swap(struct daemon *d, struct snapshot *next, struct err *reterr);
/** daemon_tick() - once a second, and after a swap: what nobody uses any more is freed */
void daemon_tick(struct daemon *d);
/** daemon_number() - give the first snapshot its slots. Return: 0 or -errno with the sentence. */
int daemon_number(struct daemon *d, struct snapshot *first, struct err *reterr);
void daemon_swap_finish(struct daemon *d); /* workers are gone */
/** listener_spread() - which worker gets a connection, as configured; @fd0: the first worker's socket */
void listener_spread(const struct cfg_listener *l, int fd0, uint32_t n_workers);

/** daemon_call() - run @c on worker @i and wait for it, a second at most. Return: 0, -EAGAIN (not posted), -ETIMEDOUT (@c must live on). */
struct call {
	struct order order;
	void (*fn)(struct worker *w, struct call *c);
	_Atomic uint32_t done;
};
int daemon_call(struct daemon *d, uint32_t i, struct call *c);
