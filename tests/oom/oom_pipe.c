/* Pipes when memory runs out: none is to be had, no descriptor is lost, and there is one again later. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "loop/loop.h"
#include "oom/oom.h"
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

static struct loop l;

static int free_descriptor(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	assert_true(fd >= 0);
	close(fd);
	return fd;
}

static void pipes_once(void)
{
	struct pipe *p[4];
	int fd = free_descriptor();

	memset(&l, 0, sizeof(l));
	timers_init(&l.timers, 1);
	pipes_init(&l.pipes);
	for (unsigned int i = 0; i < 4; i++) {
		p[i] = pipe_get(&l);
		assert_true(p[i] || oom_struck());
		l.now_ms += 10000; /* it may be tried again */
	}
	for (unsigned int i = 0; i < 4; i++)
		pipe_put(&l, p[i]);
	assert_int_equal(l.pipes.made, l.pipes.n_idle);
	pipes_finish(&l);
	assert_int_equal(l.pipes.made, 0);
	assert_int_equal(free_descriptor(), fd);
}

static void pipes_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(pipes_once) >= 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(pipes_survive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
