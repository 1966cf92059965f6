/*
 * Growing text and a streaming JSON writer on it (no tree). One owner. An allocation failure sticks: later calls do nothing
 * and text_ok() is false, so callers check once at the end.
 */
#pragma once
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct text {
	char *s; /* NUL-terminated once anything was written */
	size_t len, cap;
	bool failed;
};
void text_finish(struct text *t);
void text_add(struct text *t, const char *s);
void text_addn(struct text *t, const char *s, size_t n);
void text_addf(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static inline bool text_ok(const struct text *t)
{
	return !t->failed;
}

/** text_utf8() - Return: bytes of the valid UTF-8 sequence at @s (of @n > 0 bytes), 0 if it is not one. */
size_t text_utf8(const char *s, size_t n);

#define JSON_DEPTH 32 /* nesting, the top included; deeper fails like an allocation */
struct json {
	struct text *out;
	bool pretty;	    /* two-space indentation */
	uint8_t depth;
	uint8_t comma[JSON_DEPTH];
};
void json_init(struct json *j, struct text *out, bool pretty);
/* @key is NULL inside arrays and at the top */
void json_open(struct json *j, const char *key, char kind /* '{' or '[' */);
void json_close(struct json *j, char kind /* '}' or ']' */);
void json_str(struct json *j, const char *key, const char *v); /* NULL: null; invalid UTF-8 becomes U+FFFD */
void json_strn(struct json *j, const char *key, const char *v, size_t n);
void json_u64(struct json *j, const char *key, uint64_t v);
void json_i64(struct json *j, const char *key, int64_t v);
void json_f(struct json *j, const char *key, double v);
void json_bool(struct json *j, const char *key, bool v);
