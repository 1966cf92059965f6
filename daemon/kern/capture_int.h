/* Inside capture: what its files share. Nobody else includes this, tests excepted. */
#pragma once
#include "kern/capture.h"
#include <adit/capture_abi.h>
#include <stdatomic.h>

/* in the order of the pins' names in capture_load.c */
enum { CM_CONTROL, CM_SLOTS, CM_RULES, CM_NETS, CM_CGROUPS, CM_UIDS, CM_SEEN, CM_AGENTS, CM_CLAIMS, CM_NOTES, CAPTURE_MAPS };
enum { CL_CONNECT4, CL_CONNECT6, CL_PEER4, CL_PEER6, CL_SOCKOPS, CAPTURE_LINKS };

/** struct capture_obj - the kernel's half. {-1} descriptors: not there. */
struct capture_obj {
	int map[CAPTURE_MAPS], link[CAPTURE_LINKS], reg;
	struct adit_cap_slot *slot; /* mapped memory, ADIT_CAP_SLOTS of them */
	struct adit_cap_agent self;
	uint64_t root;		    /* id of the cgroup where paths begin */
	char pin[200];		    /* folder; "": nothing is pinned */
	bool shared;
	char private[160];
};

#define CAPTURE_LISTENERS 8192u /* slots (chain/slots.h) */

struct capture {
	struct capture_obj obj;
	const struct config *cfg;
	int (*fd)(void *arg, uint32_t i, uint32_t w);
	void *arg;
	uint64_t owner;
	_Atomic uint64_t *netns;	    /* netns: cookie, by listener slot */
	int claims;		    /* the map, for workers: this number stays when the objects are opened anew */
	uint32_t ours;		    /* bits: slots that have rules of ours */
	bool handed;		    /* to another process; we only stay known as an agent */
	uint32_t pending;
	uint64_t registered_ms, aged_ms;
	_Atomic uint64_t claimed;
	uint64_t unclaimed;
};

/* ---- capture_load.c. The folder's lock (place_pins()) is held, except for run, attached and close ---- */

/** capture_obj_init() - as before anything was opened */
void capture_obj_init(struct capture_obj *o);
/** capture_obj_share() - what is pinned below @pin, as it is. Return: 0, -ENOENT, or -errno with the sentence. */
int capture_obj_share(struct capture_obj *o, const char *pin, struct err *reterr);
/**
 * capture_obj_load() - our programs, on the pinned maps if there are any, in place of the programs that were there
 * @pin: NULL: nothing is pinned. @owner: who we are; only the owner of all rules may move the programs to another cgroup
 */
int capture_obj_load(struct capture_obj *o, const char *pin, const char *cgroup, uint64_t owner, struct err *reterr);
/** capture_obj_attached() - false: the cgroup was removed */
bool capture_obj_attached(const struct capture_obj *o);
/** capture_obj_run() - tell the kernel's half that this process is an agent. Return: 0 or -errno. */
int capture_obj_run(struct capture_obj *o);
/** capture_obj_unpin() - take everything away that is pinned */
void capture_obj_unpin(const struct capture_obj *o);
void capture_obj_close(struct capture_obj *o);

/* ---- capture_rules.c: the folder's lock is held, if it is pinned ---- */

/** capture_rule_put() - the rule of @l, whose socket is @fd, in the place of the one for the same address. Return: slot or -errno. */
int capture_rule_put(struct capture_obj *o, const struct cfg_listener *l, int fd, uint64_t owner, struct err *reterr);
/** capture_rule_take() - slot @i is free afterwards */
void capture_rule_take(struct capture_obj *o, uint32_t i);
/** capture_rule_get() - the rule of slot @i. Return: 0 or -ENOENT. */
int capture_rule_get(const struct capture_obj *o, uint32_t i, struct adit_cap_rule *ret);
