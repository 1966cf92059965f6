/*
 * What is over is freed: objects of names that are gone, by their workers; then their slots; then snapshots that nobody uses. See swap.c.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/swap.h"

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
	if (!d->ready || !swap_settle(d, 0) || !reap_end(d))
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
