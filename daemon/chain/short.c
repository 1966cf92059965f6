/*
 * The short way: the endpoint of a tunnel cluster is an address of this node, and this daemon itself listens there for tunnels. Then the
 * connection goes on into that listener's chain as an entry in its list of stages: no socket, no TLS, no copy.
 *
 * It must be as if there had been a tunnel: the identities are checked as both sides would have done it (the trust domain or `accept` of
 * the listener, `expect` of the cluster), the listener's routes see the same headers and metadata that connect_open()
 * would have sent, limits and counters are those of everything on the way, and who is denied or finds no route gets the same answer.
 * Where that cannot be told without a handshake (other authorities, a certificate that is not valid now, TLS on one side only), or the
 * listener does not listen at this moment, there is a tunnel as to any other node, and says so.
 *
 * A chain that comes back to a tunnel listener that it has passed is a loop: stages_extend() finds it.
 */
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "tunnel/choose.h"
#include <string.h>

static bool wildcard(const struct addr *a)
{
	static const uint8_t zero[16];

	return !memcmp(a->ip, zero, a->family == AF_INET ? 4 : 16);
}

static bool same_name(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

/* would the kernel lead a connection to @to there? IPv6 wildcards do not take IPv4 (sock_listen()). */
static bool listens(const struct cfg_listener *l, const struct addr *to)
{
	return l->type == LISTENER_TUNNEL && !l->netns && l->address.family == to->family && l->address.port == to->port &&
	       (addr_eq(&l->address, to) || wildcard(&l->address));
}

static const struct cfg_listener *listener_at(const struct worker *w, const struct config *cfg, const struct addr *to)
{
	const struct cfg_listener *found = NULL;

	for (uint32_t i = 0; i < cfg->n_listeners; i++) {
		const struct cfg_listener *l = &cfg->listeners[i];

		if (!listens(l, to) || !w->listeners[l->slot] || w->listeners[l->slot]->fd < 0)
			continue;
		if (addr_eq(&l->address, to)) /* the kernel, too, prefers it to a wildcard */
			return l;
		found = l;
	}
	return found;
}

static bool valid_now(const struct worker *w, const struct tls_ctx *t)
{
	uint64_t now = (w->loop.now_us + w->loop.real_offset_us) / 1000000u;

	return !tls_ctx_not_after(t) || now < tls_ctx_not_after(t);
}

/* would the handshake succeed, as far as it can be told? What the listener's `accept` says comes later, with an answer of its own. */
static bool would_trust(const struct worker *w, const struct snapshot *snap, const struct cfg_cluster *cl, const struct cfg_identity *mine,
			const struct cfg_listener *l, const struct addr *to)
{
	const struct cfg_identity *theirs = choose_identity(snap->cfg, l, to, cl->sni);
	struct tls_ctx *us, *them;

	if (!cl->tls || !l->tls)
		return cl->tls == l->tls;
	if (!mine || !theirs || !same_name(mine->ca, theirs->ca))
		return false;
	us = snapshot_tls(snap, mine);
	them = snapshot_tls(snap, theirs);
	return valid_now(w, us) && valid_now(w, them) && !tls_ctx_revokes(us, them) && !tls_ctx_revokes(them, us) &&
	       tls_id_check(us, tls_ctx_id(them), cl->expect_ids, cl->n_expect_ids, NULL) == 0;
}

/* the connection leaves its endpoint behind, which goes on counting it */
static void leave(struct conn *c, const struct cfg_cluster *cl)
{
	c->via_cluster[c->n_via] = (uint16_t)cl->id;
	c->via[c->n_via++] = c->ep;
	c->chosen = c->counted = false;
	c->ep = NULL;
	c->tries = 0;
}

/* Return: 0 or -ENOMEM */
static int remember(struct conn *c, struct slice authority, const char *id)
{
	if (!c->authority || !slice_is(authority, c->authority)) {
		char *s = strndup(authority.p, authority.n);

		if (!s)
			return -ENOMEM;
		free(c->authority);
		c->authority = s;
	}
	if (id && !conn_principal(c) && !(c->principal = strdup(id)))
		return -ENOMEM;
	return 0;
}

static void go_on(struct conn *c, const struct cfg_listener *l, const struct addr *to)
{
	struct worker *w = c->w;
	const struct cfg_cluster *cl = c->stages.cluster;
	const struct metadata_limits lim = { .bytes = c->snap->cfg->limits.metadata_bytes, .members = 64 };
	const struct cfg_identity *mine = whose_identity(c, cl, c->n_via), *theirs = choose_identity(c->snap->cfg, l, to, cl->sni);
	const struct tls_ctx *us = cl->tls ? snapshot_tls(c->snap, mine) : NULL;
	struct stage_context ctx = { .principal = us ? tls_ctx_id(us) : NULL };
	char text[ADDR_STR], trace[TRACEPARENT_LEN + 1], fwd[FORWARDED_MAX];
	struct header h[CONNECT_SELF_NV + 8];
	struct err why = { "" };
	struct connect_in in;
	struct metadata *md;
	const char *authority;
	size_t n = dial_authority(c, text, &authority);
	int r, kept;

	dial_trace(c, trace);
	n = connect_headers(whose_self(c, cl, c->n_via), authority, n, &c->src, trace, fwd, h);
	r = connect_parse(h, n, 0, &in, &why);
	kept = c->n_via ? 0 : judge_keep(c, 0, NULL); /* before the connection looks otherwise */
	leave(c, cl);
	if (r) {
		conn_end(c, END_BAD_REQUEST, "%s", why.msg);
		return;
	}
	if (us && tls_id_check(snapshot_tls(c->snap, theirs), tls_ctx_id(us), l->accept_ids, l->n_accept_ids, &why) < 0) {
		stats_inc(&w->loop.stats, ST_IDENTITY_REFUSED);
		conn_end(c, END_DENIED, "listener '%s' of this node: %s", l->name, why.msg);
		return;
	}
	if (!whose_short(c, l, theirs, &in.to.addr))
		return;
	md = metadata_build(h, n, &lim, &r);
	ctx.in = (struct route_input){ .authority = in.authority, .addr = in.to.addr, .port = in.to.port, .headers = h, .n_headers = n, .md = md };
	ctx.src = in.forwarded.family != AF_UNSPEC ? in.forwarded : *to;
	ctx.orig_dst = in.to.addr;
	stats_inc(&w->loop.stats, ST_SHORTCUTS);
	/* authority lies in text or in c->authority, which remember() may free */
	r = remember(c, in.authority, ctx.principal);
	if (r == 0) {
		ctx.in.authority = (struct slice){ c->authority, strlen(c->authority) };
		r = kept < 0 ? kept : judge_keep(c, c->stages.n, &ctx);
	}
	if (r == 0) {
		conn_go(c, l, &ctx);
	} else {
		conn_end(c, END_MEMORY, "out of memory");
	}
	metadata_put(md);
}

const struct cfg_listener *short_listener(const struct worker *w, const struct snapshot *snap, const struct cfg_cluster *cl,
					  const struct cfg_identity *mine, const struct addr *to, const char **ret_why)
{
	const struct cfg_listener *l;

	*ret_why = "";
	if (addr_is_loopback(to))
		*ret_why = "the endpoint is a loopback address, which is dialled as it is";
	else if (cl->local != LOCAL_SHORT)
		*ret_why = "the cluster says local: tunnel";
	else if (cl->netns)
		*ret_why = "the cluster dials from another network namespace";
	else if (!w->d->kernel.local)
		*ret_why = "the addresses of this node are not known (aditctl kernel: netlink)";
	if (**ret_why)
		return NULL;
	l = listener_at(w, snap->cfg, to); /* usually none: cheaper than the look at the node's addresses */
	if (!l)
		*ret_why = "no tunnel listener of this node listens there";
	else if (!local_has(w->d->kernel.local, to))
		*ret_why = "the endpoint is another node";
	else if (!would_trust(w, snap, cl, mine, l, to))
		*ret_why = "a handshake has to tell whether the listener and the cluster trust each other";
	return **ret_why ? NULL : l;
}

bool short_way(struct conn *c, const struct addr *to)
{
	const struct cfg_cluster *cl = c->stages.cluster;
	const struct cfg_listener *l;
	const char *why;

	l = c->n_via < SHORT_MAX ? short_listener(c->w, c->snap, cl, whose_identity(c, cl, c->n_via), to, &why) : NULL;
	if (l)
		go_on(c, l, to);
	return l != NULL;
}
