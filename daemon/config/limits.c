/*
 * Limits that are more than a number: rates, the classes of limits.principals and limits.sources, and the section `overload`.
 *
 * A class without a limit would do nothing but keep those who match it from a later one; that is meant sometimes ("this one has no limit"),
 * so it is allowed. Steps of an overload that are in the wrong order are refused: whoever writes them has misunderstood something.
 */
#include "base/clean.h"
#include "config/build.h"
#include "policy/quota.h"
#include <stdio.h>
#include <string.h>

#define CLASSES 256u /* they are gone through one by one for each connection */

/* ---- rates ---- */

static const struct field rate_fields[] = {
	{.key = "per_second", .kind = F_U32, .off = offsetof(struct cfg_rate, per_second), .min = 1, .max = RATE_MAX, .required = true},
	{.key = "burst", .kind = F_U32, .off = offsetof(struct cfg_rate, burst), .min = 1, .max = RATE_MAX},
	{.key = NULL},
};
static const struct table rate_table = {.fields = rate_fields};

int rate_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct cfg_rate *r = to;
	int e = schema_read(b, &rate_table, 0, n, w, r);

	if (e >= 0 && !r->burst)
		r->burst = r->per_second;
	return e;
}

/* ---- principals, sources ---- */

static int ids_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct cfg_quota *q = to;

	if (n->kind == TREE_LIST && !n->n)
		return say_at(b->err, n, w, "is empty: nobody would match; leave the key out for anybody");
	return spiffes_read(b, n, w, &q->ids, &q->n_ids);
}

static int from_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct cfg_quota *q = to;

	if (n->kind == TREE_LIST && !n->n)
		return say_at(b->err, n, w, "is empty: nobody would match; leave the key out for any address");
	return cidrs_read(b, n, w, &q->from, &q->n_from);
}

#define Q(m) .off = offsetof(struct cfg_quota, m)
#define QUOTA_FIELDS                                                                  \
	{.key = "name", .kind = F_NAME, Q(name)},                                     \
	{.key = "max_connections", .kind = F_U32, Q(max_connections), .max = 10000000}, \
	{.key = "rate", .kind = F_CALL, .call = rate_read, Q(rate)},                  \
	{.key = "remember", .kind = F_U32, Q(remember), .min = 1, .max = QUOTA_SUBJECTS_MAX}

static const struct field principal_fields[] = {
	QUOTA_FIELDS,
	{.key = "match", .kind = F_CALL, .call = ids_read},
	{.key = NULL},
};
static const struct field source_fields[] = {
	QUOTA_FIELDS,
	{.key = "match", .kind = F_CALL, .call = from_read},
	{.key = "ipv4_prefix", .kind = F_U32, Q(v4_bits), .min = 8, .max = 32},
	{.key = "ipv6_prefix", .kind = F_U32, Q(v6_bits), .min = 16, .max = 128},
	{.key = NULL},
};
static const struct table principal_table = {.fields = principal_fields}, source_table = {.fields = source_fields};

struct classes {
	struct cfg_quota *all;
	const struct table *table;
	const char *key; /* of the list */
};

static int class_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	const struct classes *c = arg;
	struct cfg_quota *q = &c->all[index];
	char name[32], quoted[SAY_QUOTED];
	int r;

	q->remember = 4096;
	q->v4_bits = 32;
	q->v6_bits = 64;
	r = schema_read(b, c->table, 0, n, w, q);
	if (r < 0)
		return r;
	if (!q->name) {
		snprintf(name, sizeof(name), "%s/%u", c->key, index);
		q->name = arena_text(&b->own->arena, name, strlen(name));
		if (!q->name)
			return say_no_memory(b->err);
	}
	for (uint32_t i = 0; i < index; i++)
		if (!strcmp(c->all[i].name, q->name))
			return say_at(b->err, n, w, "name %s is taken: %s[%u] has it, too", say_quote(quoted, q->name, strlen(q->name)),
				      c->key, i);
	return 0;
}

static int classes_read(struct build *b, const struct tree_node *n, const struct where *w, struct classes *c, struct cfg_quota **ret,
			uint32_t *ret_n)
{
	int r;

	c->all = arena_array(&b->own->arena, schema_count(n), sizeof(*c->all));
	if (!c->all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, false, CLASSES, class_item, c);
	if (r < 0)
		return r;
	*ret = c->all;
	*ret_n = schema_count(n);
	return 0;
}

int principals_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct classes c = {.table = &principal_table, .key = "principals"};
	struct cfg_limits *l = to;

	return classes_read(b, n, w, &c, &l->principals, &l->n_principals);
}

int sources_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct classes c = {.table = &source_table, .key = "sources"};
	struct cfg_limits *l = to;

	return classes_read(b, n, w, &c, &l->sources, &l->n_sources);
}

/* ---- overload ---- */

/* "70%", or "off": 0 */
static int percent_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	char q[SAY_QUOTED];
	unsigned long v;
	char *end;

	if (n->kind == TREE_SCALAR && !strcmp(n->text, "off")) {
		*(uint32_t *)to = 0;
		return 0;
	}
	v = n->kind == TREE_SCALAR && n->text[0] >= '1' && n->text[0] <= '9' ? strtoul(n->text, &end, 10) : 0;
	if (v < 1 || v > 100 || strcmp(end, "%") != 0)
		return say_at(b->err, n, w, "%s: want a share from 1%% to 100%%, or off",
			      n->kind == TREE_SCALAR ? say_quote(q, n->text, n->n) : tree_kind_str(n));
	*(uint32_t *)to = (uint32_t)v;
	return 0;
}

#define S(m) .off = offsetof(struct cfg_steps, m)
static const struct field step_fields[] = {
	{.key = "shrink", .kind = F_CALL, .call = percent_read, S(shrink)},
	{.key = "close_idle", .kind = F_CALL, .call = percent_read, S(close_idle)},
	{.key = "refuse", .kind = F_CALL, .call = percent_read, S(refuse)},
	{.key = "pause", .kind = F_CALL, .call = percent_read, S(pause)},
	{.key = NULL},
};
static const struct table step_table = {.fields = step_fields};

static int steps_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	struct cfg_steps *s = to;
	const uint32_t at[] = {offsetof(struct cfg_steps, shrink), offsetof(struct cfg_steps, close_idle), offsetof(struct cfg_steps, refuse),
			       offsetof(struct cfg_steps, pause)};
	const char *before = "";
	uint32_t least = 0, v;
	int r = schema_read(b, &step_table, 0, n, w, s);

	for (uint32_t i = 0; r >= 0 && i < ARRAY_LEN(at); i++) {
		memcpy(&v, (char *)s + at[i], sizeof(v));
		if (!v)
			continue;
		if (v < least)
			return say_at(b->err, n, w, "%s (%u%%) comes before %s (%u%%): want shrink <= close_idle <= refuse <= pause",
				      step_fields[i].key, v, before, least);
		least = v;
		before = step_fields[i].key;
	}
	return r;
}

#define O(m) .off = offsetof(struct cfg_overload, m)
static const struct field cpu_fields[] = {
	{.key = "busy", .kind = F_CALL, .call = percent_read, O(cpu_busy)},
	{.key = "refuse", .kind = F_TIME, O(cpu_refuse_ms)},
	{.key = "pause", .kind = F_TIME, O(cpu_pause_ms)},
	{.key = NULL},
};
static const struct table cpu_table = {.fields = cpu_fields};

static const struct field overload_fields[] = {
	{.key = "enabled", .kind = F_BOOL, O(enabled)},
	{.key = "memory", .kind = F_CALL, .call = steps_read, O(memory), .may_be_empty = true},
	{.key = "descriptors", .kind = F_CALL, .call = steps_read, O(descriptors), .may_be_empty = true},
	{.key = "cpu", .kind = F_MAP, .table = &cpu_table, .may_be_empty = true},
	{.key = "idle", .kind = F_TIME, O(idle_ms), .min = 1},
	{.key = NULL},
};
const struct table overload_table = {.fields = overload_fields};

void overload_preset(struct cfg_overload *o)
{
	*o = (struct cfg_overload){
		.enabled = true,
		.memory = {70, 80, 90, 95},
		.descriptors = {70, 80, 90, 95},
		.cpu_busy = 95,
		.cpu_refuse_ms = 250,
		.cpu_pause_ms = 2000,
		.idle_ms = 10000,
	};
}
