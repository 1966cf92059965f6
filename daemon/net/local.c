/*
 * Addresses of this node.
 *
 * An address is ours if an interface has it, or if the table "local" has a route of type local for it (ip-route(8): whole prefixes can
 * be made local). Both are read into a sorted snapshot: prefixes by family and length, so that a look-up is one binary
 * search per length that occurs (two or three). It is shown to other threads by an atomic pointer.
 *
 * A snapshot that was replaced is freed when nobody is inside local_has(): the count of readers goes up before the pointer is read
 * (both sequentially consistent), so whoever is counted later than the exchange can only have the new one.
 *
 * The watch tells of each change; they are not applied one by one but answered by another dump, once for all that have come. That is
 * also the answer to an overrun (ENOBUFS: netlink(7) drops messages that do not fit the socket's buffer). Routes of other types are
 * not dumped: a node may have a million of them.
 */
#include "base/clean.h"
#include "net/local_int.h"
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <netlink/errno.h>
#include <netlink/msg.h>
#include <string.h>
#include <sys/time.h>

#define WATCH_BUFFER (256 * 1024)
#define WATCH_TURN 256	  /* reads per local_run() */
#define ANSWER_S 2	  /* the kernel answers within the send; this is for a kernel that does not */
#define DUMP_TRIES 4

struct prefix {
	uint8_t family, bits, ip[16]; /* unused and host bits are 0 */
};
struct group { /* of one family and length */
	uint8_t family, bits;
	uint32_t first, n;
};
struct snapshot {
	struct snapshot *next; /* retired */
	uint32_t addresses, routes, n_groups;
	struct group *group;
	struct prefix *prefix;
};

/* ---- netlink ---- */

int local_errno(int nl)
{
	switch (nl < 0 ? -nl : nl) {
	case 0:
		return 0;
	case NLE_EXIST:
		return -EEXIST;
	case NLE_NOMEM:
		return -ENOBUFS;
	case NLE_AGAIN:
	case NLE_DUMP_INTR:
		return -EAGAIN;
	case NLE_PERM:
	case NLE_NOACCESS:
		return -EPERM;
	case NLE_OBJ_NOTFOUND:
	case NLE_NODEV:
		return -ENOENT;
	case NLE_AF_NOSUPPORT:
	case NLE_OPNOTSUPP:
	case NLE_PROTO_MISMATCH:
		return -EOPNOTSUPP;
	case NLE_INVAL:
		return -EINVAL;
	}
	return -EIO;
}

int local_ask(struct nl_sock **ret, int fd)
{
	struct timeval tv = { .tv_sec = ANSWER_S };
	struct nl_sock *sk = nl_socket_alloc();
	int back, one = 1, r;

	if (!sk)
		return -ENOMEM;
	r = netns_enter(fd, &back);
	if (r == 0) {
		r = local_errno(nl_connect(sk, NETLINK_ROUTE));
		netns_leave(back);
	}
	if (r < 0) {
		nl_socket_free(sk);
		return r;
	}
	(void)setsockopt(nl_socket_get_fd(sk), SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv));
	/* dumps of one table only: without it the kernel sends all and the filter is done by whoever asks */
	(void)setsockopt(nl_socket_get_fd(sk), SOL_NETLINK, NETLINK_GET_STRICT_CHK, &one, sizeof(one));
	*ret = sk;
	return 0;
}

int local_dump(struct nl_sock *sk, int type, void *request, size_t n, int (*each)(struct nl_msg *m, void *arg), void *arg)
{
	int r;

	(void)nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_CUSTOM, each, arg);
	r = nl_send_simple(sk, type, NLM_F_DUMP, request, n);
	if (r >= 0)
		r = nl_recvmsgs_default(sk);
	(void)nl_socket_modify_cb(sk, NL_CB_VALID, NL_CB_DEFAULT, NULL, NULL);
	return r < 0 ? local_errno(r) : 0;
}

/* ---- taking a snapshot ---- */

struct gather {
	struct prefix *p;
	uint32_t n, cap, addresses;
	bool no_memory;
};

static void mask(uint8_t ip[16], uint32_t bits)
{
	for (uint32_t i = bits / 8 + (bits % 8 != 0); i < 16; i++)
		ip[i] = 0;
	if (bits % 8)
		ip[bits / 8] &= (uint8_t)(0xff << (8 - bits % 8));
}

static void gather_add(struct gather *g, uint8_t family, uint8_t bits, const struct nlattr *ip)
{
	size_t size = family == AF_INET ? 4 : 16;
	struct prefix *p;

	if ((family != AF_INET && family != AF_INET6) || bits > 8 * size || (ip && (size_t)nla_len(ip) < size) || (!ip && bits))
		return;
	if (g->n == g->cap) {
		p = realloc(g->p, (g->cap ? 2 * g->cap : 64) * sizeof(*p));
		if (!p) {
			g->no_memory = true;
			return;
		}
		g->p = p;
		g->cap = g->cap ? 2 * g->cap : 64;
	}
	p = &g->p[g->n++];
	memset(p, 0, sizeof(*p));
	p->family = family;
	p->bits = bits;
	if (ip)
		memcpy(p->ip, nla_data(ip), size);
	mask(p->ip, bits);
}

static int on_addr(struct nl_msg *m, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(m);
	struct nlattr *at[IFA_MAX + 1];
	const struct ifaddrmsg *a = nlmsg_data(h);
	struct gather *g = arg;

	if (h->nlmsg_type != RTM_NEWADDR || nlmsg_parse(h, sizeof(*a), at, IFA_MAX, NULL) < 0)
		return NL_OK;
	/* point to point: IFA_ADDRESS is the other end's (linux/if_addr.h) */
	gather_add(g, a->ifa_family, a->ifa_family == AF_INET ? 32 : 128, at[IFA_LOCAL] ? at[IFA_LOCAL] : at[IFA_ADDRESS]);
	g->addresses++;
	return NL_OK;
}

static int on_route(struct nl_msg *m, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(m);
	struct nlattr *at[RTA_MAX + 1];
	const struct rtmsg *r = nlmsg_data(h);

	if (h->nlmsg_type == RTM_NEWROUTE && nlmsg_parse(h, sizeof(*r), at, RTA_MAX, NULL) >= 0 && r->rtm_type == RTN_LOCAL &&
	    r->rtm_table == RT_TABLE_LOCAL)
		gather_add(arg, r->rtm_family, r->rtm_dst_len, at[RTA_DST]);
	return NL_OK;
}

static int gather_all(struct nl_sock *sk, struct gather *g)
{
	static const uint8_t family[] = { AF_INET, AF_INET6 };

	for (size_t i = 0; i < ARRAY_LEN(family); i++) {
		struct ifaddrmsg a = { .ifa_family = family[i] };
		struct rtmsg t = { .rtm_family = family[i], .rtm_table = RT_TABLE_LOCAL, .rtm_type = RTN_LOCAL };
		int r = local_dump(sk, RTM_GETADDR, &a, sizeof(a), on_addr, g);

		if (r == 0)
			r = local_dump(sk, RTM_GETROUTE, &t, sizeof(t), on_route, g);
		if (r < 0 && (family[i] == AF_INET || r == -EAGAIN)) /* a kernel may be without IPv6 */
			return r;
	}
	return g->no_memory ? -ENOMEM : 0;
}

static int prefix_cmp(const void *a, const void *b)
{
	const struct prefix *x = a, *y = b;

	if (x->family != y->family)
		return x->family < y->family ? -1 : 1;
	if (x->bits != y->bits)
		return x->bits > y->bits ? -1 : 1;
	return memcmp(x->ip, y->ip, sizeof(x->ip));
}

static void snapshot_free(struct snapshot *s)
{
	if (!s)
		return;
	free(s->group);
	free(s->prefix);
	free(s);
}

/* sorted, without doubles, with a group for each length. Takes g->p. */
static struct snapshot *snapshot_of(struct gather *g)
{
	struct snapshot *s = calloc(1, sizeof(*s));
	uint32_t n = 0;

	if (!s)
		return NULL;
	s->prefix = TAKE(g->p);
	s->group = calloc(2 + 32 + 128, sizeof(*s->group));
	if (!s->group) {
		snapshot_free(s);
		return NULL;
	}
	if (g->n)
		qsort(s->prefix, g->n, sizeof(*s->prefix), prefix_cmp);
	for (uint32_t i = 0; i < g->n; i++) {
		struct prefix *p = &s->prefix[i];
		struct group *k = s->n_groups ? &s->group[s->n_groups - 1] : NULL;

		if (n && !prefix_cmp(p, &s->prefix[n - 1]))
			continue;
		if (!k || k->family != p->family || k->bits != p->bits)
			*(k = &s->group[s->n_groups++]) = (struct group){ .family = p->family, .bits = p->bits, .first = n };
		k->n++;
		s->prefix[n++] = *p;
	}
	s->addresses = g->addresses;
	s->routes = n;
	return s;
}

static void reap(struct local *l)
{
	struct snapshot *s;

	if (atomic_load(&l->readers))
		return;
	while ((s = l->retired)) {
		l->retired = s->next;
		snapshot_free(s);
	}
}

static int refresh(struct local *l)
{
	struct gather g = { 0 };
	struct snapshot *s;
	int r = -EAGAIN;

	for (int i = 0; i < DUMP_TRIES && r == -EAGAIN; i++) {
		g.n = g.addresses = 0;
		r = gather_all(l->ask, &g);
	}
	s = r == 0 ? snapshot_of(&g) : NULL;
	free(g.p);
	if (!s)
		return r < 0 ? r : -ENOMEM;
	s = atomic_exchange(&l->now, s);
	if (s) {
		s->next = l->retired;
		l->retired = s;
		l->changes++;
	}
	l->dirty = false;
	reap(l);
	return 0;
}

/* ---- looking ---- */

static bool snapshot_has(const struct snapshot *s, const struct addr *a)
{
	struct prefix key = { .family = a->family };

	for (uint32_t i = 0; s && i < s->n_groups; i++) {
		const struct group *k = &s->group[i];

		if (k->family != a->family)
			continue;
		key.bits = k->bits;
		memcpy(key.ip, a->ip, sizeof(key.ip));
		mask(key.ip, k->bits);
		if (bsearch(&key, s->prefix + k->first, k->n, sizeof(key), prefix_cmp))
			return true;
	}
	return false;
}

bool local_has(struct local *l, const struct addr *a)
{
	bool has;

	if (a->family != AF_INET && a->family != AF_INET6)
		return false;
	atomic_fetch_add(&l->readers, 1);
	has = snapshot_has(atomic_load(&l->now), a);
	atomic_fetch_sub(&l->readers, 1);
	return has;
}

/* ---- watching ---- */

static int on_event(struct nl_msg *m, void *arg)
{
	const struct nlmsghdr *h = nlmsg_hdr(m);
	struct local *l = arg;

	if (h->nlmsg_type == RTM_NEWADDR || h->nlmsg_type == RTM_DELADDR)
		l->dirty = true;
	else if ((h->nlmsg_type == RTM_NEWROUTE || h->nlmsg_type == RTM_DELROUTE) && nlmsg_valid_hdr(h, sizeof(struct rtmsg)))
		l->dirty |= ((const struct rtmsg *)nlmsg_data(h))->rtm_type == RTN_LOCAL;
	return NL_OK;
}

static int watch_open(struct local *l)
{
	int r;

	l->watch = nl_socket_alloc();
	if (!l->watch)
		return -ENOMEM;
	nl_socket_disable_seq_check(l->watch);
	(void)nl_socket_modify_cb(l->watch, NL_CB_VALID, NL_CB_CUSTOM, on_event, l);
	r = nl_connect(l->watch, NETLINK_ROUTE);
	if (r >= 0)
		r = nl_socket_set_nonblocking(l->watch);
	if (r >= 0)
		r = nl_socket_add_memberships(l->watch, RTNLGRP_IPV4_IFADDR, RTNLGRP_IPV6_IFADDR, RTNLGRP_IPV4_ROUTE, RTNLGRP_IPV6_ROUTE,
					      RTNLGRP_NONE);
	(void)nl_socket_set_buffer_size(l->watch, WATCH_BUFFER, 0); /* a small one only means more dumps */
	return local_errno(r);
}

void local_run(struct local *l)
{
	for (int i = 0; i < WATCH_TURN; i++) {
		int r = nl_recvmsgs_default(l->watch);

		if (r == -NLE_AGAIN)
			break;
		if (r < 0)
			l->dirty = true; /* messages were lost */
	}
	if (l->dirty)
		(void)refresh(l); /* fails: the old one is shown, and local_tick() tries again */
}

void local_tick(struct local *l)
{
	if (l->dirty)
		(void)refresh(l);
	reap(l);
	transparent_tick(l);
}

int local_fd(const struct local *l)
{
	return nl_socket_get_fd(l->watch);
}

/* ---- life ---- */

int local_create(struct local **ret, struct err *reterr)
{
	struct local *l = calloc(1, sizeof(*l));
	int r;

	if (!l)
		return err_set(reterr, -ENOMEM, "out of memory");
	r = watch_open(l); /* before the first dump, so that nothing is missed */
	if (r == 0)
		r = local_ask(&l->ask, -1);
	if (r == 0)
		r = refresh(l);
	if (r < 0) {
		local_destroy(l);
		return err_set(reterr, r, "addresses of this node cannot be read by netlink: %s", strerror(-r));
	}
	*ret = l;
	return 0;
}

void local_hand_over(struct local *l)
{
	if (l)
		l->handed = true;
}

void local_destroy(struct local *l)
{
	if (!l)
		return;
	transparent_finish(l);
	reap(l);
	snapshot_free(atomic_load(&l->now));
	if (l->watch)
		nl_socket_free(l->watch);
	if (l->ask)
		nl_socket_free(l->ask);
	free(l);
}

void local_info(const struct local *l, struct local_info *ret)
{
	const struct snapshot *s = atomic_load(&l->now); /* only this thread replaces it */

	*ret = (struct local_info){ .addresses = s->addresses, .routes = s->routes, .rules = transparent_rules(l), .changes = l->changes };
}
