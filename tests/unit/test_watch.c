/* Files that change in every way that people and programs have: told once, when they rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/control/watch.c"
#include <poll.h>
#include <stdlib.h>

static char dir[64];
static struct watch *w;
static int calls;
static bool seen[4];

static void changed(void *arg)
{
	(void)arg;
	calls++;
	for (uint32_t i = 0; i < 4; i++)
		seen[i] = watch_changed(w, i);
}

static const char *at(const char *name)
{
	static char text[8][128];
	static unsigned int n;
	char *out = text[n++ % 8];

	snprintf(out, sizeof(text[0]), "%s/%s", dir, name);
	return out;
}

static void put(const char *name, const char *what)
{
	FILE *f = fopen(at(name), "we");

	assert_non_null(f);
	assert_true(fputs(what, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void run_for(uint64_t ms)
{
	uint64_t end = now_ms() + ms;

	while (now_ms() < end) {
		struct pollfd p = {.fd = watch_fd(w), .events = POLLIN};

		if (poll(&p, 1, 5) > 0)
			watch_run(w);
	}
}

/* Return: how many calls in the time that a change needs at most; ends with the first, and a settle time more */
static int told(void)
{
	int from = calls;
	uint64_t end = now_ms() + 3000;

	while (calls == from && now_ms() < end)
		run_for(10);
	run_for(60);
	return calls - from;
}

static void begin(uint32_t poll_ms, const char *a, const char *b)
{
	struct watch_ops ops = {.changed = changed, .settle_ms = 30, .poll_ms = poll_ms};
	const char *paths[2] = {at(a), b ? at(b) : NULL};
	struct err e = {""};

	snprintf(dir, sizeof(dir), "/tmp/adit-watch-XXXXXX");
	assert_non_null(mkdtemp(dir));
	paths[0] = at(a);
	if (b)
		paths[1] = at(b);
	calls = 0;
	assert_int_equal(watch_create(&w, &ops, &e), 0);
	assert_int_equal(watch_set(w, paths, b ? 2 : 1, &e), 0);
}

static void end(void)
{
	char cmd[128];

	watch_destroy(w);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	assert_int_equal(system(cmd), 0);
}

#define LONG 3600000u /* no poll: events alone */

static void a_write_and_a_rename_are_told_once(void **state)
{
	(void)state;
	begin(LONG, "a", "b");
	put("a", "one"); /* it was watched for before it was there */
	assert_int_equal(told(), 1);
	assert_true(seen[0] && !seen[1]);
	put("b.new", "1");
	assert_int_equal(rename(at("b.new"), at("b")), 0);
	assert_int_equal(told(), 1);
	assert_true(!seen[0] && seen[1]);
	put("a", "two"); /* both: certificate and key */
	put("b", "2");
	assert_int_equal(told(), 1);
	assert_true(seen[0] && seen[1]);
	end();
}

static void the_same_content_is_no_change(void **state)
{
	(void)state;
	begin(50, "a", NULL);
	put("a", "one");
	assert_int_equal(told(), 1);
	put("a", "one");
	put("a.new", "one");
	assert_int_equal(rename(at("a.new"), at("a")), 0);
	put("unrelated", "x");
	run_for(300);
	assert_int_equal(calls, 1);
	end();
}

static void a_slow_writer_is_waited_for(void **state)
{
	(void)state;
	begin(LONG, "a", NULL);
	put("a", "");
	for (int i = 0; i < 5; i++) {
		put("a", "half");
		run_for(12);
	}
	assert_int_equal(calls, 0);
	put("a", "whole");
	assert_int_equal(told(), 1);
	/* but not for ever */
	for (int i = 0; i < 60 && calls == 1; i++) {
		char text[16];

		snprintf(text, sizeof(text), "%d", i);
		put("a", text);
		run_for(12);
	}
	assert_int_equal(calls, 2);
	end();
}

/* tls.crt -> ..data/tls.crt, ..data -> ..1/ */
static void a_link_to_a_folder_is_swapped(void **state)
{
	(void)state;
	begin(LONG, "tls.crt", "tls.key");
	for (int i = 1; i < 4; i++) {
		char name[32], text[16];

		snprintf(name, sizeof(name), "..%d", i);
		assert_int_equal(mkdir(at(name), 0755), 0);
		snprintf(text, sizeof(text), "cert %d", i);
		snprintf(name, sizeof(name), "..%d/tls.crt", i);
		put(name, text);
		snprintf(name, sizeof(name), "..%d/tls.key", i);
		put(name, text);
		snprintf(name, sizeof(name), "..%d", i);
		assert_int_equal(symlink(name, at("..data_tmp")), 0);
		assert_int_equal(rename(at("..data_tmp"), at("..data")), 0);
		if (i == 1) {
			assert_int_equal(symlink("..data/tls.crt", at("tls.crt")), 0);
			assert_int_equal(symlink("..data/tls.key", at("tls.key")), 0);
		}
		assert_int_equal(told(), 1);
		assert_true(seen[0] && seen[1]);
	}
	/* into the folder that the links lead to now */
	put("..3/tls.key", "changed in place");
	assert_int_equal(told(), 1);
	assert_true(!seen[0] && seen[1]);
	end();
}

/* live/cert.pem -> ../archive/cert2.pem */
static void a_link_to_a_file_is_swapped(void **state)
{
	(void)state;
	begin(LONG, "live/cert.pem", NULL);
	assert_int_equal(mkdir(at("live"), 0755) | mkdir(at("archive"), 0755), 0);
	put("archive/1.pem", "1");
	put("archive/2.pem", "2");
	assert_int_equal(symlink("../archive/1.pem", at("live/cert.pem")), 0);
	assert_int_equal(told(), 1);
	assert_int_equal(unlink(at("live/cert.pem")), 0);
	assert_int_equal(symlink("../archive/2.pem", at("live/cert.pem")), 0);
	assert_int_equal(told(), 1);
	put("archive/2.pem", "2b");
	assert_int_equal(told(), 1);
	assert_int_equal(unlink(at("live/cert.pem")), 0);
	assert_int_equal(symlink("cert.pem", at("live/cert.pem")), 0); /* a loop */
	assert_int_equal(told(), 1);
	end();
}

static void a_folder_goes_and_comes_back(void **state)
{
	(void)state;
	begin(LONG, "x/y/a", NULL);
	for (int i = 0; i < 3; i++) {
		assert_int_equal(mkdir(at("x"), 0755) | mkdir(at("x/y"), 0755), 0);
		put("x/y/a", "here");
		assert_int_equal(told(), 1);
		assert_int_equal(unlink(at("x/y/a")) | rmdir(at("x/y")) | rmdir(at("x")), 0);
		assert_int_equal(told(), 1);
	}
	end();
}

static void a_folder_of_files_is_watched(void **state)
{
	(void)state;
	begin(LONG, "conf.d", NULL);
	assert_int_equal(mkdir(at("conf.d"), 0755), 0);
	assert_int_equal(told(), 1);
	put("conf.d/10.yaml", "a");
	assert_int_equal(told(), 1);
	put("conf.d/10.yaml", "bb");
	assert_int_equal(told(), 1);
	assert_int_equal(unlink(at("conf.d/10.yaml")), 0);
	assert_int_equal(told(), 1);
	end();
}

static void without_events_it_is_polled(void **state)
{
	(void)state;
	begin(40, "a", NULL);
	close(w->in);
	w->in = -1;
	put("a", "1");
	assert_int_equal(told(), 1);
	put("a", "2");
	assert_int_equal(told(), 1);
	end();
}

static void other_paths_can_be_set(void **state)
{
	struct err e = {""};

	(void)state;
	begin(LONG, "a", NULL);
	put("a", "1");
	assert_int_equal(told(), 1);
	put("b", "1");
	{
		const char *two[] = {at("b"), at("a")};

		assert_int_equal(watch_set(w, two, 2, &e), 0);
	}
	run_for(100);
	assert_int_equal(calls, 1); /* b as it is is what counts */
	put("b", "2");
	assert_int_equal(told(), 1);
	assert_true(seen[0] && !seen[1]);
	{
		const char *one[] = {at("b")};

		assert_int_equal(watch_set(w, one, 1, &e), 0);
	}
	put("a", "3");
	run_for(100);
	assert_int_equal(calls, 2);
	put("b", "3");
	assert_true(watch_now(w)); /* at once */
	assert_int_equal(calls, 3);
	assert_false(watch_now(w));
	end();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_write_and_a_rename_are_told_once),
		cmocka_unit_test(the_same_content_is_no_change),
		cmocka_unit_test(a_slow_writer_is_waited_for),
		cmocka_unit_test(a_link_to_a_folder_is_swapped),
		cmocka_unit_test(a_link_to_a_file_is_swapped),
		cmocka_unit_test(a_folder_goes_and_comes_back),
		cmocka_unit_test(a_folder_of_files_is_watched),
		cmocka_unit_test(without_events_it_is_polled),
		cmocka_unit_test(other_paths_can_be_set),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
