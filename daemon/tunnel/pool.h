/*
 * Tunnels that this worker dialled, by peer: (cluster, identity, address). A cluster fixes TLS settings and accepted peer ids, and the
 * identity, too, unless that is the workload's: streams of different identities never share a tunnel. A new stream takes the fullest tunnel with room; when none
 * has, another is dialled as far as the limits allow and the stream waits in line, bounded in number and time. A tunnel that was
 * full is used again as soon as it has room. First come, first served: connections reach the other side in order.
 * Worker thread only.
 */
#pragma once
#include "base/log.h"
#include "net/netns.h"
#include "tunnel/tunnel.h"

struct pool_wait {
	TAILQ_ENTRY(pool_wait) link;
	struct pool_peer *peer; /* while queued */
	uint64_t since_us;
	uint8_t watch;	/* live traces that follow who waits, and what it is called there */
	uint64_t trace_id;
	/* @t is OPEN with room, or NULL with the reason. May call pool_get() again. */
	void (*ready)(struct pool_wait *w, struct tunnel *t, int error, const char *why);
};
TAILQ_HEAD(pool_queue, pool_wait);

#define POOL_TUNNELS_MAX 64u
#define POOL_IDENTITY	 65u /* names have at most 64 bytes */

struct pool_peer {
	LIST_ENTRY(pool_peer) link;
	struct pool *pool;
	struct addr to;
	char identity[POOL_IDENTITY]; /* name of ours, where the cluster does not fix it; else "" */
	uint32_t n;		/* tunnels, in any state but CLOSED */
	struct tunnel *t[POOL_TUNNELS_MAX];
	uint32_t queued, busy /* its functions are on the stack */;
	struct pool_queue queue;
	struct tunnel *last;	/* took the last stream; NULL: none, or gone */
	bool unproved;		/* streams were opened on last since its last fence */
	bool fence;		/* a PING is on its way on last: nothing is opened until it is back */
	uint64_t fence_s;	/* fences in this second */
	uint32_t fences;
	struct timer fence_timer; /* a fence lasts a quarter of a second at the most */
	struct timer timer;	/* the head of the queue times out */
	struct err why;		/* why the last dial failed */
	struct log_rate log;
};

struct pool { /* one per tunnel cluster and worker */
	struct tunnels *ts;
	const struct cfg_cluster *cluster;
	struct snapshot *snap; /* that cluster is of; who owns the pool keeps it. May be NULL without TLS */
	struct netns *netns; /* tunnels are dialled from there; NULL: from ours. Set after pool_init(), not owned */
	LIST_HEAD(, pool_peer) peers;
};

void pool_init(struct pool *p, struct tunnels *ts, struct snapshot *snap, const struct cfg_cluster *c);
/** pool_adopt() - it goes on as @c of @snap; @renew: other settings of its tunnels: those that are there take no new streams */
void pool_adopt(struct pool *p, struct snapshot *snap, const struct cfg_cluster *c, bool renew);
void pool_finish(struct pool *p); /* tunnels are closed by tunnels_finish() before */
/**
 * pool_get() - a tunnel for one stream to @to
 * @id: whose it is to be, where the cluster has `identity: workload`; of any snapshot. @w->ready is called at once or later, exactly once, unless pool_cancel()
 * Return: 0, or -EBUSY (queue full), -ENOMEM: ready() was not and will not be called.
 */
int pool_get(struct pool *p, const struct addr *to, const struct cfg_identity *id, struct pool_wait *w, bool *ret_waited);
void pool_cancel(struct pool_wait *w); /* not queued: nothing happens */
/** from tunnel.c */
void pool_tunnel_changed(struct pool_peer *e); /* opened, got room, new settings */
void pool_tunnel_gone(struct pool_peer *e, struct tunnel *t, int error);
void pool_replace(struct pool_peer *e); /* stale ones want another: dial, if none is coming */
void pool_fence_passed(struct pool_peer *e); /* the fence's PING was answered */
void pool_drain(struct pool *p); /* all tunnels close once empty */
/** struct pool_look - what a stream to an address would meet now, @id as in pool_get(); nothing is changed */
struct pool_look {
	uint32_t open, opening, draining; /* tunnels */
	uint32_t streams, room;		  /* of the open ones together */
	uint32_t takes;			  /* number of the one that would take the next stream; 0: none */
	uint32_t takes_streams, takes_room;
	uint32_t queued;
	bool may_dial;			  /* another tunnel is allowed */
	struct err why;			  /* why the last dial failed; "" */
};
void pool_look(const struct pool *p, const struct addr *to, const struct cfg_identity *id, struct pool_look *ret);
uint32_t pool_queued(const struct pool *p);
uint32_t pool_tunnels(const struct pool *p);
