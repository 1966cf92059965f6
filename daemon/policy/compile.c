/*
 * From plain policies to a set that can be asked. Two walks over the same code: the first only measures, then there is one allocation,
 * and the second fills it. What the index needs is built from the result (index.c).
 *
 * Values are brought into an order in which one binary search answers "does any of them match?":
 *   exact texts	by length, then bytes
 *   prefixes	by bytes, those dropped that another one is a prefix of. In what is left, only the greatest that is not above a text can
 *		be a prefix of it: whatever lies between a prefix and the text begins with that prefix, too
 *   suffixes	the same, read backwards
 *   networks	the same, on bits
 *   ports	ranges, joined where they touch
 * So a rule with 10,000 principals costs about 14 comparisons, not 10,000.
 *
 * Rules that can never be true (no matches, a match without values) stay in the set for explanations, and are never looked at
 * otherwise; those of policies that are for other nodes, too.
 */
#include "policy/set.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEAP_MAX (1u << 30) /* bytes of one set: offsets are 32 bits wide */

struct compile {
	struct policy_set *s; /* while measuring, only its numbers are written */
	bool fill;
	size_t heap;	 /* bytes */
	uint32_t values; /* of the policy */
	const char *name[POLICY_NAMES_MAX]; /* of metadata, as many as s->n_names */
	struct err *err;
};

static int refuse(struct compile *c, const struct policy *p, const char *what)
{
	return err_set(c->err, -EINVAL, "policy '%s': %s", p->name, what);
}

/* ---- putting things into the heap */

/* @n things of @size, aligned for all that is kept there. Return: where. */
static uint32_t reserve(struct compile *c, size_t n, size_t size)
{
	size_t at = (c->heap + 3) & ~(size_t)3;

	c->heap = at + n * size;
	return (uint32_t)at; /* beyond HEAP_MAX it is refused before it is used */
}

static uint32_t add_bytes(struct compile *c, const char *p, size_t n)
{
	uint32_t at = (uint32_t)c->heap;

	if (c->fill) {
		memcpy(c->s->heap + at, p, n);
		c->s->heap[at + n] = '\0';
	}
	c->heap += n + 1;
	return at;
}

/* by length and bytes: of equal texts only the first few may differ, so lengths are the cheaper half */
static int by_length(const void *a, const void *b, void *set)
{
	const struct text *x = a, *y = b;

	if (x->n != y->n)
		return x->n < y->n ? -1 : 1;
	return memcmp(set_text(set, x), set_text(set, y), x->n);
}

static int by_bytes(const void *a, const void *b, void *set)
{
	const struct text *x = a, *y = b;
	int r = memcmp(set_text(set, x), set_text(set, y), x->n < y->n ? x->n : y->n);

	return r ? r : (x->n > y->n) - (x->n < y->n);
}

static int by_end(const void *a, const void *b, void *set)
{
	const struct text *x = a, *y = b;
	const char *p = set_text(set, x) + x->n, *q = set_text(set, y) + y->n;
	uint32_t n = x->n < y->n ? x->n : y->n;

	for (uint32_t i = 1; i <= n; i++)
		if (p[-(ptrdiff_t)i] != q[-(ptrdiff_t)i])
			return (uint8_t)p[-(ptrdiff_t)i] < (uint8_t)q[-(ptrdiff_t)i] ? -1 : 1;
	return (x->n > y->n) - (x->n < y->n);
}

static bool covers(const struct policy_set *s, const struct text *a, const struct text *b, enum policy_text_kind kind)
{
	switch (kind) {
	case POLICY_EXACT: return a->n == b->n && !memcmp(set_text(s, a), set_text(s, b), a->n);
	case POLICY_PREFIX: return a->n <= b->n && !memcmp(set_text(s, a), set_text(s, b), a->n);
	case POLICY_SUFFIX: return a->n <= b->n && !memcmp(set_text(s, a), set_text(s, b) + b->n - a->n, a->n);
	}
	return false;
}

/* sorted, without what another one covers. Return: how many are left. */
static uint32_t texts_sort(struct policy_set *s, struct text *t, uint32_t n, enum policy_text_kind kind)
{
	static int (*const order[])(const void *, const void *, void *) = {
		[POLICY_EXACT] = by_length, [POLICY_PREFIX] = by_bytes, [POLICY_SUFFIX] = by_end};
	uint32_t kept = 0;

	if (!n)
		return 0;
	qsort_r(t, n, sizeof(*t), order[kind], s);
	for (uint32_t i = 1; i < n; i++)
		if (!covers(s, &t[kept], &t[i], kind))
			t[++kept] = t[i];
	return kept + 1;
}

static int by_net(const void *a, const void *b)
{
	const struct net *x = a, *y = b;
	int r = memcmp(x->ip, y->ip, sizeof(x->ip));

	return r ? r : (x->bits > y->bits) - (x->bits < y->bits);
}

static uint32_t nets_sort(struct net *t, uint32_t n)
{
	uint32_t kept = 0;
	uint8_t ip[16];

	if (!n)
		return 0;
	qsort(t, n, sizeof(*t), by_net);
	for (uint32_t i = 1; i < n; i++) {
		net_mask(t[i].ip, t[kept].bits, ip);
		if (t[kept].bits > t[i].bits || memcmp(ip, t[kept].ip, sizeof(ip)) != 0)
			t[++kept] = t[i];
	}
	return kept + 1;
}

static int by_port(const void *a, const void *b)
{
	const struct cfg_ports *x = a, *y = b;

	return (x->first > y->first) - (x->first < y->first);
}

static uint32_t ports_sort(struct cfg_ports *t, uint32_t n)
{
	uint32_t kept = 0;

	if (!n)
		return 0;
	qsort(t, n, sizeof(*t), by_port);
	for (uint32_t i = 1; i < n; i++) {
		if (t[i].first > t[kept].last + 1u)
			t[++kept] = t[i];
		else if (t[i].last > t[kept].last)
			t[kept].last = t[i].last;
	}
	return kept + 1;
}

static int by_id(const void *a, const void *b)
{
	const uint32_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

static uint32_t ids_sort(uint32_t *t, uint32_t n)
{
	uint32_t kept = 0;

	if (!n)
		return 0;
	qsort(t, n, sizeof(*t), by_id);
	for (uint32_t i = 1; i < n; i++)
		if (t[i] != t[kept])
			t[++kept] = t[i];
	return kept + 1;
}

/* ---- values */

/* Return: the index of metadata name @name, or POLICY_NONE: too many */
static uint32_t name_add(struct compile *c, const char *name)
{
	struct policy_set *s = c->s;
	uint32_t i;

	for (i = 0; i < s->n_names; i++)
		if (!strcmp(c->name[i], name))
			return i;
	if (i == POLICY_NAMES_MAX)
		return POLICY_NONE;
	c->name[i] = name;
	s->name[i].n = (uint32_t)strlen(name);
	s->name[i].at = add_bytes(c, name, s->name[i].n);
	s->n_names++;
	return i;
}

static uint32_t lower(struct policy_set *s, uint32_t at)
{
	for (char *p = s->heap + at; *p; p++)
		if (*p >= 'A' && *p <= 'Z')
			*p |= 0x20;
	return at;
}

static int texts_add(struct compile *c, const struct policy *p, const struct policy_match *m, struct match *to)
{
	uint32_t done = 0;

	to->at = reserve(c, m->n, sizeof(struct text));
	for (enum policy_text_kind kind = POLICY_EXACT; kind <= POLICY_SUFFIX; kind++)
		for (uint32_t i = 0; i < m->n; i++) {
			const struct policy_text *t = &m->texts[i];
			uint32_t n = (uint32_t)strlen(t->text), at;

			if (t->kind != kind)
				continue;
			if (!n)
				return refuse(c, p, "a value is empty");
			at = add_bytes(c, t->text, n);
			if (c->fill)
				((struct text *)(c->s->heap + to->at))[done] =
					(struct text){m->field == POLICY_AUTHORITY ? lower(c->s, at) : at, n};
			to->n[kind]++;
			done++;
		}
	return 0;
}

static int nets_add(struct compile *c, const struct policy *p, const struct policy_match *m, struct match *to)
{
	uint32_t done = 0;

	to->at = reserve(c, m->n, sizeof(struct net));
	for (int v6 = 0; v6 < 2; v6++)
		for (uint32_t i = 0; i < m->n; i++) {
			const struct cidr *n = &m->nets[i];
			struct net *net;

			if (n->port_last)
				return refuse(c, p, "a network with ports");
			if (n->net.family == AF_UNSPEC) { /* "*" */
				to->flags |= M_PRESENT;
				continue;
			}
			if ((n->net.family == AF_INET6) != v6)
				continue;
			if (c->fill) {
				net = (struct net *)(c->s->heap + to->at) + done;
				net->bits = n->bits;
				net_mask(n->net.ip, n->bits, net->ip);
			}
			to->n[v6]++;
			done++;
		}
	return 0;
}

static int ports_add(struct compile *c, const struct policy *p, const struct policy_match *m, struct match *to)
{
	to->at = reserve(c, m->n, sizeof(struct cfg_ports));
	for (uint32_t i = 0; i < m->n; i++)
		if (!m->ports[i].first || m->ports[i].first > m->ports[i].last)
			return refuse(c, p, "ports in the wrong order");
	if (c->fill && m->n)
		memcpy(c->s->heap + to->at, m->ports, m->n * sizeof(*m->ports));
	to->n[0] = m->n;
	return 0;
}

static int listeners_add(struct compile *c, const struct policy *p, const struct policy_match *m, struct match *to)
{
	to->at = reserve(c, m->n, sizeof(uint32_t));
	for (uint32_t i = 0; i < m->n; i++)
		if (m->listeners[i] >= c->s->n_listeners)
			return refuse(c, p, "there is no such listener");
	if (c->fill && m->n)
		memcpy(c->s->heap + to->at, m->listeners, m->n * sizeof(*m->listeners));
	to->n[0] = m->n;
	return 0;
}

static void texts_order(struct policy_set *s, struct match *m)
{
	struct text *t = (struct text *)(s->heap + m->at), *from = t;
	uint32_t n;

	for (enum policy_text_kind kind = POLICY_EXACT; kind <= POLICY_SUFFIX; kind++) {
		n = texts_sort(s, from, m->n[kind], kind);
		memmove(t, from, n * sizeof(*t));
		from += m->n[kind];
		t += n;
		m->n[kind] = n;
	}
}

static void nets_order(struct policy_set *s, struct match *m)
{
	struct net *t = (struct net *)(s->heap + m->at), *v6 = t + m->n[0];

	m->n[0] = nets_sort(t, m->n[0]);
	m->n[1] = nets_sort(v6, m->n[1]);
	memmove(t + m->n[0], v6, m->n[1] * sizeof(*t));
}

static void values_sort(struct policy_set *s, struct match *m)
{
	switch ((enum policy_field)m->field) {
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY:
	case POLICY_METADATA: texts_order(s, m); break;
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP: nets_order(s, m); break;
	case POLICY_DESTINATION_PORT: m->n[0] = ports_sort((struct cfg_ports *)(s->heap + m->at), m->n[0]); break;
	case POLICY_LISTENER: m->n[0] = ids_sort((uint32_t *)(s->heap + m->at), m->n[0]); break;
	case POLICY_FIELDS: break;
	}
}

/* @ret: NULL while measuring */
static int match_add(struct compile *c, const struct policy *p, const struct policy_match *m, struct match *ret)
{
	struct match to = {.field = (uint8_t)m->field};
	uint32_t name;
	int r = 0;

	to.flags = (uint8_t)((m->negate ? M_NEGATE : 0) | (m->present ? M_PRESENT : 0) | (p->action == POLICY_DENY ? M_DENY : 0));
	switch (m->field) {
	case POLICY_METADATA:
		name = m->name && *m->name ? name_add(c, m->name) : POLICY_NONE;
		if (name == POLICY_NONE)
			return refuse(c, p, "more than 64 different metadata names in all policies, or one without a name");
		to.name = (uint16_t)name;
		/* fall through */
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY: r = texts_add(c, p, m, &to); break;
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP: r = nets_add(c, p, m, &to); break;
	case POLICY_DESTINATION_PORT: r = ports_add(c, p, m, &to); break;
	case POLICY_LISTENER: r = listeners_add(c, p, m, &to); break;
	case POLICY_FIELDS: return refuse(c, p, "an unknown match");
	}
	if (r < 0)
		return r;
	c->values += m->n;
	if (!(to.flags & M_PRESENT) && !(to.n[0] | to.n[1] | to.n[2]))
		to.flags |= M_EMPTY;
	if (ret) {
		values_sort(c->s, &to);
		c->s->fields |= BIT(m->field);
		*ret = to;
	}
	return 0;
}

/* ---- policies */

/* what is cheap to look at goes first */
static int by_cost(const void *a, const void *b)
{
	static const uint8_t cost[POLICY_FIELDS] = {
		[POLICY_LISTENER] = 0,	[POLICY_DESTINATION_PORT] = 1, [POLICY_NAMESPACE] = 2, [POLICY_SERVICE_ACCOUNT] = 3,
		[POLICY_PRINCIPAL] = 4, [POLICY_SOURCE_IP] = 5,	       [POLICY_DESTINATION_IP] = 6, [POLICY_TRUST_DOMAIN] = 7,
		[POLICY_METADATA] = 8,	[POLICY_AUTHORITY] = 9};
	const struct match *x = a, *y = b;

	return cost[x->field] - cost[y->field];
}

static int rule_add(struct compile *c, const struct policy *p, uint32_t policy, uint32_t rule)
{
	const struct policy_rule *from = &p->rules[rule];
	struct clause to = {.policy = policy, .rule = rule, .n = (uint16_t)from->n, .empty = !from->n, .everywhere = p->everywhere};
	struct match *m;

	if (from->n > UINT16_MAX)
		return refuse(c, p, "too many matches in a rule");
	to.match = reserve(c, from->n, sizeof(*m));
	m = c->fill ? (struct match *)(c->s->heap + to.match) : NULL;
	for (uint32_t i = 0; i < from->n; i++) {
		int r = match_add(c, p, &from->matches[i], m ? &m[i] : NULL);

		if (r < 0)
			return r;
	}
	if (m) {
		for (uint32_t i = 0; i < from->n; i++)
			to.empty |= m[i].flags & M_EMPTY;
		qsort(m, to.n, sizeof(*m), by_cost);
		c->s->clause[c->s->n_clauses] = to;
	}
	c->s->n_clauses++;
	return 0;
}

static int scope_add(struct compile *c, const struct policy *p, struct pol *to)
{
	struct policy_set *s = c->s;
	uint32_t *id;

	to->n_points = p->n_listeners + p->n_clusters;
	to->points = reserve(c, to->n_points, sizeof(*id));
	for (uint32_t i = 0; i < p->n_listeners; i++)
		if (p->listeners[i] >= s->n_listeners)
			return refuse(c, p, "there is no such listener");
	for (uint32_t i = 0; i < p->n_clusters; i++)
		if (p->clusters[i] >= s->n_points - s->n_listeners)
			return refuse(c, p, "there is no such cluster");
	if (!c->fill)
		return 0;
	id = (uint32_t *)(s->heap + to->points);
	for (uint32_t i = 0; i < p->n_listeners; i++)
		id[i] = p->listeners[i];
	for (uint32_t i = 0; i < p->n_clusters; i++)
		id[p->n_listeners + i] = s->n_listeners + p->clusters[i];
	to->n_points = ids_sort(id, to->n_points);
	if (p->action != POLICY_ALLOW || p->elsewhere)
		return 0;
	for (uint32_t i = 0; i < to->n_points; i++)
		s->point[id[i]] |= p->dry_run ? P_DRY_ALLOW : P_ALLOW;
	if (p->everywhere && p->dry_run)
		s->dry_allow_everywhere = true;
	else if (p->everywhere)
		s->allow_everywhere = true;
	return 0;
}

static enum rank rank_of(const struct policy *p)
{
	if (p->action == POLICY_DENY)
		return p->dry_run ? RANK_DRY_DENY : RANK_DENY;
	return p->dry_run ? RANK_DRY_ALLOW : RANK_ALLOW;
}

static int policy_add(struct compile *c, const struct policy *p, uint32_t index)
{
	struct pol to = {.clause = c->s->n_clauses, .n_rules = p->n_rules, .action = (uint8_t)p->action, .dry_run = p->dry_run,
			 .everywhere = p->everywhere, .elsewhere = p->elsewhere};
	int r = 0;

	c->values = 0;
	for (uint32_t i = 0; r == 0 && i < p->n_rules; i++)
		r = rule_add(c, p, index, i);
	to.name = add_bytes(c, p->name, strlen(p->name));
	to.values = c->values;
	if (r == 0)
		r = scope_add(c, p, &to);
	if (r == 0 && c->heap > HEAP_MAX)
		return refuse(c, p, "too many values in all policies");
	if (r == 0 && c->fill)
		c->s->pol[index] = to;
	return r;
}

static int walk(struct compile *c, const struct policy *p, uint32_t n)
{
	struct policy_set *s = c->s;

	c->heap = 0;
	s->n_clauses = s->n_names = 0;
	for (enum rank k = RANK_DENY; k < RANKS; k++) {
		for (uint32_t i = 0; i < n; i++) {
			int r = rank_of(&p[i]) == k ? policy_add(c, &p[i], i) : 0;

			if (r < 0)
				return r;
		}
		s->rank_end[k] = s->n_clauses;
	}
	return 0;
}

/* ---- memory */

struct room {
	char *at; /* NULL: only measuring */
	size_t n;
};

static void *take(struct room *r, size_t n, size_t size)
{
	size_t at = (r->n + 15) & ~(size_t)15;

	r->n = at + n * size;
	return r->at ? r->at + at : NULL;
}

/* the same cuts while measuring and afterwards */
static void carve(struct policy_set *s, struct room *r, size_t heap)
{
	s->pol = take(r, s->n_policies, sizeof(*s->pol));
	s->clause = take(r, s->n_clauses, sizeof(*s->clause));
	s->point = take(r, s->n_points, sizeof(*s->point));
	s->heap = take(r, heap, 1);
}

int policy_compile(const struct policy *p, uint32_t n, uint32_t n_listeners, uint32_t n_clusters, uint64_t seed, struct policy_set **ret,
		   struct err *reterr)
{
	struct policy_set head = {.seed = seed, .n_policies = n, .n_listeners = n_listeners, .n_points = n_listeners + n_clusters}, *s;
	struct compile c = {.s = &head, .err = reterr};
	struct room room = {.n = sizeof(head)};
	int r;

	if (n > POLICY_MAX)
		return err_set(reterr, -EINVAL, "%u policies are too many, at most %u", n, POLICY_MAX);
	r = walk(&c, p, n);
	if (r < 0)
		return r;
	carve(&head, &room, c.heap);
	s = calloc(1, room.n);
	if (!s)
		return err_set(reterr, -ENOMEM, "out of memory");
	room.at = (char *)s;
	room.n = sizeof(head);
	*s = head;
	carve(s, &room, c.heap);
	s->bytes = room.n;
	c.s = s;
	c.fill = true;
	(void)walk(&c, p, n); /* what can be refused was */
	r = index_build(s);
	if (r < 0) {
		policy_free(s);
		return err_set(reterr, r, "out of memory");
	}
	*ret = s;
	return 0;
}

void policy_free(struct policy_set *s)
{
	if (!s)
		return;
	free(s->index);
	free(s);
}
