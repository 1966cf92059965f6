/*
 * Policy routing for sockets that are bound to somebody else's address (IP_TRANSPARENT, ip(7)).
 *
 * What such a socket sends goes out like anything else. What is sent back has a destination that is not ours and would leave for the
 * real owner of the address; so it has to carry a mark that a rule looks for:
 *
 *   ip rule add fwmark LOCAL_MARK lookup LOCAL_TABLE pref LOCAL_PREF
 *   ip route add local default dev lo table LOCAL_TABLE
 *
 * Who puts the mark on the answer depends on where the other end is:
 *   - in the same network namespace (the connection goes by lo): its kernel side does, if it takes over the mark of the SYN:
 *     net.ipv4.tcp_fwmark_accept for accepted sockets, fwmark_reflect for refusals (RST). ip-sysctl.rst
 *   - on another host or namespace (veth): the packet arrives without; see kern/transmark.h. Our own packets must not carry LOCAL_MARK
 *     then, or the rule would take them for answers and keep them here; hence the other mark, and local_reaches().
 *
 * Rule and route are recognised as ours by all of their members and LOCAL_PROTO, so starting again after a crash, or beside another
 * agent, finds them. If two agents share them, the first that ends takes them away, and the other puts them back within a second.
 * Anything else with our numbers belongs to somebody else: refused, nothing is touched.
 */
#include "base/clean.h"
#include "net/local_int.h"
#include <fcntl.h>
#include <linux/fib_rules.h>
#include <linux/rtnetlink.h>
#include <netlink/msg.h>
#include <stdio.h>
#include <string.h>

#define LOCAL_PROTO 217 /* in the range that is left to applications (linux/rtnetlink.h); names in /etc/iproute2/rt_protos */
#define LO 1		/* ifindex of the loopback device in every namespace (LOOPBACK_IFINDEX) */

static const uint8_t family[] = { AF_INET, AF_INET6 };
static const char *const sysctl[] = { "/proc/sys/net/ipv4/tcp_fwmark_accept", "/proc/sys/net/ipv4/fwmark_reflect",
				      "/proc/sys/net/ipv6/fwmark_reflect" };

/* ---- what is there ---- */

struct found {
	uint32_t pref, table; /* of a rule that is not ours and has one of our numbers; of a foreign route in our table */
	bool rule, route, foreign_rule, foreign_route;
};

static uint32_t u32(const struct nlattr *a)
{
	return a ? nla_get_u32(a) : 0;
}

static int on_rule(struct nl_msg *m, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(m);
	const struct fib_rule_hdr *r = nlmsg_data(h);
	struct nlattr *at[FRA_MAX + 1];
	struct found *f = arg;
	uint32_t pref, mark, table;

	if (h->nlmsg_type != RTM_NEWRULE || nlmsg_parse(h, sizeof(*r), at, FRA_MAX, NULL) < 0)
		return NL_OK;
	pref = u32(at[FRA_PRIORITY]);
	mark = u32(at[FRA_FWMARK]);
	table = at[FRA_TABLE] ? u32(at[FRA_TABLE]) : r->table;
	if (pref != LOCAL_PREF && table != LOCAL_TABLE && !(mark == LOCAL_MARK && u32(at[FRA_FWMASK]) == UINT32_MAX))
		return NL_OK;
	if (pref == LOCAL_PREF && table == LOCAL_TABLE && mark == LOCAL_MARK && at[FRA_PROTOCOL] && nla_get_u8(at[FRA_PROTOCOL]) == LOCAL_PROTO) {
		f->rule = true;
	} else {
		f->foreign_rule = true;
		f->pref = pref;
	}
	return NL_OK;
}

static int on_route(struct nl_msg *m, void *arg)
{
	struct nlmsghdr *h = nlmsg_hdr(m);
	const struct rtmsg *r = nlmsg_data(h);
	struct nlattr *at[RTA_MAX + 1];
	struct found *f = arg;

	if (h->nlmsg_type != RTM_NEWROUTE || nlmsg_parse(h, sizeof(*r), at, RTA_MAX, NULL) < 0 || u32(at[RTA_TABLE]) != LOCAL_TABLE)
		return NL_OK;
	if (r->rtm_type == RTN_LOCAL && r->rtm_protocol == LOCAL_PROTO && !r->rtm_dst_len && u32(at[RTA_OIF]) == LO)
		f->route = true;
	else
		f->foreign_route = true;
	return NL_OK;
}

static int look(struct nl_sock *sk, uint8_t fam, struct found *f)
{
	struct fib_rule_hdr rule = { .family = fam };
	struct {
		struct rtmsg h;
		struct nlattr a;
		uint32_t table;
	} route = { { .rtm_family = fam }, { NLA_HDRLEN + sizeof(uint32_t), RTA_TABLE }, LOCAL_TABLE }; /* others may be large */
	int r;

	memset(f, 0, sizeof(*f));
	r = local_dump(sk, RTM_GETRULE, &rule, sizeof(rule), on_rule, f);
	if (r == 0)
		r = local_dump(sk, RTM_GETROUTE, &route, sizeof(route), on_route, f);
	return r == -ENOENT ? 0 : r; /* there is no such table yet */
}

/* ---- changing it ---- */

static int send_change(struct nl_sock *sk, struct nl_msg *m, bool filled)
{
	int r = -ENOMEM;

	if (filled)
		r = local_errno(nl_send_sync(sk, m)); /* frees it */
	else
		nlmsg_free(m);
	return r;
}

static int rule_change(struct nl_sock *sk, uint8_t fam, bool add)
{
	struct nl_msg *m = nlmsg_alloc_simple(add ? RTM_NEWRULE : RTM_DELRULE, add ? NLM_F_CREATE | NLM_F_EXCL : 0);
	struct fib_rule_hdr h = { .family = fam, .action = FR_ACT_TO_TBL };

	if (!m)
		return -ENOMEM;
	return send_change(sk, m, !nlmsg_append(m, &h, sizeof(h), NLMSG_ALIGNTO) && !nla_put_u32(m, FRA_PRIORITY, LOCAL_PREF) &&
					  !nla_put_u32(m, FRA_FWMARK, LOCAL_MARK) && !nla_put_u32(m, FRA_FWMASK, UINT32_MAX) &&
					  !nla_put_u32(m, FRA_TABLE, LOCAL_TABLE) && !nla_put_u8(m, FRA_PROTOCOL, LOCAL_PROTO));
}

static int route_change(struct nl_sock *sk, uint8_t fam, bool add)
{
	struct nl_msg *m = nlmsg_alloc_simple(add ? RTM_NEWROUTE : RTM_DELROUTE, add ? NLM_F_CREATE | NLM_F_EXCL : 0);
	struct rtmsg h = { .rtm_family = fam, .rtm_protocol = LOCAL_PROTO, .rtm_scope = RT_SCOPE_HOST, .rtm_type = RTN_LOCAL };

	if (!m)
		return -ENOMEM;
	return send_change(sk, m, !nlmsg_append(m, &h, sizeof(h), NLMSG_ALIGNTO) && !nla_put_u32(m, RTA_TABLE, LOCAL_TABLE) &&
					  !nla_put_u32(m, RTA_OIF, LO));
}

/* Return: 0, -EEXIST: others use our numbers, or -errno */
static int family_set(struct nl_sock *sk, uint8_t fam, struct err *reterr)
{
	struct found f;
	int r = look(sk, fam, &f);

	if (r < 0)
		return r;
	if (f.foreign_rule)
		return err_set(reterr, -EEXIST, "mark %#x, table %u or rule %u is used by others (see: ip %srule, pref %u)", LOCAL_MARK, LOCAL_TABLE,
			       LOCAL_PREF, fam == AF_INET6 ? "-6 " : "", f.pref);
	if (f.foreign_route)
		return err_set(reterr, -EEXIST, "routing table %u is used by others (see: ip %sroute show table %u)", LOCAL_TABLE,
			       fam == AF_INET6 ? "-6 " : "", LOCAL_TABLE);
	if (!f.route)
		r = route_change(sk, fam, true);
	if (r == 0 && !f.rule)
		r = rule_change(sk, fam, true);
	return r == -EEXIST ? 0 : r; /* another agent was faster */
}

static bool sysctl_swap(const char *path, char want)
{
	AUTO_FD fd = open(path, O_RDWR | O_CLOEXEC);
	char is = 0;

	return fd >= 0 && pread(fd, &is, 1, 0) == 1 && is != want && pwrite(fd, &want, 1, 0) == 1;
}

/* these files show the namespace of the thread that opens them */
static void sysctls_set(struct place *p, int fd, bool on)
{
	int back;

	if (netns_enter(fd, &back) < 0)
		return;
	for (uint32_t i = 0; i < ARRAY_LEN(sysctl); i++) {
		if (on && sysctl_swap(sysctl[i], '1'))
			p->restore |= (uint8_t)BIT(i);
		else if (!on && p->restore & BIT(i))
			(void)sysctl_swap(sysctl[i], '0');
	}
	netns_leave(back);
}

static const char *hint(int r)
{
	switch (r) {
	case -EPERM:
		return "; it needs CAP_NET_ADMIN";
	case -EOPNOTSUPP:
		return "; the kernel has no policy routing (CONFIG_IP_MULTIPLE_TABLES)";
	}
	return "";
}

static int place_set(struct place *p, struct err *reterr)
{
	struct err why = { "" };
	struct nl_sock *sk;
	int fd, r = netns_get(&p->ns, &fd, reterr);

	if (r < 0)
		return r;
	p->rules = 0;
	if (p->made_in != p->ns.ino)
		p->restore = 0; /* another namespace has the name now */
	p->made_in = p->ns.ino;
	r = local_ask(&sk, fd);
	if (r < 0)
		return err_set(reterr, r, "netlink%s%s: %s", p->name ? " in " : "", p->name ? p->name : "", netns_why(r));
	for (size_t i = 0; i < ARRAY_LEN(family); i++) {
		r = family_set(sk, family[i], &why);
		if (r == 0)
			p->rules++;
		else if (family[i] == AF_INET || r == -EEXIST)
			break;
		r = 0; /* a node may be without IPv6 */
	}
	nl_socket_free(sk);
	if (r < 0)
		return err_set(reterr, r, "policy routing%s%s: %s%s", p->name ? " in " : "", p->name ? p->name : "",
			       why.msg[0] ? why.msg : strerror(-r), hint(r));
	sysctls_set(p, fd, true);
	return 0;
}

static void place_unset(struct place *p)
{
	struct nl_sock *sk;
	int fd;

	if (!p->rules || netns_get(&p->ns, &fd, NULL) < 0 || local_ask(&sk, fd) < 0)
		return;
	for (size_t i = 0; i < ARRAY_LEN(family); i++) {
		(void)rule_change(sk, family[i], false);
		(void)route_change(sk, family[i], false);
	}
	nl_socket_free(sk);
	sysctls_set(p, fd, false);
	p->rules = 0;
}

/* ---- which of the two it is ---- */

int local_reaches(int netns_fd, const struct addr *a)
{
	struct {
		struct nlmsghdr h;
		struct rtmsg r;
		struct nlattr dst;
		uint8_t ip[16];
	} q = { .r = { .rtm_family = a->family } };
	uint32_t n = a->family == AF_INET ? 4 : 16;
	uint32_t answer[256];
	const struct nlmsghdr *h = (const void *)answer;
	int back, fd, r = netns_enter(netns_fd, &back);
	ssize_t got = -1;

	if (r < 0)
		return r;
	fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
	r = fd < 0 ? -errno : 0;
	netns_leave(back);
	if (r < 0)
		return r;
	q.h.nlmsg_len = NLMSG_HDRLEN + sizeof(q.r) + NLA_HDRLEN + n;
	q.h.nlmsg_type = RTM_GETROUTE;
	q.h.nlmsg_flags = NLM_F_REQUEST;
	q.r.rtm_dst_len = (uint8_t)(8 * n);
	q.dst = (struct nlattr){ .nla_len = (uint16_t)(NLA_HDRLEN + n), .nla_type = RTA_DST };
	memcpy(q.ip, a->ip, n);
	if (send(fd, &q, q.h.nlmsg_len, 0) > 0) /* the answer is there when it returns */
		got = recv(fd, answer, sizeof(answer), MSG_DONTWAIT);
	close(fd);
	if (got < (ssize_t)(NLMSG_HDRLEN + sizeof(struct rtmsg)))
		return -EIO;
	return h->nlmsg_type == RTM_NEWROUTE && ((const struct rtmsg *)(const void *)(h + 1))->rtm_type == RTN_LOCAL;
}

/* ---- all places ---- */

static void place_free(struct place *p)
{
	netns_put(&p->ns);
	free(p->name);
	free(p);
}

int local_transparent(struct local *l, const char *netns, struct err *reterr)
{
	struct place *p;
	int r;

	for (p = l->places; p; p = p->next)
		if (netns ? p->name && !strcmp(p->name, netns) : !p->name)
			return 0;
	p = calloc(1, sizeof(*p));
	if (!p || (netns && !(p->name = strdup(netns)))) {
		free(p);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	p->ns.name = p->name;
	r = place_set(p, reterr);
	if (r < 0 && !(p->name && r == -ENOENT)) { /* a namespace that is not there yet may come */
		if (!l->handed)
			place_unset(p);
		place_free(p);
		return r;
	}
	p->next = l->places;
	l->places = p;
	return r;
}

void transparent_tick(struct local *l)
{
	for (struct place *p = l->places; p; p = p->next) {
		(void)place_set(p, NULL);
		if (p->name)
			netns_put(&p->ns); /* not kept alive between two ticks */
	}
}

void transparent_finish(struct local *l)
{
	struct place *p;

	while ((p = l->places)) {
		l->places = p->next;
		place_unset(p);
		place_free(p);
	}
}

uint32_t transparent_rules(const struct local *l)
{
	uint32_t n = 0;

	for (const struct place *p = l->places; p; p = p->next)
		n += p->rules;
	return n;
}
