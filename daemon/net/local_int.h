/* What local.c and transparent.c share. */
#pragma once
#include "net/local.h"
#include "net/netns.h"
#include <netlink/netlink.h>
#include <stdatomic.h>

struct snapshot;

/** struct place - a namespace with policy routing of ours */
struct place {
	struct place *next;
	struct netns ns;
	char *name;	  /* NULL: our own namespace */
	uint32_t rules;	  /* in force: one per address family */
	uint64_t made_in; /* inode of the namespace that has them */
	uint8_t restore;  /* bits: sysctls that were 0 before */
};

struct local {
	_Atomic(struct snapshot *) now;
	_Atomic uint32_t readers;  /* threads that look into a snapshot at this moment */
	struct snapshot *retired;  /* no longer shown, perhaps still looked at */
	struct nl_sock *watch, *ask;
	bool dirty;		   /* something has changed since the snapshot was taken */
	uint64_t changes;
	struct place *places;
	bool handed;		   /* to another process: places stay as they are */
};

/** local_ask() - a netlink socket for questions in the namespace @fd (-1: ours). Return: 0 or -errno. */
int local_ask(struct nl_sock **ret, int fd);
/** local_dump() - all answers to a dump request go to @each. Return: 0 or -errno (-EAGAIN: it changed meanwhile, ask again). */
int local_dump(struct nl_sock *sk, int type, void *request, size_t n, int (*each)(struct nl_msg *m, void *arg), void *arg);
int local_errno(int nl); /* of libnl's error codes; 0 stays 0 */

/* transparent.c */
void transparent_tick(struct local *l);
void transparent_finish(struct local *l);
uint32_t transparent_rules(const struct local *l);
