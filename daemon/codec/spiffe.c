/*
 * SPIFFE ids: spiffe://TRUST-DOMAIN/SEGMENT/SEGMENT..., checked by the character, so that two ids are the same if and only if
 * their bytes are, and patterns over them as configuration writes them.
 */
#include "codec/spiffe.h"
#include "base/log.h"

#define SCHEME		 "spiffe://"
#define TRUST_DOMAIN_MAX 255u

static int refuse(struct err *e, struct slice id, const char *why)
{
	char quoted[160];

	return e ? err_set(e, -EINVAL, "SPIFFE id %s: %s", log_quote(quoted, sizeof(quoted), id.p, id.n), why)
		 : -EINVAL;
}

static bool domain_char(char c)
{
	return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '.' || c == '-' || c == '_';
}

static bool segment_char(char c)
{
	return domain_char(c) || (c >= 'A' && c <= 'Z');
}

/* Take up to the next '/', and that, too. Return: true if there was one: another segment follows, if an empty one. */
static bool segment_take(struct slice *s, struct slice *ret)
{
	const char *slash = s->n ? memchr(s->p, '/', s->n) : NULL;
	size_t n = slash ? (size_t)(slash - s->p) : s->n;

	*ret = (struct slice){s->p, n};
	n += slash != NULL;
	s->p += n;
	s->n -= n;
	return slash;
}

/* Return: NULL, or what is wrong; @seg gets the first four segments, *ret_n how many there are. */
static const char *path_check(struct slice path, struct slice seg[4], size_t *ret_n)
{
	size_t n = 0;
	bool more = true;

	while (more) {
		struct slice s;

		more = segment_take(&path, &s);
		if (!s.n)
			return "empty path segment";
		if (slice_is(s, ".") || slice_is(s, ".."))
			return "path segment '.' or '..'";
		for (size_t i = 0; i < s.n; i++)
			if (!segment_char(s.p[i]))
				return "character not allowed in path";
		if (n < 4)
			seg[n] = s;
		n++;
	}
	*ret_n = n;
	return NULL;
}

int spiffe_parse(const char *s, size_t n, struct spiffe *ret, struct err *reterr)
{
	const size_t scheme = sizeof(SCHEME) - 1;
	struct slice all = {s, n}, rest, seg[4] = {0};
	struct spiffe id = {0};
	const char *why;
	size_t segs = 0;
	bool has_path;

	if (n > SPIFFE_MAX)
		return refuse(reterr, all, "longer than 2048 bytes");
	if (n < scheme || memcmp(s, SCHEME, scheme))
		return refuse(reterr, all, "does not begin with spiffe://");
	rest = (struct slice){s + scheme, n - scheme};
	has_path = segment_take(&rest, &id.trust_domain);
	if (!id.trust_domain.n || id.trust_domain.n > TRUST_DOMAIN_MAX)
		return refuse(reterr, all, "trust domain of 1 to 255 bytes wanted");
	for (size_t i = 0; i < id.trust_domain.n; i++)
		if (!domain_char(id.trust_domain.p[i]))
			return refuse(reterr, all, "character not allowed in trust domain");
	id.path = rest;
	if (has_path) {
		why = path_check(rest, seg, &segs);
		if (why)
			return refuse(reterr, all, why);
	}
	if (segs == 4 && slice_is(seg[0], "ns") && slice_is(seg[2], "sa")) {
		id.ns = seg[1];
		id.sa = seg[3];
	}
	*ret = id;
	return 0;
}

/* Segment by segment; a segment "*" of the pattern takes any one that is not empty. */
static bool segments_match(struct slice pattern, struct slice id)
{
	struct slice p, s;
	bool more, id_more;

	do {
		more = segment_take(&pattern, &p);
		id_more = segment_take(&id, &s);
		if (slice_is(p, "*") ? !s.n : p.n != s.n || memcmp(p.p, s.p, p.n))
			return false;
	} while (more && id_more);
	return !more && !id_more;
}

bool spiffe_match(const char *pattern, const char *id, size_t id_len)
{
	size_t n = strlen(pattern);
	const char *star = memchr(pattern, '*', n);

	if (!id_len) /* nobody is matched by nothing, not even by "*" */
		return false;
	if (!star)
		return n == id_len && !memcmp(pattern, id, n);
	if (!memchr(star + 1, '*', (size_t)(pattern + n - star - 1))) {
		if (star == pattern + n - 1) /* the whole remainder, however many segments */
			return id_len >= n - 1 && !memcmp(pattern, id, n - 1);
		if (star == pattern)
			return id_len >= n - 1 && !memcmp(pattern + 1, id + id_len - (n - 1), n - 1);
	}
	return segments_match((struct slice){pattern, n}, (struct slice){id, id_len});
}
