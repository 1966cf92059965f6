/*
 * The order matters. Whoever sends connections here learns from readiness, capture and steering that it should not, and needs time for
 * it: that is the quiet period, in which nothing else changes. Only then do listeners stop, which the workers do (worker_drain()). How far
 * it is goes to the service manager once a second, with the time that we still need, so that a drain which is longer than TimeoutStopSec=
 * is not cut off by it.
 */
#include "control/drain.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "control/notify.h"
#include <time.h>

#define TELL_MS	  1000u
#define MARGIN_MS 10000u /* for the end itself */

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

void drain_init(struct drain *dr, struct daemon *d, const struct notify *n)
{
	*dr = (struct drain){.d = d, .notify = n};
}

static void closing(struct drain *dr)
{
	dr->step = DRAIN_CLOSING;
	log_info(LA_MAIN, "draining: no new connections; %u are left and have %llu ms", atomic_load(&dr->d->connections),
		 (unsigned long long)dr->within_ms);
	daemon_drain(dr->d, dr->within_ms, dr->jitter_ms);
}

void drain_begin(struct drain *dr, uint64_t within_ms, bool quiet)
{
	const struct config *cfg = dr->d->cfg;

	if (dr->step != DRAIN_NOT)
		return;
	dr->within_ms = within_ms;
	/* a shorter time than configured: the jitter keeps its part of it */
	dr->jitter_ms = cfg->timeouts.drain_ms ? (uint64_t)((double)cfg->drain.jitter_ms / (double)cfg->timeouts.drain_ms * (double)within_ms) : 0;
	dr->began = atomic_load(&dr->d->connections);
	dr->quiet_end_ms = now_ms() + (quiet ? cfg->drain.quiet_ms : 0);
	atomic_store(&dr->d->health.began, dr->began);
	atomic_store(&dr->d->health.deadline_ms, dr->quiet_end_ms + within_ms);
	health_phase_set(&dr->d->health, HEALTH_QUIET);
	notify_stopping(dr->notify);
	dr->step = DRAIN_QUIET;
	if (dr->quiet_end_ms > now_ms())
		log_info(LA_MAIN, "draining: not ready any more; new connections are taken for another %llu ms",
			 (unsigned long long)cfg->drain.quiet_ms);
	(void)drain_tick(dr);
}

static void tell(struct drain *dr, uint64_t now)
{
	uint64_t end = dr->quiet_end_ms + dr->within_ms, left = end > now ? end - now : 0;

	if (dr->told_ms && now - dr->told_ms < TELL_MS)
		return;
	dr->told_ms = now;
	notify_extend(dr->notify, left + MARGIN_MS);
	notify_status(dr->notify, "draining%s: %u of %llu connections left, %llu s to the deadline", dr->step == DRAIN_QUIET ? ", quiet" : "",
		      atomic_load(&dr->d->connections), (unsigned long long)dr->began, (unsigned long long)(left + 999) / 1000);
}

uint64_t drain_tick(struct drain *dr)
{
	uint64_t now = now_ms();

	if (dr->step == DRAIN_NOT)
		return TELL_MS;
	if (dr->step == DRAIN_QUIET && now >= dr->quiet_end_ms)
		closing(dr);
	tell(dr, now);
	return dr->step == DRAIN_QUIET ? min_u64(dr->quiet_end_ms - now, TELL_MS) : TELL_MS;
}
