/*
 * Every ending, in one table and one function. A row says what each side is told:
 *   status	a CONNECT that was not answered yet gets it, with END_STREAM
 *   code	a stream that was answered (or that we opened) is reset with it
 *   sockets	FIN only when both directions are complete; else RST, so that a truncated transfer never looks complete
 * The rules of half-close are relay.c's (in_done, out_done): they are no endings.
 * Sources: RFC 9113 8.5 (CONNECT), 7 (codes); HBONE (interop C1.4, C1.5); response flags: Envoy's names (interop C7).
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define FAIL_LOG_MS 1000u

static const struct ending_row {
	uint16_t status;
	uint32_t code;
	const char *flags, *by, *text;
} table[ENDINGS] = {
	[END_COMPLETE] = { 0, NGHTTP2_NO_ERROR, "-", "both", "complete" },
	[END_SRC_RESET] = { 0, NGHTTP2_CONNECT_ERROR, "DC", "src", "the source reset the connection" },
	[END_DST_RESET] = { 503, NGHTTP2_CONNECT_ERROR, "UC", "dst", "the destination reset the connection" },
	[END_SRC_TUNNEL] = { 0, NGHTTP2_CONNECT_ERROR, "DC", "peer", "the source's tunnel was lost" },
	[END_DST_TUNNEL] = { 503, NGHTTP2_CONNECT_ERROR, "UC", "peer", "the destination's tunnel was lost" },
	[END_EXPIRED] = { 503, NGHTTP2_CANCEL, "LR", "adit", "a certificate expired" },
	[END_UNTRUSTED] = { 503, NGHTTP2_CANCEL, "LR", "adit", "the peer is no longer trusted" },
	[END_BAD_REQUEST] = { 400, NGHTTP2_PROTOCOL_ERROR, "DPE", "src", "malformed CONNECT" },
	[END_PROXY] = { 400, NGHTTP2_PROTOCOL_ERROR, "DPE", "src", "bad PROXY header" },
	[END_HEADERS] = { 431, NGHTTP2_ENHANCE_YOUR_CALM, "DPE", "src", "headers too large" },
	[END_NO_ROUTE] = { 404, NGHTTP2_REFUSED_STREAM, "NR", "adit", "no route" },
	[END_DENIED] = { 401, NGHTTP2_REFUSED_STREAM, "UAEX", "adit", "denied" },
	[END_REVOKED] = { 401, NGHTTP2_CANCEL, "UAEX", "adit", "policy revoked" },
	[END_CONNECT] = { 503, NGHTTP2_CONNECT_ERROR, "UF", "dst", "connect failed" },
	[END_CONNECT_TIME] = { 504, NGHTTP2_CONNECT_ERROR, "UF", "dst", "connect timed out" },
	[END_NO_NAME] = { 503, NGHTTP2_CONNECT_ERROR, "DF", "adit", "name resolution failed" },
	[END_NO_TUNNEL] = { 503, NGHTTP2_CONNECT_ERROR, "UF", "peer", "no tunnel" },
	[END_QUEUE_FULL] = { 503, NGHTTP2_REFUSED_STREAM, "UO", "adit", "queue full" },
	[END_QUEUE_TIME] = { 503, NGHTTP2_CONNECT_ERROR, "UT", "adit", "waited too long for a tunnel" },
	[END_PEER_DENIED] = { 401, NGHTTP2_CONNECT_ERROR, "UAEX", "peer", "denied by the peer agent" },
	[END_PEER_REFUSED] = { 503, NGHTTP2_CONNECT_ERROR, "UF", "peer", "refused by the peer agent" },
	[END_OPEN_TIME] = { 504, NGHTTP2_CANCEL, "UT", "peer", "no answer from the peer agent" },
	[END_LIMIT] = { 503, NGHTTP2_REFUSED_STREAM, "UO", "adit", "connection limit" },
	[END_RATE] = { 429, NGHTTP2_REFUSED_STREAM, "RL", "adit", "rate limit" },
	[END_OVERLOAD] = { 503, NGHTTP2_ENHANCE_YOUR_CALM, "OM", "adit", "overload" },
	[END_MEMORY] = { 503, NGHTTP2_INTERNAL_ERROR, "OM", "adit", "out of memory" },
	[END_IDLE] = { 503, NGHTTP2_CANCEL, "SI", "adit", "idle time-out" },
	[END_KILLED] = { 503, NGHTTP2_CANCEL, "LR", "adit", "closed by the operator" },
	[END_SHUTDOWN] = { 503, NGHTTP2_CANCEL, "LR", "adit", "drain deadline" },
	[END_DRAINED] = { 503, NGHTTP2_CANCEL, "LR", "adit", "closed by the drain" },
};

static const uint8_t conn_next[CONN_STATES] = {
	[CONN_DIALING] = BIT(CONN_OPEN) | BIT(CONN_CLOSED),
	[CONN_OPEN] = BIT(CONN_CLOSED),
	[CONN_CLOSED] = 0, /* freed by its task */
};

bool conn_set_state(struct conn *c, enum conn_state to)
{
	if (!(conn_next[c->state] & BIT(to)))
		return false;
	c->state = (uint8_t)to;
	return true;
}

const char *ending_flags(enum ending e)
{
	return table[e].flags;
}

const char *ending_by(const struct conn *c)
{
	if (c->ending == END_COMPLETE && c->first_end)
		return c->first_end == 1 + SRC ? "src" : "dst";
	return table[c->ending].by;
}

void conn_in_done(struct conn *c, int side)
{
	c->leg[side].in_done = true;
	conn_trace(c, TRACE_HALF, "%s from the %s", c->leg[side].kind == LEG_STREAM ? "END_STREAM" : "FIN", side == SRC ? "source" : "destination");
	if (!c->first_end)
		c->first_end = (uint8_t)(1 + side);
}

const char *ending_text(enum ending e)
{
	return table[e].text;
}

static void close_sock(struct leg *g, enum ending e)
{
	bool already = (e == END_SRC_RESET && g->side == SRC) || (e == END_DST_RESET && g->side == DST);

	if (g->fd < 0)
		return;
	if (e == END_COMPLETE || already)
		close(g->fd);
	else
		sock_reset(g->fd);
	g->fd = -1;
}

static void close_stream(struct conn *c, struct leg *g, enum ending e)
{
	const struct ending_row *r = &table[e];
	struct tunnel *t;

	if (!g->s.id)
		return;
	t = g->s.h->owner;
	if (e == END_COMPLETE) {
		h2_forget(&g->s);
	} else if (g->side == SRC && !g->answered && r->status) {
		/* what the next agent answered is passed on as it is */
		if ((e != END_PEER_REFUSED && e != END_PEER_DENIED) || c->status < 400 || c->status > 599)
			c->status = r->status;
		conn_trace(c, TRACE_HEADERS, "sent :status: %u", c->status);
		connect_refuse(&t->h2, g->s.id, c->status, whose_answer(c, t), tunnel_kin(t) ? c->why ? c->why : r->text : NULL);
	} else if (g->side == DST && !g->answered && !h2_may_reset_early(&t->h2)) {
		h2_forget(&g->s); /* reset when its answer comes: many early resets look like an attack on the peer */
	} else {
		h2_reset(&g->s, r->code);
	}
	tunnel_stream_ended(t);
}

static void uncount(struct conn *c)
{
	struct daemon *d = c->w->d;

	atomic_fetch_sub_explicit(&d->connections, 1, memory_order_relaxed);
	for (uint32_t i = 0; i < c->stages.n; i++)
		atomic_fetch_sub_explicit(&d->per_listener[conn_slot(c, i)], 1, memory_order_relaxed);
	if (c->counted)
		atomic_fetch_sub_explicit(&d->per_cluster[c->stages.cluster->slot], 1, memory_order_relaxed);
	for (uint32_t i = 0; i < c->n_via; i++) {
		atomic_fetch_sub_explicit(&d->per_cluster[c->via[i]->slot], 1, memory_order_relaxed);
		stats_bump(&c->via[i]->active, (uint64_t)-1);
	}
	limits_leave(c);
	whose_end(c);
	stats_gauge(&c->w->loop.stats, SG_CONNECTIONS, -1);
	for (int i = 0; i < 2; i++)
		stats_gauge(&c->w->loop.stats, SG_BUFFERED, -(int64_t)c->leg[i].q.len);
	splice_drop(c);
	relay_early_drop(c);
}

static void free_task(struct task *t)
{
	conn_free(container_of(t, struct conn, task));
}

/* connections that never got through; the access log has them all, this line is for who has none */
static void failed_log(struct conn *c)
{
	char src[ADDR_STR], more[LOG_MORE];

	/* END_NO_TUNNEL: the pool has said it */
	if (c->ending == END_SRC_RESET || c->ending == END_SRC_TUNNEL || c->ending == END_SHUTDOWN || c->ending == END_NO_TUNNEL ||
	    !log_rate_text(&c->w->failed_log, c->w->loop.now_ms, FAIL_LOG_MS, more))
		return;
	addr_str(&c->src, src);
	log_about(LOG_WARN, LA_CHAIN, (&(struct log_about){ .conn = c->id, .peer = src }),
		  "connection %llu from %s at listener '%s' failed: %s%s%s%s", (unsigned long long)c->id, src,
		 c->snap->cfg->listeners[c->stages.id[0]].name, table[c->ending].text, c->why ? ": " : "", c->why ? c->why : "", more);
}

void conn_end(struct conn *c, enum ending e, const char *fmt, ...)
{
	struct loop *l = &c->w->loop;
	bool was_open = c->state == CONN_OPEN;
	va_list ap;

	if (!conn_set_state(c, CONN_CLOSED))
		return;
	c->ending = (uint8_t)e;
	if (e != END_COMPLETE && fmt) {
		va_start(ap, fmt);
		if (vasprintf(&c->why, fmt, ap) < 0)
			c->why = NULL;
		va_end(ap);
	}
	timer_disarm(&l->timers, &c->timer);
	loop_defer_cancel(l, &c->task);
	bypass_end(c);
	dial_cancel(c, !was_open && e != END_SRC_RESET && e != END_SRC_TUNNEL);
	for (int i = 0; i < 2; i++) {
		if (c->leg[i].kind == LEG_SOCK) {
			close_sock(&c->leg[i], e);
			stats_inc(&l->stats, ST_SYS_OTHER);
		} else if (c->leg[i].kind == LEG_STREAM) {
			close_stream(c, &c->leg[i], e);
		}
	}
	report_end(c);
	conn_trace(c, TRACE_END, "%s%s%s; %s; sent %llu, received %llu bytes, mover %s", table[e].text, c->why ? ": " : "", c->why ? c->why : "",
		   ending_flags(e), (unsigned long long)c->bytes[SRC], (unsigned long long)c->bytes[DST], conn_mover(c));
	recent_end(c);
	uncount(c);
	if (!was_open)
		failed_log(c);
	log_dbg(LA_CHAIN, "conn %llu ended: %s%s%s", (unsigned long long)c->id, table[e].text, c->why ? ": " : "", c->why ? c->why : "");
	c->task.run = free_task;
	loop_defer(l, &c->task);
}

void conn_complete(struct conn *c)
{
	if (c->state == CONN_OPEN && c->leg[SRC].in_done && c->leg[SRC].out_done && c->leg[DST].in_done && c->leg[DST].out_done)
		conn_end(c, END_COMPLETE, NULL);
}

void conn_stream_closed(struct conn *c, int side, uint32_t code, bool by_peer)
{
	struct leg *g = &c->leg[side];
	const struct tunnel *t;

	if (c->state == CONN_CLOSED || (g->in_done && g->out_done))
		return;
	conn_trace(c, TRACE_RESET, "stream of the %s: %s%s", side == SRC ? "source" : "destination",
		   code == H2_LOST ? "its tunnel is lost" : nghttp2_http2_strerror(code), by_peer && code != H2_LOST ? ", from the peer" : "");
	if (c->state == CONN_DIALING && side == DST &&
	    (code == NGHTTP2_REFUSED_STREAM || (code == H2_LOST && !c->bytes[SRC] && !c->early_data.len)) && dial_again(c))
		return; /* the peer has not processed it, or nothing but the CONNECT can have been */
	if (g->in_done && code == NGHTTP2_NO_ERROR && by_peer) {
		/* it said all it had to say and does not want the rest: not a fault */
		g->out_done = true;
		conn_complete(c);
		return;
	}
	t = code == H2_LOST ? c->w->tunnels.closing : NULL;
	if (t && t->end != TUNNEL_END_LOST)
		conn_end(c, t->end == TUNNEL_END_EXPIRED ? END_EXPIRED : END_UNTRUSTED, "%s", t->why.msg);
	else if (code == H2_LOST)
		conn_end(c, side == SRC ? END_SRC_TUNNEL : END_DST_TUNNEL, "tunnel lost");
	else
		conn_end(c, side == SRC ? END_SRC_RESET : END_DST_RESET, "RST_STREAM code %u%s", code, by_peer ? " from the peer" : "");
}
