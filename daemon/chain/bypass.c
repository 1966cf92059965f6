/*
 * When the bypass takes a connection, and what remains to be done while it has it.
 *
 * A connection is asked for after some round trips (kernel.bypass.after): short ones cost nothing, bulk in one direction has
 * nothing to gain. Refused "not now" it is asked for again after twice as many. Once joined, bytes no longer come by; what policy,
 * log, counters and idle time-outs need is read from mapped memory, for all joined connections of a worker by one timer. Bulk is
 * given back to splice(2), which moves it better: more than kernel.bypass.bulk bytes of which less than an eighth was redirected.
 *
 * The order of bytes is the gate's business (bpf/bypass.bpf.c): whatever still lies in a queue of ours makes it refuse.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"

#define TICK_MS 100u
#define HELD_MS 1u
#define TRIES 16u	     /* askings in vain */
#define NEVER UINT16_MAX

static bool has_leg(const struct conn *c, enum leg_kind kind)
{
	return c->leg[SRC].kind == kind || c->leg[DST].kind == kind;
}

static bool end_to_end(const struct conn *c)
{
	return !has_leg(c, LEG_STREAM);
}

void bypass_opened(struct conn *c)
{
	const struct bypass *b = c->w->d->kernel.bypass;
	const struct cfg_bypass *cfg = &c->snap->cfg->kernel.bypass;
	bool streams = has_leg(c, LEG_STREAM);

	c->turn = SRC;
	c->ask_at = NEVER;
	if (!b || !has_leg(c, LEG_SOCK) || (streams && !cfg->legs)) {
		c->byp.why = BYPASS_WHY_OFF;
		return;
	}
	c->byp.why = BYPASS_WHY_YOUNG;
	c->ask_at = (uint16_t)min_u64(2u * (uint64_t)cfg->after, NEVER - 1);
}

static void joined(struct conn *c, struct leg *leg)
{
	struct worker *w = c->w;

	if (leg)
		leg->mapped = true;
	if (!c->byp.watcher) /* counted where it was done */
		stats_inc(&w->loop.stats, leg ? ST_BYPASS_LEGS : ST_BYPASS_JOINS);
	if (LIST_EMPTY(&w->joined)) {
		w->joined_timer.fire = bypass_tick;
		w->joined_timer.arg = w;
		timer_arm(&w->loop.timers, &w->joined_timer, w->loop.now_ms + TICK_MS);
	}
	LIST_INSERT_HEAD(&w->joined, c, joined);
	c->bulk_seen = c->bytes[SRC] + c->bytes[DST];
	conn_trace(c, TRACE_MOVER, "%s", leg ? "bypass takes over a local leg" : "bypass takes over, end to end");
	log_dbg(LA_CHAIN, "conn %llu: %s", (unsigned long long)c->id, leg ? "local leg bypassed" : "joined end to end");
}

static void ask(struct conn *c)
{
	struct bypass *b = c->w->d->kernel.bypass;
	struct leg *leg = c->leg[SRC].kind == LEG_STREAM ? &c->leg[DST] : c->leg[DST].kind == LEG_STREAM ? &c->leg[SRC] : NULL;
	int r;

	if (c->leg[SRC].in_done || c->leg[DST].in_done) {
		c->ask_at = NEVER;
		c->byp.why = BYPASS_WHY_STATE;
		return;
	}
	r = leg ? bypass_join_leg(b, leg->fd, &c->byp) :
		  bypass_join(b, c->leg[SRC].fd, c->leg[DST].fd, c->proxy_taken, c->proxy_sent, &c->byp);
	stats_inc(&c->w->loop.stats, ST_SYS_OTHER);
	c->ask_at = NEVER;
	if (r == 0) {
		joined(c, leg);
	} else if (r == -EAGAIN && ++c->byp.tries < TRIES) {
		c->ask_at = (uint16_t)min_u64(2u * (uint64_t)c->turns + 2, NEVER - 1);
	} else {
		stats_inc(&c->w->loop.stats, ST_BYPASS_REFUSED);
		conn_trace(c, TRACE_MOVER, "not bypassed: %s", bypass_why_str(c->byp.why));
		log_dbg(LA_CHAIN, "conn %llu: not bypassed: %s", (unsigned long long)c->id, bypass_why_str(c->byp.why));
	}
}

void bypass_turn(struct conn *c, int from)
{
	c->turn = (uint8_t)from;
	if (c->turns < NEVER)
		c->turns++;
	if (c->turns >= c->ask_at && c->state == CONN_OPEN)
		ask(c);
}

/* as the edge that the kernel would have given */
static void release(struct conn *c)
{
	for (int i = 0; i < 2 && c->state == CONN_OPEN; i++)
		if (TAKE(c->leg[i].held))
			relay_event(c, i, EPOLLOUT);
}

static void held_tick(struct timer *t, void *worker)
{
	struct worker *w = worker;
	struct conn *c, *next;

	(void)t;
	for (c = LIST_FIRST(&w->joined); c; c = next) {
		next = LIST_NEXT(c, joined);
		release(c);
	}
}

void bypass_later(struct conn *c, struct leg *to)
{
	struct worker *w = c->w;

	to->writable = false;
	to->held = true;
	w->held_timer.fire = held_tick;
	w->held_timer.arg = w;
	timer_arm(&w->loop.timers, &w->held_timer, w->loop.now_ms + HELD_MS);
}

bool bypass_holds(struct conn *c, struct leg *to)
{
	/* all bytes pass the agent that has joined it; a watcher need not look */
	if ((c->byp.state != BYPASS_OPEN && c->byp.state != BYPASS_DEMOTING) || c->byp.watcher || !end_to_end(c) ||
	    !bypass_hold(c->w->d->kernel.bypass, &c->byp, !to->side))
		return false;
	bypass_later(c, to);
	return true;
}

void bypass_sync(struct conn *c)
{
	struct bypass_counts n;

	if (c->byp.state == BYPASS_NONE || c->byp.state == BYPASS_CLOSED)
		return;
	bypass_counts(c->w->d->kernel.bypass, &c->byp, &n);
	c->last_ms = max_u64(c->last_ms, n.last_ms);
	for (int i = 0; i < 2; i++) {
		uint64_t more = n.bytes[i] - c->bypassed[i];

		c->bypassed[i] = n.bytes[i];
		if (!c->byp.watcher)
			stats_add(&c->w->loop.stats, ST_BYPASSED_BYTES, more);
		if (end_to_end(c)) /* a leg's bytes come by, only not by TCP */
			c->bytes[i] += more;
	}
	report_bytes(c);
}

void bypass_end(struct conn *c)
{
	if (c->byp.state == BYPASS_NONE)
		return;
	bypass_sync(c);
	if (c->byp.state != BYPASS_CLOSED)
		LIST_REMOVE(c, joined);
	bypass_leave(c->w->d->kernel.bypass, &c->byp);
}

/* judged once per kernel.bypass.bulk bytes */
static bool is_bulk(struct conn *c, uint64_t bulk)
{
	uint64_t seen = c->bytes[SRC] + c->bytes[DST], bypassed = c->bypassed[SRC] + c->bypassed[DST];
	bool is;

	if (!bulk || seen - c->bulk_seen < bulk)
		return false;
	is = bypassed - c->bulk_bypassed < (seen - c->bulk_seen) / 8;
	c->bulk_seen = seen;
	c->bulk_bypassed = bypassed;
	return is;
}

static void demote(struct conn *c)
{
	struct worker *w = c->w;

	bypass_sync(c);
	if (bypass_demote(w->d->kernel.bypass, &c->byp, w->loop.now_ms) == 0) {
		LIST_REMOVE(c, joined);
		stats_inc(&w->loop.stats, ST_BYPASS_DEMOTED);
		conn_trace(c, TRACE_MOVER, "bypass ends: it carries bulk");
		log_dbg(LA_CHAIN, "conn %llu: carries bulk, bypassed no more", (unsigned long long)c->id);
		release(c);
	}
}

void bypass_tick(struct timer *t, void *worker)
{
	struct worker *w = worker;
	uint64_t bulk = w->snap->cfg->kernel.bypass.bulk;
	struct conn *c, *next;

	for (c = LIST_FIRST(&w->joined); c; c = next) {
		next = LIST_NEXT(c, joined);
		bypass_sync(c);
		if (c->byp.state == BYPASS_DEMOTING || (!c->byp.watcher && is_bulk(c, bulk)))
			demote(c);
	}
	if (!LIST_EMPTY(&w->joined))
		timer_arm(&w->loop.timers, t, w->loop.now_ms + TICK_MS);
}

const char *conn_mover(const struct conn *c)
{
	uint64_t all = c->bytes[SRC] + c->bytes[DST], b = c->bypassed[SRC] + c->bypassed[DST], s = c->spliced[SRC] + c->spliced[DST];

	if (c->state != CONN_CLOSED && c->byp.state == BYPASS_OPEN && bypass_on(c->w->d->kernel.bypass))
		return end_to_end(c) ? "bypass" : "leg";
	if (c->state == CONN_CLOSED && 2 * b >= all && b)
		return end_to_end(c) ? "bypass" : "leg";
	return 2 * s >= all && s ? "splice" : "relay";
}

const char *conn_mover_why(const struct conn *c)
{
	const struct kernel *k = &c->w->d->kernel;

	if (c->byp.state == BYPASS_OPEN)
		return bypass_on(k->bypass) ? "" : "the bypass is switched off (aditctl kernel bypass on)";
	if (!k->bypass)
		return k->why[KERNEL_BYPASS].msg;
	return bypass_why_str((enum bypass_why)c->byp.why);
}
