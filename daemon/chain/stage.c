/*
 * Resolving a chain. The configuration check has already refused loops and chains longer than CFG_CHAIN_MAX, so the bound here is
 * a safety net, not a rule that users meet.
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

enum stage_verdict stages_resolve(const struct cfg_listener *first, const struct stage_context *ctx, struct stages *ret)
{
	const struct cfg_listener *l = first;

	memset(ret, 0, sizeof(*ret));
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
