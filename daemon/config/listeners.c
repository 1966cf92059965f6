/*
 * Listeners and their ways out: routes and default target. Every way out is also kept as an edge of the graph that check.c walks.
 */
#include "base/clean.h"
#include "config/build.h"
#include "policy/route.h"
#include <stdio.h>
#include <string.h>

#define TCP	 BIT(LISTENER_TCP)
#define TUNNEL	 BIT(LISTENER_TUNNEL)
#define INTERNAL BIT(LISTENER_INTERNAL)

static const char *const listener_types[] = {"tcp", "tunnel", "internal", NULL};
static const char *const spreads[] = {"source", "connection", NULL};

/* ---- string matches ---- */

static const char *const match_kinds[] = {"exact", "prefix",  "suffix",
					  "regex", "present", NULL}; /* enum cfg_match_kind */

static const struct field match_fields[] = {
	{.key = "exact", .kind = F_KNOWN},
	{.key = "prefix", .kind = F_KNOWN},
	{.key = "suffix", .kind = F_KNOWN},
	{.key = "regex", .kind = F_KNOWN},
	{.key = "present", .kind = F_KNOWN},
	{.key = "invert", .kind = F_BOOL, .off = offsetof(struct cfg_match, invert)},
	{.key = NULL},
};
static const struct table match_table = {.fields = match_fields};

static const struct field header_fields[] = {
	{.key = "name", .kind = F_KNOWN, .required = true},
	{.key = "exact", .kind = F_KNOWN},
	{.key = "prefix", .kind = F_KNOWN},
	{.key = "suffix", .kind = F_KNOWN},
	{.key = "regex", .kind = F_KNOWN},
	{.key = "present", .kind = F_KNOWN},
	{.key = "invert", .kind = F_BOOL, .off = offsetof(struct cfg_match, invert)},
	{.key = NULL},
};
static const struct table header_table = {.fields = header_fields};

static int regex_read(struct build *b, const struct tree_node *n, const struct where *w, struct cfg_match *m)
{
	struct build_regex *keep = arena_alloc(&b->own->arena, sizeof(*keep));
	struct err why = {""};
	int r;

	if (!keep)
		return say_no_memory(b->err);
	r = match_compile(m, &why);
	if (r == -ENOMEM)
		return say_no_memory(b->err);
	if (r < 0)
		return say_at(b->err, n, w, "%s", why.msg);
	keep->match = m;
	keep->next = b->own->regexes;
	b->own->regexes = keep;
	return 0;
}

/* the one of exact, prefix, ... that is there */
static int match_kind(struct build *b, const struct tree_node *n, const struct where *w, struct cfg_match *m)
{
	const struct tree_entry *e, *found = NULL;
	struct where in = {.up = w};
	bool present = true;
	uint32_t i;
	int r;

	for (i = 0; match_kinds[i]; i++) {
		e = tree_get(n, match_kinds[i]);
		if (e && found)
			return say_at(b->err, e->key, w, "'%s' beside '%s': want only one of them", match_kinds[i],
				      found->key->text);
		if (e) {
			found = e;
			m->kind = (enum cfg_match_kind)i;
		}
	}
	if (!found)
		return say_at(b->err, n, w, "want one of exact, prefix, suffix, regex or present");
	in.key = found->key->text;
	if (m->kind == MATCH_PRESENT) {
		r = value_bool(b, found->value, &in, &present);
		m->invert ^= !present;
		return r;
	}
	r = value_text(b, found->value, &in, BUILD_TEXT, &m->text);
	if (r < 0 || m->kind != MATCH_REGEX)
		return r;
	return regex_read(b, found->value, &in, m);
}

/* an :authority is matched in lower case; not the regexes, where \W is not \w */
static int authority_lower(struct build *b, struct cfg_match *m)
{
	char *s;

	if (!m->text || m->kind == MATCH_REGEX)
		return 0;
	s = arena_text(&b->own->arena, m->text, strlen(m->text));
	if (!s)
		return say_no_memory(b->err);
	m->text = s;
	for (; *s; s++)
		if (*s >= 'A' && *s <= 'Z')
			*s += 'a' - 'A';
	return 0;
}

static int authority_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_route *route = base;
	struct cfg_match *m = arena_alloc(&b->own->arena, sizeof(*m));
	int r;

	if (!m)
		return say_no_memory(b->err);
	route->authority = m;
	if (n->kind == TREE_SCALAR) {
		m->kind = MATCH_EXACT;
		r = value_text(b, n, w, BUILD_TEXT, &m->text);
	} else {
		r = schema_read(b, &match_table, 0, n, w, m);
		if (r >= 0)
			r = match_kind(b, n, w, m);
	}
	return r < 0 ? r : authority_lower(b, m);
}

static int header_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct cfg_header_match *h = &((struct cfg_header_match *)arg)[index];
	const struct tree_entry *name = tree_get(n, "name");
	char q[SAY_QUOTED], *s;
	const char *text;
	int r = schema_read(b, &header_table, 0, n, w, &h->match);

	if (r < 0)
		return r;
	r = value_text(b, name->value, &(struct where){.up = w, .key = "name"}, 256, &text);
	if (r < 0)
		return r;
	s = arena_text(&b->own->arena, text, strlen(text));
	if (!s)
		return say_no_memory(b->err);
	h->name = s;
	for (; *s; s++) {
		if (*s >= 'A' && *s <= 'Z')
			*s += 'a' - 'A';
		else if (!((*s >= 'a' && *s <= 'z') || (*s >= '0' && *s <= '9') || strchr("!#$%&'*+-.^_`|~", *s)))
			return say_at(b->err, name->value, &(struct where){.up = w, .key = "name"},
				      "%s is no header name: want letters, digits and - _ .",
				      say_quote(q, text, strlen(text)));
	}
	return match_kind(b, n, w, &h->match);
}

static int headers_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_route *route = base;
	struct cfg_header_match *all = arena_array(&b->own->arena, schema_count(n), sizeof(*all));
	int r;

	if (!all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, false, BUILD_HEADERS, header_item, all);
	if (r < 0)
		return r;
	route->headers = all;
	route->n_headers = schema_count(n);
	return 0;
}

int cidr_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct cidr *all = arg;
	struct err why = {""};

	if (n->kind != TREE_SCALAR || tree_null(n))
		return say_at(b->err, n, w, "want IP/BITS or IP/BITS:PORTS, not %s", tree_kind_str(n));
	if (cidr_parse(n->text, n->n, &all[index], &why) < 0)
		return say_at(b->err, n, w, "%s", why.msg);
	return 0;
}

int cidrs_read(struct build *b, const struct tree_node *n, const struct where *w, struct cidr **ret, uint32_t *ret_n)
{
	struct cidr *all = arena_array(&b->own->arena, schema_count(n), sizeof(*all));
	int r;

	if (!all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, true, BUILD_LIST, cidr_item, all);
	if (r < 0)
		return r;
	*ret = all;
	*ret_n = schema_count(n);
	return 0;
}

static int route_cidr_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_route *route = base;

	return cidrs_read(b, n, w, &route->cidr, &route->n_cidr);
}

static const struct field route_match_fields[] = {
	{.key = "authority", .kind = F_CALL, .call = authority_read},
	{.key = "cidr", .kind = F_CALL, .call = route_cidr_read},
	{.key = "port", .kind = F_U16, .off = offsetof(struct cfg_route, port), .min = 1, .max = 65535},
	{.key = "headers", .kind = F_CALL, .call = headers_read, .may_be_empty = true, .types = TUNNEL | INTERNAL},
	{.key = NULL},
};
static const struct table route_match_table = {
	.fields = route_match_fields, .what = "listener", .types = listener_types};

/* ---- targets ---- */

static int edge_add(struct build *b, const struct cfg_listener *l, uint32_t route, const struct tree_entry *from,
		    const struct cfg_target *t)
{
	struct build_edge *e = arena_alloc(&b->scratch, sizeof(*e)), **last;

	if (!e)
		return say_no_memory(b->err);
	e->at = from->value;
	e->key = from->key->text;
	e->route = route;
	e->target = t;
	last = b->last_edge[l->id] ? &b->last_edge[l->id]->next : &b->edges[l->id];
	*last = e;
	b->last_edge[l->id] = e;
	return 0;
}

/* 'cluster: x' where x is a listener, and the other way round */
static int target_mixed_up(struct build *b, const struct tree_entry *e, const struct where *w, bool listener)
{
	const struct build_names *right = listener ? &b->listeners : &b->clusters;
	const struct build_names *other = listener ? &b->clusters : &b->listeners;
	const char *is = listener ? "cluster" : "listener", *name = e->value->text;

	if (e->value->kind != TREE_SCALAR || names_find(right, name) != UINT32_MAX ||
	    names_find(other, name) == UINT32_MAX)
		return 0;
	return say_at(b->err, e->value, w, "'%s' is a %s: write '%s: %s'", name, is, is, name);
}

/* a target that exists, and is of a kind that can be one */
static int target_refer(struct build *b, const struct cfg_listener *l, const struct tree_entry *e,
			const struct where *w, struct cfg_target *t)
{
	bool forward = !strcmp(e->key->text, "forward"), listener = !strcmp(e->key->text, "listener");
	uint32_t i;
	int r;

	if (forward && l->type == LISTENER_TCP)
		return say_at(b->err, e->key, w, "a tcp listener has no CONNECT to forward; 'cluster' opens one");
	r = target_mixed_up(b, e, w, listener);
	if (r < 0)
		return r;
	r = names_refer(b, listener ? &b->listeners : &b->clusters, listener ? "listener" : "cluster", e->value, w, &i);
	if (r < 0)
		return r;
	if (listener) {
		t->listener = &b->c->listeners[i];
		if (t->listener->type == LISTENER_INTERNAL)
			return 0;
		return say_at(b->err, e->value, w,
			      "listener '%s' is of type %s: only internal listeners can be a target", t->listener->name,
			      listener_types[t->listener->type]);
	}
	t->cluster = &b->c->clusters[i];
	t->forward = forward;
	if (forward && t->cluster->type != CLUSTER_TUNNEL)
		return say_at(b->err, e->value, w,
			      "cluster '%s' is not of type tunnel: only a tunnel can take a CONNECT", t->cluster->name);
	return 0;
}

/* cluster:, listener: or forward:, one at the most; Return: 1 if there is one */
static int target_read(struct build *b, const struct cfg_listener *l, uint32_t route, const struct tree_node *n,
		       const struct where *w, struct cfg_target *t)
{
	static const char *const keys[] = {"cluster", "listener", "forward"};
	const struct tree_entry *e, *found = NULL;
	struct where in = {.up = w};
	size_t i;
	int r;

	for (i = 0; i < ARRAY_LEN(keys); i++) {
		e = tree_get(n, keys[i]);
		if (e && found)
			return say_at(b->err, e->key, w, "'%s' beside '%s': want one target", keys[i],
				      found->key->text);
		if (e)
			found = e;
	}
	if (!found)
		return 0;
	in.key = found->key->text;
	r = target_refer(b, l, found, &in, t);
	if (r < 0)
		return r;
	r = edge_add(b, l, route, found, t);
	return r < 0 ? r : 1;
}

/* ---- routes ---- */

static const struct field route_fields[] = {
	{.key = "name", .kind = F_NAME, .off = offsetof(struct cfg_route, name)},
	{.key = "match", .kind = F_KNOWN},
	{.key = "cluster", .kind = F_KNOWN},
	{.key = "listener", .kind = F_KNOWN},
	{.key = "forward", .kind = F_KNOWN},
	{.key = NULL},
};
static const struct table route_table = {.fields = route_fields, .what = "route"};

static int route_name(struct build *b, const struct cfg_listener *l, struct cfg_route *route, uint32_t index)
{
	char name[BUILD_NAME + 24];

	if (route->name)
		return 0;
	snprintf(name, sizeof(name), "%s/routes/%u", l->name, index);
	route->name = arena_text(&b->own->arena, name, strlen(name));
	return route->name ? 0 : say_no_memory(b->err);
}

static int route_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct cfg_listener *l = arg;
	struct cfg_route *route = &l->routes[index];
	const struct tree_entry *match = tree_get(n, "match"), *name = tree_get(n, "name");
	struct where in = *w;
	int r;

	if (name && name->value->kind == TREE_SCALAR)
		in.name = name->value->text;
	r = schema_read(b, &route_table, 0, n, &in, route);
	if (r < 0)
		return r;
	r = route_name(b, l, route, index);
	if (r < 0)
		return r;
	if (match && !tree_null(match->value)) {
		r = schema_read(b, &route_match_table, l->type, match->value,
				&(struct where){.up = &in, .key = "match"}, route);
		if (r < 0)
			return r;
	}
	r = target_read(b, l, index, n, &in, &route->to);
	if (r == 0)
		return say_at(b->err, n, &in, "has no target: want cluster, listener or forward");
	return r < 0 ? r : 0;
}

/* names that were given must differ within the listener */
static int routes_unique(struct build *b, const struct tree_node *n, const struct where *w,
			 const struct cfg_listener *l)
{
	struct build_names s = {.n = 0};
	const struct tree_entry *e;
	uint32_t i = 0;

	s.sorted = arena_array(&b->scratch, n->n, sizeof(*s.sorted));
	s.at = arena_array(&b->scratch, n->n, sizeof(*s.at));
	if (!s.sorted || !s.at)
		return say_no_memory(b->err);
	for (e = n->first; e; e = e->next, i++) {
		s.at[i] = e->value;
		if (tree_get(e->value, "name"))
			s.sorted[s.n++] = (struct build_name){.name = l->routes[i].name, .index = i};
	}
	return names_unique(b, w, &s);
}

static int routes_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_listener *l = base;
	int r;

	if (n->kind == TREE_LIST && n->n > BUILD_ROUTES - b->n_routes)
		return say_at(b->err, n, w, "too many routes: at most %u in all listeners together", BUILD_ROUTES);
	l->n_routes = schema_count(n);
	l->routes = arena_array(&b->own->arena, l->n_routes, sizeof(*l->routes));
	if (!l->routes)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, false, BUILD_ROUTES, route_item, l);
	if (r < 0)
		return r;
	b->n_routes += l->n_routes;
	return routes_unique(b, n, w, l);
}

/* ---- listeners ---- */

static int accept_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_listener *l = base;

	return spiffes_read(b, n, w, &l->accept_ids, &l->n_accept_ids);
}

#define L(m) .off = offsetof(struct cfg_listener, m)

static const struct field listener_fields[] = {
	{.key = "name", .kind = F_KNOWN, .required = true},
	{.key = "type", .kind = F_KNOWN, .required = true},
	{.key = "address", .kind = F_ADDR, L(address), .types = TCP | TUNNEL, .required = true},
	{.key = "backlog", .kind = F_U32, L(backlog), .min = 1, .max = 65535, .types = TCP | TUNNEL},
	{.key = "spread", .kind = F_ENUM, L(spread), .names = spreads, .types = TCP},
	{.key = "cluster", .kind = F_KNOWN},
	{.key = "listener", .kind = F_KNOWN},
	{.key = "forward", .kind = F_KNOWN},
	{.key = "routes", .kind = F_CALL, .call = routes_read, .may_be_empty = true},
	{.key = "max_connections", .kind = F_U32, L(max_connections), .max = 10000000},
	{.key = "rate", .kind = F_CALL, .call = rate_read, L(rate)},
	{.key = "tunnel_rate", .kind = F_CALL, .call = rate_read, L(tunnel_rate), .types = TUNNEL},
	{.key = "idle_timeout", .kind = F_TIME, L(idle_timeout_ms)},
	{.key = "access_log", .kind = F_BOOL, L(access_log)},
	{.key = "identity", .kind = F_KNOWN, .types = TUNNEL},
	{.key = "identity_default", .kind = F_KNOWN, .types = TUNNEL},
	{.key = "tls", .kind = F_BOOL, L(tls), .types = TUNNEL},
	{.key = "accept", .kind = F_CALL, .call = accept_read, .types = TUNNEL},
	{.key = "max_streams", .kind = F_U32, L(max_streams), .min = 1, .max = 1000000, .types = TUNNEL},
	{.key = "netns", .kind = F_CALL, .call = netns_read, L(netns), .types = TCP | TUNNEL},
	{.key = "capture", .kind = F_CALL, .call = capture_read, L(capture), .types = TCP},
	{.key = "steer", .kind = F_CALL, .call = steer_read, L(steer), .types = TCP | TUNNEL},
	{.key = "proxy_protocol", .kind = F_BOOL, L(proxy_protocol), .types = TCP},
	{.key = "proxy_from", .kind = F_CALL, .call = proxy_from_read, L(proxy_from), .types = TCP},
	{.key = NULL},
};
static const struct table listener_table = {.fields = listener_fields, .what = "listener", .types = listener_types};

static int listener_read(struct build *b, const struct tree_node *n, const struct where *w, struct cfg_listener *l)
{
	const struct tree_entry *identity = tree_get(n, "identity"), *accept = tree_get(n, "accept");
	int r;

	l->backlog = 4096;
	/* captured connections come from loopback: by source they would all be one worker's */
	l->spread = tree_get(n, "capture") ? SPREAD_CONNECTION : SPREAD_SOURCE;
	l->idle_timeout_ms = b->c->timeouts.idle_ms;
	l->access_log = true;
	l->tls = l->type == LISTENER_TUNNEL;
	l->max_streams = l->type == LISTENER_TUNNEL ? 1024 : 0;
	r = schema_read(b, &listener_table, l->type, n, w, l);
	if (r < 0)
		return r;
	r = kernel_listener(b, n, w, l);
	if (r < 0)
		return r;
	if (l->type == LISTENER_TUNNEL && !l->tls && accept)
		return say_at(b->err, accept->key, w, "'accept' without TLS: nobody proves an identity");
	if (l->tls || identity) {
		r = names_owner(b, n, w, &l->by_workload, &l->identity);
		if (r < 0)
			return r;
	}
	r = target_read(b, l, BUILD_DEFAULT, n, w, &l->to);
	if (r == 0 && l->type == LISTENER_TCP && !l->n_routes)
		return say_at(b->err, n, w, "has no target: want cluster or listener, or routes");
	return r < 0 ? r : 0;
}

/* slots, names and types: what others refer to */
int listeners_slots(struct build *b)
{
	struct config *c = b->c;
	const struct tree_entry *type;
	uint32_t i, j, kind = 0;
	int r;

	c->listeners = arena_array(&b->own->arena, b->listeners.n, sizeof(*c->listeners));
	b->edges = arena_array(&b->scratch, b->listeners.n, sizeof(*b->edges));
	b->last_edge = arena_array(&b->scratch, b->listeners.n, sizeof(*b->last_edge));
	if (!c->listeners || !b->edges || !b->last_edge)
		return say_no_memory(b->err);
	c->n_listeners = b->listeners.n;
	for (i = 0; i < c->n_listeners; i++)
		c->listeners[b->listeners.sorted[i].index].name = b->listeners.sorted[i].name;
	for (j = 0; j < c->n_listeners; j++) {
		struct where w = {.key = "listeners", .item = true, .index = j, .name = c->listeners[j].name};

		type = tree_get(b->listeners.at[j], "type");
		if (!type)
			return say_at(b->err, b->listeners.at[j], &w, "'type' is missing: tcp, tunnel or internal");
		r = value_enum(b, type->value, &(struct where){.up = &w, .key = "type"}, listener_types, &kind);
		if (r < 0)
			return r;
		c->listeners[j].id = j;
		c->listeners[j].type = (enum cfg_listener_type)kind;
	}
	return 0;
}

int listeners_read(struct build *b)
{
	uint32_t i;
	int r;

	for (i = 0; i < b->c->n_listeners; i++) {
		struct cfg_listener *l = &b->c->listeners[i];

		r = listener_read(b, b->listeners.at[i],
				  &(struct where){.key = "listeners", .item = true, .index = i, .name = l->name}, l);
		if (r < 0)
			return r;
	}
	return 0;
}
