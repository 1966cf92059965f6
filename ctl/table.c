/*
 * Tables. All cells are kept until the end, since a column's width is known only then. When the table is wider than the
 * terminal, the widest column that may shrink loses one character at a time (never below its header, nor below 8), so the long
 * ones give first and evenly. What still does not fit is left to the terminal to wrap: numbers and ids are never cut.
 */
#include "table.h"
#include "base/clean.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define COLS_MAX   40u
#define SHRUNK_MIN 8u

void table_init(struct table *t, const struct table_col *cols, uint32_t n_cols)
{
	*t = (struct table){.cols = cols, .n_cols = n_cols};
}

void table_finish(struct table *t)
{
	for (uint32_t i = 0; i < t->n_cells; i++)
		free(t->cell[i]);
	free(t->cell);
	*t = (struct table){0};
}

/* A copy that a terminal may be given. */
static char *safe_copy(const char *s)
{
	size_t n = strlen(s), i = 0, o = 0;
	char *out = malloc(n + 1);

	if (!out)
		return NULL;
	while (i < n) {
		const unsigned char c = (unsigned char)s[i];
		size_t len = text_utf8(s + i, n - i);
		const bool control = c < 0x20 || c == 0x7f || (c == 0xc2 && len == 2 && (unsigned char)s[i + 1] < 0xa0);

		if (len == 0 || control) {
			out[o++] = '?';
			i += len ? len : 1;
			continue;
		}
		memcpy(out + o, s + i, len);
		o += len;
		i += len;
	}
	out[o] = '\0';
	return out;
}

void table_add(struct table *t, const char *s)
{
	char *copy;

	if (t->failed)
		return;
	if (t->n_cells == t->cap) {
		const uint32_t cap = t->cap ? t->cap * 2 : 256;
		char **more = reallocarray(t->cell, cap, sizeof(*more));

		if (!more) {
			t->failed = true;
			return;
		}
		t->cell = more;
		t->cap = cap;
	}
	copy = safe_copy(s && *s ? s : "-");
	if (!copy) {
		t->failed = true;
		return;
	}
	t->cell[t->n_cells++] = copy;
}

void table_addf(struct table *t, const char *fmt, ...)
{
	char *s = NULL;
	va_list ap;

	va_start(ap, fmt);
	if (vasprintf(&s, fmt, ap) < 0)
		s = NULL;
	va_end(ap);
	if (s)
		table_add(t, s);
	else
		t->failed = true;
	free(s);
}

/* Characters, not bytes. */
static uint32_t width_of(const char *s)
{
	uint32_t n = 0;

	for (; *s; s++)
		n += ((unsigned char)*s & 0xc0) != 0x80;
	return n;
}

static void widths(const struct table *t, bool wide, uint32_t w[COLS_MAX])
{
	for (uint32_t c = 0; c < t->n_cols; c++)
		w[c] = t->cols[c].wide && !wide ? 0 : width_of(t->cols[c].head);
	for (uint32_t i = 0; i < t->n_cells; i++)
		if (w[i % t->n_cols])
			w[i % t->n_cols] = (uint32_t)max_u64(w[i % t->n_cols], width_of(t->cell[i]));
}

static void shrink(const struct table *t, uint32_t w[COLS_MAX], uint32_t width)
{
	uint32_t total = 0;

	for (uint32_t c = 0; c < t->n_cols; c++)
		total += w[c] ? w[c] + 2 : 0;
	while (total > width + 2) {
		uint32_t best = COLS_MAX;

		for (uint32_t c = 0; c < t->n_cols; c++) {
			if (!t->cols[c].shrink || w[c] <= max_u64(SHRUNK_MIN, width_of(t->cols[c].head)))
				continue;
			if (best == COLS_MAX || w[c] > w[best])
				best = c;
		}
		if (best == COLS_MAX)
			return;
		w[best]--;
		total--;
	}
}

static void pad(struct text *out, uint32_t n)
{
	while (n--)
		text_addn(out, " ", 1);
}

/* The first n characters of s. */
static size_t bytes_of(const char *s, uint32_t n)
{
	size_t i = 0;

	while (s[i]) {
		if (((unsigned char)s[i] & 0xc0) != 0x80 && n-- == 0)
			break;
		i++;
	}
	return i;
}

static void print_cell(struct text *out, const char *s, uint32_t w, const struct table_col *col, bool last)
{
	const uint32_t n = width_of(s);
	const bool right = col->right;

	if (n > w && col->tail) {
		text_add(out, "...");
		text_add(out, s + bytes_of(s, n - (w - 3)));
	} else if (n > w) {
		text_addn(out, s, bytes_of(s, w - 3));
		text_add(out, "...");
	} else {
		if (right)
			pad(out, w - n);
		text_add(out, s);
		if (!right && !last)
			pad(out, w - n);
	}
	if (!last)
		pad(out, 2);
}

static uint32_t last_shown(const struct table *t, const uint32_t w[COLS_MAX])
{
	uint32_t last = 0;

	for (uint32_t c = 0; c < t->n_cols; c++)
		if (w[c])
			last = c;
	return last;
}

void table_print(const struct table *t, struct text *out, uint32_t width, bool wide)
{
	uint32_t w[COLS_MAX] = {0}, last;

	if (t->failed || t->n_cols == 0 || t->n_cols > COLS_MAX) {
		out->failed = true;
		return;
	}
	widths(t, wide, w);
	if (width && !wide)
		shrink(t, w, width);
	last = last_shown(t, w);
	for (uint32_t c = 0; c < t->n_cols; c++)
		if (w[c])
			print_cell(out, t->cols[c].head, w[c], &t->cols[c], c == last);
	text_add(out, "\n");
	for (uint32_t i = 0; i < t->n_cells; i++) {
		const uint32_t c = i % t->n_cols;

		if (w[c])
			print_cell(out, t->cell[i], w[c], &t->cols[c], c == last);
		if (c + 1 == t->n_cols)
			text_add(out, "\n");
	}
}
