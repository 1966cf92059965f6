/*
 * One worker's event loop: thread-local time, edge-triggered epoll, timers, tasks deferred to the end of a turn, and orders from
 * the main thread. A loop and all that hangs on it belong to one thread; the only thing another thread may call is
 * loop_post().
 *
 * Every descriptor is registered once with EPOLLIN|EPOLLPRI|EPOLLOUT|EPOLLRDHUP|EPOLLET and never modified: owners keep `readable` and
 * `writable` as state and clear them on a short read or EAGAIN (epoll(7), "Possible pitfalls"). So a message costs no
 * epoll_ctl(), and what is waited for is what the owner's state says.
 */
#pragma once
#include "base/hist.h"
#include "base/log.h"
#include "base/ring.h"
#include "base/stats.h"
#include "base/timer.h"
#include "loop/pipe.h"
#include "loop/trace.h"
#include "model/config.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/epoll.h>
#include <sys/queue.h>

#define LOOP_EVENTS 256 /* taken per epoll_wait */

enum ev_kind {
	EV_WAKE,     /* the loop's own eventfd */
	EV_LISTENER, /* idx: listener */
	EV_CONN,     /* idx + gen: connection slot; side */
	EV_TUNNEL,   /* idx + gen: tunnel slot */
	EV_DNS,	     /* idx: the resolver's descriptor */
};

/* how short something is, and what is done about it: each with all before it (chain/shed.c) */
enum pressure { PRESSURE_NONE, PRESSURE_SHRINK, PRESSURE_CLOSE_IDLE, PRESSURE_REFUSE, PRESSURE_PAUSE };
enum pressure_of { PRESSURE_MEMORY, PRESSURE_DESCRIPTORS, PRESSURE_CPU };
static inline uint32_t pressure_pack(uint32_t memory, uint32_t descriptors, uint32_t cpu)
{
	return memory << 4 * PRESSURE_MEMORY | descriptors << 4 * PRESSURE_DESCRIPTORS | cpu << 4 * PRESSURE_CPU;
}
static inline uint32_t pressure_of(uint32_t packed, enum pressure_of what)
{
	return packed >> 4 * what & 15;
}

/* what a loop is doing: an ev_kind, whose event is being handled, or one of these */
enum loop_doing { LOOP_WAITS = 16, LOOP_TIMERS, LOOP_TASKS, LOOP_ENDED };
/** loop_doing_str() - of an ev_kind or a loop_doing, for people */
const char *loop_doing_str(uint8_t what);

/* what epoll carries: a checked reference, not a pointer */
union ev_ref {
	struct {
		uint8_t kind, side;
		uint16_t gen; /* must equal the slot's generation, else the event is stale and dropped */
		uint32_t idx;
	};
	uint64_t u64;
};
_Static_assert(sizeof(union ev_ref) == sizeof(uint64_t), "must fit epoll data");

/** struct task - something to do once at the end of this turn (or of the next, when queued by another task) */
struct task {
	TAILQ_ENTRY(task) link;
	void (*run)(struct task *t);
	bool queued;
};
TAILQ_HEAD(task_list, task);

/** struct order - a piece of work of the main thread that runs on the worker; owned by the poster until done */
struct order {
	void (*run)(struct order *o, void *owner /* loop.owner */);
};

enum loop_hist { LH_OPEN_US, LH_QUEUE_US, LH_HANDSHAKE_US, LH_CONNECT_US, LOOP_HISTS };

/* buffers that every connection of the worker shares: they are hot in the cache, and idle connections own none */
#define SCRATCH_PLAIN (8u * 16384u)	     /* frames on their way out, before encryption */
#define SCRATCH_IN (8u * (16384u + 22u) + 17000u) /* one recv() of a tunnel, after what was left of the last */
#define SCRATCH_OUT (SCRATCH_PLAIN + 64u * 22u + 1024u)
struct scratch {
	uint8_t *in, *plain, *out;
};

struct loop {
	int epfd, wakefd;
	uint32_t worker;	  /* index */
	bool stop;
	uint64_t now_us, now_ms;  /* CLOCK_MONOTONIC, read once per turn */
	uint64_t real_offset_us;  /* CLOCK_REALTIME - CLOCK_MONOTONIC */
	const struct config *cfg; /* the snapshot of this turn */
	struct timers timers;
	struct task_list tasks;
	uint32_t n_tasks;
	struct ring inbox;	  /* orders: main thread -> worker */
	struct scratch scratch;
	struct pipes pipes;
	uint64_t rnd[4];	  /* xoshiro256**; never for keys */
	void *owner;
	void (*dispatch)(void *owner, union ev_ref ref, uint32_t events);
	const _Atomic uint32_t *pressure; /* published by another thread, see pressure_pack(); NULL: by nobody */
	uint32_t pressure_now;	  /* as read at the beginning of the turn */
	void (*pressed)(void *owner); /* pressure_now has changed */
	_Atomic uint64_t beat;	  /* turns begun; others read it to see that the loop goes round */
	_Atomic uint8_t doing;	  /* enum ev_kind or enum loop_doing */
	_Atomic int tid;	  /* of the thread; 0: it has not begun */
	struct stats stats;
	struct hist hist[LOOP_HISTS];
	uint8_t tracing;	  /* mask of the live traces; 0: nobody looks */
	struct tracer *tracer;	  /* of the main thread's making; NULL: nobody has ever looked */
	struct log_rates logs;	  /* of lines that others can provoke: log_kind() */
};

int loop_init(struct loop *l, uint32_t worker, const struct config *cfg, void *owner,
	      void (*dispatch)(void *owner, union ev_ref ref, uint32_t events));
void loop_finish(struct loop *l);
/** loop_run() - until loop.stop; in the worker's thread */
void loop_run(struct loop *l);
/** loop_turn() - one turn; @max_wait_ms bounds the wait (-1: none). For loop_run() and tests. */
void loop_turn(struct loop *l, int max_wait_ms);
/** loop_watch() - register a descriptor; leaves epoll when it is closed. Return: 0 or -errno. */
int loop_watch(struct loop *l, int fd, union ev_ref ref);
/** loop_watch_level() - level-triggered with a mask, for listeners and the resolver; mask 0 removes. */
int loop_watch_level(struct loop *l, int fd, union ev_ref ref, uint32_t mask);
void loop_defer(struct loop *l, struct task *t);
void loop_defer_cancel(struct loop *l, struct task *t);
/** loop_post() - any one posting thread; Return: false when the inbox is full (try again later). */
bool loop_post(struct loop *l, struct order *o);
/** loop_nudge() - any thread: take one turn, even if there is nothing to do */
void loop_nudge(struct loop *l);
uint64_t loop_random(struct loop *l);
