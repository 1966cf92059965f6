/*
 * Who was denied lately. Equal denials are one row, so a row may come again with --follow: when its count has grown.
 */
#include "base/clean.h"
#include "ctl.h"
#include "explain.h"
#include "http.h"
#include "human.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define FOLLOW_MS 1000

static const struct table_col cols[] = {
	{.head = "TIME"},
	{.head = "COUNT", .right = true},
	{.head = "KIND"},
	{.head = "SOURCE"},
	{.head = "IDENTITY", .shrink = true, .tail = true},
	{.head = "LISTENER"},
	{.head = "DESTINATION", .shrink = true},
	{.head = "BY"},
	{.head = "WHY", .shrink = true},
	{.head = "EXPLAIN"},
	{.head = "SINCE", .wide = true},
	{.head = "CLUSTER", .wide = true},
};

/* the time of today, the date of other days */
static const char *when(uint64_t us, uint64_t now_us, char out[32])
{
	time_t s = (time_t)(us / 1000000u);
	bool recent = now_us - us < 86400000000u;
	struct tm tm;

	if (!localtime_r(&s, &tm) || !strftime(out, 32, recent ? "%H:%M:%S" : "%Y-%m-%d %H:%M", &tm))
		return "-";
	return out;
}

static void put_row(struct table *t, const json_t *o, uint64_t now_us)
{
	const char *id = js_str(o, "src_identity");
	char time[32];

	table_add(t, when(js_u64(o, "last_us"), now_us, time));
	table_addf(t, "%" PRIu64, js_u64(o, "count"));
	table_add(t, js_str(o, "kind"));
	table_add(t, js_str(o, "src"));
	table_add(t, strncmp(id, "spiffe://", 9) ? id : id + 9);
	table_add(t, *js_str(o, "listener") ? js_str(o, "listener") : js_str(o, "cluster"));
	table_add(t, *js_str(o, "dst") ? js_str(o, "dst") : js_str(o, "authority"));
	table_add(t, js_str(o, "policy"));
	table_add(t, js_str(o, "why"));
	table_add(t, js_str(o, "explain"));
	table_add(t, when(js_u64(o, "first_us"), now_us, time));
	table_add(t, js_str(o, "cluster"));
}

/* Return: enum ctl_exit; *ret NULL when it was printed already (-o json) */
static int ask(struct ctl *c, const char *limit, json_t **ret)
{
	struct text path = {0};
	char ms[32];
	uint64_t v;
	int r;

	text_add(&path, ADIT_API_DENIED);
	http_query(&path, "limit", limit);
	http_query(&path, "listener", c->listener);
	if (c->since && !human_ms(c->since, &v)) {
		text_finish(&path);
		return ctl_usage(c, "--since '%s': want a time like 30s, 5m or 1h", c->since);
	}
	if (c->since) {
		snprintf(ms, sizeof(ms), "%" PRIu64, v);
		http_query(&path, "since_ms", ms);
	}
	r = text_ok(&path) ? ctl_call(c, "GET", path.s, NULL, ret) : ctl_fail(c, CTL_FAILED, "out of memory");
	text_finish(&path);
	return r;
}

/* rows whose last denial was after @after; the oldest first when they follow. Return: how many. */
static size_t add_rows(struct table *t, const json_t *o, uint64_t after, bool oldest_first)
{
	const json_t *list = json_object_get(o, "denied");
	size_t n = json_array_size(list), shown = 0;

	for (size_t i = 0; i < n; i++) {
		const json_t *d = json_array_get(list, oldest_first ? n - 1 - i : i);

		if (js_u64(d, "last_us") <= after)
			continue;
		put_row(t, d, js_u64(o, "now_us"));
		shown++;
	}
	return shown;
}

static uint64_t newest(const json_t *o, uint64_t otherwise)
{
	const json_t *first = json_array_get(json_object_get(o, "denied"), 0);

	return first ? js_u64(first, "last_us") : otherwise;
}

static int follow(struct ctl *c, uint64_t seen, bool headed)
{
	const struct timespec wait = {.tv_sec = FOLLOW_MS / 1000};

	for (;;) {
		struct text out = {0};
		struct table t;
		json_t *o = NULL;
		int r;

		nanosleep(&wait, NULL);
		r = ask(c, "0", &o);
		if (r != CTL_OK || !o)
			return r;
		table_init(&t, cols, ARRAY_LEN(cols));
		if (add_rows(&t, o, seen, true))
			table_print(&t, &out, c->width, c->output == OUT_WIDE);
		seen = newest(o, seen);
		table_finish(&t);
		json_decref(o);
		if (out.s && !headed) {
			headed = true;
		} else if (out.s) { /* without its head */
			char *line = strchr(out.s, '\n');

			memmove(out.s, line + 1, out.len - (size_t)(line + 1 - out.s) + 1);
			out.len = strlen(out.s);
		}
		r = ctl_print(c, &out);
		if (r != CTL_OK)
			return r;
	}
}

int cmd_denied(struct ctl *c)
{
	struct text out = {0};
	struct table t;
	json_t *o = NULL;
	uint64_t seen;
	size_t n;
	int r;

	if (c->follow && c->output == OUT_JSON)
		return ctl_usage(c, "--follow is for people: -o json gives what there is");
	r = ask(c, c->limit, &o);
	if (r != CTL_OK || !o)
		return r;
	table_init(&t, cols, ARRAY_LEN(cols));
	n = add_rows(&t, o, 0, c->follow);
	seen = newest(o, 0);
	if (n)
		table_print(&t, &out, c->width, c->output == OUT_WIDE);
	else if (!c->follow)
		text_addf(&out, "%s\n", js_u64(o, "total") ? "no denial matches" : "nobody was denied");
	if (js_u64(o, "matched") > n)
		text_addf(&out, "%" PRIu64 " more; --limit 0 shows all\n", js_u64(o, "matched") - n);
	table_finish(&t);
	json_decref(o);
	r = ctl_print(c, &out);
	return r == CTL_OK && c->follow ? follow(c, seen, n > 0) : r;
}
