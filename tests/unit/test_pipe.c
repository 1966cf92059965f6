/* The pool of pipes: what is needed is there, what is not needed goes, and what passes is counted. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/loop/pipe.c"
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>

static const struct config cfg = {.workers = 1};
static struct loop l;

static int setup(void **state)
{
	(void)state;
	return loop_init(&l, 0, &cfg, NULL, NULL);
}

static int teardown(void **state)
{
	(void)state;
	assert_int_equal(l.pipes.made, l.pipes.n_idle);
	assert_int_equal(atomic_load(&l.stats.g[SG_BUFFERED]), 0);
	loop_finish(&l);
	assert_int_equal(l.pipes.made, 0);
	return 0;
}

static void pass_ms(uint64_t ms)
{
	l.now_ms += ms;
	timers_run(&l.timers, l.now_ms);
}

static uint64_t counted(enum stats_counter i)
{
	return atomic_load(&l.stats.c[i]);
}

static void one_that_was_put_back_is_used_again(void **state)
{
	struct pipe *p = pipe_get(&l), *q;
	int r;

	(void)state;
	assert_non_null(p);
	assert_true(fcntl(p->r, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(p->w, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(p->w, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(p->w, F_GETPIPE_SZ) >= (int)PIPE_SIZE_MIN);
	r = p->r;
	pipe_put(&l, p);
	q = pipe_get(&l);
	assert_ptr_equal(p, q);
	assert_int_equal(q->r, r);
	assert_int_equal(l.pipes.made, 1);
	pipe_put(&l, q);
	pipe_put(&l, NULL);
}

static void what_is_not_needed_is_closed(void **state)
{
	struct pipe *p[8];

	(void)state;
	for (int i = 0; i < 8; i++)
		assert_non_null(p[i] = pipe_get(&l));
	for (int i = 0; i < 8; i++)
		pipe_put(&l, p[i]);
	assert_int_equal(l.pipes.n_idle, 8);
	pass_ms(TRIM_MS + 1); /* until here they may have been */
	assert_int_equal(l.pipes.made, 8);
	for (int i = 0; i < 100; i++) { /* two are, all the time */
		for (int k = 0; k < 2; k++)
			assert_non_null(p[k] = pipe_get(&l));
		for (int k = 0; k < 2; k++)
			pipe_put(&l, p[k]);
		pass_ms(TRIM_MS / 20);
	}
	assert_int_equal(l.pipes.made, 2);
	pass_ms(2 * TRIM_MS + 1);
	pass_ms(2 * TRIM_MS + 1);
	assert_int_equal(l.pipes.made, 0);
	assert_int_equal(l.timers.armed, 0); /* and nobody is woken any more */
}

/* nor do more than the kernel lets this user have do any harm */
static void there_is_a_limit(void **state)
{
	static struct pipe *p[PIPES_MAX + 1];
	unsigned int n = 0;

	(void)state;
	while (n <= PIPES_MAX && (p[n] = pipe_get(&l))) {
		assert_true(fcntl(p[n]->w, F_GETPIPE_SZ) >= (int)PIPE_SIZE_MIN);
		n++;
	}
	assert_in_range(n, 1, PIPES_MAX);
	l.now_ms += AGAIN_MS;
	assert_null(pipe_get(&l));
	pipe_put(&l, p[--n]);
	l.now_ms += AGAIN_MS;
	p[n] = pipe_get(&l);
	assert_non_null(p[n++]);
	while (n)
		pipe_put(&l, p[--n]);
}

static bool all_scarce(int fd)
{
	(void)fd;
	return true;
}

static void descriptors_that_are_kept_are_left_alone(void **state)
{
	struct pipe *p = pipe_get(&l);
	uint64_t calls;

	(void)state;
	l.pipes.scarce = all_scarce;
	assert_null(pipe_get(&l));
	calls = counted(ST_SYS_OTHER);
	for (int i = 0; i < 100; i++) /* and it is not tried again and again */
		assert_null(pipe_get(&l));
	assert_int_equal(counted(ST_SYS_OTHER), calls);
	l.pipes.scarce = NULL;
	l.now_ms += AGAIN_MS;
	pipe_put(&l, pipe_get(&l));
	assert_int_equal(l.pipes.made, 2);
	pipe_put(&l, p);
	assert_int_equal(l.pipes.made, 2);
}

static void tcp(int fd[2])
{
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0, fd), 0);
}

static void what_passes_is_counted(void **state)
{
	struct pipe *p = pipe_get(&l);
	int a[2], b[2];
	char got[16];

	(void)state;
	tcp(a);
	tcp(b);
	assert_int_equal(pipe_fill(&l, p, a[1], 100), -EAGAIN);
	assert_int_equal(send(a[0], "hello, world", 12, 0), 12);
	assert_int_equal(pipe_fill(&l, p, a[1], 5), 5);
	assert_int_equal(p->len, 5);
	assert_int_equal(atomic_load(&l.stats.g[SG_BUFFERED]), 5);
	assert_int_equal(counted(ST_SPLICED_BYTES), 0);
	assert_int_equal(pipe_drain(&l, p, b[0]), 5);
	assert_int_equal(p->len, 0);
	assert_int_equal(atomic_load(&l.stats.g[SG_BUFFERED]), 0);
	assert_int_equal(counted(ST_SPLICED_BYTES), 5);
	assert_int_equal(counted(ST_SYS_SPLICE), 3);
	assert_int_equal(recv(b[1], got, sizeof(got), 0), 5);
	assert_memory_equal(got, "hello", 5);
	assert_int_equal(pipe_fill(&l, p, a[1], 100), 7);
	pipe_put(&l, p); /* with what is in it: that is gone, and the pipe with it */
	assert_int_equal(l.pipes.made, 0);
	close(a[0]);
	p = pipe_get(&l);
	assert_int_equal(p->len, 0);
	assert_int_equal(pipe_fill(&l, p, a[1], 100), 0);
	pipe_put(&l, p);
	for (int i = 0; i < 2; i++)
		close(b[i]);
	close(a[1]);
}

static void a_lost_end_is_an_error(void **state)
{
	struct pipe *p = pipe_get(&l);
	int a[2], b[2];

	(void)state;
	tcp(a);
	tcp(b);
	assert_int_equal(send(a[0], "hello", 5, 0), 5);
	assert_int_equal(pipe_fill(&l, p, a[1], 100), 5);
	close(b[1]);
	assert_int_equal(pipe_drain(&l, p, b[0]), -EPIPE);
	assert_int_equal(p->len, 5);
	pipe_put(&l, p);
	for (int i = 0; i < 2; i++)
		close(a[i]);
	close(b[0]);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(one_that_was_put_back_is_used_again),
		T(what_is_not_needed_is_closed),
		T(there_is_a_limit),
		T(descriptors_that_are_kept_are_left_alone),
		T(what_passes_is_counted),
		T(a_lost_end_is_an_error),
	};

	signal(SIGPIPE, SIG_IGN);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
