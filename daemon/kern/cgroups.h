/* Paths of cgroups by their ids, as sockets and captured connections have them. One thread per struct cgroups. */
#pragma once
#include "base/err.h"
#include <stddef.h>
#include <stdint.h>

#define CGROUPS_KNOWN 256u

struct cgroups {
	int root;	 /* the cgroup2 mount; -1: none */
	size_t root_len; /* of its path */
	struct {
		uint64_t id;
		char *path;
	} known[CGROUPS_KNOWN]; /* by id modulo that */
};

/** cgroups_init() - Return: 0, or -errno with a sentence: no hierarchy, or not the right to look ids up (CAP_DAC_READ_SEARCH). */
int cgroups_init(struct cgroups *g, struct err *reterr);
/**
 * cgroups_path() - the path of cgroup @id below the mount, "/" for its top; valid until the next call
 * Three system calls the first time, none while it is remembered, also when the cgroup has been removed since: ids are never used again.
 * Return: NULL: it is gone, or not below our mount
 */
const char *cgroups_path(struct cgroups *g, uint64_t id);
void cgroups_finish(struct cgroups *g); /* {.root = -1} is fine */
