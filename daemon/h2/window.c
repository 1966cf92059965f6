/*
 * Flow control on the receiving side. Three rules:
 *   - A stream's window is given back only for bytes that left towards the application: h2_consumed().
 *   - The connection's window is given back at once, so a stream that nobody reads never stops another. It bounds what is on its
 *     way: the path and the kernel's buffers at both ends, the queue that a small message has to wait behind.
 *   - Both start small and grow as the path needs. When the worker's share of limits.memory is used up, every stream's window is
 *     shrunk by SETTINGS (RFC 9113 6.9.2: it may get negative): who has much unread gets nothing more, who reads goes on.
 */
#include "base/clean.h"
#include "h2/session_int.h"

#define GROW_RTTS 2u
#define RTT_FRESH_MS 200u
#define IDLE_SHRINK_MS 10000u
#define SQUEEZED 16384u	     /* bytes; initial window of streams while memory is short */
#define ACK_MS 10000u
#define SQUEEZE_MS 1000u     /* no more than one relaxation in this time: peers count SETTINGS */

static uint64_t buffered(const struct loop *l)
{
	int64_t n = atomic_load_explicit(&l->stats.g[SG_BUFFERED], memory_order_relaxed);

	return n > 0 ? (uint64_t)n : 0;
}

static uint64_t share(const struct loop *l)
{
	return l->cfg->limits.memory / l->cfg->workers;
}

uint32_t h2_window_initial(const struct h2 *h)
{
	uint32_t w = h->loop->cfg->limits.stream_window;

	return h->squeezed ? (uint32_t)min_u64(w, SQUEEZED) : w;
}

static void squeeze(struct h2 *h, bool on)
{
	uint32_t before = h2_window_initial(h);
	nghttp2_settings_entry iv = { NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0 };

	h->squeezed = on;
	h->squeezed_ms = h->loop->now_ms;
	iv.value = h2_window_initial(h);
	if (iv.value == before || nghttp2_submit_settings(h->ng, NGHTTP2_FLAG_NONE, &iv, 1))
		return;
	/* until the acknowledgement nghttp2 counts in old windows: nothing is tuned meanwhile */
	h->squeezing = true;
	h->settings_out++;
	if (on)
		stats_inc(&h->loop->stats, ST_MEMORY_PRESSURE);
	h->ops->dirty(h->owner);
}

void h2_window_acknowledged(struct h2 *h)
{
	struct h2_stream *s;
	int32_t w;

	if (h->settings_out && --h->settings_out)
		return; /* an older one's */
	if (!h->squeezing)
		return;
	h->squeezing = false;
	LIST_FOREACH(s, &h->all, link) {
		w = nghttp2_session_get_stream_effective_local_window_size(h->ng, s->id);
		s->window = w > 0 ? (uint32_t)w : h2_window_initial(h);
		s->got = 0;
	}
}

/* the whole daemon's is, or the machine's */
static bool memory_short(const struct loop *l)
{
	return pressure_of(l->pressure_now, PRESSURE_MEMORY) >= PRESSURE_SHRINK;
}

static void adjust(struct h2 *h)
{
	uint64_t used = buffered(h->loop), limit = share(h->loop);
	bool short_ = memory_short(h->loop);

	if (h->squeezing)
		return;
	if (!h->squeezed && (used > limit || short_))
		squeeze(h, true);
	else if (h->squeezed && !short_ && used <= limit / 2 && h->loop->now_ms - h->squeezed_ms >= SQUEEZE_MS)
		squeeze(h, false);
}

void h2_window_check(struct h2 *h)
{
	if (h->squeezing && h->loop->now_ms - h->squeezed_ms > ACK_MS) /* RFC 9113 6.5.3 */
		h2_hostile(h, NGHTTP2_SETTINGS_TIMEOUT, "the time to acknowledge SETTINGS");
	else
		adjust(h);
}

static uint32_t rtt(struct h2 *h)
{
	uint32_t now = (uint32_t)h->loop->now_ms;

	if (!h->rtt_us || now - h->rtt_at_ms > RTT_FRESH_MS) {
		h->rtt_us = h->ops->rtt_us(h->owner);
		h->rtt_at_ms = now;
		stats_inc(&h->loop->stats, ST_SYS_OTHER);
	}
	return h->rtt_us;
}

/*
 * A window grows when half of it was used up within GROW_RTTS round trips of the bare path: then the peer is waiting for credit
 * rather than we for bytes (the rule TCP's receive buffer follows). The bare path, not the measured round trip: that
 * contains the queue which a window too large makes. It shrinks after a pause and when memory is short.
 */
static uint32_t tuned(struct h2 *h, uint32_t window, uint32_t start, uint32_t max, uint32_t *t0_ms)
{
	uint32_t now = (uint32_t)h->loop->now_ms, dt = now - *t0_ms;

	*t0_ms = now;
	if (h->squeezed || dt > IDLE_SHRINK_MS)
		return start;
	if (window < max && dt <= 2000 && dt * 1000ull < (uint64_t)GROW_RTTS * rtt(h))
		return (uint32_t)min_u64((uint64_t)window * 2, max);
	return window;
}

static void tune_stream(struct h2 *h, struct h2_stream *s, size_t n)
{
	const struct cfg_limits *lim = &h->loop->cfg->limits;
	uint32_t want;

	s->got += (uint32_t)n;
	if (s->got < s->window / 2 || h->squeezing)
		return;
	s->got = 0;
	want = tuned(h, s->window, h2_window_initial(h), lim->stream_window_max, &s->t0_ms);
	if (want != s->window && nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, s->id, (int32_t)want) == 0)
		s->window = want;
}

void h2_window_received(struct h2 *h, size_t n)
{
	const struct cfg_limits *lim = &h->loop->cfg->limits;
	uint32_t want;

	(void)nghttp2_session_consume_connection(h->ng, n);
	if (h->squeezed || buffered(h->loop) > share(h->loop) || memory_short(h->loop))
		adjust(h);
	h->got += (uint32_t)n;
	if (h->got < h->window / 2)
		return;
	h->got = 0;
	want = tuned(h, h->window, (uint32_t)min_u64(H2_WINDOW_START, lim->connection_window), lim->connection_window, &h->t0_ms);
	if (want != h->window && nghttp2_session_set_local_window_size(h->ng, NGHTTP2_FLAG_NONE, 0, (int32_t)want) == 0)
		h->window = want;
}

void h2_consumed(struct h2_stream *s, size_t n)
{
	struct h2 *h = s->h;

	if (!s->id)
		return;
	(void)nghttp2_session_consume_stream(h->ng, s->id, n);
	tune_stream(h, s, n);
	if (nghttp2_session_want_write(h->ng))
		h->ops->dirty(h->owner);
}
