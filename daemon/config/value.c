/*
 * Scalars. YAML's own typing is not used: every key knows what it wants, and says so when it gets something else. So 0660,
 * "0660" and 1h mean the same quoted or not, and "no" is never silently a boolean.
 */
#include "codec/spiffe.h"
#include "config/build.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int bad(struct build *b, const struct tree_node *n, const struct where *w, const char *want)
{
	char q[SAY_QUOTED];

	return say_at(b->err, n, w, "%s: want %s", say_quote(q, n->text, n->n), want);
}

/* any scalar that has a value */
static int scalar(struct build *b, const struct tree_node *n, const struct where *w, const char *want)
{
	if (n->kind != TREE_SCALAR)
		return say_at(b->err, n, w, "want %s, not %s", want, tree_kind_str(n));
	if (tree_null(n))
		return say_at(b->err, n, w, "has no value: want %s", want);
	return 0;
}

int value_text(struct build *b, const struct tree_node *n, const struct where *w, size_t max, const char **ret)
{
	int r = scalar(b, n, w, "a text");
	uint32_t i;

	if (r < 0)
		return r;
	if (!n->n)
		return say_at(b->err, n, w, "is empty");
	if (n->n > max)
		return say_at(b->err, n, w, "%u bytes are too many, at most %zu", n->n, max);
	for (i = 0; i < n->n; i++)
		if ((uint8_t)n->text[i] < 0x20 || n->text[i] == 0x7f)
			return bad(b, n, w, "a text without control characters");
	*ret = arena_text(&b->own->arena, n->text, n->n);
	return *ret ? 0 : say_no_memory(b->err);
}

int value_name(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	int r = scalar(b, n, w, "a name");
	uint32_t i;

	if (r < 0)
		return r;
	for (i = 0; i < n->n; i++)
		if (!isalnum((uint8_t)n->text[i]) && !strchr("._-/:@+", n->text[i]))
			break;
	if (!n->n || n->n > BUILD_NAME || i < n->n)
		return bad(b, n, w, "a name: 1 to 64 letters, digits and . _ - / : @ +");
	*ret = arena_text(&b->own->arena, n->text, n->n);
	return *ret ? 0 : say_no_memory(b->err);
}

int value_bool(struct build *b, const struct tree_node *n, const struct where *w, bool *ret)
{
	int r = scalar(b, n, w, "true or false");

	if (r < 0)
		return r;
	if (strcmp(n->text, "true") && strcmp(n->text, "false"))
		return bad(b, n, w, "true or false");
	*ret = n->text[0] == 't';
	return 0;
}

/* digits; Return: what follows them, or NULL when there are none or they overflow */
static const char *digits(const char *s, uint64_t *ret)
{
	uint64_t v = 0;
	const char *p;

	for (p = s; *p >= '0' && *p <= '9'; p++)
		if (__builtin_mul_overflow(v, 10u, &v) || __builtin_add_overflow(v, (uint64_t)(*p - '0'), &v))
			return NULL;
	*ret = v;
	return p == s ? NULL : p;
}

int value_number(struct build *b, const struct tree_node *n, const struct where *w, uint64_t min, uint64_t max,
		 uint64_t *ret)
{
	const char *end;
	char want[96];
	uint64_t v = 0;
	int r;

	snprintf(want, sizeof(want), "a whole number from %llu to %llu", (unsigned long long)min,
		 (unsigned long long)max);
	r = scalar(b, n, w, want);
	if (r < 0)
		return r;
	end = digits(n->text, &v);
	if (!end || *end || v < min || v > max)
		return bad(b, n, w, want);
	*ret = v;
	return 0;
}

/* number and unit; @units ends with a NULL name */
struct unit {
	const char *name;
	uint64_t factor;
};

static const struct unit *unit_find(const struct unit *u, const char *name)
{
	for (; u->name; u++)
		if (!strcmp(u->name, name))
			return u;
	return NULL;
}

static const struct unit times[] = {{"ms", 1}, {"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}, {NULL, 0}};
static const struct unit sizes[] = {{"", 1}, {"KiB", 1 << 10}, {"MiB", 1 << 20}, {"GiB", 1 << 30}, {NULL, 0}};

#define TIME_MAX  (365ull * 86400000)
#define TIME_WANT "a time like 500ms, 10s, 5m, 1h or 2d"

int value_time(struct build *b, const struct tree_node *n, const struct where *w, uint64_t min_ms, uint64_t *ret_ms)
{
	int r = scalar(b, n, w, TIME_WANT);
	const struct unit *u;
	char q[SAY_QUOTED];
	const char *end;
	uint64_t v = 0;

	if (r < 0)
		return r;
	end = digits(n->text, &v);
	if (!end)
		return bad(b, n, w, TIME_WANT);
	if (!*end && v)
		return say_at(b->err, n, w, "%s has no unit: write %llums or %llus", say_quote(q, n->text, n->n),
			      (unsigned long long)v, (unsigned long long)v);
	u = *end ? unit_find(times, end) : times;
	if (!u)
		return bad(b, n, w, TIME_WANT);
	if (__builtin_mul_overflow(v, u->factor, &v) || v > TIME_MAX)
		return bad(b, n, w, "365d or less");
	if (v < min_ms)
		return bad(b, n, w, "more than 0: this time limit cannot be switched off");
	*ret_ms = v;
	return 0;
}

static void size_str(char *out, size_t n, uint64_t v)
{
	size_t i;

	for (i = 3; i && (v < sizes[i].factor || v % sizes[i].factor); i--)
		;
	snprintf(out, n, "%llu%s", (unsigned long long)(v / sizes[i].factor), sizes[i].name);
}

int value_size(struct build *b, const struct tree_node *n, const struct where *w, uint64_t min, uint64_t max,
	       uint64_t *ret)
{
	const struct unit *u = NULL;
	char lo[32], hi[32], want[160];
	const char *end;
	uint64_t v = 0;
	int r;

	size_str(lo, sizeof(lo), min);
	size_str(hi, sizeof(hi), max);
	snprintf(want, sizeof(want), "bytes from %s to %s, as 65536, 64KiB, 1MiB or 2GiB", lo, hi);
	r = scalar(b, n, w, want);
	if (r < 0)
		return r;
	end = digits(n->text, &v);
	if (end)
		u = unit_find(sizes, end);
	if (!u || __builtin_mul_overflow(v, u->factor, &v) || v < min || v > max)
		return bad(b, n, w, want);
	*ret = v;
	return 0;
}

int value_enum(struct build *b, const struct tree_node *n, const struct where *w, const char *const *names,
	       uint32_t *ret)
{
	char want[160], q[SAY_QUOTED], guess[80];
	struct guess g;
	size_t at = 0;
	uint32_t i;
	int r;

	for (i = 0; names[i]; i++)
		at += (size_t)snprintf(want + at, sizeof(want) - at, "%s%s",
				       !i	      ? ""
				       : names[i + 1] ? ", "
						      : " or ",
				       names[i]);
	r = scalar(b, n, w, want);
	if (r < 0)
		return r;
	guess_begin(&g, n->text);
	for (i = 0; names[i]; i++) {
		if (!strcmp(names[i], n->text)) {
			*ret = i;
			return 0;
		}
		guess_try(&g, names[i]);
	}
	return say_at(b->err, n, w, "%s: want %s%s", say_quote(q, n->text, n->n), want,
		      guess_text(&g, guess, sizeof(guess)));
}

int value_file(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	const char *name;
	size_t dir = strlen(b->dir), len;
	char *all;
	int r = value_text(b, n, w, 4095, &name);

	if (r < 0)
		return r;
	if (name[0] == '/' || !dir) {
		*ret = name;
		return 0;
	}
	len = strlen(name);
	if (dir + len > 4095)
		return say_at(b->err, n, w, "file name too long");
	all = arena_alloc(&b->own->arena, dir + len + 1);
	if (!all)
		return say_no_memory(b->err);
	memcpy(all, b->dir, dir);
	memcpy(all + dir, name, len);
	*ret = all;
	return 0;
}

int value_addr(struct build *b, const struct tree_node *n, const struct where *w, struct addr *ret)
{
	int r = scalar(b, n, w, "IP:PORT, or [IPv6]:PORT");
	struct err why = {""};
	struct addr a;
	char q[SAY_QUOTED];

	if (r < 0)
		return r;
	if (addr_parse(n->text, n->n, &a, &why) < 0)
		return say_at(b->err, n, w, "%s", why.msg);
	if (!a.port)
		return say_at(b->err, n, w, "%s: want a port from 1 to 65535", say_quote(q, n->text, n->n));
	*ret = a;
	return 0;
}

/* what spiffe_match() understands: an id, one * at either end, or * as whole segments */
static bool spiffe_pattern(const char *s, size_t n)
{
	const char *star = strchr(s, '*');

	if (!strchr(star + 1, '*') && (star == s || (star == s + n - 1 && !strncmp(s, "spiffe://", 9))))
		return true;
	if (strncmp(s, "spiffe://", 9) != 0)
		return false;
	for (; star; star = strchr(star + 1, '*'))
		if (star[-1] != '/' || (star[1] && star[1] != '/'))
			return false;
	return true;
}

int value_spiffe(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	int r = value_text(b, n, w, SPIFFE_MAX, ret);
	struct err why = {""};
	struct spiffe id;

	if (r < 0)
		return r;
	if (strchr(n->text, '*'))
		return spiffe_pattern(n->text, n->n)
			       ? 0
			       : bad(b, n, w,
				     "a SPIFFE id with one * at its beginning or end, or with * as whole segments");
	if (spiffe_parse(n->text, n->n, &id, &why) < 0)
		return say_at(b->err, n, w, "%s", why.msg);
	return 0;
}
