/*
 * The health thread: it answers /healthz/ready, /healthz/live and /metrics on the TCP address, and calls the watchdog.
 *
 * Why a thread: whoever restarts nodes on a failed probe must not be misled by a main thread that builds a configuration of 10,000
 * policies (most of a second), waits for a worker, or writes its state to a slow disk; and probes on a worker would cost connections their
 * tail latency. Health is answered from atomics. A scrape reads tables that the main thread changes, so it waits until that one pauses
 * (inspect_hold()).
 */
#include "admin/site.h"
#include "base/clean.h"
#include "base/log.h"
#include "obs/metrics.h"
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>

#define IDLE_MS 200 /* until there is something to watch */

struct health_thread {
	struct site *site;
	pthread_t thread;
	int stop; /* eventfd */
};

/* ---- answers ---- */

void api_ready(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	static const char *const word[] = {
		[HEALTH_STARTING] = "starting\n", [HEALTH_READY] = "ready\n", [HEALTH_QUIET] = "draining\n", [HEALTH_DRAINING] = "draining\n"};
	struct health_row h;

	(void)req;
	inspect_health(a->d, &h);
	ans->type = "text/plain";
	if (h.phase != HEALTH_READY)
		ans->status = 503;
	text_add(&ans->body, word[h.phase]);
	text_add(&ans->body, h.text);
}

void api_live(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct health_row h;

	(void)req;
	inspect_health(a->d, &h);
	ans->type = "text/plain";
	if (h.live) {
		text_add(&ans->body, "live\n");
		return;
	}
	ans->status = 503;
	text_add(&ans->body, "stuck\n");
	text_add(&ans->body, h.text);
}

void api_drain_progress(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	static const char *const phase[] = {
		[HEALTH_STARTING] = "starting", [HEALTH_READY] = "ready", [HEALTH_QUIET] = "quiet", [HEALTH_DRAINING] = "draining"};
	struct status_row s = {0};
	struct health_row h;
	struct json j;

	(void)req;
	inspect_health(a->d, &h);
	inspect_status(a->d, &s);
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_bool(&j, "draining", h.phase >= HEALTH_QUIET);
	json_str(&j, "phase", phase[h.phase]);
	json_u64(&j, "connections", h.connections);
	json_u64(&j, "began_with", h.began_with);
	json_u64(&j, "tunnels", s.tunnels_in + s.tunnels_out);
	json_u64(&j, "left_ms", h.left_ms);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

void api_add_health(struct text *t, struct daemon *d)
{
	struct health_row h;

	inspect_health(d, &h);
	metrics_family(t, "adit_worker_stuck", METRICS_GAUGE, "workers whose loop has not turned for longer than `watchdog`");
	metrics_u64(t, "adit_worker_stuck", NULL, 0, h.stuck);
	metrics_family(t, "adit_stuck_total", METRICS_COUNTER, "times that a worker, or the main thread, was found stuck");
	metrics_u64(t, "adit_stuck_total", NULL, 0, h.stuck_total);
}

/* ---- the thread ---- */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void *run(void *arg)
{
	struct health_thread *t = arg;
	struct pollfd p[2] = {{.fd = t->stop, .events = POLLIN}, {.fd = t->site->epoll, .events = POLLIN}};
	struct api *api = t->site->api;
	uint64_t next = 0, now, n;

	for (;;) {
		now = now_ms();
		if (now >= next) {
			next = now + (atomic_load(&api->ops_set) && api->ops.watch ? api->ops.watch(api->ops.arg) : IDLE_MS);
			now = now_ms();
		}
		if (poll(p, 2, (int)(next > now ? next - now : 0)) < 0 && errno != EINTR)
			return NULL;
		if (p[0].revents && !atomic_load(&t->site->leaving))
			return NULL;
		if (p[0].revents && read(t->stop, &n, sizeof(n)) == sizeof(n)) {
			site_leave(t->site);
			atomic_store(&t->site->leaving, false);
		}
		if (p[1].revents && atomic_load(&api->ops_set)) /* until then somebody else may answer there */
			site_run(t->site);
		p[1].events = atomic_load(&api->ops_set) ? POLLIN : 0;
	}
}

int health_thread_start(struct health_thread **ret, struct site *site, struct err *reterr)
{
	struct health_thread *t = calloc(1, sizeof(*t));
	sigset_t all, old;
	int r;

	if (!t)
		return err_set(reterr, -ENOMEM, "admin: out of memory");
	t->site = site;
	t->stop = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	sigfillset(&all); /* signals are the main thread's */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = t->stop < 0 ? errno : pthread_create(&t->thread, NULL, run, t);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r) {
		clean_fd(&t->stop);
		free(t);
		return err_set(reterr, -r, "admin: health thread: %s", strerror(r));
	}
	pthread_setname_np(t->thread, "health");
	*ret = t;
	return 0;
}

void health_thread_leave(struct health_thread *t)
{
	uint64_t one = 1;

	atomic_store(&t->site->leaving, true);
	(void)!write(t->stop, &one, sizeof(one));
	while (atomic_load(&t->site->leaving)) /* it answers within a scrape */
		(void)poll(NULL, 0, 1);
}

void health_thread_stop(struct health_thread *t)
{
	uint64_t one = 1;

	if (!t)
		return;
	(void)!write(t->stop, &one, sizeof(one));
	pthread_join(t->thread, NULL);
	close(t->stop);
	free(t);
}
