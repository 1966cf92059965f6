/*
 * A worker takes a change, between two turns of its loop. Nothing here can fail: all that is needed was made before.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/swap.h"
#include "tunnel/choose.h"

/* ---- the worker's part */

static void take_sockets(struct worker *w, const struct swap *s)
{
	/* who is queued at an address that goes, or at one that other listeners take over, is served by the old */
	for (uint32_t i = 0; i < s->old->cfg->n_listeners; i++) {
		uint32_t slot = s->old->cfg->listeners[i].slot;

		if (!s->stays[slot] && w->listeners[slot]->fd >= 0)
			accept_all(w->listeners[slot]);
	}
}

static void open_door(struct worker *w, const struct swap *s, uint32_t i, int *was)
{
	const struct swap_listener *p = &s->listener[i];
	const struct cfg_listener *l = &s->next->cfg->listeners[i];
	struct listener *o = w->listeners[l->slot];
	union ev_ref ref = {.kind = EV_LISTENER, .idx = l->slot};

	o->fd = p->fd ? p->fd[w->loop.worker] : was[p->from];
	if (!p->fd)
		was[p->from] = -1;
	if (o->fd >= 0)
		(void)loop_watch_level(&w->loop, o->fd, ref, EPOLLIN);
}

static void take_listeners(struct worker *w, const struct swap *s, int *was)
{
	const struct config *old = s->old->cfg, *next = s->next->cfg;

	for (uint32_t i = 0; i < old->n_listeners; i++) {
		struct listener *l = w->listeners[old->listeners[i].slot];

		was[l->cfg->slot] = -1;
		if (s->stays[l->cfg->slot])
			continue;
		timer_disarm(&w->loop.timers, &l->resume);
		l->paused = false;
		was[l->cfg->slot] = l->fd;
		l->fd = -1;
	}
	for (uint32_t i = 0; i < next->n_listeners; i++) {
		const struct cfg_listener *l = &next->listeners[i];

		if (s->listener[i].fresh)
			w->listeners[l->slot] = s->listener[i].obj[w->loop.worker];
		if (!same_text(w->listeners[l->slot]->netns.name, l->netns))
			netns_put(&w->listeners[l->slot]->netns);
		w->listeners[l->slot]->netns.name = l->netns;
		w->listeners[l->slot]->cfg = l;
		if (s->listener[i].door)
			open_door(w, s, i, was);
	}
	for (uint32_t i = 0; i < old->n_listeners; i++)
		if (was[old->listeners[i].slot] >= 0)
			close(was[old->listeners[i].slot]);
}

/* endpoints that are not in the new table have one user less */
static void drop_endpoints(struct endpoint **old, uint32_t n, struct endpoint **kept, uint32_t m)
{
	for (uint32_t i = 0; i < n; i++) {
		bool stays = false;

		for (uint32_t k = 0; k < m; k++)
			stays |= kept[k] == old[i];
		if (!stays)
			endpoint_put(old[i]);
	}
}

static void take_clusters(struct worker *w, struct swap *s)
{
	const struct config *old = s->old->cfg, *next = s->next->cfg;

	for (uint32_t i = 0; i < next->n_clusters; i++) {
		const struct cfg_cluster *c = &next->clusters[i];
		struct swap_cluster *p = &s->cluster[i];
		struct endpoint **ep;
		struct cluster *cl;

		if (p->fresh) {
			w->clusters[c->slot] = p->obj[w->loop.worker];
			continue;
		}
		cl = w->clusters[c->slot];
		ep = cl->ep;
		cl->ep = p->ep[w->loop.worker];
		p->ep[w->loop.worker] = ep;
		for (uint32_t k = 0; k < c->n_endpoints; k++)
			cl->ep[k]->refresh_ms = c->dns_refresh_ms;
		drop_endpoints(ep, p->n_old, cl->ep, c->n_endpoints);
		if (p->moved)
			netns_put(&cl->netns);
		cl->netns.name = c->netns;
		cl->cfg = c;
		pool_adopt(&cl->pool, s->next, c, p->renew);
	}
	for (uint32_t i = 0; i < old->n_clusters; i++)
		if (!s->cluster_stays[old->clusters[i].slot])
			pool_drain(&w->clusters[old->clusters[i].slot]->pool);
}

/* tunnels that came in: their listener goes on, or it is gone and they finish what they have */
static void take_tunnels(struct worker *w, const struct swap *s)
{
	struct tunnel *t;

	for (uint32_t i = 0; (t = slab_next(&w->tunnels.slab, &i));) {
		const struct cfg_identity *id;
		const struct cfg_listener *l;
		struct err why = {""};
		bool goes_on;

		if (!t->server || t->state == TUNNEL_CLOSED)
			continue;
		l = s->has[t->listener->slot];
		id = l && l->by_workload ? choose_again(s->next->cfg, l, t) : l ? l->identity : NULL;
		goes_on = l && l->tls == t->listener->tls && same_identity(id, t->identity);
		if (!goes_on) {
			err_set(&t->why, 0, "%s", l ? "its listener has another identity" : "its listener was removed");
			tunnel_drain(t);
		}
		if (!l || (!id && l->tls)) /* it finishes what it has under the old */
			continue;
		tunnel_adopt(t, s->next, l, id);
		if (t->who->tls.id[0] && tls_id_check(snapshot_tls(s->next, id), t->who->tls.id, l->accept_ids, l->n_accept_ids, &why) < 0) {
			stats_inc(&w->loop.stats, ST_IDENTITY_REFUSED);
			tunnel_close(t, -EACCES, why.msg);
		}
	}
}

void swap_take(struct order *o, void *owner)
{
	struct swap_order *so = container_of(o, struct swap_order, order);
	struct swap *s = so->s;
	const struct config *next = s->next->cfg;
	struct worker *w = owner;

	if (!w->draining)
		take_sockets(w, s); /* while the old is in force */
	w->snap = snapshot_get(s->next, w->loop.worker);
	w->loop.cfg = next;
	w->tunnels.snap = s->next;
	w->conns.limit = next->limits.max_connections;
	take_listeners(w, s, so->was);
	take_clusters(w, s);
	take_tunnels(w, s);
	tunnels_renewed(&w->tunnels);
	places_start(w);
	judge_again(w);
	snapshot_put(s->old, w->loop.worker);
	atomic_fetch_add_explicit(&s->taken, 1, memory_order_release);
}
