/*
 * Rows for people. Connections and tunnels are copied by orders on their worker, ROWS_PER_ORDER at a time, so that a worker with
 * many connections is never held up for long; counters are read from here.
 */
#include "chain/inspect_int.h"
#include "base/clean.h"
#include "codec/secret.h"
#include "net/sock.h"
#include "obs/access_format.h"
#include "policy/workload.h"
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void rows_run(struct order *o, void *owner)
{
	struct rows_call *c = container_of(o, struct rows_call, call.order);
	uint32_t zero = 0;

	c->call.fn(owner, &c->call);
	/* 0 -> 1: done, the caller frees; 1 (abandoned) -> we free */
	if (!atomic_compare_exchange_strong(&c->abandoned, &zero, 2)) {
		free(c);
		return;
	}
	atomic_store_explicit(&c->call.done, 1, memory_order_release);
}

static struct rows_call *rows_new(void (*fn)(struct worker *w, struct call *c))
{
	struct rows_call *c = calloc(1, sizeof(*c));

	if (c) {
		c->call.order.run = rows_run;
		c->call.fn = fn;
	}
	return c;
}

/* the call did not return in time (-ETIMEDOUT), or was never posted */
static void rows_abandon(struct rows_call *c, int r)
{
	uint32_t zero = 0;

	if (r == -ETIMEDOUT && atomic_compare_exchange_strong(&c->abandoned, &zero, 1))
		return; /* the worker frees it */
	while (r == -ETIMEDOUT && !atomic_load_explicit(&c->call.done, memory_order_acquire))
		; /* it has just finished: a few instructions */
	free(c);
}

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static void put(char *out, size_t n, const char *s)
{
	size_t k = s ? strlen(s) : 0;

	k = k < n ? k : n - 1;
	if (k)
		memcpy(out, s, k);
	out[k] = '\0';
}

static const char *conn_state_text(const struct conn *c)
{
	if (c->state == CONN_DIALING)
		return "opening";
	if (c->state == CONN_CLOSED)
		return "closing";
	if (c->leg[SRC].in_done)
		return "half-src";
	if (c->leg[DST].in_done)
		return "half-dst";
	return "open";
}

static void chain_text(const struct conn *c, char *out, size_t size)
{
	const struct config *cfg = c->snap->cfg;
	size_t n = 0;

	out[0] = '\0';
	for (uint32_t i = 0; i < c->stages.n && n < size; i++)
		n += (size_t)snprintf(out + n, size - n, "%s%s", i ? " > " : "", cfg->listeners[c->stages.id[i]].name);
	if (c->stages.cluster && n < size)
		snprintf(out + n, size - n, " > cluster:%s", c->stages.cluster->name);
}

static void metadata_text(const struct metadata *md, char *out, size_t size)
{
	const char *name, *value;
	uint32_t pos = 0;
	size_t n = 0;

	out[0] = '\0';
	while (md && metadata_each(md, &pos, &name, &value) && n < size)
		n += (size_t)snprintf(out + n, size - n, "%s%s=%s", n ? ", " : "", name,
			      secret_name(name, strlen(name)) ? SECRET_SHOWN : value);
}

/* "order 12, reader 3": messages of a bypassed connection that went by TCP, both ways together */
static void refused_text(const struct conn *c, char *out, size_t size)
{
	struct bypass_counts k;
	size_t n = 0;

	out[0] = '\0';
	if (c->byp.state == BYPASS_NONE)
		return;
	bypass_counts(c->w->d->kernel.bypass, &c->byp, &k);
	for (uint32_t i = 0; i < BYPASS_REFUSALS && n < size; i++)
		if (k.refused[0][i] + k.refused[1][i])
			n += (size_t)snprintf(out + n, size - n, "%s%s %llu", n ? ", " : "", bypass_refusal_str(i),
					      (unsigned long long)(k.refused[0][i] + k.refused[1][i]));
}

static void tcp_ends(const struct conn *c, struct addr ends[2][2])
{
	for (int i = 0; i < 2; i++) {
		struct sockaddr_storage ss;
		socklen_t n = sizeof(ss);

		if (c->leg[i].kind != LEG_SOCK || sock_local(c->leg[i].fd, &ends[i][0]) < 0 ||
		    getpeername(c->leg[i].fd, (struct sockaddr *)&ss, &n))
			memset(ends[i], 0, sizeof(ends[i]));
		else
			addr_from_sa((struct sockaddr *)&ss, &ends[i][1]);
	}
}

void inspect_conn_fill(const struct conn *c, struct conn_row *r)
{
	const struct loop *l = &c->w->loop;
	const struct leg *s = &c->leg[SRC], *d = &c->leg[DST], *p = s->kind == LEG_STREAM ? s : d;
	char a[ADDR_STR];

	r->id = c->id;
	r->worker = l->worker;
	put(r->state, sizeof(r->state), conn_state_text(c));
	put(r->mover, sizeof(r->mover), conn_mover(c));
	put(r->mover_why, sizeof(r->mover_why), conn_mover_why(c));
	refused_text(c, r->bypass_refused, sizeof(r->bypass_refused));
	tcp_ends(c, r->tcp);
	r->bypassed_sent = c->bypassed[SRC];
	r->bypassed_recv = c->bypassed[DST];
	r->spliced_sent = c->spliced[SRC];
	r->spliced_recv = c->spliced[DST];
	put(r->listener, sizeof(r->listener), c->snap->cfg->listeners[c->stages.id[0]].name);
	chain_text(c, r->chain, sizeof(r->chain));
	put(r->route, sizeof(r->route), c->stages.route ? c->stages.route->name : "");
	addr_str(&c->src, r->src);
	addr_str(&c->dst, r->dst);
	addr_str(&c->orig_dst, r->original_dst);
	if (c->authority)
		put(r->authority, sizeof(r->authority), c->authority);
	else if (c->stages.cluster && c->stages.cluster->type == CLUSTER_TUNNEL)
		put(r->authority, sizeof(r->authority), c->stages.cluster->authority ? c->stages.cluster->authority : addr_str(&c->orig_dst, a));
	put(r->src_identity, sizeof(r->src_identity), conn_principal(c));
	put(r->workload, sizeof(r->workload), c->workload ? c->workload->name : "");
	if (c->workload)
		(void)workload_by(c->workload, r->workload_by);
	r->src_uid = c->has_uid ? (int64_t)c->uid : -1;
	put(r->dst_identity, sizeof(r->dst_identity), d->who ? d->who->tls.id : "");
	put(r->peer_id, sizeof(r->peer_id), metadata_known(p->md, MD_NODE_ID));
	metadata_text(p->md, r->metadata, sizeof(r->metadata));
	r->tunnel_in = s->who ? s->who->tunnel : 0;
	r->stream_in = s->sid;
	r->tunnel_out = d->who ? d->who->tunnel : d->s.id ? ((struct tunnel *)d->s.h->owner)->id : 0;
	r->stream_out = d->sid;
	r->bytes_sent = c->bytes[SRC];
	r->bytes_recv = c->bytes[DST];
	r->buffered = (uint64_t)s->q.len + d->q.len + c->early_data.len + (s->pipe ? s->pipe->len : 0) + (d->pipe ? d->pipe->len : 0);
	r->age_us = l->now_us - c->start_us;
	r->idle_us = (l->now_ms - c->last_ms) * 1000u;
	r->mismatch = c->mismatch;
}

static void conns_copy(struct worker *w, struct call *call)
{
	struct rows_call *c = container_of(call, struct rows_call, call);
	struct conn *k = NULL;

	while (c->n < ROWS_PER_ORDER && (k = slab_next(&w->conns, &c->cursor)))
		if (k->state != CONN_CLOSED) {
			bypass_sync(k);
			inspect_conn_fill(k, &c->rows.conn[c->n++]);
		}
	c->more = k != NULL;
}

static void tunnel_fill(const struct tunnel *t, struct tunnel_row *r)
{
	const struct loop *l = t->l;

	r->id = t->id;
	r->worker = l->worker;
	put(r->dir, sizeof(r->dir), t->server ? "in" : "out");
	put(r->state, sizeof(r->state), tunnel_state_str(t));
	addr_str(&t->who->remote, r->peer);
	addr_str(&t->who->local, r->local);
	put(r->cluster, sizeof(r->cluster), t->server ? t->listener->name : t->peer ? t->peer->pool->cluster->name : "");
	put(r->peer_identity, sizeof(r->peer_identity), t->who->tls.id);
	put(r->local_identity, sizeof(r->local_identity), t->who->own_id);
	put(r->engine, sizeof(r->engine), rec_engine_str(&t->rec));
	put(r->engine_tx, sizeof(r->engine_tx), rec_engine_tx_str(&t->rec));
	put(r->engine_rx, sizeof(r->engine_rx), rec_engine_rx_str(&t->rec));
	put(r->why, sizeof(r->why), rec_engine_why(&t->rec));
	put(r->cipher, sizeof(r->cipher), t->who->tls.cipher);
	r->age_us = l->now_us - t->opened_us;
	r->idle_us = t->idle_ms ? (l->now_ms - t->idle_ms) * 1000u : 0;
	r->rx_bytes = t->rec.rx_bytes;
	r->tx_bytes = t->rec.tx_bytes;
	r->tx_queued = t->rec.pend.len + (t->rec.out ? t->rec.out->len : 0);
	r->cert_expires = t->who->tls.not_after;
	r->expires = t->expires;
	r->stale = t->stale;
	if (t->who->own) {
		put(r->identity, sizeof(r->identity), t->identity->name);
		put(r->own_serial, sizeof(r->own_serial), tls_ctx_info(t->who->own)->cert.serial);
	}
	if (!t->h2.ng)
		return;
	r->streams = t->h2.streams;
	r->max_streams = t->server ? t->h2.max_streams :
				     (uint32_t)min_u64(h2_peer_max_streams(&t->h2), t->peer ? t->peer->pool->cluster->pool.max_streams : UINT32_MAX);
	r->streams_total = t->h2.total;
	r->send_window = nghttp2_session_get_remote_window_size(t->h2.ng);
	r->recv_window = nghttp2_session_get_effective_local_window_size(t->h2.ng);
	r->rtt_us = t->h2.rtt_us;
}

static void tunnels_copy(struct worker *w, struct call *call)
{
	struct rows_call *c = container_of(call, struct rows_call, call);
	struct tunnel *t = NULL;

	while (c->n < ROWS_PER_ORDER && (t = slab_next(&w->tunnels.slab, &c->cursor)))
		if (t->state != TUNNEL_CLOSED)
			tunnel_fill(t, &c->rows.tunnel[c->n++]);
	c->more = t != NULL;
}

int inspect_one(struct daemon *d, uint32_t i, void (*fn)(struct worker *w, struct call *c), uint64_t arg, void *ret, size_t size)
{
	struct rows_call *c = rows_new(fn);
	int r;

	if (!c)
		return -ENOMEM;
	c->arg = arg;
	r = daemon_call(d, i, &c->call);
	if (r < 0) {
		rows_abandon(c, r);
		return r;
	}
	memcpy(ret, &c->rows, size);
	r = (int)c->n;
	free(c);
	return r;
}

int inspect_collect(struct daemon *d, void (*fn)(struct worker *w, struct call *c), size_t size, void **ret, size_t *ret_n)
{
	AUTO_FREE uint8_t *all = NULL;
	size_t n = 0;

	for (uint32_t i = 0; i < d->n_workers; i++) {
		uint32_t cursor = 0;
		bool more = true;

		while (more) {
			struct rows_call *c = rows_new(fn);
			uint8_t *grown;
			int r;

			if (!c)
				return -ENOMEM;
			c->cursor = cursor;
			r = daemon_call(d, i, &c->call);
			if (r < 0) {
				rows_abandon(c, r);
				return r;
			}
			grown = realloc(all, (n + c->n + 1) * size);
			if (!grown) {
				free(c);
				return -ENOMEM;
			}
			all = grown;
			memcpy(all + n * size, &c->rows, c->n * size);
			n += c->n;
			cursor = c->cursor;
			more = c->more;
			free(c);
		}
	}
	*ret = TAKE(all);
	*ret_n = n;
	return 0;
}

int inspect_conns(struct daemon *d, struct conn_row **ret, size_t *ret_n)
{
	return inspect_collect(d, conns_copy, sizeof(**ret), (void **)ret, ret_n);
}

int inspect_tunnels(struct daemon *d, struct tunnel_row **ret, size_t *ret_n)
{
	return inspect_collect(d, tunnels_copy, sizeof(**ret), (void **)ret, ret_n);
}

static uint64_t get(const _Atomic uint64_t *c)
{
	return atomic_load_explicit(c, memory_order_relaxed);
}

int inspect_listeners(struct daemon *d, struct listener_row **ret, size_t *ret_n)
{
	uint32_t n = d->cfg->n_listeners;
	struct listener_row *r;

	if (d->swap) /* its objects may not be there yet */
		return -ETIMEDOUT;
	r = calloc(n + 1u, sizeof(*r));
	if (!r)
		return -ENOMEM;
	for (uint32_t i = 0; i < n; i++) {
		r[i].cfg = &d->cfg->listeners[i];
		for (uint32_t w = 0; w < d->n_workers; w++) {
			const struct listener *s = d->workers[w].listeners[d->cfg->listeners[i].slot];

			r[i].accepted += get(&s->accepted);
			r[i].active += get(&s->active);
			r[i].failed += get(&s->failed);
			r[i].bytes_in += get(&s->bytes_in);
			r[i].bytes_out += get(&s->bytes_out);
		}
	}
	*ret = r;
	*ret_n = n;
	return 0;
}

int inspect_policies(struct daemon *d, struct policy_row **ret, size_t *ret_n)
{
	const struct policy_set *s = d->cfg->policy_set;
	uint32_t n = policy_count(s);
	struct policy_row *r = calloc(n + 1u, sizeof(*r));
	struct policy_info info;

	if (!r)
		return -ENOMEM;
	r[n].name = POLICY_DEFAULT;
	r[n].deny = r[n].default_ = true;
	for (uint32_t i = 0; i <= n; i++) {
		if (i < n) {
			policy_info(s, i, &info);
			r[i] = (struct policy_row){.name = info.name, .deny = info.action == POLICY_DENY, .dry_run = info.dry_run,
						   .elsewhere = info.elsewhere, .rules = info.rules, .values = info.values};
		}
		for (uint32_t w = 0; w < d->n_workers; w++) {
			const struct policy_counts *c = &d->workers[w].policies[i < n ? d->snap->policy_slot[i] : POLICY_COUNTS_DEFAULT];

			r[i].allowed += get(&c->allowed);
			r[i].denied += get(&c->denied);
			r[i].dry_allowed += get(&c->dry_allowed);
			r[i].dry_denied += get(&c->dry_denied);
		}
	}
	*ret = r;
	*ret_n = n + 1u;
	return 0;
}

int inspect_endpoints(struct daemon *d, struct endpoint_row **ret, size_t *ret_n)
{
	uint32_t n = d->cfg->n_endpoints;
	struct endpoint_row *r;
	struct tunnel_row *t;
	size_t nt = 0;

	if (d->swap)
		return -ETIMEDOUT;
	r = calloc(n + 1u, sizeof(*r));
	if (!r)
		return -ENOMEM;
	if (inspect_tunnels(d, &t, &nt) < 0)
		t = NULL;
	for (uint32_t i = 0, c = 0, k = 0; i < n; i++, k++) {
		const struct cfg_cluster *cl;
		const struct cfg_endpoint *cfg;

		for (; k == d->cfg->clusters[c].n_endpoints; k = 0)
			c++;
		cl = &d->cfg->clusters[c];
		cfg = &cl->endpoints[k];
		r[i].cluster = cl;
		r[i].endpoint = cfg;
		r[i].resolved = !cfg->host;
		if (cfg->host)
			snprintf(r[i].address, sizeof(r[i].address), "%.48s:%u", cfg->host, cfg->port);
		else
			addr_str(&cfg->address, r[i].address);
		for (uint32_t w = 0; w < d->n_workers; w++) {
			const struct endpoint *e = d->workers[w].clusters[cl->slot]->ep[k];

			r[i].active += get(&e->active);
			r[i].total += get(&e->total);
			r[i].failed += get(&e->failed);
			r[i].resolved |= atomic_load_explicit(&e->known, memory_order_acquire) != 0;
		}
		for (size_t j = 0; t && j < nt; j++)
			r[i].tunnels += !strcmp(t[j].dir, "out") && !strcmp(t[j].cluster, cl->name) &&
					(cfg->host || !strcmp(t[j].peer, r[i].address));
	}
	for (uint32_t w = 0; w < d->n_workers && n; w++) /* queues are per worker and peer; shown with the first endpoint */
		r[0].queued += (uint64_t)max_u64((uint64_t)atomic_load_explicit(&d->workers[w].loop.stats.g[SG_QUEUED], memory_order_relaxed), 0);
	free(t);
	*ret = r;
	*ret_n = n;
	return 0;
}

void inspect_status(struct daemon *d, struct status_row *ret)
{
	struct stats s;

	memset(ret, 0, sizeof(*ret));
	inspect_stats(d, &s);
	ret->uptime_us = now_us() - d->start_us;
	ret->pid = (uint64_t)getpid();
	ret->workers = d->n_workers;
	ret->draining = atomic_load(&d->health.phase) >= HEALTH_QUIET;
	ret->ready = d->ready && !ret->draining;
	ret->generation = d->snap->number;
	for (const struct snapshot *k = d->snap; k; k = k->next)
		ret->snapshots += k == d->snap || snapshot_used(k);
	ret->changes = d->changes.done;
	ret->refused = d->changes.refused;
	ret->changed_us = d->changes.last_us;
	put(ret->refused_why, sizeof(ret->refused_why), d->changes.why.msg);
	put(ret->node, sizeof(ret->node), d->cfg->node.id);
	put(ret->version, sizeof(ret->version), ADIT_VERSION);
	put(ret->wolfssl, sizeof(ret->wolfssl), tls_library());
	ret->connections = (uint64_t)s.g[SG_CONNECTIONS];
	ret->tunnels_in = (uint64_t)s.g[SG_TUNNELS_IN];
	ret->tunnels_out = (uint64_t)s.g[SG_TUNNELS_OUT];
	ret->streams = (uint64_t)s.g[SG_STREAMS];
	ret->buffered = (uint64_t)s.g[SG_BUFFERED];
	ret->memory_limit = d->cfg->limits.memory;
}

const struct config *inspect_config(struct daemon *d)
{
	return d->cfg;
}

void inspect_stats(struct daemon *d, struct stats *ret)
{
	memset(ret, 0, sizeof(*ret));
	for (uint32_t w = 0; w < d->n_workers; w++) {
		const struct stats *s = &d->workers[w].loop.stats;

		for (uint32_t i = 0; i < ST_COUNTERS; i++)
			ret->c[i] += get(&s->c[i]);
		for (uint32_t i = 0; i < SG_GAUGES; i++)
			ret->g[i] += atomic_load_explicit(&s->g[i], memory_order_relaxed);
		for (uint32_t i = 0; i < STATS_H2_CODES; i++) {
			ret->rst_rx[i] += get(&s->rst_rx[i]);
			ret->rst_tx[i] += get(&s->rst_tx[i]);
		}
	}
	for (uint32_t i = 0; i < SG_GAUGES; i++)
		if (ret->g[i] < 0) /* read while a worker moved bytes between two counters */
			ret->g[i] = 0;
}

void inspect_hist(struct daemon *d, enum inspect_hist which, struct hist *ret)
{
	static const enum loop_hist map[IH_HISTS] = { [IH_OPEN_US] = LH_OPEN_US,
						      [IH_QUEUE_US] = LH_QUEUE_US,
						      [IH_HANDSHAKE_US] = LH_HANDSHAKE_US,
						      [IH_CONNECT_US] = LH_CONNECT_US };

	memset(ret, 0, sizeof(*ret));
	for (uint32_t w = 0; w < d->n_workers; w++)
		hist_merge(ret, &d->workers[w].loop.hist[map[which]]);
}

const struct series *inspect_series(struct daemon *d, uint32_t *iw, uint32_t *is)
{
	for (; *iw < d->n_workers; (*iw)++, *is = 0) {
		struct series_table *t = &d->workers[*iw].series;

		if (*is < atomic_load_explicit(&t->n, memory_order_acquire))
			return t->list[(*is)++];
	}
	return NULL;
}

uint64_t inspect_access_dropped(struct daemon *d)
{
	uint64_t n = access_log_lost(d->access_log);

	for (uint32_t w = 0; w < d->n_workers; w++)
		n += get(&d->workers[w].access.ring.dropped);
	return n;
}

static void kill_run(struct worker *w, struct call *call)
{
	struct rows_call *c = container_of(call, struct rows_call, call);
	struct conn *k;

	for (uint32_t i = 0; (k = slab_next(&w->conns, &i));)
		if (k->id == c->arg && k->state != CONN_CLOSED) {
			conn_end(k, END_KILLED, NULL);
			c->n = 1;
			return;
		}
}

int inspect_kill(struct daemon *d, uint64_t conn_id)
{
	struct rows_call *c = rows_new(kill_run);
	int r;

	if (!c)
		return -ENOMEM;
	c->arg = conn_id;
	r = daemon_call(d, (uint32_t)(conn_id % d->n_workers), &c->call);
	if (r < 0) {
		rows_abandon(c, r);
		return r;
	}
	r = c->n ? 0 : -ENOENT;
	free(c);
	return r;
}
