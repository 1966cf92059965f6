/* Records that no honest peer sends: damaged, repeated, out of order, of other types, in the clear. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/record_pair.h"
#include "unit/rand.h"

/* one record from the client, and what the server says to it */
static void one(uint8_t type, const void *p, size_t n, size_t pad, int want, const char *because)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	ssize_t r;

	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], type, p, n, pad);
	wire_send(&t.r[0]);
	rec_close(&t.r[0], true); /* close_notify behind it */
	r = read_end(&t.r[1], &g, &e);
	if (r != want || (because && !strstr(e.msg, because)))
		fail_msg("type %u: %zd '%s', not %d '%s'", type, r, e.msg, want, because ? because : "");
	if (want == 0 && type == TYPE_DATA) {
		assert_int_equal(g.n, n);
		if (n)
			assert_memory_equal(g.p, p, n);
	}
	free(g.p);
	two_close(&t);
}

static void padding_is_taken_off(void **state)
{
	static const uint8_t zeros[64];

	(void)state;
	one(TYPE_DATA, "abc", 3, 1, 0, NULL);
	one(TYPE_DATA, "abc", 3, 1000, 0, NULL);
	one(TYPE_DATA, "", 0, 16383, 0, NULL);
	one(TYPE_DATA, zeros, sizeof(zeros), 0, 0, NULL); /* zeros that are content */
	one(TYPE_DATA, zeros, sizeof(zeros), 7, 0, NULL);
	one(TYPE_DATA, "", 0, 0, 0, NULL);
	one(TYPE_HANDSHAKE, "\4\0\0\0", 4, 5, 0, NULL);
}

static void what_no_peer_sends_is_refused(void **state)
{
	static const uint8_t finished[36] = {20, 0, 0, 32}, hello[4] = {1, 0, 0, 0}, ticket[8] = {4, 0, 0, 4};

	(void)state;
	one(TYPE_HANDSHAKE, ticket, sizeof(ticket), 0, 0, NULL); /* a session ticket: not wanted, not an error */
	one(TYPE_HANDSHAKE, finished, sizeof(finished), 0, -EPROTO, "unexpected");
	one(TYPE_HANDSHAKE, hello, sizeof(hello), 0, -EPROTO, "unexpected"); /* renegotiation */
	one(TYPE_HANDSHAKE, "", 0, 0, -EPROTO, "unexpected");
	one(24 /* heartbeat */, "abc", 3, 0, -EPROTO, "type 24");
	one(20 /* a sealed ChangeCipherSpec */, "\1", 1, 0, -EPROTO, "type 20");
	one(0, "", 0, 0, -EPROTO, "without content type");
	one(0, "\0\0\0", 3, 0, -EPROTO, "without content type");
	one(TYPE_ALERT, "\2", 1, 0, -EPROTO, "unexpected");
	one(TYPE_ALERT, "\2\x28", 2, 0, -EPROTO, "alert 40");
	one(TYPE_ALERT, "\1\0", 2, 0, 0, NULL);
	one(TYPE_HANDSHAKE, "\x18\0\0\1\2", 5, 0, -EPROTO, "malformed KeyUpdate");
	one(TYPE_HANDSHAKE, "\x18\0\0\1\0\0", 6, 0, -EPROTO, "malformed KeyUpdate");
	one(TYPE_HANDSHAKE, "\x18\0\0\0", 4, 0, -EPROTO, "malformed KeyUpdate");
	one(TYPE_HANDSHAKE, "\x18\0\0\0\0", 5, 0, -EPROTO, "malformed KeyUpdate");
}

static void a_flipped_bit_is_seen_wherever_it_is(void **state)
{
	enum { N = 40 };

	(void)state;
	for (size_t at = 0; at < HDR + N + 1 + TAG; at++) {
		struct two t;
		char b[N] = "a record that somebody has touched";

		if (at > 8 && at % 5) /* handshakes take time */
			continue;
		two_open(&t, at % 2 ? AES128 : CHACHA);
		w.n = 0;
		craft(&t.r[0], TYPE_DATA, b, N, 0)[at] ^= (uint8_t)(1u << at % 8);
		/* a length that became longer makes it wait for bytes that never come */
		raw(&t, at == 3 ? -ECONNABORTED : -EPROTO, at == 3 ? "close_notify" : "");
		two_close(&t);
	}
}

static void records_out_of_order_are_refused(void **state)
{
	uint8_t keep[64];
	struct two t;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], TYPE_DATA, "first", 5, 0);
	memcpy(keep, w.p, w.n);
	w.n = 0;
	craft(&t.r[0], TYPE_DATA, "again", 5, 0); /* the second alone */
	raw(&t, -EPROTO, "does not authenticate");
	two_close(&t);
	two_open(&t, AES128);
	w.n = 0;
	memcpy(w.p, keep, 5 + HDR + 1 + TAG); /* of another connection */
	w.n = 5 + HDR + 1 + TAG;
	raw(&t, -EPROTO, "does not authenticate");
	two_close(&t);
}

static void a_repeated_record_is_refused(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	size_t n;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], TYPE_DATA, "pay 100", 7, 0);
	n = w.n;
	memcpy(w.p + n, w.p, n);
	w.n = 2 * n;
	wire_send(&t.r[0]);
	assert_int_equal(read_end(&t.r[1], &g, &e), -EPROTO);
	assert_int_equal(g.n, 7); /* once */
	free(g.p);
	two_close(&t);
}

static void headers_that_are_none_are_refused(void **state)
{
	static const uint8_t bad[][HDR] = {
		{22, 3, 3, 0, 40},	/* a handshake in the clear */
		{21, 3, 3, 0, 2},	/* an alert in the clear */
		{23, 2, 3, 0, 40},	/* a version nobody has */
		{23, 3, 3, 0, 16},	/* no room for content type and tag */
		{23, 3, 3, 0, 0},
		{23, 3, 3, 0x41, 1},	/* 16641: more than 2^14 + 256 */
		{23, 3, 3, 0xff, 0xff},
		{'G', 'E', 'T', ' ', '/'},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct two t;

		two_open(&t, AES128);
		memcpy(w.p, bad[i], HDR);
		w.n = HDR;
		raw(&t, -EPROTO, "not a TLS 1.3 record");
		two_close(&t);
	}
}

static void a_late_change_cipher_spec_is_passed_over(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	memcpy(w.p, "\x14\3\3\0\1\1", 6); /* RFC 8446 D.4 */
	w.n = 6;
	craft(&t.r[0], TYPE_DATA, "abc", 3, 0);
	wire_send(&t.r[0]);
	assert_true(read_some(&t.r[1], &g, 3, &e) > 0);
	assert_int_equal(g.n, 3);
	free(g.p);
	two_close(&t);
}

static void records_may_come_in_pieces_of_any_size(void **state)
{
	struct rnd rnd = rnd_start("records in pieces");
	struct got g = {0};
	struct err e = {""};
	char text[3000];
	struct two t;

	(void)state;
	two_open(&t, AES256);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)byte_at(0, i);
	w.n = 0;
	memcpy(w.p, "\x14\3\3\0\1\1", 6);
	w.n = 6;
	craft(&t.r[0], TYPE_DATA, text, 1000, 3);
	craft(&t.r[0], TYPE_HANDSHAKE, "\4\0\0\0", 4, 0);
	craft(&t.r[0], TYPE_DATA, text + 1000, 0, 0);
	craft(&t.r[0], TYPE_DATA, text + 1000, 2000, 0);
	for (size_t off = 0, n; off < w.n; off += n) {
		struct pollfd p = {.fd = t.r[1].fd, .events = POLLIN};

		n = min_u64(w.n - off, off < 100 ? 1 : 1 + rnd_below(&rnd, 700));
		assert_int_equal(send(t.r[0].fd, w.p + off, n, 0), (ssize_t)n);
		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		assert_int_equal(rec_read(&t.r[1], take, &g, &e), (ssize_t)n);
		assert_int_equal(buffered(), t.r[1].part.len);
		assert_in_range(t.r[1].part.len, 0, HDR + RECORD_MAX);
	}
	assert_int_equal(g.n, sizeof(text));
	assert_memory_equal(g.p, text, sizeof(text));
	free(g.p);
	w.n = 0;
	two_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(padding_is_taken_off),
		cmocka_unit_test(what_no_peer_sends_is_refused),
		cmocka_unit_test(a_flipped_bit_is_seen_wherever_it_is),
		cmocka_unit_test(records_out_of_order_are_refused),
		cmocka_unit_test(a_repeated_record_is_refused),
		cmocka_unit_test(headers_that_are_none_are_refused),
		cmocka_unit_test(a_late_change_cipher_spec_is_passed_over),
		cmocka_unit_test(records_may_come_in_pieces_of_any_size),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
