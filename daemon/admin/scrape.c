/*
 * GET /metrics: everything that Prometheus is told, in one text. Listeners and endpoints are gone through once per family,
 * since a family's samples must be contiguous. Two endpoints of a cluster with the same name (an address given twice) would be
 * the same sample twice, so they are summed.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "obs/metrics.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#ifndef ADIT_VERSION
#define ADIT_VERSION "unknown"
#endif

static void add_gauge(struct text *t, const char *name, const char *help, uint64_t v)
{
	metrics_family(t, name, METRICS_GAUGE, help);
	metrics_u64(t, name, NULL, 0, v);
}

static void add_status(struct text *t, const struct status_row *s)
{
	const struct metrics_label build[] = {
		{"version", *s->version ? s->version : ADIT_VERSION}, {"wolfssl", s->wolfssl}, {"node", s->node}};

	metrics_family(t, "adit_build_info", METRICS_GAUGE, "1; version, TLS library and node are in the labels");
	metrics_u64(t, "adit_build_info", build, ARRAY_LEN(build), 1);
	add_gauge(t, "adit_ready", "1 when listeners are open and the daemon is not draining",
		  s->ready && !s->draining);
	add_gauge(t, "adit_draining", "1 while the daemon drains", s->draining);
	add_gauge(t, "adit_config_generation", "number of the configuration in force; 1 at the start", s->generation);
	add_gauge(t, "adit_config_snapshots", "configurations that connections still use, the one in force included", s->snapshots);
	add_gauge(t, "adit_config_last_refused", "1 when the last change of the configuration was refused", *s->refused_why != 0);
	metrics_family(t, "adit_config_refused_total", METRICS_COUNTER, "changes of the configuration that were refused");
	metrics_u64(t, "adit_config_refused_total", NULL, 0, s->refused);
	metrics_family(t, "adit_config_changed_timestamp_seconds", METRICS_GAUGE, "when the configuration in force came into force, in Unix time");
	metrics_seconds(t, "adit_config_changed_timestamp_seconds", NULL, 0, s->changed_us);
	add_gauge(t, "adit_workers", "worker threads", s->workers);
	add_gauge(t, "adit_memory_limit_bytes", "what connections may hold in buffers", s->memory_limit);
	metrics_family(t, "adit_uptime_seconds", METRICS_GAUGE, "seconds since the daemon started");
	metrics_seconds(t, "adit_uptime_seconds", NULL, 0, s->uptime_us);
}

/* The names that every Prometheus client library uses for its process. */
static void add_process(struct text *t, const struct status_row *s)
{
	unsigned long long pages = 0;
	struct timespec ts;
	FILE *f;

	if (clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &ts) == 0) {
		metrics_family(t, "process_cpu_seconds_total", METRICS_COUNTER, "CPU time of all threads");
		metrics_seconds(t, "process_cpu_seconds_total", NULL, 0,
				(uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000);
	}
	f = fopen("/proc/self/statm", "re");
	if (f && fscanf(f, "%*u %llu", &pages) == 1)
		add_gauge(t, "process_resident_memory_bytes", "resident memory",
			  pages * (uint64_t)sysconf(_SC_PAGESIZE));
	if (f)
		fclose(f);
	if (clock_gettime(CLOCK_REALTIME, &ts) == 0) {
		uint64_t now = (uint64_t)ts.tv_sec * 1000000 + (uint64_t)ts.tv_nsec / 1000;

		metrics_family(t, "process_start_time_seconds", METRICS_GAUGE, "when the daemon started, in Unix time");
		metrics_seconds(t, "process_start_time_seconds", NULL, 0, now - min_u64(now, s->uptime_us));
	}
}

/* ---- listeners ---- */

static void add_listeners(struct text *t, const struct listener_row *rows, size_t n)
{
	static const struct {
		const char *name, *help;
		enum metrics_type type;
		size_t at;
	} fam[] = {
		{"adit_listener_connections_accepted_total", "connections and streams that a listener took in",
		 METRICS_COUNTER, offsetof(struct listener_row, accepted)},
		{"adit_listener_connections", "live connections of a listener", METRICS_GAUGE,
		 offsetof(struct listener_row, active)},
		{"adit_listener_connections_failed_total", "connections of a listener that were refused or failed",
		 METRICS_COUNTER, offsetof(struct listener_row, failed)},
		{"adit_listener_received_bytes_total", "bytes that came in through a listener", METRICS_COUNTER,
		 offsetof(struct listener_row, bytes_in)},
		{"adit_listener_sent_bytes_total", "bytes that went back through a listener", METRICS_COUNTER,
		 offsetof(struct listener_row, bytes_out)},
	};
	static const char *const type_str[] = {
		[LISTENER_TCP] = "tcp", [LISTENER_TUNNEL] = "tunnel", [LISTENER_INTERNAL] = "internal"};

	for (size_t k = 0; k < ARRAY_LEN(fam); k++) {
		metrics_family(t, fam[k].name, fam[k].type, fam[k].help);
		for (size_t i = 0; i < n; i++) {
			const struct metrics_label l[] = {{"listener", rows[i].cfg->name},
							  {"type", type_str[rows[i].cfg->type]}};
			uint64_t v;

			memcpy(&v, (const char *)&rows[i] + fam[k].at, sizeof(v));
			metrics_u64(t, fam[k].name, l, ARRAY_LEN(l), v);
		}
	}
}

/* ---- endpoints ---- */

struct ep {
	const char *cluster;
	char name[300];
	uint64_t active, total, failed, tunnels, queued, resolved;
};

static int ep_cmp(const void *a, const void *b)
{
	const struct ep *x = a, *y = b;
	int r = strcmp(x->cluster, y->cluster);

	return r ? r : strcmp(x->name, y->name);
}

/* Sort, and sum what has the same name. Return: how many are left. */
static size_t ep_merge(struct ep *e, size_t n)
{
	size_t out = 0;

	qsort(e, n, sizeof(*e), ep_cmp);
	for (size_t i = 1; i < n; i++) {
		if (ep_cmp(&e[out], &e[i])) {
			e[++out] = e[i];
			continue;
		}
		e[out].active += e[i].active;
		e[out].total += e[i].total;
		e[out].failed += e[i].failed;
		e[out].tunnels += e[i].tunnels;
		e[out].queued += e[i].queued;
		e[out].resolved |= e[i].resolved;
	}
	return n ? out + 1 : 0;
}

static void ep_fill(struct ep *e, const struct endpoint_row *r)
{
	e->cluster = r->cluster->name;
	if (!r->endpoint)
		snprintf(e->name, sizeof(e->name), "-"); /* clusters without endpoints of their own */
	else if (r->endpoint->host)
		snprintf(e->name, sizeof(e->name), "%.255s:%u", r->endpoint->host, r->endpoint->port);
	else
		addr_str(&r->endpoint->address, e->name);
	e->active = r->active;
	e->total = r->total;
	e->failed = r->failed;
	e->tunnels = r->tunnels;
	e->queued = r->queued;
	e->resolved = r->resolved;
}

static void add_endpoints(struct text *t, const struct endpoint_row *rows, size_t n)
{
	static const struct {
		const char *name, *help;
		enum metrics_type type;
		size_t at;
	} fam[] = {
		{"adit_endpoint_connections", "live connections or streams to an endpoint", METRICS_GAUGE,
		 offsetof(struct ep, active)},
		{"adit_endpoint_connections_total", "connections or streams to an endpoint", METRICS_COUNTER,
		 offsetof(struct ep, total)},
		{"adit_endpoint_failures_total", "connections or streams to an endpoint that failed", METRICS_COUNTER,
		 offsetof(struct ep, failed)},
		{"adit_endpoint_tunnels", "live tunnels to an endpoint", METRICS_GAUGE, offsetof(struct ep, tunnels)},
		{"adit_endpoint_queue", "connections that wait for a tunnel to an endpoint", METRICS_GAUGE,
		 offsetof(struct ep, queued)},
		{"adit_endpoint_resolved", "1 when an endpoint's address is known", METRICS_GAUGE,
		 offsetof(struct ep, resolved)},
	};
	AUTO_FREE struct ep *e = calloc(n + 1, sizeof(*e));

	if (!e) {
		t->failed = true;
		return;
	}
	for (size_t i = 0; i < n; i++)
		ep_fill(&e[i], &rows[i]);
	n = ep_merge(e, n);
	for (size_t k = 0; k < ARRAY_LEN(fam); k++) {
		metrics_family(t, fam[k].name, fam[k].type, fam[k].help);
		for (size_t i = 0; i < n; i++) {
			const struct metrics_label l[] = {{"cluster", e[i].cluster}, {"endpoint", e[i].name}};
			uint64_t v;

			memcpy(&v, (const char *)&e[i] + fam[k].at, sizeof(v));
			metrics_u64(t, fam[k].name, l, ARRAY_LEN(l), v);
		}
	}
}

/* ---- histograms, series ---- */

static void add_hists(struct text *t, struct daemon *d)
{
	static const struct {
		const char *name, *help;
	} fam[IH_HISTS] = {
		[IH_OPEN_US] = {"adit_connection_open_seconds", "from accept to the established upstream"},
		[IH_QUEUE_US] = {"adit_pool_wait_seconds", "how long connections waited for a tunnel"},
		[IH_HANDSHAKE_US] = {"adit_tls_handshake_seconds", "TLS handshakes, both sides"},
		[IH_CONNECT_US] = {"adit_upstream_connect_seconds", "TCP connects to endpoints"},
	};
	AUTO_FREE struct hist *h = calloc(1, sizeof(*h));

	if (!h) {
		t->failed = true;
		return;
	}
	for (uint32_t i = 0; i < IH_HISTS; i++) {
		inspect_hist(d, i, h);
		metrics_hist(t, fam[i].name, fam[i].help, h);
	}
}

static void add_series(struct text *t, struct daemon *d)
{
	AUTO_FREE const struct series **list = NULL;
	uint32_t iw = 0, is = 0;
	const struct series *s;
	size_t n = 0, cap = 0;

	while ((s = inspect_series(d, &iw, &is))) {
		if (n == cap) {
			const struct series **more = reallocarray(list, cap * 2 + 64, sizeof(*list));

			if (!more) {
				t->failed = true;
				return;
			}
			list = more;
			cap = cap * 2 + 64;
		}
		list[n++] = s;
	}
	metrics_series(t, list, n);
}

void api_metrics(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct listener_row *listeners = NULL;
	AUTO_FREE struct endpoint_row *endpoints = NULL;
	AUTO_FREE struct stats *stats = calloc(1, sizeof(*stats));
	struct text *t = &ans->body;
	size_t n_listeners = 0, n_endpoints = 0;
	struct status_row s = {0};
	int r = stats ? 0 : -ENOMEM;

	(void)req;
	if (r == 0)
		r = inspect_listeners(a->d, &listeners, &n_listeners);
	if (r == 0)
		r = inspect_endpoints(a->d, &endpoints, &n_endpoints);
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	ans->type = METRICS_CONTENT_TYPE;
	inspect_status(a->d, &s);
	inspect_stats(a->d, stats);
	add_status(t, &s);
	add_process(t, &s);
	metrics_stats(t, stats);
	metrics_family(t, "adit_access_log_dropped_total", METRICS_COUNTER,
		       "access log records that found their ring full");
	metrics_u64(t, "adit_access_log_dropped_total", NULL, 0, inspect_access_dropped(a->d));
	api_add_health(t, a->d);
	api_add_kernel(t, a->d);
	api_add_policies(t, a->d);
	api_add_certs(t, a);
	api_add_logs(t, a->d);
	api_add_limits(t, a->d);
	api_add_overload(t, a->d);
	api_add_workloads(t, a->d);
	add_hists(t, a->d);
	add_listeners(t, listeners, n_listeners);
	add_endpoints(t, endpoints, n_endpoints);
	add_series(t, a->d);
}
