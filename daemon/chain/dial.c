/*
 * From routed to OPEN: choose an endpoint, resolve its name, get a tunnel or connect, and send or await CONNECT. Each failure tries
 * another endpoint while there are any; the last one's reason is the connection's.
 *
 * A TCP cluster may ask that the upstream sees the client: by its address as the source of our connection (net/local.h has the way
 * back), or by a PROXY header, which is the first that is written to a socket that has nothing to send yet.
 */
#include "base/clean.h"
#include "base/log.h"
#include "adit/meta.h"
#include "chain/daemon.h"
#include "codec/proxy.h"
#include "net/hint.h"
#include "net/sock.h"
#include <string.h>

#define TRIES 4u /* endpoints, tunnels and re-dispatches of one connection */

static void deadline(struct timer *t, void *arg);
static void dial_next(struct conn *c);

static void arm(struct conn *c, uint64_t ms)
{
	c->timer.fire = deadline;
	c->timer.arg = c;
	timer_arm(&c->w->loop.timers, &c->timer, c->w->loop.now_ms + max_u64(ms, 1));
}

/* @ep may be kept longer than its cluster has it */
static void keep(struct conn *c, struct endpoint *ep)
{
	struct endpoint *old = c->ep;

	c->ep = ep ? endpoint_get(ep) : NULL;
	endpoint_put(old);
}

static void chose(struct conn *c, struct endpoint *ep, const struct addr *to)
{
	keep(c, ep);
	c->dst = *to;
	c->chosen = ep != NULL;
	conn_look(c);
	if (ep) {
		stats_bump(&ep->active, 1);
		stats_bump(&ep->total, 1);
	}
}

static void unchoose(struct conn *c, bool failed)
{
	if (!c->chosen)
		return;
	c->chosen = false;
	stats_bump(&c->ep->active, (uint64_t)-1);
	if (failed)
		stats_bump(&c->ep->failed, 1);
}

/* ---- choice of an endpoint ---- */

static struct endpoint *pick_of_two(struct worker *w, struct cluster *cl)
{
	uint32_t n = cl->cfg->n_endpoints;
	struct endpoint *a = cl->ep[loop_random(&w->loop) % n], *b = cl->ep[loop_random(&w->loop) % n];

	return atomic_load_explicit(&b->active, memory_order_relaxed) < atomic_load_explicit(&a->active, memory_order_relaxed) ? b : a;
}

static struct endpoint *after(const struct cluster *cl, const struct endpoint *ep)
{
	uint32_t n = cl->cfg->n_endpoints, i = 0;

	while (i < n && cl->ep[i] != ep)
		i++;
	return cl->ep[i < n ? (i + 1) % n : 0];
}

struct endpoint *dial_first(struct cluster *cl)
{
	uint32_t n = cl->cfg->n_endpoints, start = cl->rr;
	struct endpoint *best;

	switch (cl->cfg->balance) {
	case BALANCE_ROUND_ROBIN:
		return cl->ep[start % n];
	case BALANCE_RANDOM_TWO:
		return NULL;
	case BALANCE_LEAST_REQUEST:
		break;
	}
	best = cl->ep[start % n];
	for (uint32_t i = 1; i < n; i++) {
		struct endpoint *e = cl->ep[(start + i) % n];

		if (atomic_load_explicit(&e->active, memory_order_relaxed) < atomic_load_explicit(&best->active, memory_order_relaxed))
			best = e;
	}
	return best;
}

static struct endpoint *pick(struct conn *c, struct cluster *cl)
{
	struct endpoint *ep = dial_first(cl);

	cl->rr++;
	if (c->tries && c->ep) /* the one chosen first has failed: go round */
		return after(cl, c->ep);
	return ep ? ep : pick_of_two(c->w, cl);
}

/* ---- TCP ---- */

/* the next endpoint, or the end */
static void failed_tcp(struct conn *c, enum ending e, const char *why)
{
	char a[ADDR_STR];

	conn_trace(c, TRACE_DIAL, "connect to %s: %s", addr_str(&c->dst, a), why);
	stats_inc(&c->w->loop.stats, ST_CONNECT_FAIL);
	if (c->leg[DST].fd >= 0)
		close(c->leg[DST].fd);
	c->leg[DST].fd = -1;
	c->leg[DST].kind = LEG_NONE;
	if (c->ep && c->tries + 1u < min_u64(TRIES, c->stages.cluster->n_endpoints)) {
		unchoose(c, true);
		c->tries++;
		dial_next(c);
		return;
	}
	conn_end(c, e, "connect to %s: %s", addr_str(&c->dst, a), why);
}

/* whose address the upstream sees; NULL: ours. A loopback address means nothing to anybody but this node. */
static const struct addr *source_of(const struct conn *c, const struct addr *to)
{
	if (c->stages.cluster->source != SOURCE_CLIENT || (addr_is_loopback(&c->src) && !addr_is_loopback(to)))
		return NULL;
	return &c->src;
}

/* by which mark the answers come back (net/local.h) */
static uint32_t mark_for(const struct conn *c, struct cluster *cl, const struct addr *to)
{
	struct local *l = c->w->d->kernel.local;
	int fd;

	if (!cl->netns.name)
		return l && local_has(l, to) ? LOCAL_MARK : LOCAL_MARK_OUT;
	return netns_get(&cl->netns, &fd, NULL) == 0 && local_reaches(fd, to) == 1 ? LOCAL_MARK : LOCAL_MARK_OUT;
}

static void dial_tcp(struct conn *c, struct cluster *cl, const struct addr *to)
{
	struct sock_how how = { .netns = &cl->netns, .from = source_of(c, to) };
	struct leg *g = &c->leg[DST];
	struct err why = { "" };

	if (how.from)
		how.mark = mark_for(c, cl, to);
	stats_add(&c->w->loop.stats, ST_SYS_OTHER, 3);
	c->connect_us = c->w->loop.now_us;
	g->fd = sock_connect_how(to, &how, &why);
	if (g->fd < 0) {
		err_set(&why, 0, "%s%s", why.msg, net_hint(g->fd, NET_BACKEND));
		g->fd = -1;
		failed_tcp(c, END_CONNECT, why.msg);
		return;
	}
	g->kind = LEG_SOCK;
	shed_socket(c->w, g->fd);
	if (conn_watch(c, DST) < 0)
		failed_tcp(c, END_CONNECT, strerror(ENOMEM));
	else
		arm(c, c->stages.cluster->connect_timeout_ms);
}

/* the header of an upstream that wants one. Return: 0 or -errno */
static int proxy_send(struct conn *c)
{
	const char *id = conn_principal(c);
	struct proxy h = { .version = c->stages.cluster->proxy_protocol == PROXY_V1 ? 1 : 2, .src = c->src, .dst = dial_wanted(c) };
	uint8_t out[PROXY_OUT_MAX];
	struct authority a;
	ssize_t sent;
	size_t n;

	if (h.dst.family == AF_UNSPEC)
		h.dst = c->dst;
	if (id)
		h.principal = (struct slice){ id, strlen(id) };
	if (c->authority && authority_parse(c->authority, strlen(c->authority), &a, NULL) == 0 && a.addr.family == AF_UNSPEC)
		h.service = a.host;
	n = proxy_encode(out, &h);
	sent = send(c->leg[DST].fd, out, n, MSG_DONTWAIT | MSG_NOSIGNAL);
	stats_inc(&c->w->loop.stats, ST_SYS_SEND);
	if (sent < 0)
		return -errno;
	if ((size_t)sent < n) /* nothing is in this socket's buffer yet: only a limit below 3 KB does that (tcp_wmem, tcp(7)) */
		return -ENOBUFS;
	c->proxy_sent = (uint16_t)n;
	return 0;
}

void dial_event(struct conn *c, uint32_t events)
{
	int e = events & (EPOLLERR | EPOLLHUP) ? sock_error(c->leg[DST].fd) : 0;

	if (e == 0 && (events & EPOLLERR))
		e = -ECONNRESET;
	if (e == 0 && !(events & EPOLLOUT))
		return;
	if (e == 0 && c->stages.cluster->proxy_protocol != PROXY_NONE)
		e = proxy_send(c);
	if (e < 0) {
		failed_tcp(c, e == -ETIMEDOUT ? END_CONNECT_TIME : END_CONNECT, net_error(e, NET_BACKEND));
		return;
	}
	stats_inc(&c->w->loop.stats, ST_CONNECT_OK);
	conn_trace(c, TRACE_DIAL, "connected after %llu us", (unsigned long long)(c->w->loop.now_us - c->connect_us));
	hist_add(&c->w->loop.hist[LH_CONNECT_US], c->w->loop.now_us - c->connect_us);
	c->leg[DST].writable = true;
	c->leg[DST].readable = (events & EPOLLIN) != 0;
	c->leg[DST].hup = (events & EPOLLRDHUP) != 0;
	relay_open(c);
}

/* ---- tunnel ---- */

size_t dial_authority(const struct conn *c, char text[ADDR_STR], const char **ret)
{
	if (c->stages.cluster->authority)
		*ret = c->stages.cluster->authority;
	else if (c->authority)
		*ret = c->authority;
	else
		*ret = addr_str(&c->orig_dst, text);
	return strlen(*ret);
}

void dial_trace(struct conn *c, char out[TRACEPARENT_LEN + 1])
{
	if (!c->traced) {
		uint64_t r[3] = { loop_random(&c->w->loop), loop_random(&c->w->loop), loop_random(&c->w->loop) };

		memcpy(c->trace, r, sizeof(c->trace));
		c->traced = true;
	}
	traceparent_encode(out, c->trace, 0);
}

static void opened_trace(struct conn *c, struct tunnel *t, const char *authority, size_t n, const char *traceparent)
{
	struct header h[CONNECT_SELF_NV + 8];
	char fwd[FORWARDED_MAX];

	conn_trace(c, TRACE_POOL, "has tunnel %u.%u after %llu us, stream %u", c->w->loop.worker, t->id, (unsigned long long)c->queue_us, c->leg[DST].sid);
	tracing_headers(c, "sent", t->id, c->leg[DST].sid, h, connect_headers(whose_asks(c, t), authority, n, &c->src, traceparent, fwd, h));
}

static void tunnel_ready(struct pool_wait *wait, struct tunnel *t, int error, const char *why)
{
	struct conn *c = container_of(wait, struct conn, wait);
	char text[ADDR_STR], trace[TRACEPARENT_LEN + 1];
	const char *authority;
	size_t n;
	int r;

	c->queue_us = c->w->loop.now_us - wait->since_us;
	if (!t)
		conn_trace(c, TRACE_POOL, "no tunnel after %llu us: %s", (unsigned long long)c->queue_us, why);
	if (!t) {
		if (error != -ETIMEDOUT && c->ep && c->tries + 1u < min_u64(TRIES, c->stages.cluster->n_endpoints)) {
			unchoose(c, true);
			c->tries++;
			dial_next(c);
			return;
		}
		conn_end(c, error == -ETIMEDOUT ? END_QUEUE_TIME : END_NO_TUNNEL, "%s", why);
		return;
	}
	n = dial_authority(c, text, &authority);
	dial_trace(c, trace);
	c->leg[DST].kind = LEG_STREAM;
	r = connect_open(&t->h2, &c->leg[DST].s, whose_asks(c, t), authority, n, &c->src, trace);
	if (r < 0) {
		c->leg[DST].kind = LEG_NONE;
		if (r == -ESTALE) {
			tunnel_drain(t);
			if (dial_again(c))
				return;
		}
		conn_end(c, END_NO_TUNNEL, "stream could not be opened: %s", strerror(-r));
		return;
	}
	c->leg[DST].sid = (uint32_t)c->leg[DST].s.id;
	conn_look(c);
	if (__builtin_expect(c->watch != 0, 0))
		opened_trace(c, t, authority, n, trace);
	c->connect_us = c->w->loop.now_us;
	t->idle_ms = 0;
	c->early = true;
	arm(c, c->snap->cfg->timeouts.open_ms);
}

static void dial_tunnel(struct conn *c, struct cluster *cl, const struct addr *to)
{
	bool waited;
	int r;

	c->wait.ready = tunnel_ready;
	c->wait.watch = c->watch;
	c->wait.trace_id = c->id;
	r = pool_get(&cl->pool, to, whose_identity(c, c->stages.cluster, c->n_via), &c->wait, &waited);
	if (r == -EBUSY)
		conn_end(c, END_QUEUE_FULL, "%u connections wait for a tunnel of cluster '%s' already", cl->cfg->pool.queue, cl->cfg->name);
	else if (r < 0)
		conn_end(c, END_MEMORY, "out of memory");
}

bool dial_again(struct conn *c)
{
	struct cluster *cl = c->w->clusters[c->stages.cluster->slot];
	bool waited;

	if (c->tries + 1u >= TRIES || c->state != CONN_DIALING)
		return false;
	c->tries++;
	stats_inc(&c->w->loop.stats, ST_REDISPATCHED);
	c->early = false;
	tunnel_who_put(TAKE(c->leg[DST].who));
	metadata_put(TAKE(c->leg[DST].md));
	c->leg[DST].kind = LEG_NONE;
	c->leg[DST].out_done = false;
	/* what was sent in vain is sent again, in front of what still waits (a forwarded stream's bytes) */
	if (c->early_data.len) {
		struct buf q = c->leg[DST].q;

		c->bytes[SRC] -= c->early_data.len; /* counted again when it is pulled again */
		c->leg[DST].q = c->early_data;
		memset(&c->early_data, 0, sizeof(c->early_data));
		if (q.len && buf_append(&c->leg[DST].q, buf_at(&q), q.len) < 0) {
			buf_finish(&q);
			return false;
		}
		buf_finish(&q);
	}
	timer_disarm(&c->w->loop.timers, &c->timer);
	if (pool_get(&cl->pool, &c->dst, whose_identity(c, c->stages.cluster, c->n_via), &c->wait, &waited) < 0)
		return false;
	return true;
}

void dial_answer(struct conn *c, struct tunnel *t, const struct header *h, size_t n)
{
	int status = connect_status(h, n);
	char reason[META_REASON_MAX + 16];
	bool said;

	c->status = (uint16_t)status;
	conn_look(c);
	if (__builtin_expect(c->watch != 0, 0))
		tracing_headers(c, "received", t->id, c->leg[DST].sid, h, n);
	if (status >= 200 && status < 300) {
		c->leg[DST].answered = true;
		relay_open(c);
		return;
	}
	said = connect_reason(h, n, reason, sizeof(reason)) != 0;
	if (status == 401 || status == 403)
		conn_end(c, END_PEER_DENIED, "the peer agent denied it (%d)%s%s", status, said ? ": " : connect_status_hint(status), reason);
	else
		conn_end(c, END_PEER_REFUSED, "the peer agent answered %d%s%s", status, said ? ": " : connect_status_hint(status), reason);
	(void)t;
}

struct addr dial_wanted(const struct conn *c)
{
	struct authority a;

	if (!c->n_via) /* the short way leaves orig_dst as the outermost listener saw it */
		return c->orig_dst;
	if (authority_parse(c->authority, strlen(c->authority), &a, NULL) < 0)
		return (struct addr){ .family = AF_UNSPEC };
	return a.addr;
}

/* ---- names ---- */

static void dial_to(struct conn *c, struct endpoint *ep, const struct addr *to)
{
	char text[ADDR_STR];
	struct cluster *cl = c->w->clusters[c->stages.cluster->slot];

	timer_disarm(&c->w->loop.timers, &c->timer); /* that of the name; the pool has its own */
	chose(c, ep, to);
	conn_trace(c, TRACE_DIAL, "%s %s of cluster '%s'", c->stages.cluster->type == CLUSTER_TUNNEL ? "agent at" : "connecting to", addr_str(to, text),
		   c->stages.cluster->name);
	conn_phase(c, AT_NAMED);
	if (c->stages.cluster->type != CLUSTER_TUNNEL)
		dial_tcp(c, cl, to);
	else if (!short_way(c, to))
		dial_tunnel(c, cl, to);
}

bool dial_allowed(const struct cfg_cluster *cl, const struct addr *to)
{
	for (uint32_t i = 0; i < cl->n_destinations; i++)
		if (cidr_has(&cl->destinations[i], to))
			return true;
	return false;
}

/* the listener that it came in by: it would come in again, and again */
bool dial_comes_back(const struct daemon *d, const struct cfg_listener *l, const struct cfg_cluster *cl, const struct addr *to)
{
	const char *from = cl->netns, *at = l->netns;

	if (l->type != LISTENER_TCP || l->address.port != to->port || l->address.family != to->family ||
	    strcmp(from ? from : "", at ? at : ""))
		return false;
	return addr_eq(&l->address, to) || (addr_is_any(&l->address) && d->kernel.local && local_has(d->kernel.local, to));
}

static void dial_original(struct conn *c, const struct addr *to)
{
	char a[ADDR_STR];

	if (dial_comes_back(c->w->d, &c->snap->cfg->listeners[c->stages.id[0]], c->stages.cluster, to)) {
		stats_inc(&c->w->loop.stats, ST_NO_ROUTE);
		conn_end(c, END_NO_ROUTE, "connected to listener '%s' itself: there is no other destination to go to",
			 c->snap->cfg->listeners[c->stages.id[0]].name);
		return;
	}
	if (!dial_allowed(c->stages.cluster, to)) {
		stats_inc(&c->w->loop.stats, ST_DENIED);
		conn_end(c, END_DENIED, "%s is not among the destinations of cluster '%s'", addr_str(to, a), c->stages.cluster->name);
		return;
	}
	dial_to(c, NULL, to);
}

static struct conn *conn_by_ref(struct worker *w, uint64_t ref)
{
	union ev_ref r = { .u64 = ref };
	struct conn *c = slab_get(&w->conns, r.idx, r.gen);

	return c && c->state == CONN_DIALING ? c : NULL;
}

static uint64_t conn_ref(const struct conn *c)
{
	union ev_ref r = { .gen = c->head.gen, .idx = c->head.idx };

	return r.u64;
}

static void original_named(void *owner, uint64_t arg, const struct addr *a, uint32_t n, const char *why)
{
	struct conn *c = conn_by_ref(owner, arg);
	struct authority asked;
	struct addr to;

	if (!c)
		return;
	conn_trace(c, TRACE_DNS, "%u addresses%s%s", n, n ? "" : ": ", n ? "" : why);
	if (!n || authority_parse(c->authority, strlen(c->authority), &asked, NULL) < 0) {
		conn_end(c, END_NO_NAME, "name of %s: %s", c->authority, why);
		return;
	}
	to = a[0];
	to.port = asked.port;
	if (judge_address(c, &to))
		dial_original(c, &to);
}

static void endpoint_answer(struct endpoint *ep, struct worker *w, const struct addr *a, uint32_t n)
{
	ep->looking = false;
	if (!n)
		return; /* old addresses stay in use: a DNS outage must not become ours */
	memcpy(ep->addr, a, n * sizeof(*a));
	for (uint32_t i = 0; i < n; i++)
		ep->addr[i].port = ep->port;
	ep->n = n;
	ep->fresh_until_ms = w->loop.now_ms + max_u64(ep->refresh_ms, 1000);
	atomic_store_explicit(&ep->known, 1, memory_order_release);
}

static void endpoint_refreshed(void *owner, uint64_t arg, const struct addr *a, uint32_t n, const char *why)
{
	struct endpoint *ep = (struct endpoint *)(uintptr_t)arg;

	(void)why;
	endpoint_answer(ep, owner, a, n);
	endpoint_put(ep);
}

static void endpoint_named(void *owner, uint64_t arg, const struct addr *a, uint32_t n, const char *why)
{
	struct worker *w = owner;
	struct conn *c = conn_by_ref(w, arg);
	struct endpoint *ep = c ? c->ep : NULL;

	if (!c || !ep)
		return;
	conn_trace(c, TRACE_DNS, "%s: %u addresses%s%s", ep->host, n, n ? "" : ": ", n ? "" : why);
	endpoint_answer(ep, w, a, n);
	if (!n)
		conn_end(c, END_NO_NAME, "name %s: %s", ep->host, why);
	else
		dial_to(c, ep, &ep->addr[ep->next++ % ep->n]);
}

static void dial_endpoint(struct conn *c, struct endpoint *ep)
{
	struct worker *w = c->w;

	if (!ep->host) {
		dial_to(c, ep, &ep->address);
		return;
	}
	if (ep->n && ep->fresh_until_ms <= w->loop.now_ms && !ep->looking) {
		ep->looking = true;
		if (dns_query(w->dns, ep->host, endpoint_refreshed, (uintptr_t)endpoint_get(ep)) < 0) {
			ep->looking = false;
			endpoint_put(ep);
		}
	}
	if (ep->n) {
		dial_to(c, ep, &ep->addr[ep->next++ % ep->n]);
		return;
	}
	keep(c, ep); /* counted when the name is known */
	arm(c, c->stages.cluster->connect_timeout_ms);
	conn_trace(c, TRACE_DNS, "asks for %s", ep->host);
	if (dns_query(w->dns, ep->host, endpoint_named, conn_ref(c)) < 0)
		conn_end(c, END_MEMORY, "out of memory");
}

/* host part of the authority, for the resolver */
static void dial_original_name(struct conn *c)
{
	struct authority a;
	char host[AUTHORITY_HOST_MAX + 1];

	if (!c->authority || authority_parse(c->authority, strlen(c->authority), &a, NULL) < 0) {
		conn_end(c, END_NO_ROUTE, "no original destination");
		return;
	}
	memcpy(host, a.host.p, a.host.n);
	host[a.host.n] = '\0';
	arm(c, c->stages.cluster->connect_timeout_ms);
	conn_trace(c, TRACE_DNS, "asks for %s", host);
	if (dns_query(c->w->dns, host, original_named, conn_ref(c)) < 0)
		conn_end(c, END_MEMORY, "out of memory");
}

static void dial_next(struct conn *c)
{
	struct cluster *cl = c->w->clusters[c->stages.cluster->slot];
	struct endpoint *ep;
	struct addr to;

	switch (cl->cfg->type) {
	case CLUSTER_TCP:
	case CLUSTER_TUNNEL:
		ep = pick(c, cl);
		dial_endpoint(c, ep);
		return;
	case CLUSTER_ORIGINAL_DST:
		to = dial_wanted(c);
		if (to.family == AF_UNSPEC)
			dial_original_name(c);
		else
			dial_original(c, &to);
		return;
	case CLUSTER_INTERNAL: /* resolved away by stages_resolve() */
		break;
	}
	conn_end(c, END_NO_ROUTE, "cluster '%s' leads nowhere", cl->cfg->name);
}

void dial_start(struct conn *c)
{
	const struct cfg_cluster *cl = c->stages.cluster;
	struct daemon *d = c->w->d;

	c->counted = true;
	if (atomic_fetch_add_explicit(&d->per_cluster[cl->slot], 1, memory_order_relaxed) >= cl->max_connections && cl->max_connections) {
		stats_inc(&c->w->loop.stats, ST_REFUSED_LIMIT);
		limits_refused_cluster(c->snap, cl);
		conn_end(c, END_LIMIT, "cluster '%s' has its %u connections", cl->name, cl->max_connections);
		return;
	}
	if (whose_leaves(c) && limits_cluster(c))
		dial_next(c);
}

void dial_cancel(struct conn *c, bool failed)
{
	pool_cancel(&c->wait);
	unchoose(c, failed);
}

static void deadline(struct timer *t, void *arg)
{
	struct conn *c = arg;
	char a[ADDR_STR];

	(void)t;
	if (c->state != CONN_DIALING)
		return;
	if (c->leg[DST].kind == LEG_SOCK)
		failed_tcp(c, END_CONNECT_TIME, net_error(ETIMEDOUT, NET_BACKEND));
	else if (c->leg[DST].kind == LEG_STREAM)
		conn_end(c, END_OPEN_TIME, "the peer agent at %s did not answer CONNECT in time", addr_str(&c->dst, a));
	else
		conn_end(c, END_NO_NAME, "name not resolved in time");
}
