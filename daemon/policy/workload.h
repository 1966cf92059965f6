/*
 * Whose is it? The workload of a connection that an application opened, and the one that a peer asks for. Pure; any thread.
 *
 * What must be asked of the kernel (uid, cgroup) is asked only when a workload's answer hangs on it: workload_find() says so, and is called
 * again. Doubt is no answer: if a workload may be meant and what its match asks for cannot be told, none behind it is taken.
 */
#pragma once
#include "model/workload.h"

enum workload_process {
	WORKLOAD_UNASKED,
	WORKLOAD_FOREIGN, /* it is no process of this node: uids and cgroups do not match it */
	WORKLOAD_LOCAL,	  /* what follows holds */
};

struct workload_facts {
	struct addr source;
	uint32_t listener; /* id */
	enum workload_process process;
	bool has_uid;	   /* false: it cannot be told */
	uint32_t uid;	   /* of whoever made the socket */
	const char *cgroup; /* path below the cgroup2 mount; NULL: it cannot be told */
};

enum workload_answer {
	WORKLOAD_NONE,	 /* no match has it */
	WORKLOAD_FOUND,
	WORKLOAD_ASK,	 /* who is the process? Come again with `process` set */
	WORKLOAD_UNSURE, /* it may be *ret's; the fact that its match needs is not known */
};

/** workload_find() - first match wins. *ret is written for WORKLOAD_FOUND and WORKLOAD_UNSURE. */
enum workload_answer workload_find(const struct config *cfg, const struct workload_facts *f, const struct cfg_workload **ret);
/** workload_serving() - whose address is @a? NULL: nobody's */
const struct cfg_workload *workload_serving(const struct config *cfg, const struct addr *a);
/** workload_named() - whose server name (SNI; any case) is it? NULL: nobody's */
const struct cfg_workload *workload_named(const struct config *cfg, const char *name, size_t n);
/** workload_path_below() - is cgroup @path @top, or below it? */
bool workload_path_below(const char *path, const char *top);

#define WORKLOAD_BY 40u
/** workload_by() - "source", "listener, uid, cgroup": what its match looks at, and so what it was found by. Return: @out. */
const char *workload_by(const struct cfg_workload *l, char out[WORKLOAD_BY]);
