/*
 * The policies of one place, for people: which are asked, which match, and of the others which match of which rule failed, with what the
 * connection has and what the rule wants. The verdict is policy_decide()'s, the reasons are policy_explain()'s.
 *
 * A set may have thousands of policies. Those that match are told all, of the others the first EXPLAIN_POLICIES.
 */
#include "chain/explain_int.h"
#include "base/clean.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VALUES_TOLD 4u

struct telling {
	const struct config *cfg;
	const struct policy_input *in;
	struct json *j;
	uint8_t *tell;	 /* by policy: TOLD, MATCHED */
	uint32_t scope, shown, left_out;
	uint32_t policy; /* whose object is open; POLICY_NONE: none */
	uint32_t rule;	 /* whose array "failed" is open */
	const struct policy_verdict *v;
};
enum { TOLD = 1, MATCHED = 2 };

static const struct policy_match *match_of(const struct telling *t, const struct policy_step *st)
{
	const struct policy_rule *r = &t->cfg->policies[st->policy].rules[st->rule];

	for (uint32_t i = 0; i < r->n; i++)
		if (r->matches[i].field == st->field && r->matches[i].negate == st->negate &&
		    (!st->name || (r->matches[i].name && !strcmp(r->matches[i].name, st->name))))
			return &r->matches[i];
	return NULL;
}

/* ---- what the rule wants */

static void add_value(struct text *out, const struct telling *t, const struct policy_match *m, uint32_t i)
{
	char a[ADDR_STR];

	switch (m->field) {
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY:
	case POLICY_METADATA:
		text_addf(out, "%s%s%s", m->texts[i].kind == POLICY_SUFFIX ? "*" : "", m->texts[i].text,
			  m->texts[i].kind == POLICY_PREFIX ? "*" : "");
		return;
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP:
		text_addf(out, "%s/%u", addr_ip_str(&m->nets[i].net, a), m->nets[i].bits);
		return;
	case POLICY_DESTINATION_PORT:
		text_addf(out, m->ports[i].first == m->ports[i].last ? "%u" : "%u-%u", m->ports[i].first, m->ports[i].last);
		return;
	case POLICY_LISTENER:
		text_add(out, t->cfg->listeners[m->listeners[i]].name);
		return;
	case POLICY_FIELDS: return;
	}
}

static void add_values(struct text *out, const struct telling *t, const struct policy_match *m)
{
	uint32_t n = 0;

	if (m->present) {
		text_add(out, "*");
		n++;
	}
	for (uint32_t i = 0; i < m->n && i < VALUES_TOLD; i++, n++) {
		text_add(out, n ? ", " : "");
		add_value(out, t, m, i);
	}
	if (m->n > VALUES_TOLD)
		text_addf(out, " and %u more", m->n - VALUES_TOLD);
}

/* ---- what the connection has */

static struct slice text_of(const struct telling *t, const struct policy_step *st, char room[ADDR_STR])
{
	const struct policy_input *in = t->in;
	const char *s = NULL;

	switch (st->field) {
	case POLICY_PRINCIPAL: return in->principal;
	case POLICY_TRUST_DOMAIN: return in->trust_domain;
	case POLICY_NAMESPACE: return in->ns;
	case POLICY_SERVICE_ACCOUNT: return in->sa;
	case POLICY_AUTHORITY: return in->authority;
	case POLICY_METADATA: s = in->md ? metadata_find(in->md, st->name) : NULL; break;
	case POLICY_SOURCE_IP: s = in->source.family != AF_UNSPEC ? addr_ip_str(&in->source, room) : NULL; break;
	case POLICY_DESTINATION_IP: s = in->destination.family != AF_UNSPEC ? addr_ip_str(&in->destination, room) : NULL; break;
	case POLICY_DESTINATION_PORT:
		snprintf(room, ADDR_STR, "%u", in->port);
		s = in->port ? room : NULL;
		break;
	case POLICY_LISTENER: s = t->cfg->listeners[in->listener].name; break;
	case POLICY_FIELDS: break;
	}
	return (struct slice){ s, s ? strlen(s) : 0 };
}

static const char *why_absent(const struct telling *t, enum policy_field f)
{
	switch (f) {
	case POLICY_PRINCIPAL: return "the source proves no identity";
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
		return t->in->principal.p ? "the source's id is not of the form spiffe://TD/ns/NS/sa/SA" : "the source proves no identity";
	case POLICY_AUTHORITY: return "no authority was asked for";
	case POLICY_METADATA: return "the peer sends no such header or baggage member";
	case POLICY_SOURCE_IP: return "the source's address is not known";
	case POLICY_DESTINATION_IP: return "a name was asked for, not an address";
	case POLICY_DESTINATION_PORT: return "no port was asked for";
	case POLICY_LISTENER:
	case POLICY_FIELDS: break;
	}
	return "it is not there";
}

static void put_failed(const struct telling *t, const struct policy_step *st)
{
	const struct policy_match *m = st->empty ? NULL : match_of(t, st);
	const char *name = st->name ? st->name : policy_field_str(st->field);
	char room[ADDR_STR];
	struct slice has;
	struct text s = { 0 };

	if (!m) {
		json_str(t->j, NULL, "it has nothing that could match");
		return;
	}
	has = text_of(t, st, room);
	if (st->why == POLICY_ABSENT)
		text_addf(&s, "no %s: %s; the rule wants %s", name, why_absent(t, st->field), st->negate ? "none of " : "");
	else if (st->why == POLICY_UNCLEAR)
		text_addf(&s, "%s comes with different values, so it counts as none; the rule wants %s", name, st->negate ? "none of " : "");
	else
		text_addf(&s, "%s is '%.*s'; the rule wants %s", name, (int)min_u64(has.n, 200), has.p ? has.p : "", st->negate ? "none of " : "");
	add_values(&s, t, m);
	json_strn(t->j, NULL, s.s ? s.s : "", s.len);
	t->j->out->failed |= s.failed;
	text_finish(&s);
}

/* ---- steps to JSON */

static void count(void *arg, const struct policy_step *st)
{
	struct telling *t = arg;

	if (st->rule != POLICY_NONE)
		return;
	t->scope++;
	if (st->matched)
		t->tell[st->policy] = TOLD | MATCHED;
	else if (t->shown < EXPLAIN_POLICIES)
		t->tell[st->policy] = TOLD;
	else
		t->left_out++;
	t->shown += !st->matched;
}

static void close_rule(struct telling *t, bool matched)
{
	if (t->rule == POLICY_NONE)
		return;
	json_close(t->j, ']');
	json_bool(t->j, "matched", matched);
	json_close(t->j, '}');
	t->rule = POLICY_NONE;
}

static void open_rule(struct telling *t, const struct policy_step *st)
{
	if (t->rule == st->rule)
		return;
	close_rule(t, false);
	json_open(t->j, NULL, '{');
	json_u64(t->j, "rule", st->rule);
	json_open(t->j, "failed", '[');
	t->rule = st->rule;
}

static void open_policy(struct telling *t, const struct policy_step *st)
{
	const struct policy *p = &t->cfg->policies[st->policy];

	if (t->policy == st->policy)
		return;
	t->policy = st->policy;
	t->rule = POLICY_NONE;
	json_open(t->j, NULL, '{');
	json_str(t->j, "policy", p->name);
	json_str(t->j, "action", p->action == POLICY_DENY ? "deny" : "allow");
	json_bool(t->j, "dry_run", p->dry_run);
	json_open(t->j, "rules", '[');
}

static void put_step(void *arg, const struct policy_step *st)
{
	struct telling *t = arg;

	if (!(t->tell[st->policy] & TOLD))
		return;
	open_policy(t, st);
	if (st->rule != POLICY_NONE) {
		open_rule(t, st);
		if (st->matched)
			close_rule(t, true);
		else
			put_failed(t, st);
		return;
	}
	close_rule(t, false);
	json_close(t->j, ']');
	json_bool(t->j, "matched", st->matched);
	json_bool(t->j, "decided", t->v->policy == st->policy);
	if (st->empty)
		json_str(t->j, "why", "it has no rules, so it never matches");
	json_close(t->j, '}');
	t->policy = POLICY_NONE;
}

/* ---- the verdict */

static void put_verdict(const struct telling *t)
{
	const struct policy_verdict *v = t->v;
	char rule[POLICY_RULE_NAME];
	bool decided = v->policy != POLICY_NONE;

	policy_rule_name(t->cfg->policy_set, v->policy, v->rule, rule);
	json_bool(t->j, "allowed", v->allowed);
	json_str(t->j, "by", decided || !v->allowed ? rule : NULL);
	json_str(t->j, "why",
		 decided && v->allowed	? "an ALLOW policy matches and no DENY policy does" :
		 decided		? "a DENY policy matches" :
		 !v->allowed		? "there are ALLOW policies, and none matches" :
		 !t->scope		? "no policy is asked here" :
					  "no DENY policy matches, and there is no ALLOW policy");
	json_open(t->j, "dry_run", '[');
	for (uint32_t i = 0; i < v->n_dry; i++) {
		json_open(t->j, NULL, '{');
		json_str(t->j, "by", policy_rule_name(t->cfg->policy_set, v->dry[i].policy, v->dry[i].rule, rule));
		json_bool(t->j, "would_allow", v->dry[i].allow);
		json_close(t->j, '}');
	}
	json_close(t->j, ']');
	json_bool(t->j, "dry_run_default_deny", v->dry_default);
}

int explain_policies(const struct config *cfg, const struct policy_input *in, const struct policy_facts *f, enum policy_place at,
		     uint32_t id, struct json *j, bool *ret_allowed)
{
	struct policy_verdict v = { .allowed = true, .policy = POLICY_NONE, .rule = POLICY_NONE };
	AUTO_FREE uint8_t *tell = calloc(cfg->n_policies + 1u, 1);
	struct telling t = { .cfg = cfg, .in = in, .j = j, .tell = tell, .policy = POLICY_NONE, .rule = POLICY_NONE, .v = &v };

	if (!tell)
		return -ENOMEM;
	json_open(j, "policies", '{');
	if (cfg->policy_set) {
		policy_decide(cfg->policy_set, f, at, id, &v);
		policy_explain(cfg->policy_set, f, at, id, count, &t);
	}
	put_verdict(&t);
	json_open(j, "list", '[');
	if (cfg->policy_set)
		policy_explain(cfg->policy_set, f, at, id, put_step, &t);
	json_close(j, ']');
	json_u64(j, "asked", t.scope);
	json_u64(j, "left_out", t.left_out);
	json_close(j, '}');
	*ret_allowed = v.allowed;
	return 0;
}
