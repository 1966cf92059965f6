/*
 * Resolving a chain. Between listeners that name each other the configuration check has already refused loops and chains longer than
 * CFG_CHAIN_MAX, so the bound here is a safety net. Where a tunnel's endpoint turns out to be a listener of this node, only
 * addresses lead there, and the loop is found here.
 */
#include "chain/stage.h"
#include <stddef.h>
#include <string.h>

/*
 * The policy hook: asked for each listener with the principal, addresses and metadata of the outermost leg. Until policies can be
 * configured every listener allows.
 */
static const char *policy_denies(const struct cfg_listener *l, const struct stage_context *ctx)
{
	(void)l, (void)ctx;
	return NULL;
}

static enum stage_verdict resolve(const struct cfg_listener *l, const struct stage_context *ctx, struct stages *ret)
{
	while (l && ret->n < CFG_CHAIN_MAX) {
		const struct cfg_route *r = l->n_routes ? route_find(l, &ctx->in) : NULL;
		const struct cfg_target *to = r ? &r->to : &l->to;

		ret->id[ret->n++] = (uint16_t)l->id;
		ret->denied = policy_denies(l, ctx);
		if (ret->denied)
			return STAGE_DENIED;
		if (r)
			ret->route = r;
		if (to->cluster && to->cluster->type != CLUSTER_INTERNAL) {
			ret->cluster = to->cluster;
			ret->forward = to->forward;
			return STAGE_GO;
		}
		l = to->cluster ? to->cluster->listener : to->listener;
	}
	return STAGE_NO_ROUTE;
}

enum stage_verdict stages_resolve(const struct cfg_listener *first, const struct stage_context *ctx, struct stages *ret)
{
	memset(ret, 0, sizeof(*ret));
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
