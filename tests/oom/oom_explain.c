/* Explanations with each allocation failing: -ENOMEM or a text that says so, and nothing left behind; what succeeds is whole. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "chain/explain.h"
#include "chain/recent.h"
#include "config/config.h"
#include "oom.h"
#include "unit/explain_config.h"

static struct config *cfg;
static size_t whole; /* bytes of an explanation that nothing disturbed */

static void explain_once(void)
{
	static const struct header h = {{"x-team", 6}, {"shop", 4}}, m = {{"k8s.cluster.name", 16}, {"a", 1}};
	struct explain_ask ask = {.listener = "in", .authority = "db.prod:6379", .principal = "spiffe://cluster.local/ns/shop/sa/web",
				  .headers = &h, .n_headers = 1, .members = &m, .n_members = 1};
	static struct explain_way w;
	struct err e = {""};
	struct text t = {0};
	struct json j;
	int r;

	memset(&w, 0, sizeof(w));
	json_init(&j, &t, false);
	json_open(&j, NULL, '{');
	r = explain_entry(cfg, &ask, &w, &j, &e);
	json_open(&j, "steps", '[');
	if (r == 0 && w.verdict == EXPLAIN_GO)
		r = explain_steps(cfg, &w, 0, &j);
	json_close(&j, ']');
	json_close(&j, '}');
	explain_way_finish(&w);
	if (oom_struck()) {
		assert_true(r == -ENOMEM || t.failed);
	} else {
		assert_int_equal(r, 0);
		assert_true(text_ok(&t));
		assert_true(!whole || whole == t.len);
		whole = t.len;
	}
	text_finish(&t);
}

static void recent_once(void)
{
	struct recent r;

	if (recent_init(&r, 8, 1) < 0)
		assert_true(oom_struck());
	recent_finish(&r);
}

static void explaining_survives_every_failure(void **state)
{
	struct err e = {""};

	(void)state;
	assert_int_equal(config_parse("test", explain_config, sizeof(explain_config) - 1, &cfg, &e), 0);
	assert_true(oom_sweep(explain_once) >= 5);
	assert_true(whole > 1000);
	config_free(cfg);
}

static void remembering_survives_every_failure(void **state)
{
	(void)state;
	assert_int_equal(oom_sweep(recent_once), 3);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(explaining_survives_every_failure), cmocka_unit_test(remembering_survives_every_failure)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
