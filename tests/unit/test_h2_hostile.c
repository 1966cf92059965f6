/*
 * HTTP/2 sessions against floods and bombs: what comes too often or is too large gets GOAWAY(ENHANCE_YOUR_CALM), what is merely too
 * much is refused.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/h2/session.c"
#include "daemon/h2/input.c"
#include "unit/h2_raw.h"

/* ---- rates ---- */

static void one_rapid_reset(uint32_t i)
{
	connect_request(2 * i + 1, 0);
	word(T_RST, 2 * i + 1, NGHTTP2_CANCEL);
}

static void one_ping(uint32_t i)
{
	(void)i;
	ping(0);
}

static void one_settings(uint32_t i)
{
	(void)i;
	frame(T_SETTINGS, 0, 0, NULL, 0);
}

static void one_empty_data(uint32_t i)
{
	if (i == 0)
		connect_request(1, 0);
	frame(T_DATA, 0, 1, NULL, 0);
}

static void one_padding(uint32_t i)
{
	if (i == 0)
		connect_request(1, 0);
	frame(T_DATA, PADDED, 1, i % 2 ? "\3\0\0\0" : "\0", i % 2 ? 4 : 1);
}

static void one_window_update(uint32_t i)
{
	(void)i;
	word(T_WINDOW, 0, 1);
}

static void one_glitch(uint32_t i) /* a malformed request */
{
	headers(2 * i + 1, 0, ":method", "CONNECT", ":authority", "a:1", "Upper-Case", "x", NULL);
}

static void one_answer_to_nothing(uint32_t i)
{
	(void)i;
	ping(1);
}

static void one_priority(uint32_t i)
{
	frame(T_PRIORITY, 0, 2 * i + 1, "\0\0\0\0\20", 5);
}

static const struct flood {
	const char *why;
	void (*one)(uint32_t i);
	size_t limit; /* offset in struct cfg_limits */
} floods[] = {
	{"RST_STREAM before a response", one_rapid_reset, offsetof(struct cfg_limits, rst_rate)},
	{"PING", one_ping, offsetof(struct cfg_limits, ping_rate)},
	{"SETTINGS", one_settings, offsetof(struct cfg_limits, settings_rate)},
	{"empty DATA", one_empty_data, offsetof(struct cfg_limits, empty_data_rate)},
	{"empty DATA", one_padding, offsetof(struct cfg_limits, empty_data_rate)},
	{"WINDOW_UPDATE", one_window_update, offsetof(struct cfg_limits, window_update_rate)},
	{"invalid frames", one_glitch, offsetof(struct cfg_limits, glitch_rate)},
	{"invalid frames", one_answer_to_nothing, offsetof(struct cfg_limits, glitch_rate)},
	{"invalid frames", one_priority, offsetof(struct cfg_limits, glitch_rate)},
};

static uint32_t *limit_of(const struct flood *f)
{
	return (uint32_t *)((char *)&x->cfg.limits + f->limit);
}

static void what_comes_too_often_is_calmed(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(floods); k++) {
		start(true, 1024);
		x->no_answer = true;
		side_pass_ms(x, 1000);
		*limit_of(&floods[k]) = 40;
		for (uint32_t i = 0; i < 40; i++) {
			floods[k].one(i);
			assert_int_equal(give(), 0);
			flush();
			assert_int_equal(x->hostiles, 0);
		}
		floods[k].one(40);
		assert_int_equal(give(), 0);
		calmed(floods[k].why);
		stop();
	}
}

static void all_in_one_read_is_no_way_round(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(floods); k++) {
		start(true, 1024);
		x->no_answer = true;
		side_pass_ms(x, 1000);
		*limit_of(&floods[k]) = 40;
		for (uint32_t i = 0; i < 500; i++)
			floods[k].one(i);
		assert_int_equal(give(), 0);
		assert_in_range(x->requests, 0, 45);
		calmed(floods[k].why);
		stop();
	}
}

static void a_steady_peer_is_left_alone(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(floods); k++) {
		start(true, 1024);
		x->no_answer = true;
		side_pass_ms(x, 1000);
		*limit_of(&floods[k]) = 40;
		for (uint32_t i = 0; i < 400; i++) {
			floods[k].one(i);
			assert_int_equal(give(), 0);
			flush();
			if (i % 40 == 39)
				side_pass_ms(x, 1000);
		}
		assert_int_equal(x->hostiles, 0);
		goes_on();
		stop();
	}
}

static void a_limit_of_0_is_none(void **state)
{
	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(floods); k++) {
		start(true, 1024);
		x->no_answer = true;
		*limit_of(&floods[k]) = 0;
		for (uint32_t i = 0; i < 3000; i++) {
			if (!k && i == 1200)
				break; /* objects of this test */
			floods[k].one(i);
			assert_int_equal(give(), 0);
			flush();
		}
		goes_on();
		stop();
	}
}

static void resets_after_an_answer_are_an_applications_right(void **state)
{
	(void)state;
	for (uint32_t i = 0; i < 1000; i++) {
		connect_request(2 * i + 1, 0);
		assert_int_equal(give(), 0);
		flush();
		word(T_RST, 2 * i + 1, NGHTTP2_CONNECT_ERROR);
		assert_int_equal(give(), 0);
		assert_true(x->str[i].closed && x->str[i].by_peer);
	}
	goes_on();
}

/* a peer that makes us send the resets (CVE-2025-8671) is no better than one that sends them */
static void made_to_reset(void **state)
{
	static const char *const names[] = {"window overflow", "window update of 0", "headers that are no trailers"};
	unsigned int survived = 0;

	(void)state;
	for (int how = 0; how < 3; how++) {
		start(true, 1024);
		for (uint32_t i = 0; i < 1200 && !h2_over(&x->h2); i++) {
			uint32_t id = 2 * i + 1;

			connect_request(id, 0);
			switch (how) {
			case 0: word(T_WINDOW, id, 0x7fffffff); break;
			case 1: word(T_WINDOW, id, 0); break;
			case 2: headers(id, END_STREAM, ":method", "CONNECT", NULL); break;
			}
			assert_in_range(-give(), 0, EPROTO);
			flush();
		}
		if (!h2_over(&x->h2)) {
			print_message("%s: 1200 in a second and no end\n", names[how]);
			survived++;
		}
		stop();
	}
	assert_int_equal(survived, 0);
}

/* ---- header lists ---- */

static size_t big_block(uint8_t *b, size_t fields, size_t value)
{
	static char text[20000];
	size_t n = connect_block(b);

	memset(text, 'v', sizeof(text));
	for (size_t i = 0; i < fields; i++)
		n += hpack_put(b + n, "x-filler", text, value);
	return n;
}

/* as HEADERS and as many CONTINUATIONs as it takes */
static void send_block(uint32_t id, const uint8_t *b, size_t n, size_t piece)
{
	frame(T_HEADERS, n <= piece ? END_HEADERS : 0, id, b, min_u64(n, piece));
	for (size_t off = piece; off < n; off += piece)
		frame(T_CONTINUATION, off + piece >= n ? END_HEADERS : 0, id, b + off, min_u64(n - off, piece));
}

static void a_header_list_too_large_is_the_requests_fault(void **state)
{
	static uint8_t b[100000];

	(void)state;
	send_block(1, b, big_block(b, 5, 4000), 16000); /* 20 kB; 16 are allowed */
	assert_int_equal(give(), 0);
	assert_int_equal(x->requests, 1);
	assert_int_equal(x->str[0].headers_flags, H2_HEADERS_TOO_BIG);
	send_block(3, b, big_block(b, 63, 3), 16000); /* 65 fields; 64 are allowed */
	assert_int_equal(give(), 0);
	assert_int_equal(x->str[1].headers_flags, H2_HEADERS_TOO_BIG);
	send_block(5, b, big_block(b, 62, 3), 16000);
	assert_int_equal(give(), 0);
	assert_int_equal(x->str[2].headers_flags, 0);
	assert_int_equal(x->hostiles, 0);
	goes_on();
}

static void a_header_bomb_is_calmed(void **state)
{
	static uint8_t b[200000];

	(void)state;
	send_block(1, b, big_block(b, 12, 10000), 16000);
	assert_int_equal(give(), 0);
	assert_int_equal(x->requests, 0);
	calmed("header list");
}

static void a_bomb_of_indexes_is_calmed(void **state)
{
	uint8_t b[8000];
	size_t n = connect_block(b);
	char value[3000];

	(void)state;
	memset(value, 'v', sizeof(value));
	b[n++] = 0x40; /* literal, indexed: entry 62 of the table */
	n += hpack_string(b + n, "x-bomb", 6);
	n += hpack_string(b + n, value, sizeof(value));
	memset(b + n, 0x80 | 62, 4000); /* 12 MB for 4000 bytes */
	n += 4000;
	frame(T_HEADERS, END_HEADERS, 1, b, n);
	assert_int_equal(give(), 0);
	calmed("header list");
}

static void a_flood_of_continuations_is_calmed(void **state)
{
	uint8_t b[64];
	size_t n = connect_block(b);

	(void)state;
	frame(T_HEADERS, 0, 1, b, n);
	for (int i = 0; i < 10000; i++)
		frame(T_CONTINUATION, 0, 1, NULL, 0);
	assert_int_equal(give(), 0);
	assert_int_equal(x->requests, 0);
	calmed("CONTINUATION");
}

static void some_continuations_are_fine(void **state)
{
	uint8_t b[64];
	size_t n = connect_block(b);

	(void)state;
	send_block(1, b, n, n / 9);
	assert_int_equal(give(), 0);
	assert_int_equal(x->requests, 1);
	assert_string_equal(x->str[0].authority, "10.0.0.7:80");
	goes_on();
}

static void nothing_may_come_between_continuations(void **state)
{
	uint8_t b[64];

	(void)state;
	frame(T_HEADERS, 0, 1, b, connect_block(b));
	ping(0);
	(void)give();
	is_over(NGHTTP2_PROTOCOL_ERROR);
}

static void headers_are_not_kept_when_a_block_is_left_unfinished(void **state)
{
	uint8_t b[64];

	(void)state;
	frame(T_HEADERS, 0, 1, b, connect_block(b));
	assert_int_equal(give(), 0);
	assert_non_null(x->h2.hdr); /* h2_abort() lets go of it: the leak checker would tell */
}

/* ---- too many streams ---- */

static void far_too_many_streams_end_the_session(void **state)
{
	unsigned int i;

	(void)state;
	stop();
	start(true, 10);
	x->no_answer = true;
	x->room = 0; /* refusals cannot leave */
	for (i = 0; i < 5000; i++) {
		connect_request(2 * i + 1, 0);
		assert_in_range(-give(), 0, EPROTO);
	}
	assert_int_equal(x->requests, 10);
	assert_in_range(nghttp2_session_get_outbound_queue_size(x->h2.ng), 500, 520); /* so memory is bounded */
	x->room = SIZE_MAX;
	is_over(NGHTTP2_ENHANCE_YOUR_CALM);
}

static void refusals_are_no_reason_to_end(void **state)
{
	(void)state;
	stop();
	start(true, 10);
	x->no_answer = true;
	for (uint32_t i = 0; i < 5000; i++) {
		connect_request(2 * i + 1, 0);
		assert_int_equal(give(), 0);
		flush();
		if (i >= 10)
			assert_int_equal(reset_of(2 * i + 1), NGHTTP2_REFUSED_STREAM);
		x->n = 0;
		if (i % 50 == 0)
			side_pass_ms(x, 1000);
	}
	assert_int_equal(x->requests, 10);
	assert_int_equal(goaway(), -1);
}

/* ---- memory ---- */

static void who_does_not_acknowledge_smaller_windows_is_ended(void **state)
{
	(void)state;
	for (int acknowledges = 0; acknowledges < 2; acknowledges++) {
		stop();
		start(true, 1024);
		opened();
		assert_int_equal(give(), 0);
		atomic_store(&x->l.stats.g[SG_BUFFERED], (int64_t)x->cfg.limits.memory + 1);
		h2_window_check(&x->h2);
		flush();
		assert_int_equal(wire_count(x, 0, T_SETTINGS, 0, NULL), 1);
		if (acknowledges) {
			frame(T_SETTINGS, ACK, 0, NULL, 0);
			assert_int_equal(give(), 0);
		}
		side_pass_ms(x, 5000);
		h2_window_check(&x->h2);
		assert_int_equal(goaway(), -1); /* it may be slow */
		side_pass_ms(x, 60000);
		h2_window_check(&x->h2);
		if (acknowledges)
			goes_on();
		else
			is_over(NGHTTP2_SETTINGS_TIMEOUT);
		assert_int_equal(x->hostiles, !acknowledges);
	}
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_comes_too_often_is_calmed),
		cmocka_unit_test(all_in_one_read_is_no_way_round),
		cmocka_unit_test(a_steady_peer_is_left_alone),
		cmocka_unit_test(a_limit_of_0_is_none),
		T(resets_after_an_answer_are_an_applications_right),
		cmocka_unit_test(made_to_reset),
		T(a_header_list_too_large_is_the_requests_fault),
		T(a_header_bomb_is_calmed),
		T(a_bomb_of_indexes_is_calmed),
		T(a_flood_of_continuations_is_calmed),
		T(some_continuations_are_fine),
		T(nothing_may_come_between_continuations),
		T(headers_are_not_kept_when_a_block_is_left_unfinished),
		T(who_does_not_acknowledge_smaller_windows_is_ended),
		T(far_too_many_streams_end_the_session),
		T(refusals_are_no_reason_to_end),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
