/*
 * Parts: the merged tree, flattened to (section, name, key) with a hash of what stands there. Two configurations are compared by walking
 * two sorted lists.
 */
#include "config/parts.h"
#include "base/clean.h"
#include "config/build.h"
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

static uint64_t mix(uint64_t h, uint64_t more)
{
	return XXH3_64bits_withSeed(&more, sizeof(more), h);
}

static uint64_t tree_hash(const struct tree_node *n)
{
	uint64_t h;

	if (!n)
		return 0;
	if (n->kind == TREE_SCALAR)
		return XXH3_64bits_withSeed(n->text, n->n, 1u + n->plain);
	h = n->kind == TREE_LIST ? 3 : 4;
	for (const struct tree_entry *e = n->first; e; e = e->next)
		h = mix(mix(h, tree_hash(e->key)), tree_hash(e->value));
	return h;
}

static const char *name_of(const struct tree_node *item)
{
	const struct tree_entry *e = tree_get(item, "name");

	return e && e->value->kind == TREE_SCALAR ? e->value->text : "";
}

static int compare_text(const char *a, const char *b)
{
	return !a || !b ? (a != NULL) - (b != NULL) : strcmp(a, b);
}

static int compare_item(const struct cfg_part *a, const struct cfg_part *b)
{
	int r = strcmp(a->section, b->section);

	return r ? r : compare_text(a->name, b->name);
}

static int compare(const void *x, const void *y)
{
	const struct cfg_part *a = x, *b = y;
	int r = compare_item(a, b);

	return r ? r : compare_text(a->key, b->key);
}

/* the first of them that matches wins */
static uint64_t names_hash(const struct tree_node *list)
{
	uint64_t h = 0;

	for (const struct tree_entry *i = list->first; i; i = i->next)
		h = XXH3_64bits_withSeed(name_of(i->value), strlen(name_of(i->value)), h);
	return h;
}

static bool is_list_of_maps(const struct tree_node *n)
{
	return n->kind == TREE_LIST && n->first && n->first->value->kind == TREE_MAP;
}

/* @out NULL: only count */
static uint32_t flatten(struct build *b, const struct tree_node *root, struct cfg_part *out)
{
	uint32_t n = 0;

	for (const struct tree_entry *s = root->first; s; s = s->next) {
		const char *section = s->key->text;

		if (!is_list_of_maps(s->value)) {
			if (out)
				out[n] = (struct cfg_part){.section = section, .hash = tree_hash(s->value)};
			n++;
			continue;
		}
		for (const struct tree_entry *i = s->value->first; i; i = i->next)
			for (const struct tree_entry *k = i->value->first; k && i->value->kind == TREE_MAP; k = k->next, n++)
				if (out)
					out[n] = (struct cfg_part){section, name_of(i->value), k->key->text, tree_hash(k->value)};
		if (strcmp(section, "workloads") != 0)
			continue;
		if (out)
			out[n] = (struct cfg_part){section, NULL, "order", names_hash(s->value)};
		n++;
	}
	(void)b;
	return n;
}

/* the tree does not outlive the build; neighbours have most of their texts in common. @was: the one before as it was */
static int keep(struct build *b, struct cfg_part *x, struct cfg_part *was, const struct cfg_part *before)
{
	struct arena *a = &b->own->arena;
	struct cfg_part tree = *x;

	x->section = before && was->section == tree.section ? before->section : arena_text(a, x->section, strlen(x->section));
	if (x->name)
		x->name = before && was->name == tree.name ? before->name : arena_text(a, x->name, strlen(x->name));
	if (x->key)
		x->key = arena_text(a, x->key, strlen(x->key));
	*was = tree;
	return x->section && (!tree.name || x->name) && (!tree.key || x->key) ? 0 : -ENOMEM;
}

int parts_build(struct build *b)
{
	struct cfg_parts *p = arena_alloc(&b->own->arena, sizeof(*p));
	struct cfg_part was = {.section = NULL};
	uint32_t n = flatten(b, b->root, NULL);

	if (!p)
		return say_no_memory(b->err);
	p->at = arena_array(&b->own->arena, n + 1u, sizeof(*p->at));
	if (!p->at)
		return say_no_memory(b->err);
	p->n = flatten(b, b->root, p->at);
	for (uint32_t i = 0; i < n; i++)
		if (keep(b, &p->at[i], &was, i ? &p->at[i - 1] : NULL) < 0)
			return say_no_memory(b->err);
	qsort(p->at, p->n, sizeof(*p->at), compare);
	b->c->parts = p;
	return 0;
}

/* one past the last part of the item that begins at @i */
static uint32_t item_end(const struct cfg_parts *p, uint32_t i)
{
	uint32_t k = i;

	while (k < p->n && !compare_item(&p->at[i], &p->at[k]))
		k++;
	return k;
}

/* the keys in which two items differ. Return: false if none. */
static bool keys_differ(const struct cfg_part *a, uint32_t n, const struct cfg_part *b, uint32_t m, struct text *keys)
{
	bool any = false;

	for (uint32_t i = 0, k = 0; i < n || k < m;) {
		int r = i == n ? 1 : k == m ? -1 : compare_text(a[i].key, b[k].key);
		const char *key = r > 0 ? b[k].key : a[i].key;

		if (r || a[i].hash != b[k].hash) {
			any = true;
			if (key)
				text_addf(keys, "%s%s", keys->len ? ", " : "", key);
		}
		i += r <= 0;
		k += r >= 0;
	}
	return any;
}

uint32_t config_diff(const struct config *old, const struct config *new_,
		     void (*said)(void *arg, enum part_change what, const char *section, const char *name, const char *keys), void *arg)
{
	const struct cfg_parts *a = old->parts, *b = new_->parts;
	uint32_t found = 0;

	for (uint32_t i = 0, k = 0; i < a->n || k < b->n;) {
		int r = i == a->n ? 1 : k == b->n ? -1 : compare_item(&a->at[i], &b->at[k]);
		const struct cfg_part *x = r > 0 ? &b->at[k] : &a->at[i];
		uint32_t i2 = r <= 0 ? item_end(a, i) : i, k2 = r >= 0 ? item_end(b, k) : k;
		struct text keys = {.s = NULL};

		if (r || keys_differ(a->at + i, i2 - i, b->at + k, k2 - k, &keys)) {
			found++;
			said(arg, r < 0 ? PART_REMOVED : r > 0 ? PART_ADDED : PART_CHANGED, x->section, x->name, keys.len ? keys.s : "");
		}
		text_finish(&keys);
		i = i2;
		k = k2;
	}
	return found;
}
