/*
 * Routes from any text, compared with an evaluator written for clearness. Lines:
 *	r		begins a route
 *	aKtext		its authority; K one of = exact, < prefix, > suffix, ~ regex, ? present; a capital A inverts
 *	hK name text	a header, the same; H inverts
 *	pNUMBER		its port
 *	cTEXT		its network
 *	@host:port	the input's authority
 *	:name text	the input's header; with $ instead it is in the metadata
 */
/* fuzz: -max_len=2048 */
#include "codec/authority.h"
#include "codec/metadata.h"
#include "policy/route.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define ROUTES	8
#define HEADERS 6
#define LINES	64

struct scene {
	struct cfg_route r[ROUTES];
	struct cfg_match authority[ROUTES];
	struct cidr net[ROUTES];
	struct cfg_header_match hm[ROUTES][HEADERS];
	struct header h[LINES], md[LINES];
	size_t n, n_h, n_md;
	struct route_input in;
	bool regex;
};

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static bool match_read(struct scene *s, struct cfg_match *m, char kind, char *text)
{
	static const char kinds[] = "=<>~?";
	const char *k = strchr(kinds, kind);
	struct err e = {{0}};

	if (!kind || !k)
		return false;
	*m = (struct cfg_match){.kind = (enum cfg_match_kind)(k - kinds), .text = kind == '?' ? NULL : text};
	if (m->kind == MATCH_REGEX && strlen(text) > 40)
		return false;
	if (match_compile(m, &e) < 0) {
		check(!m->regex && e.msg[0], "a wrong regex is explained");
		return false;
	}
	s->regex |= m->kind == MATCH_REGEX;
	return true;
}

static void header_line(struct header *list, size_t *n, char *s)
{
	size_t name = strcspn(s, " ");

	if (*n < LINES && s[name])
		list[(*n)++] = (struct header){{s, name}, {s + name + 1, strlen(s + name + 1)}};
}

static void line_read(struct scene *s, char *l)
{
	struct cfg_route *r = s->n ? &s->r[s->n - 1] : NULL;
	struct authority a;
	struct cfg_match m;
	size_t i = s->n ? s->n - 1 : 0, name;

	switch (l[0]) {
	case 'r':
		if (s->n < ROUTES) {
			s->r[s->n].headers = s->hm[s->n];
			s->n++;
		}
		return;
	case '@':
		s->in.authority = (struct slice){l + 1, strlen(l + 1)};
		if (authority_parse(l + 1, strlen(l + 1), &a, NULL) == 0) {
			s->in.addr = a.addr;
			s->in.port = a.port;
		}
		return;
	case ':': header_line(s->h, &s->n_h, l + 1); return;
	case '$': header_line(s->md, &s->n_md, l + 1); return;
	}
	if (!r)
		return;
	switch (l[0]) {
	case 'p': r->port = (uint16_t)atoi(l + 1); break;
	case 'c':
		if (cidr_parse(l + 1, strlen(l + 1), &s->net[i], NULL) == 0) {
			r->cidr = &s->net[i];
			r->n_cidr = 1;
		}
		break;
	case 'a':
	case 'A':
		if (!r->authority && match_read(s, &s->authority[i], l[1], l[1] ? l + 2 : l)) {
			r->authority = &s->authority[i];
			s->authority[i].invert = l[0] == 'A';
		}
		break;
	case 'h':
	case 'H':
		if (!l[1] || l[2] != ' ' || r->n_headers == HEADERS)
			break;
		name = strcspn(l + 3, " ");
		if (!l[3 + name] || !match_read(s, &m, l[1], l + 3 + name + 1))
			break;
		l[3 + name] = '\0';
		m.invert = l[0] == 'H';
		s->hm[i][r->n_headers++] = (struct cfg_header_match){l + 3, m};
		break;
	}
}

static bool naive_text(const struct cfg_match *m, const char *s)
{
	size_t n = strlen(s), p = m->text ? strlen(m->text) : 0;

	return m->kind == MATCH_PRESENT || (m->kind == MATCH_EXACT && !strcmp(s, m->text)) ||
	       (m->kind == MATCH_PREFIX && !strncmp(s, m->text, p)) ||
	       (m->kind == MATCH_SUFFIX && n >= p && !strcmp(s + n - p, m->text));
}

/* Return: false when there is no such header; @out: all of them, joined. */
static bool naive_header(const struct scene *s, const char *name, char *out)
{
	const char *v = metadata_find(s->in.md, name);
	bool seen = false;

	*out = '\0';
	for (size_t i = 0; i < s->n_h; i++) {
		if (s->h[i].name.n != strlen(name) || memcmp(s->h[i].name.p, name, s->h[i].name.n))
			continue;
		strcat(strncat(out, seen ? ", " : "", 2), s->h[i].value.p);
		seen = true;
	}
	if (!seen && v) {
		strcpy(out, v);
		seen = true;
	}
	return seen;
}

static bool naive_route(const struct scene *s, const struct cfg_route *r)
{
	static char text[65536];
	struct addr a = s->in.addr;
	char all[400], *colon;

	a.port = s->in.port;
	if ((r->port && r->port != s->in.port) || (r->n_cidr && (a.family == AF_UNSPEC || !cidr_has(r->cidr, &a))))
		return false;
	if (r->authority) {
		bool yes = false;

		if (s->in.authority.p && s->in.authority.n <= 320) {
			for (size_t i = 0; i <= s->in.authority.n; i++)
				all[i] = isascii(s->in.authority.p[i]) ? (char)tolower(s->in.authority.p[i])
								       : s->in.authority.p[i];
			yes = naive_text(r->authority, all);
			colon = strrchr(all, ':');
			if (colon && !strchr(colon, ']'))
				*colon = '\0';
			yes |= naive_text(r->authority, all);
		}
		if (yes == r->authority->invert)
			return false;
	}
	for (uint32_t i = 0; i < r->n_headers; i++) {
		bool there = naive_header(s, r->headers[i].name, text);

		if ((there && naive_text(&r->headers[i].match, text)) == r->headers[i].match.invert)
			return false;
	}
	return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const struct metadata_limits lim = {60000, 64};
	struct scene *s = calloc(1, sizeof(*s));
	char *text = malloc(size + 1), *rest = text, *line;
	const struct cfg_route *found, *want = NULL;
	struct cfg_listener l = {.routes = s->r};
	int err;

	memcpy(text, data, size);
	text[size] = '\0';
	for (int i = 0; i < LINES && (line = strsep(&rest, "\n")); i++)
		line_read(s, line);
	s->in.headers = s->h;
	s->in.n_headers = s->n_h;
	s->in.md = metadata_build(s->md, s->n_md, &lim, &err);
	l.n_routes = (uint32_t)s->n;
	found = route_find(&l, &s->in);
	for (size_t i = 0; i < s->n && !want; i++)
		if (naive_route(s, &s->r[i]))
			want = &s->r[i];
	check(s->regex || found == want, "the first route that matches");
	metadata_put((struct metadata *)s->in.md);
	for (size_t i = 0; i < s->n; i++) {
		match_release(&s->authority[i]);
		for (uint32_t k = 0; k < s->r[i].n_headers; k++)
			match_release(&s->hm[i][k].match);
	}
	free(text);
	free(s);
	return 0;
}
