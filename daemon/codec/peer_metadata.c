/*
 * x-envoy-peer-metadata: base64 of a google.protobuf.Struct with the fields of Istio's metadata exchange.
 *
 *	Struct { repeated Entry fields = 1 }	Entry { string key = 1; Value value = 2 }
 *	Value  { null 1, double 2, string 3, bool 4, Struct 5, ListValue 6 }
 *
 * Decoding walks the bytes once. Only strings at the top and inside LABELS are of use, so nesting is two levels by
 * construction; anything else is stepped over by its length. Encoding is deterministic as peers want it (map keys in byte order,
 * they compare and cache the text): a table in that order, measured first, then written right-aligned into the buffer of the base64
 * text, which then overtakes it from the left.
 */
#include "codec/peer_metadata.h"
#include "base/clean.h"
#include "codec/metadata.h"
#include <errno.h>
#include <stdlib.h>

#define LABELS_MAX	 64u
#define TAG(field, wire) ((field) << 3 | (wire))

enum wire { WIRE_VARINT = 0, WIRE_64 = 1, WIRE_BYTES = 2, WIRE_32 = 5 };

/* ---- UTF-8: proto3 strings are; a receiver refuses the whole Struct otherwise (RFC 3629: no overlong forms, no surrogates) */

static bool utf8_ok(struct slice s)
{
	const uint8_t *p = (const uint8_t *)s.p, *end = p + s.n;

	while (p < end) {
		uint8_t c = *p++, low = 0x80, high = 0xbf;
		int more;

		if (c < 0x80)
			continue;
		if (c < 0xc2 || c > 0xf4)
			return false;
		more = c < 0xe0 ? 1 : c < 0xf0 ? 2 : 3;
		if (c == 0xe0)
			low = 0xa0;
		else if (c == 0xed)
			high = 0x9f;
		else if (c == 0xf0)
			low = 0x90;
		else if (c == 0xf4)
			high = 0x8f;
		if (end - p < more)
			return false;
		for (; more; more--, p++) {
			if (*p < low || *p > high)
				return false;
			low = 0x80;
			high = 0xbf;
		}
	}
	return true;
}

/* ---- base64 */

/* Return: bytes written, or -1. @out has room for n / 4 * 3 + 2. */
static ptrdiff_t base64_decode(uint8_t *out, const char *s, size_t n)
{
	// clang-format off
	/* value + 1; 0: not in the alphabet */
	static const uint8_t val[256] = {
		['A'] = 1, ['B'] = 2, ['C'] = 3, ['D'] = 4, ['E'] = 5, ['F'] = 6, ['G'] = 7, ['H'] = 8, ['I'] = 9, ['J'] = 10,
		['K'] = 11, ['L'] = 12, ['M'] = 13, ['N'] = 14, ['O'] = 15, ['P'] = 16, ['Q'] = 17, ['R'] = 18, ['S'] = 19, ['T'] = 20,
		['U'] = 21, ['V'] = 22, ['W'] = 23, ['X'] = 24, ['Y'] = 25, ['Z'] = 26, ['a'] = 27, ['b'] = 28, ['c'] = 29, ['d'] = 30,
		['e'] = 31, ['f'] = 32, ['g'] = 33, ['h'] = 34, ['i'] = 35, ['j'] = 36, ['k'] = 37, ['l'] = 38, ['m'] = 39, ['n'] = 40,
		['o'] = 41, ['p'] = 42, ['q'] = 43, ['r'] = 44, ['s'] = 45, ['t'] = 46, ['u'] = 47, ['v'] = 48, ['w'] = 49, ['x'] = 50,
		['y'] = 51, ['z'] = 52, ['0'] = 53, ['1'] = 54, ['2'] = 55, ['3'] = 56, ['4'] = 57, ['5'] = 58, ['6'] = 59, ['7'] = 60,
		['8'] = 61, ['9'] = 62, ['+'] = 63, ['/'] = 64,
	};
	// clang-format on
	const uint8_t *in = (const uint8_t *)s;
	uint8_t *o = out;
	size_t i = 0, rest;

	if (n % 4 == 0 && n && in[n - 1] == '=') /* padding only where it belongs */
		n -= in[n - 2] == '=' ? 2 : 1;
	rest = n % 4;
	if (rest == 1)
		return -1;
	for (; i + 4 <= n; i += 4) {
		uint8_t a = val[in[i]], b = val[in[i + 1]], c = val[in[i + 2]], d = val[in[i + 3]];

		if (!a || !b || !c || !d)
			return -1;
		a--, b--, c--, d--;
		*o++ = (uint8_t)(a << 2 | b >> 4);
		*o++ = (uint8_t)(b << 4 | c >> 2);
		*o++ = (uint8_t)(c << 6 | d);
	}
	if (rest) {
		uint8_t a = val[in[i]], b = val[in[i + 1]], c = rest == 3 ? val[in[i + 2]] : 1;

		if (!a || !b || !c)
			return -1;
		a--, b--, c--;
		*o++ = (uint8_t)(a << 2 | b >> 4);
		if (rest == 3)
			*o++ = (uint8_t)(b << 4 | c >> 2);
	}
	return o - out;
}

static size_t base64_len(size_t n)
{
	return (n + 2) / 3 * 4;
}

/* @in may lie in @out's buffer if it ends where the text ends: each round reads three bytes before it writes four */
static void base64_encode(char *out, const uint8_t *in, size_t n)
{
	static const char abc[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

	for (; n; in += 3) {
		uint32_t a = in[0], b = n > 1 ? in[1] : 0, c = n > 2 ? in[2] : 0, w = a << 16 | b << 8 | c;

		*out++ = abc[w >> 18];
		*out++ = abc[w >> 12 & 63];
		*out++ = n > 1 ? abc[w >> 6 & 63] : '=';
		*out++ = n > 2 ? abc[w & 63] : '=';
		if (n <= 3)
			break;
		n -= 3;
	}
}

/* ---- decoding */

struct span {
	const uint8_t *p, *end;
};

static bool span_varint(struct span *s, uint64_t *ret)
{
	uint64_t v = 0;

	for (unsigned int shift = 0; shift < 70 && s->p < s->end; shift += 7) {
		uint8_t c = *s->p++;

		if (shift < 64)
			v |= (uint64_t)(c & 0x7f) << shift;
		if (!(c & 0x80)) {
			*ret = v;
			return true;
		}
	}
	return false;
}

/* One field: its tag, and for WIRE_BYTES what it holds. Groups are long out of use, and refused. */
static bool span_field(struct span *s, uint64_t *ret_tag, struct span *ret_bytes)
{
	uint64_t tag, len;

	if (!span_varint(s, &tag) || tag >> 3 == 0 || tag > UINT32_MAX)
		return false;
	switch (tag & 7) {
	case WIRE_VARINT:
		if (!span_varint(s, &len))
			return false;
		len = 0;
		break;
	case WIRE_64: len = 8; break;
	case WIRE_BYTES:
		if (!span_varint(s, &len))
			return false;
		break;
	case WIRE_32: len = 4; break;
	default: return false;
	}
	if (len > (uint64_t)(s->end - s->p))
		return false;
	*ret_tag = tag;
	*ret_bytes = (struct span){s->p, s->p + len};
	s->p += len;
	return true;
}

static struct slice span_slice(struct span s)
{
	return (struct slice){(const char *)s.p, (size_t)(s.end - s.p)};
}

static bool struct_decode(struct span s, bool label, peer_metadata_fn *fn, void *arg);

static bool value_decode(struct span v, bool label, struct slice key, peer_metadata_fn *fn, void *arg)
{
	struct span bytes, last = v;
	uint64_t tag, kind = 0;

	while (v.p < v.end) {
		if (!span_field(&v, &tag, &bytes))
			return false;
		kind = tag; /* oneof: the last counts */
		last = bytes;
	}
	if (kind == TAG(3, WIRE_BYTES)) {
		if (!utf8_ok(span_slice(last)))
			return false;
		fn(arg, label, key, span_slice(last));
		return true;
	}
	if (kind == TAG(5, WIRE_BYTES) && !label && slice_is(key, "LABELS"))
		return struct_decode(last, true, fn, arg);
	return true;
}

/* At most two deep: only LABELS at the top is entered. */
static bool struct_decode(struct span s, bool label, peer_metadata_fn *fn, void *arg)
{
	struct span entry, bytes;
	uint64_t tag;

	while (s.p < s.end) {
		struct span key = {NULL, NULL}, value = {NULL, NULL};

		if (!span_field(&s, &tag, &entry))
			return false;
		if (tag != TAG(1, WIRE_BYTES))
			continue;
		while (entry.p < entry.end) {
			if (!span_field(&entry, &tag, &bytes))
				return false;
			if (tag == TAG(1, WIRE_BYTES))
				key = bytes;
			else if (tag == TAG(2, WIRE_BYTES))
				value = bytes;
		}
		if (!key.p || !value.p)
			continue;
		if (!utf8_ok(span_slice(key)) || !value_decode(value, label, span_slice(key), fn, arg))
			return false;
	}
	return true;
}

int peer_metadata_decode(const char *s, size_t n, peer_metadata_fn *fn, void *arg)
{
	uint8_t raw[PEER_METADATA_MAX + 4];
	ptrdiff_t len;

	if (n > base64_len(PEER_METADATA_MAX))
		return -EINVAL;
	len = base64_decode(raw, s, n);
	if (len < 0 || !struct_decode((struct span){raw, raw + len}, false, fn, arg))
		return -EINVAL;
	return 0;
}

/* ---- encoding */

struct field {
	struct slice key, value; /* value of the field with labels: unused */
	bool labels;
};

struct labels {
	struct field f[LABELS_MAX]; /* by key */
	size_t n;
	size_t len; /* bytes of the Struct they make */
};

static size_t varint_len(size_t v)
{
	size_t n = 1;

	for (; v >= 0x80; v >>= 7)
		n++;
	return n;
}

static size_t bytes_len(size_t n)
{
	return 1 + varint_len(n) + n;
}

/* @n: bytes of the string, or of the Struct, that is the value */
static size_t entry_len(struct slice key, size_t n)
{
	return bytes_len(key.n) + bytes_len(bytes_len(n));
}

static uint8_t *put_head(uint8_t *p, unsigned int field, size_t n)
{
	*p++ = (uint8_t)TAG(field, WIRE_BYTES);
	for (; n >= 0x80; n >>= 7)
		*p++ = (uint8_t)(n | 0x80);
	*p++ = (uint8_t)n;
	return p;
}

/* Everything of a Struct's entry up to the value itself, which is field @kind of Value and @n bytes long. */
static uint8_t *put_entry(uint8_t *p, struct slice key, unsigned int kind, size_t n)
{
	p = put_head(p, 1, entry_len(key, n));
	p = put_head(p, 1, key.n);
	p = mempcpy(p, key.p, key.n);
	p = put_head(p, 2, bytes_len(n));
	return put_head(p, kind, n);
}

static uint8_t *put_string(uint8_t *p, const struct field *f)
{
	return mempcpy(put_entry(p, f->key, 3, f->value.n), f->value.p, f->value.n);
}

static int slice_cmp(struct slice a, struct slice b)
{
	int r = memcmp(a.p, b.p, a.n < b.n ? a.n : b.n);

	return r ? r : (a.n > b.n) - (a.n < b.n);
}

static bool sayable(struct slice v)
{
	return v.n && v.n <= PEER_METADATA_MAX && utf8_ok(v);
}

/* Kept in order; of equal keys the first stays, so that free members cannot replace the standard labels. */
static void labels_add(struct labels *l, struct slice key, struct slice value)
{
	size_t i = l->n;

	if (l->n == LABELS_MAX || !sayable(key) || !sayable(value))
		return;
	while (i && slice_cmp(l->f[i - 1].key, key) > 0)
		i--;
	if (i && !slice_cmp(l->f[i - 1].key, key))
		return;
	memmove(&l->f[i + 1], &l->f[i], (l->n - i) * sizeof(l->f[0]));
	l->f[i] = (struct field){.key = key, .value = value};
	l->n++;
	l->len += bytes_len(entry_len(key, value.n));
}

static struct slice text_slice(const char *s)
{
	return (struct slice){s ? s : "", s ? strlen(s) : 0};
}

/* kubernetes://apis/apps/v1/namespaces/NS/TYPEs/WORKLOAD, whatever the type's real API group: what Envoy writes and reads */
static int owner_text(const struct metadata_self *self, char **ret)
{
	const char *ns = self->known[MD_NAMESPACE], *w = self->known[MD_WORKLOAD],
		   *type = self->known[MD_WORKLOAD_TYPE];
	static const char lead[] = "kubernetes://apis/apps/v1/namespaces/";
	char *p;

	*ret = NULL;
	if (!ns || !*ns || !w || !*w || !type || !*type)
		return 0;
	*ret = p = malloc(sizeof(lead) + strlen(ns) + strlen(type) + strlen(w) + 3);
	if (!p)
		return -ENOMEM;
	p = stpcpy(stpcpy(stpcpy(p, lead), ns), "/");
	stpcpy(stpcpy(stpcpy(p, type), "s/"), w);
	return 0;
}

char *peer_metadata_encode(const struct metadata_self *self, const char *identity)
{
	const char *const *k = self->known;
	struct slice service = text_slice(k[MD_SERVICE]), version = text_slice(k[MD_VERSION]),
		     workload = text_slice(k[MD_WORKLOAD]);
	struct labels l = {.n = 0};
	AUTO_FREE char *owner = NULL;
	size_t len = 0, text_len;
	uint8_t *raw, *p;
	char *text;

	if (owner_text(self, &owner) < 0)
		return NULL;
	labels_add(&l, SLICE("app"), service);
	labels_add(&l, SLICE("service.istio.io/canonical-name"), service);
	labels_add(&l, SLICE("service.istio.io/canonical-revision"), version);
	labels_add(&l, SLICE("version"), version);
	for (size_t i = 0; i < self->n_extra; i++)
		labels_add(&l, self->extra[i].name, self->extra[i].value);

	struct field f[] = {
		/* in byte order of the keys */
		{SLICE("AVAILABILITY_ZONE"), text_slice(k[MD_ZONE]), false},
		{SLICE("CLUSTER_ID"), text_slice(k[MD_CLUSTER]), false},
		{SLICE("IDENTITY"), text_slice(identity ? identity : k[MD_IDENTITY]), false},
		{SLICE("LABELS"), {NULL, 0}, true},
		{SLICE("NAME"), workload, false},
		{SLICE("NAMESPACE"), text_slice(k[MD_NAMESPACE]), false},
		{SLICE("OWNER"), text_slice(owner), false},
		{SLICE("REGION"), text_slice(k[MD_REGION]), false},
		{SLICE("WORKLOAD_NAME"), workload, false},
	};

	for (size_t i = 0; i < ARRAY_LEN(f); i++) {
		size_t n = f[i].labels ? l.len : f[i].value.n;

		if (!f[i].labels && !sayable(f[i].value))
			f[i].value.n = n = 0;
		if (n)
			len += bytes_len(entry_len(f[i].key, n));
	}
	text_len = base64_len(len);
	text = malloc(text_len + 1);
	if (!text)
		return NULL;
	raw = p = (uint8_t *)text + text_len - len;
	for (size_t i = 0; i < ARRAY_LEN(f); i++) {
		if (f[i].labels && l.len) {
			p = put_entry(p, f[i].key, 5, l.len);
			for (size_t j = 0; j < l.n; j++)
				p = put_string(p, &l.f[j]);
		} else if (f[i].value.n) {
			p = put_string(p, &f[i]);
		}
	}
	base64_encode(text, raw, len);
	text[text_len] = '\0';
	return text;
}
