/*
 * Which workload, when: once, as the connection is accepted, before its chain is resolved; it stays so.
 *
 * What the kernel must be asked for costs a question to sock_diag (net/owner.h: 12 us), and 18 us more when a cgroup is seen for the
 * first time. Captured connections bring both answers with their claim. A connection whose workload hangs on an answer that is not to be
 * had is refused, whatever it wants: it could be anybody's.
 *
 * The answer is about the socket that has the other end of our connection *now*. So ours is looked at afterwards: while it is established
 * nobody else can have taken the place of who opened it.
 */
#include "chain/whose.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "chain/inspect.h"
#include "chain/snapshot.h"
#include "codec/spiffe.h"
#include "net/sock.h"
#include "policy/workload.h"
#include <netinet/tcp.h>
#include <string.h>

/* ---- counters: objects of the main thread, which snapshots share by name */

static struct workload_counts *counts_new(const char *name, uint32_t n_workers)
{
	size_t size = (sizeof(struct workload_counts) + n_workers * sizeof(struct workload_count) + 63) & ~(size_t)63;
	struct workload_counts *k = aligned_alloc(64, size);

	if (!k)
		return NULL;
	memset(k, 0, size);
	k->name = strdup(name);
	k->refs = 1;
	if (k->name)
		return k;
	free(k);
	return NULL;
}

static struct workload_counts *counts_of(const struct snapshot *s, const char *name)
{
	for (uint32_t i = 0; s && s->workloads && i <= s->cfg->n_workloads; i++)
		if (!strcmp(s->workloads[i]->name, name))
			return s->workloads[i];
	return NULL;
}

/* modules are loaded by the first question, and it is said once what will not work */
static void probe(const struct config *cfg)
{
	struct owner_facts f;
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}, .port = 1};
	struct err why = {""};
	struct whose x;
	bool uids = false, cgroups = false;
	int r;

	for (uint32_t i = 0; i < cfg->n_workloads; i++) {
		uids |= cfg->workloads[i].n_uids != 0;
		cgroups |= cfg->workloads[i].n_cgroups != 0;
	}
	whose_init(&x);
	r = uids || cgroups ? owner_open(&x.owner, -1) : 0;
	if (x.owner.fd >= 0)
		r = owner_ask(&x.owner, &a, &a, &f);
	if (r < 0 && r != -ENOENT)
		log_err(LA_MAIN, "workloads by uid or cgroup: the kernel does not say whose a socket is (%s; is there a module tcp_diag?): "
			"connections that are not captured are refused where it matters", strerror(-r));
	if (cgroups && cgroups_init(&x.cgroups, &why) < 0)
		log_err(LA_MAIN, "workloads by cgroup: %s: their connections are refused", why.msg);
	x.ready = true;
	whose_finish(&x);
}

/* a peer flags metadata that contradicts the certificate (row A12) */
static void contradictions(const struct snapshot *s)
{
	for (uint32_t i = 0; i < s->cfg->n_workloads; i++) {
		const struct cfg_workload *l = &s->cfg->workloads[i];
		const struct tls_ctx *t = snapshot_tls(s, l->identity);
		struct spiffe id;

		if (t && l->node.namespace_ && spiffe_parse(tls_ctx_id(t), strlen(tls_ctx_id(t)), &id, NULL) == 0 && id.ns.n &&
		    !slice_is(id.ns, l->node.namespace_))
			log_warn(LA_MAIN, "workload '%s': its namespace is '%s', and its certificate says %s: peers will mark it as a mismatch",
				 l->name, l->node.namespace_, tls_ctx_id(t));
	}
}

int workloads_prepare(struct snapshot *next, const struct snapshot *old, struct err *reterr)
{
	const struct config *cfg = next->cfg;

	workloads_release(next); /* an earlier attempt at the swap failed */
	next->workloads = calloc(cfg->n_workloads + 1u, sizeof(struct workload_counts *));
	if (!next->workloads)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i <= cfg->n_workloads; i++) {
		const char *name = i < cfg->n_workloads ? cfg->workloads[i].name : "";
		struct workload_counts *k = counts_of(old, name);

		if (k)
			k->refs++;
		else
			k = counts_new(name, next->n_workers);
		next->workloads[i] = k;
		if (!k)
			return err_set(reterr, -ENOMEM, "out of memory");
	}
	probe(cfg);
	contradictions(next);
	return 0;
}

void workloads_release(struct snapshot *s)
{
	for (uint32_t i = 0; s->workloads && i <= s->cfg->n_workloads; i++) {
		struct workload_counts *k = s->workloads[i];

		if (!k || --k->refs)
			continue;
		free(k->name);
		free(k);
	}
	free(TAKE(s->workloads));
}

static struct workload_count *count_of(const struct conn *c, const struct cfg_workload *l)
{
	return &c->snap->workloads[l ? l->id : c->snap->cfg->n_workloads]->at[c->w->loop.worker];
}

static void refused(struct conn *c, const struct cfg_workload *l)
{
	stats_inc(&c->w->loop.stats, ST_WORKLOAD_REFUSED);
	stats_bump(&count_of(c, l)->refused, 1);
}

/* ---- who is the process? */

void whose_init(struct whose *x)
{
	*x = (struct whose){.cgroups.root = -1, .owner.fd = -1};
}

void whose_finish(struct whose *x)
{
	if (x->ready)
		cgroups_finish(&x->cgroups);
	owner_close(&x->owner);
	whose_init(x);
}

static struct whose *ready(struct worker *w)
{
	struct whose *x = &w->whose;

	if (x->ready)
		return x;
	x->ready = true; /* once: what does not work was said by probe() */
	(void)owner_open(&x->owner, -1);
	(void)cgroups_init(&x->cgroups, NULL);
	return x;
}

/* the namespace that @s listens in */
static struct owner *owner_at(struct worker *w, struct listener *s)
{
	int fd;

	if (!s->netns.name)
		return &ready(w)->owner;
	if (netns_get(&s->netns, &fd, NULL) < 0)
		return NULL;
	if (s->owner.fd >= 0 && s->owner_ino == s->netns.ino)
		return &s->owner;
	owner_close(&s->owner);
	if (owner_open(&s->owner, fd) < 0)
		return NULL;
	s->owner_ino = s->netns.ino;
	return &s->owner;
}

/* an address of the namespace that the listener is in; when that is not known it is taken for one */
static bool here(struct worker *w, struct listener *s, const struct addr *a)
{
	int fd;

	if (addr_is_loopback(a))
		return true;
	if (!s->netns.name)
		return !w->d->kernel.local || local_has(w->d->kernel.local, a);
	return netns_get(&s->netns, &fd, NULL) < 0 || local_reaches(fd, a) != 0;
}

/* nobody else's socket can be at the other end */
static bool still_connected(int fd)
{
	struct tcp_info ti = {0};
	socklen_t n = sizeof(ti);

	return !getsockopt(fd, IPPROTO_TCP, TCP_INFO, &ti, &n) && (ti.tcpi_state == TCP_ESTABLISHED || ti.tcpi_state == TCP_CLOSE_WAIT);
}

static void ask(struct conn *c, struct workload_facts *f)
{
	struct worker *w = c->w;
	struct listener *s = w->listeners[conn_slot(c, 0)];
	struct owner *o = owner_at(w, s);
	struct owner_facts got = {0};
	struct addr peer = c->src, local;
	int r = o && sock_local(c->leg[SRC].fd, &local) == 0 ? owner_ask(o, &peer, &local, &got) : -EBADF;

	stats_add(&w->loop.stats, ST_SYS_OTHER, 4);
	stats_inc(&w->loop.stats, ST_WORKLOAD_ASKED);
	f->process = WORKLOAD_LOCAL;
	if (r == -ENOENT && !here(w, s, &peer))
		f->process = WORKLOAD_FOREIGN;
	if (r < 0 || !still_connected(c->leg[SRC].fd))
		return;
	c->has_uid = f->has_uid = got.has_uid;
	c->uid = f->uid = got.uid;
	c->cgroup = got.cgroup;
}

/*
 * A claim that nobody took may lie under the addresses of a later connection. The capture takes it away when the next one is made, but
 * only below the cgroup that it is attached to: elsewhere the kernel is asked.
 */
void whose_captured(struct conn *c, const struct capture_claim *claim)
{
	const char *top = c->snap->cfg->kernel.cgroup;

	if (top && strcmp(top, "/"))
		return;
	c->claimed = c->has_uid = true;
	c->uid = claim->uid;
	c->cgroup = claim->cgroup;
}

bool whose_source(struct conn *c)
{
	const struct config *cfg = c->snap->cfg;
	const struct cfg_listener *l = &cfg->listeners[c->stages.id[0]];
	const struct cfg_workload *found = NULL;
	struct workload_facts f = {.source = c->src, .listener = l->id, .has_uid = c->has_uid, .uid = c->uid};
	enum workload_answer a;

	if (!cfg->n_workloads)
		return true;
	a = workload_find(cfg, &f, &found);
	if (a == WORKLOAD_ASK) {
		if (l->proxy_protocol)
			f.process = WORKLOAD_FOREIGN; /* the process is the proxy; the client is elsewhere */
		else if (c->claimed)
			f.process = WORKLOAD_LOCAL;
		else
			ask(c, &f);
		f.cgroup = f.process == WORKLOAD_LOCAL ? cgroups_path(&ready(c->w)->cgroups, c->cgroup) : NULL;
		a = workload_find(cfg, &f, &found);
	}
	if (a == WORKLOAD_UNSURE) {
		refused(c, found);
		conn_end(c, END_DENIED, "it may be workload '%s', which its %s would tell, and that is not to be had: its process has ended, or closed it",
			 found->name, found->n_uids && !f.has_uid ? "uid" : "cgroup");
		return false;
	}
	c->workload = a == WORKLOAD_FOUND ? found : NULL;
	c->workload_counted = true;
	stats_bump(&count_of(c, c->workload)->connections, 1);
	stats_bump(&count_of(c, c->workload)->active, 1);
	return true;
}

void whose_end(struct conn *c)
{
	if (c->workload_counted)
		stats_bump(&count_of(c, c->workload)->active, (uint64_t)-1);
	c->workload_counted = false;
}

/* ---- as whom it leaves */

const struct cfg_identity *whose_identity(const struct conn *c, const struct cfg_cluster *cl, uint32_t hop)
{
	/* what came by a tunnel, be it without one, is no application's of this node any more */
	if (cl->by_workload && hop == 0 && c->workload && c->workload->identity)
		return c->workload->identity;
	return cl->identity;
}

bool whose_leaves(struct conn *c)
{
	const struct cfg_cluster *cl = c->stages.cluster;

	if (cl->type != CLUSTER_TUNNEL || !cl->by_workload || whose_identity(c, cl, c->n_via))
		return true;
	refused(c, NULL);
	if (c->leg[SRC].kind == LEG_STREAM || c->n_via)
		conn_end(c, END_DENIED, "cluster '%s' has 'identity: workload', and what came by a tunnel is of none: give it an identity_default",
			 cl->name);
	else
		conn_end(c, END_DENIED, "no workload matches it, and cluster '%s' has no identity_default", cl->name);
	return false;
}

const struct connect_self *whose_self(const struct conn *c, const struct cfg_cluster *cl, uint32_t hop)
{
	const struct cfg_identity *id = whose_identity(c, cl, hop);

	if (hop == 0 && c->workload && c->workload->identity == id)
		return snapshot_self_of(c->snap, c->workload);
	return snapshot_self(c->snap, id);
}

static bool same_identity(const struct cfg_identity *a, const struct cfg_identity *b)
{
	return a == b || (a && b && !strcmp(a->name, b->name)); /* of two snapshots */
}

const struct connect_self *whose_asks(const struct conn *c, const struct tunnel *t)
{
	if (!c->n_via && c->workload && same_identity(c->workload->identity, t->identity))
		return snapshot_self_of(c->snap, c->workload);
	return snapshot_self(t->snap, t->identity);
}

/* ---- whose it is what a peer asks for */

/* nobody has the address: who was asked for by name is meant, and there may be several: the first */
static const struct cfg_workload *by_identity(const struct config *cfg, const struct cfg_identity *id)
{
	for (uint32_t i = 0; i < cfg->n_workloads; i++)
		if ((cfg->workloads[i].n_server_names || cfg->workloads[i].n_addresses) && same_identity(cfg->workloads[i].identity, id))
			return &cfg->workloads[i];
	return NULL;
}

static bool asked(struct conn *c, const struct cfg_listener *l, const struct cfg_identity *id, const struct addr *local, const struct addr *to)
{
	const struct config *cfg = c->snap->cfg;
	const struct cfg_workload *x;

	if (!cfg->n_workloads)
		return true;
	x = workload_serving(cfg, to);
	if (x && l->by_workload && !same_identity(x->identity, id)) {
		refused(c, x);
		stats_inc(&c->w->loop.stats, ST_BAD_REQUEST);
		conn_end(c, END_BAD_REQUEST, "it asks for workload '%s' by a tunnel to another identity ('%s')", x->name, id ? id->name : "none");
		return false;
	}
	if (!x)
		x = workload_serving(cfg, local);
	if (x && !same_identity(x->identity, id))
		x = NULL;
	if (!x && l->by_workload)
		x = by_identity(cfg, id);
	c->owner = x;
	return true;
}

bool whose_asked(struct conn *c, const struct tunnel *t, const struct addr *to)
{
	return asked(c, t->listener, t->identity, &t->who->local, to);
}

bool whose_short(struct conn *c, const struct cfg_listener *l, const struct cfg_identity *id, const struct addr *to)
{
	return asked(c, l, id, &c->dst, to);
}

const struct connect_self *whose_answer(const struct conn *c, const struct tunnel *t)
{
	return c->owner && same_identity(c->owner->identity, t->identity) ? snapshot_self_of(c->snap, c->owner) : snapshot_self(t->snap, t->identity);
}

/* ---- what is told */

const struct cfg_node *whose_node(const struct conn *c, bool src)
{
	const struct cfg_workload *l = src ? c->workload : c->owner;

	return l ? &l->node : &c->snap->cfg->node;
}

const char *whose_principal(const struct conn *c)
{
	struct tls_ctx *t = c->workload ? snapshot_tls(c->snap, c->workload->identity) : NULL;

	return t ? tls_ctx_id(t) : NULL;
}

int inspect_workloads(struct daemon *d, struct workload_row **ret, size_t *ret_n)
{
	const struct snapshot *s = d->snap;
	uint32_t n = s->cfg->n_workloads;
	struct workload_row *r = calloc(n + 1u, sizeof(*r));

	if (!r)
		return -ENOMEM;
	for (uint32_t i = 0; i <= n; i++) {
		const struct tls_ctx *t = i < n ? snapshot_tls(s, s->cfg->workloads[i].identity) : NULL;

		r[i].cfg = i < n ? &s->cfg->workloads[i] : NULL;
		r[i].id = t ? tls_ctx_id(t) : NULL;
		for (uint32_t w = 0; w < s->n_workers; w++) {
			const struct workload_count *k = &s->workloads[i]->at[w];

			r[i].connections += atomic_load_explicit(&k->connections, memory_order_relaxed);
			r[i].active += atomic_load_explicit(&k->active, memory_order_relaxed);
			r[i].refused += atomic_load_explicit(&k->refused, memory_order_relaxed);
		}
	}
	*ret = r;
	*ret_n = n + 1u;
	return 0;
}
