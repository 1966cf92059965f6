/*
 * Tables instead of code: a table names the keys of a mapping, where each goes, and for which types of item it is meant. So an
 * unknown key is always found, and the words of a message come from one place.
 *
 * Why not libcyaml 1.3: it blames the value in front of the wrong one (a duplicate key is reported at the line of the key
 * before), takes '0x' for 0, knows no ranges, no keys that depend on a type, and keeps no places for what is found wrong later
 * (references, loops, addresses used twice). Half of what follows it would have been needed beside it.
 */
#include "config/build.h"
#include <stdio.h>
#include <string.h>

static const struct field *field_find(const struct table *t, const char *key)
{
	const struct field *f;

	for (f = t->fields; f->key; f++)
		if (!strcmp(f->key, key))
			return f;
	return NULL;
}

static int key_unknown(struct build *b, const struct table *t, uint32_t type, const struct tree_node *key,
		       const struct where *w)
{
	char q[SAY_QUOTED], guess[96];
	const struct field *f;
	struct guess g;

	guess_begin(&g, key->text);
	for (f = t->fields; f->key; f++)
		if (!f->types || f->types & (1u << type))
			guess_try(&g, f->key);
	return say_at(b->err, key, w, "unknown key %s%s", say_quote(q, key->text, key->n),
		      guess_text(&g, guess, sizeof(guess)));
}

/* "'accept' is for tunnel listeners, this one is tcp" */
static int key_elsewhere(struct build *b, const struct table *t, uint32_t type, const struct field *f,
			 const struct tree_node *key, const struct where *w)
{
	char names[96];
	size_t at = 0;
	uint32_t i, left = (uint32_t)__builtin_popcount(f->types);

	for (i = 0; t->types[i]; i++)
		if (f->types & (1u << i))
			at += (size_t)snprintf(names + at, sizeof(names) - at, "%s%s", t->types[i],
					       --left > 1 ? ", "
					       : left	  ? " and "
							  : "");
	return say_at(b->err, key, w, "'%s' is for %s %ss, this %s is of type %s", f->key, names, t->what, t->what,
		      t->types[type]);
}

static int field_read(struct build *b, const struct field *f, const struct tree_node *n, const struct where *w,
		      void *base)
{
	void *to = (char *)base + f->off;
	uint64_t v = 0;
	int r;

	if (tree_null(n) && f->may_be_empty)
		return 0;
	switch (f->kind) {
	case F_KNOWN: return 0;
	case F_BOOL: return value_bool(b, n, w, to);
	case F_U16:
		r = value_number(b, n, w, f->min, f->max, &v);
		if (r >= 0)
			*(uint16_t *)to = (uint16_t)v;
		return r;
	case F_U32:
		r = value_number(b, n, w, f->min, f->max, &v);
		if (r >= 0)
			*(uint32_t *)to = (uint32_t)v;
		return r;
	case F_TIME: return value_time(b, n, w, f->min, to);
	case F_SIZE32:
		r = value_size(b, n, w, f->min, f->max, &v);
		if (r >= 0)
			*(uint32_t *)to = (uint32_t)v;
		return r;
	case F_SIZE64: return value_size(b, n, w, f->min, f->max, to);
	case F_NAME: return value_name(b, n, w, to);
	case F_FILE: return value_file(b, n, w, to);
	case F_ENUM: return value_enum(b, n, w, f->names, to);
	case F_ADDR: return value_addr(b, n, w, to);
	case F_MAP: return schema_read(b, f->table, 0, n, w, to);
	case F_CALL: return f->call(b, n, w, to);
	}
	return 0;
}

int schema_read(struct build *b, const struct table *t, uint32_t type, const struct tree_node *n, const struct where *w,
		void *base)
{
	const struct tree_entry *e;
	const struct field *f;
	int r;

	if (n->kind != TREE_MAP)
		return say_at(b->err, n, w, "want a mapping (key: value), not %s", tree_kind_str(n));
	for (e = n->first; e; e = e->next) {
		struct where in = {.up = w, .key = e->key->text};

		f = field_find(t, e->key->text);
		if (!f)
			return key_unknown(b, t, type, e->key, w);
		if (f->types && !(f->types & (1u << type)))
			return key_elsewhere(b, t, type, f, e->key, w);
		r = field_read(b, f, e->value, &in, base);
		if (r < 0)
			return r;
	}
	for (f = t->fields; f->key; f++)
		if (f->required && (!f->types || f->types & (1u << type)) && !tree_get(n, f->key))
			return say_at(b->err, n, w, "'%s' is missing", f->key);
	return 0;
}

uint32_t schema_count(const struct tree_node *n)
{
	return n->kind == TREE_LIST ? n->n : 1;
}

int schema_list(struct build *b, const struct tree_node *n, const struct where *w, bool or_one, uint32_t max,
		schema_item *item, void *arg)
{
	const struct tree_entry *e;
	uint32_t i = 0;
	int r;

	if (n->kind != TREE_LIST && or_one && n->kind == TREE_SCALAR && !tree_null(n))
		return item(b, n, w, 0, arg);
	if (n->kind != TREE_LIST)
		return say_at(b->err, n, w, "want a list, not %s", tree_kind_str(n));
	if (n->n > max)
		return say_at(b->err, n, w, "%u entries are too many, at most %u", n->n, max);
	for (e = n->first; e; e = e->next, i++) {
		struct where in = *w;

		in.item = true;
		in.index = i;
		r = item(b, e->value, &in, i, arg);
		if (r < 0)
			return r;
	}
	return 0;
}

static int text_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	const char **all = arg;

	return value_text(b, n, w, BUILD_TEXT, &all[index]);
}

int schema_texts(struct build *b, const struct tree_node *n, const struct where *w, const char ***ret, uint32_t *ret_n)
{
	const char **all = arena_array(&b->own->arena, schema_count(n), sizeof(*all));
	int r;

	if (!all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, true, BUILD_LIST, text_item, all);
	if (r < 0)
		return r;
	*ret = all;
	*ret_n = schema_count(n);
	return 0;
}
