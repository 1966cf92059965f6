/*
 * Policies: `policies:` of all files, one list. What is read here is checked twice: word by word, with the place in the file; and at the
 * end the whole is compiled as the workers will have it, so that what policy/ refuses is refused by `aditd --check`, too.
 *
 * Mistakes in a policy open or close doors, so nothing is guessed: an empty list, a rule without matches, a listener that no
 * connection enters by, a namespace with a slash are refused, although each has a meaning ("never matches").
 */
#include "base/clean.h"
#include "base/log.h"
#include "codec/spiffe.h"
#include "config/build.h"
#include "model/policy.h"
#include "policy/policy.h"
#include <stdio.h>
#include <string.h>
#include <sys/random.h>

#define RULE_MATCHES 1024u

/* a rule while it is read */
struct rule {
	struct policy_match *m;
	uint32_t n;
};

/* ---- texts: "abc", "abc*", "*abc", "*", or {exact: ...}, {prefix: ...}, {suffix: ...}, {present: true} */

struct texts {
	struct policy_match *m;
	struct policy_text *all; /* as many as entries */
};

static int text_put(struct build *b, const struct tree_node *n, const struct where *w, struct texts *t, enum policy_text_kind kind,
		    const char *s, size_t len)
{
	char *copy;

	if (!len)
		return say_at(b->err, n, w, "is empty");
	copy = arena_text(&b->own->arena, s, len);
	if (!copy)
		return say_no_memory(b->err);
	t->all[t->m->n++] = (struct policy_text){kind, copy};
	return 0;
}

/* a scalar with a star */
static int text_plain(struct build *b, const struct tree_node *n, const struct where *w, struct texts *t)
{
	const char *star, *text;
	char q[SAY_QUOTED];
	int r = value_text(b, n, w, BUILD_VALUE, &text);

	if (r < 0)
		return r;
	star = strchr(text, '*');
	if (!star)
		return text_put(b, n, w, t, POLICY_EXACT, text, n->n);
	if (n->n == 1) {
		t->m->present = true;
		return 0;
	}
	if (strchr(star + 1, '*') || (star != text && star[1]))
		return say_at(b->err, n, w, "%s: want at most one *, at the beginning or the end; {exact: ...} takes a * as it is",
			      say_quote(q, text, n->n));
	if (star == text)
		return text_put(b, n, w, t, POLICY_SUFFIX, text + 1, n->n - 1);
	return text_put(b, n, w, t, POLICY_PREFIX, text, n->n - 1);
}

static const struct field text_fields[] = {
	{.key = "exact", .kind = F_KNOWN},
	{.key = "prefix", .kind = F_KNOWN},
	{.key = "suffix", .kind = F_KNOWN},
	{.key = "present", .kind = F_KNOWN},
	{.key = NULL},
};
static const struct table text_table = {.fields = text_fields};

static int text_map(struct build *b, const struct tree_node *n, const struct where *w, struct texts *t)
{
	static const char *const kinds[] = {[POLICY_EXACT] = "exact", [POLICY_PREFIX] = "prefix", [POLICY_SUFFIX] = "suffix"};
	const struct tree_entry *e = n->first;
	enum policy_text_kind kind;
	struct where in = {.up = w};
	bool present = false;
	const char *text;
	int r = schema_read(b, &text_table, 0, n, w, NULL);

	if (r < 0)
		return r;
	if (n->n != 1)
		return say_at(b->err, n, w, "want one of exact, prefix, suffix or present");
	in.key = e->key->text;
	if (!strcmp(in.key, "present")) {
		r = value_bool(b, e->value, &in, &present);
		if (r >= 0 && !present)
			return say_at(b->err, e->value, &in, "want true; for 'must be absent' write the match with not_ and \"*\"");
		t->m->present |= present;
		return r;
	}
	r = value_text(b, e->value, &in, BUILD_VALUE, &text);
	if (r < 0)
		return r;
	for (kind = POLICY_EXACT; kind < POLICY_SUFFIX && strcmp(in.key, kinds[kind]) != 0; kind++)
		;
	return text_put(b, e->value, &in, t, kind, text, e->value->n);
}

/* ---- texts: what each field takes */

static int bad(struct build *b, const struct tree_node *n, const struct where *w, const char *want)
{
	char q[SAY_QUOTED];

	if (n->kind == TREE_MAP)
		n = n->first->value;
	return say_at(b->err, n, w, "%s: want %s", say_quote(q, n->text, n->n), want);
}

/* with or without the scheme, as Istio leaves it out */
static int principal_fit(struct build *b, const struct tree_node *n, const struct where *w, struct policy_text *t)
{
	static const char scheme[] = "spiffe://";
	struct err why = {""};
	struct spiffe id;
	char *s;

	if (t->kind == POLICY_SUFFIX)
		return 0;
	if (strncmp(t->text, scheme, sizeof(scheme) - 1) != 0 && strncmp(t->text, scheme, strlen(t->text)) != 0) {
		s = arena_alloc(&b->own->arena, sizeof(scheme) + strlen(t->text));
		if (!s)
			return say_no_memory(b->err);
		memcpy(s, scheme, sizeof(scheme));
		t->text = strcat(s, t->text);
	}
	if (t->kind == POLICY_EXACT && spiffe_parse(t->text, strlen(t->text), &id, &why) < 0)
		return say_at(b->err, n->kind == TREE_MAP ? n->first->value : n, w, "%s", why.msg);
	return 0;
}

/* host, host:port, [IPv6], [IPv6]:port; lower case; addresses as addr_str() writes them, which is how they are compared */
static int authority_fit(struct build *b, const struct tree_node *n, const struct where *w, struct policy_text *t)
{
	char *s = arena_text(&b->own->arena, t->text, strlen(t->text)), text[ADDR_STR + 2], ip[ADDR_STR];
	bool brackets;
	struct addr a;
	size_t len;

	if (!s)
		return say_no_memory(b->err);
	t->text = s;
	for (char *c = s; *c; c++)
		if (*c >= 'A' && *c <= 'Z')
			*c |= 0x20;
	if (strspn(s, "abcdefghijklmnopqrstuvwxyz0123456789.-_:[]") != strlen(s))
		return bad(b, n, w, "host or host:port, without scheme and path");
	if (t->kind != POLICY_EXACT)
		return 0;
	len = strlen(s);
	brackets = s[0] == '[' && s[len - 1] == ']';
	if (addr_parse(s, len, &a, NULL) == 0) {
		addr_str(&a, text);
	} else if (addr_parse_ip(s + brackets, len - 2 * brackets, &a, NULL) == 0) {
		addr_ip_str(&a, ip);
		snprintf(text, sizeof(text), a.family == AF_INET6 ? "[%s]" : "%s", ip);
	} else {
		if (len > 1 && s[len - 1] == '.') /* the dot at the end of a name is not compared either */
			s[len - 1] = '\0';
		return 0;
	}
	t->text = arena_text(&b->own->arena, text, strlen(text));
	return t->text ? 0 : say_no_memory(b->err);
}

static int text_fit(struct build *b, const struct tree_node *n, const struct where *w, enum policy_field f, struct policy_text *t)
{
	static const char lower[] = "abcdefghijklmnopqrstuvwxyz0123456789.-_";
	static const char letters[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";

	switch (f) {
	case POLICY_PRINCIPAL: return principal_fit(b, n, w, t);
	case POLICY_TRUST_DOMAIN:
		return strspn(t->text, lower) == strlen(t->text) ? 0 :
								   bad(b, n, w, "a trust domain: lower-case letters, digits and . - _");
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
		return strspn(t->text, letters) == strlen(t->text) ? 0 :
								     bad(b, n, w, "one segment of spiffe://TD/ns/NAMESPACE/sa/SERVICE_ACCOUNT");
	case POLICY_AUTHORITY: return authority_fit(b, n, w, t);
	case POLICY_METADATA:
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP:
	case POLICY_DESTINATION_PORT:
	case POLICY_LISTENER:
	case POLICY_FIELDS: break;
	}
	return 0;
}

static int text_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct texts *t = arg;
	uint32_t before = t->m->n;
	int r = n->kind == TREE_MAP ? text_map(b, n, w, t) : text_plain(b, n, w, t);

	(void)index;
	if (r < 0 || t->m->n == before)
		return r;
	return text_fit(b, n, w, t->m->field, &t->all[before]);
}

/* ---- a match */

static int empty(struct build *b, const struct tree_node *n, const struct where *w)
{
	return say_at(b->err, n, w, "is empty: the rule would never match; leave the key out for any");
}

static int texts_read(struct build *b, const struct tree_node *n, const struct where *w, struct policy_match *m)
{
	struct texts t = {.m = m, .all = arena_array(&b->own->arena, schema_count(n), sizeof(*t.all))};

	if (!t.all)
		return say_no_memory(b->err);
	m->texts = t.all;
	if (n->kind == TREE_LIST && !n->n)
		return empty(b, n, w);
	if (n->kind == TREE_MAP)
		return text_item(b, n, w, 0, &t);
	return schema_list(b, n, w, true, BUILD_LIST, text_item, &t);
}

static int net_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	const struct cidr *c = &((struct cidr *)arg)[index];
	char q[SAY_QUOTED];
	int r = cidr_item(b, n, w, index, arg);

	if (r >= 0 && c->port_last)
		return say_at(b->err, n, w, "%s: no port here; destination_port is a match of its own", say_quote(q, n->text, n->n));
	return r;
}

static int listener_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	uint32_t *id = &((uint32_t *)arg)[index];
	int r = names_refer(b, &b->listeners, "listener", n, w, id);

	if (r >= 0 && b->c->listeners[*id].type == LISTENER_INTERNAL)
		return say_at(b->err, n, w,
			      "'%s' is internal: no connection enters this node by it. Where a policy is asked is what its scope says",
			      b->c->listeners[*id].name);
	return r;
}

/* a list of @item of @size in @m; "*" alone is presence where @star */
static int values_read(struct build *b, const struct tree_node *n, const struct where *w, struct policy_match *m, size_t size, bool star,
		       schema_item *item)
{
	void *all = arena_array(&b->own->arena, schema_count(n), size);
	int r;

	if (!all)
		return say_no_memory(b->err);
	if (star && n->kind == TREE_SCALAR && !strcmp(n->text, "*")) {
		m->present = true;
		return 0;
	}
	if (n->kind == TREE_LIST && !n->n)
		return empty(b, n, w);
	r = schema_list(b, n, w, true, BUILD_LIST, item, all);
	m->texts = all; /* all members of the union are pointers to constants */
	m->n = schema_count(n);
	return r;
}

static int match_values(struct build *b, const struct tree_node *n, const struct where *w, struct policy_match *m)
{
	switch (m->field) {
	case POLICY_PRINCIPAL:
	case POLICY_TRUST_DOMAIN:
	case POLICY_NAMESPACE:
	case POLICY_SERVICE_ACCOUNT:
	case POLICY_AUTHORITY:
	case POLICY_METADATA: return texts_read(b, n, w, m);
	case POLICY_SOURCE_IP:
	case POLICY_DESTINATION_IP: return values_read(b, n, w, m, sizeof(struct cidr), false, net_item);
	case POLICY_DESTINATION_PORT: return values_read(b, n, w, m, sizeof(struct cfg_ports), false, ports_item);
	case POLICY_LISTENER: return values_read(b, n, w, m, sizeof(uint32_t), true, listener_item);
	case POLICY_FIELDS: break;
	}
	return 0;
}

/* metadata: {NAME: values, ...}; each name is a match */
static int metadata_read(struct build *b, const struct tree_node *n, const struct where *w, bool negate, struct rule *to)
{
	const struct tree_entry *e;
	int r = 0;

	if (n->kind != TREE_MAP)
		return say_at(b->err, n, w, "want a mapping from names of headers or baggage members to values, not %s", tree_kind_str(n));
	if (!n->n)
		return empty(b, n, w);
	for (e = n->first; e && r >= 0; e = e->next) {
		struct where in = {.up = w, .key = e->key->text};
		struct policy_match *m = &to->m[to->n++];

		*m = (struct policy_match){.field = POLICY_METADATA, .negate = negate};
		r = value_text(b, e->key, &in, 256, &m->name);
		if (r >= 0)
			r = texts_read(b, e->value, &in, m);
		if (r >= 0 && strncmp(m->name, "peer.", 5) != 0 && strpbrk(m->name, "ABCDEFGHIJKLMNOPQRSTUVWXYZ"))
			log_warn(LA_CONFIG, "%s:%u:%u: metadata '%s': headers come in lower case; with capitals it can only be a baggage member",
				 say_file(e->key->file), e->key->line, e->key->col, m->name);
	}
	return r;
}

/* the key says which, with not_ before it or without */
static int match_read(struct build *b, const struct tree_node *n, const struct where *w, void *rule)
{
	struct rule *to = rule;
	bool negate = !strncmp(w->key, "not_", 4);
	enum policy_field f = POLICY_PRINCIPAL;
	struct policy_match *m;

	while (f < POLICY_FIELDS && strcmp(policy_field_str(f), w->key + (negate ? 4 : 0)) != 0)
		f++;
	if (f == POLICY_METADATA)
		return metadata_read(b, n, w, negate, to);
	m = &to->m[to->n++];
	*m = (struct policy_match){.field = f, .negate = negate};
	return match_values(b, n, w, m);
}

#define MATCH(name)                                                   \
	{.key = name, .kind = F_CALL, .call = match_read},            \
	{                                                             \
		.key = "not_" name, .kind = F_CALL, .call = match_read \
	}
static const struct field rule_fields[] = {
	MATCH("principal"),
	MATCH("trust_domain"),
	MATCH("namespace"),
	MATCH("service_account"),
	MATCH("authority"),
	MATCH("metadata"),
	MATCH("source_ip"),
	MATCH("destination_ip"),
	MATCH("destination_port"),
	MATCH("listener"),
	{.key = NULL},
};
static const struct table rule_table = {.fields = rule_fields};

static int rule_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct policy_rule *all = arg;
	const struct tree_entry *e;
	struct rule to = {NULL, 0};
	uint32_t room = 0;
	int r;

	if (n->kind == TREE_MAP && !n->n)
		return say_at(b->err, n, w, "a rule without matches never matches; for everybody write listener: \"*\"");
	for (e = n->first; n->kind == TREE_MAP && e; e = e->next)
		room += e->value->kind == TREE_MAP ? e->value->n + 1 : 1;
	if (room > RULE_MATCHES)
		return say_at(b->err, n, w, "%u matches are too many, at most %u", room, RULE_MATCHES);
	to.m = arena_array(&b->own->arena, room, sizeof(*to.m));
	if (!to.m)
		return say_no_memory(b->err);
	r = schema_read(b, &rule_table, 0, n, w, &to);
	all[index] = (struct policy_rule){to.m, to.n};
	return r;
}

static int rules_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct policy *p = base;
	struct policy_rule *all = arena_array(&b->own->arena, schema_count(n), sizeof(*all));

	if (!all)
		return say_no_memory(b->err);
	p->rules = all;
	p->n_rules = n->kind == TREE_LIST ? n->n : 0;
	return schema_list(b, n, w, false, BUILD_LIST, rule_item, all);
}

/* ---- scope */

static int scope_listener(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	return names_refer(b, &b->listeners, "listener", n, w, &((uint32_t *)arg)[index]);
}

static int scope_cluster(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	return names_refer(b, &b->clusters, "cluster", n, w, &((uint32_t *)arg)[index]);
}

static int places_read(struct build *b, const struct tree_node *n, const struct where *w, schema_item *item, const uint32_t **ret,
		       uint32_t *ret_n)
{
	uint32_t *all = arena_array(&b->own->arena, schema_count(n), sizeof(*all));

	if (!all)
		return say_no_memory(b->err);
	if (n->kind == TREE_LIST && !n->n)
		return say_at(b->err, n, w, "is empty: the policy would be asked nowhere; leave the key out for any");
	*ret = all;
	*ret_n = schema_count(n);
	return schema_list(b, n, w, true, BUILD_LIST, item, all);
}

static int scope_listeners(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct policy *p = base;

	p->everywhere = false;
	return places_read(b, n, w, scope_listener, &p->listeners, &p->n_listeners);
}

static int scope_clusters(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct policy *p = base;

	p->everywhere = false;
	return places_read(b, n, w, scope_cluster, &p->clusters, &p->n_clusters);
}

/* NULL: this node has no such label */
static const char *node_label(const struct cfg_node *n, const char *key)
{
	const struct {
		const char *key, *value;
	} known[] = {
		{"id", n->id},	       {"cluster", n->cluster}, {"namespace", n->namespace_}, {"workload", n->workload},
		{"service", n->service}, {"version", n->version}, {"region", n->region},	    {"zone", n->zone},
	};

	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		if (!strcmp(known[i].key, key))
			return known[i].value;
	for (uint32_t i = 0; i < n->n_metadata; i++)
		if (!strcmp(n->metadata[i].key, key))
			return n->metadata[i].value;
	return NULL;
}

static int scope_labels(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct policy *p = base;
	struct policy_label *all;
	const struct tree_entry *e;
	const char *have;
	int r;

	if (n->kind != TREE_MAP || !n->n)
		return say_at(b->err, n, w, "want a mapping (label: value) with at least one label, not %s",
			      n->kind == TREE_MAP ? "an empty one" : tree_kind_str(n));
	all = arena_array(&b->own->arena, n->n, sizeof(*all));
	if (!all)
		return say_no_memory(b->err);
	p->labels = all;
	for (e = n->first; e; e = e->next) {
		struct policy_label *l = &all[p->n_labels++];
		struct where in = {.up = w, .key = e->key->text};

		r = value_text(b, e->key, &in, BUILD_NAME, &l->key);
		if (r >= 0)
			r = value_text(b, e->value, &in, BUILD_TEXT, &l->value);
		if (r < 0)
			return r;
		have = node_label(&b->c->node, l->key);
		p->elsewhere |= !have || strcmp(have, l->value) != 0;
	}
	return 0;
}

static const struct field scope_fields[] = {
	{.key = "listeners", .kind = F_CALL, .call = scope_listeners},
	{.key = "clusters", .kind = F_CALL, .call = scope_clusters},
	{.key = "labels", .kind = F_CALL, .call = scope_labels},
	{.key = NULL},
};
static const struct table scope_table = {.fields = scope_fields};

static int scope_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	if (n->kind == TREE_SCALAR && !strcmp(n->text, "all"))
		return 0;
	if (n->kind != TREE_MAP || !n->n)
		return say_at(b->err, n, w, "want all, or a mapping with listeners, clusters or labels");
	return schema_read(b, &scope_table, 0, n, w, base);
}

/* ---- policies */

static const char *const actions[] = {"allow", "deny", NULL}; /* enum policy_action */

static const struct field policy_fields[] = {
	{.key = "name", .kind = F_KNOWN, .required = true},
	{.key = "action", .kind = F_ENUM, .off = offsetof(struct policy, action), .names = actions, .required = true},
	{.key = "dry_run", .kind = F_BOOL, .off = offsetof(struct policy, dry_run)},
	{.key = "scope", .kind = F_CALL, .call = scope_read},
	{.key = "rules", .kind = F_CALL, .call = rules_read, .required = true},
	{.key = NULL},
};
static const struct table policy_table = {.fields = policy_fields};

static int policy_read(struct build *b, const struct tree_node *n, const struct where *w, struct policy *p)
{
	int r;

	p->everywhere = true;
	r = schema_read(b, &policy_table, 0, n, w, p);
	if (r < 0)
		return r;
	if (!strcmp(p->name, POLICY_DEFAULT))
		return say_at(b->err, tree_get(n, "name")->value, w, "'" POLICY_DEFAULT "' is what logs and metrics call it when no policy allows");
	if (!p->n_rules && p->action == POLICY_DENY)
		log_warn(LA_CONFIG, "%s:%u:%u: policies[%u] '%s' has no rules: it denies nothing", say_file(n->file), n->line, n->col, w->index,
			 p->name);
	return 0;
}

/* as the workers will have it */
static int compile(struct build *b)
{
	struct config *c = b->c;
	struct policy_set *s;
	uint64_t seed;
	int r;

	if (getrandom(&seed, sizeof(seed), 0) != sizeof(seed))
		return err_set(b->err, -EIO, "no random numbers from the kernel");
	r = policy_compile(c->policies, c->n_policies, c->n_listeners, c->n_clusters, seed, &s, b->err);
	if (r >= 0)
		b->own->policy_set = c->policy_set = s;
	return r;
}

int policies_read(struct build *b)
{
	struct config *c = b->c;
	struct policy *all;
	int r;

	if (!b->policies.n)
		return 0;
	all = arena_array(&b->own->arena, b->policies.n, sizeof(*all));
	if (!all)
		return say_no_memory(b->err);
	c->policies = all;
	c->n_policies = b->policies.n;
	for (uint32_t i = 0; i < c->n_policies; i++)
		all[b->policies.sorted[i].index].name = b->policies.sorted[i].name;
	for (uint32_t i = 0; i < c->n_policies; i++) {
		r = policy_read(b, b->policies.at[i], &(struct where){.key = "policies", .item = true, .index = i, .name = all[i].name}, &all[i]);
		if (r < 0)
			return r;
	}
	return compile(b);
}
