/*
 * What only the whole shows: the graph of listeners (loops, length, who reaches whom) and addresses that are used twice. The
 * graph's edges are the ways out collected by listeners.c; a cluster of type internal is an edge to its listener. What is suspicious but
 * not wrong is logged as a warning.
 */
#include "base/log.h"
#include "config/build.h"
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define PATH_ROOM 300u /* bytes of a chain within a sentence */

enum mark { UNSEEN, ON_PATH, DONE };

struct graph {
	struct build *b;
	struct node {
		uint8_t mark, socket_mark;
		uint16_t deep;		       /* listeners passed from here to the deepest end, this one included */
		const struct build_edge *edge; /* on the path: the way out taken; reach: the way it was reached by */
		const struct cfg_listener *deepest; /* next one on the longest way */
		const struct cfg_listener *from;    /* reach: who leads here; itself for entrances */
	} * node;
};

static struct cfg_listener *leads_to(const struct build_edge *e)
{
	if (e->target->listener)
		return e->target->listener;
	return e->target->cluster && e->target->cluster->type == CLUSTER_INTERNAL ? e->target->cluster->listener : NULL;
}

/* ---- chains as text ---- */

static size_t step(char *out, size_t n, size_t at, const struct cfg_listener *l, const struct build_edge *e)
{
	if (at >= n)
		return at;
	at += (size_t)snprintf(out + at, n - at, "%s", l->name);
	if (e && at < n && e->target->cluster)
		at += (size_t)snprintf(out + at, n - at, " -> cluster %s", e->target->cluster->name);
	if (e && at < n)
		at += (size_t)snprintf(out + at, n - at, " -> ");
	return at;
}

/* a -> b -> cluster c -> d; the middle is left out when it does not fit */
static void path_str(char *out, size_t n, const struct cfg_listener **way, const struct build_edge **edge, size_t steps)
{
	size_t at = 0, i;

	for (i = 0; i < steps; i++)
		at = step(out, n, at, way[i], i + 1 < steps ? edge[i] : NULL);
	if (at < n)
		return;
	at = step(out, n, 0, way[0], edge[0]);
	if (at < n)
		at += (size_t)snprintf(out + at, n - at, "... (%zu more) ... -> ", steps - 2);
	if (at < n)
		snprintf(out + at, n - at, "%s", way[steps - 1]->name);
}

/* say_at() the place of a way out: listeners[0] 'a' routes[1] 'b' cluster */
static int say_edge(struct build *b, const struct cfg_listener *l, const struct build_edge *e, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
static int say_edge(struct build *b, const struct cfg_listener *l, const struct build_edge *e, const char *fmt, ...)
{
	struct where item = {.key = "listeners", .item = true, .index = l->id, .name = l->name};
	struct where route = {.up = &item, .key = "routes", .item = true, .index = e->route};
	struct where key = {.up = &item, .key = e->key};
	char text[ERR_MAX];
	va_list ap;

	if (e->route != BUILD_DEFAULT) {
		route.name = l->routes[e->route].name;
		key.up = &route;
	}
	va_start(ap, fmt);
	vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	return say_at(b->err, e->at, &key, "%s", text);
}

/* ---- loops and length ---- */

static int loop_found(struct graph *g, const struct cfg_listener *first, const struct cfg_listener *last,
		      const struct build_edge *closing)
{
	const struct cfg_listener **way;
	const struct build_edge **edge;
	char text[PATH_ROOM];
	size_t n = 0, room = g->b->c->n_listeners + 1u;
	const struct cfg_listener *l;

	way = arena_array(&g->b->scratch, room, sizeof(*way));
	edge = arena_array(&g->b->scratch, room, sizeof(*edge));
	if (!way || !edge)
		return say_no_memory(g->b->err);
	for (l = first; l != last; l = leads_to(g->node[l->id].edge)) {
		way[n] = l;
		edge[n++] = g->node[l->id].edge;
	}
	way[n] = last;
	edge[n++] = closing;
	way[n++] = first;
	path_str(text, sizeof(text), way, edge, n);
	return say_edge(g->b, last, closing, "the chain is a loop: %s", text);
}

static int too_long(struct graph *g, const struct cfg_listener *l)
{
	const struct cfg_listener *way[CFG_CHAIN_MAX + 1];
	const struct build_edge *edge[CFG_CHAIN_MAX + 1];
	const struct build_edge *e = g->node[l->id].edge;
	char text[PATH_ROOM];
	size_t n;

	for (n = 0; n <= CFG_CHAIN_MAX; n++) {
		way[n] = l;
		edge[n] = g->node[l->id].edge;
		l = g->node[l->id].deepest;
	}
	path_str(text, sizeof(text), way, edge, n);
	return say_edge(g->b, way[0], e, "the chain passes more than %u listeners: %s", (unsigned)CFG_CHAIN_MAX, text);
}

/* depth first; recursion is bounded by the number of listeners */
static int walk(struct graph *g, const struct cfg_listener *l)
{
	struct node *n = &g->node[l->id];
	const struct build_edge *e, *longest = NULL;
	const struct cfg_listener *to;
	int r;

	n->mark = ON_PATH;
	n->deep = 1;
	for (e = g->b->edges[l->id]; e; e = e->next) {
		to = leads_to(e);
		if (!to)
			continue;
		if (g->node[to->id].mark == ON_PATH)
			return loop_found(g, to, l, e);
		n->edge = e;
		if (g->node[to->id].mark == UNSEEN) {
			r = walk(g, to);
			if (r < 0)
				return r;
		}
		if (g->node[to->id].deep >= n->deep) {
			n->deep = (uint16_t)(g->node[to->id].deep + 1);
			n->deepest = to;
			longest = e;
		}
	}
	n->edge = longest;
	n->mark = DONE;
	return 0;
}

static int chains_check(struct graph *g)
{
	const struct config *c = g->b->c;
	uint32_t i;
	int r;

	for (i = 0; i < c->n_listeners; i++) {
		r = g->node[i].mark == UNSEEN ? walk(g, &c->listeners[i]) : 0;
		if (r < 0)
			return r;
	}
	for (i = 0; i < c->n_listeners; i++)
		if (g->node[i].deep > CFG_CHAIN_MAX)
			return too_long(g, &c->listeners[i]);
	return 0;
}

/* ---- who is reached, and from where ---- */

static int forward_wrong(struct graph *g, const struct cfg_listener *l, const struct build_edge *e)
{
	const struct cfg_listener *way[CFG_CHAIN_MAX + 1], *x;
	const struct build_edge *edge[CFG_CHAIN_MAX + 1];
	size_t n = 1, i;
	char text[PATH_ROOM];

	for (x = l; g->node[x->id].from != x && n < CFG_CHAIN_MAX; x = g->node[x->id].from)
		n++;
	for (i = n, x = l; i--; x = g->node[x->id].from) {
		way[i] = x;
		edge[i] = i + 1 < n ? g->node[way[i + 1]->id].edge : NULL;
	}
	path_str(text, sizeof(text), way, edge, n);
	return say_edge(g->b, l, e,
			"no CONNECT to forward: connections of tcp listener '%s' get here (%s); use 'cluster'",
			way[0]->name, text);
}

/* breadth first from all entrances of one type */
static int reach(struct graph *g, enum cfg_listener_type type, const struct cfg_listener **queue)
{
	const struct config *c = g->b->c;
	const struct cfg_listener *l, *to;
	const struct build_edge *e;
	uint32_t i, head = 0, tail = 0;

	for (i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].type == type) {
			g->node[i].from = queue[tail++] = &c->listeners[i];
		}
	while (head < tail) {
		l = queue[head++];
		for (e = g->b->edges[l->id]; e; e = e->next) {
			if (e->target->forward && type == LISTENER_TCP)
				return forward_wrong(g, l, e);
			to = leads_to(e);
			if (!to || g->node[to->id].from)
				continue;
			g->node[to->id].from = l;
			g->node[to->id].edge = e;
			queue[tail++] = to;
		}
	}
	return 0;
}

static void warn(const struct tree_node *at, const char *list, const struct cfg_listener *l, const char *what)
{
	log_warn(LA_CONFIG, "%s:%u:%u: %s[%u] '%s': %s", say_file(at->file), at->line, at->col, list, l->id, l->name,
		 what);
}

/* tcp first, alone: an internal listener may forward only if no tcp listener leads to it */
static int reach_check(struct graph *g)
{
	const struct config *c = g->b->c;
	const struct cfg_listener **queue = arena_array(&g->b->scratch, c->n_listeners, sizeof(*queue));
	uint32_t i;
	int r;

	if (!queue)
		return say_no_memory(g->b->err);
	r = reach(g, LISTENER_TCP, queue);
	if (r < 0)
		return r;
	r = reach(g, LISTENER_TUNNEL, queue);
	if (r < 0)
		return r;
	for (i = 0; i < c->n_listeners; i++)
		if (!g->node[i].from)
			warn(g->b->listeners.at[i], "listeners", &c->listeners[i], "no listener leads to it");
	return 0;
}

/* ---- addresses ---- */

/* NULL: ours. The same namespace by two names is not found out: it may not exist yet */
static bool same_netns(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static int addresses_check(struct build *b)
{
	const struct config *c = b->c;
	const struct tree_node *at, *other;
	char text[ADDR_STR];
	uint32_t i, j;

	for (i = 0; i < c->n_listeners; i++) {
		const struct cfg_listener *l = &c->listeners[i];
		struct where item = {.key = "listeners", .item = true, .index = i, .name = l->name};
		struct where w = {.up = &item, .key = "address"};

		if (l->type == LISTENER_INTERNAL)
			continue;
		at = tree_get(b->listeners.at[i], "address")->value;
		if (c->metrics.family != AF_UNSPEC && !l->netns && addr_eq(&l->address, &c->metrics))
			return say_at(b->err, at, &w, "%s is the address of admin.metrics",
				      addr_str(&l->address, text));
		for (j = 0; j < i; j++) {
			if (c->listeners[j].type == LISTENER_INTERNAL ||
			    !addr_eq(&c->listeners[j].address, &l->address) || !same_netns(c->listeners[j].netns, l->netns))
				continue;
			other = tree_get(b->listeners.at[j], "address")->value;
			return say_at(b->err, at, &w, "%s is taken: listener '%s' has it, %s:%u:%u",
				      addr_str(&l->address, text), c->listeners[j].name, say_file(other->file),
				      other->line, other->col);
		}
	}
	return 0;
}

/* ---- loops over sockets ---- */

/* the tcp listener at @a, the wildcard address included; listeners are few compared with endpoints, so they are sorted */
static int by_port(const void *a, const void *b)
{
	const struct cfg_listener *x = *(const struct cfg_listener *const *)a,
				  *y = *(const struct cfg_listener *const *)b;

	return (x->address.port > y->address.port) - (x->address.port < y->address.port);
}

static bool listens_at(const struct cfg_listener *l, const struct addr *a)
{
	static const uint8_t any[16], loopback6[16] = {[15] = 1};
	bool loopback = a->family == AF_INET ? a->ip[0] == 127 : !memcmp(a->ip, loopback6, 16);

	if (addr_eq(&l->address, a))
		return true;
	return loopback && l->address.family == a->family && l->address.port == a->port &&
	       !memcmp(l->address.ip, any, 16);
}

struct sockets {
	struct graph *g;
	const struct cfg_listener **sorted; /* tcp listeners by port */
	uint32_t n;
	bool *local; /* by cluster: one of its endpoints is a listener */
};

static const struct cfg_listener *listener_at(const struct sockets *s, const struct addr *a, const char *netns)
{
	uint32_t lo = 0, hi = s->n, mid;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		if (s->sorted[mid]->address.port < a->port)
			lo = mid + 1;
		else
			hi = mid;
	}
	for (; lo < s->n && s->sorted[lo]->address.port == a->port; lo++)
		if (same_netns(s->sorted[lo]->netns, netns) && listens_at(s->sorted[lo], a))
			return s->sorted[lo];
	return NULL;
}

static void socket_walk(struct sockets *s, const struct cfg_listener *l);

static void socket_step(struct sockets *s, const struct cfg_listener *l, const struct build_edge *e,
			const struct cfg_listener *to)
{
	uint8_t mark = s->g->node[to->id].socket_mark;

	if (mark == UNSEEN)
		socket_walk(s, to);
	else if (mark == ON_PATH)
		log_warn(LA_CONFIG,
			 "%s:%u:%u: listeners[%u] '%s' %s: connections may go round for ever: cluster '%s' has the "
			 "address of listener '%s', which leads here",
			 say_file(e->at->file), e->at->line, e->at->col, l->id, l->name, e->key,
			 e->target->cluster->name, to->name);
}

static void socket_walk(struct sockets *s, const struct cfg_listener *l)
{
	const struct cfg_listener *to;
	const struct build_edge *e;
	uint32_t i;

	s->g->node[l->id].socket_mark = ON_PATH;
	for (e = s->g->b->edges[l->id]; e; e = e->next) {
		const struct cfg_cluster *c = e->target->cluster;

		to = leads_to(e);
		if (to && s->g->node[to->id].socket_mark == UNSEEN)
			socket_walk(s, to);
		for (i = 0; c && s->local[c->id] && i < c->n_endpoints; i++) {
			to = listener_at(s, &c->endpoints[i].address, c->netns);
			if (to)
				socket_step(s, l, e, to);
		}
	}
	s->g->node[l->id].socket_mark = DONE;
}

/* a tcp cluster with the address of a tcp listener of ours that leads to it: suspicious, as routes may prevent the worst */
static int sockets_check(struct graph *g)
{
	const struct config *c = g->b->c;
	struct sockets s = {.g = g};
	uint32_t i, j;

	s.sorted = arena_array(&g->b->scratch, c->n_listeners, sizeof(*s.sorted));
	s.local = arena_array(&g->b->scratch, c->n_clusters, sizeof(*s.local));
	if (!s.sorted || !s.local)
		return say_no_memory(g->b->err);
	for (i = 0; i < c->n_listeners; i++)
		if (c->listeners[i].type == LISTENER_TCP)
			s.sorted[s.n++] = &c->listeners[i];
	qsort(s.sorted, s.n, sizeof(*s.sorted), by_port);
	for (i = 0; i < c->n_clusters; i++)
		for (j = 0; c->clusters[i].type == CLUSTER_TCP && !s.local[i] && j < c->clusters[i].n_endpoints; j++)
			s.local[i] =
				listener_at(&s, &c->clusters[i].endpoints[j].address, c->clusters[i].netns) != NULL;
	for (i = 0; i < s.n; i++)
		if (g->node[s.sorted[i]->id].socket_mark == UNSEEN)
			socket_walk(&s, s.sorted[i]);
	return 0;
}

/* ---- routes that cannot be reached ---- */

static bool matches_all(const struct cfg_route *r)
{
	return !r->authority && !r->n_cidr && !r->port && !r->n_headers;
}

static void targets_warn(const struct build *b)
{
	const struct config *c = b->c;
	char text[256];
	uint32_t i, j;

	for (i = 0; i < c->n_listeners; i++) {
		const struct cfg_listener *l = &c->listeners[i];

		if (!l->n_routes && !l->to.cluster && !l->to.listener)
			warn(b->listeners.at[i], "listeners", l,
			     "has no target: every connection will be refused (404)");
		for (j = 0; j + 1 < l->n_routes; j++)
			if (matches_all(&l->routes[j])) {
				snprintf(text, sizeof(text),
					 "route '%s' matches everything, the routes behind it are never used",
					 l->routes[j].name);
				warn(b->listeners.at[i], "listeners", l, text);
				break;
			}
	}
}

int check_all(struct build *b)
{
	struct graph g = {.b = b};
	int r;

	g.node = arena_array(&b->scratch, b->c->n_listeners, sizeof(*g.node));
	if (!g.node)
		return say_no_memory(b->err);
	r = addresses_check(b);
	if (r < 0)
		return r;
	r = chains_check(&g);
	if (r < 0)
		return r;
	r = reach_check(&g);
	if (r < 0)
		return r;
	r = sockets_check(&g);
	if (r < 0)
		return r;
	targets_warn(b);
	kernel_check(b);
	return 0;
}
