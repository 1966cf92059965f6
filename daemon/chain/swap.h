/*
 * A change of what is in force, while it is being carried out: what swap.c, swap_prepare.c, swap_take.c and reap.c share. Main thread,
 * except swap_take().
 */
#pragma once
#include "chain/daemon.h"
#include <string.h>
#include <time.h>

struct swap_listener {
	bool fresh, door;      /* a new object; its socket changes */
	uint32_t from;	       /* slot that had sockets at this address; UINT32_MAX: none */
	int *fd;	       /* by worker: newly bound; -1: its namespace is not there */
	struct listener **obj; /* by worker, if fresh */
};

struct swap_cluster {
	bool fresh, renew, moved; /* a new object; its tunnels have other settings; another network namespace */
	struct cluster **obj;	  /* by worker, if fresh */
	struct endpoint ***ep;	  /* by worker, if not: the new endpoints; then the old ones, for us to free */
	uint32_t n_old;
};

struct swap_order {
	struct order order;
	struct swap *s;
	int *was; /* by slot: sockets between two listeners */
};

struct swap {
	struct daemon *d;
	struct snapshot *next, *old;
	struct slots_name *listener_name, *cluster_name, *policy_name;
	struct swap_listener *listener; /* by index in next */
	struct swap_cluster *cluster;	/* by index in next */
	const struct cfg_listener **had, **has; /* by slot: the old configuration's, the new one's; NULL: none */
	bool *stays;			 /* by slot: a listener whose sockets stay as they are */
	bool *cluster_stays;		 /* by slot */
	struct access_log *log; /* opened, if another is wanted */
	bool relog;
	struct swap_order *orders;
	_Atomic uint32_t taken;
};

/* ---- swap_prepare.c: all that can fail */
int swap_prepare_listener(struct swap *s, uint32_t i, struct err *reterr);
int swap_prepare_cluster(struct swap *s, uint32_t i, struct err *reterr);
/** swap_undo() - what they made goes: it is not carried out */
void swap_undo_listener(struct swap_listener *p, uint32_t n_workers);
void swap_undo_cluster(const struct swap *s, struct swap_cluster *p, uint32_t i);

/* ---- swap_take.c: the order to a worker */
void swap_take(struct order *o, void *owner);

/* ---- swap.c */
/** swap_settle() - have all workers taken the last one? Waits @ms at the most. */
bool swap_settle(struct daemon *d, uint32_t ms);
void swap_free(struct swap *s, bool undo);

static inline bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static inline bool same_texts(const char **a, uint32_t n, const char **b, uint32_t m)
{
	if (n != m)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(a[i], b[i]))
			return false;
	return true;
}

static inline bool same_identity(const struct cfg_identity *a, const struct cfg_identity *b)
{
	return same_text(a ? a->name : NULL, b ? b->name : NULL);
}

/* listeners of other types are names only */
static inline bool has_socket(const struct cfg_listener *l)
{
	return l->type != LISTENER_INTERNAL;
}

/* one configuration may be in two snapshots: then its slots are right already, and workers read them */
static inline void put_slot(uint32_t *at, uint32_t slot)
{
	if (*at != slot)
		*at = slot;
}

static inline void wait_ms(uint32_t ms)
{
	struct timespec t = {.tv_nsec = ms * 1000000L};

	nanosleep(&t, NULL);
}
