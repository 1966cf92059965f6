/*
 * The bypass of this process: what it consists of, made at start and taken down at the end. The kernel's half is bpf/bypass.bpf.c; how it
 * gets there bypass_load.c; what joining means bypass_join.c; who may bypass_who.c.
 *
 * The programs are attached to a cgroup of the unified hierarchy: sockets of processes below it are noted, ours included, so we must
 * live below it, too.
 */
#include "kern/bypass_int.h"
#include "base/clean.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

const char *bypass_why_str(enum bypass_why w)
{
	switch (w) {
	case BYPASS_WHY_NONE:
		return "";
	case BYPASS_WHY_OFF:
		return "the bypass is off";
	case BYPASS_WHY_YOUNG:
		return "too few round trips yet";
	case BYPASS_WHY_REMOTE:
		return "an end is not a socket of this node, or is older than the agent";
	case BYPASS_WHY_UNLISTED:
		return "an end is not on the allow-list";
	case BYPASS_WHY_WAIT:
		return "another agent of the chain has not asked yet";
	case BYPASS_WHY_OTHER:
		return "joined by another agent of the chain";
	case BYPASS_WHY_BOUND:
		return "a socket was bound before";
	case BYPASS_WHY_STATE:
		return "an end is closing";
	case BYPASS_WHY_ULP:
		return "an end uses kTLS, MPTCP or another upper layer protocol";
	case BYPASS_WHY_FULL:
		return "the bypass' maps are full";
	case BYPASS_WHY_NETNS:
		return "the network namespace of an end is gone or cannot be reached";
	case BYPASS_WHY_BULK:
		return "carries bulk";
	case BYPASS_WHY_EVIDENCE:
		return "the receiver was seen to read with MSG_WAITALL, MSG_OOB or splice";
	case BYPASS_WHY_NODELAY:
		return "waiting for TCP_NODELAY to be set on an end";
	case BYPASS_WHY_TAKEN:
		return "another program of this node has a socket in its own sockmap";
	case BYPASS_WHY_ERROR:
	case BYPASS_WHYS:
		break;
	}
	return "the kernel refused";
}

const char *bypass_refusal_str(uint32_t i)
{
	static const char *const str[ADIT_REFUSALS] = {
		[ADIT_NO_SWITCH] = "switched off",
		[ADIT_NO_CLOSED] = "closed",
		[ADIT_NO_ORDER] = "order",
		[ADIT_NO_READER] = "reader",
		[ADIT_NO_STATE] = "closing",
		[ADIT_NO_OPTION] = "option",
		[ADIT_NO_LOWAT] = "lowat",
		[ADIT_NO_BYTES] = "bytes",
		[ADIT_NO_MESSAGES] = "messages",
		[ADIT_NO_STREAK] = "streak",
		[ADIT_NO_EVIDENCE] = "evidence",
		[ADIT_NO_PEER] = "peer",
	};

	return i < ADIT_REFUSALS ? str[i] : "";
}
_Static_assert(ADIT_REFUSALS == BYPASS_REFUSALS, "kern/bypass.h and include/adit/bpf_abi.h");

/* ---- where the programs are attached ---- */

/* the cgroup2 mount: on hybrid systems not /sys/fs/cgroup */
static int cgroup_mount(char path[256], struct err *reterr)
{
	FILE *f = fopen("/proc/self/mounts", "re");
	char line[1024], type[32];
	int r = -ENOENT;

	while (f && r < 0 && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*s %255s %31s", path, type) == 2 && !strcmp(type, "cgroup2"))
			r = 0;
	if (f)
		fclose(f);
	return r == 0 ? 0 : err_set(reterr, r, "no cgroup2 hierarchy is mounted (mount -t cgroup2 none /sys/fs/cgroup)");
}

/* do we live below @path? */
static int check_own(const char *path, struct err *reterr)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[1024];
	int r = 0;

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "0::", 3) && !who_below(line + 3, path))
			r = err_set(reterr, -EXDEV, "the agent runs in the cgroup %.100s, which is not below kernel.cgroup %.100s: its own "
				    "sockets would not be seen", line + 3, path);
	}
	if (f)
		fclose(f);
	return r;
}

static int cgroup_open(const struct cfg_kernel *cfg, int *ret_root, char root[256], int *ret, struct err *reterr)
{
	const char *below = cfg->cgroup ? cfg->cgroup : "/";
	char path[512];
	int r = cgroup_mount(root, reterr);

	if (r == 0)
		r = check_own(below, reterr);
	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/%s", root, below);
	AUTO_FD top = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD at = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0 || at < 0)
		return err_set(reterr, -errno, "kernel.cgroup: %s: %s", path, strerror(errno));
	*ret_root = fd_take(&top);
	*ret = fd_take(&at);
	return 0;
}

/* ---- life ---- */

static int init(struct bypass *b, const struct cfg_kernel *cfg, const struct bypass_knobs *knobs, struct err *reterr)
{
	AUTO_FD cgroup = -1;
	char root[256];
	bool proc;
	int r;

	r = cgroup_open(cfg, &b->cgroup_root, root, &cgroup, reterr);
	if (r == 0)
		r = obj_create(&b->obj, cfg, knobs, cgroup, reterr);
	if (r < 0)
		return r;
	b->slots = (struct slots){.at = b->obj.slot, .n = b->obj.slots, .agent = b->obj.agent};
	atomic_store(&b->slots.hint, b->obj.agent * 1021); /* agents begin in different places */
	proc = b->obj.tgid == (uint32_t)getpid();
	r = who_init(&b->who, b->cgroup_root, root, proc);
	if (r == 0)
		r = nsids_init(&b->nsids, proc);
	if (r < 0) {
		err_set(reterr, r, "cannot tell which network namespace we are in: %s", strerror(-r));
		goto fail;
	}
	if (cfg->bypass.evidence == SWITCH_ON && !b->obj.evidence) {
		r = err_set(reterr, -ENOTSUP, "kernel.bypass.evidence is on, but this kernel cannot watch how programs read (fentry)");
		goto fail;
	}
	r = knobs->no_test ? 0 : bypass_self_test(b, reterr);
	if (r == 0)
		return 0;
fail:
	obj_destroy(&b->obj);
	return r;
}

int bypass_create_with(struct bypass **ret, const struct cfg_kernel *cfg, const struct bypass_knobs *knobs, struct err *reterr)
{
	struct bypass *b = calloc(1, sizeof(*b));
	int r;

	if (!b)
		return err_set(reterr, -ENOMEM, "out of memory");
	b->cgroup_root = -1;
	b->cfg = cfg->bypass;
	r = init(b, cfg, knobs, reterr);
	if (r < 0) {
		clean_fd(&b->cgroup_root);
		free(b);
		return r;
	}
	*ret = b;
	return 0;
}

int bypass_create(struct bypass **ret, const struct cfg_kernel *cfg, struct err *reterr)
{
	return bypass_create_with(ret, cfg, &(struct bypass_knobs){0}, reterr);
}

void bypass_destroy(struct bypass *b)
{
	if (!b)
		return;
	obj_destroy(&b->obj);
	nsids_finish(&b->nsids);
	who_finish(&b->who);
	clean_fd(&b->cgroup_root);
	free(b);
}

void bypass_switch(struct bypass *b, bool on)
{
	__atomic_store_n(&b->obj.node->off, !on, __ATOMIC_RELEASE);
}

bool bypass_on(const struct bypass *b)
{
	return !__atomic_load_n(&b->obj.node->off, __ATOMIC_ACQUIRE);
}

void bypass_info(struct bypass *b, struct bypass_info *ret)
{
	*ret = (struct bypass_info){
		.switched_on = bypass_on(b),
		.evidence = b->obj.evidence,
		.rdonly_cast = b->obj.cast,
		.shared = b->obj.shared,
		.attached = obj_attached(&b->obj),
		.joined = atomic_load(&b->joined),
		.slots_used = slots_used(&b->slots),
		.slots = b->slots.n,
		.joins = atomic_load(&b->joins),
		.legs = atomic_load(&b->legs),
		.refused_joins = atomic_load(&b->refused_joins),
		.demoted = atomic_load(&b->demoted),
		.bytes = atomic_load(&b->bytes),
		.messages = atomic_load(&b->messages),
	};
	for (uint32_t k = 0; k < BYPASS_REFUSALS; k++)
		ret->refused[k] = atomic_load(&b->refused[k]);
	for (uint32_t at = 0; at < b->slots.n; at++) { /* those that live */
		const struct adit_slot *s = &b->slots.at[at];

		if (__atomic_load_n(&b->slots.at[at & ~1u].owner, __ATOMIC_RELAXED) != b->slots.agent)
			continue;
		ret->bytes += __atomic_load_n(&s->bytes, __ATOMIC_RELAXED);
		ret->messages += __atomic_load_n(&s->messages, __ATOMIC_RELAXED);
		for (uint32_t k = 0; k < BYPASS_REFUSALS; k++)
			ret->refused[k] += __atomic_load_n(&s->refused[k], __ATOMIC_RELAXED);
	}
	snprintf(ret->self_test, sizeof(ret->self_test), "%s", b->self_test);
	snprintf(ret->unshared, sizeof(ret->unshared), "%s", b->obj.private);
}
