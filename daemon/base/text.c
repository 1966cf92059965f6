/*
 * Growing text, and JSON written straight into it.
 *
 * Whoever writes a page of text does not want to check each line, so a failed allocation is remembered, everything after it
 * does nothing, and the caller looks once, at the end. What was written before stays, always NUL-terminated.
 *
 * The JSON writer knows only its depth and whether a comma is due on each level; the caller is the tree. Output is always
 * valid UTF-8, because some readers refuse the whole document for one bad byte, and strings may come from a peer: each byte
 * that is not part of a valid sequence (RFC 3629: no overlong forms, no surrogates) becomes U+FFFD.
 */
#include "base/text.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEXT_MIN 256u /* bytes; the first allocation */

/* Make room for n bytes and the NUL. */
static bool text_reserve(struct text *t, size_t n)
{
	size_t cap = t->cap ? t->cap : TEXT_MIN;
	char *s;

	if (t->failed)
		return false;
	if (n < t->cap - t->len)
		return true;
	if (n >= SIZE_MAX / 2 - t->len)
		goto fail;
	while (cap - t->len <= n)
		cap *= 2;
	s = realloc(t->s, cap);
	if (!s)
		goto fail;
	t->s = s;
	t->cap = cap;
	return true;
fail:
	t->failed = true;
	return false;
}

void text_finish(struct text *t)
{
	free(t->s);
	*t = (struct text){0};
}

void text_addn(struct text *t, const char *s, size_t n)
{
	if (!text_reserve(t, n))
		return;
	if (n)
		memcpy(t->s + t->len, s, n);
	t->len += n;
	t->s[t->len] = '\0';
}

void text_add(struct text *t, const char *s)
{
	text_addn(t, s, strlen(s));
}

void text_addf(struct text *t, const char *fmt, ...)
{
	va_list ap;
	int n;

	for (size_t room = 64;; room = (size_t)n) {
		if (!text_reserve(t, room))
			return;
		va_start(ap, fmt);
		n = vsnprintf(t->s + t->len, t->cap - t->len, fmt, ap);
		va_end(ap);
		if (n < 0) {
			t->s[t->len] = '\0';
			t->failed = true;
			return;
		}
		if ((size_t)n < t->cap - t->len) {
			t->len += (size_t)n;
			return;
		}
		t->s[t->len] = '\0'; /* not yet; and should growing fail, nothing of it shows */
	}
}

size_t text_utf8(const char *s, size_t n)
{
	const unsigned char *u = (const unsigned char *)s;
	unsigned char low = 0x80, high = 0xbf; /* what the second byte may be */
	size_t len;

	if (u[0] < 0x80)
		return 1;
	if (u[0] < 0xc2 || u[0] > 0xf4)
		return 0;
	len = u[0] < 0xe0 ? 2 : u[0] < 0xf0 ? 3 : 4;
	if (n < len)
		return 0;
	switch (u[0]) {
	case 0xe0:
		low = 0xa0; /* overlong */
		break;
	case 0xed:
		high = 0x9f; /* surrogates */
		break;
	case 0xf0:
		low = 0x90; /* overlong */
		break;
	case 0xf4:
		high = 0x8f; /* above U+10FFFF */
		break;
	}
	if (u[1] < low || u[1] > high)
		return 0;
	for (size_t i = 2; i < len; i++)
		if ((u[i] & 0xc0) != 0x80)
			return 0;
	return len;
}

/* ---- JSON ---- */

static void json_quoted(struct text *t, const char *s, size_t n)
{
	size_t from = 0, i = 0, len;

	text_addn(t, "\"", 1);
	while (i < n) {
		unsigned char c = (unsigned char)s[i];
		const char *sub = NULL;
		char u[8];

		if (c >= 0x20 && c < 0x7f && c != '"' && c != '\\') {
			i++;
			continue;
		}
		len = c < 0x80 ? 1 : text_utf8(s + i, n - i);
		if (len > 1) {
			i += len;
			continue;
		}
		switch (c) {
		case '"': sub = "\\\""; break;
		case '\\': sub = "\\\\"; break;
		case '\b': sub = "\\b"; break;
		case '\f': sub = "\\f"; break;
		case '\n': sub = "\\n"; break;
		case '\r': sub = "\\r"; break;
		case '\t': sub = "\\t"; break;
		}
		if (!sub && len == 0)
			sub = "\xef\xbf\xbd";
		if (!sub) {
			snprintf(u, sizeof(u), "\\u%04x", c);
			sub = u;
		}
		text_addn(t, s + from, i - from);
		text_add(t, sub);
		from = ++i;
	}
	text_addn(t, s + from, i - from);
	text_addn(t, "\"", 1);
}

static void json_newline(struct json *j)
{
	text_addn(j->out, "\n", 1);
	for (unsigned int i = 0; i < j->depth; i++)
		text_addn(j->out, "  ", 2);
}

/* What goes before a value: comma, line break, key. */
static void json_lead(struct json *j, const char *key)
{
	if (j->depth > 0) {
		if (j->comma[j->depth])
			text_addn(j->out, ",", 1);
		j->comma[j->depth] = 1;
		if (j->pretty)
			json_newline(j);
	}
	if (key) {
		json_quoted(j->out, key, strlen(key));
		text_add(j->out, j->pretty ? ": " : ":");
	}
}

void json_init(struct json *j, struct text *out, bool pretty)
{
	*j = (struct json){.out = out, .pretty = pretty};
}

void json_open(struct json *j, const char *key, char kind)
{
	json_lead(j, key);
	if (j->depth + 1 == JSON_DEPTH)
		j->out->failed = true;
	if (j->out->failed)
		return;
	text_addn(j->out, &kind, 1);
	j->comma[++j->depth] = 0;
}

void json_close(struct json *j, char kind)
{
	bool any;

	if (j->depth == 0)
		j->out->failed = true;
	if (j->out->failed)
		return;
	any = j->comma[j->depth--];
	if (any && j->pretty)
		json_newline(j);
	text_addn(j->out, &kind, 1);
}

void json_strn(struct json *j, const char *key, const char *v, size_t n)
{
	json_lead(j, key);
	if (v)
		json_quoted(j->out, v, n);
	else
		text_add(j->out, "null");
}

void json_str(struct json *j, const char *key, const char *v)
{
	json_strn(j, key, v, v ? strlen(v) : 0);
}

void json_u64(struct json *j, const char *key, uint64_t v)
{
	json_lead(j, key);
	text_addf(j->out, "%" PRIu64, v);
}

void json_i64(struct json *j, const char *key, int64_t v)
{
	json_lead(j, key);
	text_addf(j->out, "%" PRId64, v);
}

/* The shortest form that reads back as the same value; JSON has no word for NaN and infinity. */
void json_f(struct json *j, const char *key, double v)
{
	char s[32];

	json_lead(j, key);
	if (!isfinite(v)) {
		text_add(j->out, "null");
		return;
	}
	for (int digits = 15; digits <= 17; digits++) {
		snprintf(s, sizeof(s), "%.*g", digits, v);
		if (strtod(s, NULL) == v)
			break;
	}
	text_add(j->out, s);
}

void json_bool(struct json *j, const char *key, bool v)
{
	json_lead(j, key);
	text_add(j->out, v ? "true" : "false");
}
