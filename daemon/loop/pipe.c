/*
 * The pool of pipes.
 *
 * A pipe is a ring of references to pages; its size says how many, not how much memory it has: bytes on their way stay in the pages
 * in which the sending side put them. On loopback one reference is up to 32 KiB, from a network card often one packet, so a
 * large ring is what makes a large splice. Users without CAP_SYS_RESOURCE may have fs.pipe-user-pages-soft pages in all
 * their pipes together (16384: 64 pipes of 1 MiB), and beyond that get pipes of two pages, which are no use here.
 *
 * Pipes are closed when they were not needed for a second. One that is not empty is closed at once: its bytes belong to a connection
 * that is over.
 */
#include "loop/pipe.h"
#include "base/clean.h"
#include "loop/loop.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>

#define PIPES_MAX 256u		  /* per loop: bounds descriptors, not speed */
#define PIPE_SIZE (1u << 20)	  /* fs.pipe-max-size by default */
#define PIPE_SIZE_MIN (64u << 10) /* the kernel's default; smaller is worse than copying */
#define TRIM_MS 1000u
#define AGAIN_MS 1000u

void pipes_init(struct pipes *ps)
{
	unsigned int max = PIPE_SIZE;
	FILE *f = fopen("/proc/sys/fs/pipe-max-size", "re");

	if (f && fscanf(f, "%u", &max) != 1)
		max = PIPE_SIZE;
	if (f)
		fclose(f);
	*ps = (struct pipes){ .size = (uint32_t)min_u64(max, PIPE_SIZE) };
	SLIST_INIT(&ps->idle);
}

static void pipe_close(struct pipes *ps, struct pipe *p)
{
	close(p->r);
	close(p->w);
	free(p);
	ps->made--;
}

void pipes_spare(struct loop *l)
{
	struct pipes *ps = &l->pipes;
	struct pipe *p;

	timer_disarm(&l->timers, &ps->trim);
	while ((p = SLIST_FIRST(&ps->idle))) {
		SLIST_REMOVE_HEAD(&ps->idle, link);
		pipe_close(ps, p);
	}
	ps->n_idle = ps->least = 0;
}

void pipes_finish(struct loop *l)
{
	pipes_spare(l);
}

/* as large as the kernel lets us; what it refuses once is not asked for again */
static bool pipe_enlarge(struct pipes *ps, int fd)
{
	for (; ps->size > PIPE_SIZE_MIN; ps->size /= 2)
		if (fcntl(fd, F_SETPIPE_SZ, (int)ps->size) >= 0)
			return true;
	return fcntl(fd, F_GETPIPE_SZ) >= (int)PIPE_SIZE_MIN;
}

static struct pipe *pipe_new(struct loop *l)
{
	struct pipes *ps = &l->pipes;
	struct pipe *p = NULL;
	AUTO_FD r = -1;
	AUTO_FD w = -1;
	int fd[2];

	if (ps->made >= PIPES_MAX || l->now_ms < ps->again_ms)
		return NULL;
	stats_add(&l->stats, ST_SYS_OTHER, 2);
	if (!pipe2(fd, O_NONBLOCK | O_CLOEXEC)) {
		r = fd[0];
		w = fd[1];
		if ((!ps->scarce || (!ps->scarce(r) && !ps->scarce(w))) && pipe_enlarge(ps, w))
			p = malloc(sizeof(*p));
	}
	if (!p) {
		ps->again_ms = l->now_ms + AGAIN_MS;
		ps->size = ps->size > PIPE_SIZE_MIN ? ps->size : 2 * PIPE_SIZE_MIN; /* others may have left by then */
		return NULL;
	}
	*p = (struct pipe){ .r = fd_take(&r), .w = fd_take(&w) };
	ps->made++;
	return p;
}

struct pipe *pipe_get(struct loop *l)
{
	struct pipes *ps = &l->pipes;
	struct pipe *p = SLIST_FIRST(&ps->idle);

	if (!p)
		return pipe_new(l);
	SLIST_REMOVE_HEAD(&ps->idle, link);
	if (--ps->n_idle < ps->least)
		ps->least = ps->n_idle;
	return p;
}

static void trim(struct timer *t, void *arg)
{
	struct loop *l = arg;
	struct pipes *ps = &l->pipes;
	struct pipe *p;

	for (; ps->least && (p = SLIST_FIRST(&ps->idle)); ps->least--) {
		SLIST_REMOVE_HEAD(&ps->idle, link);
		ps->n_idle--;
		pipe_close(ps, p);
	}
	ps->least = ps->n_idle;
	if (ps->n_idle)
		timer_arm(&l->timers, t, l->now_ms + TRIM_MS);
}

void pipe_put(struct loop *l, struct pipe *p)
{
	struct pipes *ps = &l->pipes;

	if (!p)
		return;
	if (p->len) {
		stats_gauge(&l->stats, SG_BUFFERED, -(int64_t)p->len);
		pipe_close(ps, p);
		return;
	}
	SLIST_INSERT_HEAD(&ps->idle, p, link);
	ps->n_idle++;
	if (!timer_armed(&ps->trim)) {
		ps->trim.fire = trim;
		ps->trim.arg = l;
		ps->least = 0;
		timer_arm(&l->timers, &ps->trim, l->now_ms + TRIM_MS);
	}
}

ssize_t pipe_fill(struct loop *l, struct pipe *p, int fd, size_t max)
{
	ssize_t n = splice(fd, NULL, p->w, NULL, max, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	stats_inc(&l->stats, ST_SYS_SPLICE);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	p->len += (uint32_t)n;
	stats_gauge(&l->stats, SG_BUFFERED, n);
	return n;
}

ssize_t pipe_drain(struct loop *l, struct pipe *p, int fd)
{
	/* exactly what is in it: asked for more, the kernel would hold back the last segment (MSG_MORE) */
	ssize_t n = splice(p->r, NULL, fd, NULL, p->len, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);

	stats_inc(&l->stats, ST_SYS_SPLICE);
	if (n < 0)
		return errno == EINTR ? -EAGAIN : -errno;
	p->len -= (uint32_t)n;
	stats_gauge(&l->stats, SG_BUFFERED, -n);
	stats_add(&l->stats, ST_SPLICED_BYTES, (uint64_t)n);
	return n;
}
