/*
 * The allow-list: may this end of a connection be bypassed?
 *
 * What the kernel's programs noted about an end is compared with the lists: the cgroup that its socket belongs to (by its path, which
 * the kernel gives for an id: open_by_handle_at(2) on the cgroup2 mount), the user, the program of the process that made the socket or
 * the listener that it was accepted from, and the port connected to. An end that cannot be judged is not on the list. A cgroup's id
 * is never used again, so paths are kept; programs are looked up each time, since process ids are used again.
 */
#include "kern/bypass_int.h"
#include "kern/place.h"
#include "base/clean.h"
#include <stdio.h>
#include <string.h>

int who_init(struct who *w, int cgroup_root, const char *root, bool proc)
{
	*w = (struct who){.cgroup_root = cgroup_root, .root_len = strlen(root), .proc = proc};
	return -pthread_mutex_init(&w->lock, NULL);
}

void who_finish(struct who *w)
{
	for (size_t i = 0; i < ARRAY_LEN(w->path); i++)
		free(w->path[i].path);
	pthread_mutex_destroy(&w->lock);
}

bool who_below(const char *path, const char *top)
{
	size_t n = strlen(top);

	while (n && top[n - 1] == '/')
		n--;
	return !strncmp(path, top, n) && (!path[n] || path[n] == '/');
}

static bool in_cgroup(struct who *w, const struct cfg_who *c, uint64_t id)
{
	struct who_path *p = &w->path[id % ARRAY_LEN(w->path)];
	char path[4096];
	bool ok = false;

	for (uint32_t i = 0; i < c->n_cgroups && !ok; i++)
		ok = !strcmp(c->cgroups[i], "/");
	if (ok || w->cgroup_root < 0)
		return ok;
	pthread_mutex_lock(&w->lock);
	if (p->id == id && p->path) {
		snprintf(path, sizeof(path), "%s", p->path);
		ok = true;
	} else if (place_cgroup_path(w->cgroup_root, w->root_len, id, path, sizeof(path)) == 0) {
		free(p->path);
		p->path = strdup(path);
		p->id = id;
		ok = true;
	}
	pthread_mutex_unlock(&w->lock);
	if (!ok)
		return false;
	for (uint32_t i = 0; i < c->n_cgroups; i++)
		if (who_below(path, c->cgroups[i]))
			return true;
	return false;
}

static bool runs(const struct who *w, const struct cfg_who *c, uint32_t tgid)
{
	static const char deleted[] = " (deleted)"; /* replaced by a newer one while it runs */
	char link[32], path[4096];
	ssize_t n;

	if (!tgid || !w->proc)
		return false;
	snprintf(link, sizeof(link), "/proc/%u/exe", tgid);
	n = readlink(link, path, sizeof(path) - 1);
	if (n <= 0)
		return false;
	path[n] = '\0';
	if ((size_t)n >= sizeof(deleted) && !strcmp(path + n - (sizeof(deleted) - 1), deleted))
		path[n - (ssize_t)(sizeof(deleted) - 1)] = '\0';
	for (uint32_t i = 0; i < c->n_executables; i++)
		if (!strcmp(path, c->executables[i]))
			return true;
	return false;
}

static bool has_uid(const struct cfg_who *c, uint32_t uid)
{
	for (uint32_t i = 0; i < c->n_uids; i++)
		if (c->uids[i] == uid)
			return true;
	return false;
}

static bool has_port(const struct cfg_who *c, const uint16_t port[2])
{
	for (uint32_t i = 0; i < c->n_ports; i++)
		for (int k = 0; k < 2; k++)
			if (port[k] >= c->ports[i].first && port[k] <= c->ports[i].last)
				return true;
	return false;
}

bool who_allows(struct who *w, const struct cfg_who *allow, uint32_t n, const struct who_end *e)
{
	for (uint32_t i = 0; i < n; i++) {
		const struct cfg_who *c = &allow[i];

		if ((!c->n_ports || has_port(c, e->port)) && (!c->n_uids || has_uid(c, e->uid)) &&
		    (!c->n_cgroups || in_cgroup(w, c, e->cgroup)) && (!c->n_executables || runs(w, c, e->tgid)))
			return true;
	}
	return false;
}
