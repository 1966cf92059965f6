/*
 * Names come first: one pass over listeners, clusters and identities collects what there is, so that a reference is resolved where
 * it is read, whatever the order in the file. Sorted arrays; a configuration may have 65536 references.
 */
#include "config/build.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int by_name(const void *a, const void *b)
{
	const struct build_name *x = a, *y = b;
	int r = strcmp(x->name, y->name);

	return r ? r : (x->index > y->index) - (x->index < y->index);
}

static int name_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct build_names *s = arg;
	const struct tree_entry *e;
	int r;

	if (n->kind != TREE_MAP)
		return say_at(b->err, n, w, "want a mapping (key: value), not %s", tree_kind_str(n));
	e = tree_get(n, "name");
	if (!e)
		return say_at(b->err, n, w, "'name' is missing");
	r = value_name(b, e->value, &(struct where){.up = w, .key = "name"}, &s->sorted[index].name);
	s->sorted[index].index = index;
	s->at[index] = n;
	return r;
}

/* the one that comes first in the files is the right one; the earliest second is blamed */
int names_unique(struct build *b, const struct where *w, struct build_names *s)
{
	const struct build_name *first = NULL, *second = NULL;
	const struct tree_node *at;
	struct where in = *w;
	char q[SAY_QUOTED];
	uint32_t i;

	qsort(s->sorted, s->n, sizeof(*s->sorted), by_name);
	for (i = 1; i < s->n; i++)
		if (!strcmp(s->sorted[i - 1].name, s->sorted[i].name) &&
		    (!second || s->sorted[i].index < second->index)) {
			first = &s->sorted[i - 1];
			second = &s->sorted[i];
		}
	if (!second)
		return 0;
	in.item = true;
	in.index = second->index;
	at = tree_get(s->at[first->index], "name")->value;
	return say_at(b->err, tree_get(s->at[second->index], "name")->value, &in,
		      "name %s is taken: %s:%u:%u has it, too", say_quote(q, second->name, strlen(second->name)),
		      say_file(at->file), at->line, at->col);
}

int names_read(struct build *b, const char *key, uint32_t max, struct build_names *s)
{
	const struct tree_entry *e = tree_get(b->root, key);
	int r;

	s->n = 0;
	if (!e || tree_null(e->value))
		return 0;
	s->sorted = arena_array(&b->scratch, schema_count(e->value), sizeof(*s->sorted));
	s->at = arena_array(&b->scratch, schema_count(e->value), sizeof(*s->at));
	if (!s->sorted || !s->at)
		return say_no_memory(b->err);
	r = schema_list(b, e->value, &(struct where){.key = key}, false, max, name_item, s);
	if (r < 0)
		return r;
	s->n = e->value->n;
	return names_unique(b, &(struct where){.key = key}, s);
}

uint32_t names_find(const struct build_names *s, const char *name)
{
	uint32_t lo = 0, hi = s->n, mid;
	int r;

	while (lo < hi) {
		mid = lo + (hi - lo) / 2;
		r = strcmp(s->sorted[mid].name, name);
		if (!r)
			return s->sorted[mid].index;
		if (r < 0)
			lo = mid + 1;
		else
			hi = mid;
	}
	return UINT32_MAX;
}

int names_refer(struct build *b, const struct build_names *s, const char *what, const struct tree_node *n,
		const struct where *w, uint32_t *ret)
{
	char q[SAY_QUOTED], text[96];
	const char *name;
	struct guess g;
	uint32_t i;
	int r;

	r = value_name(b, n, w, &name);
	if (r < 0)
		return r;
	*ret = names_find(s, name);
	if (*ret != UINT32_MAX)
		return 0;
	guess_begin(&g, name);
	for (i = 0; i < s->n; i++)
		guess_try(&g, s->sorted[i].name);
	return say_at(b->err, n, w, "there is no %s %s%s", what, say_quote(q, name, strlen(name)),
		      guess_text(&g, text, sizeof(text)));
}

int names_identity(struct build *b, const struct tree_node *n, const struct tree_node *at, const struct where *w,
		   struct cfg_identity **ret)
{
	uint32_t i;
	int r;

	if (n) {
		r = names_refer(b, &b->identities, "identity", n, &(struct where){.up = w, .key = "identity"}, &i);
		if (r >= 0)
			*ret = &b->c->identities[i];
		return r;
	}
	if (!b->c->n_identities)
		return say_at(b->err, at, w,
			      "TLS needs an identity and 'identities' has none; without TLS, say 'tls: false'");
	if (b->c->n_identities > 1)
		return say_at(b->err, at, w,
			      "'identity' is missing: it can be left out only when there is one identity, not %u",
			      b->c->n_identities);
	*ret = &b->c->identities[0];
	return 0;
}
