/*
 * What of a change can fail, before anything has changed: sockets for new addresses, objects for new names, tables of endpoints. All of
 * it is made beside what is in force, and can be undone.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/swap.h"
#include "net/sock.h"

/* ---- sockets */

static bool same_address(const struct cfg_listener *a, const struct cfg_listener *b)
{
	return addr_eq(&a->address, &b->address) && same_text(a->netns, b->netns);
}

/* a listener of the old configuration that has sockets at the address of @l, and does not keep them */
static const struct cfg_listener *sockets_for(const struct swap *s, const struct cfg_listener *l)
{
	const struct config *old = s->old->cfg, *next = s->next->cfg;

	for (uint32_t i = 0; i < old->n_listeners; i++) {
		const struct cfg_listener *o = &old->listeners[i];
		bool kept = false;

		if (!has_socket(o) || !same_address(o, l))
			continue;
		for (uint32_t k = 0; k < next->n_listeners; k++)
			kept |= s->listener_name[k].slot == o->slot && same_address(o, &next->listeners[k]);
		if (!kept)
			return o;
	}
	return NULL;
}

/* ours may hold the port at another address of the node: then asking whether it is free says nothing */
static bool port_is_ours(const struct swap *s, const struct cfg_listener *l)
{
	for (uint32_t i = 0; i < s->old->cfg->n_listeners; i++) {
		const struct cfg_listener *o = &s->old->cfg->listeners[i];

		if (has_socket(o) && o->address.port == l->address.port && same_text(o->netns, l->netns))
			return true;
	}
	return false;
}

static int bind_sockets(struct swap *s, struct swap_listener *p, const struct cfg_listener *l, struct err *reterr)
{
	bool probe = !port_is_ours(s, l);
	int r = 0;

	p->fd = malloc(s->d->n_workers * sizeof(*p->fd));
	if (!p->fd)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t w = 0; w < s->d->n_workers; w++)
		p->fd[w] = -1;
	for (uint32_t w = 0; r == 0 && w < s->d->n_workers; w++) {
		struct listener *tmp = listener_new(&s->d->workers[w], l);

		r = tmp ? listener_open(tmp, probe && w == 0, reterr) : err_set(reterr, -ENOMEM, "out of memory");
		if (tmp)
			p->fd[w] = tmp->fd;
		if (r == 0)
			tmp->fd = -1;
		netns_put(tmp ? &tmp->netns : &(struct netns){.name = NULL});
		free(tmp);
	}
	if (r == -ENOENT && l->netns) {
		log_warn(LA_MAIN, "listener '%s': %s; it waits for it", l->name, reterr->msg);
		return 0;
	}
	return r;
}

int swap_prepare_listener(struct swap *s, uint32_t i, struct err *reterr)
{
	const struct cfg_listener *l = &s->next->cfg->listeners[i], *had, *from;
	struct swap_listener *p = &s->listener[i];
	uint32_t n = s->d->n_workers;
	int r = 0;

	p->fresh = s->listener_name[i].fresh;
	p->from = UINT32_MAX;
	had = p->fresh ? NULL : s->had[s->listener_name[i].slot];
	p->obj = p->fresh ? calloc(n, sizeof(struct listener *)) : NULL;
	if (p->fresh && !p->obj)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t w = 0; p->fresh && w < n; w++)
		if (!(p->obj[w] = listener_new(&s->d->workers[w], l)))
			return err_set(reterr, -ENOMEM, "out of memory");
	if (!has_socket(l) || (had && same_address(had, l)))
		return 0;
	p->door = true;
	from = sockets_for(s, l);
	if (from)
		p->from = from->slot;
	else
		r = bind_sockets(s, p, l, reterr);
	return r < 0 ? err_prefix(reterr, r, "listener '%s'", l->name) : 0;
}

/* ---- clusters */

/* may tunnels made for @a serve @b? What a new certificate means is not asked here. */
static bool same_tunnels(const struct cfg_cluster *a, const struct cfg_cluster *b)
{
	return a->tls == b->tls && a->by_workload == b->by_workload && (a->by_workload || same_identity(a->identity, b->identity)) &&
	       same_text(a->sni, b->sni) && same_text(a->netns, b->netns) &&
	       same_texts(a->expect_ids, a->n_expect_ids, b->expect_ids, b->n_expect_ids);
}

/* endpoints that were there go on with their counters; workers do not change the table meanwhile */
static int prepare_endpoints(struct swap *s, struct swap_cluster *p, const struct cfg_cluster *c, const struct cfg_cluster *had)
{
	uint32_t n = s->d->n_workers;

	p->n_old = had->n_endpoints;
	p->ep = calloc(n, sizeof(struct endpoint **));
	for (uint32_t w = 0; p->ep && w < n; w++) {
		const struct cluster *cl = s->d->workers[w].clusters[had->slot];

		p->ep[w] = calloc(c->n_endpoints + 1u, sizeof(struct endpoint *));
		for (uint32_t i = 0; p->ep[w] && i < c->n_endpoints; i++) {
			for (uint32_t k = 0; k < had->n_endpoints && !p->ep[w][i]; k++)
				if (endpoint_is(cl->ep[k], &c->endpoints[i]))
					p->ep[w][i] = cl->ep[k];
			for (uint32_t k = 0; k < i; k++)
				if (p->ep[w][k] == p->ep[w][i]) /* named twice */
					p->ep[w][i] = NULL;
			if (!p->ep[w][i] && !(p->ep[w][i] = endpoint_new(&c->endpoints[i], had)))
				return -ENOMEM;
		}
		if (!p->ep[w])
			return -ENOMEM;
	}
	return p->ep ? 0 : -ENOMEM;
}

static const struct cfg_cluster *had_cluster(const struct swap *s, uint32_t slot)
{
	for (uint32_t i = 0; i < s->old->cfg->n_clusters; i++)
		if (s->old->cfg->clusters[i].slot == slot)
			return &s->old->cfg->clusters[i];
	return NULL;
}

int swap_prepare_cluster(struct swap *s, uint32_t i, struct err *reterr)
{
	struct cfg_cluster *c = &s->next->cfg->clusters[i];
	struct swap_cluster *p = &s->cluster[i];
	const struct cfg_cluster *had;

	p->fresh = s->cluster_name[i].fresh;
	if (!p->fresh) {
		had = had_cluster(s, s->cluster_name[i].slot);
		p->renew = !same_tunnels(had, c);
		p->moved = !same_text(had->netns, c->netns);
		return prepare_endpoints(s, p, c, had) < 0 ? err_set(reterr, -ENOMEM, "out of memory") : 0;
	}
	put_slot(&c->slot, s->cluster_name[i].slot); /* endpoints keep it */
	p->obj = calloc(s->d->n_workers, sizeof(struct cluster *));
	for (uint32_t w = 0; p->obj && w < s->d->n_workers; w++) {
		p->obj[w] = cluster_new(&s->d->workers[w], c);
		if (!p->obj[w])
			return err_set(reterr, -ENOMEM, "out of memory");
		p->obj[w]->pool.snap = s->next;
	}
	return p->obj ? 0 : err_set(reterr, -ENOMEM, "out of memory");
}

/* ---- it is not carried out */

void swap_undo_listener(struct swap_listener *p, uint32_t n_workers)
{
	for (uint32_t w = 0; w < n_workers; w++) {
		if (p->obj)
			listener_free(p->obj[w]);
		if (p->fd && p->fd[w] >= 0)
			close(p->fd[w]);
	}
}

void swap_undo_cluster(const struct swap *s, struct swap_cluster *p, uint32_t i)
{
	for (uint32_t w = 0; w < s->d->n_workers; w++) {
		const struct cluster *cl = p->ep && p->ep[w] ? s->d->workers[w].clusters[s->cluster_name[i].slot] : NULL;

		if (p->obj)
			cluster_free(p->obj[w]);
		for (uint32_t k = 0; cl && k < s->next->cfg->clusters[i].n_endpoints; k++) {
			bool old = false;

			for (uint32_t j = 0; j < p->n_old; j++)
				old |= p->ep[w][k] == cl->ep[j];
			if (!old)
				endpoint_put(p->ep[w][k]);
		}
	}
}
