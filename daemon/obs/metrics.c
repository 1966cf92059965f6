/*
 * Prometheus text exposition.
 *
 * What the format demands and scrapers refuse otherwise: one HELP and one TYPE line per family, before its samples; a family's
 * samples in one piece; no sample twice; label values with \, " and line feeds escaped; histogram buckets cumulative, the last
 * one +Inf and equal to _count.
 *
 * "No sample twice" is why series are merged here: each worker has its own table, and a pair of services that talks through
 * two workers has a series in both. All are sorted by labels, equal ones stand together and are summed. Full tables of
 * four workers (16,388 series, 21 MB of text) take 60 ms, on the main thread, per scrape.
 *
 * A counter that is read while its worker adds may be one event old, never torn (64-bit relaxed atomics).
 */
#include "obs/metrics.h"
#include "base/clean.h"
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *const type_str[] = {
	[METRICS_COUNTER] = "counter",
	[METRICS_GAUGE] = "gauge",
	[METRICS_HISTOGRAM] = "histogram",
};

static const char *const h2_code_str[STATS_H2_CODES] = {
	"NO_ERROR",
	"PROTOCOL_ERROR",
	"INTERNAL_ERROR",
	"FLOW_CONTROL_ERROR",
	"SETTINGS_TIMEOUT",
	"STREAM_CLOSED",
	"FRAME_SIZE_ERROR",
	"REFUSED_STREAM",
	"CANCEL",
	"COMPRESSION_ERROR",
	"CONNECT_ERROR",
	"ENHANCE_YOUR_CALM",
	"INADEQUATE_SECURITY",
	"HTTP_1_1_REQUIRED",
};

struct stat_name {
	const char *name, *help;
};
static const struct stat_name counters[ST_COUNTERS] = {
#define X(id, name, help) [ST_##id] = {name, help},
	STATS_COUNTERS(X)
#undef X
};
static const struct stat_name gauges[SG_GAUGES] = {
#define X(id, name, help) [SG_##id] = {name, help},
	STATS_GAUGES(X)
#undef X
};

/* in the order in which Istio's proxies write them */
static const char *const series_label_str[SL_LABELS] = {
	[SL_REPORTER] = "reporter",
	[SL_SRC_WORKLOAD] = "source_workload",
	[SL_SRC_CANONICAL_SERVICE] = "source_canonical_service",
	[SL_SRC_CANONICAL_REVISION] = "source_canonical_revision",
	[SL_SRC_NAMESPACE] = "source_workload_namespace",
	[SL_SRC_PRINCIPAL] = "source_principal",
	[SL_SRC_APP] = "source_app",
	[SL_SRC_VERSION] = "source_version",
	[SL_SRC_CLUSTER] = "source_cluster",
	[SL_DST_SERVICE] = "destination_service",
	[SL_DST_SERVICE_NAMESPACE] = "destination_service_namespace",
	[SL_DST_SERVICE_NAME] = "destination_service_name",
	[SL_DST_WORKLOAD] = "destination_workload",
	[SL_DST_CANONICAL_SERVICE] = "destination_canonical_service",
	[SL_DST_CANONICAL_REVISION] = "destination_canonical_revision",
	[SL_DST_NAMESPACE] = "destination_workload_namespace",
	[SL_DST_PRINCIPAL] = "destination_principal",
	[SL_DST_APP] = "destination_app",
	[SL_DST_VERSION] = "destination_version",
	[SL_DST_CLUSTER] = "destination_cluster",
	[SL_REQUEST_PROTOCOL] = "request_protocol",
	[SL_RESPONSE_FLAGS] = "response_flags",
	[SL_SECURITY_POLICY] = "connection_security_policy",
	[SL_SRC_REGION] = "source_region",
	[SL_SRC_ZONE] = "source_zone",
	[SL_DST_REGION] = "destination_region",
	[SL_DST_ZONE] = "destination_zone",
};

/* upper bounds in microseconds, from a local connect to the time-outs */
static const uint64_t bucket_us[] = {50,    100,    250,    500,    1000,    2500,    5000,    10000,	25000,
				     50000, 100000, 250000, 500000, 1000000, 2500000, 5000000, 10000000};

const char *metrics_h2_code(uint32_t code)
{
	return code < STATS_H2_CODES ? h2_code_str[code] : NULL;
}

const char *metrics_counter_name(enum stats_counter c)
{
	return counters[c].name;
}

const char *metrics_gauge_name(enum stats_gauge g)
{
	return gauges[g].name;
}

/* ---- primitives ---- */

static void add_help(struct text *t, const char *s)
{
	for (; *s; s++) {
		if (*s == '\\')
			text_add(t, "\\\\");
		else if (*s == '\n')
			text_add(t, "\\n");
		else
			text_addn(t, s, 1);
	}
}

static void add_label_value(struct text *t, const char *s)
{
	size_t n = strlen(s), plain = 0; /* bytes before s + plain are not written yet */

	while (plain < n) {
		const unsigned char c = (unsigned char)s[plain];
		const char *sub = NULL;
		size_t len = c < 0x80 ? 1 : text_utf8(s + plain, n - plain);

		if (len == 0)
			sub = "\xef\xbf\xbd";
		else if (c == '\\')
			sub = "\\\\";
		else if (c == '"')
			sub = "\\\"";
		else if (c == '\n')
			sub = "\\n";
		if (!sub) {
			plain += len;
			continue;
		}
		text_addn(t, s, plain);
		text_add(t, sub);
		s += plain + 1;
		n -= plain + 1;
		plain = 0;
	}
	text_addn(t, s, n);
}

static void add_labels(struct text *t, const struct metrics_label *l, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++) {
		text_add(t, i ? "," : "{");
		text_add(t, l[i].name);
		text_add(t, "=\"");
		add_label_value(t, l[i].value ? l[i].value : "");
		text_add(t, "\"");
	}
	text_add(t, n ? "} " : " ");
}

void metrics_family(struct text *t, const char *name, enum metrics_type type, const char *help)
{
	text_addf(t, "# HELP %s ", name);
	add_help(t, help);
	text_addf(t, "\n# TYPE %s %s\n", name, type_str[type]);
}

void metrics_u64(struct text *t, const char *name, const struct metrics_label *l, uint32_t n, uint64_t v)
{
	text_add(t, name);
	add_labels(t, l, n);
	text_addf(t, "%" PRIu64 "\n", v);
}

void metrics_i64(struct text *t, const char *name, const struct metrics_label *l, uint32_t n, int64_t v)
{
	text_add(t, name);
	add_labels(t, l, n);
	text_addf(t, "%" PRId64 "\n", v);
}

void metrics_seconds(struct text *t, const char *name, const struct metrics_label *l, uint32_t n, uint64_t us)
{
	text_add(t, name);
	add_labels(t, l, n);
	text_addf(t, "%" PRIu64 ".%06" PRIu64 "\n", us / 1000000, us % 1000000);
}

/* ---- counters and gauges ---- */

static void add_resets(struct text *t, const char *direction, const _Atomic uint64_t *by_code)
{
	for (uint32_t i = 0; i < STATS_H2_CODES; i++) {
		const struct metrics_label l[] = {{"direction", direction}, {"code", h2_code_str[i]}};

		metrics_u64(t, "adit_rst_stream_codes_total", l, ARRAY_LEN(l),
			    atomic_load_explicit(&by_code[i], memory_order_relaxed));
	}
}

void metrics_stats(struct text *t, const struct stats *s)
{
	char name[96];

	for (uint32_t i = 0; i < ST_COUNTERS; i++) {
		snprintf(name, sizeof(name), "adit_%s_total", counters[i].name);
		metrics_family(t, name, METRICS_COUNTER, counters[i].help);
		metrics_u64(t, name, NULL, 0, atomic_load_explicit(&s->c[i], memory_order_relaxed));
	}
	for (uint32_t i = 0; i < SG_GAUGES; i++) {
		snprintf(name, sizeof(name), "adit_%s", gauges[i].name);
		metrics_family(t, name, METRICS_GAUGE, gauges[i].help);
		metrics_i64(t, name, NULL, 0, atomic_load_explicit(&s->g[i], memory_order_relaxed));
	}
	metrics_family(t, "adit_rst_stream_codes_total", METRICS_COUNTER,
		       "RST_STREAM frames by direction and HTTP/2 error code");
	add_resets(t, "received", s->rst_rx);
	add_resets(t, "sent", s->rst_tx);
}

/* ---- histograms ---- */

/* 2500000 us -> "2.5": the shortest decimal, the same in every scrape */
static void le_str(char out[24], uint64_t us)
{
	int n = snprintf(out, 24, "%" PRIu64 ".%06" PRIu64, us / 1000000, us % 1000000);

	while (n > 0 && out[n - 1] == '0')
		n--;
	if (n > 0 && out[n - 1] == '.')
		n--;
	out[n] = '\0';
}

void metrics_hist(struct text *t, const char *name, const char *help, const struct hist *us)
{
	uint64_t count = hist_below(us, UINT64_MAX); /* from the slots, so that it cannot contradict them */
	char part[96], le[24];

	metrics_family(t, name, METRICS_HISTOGRAM, help);
	snprintf(part, sizeof(part), "%s_bucket", name);
	for (uint32_t i = 0; i < ARRAY_LEN(bucket_us); i++) {
		const struct metrics_label l = {"le", le};

		le_str(le, bucket_us[i]);
		metrics_u64(t, part, &l, 1, hist_below(us, bucket_us[i]));
	}
	metrics_u64(t, part, &(const struct metrics_label){"le", "+Inf"}, 1, count);
	snprintf(part, sizeof(part), "%s_sum", name);
	metrics_seconds(t, part, NULL, 0, atomic_load_explicit(&us->sum, memory_order_relaxed));
	snprintf(part, sizeof(part), "%s_count", name);
	metrics_u64(t, part, NULL, 0, count);
}

/* ---- series ---- */

static const char *label_value(const struct series *s, uint32_t i)
{
	if (s->v[i] && *s->v[i])
		return s->v[i];
	return i == SL_RESPONSE_FLAGS ? "-" : "unknown";
}

static int labels_cmp(const struct series *a, const struct series *b)
{
	for (uint32_t i = 0; i < SL_LABELS; i++) {
		int r = strcmp(label_value(a, i), label_value(b, i));

		if (r)
			return r;
	}
	return 0;
}

static int series_cmp(const void *a, const void *b)
{
	return labels_cmp(*(const struct series *const *)a, *(const struct series *const *)b);
}

static const struct {
	const char *name, *help;
	size_t at;
} series_counters[] = {
	{"istio_tcp_connections_opened_total", "TCP connections opened", offsetof(struct series, opened)},
	{"istio_tcp_connections_closed_total", "TCP connections closed", offsetof(struct series, closed)},
	{"istio_tcp_connections_failed_total", "TCP connections that failed before they were established",
	 offsetof(struct series, failed)},
	{"istio_tcp_received_bytes_total", "bytes from client to server (the request direction)",
	 offsetof(struct series, received_bytes)},
	{"istio_tcp_sent_bytes_total", "bytes from server to client (the response direction)",
	 offsetof(struct series, sent_bytes)},
};
#define SERIES_COUNTERS ARRAY_LEN(series_counters)

/* all series with the same labels */
struct group {
	size_t label_at, label_len; /* their text, the same in each family */
	uint64_t sum[SERIES_COUNTERS];
};

static void group_start(struct group *g, const struct series *s, struct text *labels)
{
	struct metrics_label l[SL_LABELS];

	for (uint32_t i = 0; i < SL_LABELS; i++)
		l[i] = (struct metrics_label){series_label_str[i], label_value(s, i)};
	g->label_at = labels->len;
	add_labels(labels, l, SL_LABELS);
	g->label_len = labels->len - g->label_at;
}

static void group_add(struct group *g, const struct series *s)
{
	for (uint32_t i = 0; i < SERIES_COUNTERS; i++)
		g->sum[i] += atomic_load_explicit((const _Atomic uint64_t *)((const char *)s + series_counters[i].at),
						  memory_order_relaxed);
}

/* The overflow series is there from the start; it is told of when it counts something. */
static bool group_counts(const struct group *g)
{
	for (uint32_t i = 0; i < SERIES_COUNTERS; i++)
		if (g->sum[i])
			return true;
	return false;
}

void metrics_series(struct text *t, const struct series **list, size_t n)
{
	AUTO_FREE struct group *groups = calloc(n + 1, sizeof(*groups));
	struct text labels = {0};
	size_t n_groups = 0;

	if (!groups) {
		t->failed = true;
		return;
	}
	if (n)
		qsort(list, n, sizeof(*list), series_cmp);
	for (size_t i = 0; i < n; i++) {
		if (i == 0 || labels_cmp(list[i - 1], list[i]))
			group_start(&groups[n_groups++], list[i], &labels);
		group_add(&groups[n_groups - 1], list[i]);
	}
	if (!text_ok(&labels))
		t->failed = true;
	for (uint32_t k = 0; k < SERIES_COUNTERS && text_ok(t); k++) {
		metrics_family(t, series_counters[k].name, METRICS_COUNTER, series_counters[k].help);
		for (size_t i = 0; i < n_groups; i++) {
			if (!group_counts(&groups[i]))
				continue;
			text_add(t, series_counters[k].name);
			text_addn(t, labels.s + groups[i].label_at, groups[i].label_len);
			text_addf(t, "%" PRIu64 "\n", groups[i].sum[k]);
		}
	}
	text_finish(&labels);
}
