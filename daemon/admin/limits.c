/* Limits: what is used of them, who was refused; for GET /v1/limits and GET /metrics. And overload, for GET /v1/status. */
#include "admin/api.h"
#include "base/clean.h"
#include "chain/limits.h"
#include "chain/overload.h"
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

/* ---- overload ---- */

static const char *pressure_str(uint8_t p)
{
	static const char *const names[] = {"none", "shrink", "close_idle", "refuse", "pause"};

	return p < ARRAY_LEN(names) ? names[p] : "?";
}

static void put_percent(struct json *j, const char *key, uint32_t share)
{
	json_u64(j, key, share / 100);
}

static void put_cgroup(struct json *j, const struct overload_row *r)
{
	if (!r->has_cgroup) {
		json_str(j, "cgroup", NULL);
		return;
	}
	json_open(j, "cgroup", '{');
	json_str(j, "path", r->cgroup);
	json_u64(j, "used", r->cgroup_used);
	json_u64(j, "limit", r->cgroup_limit);
	json_u64(j, "sockets", r->cgroup_sock);
	put_percent(j, "percent", r->cgroup_share);
	put_percent(j, "stalled_percent", r->cgroup_full);
	json_u64(j, "oom_kill", r->oom_kill);
	json_close(j, '}');
}

void api_put_overload(struct json *j, struct daemon *d)
{
	struct overload_row r;

	inspect_overload(d, &r);
	json_open(j, "overload", '{');
	json_bool(j, "enabled", r.enabled);
	json_str(j, "level", pressure_str(r.level));
	json_u64(j, "changes", r.changes);
	json_open(j, "memory", '{');
	json_str(j, "level", pressure_str(r.memory));
	json_u64(j, "buffered", r.buffered);
	json_u64(j, "limit", r.memory_limit);
	put_percent(j, "percent", r.own_share);
	put_cgroup(j, &r);
	json_close(j, '}');
	json_open(j, "descriptors", '{');
	json_str(j, "level", pressure_str(r.descriptors));
	json_u64(j, "used", r.descriptors_used);
	json_u64(j, "limit", r.descriptors_limit);
	put_percent(j, "percent", r.descriptor_share);
	json_close(j, '}');
	json_open(j, "cpu", '{');
	json_str(j, "level", pressure_str(r.cpu));
	put_percent(j, "busy_percent", r.cpu_busy);
	json_u64(j, "turn_ms", r.turn_ms);
	put_percent(j, "machine_stalled_percent", r.cpu_some);
	json_close(j, '}');
	json_close(j, '}');
}

static void resource(struct text *t, const char *family, const char *name, uint64_t v)
{
	const struct metrics_label l = {"resource", name};

	metrics_u64(t, family, &l, 1, v);
}

void api_add_overload(struct text *t, struct daemon *d)
{
	struct overload_row r;

	inspect_overload(d, &r);
	metrics_family(t, "adit_overload_level", METRICS_GAUGE, "0 none, 1 shrink, 2 close idle, 3 refuse, 4 pause");
	resource(t, "adit_overload_level", "memory", r.memory);
	resource(t, "adit_overload_level", "descriptors", r.descriptors);
	resource(t, "adit_overload_level", "cpu", r.cpu);
	metrics_family(t, "adit_overload_used_percent", METRICS_GAUGE, "how much of a resource is used");
	resource(t, "adit_overload_used_percent", "memory", r.own_share / 100);
	if (r.has_cgroup)
		resource(t, "adit_overload_used_percent", "cgroup", r.cgroup_share / 100);
	resource(t, "adit_overload_used_percent", "descriptors", r.descriptor_share / 100);
	resource(t, "adit_overload_used_percent", "cpu", r.cpu_busy / 100);
	metrics_family(t, "adit_overload_changes_total", METRICS_COUNTER, "times that the level of overload has changed");
	metrics_u64(t, "adit_overload_changes_total", NULL, 0, r.changes);
	if (!r.has_cgroup)
		return;
	metrics_family(t, "adit_cgroup_memory_used_bytes", METRICS_GAUGE, "charged to the cgroup, without the page cache of files");
	metrics_u64(t, "adit_cgroup_memory_used_bytes", NULL, 0, r.cgroup_used);
	metrics_family(t, "adit_cgroup_memory_limit_bytes", METRICS_GAUGE, "the cgroup's limit: the lower of memory.max and memory.high");
	metrics_u64(t, "adit_cgroup_memory_limit_bytes", NULL, 0, r.cgroup_limit);
	metrics_family(t, "adit_cgroup_oom_kills_total", METRICS_COUNTER, "processes of the cgroup that were killed for memory");
	metrics_u64(t, "adit_cgroup_oom_kills_total", NULL, 0, r.oom_kill);
}
