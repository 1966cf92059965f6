/*
 * The self-test: before any application's socket enters a map, two sockets of our own do, and real bytes go both ways through the gate.
 * What the bypass relies on and a kernel may get wrong (docs/KERNELS.md) is looked at: that bytes arrive, wake an epoll waiter, are
 * charged to the receiver, never overtake bytes that went by TCP, and are delivered when the sender closes. FIONREAD for ordinary
 * bytes of a mapped socket says 0 on some kernels: programs that ask it do not belong on the allow-list there, so it is said, not refused.
 */
#include "kern/bypass_int.h"
#include "base/clean.h"
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

#define WAIT_MS	  1000
#define MESSAGE	  100 /* bytes */
#define ATTEMPTS  16  /* messages until one is redirected: the first few change over */
#define SO_MEMINFO_ 55 /* asm-generic/socket.h */

struct probe {
	struct bypass *b;
	int fd[2], ep;	/* 0 connected, 1 was accepted */
	struct bypass_join j;
	bool fionread_tcp, fionread_redirected; /* it tells the truth */
	struct err *e;
};

static int make(struct probe *p)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	AUTO_FD l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	socklen_t n = sizeof(a);
	struct bypass_at at[2];
	int one = 1;

	p->fd[0] = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (l < 0 || p->fd[0] < 0 || bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 1) ||
	    getsockname(l, (struct sockaddr *)&a, &n) || connect(p->fd[0], (struct sockaddr *)&a, sizeof(a)))
		return err_set(p->e, -errno, "self-test: no connection over 127.0.0.1: %s (is loopback up?)", strerror(errno));
	p->fd[1] = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	p->ep = epoll_create1(EPOLL_CLOEXEC);
	if (p->fd[1] < 0 || p->ep < 0)
		return err_set(p->e, -errno, "self-test: %s", strerror(errno));
	for (int i = 0; i < 2; i++) {
		struct epoll_event ev = {.events = EPOLLIN | EPOLLET, .data.fd = p->fd[i]};

		if (setsockopt(p->fd[i], IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)) ||
		    epoll_ctl(p->ep, EPOLL_CTL_ADD, p->fd[i], &ev))
			return err_set(p->e, -errno, "self-test: %s", strerror(errno));
		if (bypass_whereis(p->b, p->fd[i], &at[i]))
			return err_set(p->e, -ENOENT, "self-test: a connection of our own was not noted: do we run below kernel.cgroup?");
	}
	if (bypass_bind(p->b, &at[0], &at[1], 0, 0, (const int[2]){-1, -1}, 0, &p->j))
		return err_set(p->e, -EPROTO, "self-test: two sockets of our own cannot be joined: %s",
			       bypass_why_str((enum bypass_why)p->j.why));
	return 0;
}

static uint64_t redirected(struct probe *p, int from)
{
	struct bypass_counts n;

	bypass_counts(p->b, &p->j, &n);
	return n.messages[from];
}

static int wait_for(struct probe *p, int fd)
{
	struct epoll_event ev;

	do {
		if (epoll_wait(p->ep, &ev, 1, WAIT_MS) != 1)
			return err_set(p->e, -ETIMEDOUT, "self-test: redirected bytes wake nobody");
	} while (ev.data.fd != fd);
	return 0;
}

static int take(struct probe *p, int to, const uint8_t *want, size_t n)
{
	uint8_t buf[8 * MESSAGE] = {0};
	size_t have = 0;

	while (have < n) {
		struct pollfd w = {.fd = p->fd[to], .events = POLLIN};
		ssize_t r = poll(&w, 1, WAIT_MS) == 1 ? recv(p->fd[to], buf + have, n - have, MSG_DONTWAIT) : -1;

		if (r <= 0)
			return err_set(p->e, -EIO, "self-test: %zu of %zu bytes arrived", have, n);
		have += (size_t)r;
	}
	return memcmp(buf, want, n) ? err_set(p->e, -EILSEQ, "self-test: bytes arrived in the wrong order") : 0;
}

static int give(struct probe *p, int from, const uint8_t *m, size_t n)
{
	ssize_t r = send(p->fd[from], m, n, MSG_NOSIGNAL | MSG_DONTWAIT);

	return r == (ssize_t)n ? 0 : err_set(p->e, -EIO, "self-test: send() of %zu bytes returned %zd", n, r);
}

/* what the gate said */
static int nothing(struct probe *p, int from)
{
	struct bypass_counts n;
	uint32_t most = 0;

	bypass_counts(p->b, &p->j, &n);
	for (uint32_t i = 0; i < BYPASS_REFUSALS; i++)
		most = n.refused[from][i] > n.refused[from][most] ? i : most;
	return err_set(p->e, -EPROTO, "self-test: %d messages were sent and none was redirected (%s)", ATTEMPTS,
		       n.pass_messages[from] ? bypass_refusal_str(most) : "the gate did not see them");
}

/* messages one by one until one was redirected */
static int change_over(struct probe *p, int from)
{
	uint8_t m[MESSAGE];
	uint64_t before;
	int to = !from, r;

	for (int i = 0; i < ATTEMPTS; i++) {
		uint32_t mem[16] = {0};
		socklen_t len = sizeof(mem);
		int waiting = 0;

		memset(m, 'a' + i, sizeof(m));
		before = redirected(p, from);
		r = give(p, from, m, sizeof(m));
		if (r == 0)
			r = wait_for(p, p->fd[to]);
		if (r < 0)
			return r;
		ioctl(p->fd[to], FIONREAD, &waiting);
		getsockopt(p->fd[to], SOL_SOCKET, SO_MEMINFO_, mem, &len);
		r = take(p, to, m, sizeof(m));
		if (r < 0)
			return r;
		if (redirected(p, from) == before) {
			p->fionread_tcp = waiting == MESSAGE;
			continue;
		}
		p->fionread_redirected = waiting == MESSAGE;
		return mem[0] >= MESSAGE ? 0 : err_set(p->e, -ENOTSUP, "self-test: redirected bytes are charged to nobody: memory has no bound");
	}
	return nothing(p, from);
}

/* bytes that went by TCP and are unread hold back those that come after them */
static int order(struct probe *p)
{
	uint8_t m[6 * MESSAGE];
	uint64_t before;
	int r;

	for (size_t i = 0; i < sizeof(m); i++)
		m[i] = (uint8_t)(i * 7);
	bypass_gate(p->b, &p->j, false);
	r = give(p, 0, m, MESSAGE);
	bypass_gate(p->b, &p->j, true);
	before = redirected(p, 0);
	for (size_t at = MESSAGE; at < sizeof(m) && r == 0; at += MESSAGE)
		r = give(p, 0, m + at, MESSAGE);
	if (r == 0 && redirected(p, 0) != before)
		r = err_set(p->e, -EILSEQ, "self-test: a message was redirected past bytes that went by TCP");
	return r < 0 ? r : take(p, 1, m, sizeof(m));
}

static int close_delivers(struct probe *p)
{
	uint8_t m[2 * MESSAGE];
	uint64_t before;
	char c;
	int r = change_over(p, 0);

	memset(m, 'z', sizeof(m));
	before = redirected(p, 0);
	for (size_t at = 0; at < sizeof(m) && r == 0; at += MESSAGE)
		r = give(p, 0, m + at, MESSAGE);
	if (r < 0)
		return r;
	if (redirected(p, 0) != before + 2)
		return err_set(p->e, -EPROTO, "self-test: the gate does not stay open");
	close(p->fd[0]);
	p->fd[0] = -1;
	r = take(p, 1, m, sizeof(m));
	if (r < 0)
		return r;
	struct pollfd w = {.fd = p->fd[1], .events = POLLIN};
	if (poll(&w, 1, WAIT_MS) != 1 || recv(p->fd[1], &c, 1, MSG_DONTWAIT) != 0)
		return err_set(p->e, -EPROTO, "self-test: no end of file behind redirected bytes");
	return 0;
}

int bypass_self_test(struct bypass *b, struct err *reterr)
{
	struct probe p = {.b = b, .fd = {-1, -1}, .ep = -1, .e = reterr};
	uint64_t from = bypass_now_ms();
	int r = make(&p);

	for (int i = 0; i < 2 && r == 0; i++)
		r = change_over(&p, i);
	if (r == 0)
		r = order(&p);
	if (r == 0)
		r = close_delivers(&p);
	bypass_leave(b, &p.j);
	for (int i = 0; i < 2; i++)
		clean_fd(&p.fd[i]);
	clean_fd(&p.ep);
	if (r < 0)
		return r;
	snprintf(b->self_test, sizeof(b->self_test), "passed in %llu ms: order, memory charge, wake-up, close; FIONREAD %s",
		 (unsigned long long)(bypass_now_ms() - from),
		 p.fionread_tcp && p.fionread_redirected ? "right" :
		 p.fionread_tcp				 ? "does not count redirected bytes" :
		 p.fionread_redirected			 ? "says 0 for TCP's bytes (kernel fault)" :
							   "says 0 for mapped sockets (kernel fault)");
	return 0;
}
