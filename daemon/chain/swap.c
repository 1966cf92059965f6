/*
 * The one way in which what is in force changes.
 *
 * prepare(), on the main thread: everything that can fail. Slots for new names, sockets bound, objects made for each worker. Then
 * nothing can fail any more: each worker gets one order, which take() carries out between two turns of its loop. Objects that go on
 * are pointed at the new snapshot, new ones come, those that are gone close their doors: a listener accepts who waits in its queue
 * and closes its socket, tunnels that came in by it get a GOAWAY, a cluster's tunnels drain. Connections are not touched.
 *
 * An address keeps its sockets, whatever the listener is called: nobody who connects meanwhile is refused.
 *
 * daemon_tick() frees what is over. A snapshot is used by workers, connections and tunnels, which count themselves. An object of a
 * name that is gone lives until no snapshot that had the name is used; then its worker frees it, then the slot is free. Objects of
 * names that are gone point into the last snapshot that had them, which is kept so long.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include "tunnel/choose.h"
#include <string.h>
#include <time.h>

#define TAKE_MS 5000u /* a worker should be back in its loop by then */

struct swap_listener {
	bool fresh, door;      /* a new object; its socket changes */
	uint32_t from;	       /* slot that had sockets at this address; UINT32_MAX: none */
	int *fd;	       /* by worker: newly bound; -1: its namespace is not there */
	struct listener **obj; /* by worker, if fresh */
};

struct swap_cluster {
	bool fresh, renew, moved; /* a new object; its tunnels have other settings; another network namespace */
	struct cluster **obj;	  /* by worker, if fresh */
	struct endpoint ***ep;	  /* by worker, if not: the new endpoints; then the old ones, for us to free */
	uint32_t n_old;
};

struct swap_order {
	struct order order;
	struct swap *s;
	int *was; /* by slot: sockets between two listeners */
};

struct swap {
	struct daemon *d;
	struct snapshot *next, *old;
	struct slots_name *listener_name, *cluster_name, *policy_name;
	struct swap_listener *listener; /* by index in next */
	struct swap_cluster *cluster;	/* by index in next */
	const struct cfg_listener **had, **has; /* by slot: the old configuration's, the new one's; NULL: none */
	bool *stays;			 /* by slot: a listener whose sockets stay as they are */
	bool *cluster_stays;		 /* by slot */
	struct access_log *log; /* opened, if another is wanted */
	bool relog;
	struct swap_order *orders;
	_Atomic uint32_t taken;
};

/* ---- names */

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static void forget_names(struct swap *s)
{
	slots_forget(s->listener_name, s->next->cfg->n_listeners);
	slots_forget(s->cluster_name, s->next->cfg->n_clusters);
	slots_forget(s->policy_name, s->next->cfg->n_policies);
	free(TAKE(s->listener_name));
	free(TAKE(s->cluster_name));
	free(TAKE(s->policy_name));
}

static int plan_names(struct swap *s, struct err *reterr)
{
	const struct config *c = s->next->cfg;
	struct daemon *d = s->d;
	int r;

	s->listener_name = calloc(c->n_listeners + 1u, sizeof(*s->listener_name));
	s->cluster_name = calloc(c->n_clusters + 1u, sizeof(*s->cluster_name));
	s->policy_name = calloc(c->n_policies + 1u, sizeof(*s->policy_name));
	if (!s->listener_name || !s->cluster_name || !s->policy_name)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < c->n_listeners; i++)
		s->listener_name[i] = (struct slots_name){.name = c->listeners[i].name, .type = c->listeners[i].type};
	for (uint32_t i = 0; i < c->n_clusters; i++)
		s->cluster_name[i] = (struct slots_name){.name = c->clusters[i].name, .type = c->clusters[i].type};
	for (uint32_t i = 0; i < c->n_policies; i++)
		s->policy_name[i] = (struct slots_name){.name = c->policies[i].name};
	r = slots_plan(&d->listener_slots, s->listener_name, c->n_listeners);
	if (r == 0)
		r = slots_plan(&d->cluster_slots, s->cluster_name, c->n_clusters);
	if (r == 0)
		r = slots_plan(&d->policy_slots, s->policy_name, c->n_policies);
	if (r == -ENOSPC)
		return err_set(reterr, r, "too many names of former configurations are still used by connections; end some, or restart");
	return r < 0 ? err_set(reterr, r, "out of memory") : 0;
}

/* one configuration may be in two snapshots: then its slots are right already, and workers read them */
static void put_slot(uint32_t *at, uint32_t slot)
{
	if (*at != slot)
		*at = slot;
}

static void commit_names(struct swap *s)
{
	struct config *c = s->next->cfg;
	struct daemon *d = s->d;

	for (uint32_t i = 0; i < c->n_listeners; i++)
		put_slot(&c->listeners[i].slot, s->listener_name[i].slot);
	for (uint32_t i = 0; i < c->n_clusters; i++)
		put_slot(&c->clusters[i].slot, s->cluster_name[i].slot);
	for (uint32_t i = 0; i < c->n_policies; i++)
		s->next->policy_slot[i] = s->policy_name[i].slot;
	s->next->number = d->snap && d->snap != s->next ? d->snap->number + 1 : 1;
	slots_commit(&d->listener_slots, s->listener_name, c->n_listeners, s->next->number);
	slots_commit(&d->cluster_slots, s->cluster_name, c->n_clusters, s->next->number);
	slots_commit(&d->policy_slots, s->policy_name, c->n_policies, s->next->number);
}

int daemon_number(struct daemon *d, struct snapshot *first, struct err *reterr)
{
	struct swap s = {.d = d, .next = first};
	int r = 0;

	if (slots_init(&d->listener_slots, LISTENER_SLOTS) < 0 || slots_init(&d->cluster_slots, CLUSTER_SLOTS) < 0 ||
	    slots_init(&d->policy_slots, POLICY_COUNTS_DEFAULT) < 0)
		r = err_set(reterr, -ENOMEM, "out of memory");
	if (r == 0)
		r = plan_names(&s, reterr);
	if (r == 0)
		commit_names(&s);
	forget_names(&s);
	return r;
}

/* ---- sockets */

static bool has_socket(const struct cfg_listener *l)
{
	return l->type != LISTENER_INTERNAL;
}

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
		netns_put(tmp ? &tmp->netns : &(struct netns){NULL});
		free(tmp);
	}
	if (r == -ENOENT && l->netns) {
		log_warn(LA_MAIN, "listener '%s': %s; it waits for it", l->name, reterr->msg);
		return 0;
	}
	return r;
}

static int prepare_listener(struct swap *s, uint32_t i, struct err *reterr)
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

static bool same_texts(const char **a, uint32_t n, const char **b, uint32_t m)
{
	if (n != m)
		return false;
	for (uint32_t i = 0; i < n; i++)
		if (strcmp(a[i], b[i]))
			return false;
	return true;
}

static bool same_identity(const struct cfg_identity *a, const struct cfg_identity *b)
{
	return same_text(a ? a->name : NULL, b ? b->name : NULL);
}

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

static int prepare_cluster(struct swap *s, uint32_t i, struct err *reterr)
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

static void take(struct order *o, void *owner)
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

/* ---- the access log */

static bool same_log(const struct config *a, const struct config *b)
{
	const struct cfg_access_log *x = &a->access_log, *y = &b->access_log;
	const struct cfg_node *m = &a->node, *n = &b->node;

	return x->enabled == y->enabled && x->format == y->format && same_text(x->path, y->path) &&
	       same_texts(x->fields, x->n_fields, y->fields, y->n_fields) && same_text(m->id, n->id) &&
	       same_text(m->workload, n->workload) && same_text(m->namespace_, n->namespace_) && same_text(m->cluster, n->cluster) &&
	       same_text(m->service, n->service);
}

static int prepare_log(struct swap *s, struct err *reterr)
{
	const struct config *c = s->next->cfg;

	s->relog = !same_log(s->old->cfg, c);
	return s->relog ? access_log_open(&s->log, &c->access_log, &c->node, s->d->rings, s->d->n_workers, reterr) : 0;
}

/* one thread at a time empties the rings; what comes meanwhile waits in them */
static void change_log(struct daemon *d, struct access_log *l)
{
	int r;

	access_log_stop(d->access_log);
	d->access_log = l;
	r = l ? access_log_run(l) : 0;
	if (r < 0)
		log_err(LA_MAIN, "access log: cannot start the thread: %s; nothing is logged until the next reload", strerror(-r));
}

/* ---- the whole */

static void listeners_undo(struct swap_listener *p, uint32_t n_workers)
{
	for (uint32_t w = 0; w < n_workers; w++) {
		if (p->obj)
			listener_free(p->obj[w]);
		if (p->fd && p->fd[w] >= 0)
			close(p->fd[w]);
	}
}

static void clusters_undo(const struct swap *s, struct swap_cluster *p, uint32_t i)
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

/* @undo: it was not carried out */
static void swap_free(struct swap *s, bool undo)
{
	for (uint32_t i = 0; s->listener && i < s->next->cfg->n_listeners; i++) {
		if (undo)
			listeners_undo(&s->listener[i], s->d->n_workers);
		free(s->listener[i].obj);
		free(s->listener[i].fd);
	}
	for (uint32_t i = 0; s->cluster && i < s->next->cfg->n_clusters; i++) {
		if (undo)
			clusters_undo(s, &s->cluster[i], i);
		for (uint32_t w = 0; s->cluster[i].ep && w < s->d->n_workers; w++)
			free(s->cluster[i].ep[w]);
		free(s->cluster[i].ep);
		free(s->cluster[i].obj);
	}
	if (undo)
		access_log_stop(s->log);
	forget_names(s);
	free(s->listener);
	free(s->cluster);
	for (uint32_t w = 0; s->orders && w < s->d->n_workers; w++)
		free(s->orders[w].was);
	free(s->had);
	free(s->has);
	free(s->stays);
	free(s->cluster_stays);
	free(s->orders);
	free(s);
}

static int prepare(struct swap *s, struct err *reterr)
{
	const struct config *next = s->next->cfg, *old = s->old->cfg;
	int r = plan_names(s, reterr);

	s->listener = calloc(next->n_listeners + 1u, sizeof(*s->listener));
	s->cluster = calloc(next->n_clusters + 1u, sizeof(*s->cluster));
	s->had = calloc(LISTENER_SLOTS, sizeof(*s->had));
	s->has = calloc(LISTENER_SLOTS, sizeof(*s->has));
	s->stays = calloc(LISTENER_SLOTS, sizeof(*s->stays));
	s->cluster_stays = calloc(CLUSTER_SLOTS, sizeof(*s->cluster_stays));
	s->orders = calloc(s->d->n_workers, sizeof(*s->orders));
	for (uint32_t w = 0; r == 0 && s->orders && w < s->d->n_workers; w++)
		if (!(s->orders[w].was = malloc(LISTENER_SLOTS * sizeof(int))))
			r = err_set(reterr, -ENOMEM, "out of memory");
	if (r == 0 && (!s->listener || !s->cluster || !s->had || !s->has || !s->stays || !s->cluster_stays || !s->orders))
		r = err_set(reterr, -ENOMEM, "out of memory");
	if (r < 0)
		return r;
	if (limits_create(&s->next->limits, next, s->old->limits, old) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	r = workloads_prepare(s->next, s->old, reterr);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < old->n_listeners; i++)
		s->had[old->listeners[i].slot] = &old->listeners[i];
	for (uint32_t i = 0; r == 0 && i < next->n_clusters; i++)
		r = prepare_cluster(s, i, reterr);
	for (uint32_t i = 0; r == 0 && i < next->n_listeners; i++)
		r = prepare_listener(s, i, reterr);
	return r < 0 ? r : prepare_log(s, reterr);
}

static void wait_ms(uint32_t ms)
{
	struct timespec t = {.tv_nsec = ms * 1000000L};

	nanosleep(&t, NULL);
}

/* have all workers taken it? */
static bool settle(struct daemon *d, uint32_t ms)
{
	uint32_t ran = 0;

	if (!d->swap)
		return true;
	for (uint32_t i = 0; i < d->n_workers; i++)
		ran += d->workers[i].started;
	for (uint32_t t = 0; atomic_load_explicit(&d->swap->taken, memory_order_acquire) < ran; t++) {
		if (t >= ms)
			return false;
		wait_ms(1);
	}
	swap_free(TAKE(d->swap), false);
	return true;
}

static void go(struct swap *s)
{
	struct daemon *d = s->d;

	commit_names(s);
	for (uint32_t i = 0; i < s->next->cfg->n_listeners; i++) {
		s->has[s->next->cfg->listeners[i].slot] = &s->next->cfg->listeners[i];
		s->stays[s->next->cfg->listeners[i].slot] = !s->listener[i].door;
	}
	for (uint32_t i = 0; i < s->next->cfg->n_clusters; i++)
		s->cluster_stays[s->next->cfg->clusters[i].slot] = true;
	s->next->next = d->snap;
	d->snap = s->next;
	d->cfg = s->next->cfg;
	overload_configure(d, d->cfg);
	d->swap = s;
	if (s->relog)
		change_log(d, s->log);
	for (uint32_t i = 0; i < d->n_workers; i++) {
		s->orders[i].order.run = take;
		s->orders[i].s = s;
		while (d->workers[i].started && !loop_post(&d->workers[i].loop, &s->orders[i].order))
			wait_ms(1);
	}
}

static void spread_all(const struct daemon *d)
{
	for (uint32_t i = 0; i < d->cfg->n_listeners; i++)
		if (has_socket(&d->cfg->listeners[i]))
			listener_spread(&d->cfg->listeners[i], d->workers[0].listeners[d->cfg->listeners[i].slot]->fd, d->n_workers);
}

int daemon_swap(struct daemon *d, struct snapshot *next, struct err *reterr)
{
	const struct config *old = d->cfg;
	struct swap *s;
	int r;

	if (!settle(d, TAKE_MS))
		return err_set(reterr, -EBUSY, "a worker has not taken the last change yet: it is stuck, or very busy");
	if (next->n_workers != d->n_workers)
		return err_set(reterr, -EINVAL, "the number of workers cannot be changed without a restart");
	s = calloc(1, sizeof(*s));
	if (!s)
		return err_set(reterr, -ENOMEM, "out of memory");
	s->d = d;
	s->next = next;
	s->old = d->snap;
	r = prepare(s, reterr);
	if (r < 0) {
		swap_free(s, true);
		return r;
	}
	go(s);
	if (settle(d, TAKE_MS)) {
		spread_all(d);
		kernel_renew(d, old);
	} else {
		log_err(LA_MAIN, "a worker has not taken the change within %u s: it is stuck, or very busy", TAKE_MS / 1000);
	}
	daemon_tick(d);
	return 0;
}

/* ---- what is over */

struct reap_order {
	struct order order;
	struct reap *r;
};

struct reap {
	uint32_t n_listeners, n_clusters, n_policies;
	uint32_t *listener, *cluster, *policy; /* slots */
	_Atomic uint32_t done;
	struct reap_order orders[];
};

static void reap_run(struct order *o, void *owner)
{
	struct reap *r = container_of(o, struct reap_order, order)->r;
	struct worker *w = owner;

	for (uint32_t i = 0; i < r->n_clusters; i++)
		cluster_free(TAKE(w->clusters[r->cluster[i]]));
	for (uint32_t i = 0; i < r->n_listeners; i++)
		listener_free(TAKE(w->listeners[r->listener[i]]));
	for (uint32_t i = 0; i < r->n_policies; i++)
		memset(&w->policies[r->policy[i]], 0, sizeof(*w->policies));
	atomic_fetch_add_explicit(&r->done, 1, memory_order_release);
}

/* is a snapshot with a number from @first to @last used? */
static bool alive(void *arg, uint64_t first, uint64_t last)
{
	const struct daemon *d = arg;

	for (const struct snapshot *s = d->snap; s; s = s->next)
		if (s->number >= first && s->number <= last && (s == d->snap || snapshot_used(s)))
			return true;
	return false;
}

static uint32_t *dead(struct daemon *d, const struct slots *s, uint32_t *ret_n)
{
	uint32_t *list = NULL, n = 0, at = 0;

	for (; slots_next_dead(s, &at, alive, d); at++) {
		if (n % 64 == 0) {
			uint32_t *more = realloc(list, (n + 64) * sizeof(*list));

			if (!more)
				break; /* the rest another time */
			list = more;
		}
		list[n++] = at;
	}
	*ret_n = n;
	return list;
}

static void reap_free(struct reap *r)
{
	free(r->listener);
	free(r->cluster);
	free(r->policy);
	free(r);
}

static void reap_start(struct daemon *d)
{
	struct reap *r = calloc(1, sizeof(*r) + d->n_workers * sizeof(struct reap_order));

	if (!r)
		return;
	r->listener = dead(d, &d->listener_slots, &r->n_listeners);
	r->cluster = dead(d, &d->cluster_slots, &r->n_clusters);
	r->policy = dead(d, &d->policy_slots, &r->n_policies);
	if (!r->n_listeners && !r->n_clusters && !r->n_policies) {
		reap_free(r);
		return;
	}
	d->reap = r;
	for (uint32_t i = 0; i < d->n_workers; i++) {
		r->orders[i] = (struct reap_order){.order = {reap_run}, .r = r};
		while (!loop_post(&d->workers[i].loop, &r->orders[i].order))
			wait_ms(1);
	}
}

static bool reap_end(struct daemon *d)
{
	struct reap *r = d->reap;

	if (!r)
		return true;
	if (atomic_load_explicit(&r->done, memory_order_acquire) < d->n_workers)
		return false;
	for (uint32_t i = 0; i < r->n_listeners; i++)
		slots_drop(&d->listener_slots, r->listener[i]);
	for (uint32_t i = 0; i < r->n_clusters; i++)
		slots_drop(&d->cluster_slots, r->cluster[i]);
	for (uint32_t i = 0; i < r->n_policies; i++)
		slots_drop(&d->policy_slots, r->policy[i]);
	reap_free(TAKE(d->reap));
	return true;
}

static void free_unused(struct daemon *d)
{
	struct snapshot **at = &d->snap->next;

	while (*at) {
		struct snapshot *s = *at;

		/* the first: the kernel plane was set up with it, and goes on with it */
		if (s->number == 1 || snapshot_used(s) || slots_need(&d->listener_slots, s->number) || slots_need(&d->cluster_slots, s->number)) {
			at = &s->next;
			continue;
		}
		*at = s->next;
		snapshot_destroy(s);
	}
}

void daemon_tick(struct daemon *d)
{
	if (!d->ready || !settle(d, 0) || !reap_end(d))
		return;
	if (!d->snap->next)
		return;
	reap_start(d);
	if (!d->reap)
		free_unused(d);
}

void daemon_swap_finish(struct daemon *d)
{
	if (d->swap)
		swap_free(TAKE(d->swap), false);
	if (d->reap)
		reap_free(TAKE(d->reap));
	while (d->snap) {
		struct snapshot *s = d->snap;

		d->snap = s->next;
		snapshot_destroy(s);
	}
	slots_finish(&d->listener_slots);
	slots_finish(&d->cluster_slots);
	slots_finish(&d->policy_slots);
}
