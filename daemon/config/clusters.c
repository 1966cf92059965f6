/* Clusters: named upstreams, their endpoints, and how to reach them. */
#include "base/clean.h"
#include "codec/authority.h"
#include "config/build.h"
#include <ctype.h>
#include <string.h>

#define TCP	     BIT(CLUSTER_TCP)
#define TUNNEL	     BIT(CLUSTER_TUNNEL)
#define ORIGINAL_DST BIT(CLUSTER_ORIGINAL_DST)
#define INTERNAL     BIT(CLUSTER_INTERNAL)

static const char *const cluster_types[] = {"tcp", "tunnel", "original_dst", "internal", NULL};
static const char *const sources[] = {"agent", "client", NULL};	   /* enum cfg_source */
static const char *const proxies[] = {"none", "v1", "v2", NULL};   /* enum cfg_proxy */
static const char *const locals[] = {"short", "tunnel", NULL};	   /* enum cfg_local */
static const char *const balances[] = {"round_robin", "least_request", "random_two", NULL};

/* ---- endpoints ---- */

/* labels of letters, digits, - and _; the last one is not a number, else 10.0.0.300 would be a name */
static bool host_name(const char *s, size_t n)
{
	size_t i, label = 0;
	bool number = true;

	if (n && s[n - 1] == '.')
		n--;
	if (!n || n > 253)
		return false;
	for (i = 0; i < n; i++) {
		if (s[i] == '.') {
			if (!label || s[i - 1] == '-')
				return false;
			label = 0;
			number = true;
			continue;
		}
		if (!isalnum((uint8_t)s[i]) && s[i] != '-' && s[i] != '_')
			return false;
		if ((s[i] == '-' && !label) || ++label > 63)
			return false;
		number = number && isdigit((uint8_t)s[i]);
	}
	return label && !number && s[n - 1] != '-';
}

static int endpoint_name(struct build *b, const struct tree_node *n, const struct where *w, struct cfg_endpoint *ep)
{
	const char *colon = strrchr(n->text, ':');
	unsigned long port = 0;
	char q[SAY_QUOTED];

	say_quote(q, n->text, n->n);
	if (!colon)
		return say_at(b->err, n, w, "%s has no port: want HOST:PORT, IP:PORT or [IPv6]:PORT", q);
	if (memchr(n->text, ':', (size_t)(colon - n->text)) && n->text[0] != '[')
		return say_at(b->err, n, w, "%s: an IPv6 address stands in brackets: [IPv6]:PORT", q);
	if (!host_name(n->text, (size_t)(colon - n->text)))
		return say_at(b->err, n, w, "%s: want HOST:PORT, IP:PORT or [IPv6]:PORT", q);
	if (colon[1] && strlen(colon + 1) <= 5 && strspn(colon + 1, "0123456789") == strlen(colon + 1))
		port = strtoul(colon + 1, NULL, 10);
	if (!port || port > 65535)
		return say_at(b->err, n, w, "%s: want a port from 1 to 65535", q);
	ep->address.family = AF_UNSPEC;
	ep->port = (uint16_t)port;
	ep->host = arena_text(&b->own->arena, n->text, (size_t)(colon - n->text));
	return ep->host ? 0 : say_no_memory(b->err);
}

static int endpoint_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	struct cfg_endpoint *ep = &((struct cfg_endpoint *)arg)[index];
	char q[SAY_QUOTED];

	if (n->kind != TREE_SCALAR || tree_null(n))
		return say_at(b->err, n, w, "want HOST:PORT, IP:PORT or [IPv6]:PORT, not %s", tree_kind_str(n));
	ep->id = b->c->n_endpoints++;
	if (addr_parse(n->text, n->n, &ep->address, NULL) < 0)
		return endpoint_name(b, n, w, ep);
	ep->port = ep->address.port;
	if (!ep->port)
		return say_at(b->err, n, w, "%s: want a port from 1 to 65535", say_quote(q, n->text, n->n));
	return 0;
}

static int endpoints_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_cluster *c = base;
	int r;

	if (schema_count(n) > BUILD_ENDPOINTS - b->c->n_endpoints)
		return say_at(b->err, n, w, "too many endpoints: at most %u in all clusters together", BUILD_ENDPOINTS);
	c->endpoints = arena_array(&b->own->arena, schema_count(n), sizeof(*c->endpoints));
	if (!c->endpoints)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, true, BUILD_ENDPOINTS, endpoint_item, c->endpoints);
	if (r < 0)
		return r;
	c->n_endpoints = schema_count(n);
	return c->n_endpoints ? 0 : say_at(b->err, n, w, "is empty: want at least one endpoint");
}

/* ---- the other keys ---- */

static int destinations_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_cluster *c = base;
	int r = cidrs_read(b, n, w, &c->destinations, &c->n_destinations);

	if (r >= 0 && !c->n_destinations)
		return say_at(
			b->err, n, w,
			"is empty: nothing could be dialled; \"0.0.0.0/0\" allows all of IPv4, \"::/0\" all of IPv6");
	return r;
}

static int cluster_authority_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_cluster *c = base;
	struct authority a;
	struct err why = {""};
	int r = value_text(b, n, w, AUTHORITY_HOST_MAX + 8, &c->authority);

	if (r >= 0 && authority_parse(n->text, n->n, &a, &why) < 0)
		return say_at(b->err, n, w, "%s", why.msg);
	return r;
}

static int sni_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_cluster *c = base;
	char q[SAY_QUOTED];
	int r = value_text(b, n, w, 255, &c->sni);

	if (r >= 0 && !host_name(n->text, n->n))
		return say_at(b->err, n, w, "%s: want a host name", say_quote(q, n->text, n->n));
	return r;
}

static int spiffe_item(struct build *b, const struct tree_node *n, const struct where *w, uint32_t index, void *arg)
{
	return value_spiffe(b, n, w, &((const char **)arg)[index]);
}

int spiffes_read(struct build *b, const struct tree_node *n, const struct where *w, const char ***ret, uint32_t *ret_n)
{
	const char **all = arena_array(&b->own->arena, schema_count(n), sizeof(*all));
	int r;

	if (!all)
		return say_no_memory(b->err);
	r = schema_list(b, n, w, true, BUILD_LIST, spiffe_item, all);
	if (r < 0)
		return r;
	if (!schema_count(n))
		return say_at(b->err, n, w,
			      "is empty: nobody would be accepted; leave the key out for the whole trust domain");
	*ret = all;
	*ret_n = schema_count(n);
	return 0;
}

static int expect_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_cluster *c = base;

	return spiffes_read(b, n, w, &c->expect_ids, &c->n_expect_ids);
}

static int cluster_listener_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_cluster *c = base;
	uint32_t i;
	int r = names_refer(b, &b->listeners, "listener", n, w, &i);

	if (r < 0)
		return r;
	c->listener = &b->c->listeners[i];
	if (c->listener->type != LISTENER_INTERNAL)
		return say_at(b->err, n, w, "listener '%s' is not internal: only internal listeners can be a target",
			      c->listener->name);
	return 0;
}

#define POOL(name, member, lo, hi)                                                                         \
	{                                                                                                  \
		.key = name, .kind = F_U32, .off = offsetof(struct cfg_pool, member), .min = lo, .max = hi \
	}

static const struct field pool_fields[] = {
	POOL("max_tunnels", max_tunnels, 1, 64),
	POOL("max_streams", max_streams, 1, 1000000),
	POOL("max_requests", max_requests, 0, 1000000000),
	POOL("queue", queue, 1, 1000000),
	{.key = "queue_timeout", .kind = F_TIME, .off = offsetof(struct cfg_pool, queue_timeout_ms), .min = 1},
	{.key = "idle_timeout", .kind = F_TIME, .off = offsetof(struct cfg_pool, idle_timeout_ms)},
	{.key = "max_age", .kind = F_TIME, .off = offsetof(struct cfg_pool, max_age_ms)},
	{.key = NULL},
};
static const struct table pool_table = {.fields = pool_fields};

#define C(m) .off = offsetof(struct cfg_cluster, m)

static const struct field cluster_fields[] = {
	{.key = "name", .kind = F_KNOWN, .required = true},
	{.key = "type", .kind = F_KNOWN, .required = true},
	{.key = "balance", .kind = F_ENUM, C(balance), .names = balances, .types = TCP | TUNNEL},
	{.key = "endpoints", .kind = F_CALL, .call = endpoints_read, .types = TCP | TUNNEL, .required = true},
	{.key = "connect_timeout",
	 .kind = F_TIME,
	 C(connect_timeout_ms),
	 .min = 1,
	 .types = TCP | TUNNEL | ORIGINAL_DST},
	{.key = "dns_refresh", .kind = F_TIME, C(dns_refresh_ms), .min = 1, .types = TCP | TUNNEL},
	{.key = "max_connections", .kind = F_U32, C(max_connections), .max = 10000000},
	{.key = "rate", .kind = F_CALL, .call = rate_read, C(rate)},
	{.key = "authority", .kind = F_CALL, .call = cluster_authority_read, .types = TUNNEL},
	{.key = "identity", .kind = F_KNOWN, .types = TUNNEL},
	{.key = "identity_default", .kind = F_KNOWN, .types = TUNNEL},
	{.key = "tls", .kind = F_BOOL, C(tls), .types = TUNNEL},
	{.key = "expect", .kind = F_CALL, .call = expect_read, .types = TUNNEL},
	{.key = "sni", .kind = F_CALL, .call = sni_read, .types = TUNNEL},
	{.key = "pool", .kind = F_MAP, C(pool), .table = &pool_table, .types = TUNNEL, .may_be_empty = true},
	{.key = "listener", .kind = F_CALL, .call = cluster_listener_read, .types = INTERNAL, .required = true},
	{.key = "destinations", .kind = F_CALL, .call = destinations_read, .types = ORIGINAL_DST},
	{.key = "netns", .kind = F_CALL, .call = netns_read, C(netns), .types = TCP | TUNNEL | ORIGINAL_DST},
	{.key = "source", .kind = F_ENUM, C(source), .names = sources, .types = TCP | ORIGINAL_DST},
	{.key = "proxy_protocol", .kind = F_ENUM, C(proxy_protocol), .names = proxies, .types = TCP | ORIGINAL_DST},
	{.key = "local", .kind = F_ENUM, C(local), .names = locals, .types = TUNNEL},
	{.key = NULL},
};
static const struct table cluster_table = {.fields = cluster_fields, .what = "cluster", .types = cluster_types};

static void cluster_preset(const struct config *c, struct cfg_cluster *cl)
{
	cl->connect_timeout_ms = c->timeouts.connect_ms;
	cl->dns_refresh_ms = 30000;
	cl->tls = cl->type == CLUSTER_TUNNEL;
	if (cl->type == CLUSTER_TUNNEL)
		cl->pool = (struct cfg_pool){
			.max_tunnels = 16,
			.max_streams = 1024,
			.queue = 1024,
			.queue_timeout_ms = 5000,
			.idle_timeout_ms = 300000,
		};
}

static int cluster_read(struct build *b, const struct tree_node *n, const struct where *w, struct cfg_cluster *cl)
{
	const struct tree_entry *identity = tree_get(n, "identity"), *expect = tree_get(n, "expect");
	int r;

	cluster_preset(b->c, cl);
	if (cl->type == CLUSTER_ORIGINAL_DST && !tree_get(n, "destinations"))
		return say_at(
			b->err, n, w,
			"'destinations' is missing: which addresses may be dialled (\"0.0.0.0/0\" allows all of IPv4)");
	r = schema_read(b, &cluster_table, cl->type, n, w, cl);
	if (r < 0)
		return r;
	if (cl->type == CLUSTER_TUNNEL && !cl->tls && expect)
		return say_at(b->err, expect->key, w, "'expect' without TLS: nobody proves an identity");
	if (!cl->tls && !identity)
		return 0;
	return names_owner(b, n, w, &cl->by_workload, &cl->identity);
}

int clusters_slots(struct build *b)
{
	struct config *c = b->c;
	const struct tree_entry *type;
	uint32_t i, j, kind = 0;
	int r;

	c->clusters = arena_array(&b->own->arena, b->clusters.n, sizeof(*c->clusters));
	if (!c->clusters)
		return say_no_memory(b->err);
	c->n_clusters = b->clusters.n;
	for (i = 0; i < c->n_clusters; i++)
		c->clusters[b->clusters.sorted[i].index].name = b->clusters.sorted[i].name;
	for (j = 0; j < c->n_clusters; j++) {
		struct where w = {.key = "clusters", .item = true, .index = j, .name = c->clusters[j].name};

		type = tree_get(b->clusters.at[j], "type");
		if (!type)
			return say_at(b->err, b->clusters.at[j], &w,
				      "'type' is missing: tcp, tunnel, original_dst or internal");
		r = value_enum(b, type->value, &(struct where){.up = &w, .key = "type"}, cluster_types, &kind);
		if (r < 0)
			return r;
		c->clusters[j].id = j;
		c->clusters[j].type = (enum cfg_cluster_type)kind;
	}
	return 0;
}

int clusters_read(struct build *b)
{
	uint32_t i;
	int r;

	for (i = 0; i < b->c->n_clusters; i++) {
		struct cfg_cluster *cl = &b->c->clusters[i];

		r = cluster_read(b, b->clusters.at[i],
				 &(struct where){.key = "clusters", .item = true, .index = i, .name = cl->name}, cl);
		if (r < 0)
			return r;
	}
	return 0;
}
