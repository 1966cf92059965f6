/*
 * The maps of bypass.bpf.c, and how members of structures that may be gone are read.
 */
#pragma once
#include "vmlinux.h"
#include <adit/bpf_abi.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_endian.h>
#include <bpf/bpf_helpers.h>

#define E2BIG		    7
#define ENOMEM		    12
#define AF_INET		    2
#define AF_INET6	    10
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
const volatile __u32 pair_mask = 65535;

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

/* listeners: whose they are */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct adit_note);
} notes SEC(".maps");

/* agents' listeners, and what they accept: storage costs a connection a microsecond, so applications' sockets have none */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC | BPF_F_CLONE);
	__type(key, int);
	__type(value, struct adit_note);
} inherited SEC(".maps");

/* network namespaces, by inode number: a process that listens there */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 4096);
	__type(key, u32);
	__type(value, u32);
} spaces SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct adit_bind);
} binds SEC(".maps");

/* not a hash: an update of one costs a short connection more than all else here */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 65536);
	__type(key, u32);
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

static __always_inline u32 current_tgid(void) /* bpf_get_current_pid_tgid() is not for sockops */
{
	return (u32)BPF_CORE_READ((struct task_struct *)bpf_get_current_task(), tgid);
}

/* the place of a connection, whoever has it now */
static __always_inline struct adit_pair *pair_place(const struct adit_pair_key *key)
{
	u32 at = adit_pair_place(key) & pair_mask;

	return bpf_map_lookup_elem(&pairs, &at);
}
/* the connection with this key, or NULL */
static __always_inline struct adit_pair *pair_get(const struct adit_pair_key *key)
{
	struct adit_pair *p = pair_place(key);

	return p && !*(volatile u32 *)&p->busy && p->key.aseq == key->aseq && p->key.aport == key->aport && p->key.pport == key->pport ? p : NULL;
}
static __always_inline bool pair_lock(struct adit_pair *p)
{
	return __sync_val_compare_and_swap(&p->busy, 0, 1) == 0;
}
static __always_inline void pair_unlock(struct adit_pair *p)
{
	__sync_lock_test_and_set(&p->busy, 0);
}

/* ---- peers: sockets that nobody holds for us ---- */

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
