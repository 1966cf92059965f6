/*
 * Run-time objects of listeners, clusters and endpoints: what of them outlives a configuration. They are made by the main thread, so
 * that a worker never fails half-way through a change, handed over, and from then on the worker's.
 */
#include "base/clean.h"
#include "chain/daemon.h"
#include <stdlib.h>
#include <string.h>

/* counters of two workers must not share a cache line */
static void *object(size_t size)
{
	size_t n = (size + 63) & ~(size_t)63;
	void *p = aligned_alloc(64, n);

	return p ? memset(p, 0, n) : NULL;
}

struct listener *listener_new(struct worker *w, const struct cfg_listener *l)
{
	struct listener *s = object(sizeof(*s));

	if (!s)
		return NULL;
	s->cfg = l;
	s->w = w;
	s->fd = s->owner.fd = -1;
	s->resume.fire = accept_resume;
	s->resume.arg = s;
	s->netns.name = l->netns;
	return s;
}

void listener_free(struct listener *s)
{
	if (!s)
		return;
	timer_disarm(&s->w->loop.timers, &s->resume);
	if (s->fd >= 0)
		close(s->fd);
	owner_close(&s->owner);
	netns_put(&s->netns);
	free(s);
}

struct endpoint *endpoint_new(const struct cfg_endpoint *e, const struct cfg_cluster *c)
{
	struct endpoint *ep = object(sizeof(*ep));

	if (!ep)
		return NULL;
	ep->refs = 1;
	ep->slot = c->slot;
	ep->address = e->address;
	ep->port = e->port;
	ep->refresh_ms = c->dns_refresh_ms;
	ep->host = e->host ? strdup(e->host) : NULL;
	if (!e->host || ep->host)
		return ep;
	free(ep);
	return NULL;
}

bool endpoint_is(const struct endpoint *ep, const struct cfg_endpoint *e)
{
	if (!ep->host || !e->host)
		return !ep->host && !e->host && addr_eq(&ep->address, &e->address);
	return ep->port == e->port && !strcmp(ep->host, e->host);
}

struct endpoint *endpoint_get(struct endpoint *ep)
{
	ep->refs++;
	return ep;
}

void endpoint_put(struct endpoint *ep)
{
	if (!ep || --ep->refs)
		return;
	free(ep->host);
	free(ep);
}

struct cluster *cluster_new(struct worker *w, const struct cfg_cluster *c)
{
	struct cluster *cl = object(sizeof(*cl));

	if (!cl)
		return NULL;
	cl->cfg = c;
	cl->netns.name = c->netns;
	pool_init(&cl->pool, &w->tunnels, NULL, c);
	cl->pool.netns = &cl->netns;
	cl->ep = calloc(c->n_endpoints + 1u, sizeof(*cl->ep));
	for (uint32_t i = 0; cl->ep && i < c->n_endpoints; i++)
		if (!(cl->ep[i] = endpoint_new(&c->endpoints[i], c))) {
			cluster_free(cl);
			return NULL;
		}
	if (cl->ep)
		return cl;
	free(cl);
	return NULL;
}

void cluster_free(struct cluster *cl)
{
	if (!cl)
		return;
	pool_finish(&cl->pool);
	for (uint32_t i = 0; i < cl->cfg->n_endpoints; i++)
		endpoint_put(cl->ep[i]);
	free(cl->ep);
	netns_put(&cl->netns);
	free(cl);
}
