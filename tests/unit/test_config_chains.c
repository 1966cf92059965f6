/*
 * Chains of listeners, rows A03, A14 and A15: which are configurations, and which are refused (loops, too long, a CONNECT forwarded
 * that is none), with their path and place.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "config/config.h"

static struct config *good(const char *yaml)
{
	struct config *c = NULL;
	struct err e = {""};
	int r = config_parse("t.yaml", yaml, strlen(yaml), &c, &e);

	if (r < 0)
		fail_msg("%s", e.msg);
	return c;
}

struct row {
	const char *yaml, *says;
};

static void refused(const char *yaml, size_t n, const char *says)
{
	struct config *c = (struct config *)(uintptr_t)1;
	struct err e = {""};
	int r = config_parse("t.yaml", yaml, n, &c, &e);

	if (r >= 0)
		fail_msg("accepted: %s", yaml);
	assert_string_equal(e.msg, says);
	assert_int_equal(r, -EINVAL);
	assert_ptr_equal(c, (struct config *)(uintptr_t)1); /* nothing is returned */
}

static void rows(const struct row *row, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		refused(row[i].yaml, strlen(row[i].yaml), row[i].says);
}
#define ROWS(table) rows(table, sizeof(table) / sizeof(*(table)))

/* ---- accepted ---- */

static const char chain_ends[] = "clusters:\n"
				 "  - {name: app, type: tcp, endpoints: \"10.0.0.1:80\"}\n"
				 "  - {name: peer, type: tunnel, tls: false, endpoints: \"10.0.0.2:15008\"}\n"
				 "  - {name: via, type: internal, listener: in3}\n";

static void a14_tunnel_listener_leads_through_internal_listeners(void **state)
{
	char yaml[2048];
	struct config *c;

	(void)state;
	snprintf(yaml, sizeof(yaml),
		 "listeners:\n"
		 "  - {name: t, type: tunnel, tls: false, address: \"127.0.0.1:1\", routes: [{match: {port: 80}, "
		 "listener: in1}]}\n"
		 "  - {name: in1, type: internal, listener: in2}\n"
		 "  - {name: in2, type: internal, cluster: via}\n"
		 "  - {name: in3, type: internal, cluster: app}\n%s",
		 chain_ends);
	c = good(yaml);
	assert_ptr_equal(c->listeners[0].routes[0].to.listener, &c->listeners[1]);
	assert_ptr_equal(c->listeners[1].to.listener, &c->listeners[2]);
	assert_ptr_equal(c->listeners[2].to.cluster->listener, &c->listeners[3]);
	assert_ptr_equal(c->listeners[3].to.cluster, &c->clusters[0]);
	config_free(c);
}

static void a15_all_four_forms_of_chain_are_configurations(void **state)
{
	static const char *const form[][2] = {
		{"type: tcp", "cluster: peer"},		       /* TCP -> tunnel */
		{"type: tunnel, tls: false", "cluster: app"},  /* tunnel -> TCP */
		{"type: tcp", "cluster: app"},		       /* TCP -> TCP */
		{"type: tunnel, tls: false", "forward: peer"}, /* tunnel -> tunnel, CONNECT passed on */
		{"type: tunnel, tls: false", "cluster: peer"}, /* tunnel -> tunnel, a CONNECT of our own */
	};
	char yaml[2048];
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(form) / sizeof(*form); i++) {
		snprintf(yaml, sizeof(yaml),
			 "listeners:\n"
			 "  - {name: in3, type: internal, %s}\n"
			 "  - {name: a, %s, address: \"127.0.0.1:1\", listener: in1}\n"
			 "  - {name: in1, type: internal, listener: in2}\n"
			 "  - {name: in2, type: internal, cluster: via}\n%s",
			 form[i][1], form[i][0], chain_ends);
		config_free(good(yaml));
	}
}

/* CFG_CHAIN_MAX listeners are a configuration, one more is none (below) */
static void the_longest_chain_is_accepted(void **state)
{
	char yaml[4096];
	size_t at;
	int i;

	(void)state;
	at = (size_t)snprintf(yaml, sizeof(yaml),
			      "%slisteners:\n  - {name: a, type: tcp, address: \"127.0.0.1:1\", listener: in3}\n",
			      chain_ends);
	for (i = 3; i < CFG_CHAIN_MAX + 1; i++)
		at += (size_t)snprintf(yaml + at, sizeof(yaml) - at,
				       "  - {name: in%d, type: internal, listener: in%d}\n", i, i + 1);
	snprintf(yaml + at, sizeof(yaml) - at, "  - {name: in%d, type: internal, cluster: app}\n", i);
	config_free(good(yaml));
}

/* ---- refused ---- */

/* clang-format off */

#define TCP "listeners:\n  - name: l\n    type: tcp\n    address: \"127.0.0.1:1\"\n"
#define TUNNEL "listeners:\n  - name: l\n    type: tunnel\n    tls: false\n    address: \"127.0.0.1:1\"\n"
#define OUT "clusters:\n  - {name: out, type: tcp, endpoints: \"10.0.0.1:80\"}\n  - {name: up, type: tunnel, tls: false, endpoints: \"10.0.0.1:15008\"}\n"

static void a15_loops_are_refused_with_their_whole_path(void **state)
{
	static const struct row table[] = {
		{"listeners:\n  - {name: a, type: internal, listener: a}\n",
		 "t.yaml:2:41: listeners[0] 'a' listener: the chain is a loop: a -> a"},
		{TUNNEL "    listener: a\n"
		 "  - {name: a, type: internal, listener: b}\n"
		 "  - {name: b, type: internal, routes: [{match: {port: 1}, cluster: via}], cluster: out}\n"
		 "  - {name: c, type: internal, listener: a}\n" OUT "  - {name: via, type: internal, listener: c}\n",
		 "t.yaml:9:41: listeners[3] 'c' listener: the chain is a loop: a -> b -> cluster via -> c -> a"},
		{TUNNEL "    listener: b\n"
		 "  - {name: b, type: internal, routes: [{match: {port: 1}, cluster: out}, {name: x, match: {port: 2}, cluster: via}]}\n" OUT
		 "  - {name: via, type: internal, listener: b}\n",
		 "t.yaml:7:111: listeners[1] 'b' routes[1] 'x' cluster: the chain is a loop: b -> cluster via -> b"},
	};

	(void)state;
	ROWS(table);
}

static void a15_chains_that_are_too_long_are_refused(void **state)
{
	char yaml[4096];
	size_t at;
	int i;

	(void)state;
	at = (size_t)snprintf(yaml, sizeof(yaml), TCP "    listener: i1\n");
	for (i = 1; i < CFG_CHAIN_MAX; i++)
		at += (size_t)snprintf(yaml + at, sizeof(yaml) - at, "  - {name: i%d, type: internal, listener: i%d}\n", i, i + 1);
	snprintf(yaml + at, sizeof(yaml) - at, "  - {name: i%d, type: internal, cluster: out}\n" OUT, i);
	refused(yaml, strlen(yaml),
		"t.yaml:5:15: listeners[0] 'l' listener: the chain passes more than 16 listeners: l -> i1 -> i2 -> i3 -> i4 -> i5 -> i6 -> "
		"i7 -> i8 -> i9 -> i10 -> i11 -> i12 -> i13 -> i14 -> i15 -> i16");
}

static void a15_a_loop_of_many_listeners_is_told_in_short(void **state)
{
	char *yaml = malloc(400000);
	size_t at;
	int i;

	(void)state;
	assert_non_null(yaml);
	at = (size_t)snprintf(yaml, 400000, "listeners:\n");
	for (i = 0; i < 4096; i++)
		at += (size_t)snprintf(yaml + at, 400000 - at, "  - {name: i%d, type: internal, listener: i%d}\n", i, (i + 1) % 4096);
	refused(yaml, at, "t.yaml:4097:45: listeners[4095] 'i4095' listener: the chain is a loop: i0 -> ... (4095 more) ... -> i0");
	free(yaml);
}

static void a03_forward_needs_a_connect(void **state)
{
	static const struct row table[] = {
		{TCP "    listener: a\n"
		 "  - {name: a, type: internal, listener: b}\n"
		 "  - {name: b, type: internal, forward: up}\n" OUT,
		 "t.yaml:7:40: listeners[2] 'b' forward: no CONNECT to forward: connections of tcp listener 'l' get here (l -> a -> b); use "
		 "'cluster'"},
	};

	(void)state;
	ROWS(table);
}

/* clang-format on */

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a14_tunnel_listener_leads_through_internal_listeners),
		cmocka_unit_test(a15_all_four_forms_of_chain_are_configurations),
		cmocka_unit_test(the_longest_chain_is_accepted),
		cmocka_unit_test(a15_loops_are_refused_with_their_whole_path),
		cmocka_unit_test(a15_chains_that_are_too_long_are_refused),
		cmocka_unit_test(a15_a_loop_of_many_listeners_is_told_in_short),
		cmocka_unit_test(a03_forward_needs_a_connect),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
