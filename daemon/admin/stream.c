/*
 * Answers without an end: live traces. The workers write records to rings; fifty times a second, while anybody watches, the rings are
 * emptied, each record is made a line once for each who follows it, and the lines wait for the library to take them.
 *
 * A connection with nothing to send is suspended, or the library would ask again and again. One that does not read has a buffer of
 * 256 KiB; beyond it events are lost, for that one only, and it is told how many as soon as it reads again. What found no room in a
 * worker's ring is told to all. A client that is gone is seen by its socket: the library does not look at it while it is suspended.
 */
#include "admin/stream.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/tracing.h"
#include "obs/trace.h"
#include <inttypes.h>
#include <microhttpd.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/queue.h>
#include <sys/timerfd.h>
#include <time.h>

#define WAITING_MAX (256u * 1024u) /* bytes of lines that a client has not read yet */
#define EVERY_MS    20
#define IDLE_S	    120u /* who takes nothing for so long while there is something is cut */

struct stream {
	LIST_ENTRY(stream) link;
	struct streams *all;
	struct MHD_Connection *c;
	int fd;
	uint32_t slot;
	struct text wait; /* lines, from at on */
	size_t at;
	uint64_t lost;	  /* lines that found no room, since the last that did */
	uint64_t missed;  /* of tracing_lost(), told */
	uint64_t end_ms;  /* 0: none */
	uint64_t left;	  /* events; 0: no limit */
	bool json, suspended, ended;
};

struct streams {
	struct api *api;
	int timer;
	bool stopping;
	LIST_HEAD(, stream) live;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static void timer_set(struct streams *s)
{
	const long ns = LIST_EMPTY(&s->live) ? 0 : EVERY_MS * 1000000;
	const struct itimerspec ts = {.it_value.tv_nsec = ns, .it_interval.tv_nsec = ns};

	timerfd_settime(s->timer, 0, &ts, NULL);
}

struct streams *streams_create(struct api *api, int epoll)
{
	struct streams *s = calloc(1, sizeof(*s));
	struct epoll_event ev = {.events = EPOLLIN};

	if (!s)
		return NULL;
	s->api = api;
	LIST_INIT(&s->live);
	s->timer = timerfd_create(CLOCK_MONOTONIC, TFD_NONBLOCK | TFD_CLOEXEC);
	if (s->timer >= 0 && epoll_ctl(epoll, EPOLL_CTL_ADD, s->timer, &ev) == 0)
		return s;
	streams_destroy(s);
	return NULL;
}

/* ---- the library's side ---- */

static ssize_t reader(void *arg, uint64_t pos, char *out, size_t max)
{
	struct stream *t = arg;
	size_t n = min_u64(t->wait.len - t->at, max);

	(void)pos;
	if (n) {
		memcpy(out, t->wait.s + t->at, n);
		t->at += n;
		if (t->at == t->wait.len)
			t->at = t->wait.len = 0;
		return (ssize_t)n;
	}
	if (t->ended)
		return MHD_CONTENT_READER_END_OF_STREAM;
	t->suspended = true;
	MHD_suspend_connection(t->c);
	return 0;
}

static void done(void *arg)
{
	struct stream *t = arg;
	struct streams *s = t->all;

	LIST_REMOVE(t, link);
	if (!s->stopping) {
		tracing_stop(s->api->d, t->slot);
		timer_set(s);
		log_info(LA_ADMIN, "a trace has ended");
	}
	text_finish(&t->wait);
	free(t);
}

/* ---- lines ---- */

static void note(struct stream *t, const char *text)
{
	struct trace_rec *r = alloca(sizeof(*r) + strlen(text));
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	*r = (struct trace_rec){.at_us = (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u,
				.kind = TRACE_NOTE,
				.len = (uint16_t)strlen(text)};
	memcpy(r->text, text, r->len);
	(t->json ? trace_json : trace_line)(&t->wait, r);
}

static void room_make(struct stream *t)
{
	if (!t->at)
		return;
	memmove(t->wait.s, t->wait.s + t->at, t->wait.len - t->at);
	t->wait.len -= t->at;
	t->at = 0;
}

static void lost_say(struct stream *t, uint64_t n, const char *why)
{
	char text[160];

	snprintf(text, sizeof(text), "%" PRIu64 " events were lost here: %s", n, why);
	note(t, text);
}

static void to_stream(struct stream *t, const struct trace_rec *r)
{
	uint64_t lost = t->lost;

	if (t->ended)
		return;
	if (t->wait.len - t->at > WAITING_MAX) {
		t->lost++;
		return;
	}
	if (t->at > WAITING_MAX / 2)
		room_make(t);
	t->lost = 0;
	if (lost)
		lost_say(t, lost, "whoever reads this is too slow");
	(t->json ? trace_json : trace_line)(&t->wait, r);
	if (t->left && --t->left == 0)
		t->ended = true;
}

static void record(void *arg, const struct trace_rec *r)
{
	struct streams *s = arg;
	struct stream *t;

	LIST_FOREACH(t, &s->live, link)
		if (r->traces & 1u << t->slot)
			to_stream(t, r);
}

static bool gone(const struct stream *t)
{
	struct pollfd p = {.fd = t->fd};

	return poll(&p, 1, 0) > 0 && (p.revents & (POLLHUP | POLLERR));
}

static void look_after(struct stream *t, uint64_t now, uint64_t missed)
{
	if (missed != t->missed && !t->ended && t->wait.len - t->at <= WAITING_MAX) {
		lost_say(t, missed - t->missed, "more came at once than a worker's buffer holds");
		t->missed = missed;
	}
	if (gone(t) || (t->end_ms && now >= t->end_ms) || t->wait.failed)
		t->ended = true;
	if (!t->suspended || (!t->ended && t->at == t->wait.len))
		return;
	t->suspended = false;
	MHD_resume_connection(t->c);
}

void streams_run(struct streams *s)
{
	struct stream *t, *next;
	uint64_t ticks;

	if (!s || LIST_EMPTY(&s->live))
		return;
	while (read(s->timer, &ticks, sizeof(ticks)) > 0)
		;
	tracing_read(s->api->d, record, s);
	for (t = LIST_FIRST(&s->live); t; t = next) {
		next = LIST_NEXT(t, link);
		look_after(t, now_ms(), tracing_lost(s->api->d));
	}
}

/* ---- beginning and end ---- */

static void begin_say(struct stream *t, const struct trace_ask *ask)
{
	static const char *const level[TL_LEVELS] = {"events", "frames", "bytes"};
	const struct trace_filter *f = &ask->filter;
	char what[TRACE_NAME + 32], a[ADDR_STR], text[sizeof(what) + 64];

	if (f->by == TRACE_BY_CONN)
		snprintf(what, sizeof(what), "connection %" PRIu64, f->conn);
	else if (f->by == TRACE_BY_ADDR)
		snprintf(what, sizeof(what), "peer %s", f->addr.port ? addr_str(&f->addr, a) : addr_ip_str(&f->addr, a));
	else
		snprintf(what, sizeof(what), "%s %s", f->by == TRACE_BY_ID ? "peer" : "listener", f->text);
	snprintf(text, sizeof(text), "%s, level %s", what, level[f->level]);
	note(t, text);
	log_info(LA_ADMIN, "a trace begins: %s", text);
}

struct MHD_Response *streams_open(struct streams *s, struct MHD_Connection *c, int fd, const struct trace_ask *ask, struct api_answer *ans)
{
	struct stream *t = calloc(1, sizeof(*t));
	struct MHD_Response *resp;
	struct err e = {""};
	int r;

	if (!t) {
		api_fail(ans, 503, "out of memory");
		return NULL;
	}
	r = tracing_start(s->api->d, &ask->filter, &t->slot, &e);
	if (r < 0) {
		free(t);
		api_fail(ans, 503, "%s", e.msg);
		return NULL;
	}
	t->all = s;
	t->c = c;
	t->fd = fd;
	t->json = ask->json;
	t->left = ask->count;
	t->end_ms = ask->for_ms ? now_ms() + ask->for_ms : 0;
	t->missed = tracing_lost(s->api->d);
	LIST_INSERT_HEAD(&s->live, t, link);
	begin_say(t, ask);
	resp = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 16384, reader, t, done);
	if (!resp) {
		done(t);
		api_fail(ans, 503, "out of memory");
		return NULL;
	}
	MHD_set_connection_option(c, MHD_CONNECTION_OPTION_TIMEOUT, IDLE_S);
	timer_set(s);
	return resp;
}

void streams_end(struct streams *s)
{
	struct stream *t;

	if (!s)
		return;
	s->stopping = true;
	LIST_FOREACH(t, &s->live, link) {
		t->ended = true;
		if (t->suspended)
			MHD_resume_connection(t->c);
		t->suspended = false;
	}
}

void streams_destroy(struct streams *s)
{
	if (!s)
		return;
	if (s->timer >= 0)
		close(s->timer);
	free(s);
}
