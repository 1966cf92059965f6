/* Applied policies: what a change does to the set, the disk and what is in force, and what it does when any of these refuses. */
#include "../../daemon/control/policies.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>
// clang-format off
#include <cmocka.h>
// clang-format on

static char top[64], dir[80];
static struct policies *p;
static struct audit *audit;
static struct policy_outcome out;
static struct err e;

/* a daemon whose configuration has two policies, and refuses what contains the word "bad" */
static char in_force[4096];
static int install_fails, judged, read_files;
static bool disk_fails; /* what was written beside is gone */

static int judge_fake(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	(void)arg;
	(void)n;
	judged++;
	return strstr(text, "bad") ? err_set(reterr, -EINVAL, "%s: bad", name) : 0;
}

static int install(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	char path[160];

	(void)arg;
	assert_true(!text || (n < sizeof(in_force) && text[n] == '\0'));
	assert_non_null(strstr(name, "/policies.yaml"));
	if (install_fails)
		return err_set(reterr, install_fails, "no");
	if (text && strstr(text, "bad"))
		return err_set(reterr, -EINVAL, "%s: bad", name);
	strcpy(in_force, text ? text : "");
	if (disk_fails) {
		snprintf(path, sizeof(path), "%s/policies.yaml.new", dir);
		unlink(path);
	}
	return 0;
}

static int files(void *arg, struct doc *ret, struct err *reterr)
{
	static const char text[] = "listeners: []\npolicies:\n- {name: f1, action: deny, rules: []}\n- {name: f2, action: allow, rules: []}\n";

	(void)arg;
	read_files++;
	return doc_parse("/etc/adit/conf.d/p.yaml", text, sizeof(text) - 1, DOC_CONFIG, ret, reterr);
}

static void open_again(void)
{
	static const struct policies_host host = {judge_fake, install, files, NULL};

	policies_close(p);
	if (policies_open(&p, dir, &e) < 0)
		fail_msg("%s", e.msg);
	policies_attach(p, &host, audit);
}

static int setup(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/tmp/adit-kept-XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(dir, sizeof(dir), "%s/state", top);
	in_force[0] = '\0';
	install_fails = 0;
	disk_fails = false;
	memset(&out, 0, sizeof(out));
	assert_int_equal(audit_create(&audit, dir), 0);
	p = NULL;
	open_again();
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	policy_outcome_finish(&out);
	policies_close(p);
	audit_destroy(audit);
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command);
}

static int change_with(struct policy_order o)
{
	policy_outcome_finish(&out);
	if (o.text)
		o.n = strlen(o.text);
	o.file = "mine.yaml";
	return policies_change(p, &o, &out, &e);
}

static void apply(const char *text)
{
	if (change_with((struct policy_order){.text = text}) < 0)
		fail_msg("%s", e.msg);
}

static void refused(struct policy_order o, int code, const char *sentence)
{
	char before[4096];
	struct policy_views v;
	uint64_t generation;

	strcpy(before, in_force);
	assert_int_equal(policies_views(p, &v, &e), 0);
	generation = v.generation;
	assert_int_equal(change_with(o), code);
	assert_string_equal(e.msg, sentence);
	assert_string_equal(in_force, before);
	open_again();
	assert_int_equal(policies_views(p, &v, &e), 0);
	assert_int_equal(v.generation, generation);
}

static void changes_add_up(void **state)
{
	struct policy_views v;

	(void)state;
	apply("policies: [{name: a, action: deny, rules: []}, {name: b, action: allow, rules: []}]");
	assert_int_equal(out.generation, 1);
	assert_int_equal(out.n[POLICY_ADDED], 2);
	assert_int_equal(out.names[POLICY_ADDED].len, 4);
	assert_string_equal(out.names[POLICY_ADDED].s + 2, "b");
	assert_string_equal(out.diff.s, "# a: added\n+ name: a\n+ action: deny\n+ rules: []\n# b: added\n+ name: b\n+ action: allow\n+ rules: []\n");
	apply("[{name: c, action: deny, rules: []}, {name: a, action: allow, rules: []}, {name: b, action: allow, rules: []}]");
	assert_int_equal(out.generation, 2);
	assert_int_equal(out.n[POLICY_ADDED], 1);
	assert_int_equal(out.n[POLICY_CHANGED], 1);
	assert_int_equal(out.unchanged, 1);
	assert_string_equal(out.diff.s, "# a: changed\n  name: a\n- action: deny\n+ action: allow\n  rules: []\n# c: added\n+ name: c\n+ action: deny\n+ rules: []\n");
	assert_int_equal(change_with((struct policy_order){.name = "b"}), 0);
	assert_int_equal(out.n[POLICY_REMOVED], 1);
	assert_string_equal(strstr(in_force, "policies:\n"), "policies:\n  - name: a\n    action: allow\n    rules: []\n"
							     "  - name: c\n    action: deny\n    rules: []\n");
	open_again(); /* as after a restart */
	assert_int_equal(policies_views(p, &v, &e), 0);
	assert_int_equal(v.generation, 3);
	assert_int_equal(v.n, 4);
	assert_string_equal(v.at[1].name, "f2");
	assert_false(v.at[1].applied);
	assert_string_equal(v.at[1].file, "/etc/adit/conf.d/p.yaml");
	assert_string_equal(v.at[2].name, "a");
	assert_true(v.at[2].applied);
	apply("policies:\n");
	assert_int_equal(out.generation, 3); /* nothing to do, nothing done */
	assert_int_equal(change_with((struct policy_order){.text = "{name: c, action: deny, rules: []}", .prune = true}), 0);
	assert_int_equal(out.n[POLICY_REMOVED], 1);
	assert_int_equal(out.unchanged, 1);
	assert_int_equal(out.generation, 4);
}

static void dry_runs_change_nothing(void **state)
{
	(void)state;
	judged = 0;
	assert_int_equal(change_with((struct policy_order){.text = "{name: a, action: deny, rules: []}", .dry_run = true}), 0);
	assert_int_equal(judged, 1);
	assert_int_equal(out.n[POLICY_ADDED], 1);
	assert_int_equal(out.generation, 0);
	assert_string_equal(in_force, "");
	assert_int_equal(access(dir, F_OK), -1);
	refused((struct policy_order){.text = "policies: [{name: bad}]", .dry_run = true}, -EINVAL, "mine.yaml: bad");
}

static void mistakes_are_refused(void **state)
{
	(void)state;
	apply("{name: a, action: deny, rules: []}");
	refused((struct policy_order){.text = "policies: [{name: bad}]"}, -EINVAL, "mine.yaml: bad");
	refused((struct policy_order){.text = "{name: [}"}, -EINVAL,
		"mine.yaml:1:9: did not find expected node content while parsing a flow node");
	refused((struct policy_order){.text = "{name: f2, action: deny}"}, -EEXIST,
		"policy 'f2' stands in /etc/adit/conf.d/p.yaml:4: change it there and reload, or give this one another name");
	refused((struct policy_order){.name = "f1"}, -EEXIST, "policy 'f1' stands in /etc/adit/conf.d/p.yaml:3: remove it there and reload");
	refused((struct policy_order){.name = "x"}, -ENOENT, "there is no policy 'x'; aditctl policy list shows all");
	refused((struct policy_order){.name = "x", .text = "{name: y}"}, -EINVAL, "mine.yaml: want one policy, called 'x'");
	refused((struct policy_order){.name = "a", .if_generation = true, .generation = 7}, -ESTALE,
		"generation 1 is in force, not 7: somebody else has changed policies; look again");
	assert_int_equal(change_with((struct policy_order){.name = "a", .if_generation = true, .generation = 1}), 0);
}

static void what_cannot_be_installed_is_taken_back(void **state)
{
	(void)state;
	install_fails = -ENOMEM;
	refused((struct policy_order){.text = "{name: a, action: deny, rules: []}"}, -ENOMEM, "no");
	install_fails = 0;
	apply("{name: a, action: deny, rules: []}");
	install_fails = -EIO;
	refused((struct policy_order){.name = "a"}, -EIO, "no");
}

static void what_cannot_be_kept_is_not_in_force(void **state)
{
	char first[4096];

	(void)state;
	disk_fails = true;
	assert_int_equal(change_with((struct policy_order){.text = "{name: a, action: deny, rules: []}"}), -EROFS);
	assert_string_equal(in_force, "");
	disk_fails = false;
	apply("{name: a, action: deny, rules: []}");
	strcpy(first, in_force);
	disk_fails = true;
	assert_int_equal(change_with((struct policy_order){.name = "a"}), -EROFS);
	assert_string_equal(in_force, first);
	open_again();
	disk_fails = false;
	assert_int_equal(change_with((struct policy_order){.name = "a", .if_generation = true, .generation = 1}), 0);
}

static void without_a_folder_nothing_is_changed(void **state)
{
	static const struct policies_host host = {judge_fake, install, files, NULL};

	(void)state;
	snprintf(dir + strlen(dir), sizeof(dir) - strlen(dir), "/no");
	audit_destroy(audit);
	assert_int_equal(audit_create(&audit, dir), 0);
	open_again();
	assert_int_equal(change_with((struct policy_order){.text = "{name: a, action: deny, rules: []}"}), -EROFS);
	assert_non_null(strstr(e.msg, "make it, owned by aditd's user, or set state_dir to another folder"));
	policies_close(p);
	assert_int_equal(policies_open(&p, NULL, &e), 0);
	policies_attach(p, &host, NULL);
	assert_int_equal(change_with((struct policy_order){.text = "{name: a, action: deny, rules: []}"}), -EROFS);
	assert_non_null(strstr(e.msg, "no state_dir is configured"));
}

static void files_are_read_again_when_they_changed(void **state)
{
	struct policy_views v;

	(void)state;
	read_files = 0;
	for (int i = 0; i < 3; i++)
		assert_int_equal(policies_views(p, &v, &e), 0);
	assert_int_equal(read_files, 1);
	policies_files_changed(p);
	assert_int_equal(policies_views(p, &v, &e), 0);
	assert_int_equal(read_files, 2);
	assert_int_equal(v.n, 2);
}

static void damage_stops_the_start(void **state)
{
	struct policies *none = NULL;
	char path[160];

	(void)state;
	apply("{name: a, action: deny, rules: []}");
	snprintf(path, sizeof(path), "%s/policies.yaml", dir);
	assert_int_equal(truncate(path, 100), 0);
	assert_int_equal(policies_open(&none, dir, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "is damaged (its end is missing)"));
	assert_null(none);
}

/* the diff of many is cut, their names are not */
static void many_at_once(void **state)
{
	static char big[4096];
	struct text t = {0};

	(void)state;
	memset(big, 'x', 3000);
	for (uint32_t i = 0; i < 1000; i++)
		text_addf(&t, "- {name: p%u, note: %s}\n", i, big);
	assert_int_equal(change_with((struct policy_order){.text = t.s, .dry_run = true}), 0);
	assert_int_equal(out.n[POLICY_ADDED], 1000);
	assert_true(out.diff_cut && out.diff.len < POLICY_DIFF_MAX + 4096);
	text_finish(&t);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(changes_add_up),
		T(dry_runs_change_nothing),
		T(mistakes_are_refused),
		T(what_cannot_be_installed_is_taken_back),
		T(what_cannot_be_kept_is_not_in_force),
		T(without_a_folder_nothing_is_changed),
		T(files_are_read_again_when_they_changed),
		T(damage_stops_the_start),
		T(many_at_once),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
