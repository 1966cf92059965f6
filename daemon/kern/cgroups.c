/*
 * From the id of a cgroup to its path. Sockets know ids, configurations paths; cgroups come and go, and a rule means all that is below its
 * path, whenever it was made. So an id is looked up when it is first seen (open_by_handle_at(2), /proc/self/fd) and remembered: an id's
 * path never changes (cgroup2 has no rename), and an id is never used again.
 */
#include "kern/cgroups.h"
#include "base/clean.h"
#include "kern/place.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

int cgroups_init(struct cgroups *g, struct err *reterr)
{
	char link[32], path[4096];
	uint64_t top;
	ssize_t n;
	int r;

	memset(g, 0, sizeof(*g));
	g->root = place_cgroup(NULL, &top, reterr);
	if (g->root < 0)
		return g->root;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", g->root);
	n = readlink(link, path, sizeof(path));
	r = n < 0 ? -errno : 0;
	g->root_len = n > 1 ? (size_t)n : 0;
	if (r == 0)
		r = place_cgroup_path(g->root, g->root_len, top, path, sizeof(path));
	if (r == 0)
		return 0;
	cgroups_finish(g);
	return err_set(reterr, r, "cgroups cannot be looked up by their ids: %s%s", strerror(-r),
		       r == -EPERM ? " (CAP_DAC_READ_SEARCH is needed)" : "");
}

const char *cgroups_path(struct cgroups *g, uint64_t id)
{
	size_t at = id % CGROUPS_KNOWN;
	char path[4096], *copy;

	if (g->root < 0 || !id)
		return NULL;
	if (g->known[at].id == id && g->known[at].path)
		return g->known[at].path;
	if (place_cgroup_path(g->root, g->root_len, id, path, sizeof(path)) < 0)
		return NULL;
	copy = strdup(path[0] ? path : "/");
	if (!copy)
		return NULL;
	free(g->known[at].path);
	g->known[at].path = copy;
	g->known[at].id = id;
	return copy;
}

void cgroups_finish(struct cgroups *g)
{
	for (size_t i = 0; i < CGROUPS_KNOWN; i++) {
		free(g->known[i].path);
		g->known[i].path = NULL;
	}
	clean_fd(&g->root);
}
