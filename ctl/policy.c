/*
 * Policies: list, get, apply, delete, diff; and who changed what. Each is one call; what is shown of a change is what the daemon says it
 * did. `test` asks nobody: policy_test.c.
 */
#include "base/clean.h"
#include "ctl.h"
#include "http.h"
#include "table.h"
#include <adit/admin.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>

#define DOCUMENT_MAX ((size_t)4 << 20) /* bytes, as the daemon takes them */

int ctl_document(struct ctl *c, const char *file, struct text *ret)
{
	FILE *f = !strcmp(file, "-") ? stdin : fopen(file, "re");
	char piece[65536];
	size_t n = 1;
	int r = CTL_OK;

	if (!f)
		return ctl_fail(c, CTL_FAILED, "%s: %s", file, strerror(errno));
	while (n && ret->len <= DOCUMENT_MAX && text_ok(ret)) {
		n = fread(piece, 1, sizeof(piece), f);
		text_addn(ret, piece, n);
	}
	if (ferror(f))
		r = ctl_fail(c, CTL_FAILED, "%s: cannot read: %s", file, strerror(errno));
	else if (!text_ok(ret))
		r = ctl_fail(c, CTL_FAILED, "out of memory");
	else if (ret->len > DOCUMENT_MAX)
		r = ctl_fail(c, CTL_FAILED, "%s: larger than 4 MiB", file);
	else if (ret->len && memchr(ret->s, '\0', ret->len))
		r = ctl_fail(c, CTL_FAILED, "%s: is no text", file);
	if (f != stdin)
		fclose(f);
	if (r != CTL_OK)
		text_finish(ret);
	return r;
}

/* ---- list, get ---- */

static const struct table_col list_cols[] = {
	{.head = "NAME", .shrink = true},
	{.head = "ACTION"},
	{.head = "MODE"},
	{.head = "RULES", .right = true},
	{.head = "ALLOWED", .right = true},
	{.head = "DENIED", .right = true},
	{.head = "WOULD-ALLOW", .right = true, .wide = true},
	{.head = "WOULD-DENY", .right = true, .wide = true},
	{.head = "ORIGIN"},
	{.head = "FILE", .wide = true},
};

static void put_policy(struct table *t, const json_t *o)
{
	table_add(t, js_str(o, "name"));
	table_add(t, js_str(o, "action"));
	table_add(t, !js_bool(o, "here") ? "elsewhere" : js_bool(o, "dry_run") ? "dry run" : "in force");
	table_addf(t, "%" PRIu64, js_u64(o, "rules"));
	table_addf(t, "%" PRIu64, js_u64(o, "allowed"));
	table_addf(t, "%" PRIu64, js_u64(o, "denied"));
	table_addf(t, "%" PRIu64, js_u64(o, "dry_run_allowed"));
	table_addf(t, "%" PRIu64, js_u64(o, "dry_run_denied"));
	table_add(t, js_str(o, "origin"));
	table_addf(t, "%s:%" PRIu64, js_str(o, "file"), js_u64(o, "line"));
}

static int policy_list(struct ctl *c)
{
	const json_t *list;
	struct text out = {0};
	struct table t;
	json_t *o = NULL;
	size_t i;
	int r = ctl_call(c, "GET", ADIT_API_POLICIES, NULL, &o);

	if (r != CTL_OK || !o)
		return r;
	table_init(&t, list_cols, ARRAY_LEN(list_cols));
	list = json_object_get(o, "policies");
	for (i = 0; i < json_array_size(list); i++)
		put_policy(&t, json_array_get(list, i));
	if (i)
		table_print(&t, &out, c->width, c->output == OUT_WIDE);
	else
		text_add(&out, "no policies: every connection is allowed\n");
	text_addf(&out, "generation %" PRIu64 "; denied by default: %" PRIu64 "\n", js_u64(o, "generation"), js_u64(o, "default_denied"));
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}

/* /v1/policies/NAME; names may have any character that a URL takes differently only as %NN */
static void policy_path(struct text *path, const char *name)
{
	text_add(path, ADIT_API_POLICY);
	for (; *name; name++)
		if ((*name >= 'a' && *name <= 'z') || (*name >= 'A' && *name <= 'Z') || (*name >= '0' && *name <= '9') || strchr("._-/", *name))
			text_addn(path, name, 1);
		else
			text_addf(path, "%%%02X", (unsigned char)*name);
}

static int policy_get(struct ctl *c)
{
	struct text path = {0}, out = {0};
	json_t *o = NULL;
	int r;

	policy_path(&path, c->word[1]);
	if (!text_ok(&path))
		return ctl_fail(c, CTL_FAILED, "out of memory");
	r = ctl_call(c, "GET", path.s, NULL, &o);
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	text_addf(&out, "# generation %" PRIu64 ", %s:%" PRIu64 "\n", js_u64(o, "generation"), js_str(o, "file"), js_u64(o, "line"));
	text_add(&out, js_str(o, "yaml"));
	json_decref(o);
	return ctl_print(c, &out);
}

/* ---- apply, delete, diff ---- */

static void put_names(struct text *out, const char *what, const json_t *list)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		text_addf(out, "%s %s\n", what, json_string_value(json_array_get(list, i)));
}

static int outcome_show(struct ctl *c, json_t *o, bool diff)
{
	const json_t *added = json_object_get(o, "added"), *changed = json_object_get(o, "changed"), *removed = json_object_get(o, "removed");
	const size_t n = json_array_size(added) + json_array_size(changed) + json_array_size(removed);
	struct text out = {0};

	if (diff) {
		text_add(&out, js_str(o, "diff"));
		if (js_bool(o, "diff_cut"))
			text_add(&out, "# ... and more: the rest is left out\n");
	} else {
		put_names(&out, "added", added);
		put_names(&out, "changed", changed);
		put_names(&out, "removed", removed);
	}
	if (js_bool(o, "dry_run"))
		text_addf(&out, "%snothing was done; would change: %zu, would stay: %" PRIu64 "\n", diff ? "# " : "", n, js_u64(o, "unchanged"));
	else if (n)
		text_addf(&out, "generation %" PRIu64 " is in force; changed: %zu, as before: %" PRIu64 "\n", js_u64(o, "generation"), n,
			  js_u64(o, "unchanged"));
	else
		text_addf(&out, "nothing to change: generation %" PRIu64 "\n", js_u64(o, "generation"));
	json_decref(o);
	return ctl_print(c, &out);
}

static int change(struct ctl *c, const char *method, struct text *path, const struct text *body, bool diff)
{
	json_t *o = NULL;
	int r;

	http_query(path, "if_generation", c->if_generation);
	if (c->dry_run)
		http_query(path, "dry_run", "true");
	if (c->prune)
		http_query(path, "prune", "true");
	if (body)
		http_query(path, "file", !strcmp(c->file, "-") ? "stdin" : c->file);
	if (!text_ok(path)) {
		text_finish(path);
		return ctl_fail(c, CTL_FAILED, "out of memory");
	}
	r = ctl_call(c, method, path->s, body ? (body->s ? body->s : "") : NULL, &o);
	text_finish(path);
	return r != CTL_OK || !o ? r : outcome_show(c, o, diff);
}

static int send_file(struct ctl *c, const char *to, bool diff)
{
	struct text path = {0}, body = {0};
	int r;

	if (!c->file)
		return ctl_usage(c, "%s: -f FILE is missing; -f - is standard input", c->word[0]);
	r = ctl_document(c, c->file, &body);
	if (r != CTL_OK)
		return r;
	text_add(&path, to);
	r = change(c, "POST", &path, &body, diff);
	text_finish(&body);
	return r;
}

static int policy_apply(struct ctl *c)
{
	return send_file(c, ADIT_API_POLICIES, false);
}

static int policy_diff(struct ctl *c)
{
	return send_file(c, ADIT_API_POLICIES_DIFF, true);
}

static int policy_delete(struct ctl *c)
{
	struct text path = {0};

	policy_path(&path, c->word[1]);
	return change(c, "DELETE", &path, NULL, false);
}

/* ---- which of them ---- */

static const struct {
	const char *name, *want; /* what follows it */
	ctl_command *run;
	unsigned int takes; /* of TAKES_POLICY, and TAKES_WATCH */
	uint32_t words;	    /* behind the name */
} commands[] = {
	{"list", "", policy_list, TAKES_WATCH, 0},
	{"get", " NAME", policy_get, 0, 1},
	{"apply", " -f FILE", policy_apply, TAKES_FILE | TAKES_DRY_RUN | TAKES_GENERATION | TAKES_PRUNE, 0},
	{"explain", " --dst ADDRESS:PORT", explain_policy, TAKES_EXPLAIN | TAKES_LISTENER, 0},
	{"delete", " NAME", policy_delete, TAKES_DRY_RUN | TAKES_GENERATION, 1},
	{"diff", " -f FILE", policy_diff, TAKES_FILE | TAKES_PRUNE, 0},
	{"test", " -f FILE CASES", policy_test, TAKES_FILE | TAKES_CONFIG, 1},
};

int cmd_policy(struct ctl *c)
{
	const char *name = c->n_words ? c->word[0] : "list";

	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		if (strcmp(name, commands[i].name) != 0)
			continue;
		if (c->used & ~commands[i].takes)
			return ctl_usage(c, "%s does not take one of the options given", name);
		if ((c->n_words ? c->n_words - 1 : 0) != commands[i].words)
			return ctl_usage(c, "want: policy %s%s", name, commands[i].want);
		return commands[i].run(c);
	}
	return ctl_usage(c, "no 'policy %s': want list, get, apply, delete, diff, test or explain", name);
}

/* ---- audit ---- */

static const struct table_col audit_cols[] = {
	{.head = "TIME"}, {.head = "UID", .right = true},	{.head = "PID", .right = true, .wide = true}, {.head = "COMMAND"},
	{.head = "WHAT"}, {.head = "RESULT"}, {.head = "DETAIL", .shrink = true},
};

static void names_text(struct text *t, const char *sign, const json_t *list)
{
	for (size_t i = 0; i < json_array_size(list); i++)
		text_addf(t, "%s%s%s", t->len ? " " : "", sign, json_string_value(json_array_get(list, i)));
}

static void put_attempt(struct table *t, const json_t *o)
{
	struct text detail = {0};

	names_text(&detail, "+", json_object_get(o, "added"));
	names_text(&detail, "~", json_object_get(o, "changed"));
	names_text(&detail, "-", json_object_get(o, "removed"));
	if (*js_str(o, "error"))
		text_addf(&detail, "%s%s", detail.len ? ": " : "", js_str(o, "error"));
	else if (*js_str(o, "request"))
		text_add(&detail, js_str(o, "request"));
	table_add(t, js_str(o, "time"));
	table_addf(t, "%lld", (long long)json_integer_value(json_object_get(o, "uid")));
	table_addf(t, "%lld", (long long)json_integer_value(json_object_get(o, "pid")));
	table_add(t, js_str(o, "comm"));
	table_add(t, js_str(o, "what"));
	table_addf(t, "%s%s", js_str(o, "result"), js_bool(o, "dry_run") ? " (dry run)" : "");
	table_add(t, detail.s);
	text_finish(&detail);
}

int cmd_audit(struct ctl *c)
{
	struct text path = {0}, out = {0};
	const json_t *list;
	struct table t;
	json_t *o = NULL;
	int r;

	text_add(&path, ADIT_API_AUDIT);
	http_query(&path, "limit", c->limit);
	if (!text_ok(&path)) {
		text_finish(&path);
		return ctl_fail(c, CTL_FAILED, "out of memory");
	}
	r = ctl_call(c, "GET", path.s, NULL, &o);
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	table_init(&t, audit_cols, ARRAY_LEN(audit_cols));
	list = json_object_get(o, "audit");
	for (size_t i = 0; i < json_array_size(list); i++)
		put_attempt(&t, json_array_get(list, i));
	if (json_array_size(list))
		table_print(&t, &out, c->width, c->output == OUT_WIDE);
	else
		text_add(&out, "nothing was changed yet\n");
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}
