/*
 * What a peer says of itself, from the headers of one CONNECT into one block, and what we say of ourselves into baggage.
 *
 * metadata_build() runs once per CONNECT: one pass over the headers into a buffer on the stack, then one malloc of the exact
 * size, because a block lives as long as its stream and there may be many thousands. Work is linear in the bytes of the headers:
 * a member that does not fit is counted and passed over, never searched for again.
 *
 * A well-known member may be said in three places, which differ in how far they are believed to mean it: baggage, then
 * x-envoy-peer-metadata, then fields that are only near it (the label "app" for the service). Headers come in any order, so
 * each place has its own row of offsets, and the rows are merged at the end. Of two equal names in one place the first counts.
 *
 * Not kept: what other code consumes (pseudo-headers, forwarded, trace context, connection headers), `date`, which would make
 * equal blocks differ every second, and credentials (authorization, cookie), because metadata is shown in logs.
 */
#include "codec/metadata.h"
#include "adit/meta.h"
#include "base/clean.h"
#include "codec/peer_metadata.h"
#include <errno.h>
#include <stdlib.h>
#define XXH_INLINE_ALL
#include <xxhash.h>

#define TEXT_MAX	60000u /* known[] holds 16-bit offsets */
#define BAGGAGE_MAX	8192u  /* bytes and members that W3C Baggage makes everybody pass on */
#define BAGGAGE_MEMBERS 64u

enum place { PLACE_BAGGAGE, PLACE_PEER, PLACE_NEAR, PLACES };

struct build {
	char *text;
	uint32_t len, cap;   /* bytes */
	uint32_t n, members; /* pairs, and how many there may be */
	uint32_t dropped;
	bool peer_seen;
	uint16_t known[PLACES][MD_KNOWN];
	const char *type[PLACES]; /* of the workload; static text */
};

struct known_name {
	struct slice name;
	enum md_known known;
	enum place place;
	const char *type;
};
// clang-format off: tables
#define NAME(lit)                      \
	{                              \
		(lit), sizeof(lit) - 1 \
	}

static const struct known_name baggage_names[] = {
	{NAME("k8s.cluster.name"), MD_CLUSTER, PLACE_BAGGAGE, NULL},
	{NAME("k8s.namespace.name"), MD_NAMESPACE, PLACE_BAGGAGE, NULL},
	{NAME("k8s.deployment.name"), MD_WORKLOAD, PLACE_BAGGAGE, "deployment"},
	{NAME("k8s.cronjob.name"), MD_WORKLOAD, PLACE_BAGGAGE, "cronjob"},
	{NAME("k8s.job.name"), MD_WORKLOAD, PLACE_BAGGAGE, "job"},
	{NAME("k8s.pod.name"), MD_WORKLOAD, PLACE_BAGGAGE, "pod"},
	{NAME("service.name"), MD_SERVICE, PLACE_BAGGAGE, NULL},
	{NAME("service.version"), MD_VERSION, PLACE_BAGGAGE, NULL},
	{NAME("cloud.region"), MD_REGION, PLACE_BAGGAGE, NULL},
	{NAME("cloud.availability_zone"), MD_ZONE, PLACE_BAGGAGE, NULL},
	{NAME(META_NODE_ID), MD_NODE_ID, PLACE_BAGGAGE, NULL},
	{NAME("app.name"), MD_SERVICE, PLACE_NEAR, NULL}, /* Envoy sends these when they differ from service.* */
	{NAME("app.version"), MD_VERSION, PLACE_NEAR, NULL},
};
static const struct known_name peer_names[] = {
	{NAME("NAMESPACE"), MD_NAMESPACE, PLACE_PEER, NULL}, {NAME("WORKLOAD_NAME"), MD_WORKLOAD, PLACE_PEER, NULL},
	{NAME("CLUSTER_ID"), MD_CLUSTER, PLACE_PEER, NULL},  {NAME("IDENTITY"), MD_IDENTITY, PLACE_PEER, NULL},
	{NAME("REGION"), MD_REGION, PLACE_PEER, NULL},	     {NAME("AVAILABILITY_ZONE"), MD_ZONE, PLACE_PEER, NULL},
	{NAME("NAME"), MD_WORKLOAD, PLACE_NEAR, NULL}, /* the instance: better than nothing */
};
static const struct known_name label_names[] = {
	{NAME("service.istio.io/canonical-name"), MD_SERVICE, PLACE_PEER, NULL},
	{NAME("service.istio.io/canonical-revision"), MD_VERSION, PLACE_PEER, NULL},
	{NAME("app"), MD_SERVICE, PLACE_NEAR, NULL},
	{NAME("version"), MD_VERSION, PLACE_NEAR, NULL},
};
// clang-format on

static uint64_t hash_seed = 0x6164697461646974; /* written before threads start */

void metadata_hash_seed(uint64_t seed)
{
	hash_seed = seed;
}

/* ---- bytes */

static bool slice_eq(struct slice a, struct slice b)
{
	return a.n == b.n && !memcmp(a.p, b.p, a.n);
}

/* RFC 9110 5.6.2 tchar */
static bool is_token(struct slice s)
{
	static const uint8_t tchar[256] = {
		['0' ... '9'] = 1, ['a' ... 'z'] = 1, ['A' ... 'Z'] = 1, ['!'] = 1, ['#'] = 1, ['$'] = 1,
		['%'] = 1,	   ['&'] = 1,	      ['\''] = 1,	 ['*'] = 1, ['+'] = 1, ['-'] = 1,
		['.'] = 1,	   ['^'] = 1,	      ['_'] = 1,	 ['`'] = 1, ['|'] = 1, ['~'] = 1,
	};
	uint8_t ok = 1;

	for (size_t i = 0; i < s.n; i++)
		ok &= tchar[(uint8_t)s.p[i]];
	return s.n && ok;
}

static bool has_control(const char *s, size_t n)
{
	const uint64_t ones = UINT64_MAX / 255, high = ones * 0x80;
	uint64_t hit = 0;
	size_t i = 0;

	for (; i + 8 <= n; i += 8) { /* eight bytes at a time: any below 0x20, any equal to 0x7f */
		uint64_t w, del;

		memcpy(&w, s + i, 8);
		del = w ^ ones * 0x7f;
		hit |= ((w - ones * 0x20) & ~w) | ((del - ones) & ~del);
	}
	if (hit & high)
		return true;
	for (; i < n; i++)
		if ((uint8_t)s[i] < 0x20 || s[i] == 0x7f)
			return true;
	return false;
}

static struct slice trim(struct slice s)
{
	while (s.n && (s.p[0] == ' ' || s.p[0] == '\t')) {
		s.p++;
		s.n--;
	}
	while (s.n && (s.p[s.n - 1] == ' ' || s.p[s.n - 1] == '\t'))
		s.n--;
	return s;
}

static int hex_value(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	c |= 0x20;
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* A '%' without two hex digits behind it stands for itself: HBONE agents do not encode. Return: bytes written, at most s.n. */
static size_t percent_decode(char *out, struct slice s)
{
	size_t n = 0;

	for (size_t i = 0; i < s.n; i++) {
		int hi = s.p[i] == '%' && s.n - i > 2 ? hex_value(s.p[i + 1]) : -1;
		int lo = hi >= 0 ? hex_value(s.p[i + 2]) : -1;

		if (lo >= 0) {
			out[n++] = (char)(hi << 4 | lo);
			i += 2;
		} else {
			out[n++] = s.p[i];
		}
	}
	return n;
}

/* ---- building */

static void drop(struct build *b)
{
	b->dropped++;
}

enum value_kind {
	VALUE_CLEAN,   /* known to hold neither control characters nor '%' */
	VALUE_TEXT,    /* taken as it is */
	VALUE_PERCENT, /* to be decoded */
};

/* Return: offset of the value, or 0: dropped and counted. The name is prefix + name. */
static uint16_t put(struct build *b, struct slice prefix, struct slice name, struct slice value, enum value_kind kind)
{
	char *p = b->text + b->len, *v;
	size_t n = value.n;

	if (b->n >= b->members || prefix.n + name.n + value.n + 2 > b->cap - b->len) {
		drop(b);
		return 0;
	}
	memcpy(p, prefix.p, prefix.n);
	memcpy(p + prefix.n, name.p, name.n);
	v = p + prefix.n + name.n;
	*v++ = '\0';
	if (kind == VALUE_PERCENT)
		n = percent_decode(v, value);
	else if (n)
		memcpy(v, value.p, value.n);
	if (kind != VALUE_CLEAN && has_control(v, n)) {
		drop(b);
		return 0;
	}
	v[n] = '\0';
	b->len = (uint32_t)(v + n + 1 - b->text);
	b->n++;
	return (uint16_t)(v - b->text);
}

static void learn(struct build *b, const struct known_name *tab, size_t n_tab, struct slice name, uint16_t off)
{
	for (size_t i = 0; i < n_tab; i++) {
		const struct known_name *k = &tab[i];

		if (!slice_eq(k->name, name))
			continue;
		if (!b->known[k->place][k->known]) {
			b->known[k->place][k->known] = off;
			if (k->type)
				b->type[k->place] = k->type;
		}
		return;
	}
}

static void baggage_member(struct build *b, struct slice s, enum value_kind kind)
{
	struct slice name, value;
	const char *eq;
	uint16_t off;

	s = trim(s);
	if (!s.n)
		return;
	eq = memchr(s.p, '=', s.n);
	if (!eq) {
		drop(b);
		return;
	}
	name = trim((struct slice){s.p, (size_t)(eq - s.p)});
	value = trim((struct slice){eq + 1, (size_t)(s.p + s.n - eq - 1)});
	if (!is_token(name)) {
		drop(b);
		return;
	}
	if (!value.n) /* HBONE: an empty value is none */
		return;
	off = put(b, SLICE(""), name, value, kind);
	if (off)
		learn(b, baggage_names, ARRAY_LEN(baggage_names), name, off);
}

/* What nearly every line is free of is looked for once in the line, not in each of its members. */
static void baggage_line(struct build *b, struct slice s)
{
	bool properties = s.n && memchr(s.p, ';', s.n), percent = s.n && memchr(s.p, '%', s.n);
	enum value_kind kind = percent ? VALUE_PERCENT : has_control(s.p, s.n) ? VALUE_TEXT : VALUE_CLEAN;

	while (s.n) {
		const char *comma = memchr(s.p, ',', s.n), *semi;
		size_t n = comma ? (size_t)(comma - s.p) : s.n;

		semi = properties ? memchr(s.p, ';', n) : NULL; /* properties are not kept */
		baggage_member(b, (struct slice){s.p, semi ? (size_t)(semi - s.p) : n}, kind);
		n += comma != NULL;
		s.p += n;
		s.n -= n;
	}
}

/* kubernetes://apis/apps/v1/namespaces/NS/deployments/W; only the kind is taken from it */
static const char *owner_type(struct slice owner)
{
	static const struct {
		struct slice plural;
		const char *type;
	} kinds[] = {{NAME("deployments"), "deployment"},
		     {NAME("cronjobs"), "cronjob"},
		     {NAME("jobs"), "job"},
		     {NAME("pods"), "pod"}};
	const char *last = memrchr(owner.p, '/', owner.n),
		   *prev = last ? memrchr(owner.p, '/', (size_t)(last - owner.p)) : NULL;

	for (size_t i = 0; prev && i < ARRAY_LEN(kinds); i++)
		if (slice_eq(kinds[i].plural, (struct slice){prev + 1, (size_t)(last - prev - 1)}))
			return kinds[i].type;
	return NULL;
}

static void peer_field(void *arg, bool label, struct slice key, struct slice value)
{
	struct build *b = arg;
	uint16_t off;

	if (!value.n)
		return;
	if (!key.n || has_control(key.p, key.n)) {
		drop(b);
		return;
	}
	off = put(b, label ? SLICE("peer.LABELS.") : SLICE("peer."), key, value, VALUE_TEXT);
	if (!off)
		return;
	if (label)
		learn(b, label_names, ARRAY_LEN(label_names), key, off);
	else if (slice_is(key, "OWNER") && !b->type[PLACE_PEER])
		b->type[PLACE_PEER] = owner_type(value);
	else
		learn(b, peer_names, ARRAY_LEN(peer_names), key, off);
}

/* All of it or nothing: half a Struct is not what the peer said. A second header is refused. */
static void peer_header(struct build *b, struct slice v)
{
	struct build before = *b;

	if (b->peer_seen) {
		drop(b);
		return;
	}
	if (peer_metadata_decode(v.p, v.n, peer_field, b) < 0) {
		*b = before;
		drop(b);
	}
	b->peer_seen = true;
}

static bool skipped(struct slice n)
{
	switch (n.n) {
	case 2: return slice_is(n, "te");
	case 4: return slice_is(n, "host") || slice_is(n, "date");
	case 6: return slice_is(n, "cookie");
	case 7: return slice_is(n, "upgrade") || slice_is(n, "trailer");
	case 9: return slice_is(n, META_FORWARDED);
	case 10:
		return slice_is(n, "tracestate") || slice_is(n, "connection") || slice_is(n, "keep-alive") ||
		       slice_is(n, "user-agent") || slice_is(n, "set-cookie");
	case 11: return slice_is(n, META_TRACEPARENT);
	case 13: return slice_is(n, "authorization");
	case 14: return slice_is(n, "content-length");
	case 16: return slice_is(n, "proxy-connection");
	case 17: return slice_is(n, "transfer-encoding");
	case 19: return slice_is(n, "proxy-authorization");
	}
	return false;
}

static void header_decode(struct build *b, const struct header *h)
{
	uint16_t off;

	if (h->name.n && h->name.p[0] == ':')
		return;
	if (slice_is(h->name, META_BAGGAGE)) {
		baggage_line(b, h->value);
	} else if (slice_is(h->name, META_PEER_METADATA)) {
		peer_header(b, h->value);
	} else if (skipped(h->name)) {
		return;
	} else if (!is_token(h->name)) {
		drop(b);
	} else {
		off = put(b, SLICE(""), h->name, h->value, VALUE_TEXT);
		if (off && h->value.n && slice_is(h->name, META_PEER_METADATA_ID) && !b->known[PLACE_PEER][MD_NODE_ID])
			b->known[PLACE_PEER][MD_NODE_ID] = off;
	}
}

/* The best place of each member, and the kind of workload as a pair of its own, since it is only part of a name. */
static void merge(struct build *b, uint16_t ret_known[MD_KNOWN])
{
	const char *type;

	for (unsigned int k = 0; k < MD_KNOWN; k++) {
		uint16_t off = 0;

		for (unsigned int p = 0; p < PLACES && !off; p++)
			off = b->known[p][k];
		ret_known[k] = off;
	}
	type = b->type[b->known[PLACE_BAGGAGE][MD_WORKLOAD] ? PLACE_BAGGAGE : PLACE_PEER];
	if (type && ret_known[MD_WORKLOAD])
		ret_known[MD_WORKLOAD_TYPE] = put(b, SLICE(""), SLICE("workload.type"),
						  (struct slice){type, strlen(type)}, VALUE_CLEAN);
}

struct metadata *metadata_build(const struct header *h, size_t n, const struct metadata_limits *lim, int *ret_err)
{
	char text[TEXT_MAX];
	struct build b = {
		.text = text,
		.len = 1,
		.cap = (uint32_t)max_u64(min_u64(lim->bytes, TEXT_MAX), 1),
		.members = (uint32_t)min_u64(lim->members, UINT16_MAX),
	};
	uint16_t known[MD_KNOWN];
	struct metadata *m;

	*ret_err = 0;
	text[0] = '\0';
	for (size_t i = 0; i < n; i++)
		header_decode(&b, &h[i]);
	if (!b.n && !b.dropped)
		return NULL;
	merge(&b, known);
	m = malloc(sizeof(*m) + b.len);
	if (!m) {
		*ret_err = -ENOMEM;
		return NULL;
	}
	m->refs = 1;
	m->size = (uint32_t)sizeof(*m) + b.len;
	m->n = (uint16_t)b.n;
	memcpy(m->known, known, sizeof(known));
	m->dropped = (uint16_t)min_u64(b.dropped, UINT16_MAX);
	memcpy(m->text, text, b.len);
	m->hash = XXH3_64bits_withSeed((const char *)m + METADATA_CONTENT, m->size - METADATA_CONTENT, hash_seed);
	return m;
}

/* ---- saying */

/* Written twice: without @p to measure, then into the one allocation. */
struct out {
	char *p;
	size_t n;
	unsigned int members;
};

static void out_add(struct out *o, const char *s, size_t n)
{
	if (o->p)
		memcpy(o->p + o->n, s, n);
	o->n += n;
}

/* baggage-octet of W3C Baggage; '%' itself is always encoded */
static bool baggage_octet(uint8_t c)
{
	return c > 0x20 && c < 0x7f && c != '"' && c != ',' && c != ';' && c != '\\' && c != '%';
}

static void out_member(struct out *o, struct slice key, struct slice value)
{
	static const char hex[] = "0123456789ABCDEF";
	size_t need = key.n + 2;

	if (!value.n || !is_token(key) || o->members >= BAGGAGE_MEMBERS || key.n > BAGGAGE_MAX || value.n > BAGGAGE_MAX)
		return;
	for (size_t i = 0; i < value.n; i++)
		need += baggage_octet((uint8_t)value.p[i]) ? 1 : 3;
	if (o->n + need > BAGGAGE_MAX)
		return;
	if (o->members++)
		out_add(o, ",", 1);
	out_add(o, key.p, key.n);
	out_add(o, "=", 1);
	for (size_t i = 0; i < value.n; i++) {
		uint8_t c = (uint8_t)value.p[i];

		if (baggage_octet(c))
			out_add(o, &value.p[i], 1);
		else
			out_add(o, (const char[]){'%', hex[c >> 4], hex[c & 15]}, 3);
	}
}

static void out_text(struct out *o, struct slice key, const char *value)
{
	if (value)
		out_member(o, key, (struct slice){value, strlen(value)});
}

static struct slice workload_key(const char *type)
{
	for (size_t i = 0; type && i < ARRAY_LEN(baggage_names); i++)
		if (baggage_names[i].type && !strcmp(baggage_names[i].type, type))
			return baggage_names[i].name;
	return SLICE("k8s.pod.name");
}

static void baggage_write(struct out *o, const struct metadata_self *self)
{
	const char *const *k = self->known;

	out_text(o, SLICE("k8s.cluster.name"), k[MD_CLUSTER]);
	out_text(o, SLICE("k8s.namespace.name"), k[MD_NAMESPACE]);
	out_text(o, workload_key(k[MD_WORKLOAD_TYPE]), k[MD_WORKLOAD]);
	out_text(o, SLICE("service.name"), k[MD_SERVICE]);
	out_text(o, SLICE("service.version"), k[MD_VERSION]);
	out_text(o, SLICE("cloud.region"), k[MD_REGION]);
	out_text(o, SLICE("cloud.availability_zone"), k[MD_ZONE]);
	out_text(o, SLICE(META_NODE_ID), self->node_id ? self->node_id : k[MD_NODE_ID]);
	for (size_t i = 0; i < self->n_extra; i++)
		out_member(o, self->extra[i].name, self->extra[i].value);
}

char *baggage_encode(const struct metadata_self *self)
{
	struct out o = {0};

	baggage_write(&o, self);
	o.p = malloc(o.n + 1);
	if (!o.p)
		return NULL;
	o.n = 0;
	o.members = 0;
	baggage_write(&o, self);
	o.p[o.n] = '\0';
	return o.p;
}
