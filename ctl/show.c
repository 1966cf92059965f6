/* What the daemon is made of: status, listeners, chains, clusters, tunnels. Each is one GET and one table. */
#include "base/clean.h"
#include "ctl.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

/* GET @path and hand the table of @rows over. */
typedef void put_row(struct table *t, const json_t *row);

static int show_list(struct ctl *c, const char *path, const char *key, const struct table_col *cols, uint32_t n_cols,
		     put_row *put, const char *none)
{
	struct text out = {0};
	const json_t *list;
	struct table t;
	json_t *o = NULL;
	size_t i;
	int r = ctl_call(c, "GET", path, NULL, &o);

	if (r != CTL_OK || !o)
		return r;
	table_init(&t, cols, n_cols);
	list = json_object_get(o, key);
	for (i = 0; i < json_array_size(list); i++)
		put(&t, json_array_get(list, i));
	if (i)
		table_print(&t, &out, c->width, c->output == OUT_WIDE);
	else
		text_addf(&out, "%s\n", none);
	if (js_u64(o, "matched") > i)
		text_addf(&out, "%" PRIu64 " more; --limit 0 shows all\n", js_u64(o, "matched") - i);
	if (js_bool(o, "truncated"))
		text_add(&out, "... and more: the list is cut\n");
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}

/* ---- status ---- */

static void add_names(struct text *out, const char *before, const json_t *list)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		text_addf(out, "%s%s", i ? ", " : before, json_string_value(json_array_get(list, i)));
}

/* "kernel       6.18.44: splice, ktls on; missing: capture" */
static void put_kernel(struct text *out, const json_t *o)
{
	const json_t *on = json_object_get(o, "on"), *missing = json_object_get(o, "missing");

	if (!o)
		return; /* an older aditd */
	text_addf(out, "kernel       %s: ", js_str(o, "release"));
	add_names(out, "", on);
	text_add(out, json_array_size(on) ? " on" : "nothing on");
	add_names(out, "; missing: ", missing);
	text_add(out, json_array_size(missing) ? " (aditctl kernel says why)\n" : "\n");
}

static void put_config(struct text *out, const json_t *o)
{
	const json_t *c = json_object_get(o, "config");

	text_addf(out, "config       %" PRIu64 " listeners, %" PRIu64 " clusters; generation %" PRIu64 "\n", js_u64(o, "listeners"),
		  js_u64(o, "clusters"), js_u64(c, "generation"));
	if (*js_str(c, "refused_why"))
		text_addf(out, "REFUSED      the last change, all is as before: %s\n", js_str(c, "refused_why"));
}

/* "overload     refuse: memory 93% of the cgroup's 128M, ..." */
static void put_overload(struct text *out, const json_t *o)
{
	const json_t *m = json_object_get(o, "memory"), *g = json_object_get(m, "cgroup"), *fd = json_object_get(o, "descriptors"),
		     *cpu = json_object_get(o, "cpu");

	if (!o)
		return; /* an older aditd */
	text_addf(out, "overload     %s: memory %" PRIu64 "%%", js_bool(o, "enabled") ? js_str(o, "level") : "off", js_u64(m, "percent"));
	if (json_is_object(g))
		text_addf(out, ", %" PRIu64 "%% of the cgroup's %s (sockets: %s)", js_u64(g, "percent"), js_bytes(g, "limit"),
			  js_bytes(g, "sockets"));
	text_addf(out, ", descriptors %" PRIu64 "%%, CPU %" PRIu64 "%%\n", js_u64(fd, "percent"), js_u64(cpu, "busy_percent"));
}

int cmd_status(struct ctl *c)
{
	struct text out = {0};
	json_t *o = NULL;
	int r = ctl_call(c, "GET", ADIT_API_STATUS, NULL, &o);

	if (r != CTL_OK || !o)
		return r;
	text_addf(&out, "node         %s\n", js_str(o, "node"));
	text_addf(&out, "version      %s, wolfSSL %s\n", js_str(o, "version"), js_str(o, "wolfssl"));
	text_addf(&out, "state        %s, up %s, pid %" PRIu64 ", %" PRIu64 " workers\n",
		  js_bool(o, "draining") ? "draining"
		  : js_bool(o, "ready")	 ? "ready"
					 : "starting",
		  js_time(o, "uptime_us"), js_u64(o, "pid"), js_u64(o, "workers"));
	if (js_u64(o, "stuck_workers"))
		text_addf(&out, "STUCK        %" PRIu64 " workers do not turn: see the log, /healthz/live\n", js_u64(o, "stuck_workers"));
	put_kernel(&out, json_object_get(o, "kernel"));
	put_config(&out, o);
	text_addf(&out, "connections  %" PRIu64 "\n", js_u64(o, "connections"));
	text_addf(&out, "tunnels      %" PRIu64 " in, %" PRIu64 " out, %" PRIu64 " streams\n", js_u64(o, "tunnels_in"),
		  js_u64(o, "tunnels_out"), js_u64(o, "streams"));
	text_addf(&out, "buffers      %s of %s\n", js_bytes(o, "buffered"), js_bytes(o, "memory_limit"));
	put_overload(&out, json_object_get(o, "overload"));
	if (js_u64(o, "access_log_dropped"))
		text_addf(&out, "access log   %" PRIu64 " records dropped\n", js_u64(o, "access_log_dropped"));
	json_decref(o);
	return ctl_print(c, &out);
}

/* ---- listener ---- */

static const struct table_col listener_cols[] = {
	{.head = "NAME"},
	{.head = "TYPE"},
	{.head = "ADDRESS"},
	{.head = "TO", .shrink = true},
	{.head = "ROUTES", .right = true},
	{.head = "ACTIVE", .right = true},
	{.head = "ACCEPTED", .right = true},
	{.head = "FAILED", .right = true},
	{.head = "IN", .right = true},
	{.head = "OUT", .right = true},
	{.head = "MAX", .right = true, .wide = true},
	{.head = "TLS", .wide = true},
	{.head = "LOG", .wide = true},
	{.head = "NETNS", .wide = true},
	{.head = "TAKES", .wide = true},
};

static void put_listener(struct table *t, const json_t *o)
{
	const json_t *tls = json_object_get(o, "tls");

	table_add(t, js_str(o, "name"));
	table_add(t, js_str(o, "type"));
	table_add(t, js_str(o, "address"));
	table_add(t, js_str(o, "to"));
	table_addf(t, "%" PRIu64, js_u64(o, "routes"));
	table_addf(t, "%" PRIu64, js_u64(o, "active"));
	table_addf(t, "%" PRIu64, js_u64(o, "accepted"));
	table_addf(t, "%" PRIu64, js_u64(o, "failed"));
	table_add(t, js_bytes(o, "bytes_in"));
	table_add(t, js_bytes(o, "bytes_out"));
	if (js_u64(o, "max_connections"))
		table_addf(t, "%" PRIu64, js_u64(o, "max_connections"));
	else
		table_add(t, NULL);
	table_add(t, !tls ? NULL : json_is_true(tls) ? js_str(o, "identity") : "off");
	table_add(t, js_bool(o, "access_log") ? "yes" : "no");
	table_add(t, js_str(o, "netns"));
	table_addf(t, "%s%s%s", json_object_get(o, "capture") ? "captured " : "", json_object_get(o, "steer") ? "steered " : "",
		   js_bool(o, "proxy_protocol") ? "PROXY" : "");
}

int cmd_listener(struct ctl *c)
{
	return show_list(c, ADIT_API_LISTENERS, "listeners", listener_cols, ARRAY_LEN(listener_cols), put_listener,
			 "no listeners");
}

/* ---- chain ---- */

static const struct table_col chain_cols[] = {{.head = "ENTRY"}, {.head = "CHAIN"}, {.head = "WHEN", .shrink = true}};

static void put_chain(struct table *t, const json_t *o)
{
	table_add(t, js_str(o, "entry"));
	table_add(t, js_str(o, "chain"));
	table_add(t, js_str(o, "when"));
}

int cmd_chain(struct ctl *c)
{
	return show_list(c, ADIT_API_CHAINS, "chains", chain_cols, ARRAY_LEN(chain_cols), put_chain, "no chains");
}

/* ---- cluster ---- */

static const struct table_col cluster_cols[] = {
	{.head = "CLUSTER"},
	{.head = "TYPE"},
	{.head = "ENDPOINT", .shrink = true},
	{.head = "ADDRESS"},
	{.head = "ACTIVE", .right = true},
	{.head = "TOTAL", .right = true},
	{.head = "FAILED", .right = true},
	{.head = "TUNNELS", .right = true},
	{.head = "QUEUED", .right = true},
	{.head = "BALANCE", .wide = true},
	{.head = "IDENTITY", .wide = true},
};

static void put_cluster_tail(struct table *t, const json_t *o)
{
	const json_t *tls = json_object_get(o, "tls");

	table_add(t, js_str(o, "balance"));
	table_add(t, !tls ? NULL : json_is_true(tls) ? js_str(o, "identity") : "off");
}

static void put_no_endpoint(struct table *t, const json_t *o)
{
	const json_t *dests = json_object_get(o, "destinations");
	struct text list = {0};

	for (size_t i = 0; i < json_array_size(dests); i++)
		text_addf(&list, "%s%s", i ? " " : "", json_string_value(json_array_get(dests, i)));
	table_add(t, js_str(o, "name"));
	table_add(t, js_str(o, "type"));
	table_add(t, *js_str(o, "listener") ? js_str(o, "listener") : list.s);
	for (int k = 0; k < 6; k++)
		table_add(t, NULL);
	put_cluster_tail(t, o);
	text_finish(&list);
}

static void put_cluster(struct table *t, const json_t *o)
{
	const json_t *list = json_object_get(o, "endpoints");

	if (json_array_size(list) == 0)
		put_no_endpoint(t, o);
	for (size_t i = 0; i < json_array_size(list); i++) {
		const json_t *e = json_array_get(list, i);

		table_add(t, js_str(o, "name"));
		table_add(t, js_str(o, "type"));
		table_add(t, js_str(e, "endpoint"));
		table_add(t, js_bool(e, "resolved") ? js_str(e, "address") : "not resolved");
		table_addf(t, "%" PRIu64, js_u64(e, "active"));
		table_addf(t, "%" PRIu64, js_u64(e, "total"));
		table_addf(t, "%" PRIu64, js_u64(e, "failed"));
		table_addf(t, "%" PRIu64, js_u64(e, "tunnels"));
		table_addf(t, "%" PRIu64, js_u64(e, "queued"));
		put_cluster_tail(t, o);
	}
}

int cmd_cluster(struct ctl *c)
{
	return show_list(c, ADIT_API_CLUSTERS, "clusters", cluster_cols, ARRAY_LEN(cluster_cols), put_cluster,
			 "no clusters");
}

/* ---- tunnel ---- */

static const struct table_col tunnel_cols[] = {
	{.head = "ID", .right = true},
	{.head = "DIR"},
	{.head = "STATE"},
	{.head = "PEER"},
	{.head = "IDENTITY", .shrink = true, .tail = true},
	{.head = "STREAMS", .right = true},
	{.head = "TOTAL", .right = true},
	{.head = "RX", .right = true},
	{.head = "TX", .right = true},
	{.head = "RTT", .right = true},
	{.head = "AGE", .right = true},
	{.head = "IDLE", .right = true},
	{.head = "ENGINE"},
	{.head = "WHY", .shrink = true},
	{.head = "WORKER", .right = true, .wide = true},
	{.head = "LOCAL", .wide = true},
	{.head = "OF", .wide = true},
	{.head = "CIPHER", .wide = true},
	{.head = "QUEUED", .right = true, .wide = true},
	{.head = "SEND-WINDOW", .right = true, .wide = true},
	{.head = "RECV-WINDOW", .right = true, .wide = true},
	{.head = "CERT-EXPIRES", .wide = true},
};

static void add_date(struct table *t, uint64_t unix_s)
{
	char out[32];
	time_t s = (time_t)unix_s;
	struct tm tm;

	if (unix_s && gmtime_r(&s, &tm) && strftime(out, sizeof(out), "%Y-%m-%dT%H:%MZ", &tm))
		table_add(t, out);
	else
		table_add(t, NULL);
}

static void put_tunnel(struct table *t, const json_t *o)
{
	table_addf(t, "%" PRIu64, js_u64(o, "id"));
	table_add(t, js_str(o, "dir"));
	table_add(t, js_str(o, "state"));
	table_add(t, js_str(o, "peer"));
	table_add(t, js_str(o, "peer_identity"));
	table_addf(t, "%" PRIu64 "/%" PRIu64, js_u64(o, "streams"), js_u64(o, "max_streams"));
	table_addf(t, "%" PRIu64, js_u64(o, "streams_total"));
	table_add(t, js_bytes(o, "rx_bytes"));
	table_add(t, js_bytes(o, "tx_bytes"));
	table_add(t, js_u64(o, "rtt_us") ? js_time(o, "rtt_us") : NULL);
	table_add(t, js_time(o, "age_us"));
	table_add(t, js_time(o, "idle_us"));
	if (*js_str(o, "engine_tx") && strcmp(js_str(o, "engine_tx"), js_str(o, "engine_rx")) != 0)
		table_addf(t, "%s/%s", js_str(o, "engine_tx"), js_str(o, "engine_rx")); /* send/receive */
	else
		table_add(t, js_str(o, "engine"));
	table_add(t, js_str(o, "why"));
	table_addf(t, "%" PRIu64, js_u64(o, "worker"));
	table_add(t, js_str(o, "local"));
	table_add(t, *js_str(o, "cluster") ? js_str(o, "cluster") : js_str(o, "listener"));
	table_add(t, js_str(o, "cipher"));
	table_add(t, js_bytes(o, "tx_queued"));
	table_addf(t, "%lld", (long long)json_integer_value(json_object_get(o, "send_window")));
	table_addf(t, "%lld", (long long)json_integer_value(json_object_get(o, "recv_window")));
	add_date(t, js_u64(o, "cert_expires"));
}

int cmd_tunnel(struct ctl *c)
{
	AUTO_FREE char *path = NULL;
	struct text p = {0};

	text_add(&p, ADIT_API_TUNNELS);
	ctl_query(&p, c);
	if (!text_ok(&p)) {
		text_finish(&p);
		return ctl_fail(c, CTL_FAILED, "out of memory");
	}
	path = p.s;
	return show_list(c, path, "tunnels", tunnel_cols, ARRAY_LEN(tunnel_cols), put_tunnel, "no tunnels");
}
