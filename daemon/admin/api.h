/*
 * The API without its transport: a request is plain data, so is the answer. server.c carries both over HTTP; unit tests and the
 * fuzzer call api_handle() with fake inspect functions. Main thread.
 */
#pragma once
#include "admin/admin.h"
#include "base/text.h"
#include "chain/inspect.h"
#include "loop/trace.h"
#include <stdatomic.h>
#include <stdbool.h>

#define API_ARGS     48u		/* query parameters; more are refused */
#define API_BODY_MAX (1u << 20) /* bytes of a request body */
#define API_BODY_LONG (4u << 20) /* of policies, from those who may change them */

struct api_arg {
	const char *name, *value; /* value NULL: "?name" */
};

struct api_req {
	const char *method, *path; /* path without query, percent-decoded */
	struct api_arg args[API_ARGS];
	uint32_t n_args;
	const char *body; /* NULL when empty */
	size_t body_len;
	struct admin_peer peer;
	bool may_change; /* root or the daemon's own user */
	bool public_;	 /* from TCP: metrics and health only */
};

struct trace_ask {
	struct trace_filter filter;
	uint64_t for_ms, count; /* 0: no limit */
	bool json;
};

struct api_answer {
	unsigned int status;
	const char *type;  /* Content-Type, static */
	const char *allow; /* for 405: what Allow says, static; else NULL */
	struct text body;  /* caller finishes it */
	bool streams;	   /* no body: what @ask asks for follows, without an end (stream.h) */
	struct trace_ask ask;
	struct text audit; /* a JSON object: what the audit log shall say beside the request; api_handle() finishes it */
};

struct api {
	struct daemon *d;
	struct admin_ops ops;
	_Atomic bool ops_set; /* once it is, ops do not change: the health thread may look */
	struct policy_ops policies;
	struct cert_ops certs;
};

/** api_handle() - always fills @ret; body.failed when memory ran out (answer 500 without a body then) */
void api_handle(struct api *a, const struct api_req *req, struct api_answer *ret);

/** api_body_max() - bytes that a request may bring */
size_t api_body_max(const char *method, const char *path);

/* ---- shared by the files of this folder ---- */

/** api_fail() - {"error": "..."} in place of whatever was written */
void api_fail(struct api_answer *ans, unsigned int status, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
/** api_fail_inspect() - the same for what an inspect function returned */
void api_fail_inspect(struct api_answer *ans, int r);
/** or_null() - JSON null for what is not known */
static inline const char *or_null(const char *s)
{
	return *s ? s : NULL;
}
struct json_t;
/** api_body_object() - the body as a JSON object, empty if there is none; NULL: the answer says why not */
struct json_t *api_body_object(const struct api_req *req, struct api_answer *ans);
/** api_levels_apply() - {"AREA": "LEVEL"}, all or nothing, until log_tick(@until_ms); 0: for good. Return: false (and the answer) */
bool api_levels_apply(struct json_t *levels, uint64_t until_ms, struct api_answer *ans);
/** api_arg() - Return: the parameter's value, "" when it has none, NULL when it was not given */
const char *api_arg(const struct api_req *req, const char *name);
/** api_cidr() - as the configuration writes it: "10.0.0.0/8:80-90", "[::/0]:443", "*:5432" */
void api_cidr(struct text *t, const struct cidr *c);
/** api_number() - decimal digits only, no overflow. Return: false if @s is anything else. */
bool api_number(const char *s, uint64_t *ret);
/** api_limit() - parameter "limit", or @otherwise. Return: false when it is no number (the answer is written). */
bool api_limit(const struct api_req *req, uint64_t otherwise, uint64_t *ret, struct api_answer *ans);

typedef void api_handler(struct api *a, const struct api_req *req, struct api_answer *ans);
/* rows.c */
api_handler api_status, api_listeners, api_clusters, api_tunnels, api_stats;
/* conns.c */
api_handler api_conns, api_conn, api_conn_kill;
/* explain.c */
api_handler api_explain, api_explain_conn, api_denied;
/* chains.c */
api_handler api_chains;
/* change.c */
api_handler api_log_level, api_log_level_set, api_config_check, api_reload, api_drain;
api_handler api_kernel_bypass;
/* kernel.c */
api_handler api_kernel;
/** api_put_kernel_line() - member "kernel": release, and the names of the means that are on or missing */
void api_put_kernel_line(struct json *j, struct daemon *d);
/** api_put_reach() - members of a listener: netns, proxy_protocol, capture, steer */
void api_put_reach(struct json *j, const struct cfg_listener *l);
/** api_put_tcp() - member "tcp": both legs, each our end and the application's, null where there is none to be seen */
void api_put_tcp(struct json *j, const struct config *c, const struct conn_row *r);
void api_add_kernel(struct text *t, struct daemon *d); /* metrics families */
/* policy.c */
api_handler api_policies, api_policy, api_policies_apply, api_policies_check, api_policies_diff, api_policy_put, api_policy_delete;
api_handler api_audit_show;
/** api_audit() - an attempt to change something has been answered; @long_body: what was asked for is in ans->audit or too long to be told */
void api_audit(struct api *a, const struct api_req *req, struct api_answer *ans, bool long_body);
/* policies.c */
void api_add_policies(struct text *t, struct daemon *d); /* metrics families */
/* health.c */
api_handler api_ready, api_live, api_drain_progress;
void api_add_health(struct text *t, struct daemon *d); /* metrics families */
/* workloads.c */
api_handler api_workloads;
void api_add_workloads(struct text *t, struct daemon *d); /* metrics families */
/* limits.c */
api_handler api_limits;
void api_add_limits(struct text *t, struct daemon *d); /* metrics families */
void api_put_overload(struct json *j, struct daemon *d); /* member "overload" */
void api_add_overload(struct text *t, struct daemon *d); /* metrics families */
/* certs.c */
api_handler api_certs;
void api_add_certs(struct text *t, const struct api *a); /* metrics families */
/* upgrade.c */
api_handler api_upgrade, api_upgrade_state;
/* logs.c */
api_handler api_log, api_log_set, api_trace;
void api_add_logs(struct text *t, struct daemon *d); /* metrics families */
/* scrape.c */
api_handler api_metrics;
