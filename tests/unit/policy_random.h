#pragma once
/*
 * Random policies and inputs, and what they should lead to: an evaluator written from the words of policy/policy.h, with no index, no
 * order of values, no cleverness. Numbers come from rand.h or from a fuzzer's bytes.
 */
#include "model/config.h"
#include "policy/policy.h"
#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>

#define R_LISTENERS 4u
#define R_CLUSTERS  3u
#define R_RULES	    3u
#define R_MATCHES   4u
#define R_VALUES    4u
#define R_TEXT	    48u

/* where numbers come from: 0 to n - 1 */
struct picker {
	uint32_t (*below)(struct picker *p, uint32_t n);
	uint32_t words; /* 1; more: more different values, and rules that are harder to match */
};
static inline uint32_t pick(struct picker *p, uint32_t n)
{
	return n > 1 ? p->below(p, n) : 0;
}
/* one in @n */
static inline bool rarely(struct picker *p, uint32_t n)
{
	return pick(p, n) == 0;
}

struct r_match {
	char name[16], text[R_VALUES][R_TEXT];
	struct policy_text texts[R_VALUES];
	struct cidr nets[R_VALUES];
	struct cfg_ports ports[R_VALUES];
	uint32_t listeners[R_VALUES];
};
struct r_policy {
	char name[16];
	uint32_t listeners[R_LISTENERS], clusters[R_CLUSTERS];
	struct policy_rule rules[R_RULES];
	struct policy_match matches[R_RULES][R_MATCHES];
	struct r_match m[R_RULES][R_MATCHES];
};
struct r_set {
	struct policy *p;
	struct r_policy *r;
	uint32_t n;
};
struct r_input {
	struct policy_input in;
	char principal[R_TEXT], authority[400];
	union {
		struct metadata md;
		char room[512];
	};
};

/* ---- values: few, so that they meet */

static inline void r_word(struct picker *p, char *out, const char *kind, uint32_t n)
{
	snprintf(out, 16, "%s%u", kind, pick(p, n * p->words));
}

static inline void r_principal(struct picker *p, char out[R_TEXT])
{
	snprintf(out, R_TEXT, rarely(p, 6) ? "spiffe://td%u/agent/n%u" : "spiffe://td%u/ns/n%u/sa/s%u", pick(p, 2), pick(p, 3 * p->words),
		 pick(p, 3));
}

static inline void r_authority(struct picker *p, char *out, size_t n, bool value)
{
	static const char *const host[] = {"db.prod", "web.prod", "Db.Dev", "prod", "10.0.0.1", "[2001:db8::1]"};

	snprintf(out, n, "%s%s", host[pick(p, 6)], !value && rarely(p, 5) ? "." : "");
	if (!value || rarely(p, 2))
		snprintf(out + strlen(out), n - strlen(out), ":%u", 80 + pick(p, 3));
}

static inline void r_addr(struct picker *p, struct addr *a)
{
	memset(a, 0, sizeof(*a));
	a->family = rarely(p, 3) ? AF_INET6 : AF_INET;
	a->ip[0] = (uint8_t)(10 + pick(p, 2));
	a->ip[1] = (uint8_t)(pick(p, 2) * 128);
	a->ip[a->family == AF_INET ? 3 : 15] = (uint8_t)pick(p, 4 * p->words);
	if (rarely(p, 4))
		a->ip[2] = (uint8_t)(1u << pick(p, 8));
}

static inline void r_net(struct picker *p, struct cidr *c)
{
	uint32_t full;

	memset(c, 0, sizeof(*c));
	if (rarely(p, 24))
		return; /* "*" */
	r_addr(p, &c->net);
	full = c->net.family == AF_INET ? 32 : 128;
	c->bits = (uint8_t)(rarely(p, 3) ? full : rarely(p, 2) ? pick(p, full + 1) : full / 4 * pick(p, 4));
	for (uint32_t i = c->bits; i < full; i++)
		c->net.ip[i / 8] &= (uint8_t)~(0x80 >> i % 8);
}

/* of all it can be, the beginning or the end of it, sometimes */
static inline void r_text(struct picker *p, char *s, struct policy_text *t)
{
	size_t n = strlen(s), cut;

	t->kind = rarely(p, 2) ? POLICY_EXACT : rarely(p, 2) ? POLICY_PREFIX : POLICY_SUFFIX;
	cut = pick(p, (uint32_t)n);
	t->text = s;
	if (t->kind == POLICY_PREFIX)
		s[n - cut] = '\0';
	else if (t->kind == POLICY_SUFFIX)
		t->text = s + cut;
}

static inline void r_match(struct picker *p, struct policy_match *m, struct r_match *r, uint32_t names)
{
	*m = (struct policy_match){.field = (enum policy_field)pick(p, POLICY_FIELDS), .negate = rarely(p, 5 * p->words),
				  .present = rarely(p, 16 * p->words)};
	m->n = rarely(p, 24) ? 0 : 1 + pick(p, rarely(p, 3) ? R_VALUES : 1);
	if (m->present && rarely(p, 2))
		m->n = 0;
	for (uint32_t i = 0; i < m->n; i++) {
		char *s = r->text[i];

		switch (m->field) {
		case POLICY_PRINCIPAL: r_principal(p, s); break;
		case POLICY_TRUST_DOMAIN: r_word(p, s, "td", 3); break;
		case POLICY_NAMESPACE: r_word(p, s, "n", 4); break;
		case POLICY_SERVICE_ACCOUNT: r_word(p, s, "s", 4); break;
		case POLICY_AUTHORITY: r_authority(p, s, R_TEXT, true); break;
		case POLICY_METADATA: r_word(p, s, "v", 4); break;
		case POLICY_SOURCE_IP:
		case POLICY_DESTINATION_IP: r_net(p, &r->nets[i]); continue;
		case POLICY_DESTINATION_PORT:
			r->ports[i].first = (uint16_t)(79 + pick(p, 5 * p->words));
			r->ports[i].last = (uint16_t)(r->ports[i].first + (rarely(p, 3 * p->words) ? pick(p, 100) : 0));
			continue;
		case POLICY_LISTENER: r->listeners[i] = pick(p, R_LISTENERS); continue;
		case POLICY_FIELDS: continue;
		}
		r_text(p, s, &r->texts[i]);
	}
	switch (m->field) {
	case POLICY_METADATA:
		snprintf(r->name, sizeof(r->name), "m%u", pick(p, names));
		m->name = r->name;
		m->texts = r->texts;
		break;
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP: m->nets = r->nets; break;
	case POLICY_DESTINATION_PORT: m->ports = r->ports; break;
	case POLICY_LISTENER: m->listeners = r->listeners; break;
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY:
	case POLICY_FIELDS: m->texts = r->texts; break;
	}
}

static inline void r_policy(struct picker *p, struct policy *to, struct r_policy *r, uint32_t i, uint32_t names)
{
	snprintf(r->name, sizeof(r->name), "p%u", i);
	*to = (struct policy){.name = r->name, .action = rarely(p, 3 * p->words) ? POLICY_DENY : POLICY_ALLOW, .dry_run = rarely(p, 4),
			      .everywhere = pick(p, 3) > 0, .elsewhere = rarely(p, 20), .listeners = r->listeners, .clusters = r->clusters,
			      .rules = r->rules, .n_rules = rarely(p, 10) ? 0 : 1 + pick(p, R_RULES)};
	if (!to->everywhere) {
		to->n_listeners = pick(p, R_LISTENERS);
		to->n_clusters = pick(p, R_CLUSTERS);
	}
	for (uint32_t k = 0; k < to->n_listeners; k++)
		r->listeners[k] = pick(p, R_LISTENERS);
	for (uint32_t k = 0; k < to->n_clusters; k++)
		r->clusters[k] = pick(p, R_CLUSTERS);
	for (uint32_t k = 0; k < to->n_rules; k++) {
		r->rules[k] = (struct policy_rule){r->matches[k], rarely(p, 16) ? 0 : 1 + pick(p, R_MATCHES - (p->words > 1)) + (p->words > 1)};
		for (uint32_t m = 0; m < r->rules[k].n; m++)
			r_match(p, &r->matches[k][m], &r->m[k][m], names);
	}
}

/** r_set_make() - NULL members: out of memory */
static inline struct r_set r_set_make(struct picker *p, uint32_t n)
{
	struct r_set s = {calloc(n + 1u, sizeof(*s.p)), calloc(n + 1u, sizeof(*s.r)), n};
	uint32_t names = rarely(p, 8) ? POLICY_NAMES_MAX : 4;

	for (uint32_t i = 0; s.p && s.r && i < n; i++)
		r_policy(p, &s.p[i], &s.r[i], i, names);
	return s;
}

static inline void r_set_free(struct r_set *s)
{
	free(s->p);
	free(s->r);
}

static inline void r_metadata(struct picker *p, struct r_input *r)
{
	uint32_t n = pick(p, 5), at = 1;
	char *text = r->room + sizeof(r->md);

	memset(r->room, 0, sizeof(r->room));
	for (uint32_t i = 0; i < n; i++) {
		at += (uint32_t)snprintf(text + at, 16, "m%u", pick(p, 6)) + 1;
		if (!rarely(p, 8))
			at += (uint32_t)snprintf(text + at, 16, "v%u", pick(p, 4));
		at++;
	}
	r->md.size = (uint32_t)sizeof(r->md) + at;
	r->md.n = (uint16_t)n;
	r->in.md = rarely(p, 8) ? NULL : &r->md;
}

static inline struct slice r_part(const char *s, uint32_t which)
{
	const char *at = s;

	while (which--)
		at = strchr(at, '/') + 1;
	return (struct slice){at, strcspn(at, "/")};
}

/* as codec/spiffe.h takes it apart; @r->in refers to @r */
static inline void r_input(struct picker *p, struct r_input *r)
{
	memset(&r->in, 0, sizeof(r->in));
	if (!rarely(p, 4)) {
		r_principal(p, r->principal);
		r->in.principal = (struct slice){r->principal, strlen(r->principal)};
		r->in.trust_domain = r_part(r->principal, 2);
		if (strstr(r->principal, "/sa/")) {
			r->in.ns = r_part(r->principal, 4);
			r->in.sa = r_part(r->principal, 6);
		}
	}
	if (!rarely(p, 5)) {
		r_authority(p, r->authority, sizeof(r->authority), false);
		if (rarely(p, 30)) {
			memset(r->authority, 'a', 390);
			strcpy(r->authority + 390, ".prod:80");
		}
		r->in.authority = (struct slice){r->authority, strlen(r->authority)};
	}
	if (!rarely(p, 8))
		r_addr(p, &r->in.source);
	if (!rarely(p, 4))
		r_addr(p, &r->in.destination);
	r->in.port = (uint16_t)(rarely(p, 16) ? 0 : 79 + pick(p, 8 * p->words));
	r->in.listener = pick(p, R_LISTENERS);
	r_metadata(p, r);
}

/* ---- what should come of it */

/* the value of @m's field: 0 absent, 1 it is @ret, 2 unclear */
static inline int naive_value(const struct policy_match *m, const struct policy_input *in, struct slice *ret)
{
	const char *name, *value;
	uint32_t pos = 0;
	int found = 0;

	switch (m->field) {
	case POLICY_PRINCIPAL: *ret = in->principal; break;
	case POLICY_TRUST_DOMAIN: *ret = in->trust_domain; break;
	case POLICY_NAMESPACE: *ret = in->ns; break;
	case POLICY_SERVICE_ACCOUNT: *ret = in->sa; break;
	case POLICY_AUTHORITY: *ret = in->authority; break;
	case POLICY_METADATA:
		while (metadata_each(in->md, &pos, &name, &value)) {
			if (strcmp(name, m->name))
				continue;
			if (found && !slice_is(*ret, value))
				return 2;
			*ret = (struct slice){value, strlen(value)};
			found = 1;
		}
		return found;
	case POLICY_SOURCE_IP: return in->source.family != AF_UNSPEC;
	case POLICY_DESTINATION_IP: return in->destination.family != AF_UNSPEC;
	case POLICY_DESTINATION_PORT: return in->port != 0;
	case POLICY_LISTENER:
	case POLICY_FIELDS: return 1;
	}
	if (m->field == POLICY_AUTHORITY && ret->p && ret->n > 320)
		return 2;
	return ret->p != NULL;
}

static inline bool naive_text(const struct policy_text *t, struct slice v)
{
	size_t n = strlen(t->text);

	switch (t->kind) {
	case POLICY_EXACT: return v.n == n && !memcmp(v.p, t->text, n);
	case POLICY_PREFIX: return v.n >= n && !memcmp(v.p, t->text, n);
	case POLICY_SUFFIX: return v.n >= n && !memcmp(v.p + v.n - n, t->text, n);
	}
	return false;
}

/* with the port, or without; a dot behind the host does not count, nor does case */
static inline bool naive_authority(const struct policy_text *t, struct slice v)
{
	char all[400], host[400], want[R_TEXT], *port;
	struct policy_text lower = {t->kind, want};

	snprintf(all, sizeof(all), "%.*s", (int)v.n, v.p);
	for (char *s = all; *s; s++)
		*s = (char)tolower(*s);
	snprintf(want, sizeof(want), "%s", t->text);
	for (char *s = want; *s; s++)
		*s = (char)tolower(*s);
	port = strrchr(all, ':');
	if (port && strchr(port, ']'))
		port = NULL;
	snprintf(host, sizeof(host), "%.*s", port ? (int)(port - all) : (int)strlen(all), all);
	if (strlen(host) > 1 && host[strlen(host) - 1] == '.') {
		host[strlen(host) - 1] = '\0';
		memmove(all + strlen(host), all + strlen(host) + 1, strlen(all) - strlen(host));
	}
	return naive_text(&lower, (struct slice){all, strlen(all)}) || naive_text(&lower, (struct slice){host, strlen(host)});
}

static inline bool naive_any(const struct policy_match *m, const struct policy_input *in, struct slice v)
{
	bool yes = m->present;

	for (uint32_t i = 0; i < m->n; i++)
		switch (m->field) {
		case POLICY_AUTHORITY: yes |= naive_authority(&m->texts[i], v); break;
		case POLICY_SOURCE_IP: yes |= cidr_has(&m->nets[i], &in->source); break;
		case POLICY_DESTINATION_IP: yes |= cidr_has(&m->nets[i], &in->destination); break;
		case POLICY_DESTINATION_PORT: yes |= in->port >= m->ports[i].first && in->port <= m->ports[i].last; break;
		case POLICY_LISTENER: yes |= in->listener == m->listeners[i]; break;
		case POLICY_PRINCIPAL:
		case POLICY_TRUST_DOMAIN:
		case POLICY_NAMESPACE:
		case POLICY_SERVICE_ACCOUNT:
		case POLICY_METADATA: yes |= naive_text(&m->texts[i], v); break;
		case POLICY_FIELDS: break;
		}
	return yes;
}

static inline bool naive_present(const struct policy_match *m)
{
	bool present = m->present;

	for (uint32_t i = 0; i < m->n; i++)
		present |= (m->field == POLICY_SOURCE_IP || m->field == POLICY_DESTINATION_IP) && m->nets[i].net.family == AF_UNSPEC;
	return present;
}

static inline bool naive_match(const struct policy *p, const struct policy_match *m, const struct policy_input *in)
{
	struct slice v = {NULL, 0};
	bool deny = p->action == POLICY_DENY, present = naive_present(m);

	if (!m->n && !m->present)
		return false;
	switch (naive_value(m, in, &v)) {
	case 0: return m->negate ? present || deny : false;
	case 2: return present ? !m->negate : deny;
	}
	return naive_any(m, in, v) != m->negate;
}

/* Return: the first rule that matches, or POLICY_NONE */
static inline uint32_t naive_rule(const struct policy *p, const struct policy_input *in)
{
	for (uint32_t i = 0; i < p->n_rules; i++) {
		bool all = p->rules[i].n > 0;

		for (uint32_t k = 0; k < p->rules[i].n; k++)
			all &= naive_match(p, &p->rules[i].matches[k], in);
		if (all)
			return i;
	}
	return POLICY_NONE;
}

static inline bool naive_scope(const struct policy *p, enum policy_place at, uint32_t id)
{
	if (p->elsewhere || p->everywhere)
		return !p->elsewhere;
	for (uint32_t i = 0; at == POLICY_AT_LISTENER && i < p->n_listeners; i++)
		if (p->listeners[i] == id)
			return true;
	for (uint32_t i = 0; at == POLICY_AT_CLUSTER && i < p->n_clusters; i++)
		if (p->clusters[i] == id)
			return true;
	return false;
}

static inline void naive_dry(struct policy_verdict *v, uint32_t policy, uint32_t rule, bool allow)
{
	if (v->n_dry == POLICY_DRY_MAX)
		return;
	v->dry[v->n_dry].policy = policy;
	v->dry[v->n_dry].rule = rule;
	v->dry[v->n_dry++].allow = allow;
}

static inline void naive_decide(const struct policy *p, uint32_t n, const struct policy_input *in, enum policy_place at, uint32_t id,
				struct policy_verdict *v)
{
	bool asked = false, dry_asked = false, dry_allowed = false;
	uint32_t rule;

	memset(v, 0, sizeof(*v));
	v->policy = v->rule = POLICY_NONE;
	for (uint32_t i = 0; i < n; i++) {
		rule = naive_rule(&p[i], in);
		if (p[i].action == POLICY_DENY && !p[i].dry_run && naive_scope(&p[i], at, id) && rule != POLICY_NONE) {
			v->policy = i;
			v->rule = rule;
			return;
		}
	}
	for (uint32_t i = 0; i < n; i++) {
		if (p[i].action != POLICY_ALLOW || !naive_scope(&p[i], at, id))
			continue;
		rule = naive_rule(&p[i], in);
		asked |= !p[i].dry_run;
		dry_asked |= p[i].dry_run;
		dry_allowed |= p[i].dry_run && rule != POLICY_NONE;
		if (!p[i].dry_run && rule != POLICY_NONE && v->policy == POLICY_NONE) {
			v->policy = i;
			v->rule = rule;
		}
	}
	v->allowed = !asked || v->policy != POLICY_NONE;
	for (uint32_t i = 0; i < n; i++) {
		rule = p[i].dry_run && naive_scope(&p[i], at, id) ? naive_rule(&p[i], in) : POLICY_NONE;
		if (rule != POLICY_NONE && (p[i].action == POLICY_ALLOW) != v->allowed)
			naive_dry(v, i, rule, p[i].action == POLICY_ALLOW);
	}
	v->dry_default = !asked && dry_asked && !dry_allowed;
}

/* Return: NULL: @a and @b are the same; else where they differ */
static inline const char *verdicts_differ(const struct policy_verdict *a, const struct policy_verdict *b)
{
	if (a->allowed != b->allowed)
		return "allowed";
	if (a->policy != b->policy || a->rule != b->rule)
		return "the policy that decided";
	if (a->n_dry != b->n_dry || a->dry_default != b->dry_default)
		return "what dry run would have changed";
	for (uint32_t i = 0; i < a->n_dry; i++)
		if (a->dry[i].policy != b->dry[i].policy || a->dry[i].rule != b->dry[i].rule || a->dry[i].allow != b->dry[i].allow)
			return "the policies in dry run";
	return NULL;
}

/* ---- the two, compared */

struct r_explained {
	const struct r_set *set;
	const struct policy_input *in;
	uint32_t policies;
	const char *wrong;
};

static inline void r_step(void *arg, const struct policy_step *st)
{
	struct r_explained *e = arg;
	const struct policy *p = &e->set->p[st->policy];

	if (st->rule == POLICY_NONE) {
		e->policies++;
		if (st->matched != (naive_rule(p, e->in) != POLICY_NONE))
			e->wrong = "an explained policy";
	} else if (st->matched) {
		bool all = p->rules[st->rule].n > 0;

		for (uint32_t k = 0; k < p->rules[st->rule].n; k++)
			all &= naive_match(p, &p->rules[st->rule].matches[k], e->in);
		if (!all)
			e->wrong = "an explained rule";
	}
}

/** r_compare() - at every listener and cluster. Return: NULL, or what is wrong */
static inline const char *r_compare(const struct r_set *set, const struct policy_set *s, const struct policy_input *in)
{
	static struct policy_facts f;
	struct policy_verdict want, got;
	const char *wrong;

	memset(&f, 0xa5, sizeof(f));
	policy_look(s, in, &f);
	for (uint32_t i = 0; i < R_LISTENERS + R_CLUSTERS; i++) {
		enum policy_place at = i < R_LISTENERS ? POLICY_AT_LISTENER : POLICY_AT_CLUSTER;
		uint32_t id = i < R_LISTENERS ? i : i - R_LISTENERS, scope = 0;
		struct r_explained e = {.set = set, .in = in};

		naive_decide(set->p, set->n, in, at, id, &want);
		policy_decide(s, &f, at, id, &got);
		wrong = verdicts_differ(&want, &got);
		if (wrong)
			return wrong;
		for (uint32_t k = 0; k < set->n; k++)
			scope += naive_scope(&set->p[k], at, id);
		policy_explain(s, &f, at, id, r_step, &e);
		if (e.wrong || e.policies != scope)
			return e.wrong ? e.wrong : "policies explained";
	}
	return NULL;
}
