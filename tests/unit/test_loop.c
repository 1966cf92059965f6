/* The loop: what is deferred runs once, orders come through in order, stale references are seen, timers are kept. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/loop/loop.c"
#include "base/slab.h"
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <sys/socket.h>

static const struct config cfg = {.workers = 1};

struct seen {
	union ev_ref ref[64];
	uint32_t events[64];
	unsigned int n;
	void (*more)(struct seen *s, union ev_ref ref);
	void *arg;
};

static void note(void *owner, union ev_ref ref, uint32_t events)
{
	struct seen *s = owner;

	assert_in_range(s->n, 0, 63);
	s->ref[s->n] = ref;
	s->events[s->n++] = events;
	if (s->more)
		s->more(s, ref);
}

static struct loop l;
static struct seen seen;

static int setup(void **state)
{
	(void)state;
	memset(&seen, 0, sizeof(seen));
	return loop_init(&l, 3, &cfg, &seen, note);
}

static int teardown(void **state)
{
	(void)state;
	loop_finish(&l);
	return 0;
}

static uint64_t ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- tasks ---- */

struct job {
	struct task t;
	unsigned int ran;
	struct job *defer, *cancel;
};

static void job_run(struct task *t)
{
	struct job *j = container_of(t, struct job, t);

	assert_false(t->queued); /* it may queue itself again */
	j->ran++;
	if (j->cancel)
		loop_defer_cancel(&l, &j->cancel->t);
	if (j->defer)
		loop_defer(&l, &j->defer->t);
}

static void a_task_runs_once_however_often_it_is_deferred(void **state)
{
	struct job j = {.t.run = job_run};

	(void)state;
	for (int i = 0; i < 5; i++)
		loop_defer(&l, &j.t);
	assert_int_equal(j.ran, 0); /* never inside loop_defer() */
	loop_turn(&l, 0);
	assert_int_equal(j.ran, 1);
	loop_turn(&l, 0);
	assert_int_equal(j.ran, 1);
	assert_int_equal(l.n_tasks, 0);
}

static void tasks_do_not_wait_for_events(void **state)
{
	struct job j = {.t.run = job_run};
	uint64_t t0 = ms();

	(void)state;
	loop_defer(&l, &j.t);
	loop_turn(&l, -1); /* would wait for ever */
	assert_int_equal(j.ran, 1);
	assert_in_range(ms() - t0, 0, 9000);
}

static void a_task_that_queues_itself_runs_in_the_next_turn(void **state)
{
	struct job j = {.t.run = job_run, .defer = &j};

	(void)state;
	loop_defer(&l, &j.t);
	for (unsigned int turn = 1; turn <= 10; turn++) {
		loop_turn(&l, -1); /* and that turn does not sleep */
		assert_int_equal(j.ran, turn);
	}
	loop_defer_cancel(&l, &j.t);
}

static void a_task_that_always_has_more_does_not_starve_descriptors_and_timers(void **state)
{
	struct job j = {.t.run = job_run, .defer = &j};
	int p[2];
	union ev_ref ref = {.kind = EV_CONN, .idx = 7};

	(void)state;
	assert_int_equal(pipe2(p, O_NONBLOCK), 0);
	assert_int_equal(loop_watch(&l, p[0], ref), 0);
	loop_defer(&l, &j.t);
	loop_turn(&l, -1);
	assert_int_equal(write(p[1], "x", 1), 1);
	loop_turn(&l, -1);
	assert_int_equal(seen.n, 1);
	assert_int_equal(j.ran, 2);
	loop_defer_cancel(&l, &j.t);
	close(p[0]);
	close(p[1]);
}

static void a_cancelled_task_does_not_run(void **state)
{
	struct job a = {.t.run = job_run}, b = {.t.run = job_run}, c = {.t.run = job_run, .cancel = &b};

	(void)state;
	loop_defer(&l, &a.t);
	loop_defer_cancel(&l, &a.t);
	loop_defer_cancel(&l, &a.t); /* not queued: fine */
	loop_defer(&l, &c.t);
	loop_defer(&l, &b.t); /* cancelled by c, in the same turn */
	loop_turn(&l, 0);
	assert_int_equal(a.ran + b.ran, 0);
	assert_int_equal(c.ran, 1);
	loop_defer(&l, &a.t);
	loop_turn(&l, 0);
	assert_int_equal(a.ran, 1);
}

static struct task *order_of_run[8];
static unsigned int n_run;

static void keep_order(struct task *t)
{
	order_of_run[n_run++] = t;
}

static void tasks_run_in_the_order_in_which_they_were_deferred(void **state)
{
	struct task t[8] = {{.run = NULL}};

	(void)state;
	n_run = 0;
	for (int i = 0; i < 8; i++) {
		t[i].run = keep_order;
		loop_defer(&l, &t[i]);
	}
	loop_turn(&l, 0);
	assert_int_equal(n_run, 8);
	for (int i = 0; i < 8; i++)
		assert_ptr_equal(order_of_run[i], &t[i]);
}

static void freed_by_its_own_run(struct task *t)
{
	free(container_of(t, struct job, t));
	n_run++;
}

static void a_task_may_free_itself(void **state)
{
	(void)state;
	n_run = 0;
	for (int i = 0; i < 3; i++) {
		struct job *j = calloc(1, sizeof(*j));

		assert_non_null(j);
		j->t.run = freed_by_its_own_run;
		loop_defer(&l, &j->t);
	}
	loop_turn(&l, 0);
	assert_int_equal(n_run, 3);
}

/* ---- timers ---- */

static uint64_t fired_at;

static void fired(struct timer *t, void *arg)
{
	(void)t;
	fired_at = l.now_ms;
	if (arg)
		loop_defer(&l, arg);
}

static void a_timer_wakes_the_loop_in_time(void **state)
{
	struct timer t = {.fire = fired};
	uint64_t at;

	(void)state;
	fired_at = 0;
	at = l.now_ms + 30;
	timer_arm(&l.timers, &t, at);
	while (!fired_at)
		loop_turn(&l, -1);
	assert_true(fired_at >= at);
	assert_in_range(fired_at - at, 0, 9000); /* a busy machine */
}

static void what_a_timer_defers_runs_in_the_same_turn(void **state)
{
	struct job j = {.t.run = job_run};
	struct timer t = {.fire = fired, .arg = &j.t};

	(void)state;
	fired_at = 0;
	timer_arm(&l.timers, &t, l.now_ms);
	loop_turn(&l, 0);
	assert_true(fired_at != 0);
	assert_int_equal(j.ran, 1);
}

static void a_turn_waits_no_longer_than_asked(void **state)
{
	struct timer t = {.fire = fired};
	uint64_t t0 = ms();

	(void)state;
	timer_arm(&l.timers, &t, l.now_ms + 3600000);
	loop_turn(&l, 20);
	assert_in_range(ms() - t0, 19, 9000);
	timer_disarm(&l.timers, &t);
}

static void the_clock_is_read_once_per_turn(void **state)
{
	uint64_t was = l.now_us;
	struct timespec ts;

	(void)state;
	usleep(3000);
	assert_true(l.now_us == was);
	loop_turn(&l, 0);
	assert_true(l.now_us >= was + 3000);
	assert_true(l.now_ms == l.now_us / 1000);
	clock_gettime(CLOCK_REALTIME, &ts);
	assert_in_range((l.now_us + l.real_offset_us) / 1000000, (uint64_t)ts.tv_sec - 2, (uint64_t)ts.tv_sec + 2);
}

/* ---- descriptors ---- */

static void a_descriptor_is_told_of_by_its_reference(void **state)
{
	union ev_ref ref = {.kind = EV_TUNNEL, .side = 5, .gen = 0xabcd, .idx = 0x12345678};
	int s[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
	assert_int_equal(loop_watch(&l, s[0], ref), 0);
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 1);
	assert_true(seen.ref[0].u64 == ref.u64);
	assert_int_equal(seen.events[0], EPOLLOUT);
	loop_turn(&l, 0); /* an edge is told once */
	assert_int_equal(seen.n, 1);
	assert_int_equal(send(s[1], "abc", 3, 0), 3);
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 2);
	assert_true(seen.events[1] & EPOLLIN);
	loop_turn(&l, 0); /* although nobody has read */
	assert_int_equal(seen.n, 2);
	close(s[1]);
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 3);
	assert_true(seen.events[2] & EPOLLRDHUP);
	close(s[0]); /* leaves epoll by itself */
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 3);
}

static void a_level_is_told_until_it_is_taken_off(void **state)
{
	union ev_ref ref = {.kind = EV_LISTENER, .idx = 2};
	int s[2];

	(void)state;
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, s), 0);
	assert_int_equal(send(s[1], "abc", 3, 0), 3);
	assert_int_equal(loop_watch_level(&l, s[0], ref, EPOLLIN), 0);
	loop_turn(&l, 0);
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 2);
	assert_int_equal(loop_watch_level(&l, s[0], ref, EPOLLOUT), 0); /* changed */
	loop_turn(&l, 0);
	assert_int_equal(seen.events[2], EPOLLOUT);
	assert_int_equal(loop_watch_level(&l, s[0], ref, 0), 0);
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 3);
	assert_int_equal(loop_watch_level(&l, s[0], ref, EPOLLIN), 0); /* back again, as a paused listener */
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 4);
	close(s[0]);
	close(s[1]);
}

static void what_cannot_be_watched_is_refused(void **state)
{
	union ev_ref ref = {.kind = EV_CONN};
	FILE *f = tmpfile();

	(void)state;
	assert_non_null(f);
	assert_int_equal(loop_watch(&l, fileno(f), ref), -EPERM); /* a plain file */
	fclose(f);
	assert_int_equal(loop_watch(&l, -1, ref), -EBADF);
	assert_int_equal(loop_watch_level(&l, -1, ref, EPOLLIN), -EBADF);
	assert_int_equal(loop_watch_level(&l, l.wakefd, ref, 0), 0); /* it was watched */
	assert_int_equal(loop_watch_level(&l, l.wakefd, ref, 0), -ENOENT);
}

struct slot {
	struct slab_head head;
	unsigned int told;
};

struct stale {
	struct slab slab;
	union ev_ref ref[2];
	int fd[2][2];
	unsigned int dropped;
};

/* as workers do it: whoever comes first closes the other, and a new connection takes its slot at once */
static void close_the_other(struct seen *s, union ev_ref ref)
{
	struct stale *x = s->arg;
	struct slot *me = slab_get(&x->slab, ref.idx, ref.gen), *other;
	int i = ref.u64 == x->ref[0].u64;

	if (!me) {
		x->dropped++;
		return;
	}
	me->told++;
	other = slab_get(&x->slab, x->ref[i].idx, x->ref[i].gen);
	assert_non_null(other);
	slab_free(&x->slab, other);
	close(x->fd[i][0]);
	assert_ptr_equal(slab_alloc(&x->slab), other);
}

static void a_late_event_for_a_slot_used_again_is_seen_to_be_stale(void **state)
{
	struct stale x = {.dropped = 0};
	struct slot *s;
	uint32_t pos = 0;

	(void)state;
	slab_init(&x.slab, sizeof(struct slot), 8);
	for (int i = 0; i < 2; i++) {
		s = slab_alloc(&x.slab);
		assert_non_null(s);
		x.ref[i] = (union ev_ref){.kind = EV_CONN, .gen = s->head.gen, .idx = s->head.idx};
		assert_int_equal(pipe2(x.fd[i], O_NONBLOCK), 0);
		assert_int_equal(write(x.fd[i][1], "x", 1), 1);
		assert_int_equal(loop_watch(&l, x.fd[i][0], x.ref[i]), 0);
	}
	seen.more = close_the_other;
	seen.arg = &x;
	loop_turn(&l, 0);
	assert_int_equal(seen.n, 2); /* both were in one epoll_wait() */
	assert_int_equal(x.dropped, 1);
	while ((s = slab_next(&x.slab, &pos)))
		assert_in_range(s->told, 0, 1);
	for (int i = 0; i < 2; i++)
		close(x.fd[i][1]);
	close(x.fd[seen.ref[0].u64 == x.ref[0].u64 ? 0 : 1][0]);
	slab_finish(&x.slab);
}

/* ---- orders ---- */

struct numbered {
	struct order o;
	unsigned int n;
};

static struct {
	pthread_t thread;
	unsigned int n, wrong;
	void *owner;
} done;

static void order_run(struct order *o, void *owner)
{
	struct numbered *x = container_of(o, struct numbered, o);

	done.wrong += x->n != done.n++ || !pthread_equal(pthread_self(), done.thread);
	done.owner = owner;
	free(x);
}

static void stop_order(struct order *o, void *owner)
{
	free(container_of(o, struct numbered, o));
	(void)owner;
	l.stop = true;
}

static struct order *order_new(unsigned int n, void (*run)(struct order *o, void *owner))
{
	struct numbered *x = malloc(sizeof(*x));

	assert_non_null(x);
	*x = (struct numbered){{run}, n};
	return &x->o;
}

static void *runner(void *arg)
{
	(void)arg;
	done.thread = pthread_self();
	loop_run(&l);
	return NULL;
}

static void orders_come_through_in_order_and_wake_the_loop(void **state)
{
	enum { ORDERS = 3000 };
	pthread_t t;
	struct order *o;

	(void)state;
	memset(&done, 0, sizeof(done));
	assert_int_equal(pthread_create(&t, NULL, runner, NULL), 0);
	for (unsigned int i = 0; i < ORDERS; i++) {
		o = order_new(i, order_run);
		while (!loop_post(&l, o)) /* the inbox is full: it is still ours */
			usleep(100);
		if (i % 500 == 0)
			usleep(2000); /* let it fall asleep */
	}
	o = order_new(0, stop_order);
	while (!loop_post(&l, o))
		usleep(100);
	pthread_join(t, NULL);
	assert_int_equal(done.n, ORDERS);
	assert_int_equal(done.wrong, 0);
	assert_ptr_equal(done.owner, &seen);
}

static void a_full_inbox_says_so(void **state)
{
	unsigned int n = 0;
	struct order *o;

	(void)state;
	memset(&done, 0, sizeof(done));
	done.thread = pthread_self();
	while (loop_post(&l, o = order_new(n, order_run)))
		n++;
	free(container_of(o, struct numbered, o));
	assert_in_range(n, 200, 256);
	loop_turn(&l, 0);
	assert_int_equal(done.n, n); /* all of them, with one wake-up */
	assert_true(loop_post(&l, order_new(n, order_run)));
	loop_turn(&l, 0);
	assert_int_equal(done.n, n + 1);
}

/* ---- random numbers, life ---- */

static void two_loops_draw_different_numbers(void **state)
{
	struct loop m;
	unsigned int same = 0, ones = 0;

	(void)state;
	assert_int_equal(loop_init(&m, 3, &cfg, &seen, note), 0);
	for (int i = 0; i < 1000; i++) {
		uint64_t a = loop_random(&l), b = loop_random(&m);

		same += a == b;
		ones += (unsigned int)__builtin_popcountll(a);
	}
	assert_int_equal(same, 0);
	assert_in_range(ones, 31000, 33000);
	loop_finish(&m);
}

static void finishing_twice_is_harmless(void **state)
{
	struct loop m;

	(void)state;
	assert_int_equal(loop_init(&m, 0, &cfg, &seen, note), 0);
	loop_finish(&m);
	assert_int_equal(m.epfd, -1);
	loop_finish(&m);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_task_runs_once_however_often_it_is_deferred),
		T(tasks_do_not_wait_for_events),
		T(a_task_that_queues_itself_runs_in_the_next_turn),
		T(a_task_that_always_has_more_does_not_starve_descriptors_and_timers),
		T(a_cancelled_task_does_not_run),
		T(tasks_run_in_the_order_in_which_they_were_deferred),
		T(a_task_may_free_itself),
		T(a_timer_wakes_the_loop_in_time),
		T(what_a_timer_defers_runs_in_the_same_turn),
		T(a_turn_waits_no_longer_than_asked),
		T(the_clock_is_read_once_per_turn),
		T(a_descriptor_is_told_of_by_its_reference),
		T(a_level_is_told_until_it_is_taken_off),
		T(what_cannot_be_watched_is_refused),
		T(a_late_event_for_a_slot_used_again_is_seen_to_be_stale),
		T(orders_come_through_in_order_and_wake_the_loop),
		T(a_full_inbox_says_so),
		T(two_loops_draw_different_numbers),
		T(finishing_twice_is_harmless),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
