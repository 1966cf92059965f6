/*
 * The daemon: certificates, listeners and workers put together, started, drained and taken apart.
 */
#include "chain/daemon.h"
#include "chain/whose.h"
#include "base/clean.h"
#include "base/log.h"
#include "net/sock.h"
#include <poll.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>

#define CALL_MS 1000

void listener_spread(const struct cfg_listener *l, int fd0, uint32_t n_workers)
{
	int r;

	if (l->type != LISTENER_TCP || n_workers < 2 || fd0 < 0)
		return;
	r = l->spread == SPREAD_SOURCE ? sock_spread_by_source(fd0, n_workers) : sock_spread_plain(fd0);
	if (r < 0)
		log_warn(LA_MAIN, "listener '%s': spread: source is not available (%s); connections are spread by connection", l->name,
			 strerror(-r));
}

/* one socket per worker in a reuseport group; the order of binding is the order of indexes that sock_spread_by_source() picks from */
static int bind_listener(struct daemon *d, const struct cfg_listener *l, struct adopt *set, struct err *reterr)
{
	int r = takeover_bind(d, l, set, reterr);

	if (r)
		return r < 0 ? r : 0;

	for (uint32_t i = 0; i < d->n_workers; i++) {
		r = listener_open(d->workers[i].listeners[l->slot], i == 0, reterr);
		if (r == -ENOENT && l->netns) {
			log_warn(LA_MAIN, "listener '%s': %s; it waits for it", l->name, reterr->msg);
			return 0;
		}
		if (r < 0)
			return err_prefix(reterr, r, "listener '%s'", l->name);
	}
	listener_spread(l, d->workers[0].listeners[l->slot]->fd, d->n_workers);
	return 0;
}

static int workers_create(struct daemon *d, struct adopt *set, struct err *reterr)
{
	int r = 0;

	d->workers = aligned_alloc(64, d->n_workers * sizeof(*d->workers));
	d->rings = calloc(d->n_workers, sizeof(*d->rings));
	if (d->workers)
		memset(d->workers, 0, d->n_workers * sizeof(*d->workers));
	if (!d->workers || !d->rings)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; r == 0 && i < d->n_workers; i++) {
		r = worker_init(&d->workers[i], d, i);
		d->rings[i] = &d->workers[i].access;
	}
	if (r < 0)
		return err_set(reterr, r, "worker: %s", strerror(-r));
	for (uint32_t i = 0; r == 0 && i < d->cfg->n_listeners; i++)
		if (d->cfg->listeners[i].type != LISTENER_INTERNAL)
			r = bind_listener(d, &d->cfg->listeners[i], set, reterr);
	return r;
}

int daemon_create(struct daemon **ret, struct snapshot *first, struct err *reterr)
{
	return daemon_create_from(ret, first, NULL, false, reterr);
}

int daemon_create_from(struct daemon **ret, struct snapshot *first, struct adopt *set, bool hold, struct err *reterr)
{
	struct daemon *d = calloc(1, sizeof(*d));
	const struct config *cfg = first->cfg;
	struct timespec ts;
	uint64_t seed;
	int r;

	if (!d) {
		snapshot_destroy(first);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	if (getrandom(&seed, sizeof(seed), 0) == sizeof(seed))
		metadata_hash_seed(seed); /* a peer must not choose what collides */
	clock_gettime(CLOCK_MONOTONIC, &ts);
	d->start_us = (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
	d->snap = first;
	d->hold = hold;
	d->cfg = cfg;
	d->n_workers = first->n_workers;
	d->drained_fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	d->per_listener = calloc(LISTENER_SLOTS, sizeof(*d->per_listener));
	d->per_cluster = calloc(CLUSTER_SLOTS, sizeof(*d->per_cluster));
	r = health_init(d);
	if (r == 0)
		r = overload_init(d);
	if (r == 0)
		r = limits_create(&first->limits, cfg, NULL, NULL);
	if (r == 0)
		r = workloads_prepare(first, NULL, reterr);
	r = r < 0 || d->drained_fd < 0 || !d->per_listener || !d->per_cluster ? err_set(reterr, -ENOMEM, "out of memory") : 0;
	if (r == 0)
		r = daemon_number(d, first, reterr);
	if (r == 0)
		r = kernel_probe(&d->kernel, cfg, reterr); /* before sockets are made: the bypass notes who made them */
	if (r == 0)
		r = workers_create(d, set, reterr);
	if (r == 0 && !hold)
		r = kernel_attach(d, reterr);
	if (r == 0 && cfg->access_log.enabled)
		r = access_log_start(&d->access_log, &cfg->access_log, &cfg->node, d->rings, d->n_workers, reterr);
	if (r < 0) {
		if (hold)
			kernel_hand_over(&d->kernel); /* rules and routes are the other's */
		daemon_destroy(d);
		return r;
	}
	*ret = d;
	return 0;
}

int daemon_start(struct daemon *d, struct err *reterr)
{
	for (uint32_t i = 0; i < d->n_workers; i++) {
		int r = worker_start(&d->workers[i]);

		if (r < 0)
			return err_set(reterr, r, "worker thread %u: %s", i, strerror(-r));
	}
	if (overload_start(d) < 0)
		return err_set(reterr, -EAGAIN, "thread for the look at overload: %s", strerror(EAGAIN));
	if (!d->hold) {
		d->ready = true;
		health_phase_set(&d->health, HEALTH_READY);
	}
	return 0;
}

static void open_run(struct order *o, void *owner)
{
	worker_accept(owner);
	free(o);
}

void daemon_open(struct daemon *d)
{
	struct err e = { "" };

	(void)kernel_attach(d, &e); /* what it lacks it has said */
	for (uint32_t i = 0; i < d->n_workers; i++) {
		struct order *o = malloc(sizeof(*o));

		while (!o) { /* nothing to go back to any more */
			(void)poll(NULL, 0, 10);
			o = malloc(sizeof(*o));
		}
		*o = (struct order){ .run = open_run };
		while (!loop_post(&d->workers[i].loop, o))
			(void)poll(NULL, 0, 1);
	}
	d->ready = true;
	health_phase_set(&d->health, HEALTH_READY);
}

int daemon_call(struct daemon *d, uint32_t i, struct call *c)
{
	struct timespec pause = { .tv_nsec = 20000 };

	if (!d->workers[i].started || !loop_post(&d->workers[i].loop, &c->order))
		return -EAGAIN;
	for (uint64_t waited = 0; !atomic_load_explicit(&c->done, memory_order_acquire); waited += (uint64_t)pause.tv_nsec) {
		if (waited > CALL_MS * 1000000ull)
			return -ETIMEDOUT;
		nanosleep(&pause, NULL);
		if (pause.tv_nsec < 1000000)
			pause.tv_nsec *= 2;
	}
	return 0;
}

struct drain_order {
	struct order order;
	uint64_t within_ms, jitter_ms;
};

static void drain_run(struct order *o, void *owner)
{
	struct drain_order *dr = container_of(o, struct drain_order, order);

	worker_drain(owner, dr->within_ms, dr->jitter_ms);
	free(dr);
}

void daemon_drain(struct daemon *d, uint64_t within_ms, uint64_t jitter_ms)
{
	if (d->draining)
		return;
	d->draining = true;
	health_phase_set(&d->health, HEALTH_DRAINING);
	capture_leave(d->kernel.capture); /* new connections go elsewhere before there is nobody to take them */
	steer_destroy(TAKE(d->kernel.steer));
	for (uint32_t i = 0; i < d->n_workers; i++) {
		struct drain_order *o = malloc(sizeof(*o));

		if (!o || !d->workers[i].started) {
			free(o);
			continue;
		}
		*o = (struct drain_order){ .order = { drain_run }, .within_ms = within_ms, .jitter_ms = jitter_ms };
		while (!loop_post(&d->workers[i].loop, &o->order))
			(void)poll(NULL, 0, 1);
	}
}

bool daemon_drained(const struct daemon *d)
{
	return atomic_load(&d->drained) >= d->n_workers;
}

void daemon_destroy(struct daemon *d)
{
	if (!d)
		return;
	overload_stop(d);
	for (uint32_t i = 0; d->workers && i < d->n_workers; i++)
		worker_join(&d->workers[i]);
	for (uint32_t i = 0; d->workers && i < d->n_workers; i++)
		worker_finish(&d->workers[i]);
	access_log_stop(d->access_log); /* after the last connections were reported */
	for (uint32_t i = 0; d->workers && i < d->n_workers; i++)
		access_ring_finish(&d->workers[i].access);
	kernel_finish(&d->kernel, !d->draining);
	takeover_finish(d);
	health_finish(d);
	overload_finish(d);
	daemon_swap_finish(d);
	tracing_finish(d);
	free(d->workers);
	free(d->rings);
	free((void *)d->per_listener);
	free((void *)d->per_cluster);
	if (d->drained_fd >= 0)
		close(d->drained_fd);
	free(d);
}
