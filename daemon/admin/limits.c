/* Limits: what is used of them, who was refused; for GET /v1/limits and GET /metrics. */
#include "admin/api.h"
#include "base/clean.h"
#include "chain/limits.h"
#include "obs/metrics.h"
#include <string.h>

#define SUBJECTS 20u /* of each class, when no limit is asked for */
#define SUBJECTS_MAX 1000u

static const char *at_str(enum limit_at at)
{
	switch (at) {
	case LIMIT_DAEMON: return "daemon";
	case LIMIT_LISTENER: return "listener";
	case LIMIT_CLUSTER: return "cluster";
	case LIMIT_PRINCIPAL: return "principal";
	case LIMIT_SOURCE: return "source";
	}
	return "?";
}

static void put_rate(struct json *j, const char *key, const struct cfg_rate *r)
{
	if (!r->per_second) {
		json_str(j, key, NULL);
		return;
	}
	json_open(j, key, '{');
	json_u64(j, "per_second", r->per_second);
	json_u64(j, "burst", r->burst);
	json_close(j, '}');
}

static void put_limit(struct json *j, const struct limit_row *r)
{
	bool class = r->at == LIMIT_PRINCIPAL || r->at == LIMIT_SOURCE;

	json_open(j, NULL, '{');
	json_str(j, "at", at_str(r->at));
	json_str(j, "name", r->name);
	json_u64(j, "active", r->active);
	json_u64(j, "max_connections", r->max_connections);
	put_rate(j, "rate", &r->rate);
	if (!class && r->rate.per_second)
		json_u64(j, "left", r->left);
	json_u64(j, "refused_connections", r->refused_connections);
	json_u64(j, "refused_rate", r->refused_rate);
	if (r->at == LIMIT_LISTENER && (r->tunnel_rate.per_second || r->refused_tunnels)) {
		put_rate(j, "tunnel_rate", &r->tunnel_rate);
		json_u64(j, "refused_tunnels", r->refused_tunnels);
	}
	if (class) {
		json_u64(j, "subjects", r->subjects);
		json_u64(j, "remember", r->remember);
		json_u64(j, "overflowed", r->overflowed);
	}
	json_close(j, '}');
}

static void put_subject(struct json *j, const struct limit_subject_row *s)
{
	json_open(j, NULL, '{');
	json_str(j, "at", at_str(s->at));
	json_str(j, "name", s->name);
	json_str(j, "who", s->r.overflow ? NULL : s->r.who);
	json_bool(j, "overflow", s->r.overflow);
	json_u64(j, "active", s->r.active);
	json_u64(j, "left", s->r.left);
	json_u64(j, "refused_connections", s->r.refused_connections);
	json_u64(j, "refused_rate", s->r.refused_rate);
	json_u64(j, "idle_us", s->r.idle_us);
	json_close(j, '}');
}

void api_limits(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct limit_row *rows = NULL;
	AUTO_FREE struct limit_subject_row *subjects = NULL;
	size_t n = 0, n_subjects = 0;
	uint64_t each;
	struct json j;
	int r;

	if (!api_limit(req, SUBJECTS, &each, ans))
		return;
	if (!each || each > SUBJECTS_MAX)
		each = SUBJECTS_MAX;
	r = inspect_limits(a->d, &rows, &n);
	if (r == 0)
		r = inspect_limit_subjects(a->d, each, &subjects, &n_subjects);
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "limits", '[');
	for (size_t i = 0; i < n; i++)
		put_limit(&j, &rows[i]);
	json_close(&j, ']');
	json_open(&j, "subjects", '[');
	for (size_t i = 0; i < n_subjects; i++)
		put_subject(&j, &subjects[i]);
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

static void limited(struct text *t, const struct limit_row *r, const char *kind, uint64_t n)
{
	const struct metrics_label l[] = {{"at", at_str(r->at)}, {"name", r->name}, {"kind", kind}};

	metrics_u64(t, "adit_limited_total", l, ARRAY_LEN(l), n);
}

void api_add_limits(struct text *t, struct daemon *d)
{
	AUTO_FREE struct limit_row *rows = NULL;
	size_t n = 0;

	if (inspect_limits(d, &rows, &n) < 0) {
		t->failed = true;
		return;
	}
	metrics_family(t, "adit_limited_total", METRICS_COUNTER, "connections and tunnels refused by a limit");
	for (size_t i = 0; i < n; i++) {
		const struct limit_row *r = &rows[i];

		if (r->max_connections || r->refused_connections)
			limited(t, r, "connections", r->refused_connections);
		if (r->rate.per_second || r->refused_rate)
			limited(t, r, "rate", r->refused_rate);
		if (r->tunnel_rate.per_second || r->refused_tunnels)
			limited(t, r, "tunnel_rate", r->refused_tunnels);
	}
	metrics_family(t, "adit_limit_subjects", METRICS_GAUGE, "principals or sources that a class of limits remembers");
	for (size_t i = 0; i < n; i++) {
		const struct metrics_label l[] = {{"at", at_str(rows[i].at)}, {"name", rows[i].name}};

		if (rows[i].remember)
			metrics_u64(t, "adit_limit_subjects", l, ARRAY_LEN(l), rows[i].subjects);
	}
	metrics_family(t, "adit_limit_overflowed_total", METRICS_COUNTER,
		       "connections of principals or sources for which a class of limits had no room");
	for (size_t i = 0; i < n; i++) {
		const struct metrics_label l[] = {{"at", at_str(rows[i].at)}, {"name", rows[i].name}};

		if (rows[i].remember)
			metrics_u64(t, "adit_limit_overflowed_total", l, ARRAY_LEN(l), rows[i].overflowed);
	}
}
