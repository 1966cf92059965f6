/* What changes something, and what asks nobody: log levels, reload, config check (offline), version. */
#include "base/clean.h"
#include "config/config.h"
#include "ctl.h"
#include "http.h"
#include "human.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#ifndef ADIT_VERSION
#define ADIT_VERSION "unknown"
#endif

/* ---- log-level ---- */

/* AREA=LEVEL ... or LEVEL alone, which is for all areas, as JSON */
static int level_body(struct ctl *c, struct text *body)
{
	struct json j;

	json_init(&j, body, false);
	json_open(&j, NULL, '{');
	for (uint32_t i = 0; i < c->n_words; i++) {
		char area[64];
		const char *eq = strchr(c->word[i], '=');
		const size_t n = eq ? (size_t)(eq - c->word[i]) : 0;

		if ((eq && n == 0) || n >= sizeof(area) || !*(eq ? eq + 1 : c->word[i]))
			return ctl_usage(c, "'%s': want AREA=LEVEL", c->word[i]);
		snprintf(area, sizeof(area), "%.*s", (int)n, c->word[i]);
		json_str(&j, eq ? area : "all", eq ? eq + 1 : c->word[i]);
	}
	json_close(&j, '}');
	return text_ok(body) ? CTL_OK : ctl_fail(c, CTL_FAILED, "out of memory");
}

int cmd_log_level(struct ctl *c)
{
	static const struct table_col cols[] = {{.head = "AREA"}, {.head = "LEVEL"}};
	struct text body = {0}, out = {0};
	json_t *o = NULL, *v;
	struct table t;
	const char *key;
	int r = CTL_OK;

	if (c->n_words)
		r = level_body(c, &body);
	if (r == CTL_OK)
		r = ctl_call(c, c->n_words ? "PUT" : "GET", ADIT_API_LOG_LEVEL, body.s, &o);
	text_finish(&body);
	if (r != CTL_OK || !o)
		return r;
	table_init(&t, cols, ARRAY_LEN(cols));
	json_object_foreach(json_object_get(o, "levels"), key, v) {
		table_add(&t, key);
		table_add(&t, json_string_value(v));
	}
	table_print(&t, &out, 0, false);
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}

/* ---- reload ---- */

int cmd_reload(struct ctl *c)
{
	struct text out = {0};
	json_t *o = NULL, *v;
	size_t i;
	int r = ctl_call(c, "POST", ADIT_API_RELOAD, NULL, &o);

	if (r != CTL_OK || !o)
		return r;
	json_array_foreach(json_object_get(o, "changes"), i, v) {
		text_addf(&out, "%s\n", json_string_value(v));
	}
	if (!out.len)
		text_add(&out, "nothing has changed\n");
	json_decref(o);
	return ctl_print(c, &out);
}

/* ---- config check: the daemon's own loader, without a daemon ---- */

static int check_said(struct ctl *c, const char *file, int r, const struct err *e)
{
	struct text out = {0};
	struct json j;

	if (c->output == OUT_JSON) {
		json_init(&j, &out, true);
		json_open(&j, NULL, '{');
		json_bool(&j, "ok", r == 0);
		json_str(&j, "file", file);
		if (r < 0)
			json_str(&j, "error", e->msg);
		json_close(&j, '}');
		text_add(&out, "\n");
	} else if (r == 0) {
		text_addf(&out, "%s: ok\n", file);
	} else {
		fprintf(c->err, "%s\n", e->msg); /* alone, so that editors find FILE:LINE:COLUMN */
	}
	if (ctl_print(c, &out) != CTL_OK || r < 0)
		return CTL_FAILED;
	return CTL_OK;
}

int cmd_config(struct ctl *c)
{
	const char *file = c->n_words > 1 ? c->word[1] : ADIT_CONFIG_FILE;
	struct config *conf = NULL;
	struct err e = {""};
	int r;

	if (c->n_words == 0 || strcmp(c->word[0], "check"))
		return ctl_usage(c, "want: config check [FILE]");
	if (c->n_words > 2)
		return ctl_usage(c, "check: unexpected '%s'", c->word[2]);
	r = config_load(file, &conf, &e);
	if (r == 0)
		config_free(conf);
	else if (!*e.msg)
		snprintf(e.msg, sizeof(e.msg), "%s: %s", file, strerror(-r));
	return check_said(c, file, r < 0 ? r : 0, &e);
}

/* ---- version ---- */

int cmd_version(struct ctl *c)
{
	struct http_answer a = {0};
	struct text out = {0};
	struct err e = {""};
	json_t *o = NULL;
	struct json j;

	/* the daemon's version if there is one; that there is none is no error here */
	if (http_call(c->socket, "GET", ADIT_API_STATUS, NULL, 0, &a, &e) == 0 && a.status == 200)
		o = json_loadb(a.body.s ? a.body.s : "", a.body.len, 0, NULL);
	if (c->output == OUT_JSON) {
		json_init(&j, &out, true);
		json_open(&j, NULL, '{');
		json_str(&j, "aditctl", ADIT_VERSION);
		json_str(&j, "aditd", o ? js_str(o, "version") : NULL);
		json_close(&j, '}');
		text_add(&out, "\n");
	} else {
		text_addf(&out, "aditctl %s\n", ADIT_VERSION);
		if (o)
			text_addf(&out, "aditd   %s, wolfSSL %s\n", js_str(o, "version"), js_str(o, "wolfssl"));
		else
			text_add(&out, "aditd   not reachable\n");
	}
	json_decref(o);
	text_finish(&a.body);
	return ctl_print(c, &out);
}
