/*
 * One socket per worker in a reuseport group is what a daemon has; what it gets is what another one had, with another number of workers
 * perhaps, or a single socket of the service manager.
 *
 *   as many	each worker takes one.
 *   fewer	the other workers bind more beside them, if the socket allows it (SO_REUSEPORT); else all share it.
 *   more	those left over must not be closed at once: people wait in their queues, or are in their handshake. The group is told to give new
 *		connections to the first ones only; the first worker looks into the queues of the others for a second, then they are closed.
 *		A successor within that second gets them, too: else they would be closed while they are in the group again.
 *		The first are those that were bound first, which is the order of the group (net/core/sock_reuseport.c).
 */
#include "chain/takeover.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "net/sock.h"
#include <fcntl.h>
#include <string.h>

#define SPARE_TICK_MS 20u
#define PAUSED_MS     10000u /* and who cannot be taken for lack of memory or descriptors waits for so long */
#define SPARE_MS      1000u /* handshakes that have begun are over by then */

struct spare {
	int fd;
	uint32_t slot;
};

struct spares {
	struct spare *s;
	uint32_t n;
	pthread_mutex_t lock; /* of closing: the main thread gives them away, the first worker closes them */
	bool keep;
	uint64_t end_ms;
	struct timer timer;
};

/* the cookie of the namespace that the listener's name leads to. Return: 0 or -errno. */
static int netns_cookie(struct listener *s, uint64_t *ret)
{
	int in = -1, back = -1, r = netns_get(&s->netns, &in, NULL);

	if (r == 0)
		r = netns_enter(in, &back);
	if (r < 0)
		return r;
	*ret = adopt_netns(-1);
	netns_leave(back);
	return 0;
}

static int spare_add(struct daemon *d, uint32_t slot, int fd)
{
	struct spare *more;

	if (!d->spares && (d->spares = calloc(1, sizeof(*d->spares))))
		pthread_mutex_init(&d->spares->lock, NULL);
	more = d->spares ? reallocarray(d->spares->s, d->spares->n + 1u, sizeof(*more)) : NULL;
	if (!more) {
		close(fd);
		return -ENOMEM;
	}
	d->spares->s = more;
	more[d->spares->n++] = (struct spare){.fd = fd, .slot = slot};
	return 0;
}

int takeover_bind(struct daemon *d, const struct cfg_listener *l, struct adopt *set, struct err *reterr)
{
	uint64_t cookie = 0;
	uint32_t n = 0;
	bool share;
	int fd, first, r = 0;

	if (!set || !set->n || netns_cookie(d->workers[0].listeners[l->slot], &cookie) < 0)
		return 0;
	for (; n < d->n_workers && (fd = adopt_take(set, &l->address, cookie, l->name)) >= 0; n++)
		d->workers[n].listeners[l->slot]->fd = fd;
	if (!n)
		return 0;
	for (uint32_t i = 1; i < d->n_workers; i++) /* each notes where it listens: it notices when that is gone */
		(void)netns_cookie(d->workers[i].listeners[l->slot], &cookie);
	first = d->workers[0].listeners[l->slot]->fd;
	share = adopt_can_share(first);
	for (uint32_t i = n; r == 0 && i < d->n_workers; i++) {
		struct listener *s = d->workers[i].listeners[l->slot];

		if (share)
			r = listener_open(s, false, reterr);
		else if ((s->fd = fcntl(first, F_DUPFD_CLOEXEC, 3)) < 0)
			r = err_set(reterr, -errno, "%s", strerror(errno));
	}
	listener_spread(l, first, d->n_workers);
	while (r == 0 && (fd = adopt_take(set, &l->address, cookie, l->name)) >= 0) {
		if (l->type != LISTENER_TCP || l->spread != SPREAD_SOURCE)
			(void)sock_spread_first(first, d->n_workers);
		r = spare_add(d, l->slot, fd) < 0 ? err_set(reterr, -ENOMEM, "out of memory") : 0;
	}
	return r < 0 ? err_prefix(reterr, r, "listener '%s'", l->name) : (int)n;
}

/* ---- left over ---- */

static void spare_accept(struct worker *w, const struct spare *p)
{
	struct listener *s = w->listeners[p->slot];

	if (s && s->fd >= 0 && p->fd >= 0)
		accept_all_of(s, p->fd);
}

static void look(struct timer *t, void *arg)
{
	struct worker *w = arg;
	struct spares *sp = w->d->spares;
	bool over = w->loop.now_ms >= sp->end_ms || w->draining, more = false;

	pthread_mutex_lock(&sp->lock);
	over &= !sp->keep || w->draining;
	for (uint32_t i = 0; i < sp->n; i++) {
		struct spare *p = &sp->s[i];
		struct listener *s = w->listeners[p->slot];

		spare_accept(w, p);
		if (p->fd < 0)
			continue;
		if (!over || (s && s->paused && !w->draining && w->loop.now_ms < sp->end_ms + PAUSED_MS)) {
			more = true;
			continue;
		}
		close(fd_take(&p->fd)); /* the group's program stays: somebody may hold a copy, which must get no connections */
	}
	pthread_mutex_unlock(&sp->lock);
	if (more)
		timer_arm(&w->loop.timers, t, w->loop.now_ms + SPARE_TICK_MS);
}

void takeover_start(struct worker *w)
{
	struct spares *sp = w->d->spares;

	if (!sp)
		return;
	log_info(LA_CHAIN, "%u listening sockets more than workers were taken over; they are closed when their queues are empty", sp->n);
	sp->end_ms = w->loop.now_ms + SPARE_MS;
	sp->timer.fire = look;
	sp->timer.arg = w;
	timer_arm(&w->loop.timers, &sp->timer, w->loop.now_ms + 1);
}

void takeover_finish(struct daemon *d)
{
	for (uint32_t i = 0; d->spares && i < d->spares->n; i++)
		if (d->spares->s[i].fd >= 0)
			close(d->spares->s[i].fd);
	if (d->spares) {
		pthread_mutex_destroy(&d->spares->lock);
		free(d->spares->s);
	}
	free(TAKE(d->spares));
}

/* ---- going ---- */

void takeover_keep(struct daemon *d, bool on)
{
	if (!d->spares)
		return;
	pthread_mutex_lock(&d->spares->lock);
	d->spares->keep = on;
	pthread_mutex_unlock(&d->spares->lock);
}

void takeover_each(struct daemon *d, bool spares, void (*each)(void *arg, const char *name, int fd), void *arg)
{
	for (uint32_t i = 0; i < d->cfg->n_listeners; i++)
		for (uint32_t w = 0; w < d->n_workers; w++) {
			const struct listener *s = d->workers[w].listeners[d->cfg->listeners[i].slot];

			if (s && s->fd >= 0)
				each(arg, d->cfg->listeners[i].name, s->fd);
		}
	if (!spares || !d->spares)
		return;
	pthread_mutex_lock(&d->spares->lock);
	for (uint32_t i = 0; i < d->spares->n; i++) {
		const struct spare *p = &d->spares->s[i];

		for (uint32_t k = 0; p->fd >= 0 && k < d->cfg->n_listeners; k++)
			if (d->cfg->listeners[k].slot == p->slot)
				each(arg, d->cfg->listeners[k].name, p->fd);
	}
	pthread_mutex_unlock(&d->spares->lock);
}
