/* The kernel plane: what this node's kernel does for the agent, what it cannot and why, and the switch of the bypass. */
#include "base/clean.h"
#include "ctl.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>

/* nothing is cut: a reason says at its end what to do */
static const struct table_col cols[] = {{.head = "NAME"}, {.head = "STATE"}, {.head = "WHY OR DETAIL"}};

static void put_means(struct table *t, const json_t *o)
{
	table_add(t, js_str(o, "name"));
	table_add(t, js_str(o, "state"));
	if (*js_str(o, "why") && *js_str(o, "detail")) /* on, but not in all it could be */
		table_addf(t, "%s (%s)", js_str(o, "detail"), js_str(o, "why"));
	else
		table_add(t, *js_str(o, "why") ? js_str(o, "why") : js_str(o, "detail"));
}

/* "order 12, reader 3": why the gate sent messages by TCP */
static void put_refused(struct text *out, const json_t *bypass)
{
	const char *reason, *comma = "bypass, messages that went by TCP: ";
	json_t *v;

	json_object_foreach(json_object_get(bypass, "refused"), reason, v) {
		if (json_integer_value(v) <= 0)
			continue;
		text_addf(out, "%s%s %" JSON_INTEGER_FORMAT, comma, reason, json_integer_value(v));
		comma = ", ";
	}
	if (*comma == ',')
		text_add(out, "\n");
}

static int kernel_show(struct ctl *c)
{
	const json_t *list, *bypass;
	struct text out = {0};
	json_t *o = NULL;
	struct table t;
	int r = ctl_call(c, "GET", ADIT_API_KERNEL, NULL, &o);

	if (r != CTL_OK || !o)
		return r;
	text_addf(&out, "Linux %s\n", js_str(o, "release"));
	table_init(&t, cols, ARRAY_LEN(cols));
	list = json_object_get(o, "means");
	for (size_t i = 0; i < json_array_size(list); i++)
		put_means(&t, json_array_get(list, i));
	table_print(&t, &out, 0, false);
	table_finish(&t);
	bypass = json_object_get(o, "bypass");
	if (json_is_object(bypass)) {
		text_addf(&out,
			  "bypass, since the start: %" PRIu64 " joined, %" PRIu64 " legs, %" PRIu64 " refused, %" PRIu64 " demoted, %s in %" PRIu64
			  " messages; %" PRIu64 " of %" PRIu64 " slots used\n",
			  js_u64(bypass, "joins"), js_u64(bypass, "legs"), js_u64(bypass, "refused_joins"), js_u64(bypass, "demoted"),
			  js_bytes(bypass, "bytes"), js_u64(bypass, "messages"), js_u64(bypass, "slots_used"), js_u64(bypass, "slots"));
		put_refused(&out, bypass);
	}
	json_decref(o);
	return ctl_print(c, &out);
}

static int kernel_bypass(struct ctl *c)
{
	const bool on = c->n_words == 2 && !strcmp(c->word[1], "on");
	struct text out = {0};
	json_t *o = NULL;
	int r;

	if (c->n_words != 2 || (!on && strcmp(c->word[1], "off")))
		return ctl_usage(c, "bypass: want on or off");
	r = ctl_call(c, "POST", ADIT_API_KERNEL_BYPASS, on ? "{\"on\": true}" : "{\"on\": false}", &o);
	if (r != CTL_OK || !o)
		return r;
	json_decref(o);
	text_add(&out, on ? "bypass is on\n" : "bypass is off: what was in it goes by TCP, through the agent\n");
	return ctl_print(c, &out);
}

int cmd_kernel(struct ctl *c)
{
	if (c->n_words == 0)
		return kernel_show(c);
	if (!strcmp(c->word[0], "bypass"))
		return kernel_bypass(c);
	return ctl_usage(c, "'%s': want nothing, or bypass on|off", c->word[0]);
}
