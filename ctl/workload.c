/* aditctl workload: whose connections are, and as whom they leave. */
#include "base/clean.h"
#include "ctl.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>

static const struct table_col cols[] = {
	{.head = "WORKLOAD"},
	{.head = "IDENTITY"},
	{.head = "SPIFFE-ID", .shrink = true, .tail = true},
	{.head = "CONNS", .right = true},
	{.head = "ACTIVE", .right = true},
	{.head = "REFUSED", .right = true},
	{.head = "MATCH", .shrink = true},
	{.head = "SERVES", .shrink = true},
	{.head = "NAMESPACE", .wide = true},
	{.head = "SERVICE", .wide = true},
	{.head = "VERSION", .wide = true},
};

/* "source 10.0.0.0/8 10.1.0.1, uids 1000" */
static void put_conditions(struct table *t, const json_t *o)
{
	struct text out = {0};
	const char *key;
	const json_t *list, *v;
	size_t i;

	json_object_foreach ((json_t *)(uintptr_t)o, key, list) {
		text_addf(&out, "%s%s", out.len ? ", " : "", key);
		json_array_foreach (list, i, v) {
			if (json_is_string(v))
				text_addf(&out, " %s", json_string_value(v));
			else
				text_addf(&out, " %" JSON_INTEGER_FORMAT, json_integer_value(v));
		}
	}
	table_add(t, out.s);
	t->failed |= out.failed;
	text_finish(&out);
}

static void put_workload(struct table *t, const json_t *o)
{
	table_add(t, json_is_null(json_object_get(o, "name")) ? "(none)" : js_str(o, "name"));
	table_add(t, js_str(o, "identity"));
	table_add(t, js_str(o, "spiffe_id"));
	table_addf(t, "%" PRIu64, js_u64(o, "connections"));
	table_addf(t, "%" PRIu64, js_u64(o, "active"));
	table_addf(t, "%" PRIu64, js_u64(o, "refused"));
	put_conditions(t, json_object_get(o, "match"));
	put_conditions(t, json_object_get(o, "serves"));
	table_add(t, js_str(o, "namespace"));
	table_add(t, js_str(o, "service"));
	table_add(t, js_str(o, "version"));
}

int cmd_workload(struct ctl *c)
{
	struct text out = {0};
	const json_t *list;
	struct table t;
	json_t *o = NULL;
	int r = ctl_call(c, "GET", ADIT_API_WORKLOADS, NULL, &o);

	if (r != CTL_OK || !o)
		return r;
	list = json_object_get(o, "workloads");
	table_init(&t, cols, ARRAY_LEN(cols));
	for (size_t i = 0; i < json_array_size(list); i++)
		put_workload(&t, json_array_get(list, i));
	if (json_array_size(list) > 1)
		table_print(&t, &out, c->width, c->output == OUT_WIDE);
	else
		text_add(&out, "no workloads: everything here has the identity that its cluster or listener names\n");
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}
