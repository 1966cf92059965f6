/*
 * Policies for people: those in force with what they have decided, and changes of those that aditd keeps. What a change means, and
 * whether it is good, is control/'s; here it gets its HTTP form and its line in the audit log.
 */
#include "admin/api.h"
#include "base/clean.h"
#include <adit/admin.h>
#include <jansson.h>
#include <string.h>

#define AUDIT_NAMES 100u	/* of each kind in a line of the log */
#define AUDIT_DIFF  (16u << 10) /* bytes of diff in it */
#define AUDIT_SHOWN 20u		/* lines shown when the query names no limit */

/* ---- looking ---- */

/* @rows: of inspect_policies(), in the same order unless a change is under way between workers and us */
static const struct policy_row *row_of(const struct policy_row *rows, size_t n, uint32_t i, const char *name)
{
	if (i < n && !strcmp(rows[i].name, name))
		return &rows[i];
	for (size_t k = 0; k < n; k++)
		if (!strcmp(rows[k].name, name))
			return &rows[k];
	return NULL;
}

static void put_view(struct json *j, const struct policy_view *v, const struct policy_row *r)
{
	json_str(j, "name", v->name);
	if (r) {
		json_str(j, "action", r->deny ? "deny" : "allow");
		json_bool(j, "dry_run", r->dry_run);
		json_bool(j, "here", !r->elsewhere);
		json_u64(j, "rules", r->rules);
		json_u64(j, "allowed", r->allowed);
		json_u64(j, "denied", r->denied);
		json_u64(j, "dry_run_allowed", r->dry_allowed);
		json_u64(j, "dry_run_denied", r->dry_denied);
	}
	json_str(j, "origin", v->applied ? "applied" : "file");
	json_str(j, "file", v->file);
	json_u64(j, "line", v->line);
}

static bool look(struct api *a, struct policy_views *v, struct policy_row **rows, size_t *n, struct api_answer *ans)
{
	struct err e = {""};
	int r;

	if (!a->policies.views) {
		api_fail(ans, 501, "this daemon does not know how its policies are written");
		return false;
	}
	r = a->policies.views(a->policies.arg, v, &e);
	if (r < 0) {
		api_fail(ans, r == -ENOMEM ? 503 : 500, "%s", e.msg);
		return false;
	}
	r = inspect_policies(a->d, rows, n);
	if (r < 0)
		api_fail_inspect(ans, r);
	return r == 0;
}

void api_policies(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	AUTO_FREE struct policy_row *rows = NULL;
	struct policy_views v;
	struct json j;
	size_t n = 0;

	(void)req;
	if (!look(a, &v, &rows, &n, ans))
		return;
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_u64(&j, "generation", v.generation);
	json_u64(&j, "default_denied", n ? rows[n - 1].denied : 0);
	json_open(&j, "policies", '[');
	for (uint32_t i = 0; i < v.n; i++) {
		json_open(&j, NULL, '{');
		put_view(&j, &v.at[i], row_of(rows, n, i, v.at[i].name));
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* as a document that can be applied again */
static void put_yaml(struct json *j, const struct policy_view *v)
{
	const char *s = v->text, *end = v->text + v->n, *nl;
	struct text t = {0};

	text_add(&t, "policies:\n");
	for (; s < end; s = nl + 1) {
		nl = memchr(s, '\n', (size_t)(end - s));
		if (!nl)
			nl = end - 1;
		text_add(&t, s == v->text ? "  - " : "    ");
		text_addn(&t, s, (size_t)(nl + 1 - s));
	}
	j->out->failed |= t.failed;
	json_str(j, "yaml", t.s);
	text_finish(&t);
}

void api_policy(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	const char *name = req->path + strlen(ADIT_API_POLICY);
	AUTO_FREE struct policy_row *rows = NULL;
	struct policy_views v;
	struct json j;
	uint32_t i = 0;
	size_t n = 0;

	if (!look(a, &v, &rows, &n, ans))
		return;
	while (i < v.n && strcmp(v.at[i].name, name) != 0)
		i++;
	if (i == v.n) {
		api_fail(ans, 404, "there is no policy '%.64s'; GET %s lists all", name, ADIT_API_POLICIES);
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_u64(&j, "generation", v.generation);
	put_view(&j, &v.at[i], row_of(rows, n, i, name));
	put_yaml(&j, &v.at[i]);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

/* ---- changing ---- */

static bool flag(const struct api_req *req, const char *name, bool *ret, struct api_answer *ans)
{
	const char *v = api_arg(req, name);

	*ret = v && strcmp(v, "false") != 0;
	if (!v || !*v || !strcmp(v, "true") || !strcmp(v, "false"))
		return true;
	api_fail(ans, 400, "%s=%.32s: want true or false", name, v);
	return false;
}

static bool order_read(const struct api_req *req, struct policy_order *o, struct api_answer *ans)
{
	const char *generation = api_arg(req, "if_generation"), *file = api_arg(req, "file");

	o->text = req->body_len ? req->body : NULL;
	o->n = req->body_len;
	o->file = file && *file ? file : "body";
	o->if_generation = generation != NULL;
	if (generation && !api_number(generation, &o->generation)) {
		api_fail(ans, 400, "if_generation=%.32s: want the number that GET %s told", generation, ADIT_API_POLICIES);
		return false;
	}
	return flag(req, "dry_run", &o->dry_run, ans) && flag(req, "prune", &o->prune, ans);
}

static void put_names(struct json *j, const char *key, const struct text *names, uint32_t max)
{
	const char *s = names->s, *end = names->s + names->len;

	json_open(j, key, '[');
	for (; s && s < end && max--; s += strlen(s) + 1)
		json_str(j, NULL, s);
	json_close(j, ']');
}

static void put_outcome(struct json *j, const struct policy_order *o, const struct policy_outcome *out, uint32_t names, size_t diff)
{
	static const char *const keys[] = {[POLICY_ADDED] = "added", [POLICY_CHANGED] = "changed", [POLICY_REMOVED] = "removed"};
	size_t n = out->diff.len;

	json_u64(j, "generation", out->generation);
	json_bool(j, "dry_run", o->dry_run);
	for (int i = 0; i < POLICY_FATES; i++) {
		put_names(j, keys[i], &out->names[i], names);
		if (out->n[i] > names) {
			char more[32];

			snprintf(more, sizeof(more), "%s_in_all", keys[i]);
			json_u64(j, more, out->n[i]);
		}
	}
	json_u64(j, "unchanged", out->unchanged);
	if (n > diff) /* at the end of a line: a character is not cut either */
		for (n = diff; n && out->diff.s[n - 1] != '\n'; n--)
			;
	json_strn(j, "diff", out->diff.s ? out->diff.s : "", n);
	json_bool(j, "diff_cut", out->diff_cut || n < out->diff.len);
}

static unsigned int status_of(int r)
{
	switch (r) {
	case -EINVAL:
	case -EFBIG: return 422;
	case -ENOENT: return 404;
	case -EEXIST: return 409;
	case -ESTALE: return 412;
	default: return 503;
	}
}

enum answer_form { ANSWER_ALL, ANSWER_OK };

static void change(struct api *a, const struct policy_order *o, enum answer_form form, struct api_answer *ans)
{
	struct policy_outcome out;
	struct err e = {""};
	struct json j;
	int r;

	if (!a->policies.change) {
		api_fail(ans, 501, "this daemon keeps no policies; write them into its configuration");
		return;
	}
	r = a->policies.change(a->policies.arg, o, &out, &e);
	if (r < 0) {
		api_fail(ans, status_of(r), "%s", *e.msg ? e.msg : strerror(-r));
		return;
	}
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	if (form == ANSWER_OK)
		json_bool(&j, "ok", true);
	else
		put_outcome(&j, o, &out, UINT32_MAX, SIZE_MAX);
	json_close(&j, '}');
	text_add(&ans->body, "\n");
	json_init(&j, &ans->audit, false);
	json_open(&j, NULL, '{');
	put_outcome(&j, o, &out, AUDIT_NAMES, AUDIT_DIFF);
	json_close(&j, '}');
	policy_outcome_finish(&out);
}

static void body_change(struct api *a, const struct api_req *req, struct policy_order *o, enum answer_form form, struct api_answer *ans)
{
	if (!req->body_len)
		api_fail(ans, 400, "no body: want YAML, policies: and a list of them");
	else
		change(a, o, form, ans);
}

void api_policies_apply(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct policy_order o = {.name = NULL};

	if (order_read(req, &o, ans))
		body_change(a, req, &o, ANSWER_ALL, ans);
}

void api_policies_check(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct policy_order o = {.name = NULL};

	if (!order_read(req, &o, ans))
		return;
	o.dry_run = true;
	body_change(a, req, &o, ANSWER_OK, ans);
}

void api_policies_diff(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct policy_order o = {.name = NULL};

	if (!order_read(req, &o, ans))
		return;
	o.dry_run = true;
	body_change(a, req, &o, ANSWER_ALL, ans);
}

void api_policy_put(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct policy_order o = {.name = req->path + strlen(ADIT_API_POLICY)};

	if (order_read(req, &o, ans))
		body_change(a, req, &o, ANSWER_ALL, ans);
}

void api_policy_delete(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct policy_order o = {.name = req->path + strlen(ADIT_API_POLICY)};

	if (!order_read(req, &o, ans))
		return;
	if (o.text)
		api_fail(ans, 400, "no body here: the path names the policy");
	else
		change(a, &o, ANSWER_ALL, ans);
}

/* ---- who changed what ---- */

/* lines that are JSON objects, each already checked */
static void put_lines(struct text *body, const struct text *lines)
{
	const char *s = lines->s, *end = lines->s + lines->len, *nl;

	text_add(body, "{\n  \"audit\": [");
	for (; s && s < end && (nl = memchr(s, '\n', (size_t)(end - s))); s = nl + 1) {
		text_add(body, s == lines->s ? "\n    " : ",\n    ");
		text_addn(body, s, (size_t)(nl - s));
	}
	text_add(body, "\n  ]\n}\n");
}

void api_audit_show(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct text lines = {0};
	struct err e = {""};
	uint64_t n;
	int r;

	if (!a->policies.audit_tail) {
		api_fail(ans, 501, "this daemon keeps no audit log");
		return;
	}
	if (!api_limit(req, AUDIT_SHOWN, &n, ans))
		return;
	r = a->policies.audit_tail(a->policies.arg, n && n < UINT32_MAX ? (uint32_t)n : UINT32_MAX, &lines, &e);
	if (r < 0)
		api_fail(ans, 503, "%s", e.msg);
	else
		put_lines(&ans->body, &lines);
	ans->body.failed |= lines.failed;
	text_finish(&lines);
}

/* what was asked for, where the handler has not said it better: JSON bodies are short, what is long is cut */
static void request_put(struct text *detail, const struct api_req *req)
{
	struct json j;

	if (!req->body_len)
		return;
	json_init(&j, detail, false);
	json_open(&j, NULL, '{');
	json_strn(&j, "request", req->body, req->body_len < 512 ? req->body_len : 512);
	json_close(&j, '}');
}

void api_audit(struct api *a, const struct api_req *req, struct api_answer *ans, bool long_body)
{
	struct admin_act act = {.by = req->peer, .status = ans->status, .stranger = !req->may_change};
	char what[160];
	json_t *o = NULL;

	if (!a->policies.audit)
		return;
	snprintf(what, sizeof(what), "%s %s", req->method, req->path);
	act.what = what;
	if (ans->status >= 400) {
		o = json_loadb(ans->body.s ? ans->body.s : "", ans->body.len, 0, NULL);
		act.error = json_string_value(json_object_get(o, "error"));
	}
	if (!ans->audit.len && !long_body)
		request_put(&ans->audit, req);
	act.detail = text_ok(&ans->audit) ? ans->audit.s : NULL;
	a->policies.audit(a->policies.arg, &act);
	json_decref(o);
}
