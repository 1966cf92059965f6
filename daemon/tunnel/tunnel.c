/*
 * Tunnels: from connect or accept over handshake and settings to the last stream. See tunnel.h for the states.
 *
 * Reading and flushing happen once per loop turn in the tunnel's task, so the output of a turn is one flush however many streams had
 * something to say. What is freed is freed by the task, too, never inside a callback of the session.
 */
#include "tunnel/tunnel.h"
#include "base/clean.h"
#include "base/log.h"
#include "net/hint.h"
#include "net/sock.h"
#include "tunnel/choose.h"
#include "tunnel/pool.h"
#include "tunnel/tunnel_int.h"
#include <stdio.h>
#include <string.h>

#define TICK_MIN_MS 20u
#define TICK_MAX_MS 60000u
#define TICK_CLOSING_MS 1000u /* a peer that keeps a finished tunnel open gets this long */

static const uint8_t tunnel_next[TUNNEL_STATES] = {
	[TUNNEL_CONNECTING] = BIT(TUNNEL_HANDSHAKE) | BIT(TUNNEL_CLOSED),
	[TUNNEL_HANDSHAKE] = BIT(TUNNEL_SETTLING) | BIT(TUNNEL_CLOSED),
	[TUNNEL_SETTLING] = BIT(TUNNEL_OPEN) | BIT(TUNNEL_DRAINING) | BIT(TUNNEL_CLOSED),
	[TUNNEL_OPEN] = BIT(TUNNEL_DRAINING) | BIT(TUNNEL_CLOSED),
	[TUNNEL_DRAINING] = BIT(TUNNEL_CLOSED),
	[TUNNEL_CLOSED] = 0,
};

const char *tunnel_state_str(const struct tunnel *t)
{
	static const char *const s[TUNNEL_STATES] = { "connecting", "handshake", "settling", "open", "draining", "closed" };

	return s[t->state];
}

struct tunnel_who *tunnel_who_get(struct tunnel_who *w)
{
	w->refs++;
	return w;
}

void tunnel_who_put(struct tunnel_who *w)
{
	if (!w || --w->refs)
		return;
	tls_ctx_put(w->own);
	free(w);
}

bool tunnel_set_state(struct tunnel *t, enum tunnel_state to)
{
	if (!(tunnel_next[t->state] & BIT(to)))
		return false;
	t->state = (uint8_t)to;
	log_dbg(LA_TUNNEL, "tunnel %u -> %s", t->id, tunnel_state_str(t));
	if (to != TUNNEL_CLOSED)
		tunnel_trace(t, TRACE_TUNNEL, "%s", tunnel_state_str(t));
	return true;
}

static void task_run(struct task *task);
static void tick(struct timer *timer, void *arg);

void tunnels_init(struct tunnels *ts, struct loop *l, uint32_t limit, const struct tunnel_hooks *hooks, void *owner)
{
	memset(ts, 0, sizeof(*ts));
	ts->l = l;
	ts->hooks = hooks;
	ts->owner = owner;
	slab_init(&ts->slab, sizeof(struct tunnel), limit);
}

static void tunnel_free(struct tunnel *t)
{
	timer_disarm(&t->l->timers, &t->timer);
	loop_defer_cancel(t->l, &t->task);
	metadata_put(t->md);
	tunnel_who_put(t->who);
	snapshot_put(t->snap, t->l->worker);
	slab_free(&t->all->slab, t);
}

void tunnels_finish(struct tunnels *ts)
{
	struct tunnel *t;

	for (uint32_t i = 0; (t = slab_next(&ts->slab, &i));) {
		tunnel_close(t, -ESHUTDOWN, "shutting down");
		tunnel_free(t);
	}
	slab_finish(&ts->slab);
}

static const struct cfg_timeouts *times(const struct tunnel *t)
{
	return &t->l->cfg->timeouts;
}

static uint64_t until(uint64_t then_ms, uint64_t now_ms)
{
	return then_ms > now_ms ? then_ms - now_ms : 0;
}

/* when the first of the times that tick() looks at is over */
static uint64_t tick_ms(const struct tunnel *t)
{
	const struct cfg_pool *p = t->peer ? &t->peer->pool->cluster->pool : NULL;
	uint64_t ms = times(t)->ping_ms ? times(t)->ping_ms : TICK_MAX_MS, now = t->l->now_ms;

	if (t->state == TUNNEL_DRAINING)
		return max_u64(min_u64(TICK_CLOSING_MS, rotate_in_ms(t)), TICK_MIN_MS);
	if (t->ping_out)
		ms = min_u64(ms, max_u64(times(t)->ping_timeout_ms, 1));
	if (p && p->idle_timeout_ms)
		ms = min_u64(ms, until((t->idle_ms ? t->idle_ms : now) + p->idle_timeout_ms, now));
	if (p && p->max_age_ms)
		ms = min_u64(ms, until(t->open_us / 1000u + 1 + p->max_age_ms, now));
	ms = min_u64(ms, rotate_in_ms(t));
	return min_u64(max_u64(ms, TICK_MIN_MS), TICK_MAX_MS);
}

void tunnel_opened(struct tunnel *t)
{
	const struct cfg_cluster *c = t->peer ? t->peer->pool->cluster : NULL;
	char a[ADDR_STR], more[LOG_MORE];

	if (!tunnel_set_state(t, TUNNEL_OPEN))
		return;
	t->open_us = t->l->now_us;
	t->heard_ms = t->l->now_ms;
	t->idle_ms = t->l->now_ms;
	hist_add(&t->l->hist[LH_HANDSHAKE_US], t->open_us - t->opened_us);
	stats_inc(&t->l->stats, ST_TUNNELS_OPENED);
	if (log_kind(&t->l->logs, LOG_K_TUNNEL_LIFE, t->l->now_ms, more))
		log_about(LOG_INFO, LA_TUNNEL, (&(struct log_about){ .tunnel = t->id, .peer = a }), "tunnel %u %s %s open: %s%s%s%s", t->id,
			  t->server ? "from" : "to", addr_str(&t->who->remote, a), t->who->tls.id[0] ? t->who->tls.id : "no TLS",
			  c ? ", cluster " : ", listener ", c ? c->name : t->listener->name, more);
	tunnel_tick_arm(t);
	rotate_begin(t);
}

void tunnel_tick_arm(struct tunnel *t)
{
	timer_arm(&t->l->timers, &t->timer, t->l->now_ms + tick_ms(t));
}

/* ---- life ---- */

/* a peer that vanished while nothing was under way is noise; one that took connections with it is not, and nor is one that we refused */
static enum log_kind close_kind(const struct tunnel *t, int error)
{
	if (error == -ESHUTDOWN || error == 0)
		return LOG_K_TUNNEL_LIFE;
	if (!t->open_us)
		return t->server ? LOG_K_TUNNEL_REFUSED : LOG_K_OTHER;
	return t->h2.streams ? LOG_K_TUNNEL_LOST : LOG_K_TUNNEL_IDLE;
}

static void close_log(struct tunnel *t, int error, const char *why)
{
	char a[ADDR_STR], more[LOG_MORE];
	const struct log_about about = { .tunnel = t->id, .peer = a };
	enum log_kind kind = close_kind(t, error);
	const char *dir = t->server ? "from" : "to";

	/* a dial that failed is reported by the pool */
	if (kind == LOG_K_OTHER || !log_kind(&t->l->logs, kind, t->l->now_ms, more))
		return;
	addr_str(&t->who->remote, a);
	if (kind == LOG_K_TUNNEL_LIFE)
		log_about(LOG_INFO, LA_TUNNEL, &about, "tunnel %u %s %s closed: %s%s", t->id, dir, a, why, more);
	else if (kind == LOG_K_TUNNEL_IDLE)
		log_about(LOG_INFO, LA_TUNNEL, &about, "tunnel %u %s %s lost while idle: %s%s", t->id, dir, a, why, more);
	else if (kind == LOG_K_TUNNEL_LOST)
		log_about(LOG_WARN, LA_TUNNEL, &about, "tunnel %u %s %s lost with %u live streams: %s%s", t->id, dir, a, t->h2.streams, why, more);
	else
		log_about(LOG_WARN, LA_TUNNEL, &about, "tunnel %u from %s refused at %s: %s%s", t->id, a, tunnel_state_str(t), why, more);
}

void tunnel_close(struct tunnel *t, int error, const char *why)
{
	struct pool_peer *peer = t->peer;
	uint8_t was = t->state;

	if (was == TUNNEL_CLOSED)
		return;
	if (why != t->why.msg)
		err_set(&t->why, 0, "%s", why);
	close_log(t, error, t->why.msg);
	tunnel_trace(t, TRACE_TUNNEL, "closed at %s: %s", tunnel_state_str(t), t->why.msg);
	if (was == TUNNEL_HANDSHAKE || (was == TUNNEL_SETTLING && error))
		stats_inc(&t->l->stats, ST_HANDSHAKE_FAIL);
	if (t->open_us)
		stats_inc(&t->l->stats, ST_TUNNELS_CLOSED);
	tunnel_set_state(t, TUNNEL_CLOSED);
	stats_gauge(&t->l->stats, t->server ? SG_TUNNELS_IN : SG_TUNNELS_OUT, -1);
	timer_disarm(&t->l->timers, &t->timer);
	t->all->closing = t;
	h2_abort(&t->h2);
	t->all->closing = NULL;
	rec_close(&t->rec, error == 0 || error == -ESHUTDOWN || error == -EKEYEXPIRED);
	if (peer) {
		t->peer = NULL;
		pool_tunnel_gone(peer, t, error);
	} else {
		t->all->accepted--;
	}
	loop_defer(t->l, &t->task);
}

static struct tunnel_who *who_new(struct tls_ctx *tls)
{
	struct tunnel_who *w = calloc(1, sizeof(*w));

	if (!w)
		return NULL;
	w->refs = 1;
	w->own = tls_ctx_get(tls);
	w->own_id = tls ? tls_ctx_id(tls) : "";
	return w;
}

static struct tunnel *tunnel_new(struct tunnels *ts, struct snapshot *snap, int fd, bool server, const struct cfg_identity *id, bool secure,
				 const char *sni)
{
	struct tls_ctx *tls = secure ? snapshot_tls(snap, id) : NULL;
	struct tunnel *t = slab_alloc(&ts->slab);

	if (!t)
		return NULL;
	t->who = who_new(tls);
	if (!t->who) {
		slab_free(&ts->slab, t);
		return NULL;
	}
	t->all = ts;
	t->l = ts->l;
	t->server = server;
	t->identity = id;
	t->task.run = task_run;
	t->timer.fire = tick;
	t->timer.arg = t;
	t->rec.fd = -1;
	t->opened_us = t->l->now_us;
	if (rec_open(&t->rec, t->l, fd, t->who->own, server, sni) < 0) {
		tunnel_who_put(t->who);
		slab_free(&ts->slab, t);
		return NULL;
	}
	t->snap = snapshot_get(snap, t->l->worker);
	t->id = t->who->tunnel = ++ts->next_id;
	sock_tunnel_options(fd);
	stats_gauge(&t->l->stats, server ? SG_TUNNELS_IN : SG_TUNNELS_OUT, 1);
	timer_arm(&t->l->timers, &t->timer, t->l->now_ms + max_u64(times(t)->handshake_ms, 1));
	return t;
}

static int tunnel_watch(struct tunnel *t)
{
	union ev_ref ref = { .kind = EV_TUNNEL, .gen = t->head.gen, .idx = t->head.idx };

	return loop_watch(t->l, t->rec.fd, ref);
}

int tunnel_accept(struct tunnels *ts, int fd, const struct cfg_listener *l, const struct addr *remote)
{
	const struct cfg_identity *id;
	struct addr local = { .family = AF_UNSPEC };
	struct tunnel *t;

	(void)sock_local(fd, &local);
	id = choose_first(ts->snap->cfg, l, &local);
	if (!id && l->tls)
		return -EACCES;
	t = tunnel_new(ts, ts->snap, fd, true, id, l->tls, NULL);
	if (!t)
		return -ENOMEM;
	ts->accepted++;
	t->listener = l;
	t->who->remote = *remote;
	t->who->local = local;
	t->state = TUNNEL_HANDSHAKE;
	choose_wait(t);
	if (__builtin_expect(ts->l->tracing != 0, 0))
		tunnel_look(t, 0);
	tunnel_trace(t, TRACE_TUNNEL, "accepted at listener '%s'", l->name);
	if (tunnel_watch(t) < 0)
		tunnel_close(t, -ENOMEM, "epoll refuses the descriptor");
	return 0;
}

int tunnel_dial(struct tunnels *ts, struct pool_peer *peer, const struct cfg_cluster *c, const struct cfg_identity *id, const struct addr *to,
		struct tunnel **ret, struct err *reterr)
{
	const struct sock_how how = { .netns = peer->pool->netns };
	AUTO_FD fd = sock_connect_how(to, &how, reterr);
	struct tunnel *t;

	if (fd < 0)
		return err_set(reterr, fd, "connect: %s%s", reterr->msg, net_hint(fd, NET_TUNNEL));
	t = tunnel_new(ts, peer->pool->snap, fd, false, id, c->tls, c->sni);
	if (!t)
		return err_set(reterr, -ENOMEM, "out of memory or too many tunnels");
	(void)fd_take(&fd);
	t->who->remote = *to;
	t->state = TUNNEL_CONNECTING;
	t->rec.writable = false;
	if (tunnel_watch(t) < 0) {
		t->peer = NULL;
		rec_close(&t->rec, false);
		stats_gauge(&t->l->stats, SG_TUNNELS_OUT, -1);
		tunnel_free(t);
		return err_set(reterr, -ENOMEM, "epoll refuses the descriptor");
	}
	t->peer = peer;
	*ret = t;
	return 0;
}

void tunnel_adopt(struct tunnel *t, struct snapshot *snap, const struct cfg_listener *l, const struct cfg_identity *id)
{
	struct snapshot *old = t->snap;

	t->snap = snapshot_get(snap, t->l->worker);
	t->listener = l;
	t->identity = id;
	snapshot_put(old, t->l->worker);
}

static void settle(struct tunnel *t)
{
	uint32_t max = t->server ? t->listener->max_streams : 0;

	stats_inc(&t->l->stats, t->server ? ST_HANDSHAKES_SERVER : ST_HANDSHAKES_CLIENT);
	if (!t->rec.tls) /* counted as handshakes are those with TLS only */
		stats_add(&t->l->stats, t->server ? ST_HANDSHAKES_SERVER : ST_HANDSHAKES_CLIENT, (uint64_t)-1);
	tunnel_set_state(t, TUNNEL_SETTLING);
	if (h2_init(&t->h2, t->l, t->server, max, &tunnel_ops, t) < 0)
		tunnel_close(t, -ENOMEM, "out of memory");
	else
		loop_defer(t->l, &t->task);
	t->h2.watch = t->watch;
	t->h2.trace_id = t->id;
}

static void identity_refused(struct tunnel *t)
{
	stats_inc(&t->l->stats, ST_IDENTITY_REFUSED);
	if (t->all->hooks->refused)
		t->all->hooks->refused(t->all->owner, t);
}

static void handshake_trace(struct tunnel *t, int r)
{
	tunnel_look(t, 0); /* its id may be known now */
	if (r == -EAGAIN)
		tunnel_trace(t, TRACE_TLS, "waits for the peer, %llu bytes of it so far", (unsigned long long)t->rec.frames.all);
	else if (r < 0)
		tunnel_trace(t, TRACE_TLS, "failed: %s", t->why.msg);
	else if (t->rec.tls)
		tunnel_trace(t, TRACE_TLS, "peer is %s, %s, records: %s", t->who->tls.id, t->who->tls.cipher, rec_engine_str(&t->rec));
}

static void handshake(struct tunnel *t)
{
	const char *const *ids = t->server ? t->listener->accept_ids : t->peer->pool->cluster->expect_ids;
	uint32_t n = t->server ? t->listener->n_accept_ids : t->peer->pool->cluster->n_expect_ids;
	int r = rec_handshake(&t->rec, ids, n, &t->who->tls, &t->why);

	if (__builtin_expect(t->l->tracing != 0, 0))
		handshake_trace(t, r);
	if (r == -EAGAIN)
		return;
	if ((r == -EACCES || r == -EKEYREVOKED) && t->who->tls.id[0])
		identity_refused(t);
	if (r < 0)
		tunnel_close(t, r, t->why.msg);
	else
		settle(t);
}

static void connected(struct tunnel *t)
{
	int r = sock_error(t->rec.fd);

	if (r < 0) {
		err_set(&t->why, 0, "connect: %s", net_error(r, NET_TUNNEL));
		tunnel_close(t, r, t->why.msg);
		return;
	}
	(void)sock_local(t->rec.fd, &t->who->local);
	tunnel_set_state(t, TUNNEL_HANDSHAKE);
}

/* @n as rec_read() says it */
static const char *lost_why(struct tunnel *t, ssize_t n)
{
	if (t->why.msg[0] && (n == 0 || t->h2.goaway_rx))
		return t->why.msg; /* its GOAWAY said it */
	if (n == -EPROTO)
		return tunnel_broke(t);
	if (!t->h2.settled) { /* it never said a word of HTTP/2 */
		const char *who = tls_unexpected(t->h2.first, t->h2.n_first), *own = tls_own_fault(t->rec.tls);

		if (who)
			return who;
		err_set(&t->why, 0, "%s right after the connection was made%s", n == 0 ? "closed by the peer" : strerror((int)-n),
			*own ? own : t->server ? ": its log says why" : ": it does not take us, or is no HBONE agent; its log says why");
		return t->why.msg;
	}
	return n == 0 ? "closed by the peer with streams open" : strerror((int)-n);
}

static void read_once(struct tunnel *t)
{
	struct err e = { "" };
	ssize_t n = tunnel_read_payload(t);

	if (n == -ENOMSG)
		n = rec_read(&t->rec, h2_input, &t->h2, &e);
	t->all->hooks->batch(t->all->owner);
	if (n > 0 || n == -EAGAIN || t->h2.dead)
		return;
	if (n == 0 && t->h2.streams == 0 && (t->h2.settled || (t->server && !t->h2.n_first))) { /* or it only knocked */
		tunnel_close(t, 0, "closed by the peer");
		return;
	}
	if (n == -EKEYEXPIRED)
		h2_goaway_last(&t->h2, NGHTTP2_NO_ERROR);
	(void)h2_flush(&t->h2); /* the GOAWAY that says what was wrong */
	tunnel_close(t, n == 0 ? -ECONNRESET : (int)n, e.msg[0] ? e.msg : lost_why(t, n));
}

static bool empty_and_done(struct tunnel *t)
{
	return t->state == TUNNEL_DRAINING && t->h2.streams == 0 && !nghttp2_session_want_write(t->h2.ng) &&
	       (!t->server || t->drain_step != 1) && rec_drained(&t->rec);
}

static void task_run(struct task *task)
{
	struct tunnel *t = container_of(task, struct tunnel, task);
	int r;

	if (t->state == TUNNEL_CLOSED) {
		tunnel_free(t);
		return;
	}
	if (t->state == TUNNEL_HANDSHAKE)
		handshake(t);
	if (t->state < TUNNEL_SETTLING || t->state == TUNNEL_CLOSED)
		return;
	r = rec_flush(&t->rec);
	if (r == 0)
		r = h2_flush(&t->h2);
	if (r < 0 && r != -EAGAIN) {
		tunnel_close(t, r,
			     r == -EPROTO  ? "HTTP/2 session failed" :
			     r == -EBADMSG ? "the connection is broken, or the peer sent a bad record" :
					     strerror(-r));
		return;
	}
	if (h2_over(&t->h2) && rec_drained(&t->rec)) {
		tunnel_close(t, t->h2.dead ? -EPROTO : 0, t->why.msg[0] ? t->why.msg : "finished");
		return;
	}
	if (empty_and_done(t)) {
		tunnel_close(t, 0, t->why.msg[0] ? t->why.msg : "drained");
		return;
	}
	if (rec_worn(&t->rec) && !t->worn) {
		t->worn = true;
		err_set(&t->why, 0, "replaced: record limit of its keys");
		tunnel_drain(t);
	}
	if (r == 1)
		loop_defer(t->l, &t->task);
	if (t->rec.readable && !t->h2.dead) {
		read_once(t);
		if (t->state != TUNNEL_CLOSED && t->rec.readable)
			loop_defer(t->l, &t->task);
	}
}

void tunnel_event(struct tunnels *ts, union ev_ref ref, uint32_t events)
{
	struct tunnel *t = slab_get(&ts->slab, ref.idx, ref.gen);

	if (!t || t->state == TUNNEL_CLOSED)
		return;
	if (t->state == TUNNEL_CONNECTING) {
		if (!(events & (EPOLLOUT | EPOLLERR | EPOLLHUP)))
			return;
		connected(t);
		if (t->state == TUNNEL_CLOSED)
			return;
	}
	if (events & (EPOLLOUT | EPOLLERR | EPOLLHUP))
		t->rec.writable = true;
	if (events & (EPOLLRDHUP | EPOLLERR | EPOLLHUP))
		t->rec.hup = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLERR | EPOLLHUP)) {
		t->rec.readable = true;
		/* once settled, read right here: what the data wakes is flushed in the same turn */
		if (t->state >= TUNNEL_SETTLING && !t->h2.dead)
			read_once(t);
	}
	if (t->state != TUNNEL_CLOSED && (t->state < TUNNEL_SETTLING || t->rec.readable || (events & (EPOLLOUT | EPOLLERR))))
		loop_defer(t->l, &t->task);
}

void tunnel_drain(struct tunnel *t)
{
	if (t->state == TUNNEL_CLOSED || t->drain_step)
		return;
	if (t->state < TUNNEL_SETTLING) {
		tunnel_close(t, -ESHUTDOWN, "draining");
		return;
	}
	tunnel_set_state(t, TUNNEL_DRAINING);
	if (t->server) {
		t->drain_step = 1;
		h2_goaway_first(&t->h2);
	} else {
		t->drain_step = 2;
		h2_goaway_last(&t->h2, NGHTTP2_NO_ERROR);
	}
	loop_defer(t->l, &t->task);
	if (t->peer)
		pool_tunnel_changed(t->peer);
}

void tunnel_stream_ended(struct tunnel *t)
{
	if (t->state == TUNNEL_CLOSED)
		return;
	if (t->h2.streams == 0) {
		t->idle_ms = t->l->now_ms;
		if (t->state == TUNNEL_DRAINING)
			loop_defer(t->l, &t->task);
	}
	if (t->peer)
		pool_tunnel_changed(t->peer);
}

static void keep_alive(struct tunnel *t)
{
	bool heard = t->rec.rx_bytes != t->rx_seen;

	t->rx_seen = t->rec.rx_bytes;
	if (heard) {
		t->ping_out = false;
		t->heard_ms = t->l->now_ms;
	}
	if (t->ping_out && t->l->now_ms - t->ping_ms >= times(t)->ping_timeout_ms) {
		stats_inc(&t->l->stats, ST_PING_TIMEOUT);
		tunnel_close(t, -ETIMEDOUT, "no answer to PING: the peer or the path is dead");
		return;
	}
	if (!t->ping_out && t->l->now_ms - t->heard_ms >= times(t)->ping_ms) {
		t->ping_out = true;
		t->ping_ms = t->l->now_ms;
		h2_ping(&t->h2, false);
	}
}

static void tick(struct timer *timer, void *arg)
{
	struct tunnel *t = arg;
	const struct cfg_pool *p = t->peer ? &t->peer->pool->cluster->pool : NULL;

	(void)timer;
	if (t->state < TUNNEL_OPEN) {
		tunnel_close(t, -ETIMEDOUT,
			     t->state == TUNNEL_CONNECTING ? "connect timed out; does a firewall block the tunnel port?" :
			     t->state == TUNNEL_HANDSHAKE  ? "TLS handshake timed out" :
							     "no HTTP/2 SETTINGS in time: is the peer an HBONE agent?");
		return;
	}
	h2_window_check(&t->h2);
	if (times(t)->ping_ms)
		keep_alive(t);
	if (t->state == TUNNEL_CLOSED)
		return;
	rotate_tick(t);
	if (p && t->state == TUNNEL_OPEN) {
		bool idle = !t->h2.streams && t->idle_ms && p->idle_timeout_ms && t->l->now_ms - t->idle_ms >= p->idle_timeout_ms;
		bool aged = p->max_age_ms && t->l->now_us - t->open_us >= p->max_age_ms * 1000u;

		if (idle || aged) {
			err_set(&t->why, 0, "%s", idle ? "idle" : "replaced: max_age");
			tunnel_drain(t);
		}
	}
	if (t->state != TUNNEL_CLOSED)
		tunnel_tick_arm(t);
}
