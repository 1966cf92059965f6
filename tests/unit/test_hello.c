/* The server name in a TLS client's hello (row A08): found as it is, in however many pieces it comes, and nothing found in what is no hello. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <stdio.h>
#include <cmocka.h>

#include "../../daemon/codec/hello.c"
#include "base/clean.h"
#include "rand.h"

struct bytes {
	uint8_t p[HELLO_MAX * 2];
	size_t n;
};

static void put(struct bytes *b, const void *p, size_t n)
{
	memcpy(b->p + b->n, p, n);
	b->n += n;
}

static void number_put(struct bytes *b, size_t v, size_t bytes)
{
	for (size_t i = bytes; i--;)
		b->p[b->n++] = (uint8_t)(v >> (8 * i));
}

static void ext_put(struct bytes *b, size_t type, const void *p, size_t n)
{
	number_put(b, type, 2);
	number_put(b, n, 2);
	put(b, p, n);
}

static void name_put(struct bytes *b, const char *name, size_t n, size_t type)
{
	struct bytes *e = calloc(1, sizeof(*e));

	assert_non_null(e);
	number_put(e, n + 3, 2);
	number_put(e, type, 1);
	number_put(e, n, 2);
	put(e, name, n);
	ext_put(b, 0, e->p, e->n);
	free(e);
}

/* the message of a hello with these extensions */
static void message(struct bytes *m, const struct bytes *ext)
{
	uint8_t zero[32] = {0};

	m->n = 0;
	number_put(m, 1, 1);
	number_put(m, 2 + 32 + 1 + 8 + 2 + 4 + 1 + 1 + 2 + ext->n, 3);
	number_put(m, 0x0303, 2);
	put(m, zero, 32);
	number_put(m, 8, 1);
	put(m, zero, 8);
	number_put(m, 4, 2);
	number_put(m, 0x13011302, 4);
	number_put(m, 1, 1);
	number_put(m, 0, 1);
	number_put(m, ext->n, 2);
	put(m, ext->p, ext->n);
}

/* in records of @piece bytes */
static void records(struct bytes *out, const struct bytes *m, size_t piece)
{
	out->n = 0;
	for (size_t at = 0; at < m->n; at += piece) {
		size_t n = m->n - at < piece ? m->n - at : piece;

		number_put(out, 22, 1);
		number_put(out, 0x0301, 2);
		number_put(out, n, 2);
		put(out, m->p + at, n);
	}
}

static struct bytes ext, msg, rec, copy;

static int ask(struct slice *ret, struct err *e)
{
	copy = rec;
	return hello_server_name(copy.p, copy.n, ret, e);
}

static void the_name_is_found(void **state)
{
	static const size_t piece[] = {1, 2, 3, 4, 5, 100, 16384};
	struct slice s;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(piece); i++) {
		ext.n = 0;
		ext_put(&ext, 43, "\2\3\4", 3);
		name_put(&ext, "web.shop.example", 16, 0);
		ext_put(&ext, 16, "\0\3\2h2", 5);
		message(&msg, &ext);
		records(&rec, &msg, piece[i]);
		assert_int_equal(ask(&s, NULL), 1);
		assert_true(slice_is(s, "web.shop.example"));
	}
}

static void no_name_is_no_name(void **state)
{
	struct slice s = {"x", 1};

	(void)state;
	ext.n = 0;
	message(&msg, &ext);
	records(&rec, &msg, 16384);
	assert_int_equal(ask(&s, NULL), 1);
	assert_int_equal(s.n, 0);
	ext_put(&ext, 43, "\2\3\4", 3);
	message(&msg, &ext);
	records(&rec, &msg, 16384);
	assert_int_equal(ask(&s, NULL), 1);
	assert_int_equal(s.n, 0);
}

static void every_beginning_asks_for_more(void **state)
{
	static const size_t piece[] = {3, 60, 16384};
	struct slice s;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(piece); i++) {
		size_t whole;

		ext.n = 0;
		name_put(&ext, "a.b", 3, 0);
		message(&msg, &ext);
		records(&rec, &msg, piece[i]);
		whole = rec.n;
		for (rec.n = 0; rec.n < whole; rec.n++)
			assert_int_equal(ask(&s, NULL), 0);
		assert_int_equal(ask(&s, NULL), 1);
	}
}

static void refused(const char *words)
{
	struct err e = {""};
	struct slice s = {NULL, 0};

	assert_int_equal(ask(&s, &e), -EINVAL);
	if (!strstr(e.msg, words))
		fail_msg("'%s' lacks '%s'", e.msg, words);
	assert_null(s.p);
}

static void what_is_no_hello_is_refused(void **state)
{
	static const char http[] = "GET / HTTP/1.1\r\n";

	(void)state;
	rec.n = 0;
	put(&rec, http, sizeof(http) - 1);
	refused("a record of type 71");
	rec.n = 0;
	put(&rec, "\x16\x04", 2);
	refused("a record of version 4");
	rec.n = 0;
	put(&rec, "\x16\x03\x01\x00\x00", 5);
	refused("a record of 0 bytes");
	rec.n = 0;
	put(&rec, "\x16\x03\x01\x40\x01", 5);
	refused("a record of 16385 bytes");
	rec.n = 0;
	put(&rec, "\x16\x03\x01\x00\x04\x02\x00\x00\x01", 9);
	refused("a message of type 2");
	rec.n = 0;
	put(&rec, "\x16\x03\x01\x00\x04\x01\x01\x00\x00", 9);
	refused("a TLS hello of");
}

static void malformed_hellos_are_refused(void **state)
{
	static char longest[300];

	(void)state;
	memset(longest, 'a', sizeof(longest));
	/* a second name, another type of name, an empty one, one too long, one with a NUL, bytes behind the list */
	ext.n = 0;
	name_put(&ext, "a.b", 3, 0);
	name_put(&ext, "c.d", 3, 0);
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	ext.n = 0;
	name_put(&ext, "a.b", 3, 1);
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	ext.n = 0;
	name_put(&ext, "", 0, 0);
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	ext.n = 0;
	name_put(&ext, longest, 256, 0);
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	ext.n = 0;
	name_put(&ext, "a\0b", 3, 0);
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	ext.n = 0;
	ext_put(&ext, 0, "\0\6\0\0\3a.b!", 9);
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	ext.n = 0;
	ext_put(&ext, 43, "\2\3\4", 3);
	ext.p[3] = 9; /* longer than it is */
	message(&msg, &ext), records(&rec, &msg, 16384);
	refused("malformed");
	/* bytes behind the extensions, and behind the hello */
	ext.n = 0;
	message(&msg, &ext);
	msg.p[3]++, msg.n++;
	records(&rec, &msg, 16384);
	refused("malformed");
	message(&msg, &ext);
	msg.n++;
	records(&rec, &msg, 16384);
	refused("something follows");
}

/* pieces of a byte cost 6 bytes of records each: there is an end to it */
static void too_many_pieces_are_refused(void **state)
{
	static uint8_t filler[4000];

	(void)state;
	ext.n = 0;
	ext_put(&ext, 21, filler, sizeof(filler));
	message(&msg, &ext);
	records(&rec, &msg, 1);
	assert_true(rec.n > HELLO_MAX);
	refused("too many pieces");
	records(&rec, &msg, 2000);
	assert_int_equal(ask(&(struct slice){NULL, 0}, NULL), 1);
}

/* one byte changed anywhere: no crash, and never a name that is not in it */
static void a_changed_byte_finds_no_other_name(void **state)
{
	struct rnd r = rnd_start("hello");
	uint32_t found = 0;

	(void)state;
	ext.n = 0;
	ext_put(&ext, 43, "\2\3\4", 3);
	name_put(&ext, "web.shop.example", 16, 0);
	message(&msg, &ext);
	for (int i = 0; i < 20000; i++) {
		struct slice s = {NULL, 0};

		records(&rec, &msg, 1 + rnd_below(&r, 200));
		rec.p[rnd_below(&r, rec.n)] ^= (uint8_t)(1 + rnd_below(&r, 255));
		if (ask(&s, NULL) == 1 && s.n) {
			assert_true(s.n <= 16 && s.p >= (char *)copy.p && s.p + s.n <= (char *)copy.p + copy.n);
			found++;
		}
	}
	assert_true(found > 1000); /* the random, session and suites do not matter */
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_name_is_found),
		cmocka_unit_test(no_name_is_no_name),
		cmocka_unit_test(every_beginning_asks_for_more),
		cmocka_unit_test(what_is_no_hello_is_refused),
		cmocka_unit_test(malformed_hellos_are_refused),
		cmocka_unit_test(too_many_pieces_are_refused),
		cmocka_unit_test(a_changed_byte_finds_no_other_name),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
