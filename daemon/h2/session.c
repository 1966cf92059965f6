/*
 * HTTP/2 session: life cycle, output and streams. Input callbacks are in input.c, flow control in window.c.
 */
#include "h2/session.h"
#include "h2/session_int.h"
#include "base/clean.h"
#include <string.h>

#define FRAME_HDR 9u
#define PULL_MIN 4096u	  /* less room than this: send first, then pull */
#define FLUSH_TURN (2u * SCRATCH_PLAIN) /* bytes per session and loop turn, so that others get theirs */
#define FRAME_ONE (SCRATCH_PLAIN - FRAME_HDR)	/* a stream alone: header + payload fill eight records */
#define FRAME_MANY (2u * 16384u - FRAME_HDR)	/* several: two records each, for fairness */
#define EARLY_RST_S 50u	  /* resets before a response per second that we send: half of what peers tolerate */

static ssize_t frame_cap(nghttp2_session *ng, uint8_t type, int32_t id, int32_t session_window, int32_t stream_window,
			 uint32_t max_frame, void *arg)
{
	struct h2 *h = arg;

	(void)ng, (void)type, (void)id, (void)session_window, (void)stream_window, (void)max_frame;
	return h->bulk <= 1 ? (ssize_t)FRAME_ONE : (ssize_t)FRAME_MANY;
}

static ssize_t source_read(nghttp2_session *ng, int32_t id, uint8_t *buf, size_t len, uint32_t *flags, nghttp2_data_source *src,
			   void *arg)
{
	struct h2 *h = arg;
	struct h2_stream *s = nghttp2_session_get_stream_user_data(ng, id);
	size_t room = SCRATCH_PLAIN - h->off, max;
	bool eof = false;
	ssize_t n;

	(void)buf, (void)src;
	if (h->pipe)
		return NGHTTP2_ERR_CALLBACK_FAILURE; /* its header must have come before */
	if (room < FRAME_HDR + min_u64(len, PULL_MIN) || h->piped >= FLUSH_TURN || h->ops->blocked(h->owner)) {
		h->paused = true;
		return NGHTTP2_ERR_PAUSE;
	}
	if (!s)
		return NGHTTP2_ERR_DEFERRED; /* forgotten; RST_STREAM is on its way */
	max = min_u64(len, room - FRAME_HDR);
	n = h->ops->pull_pipe ? h->ops->pull_pipe(h->owner, s, len, &h->pipe) : -EAGAIN;
	if (n < 0 && s->id)
		n = h->ops->pull(h->owner, s, h->loop->scratch.plain + h->off + FRAME_HDR, max, &eof);
	if (n < 0)
		return NGHTTP2_ERR_DEFERRED;
	if ((size_t)n >= FRAME_MANY && h->bulk_last != id) {
		h->bulk_now++;
		h->bulk_last = id;
	}
	*flags |= NGHTTP2_DATA_FLAG_NO_COPY;
	if (eof)
		*flags |= NGHTTP2_DATA_FLAG_EOF;
	return n;
}

static int source_send(nghttp2_session *ng, nghttp2_frame *frame, const uint8_t *framehd, size_t length, nghttp2_data_source *src,
		       void *arg)
{
	struct h2 *h = arg;

	(void)ng, (void)frame, (void)src;
	memcpy(h->loop->scratch.plain + h->off, framehd, FRAME_HDR);
	h->off += FRAME_HDR;
	if (!h->pipe) {
		h->off += (uint32_t)length;
		return 0;
	}
	h->piped += (uint32_t)length;
	h->error = h->ops->write_pipe(h->owner, h->off, TAKE(h->pipe));
	h->off = 0;
	return h->error < 0 ? NGHTTP2_ERR_CALLBACK_FAILURE : 0;
}

static const nghttp2_data_provider source = { .read_callback = source_read };

static int callbacks(nghttp2_session_callbacks **ret)
{
	nghttp2_session_callbacks *c;

	if (nghttp2_session_callbacks_new(&c))
		return -ENOMEM;
	nghttp2_session_callbacks_set_data_source_read_length_callback(c, frame_cap);
	nghttp2_session_callbacks_set_send_data_callback(c, source_send);
	h2_input_callbacks(c);
	*ret = c;
	return 0;
}

static int session_new(struct h2 *h, bool server)
{
	const struct cfg_limits *lim = &h->loop->cfg->limits;
	nghttp2_session_callbacks *c;
	nghttp2_option *o;
	int r = callbacks(&c);

	if (r < 0)
		return r;
	if (nghttp2_option_new(&o)) {
		nghttp2_session_callbacks_del(c);
		return -ENOMEM;
	}
	nghttp2_option_set_no_auto_window_update(o, 1);
	nghttp2_option_set_no_closed_streams(o, 1);
	nghttp2_option_set_max_settings(o, 32);
	nghttp2_option_set_max_continuations(o, lim->continuation_max);
	/* resets are judged in input.c, where it is known whether a response was sent; this is only a backstop */
	nghttp2_option_set_stream_reset_rate_limit(o, 100000, 50000);
	r = server ? nghttp2_session_server_new2(&h->ng, c, h, o) : nghttp2_session_client_new2(&h->ng, c, h, o);
	nghttp2_option_del(o);
	nghttp2_session_callbacks_del(c);
	return r ? -ENOMEM : 0;
}

int h2_init(struct h2 *h, struct loop *l, bool server, uint32_t max_streams, const struct h2_ops *ops, void *owner)
{
	const struct cfg_limits *lim = &l->cfg->limits;
	nghttp2_settings_entry iv[5];
	size_t n = 0;
	int r;

	memset(h, 0, sizeof(*h));
	h->loop = l;
	h->ops = ops;
	h->owner = owner;
	h->server = server;
	h->max_streams = max_streams;
	h->window = (uint32_t)min_u64(H2_WINDOW_START, lim->connection_window);
	h->t0_ms = (uint32_t)l->now_ms;
	h->settings_out = 1;
	h2_input_init(h);
	r = session_new(h, server);
	if (r < 0)
		return r;
	if (server)
		iv[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, max_streams + H2_STREAM_SLACK };
	else
		iv[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_ENABLE_PUSH, 0 };
	iv[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, lim->stream_window };
	iv[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_FRAME_SIZE, lim->max_frame_size };
	iv[n++] = (nghttp2_settings_entry){ NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE, lim->header_bytes };
	if (nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, iv, n) ||
	    nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0, (int32_t)h->window)) {
		h2_finish(h);
		return -ENOMEM;
	}
	return 0;
}

void h2_finish(struct h2 *h)
{
	h2_headers_drop(h);
	if (h->loop) {
		pipe_put(h->loop, TAKE(h->pipe));
		stats_gauge(&h->loop->stats, SG_BUFFERED, -(int64_t)h->behind.len);
	}
	buf_finish(&h->behind);
	if (h->ng)
		nghttp2_session_del(h->ng);
	h->ng = NULL;
}

void h2_abort(struct h2 *h)
{
	struct h2_stream *s;

	while ((s = LIST_FIRST(&h->all))) {
		h2_stream_gone(s);
		h->ops->closed(h->owner, s, H2_LOST, true);
	}
	h2_finish(h);
}

/*
 * nghttp2 ends the whole session when a peer opens more streams than announced; RFC 9113 5.1.2 allows to refuse just
 * the stream. So nghttp2 is told a little more than the peer: the value is put right on its way out.
 */
static void settings_true(struct h2 *h, uint8_t *f, size_t n)
{
	if (!h->server || n < FRAME_HDR || f[3] != NGHTTP2_SETTINGS || (f[4] & NGHTTP2_FLAG_ACK))
		return;
	for (uint8_t *e = f + FRAME_HDR; e + 6 <= f + n; e += 6)
		if (((e[0] << 8) | e[1]) == NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS) {
			e[2] = (uint8_t)(h->max_streams >> 24);
			e[3] = (uint8_t)(h->max_streams >> 16);
			e[4] = (uint8_t)(h->max_streams >> 8);
			e[5] = (uint8_t)h->max_streams;
		}
}

static int write_out(struct h2 *h)
{
	int r = h->off ? h->ops->write(h->owner, h->off) : 0;

	h->off = 0;
	h->paused = false;
	return r;
}

/* a payload by pipe has filled the socket, and nghttp2 had one more frame, a control frame, in the same call */
static int behind_keep(struct h2 *h)
{
	if (buf_append(&h->behind, h->loop->scratch.plain, h->off) < 0)
		return -ENOMEM;
	stats_gauge(&h->loop->stats, SG_BUFFERED, h->off);
	h->off = 0;
	return 0;
}

static void behind_first(struct h2 *h)
{
	size_t n = h->behind.len;

	if (!n || h->ops->blocked(h->owner))
		return;
	memcpy(h->loop->scratch.plain, buf_at(&h->behind), n);
	h->off = (uint32_t)n;
	stats_gauge(&h->loop->stats, SG_BUFFERED, -(int64_t)n);
	buf_take(&h->behind, n);
}

int h2_flush(struct h2 *h)
{
	size_t sent = 0;
	int r = 0;

	h->bulk_now = 0;
	h->bulk_last = 0;
	h->piped = 0;
	if (h->error < 0)
		return h->error;
	behind_first(h);
	while (!h->ops->blocked(h->owner)) {
		const uint8_t *p;
		ssize_t n = nghttp2_session_mem_send(h->ng, &p);

		if (n < 0)
			return h->error < 0 ? h->error : n == NGHTTP2_ERR_NOMEM ? -ENOMEM : -EPROTO;
		if (n > 0) {
			/* a client's preface comes in one piece with nothing else, so p is one whole frame or the preface */
			if (h->off + (size_t)n > SCRATCH_PLAIN) {
				r = write_out(h);
				if (r < 0)
					return r;
			}
			memcpy(h->loop->scratch.plain + h->off, p, (size_t)n);
			settings_true(h, h->loop->scratch.plain + h->off, (size_t)n);
			h->off += (uint32_t)n;
			if (!h->paused)
				continue;
		}
		if (!h->paused)
			break;
		sent += h->off;
		r = write_out(h);
		if (r < 0)
			return r;
		if (sent + h->piped >= FLUSH_TURN) {
			r = 1;
			break;
		}
	}
	if (h->off) {
		int e = h->ops->blocked(h->owner) ? behind_keep(h) : write_out(h);

		if (e < 0)
			return e;
	}
	if (h->bulk_now)
		h->bulk = h->bulk_now;
	else if (!h->ops->blocked(h->owner))
		h->bulk = 0;
	return r;
}

bool h2_over(const struct h2 *h)
{
	return h->dead ? !nghttp2_session_want_write(h->ng) :
			 !nghttp2_session_want_read(h->ng) && !nghttp2_session_want_write(h->ng);
}

static void stream_init(struct h2 *h, struct h2_stream *s, int32_t id)
{
	memset(s, 0, sizeof(*s));
	s->h = h;
	s->id = id;
	s->window = h2_window_initial(h);
	s->t0_ms = (uint32_t)h->loop->now_ms;
	LIST_INSERT_HEAD(&h->all, s, link);
	h->streams++;
	h->total++;
	stats_inc(&h->loop->stats, ST_STREAMS_OPENED);
	stats_gauge(&h->loop->stats, SG_STREAMS, 1);
}

/* the session and the stream object let go of each other */
void h2_stream_gone(struct h2_stream *s)
{
	struct h2 *h = s->h;

	if (!s->id)
		return;
	s->id = 0;
	s->h = NULL;
	LIST_REMOVE(s, link);
	h->streams--;
	stats_inc(&h->loop->stats, ST_STREAMS_CLOSED);
	stats_gauge(&h->loop->stats, SG_STREAMS, -1);
}

int h2_open(struct h2 *h, struct h2_stream *s, const nghttp2_nv *nv, size_t n)
{
	int32_t id;

	if (h->goaway_rx || h->goaway_tx || h->dead)
		return -ESTALE;
	id = nghttp2_submit_request(h->ng, NULL, nv, n, &source, s);
	if (id < 0)
		return id == NGHTTP2_ERR_STREAM_ID_NOT_AVAILABLE ? -ESTALE : -ENOMEM;
	stream_init(h, s, id);
	h->ops->dirty(h->owner);
	return 0;
}

int h2_accept(struct h2 *h, struct h2_stream *s, int32_t id)
{
	if (nghttp2_session_set_stream_user_data(h->ng, id, s))
		return -EPROTO;
	stream_init(h, s, id);
	return 0;
}

int h2_respond(struct h2_stream *s, const nghttp2_nv *nv, size_t n)
{
	struct h2 *h = s->h;

	s->answered = true;
	h->ops->dirty(h->owner);
	return nghttp2_submit_response(h->ng, s->id, nv, n, &source) ? -ENOMEM : 0;
}

void h2_refuse(struct h2 *h, int32_t id, const nghttp2_nv *nv, size_t n)
{
	struct h2_stream *s = nghttp2_session_get_stream_user_data(h->ng, id);

	if (s)
		h2_forget(s);
	if (nghttp2_submit_response(h->ng, id, nv, n, NULL) < 0)
		h->error = -ENOMEM; /* the peer would wait for ever: better no tunnel */
	h->ops->dirty(h->owner); /* RST_STREAM(NO_ERROR) follows once it was sent: input.c, on_sent() */
}

static void count_rst(struct h2 *h, uint32_t code)
{
	stats_inc(&h->loop->stats, ST_RST_TX);
	if (code < STATS_H2_CODES)
		stats_bump(&h->loop->stats.rst_tx[code], 1);
}

void h2_reset_id(struct h2 *h, int32_t id, uint32_t code)
{
	if (nghttp2_submit_rst_stream(h->ng, NGHTTP2_FLAG_NONE, id, code) == 0)
		count_rst(h, code);
	else
		h->error = -ENOMEM; /* the peer's stream would stay open: better no tunnel */
	h->ops->dirty(h->owner);
}

void h2_reset(struct h2_stream *s, uint32_t code)
{
	struct h2 *h = s->h;
	int32_t id = s->id;

	if (!id)
		return;
	h2_forget(s);
	h2_reset_id(h, id, code);
}

void h2_forget(struct h2_stream *s)
{
	if (!s->id)
		return;
	(void)nghttp2_session_set_stream_user_data(s->h->ng, s->id, NULL);
	h2_stream_gone(s);
}

void h2_resume(struct h2_stream *s)
{
	if (!s->id)
		return;
	if (nghttp2_session_get_stream_remote_window_size(s->h->ng, s->id) == 0 || nghttp2_session_get_remote_window_size(s->h->ng) <= 0)
		stats_inc(&s->h->loop->stats, ST_FLOW_STALLS);
	/* an error means: not deferred, or the HEADERS are still queued; both need nothing */
	(void)nghttp2_session_resume_data(s->h->ng, s->id);
	s->h->ops->dirty(s->h->owner);
}

bool h2_may_reset_early(struct h2 *h)
{
	uint64_t s = h->loop->now_ms / 1000;

	if (h->early_rst_s != s) {
		h->early_rst_s = s;
		h->early_rst = 0;
	}
	return h->early_rst++ < EARLY_RST_S;
}

size_t h2_window(const struct h2_stream *s)
{
	int32_t own = s->id ? nghttp2_session_get_stream_remote_window_size(s->h->ng, s->id) : 0;
	int32_t all = s->id ? nghttp2_session_get_remote_window_size(s->h->ng) : 0;
	int32_t n = own < all ? own : all;

	return n > 0 ? (size_t)n : 0;
}

uint32_t h2_peer_max_streams(const struct h2 *h)
{
	return nghttp2_session_get_remote_settings(h->ng, NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS);
}

uint32_t h2_room(const struct h2 *h)
{
	uint32_t max = h2_peer_max_streams(h);

	return h->goaway_rx || h->goaway_tx || h->dead || h->streams >= max ? 0 : max - h->streams;
}

void h2_ping(struct h2 *h, bool fence)
{
	uint64_t v = h->loop->now_us | (fence ? H2_PING_FENCE : 0);
	uint8_t opaque[8];

	memcpy(opaque, &v, 8);
	if (nghttp2_submit_ping(h->ng, NGHTTP2_FLAG_NONE, opaque) == 0) {
		h->pings++;
		h->ops->dirty(h->owner);
	}
}

void h2_goaway_first(struct h2 *h)
{
	if (h->server && nghttp2_submit_shutdown_notice(h->ng) == 0)
		stats_inc(&h->loop->stats, ST_GOAWAY_TX);
	h2_ping(h, false);
}

void h2_goaway_last(struct h2 *h, uint32_t code)
{
	if (h->goaway_tx)
		return;
	h->goaway_tx = true;
	if (nghttp2_submit_goaway(h->ng, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(h->ng), code, NULL, 0) == 0)
		stats_inc(&h->loop->stats, ST_GOAWAY_TX);
	h->ops->dirty(h->owner);
}
