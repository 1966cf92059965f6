/*
 * Values as what can be looked up: for each value of a match a type and a hash. Prefixes, suffixes and networks come in many lengths, and
 * each length is a type, so a field has LENGTHS of them at the most, and longer values are cut to the next shorter one: what
 * matches the whole also matches its beginning. The shortest length is always among them; the others are those that occur most.
 */
#include "policy/parts.h"
#include <stdlib.h>
#include <string.h>

#define PORTS	64u  /* of a match; with more it is not looked up by */
#define LENGTHS 8u   /* of prefixes, suffixes, networks, per field */
#define LENGTH	256u /* bytes; what is longer is cut */

struct lengths {
	uint32_t seen[LENGTH], all;
	uint16_t n, pick[LENGTHS];
};
struct cutter {
	struct lengths prefix[CHANNELS], suffix[CHANNELS], net[4]; /* by shape from SHAPE_SOURCE4 on */
};

/* ---- lengths */

/* the shortest, or some could not be found by any, and the most frequent of the others */
static void lengths_pick(struct lengths *l)
{
	uint32_t best;

	for (uint32_t i = 0; l->all && i < LENGTH && !l->n; i++)
		if (l->seen[i])
			l->pick[l->n++] = (uint16_t)i;
	while (l->n && l->n < LENGTHS) {
		best = LENGTH;
		for (uint32_t i = l->pick[0] + 1u; i < LENGTH; i++) {
			bool have = false;

			for (uint32_t k = 0; k < l->n; k++)
				have |= l->pick[k] == i;
			if (!have && l->seen[i] && (best == LENGTH || l->seen[i] > l->seen[best]))
				best = i;
		}
		if (best == LENGTH)
			break;
		l->pick[l->n++] = (uint16_t)best;
	}
}

/* the longest picked that is not longer than @n */
static uint32_t lengths_cut(const struct lengths *l, uint32_t n)
{
	uint32_t best = l->pick[0];

	for (uint32_t i = 1; i < l->n; i++)
		if (l->pick[i] <= n && l->pick[i] > best)
			best = l->pick[i];
	return best;
}

static bool findable(const struct match *m)
{
	return !(m->flags & (M_NEGATE | M_PRESENT | M_EMPTY));
}

static uint32_t shape_of(const struct match *m, int v6)
{
	return (m->field == POLICY_SOURCE_IP ? SHAPE_SOURCE4 : SHAPE_DESTINATION4) + (uint32_t)v6;
}

static void length_see(struct lengths *l, uint32_t n)
{
	l->seen[n < LENGTH ? n : LENGTH - 1]++;
	l->all++;
}

static void lengths_see(const struct policy_set *s, struct cutter *c, const struct match *m)
{
	const struct text *t = set_texts(s, m) + m->n[0];

	if (m->field < POLICY_TEXTS) {
		for (uint32_t i = 0; i < m->n[1]; i++, t++)
			length_see(&c->prefix[channel_of(m)], t->n);
		for (uint32_t i = 0; i < m->n[2]; i++, t++)
			length_see(&c->suffix[channel_of(m)], t->n);
	} else if (m->field == POLICY_SOURCE_IP || m->field == POLICY_DESTINATION_IP) {
		for (uint32_t i = 0; i < m->n[0] + m->n[1]; i++)
			length_see(&c->net[shape_of(m, i >= m->n[0]) - SHAPE_SOURCE4], set_nets(s, m)[i].bits);
	}
}

/* ---- parts of a match */

/* Return: TYPES_MAX when there are too many */
static uint32_t type_of(struct policy_set *s, uint32_t shape, uint32_t channel, uint32_t n)
{
	for (uint32_t i = 0; i < s->n_types; i++)
		if (s->type[i].shape == shape && s->type[i].channel == channel && s->type[i].n == n)
			return i;
	if (s->n_types == TYPES_MAX)
		return TYPES_MAX;
	s->type[s->n_types] = (struct type){.shape = (uint8_t)shape, .channel = (uint8_t)channel, .n = (uint16_t)n};
	return s->n_types++;
}

static bool part_add(const struct policy_set *s, struct parts *to, uint32_t type, const void *p, size_t n)
{
	struct part *more;

	if (type == TYPES_MAX)
		return false;
	if (to->n == to->cap) {
		more = reallocarray(to->p, to->cap * 2u + 16, sizeof(*more));
		if (!more) {
			to->failed = true;
			return false;
		}
		to->p = more;
		to->cap = to->cap * 2 + 16;
	}
	to->p[to->n++] = (struct part){index_hash(s, type, p, n), (uint8_t)type};
	return true;
}

static bool texts_parts(struct policy_set *s, const struct cutter *c, const struct match *m, struct parts *to)
{
	const struct text *t = set_texts(s, m);
	uint32_t ch = channel_of(m), n;
	bool ok = true, authority = ch == CH_AUTHORITY;

	for (uint32_t i = 0; ok && i < m->n[0]; i++, t++) {
		ok = part_add(s, to, type_of(s, SHAPE_EXACT, ch, 0), set_text(s, t), t->n);
		if (ok && authority)
			ok = part_add(s, to, type_of(s, SHAPE_EXACT, CH_HOST, 0), set_text(s, t), t->n);
	}
	for (uint32_t i = 0; ok && i < m->n[1]; i++, t++) { /* a prefix of the host is one of all */
		n = lengths_cut(&c->prefix[ch], t->n);
		ok = part_add(s, to, type_of(s, SHAPE_PREFIX, ch, n), set_text(s, t), n);
	}
	for (uint32_t i = 0; ok && i < m->n[2]; i++, t++) {
		n = lengths_cut(&c->suffix[ch], t->n);
		ok = part_add(s, to, type_of(s, SHAPE_SUFFIX, ch, n), set_text(s, t) + t->n - n, n);
		if (ok && authority)
			ok = part_add(s, to, type_of(s, SHAPE_SUFFIX, CH_HOST, n), set_text(s, t) + t->n - n, n);
	}
	if (ok && m->flags & M_DENY && (authority || m->field == POLICY_METADATA))
		ok = part_add(s, to, type_of(s, SHAPE_UNCLEAR, ch, 0), NULL, 0);
	return ok;
}

static bool nets_parts(struct policy_set *s, const struct cutter *c, const struct match *m, struct parts *to)
{
	uint8_t ip[16];
	bool ok = true;

	for (uint32_t i = 0; ok && i < m->n[0] + m->n[1]; i++) {
		const struct net *n = &set_nets(s, m)[i];
		uint32_t shape = shape_of(m, i >= m->n[0]), bits = lengths_cut(&c->net[shape - SHAPE_SOURCE4], n->bits);

		net_mask(n->ip, bits, ip);
		ok = part_add(s, to, type_of(s, shape, 0, bits), ip, sizeof(ip));
	}
	return ok;
}

static bool ports_parts(struct policy_set *s, const struct match *m, struct parts *to)
{
	const struct cfg_ports *p = set_ports(s, m);
	uint32_t type = type_of(s, SHAPE_PORT, 0, 0), n = 0;
	bool ok = true;

	for (uint32_t i = 0; i < m->n[0]; i++)
		n += p[i].last - p[i].first + 1u;
	if (n > PORTS)
		return false;
	for (uint32_t i = 0; i < m->n[0]; i++)
		for (uint32_t port = p[i].first; ok && port <= p[i].last; port++)
			ok = part_add(s, to, type, &(uint16_t){(uint16_t)port}, sizeof(uint16_t));
	return ok;
}

static bool ids_parts(struct policy_set *s, uint32_t shape, uint32_t at, uint32_t n, struct parts *to)
{
	uint32_t type = type_of(s, shape, 0, 0);
	bool ok = true;

	for (uint32_t i = 0; ok && i < n; i++)
		ok = part_add(s, to, type, &set_ids(s, at)[i], sizeof(uint32_t));
	return ok;
}

bool parts_of(struct policy_set *s, const struct cutter *c, const struct clause *cl, uint32_t which, struct parts *to)
{
	const struct pol *p = &s->pol[cl->policy];
	const struct match *m;

	to->n = 0;
	if (which == SCOPE)
		return !p->everywhere && ids_parts(s, SHAPE_POINT, p->points, p->n_points, to) && to->n;
	m = &set_matches(s, cl)[which];
	if (!findable(m))
		return false;
	switch ((enum policy_field)m->field) {
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY:
	case POLICY_METADATA: return texts_parts(s, c, m, to);
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP: return nets_parts(s, c, m, to);
	case POLICY_DESTINATION_PORT: return ports_parts(s, m, to);
	case POLICY_LISTENER: return ids_parts(s, SHAPE_LISTENER, m->at, m->n[0], to);
	case POLICY_FIELDS: break;
	}
	return false;
}

struct cutter *cutter_create(const struct policy_set *s)
{
	struct cutter *c = calloc(1, sizeof(*c));

	if (!c)
		return NULL;
	for (uint32_t i = 0; i < s->n_clauses; i++)
		for (uint32_t k = 0; k < s->clause[i].n; k++)
			if (findable(&set_matches(s, &s->clause[i])[k]))
				lengths_see(s, c, &set_matches(s, &s->clause[i])[k]);
	for (uint32_t i = 0; i < CHANNELS; i++) {
		lengths_pick(&c->prefix[i]);
		lengths_pick(&c->suffix[i]);
	}
	for (uint32_t i = 0; i < ARRAY_LEN(c->net); i++)
		lengths_pick(&c->net[i]);
	return c;
}

void cutter_destroy(struct cutter *c)
{
	free(c);
}
