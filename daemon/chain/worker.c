/*
 * A worker: everything one thread owns, the one dispatch switch, and draining.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>

#define DRAIN_TICK_MS 20u
#define ACCESS_RING (1u << 20) /* bytes per worker */

static void dispatch_conn(struct worker *w, union ev_ref ref, uint32_t events)
{
	struct conn *c = slab_get(&w->conns, ref.idx, ref.gen);
	int side = ref.side & 1;

	if (!c || c->state == CONN_CLOSED || c->leg[side].kind != LEG_SOCK)
		return;
	if (side == DST && ref.side >> 1 != c->tries)
		return;
	if (side == DST && c->state == CONN_DIALING)
		dial_event(c, events);
	else if (c->proxy_wait)
		accept_header(c, events);
	else
		relay_event(c, side, events);
}

static void dispatch(void *owner, union ev_ref ref, uint32_t events)
{
	struct worker *w = owner;

	switch ((enum ev_kind)ref.kind) {
	case EV_CONN:
		dispatch_conn(w, ref, events);
		break;
	case EV_TUNNEL:
		tunnel_event(&w->tunnels, ref, events);
		break;
	case EV_LISTENER:
		accept_event(w, ref.idx);
		break;
	case EV_DNS:
		dns_event(w->dns, (int)ref.idx, events);
		break;
	case EV_WAKE: /* the loop's own */
		break;
	}
}

const struct connect_self *worker_self(const struct worker *w, const struct cfg_identity *id)
{
	return &w->self[id ? (uint32_t)(id - w->d->cfg->identities) : w->d->cfg->n_identities];
}

static int tables_init(struct worker *w)
{
	const struct config *cfg = w->d->cfg;
	struct endpoint *ep;
	int r;

	w->listeners = calloc(cfg->n_listeners + 1u, sizeof(*w->listeners));
	w->clusters = calloc(cfg->n_clusters + 1u, sizeof(*w->clusters));
	w->endpoints = ep = calloc(cfg->n_endpoints + 1u, sizeof(*w->endpoints));
	w->self = calloc(cfg->n_identities + 1u, sizeof(*w->self));
	w->chunks = malloc(CHUNKS * sizeof(*w->chunks));
	w->policies = calloc(cfg->n_policies + 1u, sizeof(*w->policies));
	if (!w->listeners || !w->clusters || !w->endpoints || !w->self || !w->chunks || !w->policies)
		return -ENOMEM;
	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		w->listeners[i] = (struct listener){ .cfg = &cfg->listeners[i], .w = w, .fd = -1, .resume = { .fire = accept_resume } };
	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		w->listeners[i].resume.arg = &w->listeners[i];
	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		w->listeners[i].netns.name = cfg->listeners[i].netns;
	for (uint32_t i = 0; i < cfg->n_clusters; i++) {
		struct cluster *c = &w->clusters[i];

		c->cfg = &cfg->clusters[i];
		c->ep = ep;
		for (uint32_t k = 0; k < c->cfg->n_endpoints; k++, ep++)
			*ep = (struct endpoint){ .cfg = &c->cfg->endpoints[k], .cluster = c->cfg };
		c->netns.name = c->cfg->netns;
		if (c->cfg->type == CLUSTER_TUNNEL)
			pool_init(&c->pool, &w->tunnels, c->cfg);
		c->pool.netns = &c->netns;
	}
	for (uint32_t i = 0; i <= cfg->n_identities; i++) {
		r = connect_self_init(&w->self[i], &cfg->node, i < cfg->n_identities ? tls_ctx_id(w->d->tls[i]) : NULL);
		if (r < 0)
			return r;
	}
	return 0;
}

int worker_init(struct worker *w, struct daemon *d, uint32_t index)
{
	const struct config *cfg = d->cfg;
	uint64_t tunnels = (uint64_t)cfg->limits.max_tunnels_in + (uint64_t)cfg->n_endpoints * POOL_TUNNELS_MAX + POOL_TUNNELS_MAX;
	int r;

	memset(w, 0, sizeof(*w));
	w->d = d;
	r = loop_init(&w->loop, index, cfg, w, dispatch);
	if (r < 0)
		return r;
	w->loop.pipes.scarce = sock_scarce;
	w->failed_log.kind = LOG_K_CONN_FAILED;
	w->refused_log.kind = LOG_K_CONN_REFUSED;
	w->dry_log.kind = LOG_K_DRY_RUN;
	slab_init(&w->conns, sizeof(struct conn), cfg->limits.max_connections);
	tunnels_init(&w->tunnels, &w->loop, (uint32_t)min_u64(tunnels, 1u << 20), &accept_hooks, w, d->tls);
	r = series_init(&w->series);
	if (r == 0)
		r = access_ring_init(&w->access, ACCESS_RING);
	if (r == 0)
		r = recent_init(&w->recent, cfg->limits.recent, loop_random(&w->loop));
	if (r == 0)
		r = dns_create(&w->dns, &w->loop, w);
	if (r == 0)
		r = tables_init(w);
	return r;
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;

	for (uint32_t i = 0; i < w->d->cfg->n_listeners; i++) {
		union ev_ref ref = { .kind = EV_LISTENER, .idx = i };

		if (w->listeners[i].fd >= 0)
			(void)loop_watch_level(&w->loop, w->listeners[i].fd, ref, EPOLLIN);
	}
	places_start(w);
	health_thread_begins();
	loop_run(&w->loop);
	return NULL;
}

int worker_start(struct worker *w)
{
	sigset_t all, old;
	char name[16];
	int r;

	sigfillset(&all); /* signals are the main thread's */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&w->thread, NULL, worker_thread, w);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	w->started = true;
	snprintf(name, sizeof(name), "worker-%u", w->loop.worker);
	pthread_setname_np(w->thread, name);
	return 0;
}

static void listeners_close(struct worker *w)
{
	for (uint32_t i = 0; w->listeners && i < w->d->cfg->n_listeners; i++) {
		timer_disarm(&w->loop.timers, &w->listeners[i].resume);
		if (w->listeners[i].fd >= 0)
			close(w->listeners[i].fd);
		w->listeners[i].fd = -1;
	}
}

static void end_all(struct worker *w, enum ending e, const char *why)
{
	struct conn *c;

	for (uint32_t i = 0; (c = slab_next(&w->conns, &i));)
		conn_end(c, e, "%s", why);
}

static void drained(struct worker *w)
{
	uint64_t one = 1;

	atomic_fetch_add(&w->d->drained, 1);
	(void)!write(w->d->drained_fd, &one, sizeof(one));
}

static void drain_tick(struct timer *t, void *arg)
{
	struct worker *w = arg;
	bool late = w->loop.now_ms >= w->drain_end_ms;

	if (late && w->conns.used) {
		log_warn(LA_CHAIN, "worker %u: drain deadline, %u connections are reset", w->loop.worker, w->conns.used);
		end_all(w, END_SHUTDOWN, "drain deadline");
	}
	if (!w->conns.used)
		for (uint32_t i = 0; i < w->d->cfg->n_clusters; i++)
			if (w->clusters[i].cfg->type == CLUSTER_TUNNEL)
				pool_drain(&w->clusters[i].pool);
	if ((!w->conns.used && !w->tunnels.slab.used) || w->loop.now_ms >= w->drain_end_ms + 200) {
		drained(w);
		return;
	}
	timer_arm(&w->loop.timers, t, w->loop.now_ms + DRAIN_TICK_MS);
}

void worker_drain(struct worker *w, uint64_t within_ms)
{
	struct tunnel *t;

	if (w->draining)
		return;
	for (uint32_t i = 0; i < w->d->cfg->n_listeners; i++)
		accept_event(w, i); /* who waits in the queue was told that it is connected */
	w->draining = true;
	listeners_close(w);
	for (uint32_t i = 0; (t = slab_next(&w->tunnels.slab, &i));)
		if (t->server)
			tunnel_drain(t);
	w->drain_end_ms = w->loop.now_ms + within_ms;
	w->drain.fire = drain_tick;
	w->drain.arg = w;
	timer_arm(&w->loop.timers, &w->drain, w->loop.now_ms + 1);
}

struct stop {
	struct order order;
};

static void stop_run(struct order *o, void *owner)
{
	struct worker *w = owner;

	(void)o;
	w->loop.stop = true;
}

void worker_join(struct worker *w)
{
	static struct stop stop = { .order = { stop_run } }; /* carries nothing: one will do for all */

	if (!w->started)
		return;
	while (!loop_post(&w->loop, &stop.order))
		usleep(1000);
	pthread_join(w->thread, NULL);
	w->started = false;
}

void worker_finish(struct worker *w)
{
	if (w->loop.epfd <= 0 && !w->listeners)
		return;
	if (w->conns.size && w->listeners) {
		struct conn *c;

		end_all(w, END_SHUTDOWN, "shutting down");
		for (uint32_t i = 0; (c = slab_next(&w->conns, &i));)
			conn_free(c);
	}
	listeners_close(w);
	places_finish(w);
	tunnels_finish(&w->tunnels);
	for (uint32_t i = 0; w->clusters && i < w->d->cfg->n_clusters; i++)
		if (w->clusters[i].cfg && w->clusters[i].cfg->type == CLUSTER_TUNNEL)
			pool_finish(&w->clusters[i].pool);
	slab_finish(&w->conns);
	dns_destroy(w->dns);
	for (uint32_t i = 0; w->self && i <= w->d->cfg->n_identities; i++)
		connect_self_finish(&w->self[i]);
	free(w->listeners);
	free(w->clusters);
	free(w->endpoints);
	free(w->self);
	free(w->chunks);
	free(w->policies);
	series_finish(&w->series);
	recent_finish(&w->recent);
	loop_finish(&w->loop);
	w->listeners = NULL;
}
