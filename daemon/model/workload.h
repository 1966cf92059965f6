/*
 * Workloads as plain data: which identity and which metadata the connections of an application of this node have. What config/ reads and
 * policy/workload.h matches; immutable, and owned by whoever built it.
 *
 * Two questions are answered by the same list. Outwards: whose is this connection that an application opened? `match`, in the order of the
 * list, first match wins; the kinds of `match` are AND-ed, the values of one kind OR-ed. Inwards: whose is what a peer asked for?
 * `serves`, also first match wins.
 */
#pragma once
#include "model/config.h"

#define WORKLOADS_MAX 1024u

struct cfg_workload {
	const char *name;
	uint32_t id;			/* index in config.workloads */
	struct cfg_identity *identity;	/* NULL: the configuration has none at all */
	/* match; all empty: never, it only serves */
	struct cidr *source;		/* the client's address; without ports */
	uint32_t n_source;
	const char **cgroups;		/* paths below the cgroup2 mount: it and all below */
	uint32_t n_cgroups;
	uint32_t *uids;
	uint32_t n_uids;
	uint32_t *listeners;		/* ids; where it entered: type tcp */
	uint32_t n_listeners;
	/* serves */
	struct cidr *addresses;		/* its own; without ports */
	uint32_t n_addresses;
	const char **server_names;	/* lower case; "*.a.b": any name below a.b */
	uint32_t n_server_names;
	struct cfg_node node;		/* what is said of it: the node's, with what it says itself put over that */
};
