/*
 * libyaml's events -> tree. The text is checked first (UTF-8, no control characters), because libyaml reports such bytes
 * without line and column. Aliases share the node of their anchor; what they would expand to is counted in tree_node.weight, so
 * that nine lines of "*a, *a, *a" end here and not in an allocator. A stack of open collections replaces recursion.
 */
#include "config/tree.h"
#include "base/clean.h"
#include "config/say.h"
#include <string.h>
#include <yaml.h>

struct anchor {
	const char *name;
	struct tree_node *node;
};

struct parse {
	struct arena *arena;
	const char *file, *text;
	size_t n;
	struct err *err;
	yaml_parser_t yaml;
	struct tree_node *root;
	struct tree_node *stack[TREE_DEPTH];
	struct tree_node *key[TREE_DEPTH]; /* mappings: the key that waits for its value */
	uint32_t depth, documents, n_anchors;
	struct anchor anchor[TREE_ANCHORS];
};

/* ---- the text itself ---- */

/* one character; Return: its bytes, or 0 for what is not UTF-8 */
static size_t utf8_next(const uint8_t *p, size_t n, uint32_t *ret)
{
	static const uint32_t least[5] = {0, 0, 0x80, 0x800, 0x10000};
	size_t len = p[0] < 0x80	     ? 1
		     : (p[0] & 0xe0) == 0xc0 ? 2
		     : (p[0] & 0xf0) == 0xe0 ? 3
		     : (p[0] & 0xf8) == 0xf0 ? 4
					     : 0,
	       i;
	uint32_t c;

	if (!len || len > n)
		return 0;
	c = len == 1 ? p[0] : p[0] & (0x7fu >> len);
	for (i = 1; i < len; i++) {
		if ((p[i] & 0xc0) != 0x80)
			return 0;
		c = c << 6 | (p[i] & 0x3f);
	}
	if (c < least[len] || c > 0x10ffff || (c >= 0xd800 && c <= 0xdfff))
		return 0;
	*ret = c;
	return len;
}

static bool printable(uint32_t c)
{
	return c == '\t' || c == '\n' || c == '\r' || (c >= 0x20 && c <= 0x7e) || c == 0x85 ||
	       (c >= 0xa0 && c != 0xfffe && c != 0xffff);
}

static int text_check(struct parse *p)
{
	const uint8_t *s = (const uint8_t *)p->text;
	uint32_t line = 1, col = 1, c = 0;
	size_t at = 0, len;

	while (at < p->n) {
		len = utf8_next(s + at, p->n - at, &c);
		if (!len)
			return err_set(p->err, -EINVAL, "%s:%u:%u: byte 0x%02x is not UTF-8 text", say_file(p->file),
				       line, col, s[at]);
		if (!printable(c))
			return err_set(p->err, -EINVAL, "%s:%u:%u: control character 0x%02x is not allowed",
				       say_file(p->file), line, col, c);
		at += len;
		if (c == '\n') {
			line++;
			col = 1;
		} else {
			col++;
		}
	}
	return 0;
}

/* ---- errors ---- */

/* the text of a line, from 0 on; "" when there is none */
static void line_text(const struct parse *p, size_t line, char *out, size_t room)
{
	const char *s = p->text, *end = p->text + p->n, *stop;
	size_t n;

	while (line-- && s) {
		s = memchr(s, '\n', (size_t)(end - s));
		s = s ? s + 1 : NULL;
	}
	stop = s ? memchr(s, '\n', (size_t)(end - s)) : NULL;
	n = !s ? 0 : stop ? (size_t)(stop - s) : (size_t)(end - s);
	n = n < room ? n : room - 1;
	if (n)
		memcpy(out, s, n);
	out[n] = 0;
}

/* the mistakes that everyone makes once, in words that help; NULL: libyaml's words must do */
static const char *yaml_hint(const struct parse *p)
{
	const char *context = p->yaml.context ? p->yaml.context : "";
	char line[512];

	line_text(p, p->yaml.problem_mark.line, line, sizeof(line));
	if (p->yaml.error == YAML_SCANNER_ERROR && line[strspn(line, " ")] == '\t')
		return "a tab cannot indent YAML, use spaces";
	if (strstr(context, "scanning an alias"))
		return "a text that begins with * must be quoted, like \"*\"";
	if (strstr(context, "parsing a flow node") && strstr(line, "[:"))
		return "a text with brackets must be quoted, like \"[::1]:80\"";
	return NULL;
}

static int yaml_failed(const struct parse *p)
{
	const yaml_parser_t *y = &p->yaml;
	const char *what = yaml_hint(p), *context = what ? NULL : y->context;
	size_t line = y->problem_mark.line;

	if (y->error == YAML_MEMORY_ERROR)
		return err_set(p->err, -ENOMEM, "%s: out of memory", say_file(p->file));
	if (!what)
		what = y->problem ? y->problem : "not YAML";
	if (context && y->context_mark.line != line)
		return err_set(p->err, -EINVAL, "%s:%zu:%zu: %s (%s that begins at line %zu)", say_file(p->file),
			       line + 1, y->problem_mark.column + 1, what, context, y->context_mark.line + 1);
	return err_set(p->err, -EINVAL, "%s:%zu:%zu: %s%s%s", say_file(p->file), line + 1, y->problem_mark.column + 1,
		       what, context ? " " : "", context ? context : "");
}

static int wrong(const struct parse *p, yaml_mark_t at, const char *sentence)
{
	return err_set(p->err, -EINVAL, "%s:%zu:%zu: %s", say_file(p->file), at.line + 1, at.column + 1, sentence);
}

static int no_memory(const struct parse *p)
{
	return err_set(p->err, -ENOMEM, "%s: out of memory", say_file(p->file));
}

/* ---- building ---- */

static int add_key(struct parse *p, struct tree_node *map, struct tree_node *key, yaml_mark_t at)
{
	const struct tree_entry *twice;
	char q[SAY_QUOTED];

	if (key->kind != TREE_SCALAR || tree_null(key))
		return wrong(p, at, "a key must be a word");
	if (key->plain && !strcmp(key->text, "<<"))
		return wrong(p, at, "merge keys (<<) are not supported, name the anchor's values one by one");
	if (map->n == TREE_KEYS)
		return wrong(p, at, "more than 256 keys in one mapping");
	twice = tree_get(map, key->text);
	if (twice)
		return err_set(p->err, -EINVAL, "%s:%zu:%zu: key %s is here twice, first at line %u", say_file(p->file),
			       at.line + 1, at.column + 1, say_quote(q, key->text, key->n), twice->key->line);
	p->key[p->depth - 1] = key;
	return 0;
}

/* put a finished or just opened node where it belongs */
static int add(struct parse *p, struct tree_node *n, yaml_mark_t at)
{
	struct tree_node *up = p->depth ? p->stack[p->depth - 1] : NULL;
	struct tree_entry *e;

	if (!up) {
		p->root = n;
		return 0;
	}
	if (up->kind == TREE_MAP && !p->key[p->depth - 1])
		return add_key(p, up, n, at);
	e = arena_alloc(p->arena, sizeof(*e));
	if (!e)
		return no_memory(p);
	e->key = up->kind == TREE_MAP ? TAKE(p->key[p->depth - 1]) : NULL;
	e->value = n;
	*up->last = e;
	up->last = &e->next;
	up->n++;
	return 0;
}

static int weigh(struct parse *p, uint32_t more, yaml_mark_t at)
{
	uint32_t i;

	/* every open collection holds it; the outermost one is the heaviest */
	for (i = 0; i < p->depth; i++) {
		p->stack[i]->weight += more;
		if (p->stack[i]->weight > TREE_NODES)
			return wrong(p, at,
				     "too large: more than 500000 values, aliases counted as often as they are used");
	}
	return 0;
}

static int anchor_add(struct parse *p, const yaml_char_t *name, struct tree_node *n, yaml_mark_t at)
{
	struct anchor *a;

	if (!name)
		return 0;
	if (p->n_anchors == TREE_ANCHORS)
		return wrong(p, at, "more than 256 anchors");
	a = &p->anchor[p->n_anchors];
	a->name = arena_text(p->arena, (const char *)name, strlen((const char *)name));
	if (!a->name)
		return no_memory(p);
	a->node = n;
	p->n_anchors++;
	return 0;
}

static int node_add(struct parse *p, enum tree_kind kind, const yaml_event_t *ev, const yaml_char_t *anchor,
		    const yaml_char_t *tag, struct tree_node **ret)
{
	struct tree_node *n;
	int r;

	if (tag)
		return wrong(p, ev->start_mark, "tags (!...) are not supported");
	if (kind != TREE_SCALAR && p->depth == TREE_DEPTH)
		return wrong(p, ev->start_mark, "nested deeper than 32 levels");
	n = arena_alloc(p->arena, sizeof(*n));
	if (!n)
		return no_memory(p);
	n->kind = kind;
	n->file = p->file;
	n->line = (uint32_t)ev->start_mark.line + 1;
	n->col = (uint32_t)ev->start_mark.column + 1;
	n->weight = 1;
	n->last = &n->first;
	*ret = n;
	r = weigh(p, 1, ev->start_mark);
	return r < 0 ? r : anchor_add(p, anchor, n, ev->start_mark);
}

static int scalar(struct parse *p, const yaml_event_t *ev)
{
	const char *s = (const char *)ev->data.scalar.value;
	size_t len = ev->data.scalar.length;
	struct tree_node *n;
	int r;

	if (memchr(s, 0, len))
		return wrong(p, ev->start_mark, "a NUL character (\\0) is not allowed");
	r = node_add(p, TREE_SCALAR, ev, ev->data.scalar.anchor, ev->data.scalar.tag, &n);
	if (r < 0)
		return r;
	n->plain = ev->data.scalar.style == YAML_PLAIN_SCALAR_STYLE;
	n->n = (uint32_t)len;
	n->text = arena_text(p->arena, s, len);
	return n->text ? add(p, n, ev->start_mark) : no_memory(p);
}

static int collection(struct parse *p, enum tree_kind kind, const yaml_event_t *ev)
{
	bool map = kind == TREE_MAP;
	struct tree_node *n;
	int r = node_add(p, kind, ev, map ? ev->data.mapping_start.anchor : ev->data.sequence_start.anchor,
			 map ? ev->data.mapping_start.tag : ev->data.sequence_start.tag, &n);

	if (r < 0)
		return r;
	r = add(p, n, ev->start_mark);
	if (r < 0)
		return r;
	n->open = true;
	p->key[p->depth] = NULL;
	p->stack[p->depth++] = n;
	return 0;
}

static int alias(struct parse *p, const yaml_event_t *ev)
{
	const char *name = (const char *)ev->data.alias.anchor;
	uint32_t i = p->n_anchors;
	char q[SAY_QUOTED];
	int r;

	while (i-- && strcmp(p->anchor[i].name, name))
		;
	if (i == UINT32_MAX)
		return err_set(p->err, -EINVAL, "%s:%zu:%zu: there is no anchor %s before this alias",
			       say_file(p->file), ev->start_mark.line + 1, ev->start_mark.column + 1,
			       say_quote(q, name, strlen(name)));
	if (p->anchor[i].node->open)
		return wrong(p, ev->start_mark, "this alias stands inside its own anchor");
	r = weigh(p, p->anchor[i].node->weight, ev->start_mark);
	return r < 0 ? r : add(p, p->anchor[i].node, ev->start_mark);
}

static int event(struct parse *p, const yaml_event_t *ev)
{
	switch (ev->type) {
	case YAML_SCALAR_EVENT: return scalar(p, ev);
	case YAML_SEQUENCE_START_EVENT: return collection(p, TREE_LIST, ev);
	case YAML_MAPPING_START_EVENT: return collection(p, TREE_MAP, ev);
	case YAML_ALIAS_EVENT: return alias(p, ev);
	case YAML_SEQUENCE_END_EVENT:
	case YAML_MAPPING_END_EVENT: p->stack[--p->depth]->open = false; return 0;
	case YAML_DOCUMENT_START_EVENT:
		if (p->documents++)
			return wrong(p, ev->start_mark, "a second document (---) is not allowed");
		return 0;
	case YAML_NO_EVENT:
	case YAML_STREAM_START_EVENT:
	case YAML_STREAM_END_EVENT:
	case YAML_DOCUMENT_END_EVENT: return 0;
	}
	return 0;
}

static int events(struct parse *p)
{
	bool end = false;
	yaml_event_t ev;
	int r = 0;

	while (!end && r >= 0) {
		if (!yaml_parser_parse(&p->yaml, &ev))
			return yaml_failed(p);
		end = ev.type == YAML_STREAM_END_EVENT;
		r = event(p, &ev);
		yaml_event_delete(&ev);
	}
	return r;
}

int tree_parse(struct arena *a, const char *file, const char *text, size_t n, struct tree_node **ret,
	       struct err *reterr)
{
	AUTO_FREE struct parse *p = calloc(1, sizeof(*p));
	int r;

	if (!p)
		return err_set(reterr, -ENOMEM, "%s: out of memory", say_file(file));
	*p = (struct parse){.arena = a, .file = file, .text = text, .n = n, .err = reterr};
	r = text_check(p);
	if (r < 0)
		return r;
	if (!yaml_parser_initialize(&p->yaml))
		return no_memory(p);
	yaml_parser_set_encoding(&p->yaml, YAML_UTF8_ENCODING);
	yaml_parser_set_input_string(&p->yaml, (const unsigned char *)text, n);
	r = events(p);
	yaml_parser_delete(&p->yaml);
	if (r < 0)
		return r;
	*ret = p->root && tree_null(p->root) ? NULL : p->root;
	return 0;
}

const struct tree_entry *tree_get(const struct tree_node *map, const char *key)
{
	const struct tree_entry *e;

	if (!map || map->kind != TREE_MAP)
		return NULL;
	for (e = map->first; e; e = e->next)
		if (!strcmp(e->key->text, key))
			return e;
	return NULL;
}

bool tree_null(const struct tree_node *n)
{
	return n->kind == TREE_SCALAR && n->plain && (!n->n || !strcmp(n->text, "~") || !strcasecmp(n->text, "null"));
}

const char *tree_kind_str(const struct tree_node *n)
{
	switch (n->kind) {
	case TREE_SCALAR: return tree_null(n) ? "nothing" : "a single value";
	case TREE_LIST: return "a list";
	case TREE_MAP: return "a mapping";
	}
	return "?";
}
