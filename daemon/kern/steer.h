/*
 * Inbound steering: an sk_lookup program per network namespace takes connections for any local address and port range to a listener,
 * without iptables and without binding each address. getsockname() on the accepted socket says which address was meant.
 * Source: Documentation/bpf/prog_sk_lookup.rst.
 *
 * Left alone: what another listener of ours is bound to, the metrics address, and what this process itself dials. Nothing is pinned:
 * without the agent the kernel looks for listeners as ever. An IPv4 listener gets IPv4 connections, an IPv6 one IPv6.
 * Main thread.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"

struct steer;

struct steer_info {
	uint32_t rules, namespaces;
	uint64_t steered;
	char note[160]; /* why connections over loopback are not steered; "" when they are */
};

/**
 * steer_create() - for all listeners with `steer`; @fd says which socket listener @i has in worker @w (the whole reuseport group gets
 * connections). Return: 0, *ret NULL when no listener steers; or -errno with the sentence.
 */
int steer_create(struct steer **ret, const struct config *cfg, int (*fd)(void *arg, uint32_t i, uint32_t w), void *arg, struct err *reterr);
/** steer_destroy() - before the listeners are closed, or connections in between are refused. NULL is fine. */
void steer_destroy(struct steer *s);
void steer_info(struct steer *s, struct steer_info *ret);
