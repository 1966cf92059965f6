/*
 * All that a worker thread owns. Nothing of it is touched by another thread but: counters and series (read), the inbox.
 */
#pragma once
#include "base/log.h"
#include "chain/conn.h"
#include "chain/slots.h"
#include "net/dns.h"
#include "net/netns.h"
#include "obs/access.h"
#include <pthread.h>

#define CHUNKS 1024u	 /* pieces of DATA gathered from one read of a tunnel */
#define CHUNK_NONE 0xffffu

/* a piece of DATA in the tunnel's input buffer, on its way to a socket */
struct chunk {
	const uint8_t *p;
	uint32_t n;
	uint16_t next;
};

/**
 * struct endpoint - run-time state of a configured endpoint, per worker; counters are read by the main thread. It goes on from
 * configuration to configuration while its cluster has it; connections on their way to it keep it beyond that. So it points at none.
 */
struct endpoint {
	uint32_t refs;		/* its cluster's, its connections', a DNS query's */
	uint32_t slot;		/* of its cluster */
	struct addr address;	/* as struct cfg_endpoint */
	char *host;
	uint16_t port;
	uint64_t refresh_ms;
	struct addr addr[DNS_ADDRS];
	uint32_t n, next;
	bool looking;
	uint64_t fresh_until_ms;
	_Atomic uint64_t active, total, failed;
	_Atomic uint32_t known; /* published: addr[0] may be shown */
};

/** struct listener - a listener's socket and counters in this worker; by slot */
struct listener {
	const struct cfg_listener *cfg; /* of the newest snapshot that has it */
	struct worker *w;
	int fd; /* -1: internal, or its network namespace is not there */
	struct netns netns; /* where it listens */
	struct owner owner; /* asked there, if it is not ours: of the namespace with this inode number */
	uint64_t owner_ino;
	bool paused;
	struct timer resume;
	_Atomic uint64_t accepted, active, failed, bytes_in, bytes_out;
};

struct cluster {
	const struct cfg_cluster *cfg; /* of the newest snapshot that has it */
	struct endpoint **ep; /* cfg->n_endpoints of them; read by the main thread between swaps */
	uint32_t rr;
	struct netns netns; /* where it dials from */
	struct pool pool; /* tunnel clusters */
};

/** struct policy_counts - decisions of a policy: one per connection and listener or cluster passed */
struct policy_counts {
	_Atomic uint64_t allowed, denied, dry_allowed, dry_denied;
};
#define POLICY_COUNTS_DEFAULT (POLICY_SLOTS - 1u) /* the slot of what no policy decided */

/* what is shed under pressure: shed.c */
struct shed_idle {
	union ev_ref ref;  /* EV_CONN or EV_TUNNEL */
	uint64_t since_ms;
};
struct shed {
	struct timer timer;
	bool bound, visited;	 /* sockets are to be small; all have been made so, or free again */
	uint32_t socket, holder; /* where the walks are */
	struct shed_idle idlest[65]; /* the longest idle first; the last is room to move them */
	uint32_t n, next;
	uint64_t walk_ms;
};

struct worker {
	struct loop loop;
	struct daemon *d;
	pthread_t thread;
	bool started;
	struct slab conns;
	struct tunnels tunnels;
	struct snapshot *snap;	     /* what new connections get */
	struct listener **listeners; /* by slot */
	struct cluster **clusters;   /* by slot */
	struct dns *dns;
	struct whose whose;
	struct series_table series;
	struct access_ring access;
	struct recent recent; /* what was, for people */
	struct chunk *chunks;
	uint16_t n_chunks;
	struct conn *touched[CHUNKS];
	uint32_t n_touched;
	LIST_HEAD(, conn) joined; /* connections that the bypass moves */
	struct timer joined_timer, held_timer;
	uint64_t next_conn;
	struct policy_counts *policies; /* by slot */
	struct again again;
	struct log_rate failed_log, refused_log, dry_log;
	bool draining;
	bool closing; /* listeners: let no more handshakes begin, then close */
	struct timer drain;
	struct shed shed;
	struct timer places; /* namespaces are looked after */
	uint64_t drain_start_ms, drain_end_ms, drain_jitter_ms, drain_settle_ms;
	uint32_t drain_closed; /* connections that it ended */
} __attribute__((aligned(64))); /* no cache line is shared by two workers */

int worker_init(struct worker *w, struct daemon *d, uint32_t index);
int worker_start(struct worker *w);
/** worker_accept() - on the worker: connections may come now */
void worker_accept(struct worker *w);
void worker_join(struct worker *w);
void worker_finish(struct worker *w);
/**
 * worker_drain() - stop accepting, two-phase GOAWAY, wait for connections until @within_ms, then reset what is left; over the last
 * @jitter_ms of it one by one. On the worker. drain.c.
 */
void worker_drain(struct worker *w, uint64_t within_ms, uint64_t jitter_ms);
/** worker_end_all() - every connection ends so */
void worker_end_all(struct worker *w, enum ending e, const char *why);
void worker_listeners_close(struct worker *w);
extern const struct tunnel_hooks stream_hooks; /* streams.c */
/* ---- places.c: network namespaces ---- */
/** listener_open() - in its namespace; @probe: is the address free? Main thread before workers run, then the worker. Return: 0 or -errno. */
int listener_open(struct listener *s, bool probe, struct err *reterr);
void places_start(struct worker *w);
void places_finish(struct worker *w);
#define ACCEPT_FULL "limits.max_connections or the listener's max_connections is reached"
/** accept_refused() - somebody was refused before there was a connection: counted, noted, and logged, however many they are */
void accept_refused(struct worker *w, const struct cfg_listener *l, const struct addr *peer, enum denial kind, const char *why);
void accept_event(struct worker *w, uint32_t slot);
/** accept_all() - whoever waits in the queue: the socket is about to be closed */
void accept_all(struct listener *s);
void accept_all_of(struct listener *s, int from); /* in the queue of this socket, which is another of the listener's */
void accept_resume(struct timer *t, void *listener);
/* ---- objects.c: run-time objects; made by the main thread, used and freed by the worker ---- */
struct listener *listener_new(struct worker *w, const struct cfg_listener *l);
void listener_free(struct listener *s);
struct cluster *cluster_new(struct worker *w, const struct cfg_cluster *c);
void cluster_free(struct cluster *c);
struct endpoint *endpoint_new(const struct cfg_endpoint *e, const struct cfg_cluster *c);
bool endpoint_is(const struct endpoint *ep, const struct cfg_endpoint *e);
struct endpoint *endpoint_get(struct endpoint *ep);
void endpoint_put(struct endpoint *ep); /* NULL is fine */

/* ---- what `aditctl conn explain` wants to know ---- */

/** conn_phase() - it has got there now, if it had not before */
static inline void conn_phase(struct conn *c, enum phase p)
{
	uint64_t us = c->w->loop.now_us - c->start_us;

	if (!c->at[p])
		c->at[p] = us ? us > UINT32_MAX ? UINT32_MAX : (uint32_t)us : 1;
}

/*
 * How long a leg could not be written although there was something for it: a full socket, a stream without window. Twice the milliseconds,
 * plus one while it is stuck; then the clock has been taken off. 24 days, modulo.
 */
static inline void leg_stuck(struct conn *c, struct leg *g)
{
	if (!(g->stuck & 1))
		g->stuck = (g->stuck - 2 * (uint32_t)c->w->loop.now_ms) | 1;
}
static inline void leg_moves(struct conn *c, struct leg *g)
{
	if (g->stuck & 1)
		g->stuck = (g->stuck & ~1u) + 2 * (uint32_t)c->w->loop.now_ms;
}
static inline uint32_t leg_stuck_ms(const struct leg *g, uint64_t now_ms)
{
	return ((g->stuck & ~1u) + (g->stuck & 1 ? 2 * (uint32_t)now_ms : 0)) / 2;
}
