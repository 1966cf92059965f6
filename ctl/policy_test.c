/* `aditctl policy test`: policies tried on cases. Asks no daemon; what decides is the code that aditd decides with. */
#include "base/clean.h"
#include "config/cases.h"
#include "ctl.h"
#include "table.h"
#include <string.h>

struct shown {
	struct json j;
	struct text out;
	struct table table;
	bool json, wide;
	uint32_t n;
};

static void put_json(struct shown *s, const struct case_verdict *v)
{
	struct json *j = &s->j;

	json_open(j, NULL, '{');
	json_str(j, "name", v->name);
	json_u64(j, "line", v->line);
	json_bool(j, "ok", v->ok);
	json_str(j, "decided", v->allowed ? "allow" : "deny");
	json_str(j, "policy", v->policy);
	json_str(j, "at", v->at);
	json_str(j, "expected", v->want_allowed ? "allow" : "deny");
	json_str(j, "expected_policy", v->want_policy);
	json_close(j, '}');
}

/* those that are as they should be only with -o wide */
static void put_row(struct shown *s, const struct case_verdict *v)
{
	if (v->ok && !s->wide)
		return;
	if (v->name)
		table_add(&s->table, v->name);
	else
		table_addf(&s->table, "cases[%u]", v->index);
	table_addf(&s->table, "%u", v->line);
	table_add(&s->table, v->ok ? "ok" : "WRONG");
	table_addf(&s->table, "%s by %s%s%s", v->allowed ? "allowed" : "denied", v->policy, v->at ? " at " : "", v->at ? v->at : "");
	table_addf(&s->table, "%s%s%s", v->want_allowed ? "allowed" : "denied", v->want_policy ? " by " : "", v->want_policy ? v->want_policy : "");
}

static void told(void *arg, const struct case_verdict *v)
{
	struct shown *s = arg;

	s->n++;
	if (s->json)
		put_json(s, v);
	else
		put_row(s, v);
}

static int try(struct ctl *c, struct shown *s, const struct text *policies, const struct text *cases, int *ret_failed)
{
	struct cases what = {.policies_name = !strcmp(c->file, "-") ? "stdin" : c->file,
			     .policies = policies->s ? policies->s : "",
			     .n_policies = policies->len,
			     .cases_name = c->word[1],
			     .cases = cases->s ? cases->s : "",
			     .n_cases = cases->len,
			     .config = c->config};
	struct err e = {""};
	int r = cases_run(&what, told, s, &e);

	*ret_failed = r;
	if (r >= 0)
		return CTL_OK;
	fprintf(c->err, "%s\n", e.msg); /* alone, so that editors find FILE:LINE:COLUMN */
	return CTL_FAILED;
}

static int show(struct ctl *c, struct shown *s, int failed)
{
	int r;

	if (s->json) {
		json_close(&s->j, ']');
		json_u64(&s->j, "cases", s->n);
		json_u64(&s->j, "failed", (uint64_t)failed);
		json_close(&s->j, '}');
		text_add(&s->out, "\n");
	} else {
		if (s->table.n_cells)
			table_print(&s->table, &s->out, c->width, s->wide);
		text_addf(&s->out, "%u cases, %d wrong\n", s->n, failed);
	}
	r = ctl_print(c, &s->out);
	return r == CTL_OK && failed ? CTL_FAILED : r;
}

int policy_test(struct ctl *c)
{
	static const struct table_col cols[] = {
		{.head = "CASE", .shrink = true}, {.head = "LINE", .right = true}, {.head = "RESULT"}, {.head = "DECIDED"}, {.head = "EXPECTED"}};
	struct shown s = {.json = c->output == OUT_JSON, .wide = c->output == OUT_WIDE};
	struct text policies = {0}, cases = {0};
	int failed = 0, r;

	if (!c->file)
		return ctl_usage(c, "test: -f FILE is missing; -f - is standard input");
	r = ctl_document(c, c->file, &policies);
	if (r == CTL_OK)
		r = ctl_document(c, c->word[1], &cases);
	table_init(&s.table, cols, ARRAY_LEN(cols));
	json_init(&s.j, &s.out, true);
	if (s.json) {
		json_open(&s.j, NULL, '{');
		json_open(&s.j, "verdicts", '[');
	}
	if (r == CTL_OK)
		r = try(c, &s, &policies, &cases, &failed);
	if (r == CTL_OK)
		r = show(c, &s, failed);
	table_finish(&s.table);
	text_finish(&s.out);
	text_finish(&policies);
	text_finish(&cases);
	return r;
}
