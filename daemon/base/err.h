/* Errors: negative errno as the code, and a sentence made where the facts are. */
#pragma once
#include <errno.h>
#include <stddef.h>

#define ERR_MAX 512 /* bytes, with the final NUL; longer sentences are cut */

/** struct err - one sentence for people; caller owns it, any thread. Zero-initialise. */
struct err {
	char msg[ERR_MAX];
};

/**
 * err_set() - write the sentence and hand the code back, so that `return err_set(...)` works
 * @e:		may be NULL: only the code is wanted
 * @code:	negative errno
 * Return: @code.
 */
int err_set(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

/** err_prefix() - put "where: " in front of the sentence that is there. Return: @code. */
int err_prefix(struct err *e, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
