/*
 * Transparent capture: applications connect to the service's own address, the kernel takes them to a listener of ours.
 *
 * cgroup/connect4 and connect6 rewrite the destination of connect() calls that a listener's `capture` selects, getpeername shows the
 * application what it asked for. The original destination is kept with the application's socket at connect(), can be found by the
 * connecting address before the SYN leaves, is claimed once at accept, and is forgotten after kernel.orphan_ms. Links and maps are
 * pinned: a restart leaves no hole, and while no agent listens a capture fails open or closed as configured. Never captured: an
 * agent's own sockets (any agent's that shares kernel.pin), UDP and everything that is not TCP, connections to the listener itself,
 * what `except` names, sockets of other network namespaces than the listener's.
 *
 * What an agent leaves behind: killed, everything, so that nothing changes until the next one starts. Ended in good order, the rules
 * that fail closed; those that fail open are taken away before it stops listening, and everything with the last rule. A rule belongs
 * to who had it by node id, admin socket and network namespace, and to the listener's address.
 *
 * Main thread, except capture_claim(): any worker.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"

struct capture;

/** struct capture_info - for aditctl kernel and metrics; counts are of our rules */
struct capture_info {
	uint32_t rules;	  /* 0: no listener captures, or the cgroup is gone */
	uint32_t pending; /* noted and not claimed yet, some seconds ago */
	uint64_t captured, excluded, failed_open, failed_closed, claimed, unclaimed /* aged out */;
	uint64_t unable;  /* selected, but IPv4 to an IPv6 listener, or bound to a device or address that cannot reach it */
	bool shared;	  /* was pinned before us */
	char private[160]; /* why nothing is pinned and a restart leaves a hole; "" */
};

/**
 * capture_create() - load, or take over what is pinned, put in the rules of @cfg's listeners, attach
 * The listeners must be bound and nothing of ours dialled yet. @fd says which socket listener @i has in worker @w.
 * Without a listener that captures only our own sockets are made known to other agents' capture.
 * Return: 0, or -errno with the sentence.
 */
int capture_create(struct capture **ret, const struct config *cfg, int (*fd)(void *arg, uint32_t i, uint32_t w), void *arg,
		   struct err *reterr);
/**
 * capture_renew() - the rules of another configuration: put in, changed, taken away, without a hole for those that stay
 * @cfg: from now on in place of the one before. Return: 0, or -errno with the sentence: then some rules are still as they were.
 */
int capture_renew(struct capture *c, const struct config *cfg, struct err *reterr);
/** capture_keep() - the same where neither captures */
void capture_keep(struct capture *c, const struct config *cfg);
/** capture_leave() - the listeners are about to be closed: rules that fail open end now. NULL is fine. */
void capture_leave(struct capture *c);
/**
 * capture_hand_over() - another process of the same owner captures now, with the same pins: rules are its business from here on. What is
 * pinned nowhere is taken away, so that only its programs run. NULL is fine.
 */
void capture_hand_over(struct capture *c);
/** capture_destroy() - @keep: as if killed. Else as capture_leave(), and the last rule takes everything with it. NULL is fine. */
void capture_destroy(struct capture *c, bool keep);
/** struct capture_claim - what is known of a captured connection */
struct capture_claim {
	struct addr to;	 /* where the application wanted to go */
	uint64_t cgroup; /* id of its socket's; of whoever made it, as is: */
	uint32_t uid;
};
/**
 * capture_claim() - whose is this accepted connection, and where did it want to go?
 * @l: the listener, which has `capture`; @peer: its address; @local: ours. One system call.
 * Return: 0 and *ret, or -ENOENT: it was not captured (connected here itself), or another -errno.
 */
int capture_claim(struct capture *c, const struct cfg_listener *l, const struct addr *peer, const struct addr *local,
		  struct capture_claim *ret);
/** capture_age() - every second or so: forget what nobody claimed, see that we are still known as an agent */
void capture_age(struct capture *c);
void capture_info(struct capture *c, struct capture_info *ret);
