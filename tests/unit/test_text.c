/* Growing text and JSON: exact output, valid UTF-8 from any bytes, round trips through another JSON library. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>

#include "daemon/base/text.c"
#include "unit/rand.h"

static void text_grows_and_stays_terminated(void **state)
{
	struct text t = {0};
	size_t want = 0;

	(void)state;
	for (int i = 0; i < 10000; i++) {
		text_add(&t, "abc");
		text_addn(&t, "defgh", 2);
		text_addf(&t, "%d", i);
		want += 5 + (size_t)snprintf(NULL, 0, "%d", i);
		assert_int_equal(t.len, want);
		assert_int_equal(t.s[t.len], '\0');
	}
	assert_memory_equal(t.s, "abcde0abcde1abcde2", 18);
	assert_true(text_ok(&t));
	text_finish(&t);
	assert_null(t.s);
	text_finish(&t);
}

static void nothing_written_is_an_empty_string(void **state)
{
	struct text t = {0};

	(void)state;
	text_add(&t, "");
	assert_string_equal(t.s, "");
	text_finish(&t);
}

static void formatted_text_of_any_length_fits(void **state)
{
	struct text t = {0};

	(void)state;
	for (int n = 0; n < 3000; n++) {
		size_t len = t.len;

		text_addf(&t, "%*s|", n, "x");
		assert_int_equal(t.len, len + (size_t)(n > 1 ? n : 1) + 1);
		assert_int_equal(t.s[t.len - 1], '|');
		assert_int_equal(t.s[t.len], '\0');
	}
	text_finish(&t);
}

static void failure_sticks_and_keeps_what_was_there(void **state)
{
	struct text t = {0};
	struct json j;

	(void)state;
	text_add(&t, "kept");
	text_addn(&t, "x", SIZE_MAX - 2); /* cannot be had */
	assert_false(text_ok(&t));
	text_add(&t, "more");
	text_addf(&t, "%d", 1);
	json_init(&j, &t, true);
	json_open(&j, NULL, '{');
	json_str(&j, "a", "b");
	json_close(&j, '}');
	assert_false(text_ok(&t));
	assert_string_equal(t.s, "kept");
	text_finish(&t);
	assert_true(text_ok(&t));
}

static void utf8_is_judged_as_in_rfc_3629(void **state)
{
	static const struct {
		const char *s;
		size_t want;
	} rows[] = {
		{"a", 1},
		{"\x7f", 1},
		{"\x80", 0},
		{"\xc2\x80", 2},
		{"\xc1\xbf", 0}, /* overlong */
		{"\xdf\xbf", 2},
		{"\xc3", 0},
		{"\xc3(", 0},
		{"\xe0\xa0\x80", 3},
		{"\xe0\x9f\xbf", 0}, /* overlong */
		{"\xed\x9f\xbf", 3},
		{"\xed\xa0\x80", 0}, /* surrogate */
		{"\xee\x80\x80", 3},
		{"\xef\xbf\xbf", 3},
		{"\xe2\x82", 0},
		{"\xf0\x90\x80\x80", 4},
		{"\xf0\x8f\xbf\xbf", 0}, /* overlong */
		{"\xf4\x8f\xbf\xbf", 4},
		{"\xf4\x90\x80\x80", 0}, /* above U+10FFFF */
		{"\xf5\x80\x80\x80", 0},
		{"\xff", 0},
	};

	(void)state;
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++)
		assert_int_equal(text_utf8(rows[i].s, strlen(rows[i].s)), rows[i].want);
	assert_int_equal(text_utf8("\xe2\x82\xac", 2), 0); /* the end is the end */
}

static void sample(struct text *t, bool pretty)
{
	struct json j;

	json_init(&j, t, pretty);
	json_open(&j, NULL, '{');
	json_str(&j, "name", "adit");
	json_str(&j, "none", NULL);
	json_open(&j, "list", '[');
	json_u64(&j, NULL, UINT64_MAX);
	json_i64(&j, NULL, INT64_MIN);
	json_open(&j, NULL, '{');
	json_close(&j, '}');
	json_close(&j, ']');
	json_open(&j, "empty", '[');
	json_close(&j, ']');
	json_bool(&j, "yes", true);
	json_f(&j, "f", 0.5);
	json_close(&j, '}');
}

static void compact_json_has_no_blanks(void **state)
{
	struct text t = {0};

	(void)state;
	sample(&t, false);
	assert_string_equal(t.s,
			    "{\"name\":\"adit\",\"none\":null,\"list\":[18446744073709551615,-9223372036854775808,{}],"
			    "\"empty\":[],\"yes\":true,\"f\":0.5}");
	text_finish(&t);
}

static void pretty_json_is_indented_by_two(void **state)
{
	struct text t = {0};

	(void)state;
	sample(&t, true);
	assert_string_equal(t.s, "{\n"
				 "  \"name\": \"adit\",\n"
				 "  \"none\": null,\n"
				 "  \"list\": [\n"
				 "    18446744073709551615,\n"
				 "    -9223372036854775808,\n"
				 "    {}\n"
				 "  ],\n"
				 "  \"empty\": [],\n"
				 "  \"yes\": true,\n"
				 "  \"f\": 0.5\n"
				 "}");
	text_finish(&t);
}

static const char *str_of(struct text *t, const char *s, size_t n)
{
	struct json j;

	text_finish(t);
	json_init(&j, t, false);
	json_strn(&j, NULL, s, n);
	return t->s;
}

static void strings_are_escaped(void **state)
{
	struct text t = {0};

	(void)state;
	assert_string_equal(str_of(&t, "a\"b\\c/", 6), "\"a\\\"b\\\\c/\"");
	assert_string_equal(str_of(&t, "\b\f\n\r\t", 5), "\"\\b\\f\\n\\r\\t\"");
	assert_string_equal(str_of(&t, "\0\x1f\x7f", 3), "\"\\u0000\\u001f\\u007f\"");
	assert_string_equal(str_of(&t, "", 0), "\"\"");
	assert_string_equal(str_of(&t, "\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 9),
			    "\"\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80\"");
	text_finish(&t);
}

static void invalid_utf8_becomes_the_replacement_character(void **state)
{
	struct text t = {0};

	(void)state;
	assert_string_equal(str_of(&t, "a\xff z", 4), "\"a\xef\xbf\xbd z\"");
	assert_string_equal(str_of(&t, "\xc3", 1), "\"\xef\xbf\xbd\"");
	assert_string_equal(str_of(&t, "\xc3\"", 2), "\"\xef\xbf\xbd\\\"\"");
	assert_string_equal(str_of(&t, "\xed\xa0\x80", 3), "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
	text_finish(&t);
}

static void numbers_read_back_as_they_were(void **state)
{
	struct rnd r = rnd_start("json numbers");
	struct text t = {0};

	(void)state;
	for (int i = 0; i < 20000; i++) {
		struct json j;
		uint64_t bits = rnd_u64(&r);
		double v;

		memcpy(&v, &bits, sizeof(v));
		if (i < 1000)
			v = i / 10.0;
		text_finish(&t);
		json_init(&j, &t, false);
		json_f(&j, NULL, v);
		if (isfinite(v))
			assert_true(strtod(t.s, NULL) == v);
		else
			assert_string_equal(t.s, "null");
		if (i < 1000)
			assert_true(t.len <= 4); /* 99.9, not 99.900000000000006 */
	}
	text_finish(&t);
}

/* jansson refuses invalid UTF-8 and wrong escapes, and tells what the string was. */
static void any_bytes_make_valid_json(void **state)
{
	static const char *const pieces[] = {"\xe0", "\xa0", "\x80", "\xf0", "\x90", "\xf4", "\x8f",	"\xed",
					     "\xc2", "\"",   "\\",   "\n",   "a",    "\x01", "\xc3\xa9"};
	struct rnd r = rnd_start("json strings");
	struct text t = {0};

	(void)state;
	for (int i = 0; i < 20000; i++) {
		size_t n = rnd_below(&r, 60), used = 0;
		char s[256];
		struct json j;
		json_error_t e;
		json_t *root;
		bool pretty = rnd_below(&r, 2), valid = true;

		for (size_t k = 0; k < n; k++) {
			if (rnd_below(&r, 2)) {
				const char *p = pieces[rnd_below(&r, sizeof(pieces) / sizeof(pieces[0]))];

				memcpy(s + used, p, strlen(p));
				used += strlen(p);
			} else {
				s[used++] = (char)(rnd_below(&r, i & 1 ? 255 : 127) + 1);
			}
		}
		s[used] = '\0';
		for (size_t k = 0, len; k < used; k += len) {
			len = text_utf8(s + k, used - k);
			valid &= len > 0;
			len += !len;
		}
		text_finish(&t);
		json_init(&j, &t, pretty);
		json_open(&j, NULL, '{');
		json_str(&j, s, "as key");
		json_strn(&j, "v", s, used); /* the last one of a name counts, should the key be "v" too */
		json_close(&j, '}');
		assert_true(text_ok(&t));
		root = json_loadb(t.s, t.len, 0, &e);
		if (!root)
			fail_msg("%s: %s", e.text, t.s);
		if (valid)
			assert_string_equal(json_string_value(json_object_get(root, "v")), s);
		json_decref(root);
	}
	text_finish(&t);
}

static void wrong_nesting_fails_and_does_not_crash(void **state)
{
	struct text t = {0};
	struct json j;

	(void)state;
	json_init(&j, &t, false);
	for (int i = 0; i < JSON_DEPTH - 1; i++)
		json_open(&j, NULL, '[');
	assert_true(text_ok(&t));
	json_open(&j, NULL, '[');
	assert_false(text_ok(&t));
	json_u64(&j, NULL, 1);
	text_finish(&t);

	json_init(&j, &t, true);
	json_close(&j, '}');
	assert_false(text_ok(&t));
	text_finish(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(text_grows_and_stays_terminated),
		cmocka_unit_test(nothing_written_is_an_empty_string),
		cmocka_unit_test(formatted_text_of_any_length_fits),
		cmocka_unit_test(failure_sticks_and_keeps_what_was_there),
		cmocka_unit_test(utf8_is_judged_as_in_rfc_3629),
		cmocka_unit_test(compact_json_has_no_blanks),
		cmocka_unit_test(pretty_json_is_indented_by_two),
		cmocka_unit_test(strings_are_escaped),
		cmocka_unit_test(invalid_utf8_becomes_the_replacement_character),
		cmocka_unit_test(numbers_read_back_as_they_were),
		cmocka_unit_test(any_bytes_make_valid_json),
		cmocka_unit_test(wrong_nesting_fails_and_does_not_crash),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
