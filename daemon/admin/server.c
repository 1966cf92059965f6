/*
 * The API's transport: libmicrohttpd daemons without threads, one per socket (struct site). Each has an epoll set of its own, which is
 * nested, with a timer, in the site's. The admin socket's site is run by the main thread, inside admin_run(); that of the TCP address by
 * the health thread. The library needs no locks of ours.
 *
 * The library looks at its time-outs only when it runs. The timer sees to that: while anybody is connected it fires when
 * the library asks, and at least every second; with nobody connected it is off and the daemon sleeps.
 *
 * Hostile clients: at most 64 connections per socket (16 per address on TCP), 10 s of silence, 30 s to send a
 * request and 30 s to read its answer (a drip of bytes does not count as life), 32 KiB of header, bodies of 1 MiB on the UNIX
 * socket (4 MiB of policies, from who may change them) and none on TCP. Beyond a limit the kernel's backlog waits, workers never notice.
 */
#include "admin/admin.h"
#include "admin/api.h"
#include "admin/site.h"
#include "admin/sock.h"
#include "admin/stream.h"
#include "base/clean.h"
#include "base/log.h"
#include "net/adopt.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <microhttpd.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/timerfd.h>
#include <time.h>

#define CLIENTS_MAX    64u /* per socket */
#define CLIENTS_PER_IP 16u /* TCP */
#ifndef IDLE_S		   /* tests have less patience */
#define IDLE_S	   10u
#define REQUEST_MS 30000u
#endif
#define HEADER_MEMORY 32768u
#define RUNS_MAX      16 /* turns of the library per site_run(); the rest next time */
#define HOLD_MS	      2000u /* a scrape waits so long for the main thread */

/* one connection */
struct client {
	LIST_ENTRY(client) link;
	int fd;
	uint64_t deadline_ms;
	struct sock_peer peer; /* UNIX only */
};

/* one request */
struct request {
	struct text body;
	size_t max; /* bytes of body */
	bool too_big;
};

struct admin {
	struct api api;
	struct site local, public_; /* UNIX, TCP */
	struct health_thread *health;
	char *path;
	struct sock_file file;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static struct client *client_of(struct MHD_Connection *c)
{
	const union MHD_ConnectionInfo *i = MHD_get_connection_info(c, MHD_CONNECTION_INFO_SOCKET_CONTEXT);

	return i ? i->socket_context : NULL;
}

static void client_renew(struct client *cl)
{
	if (cl)
		cl->deadline_ms = now_ms() + REQUEST_MS;
}

/* ---- answering ---- */

static enum MHD_Result answer_send(struct MHD_Connection *c, struct api_answer *ans)
{
	struct MHD_Response *resp;
	enum MHD_Result r;

	if (!text_ok(&ans->body)) {
		text_finish(&ans->body);
		ans->status = 503;
	}
	/* the library frees the text's memory */
	resp = MHD_create_response_from_buffer(ans->body.len, ans->body.s, MHD_RESPMEM_MUST_FREE);
	if (!resp) {
		text_finish(&ans->body);
		return MHD_NO;
	}
	ans->body = (struct text){0};
	MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, ans->type);
	MHD_add_response_header(resp, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	if (ans->allow)
		MHD_add_response_header(resp, MHD_HTTP_HEADER_ALLOW, ans->allow);
	client_renew(client_of(c)); /* what it took us is not its fault */
	r = MHD_queue_response(c, ans->status, resp);
	MHD_destroy_response(resp);
	return r;
}

static enum MHD_Result refuse(struct MHD_Connection *c, unsigned int status, const char *why)
{
	struct api_answer ans = {0};

	api_fail(&ans, status, "%s", why);
	return answer_send(c, &ans);
}

static enum MHD_Result arg_add(void *arg, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct api_req *req = arg;

	(void)kind;
	if (req->n_args < API_ARGS)
		req->args[req->n_args] = (struct api_arg){name, value};
	return ++req->n_args <= API_ARGS ? MHD_YES : MHD_NO;
}

/* On the health thread: health is answered whatever the main thread does; all else reads what it may be changing. */
static void handle(struct site *s, const struct api_req *req, struct api_answer *ans)
{
	if (!s->public_ || !strcmp(req->path, ADIT_API_READY) || !strcmp(req->path, ADIT_API_LIVE)) {
		api_handle(s->api, req, ans);
	} else if (inspect_hold(s->api->d, HOLD_MS)) {
		api_handle(s->api, req, ans);
		inspect_release(s->api->d);
	} else {
		*ans = (struct api_answer){0};
		api_fail(ans, 503, "the main thread is busy; try again");
	}
}

/* Time and silence are no faults of who watches. */
static enum MHD_Result stream_begin(struct site *s, struct MHD_Connection *c, struct api_answer *ans)
{
	struct client *cl = client_of(c);
	struct MHD_Response *resp;
	enum MHD_Result r;

	resp = streams_open(s->streams, c, cl->fd, &ans->ask, ans);
	if (!resp)
		return answer_send(c, ans);
	MHD_add_response_header(resp, MHD_HTTP_HEADER_CONTENT_TYPE, ans->type);
	MHD_add_response_header(resp, MHD_HTTP_HEADER_CACHE_CONTROL, "no-store");
	cl->deadline_ms = UINT64_MAX;
	r = MHD_queue_response(c, MHD_HTTP_OK, resp);
	MHD_destroy_response(resp);
	return r;
}

static enum MHD_Result request_answer(struct site *s, struct MHD_Connection *c, const struct client *cl, const char *method,
				      const char *path, const struct request *rq)
{
	const bool public_ = s->public_;
	struct api_req req = {
		.method = method,
		.path = path,
		.body = rq->body.s,
		.body_len = rq->body.len,
		.peer = {cl->peer.pid, cl->peer.uid, cl->peer.gid},
		.may_change = !public_ && cl->peer.may_change,
		.public_ = public_,
	};
	struct api_answer ans;
	char more[LOG_MORE];

	MHD_get_connection_values(c, MHD_GET_ARGUMENT_KIND, arg_add, &req);
	if (req.n_args > API_ARGS)
		return refuse(c, 400, "too many parameters");
	if (!public_ && strcmp(method, "GET") && strcmp(method, "HEAD") && log_kind(&s->logs, LOG_K_REQUEST, now_ms(), more))
		log_info(LA_ADMIN, "%s %s by uid %u, pid %d%s%s", method, path, cl->peer.uid, cl->peer.pid,
			 cl->peer.may_change ? "" : ": not allowed", more);
	handle(s, &req, &ans);
	if (ans.streams && s->streams)
		return stream_begin(s, c, &ans);
	return answer_send(c, &ans);
}

static const char *too_long(size_t max)
{
	return !max ? "no body here" : max == API_BODY_MAX ? "body too long: at most 1 MiB" : "body too long: at most 4 MiB";
}

/* who may not even look and wants to change something */
static void stranger_audit(const struct api *a, const struct client *cl, const char *method, const char *path, const char *why)
{
	struct admin_act act = {.by = {cl->peer.pid, cl->peer.uid, cl->peer.gid}, .status = 403, .error = why, .stranger = true};
	char what[160];

	if (!a->policies.audit || !strcmp(method, "GET") || !strcmp(method, "HEAD"))
		return;
	snprintf(what, sizeof(what), "%s %s", method, path);
	act.what = what;
	a->policies.audit(a->policies.arg, &act);
}

/* Before the body is read. Return: true when the request was answered already (*ret then). */
static bool refuse_early(struct site *s, struct MHD_Connection *c, const struct client *cl, const char *method, const char *path, size_t max,
			 enum MHD_Result *ret)
{
	const char *len = MHD_lookup_connection_value(c, MHD_HEADER_KIND, MHD_HTTP_HEADER_CONTENT_LENGTH);
	uint64_t n = 0;
	char why[192];

	if (!s->public_ && !cl->peer.may_read) {
		snprintf(why, sizeof(why),
			 "uid %u may not use this socket: be root, the daemon's user (uid %u) or a member of the "
			 "file's group",
			 cl->peer.uid, geteuid());
		stranger_audit(s->api, cl, method, path, why);
		*ret = refuse(c, 403, why);
		return true;
	}
	if (len && api_number(len, &n) && n > max) {
		*ret = refuse(c, 413, too_long(max));
		return true;
	}
	return false;
}

/* The library calls this when the header is there, for each piece of body, and at the end. */
static enum MHD_Result on_request(void *arg, struct MHD_Connection *c, const char *path, const char *method, const char *version,
				  const char *data, size_t *data_len, void **ctx)
{
	struct site *s = arg;
	const bool public_ = s->public_;
	const struct client *cl = client_of(c);
	struct request *rq = *ctx;
	enum MHD_Result r;

	(void)version;
	if (!cl)
		return MHD_NO; /* no memory when it connected */
	if (!rq) {
		rq = calloc(1, sizeof(*rq));
		*ctx = rq;
		if (!rq)
			return MHD_NO;
		rq->max = public_ ? 0 : cl->peer.may_change ? api_body_max(method, path) : API_BODY_MAX;
		return refuse_early(s, c, cl, method, path, rq->max, &r) ? r : MHD_YES;
	}
	if (*data_len) {
		/* chunked bodies name no length: too much is read and forgotten, 413 is said at the end */
		if (rq->body.len + *data_len > rq->max)
			rq->too_big = true;
		else
			text_addn(&rq->body, data, *data_len);
		*data_len = 0;
		return MHD_YES;
	}
	if (rq->too_big)
		return refuse(c, 413, too_long(rq->max));
	if (!text_ok(&rq->body))
		return refuse(c, 503, "out of memory");
	return request_answer(s, c, cl, method, path, rq);
}

static void on_completed(void *arg, struct MHD_Connection *c, void **ctx, enum MHD_RequestTerminationCode why)
{
	struct request *rq = *ctx;

	(void)arg;
	(void)why;
	client_renew(client_of(c));
	if (rq)
		text_finish(&rq->body);
	free(rq);
	*ctx = NULL;
}

static void on_connection(void *arg, struct MHD_Connection *c, void **ctx, enum MHD_ConnectionNotificationCode code)
{
	struct site *s = arg;
	struct client *cl = *ctx;

	if (code == MHD_CONNECTION_NOTIFY_CLOSED) {
		if (cl)
			LIST_REMOVE(cl, link);
		free(cl);
		*ctx = NULL;
		return;
	}
	cl = calloc(1, sizeof(*cl));
	if (!cl)
		return;
	cl->fd = MHD_get_connection_info(c, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
	client_renew(cl);
	if (s->path)
		sock_peer(cl->fd, s->path, &cl->peer);
	LIST_INSERT_HEAD(&s->clients, cl, link);
	*ctx = cl;
}

static void on_log(void *arg, const char *fmt, va_list ap)
{
	char line[512], quoted[512];

	(void)arg;
	if (!log_on(LOG_DBG, LA_ADMIN))
		return;
	vsnprintf(line, sizeof(line), fmt, ap);
	log_dbg(LA_ADMIN, "libmicrohttpd: %s", log_quote(quoted, sizeof(quoted), line, strcspn(line, "\n")));
}

/* ---- running ---- */

/* The library's next time-out, at most a second while anybody is connected; off otherwise. */
static void timer_set(struct site *s)
{
	uint64_t wait_ms = LIST_EMPTY(&s->clients) ? 0 : 1000;
	struct itimerspec ts = {0};
	bool armed = wait_ms != 0;
	MHD_UNSIGNED_LONG_LONG ms;

	if (s->mhd && MHD_get_timeout(s->mhd, &ms) == MHD_YES) {
		wait_ms = armed ? min_u64(wait_ms, ms) : ms;
		armed = true;
	}
	if (armed) {
		ts.it_value.tv_sec = (time_t)(wait_ms / 1000);
		ts.it_value.tv_nsec = wait_ms ? (long)(wait_ms % 1000) * 1000000 : 1;
	}
	timerfd_settime(s->timer, 0, &ts, NULL);
}

/* A shut socket is an end that the library sees at once. */
static void slow_clients_end(struct site *s)
{
	uint64_t now = now_ms();

	for (struct client *cl = LIST_FIRST(&s->clients); cl; cl = LIST_NEXT(cl, link)) {
		if (now < cl->deadline_ms)
			continue;
		log_dbg(LA_ADMIN, "a client took longer than %u s for a request", REQUEST_MS / 1000);
		shutdown(cl->fd, SHUT_RDWR);
		cl->deadline_ms = UINT64_MAX;
	}
}

void site_run(struct site *s)
{
	MHD_UNSIGNED_LONG_LONG ms;
	uint64_t ticks;

	while (read(s->timer, &ticks, sizeof(ticks)) > 0)
		;
	slow_clients_end(s);
	streams_run(s->streams);
	for (int i = 0; s->mhd && i < RUNS_MAX; i++) {
		MHD_run(s->mhd);
		if (MHD_get_timeout(s->mhd, &ms) != MHD_YES || ms)
			break;
	}
	timer_set(s);
}

void admin_run(struct admin *a)
{
	site_run(&a->local);
}

int admin_fd(const struct admin *a)
{
	return a->local.epoll;
}

void admin_set_policies(struct admin *a, const struct policy_ops *ops)
{
	a->api.policies = *ops;
}

void admin_set_certs(struct admin *a, const struct cert_ops *ops)
{
	a->api.certs = *ops;
}

void admin_set_ops(struct admin *a, const struct admin_ops *ops)
{
	a->api.ops = *ops;
	atomic_store(&a->api.ops_set, true);
}

/* ---- starting, stopping ---- */

static int watch(struct site *s, int fd, struct err *reterr)
{
	struct epoll_event ev = {.events = EPOLLIN};

	if (epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &ev) < 0)
		return err_set(reterr, -errno, "admin: epoll: %s", strerror(errno));
	return 0;
}

int site_init(struct site *s, struct api *api, bool public_, struct err *reterr)
{
	*s = (struct site){.api = api, .public_ = public_, .listen = -1};
	LIST_INIT(&s->clients);
	s->epoll = epoll_create1(EPOLL_CLOEXEC);
	s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->epoll < 0 || s->timer < 0)
		return err_set(reterr, -errno, "admin: %s", strerror(errno));
	return watch(s, s->timer, reterr);
}

int site_open(struct site *s, int fd, struct err *reterr)
{
	/* first: the logger, so that what the other options say is ours too */
	struct MHD_Daemon *d = MHD_start_daemon(
		MHD_USE_EPOLL | MHD_USE_ERROR_LOG | (s->streams ? MHD_ALLOW_SUSPEND_RESUME : 0u), 0, NULL, NULL, on_request, s, MHD_OPTION_EXTERNAL_LOGGER, on_log, s,
		MHD_OPTION_LISTEN_SOCKET, fd, MHD_OPTION_CONNECTION_LIMIT, CLIENTS_MAX, MHD_OPTION_PER_IP_CONNECTION_LIMIT,
		s->public_ ? CLIENTS_PER_IP : 0u, MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
		(size_t)HEADER_MEMORY, MHD_OPTION_STRICT_FOR_CLIENT, 1, MHD_OPTION_NOTIFY_COMPLETED, on_completed, s,
		MHD_OPTION_NOTIFY_CONNECTION, on_connection, s, MHD_OPTION_END);
	const union MHD_DaemonInfo *i;

	if (!d) {
		close(fd);
		return err_set(reterr, -EIO, "admin: libmicrohttpd does not start; the log at level debug may say why");
	}
	s->mhd = d; /* from here on site_finish() ends it */
	s->listen = fd;
	i = MHD_get_daemon_info(d, MHD_DAEMON_INFO_EPOLL_FD);
	if (!i)
		return err_set(reterr, -ENOSYS, "admin: this libmicrohttpd has no epoll");
	return watch(s, i->epoll_fd, reterr);
}

void site_leave(struct site *s)
{
	if (s->mhd && s->listen >= 0 && MHD_quiesce_daemon(s->mhd) != MHD_INVALID_SOCKET)
		close(s->listen); /* it is ours now, the library forgets it */
	s->listen = -1;
}

void site_finish(struct site *s)
{
	streams_end(s->streams);
	if (s->mhd)
		MHD_stop_daemon(s->mhd);
	streams_destroy(s->streams);
	if (s->timer >= 0)
		close(s->timer);
	if (s->epoll >= 0)
		close(s->epoll);
	*s = (struct site){.epoll = -1, .timer = -1, .listen = -1};
}

static int start_local(struct admin *a, const struct config *c, struct adopt *set, struct err *reterr)
{
	int fd;

	if (!c->admin_socket)
		return 0;
	a->path = strdup(c->admin_socket);
	if (!a->path)
		return err_set(reterr, -ENOMEM, "admin: out of memory");
	a->local.path = a->path;
	a->local.streams = streams_create(a->local.api, a->local.epoll);
	if (!a->local.streams)
		return err_set(reterr, -ENOMEM, "admin: out of memory");
	fd = adopt_take_path(set, a->path);
	if (fd >= 0)
		sock_unix_adopted(a->path, &a->file);
	else
		fd = sock_unix(a->path, c->admin_mode, &a->file, reterr);
	return fd < 0 ? fd : site_open(&a->local, fd, reterr);
}

static int start_public(struct admin *a, const struct config *c, struct adopt *set, struct err *reterr)
{
	int fd;

	if (c->metrics.family == AF_UNSPEC)
		return 0;
	fd = set ? adopt_take(set, &c->metrics, adopt_netns(-1), "admin.metrics") : -1;
	if (fd < 0)
		fd = sock_tcp(&c->metrics, reterr);
	return fd < 0 ? fd : site_open(&a->public_, fd, reterr);
}

int admin_start(struct admin **ret, struct daemon *d, const struct config *c, struct err *reterr)
{
	return admin_start_from(ret, d, c, NULL, reterr);
}

int admin_start_from(struct admin **ret, struct daemon *d, const struct config *c, struct adopt *set, struct err *reterr)
{
	struct admin *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return err_set(reterr, -ENOMEM, "admin: out of memory");
	a->api.d = d;
	a->public_.epoll = a->public_.timer = a->public_.listen = -1;
	r = site_init(&a->local, &a->api, false, reterr);
	if (r == 0)
		r = site_init(&a->public_, &a->api, true, reterr);
	if (r == 0)
		r = start_local(a, c, set, reterr);
	if (r == 0)
		r = start_public(a, c, set, reterr);
	if (r == 0)
		r = health_thread_start(&a->health, &a->public_, reterr);
	if (r < 0) {
		admin_stop(a);
		return r;
	}
	*ret = a;
	return 0;
}

void admin_sockets(const struct admin *a, int *ret_local, int *ret_public)
{
	*ret_local = a->local.listen;
	*ret_public = a->public_.listen;
}

void admin_leave(struct admin *a)
{
	site_leave(&a->local);
	health_thread_leave(a->health);
	a->file.path = NULL; /* the file is the other's */
}

void admin_stop(struct admin *a)
{
	if (!a)
		return;
	health_thread_stop(a->health);
	sock_unix_remove(&a->file);
	site_finish(&a->local);
	site_finish(&a->public_);
	free(a->path);
	free(a);
}
