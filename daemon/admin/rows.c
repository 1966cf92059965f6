/*
 * Rows of chain/inspect.h as JSON: status, listeners, clusters, tunnels, stats. Members are named as the rows' fields, so
 * that docs/ADMIN-API.md, the tables of aditctl and the code say the same words.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "obs/metrics.h"
#include <fnmatch.h>
#include <stdio.h>
#include <string.h>

static const char *listener_type_str(enum cfg_listener_type t)
{
	switch (t) {
	case LISTENER_TCP: return "tcp";
	case LISTENER_TUNNEL: return "tunnel";
	case LISTENER_INTERNAL: return "internal";
	}
	return "?";
}

static const char *cluster_type_str(enum cfg_cluster_type t)
{
	switch (t) {
	case CLUSTER_TCP: return "tcp";
	case CLUSTER_TUNNEL: return "tunnel";
	case CLUSTER_ORIGINAL_DST: return "original_dst";
	case CLUSTER_INTERNAL: return "internal";
	}
	return "?";
}

static const char *balance_str(enum cfg_balance b)
{
	switch (b) {
	case BALANCE_ROUND_ROBIN: return "round_robin";
	case BALANCE_LEAST_REQUEST: return "least_request";
	case BALANCE_RANDOM_TWO: return "random_two";
	}
	return "?";
}

static const char *proxy_str(enum cfg_proxy p)
{
	switch (p) {
	case PROXY_NONE: return "none";
	case PROXY_V1: return "v1";
	case PROXY_V2: return "v2";
	}
	return "?";
}

void api_status(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const struct config *c = inspect_config(a->d);
	struct status_row s = {0};
	struct health_row h;
	struct json j;

	(void)req;
	inspect_status(a->d, &s);
	inspect_health(a->d, &h);
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_str(&j, "node", s.node);
	json_str(&j, "version", s.version);
	json_str(&j, "wolfssl", s.wolfssl);
	json_u64(&j, "pid", s.pid);
	json_u64(&j, "uptime_us", s.uptime_us);
	json_u64(&j, "workers", s.workers);
	json_bool(&j, "ready", s.ready);
	json_bool(&j, "draining", s.draining);
	json_u64(&j, "stuck_workers", h.stuck);
	json_open(&j, "config", '{');
	json_u64(&j, "generation", s.generation);
	json_u64(&j, "changed_us", s.changed_us);
	json_u64(&j, "changes", s.changes);
	json_u64(&j, "refused", s.refused);
	json_str(&j, "refused_why", or_null(s.refused_why));
	json_u64(&j, "snapshots", s.snapshots);
	json_close(&j, '}');
	json_u64(&j, "listeners", c ? c->n_listeners : 0);
	json_u64(&j, "clusters", c ? c->n_clusters : 0);
	json_u64(&j, "connections", s.connections);
	json_u64(&j, "tunnels_in", s.tunnels_in);
	json_u64(&j, "tunnels_out", s.tunnels_out);
	json_u64(&j, "streams", s.streams);
	json_u64(&j, "buffered", s.buffered);
	json_u64(&j, "memory_limit", s.memory_limit);
	json_u64(&j, "access_log_dropped", inspect_access_dropped(a->d));
	api_put_overload(&j, a->d);
	api_put_kernel_line(&j, a->d);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* ---- listeners ---- */

static void put_target(struct json *j, const struct cfg_target *to)
{
	char out[128];

	if (to->listener)
		snprintf(out, sizeof(out), "%s", to->listener->name);
	else if (to->cluster)
		snprintf(out, sizeof(out), "cluster:%s%s", to->cluster->name, to->forward ? " (forward)" : "");
	json_str(j, "to", to->listener || to->cluster ? out : NULL);
}

static void put_listener(struct json *j, const struct listener_row *r)
{
	const struct cfg_listener *l = r->cfg;
	char addr[ADDR_STR];

	json_open(j, NULL, '{');
	json_str(j, "name", l->name);
	json_str(j, "type", listener_type_str(l->type));
	json_str(j, "address", l->type == LISTENER_INTERNAL ? NULL : addr_str(&l->address, addr));
	put_target(j, &l->to);
	json_u64(j, "routes", l->n_routes);
	json_bool(j, "access_log", l->access_log);
	if (l->type == LISTENER_TUNNEL) {
		json_bool(j, "tls", l->tls);
		json_str(j, "identity", l->by_workload ? "workload" : l->identity ? l->identity->name : NULL);
		json_u64(j, "max_streams", l->max_streams);
	}
	if (l->type != LISTENER_INTERNAL)
		api_put_reach(j, l);
	json_u64(j, "max_connections", l->max_connections);
	json_u64(j, "active", r->active);
	json_u64(j, "accepted", r->accepted);
	json_u64(j, "failed", r->failed);
	json_u64(j, "bytes_in", r->bytes_in);
	json_u64(j, "bytes_out", r->bytes_out);
	json_close(j, '}');
}

void api_listeners(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct listener_row *rows = NULL;
	struct json j;
	size_t n = 0;
	int r = inspect_listeners(a->d, &rows, &n);

	(void)req;
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "listeners", '[');
	for (size_t i = 0; i < n; i++)
		put_listener(&j, &rows[i]);
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* ---- clusters ---- */

void api_cidr(struct text *t, const struct cidr *c)
{
	const bool brackets = c->net.family == AF_INET6 && c->port_first;
	char ip[ADDR_STR];

	if (c->net.family == AF_UNSPEC)
		text_add(t, "*");
	else
		text_addf(t, "%s%s/%u%s", brackets ? "[" : "", addr_ip_str(&c->net, ip), c->bits, brackets ? "]" : "");
	if (c->port_first)
		text_addf(t, ":%u", c->port_first);
	if (c->port_first && c->port_last > c->port_first)
		text_addf(t, "-%u", c->port_last);
}

static void put_destination(struct json *j, const struct cidr *c)
{
	struct text t = {0};

	api_cidr(&t, c);
	json_strn(j, NULL, t.s, t.len);
	text_finish(&t);
}

static void put_endpoint(struct json *j, const struct endpoint_row *r)
{
	const struct cfg_endpoint *e = r->endpoint;
	char text[300] = "-";

	if (e && e->host)
		snprintf(text, sizeof(text), "%.255s:%u", e->host, e->port);
	else if (e)
		addr_str(&e->address, text);
	json_open(j, NULL, '{');
	json_str(j, "endpoint", text);
	json_str(j, "address", r->resolved ? r->address : NULL);
	json_bool(j, "resolved", r->resolved);
	json_u64(j, "active", r->active);
	json_u64(j, "total", r->total);
	json_u64(j, "failed", r->failed);
	json_u64(j, "tunnels", r->tunnels);
	json_u64(j, "queued", r->queued);
	json_close(j, '}');
}

static void put_tunnel_cluster(struct json *j, const struct cfg_cluster *c)
{
	json_bool(j, "tls", c->tls);
	json_str(j, "identity", c->by_workload ? "workload" : c->identity ? c->identity->name : NULL);
	json_str(j, "authority", c->authority);
	json_str(j, "local", c->local == LOCAL_TUNNEL ? "tunnel" : "short");
	json_open(j, "expect_ids", '[');
	for (uint32_t i = 0; i < c->n_expect_ids; i++)
		json_str(j, NULL, c->expect_ids[i]);
	json_close(j, ']');
	json_open(j, "pool", '{');
	json_u64(j, "max_tunnels", c->pool.max_tunnels);
	json_u64(j, "max_streams", c->pool.max_streams);
	json_u64(j, "max_requests", c->pool.max_requests);
	json_u64(j, "queue", c->pool.queue);
	json_u64(j, "queue_timeout_ms", c->pool.queue_timeout_ms);
	json_u64(j, "idle_timeout_ms", c->pool.idle_timeout_ms);
	json_u64(j, "max_age_ms", c->pool.max_age_ms);
	json_close(j, '}');
}

static void put_cluster(struct json *j, const struct cfg_cluster *c, const struct endpoint_row *rows, size_t n)
{
	json_open(j, NULL, '{');
	json_str(j, "name", c->name);
	json_str(j, "type", cluster_type_str(c->type));
	if (c->type == CLUSTER_TCP || c->type == CLUSTER_TUNNEL)
		json_str(j, "balance", balance_str(c->balance));
	if (c->type == CLUSTER_TUNNEL)
		put_tunnel_cluster(j, c);
	if (c->listener)
		json_str(j, "listener", c->listener->name);
	if (c->type == CLUSTER_ORIGINAL_DST) {
		json_open(j, "destinations", '[');
		for (uint32_t i = 0; i < c->n_destinations; i++)
			put_destination(j, &c->destinations[i]);
		json_close(j, ']');
	}
	if (c->type != CLUSTER_INTERNAL)
		json_str(j, "netns", c->netns);
	if (c->type == CLUSTER_TCP || c->type == CLUSTER_ORIGINAL_DST) {
		json_str(j, "source", c->source == SOURCE_CLIENT ? "client" : "agent");
		json_str(j, "proxy_protocol", proxy_str(c->proxy_protocol));
	}
	json_u64(j, "connect_timeout_ms", c->connect_timeout_ms);
	json_u64(j, "max_connections", c->max_connections);
	json_open(j, "endpoints", '[');
	for (size_t i = 0; i < n; i++)
		if (rows[i].cluster == c)
			put_endpoint(j, &rows[i]);
	json_close(j, ']');
	json_close(j, '}');
}

void api_clusters(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const struct config *c = inspect_config(a->d);
	AUTO_FREE struct endpoint_row *rows = NULL;
	struct json j;
	size_t n = 0;
	int r = inspect_endpoints(a->d, &rows, &n);

	(void)req;
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "clusters", '[');
	for (uint32_t i = 0; c && i < c->n_clusters; i++)
		put_cluster(&j, &c->clusters[i], rows, n);
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* ---- tunnels ---- */

static void put_tunnel(struct json *j, const struct tunnel_row *r)
{
	json_open(j, NULL, '{');
	json_u64(j, "id", r->id);
	json_u64(j, "worker", r->worker);
	json_str(j, "dir", r->dir);
	json_str(j, "state", r->state);
	json_str(j, "peer", r->peer);
	json_str(j, "local", r->local);
	json_str(j, r->dir[0] == 'i' ? "listener" : "cluster", r->cluster);
	json_str(j, "peer_identity", *r->peer_identity ? r->peer_identity : NULL);
	json_str(j, "local_identity", *r->local_identity ? r->local_identity : NULL);
	json_str(j, "engine", r->engine);
	json_str(j, "engine_tx", *r->engine_tx ? r->engine_tx : NULL);
	json_str(j, "engine_rx", *r->engine_rx ? r->engine_rx : NULL);
	json_str(j, "why", *r->why ? r->why : NULL);
	json_str(j, "cipher", *r->cipher ? r->cipher : NULL);
	json_u64(j, "streams", r->streams);
	json_u64(j, "max_streams", r->max_streams);
	json_u64(j, "streams_total", r->streams_total);
	json_u64(j, "rx_bytes", r->rx_bytes);
	json_u64(j, "tx_bytes", r->tx_bytes);
	json_u64(j, "tx_queued", r->tx_queued);
	json_i64(j, "send_window", r->send_window);
	json_i64(j, "recv_window", r->recv_window);
	json_u64(j, "rtt_us", r->rtt_us);
	json_u64(j, "cert_expires", r->cert_expires);
	json_u64(j, "expires", r->expires);
	json_str(j, "identity", or_null(r->identity));
	json_str(j, "own_serial", or_null(r->own_serial));
	json_bool(j, "stale", r->stale);
	json_u64(j, "age_us", r->age_us);
	json_u64(j, "idle_us", r->idle_us);
	json_close(j, '}');
}

static bool tunnel_wanted(const struct tunnel_row *r, const char *peer)
{
	return !peer || strstr(r->peer, peer) || strstr(r->peer_identity, peer);
}

void api_tunnels(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct tunnel_row *rows = NULL;
	const char *peer = api_arg(req, "peer");
	size_t n = 0, matched = 0;
	uint64_t limit;
	struct json j;
	int r;

	if (!api_limit(req, 0, &limit, ans))
		return;
	r = inspect_tunnels(a->d, &rows, &n);
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "tunnels", '[');
	for (size_t i = 0; i < n; i++)
		if (tunnel_wanted(&rows[i], peer) && (++matched <= limit || !limit))
			put_tunnel(&j, &rows[i]);
	json_close(&j, ']');
	json_u64(&j, "total", n);
	json_u64(&j, "matched", matched);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* ---- stats ---- */

static bool stat_wanted(const char *name, const char *glob)
{
	return !glob || !*glob || strstr(name, glob) || fnmatch(glob, name, 0) == 0;
}

static void put_resets(struct json *j, const char *key, const _Atomic uint64_t *by_code, const char *glob)
{
	char name[64];

	json_open(j, key, '{');
	for (uint32_t i = 0; i < STATS_H2_CODES; i++) {
		snprintf(name, sizeof(name), "resets_%s.%s", key, metrics_h2_code(i));
		if (stat_wanted(name, glob))
			json_u64(j, metrics_h2_code(i), atomic_load_explicit(&by_code[i], memory_order_relaxed));
	}
	json_close(j, '}');
}

static void put_latency(struct json *j, const char *name, const struct hist *h)
{
	json_open(j, name, '{');
	json_u64(j, "count", atomic_load_explicit(&h->count, memory_order_relaxed));
	json_u64(j, "sum_us", atomic_load_explicit(&h->sum, memory_order_relaxed));
	json_u64(j, "p50_us", hist_quantile(h, 0.5));
	json_u64(j, "p90_us", hist_quantile(h, 0.9));
	json_u64(j, "p99_us", hist_quantile(h, 0.99));
	json_u64(j, "max_us", hist_quantile(h, 1.0));
	json_close(j, '}');
}

void api_stats(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	static const char *const hist_str[IH_HISTS] = {
		[IH_OPEN_US] = "open",
		[IH_QUEUE_US] = "queue",
		[IH_HANDSHAKE_US] = "handshake",
		[IH_CONNECT_US] = "connect",
	};
	const char *glob = api_arg(req, "match");
	AUTO_FREE struct stats *s = calloc(1, sizeof(*s));
	AUTO_FREE struct hist *h = calloc(1, sizeof(*h));
	struct json j;

	if (!s || !h) {
		api_fail_inspect(ans, -ENOMEM);
		return;
	}
	inspect_stats(a->d, s);
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "counters", '{');
	for (uint32_t i = 0; i < ST_COUNTERS; i++)
		if (stat_wanted(metrics_counter_name(i), glob))
			json_u64(&j, metrics_counter_name(i), atomic_load_explicit(&s->c[i], memory_order_relaxed));
	if (stat_wanted("access_log_dropped", glob))
		json_u64(&j, "access_log_dropped", inspect_access_dropped(a->d));
	json_close(&j, '}');
	json_open(&j, "gauges", '{');
	for (uint32_t i = 0; i < SG_GAUGES; i++)
		if (stat_wanted(metrics_gauge_name(i), glob))
			json_i64(&j, metrics_gauge_name(i), atomic_load_explicit(&s->g[i], memory_order_relaxed));
	json_close(&j, '}');
	json_open(&j, "resets", '{');
	put_resets(&j, "received", s->rst_rx, glob);
	put_resets(&j, "sent", s->rst_tx, glob);
	json_close(&j, '}');
	json_open(&j, "latencies", '{');
	for (uint32_t i = 0; i < IH_HISTS; i++) {
		char name[32];

		snprintf(name, sizeof(name), "latency_%s", hist_str[i]);
		if (!stat_wanted(name, glob))
			continue;
		inspect_hist(a->d, i, h);
		put_latency(&j, hist_str[i], h);
	}
	json_close(&j, '}');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}
