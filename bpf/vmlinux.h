/*
 * The members of kernel structures that programs here read, and no others: CO-RE finds each by name in the BTF of the kernel that
 * loads the object, so order, gaps and sizes here mean nothing. Add what you need; keep the kernel's names. UAPI comes from linux/bpf.h.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true  1
#define false 0
#define NULL  ((void *)0)

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

typedef struct {
	int counter;
} atomic_t;
typedef struct {
	s64 counter;
} atomic64_t;
typedef struct {
	u32 val;
} kuid_t;

struct list_head {
	struct list_head *next, *prev;
};

/* ---- tasks, files, namespaces, cgroups ---- */
struct nsproxy;
struct task_struct {
	int pid, tgid;
	struct task_struct *group_leader;
	struct nsproxy *nsproxy;
	u64 start_time;
};
struct kernfs_node {
	u64 id;
	const char *name;
};
struct cgroup {
	struct kernfs_node *kn;
	int level;
	struct cgroup *ancestors[]; /* since 6.1; itself the last */
};
struct ns_common {
	unsigned int inum;
};
struct net {
	struct ns_common ns;
	u64 net_cookie;
};
struct nsproxy {
	struct net *net_ns;
};
struct file;

/* ---- sockets ---- */
struct in6_addr {
	union {
		u8 u6_addr8[16];
		u32 u6_addr32[4];
	} in6_u;
};
struct sock_common {
	u32 skc_daddr, skc_rcv_saddr; /* network order */
	u16 skc_dport;		      /* network order */
	u16 skc_num;		      /* host order */
	unsigned short skc_family;
	volatile unsigned char skc_state;
	unsigned char skc_ipv6only : 1;
	int skc_bound_dev_if;
	struct {
		struct net *net;
	} skc_net;
	struct in6_addr skc_v6_daddr, skc_v6_rcv_saddr;
	atomic64_t skc_cookie;
	unsigned long skc_flags;
};
struct sock_cgroup_data {
	struct cgroup *cgroup;
};
struct socket_wq;
struct sock {
	struct sock_common __sk_common;
	struct {
		atomic_t rmem_alloc;
	} sk_backlog;
	struct {
		int owned;
	} sk_lock;
	struct socket_wq *sk_wq;
	void *sk_user_data;
	u8 sk_shutdown;
	u16 sk_type, sk_protocol;
	int sk_rcvlowat, sk_rcvbuf;
	kuid_t sk_uid;
	struct sock_cgroup_data sk_cgrp_data;
};
struct socket {
	struct sock *sk;
};
struct inet_sock {
	struct sock sk;
};
struct tcp_ulp_ops;
struct inet_connection_sock {
	struct inet_sock icsk_inet;
	const struct tcp_ulp_ops *icsk_ulp_ops;
};
struct tcp_sock {
	struct inet_connection_sock inet_conn;
	u32 rcv_nxt, copied_seq, write_seq, snd_una;
	u64 bytes_acked, bytes_received; /* the first counts SYN of the side that connected */
	u8 nonagle : 4;
};
struct inet_timewait_sock {
	u32 tw_mark;
};
struct tcp_timewait_sock {
	struct inet_timewait_sock tw_sk;
};
enum sock_flags {
	SOCK_ZEROCOPY = 26,
};

/* ---- who sleeps on a socket ---- */
struct wait_queue_entry;
typedef int (*wait_queue_func_t)(struct wait_queue_entry *wq_entry, unsigned int mode, int flags, void *key);
struct wait_queue_entry {
	wait_queue_func_t func;
	struct list_head entry;
};
typedef struct wait_queue_head {
	struct list_head head;
} wait_queue_head_t;
struct socket_wq {
	wait_queue_head_t wait;
};

/* ---- sockmaps ---- */
struct sk_psock {
	struct list_head ingress_msg;
};

/* ---- arguments of iterators and of functions that fentry programs watch ---- */
struct msghdr;
struct bpf_iter_meta;
struct bpf_iter__task_file {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
	u32 fd;
	struct file *file;
};

#pragma clang attribute pop
