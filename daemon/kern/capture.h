/*
 * Transparent capture: applications connect to the service's own address, the kernel takes them to a listener of ours.
 *
 * cgroup/connect4 and connect6 rewrite the destination of connect() calls that a listener's `capture` selects, getpeername shows the
 * application what it asked for. The original destination is noted under the socket's cookie at connect(), reaches the agent by the
 * connecting address before the SYN leaves, is claimed once at accept, and is forgotten after kernel.orphan_ms. Links and maps are
 * pinned: a restart leaves no hole, and while no agent listens a capture fails open or closed as configured. Never captured: the
 * agent's own sockets (any agent's), UDP and everything that is not TCP, connections to the listener itself, what `except` names.
 *
 * Main thread, except capture_claim(): any worker.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"

struct capture;

/** struct capture_info - for aditctl kernel and metrics */
struct capture_info {
	uint32_t rules, pending /* noted and not claimed yet */;
	uint64_t captured, excluded, failed_open, failed_closed, claimed, unclaimed /* aged out */;
	bool shared; /* links were pinned before us */
};

/**
 * capture_create() - load or take over what is pinned, fill in the rules of @cfg's listeners, attach
 * Return: 0, *ret NULL when no listener captures; or -errno with the sentence.
 */
int capture_create(struct capture **ret, const struct config *cfg, struct err *reterr);
/** capture_destroy() - @keep: leave pinned objects in place (restart); else take them away. NULL is fine. */
void capture_destroy(struct capture *c, bool keep);
/**
 * capture_claim() - where did the application of this accepted connection want to go?
 * @peer: its address; @local: ours. Return: 0 and *ret, or -ENOENT: it was not captured (connected here itself).
 */
int capture_claim(struct capture *c, const struct addr *peer, const struct addr *local, uint64_t netns_cookie, struct addr *ret);
/** capture_age() - now and then: forget what nobody claimed */
void capture_age(struct capture *c);
void capture_info(struct capture *c, struct capture_info *ret);
