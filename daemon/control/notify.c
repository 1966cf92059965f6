/*
 * sd_notify(3) by itself: variables as lines in one datagram to the AF_UNIX socket that NOTIFY_SOCKET names ('@' in front: abstract),
 * descriptors with SCM_RIGHTS. The library would bring a dependency for this page of code.
 *
 * A manager that is slow must not stop the daemon: the socket does not block, what does not fit is lost. The next STATUS or
 * WATCHDOG comes soon; READY is worth waiting for and is tried again for a second.
 * Sources: sd_notify(3), sd_listen_fds(3), sd_watchdog_enabled(3), systemd.service(5).
 */
#include "control/notify.h"
#include "base/clean.h"
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LINE	    512
#define TRIES	    100 /* of 10 ms */
#define LISTEN_FROM 3	/* SD_LISTEN_FDS_START */
#define LISTEN_MOST 4096

static int number(const char *s, uint64_t *ret)
{
	char *end;

	if (!s || *s < '0' || *s > '9')
		return -EINVAL;
	errno = 0;
	*ret = strtoull(s, &end, 10);
	return errno || *end ? -EINVAL : 0;
}

/* is the watchdog meant for us? WATCHDOG_PID may name another, whose variables we inherited */
static uint64_t watchdog_ms(void)
{
	const char *pid = getenv("WATCHDOG_PID");
	uint64_t us = 0, who = 0;

	if (number(getenv("WATCHDOG_USEC"), &us) < 0 || us == 0)
		return 0;
	if (pid && (number(pid, &who) < 0 || who != (uint64_t)getpid()))
		return 0;
	return max_u64(us / 1000, 1);
}

int notify_open(struct notify *n, struct err *reterr)
{
	const char *path = getenv("NOTIFY_SOCKET");
	size_t len = path ? strlen(path) : 0;

	*n = (struct notify){.fd = -1, .to = {.sun_family = AF_UNIX}};
	if (!len)
		return 0;
	if ((path[0] != '/' && path[0] != '@') || len < 2 || len >= sizeof(n->to.sun_path))
		return err_set(reterr, -EINVAL, "NOTIFY_SOCKET '%.64s': want an absolute path of at most %zu bytes, or @name", path,
			       sizeof(n->to.sun_path) - 1);
	memcpy(n->to.sun_path, path, len);
	if (path[0] == '@')
		n->to.sun_path[0] = '\0'; /* unix(7): the name is what follows, without a NUL */
	n->to_len = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len + (path[0] != '@'));
	n->fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (n->fd < 0)
		return err_set(reterr, -errno, "NOTIFY_SOCKET: %s", strerror(errno));
	n->watchdog_ms = watchdog_ms();
	return 0;
}

void notify_close(struct notify *n)
{
	clean_fd(&n->fd);
	n->fd = -1;
}

static int send_with(const struct notify *n, const char *text, int fd, int tries)
{
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = (void *)text, .iov_len = strlen(text)};
	struct msghdr m = {.msg_name = (void *)&n->to, .msg_namelen = n->to_len, .msg_iov = &iov, .msg_iovlen = 1};

	if (n->fd < 0)
		return -ENOTCONN;
	if (fd >= 0) {
		memset(&control, 0, sizeof(control));
		m.msg_control = &control;
		m.msg_controllen = sizeof(control.room);
		control.h = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(sizeof(int))};
		memcpy(CMSG_DATA(&control.h), &fd, sizeof(fd));
	}
	for (int i = 0; i < tries; i++) {
		if (sendmsg(n->fd, &m, MSG_NOSIGNAL) >= 0)
			return 0;
		if (errno != EAGAIN && errno != EINTR && errno != ENOBUFS)
			break;
		(void)poll(NULL, 0, i + 1 < tries ? 10 : 0);
	}
	return -errno;
}

/* @status comes from us, but may hold names of the configuration: one line it stays */
static void one_line(char *s)
{
	for (; *s; s++)
		if (*s == '\n')
			*s = ' ';
}

void notify_ready(const struct notify *n, const char *status)
{
	char text[LINE], line[LINE - 32];

	snprintf(line, sizeof(line), "%s", status);
	one_line(line);
	snprintf(text, sizeof(text), "READY=1\nSTATUS=%s\n", line);
	(void)send_with(n, text, -1, TRIES);
}

void notify_reloading(const struct notify *n)
{
	struct timespec ts;
	char text[96];

	clock_gettime(CLOCK_MONOTONIC, &ts);
	snprintf(text, sizeof(text), "RELOADING=1\nMONOTONIC_USEC=%llu\n",
		 (unsigned long long)ts.tv_sec * 1000000 + (unsigned long long)ts.tv_nsec / 1000);
	(void)send_with(n, text, -1, TRIES);
}

void notify_stopping(const struct notify *n)
{
	(void)send_with(n, "STOPPING=1\n", -1, TRIES);
}

void notify_status(const struct notify *n, const char *fmt, ...)
{
	char text[LINE] = "STATUS=";
	va_list ap;

	if (n->fd < 0)
		return;
	va_start(ap, fmt);
	vsnprintf(text + 7, sizeof(text) - 7, fmt, ap);
	va_end(ap);
	one_line(text);
	(void)send_with(n, text, -1, 1);
}

void notify_watchdog(const struct notify *n)
{
	(void)send_with(n, "WATCHDOG=1\n", -1, 1);
}

void notify_extend(const struct notify *n, uint64_t ms)
{
	char text[64];

	snprintf(text, sizeof(text), "EXTEND_TIMEOUT_USEC=%llu\n", (unsigned long long)ms * 1000);
	(void)send_with(n, text, -1, 1);
}

void notify_main_pid(const struct notify *n, pid_t pid)
{
	char text[64];

	snprintf(text, sizeof(text), "MAINPID=%d\n", (int)pid);
	(void)send_with(n, text, -1, TRIES);
}

/* ---- the descriptor store ---- */

static bool name_fits(const char *name)
{
	size_t n = strlen(name);

	for (const char *p = name; *p; p++)
		if (*p < 0x20 || *p == 0x7f || *p == ':')
			return false;
	return n > 0 && n <= ADOPT_NAME - 1;
}

int notify_store(const struct notify *n, int fd, const char *name)
{
	char text[ADOPT_NAME + 32];

	if (!name_fits(name))
		return -EINVAL;
	snprintf(text, sizeof(text), "FDSTORE=1\nFDNAME=%s\n", name);
	return send_with(n, text, fd, TRIES);
}

void notify_store_remove(const struct notify *n, const char *name)
{
	char text[ADOPT_NAME + 32];

	if (!name_fits(name))
		return;
	snprintf(text, sizeof(text), "FDSTOREREMOVE=1\nFDNAME=%s\n", name);
	(void)send_with(n, text, -1, TRIES);
}

/* ---- descriptors that we began with ---- */

int notify_inherit(struct adopt *set, struct err *reterr)
{
	const char *pid = getenv("LISTEN_PID"), *fds = getenv("LISTEN_FDS"), *names = getenv("LISTEN_FDNAMES");
	uint64_t who = 0, n = 0;
	int r = 0;

	if (!pid || !fds || number(pid, &who) < 0 || who != (uint64_t)getpid())
		return 0; /* another's, or nobody's */
	if (number(fds, &n) < 0 || n > LISTEN_MOST)
		return err_set(reterr, -EINVAL, "LISTEN_FDS '%.32s': want a number up to %d", fds, LISTEN_MOST);
	for (uint64_t i = 0; r == 0 && i < n; i++) {
		size_t len = names ? strcspn(names, ":") : 0;
		int fd = LISTEN_FROM + (int)i;
		char name[ADOPT_NAME];

		snprintf(name, sizeof(name), "%.*s", (int)len, names ? names : "");
		names = names && names[len] ? names + len + 1 : NULL;
		if (fcntl(fd, F_SETFD, FD_CLOEXEC) < 0)
			r = err_set(reterr, -errno, "LISTEN_FDS=%llu, but descriptor %d is not open", (unsigned long long)n, fd);
		else
			r = adopt_add(set, fd, name, reterr);
	}
	unsetenv("LISTEN_PID");
	unsetenv("LISTEN_FDS");
	unsetenv("LISTEN_FDNAMES");
	return r < 0 ? r : (int)n;
}
