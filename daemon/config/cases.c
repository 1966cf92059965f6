/*
 * A case is facts of a connection, the listeners it passes and the cluster it leaves for, and what should be decided. They are asked as
 * chain/stage.c asks: each listener, then the cluster; the first that denies ends it, the last that allowed is named.
 *
 * Policies name listeners and clusters, which a test of policies alone does not have. So without a configuration one is made up, of the names
 * that policies and cases use: to misspell one is then no error, which is why -c is there.
 */
#include "config/cases.h"
#include "base/clean.h"
#include "codec/authority.h"
#include "codec/spiffe.h"
#include "config/build.h"
#include "config/doc.h"
#include "model/metadata_block.h"
#include "policy/policy.h"
#include <stdio.h>
#include <string.h>

#define CASES_MAX  65536u
#define CHAIN_ANY  "any@test" /* where a case that names no listener enters */
#define POLICY_NO  "none"

/* one case as it is read; strings in the arena */
struct one {
	const char *name, *principal, *authority, *listener, *cluster, *policy;
	const char **chain;
	uint32_t n_chain;
	struct addr source, destination;
	const struct tree_node *metadata;
	uint32_t expect; /* 0: allow */
};

struct trying {
	struct build b;
	struct build_owned own;
	const struct config *cfg;
	void (*told)(void *arg, const struct case_verdict *v);
	void *arg;
	int failed;
};

/* ---- reading a case */

/* an address, with its port or without */
static int address_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	char q[SAY_QUOTED];

	if (n->kind == TREE_SCALAR && (addr_parse(n->text, n->n, to, NULL) == 0 || addr_parse_ip(n->text, n->n, to, NULL) == 0))
		return 0;
	return say_at(b->err, n, w, "%s: want an address: 10.0.0.7, 10.0.0.7:5432, fd00::7 or [fd00::7]:5432",
		      n->kind == TREE_SCALAR ? say_quote(q, n->text, n->n) : tree_kind_str(n));
}

static int text_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return value_text(b, n, w, BUILD_VALUE, to);
}

static int principal_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	const char *s;
	char *full;
	int r = value_text(b, n, w, BUILD_VALUE, &s);

	if (r < 0 || !strncmp(s, "spiffe://", 9)) {
		*(const char **)to = s;
		return r;
	}
	full = arena_alloc(&b->own->arena, strlen(s) + 10);
	if (!full)
		return say_no_memory(b->err);
	memcpy(full, "spiffe://", 9);
	strcpy(full + 9, s);
	*(const char **)to = full;
	return 0;
}

static int chain_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct one *o = base;

	return schema_texts(b, n, w, &o->chain, &o->n_chain);
}

static int metadata_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	if (n->kind != TREE_MAP)
		return say_at(b->err, n, w, "want a mapping from names to values, not %s", tree_kind_str(n));
	*(const struct tree_node **)to = n;
	return 0;
}

static const char *const expectations[] = {"allow", "deny", NULL};
#define TEXT(name) {.key = #name, .kind = F_CALL, .call = text_read, .off = offsetof(struct one, name)}
static const struct field case_fields[] = {
	TEXT(name),
	TEXT(authority),
	TEXT(listener),
	TEXT(cluster),
	TEXT(policy),
	{.key = "principal", .kind = F_CALL, .call = principal_read, .off = offsetof(struct one, principal)},
	{.key = "source", .kind = F_CALL, .call = address_read, .off = offsetof(struct one, source)},
	{.key = "destination", .kind = F_CALL, .call = address_read, .off = offsetof(struct one, destination)},
	{.key = "chain", .kind = F_CALL, .call = chain_read},
	{.key = "metadata", .kind = F_CALL, .call = metadata_read, .off = offsetof(struct one, metadata)},
	{.key = "expect", .kind = F_ENUM, .names = expectations, .off = offsetof(struct one, expect), .required = true},
	{.key = NULL},
};
static const struct table case_table = {.fields = case_fields};

/* ---- its metadata, as a block of pairs */

static int pair_add(struct trying *t, struct text *to, const char *name, const struct tree_node *v, const struct where *w)
{
	const char *value;
	int r = value_text(&t->b, v, w, BUILD_VALUE, &value);

	if (r < 0)
		return r;
	text_addn(to, name, strlen(name) + 1);
	text_addn(to, value, strlen(value) + 1);
	return 0;
}

/* Return: 0 and *ret (NULL: none), free(3) it */
static int metadata_make(struct trying *t, const struct tree_node *n, const struct where *up, struct metadata **ret)
{
	struct text pairs = {0};
	int r = 0;

	*ret = NULL;
	text_addn(&pairs, "", 1);
	for (const struct tree_entry *e = n ? n->first : NULL; e && r >= 0; e = e->next) {
		struct where w = {.up = up, .key = e->key->text};

		if (e->value->kind != TREE_LIST)
			r = pair_add(t, &pairs, e->key->text, e->value, &w);
		else /* it comes several times */
			for (const struct tree_entry *v = e->value->first; v && r >= 0; v = v->next)
				r = pair_add(t, &pairs, e->key->text, v->value, &w);
	}
	if (r >= 0 && n && text_ok(&pairs))
		*ret = calloc(1, sizeof(**ret) + pairs.len);
	if (*ret) {
		(*ret)->size = (uint32_t)(sizeof(**ret) + pairs.len);
		memcpy((*ret)->text, pairs.s, pairs.len);
	} else if (r >= 0 && n) {
		r = say_no_memory(t->b.err);
	}
	text_finish(&pairs);
	return r;
}

/* ---- asking */

static uint32_t listener_find(const struct config *c, const char *name)
{
	uint32_t i = 0;

	while (i < c->n_listeners && strcmp(c->listeners[i].name, name) != 0)
		i++;
	return i;
}

static uint32_t cluster_find(const struct config *c, const char *name)
{
	uint32_t i = 0;

	while (i < c->n_clusters && strcmp(c->clusters[i].name, name) != 0)
		i++;
	return i;
}

static int unknown(struct trying *t, const struct tree_node *n, const struct where *w, const char *what, const char *name)
{
	return say_at(t->b.err, n, w, "there is no %s '%.64s'", what, name);
}

struct asked {
	const struct policy_set *set;
	struct policy_facts facts;
	struct policy_verdict last; /* that decided */
	const char *denied;
};

/* Return: go on? */
static bool ask(struct asked *q, enum policy_place at, uint32_t id, const char *name)
{
	struct policy_verdict v;

	policy_decide(q->set, &q->facts, at, id, &v);
	if (v.policy != POLICY_NONE || !v.allowed)
		q->last = v;
	if (!v.allowed)
		q->denied = name;
	return v.allowed;
}

static int ask_all(struct trying *t, const struct one *o, const struct tree_node *n, const struct where *w, struct asked *q)
{
	const char *entry = o->listener ? o->listener : CHAIN_ANY;
	const char *const *chain = o->n_chain ? o->chain : &entry;
	uint32_t n_chain = o->n_chain ? o->n_chain : 1, id;

	for (uint32_t i = 0; i < n_chain; i++) {
		id = listener_find(t->cfg, chain[i]);
		if (id == t->cfg->n_listeners && strcmp(chain[i], CHAIN_ANY) != 0)
			return unknown(t, n, w, "listener", chain[i]);
		if (id < t->cfg->n_listeners && !ask(q, POLICY_AT_LISTENER, id, chain[i]))
			return 0;
	}
	id = o->cluster ? cluster_find(t->cfg, o->cluster) : 0;
	if (o->cluster && id == t->cfg->n_clusters)
		return unknown(t, n, w, "cluster", o->cluster);
	if (o->cluster)
		ask(q, POLICY_AT_CLUSTER, id, o->cluster);
	return 0;
}

static void authority_make(const struct one *o, char room[ADDR_STR], struct slice *ret)
{
	struct addr to = o->destination;
	struct authority a;

	*ret = (struct slice){NULL, 0};
	if (o->authority)
		*ret = (struct slice){o->authority, strlen(o->authority)};
	if (o->authority && authority_parse(o->authority, ret->n, &a, NULL) == 0 && a.addr.family != AF_UNSPEC)
		to = a.addr;
	else if (o->authority || to.family == AF_UNSPEC)
		return;
	addr_str(&to, room); /* addresses have many spellings: policies are compared with this one */
	*ret = (struct slice){room, strlen(room)};
}

static int input_make(struct trying *t, const struct one *o, const struct tree_node *n, const struct where *w, struct policy_input *ret)
{
	struct err why = {""};
	struct authority a;
	struct spiffe id;

	ret->source = o->source;
	ret->destination = o->destination;
	ret->port = o->destination.port;
	if (!ret->port && o->authority && authority_parse(o->authority, strlen(o->authority), &a, NULL) == 0)
		ret->port = a.port;
	ret->listener = listener_find(t->cfg, o->listener ? o->listener : o->n_chain ? o->chain[0] : CHAIN_ANY);
	if (!o->principal)
		return 0;
	ret->principal = (struct slice){o->principal, strlen(o->principal)};
	if (spiffe_parse(o->principal, ret->principal.n, &id, &why) < 0)
		return say_at(t->b.err, n, w, "principal: %s", why.msg);
	ret->trust_domain = id.trust_domain;
	ret->ns = id.ns;
	ret->sa = id.sa;
	return 0;
}

/* "NAME" is for any of its rules */
static bool policy_is(const char *is, const char *want)
{
	size_t n = strlen(want);

	return !want[0] || !strcmp(is, want) || (!strncmp(is, want, n) && !strncmp(is + n, "/rules/", 7));
}

static int tell(struct trying *t, const struct one *o, const struct tree_node *n, uint32_t index, const struct asked *q)
{
	char rule[POLICY_RULE_NAME] = POLICY_NO;
	struct case_verdict v = {.index = index, .line = n->line, .name = o->name, .allowed = !q->denied, .at = q->denied, .policy = rule};

	if (q->set && (q->last.policy != POLICY_NONE || q->denied))
		policy_rule_name(q->set, q->last.policy, q->last.rule, rule);
	v.want_allowed = !o->expect;
	v.want_policy = o->policy;
	v.ok = v.allowed == v.want_allowed && (!o->policy || policy_is(rule, o->policy));
	t->failed += !v.ok;
	t->told(t->arg, &v);
	return 0;
}

static int case_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct trying *t = arg;
	AUTO_FREE struct metadata *md = NULL;
	struct asked q = {.set = t->cfg->policy_set, .last = {.policy = POLICY_NONE, .rule = POLICY_NONE}};
	struct policy_input in = {.port = 0};
	char room[ADDR_STR];
	struct one o = {.name = NULL};
	int r = schema_read(b, &case_table, 0, n, w, &o);

	if (r >= 0)
		r = metadata_make(t, o.metadata, w, &md);
	if (r >= 0)
		r = input_make(t, &o, n, w, &in);
	if (r < 0)
		return r;
	in.md = md;
	authority_make(&o, room, &in.authority);
	if (q.set) {
		policy_look(q.set, &in, &q.facts);
		r = ask_all(t, &o, n, w, &q);
	}
	return r < 0 ? r : tell(t, &o, n, index, &q);
}

/* ---- the world that they live in */

struct names {
	struct text listeners, clusters; /* YAML, entries of lists */
	const char *seen_l[BUILD_LISTENERS], *seen_c[BUILD_CLUSTERS];
	uint32_t n_l, n_c;
};

static void listener_name(struct names *s, const char *name)
{
	for (uint32_t i = 0; i < s->n_l; i++)
		if (!strcmp(s->seen_l[i], name))
			return;
	if (s->n_l == BUILD_LISTENERS)
		return;
	s->seen_l[s->n_l] = name;
	text_addf(&s->listeners, "  - {name: \"%s\", type: tcp, address: \"127.%u.%u.1:1\", cluster: \"" CHAIN_ANY "\"}\n", name, s->n_l / 256, s->n_l % 256);
	s->n_l++;
}

static void cluster_name(struct names *s, const char *name)
{
	for (uint32_t i = 0; i < s->n_c; i++)
		if (!strcmp(s->seen_c[i], name))
			return;
	if (s->n_c == BUILD_CLUSTERS)
		return;
	s->seen_c[s->n_c++] = name;
	text_addf(&s->clusters, "  - {name: \"%s\", type: tcp, endpoints: [\"127.255.255.2:2\"]}\n", name);
}

/* names only: what is none is refused where it stands, when it is read */
static bool fits(const struct tree_node *n)
{
	return n->kind == TREE_SCALAR && n->n && n->n <= BUILD_NAME && strcmp(n->text, "*") != 0 &&
	       strspn(n->text, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-/:@+") == n->n;
}

static void names_take(struct names *s, const struct tree_node *map, const char *key, void (*take)(struct names *s, const char *name))
{
	const struct tree_entry *e = tree_get(map, key), *v;

	if (!e)
		return;
	if (fits(e->value))
		take(s, e->value->text);
	for (v = e->value->kind == TREE_LIST ? e->value->first : NULL; v; v = v->next)
		if (fits(v->value))
			take(s, v->value->text);
}

static const struct tree_entry *list_of(const struct tree_node *root, const char *key)
{
	const struct tree_entry *e = tree_get(root, key);
	const struct tree_node *list = e ? e->value : root && root->kind == TREE_LIST ? root : NULL;

	return list && list->kind == TREE_LIST ? list->first : NULL;
}

static void policy_names(struct names *s, const struct tree_node *policy)
{
	const struct tree_entry *e = tree_get(policy, "scope");

	names_take(s, e ? e->value : NULL, "listeners", listener_name);
	names_take(s, e ? e->value : NULL, "clusters", cluster_name);
	for (e = list_of(policy, "rules"); e; e = e->next) {
		names_take(s, e->value, "listener", listener_name);
		names_take(s, e->value, "not_listener", listener_name);
	}
}

/* Return: 0 and the YAML of a configuration that has all names; the texts of both trees must last until then */
static int world_text(const struct tree_node *policies, const struct tree_node *cases, struct text *ret, struct err *e)
{
	AUTO_FREE struct names *s = calloc(1, sizeof(*s));
	const struct tree_entry *node = tree_get(cases, "node"), *c;

	if (!s)
		return say_no_memory(e);
	if (tree_get(policies, "name"))
		policy_names(s, policies);
	for (c = list_of(policies, "policies"); c; c = c->next)
		policy_names(s, c->value);
	for (c = list_of(cases, "cases"); c; c = c->next) {
		names_take(s, c->value, "listener", listener_name);
		names_take(s, c->value, "chain", listener_name);
		names_take(s, c->value, "cluster", cluster_name);
	}
	if (node && node->value->kind == TREE_MAP && node->value->n) {
		text_add(ret, "node:\n");
		doc_write(ret, node->value, 2);
	}
	text_addf(ret, "listeners:\n%s", s->listeners.s ? s->listeners.s : "");
	text_add(ret, "  - {name: \"" CHAIN_ANY "\", type: tcp, address: \"127.255.255.1:1\", cluster: \"" CHAIN_ANY "\"}\n");
	text_addf(ret, "clusters:\n%s", s->clusters.s ? s->clusters.s : "");
	text_add(ret, "  - {name: \"" CHAIN_ANY "\", type: tcp, endpoints: [\"127.255.255.2:2\"]}\n");
	text_finish(&s->listeners);
	text_finish(&s->clusters);
	return 0;
}

/* @doc: the policies as a file of the configuration, and what it is called */
static int world_build(const struct cases *c, const struct doc *doc, const struct tree_node *policies, const struct tree_node *cases,
		       struct config **ret, struct err *e)
{
	struct text made = {0}, again = {0};
	struct config_source more = {.name = (char *)c->policies_name, .text = (char *)c->policies, .n = c->n_policies}; /* read only */
	struct config_source first = {.name = (char *)"made up"};
	struct config_sources all = {.at = &first, .n = 1}, read = {.at = NULL};
	int r = 0;

	if (!doc->source) { /* a list, or one policy alone */
		text_add(&again, "policies:\n");
		for (uint32_t i = 0; i < doc->n; i++)
			doc_put(&again, &doc->at[i]);
		more.text = again.s;
		more.n = again.len;
	}
	r = c->config ? config_read(c->config, &read, e) : world_text(policies, cases, &made, e);
	first.text = made.s;
	first.n = made.len;
	if (r >= 0 && (!text_ok(&made) || !text_ok(&again)))
		r = say_no_memory(e);
	if (r >= 0)
		r = config_build(c->config ? &read : &all, &more, ret, e);
	config_sources_free(&read);
	text_finish(&made);
	text_finish(&again);
	return r;
}

static const struct field root_fields[] = {{.key = "node", .kind = F_KNOWN}, {.key = "cases", .kind = F_KNOWN, .required = true}, {.key = NULL}};
static const struct table root_table = {.fields = root_fields};

static int cases_try(struct trying *t, const struct tree_node *cases)
{
	const struct where w = {.key = "cases"};
	int r;

	if (!cases)
		return err_set(t->b.err, -EINVAL, "there are no cases: want cases: and a list of them");
	r = schema_read(&t->b, &root_table, 0, cases, NULL, NULL);
	if (r < 0)
		return r;
	return schema_list(&t->b, tree_get(cases, "cases")->value, &w, false, CASES_MAX, case_item, t);
}

int cases_run(const struct cases *c, void (*told)(void *arg, const struct case_verdict *v), void *arg, struct err *reterr)
{
	struct trying t = {.b.err = reterr, .told = told, .arg = arg};
	struct tree_node *policies = NULL, *cases = NULL;
	struct config *cfg = NULL;
	struct arena a = {NULL};
	struct doc doc;
	int r;

	t.b.own = &t.own;
	r = doc_parse(c->policies_name, c->policies, c->n_policies, DOC_APPLY, &doc, reterr);
	if (r < 0)
		return r;
	r = tree_parse(&a, c->policies_name, c->policies, c->n_policies, &policies, reterr);
	if (r >= 0)
		r = tree_parse(&a, c->cases_name, c->cases, c->n_cases, &cases, reterr);
	if (r >= 0)
		r = world_build(c, &doc, policies, cases, &cfg, reterr);
	t.cfg = cfg;
	if (r >= 0)
		r = cases_try(&t, cases);
	config_free(cfg);
	doc_finish(&doc);
	arena_finish(&t.own.arena);
	arena_finish(&a);
	return r < 0 ? r : t.failed;
}
