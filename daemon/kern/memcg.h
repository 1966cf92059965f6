/*
 * The memory limits of our cgroup and those above it, by cgroup v2 or v1: what is used of them, and whether somebody was killed. Files
 * stay open; a look is a few pread() calls. One thread at a time.
 */
#pragma once
#include <stdbool.h>
#include <stdint.h>

#define MEMCG_LEVELS 4u	   /* cgroups with a limit that are looked at, from ours upwards */
#define MEMCG_NONE UINT64_MAX

struct memcg_level {
	int current, max, high, stat; /* descriptors; -1: not there */
};

struct memcg {
	uint32_t version; /* 0: none found; 1, 2 */
	uint32_t n;
	struct memcg_level level[MEMCG_LEVELS];
	int events, pressure; /* of our own cgroup; -1: not there */
	char path[256];	      /* of our own cgroup, for people */
};

/** struct memcg_sample - of the level that is used most, in proportion */
struct memcg_sample {
	uint64_t limit;	   /* bytes; MEMCG_NONE: there is none */
	uint64_t current;  /* charged */
	uint64_t used;	   /* of it, what cannot be taken back: without the page cache of files */
	uint64_t sock;	   /* of it, the buffers of sockets (v2); v1 counts them by themselves: not part of used */
	uint64_t oom_kill; /* of our own cgroup, since it was made */
	uint32_t full_avg10; /* of our own cgroup's pressure (PSI): percent of the time in which all of it waited for memory, times 100 */
};

/**
 * memcg_open() - find our cgroup's memory controller
 * @self, @mounts: /proc/self/cgroup, /proc/self/mountinfo
 * Return: 0 (whether or not there is a limit), or -ENOENT: no memory controller to be found.
 */
int memcg_open(struct memcg *m, const char *self, const char *mounts);
void memcg_close(struct memcg *m); /* zeroed memory, or what memcg_open() made of it */
/** memcg_read() - Return: true when there is a limit */
bool memcg_read(const struct memcg *m, struct memcg_sample *ret);
/** memcg_pressure() - of a text as in memory.pressure: avg10 of the line that begins with @kind ("some", "full"), times 100 */
uint32_t memcg_pressure(const char *text, const char *kind);
