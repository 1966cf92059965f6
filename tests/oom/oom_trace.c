/* Lines of traces, and the log's queue, with every allocation refused once: no crash, no leak; a line is whole or the text says that it failed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "obs/trace.h"
#include "oom/oom.h"

static void lines_once(void)
{
	struct trace_rec r = {.at_us = 1767322984000000u, .kind = TRACE_FRAME, .what = {.conn = 1, .tunnel = 2, .stream = 3, .a = trace_frame(5, 0, 1)}};
	struct text t = {0};

	for (int i = 0; i < 40; i++) {
		trace_line(&t, &r);
		trace_json(&t, &r);
	}
	if (text_ok(&t))
		assert_int_equal(t.s[t.len - 1], '\n');
	else
		assert_true(oom_struck());
	text_finish(&t);
}

static void lines_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(lines_once) >= 3);
}

/* without its queue the log is as it was before log_never_wait(): lines go out */
static void log_once(void)
{
	char got[256];
	int p[2];

	assert_int_equal(pipe(p), 0);
	log_init(p[1], LOG_JOURNAL, LOG_INFO);
	log_never_wait();
	log_info(LA_MAIN, "said");
	assert_int_equal(read(p[0], got, sizeof(got)), sizeof("<6>main: said\n") - 1);
	log_init(STDERR_FILENO, LOG_TEXT, LOG_INFO);
	close(p[0]);
	close(p[1]);
}

static void the_log_survives(void **state)
{
	(void)state;
	assert_true(oom_sweep(log_once) >= 1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_survive),
		cmocka_unit_test(the_log_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
