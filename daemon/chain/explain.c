/*
 * The way of a connection that is only asked about. First where it would enter: as named, or by what is known of it. Then the very
 * functions that live connections go through (stages_resolve(), stages_extend()), and beside each step the reasons: routes by
 * route_why(), policies by explain_policy.c.
 *
 * Where it enters cannot always be told from addresses: capture looks at the process, too. Then the listener is named that would capture
 * it, and for whom.
 */
#include "chain/explain_int.h"
#include "base/clean.h"
#include "codec/authority.h"
#include "codec/metadata.h"
#include "tunnel/connect.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROUTES_TOLD 200u

const char *explain_verdict_str(enum explain_verdict v)
{
	switch (v) {
	case EXPLAIN_GO: return "go";
	case EXPLAIN_NO_ROUTE: return "no-route";
	case EXPLAIN_DENIED: return "denied";
	case EXPLAIN_LOOP: return "loop";
	case EXPLAIN_BAD: return "bad-request";
	case EXPLAIN_IDENTITY: return "identity";
	case EXPLAIN_LIMIT: return "limit";
	case EXPLAIN_ELSEWHERE: return "elsewhere";
	}
	return "?";
}

void explain_way_finish(struct explain_way *w)
{
	metadata_put(w->md);
	free(w->baggage);
}

/* ---- where it enters ---- */

static bool is_here(const struct explain_ask *ask, const struct addr *a)
{
	return addr_is_loopback(a) || (ask->here && ask->here(ask->here_arg, a));
}

static bool in_ports(const struct cfg_ports *p, uint32_t n, uint16_t port)
{
	for (uint32_t i = 0; i < n; i++)
		if (port >= p[i].first && port <= p[i].last)
			return true;
	return false;
}

static bool in_nets(const struct cidr *c, uint32_t n, const struct addr *a)
{
	for (uint32_t i = 0; i < n; i++)
		if (cidr_has(&c[i], a))
			return true;
	return false;
}

static bool captures(const struct cfg_listener *l, const struct addr *to)
{
	const struct cfg_capture *c = l->capture;

	if (!c || addr_eq(&l->address, to) || in_nets(c->except, c->n_except, to) || in_ports(c->except_ports, c->n_except_ports, to->port))
		return false;
	return (!c->n_to || in_nets(c->to, c->n_to, to)) && (!c->who.n_ports || in_ports(c->who.ports, c->who.n_ports, to->port));
}

static bool steers(const struct cfg_listener *l, const struct explain_ask *ask)
{
	const struct cfg_steer *s = l->steer;

	if (!s || l->type != LISTENER_TCP || !is_here(ask, &ask->dst) || in_ports(s->except_ports, s->n_except_ports, ask->dst.port))
		return false;
	return (!s->n_to || in_nets(s->to, s->n_to, &ask->dst)) && (!s->n_ports || in_ports(s->ports, s->n_ports, ask->dst.port));
}

static bool listens_at(const struct cfg_listener *l, const struct explain_ask *ask)
{
	const struct addr *a = &l->address, *to = &ask->dst;

	if (l->type == LISTENER_INTERNAL || a->family != to->family || a->port != to->port)
		return false;
	return addr_eq(a, to) || (addr_is_any(a) && is_here(ask, to));
}

static void who_text(const struct cfg_who *w, struct text *t)
{
	for (uint32_t i = 0; i < w->n_cgroups; i++)
		text_addf(t, "%s%s", i ? " or " : " if the application is in cgroup ", w->cgroups[i]);
	for (uint32_t i = 0; i < w->n_uids; i++)
		text_addf(t, "%s%u", i ? " or " : w->n_cgroups ? ", with uid " : " if the application has uid ", w->uids[i]);
}

struct found {
	const struct cfg_listener *l;
	const char *how;
	struct text why;
};

static const struct cfg_listener *only_tunnel(const struct config *cfg, struct found *f, struct err *reterr, int *ret)
{
	const struct cfg_listener *one = NULL;
	char names[256] = "";
	size_t used = 0;
	uint32_t n = 0;

	for (uint32_t i = 0; i < cfg->n_listeners; i++) {
		if (cfg->listeners[i].type != LISTENER_TUNNEL)
			continue;
		if (used < sizeof(names))
			used += (size_t)snprintf(names + used, sizeof(names) - used, "%s%s", n ? ", " : "", cfg->listeners[i].name);
		one = &cfg->listeners[i];
		n++;
	}
	*ret = 0;
	if (n > 1)
		*ret = err_set(reterr, -EINVAL, "there are %u tunnel listeners: say --listener, one of %s", n, names);
	else if (n == 1)
		text_add(&f->why, "identity, authority and metadata come by a tunnel, and this is the only tunnel listener");
	return n == 1 ? one : NULL;
}

static void find_tcp(const struct config *cfg, const struct explain_ask *ask, struct found *f)
{
	bool from_here = ask->src.family == AF_UNSPEC || is_here(ask, &ask->src);

	for (uint32_t i = 0; from_here && !f->l && i < cfg->n_listeners; i++)
		if (captures(&cfg->listeners[i], &ask->dst)) {
			f->l = &cfg->listeners[i];
			f->how = "captured";
			text_add(&f->why, "its capture takes this destination");
			who_text(&f->l->capture->who, &f->why);
		}
	for (uint32_t i = 0; !f->l && i < cfg->n_listeners; i++)
		if (steers(&cfg->listeners[i], ask)) {
			f->l = &cfg->listeners[i];
			f->how = "steered";
			text_add(&f->why, "its steer takes this local address and port");
		}
	for (uint32_t exact = 1; !f->l && exact < 2; exact--)
		for (uint32_t i = 0; !f->l && i < cfg->n_listeners; i++)
			if (listens_at(&cfg->listeners[i], ask) && (exact == 0 || addr_eq(&cfg->listeners[i].address, &ask->dst))) {
				f->l = &cfg->listeners[i];
				f->how = "address";
				text_add(&f->why, "it listens there");
			}
	if (f->l && f->l->netns)
		text_addf(&f->why, ", in network namespace '%s'", f->l->netns);
}

static int find(const struct config *cfg, const struct explain_ask *ask, struct found *f, struct err *reterr)
{
	bool by_tunnel = ask->authority || ask->n_headers || ask->n_members || ask->principal;
	int r = 0;

	f->how = "named";
	for (uint32_t i = 0; ask->listener && i < cfg->n_listeners; i++)
		if (!strcmp(cfg->listeners[i].name, ask->listener))
			f->l = &cfg->listeners[i];
	if (ask->listener && !f->l)
		return err_set(reterr, -EINVAL, "there is no listener '%s'; aditctl listener shows them", ask->listener);
	if (f->l && f->l->type == LISTENER_INTERNAL)
		return err_set(reterr, -EINVAL, "listener '%s' is an internal one: say the tcp or tunnel listener where it enters", f->l->name);
	if (ask->listener) {
		text_add(&f->why, "as asked");
		return 0;
	}
	if (by_tunnel) {
		f->how = "tunnel";
		f->l = only_tunnel(cfg, f, reterr, &r);
		return r < 0 ? r : f->l ? 0 : err_set(reterr, -EINVAL, "no tunnel listener: say --listener");
	}
	if (ask->dst.family == AF_UNSPEC)
		return err_set(reterr, -EINVAL, "say --dst ADDRESS:PORT, or --listener");
	find_tcp(cfg, ask, f);
	return 0;
}

/* ---- what the stages see ---- */

static int headers_of(const struct explain_ask *ask, struct explain_way *w, struct err *reterr)
{
	struct metadata_self self = { .extra = ask->members, .n_extra = ask->n_members };
	size_t n = 0;

	if (ask->n_headers + 3 > EXPLAIN_HEADERS)
		return err_set(reterr, -EINVAL, "at most %u headers", EXPLAIN_HEADERS - 3);
	w->h[n++] = (struct header){ { ":method", 7 }, { "CONNECT", 7 } };
	if (w->ctx.in.authority.p)
		w->h[n++] = (struct header){ { ":authority", 10 }, w->ctx.in.authority };
	for (size_t i = 0; i < ask->n_headers; i++)
		w->h[n++] = ask->headers[i];
	if (ask->n_members) {
		w->baggage = baggage_encode(&self);
		if (!w->baggage)
			return -ENOMEM;
		w->h[n++] = (struct header){ { "baggage", 7 }, { w->baggage, strlen(w->baggage) } };
	}
	w->ctx.in.headers = w->h;
	w->ctx.in.n_headers = n;
	return 0;
}

/* a CONNECT: as accept.c takes one */
static int see_connect(const struct config *cfg, const struct explain_ask *ask, struct explain_way *w, struct err *reterr)
{
	const struct metadata_limits lim = { .bytes = cfg->limits.metadata_bytes, .members = 64 };
	struct connect_in in;
	int r = headers_of(ask, w, reterr);

	if (r < 0)
		return r;
	r = connect_parse(w->h, w->ctx.in.n_headers, 0, &in, &w->why);
	if (r) {
		w->verdict = EXPLAIN_BAD;
		return 0;
	}
	w->ctx.in.authority = in.authority;
	w->ctx.in.addr = in.to.addr;
	w->ctx.in.port = in.to.port;
	if (in.forwarded.family != AF_UNSPEC)
		w->src = in.forwarded;
	w->wanted = in.to.addr;
	w->ctx.in.md = ask->md;
	if (ask->md)
		return 0;
	w->md = metadata_build(w->h, w->ctx.in.n_headers, &lim, &r);
	w->ctx.in.md = w->md;
	return r < 0 ? r : 0;
}

static int see(const struct config *cfg, const struct explain_ask *ask, struct explain_way *w, const char *how, struct err *reterr)
{
	const struct cfg_listener *l = w->entry;
	const char *name = ask->authority;
	int r = 0;

	w->src = ask->src;
	w->principal = ask->principal;
	if (l->type == LISTENER_TUNNEL) {
		if (!name && ask->dst.family != AF_UNSPEC)
			name = addr_str(&ask->dst, w->text);
		if (name)
			w->ctx.in.authority = (struct slice){ name, strlen(name) };
		r = see_connect(cfg, ask, w, reterr);
	} else {
		if (name && ask->dst.family == AF_UNSPEC && !l->proxy_protocol)
			return err_set(reterr, -EINVAL,
				       "an application connects to an address, the name is not seen at listener '%s': say --dst ADDRESS:PORT",
				       l->name);
		w->wanted = ask->dst.family == AF_UNSPEC && !strcmp(how, "named") ? l->address : ask->dst;
		w->ctx.in.addr = w->wanted;
		w->ctx.in.port = w->wanted.port;
		if (name && l->proxy_protocol)
			w->ctx.in.authority = (struct slice){ name, strlen(name) };
		else if (l->n_routes)
			w->ctx.in.authority = (struct slice){ w->text, strlen(addr_str(&w->wanted, w->text)) };
		w->ctx.in.md = ask->md;
	}
	w->ctx.principal = w->principal;
	w->ctx.src = w->src;
	w->ctx.orig_dst = w->wanted;
	w->ctx.policies = cfg->policy_set;
	return r;
}

static void put_note(struct json *j, const struct explain_ask *ask, const struct cfg_listener *l)
{
	const char *note = NULL;

	if (l->type == LISTENER_TCP && (ask->n_headers || ask->n_members))
		note = "headers and metadata come by tunnels: a tcp listener does not see any";
	else if (l->type == LISTENER_TCP && ask->principal && !l->proxy_protocol)
		note = "a tcp listener without proxy_protocol knows no identity: a real connection would have none";
	else if (l->type == LISTENER_TUNNEL && l->tls && !ask->principal)
		note = "every peer of this listener proves an identity; none was said (--principal), so it is judged as one without";
	else if (l->type == LISTENER_TUNNEL && ask->src.family == AF_UNSPEC)
		note = "no source address was said (--src): matches on source_ip see none";
	json_str(j, "note", note);
}

int explain_entry(const struct config *cfg, const struct explain_ask *ask, struct explain_way *w, struct json *j, struct err *reterr)
{
	struct found f = { 0 };
	int r = find(cfg, ask, &f, reterr);

	w->verdict = EXPLAIN_GO;
	w->entry = f.l;
	if (r == 0 && f.l)
		r = see(cfg, ask, w, f.how, reterr);
	if (r == 0) {
		json_open(j, "entry", '{');
		json_str(j, "listener", f.l ? f.l->name : NULL);
		json_str(j, "how", f.l ? f.how : "none");
		json_strn(j, "why", f.l ? f.why.s : "", f.l ? f.why.len : 0);
		if (f.l)
			put_note(j, ask, f.l);
		json_close(j, '}');
		j->out->failed |= f.why.failed;
	}
	if (r == 0 && !f.l) {
		w->verdict = EXPLAIN_ELSEWHERE;
		err_set(&w->why, 0, "no listener captures or steers it, or listens there");
	}
	text_finish(&f.why);
	return r;
}

/* ---- the stages ---- */

static void put_target(struct json *j, const struct cfg_target *to)
{
	json_str(j, "to_listener", to->listener ? to->listener->name : NULL);
	json_str(j, "to_cluster", to->cluster ? to->cluster->name : NULL);
	json_bool(j, "forward", to->forward);
}

static const struct cfg_target *put_routes(struct json *j, const struct cfg_listener *l, const struct route_input *in)
{
	const struct cfg_route *taken = l->n_routes ? route_find(l, in) : NULL;
	char why[ROUTE_WHY];

	json_open(j, "routes", '[');
	for (uint32_t i = 0; i < l->n_routes && i < ROUTES_TOLD; i++) {
		const struct cfg_route *r = &l->routes[i];
		bool is = r == taken || route_why(r, in, why);

		json_open(j, NULL, '{');
		json_str(j, "route", r->name);
		json_bool(j, "matched", is);
		json_str(j, "why", is ? NULL : why);
		json_close(j, '}');
		if (is)
			break;
	}
	json_close(j, ']');
	json_str(j, "route", taken ? taken->name : NULL);
	json_u64(j, "routes_in_all", l->n_routes);
	put_target(j, taken ? &taken->to : &l->to);
	return taken ? &taken->to : &l->to;
}

struct asked {
	const struct config *cfg;
	struct policy_input in;
	struct policy_facts facts;
	char room[ADDR_STR];
};

static int put_place(const struct asked *q, struct json *j, enum policy_place at, uint32_t id)
{
	bool allowed;

	return explain_policies(q->cfg, &q->in, &q->facts, at, id, j, &allowed);
}

static int put_cluster(const struct asked *q, struct json *j, const struct cfg_cluster *cl)
{
	int r;

	json_open(j, NULL, '{');
	json_str(j, "at", "cluster");
	json_str(j, "name", cl->name);
	r = put_place(q, j, POLICY_AT_CLUSTER, cl->id);
	json_close(j, '}');
	return r;
}

/* the listeners and clusters of w->stages from @from on, as they were passed */
static int put_stages(const struct asked *q, const struct explain_way *w, uint32_t from, struct json *j)
{
	const struct stages *s = &w->stages;
	int r = 0;

	for (uint32_t i = from; r == 0 && i < s->n; i++) {
		const struct cfg_listener *l = &q->cfg->listeners[s->id[i]];
		bool last = i + 1u == s->n, here = last && s->denied && !s->denied_cluster;
		const struct cfg_target *to;

		json_open(j, NULL, '{');
		json_str(j, "at", "listener");
		json_str(j, "name", l->name);
		r = put_place(q, j, POLICY_AT_LISTENER, l->id);
		to = put_routes(j, l, &w->ctx.in);
		json_close(j, '}');
		if (r == 0 && !here && to->cluster)
			r = put_cluster(q, j, to->cluster);
	}
	return r;
}

static void set_verdict(struct explain_way *w, enum stage_verdict v, const struct config *cfg)
{
	const struct stages *s = &w->stages;
	char rule[POLICY_RULE_NAME];

	switch (v) {
	case STAGE_GO: return;
	case STAGE_NO_ROUTE:
		w->verdict = EXPLAIN_NO_ROUTE;
		err_set(&w->why, 0, "no route of listener '%s' takes it", cfg->listeners[s->id[s->n - 1]].name);
		return;
	case STAGE_LOOP:
		w->verdict = EXPLAIN_LOOP;
		err_set(&w->why, 0, "it comes back to listener '%s': a loop", w->entry->name);
		return;
	case STAGE_DENIED:
		w->verdict = EXPLAIN_DENIED;
		policy_rule_name(cfg->policy_set, s->policy, s->rule, rule);
		if (s->policy == POLICY_NONE)
			err_set(&w->why, 0, "no ALLOW policy at %s '%s' matches (%s)", s->denied_cluster ? "cluster" : "listener", s->denied, rule);
		else
			err_set(&w->why, 0, "denied by policy %s at %s '%s'", rule, s->denied_cluster ? "cluster" : "listener", s->denied);
		return;
	}
}

int explain_steps(const struct config *cfg, struct explain_way *w, uint32_t from, struct json *j)
{
	AUTO_FREE struct asked *q = malloc(sizeof(*q));
	enum stage_verdict v;

	if (!q)
		return -ENOMEM;
	q->cfg = cfg;
	stages_input(&w->ctx, w->entry->id, q->room, &q->in);
	if (cfg->policy_set)
		policy_look(cfg->policy_set, &q->in, &q->facts);
	v = from ? stages_extend(w->entry, &w->ctx, &w->stages) : stages_resolve(w->entry, &w->ctx, &w->stages);
	set_verdict(w, v, cfg);
	return v == STAGE_LOOP ? 0 : put_stages(q, w, from, j);
}
