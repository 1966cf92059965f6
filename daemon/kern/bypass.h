/*
 * The bypass: sk_msg over a sockhash lets send() of one socket put bytes straight into the receive queue of another on this node.
 * Two shapes, one gate (bpf/bypass.bpf.c):
 *   join	application C -> our A, our U -> application S: C's bytes go to S and S's to C; the listeners between, ours and those
 *		of other agents on the node, leave the data path but keep both connections
 *   leg	application <-> our socket of a connection whose other leg is a stream
 * What the gate does not let through goes by TCP, in order, through the agent as before: nothing here can get stuck.
 *
 * Set-up is late and costs short connections nothing: sockops only notes who is connected with whom; a socket enters a sockmap
 * when it is joined. Maps are pinned and shared by all agents of the node. Binding happens once in a socket's life.
 *
 * bypass_create() and bypass_destroy() belong to the main thread; all else may be called by any worker: state lies in kernel maps and
 * in the slots of this process, which nobody else touches.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"
#include <stdbool.h>
#include <stdint.h>

struct bypass;

enum bypass_state {
	BYPASS_NONE,	 /* not joined (yet) */
	BYPASS_OPEN,	 /* the gate decides per message */
	BYPASS_DEMOTING, /* closed for good; the sockets leave the map when their queues are empty */
	BYPASS_CLOSED,	 /* closed for good */
};

enum bypass_why {
	BYPASS_WHY_NONE,
	BYPASS_WHY_OFF,	     /* not configured, not available (aditctl kernel says why), or switched off */
	BYPASS_WHY_YOUNG,    /* too few round trips yet */
	BYPASS_WHY_REMOTE,   /* an end is not a socket of this node, or was connected before the bypass was loaded */
	BYPASS_WHY_UNLISTED, /* an end is not on the allow-list */
	BYPASS_WHY_WAIT,     /* another agent of the chain has not linked its sockets yet */
	BYPASS_WHY_OTHER,    /* another agent of the chain has joined it */
	BYPASS_WHY_BOUND,    /* a socket was bound before: once in a life */
	BYPASS_WHY_STATE,    /* no longer established both ways */
	BYPASS_WHY_ULP,	     /* an end uses kTLS, MPTCP or another ULP */
	BYPASS_WHY_FULL,     /* maps or slots are full */
	BYPASS_WHY_NETNS,    /* the namespace of an end is gone or not to be entered */
	BYPASS_WHY_BULK,     /* demoted: bulk goes better by splice */
	BYPASS_WHY_EVIDENCE, /* banned: the receiver uses MSG_WAITALL, MSG_OOB or splice */
	BYPASS_WHY_NODELAY,  /* an end has not set TCP_NODELAY; the kernel sets it at its next round trip */
	BYPASS_WHY_TAKEN,    /* the kernel takes a socket into no map of ours: another program has it */
	BYPASS_WHY_ERROR,
	BYPASS_WHYS
};
const char *bypass_why_str(enum bypass_why w); /* a sentence for people */

/* refusals of the gate, per message; the order is the ABI's (include/adit/bpf_abi.h) */
#define BYPASS_REFUSALS 12u
const char *bypass_refusal_str(uint32_t i);

/** struct bypass_join - what a connection keeps; zeroed memory is BYPASS_NONE */
struct bypass_join {
	uint8_t state, why, tries; /* enum bypass_state, enum bypass_why, the caller's */
	bool watcher;		   /* another agent of the chain has joined it: we see the counters and can close the gate */
	uint32_t slot;		   /* index of the pair */
	uint64_t cookie[2];	   /* of the two ends, source first */
	struct bypass_ends *ends;  /* freed by bypass_leave(), or when demotion is done */
};

/** struct bypass_counts - of one joined connection; [0]: from the source side, [1]: from the destination side */
struct bypass_counts {
	uint64_t bytes[2], messages[2];		/* redirected */
	uint64_t pass_bytes[2], pass_messages[2]; /* went by TCP */
	uint64_t refused[2][BYPASS_REFUSALS];
	uint64_t last_ms; /* CLOCK_MONOTONIC, of the last message either way; 0: none */
};

/** struct bypass_info - for aditctl kernel */
struct bypass_info {
	bool switched_on, evidence, rdonly_cast, shared /* maps were pinned by an agent before us */;
	uint32_t joined, slots_used, slots;
	uint64_t joins, legs, refused_joins, demoted, bytes, messages;
	uint64_t refused[BYPASS_REFUSALS];
	bool attached;	     /* false: kernel.cgroup was removed; nothing new can be joined until the agent is restarted */
	char self_test[128]; /* "passed in 3 ms: both ways, order, memory charge, wake-up, close, FIONREAD", or what does not work */
	char unshared[160];  /* why nothing is pinned though it should be: other agents of the node are not found. "": pinned, or asked so */
};

/**
 * bypass_create() - load (or share what is pinned), attach, self-test with real sockets
 * Return: 0, or -errno with a sentence that says what is missing (kernel, capability, cgroup2, pinned objects of another version).
 */
int bypass_create(struct bypass **ret, const struct cfg_kernel *cfg, struct err *reterr);
void bypass_destroy(struct bypass *b); /* NULL is fine; sockets stay connected, by TCP */
/** bypass_switch() - the kill switch of this node: off turns all joined connections into plain TCP at once */
void bypass_switch(struct bypass *b, bool on);
bool bypass_on(const struct bypass *b); /* as switched, by any agent of the node */
void bypass_info(struct bypass *b, struct bypass_info *ret);

/**
 * bypass_join() - end to end. Call when bytes came back from @u; what queues of ours hold does not matter, the gate waits for it.
 * @a: accepted from the source, @u: connected to the destination; neither enters a map, relaying and splice(2) go on as before.
 * @taken:	bytes that we consumed from @a and did not pass on (a PROXY header)
 * @injected:	bytes that we wrote to @u before the source's
 * In a chain of agents each one asks; the first that can joins, the others get 0 and watch (j->watcher).
 * Allow-list: `ports` is matched with the ports that the source and the last agent connected to; `executables` with the process that
 * connected, or that made the listener; `uids` and `cgroups` with the sockets'.
 * Return: 0 joined; -EAGAIN: j->why, ask again after some round trips; else never again for this connection, j->why says why.
 */
int bypass_join(struct bypass *b, int a, int u, uint32_t taken, uint32_t injected, struct bypass_join *j);
/**
 * bypass_join_leg() - @fd: our socket to a local application, perhaps through other agents of the node. Return: as bypass_join().
 * From the first call on never splice(2) out of @fd, whatever was returned: another agent may put it into a map. TCP_NODELAY is set.
 */
int bypass_join_leg(struct bypass *b, int fd, struct bypass_join *j);
/**
 * bypass_demote() - a step towards plain TCP for good; call every 20 ms or later until it returns 0, which waits for the applications
 * to read what was redirected. The last counts are there until then. Return: 0 done, -EAGAIN.
 */
int bypass_demote(struct bypass *b, struct bypass_join *j, uint64_t now_ms);
/**
 * bypass_leave() - the gate is closed and the slots given back; before the sockets are closed. Who wants to add bytes of its own to a
 * joined stream leaves, and waits 20 ms: a send() within the gate is not stopped.
 */
void bypass_leave(struct bypass *b, struct bypass_join *j);
/**
 * bypass_hold() - may bytes that came to us from @side (0 source, 1 destination) be written to the other side now?
 * To be asked before each write() or splice() on a connection that is joined or being demoted, so also with bytes in hand that were read
 * before. Costs a read of mapped memory, unless bytes went by TCP while the application had redirected ones unread: those must be read
 * first. (With both waiting, recv() gives only the redirected ones, and readers that wait for edges and take a short read for the end of
 * it - tokio, nginx - would wait for ever.)
 * Return: false: write. true: keep them and ask again in about a millisecond; nothing will wake us.
 */
bool bypass_hold(struct bypass *b, struct bypass_join *j, int side);
/**
 * bypass_hold_legs() - said once at start: we ask bypass_hold() before writing to a joined leg, too (there it bounds memory). Without it
 * such readers must not be at the other end of a leg.
 */
void bypass_hold_legs(struct bypass *b);
void bypass_counts(const struct bypass *b, const struct bypass_join *j, struct bypass_counts *ret);
/** bypass_last_ms() - as bypass_counts.last_ms, alone: a read of two words of mapped memory */
uint64_t bypass_last_ms(const struct bypass *b, const struct bypass_join *j);
