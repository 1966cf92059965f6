/* Sentences about a configuration: where, what, and what was probably meant. Main thread. */
#pragma once
#include "base/err.h"
#include "config/tree.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SAY_QUOTED 84u /* bytes that say_quote() writes at the most */

/** struct where - the path to a value, from the inside out; lives on the stack of who reads it */
struct where {
	const struct where *up; /* NULL: top */
	const char *key;
	const char *name; /* of a list item that has one, else NULL */
	bool item;	  /* key[index] */
	uint32_t index;
};

/** say_quote() - 'text', control characters as \xNN, cut with "..." Return: @out. */
const char *say_quote(char out[SAY_QUOTED], const char *s, size_t n);
/** say_path() - "listeners[1] 'tunnel' routes[0] match.port", cut at @n. Return: @out. */
const char *say_path(char *out, size_t n, const struct where *w);
/** say_file() - the last part of a very long file name, so that there is room for the sentence */
const char *say_file(const char *file);
/** say_at() - "FILE:LINE:COLUMN: PATH: sentence" Return: -EINVAL. @at may be NULL (no place), @w may be NULL (no path). */
int say_at(struct err *e, const struct tree_node *at, const struct where *w, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));
int say_no_memory(struct err *e); /* Return: -ENOMEM */

/** struct guess - finds the nearest of the names shown to it */
struct guess {
	const char *given, *best;
	uint32_t far; /* edits from given to best */
};
void guess_begin(struct guess *g, const char *given);
void guess_try(struct guess *g, const char *name);
/** guess_text() - " (did you mean 'x'?)" or "" Return: @out. */
const char *guess_text(const struct guess *g, char *out, size_t n);
