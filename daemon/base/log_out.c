/*
 * Where log lines go, without ever waiting for whoever reads them.
 *
 * A pipe that nobody empties, a terminal that is stopped with ^S, a journal that is busy: write(2) would wait, and the worker with it. So:
 *   pipe, terminal	opened once more by /proc/self/fd with O_NONBLOCK: the flag belongs to the open file, and the one we inherited
 *			is shared with whoever started us
 *   socket		MSG_DONTWAIT
 *   file		as it is: nobody has to read it (a file system that hangs is another matter)
 * and if the pipe cannot be opened again (another user's), it is asked first whether it has room for a line (poll(2); pipe(7)).
 * What the target does not take at once waits in a queue of 256 KiB, in order; when that is full, lines are lost and counted,
 * and the count is logged as soon as something is taken again. Lines of several threads queue up at a lock that is held for one such write.
 *
 * Before log_never_wait() (start, tools, tests) it is one plain write(2) per line.
 *
 * The journal is spoken to in its own protocol, a datagram of FIELD=value lines, so that priority, area and connection can be searched
 * for. It is addressed anew each time: it may be restarted. A datagram that it has no room for is lost and counted.
 */
#include "base/log_int.h"
#include "base/clean.h"
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define QUEUE_MAX (256u * 1024u)
#ifndef JOURNAL_SOCKET /* tests have another */
#define JOURNAL_SOCKET "/run/systemd/journal/socket"
#endif

enum how { HOW_PLAIN, HOW_NONBLOCK, HOW_SEND, HOW_POLL };

static struct {
	pthread_mutex_t lock;
	enum how how; /* written before threads start */
	int fd, own;  /* own: the same file, opened by us; -1: none */
	int journal;  /* datagram socket, -1: none */
	char *queue;
	size_t at, end;	       /* of the queue: what waits */
	uint64_t told;	       /* of dropped, how many were logged */
	_Atomic uint64_t dropped;
} o = { .lock = PTHREAD_MUTEX_INITIALIZER, .fd = STDERR_FILENO, .own = -1, .journal = -1 };

void log_out_init(int fd)
{
	if (o.own >= 0)
		close(o.own);
	if (o.journal >= 0)
		close(o.journal);
	free(TAKE(o.queue));
	o.how = HOW_PLAIN;
	o.fd = fd;
	o.own = o.journal = -1;
	o.at = o.end = 0;
	o.told = 0;
	atomic_store_explicit(&o.dropped, 0, memory_order_relaxed);
}

void log_never_wait(void)
{
	char path[32];
	struct stat st;

	if (o.how != HOW_PLAIN || fstat(o.fd, &st) < 0 || S_ISREG(st.st_mode))
		return;
	o.queue = malloc(QUEUE_MAX);
	if (!o.queue)
		return;
	if (S_ISSOCK(st.st_mode)) {
		o.how = HOW_SEND;
		return;
	}
	snprintf(path, sizeof(path), "/proc/self/fd/%d", o.fd);
	o.own = open(path, O_WRONLY | O_NONBLOCK | O_CLOEXEC | O_NOCTTY | O_APPEND);
	o.how = o.own >= 0 ? HOW_NONBLOCK : HOW_POLL;
}

bool log_journal_stream(int fd, const char *env)
{
	unsigned long long dev, ino;
	struct stat st;
	char end;

	return env && sscanf(env, "%llu:%llu%c", &dev, &ino, &end) == 2 && fstat(fd, &st) == 0 && st.st_dev == dev && st.st_ino == ino;
}

void log_journal(void)
{
	if (o.journal < 0)
		o.journal = socket(AF_UNIX, SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

static void lost(void)
{
	atomic_fetch_add_explicit(&o.dropped, 1, memory_order_relaxed);
}

uint64_t log_dropped(void)
{
	return atomic_load_explicit(&o.dropped, memory_order_relaxed);
}

bool log_out_journal(const char *fields, size_t n)
{
	static const struct sockaddr_un to = { .sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET };
	ssize_t r;

	if (o.journal < 0)
		return false;
	do
		r = sendto(o.journal, fields, n, MSG_DONTWAIT | MSG_NOSIGNAL, (const struct sockaddr *)&to, sizeof(to));
	while (r < 0 && errno == EINTR);
	if (r >= 0)
		return true;
	if (errno != EAGAIN && errno != ENOBUFS)
		return false;
	lost();
	return true;
}

/* Return: bytes that the target took, 0: none now; -1: it is gone, nothing will ever be taken */
static ssize_t target_write(const char *p, size_t n)
{
	struct pollfd room = { .fd = o.fd, .events = POLLOUT };
	ssize_t r = -1;

	do {
		switch (o.how) {
		case HOW_SEND:
			r = send(o.fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
			break;
		case HOW_POLL:
			if (poll(&room, 1, 0) < 1)
				return 0;
			r = write(o.fd, p, n < PIPE_BUF ? n : PIPE_BUF);
			break;
		case HOW_NONBLOCK:
			r = write(o.own, p, n);
			break;
		case HOW_PLAIN:
			r = write(o.fd, p, n);
			break;
		}
	} while (r < 0 && errno == EINTR);
	return r >= 0 ? r : errno == EAGAIN || errno == ENOBUFS ? 0 : -1;
}

/* a piece must not end within a line while another may come from elsewhere: pipes take PIPE_BUF bytes whole or not at all */
static void flush(void)
{
	while (o.at < o.end) {
		ssize_t r = target_write(o.queue + o.at, min_u64(o.end - o.at, PIPE_BUF));

		if (r == 0)
			return;
		o.at = r < 0 ? o.end : o.at + (size_t)r;
	}
	o.at = o.end = 0;
}

static void keep(const char *line, size_t n, bool whole)
{
	if (o.end + n > QUEUE_MAX && o.at) {
		memmove(o.queue, o.queue + o.at, o.end - o.at);
		o.end -= o.at;
		o.at = 0;
	}
	if (o.end + n > QUEUE_MAX) {
		if (whole)
			lost();
		return;
	}
	memcpy(o.queue + o.end, line, n);
	o.end += n;
}

static uint64_t news(void)
{
	uint64_t all = log_dropped(), n = o.at == o.end ? all - o.told : 0;

	o.told += n;
	return n;
}

uint64_t log_out(const char *line, size_t n)
{
	uint64_t told;
	ssize_t r;

	if (o.how == HOW_PLAIN) {
		while (write(o.fd, line, n) < 0 && errno == EINTR)
			;
		return 0;
	}
	pthread_mutex_lock(&o.lock);
	flush();
	r = o.at < o.end ? 0 : target_write(line, n);
	if (r >= 0 && (size_t)r < n)
		keep(line + r, n - (size_t)r, r == 0);
	told = news();
	pthread_mutex_unlock(&o.lock);
	return told;
}

uint64_t log_out_flush(void)
{
	uint64_t told;

	pthread_mutex_lock(&o.lock);
	if (o.queue)
		flush();
	told = news();
	pthread_mutex_unlock(&o.lock);
	return told;
}
