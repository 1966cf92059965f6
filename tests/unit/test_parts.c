/* What is said of the difference between two configurations. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <string.h>

#include "base/text.h"
#include "config/config.h"
#include "config/parts.h"

static struct text out;

static void said(void *arg, enum part_change what, const char *section, const char *name, const char *keys)
{
	(void)arg;
	text_addf(&out, "%c%s/%s(%s) ", "+~-"[what], section, name ? name : "", keys);
}

static struct config *parse(const char *text)
{
	struct config *c = NULL;
	struct err e = {""};

	if (config_parse("test.yaml", text, strlen(text), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static const char *diff(const char *a, const char *b)
{
	struct config *x = parse(a), *y = parse(b);

	text_finish(&out);
	text_add(&out, "");
	config_diff(x, y, said, NULL);
	config_free(x);
	config_free(y);
	return out.s;
}

#define APP "clusters: [{ name: app, type: tcp, endpoints: [\"127.0.0.1:1\"] }]\n"
#define ONE "listeners: [{ name: one, type: tcp, address: \"127.0.0.1:2\", cluster: app }]\n"

static void equal_ones_have_none(void **state)
{
	(void)state;
	assert_string_equal(diff(APP ONE, ONE "# another order, and a comment\n" APP), "");
}

static void members_come_change_and_go(void **state)
{
	(void)state;
	assert_string_equal(diff(APP, APP ONE), "+listeners/one() ");
	assert_string_equal(diff(APP ONE, APP), "-listeners/one() ");
	assert_string_equal(diff(APP ONE, APP "listeners: [{ name: one, type: tcp, address: \"127.0.0.1:3\", cluster: app, backlog: 9 }]\n"),
			    "~listeners/one(address, backlog) ");
}

static void sections_are_wholes(void **state)
{
	(void)state;
	assert_string_equal(diff(APP "workers: 2\n", APP "workers: 3\ntimeouts: { connect: 1s }\n"), "+timeouts/() ~workers/() ");
}

static void what_lies_deep_is_seen(void **state)
{
	(void)state;
	assert_string_equal(diff("clusters: [{ name: app, type: tcp, endpoints: [\"127.0.0.1:1\", \"127.0.0.1:2\"] }]\n",
				 "clusters: [{ name: app, type: tcp, endpoints: [\"127.0.0.1:2\", \"127.0.0.1:1\"] }]\n"),
			    "~clusters/app(endpoints) ");
}

static int done(void **state)
{
	(void)state;
	text_finish(&out);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(equal_ones_have_none),
		cmocka_unit_test(members_come_change_and_go),
		cmocka_unit_test(sections_are_wholes),
		cmocka_unit_test(what_lies_deep_is_seen),
	};

	return cmocka_run_group_tests(tests, NULL, done);
}
