/*
 * Live connections: the list with its filters, one by id, and closing one. The rows are a copy of all connections (the workers
 * give them in batches); filters and limit are applied here, so they shorten the answer, not the work.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "base/log.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <string.h>

bool api_number(const char *s, uint64_t *ret)
{
	uint64_t v = 0;

	if (!*s)
		return false;
	for (; *s; s++) {
		if (*s < '0' || *s > '9' || v > (UINT64_MAX - (uint64_t)(*s - '0')) / 10)
			return false;
		v = v * 10 + (uint64_t)(*s - '0');
	}
	*ret = v;
	return true;
}

bool api_limit(const struct api_req *req, uint64_t otherwise, uint64_t *ret, struct api_answer *ans)
{
	const char *s = api_arg(req, "limit");

	*ret = otherwise;
	if (!s || api_number(s, ret))
		return true;
	api_fail(ans, 400, "limit '%.32s': want a whole number; 0 is no limit", s);
	return false;
}

/* members only: the caller opens and closes the object */
static void put_conn(struct json *j, const struct conn_row *r)
{
	json_u64(j, "id", r->id);
	json_u64(j, "worker", r->worker);
	json_str(j, "state", r->state);
	json_str(j, "mover", r->mover);
	json_str(j, "mover_why", or_null(r->mover_why));
	json_str(j, "listener", r->listener);
	json_str(j, "chain", r->chain);
	json_str(j, "route", or_null(r->route));
	json_str(j, "src", r->src);
	json_str(j, "dst", or_null(r->dst));
	json_str(j, "original_dst", or_null(r->original_dst));
	json_str(j, "authority", or_null(r->authority));
	json_str(j, "src_identity", or_null(r->src_identity));
	json_str(j, "workload", or_null(r->workload));
	json_str(j, "workload_by", or_null(r->workload_by));
	if (r->src_uid >= 0)
		json_i64(j, "src_uid", r->src_uid);
	else
		json_str(j, "src_uid", NULL);
	json_str(j, "dst_identity", or_null(r->dst_identity));
	json_str(j, "peer_id", or_null(r->peer_id));
	json_str(j, "metadata", or_null(r->metadata));
	json_bool(j, "mismatch", r->mismatch);
	json_u64(j, "tunnel_in", r->tunnel_in);
	json_u64(j, "stream_in", r->stream_in);
	json_u64(j, "tunnel_out", r->tunnel_out);
	json_u64(j, "stream_out", r->stream_out);
	json_u64(j, "bytes_sent", r->bytes_sent);
	json_u64(j, "bytes_recv", r->bytes_recv);
	json_u64(j, "buffered", r->buffered);
	json_u64(j, "age_us", r->age_us);
	json_u64(j, "idle_us", r->idle_us);
	json_u64(j, "bypassed_sent", r->bypassed_sent);
	json_u64(j, "bypassed_recv", r->bypassed_recv);
	json_u64(j, "spliced_sent", r->spliced_sent);
	json_u64(j, "spliced_recv", r->spliced_recv);
	json_str(j, "bypass_refused", or_null(r->bypass_refused));
}

static bool conn_wanted(const struct conn_row *r, const char *listener, const char *peer)
{
	if (listener && strcmp(r->listener, listener))
		return false;
	return !peer || strstr(r->src, peer) || strstr(r->dst, peer) || strstr(r->original_dst, peer) ||
	       strstr(r->authority, peer) || strstr(r->peer_id, peer) || strstr(r->src_identity, peer) ||
	       strstr(r->dst_identity, peer);
}

void api_conns(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const char *listener = api_arg(req, "listener"), *peer = api_arg(req, "peer");
	AUTO_FREE struct conn_row *rows = NULL;
	size_t n = 0, matched = 0;
	uint64_t limit;
	struct json j;
	int r;

	if (!api_limit(req, ADIT_API_CONNS_LIMIT, &limit, ans))
		return;
	r = inspect_conns(a->d, &rows, &n);
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "conns", '[');
	for (size_t i = 0; i < n; i++)
		if (conn_wanted(&rows[i], listener, peer) && (++matched <= limit || !limit)) {
			json_open(&j, NULL, '{');
			put_conn(&j, &rows[i]);
			json_close(&j, '}');
		}
	json_close(&j, ']');
	json_u64(&j, "total", n);
	json_u64(&j, "matched", matched);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* Return: false (and the answer is written) when the path does not end in a number. */
static bool conn_id(const struct api_req *req, uint64_t *ret, struct api_answer *ans)
{
	const char *s = req->path + strlen(ADIT_API_CONN);

	if (api_number(s, ret))
		return true;
	api_fail(ans, 400, "connection '%.32s': want its id, a number that GET %s shows", s, ADIT_API_CONNS);
	return false;
}

static void no_such_conn(struct api_answer *ans, uint64_t id)
{
	api_fail(ans, 404, "no connection %" PRIu64 "; it may have ended (its access log line says how)", id);
}

void api_conn(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct conn_row *rows = NULL;
	struct json j;
	uint64_t id;
	size_t n = 0;
	int r;

	if (!conn_id(req, &id, ans))
		return;
	r = inspect_conns(a->d, &rows, &n);
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	for (size_t i = 0; i < n; i++) {
		if (rows[i].id != id)
			continue;
		json_init(&j, &ans->body, true);
		json_open(&j, NULL, '{');
		put_conn(&j, &rows[i]);
		api_put_tcp(&j, inspect_config(a->d), &rows[i]);
		json_close(&j, '}');
		text_add(&ans->body, "\n");
		return;
	}
	no_such_conn(ans, id);
}

void api_conn_kill(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct json j;
	uint64_t id;
	int r;

	if (!conn_id(req, &id, ans))
		return;
	r = inspect_kill(a->d, id);
	if (r == -ENOENT) {
		no_such_conn(ans, id);
		return;
	}
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	log_info(LA_ADMIN, "connection %" PRIu64 " closed by the operator", id);
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_u64(&j, "closed", id);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}
