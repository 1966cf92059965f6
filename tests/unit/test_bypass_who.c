/* Allow-lists: every list that is not empty must have a match, and what cannot be judged is not allowed. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include "daemon/kern/bypass_who.c"

static struct who who;

static int set_up(void **state)
{
	(void)state;
	return who_init(&who, -1, "/sys/fs/cgroup", true);
}
static int tear_down(void **state)
{
	(void)state;
	who_finish(&who);
	return 0;
}

static bool allows(const struct cfg_who *c, const struct who_end *e)
{
	return who_allows(&who, c, 1, e);
}

static void below_is_the_cgroup_and_all_under_it(void **state)
{
	(void)state;
	assert_true(who_below("/shop.slice", "/shop.slice"));
	assert_true(who_below("/shop.slice/web.service", "/shop.slice"));
	assert_true(who_below("/shop.slice/web.service", "/shop.slice/"));
	assert_false(who_below("/shop.slice2", "/shop.slice"));
	assert_false(who_below("/shop", "/shop.slice"));
	assert_false(who_below("", "/shop.slice"));
	assert_true(who_below("/anything", "/"));
	assert_true(who_below("", "/"));
}

static void nobody_is_allowed_by_no_rule(void **state)
{
	struct who_end e = {.uid = 0};

	(void)state;
	assert_false(who_allows(&who, NULL, 0, &e));
}

static void an_empty_rule_is_for_everybody(void **state)
{
	struct cfg_who all = {0};

	(void)state;
	assert_true(allows(&all, &(struct who_end){.uid = 12, .port = {1, 2}}));
}

static void users(void **state)
{
	uint32_t ids[] = {33, 1000};
	struct cfg_who c = {.uids = ids, .n_uids = 2};

	(void)state;
	assert_true(allows(&c, &(struct who_end){.uid = 1000}));
	assert_false(allows(&c, &(struct who_end){.uid = 0}));
}

static void ports_of_either_connection(void **state)
{
	struct cfg_ports p[] = {{6379, 6379}, {8000, 8099}};
	struct cfg_who c = {.ports = p, .n_ports = 2};

	(void)state;
	assert_true(allows(&c, &(struct who_end){.port = {15001, 6379}}));
	assert_true(allows(&c, &(struct who_end){.port = {8099, 1}}));
	assert_false(allows(&c, &(struct who_end){.port = {8100, 7999}}));
}

static void programs(void **state)
{
	char self[4096] = {0};
	const char *list[] = {"/nonexistent", self}, *other[] = {"/nonexistent"};
	struct cfg_who c = {.executables = list, .n_executables = 2}, d = {.executables = other, .n_executables = 1};
	struct who_end e = {.tgid = (uint32_t)getpid()};

	(void)state;
	assert_true(readlink("/proc/self/exe", self, sizeof(self) - 1) > 0);
	assert_true(allows(&c, &e));
	assert_false(allows(&d, &e));
	assert_false(allows(&c, &(struct who_end){.tgid = 0}));
	assert_false(allows(&c, &(struct who_end){.tgid = 0x7fffffff})); /* no such process */
	who.proc = false; /* process ids mean other processes here */
	assert_false(allows(&c, &e));
}

static void cgroups_that_cannot_be_found_out(void **state)
{
	const char *root[] = {"/"}, *slice[] = {"/shop.slice"};
	struct cfg_who all = {.cgroups = root, .n_cgroups = 1}, c = {.cgroups = slice, .n_cgroups = 1};

	(void)state;
	assert_true(allows(&all, &(struct who_end){.cgroup = 1}));
	assert_false(allows(&c, &(struct who_end){.cgroup = 1}));
	who.cgroup_root = open("/", O_RDONLY | O_DIRECTORY | O_CLOEXEC); /* not a cgroup2 mount: the kernel refuses the handle */
	assert_false(allows(&c, &(struct who_end){.cgroup = 1}));
	close(who.cgroup_root);
}

static void every_list_must_match(void **state)
{
	uint32_t ids[] = {33};
	struct cfg_ports p[] = {{80, 80}};
	struct cfg_who c[] = {{.uids = ids, .n_uids = 1, .ports = p, .n_ports = 1}, {.uids = ids, .n_uids = 1, .ports = p, .n_ports = 1}};
	struct cfg_ports q[] = {{443, 443}};

	(void)state;
	c[1].ports = q;
	assert_true(who_allows(&who, c, 2, &(struct who_end){.uid = 33, .port = {443, 443}})); /* one rule is enough */
	assert_false(who_allows(&who, c, 1, &(struct who_end){.uid = 33, .port = {443, 443}}));
	assert_false(who_allows(&who, c, 2, &(struct who_end){.uid = 34, .port = {443, 443}}));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(below_is_the_cgroup_and_all_under_it, set_up, tear_down),
		cmocka_unit_test_setup_teardown(nobody_is_allowed_by_no_rule, set_up, tear_down),
		cmocka_unit_test_setup_teardown(an_empty_rule_is_for_everybody, set_up, tear_down),
		cmocka_unit_test_setup_teardown(users, set_up, tear_down),
		cmocka_unit_test_setup_teardown(ports_of_either_connection, set_up, tear_down),
		cmocka_unit_test_setup_teardown(programs, set_up, tear_down),
		cmocka_unit_test_setup_teardown(cgroups_that_cannot_be_found_out, set_up, tear_down),
		cmocka_unit_test_setup_teardown(every_list_must_match, set_up, tear_down),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
