/*
 * The daemon as a whole, below people and configuration: workers, certificates, limits that all workers share. Main thread, except
 * where said.
 */
#pragma once
#include "base/err.h"
#include "chain/health.h"
#include "chain/kernel.h"
#include "chain/worker.h"
#include <stdatomic.h>

struct daemon {
	const struct config *cfg;
	struct tls_ctx **tls; /* by identity index; read-only once started */
	struct kernel kernel;
	struct health health;
	struct worker *workers;
	uint32_t n_workers;
	struct access_log *access_log;
	struct access_ring **rings;
	uint64_t start_us;		 /* CLOCK_MONOTONIC */
	_Atomic uint32_t connections;	 /* live, all workers */
	_Atomic uint32_t *per_listener, *per_cluster; /* live, by id; for limits */
	_Atomic uint32_t drained;	 /* workers that have finished draining */
	int drained_fd;			 /* eventfd: a worker has drained */
	bool ready, draining;
};

/** daemon_create() - certificates loaded, listeners bound; nothing runs yet. Return: 0 or -errno with the sentence. */
int daemon_create(struct daemon **ret, const struct config *cfg, struct err *reterr);
int daemon_start(struct daemon *d, struct err *reterr);
/** daemon_drain() - returns at once; daemon_drained() when all workers are empty or the time is over */
void daemon_drain(struct daemon *d, uint64_t within_ms);
bool daemon_drained(const struct daemon *d);
void daemon_destroy(struct daemon *d); /* stops the workers */
/** daemon_call() - run @c on worker @i and wait for it, a second at most. Return: 0, -EAGAIN (not posted), -ETIMEDOUT (@c must live on). */
struct call {
	struct order order;
	void (*fn)(struct worker *w, struct call *c);
	_Atomic uint32_t done;
};
int daemon_call(struct daemon *d, uint32_t i, struct call *c);
