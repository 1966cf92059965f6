/*
 * Access log, the log thread. Workers never wake it: it looks into their rings by itself, asleep in between, so that a
 * connection's end costs a worker no system call. The time between two looks is 50 ms; while rings fill faster than a quarter
 * per look it is halved (down to 1 ms), and doubled again when they run nearly empty.
 *
 * Lines gather in one 64 KiB block that goes out with one write(2) (O_APPEND: several writers may share a file, rotation by
 * copy-and-truncate works), at the latest when the rings have been seen empty.
 *
 * A disk that is full or a reader that went away must not stop the daemon: the lines are counted as lost, one log line per
 * ten seconds says so, and the next block is tried again. A pipe whose reader is slow is waited for, one second at the most;
 * the rings meanwhile drop and count. A line that was cut by an error is ended before the next one begins.
 */
#include "base/clean.h"
#include "base/log.h"
#include "base/stats.h"
#include "obs/access_format.h"
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <string.h>
#include <time.h>

#define WAIT_MAX_MS  50u
#define WAIT_MIN_MS  1u
#define TURN_RECORDS 1024u /* per ring and look, so that one busy worker does not hide the others */
#define STUCK_MS     1000  /* how long a slow reader is waited for */
#define COMPLAIN_MS  10000u

struct access_log {
	pthread_t thread;
	bool runs;
	struct access_ring **rings;
	uint32_t n_rings;
	char *path;
	bool owned; /* fd is ours to close: a file, not stdout */

	pthread_mutex_t lock; /* with wake: only to end a sleep early */
	pthread_cond_t wake;
	bool stop, reopen; /* under lock */

	_Atomic uint64_t written, lost; /* lines; the log thread writes */

	/* log thread only */
	struct access_format format;
	struct text line;
	char *batch; /* ACCESS_BATCH bytes */
	size_t batch_len;
	uint32_t wait_ms;
	int fd;
	bool torn;     /* the file ends in the middle of a line */
	bool stuck;    /* the last write timed out */
	bool stopping; /* copy of stop */
	struct log_rate complain;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

/* O_NONBLOCK is for FIFOs (no reader: ENXIO instead of hanging); files do not care. Return: descriptor or -errno. */
static int log_open(const char *path, bool *ret_owned)
{
	int fd;

	*ret_owned = false;
	if (!strcmp(path, "stdout"))
		return STDOUT_FILENO;
	if (!strcmp(path, "stderr"))
		return STDERR_FILENO;
	*ret_owned = true;
	fd = open(path, O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC | O_NOCTTY | O_NONBLOCK, 0640);
	return fd < 0 ? -errno : fd;
}

static void log_reopen(struct access_log *l)
{
	bool owned;
	int fd = log_open(l->path, &owned);

	if (fd < 0) {
		log_err(LA_MAIN, "access log: cannot reopen %s: %s; still writing to the old file", l->path,
			strerror(-fd));
		return;
	}
	if (l->owned)
		close(l->fd);
	l->fd = fd;
	l->owned = owned;
	l->torn = false;
	log_info(LA_MAIN, "access log: reopened %s", l->path);
}

/* ---- writing ---- */

static uint64_t count_lines(const char *p, size_t n)
{
	uint64_t lines = 0;

	for (const char *end = p + n; p < end && (p = memchr(p, '\n', (size_t)(end - p))); p++)
		lines++;
	return lines;
}

/* Return: true when the descriptor took all; else *ret_off bytes went out and *ret_err says why no more did. */
static bool write_all(struct access_log *l, const char *p, size_t n, size_t *ret_off, int *ret_err)
{
	size_t off = 0;

	while (off < n) {
		ssize_t w = write(l->fd, p + off, n - off);

		if (w > 0) {
			off += (size_t)w;
			continue;
		}
		if (w < 0 && errno == EINTR)
			continue;
		if (w < 0 && errno == EAGAIN) {
			struct pollfd pfd = {.fd = l->fd, .events = POLLOUT};

			/* once found stuck it is not waited for again until it takes bytes */
			if (poll(&pfd, 1, l->stuck || l->stopping ? 0 : STUCK_MS) > 0 && (pfd.revents & POLLOUT))
				continue;
			l->stuck = true;
			*ret_err = ETIMEDOUT;
		} else {
			*ret_err = w < 0 ? errno : EIO;
		}
		*ret_off = off;
		return false;
	}
	l->stuck = false;
	*ret_off = off;
	return true;
}

static void log_out(struct access_log *l, const char *p, size_t n)
{
	uint64_t lines = count_lines(p, n), done;
	size_t off = 0;
	uint32_t held;
	int e = 0;

	if (n == 0)
		return;
	if (l->torn && write_all(l, "\n", 1, &off, &e))
		l->torn = false;
	if (!l->torn && write_all(l, p, n, &off, &e)) {
		stats_bump(&l->written, lines);
		return;
	}
	if (l->torn)
		off = 0;
	else
		l->torn = off > 0 && p[off - 1] != '\n';
	done = count_lines(p, off);
	stats_bump(&l->written, done);
	stats_bump(&l->lost, lines - done);
	if (log_rate_ok(&l->complain, now_ms(), COMPLAIN_MS, &held))
		log_err(LA_MAIN, "access log: cannot write %s: %s; %llu lines lost so far", l->path,
			e == ETIMEDOUT ? "its reader does not read" : strerror(e),
			(unsigned long long)atomic_load_explicit(&l->lost, memory_order_relaxed));
}

static void log_flush(struct access_log *l)
{
	log_out(l, l->batch, l->batch_len);
	l->batch_len = 0;
}

static void log_record(struct access_log *l, const void *rec)
{
	l->line.len = 0;
	access_format_line(&l->format, rec, &l->line);
	if (!text_ok(&l->line)) { /* out of memory: this line is lost, the next may not be */
		text_finish(&l->line);
		l->line = (struct text){0};
		stats_bump(&l->lost, 1);
		return;
	}
	if (l->batch_len + l->line.len > ACCESS_BATCH)
		log_flush(l);
	if (l->line.len > ACCESS_BATCH) {
		log_out(l, l->line.s, l->line.len);
		return;
	}
	memcpy(l->batch + l->batch_len, l->line.s, l->line.len);
	l->batch_len += l->line.len;
}

/* ---- the thread ---- */

/* One look into every ring. Return: false when a ring may hold more. */
static bool log_turn(struct access_log *l, uint64_t *ret_fill)
{
	bool empty = true;

	*ret_fill = 0;
	for (uint32_t i = 0; i < l->n_rings; i++) {
		struct bytering *r = &l->rings[i]->ring;
		const void *rec;
		uint32_t len, n = 0;

		*ret_fill = max_u64(*ret_fill, bytering_used(r) * 100 / r->size);
		while (n < TURN_RECORDS && (rec = bytering_peek(r, &len))) {
			log_record(l, rec);
			bytering_release(r);
			n++;
		}
		if (n == TURN_RECORDS)
			empty = false;
	}
	return empty;
}

static void log_drain(struct access_log *l)
{
	uint64_t fill, worst = 0;

	while (!log_turn(l, &fill))
		worst = max_u64(worst, fill);
	worst = max_u64(worst, fill);
	log_flush(l);
	if (worst > 25)
		l->wait_ms = (uint32_t)max_u64(l->wait_ms / 2, WAIT_MIN_MS);
	else if (worst < 6)
		l->wait_ms = (uint32_t)min_u64(l->wait_ms * 2, WAIT_MAX_MS);
}

/* Sleeps until the next look is due, or less if somebody wants something. */
static void log_sleep(struct access_log *l, bool *ret_reopen)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	ts.tv_nsec += (long)l->wait_ms * 1000000;
	ts.tv_sec += ts.tv_nsec / 1000000000;
	ts.tv_nsec %= 1000000000;
	pthread_mutex_lock(&l->lock);
	while (!l->stop && !l->reopen && pthread_cond_timedwait(&l->wake, &l->lock, &ts) == 0)
		;
	l->stopping = l->stop;
	*ret_reopen = l->reopen;
	l->reopen = false;
	pthread_mutex_unlock(&l->lock);
}

static void *log_thread(void *arg)
{
	struct access_log *l = arg;
	bool reopen;

	while (!l->stopping) {
		log_sleep(l, &reopen);
		log_drain(l);
		if (reopen)
			log_reopen(l);
	}
	return NULL;
}

static void log_free(struct access_log *l)
{
	if (!l)
		return;
	if (l->owned && l->fd >= 0)
		close(l->fd);
	access_format_finish(&l->format);
	text_finish(&l->line);
	free(l->batch);
	free(l->path);
	free(l->rings);
	pthread_cond_destroy(&l->wake);
	pthread_mutex_destroy(&l->lock);
	free(l);
}

/* Signals are the main thread's; SIGPIPE blocked here makes a lost reader EPIPE. Return: 0 or -errno. */
static int log_spawn(struct access_log *l)
{
	sigset_t all, old;
	int r;

	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	r = pthread_create(&l->thread, NULL, log_thread, l);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (r)
		return -r;
	l->runs = true;
	pthread_setname_np(l->thread, "adit-access");
	return 0;
}

int access_log_start(struct access_log **ret, const struct cfg_access_log *cfg, const struct cfg_node *node,
		     struct access_ring **rings, uint32_t n_rings, struct err *reterr)
{
	int r = access_log_open(ret, cfg, node, rings, n_rings, reterr);

	if (r < 0 || !*ret)
		return r;
	r = access_log_run(*ret);
	if (r < 0) {
		access_log_stop(TAKE(*ret));
		return err_set(reterr, r, "access log: cannot start the thread: %s", strerror(-r));
	}
	return 0;
}

int access_log_run(struct access_log *l)
{
	return log_spawn(l);
}

int access_log_open(struct access_log **ret, const struct cfg_access_log *cfg, const struct cfg_node *node, struct access_ring **rings,
		    uint32_t n_rings, struct err *reterr)
{
	struct access_log *l;
	pthread_condattr_t ca;
	int r;

	if (!cfg->enabled) {
		*ret = NULL;
		return 0;
	}
	l = calloc(1, sizeof(*l));
	if (!l)
		return err_set(reterr, -ENOMEM, "access log: out of memory");
	pthread_mutex_init(&l->lock, NULL);
	pthread_condattr_init(&ca);
	pthread_condattr_setclock(&ca, CLOCK_MONOTONIC);
	pthread_cond_init(&l->wake, &ca);
	pthread_condattr_destroy(&ca);
	l->fd = -1;
	l->wait_ms = WAIT_MAX_MS;
	r = access_format_init(&l->format, cfg, node, reterr);
	if (r < 0)
		goto fail;
	l->path = strdup(cfg->path);
	l->batch = malloc(ACCESS_BATCH);
	l->rings = calloc(n_rings + 1, sizeof(*l->rings));
	if (!l->path || !l->batch || !l->rings) {
		r = err_set(reterr, -ENOMEM, "access log: out of memory");
		goto fail;
	}
	for (uint32_t i = 0; i < n_rings; i++)
		l->rings[i] = rings[i];
	l->n_rings = n_rings;
	l->fd = r = log_open(l->path, &l->owned);
	if (r < 0) {
		err_set(reterr, r, "access log: cannot open %s: %s", l->path, strerror(-r));
		goto fail;
	}
	*ret = l;
	return 0;
fail:
	log_free(l);
	return r;
}

static void log_poke(struct access_log *l, bool *flag)
{
	pthread_mutex_lock(&l->lock);
	*flag = true;
	pthread_cond_signal(&l->wake);
	pthread_mutex_unlock(&l->lock);
}

void access_log_reopen(struct access_log *l)
{
	if (l)
		log_poke(l, &l->reopen);
}

void access_log_stop(struct access_log *l)
{
	if (!l)
		return;
	if (l->runs) {
		log_poke(l, &l->stop);
		pthread_join(l->thread, NULL);
	}
	log_free(l);
}

uint64_t access_log_written(const struct access_log *l)
{
	return l ? atomic_load_explicit(&l->written, memory_order_relaxed) : 0;
}

uint64_t access_log_lost(const struct access_log *l)
{
	return l ? atomic_load_explicit(&l->lost, memory_order_relaxed) : 0;
}
