/*
 * Listeners and clusters in other network namespaces.
 *
 * A worker's sockets are made inside, by a thread that returns at once; epoll does not care where a socket lives. What has to be looked
 * after is the namespace's end: our sockets would keep it alive, with its interfaces, after its name was removed. So each
 * worker compares names with what it has open, once a second (dials do it each time): if one leads nowhere or elsewhere now, its
 * listeners close, the connections and tunnels that came in or went out there end, and all else goes on. A listener comes back
 * when there is a namespace of that name again: container runtimes remove and make them.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"

#define LOOK_MS 1000u

int listener_open(struct listener *s, bool probe, struct err *reterr)
{
	int in, back, r = netns_get(&s->netns, &in, reterr);

	if (r < 0)
		return r;
	r = netns_enter(in, &back);
	if (r < 0)
		return err_set(reterr, r, "network namespace '%s': %s", s->netns.name, netns_why(r));
	if (probe)
		r = sock_probe(&s->cfg->address, reterr);
	if (r == 0)
		r = sock_listen(&s->cfg->address, (int)s->cfg->backlog, &s->fd, reterr);
	netns_leave(back);
	return r;
}

static bool came_in(const struct conn *c, const struct cfg_listener *l)
{
	return l && c->leg[SRC].kind == LEG_SOCK && conn_slot(c, 0) == l->slot;
}

static bool went_out(const struct conn *c, const struct cfg_cluster *cl)
{
	return cl && c->leg[DST].kind == LEG_SOCK && c->stages.cluster && c->stages.cluster->slot == cl->slot;
}

/* what uses the namespace that is gone: by this listener, or by this cluster */
static void end_all_of(struct worker *w, const struct cfg_listener *l, const struct cfg_cluster *cl, const char *name)
{
	struct tunnel *t;
	struct conn *c;

	for (uint32_t i = 0; (c = slab_next(&w->conns, &i));)
		if (came_in(c, l) || went_out(c, cl))
			conn_end(c, END_KILLED, "network namespace '%s' was removed", name);
	for (uint32_t i = 0; (t = slab_next(&w->tunnels.slab, &i));)
		if ((l && t->listener && t->listener->slot == l->slot) || (cl && t->peer && t->peer->pool->cluster == cl))
			tunnel_close(t, -ENETDOWN, "its network namespace was removed");
}

static void listener_gone(struct worker *w, struct listener *s)
{
	if (w->loop.worker == 0) /* one line is enough */
		log_warn(LA_CHAIN, "listener '%s': network namespace '%s' was removed; its connections end, and it waits for another of the name",
			 s->cfg->name, s->netns.name);
	timer_disarm(&w->loop.timers, &s->resume);
	s->paused = false;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
	owner_close(&s->owner); /* it would keep the namespace */
	end_all_of(w, s->cfg, NULL, s->netns.name);
}

static void listener_back(struct worker *w, struct listener *s)
{
	union ev_ref ref = { .kind = EV_LISTENER, .idx = s->cfg->slot };
	char a[ADDR_STR];

	if (listener_open(s, false, NULL) < 0)
		return; /* the address may come later than the namespace */
	if (s->cfg->type == LISTENER_TCP && s->cfg->spread == SPREAD_SOURCE && w->d->n_workers > 1)
		(void)sock_spread_by_source(s->fd, w->d->n_workers);
	(void)loop_watch_level(&w->loop, s->fd, ref, EPOLLIN);
	if (w->loop.worker == 0)
		log_info(LA_CHAIN, "listener '%s': listening on %s in network namespace '%s'", s->cfg->name, addr_str(&s->cfg->address, a),
			 s->netns.name);
}

static void look(struct timer *t, void *arg)
{
	struct worker *w = arg;
	const struct config *cfg = w->snap->cfg;

	for (uint32_t i = 0; i < cfg->n_listeners; i++) {
		struct listener *s = w->listeners[cfg->listeners[i].slot];

		if (!s->netns.name || w->draining)
			continue;
		if (netns_gone(&s->netns))
			listener_gone(w, s);
		if (s->fd < 0)
			listener_back(w, s);
	}
	for (uint32_t i = 0; i < cfg->n_clusters; i++) {
		struct cluster *cl = w->clusters[cfg->clusters[i].slot];

		if (netns_gone(&cl->netns))
			end_all_of(w, NULL, cl->cfg, cl->netns.name);
	}
	timer_arm(&w->loop.timers, t, w->loop.now_ms + LOOK_MS);
}

void places_start(struct worker *w)
{
	const struct config *cfg = w->snap->cfg;
	bool any = false;

	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		any |= cfg->listeners[i].netns && cfg->listeners[i].type != LISTENER_INTERNAL;
	for (uint32_t i = 0; i < cfg->n_clusters; i++)
		any |= cfg->clusters[i].netns != NULL;
	timer_disarm(&w->loop.timers, &w->places);
	if (!any)
		return;
	w->places.fire = look;
	w->places.arg = w;
	timer_arm(&w->loop.timers, &w->places, w->loop.now_ms + LOOK_MS);
}

void places_finish(struct worker *w)
{
	timer_disarm(&w->loop.timers, &w->places);
}
