/* SPIFFE ids and patterns from any bytes: "pattern\nid". Patterns are compared with a matcher written for clearness. */
/* fuzz: -max_len=512 */
#include "codec/spiffe.h"
#include <stdio.h>
#include <stdlib.h>

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

/* Cut at every '/'; parts are compared from the left. */
static bool naive_segments(const char *p, const char *s)
{
	for (;;) {
		size_t pn = strcspn(p, "/"), sn = strcspn(s, "/");
		bool any = pn == 1 && *p == '*';

		if (any ? sn == 0 : pn != sn || memcmp(p, s, pn))
			return false;
		if (!p[pn] || !s[sn])
			return !p[pn] && !s[sn];
		p += pn + 1;
		s += sn + 1;
		if (!*p || !*s)
			return !*p && !*s;
	}
}

static bool naive_match(const char *p, const char *id)
{
	size_t n = strlen(p), m = strlen(id), stars = 0;

	for (size_t i = 0; i < n; i++)
		stars += p[i] == '*';
	if (!m)
		return false;
	if (!stars)
		return !strcmp(p, id);
	if (stars == 1 && p[n - 1] == '*')
		return !strncmp(p, id, n - 1);
	if (stars == 1 && p[0] == '*')
		return m >= n - 1 && !strcmp(p + 1, id + m - (n - 1));
	return naive_segments(p, id);
}

static void check_id(const char *id, size_t n)
{
	struct spiffe s;
	struct err e = {{0}};
	char pattern[600];

	if (spiffe_parse(id, n, &s, &e) < 0) {
		check(e.msg[0] && !strpbrk(e.msg, "\r\n\x1b"), "a refusal has a reason, and the text in it is quoted");
		return;
	}
	check(!memchr(id, '*', n) && !memchr(id, 0, n) && s.trust_domain.n, "ids hold no wildcard and no NUL");
	check(9 + s.trust_domain.n + (s.path.n ? 1 : 0) + s.path.n == n, "the parts are the whole");
	check(!s.ns.n == !s.sa.n, "both or none");
	snprintf(pattern, sizeof(pattern), "%.*s", (int)n, id);
	check(spiffe_match(pattern, id, n), "an id matches itself");
	snprintf(pattern, sizeof(pattern), "spiffe://%.*s/*", (int)s.trust_domain.n, s.trust_domain.p);
	check(spiffe_match(pattern, id, n) == (s.path.n > 0), "an id matches its trust domain");
	snprintf(pattern, sizeof(pattern), "spiffe://%.*s/ns/*/sa/*", (int)s.trust_domain.n, s.trust_domain.p);
	check(spiffe_match(pattern, id, n) == (s.ns.n > 0), "namespace and account are segments");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint8_t *nl = memchr(data, '\n', size);
	size_t n = nl ? (size_t)(nl - data) : 0, m = nl ? size - n - 1 : size;
	const char *id = (const char *)data + size - m;
	char pattern[513], text[513];

	memcpy(pattern, data, n);
	pattern[n] = '\0';
	memcpy(text, id, m);
	text[m] = '\0';
	if (strlen(text) == m)
		check(spiffe_match(pattern, id, m) == naive_match(pattern, text), "patterns match what they say");
	else
		(void)spiffe_match(pattern, id, m);
	check_id(id, m);
	return 0;
}
