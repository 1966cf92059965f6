/* Applied policies while memory runs out: refused with -ENOMEM, and what was in force, in memory and on disk, stays. */
/* link: -Wl,--whole-archive -l:libyaml.a -Wl,--no-whole-archive */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <cmocka.h>

#include "control/policies.h"
#include "oom/oom.h"

static char dir[64];
static bool installed;

static int judge(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	(void)arg;
	(void)name;
	(void)text;
	(void)n;
	(void)reterr;
	return 0;
}

static int install(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	installed = true;
	return judge(arg, name, text, n, reterr);
}

static int files(void *arg, struct doc *ret, struct err *reterr)
{
	static const char text[] = "policies: [{name: f}]";

	(void)arg;
	return doc_parse("f.yaml", text, sizeof(text) - 1, DOC_CONFIG, ret, reterr);
}

static int change(struct policies *p, const char *text, struct policy_outcome *out, struct err *e)
{
	const struct policy_order o = {.text = text, .n = text ? strlen(text) : 0, .file = "t.yaml", .name = text ? NULL : "a"};

	return policies_change(p, &o, out, e);
}

static void apply_once(void)
{
	static const struct policies_host host = {judge, install, files, NULL};
	struct policy_outcome out = {.generation = 0};
	struct policies *p = NULL;
	struct audit *audit = NULL;
	struct policy_views v;
	struct err e = {""};
	uint64_t before;
	int r;

	installed = false;
	r = audit_create(&audit, dir);
	if (r == 0)
		r = policies_open(&p, dir, &e);
	if (r == 0) {
		before = policies_source(p)->generation;
		policies_attach(p, &host, audit);
		r = change(p, before % 2 ? NULL : "[{name: a, action: deny, rules: [{namespace: b}]}]", &out, &e);
		assert_true(r == 0 || !installed);
		assert_int_equal(policies_source(p)->generation, before + (r == 0));
		policy_outcome_finish(&out);
		if (r == 0)
			r = policies_views(p, &v, &e);
		if (r == 0)
			r = audit_write(audit, &(struct audit_entry){.what = "x", .done = true, .detail = "{\"a\": 1}"}, &e);
	}
	assert_true(r == 0 || r == -ENOMEM || r == -EROFS);
	policies_close(p);
	audit_destroy(audit);
}

static void a_change_is_made_or_not(void **state)
{
	(void)state;
	assert_true(oom_sweep(apply_once) >= 30);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_change_is_made_or_not)};
	char command[96];
	int r;

	snprintf(dir, sizeof(dir), "/tmp/adit-oom-policies-XXXXXX");
	if (!mkdtemp(dir))
		return 1;
	r = cmocka_run_group_tests(tests, NULL, NULL);
	snprintf(command, sizeof(command), "rm -rf %s", dir);
	return system(command) || r;
}
