/*
 * Answers to connections that carry a client's address as their source arrive with a destination that is not ours, and would be
 * forwarded to the client. Where they come in, on each device of the namespace: if one of our sockets waits for the packet, and the
 * socket has the mark of such connections, the packet gets the one that a rule looks for, and comes to us (daemon/net/transparent.c).
 * All else passes as it is, so connections between the same two hosts that are not ours are not touched.
 *
 * A socket in TIME-WAIT or FIN-WAIT-2 may be a small one that the common helpers show no mark of; it is read by its type.
 */
#include "vmlinux.h"
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define ETH_P_IP   0x0800
#define ETH_P_IPV6 0x86dd
#define TCP	   6
#define NEXT	   (-1) /* TC_ACT_UNSPEC: other filters are asked */
#define FRAGMENT   0x1fff

const volatile __u32 socket_mark = 0, packet_mark = 0;
__u64 marked = 0; /* packets; an estimate: CPUs do not wait for each other */

char LICENSE[] SEC("license") = "GPL";

static __always_inline int read(struct __sk_buff *skb, u32 off, void *to, u32 n)
{
	return bpf_skb_load_bytes_relative(skb, off, to, n, BPF_HDR_START_NET);
}

/* Return: size of the tuple, 0: no TCP that we could look for */
static __always_inline u32 tuple_of(struct __sk_buff *skb, struct bpf_sock_tuple *t)
{
	__attribute__((aligned(8))) u8 h[40];
	u32 len;

	if (skb->protocol == bpf_htons(ETH_P_IP)) {
		if (read(skb, 0, h, 20) || h[9] != TCP || (((u16)h[6] << 8 | h[7]) & FRAGMENT))
			return 0;
		len = (h[0] & 15u) * 4u;
		if (len < 20 || read(skb, len, &t->ipv4.sport, 4))
			return 0;
		__builtin_memcpy(&t->ipv4.saddr, h + 12, 8);
		return sizeof(t->ipv4);
	}
	if (skb->protocol == bpf_htons(ETH_P_IPV6)) {
		if (read(skb, 0, h, 40) || h[6] != TCP || read(skb, 40, &t->ipv6.sport, 4))
			return 0;
		__builtin_memcpy(&t->ipv6.saddr, h + 8, 32);
		return sizeof(t->ipv6);
	}
	return 0;
}

static __always_inline u32 mark_of(struct bpf_sock *sk)
{
	struct bpf_sock *full = bpf_sk_fullsock(sk);
	struct tcp_timewait_sock *tw;
	u32 v = 0;

	if (full) {
		v = full->mark;
		barrier_var(v); /* two pointers must not become one: the verifier allows no arithmetic on this one */
		return v;
	}
	tw = bpf_skc_to_tcp_timewait_sock(sk);
	return tw ? tw->tw_sk.tw_mark : 0;
}

SEC("tc")
int transmark_in(struct __sk_buff *skb)
{
	struct bpf_sock_tuple t = {};
	u32 n = tuple_of(skb, &t), found;
	struct bpf_sock *sk;

	if (!n)
		return NEXT;
	sk = bpf_skc_lookup_tcp(skb, &t, n, BPF_F_CURRENT_NETNS, 0);
	if (!sk)
		return NEXT;
	found = mark_of(sk);
	bpf_sk_release(sk);
	if (found == socket_mark) {
		skb->mark = packet_mark;
		marked++;
	}
	return NEXT;
}
