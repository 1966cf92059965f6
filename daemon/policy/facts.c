/*
 * An input as a set sees it. Once per connection, and as little as the set asks for: texts into channels, one hash per type that the
 * index has, one look-up per tuple. What is found are runs of rules that may match; decide.c goes through them at each listener
 * and cluster.
 *
 * An authority is brought into one form, or a peer could step around a policy by writing Db.Prod.:5432: lower case, no dot behind
 * the host. Literal addresses have many forms more: the caller gives them as addr_str() writes them.
 */
#include "policy/set.h"
#include <string.h>

void net_mask(const uint8_t ip[16], uint32_t bits, uint8_t ret[16])
{
	uint32_t n = bits / 8;

	memset(ret, 0, 16);
	memcpy(ret, ip, n);
	if (bits % 8)
		ret[n] = (uint8_t)(ip[n] & 0xff << (8 - bits % 8));
}

static void channel_set(struct facts *f, uint32_t ch, struct slice s)
{
	f->text[ch] = s;
	f->state[ch] = s.p ? VALUE : ABSENT;
}

/* host:port, HOST.:port -> host:port, and the host alone */
static void authority_set(struct facts *f, struct slice s)
{
	const char *colon;
	size_t host;

	f->state[CH_AUTHORITY] = f->state[CH_HOST] = ABSENT;
	if (!s.p)
		return;
	if (s.n > sizeof(f->authority)) { /* no host name is that long (RFC 1035 2.3.4) */
		f->state[CH_AUTHORITY] = f->state[CH_HOST] = UNCLEAR;
		return;
	}
	for (size_t i = 0; i < s.n; i++)
		f->authority[i] = s.p[i] >= 'A' && s.p[i] <= 'Z' ? (char)(s.p[i] | 0x20) : s.p[i];
	colon = memrchr(f->authority, ':', s.n);
	if (colon && memchr(colon, ']', (size_t)(f->authority + s.n - colon)))
		colon = NULL;
	host = colon ? (size_t)(colon - f->authority) : s.n;
	if (host > 1 && f->authority[host - 1] == '.') {
		memmove(f->authority + host - 1, f->authority + host, s.n - host);
		host--;
		s.n--;
	}
	channel_set(f, CH_AUTHORITY, (struct slice){f->authority, s.n});
	channel_set(f, CH_HOST, (struct slice){f->authority, host});
}

/* each name once, unless it comes with different values */
static void metadata_set(const struct policy_set *s, struct facts *f, const struct metadata *md)
{
	const char *name, *value;
	uint32_t pos = 0, i;
	struct slice v;
	size_t n;

	for (i = 0; i < s->n_names; i++)
		f->state[CH_METADATA + i] = ABSENT;
	while (s->n_names && metadata_each(md, &pos, &name, &value)) {
		n = strlen(name);
		for (i = 0; i < s->n_names && (s->name[i].n != n || memcmp(set_text(s, &s->name[i]), name, n) != 0); i++)
			;
		if (i == s->n_names)
			continue;
		v = (struct slice){value, strlen(value)};
		if (f->state[CH_METADATA + i] == ABSENT)
			channel_set(f, CH_METADATA + i, v);
		else if (f->text[CH_METADATA + i].n != v.n || memcmp(f->text[CH_METADATA + i].p, v.p, v.n) != 0)
			f->state[CH_METADATA + i] = UNCLEAR;
	}
}

static bool hash_text(const struct policy_set *s, uint32_t i, const struct facts *f, uint64_t *ret)
{
	const struct type *t = &s->type[i];
	struct slice v = f->text[t->channel];

	if (t->shape == SHAPE_UNCLEAR) {
		*ret = index_hash(s, i, NULL, 0);
		return f->state[t->channel] == UNCLEAR;
	}
	if (f->state[t->channel] != VALUE || v.n < t->n)
		return false;
	if (t->shape == SHAPE_PREFIX)
		v.n = t->n;
	else if (t->shape == SHAPE_SUFFIX)
		v = (struct slice){v.p + v.n - t->n, t->n};
	*ret = index_hash(s, i, v.p, v.n);
	return true;
}

static bool hash_net(const struct policy_set *s, uint32_t i, const struct addr *a, sa_family_t family, uint64_t *ret)
{
	uint8_t ip[16];

	if (a->family != family)
		return false;
	net_mask(a->ip, s->type[i].n, ip);
	*ret = index_hash(s, i, ip, sizeof(ip));
	return true;
}

/* Return: has @f what type @i is about? */
static bool hash_type(const struct policy_set *s, uint32_t i, const struct facts *f, uint64_t *ret)
{
	switch ((enum shape)s->type[i].shape) {
	case SHAPE_EXACT:
	case SHAPE_PREFIX:
	case SHAPE_SUFFIX:
	case SHAPE_UNCLEAR: return hash_text(s, i, f, ret);
	case SHAPE_SOURCE4: return hash_net(s, i, &f->source, AF_INET, ret);
	case SHAPE_SOURCE6: return hash_net(s, i, &f->source, AF_INET6, ret);
	case SHAPE_DESTINATION4: return hash_net(s, i, &f->destination, AF_INET, ret);
	case SHAPE_DESTINATION6: return hash_net(s, i, &f->destination, AF_INET6, ret);
	case SHAPE_PORT: *ret = index_hash(s, i, &f->port, sizeof(f->port)); return f->port != 0;
	case SHAPE_LISTENER: *ret = index_hash(s, i, &f->listener, sizeof(f->listener)); return true;
	case SHAPE_POINT: return false; /* known when it is asked */
	}
	return false;
}

void policy_look(const struct policy_set *s, const struct policy_input *in, struct policy_facts *ret)
{
	struct facts *f = (struct facts *)ret;

	channel_set(f, CH_PRINCIPAL, in->principal);
	channel_set(f, CH_TRUST_DOMAIN, in->trust_domain);
	channel_set(f, CH_NAMESPACE, in->ns);
	channel_set(f, CH_SERVICE_ACCOUNT, in->sa);
	authority_set(f, in->authority);
	metadata_set(s, f, in->md);
	f->source = in->source;
	f->destination = in->destination;
	f->port = in->port;
	f->listener = in->listener;
	memset(f->has, 0, sizeof(f->has));
	for (uint32_t i = 0; i < s->n_types; i++)
		if (s->type[i].used && hash_type(s, i, f, &f->hash[i]))
			f->has[i / 64] |= 1ull << i % 64;
	f->n_runs = 0;
	if (s->n_rest)
		f->run[f->n_runs++] = (struct run){s->rest, s->rest + s->n_rest};
	f->n_runs += index_look(s, 0, s->n_placed, f->has, f->hash, f->run + f->n_runs);
	if (s->point_type != TYPES_MAX)
		f->has[s->point_type / 64] |= 1ull << s->point_type % 64;
}
