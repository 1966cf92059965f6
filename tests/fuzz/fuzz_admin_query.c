/*
 * The admin API with any method, path, parameters and body (and the same bytes as an answer to aditctl). Input: one byte of
 * flags, then lines: method, path, parameters as name=value&..., and the rest is the body. Whatever comes, the answer must be
 * complete and, if it is called JSON, JSON.
 */
/* fuzz: -max_len=4096 */
#include "../../ctl/http.c"
#include "admin/api.h"
#include "base/log.h"
#include "unit/fake_inspect.h"
#include <jansson.h>
#include <stdlib.h>

static struct daemon d;

static void on_drain(void *arg, uint64_t within_ms)
{
	(void)arg;
	(void)within_ms;
}

static int on_check(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	(void)arg;
	return n % 2 ? err_set(reterr, -EINVAL, "%s: %.20s", name, text ? text : "") : 0;
}

/* The next line, NUL-terminated in place. */
static char *line(char **at)
{
	char *s = *at, *nl = strchr(s, '\n');

	if (nl)
		*nl = '\0';
	*at = nl ? nl + 1 : s + strlen(s);
	return s;
}

static void args_split(struct api_req *req, char *s)
{
	char *save;

	for (s = strtok_r(s, "&", &save); s && req->n_args < API_ARGS; s = strtok_r(NULL, "&", &save)) {
		char *eq = strchr(s, '=');

		if (eq)
			*eq++ = '\0';
		req->args[req->n_args++] = (struct api_arg){s, eq};
	}
}

static void api_once(char *at, const char *end, uint8_t flags)
{
	struct api api = {.d = &d, .ops = {.drain = on_drain, .check = on_check}};
	struct api_req req = {.may_change = flags & 1, .public_ = flags & 2};
	struct api_answer ans;
	json_t *o;

	d.deaf = flags & 4;
	req.method = line(&at);
	req.path = line(&at);
	args_split(&req, line(&at));
	req.body = at < end ? at : NULL;
	req.body_len = (size_t)(end - at);
	api_handle(&api, &req, &ans);
	if (ans.status < 200 || ans.status > 503 || !ans.type || !text_ok(&ans.body) || !ans.body.len)
		abort();
	if (!strcmp(ans.type, "application/json")) {
		o = json_loadb(ans.body.s, ans.body.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
		if (!o)
			abort();
		json_decref(o);
	}
	text_finish(&ans.body);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct http_answer a;
	struct err e;
	char *copy;

	if (size < 1)
		return 0;
	fake_setup(&d);
	log_init(-1, LOG_TEXT, LOG_ERR);
	if (http_parse((const char *)data, size, &a, &e) == 0)
		text_finish(&a.body);
	copy = malloc(size);
	memcpy(copy, data + 1, size - 1);
	copy[size - 1] = '\0';
	api_once(copy, copy + size - 1, data[0]);
	free(copy);
	return 0;
}
