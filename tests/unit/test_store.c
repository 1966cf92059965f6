/* The state folder: applied policies that are always whole, and the log of who changed them. */
#include "../../daemon/control/audit.c"
#include "../../daemon/control/store.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/wait.h>
// clang-format off
#include <cmocka.h>
// clang-format on

static char top[64], dir[80];
static struct err e;

static int setup(void **state)
{
	(void)state;
	snprintf(top, sizeof(top), "/tmp/adit-store-XXXXXX");
	assert_non_null(mkdtemp(top));
	snprintf(dir, sizeof(dir), "%s/state", top);
	e.msg[0] = '\0';
	return 0;
}

static int teardown(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf %s", top);
	return system(command);
}

static void load(struct store_text *s)
{
	if (store_load(dir, s, &e) < 0)
		fail_msg("%s", e.msg);
}

static void save(const char *body)
{
	struct store_text old, new;

	load(&old);
	if (store_write(dir, &old, body, strlen(body), &new, &e) < 0 || store_commit(dir, &new, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(new.generation, old.generation + 1);
	store_finish(&old);
	load(&old);
	assert_int_equal(new.n, old.n);
	assert_memory_equal(new.text, old.text, new.n);
	store_finish(&old);
	store_finish(&new);
}

static void nothing_is_a_beginning(void **state)
{
	struct store_text s;
	struct stat st;

	(void)state;
	load(&s);
	assert_null(s.text);
	assert_int_equal(s.generation, 0);
	assert_int_equal(stat(dir, &st), -1); /* reading makes no folder */
	store_finish(&s);
	save("policies: []\n");
	assert_int_equal(stat(dir, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0700);
	load(&s);
	assert_int_equal(s.generation, 1);
	assert_non_null(strstr(s.text, "\npolicies: []\n"));
	assert_int_equal(stat(s.path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	store_finish(&s);
}

static void put_file(const char *name, const char *s, size_t n)
{
	char path[160];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_int_equal(fwrite(s, 1, n, f), n);
	assert_int_equal(fclose(f), 0);
	assert_int_equal(chmod(path, 0600), 0);
}

/* every byte that is missing or different is found */
static void damage_is_found(void **state)
{
	struct store_text s, none;
	char *copy;

	(void)state;
	save("policies:\n  - name: a\n    action: deny\n    rules: []\n");
	load(&s);
	copy = malloc(s.n + 1);
	assert_non_null(copy);
	for (size_t i = 0; i < s.n; i++) {
		put_file(STORE_FILE, s.text, i);
		assert_int_equal(store_load(dir, &none, &e), -EBADMSG);
		assert_non_null(strstr(e.msg, "policies.yaml is damaged ("));
		memcpy(copy, s.text, s.n);
		copy[i] ^= 1;
		put_file(STORE_FILE, copy, s.n);
		assert_int_equal(store_load(dir, &none, &e), -EBADMSG);
	}
	memcpy(copy, s.text, s.n);
	copy[s.n] = '\n';
	put_file(STORE_FILE, copy, s.n + 1);
	assert_int_equal(store_load(dir, &none, &e), -EBADMSG);
	assert_non_null(strstr(e.msg, "there is more than was written"));
	free(copy);
	store_finish(&s);
}

static void what_others_may_write_is_not_read(void **state)
{
	struct store_text s;
	char path[160];

	(void)state;
	save("policies: []\n");
	snprintf(path, sizeof(path), "%s/" STORE_FILE, dir);
	assert_int_equal(chmod(path, 0620), 0);
	assert_int_equal(store_load(dir, &s, &e), -EPERM);
	assert_int_equal(chmod(path, 0600), 0);
	if (geteuid() == 0) {
		assert_int_equal(chown(path, 12345, 12345), 0);
		assert_int_equal(store_load(dir, &s, &e), -EPERM);
		assert_non_null(strstr(e.msg, "can be written by others than aditd"));
	}
	assert_int_equal(chmod(dir, 0777), 0);
	assert_int_equal(store_folder(dir, &e), -EPERM);
}

static void two_daemons_do_not_undo_each_other(void **state)
{
	struct store_text mine, theirs, next;

	(void)state;
	save("policies: []\n");
	load(&mine);
	load(&theirs);
	assert_int_equal(store_write(dir, &theirs, "# 2\n", 4, &next, &e), 0);
	assert_int_equal(store_commit(dir, &next, &e), 0);
	store_finish(&next);
	assert_int_equal(store_write(dir, &mine, "# 3\n", 4, &next, &e), -EBUSY);
	assert_non_null(strstr(e.msg, "another aditd uses the folder"));
	store_finish(&mine);
	load(&mine);
	assert_int_equal(mine.generation, 2);
	store_finish(&theirs);
	load(&theirs);
	assert_int_equal(store_write(dir, &theirs, "# 3\n", 4, &next, &e), 0);
	store_drop(&next); /* it was written, and is not wanted */
	assert_true(store_commit(dir, &next, &e) < 0);
	store_finish(&next);
	store_finish(&mine);
	load(&mine);
	assert_int_equal(mine.generation, 2);
	store_finish(&mine);
	store_finish(&theirs);
}

static void a_folder_that_cannot_be_written_says_so(void **state)
{
	struct store_text old = {0}, s;

	(void)state;
	snprintf(dir, sizeof(dir), "%s", top);
	put_file("file", "x", 0);
	snprintf(dir, sizeof(dir), "%s/file", top);
	assert_true(store_write(dir, &old, "x", 1, &s, &e) < 0);
	assert_null(s.text);
	snprintf(dir, sizeof(dir), "%s/no/state", top);
	assert_int_equal(store_write(dir, &old, "x", 1, &s, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "make it, owned by aditd's user, or set state_dir to another folder"));
}

/* killed at any moment: the old one or the new one */
static void a_kill_leaves_one_of_both(void **state)
{
	uint64_t last = 0;

	(void)state;
	save("# 1\n");
	for (uint32_t i = 0; i < 50; i++) {
		struct store_text s, next;
		pid_t pid = fork();
		int status;

		if (pid == 0)
			for (;;)
				if (store_load(dir, &s, &e) < 0 || store_write(dir, &s, "policies: []\n", 13, &next, &e) < 0 ||
				    store_commit(dir, &next, &e) < 0)
					_exit(1);
		assert_true(pid > 0);
		usleep(1000 + i * 137 % 3000);
		assert_int_equal(kill(pid, SIGKILL), 0);
		assert_int_equal(waitpid(pid, &status, 0), pid);
		assert_true(WIFSIGNALED(status));
		load(&s);
		assert_true(s.generation >= last);
		last = s.generation;
		store_finish(&s);
	}
	assert_true(last > 1);
}

/* ---- audit */

static json_t *tail(struct audit *a, uint32_t n, size_t want)
{
	struct text out = {0};
	json_t *list = json_array();
	char *line, *save;

	if (audit_tail(a, n, &out, &e) < 0)
		fail_msg("%s", e.msg);
	for (line = out.s ? strtok_r(out.s, "\n", &save) : NULL; line; line = strtok_r(NULL, "\n", &save))
		json_array_append_new(list, json_loads(line, JSON_REJECT_DUPLICATES, NULL));
	text_finish(&out);
	assert_int_equal(json_array_size(list), want);
	return list;
}

static const char *str(const json_t *list, size_t i, const char *key)
{
	const char *s = json_string_value(json_object_get(json_array_get(list, i), key));

	return s ? s : "(none)";
}

static void attempts_are_lines(void **state)
{
	const struct audit_entry done = {.pid = getpid(),
					 .uid = 7,
					 .gid = 8,
					 .what = "PUT /v1/log-level",
					 .done = true,
					 .status = 200,
					 .detail = "{\n  \"names\": [ \"a\" ],\n  \"diff\": \"+ x\\n\"\n}\n"};
	const struct audit_entry failed = {
		.what = "SIGHUP", .uid = (uid_t)-1, .gid = (gid_t)-1, .error = "line 1\nline \"2\"", .detail = "{}"};
	struct audit *a;
	json_t *list;
	struct stat st;
	char path[160];

	(void)state;
	assert_int_equal(audit_create(&a, dir), 0);
	assert_int_equal(audit_write(a, &done, &e), 0);
	assert_int_equal(audit_write(a, &failed, &e), 0);
	list = tail(a, UINT32_MAX, 2);
	assert_string_equal(str(list, 0, "what"), "PUT /v1/log-level");
	assert_string_equal(str(list, 0, "result"), "done");
	assert_string_equal(str(list, 0, "diff"), "+ x\n");
	assert_string_equal(str(list, 0, "comm"), "test_store");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 0), "uid")), 7);
	assert_int_equal(strlen(str(list, 0, "time")), strlen("2026-01-01T00:00:00.000Z"));
	assert_string_equal(str(list, 1, "error"), "line 1\nline \"2\"");
	assert_string_equal(str(list, 1, "result"), "refused");
	assert_int_equal(json_integer_value(json_object_get(json_array_get(list, 1), "uid")), -1);
	json_decref(list);
	snprintf(path, sizeof(path), "%s/audit.log", dir);
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0600);
	audit_destroy(a);
}

static void rotation_begins_a_new_file(void **state)
{
	struct audit *a;
	char path[160], moved[170];

	(void)state;
	assert_int_equal(audit_create(&a, dir), 0);
	for (uint32_t i = 0; i < 5; i++)
		assert_int_equal(audit_write(a, &(struct audit_entry){.what = "x", .done = true}, &e), 0);
	json_decref(tail(a, 3, 3));
	json_decref(tail(a, 5, 5));
	json_decref(tail(a, 0, 0));
	snprintf(path, sizeof(path), "%s/audit.log", dir);
	snprintf(moved, sizeof(moved), "%s.1", path);
	assert_int_equal(rename(path, moved), 0);
	audit_reopen(a);
	assert_int_equal(audit_write(a, &(struct audit_entry){.what = "y", .done = true}, &e), 0);
	json_decref(tail(a, 100, 1));
	audit_destroy(a);
}

static void strangers_cannot_fill_the_disk(void **state)
{
	struct audit *a;
	json_t *list;

	(void)state;
	assert_int_equal(audit_create(&a, dir), 0);
	for (uint32_t i = 0; i < 1000; i++)
		assert_int_equal(audit_write(a, &(struct audit_entry){.what = "x", .stranger = true}, &e), 0);
	assert_int_equal(audit_write(a, &(struct audit_entry){.what = "y", .done = true}, &e), 0);
	assert_int_equal(audit_write(a, &(struct audit_entry){.what = "z", .done = true}, &e), 0);
	list = tail(a, 2, 2);
	assert_true(json_integer_value(json_object_get(json_array_get(list, 0), "left_out")) >= 1000 - 2 * STRANGERS_BURST);
	assert_null(json_object_get(json_array_get(list, 1), "left_out"));
	json_decref(list);
	json_decref(tail(a, 1000, STRANGERS_BURST + 2));
	audit_destroy(a);
}

static void half_a_line_is_passed_over(void **state)
{
	static const char text[] = "{\"what\": 1}\n{\"wha\nword\n{\"what\": 2}\n{\"what";
	struct audit *a;

	(void)state;
	assert_int_equal(mkdir(dir, 0700), 0);
	put_file("audit.log", text, sizeof(text) - 1);
	assert_int_equal(audit_create(&a, dir), 0);
	json_decref(tail(a, 100, 2));
	audit_destroy(a);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(nothing_is_a_beginning),	  T(damage_is_found),
		T(what_others_may_write_is_not_read), T(two_daemons_do_not_undo_each_other),
		T(a_folder_that_cannot_be_written_says_so), T(a_kill_leaves_one_of_both),
		T(attempts_are_lines),		  T(rotation_begins_a_new_file),
		T(strangers_cannot_fill_the_disk), T(half_a_line_is_passed_over),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
