/*
 * The look. Memory is what kills: by our own count (limits.memory) and by the cgroup's, with whatever the kernel holds for our sockets. It
 * can be eaten up faster than anybody can look ten times a second, so the fuller it is the more often it is looked at; and between two looks
 * no more connections are taken in than half of what was left can carry: credit. A worker that is about to use it up asks for a look.
 *
 * Buffers of sockets grow by themselves, a window that a peer was granted cannot be taken back, and a CPU that is short keeps this thread
 * from looking, too. So where the kernel charges them to a limit of ours, they are bounded from the beginning: shed_socket().
 *
 * Descriptors: the kernel knows how many there are (stat(2) of /proc/self/fd since Linux 6.2); before that, what our connections and
 * tunnels need.
 *
 * CPU: that a worker has something to do all the time is no overload: it may be moving bulk. It is when a turn of its loop takes so long
 * that everybody waits. So both are asked for: the share of time in which it ran or waited for a CPU (/proc/PID/task/TID/schedstat), and
 * how long a turn took. Each worker has its own level of this; the kernel's pressure figures (PSI) are shown, nothing hangs on those of
 * the machine. Those of our own cgroup's memory count: when all of it waits for memory a tenth of the time, it is time to shrink.
 */
#include "chain/overload.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include <errno.h>
#include <fcntl.h>
#include <malloc.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <time.h>

#define LOOK_MS 200
#define LOOK_SOON_MS 50	 /* from SOON on */
#define LOOK_OFTEN_MS 10 /* from OFTEN on */
#define LOOK_LEAST_MS 5
#define SOON 4000u
#define OFTEN 6000u
#define CALM_MS 1000u
#define CPU_MS 200u
#define FIND_MS 5000u	 /* our cgroup is looked for again: we may have been moved, a limit may have come */
#define TRIM_MS 2000u
#define STALL 1000u	 /* PSI: a tenth of the time */
#define SOCK_PART 4	 /* a quarter of the cgroup's limit is for buffers of connections' sockets */
#define HURRY_BYTES (4 << 20) /* of credit left: it is time for another look */
#define STACK (256u << 10)

/* ---- levels ---- */

static uint8_t down(struct overload_gauge *g, uint8_t want, uint64_t now_ms)
{
	if (want >= g->level) {
		g->calm_ms = 0;
	} else if (!g->calm_ms) {
		g->calm_ms = now_ms ? now_ms : 1;
	} else if (now_ms - g->calm_ms >= CALM_MS) {
		g->calm_ms = now_ms;
		g->level--;
	}
	return g->level;
}

static bool reaches(uint32_t percent, uint32_t share)
{
	return percent && share >= percent * 100;
}

static uint8_t level_at(const struct cfg_steps *s, uint32_t share)
{
	return reaches(s->pause, share)	     ? PRESSURE_PAUSE :
	       reaches(s->refuse, share)     ? PRESSURE_REFUSE :
	       reaches(s->close_idle, share) ? PRESSURE_CLOSE_IDLE :
	       reaches(s->shrink, share)     ? PRESSURE_SHRINK :
					       PRESSURE_NONE;
}

static uint8_t step(struct overload_gauge *g, uint8_t up, uint8_t low, uint64_t now_ms)
{
	if (up > g->level) {
		g->level = up;
		g->calm_ms = 0;
		return up;
	}
	return down(g, low, now_ms);
}

uint8_t overload_step(struct overload_gauge *g, const struct cfg_steps *s, uint32_t share, uint64_t now_ms)
{
	return step(g, level_at(s, share), level_at(s, share + OVERLOAD_HYSTERESIS), now_ms);
}

static uint8_t cpu_at(const struct cfg_overload *o, uint32_t busy, uint64_t turn_ms)
{
	if (!reaches(o->cpu_busy, busy))
		return PRESSURE_NONE;
	return o->cpu_pause_ms && turn_ms >= o->cpu_pause_ms   ? PRESSURE_PAUSE :
	       o->cpu_refuse_ms && turn_ms >= o->cpu_refuse_ms ? PRESSURE_REFUSE :
								 PRESSURE_NONE;
}

uint8_t overload_step_cpu(struct overload_gauge *g, const struct cfg_overload *o, uint32_t busy, uint64_t turn_ms, uint64_t now_ms)
{
	uint8_t level = step(g, cpu_at(o, busy, turn_ms), cpu_at(o, busy, turn_ms), now_ms);

	if (level && level < PRESSURE_REFUSE) /* there is nothing to shrink or to close for it */
		g->level = level = PRESSURE_NONE;
	return level;
}

/* ---- what there is ---- */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static uint32_t share_of(uint64_t used, uint64_t of)
{
	return of && of != MEMCG_NONE ? (uint32_t)min_u64((uint64_t)((double)used / (double)of * 10000), 100000) : 0;
}

static int64_t gauge(const struct daemon *d, enum stats_gauge g)
{
	int64_t n = 0;

	for (uint32_t i = 0; d->workers && i < d->n_workers; i++)
		n += atomic_load_explicit(&d->workers[i].loop.stats.g[g], memory_order_relaxed);
	return n > 0 ? n : 0;
}

static uint64_t descriptors(const struct daemon *d)
{
	struct stat st;

	if (stat("/proc/self/fd", &st) == 0 && st.st_size > 0)
		return (uint64_t)st.st_size;
	return 32 + 4 * d->n_workers + 2 * (uint64_t)gauge(d, SG_CONNECTIONS) + (uint64_t)gauge(d, SG_TUNNELS_IN) +
	       (uint64_t)gauge(d, SG_TUNNELS_OUT);
}

static uint64_t descriptor_limit(void)
{
	struct rlimit r;

	return getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur != RLIM_INFINITY ? r.rlim_cur : 0;
}

static uint32_t machine_cpu(void)
{
	AUTO_FD fd = open("/proc/pressure/cpu", O_RDONLY | O_CLOEXEC);
	char text[256];
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);

	text[n > 0 ? n : 0] = '\0';
	return memcg_pressure(text, "some");
}

/* ---- CPU ---- */

/* time in which the worker ran, or could have run; ns */
static uint64_t ran_ns(struct overload_worker *ow, struct worker *w)
{
	int tid = atomic_load_explicit(&w->loop.tid, memory_order_relaxed);
	unsigned long long ran = 0, waited = 0;
	struct timespec ts;
	char text[128];
	clockid_t clock;
	ssize_t n;

	if (ow->schedstat < 0 && tid) {
		snprintf(text, sizeof(text), "/proc/self/task/%d/schedstat", tid);
		ow->schedstat = open(text, O_RDONLY | O_CLOEXEC);
	}
	n = ow->schedstat < 0 ? -1 : pread(ow->schedstat, text, sizeof(text) - 1, 0);
	text[n > 0 ? n : 0] = '\0';
	if (n > 0 && sscanf(text, "%llu %llu", &ran, &waited) == 2)
		return ran + waited;
	if (!tid || pthread_getcpuclockid(w->thread, &clock) || clock_gettime(clock, &ts))
		return 0;
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void look_at_worker(struct overload_worker *ow, struct worker *w, const struct cfg_overload *o, uint64_t now)
{
	uint64_t ran = ran_ns(ow, w), beat = atomic_load_explicit(&w->loop.beat, memory_order_relaxed), dt = now - ow->at_ms;

	if (ow->at_ms && dt) {
		ow->busy = (uint32_t)min_u64((ran - min_u64(ran, ow->ran_ns)) / (100 * dt), 10000); /* ns of ms, in parts of 10000 */
		if (beat != ow->beat)
			ow->turn_ms = dt / (beat - ow->beat);
		else
			ow->turn_ms = now - ow->beat_ms;
	}
	if (beat != ow->beat || !ow->at_ms)
		ow->beat_ms = now;
	ow->beat = beat;
	ow->ran_ns = ran;
	ow->at_ms = now;
	overload_step_cpu(&ow->cpu, o, ow->busy, ow->turn_ms, now);
}

/* ---- telling ---- */

static const char *const doing[] = {
	[PRESSURE_NONE] = "over",
	[PRESSURE_SHRINK] = "windows and caches shrink",
	[PRESSURE_CLOSE_IDLE] = "idle connections are closed",
	[PRESSURE_REFUSE] = "new connections are refused",
	[PRESSURE_PAUSE] = "nothing is accepted any more",
};

static void say(const struct overload_row *r, uint8_t before)
{
	char memory[160] = "", what[64] = "";

	if (r->level) /* those that have it at this level */
		snprintf(what, sizeof(what), "%s%s%s", r->memory == r->level ? " memory" : "", r->descriptors == r->level ? " descriptors" : "",
			 r->cpu == r->level ? " CPU" : "");
	if (r->has_cgroup)
		snprintf(memory, sizeof(memory), ", %u%% of the cgroup's (%llu of %llu MiB; %llu MiB in sockets)", r->cgroup_share / 100,
			 (unsigned long long)r->cgroup_used >> 20, (unsigned long long)r->cgroup_limit >> 20,
			 (unsigned long long)r->cgroup_sock >> 20);
	log_line(r->level > before ? LOG_WARN : LOG_INFO, LA_CHAIN,
	       "overload%s%s: %s (memory: %u%% of limits.memory%s; descriptors: %u%%; CPU: %u%%, turns of %llu ms)", r->level ? " of" : "", what,
	       doing[r->level], r->own_share / 100,
	       memory, r->descriptor_share / 100, r->cpu_busy / 100, (unsigned long long)r->turn_ms);
}

static uint8_t highest(const struct overload_row *r)
{
	return (uint8_t)max_u64(r->memory, max_u64(r->descriptors, r->cpu));
}

static void publish(struct daemon *d, const struct overload_row *r)
{
	for (uint32_t i = 0; i < d->n_workers; i++) {
		struct overload_worker *ow = &d->overload.workers[i];
		uint32_t p = pressure_pack(r->memory, r->descriptors, ow->cpu.level);

		if (atomic_load_explicit(&ow->pressure, memory_order_relaxed) == p)
			continue;
		atomic_store_explicit(&ow->pressure, p, memory_order_relaxed);
		loop_nudge(&d->workers[i].loop); /* it may sleep */
	}
}

/* half of what is left until connections are refused may be taken in before the next look */
static int64_t credit(const struct cfg_overload *o, const struct overload_row *r)
{
	uint64_t stop = o->memory.refuse ? r->cgroup_limit / 100 * o->memory.refuse : r->cgroup_limit;

	if (!r->has_cgroup || !o->enabled)
		return INT64_MAX;
	return stop > r->cgroup_used ? (int64_t)((stop - r->cgroup_used) / 2) : 0;
}

/* ---- the look ---- */

static void look_at_memory(struct overload *ov, struct daemon *d, const struct cfg_overload *o, struct overload_row *r, uint64_t now)
{
	struct memcg_sample s = { .limit = MEMCG_NONE };

	if (!ov->memcg_ms || now - ov->memcg_ms >= FIND_MS) {
		ov->memcg_ms = now;
		memcg_close(&ov->memcg);
		(void)memcg_open(&ov->memcg, "/proc/self/cgroup", "/proc/self/mountinfo");
	}
	r->has_cgroup = memcg_read(&ov->memcg, &s);
	r->buffered = (uint64_t)gauge(d, SG_BUFFERED);
	r->own_share = share_of(r->buffered, r->memory_limit);
	r->cgroup_used = s.used;
	r->cgroup_limit = r->has_cgroup ? s.limit : 0;
	r->cgroup_sock = s.sock;
	r->cgroup_share = r->has_cgroup ? share_of(s.used, s.limit) : 0;
	r->cgroup_full = s.full_avg10;
	r->oom_kill = s.oom_kill;
	snprintf(r->cgroup, sizeof(r->cgroup), "%.127s", ov->memcg.path);
	r->memory_share = (uint32_t)max_u64(r->own_share, r->cgroup_share);
	atomic_store_explicit(&ov->dire, o->memory.pause && r->cgroup_share >= o->memory.pause * 100u, memory_order_relaxed);
	atomic_store_explicit(&ov->sock_budget, r->enabled && r->has_cgroup && ov->memcg.version == 2 ? s.limit / SOCK_PART : 0,
			      memory_order_relaxed);
}

static void look_at_cpu(struct overload *ov, struct daemon *d, const struct cfg_overload *o, struct overload_row *r, uint64_t now)
{
	if (ov->cpu_ms && now - ov->cpu_ms < CPU_MS)
		return;
	ov->cpu_ms = now;
	r->cpu_some = machine_cpu();
	r->cpu = r->cpu_busy = 0;
	r->turn_ms = 0;
	for (uint32_t i = 0; i < d->n_workers; i++) {
		struct overload_worker *ow = &ov->workers[i];

		look_at_worker(ow, &d->workers[i], o, now);
		r->cpu = (uint8_t)max_u64(r->cpu, ow->cpu.level);
		if (ow->busy >= r->cpu_busy) {
			r->cpu_busy = ow->busy;
			r->turn_ms = ow->turn_ms;
		}
	}
}

/* what malloc() keeps goes back to the system; the arenas are locked one by one for it */
static void trim(struct overload *ov, uint64_t now, bool first)
{
	if (!first && now - ov->trim_ms < TRIM_MS)
		return;
	ov->trim_ms = now;
	(void)malloc_trim(0);
}

static void steps(struct overload *ov, const struct cfg_overload *o, struct overload_row *r, uint64_t now)
{
	if (!o->enabled) {
		ov->memory_gauge = ov->descriptor_gauge = (struct overload_gauge){ 0 };
		r->memory = r->descriptors = r->cpu = 0;
		return;
	}
	r->memory = overload_step(&ov->memory_gauge, &o->memory, r->memory_share, now);
	if (r->memory < PRESSURE_SHRINK && r->cgroup_full >= STALL && o->memory.shrink)
		r->memory = PRESSURE_SHRINK;
	r->descriptors = overload_step(&ov->descriptor_gauge, &o->descriptors, r->descriptor_share, now);
}

/* Return: when to look again, ms from now */
static int look(struct daemon *d)
{
	struct overload *ov = &d->overload;
	uint64_t now = now_ms();
	struct cfg_overload o;
	struct overload_row r;
	uint8_t before, memory_before;

	pthread_mutex_lock(&ov->lock);
	o = ov->cfg;
	r = ov->row;
	r.memory_limit = ov->memory;
	pthread_mutex_unlock(&ov->lock);
	r.enabled = o.enabled;
	before = r.level;
	memory_before = r.memory;
	look_at_memory(ov, d, &o, &r, now);
	r.descriptors_used = descriptors(d);
	r.descriptors_limit = descriptor_limit();
	r.descriptor_share = share_of(r.descriptors_used, r.descriptors_limit);
	look_at_cpu(ov, d, &o, &r, now);
	steps(ov, &o, &r, now);
	r.level = highest(&r);
	atomic_store_explicit(&ov->credit, credit(&o, &r), memory_order_relaxed);
	publish(d, &r);
	if (r.level != before) {
		r.changes++;
		say(&r, before);
	}
	pthread_mutex_lock(&ov->lock);
	ov->row = r;
	pthread_mutex_unlock(&ov->lock);
	if (r.memory)
		trim(ov, now, r.memory > memory_before);
	return r.cgroup_share >= OFTEN ? LOOK_OFTEN_MS : r.memory_share >= SOON || r.level ? LOOK_SOON_MS : LOOK_MS;
}

static void wake(struct overload *ov)
{
	uint64_t one = 1;

	(void)!write(ov->wake, &one, sizeof(one));
}

static void *overload_thread(void *arg)
{
	struct daemon *d = arg;
	struct overload *ov = &d->overload;
	struct pollfd p = { .fd = ov->wake, .events = POLLIN };
	uint64_t n;

	while (!atomic_load(&ov->stopping)) {
		int wait = look(d);

		atomic_store(&ov->hurry, false); /* after the credit is new */
		if (poll(&p, 1, wait) <= 0)
			continue;
		(void)!read(ov->wake, &n, sizeof(n));
		if (!atomic_load(&ov->stopping))
			(void)poll(NULL, 0, LOOK_LEAST_MS); /* a flood asks for it all the time */
	}
	return NULL;
}

/* ---- life ---- */

int overload_init(struct daemon *d)
{
	struct overload *ov = &d->overload;

	pthread_mutex_init(&ov->lock, NULL);
	ov->memcg = (struct memcg){ .events = -1, .pressure = -1 };
	atomic_store(&ov->credit, INT64_MAX);
	ov->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	ov->workers = aligned_alloc(64, d->n_workers * sizeof(*ov->workers));
	if (!ov->workers)
		return -ENOMEM;
	memset(ov->workers, 0, d->n_workers * sizeof(*ov->workers));
	for (uint32_t i = 0; i < d->n_workers; i++)
		ov->workers[i].schedstat = -1;
	overload_configure(d, d->cfg);
	ov->row.enabled = d->cfg->overload.enabled;
	look_at_memory(ov, d, &d->cfg->overload, &ov->row, now_ms()); /* known before the first connection */
	return ov->wake < 0 ? -errno : 0;
}

void overload_configure(struct daemon *d, const struct config *cfg)
{
	struct overload *ov = &d->overload;

	pthread_mutex_lock(&ov->lock);
	ov->cfg = cfg->overload;
	ov->memory = cfg->limits.memory;
	pthread_mutex_unlock(&ov->lock);
}

int overload_start(struct daemon *d)
{
	struct overload *ov = &d->overload;
	pthread_attr_t attr;
	sigset_t all, old;
	int r;

	sigfillset(&all); /* signals are the main thread's */
	pthread_sigmask(SIG_SETMASK, &all, &old);
	pthread_attr_init(&attr);
	(void)pthread_attr_setstacksize(&attr, STACK);
	r = pthread_create(&ov->thread, &attr, overload_thread, d);
	pthread_attr_destroy(&attr);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	ov->started = true;
	pthread_setname_np(ov->thread, "overload");
	return 0;
}

void overload_stop(struct daemon *d)
{
	struct overload *ov = &d->overload;
	if (!ov->started)
		return;
	atomic_store(&ov->stopping, true);
	wake(ov);
	pthread_join(ov->thread, NULL);
	ov->started = false;
}

void overload_finish(struct daemon *d)
{
	struct overload *ov = &d->overload;

	if (!ov->workers)
		return;
	for (uint32_t i = 0; i < d->n_workers; i++)
		if (ov->workers[i].schedstat >= 0)
			close(ov->workers[i].schedstat);
	memcg_close(&ov->memcg);
	if (ov->wake >= 0)
		close(ov->wake);
	free(TAKE(ov->workers));
	pthread_mutex_destroy(&ov->lock);
}

bool overload_admit(struct daemon *d, int64_t cost)
{
	struct overload *ov = &d->overload;
	int64_t left = atomic_load_explicit(&ov->credit, memory_order_relaxed);

	if (left == INT64_MAX)
		return true;
	left = atomic_fetch_sub_explicit(&ov->credit, cost, memory_order_relaxed);
	if (left < HURRY_BYTES && !atomic_exchange(&ov->hurry, true))
		wake(ov); /* what they cost was estimated: it may be less */
	return left >= cost;
}

void inspect_overload(struct daemon *d, struct overload_row *ret)
{
	pthread_mutex_lock(&d->overload.lock);
	*ret = d->overload.row;
	pthread_mutex_unlock(&d->overload.lock);
}
