/*
 * A connection: two legs and what lies between. Leg 0 is the source (where it came in), leg 1 the destination. Each leg is a
 * socket or a stream; bytes go from one to the other, credit the other way.
 *
 * States, and what each permits:
 *   DIALING  accepted, routed, and on its way to the upstream: name look-up, waiting for a tunnel, TCP connect, CONNECT sent.
 *	      Bytes of the source are kept (bounded) or left in its socket.
 *   OPEN     both legs are there; bytes move.
 *   CLOSED   over: legs released, facts logged; freed at the end of the turn. Late events find the slot's generation changed.
 *
 * A direction is over when its source leg said in_done (FIN or END_STREAM was read) and all bytes went out, then the other leg gets
 * its FIN or END_STREAM: out_done. A connection is complete when both legs have both. Any other end is one of
 * enum ending (close.c has the table).
 */
#pragma once
#include "base/buf.h"
#include "chain/recent.h"
#include "chain/snapshot.h"
#include "chain/again.h"
#include "chain/stage.h"
#include "chain/whose.h"
#include "chain/tracing.h"
#include "kern/bypass.h"
#include "loop/loop.h"
#include "obs/series.h"
#include "policy/quota.h"
#include "tunnel/connect.h"
#include "tunnel/pool.h"

#define SHORT_MAX 3 /* tunnel endpoints of one connection that may be this node; the next is dialled, whoever it is */

enum conn_state { CONN_DIALING, CONN_OPEN, CONN_CLOSED, CONN_STATES };
enum leg_kind { LEG_NONE, LEG_SOCK, LEG_STREAM };
enum { SRC, DST };

enum ending {
	END_COMPLETE,	   /* both directions ended with FIN or END_STREAM */
	END_SRC_RESET,	   /* the source leg was reset */
	END_DST_RESET,	   /* the destination leg was reset */
	END_SRC_TUNNEL,	   /* the tunnel of the source leg was lost */
	END_DST_TUNNEL,	   /* the tunnel of the destination leg was lost */
	END_EXPIRED,	   /* a certificate of one of its tunnels ran out, and so did the grace */
	END_UNTRUSTED,	   /* the peer of one of its tunnels was revoked, or its CA or id is not accepted any more */
	END_BAD_REQUEST,   /* malformed CONNECT */
	END_HEADERS,	   /* CONNECT's header list too large */
	END_PROXY,	   /* bad or missing PROXY header */
	END_NO_ROUTE,
	END_DENIED,
	END_REVOKED,	   /* a policy that came later denies it: again.c */
	END_CONNECT,	   /* refused, no route to host, ... */
	END_CONNECT_TIME,  /* timed out */
	END_NO_NAME,	   /* DNS */
	END_NO_TUNNEL,	   /* no tunnel could be opened */
	END_QUEUE_FULL,
	END_QUEUE_TIME,
	END_PEER_DENIED,   /* the peer agent answered 401 or 403 */
	END_PEER_REFUSED,  /* the peer agent answered another status */
	END_OPEN_TIME,	   /* no answer to CONNECT */
	END_LIMIT,	   /* connection limit */
	END_RATE,	   /* rate limit */
	END_OVERLOAD,	   /* memory, descriptors or CPU are short */
	END_MEMORY,
	END_IDLE,
	END_KILLED,	   /* by an operator */
	END_SHUTDOWN,	   /* drain deadline */
	END_DRAINED,	   /* by the drain, before its deadline */
	ENDINGS
};

struct worker;
struct daemon;
struct cluster;
struct endpoint;

struct leg {
	uint8_t kind, side;
	bool readable, writable; /* sockets: as epoll's edges say */
	bool hup;		 /* sockets: FIN or error is waiting behind the bytes; read until 0 */
	bool mapped;		 /* sockets: in a sockmap; a short read does not mean that it is empty */
	bool held;		 /* sockets: not written for a millisecond, until the application has read what was redirected */
	bool urgent;		 /* sockets: urgent data came: reads stop at it, so a short one does not mean that it is empty */
	bool in_done, out_done;
	bool answered;		 /* stream, source: 200 was sent; destination: 200 was received */
	uint8_t bulk;		 /* sockets: large reads of late; splice.c */
	int fd;
	uint32_t sid;		 /* stream: its id, also after its end */
	uint32_t stuck;		 /* for how long it could not be written: leg_stuck() */
	struct h2_stream s;
	struct pipe *pipe;	 /* bytes that wait to be written to this leg, in front of q; NULL: none, never empty */
	struct buf q;		 /* bytes that wait to be written to this leg */
	struct tunnel_who *who;	 /* stream: the far end */
	struct metadata *md;	 /* stream: what the far end said */
};

struct conn {
	struct slab_head head;
	struct worker *w;
	struct snapshot *snap;	 /* in force when it came */
	struct task task;	 /* move more, or free */
	struct timer timer;	 /* dialing: deadline; open: idle */
	struct pool_wait wait;
	uint8_t state;		 /* enum conn_state */
	uint8_t ending;		 /* enum ending, once CLOSED */
	bool early;		 /* CONNECT is sent and not answered: what is pulled is kept in early_data */
	bool touched;		 /* has chunks of the batch being read */
	bool peer_md;		 /* the source's request carried peer metadata: answer in kind */
	bool traced;		 /* trace is set */
	bool counted;		 /* in the cluster's number of connections */
	bool chosen;		 /* ep's counters have it */
	bool mismatch;		 /* the source's metadata contradicts its certificate */
	bool has_uid, claimed;	 /* uid is known; so said the capture */
	bool workload_counted;
	bool revoked;		 /* what the stages say of policies is of the worker's snapshot, not of its own */
	bool proxy_wait;	 /* accepted; its PROXY header is awaited */
	uint8_t staged;		 /* so many of the stages' listeners count it as active */
	uint8_t n_via;		 /* tunnel endpoints on the way that are this node: the short way */
	struct endpoint *via[SHORT_MAX];
	uint16_t via_cluster[SHORT_MAX]; /* their clusters' ids */
	uint8_t first_end;	 /* 1 + the side whose FIN or END_STREAM came first */
	uint8_t watch;		 /* live traces that follow it */
	uint8_t tries;		 /* endpoints and re-dispatches used up */
	uint16_t status;	 /* of the CONNECT sent or received */
	uint16_t chunk_first, chunk_last; /* of the worker's chunk list, while touched */
	struct leg leg[2];
	struct stages stages;	 /* listeners passed, route and cluster */
	struct again_part *parts; /* what the parts of its chain were judged by; NULL: there is one, and it is the connection's */
	struct endpoint *ep;	 /* where it went; NULL: none chosen */
	struct addr src, orig_dst, dst;
	char *authority;	 /* of the CONNECT received, or the one to send; malloc'd */
	const struct cfg_workload *workload; /* whose it is: of whoever opened it on this node; NULL: nobody's that is known */
	const struct cfg_workload *owner;    /* of what was asked for by a tunnel; NULL: the node */
	uint64_t cgroup;	 /* id, of who opened it; 0: not asked, or not known */
	uint32_t uid;		 /* the same, if has_uid */
	char *principal;	 /* of the source, where no certificate on its leg says it: PROXY header, short way; malloc'd */
	uint8_t trace[24];	 /* trace and parent id, raw */
	struct buf early_data;	 /* copy of what was sent before the answer, for another try */
	struct quota_subject *quota; /* whose it is, where limits are counted per principal or source; NULL: not there */
	struct series *series;
	uint64_t bytes[2];	 /* read from leg 0 and written on; from leg 1 */
	uint64_t told[2];	 /* of them, how many the metrics have */
	uint64_t bypassed[2], spliced[2]; /* of them, what did not come to the agent, and what did not come to its memory */
	struct bypass_join byp;
	LIST_ENTRY(conn) joined; /* of worker.joined, while byp is open or being demoted */
	uint8_t turn;		 /* the leg that the last bytes came from */
	uint16_t turns, ask_at;	 /* changes of direction so far; the bypass is asked for at so many */
	uint16_t proxy_taken, proxy_sent; /* bytes of PROXY headers read from the source, written to the destination */
	uint32_t at[PHASES];	 /* microseconds after the start at which a phase was reached, 0: not */
	uint64_t bulk_seen, bulk_bypassed; /* bytes at the last judgement of bulk */
	uint64_t start_us, connect_us, open_us, queue_us; /* accepted; connect() called or CONNECT sent; open; waited for a tunnel */
	uint64_t last_ms;	 /* of the last byte */
	uint64_t id;
	char *why;		 /* of the ending, malloc'd; NULL: the table's text */
};

static inline struct conn *leg_conn(struct leg *g)
{
	return (struct conn *)((char *)(g - g->side) - offsetof(struct conn, leg));
}
/* of the listener passed at @stage, in the worker's table */
static inline uint32_t conn_slot(const struct conn *c, uint32_t stage)
{
	return c->snap->cfg->listeners[c->stages.id[stage]].slot;
}
static inline struct conn *stream_conn(struct h2_stream *s, int *ret_side)
{
	struct leg *g = (struct leg *)((char *)s - offsetof(struct leg, s));

	*ret_side = g->side;
	return leg_conn(g);
}

/** conn_look() - more is known of it: does a live trace follow it? */
#define conn_look(c)                                                  \
	do {                                                          \
		if (__builtin_expect((c)->w->loop.tracing != 0, 0))   \
			tracing_look(c);                              \
	} while (0)
#define conn_trace(c, kind, ...) trace(&(c)->w->loop, (c)->watch, kind, TW(.conn = (c)->id), __VA_ARGS__)
#define leg_trace(c, g, kind, n, ...) trace(&(c)->w->loop, (c)->watch, kind, TW(.conn = (c)->id, .side = (g)->side, .a = (uint64_t)(n)), __VA_ARGS__)

/* ---- accept.c ---- */
/** conn_new() - @l is of @snap */
struct conn *conn_new(struct worker *w, struct snapshot *snap, const struct cfg_listener *l);
void conn_free(struct conn *c);
/** conn_watch() - put a socket leg into epoll. Return: 0 or -errno. */
int conn_watch(struct conn *c, int side);
/** conn_go() - resolve the chain from @l on (it goes on there if it has stages already), count, and dial; or end it */
void conn_go(struct conn *c, const struct cfg_listener *l, struct stage_context *ctx);
void accept_header(struct conn *c, uint32_t events); /* a connection with proxy_wait became readable */
/** conn_principal() - the source's SPIFFE id; NULL: unknown */
const char *conn_principal(const struct conn *c);

/* ---- dial.c: from routed to OPEN ---- */
void dial_start(struct conn *c);
void dial_event(struct conn *c, uint32_t events);	 /* the TCP connect's */
void dial_answer(struct conn *c, struct tunnel *t, const struct header *h, size_t n); /* response headers */
bool dial_again(struct conn *c); /* the peer has not processed the stream: another tunnel. false: no more tries */
void dial_cancel(struct conn *c, bool failed);
/* for explain_out.c, too: the endpoint that the balance has first, NULL: one of two at random; may an original_dst cluster go there? */
struct endpoint *dial_first(struct cluster *cl);
bool dial_allowed(const struct cfg_cluster *cl, const struct addr *to);
/** dial_comes_back() - is @to, dialled by @cl, the very listener @l that it came in by? */
bool dial_comes_back(const struct daemon *d, const struct cfg_listener *l, const struct cfg_cluster *cl, const struct addr *to);
/** dial_wanted() - where the last listener passed was asked to connect to; AF_UNSPEC: a name, in c->authority */
struct addr dial_wanted(const struct conn *c);
/** dial_authority() - :authority for the cluster; @text is room for it. Return: its length. */
size_t dial_authority(const struct conn *c, char text[ADDR_STR], const char **ret);
void dial_trace(struct conn *c, char out[TRACEPARENT_LEN + 1]); /* traceparent; made up if the source gave none */

/* ---- short.c: the endpoint is this node ---- */
/** short_way() - the endpoint, chosen, at @to: is it a tunnel listener of ours? true: the connection goes on there, or has ended */
bool short_way(struct conn *c, const struct addr *to);
/**
 * short_listener() - which listener of this node would a tunnel of @cl to @to, dialled as @mine, lead to?
 * Return: NULL: none, *ret_why says why there is a tunnel
 */
const struct cfg_listener *short_listener(const struct worker *w, const struct snapshot *snap, const struct cfg_cluster *cl,
					  const struct cfg_identity *mine, const struct addr *to, const char **ret_why);

/* ---- judge.c: policies ---- */
/** judge_prepare() - @ctx will be judged, and counted as @c's */
void judge_prepare(struct conn *c, struct stage_context *ctx);
/** judge_end() - the stages say who denied it */
void judge_end(struct conn *c);
/** judge_address() - the name asked for is @to: do the policies allow that, too? false: the connection has ended */
bool judge_address(struct conn *c, const struct addr *to);
/** judge_name() - the policy and rule that denied it, or the last that allowed it; NULL: none did. Return: @out or NULL. */
const char *judge_name(const struct conn *c, char out[POLICY_RULE_NAME]);

/* ---- relay.c: bytes ---- */
void relay_open(struct conn *c); /* both legs are there now */
void relay_event(struct conn *c, int side, uint32_t events);
ssize_t relay_pull(struct conn *c, int side, uint8_t *dst, size_t max, bool *ret_eof);
void relay_data(struct conn *c, int side, const uint8_t *p, size_t n);
void relay_in_done(struct conn *c, int side);
void relay_batch(struct worker *w);
void relay_more(struct conn *c);
void relay_early_drop(struct conn *c);

/* ---- splice.c: bytes that do not come to our memory ---- */
/** leg_spliceable() - may the socket of leg @side be read and written by splice(2)? */
bool leg_spliceable(const struct conn *c, int side);
/** leg_waits() - is anything on its way to this leg that must go first? */
static inline bool leg_waits(const struct leg *g)
{
	return g->pipe || g->q.len;
}
/** splice_saw() - so many bytes came from @from in one go: is it bulk? */
void splice_saw(struct conn *c, struct leg *from, size_t n);
/** splice_pump() - socket to socket, at most about @max bytes, if it is worthwhile. Return: bytes read. */
size_t splice_pump(struct conn *c, struct leg *from, size_t max);
/** splice_flush() - leg.pipe to the socket; only if there is one. Return: 0, or -1 when the connection ended. */
int splice_flush(struct conn *c, struct leg *to);
/** splice_drop() - the connection ends: what its pipes hold is lost */
void splice_drop(struct conn *c);
/**
 * splice_pull() - as relay_pull(), but the bytes are in a pipe, which is the caller's then
 * Return: bytes, or -EAGAIN: relay_pull() may have some.
 */
ssize_t splice_pull(struct conn *c, int side, size_t max, struct pipe **ret);
/** splice_room() - may bytes of the stream at leg @side go straight into a pipe? Then splice_put() takes the pipe with them. */
bool splice_room(const struct conn *c, int side);
void splice_put(struct conn *c, int side, struct pipe *p);

/* ---- bypass.c: when a connection is joined, watched, demoted ---- */
/** bypass_opened() - from now on round trips are counted */
void bypass_opened(struct conn *c);
/** bypass_turn() - bytes came from leg @from, the last ones from the other; called between writes, any time */
void bypass_turn(struct conn *c, int from);
/**
 * bypass_holds() - must bytes for the leg @to wait until its application has read what was redirected? Asked before each write. Then it
 * is as if its socket were full, and written again in a millisecond: bypass_later().
 */
bool bypass_holds(struct conn *c, struct leg *to);
void bypass_later(struct conn *c, struct leg *to);
/** bypass_sync() - what the kernel has moved since is added to bytes, metrics and the idle clock */
void bypass_sync(struct conn *c);
/** bypass_end() - before the sockets are closed */
void bypass_end(struct conn *c);
void bypass_tick(struct timer *t, void *worker);
/** conn_mover() - what moves its bytes now: bypass, leg, splice or relay; over: what has moved most of them */
const char *conn_mover(const struct conn *c);
/** conn_mover_why() - why not a faster one; "" when there is none */
const char *conn_mover_why(const struct conn *c);

/* ---- close.c: endings ---- */
void conn_end(struct conn *c, enum ending e, const char *why_fmt, ...) __attribute__((format(printf, 3, 4)));
/** conn_complete() - is it over? then END_COMPLETE */
void conn_complete(struct conn *c);
void conn_stream_closed(struct conn *c, int side, uint32_t code, bool by_peer);
const char *ending_flags(enum ending e);
/** ending_by() - who ended it first: src, dst, peer (the other agent), adit */
const char *ending_by(const struct conn *c);
/** conn_in_done() - no more bytes will come from leg @side */
void conn_in_done(struct conn *c, int side);
const char *ending_text(enum ending e);
bool conn_set_state(struct conn *c, enum conn_state to);

/* ---- report.c ---- */
void report_open(struct conn *c);
/** report_bytes() - what has moved since the last call goes to the metrics; a few additions, called per write */
void report_bytes(struct conn *c);
void report_end(struct conn *c);
