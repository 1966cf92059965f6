/*
 * What a tunnel's HTTP/2 session reports and asks for: streams go on to the hooks, the rest is the tunnel's own business.
 * Called from within the session: nothing is freed here.
 */
#include "base/clean.h"
#include "base/log.h"
#include "codec/spiffe.h"
#include "net/sock.h"
#include "tunnel/pool.h"
#include "tunnel/tunnel_int.h"
#include <string.h>

#define PAYLOAD_TURN (256u * 1024u) /* bytes per tunnel and turn that do not come to our memory */

static void on_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned flags)
{
	struct tunnel *t = owner;

	t->idle_ms = 0;
	t->all->hooks->request(t->all->owner, t, id, h, n, flags);
}

static void on_response(void *owner, struct h2_stream *s, const struct header *h, size_t n, unsigned flags)
{
	struct tunnel *t = owner;

	t->all->hooks->response(t->all->owner, t, s, h, n, flags);
}

static void on_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	struct tunnel *t = owner;

	t->all->hooks->data(t->all->owner, s, p, n);
}

static void on_end(void *owner, struct h2_stream *s)
{
	struct tunnel *t = owner;

	t->all->hooks->end(t->all->owner, s);
}

static void on_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	struct tunnel *t = owner;

	t->all->hooks->closed(t->all->owner, s, code, by_peer);
	tunnel_stream_ended(t);
}

static ssize_t on_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	struct tunnel *t = owner;

	return t->all->hooks->pull(t->all->owner, s, dst, max, ret_eof);
}

static ssize_t on_pull_pipe(void *owner, struct h2_stream *s, size_t max, struct pipe **ret)
{
	struct tunnel *t = owner;

	return t->all->hooks->pull_pipe && rec_can_splice_tx(&t->rec) ? t->all->hooks->pull_pipe(t->all->owner, s, max, ret) : -EAGAIN;
}

static void on_settings(void *owner)
{
	struct tunnel *t = owner;

	if (t->state == TUNNEL_SETTLING)
		tunnel_opened(t);
	if (t->peer)
		pool_tunnel_changed(t->peer);
}

/* what a peer means that ends a tunnel with an error */
static const char *goaway_hint(uint32_t code)
{
	switch (code) {
	case NGHTTP2_PROTOCOL_ERROR:
	case NGHTTP2_FRAME_SIZE_ERROR:
	case NGHTTP2_COMPRESSION_ERROR:
		return "; it does not understand us: is it an HBONE agent, and the port its tunnel port?";
	case NGHTTP2_ENHANCE_YOUR_CALM:
		return "; one of its limits was exceeded: limits.rates there";
	case NGHTTP2_INADEQUATE_SECURITY:
		return "; it wants other TLS settings";
	case NGHTTP2_INTERNAL_ERROR:
		return "; its log says why";
	}
	return "";
}

static void goaway_log(struct tunnel *t, uint32_t code)
{
	const char *name = nghttp2_http2_strerror(code), *said = t->h2.goaway_text;
	char a[ADDR_STR], more[LOG_MORE];
	const struct log_about about = { .tunnel = t->id, .peer = a };

	addr_str(&t->who->remote, a);
	if (code != NGHTTP2_NO_ERROR)
		err_set(&t->why, 0, "the peer said GOAWAY %s%s%s%s", name, said[0] ? " " : "", said, goaway_hint(code));
	if (!log_kind(&t->l->logs, LOG_K_GOAWAY, t->l->now_ms, more))
		return;
	if (code == NGHTTP2_NO_ERROR)
		log_about(LOG_INFO, LA_TUNNEL, &about, "tunnel %u: GOAWAY from the peer at %s: it drains%s%s; %u streams go on%s", t->id, a,
			  said[0] ? ", " : "", said, t->h2.streams, more);
	else
		log_about(LOG_WARN, LA_TUNNEL, &about, "tunnel %u at %s: %s; %u streams are concerned%s", t->id, a, t->why.msg, t->h2.streams, more);
}

static void on_goaway(void *owner, uint32_t code)
{
	struct tunnel *t = owner;

	goaway_log(t, code);
	tunnel_set_state(t, TUNNEL_DRAINING);
	loop_defer(t->l, &t->task); /* closes it if it is empty already */
	if (t->peer)
		pool_tunnel_changed(t->peer); /* who waits needs another tunnel */
}

static void on_pong(void *owner, uint64_t sent_us, bool fence)
{
	struct tunnel *t = owner;

	if (fence) {
		if (t->peer && t->peer->last == t)
			pool_fence_passed(t->peer);
		return;
	}
	t->ping_out = false;
	if (t->l->now_us > sent_us && t->l->now_us - sent_us < 60000000u)
		t->h2.rtt_us = t->h2.rtt_us ? t->h2.rtt_us : (uint32_t)(t->l->now_us - sent_us);
	if (t->drain_step == 1) { /* the peer has seen the first GOAWAY: what it opened before has arrived */
		t->drain_step = 2;
		h2_goaway_last(&t->h2, NGHTTP2_NO_ERROR);
	}
}

static void on_dirty(void *owner)
{
	struct tunnel *t = owner;

	loop_defer(t->l, &t->task);
}

const char *tunnel_broke(const struct tunnel *t)
{
	const char *who = t->h2.settled ? NULL : tls_unexpected(t->h2.first, t->h2.n_first);

	return who ? who : "the peer broke the HTTP/2 protocol: is it an HBONE agent?";
}

static void on_hostile(void *owner, const char *why)
{
	struct tunnel *t = owner;

	if (why)
		err_set(&t->why, 0, "peer exceeded the limit for %s", why);
	else
		err_set(&t->why, 0, "%s", tunnel_broke(t));
}

static int out_write(void *owner, size_t n)
{
	struct tunnel *t = owner;

	return rec_write(&t->rec, n);
}

static int out_write_pipe(void *owner, size_t n, struct pipe *p)
{
	struct tunnel *t = owner;

	return rec_splice_out(&t->rec, n, p);
}

static bool out_blocked(void *owner)
{
	const struct tunnel *t = owner;

	return rec_blocked(&t->rec);
}

static uint32_t out_rtt_us(void *owner)
{
	const struct tunnel *t = owner;

	return sock_rtt_us(t->rec.fd);
}

/*
 * Large DATA frames of one stream, one behind the other: each header is read by itself, each payload goes into a pipe, and the session only
 * learns how much it was. Whatever else comes is given to rec_read().
 */
ssize_t tunnel_read_payload(struct tunnel *t)
{
	const struct tunnel_hooks *hooks = t->all->hooks;
	uint8_t head[H2_HEAD];
	size_t done = 0;

	while (t->rec.readable && done < PAYLOAD_TURN && rec_can_splice_rx(&t->rec)) {
		struct h2_stream *s;
		size_t n = h2_payload(&t->h2, &s), want = n ? 0 : h2_header(&t->h2);
		struct pipe *p = NULL;
		ssize_t r;
		int e;

		if (n && hooks->room && hooks->room(t->all->owner, s))
			p = pipe_get(t->l);
		if (!p && !want)
			return -ENOMSG;
		r = p ? rec_splice_in(&t->rec, p, min_u64(n, H2_SPLICE_MAX)) : rec_read_some(&t->rec, head, want);
		if (r <= 0) {
			pipe_put(t->l, p);
			return r;
		}
		done += (size_t)r;
		if (p) {
			hooks->put(t->all->owner, s, p);
			e = h2_spliced(&t->h2, s, (size_t)r);
		} else {
			e = h2_input(&t->h2, head, (size_t)r);
		}
		if (e < 0)
			return e;
	}
	return done ? (ssize_t)done : -ENOMSG;
}

bool tunnel_kin(const struct tunnel *t)
{
	const char *peer = t->who ? t->who->tls.id : "", *own = t->who ? t->who->own_id : "";
	struct spiffe a, b;

	return *peer && own && spiffe_parse(peer, strlen(peer), &a, NULL) == 0 && spiffe_parse(own, strlen(own), &b, NULL) == 0 &&
	       a.trust_domain.n == b.trust_domain.n && !memcmp(a.trust_domain.p, b.trust_domain.p, a.trust_domain.n);
}

const struct h2_ops tunnel_ops = {
	.request = on_request,
	.response = on_response,
	.data = on_data,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.pull_pipe = on_pull_pipe,
	.settings = on_settings,
	.goaway = on_goaway,
	.pong = on_pong,
	.dirty = on_dirty,
	.hostile = on_hostile,
	.write = out_write,
	.write_pipe = out_write_pipe,
	.blocked = out_blocked,
	.rtt_us = out_rtt_us,
};
