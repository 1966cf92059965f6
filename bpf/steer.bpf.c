/*
 * Inbound steering, loaded once per network namespace. The kernel asks steer_lookup() which socket gets a new connection, before it
 * looks for one itself; it answers with the listener whose rule has the local address and port. The kernel then chooses within the
 * listener's reuseport group as for its own address (bpf_sk_assign() without BPF_SK_LOOKUP_F_NO_REUSEPORT).
 *
 * What the agent itself opens must not come back to it: it may well dial the very address that is steered, where the application
 * listens. Its connections are noted before the SYN leaves (TCP_CONNECT_CB, in its own cgroup) and forgotten once established; where
 * that cannot be attached, connections that come over loopback are not steered.
 *
 * Source: Documentation/bpf/prog_sk_lookup.rst; tests/kernel/sk_lookup_group.c.
 */
#include "vmlinux.h"
#include <adit/capture_abi.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>
#include "nets.h"

#define AF_INET	     2
#define AF_INET6     10
#define IPPROTO_TCP  6
#define LOOPBACK_DEV 1
#define NOTHING	     ADIT_STEER_RULES
#define OWN_NS	     (130ull * 1000000000) /* longer than SYNs are repeated (tcp(7), tcp_syn_retries) */

const volatile __u64 netns = 0;	 /* cookie of the namespace this is loaded for */
struct adit_cap_agent self = {}; /* who loaded it: by steer_register */
__u32 n_rules = 0;		 /* written before steer_lookup is attached */
bool owns = false;		 /* steer_sockops is attached */

struct {
	__uint(type, BPF_MAP_TYPE_SOCKMAP);
	__uint(max_entries, ADIT_STEER_RULES);
	__type(key, u32);
	__type(value, u64);
} listeners SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, ADIT_STEER_RULES);
	__type(key, u32);
	__type(value, struct adit_steer_rule);
} rules SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_LPM_TRIE);
	__uint(max_entries, 65536);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, struct adit_net_key);
	__type(value, struct adit_net);
} nets SEC(".maps");
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 16384);
	__type(key, struct adit_steer_own);
	__type(value, u64); /* CLOCK_MONOTONIC, ns */
} own SEC(".maps");

char LICENSE[] SEC("license") = "GPL";

struct query {
	struct adit_net_key net;
	u32 port;
	u32 found;
};

static long rule_look(u32 i, struct query *q)
{
	struct adit_steer_rule *r = bpf_map_lookup_elem(&rules, &i);

	if (!r)
		return 1;
	if (r->family != q->net.family || !(r->ports[(q->port >> 3) & (ADIT_PORTS - 1)] & 1u << (q->port & 7)))
		return 0;
	q->net.rule = i;
	if (!net_has(bpf_map_lookup_elem(&nets, &q->net), (u16)q->port))
		return 0;
	q->found = i;
	return 1;
}

static __always_inline bool is_own(struct bpf_sk_lookup *ctx)
{
	struct adit_steer_own k = { .sport = bpf_ntohs(ctx->remote_port), .dport = (u16)ctx->local_port, .family = ctx->family };
	u32 *s = (u32 *)k.src, *d = (u32 *)k.dst;
	u64 *at;

	if (ctx->family == AF_INET) {
		s[0] = ctx->remote_ip4;
		d[0] = ctx->local_ip4;
	} else {
		for (int i = 0; i < 4; i++) {
			s[i] = ctx->remote_ip6[i];
			d[i] = ctx->local_ip6[i];
		}
	}
	at = bpf_map_lookup_elem(&own, &k);
	return at && bpf_ktime_get_ns() - *at < OWN_NS;
}

SEC("sk_lookup") int steer_lookup(struct bpf_sk_lookup *ctx)
{
	struct query q = { .net = { .prefixlen = ADIT_NET_BITS + 128, .family = ctx->family }, .port = ctx->local_port, .found = NOTHING };
	u32 *a = (u32 *)q.net.addr;
	struct adit_steer_rule *r;
	struct bpf_sock *sk;

	if (ctx->protocol != IPPROTO_TCP)
		return SK_PASS;
	if (ctx->family == AF_INET) {
		a[0] = ctx->local_ip4;
	} else {
		for (int i = 0; i < 4; i++)
			a[i] = ctx->local_ip6[i];
	}
	bpf_loop(n_rules, rule_look, &q, 0);
	if (q.found == NOTHING)
		return SK_PASS;
	if (ctx->ingress_ifindex == LOOPBACK_DEV && (!owns || is_own(ctx)))
		return SK_PASS;
	sk = bpf_map_lookup_elem(&listeners, &q.found);
	if (!sk)
		return SK_PASS; /* it has been closed: the agent drains */
	if (!bpf_sk_assign(ctx, sk, 0)) {
		r = bpf_map_lookup_elem(&rules, &q.found);
		if (r)
			__sync_fetch_and_add(&r->steered, 1);
	}
	bpf_sk_release(sk);
	return SK_PASS;
}

static __always_inline void own_key(struct bpf_sock_ops *ctx, struct adit_steer_own *k)
{
	u32 *s = (u32 *)k->src, *d = (u32 *)k->dst;

	k->sport = (u16)ctx->local_port;
	k->dport = (u16)bpf_ntohl(ctx->remote_port);
	if (ctx->family == AF_INET6 && (ctx->remote_ip6[0] || ctx->remote_ip6[1] || ctx->remote_ip6[2] != bpf_htonl(0xffff))) {
		k->family = AF_INET6;
		s[0] = ctx->local_ip6[0];
		s[1] = ctx->local_ip6[1];
		s[2] = ctx->local_ip6[2];
		s[3] = ctx->local_ip6[3];
		d[0] = ctx->remote_ip6[0];
		d[1] = ctx->remote_ip6[1];
		d[2] = ctx->remote_ip6[2];
		d[3] = ctx->remote_ip6[3];
	} else {
		k->family = AF_INET;
		s[0] = ctx->local_ip4;
		d[0] = ctx->remote_ip4;
	}
}

SEC("sockops") int steer_sockops(struct bpf_sock_ops *ctx)
{
	struct adit_steer_own k = {};
	struct task_struct *t;
	u64 now;

	if (ctx->op != BPF_SOCK_OPS_TCP_CONNECT_CB && ctx->op != BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB)
		return 1;
	if (bpf_get_netns_cookie(ctx) != netns)
		return 1;
	own_key(ctx, &k);
	if (ctx->op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		bpf_map_delete_elem(&own, &k);
		return 1;
	}
	t = bpf_get_current_task_btf();
	if (t->tgid != (int)self.tgid || t->group_leader->start_time != self.start)
		return 1;
	now = bpf_ktime_get_ns();
	bpf_map_update_elem(&own, &k, &now, BPF_ANY);
	return 1;
}

SEC("syscall") int steer_register(void *ctx)
{
	struct task_struct *t = bpf_get_current_task_btf();

	(void)ctx;
	self.tgid = (u32)t->tgid;
	self.start = t->group_leader->start_time;
	return 0;
}
