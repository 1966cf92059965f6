/*
 * What is on this node: addresses and routes, watched by netlink (libnl), and the policy routing that IP_TRANSPARENT needs.
 * The watch belongs to the main thread; local_has() may be called by any thread.
 */
#pragma once
#include "base/err.h"
#include "model/addr.h"

struct local;

/** local_create() - Return: 0 or -errno with the sentence. local_fd() becomes readable when something changed: local_run(). */
int local_create(struct local **ret, struct err *reterr);
void local_destroy(struct local *l); /* also takes away the rules that local_transparent() made */
int local_fd(const struct local *l);
void local_run(struct local *l);
/** local_has() - is it an address of this node? Ports are not looked at. Lock-free. */
bool local_has(const struct local *l, const struct addr *a);
/**
 * local_transparent() - rule and route that bring answers to foreign source addresses back to our sockets (fwmark, table; ip-rule(8)),
 * in the namespace @netns_fd (-1: ours); removed by local_destroy(). Return: 0 or -errno with the sentence.
 */
int local_transparent(struct local *l, int netns_fd, struct err *reterr);
struct local_info {
	uint32_t addresses, routes, rules;
	uint64_t changes;
};
void local_info(const struct local *l, struct local_info *ret);
