/*
 * Pipes for splice(2): payload goes from socket to pipe to socket by reference and never enters user space. One pool per loop:
 * who moves bulk takes a pipe, and gives it back as soon as it is empty, so that what is idle owns none.
 *
 * Worker thread only. What a pipe holds counts as buffered (SG_BUFFERED). Sockets must be O_NONBLOCK; SIGPIPE must be blocked or
 * ignored: splice() has no MSG_NOSIGNAL.
 */
#pragma once
#include "base/timer.h"
#include <stddef.h>
#include <sys/queue.h>
#include <sys/types.h>

struct loop;

struct pipe {
	SLIST_ENTRY(pipe) link; /* while in the pool */
	int r, w;
	uint32_t len;		/* bytes in it */
};

/** struct pipes - a loop's pool */
struct pipes {
	SLIST_HEAD(, pipe) idle;
	uint32_t made, n_idle;
	uint32_t least;		  /* of n_idle since the last look: so many were not needed */
	uint32_t size;		  /* bytes asked for; less where the kernel refuses that much */
	uint64_t again_ms;	  /* none was to be had: not tried before */
	struct timer trim;
	bool (*scarce)(int fd);	  /* are descriptors as high as @fd kept for something else? NULL: no */
};

void pipes_init(struct pipes *ps);
void pipes_finish(struct loop *l); /* all must have been put back; accepts zeroed memory */

/** pipe_get() - an empty pipe; NULL when there is none to be had: go without */
struct pipe *pipe_get(struct loop *l);
/** pipes_spare() - close those that nobody uses */
void pipes_spare(struct loop *l);
/** pipe_put() - NULL is fine. What is still in it is thrown away. */
void pipe_put(struct loop *l, struct pipe *p);
/**
 * pipe_fill() - from socket @fd into @p, at most @max bytes
 * A short count does not say that the socket is empty: -EAGAIN does, if the pipe is (else that may be full).
 * Return: bytes, 0 at the end (FIN), or -errno as of recv().
 */
ssize_t pipe_fill(struct loop *l, struct pipe *p, int fd, size_t max);
/**
 * pipe_drain() - all that is in @p to socket @fd. If not all of it went, the socket is full and an edge follows.
 * Return: bytes (counted in ST_SPLICED_BYTES), -EAGAIN, or -errno as of send().
 */
ssize_t pipe_drain(struct loop *l, struct pipe *p, int fd);
