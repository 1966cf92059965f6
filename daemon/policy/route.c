/*
 * Routes: first match wins, conditions of one route are AND-ed, a route without conditions takes everything.
 *
 * Cheap conditions go first (port, networks, authority, headers). A header is looked up once for all the neighbouring conditions
 * that name it: the usual table is many routes over one header.
 *
 * Host names know no case, so the authority is matched in lower case, or a peer could step around a route by writing Db:5432. It
 * matches with its port or without: "db.prod:5432", "db.prod", and the suffix ".prod" all take db.prod:5432.
 *
 * Regular expressions come from the operator, the text from the peer. They must match the whole text, run in the interpreter
 * (a JIT needs memory that is writable and executable, which the service unit forbids), within MATCH_LIMIT steps and within memory on
 * the stack: no allocation, nothing kept between calls. An expression that would need more makes its condition false, also an
 * inverted one: a peer must not get into a route by tiring the matcher out.
 */
#include "policy/route.h"
#include "base/clean.h"
#include <errno.h>
#include <stdio.h>

#ifndef PCRE2_CODE_UNIT_WIDTH
#define PCRE2_CODE_UNIT_WIDTH 8
#endif
#include <pcre2.h>

#define MATCH_LIMIT	   10000u
#define REGEX_TEXT_MAX	   4096u   /* bytes of text an expression is run on */
#define REGEX_MEMORY	   327680u /* on the stack, during a match; see arena_alloc() */
#define AUTHORITY_TEXT_MAX 320u	   /* host, brackets, port */
#define JOINED_MAX	   4096u   /* a header that comes several times, joined */

enum verdict { NO, YES, TIRED };

/* ---- regular expressions */

struct arena {
	size_t used;
	_Alignas(max_align_t) char mem[REGEX_MEMORY];
};

/*
 * pcre2's frames take 20 KiB, and when they are full twice that, until they have 160 KiB: a group can repeat 500 times. What is
 * given back is not used again, which the sizes allow for. Of the stack only what was used is ever touched.
 */
static void *arena_alloc(size_t n, void *arg)
{
	struct arena *a = arg;
	void *p = a->mem + a->used;

	n = (n + _Alignof(max_align_t) - 1) & ~(_Alignof(max_align_t) - 1);
	if (n > sizeof(a->mem) - a->used)
		return NULL;
	a->used += n;
	return p;
}

static void arena_free(void *p, void *arg)
{
	(void)p;
	(void)arg;
}

static enum verdict regex_match(const pcre2_code *re, struct slice s)
{
	struct arena a;
	pcre2_general_context *g;
	pcre2_match_context *c;
	pcre2_match_data *d;
	int r;

	if (!re || s.n > REGEX_TEXT_MAX)
		return TIRED;
	a.used = 0;
	g = pcre2_general_context_create(arena_alloc, arena_free, &a);
	c = g ? pcre2_match_context_create(g) : NULL;
	d = c ? pcre2_match_data_create(1, g) : NULL;
	if (!d)
		return TIRED;
	pcre2_set_match_limit(c, MATCH_LIMIT);
	r = pcre2_match(re, (PCRE2_SPTR)(s.n ? s.p : ""), s.n, 0, 0, d, c);
	if (r >= 0)
		return YES;
	return r == PCRE2_ERROR_NOMATCH ? NO : TIRED;
}

int match_compile(struct cfg_match *m, struct err *reterr)
{
	PCRE2_UCHAR why[128];
	PCRE2_SIZE at;
	int code;

	if (m->kind != MATCH_REGEX || m->regex)
		return 0;
	m->regex = pcre2_compile((PCRE2_SPTR)m->text, PCRE2_ZERO_TERMINATED,
				 PCRE2_ANCHORED | PCRE2_ENDANCHORED | PCRE2_DOTALL | PCRE2_NEVER_UTF |
					 PCRE2_NEVER_BACKSLASH_C,
				 &code, &at, NULL);
	if (m->regex)
		return 0;
	pcre2_get_error_message(code, why, sizeof(why));
	return err_set(reterr, -EINVAL, "regex '%s': %s at offset %zu", m->text, (const char *)why, (size_t)at);
}

void match_release(struct cfg_match *m)
{
	pcre2_code_free(m->regex);
	m->regex = NULL;
}

/* ---- text */

static enum verdict text_verdict(const struct cfg_match *m, struct slice s)
{
	const char *text = m->text ? m->text : "";
	size_t n = strlen(text);

	switch (m->kind) {
	case MATCH_EXACT: return s.n == n && !memcmp(s.p, text, n) ? YES : NO;
	case MATCH_PREFIX: return s.n >= n && !memcmp(s.p, text, n) ? YES : NO;
	case MATCH_SUFFIX: return s.n >= n && !memcmp(s.p + s.n - n, text, n) ? YES : NO;
	case MATCH_REGEX: return regex_match(m->regex, s);
	case MATCH_PRESENT: return YES;
	}
	return NO;
}

bool match_text(const struct cfg_match *m, struct slice s)
{
	enum verdict v = s.p ? text_verdict(m, s) : NO;

	return v != TIRED && (v == YES) != m->invert;
}

/* ---- authority */

struct folded {
	struct slice all, host; /* p NULL: absent, or too long to be one */
	char text[AUTHORITY_TEXT_MAX];
};

static void fold(struct folded *f, struct slice s)
{
	const char *colon;

	f->all = f->host = (struct slice){NULL, 0};
	if (!s.p || s.n > sizeof(f->text))
		return;
	for (size_t i = 0; i < s.n; i++)
		f->text[i] = s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] | 0x20) : s.p[i];
	f->all = f->host = (struct slice){f->text, s.n};
	colon = memrchr(f->text, ':', s.n);
	if (colon && !memchr(colon, ']', (size_t)(f->text + s.n - colon)))
		f->host.n = (size_t)(colon - f->text);
}

static bool authority_match(const struct cfg_match *m, const struct folded *f)
{
	enum verdict v = NO;

	if (f->all.p) {
		v = text_verdict(m, f->all);
		if (v == NO)
			v = text_verdict(m, f->host);
	}
	return v != TIRED && (v == YES) != m->invert;
}

/* ---- headers */

/* The last name looked up, and what it has. */
struct lookup {
	const char *name;
	struct slice value; /* p NULL: absent */
	bool too_long;	    /* came several times, and does not fit joined */
	char joined[JOINED_MAX];
};

/* RFC 9110 5.3: a header that comes several times is one, joined by ", ". Headers come before decoded metadata. */
static void look_up(struct lookup *l, const struct route_input *in, const char *name)
{
	size_t n = strlen(name), len = 0;
	unsigned int seen = 0;
	const char *v;

	l->name = name;
	l->value = (struct slice){NULL, 0};
	l->too_long = false;
	for (size_t i = 0; i < in->n_headers; i++) {
		const struct header *h = &in->headers[i];

		if (h->name.n != n || memcmp(h->name.p, name, n))
			continue;
		if (!seen++) {
			l->value = (struct slice){h->value.p ? h->value.p : "", h->value.n};
			continue;
		}
		if (seen == 2) {
			if (l->value.n > sizeof(l->joined)) {
				l->too_long = true;
				return;
			}
			memcpy(l->joined, l->value.p, l->value.n);
			len = l->value.n;
		}
		if (h->value.n + 2 > sizeof(l->joined) - len) {
			l->too_long = true;
			return;
		}
		memcpy(l->joined + len, ", ", 2);
		if (h->value.n)
			memcpy(l->joined + len + 2, h->value.p, h->value.n);
		len += 2 + h->value.n;
		l->value = (struct slice){l->joined, len};
	}
	if (seen || !in->md)
		return;
	v = metadata_find(in->md, name);
	if (v)
		l->value = (struct slice){v, strlen(v)};
}

static bool header_match(const struct cfg_header_match *c, const struct route_input *in, struct lookup *l)
{
	if (!l->name || strcmp(l->name, c->name))
		look_up(l, in, c->name);
	return !l->too_long && match_text(&c->match, l->value);
}

/* ---- routes */

static bool networks_match(const struct cfg_route *r, const struct route_input *in)
{
	struct addr a = in->addr;

	if (a.family == AF_UNSPEC)
		return false;
	a.port = in->port;
	for (uint32_t i = 0; i < r->n_cidr; i++)
		if (cidr_has(&r->cidr[i], &a))
			return true;
	return false;
}

/* Routes from @i on, now that one has conditions; apart, so that the common case pays for none of the buffers. */
static const struct cfg_route *find_from(const struct cfg_listener *l, const struct route_input *in, uint32_t i)
{
	struct folded authority;
	struct lookup header;
	bool folded = false;

	header.name = NULL;
	for (; i < l->n_routes; i++) {
		const struct cfg_route *r = &l->routes[i];
		bool ok = true;

		if ((r->port && r->port != in->port) || (r->n_cidr && !networks_match(r, in)))
			continue;
		if (r->authority) {
			if (!folded) {
				fold(&authority, in->authority);
				folded = true;
			}
			ok = authority_match(r->authority, &authority);
		}
		for (uint32_t k = 0; ok && k < r->n_headers; k++)
			ok = header_match(&r->headers[k], in, &header);
		if (ok)
			return r;
	}
	return NULL;
}

const struct cfg_route *route_find(const struct cfg_listener *l, const struct route_input *in)
{
	const struct cfg_route *r = l->routes;

	if (!l->n_routes)
		return NULL;
	if (!r->authority && !r->n_cidr && !r->port && !r->n_headers)
		return r;
	return find_from(l, in, 0);
}

/* ---- for people */

static const char *kind_words(const struct cfg_match *m)
{
	switch (m->kind) {
	case MATCH_EXACT: return "";
	case MATCH_PREFIX: return "a beginning with ";
	case MATCH_SUFFIX: return "an end with ";
	case MATCH_REGEX: return "what matches ";
	case MATCH_PRESENT: return "any";
	}
	return "";
}

static void say_text(char out[ROUTE_WHY], const char *what, const struct cfg_match *m, struct slice has)
{
	const char *want = m->text ? m->text : "";

	if (has.p)
		snprintf(out, ROUTE_WHY, "%.64s is '%.*s'; it wants %s%s%.80s", what, (int)(has.n < 64 ? has.n : 64), has.p,
			 m->invert ? "not " : "", kind_words(m), want);
	else
		snprintf(out, ROUTE_WHY, "there is no %.64s; it wants %s%s%.80s", what, m->invert ? "not " : "", kind_words(m), want);
}

bool route_why(const struct cfg_route *r, const struct route_input *in, char out[ROUTE_WHY])
{
	struct folded authority;
	struct lookup header;

	out[0] = '\0';
	header.name = NULL;
	if (r->port && r->port != in->port) {
		snprintf(out, ROUTE_WHY, "port is %u; it wants %u", in->port, r->port);
		return false;
	}
	if (r->n_cidr && !networks_match(r, in)) {
		snprintf(out, ROUTE_WHY, in->addr.family == AF_UNSPEC ? "a name is asked for; its networks take addresses only" :
									"the address is in none of its networks");
		return false;
	}
	if (r->authority) {
		fold(&authority, in->authority);
		if (!authority_match(r->authority, &authority)) {
			say_text(out, "authority", r->authority, authority.all);
			return false;
		}
	}
	for (uint32_t k = 0; k < r->n_headers; k++)
		if (!header_match(&r->headers[k], in, &header)) {
			say_text(out, r->headers[k].name, &r->headers[k].match, header.value);
			return false;
		}
	return true;
}
