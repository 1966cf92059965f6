/*
 * The API's front door: one table of paths, checked in the order path (404), method (405), permission (403), parameters (400),
 * then the handler. An answer is JSON; a refusal is {"error": "..."} with a sentence that says what to do.
 *
 * Handlers write into ans->body and leave the status 200 unless api_fail() changed it. They may ask workers, so one request can
 * take a second when a worker hangs; then the answer is 503.
 */
#include "admin/api.h"
#include "base/clean.h"
#include "obs/metrics.h"
#include <adit/admin.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define JSON_TYPE "application/json"

static api_handler api_index;

enum route_flag {
	R_CHANGE = 1, /* changes something, or reads files with the daemon's rights: root or own user only */
	R_PUBLIC = 2, /* also on TCP */
	R_ID = 4,     /* path ends in an id */
	R_NAME = 8,   /* path ends in a name, in which slashes may be */
	R_QUIET = 16, /* changes nothing after all: not in the audit log */
	R_LONG = 32,  /* bodies up to API_BODY_LONG */
};

struct route {
	const char *method, *path;
	unsigned int flags; /* enum route_flag */
	const char *params; /* " name name ", blank at both ends; NULL: none */
	api_handler *handle;
	const char *help;
};

#define POLICY_PARAMS " if_generation dry_run prune file "

static const struct route routes[] = {
	{"GET", ADIT_API_INDEX, 0, NULL, api_index, "this list"},
	{"GET", ADIT_API_STATUS, 0, NULL, api_status, "what the daemon is and how much it holds"},
	{"GET", ADIT_API_LISTENERS, 0, NULL, api_listeners, "listeners and their counters"},
	{"GET", ADIT_API_CHAINS, 0, NULL, api_chains, "every way through the listeners"},
	{"GET", ADIT_API_CLUSTERS, 0, NULL, api_clusters, "clusters, their endpoints and counters"},
	{"GET", ADIT_API_TUNNELS, 0, " limit peer ", api_tunnels, "live tunnels"},
	{"GET", ADIT_API_CONNS, 0, " limit listener peer ", api_conns, "live connections"},
	{"GET", ADIT_API_CONN, R_ID, NULL, api_conn, "one live connection"},
	{"DELETE", ADIT_API_CONN, R_ID | R_CHANGE, NULL, api_conn_kill, "close one connection, with RST to both ends"},
	{"GET", ADIT_API_EXPLAIN, 0, " src dst listener principal authority header metadata ", api_explain,
	 "what would become of a connection, and why; nothing is sent"},
	{"GET", ADIT_API_EXPLAIN_CONN, R_ID, NULL, api_explain_conn, "the same of a live or recent one: how it ended, what took so long"},
	{"GET", ADIT_API_DENIED, 0, " limit listener since_ms ", api_denied, "who was denied lately, and why"},
	{"GET", ADIT_API_KERNEL, 0, NULL, api_kernel, "the kernel plane: its means, their state, and what they counted"},
	{"POST", ADIT_API_KERNEL_BYPASS, R_CHANGE, NULL, api_kernel_bypass, "switch the bypass: {\"on\": true|false}"},
	{"GET", ADIT_API_WORKLOADS, 0, NULL, api_workloads, "workloads: whose connections are, with their identities"},
	{"GET", ADIT_API_LIMITS, 0, " limit ", api_limits, "limits: what is used of them, whom they refused"},
	{"GET", ADIT_API_STATS, 0, " match ", api_stats, "counters, gauges, resets by code, latencies"},
	{"GET", ADIT_API_LOG, 0, NULL, api_log, "log levels, and what was held back"},
	{"PUT", ADIT_API_LOG, R_CHANGE, NULL, api_log_set,
	 "set log levels: {\"levels\": {\"AREA\": \"LEVEL\"}, \"for_ms\": N}, or {\"reset\": [\"AREA\"]}"},
	{"GET", ADIT_API_TRACE, R_CHANGE, " conn peer listener level for_ms count format ", api_trace,
	 "a live trace of one connection, peer or listener; it has no end"},
	{"GET", ADIT_API_LOG_LEVEL, 0, NULL, api_log_level, "log level of each area"},
	{"PUT", ADIT_API_LOG_LEVEL, R_CHANGE, NULL, api_log_level_set, "set log levels: {\"AREA\": \"LEVEL\"}"},
	{"GET", ADIT_API_POLICIES, 0, NULL, api_policies, "policies in force, and what they have decided"},
	{"POST", ADIT_API_POLICIES, R_CHANGE | R_LONG, POLICY_PARAMS, api_policies_apply, "add or change the policies of a YAML document"},
	{"POST", ADIT_API_POLICIES_CHECK, R_CHANGE | R_LONG | R_QUIET, POLICY_PARAMS, api_policies_check, "would it be accepted?"},
	{"POST", ADIT_API_POLICIES_DIFF, R_CHANGE | R_LONG | R_QUIET, POLICY_PARAMS, api_policies_diff, "what would it change?"},
	{"GET", ADIT_API_POLICY, R_NAME, NULL, api_policy, "one policy, as YAML"},
	{"PUT", ADIT_API_POLICY, R_NAME | R_CHANGE | R_LONG, POLICY_PARAMS, api_policy_put, "add or change one policy"},
	{"DELETE", ADIT_API_POLICY, R_NAME | R_CHANGE, " if_generation dry_run ", api_policy_delete, "remove one policy"},
	{"GET", ADIT_API_AUDIT, R_CHANGE | R_QUIET, " limit ", api_audit_show, "the last attempts to change something"},
	{"POST", ADIT_API_CONFIG_CHECK, R_CHANGE | R_QUIET, NULL, api_config_check,
	 "judge a configuration: YAML text or {\"path\": FILE}"},
	{"POST", ADIT_API_RELOAD, R_CHANGE, NULL, api_reload, "read the configuration again and bring it into force"},
	{"GET", ADIT_API_CERTS, 0, " identity ", api_certs, "identities, their certificates, CAs and revocation lists"},
	{"GET", ADIT_API_DRAIN, 0, NULL, api_drain_progress, "how far a drain is"},
	{"POST", ADIT_API_DRAIN, R_CHANGE, NULL, api_drain, "drain and end: {\"within_ms\": N}"},
	{"GET", ADIT_API_UPGRADE, 0, NULL, api_upgrade_state, "how far a new daemon is that takes over"},
	{"POST", ADIT_API_UPGRADE, R_CHANGE, NULL, api_upgrade, "start a new daemon that takes over: {\"program\": FILE}"},
	{"GET", ADIT_API_METRICS, R_PUBLIC, NULL, api_metrics, "Prometheus metrics"},
	{"GET", ADIT_API_METRICS_ISTIO, R_PUBLIC, NULL, api_metrics, "the same"},
	{"GET", ADIT_API_READY, R_PUBLIC, NULL, api_ready, "200 when ready, 503 when starting or draining"},
	{"GET", ADIT_API_LIVE, R_PUBLIC, NULL, api_live, "200 while every worker turns, else 503"},
};

void api_fail(struct api_answer *ans, unsigned int status, const char *fmt, ...)
{
	char sentence[1024];
	struct json j;
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	ans->status = status;
	ans->type = JSON_TYPE;
	ans->body.len = 0;
	json_init(&j, &ans->body, false);
	json_open(&j, NULL, '{');
	json_str(&j, "error", sentence);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

void api_fail_inspect(struct api_answer *ans, int r)
{
	if (r == -EAGAIN)
		api_fail(ans, 503, "a worker has many orders waiting, or is not running yet; try again");
	else if (r == -ETIMEDOUT)
		api_fail(ans, 503,
			 "a worker did not answer within a second; try again, and if that lasts, look at the log");
	else
		api_fail(ans, r == -ENOMEM ? 503 : 500, "cannot look: %s", strerror(-r));
}

const char *api_arg(const struct api_req *req, const char *name)
{
	for (uint32_t i = 0; i < req->n_args; i++)
		if (!strcmp(req->args[i].name, name))
			return req->args[i].value ? req->args[i].value : "";
	return NULL;
}

static void api_index(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct json j;

	(void)a;
	(void)req;
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_open(&j, "paths", '[');
	for (uint32_t i = 0; i < ARRAY_LEN(routes); i++) {
		char path[64];

		snprintf(path, sizeof(path), "%s%s", routes[i].path,
			 routes[i].flags & R_ID ? "ID" : routes[i].flags & R_NAME ? "NAME" : "");
		json_open(&j, NULL, '{');
		json_str(&j, "method", routes[i].method);
		json_str(&j, "path", path);
		json_str(&j, "help", routes[i].help);
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

static bool path_is(const struct route *r, const char *path)
{
	size_t n = strlen(r->path);

	if (r->flags & R_NAME)
		return !strncmp(r->path, path, n) && path[n];
	if (r->flags & R_ID)
		return !strncmp(r->path, path, n) && path[n] && !strchr(path + n, '/');
	return !strcmp(r->path, path);
}

static const char *allowed_methods(const char *path)
{
	static char out[64];

	out[0] = '\0';
	for (uint32_t i = 0; i < ARRAY_LEN(routes); i++)
		if (path_is(&routes[i], path))
			snprintf(out + strlen(out), sizeof(out) - strlen(out), "%s%s", out[0] ? ", " : "",
				 routes[i].method);
	return out;
}

/* HEAD is GET; the transport leaves out the body. Return: NULL when there is none; *ret_path says whether the path exists. */
static const struct route *path_find(const struct api_req *req, bool *ret_path)
{
	const char *method = strcmp(req->method, "HEAD") ? req->method : "GET";

	*ret_path = false;
	for (uint32_t i = 0; i < ARRAY_LEN(routes); i++) {
		if ((req->public_ && !(routes[i].flags & R_PUBLIC)) || !path_is(&routes[i], req->path))
			continue;
		*ret_path = true;
		if (!strcmp(routes[i].method, method))
			return &routes[i];
	}
	return NULL;
}

/* Return: false when a parameter is unknown; a misspelt filter must not look like "no filter". */
static bool params_known(const struct route *r, const struct api_req *req, struct api_answer *ans)
{
	char word[40], list[96] = "none";

	if (r->params)
		snprintf(list, sizeof(list), "%.*s", (int)strlen(r->params) - 2, r->params + 1);
	for (uint32_t i = 0; i < req->n_args; i++) {
		snprintf(word, sizeof(word), " %.32s ", req->args[i].name);
		if (r->params && strstr(r->params, word) && !strchr(req->args[i].name, ' ') && *req->args[i].name)
			continue;
		api_fail(ans, 400, "unknown parameter '%.32s'; %s takes: %s", req->args[i].name, r->path, list);
		return false;
	}
	return true;
}

void api_handle(struct api *a, const struct api_req *req, struct api_answer *ret)
{
	const struct route *r;
	bool path;

	*ret = (struct api_answer){.status = 200, .type = JSON_TYPE};
	r = path_find(req, &path);
	if (!path && req->public_) {
		api_fail(ret, 404,
			 "no such path here: this address serves %s, %s, %s and %s; the rest is on the admin socket",
			 ADIT_API_METRICS, ADIT_API_METRICS_ISTIO, ADIT_API_READY, ADIT_API_LIVE);
	} else if (!path) {
		api_fail(ret, 404, "no such path: GET %s lists what there is", ADIT_API_INDEX);
	} else if (!r) {
		ret->allow = allowed_methods(req->path);
		api_fail(ret, 405, "this path takes %s", ret->allow);
	} else if ((r->flags & R_CHANGE) && !req->may_change) {
		api_fail(ret, 403, "only root and the daemon's own user may do this; try sudo");
	} else if (params_known(r, req, ret)) {
		r->handle(a, req, ret);
	}
	if (r && (r->flags & R_CHANGE) && !(r->flags & R_QUIET))
		api_audit(a, req, ret, r->flags & R_LONG);
	text_finish(&ret->audit);
}

size_t api_body_max(const char *method, const char *path)
{
	for (uint32_t i = 0; i < ARRAY_LEN(routes); i++)
		if ((routes[i].flags & R_LONG) && !strcmp(routes[i].method, method) && path_is(&routes[i], path))
			return API_BODY_LONG;
	return API_BODY_MAX;
}
