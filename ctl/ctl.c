/*
 * What the commands share: one call to the daemon and what can go wrong with it, JSON members with harmless defaults, output
 * that is complete or an error.
 */
#include "ctl.h"
#include "base/clean.h"
#include "http.h"
#include "human.h"
#include <stdarg.h>
#include <string.h>

static void say(struct ctl *c, const char *fmt, va_list ap)
{
	fprintf(c->err, "aditctl%s%s: ", c->command ? " " : "", c->command ? c->command : "");
	vfprintf(c->err, fmt, ap);
	fputc('\n', c->err);
}

int ctl_fail(struct ctl *c, enum ctl_exit code, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, fmt, ap);
	va_end(ap);
	return code;
}

int ctl_usage(struct ctl *c, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	say(c, fmt, ap);
	va_end(ap);
	fprintf(c->err, "Try: aditctl %s%s--help\n", c->command ? c->command : "", c->command ? " " : "");
	return CTL_USAGE;
}

int ctl_print(struct ctl *c, struct text *t)
{
	const bool ok = text_ok(t);

	if (ok && t->len)
		fwrite(t->s, 1, t->len, c->out);
	text_finish(t);
	if (!ok)
		return ctl_fail(c, CTL_FAILED, "out of memory");
	if (fflush(c->out) != 0 || ferror(c->out))
		return ctl_fail(c, CTL_FAILED, "cannot write: %s", strerror(errno));
	return CTL_OK;
}

void ctl_query(struct text *path, const struct ctl *c)
{
	http_query(path, "limit", c->limit);
	http_query(path, "listener", c->listener);
	http_query(path, "peer", c->peer);
}

/* {"error": "..."} of a refusal; whatever else came is described, not shown. */
int ctl_refused(struct ctl *c, const struct http_answer *a)
{
	json_t *o = json_loadb(a->body.s ? a->body.s : "", a->body.len, 0, NULL);
	const char *s = js_str(o, "error");
	int r = *s ? ctl_fail(c, CTL_FAILED, "%s", s) : ctl_fail(c, CTL_FAILED, "aditd answered %u", a->status);

	json_decref(o);
	return r;
}

static int parsed(struct ctl *c, const struct http_answer *a, json_t **ret)
{
	json_error_t e;
	json_t *o = json_loadb(a->body.s ? a->body.s : "", a->body.len, 0, &e);

	if (!o)
		return ctl_fail(c, CTL_FAILED, "aditd's answer is not JSON: line %d: %s", e.line, e.text);
	*ret = o;
	return CTL_OK;
}

int ctl_call(struct ctl *c, const char *method, const char *path, const char *body, json_t **ret)
{
	struct http_answer a = {0};
	struct err e = {""};
	int r = http_call(c->socket, method, path, body, body ? strlen(body) : 0, &a, &e);

	if (ret)
		*ret = NULL;
	if (r < 0)
		return ctl_fail(c, r == -ENOTCONN ? CTL_UNREACHABLE : CTL_FAILED, "%s", e.msg);
	if (a.status >= 300)
		r = ctl_refused(c, &a);
	else if (c->output == OUT_JSON)
		r = ctl_print(c, &a.body);
	else if (ret)
		r = parsed(c, &a, ret);
	else
		r = CTL_OK;
	text_finish(&a.body);
	return r;
}

/* ---- JSON ---- */

const char *js_str(const json_t *o, const char *key)
{
	const char *s = json_string_value(json_object_get(o, key));

	return s ? s : "";
}

uint64_t js_u64(const json_t *o, const char *key)
{
	const json_int_t v = json_integer_value(json_object_get(o, key));

	return v > 0 ? (uint64_t)v : 0;
}

bool js_bool(const json_t *o, const char *key)
{
	return json_is_true(json_object_get(o, key));
}

static char *ring_buffer(void)
{
	static char buf[8][HUMAN];
	static unsigned int at;

	return buf[at++ % ARRAY_LEN(buf)];
}

const char *js_bytes(const json_t *o, const char *key)
{
	return human_bytes(js_u64(o, key), ring_buffer());
}

const char *js_time(const json_t *o, const char *key)
{
	return human_time(js_u64(o, key), ring_buffer());
}
