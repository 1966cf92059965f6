/* Records: bytes both ways, what the wire looks like, and every ending. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/record_pair.h"
#include "unit/record_flow.h"
#include <fcntl.h>

static void bytes_arrive_as_they_were_sent(void **state)
{
	static const char *const suite[] = {AES128, AES256, CHACHA};
	struct rnd rnd = rnd_start("bytes through records");

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct two t;

		two_open(&t, suite[i]);
		assert_int_equal(t.r[0].cipher, i);
		both_ways(&t, &rnd, 3u << 20);
		two_close(&t);
	}
}

static void the_plain_engine_hands_bytes_on(void **state)
{
	struct rnd rnd = rnd_start("bytes without TLS");
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	open_ctx(&t, NULL, NULL);
	shake(&t);
	assert_int_equal(t.res[0] | t.res[1], 0);
	assert_string_equal(rec_engine_str(&t.r[0]), "plain");
	assert_string_equal(t.peer[0].id, "");
	assert_false(rec_worn(&t.r[0]));
	both_ways(&t, &rnd, 3u << 20);
	put(&t.r[0], "the end", 7);
	rec_close(&t.r[0], true);
	assert_int_equal(read_end(&t.r[1], &g, &e), 0);
	assert_int_equal(g.n, 7);
	free(g.p);
	two_close(&t);
}

static void nothing_written_sends_nothing(void **state)
{
	struct two t;
	uint64_t was;

	(void)state;
	two_open(&t, AES128);
	was = counter(ST_SYS_SEND);
	assert_int_equal(rec_write(&t.r[0], 0), 0);
	assert_int_equal(rec_flush(&t.r[0]), 0);
	assert_int_equal(counter(ST_SYS_SEND), was);
	two_close(&t);
}

/* what lies on the wire: the lengths of the records in p[0..n) */
static size_t record_sizes(const uint8_t *p, size_t n, size_t *out, size_t max)
{
	size_t k = 0;

	for (size_t off = 0; off < n; k++) {
		size_t body = (size_t)(p[off + 3] << 8 | p[off + 4]);

		assert_true(k < max);
		assert_int_equal(p[off], 23); /* TLS 1.3 says application data whatever is inside */
		assert_int_equal(p[off + 1] << 8 | p[off + 2], 0x0303);
		out[k] = body - TAG - 1;
		off += HDR + body;
		assert_true(off <= n);
	}
	return k;
}

static size_t raw_read(int fd, uint8_t *p, size_t want)
{
	size_t n = 0;

	while (n < want) {
		struct pollfd pf = {.fd = fd, .events = POLLIN};
		ssize_t r;

		assert_int_equal(poll(&pf, 1, WAIT_MS), 1);
		r = recv(fd, p + n, want - n, MSG_DONTWAIT);
		assert_true(r > 0);
		n += (size_t)r;
	}
	return n;
}

static void records_are_filled(void **state)
{
	static const size_t sizes[] = {1, 16383, 16384, 16385, 100000, SCRATCH_PLAIN - 1, SCRATCH_PLAIN};
	static uint8_t wire[SCRATCH_OUT];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		size_t n = sizes[i], records = (n + 16383) / 16384, len[16];
		uint64_t calls;
		struct two t;

		two_open(&t, AES128);
		calls = counter(ST_SYS_SEND);
		assert_int_equal(rec_write(&t.r[0], n), 0);
		if (!rec_blocked(&t.r[0]))
			assert_int_equal(counter(ST_SYS_SEND), calls + 1); /* many records, one system call */
		while (rec_blocked(&t.r[0])) {
			t.r[0].writable = true;
			(void)rec_flush(&t.r[0]);
		}
		raw_read(t.r[1].fd, wire, n + records * (HDR + 1 + TAG));
		assert_int_equal(recv(t.r[1].fd, wire, 1, MSG_DONTWAIT | MSG_PEEK), -1); /* and no more */
		assert_int_equal(record_sizes(wire, n + records * (HDR + 1 + TAG), len, 16), records);
		for (size_t k = 0; k + 1 < records; k++)
			assert_int_equal(len[k], 16384);
		assert_int_equal(len[records - 1], n - (records - 1) * 16384);
		two_close(&t);
	}
}

static void many_records_are_read_with_one_call(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	uint64_t calls;

	(void)state;
	two_open(&t, AES128);
	for (int i = 0; i < 100; i++)
		put(&t.r[0], "sixteen bytes...", 16);
	usleep(20000);
	calls = counter(ST_SYS_RECV);
	assert_true(rec_read(&t.r[1], take, &g, &e) > 0);
	assert_int_equal(g.calls, 100);
	assert_int_equal(counter(ST_SYS_RECV), calls + 1);
	assert_false(t.r[1].readable); /* a short read: an edge follows */
	free(g.p);
	two_close(&t);
}

static void what_the_sink_refuses_ends_the_reading(void **state)
{
	struct got g = {.refuse = -EPROTO};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	put(&t.r[0], "abc", 3);
	assert_int_equal(read_some(&t.r[1], &g, 3, &e), -EPROTO);
	two_close(&t);
}

/* ---- endings ---- */

static void an_orderly_end_is_0(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	put(&t.r[0], "last words", 10);
	rec_close(&t.r[0], true);
	assert_int_equal(read_end(&t.r[1], &g, &e), 0);
	assert_int_equal(g.n, 10);
	assert_true(t.r[1].ended);
	assert_int_equal(rec_read(&t.r[1], take, &g, &e), 0); /* and stays so */
	free(g.p);
	two_close(&t);
}

static void bytes_after_close_notify_do_not_count(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], TYPE_ALERT, "\1\0", 2, 0);
	craft(&t.r[0], TYPE_DATA, "too late", 8, 0);
	wire_send(&t.r[0]);
	assert_int_equal(read_end(&t.r[1], &g, &e), 0);
	assert_int_equal(g.n, 0);
	assert_int_equal(buffered(), 0);
	free(g.p);
	two_close(&t);
}

static void a_truncated_connection_is_an_error(void **state)
{
	struct two t;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	raw(&t, -ECONNABORTED, "without close_notify");
	two_close(&t);
	for (size_t cut = 1; cut < 60; cut += 6) { /* in the middle of a record */
		two_open(&t, AES128);
		w.n = 0;
		craft(&t.r[0], TYPE_DATA, "0123456789012345678901234567890123456789", 40, 0);
		w.n = cut;
		raw(&t, -ECONNABORTED, "without close_notify");
		two_close(&t);
	}
}

static void a_reset_is_an_error(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	sock_reset(t.r[0].fd);
	t.r[0].fd = fcntl(t.r[1].fd, F_DUPFD_CLOEXEC, 0); /* something to close */
	assert_int_equal(read_end(&t.r[1], &g, &e), -ECONNRESET);
	put(&t.r[1], "x", 0);
	memcpy(l.scratch.plain, "x", 1);
	assert_int_equal(rec_write(&t.r[1], 1), -EPIPE);
	free(g.p);
	two_close(&t);
}

static void closing_what_was_never_opened_is_fine(void **state)
{
	struct rec zero = {0};
	struct two t;

	(void)state;
	rec_close(&zero, true);
	open_ctx(&t, NULL, NULL);
	rec_close(&t.r[0], true);
	rec_close(&t.r[0], true); /* twice */
	two_close(&t);
	{
		struct cfg_identity id = certs_identity("node", AES128);

		open_ctx(&t, &id, &id); /* in the middle of a handshake */
		(void)rec_handshake(&t.r[0], NULL, 0, &t.peer[0], &t.e[0]);
		rec_close(&t.r[0], true);
		two_close(&t);
	}
}

static void output_that_waits_is_kept_and_counted(void **state)
{
	struct flow f = {.side = 0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	while (!rec_blocked(&t.r[0])) {
		for (size_t i = 0; i < SCRATCH_PLAIN; i++)
			l.scratch.plain[i] = byte_at(0, f.sent + i);
		assert_int_equal(rec_write(&t.r[0], SCRATCH_PLAIN), 0);
		f.sent += SCRATCH_PLAIN;
	}
	assert_false(t.r[0].writable);
	assert_int_equal(buffered(), t.r[0].pend.len);
	assert_in_range(t.r[0].pend.len, 1, SCRATCH_OUT);
	assert_int_equal(rec_flush(&t.r[0]), -EAGAIN); /* without an edge it does not even try */
	while (f.got < f.sent) {
		ssize_t n = rec_read(&t.r[1], check_bytes, &f, &e);

		assert_true(n > 0 || n == -EAGAIN);
		t.r[0].writable = true;
		n = rec_flush(&t.r[0]);
		assert_true(n == 0 || n == -EAGAIN);
	}
	assert_false(rec_blocked(&t.r[0]));
	assert_true(f.got == f.sent);
	two_close(&t);
}

static void an_end_with_output_waiting_is_not_made_to_look_orderly(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	ssize_t n;

	(void)state;
	two_open(&t, AES128);
	while (!rec_blocked(&t.r[0]))
		assert_int_equal(rec_write(&t.r[0], SCRATCH_PLAIN), 0);
	rec_close(&t.r[0], true);
	n = read_end(&t.r[1], &g, &e);
	assert_true(n == -ECONNABORTED || n == -ECONNRESET);
	free(g.p);
	two_close(&t);
}

static void keys_wear_out(void **state)
{
	struct two t;

	(void)state;
	two_open(&t, AES128);
	assert_false(rec_worn(&t.r[0]));
	t.r[0].keys->tx.seq = WORN;
	assert_true(rec_worn(&t.r[0]));
	t.r[1].keys->rx.seq = WORN;
	assert_true(rec_worn(&t.r[1]));
	crosses(&t.r[0], &t.r[1], "still works");
	two_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_arrive_as_they_were_sent),
		cmocka_unit_test(the_plain_engine_hands_bytes_on),
		cmocka_unit_test(nothing_written_sends_nothing),
		cmocka_unit_test(records_are_filled),
		cmocka_unit_test(many_records_are_read_with_one_call),
		cmocka_unit_test(what_the_sink_refuses_ends_the_reading),
		cmocka_unit_test(an_orderly_end_is_0),
		cmocka_unit_test(bytes_after_close_notify_do_not_count),
		cmocka_unit_test(a_truncated_connection_is_an_error),
		cmocka_unit_test(a_reset_is_an_error),
		cmocka_unit_test(closing_what_was_never_opened_is_fine),
		cmocka_unit_test(output_that_waits_is_kept_and_counted),
		cmocka_unit_test(an_end_with_output_waiting_is_not_made_to_look_orderly),
		cmocka_unit_test(keys_wear_out),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
