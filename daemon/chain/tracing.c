/*
 * Live traces. A filter goes to each worker as an order; the worker looks through what it has, and from then on at each new connection and
 * tunnel as soon as something is known of it that a filter may ask for. What is followed once is followed to its end.
 *
 * The rings are made with the first trace and stay: a worker may still write to one when its reader has gone.
 */
#include "chain/tracing.h"
#include "base/clean.h"
#include "chain/daemon.h"
#include "obs/trace.h"
#include "policy/policy.h"
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define POST_TRIES 200 /* milliseconds */

struct tracing {
	uint8_t used; /* mask */
	uint32_t next; /* a number is not given again at once: its last records may still be on their way */
	struct tracer tracer[];
};

/* ---- worker ---- */

static uint8_t conn_fits(const struct conn *c)
{
	const struct loop *l = &c->w->loop;
	const struct config *cfg = c->snap->cfg;
	uint8_t m = trace_by_conn(l, c->id) | trace_by_addr(l, &c->src) | trace_by_addr(l, &c->orig_dst) | trace_by_addr(l, &c->dst) |
		    trace_by_id(l, conn_principal(c));

	for (uint32_t i = 0; i < c->stages.n; i++)
		m |= trace_by_listener(l, cfg->listeners[c->stages.id[i]].name);
	for (int i = 0; i < 2; i++) {
		const struct leg *g = &c->leg[i];
		const struct tunnel_who *who = g->who ? g->who : g->s.id ? ((const struct tunnel *)g->s.h->owner)->who : NULL;

		if (who)
			m |= trace_by_addr(l, &who->remote) | trace_by_id(l, who->tls.id);
	}
	return m;
}

void tracing_look(struct conn *c)
{
	uint8_t m = conn_fits(c), new = (uint8_t)(m & ~c->watch);
	char src[ADDR_STR], to[ADDR_STR];

	c->watch |= m;
	for (int i = 0; i < 2; i++)
		if (c->leg[i].s.id)
			c->leg[i].s.watch = c->watch;
	if (new)
		trace(&c->w->loop, new, TRACE_OPEN, TW(.conn = c->id), "from %s%s%s to %s at listener '%s'%s", addr_str(&c->src, src),
		      conn_principal(c) ? ", " : "", conn_principal(c) ? conn_principal(c) : "",
		      c->authority ? c->authority : addr_str(&c->orig_dst, to), c->snap->cfg->listeners[c->stages.id[0]].name,
		      c->state == CONN_OPEN ? ", established before" : "");
}

void tracing_route(struct conn *c, const char *not)
{
	const struct config *cfg = c->snap->cfg;
	char chain[512] = "";
	size_t n = 0;

	tracing_look(c); /* inner listeners */
	for (uint32_t i = 0; i < c->stages.n && n < sizeof(chain); i++)
		n += (size_t)snprintf(chain + n, sizeof(chain) - n, "%s > ", cfg->listeners[c->stages.id[i]].name);
	conn_trace(c, TRACE_ROUTE, "%s%s%s%s%s", chain, not ? not : "cluster ", not ? "" : c->stages.cluster->name,
		   c->stages.route ? ", by route " : "", c->stages.route ? c->stages.route->name : "");
}

void tracing_headers(struct conn *c, const char *dir, uint32_t tunnel, uint32_t stream, const struct header *h, size_t n)
{
	char text[TRACE_TEXT];

	if (c->watch)
		trace(&c->w->loop, c->watch, TRACE_HEADERS, TW(.conn = c->id, .tunnel = tunnel, .stream = stream), "%s %s", dir,
		      trace_headers(text, sizeof(text), h, n));
}

void tracing_verdict(struct conn *c, bool cluster, const char *name, const struct policy_verdict *v)
{
	const struct policy_set *set = c->snap->cfg->policy_set;
	char rule[POLICY_RULE_NAME], dry[POLICY_RULE_NAME] = "";

	if (!c->watch)
		return;
	if (v->n_dry)
		policy_rule_name(set, v->dry[0].policy, v->dry[0].rule, dry);
	conn_trace(c, TRACE_POLICY, "%s '%s': %s by %s%s%s%s", cluster ? "cluster" : "listener", name, v->allowed ? "allowed" : "denied",
		   v->policy == POLICY_NONE && v->allowed ? "default: no ALLOW policy is in scope" : policy_rule_name(set, v->policy, v->rule, rule),
		   v->n_dry ? "; dry run: " : "", dry, v->n_dry ? v->dry[0].allow ? " would allow" : " would deny" : "");
}

struct trace_order {
	struct order order;
	struct tracer *tracer;
	struct trace_filter filter; /* by TRACE_BY_NONE: it ends */
	uint32_t slot;
};

static void order_run(struct order *o, void *owner)
{
	struct trace_order *t = container_of(o, struct trace_order, order);
	struct worker *w = owner;
	uint8_t bit = (uint8_t)(1u << t->slot);
	struct tunnel *tun;
	struct conn *c;

	trace_filter_set(&w->loop, t->tracer, t->slot, t->filter.by == TRACE_BY_NONE ? NULL : &t->filter);
	for (uint32_t i = 0; (tun = slab_next(&w->tunnels.slab, &i));) {
		tun->watch &= (uint8_t)~bit;
		tunnel_look(tun, 0);
	}
	for (uint32_t i = 0; (c = slab_next(&w->conns, &i));) {
		c->watch &= (uint8_t)~bit;
		for (int k = 0; k < 2; k++)
			c->leg[k].s.watch = c->watch;
		if (w->loop.tracing && c->state != CONN_CLOSED)
			tracing_look(c);
	}
	free(t);
}

/* ---- main thread ---- */

static int post(struct daemon *d, uint32_t worker, uint32_t slot, const struct trace_filter *f)
{
	struct trace_order *o = calloc(1, sizeof(*o));

	if (!o)
		return -ENOMEM;
	*o = (struct trace_order){ .order = { order_run }, .tracer = &d->tracing->tracer[worker], .slot = slot };
	if (f)
		o->filter = *f;
	for (int i = 0; i < POST_TRIES && d->workers[worker].started; i++) {
		if (loop_post(&d->workers[worker].loop, &o->order))
			return 0;
		(void)poll(NULL, 0, 1);
	}
	free(o);
	return d->workers[worker].started ? -EAGAIN : 0;
}

static int rings_make(struct daemon *d, struct err *reterr)
{
	struct tracing *t = d->tracing;

	if (t)
		return 0;
	t = calloc(1, sizeof(*t) + d->n_workers * sizeof(t->tracer[0]));
	if (!t)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < d->n_workers; i++)
		if (bytering_init(&t->tracer[i].ring, TRACE_RING) < 0) {
			while (i--)
				bytering_finish(&t->tracer[i].ring);
			free(t);
			return err_set(reterr, -ENOMEM, "out of memory");
		}
	d->tracing = t;
	return 0;
}

int tracing_start(struct daemon *d, const struct trace_filter *f, uint32_t *ret_slot, struct err *reterr)
{
	struct tracing *t;
	uint32_t slot;
	int r = rings_make(d, reterr);

	if (r < 0)
		return r;
	t = d->tracing;
	for (slot = t->next++ % TRACES; (t->used & 1u << slot) && t->used != (1u << TRACES) - 1; slot = t->next++ % TRACES)
		;
	if (t->used & 1u << slot)
		return err_set(reterr, -EBUSY, "%u traces run already, and there are no more; end one", TRACES);
	t->used |= (uint8_t)(1u << slot);
	for (uint32_t i = 0; r == 0 && i < d->n_workers; i++)
		r = post(d, i, slot, f);
	if (r < 0) {
		tracing_stop(d, slot);
		return err_set(reterr, r, r == -ENOMEM ? "out of memory" : "a worker has many orders waiting; try again");
	}
	*ret_slot = slot;
	return 0;
}

void tracing_stop(struct daemon *d, uint32_t slot)
{
	bool told = true;

	for (uint32_t i = 0; i < d->n_workers; i++)
		told &= post(d, i, slot, NULL) == 0;
	/* a worker that hangs goes on following; its number is not given again */
	if (told)
		d->tracing->used &= (uint8_t)~(1u << slot);
}

void tracing_read(struct daemon *d, void (*fn)(void *arg, const struct trace_rec *r), void *arg)
{
	const struct trace_rec *r;
	uint32_t n;

	for (uint32_t i = 0; d->tracing && i < d->n_workers; i++) {
		struct bytering *ring = &d->tracing->tracer[i].ring;

		/* no more than a ring's worth at a time: its worker may be quicker than we are */
		for (uint64_t left = TRACE_RING; left && (r = bytering_peek(ring, &n)); left -= min_u64(left, n)) {
			fn(arg, r);
			bytering_release(ring);
		}
	}
}

uint64_t tracing_lost(const struct daemon *d)
{
	uint64_t n = 0;

	for (uint32_t i = 0; d->tracing && i < d->n_workers; i++)
		n += atomic_load_explicit(&d->tracing->tracer[i].ring.dropped, memory_order_relaxed);
	return n;
}

uint32_t tracing_running(const struct daemon *d)
{
	return d->tracing ? (uint32_t)__builtin_popcount(d->tracing->used) : 0;
}

void tracing_finish(struct daemon *d)
{
	for (uint32_t i = 0; d->tracing && i < d->n_workers; i++)
		bytering_finish(&d->tracing->tracer[i].ring);
	free(TAKE(d->tracing));
}
