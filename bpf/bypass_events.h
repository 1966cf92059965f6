/*
 * Noting connections of this node as they are made: sockops, and an iterator over what is older.
 */
#pragma once
#include "bypass_maps.h"

/* ---- who has which socket ---- */

static __always_inline u32 agent_id(u32 tgid)
{
	struct adit_agent *a = bpf_map_lookup_elem(&agents, &tgid);

	return a ? a->id : 0;
}

static __always_inline void listens(void *sk, u32 netns, struct task_struct *task, u32 tgid, u32 id)
{
	struct adit_note *n = bpf_sk_storage_get(&notes, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);

	if (n) {
		n->tgid = tgid;
		n->agent = id;
	}
	if (id) {
		n = bpf_sk_storage_get(&inherited, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		if (n) {
			n->tgid = tgid;
			n->agent = id;
		}
	}
	if (BPF_CORE_READ(task, nsproxy, net_ns, ns.inum) == netns) /* an agent may listen elsewhere than it lives */
		bpf_map_update_elem(&spaces, &netns, &tgid, BPF_ANY);
}

SEC("iter/task_file")
int adopt(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct sock *sk;
	u32 tgid, id;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP || sk->__sk_common.skc_state != BPF_TCP_LISTEN)
		return 0;
	tgid = (u32)task->tgid;
	id = agent_id(tgid);
	if (id || !bpf_sk_storage_get(&notes, sk, 0, 0)) /* inherited by others than its maker: the maker's, or the agent's */
		listens(sk, sk->__sk_common.skc_net.net->ns.inum, task, tgid, id);
	return 0;
}

/* ---- who is connected with whom ---- */

static __always_inline void end_fill(struct adit_end *e, struct bpf_sock_ops *ops, struct tcp_sock *tp, u32 tgid, u32 agent)
{
	struct sock *sk = (struct sock *)tp;
	u64 *local = (u64 *)e->local, *remote = (u64 *)e->remote;

	e->sk = (u64)tp;
	e->cookie = bpf_get_socket_cookie(ops);
	e->cgroup = sk->sk_cgrp_data.cgroup->kn->id;
	e->tgid = tgid;
	e->agent = agent;
	e->uid = sk->sk_uid.val;
	e->netns = sk->__sk_common.skc_net.net->ns.inum;
	e->nodelay = ADIT_NODELAY_IDLE;
	e->watching = 0;
	e->samples = 0;
	if (sk->__sk_common.skc_family == AF_INET6) {
		struct in6_addr l = sk->__sk_common.skc_v6_rcv_saddr, r = sk->__sk_common.skc_v6_daddr;

		if (r.in6_u.u6_addr32[0] || r.in6_u.u6_addr32[1] || r.in6_u.u6_addr32[2] != bpf_htonl(0xffff)) {
			e->family = AF_INET6;
			__builtin_memcpy(local, &l, sizeof(l));
			__builtin_memcpy(remote, &r, sizeof(r));
			return;
		}
	}
	e->family = AF_INET;
	local[0] = local[1] = remote[0] = remote[1] = 0;
	*(u32 *)e->local = sk->__sk_common.skc_rcv_saddr;
	*(u32 *)e->remote = sk->__sk_common.skc_daddr;
}

/* what one sees as its own address the other sees as remote; else somebody who is not on this node chose the numbers */
static __always_inline bool mirrored(const struct adit_end *a, const struct adit_end *b)
{
	const u64 *al = (const u64 *)a->local, *ar = (const u64 *)a->remote, *bl = (const u64 *)b->local, *br = (const u64 *)b->remote;

	return a->family == b->family && al[0] == br[0] && al[1] == br[1] && ar[0] == bl[0] && ar[1] == bl[1];
}

/*
 * Watched is an application's socket whose other end is an agent's: it may be joined one day, and needs TCP_NODELAY then, which only
 * sockops can set. The flag is one for all sockops programs of the node (a second bypass, say): who set it first takes it away, and who
 * still wants it then sets it again. Programs of one event run one after the other, so no event is missed.
 */
static __always_inline void watch(struct bpf_sock_ops *ops, struct adit_end *e)
{
	u32 flags = ops->bpf_sock_ops_cb_flags;

	if (flags & BPF_SOCK_OPS_RTT_CB_FLAG)
		return;
	e->watching = 1;
	bpf_sock_ops_cb_flags_set(ops, (int)(flags | BPF_SOCK_OPS_RTT_CB_FLAG));
}
static __always_inline void unwatch(struct bpf_sock_ops *ops, struct adit_end *e)
{
	e->nodelay = ADIT_NODELAY_DONE;
	if (e->watching)
		bpf_sock_ops_cb_flags_set(ops, (int)(ops->bpf_sock_ops_cb_flags & ~(u32)BPF_SOCK_OPS_RTT_CB_FLAG));
	e->watching = 0;
}

/* connect(): the first sequence number is chosen, the SYN not sent yet */
static __always_inline void connects(struct bpf_sock_ops *ops, struct tcp_sock *tp)
{
	struct adit_pair_key key = {tp->write_seq + 1, (u16)ops->local_port, (u16)bpf_ntohl(ops->remote_port)};
	struct adit_pair *p = pair_place(&key);
	u32 tgid;

	if (!p || !pair_lock(p))
		return;
	tgid = current_tgid();
	p->key = key;
	p->end[1].cookie = 0;
	end_fill(&p->end[0], ops, tp, tgid, agent_id(tgid));
	pair_unlock(p);
}

static __always_inline void accepts(struct bpf_sock_ops *ops, struct bpf_sock *sk, struct tcp_sock *tp)
{
	struct adit_pair_key key = {tp->rcv_nxt, (u16)bpf_ntohl(ops->remote_port), (u16)ops->local_port};
	struct adit_pair *p = pair_get(&key);
	struct adit_note *n;

	if (!p || p->end[1].cookie)
		return; /* the other end is on another node, or not below our cgroup */
	if (!pair_lock(p))
		return;
	if (p->key.aseq != key.aseq || p->key.aport != key.aport || p->key.pport != key.pport)
		goto out; /* gone in this moment */
	n = bpf_sk_storage_get(&inherited, sk, 0, 0);
	end_fill(&p->end[1], ops, tp, n ? n->tgid : 0, n ? n->agent : 0);
	p->pseq = tp->write_seq;
	if (!mirrored(&p->end[0], &p->end[1])) {
		p->end[1].cookie = 0;
	} else if (!p->end[1].agent && p->end[0].agent) {
		p->end[1].nodelay = ADIT_NODELAY_PEER;
		watch(ops, &p->end[1]);
	}
out:
	pair_unlock(p);
}

static __always_inline struct adit_pair *pair_of(struct tcp_sock *tp, struct bpf_sock_ops *ops, u32 *side)
{
	u16 local = (u16)ops->local_port, remote = (u16)bpf_ntohl(ops->remote_port);
	struct adit_pair_key key = {tp->snd_una - (u32)tp->bytes_acked + 1, local, remote};
	struct adit_pair *p = pair_get(&key);

	*side = 0;
	if (p && p->end[0].sk == (u64)tp)
		return p;
	key.aseq = tp->rcv_nxt - (u32)tp->bytes_received;
	key.aport = remote;
	key.pport = local;
	*side = 1;
	p = pair_get(&key);
	return p && p->end[1].sk == (u64)tp ? p : NULL;
}

static __always_inline void round_trip(struct bpf_sock_ops *ops, struct tcp_sock *tp)
{
	struct adit_pair *p;
	struct adit_end *e;
	u32 side;

	p = pair_of(tp, ops, &side);
	if (!p)
		return;
	e = &p->end[side & 1];
	if (e->nodelay == ADIT_NODELAY_DONE)
		return;
	if (e->nodelay == ADIT_NODELAY_IDLE) { /* the first: who is the other end? */
		e->nodelay = ADIT_NODELAY_PEER;
		if (e->agent || !p->end[1].agent) {
			unwatch(ops, e);
			return;
		}
	}
	if (e->nodelay == ADIT_NODELAY_WANTED) {
		int one = 1;

		bpf_setsockopt(ops, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		unwatch(ops, e);
	} else if (BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_OFF || ++e->samples > SAMPLES) {
		unwatch(ops, e);
	} else {
		watch(ops, e);
	}
}

SEC("sockops")
int events(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk;
	struct tcp_sock *tp;
	u32 op = ops->op;

	switch (op) {
	case BPF_SOCK_OPS_TCP_CONNECT_CB:
	case BPF_SOCK_OPS_TCP_LISTEN_CB:
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
	case BPF_SOCK_OPS_RTT_CB:
		break;
	default:
		return 1; /* 0 would throw away what other sockops programs of the node reply */
	}
	sk = ops->sk;
	if (!sk)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 1;
	if (op == BPF_SOCK_OPS_TCP_CONNECT_CB) {
		connects(ops, tp);
	} else if (op == BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB) {
		accepts(ops, sk, tp);
	} else if (op == BPF_SOCK_OPS_RTT_CB) {
		round_trip(ops, tp);
	} else if (op == BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB) {
		u32 side;
		struct adit_pair *p = BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_OFF ? NULL : pair_of(tp, ops, &side);

		if (p && !p->end[0].agent) /* whether its other end is an agent is not known yet */
			watch(ops, &p->end[0]);
	} else {
		u32 tgid = current_tgid();

		listens(sk, ((struct sock *)tp)->__sk_common.skc_net.net->ns.inum, (struct task_struct *)bpf_get_current_task(), tgid,
			agent_id(tgid));
	}
	return 1;
}
