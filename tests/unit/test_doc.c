/* Policies as documents: taken apart, written in one form, found, compared. */
#include "../../daemon/config/doc.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
// clang-format off
#include <cmocka.h>
// clang-format on

static struct err e;

static void read_ok(struct doc *d, enum doc_kind kind, const char *text)
{
	if (doc_parse("f.yaml", text, strlen(text), kind, d, &e) < 0)
		fail_msg("%s", e.msg);
}

static void refused(enum doc_kind kind, const char *text, const char *sentence)
{
	struct doc d;

	assert_true(doc_parse("f.yaml", text, strlen(text), kind, &d, &e) < 0);
	assert_string_equal(e.msg, sentence);
	assert_int_equal(d.n, 0);
	assert_null(d.own);
}

static void policies_have_one_form(void **state)
{
	struct text out = {0};
	struct doc d;

	(void)state;
	read_ok(&d, DOC_APPLY,
		"# mine\npolicies:\n- &x {action: allow, name: a, rules: [{namespace: [shop, \"ops\"], metadata: {x-team: \"s*\"}}, {listener: \"*\"}]}\n"
		"- name: b\n  action:   deny\n  dry_run: yes it is\n  rules: []\n  scope: {labels: {app: ~, 'odd key': \"true\"}}\n");
	assert_int_equal(d.n, 2);
	assert_string_equal(d.at[0].name, "a");
	assert_int_equal(d.at[1].line, 4);
	for (uint32_t i = 0; i < d.n; i++)
		doc_put(&out, &d.at[i]);
	assert_string_equal(out.s, "  - action: allow\n"
				   "    name: a\n"
				   "    rules:\n"
				   "      - namespace:\n"
				   "          - shop\n"
				   "          - \"ops\"\n"
				   "        metadata:\n"
				   "          x-team: \"s*\"\n"
				   "      - listener: \"*\"\n"
				   "  - name: b\n"
				   "    action: deny\n"
				   "    dry_run: \"yes it is\"\n"
				   "    rules: []\n"
				   "    scope:\n"
				   "      labels:\n"
				   "        app: ~\n"
				   "        \"odd key\": \"true\"\n");
	text_finish(&out);
	doc_finish(&d);
}

/* what is written is read as the same, and written the same */
static void the_form_is_stable(void **state)
{
	static const char *const texts[] = {
		"- {name: a, x: [[], {}, [[1, [2]]], {y: {z: [~]}}], '': null}",
		"- {name: a, x: [\"\\t\\n\\x7f\\u0085\\u00a0\\u2028\\uFEFF\\\"\\\\\", -, -1, .5, 'a: b', 'a #b', '- a', '...', '---', \"\\U0001F600\"]}",
		"name: a\nx: >\n  folded\n  text\ny: '*'\nz: 10.0.0.0/8\nv: \"fd00::/8\"\nu: ::1\n",
		"- name: a\n  k:e:y: v:w\n  \"@x\": a@b\n  -1: -2\n",
	};
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
		struct text one = {0}, two = {0};
		struct doc d;

		read_ok(&d, DOC_APPLY, texts[i]);
		text_add(&one, "policies:\n");
		doc_put(&one, &d.at[0]);
		doc_finish(&d);
		read_ok(&d, DOC_APPLY, one.s);
		text_add(&two, "policies:\n");
		doc_put(&two, &d.at[0]);
		assert_string_equal(one.s, two.s);
		doc_finish(&d);
		text_finish(&one);
		text_finish(&two);
	}
}

static void what_is_no_policy_is_refused(void **state)
{
	struct doc d;

	(void)state;
	refused(DOC_APPLY, "policies: [{action: allow}]", "f.yaml:1:12: policies[0]: 'name' is missing");
	refused(DOC_APPLY, "[{name: {}}]", "f.yaml:1:9: policies[0]: name: want a name: 1 to 64 letters, digits and . _ - / : @ +");
	refused(DOC_APPLY, "policies: 5", "f.yaml:1:11: policies: want a list, not a single value");
	refused(DOC_APPLY, "word", "f.yaml:1:1: want policies: and a list of them, not a single value");
	refused(DOC_APPLY, "[a]", "f.yaml:1:2: policies[0]: want a policy, a mapping with name, action and rules, not a single value");
	refused(DOC_APPLY, "policies: []\nlisteners: []",
		"f.yaml:2:1: 'listeners' cannot be applied: only policies can, all else is in the configuration's files");
	refused(DOC_APPLY, "- name: a\n- name: b\n- name: a", "f.yaml:3: policy 'a' is here twice, first at line 1");
	refused(DOC_CONFIG, "[", "f.yaml:2:1: did not find expected node content while parsing a flow node");
	read_ok(&d, DOC_CONFIG, "listeners: []\npolicies: [{name: a}]");
	assert_int_equal(d.n, 1);
	doc_finish(&d);
	read_ok(&d, DOC_CONFIG, "policies:\n");
	assert_int_equal(d.n, 0);
	doc_finish(&d);
	read_ok(&d, DOC_APPLY, "# nothing\n");
	assert_int_equal(d.n, 0);
	assert_int_equal(doc_find(&d, "a"), UINT32_MAX);
	doc_finish(&d);
}

static void policies_are_found_by_name(void **state)
{
	struct doc d, more;
	char name[16];
	struct text t = {0};

	(void)state;
	for (uint32_t i = 0; i < 1000; i++)
		text_addf(&t, "- {name: p%u}\n", i * 7 % 1000);
	read_ok(&d, DOC_APPLY, t.s);
	read_ok(&more, DOC_APPLY, "[{name: more}, {name: yet}]");
	assert_int_equal(doc_append(&d, &more), 0);
	doc_finish(&more);
	for (uint32_t i = 0; i < 1000; i++) {
		snprintf(name, sizeof(name), "p%u", i);
		assert_string_equal(d.at[doc_find(&d, name)].name, name);
	}
	assert_int_equal(doc_find(&d, "yet"), 1001);
	assert_string_equal(d.at[1000].text, "name: more\n");
	assert_int_equal(doc_find(&d, "nay"), UINT32_MAX);
	doc_finish(&d);
	text_finish(&t);
}

static void diff(const char *from, const char *to, const char *want)
{
	struct text out = {0};
	struct doc a = {NULL}, b = {NULL};

	if (from)
		read_ok(&a, DOC_APPLY, from);
	if (to)
		read_ok(&b, DOC_APPLY, to);
	doc_diff(&out, from ? &a.at[0] : NULL, to ? &b.at[0] : NULL);
	assert_true(text_ok(&out));
	assert_string_equal(out.s ? out.s : "", want);
	text_finish(&out);
	doc_finish(&a);
	doc_finish(&b);
}

static void differences_are_lines(void **state)
{
	(void)state;
	diff("{name: a, x: 1}", "{name: a, x: 1}", "  name: a\n  x: 1\n");
	diff(NULL, "{name: a, x: 1}", "+ name: a\n+ x: 1\n");
	diff("{name: a}", NULL, "- name: a\n");
	diff("{name: a, b: 1, c: 2, d: 3}", "{name: a, c: 2, x: 5, d: 3}", "  name: a\n- b: 1\n  c: 2\n+ x: 5\n  d: 3\n");
	diff("{name: a, x: [1, 2, 3, 4]}", "{name: a, x: [2, 4, 5]}", "  name: a\n  x:\n-   - 1\n    - 2\n-   - 3\n    - 4\n+   - 5\n");
}

static void a_long_difference_is_bounded(void **state)
{
	struct text from = {0}, to = {0}, out = {0};
	struct doc a, b;

	(void)state;
	text_add(&from, "name: a\nx:\n");
	text_add(&to, "name: a\nx:\n");
	for (uint32_t i = 0; i < 20000; i++) {
		text_addf(&from, "- f%u\n", i);
		text_addf(&to, "- t%u\n", i);
	}
	read_ok(&a, DOC_APPLY, from.s);
	read_ok(&b, DOC_APPLY, to.s);
	doc_diff(&out, &a.at[0], &b.at[0]);
	assert_non_null(strstr(out.s, "-   - f19999\n+   - t0\n"));
	text_finish(&from);
	text_finish(&to);
	text_finish(&out);
	doc_finish(&a);
	doc_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(policies_have_one_form),	cmocka_unit_test(the_form_is_stable),
		cmocka_unit_test(what_is_no_policy_is_refused), cmocka_unit_test(policies_are_found_by_name),
		cmocka_unit_test(differences_are_lines),	cmocka_unit_test(a_long_difference_is_bounded),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
