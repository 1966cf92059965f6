/* aditctl's pure parts: numbers for people, tables that fit, HTTP answers judged. */
#include "../../ctl/http.c"
#include "../../ctl/human.c"
#include "../../ctl/table.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>

static void bytes_are_short(void **state)
{
	static const struct {
		uint64_t v;
		const char *s;
	} want[] = {
		{0, "0"},
		{1023, "1023"},
		{1024, "1.0K"},
		{1536, "1.5K"},
		{10239, "9.9K"},
		{10240, "10K"},
		{1048575, "1023K"},
		{24ull << 20, "24M"},
		{5ull << 40, "5.0T"},
		{UINT64_MAX, "15E"},
		{(1ull << 30) + (1ull << 29), "1.5G"},
	};
	char out[HUMAN];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_string_equal(human_bytes(want[i].v, out), want[i].s);
}

static void times_are_short(void **state)
{
	static const struct {
		uint64_t us;
		const char *s;
	} want[] = {
		{0, "0us"},
		{999, "999us"},
		{1200, "1.2ms"},
		{340999, "340ms"},
		{9500000, "9.5s"},
		{59999999, "59s"},
		{245000000, "4m05s"},
		{11520000000, "3h12m"},
		{273847000000, "3d04h"},
		{UINT64_MAX, "213503982d08h"},
	};
	char out[HUMAN];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(want); i++)
		assert_string_equal(human_time(want[i].us, out), want[i].s);
}

static void times_are_read_with_their_unit(void **state)
{
	static const char *const bad[] = {
		"", "5", "s", "1.5s", "-1s", "5 s", "5sec", "99999999999999999999s", "18446744073709551615h"};
	uint64_t ms = 77;

	(void)state;
	assert_true(human_ms("500ms", &ms) && ms == 500);
	assert_true(human_ms("30s", &ms) && ms == 30000);
	assert_true(human_ms("5m", &ms) && ms == 300000);
	assert_true(human_ms("0s", &ms) && ms == 0);
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(human_ms(bad[i], &ms));
}

/* ---- tables ---- */

static const struct table_col cols[] = {
	{.head = "ID", .right = true},
	{.head = "NAME", .shrink = true},
	{.head = "WORKER", .right = true, .wide = true},
	{.head = "CHAIN", .shrink = true},
};

static struct text drawn;

static const char *draw(uint32_t width, bool wide, const char *const (*rows)[4], size_t n)
{
	struct table t;

	table_init(&t, cols, ARRAY_LEN(cols));
	for (size_t i = 0; i < n; i++)
		for (size_t k = 0; k < 4; k++)
			table_add(&t, rows[i][k]);
	text_finish(&drawn);
	table_print(&t, &drawn, width, wide);
	table_finish(&t);
	assert_true(text_ok(&drawn));
	return drawn.s;
}

static const char *const two[][4] = {
	{"7", "outbound", "0", "outbound > audit > cluster:to-b"},
	{"1234", "", "1", "tunnel-in > cluster:local-redis"},
};

static void columns_align(void **state)
{
	(void)state;
	assert_string_equal(draw(0, false, two, 2), "  ID  NAME      CHAIN\n"
						    "   7  outbound  outbound > audit > cluster:to-b\n"
						    "1234  -         tunnel-in > cluster:local-redis\n");
	assert_string_equal(draw(20, true, two, 2), "  ID  NAME      WORKER  CHAIN\n"
						    "   7  outbound       0  outbound > audit > cluster:to-b\n"
						    "1234  -              1  tunnel-in > cluster:local-redis\n");
	text_finish(&drawn);
}

static void the_longest_gives_first(void **state)
{
	(void)state;
	assert_string_equal(draw(30, false, two, 2), "  ID  NAME      CHAIN\n"
						     "   7  outbound  outbound > ...\n"
						     "1234  -         tunnel-in >...\n");
	/* narrower than can be: no endless loop, nothing below 8 */
	assert_string_equal(draw(3, false, two, 1), "ID  NAME      CHAIN\n"
						    " 7  outbound  outbo...\n");
	text_finish(&drawn);
}

static void ids_keep_their_end(void **state)
{
	static const struct table_col ids[] = {{.head = "ID", .shrink = true, .tail = true}, {.head = "N"}};
	struct table t;

	(void)state;
	table_init(&t, ids, 2);
	table_add(&t, "cluster.local/ns/shop/sa/w\xc3\xa9"
		      "b");
	table_add(&t, "1");
	table_print(&t, &drawn, 15, false);
	assert_string_equal(drawn.s, "ID            N\n...op/sa/w\xc3\xa9"
				     "b  1\n");
	table_finish(&t);
	text_finish(&drawn);
}

static void peers_text_is_shown_safely(void **state)
{
	static const char *const evil[][4] = {{"1", "a\x1b[2Jb\n", "0", "\xc3\xa9\xff\xc2\x9b!"}};

	(void)state;
	assert_string_equal(draw(0, false, evil, 1), "ID  NAME     CHAIN\n"
						     " 1  a?[2Jb?  \xc3\xa9??"
						     "!\n");
	text_finish(&drawn);
}

static void widths_are_characters(void **state)
{
	static const char *const rows[][4] = {{"1", "\xc3\xa4\xc3\xb6\xc3\xbc", "0", "x"}, {"2", "abcd", "0", "y"}};
	static const char *const cut[][4] = {
		{"1", "\xc3\xa4\xc3\xb6\xc3\xbc\xc3\xa4\xc3\xb6\xc3\xbc\xc3\xa4\xc3\xb6\xc3\xbc", "0", "x"}};

	(void)state;
	assert_string_equal(draw(0, false, rows, 2),
			    "ID  NAME  CHAIN\n 1  \xc3\xa4\xc3\xb6\xc3\xbc   x\n 2  abcd  y\n");
	assert_string_equal(draw(10, false, cut, 1),
			    "ID  NAME      CHAIN\n 1  \xc3\xa4\xc3\xb6\xc3\xbc\xc3\xa4\xc3\xb6...  x\n");
	text_finish(&drawn);
}

/* ---- HTTP ---- */

static int parse(const char *s, unsigned int *ret_status, char *body, size_t n, struct err *e)
{
	struct http_answer a = {0};
	int r = http_parse(s, strlen(s), &a, e);

	if (r == 0) {
		*ret_status = a.status;
		snprintf(body, n, "%s", a.body.s ? a.body.s : "");
	}
	text_finish(&a.body);
	return r;
}

static void answers_are_read(void **state)
{
	struct err e = {""};
	unsigned int status = 0;
	char body[64];

	(void)state;
	assert_int_equal(parse("HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}extra", &status, body, sizeof(body), &e),
			 0);
	assert_int_equal(status, 200);
	assert_string_equal(body, "{}");
	assert_int_equal(parse("HTTP/1.0 503 No\nX: y\n\nabc", &status, body, sizeof(body), &e), 0);
	assert_int_equal(status, 503);
	assert_string_equal(body, "abc");
	assert_int_equal(parse("HTTP/1.1 204\r\n\r\n", &status, body, sizeof(body), &e), 0);
	assert_string_equal(body, "");
}

static void half_answers_are_refused(void **state)
{
	static const char *const bad[][2] = {
		{"", "no answer: aditd closed the connection"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n{}", "the answer is cut: 2 of 3 bytes"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n", "the answer ends in its header"},
		{"HTTP/1.1 200 OK\r\nContent-Length: x\r\n\r\n", "the answer's header is malformed"},
		{"HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\n", "the answer's header is malformed"},
		{"HTTP/1.1 200 OK\r\nnonsense\r\n\r\n", "the answer's header is malformed"},
		{"220 smtp ready, hello\r\n", "this is not HTTP: is the socket aditd's?"},
		{"HTTP/1.1 999 OK\r\n\r\n", "this is not HTTP: is the socket aditd's?"},
	};
	unsigned int status;
	char body[64];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct err e = {""};

		assert_int_equal(parse(bad[i][0], &status, body, sizeof(body), &e), -EPROTO);
		assert_string_equal(e.msg, bad[i][1]);
	}
}

static void queries_are_encoded(void **state)
{
	struct text t = {0};

	(void)state;
	text_add(&t, "/v1/conns");
	http_query(&t, "limit", NULL);
	http_query(&t, "peer", "spiffe://a/b c&d=e%");
	http_query(&t, "listener", "\xc3\xa9");
	assert_string_equal(t.s, "/v1/conns?peer=spiffe://a/b%20c%26d%3De%25&listener=%C3%A9");
	text_finish(&t);
}

static void no_daemon_says_what_to_do(void **state)
{
	char name[] = "/tmp/adit-test-ctl-XXXXXX", longname[200];
	struct http_answer a;
	struct err e = {""};
	int fd;

	(void)state;
	assert_int_equal(http_call("/nonexistent/admin.sock", "GET", "/", NULL, 0, &a, &e), -ENOTCONN);
	assert_non_null(strstr(e.msg, "is aditd running"));
	fd = mkstemp(name);
	assert_int_equal(http_call(name, "GET", "/", NULL, 0, &a, &e), -ENOTCONN);
	assert_non_null(strstr(e.msg, "aditd has ended"));
	close(fd);
	unlink(name);
	memset(longname, 'x', sizeof(longname) - 1);
	longname[sizeof(longname) - 1] = '\0';
	assert_int_equal(http_call(longname, "GET", "/", NULL, 0, &a, &e), -ENOTCONN);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_are_short),
		cmocka_unit_test(times_are_short),
		cmocka_unit_test(times_are_read_with_their_unit),
		cmocka_unit_test(columns_align),
		cmocka_unit_test(the_longest_gives_first),
		cmocka_unit_test(ids_keep_their_end),
		cmocka_unit_test(peers_text_is_shown_safely),
		cmocka_unit_test(widths_are_characters),
		cmocka_unit_test(answers_are_read),
		cmocka_unit_test(half_answers_are_refused),
		cmocka_unit_test(queries_are_encoded),
		cmocka_unit_test(no_daemon_says_what_to_do),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
