/*
 * Tables for people: columns as wide as their longest cell, numbers to the right, two blanks between. Cells are shown safely:
 * control bytes and broken UTF-8, which a peer may have sent, appear as '?'.
 */
#pragma once
#include "base/text.h"

struct table_col {
	const char *head;
	bool right;  /* aligned: numbers */
	bool wide;   /* only with -o wide */
	bool shrink; /* may be cut (with "...") to make the table fit the terminal */
	bool tail;   /* when cut, the end stays: ids differ there */
};

struct table {
	const struct table_col *cols;
	uint32_t n_cols;
	char **cell; /* row by row; owned */
	uint32_t n_cells, cap;
	bool failed; /* out of memory */
};

void table_init(struct table *t, const struct table_col *cols, uint32_t n_cols);
void table_finish(struct table *t);
/** table_add() - the next cell, left to right, row after row; NULL or "": "-" */
void table_add(struct table *t, const char *s);
void table_addf(struct table *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/**
 * table_print() - header and rows, into @out
 * @width:	columns of the terminal, 0: no limit
 * @wide:	with the wide columns, nothing cut
 */
void table_print(const struct table *t, struct text *out, uint32_t width, bool wide);
