/*
 * Matching workloads: a walk over the list. What is cheap is looked at first (listener, source), so the walk over some hundred workloads
 * costs less than the accept(2) before it, and the kernel is asked only by those that are left.
 */
#include "policy/workload.h"
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum verdict { NO, UNKNOWN, YES };

static bool in_spans(const struct cidr *all, uint32_t n, const struct addr *a)
{
	for (uint32_t i = 0; i < n; i++)
		if (cidr_has(&all[i], a))
			return true;
	return false;
}

static bool in_numbers(const uint32_t *all, uint32_t n, uint32_t v)
{
	for (uint32_t i = 0; i < n; i++)
		if (all[i] == v)
			return true;
	return false;
}

bool workload_path_below(const char *path, const char *top)
{
	size_t n = strlen(top);

	while (n && top[n - 1] == '/')
		n--;
	return !strncmp(path, top, n) && (!path[n] || path[n] == '/');
}

static bool in_paths(const char *const *all, uint32_t n, const char *path)
{
	for (uint32_t i = 0; i < n; i++)
		if (workload_path_below(path, all[i]))
			return true;
	return false;
}

/* the conditions on the process; a certain no outweighs what is not known */
static enum verdict process_fits(const struct cfg_workload *l, const struct workload_facts *f)
{
	bool unknown = false;

	if (l->n_uids && !f->has_uid)
		unknown = true;
	else if (l->n_uids && !in_numbers(l->uids, l->n_uids, f->uid))
		return NO;
	if (l->n_cgroups && !f->cgroup)
		unknown = true;
	else if (l->n_cgroups && !in_paths(l->cgroups, l->n_cgroups, f->cgroup))
		return NO;
	return unknown ? UNKNOWN : YES;
}

enum workload_answer workload_find(const struct config *cfg, const struct workload_facts *f, const struct cfg_workload **ret)
{
	for (uint32_t i = 0; i < cfg->n_workloads; i++) {
		const struct cfg_workload *l = &cfg->workloads[i];
		enum verdict v = YES;

		if (!l->n_source && !l->n_listeners && !l->n_uids && !l->n_cgroups)
			continue; /* it only serves */
		if (l->n_listeners && !in_numbers(l->listeners, l->n_listeners, f->listener))
			continue;
		if (l->n_source && !in_spans(l->source, l->n_source, &f->source))
			continue;
		if (l->n_uids || l->n_cgroups) {
			if (f->process == WORKLOAD_UNASKED)
				return WORKLOAD_ASK;
			v = f->process == WORKLOAD_LOCAL ? process_fits(l, f) : NO;
		}
		if (v == NO)
			continue;
		*ret = l;
		return v == YES ? WORKLOAD_FOUND : WORKLOAD_UNSURE;
	}
	return WORKLOAD_NONE;
}

const struct cfg_workload *workload_serving(const struct config *cfg, const struct addr *a)
{
	for (uint32_t i = 0; i < cfg->n_workloads; i++)
		if (in_spans(cfg->workloads[i].addresses, cfg->workloads[i].n_addresses, a))
			return &cfg->workloads[i];
	return NULL;
}

/* @have: lower case, "*.a.b" has any name in front of ".a.b" */
static bool name_fits(const char *have, const char *name, size_t n)
{
	size_t k = strlen(have);

	if (have[0] != '*')
		return k == n && !strncasecmp(have, name, n);
	return n > k - 1 && !strncasecmp(have + 1, name + n - (k - 1), k - 1);
}

const struct cfg_workload *workload_named(const struct config *cfg, const char *name, size_t n)
{
	for (uint32_t i = 0; i < cfg->n_workloads; i++)
		for (uint32_t k = 0; k < cfg->workloads[i].n_server_names; k++)
			if (name_fits(cfg->workloads[i].server_names[k], name, n))
				return &cfg->workloads[i];
	return NULL;
}

const char *workload_by(const struct cfg_workload *l, char out[WORKLOAD_BY])
{
	const struct {
		uint32_t n;
		const char *what;
	} kind[] = {{l->n_listeners, "listener"}, {l->n_source, "source"}, {l->n_uids, "uid"}, {l->n_cgroups, "cgroup"}};
	size_t at = 0;

	out[0] = '\0';
	for (size_t i = 0; i < sizeof(kind) / sizeof(kind[0]); i++)
		if (kind[i].n)
			at += (size_t)snprintf(out + at, WORKLOAD_BY - at, "%s%s", at ? ", " : "", kind[i].what);
	return out;
}
