/*
 * A client for one server that we know: aditd's admin API. HTTP/1.0, one request per connection, the answer ends with the
 * connection; what libcurl could do beyond that is not needed here. The answer's Content-Length must agree with what came,
 * so that half a JSON text is never taken for a whole one.
 */
#include "http.h"
#include "base/clean.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <sys/un.h>

#define TIMEOUT_S 30

/* What a person can do about it. Return: -ENOTCONN. */
static int unreachable(const char *path, int e, struct err *reterr)
{
	if (e == ENOENT)
		return err_set(
			reterr, -ENOTCONN,
			"no socket %s: is aditd running? (ps, journalctl) If its admin.socket is elsewhere: "
			"aditctl -s PATH",
			path);
	if (e == ECONNREFUSED)
		return err_set(reterr, -ENOTCONN, "nobody listens on %s: aditd has ended (its log says why)",
			       path);
	if (e == EACCES || e == EPERM)
		return err_set(reterr, -ENOTCONN, "may not open %s: try sudo, or join the group that owns it", path);
	if (e == EAGAIN)
		return err_set(reterr, -ENOTCONN, "%s: aditd is there but busy; try again", path);
	return err_set(reterr, -ENOTCONN, "%s: %s", path, strerror(e));
}

static int dial(const char *path, int *ret_fd, struct err *reterr)
{
	const struct timeval tv = {.tv_sec = TIMEOUT_S};
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	AUTO_FD fd = -1;

	if (strlen(path) >= sizeof(sa.sun_path))
		return err_set(reterr, -ENOTCONN, "socket path is longer than %zu bytes: %s", sizeof(sa.sun_path) - 1,
			       path);
	strcpy(sa.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(reterr, -errno, "socket: %s", strerror(errno));
	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &tv, sizeof(tv));
	if (connect(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return unreachable(path, errno, reterr);
	*ret_fd = fd_take(&fd);
	return 0;
}

/* A server that answers early (413, 403) may close before it has read all: not an error yet, the answer is there to read. */
static void send_all(int fd, const char *p, size_t n)
{
	while (n) {
		ssize_t w = send(fd, p, n, MSG_NOSIGNAL);

		if (w < 0 && errno == EINTR)
			continue;
		if (w <= 0)
			return;
		p += w;
		n -= (size_t)w;
	}
}

static int read_all(int fd, struct text *in, struct err *reterr)
{
	char buf[65536];

	for (;;) {
		ssize_t n = recv(fd, buf, sizeof(buf), 0);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return err_set(reterr, -ETIMEDOUT, "aditd did not answer within %d s; its log may say why",
				       TIMEOUT_S);
		if (n < 0 && errno == ECONNRESET && in->len)
			return 0; /* it closed with bytes of ours unread; the parser judges what came */
		if (n < 0)
			return err_set(reterr, -errno, "while reading the answer: %s", strerror(errno));
		if (n == 0)
			return 0;
		text_addn(in, buf, (size_t)n);
		if (!text_ok(in) || in->len > HTTP_ANSWER_MAX)
			return err_set(reterr, -ENOMEM, "the answer is too long; use --limit or a filter");
	}
}

/* One header line; Return: false when it is none. */
static bool header_line(const char *s, size_t n, size_t *ret_length, bool *ret_has_length)
{
	const char *colon = memchr(s, ':', n);
	const char *v;
	size_t len = 0;

	if (!colon || colon == s)
		return false;
	if ((size_t)(colon - s) != strlen("Content-Length") || strncasecmp(s, "Content-Length", (size_t)(colon - s)))
		return true;
	for (v = colon + 1; v < s + n && (*v == ' ' || *v == '\t'); v++)
		;
	if (v == s + n)
		return false;
	for (; v < s + n; v++) {
		if (*v < '0' || *v > '9' || len > HTTP_ANSWER_MAX)
			return false;
		len = len * 10 + (size_t)(*v - '0');
	}
	*ret_length = len;
	*ret_has_length = true;
	return true;
}

int http_parse(const char *s, size_t n, struct http_answer *ret, struct err *reterr)
{
	const char *end = s + n, *line = s, *nl;
	struct http_answer a = {0};
	bool has_length = false;
	size_t length = 0;

	if (n == 0)
		return err_set(reterr, -EPROTO, "no answer: aditd closed the connection");
	/* HTTP/1.x NNN */
	if (n < 13 || memcmp(s, "HTTP/1.", 7) || s[8] != ' ' || s[9] < '1' || s[9] > '5' || s[10] < '0' ||
	    s[10] > '9' || s[11] < '0' || s[11] > '9')
		return err_set(reterr, -EPROTO, "this is not HTTP: is the socket aditd's?");
	a.status = (unsigned int)((s[9] - '0') * 100 + (s[10] - '0') * 10 + (s[11] - '0'));
	for (bool first = true;; first = false) {
		size_t len;

		nl = memchr(line, '\n', (size_t)(end - line));
		if (!nl)
			return err_set(reterr, -EPROTO, "the answer ends in its header");
		len = (size_t)(nl - line);
		if (len && line[len - 1] == '\r')
			len--;
		if (len == 0)
			break;
		if (!first && !header_line(line, len, &length, &has_length))
			return err_set(reterr, -EPROTO, "the answer's header is malformed");
		line = nl + 1;
	}
	line = nl + 1;
	if (has_length && length > (size_t)(end - line))
		return err_set(reterr, -EPROTO, "the answer is cut: %zu of %zu bytes", (size_t)(end - line), length);
	text_addn(&a.body, line, has_length ? length : (size_t)(end - line));
	if (!text_ok(&a.body))
		return err_set(reterr, -ENOMEM, "out of memory");
	*ret = a;
	return 0;
}

int http_call(const char *socket_path, const char *method, const char *path, const char *body, size_t n,
	      struct http_answer *ret, struct err *reterr)
{
	struct text out = {0}, in = {0};
	AUTO_FD fd = -1;
	int r;

	r = dial(socket_path, &fd, reterr);
	if (r < 0)
		return r;
	text_addf(&out, "%s %s HTTP/1.0\r\nHost: adit\r\nUser-Agent: aditctl\r\n", method, path);
	if (body)
		text_addf(&out, "Content-Length: %zu\r\n", n);
	text_add(&out, "\r\n");
	if (body)
		text_addn(&out, body, n);
	if (text_ok(&out)) {
		send_all(fd, out.s, out.len);
		r = read_all(fd, &in, reterr);
	} else {
		r = err_set(reterr, -ENOMEM, "out of memory");
	}
	if (r == 0)
		r = http_parse(in.s ? in.s : "", in.len, ret, reterr);
	text_finish(&out);
	text_finish(&in);
	return r;
}

/* Return: bytes of the header, 0: it is not all here yet */
static size_t header_end(const struct text *in)
{
	const char *p = in->len ? strstr(in->s, "\r\n\r\n") : NULL;

	return p ? (size_t)(p - in->s) + 4 : 0;
}

/* Return: bytes, 0: it is over, -errno */
static ssize_t stream_recv(int fd, char *buf, size_t max)
{
	ssize_t n;

	do
		n = recv(fd, buf, max, 0);
	while (n < 0 && errno == EAGAIN); /* the socket's time-out: nothing has happened, which is fine */
	return n < 0 && errno == ECONNRESET ? 0 : n < 0 ? -errno : n;
}

static int stream_read(int fd, bool (*fn)(void *arg, const char *s, size_t n), void *arg, struct http_answer *ret, struct err *reterr)
{
	struct text head = {0};
	char buf[16384];
	size_t body = 0;
	ssize_t n;
	int r = 0;

	while ((n = stream_recv(fd, buf, sizeof(buf))) > 0) {
		if (body) {
			if (!fn(arg, buf, (size_t)n))
				break;
			continue;
		}
		text_addn(&head, buf, (size_t)n);
		if (!text_ok(&head) || head.len > 65536) {
			r = err_set(reterr, -ENOMEM, "the answer's header is too long");
			break;
		}
		if (!header_end(&head) || head.len < 12 || memcmp(head.s + 9, "200", 3))
			continue; /* a refusal is read to its end */
		body = header_end(&head);
		ret->status = 200;
		if (head.len > body && !fn(arg, head.s + body, head.len - body))
			break;
	}
	if (r == 0 && n < 0)
		r = err_set(reterr, (int)n, "while reading the answer: %s", strerror((int)-n));
	if (r == 0 && !body)
		r = http_parse(head.s ? head.s : "", head.len, ret, reterr);
	text_finish(&head);
	return r;
}

int http_stream(const char *socket_path, const char *path, bool (*fn)(void *arg, const char *s, size_t n), void *arg, struct http_answer *ret,
		struct err *reterr)
{
	struct text out = {0};
	AUTO_FD fd = -1;
	int r = dial(socket_path, &fd, reterr);

	if (r < 0)
		return r;
	text_addf(&out, "GET %s HTTP/1.0\r\nHost: adit\r\nUser-Agent: aditctl\r\n\r\n", path);
	if (text_ok(&out)) {
		send_all(fd, out.s, out.len);
		r = stream_read(fd, fn, arg, ret, reterr);
	} else {
		r = err_set(reterr, -ENOMEM, "out of memory");
	}
	text_finish(&out);
	return r;
}

void http_query(struct text *path, const char *name, const char *value)
{
	if (!value)
		return;
	text_addf(path, "%s%s=", path->s && strchr(path->s, '?') ? "&" : "?", name);
	for (; *value; value++) {
		const unsigned char c = (unsigned char)*value;

		if ((c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || strchr("-._~/:", c))
			text_addn(path, value, 1);
		else
			text_addf(path, "%%%02X", c);
	}
}
