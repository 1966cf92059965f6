/*
 * What bpf/capture.bpf.c, bpf/steer.bpf.c and daemon/kern/{capture,steer}*.c share. The maps of capture are pinned, so agents of
 * different builds on one node share them, too: any change of a structure named adit_cap_* is a new ADIT_CAP_ABI, and with it another
 * folder of pins. Addresses are in network order, IPv4 in the first four bytes and zeros behind; ports are in host order.
 */
#pragma once
#include <linux/types.h>

#define ADIT_CAP_ABI	2
#define ADIT_CAP_SLOTS	32u	/* rules of all agents of the node */
#define ADIT_CAP_CLAIMS 65536u	/* connections that were captured and not accepted yet */
#define ADIT_CAP_NAME	128u	/* of one folder of a cgroup's path, with the final NUL */
#define ADIT_CAP_DEPTH	24u	/* folders of a cgroup's path */
#define ADIT_PORTS	8192u	/* bytes: a bit for each port */

/* ---- which addresses: an LPM trie of nets, each entry final for its net: longer nets repeat what shorter ones say ---- */

#define ADIT_NET_RANGES 8u
#define ADIT_NET_BITS	64u /* of the key in front of the address */
struct adit_net_key {
	__u32 prefixlen; /* ADIT_NET_BITS + bits of the net */
	__u32 rule;
	__u32 family;	 /* AF_INET, AF_INET6 */
	__u8 addr[16];
};
/** struct adit_net - ports of this net that are taken, ascending, apart; n 0: none of them */
struct adit_net {
	__u32 n;
	struct {
		__u16 first, last;
	} range[ADIT_NET_RANGES];
};

/* ---- capture ---- */

#define ADIT_CAP_CLOSED	 0x1u /* refuse while the agent is away */
#define ADIT_CAP_UIDS	 0x2u /* only users in the map "uids" */
#define ADIT_CAP_CGROUPS 0x4u /* only cgroups in the map "cgroups" */

/** struct adit_cap_slot - map "slots", mapped into every agent. Agents write the first three under the folder's lock, BPF counts. */
struct adit_cap_slot {
	__u32 rule;	/* id in the map "rules", never given twice; 0: free. Changed in one store */
	__u32 pad;
	__u64 owner;	/* hash that says whose it is after a restart */
	__u64 captured; /* connects taken to the listener */
	__u64 excluded; /* connects of selected processes to other ports or nets */
	__u64 open;	/* let through because the agent was away */
	__u64 closed;	/* refused because the agent was away */
	__u64 unable;	/* selected, but not such a socket: IPv4 to an IPv6 listener, bound to a device or address; let through or refused */
	__u64 pad2;
};

/** struct adit_cap_rule - map "rules", by id; never changed once it is there */
struct adit_cap_rule {
	__u64 netns;	/* cookie of the listener's network namespace: sockets of others are not looked at */
	__u64 root;	/* id of the cgroup that the paths in "cgroups" begin at */
	__u64 owner;
	__u32 flags;	/* ADIT_CAP_* */
	__u32 order;	/* of rules that match, the lowest has it */
	__u32 family;	/* of the listener's address */
	__u32 uid;	/* of the listener's socket: another user's that listens there is not the agent */
	__u8 addr[16];
	__u16 port;
	__u16 pad[3];
	char name[64];	/* of the listener, for people */
	__u8 ports[ADIT_PORTS]; /* bit set: this port is captured */
};

/** struct adit_cap_folder - map "cgroups": paths as a tree; node 0 is the root of each rule */
struct adit_cap_folder {
	__u32 rule, node;
	char name[ADIT_CAP_NAME]; /* zeros behind it */
};
struct adit_cap_node {
	__u32 node;	/* of this folder */
	__u32 here;	/* this cgroup, and all below it, are captured */
};
/** struct adit_cap_seen - map "seen": what the walk over the path of a cgroup came to; ids of cgroups are never given twice */
struct adit_cap_seen {
	__u64 cgroup;
	__u32 rule, pad;
};
struct adit_cap_uid {
	__u32 rule, uid;
};

/** struct adit_cap_agent - map "agents": processes whose own connections are left alone */
struct adit_cap_agent {
	__u64 start;	/* ns since boot: tells apart a later process with the same number */
	__u32 tgid;	/* as the initial pid namespace knows it */
	__u32 pad;
};

/** struct adit_cap_note - a socket's storage "notes": where the application wanted to go; written by connect, read by getpeername */
struct adit_cap_note {
	__u8 addr[16];
	__u16 port;
	__u8 family;	/* of addr: AF_INET also for v4-mapped */
	__u8 mapped;	/* an IPv6 connection that was taken to an IPv4 listener */
	__u32 rule;
	__u64 cgroup;	/* id, of the socket: whoever made it */
	__u32 uid;	/* the same, as the initial user namespace knows it */
	__u32 pad;
};

/** struct adit_cap_key - map "claims": a captured connection as its listener sees it; struct adit_cap_claim is what it finds out */
struct adit_cap_key {
	__u64 netns;
	__u8 src[16], dst[16];
	__u16 sport, dport;
	__u32 family;
};
struct adit_cap_claim {
	__u64 at_ns;	/* CLOCK_MONOTONIC of the connect */
	__u64 cookie;	/* of the application's socket */
	struct adit_cap_note note;
};

/** struct adit_cap_control - map "control", one entry, written under the folder's lock */
struct adit_cap_control {
	__u32 slots;	/* none in use from here on */
	__u32 next_rule;
};

_Static_assert(sizeof(struct adit_net_key) == 28, "ABI, and no padding in a key");
_Static_assert(sizeof(struct adit_net) == 36, "ABI");
_Static_assert(sizeof(struct adit_cap_slot) == 64, "ABI, and a cache line");
_Static_assert(sizeof(struct adit_cap_rule) == 128 + ADIT_PORTS, "ABI");
_Static_assert(sizeof(struct adit_cap_folder) == 136, "ABI, and no padding in a key");
_Static_assert(sizeof(struct adit_cap_seen) == 16, "ABI, and no padding in a key");
_Static_assert(sizeof(struct adit_cap_agent) == 16, "ABI, and no padding in a key");
_Static_assert(sizeof(struct adit_cap_note) == 40, "ABI");
_Static_assert(sizeof(struct adit_cap_key) == 48, "ABI, and no padding in a key");
_Static_assert(sizeof(struct adit_cap_claim) == 56, "ABI");

/* ---- steer: nothing of it is pinned ---- */

#define ADIT_STEER_RULES 32u
/** struct adit_steer_rule - map "rules", by index, in the order of the configuration; the listener's socket has the same index */
struct adit_steer_rule {
	__u32 family;
	__u32 pad;
	__u64 steered;	/* BPF counts */
	__u8 ports[ADIT_PORTS];
};
/** struct adit_steer_own - map "own": connections that the agent itself is opening, as the SYN shows them */
struct adit_steer_own {
	__u8 src[16], dst[16];
	__u16 sport, dport;
	__u32 family;
};
_Static_assert(sizeof(struct adit_steer_rule) == 16 + ADIT_PORTS, "ABI");
_Static_assert(sizeof(struct adit_steer_own) == 40, "ABI, and no padding in a key");
