/*
 * A worker: everything one thread owns, the one dispatch switch, and its end. Draining: drain.c.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include <signal.h>
#include <stdio.h>
#include <string.h>

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

/* by slot: large, and untouched but for what is in use */
static int tables_init(struct worker *w)
{
	const struct config *cfg = w->snap->cfg;

	w->listeners = calloc(LISTENER_SLOTS, sizeof(struct listener *));
	w->clusters = calloc(CLUSTER_SLOTS, sizeof(struct cluster *));
	w->policies = calloc(POLICY_SLOTS, sizeof(*w->policies));
	w->chunks = malloc(CHUNKS * sizeof(*w->chunks));
	if (!w->listeners || !w->clusters || !w->chunks || !w->policies)
		return -ENOMEM;
	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		if (!(w->listeners[cfg->listeners[i].slot] = listener_new(w, &cfg->listeners[i])))
			return -ENOMEM;
	for (uint32_t i = 0; i < cfg->n_clusters; i++) {
		struct cluster *c = w->clusters[cfg->clusters[i].slot] = cluster_new(w, &cfg->clusters[i]);

		if (!c)
			return -ENOMEM;
		c->pool.snap = w->snap;
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
	w->snap = snapshot_get(d->snap, index);
	whose_init(&w->whose);
	r = loop_init(&w->loop, index, cfg, w, dispatch);
	if (r < 0)
		return r;
	w->loop.pipes.scarce = sock_scarce;
	w->loop.pressure = &d->overload.workers[index].pressure;
	w->loop.pressed = shed_pressed;
	w->failed_log.kind = LOG_K_CONN_FAILED;
	w->refused_log.kind = LOG_K_CONN_REFUSED;
	w->dry_log.kind = LOG_K_DRY_RUN;
	slab_init(&w->conns, sizeof(struct conn), cfg->limits.max_connections);
	tunnels_init(&w->tunnels, &w->loop, (uint32_t)min_u64(tunnels, 1u << 20), &stream_hooks, w);
	w->tunnels.snap = w->snap;
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

void worker_accept(struct worker *w)
{
	for (uint32_t i = 0; i < LISTENER_SLOTS; i++) {
		union ev_ref ref = { .kind = EV_LISTENER, .idx = i };

		if (w->listeners[i] && w->listeners[i]->fd >= 0)
			(void)loop_watch_level(&w->loop, w->listeners[i]->fd, ref, EPOLLIN);
	}
	if (w->loop.worker == 0)
		takeover_start(w);
	places_start(w);
}

static void *worker_thread(void *arg)
{
	struct worker *w = arg;

	if (!w->d->hold)
		worker_accept(w);
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

void worker_listeners_close(struct worker *w)
{
	for (uint32_t i = 0; w->listeners && i < LISTENER_SLOTS; i++) {
		struct listener *s = w->listeners[i];

		if (!s)
			continue;
		timer_disarm(&w->loop.timers, &s->resume);
		if (s->fd >= 0)
			close(s->fd);
		s->fd = -1;
	}
}

void worker_end_all(struct worker *w, enum ending e, const char *why)
{
	struct conn *c;

	for (uint32_t i = 0; (c = slab_next(&w->conns, &i));)
		conn_end(c, e, "%s", why);
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

		worker_end_all(w, END_SHUTDOWN, "shutting down");
		for (uint32_t i = 0; (c = slab_next(&w->conns, &i));)
			conn_free(c);
	}
	worker_listeners_close(w);
	places_finish(w);
	tunnels_finish(&w->tunnels);
	whose_finish(&w->whose);
	dns_destroy(w->dns); /* its queries end now, and look for their connections */
	slab_finish(&w->conns);
	for (uint32_t i = 0; w->clusters && i < CLUSTER_SLOTS; i++)
		cluster_free(w->clusters[i]);
	for (uint32_t i = 0; w->listeners && i < LISTENER_SLOTS; i++)
		listener_free(w->listeners[i]);
	free(w->listeners);
	free(w->clusters);
	free(w->chunks);
	free(w->policies);
	series_finish(&w->series);
	recent_finish(&w->recent);
	loop_finish(&w->loop);
	w->listeners = NULL;
}
