/*
 * Every way that a connection may take through the listeners, from the configuration: one row per entry listener and
 * combination of routes, such as
 *
 *   outbound > audit > cluster:to-b		when: redis: port 6379
 *
 * Internal listeners are inner hops, never entries. The configuration has no loops (config/ refuses them) and at most
 * CFG_CHAIN_MAX hops, but routes multiply along the chain, so the rows are bounded.
 */
#include "admin/api.h"
#include "base/clean.h"
#include <string.h>

#define CHAINS_MAX 2000u
#define HOPS_MAX   (2 * CFG_CHAIN_MAX + 2) /* listeners, and clusters that lead to listeners */

struct hop {
	const struct cfg_listener *listener; /* or */
	const struct cfg_cluster *cluster;   /* or neither: the connection is refused */
	const struct cfg_route *route;	     /* taken from this listener; NULL: its default */
	bool forward;
};

struct walk {
	struct json j;
	struct hop hop[HOPS_MAX];
	uint32_t n, rows;
	bool cut;
};

static const char *match_kind_str(enum cfg_match_kind k)
{
	switch (k) {
	case MATCH_EXACT: return "=";
	case MATCH_PREFIX: return " begins with ";
	case MATCH_SUFFIX: return " ends with ";
	case MATCH_REGEX: return " matches ";
	case MATCH_PRESENT: return " is there";
	}
	return "?";
}

static void add_match(struct text *t, const char *what, const struct cfg_match *m)
{
	if (t->len)
		text_add(t, ", ");
	text_addf(t, "%s%s%s%s", m->invert ? "not: " : "", what, match_kind_str(m->kind), m->text ? m->text : "");
}

static void route_when(struct text *t, const struct cfg_route *r)
{
	if (r->authority)
		add_match(t, "authority", r->authority);
	for (uint32_t i = 0; i < r->n_cidr; i++) {
		text_add(t, i ? " or " : t->len ? ", address " : "address ");
		api_cidr(t, &r->cidr[i]);
	}
	if (r->port)
		text_addf(t, "%sport %u", t->len ? ", " : "", r->port);
	for (uint32_t i = 0; i < r->n_headers; i++)
		add_match(t, r->headers[i].name, &r->headers[i].match);
	if (!t->len)
		text_add(t, "always");
}

static bool route_always(const struct cfg_route *r)
{
	return !r->authority && !r->n_cidr && !r->port && !r->n_headers;
}

static void hop_text(struct text *t, const struct hop *h)
{
	if (h->listener)
		text_add(t, h->listener->name);
	else if (h->cluster)
		text_addf(t, "cluster:%s%s", h->cluster->name, h->forward ? " (forward)" : "");
	else
		text_add(t, "refused (no route)");
}

static void put_hop(struct json *j, const struct hop *h)
{
	struct text when = {0};

	json_open(j, NULL, '{');
	if (h->listener) {
		json_str(j, "listener", h->listener->name);
		json_str(j, "route", h->route ? h->route->name : NULL);
		if (h->route) {
			route_when(&when, h->route);
			json_strn(j, "when", when.s, when.len);
		}
	} else if (h->cluster) {
		json_str(j, "cluster", h->cluster->name);
		json_bool(j, "forward", h->forward);
	} else {
		json_str(j, "refused", "no route");
	}
	json_close(j, '}');
	text_finish(&when);
}

/* The path in w->hop is complete: a row. */
static void put_row(struct walk *w)
{
	struct text chain = {0}, when = {0}, cond = {0};

	if (w->rows == CHAINS_MAX) {
		w->cut = true;
		return;
	}
	w->rows++;
	for (uint32_t i = 0; i < w->n; i++) {
		if (i)
			text_add(&chain, " > ");
		hop_text(&chain, &w->hop[i]);
		if (!w->hop[i].route)
			continue;
		text_addf(&when, "%s%s: ", when.len ? "; " : "", w->hop[i].route->name);
		cond.len = 0;
		route_when(&cond, w->hop[i].route);
		text_addn(&when, cond.s, cond.len);
	}
	json_open(&w->j, NULL, '{');
	json_str(&w->j, "entry", w->hop[0].listener->name);
	json_strn(&w->j, "chain", chain.s, chain.len);
	json_strn(&w->j, "when", when.s, when.len);
	json_open(&w->j, "hops", '[');
	for (uint32_t i = 0; i < w->n; i++)
		put_hop(&w->j, &w->hop[i]);
	json_close(&w->j, ']');
	json_close(&w->j, '}');
	text_finish(&chain);
	text_finish(&when);
	text_finish(&cond);
}

static void walk_listener(struct walk *w, const struct cfg_listener *l);

static void walk_target(struct walk *w, const struct cfg_target *to)
{
	if (w->n == HOPS_MAX || w->cut) {
		w->cut = true;
		return;
	}
	if (to->listener) {
		walk_listener(w, to->listener);
		return;
	}
	w->hop[w->n++] = (struct hop){.cluster = to->cluster, .forward = to->forward};
	if (to->cluster && to->cluster->type == CLUSTER_INTERNAL && to->cluster->listener)
		walk_listener(w, to->cluster->listener);
	else
		put_row(w);
	w->n--;
}

static void walk_listener(struct walk *w, const struct cfg_listener *l)
{
	struct hop *h = &w->hop[w->n];

	if (w->n == HOPS_MAX || w->cut) {
		w->cut = true;
		return;
	}
	*h = (struct hop){.listener = l};
	w->n++;
	for (uint32_t i = 0; i < l->n_routes; i++) {
		h->route = &l->routes[i];
		walk_target(w, &l->routes[i].to);
		if (route_always(h->route)) /* nothing behind it is ever reached */
			goto out;
	}
	h->route = NULL;
	walk_target(w, &l->to);
out:
	w->n--;
}

void api_chains(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const struct config *c = inspect_config(a->d);
	struct walk w = {0};

	(void)req;
	json_init(&w.j, &ans->body, true);
	json_open(&w.j, NULL, '{');
	json_open(&w.j, "chains", '[');
	for (uint32_t i = 0; c && i < c->n_listeners; i++)
		if (c->listeners[i].type != LISTENER_INTERNAL)
			walk_listener(&w, &c->listeners[i]);
	json_close(&w.j, ']');
	json_bool(&w.j, "truncated", w.cut);
	json_close(&w.j, '}');
	text_add(&ans->body, "\n");
}
