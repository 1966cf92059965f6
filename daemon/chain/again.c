/*
 * Late deny. Each connection is asked what it was asked when it came: the same facts, at the listeners and clusters that it passed, by
 * the policies now in force. Listeners and clusters are found in the new configuration by their names; one that is gone is not asked:
 * what was allowed there stays so.
 *
 * The first that denies ends the connection, with the name of the policy in the record. What allows is not counted again, nor does it take the
 * place of the policy that allowed at the beginning.
 *
 * A worker goes through its connections in batches between turns of its loop. A decision with 10,000 policies takes about a microsecond, ending a
 * connection some ten: so a batch is bounded by both. Connections that come meanwhile began in the new snapshot already. Those that are
 * not routed yet (their PROXY header is awaited, their CONNECT came by a tunnel of the old snapshot) are judged by the old policies and then by the
 * new ones, before they are dialled: judge_now().
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "codec/authority.h"
#include <string.h>

#define AGAIN_BATCH 128u /* connections looked at per turn */
#define AGAIN_ENDS  16u	 /* ended per turn */

/* ---- what a connection was judged by */

static uint16_t port_of(const char *authority)
{
	struct authority a;

	return authority && authority_parse(authority, strlen(authority), &a, NULL) == 0 ? a.port : 0;
}

/* of a chain of one part */
static void context_of(const struct conn *c, struct stage_context *ret)
{
	*ret = (struct stage_context){.src = c->src, .principal = conn_principal(c), .orig_dst = c->orig_dst};
	ret->in.addr = c->orig_dst;
	ret->in.port = c->orig_dst.family != AF_UNSPEC ? c->orig_dst.port : port_of(c->authority);
	ret->in.md = c->leg[SRC].md;
	if (c->authority)
		ret->in.authority = (struct slice){c->authority, strlen(c->authority)};
}

static void context_part(const struct again_part *p, struct stage_context *ret)
{
	*ret = (struct stage_context){.src = p->src, .principal = p->principal, .orig_dst = p->to};
	ret->in.addr = p->to;
	ret->in.port = p->port;
	ret->in.md = p->md;
	if (p->authority)
		ret->in.authority = (struct slice){p->authority, strlen(p->authority)};
}

void judge_context(const struct conn *c, struct stage_context *ret)
{
	const struct again_part *p = c->parts;

	if (!p) {
		context_of(c, ret);
		return;
	}
	while (p->next)
		p = p->next;
	context_part(p, ret);
}

static void part_free(struct again_part *p)
{
	metadata_put(p->md);
	free(p->principal);
	free(p->authority);
	free(p);
}

int judge_keep(struct conn *c, uint32_t from, const struct stage_context *ctx)
{
	struct again_part **at = &c->parts, *p = calloc(1, sizeof(*p));
	struct stage_context own;

	if (!p)
		return -ENOMEM;
	if (!ctx) {
		context_of(c, &own);
		ctx = &own;
	}
	p->from = (uint8_t)from;
	p->src = ctx->src;
	p->to = ctx->in.addr;
	p->port = ctx->in.port;
	if (ctx->principal)
		p->principal = strdup(ctx->principal);
	if (ctx->in.authority.p)
		p->authority = strndup(ctx->in.authority.p, ctx->in.authority.n);
	p->md = metadata_get_ref((struct metadata *)ctx->in.md); /* it is counted, not changed */
	if ((ctx->principal && !p->principal) || (ctx->in.authority.p && !p->authority)) {
		part_free(p);
		return -ENOMEM;
	}
	while (*at)
		at = &(*at)->next;
	*at = p;
	return 0;
}

void judge_forget(struct conn *c)
{
	struct again_part *p;

	while ((p = c->parts)) {
		c->parts = p->next;
		part_free(p);
	}
}

/* ---- asking again */

struct again_asking {
	struct conn *c;
	const struct config *old, *new;
	bool would; /* a policy in dry run would have closed it */
};

/* a name that goes on has the same object; one that was gone and is back, another. UINT32_MAX: gone */
static uint32_t listener_now(const struct again_asking *q, uint32_t id)
{
	const struct cfg_listener *was = &q->old->listeners[id];
	const struct listener *l = q->c->w->listeners[was->slot];

	if (l && l->cfg->id < q->new->n_listeners && l->cfg == &q->new->listeners[l->cfg->id])
		return l->cfg->id;
	for (uint32_t i = 0; i < q->new->n_listeners; i++)
		if (!strcmp(q->new->listeners[i].name, was->name))
			return i;
	return UINT32_MAX;
}

static uint32_t cluster_now(const struct again_asking *q, uint32_t id)
{
	const struct cfg_cluster *was = &q->old->clusters[id];
	const struct cluster *cl = q->c->w->clusters[was->slot];

	if (cl && cl->cfg->id < q->new->n_clusters && cl->cfg == &q->new->clusters[cl->cfg->id])
		return cl->cfg->id;
	for (uint32_t i = 0; i < q->new->n_clusters; i++)
		if (!strcmp(q->new->clusters[i].name, was->name))
			return i;
	return UINT32_MAX;
}

static void dry_look(void *arg, enum policy_place at, uint32_t id, const struct policy_verdict *v)
{
	struct again_asking *q = arg;

	(void)at;
	(void)id;
	for (uint32_t i = 0; i < v->n_dry; i++)
		q->would |= !v->dry[i].allow;
	q->would |= v->dry_default;
}

/* stages from @from to before @to, with one context */
static bool part_stands(struct again_asking *q, uint32_t from, uint32_t to, struct stage_context *ctx, struct stages *ret)
{
	const struct stages *s = &q->c->stages;
	struct stages_asked a;

	ctx->policies = q->new->policy_set;
	ctx->judged = dry_look;
	ctx->judged_arg = q;
	stages_ask_begin(&a, ctx, listener_now(q, s->id[from]));
	for (uint32_t i = from; i < to; i++) {
		uint32_t id = listener_now(q, s->id[i]);

		if (id != UINT32_MAX && !stages_ask(&a, POLICY_AT_LISTENER, id, q->new->listeners[id].name, ret))
			return false;
		id = s->to[i] == STAGE_NO_CLUSTER ? UINT32_MAX : cluster_now(q, s->to[i]);
		if (id != UINT32_MAX && !stages_ask(&a, POLICY_AT_CLUSTER, id, q->new->clusters[id].name, ret))
			return false;
	}
	return true;
}

/* a name was asked about once more when it had become an address */
static bool resolved(const struct conn *c, const struct policy_set *set, const struct stage_context *ctx)
{
	return c->stages.cluster && c->stages.cluster->type == CLUSTER_ORIGINAL_DST && ctx->in.addr.family == AF_UNSPEC &&
	       c->dst.family != AF_UNSPEC && policy_looks_at(set, POLICY_DESTINATION_IP);
}

static bool stands(struct again_asking *q, struct stages *ret)
{
	const struct again_part *p = q->c->parts;
	uint32_t n = q->c->stages.n, from = 0;
	struct stage_context ctx;

	do {
		if (p)
			context_part(p, &ctx);
		else
			context_of(q->c, &ctx);
		from = p ? p->from : 0;
		p = p ? p->next : NULL;
		if (!part_stands(q, from, p ? p->from : n, &ctx, ret))
			return false;
	} while (p);
	if (!resolved(q->c, q->new->policy_set, &ctx))
		return true;
	ctx.in.addr = q->c->dst;
	ctx.in.port = q->c->dst.port;
	return part_stands(q, from, n, &ctx, ret);
}

static void end_revoked(struct conn *c, const struct stages *s)
{
	const struct snapshot *now = c->w->snap;
	const char *what = s->denied_cluster ? "cluster" : "listener";
	char rule[POLICY_RULE_NAME];

	c->stages.policy = s->policy;
	c->stages.rule = s->rule;
	c->stages.denied = s->denied;
	c->stages.denied_cluster = s->denied_cluster;
	c->revoked = true;
	stats_inc(&c->w->loop.stats, ST_LATE_DENIED);
	stats_bump(&c->w->policies[s->policy == POLICY_NONE ? POLICY_COUNTS_DEFAULT : now->policy_slot[s->policy]].denied, 1);
	if (s->policy == POLICY_NONE)
		conn_end(c, END_REVOKED, "no ALLOW policy at %s '%s' matches any more (%s)", what, s->denied, POLICY_DEFAULT);
	else
		conn_end(c, END_REVOKED, "denied now by policy %s at %s '%s'", judge_name(c, rule), what, s->denied);
}

/* Return: it goes on */
static bool again(struct conn *c, bool *ret_would)
{
	const struct config *now = c->w->snap->cfg;
	struct again_asking q = {.c = c, .old = c->snap->cfg, .new = now};
	struct stages s = {.policy = POLICY_NONE, .rule = POLICY_NONE};

	if (!now->policy_set || stands(&q, &s)) {
		*ret_would = q.would;
		return true;
	}
	end_revoked(c, &s);
	return false;
}

bool judge_now(struct conn *c)
{
	bool would;

	return c->snap == c->w->snap || again(c, &would);
}

static void batch(struct task *t)
{
	struct again *a = container_of(t, struct again, task);
	struct worker *w = container_of(a, struct worker, again);
	uint32_t n = 0, ends = 0;
	bool would = false;
	struct conn *c;

	while (n < AGAIN_BATCH && ends < AGAIN_ENDS && (c = slab_next(&w->conns, &a->cursor))) {
		n++;
		if (c->state == CONN_CLOSED || c->proxy_wait || c->snap == w->snap)
			continue;
		a->judged++;
		if (!again(c, &would))
			ends++;
		else
			a->would += would;
	}
	a->closed += ends;
	if (n == AGAIN_BATCH || ends == AGAIN_ENDS) {
		loop_defer(&w->loop, t);
		return;
	}
	if (a->closed || a->would)
		log_info(LA_CHAIN, "worker %u: %u connections judged again, %u closed; policies in dry run would close %u", w->loop.worker, a->judged,
			 a->closed, a->would);
}

void judge_again(struct worker *w)
{
	struct again *a = &w->again;

	a->cursor = a->judged = a->closed = a->would = 0;
	if (!w->snap->cfg->policy_set)
		return; /* nothing denies */
	a->task.run = batch;
	loop_defer(&w->loop, &a->task);
}
