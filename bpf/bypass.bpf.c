/*
 * The bypass: bytes of one application go straight into the receive queue of another on this node (daemon/kern/bypass.h).
 *
 *   note()        cgroup/sock_create: who makes this socket. An accepted one inherits the note from its listener.
 *   adopt()       iter/task_file, once per agent: the same for sockets that are older than this object
 *   established() sockops: both ends of a connection of this node are put down as a pair. The key is made of sequence numbers, so it does
 *                 not matter which addresses the ends see or in which namespace they are. Nothing enters a sockmap here.
 *   bind()        tc, run by an agent with BPF_PROG_RUN for two ends that it wants to join: finds them by address, believes the cookie,
 *                 writes the binding (once in a socket's life) and puts both into the sockhash
 *   gate()        sk_msg, in the sender's send(): redirect into the peer's queue, or let it go by TCP
 *   reads(), splices()  fentry, where the kernel has it: how does the receiver read?
 *
 * A message is redirected only if nothing can be overtaken, nobody can miss it, and memory stays bounded; see allow(). Peer fields are
 * read with the peer unlocked: the order rule needs only copied_seq, which moves towards equality and never away, since the one who
 * could send more, the sender, holds its own lock. A peer that was freed and reused can only cause a pass: its cookie is another, and
 * the redirect itself looks the socket up by cookie.
 *
 * One object for Linux 6.1 and later. What differs is a constant that the loader sets, or weak.
 */
#include "vmlinux.h"
#include <adit/bpf_abi.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

char LICENSE[] SEC("license") = "GPL";

#define E2BIG		    7
#define ENOMEM		    12
#define AF_INET		    2
#define AF_INET6	    10
#define SOCK_STREAM	    1
#define IPPROTO_TCP	    6
#define TCP_NODELAY	    1
#define TCP_NAGLE_OFF	    1 /* in tcp_sock.nonagle: TCP_NODELAY is set */
#define RCV_SHUTDOWN	    1
#define SEND_SHUTDOWN	    2
#define MSG_OOB		    0x1
#define MSG_PEEK	    0x2
#define MSG_TRUNC	    0x20
#define MSG_WAITALL	    0x100
#define MSG_ERRQUEUE	    0x2000
#define PSOCK_BIT	    4ul /* of sk_user_data: it points to a sk_psock (net/sock.h, SK_USER_DATA_PSOCK) */
#define USER_DATA_MASK	    (~7ul)
#define STREAK		    4	 /* changing over costs the receiver a wake-up more: not for every single message */
#define SAMPLES		    1024 /* round trips after which nobody will ask for TCP_NODELAY any more */

/* for tests: without the order rule bytes must get lost or mixed up, else the tests see nothing */
const volatile __u32 no_order;
/* bpf_rdonly_cast() is there (6.2): plain fault-tolerant loads in place of a helper call per member */
const volatile __u32 have_cast;

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct adit_node);
} node SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 256);
	__type(key, u32);
	__type(value, struct adit_agent);
} agents SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct adit_own);
} owners SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct adit_bind);
} binds SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, struct adit_pair_key);
	__type(value, struct adit_pair);
} pairs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, struct adit_link);
} links SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, u32);
	__type(value, struct adit_slot);
} slots SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SOCKHASH);
	__uint(max_entries, 65536);
	__type(key, u64);
	__type(value, u64);
} socks SEC(".maps");

/* ---- who has which socket ---- */

static __always_inline u32 agent_id(u32 tgid)
{
	struct adit_agent *a = bpf_map_lookup_elem(&agents, &tgid);

	return a ? a->id : 0;
}

SEC("cgroup/sock_create")
int note(struct bpf_sock *ctx)
{
	struct task_struct *task;
	struct adit_own *own;

	if (ctx->type != SOCK_STREAM || ctx->protocol != IPPROTO_TCP)
		return 1;
	own = bpf_sk_storage_get(&owners, ctx, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!own)
		return 1;
	task = (struct task_struct *)bpf_get_current_task(); /* bpf_get_current_pid_tgid() is not for this kind of program before 6.10 */
	own->tgid = (u32)BPF_CORE_READ(task, tgid);
	own->agent = agent_id(own->tgid);
	return 1;
}

SEC("iter/task_file")
int adopt(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct socket *socket;
	struct adit_own *own;
	struct sock *sk;
	u32 tgid, id;

	if (!task || !file)
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_type != SOCK_STREAM || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	tgid = (u32)task->tgid;
	id = agent_id(tgid);
	own = bpf_sk_storage_get(&owners, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!own)
		return 0;
	if (!own->tgid || id) {
		own->tgid = tgid;
		own->agent = id;
	}
	return 0;
}

/* ---- who is connected with whom ---- */

static __always_inline void end_fill(struct adit_end *e, struct tcp_sock *tp, const struct adit_own *own)
{
	struct sock *sk = (struct sock *)tp;

	e->sk = (u64)tp;
	e->cgroup = sk->sk_cgrp_data.cgroup->kn->id;
	e->tgid = own->tgid;
	e->agent = own->agent;
	e->uid = sk->sk_uid.val;
	e->netns = sk->__sk_common.skc_net.net->ns.inum;
	e->family = AF_INET;
	if (sk->__sk_common.skc_family == AF_INET6) {
		struct in6_addr l = sk->__sk_common.skc_v6_rcv_saddr, r = sk->__sk_common.skc_v6_daddr;

		if (r.in6_u.u6_addr32[0] || r.in6_u.u6_addr32[1] || r.in6_u.u6_addr32[2] != bpf_htonl(0xffff)) {
			e->family = AF_INET6;
			__builtin_memcpy(e->local, &l, sizeof(l));
			__builtin_memcpy(e->remote, &r, sizeof(r));
			return;
		}
	}
	__builtin_memcpy(e->local, (const void *)&(u32){sk->__sk_common.skc_rcv_saddr}, 4);
	__builtin_memcpy(e->remote, (const void *)&(u32){sk->__sk_common.skc_daddr}, 4);
}

/*
 * Watched is an application's socket whose other end is an agent's: it may be joined one day, and needs TCP_NODELAY then, which only
 * sockops can set. The flag is one for all sockops programs of the node (a second bypass, say): who set it first takes it away, and who
 * still wants it then sets it again. Programs of one event run one after the other, so no event is missed.
 */
static __always_inline void watch(struct bpf_sock_ops *ops, struct adit_own *own)
{
	u32 flags = ops->bpf_sock_ops_cb_flags;

	if (flags & BPF_SOCK_OPS_RTT_CB_FLAG)
		return;
	own->watching = 1;
	bpf_sock_ops_cb_flags_set(ops, (int)(flags | BPF_SOCK_OPS_RTT_CB_FLAG));
}
static __always_inline void unwatch(struct bpf_sock_ops *ops, struct adit_own *own)
{
	own->nodelay = ADIT_NODELAY_DONE;
	if (own->watching)
		bpf_sock_ops_cb_flags_set(ops, (int)(ops->bpf_sock_ops_cb_flags & ~(u32)BPF_SOCK_OPS_RTT_CB_FLAG));
	own->watching = 0;
}

static __always_inline int pair_ends(struct bpf_sock_ops *ops, u32 side)
{
	struct bpf_sock *sk = ops->sk;
	struct adit_own *own;
	struct tcp_sock *tp;
	u32 mine, theirs;

	if (!sk)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 1;
	own = bpf_sk_storage_get(&owners, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!own)
		return 1;
	mine = tp->write_seq;
	theirs = tp->rcv_nxt;
	own->key.aseq = side ? theirs : mine;
	own->key.pseq = side ? mine : theirs;
	own->key.aport = (u16)(side ? bpf_ntohl(ops->remote_port) : ops->local_port);
	own->key.pport = (u16)(side ? ops->local_port : bpf_ntohl(ops->remote_port));
	own->side = (u8)side;
	own->nodelay = ADIT_NODELAY_IDLE;
	own->samples = own->watching = 0;
	if (!side) {
		struct adit_pair new = {};

		end_fill(&new.end[0], tp, own);
		new.end[0].cookie = bpf_get_socket_cookie(ops);
		bpf_map_update_elem(&pairs, &own->key, &new, BPF_ANY);
		if (!own->agent)
			watch(ops, own); /* whether its other end is an agent is not known yet */
	} else {
		struct adit_pair *p = bpf_map_lookup_elem(&pairs, &own->key);

		if (!p)
			return 1; /* the other end is on another node, or not below our cgroup */
		end_fill(&p->end[1], tp, own);
		p->end[1].cookie = bpf_get_socket_cookie(ops);
		if (!own->agent && p->end[0].agent) {
			own->nodelay = ADIT_NODELAY_PEER;
			watch(ops, own);
		}
	}
	return 1;
}

static __always_inline int round_trip(struct bpf_sock_ops *ops)
{
	struct bpf_sock *sk = ops->sk;
	struct adit_own *own;
	struct tcp_sock *tp;

	if (!sk)
		return 1;
	own = bpf_sk_storage_get(&owners, sk, 0, 0);
	if (!own || own->agent || own->nodelay == ADIT_NODELAY_DONE)
		return 1;
	tp = bpf_skc_to_tcp_sock(sk);
	if (!tp)
		return 1;
	if (own->nodelay == ADIT_NODELAY_IDLE) { /* the first: who is the other end? */
		struct adit_pair *p = bpf_map_lookup_elem(&pairs, &own->key);

		own->nodelay = ADIT_NODELAY_PEER;
		if (!p || !p->end[1].agent) {
			unwatch(ops, own);
			return 1;
		}
	}
	if (own->nodelay == ADIT_NODELAY_WANTED) {
		int one = 1;

		bpf_setsockopt(ops, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
		unwatch(ops, own);
	} else if (BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_OFF || ++own->samples > SAMPLES) {
		unwatch(ops, own);
	} else {
		watch(ops, own);
	}
	return 1;
}

SEC("sockops")
int established(struct bpf_sock_ops *ops)
{
	switch (ops->op) {
	case BPF_SOCK_OPS_ACTIVE_ESTABLISHED_CB:
		return pair_ends(ops, 0);
	case BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB:
		return pair_ends(ops, 1);
	case BPF_SOCK_OPS_RTT_CB:
		return round_trip(ops);
	}
	return 1; /* 0 would throw away what other sockops programs of the node reply */
}

/* ---- joining ---- */

extern void *bpf_rdonly_cast(const void *obj, u32 btf_id) __ksym __weak;

/* a member of a structure that may be gone: 0 then */
#define PEEK(dst, type, base, field)                                                                                            \
	do {                                                                                                                    \
		if (have_cast) {                                                                                                \
			type *p_ = bpf_rdonly_cast((void *)(base), bpf_core_type_id_kernel(type));                              \
			(dst) = p_->field;                                                                                      \
		} else {                                                                                                        \
			bpf_probe_read_kernel((void *)&(dst), sizeof(dst),                                                      \
					      (void *)__builtin_preserve_access_index(&((type *)(base))->field));               \
		}                                                                                                               \
	} while (0)
#define READ(dst, src) bpf_probe_read_kernel(&(dst), sizeof(dst), __builtin_preserve_access_index(&(src)))

/* nothing redirected is waiting in this socket's queue? A socket that is in no map has no such queue: 0 */
static __always_inline struct sk_psock *psock_of(const struct sock *sk)
{
	void *data = NULL;

	PEEK(data, struct sock, sk, sk_user_data);
	return (u64)data & PSOCK_BIT ? (struct sk_psock *)((u64)data & USER_DATA_MASK) : NULL;
}
static __always_inline bool queue_empty(const struct sk_psock *psock)
{
	void *next = NULL;

	PEEK(next, struct sk_psock, psock, ingress_msg.next);
	return next == __builtin_preserve_access_index(&psock->ingress_msg);
}

static __always_inline struct bpf_sock *find(struct __sk_buff *skb, struct adit_req_end *q)
{
	u64 netns = q->netns < 0 ? (u64)BPF_F_CURRENT_NETNS : (u64)q->netns;

	return q->v6 ? bpf_skc_lookup_tcp(skb, &q->tuple, sizeof(q->tuple.ipv6), netns, 0) :
		       bpf_skc_lookup_tcp(skb, &q->tuple, sizeof(q->tuple.ipv4), netns, 0);
}

/* may this end be bound? */
static __always_inline u32 check(struct bpf_sock *sk, const struct adit_req_end *q)
{
	struct tcp_sock *tp = bpf_skc_to_tcp_sock(sk);
	struct adit_bind *b;

	if (!tp || (u64)((struct sock *)tp)->__sk_common.skc_cookie.counter != q->bind.cookie)
		return ADIT_GONE;
	b = bpf_sk_storage_get(&binds, tp, 0, 0);
	if (b)
		return b->peer_cookie == q->bind.peer_cookie ? ADIT_BUSY | b->slot << 8 : ADIT_BOUND;
	if (((struct sock *)tp)->__sk_common.skc_state != BPF_TCP_ESTABLISHED || ((struct sock *)tp)->sk_shutdown)
		return ADIT_NOT_OPEN;
	if (((struct inet_connection_sock *)tp)->icsk_ulp_ops)
		return ADIT_HAS_ULP;
	if (!(BPF_CORE_READ_BITFIELD(tp, nonagle) & TCP_NAGLE_OFF)) {
		/* in a sockmap a message goes to TCP in pieces: with Nagle's algorithm 60 KB can stall for a delayed ACK */
		struct adit_own *own = bpf_sk_storage_get(&owners, tp, 0, 0);

		if (own)
			own->nodelay = ADIT_NODELAY_WANTED;
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

	if (!tp || (u64)((struct sock *)tp)->__sk_common.skc_cookie.counter != cookie)
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

SEC("tc")
int bind(struct __sk_buff *skb)
{
	void *data = (void *)(long)skb->data, *end = (void *)(long)skb->data_end;
	struct adit_req *q = data + ADIT_REQ_AT;
	struct bpf_sock *a, *b;
	int r = ADIT_GONE;

	if ((void *)(q + 1) > end)
		return ADIT_BAD_REQUEST;
	if (q->op == ADIT_OP_WHOAMI)
		return BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), tgid);
	a = find(skb, &q->end[0]);
	if (!a)
		return ADIT_GONE;
	if (q->op == ADIT_OP_TAKE_OUT) {
		r = (int)take_out(q, a);
		goto release_a;
	}
	b = find(skb, &q->end[1]);
	if (!b)
		goto release_a;
	r = (int)bind_both(q, a, b);
	bpf_sk_release(b);
release_a:
	bpf_sk_release(a);
	return r;
}

/* ---- the gate ---- */

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
