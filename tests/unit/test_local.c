/* Addresses of the node: what is there, what comes and goes, lost messages; policy routing: made, kept, shared, taken away, refused. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/net/local.c"
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <poll.h>

static struct addr addr_of(const char *s)
{
	struct addr a;

	assert_int_equal(addr_parse_ip(s, strlen(s), &a, NULL), 0);
	return a;
}

static struct local *start(void)
{
	struct err e = { "" };
	struct local *l;

	if (local_create(&l, &e) < 0)
		fail_msg("%s", e.msg);
	return l;
}

static bool has(struct local *l, const char *s)
{
	struct addr a = addr_of(s);

	return local_has(l, &a);
}

/* wait for a change, and take it in */
static bool changes(struct local *l)
{
	struct pollfd p = { .fd = local_fd(l), .events = POLLIN };

	if (poll(&p, 1, 5000) != 1)
		return false;
	local_run(l);
	return true;
}

static void run(const char *command)
{
	if (system(command))
		fail_msg("%s", command);
}

/* what ip(8) prints */
static const char *shows(const char *command)
{
	static char out[4096];
	FILE *f = popen(command, "r");
	size_t n;

	assert_non_null(f);
	n = fread(out, 1, sizeof(out) - 1, f);
	out[n] = '\0';
	pclose(f);
	return out;
}

/* tests of this group run in a namespace of their own */
static bool alone;

static int unshared(void **state)
{
	(void)state;
	if (!alone)
		alone = !unshare(CLONE_NEWNET) && !system("ip link set lo up && ip link add d0 type veth peer name d1 && ip link set d0 up && ip link set d1 up");
	return 0;
}

#define ALONE()                                                                                                                  \
	do {                                                                                                                     \
		(void)state;                                                                                                     \
		if (!alone)                                                                                                      \
			skip();                                                                                                  \
	} while (0)

/* ---- addresses ---- */

static void loopback_is_ours_and_others_are_not(void **state)
{
	struct local *l = start();
	struct addr none = { 0 };
	struct local_info i;

	(void)state;
	assert_true(has(l, "127.0.0.1"));
	assert_true(has(l, "127.9.9.9")); /* the whole network is local */
	assert_false(has(l, "192.0.2.1"));
	assert_false(has(l, "2001:db8::1"));
	assert_false(local_has(l, &none));
	local_info(l, &i);
	assert_true(i.addresses >= 1 && i.routes >= 1);
	assert_int_equal(i.rules, 0);
	local_destroy(l);
	local_destroy(NULL);
}

static void addresses_come_and_go(void **state)
{
	struct local_info i;
	struct local *l;

	ALONE();
	l = start();
	assert_false(has(l, "10.9.0.1"));
	run("ip addr add 10.9.0.1/24 dev d0 && ip addr add 2001:db8:9::1/64 dev d0 nodad");
	while (!(has(l, "10.9.0.1") && has(l, "2001:db8:9::1")))
		assert_true(changes(l));
	assert_false(has(l, "10.9.0.2"));
	assert_false(has(l, "10.9.0.255")); /* broadcast is nobody's address */
	assert_false(has(l, "2001:db8:9::2"));
	run("ip addr del 10.9.0.1/24 dev d0");
	while (has(l, "10.9.0.1"))
		assert_true(changes(l));
	assert_true(has(l, "2001:db8:9::1"));
	local_info(l, &i);
	assert_true(i.changes >= 2);
	run("ip addr flush dev d0");
	local_destroy(l);
}

static void prefixes_can_be_local(void **state)
{
	struct local *l;

	ALONE();
	run("ip route add local 10.96.0.0/13 dev lo && ip -6 route add local 2001:db8:96::/60 dev lo");
	l = start();
	assert_true(has(l, "10.96.0.0") && has(l, "10.103.255.255"));
	assert_false(has(l, "10.95.255.255") || has(l, "10.104.0.0"));
	assert_true(has(l, "2001:db8:96:f:ffff::1"));
	assert_false(has(l, "2001:db8:96:10::1"));
	run("ip route del local 10.96.0.0/13 dev lo && ip -6 route del local 2001:db8:96::/60 dev lo");
	while (has(l, "10.100.0.1"))
		assert_true(changes(l));
	local_destroy(l);
}

/* point to point: ours is IFA_LOCAL, the other end's is IFA_ADDRESS */
static void the_other_end_of_a_link_is_not_ours(void **state)
{
	struct local *l;

	ALONE();
	run("ip addr add 10.9.1.1 peer 10.9.1.2/32 dev d0");
	l = start();
	assert_true(has(l, "10.9.1.1"));
	assert_false(has(l, "10.9.1.2"));
	run("ip addr flush dev d0");
	local_destroy(l);
}

/* more messages than the socket holds: some are dropped, and the state is right all the same */
static void lost_messages_lead_to_another_look(void **state)
{
	struct local *l;
	char a[32];

	ALONE();
	l = start();
	(void)nl_socket_set_buffer_size(l->watch, 2048, 0);
	run("for i in $(seq 0 7); do for k in $(seq 1 250); do echo addr add 10.8.$i.$k/32 dev d0; done; done | ip -batch -");
	assert_int_equal(nl_recvmsgs_default(l->watch), -NLE_NOMEM); /* it has happened */
	local_run(l);
	l->dirty = true;
	local_run(l);
	for (int i = 0; i < 8; i++)
		for (int k = 1; k <= 250; k++) {
			snprintf(a, sizeof(a), "10.8.%d.%d", i, k);
			assert_true(has(l, a));
		}
	run("ip link del d0 && ip link add d0 type veth peer name d1 && ip link set d0 up && ip link set d1 up");
	while (has(l, "10.8.7.250"))
		assert_true(changes(l));
	local_destroy(l);
}

static void the_kernel_says_what_stays_here(void **state)
{
	struct addr lo = addr_of("127.0.0.1"), net = addr_of("127.9.9.9"), out = addr_of("192.0.2.1"), here = addr_of("10.9.2.1"),
		    there = addr_of("10.9.2.2"), lo6 = addr_of("::1"), here6 = addr_of("2001:db8:2::1"), there6 = addr_of("2001:db8:2::2");
	int fd;

	ALONE();
	run("ip addr add 10.9.2.1/24 dev d0 && ip addr add 2001:db8:2::1/64 dev d0 nodad");
	assert_int_equal(local_reaches(-1, &lo), 1);
	assert_int_equal(local_reaches(-1, &net), 1);
	assert_int_equal(local_reaches(-1, &lo6), 1);
	assert_int_equal(local_reaches(-1, &here), 1);
	assert_int_equal(local_reaches(-1, &here6), 1);
	assert_int_equal(local_reaches(-1, &there), 0);
	assert_int_equal(local_reaches(-1, &there6), 0);
	assert_int_equal(local_reaches(-1, &out), 0); /* no route at all */
	fd = netns_open("pid:1", NULL); /* another namespace */
	if (fd >= 0) {
		assert_int_equal(local_reaches(fd, &here), 0);
		assert_int_equal(local_reaches(fd, &lo), 1);
		close(fd);
	}
	run("ip addr flush dev d0");
}

/* ---- other threads ---- */

static atomic_bool over;

static void *reader(void *arg)
{
	struct addr mine = addr_of("127.0.0.1"), other = addr_of("192.0.2.1");
	uintptr_t wrong = 0;

	while (!atomic_load(&over))
		wrong += !local_has(arg, &mine) || local_has(arg, &other);
	return (void *)wrong;
}

static void readers_are_never_disturbed(void **state)
{
	struct local *l = start();
	pthread_t t[2];
	void *wrong;

	(void)state;
	atomic_store(&over, false);
	for (int i = 0; i < 2; i++)
		assert_int_equal(pthread_create(&t[i], NULL, reader, l), 0);
	for (int i = 0; i < 200; i++) {
		l->dirty = true;
		local_tick(l);
		assert_false(l->dirty);
	}
	atomic_store(&over, true);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &wrong);
		assert_null(wrong);
	}
	local_destroy(l);
}

/* ---- policy routing ---- */

static uint32_t rules(const struct local *l)
{
	struct local_info i;

	local_info(l, &i);
	return i.rules;
}

static void transparent_ok(struct local *l, const char *netns)
{
	struct err e = { "" };

	if (local_transparent(l, netns, &e) < 0)
		fail_msg("%s", e.msg);
}

static bool all_is_set(void)
{
	return strstr(shows("ip rule"), "10717:\tfrom all fwmark 0xad17 lookup 44311") &&
	       strstr(shows("ip -6 rule"), "10717:\tfrom all fwmark 0xad17 lookup 44311") &&
	       strstr(shows("ip route show table 44311"), "local default dev lo") &&
	       strstr(shows("ip -6 route show table 44311"), "local default dev lo") &&
	       shows("cat /proc/sys/net/ipv4/tcp_fwmark_accept")[0] == '1' &&
	       shows("cat /proc/sys/net/ipv4/fwmark_reflect")[0] == '1';
}

static bool nothing_is_set(void)
{
	return !strstr(shows("ip rule; ip -6 rule"), "44311") && !shows("ip route show table 44311 2>/dev/null")[0] &&
	       !shows("ip -6 route show table 44311 2>/dev/null")[0] && shows("cat /proc/sys/net/ipv4/tcp_fwmark_accept")[0] == '0';
}

static void rules_are_made_and_taken_away(void **state)
{
	struct local *l;

	ALONE();
	l = start();
	assert_true(nothing_is_set());
	transparent_ok(l, NULL);
	assert_true(all_is_set());
	assert_int_equal(rules(l), 2);
	transparent_ok(l, NULL); /* again: nothing more */
	assert_int_equal(rules(l), 2);
	local_destroy(l);
	assert_true(nothing_is_set());
}

static void what_was_left_by_a_crash_is_taken_over(void **state)
{
	struct local *l, *crashed;

	ALONE();
	crashed = start();
	transparent_ok(crashed, NULL);
	l = start();
	transparent_ok(l, NULL);
	assert_int_equal(rules(l), 2);
	local_destroy(crashed); /* another agent ends, and takes away what both use */
	assert_false(all_is_set());
	local_tick(l);
	assert_true(all_is_set());
	local_destroy(l);
	assert_true(!strstr(shows("ip rule; ip -6 rule"), "44311"));
	run("echo 0 >/proc/sys/net/ipv4/tcp_fwmark_accept");
}

static void numbers_of_others_are_left_alone(void **state)
{
	static const char *const taken[][3] = {
		{ "ip rule add pref 10717 lookup main", "ip rule del pref 10717", "rule 10717" },
		{ "ip rule add fwmark 0xad17 lookup 100 pref 5", "ip rule del pref 5", "pref 5" },
		{ "ip -6 rule add fwmark 0xad17 lookup 44311 pref 10717", "ip -6 rule del pref 10717", "ip -6 rule" },
		{ "ip route add 10.1.0.0/16 dev d0 table 44311", "ip route flush table 44311", "table 44311 is used" },
	};

	ALONE();
	for (size_t i = 0; i < ARRAY_LEN(taken); i++) {
		struct local *l = start();
		struct err e = { "" };

		run(taken[i][0]);
		assert_int_equal(local_transparent(l, NULL, &e), -EEXIST);
		if (!strstr(e.msg, taken[i][2]))
			fail_msg("%s", e.msg);
		assert_int_equal(rules(l), 0);
		local_destroy(l);
		assert_false(strstr(shows("ip rule"), "from all fwmark 0xad17 lookup 44311"));
		run(taken[i][1]);
	}
	assert_true(nothing_is_set());
}

static void rules_can_be_in_a_named_namespace(void **state)
{
	char name[32], command[192];
	struct err e = { "" };
	struct local *l;

	ALONE();
	snprintf(name, sizeof(name), "adit-test-local-%d", getpid());
	l = start();
	assert_int_equal(local_transparent(l, name, &e), -ENOENT); /* it is made when it comes */
	snprintf(command, sizeof(command), "ip netns add %s && ip -n %s link set lo up", name, name);
	run(command);
	local_tick(l);
	assert_int_equal(rules(l), 2);
	snprintf(command, sizeof(command), "ip -n %s rule", name);
	assert_non_null(strstr(shows(command), "lookup 44311"));
	assert_true(nothing_is_set()); /* not here */
	snprintf(command, sizeof(command), "ip netns del %s && ip netns add %s && ip -n %s link set lo up", name, name, name);
	run(command); /* another one by the same name */
	local_tick(l);
	snprintf(command, sizeof(command), "ip -n %s rule", name);
	assert_non_null(strstr(shows(command), "lookup 44311"));
	local_destroy(l);
	assert_null(strstr(shows(command), "44311"));
	snprintf(command, sizeof(command), "ip netns del %s", name);
	run(command);
}

int main(void)
{
#define A(f) cmocka_unit_test_setup(f, unshared)
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(loopback_is_ours_and_others_are_not),
		cmocka_unit_test(readers_are_never_disturbed),
		A(addresses_come_and_go),
		A(prefixes_can_be_local),
		A(the_other_end_of_a_link_is_not_ours),
		A(the_kernel_says_what_stays_here),
		A(lost_messages_lead_to_another_look),
		A(rules_are_made_and_taken_away),
		A(what_was_left_by_a_crash_is_taken_over),
		A(numbers_of_others_are_left_alone),
		A(rules_can_be_in_a_named_namespace),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
