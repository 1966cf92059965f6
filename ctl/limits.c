/* aditctl limits: what is used of each limit, whom it refused, and who of a class was refused most. */
#include "base/clean.h"
#include "ctl.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>

static const struct table_col limit_cols[] = {
	{.head = "AT"},
	{.head = "NAME", .shrink = true},
	{.head = "ACTIVE", .right = true},
	{.head = "MAX", .right = true},
	{.head = "RATE", .right = true},
	{.head = "BURST", .right = true},
	{.head = "LEFT", .right = true},
	{.head = "REFUSED", .right = true},
	{.head = "BY-RATE", .right = true},
	{.head = "TUNNELS/S", .right = true, .wide = true},
	{.head = "REFUSED", .right = true, .wide = true},
	{.head = "KNOWN", .right = true, .wide = true},
	{.head = "ROOM", .right = true, .wide = true},
	{.head = "OVERFLOWED", .right = true, .wide = true},
};

static void put_max(struct table *t, const json_t *o, const char *key)
{
	if (js_u64(o, key))
		table_addf(t, "%" PRIu64, js_u64(o, key));
	else
		table_add(t, NULL);
}

/* a number where there is such a limit */
static void put_number(struct table *t, const json_t *o, const char *key)
{
	if (json_is_integer(json_object_get(o, key)))
		table_addf(t, "%" PRIu64, js_u64(o, key));
	else
		table_add(t, NULL);
}

static void put_limit(struct table *t, const json_t *o)
{
	const json_t *rate = json_object_get(o, "rate");

	table_add(t, js_str(o, "at"));
	table_add(t, js_str(o, "name"));
	table_addf(t, "%" PRIu64, js_u64(o, "active"));
	put_max(t, o, "max_connections");
	put_number(t, rate, "per_second");
	put_number(t, rate, "burst");
	put_number(t, o, "left");
	put_number(t, o, "refused_connections");
	put_number(t, o, "refused_rate");
	put_number(t, json_object_get(o, "tunnel_rate"), "per_second");
	put_number(t, o, "refused_tunnels");
	put_number(t, o, "subjects");
	put_number(t, o, "remember");
	put_number(t, o, "overflowed");
}

static const struct table_col subject_cols[] = {
	{.head = "AT"},
	{.head = "NAME"},
	{.head = "WHO", .shrink = true, .tail = true},
	{.head = "ACTIVE", .right = true},
	{.head = "LEFT", .right = true},
	{.head = "REFUSED", .right = true},
	{.head = "BY-RATE", .right = true},
	{.head = "IDLE", .right = true},
};

static void put_subject(struct table *t, const json_t *o)
{
	table_add(t, js_str(o, "at"));
	table_add(t, js_str(o, "name"));
	table_add(t, js_bool(o, "overflow") ? "(all others together)" : js_str(o, "who"));
	table_addf(t, "%" PRIu64, js_u64(o, "active"));
	put_number(t, o, "left");
	put_number(t, o, "refused_connections");
	put_number(t, o, "refused_rate");
	table_add(t, js_time(o, "idle_us"));
}

static void add_list(struct text *out, const struct ctl *c, const json_t *list, const struct table_col *cols, uint32_t n_cols,
		     void (*put)(struct table *t, const json_t *o))
{
	struct table t;

	table_init(&t, cols, n_cols);
	for (size_t i = 0; i < json_array_size(list); i++)
		put(&t, json_array_get(list, i));
	table_print(&t, out, c->width, c->output == OUT_WIDE);
	table_finish(&t);
}

int cmd_limits(struct ctl *c)
{
	struct text path = {0}, out = {0};
	const json_t *subjects;
	json_t *o = NULL;
	int r;

	text_add(&path, ADIT_API_LIMITS);
	ctl_query(&path, c);
	r = text_ok(&path) ? ctl_call(c, "GET", path.s, NULL, &o) : ctl_fail(c, CTL_FAILED, "out of memory");
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	add_list(&out, c, json_object_get(o, "limits"), limit_cols, ARRAY_LEN(limit_cols), put_limit);
	subjects = json_object_get(o, "subjects");
	if (json_array_size(subjects)) {
		text_add(&out, "\n");
		add_list(&out, c, subjects, subject_cols, ARRAY_LEN(subject_cols), put_subject);
	}
	json_decref(o);
	return ctl_print(c, &out);
}
