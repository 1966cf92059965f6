/*
 * Live traces, the workers' side: what is followed, and the ring that records go to. A trace follows connections and tunnels that fit its
 * filter; each of them has a mask of the traces that follow it (`watch`), zero nearly always, and a trace point is one branch on it.
 *
 * Ring: the worker writes, the main thread reads; full: the record is dropped and counted. All else here belongs to the worker.
 */
#pragma once
#include "base/ring.h"
#include "model/addr.h"

#define TRACES	       4u   /* at the same time */
#define TRACE_TEXT     1536u /* bytes of a record's text, cut */
#define TRACE_RING     (512u * 1024u)
#define TRACE_NAME     256u

enum trace_level { TL_EVENTS, TL_FRAMES, TL_BYTES, TL_LEVELS };

/* id, name in output, level from which it is shown */
#define TRACE_KINDS(X)                                                                              \
	X(OPEN, "open", TL_EVENTS)		 /* a connection that is followed from now on */    \
	X(POLICY, "policy", TL_EVENTS)		 /* a verdict: one per listener and cluster */      \
	X(ROUTE, "route", TL_EVENTS)		 /* chain, route, cluster */                        \
	X(DNS, "dns", TL_EVENTS)                                                                    \
	X(DIAL, "dial", TL_EVENTS)		 /* endpoint; connect and its result */             \
	X(POOL, "pool", TL_EVENTS)		 /* which tunnel, and why */                        \
	X(TUNNEL, "tunnel", TL_EVENTS)		 /* its states */                                   \
	X(TLS, "tls", TL_EVENTS)		 /* steps of the handshake */                       \
	X(HEADERS, "headers", TL_EVENTS)	 /* of CONNECT and its answer */                    \
	X(ESTABLISHED, "established", TL_EVENTS)                                                    \
	X(MOVER, "mover", TL_EVENTS)		 /* relay, splice, bypass: changes */               \
	X(HALF, "half-close", TL_EVENTS)                                                            \
	X(RESET, "reset", TL_EVENTS)                                                                \
	X(END, "end", TL_EVENTS)                                                                    \
	X(FRAME, "frame", TL_FRAMES)                                                                \
	X(NOTE, "trace", TL_EVENTS)		 /* of the trace itself */                          \
	X(READ, "read", TL_BYTES)                                                                   \
	X(WRITE, "write", TL_BYTES)
enum trace_kind {
#define X(id, name, level) TRACE_##id,
	TRACE_KINDS(X)
#undef X
	TRACE_KINDS_N
};

enum trace_by { TRACE_BY_NONE, TRACE_BY_CONN, TRACE_BY_ADDR /* port 0: any */, TRACE_BY_ID /* SPIFFE id */, TRACE_BY_LISTENER };
struct trace_filter {
	uint8_t by, level;
	uint64_t conn;
	struct addr addr;
	char text[TRACE_NAME]; /* id, listener */
};

/** struct trace_what - what a record is about; zero: not said */
struct trace_what {
	uint64_t conn;
	uint32_t tunnel, stream;
	uint8_t side; /* leg: 0 source, 1 destination; FRAME: 0 received, 1 sent */
	uint64_t a, b; /* READ, WRITE: bytes; FRAME: trace_frame(), and window, increment or error code */
};
struct trace_rec {
	uint64_t at_us; /* wall clock */
	struct trace_what what;
	uint8_t kind, traces /* mask */, worker;
	uint16_t len; /* of text */
	char text[];
};

/** trace_frame() - a frame's header in one number */
static inline uint64_t trace_frame(uint32_t length, uint8_t type, uint8_t flags)
{
	return (uint64_t)type << 40 | (uint64_t)flags << 32 | length;
}

struct tracer {
	struct bytering ring;
	struct trace_filter filter[TRACES];
	uint8_t at[TL_LEVELS]; /* masks: who wants records of that level */
};

struct loop;
void trace_emit(struct loop *l, uint8_t watch, enum trace_kind kind, const struct trace_what *what, const char *fmt, ...)
	__attribute__((format(printf, 5, 6), cold));
/** trace() - @watch of what it is about; nothing behind it is evaluated unless somebody looks */
#define trace(l, watch, kind, what, ...)                                     \
	do {                                                                 \
		if (__builtin_expect((watch) != 0, 0))                       \
			trace_emit(l, watch, kind, &(struct trace_what)what, __VA_ARGS__); \
	} while (0)
#define TW(...) { __VA_ARGS__ }

/* which traces follow what has this; 0 when nobody traces */
uint8_t trace_by_conn(const struct loop *l, uint64_t id);
uint8_t trace_by_addr(const struct loop *l, const struct addr *a);
uint8_t trace_by_id(const struct loop *l, const char *id /* NULL, "": none */);
uint8_t trace_by_listener(const struct loop *l, const char *name);
/** trace_filter_set() - trace @slot from now on (NULL: no more); the worker's thread */
void trace_filter_set(struct loop *l, struct tracer *t, uint32_t slot, const struct trace_filter *f);
