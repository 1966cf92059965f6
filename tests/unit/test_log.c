/* Log lines: exact forms, one write per line, nothing that forges a second line; rate, quoting, levels. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <ctype.h>
#include <fcntl.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include "daemon/base/log.c"
#include "unit/rand.h"

static int out[2] = {-1, -1};
static char got[2 * LOG_LINE_MAX];

/* A datagram socket keeps what each write(2) wrote apart. */
static int setup(void **state)
{
	(void)state;
	return socketpair(AF_UNIX, SOCK_DGRAM, 0, out);
}

static int teardown(void **state)
{
	(void)state;
	close(out[0]);
	close(out[1]);
	log_init(STDERR_FILENO, LOG_TEXT, LOG_INFO);
	return 0;
}

/* Return: what the next write(2) wrote, NULL: there was none. */
static const char *next(void)
{
	ssize_t n = recv(out[0], got, sizeof(got) - 1, MSG_DONTWAIT);

	if (n < 0)
		return NULL;
	got[n] = '\0';
	assert_int_equal(strlen(got), n);
	assert_true(n <= LOG_LINE_MAX);
	assert_int_equal(got[n - 1], '\n');
	assert_ptr_equal(strchr(got, '\n'), got + n - 1); /* one line */
	return got;
}

/* Does s look like the form, in which 0 stands for any digit? */
static bool looks_like(const char *s, const char *form)
{
	for (; *form; s++, form++)
		if (*form == '0' ? !isdigit((unsigned char)*s) : *s != *form)
			return false;
	return true;
}

static void text_lines_have_time_level_area(void **state)
{
	(void)state;
	log_init(out[1], LOG_TEXT, LOG_DBG);
	log_info(LA_CHAIN, "message %d", 7);
	assert_true(looks_like(next(), "0000-00-00T00:00:00.000Z info  chain  message "));
	assert_string_equal(got + 24, " info  chain  message 7\n");
	log_err(LA_TUNNEL, "x");
	assert_string_equal(next() + 24, " error tunnel x\n");
	log_warn(LA_NET, "x");
	assert_string_equal(next() + 24, " warn  net    x\n");
	log_dbg(LA_CONFIG, "%s", "");
	assert_string_equal(next() + 24, " debug config \n");
	assert_null(next());
}

static void the_time_is_now_in_utc(void **state)
{
	struct tm tm = {0};
	time_t t;

	(void)state;
	setenv("TZ", "Asia/Tokyo", 1);
	tzset();
	log_init(out[1], LOG_TEXT, LOG_INFO);
	log_info(LA_MAIN, "x");
	assert_non_null(strptime(next(), "%Y-%m-%dT%H:%M:%S", &tm));
	t = timegm(&tm);
	assert_true(labs((long)(time(NULL) - t)) <= 2);
	unsetenv("TZ");
	tzset();
}

static void journal_lines_have_priority_and_no_time(void **state)
{
	(void)state;
	log_init(out[1], LOG_JOURNAL, LOG_DBG);
	log_err(LA_CHAIN, "message");
	assert_string_equal(next(), "<3>chain: message\n");
	log_warn(LA_CHAIN, "message");
	assert_string_equal(next(), "<4>chain: message\n");
	log_info(LA_CHAIN, "message");
	assert_string_equal(next(), "<6>chain: message\n");
	log_dbg(LA_CHAIN, "message");
	assert_string_equal(next(), "<7>chain: message\n");
}

static void json_lines_are_one_object_each(void **state)
{
	json_t *root;
	json_error_t e;
	const char *time, *level, *area, *message;

	(void)state;
	log_init(out[1], LOG_JSON, LOG_INFO);
	log_warn(LA_ADMIN, "say \"hi\\\"\n\t\x01\x7f\xc3\xa9");
	root = json_loads(next(), 0, &e);
	assert_non_null(root);
	assert_int_equal(json_unpack(root, "{s:s, s:s, s:s, s:s !}", "time", &time, "level", &level, "area", &area,
				     "message", &message),
			 0);
	assert_true(looks_like(time, "0000-00-00T00:00:00.000Z"));
	assert_string_equal(level, "warn");
	assert_string_equal(area, "admin");
	assert_string_equal(message, "say \"hi\\\"\n\t\x01\x7f\xc3\xa9");
	json_decref(root);
}

static void control_bytes_cannot_forge_a_line(void **state)
{
	(void)state;
	log_init(out[1], LOG_JOURNAL, LOG_INFO);
	log_info(LA_MAIN, "a\nb\r\x1b[2J\x7f\xc2\x9b\xff \"\\ \xc3\xa9");
	assert_string_equal(next(), "<6>main: a\\x0ab\\x0d\\x1b[2J\\x7f\\xc2\\x9b\\xff \"\\ \xc3\xa9\n");
	assert_null(next());
}

static void long_messages_are_cut_and_say_so(void **state)
{
	static const char fill[] = {'x', '\n', '\x01', '\xff', '"'};
	static char big[10000];
	json_error_t e;

	(void)state;
	for (int form = LOG_TEXT; form <= LOG_JOURNAL; form++)
		for (unsigned int i = 0; i < sizeof(fill); i++)
			for (size_t n = 500; n < sizeof(big); n += 2040 <= n && n < 2056 ? 1 : n < 2100 ? 7 : 1000) {
				const char *line;

				memset(big, fill[i], n);
				big[n] = '\0';
				log_init(out[1], (enum log_format)form, LOG_INFO);
				log_info(LA_MAIN, "%s", big);
				line = next();
				assert_non_null(line);
				if (n >= LOG_MESSAGE_MAX)
					assert_non_null(strstr(line, form == LOG_JSON ? "...\"}\n" : "...\n"));
				if (n < 600)
					assert_null(strstr(line, "..."));
				if (form == LOG_JSON) {
					json_t *root = json_loads(line, 0, &e);

					if (!root)
						fail_msg("%s: %s", e.text, line);
					json_decref(root);
				}
			}
}

static void any_bytes_make_one_valid_line(void **state)
{
	struct rnd r = rnd_start("log lines");
	json_error_t e;

	(void)state;
	log_init(out[1], LOG_JSON, LOG_INFO);
	for (int i = 0; i < 1000; i++) {
		size_t n = rnd_below(&r, 3000);
		char s[3001];
		json_t *root;

		for (size_t k = 0; k < n; k++)
			s[k] = (char)(rnd_below(&r, 255) + 1);
		s[n] = '\0';
		log_info(LA_MAIN, "%s", s);
		root = json_loads(next(), 0, &e);
		if (!root)
			fail_msg("%s", e.text);
		json_decref(root);
	}
}

static void levels_hold_per_area(void **state)
{
	(void)state;
	log_init(out[1], LOG_JOURNAL, LOG_WARN);
	log_info(LA_CHAIN, "no");
	assert_null(next());
	assert_int_equal(log_level_set("chain", "debug"), 0);
	log_dbg(LA_CHAIN, "yes");
	assert_string_equal(next(), "<7>chain: yes\n");
	log_info(LA_MAIN, "no");
	assert_null(next());
	assert_int_equal(log_level_set("all", "error"), 0);
	log_warn(LA_CHAIN, "no");
	log_warn(LA_MAIN, "no");
	assert_null(next());
	log_err(LA_MAIN, "yes");
	assert_non_null(next());
	for (int a = 0; a < LA_AREAS; a++)
		assert_int_equal(log_level_set(log_area_str((enum log_area)a), "info"), 0);
	for (int l = 0; l < LOG_LEVELS; l++)
		assert_int_equal(log_level_set("all", log_level_str((enum log_level)l)), 0);
	assert_true(log_on(LOG_DBG, LA_NET));
}

static void unknown_names_change_nothing(void **state)
{
	(void)state;
	log_init(out[1], LOG_TEXT, LOG_WARN);
	assert_int_equal(log_level_set("nowhere", "debug"), -EINVAL);
	assert_int_equal(log_level_set("all", "loud"), -EINVAL);
	assert_int_equal(log_level_set("", ""), -EINVAL);
	for (int a = 0; a < LA_AREAS; a++)
		assert_int_equal(log_levels[a], LOG_WARN);
	assert_string_equal(log_level_str((enum log_level)99), "?");
	assert_string_equal(log_area_str((enum log_area)99), "?");
}

static int evaluated;

static int evaluate(void)
{
	return ++evaluated;
}

static void what_is_off_is_not_evaluated(void **state)
{
	(void)state;
	log_init(out[1], LOG_TEXT, LOG_INFO);
	log_dbg(LA_MAIN, "%d", evaluate());
	assert_int_equal(evaluated, 0);
	log_info(LA_MAIN, "%d", evaluate());
	assert_int_equal(evaluated, 1);
	assert_non_null(next());
}

static void a_full_or_dead_descriptor_does_not_stop_the_daemon(void **state)
{
	int p[2];

	(void)state;
	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	log_init(p[1], LOG_TEXT, LOG_INFO);
	errno = ENOENT;
	for (int i = 0; i < 5000; i++)
		log_info(LA_MAIN, "a line that will not be read");
	assert_int_equal(errno, ENOENT);
	log_init(-1, LOG_TEXT, LOG_INFO);
	log_info(LA_MAIN, "nowhere to go");
	assert_int_equal(errno, ENOENT);
	close(p[0]);
	close(p[1]);
}

static void *writer(void *arg)
{
	for (int i = 0; i < 2000; i++)
		log_info(LA_MAIN, "%s", (const char *)arg);
	return NULL;
}

static void lines_of_threads_do_not_mix_in_a_pipe(void **state)
{
	static char a[1500], b[1500], line[LOG_LINE_MAX];
	pthread_t t[2];
	int p[2], n = 0;
	FILE *f;

	(void)state;
	memset(a, 'a', sizeof(a) - 1);
	memset(b, 'b', sizeof(b) - 1);
	assert_int_equal(pipe(p), 0);
	f = fdopen(p[0], "r");
	log_init(p[1], LOG_JOURNAL, LOG_INFO);
	assert_int_equal(pthread_create(&t[0], NULL, writer, a), 0);
	assert_int_equal(pthread_create(&t[1], NULL, writer, b), 0);
	for (; n < 4000; n++) {
		assert_non_null(fgets(line, sizeof(line), f));
		assert_int_equal(strlen(line), 9 + sizeof(a) - 1 + 1);
		assert_memory_equal(line + 9, line[9] == 'a' ? a : b, sizeof(a) - 1);
	}
	pthread_join(t[0], NULL);
	pthread_join(t[1], NULL);
	fclose(f);
	close(p[1]);
}

static void one_line_per_interval_and_the_rest_counted(void **state)
{
	struct log_rate r = {0};
	uint32_t held = 99;

	(void)state;
	assert_true(log_rate_ok(&r, 5000, 1000, &held));
	assert_int_equal(held, 0);
	held = 99;
	for (uint64_t t = 5000; t < 6000; t += 100)
		assert_false(log_rate_ok(&r, t, 1000, &held));
	assert_int_equal(held, 99); /* written only on success */
	assert_true(log_rate_ok(&r, 6000, 1000, &held));
	assert_int_equal(held, 10);
	assert_true(log_rate_ok(&r, 9000, 1000, &held));
	assert_int_equal(held, 0);
}

static void quoted_text_is_escaped(void **state)
{
	char s[64];

	(void)state;
	assert_string_equal(log_quote(s, sizeof(s), "abc", 3), "\"abc\"");
	assert_string_equal(log_quote(s, sizeof(s), NULL, 0), "\"\"");
	assert_string_equal(log_quote(s, sizeof(s), "a\"b\\c", 5), "\"a\\\"b\\\\c\"");
	assert_string_equal(log_quote(s, sizeof(s), "\0\n\xff\xc3\xa9", 5), "\"\\x00\\x0a\\xff\xc3\xa9\"");
	assert_string_equal(log_quote(s, sizeof(s), "\xc2\x9b", 2), "\"\\xc2\\x9b\""); /* CSI of 8-bit terminals */
}

static void quoted_text_is_cut_with_dots_outside(void **state)
{
	char s[16];

	(void)state;
	assert_string_equal(log_quote(s, 12, "abcdefghi", 9), "\"abcdefghi\""); /* just fits */
	assert_string_equal(log_quote(s, 12, "abcdefghij", 10), "\"abcdef\"...");
	assert_string_equal(log_quote(s, 12, "abcde\n\n", 7), "\"abcde\"..."); /* not within an escape */
	assert_string_equal(log_quote(s, 6, "abcdef", 6), "\"\"...");
	assert_string_equal(log_quote(s, 5, "a", 1), "");
	assert_string_equal(log_quote(s, 1, "a", 1), "");
	s[0] = 'k';
	assert_ptr_equal(log_quote(s, 0, "a", 1), s);
	assert_int_equal(s[0], 'k');
}

static void quoting_never_leaves_its_buffer(void **state)
{
	struct rnd r = rnd_start("quoting");

	(void)state;
	for (int i = 0; i < 50000; i++) {
		size_t n = rnd_below(&r, 40), len = rnd_below(&r, 40);
		char *s = malloc(n ? n : 1),
		     *text = malloc(len ? len : 1); /* exact: the sanitizer sees one byte more */

		for (size_t k = 0; k < len; k++)
			text[k] = (char)(rnd_below(&r, 3) ? 'a' : rnd_u64(&r));
		log_quote(s, n, text, len);
		if (n)
			assert_true(strlen(s) < n);
		if (n > 6)
			assert_int_equal(s[0], '"');
		free(s);
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(text_lines_have_time_level_area, setup, teardown),
		cmocka_unit_test_setup_teardown(the_time_is_now_in_utc, setup, teardown),
		cmocka_unit_test_setup_teardown(journal_lines_have_priority_and_no_time, setup, teardown),
		cmocka_unit_test_setup_teardown(json_lines_are_one_object_each, setup, teardown),
		cmocka_unit_test_setup_teardown(control_bytes_cannot_forge_a_line, setup, teardown),
		cmocka_unit_test_setup_teardown(long_messages_are_cut_and_say_so, setup, teardown),
		cmocka_unit_test_setup_teardown(any_bytes_make_one_valid_line, setup, teardown),
		cmocka_unit_test_setup_teardown(levels_hold_per_area, setup, teardown),
		cmocka_unit_test_setup_teardown(unknown_names_change_nothing, setup, teardown),
		cmocka_unit_test_setup_teardown(what_is_off_is_not_evaluated, setup, teardown),
		cmocka_unit_test_setup_teardown(a_full_or_dead_descriptor_does_not_stop_the_daemon, setup, teardown),
		cmocka_unit_test_setup_teardown(lines_of_threads_do_not_mix_in_a_pipe, setup, teardown),
		cmocka_unit_test(one_line_per_interval_and_the_rest_counted),
		cmocka_unit_test(quoted_text_is_escaped),
		cmocka_unit_test(quoted_text_is_cut_with_dots_outside),
		cmocka_unit_test(quoting_never_leaves_its_buffer),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
