/*
 * The one way in which what is in force changes.
 *
 * prepare() (swap_prepare.c), on the main thread: everything that can fail. Slots for new names, sockets bound, objects made for each worker. Then
 * nothing can fail any more: each worker gets one order, which swap_take() carries out between two turns of its loop. Objects that go on
 * are pointed at the new snapshot, new ones come, those that are gone close their doors: a listener accepts who waits in its queue
 * and closes its socket, tunnels that came in by it get a GOAWAY, a cluster's tunnels drain. Connections are not touched.
 *
 * An address keeps its sockets, whatever the listener is called: nobody who connects meanwhile is refused.
 *
 * daemon_tick() (reap.c) frees what is over. A snapshot is used by workers, connections and tunnels, which count themselves. An object of a
 * name that is gone lives until no snapshot that had the name is used; then its worker frees it, then the slot is free. Objects of
 * names that are gone point into the last snapshot that had them, which is kept so long.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/swap.h"

#define TAKE_MS 5000u /* a worker should be back in its loop by then */

/* ---- names */

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

/* @undo: it was not carried out */
void swap_free(struct swap *s, bool undo)
{
	for (uint32_t i = 0; s->listener && i < s->next->cfg->n_listeners; i++) {
		if (undo)
			swap_undo_listener(&s->listener[i], s->d->n_workers);
		free(s->listener[i].obj);
		free(s->listener[i].fd);
	}
	for (uint32_t i = 0; s->cluster && i < s->next->cfg->n_clusters; i++) {
		if (undo)
			swap_undo_cluster(s, &s->cluster[i], i);
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
		r = swap_prepare_cluster(s, i, reterr);
	for (uint32_t i = 0; r == 0 && i < next->n_listeners; i++)
		r = swap_prepare_listener(s, i, reterr);
	return r < 0 ? r : prepare_log(s, reterr);
}

/* have all workers taken it? */
bool swap_settle(struct daemon *d, uint32_t ms)
{
	if (!d->swap)
		return true;
	for (uint32_t t = 0; atomic_load_explicit(&d->swap->taken, memory_order_acquire) < d->n_workers; t++) {
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
		s->orders[i].order.run = swap_take;
		s->orders[i].s = s;
		if (!d->workers[i].started) { /* it has not begun: it is nobody's yet */
			swap_take(&s->orders[i].order, &d->workers[i]);
			continue;
		}
		while (!loop_post(&d->workers[i].loop, &s->orders[i].order))
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

	if (!swap_settle(d, TAKE_MS))
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
	if (swap_settle(d, TAKE_MS)) {
		spread_all(d);
		kernel_renew(d, old);
	} else {
		log_err(LA_MAIN, "a worker has not taken the change within %u s: it is stuck, or very busy", TAKE_MS / 1000);
	}
	daemon_tick(d);
	return 0;
}
