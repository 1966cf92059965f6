/* Where lines go: never waiting, in order, losses counted and said; the journal's fields; levels that fall back; rates by kind. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <signal.h>
#include <stdbool.h>
#include <time.h>

static char want_more[64];
#define JOURNAL_SOCKET "/tmp/adit-test-journal"
#include "daemon/base/log_out.c"

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int teardown(void **state)
{
	(void)state;
	log_init(STDERR_FILENO, LOG_TEXT, LOG_INFO);
	return 0;
}

/* everything that waits in a pipe, and what comes when it has room again */
static size_t drain(int fd, char *out, size_t max)
{
	size_t at = 0;
	ssize_t n;

	for (int quiet = 0; quiet < 2;) {
		n = read(fd, out + at, max - at);
		if (n > 0) {
			at += (size_t)n;
			quiet = 0;
			continue;
		}
		log_tick(0);
		quiet++;
	}
	out[at] = '\0';
	return at;
}

static void a_pipe_that_nobody_reads_stops_nobody(void **state)
{
	static char all[2u << 20];
	uint64_t begin = now_ms();
	unsigned want = 0, told = 0, n;
	char *line, *next;
	int p[2];

	(void)state;
	assert_int_equal(pipe(p), 0); /* blocking: we must not make it otherwise for whoever shares it */
	log_init(p[1], LOG_JOURNAL, LOG_INFO);
	log_never_wait();
	assert_int_equal(fcntl(p[1], F_GETFL) & O_NONBLOCK, 0);
	for (unsigned i = 0; i < 20000; i++)
		log_info(LA_MAIN, "line %u ....................................................................", i);
	assert_true(now_ms() - begin < 5000);
	assert_true(log_dropped() > 1000);
	assert_int_equal(fcntl(p[0], F_SETFL, O_NONBLOCK), 0);
	drain(p[0], all, sizeof(all) - 1);
	/* what came is whole and in order, from the first on; then the loss is told, with the right number */
	for (line = all; (next = strchr(line, '\n')); line = next + 1) {
		*next = '\0';
		if (sscanf(line, "<6>main: line %u ....", &n) == 1)
			assert_int_equal(n, want++);
		else if (sscanf(line, "<4>main: %u log lines were lost", &n) == 1)
			told += n;
		else
			fail_msg("'%s'", line);
	}
	assert_int_equal(*line, '\0');
	assert_true(want > 3000); /* the pipe's 64 KiB and the queue's 256 */
	assert_int_equal(want + told, 20000);
	log_info(LA_MAIN, "and on");
	n = (unsigned)drain(p[0], all, sizeof(all) - 1);
	assert_string_equal(all, "<6>main: and on\n");
	close(p[0]);
	log_info(LA_MAIN, "nobody there");
	close(p[1]);
}

static void a_socket_that_nobody_reads_stops_nobody(void **state)
{
	static char all[2u << 20];
	uint64_t begin = now_ms();
	int s[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM, 0, s), 0);
	log_init(s[1], LOG_JOURNAL, LOG_INFO);
	log_never_wait();
	for (unsigned i = 0; i < 20000; i++)
		log_info(LA_MAIN, "line %u ....................................................................", i);
	assert_true(now_ms() - begin < 5000);
	assert_true(log_dropped() > 0);
	assert_int_equal(fcntl(s[0], F_SETFL, O_NONBLOCK), 0);
	drain(s[0], all, sizeof(all) - 1);
	assert_non_null(strstr(all, "log lines were lost"));
	close(s[0]);
	log_info(LA_MAIN, "nobody there");
	close(s[1]);
}

static void a_pipe_of_another_user_is_asked_first(void **state)
{
	static char all[2u << 20];
	uint64_t begin = now_ms();
	int p[2];

	(void)state;
	assert_int_equal(pipe(p), 0);
	log_init(p[1], LOG_JOURNAL, LOG_INFO);
	log_never_wait();
	close(o.own); /* as if it could not be opened */
	o.own = -1;
	o.how = HOW_POLL;
	for (unsigned i = 0; i < 20000; i++)
		log_info(LA_MAIN, "line %u ....................................................................", i);
	assert_true(now_ms() - begin < 5000);
	assert_int_equal(fcntl(p[0], F_SETFL, O_NONBLOCK), 0);
	drain(p[0], all, sizeof(all) - 1);
	assert_non_null(strstr(all, "log lines were lost"));
	close(p[0]);
	close(p[1]);
}

static void the_journal_gets_priority_and_fields(void **state)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET};
	const struct log_about about = {.conn = 17, .tunnel = 4, .peer = "10.0.0.7:1\nMESSAGE=forged"};
	int s = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0), p[2];
	char got[4096];
	ssize_t n;

	(void)state;
	unlink(JOURNAL_SOCKET);
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(pipe(p), 0);
	log_init(p[1], LOG_JOURNAL, LOG_INFO);
	log_journal();
	log_never_wait();
	log_write_about(LOG_WARN, LA_TUNNEL, &about, "two\nlines");
	n = recv(s, got, sizeof(got) - 1, 0);
	assert_true(n > 0);
	got[n] = '\0';
	assert_string_equal(got, "PRIORITY=4\nSYSLOG_IDENTIFIER=aditd\nADIT_AREA=tunnel\nADIT_CONN=17\nADIT_TUNNEL=4\n"
				 "ADIT_PEER=10.0.0.7:1\\x0aMESSAGE=forged\nMESSAGE=tunnel: two\\x0alines\n");
	/* restarted: the next one goes to the new socket; gone: stderr has it, with its priority */
	close(s);
	log_info(LA_MAIN, "meanwhile");
	n = read(p[0], got, sizeof(got) - 1);
	got[n > 0 ? n : 0] = '\0';
	assert_string_equal(got, "<6>main: meanwhile\n");
	unlink(JOURNAL_SOCKET);
	s = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK, 0);
	assert_int_equal(bind(s, (struct sockaddr *)&sa, sizeof(sa)), 0);
	log_info(LA_MAIN, "again");
	assert_true(recv(s, got, sizeof(got), 0) > 0);
	/* busy */
	for (int i = 0; i < 5000; i++)
		log_info(LA_MAIN, "flood");
	assert_true(log_dropped() > 0);
	close(s);
	close(p[0]);
	close(p[1]);
	unlink(JOURNAL_SOCKET);
}

static void the_journal_is_known_by_device_and_inode(void **state)
{
	char env[64];
	struct stat st;
	int p[2];

	(void)state;
	assert_int_equal(pipe(p), 0);
	assert_int_equal(fstat(p[1], &st), 0);
	snprintf(env, sizeof(env), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	assert_true(log_journal_stream(p[1], env));
	snprintf(env, sizeof(env), "%llu:%llu", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino + 1);
	assert_false(log_journal_stream(p[1], env));
	snprintf(env, sizeof(env), "%llu:%llux", (unsigned long long)st.st_dev, (unsigned long long)st.st_ino);
	assert_false(log_journal_stream(p[1], env));
	assert_false(log_journal_stream(p[1], "8:"));
	assert_false(log_journal_stream(p[1], ""));
	assert_false(log_journal_stream(p[1], NULL));
	assert_false(log_journal_stream(-1, env));
	close(p[0]);
	close(p[1]);
}

static void levels_fall_back_by_themselves(void **state)
{
	enum log_level home;
	uint64_t until;
	int null = open("/dev/null", O_WRONLY);

	(void)state;
	log_init(null, LOG_TEXT, LOG_INFO);
	log_level_home(LA_TLS, LOG_WARN);
	assert_int_equal(log_level_set_until("all", "debug", 5000), 0);
	assert_int_equal(log_level_set("net", "error"), 0);
	assert_int_equal(log_level_of(LA_TLS, &home, &until), LOG_DBG);
	assert_int_equal(home, LOG_WARN);
	assert_int_equal(until, 5000);
	log_tick(4999);
	assert_true(log_on(LOG_DBG, LA_TLS));
	log_tick(5000);
	assert_int_equal(log_levels[LA_TLS], LOG_WARN);
	assert_int_equal(log_levels[LA_CHAIN], LOG_INFO);
	assert_int_equal(log_levels[LA_NET], LOG_ERR); /* that one was for good */
	log_tick(9000);
	assert_int_equal(log_levels[LA_NET], LOG_ERR);
	assert_int_equal(log_level_reset("net"), 0);
	assert_int_equal(log_levels[LA_NET], LOG_INFO);
	assert_int_equal(log_level_set_until("tls", "debug", 7000), 0);
	assert_int_equal(log_level_reset("all"), 0);
	log_tick(7000);
	assert_int_equal(log_levels[LA_TLS], LOG_WARN);
	assert_int_equal(log_level_reset("nowhere"), -EINVAL);
	assert_int_equal(log_level_set_until("nowhere", "debug", 1), -EINVAL);
	close(null);
}

static void each_kind_has_its_rate_and_counts_what_it_holds_back(void **state)
{
	char more[LOG_MORE];

	(void)state;
	for (int k = 0; k < LOG_KINDS; k++) {
		const struct log_kind_info *i = log_kind_info((enum log_kind)k);
		struct log_rates r = {0};
		uint64_t before = log_suppressed((enum log_kind)k);
		unsigned passed = 0;

		assert_non_null(i->name);
		assert_true(i->lines && i->every_ms);
		for (int n = 0; n < 1000; n++)
			passed += log_kind(&r, (enum log_kind)k, 1000, more);
		assert_int_equal(passed, i->lines);
		assert_int_equal(log_suppressed((enum log_kind)k) - before, 1000 - i->lines);
		assert_true(log_kind(&r, (enum log_kind)k, 1000 + i->every_ms, more));
		snprintf(want_more, sizeof(want_more), " (%u more since the last line)", 1000 - i->lines);
		assert_string_equal(more, want_more);
		if (i->lines > 1) {
			assert_true(log_kind(&r, (enum log_kind)k, 1001 + i->every_ms, more));
			assert_string_equal(more, "");
		}
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_teardown(a_pipe_that_nobody_reads_stops_nobody, teardown),
		cmocka_unit_test_teardown(a_socket_that_nobody_reads_stops_nobody, teardown),
		cmocka_unit_test_teardown(a_pipe_of_another_user_is_asked_first, teardown),
		cmocka_unit_test_teardown(the_journal_gets_priority_and_fields, teardown),
		cmocka_unit_test_teardown(the_journal_is_known_by_device_and_inode, teardown),
		cmocka_unit_test_teardown(levels_fall_back_by_themselves, teardown),
		cmocka_unit_test(each_kind_has_its_rate_and_counts_what_it_holds_back),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
