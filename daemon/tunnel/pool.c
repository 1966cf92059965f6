/*
 * The pool of dialled tunnels. See pool.h. Decisions are made in one function, serve(): who waits is given room in order of
 * arrival; if there is none, another tunnel is dialled when those under way will not do.
 */
#include "tunnel/pool.h"
#include "tunnel/tunnel_int.h"
#include "base/clean.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define DIAL_LOG_MS 5000u
#define FENCE_MS 250u
#define FENCES_S 20u /* per second and peer */

static void queue_timeout(struct timer *t, void *arg);
static void fence_timeout(struct timer *t, void *arg);
static void serve(struct pool_peer *e);

void pool_init(struct pool *p, struct tunnels *ts, struct snapshot *snap, const struct cfg_cluster *c)
{
	p->ts = ts;
	p->snap = snap;
	p->cluster = c;
	LIST_INIT(&p->peers);
}

void pool_finish(struct pool *p)
{
	struct pool_peer *e;

	while ((e = LIST_FIRST(&p->peers))) {
		timer_disarm(&p->ts->l->timers, &e->timer);
		timer_disarm(&p->ts->l->timers, &e->fence_timer);
		LIST_REMOVE(e, link);
		free(e);
	}
}

static const char *key_of(const struct pool *p, const struct cfg_identity *id)
{
	return p->cluster->by_workload && id ? id->name : "";
}

static struct pool_peer *peer_get(struct pool *p, const struct addr *to, const char *identity)
{
	struct pool_peer *e = LIST_FIRST(&p->peers), *next;

	for (; e; e = next) {
		next = LIST_NEXT(e, link);
		if (addr_eq(&e->to, to) && !strcmp(e->identity, identity))
			return e;
		if (!e->n && !e->queued && !e->busy) { /* a name resolved to it once */
			LIST_REMOVE(e, link);
			free(e);
		}
	}
	e = calloc(1, sizeof(*e));
	if (!e)
		return NULL;
	e->pool = p;
	e->log.kind = LOG_K_NO_TUNNEL;
	e->to = *to;
	snprintf(e->identity, sizeof(e->identity), "%s", identity);
	e->timer.fire = queue_timeout;
	e->timer.arg = e;
	e->fence_timer.fire = fence_timeout;
	e->fence_timer.arg = e;
	TAILQ_INIT(&e->queue);
	LIST_INSERT_HEAD(&p->peers, e, link);
	return e;
}

static uint32_t room(const struct pool_peer *e, const struct tunnel *t)
{
	const struct cfg_pool *c = &e->pool->cluster->pool;
	uint32_t r;

	if (t->state != TUNNEL_OPEN || t->h2.streams >= c->max_streams || (c->max_requests && t->h2.total >= c->max_requests))
		return 0;
	r = h2_room(&t->h2);
	return (uint32_t)min_u64(r, c->max_streams - t->h2.streams);
}

/* the fullest with room, so that the others get empty and can be closed; see pool.h for the preferences before that */
static struct tunnel *fullest(const struct pool_peer *e)
{
	uint32_t comfort = e->pool->cluster->pool.max_streams / 8;
	struct tunnel *best = NULL, *t;
	bool best_comfy = false;

	if (e->last && room(e, e->last))
		return e->last;
	for (uint32_t i = 0; i < e->n; i++) {
		bool comfy;

		t = e->t[i];
		if (!room(e, t))
			continue;
		comfy = room(e, t) > comfort;
		if (!best || comfy > best_comfy || (comfy == best_comfy && t->h2.streams > best->h2.streams)) {
			best = t;
			best_comfy = comfy;
		}
	}
	return best;
}

/* may the next stream go to @t? If another tunnel took the last one, the peer must have processed that first. */
static bool in_order(struct pool_peer *e, struct tunnel *t)
{
	uint64_t s = e->pool->ts->l->now_ms / 1000;

	if (e->fence)
		return false;
	if (!e->last || e->last == t || !e->unproved)
		return true;
	if (e->fence_s != s) {
		e->fence_s = s;
		e->fences = 0;
	}
	if (e->fences++ >= FENCES_S) /* peers take many PINGs for an attack; then order is not worth the tunnel */
		return true;
	e->fence = true;
	h2_ping(&e->last->h2, true);
	timer_arm(&e->pool->ts->l->timers, &e->fence_timer, e->pool->ts->l->now_ms + FENCE_MS);
	return false;
}

static struct tunnel *take(struct pool_peer *e)
{
	struct tunnel *t = fullest(e);

	if (!t || !in_order(e, t))
		return NULL;
	e->last = t;
	e->unproved = true;
	return t;
}

static void fence_end(struct pool_peer *e)
{
	e->fence = e->unproved = false;
	timer_disarm(&e->pool->ts->l->timers, &e->fence_timer);
}

void pool_fence_passed(struct pool_peer *e)
{
	if (!e->fence)
		return;
	fence_end(e);
	serve(e);
}

/* the former tunnel is stuck: those who wait are worth more than the order */
static void fence_timeout(struct timer *t, void *arg)
{
	(void)t;
	pool_fence_passed(arg);
}

static void unqueue(struct pool_peer *e, struct pool_wait *w)
{
	struct loop *l = e->pool->ts->l;

	TAILQ_REMOVE(&e->queue, w, link);
	w->peer = NULL;
	e->queued--;
	stats_gauge(&l->stats, SG_QUEUED, -1);
	hist_add(&l->hist[LH_QUEUE_US], l->now_us - w->since_us);
	if (!e->queued)
		timer_disarm(&l->timers, &e->timer);
}

static void fail_all(struct pool_peer *e, int error, const char *why)
{
	struct pool_queue q = TAILQ_HEAD_INITIALIZER(q);
	struct pool_wait *w;

	/* ready() may queue again, for instance for another endpoint that is this one */
	e->busy++;
	while ((w = TAILQ_FIRST(&e->queue))) {
		unqueue(e, w);
		TAILQ_INSERT_TAIL(&q, w, link);
	}
	while ((w = TAILQ_FIRST(&q))) {
		TAILQ_REMOVE(&q, w, link);
		w->ready(w, NULL, error, why);
	}
	e->busy--;
}

/* tunnel_drain() would come back here */
static void retire(struct tunnel *t)
{
	t->drain_step = 2;
	tunnel_set_state(t, TUNNEL_DRAINING);
	h2_goaway_last(&t->h2, NGHTTP2_NO_ERROR);
}

/* make before break: when another tunnel is open, stale ones take no more streams */
static void retire_stale(struct pool_peer *e)
{
	bool fresh = false;

	for (uint32_t i = 0; i < e->n; i++)
		fresh |= e->t[i]->state == TUNNEL_OPEN && !e->t[i]->stale;
	for (uint32_t i = 0; fresh && i < e->n; i++)
		if (e->t[i]->state == TUNNEL_OPEN && e->t[i]->stale)
			retire(e->t[i]);
}

static void retire_spent(struct pool_peer *e)
{
	const struct cfg_pool *c = &e->pool->cluster->pool;

	for (uint32_t i = 0; c->max_requests && i < e->n; i++)
		if (e->t[i]->state == TUNNEL_OPEN && e->t[i]->h2.total >= c->max_requests) {
			err_set(&e->t[i]->why, 0, "replaced: max_requests");
			retire(e->t[i]);
		}
}

#define wait_trace(l, w, ...) trace(l, (w)->watch, TRACE_POOL, TW(.conn = (w)->trace_id), __VA_ARGS__)

/* who waits for it sees it come up */
static void dialled(struct pool_peer *e, struct tunnel *t)
{
	struct pool_wait *w;
	uint8_t watch = 0;

	TAILQ_FOREACH(w, &e->queue, link) {
		watch |= w->watch;
		wait_trace(t->l, w, "dials tunnel %u.%u: %u others, none with room", t->l->worker, t->id, e->n - 1);
	}
	tunnel_look(t, watch);
	tunnel_trace(t, TRACE_TUNNEL, "connecting");
}

/* names lead to an identity of the same name: configurations have different tables */
static const struct cfg_identity *identity_called(const struct snapshot *snap, const char *name)
{
	for (uint32_t i = 0; snap && i < snap->cfg->n_identities; i++)
		if (!strcmp(snap->cfg->identities[i].name, name))
			return &snap->cfg->identities[i];
	return NULL;
}

/* as whom its tunnels are dialled now; NULL: without TLS, or the identity is gone */
static const struct cfg_identity *identity_of(const struct pool_peer *e)
{
	const struct cfg_cluster *c = e->pool->cluster;

	return c->by_workload ? identity_called(e->pool->snap, e->identity) : c->identity;
}

static int grow(struct pool_peer *e, struct err *reterr)
{
	const struct cfg_cluster *c = e->pool->cluster;
	const struct cfg_identity *id = identity_of(e);
	uint64_t coming = 0;
	uint32_t live = 0, stale = 0;
	struct tunnel *t;
	int r;

	for (uint32_t i = 0; i < e->n; i++) {
		live += e->t[i]->state <= TUNNEL_OPEN && !e->t[i]->stale;
		stale += e->t[i]->state <= TUNNEL_OPEN && e->t[i]->stale;
		if (e->t[i]->state < TUNNEL_OPEN)
			coming += c->pool.max_streams;
	}
	if (coming >= e->queued || live >= c->pool.max_tunnels || e->n == POOL_TUNNELS_MAX)
		return 0;
	if (!id && c->tls)
		return live ? 0 : err_set(reterr, -ENOKEY, "there is no identity '%s' any more", e->identity);
	r = tunnel_dial(e->pool->ts, e, c, id, &e->to, &t, reterr);
	if (r < 0)
		return live || stale ? 0 : r;
	e->t[e->n++] = t;
	if (__builtin_expect(t->l->tracing != 0, 0))
		dialled(e, t);
	stats_inc(&e->pool->ts->l->stats, ST_POOL_MISS);
	return 0;
}

static void dial_log(struct pool_peer *e)
{
	char a[ADDR_STR], more[LOG_MORE];

	if (!log_rate_text(&e->log, e->pool->ts->l->now_ms, DIAL_LOG_MS, more))
		return;
	log_warn(LA_TUNNEL, "cluster %s: no tunnel to %s: %s%s", e->pool->cluster->name, addr_str(&e->to, a), e->why.msg, more);
}

static void serve(struct pool_peer *e)
{
	struct pool_wait *w;
	struct tunnel *t;
	int r;

	retire_stale(e);
	retire_spent(e);
	e->busy++;
	while ((w = TAILQ_FIRST(&e->queue)) && (t = take(e))) {
		unqueue(e, w);
		w->ready(w, t, 0, NULL);
	}
	e->busy--;
	if (TAILQ_EMPTY(&e->queue) || e->fence) /* at a fence there is room already */
		return;
	r = grow(e, &e->why);
	if (r < 0) {
		dial_log(e);
		fail_all(e, r, e->why.msg);
	}
}

void pool_replace(struct pool_peer *e)
{
	const struct cfg_identity *id = identity_of(e);
	struct tunnel *t;
	bool coming = e->n == POOL_TUNNELS_MAX; /* then one must end first */

	for (uint32_t i = 0; i < e->n; i++)
		coming |= e->t[i]->state <= TUNNEL_OPEN && !e->t[i]->stale;
	if (coming)
		serve(e); /* it may be open already */
	else if (!id && e->pool->cluster->tls)
		return; /* its identity is gone: there is nothing to replace it with */
	else if (tunnel_dial(e->pool->ts, e, e->pool->cluster, id, &e->to, &t, &e->why) < 0)
		dial_log(e);
	else
		e->t[e->n++] = t;
}

int pool_get(struct pool *p, const struct addr *to, const struct cfg_identity *id, struct pool_wait *w, bool *ret_waited)
{
	struct loop *l = p->ts->l;
	struct pool_peer *e = peer_get(p, to, key_of(p, id));
	struct tunnel *t;

	*ret_waited = false;
	if (!e)
		return -ENOMEM;
	w->since_us = l->now_us;
	t = e->queued ? NULL : take(e);
	if (t) {
		stats_inc(&l->stats, ST_POOL_HIT);
		wait_trace(l, w, "uses tunnel %u.%u: %u of %u streams", l->worker, t->id, t->h2.streams, h2_peer_max_streams(&t->h2));
		w->ready(w, t, 0, NULL);
		return 0;
	}
	if (e->queued >= p->cluster->pool.queue) {
		stats_inc(&l->stats, ST_POOL_OVERFLOW);
		return -EBUSY;
	}
	*ret_waited = true;
	w->peer = e;
	TAILQ_INSERT_TAIL(&e->queue, w, link);
	if (!e->queued++)
		timer_arm(&l->timers, &e->timer, l->now_ms + max_u64(p->cluster->pool.queue_timeout_ms, 1));
	stats_inc(&l->stats, ST_POOL_QUEUED);
	wait_trace(l, w, "waits: no room in %u tunnels%s, %u in line", e->n, e->fence ? " (or their order must be kept)" : "", e->queued);
	stats_gauge(&l->stats, SG_QUEUED, 1);
	serve(e);
	return 0;
}

void pool_cancel(struct pool_wait *w)
{
	if (w->peer)
		unqueue(w->peer, w);
}

static void queue_timeout(struct timer *timer, void *arg)
{
	struct pool_peer *e = arg;
	struct loop *l = e->pool->ts->l;
	uint64_t limit = max_u64(e->pool->cluster->pool.queue_timeout_ms, 1);
	struct pool_wait *w;

	(void)timer;
	e->busy++;
	while ((w = TAILQ_FIRST(&e->queue)) && (l->now_us - w->since_us) / 1000u + 1 >= limit) {
		unqueue(e, w);
		stats_inc(&l->stats, ST_POOL_TIMEOUT);
		w->ready(w, NULL, -ETIMEDOUT, e->n ? "waited too long for a free stream: all tunnels are full or still opening" :
						    "waited too long for a tunnel");
	}
	e->busy--;
	if (w)
		timer_arm(&l->timers, &e->timer, w->since_us / 1000u + limit + 1);
}

void pool_tunnel_changed(struct pool_peer *e)
{
	/* GOAWAY says what was processed: as good as a fence */
	if (e->last && e->last->h2.goaway_rx)
		fence_end(e);
	serve(e);
}

void pool_tunnel_gone(struct pool_peer *e, struct tunnel *t, int error)
{
	uint32_t alive = 0;

	if (e->last == t) {
		e->last = NULL;
		fence_end(e);
	}
	for (uint32_t i = 0; i < e->n; i++)
		if (e->t[i] == t) {
			e->t[i] = e->t[--e->n];
			break;
		}
	if (!t->open_us && error != -ESHUTDOWN) {
		e->why = t->why;
		dial_log(e);
		for (uint32_t i = 0; i < e->n; i++)
			alive += e->t[i]->state <= TUNNEL_OPEN;
		if (!alive)
			fail_all(e, error ? error : -ECONNRESET, e->why.msg);
	}
	serve(e);
}

static void peer_drain(struct pool_peer *e)
{
	for (uint32_t i = e->n; i > 0; i--)
		if (i <= e->n)
			tunnel_drain(e->t[i - 1]);
}

void pool_adopt(struct pool *p, struct snapshot *snap, const struct cfg_cluster *c, bool renew)
{
	struct pool_peer *e;

	p->snap = snap;
	p->cluster = c;
	LIST_FOREACH(e, &p->peers, link)
		for (uint32_t i = 0; i < e->n; i++) {
			const struct cfg_identity *id = e->t[i]->identity ? identity_called(snap, e->t[i]->identity->name) : NULL;

			if (!e->t[i]->identity || id)
				tunnel_adopt(e->t[i], snap, NULL, id);
		}
	if (renew)
		pool_drain(p); /* who waits dials under the new settings */
	LIST_FOREACH(e, &p->peers, link)
		if (c->by_workload && !identity_called(snap, e->identity))
			peer_drain(e);
}

void pool_drain(struct pool *p)
{
	struct pool_peer *e;

	LIST_FOREACH(e, &p->peers, link)
		peer_drain(e);
}

uint32_t pool_queued(const struct pool *p)
{
	const struct pool_peer *e;
	uint32_t n = 0;

	LIST_FOREACH(e, &p->peers, link)
		n += e->queued;
	return n;
}

uint32_t pool_tunnels(const struct pool *p)
{
	const struct pool_peer *e;
	uint32_t n = 0;

	LIST_FOREACH(e, &p->peers, link)
		n += e->n;
	return n;
}

void pool_look(const struct pool *p, const struct addr *to, const struct cfg_identity *id, struct pool_look *ret)
{
	const struct pool_peer *e;
	const struct tunnel *t;

	*ret = (struct pool_look){ .may_dial = true };
	LIST_FOREACH(e, &p->peers, link)
		if (addr_eq(&e->to, to) && !strcmp(e->identity, key_of(p, id)))
			break;
	if (!e)
		return;
	for (uint32_t i = 0; i < e->n; i++) {
		t = e->t[i];
		ret->open += t->state == TUNNEL_OPEN;
		ret->opening += t->state < TUNNEL_OPEN;
		ret->draining += t->state == TUNNEL_DRAINING;
		ret->streams += t->state == TUNNEL_OPEN ? t->h2.streams : 0;
		ret->room += room(e, t);
	}
	t = fullest(e);
	if (t) {
		ret->takes = t->id;
		ret->takes_streams = t->h2.streams;
		ret->takes_room = room(e, t);
	}
	ret->queued = e->queued;
	ret->may_dial = e->n < p->cluster->pool.max_tunnels;
	ret->why = e->why;
}
