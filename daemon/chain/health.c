/*
 * The watchdog. Every loop counts its turns. A worker that sleeps is nudged once per tick, so its count moves whenever it is able to
 * turn; one whose count has not moved for `watchdog` is stuck: in a loop of its own, in a system call that does not return, or not
 * scheduled. It is said once, with what it was doing and where (a signal makes it note its own stack), then /healthz/live fails, the
 * service manager hears no more WATCHDOG=1, and restarts us if it was told to. A worker that goes on is said, too.
 *
 * The main thread may be busy for longer than a worker (a large configuration, many certificates), so it has MAIN_TIMES as long.
 *
 * When this thread itself did not run (the process was stopped, the machine slept), everything was: all clocks begin anew.
 */
#include "chain/health.h"
#include "base/clean.h"
#include "base/log.h"
#include "base/text.h"
#include "chain/daemon.h"
#include <execinfo.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>

#define MAIN_TIMES    6u
#define TICK_MOST_MS  1000u
#define TICK_LEAST_MS 50u
#define FRAMES	      24
#define STACK_MS      200 /* a thread that runs answers a signal sooner */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* ---- where a thread is ---- */

static void *frames[FRAMES];
static _Atomic int n_frames; /* 0: none asked for; -1: asked; else how many */

static void on_stack_signal(int sig)
{
	int was = -1;

	(void)sig;
	if (atomic_load(&n_frames) == was)
		atomic_store(&n_frames, backtrace(frames, FRAMES));
}

static int stack_signal(void)
{
	return SIGRTMIN + 3;
}

static void stack_init(void)
{
	struct sigaction sa = {.sa_handler = on_stack_signal, .sa_flags = SA_RESTART};

	(void)backtrace(frames, 1); /* loads what it needs now, not in a signal handler */
	(void)sigaction(stack_signal(), &sa, NULL);
}

void health_thread_begins(void)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, stack_signal());
	pthread_sigmask(SIG_UNBLOCK, &set, NULL);
}

/* the name behind "State:", and the function of the kernel in which it waits */
static void kernel_state(int tid, char *out, size_t size)
{
	char path[64], line[128], state[64] = "?", wchan[64] = "";
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/task/%d/status", tid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f))
		if (sscanf(line, "State: %63[^\n]", state) == 1)
			break;
	if (f)
		fclose(f);
	snprintf(path, sizeof(path), "/proc/self/task/%d/wchan", tid);
	f = fopen(path, "re");
	if (f && !fgets(wchan, sizeof(wchan), f))
		wchan[0] = '\0';
	if (f)
		fclose(f);
	snprintf(out, size, "%s%s%s", state, wchan[0] && strcmp(wchan, "0") ? " in " : "", wchan[0] && strcmp(wchan, "0") ? wchan : "");
}

/* "aditd(+0x1234) aditd(+0x5678)", for addr2line(1); "" when the thread did not answer */
static void stack_text(int tid, struct text *out)
{
	char **names = NULL;
	int n;

	atomic_store(&n_frames, -1);
	if (syscall(SYS_tgkill, getpid(), tid, stack_signal()) == 0)
		for (int i = 0; i < STACK_MS && atomic_load(&n_frames) < 0; i++)
			(void)poll(NULL, 0, 1);
	n = atomic_exchange(&n_frames, 0);
	if (n > 0)
		names = backtrace_symbols(frames, n);
	for (int i = 2; names && i < n; i++) { /* without the handler and its frame */
		const char *at = strrchr(names[i], '/');

		text_addf(out, "%s%.*s", i > 2 ? " " : "; stack: ", (int)strcspn(at ? at + 1 : names[i], " "), at ? at + 1 : names[i]);
	}
	free(names);
}

/* ---- life ---- */

int health_init(struct daemon *d)
{
	struct health *h = &d->health;

	h->beat = calloc(d->n_workers + 1u, sizeof(*h->beat));
	if (!h->beat)
		return -ENOMEM;
	pthread_mutex_init(&h->look, NULL);
	atomic_store(&h->limit_ms, d->cfg->watchdog_ms);
	atomic_store(&h->waits, HEALTH_WAIT_WORKERS);
	stack_init();
	return 0;
}

void health_finish(struct daemon *d)
{
	if (d->health.beat)
		pthread_mutex_destroy(&d->health.look);
	free(TAKE(d->health.beat));
}

void health_phase_set(struct health *h, enum health_phase p)
{
	atomic_store(&h->phase, p);
}

void health_hold(struct health *h)
{
	pthread_mutex_lock(&h->look);
}

void health_release(struct health *h)
{
	pthread_mutex_unlock(&h->look);
}

#ifdef __SANITIZE_THREAD__ /* gcc 12's does not know pthread_mutex_clocklock() */
#define LOCK_CLOCK		 CLOCK_REALTIME
#define LOCK_UNTIL(m, clock, ts) pthread_mutex_timedlock(m, ts)
#else
#define LOCK_CLOCK		 CLOCK_MONOTONIC
#define LOCK_UNTIL(m, clock, ts) pthread_mutex_clocklock(m, clock, ts)
#endif

bool health_try(struct health *h, uint64_t ms)
{
	struct timespec ts;

	clock_gettime(LOCK_CLOCK, &ts);
	ts.tv_sec += (time_t)(ms / 1000);
	ts.tv_nsec += (long)(ms % 1000) * 1000000;
	if (ts.tv_nsec >= 1000000000) {
		ts.tv_sec++;
		ts.tv_nsec -= 1000000000;
	}
	return LOCK_UNTIL(&h->look, LOCK_CLOCK, &ts) == 0;
}

/* ---- watching ---- */

uint64_t health_tick_ms(const struct health *h)
{
	uint64_t limit = atomic_load(&h->limit_ms);

	return limit ? max_u64(min_u64(limit / 4, TICK_MOST_MS), TICK_LEAST_MS) : TICK_MOST_MS;
}

static void say_stuck(struct daemon *d, uint32_t i, uint64_t for_ms)
{
	struct text stack = {0};
	char state[160];
	struct loop *l;
	int tid;

	if (i == d->n_workers) {
		log_err(LA_MAIN, "the main thread has not turned for %llu s: no reload, no answers on the admin socket",
			(unsigned long long)for_ms / 1000);
		return;
	}
	l = &d->workers[i].loop;
	tid = atomic_load(&l->tid);
	kernel_state(tid, state, sizeof(state));
	stack_text(tid, &stack);
	log_err(LA_MAIN, "worker %u (thread %d) has not turned for %llu.%llu s; it was at: %s; thread state: %s%s", i, tid,
		(unsigned long long)for_ms / 1000, (unsigned long long)for_ms / 100 % 10, loop_doing_str(atomic_load(&l->doing)), state,
		stack.s ? stack.s : "");
	text_finish(&stack);
}

static void say_back(const struct daemon *d, uint32_t i)
{
	if (i == d->n_workers)
		log_info(LA_MAIN, "the main thread turns again");
	else
		log_info(LA_MAIN, "worker %u turns again", i);
}

/* Return: is it stuck? */
static bool look_at(struct daemon *d, uint32_t i, uint64_t now, uint64_t limit)
{
	struct health_beat *b = &d->health.beat[i];
	bool main_thread = i == d->n_workers, ended = !main_thread && atomic_load(&d->workers[i].loop.doing) == LOOP_ENDED;
	uint64_t seen = main_thread ? atomic_load(&d->health.main_beat) : atomic_load(&d->workers[i].loop.beat);

	if (seen != b->seen || !limit || ended) {
		if (b->stuck)
			say_back(d, i);
		b->seen = seen;
		b->since_ms = now;
		b->stuck = false;
	} else if (!b->stuck && now - b->since_ms >= (main_thread ? limit * MAIN_TIMES : limit)) {
		b->stuck = true;
		atomic_fetch_add(&d->health.stuck_total, 1);
		say_stuck(d, i, now - b->since_ms);
	}
	return b->stuck;
}

bool health_watch(struct daemon *d)
{
	struct health *h = &d->health;
	uint64_t now = now_ms(), limit = atomic_load(&h->limit_ms);
	uint32_t stuck = 0;

	if (now - h->watched_ms > 3 * health_tick_ms(h)) /* we were away, or it is the first time */
		for (uint32_t i = 0; i <= d->n_workers; i++)
			h->beat[i].since_ms = now;
	h->watched_ms = now;
	for (uint32_t i = 0; i < d->n_workers; i++) {
		if (!atomic_load(&d->workers[i].loop.tid))
			continue;
		stuck += look_at(d, i, now, limit);
		loop_nudge(&d->workers[i].loop);
	}
	atomic_store(&h->stuck, stuck);
	atomic_store(&h->stuck_main, look_at(d, d->n_workers, now, limit));
	h->watched_ms = now_ms(); /* what was said took its time */
	return !stuck && !atomic_load(&h->stuck_main);
}

/* ---- for people ---- */

static void add(struct health_row *r, const char *fmt, ...)
{
	size_t n = strlen(r->text);
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(r->text + n, sizeof(r->text) - n, fmt, ap);
	va_end(ap);
}

bool inspect_hold(struct daemon *d, uint64_t ms)
{
	if (!health_try(&d->health, ms))
		return false;
	if (!d->swap)
		return true;
	health_release(&d->health); /* a worker that is late may take its tables any moment */
	return false;
}

void inspect_release(struct daemon *d)
{
	health_release(&d->health);
}

void inspect_health(struct daemon *d, struct health_row *ret)
{
	struct health *h = &d->health;
	uint32_t waits = atomic_load(&h->waits);
	uint64_t now = now_ms(), end = atomic_load(&h->deadline_ms);

	*ret = (struct health_row){
		.phase = atomic_load(&h->phase),
		.connections = atomic_load(&d->connections),
		.began_with = atomic_load(&h->began),
		.stuck = atomic_load(&h->stuck),
		.stuck_total = atomic_load(&h->stuck_total),
		.watchdog_ms = atomic_load(&h->limit_ms),
		.left_ms = end > now ? end - now : 0,
	};
	ret->live = !ret->stuck && !atomic_load(&h->stuck_main);
	if (ret->phase == HEALTH_STARTING && (waits & HEALTH_WAIT_HANDOVER))
		add(ret, "waiting for the sockets of the daemon that runs\n");
	if (ret->phase == HEALTH_STARTING && (waits & HEALTH_WAIT_WORKERS))
		add(ret, "waiting for the workers to start\n");
	if (ret->phase == HEALTH_QUIET)
		add(ret, "quiet period: new connections are still taken\n");
	if (ret->phase == HEALTH_QUIET || ret->phase == HEALTH_DRAINING)
		add(ret, "%llu connections left, %llu.%llu s to the deadline\n", (unsigned long long)ret->connections,
		    (unsigned long long)ret->left_ms / 1000, (unsigned long long)ret->left_ms / 100 % 10);
	for (uint32_t i = 0; ret->stuck && i < d->n_workers && i < 32; i++) {
		struct loop *l = &d->workers[i].loop;

		if (h->beat[i].stuck)
			add(ret, "worker %u (thread %d) does not turn; it is at: %s\n", i, atomic_load(&l->tid),
			    loop_doing_str(atomic_load(&l->doing)));
	}
	if (atomic_load(&h->stuck_main))
		add(ret, "the main thread does not turn\n");
}
