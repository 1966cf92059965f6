/*
 * Whose is the other end of a connection, if it is on this node: one question to sock_diag(7), answered at once. One thread per
 * struct owner.
 */
#pragma once
#include "base/err.h"
#include "model/addr.h"

struct owner {
	int fd; /* NETLINK_SOCK_DIAG of the namespace asked about; -1: not open */
	uint32_t seq;
};

struct owner_facts {
	bool has_uid;	 /* false: its process has closed it, or the kernel does not say */
	uint32_t uid;	 /* of whoever made the socket */
	uint64_t cgroup; /* id, the same; 0: not known */
};

/** owner_open() - @netns_fd -1: our namespace. Not from within a loop's turn if it can be helped: the first one loads kernel modules. */
int owner_open(struct owner *o, int netns_fd);
/**
 * owner_ask() - @peer, @local: of our socket. Two system calls that do not wait; a look-up in the kernel's table, whatever the number of
 * its connections.
 * Return: 0 and *ret (which may know nothing), -ENOENT: no such socket in the namespace, or -errno.
 */
int owner_ask(struct owner *o, const struct addr *peer, const struct addr *local, struct owner_facts *ret);
void owner_close(struct owner *o); /* {.fd = -1} is fine */
