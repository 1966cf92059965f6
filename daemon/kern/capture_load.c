/*
 * Getting the kernel's half of capture in place. All agents that share kernel.pin use the same maps and links, pinned in a folder that
 * has the version of the ABI in its name. Each agent that has rules loads its own programs on the maps that are there and puts them in
 * the place of those attached (BPF_LINK_UPDATE, atomic per hook), so a newer agent brings newer programs and no connect() in between
 * meets none. The links live as long as their pins or any agent; what other versions pinned is removed once ours is attached.
 *
 * An agent without rules only registers itself, with the program that is pinned for this.
 */
#include "kern/capture_int.h"
#include "kern/place.h"
#include "base/clean.h"
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
/* the skeleton is named after its file; so is our structure */
#define capture capture_skel
#include "capture.skel.h"
#undef capture

#define FOLDER "capture-v"

static const char *const map_name[CAPTURE_MAPS] = {"control", "slots", "rules", "nets", "cgroups", "uids", "seen", "agents", "claims", "notes"};
static const char *const link_name[CAPTURE_LINKS] = {"link_connect4", "link_connect6", "link_getpeername4", "link_getpeername6", "link_sockops"};
static const enum bpf_attach_type link_type[CAPTURE_LINKS] = {BPF_CGROUP_INET4_CONNECT, BPF_CGROUP_INET6_CONNECT,
							      BPF_CGROUP_INET4_GETPEERNAME, BPF_CGROUP_INET6_GETPEERNAME,
							      BPF_CGROUP_SOCK_OPS};

static const char *pin_path(const struct capture_obj *o, const char *name, char out[256])
{
	snprintf(out, 256, "%s/%s", o->pin, name);
	return out;
}

void capture_obj_init(struct capture_obj *o)
{
	*o = (struct capture_obj){.reg = -1};
	memset(o->map, -1, sizeof(o->map));
	memset(o->link, -1, sizeof(o->link));
}

void capture_obj_close(struct capture_obj *o)
{
	for (int i = 0; i < CAPTURE_MAPS; i++)
		clean_fd(&o->map[i]);
	for (int i = 0; i < CAPTURE_LINKS; i++)
		clean_fd(&o->link[i]);
	clean_fd(&o->reg);
	if (o->slot)
		munmap(o->slot, ADIT_CAP_SLOTS * sizeof(*o->slot));
	capture_obj_init(o);
}

static void unpin_folder(const char *folder)
{
	DIR *d = opendir(folder);
	struct dirent *e;

	/* links first: no program runs without its maps */
	for (int pass = 0; d && pass < 2; pass++, rewinddir(d))
		while ((e = readdir(d)))
			if (e->d_name[0] != '.' && (pass || !strncmp(e->d_name, "link_", 5)))
				(void)unlinkat(dirfd(d), e->d_name, 0);
	if (d)
		closedir(d);
	(void)rmdir(folder);
}

void capture_obj_unpin(const struct capture_obj *o)
{
	if (o->pin[0])
		unpin_folder(o->pin);
}

/* other versions' folders: whoever pinned them has been replaced by us, or goes on with the descriptors it has */
static void unpin_others(const char *pin, const char *ours)
{
	DIR *d = opendir(pin);
	struct dirent *e;
	char path[512];

	while (d && (e = readdir(d))) {
		snprintf(path, sizeof(path), "%s/%s", pin, e->d_name);
		if (!strncmp(e->d_name, FOLDER, strlen(FOLDER)) && strcmp(path, ours))
			unpin_folder(path);
	}
	if (d)
		closedir(d);
}

static int map_memory(struct capture_obj *o)
{
	void *p = mmap(NULL, ADIT_CAP_SLOTS * sizeof(*o->slot), PROT_READ | PROT_WRITE, MAP_SHARED, o->map[CM_SLOTS], 0);

	if (p == MAP_FAILED)
		return -errno;
	o->slot = p;
	return 0;
}

static void folder_name(struct capture_obj *o, const char *pin)
{
	snprintf(o->pin, sizeof(o->pin), "%s/" FOLDER "%d", pin, ADIT_CAP_ABI);
}

int capture_obj_share(struct capture_obj *o, const char *pin, struct err *reterr)
{
	char path[256];
	int r;

	folder_name(o, pin);
	for (int i = 0; i < CAPTURE_MAPS; i++) {
		o->map[i] = bpf_obj_get(pin_path(o, map_name[i], path));
		if (o->map[i] < 0)
			return err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	}
	o->reg = bpf_obj_get(pin_path(o, "register", path));
	r = o->reg < 0 ? -errno : map_memory(o);
	o->shared = true;
	return r == 0 ? 0 : err_set(reterr, r, "%s: %s", path, strerror(-r));
}

bool capture_obj_attached(const struct capture_obj *o)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof(info);

	return !bpf_obj_get_info_by_fd(o->link[CL_CONNECT4], &info, &len) && info.cgroup.cgroup_id;
}

int capture_obj_run(struct capture_obj *o)
{
	LIBBPF_OPTS(bpf_test_run_opts, opts, .ctx_in = &o->self, .ctx_size_in = sizeof(o->self));
	int r = bpf_prog_test_run_opts(o->reg, &opts);

	return r < 0 ? r : opts.retval ? -ENOSPC : 0;
}

/* ---- loading ---- */

static int keep_fd(int fd)
{
	int r = fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);

	return r < 0 ? -EMFILE : r;
}

/* are all rules that there are of this owner? then nobody else minds where the programs are attached */
static bool all_ours(const struct capture_obj *o, uint64_t owner)
{
	for (uint32_t i = 0; i < ADIT_CAP_SLOTS; i++)
		if (o->slot[i].rule && o->slot[i].owner != owner)
			return false;
	return true;
}

static int attach_new(struct capture_obj *o, int i, int prog, int cgroup, struct err *reterr)
{
	char path[256], fresh[256];
	int r;

	o->link[i] = bpf_link_create(prog, cgroup, link_type[i], NULL);
	if (o->link[i] < 0)
		return err_set(reterr, -errno, "cannot attach to the cgroup: %s%s", strerror(errno),
			       errno == EPERM ? " (another program is attached there, or above, without leave for more)" : "");
	if (!o->pin[0])
		return 0;
	(void)unlink(pin_path(o, "link_fresh", fresh));
	r = bpf_obj_pin(o->link[i], fresh);
	if (r == 0 && rename(fresh, pin_path(o, link_name[i], path)))
		r = -errno;
	return r == 0 ? 0 : err_set(reterr, r, "cannot pin %s: %s", path, strerror(-r));
}

static int attach_one(struct capture_obj *o, int i, int prog, int cgroup, uint64_t owner, struct err *reterr)
{
	uint64_t id = place_cgroup_id(cgroup);
	struct bpf_link_info info = {0};
	uint32_t len = sizeof(info);
	char path[256];

	if (o->pin[0])
		o->link[i] = bpf_obj_get(pin_path(o, link_name[i], path));
	if (o->link[i] < 0)
		return attach_new(o, i, prog, cgroup, reterr);
	o->shared = true;
	if (bpf_obj_get_info_by_fd(o->link[i], &info, &len))
		return err_set(reterr, -errno, "%s: %s", path, strerror(errno));
	if (info.cgroup.cgroup_id == id)
		return bpf_link_update(o->link[i], prog, NULL) ? err_set(reterr, -errno, "%s cannot be updated: %s", path, strerror(errno)) : 0;
	/* cgroup_id 0: the cgroup was removed, and the link detached with it */
	if (info.cgroup.cgroup_id && !all_ours(o, owner))
		return err_set(reterr, -EBUSY, "other agents of this node capture below another cgroup: let kernel.cgroup be the same for all that "
			       "share kernel.pin, or remove %s when they have ended", o->pin);
	clean_fd(&o->link[i]);
	return attach_new(o, i, prog, cgroup, reterr);
}

static int attach_all(struct capture_obj *o, const struct capture_skel *s, const char *below, uint64_t owner, struct err *reterr)
{
	AUTO_FD cgroup = place_cgroup(below, &o->root, reterr);
	const struct bpf_program *prog[CAPTURE_LINKS] = {s->progs.capture_connect4, s->progs.capture_connect6, s->progs.capture_getpeername4,
							 s->progs.capture_getpeername6, s->progs.capture_sockops};
	/* what reads notes comes before what writes them: a connection that is captured can be claimed */
	static const int order[CAPTURE_LINKS] = {CL_SOCKOPS, CL_PEER4, CL_PEER6, CL_CONNECT4, CL_CONNECT6};
	int r = cgroup < 0 ? cgroup : 0;

	for (int i = 0; r == 0 && i < CAPTURE_LINKS; i++)
		r = attach_one(o, order[i], bpf_program__fd(prog[order[i]]), cgroup, owner, reterr);
	return r;
}

static int pin_register(struct capture_obj *o, struct err *reterr)
{
	char path[256], fresh[256];

	if (!o->pin[0])
		return 0;
	(void)unlink(pin_path(o, "register_fresh", fresh));
	if (bpf_obj_pin(o->reg, fresh) || rename(fresh, pin_path(o, "register", path)))
		return err_set(reterr, -errno, "cannot pin %s/register: %s", o->pin, strerror(errno));
	return 0;
}

static int take_over(struct capture_obj *o, struct capture_skel *s, const char *below, uint64_t owner, struct err *reterr)
{
	int r = 0;

	for (int i = 0; r == 0 && i < CAPTURE_MAPS; i++) {
		o->map[i] = keep_fd(bpf_object__find_map_fd_by_name(s->obj, map_name[i]));
		r = o->map[i] < 0 ? o->map[i] : 0;
	}
	o->reg = keep_fd(bpf_program__fd(s->progs.capture_register));
	if (r == 0)
		r = o->reg < 0 ? o->reg : map_memory(o);
	if (r < 0)
		return err_set(reterr, r, "cannot map the memory of capture: %s", strerror(-r));
	r = capture_obj_run(o); /* before the programs run, which might look for agents */
	if (r < 0)
		return err_set(reterr, r, "cannot register as an agent: %s", strerror(-r));
	r = pin_register(o, reterr);
	return r < 0 ? r : attach_all(o, s, below, owner, reterr);
}

int capture_obj_load(struct capture_obj *o, const char *pin, const char *cgroup, uint64_t owner, struct err *reterr)
{
	struct capture_skel *s;
	char path[256];
	int r = 0;

	if (pin) {
		folder_name(o, pin);
		(void)mkdir(o->pin, 0700);
	}
	s = capture__open();
	if (!s)
		return place_refused(-errno, "capture", reterr);
	for (int i = 0; pin && r == 0 && i < CAPTURE_MAPS; i++) /* loading uses the pinned map if there is one, and pins it if not */
		r = bpf_map__set_pin_path(bpf_object__find_map_by_name(s->obj, map_name[i]), pin_path(o, map_name[i], path));
	if (r == 0)
		r = capture__load(s);
	if (r < 0)
		(void)place_refused(r, "the programs of capture", reterr);
	else
		r = take_over(o, s, cgroup, owner, reterr);
	if (r == 0 && pin)
		unpin_others(pin, o->pin);
	capture__destroy(s);
	return r;
}
