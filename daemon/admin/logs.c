/*
 * The daemon's own log: levels, for good or for a while, what the rates have held back; and what a live trace is asked with (stream.c
 * carries it). Also their metrics.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/tracing.h"
#include "obs/logging.h"
#include "obs/metrics.h"
#include "obs/trace.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

#define FOR_MAX_MS (7ull * 86400 * 1000)

static void put_levels(struct json *j)
{
	uint64_t now = logging_now_ms(), until;
	enum log_level home, l;

	json_open(j, "levels", '[');
	for (uint32_t i = 0; i < LA_AREAS; i++) {
		l = log_level_of(i, &home, &until);
		json_open(j, NULL, '{');
		json_str(j, "area", log_area_str(i));
		json_str(j, "level", log_level_str(l));
		json_str(j, "configured", log_level_str(home));
		if (until)
			json_u64(j, "for_ms", until > now ? until - now : 0);
		json_close(j, '}');
	}
	json_close(j, ']');
}

void api_log(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct json j;

	(void)req;
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	put_levels(&j);
	json_open(&j, "kinds", '[');
	for (uint32_t k = 0; k < LOG_KINDS; k++) {
		const struct log_kind_info *i = log_kind_info(k);

		json_open(&j, NULL, '{');
		json_str(&j, "kind", i->name);
		json_str(&j, "area", log_area_str(i->area));
		json_u64(&j, "lines", i->lines);
		json_u64(&j, "every_ms", i->every_ms);
		json_u64(&j, "suppressed", log_suppressed(k));
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_u64(&j, "lost", log_dropped());
	json_u64(&j, "traces", tracing_running(a->d));
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* {"levels": {"AREA": "LEVEL"}, "for_ms": N} or {"reset": ["AREA", ...]}; all or nothing */
void api_log_set(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	json_t *o = api_body_object(req, ans), *levels = NULL, *reset = NULL, *v;
	json_int_t for_ms = 0;
	json_error_t e;
	size_t i;

	if (!o)
		return;
	if (json_unpack_ex(o, &e, JSON_STRICT, "{s?o, s?I, s?o}", "levels", &levels, "for_ms", &for_ms, "reset", &reset) < 0 ||
	    !levels == !reset || for_ms < 0 || (uint64_t)for_ms > FOR_MAX_MS || (levels && !json_is_object(levels)) ||
	    (reset && (!json_is_array(reset) || !json_array_size(reset) || for_ms))) {
		api_fail(ans, 400, "want {\"levels\": {\"AREA\": \"LEVEL\"}, \"for_ms\": N}, at most seven days, or {\"reset\": [\"AREA\"]}");
	} else if (levels) {
		if (api_levels_apply(levels, for_ms ? logging_now_ms() + (uint64_t)for_ms : 0, ans))
			api_log(a, req, ans);
	} else {
		json_array_foreach(reset, i, v)
			if (!json_is_string(v) || (log_area_find(json_string_value(v)) < 0 && strcmp(json_string_value(v), "all"))) {
				api_fail(ans, 400, "unknown log area '%.32s'",
					 json_is_string(v) ? json_string_value(v) : "(no text)");
				json_decref(o);
				return;
			}
		json_array_foreach(reset, i, v) {
			log_level_reset(json_string_value(v));
			log_info(LA_ADMIN, "log level of %s is as configured", json_string_value(v));
		}
		api_log(a, req, ans);
	}
	json_decref(o);
}

/* ---- live traces ---- */

static bool number_arg(const struct api_req *req, const char *name, uint64_t *ret, struct api_answer *ans)
{
	const char *s = api_arg(req, name);

	*ret = 0;
	if (!s || (api_number(s, ret) && *ret))
		return true;
	api_fail(ans, 400, "%s '%.32s': want a whole number above 0", name, s);
	return false;
}

void api_trace(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const char *format = api_arg(req, "format"), *listener = api_arg(req, "listener");
	const struct config *cfg;
	struct err e = {""};
	bool known = false;

	if (trace_parse(api_arg(req, "conn"), api_arg(req, "peer"), listener, api_arg(req, "level"), &ans->ask.filter, &e) < 0) {
		api_fail(ans, 400, "%s", e.msg);
		return;
	}
	if (format && strcmp(format, "json") && strcmp(format, "text")) {
		api_fail(ans, 400, "format '%.32s': want json or text", format);
		return;
	}
	if (!number_arg(req, "for_ms", &ans->ask.for_ms, ans) || !number_arg(req, "count", &ans->ask.count, ans))
		return;
	cfg = inspect_config(a->d);
	for (uint32_t i = 0; listener && cfg && i < cfg->n_listeners; i++)
		known |= !strcmp(cfg->listeners[i].name, listener);
	if (listener && !known) {
		api_fail(ans, 404, "no listener '%.64s'; GET %s shows them", listener, ADIT_API_LISTENERS);
		return;
	}
	ans->ask.json = !format || !strcmp(format, "json");
	ans->type = ans->ask.json ? "application/x-ndjson" : "text/plain; charset=utf-8";
	ans->streams = true;
}

/* ---- metrics ---- */

void api_add_logs(struct text *t, struct daemon *d)
{
	static const char name[] = "adit_log_suppressed_total";

	metrics_family(t, name, METRICS_COUNTER, "log lines held back by their kind's rate");
	for (uint32_t k = 0; k < LOG_KINDS; k++) {
		const struct log_kind_info *i = log_kind_info(k);
		const struct metrics_label l[] = {{"area", log_area_str(i->area)}, {"kind", i->name}};

		metrics_u64(t, name, l, ARRAY_LEN(l), log_suppressed(k));
	}
	metrics_family(t, "adit_log_lost_total", METRICS_COUNTER, "log lines lost because their reader was too slow");
	metrics_u64(t, "adit_log_lost_total", NULL, 0, log_dropped());
	metrics_family(t, "adit_traces", METRICS_GAUGE, "live traces");
	metrics_u64(t, "adit_traces", NULL, 0, tracing_running(d));
	metrics_family(t, "adit_trace_lost_total", METRICS_COUNTER, "events of live traces that found no room in a worker's buffer");
	metrics_u64(t, "adit_trace_lost_total", NULL, 0, tracing_lost(d));
}
