/* Error sentences: what callers may rely on when they chain, cut and omit them. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/base/err.c"

static void set_hands_the_code_back(void **state)
{
	struct err e = {0};

	(void)state;
	assert_int_equal(err_set(&e, -EINVAL, "port '%s'", "x"), -EINVAL);
	assert_string_equal(e.msg, "port 'x'");
	assert_int_equal(err_set(NULL, -ENOENT, "nobody %s", "listens"), -ENOENT);
	assert_int_equal(err_prefix(NULL, -ENOENT, "nobody %s", "listens"), -ENOENT);
}

static void set_replaces_the_old_sentence(void **state)
{
	struct err e = {0};

	(void)state;
	err_set(&e, -1, "a long first sentence");
	err_set(&e, -1, "short");
	assert_string_equal(e.msg, "short");
}

static void the_old_sentence_may_be_an_argument(void **state)
{
	struct err e = {0};

	(void)state;
	err_set(&e, -1, "cause");
	err_set(&e, -1, "effect (%s)", e.msg);
	assert_string_equal(e.msg, "effect (cause)");
	err_prefix(&e, -1, "again '%s'", e.msg);
	assert_string_equal(e.msg, "again 'effect (cause)': effect (cause)");
}

static void prefixes_stack_in_front(void **state)
{
	struct err e = {0};

	(void)state;
	err_set(&e, -EINVAL, "want 1..65535");
	assert_int_equal(err_prefix(&e, -EINVAL, "port"), -EINVAL);
	err_prefix(&e, -EINVAL, "listener '%s'", "in");
	assert_string_equal(e.msg, "listener 'in': port: want 1..65535");
}

static void prefix_without_a_sentence_says_what_the_code_means(void **state)
{
	struct err e = {0};

	(void)state;
	err_prefix(&e, -ENOENT, "/etc/adit.yaml");
	assert_string_equal(e.msg, "/etc/adit.yaml: No such file or directory");
}

static void long_sentences_are_cut_and_terminated(void **state)
{
	char big[2 * ERR_MAX];
	struct {
		struct err e;
		char guard[8];
	} g = {.guard = "guard"};

	(void)state;
	memset(big, 'x', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	err_set(&g.e, -1, "%s", big);
	assert_int_equal(strlen(g.e.msg), ERR_MAX - 1);
	err_prefix(&g.e, -1, "where");
	assert_int_equal(strlen(g.e.msg), ERR_MAX - 1);
	assert_memory_equal(g.e.msg, "where: xxx", 10);
	err_prefix(&g.e, -1, "%s", big);
	assert_true(strlen(g.e.msg) < ERR_MAX);
	assert_string_equal(g.guard, "guard");
}

static void errno_is_left_alone(void **state)
{
	struct err e = {0};

	(void)state;
	errno = EBADF;
	err_set(&e, -1, "%d", 1);
	err_prefix(&e, -1, "%d", 1);
	assert_int_equal(errno, EBADF);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(set_hands_the_code_back),
		cmocka_unit_test(set_replaces_the_old_sentence),
		cmocka_unit_test(the_old_sentence_may_be_an_argument),
		cmocka_unit_test(prefixes_stack_in_front),
		cmocka_unit_test(prefix_without_a_sentence_says_what_the_code_means),
		cmocka_unit_test(long_sentences_are_cut_and_terminated),
		cmocka_unit_test(errno_is_left_alone),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
