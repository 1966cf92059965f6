/* For tests of admin/ without its socket: the files under test, a daemon made of numbers, and how to ask it. */
#pragma once
#include "../../daemon/admin/api.c"
#include "../../daemon/admin/chains.c"
#include "../../daemon/admin/change.c"
#include "../../daemon/admin/conns.c"
#include "../../daemon/admin/kernel.c"
#include "../../daemon/admin/rows.c"
#include "../../daemon/admin/scrape.c"

#include "unit/fake_inspect.h"
#include "unit/prom_check.h"
#include <jansson.h>

static struct daemon d;
static struct api api = {.d = &d};
static struct api_answer ans;

static uint64_t drained_within;
static void fake_drain(void *arg, uint64_t within_ms)
{
	assert_ptr_equal(arg, &d);
	drained_within = within_ms;
}

static int fake_check(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	(void)arg;
	if (!text)
		return strcmp(name, "/etc/good.yaml") ? err_set(reterr, -ENOENT, "%s: no such file", name) : 0;
	return n == 5 && !memcmp(text, "good\n", 5) ? 0 : err_set(reterr, -EINVAL, "%s:1:1: bad", name);
}

static json_t *ask(unsigned int want, const char *method, const char *path, const char *body, bool may_change)
{
	static char copy[512];
	struct api_req req = {.method = method, .path = copy, .body = body, .may_change = may_change};
	char *query, *save, *s;
	json_error_t e;
	json_t *o;

	snprintf(copy, sizeof(copy), "%s", path);
	query = strchr(copy, '?');
	if (query)
		*query++ = '\0';
	for (s = query ? strtok_r(query, "&", &save) : NULL; s; s = strtok_r(NULL, "&", &save)) {
		char *eq = strchr(s, '=');

		if (eq)
			*eq++ = '\0';
		req.args[req.n_args++] = (struct api_arg){s, eq};
	}
	req.body_len = body ? strlen(body) : 0;
	text_finish(&ans.body);
	api_handle(&api, &req, &ans);
	assert_true(text_ok(&ans.body));
	if (ans.status != want)
		fail_msg("%s %s: %u %s", method, path, ans.status, ans.body.s);
	if (strcmp(ans.type, JSON_TYPE))
		return NULL;
	o = json_loads(ans.body.s, JSON_REJECT_DUPLICATES, &e);
	if (!o)
		fail_msg("%s: %s in %s", path, e.text, ans.body.s);
	return o;
}

static json_t *get(const char *path)
{
	return ask(200, "GET", path, NULL, false);
}

static void refused(unsigned int want, const char *method, const char *path, const char *body, bool may_change,
		    const char *sentence)
{
	json_t *o = ask(want, method, path, body, may_change);

	assert_string_equal(json_string_value(json_object_get(o, "error")), sentence);
	json_decref(o);
}

static const char *str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "(none)";
}

static json_int_t num(const json_t *o, const char *key)
{
	const json_t *v = json_object_get(o, key);

	assert_true(json_is_integer(v));
	return json_integer_value(v);
}

static int setup(void **state)
{
	(void)state;
	fake_setup(&d);
	api.ops = (struct admin_ops){.drain = fake_drain, .check = fake_check, .arg = &d};
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	text_finish(&ans.body);
	return 0;
}
