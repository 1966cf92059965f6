/*
 * One form for all messages: FILE:LINE:COLUMN: PATH: sentence. What the operator wrote is quoted and cut, so a sentence fits into
 * struct err and never carries control characters to a terminal.
 */
#include "config/say.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define GUESS_MAX  48u /* longer names are not compared */
#define FILE_SHOWN 160u

const char *say_quote(char out[SAY_QUOTED], const char *s, size_t n)
{
	const size_t room = SAY_QUOTED - 6; /* ...' and the end */
	size_t at = 0, i, len;
	const char *dots = "";
	char part[5];

	out[at++] = '\'';
	for (i = 0; i < n; i++) {
		bool c1 = (uint8_t)s[i] == 0xc2 && i + 1 < n && (uint8_t)s[i + 1] < 0xa0; /* U+0080..9F */

		if ((uint8_t)s[i] < 0x20 || s[i] == 0x7f || c1)
			len = (size_t)snprintf(part, sizeof(part), "\\x%02x", (unsigned)(uint8_t)s[i + c1]);
		else
			len = (size_t)snprintf(part, sizeof(part), "%c", s[i]);
		if (at + len > room) {
			dots = "...";
			break;
		}
		memcpy(out + at, part, len);
		at += len;
		i += c1;
	}
	while (*dots && at > 1 && (out[at - 1] & 0xc0) == 0x80) /* do not cut within a character */
		at--;
	if (*dots && at > 1 && (uint8_t)out[at - 1] >= 0xc0)
		at--;
	snprintf(out + at, SAY_QUOTED - at, "%s'", dots);
	return out;
}

/* keys of ours are words; what else stands in front of a colon is quoted */
static const char *key_str(const char *key, char q[SAY_QUOTED])
{
	const char *p;

	for (p = key; *p >= '!' && *p <= '~'; p++)
		;
	return *p || p - key > 64 || p == key ? say_quote(q, key, strlen(key)) : key;
}

static size_t path_add(char *out, size_t n, const struct where *w)
{
	char q[SAY_QUOTED];
	size_t at = 0;

	if (!w)
		return 0;
	at = path_add(out, n, w->up);
	if (at < n)
		at += (size_t)snprintf(out + at, n - at, "%s%s",
				       !w->up	     ? ""
				       : w->up->name ? " "
						     : ".",
				       key_str(w->key, q));
	if (w->item && at < n)
		at += (size_t)snprintf(out + at, n - at, "[%u]", w->index);
	if (w->name && at < n)
		at += (size_t)snprintf(out + at, n - at, " %s", say_quote(q, w->name, strlen(w->name)));
	return at;
}

const char *say_path(char *out, size_t n, const struct where *w)
{
	out[0] = 0;
	path_add(out, n, w);
	return out;
}

const char *say_file(const char *file)
{
	size_t n = strlen(file);

	return n > FILE_SHOWN ? file + n - FILE_SHOWN : file;
}

int say_at(struct err *e, const struct tree_node *at, const struct where *w, const char *fmt, ...)
{
	char sentence[ERR_MAX], path[224], place[FILE_SHOWN + 32] = "";
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(sentence, sizeof(sentence), fmt, ap);
	va_end(ap);
	if (at)
		snprintf(place, sizeof(place), "%s:%u:%u: ", say_file(at->file), at->line, at->col);
	say_path(path, sizeof(path), w);
	return err_set(e, -EINVAL, "%s%s%s%s", place, path, *path ? ": " : "", sentence);
}

int say_no_memory(struct err *e)
{
	return err_set(e, -ENOMEM, "out of memory while reading the configuration");
}

/* ---- did you mean ---- */

static char fold(char c)
{
	return (char)(c >= 'A' && c <= 'Z' ? c + 32 : c == '-' ? '_' : c);
}

/* Damerau-Levenshtein (optimal string alignment); case and - for _ are free, so they are found first */
static uint32_t edits(const char *a, const char *b)
{
	uint32_t row[3][GUESS_MAX + 1];
	uint32_t *before = row[0], *last = row[1], *now = row[2], *t;
	size_t la = strlen(a), lb = strlen(b), i, j;

	for (j = 0; j <= lb; j++)
		last[j] = (uint32_t)j;
	for (i = 1; i <= la; i++) {
		now[0] = (uint32_t)i;
		for (j = 1; j <= lb; j++) {
			uint32_t best = last[j - 1] + (fold(a[i - 1]) != fold(b[j - 1]));

			if (last[j] + 1 < best)
				best = last[j] + 1;
			if (now[j - 1] + 1 < best)
				best = now[j - 1] + 1;
			if (i > 1 && j > 1 && fold(a[i - 1]) == fold(b[j - 2]) && fold(a[i - 2]) == fold(b[j - 1]) &&
			    before[j - 2] + 1 < best)
				best = before[j - 2] + 1;
			now[j] = best;
		}
		t = before;
		before = last;
		last = now;
		now = t;
	}
	return last[lb];
}

void guess_begin(struct guess *g, const char *given)
{
	size_t n = strlen(given);

	g->given = n <= GUESS_MAX ? given : NULL;
	g->best = NULL;
	g->far = (uint32_t)(n < 5 ? 1 : n < 9 ? 2 : n / 3) + 1; /* what is not nearer than this is no guess */
}

void guess_try(struct guess *g, const char *name)
{
	uint32_t d;

	if (!g->given || strlen(name) > GUESS_MAX)
		return;
	d = edits(g->given, name);
	if (d < g->far && d < strlen(name)) {
		g->far = d;
		g->best = name;
	}
}

const char *guess_text(const struct guess *g, char *out, size_t n)
{
	if (g->best)
		snprintf(out, n, " (did you mean '%s'?)", g->best);
	else
		out[0] = 0;
	return out;
}
