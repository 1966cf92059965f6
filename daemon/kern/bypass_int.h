/* Inside the bypass: what its files share. Nobody else includes this, tests excepted. */
#pragma once
#include "kern/bypass.h"
#include <adit/bpf_abi.h>
#include <pthread.h>
#include <stdatomic.h>
#include <time.h>

/** struct bypass_knobs - what only tests turn. Zeroes: as in production. */
struct bypass_knobs {
	bool no_order;	/* the gate lets bytes overtake: a test that does not see it is no test */
	bool no_test;	/* no self-test */
	uint32_t slots, socks, pairs; /* map sizes; pairs: a power of two */
};

/* ---- bypass_slots.c: slots of a memory that several processes share ---- */
#define SLOTS_QUARANTINE_MS 3000u /* other agents of a chain read the counters of what was given back for so long */

struct slots {
	struct adit_slot *at;
	uint32_t n;	/* even */
	uint32_t agent; /* who we are */
	_Atomic uint32_t hint, full_until_ms;
};
/** slots_take() - two, the first one even, zeroed but for the owner. Any thread. Return: 0 or -ENOSPC. */
int slots_take(struct slots *s, uint32_t now_ms, uint32_t *ret);
void slots_give(struct slots *s, uint32_t slot, uint32_t now_ms);
/** slots_reclaim() - those of agents that are no more. Return: how many pairs of slots. */
uint32_t slots_reclaim(struct slots *s, bool (*alive)(void *arg, uint32_t agent), void *arg, uint32_t now_ms);
uint32_t slots_used(const struct slots *s); /* of all agents */

/* ---- bypass_who.c: is this end on the allow-list? ---- */
struct who {
	int cgroup_root; /* the cgroup2 mount, not owned; -1: none */
	size_t root_len; /* of its path */
	bool proc;	 /* /proc speaks of the same process ids as the kernel's programs */
	pthread_mutex_t lock;
	struct who_path {
		uint64_t id;
		char *path;
	} path[64]; /* of cgroups, by id, which are never used again */
};
struct who_end {
	uint64_t cgroup;
	uint32_t tgid, uid;
	uint16_t port[2]; /* connected-to ports of the two connections at the ends of the chain */
};
int who_init(struct who *w, int cgroup_root, const char *root, bool proc);
void who_finish(struct who *w);
bool who_allows(struct who *w, const struct cfg_who *allow, uint32_t n, const struct who_end *e);
/** who_below() - is @path the cgroup @top or below it? */
bool who_below(const char *path, const char *top);

/* ---- bypass_netns.c: network namespaces by the ids that ours gives them ---- */
struct nsids {
	uint32_t own;
	bool proc; /* as in struct who */
	pthread_mutex_t lock;
	struct {
		uint32_t inum;
		int32_t id;
	} known[64];
};
int nsids_init(struct nsids *n, bool proc);
void nsids_finish(struct nsids *n);
/**
 * nsids_get() - the id of the namespace with that inode number; -1: ours
 * @tgid: a process that may be in it, 0: none; @fd: sockets of ours that may be in it, -1: none
 * Return: 0, or -errno: it cannot be reached.
 */
int nsids_get(struct nsids *n, uint32_t inum, uint32_t tgid, const int fd[2], int32_t *ret);
void nsids_forget(struct nsids *n, uint32_t inum);

/* ---- bypass_load.c: objects loaded or shared, pinned, attached ---- */
/* programs keep the other maps; socks is kept open since the gate is detached when nobody has it open or pinned */
enum bypass_map { BM_NODE, BM_AGENTS, BM_SPACES, BM_PAIRS, BM_LINKS, BM_SLOTS, BM_SOCKS, BYPASS_MAPS };
enum bypass_link { BL_EVENTS, BL_READS, BL_SPLICES, BYPASS_LINKS };

struct bypass_obj {
	int map[BYPASS_MAPS], link[BYPASS_LINKS], bind, adopt;
	struct adit_node *node;
	struct adit_slot *slot;
	const struct adit_pair *pair;
	uint32_t slots, pairs;
	uint32_t tgid;	   /* ours, as the kernel's programs see it */
	uint32_t agent;	   /* our id */
	bool shared, evidence, cast;
	int dir;	   /* pin folder, -1: nothing is pinned */
	char pin[200];
	char private[160]; /* why nothing is pinned though it should be */
};
int obj_create(struct bypass_obj *o, const struct cfg_kernel *cfg, const struct bypass_knobs *knobs, int cgroup, struct err *reterr);
/** obj_destroy() - the last agent of the node takes pinned objects away */
void obj_destroy(struct bypass_obj *o);
/** obj_alive() - is this agent registered and running? */
bool obj_alive(void *obj, uint32_t agent);
/** obj_run() - run the binding program on @q, where its answers are afterwards. Return: enum adit_answer, or -errno. */
int obj_run(const struct bypass_obj *o, struct adit_req *q);
/** obj_attached() - false: the cgroup was removed, nothing is noted any more */
bool obj_attached(const struct bypass_obj *o);

/* ---- bypass.c ---- */
struct bypass {
	struct bypass_obj obj;
	struct slots slots;
	struct who who;
	struct nsids nsids;
	struct cfg_bypass cfg;
	int cgroup_root;
	bool hold_legs;
	char self_test[128];
	/* any worker; relaxed */
	_Atomic uint64_t joins, legs, refused_joins, demoted, bytes, messages, refused[ADIT_REFUSALS];
	_Atomic uint32_t joined;
};
int bypass_create_with(struct bypass **ret, const struct cfg_kernel *cfg, const struct bypass_knobs *knobs, struct err *reterr);

/* ---- bypass_join.c ---- */

/** struct bypass_at - where a socket is: everything needed to find it again */
struct bypass_at {
	struct adit_pair_key key;
	uint8_t side;
	struct adit_end end;
	uint32_t wfirst, rfirst; /* its first sequence numbers */
	int32_t netns;
};
/** bypass_whereis() - a socket of ours. Return: 0, -ENOENT: not a connection of this node, or older than the bypass; -ENOTCONN. */
int bypass_whereis(struct bypass *b, int fd, struct bypass_at *ret);
/** bypass_far() - the other end of @at's connection. Return: 0 or -ENOENT. */
int bypass_far(struct bypass *b, const struct bypass_at *at, struct bypass_at *ret);
/**
 * bypass_bind() - @l and @r become the two ends of a bypass; the gate opens
 * @delta: bytes added to the stream from @l to @r on its way, less those taken out
 * @fd: sockets of ours that may be in the same namespaces as l and r, -1: none
 * @hold: the end that is ours, if we ask before we write (bypass_hold_legs()), by cookie; 0: none
 * Return: as bypass_join().
 */
int bypass_bind(struct bypass *b, struct bypass_at *l, struct bypass_at *r, uint32_t delta, uint32_t flags, const int fd[2],
		uint64_t hold, struct bypass_join *j);
/** bypass_gate() - open or close it, without further consequence */
void bypass_gate(struct bypass *b, const struct bypass_join *j, bool open);

/* ---- bypass_test.c: with real bytes. Return: 0, or -errno with the sentence; b->self_test is written ---- */
int bypass_self_test(struct bypass *b, struct err *reterr);

static inline uint64_t bypass_now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
