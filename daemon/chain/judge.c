/*
 * Policies and connections: what they are asked with, what is counted and logged of it, how a connection that they deny ends. Deciding
 * is policy/'s, the order of asking is stage.c's.
 *
 * Counted are decisions: one for each listener and cluster that a connection passes, where a policy decided. Dry run is logged, too,
 * at most once a second and worker: it is made for trying out, so it would otherwise write a line per connection.
 *
 * A name is asked about twice: when its CONNECT comes, without an address, and when it is resolved, before it is dialled. A policy on
 * destination_ip holds for names, too, therefore.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include <stdio.h>
#include <string.h>

#define DRY_LOG_MS 1000u

static const struct policy_set *set_of(const struct conn *c)
{
	return c->revoked ? c->w->snap->cfg->policy_set : c->snap->cfg->policy_set;
}

/* the last one is for what no policy decided */
static struct policy_counts *counts_of(const struct conn *c, uint32_t policy)
{
	return &c->w->policies[policy == POLICY_NONE ? POLICY_COUNTS_DEFAULT : c->snap->policy_slot[policy]];
}

static void dry_log(struct conn *c, enum policy_place at, uint32_t id, const struct policy_verdict *v)
{
	const struct config *cfg = c->snap->cfg;
	const char *who = conn_principal(c);
	char rule[POLICY_RULE_NAME], src[ADDR_STR], more[LOG_MORE];
	bool allow = v->n_dry && v->dry[0].allow;

	if (!log_rate_text(&c->w->dry_log, c->w->loop.now_ms, DRY_LOG_MS, more))
		return;
	if (v->n_dry)
		policy_rule_name(set_of(c), v->dry[0].policy, v->dry[0].rule, rule);
	else
		policy_rule_name(set_of(c), POLICY_NONE, POLICY_NONE, rule);
	log_info(LA_CHAIN, "dry run: %s would %s connection %llu from %s (%s) at %s '%s'%s", rule, allow ? "allow" : "deny",
		 (unsigned long long)c->id, addr_str(&c->src, src), who ? who : "no identity",
		 at == POLICY_AT_CLUSTER ? "cluster" : "listener",
		 at == POLICY_AT_CLUSTER ? cfg->clusters[id].name : cfg->listeners[id].name, more);
}

static void judged(void *arg, enum policy_place at, uint32_t id, const struct policy_verdict *v)
{
	struct conn *c = arg;

	if (__builtin_expect(c->watch != 0, 0))
		tracing_verdict(c, at == POLICY_AT_CLUSTER, at == POLICY_AT_CLUSTER ? c->snap->cfg->clusters[id].name : c->snap->cfg->listeners[id].name, v);
	if (!v->allowed)
		stats_bump(&counts_of(c, v->policy)->denied, 1);
	else if (v->policy != POLICY_NONE)
		stats_bump(&counts_of(c, v->policy)->allowed, 1);
	for (uint32_t i = 0; i < v->n_dry; i++) {
		struct policy_counts *n = counts_of(c, v->dry[i].policy);

		stats_bump(v->dry[i].allow ? &n->dry_allowed : &n->dry_denied, 1);
	}
	if (v->dry_default)
		stats_bump(&counts_of(c, POLICY_NONE)->dry_denied, 1);
	if (v->n_dry || v->dry_default)
		dry_log(c, at, id, v);
}

void judge_prepare(struct conn *c, struct stage_context *ctx)
{
	ctx->policies = set_of(c);
	ctx->judged = judged;
	ctx->judged_arg = c;
}

const char *judge_name(const struct conn *c, char out[POLICY_RULE_NAME])
{
	if (c->stages.policy == POLICY_NONE && !c->stages.denied)
		return NULL;
	return policy_rule_name(set_of(c), c->stages.policy, c->stages.rule, out);
}

void judge_end(struct conn *c)
{
	const struct stages *s = &c->stages;
	const char *what = s->denied_cluster ? "cluster" : "listener";
	char rule[POLICY_RULE_NAME];

	stats_inc(&c->w->loop.stats, ST_DENIED);
	if (s->policy == POLICY_NONE)
		conn_end(c, END_DENIED, "no ALLOW policy at %s '%s' matches (%s)", what, s->denied, POLICY_DEFAULT);
	else
		conn_end(c, END_DENIED, "denied by policy %s at %s '%s'", judge_name(c, rule), what, s->denied);
}

/* the listener where the last part of the chain was entered: the first, or that of the short way */
static uint32_t entered_at(const struct conn *c)
{
	uint32_t i = c->n_via ? c->stages.n - 1u : 0;

	while (i && c->snap->cfg->listeners[c->stages.id[i]].type != LISTENER_TUNNEL)
		i--;
	return i;
}

bool judge_address(struct conn *c, const struct addr *to)
{
	struct stage_context ctx;

	if (c->snap != c->w->snap) {
		c->dst = *to;
		if (!judge_now(c))
			return false;
	}
	if (!policy_looks_at(set_of(c), POLICY_DESTINATION_IP))
		return true;
	judge_context(c, &ctx);
	judge_prepare(c, &ctx);
	ctx.in.addr = *to;
	ctx.in.port = to->port;
	if (stages_judge(c->snap->cfg, entered_at(c), &ctx, &c->stages) == STAGE_GO)
		return true;
	judge_end(c);
	return false;
}
