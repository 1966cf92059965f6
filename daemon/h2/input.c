/*
 * HTTP/2 session, receiving side: nghttp2's callbacks, header blocks, and the limits against hostile peers. A peer that breaks a
 * rate gets GOAWAY(ENHANCE_YOUR_CALM) and is not read any more; a single bad request only loses its stream.
 */
#include "h2/session.h"
#include "h2/session_int.h"
#include "base/clean.h"
#include <stdlib.h>
#include <string.h>

#define HEADERS_MAX 128u     /* fields kept of one block; limits.header_count may be lower */
#define GOAWAYS_FREE 8u
#define HEADERS_ABSURD 4u    /* times the byte limit: then it is an attack, not a mistake */

struct h2_headers {
	int32_t id;
	uint32_t n, bytes;
	bool too_big;
	nghttp2_rcbuf *name[HEADERS_MAX], *value[HEADERS_MAX];
	struct header h[HEADERS_MAX];
};

void h2_headers_drop(struct h2 *h)
{
	if (!h->hdr)
		return;
	for (uint32_t i = 0; i < h->hdr->n; i++) {
		nghttp2_rcbuf_decref(h->hdr->name[i]);
		nghttp2_rcbuf_decref(h->hdr->value[i]);
	}
	free(TAKE(h->hdr));
}

void h2_hostile(struct h2 *h, uint32_t code, const char *why)
{
	if (h->dead)
		return;
	h->dead = true;
	stats_inc(&h->loop->stats, ST_HOSTILE);
	stats_inc(&h->loop->stats, ST_GOAWAY_TX);
	(void)nghttp2_session_terminate_session(h->ng, code);
	h->ops->hostile(h->owner, why);
	h->ops->dirty(h->owner);
}

static void hostile(struct h2 *h, const char *why)
{
	h2_hostile(h, NGHTTP2_ENHANCE_YOUR_CALM, why);
}

static void rate(struct h2 *h, enum h2_rate kind)
{
	static const char *const what[HR_RATES] = { "RST_STREAM before a response", "PING", "SETTINGS", "empty DATA", "WINDOW_UPDATE",
						    "invalid frames", "streams above the limit" };
	const struct cfg_limits *l = &h->loop->cfg->limits;
	const uint32_t limit[HR_RATES] = { l->rst_rate, l->ping_rate, l->settings_rate, l->empty_data_rate, l->window_update_rate,
					   l->glitch_rate, l->refused_rate };
	uint64_t s = h->loop->now_ms / 1000;

	if (h->rate_s != s) {
		h->rate_s = s;
		memset(h->rate, 0, sizeof(h->rate));
	}
	if (++h->rate[kind] > limit[kind] && limit[kind])
		hostile(h, what[kind]);
}

static int on_begin_headers(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct h2 *h = arg;

	(void)ng;
	h2_headers_drop(h);
	if (f->hd.type != NGHTTP2_HEADERS)
		return 0;
	h->hdr = calloc(1, sizeof(*h->hdr));
	if (!h->hdr)
		return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE;
	h->hdr->id = f->hd.stream_id;
	return 0;
}

static int on_header(nghttp2_session *ng, const nghttp2_frame *f, nghttp2_rcbuf *name, nghttp2_rcbuf *value, uint8_t flags, void *arg)
{
	struct h2 *h = arg;
	struct h2_headers *b = h->hdr;
	const struct cfg_limits *lim = &h->loop->cfg->limits;
	nghttp2_vec n = nghttp2_rcbuf_get_buf(name), v = nghttp2_rcbuf_get_buf(value);

	(void)ng, (void)flags;
	if (!b || b->id != f->hd.stream_id)
		return 0;
	b->bytes += (uint32_t)(n.len + v.len) + 32;
	if (b->bytes > lim->header_bytes || b->n >= min_u64(lim->header_count, HEADERS_MAX)) {
		b->too_big = true;
		if (b->bytes > HEADERS_ABSURD * lim->header_bytes) {
			hostile(h, "header list");
			return NGHTTP2_ERR_CALLBACK_FAILURE;
		}
		return 0;
	}
	nghttp2_rcbuf_incref(name);
	nghttp2_rcbuf_incref(value);
	b->name[b->n] = name;
	b->value[b->n] = value;
	b->h[b->n] = (struct header){ { (const char *)n.base, n.len }, { (const char *)v.base, v.len } };
	b->n++;
	return 0;
}

static bool interim(const struct h2_headers *b)
{
	return b->n && slice_is(b->h[0].name, ":status") && b->h[0].value.n == 3 && b->h[0].value.p[0] == '1';
}

static void headers_done(struct h2 *h, const nghttp2_frame *f, struct h2_stream *s)
{
	unsigned flags = (f->hd.flags & NGHTTP2_FLAG_END_STREAM ? H2_HEADERS_END : 0u) |
			 (h->hdr && h->hdr->too_big ? H2_HEADERS_TOO_BIG : 0u);

	if (f->headers.cat == NGHTTP2_HCAT_REQUEST) {
		if (h->streams >= h->max_streams || h->goaway_tx) {
			h2_reset_id(h, f->hd.stream_id, NGHTTP2_REFUSED_STREAM);
			if (!h->goaway_tx) /* what is under way when we leave is nobody's fault */
				rate(h, HR_REFUSED);
		} else if (h->hdr) {
			h->ops->request(h->owner, f->hd.stream_id, h->hdr->h, h->hdr->n, flags);
		}
	} else if (!s && !h->server) { /* forgotten while its answer was awaited: h2_may_reset_early() */
		h2_reset_id(h, f->hd.stream_id, NGHTTP2_CONNECT_ERROR);
	} else if (s && h->hdr && !h->server && !s->answered) {
		if (interim(h->hdr)) { /* the final one follows, as what nghttp2 calls HCAT_HEADERS */
			h2_headers_drop(h);
			return;
		}
		s->answered = true;
		h->ops->response(h->owner, s, h->hdr->h, h->hdr->n, flags);
	} else if (s && (flags & H2_HEADERS_END)) {
		h->ops->end(h->owner, s); /* trailers: a tunnelled connection has no use for them */
	}
	h2_headers_drop(h);
}

static void rst_received(struct h2 *h, const nghttp2_frame *f, const struct h2_stream *s)
{
	stats_inc(&h->loop->stats, ST_RST_RX);
	if (f->rst_stream.error_code < STATS_H2_CODES)
		stats_bump(&h->loop->stats.rst_rx[f->rst_stream.error_code], 1);
	/* before our response (or for a stream already gone): the rapid-reset pattern. After it: an application's right. */
	if (h->server && (!s || !s->answered))
		rate(h, HR_RST);
}

/* what the number behind a frame's header is: frames that are not looked at have none */
static uint64_t frame_number(struct h2 *h, const nghttp2_frame *f, bool sent)
{
	int32_t id = f->hd.stream_id;

	switch (f->hd.type) {
	case NGHTTP2_DATA: { /* the window that is left */
		int32_t w = sent ? nghttp2_session_get_stream_remote_window_size(h->ng, id) :
				   nghttp2_session_get_stream_effective_local_window_size(h->ng, id) -
					   nghttp2_session_get_stream_effective_recv_data_length(h->ng, id);

		return w > 0 ? (uint64_t)w : 0;
	}
	case NGHTTP2_RST_STREAM:
		return f->rst_stream.error_code;
	case NGHTTP2_GOAWAY:
		return f->goaway.error_code;
	case NGHTTP2_WINDOW_UPDATE:
		return (uint64_t)f->window_update.window_size_increment;
	default: /* frame types are the peer's, not an enum of ours */
		return 0;
	}
}

static void frame_trace(struct h2 *h, const nghttp2_frame *f, bool sent)
{
	const struct h2_stream *s = f->hd.stream_id ? nghttp2_session_get_stream_user_data(h->ng, f->hd.stream_id) : NULL;
	uint8_t watch = f->hd.stream_id ? (uint8_t)(s ? s->watch : 0) : h->watch;

	trace(h->loop, watch, TRACE_FRAME,
	      TW(.tunnel = h->trace_id, .stream = (uint32_t)f->hd.stream_id, .side = sent,
		 .a = trace_frame((uint32_t)f->hd.length, f->hd.type, f->hd.flags), .b = frame_number(h, f, sent)),
	      "%s", "");
}

static int on_frame(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct h2 *h = arg;
	struct h2_stream *s = f->hd.stream_id ? nghttp2_session_get_stream_user_data(ng, f->hd.stream_id) : NULL;

	if (__builtin_expect(h->loop->tracing && f->hd.type != NGHTTP2_HEADERS, 0))
		frame_trace(h, f, false);
	switch (f->hd.type) {
	case NGHTTP2_HEADERS:
		headers_done(h, f, s);
		if (__builtin_expect(h->loop->tracing != 0, 0)) /* a request belongs to somebody only now */
			frame_trace(h, f, false);
		break;
	case NGHTTP2_DATA:
		if (f->hd.length <= f->data.padlen && !(f->hd.flags & NGHTTP2_FLAG_END_STREAM))
			rate(h, HR_EMPTY_DATA);
		if (s && (f->hd.flags & NGHTTP2_FLAG_END_STREAM))
			h->ops->end(h->owner, s);
		break;
	case NGHTTP2_RST_STREAM:
		rst_received(h, f, s);
		h->reset_id = f->hd.stream_id; /* on_close() follows, unless the stream is gone already */
		break;
	case NGHTTP2_SETTINGS:
		if (f->hd.flags & NGHTTP2_FLAG_ACK) {
			h2_window_acknowledged(h);
		} else {
			rate(h, HR_SETTINGS);
			h->settled = true;
			h->ops->settings(h->owner);
		}
		break;
	case NGHTTP2_PING:
		if (f->hd.flags & NGHTTP2_FLAG_ACK) {
			uint64_t sent;

			if (!h->pings) { /* nobody asked */
				rate(h, HR_GLITCH);
				break;
			}
			h->pings--;
			memcpy(&sent, f->ping.opaque_data, 8);
			h->ops->pong(h->owner, sent & ~H2_PING_FENCE, sent & H2_PING_FENCE);
		} else {
			rate(h, HR_PING);
		}
		break;
	case NGHTTP2_GOAWAY:
		stats_inc(&h->loop->stats, ST_GOAWAY_RX);
		h->goaway_text[0] = '\0';
		if (f->goaway.opaque_data_len)
			log_quote(h->goaway_text, sizeof(h->goaway_text), f->goaway.opaque_data, f->goaway.opaque_data_len);
		if (h->goaways++ >= GOAWAYS_FREE) /* two are the orderly way to leave */
			rate(h, HR_GLITCH);
		else
			h->ops->goaway(h->owner, f->goaway.error_code);
		h->goaway_rx = true;
		break;
	case NGHTTP2_WINDOW_UPDATE:
		if (!f->hd.stream_id) /* per stream they come with the data that we sent */
			rate(h, HR_WINDOW_UPDATE);
		break;
	case NGHTTP2_PRIORITY: /* deprecated (RFC 9113 5.3.2), without meaning for tunnels, and cheap to send */
		rate(h, HR_GLITCH);
		break;
	default: /* unknown types: nghttp2 skips them (frame types are the peer's, not an enum of ours) */
		break;
	}
	return 0;
}

static int on_data(nghttp2_session *ng, uint8_t flags, int32_t id, const uint8_t *p, size_t n, void *arg)
{
	struct h2 *h = arg;
	struct h2_stream *s = nghttp2_session_get_stream_user_data(ng, id);

	(void)flags;
	if (!s) { /* reset by us; the bytes count against the connection only */
		(void)nghttp2_session_consume(ng, id, n);
		return 0;
	}
	h2_window_received(h, n);
	if (h->spliced) {
		h->spliced -= n;
		p = NULL;
	}
	h->ops->data(h->owner, s, p, n);
	return 0;
}

static int on_close(nghttp2_session *ng, int32_t id, uint32_t code, void *arg)
{
	struct h2 *h = arg;
	struct h2_stream *s = nghttp2_session_get_stream_user_data(ng, id);
	/* GOAWAY closes the streams that the peer did not process with REFUSED_STREAM */
	bool by_peer = h->reset_id == id || (h->goaway_rx && code == NGHTTP2_REFUSED_STREAM);

	if (!s)
		return 0;
	h2_stream_gone(s);
	h->ops->closed(h->owner, s, code, by_peer);
	return 0;
}

/* also: a final response went out while the peer may still send: tell it to stop (RFC 9113 8.1) */
static int on_sent(nghttp2_session *ng, const nghttp2_frame *f, void *arg)
{
	struct h2 *h = arg;

	if (__builtin_expect(h->loop->tracing != 0, 0))
		frame_trace(h, f, true);
	if (f->hd.type == NGHTTP2_GOAWAY && f->goaway.error_code != NGHTTP2_NO_ERROR && !h->dead && !h->goaway_tx) {
		/* nghttp2 found the peer breaking the protocol: counted and told like a broken limit */
		h->dead = true;
		stats_inc(&h->loop->stats, ST_HOSTILE);
		stats_inc(&h->loop->stats, ST_GOAWAY_TX);
		h->ops->hostile(h->owner, NULL);
	}
	if (h->server && f->hd.type == NGHTTP2_HEADERS && (f->hd.flags & NGHTTP2_FLAG_END_STREAM) &&
	    !nghttp2_session_get_stream_remote_close(ng, f->hd.stream_id))
		h2_reset_id(h, f->hd.stream_id, NGHTTP2_NO_ERROR);
	return 0;
}

static int on_invalid(nghttp2_session *ng, const nghttp2_frame *f, int code, void *arg)
{
	struct h2 *h = arg;

	(void)ng, (void)f, (void)code;
	if (f->hd.type == NGHTTP2_HEADERS)
		stats_inc(&h->loop->stats, ST_BAD_REQUEST);
	rate(h, HR_GLITCH);
	return 0;
}

void h2_input_callbacks(nghttp2_session_callbacks *c)
{
	nghttp2_session_callbacks_set_on_begin_headers_callback(c, on_begin_headers);
	nghttp2_session_callbacks_set_on_header_callback2(c, on_header);
	nghttp2_session_callbacks_set_on_frame_recv_callback(c, on_frame);
	nghttp2_session_callbacks_set_on_data_chunk_recv_callback(c, on_data);
	nghttp2_session_callbacks_set_on_stream_close_callback(c, on_close);
	nghttp2_session_callbacks_set_on_frame_send_callback(c, on_sent);
	nghttp2_session_callbacks_set_on_invalid_frame_recv_callback(c, on_invalid);
}

/* ---- where in the sequence of frames we are, for those who read the payload themselves ---- */

#define PREFACE 24u /* the client's, RFC 9113 3.4 */
#define RUN 16u /* times what is large, of one stream in large frames: the next is expected to be such, too */

void h2_input_init(struct h2 *h)
{
	if (!h->server)
		return;
	h->head_n = sizeof(h->head);
	h->head[3] = UINT8_MAX; /* no frame type */
	h->left = PREFACE;
}

static size_t large(const struct h2 *h)
{
	uint32_t above = h->loop->cfg->kernel.splice_above;

	return above ? above : CFG_SPLICE_ABOVE;
}

static bool in_a_run(const struct h2 *h)
{
	return h->run / RUN >= large(h);
}

static int32_t head_id(const struct h2 *h)
{
	return (h->head[5] & 0x7f) << 24 | h->head[6] << 16 | h->head[7] << 8 | h->head[8];
}

static void frame_begins(struct h2 *h)
{
	int32_t id = head_id(h);

	h->left = (uint32_t)h->head[0] << 16 | (uint32_t)h->head[1] << 8 | h->head[2];
	if (h->head[3] != NGHTTP2_DATA)
		return;
	if (h->left < large(h) || (h->head[4] & NGHTTP2_FLAG_PADDED)) {
		h->run = 0;
		return;
	}
	h->run = (uint32_t)min_u64(id == h->run_id ? (uint64_t)h->run + h->left : h->left, UINT32_MAX);
	h->run_id = id;
}

static void track(struct h2 *h, const uint8_t *p, size_t n)
{
	while (n) {
		size_t k = min_u64(n, h->left);

		if (h->left) {
			h->left -= (uint32_t)k;
		} else {
			if (h->head_n == sizeof(h->head))
				h->head_n = 0;
			k = min_u64(n, sizeof(h->head) - h->head_n);
			memcpy(h->head + h->head_n, p, k);
			h->head_n += (uint8_t)k;
			if (h->head_n == sizeof(h->head))
				frame_begins(h);
		}
		p += k;
		n -= k;
	}
}

size_t h2_payload(const struct h2 *h, struct h2_stream **ret)
{
	if (h->dead || !in_a_run(h) || h->left < large(h) || h->head[3] != NGHTTP2_DATA)
		return 0;
	*ret = nghttp2_session_get_stream_user_data(h->ng, h->run_id);
	return *ret ? h->left : 0;
}

size_t h2_header(const struct h2 *h)
{
	return h->dead || !in_a_run(h) || h->left ? 0 : sizeof(h->head) - h->head_n % sizeof(h->head);
}

int h2_spliced(struct h2 *h, struct h2_stream *s, size_t n)
{
	static uint8_t nothing[H2_SPLICE_MAX]; /* never looked at: nghttp2 counts payload and hands it on, on_data() drops it */
	int r;

	h->spliced = n;
	r = h2_input(h, nothing, n);
	if (h->spliced && s->id) { /* the peer broke a rule: the stream is about to be reset, or the session to end */
		h2_reset(s, NGHTTP2_PROTOCOL_ERROR);
		h->ops->closed(h->owner, s, NGHTTP2_PROTOCOL_ERROR, false);
	}
	h->spliced = 0;
	return r;
}

int h2_input(void *h2, const uint8_t *p, size_t n)
{
	struct h2 *h = h2;
	ssize_t r;

	if (h->dead)
		return 0; /* not read any more; the GOAWAY is on its way */
	for (size_t i = 0; i < n && h->n_first < sizeof(h->first); i++)
		h->first[h->n_first++] = p[i];
	track(h, p, n);
	r = nghttp2_session_mem_recv(h->ng, p, n);
	if (nghttp2_session_want_write(h->ng))
		h->ops->dirty(h->owner);
	if (r == NGHTTP2_ERR_TOO_MANY_CONTINUATIONS)
		hostile(h, "CONTINUATION");
	if (h->dead || r >= 0)
		return 0;
	stats_inc(&h->loop->stats, ST_HOSTILE);
	return r == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
}
