/*
 * Listening sockets that somebody else opened: the service manager (socket activation, its descriptor store), or the daemon that this
 * one replaces. They are collected at the start, taken by what the configuration wants to listen on, and what nobody wanted is closed.
 * Main thread.
 *
 * A socket is wanted by address and network namespace, or by name: a manager's socket called like a listener is that listener's wherever
 * it is bound. A taken socket's queue is as it was: who waits in it is served by the new owner.
 */
#pragma once
#include "base/err.h"
#include "model/addr.h"
#include <stdbool.h>

#define ADOPT_NAME 256 /* FDNAME= with its NUL */

/** struct adopted - one socket of the set; owned by it until taken */
struct adopted {
	int fd;
	char name[ADOPT_NAME]; /* as the manager calls it; "" */
	struct addr at;	       /* AF_UNSPEC: a UNIX socket */
	char path[109];	       /* of a UNIX socket; "" */
	uint64_t netns;	       /* SO_NETNS_COOKIE */
	uint64_t cookie;       /* SO_COOKIE: the same socket may come twice */
};

/** struct adopt - zeroed is empty */
struct adopt {
	struct adopted *s;
	uint32_t n, cap;
};

/**
 * adopt_add() - @fd is the set's now, also on failure
 * Return: 0; also when it is no listening stream socket, or is here already: then it is closed (and the first case is in @reterr).
 * -ENOMEM.
 */
int adopt_add(struct adopt *set, int fd, const char *name, struct err *reterr);
/**
 * adopt_take() - the next socket in the order of adding that listens at @at in namespace @netns, or is called @name (NULL: no name)
 * It gets the options that sock_listen() gives, and is non-blocking. Return: descriptor (caller closes), or -ENOENT.
 */
int adopt_take(struct adopt *set, const struct addr *at, uint64_t netns, const char *name);
/** adopt_take_path() - the UNIX socket bound to @path. Return: descriptor or -ENOENT. */
int adopt_take_path(struct adopt *set, const char *path);
/** adopt_netns() - of a socket, or of the calling thread when @fd < 0. Return: SO_NETNS_COOKIE, 0 when unknown. */
uint64_t adopt_netns(int fd);
/** adopt_can_share() - may more sockets be bound beside @fd (SO_REUSEPORT), for the other workers? */
bool adopt_can_share(int fd);
/** adopt_rest() - close what is left; @left is told of each, NULL: nobody */
void adopt_rest(struct adopt *set, void (*left)(void *arg, const struct adopted *a), void *arg);
