/*
 * Streams of tunnels: a CONNECT becomes a connection, and what a tunnel tells of its streams goes to the connections that they belong to.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "codec/spiffe.h"
#include <stdio.h>
#include <string.h>

/* what the peer says of itself must not contradict what its certificate proves (row A12); it is flagged, never believed */
static bool contradicts(const struct metadata *md, const char *id)
{
	const char *ns = metadata_known(md, MD_NAMESPACE), *said = metadata_known(md, MD_IDENTITY);
	struct spiffe sp;

	if (!md || !id[0] || spiffe_parse(id, strlen(id), &sp, NULL) < 0)
		return false;
	if (said && strcmp(said, id))
		return true;
	return ns && sp.ns.n && !slice_is(sp.ns, ns);
}

static void take_metadata(struct worker *w, struct tunnel *t, struct leg *g, const struct header *h, size_t n)
{
	const struct metadata_limits lim = { .bytes = w->snap->cfg->limits.metadata_bytes, .members = 64 };
	int e;

	g->who = tunnel_who_get(t->who);
	g->md = metadata_build(h, n, &lim, &e);
	if (!g->md)
		return;
	if (g->md->dropped)
		stats_add(&w->loop.stats, ST_METADATA_DROPPED, g->md->dropped);
	if (t->md && metadata_eq(t->md, g->md)) { /* the usual case: all streams of a peer say the same */
		metadata_put(g->md);
		g->md = metadata_get_ref(t->md);
	} else {
		metadata_put(t->md);
		t->md = metadata_get_ref(g->md);
	}
}

static void refuse_at_once(struct tunnel *t, int32_t id, int status)
{
	connect_refuse(&t->h2, id, status, snapshot_self(t->snap, t->identity), tunnel_kin(t) ? "a connection limit is reached" : NULL);
	if (t->h2.streams == 0)
		tunnel_stream_ended(t);
}

/* @s: 2 * @n lower-case hex digits, checked by the codec */
static void from_hex(uint8_t *out, const char *s, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		int hi = s[2 * i], lo = s[2 * i + 1];

		out[i] = (uint8_t)((hi <= '9' ? hi - '0' : hi - 'a' + 10) << 4 | (lo <= '9' ? lo - '0' : lo - 'a' + 10));
	}
}

static void on_request(void *owner, struct tunnel *t, int32_t id, const struct header *h, size_t n, unsigned flags)
{
	struct worker *w = owner;
	const struct cfg_listener *l = t->listener;
	struct stage_context ctx = { .in = { .headers = h, .n_headers = n } };
	struct connect_in in;
	struct err why = { "" };
	const char *over = shed_refuses(w, false);
	struct conn *c = over ? NULL : conn_new(w, t->snap, l);
	int status = connect_parse(h, n, flags, &in, &why);

	if (!c) {
		accept_refused(w, l, &t->who->remote, over ? DENIAL_OVERLOAD : DENIAL_LIMIT, over ? over : ACCEPT_FULL);
		refuse_at_once(t, id, 503);
		return;
	}
	if (h2_accept(&t->h2, &c->leg[SRC].s, id) < 0) {
		conn_end(c, END_MEMORY, "stream vanished");
		return;
	}
	c->leg[SRC].kind = LEG_STREAM;
	c->leg[SRC].sid = (uint32_t)id;
	take_metadata(w, t, &c->leg[SRC], h, n);
	c->src = in.forwarded.family != AF_UNSPEC ? in.forwarded : t->who->remote;
	c->orig_dst = in.to.addr;
	c->peer_md = in.has_peer_md;
	if (in.authority.p)
		c->authority = strndup(in.authority.p, in.authority.n);
	if (in.has_trace) {
		c->traced = true;
		from_hex(c->trace, in.trace.trace_id, 16);
		from_hex(c->trace + 16, in.trace.parent_id, 8);
	}
	conn_look(c);
	if (__builtin_expect(c->watch != 0, 0))
		tracing_headers(c, "received", t->id, (uint32_t)id, h, n);
	if (status) {
		stats_inc(&w->loop.stats, ST_BAD_REQUEST);
		conn_end(c, status == 431 ? END_HEADERS : END_BAD_REQUEST, "%s", why.msg);
		return;
	}
	c->mismatch = contradicts(c->leg[SRC].md, t->who->tls.id);
	if (c->mismatch)
		stats_inc(&w->loop.stats, ST_METADATA_MISMATCH);
	ctx.in.authority = in.authority;
	ctx.in.addr = in.to.addr;
	ctx.in.port = in.to.port;
	ctx.in.md = c->leg[SRC].md;
	ctx.principal = t->who->tls.id[0] ? t->who->tls.id : NULL;
	ctx.src = c->src;
	ctx.orig_dst = c->orig_dst;
	if (whose_asked(c, t, &in.to.addr))
		conn_go(c, l, &ctx);
}

static void on_response(void *owner, struct tunnel *t, struct h2_stream *s, const struct header *h, size_t n, unsigned flags)
{
	struct worker *w = owner;
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)flags;
	if (c->state != CONN_DIALING)
		return;
	take_metadata(w, t, &c->leg[side], h, n);
	dial_answer(c, t, h, n);
	if ((flags & H2_HEADERS_END) && c->state == CONN_OPEN)
		relay_in_done(c, side);
}

static void on_data(void *owner, struct h2_stream *s, const uint8_t *p, size_t n)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	relay_data(c, side, p, n);
}

static void on_end(void *owner, struct h2_stream *s)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	relay_in_done(c, side);
}

static void on_closed(void *owner, struct h2_stream *s, uint32_t code, bool by_peer)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	conn_stream_closed(c, side, code, by_peer);
}

static ssize_t on_pull(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	return relay_pull(c, side, dst, max, ret_eof);
}

static void on_batch(void *owner)
{
	relay_batch(owner);
}

static ssize_t on_pull_pipe(void *owner, struct h2_stream *s, size_t max, struct pipe **ret)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	return splice_pull(c, side, max, ret);
}

static bool on_room(void *owner, struct h2_stream *s)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	return splice_room(c, side);
}

static void on_put(void *owner, struct h2_stream *s, struct pipe *p)
{
	int side;
	struct conn *c = stream_conn(s, &side);

	(void)owner;
	splice_put(c, side, p);
}

static void on_refused(void *owner, struct tunnel *t)
{
	struct worker *w = owner;
	struct denial_facts f = {
		.kind = DENIAL_IDENTITY,
		.listener = t->server ? t->listener->name : NULL,
		.cluster = t->server ? NULL : t->peer->pool->cluster->name,
		.src = t->server ? &t->who->remote : NULL,
		.dst = t->server ? NULL : &t->who->remote,
		.principal = t->who->tls.id,
		.why = t->why.msg,
	};

	denied_note(w, &f);
}

const struct tunnel_hooks stream_hooks = {
	.refused = on_refused,
	.request = on_request,
	.response = on_response,
	.data = on_data,
	.end = on_end,
	.closed = on_closed,
	.pull = on_pull,
	.pull_pipe = on_pull_pipe,
	.room = on_room,
	.put = on_put,
	.batch = on_batch,
};
