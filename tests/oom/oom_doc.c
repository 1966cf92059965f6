/* Policy documents while memory runs out, also in libyaml: -ENOMEM and nothing lost, wherever it happens. */
/* link: -Wl,--whole-archive -l:libyaml.a -Wl,--no-whole-archive */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "config/doc.h"
#include "oom/oom.h"

static const char one[] = "policies:\n- {name: a, action: deny, rules: [{namespace: [shop, \"ops\"]}, {metadata: {x: \"s*\"}}]}\n- {name: b}\n";
static const char two[] = "[{name: c, x: [1, 2]}]";

static void read_join_compare(void)
{
	struct doc d = {NULL}, more = {NULL};
	struct text out = {0};
	struct err e = {""};
	int r = doc_parse("a.yaml", one, sizeof(one) - 1, DOC_APPLY, &d, &e);

	if (r == 0)
		r = doc_parse("b.yaml", two, sizeof(two) - 1, DOC_APPLY, &more, &e);
	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_non_null(strstr(e.msg, "out of memory"));
	} else if (doc_append(&d, &more) == 0) {
		assert_int_equal(doc_find(&d, "c"), 2);
		doc_diff(&out, &d.at[0], &d.at[2]);
		doc_put(&out, &d.at[1]);
	} else {
		assert_int_equal(d.n, 2);
	}
	text_finish(&out);
	doc_finish(&d);
	doc_finish(&more);
}

static void documents_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(read_join_compare) >= 20);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(documents_survive)};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
