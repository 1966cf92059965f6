/*
 * The verdict. The runs found by the index are ascending lists of rules, ordered by class: DENY, ALLOW, then both in dry run. Of each
 * class the first rule that matches is looked for, by going through all runs and leaving each at the first match or at what is
 * behind the best so far. So the answer does not depend on how the index came to its candidates.
 */
#include "policy/set.h"
#include <string.h>

/* ---- values: binary searches, see compile.c for the orders */

static bool exact_has(const struct policy_set *s, const struct text *t, uint32_t n, struct slice v)
{
	uint32_t lo = 0, mid;
	int r;

	while (lo < n) {
		mid = lo + (n - lo) / 2;
		r = t[mid].n != v.n ? (t[mid].n < v.n ? -1 : 1) : memcmp(set_text(s, &t[mid]), v.p, v.n);
		if (!r)
			return true;
		if (r < 0)
			lo = mid + 1;
		else
			n = mid;
	}
	return false;
}

static bool prefix_has(const struct policy_set *s, const struct text *t, uint32_t n, struct slice v)
{
	uint32_t lo = 0, mid;
	int r;

	while (lo < n) { /* lo: behind the greatest that is not above v */
		mid = lo + (n - lo) / 2;
		r = memcmp(set_text(s, &t[mid]), v.p, t[mid].n < v.n ? t[mid].n : v.n);
		if (r < 0 || (!r && t[mid].n <= v.n))
			lo = mid + 1;
		else
			n = mid;
	}
	return lo && t[lo - 1].n <= v.n && !memcmp(set_text(s, &t[lo - 1]), v.p, t[lo - 1].n);
}

static int end_compare(struct slice a, struct slice b)
{
	size_t n = a.n < b.n ? a.n : b.n;

	for (size_t i = 1; i <= n; i++)
		if (a.p[a.n - i] != b.p[b.n - i])
			return (uint8_t)a.p[a.n - i] < (uint8_t)b.p[b.n - i] ? -1 : 1;
	return 0;
}

static bool suffix_has(const struct policy_set *s, const struct text *t, uint32_t n, struct slice v)
{
	uint32_t lo = 0, mid;
	struct slice x;
	int r;

	while (lo < n) {
		mid = lo + (n - lo) / 2;
		x = (struct slice){set_text(s, &t[mid]), t[mid].n};
		r = end_compare(x, v);
		if (r < 0 || (!r && x.n <= v.n))
			lo = mid + 1;
		else
			n = mid;
	}
	return lo && t[lo - 1].n <= v.n && !end_compare((struct slice){set_text(s, &t[lo - 1]), t[lo - 1].n}, v);
}

static bool net_has(const struct net *t, uint32_t n, const uint8_t ip[16])
{
	uint32_t lo = 0, mid;
	uint8_t cut[16];

	while (lo < n) {
		mid = lo + (n - lo) / 2;
		if (memcmp(t[mid].ip, ip, sizeof(t->ip)) <= 0)
			lo = mid + 1;
		else
			n = mid;
	}
	if (!lo)
		return false;
	net_mask(ip, t[lo - 1].bits, cut);
	return !memcmp(cut, t[lo - 1].ip, sizeof(cut));
}

static bool port_has(const struct cfg_ports *t, uint32_t n, uint16_t port)
{
	uint32_t lo = 0, mid;

	while (lo < n) {
		mid = lo + (n - lo) / 2;
		if (t[mid].first <= port)
			lo = mid + 1;
		else
			n = mid;
	}
	return lo && port <= t[lo - 1].last;
}

static bool id_has(const uint32_t *t, uint32_t n, uint32_t id)
{
	uint32_t lo = 0, mid;

	while (lo < n) {
		mid = lo + (n - lo) / 2;
		if (t[mid] == id)
			return true;
		if (t[mid] < id)
			lo = mid + 1;
		else
			n = mid;
	}
	return false;
}

/* ---- matches */

enum state match_state(const struct match *m, const struct facts *f)
{
	switch ((enum policy_field)m->field) {
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY:
	case POLICY_METADATA: return f->state[channel_of(m)];
	case POLICY_SOURCE_IP: return f->source.family != AF_UNSPEC ? VALUE : ABSENT;
	case POLICY_DESTINATION_IP: return f->destination.family != AF_UNSPEC ? VALUE : ABSENT;
	case POLICY_DESTINATION_PORT: return f->port ? VALUE : ABSENT;
	case POLICY_LISTENER: return VALUE;
	case POLICY_FIELDS: break;
	}
	return UNCLEAR;
}

static bool texts_have(const struct policy_set *s, const struct match *m, struct slice v, bool prefixes)
{
	const struct text *t = set_texts(s, m);

	return (m->n[0] && exact_has(s, t, m->n[0], v)) || (m->n[1] && prefixes && prefix_has(s, t + m->n[0], m->n[1], v)) ||
	       (m->n[2] && suffix_has(s, t + m->n[0] + m->n[1], m->n[2], v));
}

/* does one of the values of @m match what @f has? */
static bool values_have(const struct policy_set *s, const struct match *m, const struct facts *f)
{
	const struct addr *a = m->field == POLICY_SOURCE_IP ? &f->source : &f->destination;

	switch ((enum policy_field)m->field) {
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_METADATA: return texts_have(s, m, f->text[channel_of(m)], true);
	case POLICY_AUTHORITY: /* a prefix of the host is one of all of it */
		return texts_have(s, m, f->text[CH_AUTHORITY], true) || texts_have(s, m, f->text[CH_HOST], false);
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP:
		return a->family == AF_INET ? net_has(set_nets(s, m), m->n[0], a->ip) : net_has(set_nets(s, m) + m->n[0], m->n[1], a->ip);
	case POLICY_DESTINATION_PORT: return port_has(set_ports(s, m), m->n[0], f->port);
	case POLICY_LISTENER: return id_has(set_ids(s, m->at), m->n[0], f->listener);
	case POLICY_FIELDS: break;
	}
	return false;
}

bool match_ok(const struct policy_set *s, const struct match *m, const struct facts *f)
{
	bool negate = m->flags & M_NEGATE, present = m->flags & M_PRESENT, deny = m->flags & M_DENY;

	if (m->flags & M_EMPTY)
		return false;
	switch (match_state(m, f)) {
	case ABSENT: return negate && (present || deny);
	case UNCLEAR: return present ? !negate : deny;
	case VALUE: return (present || values_have(s, m, f)) != negate;
	}
	return false;
}

bool scope_has(const struct policy_set *s, const struct pol *p, uint32_t point)
{
	return p->everywhere || id_has(set_ids(s, p->points), p->n_points, point);
}

/* a rule that the index knows: not empty, not elsewhere */
static bool clause_ok(const struct policy_set *s, const struct clause *c, const struct facts *f, uint32_t point)
{
	if (!c->everywhere && !scope_has(s, &s->pol[c->policy], point))
		return false;
	for (uint32_t i = 0; i < c->n; i++)
		if (!match_ok(s, &set_matches(s, c)[i], f))
			return false;
	return true;
}

/* ---- the verdict */

struct search {
	const struct policy_set *s;
	const struct facts *f;
	uint32_t point, n;
	struct run run[RUNS_MAX];
};

static void search_begin(struct search *q, const struct policy_set *s, const struct facts *f, uint32_t point)
{
	uint64_t hash[TYPES_MAX];

	q->s = s;
	q->f = f;
	q->point = point;
	q->n = f->n_runs;
	memcpy(q->run, f->run, q->n * sizeof(*q->run));
	if (s->n_placed == s->n_tuples)
		return;
	memcpy(hash, f->hash, s->n_types * sizeof(*hash));
	hash[s->point_type] = index_hash(s, s->point_type, &point, sizeof(point));
	q->n += index_look(s, s->n_placed, s->n_tuples, f->has, hash, q->run + q->n);
}

/* go on in each run to the rules of class @k */
static void search_skip(struct search *q, enum rank k)
{
	uint32_t first = k ? q->s->rank_end[k - 1] : 0;

	for (uint32_t i = 0; i < q->n; i++) {
		const uint32_t *lo = q->run[i].at, *hi = q->run[i].end;

		while (lo < hi) {
			const uint32_t *mid = lo + (hi - lo) / 2;

			if (*mid < first)
				lo = mid + 1;
			else
				hi = mid;
		}
		q->run[i].at = lo;
	}
}

/* Return: the first rule of class @k that matches, or NULL */
static const struct clause *search_first(struct search *q, enum rank k)
{
	uint32_t first = k ? q->s->rank_end[k - 1] : 0, end = q->s->rank_end[k], best = end;

	if (first == end)
		return NULL;
	search_skip(q, k);
	for (uint32_t i = 0; i < q->n; i++)
		for (const uint32_t *at = q->run[i].at; at < q->run[i].end && *at < best; at++)
			if (clause_ok(q->s, &q->s->clause[*at], q->f, q->point))
				best = *at;
	return best == end ? NULL : &q->s->clause[best];
}

/* all policies of class @k with a rule that matches, each once, with the first of its rules, in order, as long as there is room */
static void search_dry(struct search *q, enum rank k, bool allow, struct policy_verdict *ret)
{
	uint32_t end = q->s->rank_end[k], begin = ret->n_dry, best[POLICY_DRY_MAX], n = 0, room = POLICY_DRY_MAX - begin;

	if (end == (k ? q->s->rank_end[k - 1] : 0) || !room)
		return;
	search_skip(q, k);
	for (uint32_t i = 0; i < q->n; i++)
		for (const uint32_t *at = q->run[i].at; at < q->run[i].end && *at < end; at++) {
			const struct clause *c = &q->s->clause[*at];
			uint32_t to = 0;

			if (n == room && *at > best[n - 1])
				break;
			if (!clause_ok(q->s, c, q->f, q->point))
				continue;
			while (to < n && q->s->clause[best[to]].policy < c->policy)
				to++;
			if (to < n && q->s->clause[best[to]].policy == c->policy) {
				best[to] = *at < best[to] ? *at : best[to];
				continue;
			}
			if (n < room)
				n++;
			memmove(&best[to + 1], &best[to], (n - 1 - to) * sizeof(*best));
			best[to] = *at;
		}
	for (uint32_t i = 0; i < n; i++) {
		ret->dry[ret->n_dry].policy = q->s->clause[best[i]].policy;
		ret->dry[ret->n_dry].rule = q->s->clause[best[i]].rule;
		ret->dry[ret->n_dry++].allow = allow;
	}
}

static void decided(struct policy_verdict *v, bool allowed, const struct clause *by)
{
	v->allowed = allowed;
	v->policy = by ? by->policy : POLICY_NONE;
	v->rule = by ? by->rule : POLICY_NONE;
}

void policy_decide(const struct policy_set *s, const struct policy_facts *facts, enum policy_place at, uint32_t id,
		   struct policy_verdict *ret)
{
	const struct facts *f = (const struct facts *)facts;
	uint32_t point = set_point(s, at, id);
	const struct clause *c;
	struct search q;
	bool asked;

	ret->n_dry = 0;
	ret->dry_default = false;
	search_begin(&q, s, f, point);
	c = search_first(&q, RANK_DENY);
	if (c) {
		decided(ret, false, c);
		return;
	}
	asked = s->allow_everywhere || s->point[point] & P_ALLOW;
	c = asked ? search_first(&q, RANK_ALLOW) : NULL;
	decided(ret, !asked || c, c);
	if (ret->allowed)
		search_dry(&q, RANK_DRY_DENY, false, ret);
	else
		search_dry(&q, RANK_DRY_ALLOW, true, ret);
	if (!asked && (s->dry_allow_everywhere || s->point[point] & P_DRY_ALLOW))
		ret->dry_default = !search_first(&q, RANK_DRY_ALLOW);
}
