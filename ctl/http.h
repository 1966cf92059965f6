/* One HTTP request over a UNIX socket: connect, ask, read to the end. Blocking; times out after 30 s. */
#pragma once
#include "base/err.h"
#include "base/text.h"

#define HTTP_ANSWER_MAX (1u << 30) /* bytes */

struct http_answer {
	unsigned int status;
	struct text body; /* NUL-terminated; caller finishes it */
};

/**
 * http_call() - @body may be NULL
 * Return: 0, -ENOTCONN when the daemon is not reachable (the sentence says what to do), -EPROTO, -ETIMEDOUT, -ENOMEM, -errno.
 */
int http_call(const char *socket, const char *method, const char *path, const char *body, size_t n,
	      struct http_answer *ret, struct err *reterr);
/**
 * http_stream() - an answer without an end: @fn gets its body as it comes, until it returns false. There is no time-out, and a signal ends it.
 * @ret: a refusal (status 300 and above) with its body, as http_call()
 */
int http_stream(const char *socket, const char *path, bool (*fn)(void *arg, const char *s, size_t n), void *arg, struct http_answer *ret,
		struct err *reterr);
/** http_parse() - a whole answer as read from the socket. Return: 0 or -EPROTO, -ENOMEM with the sentence. */
int http_parse(const char *s, size_t n, struct http_answer *ret, struct err *reterr);
/** http_query() - append @name=@value, percent-encoded, with "?" or "&" in front; nothing when @value is NULL */
void http_query(struct text *path, const char *name, const char *value);
