/* Workloads: whose connections are, with which identity, how many; for GET /v1/workloads and GET /metrics. */
#include "admin/api.h"
#include "base/clean.h"
#include "model/workload.h"
#include "obs/metrics.h"

static void put_nets(struct json *j, const char *key, const struct cidr *all, uint32_t n)
{
	if (!n)
		return;
	json_open(j, key, '[');
	for (uint32_t i = 0; i < n; i++) {
		struct text t = {0};

		api_cidr(&t, &all[i]);
		json_str(j, NULL, t.s);
		text_finish(&t);
	}
	json_close(j, ']');
}

static void put_texts(struct json *j, const char *key, const char *const *all, uint32_t n)
{
	if (!n)
		return;
	json_open(j, key, '[');
	for (uint32_t i = 0; i < n; i++)
		json_str(j, NULL, all[i]);
	json_close(j, ']');
}

static void put_match(struct json *j, const struct config *cfg, const struct cfg_workload *l)
{
	json_open(j, "match", '{');
	put_nets(j, "source", l->source, l->n_source);
	put_texts(j, "cgroups", l->cgroups, l->n_cgroups);
	if (l->n_uids) {
		json_open(j, "uids", '[');
		for (uint32_t i = 0; i < l->n_uids; i++)
			json_u64(j, NULL, l->uids[i]);
		json_close(j, ']');
	}
	if (l->n_listeners) {
		json_open(j, "listeners", '[');
		for (uint32_t i = 0; i < l->n_listeners; i++)
			json_str(j, NULL, cfg->listeners[l->listeners[i]].name);
		json_close(j, ']');
	}
	json_close(j, '}');
	json_open(j, "serves", '{');
	put_nets(j, "addresses", l->addresses, l->n_addresses);
	put_texts(j, "server_names", l->server_names, l->n_server_names);
	json_close(j, '}');
}

static void put_workload(struct json *j, const struct config *cfg, const struct workload_row *r)
{
	json_open(j, NULL, '{');
	json_str(j, "name", r->cfg ? r->cfg->name : NULL);
	json_str(j, "identity", r->cfg && r->cfg->identity ? r->cfg->identity->name : NULL);
	json_str(j, "spiffe_id", r->id);
	if (r->cfg) {
		put_match(j, cfg, r->cfg);
		json_str(j, "namespace", r->cfg->node.namespace_);
		json_str(j, "workload", r->cfg->node.workload);
		json_str(j, "service", r->cfg->node.service);
		json_str(j, "version", r->cfg->node.version);
	}
	json_u64(j, "connections", r->connections);
	json_u64(j, "active", r->active);
	json_u64(j, "refused", r->refused);
	json_close(j, '}');
}

void api_workloads(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct workload_row *rows = NULL;
	size_t n = 0;
	struct json j;
	int r = inspect_workloads(a->d, &rows, &n);

	(void)req;
	if (r < 0) {
		api_fail_inspect(ans, r);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "workloads", '[');
	for (size_t i = 0; i < n; i++)
		put_workload(&j, inspect_config(a->d), &rows[i]);
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

static void family(struct text *t, const char *name, enum metrics_type type, const char *help, const struct workload_row *r, size_t n, size_t at)
{
	metrics_family(t, name, type, help);
	for (size_t i = 0; i < n; i++) {
		const struct metrics_label l = {"workload", r[i].cfg ? r[i].cfg->name : ""};
		uint64_t v;

		memcpy(&v, (const char *)&r[i] + at, sizeof(v));
		metrics_u64(t, name, &l, 1, v);
	}
}

void api_add_workloads(struct text *t, struct daemon *d)
{
	AUTO_FREE struct workload_row *r = NULL;
	size_t n = 0;

	if (inspect_workloads(d, &r, &n) < 0) {
		t->failed = true;
		return;
	}
	metrics_family(t, "adit_workloads", METRICS_GAUGE, "workloads configured");
	metrics_u64(t, "adit_workloads", NULL, 0, n - 1);
	if (n == 1) /* nothing is ever counted */
		return;
	family(t, "adit_workload_connections_total", METRICS_COUNTER, "connections that applications of the workload opened", r, n,
	       offsetof(struct workload_row, connections));
	family(t, "adit_workload_connections", METRICS_GAUGE, "of them, those that live", r, n, offsetof(struct workload_row, active));
	family(t, "adit_workload_connections_refused_total", METRICS_COUNTER,
	       "refused: it may be the workload's and cannot be told, or a peer asked for it by another's tunnel; without name: nobody's", r, n,
	       offsetof(struct workload_row, refused));
}
