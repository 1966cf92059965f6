/*
 * Why: what would become of a connection (GET /v1/explain), what became of one (GET /v1/explain/ID), and who was denied lately (GET
 * /v1/denied). The answers are made in chain/explain*.c; here questions are read, and what the kernel knows of sockets is added.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "chain/explain.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>
#include <time.h>

#define DENIED_LIMIT 50u

/* ---- the question ---- */

struct question {
	struct explain_ask ask;
	struct header headers[API_ARGS], members[API_ARGS];
	char name[API_ARGS][128]; /* of headers, in lower case */
};

/* ADDRESS:PORT, or for sources ADDRESS alone. Return: false when it is neither. */
static bool address(const char *s, bool port, struct addr *ret)
{
	return addr_parse(s, strlen(s), ret, NULL) == 0 || (!port && addr_parse_ip(s, strlen(s), ret, NULL) == 0);
}

/* NAME=VALUE. Return: false (the answer is written) when it is not. */
static bool pair(const struct api_arg *a, struct question *q, struct header *ret, uint32_t i, bool lower, struct api_answer *ans)
{
	const char *v = a->value ? a->value : "", *eq = strchr(v, '=');
	size_t n = eq ? (size_t)(eq - v) : 0;

	if (!n || n >= sizeof(q->name[i])) {
		api_fail(ans, 400, "%s '%.64s': want NAME=VALUE", a->name, v);
		return false;
	}
	memcpy(q->name[i], v, n);
	for (char *p = q->name[i]; lower && *p; p++)
		*p = *p >= 'A' && *p <= 'Z' ? (char)(*p | 0x20) : *p;
	*ret = (struct header){{q->name[i], n}, {eq + 1, strlen(eq + 1)}};
	return true;
}

static const char *given(const struct api_req *req, const char *name)
{
	const char *s = api_arg(req, name);

	return s && *s ? s : NULL;
}

static bool pairs(const struct api_req *req, struct question *q, struct api_answer *ans)
{
	for (uint32_t i = 0; i < req->n_args; i++) {
		const struct api_arg *a = &req->args[i];
		bool ok = true;

		if (!strcmp(a->name, "header"))
			ok = pair(a, q, &q->headers[q->ask.n_headers++], i, true, ans);
		else if (!strcmp(a->name, "metadata"))
			ok = pair(a, q, &q->members[q->ask.n_members++], i, false, ans);
		if (!ok)
			return false;
	}
	q->ask.headers = q->headers;
	q->ask.members = q->members;
	return true;
}

static bool question_read(const struct api_req *req, struct question *q, struct api_answer *ans)
{
	const char *src = given(req, "src"), *dst = given(req, "dst");

	q->ask.listener = given(req, "listener");
	q->ask.principal = given(req, "principal");
	q->ask.authority = given(req, "authority");
	if (src && !address(src, false, &q->ask.src)) {
		api_fail(ans, 400, "src '%.64s': want ADDRESS or ADDRESS:PORT", src);
		return false;
	}
	/* a name: what a CONNECT asks for */
	if (dst && !address(dst, true, &q->ask.dst)) {
		const char *colon = strrchr(dst, ':');

		if (!colon || colon == dst || !colon[1] || colon[1 + strspn(colon + 1, "0123456789")]) {
			api_fail(ans, 400, "dst '%.64s': want ADDRESS:PORT or NAME:PORT", dst);
			return false;
		}
		if (!q->ask.authority)
			q->ask.authority = dst;
	}
	return pairs(req, q, ans);
}

static void answer_begin(struct json *j, struct api_answer *ans)
{
	ans->body.len = 0;
	json_init(j, &ans->body, true);
	json_open(j, NULL, '{');
}

static void answer_end(struct json *j, struct api_answer *ans)
{
	json_close(j, '}');
	text_add(&ans->body, "\n");
}

void api_explain(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct question *q = calloc(1, sizeof(*q));
	struct err why = {""};
	struct json j;
	int r;

	if (!q) {
		api_fail_inspect(ans, -ENOMEM);
		return;
	}
	if (!question_read(req, q, ans))
		return;
	answer_begin(&j, ans);
	r = explain_connection(a->d, &q->ask, &j, &why);
	answer_end(&j, ans);
	if (r == -EINVAL)
		api_fail(ans, 400, "%s", why.msg);
	else if (r < 0)
		api_fail_inspect(ans, r);
}

void api_explain_conn(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const char *s = req->path + strlen(ADIT_API_EXPLAIN_CONN);
	AUTO_FREE struct conn_row *row = calloc(1, sizeof(*row));
	struct json j;
	uint64_t id;
	int r;

	if (!row) {
		api_fail_inspect(ans, -ENOMEM);
		return;
	}
	if (!api_number(s, &id)) {
		api_fail(ans, 400, "connection '%.32s': want its id, a number that GET %s or the log shows", s, ADIT_API_CONNS);
		return;
	}
	answer_begin(&j, ans);
	r = explain_conn(a->d, id, &j, row);
	if (r == 0 && row->id)
		api_put_tcp(&j, inspect_config(a->d), row);
	answer_end(&j, ans);
	if (r == -ENOENT)
		api_fail(ans, 404, "connection %" PRIu64 " is neither live nor remembered (limits.recent); its access log line says how it ended", id);
	else if (r < 0)
		api_fail_inspect(ans, r);
}

/* ---- denials ---- */

static const char *addr_or_null(const struct addr *a, char out[ADDR_STR])
{
	return a->family != AF_UNSPEC ? addr_str(a, out) : NULL;
}

static void add_word(struct text *t, const char *option, const char *value)
{
	if (value && *value && !strchr(value, '\''))
		text_addf(t, " %s '%s'", option, value);
}

/* the command that says why */
static void put_command(struct json *j, const struct recent_denial *d)
{
	struct text t = {0};
	char a[ADDR_STR];

	if (d->conn) {
		text_addf(&t, "aditctl conn explain %" PRIu64, d->conn);
	} else {
		text_add(&t, "aditctl policy explain");
		add_word(&t, "--listener", d->listener);
		if (d->src.family != AF_UNSPEC)
			text_addf(&t, " --src %s", addr_str(&d->src, a));
		if (d->dst.family != AF_UNSPEC)
			text_addf(&t, " --dst %s", addr_str(&d->dst, a));
		add_word(&t, "--authority", d->authority);
		add_word(&t, "--principal", d->principal);
	}
	json_str(j, "explain", d->conn || d->listener[0] ? t.s : "aditctl cluster");
	text_finish(&t);
}

static void put_denied(struct json *j, const struct recent_denial *d)
{
	char src[ADDR_STR], dst[ADDR_STR];

	json_open(j, NULL, '{');
	json_str(j, "kind", denial_str(d->kind));
	json_u64(j, "count", d->n);
	json_u64(j, "first_us", d->first_us);
	json_u64(j, "last_us", d->last_us);
	json_str(j, "src", addr_or_null(&d->src, src));
	json_str(j, "src_identity", or_null(d->principal));
	json_str(j, "listener", or_null(d->listener));
	json_str(j, "cluster", or_null(d->cluster));
	json_str(j, "dst", addr_or_null(&d->dst, dst));
	json_str(j, "authority", or_null(d->authority));
	json_str(j, "policy", or_null(d->policy));
	json_str(j, "why", d->why);
	json_u64(j, "conn", d->conn);
	put_command(j, d);
	json_close(j, '}');
}

static uint64_t real_us(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000u;
}

void api_denied(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const char *listener = given(req, "listener"), *since = given(req, "since_ms");
	AUTO_FREE struct denied_row *rows = NULL;
	uint64_t limit, ms = 0, now = real_us(), from = 0;
	size_t n = 0, matched = 0;
	struct json j;
	int r;

	if (!api_limit(req, DENIED_LIMIT, &limit, ans))
		return;
	if (since && !api_number(since, &ms)) {
		api_fail(ans, 400, "since_ms '%.32s': want milliseconds", since);
		return;
	}
	if (since)
		from = ms < now / 1000 ? now - ms * 1000 : 0;
	r = inspect_denied(a->d, &rows, &n);
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	answer_begin(&j, ans);
	json_open(&j, "denied", '[');
	for (size_t i = 0; i < n; i++)
		if (rows[i].d.last_us >= from && (!listener || !strcmp(rows[i].d.listener, listener)) && (++matched <= limit || !limit))
			put_denied(&j, &rows[i].d);
	json_close(&j, ']');
	json_u64(&j, "total", n);
	json_u64(&j, "matched", matched);
	json_u64(&j, "now_us", now);
	answer_end(&j, ans);
}
