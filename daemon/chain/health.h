/*
 * Is the daemon well? Ready and live as load balancers and service managers ask, and the watchdog that looks at every worker's loop.
 *
 * The main thread says in which phase the daemon is; one other thread (admin/health.c) calls health_watch() and answers. What both
 * touch is atomic. That thread also reads the workers' tables for /metrics: it may while it holds `look`, which the main thread holds
 * whenever it is not waiting for events or building a configuration (health_hold(), health_release()).
 */
#pragma once
#include "chain/inspect.h"
#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

struct daemon;

/* what a daemon that starts waits for; bits */
enum health_waits { HEALTH_WAIT_WORKERS = 1, HEALTH_WAIT_HANDOVER = 2 };

/* one loop, as the watching thread sees it */
struct health_beat {
	uint64_t seen, since_ms; /* the number of turns, and when it changed last */
	_Atomic bool stuck;
};

struct health {
	pthread_mutex_t look;
	_Atomic uint32_t phase;	      /* enum health_phase */
	_Atomic uint32_t waits;	      /* while starting: enum health_waits */
	_Atomic uint64_t began;	      /* connections when the drain began */
	_Atomic uint64_t deadline_ms; /* of the drain, CLOCK_MONOTONIC */
	_Atomic uint64_t limit_ms;    /* cfg.watchdog_ms */
	_Atomic uint64_t main_beat;   /* turns of the main loop */
	_Atomic uint32_t stuck;	      /* workers that do not turn now */
	_Atomic uint32_t stuck_main;  /* 1: nor does the main thread */
	_Atomic uint64_t stuck_total; /* times that a loop was found stuck */
	/* the watching thread's own */
	struct health_beat *beat; /* n_workers, then the main thread */
	uint64_t watched_ms;
};

/** health_thread_begins() - in a worker's thread: it answers when it is asked where it is */
void health_thread_begins(void);
int health_init(struct daemon *d);
void health_finish(struct daemon *d);
void health_phase_set(struct health *h, enum health_phase p);
/** health_hold() - the main thread works: nobody else may read what it changes. Not recursive. */
void health_hold(struct health *h);
void health_release(struct health *h);
/** health_try() - for the other thread: wait for @ms at most. Return: true: held, health_release() it. */
bool health_try(struct health *h, uint64_t ms);
/** health_main_beat() - the main thread's loop has turned */
static inline void health_main_beat(struct health *h)
{
	atomic_fetch_add_explicit(&h->main_beat, 1, memory_order_relaxed);
}
/**
 * health_watch() - look whether all loops turn, wake those that sleep; the watching thread calls it every health_tick_ms()
 * Return: true when all of them do.
 */
bool health_watch(struct daemon *d);
uint64_t health_tick_ms(const struct health *h);
