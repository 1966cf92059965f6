/*
 * What people may ask of a set: names, figures, and why each policy matched or not. Every rule in scope is looked at in full, and the
 * index plays no part, so an explanation is also a second opinion (the tests compare them).
 */
#include "policy/set.h"
#include <stdio.h>

const char *policy_field_str(enum policy_field f)
{
	static const char *const name[POLICY_FIELDS] = {
		[POLICY_PRINCIPAL] = "principal",
		[POLICY_TRUST_DOMAIN] = "trust_domain",
		[POLICY_NAMESPACE] = "namespace",
		[POLICY_SERVICE_ACCOUNT] = "service_account",
		[POLICY_AUTHORITY] = "authority",
		[POLICY_METADATA] = "metadata",
		[POLICY_SOURCE_IP] = "source_ip",
		[POLICY_DESTINATION_IP] = "destination_ip",
		[POLICY_DESTINATION_PORT] = "destination_port",
		[POLICY_LISTENER] = "listener",
	};

	return f < POLICY_FIELDS ? name[f] : "?";
}

const char *policy_rule_name(const struct policy_set *s, uint32_t policy, uint32_t rule, char out[POLICY_RULE_NAME])
{
	if (!s || policy >= s->n_policies)
		snprintf(out, POLICY_RULE_NAME, "%s", POLICY_DEFAULT);
	else
		snprintf(out, POLICY_RULE_NAME, "%.64s/rules/%u", s->heap + s->pol[policy].name, rule);
	return out;
}

bool policy_looks_at(const struct policy_set *s, enum policy_field f)
{
	return s && s->fields & BIT(f);
}

uint32_t policy_count(const struct policy_set *s)
{
	return s ? s->n_policies : 0;
}

void policy_info(const struct policy_set *s, uint32_t policy, struct policy_info *ret)
{
	const struct pol *p = &s->pol[policy];

	*ret = (struct policy_info){
		.name = s->heap + p->name,
		.action = (enum policy_action)p->action,
		.dry_run = p->dry_run,
		.elsewhere = p->elsewhere,
		.rules = p->n_rules,
		.values = p->values,
	};
}

void policy_cost(const struct policy_set *s, struct policy_cost *ret)
{
	*ret = (struct policy_cost){
		.bytes = s->bytes, .rules = s->n_clauses, .lookups = s->n_tuples, .unindexed = s->n_rest, .longest = s->longest};
}

struct telling {
	const struct policy_set *s;
	const struct facts *f;
	void (*step)(void *arg, const struct policy_step *st);
	void *arg;
};

static bool explain_rule(const struct telling *t, const struct clause *c)
{
	const struct policy_set *s = t->s;
	struct policy_step st = {.policy = c->policy, .rule = c->rule, .matched = !c->empty, .empty = c->empty};

	for (uint32_t i = 0; !c->empty && i < c->n; i++) {
		const struct match *m = &set_matches(s, c)[i];
		enum state state = match_state(m, t->f);

		if (match_ok(s, m, t->f))
			continue;
		st.matched = false;
		st.field = (enum policy_field)m->field;
		st.name = m->field == POLICY_METADATA ? set_text(s, &s->name[m->name]) : NULL;
		st.negate = m->flags & M_NEGATE;
		st.why = state == VALUE ? POLICY_OTHER : state == ABSENT ? POLICY_ABSENT : POLICY_UNCLEAR;
		t->step(t->arg, &st);
	}
	if (st.matched || c->empty)
		t->step(t->arg, &st);
	return st.matched;
}

void policy_explain(const struct policy_set *s, const struct policy_facts *f, enum policy_place at, uint32_t id,
		    void (*step)(void *arg, const struct policy_step *st), void *arg)
{
	const struct telling t = {s, (const struct facts *)f, step, arg};
	uint32_t point = set_point(s, at, id);

	for (uint32_t i = 0; i < s->n_policies; i++) {
		const struct pol *p = &s->pol[i];
		struct policy_step st = {.policy = i, .rule = POLICY_NONE, .empty = !p->n_rules};

		if (p->elsewhere || !scope_has(s, p, point))
			continue;
		for (uint32_t k = 0; k < p->n_rules; k++)
			st.matched |= explain_rule(&t, &s->clause[p->clause + k]);
		step(arg, &st);
	}
}
