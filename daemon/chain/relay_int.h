/* Between relay.c and splice.c. */
#pragma once
#include "chain/daemon.h"
#include <string.h>

static inline struct leg *peer_of(struct conn *c, const struct leg *g)
{
	return &c->leg[!g->side];
}

static inline void moved(struct conn *c, int from, size_t n)
{
	c->bytes[from] += n;
	if (from == DST && !c->at[AT_FIRST])
		conn_phase(c, AT_FIRST);
	if (c->turn != from)
		bypass_turn(c, from);
	c->last_ms = c->w->loop.now_ms;
	report_bytes(c);
}

/* @n bytes of @max were handed to the session, and there may be more: does the peer's window, or the tunnel's, end with them? */
static inline void leg_pulled(struct conn *c, struct leg *to, size_t n, size_t max)
{
	if (n == max && h2_window(&to->s) <= n)
		leg_stuck(c, to);
}

/* credit for bytes that came from a stream and have left (or never will) */
static inline void credit(struct leg *from, size_t n)
{
	if (from->kind == LEG_STREAM && n)
		h2_consumed(&from->s, n);
}

static inline void read_failed(struct conn *c, struct leg *from, int e)
{
	conn_end(c, from->side == SRC ? END_SRC_RESET : END_DST_RESET, "read: %s", strerror(e));
}

static inline void write_failed(struct conn *c, struct leg *to, int e)
{
	conn_end(c, to->side == SRC ? END_SRC_RESET : END_DST_RESET, "write: %s", strerror(e));
}

/* bytes came although their other end takes no more */
static inline void not_taken(struct conn *c, struct leg *to)
{
	conn_end(c, to->side == SRC ? END_SRC_RESET : END_DST_RESET, "bytes for a side that has ended");
}
