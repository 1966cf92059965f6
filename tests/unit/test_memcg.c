/* The cgroup's memory, both versions, from files made here. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>
#include <sys/stat.h>

#include "daemon/kern/memcg.c"

static char dir[64];

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "we");
	assert_non_null(f);
	fputs(text, f);
	fclose(f);
}

static void folder(const char *name)
{
	char path[256];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	assert_int_equal(mkdir(path, 0755), 0);
}

static int opened(struct memcg *m)
{
	char self[128], mounts[128];

	snprintf(self, sizeof(self), "%s/self", dir);
	snprintf(mounts, sizeof(mounts), "%s/mounts", dir);
	return memcg_open(m, self, mounts);
}

static int fresh(void **state)
{
	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/adit-memcg-XXXXXX");
	return mkdtemp(dir) ? 0 : -1;
}

static int gone(void **state)
{
	char cmd[128];

	(void)state;
	snprintf(cmd, sizeof(cmd), "rm -rf %s", dir);
	return system(cmd);
}

static void mount_line(const char *fmt)
{
	char line[512];

	snprintf(line, sizeof(line), fmt, dir);
	put("mounts", line);
}

static void version_two(void **state)
{
	struct memcg_sample s;
	struct memcg m;

	(void)state;
	put("self", "3:pids:/x\n0::/pod/app\n");
	mount_line("25 20 0:22 / /proc rw - proc proc rw\n30 20 0:26 / %s/top rw,relatime shared:4 - cgroup2 cgroup2 rw,nsdelegate\n");
	folder("top");
	folder("top/pod");
	folder("top/pod/app");
	put("top/pod/app/memory.current", "50000000\n");
	put("top/pod/app/memory.max", "100000000\n");
	put("top/pod/app/memory.high", "max\n");
	put("top/pod/app/memory.stat", "anon 20000000\nfile 10000000\nsock 15000000\nactive_file 6000000\ninactive_file 4000000\n");
	put("top/pod/app/memory.events", "low 0\nhigh 7\nmax 3\noom 2\noom_kill 1\noom_group_kill 0\n");
	put("top/pod/app/memory.pressure", "some avg10=12.34 avg60=0.00 avg300=0.00 total=5\nfull avg10=3.05 avg60=0.00 avg300=0.00 total=1\n");
	put("top/pod/memory.current", "90000000\n");
	put("top/pod/memory.max", "max\n");
	put("top/pod/memory.high", "max\n");
	put("top/pod/memory.stat", "");
	assert_int_equal(opened(&m), 0);
	assert_int_equal(m.version, 2);
	assert_int_equal(m.n, 1);
	assert_string_equal(m.path, "/pod/app");
	assert_true(memcg_read(&m, &s));
	assert_int_equal(s.limit, 100000000);
	assert_int_equal(s.current, 50000000);
	assert_int_equal(s.used, 40000000); /* without the files' pages */
	assert_int_equal(s.sock, 15000000);
	assert_int_equal(s.oom_kill, 1);
	assert_int_equal(s.full_avg10, 305);
	put("top/pod/app/memory.high", "80000000\n"); /* the lower one counts; looked at each time */
	assert_true(memcg_read(&m, &s));
	assert_int_equal(s.limit, 80000000);
	put("top/pod/app/memory.high", "max\n");
	put("top/pod/app/memory.max", "max\n");
	assert_false(memcg_read(&m, &s));
	memcg_close(&m);
	memcg_close(&m);

	put("top/pod/memory.max", "91000000\n"); /* a neighbour fills what we share */
	put("top/pod/app/memory.max", "100000000\n");
	assert_int_equal(opened(&m), 0);
	assert_int_equal(m.n, 2);
	assert_true(memcg_read(&m, &s));
	assert_int_equal(s.limit, 91000000);
	assert_int_equal(s.used, 90000000);
	assert_int_equal(s.oom_kill, 1);
	memcg_close(&m);
}

static void version_one(void **state)
{
	struct memcg_sample s;
	struct memcg m;

	(void)state;
	put("self", "5:cpu,cpuacct:/elsewhere\n4:memory:/docker/abc/in\n0::/\n");
	mount_line("30 20 0:26 /docker/abc %s/top ro,nosuid shared:4 - cgroup cgroup rw,memory\n");
	folder("top");
	folder("top/in");
	put("top/in/memory.usage_in_bytes", "30000000\n");
	put("top/in/memory.limit_in_bytes", "9223372036854771712\n");
	put("top/in/memory.stat", "cache 1\ntotal_inactive_file 1000000\ntotal_active_file 2000000\n");
	put("top/in/memory.oom_control", "oom_kill_disable 0\nunder_oom 0\noom_kill 4\n");
	put("top/memory.usage_in_bytes", "30000000\n");
	put("top/memory.limit_in_bytes", "60000000\n");
	put("top/memory.stat", "");
	assert_int_equal(opened(&m), 0);
	assert_int_equal(m.version, 1);
	assert_int_equal(m.n, 2);
	assert_true(memcg_read(&m, &s));
	assert_int_equal(s.limit, 60000000);
	assert_int_equal(s.used, 30000000);
	assert_int_equal(s.oom_kill, 4);
	put("top/in/memory.limit_in_bytes", "40000000\n");
	assert_true(memcg_read(&m, &s));
	assert_int_equal(s.limit, 40000000);
	assert_int_equal(s.used, 27000000);
	memcg_close(&m);
}

static void no_controller_is_no_limit(void **state)
{
	struct memcg_sample s;
	struct memcg m;

	(void)state;
	assert_int_equal(opened(&m), -ENOENT);
	assert_false(memcg_read(&m, &s));
	put("self", "0::/\n");
	assert_int_equal(opened(&m), -ENOENT);
	mount_line("30 20 0:26 / %s/top rw - cgroup2 none rw\n");
	folder("top"); /* the root of all has no such files */
	assert_int_equal(opened(&m), -ENOENT);
	assert_false(memcg_read(&m, &s));
	memcg_close(&m);
}

static void pressure_is_read(void **state)
{
	static const char text[] = "some avg10=0.50 avg60=1.00 avg300=0.00 total=5\nfull avg10=100.00 avg60=0.00 avg300=0.00 total=1\n";

	(void)state;
	assert_int_equal(memcg_pressure(text, "some"), 50);
	assert_int_equal(memcg_pressure(text, "full"), 10000);
	assert_int_equal(memcg_pressure("", "full"), 0);
	assert_int_equal(memcg_pressure("full", "full"), 0);
	assert_int_equal(memcg_pressure("full avg10=", "full"), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(version_two, fresh, gone),
		cmocka_unit_test_setup_teardown(version_one, fresh, gone),
		cmocka_unit_test_setup_teardown(no_controller_is_no_limit, fresh, gone),
		cmocka_unit_test(pressure_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
