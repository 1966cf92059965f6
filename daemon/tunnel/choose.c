/*
 * Choosing a server's identity. The address is known when the connection is accepted; the name only when the client's hello is here, and
 * is waited for only if any workload has one.
 */
#include "tunnel/choose.h"
#include "policy/workload.h"
#include <string.h>

static bool has_names(const struct config *cfg)
{
	for (uint32_t i = 0; i < cfg->n_workloads; i++)
		if (cfg->workloads[i].n_server_names)
			return true;
	return false;
}

static const struct cfg_identity *choose(const struct config *cfg, const struct cfg_listener *l, const struct addr *local, const char *name,
					 size_t n)
{
	const struct cfg_workload *x = n ? workload_named(cfg, name, n) : NULL;

	if (!x)
		x = workload_serving(cfg, local);
	return x && x->identity ? x->identity : l->identity;
}

const struct cfg_identity *choose_identity(const struct config *cfg, const struct cfg_listener *l, const struct addr *local, const char *name)
{
	return l->by_workload ? choose(cfg, l, local, name, name ? strlen(name) : 0) : l->identity;
}

const struct cfg_identity *choose_first(const struct config *cfg, const struct cfg_listener *l, const struct addr *local)
{
	const struct cfg_identity *id = choose_identity(cfg, l, local, NULL);

	/* shown to nobody: the name decides before anything is sent */
	for (uint32_t i = 0; !id && i < cfg->n_workloads; i++)
		if (cfg->workloads[i].n_server_names)
			id = cfg->workloads[i].identity;
	return id;
}

static struct tls_ctx *named(void *arg, const char *name, size_t n, struct err *reterr)
{
	struct tunnel *t = arg;
	const struct cfg_identity *id = choose(t->snap->cfg, t->listener, &t->who->local, name, n);
	struct tls_ctx *tls = snapshot_tls(t->snap, id), *old = t->who->own;
	char q[128], a[ADDR_STR];

	if (!tls) {
		log_quote(q, sizeof(q), name ? name : "", n);
		err_set(reterr, -EACCES, "no workload has the server name %s or the address %s, and listener '%s' has no identity_default",
			n ? q : "(none)", addr_str(&t->who->local, a), t->listener->name);
		return NULL;
	}
	t->identity = id;
	t->who->own = tls_ctx_get(tls);
	t->who->own_id = tls_ctx_id(tls);
	tls_ctx_put(old);
	return tls;
}

void choose_wait(struct tunnel *t)
{
	if (!t->listener->by_workload || !t->listener->tls || !has_names(t->snap->cfg))
		return;
	t->rec.choose = named;
	t->rec.choose_arg = t;
}

const struct cfg_identity *choose_again(const struct config *cfg, const struct cfg_listener *l, const struct tunnel *t)
{
	const struct cfg_identity *id = choose(cfg, l, &t->who->local, NULL, 0);

	if (id && t->identity && !strcmp(id->name, t->identity->name))
		return id;
	for (uint32_t i = 0; t->identity && i < cfg->n_workloads; i++) {
		id = cfg->workloads[i].n_server_names ? cfg->workloads[i].identity : NULL;
		if (id && !strcmp(id->name, t->identity->name))
			return id;
	}
	return NULL;
}
