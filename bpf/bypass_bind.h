/*
 * What agents have done by BPF_PROG_RUN: where a socket of theirs belongs, binding two ends, taking one out of the sockhash.
 */
#pragma once
#include "bypass_maps.h"

static __always_inline struct bpf_sock *find(struct __sk_buff *skb, struct adit_req_end *q)
{
	u64 netns = q->netns < 0 ? (u64)BPF_F_CURRENT_NETNS : (u64)q->netns;

	return q->v6 ? bpf_skc_lookup_tcp(skb, &q->tuple, sizeof(q->tuple.ipv6), netns, 0) :
		       bpf_skc_lookup_tcp(skb, &q->tuple, sizeof(q->tuple.ipv4), netns, 0);
}

static __always_inline u32 cookie_of(struct tcp_sock *tp, u64 want)
{
	return (u64)((struct sock *)tp)->__sk_common.skc_cookie.counter == want ? ADIT_DONE : ADIT_GONE;
}

/* a socket of the caller's: what is known of its connection? */
static __always_inline u32 where(struct adit_req *q, struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct adit_pair_key key;
	struct adit_pair *p;
	u16 local, remote;

	if (!tp || cookie_of(tp, q->end[0].bind.cookie) != ADIT_DONE)
		return ADIT_GONE;
	if (((struct sock *)tp)->__sk_common.skc_state != BPF_TCP_ESTABLISHED || ((struct sock *)tp)->sk_shutdown)
		return ADIT_NOT_OPEN; /* a FIN counts in one number and not in the other */
	local = bpf_ntohs(q->end[0].v6 ? q->end[0].tuple.ipv6.dport : q->end[0].tuple.ipv4.dport);
	remote = bpf_ntohs(q->end[0].v6 ? q->end[0].tuple.ipv6.sport : q->end[0].tuple.ipv4.sport);
	q->side = 0;
	key.aseq = tp->snd_una - (u32)tp->bytes_acked + 1;
	key.aport = local;
	key.pport = remote;
	p = pair_get(&key);
	if (!p || p->end[0].cookie != q->end[0].bind.cookie) {
		q->side = 1;
		key.aseq = tp->rcv_nxt - (u32)tp->bytes_received;
		key.aport = remote;
		key.pport = local;
		p = pair_get(&key);
	}
	if (!p || p->end[q->side & 1].cookie != q->end[0].bind.cookie)
		return ADIT_UNKNOWN;
	q->end[0].key = key;
	q->pair = *p;
	return ADIT_DONE;
}

/* may this end be bound? */
static __always_inline u32 check(struct bpf_sock *sk, const struct adit_req_end *q)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct adit_bind *b;

	if (!tp || cookie_of(tp, q->bind.cookie) != ADIT_DONE)
		return ADIT_GONE;
	b = bpf_sk_storage_get(&binds, tp, 0, 0);
	if (b)
		return b->peer_cookie == q->bind.peer_cookie ? ADIT_BUSY | b->slot << 8 : ADIT_BOUND;
	if (((struct sock *)tp)->__sk_common.skc_state != BPF_TCP_ESTABLISHED || ((struct sock *)tp)->sk_shutdown)
		return ADIT_NOT_OPEN;
	/* what counts bytes must agree with what was noted, or the rule of order would be about something else */
	if (tp->snd_una - (u32)tp->bytes_acked + !q->side != q->wfirst || tp->rcv_nxt - (u32)tp->bytes_received != q->rfirst)
		return ADIT_UNKNOWN;
	if (((struct inet_connection_sock *)tp)->icsk_ulp_ops)
		return ADIT_HAS_ULP;
	if (!(BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_OFF)) {
		/* in a sockmap a message goes to TCP in pieces: with Nagle's algorithm 60 KB can stall for a delayed ACK */
		struct adit_pair_key key = q->key;
		struct adit_pair *p = pair_get(&key);

		if (p && p->end[q->side & 1].nodelay != ADIT_NODELAY_DONE)
			p->end[q->side & 1].nodelay = ADIT_NODELAY_WANTED;
		return ADIT_WAIT_NODELAY;
	}
	return ADIT_DONE;
}

/* bound by us, or was another agent quicker? */
static __always_inline u32 claim(struct bpf_sock *sk, struct adit_req_end *q)
{
	struct adit_bind copy = q->bind, *b; /* the helper does not take values out of packets */

	b = bpf_sk_storage_get(&binds, sk, &copy, BPF_SK_STORAGE_GET_F_CREATE);
	if (!b)
		return ADIT_NO_MEMORY;
	return b->slot == q->bind.slot ? ADIT_DONE : ADIT_BOUND;
}

static __always_inline u32 bind_both(struct adit_req *q, struct bpf_sock *a, struct bpf_sock *b)
{
	u64 ca = q->end[0].bind.cookie, cb = q->end[1].bind.cookie;
	u32 r, s;
	int e; /* not long: before 6.4 the upper half of the result means nothing */

	r = check(a, &q->end[0]);
	s = check(b, &q->end[1]);
	if (r != ADIT_DONE)
		return r;
	if (s != ADIT_DONE)
		return s;
	r = claim(a, &q->end[0]);
	if (r != ADIT_DONE)
		return r;
	r = claim(b, &q->end[1]);
	if (r != ADIT_DONE)
		goto unbind_a;
	e = (int)bpf_map_update_elem(&socks, &ca, a, BPF_NOEXIST);
	if (e)
		goto unbind_b;
	e = (int)bpf_map_update_elem(&socks, &cb, b, BPF_NOEXIST);
	if (e)
		goto take_out_a;
	return ADIT_DONE;
take_out_a: /* the gate was never open, so its queue is empty */
	bpf_map_delete_elem(&socks, &ca);
unbind_b:
	r = e == -E2BIG || e == -ENOMEM ? ADIT_MAP_FULL : ADIT_REFUSED;
	bpf_sk_storage_delete(&binds, b);
unbind_a:
	bpf_sk_storage_delete(&binds, a);
	return r;
}

/* only with the gate closed for a while, so that no send() is still within it, and with an empty queue */
static __always_inline u32 take_out(struct adit_req *q, struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	u64 cookie = q->end[0].bind.cookie;
	struct adit_slot *slot;
	struct sk_psock *psock;
	struct adit_bind *b;
	u32 i;

	if (!tp || cookie_of(tp, cookie) != ADIT_DONE)
		return ADIT_GONE;
	b = bpf_sk_storage_get(&binds, tp, 0, 0);
	if (!b)
		return ADIT_NOT_IN;
	for (i = 0; i < 2; i++) {
		u32 at = b->slot ^ i;

		slot = bpf_map_lookup_elem(&slots, &at);
		if (slot && slot->cookie == (i ? b->peer_cookie : b->cookie) && slot->open)
			return ADIT_STILL_OPEN;
	}
	psock = psock_of((struct sock *)tp);
	if (!psock)
		return ADIT_NOT_IN;
	if (!queue_empty(psock))
		return ADIT_NOT_EMPTY;
	return (int)bpf_map_delete_elem(&socks, &cookie) ? ADIT_NOT_IN : ADIT_DONE;
}

static __always_inline u32 is_empty(struct adit_req *q, struct bpf_sock *sk)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct sk_psock *psock;

	if (!tp || cookie_of(tp, q->end[0].bind.cookie) != ADIT_DONE)
		return ADIT_GONE;
	psock = psock_of((struct sock *)tp);
	return psock && !queue_empty(psock) ? ADIT_NOT_EMPTY : ADIT_DONE;
}

SEC("tc")
int bind(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct adit_req *q = data + ADIT_REQ_AT;
	struct bpf_sock *a, *b;
	int r = ADIT_GONE;

	if ((void *)(q + 1) > end)
		return ADIT_BAD_REQUEST;
	if (q->op == ADIT_OP_WHOAMI) {
		q->side = current_tgid();
		return ADIT_DONE;
	}
	a = find(skb, &q->end[0]);
	if (!a)
		return ADIT_GONE;
	if (q->op == ADIT_OP_TAKE_OUT) {
		r = (int)take_out(q, a);
		goto release_a;
	}
	if (q->op == ADIT_OP_EMPTY) {
		r = (int)is_empty(q, a);
		goto release_a;
	}
	if (q->op == ADIT_OP_WHERE) {
		r = (int)where(q, a);
		goto release_a;
	}
	if (q->op == ADIT_OP_LISTENER) {
		struct adit_note *n = bpf_sk_storage_get(&notes, a, 0, 0);

		q->side = n ? n->tgid : 0;
		r = n ? ADIT_DONE : ADIT_UNKNOWN;
		goto release_a;
	}
	if (q->op != ADIT_OP_BIND)
		goto release_a;
	b = find(skb, &q->end[1]);
	if (!b)
		goto release_a;
	r = (int)bind_both(q, a, b);
	bpf_sk_release(b);
release_a:
	bpf_sk_release(a);
	return r;
}
