/*
 * The part of an explanation that only the running daemon knows: whether the peer's identity would be accepted, whether limits have
 * room, which endpoint each worker would take and by which tunnel, whether the endpoint is this node, what may move the bytes.
 *
 * Workers are asked one after the other; between two answers things may change, and which worker would get the connection is the kernel's
 * choice. So what differs is told per worker, as a prediction and not as a promise.
 */
#include "base/clean.h"
#include "chain/inspect_int.h"
#include "policy/workload.h"
#include "tunnel/choose.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define WORKERS_TOLD 16u

static const struct config *cfg_of(const struct daemon *d)
{
	return d->snap->cfg;
}

static struct tls_ctx *tls_of(const struct daemon *d, const struct cfg_identity *id)
{
	return snapshot_tls(d->snap, id);
}

/* as whom it would leave; NULL: nobody */
static const struct cfg_identity *leaves_as(const struct cfg_cluster *cl, const struct cfg_workload *l)
{
	return cl->by_workload && l && l->identity ? l->identity : cl->identity;
}

static const char *id_of(const struct daemon *d, const struct cfg_identity *id)
{
	const struct tls_ctx *t = tls_of(d, id);

	return t ? tls_ctx_id(t) : NULL;
}

static bool here(void *arg, const struct addr *a)
{
	struct daemon *d = arg;

	return d->kernel.local && local_has(d->kernel.local, a);
}

/* ---- at the door ---- */

/* would the listener accept a tunnel of the principal? If not, it would not even come to the stages: @ret_why says it, else it stays "". */
static void put_identity(struct daemon *d, const struct explain_way *w, struct json *j, struct err *ret_why)
{
	const struct cfg_listener *l = w->entry;
	const struct cfg_identity *server;
	struct err why = { "" };
	bool ok;

	if (!l || l->type != LISTENER_TUNNEL || !l->tls || !w->principal)
		return;
	server = choose_identity(cfg_of(d), l, &l->address, NULL);
	if (!server) /* it hangs on the address or name that the peer asks for */
		return;
	ok = tls_id_check(tls_of(d, server), w->principal, l->accept_ids, l->n_accept_ids, &why) == 0;
	json_open(j, "identity", '{');
	json_str(j, "principal", w->principal);
	json_bool(j, "accepted", ok);
	json_str(j, "why", ok ? NULL : why.msg);
	json_close(j, '}');
	if (!ok)
		err_set(ret_why, 0, "listener '%s' does not accept it: %.400s", l->name, why.msg);
}

static uint32_t live(const _Atomic uint32_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}

static void full(struct explain_way *w, const char *what, const char *name, uint32_t max)
{
	if (w->verdict != EXPLAIN_GO)
		return;
	w->verdict = EXPLAIN_LIMIT;
	err_set(&w->why, 0, "%s '%s' has its %u connections", what, name, max);
}

static uint64_t monotonic_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void too_often(struct explain_way *w, const char *what, const char *name, uint32_t per_second)
{
	if (w->verdict != EXPLAIN_GO)
		return;
	w->verdict = EXPLAIN_LIMIT;
	err_set(&w->why, 0, "%s '%s' takes %u connections per second, and has taken them", what, name, per_second);
}

/* rates, and limits of each source; @id, @from: as they were where it entered */
static void check_rates(const struct daemon *d, struct explain_way *w, const char *id, const struct addr *from)
{
	const struct limits *l = d->snap->limits;
	const struct cfg_cluster *cl = w->stages.cluster;
	uint64_t now = monotonic_us();

	if (w->verdict == EXPLAIN_GO && limits_look(d->snap, id, from, now, &w->why) != QUOTA_OK)
		w->verdict = EXPLAIN_LIMIT;
	for (uint32_t i = 0; i < w->stages.n; i++) {
		const struct cfg_listener *at = &cfg_of(d)->listeners[w->stages.id[i]];

		if (!limits_rate_left(l->listener[at->id], &at->rate, now))
			too_often(w, "listener", at->name, at->rate.per_second);
	}
	if (cl && !limits_rate_left(l->cluster[cl->id], &cl->rate, now))
		too_often(w, "cluster", cl->name, cl->rate.per_second);
}

static void check_limits(const struct daemon *d, struct explain_way *w)
{
	const struct config *cfg = cfg_of(d);
	const struct stages *s = &w->stages;

	if (live(&d->connections) >= cfg->limits.max_connections && w->verdict == EXPLAIN_GO) {
		w->verdict = EXPLAIN_LIMIT;
		err_set(&w->why, 0, "the daemon has its limits.max_connections: %u", cfg->limits.max_connections);
	}
	for (uint32_t i = 0; i < s->n; i++) {
		const struct cfg_listener *l = &cfg->listeners[s->id[i]];

		if (l->max_connections && live(&d->per_listener[l->slot]) >= l->max_connections)
			full(w, "listener", l->name, l->max_connections);
	}
	if (s->cluster && s->cluster->max_connections && live(&d->per_cluster[s->cluster->slot]) >= s->cluster->max_connections)
		full(w, "cluster", s->cluster->name, s->cluster->max_connections);
}

/* ---- workers' views ---- */

static void out_run(struct worker *w, struct call *call)
{
	struct rows_call *c = container_of(call, struct rows_call, call);
	struct cluster *cl = w->clusters[(uint32_t)c->arg];
	uint64_t workload = c->arg >> 32; /* 1 + index */
	const struct cfg_identity *as;
	struct out_row *r = &c->rows.out;
	const struct cfg_listener *l = NULL;
	struct endpoint *first;

	r->first = r->listener = UINT32_MAX;
	r->short_why = "";
	if (!cl) /* it goes, or has not come yet */
		return;
	first = cl->cfg->n_endpoints > 1 ? dial_first(cl) : cl->cfg->n_endpoints ? cl->ep[0] : NULL;
	r->n = (uint32_t)min_u64(cl->cfg->n_endpoints, EXPLAIN_ENDPOINTS);
	for (uint32_t i = 0; i < r->n; i++) {
		const struct endpoint *e = cl->ep[i];

		r->first = e == first ? i : r->first;
		r->ep[i].n_addr = e->host ? e->n : 1;
		memcpy(r->ep[i].addr, e->host ? e->addr : &e->address, r->ep[i].n_addr * sizeof(struct addr));
		r->ep[i].active = atomic_load_explicit(&e->active, memory_order_relaxed);
		r->ep[i].total = atomic_load_explicit(&e->total, memory_order_relaxed);
		r->ep[i].failed = atomic_load_explicit(&e->failed, memory_order_relaxed);
	}
	if (first && !first->host)
		r->to = first->address;
	else if (first && first->n)
		r->to = first->addr[first->next % first->n];
	if (cl->cfg->type == CLUSTER_TUNNEL && r->to.family != AF_UNSPEC) {
		as = leaves_as(cl->cfg, workload && workload <= w->snap->cfg->n_workloads ? &w->snap->cfg->workloads[workload - 1] : NULL);
		pool_look(&cl->pool, &r->to, as, &r->pool);
		l = short_listener(w, w->snap, cl->cfg, as, &r->to, &r->short_why);
	}
	r->listener = l ? l->slot : UINT32_MAX;
}

struct outs {
	uint32_t n; /* workers asked */
	struct out_row *w;
};

static int outs_ask(struct daemon *d, const struct cfg_cluster *cl, const struct cfg_workload *l, struct outs *ret, struct err *reterr)
{
	uint64_t arg = cl->slot | (l ? (l->id + 1ull) << 32 : 0);

	ret->n = (uint32_t)min_u64(d->n_workers, WORKERS_TOLD);
	ret->w = calloc(ret->n, sizeof(*ret->w));
	if (!ret->w)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < ret->n; i++) {
		int r = inspect_one(d, i, out_run, arg, &ret->w[i], sizeof(*ret->w));

		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the short way: as short.c goes on ---- */

static int go_on(struct daemon *d, const struct cfg_cluster *cl, const struct cfg_listener *l, struct explain_way *w)
{
	const struct config *cfg = cfg_of(d);
	const struct metadata_limits lim = { .bytes = cfg->limits.metadata_bytes, .members = 64 };
	const struct cfg_identity *mine = leaves_as(cl, w->workload), *theirs = choose_identity(cfg, l, &l->address, cl->sni);
	const char *id = cl->tls ? id_of(d, mine) : NULL;
	const struct connect_self *self;
	AUTO_FREE char *name = NULL;
	struct metadata *md = NULL;
	char fwd[FORWARDED_MAX], text[ADDR_STR];
	struct header h[CONNECT_SELF_NV + 8];
	struct connect_in in;
	struct err why = { "" };
	size_t n;
	int r;

	if (cl->authority)
		name = strdup(cl->authority);
	else if (w->ctx.in.authority.p)
		name = strndup(w->ctx.in.authority.p, w->ctx.in.authority.n);
	else
		name = strdup(addr_str(&w->wanted, text));
	if (!name)
		return -ENOMEM;
	self = w->workload && w->workload->identity == mine ? snapshot_self_of(d->snap, w->workload) : snapshot_self(d->snap, mine);
	n = connect_headers(self, name, strlen(name), &w->src, NULL, fwd, h);
	r = connect_parse(h, n, 0, &in, &why);
	if (r) {
		w->verdict = EXPLAIN_BAD;
		w->why = why;
	} else if (id && l->tls && theirs && tls_id_check(tls_of(d, theirs), id, l->accept_ids, l->n_accept_ids, &why) < 0) {
		w->verdict = EXPLAIN_IDENTITY;
		err_set(&w->why, 0, "listener '%s' of this node: %s", l->name, why.msg);
	} else {
		md = metadata_build(h, n, &lim, &r);
		metadata_put(w->md);
		w->md = md;
	}
	if (w->verdict == EXPLAIN_GO && snprintf(w->named, sizeof(w->named), "%s", name) < (int)sizeof(w->named)) {
		w->entry = l;
		w->workload = NULL;
		w->src = in.forwarded.family != AF_UNSPEC ? in.forwarded : w->src;
		w->wanted = in.to.addr;
		w->ctx = (struct stage_context){ .principal = id, .src = w->src, .orig_dst = in.to.addr, .policies = cfg->policy_set };
		w->ctx.in = (struct route_input){ .authority = { w->named, strlen(w->named) }, .addr = in.to.addr, .port = in.to.port, .md = md };
	}
	return 0;
}

/* the same listener for all workers, or none: only then is it certain */
static const struct cfg_listener *short_of(const struct config *cfg, const struct outs *o)
{
	for (uint32_t i = 1; i < o->n; i++)
		if (o->w[i].listener != o->w[0].listener)
			return NULL;
	for (uint32_t i = 0; o->n && i < cfg->n_listeners; i++)
		if (cfg->listeners[i].slot == o->w[0].listener)
			return &cfg->listeners[i];
	return NULL;
}

/* all steps, the short way's included; @o is then of the last cluster */
static int put_way(struct daemon *d, struct explain_way *w, struct json *j, struct outs *o, struct err *reterr)
{
	const struct config *cfg = cfg_of(d);
	uint32_t from = 0;
	int r;

	for (uint32_t via = 0;; via++) {
		const struct cfg_cluster *cl;
		const struct cfg_listener *l;

		r = explain_steps(cfg, w, from, j);
		cl = w->stages.cluster;
		if (r < 0 || w->verdict != EXPLAIN_GO || !cl)
			return r;
		free(TAKE(o->w));
		o->n = 0;
		if (cl->type == CLUSTER_ORIGINAL_DST)
			return 0;
		if (cl->type == CLUSTER_TUNNEL && cl->by_workload && !leaves_as(cl, w->workload)) {
			w->verdict = EXPLAIN_IDENTITY;
			err_set(&w->why, 0, "no workload is known to match it, and cluster '%s' has no identity_default", cl->name);
			return 0;
		}
		r = outs_ask(d, cl, w->workload, o, reterr);
		if (r < 0)
			return r;
		l = cl->type == CLUSTER_TUNNEL && via < SHORT_MAX ? short_of(cfg, o) : NULL;
		if (!l)
			return 0;
		json_open(j, NULL, '{');
		json_str(j, "at", "short-way");
		json_str(j, "name", l->name);
		json_str(j, "cluster", cl->name);
		json_str(j, "why", "the endpoint is a tunnel listener of this node: no tunnel, the chain goes on there");
		json_close(j, '}');
		from = w->stages.n;
		r = go_on(d, cl, l, w);
		if (r < 0 || w->verdict != EXPLAIN_GO)
			return r;
	}
}

/* ---- the cluster ---- */

static void put_endpoint(struct json *j, const struct cfg_endpoint *e, const struct outs *o, uint32_t i)
{
	uint64_t active = 0, total = 0, failed = 0;
	char a[ADDR_STR], name[AUTHORITY_HOST_MAX + 16];
	const struct out_row *best = NULL;

	for (uint32_t k = 0; k < o->n; k++) {
		active += o->w[k].ep[i].active;
		total += o->w[k].ep[i].total;
		failed += o->w[k].ep[i].failed;
		if (!best || o->w[k].ep[i].n_addr > best->ep[i].n_addr)
			best = &o->w[k];
	}
	if (e->host)
		snprintf(name, sizeof(name), "%.255s:%u", e->host, e->port);
	json_open(j, NULL, '{');
	json_str(j, "endpoint", e->host ? name : addr_str(&e->address, a));
	json_str(j, "name", !e->host			 ? "address" :
			    best && best->ep[i].n_addr ? "resolved" :
							 "not resolved yet: looked up for the first connection");
	json_open(j, "addresses", '[');
	for (uint32_t k = 0; best && k < best->ep[i].n_addr; k++)
		json_str(j, NULL, addr_str(&best->ep[i].addr[k], a));
	json_close(j, ']');
	json_u64(j, "active", active);
	json_u64(j, "total", total);
	json_u64(j, "failed", failed);
	json_close(j, '}');
}

static void tunnel_text(const struct pool_look *p, char *out, size_t size)
{
	if (p->takes)
		snprintf(out, size, "goes into tunnel %u, which has %u streams and room for %u", p->takes, p->takes_streams, p->takes_room);
	else if (p->opening)
		snprintf(out, size, "waits for a tunnel that is being opened%s%.200s", p->why.msg[0] ? "; the last one failed: " : "", p->why.msg);
	else if (p->may_dial)
		snprintf(out, size, "a new tunnel is dialled%s%.200s", p->why.msg[0] ? "; the last one failed: " : "", p->why.msg);
	else
		snprintf(out, size, "waits: all %u tunnels are full, and no more are allowed (pool.max_tunnels)", p->open);
}

static void put_worker(struct json *j, const struct cfg_cluster *cl, const struct out_row *w, uint32_t i)
{
	char a[ADDR_STR], text[320];

	json_open(j, NULL, '{');
	json_u64(j, "worker", i);
	json_str(j, "address", w->to.family != AF_UNSPEC ? addr_str(&w->to, a) : NULL);
	json_str(j, "first", w->first == UINT32_MAX ? "one of two at random, the less busy one" :
			     w->to.family == AF_UNSPEC ? "its name is resolved first" : "by the balance");
	if (cl->type == CLUSTER_TUNNEL && w->to.family != AF_UNSPEC) {
		tunnel_text(&w->pool, text, sizeof(text));
		json_str(j, "tunnel", text);
		json_u64(j, "tunnel_id", w->pool.takes);
		json_u64(j, "tunnels_open", w->pool.open);
		json_u64(j, "tunnels_opening", w->pool.opening);
		json_u64(j, "streams", w->pool.streams);
		json_u64(j, "room", w->pool.room);
		json_u64(j, "queued", w->pool.queued);
		json_str(j, "short_way", *w->short_why ? w->short_why : NULL);
	}
	json_close(j, '}');
}

static const char *type_str(const struct cfg_cluster *cl)
{
	switch (cl->type) {
	case CLUSTER_TCP: return "tcp";
	case CLUSTER_TUNNEL: return "tunnel";
	case CLUSTER_ORIGINAL_DST: return "original_dst";
	case CLUSTER_INTERNAL: return "internal";
	}
	return "?";
}

static const char *balance_str(const struct cfg_cluster *cl)
{
	switch (cl->balance) {
	case BALANCE_ROUND_ROBIN: return "round robin";
	case BALANCE_LEAST_REQUEST: return "least request";
	case BALANCE_RANDOM_TWO: return "random two";
	}
	return "?";
}

/* where an original_dst cluster would go, and whether it may */
static void put_original(struct daemon *d, struct explain_way *w, struct json *j)
{
	const struct cfg_cluster *cl = w->stages.cluster;
	const struct cfg_listener *first = &cfg_of(d)->listeners[w->stages.id[0]];
	char a[ADDR_STR];

	if (w->wanted.family == AF_UNSPEC) {
		json_str(j, "goes_to", NULL);
		json_str(j, "name", "the name asked for is looked up when the connection comes; then policies on destination_ip are asked again");
		return;
	}
	json_str(j, "goes_to", addr_str(&w->wanted, a));
	if (dial_comes_back(d, first, cl, &w->wanted)) {
		w->verdict = EXPLAIN_NO_ROUTE;
		err_set(&w->why, 0, "connected to listener '%s' itself: there is no other destination to go to", first->name);
	} else if (!dial_allowed(cl, &w->wanted)) {
		w->verdict = EXPLAIN_DENIED;
		err_set(&w->why, 0, "%s is not among the destinations of cluster '%s'", a, cl->name);
	}
}

static void put_cluster(struct daemon *d, struct explain_way *w, struct json *j, const struct outs *o)
{
	const struct cfg_cluster *cl = w->stages.cluster;

	json_open(j, "cluster", '{');
	json_str(j, "name", cl->name);
	json_str(j, "type", type_str(cl));
	json_u64(j, "connections", live(&d->per_cluster[cl->slot]));
	json_u64(j, "max_connections", cl->max_connections);
	if (cl->type == CLUSTER_TUNNEL)
		json_str(j, "identity", cl->tls ? id_of(d, leaves_as(cl, w->workload)) : NULL);
	if (cl->type == CLUSTER_ORIGINAL_DST) {
		put_original(d, w, j);
	} else {
		json_str(j, "balance", balance_str(cl));
		json_open(j, "endpoints", '[');
		for (uint32_t i = 0; o->n && i < o->w[0].n && i < cl->n_endpoints; i++)
			put_endpoint(j, &cl->endpoints[i], o, i);
		json_close(j, ']');
		json_u64(j, "endpoints_in_all", cl->n_endpoints);
		json_open(j, "workers", '[');
		for (uint32_t i = 0; i < o->n; i++)
			put_worker(j, cl, &o->w[i], i);
		json_close(j, ']');
	}
	json_close(j, '}');
}

/* ---- what may move its bytes ---- */

static void put_mover(struct json *j, const char *name, bool may, const char *why)
{
	json_open(j, NULL, '{');
	json_str(j, "mover", name);
	json_bool(j, "may", may);
	json_str(j, "why", why);
	json_close(j, '}');
}

static void put_movers(const struct daemon *d, const struct explain_way *w, struct json *j)
{
	const struct config *cfg = cfg_of(d);
	const struct kernel *k = &d->kernel;
	bool in = cfg->listeners[w->stages.id[0]].type == LISTENER_TUNNEL, out = w->stages.cluster->type == CLUSTER_TUNNEL;
	bool sealed = (in && cfg->listeners[w->stages.id[0]].tls) || (out && w->stages.cluster->tls);

	json_open(j, "movers", '[');
	if (!k->bypass)
		put_mover(j, "bypass", false, k->why[KERNEL_BYPASS].msg);
	else if (!bypass_on(k->bypass))
		put_mover(j, "bypass", false, "it is switched off (aditctl kernel bypass on)");
	else if (in && out)
		put_mover(j, "bypass", false, "both sides are tunnels: there is no socket of an application");
	else if (in || out)
		put_mover(j, "leg", cfg->kernel.bypass.legs,
			  cfg->kernel.bypass.legs ? "after some round trips, if the application is on kernel.bypass.allow and on this node" :
						    "kernel.bypass.legs: false");
	else
		put_mover(j, "bypass", true, "after some round trips, if both applications are on kernel.bypass.allow and on this node");
	if (!k->splice)
		put_mover(j, "splice", false, k->why[KERNEL_SPLICE].msg);
	else if (sealed && !k->ktls)
		put_mover(j, "splice", false, k->why[KERNEL_KTLS].msg[0] ? k->why[KERNEL_KTLS].msg : "the tunnel's records are sealed in user space");
	else
		put_mover(j, "splice", true, "for bulk: a direction that moves kernel.splice_above bytes at once");
	put_mover(j, "relay", true, "always, and for what the others leave");
	json_close(j, ']');
}

/* ---- all of it ---- */

static void put_asked(struct json *j, const struct explain_ask *ask)
{
	char a[ADDR_STR];

	json_open(j, "asked", '{');
	json_str(j, "src", ask->src.family != AF_UNSPEC ? addr_str(&ask->src, a) : NULL);
	json_str(j, "dst", ask->dst.family != AF_UNSPEC ? addr_str(&ask->dst, a) : NULL);
	json_str(j, "authority", ask->authority);
	json_str(j, "listener", ask->listener);
	json_str(j, "principal", ask->principal);
	json_u64(j, "headers", ask->n_headers);
	json_u64(j, "metadata", ask->n_members);
	json_close(j, '}');
}

static int put_rest(struct daemon *d, struct explain_way *w, struct json *j, struct err *reterr)
{
	const char *id = w->principal;
	struct addr from = w->entry->type == LISTENER_TUNNEL ? (struct addr){ .family = AF_UNSPEC } : w->src; /* else that of its tunnel */
	struct outs o = { 0 };
	int r;

	json_open(j, "steps", '[');
	r = put_way(d, w, j, &o, reterr);
	json_close(j, ']');
	if (r == 0 && w->stages.cluster && w->verdict == EXPLAIN_GO) {
		put_cluster(d, w, j, &o);
		put_movers(d, w, j);
	}
	free(o.w);
	check_limits(d, w);
	check_rates(d, w, id, &from);
	return r;
}

/* whose it would be, as far as it can be told without a process: by listener and source */
static void put_workload(struct daemon *d, struct explain_way *w, struct json *j)
{
	struct workload_facts f = { .source = w->src, .listener = w->entry ? w->entry->id : 0 };
	const struct cfg_workload *l = NULL;
	enum workload_answer a;

	if (!w->entry || w->entry->type != LISTENER_TCP || !cfg_of(d)->n_workloads)
		return;
	a = workload_find(cfg_of(d), &f, &l);
	json_open(j, "workload", '{');
	json_str(j, "name", a == WORKLOAD_FOUND ? l->name : NULL);
	json_str(j, "identity", a == WORKLOAD_FOUND ? id_of(d, l->identity) : NULL);
	json_str(j, "why", a == WORKLOAD_FOUND ? NULL :
		 a == WORKLOAD_ASK ? "it hangs on the uid or cgroup of the application's process" : "no match has it");
	json_close(j, '}');
	if (a != WORKLOAD_FOUND)
		return;
	w->workload = l;
	if (!w->principal)
		w->principal = w->ctx.principal = id_of(d, l->identity);
}

int explain_connection(struct daemon *d, const struct explain_ask *ask, struct json *j, struct err *reterr)
{
	AUTO_FREE struct explain_way *w = calloc(1, sizeof(*w));
	struct explain_ask q = *ask;
	struct err door = { "" };
	int r;

	if (!w)
		return err_set(reterr, -ENOMEM, "out of memory");
	q.here = here;
	q.here_arg = d;
	put_asked(j, &q);
	r = explain_entry(cfg_of(d), &q, w, j, reterr);
	if (r == 0) {
		put_identity(d, w, j, &door);
		put_workload(d, w, j);
	}
	if (r == 0 && w->entry && w->verdict == EXPLAIN_GO)
		r = put_rest(d, w, j, reterr);
	if (r == 0) {
		if (door.msg[0]) {
			w->verdict = EXPLAIN_IDENTITY;
			w->why = door;
		}
		json_str(j, "verdict", explain_verdict_str(w->verdict));
		json_str(j, "why", w->verdict != EXPLAIN_GO ? w->why.msg : NULL);
	}
	explain_way_finish(w);
	return r;
}
