/* What capture and steer allocate in user space, refused once each. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "kern/capture.h"
#include "kern/cgroups.h"
#include "kern/nets.h"
#include "kern/steer.h"
#include "oom/oom.h"

static void nets_once(void)
{
	static const struct cidr to[] = {{.net.family = AF_INET, .bits = 0}, {.net = {.family = AF_INET, .ip = {10}}, .bits = 8, .port_last = 80}};
	struct net_entry *e = NULL;
	uint32_t n;
	int r = nets_build(to, 2, &to[1], 1, &e, &n, NULL);

	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_null(e);
		return;
	}
	assert_int_equal(n, 2);
	free(e);
}

static void nets_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(nets_once) >= 3);
}

/* a path that cannot be remembered is not known */
static void cgroup_once(void)
{
	struct cgroups g;
	struct stat st;
	const char *path;
	struct err e = {""};

	if (cgroups_init(&g, &e) < 0 || fstat(g.root, &st)) /* no cgroup2, or stdio had no memory */
		return;
	path = cgroups_path(&g, st.st_ino);
	assert_true(path ? !strcmp(path, "/") : oom_struck());
	cgroups_finish(&g);
}

static void cgroups_survive(void **state)
{
	(void)state;
	(void)oom_sweep(cgroup_once);
}

static int no_fd(void *arg, uint32_t i, uint32_t w)
{
	(void)arg, (void)i, (void)w;
	return -1;
}

/* an agent that neither captures nor steers */
static void idle_once(void)
{
	static const struct config cfg = {.node.id = "oom"};
	struct capture_info n;
	struct capture *c;
	struct steer *s;
	struct err e = {""};

	if (capture_create(&c, &cfg, no_fd, NULL, &e) == 0) {
		capture_age(c);
		capture_info(c, &n);
		assert_int_equal(n.rules, 0);
		capture_destroy(c, false);
	} else {
		assert_true(oom_struck());
		assert_null(c);
	}
	if (steer_create(&s, &cfg, no_fd, NULL, &e) < 0)
		assert_true(oom_struck());
	assert_null(s);
}

static void idle_survives(void **state)
{
	(void)state;
	assert_true(oom_sweep(idle_once) >= 4);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nets_survive), cmocka_unit_test(cgroups_survive),
		cmocka_unit_test(idle_survives),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
