/*
 * Where our cgroup is: /proc/self/cgroup has the path in the hierarchy ("0::/a/b" for v2, "4:memory:/a/b" for v1), /proc/self/mountinfo
 * where the hierarchy is mounted, and which part of it (a container sees the hierarchy from its own cgroup on). A v1 memory controller is
 * asked first: where one is mounted, v2 has none (kernel's cgroup-v2.rst, "Mounting").
 *
 * What counts is not memory.current: file pages, an access log's for instance, are charged, too, and are taken back when memory is asked
 * for. What cannot be taken back is the rest; when that reaches the limit, somebody is killed. memory.high kills nobody, but whoever is
 * above it is made to wait in each allocation, which is no better for an agent that others wait for: the lower one of both is the limit.
 *
 * Buffers of sockets: v2 charges them (memory.stat: sock). v1 has a counter of its own for them, and no limit unless one is set.
 */
#include "kern/memcg.h"
#include "base/clean.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#define TEXT 8192u
#define V1_NONE (1ull << 62) /* what v1 says for "no limit" is a little less than 2^63 */

static void level_close(struct memcg_level *l)
{
	int *const all[] = { &l->current, &l->max, &l->high, &l->stat };

	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		if (*all[i] >= 0)
			close(*all[i]);
		*all[i] = -1;
	}
}

void memcg_close(struct memcg *m)
{
	if (!m->version)
		return;
	for (uint32_t i = 0; i < m->n; i++)
		level_close(&m->level[i]);
	if (m->events >= 0)
		close(m->events);
	if (m->pressure >= 0)
		close(m->pressure);
	*m = (struct memcg){ .events = -1, .pressure = -1 };
}

/* ---- finding it ---- */

/* is @word one of the words of @list, which are separated by commas? */
static bool has_word(const char *list, const char *word)
{
	size_t n = strlen(word);

	for (const char *p = list; p; p = strchr(p, ',')) {
		p += *p == ',';
		if (!strncmp(p, word, n) && (!p[n] || p[n] == ',' || p[n] == '\n'))
			return true;
	}
	return false;
}

/* the path in the hierarchy. Return: 1, 2: of which version; 0: none */
static uint32_t self_path(const char *self, char *out, size_t size)
{
	FILE *f = fopen(self, "re");
	char line[1024];
	uint32_t v = 0;

	while (f && v != 1 && fgets(line, sizeof(line), f)) {
		char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;

		if (!path)
			continue;
		*controllers++ = '\0';
		*path++ = '\0';
		path[strcspn(path, "\n")] = '\0';
		if (has_word(controllers, "memory"))
			v = 1;
		else if (!*controllers && !strcmp(line, "0"))
			v = 2;
		else
			continue;
		snprintf(out, size, "%s", path);
	}
	if (f)
		fclose(f);
	return v;
}

/* where the hierarchy is mounted, and which of its cgroups is at the top there: proc_pid_mountinfo(5) */
static bool mounted_at(const char *mounts, uint32_t version, char *point, char *root, size_t size)
{
	FILE *f = fopen(mounts, "re");
	char line[4096];
	bool found = false;

	while (f && !found && fgets(line, sizeof(line), f)) {
		char r[512], p[512], type[64], super[512];
		char *dash = strstr(line, " - ");

		if (!dash || sscanf(line, "%*s %*s %*s %511s %511s", r, p) != 2 || sscanf(dash, " - %63s %*s %511s", type, super) != 2)
			continue;
		if (version == 2 ? strcmp(type, "cgroup2") != 0 : strcmp(type, "cgroup") != 0 || !has_word(super, "memory"))
			continue;
		snprintf(root, size, "%s", r);
		snprintf(point, size, "%s", p);
		found = true;
	}
	if (f)
		fclose(f);
	return found;
}

static int open_in(const char *dir, const char *name)
{
	char path[1200];

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return open(path, O_RDONLY | O_CLOEXEC);
}

/* Return: bytes of text, 0: none */
static size_t read_text(int fd, char out[TEXT])
{
	ssize_t n = fd < 0 ? -1 : pread(fd, out, TEXT - 1, 0);

	out[n > 0 ? n : 0] = '\0';
	return n > 0 ? (size_t)n : 0;
}

static uint64_t read_number(int fd)
{
	char text[TEXT];

	if (!read_text(fd, text) || text[0] < '0' || text[0] > '9') /* "max" */
		return MEMCG_NONE;
	return strtoull(text, NULL, 10);
}

static uint64_t limit_of(const struct memcg *m, const struct memcg_level *l)
{
	uint64_t limit = min_u64(read_number(l->max), read_number(l->high));

	return m->version == 1 && limit >= V1_NONE ? MEMCG_NONE : limit;
}

/* the cgroup at @dir, if it has a limit or is our own */
static void level_open(struct memcg *m, const char *dir)
{
	struct memcg_level *l = &m->level[m->n];
	bool two = m->version == 2;

	*l = (struct memcg_level){
		.current = open_in(dir, two ? "memory.current" : "memory.usage_in_bytes"),
		.max = open_in(dir, two ? "memory.max" : "memory.limit_in_bytes"),
		.high = two ? open_in(dir, "memory.high") : -1,
		.stat = open_in(dir, "memory.stat"),
	};
	if (l->current < 0 || l->max < 0 || (m->n && limit_of(m, l) == MEMCG_NONE))
		level_close(l);
	else
		m->n++;
}

int memcg_open(struct memcg *m, const char *self, const char *mounts)
{
	char path[512], root[512], point[512], dir[1100];
	const char *below = path;
	size_t top;

	*m = (struct memcg){ .events = -1, .pressure = -1 };
	m->version = self_path(self, path, sizeof(path));
	if (!m->version || !mounted_at(mounts, m->version, point, root, sizeof(root))) {
		m->version = 0;
		return -ENOENT;
	}
	if (strcmp(root, "/") != 0 && !strncmp(path, root, strlen(root)))
		below += strlen(root);
	if (strstr(below, "..")) /* outside of what is mounted here */
		below = "";
	snprintf(m->path, sizeof(m->path), "%.255s", path);
	top = strlen(point);
	snprintf(dir, sizeof(dir), "%s%s", point, strcmp(below, "/") ? below : "");
	m->events = open_in(dir, m->version == 2 ? "memory.events" : "memory.oom_control");
	m->pressure = m->version == 2 ? open_in(dir, "memory.pressure") : -1;
	while (m->n < MEMCG_LEVELS) {
		char *slash;

		level_open(m, dir);
		slash = strrchr(dir, '/');
		if (!slash || (size_t)(slash - dir) < top)
			break;
		*slash = '\0';
	}
	if (m->n)
		return 0;
	memcg_close(m);
	return -ENOENT;
}

/* ---- looking ---- */

/* the number behind @key at the beginning of a line; 0: none */
static uint64_t stat_get(const char *text, const char *key)
{
	size_t n = strlen(key);

	for (const char *p = text; p && *p; p = strchr(p, '\n'), p += p != NULL)
		if (!strncmp(p, key, n) && p[n] == ' ')
			return strtoull(p + n, NULL, 10);
	return 0;
}

uint32_t memcg_pressure(const char *text, const char *kind)
{
	const char *line = strstr(text, kind), *avg = line ? strstr(line, "avg10=") : NULL;
	char *end;
	unsigned long whole, part;

	if (!avg)
		return 0;
	whole = strtoul(avg + 6, &end, 10);
	part = *end == '.' ? strtoul(end + 1, NULL, 10) : 0;
	return (uint32_t)(whole * 100 + part);
}

static void level_read(const struct memcg *m, const struct memcg_level *l, struct memcg_sample *s)
{
	bool two = m->version == 2;
	char text[TEXT];
	uint64_t cache;

	*s = (struct memcg_sample){ .limit = limit_of(m, l), .current = read_number(l->current) };
	if (s->current == MEMCG_NONE)
		s->current = 0;
	read_text(l->stat, text);
	cache = stat_get(text, two ? "inactive_file" : "total_inactive_file") + stat_get(text, two ? "active_file" : "total_active_file");
	s->sock = stat_get(text, "sock");
	s->used = s->current - min_u64(cache, s->current);
}

static bool fuller(const struct memcg_sample *a, const struct memcg_sample *b)
{
	return b->limit == MEMCG_NONE || (double)a->used / (double)max_u64(a->limit, 1) > (double)b->used / (double)max_u64(b->limit, 1);
}

bool memcg_read(const struct memcg *m, struct memcg_sample *ret)
{
	struct memcg_sample s;
	char text[TEXT];

	*ret = (struct memcg_sample){ .limit = MEMCG_NONE };
	for (uint32_t i = 0; i < m->n; i++) {
		level_read(m, &m->level[i], &s);
		if (i == 0 || (s.limit != MEMCG_NONE && fuller(&s, ret)))
			*ret = s;
	}
	if (m->version && read_text(m->events, text))
		ret->oom_kill = stat_get(text, "oom_kill");
	if (m->version && read_text(m->pressure, text))
		ret->full_avg10 = memcg_pressure(text, "full");
	return ret->limit != MEMCG_NONE;
}
