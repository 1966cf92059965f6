/*
 * Steering of this process: the listeners with `steer` by network namespace, for each namespace one copy of bpf/steer.bpf.c with its
 * rules, attached when everything is in place.
 *
 * The order of rules is the configuration's: the first one that has the address and port gets the connection. What other listeners
 * of ours are bound to is taken out of every rule beforehand: an exact address always, "every address" only of rules that do not say which
 * ports they want.
 *
 * Only worker 0's socket goes into the map. The kernel chooses within its reuseport group, by the same program as ever, so all
 * workers get their share (tests/kernel/sk_lookup_group.c). A socket leaves the map when it is closed.
 */
#include "kern/steer.h"
#include "kern/nets.h"
#include "kern/place.h"
#include "base/clean.h"
#include <assert.h>
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <linux/sockios.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#define steer steer_skel
#include "steer.skel.h"
#undef steer

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71 /* asm-generic/socket.h, since 5.14 */
#endif

struct space {
	uint64_t cookie;
	struct steer_skel *skel;
	uint32_t rules;
};

struct steer {
	struct space *space;
	uint32_t n;
	char note[160];
};

static uint64_t netns_cookie(int fd)
{
	uint64_t v = 0;
	socklen_t n = sizeof(v);

	return fd < 0 || getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &v, &n) ? 0 : v;
}

/* ---- one rule ---- */

static void except_address(struct cidr *at, const struct addr *a)
{
	*at = (struct cidr){.net = *a, .bits = a->family == AF_INET ? 32 : 128, .port_first = a->port, .port_last = a->port};
	if (addr_is_any(a))
		at->bits = 0;
}

/* addresses of ours that @l must not take from others: Return: how many, in *ret, malloc'd */
static int exceptions(const struct config *cfg, const struct cfg_listener *l, const uint64_t *cookie, struct cidr **ret)
{
	struct cidr *c = calloc(cfg->n_listeners + 1u, sizeof(*c));
	int n = 0;

	if (!c)
		return -ENOMEM;
	for (uint32_t i = 0; i < cfg->n_listeners; i++) {
		const struct cfg_listener *o = &cfg->listeners[i];

		if (o != l && o->type != LISTENER_INTERNAL && cookie[o->id] == cookie[l->id] &&
		    (!addr_is_any(&o->address) || !l->steer->n_ports))
			except_address(&c[n++], &o->address);
	}
	if (cfg->metrics.family != AF_UNSPEC && !l->netns && (!addr_is_any(&cfg->metrics) || !l->steer->n_ports))
		except_address(&c[n++], &cfg->metrics);
	*ret = c;
	return n;
}

static int put_nets(int map, uint32_t rule, const struct cfg_listener *l, const struct cidr *except, uint32_t n_except, struct err *reterr)
{
	AUTO_FREE struct net_entry *e = NULL;
	uint32_t n = 0;
	int r = nets_build(l->steer->to, l->steer->n_to, except, n_except, &e, &n, reterr);

	for (uint32_t i = 0; r == 0 && i < n; i++) {
		struct adit_net_key k = net_key(&e[i], rule);

		if (e[i].family == l->address.family && bpf_map_update_elem(map, &k, &e[i].ports, BPF_ANY))
			r = err_set(reterr, -errno, "networks: %s", strerror(errno));
	}
	return r;
}

static int put_rule(struct space *s, const struct config *cfg, const struct cfg_listener *l, int fd, const uint64_t *cookie, struct err *reterr)
{
	AUTO_FREE struct adit_steer_rule *rule = calloc(1, sizeof(*rule));
	AUTO_FREE struct cidr *except = NULL;
	uint64_t sock = (uint64_t)fd;
	uint32_t i = s->rules;
	int r = exceptions(cfg, l, cookie, &except);

	assert(s->skel); /* loaded with the namespace's first rule */
	if (!rule || r < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	if (i >= ADIT_STEER_RULES)
		return err_set(reterr, -ENOSPC, "more than %u listeners of one network namespace steer", ADIT_STEER_RULES);
	rule->family = l->address.family;
	ports_bits(l->steer->ports, l->steer->n_ports, l->steer->except_ports, l->steer->n_except_ports, rule->ports);
	if (bpf_map_update_elem(bpf_map__fd(s->skel->maps.rules), &i, rule, BPF_ANY))
		return err_set(reterr, -errno, "rules: %s", strerror(errno));
	if (bpf_map_update_elem(bpf_map__fd(s->skel->maps.listeners), &i, &sock, BPF_ANY))
		return err_set(reterr, -errno, "the kernel does not take the listener into a sockmap (CONFIG_BPF_STREAM_PARSER): %s",
			       strerror(errno));
	s->rules++;
	return put_nets(bpf_map__fd(s->skel->maps.nets), i, l, except, (uint32_t)r, reterr);
}

/* ---- one namespace ---- */

/* our own connections are told apart by a program in our cgroup; without it those over loopback are not steered */
static bool attach_own(struct steer *s, struct steer_skel *k, int cgroup, const char *why)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts);

	if (cgroup >= 0) {
		if (bpf_prog_test_run_opts(bpf_program__fd(k->progs.steer_register), &opts) == 0 && !opts.retval)
			k->links.steer_sockops = bpf_program__attach_cgroup(k->progs.steer_sockops, cgroup);
		why = k->links.steer_sockops ? NULL : strerror(errno);
	}
	if (why)
		snprintf(s->note, sizeof(s->note), "connections over loopback are not steered: %.110s", why);
	return !why;
}

/* a descriptor of the namespace that socket @fd is in: SIOCGSKNS, ioctl_ns(2) */
static int netns_of(int fd)
{
	int r = ioctl(fd, SIOCGSKNS);

	return r < 0 ? -errno : r;
}

static int load(struct steer *s, struct space *at, int cgroup, const char *why, struct err *reterr)
{
	struct steer_skel *k = steer__open();
	int r;

	if (!k) {
		(void)place_refused(-errno, "steer", reterr);
		return -ENOMEM; /* all that opening can want */
	}
	at->skel = k;
	k->rodata->netns = at->cookie;
	r = steer__load(k);
	if (r < 0)
		return place_refused(r, "the programs of steer", reterr);
	k->bss->owns = attach_own(s, k, cgroup, why);
	return 0;
}

static int attach(struct space *at, int fd, struct err *reterr)
{
	AUTO_FD ns = netns_of(fd);

	at->skel->bss->n_rules = at->rules;
	if (ns < 0)
		return err_set(reterr, ns, "the network namespace of the listener: %s", strerror(-ns));
	at->skel->links.steer_lookup = bpf_program__attach_netns(at->skel->progs.steer_lookup, ns);
	return at->skel->links.steer_lookup ? 0 : err_set(reterr, -errno, "sk_lookup is not taken by this network namespace: %s", strerror(errno));
}

static struct space *space_of(struct steer *s, uint64_t cookie)
{
	for (uint32_t i = 0; i < s->n; i++)
		if (s->space[i].cookie == cookie)
			return &s->space[i];
	return NULL;
}

static int fill(struct steer *s, const struct config *cfg, int (*fd)(void *arg, uint32_t i, uint32_t w), void *arg, const uint64_t *cookie,
		struct err *reterr)
{
	struct err why = {""};
	AUTO_FD cgroup = place_cgroup_own(&why);
	int r = 0;

	for (uint32_t i = 0; r == 0 && i < cfg->n_listeners; i++) {
		const struct cfg_listener *l = &cfg->listeners[i];
		struct space *at = space_of(s, cookie[i]);

		if (!l->steer)
			continue;
		if (!at) {
			at = &s->space[s->n++];
			at->cookie = cookie[i];
			r = load(s, at, cgroup, why.msg, reterr);
		}
		if (r == 0)
			r = put_rule(at, cfg, l, fd(arg, i, 0), cookie, reterr);
		if (r < 0)
			err_prefix(reterr, r, "listener '%s'", l->name);
	}
	for (uint32_t i = 0; r == 0 && i < cfg->n_listeners; i++) {
		struct space *at = cfg->listeners[i].steer ? space_of(s, cookie[i]) : NULL;

		if (at && !at->skel->links.steer_lookup) /* everything is in its place */
			r = attach(at, fd(arg, i, 0), reterr);
	}
	return r;
}

int steer_create(struct steer **ret, const struct config *cfg, int (*fd)(void *arg, uint32_t i, uint32_t w), void *arg, struct err *reterr)
{
	AUTO_FREE uint64_t *cookie = calloc(cfg->n_listeners + 1u, sizeof(*cookie));
	struct steer *s = calloc(1, sizeof(*s));
	uint32_t n = 0;
	int r;

	*ret = NULL;
	for (uint32_t i = 0; cookie && i < cfg->n_listeners; i++) {
		if (cfg->listeners[i].type != LISTENER_INTERNAL)
			cookie[i] = netns_cookie(fd(arg, i, 0));
		n += cfg->listeners[i].steer != NULL;
	}
	if (s)
		s->space = calloc(n + 1u, sizeof(*s->space));
	if (!cookie || !s || !s->space) {
		steer_destroy(s);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	place_hear();
	r = n ? fill(s, cfg, fd, arg, cookie, reterr) : 0;
	place_unhear();
	if (r < 0 || !n)
		steer_destroy(s);
	else
		*ret = s;
	return r;
}

void steer_destroy(struct steer *s)
{
	if (!s)
		return;
	for (uint32_t i = 0; i < s->n; i++)
		steer__destroy(s->space[i].skel);
	free(s->space);
	free(s);
}

void steer_info(struct steer *s, struct steer_info *ret)
{
	AUTO_FREE struct adit_steer_rule *rule = malloc(sizeof(*rule));

	*ret = (struct steer_info){.namespaces = s->n};
	snprintf(ret->note, sizeof(ret->note), "%s", s->note);
	for (uint32_t i = 0; rule && i < s->n; i++)
		for (uint32_t k = 0; k < s->space[i].rules; k++, ret->rules++)
			if (!bpf_map_lookup_elem(bpf_map__fd(s->space[i].skel->maps.rules), &k, rule))
				ret->steered += rule->steered;
}
