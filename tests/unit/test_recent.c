/* What is remembered: denials folded and kept apart, ended connections in rings, and what noting them costs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/chain/recent.c"
#include <time.h>

static struct recent r;

static int setup(void **state)
{
	(void)state;
	return recent_init(&r, 8, 42);
}

static int teardown(void **state)
{
	(void)state;
	recent_finish(&r);
	return 0;
}

static struct addr at(const char *s)
{
	struct addr a;

	assert_int_equal(addr_parse(s, strlen(s), &a, NULL), 0);
	return a;
}

static void deny(uint64_t now, enum denial kind, const char *listener, const char *id, const char *src, const char *dst, const char *policy)
{
	struct addr s = at(src), d = at(dst);
	struct denial_facts f = {.kind = kind, .listener = listener, .src = &s, .dst = &d, .principal = id, .policy = policy, .why = "because",
				 .conn = now};

	note(&r, now, &f);
}

static void equal_denials_are_one(void **state)
{
	(void)state;
	deny(1, DENIAL_POLICY, "in", NULL, "10.0.0.7:1000", "10.0.0.9:80", "p/rules/0");
	deny(2, DENIAL_POLICY, "in", NULL, "10.0.0.7:1001", "10.0.0.9:80", "p/rules/0"); /* another port of ours */
	assert_int_equal(r.n_denials, 1);
	assert_int_equal(r.denial[0].n, 2);
	assert_int_equal(r.denial[0].first_us, 1);
	assert_int_equal(r.denial[0].last_us, 2);
	assert_int_equal(r.denial[0].conn, 2);
	assert_int_equal(r.denial[0].src.port, 1001);
}

static void different_denials_are_not(void **state)
{
	(void)state;
	deny(1, DENIAL_POLICY, "in", NULL, "10.0.0.7:1", "10.0.0.9:80", "p/rules/0");
	deny(2, DENIAL_POLICY, "in", NULL, "10.0.0.8:1", "10.0.0.9:80", "p/rules/0");
	deny(3, DENIAL_POLICY, "in", NULL, "10.0.0.7:1", "10.0.0.9:81", "p/rules/0");
	deny(4, DENIAL_POLICY, "in", NULL, "10.0.0.7:1", "10.0.0.9:80", "p/rules/1");
	deny(5, DENIAL_POLICY, "out", NULL, "10.0.0.7:1", "10.0.0.9:80", "p/rules/0");
	deny(6, DENIAL_LIMIT, "in", NULL, "10.0.0.7:1", "10.0.0.9:80", "p/rules/0");
	deny(7, DENIAL_POLICY, "in", "spiffe://a/b", "10.0.0.7:1", "10.0.0.9:80", "p/rules/0");
	deny(8, DENIAL_POLICY, "in", "spiffe://a/c", "10.0.0.7:1", "10.0.0.9:80", "p/rules/0");
	assert_int_equal(r.n_denials, 8);
	/* one identity is one source, wherever it comes from */
	deny(9, DENIAL_POLICY, "in", "spiffe://a/c", "10.0.0.77:1", "10.0.0.9:80", "p/rules/0");
	assert_int_equal(r.n_denials, 8);
}

static const struct recent_denial *found(const char *policy)
{
	for (uint32_t i = 0; i < r.n_denials; i++)
		if (!strcmp(r.denial[i].policy, policy))
			return &r.denial[i];
	return NULL;
}

static void a_flood_of_one_kind_leaves_the_others(void **state)
{
	char dst[64], policy[32];

	(void)state;
	for (uint32_t i = 0; i < 40; i++) {
		snprintf(policy, sizeof(policy), "rare%u/rules/0", i);
		deny(i + 1, DENIAL_POLICY, "in", NULL, "10.0.0.7:1", "10.0.0.9:80", policy);
	}
	deny(100, DENIAL_IDENTITY, "in", "spiffe://other/x", "10.0.0.7:1", "10.0.0.9:80", NULL);
	for (uint32_t i = 0; i < 20000; i++) { /* a port scan from everywhere */
		char src[64];

		snprintf(src, sizeof(src), "10.%u.%u.9:77", i % 200, i / 200 % 250);
		snprintf(dst, sizeof(dst), "10.1.0.9:%u", 1 + i % 60000);
		deny(1000 + i, DENIAL_POLICY, "in", NULL, src, dst, "scan/rules/0");
	}
	assert_int_equal(r.n_denials, RECENT_DENIALS);
	for (uint32_t i = 0; i < 40; i++) {
		snprintf(policy, sizeof(policy), "rare%u/rules/0", i);
		assert_non_null(found(policy));
	}
	assert_non_null(found(""));
	/* and the flood's last is there */
	for (uint32_t i = 0, last = 0; i < r.n_denials; i++) {
		last |= r.denial[i].last_us == 20999;
		if (i + 1 == r.n_denials)
			assert_true(last);
	}
}

static void the_oldest_goes_when_all_are_rare(void **state)
{
	char policy[32];

	(void)state;
	for (uint32_t i = 0; i < RECENT_DENIALS + 1; i++) {
		snprintf(policy, sizeof(policy), "p%u/rules/0", i);
		deny(i + 1, DENIAL_POLICY, "in", NULL, "10.0.0.7:1", "10.0.0.9:80", policy);
	}
	assert_int_equal(r.n_denials, RECENT_DENIALS);
	snprintf(policy, sizeof(policy), "p%u/rules/0", RECENT_DENIALS);
	assert_non_null(found(policy));
}

/* ---- ended connections ---- */

static struct cfg_listener listener = {.name = "outbound"};
static struct cfg_cluster cluster = {.name = "to-b", .type = CLUSTER_TUNNEL};
static struct config cfg = {.listeners = &listener, .n_listeners = 1};
static struct snapshot snap = {.cfg = &cfg};
static struct daemon d = {.snap = &snap};
static struct worker w = {.d = &d};

static struct conn conn_of(uint64_t id, enum ending e, bool open)
{
	struct conn c = {.w = &w, .snap = &snap, .id = id, .ending = (uint8_t)e, .start_us = 5, .open_us = open ? 9 : 0};

	c.state = CONN_CLOSED;
	c.stages.n = 1;
	c.stages.cluster = &cluster;
	c.stages.policy = c.stages.rule = POLICY_NONE;
	c.src = at("10.0.0.7:1");
	c.orig_dst = at("10.0.0.9:80");
	return c;
}

static const struct recent_conn *remembered(uint64_t id)
{
	const struct recent_conn *c;

	for (uint32_t i = 0; (c = recent_each(&w.recent, &i));)
		if (c->id == id)
			return c;
	return NULL;
}

static void good_ones_do_not_push_out_the_failed(void **state)
{
	struct conn c = conn_of(1, END_CONNECT, false);
	char text[RECENT_TEXT];

	(void)state;
	w.recent = r;
	w.loop.now_us = 1000;
	c.why = (char *)"connect to 10.0.0.9:80: Connection refused";
	recent_end(&c);
	for (uint64_t i = 2; i < 100; i++) {
		c = conn_of(i, END_COMPLETE, true);
		recent_end(&c);
	}
	assert_non_null(remembered(1));
	assert_null(remembered(50));
	for (uint64_t i = 92; i < 100; i++)
		assert_non_null(remembered(i));
	assert_string_equal(recent_text(remembered(1), RT_WHY, text), "connect to 10.0.0.9:80: Connection refused");
	assert_string_equal(recent_text(remembered(1), RT_CHAIN, text), "outbound > cluster:to-b");
	assert_string_equal(recent_text(remembered(1), RT_POLICY, text), "");
	assert_string_equal(recent_by[remembered(1)->by], "dst");
	assert_string_equal(recent_by[remembered(99)->by], "both");
	assert_int_equal(w.recent.n_denials, 0); /* a backend that is not there has denied nobody */
	r = w.recent;
}

static void what_was_denied_is_a_denial(void **state)
{
	static const struct {
		enum ending e;
		enum denial is;
	} cases[] = {{END_NO_ROUTE, DENIAL_ROUTE}, {END_LIMIT, DENIAL_LIMIT}, {END_RATE, DENIAL_RATE}, {END_OVERLOAD, DENIAL_OVERLOAD}, {END_QUEUE_FULL, DENIAL_LIMIT}, {END_PROXY, DENIAL_PROXY},
		     {END_PEER_DENIED, DENIAL_PEER}, {END_DENIED, DENIAL_IDENTITY}};

	(void)state;
	w.recent = r;
	for (uint32_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct conn c = conn_of(i + 1, cases[i].e, false);

		recent_end(&c);
		assert_int_equal(w.recent.n_denials, i + 1);
		assert_int_equal(w.recent.denial[i].kind, cases[i].is);
		assert_int_equal(w.recent.denial[i].conn, i + 1);
	}
	r = w.recent;
}

static void long_texts_are_cut_not_lost(void **state)
{
	struct conn c = conn_of(7, END_CONNECT, false);
	char longer[2000], text[RECENT_TEXT];

	(void)state;
	memset(longer, 'x', sizeof(longer) - 1);
	longer[sizeof(longer) - 1] = '\0';
	w.recent = r;
	c.why = longer;
	c.authority = longer;
	c.principal = longer;
	recent_end(&c);
	assert_int_equal(strlen(recent_text(remembered(7), RT_WHY, text)), 140);
	assert_string_equal(recent_text(remembered(7), RT_LISTENER, text), "outbound");
	for (uint32_t i = 0; i < RECENT_TEXTS; i++)
		assert_true(strlen(recent_text(remembered(7), i, text)) < RECENT_TEXT);
	r = w.recent;
}

static void off_is_off(void **state)
{
	struct conn c = conn_of(1, END_NO_ROUTE, false);

	(void)state;
	memset(&w.recent, 0, sizeof(w.recent));
	assert_int_equal(recent_init(&w.recent, 0, 1), 0);
	recent_end(&c);
	assert_null(remembered(1));
	assert_int_equal(w.recent.n_denials, 1); /* denials are always noted */
	recent_finish(&w.recent);
	recent_end(&c); /* without any memory: nothing happens */
	assert_null(remembered(1));
}

/* ---- cost ---- */

static uint64_t ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static void it_costs_little(void **state)
{
	struct conn c = conn_of(1, END_COMPLETE, true);
	uint64_t t0, good, denied, flood;
	const uint32_t n = 100000;

	(void)state;
	assert_int_equal(recent_init(&w.recent, 1024, 1), 0);
	t0 = ns();
	for (uint32_t i = 0; i < n; i++)
		recent_end(&c);
	good = (ns() - t0) / n;
	c = conn_of(1, END_NO_ROUTE, false);
	c.why = (char *)"no route of listener 'outbound' takes it";
	t0 = ns();
	for (uint32_t i = 0; i < n; i++)
		recent_end(&c);
	denied = (ns() - t0) / n;
	t0 = ns();
	for (uint32_t i = 0; i < n; i++) {
		memcpy(c.src.ip, &i, sizeof(i));
		recent_end(&c);
	}
	flood = (ns() - t0) / n;
	print_message("an end %llu ns, an equal denial %llu ns, one of a flood %llu ns; %zu bytes per connection, %zu per denial\n",
		      (unsigned long long)good, (unsigned long long)denied, (unsigned long long)flood, sizeof(struct recent_conn),
		      sizeof(struct recent_denial));
	assert_true(good < 20000); /* a loaded machine; 0.2 us alone */
	recent_finish(&w.recent);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(equal_denials_are_one, setup, teardown),
		cmocka_unit_test_setup_teardown(different_denials_are_not, setup, teardown),
		cmocka_unit_test_setup_teardown(a_flood_of_one_kind_leaves_the_others, setup, teardown),
		cmocka_unit_test_setup_teardown(the_oldest_goes_when_all_are_rare, setup, teardown),
		cmocka_unit_test_setup_teardown(good_ones_do_not_push_out_the_failed, setup, teardown),
		cmocka_unit_test_setup_teardown(what_was_denied_is_a_denial, setup, teardown),
		cmocka_unit_test_setup_teardown(long_texts_are_cut_not_lost, setup, teardown),
		cmocka_unit_test(off_is_off),
		cmocka_unit_test(it_costs_little),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
