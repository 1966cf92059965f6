/*
 * Overload: how much is left of memory, descriptors and CPU time, and what is done about it before there is nothing left.
 *
 * A thread of its own looks (the main thread may be busy with a configuration or a request just then) and publishes, for each worker, one
 * number that its loop reads once per turn: loop/loop.h, enum pressure. What a worker does then is in shed.c.
 */
#pragma once
#include "kern/memcg.h"
#include "loop/loop.h"
#include <pthread.h>

struct daemon;
struct worker;

#define OVERLOAD_CONN_COST 16384   /* bytes, about, of a connection that is taken in: ours and the kernel's, until the next look */
#define OVERLOAD_TUNNEL_COST 131072 /* the same of a tunnel and its handshake */

/** struct overload_gauge - of one resource: its level, and since when it could be lower */
struct overload_gauge {
	uint8_t level; /* enum pressure */
	uint64_t calm_ms; /* 0: it could not */
};

/**
 * overload_step() - what level follows from a share. Up at once, as far as it goes; down one by one, each after a second during which the
 * share was OVERLOAD_HYSTERESIS points below what the level begins at.
 * @share: of what there is, in parts of 10000
 */
#define OVERLOAD_HYSTERESIS 500u
uint8_t overload_step(struct overload_gauge *g, const struct cfg_steps *s, uint32_t share, uint64_t now_ms);
/** overload_step_cpu() - the same for a worker's CPU: busy in parts of 10000, turns of @turn_ms */
uint8_t overload_step_cpu(struct overload_gauge *g, const struct cfg_overload *o, uint32_t busy, uint64_t turn_ms, uint64_t now_ms);

/* one worker, as the looking thread sees it */
struct overload_worker {
	_Alignas(64) _Atomic uint32_t pressure; /* read by the worker's loop */
	int schedstat;		/* of its thread; -1: not there */
	uint64_t ran_ns, at_ms; /* at the last look */
	uint64_t beat, beat_ms; /* turns, and when they changed last */
	uint32_t busy;		/* in parts of 10000 */
	uint64_t turn_ms;
	struct overload_gauge cpu;
};

/** struct overload_row - for people */
struct overload_row {
	bool enabled;
	uint8_t level;			    /* the highest of all; enum pressure */
	uint8_t memory, descriptors, cpu;   /* cpu: of the worker that has it worst */
	uint32_t memory_share, own_share, cgroup_share, descriptor_share, cpu_busy; /* parts of 10000 */
	uint64_t turn_ms;
	uint64_t buffered, memory_limit;    /* limits.memory */
	bool has_cgroup;
	uint64_t cgroup_used, cgroup_limit, cgroup_sock, oom_kill;
	char cgroup[128];
	uint64_t descriptors_used, descriptors_limit;
	uint32_t cgroup_full, cpu_some; /* PSI, avg10 times 100: our cgroup's memory; the machine's CPU */
	uint64_t changes;
};

struct overload {
	pthread_mutex_t lock; /* of cfg, memory and row */
	struct cfg_overload cfg;
	uint64_t memory;      /* limits.memory */
	struct overload_row row;
	_Atomic int64_t credit; /* bytes of memory that may be taken in until the next look; INT64_MAX: no matter how many */
	_Atomic uint64_t sock_budget; /* bytes that the buffers of all connections' sockets may have; 0: no limit of ours is charged for them */
	_Atomic bool dire;    /* it is the cgroup's memory that is nearly used up, not only limits.memory, which windows keep */
	struct overload_worker *workers;
	pthread_t thread;
	bool started;
	_Atomic bool stopping, hurry; /* hurry: a look was asked for already */
	int wake; /* eventfd: stop, or look at once */
	/* the looking thread's own */
	struct memcg memcg;
	struct overload_gauge memory_gauge, descriptor_gauge;
	uint64_t memcg_ms, cpu_ms, trim_ms;
};

int overload_init(struct daemon *d);
/** overload_start() - when the workers run. Return: 0 or -errno. */
int overload_start(struct daemon *d);
/** overload_stop() - before the workers are taken apart */
void overload_stop(struct daemon *d);
void overload_finish(struct daemon *d);
/** overload_configure() - what @cfg says is in force from the next look on. Main thread. */
void overload_configure(struct daemon *d, const struct config *cfg);
/** overload_admit() - may @cost more bytes be taken in? Worker threads. */
bool overload_admit(struct daemon *d, int64_t cost);
/** inspect_overload() - any thread */
void inspect_overload(struct daemon *d, struct overload_row *ret);

/* ---- shed.c; worker threads ---- */
/** shed_pressed() - the loop read another pressure than in its last turn */
void shed_pressed(void *worker);
/** shed_refuses() - must @w refuse a connection, or (@tunnel) a tunnel, now? Then why; NULL: no. */
const char *shed_refuses(struct worker *w, bool tunnel);
/** shed_pauses() - must nothing be accepted now? */
bool shed_pauses(const struct worker *w);
/** shed_socket() - a socket that was accepted or made: its buffers, where memory is limited or short */
void shed_socket(const struct worker *w, int fd);
