/*
 * The gate: which messages are redirected. And the evidence: who reads how.
 */
#pragma once
#include "bypass_maps.h"

extern const void woken_wake_function __ksym;
extern const void sk_wait_data __ksym;
extern const void tcp_msg_wait_data __ksym __weak;

#define WITHIN(at, f) ((at) - (u64)&(f) < 0x200)

/*
 * Is somebody asleep within recv() of this socket, who would not see redirected bytes and would take later TCP bytes first? (epoll and
 * poll wait with other functions and come back by a new call.) The wait entry lies on the sleeper's stack, next to the frame of the
 * function that waits: in tcp_msg_wait_data() it looks at the redirected queue first and is safe; in sk_wait_data() it is not; anything
 * unknown is not.
 */
static __noinline int reader_inside(struct sock *sk)
{
	struct list_head *head, *e = NULL;
	struct socket_wq *wq = NULL;
	wait_queue_func_t f;
	int owned = 1, i, k;

	if (!sk)
		return 1;
	READ(owned, sk->sk_lock.owned);
	if (owned)
		return 1;
	READ(wq, sk->sk_wq);
	if (!wq)
		return 1;
	head = __builtin_preserve_access_index(&wq->wait.head);
	READ(e, head->next);
	for (i = 0; i < 8; i++) {
		struct wait_queue_entry *w;

		if (e == head || !e)
			break;
		w = (void *)e - bpf_core_field_offset(struct wait_queue_entry, entry);
		f = NULL;
		READ(f, w->func);
		if ((void *)f == (void *)&woken_wake_function) {
			u64 stack[32];
			bool safe = false;

			if (bpf_probe_read_kernel(stack, sizeof(stack), (void *)w - sizeof(stack) / 2))
				return 1;
			for (k = 0; k < 32; k++) {
				if (WITHIN(stack[k], sk_wait_data))
					return 1;
				if (&tcp_msg_wait_data && WITHIN(stack[k], tcp_msg_wait_data))
					safe = true;
			}
			if (!safe)
				return 1;
		}
		READ(e, e->next);
	}
	if (e != head)
		return 1;
	owned = 1;
	READ(owned, sk->sk_lock.owned);
	return owned;
}

/* Return: -1 to redirect, or enum adit_refusal */
static __always_inline int allow(struct sk_msg_md *msg, struct tcp_sock *tp, struct adit_bind *b)
{
	struct sock *sk = (struct sock *)tp, *peer = (struct sock *)b->peer;
	u32 size = msg->size, copied = 0, limit;
	int lowat = 0, rcvbuf = 0, queued = 0;
	struct sk_psock *psock;
	const void *ulp = NULL;
	u8 state, shut = 0;
	u64 cookie = 0;

	PEEK(cookie, struct sock, peer, __sk_common.skc_cookie.counter);
	if (cookie != b->peer_cookie)
		return ADIT_NO_PEER;
	/* order: every byte that this socket ever gave to TCP has been read at the far end */
	PEEK(copied, struct tcp_sock, peer, copied_seq);
	if (copied - b->rbase != tp->write_seq - b->wbase && !no_order)
		return ADIT_NO_ORDER;
	/* end to end, a FIN from the agent may mean that it died: TCP decides what becomes of the connection */
	state = sk->__sk_common.skc_state;
	if (sk->sk_shutdown & SEND_SHUTDOWN ||
	    (state != BPF_TCP_ESTABLISHED && (state != BPF_TCP_CLOSE_WAIT || b->flags & ADIT_BIND_STRICT)))
		return ADIT_NO_STATE;
	PEEK(shut, struct sock, peer, sk_shutdown);
	if (shut & RCV_SHUTDOWN && b->flags & ADIT_BIND_STRICT)
		return ADIT_NO_STATE;
	if (sk->__sk_common.skc_flags & 1ul << bpf_core_enum_value(enum sock_flags, SOCK_ZEROCOPY) ||
	    ((struct inet_connection_sock *)tp)->icsk_ulp_ops)
		return ADIT_NO_OPTION;
	PEEK(ulp, struct inet_connection_sock, peer, icsk_ulp_ops);
	if (ulp)
		return ADIT_NO_OPTION;
	PEEK(lowat, struct sock, peer, sk_rcvlowat);
	if (lowat > 1)
		return ADIT_NO_LOWAT;
	if (b->flags & ADIT_BIND_EVIDENCE) {
		u32 other = b->slot ^ 1;
		struct adit_slot *s = bpf_map_lookup_elem(&slots, &other);

		if (!s || s->cookie != b->peer_cookie || s->banned || !s->plain)
			return ADIT_NO_EVIDENCE;
	}
	if (reader_inside(peer))
		return ADIT_NO_READER;
	/* memory: redirected bytes are charged to the receiver, but nothing would ever stop the sender */
	PEEK(rcvbuf, struct sock, peer, sk_rcvbuf);
	limit = (u32)rcvbuf / 4;
	if (limit > b->max_bytes)
		limit = b->max_bytes;
	if (size > limit)
		return ADIT_NO_BYTES;
	psock = psock_of(peer);
	if (!psock)
		return ADIT_NO_PEER;
	if (queue_empty(psock)) {
		b->messages = 0;
		return -1;
	}
	if (b->messages >= b->max_messages)
		return ADIT_NO_MESSAGES;
	PEEK(queued, struct sock, peer, sk_backlog.rmem_alloc.counter);
	return (u32)queued + size > limit ? ADIT_NO_BYTES : -1;
}

/*
 * Bytes that go by TCP while redirected ones are unread: recv() gives the redirected ones, and nothing more in the same call. A reader
 * that waits for edges and takes a short read for the end of it would wait for the next edge in vain. So the agent between holds such
 * bytes back until the others are read (bypass_hold()). Where the sender is an agent itself and will hold what comes next, one message
 * too many is redirected. (SK_DROP, to make it try again, would stick to the socket: tcp_bpf_send_verdict() never forgets it.)
 */
static __always_inline bool unread(struct adit_bind *b)
{
	struct sock *peer = (struct sock *)b->peer;
	struct sk_psock *psock;
	u64 cookie = 0;

	PEEK(cookie, struct sock, peer, __sk_common.skc_cookie.counter);
	if (cookie != b->peer_cookie)
		return false;
	psock = psock_of(peer);
	return psock && !queue_empty(psock);
}

SEC("sk_msg")
int gate(struct sk_msg_md *msg)
{
	struct bpf_sock *sk = msg->sk;
	struct adit_slot *slot;
	struct adit_bind *b;
	struct adit_node *n;
	struct tcp_sock *tp;
	u32 zero = 0, at;
	u64 to;
	int no;

	if (!sk)
		return SK_PASS;
	b = bpf_sk_storage_get(&binds, sk, 0, 0);
	if (!b)
		return SK_PASS;
	at = b->slot;
	slot = bpf_map_lookup_elem(&slots, &at);
	n = bpf_map_lookup_elem(&node, &zero);
	tp = bpf_skc_to_tcp_sock(sk);
	if (!slot || !n || !tp || slot->cookie != b->cookie)
		return SK_PASS; /* given back */
	if (*(volatile u32 *)&n->off)
		no = ADIT_NO_SWITCH;
	else if (!*(volatile u32 *)&slot->open)
		no = ADIT_NO_CLOSED;
	else
		no = allow(msg, tp, b);
	if (no < 0 && b->passed && ++b->streak < STREAK)
		no = ADIT_NO_STREAK;
	else
		b->streak = 0;
	slot->last_ns = bpf_ktime_get_coarse_ns();
	if (no >= 0 && unread(b)) {
		*(volatile u32 *)&slot->behind = 1;
		if (b->flags & ADIT_BIND_HOLD && (no == ADIT_NO_BYTES || no == ADIT_NO_MESSAGES || no == ADIT_NO_STREAK))
			no = -1;
	}
	if (no < 0) {
		to = b->peer_cookie;
		if (bpf_msg_redirect_hash(msg, &socks, &to, BPF_F_INGRESS) == SK_PASS) {
			b->messages++;
			b->passed = 0;
			slot->bytes += msg->size;
			slot->messages++;
			return SK_PASS;
		}
		no = ADIT_NO_PEER;
	}
	b->passed = 1;
	slot->pass_bytes += msg->size;
	slot->pass_messages++;
	if ((u32)no < ADIT_REFUSALS)
		slot->refused[no]++;
	return SK_PASS;
}

/* ---- evidence: how does the owner of a mapped socket read? ---- */

static __always_inline struct adit_slot *slot_of(struct sock *sk)
{
	struct adit_bind *b = bpf_sk_storage_get(&binds, sk, 0, 0);
	struct adit_slot *slot;
	u32 at;

	if (!b)
		return NULL;
	at = b->slot;
	slot = bpf_map_lookup_elem(&slots, &at);
	return slot && slot->cookie == b->cookie ? slot : NULL;
}

SEC("fentry/tcp_bpf_recvmsg")
int reads(u64 *ctx) /* struct sock *, struct msghdr *, size_t, int flags, ... */
{
	struct adit_slot *slot = slot_of((struct sock *)ctx[0]);
	int flags = (int)ctx[3];

	if (!slot)
		return 0;
	if (flags & (MSG_WAITALL | MSG_TRUNC | MSG_OOB))
		slot->banned = 1;
	else if (!(flags & (MSG_PEEK | MSG_ERRQUEUE)) && !slot->plain)
		slot->plain = 1;
	return 0;
}

SEC("fentry/tcp_splice_read")
int splices(u64 *ctx) /* struct socket *, ... */
{
	struct sock *sk = ((struct socket *)ctx[0])->sk;
	struct adit_slot *slot = sk ? slot_of(sk) : NULL;

	if (slot)
		slot->banned = 1;
	return 0;
}
