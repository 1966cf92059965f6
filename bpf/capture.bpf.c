/*
 * Transparent capture. An application's connect() is taken to a listener of ours on this node when a rule says so.
 *
 *   connect4/6	    in the caller's context, before the kernel looks at the address: chooses the rule, sees that the agent listens,
 *		    notes destination, cgroup and user in the socket's storage, and writes the listener's address in its place
 *   sockops	    TCP_CONNECT_CB: the source port is chosen and the SYN not sent yet: the note becomes a claim, found by the addresses
 *		    that the listener will see. So the claim is always there before the connection can be accepted.
 *   getpeername4/6 show the application the address that it asked for
 *   register	    run by an agent about itself: its own connections are left alone
 *
 * Which rule: of those that match the lowest `order`, but a listener of the destination's family before one of the other: an IPv6
 * socket can be taken to an IPv4 listener (as ::ffff:a.b.c.d), unless it is IPV6_V6ONLY or bound to an IPv6 address.
 * Whose socket: the user and the cgroup of whoever made it, as for the kernel's own cgroup hooks, not those of the caller.
 *
 * Rules are replaced while connects go on: a rule never changes, its slot names another one, and only then the old one's parts are
 * taken away. Whoever found a part missing sees that the slot has changed, and looks again (rule_look()).
 *
 * Sources: Documentation/bpf/prog_cgroup_sockopt.rst beside net/ipv4/af_inet.c and tcp_output.c (tcp_connect()) for the order of
 * events; tests/kernel/connect_hooks.c shows it.
 */
#include "vmlinux.h"
#include <adit/capture_abi.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "nets.h"

#define AF_INET	     2
#define AF_INET6     10
#define ECONNREFUSED 111
#define LOOPBACK_DEV 1
#define RETRIES	     4

#define MAP(kind, name, k, v, n, flags)                  \
	struct {                                         \
		__uint(type, BPF_MAP_TYPE_##kind);       \
		__uint(max_entries, n);                  \
		__uint(map_flags, flags);                \
		__type(key, k);                          \
		__type(value, v);                        \
	} name SEC(".maps")

MAP(ARRAY, control, u32, struct adit_cap_control, 1, 0);
MAP(ARRAY, slots, u32, struct adit_cap_slot, ADIT_CAP_SLOTS, BPF_F_MMAPABLE);
MAP(HASH, rules, u32, struct adit_cap_rule, 2 * ADIT_CAP_SLOTS, BPF_F_NO_PREALLOC);
MAP(LPM_TRIE, nets, struct adit_net_key, struct adit_net, 65536, BPF_F_NO_PREALLOC);
MAP(HASH, cgroups, struct adit_cap_folder, struct adit_cap_node, 16384, BPF_F_NO_PREALLOC);
MAP(HASH, uids, struct adit_cap_uid, u32, 16384, BPF_F_NO_PREALLOC);
MAP(LRU_HASH, seen, struct adit_cap_seen, u32, 8192, 0);
MAP(LRU_HASH, agents, struct adit_cap_agent, u32, 256, 0);
MAP(LRU_HASH, claims, struct adit_cap_key, struct adit_cap_claim, ADIT_CAP_CLAIMS, 0);
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct adit_cap_note);
} notes SEC(".maps");

char LICENSE[] SEC("license") = "GPL";

enum { NO, EXCLUDED, YES };
#define NOBODY ADIT_CAP_SLOTS

/* one connect(), and what the rules said so far */
struct query {
	u32 addr[4];	/* IPv4 in the first, also of v4-mapped addresses */
	u64 netns, cgroup, cgroup_id;
	u32 family;	/* of addr */
	u32 uid;
	u16 port;
	u8 six;		/* the socket is an IPv6 one */
	u8 to_four, to_six; /* it can be taken to a listener of this family */
	u8 device;	/* it is bound to one: not to loopback */
	u8 to_listener; /* that is where it goes by itself */
	u8 stuck;	/* the socket can go to IPv4 addresses only (note_before()) */
	u32 rank, slot, rule; /* the best so far */
	u32 unable;	/* slot of a rule that matched this socket, which cannot be taken to its listener */
	u32 refuse;	/* the slot, if such a rule is `closed` */
	u32 again;	/* a rule was replaced meanwhile */
};

/* Functions that are not static are verified once, not once per call. */

/* is the cgroup one of the rule's, or below one? The path is followed from the top, so cgroups may come and go */
__noinline int cgroup_walk(u64 cgroup, u32 rule, u64 root)
{
	struct cgroup *c = (void *)cgroup, *a;
	struct adit_cap_folder k = { .rule = rule };
	u32 offset = bpf_core_field_offset(struct cgroup, ancestors);
	int level = BPF_CORE_READ(c, level), below = 0;

	for (int i = 0; i < (int)ADIT_CAP_DEPTH && i <= level; i++) {
		struct adit_cap_node *n;
		struct kernfs_node *kn;

		a = NULL;
		if (bpf_probe_read_kernel(&a, sizeof(a), (void *)c + offset + (u64)i * sizeof(a)))
			return 0;
		kn = BPF_CORE_READ(a, kn);
		if (!below) {
			below = BPF_CORE_READ(kn, id) == root;
			continue;
		}
		__builtin_memset(k.name, 0, sizeof(k.name));
		bpf_probe_read_kernel_str(k.name, sizeof(k.name), BPF_CORE_READ(kn, name));
		n = bpf_map_lookup_elem(&cgroups, &k);
		if (!n)
			return 0;
		if (n->here)
			return 1;
		k.node = n->node;
	}
	return 0;
}

static __always_inline int in_cgroup(struct query *q, u32 rule, u64 root)
{
	struct adit_cap_seen k = { .cgroup = q->cgroup_id, .rule = rule };
	u32 *known = bpf_map_lookup_elem(&seen, &k), v;

	if (known)
		return *known;
	v = cgroup_walk(q->cgroup, rule, root);
	bpf_map_update_elem(&seen, &k, &v, BPF_ANY);
	return v;
}

static __always_inline bool same(const u32 *a, const u8 *addr)
{
	const u32 *b = (const u32 *)addr;

	return a[0] == b[0] && a[1] == b[1] && a[2] == b[2] && a[3] == b[3];
}

__noinline int judge(struct query *q, u32 rule)
{
	struct adit_cap_rule *r = bpf_map_lookup_elem(&rules, &rule);
	struct adit_net_key net = { .prefixlen = ADIT_NET_BITS + 128, .rule = rule };
	struct adit_cap_uid u = { .rule = rule };
	u32 bit;

	if (!r || !q || r->netns != q->netns)
		return NO;
	bit = q->port;
	u.uid = q->uid;
	net.family = q->family;
	__builtin_memcpy(net.addr, q->addr, sizeof(net.addr));
	if (q->port == r->port && q->family == r->family && same(q->addr, r->addr)) {
		q->to_listener = 1;
		return NO;
	}
	if ((r->flags & ADIT_CAP_UIDS) && !bpf_map_lookup_elem(&uids, &u))
		return NO;
	if ((r->flags & ADIT_CAP_CGROUPS) && !in_cgroup(q, rule, r->root))
		return NO;
	if (!(r->ports[(bit >> 3) & (ADIT_PORTS - 1)] & 1u << (bit & 7)))
		return EXCLUDED;
	return net_has(bpf_map_lookup_elem(&nets, &net), q->port) ? YES : EXCLUDED;
}

static __always_inline int reachable(const struct query *q, const struct adit_cap_rule *r)
{
	if (q->device && (r->family == AF_INET ? r->addr[0] == 127 : 1))
		return 0;
	return r->family == AF_INET ? q->to_four : q->to_six;
}

static long rule_look(u32 i, struct query *q)
{
	struct adit_cap_slot *s = bpf_map_lookup_elem(&slots, &i);
	struct adit_cap_rule *r;
	u32 rule = 0, rank;
	int v = NO;

	if (!s)
		return 0;
	for (int n = 0; n < RETRIES; n++) {
		rule = *(volatile u32 *)&s->rule;
		if (!rule)
			return 0;
		v = judge(q, rule);
		if (v == YES || *(volatile u32 *)&s->rule == rule)
			break;
	}
	if (v == EXCLUDED)
		__sync_fetch_and_add(&s->excluded, 1);
	if (v != YES)
		return 0;
	r = bpf_map_lookup_elem(&rules, &rule);
	if (!r) {
		q->again = 1;
		return 1;
	}
	if (!reachable(q, r)) {
		q->unable = i;
		if (r->flags & ADIT_CAP_CLOSED)
			q->refuse = i;
		return 0;
	}
	rank = r->order << 1 | (r->family != q->family) << 16;
	if (q->slot != NOBODY && q->rank <= rank)
		return 0;
	q->rank = rank;
	q->slot = i;
	q->rule = rule;
	return 0;
}

static __always_inline int is_agent(void)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct adit_cap_agent a = { .start = t->group_leader->start_time, .tgid = t->tgid };

	return bpf_map_lookup_elem(&agents, &a) != NULL;
}

/* does the agent listen? In the caller's namespace, which is the listener's */
static __always_inline int listens(struct bpf_sock_addr *ctx, const struct adit_cap_rule *r)
{
	struct bpf_sock_tuple t = {};
	struct bpf_sock *sk;
	struct tcp_sock *tp;
	int yes = 0;

	if (r->family == AF_INET) {
		__builtin_memcpy(&t.ipv4.daddr, r->addr, 4);
		t.ipv4.dport = bpf_htons(r->port);
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv4), BPF_F_CURRENT_NETNS, 0);
	} else {
		__builtin_memcpy(t.ipv6.daddr, r->addr, 16);
		t.ipv6.dport = bpf_htons(r->port);
		sk = bpf_skc_lookup_tcp(ctx, &t, sizeof(t.ipv6), BPF_F_CURRENT_NETNS, 0);
	}
	if (!sk)
		return 0;
	tp = bpf_skc_to_tcp_sock(sk);
	if (tp)
		yes = sk->state == BPF_TCP_LISTEN && ((struct sock *)tp)->sk_uid.val == r->uid;
	bpf_sk_release(sk);
	return yes;
}

static __always_inline void count(u64 *n)
{
	__sync_fetch_and_add(n, 1);
}

static __always_inline int refuse(struct bpf_sock *sk, const struct query *q)
{
	if (!q->stuck)
		bpf_sk_storage_delete(&notes, sk);
	bpf_set_retval(-ECONNREFUSED);
	return 0;
}

static __always_inline int leave(struct bpf_sock *sk, const struct query *q)
{
	if (q->stuck)
		return refuse(sk, q);
	bpf_sk_storage_delete(&notes, sk); /* an earlier connect() of this socket was captured, and failed */
	return 1;
}

static __always_inline int away(struct bpf_sock *sk, const struct query *q, struct adit_cap_slot *s, const struct adit_cap_rule *r)
{
	if (r->flags & ADIT_CAP_CLOSED) {
		count(&s->closed);
		return refuse(sk, q);
	}
	count(&s->open);
	return leave(sk, q);
}

/*
 * An IPv6 socket that once tried an IPv4 address keeps IPv4's operations and sends an IPv6 connect() nowhere (net/ipv6/tcp_ipv6.c,
 * tcp_v6_connect(), icsk_af_ops; tests/kernel/connect_again.c). We made it do so: better no connection than one that hangs.
 */
static __always_inline void note_before(struct query *q, struct bpf_sock *sk)
{
	struct adit_cap_note *n = bpf_sk_storage_get(&notes, sk, 0, 0);

	q->stuck = n && n->mapped && q->family == AF_INET6;
}

static __always_inline void query_socket(struct query *q, struct bpf_sock *sk, struct tcp_sock *tp)
{
	struct sock *k = (struct sock *)tp;
	struct cgroup *c = k->sk_cgrp_data.cgroup;
	u32 s0 = sk->src_ip6[0], s1 = sk->src_ip6[1], s2 = sk->src_ip6[2], s3 = sk->src_ip6[3];
	bool any = !(s0 | s1 | s2 | s3), four = !s0 && !s1 && s2 == bpf_htonl(0xffff);

	q->uid = k->sk_uid.val;
	q->cgroup = (u64)c;
	q->cgroup_id = BPF_CORE_READ(c, kn, id);
	q->device = sk->bound_dev_if != 0 && sk->bound_dev_if != LOOPBACK_DEV;
	q->to_four = !q->six || (!BPF_CORE_READ_BITFIELD(&k->__sk_common, skc_ipv6only) && (any || four));
	q->to_six = q->six && !four;
}

/* Return: the rule that takes it, or NULL */
static __always_inline struct adit_cap_rule *choose(struct query *q, u32 n)
{
	struct adit_cap_rule *r = NULL;

	for (int i = 0; i < RETRIES; i++) {
		q->slot = q->unable = q->refuse = NOBODY;
		q->again = q->to_listener = 0;
		bpf_loop(n, rule_look, q, 0);
		r = q->slot == NOBODY ? NULL : bpf_map_lookup_elem(&rules, &q->rule);
		if (!q->again && (r || q->slot == NOBODY))
			break;
	}
	return r;
}

/* Return: as the hook; 2: captured, *@to is where to and @q what the application wanted */
static __always_inline int on_connect(struct bpf_sock_addr *ctx, struct query *q, struct adit_cap_rule **ret)
{
	struct bpf_sock *sk = ctx->sk;
	struct adit_cap_control *c;
	struct adit_cap_slot *s;
	struct adit_cap_rule *r;
	struct adit_cap_note *n;
	struct tcp_sock *tp;
	u32 zero = 0, slot;

	if (!sk)
		return 1;
	c = bpf_map_lookup_elem(&control, &zero);
	tp = bpf_skc_to_tcp_sock(sk); /* NULL: not TCP */
	if (!tp || !c)
		return 1;
	note_before(q, sk);
	if (!c->slots)
		return leave(sk, q);
	query_socket(q, sk, tp);
	q->netns = bpf_get_netns_cookie(ctx);
	r = choose(q, c->slots);
	if (q->to_listener)
		return 1;
	slot = q->slot != NOBODY ? q->slot : q->unable;
	if (slot == NOBODY || is_agent())
		return leave(sk, q);
	s = bpf_map_lookup_elem(&slots, &slot);
	if (!s)
		return leave(sk, q);
	if (q->slot == NOBODY) {
		count(&s->unable);
		return q->refuse != NOBODY ? refuse(sk, q) : leave(sk, q);
	}
	if (!r)
		return leave(sk, q);
	if (q->stuck && r->family == AF_INET6)
		return refuse(sk, q);
	if (!listens(ctx, r))
		return away(sk, q, s, r);
	n = bpf_sk_storage_get(&notes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!n) { /* no memory: the agent could not tell where it wants to go */
		count(&s->unable);
		return r->flags & ADIT_CAP_CLOSED ? refuse(sk, q) : 1;
	}
	__builtin_memcpy(n->addr, q->addr, sizeof(n->addr));
	n->port = q->port;
	n->family = q->family;
	n->mapped = q->six && r->family == AF_INET;
	n->rule = q->rule;
	n->cgroup = q->cgroup_id;
	n->uid = q->uid;
	count(&s->captured);
	*ret = r;
	return 2;
}

SEC("cgroup/connect4") int capture_connect4(struct bpf_sock_addr *ctx)
{
	struct query q = { .family = AF_INET, .port = bpf_ntohs(ctx->user_port) };
	struct adit_cap_rule *r = NULL;
	int v;

	q.addr[0] = ctx->user_ip4 ? ctx->user_ip4 : bpf_htonl(0x7f000001); /* connect(2) to INADDR_ANY is to loopback */
	v = on_connect(ctx, &q, &r);
	if (v != 2 || !r)
		return v != 0;
	ctx->user_ip4 = *(u32 *)r->addr;
	ctx->user_port = bpf_htons(r->port);
	return 1;
}

SEC("cgroup/connect6") int capture_connect6(struct bpf_sock_addr *ctx)
{
	u32 a0 = ctx->user_ip6[0], a1 = ctx->user_ip6[1], a2 = ctx->user_ip6[2], a3 = ctx->user_ip6[3];
	struct query q = { .family = AF_INET6, .six = 1, .port = bpf_ntohs(ctx->user_port) };
	struct adit_cap_rule *r = NULL;
	int v;

	if (!a0 && !a1 && a2 == bpf_htonl(0xffff)) {
		q.family = AF_INET;
		q.addr[0] = a3 ? a3 : bpf_htonl(0x7f000001);
	} else {
		q.addr[0] = a0;
		q.addr[1] = a1;
		q.addr[2] = a2;
		q.addr[3] = a0 | a1 | a2 | a3 ? a3 : bpf_htonl(1);
	}
	v = on_connect(ctx, &q, &r);
	if (v != 2 || !r)
		return v != 0;
	if (r->family == AF_INET) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = bpf_htonl(0xffff);
		ctx->user_ip6[3] = *(u32 *)r->addr;
	} else {
		ctx->user_ip6[0] = ((u32 *)r->addr)[0];
		ctx->user_ip6[1] = ((u32 *)r->addr)[1];
		ctx->user_ip6[2] = ((u32 *)r->addr)[2];
		ctx->user_ip6[3] = ((u32 *)r->addr)[3];
	}
	ctx->user_port = bpf_htons(r->port);
	return 1;
}

SEC("cgroup/getpeername4") int capture_getpeername4(struct bpf_sock_addr *ctx)
{
	struct adit_cap_note *n = ctx->sk ? bpf_sk_storage_get(&notes, ctx->sk, 0, 0) : NULL;

	if (n && n->family == AF_INET) {
		ctx->user_ip4 = *(u32 *)n->addr;
		ctx->user_port = bpf_htons(n->port);
	}
	return 1;
}

SEC("cgroup/getpeername6") int capture_getpeername6(struct bpf_sock_addr *ctx)
{
	struct adit_cap_note *n = ctx->sk ? bpf_sk_storage_get(&notes, ctx->sk, 0, 0) : NULL;
	u32 *a;

	if (!n)
		return 1;
	a = (u32 *)n->addr;
	if (n->family == AF_INET) {
		ctx->user_ip6[0] = 0;
		ctx->user_ip6[1] = 0;
		ctx->user_ip6[2] = bpf_htonl(0xffff);
		ctx->user_ip6[3] = a[0];
	} else {
		ctx->user_ip6[0] = a[0];
		ctx->user_ip6[1] = a[1];
		ctx->user_ip6[2] = a[2];
		ctx->user_ip6[3] = a[3];
	}
	ctx->user_port = bpf_htons(n->port);
	return 1;
}

SEC("sockops") int capture_sockops(struct bpf_sock_ops *ctx)
{
	struct bpf_sock *sk = ctx->sk;
	struct adit_cap_key k = {};
	struct adit_cap_note *n;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB || !sk)
		return 1;
	k.netns = bpf_get_netns_cookie(ctx);
	k.sport = ctx->local_port;
	k.dport = bpf_ntohl(ctx->remote_port);
	if (ctx->family == AF_INET6 && (ctx->remote_ip6[0] || ctx->remote_ip6[1] || ctx->remote_ip6[2] != bpf_htonl(0xffff))) {
		u32 *s = (u32 *)k.src, *d = (u32 *)k.dst;

		k.family = AF_INET6;
		s[0] = ctx->local_ip6[0];
		s[1] = ctx->local_ip6[1];
		s[2] = ctx->local_ip6[2];
		s[3] = ctx->local_ip6[3];
		d[0] = ctx->remote_ip6[0];
		d[1] = ctx->remote_ip6[1];
		d[2] = ctx->remote_ip6[2];
		d[3] = ctx->remote_ip6[3];
	} else {
		k.family = AF_INET;
		*(u32 *)k.src = ctx->local_ip4;
		*(u32 *)k.dst = ctx->remote_ip4;
	}
	n = bpf_sk_storage_get(&notes, sk, 0, 0);
	if (n) {
		struct adit_cap_claim c = { .at_ns = bpf_ktime_get_ns(), .cookie = bpf_get_socket_cookie(ctx), .note = *n };

		bpf_map_update_elem(&claims, &k, &c, BPF_ANY);
	} else if (bpf_map_lookup_elem(&claims, &k)) {
		bpf_map_delete_elem(&claims, &k); /* an earlier connection from this port was never claimed: this one is not it */
	}
	return 1;
}

/* @a: filled in with who the caller is */
SEC("syscall") int capture_register(struct adit_cap_agent *a)
{
	struct task_struct *t = bpf_get_current_task_btf();
	struct adit_cap_agent k = { .start = t->group_leader->start_time, .tgid = t->tgid };
	u32 one = 1;

	a->start = k.start;
	a->tgid = k.tgid;
	return bpf_map_update_elem(&agents, &k, &one, BPF_ANY) ? 1 : 0;
}
