/*
 * Capture of this process: made once the listeners are bound, left before they are closed. The kernel's half is bpf/capture.bpf.c, how it
 * gets there capture_load.c, what the rules are made of capture_rules.c.
 *
 * A rule outlives the agent that put it there. The next one knows its own by a hash of node id, admin socket and network namespace (two
 * agents of a node differ in at least one), replaces those for the same address and takes the others away. So a listener that is gone
 * from the configuration captures no more, and one that another agent had is left alone.
 *
 * An agent without rules that starts where others capture registers all the same: otherwise what it dials would be captured, too.
 */
#include "kern/capture_int.h"
#include "kern/place.h"
#include "base/clean.h"
#include <bpf/bpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* asm-generic/socket.h, since 5.14 */
#endif
#define REGISTER_MS 5000u  /* the map of agents forgets who is asked for least */
#define BATCH	    1024u

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000u + (uint64_t)t.tv_nsec;
}

static uint64_t netns_cookie(int fd)
{
	uint64_t v = 0;
	socklen_t n = sizeof(v);

	return fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &v, &n) ? 0 : v;
}

static uint64_t owner_hash(const struct config *cfg)
{
	AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	char text[512];
	int n = snprintf(text, sizeof(text), "%s\n%s\n%llx", cfg->node.id ? cfg->node.id : "", cfg->admin_socket ? cfg->admin_socket : "",
			 (unsigned long long)netns_cookie(fd));

	return XXH3_64bits(text, n < 0 ? 0 : (size_t)min_u64((uint64_t)n, sizeof(text) - 1)) | 1; /* 0: nobody */
}

static uint32_t capturing(const struct config *cfg)
{
	uint32_t n = 0;

	for (uint32_t i = 0; i < cfg->n_listeners; i++)
		n += cfg->listeners[i].capture != NULL;
	return n;
}

/* ---- rules ---- */

/* rules of an earlier life for listeners that we do not have any more */
static void take_stale(struct capture *c)
{
	for (uint32_t i = 0; i < ADIT_CAP_SLOTS; i++)
		if (c->obj.slot[i].rule && c->obj.slot[i].owner == c->owner && !(c->ours & BIT(i)))
			capture_rule_take(&c->obj, i);
}

static bool any_rule(const struct capture *c)
{
	for (uint32_t i = 0; c->obj.slot && i < ADIT_CAP_SLOTS; i++)
		if (c->obj.slot[i].rule)
			return true;
	return false;
}

static void take_ours(struct capture *c, bool closed_too)
{
	AUTO_FREE struct adit_cap_rule *r = malloc(sizeof(*r));

	for (uint32_t i = 0; r && i < ADIT_CAP_SLOTS; i++)
		if ((c->ours & BIT(i)) && capture_rule_get(&c->obj, i, r) == 0 && (closed_too || !(r->flags & ADIT_CAP_CLOSED)))
			capture_rule_take(&c->obj, i);
}

static int put_rules(struct capture *c, struct err *reterr)
{
	for (uint32_t i = 0; i < c->cfg->n_listeners; i++) {
		const struct cfg_listener *l = &c->cfg->listeners[i];
		int r;

		if (!l->capture)
			continue;
		if (l->slot < CAPTURE_LISTENERS) /* workers read it: it is there before the rule is */
			atomic_store_explicit(&c->netns[l->slot], netns_cookie(c->fd(c->arg, i, 0)), memory_order_relaxed);
		r = capture_rule_put(&c->obj, l, c->fd(c->arg, i, 0), c->owner, reterr);
		if (r < 0)
			return err_prefix(reterr, r, "listener '%s'", l->name);
		c->ours |= BIT(r);
	}
	take_stale(c);
	return 0;
}

/* ---- life ---- */

/* workers go on with the same number */
static int claims_open(struct capture *c)
{
	if (c->claims >= 0)
		return dup3(c->obj.map[CM_CLAIMS], c->claims, O_CLOEXEC) < 0 ? -errno : 0;
	c->claims = fcntl(c->obj.map[CM_CLAIMS], F_DUPFD_CLOEXEC, 3);
	return c->claims < 0 ? -errno : 0;
}

/* what is pinned by others, or was by us: rules of ours go, we register. Return: 0, -ENOENT: nothing is there. */
static int join(struct capture *c)
{
	AUTO_FD lock = c->cfg->kernel.pin ? place_pins(c->cfg->kernel.pin, false, NULL) : -ENOENT;
	int r = lock < 0 ? -ENOENT : capture_obj_share(&c->obj, c->cfg->kernel.pin, NULL);

	if (r == 0)
		r = capture_obj_run(&c->obj);
	if (r < 0)
		return r;
	take_stale(c);
	if (any_rule(c))
		return 0;
	capture_obj_unpin(&c->obj);
	return -ENOENT;
}

static int load(struct capture *c, struct err *reterr)
{
	const struct cfg_kernel *k = &c->cfg->kernel;
	struct err why = {""};
	AUTO_FD lock = k->pin ? place_pins(k->pin, true, &why) : -1;
	int r;

	if (lock < 0)
		snprintf(c->obj.private, sizeof(c->obj.private), "%.158s", k->pin ? why.msg : "kernel.pin: none");
	place_hear();
	r = capture_obj_load(&c->obj, lock < 0 ? NULL : k->pin, k->cgroup, c->owner, reterr);
	place_unhear();
	if (r == 0) {
		r = claims_open(c);
		r = r < 0 ? err_set(reterr, r, "%s", strerror(-r)) : put_rules(c, reterr);
		if (r < 0)
			take_ours(c, true);
	}
	if (r < 0 && c->obj.pin[0] && !any_rule(c))
		capture_obj_unpin(&c->obj);
	return r;
}

static void release(struct capture *c)
{
	capture_obj_close(&c->obj);
	clean_fd(&c->claims);
	free(c->netns);
	free(c);
}

int capture_create(struct capture **ret, const struct config *cfg, int (*fd)(void *arg, uint32_t i, uint32_t w), void *arg,
		   struct err *reterr)
{
	struct capture *c = calloc(1, sizeof(*c));
	int r;

	*ret = NULL;
	if (!c)
		return err_set(reterr, -ENOMEM, "out of memory");
	capture_obj_init(&c->obj);
	c->cfg = cfg;
	c->claims = -1;
	c->fd = fd;
	c->arg = arg;
	c->owner = owner_hash(cfg);
	c->netns = calloc(CAPTURE_LISTENERS, sizeof(*c->netns));
	if (!c->netns) {
		r = err_set(reterr, -ENOMEM, "out of memory");
	} else if (capturing(cfg)) {
		r = load(c, reterr);
	} else {
		(void)join(c); /* again and again: capture_age() */
		r = 0;
	}
	if (r < 0) {
		release(c);
		return r;
	}
	c->registered_ms = c->aged_ms = now_ns() / 1000000;
	*ret = c;
	return 0;
}

void capture_leave(struct capture *c)
{
	if (!c || !c->ours)
		return;
	AUTO_FD lock = c->obj.pin[0] ? place_pins(c->cfg->kernel.pin, false, NULL) : -1;

	(void)lock; /* clang: held until the end */
	take_ours(c, false);
}

void capture_hand_over(struct capture *c)
{
	if (!c)
		return;
	c->handed = true;
	c->ours = 0;
	if (!c->obj.pin[0])
		capture_obj_close(&c->obj); /* not the claims: workers have them */
}

void capture_destroy(struct capture *c, bool keep)
{
	if (!c)
		return;
	if (!keep && !c->handed) {
		AUTO_FD lock = c->obj.pin[0] ? place_pins(c->cfg->kernel.pin, false, NULL) : -1;

		(void)lock;
		take_ours(c, false);
		(void)bpf_map_delete_elem(c->obj.map[CM_AGENTS], &c->obj.self);
		if (!any_rule(c) && c->ours)
			capture_obj_unpin(&c->obj);
	}
	release(c);
}

int capture_renew(struct capture *c, const struct config *cfg, struct err *reterr)
{
	bool had = c->ours != 0;

	c->cfg = cfg;
	if (capturing(cfg) && !had) {
		capture_obj_close(&c->obj);
		return load(c, reterr);
	}
	AUTO_FD lock = c->obj.pin[0] ? place_pins(cfg->kernel.pin, false, NULL) : -1;
	(void)lock; /* held until the end */
	c->ours = 0;
	if (capturing(cfg))
		return put_rules(c, reterr); /* what it does not name is stale */
	take_stale(c);
	if (c->obj.pin[0] && !any_rule(c))
		capture_obj_unpin(&c->obj);
	return 0;
}

void capture_keep(struct capture *c, const struct config *cfg)
{
	c->cfg = cfg;
}

/* ---- while it runs ---- */

int capture_claim(struct capture *c, const struct cfg_listener *l, const struct addr *peer, const struct addr *local,
		  struct capture_claim *ret)
{
	struct adit_cap_key k = {.netns = atomic_load_explicit(&c->netns[l->slot], memory_order_relaxed), .sport = peer->port, .dport = local->port, .family = peer->family};
	struct adit_cap_claim v;

	memcpy(k.src, peer->ip, peer->family == AF_INET ? 4 : 16);
	memcpy(k.dst, local->ip, local->family == AF_INET ? 4 : 16);
	if (bpf_map_lookup_and_delete_elem(c->claims, &k, &v))
		return -errno;
	atomic_fetch_add_explicit(&c->claimed, 1, memory_order_relaxed);
	*ret = (struct capture_claim){.to = {.family = v.note.family, .port = v.note.port}, .cgroup = v.note.cgroup, .uid = v.note.uid};
	memcpy(ret->to.ip, v.note.addr, sizeof(ret->to.ip));
	return 0;
}

static bool is_ours(const struct capture *c, uint32_t rule)
{
	for (uint32_t i = 0; i < ADIT_CAP_SLOTS; i++)
		if ((c->ours & BIT(i)) && c->obj.slot[i].rule == rule)
			return true;
	return false;
}

static void age_one(struct capture *c, const struct adit_cap_key *k, const struct adit_cap_claim *v, uint64_t now)
{
	if (!is_ours(c, v->note.rule))
		return;
	if (now - min_u64(v->at_ns, now) < c->cfg->kernel.orphan_ms * 1000000u) {
		c->pending++;
		return;
	}
	if (!bpf_map_delete_elem(c->obj.map[CM_CLAIMS], k))
		c->unclaimed++;
}

/* Source: Documentation/bpf/map_hash.rst; a batch ends with -ENOENT when it was the last */
static void age_claims(struct capture *c)
{
	AUTO_FREE struct adit_cap_key *k = malloc(BATCH * sizeof(*k));
	AUTO_FREE struct adit_cap_claim *v = malloc(BATCH * sizeof(*v));
	uint64_t now = now_ns();
	uint32_t in, out, n;
	bool first = true;
	int r = 0;

	if (!k || !v)
		return;
	c->pending = 0;
	while (r == 0) {
		n = BATCH;
		r = bpf_map_lookup_batch(c->obj.map[CM_CLAIMS], first ? NULL : &in, &out, k, v, &n, NULL);
		if (r < 0 && errno != ENOENT)
			return;
		for (uint32_t i = 0; i < n; i++)
			age_one(c, &k[i], &v[i], now);
		in = out;
		first = false;
	}
}

/* the cgroup that the programs were attached to was removed; there may be one of that name again */
static void reattach(struct capture *c)
{
	struct err e = {""};

	capture_obj_close(&c->obj);
	c->ours = 0;
	if (load(c, &e) < 0)
		snprintf(c->obj.private, sizeof(c->obj.private), "nothing is captured: %.130s", e.msg);
}

void capture_age(struct capture *c)
{
	uint64_t now = now_ns() / 1000000;

	if (now - c->registered_ms >= REGISTER_MS) {
		c->registered_ms = now;
		if (c->handed) {
			if (c->obj.reg >= 0)
				(void)capture_obj_run(&c->obj);
			return;
		}
		if (!capturing(c->cfg)) { /* others may have taken their pins away, and pinned new ones */
			capture_obj_close(&c->obj);
			(void)join(c);
		} else if (capture_obj_attached(&c->obj)) {
			(void)capture_obj_run(&c->obj);
		} else {
			reattach(c);
		}
	}
	if (c->ours && now - c->aged_ms >= max_u64(min_u64(c->cfg->kernel.orphan_ms / 4, 10000), 1000)) {
		c->aged_ms = now;
		age_claims(c);
	}
}

void capture_info(struct capture *c, struct capture_info *ret)
{
	*ret = (struct capture_info){.pending = c->pending, .claimed = atomic_load(&c->claimed), .unclaimed = c->unclaimed,
				     .shared = c->obj.shared};
	snprintf(ret->private, sizeof(ret->private), "%s", c->obj.private);
	for (uint32_t i = 0; i < ADIT_CAP_SLOTS; i++) {
		const struct adit_cap_slot *s = &c->obj.slot[i];

		if (!(c->ours & BIT(i)))
			continue;
		ret->rules++;
		ret->captured += __atomic_load_n(&s->captured, __ATOMIC_RELAXED);
		ret->excluded += __atomic_load_n(&s->excluded, __ATOMIC_RELAXED);
		ret->failed_open += __atomic_load_n(&s->open, __ATOMIC_RELAXED);
		ret->failed_closed += __atomic_load_n(&s->closed, __ATOMIC_RELAXED);
		ret->unable += __atomic_load_n(&s->unable, __ATOMIC_RELAXED);
	}
}
