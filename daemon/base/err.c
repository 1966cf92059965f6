/*
 * Error sentences.
 *
 * The code (negative errno) is for the program, the sentence for people. The sentence is made where the facts are and gains
 * a prefix on each level that knows more of the place ("listener 'in': address \"1.2.3\": want IP:PORT"). Both functions format
 * into memory of their own first, so that the old sentence may be among the arguments, and leave errno alone.
 */
#include "base/err.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

int err_set(struct err *e, int code, const char *fmt, ...)
{
	char msg[ERR_MAX];
	int saved = errno;
	va_list ap;

	if (!e)
		return code;
	va_start(ap, fmt);
	if (vsnprintf(msg, sizeof(msg), fmt, ap) < 0)
		msg[0] = '\0';
	va_end(ap);
	memcpy(e->msg, msg, strlen(msg) + 1);
	errno = saved;
	return code;
}

int err_prefix(struct err *e, int code, const char *fmt, ...)
{
	char msg[ERR_MAX];
	const char *rest;
	size_t at, n;
	int saved = errno;
	va_list ap;

	if (!e)
		return code;
	va_start(ap, fmt);
	if (vsnprintf(msg, sizeof(msg) - 2, fmt, ap) < 0)
		msg[0] = '\0';
	va_end(ap);
	at = strlen(msg);
	memcpy(msg + at, ": ", 2);
	at += 2;
	rest = e->msg[0] ? e->msg : strerror(-code);
	n = strnlen(rest, sizeof(msg) - 1 - at);
	memcpy(msg + at, rest, n);
	msg[at + n] = '\0';
	memcpy(e->msg, msg, at + n + 1);
	errno = saved;
	return code;
}
