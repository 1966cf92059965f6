/*
 * The upgrade's messages, and the new daemon's side of it. It may wait: it has nothing else to do yet.
 */
#include "control/upgrade_talk.h"
#include "base/clean.h"
#include "base/log.h"
#include "control/upgrade.h"
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ASK_MS	 10000u
#define GO_MS	 10000u
#define DONE_MS	 5000u

static int wait_for(int fd, short events, uint64_t ms)
{
	struct pollfd p = {.fd = fd, .events = events};

	return poll(&p, 1, (int)ms) < 1 ? -EAGAIN : 0;
}

int talk_send(int fd, enum talk_kind kind, const char *text, const int *fds, uint32_t n, uint64_t wait_ms)
{
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(TALK_FDS * sizeof(int))];
	} control;
	struct talk t = {.magic = TALK_MAGIC, .version = UPGRADE_VERSION, .kind = kind, .n = n};
	struct iovec iov = {.iov_base = &t, .iov_len = sizeof(t)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1};

	snprintf(t.text, sizeof(t.text), "%s", text ? text : "");
	if (n) {
		memset(&control, 0, sizeof(control));
		control.h = (struct cmsghdr){.cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n * sizeof(int))};
		memcpy(CMSG_DATA(&control.h), fds, n * sizeof(int));
		m.msg_control = &control;
		m.msg_controllen = CMSG_SPACE(n * sizeof(int));
	}
	while (sendmsg(fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT) < 0) {
		if (errno == EINTR)
			continue;
		if (errno != EAGAIN || wait_for(fd, POLLOUT, wait_ms) < 0)
			return -errno;
		wait_ms /= 2;
	}
	return 0;
}

int talk_recv(int fd, struct talk *ret, int *fds, uint32_t *ret_n, uint64_t wait_ms)
{
	union {
		struct cmsghdr h;
		char room[CMSG_SPACE(TALK_FDS * sizeof(int))];
	} control;
	struct iovec iov = {.iov_base = ret, .iov_len = sizeof(*ret)};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
	const struct cmsghdr *c;
	uint32_t n = 0;
	int got[TALK_FDS];
	ssize_t len;

	if (wait_ms && wait_for(fd, POLLIN, wait_ms) < 0)
		return -EAGAIN;
	len = recvmsg(fd, &m, MSG_DONTWAIT | MSG_CMSG_CLOEXEC);
	if (len < 0)
		return errno == EAGAIN || errno == EINTR ? -EAGAIN : -ECONNRESET;
	c = CMSG_FIRSTHDR(&m);
	if (c && c->cmsg_level == SOL_SOCKET && c->cmsg_type == SCM_RIGHTS) {
		n = (uint32_t)min_u64((c->cmsg_len - CMSG_LEN(0)) / sizeof(int), TALK_FDS);
		memcpy(got, CMSG_DATA(c), n * sizeof(int));
	}
	for (uint32_t i = 0; i < n; i++) {
		if (fds && len == sizeof(*ret))
			fds[i] = got[i];
		else
			close(got[i]);
	}
	if (len == 0)
		return -ECONNRESET;
	if (len != sizeof(*ret) || ret->magic != TALK_MAGIC)
		return -EPROTO;
	ret->text[sizeof(ret->text) - 1] = '\0';
	if (ret_n)
		*ret_n = n;
	return 0;
}

/* ---- the new one ---- */

/* what is no answer, in words. Return: @r. */
static int wrong(int r, const struct talk *t, struct err *reterr)
{
	if (r == 0 && t->kind == TALK_NO)
		return err_set(reterr, -EPERM, "upgrade: the daemon that runs refuses: %s", t->text);
	if (r == 0)
		return err_set(reterr, -EPROTO, "upgrade: the daemon that runs speaks version %u and said %u, which is not understood", t->version, t->kind);
	if (r == -EAGAIN)
		return err_set(reterr, -ETIMEDOUT, "upgrade: the daemon that runs does not answer");
	return err_set(reterr, r, "upgrade: the daemon that runs ended the talk: %s", strerror(-r));
}

static int take_sockets(int fd, struct adopt *set, struct err *reterr)
{
	struct err why = {""};
	int got[TALK_FDS], r;
	uint32_t n = 0;
	struct talk t;

	for (;;) {
		r = talk_recv(fd, &t, got, &n, ASK_MS);
		if (r < 0 || (t.kind != TALK_SOCKETS && t.kind != TALK_END))
			return wrong(r, &t, reterr);
		if (t.kind == TALK_END)
			return 0;
		for (uint32_t i = 0; i < n; i++)
			if (adopt_add(set, got[i], t.text, &why) < 0) {
				for (i++; i < n; i++)
					close(got[i]);
				return err_set(reterr, -ENOMEM, "out of memory");
			}
	}
}

int upgrade_ask(const char *admin_socket, struct adopt *set, struct err *reterr)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	AUTO_FD fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	int r;

	if (!admin_socket)
		return err_set(reterr, -ENOENT, "upgrade: the configuration has no admin socket (admin.socket), beside which daemons meet");
	if (fd < 0 || snprintf(sa.sun_path, sizeof(sa.sun_path), "%s.upgrade", admin_socket) >= (int)sizeof(sa.sun_path))
		return err_set(reterr, -ENAMETOOLONG, "upgrade: %s.upgrade: the path is too long for a socket", admin_socket);
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa))) {
		r = errno == ECONNREFUSED ? -ENOENT : -errno;
		return err_set(reterr, r, "upgrade: %s: %s", sa.sun_path, r == -ENOENT ? "no daemon listens there" : strerror(-r));
	}
	r = talk_send(fd, TALK_HELLO, "", NULL, 0, ASK_MS);
	if (r < 0)
		return err_set(reterr, r, "upgrade: %s: %s", sa.sun_path, strerror(-r));
	r = take_sockets(fd, set, reterr);
	return r < 0 ? r : fd_take(&fd);
}

int upgrade_ready(int fd, struct err *reterr)
{
	struct talk t = {0};
	int r = talk_send(fd, TALK_READY, "", NULL, 0, GO_MS);

	if (r == 0)
		r = talk_recv(fd, &t, NULL, NULL, GO_MS);
	return r < 0 || t.kind != TALK_GO ? wrong(r, &t, reterr) : 0;
}

void upgrade_taken(int fd)
{
	struct talk t;
	int r = talk_send(fd, TALK_TAKEN, "", NULL, 0, DONE_MS);

	if (r == 0)
		r = talk_recv(fd, &t, NULL, NULL, DONE_MS);
	if (r < 0)
		log_warn(LA_MAIN, "upgrade: the old daemon does not say that it lets go (%s); going on without", strerror(-r));
}
