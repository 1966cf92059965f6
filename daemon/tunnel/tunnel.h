/*
 * A tunnel: one connection between two agents that carries streams; accepted or dialled. It owns the socket, the records and the
 * HTTP/2 session, and keeps itself alive (PING when nothing was heard). What the streams mean is told to hooks.
 *
 * States:
 *   CONNECTING  TCP connect under way (dialled only)
 *   HANDSHAKE   TLS
 *   SETTLING    preface sent, waiting for the peer's SETTINGS; timeouts.handshake covers all up to here
 *   OPEN        streams may be opened
 *   DRAINING    no new streams; closes when the last one has ended
 *   CLOSED      gone; freed at the end of the turn
 * Worker thread only.
 */
#pragma once
#include "base/log.h"
#include "base/slab.h"
#include "codec/metadata.h"
#include "h2/session.h"
#include "model/snapshot.h"
#include "tls/record.h"

enum tunnel_state { TUNNEL_CONNECTING, TUNNEL_HANDSHAKE, TUNNEL_SETTLING, TUNNEL_OPEN, TUNNEL_DRAINING, TUNNEL_CLOSED, TUNNEL_STATES };

/* why its streams end, if it is not just lost */
enum tunnel_end { TUNNEL_END_LOST, TUNNEL_END_EXPIRED, TUNNEL_END_UNTRUSTED };

struct tunnel;
struct pool_peer;

/** struct tunnel_who - the far end; connections keep a reference beyond the tunnel's end, for their logs. One thread. */
struct tunnel_who {
	uint32_t refs;
	uint32_t tunnel; /* number */
	struct addr remote, local;
	struct tls_ctx *own; /* the context it was made with, a reference; NULL without TLS */
	const char *own_id;  /* our SPIFFE id on it, "" without TLS; in own */
	struct tls_peer tls; /* id "" without TLS */
};
struct tunnel_who *tunnel_who_get(struct tunnel_who *w);
void tunnel_who_put(struct tunnel_who *w); /* NULL is fine */

/** struct tunnel_hooks - what the layer above does with streams; one set per worker. Contracts as in struct h2_ops. */
struct tunnel_hooks {
	void (*request)(void *owner, struct tunnel *t, int32_t id, const struct header *h, size_t n, unsigned flags);
	void (*response)(void *owner, struct tunnel *t, struct h2_stream *s, const struct header *h, size_t n, unsigned flags);
	void (*data)(void *owner, struct h2_stream *s, const uint8_t *p, size_t n);
	void (*end)(void *owner, struct h2_stream *s);
	void (*closed)(void *owner, struct h2_stream *s, uint32_t code, bool by_peer);
	ssize_t (*pull)(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof);
	/*
	 * By pipe; NULL: never. pull_pipe as in struct h2_ops. room: may the bytes of @s that come next go into one? put: they are in @p,
	 * which is the hook's now; data() with NULL follows.
	 */
	ssize_t (*pull_pipe)(void *owner, struct h2_stream *s, size_t max, struct pipe **ret);
	bool (*room)(void *owner, struct h2_stream *s);
	void (*put)(void *owner, struct h2_stream *s, struct pipe *p);
	void (*refused)(void *owner, struct tunnel *t); /* the peer's id is not accepted, t->why says it; NULL: never mind */
	void (*batch)(void *owner); /* one read's data was given: write it before the input buffer is used again */
};

struct tunnels { /* all tunnels of a worker */
	struct loop *l;
	struct slab slab;
	const struct tunnel_hooks *hooks;
	void *owner;
	struct snapshot *snap; /* new tunnels are of this; the worker's, which keeps it */
	uint32_t next_id;
	uint32_t accepted; /* live */
	const struct tunnel *closing; /* within tunnel_close(): whose streams hooks.closed is called for */
};

struct tunnel {
	struct slab_head head;
	struct tunnels *all;
	struct loop *l;
	uint8_t state; /* enum tunnel_state */
	bool server, ping_out, worn;
	uint8_t watch; /* live traces that follow it */
	bool stale;	    /* dialled: another one is wanted in its place; it goes on until that is open */
	uint8_t end;	    /* enum tunnel_end */
	uint8_t rotate_tries;
	uint8_t drain_step; /* two-phase GOAWAY: 1 first sent, 2 last sent */
	uint32_t id;	   /* number for people; unique in the worker */
	struct rec rec;
	struct h2 h2;
	struct task task;
	struct timer timer;
	struct snapshot *snap;		     /* that listener, identity and the pool's cluster are of; kept */
	const struct cfg_listener *listener; /* accepted */
	struct pool_peer *peer;		     /* dialled */
	const struct cfg_identity *identity;
	struct tunnel_who *who;		     /* never NULL */
	struct metadata *md;		     /* the last that the peer sent: equal ones are shared */
	uint64_t opened_us, open_us /* when it became OPEN */, idle_ms /* since when without streams; 0: in use */, ping_ms, heard_ms;
	uint64_t expires;		     /* unix seconds: own or peer's certificate, whichever is first; 0: without TLS */
	uint64_t rotate_ms;		     /* to be replaced then; 0: not for now */
	uint64_t rx_seen;		     /* rec.rx_bytes at the last keep-alive tick */
	struct err why;			     /* of its end */
};

void tunnels_init(struct tunnels *ts, struct loop *l, uint32_t limit, const struct tunnel_hooks *hooks, void *owner);
void tunnels_finish(struct tunnels *ts); /* closes what is left */

/** tunnel_accept() - takes @fd. Return: 0, -EACCES: no identity for the address, or -ENOMEM (then the caller still has @fd). */
int tunnel_accept(struct tunnels *ts, int fd, const struct cfg_listener *l, const struct addr *remote);
/** tunnel_dial() - as @id, of the pool's snapshot; NULL only without TLS. Return: 0 and *ret, or -errno with the sentence. */
int tunnel_dial(struct tunnels *ts, struct pool_peer *peer, const struct cfg_cluster *c, const struct cfg_identity *id, const struct addr *to,
		struct tunnel **ret, struct err *reterr);
/** tunnel_adopt() - it goes on under @snap, which has its listener (@l; NULL: it was dialled) and its identity @id */
void tunnel_adopt(struct tunnel *t, struct snapshot *snap, const struct cfg_listener *l, const struct cfg_identity *id);
/** tunnels_renewed() - contexts of the snapshots that tunnels were adopted by may be others: who is not trusted now is closed, the rest replaced */
void tunnels_renewed(struct tunnels *ts);
/** tunnel_event() - epoll said so */
void tunnel_event(struct tunnels *ts, union ev_ref ref, uint32_t events);
/** tunnel_drain() - no new streams; @graceful: two-phase GOAWAY, else only when dialled: closes once empty */
void tunnel_drain(struct tunnel *t);
/** tunnel_close() - now; streams are closed with H2_LOST. @why for logs. */
void tunnel_close(struct tunnel *t, int error, const char *why);
/** tunnel_stream_ended() - who resets, refuses or forgets a stream says so (idle clock, draining, pool) */
void tunnel_stream_ended(struct tunnel *t);
/** tunnel_look() - which live traces follow it; @more: and these, too (watch.c) */
void tunnel_look(struct tunnel *t, uint8_t more);
#define tunnel_trace(t, kind, ...) trace((t)->l, (t)->watch, kind, TW(.tunnel = (t)->id), __VA_ARGS__)
/** tunnel_kin() - is the peer, by its certificate, of our trust domain? Then it may know why we refuse. */
bool tunnel_kin(const struct tunnel *t);
const char *tunnel_state_str(const struct tunnel *t);
