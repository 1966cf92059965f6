/*
 * What is on this node: addresses and local routes of our network namespace, watched by netlink (libnl), and the policy routing that
 * IP_TRANSPARENT needs. All belongs to the main thread, except local_has(): any thread.
 */
#pragma once
#include "base/err.h"
#include "model/addr.h"

struct local;

/** local_create() - Return: 0 or -errno with the sentence. local_fd() becomes readable when something changed: local_run(). */
int local_create(struct local **ret, struct err *reterr);
void local_destroy(struct local *l);
/** local_hand_over() - another process goes on: rules and routes stay when we end. NULL is fine. */
void local_hand_over(struct local *l); /* also takes away what local_transparent() made; workers have stopped. NULL is fine. */
int local_fd(const struct local *l);
void local_run(struct local *l);
/** local_tick() - once a second: what failed is tried again, policy routing that somebody else took away is put back */
void local_tick(struct local *l);
/** local_has() - is it an address of this node (loopback is)? Ports are not looked at. Lock-free. */
bool local_has(struct local *l, const struct addr *a);

/*
 * What has LOCAL_MARK is led by a rule to a table whose only route says that every address is ours: answers to foreign source addresses.
 * A socket with a foreign source carries it, too, if the other end is in its namespace, where the answers take it over; else
 * LOCAL_MARK_OUT, by which kern/transmark.h knows it. Change the numbers with CPPFLAGS if the node uses them for something else.
 */
#ifndef LOCAL_MARK
#define LOCAL_MARK 0xad17u
#define LOCAL_MARK_OUT 0xad18u
#define LOCAL_TABLE 44311u
#define LOCAL_PREF 10717u
#endif
/**
 * local_reaches() - does a connection to @a stay within the namespace @netns_fd (-1: ours)? The kernel is asked: four system calls.
 * Any thread. Return: 1, 0, or -errno.
 */
int local_reaches(int netns_fd, const struct addr *a);
/**
 * local_transparent() - rules, routes and sysctls (transparent.c) that bring answers to foreign source addresses back to our sockets, in
 * the namespace @netns (netns.h; NULL: ours). Again for the same namespace: nothing happens. Needs CAP_NET_ADMIN.
 * Return: 0 or -errno with the sentence (numbers that are in use by others are left alone).
 */
int local_transparent(struct local *l, const char *netns, struct err *reterr);

struct local_info {
	uint32_t addresses, routes, rules /* of ours, in force */;
	uint64_t changes;
};
void local_info(const struct local *l, struct local_info *ret);
