/* A client's connections: open, greet, read and check. */
#include "meshload.h"

/* ------------------------------------------------------------------ client */

struct options o = {.streams = 1, .count = 1000, .window = 128, .size = 64, .dir = M_SINK, .warmup = 0.5, .time = 2};

uint64_t n_fail, n_err, n_done, n_est;
struct conn *conns;

void c_fail(struct conn *c)
{
	if (c->fd >= 0)
		close(c->fd);
	c->fd = -1;
	c->st = ST_DEAD;
	n_fail++;
}

int c_open(struct conn *c)
{
	c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (c->fd < 0)
		die("socket: %s (raise ulimit -n?)", strerror(errno));
	nodelay(c->fd);
	c->st = ST_CONNECTING;
	c->tx = c->rx = 0;
	c->busy = c->want_w = c->code_ok = c->hdr_n = 0;
	memset(c->tail, 0, sizeof c->tail);
	if (connect(c->fd, (void *)&o.target, sizeof o.target) < 0 && errno != EINPROGRESS) {
		c_fail(c);
		return -1;
	}
	c->want_w = 1;
	ep_set(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
	return 0;
}

static int send_all(struct conn *c, const void *p, size_t n)
{
	/* Only for small messages on a connection with nothing else in flight. */
	ssize_t w = send(c->fd, p, n, MSG_NOSIGNAL);
	return w == (ssize_t)n ? 0 : -1;
}

int c_ping(struct conn *c)
{
	int rc = send_all(c, pat_at(c->slot, 0, c->tx), (size_t)o.size);
	c->tx += (uint64_t)o.size;
	c->busy = 1;
	return rc;
}

/* The tunnel is open: greet the backend and start the first operation. */
static int c_ready(struct conn *c)
{
	unsigned char b[HELLO_LEN + MAX_MSG];
	size_t n = HELLO_LEN;
	c->st = ST_RUN;
	n_est++;
	hello_make(b, c->mode, c->slot, (uint32_t)o.size);
	if (c->mode == M_REQ) {
		size_t k = (size_t)o.size - HELLO_LEN;
		memcpy(b + n, pat_at(c->slot, 0, 0), k);
		n += k;
		c->busy = 1;
	}
	if (send_all(c, b, n) < 0)
		return -1;
	want_write(c, c->mode == M_SINK || c->mode == M_BOTH, EPOLLIN);
	return 0;
}

static int c_connected(struct conn *c)
{
	int err = 0;
	socklen_t l = sizeof err;
	getsockopt(c->fd, SOL_SOCKET, SO_ERROR, &err, &l);
	if (err)
		return -1;
	if (o.connect) {
		char req[512];
		int n = snprintf(req, sizeof req, "CONNECT %s HTTP/1.1\r\nHost: %s\r\n\r\n", o.connect, o.connect);
		c->st = ST_PREAMBLE;
		want_write(c, 0, EPOLLIN);
		return send_all(c, req, (size_t)n);
	}
	return c_ready(c);
}

/* Reads the proxy's answer byte-exactly; never consumes tunnel bytes. */
static int c_preamble(struct conn *c)
{
	char ch;
	for (;;) {
		ssize_t r = recv(c->fd, &ch, 1, 0);
		if (r < 0)
			return errno == EAGAIN || errno == EINTR ? 0 : -1;
		if (r == 0)
			return -1;
		if (c->hdr_n < sizeof c->hdr)
			c->hdr[c->hdr_n++] = ch;
		memmove(c->tail, c->tail + 1, 3);
		c->tail[3] = ch;
		if (c->hdr_n == 12 && !c->code_ok) {
			if (memcmp(c->hdr + 9, "200", 3))
				return -1;
			c->code_ok = 1;
		}
		if (!memcmp(c->tail, "\r\n\r\n", 4))
			return c->code_ok ? c_ready(c) : -1;
	}
}

/* Reads payload; returns bytes read, 0 when none, -1 when the connection ended. */
ssize_t c_read(struct conn *c)
{
	ssize_t r = recv(c->fd, iobuf, sizeof iobuf, 0);
	if (r < 0)
		return errno == EAGAIN || errno == EINTR ? 0 : -1;
	if (r == 0)
		return -1;
	/* An echo repeats what went up (direction 0); everything else is direction 1. */
	if (pat_check(iobuf, (size_t)r, c->slot, c->mode != M_ECHO, c->rx))
		n_err++;
	c->rx += (uint64_t)r;
	return r;
}

int c_setup(struct conn *c, uint32_t ev)
{
	(void)ev;
	if (c->st == ST_CONNECTING)
		return c_connected(c);
	return c_preamble(c);
}

/* Blocks until `want` connections run, or 10 s pass. */
void wait_established(int want)
{
	struct epoll_event evs[256];
	uint64_t end = now_ns() + 10000000000ull;
	while ((int)(n_est + n_fail) < want && now_ns() < end) {
		int n = epoll_wait(ep, evs, 256, 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c->st == ST_RUN || c->st == ST_DEAD) {
				/* level-triggered readiness of already running streams */
				if (c->st == ST_RUN)
					ep_set(c, EPOLL_CTL_MOD, 0);
				continue;
			}
			if (c_setup(c, evs[i].events) < 0)
				c_fail(c);
		}
	}
	for (int i = 0; i < want; i++)
		if (conns[i].st == ST_RUN)
			ep_set(&conns[i], EPOLL_CTL_MOD, EPOLLIN | (conns[i].want_w ? (uint32_t)EPOLLOUT : 0u));
}

void head(const char *mode)
{
	printf("{\"mode\":\"%s\",\"streams\":%d,", mode, o.streams);
}

int tail_print(double cpu0)
{
	printf("\"established\":%llu,\"failed\":%llu,\"errors\":%llu,\"client_cpu_s\":%.3f}\n",
	       (unsigned long long)n_est, (unsigned long long)n_fail, (unsigned long long)(n_err + sh->errors),
	       cpu_self() - cpu0);
	fflush(stdout);
	return n_fail || n_err || sh->errors;
}
