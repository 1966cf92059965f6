/*
 * A worker lets go of what it has.
 *
 * First the listeners. Who waits in an accept queue was told that it is connected, and so will be told who is in the middle of the
 * handshake; closing the socket would reset both. So SYNs are dropped for a moment (they are sent again, and refused then or taken by
 * somebody else), handshakes in flight complete and are accepted, and then the socket is closed. A socket that another process has, too
 * (the daemon that takes over, the service manager's store) is just let go: its queue is theirs.
 *
 * Then the tunnels that peers opened: GOAWAY in two phases each, as soon as its handshake is over. Connections go on until they end, or
 * until their moment comes. The moments are spread over the last part of the time (drain.jitter) by the connection's number times the
 * golden ratio, which spreads any run of numbers evenly: clients that come back do not come all at once, and nothing is kept for it.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include <string.h>

#define TICK_MS	     20u
#define TICK_MANY_MS 100u /* going through 100,000 connections takes some milliseconds */
#define MANY	     10000u
#define SETTLE_MS    150u /* for the rest of a handshake: a round trip within a region, and then some */

static void drained(struct worker *w)
{
	uint64_t one = 1;

	if (w->drain_closed)
		log_info(LA_CHAIN, "worker %u: the drain closed %u connections", w->loop.worker, w->drain_closed);
	atomic_fetch_add(&w->d->drained, 1);
	(void)!write(w->d->drained_fd, &one, sizeof(one));
}

/* Return: true once they are closed */
static bool close_listeners(struct worker *w)
{
	bool all = true;

	for (uint32_t i = 0; i < LISTENER_SLOTS; i++) {
		struct listener *s = w->listeners[i];

		if (s && s->fd >= 0)
			accept_all(s);
		all &= !s || s->fd < 0 || !s->paused;
	}
	if (w->loop.now_ms < w->drain_start_ms + w->drain_settle_ms || (!all && w->loop.now_ms < w->drain_end_ms))
		return false;
	worker_listeners_close(w);
	return true;
}

/* those that peers opened, and whose handshake is over; again and again, since some come to that later */
static void tell_peers(struct worker *w)
{
	struct tunnel *t;

	for (uint32_t i = 0; (t = slab_next(&w->tunnels.slab, &i));)
		if (t->server && t->state >= TUNNEL_SETTLING)
			tunnel_drain(t);
}

static uint64_t moment(const struct worker *w, const struct conn *c)
{
	uint64_t part = (c->id * 0x9e3779b97f4a7c15u) >> 32;

	return w->drain_end_ms - w->drain_jitter_ms + (w->drain_jitter_ms * part >> 32);
}

static void close_some(struct worker *w)
{
	uint64_t now = w->loop.now_ms;
	struct conn *c;

	if (now >= w->drain_end_ms) {
		w->drain_closed += w->conns.used;
		worker_end_all(w, END_SHUTDOWN, "drain deadline");
		return;
	}
	if (now + w->drain_jitter_ms < w->drain_end_ms)
		return;
	for (uint32_t i = 0; (c = slab_next(&w->conns, &i));) {
		if (c->state != CONN_OPEN || now < moment(w, c))
			continue;
		w->drain_closed++;
		conn_end(c, END_DRAINED, "drain: its moment before the deadline came (drain.jitter)");
	}
}

static void tick(struct timer *t, void *arg)
{
	struct worker *w = arg;

	if (w->closing)
		w->closing = !close_listeners(w);
	if (!w->closing)
		tell_peers(w);
	if (w->conns.used)
		close_some(w);
	if (!w->conns.used && !w->closing)
		for (uint32_t i = 0; i < CLUSTER_SLOTS; i++)
			if (w->clusters[i])
				pool_drain(&w->clusters[i]->pool);
	if ((!w->conns.used && !w->tunnels.slab.used && !w->closing) || w->loop.now_ms >= w->drain_end_ms + 200) {
		worker_listeners_close(w);
		drained(w);
		return;
	}
	timer_arm(&w->loop.timers, t, w->loop.now_ms + (w->conns.used > MANY ? TICK_MANY_MS : TICK_MS));
}

void worker_drain(struct worker *w, uint64_t within_ms, uint64_t jitter_ms)
{
	if (w->draining)
		return;
	w->draining = w->closing = true;
	w->drain_start_ms = w->loop.now_ms;
	w->drain_end_ms = w->loop.now_ms + within_ms;
	w->drain_jitter_ms = min_u64(jitter_ms, within_ms);
	w->drain_settle_ms = w->d->sockets_shared ? 0 : min_u64(SETTLE_MS, within_ms / 4);
	for (uint32_t i = 0; i < LISTENER_SLOTS && !w->d->sockets_shared; i++)
		if (w->listeners[i] && w->listeners[i]->fd >= 0)
			sock_listener_quiet(w->listeners[i]->fd);
	w->drain.fire = tick;
	w->drain.arg = w;
	timer_arm(&w->loop.timers, &w->drain, w->loop.now_ms + 1);
}
