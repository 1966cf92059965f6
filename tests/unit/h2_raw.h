/* One session under test, and a peer made by hand: frames are put together in msg[], given, and what comes back is looked at. */
#pragma once
#include "unit/h2_pair.h"
#include <stdarg.h>

enum { T_DATA, T_HEADERS, T_PRIORITY, T_RST, T_SETTINGS, T_PUSH, T_PING, T_GOAWAY, T_WINDOW, T_CONTINUATION };
enum { END_STREAM = 1, ACK = 1, END_HEADERS = 4, PADDED = 8 };

static struct side *x; /* the side under test */
static uint8_t msg[1 << 21];
static size_t len;

/* ---- making bytes ---- */

static inline void frame(uint8_t type, uint8_t flags, uint32_t id, const void *p, size_t n)
{
	assert_true(len + n + 9 <= sizeof(msg));
	len += frame_put(msg + len, type, flags, id, p, n);
}

static inline void word(uint8_t type, uint32_t id, uint32_t v)
{
	uint8_t b[4];

	u32_put(b, v);
	frame(type, 0, id, b, 4);
}

static inline void connect_request(uint32_t id, uint8_t flags)
{
	uint8_t b[64];

	frame(T_HEADERS, (uint8_t)(END_HEADERS | flags), id, b, connect_block(b));
}

static inline void ping(uint8_t flags)
{
	frame(T_PING, flags, 0, "12345678", 8);
}

static inline void setting(uint16_t id, uint32_t v)
{
	uint8_t b[6] = {(uint8_t)(id >> 8), (uint8_t)id};

	u32_put(b + 2, v);
	frame(T_SETTINGS, 0, 0, b, 6);
}

/* @name: @value pairs, up to NULL, as one HEADERS frame */
static inline void headers(uint32_t id, uint8_t flags, const char *name, ...)
{
	uint8_t b[4096];
	size_t n = 0;
	va_list ap;

	va_start(ap, name);
	for (; name; name = va_arg(ap, const char *)) {
		const char *value = va_arg(ap, const char *);

		n += hpack_put(b + n, name, value, strlen(value));
	}
	va_end(ap);
	frame(T_HEADERS, (uint8_t)(END_HEADERS | flags), id, b, n);
}

/* ---- giving them to the session ---- */

static inline int give(void)
{
	int r = h2_input(&x->h2, msg, len);

	len = 0;
	return r;
}

static inline void flush(void)
{
	int r;

	do {
		r = side_flush(x);
		assert_in_range(r, 0, 1);
	} while (r == 1);
}

static inline void start(bool server, uint32_t max_streams)
{
	x = side_new();
	assert_non_null(x);
	assert_int_equal(h2_init(&x->h2, &x->l, server, max_streams, &side_ops, x), 0);
	len = 0;
	if (server) {
		memcpy(msg, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
		len = NGHTTP2_CLIENT_MAGIC_LEN;
	}
	frame(T_SETTINGS, 0, 0, NULL, 0);
	assert_int_equal(give(), 0);
	flush();
	frame(T_SETTINGS, ACK, 0, NULL, 0);
	assert_int_equal(give(), 0);
	flush();
	x->n = 0;
}

static inline void stop(void)
{
	unsigned int closed = 0;

	h2_abort(&x->h2);
	for (unsigned int i = 0; i < x->n_str; i++) {
		assert_in_range(x->str[i].n_closed, 0, 1);
		closed += x->str[i].n_closed;
	}
	assert_in_range(closed, 0, x->n_str);
	assert_int_equal(x->h2.streams, 0);
	side_free(x);
	x = NULL;
}

static inline int setup(void **state)
{
	(void)state;
	start(true, 1024);
	return 0;
}

static inline int setup_client(void **state)
{
	(void)state;
	start(false, 0);
	for (int i = 0; i < 3; i++)
		assert_non_null(str_open(x, "10.0.0.7:80"));
	flush();
	x->n = 0;
	return 0;
}

static inline int teardown(void **state)
{
	(void)state;
	stop();
	return 0;
}

/* what it said at the end: code of its GOAWAY, or -1 */
static inline int64_t goaway(void)
{
	struct frame f = {0};

	flush();
	if (!wire_count(x, 0, T_GOAWAY, 0, &f))
		return -1;
	return u32_get(f.p + 4);
}

static inline int64_t reset_of(uint32_t id)
{
	struct frame f = {0};

	flush();
	if (!wire_count(x, 0, T_RST, id, &f))
		return -1;
	return u32_get(f.p);
}

static inline void is_over(uint32_t code)
{
	assert_int_equal(goaway(), code);
	assert_true(h2_over(&x->h2));
}

static inline void goes_on(void)
{
	uint32_t id = 100001;

	assert_int_equal(goaway(), -1);
	assert_false(h2_over(&x->h2));
	if (x->h2.server) {
		connect_request(id, 0);
		frame(T_DATA, 0, id, pattern((int32_t)id, false, 0), 50);
		assert_int_equal(give(), 0);
		assert_non_null(str_by_id(x, (int32_t)id));
		assert_int_equal(str_by_id(x, (int32_t)id)->got, 50);
		assert_false(str_by_id(x, (int32_t)id)->wrong);
	}
}

static inline void calmed(const char *why)
{
	assert_int_equal(x->hostiles, 1);
	assert_string_equal(x->why, why);
	assert_int_equal(atomic_load(&x->l.stats.c[ST_HOSTILE]), 1);
	assert_true(x->h2.dead);
	is_over(NGHTTP2_ENHANCE_YOUR_CALM);
	/* nothing is read any more */
	connect_request(200001, 0);
	assert_int_equal(give(), 0);
	assert_null(str_by_id(x, 200001));
	assert_int_equal(h2_room(&x->h2), 0);
}

/* a good request on stream 1 */
static inline void opened(void)
{
	connect_request(1, 0);
}
