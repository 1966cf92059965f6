/*
 * Snapshots: what belongs to a configuration and is not in its file, loaded and encoded once for all workers.
 */
#include "chain/snapshot.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/limits.h"
#include "chain/whose.h"
#include "tls/ctx.h"

static void contexts_free(struct tls_ctx **tls, uint32_t n)
{
	for (uint32_t i = 0; tls && i < n; i++)
		tls_ctx_put(tls[i]);
	free(tls);
}

static int contexts_load(struct tls_ctx ***ret, const struct config *cfg, struct err *reterr)
{
	struct tls_ctx **tls = calloc(cfg->n_identities + 1u, sizeof(struct tls_ctx *));
	struct err warn;
	int r = 0;

	if (!tls)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; r == 0 && i < cfg->n_identities; i++) {
		r = tls_ctx_create(&tls[i], &cfg->identities[i], &warn, reterr);
		if (r == 0 && warn.msg[0])
			log_err(LA_MAIN, "%s", warn.msg);
	}
	if (r < 0)
		contexts_free(tls, cfg->n_identities);
	else
		*ret = tls;
	return r;
}

static int selves(struct snapshot *s, struct err *reterr)
{
	uint32_t n = s->cfg->n_identities;

	s->self = calloc(n + 1u + s->cfg->n_workloads, sizeof(*s->self));
	for (uint32_t i = 0; s->self && i <= n; i++)
		if (connect_self_init(&s->self[i], &s->cfg->node, i < n ? tls_ctx_id(s->tls[i]) : NULL) < 0)
			return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; s->self && i < s->cfg->n_workloads; i++) {
		const struct cfg_workload *l = &s->cfg->workloads[i];
		const struct tls_ctx *t = snapshot_tls(s, l->identity);

		if (connect_self_init(&s->self[n + 1u + i], &l->node, t ? tls_ctx_id(t) : NULL) < 0)
			return err_set(reterr, -ENOMEM, "out of memory");
	}
	return s->self ? 0 : err_set(reterr, -ENOMEM, "out of memory");
}

int snapshot_create(struct snapshot **ret, struct config *cfg, struct tls_ctx **tls, uint32_t n_workers, void (*cfg_free)(struct config *c),
		    struct err *reterr)
{
	size_t size = sizeof(struct snapshot) + n_workers * sizeof(struct snapshot_users);
	struct snapshot *s;
	int r = 0;

	if (!tls)
		r = contexts_load(&tls, cfg, reterr);
	if (r < 0)
		return r;
	s = aligned_alloc(64, (size + 63) & ~(size_t)63);
	if (!s) {
		contexts_free(tls, cfg->n_identities);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	memset(s, 0, size);
	s->cfg = cfg;
	s->tls = tls;
	s->n_workers = n_workers;
	s->cfg_free = cfg_free;
	cfg->uses++;
	s->policy_slot = calloc(cfg->n_policies + 1u, sizeof(*s->policy_slot));
	r = s->policy_slot ? selves(s, reterr) : err_set(reterr, -ENOMEM, "out of memory");
	if (r < 0) {
		s->cfg_free = NULL;
		snapshot_destroy(s);
		return r;
	}
	*ret = s;
	return 0;
}

void snapshot_destroy(struct snapshot *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; s->self && i < s->cfg->n_identities + 1u + s->cfg->n_workloads; i++)
		connect_self_finish(&s->self[i]);
	free(s->self);
	free(s->policy_slot);
	limits_destroy(s->limits);
	workloads_release(s);
	contexts_free(s->tls, s->cfg->n_identities);
	if (--s->cfg->uses == 0 && s->cfg_free)
		s->cfg_free(s->cfg);
	free(s);
}

const struct connect_self *snapshot_self(const struct snapshot *s, const struct cfg_identity *id)
{
	return &s->self[id ? (uint32_t)(id - s->cfg->identities) : s->cfg->n_identities];
}

const struct connect_self *snapshot_self_of(const struct snapshot *s, const struct cfg_workload *l)
{
	return &s->self[s->cfg->n_identities + 1u + l->id];
}
