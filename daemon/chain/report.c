/*
 * What is told about a connection: metric series when it opens and ends, one access-log record per listener passed at its end. Inner
 * listeners report the principal, addresses and metadata of the outermost leg.
 */
#include "base/clean.h"
#include "chain/daemon.h"
#include "codec/secret.h"
#include <stdio.h>
#include <string.h>

#define TEXT(a, b) ((a) ? (a) : (b))

static bool inbound(const struct conn *c)
{
	return c->leg[SRC].kind == LEG_STREAM;
}

static void side_labels(const struct conn *c, struct series_labels *l, bool src)
{
	const struct cfg_node *n = whose_node(c, src);
	const struct leg *g = &c->leg[src ? SRC : DST];
	bool peer = g->kind == LEG_STREAM; /* the far end of a stream is another workload; that of a socket is ours */
	const char *ns = peer ? metadata_known(g->md, MD_NAMESPACE) : n->namespace_;
	const char *w = peer ? metadata_known(g->md, MD_WORKLOAD) : n->workload;
	const char *s = peer ? metadata_known(g->md, MD_SERVICE) : n->service;
	const char *v = peer ? metadata_known(g->md, MD_VERSION) : n->version;
	const char *id = g->who ? g->who->tls.id : c->leg[src ? DST : SRC].who ? c->leg[src ? DST : SRC].who->own_id : NULL;

	if (src && conn_principal(c))
		id = conn_principal(c);

	l->v[src ? SL_SRC_WORKLOAD : SL_DST_WORKLOAD] = w;
	l->v[src ? SL_SRC_CANONICAL_SERVICE : SL_DST_CANONICAL_SERVICE] = s;
	l->v[src ? SL_SRC_CANONICAL_REVISION : SL_DST_CANONICAL_REVISION] = v;
	l->v[src ? SL_SRC_NAMESPACE : SL_DST_NAMESPACE] = ns;
	l->v[src ? SL_SRC_PRINCIPAL : SL_DST_PRINCIPAL] = id;
	l->v[src ? SL_SRC_APP : SL_DST_APP] = s;
	l->v[src ? SL_SRC_VERSION : SL_DST_VERSION] = v;
	l->v[src ? SL_SRC_CLUSTER : SL_DST_CLUSTER] = peer ? metadata_known(g->md, MD_CLUSTER) : n->cluster;
	l->v[src ? SL_SRC_REGION : SL_DST_REGION] = peer ? metadata_known(g->md, MD_REGION) : n->region;
	l->v[src ? SL_SRC_ZONE : SL_DST_ZONE] = peer ? metadata_known(g->md, MD_ZONE) : n->zone;
}

static struct series *series_of(struct conn *c, const char *flags)
{
	struct series_labels l = { { NULL } };
	bool tls = (c->leg[SRC].who && c->leg[SRC].who->tls.id[0]) || (c->leg[DST].who && c->leg[DST].who->tls.id[0]);

	l.v[SL_REPORTER] = inbound(c) ? "destination" : "source";
	side_labels(c, &l, true);
	side_labels(c, &l, false);
	l.v[SL_DST_SERVICE] = l.v[SL_DST_CANONICAL_SERVICE];
	l.v[SL_DST_SERVICE_NAME] = l.v[SL_DST_CANONICAL_SERVICE];
	l.v[SL_DST_SERVICE_NAMESPACE] = l.v[SL_DST_NAMESPACE];
	l.v[SL_REQUEST_PROTOCOL] = "tcp";
	l.v[SL_RESPONSE_FLAGS] = flags;
	l.v[SL_SECURITY_POLICY] = tls ? "mutual_tls" : "unknown";
	return series_get(&c->w->series, &l);
}

void report_open(struct conn *c)
{
	c->series = series_of(c, "-");
	stats_bump(&c->series->opened, 1);
}

void report_bytes(struct conn *c)
{
	uint64_t in = c->bytes[SRC] - c->told[SRC], out = c->bytes[DST] - c->told[DST];

	if (!c->series)
		return;
	c->told[SRC] = c->bytes[SRC];
	c->told[DST] = c->bytes[DST];
	stats_bump(&c->series->received_bytes, in);
	stats_bump(&c->series->sent_bytes, out);
	for (uint32_t i = 0; i < c->stages.n; i++) {
		struct listener *s = c->w->listeners[conn_slot(c, i)];

		stats_bump(&s->bytes_in, in);
		stats_bump(&s->bytes_out, out);
	}
}

static void series_end(struct conn *c)
{
	if (c->series)
		stats_bump(&c->series->closed, 1);
	else
		c->series = series_of(c, ending_flags(c->ending));
	if (!c->open_us)
		stats_bump(&c->series->failed, 1);
	report_bytes(c);
}

static void listeners_end(struct conn *c)
{
	for (uint32_t i = 0; i < c->stages.n; i++) {
		struct listener *s = c->w->listeners[conn_slot(c, i)];

		if (i < c->staged)
			stats_bump(&s->active, (uint64_t)-1);
		if (!c->open_us)
			stats_bump(&s->failed, 1);
	}
}

/* every header and member that is not one of the well-known: "name=value,..." */
static const char *peer_headers(const struct metadata *md, char *out, size_t size)
{
	const char *name, *value;
	uint32_t pos = 0;
	size_t n = 0;

	out[0] = '\0';
	while (md && metadata_each(md, &pos, &name, &value) && n < size) {
		int w;

		if (!strncmp(name, "k8s.", 4) || !strncmp(name, "service.", 8) || !strncmp(name, "cloud.", 6) || !strncmp(name, "peer.", 5))
			continue;
		w = snprintf(out + n, size - n, "%s%s=%s", n ? "," : "", name, secret_name(name, strlen(name)) ? SECRET_SHOWN : value);
		if (w < 0 || (size_t)w >= size - n) {
			out[n] = '\0';
			break;
		}
		n += (size_t)w;
	}
	return n ? out : NULL;
}

/* the identity of the tunnel listener that the short way led to; NULL: it was not taken, or without TLS */
static const char *short_identity(const struct conn *c)
{
	const struct config *cfg = c->snap->cfg;

	for (uint32_t i = c->n_via ? c->stages.n : 0; i > 0; i--) {
		const struct cfg_listener *l = &cfg->listeners[c->stages.id[i - 1]];

		const struct cfg_identity *id = l->by_workload && c->owner ? c->owner->identity : l->identity;

		if (l->type == LISTENER_TUNNEL && id)
			return tls_ctx_id(snapshot_tls(c->snap, id));
	}
	return NULL;
}

static void side_facts(const struct conn *c, struct access_rec *r)
{
	const struct cfg_node *n = whose_node(c, true), *dn = whose_node(c, false);
	const struct leg *s = &c->leg[SRC], *d = &c->leg[DST];
	bool sp = s->kind == LEG_STREAM, dp = d->kind == LEG_STREAM || c->stages.cluster == NULL || c->stages.cluster->type == CLUSTER_TUNNEL;

	r->src_workload = sp ? metadata_known(s->md, MD_WORKLOAD) : n->workload;
	r->src_namespace = sp ? metadata_known(s->md, MD_NAMESPACE) : n->namespace_;
	r->src_cluster = sp ? metadata_known(s->md, MD_CLUSTER) : n->cluster;
	r->src_node = sp ? metadata_known(s->md, MD_NODE_ID) : n->id;
	r->dst_workload = dp ? metadata_known(d->md, MD_WORKLOAD) : dn->workload;
	r->dst_namespace = dp ? metadata_known(d->md, MD_NAMESPACE) : dn->namespace_;
	r->dst_cluster = dp ? metadata_known(d->md, MD_CLUSTER) : dn->cluster;
	r->dst_node = dp ? metadata_known(d->md, MD_NODE_ID) : dn->id;
	r->dst_service = dp ? metadata_known(d->md, MD_SERVICE) : dn->service;
	r->src_identity = conn_principal(c) ? conn_principal(c) : d->who && d->who->own_id[0] ? d->who->own_id : NULL;
	r->dst_identity = d->who && d->who->tls.id[0] ? d->who->tls.id : s->who && s->who->own_id[0] ? s->who->own_id : short_identity(c);
	r->tls = (s->who && s->who->tls.id[0]) || (d->who && d->who->tls.id[0]);
}

static void access_end(struct conn *c)
{
	const struct config *cfg = c->snap->cfg;
	const struct loop *l = &c->w->loop;
	const struct leg *t = c->leg[SRC].kind == LEG_STREAM ? &c->leg[SRC] : &c->leg[DST];
	char src[ADDR_STR], dst[ADDR_STR], orig[ADDR_STR], peer[512], trace[33], rule[POLICY_RULE_NAME];
	struct access_rec r = {
		.conn_id = c->id,
		.start_us = c->start_us + l->real_offset_us,
		.duration_us = l->now_us - c->start_us,
		.open_us = c->open_us ? max_u64(c->open_us - c->start_us, 1) : 0,
		.queue_us = c->queue_us,
		.bytes_sent = c->bytes[SRC],
		.bytes_recv = c->bytes[DST],
		.status = c->status,
		.tunnel_id = t->who ? t->who->tunnel : 0,
		.stream_id = t->sid,
		.ok = c->ending == END_COMPLETE,
		.mover = conn_mover(c),
		.response_flags = ending_flags(c->ending),
		.closed_by = ending_by(c),
		.mismatch = c->mismatch,
		.policy = judge_name(c, rule),
	};

	r.dir = inbound(c) ? (c->leg[DST].kind == LEG_STREAM ? ACCESS_FORWARD : ACCESS_INBOUND) :
		c->stages.cluster && c->stages.cluster->type == CLUSTER_TUNNEL ? ACCESS_OUTBOUND :
		ACCESS_LOCAL;
	r.route = c->stages.route ? c->stages.route->name : NULL;
	r.cluster = c->stages.cluster ? c->stages.cluster->name : NULL;
	r.src_addr = addr_str(&c->src, src);
	r.dst_addr = c->dst.family != AF_UNSPEC ? addr_str(&c->dst, dst) : NULL;
	r.original_dst = c->orig_dst.family != AF_UNSPEC ? addr_str(&c->orig_dst, orig) : NULL;
	r.hbone_addr = c->authority ? c->authority :
		       r.dir == ACCESS_OUTBOUND ? TEXT(c->stages.cluster->authority, r.original_dst) : NULL;
	side_facts(c, &r);
	r.peer_headers = peer_headers(t->md, peer, sizeof(peer));
	if (c->traced) {
		for (int i = 0; i < 16; i++)
			snprintf(trace + i * 2, 3, "%02x", c->trace[i]);
		r.trace_id = trace;
	}
	if (!r.ok)
		r.error = TEXT(c->why, ending_text(c->ending));
	for (uint32_t i = 0; i < c->stages.n; i++) {
		const struct cfg_listener *li = &cfg->listeners[c->stages.id[i]];

		if (!li->access_log)
			continue;
		r.listener = li->name;
		r.outer_listener = i ? cfg->listeners[c->stages.id[0]].name : NULL;
		access_emit(&c->w->access, &r);
	}
}

void report_end(struct conn *c)
{
	series_end(c);
	listeners_end(c);
	if (c->snap->cfg->access_log.enabled)
		access_end(c);
}
