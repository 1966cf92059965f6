/*
 * HTTP/2 sessions and frames that are wrong: what breaks a stream costs the stream, what breaks the connection gets the GOAWAY that says
 * why, what is unknown or late is passed over.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/h2/session.c"
#include "daemon/h2/input.c"
#include "unit/h2_raw.h"

/* ---- requests that are malformed ---- */

static void malformed_requests_cost_their_stream_only(void **state)
{
	unsigned int refused = 0;
	uint32_t id = 1;

	(void)state;
	x->cfg.limits.glitch_rate = 1000;
	/* either the session refuses it, or the layer above is asked */
	headers(id, 0, ":method", "CONNECT", NULL), id += 2;
	headers(id, 0, ":authority", "a:1", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", ":path", "/", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", ":scheme", "https", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":method", "CONNECT", ":authority", "a:1", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", ":authority", "b:1", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", ":nonsense", "x", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", "connection", "close", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", "te", "gzip", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", "x", "y", ":authority", "a:1", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", "x", "line\nbreak", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", "bad name", "x", NULL), id += 2;
	headers(id, 0, ":method", "CONNECT", ":authority", "a:1", ":protocol", "websocket", NULL), id += 2;
	headers(id, 0, ":status", "200", NULL), id += 2;
	headers(id, 0, "", "x", NULL), id += 2;
	headers(id, 0, NULL), id += 2;
	assert_int_equal(give(), 0);
	assert_int_equal(goaway(), -1);
	for (uint32_t i = 1; i < id; i += 2)
		refused += reset_of(i) == NGHTTP2_PROTOCOL_ERROR;
	assert_int_equal(refused + x->requests, id / 2);
	assert_true(refused >= 10);
	assert_int_equal(atomic_load(&x->l.stats.c[ST_BAD_REQUEST]), refused);
	goes_on();
}

static void a_header_block_that_cannot_be_decoded_ends_the_connection(void **state)
{
	(void)state;
	frame(T_HEADERS, END_HEADERS, 1, "\xff\xff\xff\xff\xff\xff\xff\xff", 8);
	(void)give();
	is_over(NGHTTP2_COMPRESSION_ERROR);
}

/* ---- frames that may not be ---- */

struct wrong {
	const char *what;
	void (*make)(void);
	uint32_t code;
};

static void data_idle(void)
{
	frame(T_DATA, 0, 1, "x", 1);
}

static void data_0(void)
{
	frame(T_DATA, 0, 0, "x", 1);
}

static void data_after_end(void)
{
	opened();
	frame(T_DATA, END_STREAM, 1, "x", 1);
	frame(T_DATA, 0, 1, "x", 1);
}

static void data_padding(void)
{
	opened();
	frame(T_DATA, PADDED, 1, "\x40y", 2);
}

static void headers_0(void)
{
	connect_request(0, 0);
}

static void headers_even(void)
{
	connect_request(2, 0);
}

static void rst_idle(void)
{
	word(T_RST, 9, 0);
}

static void rst_0(void)
{
	word(T_RST, 0, 0);
}

static void rst_size(void)
{
	opened();
	frame(T_RST, 0, 1, "123", 3);
}

static void window_idle(void)
{
	word(T_WINDOW, 9, 1);
}

static void window_0(void)
{
	word(T_WINDOW, 0, 0);
}

static void window_over(void)
{
	word(T_WINDOW, 0, 0x7fffffff);
}

static void window_size(void)
{
	frame(T_WINDOW, 0, 0, "12345", 5);
}

static void settings_stream(void)
{
	frame(T_SETTINGS, 0, 1, NULL, 0);
}

static void settings_size(void)
{
	frame(T_SETTINGS, 0, 0, "12345", 5);
}

static void settings_ack_size(void)
{
	frame(T_SETTINGS, ACK, 0, "123456", 6);
}

static void settings_ack_unasked(void)
{
	frame(T_SETTINGS, ACK, 0, NULL, 0);
}

static void settings_window(void)
{
	setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0x80000000u);
}

static void settings_frame(void)
{
	setting(NGHTTP2_SETTINGS_MAX_FRAME_SIZE, 16383);
}

static void settings_push(void)
{
	setting(NGHTTP2_SETTINGS_ENABLE_PUSH, 2);
}

static void ping_size(void)
{
	frame(T_PING, 0, 0, "1234567", 7);
}

static void ping_stream(void)
{
	frame(T_PING, 0, 1, "12345678", 8);
}

static void goaway_size(void)
{
	frame(T_GOAWAY, 0, 0, "1234567", 7);
}

static void goaway_stream(void)
{
	frame(T_GOAWAY, 0, 1, "12345678", 8);
}

static void push(void)
{
	uint8_t b[64] = {0, 0, 0, 2};

	opened();
	frame(T_PUSH, END_HEADERS, 1, b, 4 + connect_block(b + 4));
}

static void continuation(void)
{
	uint8_t b[64];

	frame(T_CONTINUATION, END_HEADERS, 1, b, connect_block(b));
}

static void priority_size(void)
{
	opened();
	frame(T_PRIORITY, 0, 1, "1234", 4);
}

static void too_long(void)
{
	opened();
	frame(T_DATA, 0, 1, NULL, 0);
	u32_put(msg + len - 9, (1u << 20 | 1) << 8); /* a byte more than allowed */
}

static void what_breaks_the_connection_is_told(void **state)
{
	static const struct wrong w[] = {
		{"DATA on an idle stream", data_idle, NGHTTP2_PROTOCOL_ERROR},
		{"DATA on stream 0", data_0, NGHTTP2_PROTOCOL_ERROR},
		{"DATA after END_STREAM", data_after_end, NGHTTP2_STREAM_CLOSED},
		{"DATA with too much padding", data_padding, NGHTTP2_PROTOCOL_ERROR},
		{"HEADERS on stream 0", headers_0, NGHTTP2_PROTOCOL_ERROR},
		{"HEADERS with an even id", headers_even, NGHTTP2_PROTOCOL_ERROR},
		{"RST_STREAM on an idle stream", rst_idle, NGHTTP2_PROTOCOL_ERROR},
		{"RST_STREAM on stream 0", rst_0, NGHTTP2_PROTOCOL_ERROR},
		{"RST_STREAM of 3 bytes", rst_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"WINDOW_UPDATE on an idle stream", window_idle, NGHTTP2_PROTOCOL_ERROR},
		{"WINDOW_UPDATE of 0", window_0, NGHTTP2_PROTOCOL_ERROR},
		{"WINDOW_UPDATE overflow", window_over, NGHTTP2_FLOW_CONTROL_ERROR},
		{"WINDOW_UPDATE of 5 bytes", window_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"SETTINGS on a stream", settings_stream, NGHTTP2_PROTOCOL_ERROR},
		{"SETTINGS of 5 bytes", settings_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"SETTINGS ACK with a payload", settings_ack_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"SETTINGS ACK unasked", settings_ack_unasked, NGHTTP2_PROTOCOL_ERROR},
		{"INITIAL_WINDOW_SIZE of 2^31", settings_window, NGHTTP2_FLOW_CONTROL_ERROR},
		{"MAX_FRAME_SIZE of 16383", settings_frame, NGHTTP2_PROTOCOL_ERROR},
		{"ENABLE_PUSH of 2", settings_push, NGHTTP2_PROTOCOL_ERROR},
		{"PING of 7 bytes", ping_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"PING on a stream", ping_stream, NGHTTP2_PROTOCOL_ERROR},
		{"GOAWAY of 7 bytes", goaway_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"GOAWAY on a stream", goaway_stream, NGHTTP2_PROTOCOL_ERROR},
		{"PUSH_PROMISE to a server", push, NGHTTP2_PROTOCOL_ERROR},
		{"CONTINUATION alone", continuation, NGHTTP2_PROTOCOL_ERROR},
		{"PRIORITY of 4 bytes", priority_size, NGHTTP2_FRAME_SIZE_ERROR},
		{"a frame too long", too_long, NGHTTP2_FRAME_SIZE_ERROR},
	};
	unsigned int bad = 0;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(w); i++) {
		int r;

		start(true, 1024);
		w[i].make();
		r = give();
		if (goaway() != w[i].code || !h2_over(&x->h2) || (r && r != -EPROTO)) {
			print_message("%s: GOAWAY %lld, not %u; %s, %d\n", w[i].what, (long long)goaway(), w[i].code,
				      h2_over(&x->h2) ? "over" : "not over", r);
			bad++;
		}
		stop();
	}
	assert_int_equal(bad, 0);
}

static void no_preface_no_session(void **state)
{
	static const char *const bad[] = {"GET / HTTP/1.1\r\nHost: a\r\n\r\n", "PRI * HTTP/2.0\r\n\r\nXX\r\n\r\n", "\x16\x03\x01\x02\x00\x01"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		stop();
		x = side_new();
		assert_non_null(x);
		assert_int_equal(h2_init(&x->h2, &x->l, true, 10, &side_ops, x), 0);
		assert_int_equal(h2_input(&x->h2, (const uint8_t *)bad[i], strlen(bad[i])), -EPROTO);
	}
	stop();
	x = side_new(); /* the first frame has to be SETTINGS */
	assert_non_null(x);
	assert_int_equal(h2_init(&x->h2, &x->l, true, 10, &side_ops, x), 0);
	memcpy(msg, NGHTTP2_CLIENT_MAGIC, NGHTTP2_CLIENT_MAGIC_LEN);
	len = NGHTTP2_CLIENT_MAGIC_LEN;
	ping(0);
	(void)give();
	is_over(NGHTTP2_PROTOCOL_ERROR);
}

static void what_breaks_a_stream_costs_the_stream(void **state)
{
	(void)state;
	opened();
	word(T_WINDOW, 1, 0x7fffffff);
	assert_int_equal(give(), 0);
	assert_int_equal(reset_of(1), NGHTTP2_FLOW_CONTROL_ERROR);
	assert_int_equal(x->str[0].n_closed, 1);
	assert_int_equal(x->str[0].code, NGHTTP2_FLOW_CONTROL_ERROR);
	assert_false(x->str[0].by_peer); /* we did it */
	connect_request(3, 0);
	word(T_WINDOW, 3, 0x7fffffff - 65535);
	setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 65536); /* a byte too much for it */
	assert_int_equal(give(), 0);
	assert_int_equal(reset_of(3), NGHTTP2_FLOW_CONTROL_ERROR);
	goes_on();
	connect_request(99999, 0); /* a smaller id than the last: closed by that one */
	assert_int_equal(give(), 0);
	assert_null(str_by_id(x, 99999));
}

static void a_stream_that_ignores_its_window_is_ended(void **state)
{
	static char block[100000];

	(void)state;
	x->hold_all = true;
	connect_request(1, 0);
	for (int i = 0; i < 9; i++) /* 900 kB into 256 KiB */
		frame(T_DATA, 0, 1, block, sizeof(block));
	(void)give();
	if (goaway() == -1)
		assert_int_equal(reset_of(1), NGHTTP2_FLOW_CONTROL_ERROR);
	else
		is_over(NGHTTP2_FLOW_CONTROL_ERROR);
	assert_in_range(x->str[0].got, 0, 262144 + sizeof(block)); /* the frame that broke it may have come through */
}

static void what_is_unknown_is_passed_over(void **state)
{
	(void)state;
	opened();
	frame(0xb, 0, 0, "an extension", 12);
	frame(0xff, 0xff, 1, NULL, 0);
	frame(0xa, 0, 0, "\0\0x", 3); /* ALTSVC */
	setting(0xabcd, 1);
	frame(T_PRIORITY, 0, 1, "\0\0\0\0\20", 5);
	frame(T_PRIORITY, 0, 99, "\0\0\0\0\20", 5); /* of an idle stream */
	frame(T_DATA, PADDED, 1, "\3x\0\0\0", 5);
	assert_int_equal(give(), 0);
	assert_int_equal(x->str[0].got, 1);
	goes_on();
}

static void late_frames_for_a_closed_stream_are_passed_over(void **state)
{
	(void)state;
	opened();
	assert_int_equal(give(), 0);
	h2_reset(&x->str[0].s, NGHTTP2_CANCEL);
	flush();
	frame(T_DATA, 0, 1, "crossed it on the wire", 22);
	word(T_WINDOW, 1, 100);
	word(T_RST, 1, NGHTTP2_CANCEL);
	assert_int_equal(give(), 0);
	goes_on();
}

/* ---- clients ---- */

static void a_pushed_stream_is_refused(void **state)
{
	uint8_t b[64] = {0, 0, 0, 2};

	(void)state;
	frame(T_PUSH, END_HEADERS, 1, b, 4 + connect_block(b + 4));
	(void)give();
	is_over(NGHTTP2_PROTOCOL_ERROR);
	assert_int_equal(x->requests, 0);
}

static void a_server_may_not_open_streams(void **state)
{
	(void)state;
	headers(2, 0, ":status", "200", NULL);
	(void)give();
	is_over(NGHTTP2_PROTOCOL_ERROR);
}

static void answers_that_are_none_cost_their_stream(void **state)
{
	(void)state;
	headers(1, 0, "x", "y", NULL);		  /* no :status */
	headers(3, 0, ":status", "abc", NULL);
	headers(5, 0, ":status", "200", ":status", "200", NULL);
	assert_int_equal(give(), 0);
	for (uint32_t id = 1; id < 7; id += 2)
		assert_int_equal(reset_of(id), NGHTTP2_PROTOCOL_ERROR);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(x->str[i].n_closed, 1);
		assert_string_equal(x->str[i].status, "");
	}
	assert_int_equal(goaway(), -1);
}

static void data_before_the_answer_is_an_error(void **state)
{
	(void)state;
	frame(T_DATA, 0, 1, "x", 1);
	(void)give();
	assert_true(goaway() == NGHTTP2_PROTOCOL_ERROR || reset_of(1) == NGHTTP2_PROTOCOL_ERROR);
	assert_int_equal(x->str[0].got, 0);
}

static void an_answer_with_an_end_says_so(void **state)
{
	(void)state;
	headers(1, END_STREAM, ":status", "503", NULL);
	headers(3, 0, ":status", "200", NULL);
	assert_int_equal(give(), 0);
	assert_string_equal(x->str[0].status, "503");
	assert_int_equal(x->str[0].headers_flags, H2_HEADERS_END);
	assert_string_equal(x->str[1].status, "200");
	assert_int_equal(x->str[1].headers_flags, 0);
}

static void interim_answers_are_passed_over(void **state)
{
	(void)state;
	headers(1, 0, ":status", "103", "link", "</x>", NULL);
	headers(1, 0, ":status", "100", NULL);
	assert_int_equal(give(), 0);
	assert_false(x->str[0].answered);
	headers(1, 0, ":status", "200", "x-server-id", "b", NULL);
	frame(T_DATA, 0, 1, pattern(1, true, 0), 5);
	assert_int_equal(give(), 0);
	assert_string_equal(x->str[0].status, "200");
	assert_int_equal(x->str[0].got, 5);
	headers(1, END_STREAM, "x-trailer", "y", NULL);
	assert_int_equal(give(), 0);
	assert_true(x->str[0].ended);
	assert_int_equal(goaway(), -1);
}

static void a_zero_window_lets_nothing_out(void **state)
{
	(void)state;
	stop();
	start(false, 0);
	setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0);
	assert_int_equal(give(), 0);
	flush();
	x->n = 0;
	assert_non_null(str_open(x, "a:1"));
	x->str[0].to_send = 1000;
	flush();
	assert_int_equal(wire_count(x, 0, T_HEADERS, 0, NULL), 1);
	assert_int_equal(wire_count(x, 0, T_DATA, 0, NULL), 0);
	assert_int_equal(x->str[0].sent, 0); /* nothing is taken that cannot go */
	x->n = 0;
	word(T_WINDOW, 1, 7);
	assert_int_equal(give(), 0);
	flush();
	assert_int_equal(x->str[0].sent, 7);
	setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 100);
	assert_int_equal(give(), 0);
	flush();
	assert_int_equal(x->str[0].sent, 107);
	setting(NGHTTP2_SETTINGS_INITIAL_WINDOW_SIZE, 0); /* now it is 107 below */
	word(T_WINDOW, 1, 50);
	assert_int_equal(give(), 0);
	flush();
	assert_int_equal(x->str[0].sent, 107);
	word(T_WINDOW, 1, 60);
	assert_int_equal(give(), 0);
	flush();
	assert_int_equal(x->str[0].sent, 117);
}

static void many_goaways_are_as_good_as_one(void **state)
{
	uint8_t b[8] = {0};

	(void)state;
	for (uint32_t last = 9; last != (uint32_t)-1; last -= 2) {
		u32_put(b, last);
		frame(T_GOAWAY, 0, 0, b, 8);
		assert_int_equal(give(), 0);
		if (last == 1)
			break;
	}
	assert_int_equal(x->goaways, 5);
	assert_int_equal(x->str[0].n_closed, 0);
	assert_int_equal(x->str[1].n_closed, 1);
	assert_int_equal(x->str[2].n_closed, 1);
	assert_int_equal(x->str[2].code, NGHTTP2_REFUSED_STREAM);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
#define C(f) cmocka_unit_test_setup_teardown(f, setup_client, teardown)
	const struct CMUnitTest tests[] = {
		T(malformed_requests_cost_their_stream_only),
		T(a_header_block_that_cannot_be_decoded_ends_the_connection),
		cmocka_unit_test(what_breaks_the_connection_is_told),
		T(no_preface_no_session),
		T(what_breaks_a_stream_costs_the_stream),
		T(a_stream_that_ignores_its_window_is_ended),
		T(what_is_unknown_is_passed_over),
		T(late_frames_for_a_closed_stream_are_passed_over),
		C(a_pushed_stream_is_refused),
		C(a_server_may_not_open_streams),
		C(answers_that_are_none_cost_their_stream),
		C(data_before_the_answer_is_an_error),
		C(an_answer_with_an_end_says_so),
		C(interim_answers_are_passed_over),
		C(a_zero_window_lets_nothing_out),
		C(many_goaways_are_as_good_as_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
