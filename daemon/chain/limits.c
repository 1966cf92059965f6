/*
 * Where the limits are looked at, in this order, so that a refusal at one place costs nobody else anything:
 *
 *	1 the daemon's and the outermost listener's max_connections: before there is a connection (accept.c)
 *	2 whose the connection is: his connections, then his rate. Who is over it takes no token of the listener that others need
 *	3 the chain, and the policies (stage.c): who is denied takes none either
 *	4 inner listeners' connections, then the rates of all listeners passed
 *	5 the cluster's connections, then its rate (dial.c)
 *
 * Whose it is: the principal, where one is proved (by the certificate of its tunnel, or said by a trusted PROXY header), is looked for in
 * limits.principals, the first class that matches. Without a principal it is the address in limits.sources. The address is that of the
 * socket (or of the PROXY header): what an anonymous agent says in `forwarded` could be anything.
 */
#include "chain/limits.h"
#include "base/clean.h"
#include "chain/daemon.h"
#include "codec/spiffe.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

/* ---- life ---- */

static void place_put(struct limit_place *p)
{
	if (p && --p->refs == 0)
		free(p);
}

void limits_destroy(struct limits *l)
{
	if (!l)
		return;
	for (uint32_t i = 0; l->listener && i < l->n_listeners; i++)
		place_put(l->listener[i]);
	for (uint32_t i = 0; l->cluster && i < l->n_clusters; i++)
		place_put(l->cluster[i]);
	for (uint32_t i = 0; l->principal && i < l->n_principals; i++)
		quota_put(l->principal[i]);
	for (uint32_t i = 0; l->source && i < l->n_sources; i++)
		quota_put(l->source[i]);
	free(l->listener);
	free(l->cluster);
	free(l->principal);
	free(l->source);
	free(l);
}

/* the one of the same name; usually it has the same index. Return: index or UINT32_MAX. */
static uint32_t same(const char *name, uint32_t i, const void *all, uint32_t n, size_t size, size_t name_at)
{
	for (uint32_t k = 0; k <= n; k++) {
		uint32_t at = k == 0 ? i : k - 1;
		const char *other;

		if (at >= n)
			continue;
		memcpy(&other, (const char *)all + at * size + name_at, sizeof(other));
		if (!strcmp(other, name))
			return at;
	}
	return UINT32_MAX;
}

static struct limit_place *place(struct limit_place *before)
{
	struct limit_place *p = before ? before : calloc(1, sizeof(*p));

	if (p)
		p->refs++;
	return p;
}

static int places(struct limits *l, const struct config *cfg, const struct limits *before, const struct config *old)
{
	for (uint32_t i = 0; i < l->n_listeners; i++) {
		uint32_t k = before ? same(cfg->listeners[i].name, i, old->listeners, old->n_listeners, sizeof(*old->listeners),
					   offsetof(struct cfg_listener, name)) :
				      UINT32_MAX;

		l->listener[i] = place(k == UINT32_MAX ? NULL : before->listener[k]);
		if (!l->listener[i])
			return -ENOMEM;
	}
	for (uint32_t i = 0; i < l->n_clusters; i++) {
		uint32_t k = before ? same(cfg->clusters[i].name, i, old->clusters, old->n_clusters, sizeof(*old->clusters),
					   offsetof(struct cfg_cluster, name)) :
				      UINT32_MAX;

		l->cluster[i] = place(k == UINT32_MAX ? NULL : before->cluster[k]);
		if (!l->cluster[i])
			return -ENOMEM;
	}
	return 0;
}

static int classes(struct quota **q, const struct cfg_quota *c, uint32_t n, struct quota *const *before, const struct cfg_quota *old, uint32_t n_old)
{
	for (uint32_t i = 0; i < n; i++) {
		uint32_t k = before ? same(c[i].name, i, old, n_old, sizeof(*old), offsetof(struct cfg_quota, name)) : UINT32_MAX;

		if (k != UINT32_MAX)
			q[i] = quota_get(before[k]);
		else if (quota_create(&q[i], c[i].remember) < 0)
			return -ENOMEM;
		quota_resize(q[i], c[i].remember);
	}
	return 0;
}

int limits_create(struct limits **ret, const struct config *cfg, const struct limits *before, const struct config *old)
{
	const struct cfg_limits *cl = &cfg->limits;
	struct limits *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return -ENOMEM;
	*l = (struct limits){ .n_listeners = cfg->n_listeners,
			      .n_clusters = cfg->n_clusters,
			      .n_principals = cl->n_principals,
			      .n_sources = cl->n_sources };
	l->listener = calloc(l->n_listeners + 1u, sizeof(*l->listener));
	l->cluster = calloc(l->n_clusters + 1u, sizeof(*l->cluster));
	l->principal = calloc(l->n_principals + 1u, sizeof(struct quota *));
	l->source = calloc(l->n_sources + 1u, sizeof(struct quota *));
	r = l->listener && l->cluster && l->principal && l->source ? places(l, cfg, before, old) : -ENOMEM;
	if (r == 0)
		r = classes(l->principal, cl->principals, cl->n_principals, before ? before->principal : NULL,
			    before ? old->limits.principals : NULL, before ? old->limits.n_principals : 0);
	if (r == 0)
		r = classes(l->source, cl->sources, cl->n_sources, before ? before->source : NULL, before ? old->limits.sources : NULL,
			    before ? old->limits.n_sources : 0);
	if (r < 0) {
		limits_destroy(l);
		return r;
	}
	*ret = l;
	return 0;
}

/* ---- looking at them ---- */

static struct limits *of(const struct conn *c)
{
	return c->snap->limits;
}

static const struct config *cfg_of(const struct conn *c)
{
	return c->snap->cfg;
}

static struct rate_limit as_limit(const struct cfg_rate *r)
{
	return (struct rate_limit){ r->per_second, r->burst };
}

static struct quota_limits as_limits(const struct cfg_quota *q)
{
	return (struct quota_limits){ q->max_connections, as_limit(&q->rate) };
}

static bool is_one_of(const struct cfg_quota *q, const char *id)
{
	for (uint32_t i = 0; i < q->n_ids; i++)
		if (spiffe_match(q->ids[i], id, strlen(id)))
			return true;
	return !q->n_ids;
}

static bool is_from(const struct cfg_quota *q, const struct addr *a)
{
	for (uint32_t i = 0; i < q->n_from; i++)
		if (cidr_has(&q->from[i], a))
			return true;
	return !q->n_from;
}

/* "10.0.0.7", "2001:db8::/64" */
static struct slice source_text(const struct cfg_quota *q, const struct addr *a, char out[ADDR_STR + 8])
{
	uint32_t bits = a->family == AF_INET ? q->v4_bits : q->v6_bits, all = a->family == AF_INET ? 32 : 128;
	struct addr net = *a;
	char text[ADDR_STR];
	int n;

	for (uint32_t i = 0; i < all / 8; i++)
		net.ip[i] &= (uint8_t)(bits >= 8 * (i + 1) ? 0xff : bits <= 8 * i ? 0 : 0xff00 >> (bits - 8 * i));
	addr_ip_str(&net, text);
	n = bits == all ? snprintf(out, ADDR_STR + 8, "%s", text) : snprintf(out, ADDR_STR + 8, "%s/%u", text, bits);
	return (struct slice){ out, (size_t)n };
}

static void said(struct err *e, const struct cfg_quota *q, const char *what, struct slice who, enum quota_verdict v)
{
	if (v == QUOTA_CONNECTIONS)
		err_set(e, 0, "%s %.*s has its %u connections (limits.%s)", what, (int)who.n, who.p, q->max_connections, q->name);
	else if (v == QUOTA_RATE)
		err_set(e, 0, "%s %.*s opens more than %u connections per second (limits.%s)", what, (int)who.n, who.p, q->rate.per_second, q->name);
}

static bool judged(struct conn *c, const struct cfg_quota *q, const char *what, struct slice who, enum quota_verdict v)
{
	struct err why;

	if (v == QUOTA_OK)
		return true;
	said(&why, q, what, who, v);
	stats_inc(&c->w->loop.stats, v == QUOTA_RATE ? ST_REFUSED_RATE : ST_REFUSED_LIMIT);
	conn_end(c, v == QUOTA_RATE ? END_RATE : END_LIMIT, "%s", why.msg);
	return false;
}

bool limits_subject(struct conn *c)
{
	const struct cfg_limits *l = &cfg_of(c)->limits;
	const char *id = conn_principal(c);
	const struct addr *from = c->leg[SRC].who ? &c->leg[SRC].who->remote : &c->src;
	char text[ADDR_STR + 8];
	struct slice who;

	for (uint32_t i = 0; id && i < l->n_principals; i++)
		if (is_one_of(&l->principals[i], id)) {
			who = (struct slice){ id, strlen(id) };
			return judged(c, &l->principals[i], "principal", who,
				      quota_enter(of(c)->principal[i], who, as_limits(&l->principals[i]), c->w->loop.now_us, &c->quota));
		}
	for (uint32_t i = 0; !id && i < l->n_sources; i++)
		if (is_from(&l->sources[i], from)) {
			who = source_text(&l->sources[i], from, text);
			return judged(c, &l->sources[i], "source", who,
				      quota_enter(of(c)->source[i], who, as_limits(&l->sources[i]), c->w->loop.now_us, &c->quota));
		}
	return true;
}

enum quota_verdict limits_look(const struct snapshot *s, const char *id, const struct addr *from, uint64_t now_us, struct err *reterr)
{
	const struct cfg_limits *l = &s->cfg->limits;
	enum quota_verdict v = QUOTA_OK;
	char text[ADDR_STR + 8];
	struct slice who;

	for (uint32_t i = 0; id && i < l->n_principals; i++)
		if (is_one_of(&l->principals[i], id)) {
			who = (struct slice){ id, strlen(id) };
			v = quota_look(s->limits->principal[i], who, as_limits(&l->principals[i]), now_us);
			said(reterr, &l->principals[i], "principal", who, v);
			return v;
		}
	for (uint32_t i = 0; !id && from->family != AF_UNSPEC && i < l->n_sources; i++)
		if (is_from(&l->sources[i], from)) {
			who = source_text(&l->sources[i], from, text);
			v = quota_look(s->limits->source[i], who, as_limits(&l->sources[i]), now_us);
			said(reterr, &l->sources[i], "source", who, v);
			return v;
		}
	return v;
}

bool limits_rate_left(const struct limit_place *p, const struct cfg_rate *r, uint64_t now_us)
{
	return !r->per_second || rate_left(&p->rate, as_limit(r), now_us) > 0;
}

void limits_leave(struct conn *c)
{
	if (c->quota)
		quota_leave(TAKE(c->quota), c->w->loop.now_us);
}

static void count(_Atomic uint64_t *n)
{
	atomic_fetch_add_explicit(n, 1, memory_order_relaxed);
}

bool limits_listeners(struct conn *c, uint32_t from)
{
	for (uint32_t i = from; i < c->stages.n; i++) {
		const struct cfg_listener *l = &cfg_of(c)->listeners[c->stages.id[i]];
		struct limit_place *p = of(c)->listener[l->id];

		if (rate_take(&p->rate, as_limit(&l->rate), c->w->loop.now_us))
			continue;
		count(&p->refused_rate);
		stats_inc(&c->w->loop.stats, ST_REFUSED_RATE);
		conn_end(c, END_RATE, "listener '%s' takes %u connections per second", l->name, l->rate.per_second);
		return false;
	}
	return true;
}

bool limits_cluster(struct conn *c)
{
	const struct cfg_cluster *cl = c->stages.cluster;
	struct limit_place *p = of(c)->cluster[cl->id];

	if (rate_take(&p->rate, as_limit(&cl->rate), c->w->loop.now_us))
		return true;
	count(&p->refused_rate);
	stats_inc(&c->w->loop.stats, ST_REFUSED_RATE);
	conn_end(c, END_RATE, "cluster '%s' takes %u connections per second", cl->name, cl->rate.per_second);
	return false;
}

bool limits_tunnel(struct worker *w, const struct cfg_listener *l)
{
	struct limit_place *p = w->snap->limits->listener[l->id];

	if (rate_take(&p->tunnel_rate, as_limit(&l->tunnel_rate), w->loop.now_us))
		return true;
	count(&p->refused_tunnels);
	return false;
}

void limits_refused_listener(struct daemon *d, const struct snapshot *s, const struct cfg_listener *l)
{
	count(l ? &s->limits->listener[l->id]->refused_connections : &d->refused);
}

void limits_refused_cluster(const struct snapshot *s, const struct cfg_cluster *cl)
{
	count(&s->limits->cluster[cl->id]->refused_connections);
}

/* ---- for people ---- */

static uint64_t now_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

static uint64_t get(const _Atomic uint64_t *n)
{
	return atomic_load_explicit(n, memory_order_relaxed);
}

static struct limit_row place_row(enum limit_at at, const char *name, uint32_t active, uint32_t max, const struct cfg_rate *rate,
				  const struct limit_place *p, uint64_t now)
{
	return (struct limit_row){
		.at = at,
		.name = name,
		.active = active,
		.max_connections = max,
		.rate = *rate,
		.left = rate_left(&p->rate, as_limit(rate), now),
		.refused_connections = get(&p->refused_connections),
		.refused_rate = get(&p->refused_rate),
		.refused_tunnels = get(&p->refused_tunnels),
	};
}

static bool worth(const struct limit_row *r)
{
	return r->max_connections || r->rate.per_second || r->tunnel_rate.per_second || r->refused_connections || r->refused_rate ||
	       r->refused_tunnels;
}

static struct limit_row class_row(enum limit_at at, const struct cfg_quota *c, struct quota *q)
{
	struct quota_sums s;

	quota_sums(q, &s);
	return (struct limit_row){
		.at = at,
		.name = c->name,
		.active = s.active,
		.max_connections = c->max_connections,
		.rate = c->rate,
		.refused_connections = s.refused_connections,
		.refused_rate = s.refused_rate,
		.subjects = s.subjects,
		.remember = s.most,
		.overflowed = s.overflowed,
	};
}

int inspect_limits(struct daemon *d, struct limit_row **ret, size_t *ret_n)
{
	const struct config *cfg = d->cfg;
	const struct limits *l = d->snap->limits;
	struct limit_row *all = calloc(1u + l->n_listeners + l->n_clusters + l->n_principals + l->n_sources, sizeof(*all)), r;
	uint64_t now = now_us();
	size_t n = 0;

	if (!all)
		return -ENOMEM;
	all[n++] = (struct limit_row){ .at = LIMIT_DAEMON,
				       .name = "limits",
				       .active = atomic_load_explicit(&d->connections, memory_order_relaxed),
				       .max_connections = cfg->limits.max_connections,
				       .refused_connections = get(&d->refused) };
	for (uint32_t i = 0; i < l->n_listeners; i++) {
		const struct cfg_listener *c = &cfg->listeners[i];

		r = place_row(LIMIT_LISTENER, c->name, atomic_load_explicit(&d->per_listener[c->slot], memory_order_relaxed), c->max_connections,
			      &c->rate, l->listener[i], now);
		r.tunnel_rate = c->tunnel_rate;
		if (worth(&r))
			all[n++] = r;
	}
	for (uint32_t i = 0; i < l->n_clusters; i++) {
		const struct cfg_cluster *c = &cfg->clusters[i];

		r = place_row(LIMIT_CLUSTER, c->name, atomic_load_explicit(&d->per_cluster[c->slot], memory_order_relaxed), c->max_connections,
			      &c->rate, l->cluster[i], now);
		if (worth(&r))
			all[n++] = r;
	}
	for (uint32_t i = 0; i < l->n_principals; i++)
		all[n++] = class_row(LIMIT_PRINCIPAL, &cfg->limits.principals[i], l->principal[i]);
	for (uint32_t i = 0; i < l->n_sources; i++)
		all[n++] = class_row(LIMIT_SOURCE, &cfg->limits.sources[i], l->source[i]);
	*ret = all;
	*ret_n = n;
	return 0;
}

static size_t subject_rows(struct limit_subject_row *out, struct quota_row *tmp, size_t each, enum limit_at at, const struct cfg_quota *c,
			   struct quota *q, uint64_t now)
{
	size_t n = quota_rows(q, as_limits(c), now, tmp, each);

	for (size_t i = 0; i < n; i++)
		out[i] = (struct limit_subject_row){ .at = at, .name = c->name, .r = tmp[i] };
	return n;
}

int inspect_limit_subjects(struct daemon *d, size_t each, struct limit_subject_row **ret, size_t *ret_n)
{
	const struct limits *l = d->snap->limits;
	const struct cfg_limits *c = &d->cfg->limits;
	struct limit_subject_row *all = calloc((size_t)(l->n_principals + l->n_sources) * each + 1, sizeof(*all));
	AUTO_FREE struct quota_row *tmp = calloc(each + 1, sizeof(*tmp));
	uint64_t now = now_us();
	size_t n = 0;

	if (!all || !tmp) {
		free(all);
		return -ENOMEM;
	}
	for (uint32_t i = 0; i < l->n_principals; i++)
		n += subject_rows(all + n, tmp, each, LIMIT_PRINCIPAL, &c->principals[i], l->principal[i], now);
	for (uint32_t i = 0; i < l->n_sources; i++)
		n += subject_rows(all + n, tmp, each, LIMIT_SOURCE, &c->sources[i], l->source[i], now);
	*ret = all;
	*ret_n = n;
	return 0;
}
