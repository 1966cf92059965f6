/* The backend: echo, sink, source, both, or one answer per request, as the connection's first bytes ask. */
#include "meshload.h"

/* ------------------------------------------------------------------ server */

static void srv_close(struct conn *c, int reset)
{
	close(c->fd);
	free(c->pend);
	free(c);
	sh->open--;
	if (reset)
		sh->resets++;
	else
		sh->eofs++;
}

/* Returns -1 when the connection is gone. */
static int srv_send(struct conn *c, const unsigned char *p, size_t n)
{
	while (n) {
		ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
		if (w < 0) {
			if (errno == EINTR)
				continue;
			if (errno != EAGAIN)
				return -1;
			c->pend = malloc(n);
			if (!c->pend)
				die("out of memory");
			memcpy(c->pend, p, n);
			c->pend_len = n;
			c->pend_off = 0;
			c->want_w = 1;
			ep_set(c, EPOLL_CTL_MOD, EPOLLOUT); /* stop reading until drained */
			return 0;
		}
		p += w;
		n -= (size_t)w;
	}
	return 0;
}

static int srv_source(struct conn *c)
{
	for (int i = 0; i < ROUNDS_PER_EVENT; i++) {
		ssize_t w = send(c->fd, pat_at(c->slot, 1, c->tx), 128 * 1024, MSG_NOSIGNAL);
		if (w < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		c->tx += (uint64_t)w;
	}
	return 0;
}

static int srv_payload(struct conn *c, const unsigned char *p, size_t n)
{
	if (pat_check(p, n, c->slot, 0, c->rx))
		sh->errors++;
	c->rx += n;
	sh->rx[c->slot % MAX_SLOTS] += n;
	if (c->mode == M_ECHO)
		return srv_send(c, p, n);
	if (c->mode == M_REQ && c->rx + HELLO_LEN >= c->size && !c->busy) {
		c->busy = 1;
		return srv_send(c, pat_at(c->slot, 1, 0), c->size);
	}
	return 0;
}

/* A backend that also terminates HTTP/1 CONNECT lets a forward proxy be measured
 * without a third hop behind it.  Consumes an optional "CONNECT ..." head, answers
 * 200, and returns the bytes used (SIZE_MAX on a write error). */
static size_t srv_connect(struct conn *c, const unsigned char *p, size_t n)
{
	static const char ok[] = "HTTP/1.1 200 OK\r\n\r\n";
	if (!c->hello_got && !c->code_ok && n && *p == 'C')
		c->st = ST_PREAMBLE;
	if (c->st != ST_PREAMBLE)
		return 0;
	for (size_t i = 0; i < n; i++) {
		memmove(c->hdr, c->hdr + 1, 3);
		c->hdr[3] = (char)p[i];
		if (memcmp(c->hdr, "\r\n\r\n", 4))
			continue;
		c->st = ST_RUN;
		c->code_ok = 1;
		return send(c->fd, ok, sizeof ok - 1, MSG_NOSIGNAL) < 0 ? SIZE_MAX : i + 1;
	}
	return n;
}

static int srv_read(struct conn *c)
{
	for (int i = 0; i < ROUNDS_PER_EVENT && !c->pend; i++) {
		ssize_t r = recv(c->fd, iobuf, sizeof iobuf, 0);
		if (r < 0) {
			if (errno == EAGAIN || errno == EINTR)
				return 0;
			return -2;
		}
		if (r == 0)
			return -1;
		unsigned char *p = iobuf;
		size_t n = (size_t)r;
		if (c->hello_got < HELLO_LEN) {
			size_t skip = srv_connect(c, p, n);
			if (skip == SIZE_MAX)
				return -2;
			p += skip;
			n -= skip;
			size_t k = HELLO_LEN - c->hello_got;
			if (k > n)
				k = n;
			memcpy(c->hello + c->hello_got, p, k);
			c->hello_got = (unsigned char)(c->hello_got + k);
			p += k;
			n -= k;
			if (c->hello_got < HELLO_LEN)
				continue;
			if (memcmp(c->hello, "MLH1", 4)) {
				sh->errors++;
				return -2;
			}
			c->mode = c->hello[4];
			memcpy(&c->slot, c->hello + 8, 4);
			memcpy(&c->size, c->hello + 12, 4);
			if (c->size > MAX_MSG)
				return -2;
			if (c->mode == M_SOURCE || c->mode == M_BOTH)
				want_write(c, 1, EPOLLIN | EPOLLRDHUP);
		}
		if (n && srv_payload(c, p, n) < 0)
			return -2;
		if ((size_t)r < sizeof iobuf / 8)
			break;
	}
	return 0;
}

void run_server(const char *listen_at)
{
	struct sockaddr_in sa = parse_addr(listen_at);
	int one = 1, ls = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	setsockopt(ls, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
	if (bind(ls, (void *)&sa, sizeof sa) < 0 || listen(ls, 4096) < 0)
		die("listen %s: %s", listen_at, strerror(errno));
	struct epoll_event e = {.events = EPOLLIN, .data.ptr = NULL};
	epoll_ctl(ep, EPOLL_CTL_ADD, ls, &e);
	printf("{\"listening\":\"%s\"}\n", listen_at);
	fflush(stdout);
	struct epoll_event evs[256];
	for (;;) {
		int n = epoll_wait(ep, evs, 256, -1);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (!c) {
				int fd;
				while ((fd = accept4(ls, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC)) >= 0) {
					c = calloc(1, sizeof *c);
					if (!c)
						die("out of memory");
					c->fd = fd;
					nodelay(fd);
					sh->conns++;
					sh->open++;
					ep_set(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLRDHUP);
				}
				continue;
			}
			int rc = 0;
			if (evs[i].events & EPOLLOUT) {
				if (c->pend) {
					ssize_t w = send(c->fd, c->pend + c->pend_off, c->pend_len - c->pend_off,
							 MSG_NOSIGNAL);
					if (w < 0 && errno != EAGAIN && errno != EINTR)
						rc = -2;
					else if (w > 0 && (c->pend_off += (size_t)w) == c->pend_len) {
						free(c->pend);
						c->pend = NULL;
						c->want_w = 0;
						ep_set(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLRDHUP);
					}
				} else if (srv_source(c) < 0) {
					rc = -2;
				}
			}
			if (!rc && (evs[i].events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)))
				rc = srv_read(c);
			if (rc)
				srv_close(c, rc == -2);
		}
	}
}
