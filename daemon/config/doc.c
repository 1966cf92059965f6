/*
 * The canonical form is block style, two blanks per level. A scalar is written as it was read: without quotes where it had none and
 * where its characters mean nothing to YAML in any place, else in double quotes with escapes. So a second reading gives the same tree and
 * the same text (the fuzzer holds us to it), and a word keeps what it meant: true stays a boolean, "true" a text.
 *
 * Documents of 10,000 policies are usual enough: each is written into one growing text, and found by halving a sorted list.
 */
#include "config/doc.h"
#include "base/clean.h"
#include "config/say.h"
#include "config/tree.h"
#include <stdlib.h>
#include <string.h>

#define DOC_MAX	  ((size_t)4 << 20) /* bytes, as for files of the configuration */
#define DOC_NAME  64u		    /* bytes of a name, as there */
#define DIFF_CELLS 250000u	    /* of the table that finds common lines */

struct doc_own {
	struct arena arena; /* file names, names, lists */
	struct text text;   /* canonical, of all */
	struct doc_own *next; /* of documents appended */
};

/* ---- writing ---- */

static bool plain_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || (c && strchr("_./+:-@", c));
}

/* means the same without quotes, wherever it stands */
static bool plain_fits(const struct tree_node *n)
{
	const char *s = n->text;

	if (!n->plain || !n->n || s[n->n - 1] == ':' || strchr(".+:@", s[0]) || (s[0] == '-' && (s[1] < '0' || s[1] > '9')))
		return false;
	for (uint32_t i = 0; i < n->n; i++)
		if (!plain_char(s[i]))
			return false;
	return true;
}

/* UTF-8 that YAML has other plans for: C1 controls (NEL among them), line and paragraph separators, the byte order mark */
static size_t odd_char(const uint8_t *s, uint32_t *ret)
{
	if (s[0] == 0xc2 && s[1] >= 0x80 && s[1] <= 0xa0) {
		*ret = s[1];
		return 2;
	}
	if ((s[0] == 0xe2 && s[1] == 0x80 && (s[2] == 0xa8 || s[2] == 0xa9)) || (s[0] == 0xef && s[1] == 0xbb && s[2] == 0xbf)) {
		*ret = (uint32_t)(s[0] & 15) << 12 | (uint32_t)(s[1] & 63) << 6 | (s[2] & 63);
		return 3;
	}
	return 0;
}

static void quoted(struct text *out, const struct tree_node *n)
{
	const uint8_t *s = (const uint8_t *)n->text, *from = s; /* NUL-terminated: looking ahead is safe */
	uint32_t c;
	size_t k;

	text_add(out, "\"");
	while (*s) {
		k = odd_char(s, &c);
		if (!k && *s >= 0x20 && *s != 0x7f && *s != '"' && *s != '\\') {
			s++;
			continue;
		}
		text_addn(out, (const char *)from, (size_t)(s - from));
		if (!k && (*s == '"' || *s == '\\'))
			text_addf(out, "\\%c", *s);
		else
			text_addf(out, "\\u%04x", k ? c : *s);
		s += k ? k : 1;
		from = s;
	}
	text_addn(out, (const char *)from, (size_t)(s - from));
	text_add(out, "\"");
}

static void scalar(struct text *out, const struct tree_node *n)
{
	if (tree_null(n))
		text_add(out, "~");
	else if (plain_fits(n))
		text_addn(out, n->text, n->n);
	else
		quoted(out, n);
}

static void blanks(struct text *out, unsigned n)
{
	text_addf(out, "%*s", (int)n, "");
}

static void list_write(struct text *out, const struct tree_node *n, unsigned in);

/* @begun: the first key's line has its indentation already, a "- " */
static void map_write(struct text *out, const struct tree_node *n, unsigned in, bool begun)
{
	for (const struct tree_entry *e = n->first; e; e = e->next) {
		if (!begun)
			blanks(out, in);
		begun = false;
		scalar(out, e->key);
		text_add(out, ":");
		if (e->value->kind == TREE_SCALAR || !e->value->n) {
			text_add(out, " ");
			if (e->value->kind == TREE_SCALAR)
				scalar(out, e->value);
			else
				text_add(out, e->value->kind == TREE_MAP ? "{}" : "[]");
			text_add(out, "\n");
		} else {
			text_add(out, "\n");
			doc_write(out, e->value, in + 2);
		}
	}
}

static void list_write(struct text *out, const struct tree_node *n, unsigned in)
{
	for (const struct tree_entry *e = n->first; e; e = e->next) {
		const struct tree_node *v = e->value;

		blanks(out, in);
		text_add(out, "-");
		if (v->kind == TREE_MAP && v->n) {
			text_add(out, " ");
			map_write(out, v, in + 2, true);
		} else if (v->kind == TREE_LIST && v->n) {
			text_add(out, "\n");
			list_write(out, v, in + 2);
		} else {
			text_add(out, " ");
			if (v->kind == TREE_SCALAR)
				scalar(out, v);
			else
				text_add(out, v->kind == TREE_MAP ? "{}" : "[]");
			text_add(out, "\n");
		}
	}
}

void doc_write(struct text *out, const struct tree_node *n, unsigned in)
{
	if (n->kind == TREE_MAP) {
		map_write(out, n, in, false);
	} else if (n->kind == TREE_LIST) {
		list_write(out, n, in);
	} else {
		blanks(out, in);
		scalar(out, n);
		text_add(out, "\n");
	}
}

void doc_put(struct text *out, const struct doc_policy *p)
{
	const char *s = p->text, *end = p->text + p->n, *nl;
	bool first = true;

	for (; s < end; s = nl + 1) {
		nl = memchr(s, '\n', (size_t)(end - s));
		if (!nl)
			nl = end - 1;
		text_add(out, first ? "  - " : "    ");
		text_addn(out, s, (size_t)(nl + 1 - s));
		first = false;
	}
}

/* ---- reading ---- */

struct reading {
	struct doc *d;
	struct doc_own *own;
	const char *file;
	uint32_t room;
	struct err *err;
};

/* *ret: the list of policies, or one policy alone, or NULL: there are none */
static int policies_of(struct reading *rd, const struct tree_node *root, enum doc_kind kind, const struct tree_node **ret)
{
	const struct tree_entry *e = tree_get(root, "policies"), *other;
	struct where w = {.key = "policies"};

	*ret = NULL;
	if (!root)
		return 0;
	if (kind == DOC_APPLY && root->kind == TREE_LIST) {
		*ret = root;
		return 0;
	}
	if (root->kind != TREE_MAP)
		return say_at(rd->err, root, NULL, "want policies: and a list of them, not %s", tree_kind_str(root));
	if (kind == DOC_APPLY && !e && tree_get(root, "name")) {
		*ret = root;
		return 0;
	}
	for (other = root->first; kind == DOC_APPLY && other; other = other->next)
		if (other != e)
			return say_at(rd->err, other->key, NULL, "'%.64s' cannot be applied: only policies can, all else is in the configuration's files",
				      other->key->text);
	rd->d->source = true;
	if (!e || tree_null(e->value))
		return 0;
	if (e->value->kind != TREE_LIST)
		return say_at(rd->err, e->value, &w, "want a list, not %s", tree_kind_str(e->value));
	*ret = e->value;
	return 0;
}

static int policy_take(struct reading *rd, const struct tree_node *n, uint32_t index)
{
	struct where w = {.key = "policies", .item = true, .index = index};
	const struct tree_entry *e = tree_get(n, "name");
	struct doc_policy *p = &rd->d->at[rd->d->n];
	size_t before = rd->own->text.len;

	if (n->kind != TREE_MAP)
		return say_at(rd->err, n, &w, "want a policy, a mapping with name, action and rules, not %s", tree_kind_str(n));
	if (!e)
		return say_at(rd->err, n, &w, "'name' is missing");
	if (e->value->kind != TREE_SCALAR || tree_null(e->value) || !e->value->n || e->value->n > DOC_NAME)
		return say_at(rd->err, e->value, &w, "name: want a name: 1 to 64 letters, digits and . _ - / : @ +");
	doc_write(&rd->own->text, n, 0);
	p->name = arena_text(&rd->own->arena, e->value->text, e->value->n);
	if (!p->name || !text_ok(&rd->own->text))
		return say_no_memory(rd->err);
	p->file = rd->file;
	p->line = n->line;
	p->n = (uint32_t)(rd->own->text.len - before);
	rd->d->n++;
	return 0;
}

static int by_name(const void *a, const void *b, void *doc)
{
	const struct doc_policy *at = ((const struct doc *)doc)->at;
	uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
	int r = strcmp(at[x].name, at[y].name);

	return r ? r : x < y ? -1 : x > y;
}

/* Return: 0 or -ENOMEM */
static int sort(struct doc *d, struct arena *a)
{
	d->sorted = arena_array(a, d->n, sizeof(*d->sorted));
	if (!d->sorted)
		return -ENOMEM;
	for (uint32_t i = 0; i < d->n; i++)
		d->sorted[i] = i;
	qsort_r(d->sorted, d->n, sizeof(*d->sorted), by_name, d);
	return 0;
}

static int names_check(struct reading *rd)
{
	const struct doc *d = rd->d;

	for (uint32_t i = 1; i < d->n; i++) {
		const struct doc_policy *first = &d->at[d->sorted[i - 1]], *second = &d->at[d->sorted[i]];

		if (!strcmp(first->name, second->name))
			return err_set(rd->err, -EINVAL, "%s:%u: policy '%s' is here twice, first at line %u", say_file(rd->file), second->line,
				       second->name, first->line);
	}
	return 0;
}

static int read_all(struct reading *rd, const struct tree_node *list)
{
	struct doc *d = rd->d;
	const struct tree_entry *e;
	const char *at;
	uint32_t i = 0;
	int r = 0;

	if (!list)
		return 0;
	d->at = arena_array(&rd->own->arena, list->kind == TREE_LIST ? list->n : 1, sizeof(*d->at));
	if (!d->at)
		return say_no_memory(rd->err);
	if (list->kind == TREE_MAP)
		r = policy_take(rd, list, 0);
	for (e = list->kind == TREE_LIST ? list->first : NULL; e && r >= 0; e = e->next)
		r = policy_take(rd, e->value, i++);
	if (r < 0)
		return r;
	at = rd->own->text.s; /* it does not move any more */
	for (i = 0; i < d->n; i++) {
		d->at[i].text = at;
		at += d->at[i].n;
	}
	return sort(d, &rd->own->arena) < 0 ? say_no_memory(rd->err) : names_check(rd);
}

int doc_parse(const char *name, const char *text, size_t n, enum doc_kind kind, struct doc *ret, struct err *reterr)
{
	struct reading rd = {.d = ret, .own = calloc(1, sizeof(*rd.own)), .err = reterr};
	const struct tree_node *list = NULL;
	struct tree_node *root = NULL;
	struct arena scratch = {NULL};
	int r;

	*ret = (struct doc){.own = rd.own};
	if (!rd.own)
		return say_no_memory(reterr);
	rd.file = arena_text(&rd.own->arena, name, strlen(name));
	if (!rd.file)
		r = say_no_memory(reterr);
	else if (n > DOC_MAX)
		r = err_set(reterr, -EFBIG, "%s: larger than 4 MiB", say_file(name));
	else
		r = tree_parse(&scratch, rd.file, text, n, &root, reterr);
	if (r >= 0)
		r = policies_of(&rd, root, kind, &list);
	if (r >= 0)
		r = read_all(&rd, list);
	arena_finish(&scratch);
	if (r < 0)
		doc_finish(ret);
	return r;
}

int doc_append(struct doc *d, const struct doc *more)
{
	struct doc_own *own = calloc(1, sizeof(*own));
	struct doc both = {.n = d->n + more->n};
	const char *file = NULL;
	uint32_t i;

	if (!own)
		return -ENOMEM;
	both.at = arena_array(&own->arena, both.n, sizeof(*both.at));
	if (!both.at)
		goto fail;
	for (i = 0; i < d->n; i++)
		both.at[i] = d->at[i];
	for (; i < both.n; i++) {
		const struct doc_policy *p = &more->at[i - d->n];

		if (!file || strcmp(file, p->file) != 0)
			file = arena_text(&own->arena, p->file, strlen(p->file));
		both.at[i] = (struct doc_policy){.name = arena_text(&own->arena, p->name, strlen(p->name)),
						 .file = file,
						 .line = p->line,
						 .text = arena_text(&own->arena, p->text, p->n),
						 .n = p->n};
		if (!file || !both.at[i].name || !both.at[i].text)
			goto fail;
	}
	if (sort(&both, &own->arena) < 0)
		goto fail;
	own->next = d->own;
	both.own = own;
	*d = both;
	return 0;
fail:
	arena_finish(&own->arena);
	free(own);
	return -ENOMEM;
}

void doc_finish(struct doc *d)
{
	struct doc_own *own = d->own, *next;

	for (; own; own = next) {
		next = own->next;
		arena_finish(&own->arena);
		text_finish(&own->text);
		free(own);
	}
	*d = (struct doc){.at = NULL};
}

uint32_t doc_find(const struct doc *d, const char *name)
{
	uint32_t low = 0, high = d->n;

	while (low < high) {
		uint32_t mid = low + (high - low) / 2;

		if (strcmp(d->at[d->sorted[mid]].name, name) < 0)
			low = mid + 1;
		else
			high = mid;
	}
	return low < d->n && !strcmp(d->at[d->sorted[low]].name, name) ? d->sorted[low] : UINT32_MAX;
}

/* ---- difference ---- */

struct line {
	const char *s;
	size_t n;
};

/* Return: how many, or -1 when memory ran out */
static int64_t lines_of(const struct doc_policy *p, struct line **ret)
{
	uint32_t n = 0, i = 0;
	const char *s, *nl;

	*ret = NULL;
	if (!p || !p->n)
		return 0;
	for (i = 0; i < p->n; i++)
		n += p->text[i] == '\n';
	*ret = calloc(n + 1, sizeof(**ret));
	if (!*ret)
		return -1;
	for (s = p->text, i = 0; i < n; i++, s = nl + 1) {
		nl = memchr(s, '\n', (size_t)(p->text + p->n - s));
		(*ret)[i] = (struct line){s, (size_t)(nl - s)};
	}
	return n;
}

static bool same(const struct line *a, const struct line *b)
{
	return a->n == b->n && !memcmp(a->s, b->s, a->n);
}

static void say(struct text *out, char sign, const struct line *l)
{
	text_addf(out, "%c ", sign);
	text_addn(out, l->s, l->n);
	text_add(out, "\n");
}

/* the longest common sequence of lines; @t[i * (nb + 1) + j]: its length from a[i] and b[j] on */
static void diff_lines(struct text *out, const struct line *a, size_t na, const struct line *b, size_t nb)
{
	AUTO_FREE uint16_t *t = (na + 1) * (nb + 1) <= DIFF_CELLS ? calloc((na + 1) * (nb + 1), sizeof(*t)) : NULL;
	size_t i = 0, j = 0, w = nb + 1;

	if (t)
		for (i = na; i-- > 0;)
			for (j = nb; j-- > 0;)
				t[i * w + j] = same(&a[i], &b[j])		   ? (uint16_t)(t[(i + 1) * w + j + 1] + 1)
					       : t[(i + 1) * w + j] >= t[i * w + j + 1] ? t[(i + 1) * w + j]
											: t[i * w + j + 1];
	for (i = j = 0; i < na || j < nb;) {
		if (t && i < na && j < nb && same(&a[i], &b[j])) {
			say(out, ' ', &a[i++]);
			j++;
		} else if (i < na && (!t || j == nb || t[(i + 1) * w + j] >= t[i * w + j + 1])) {
			say(out, '-', &a[i++]);
		} else {
			say(out, '+', &b[j++]);
		}
	}
}

void doc_diff(struct text *out, const struct doc_policy *from, const struct doc_policy *to)
{
	AUTO_FREE struct line *a = NULL;
	AUTO_FREE struct line *b = NULL;
	int64_t na = lines_of(from, &a), nb = lines_of(to, &b), head = 0, tail = 0;

	if (na < 0 || nb < 0) {
		out->failed = true;
		return;
	}
	while (head < na && head < nb && same(&a[head], &b[head]))
		say(out, ' ', &a[head++]);
	while (tail < na - head && tail < nb - head && same(&a[na - 1 - tail], &b[nb - 1 - tail]))
		tail++;
	diff_lines(out, a + head, (size_t)(na - head - tail), b + head, (size_t)(nb - head - tail));
	for (int64_t i = na - tail; i < na; i++)
		say(out, ' ', &a[i]);
}
