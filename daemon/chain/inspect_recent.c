/*
 * Rows of what is over: denials of all workers, equal ones put together.
 */
#include "base/clean.h"
#include "chain/inspect_int.h"
#include <stdlib.h>
#include <string.h>

static void denied_copy(struct worker *w, struct call *call)
{
	struct rows_call *c = container_of(call, struct rows_call, call);

	for (; c->n < ROWS_PER_ORDER && c->cursor < w->recent.n_denials; c->cursor++)
		c->rows.denied[c->n++] = (struct denied_row){ .d = w->recent.denial[c->cursor], .worker = w->loop.worker };
	c->more = c->cursor < w->recent.n_denials;
}

/* as recent.c's key */
static bool equal(const struct recent_denial *a, const struct recent_denial *b)
{
	struct addr x = a->src, y = b->src;

	x.port = y.port = 0;
	return a->kind == b->kind && addr_eq(&a->dst, &b->dst) && !strcmp(a->listener, b->listener) && !strcmp(a->cluster, b->cluster) &&
	       !strcmp(a->policy, b->policy) && !strcmp(a->authority, b->authority) && !strcmp(a->why, b->why) &&
	       !strcmp(a->principal, b->principal) && (a->principal[0] || addr_eq(&x, &y));
}

static void add(struct recent_denial *to, const struct recent_denial *from)
{
	to->n += from->n;
	to->first_us = min_u64(to->first_us, from->first_us);
	if (from->last_us < to->last_us)
		return;
	to->last_us = from->last_us;
	to->conn = from->conn;
	to->src = from->src;
}

static int newest(const void *a, const void *b)
{
	const struct denied_row *x = a, *y = b;

	return x->d.last_us < y->d.last_us ? 1 : x->d.last_us > y->d.last_us ? -1 : 0;
}

int inspect_denied(struct daemon *d, struct denied_row **ret, size_t *ret_n)
{
	struct denied_row *rows = NULL;
	size_t n = 0, k = 0;
	int r = inspect_collect(d, denied_copy, sizeof(*rows), (void **)&rows, &n);

	if (r < 0)
		return r;
	for (size_t i = 0; i < n; i++) {
		size_t at = 0;

		/* within a worker all are different */
		while (at < k && (rows[at].worker == rows[i].worker || !equal(&rows[at].d, &rows[i].d)))
			at++;
		if (at < k)
			add(&rows[at].d, &rows[i].d);
		else
			rows[k++] = rows[i];
	}
	if (k)
		qsort(rows, k, sizeof(*rows), newest);
	*ret = rows;
	*ret_n = k;
	return 0;
}
