/*
 * What bpf/bypass.bpf.c and daemon/kern/bypass*.c share: the values of pinned maps, so also what agents of different builds on one node
 * share. Any change of a structure here is a new ADIT_BYPASS_ABI. Numbers are in host order unless said otherwise.
 */
#pragma once
#include <linux/bpf.h>
#include <linux/types.h>

#define ADIT_BYPASS_MAGIC 0x41444954u /* "ADIT" */
#define ADIT_BYPASS_ABI	  1u

/** struct adit_node - map "node", one entry, mapped into every agent of the node */
struct adit_node {
	__u32 magic, abi;  /* these two stay where they are for ever */
	__u32 size;	   /* ADIT_BYPASS_SIZE */
	__u32 off;	   /* the kill switch: agents write, the gate reads */
	__u32 next_agent;  /* ids given to agents so far; atomic add */
	__u32 cast;	   /* the gate reads by bpf_rdonly_cast() */
	__u32 pad[2];
};

/** struct adit_agent - map "agents", by process id as the initial pid namespace knows it */
struct adit_agent {
	__u32 id;    /* never 0, never given twice while the maps live */
	__u32 pad;
	__u64 start; /* when the process started (proc(5), stat, field 22): tells apart a later process of the same number */
};

/** struct adit_pair_key - a connection of this node, by what its two ends agree on in whatever namespaces they are */
struct adit_pair_key {
	__u32 aseq; /* sequence number of the first byte of the side that connected */
	__u16 aport, pport;
};

/** struct adit_end - one end of a connection; written by sockops, once */
struct adit_end {
	__u64 sk;     /* the kernel's struct sock; may be stale any time: read fault-tolerantly, believed only with the cookie */
	__u64 cookie; /* SO_COOKIE; 0: this end has not been seen */
	__u64 cgroup; /* id in the cgroup2 hierarchy */
	__u32 tgid;   /* who connected, an agent that accepted; 0: not known, ask with ADIT_OP_LISTENER */
	__u32 uid;
	__u32 netns;  /* inode number of the network namespace */
	__u32 agent;  /* id of the agent whose it is; 0: an application's */
	__u8 local[16], remote[16]; /* network order, IPv4 in the first four */
	__u8 family;		    /* 2 or 10; IPv4-mapped is 2 */
	__u8 nodelay;		    /* enum adit_nodelay */
	__u8 watching;		    /* it was us who set BPF_SOCK_OPS_RTT_CB_FLAG */
	__u8 pad;
	__u32 samples;		    /* round trips while watched */
};
enum adit_nodelay { ADIT_NODELAY_IDLE, ADIT_NODELAY_PEER /* it is an agent */, ADIT_NODELAY_WANTED, ADIT_NODELAY_DONE };

/** struct adit_pair - map "pairs", mapped into every agent; a connection has one place, by its key, and whoever comes later takes it */
struct adit_pair {
	__u32 busy;		/* somebody writes; who finds it so goes without */
	__u32 pseq;		/* sequence number of the first byte of the side that accepted */
	struct adit_pair_key key;
	struct adit_end end[2]; /* 0: connected, 1: accepted */
};
static inline __attribute__((always_inline)) __u32 adit_pair_place(const struct adit_pair_key *k)
{
	return (k->aseq ^ ((__u32)k->aport << 16 | k->pport) * 0x9e3779b1u) * 0x85ebca6bu >> 8; /* modulo the size, a power of two */
}

/** struct adit_note - socket storage "notes" of listeners, and "agents_own" of what agents accept (inherited from their listeners) */
struct adit_note {
	__u32 tgid, agent;
};

/** struct adit_link - map "links", by cookie: what an agent does with a socket of its own */
struct adit_link {
	struct adit_pair_key other; /* the connection on the far side of the relay */
	__u8 other_side;	    /* which end of it is the agent's */
	__u8 terminal;		    /* bytes are not relayed to another socket: this is an end of the chain */
	__u8 pad[6];
	__u64 other_cookie;
	__u32 delta; /* of the direction this -> other: bytes added to the stream, less those taken out of it */
	__u32 back;  /* the same of other -> this */
};

#define ADIT_BIND_STRICT   0x1u /* end to end through agents: a FIN on either side closes the gate */
#define ADIT_BIND_EVIDENCE 0x2u /* redirect only to readers that were seen to read plainly */
#define ADIT_BIND_HOLD	   0x4u /* an agent's, which minds `behind`: rather one message too many redirected than one behind by TCP */

/** struct adit_bind - socket storage "binds": where send() of this socket goes. Set once in a socket's life. */
struct adit_bind {
	__u64 cookie;	   /* of this socket */
	__u64 peer;	   /* the kernel's struct sock of the other end */
	__u64 peer_cookie;
	__u32 wbase, rbase; /* nothing is under way by TCP when peer.copied_seq - rbase == write_seq - wbase */
	__u32 slot;	   /* counters of this direction; slot ^ 1 is the other's */
	__u32 flags;
	__u32 max_bytes, max_messages; /* redirected and unread */
	__u32 messages;	   /* the rest is the gate's: redirected since the peer's queue was last seen empty */
	__u32 passed;	   /* the last message went by TCP */
	__u32 streak;	   /* messages since then that could have been redirected */
	__u32 pad;
};

#define ADIT_REFUSALS 12u
enum adit_refusal {
	ADIT_NO_SWITCH,	  /* the kill switch */
	ADIT_NO_CLOSED,	  /* this connection's gate is closed */
	ADIT_NO_ORDER,	  /* bytes are still under way by TCP */
	ADIT_NO_READER,	  /* somebody sleeps within recv() of the receiver */
	ADIT_NO_STATE,	  /* an end is closing */
	ADIT_NO_OPTION,	  /* ULP or SO_ZEROCOPY */
	ADIT_NO_LOWAT,	  /* SO_RCVLOWAT */
	ADIT_NO_BYTES,	  /* the receiver has enough bytes unread */
	ADIT_NO_MESSAGES, /* the receiver has enough messages unread */
	ADIT_NO_STREAK,	  /* changing over only after a few messages that could have gone */
	ADIT_NO_EVIDENCE, /* how the receiver reads has not been seen, or it must not be redirected to */
	ADIT_NO_PEER,	  /* the receiver is gone, or the kernel refused */
};

/** struct adit_slot - map "slots", mapped into every agent; two cache lines, one writer per member at a time */
struct adit_slot {
	__u64 cookie; /* of the sender; the gate obeys only then. Agent */
	__u32 open;   /* agent */
	__u32 owner;  /* agent's id, 0: free; compare and swap, even slots only */
	__u64 bytes, messages, pass_bytes, pass_messages; /* gate */
	__u64 last_ns;			/* gate: CLOCK_MONOTONIC of the last message, coarse */
	__u32 refused[ADIT_REFUSALS];	/* gate */
	__u32 plain;	/* fentry: recv() calls of the sender of this slot that could take redirected bytes */
	__u32 banned;	/* fentry: it was seen to read in a way that cannot */
	__u32 behind;	/* gate: nothing more must be written before redirected bytes are read; agent: they are */
	__u32 freed_ms; /* agent: not given away at once, other agents may still read the counters */
	__u32 pad[2];
};

/* ---- the request to the program that binds: a packet with this behind 16 bytes of header ---- */
#define ADIT_REQ_AT 16u
enum adit_op {
	ADIT_OP_WHOAMI,	  /* the answer is the caller's process id */
	ADIT_OP_WHERE,	  /* end[0].tuple and cookie: key, side, pair */
	ADIT_OP_LISTENER, /* end[0].tuple: who listens there? side is the process */
	ADIT_OP_BIND,
	ADIT_OP_TAKE_OUT, /* end[0] */
	ADIT_OP_EMPTY,	  /* end[0]: has it read all that was redirected to it? */
};
struct adit_req_end {
	struct adit_bind bind;
	struct bpf_sock_tuple tuple; /* source is the remote, destination the local address, network order */
	__s32 netns;		     /* id as the caller's namespace knows it, -1: the caller's own */
	struct adit_pair_key key;
	__u32 wfirst, rfirst;	     /* first sequence numbers of this end; must be what the socket's counters say */
	__u8 v6, side;
	__u8 pad[6];
};
struct adit_req {
	__u32 op;
	__u32 side; /* answer */
	struct adit_req_end end[2];
	struct adit_pair pair; /* answer */
};
/* its answer: code in the low byte; BUSY: the slot << 8 */
enum adit_answer {
	ADIT_DONE = 1,
	ADIT_BAD_REQUEST,
	ADIT_GONE,	 /* no such socket, or another one has that address now */
	ADIT_UNKNOWN,	 /* it is there, and not noted */
	ADIT_BUSY,	 /* bound before, in the slot given, to the very same peer */
	ADIT_BOUND,	 /* bound before, otherwise */
	ADIT_NOT_OPEN,	 /* not exactly established */
	ADIT_HAS_ULP,
	ADIT_WAIT_NODELAY,
	ADIT_NO_MEMORY,
	ADIT_MAP_FULL,
	ADIT_REFUSED,	 /* the kernel takes this socket into no map: other programs have it */
	ADIT_STILL_OPEN, /* TAKE_OUT: close the gate first */
	ADIT_NOT_EMPTY,	 /* TAKE_OUT: redirected bytes are unread */
	ADIT_NOT_IN,	 /* TAKE_OUT: not there */
};

#define ADIT_BYPASS_SIZE                                                                                                        \
	(sizeof(struct adit_node) + sizeof(struct adit_agent) + sizeof(struct adit_pair) + sizeof(struct adit_note) +            \
	 sizeof(struct adit_link) + sizeof(struct adit_bind) + sizeof(struct adit_slot) + sizeof(struct adit_req))

_Static_assert(sizeof(struct adit_node) == 32, "ABI");
_Static_assert(sizeof(struct adit_agent) == 16, "ABI");
_Static_assert(sizeof(struct adit_pair_key) == 8, "ABI, and no padding in a key");
_Static_assert(sizeof(struct adit_end) == 80, "ABI");
_Static_assert(sizeof(struct adit_pair) == 176, "ABI");
_Static_assert(sizeof(struct adit_note) == 8, "ABI");
_Static_assert(sizeof(struct adit_link) == 32, "ABI");
_Static_assert(sizeof(struct adit_bind) == 64, "ABI");
_Static_assert(sizeof(struct adit_slot) == 128, "ABI, and cache lines");
_Static_assert(sizeof(struct adit_req_end) == 128, "ABI, and 8-aligned");
_Static_assert(sizeof(struct adit_req) == 440, "ABI");
