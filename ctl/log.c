/* The daemon's log: levels, for good or for a while, and what the rates have held back. */
#include "base/clean.h"
#include "ctl.h"
#include "human.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>

static const struct table_col level_cols[] = {{.head = "AREA"}, {.head = "LEVEL"}, {.head = "CONFIGURED"}, {.head = "FOR"}};
static const struct table_col kind_cols[] = {
	{.head = "KIND OF LINE"},
	{.head = "AREA"},
	{.head = "AT THE MOST"},
	{.head = "HELD BACK", .right = true},
};

static int show(struct ctl *c, json_t *o)
{
	struct text out = {0};
	char t[HUMAN];
	struct table tab;
	json_t *v;
	size_t i;

	table_init(&tab, level_cols, ARRAY_LEN(level_cols));
	json_array_foreach(json_object_get(o, "levels"), i, v) {
		table_add(&tab, js_str(v, "area"));
		table_add(&tab, js_str(v, "level"));
		table_add(&tab, js_str(v, "configured"));
		table_add(&tab, json_object_get(v, "for_ms") ? human_time(js_u64(v, "for_ms") * 1000, t) : NULL);
	}
	table_print(&tab, &out, c->width, false);
	table_finish(&tab);
	table_init(&tab, kind_cols, ARRAY_LEN(kind_cols));
	json_array_foreach(json_object_get(o, "kinds"), i, v) {
		if (!js_u64(v, "suppressed") && c->output != OUT_WIDE)
			continue;
		table_add(&tab, js_str(v, "kind"));
		table_add(&tab, js_str(v, "area"));
		table_addf(&tab, "%" PRIu64 " per %s", js_u64(v, "lines"), human_time(js_u64(v, "every_ms") * 1000, t));
		table_addf(&tab, "%" PRIu64, js_u64(v, "suppressed"));
	}
	if (tab.n_cells) {
		text_add(&out, "\n");
		table_print(&tab, &out, c->width, false);
	}
	table_finish(&tab);
	if (js_u64(o, "lost"))
		text_addf(&out, "\n%" PRIu64 " lines were lost: whoever reads the log was too slow\n", js_u64(o, "lost"));
	return ctl_print(c, &out);
}

/* AREA=LEVEL or LEVEL, which is for all */
static bool level_add(struct json *j, const char *word)
{
	const char *eq = strchr(word, '=');
	char area[64];

	if (eq == word || (eq && ((size_t)(eq - word) >= sizeof(area) || !eq[1])) || !*word)
		return false;
	snprintf(area, sizeof(area), "%.*s", eq ? (int)(eq - word) : 0, word);
	json_str(j, eq ? area : "all", eq ? eq + 1 : word);
	return true;
}

static int set_body(struct ctl *c, struct text *body)
{
	struct json j;
	uint64_t ms = 0;

	if (c->n_words < 2)
		return ctl_usage(c, "set: want AREA=LEVEL, or a LEVEL for all areas");
	if (c->for_time && (!human_ms(c->for_time, &ms) || !ms))
		return ctl_usage(c, "--for '%s': want a time like 30s, 10m or 1h", c->for_time);
	json_init(&j, body, false);
	json_open(&j, NULL, '{');
	json_open(&j, "levels", '{');
	for (uint32_t i = 1; i < c->n_words; i++)
		if (!level_add(&j, c->word[i]))
			return ctl_usage(c, "'%s': want AREA=LEVEL", c->word[i]);
	json_close(&j, '}');
	if (ms)
		json_u64(&j, "for_ms", ms);
	json_close(&j, '}');
	return CTL_OK;
}

static int reset_body(struct ctl *c, struct text *body)
{
	struct json j;

	if (c->for_time)
		return ctl_usage(c, "reset: --for is for set");
	json_init(&j, body, false);
	json_open(&j, NULL, '{');
	json_open(&j, "reset", '[');
	for (uint32_t i = 1; i < c->n_words; i++)
		json_str(&j, NULL, c->word[i]);
	if (c->n_words == 1)
		json_str(&j, NULL, "all");
	json_close(&j, ']');
	json_close(&j, '}');
	return CTL_OK;
}

int cmd_log(struct ctl *c)
{
	const char *what = c->n_words ? c->word[0] : "list";
	struct text body = {0};
	json_t *o = NULL;
	int r = CTL_OK;

	if (!strcmp(what, "list"))
		r = c->n_words > 1 || c->for_time ? ctl_usage(c, "list: unexpected '%s'", c->n_words > 1 ? c->word[1] : "--for") : CTL_OK;
	else if (!strcmp(what, "set"))
		r = set_body(c, &body);
	else if (!strcmp(what, "reset"))
		r = reset_body(c, &body);
	else
		r = ctl_usage(c, "'%s': want list, set or reset", what);
	if (r == CTL_OK && !text_ok(&body))
		r = ctl_fail(c, CTL_FAILED, "out of memory");
	if (r == CTL_OK)
		r = ctl_call(c, body.len ? "PUT" : "GET", ADIT_API_LOG, body.s, &o);
	text_finish(&body);
	if (r != CTL_OK || !o)
		return r;
	r = show(c, o);
	json_decref(o);
	return r;
}
