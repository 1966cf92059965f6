/*
 * A session against any peer: byte 0 says what it is and how the rest is read, byte 1 seeds what our own side does meanwhile (it
 * accepts, answers, refuses, resets, pulls, consumes, is blocked, under pressure, and so on).
 *	bit 0	client (with open streams) instead of server
 *	bit 1	the rest is not bytes of the connection but frames to be made: see frames_make()
 *	bit 2	no limits of rates: to get further
 *	bit 3	small windows and frames
 *	bit 4	the preface, and SETTINGS, are not supplied
 *	bit 5	with bit 1: whole frames are given, and our SETTINGS acknowledged at once
 *	bit 6	payload that may pass the session by does
 */
/* fuzz: -max_len=4096 */
#define STREAMS 96
#include "unit/h2_pair.h"
#include <sanitizer/allocator_interface.h>

#define MEMORY_MAX (48u << 20) /* of the process, beyond what it had before the input */

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static struct side *x;
static uint64_t rnd_state;
static uint8_t made[1 << 18];
static size_t baseline;

static uint32_t rnd(uint32_t n)
{
	rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(rnd_state >> 33) % n;
}

/* ---- our side ---- */

static void request(void *owner, int32_t id, const struct header *h, size_t n, unsigned flags)
{
	nghttp2_nv nv = NV_LIT(":status", "400");

	check(!x->h2.dead, "nothing is asked of a dead session");
	check(x->h2.server, "requests come to servers");
	check(id & 1, "requests have odd ids");
	for (size_t i = 0; i < n; i++)
		check(h[i].name.n + h[i].value.n <= x->cfg.limits.header_bytes, "headers are within the limit");
	check(n <= x->cfg.limits.header_count, "headers are within the limit in number");
	x->no_answer = rnd(2);
	if (x->n_str == STREAMS || rnd(4) == 0)
		h2_refuse(&x->h2, id, &nv, 1);
	else
		ops_request(owner, id, h, n, flags);
}

static void response(void *owner, struct h2_stream *s, const struct header *h, size_t n, unsigned flags)
{
	check(!x->h2.server && s->id, "answers come to clients, for streams there are");
	ops_response(owner, s, h, n, flags);
	if (rnd(8) == 0)
		h2_reset(s, NGHTTP2_CANCEL);
}

static const uint8_t *aside; /* payload that passes by */
static size_t aside_n;

static void data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	check(s->id && s->h == &x->h2, "data comes for live streams");
	check(p ? !aside_n : n == aside_n, "what passed by is told, and nothing else meanwhile");
	p = p ? p : aside;
	aside_n = 0;
	check(!container_of(s, struct str, s)->ended, "no data after the end");
	ops_data(owner, s, p, n);
	if (rnd(64) == 0)
		h2_reset(s, NGHTTP2_CONNECT_ERROR); /* the local leg was lost when it was written to */
}

static void ended(void *owner, struct h2_stream *s)
{
	check(s->id && !container_of(s, struct str, s)->ended, "one end per stream");
	ops_end(owner, s);
}

static struct h2_ops fuzz_ops;

static unsigned int settings_seen;

static void invariants(void)
{
	unsigned int live = 0;
	struct frame f;
	size_t off = 0;

	for (unsigned int i = 0; i < x->n_str; i++) {
		const struct str *t = &x->str[i];

		live += t->s.id != 0;
		check(t->n_closed <= 1, "a stream is closed once");
		check(!t->closed || !t->s.id, "a closed stream has no id");
	}
	check(live == x->h2.streams, "the number of streams is right");
	check(atomic_load(&x->l.stats.g[SG_STREAMS]) == (int64_t)live, "the gauge of streams is right");
	check(!x->h2.server || live <= x->h2.max_streams, "no more streams than allowed");
	while (frame_next(x->wire, x->n, &off, &f))
		settings_seen += f.type == NGHTTP2_SETTINGS && !(f.flags & NGHTTP2_FLAG_ACK);
	check(off == x->n, "what is written is whole frames");
	x->n = 0;
	check(__sanitizer_get_current_allocated_bytes() < baseline + MEMORY_MAX, "memory is bounded");
}

static void act(void)
{
	struct str *t = x->n_str ? &x->str[rnd(x->n_str)] : NULL;
	nghttp2_nv nv = NV_LIT(":status", "503");
	char name[24];
	int r;

	switch (rnd(21)) {
	case 0:
	case 1:
	case 2:
	case 3:
	case 4:
	case 5:
		x->room = rnd(8) ? SIZE_MAX : rnd(70000);
		r = side_flush(x);
		check(r >= 0 || r == -EPROTO, "flush fails for reasons only");
		break;
	case 6:
		if (t) {
			t->to_send += rnd(1u << rnd(20));
			t->eof = rnd(4) == 0;
			h2_resume(&t->s);
		}
		break;
	case 7:
	case 8:
		if (t && t->owed) {
			uint64_t n = 1 + rnd((uint32_t)t->owed);

			t->owed -= n;
			h2_consumed(&t->s, n);
		}
		break;
	case 9:
		if (t)
			t->hold = rnd(3) == 0;
		break;
	case 10:
		if (t && x->h2.server && t->s.id && !t->answered)
			(void)str_answer(t, "200");
		break;
	case 11:
		if (t && x->h2.server && t->s.id && !t->answered)
			h2_refuse(&x->h2, t->s.id, &nv, 1);
		break;
	case 12:
		if (t)
			h2_reset(&t->s, rnd(16));
		break;
	case 13:
		if (t && rnd(4) == 0)
			h2_forget(&t->s);
		break;
	case 14:
		if (!x->h2.server && x->n_str < STREAMS && h2_room(&x->h2)) {
			snprintf(name, sizeof(name), "10.0.0.%u:80", rnd(4));
			t = str_open(x, name);
			if (t)
				t->to_send = rnd(100000);
		}
		break;
	case 15: side_pass_ms(x, rnd(1u << rnd(15))); break;
	case 16: atomic_store(&x->l.stats.g[SG_BUFFERED], rnd(3) ? 0 : (int64_t)x->cfg.limits.memory + 1); break;
	case 17: h2_ping(&x->h2, rnd(2)); break;
	case 18:
		if (rnd(16) == 0)
			h2_goaway_first(&x->h2);
		break;
	case 19:
		if (rnd(16) == 0)
			h2_goaway_last(&x->h2, rnd(14));
		break;
	case 20: h2_window_check(&x->h2); break;
	}
}

/* ---- the peer's bytes ---- */

/*
 * frames_make() - three bytes say what comes next, so that most of it is meant well enough to get somewhere
 *	kind: low four bits the type of frame (10 and above: one of the compositions below), high four bits its flags
 *	which: stream, by number of its pair (0: the connection); 0xff: an idle one
 *	size: of the payload, that many bytes of input follow
 */
static size_t frames_make(const uint8_t *p, size_t n)
{
	size_t k = 0;

	while (n >= 3 && k + 65536 < sizeof(made)) {
		uint8_t kind = p[0] & 15, flags = p[0] >> 4;
		uint32_t id = p[1] ? 2u * p[1] - 1 : 0;
		size_t len = min_u64(p[2], n - 3);
		uint8_t block[8192];
		size_t b = 0;

		if (p[1] == 0xff)
			id = 100001;
		p += 3;
		n -= 3;
		flags = (uint8_t)((flags & 1) | (flags & 2 ? 4 : 0) | (flags & 4 ? 8 : 0) | (flags & 8 ? 0x20 : 0));
		switch (kind) {
		case 10: /* a good request, with the input as a value; or an answer */
		case 11:
			if (x->h2.server)
				b = connect_block(block);
			else
				b = hpack_put(block, ":status", kind == 10 ? "200" : len ? "103" : "503", 3);
			if (len)
				b += hpack_put(block + b, "x-client-id", (const char *)p, len);
			k += frame_put(made + k, NGHTTP2_HEADERS, (uint8_t)(4 | (kind == 11)), id, block, b);
			break;
		case 12: /* much data */
			memset(block, 'd', sizeof(block));
			for (size_t i = 0; i < len % 8 + 1 && k + 10000 < sizeof(made); i++)
				k += frame_put(made + k, NGHTTP2_DATA, flags & 1 && i == len % 8, id, block, sizeof(block));
			break;
		case 13: /* many small frames of one kind */
			for (size_t i = 0; i < len; i++)
				k += frame_put(made + k, i & 1 ? NGHTTP2_PING : NGHTTP2_SETTINGS, 0, 0, "12345678", i & 1 ? 8 : 0);
			break;
		case 14: /* headers in pieces */
			b = connect_block(block);
			k += frame_put(made + k, NGHTTP2_HEADERS, 0, id, block, 5);
			for (size_t i = 0; i < (len & 31); i++)
				k += frame_put(made + k, NGHTTP2_CONTINUATION, 0, id, NULL, 0);
			k += frame_put(made + k, NGHTTP2_CONTINUATION, 4, id, block + 5, b - 5);
			break;
		case 15: /* a request and its end at once */
			b = connect_block(block);
			k += frame_put(made + k, NGHTTP2_HEADERS, 4, id, block, b);
			k += frame_put(made + k, NGHTTP2_RST_STREAM, 0, id, "\0\0\0\10", 4);
			break;
		default:
			k += frame_put(made + k, kind, flags, id, p, len);
			break;
		}
		p += len;
		n -= len;
	}
	return k;
}

static void begin(uint8_t how)
{
	static const uint8_t settings[9] = {0, 0, 0, NGHTTP2_SETTINGS};
	static struct h2 none;

	if (!x) {
		x = side_new();
		check(x != NULL, "memory to begin with");
		x->cap = 1 << 20;
		x->wire = malloc(x->cap);
		fuzz_ops = side_ops;
		fuzz_ops.request = request;
		fuzz_ops.response = response;
		fuzz_ops.data = data;
		fuzz_ops.end = ended;
		baseline = __sanitizer_get_current_allocated_bytes();
	}
	memset(x->str, 0, STREAMS * sizeof(*x->str));
	memset(&x->l.stats, 0, sizeof(x->l.stats));
	x->h2 = none;
	x->n = x->n_str = 0;
	x->room = SIZE_MAX;
	x->dirty = x->no_answer = x->refuse_all = x->hold_all = false;
	x->l.now_ms = 1000000;
	x->l.now_us = x->l.now_ms * 1000;
	x->rtt = rnd(100000);
	side_limits(&x->cfg);
	if (how & 4) {
		struct cfg_limits *l = &x->cfg.limits;

		l->rst_rate = l->ping_rate = l->settings_rate = l->empty_data_rate = l->window_update_rate = l->glitch_rate = 0;
	}
	x->cfg.kernel.splice_above = how & 64 ? 8 : 0;
	if (how & 8) {
		x->cfg.limits.stream_window = 100;
		x->cfg.limits.stream_window_max = 5000;
		x->cfg.limits.connection_window = 70000;
		x->cfg.limits.max_frame_size = 16384;
		x->cfg.limits.header_bytes = 300;
	}
	check(h2_init(&x->h2, &x->l, !(how & 1), how & 8 ? 3 : 40, &fuzz_ops, x) == 0, "a session can be made");
	check(side_flush(x) == 0, "its SETTINGS can be sent");
	x->n = 0;
	settings_seen = 1;
	if (how & 16)
		return;
	if (!(how & 1))
		check(h2_input(&x->h2, (const uint8_t *)NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN) == 0, "the preface is taken");
	check(h2_input(&x->h2, settings, sizeof(settings)) == 0, "SETTINGS are taken");
	if (how & 1)
		for (int i = 0; i < 4; i++) {
			struct str *t = str_open(x, "10.0.0.7:80");

			check(t != NULL, "streams can be opened");
			t->to_send = rnd(50000);
			t->hold = i == 3;
		}
	check(side_flush(x) >= 0, "they can be sent");
	x->n = 0;
}

static void acknowledge(void)
{
	static const uint8_t ack[9] = {0, 0, 0, NGHTTP2_SETTINGS, NGHTTP2_FLAG_ACK};

	for (; settings_seen; settings_seen--)
		check(h2_input(&x->h2, ack, sizeof(ack)) >= -EPROTO, "an acknowledgement is taken");
}

/* bytes of the next piece: any, or some whole frames */
static size_t piece_of(const uint8_t *p, size_t n, bool whole)
{
	size_t k = 0, frames = rnd(4) ? 1 + rnd(3) : 1000;
	struct frame f;

	if (!whole)
		return rnd(4) ? min_u64(n, 1 + rnd(1u << rnd(14))) : n;
	while (frames-- && frame_next(p, n, &k, &f))
		;
	return k ? k : n;
}

/* as tunnel/ops.c reads. Return: of h2_input() */
static int input(const uint8_t *p, size_t n, bool pass_by)
{
	struct h2_stream *s;
	size_t left, want, k;
	int r = 0;

	for (; n && r == 0; p += k, n -= k) {
		left = pass_by ? h2_payload(&x->h2, &s) : 0;
		want = pass_by && !left ? h2_header(&x->h2) : 0;
		k = left ? min_u64(1 + rnd(1u << rnd(18)), min_u64(n, left)) : want ? min_u64(want, n) : n;
		check(!left || (s->id && s->h == &x->h2), "payload is some live stream's");
		if (!left) {
			r = h2_input(&x->h2, p, k);
			continue;
		}
		aside = p;
		aside_n = k;
		r = h2_spliced(&x->h2, s, k);
		check(!aside_n || !s->id, "a stream that does not take it is over");
		aside_n = 0;
	}
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	uint8_t how;
	int r = 0;

	if (n < 2)
		return 0;
	how = p[0];
	rnd_state = p[1] * 0x9e3779b97f4a7c15u;
	p += 2;
	n -= 2;
	begin(how);
	if (how & 2) {
		n = frames_make(p, n);
		p = made;
	}
	while (n && r == 0) {
		bool whole = (how & 34) == 34;
		size_t piece = piece_of(p, n, whole);
		uint8_t *copy = malloc(piece); /* what is read beyond it shows */

		check(copy != NULL, "memory");
		memcpy(copy, p, piece);
		r = input(copy, piece, how & 64);
		free(copy); /* pointers into it may not be kept */
		check(r == 0 || r == -EPROTO, "input fails for reasons only");
		p += piece;
		n -= piece;
		invariants();
		for (uint32_t i = rnd(6); i; i--)
			act();
		invariants();
		if (whole)
			acknowledge();
	}
	x->room = SIZE_MAX;
	for (int i = 0; i < 3; i++)
		(void)side_flush(x);
	invariants();
	(void)h2_over(&x->h2);
	h2_abort(&x->h2);
	check(x->h2.streams == 0, "nothing is left after the end");
	invariants();
	return 0;
}
