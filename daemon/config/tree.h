/*
 * A YAML file as a tree of scalars, lists and mappings, each with its place in the file. What is legal YAML and no
 * configuration (several documents, tags, merge keys, duplicate keys, bombs) is refused here, with the place.
 */
#pragma once
#include "base/err.h"
#include "config/arena.h"
#include <stdbool.h>
#include <stdint.h>

#define TREE_DEPTH   32u     /* nesting */
#define TREE_NODES   500000u /* per file, aliases counted as often as they are used */
#define TREE_ANCHORS 256u    /* per file */
#define TREE_KEYS    256u    /* per mapping */

enum tree_kind { TREE_SCALAR, TREE_LIST, TREE_MAP };

struct tree_entry {
	struct tree_node *key; /* a scalar; NULL in lists */
	struct tree_node *value;
	struct tree_entry *next;
};

struct tree_node {
	enum tree_kind kind;
	const char *file;
	uint32_t line, col; /* from 1; columns count characters */
	bool plain;	    /* scalar without quotes */
	bool open;	    /* while parsing: its end was not seen yet */
	uint32_t weight;    /* nodes in it, aliases expanded */
	uint32_t n;	    /* bytes of text, or entries */
	const char *text;   /* scalar: valid UTF-8, NUL-terminated, no NUL inside */
	struct tree_entry *first, **last;
};

/**
 * tree_parse() - @a owns the tree; @file is kept, not copied
 * Return: 0 and *ret (NULL: nothing in the file), or -EINVAL, -ENOMEM with the sentence.
 */
int tree_parse(struct arena *a, const char *file, const char *text, size_t n, struct tree_node **ret,
	       struct err *reterr);
/** tree_get() - Return: the entry of @key in a mapping, or NULL (also when @map is NULL or no mapping). */
const struct tree_entry *tree_get(const struct tree_node *map, const char *key);
/** tree_null() - nothing, ~ or null without quotes */
bool tree_null(const struct tree_node *n);
/** tree_kind_str() - "a list", ... for messages */
const char *tree_kind_str(const struct tree_node *n);
