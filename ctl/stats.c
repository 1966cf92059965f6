/* Counters: as a table of what is not zero, and as Prometheus text. */
#include "base/clean.h"
#include "ctl.h"
#include "http.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <stdio.h>

static const struct table_col cols[] = {{.head = "NAME"}, {.head = "VALUE", .right = true}};
static const struct table_col latency_cols[] = {
	{.head = "LATENCY"},
	{.head = "COUNT", .right = true},
	{.head = "P50", .right = true},
	{.head = "P90", .right = true},
	{.head = "P99", .right = true},
	{.head = "MAX", .right = true},
};

static void put_numbers(struct table *t, json_t *o, const char *prefix, bool zeros)
{
	const char *key;
	json_t *v;

	json_object_foreach(o, key, v) {
		if (!zeros && json_integer_value(v) == 0)
			continue;
		table_addf(t, "%s%s", prefix, key);
		table_addf(t, "%lld", (long long)json_integer_value(v));
	}
}

static void put_latencies(struct table *t, json_t *o)
{
	static const char *const quantiles[] = {"p50_us", "p90_us", "p99_us", "max_us"};
	const char *key;
	json_t *v;

	json_object_foreach(o, key, v) {
		table_add(t, key);
		table_addf(t, "%" PRIu64, js_u64(v, "count"));
		for (size_t i = 0; i < ARRAY_LEN(quantiles); i++)
			table_add(t, js_u64(v, "count") ? js_time(v, quantiles[i]) : NULL);
	}
}

int cmd_stats(struct ctl *c)
{
	const bool zeros = c->n_words || c->output == OUT_WIDE;
	struct text out = {0}, path = {0};
	json_t *o = NULL, *resets, *latencies;
	struct table t;
	bool none;
	int r;

	if (c->n_words > 1)
		return ctl_usage(c, "want one pattern at the most; quote it");
	text_add(&path, ADIT_API_STATS);
	http_query(&path, "match", c->n_words ? c->word[0] : NULL);
	r = text_ok(&path) ? ctl_call(c, "GET", path.s, NULL, &o) : ctl_fail(c, CTL_FAILED, "out of memory");
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	resets = json_object_get(o, "resets");
	latencies = json_object_get(o, "latencies");
	table_init(&t, cols, ARRAY_LEN(cols));
	put_numbers(&t, json_object_get(o, "gauges"), "", zeros);
	put_numbers(&t, json_object_get(o, "counters"), "", zeros);
	put_numbers(&t, json_object_get(resets, "received"), "resets_received.", zeros);
	put_numbers(&t, json_object_get(resets, "sent"), "resets_sent.", zeros);
	none = t.n_cells == 0;
	if (!none)
		table_print(&t, &out, 0, true);
	table_finish(&t);
	table_init(&t, latency_cols, ARRAY_LEN(latency_cols));
	put_latencies(&t, latencies);
	if (!none && t.n_cells)
		text_add(&out, "\n");
	if (t.n_cells)
		table_print(&t, &out, 0, true);
	else if (none)
		text_addf(&out, "%s\n",
			  c->n_words ? "nothing matches; 'aditctl stats -o wide' shows all names" : "all zero");
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}

int cmd_metrics(struct ctl *c)
{
	c->output = OUT_JSON; /* as it comes: the text is for machines already */
	return ctl_call(c, "GET", ADIT_API_METRICS, NULL, NULL);
}
