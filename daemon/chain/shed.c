/*
 * What a worker does when it is told that something runs short: enum pressure, in loop/loop.h.
 *
 *	shrink		windows of all streams to 16 KiB (h2/window.c); pipes that nobody uses are closed; the kernel's buffers of our sockets
 *			are bounded, for the sockets that are there, a slice per tick, and for those that come
 *	close idle	connections on which nothing has moved for overload.idle, tunnels without streams, handshakes that do not come to an end;
 *			the longest idle first, a hundredth of them per tick: what was about to be used has time to be
 *	refuse		who connects is reset, a CONNECT is answered 503, before there is a connection
 *	pause		nothing is accepted; and where it is the cgroup's memory, who holds most of it is closed: readers so slow that they are
 *			never idle. limits.memory alone is kept by windows: who does not read is waited for, others go on
 *
 * Memory does all of it, descriptors nothing that concerns bytes, CPU only the last two.
 *
 * Under a cgroup's limit that sockets are charged to (v2), the buffers of connections' sockets have bounds from the beginning: a quarter of
 * the limit, divided by how many connections there are when they come.
 *
 * A buffer that was bounded by SO_RCVBUF does not grow by itself any more; SO_BUF_LOCK (Linux 5.14) gives that back when the pressure is
 * over. The window that a peer was granted before cannot be taken back (RFC 9293 3.8.6.2.1), so shrinking begins early.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include <string.h>

#define TICK_MS 100u
#define VISIT 512u		 /* sockets of connections that are looked at per tick */
#define SMALL_BYTES 16384	 /* of a connection's socket; the kernel doubles it for its own needs */
#define LARGE_BYTES (2u << 20)	 /* as much as a buffer usually grows to: not worth bounding */
#define SMALL_TUNNEL_BYTES 65536 /* of a tunnel's: many share it */
#define IDLEST (ARRAY_LEN(((struct shed *)NULL)->idlest) - 1) /* found by one walk over all */
#define WALK_MS 500u		 /* between two such walks */
#define HOLDERS 4u		 /* closed per tick at most */
#define HOLDS 65536u		 /* bytes; who has less is not worth it */

static uint32_t memory(const struct worker *w)
{
	return pressure_of(w->loop.pressure_now, PRESSURE_MEMORY);
}

/* the system's memory, not only limits.memory */
static bool dire(const struct worker *w)
{
	return memory(w) >= PRESSURE_PAUSE && atomic_load_explicit(&w->d->overload.dire, memory_order_relaxed);
}

static uint32_t idle_level(const struct worker *w)
{
	return (uint32_t)max_u64(memory(w), pressure_of(w->loop.pressure_now, PRESSURE_DESCRIPTORS));
}

/* ---- shrink ---- */

void shed_socket(const struct worker *w, int fd)
{
	uint64_t budget = atomic_load_explicit(&w->d->overload.sock_budget, memory_order_relaxed), share;

	if (memory(w) >= PRESSURE_SHRINK) {
		sock_bound(fd, SMALL_BYTES);
	} else if (budget) {
		/* two sockets, two directions; who comes early gets more, who comes late less, all together not much more than the budget */
		share = budget / (4 * (atomic_load_explicit(&w->d->connections, memory_order_relaxed) + 16ull));
		if (share < LARGE_BYTES)
			sock_bound(fd, (int)max_u64(share, SMALL_BYTES));
	}
}

/* a slice of all sockets: bounded, or (@bound false) free again. Return: all were visited. */
static bool visit_sockets(struct worker *w, bool bound)
{
	struct conn *c = NULL;

	for (uint32_t n = 0; n < VISIT && (c = slab_next(&w->conns, &w->shed.socket)); n++)
		for (int i = 0; i < 2; i++) {
			if (c->leg[i].kind != LEG_SOCK || c->leg[i].fd < 0)
				continue;
			if (bound)
				sock_bound(c->leg[i].fd, SMALL_BYTES);
			else
				sock_unbound(c->leg[i].fd);
		}
	return !c;
}

static void visit_tunnels(struct worker *w, bool bound)
{
	struct tunnel *t;

	for (uint32_t i = 0; (t = slab_next(&w->tunnels.slab, &i));) {
		if (t->state == TUNNEL_CLOSED || t->rec.fd < 0)
			continue;
		if (bound)
			sock_bound(t->rec.fd, SMALL_TUNNEL_BYTES);
		else
			sock_unbound(t->rec.fd);
		if (t->state == TUNNEL_OPEN || t->state == TUNNEL_DRAINING)
			h2_window_check(&t->h2);
	}
}

/* ---- close idle ---- */

static union ev_ref ref_of(uint8_t kind, const struct slab_head *h)
{
	return (union ev_ref){ .kind = kind, .gen = h->gen, .idx = h->idx };
}

/* into the candidates in their order, the longest idle first, if it is one of them */
static void candidate(struct worker *w, union ev_ref ref, uint64_t since_ms)
{
	struct shed *s = &w->shed;
	uint32_t at = s->n;

	while (at && s->idlest[at - 1].since_ms > since_ms)
		at--;
	if (at == IDLEST)
		return;
	if (s->n < IDLEST)
		s->n++;
	memmove(&s->idlest[at + 1], &s->idlest[at], (s->n - 1 - at) * sizeof(*s->idlest));
	s->idlest[at] = (struct shed_idle){ ref, since_ms };
}

/* since when it has been idle; 0: it is not */
static uint64_t tunnel_idle(const struct tunnel *t)
{
	if (t->state < TUNNEL_OPEN)
		return t->server ? t->opened_us / 1000 : 0; /* those that we dial, somebody waits for */
	return t->state == TUNNEL_OPEN && !t->h2.streams ? t->idle_ms : 0;
}

static uint64_t idle_enough_ms(const struct worker *w)
{
	uint64_t ms = w->snap->cfg->overload.idle_ms;

	return dire(w) || pressure_of(w->loop.pressure_now, PRESSURE_DESCRIPTORS) >= PRESSURE_PAUSE ? ms / 10 : ms;
}

static void find_idlest(struct worker *w)
{
	uint64_t enough = idle_enough_ms(w), now = w->loop.now_ms, since;
	struct tunnel *t;
	struct conn *c;

	w->shed.n = w->shed.next = 0;
	w->shed.walk_ms = now;
	for (uint32_t i = 0; (c = slab_next(&w->conns, &i));)
		if (c->state == CONN_OPEN && now - c->last_ms >= enough)
			candidate(w, ref_of(EV_CONN, &c->head), c->last_ms);
	for (uint32_t i = 0; (t = slab_next(&w->tunnels.slab, &i));) {
		since = tunnel_idle(t);
		if (since && now - min_u64(since, now) >= enough)
			candidate(w, ref_of(EV_TUNNEL, &t->head), since);
	}
}

/* Return: it was closed */
static bool close_conn(struct worker *w, const struct shed_idle *s)
{
	struct conn *c = slab_get(&w->conns, s->ref.idx, s->ref.gen);

	if (!c || c->state != CONN_OPEN)
		return false;
	bypass_sync(c); /* what moved without us */
	if (w->loop.now_ms - c->last_ms < idle_enough_ms(w))
		return false;
	stats_inc(&w->loop.stats, ST_OVERLOAD_CLOSED);
	conn_end(c, END_OVERLOAD, "nothing moved for %llu s, and %s is short", (unsigned long long)(w->loop.now_ms - c->last_ms) / 1000,
		 memory(w) >= PRESSURE_CLOSE_IDLE ? "memory" : "the number of descriptors");
	return true;
}

static bool close_tunnel(struct worker *w, const struct shed_idle *s)
{
	struct tunnel *t = slab_get(&w->tunnels.slab, s->ref.idx, s->ref.gen);

	if (!t || tunnel_idle(t) != s->since_ms)
		return false;
	stats_inc(&w->loop.stats, ST_OVERLOAD_CLOSED);
	if (t->state < TUNNEL_OPEN)
		tunnel_close(t, -ETIMEDOUT, "overload: the handshake takes too long");
	else
		tunnel_drain(t);
	return true;
}

static void close_idlest(struct worker *w)
{
	struct shed *s = &w->shed;
	uint32_t quota = 1 + (w->conns.used + w->tunnels.slab.used) / 100;

	if (s->next == s->n && w->loop.now_ms - s->walk_ms >= WALK_MS)
		find_idlest(w);
	for (; quota && s->next < s->n; s->next++) {
		const struct shed_idle *i = &s->idlest[s->next];

		quota -= i->ref.kind == EV_CONN ? close_conn(w, i) : close_tunnel(w, i);
	}
}

/* ---- pause: who holds most ---- */

static uint64_t held(const struct conn *c)
{
	uint64_t n = c->early_data.len;

	for (int i = 0; i < 2; i++) {
		const struct leg *g = &c->leg[i];

		n += g->q.cap + (g->pipe ? g->pipe->len : 0);
		if (g->kind == LEG_SOCK && g->fd >= 0)
			n += sock_memory(g->fd);
	}
	return n;
}

/* of a slice of all, the largest are closed: they would be the last to end by themselves */
static void close_holders(struct worker *w)
{
	struct {
		struct conn *c;
		uint64_t bytes;
	} most[HOLDERS] = { { NULL, 0 } };
	struct conn *c = NULL;

	for (uint32_t n = 0; n < VISIT && (c = slab_next(&w->conns, &w->shed.holder)); n++) {
		uint64_t bytes = c->state == CONN_CLOSED ? 0 : held(c);
		uint32_t at = HOLDERS;

		while (at && bytes > most[at - 1].bytes)
			at--;
		if (bytes < HOLDS || at == HOLDERS)
			continue;
		memmove(&most[at + 1], &most[at], (HOLDERS - 1 - at) * sizeof(most[0]));
		most[at].c = c;
		most[at].bytes = bytes;
	}
	if (!c)
		w->shed.holder = 0;
	for (uint32_t i = 0; i < HOLDERS && most[i].c; i++) {
		stats_inc(&w->loop.stats, ST_OVERLOAD_CLOSED);
		conn_end(most[i].c, END_OVERLOAD, "it holds %llu KiB in buffers, and memory is nearly used up", (unsigned long long)most[i].bytes >> 10);
	}
}

/* ---- all together ---- */

static void shed_tick(struct timer *t, void *arg)
{
	struct worker *w = arg;
	bool bound = memory(w) >= PRESSURE_SHRINK;

	if (!w->shed.visited)
		w->shed.visited = visit_sockets(w, bound);
	if (idle_level(w) >= PRESSURE_SHRINK)
		pipes_spare(&w->loop);
	if (idle_level(w) >= PRESSURE_CLOSE_IDLE)
		close_idlest(w);
	if (dire(w))
		close_holders(w);
	if (idle_level(w) || !w->shed.visited)
		timer_arm(&w->loop.timers, t, w->loop.now_ms + TICK_MS);
}

void shed_pressed(void *worker)
{
	struct worker *w = worker;
	bool bound = memory(w) >= PRESSURE_SHRINK;

	if (bound != w->shed.bound) {
		w->shed.bound = bound;
		w->shed.visited = false;
		w->shed.socket = 0;
		visit_tunnels(w, bound);
	}
	w->shed.timer.fire = shed_tick;
	w->shed.timer.arg = w;
	timer_arm(&w->loop.timers, &w->shed.timer, w->loop.now_ms + 1);
}

bool shed_pauses(const struct worker *w)
{
	uint32_t p = w->loop.pressure_now;

	return pressure_of(p, PRESSURE_MEMORY) >= PRESSURE_PAUSE || pressure_of(p, PRESSURE_DESCRIPTORS) >= PRESSURE_PAUSE ||
	       pressure_of(p, PRESSURE_CPU) >= PRESSURE_PAUSE;
}

const char *shed_refuses(struct worker *w, bool tunnel)
{
	uint32_t p = w->loop.pressure_now;

	if (pressure_of(p, PRESSURE_MEMORY) >= PRESSURE_REFUSE || !overload_admit(w->d, tunnel ? OVERLOAD_TUNNEL_COST : OVERLOAD_CONN_COST))
		return "overload: memory is short";
	if (pressure_of(p, PRESSURE_DESCRIPTORS) >= PRESSURE_REFUSE)
		return "overload: descriptors are short";
	if (pressure_of(p, PRESSURE_CPU) >= PRESSURE_REFUSE)
		return "overload: the worker has more to do than it can";
	return NULL;
}
