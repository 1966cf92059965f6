/*
 * The event loop of a worker. A turn: wait, read the clock once, dispatch events, run due timers, then the deferred tasks
 * (tunnel flushes, connections to free). Tasks queued while tasks run wait for the next turn, which then does not
 * sleep; so a task that always has more to do cannot starve the sockets.
 */
#include "loop/loop.h"
#include "base/clean.h"
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

static void doing(struct loop *l, uint8_t what)
{
	atomic_store_explicit(&l->doing, what, memory_order_relaxed);
}

static void clock_read(struct loop *l)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	l->now_us = (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
	l->now_ms = l->now_us / 1000u;
}

static void clock_offset(struct loop *l)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	l->real_offset_us = (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u - l->now_us;
}

int loop_init(struct loop *l, uint32_t worker, const struct config *cfg, void *owner,
	      void (*dispatch)(void *owner, union ev_ref ref, uint32_t events))
{
	union ev_ref ref = { .kind = EV_WAKE };
	int r;

	memset(l, 0, sizeof(*l));
	l->epfd = l->wakefd = -1;
	l->worker = worker;
	l->cfg = cfg;
	l->owner = owner;
	l->dispatch = dispatch;
	TAILQ_INIT(&l->tasks);
	clock_read(l);
	clock_offset(l);
	timers_init(&l->timers, l->now_ms);
	pipes_init(&l->pipes);
	if (getrandom(l->rnd, sizeof(l->rnd), 0) != sizeof(l->rnd))
		l->rnd[0] = l->now_us + worker + 1;
	r = ring_init(&l->inbox, 256);
	if (r < 0)
		return r;
	r = -ENOMEM;
	l->scratch.in = malloc(SCRATCH_IN);
	l->scratch.plain = malloc(SCRATCH_PLAIN + 64); /* the TLS content type is written behind the last byte */
	l->scratch.out = malloc(SCRATCH_OUT);
	if (!l->scratch.in || !l->scratch.plain || !l->scratch.out)
		goto fail;
	l->epfd = epoll_create1(EPOLL_CLOEXEC);
	l->wakefd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	if (l->epfd < 0 || l->wakefd < 0) {
		r = -errno;
		goto fail;
	}
	r = loop_watch_level(l, l->wakefd, ref, EPOLLIN);
	if (r < 0)
		goto fail;
	return 0;
fail:
	loop_finish(l);
	return r;
}

void loop_finish(struct loop *l)
{
	if (l->epfd >= 0)
		close(l->epfd);
	if (l->wakefd >= 0)
		close(l->wakefd);
	l->epfd = l->wakefd = -1;
	pipes_finish(l);
	free(TAKE(l->scratch.in));
	free(TAKE(l->scratch.plain));
	free(TAKE(l->scratch.out));
	ring_finish(&l->inbox);
}

int loop_watch(struct loop *l, int fd, union ev_ref ref)
{
	struct epoll_event ev = { .events = EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.u64 = ref.u64 };

	stats_inc(&l->stats, ST_SYS_OTHER);
	return epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

int loop_watch_level(struct loop *l, int fd, union ev_ref ref, uint32_t mask)
{
	struct epoll_event ev = { .events = mask, .data.u64 = ref.u64 };

	stats_inc(&l->stats, ST_SYS_OTHER);
	if (!mask)
		return epoll_ctl(l->epfd, EPOLL_CTL_DEL, fd, NULL) ? -errno : 0;
	if (!epoll_ctl(l->epfd, EPOLL_CTL_MOD, fd, &ev))
		return 0;
	if (errno != ENOENT)
		return -errno;
	return epoll_ctl(l->epfd, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

void loop_defer(struct loop *l, struct task *t)
{
	if (t->queued)
		return;
	t->queued = true;
	l->n_tasks++;
	TAILQ_INSERT_TAIL(&l->tasks, t, link);
}

void loop_defer_cancel(struct loop *l, struct task *t)
{
	if (!t->queued)
		return;
	t->queued = false;
	l->n_tasks--;
	TAILQ_REMOVE(&l->tasks, t, link);
}

bool loop_post(struct loop *l, struct order *o)
{
	uint64_t one = 1;

	if (!ring_push(&l->inbox, o))
		return false;
	/* EAGAIN means the counter is full: the worker is awake anyway */
	return write(l->wakefd, &one, sizeof(one)) == sizeof(one) || errno == EAGAIN;
}

void loop_nudge(struct loop *l)
{
	uint64_t one = 1;

	(void)!write(l->wakefd, &one, sizeof(one)); /* EAGAIN: it has many to take already */
}

const char *loop_doing_str(uint8_t what)
{
	static const char *const names[] = {
		[EV_WAKE] = "an order of the main thread", [EV_LISTENER] = "accepting", [EV_CONN] = "a connection's event",
		[EV_TUNNEL] = "a tunnel's event", [EV_DNS] = "name resolution", [LOOP_WAITS] = "waiting for events",
		[LOOP_TIMERS] = "timers", [LOOP_TASKS] = "deferred tasks", [LOOP_ENDED] = "ended",
	};

	return what < ARRAY_LEN(names) && names[what] ? names[what] : "unknown";
}


static void orders_run(struct loop *l)
{
	struct order *o;
	uint64_t n;

	if (read(l->wakefd, &n, sizeof(n)) < 0 && errno != EAGAIN)
		return;
	while ((o = ring_pop(&l->inbox)))
		o->run(o, l->owner);
}

static void tasks_run(struct loop *l)
{
	struct task *t;

	for (uint32_t n = l->n_tasks; n && (t = TAILQ_FIRST(&l->tasks)); n--) {
		loop_defer_cancel(l, t);
		t->run(t);
	}
}

static void pressure_read(struct loop *l)
{
	uint32_t p = l->pressure ? atomic_load_explicit(l->pressure, memory_order_relaxed) : 0;

	if (p == l->pressure_now)
		return;
	l->pressure_now = p;
	l->pressed(l->owner);
}

void loop_turn(struct loop *l, int max_wait_ms)
{
	struct epoll_event ev[LOOP_EVENTS];
	int wait = TAILQ_EMPTY(&l->tasks) ? timers_wait(&l->timers, l->now_ms) : 0, n;

	if (max_wait_ms >= 0 && (wait < 0 || wait > max_wait_ms))
		wait = max_wait_ms;
	doing(l, LOOP_WAITS);
	n = epoll_wait(l->epfd, ev, LOOP_EVENTS, wait);
	stats_bump(&l->beat, 1);
	clock_read(l);
	if ((l->stats.c[ST_TURNS] & 0xffff) == 0)
		clock_offset(l); /* wall clock may be stepped */
	stats_inc(&l->stats, ST_SYS_WAIT);
	stats_inc(&l->stats, ST_TURNS);
	pressure_read(l);
	for (int i = 0; i < n; i++) {
		union ev_ref ref = { .u64 = ev[i].data.u64 };

		doing(l, ref.kind);
		if (ref.kind == EV_WAKE)
			orders_run(l);
		else
			l->dispatch(l->owner, ref, ev[i].events);
	}
	doing(l, LOOP_TIMERS);
	timers_run(&l->timers, l->now_ms);
	doing(l, LOOP_TASKS);
	tasks_run(l);
}

void loop_run(struct loop *l)
{
	atomic_store_explicit(&l->tid, (int)gettid(), memory_order_relaxed);
	while (!l->stop)
		loop_turn(l, -1);
	doing(l, LOOP_ENDED);
}

static uint64_t rotl(uint64_t x, int k)
{
	return (x << k) | (x >> (64 - k));
}

/* xoshiro256** (Blackman, Vigna), public domain algorithm */
uint64_t loop_random(struct loop *l)
{
	uint64_t *s = l->rnd, r = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;

	s[2] ^= s[0];
	s[3] ^= s[1];
	s[1] ^= s[2];
	s[0] ^= s[3];
	s[2] ^= t;
	s[3] = rotl(s[3], 45);
	return r;
}
