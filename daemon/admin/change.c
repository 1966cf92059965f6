/*
 * What changes something: log levels, drain, the bypass; and the judgement of a configuration, which reads files with the daemon's
 * rights and is therefore kept to the same people. Request bodies are JSON objects, parsed strictly: an unknown member is an
 * error, because a misspelt one would otherwise be ignored.
 */
#include "admin/api.h"
#include "base/log.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <jansson.h>
#include <string.h>

/* Return: the object, or NULL (and the answer is written). An empty body is an empty object. */
json_t *api_body_object(const struct api_req *req, struct api_answer *ans)
{
	json_error_t e;
	json_t *o;

	if (!req->body_len)
		return json_object();
	o = json_loadb(req->body, req->body_len, JSON_REJECT_DUPLICATES, &e);
	if (!o) {
		api_fail(ans, 400, "body is not JSON: line %d column %d: %s", e.line, e.column, e.text);
		return NULL;
	}
	if (!json_is_object(o)) {
		json_decref(o);
		api_fail(ans, 400, "body: want a JSON object, {...}");
		return NULL;
	}
	return o;
}

/* ---- log levels ---- */

void api_log_level(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct json j;

	(void)a;
	(void)req;
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "levels", '{');
	for (uint32_t i = 0; i < LA_AREAS; i++)
		json_str(&j, log_area_str(i), log_level_str(log_levels[i]));
	json_close(&j, '}');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

static bool area_known(const char *s)
{
	for (uint32_t i = 0; i < LA_AREAS; i++)
		if (!strcmp(s, log_area_str(i)))
			return true;
	return !strcmp(s, "all");
}

static bool level_known(const char *s)
{
	for (uint32_t i = 0; i < LOG_LEVELS; i++)
		if (!strcmp(s, log_level_str(i)))
			return true;
	return false;
}

static void add_names(struct text *t, const char *(*name)(uint32_t), uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		text_addf(t, "%s%s", i ? ", " : "", name(i));
}

static const char *area_name(uint32_t i)
{
	return log_area_str(i);
}

static const char *level_name(uint32_t i)
{
	return log_level_str(i);
}

static bool levels_known(json_t *o, struct api_answer *ans)
{
	struct text names = {0};
	const char *area;
	bool ok = true;
	json_t *v;

	json_object_foreach(o, area, v) {
		const char *level = json_string_value(v);

		if (!area_known(area)) {
			add_names(&names, area_name, LA_AREAS);
			api_fail(ans, 400, "unknown log area '%.32s'; there are: all, %s", area,
				 names.s ? names.s : "");
		} else if (!level || !level_known(level)) {
			add_names(&names, level_name, LOG_LEVELS);
			api_fail(ans, 400, "unknown log level '%.32s' for %s; there are: %s",
				 level ? level : "(no text)", area, names.s ? names.s : "");
		} else {
			continue;
		}
		ok = false;
		break;
	}
	text_finish(&names);
	return ok;
}

/* All or nothing; "all" first, so that {"all": "info", "tls": "debug"} means what it says in either order. */
bool api_levels_apply(json_t *o, uint64_t until_ms, struct api_answer *ans)
{
	const char *area, *all;
	json_t *v;

	if (json_object_size(o) == 0) {
		api_fail(ans, 400, "nothing to set: want {\"AREA\": \"LEVEL\"}, for instance {\"tls\": \"debug\"}");
		return false;
	}
	if (!levels_known(o, ans))
		return false;
	all = json_string_value(json_object_get(o, "all"));
	if (all)
		log_level_set_until("all", all, until_ms);
	json_object_foreach(o, area, v) {
		if (strcmp(area, "all"))
			log_level_set_until(area, json_string_value(v), until_ms);
		log_info(LA_ADMIN, "log level of %s is now %s%s", area, json_string_value(v), until_ms ? ", for a while" : "");
	}
	return true;
}

void api_log_level_set(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	json_t *o = api_body_object(req, ans);

	if (!o)
		return;
	if (api_levels_apply(o, 0, ans))
		api_log_level(a, req, ans);
	json_decref(o);
}

/* ---- reload ---- */

/* the report's lines as strings */
static void put_report(struct json *j, const struct text *report)
{
	const char *s = report->len ? report->s : "";

	json_open(j, "changes", '[');
	while (*s) {
		size_t n = strcspn(s, "\n");

		json_strn(j, NULL, s, n);
		s += n + (s[n] == '\n');
	}
	json_close(j, ']');
}

void api_reload(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct text report = {.s = NULL};
	struct err e = {""};
	struct json j;
	int r;

	(void)req;
	if (!a->ops.reload) {
		api_fail(ans, 501, "this daemon cannot read its configuration again");
		return;
	}
	r = a->ops.reload(a->ops.arg, &report, &e);
	if (r < 0) {
		api_fail(ans, r == -EBUSY || r == -ESHUTDOWN ? 409 : 422, "%s", *e.msg ? e.msg : strerror(-r));
	} else {
		json_init(&j, &ans->body, true);
		json_open(&j, NULL, '{');
		put_report(&j, &report);
		json_close(&j, '}');
		text_add(&ans->body, "\n");
	}
	text_finish(&report);
}

/* ---- drain ---- */

void api_drain(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const struct config *c = inspect_config(a->d);
	json_int_t within = c ? (json_int_t)c->timeouts.drain_ms : 0;
	json_t *o = api_body_object(req, ans);
	json_error_t e;
	struct json j;

	if (!o)
		return;
	if (!a->ops.drain) {
		api_fail(ans, 501, "this daemon cannot be drained through the API; send SIGTERM");
	} else if (json_unpack_ex(o, &e, JSON_STRICT, "{s?I}", "within_ms", &within) < 0 || within < 0) {
		api_fail(ans, 400, "want {\"within_ms\": N}, N milliseconds until connections are cut, or no body%s%s",
			 within < 0 ? "" : ": ", within < 0 ? "" : e.text);
	} else {
		log_info(LA_ADMIN, "drain asked for, within %" PRIu64 " ms", (uint64_t)within);
		a->ops.drain(a->ops.arg, (uint64_t)within);
		ans->status = 202;
		json_init(&j, &ans->body, true);
		json_open(&j, NULL, '{');
		json_bool(&j, "draining", true);
		json_u64(&j, "within_ms", (uint64_t)within);
		json_close(&j, '}');
		text_add(&ans->body, "\n");
	}
	json_decref(o);
}

/* ---- bypass ---- */

void api_kernel_bypass(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	json_t *o = api_body_object(req, ans);
	json_error_t e;
	struct json j;
	int on = -1, r;

	if (!o)
		return;
	if (json_unpack_ex(o, &e, JSON_STRICT, "{sb}", "on", &on) < 0) {
		api_fail(ans, 400, "want {\"on\": true} or {\"on\": false}: %s", e.text);
		json_decref(o);
		return;
	}
	json_decref(o);
	r = inspect_bypass(a->d, on);
	if (r == -ENOENT) {
		api_fail(ans, 409, "there is no bypass to switch; GET %s says why", ADIT_API_KERNEL);
		return;
	}
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_bool(&j, "on", on);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* ---- config check ---- */

/* A body that begins with '{' and is a JSON object with "path" alone names a file; anything else is YAML. */
static json_t *body_path(const struct api_req *req)
{
	json_t *o = json_loadb(req->body, req->body_len, JSON_REJECT_DUPLICATES, NULL);

	if (json_is_object(o) && json_object_size(o) == 1 && json_is_string(json_object_get(o, "path")))
		return o;
	json_decref(o);
	return NULL;
}

void api_config_check(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct err e = {""};
	json_t *o = NULL;
	struct json j;
	int r;

	if (!a->ops.check) {
		api_fail(ans, 501, "this daemon cannot check configurations; use: aditctl config check FILE");
		return;
	}
	if (!req->body_len) {
		api_fail(ans, 400, "no body: want the YAML text, or {\"path\": \"/etc/adit/adit.yaml\"}");
		return;
	}
	o = body_path(req);
	if (o)
		r = a->ops.check(a->ops.arg, json_string_value(json_object_get(o, "path")), NULL, 0, &e);
	else
		r = a->ops.check(a->ops.arg, "body", req->body, req->body_len, &e);
	json_decref(o);
	if (r < 0) {
		api_fail(ans, 422, "%s", *e.msg ? e.msg : strerror(-r));
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_bool(&j, "ok", true);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}
