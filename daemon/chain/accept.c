/*
 * Where connections come in: from a TCP listener here, as a CONNECT on an accepted tunnel in streams.c. Both make a struct conn, resolve
 * its chain and start the dial in the order of arrival.
 *
 * A listener with proxy_protocol waits for the header first, for nothing else and not for long. The header is looked at (MSG_PEEK) until
 * it is whole, then exactly its bytes are taken: what follows is the connection's and stays in the socket.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "codec/proxy.h"
#include "net/sock.h"
#include <stdio.h>
#include <string.h>

#define ACCEPTS 64	  /* per event, so that one busy listener does not starve the rest */
#define ACCEPT_ALL 1024 /* of them; a queue is not longer, and a flood must not keep a socket open for ever */
#define PAUSE_MS 50u
#define REFUSED_LOG_MS 1000u

/* counted first, then looked at: two workers must not both take the last place. @l NULL: of the daemon */
static bool place_take(struct worker *w, const struct snapshot *snap, _Atomic uint32_t *n, uint32_t max, const struct cfg_listener *l)
{
	if (atomic_fetch_add_explicit(n, 1, memory_order_relaxed) < max || !max)
		return true;
	atomic_fetch_sub_explicit(n, 1, memory_order_relaxed);
	limits_refused_listener(w->d, snap, l);
	return false;
}

struct conn *conn_new(struct worker *w, struct snapshot *snap, const struct cfg_listener *l)
{
	struct daemon *d = w->d;
	struct conn *c;

	if (!place_take(w, snap, &d->connections, w->snap->cfg->limits.max_connections, NULL))
		return NULL;
	if (!place_take(w, snap, &d->per_listener[l->slot], l->max_connections, l))
		goto fail;
	c = slab_alloc(&w->conns);
	if (!c)
		goto fail_place;
	c->w = w;
	c->snap = snapshot_get(snap, w->loop.worker);
	c->state = CONN_DIALING;
	c->leg[DST].side = DST;
	c->leg[SRC].fd = c->leg[DST].fd = -1;
	c->start_us = w->loop.now_us;
	c->last_ms = w->loop.now_ms;
	c->id = ++w->next_conn * w->d->n_workers + w->loop.worker; /* short for people, unique over workers */
	c->chunk_first = c->chunk_last = CHUNK_NONE;
	c->stages.n = 1;
	c->stages.id[0] = (uint16_t)l->id;
	stats_gauge(&w->loop.stats, SG_CONNECTIONS, 1);
	return c;
fail_place:
	atomic_fetch_sub_explicit(&d->per_listener[l->slot], 1, memory_order_relaxed);
fail:
	atomic_fetch_sub_explicit(&d->connections, 1, memory_order_relaxed);
	return NULL;
}

void conn_free(struct conn *c)
{
	struct worker *w = c->w;

	timer_disarm(&w->loop.timers, &c->timer);
	loop_defer_cancel(&w->loop, &c->task);
	for (int i = 0; i < 2; i++) {
		buf_finish(&c->leg[i].q);
		tunnel_who_put(c->leg[i].who);
		metadata_put(c->leg[i].md);
	}
	buf_finish(&c->early_data);
	free(c->authority);
	free(c->principal);
	free(c->why);
	judge_forget(c);
	endpoint_put(c->ep);
	for (uint32_t i = 0; i < c->n_via; i++)
		endpoint_put(c->via[i]);
	snapshot_put(c->snap, w->loop.worker);
	slab_free(&w->conns, c);
}

int conn_watch(struct conn *c, int side)
{
	/* a redial has a new descriptor: an event of the old one must not be taken for its own */
	union ev_ref ref = { .kind = EV_CONN, .side = (uint8_t)(side | c->tries << 1), .gen = c->head.gen, .idx = c->head.idx };

	return loop_watch(&c->w->loop, c->leg[side].fd, ref);
}

/* who is refused before there is a connection leaves a line, however many they are */
void accept_refused(struct worker *w, const struct cfg_listener *l, const struct addr *peer, enum denial kind, const char *why)
{
	struct denial_facts f = { .kind = kind, .listener = l->name, .src = peer, .why = why };
	char a[ADDR_STR], more[LOG_MORE];

	stats_inc(&w->loop.stats, kind == DENIAL_RATE			      ? ST_REFUSED_RATE :
				  kind == DENIAL_OVERLOAD && !w->draining ? ST_OVERLOAD_REFUSED :
									    ST_REFUSED_LIMIT);
	denied_note(w, &f);
	if (log_rate_text(&w->refused_log, w->loop.now_ms, REFUSED_LOG_MS, more))
		log_warn(LA_CHAIN, "connection from %s refused at listener '%s': %s%s", addr_str(peer, a), l->name, why, more);
}

const char *conn_principal(const struct conn *c)
{
	const struct leg *g = &c->leg[SRC];

	if (g->who && g->who->tls.id[0])
		return g->who->tls.id;
	return c->principal ? c->principal : whose_principal(c);
}

/* inner listeners have limits, too; the outermost one's was looked at before there was a connection */
static const struct cfg_listener *inner_limit(struct conn *c, uint32_t from)
{
	struct daemon *d = c->w->d;
	const struct cfg_listener *full = NULL;

	for (uint32_t i = from; i < c->stages.n; i++) {
		const struct cfg_listener *l = &c->snap->cfg->listeners[c->stages.id[i]];
		uint32_t n = atomic_fetch_add_explicit(&d->per_listener[l->slot], 1, memory_order_relaxed);

		if (l->max_connections && n >= l->max_connections)
			full = l;
	}
	return full;
}

/* the chain is resolved, then the dial begins or the connection ends with the reason */
void conn_go(struct conn *c, const struct cfg_listener *l, struct stage_context *ctx)
{
	struct worker *w = c->w;
	uint32_t known = c->n_via ? c->stages.n : 1; /* counted already: those before the short way; the outermost */
	const struct cfg_listener *full;
	enum stage_verdict v;

	conn_look(c);
	if (!c->n_via && !limits_subject(c))
		return;
	judge_prepare(c, ctx);
	v = c->n_via ? stages_extend(l, ctx, &c->stages) : stages_resolve(l, ctx, &c->stages);
	if (__builtin_expect(w->loop.tracing != 0, 0))
		tracing_route(c, v == STAGE_GO ? NULL : v == STAGE_DENIED ? "denied" : v == STAGE_LOOP ? "a loop" : "no route");
	full = inner_limit(c, known);
	conn_phase(c, AT_ROUTED);
	switch (v) {
	case STAGE_GO:
		if (full) {
			stats_inc(&w->loop.stats, ST_REFUSED_LIMIT);
			limits_refused_listener(w->d, c->snap, full);
			conn_end(c, END_LIMIT, "listener '%s' has its %u connections", full->name, full->max_connections);
			return;
		}
		if (!limits_listeners(c, c->n_via ? known : 0))
			return;
		for (; c->staged < c->stages.n; c->staged++) {
			struct listener *s = w->listeners[conn_slot(c, c->staged)];

			stats_bump(&s->accepted, 1);
			stats_bump(&s->active, 1);
		}
		if (judge_now(c))
			dial_start(c);
		return;
	case STAGE_LOOP:
		stats_inc(&w->loop.stats, ST_NO_ROUTE);
		conn_end(c, END_NO_ROUTE, "it comes back to listener '%s': a loop", l->name);
		return;
	case STAGE_NO_ROUTE:
		stats_inc(&w->loop.stats, ST_NO_ROUTE);
		conn_end(c, END_NO_ROUTE, "no route of listener '%s' takes it",
			 c->snap->cfg->listeners[c->stages.id[c->stages.n - 1]].name);
		return;
	case STAGE_DENIED:
		judge_end(c);
		return;
	}
}

static void route_tcp(struct conn *c)
{
	const struct cfg_listener *l = &c->snap->cfg->listeners[c->stages.id[0]];
	struct stage_context ctx = { .src = c->src, .orig_dst = c->orig_dst };
	char a[ADDR_STR];

	if (!whose_source(c))
		return;
	ctx.principal = conn_principal(c);
	ctx.in.addr = c->orig_dst;
	ctx.in.port = c->orig_dst.port;
	if (c->authority)
		ctx.in.authority = (struct slice){ c->authority, strlen(c->authority) };
	else if (l->n_routes)
		ctx.in.authority = (struct slice){ a, strlen(addr_str(&c->orig_dst, a)) };
	conn_go(c, l, &ctx);
}

/* ---- PROXY protocol ---- */

static bool proxy_trusted(const struct cfg_listener *l, const struct addr *peer)
{
	for (uint32_t i = 0; i < l->n_proxy_from; i++)
		if (cidr_has(&l->proxy_from[i], peer))
			return true;
	return false;
}

static void untrusted_log(struct worker *w, const struct cfg_listener *l, const struct addr *peer)
{
	char a[ADDR_STR], more[LOG_MORE];

	struct denial_facts f = { .kind = DENIAL_PROXY, .listener = l->name, .src = peer, .why = "the source is not in proxy_from of the listener" };

	stats_inc(&w->loop.stats, ST_PROXY_REFUSED);
	denied_note(w, &f);
	if (log_rate_text(&w->refused_log, w->loop.now_ms, REFUSED_LOG_MS, more))
		log_warn(LA_CHAIN, "connection from %s refused: it is not in proxy_from of listener '%s'%s", addr_str(peer, a), l->name, more);
}

static void proxy_refused(struct conn *c, const char *why)
{
	stats_inc(&c->w->loop.stats, ST_PROXY_REFUSED);
	conn_end(c, END_PROXY, "%s", why);
}

static void proxy_late(struct timer *t, void *arg)
{
	(void)t;
	proxy_refused(arg, "the PROXY header did not come in time");
}

/* Return: 0 or -ENOMEM */
static int proxy_take(struct conn *c, const struct proxy *h)
{
	if (h->src.family != AF_UNSPEC) {
		c->src = h->src;
		c->orig_dst = h->dst;
	}
	if (h->principal.p)
		c->principal = strndup(h->principal.p, h->principal.n);
	if (h->service.p && asprintf(&c->authority, "%.*s:%u", (int)h->service.n, h->service.p, c->orig_dst.port) < 0)
		c->authority = NULL;
	return (h->principal.p && !c->principal) || (h->service.p && !c->authority) ? -ENOMEM : 0;
}

static void proxy_read(struct conn *c)
{
	struct loop *l = &c->w->loop;
	uint8_t *p = l->scratch.in;
	ssize_t n = recv(c->leg[SRC].fd, p, PROXY_MAX, MSG_PEEK | MSG_DONTWAIT);
	struct err why = { "" };
	struct proxy h;
	int r;

	stats_inc(&l->stats, ST_SYS_RECV);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return;
	if (n < 0) {
		conn_end(c, END_SRC_RESET, "read: %s", strerror(errno));
		return;
	}
	r = proxy_decode(p, (size_t)n, &h, &why);
	if (r == 0 && (n == 0 || c->leg[SRC].hup))
		r = err_set(&why, -EINVAL, "the connection ended before its PROXY header did");
	if (r < 0)
		proxy_refused(c, why.msg);
	if (r <= 0)
		return;
	if (proxy_take(c, &h) < 0) { /* while the text is there: the next call writes over it */
		conn_end(c, END_MEMORY, "out of memory");
		return;
	}
	stats_inc(&l->stats, ST_SYS_RECV);
	if (recv(c->leg[SRC].fd, p, (size_t)r, MSG_DONTWAIT) != r) {
		conn_end(c, END_SRC_RESET, "read: the PROXY header is gone");
		return;
	}
	c->proxy_taken = (uint16_t)r;
	c->proxy_wait = false;
	stats_inc(&l->stats, ST_PROXY_HEADERS);
	timer_disarm(&l->timers, &c->timer);
	route_tcp(c);
}

static void proxy_wait(struct conn *c)
{
	c->proxy_wait = true;
	c->timer.fire = proxy_late;
	c->timer.arg = c;
	timer_arm(&c->w->loop.timers, &c->timer, c->w->loop.now_ms + max_u64(c->snap->cfg->timeouts.open_ms, 1));
	proxy_read(c); /* it often comes with the connection */
}

void accept_header(struct conn *c, uint32_t events)
{
	if (events & (EPOLLRDHUP | EPOLLHUP))
		c->leg[SRC].hup = true;
	proxy_read(c);
}

/* ---- listeners ---- */

/* where the application wanted to go; it stays our own address if it connected to the listener itself */
static void captured(struct conn *c, const struct cfg_listener *l)
{
	struct capture_claim claim;

	stats_inc(&c->w->loop.stats, ST_SYS_OTHER);
	if (capture_claim(c->w->d->kernel.capture, l, &c->src, &c->orig_dst, &claim) < 0)
		return;
	stats_inc(&c->w->loop.stats, ST_CAPTURED);
	c->orig_dst = claim.to;
	whose_captured(c, &claim);
}

static void accept_tcp(struct worker *w, const struct cfg_listener *l, int fd, const struct addr *peer)
{
	bool known = !l->proxy_protocol || proxy_trusted(l, peer);
	const char *over = known ? shed_refuses(w, false) : NULL;
	struct conn *c = known && !over ? conn_new(w, w->snap, l) : NULL;

	if (!c) {
		if (over)
			accept_refused(w, l, peer, DENIAL_OVERLOAD, over);
		else if (known)
			accept_refused(w, l, peer, DENIAL_LIMIT, ACCEPT_FULL);
		else
			untrusted_log(w, l, peer);
		sock_reset(fd);
		return;
	}
	stats_inc(&w->loop.stats, ST_ACCEPTED);
	c->leg[SRC].kind = LEG_SOCK;
	c->leg[SRC].fd = fd;
	c->leg[SRC].writable = c->leg[SRC].readable = true; /* the first bytes are often here already: they go with the CONNECT */
	c->src = *peer;
	shed_socket(w, fd);
	if (sock_local(fd, &c->orig_dst) < 0)
		c->orig_dst = l->address;
	if (l->capture && w->d->kernel.capture)
		captured(c, l);
	if (conn_watch(c, SRC) < 0)
		conn_end(c, END_MEMORY, "epoll refuses the descriptor");
	else if (l->proxy_protocol)
		proxy_wait(c);
	else
		route_tcp(c);
}

static void accept_tunnel(struct worker *w, const struct cfg_listener *l, int fd, const struct addr *peer)
{
	const char *over = shed_refuses(w, true);
	int r = -EBUSY;

	/* the limit is per worker: a hostile peer must not lock out the others by an atomic of all */
	if (over || (w->draining && !w->closing))
		accept_refused(w, l, peer, DENIAL_OVERLOAD, over ? over : "draining");
	else if (w->tunnels.accepted >= max_u64(w->snap->cfg->limits.max_tunnels_in / w->d->n_workers, 1))
		accept_refused(w, l, peer, DENIAL_LIMIT, "limits.max_tunnels_in is reached");
	else if (!limits_tunnel(w, l))
		accept_refused(w, l, peer, DENIAL_RATE, "the listener's tunnel_rate is exceeded");
	else
		r = tunnel_accept(&w->tunnels, fd, l, peer);
	if (r == -EACCES)
		accept_refused(w, l, peer, DENIAL_IDENTITY, "no workload has the address asked for, and it has no identity_default");
	else if (r == -ENOMEM)
		accept_refused(w, l, peer, DENIAL_OVERLOAD, "out of memory");
	if (r == 0)
		return;
	sock_reset(fd);
}

void accept_resume(struct timer *t, void *listener)
{
	struct listener *s = listener;
	union ev_ref ref = { .kind = EV_LISTENER, .idx = s->cfg->slot };

	(void)t;
	if (sock_scarce_now() || shed_pauses(s->w)) {
		timer_arm(&s->w->loop.timers, &s->resume, s->w->loop.now_ms + PAUSE_MS);
		return;
	}
	s->paused = false;
	if (s->fd >= 0)
		(void)loop_watch_level(&s->w->loop, s->fd, ref, EPOLLIN);
}

/* descriptors or memory ran out: who knocks waits in the backlog */
static void accept_pause(struct listener *s)
{
	union ev_ref ref = { .kind = EV_LISTENER, .idx = s->cfg->slot };
	char more[LOG_MORE];

	s->paused = true;
	stats_inc(&s->w->loop.stats, ST_ACCEPT_PAUSED);
	if (!shed_pauses(s->w) && log_kind(&s->w->loop.logs, LOG_K_SCARCE, s->w->loop.now_ms, more))
		log_warn(LA_CHAIN, "listener '%s': no descriptors or memory left, who connects waits: raise LimitNOFILE= (ulimit -n)%s", s->cfg->name, more);
	(void)loop_watch_level(&s->w->loop, s->fd, ref, 0);
	timer_arm(&s->w->loop.timers, &s->resume, s->w->loop.now_ms + PAUSE_MS);
}

/* @from: the listener's socket, or one more that it was given. Return: false when nobody waits, or nobody can be taken now */
static bool accept_some(struct listener *s, int from)
{
	struct worker *w = s->w;
	struct addr peer;
	int fd;

	if (shed_pauses(w) && s->fd >= 0 && !s->paused)
		accept_pause(s);
	for (int i = 0; i < ACCEPTS && s->fd >= 0 && !s->paused; i++) {
		fd = sock_accept(from, &peer);
		stats_inc(&w->loop.stats, ST_SYS_OTHER);
		if (fd == -EAGAIN)
			return false;
		if (fd == -EMFILE || fd == -ENFILE || fd == -ENOMEM || fd == -ENOBUFS || (fd >= 0 && sock_scarce(fd)))
			accept_pause(s);
		if (fd < 0 && s->paused)
			return false;
		if (fd < 0)
			continue; /* the connection was gone before it was accepted (accept(2), "Error handling") */
		if (s->cfg->type == LISTENER_TUNNEL)
			accept_tunnel(w, s->cfg, fd, &peer);
		else
			accept_tcp(w, s->cfg, fd, &peer);
		if (s->paused)
			return false;
	}
	return s->fd >= 0 && !s->paused;
}

void accept_event(struct worker *w, uint32_t slot)
{
	if (w->listeners[slot])
		(void)accept_some(w->listeners[slot], w->listeners[slot]->fd);
}

void accept_all(struct listener *s)
{
	accept_all_of(s, s->fd);
}

void accept_all_of(struct listener *s, int from)
{
	for (int i = 0; i < ACCEPT_ALL && accept_some(s, from); i++)
		;
}
