/*
 * Network namespaces by name (ip-netns(8)), "pid:N" or absolute path; sockets made inside them without leaving threads there.
 * setns(2) needs CAP_SYS_ADMIN here and in the user namespace that owns the network namespace.
 */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

/**
 * netns_open() - Return: descriptor for setns(2) (caller closes), or -errno with a sentence that says what to do; -ENOENT: there is none
 * of the name (yet)
 */
int netns_open(const char *name, struct err *reterr);
/**
 * netns_enter() - this thread's sockets are made there from now on; *ret_back is where it was. netns_leave() goes back and closes it.
 * Nothing else may be done between the two. @fd < 0: nothing happens, *ret_back -1.
 * Return: 0, or -errno: the thread has not moved; netns_why() says what it means.
 */
int netns_enter(int fd, int *ret_back);
void netns_leave(int back);
const char *netns_why(int error); /* static text */

/**
 * struct netns - a namespace that is used again and again. Its descriptor is kept, but only as long as the name leads to it: a kept
 * descriptor would keep a removed namespace and its interfaces alive. One thread. Zeroed, or without a name: our own namespace.
 */
struct netns {
	const char *name; /* not owned */
	int fd;		  /* valid while ino is not 0 */
	uint64_t dev, ino;
	bool moved;	  /* found out by netns_get(), to be said by netns_gone() */
	bool dead;	  /* "pid:N", and the process has ended: another with its number is a stranger */
};
/**
 * netns_get() - *ret_fd is the descriptor of what the name means now, still owned by @n; -1 without a name
 * One stat(2) while nothing has changed. Return: 0, or -errno with the sentence.
 */
int netns_get(struct netns *n, int *ret_fd, struct err *reterr);
/** netns_gone() - it was open, and its name leads elsewhere or nowhere now: said once. It is closed then. */
bool netns_gone(struct netns *n);
void netns_put(struct netns *n); /* closed; zeroed memory is fine */
