/*
 * Workloads: `workloads:` of all files, one list in the order of the files. Which one a connection is of decides which certificate it gets,
 * so nothing is guessed: an empty list, a match without a condition, a listener that no application connects to are refused.
 *
 * What a workload says of itself lies over what the node says: a key that it gives replaces the node's, metadata and headers by name. What
 * it does not give is the node's, but for `workload`, whose default is the workload's name.
 */
#include "base/clean.h"
#include "base/log.h"
#include "config/build.h"
#include "model/workload.h"
#include <ctype.h>
#include <string.h>

/* ---- identity: of listeners and clusters */

int names_owner(struct build *b, const struct tree_node *item, const struct where *w, bool *ret_by_workload, struct cfg_identity **ret)
{
	const struct tree_entry *own = tree_get(item, "identity"), *otherwise = tree_get(item, "identity_default");
	const struct where in = {.up = w, .key = "identity_default"};
	const struct tree_node *n = own ? own->value : NULL;
	uint32_t i;
	int r;

	*ret_by_workload = n && n->kind == TREE_SCALAR && !strcmp(n->text, "workload") &&
			   (b->workloads.n || names_find(&b->identities, "workload") == UINT32_MAX);
	if (!*ret_by_workload && otherwise)
		return say_at(b->err, otherwise->key, w, "'identity_default' is for 'identity: workload'");
	if (!*ret_by_workload)
		return names_identity(b, n, item, w, ret);
	if (!b->workloads.n)
		return say_at(b->err, n, &(struct where){.up = w, .key = "identity"}, "there are no 'workloads' to have one of");
	if (names_find(&b->identities, "workload") != UINT32_MAX)
		return say_at(b->err, n, &(struct where){.up = w, .key = "identity"},
			      "an identity has the name 'workload', which stands for that of the workload: name it otherwise");
	if (!otherwise)
		return 0;
	r = names_refer(b, &b->identities, "identity", otherwise->value, &in, &i);
	if (r >= 0)
		*ret = &b->c->identities[i];
	return r;
}

/* ---- lists */

static int span_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	const struct cidr *c = &((struct cidr *)arg)[index];
	char q[SAY_QUOTED];
	int r = cidr_item(b, n, w, index, arg);

	if (r >= 0 && c->port_last)
		return say_at(b->err, n, w, "%s: no port here: want an address or a network", say_quote(q, n->text, n->n));
	return r;
}

/* @all: room for them. An empty list would match nothing, and looks as if it matched anything */
static int list_of(struct build *b, const struct tree_node *n, const struct where *w, schema_item *item, size_t size, void *ret,
		   uint32_t *ret_n)
{
	void *all = arena_array(&b->own->arena, schema_count(n), size);
	int r;

	if (!all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, true, BUILD_LIST, item, all);
	if (r < 0)
		return r;
	if (!schema_count(n))
		return say_at(b->err, n, w, "is empty: nothing would match; leave the key out for any");
	memcpy(ret, &all, sizeof(all));
	*ret_n = schema_count(n);
	return 0;
}

int spans_read(struct build *b, const struct tree_node *n, const struct where *w, struct cidr **ret, uint32_t *ret_n)
{
	return list_of(b, n, w, span_item, sizeof(struct cidr), ret, ret_n);
}

static int entrance_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	uint32_t *id = &((uint32_t *)arg)[index];
	int r = names_refer(b, &b->listeners, "listener", n, w, id);

	if (r >= 0 && b->c->listeners[*id].type != LISTENER_TCP)
		return say_at(b->err, n, w, "'%s' is no tcp listener: no application of this node connects to it", b->c->listeners[*id].name);
	return r;
}

/* letters, digits, - _ and dots; "*." may stand in front */
static int server_name_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	char q[SAY_QUOTED], *s;
	const char *text, *p;
	int r = value_text(b, n, w, 253, &text);

	if (r < 0)
		return r;
	s = arena_text(&b->own->arena, text, n->n);
	if (!s)
		return say_no_memory(b->err);
	for (char *c = s; *c; c++)
		*c = (char)tolower((uint8_t)*c);
	p = s[0] == '*' && s[1] == '.' ? s + 2 : s;
	if (!*p || *p == '.' || p[strlen(p) - 1] == '.' || strstr(p, "..") ||
	    p[strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789-_.")])
		return say_at(b->err, n, w, "%s: want a host name, or \"*.\" and one", say_quote(q, n->text, n->n));
	((const char **)arg)[index] = s;
	return 0;
}

#define LIST(function, item, type, list)                                                                         \
	static int function(struct build *b, const struct tree_node *n, const struct where *w, void *base)       \
	{                                                                                                        \
		struct cfg_workload *l = base;                                                                   \
                                                                                                                 \
		return list_of(b, n, w, item, sizeof(type), &l->list, &l->n_##list);                             \
	}
LIST(source_read, span_item, struct cidr, source)
LIST(addresses_read, span_item, struct cidr, addresses)
LIST(listeners_of, entrance_item, uint32_t, listeners)
LIST(server_names_read, server_name_item, const char *, server_names)

/* ---- tables */

#define W(m) .off = offsetof(struct cfg_workload, m)

static const struct field match_fields[] = {
	{.key = "source", .kind = F_CALL, .call = source_read},
	{.key = "cgroups", .kind = F_CALL, .call = cgroups_read, W(cgroups)},
	{.key = "uids", .kind = F_CALL, .call = uids_read, W(uids)},
	{.key = "listeners", .kind = F_CALL, .call = listeners_of},
	{.key = NULL},
};
static const struct table match_table = {.fields = match_fields};

static const struct field serves_fields[] = {
	{.key = "addresses", .kind = F_CALL, .call = addresses_read},
	{.key = "server_names", .kind = F_CALL, .call = server_names_read},
	{.key = NULL},
};
static const struct table serves_table = {.fields = serves_fields};

static int part_read(struct build *b, const struct table *t, const struct tree_node *n, const struct where *w, void *base, const char *keys)
{
	int r = schema_read(b, t, 0, n, w, base);

	return r >= 0 && !n->n ? say_at(b->err, n, w, "is empty: want at least one of %s", keys) : r;
}

static int match_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	return part_read(b, &match_table, n, w, base, "source, cgroups, uids and listeners");
}

static int serves_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	return part_read(b, &serves_table, n, w, base, "addresses and server_names");
}

#define TEXT(name, member)                                      \
	{                                                       \
		.key = name, .kind = F_CALL, .call = node_text_read, W(node.member) \
	}

static const struct field workload_fields[] = {
	{.key = "name", .kind = F_KNOWN, .required = true},
	{.key = "identity", .kind = F_KNOWN},
	{.key = "match", .kind = F_CALL, .call = match_read},
	{.key = "serves", .kind = F_CALL, .call = serves_read},
	TEXT("namespace", namespace_),
	TEXT("workload", workload),
	TEXT("service", service),
	TEXT("version", version),
	{.key = "workload_type", .kind = F_CALL, .call = node_workload_type_read, W(node)},
	{.key = "metadata", .kind = F_CALL, .call = node_metadata_read, W(node), .may_be_empty = true},
	{.key = "request_headers", .kind = F_CALL, .call = node_request_headers_read, W(node), .may_be_empty = true},
	{.key = "response_headers", .kind = F_CALL, .call = node_response_headers_read, W(node), .may_be_empty = true},
	{.key = NULL},
};
static const struct table workload_table = {.fields = workload_fields};

/* ---- what is said: the node's under the workload's own */

static bool has_key(const struct cfg_kv *all, uint32_t n, const char *key)
{
	for (uint32_t i = 0; i < n; i++)
		if (!strcmp(all[i].key, key))
			return true;
	return false;
}

static int lay_over(struct build *b, const struct cfg_kv *under, uint32_t n_under, struct cfg_kv **over, uint32_t *n_over)
{
	struct cfg_kv *all = arena_array(&b->own->arena, n_under + *n_over, sizeof(*all));
	uint32_t n = *n_over;

	if (!all)
		return say_no_memory(b->err);
	if (n)
		memcpy(all, *over, n * sizeof(*all));
	for (uint32_t i = 0; i < n_under; i++)
		if (!has_key(all, *n_over, under[i].key))
			all[n++] = under[i];
	*over = all;
	*n_over = n;
	return 0;
}

static int node_under(struct build *b, struct cfg_workload *l)
{
	const struct cfg_node *node = &b->c->node;
	struct cfg_node *own = &l->node;
	int r = lay_over(b, node->metadata, node->n_metadata, &own->metadata, &own->n_metadata);

	if (r >= 0)
		r = lay_over(b, node->request_headers, node->n_request_headers, &own->request_headers, &own->n_request_headers);
	if (r >= 0)
		r = lay_over(b, node->response_headers, node->n_response_headers, &own->response_headers, &own->n_response_headers);
	if (!own->workload)
		own->workload = l->name;
	return r;
}

/* ---- one, and all */

static void suspicious(const struct tree_node *at, const struct cfg_workload *l)
{
	bool loopback = l->n_source && !l->n_cgroups && !l->n_uids && !l->n_listeners;

	for (uint32_t i = 0; i < l->n_source; i++)
		loopback &= addr_is_loopback(&l->source[i].net) && l->source[i].bits >= 8;
	if (loopback)
		log_warn(LA_CONFIG, "%s:%u:%u: workloads[%u] '%s': any process of this node may connect from these loopback addresses: "
			 "cgroups or uids say whose it is", say_file(at->file), at->line, at->col, l->id, l->name);
}

static int workload_read(struct build *b, const struct tree_node *n, const struct where *w, struct cfg_workload *l)
{
	const struct tree_entry *identity = tree_get(n, "identity"), *match = tree_get(n, "match"), *serves = tree_get(n, "serves");
	int r;

	l->node = b->c->node;
	l->node.workload = NULL;
	l->node.metadata = l->node.request_headers = l->node.response_headers = NULL;
	l->node.n_metadata = l->node.n_request_headers = l->node.n_response_headers = 0;
	r = schema_read(b, &workload_table, 0, n, w, l);
	if (r < 0)
		return r;
	if (!match && !serves)
		return say_at(b->err, n, w, "would be nobody's: want 'match' (connections that it opens), 'serves' (what peers ask for), or both");
	if (identity || b->c->n_identities) {
		r = names_identity(b, identity ? identity->value : NULL, n, w, &l->identity);
		if (r < 0)
			return r;
	}
	suspicious(n, l);
	return node_under(b, l);
}

int workloads_read(struct build *b)
{
	struct config *c = b->c;
	int r;

	c->workloads = arena_array(&b->own->arena, b->workloads.n, sizeof(*c->workloads));
	if (!c->workloads)
		return say_no_memory(b->err);
	c->n_workloads = b->workloads.n;
	for (uint32_t i = 0; i < c->n_workloads; i++) {
		struct cfg_workload *l = &c->workloads[b->workloads.sorted[i].index];

		l->name = b->workloads.sorted[i].name;
		l->id = b->workloads.sorted[i].index;
	}
	for (uint32_t i = 0; i < c->n_workloads; i++) {
		struct where w = {.key = "workloads", .item = true, .index = i, .name = c->workloads[i].name};

		r = workload_read(b, b->workloads.at[i], &w, &c->workloads[i]);
		if (r < 0)
			return r;
	}
	return 0;
}
