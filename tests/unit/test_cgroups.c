/* Paths of cgroups by their ids: as they are, remembered when they are gone, nothing for what is no cgroup. Needs root and cgroup2. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "daemon/kern/cgroups.c"
#include <sys/stat.h>
#include <time.h>

static struct cgroups g = {.root = -1};
static char mount_at[256], name[64];

static int set_up(void **state)
{
	struct err e = {""};
	char link[32];
	ssize_t n;

	(void)state;
	if (cgroups_init(&g, &e) < 0) {
		printf("# %s\n", e.msg);
		return 0;
	}
	snprintf(link, sizeof(link), "/proc/self/fd/%d", g.root);
	n = readlink(link, mount_at, sizeof(mount_at) - 1);
	mount_at[n > 0 ? n : 0] = '\0';
	snprintf(name, sizeof(name), "/adit-cgroups-%d", (int)getpid());
	return 0;
}

static int tear_down(void **state)
{
	(void)state;
	cgroups_finish(&g);
	return 0;
}

static uint64_t make(const char *path)
{
	char all[1024];
	struct stat st;

	snprintf(all, sizeof(all), "%s%s", mount_at, path);
	if (mkdir(all, 0755) || stat(all, &st))
		return 0;
	return st.st_ino;
}

static void drop(const char *path)
{
	char all[1024];

	snprintf(all, sizeof(all), "%s%s", mount_at, path);
	assert_int_equal(rmdir(all), 0);
}

static void the_top_and_what_is_no_cgroup(void **state)
{
	struct stat st;

	(void)state;
	if (g.root < 0)
		skip();
	assert_int_equal(fstat(g.root, &st), 0);
	assert_string_equal(cgroups_path(&g, st.st_ino), "/");
	assert_null(cgroups_path(&g, 0));
	assert_null(cgroups_path(&g, UINT64_MAX));
	assert_null(cgroups_path(&(struct cgroups){.root = -1}, st.st_ino));
}

static void a_path_is_remembered_when_its_cgroup_is_gone(void **state)
{
	char below[128];
	uint64_t a, b;
	struct cgroups other;

	(void)state;
	if (g.root < 0)
		skip();
	snprintf(below, sizeof(below), "%s/x", name);
	a = make(name);
	if (!a)
		skip();
	b = make(below);
	assert_string_equal(cgroups_path(&g, b), below);
	assert_string_equal(cgroups_path(&g, a), name);
	drop(below);
	drop(name);
	assert_string_equal(cgroups_path(&g, b), below);
	/* who has never seen it cannot tell */
	assert_int_equal(cgroups_init(&other, NULL), 0);
	assert_null(cgroups_path(&other, b));
	cgroups_finish(&other);
	/* the name again is another cgroup */
	a = make(name);
	assert_true(a && a != b);
	assert_string_equal(cgroups_path(&g, a), name);
	drop(name);
}

/* more cgroups than are remembered */
static void places_are_used_again(void **state)
{
	uint64_t id[3];
	char path[3][128];

	(void)state;
	if (g.root < 0)
		skip();
	for (int i = 0; i < 3; i++) {
		snprintf(path[i], sizeof(path[i]), "%s-%d", name, i);
		id[i] = make(path[i]);
		if (!id[i])
			skip();
	}
	for (int k = 0; k < 3; k++)
		for (int i = 0; i < 3; i++) {
			size_t at = id[i] % CGROUPS_KNOWN;

			assert_string_equal(cgroups_path(&g, id[i]), path[i]);
			g.known[at].id += CGROUPS_KNOWN; /* as if another had taken the place */
			assert_string_equal(cgroups_path(&g, id[i]), path[i]);
		}
	for (int i = 0; i < 3; i++)
		drop(path[i]);
}

static void cost(void **state)
{
	struct timespec a, b;
	struct stat st;
	int n = 500;

	(void)state;
	if (g.root < 0)
		skip();
	assert_int_equal(fstat(g.root, &st), 0);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < n; i++) {
		g.known[st.st_ino % CGROUPS_KNOWN].id = 0;
		assert_non_null(cgroups_path(&g, st.st_ino));
	}
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("# a cgroup seen for the first time: %.2f us\n", ((double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3) / n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_top_and_what_is_no_cgroup),
		cmocka_unit_test(a_path_is_remembered_when_its_cgroup_is_gone),
		cmocka_unit_test(places_are_used_again),
		cmocka_unit_test(cost),
	};

	return cmocka_run_group_tests(tests, set_up, tear_down);
}
