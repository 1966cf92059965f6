/*
 * Which run-time object a listener, cluster or policy of a snapshot has: the slot of its name and type. A name that goes on keeps its
 * slot, a new one gets a free one; a slot is free again when no snapshot that had the name is in use. Main thread.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define LISTENER_SLOTS 8192u
#define CLUSTER_SLOTS  8192u
#define POLICY_SLOTS   (131072u + 1u)

struct slot {
	char *name; /* NULL: free */
	uint32_t type;
	uint64_t first, last; /* numbers of the snapshots that have it; last: UINT64_MAX while it is in the newest */
};

struct slots {
	struct slot *at;
	uint32_t limit, n; /* n: all in use are below */
	uint32_t free;	   /* none below it is free */
};

/** slots_init() - Return: 0 or -ENOMEM */
int slots_init(struct slots *s, uint32_t limit);
void slots_finish(struct slots *s);

/** struct slots_name - one of those that the next snapshot has */
struct slots_name {
	const char *name;
	uint32_t type;
	uint32_t slot; /* answer */
	bool fresh;    /* answer: it was not in the newest */
	char *copy;    /* answer: of a fresh one's name, until slots_commit() or slots_forget() */
};

/**
 * slots_plan() - give each of @names its slot; nothing is changed but *names
 * Return: 0, -ENOSPC: too many are in use, those of snapshots that are still in use included; -ENOMEM. Then slots_forget(), too.
 */
int slots_plan(const struct slots *s, struct slots_name *names, uint32_t n);
/** slots_commit() - what slots_plan() said holds from snapshot @number on; others of the newest end with it */
void slots_commit(struct slots *s, struct slots_name *names, uint32_t n, uint64_t number);
/** slots_forget() - the plan is not carried out, or is already; zeroed @names are fine */
void slots_forget(struct slots_name *names, uint32_t n);
/**
 * slots_next_dead() - walk: slots that are not in the newest, and in no snapshot for which @alive says true
 * Return: false at the end. Then slots_drop() it.
 */
bool slots_next_dead(const struct slots *s, uint32_t *at, bool (*alive)(void *arg, uint64_t first, uint64_t last), void *arg);
void slots_drop(struct slots *s, uint32_t slot);
/** slots_need() - is there a slot whose objects are of snapshot @number, the last that had it? */
bool slots_need(const struct slots *s, uint64_t number);
