/*
 * Resolving a chain. Between listeners that name each other the configuration check has already refused loops and chains longer than
 * CFG_CHAIN_MAX, so the bound here is a safety net. Where a tunnel's endpoint turns out to be a listener of this node, only
 * addresses lead there, and the loop is found here.
 *
 * Policies see the connection as it entered: principal, addresses, authority and metadata of the outermost leg, at every listener and
 * cluster alike, so what they look at is prepared once. A cluster is asked when the way leads to it, internal ones, too. The first
 * that denies ends it.
 */
#include "chain/stage.h"
#include "codec/authority.h"
#include "codec/spiffe.h"
#include <stddef.h>
#include <string.h>

/* ---- policies */

/* Names as the peer wrote them. Addresses have many spellings: the one that policies are compared with is addr_str()'s. */
static struct slice authority_of(const struct stage_context *ctx, char room[ADDR_STR])
{
	struct slice text = ctx->in.authority;
	struct addr to = ctx->in.addr;
	struct authority a;

	if (text.p && (authority_parse(text.p, text.n, &a, NULL) < 0 || a.addr.family == AF_UNSPEC))
		return text;
	if (to.family == AF_UNSPEC)
		return text;
	to.port = ctx->in.port;
	addr_str(&to, room);
	return (struct slice){room, strlen(room)};
}

void stages_input(const struct stage_context *ctx, uint32_t first, char room[ADDR_STR], struct policy_input *ret)
{
	struct policy_input in = {.source = ctx->src, .destination = ctx->in.addr, .port = ctx->in.port, .listener = first, .md = ctx->in.md};
	size_t n = ctx->principal ? strlen(ctx->principal) : 0;
	struct spiffe id;

	/* what is no SPIFFE id proves nothing */
	if (n && spiffe_parse(ctx->principal, n, &id, NULL) == 0) {
		in.principal = (struct slice){ctx->principal, n};
		in.trust_domain = id.trust_domain;
		in.ns = id.ns;
		in.sa = id.sa;
	}
	in.authority = authority_of(ctx, room);
	*ret = in;
}

void stages_ask_begin(struct stages_asked *q, const struct stage_context *ctx, uint32_t first)
{
	struct policy_input in;

	q->ctx = ctx;
	if (!ctx->policies)
		return;
	stages_input(ctx, first, q->authority, &in);
	policy_look(ctx->policies, &in, &q->facts);
}

bool stages_ask(const struct stages_asked *q, enum policy_place at, uint32_t id, const char *name, struct stages *ret)
{
	struct policy_verdict v;

	if (!q->ctx->policies)
		return true;
	policy_decide(q->ctx->policies, &q->facts, at, id, &v);
	if (q->ctx->judged)
		q->ctx->judged(q->ctx->judged_arg, at, id, &v);
	if (v.policy != POLICY_NONE || !v.allowed) {
		ret->policy = v.policy;
		ret->rule = v.rule;
	}
	if (v.allowed)
		return true;
	ret->denied = name;
	ret->denied_cluster = at == POLICY_AT_CLUSTER;
	return false;
}

/* ---- the way */

static enum stage_verdict resolve(const struct cfg_listener *l, const struct stage_context *ctx, struct stages *ret)
{
	struct stages_asked q;

	stages_ask_begin(&q, ctx, l->id);
	while (l && ret->n < CFG_CHAIN_MAX) {
		const struct cfg_route *r = l->n_routes ? route_find(l, &ctx->in) : NULL;
		const struct cfg_target *to = r ? &r->to : &l->to;

		ret->id[ret->n] = (uint16_t)l->id;
		ret->to[ret->n++] = to->cluster ? (uint16_t)to->cluster->id : STAGE_NO_CLUSTER;
		if (!stages_ask(&q, POLICY_AT_LISTENER, l->id, l->name, ret))
			return STAGE_DENIED;
		if (r)
			ret->route = r;
		if (to->cluster && to->cluster->type != CLUSTER_INTERNAL) {
			ret->cluster = to->cluster;
			ret->forward = to->forward;
		}
		if (to->cluster && !stages_ask(&q, POLICY_AT_CLUSTER, to->cluster->id, to->cluster->name, ret))
			return STAGE_DENIED;
		if (ret->cluster)
			return STAGE_GO;
		l = to->cluster ? to->cluster->listener : to->listener;
	}
	return STAGE_NO_ROUTE;
}

enum stage_verdict stages_resolve(const struct cfg_listener *first, const struct stage_context *ctx, struct stages *ret)
{
	memset(ret, 0, sizeof(*ret));
	ret->policy = ret->rule = POLICY_NONE;
	return resolve(first, ctx, ret);
}

enum stage_verdict stages_extend(const struct cfg_listener *next, const struct stage_context *ctx, struct stages *s)
{
	s->cluster = NULL;
	s->forward = false;
	for (uint32_t i = 0; i < s->n; i++)
		if (s->id[i] == next->id)
			return STAGE_LOOP;
	return resolve(next, ctx, s);
}

enum stage_verdict stages_judge(const struct config *cfg, uint32_t from, const struct stage_context *ctx, struct stages *s)
{
	const struct cfg_listener *l = &cfg->listeners[s->id[from]];
	struct stages_asked q;

	stages_ask_begin(&q, ctx, l->id);
	for (uint32_t i = from; i < s->n; i++) {
		l = &cfg->listeners[s->id[i]];
		if (!stages_ask(&q, POLICY_AT_LISTENER, l->id, l->name, s))
			return STAGE_DENIED;
	}
	if (s->cluster && !stages_ask(&q, POLICY_AT_CLUSTER, s->cluster->id, s->cluster->name, s))
		return STAGE_DENIED;
	return STAGE_GO;
}
