/*
 * HTTP/2 sessions without sockets: a side has a session, a wire that takes what it writes, and streams that send and expect a pattern.
 * Time stands still unless a test moves it. For tests that include daemon/h2/session.c and input.c before it.
 */
#pragma once
#include "base/clean.h"
#include "h2/session.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifndef STREAMS
#define STREAMS 1300 /* objects per side */
#endif

struct side;

struct str {
	struct h2_stream s;
	struct side *side;
	int32_t id;		/* also after its end */
	uint64_t to_send, sent; /* bytes of the pattern */
	bool eof;		/* END_STREAM after them */
	bool no_answer;		/* server: answer later */
	bool hold;		/* what arrives is not consumed */
	uint64_t got, owed;	/* received; not yet consumed */
	bool answered, ended, closed, by_peer, wrong;
	unsigned int n_closed, headers_flags;
	uint32_t code;
	char status[8], authority[64];
	uint64_t first_round; /* of its first DATA on the wire */
};

struct side {
	struct loop l;
	struct h2 h2;
	struct config cfg;
	uint8_t *wire;
	size_t n, cap;
	size_t room; /* bytes that the socket takes until blocked(); SIZE_MAX: all */
	bool dirty, no_answer, refuse_all, hold_all;
	int write_error;
	struct str *str;
	unsigned int n_str, max_accept;
	unsigned int settings, goaways, pongs, fences, hostiles, requests, writes;
	uint32_t goaway_code;
	uint64_t pong_us;
	size_t longest_write;
	char why[64];
	uint32_t rtt;
};

/* what @id's client (or server) sends, from byte @i on: a piece of one table, elsewhere for each stream and direction */
#define PATTERN_PERIOD 65536u
static inline const uint8_t *pattern(int32_t id, bool server, uint64_t i)
{
	static uint8_t all[2 * PATTERN_PERIOD];

	if (!all[1])
		for (uint32_t k = 0; k < 2 * PATTERN_PERIOD; k++)
			all[k] = (uint8_t)((k % PATTERN_PERIOD) * 31 + (k % PATTERN_PERIOD >> 8) * 5 + 1);
	return all + (i + (uint64_t)id * 257 + server * 4099u) % PATTERN_PERIOD;
}

static inline struct side *side_of(void *owner)
{
	return owner;
}

static inline struct str *str_new(struct side *x)
{
	if (x->n_str == STREAMS)
		return NULL;
	x->str[x->n_str].side = x;
	x->str[x->n_str].hold = x->hold_all;
	return &x->str[x->n_str++];
}

#define NV_LIT(n_, v_) ((nghttp2_nv){(uint8_t *)(uintptr_t)(n_), (uint8_t *)(uintptr_t)(v_), strlen(n_), strlen(v_), NGHTTP2_NV_FLAG_NONE})

static inline int str_answer(struct str *t, const char *status)
{
	nghttp2_nv nv = NV_LIT(":status", status);

	t->answered = true;
	return h2_respond(&t->s, &nv, 1);
}

static inline struct str *str_open(struct side *x, const char *authority)
{
	nghttp2_nv nv[2] = {NV_LIT(":method", "CONNECT"), NV_LIT(":authority", authority)};
	struct str *t = str_new(x);
	int r;

	if (!t)
		return NULL;
	r = h2_open(&x->h2, &t->s, nv, 2);
	if (r < 0) {
		x->n_str--;
		errno = -r;
		return NULL;
	}
	t->id = t->s.id;
	return t;
}

static inline void ops_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned flags)
{
	struct side *x = owner;
	struct str *t;

	x->requests++;
	if (x->refuse_all) {
		nghttp2_nv nv = NV_LIT(":status", "503");

		h2_refuse(&x->h2, id, &nv, 1);
		return;
	}
	t = str_new(x);
	if (!t || h2_accept(&x->h2, &t->s, id) < 0)
		abort();
	t->id = id;
	t->headers_flags = flags;
	for (size_t i = 0; i < n; i++)
		if (slice_is(h[i].name, ":authority"))
			snprintf(t->authority, sizeof(t->authority), "%.*s", (int)h[i].value.n, h[i].value.p);
	t->no_answer = x->no_answer;
	if (!t->no_answer && str_answer(t, "200") < 0)
		h2_reset(&t->s, NGHTTP2_INTERNAL_ERROR);
}

static inline void ops_response(void *owner, struct h2_stream *s, const struct header *h, size_t n, unsigned flags)
{
	struct str *t = container_of(s, struct str, s);

	(void)owner;
	t->answered = true;
	t->headers_flags = flags;
	for (size_t i = 0; i < n; i++)
		if (slice_is(h[i].name, ":status"))
			snprintf(t->status, sizeof(t->status), "%.*s", (int)h[i].value.n, h[i].value.p);
	t->ended |= (flags & H2_HEADERS_END) != 0;
}

static inline void ops_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	struct str *t = container_of(s, struct str, s);
	struct side *x = owner;

	for (size_t i = 0, k; i < n && !t->wrong; i += k) {
		k = min_u64(n - i, PATTERN_PERIOD);
		t->wrong = memcmp(p + i, pattern(t->id, !x->h2.server, t->got + i), k) != 0;
	}
	t->wrong |= t->ended;
	t->got += n;
	if (t->hold)
		t->owed += n;
	else
		h2_consumed(s, n);
}

static inline void ops_end(void *owner, struct h2_stream *s)
{
	struct str *t = container_of(s, struct str, s);

	(void)owner;
	t->wrong |= t->ended;
	t->ended = true;
}

static inline void ops_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	struct str *t = container_of(s, struct str, s);

	(void)owner;
	if (s->id || s->h)
		abort(); /* the promise of session.h */
	t->closed = true;
	t->n_closed++;
	t->code = code;
	t->by_peer = by_peer;
}

static inline ssize_t ops_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	struct str *t = container_of(s, struct str, s);
	struct side *x = owner;
	size_t n = min_u64(max, t->to_send - t->sent);

	if (!max)
		abort();
	if (!n) {
		if (!t->eof)
			return -EAGAIN;
		*ret_eof = true;
		return 0;
	}
	for (size_t i = 0, k; i < n; i += k) {
		k = min_u64(n - i, PATTERN_PERIOD);
		memcpy(dst + i, pattern(t->id, x->h2.server, t->sent + i), k);
	}
	t->sent += n;
	return (ssize_t)n;
}

static inline void ops_settings(void *owner)
{
	side_of(owner)->settings++;
}

static inline void ops_goaway(void *owner, uint32_t code)
{
	side_of(owner)->goaways++;
	side_of(owner)->goaway_code = code;
}

static inline void ops_pong(void *owner, uint64_t sent_us, bool fence)
{
	if (fence) {
		side_of(owner)->fences++;
		return;
	}
	side_of(owner)->pongs++;
	side_of(owner)->pong_us = sent_us;
}

static inline void ops_dirty(void *owner)
{
	side_of(owner)->dirty = true;
}

static inline void ops_hostile(void *owner, const char *why)
{
	side_of(owner)->hostiles++;
	snprintf(side_of(owner)->why, sizeof(side_of(owner)->why), "%s", why);
}

static inline int ops_write(void *owner, size_t n)
{
	struct side *x = owner;

	if (n == 0 || n > SCRATCH_PLAIN)
		abort();
	if (x->write_error)
		return x->write_error;
	if (x->n + n > x->cap) {
		x->cap = 2 * (x->n + n);
		x->wire = realloc(x->wire, x->cap);
		if (!x->wire)
			abort();
	}
	memcpy(x->wire + x->n, x->l.scratch.plain, n);
	x->n += n;
	x->writes++;
	x->longest_write = n > x->longest_write ? n : x->longest_write;
	x->room = x->room == SIZE_MAX ? SIZE_MAX : x->room > n ? x->room - n : 0;
	return 0;
}

static inline bool ops_blocked(void *owner)
{
	return side_of(owner)->room == 0;
}

static inline uint32_t ops_rtt_us(void *owner)
{
	return side_of(owner)->rtt;
}

static const struct h2_ops side_ops = {
	.request = ops_request,
	.response = ops_response,
	.data = ops_data,
	.end = ops_end,
	.closed = ops_closed,
	.pull = ops_pull,
	.settings = ops_settings,
	.goaway = ops_goaway,
	.pong = ops_pong,
	.dirty = ops_dirty,
	.hostile = ops_hostile,
	.write = ops_write,
	.blocked = ops_blocked,
	.rtt_us = ops_rtt_us,
};

static inline void side_limits(struct config *c)
{
	*c = (struct config){
		.workers = 1,
		.limits = {
			.memory = 256u << 20,
			.stream_window = 262144,
			.stream_window_max = 8u << 20,
			.connection_window = 16u << 20,
			.max_frame_size = 1u << 20,
			.header_bytes = 16384,
			.header_count = 64,
			.rst_rate = 100,
			.ping_rate = 100,
			.settings_rate = 50,
			.empty_data_rate = 100,
			.window_update_rate = 10000,
			.glitch_rate = 100,
			.refused_rate = 500,
			.continuation_max = 20,
		},
	};
}

/* everything but the session */
static inline struct side *side_new(void)
{
	struct side *x = calloc(1, sizeof(*x));

	if (!x)
		return NULL;
	x->str = calloc(STREAMS, sizeof(*x->str));
	x->l.scratch.plain = malloc(SCRATCH_PLAIN + 64);
	if (!x->str || !x->l.scratch.plain) {
		free(x->str);
		free(x->l.scratch.plain);
		free(x);
		return NULL;
	}
	side_limits(&x->cfg);
	x->l.cfg = &x->cfg;
	x->l.now_ms = 1000000;
	x->l.now_us = x->l.now_ms * 1000;
	x->room = SIZE_MAX;
	return x;
}

static inline void side_free(struct side *x)
{
	if (!x)
		return;
	h2_finish(&x->h2);
	free(x->str);
	free(x->l.scratch.plain);
	free(x->wire);
	free(x);
}

static inline void side_pass_ms(struct side *x, uint64_t ms)
{
	x->l.now_ms += ms;
	x->l.now_us += ms * 1000;
}

/* flush once; Return: as h2_flush() */
static inline int side_flush(struct side *x)
{
	x->dirty = false;
	return h2_flush(&x->h2);
}

/* what is on @from's wire goes to @to; Return: of h2_input() */
static inline int side_deliver(struct side *from, struct side *to)
{
	uint8_t *p = from->wire;
	size_t n = from->n;
	int r;

	from->wire = NULL; /* input may make output */
	from->n = from->cap = 0;
	r = n ? h2_input(&to->h2, p, n) : 0;
	free(p);
	return r;
}

/* until nothing moves any more; Return: 0, or the first error of h2_input() or h2_flush() */
static inline int sides_settle(struct side *a, struct side *b)
{
	for (int i = 0; i < 100000; i++) {
		int ra = side_flush(a), rb = side_flush(b);
		size_t moved = a->n + b->n;

		if (ra < 0 || rb < 0)
			return ra < 0 ? ra : rb;
		ra = side_deliver(a, b);
		rb = side_deliver(b, a);
		if (ra < 0 || rb < 0)
			return ra < 0 ? ra : rb;
		if (!moved && !a->dirty && !b->dirty)
			return 0;
	}
	return -ELOOP;
}

static inline struct str *str_by_id(struct side *x, int32_t id)
{
	for (unsigned int i = x->n_str; i-- > 0;)
		if (x->str[i].id == id)
			return &x->str[i];
	return NULL;
}

/* ---- frames made and read by hand ---- */

static inline size_t frame_put(uint8_t *out, uint8_t type, uint8_t flags, uint32_t id, const void *p, size_t n)
{
	out[0] = (uint8_t)(n >> 16);
	out[1] = (uint8_t)(n >> 8);
	out[2] = (uint8_t)n;
	out[3] = type;
	out[4] = flags;
	out[5] = (uint8_t)(id >> 24);
	out[6] = (uint8_t)(id >> 16);
	out[7] = (uint8_t)(id >> 8);
	out[8] = (uint8_t)id;
	if (n)
		memcpy(out + 9, p, n);
	return 9 + n;
}

static inline size_t u32_put(uint8_t *out, uint32_t v)
{
	out[0] = (uint8_t)(v >> 24);
	out[1] = (uint8_t)(v >> 16);
	out[2] = (uint8_t)(v >> 8);
	out[3] = (uint8_t)v;
	return 4;
}

static inline uint32_t u32_get(const uint8_t *p)
{
	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* HPACK: a literal that is not indexed, lengths below 127 + 2^14 */
static inline size_t hpack_string(uint8_t *out, const char *s, size_t n)
{
	size_t k = 0, rest;

	if (n < 127) {
		out[k++] = (uint8_t)n;
	} else {
		out[k++] = 127;
		for (rest = n - 127; rest >= 128; rest >>= 7)
			out[k++] = (uint8_t)(rest | 128);
		out[k++] = (uint8_t)rest;
	}
	memcpy(out + k, s, n);
	return k + n;
}

static inline size_t hpack_put(uint8_t *out, const char *name, const char *value, size_t n)
{
	size_t k = 0;

	out[k++] = 0;
	k += hpack_string(out + k, name, strlen(name));
	return k + hpack_string(out + k, value, n);
}

/* the header block of a plain CONNECT */
static inline size_t connect_block(uint8_t *out)
{
	size_t k = hpack_put(out, ":method", "CONNECT", 7);

	return k + hpack_put(out + k, ":authority", "10.0.0.7:80", 11);
}

struct frame {
	uint8_t type, flags;
	uint32_t id, n;
	const uint8_t *p;
};

/* the frame at p[*off..n); Return: false at the end */
static inline bool frame_next(const uint8_t *p, size_t n, size_t *off, struct frame *f)
{
	if (n - *off < 9)
		return false;
	f->n = (uint32_t)p[*off] << 16 | (uint32_t)p[*off + 1] << 8 | p[*off + 2];
	f->type = p[*off + 3];
	f->flags = p[*off + 4];
	f->id = u32_get(p + *off + 5) & 0x7fffffffu;
	f->p = p + *off + 9;
	if (n - *off - 9 < f->n)
		return false;
	*off += 9 + f->n;
	return true;
}

/* how many frames of @type (and @id, unless 0) are on the wire; *ret: the last of them */
static inline unsigned int wire_count(const struct side *x, size_t skip, uint8_t type, uint32_t id, struct frame *ret)
{
	unsigned int k = 0;
	size_t off = skip;
	struct frame f;

	while (frame_next(x->wire, x->n, &off, &f))
		if (f.type == type && (!id || f.id == id)) {
			k++;
			if (ret)
				*ret = f;
		}
	return k;
}
