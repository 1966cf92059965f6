/*
 * Getting the kernel's half in place: load it, or share what another agent of this node has pinned.
 *
 * All agents of a node must see the same maps, or they would not find each other's sockets. So the first one pins maps, the program that
 * binds, and links below kernel.pin, and later ones open them; a lock on that folder keeps two from doing it at once. The first words of
 * the map `node` say which version the structures have. An agent registers under its process id; the last one takes everything away.
 * What an agent that was killed left behind is taken over by the next, or, if it is of another version and nobody lives, removed.
 *
 * Without a bpffs nothing is pinned and the bypass works within this process. Evidence (fentry) is tried and left out if the kernel
 * refuses it: whether a function can be watched is not known before.
 */
#include "kern/bypass_int.h"
#include "kern/place.h"
#include "base/clean.h"
#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>
/* the skeleton is named after its file; so is our structure */
#define bypass bypass_skel
#include "bypass.skel.h"
#undef bypass

#define BPFFS_MAGIC 0xcafe4a11 /* linux/magic.h */

static const char *const map_name[BYPASS_MAPS] = {"node", "agents", "spaces", "pairs", "links", "slots", "socks"};
static const char *const link_name[BYPASS_LINKS] = {"link_events", "link_reads", "link_splices"};
static const char *const prog_name[] = {"bind", "adopt"};

/* ---- what libbpf says when it fails goes into the sentence; main thread only ---- */

static char said[160];

static int listen_to(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	char line[160];
	size_t n;

	if (level != LIBBPF_WARN || said[0])
		return 0;
	vsnprintf(line, sizeof(line), fmt, ap);
	line[strcspn(line, "\n")] = '\0';
	n = strlen(line);
	memcpy(said, line, n + 1);
	return 0;
}

static int refused(int r, struct err *reterr)
{
	struct utsname u = {0};

	uname(&u);
	if (r == -EPERM || r == -EACCES)
		return err_set(reterr, r, "the kernel refuses to load BPF programs: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed "
			       "(or CAP_SYS_ADMIN), and no lockdown of the kernel");
	if (r == -ESRCH || r == -ENOENT)
		return err_set(reterr, r, "this kernel has no type information (CONFIG_DEBUG_INFO_BTF): %s", said[0] ? said : strerror(-r));
	return err_set(reterr, r, "Linux %s does not take the programs of the bypass (6.1 or later is needed): %s", u.release,
		       said[0] ? said : strerror(-r));
}

/* ---- agents ---- */

/* when a process started, in ticks since boot; 0: there is none */
static uint64_t started(uint32_t tgid)
{
	char path[32], buf[1024];
	const char *p;
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%u/stat", tgid);
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return 0;
	n = read(fd, buf, sizeof(buf) - 1);
	if (n <= 0)
		return 0;
	buf[n] = '\0';
	p = strrchr(buf, ')'); /* the name may contain anything; field 3 comes after it */
	for (int i = 2; p && i < 22; i++)
		p = strchr(p + 1, ' ');
	return p ? strtoull(p + 1, NULL, 10) : 0;
}

/* drops the entries of the dead; *ret: how many others live */
static void agents_prune(int agents, uint32_t self, uint32_t *ret)
{
	uint32_t key, *prev = NULL, dead[64], n = 0;
	struct adit_agent a;

	*ret = 0;
	for (uint32_t next; bpf_map_get_next_key(agents, prev, &next) == 0;) {
		key = next;
		prev = &key;
		if (key == self || bpf_map_lookup_elem(agents, &key, &a))
			continue;
		if (started(key) == a.start)
			++*ret;
		else if (n < ARRAY_LEN(dead))
			dead[n++] = key;
	}
	while (n)
		bpf_map_delete_elem(agents, &dead[--n]);
}

bool obj_alive(void *obj, uint32_t agent)
{
	const struct bypass_obj *o = obj;
	uint32_t key, *prev = NULL;
	struct adit_agent a;

	for (uint32_t next; bpf_map_get_next_key(o->map[BM_AGENTS], prev, &next) == 0;) {
		key = next;
		prev = &key;
		if (bpf_map_lookup_elem(o->map[BM_AGENTS], &key, &a) == 0 && a.id == agent)
			return started(key) == a.start;
	}
	return false;
}

int obj_run(const struct bypass_obj *o, struct adit_req *q)
{
	struct {
		char eth[ADIT_REQ_AT];
		struct adit_req q;
	} packet = {.q = *q};
	LIBBPF_OPTS(bpf_test_run_opts, opts, .data_in = &packet, .data_size_in = sizeof(packet), .data_out = &packet,
		    .data_size_out = sizeof(packet), .repeat = 1);
	int r;

	packet.eth[12] = 8; /* IPv4, or the kernel looks at the bytes */
	r = bpf_prog_test_run_opts(o->bind, &opts);
	if (r < 0)
		return r;
	*q = packet.q;
	return (int)opts.retval;
}

/* sockets that we and others had before */
static void adopt(const struct bypass_obj *o)
{
	char buf[64];
	AUTO_FD link = bpf_link_create(o->adopt, 0, BPF_TRACE_ITER, NULL);
	AUTO_FD it = link < 0 ? -1 : bpf_iter_create(link);

	while (it >= 0 && read(it, buf, sizeof(buf)) > 0)
		;
}

static int enter(struct bypass_obj *o, struct err *reterr)
{
	struct adit_req q = {.op = ADIT_OP_WHOAMI};
	struct adit_agent a = {0};
	uint32_t others;
	int r = obj_run(o, &q);

	if (r != ADIT_DONE)
		return err_set(reterr, r < 0 ? r : -EPROTO, "the bypass' program cannot be run: %s", r < 0 ? strerror(-r) : "no answer");
	o->tgid = q.side;
	agents_prune(o->map[BM_AGENTS], o->tgid, &others);
	a.id = __atomic_add_fetch(&o->node->next_agent, 1, __ATOMIC_RELAXED);
	a.start = started(o->tgid);
	if (bpf_map_update_elem(o->map[BM_AGENTS], &o->tgid, &a, BPF_ANY))
		return err_set(reterr, -errno, "too many agents on this node: %s", strerror(errno));
	o->agent = a.id;
	adopt(o);
	return 0;
}

/* ---- loading ---- */

static bool kernel_has(const struct btf *btf, const char *func)
{
	return btf && btf__find_by_name_kind(btf, func, BTF_KIND_FUNC) > 0;
}

static int open_and_load(struct bypass_skel **ret, struct bypass_obj *o, const struct bypass_knobs *k, const struct btf *btf, bool evidence)
{
	struct bypass_skel *s = bypass__open();
	int r;

	if (!s)
		return -errno;
	s->rodata->no_order = k->no_order;
	s->rodata->have_cast = o->cast = kernel_has(btf, "bpf_rdonly_cast");
	if (k->slots)
		bpf_map__set_max_entries(s->maps.slots, k->slots);
	if (k->socks)
		bpf_map__set_max_entries(s->maps.socks, k->socks);
	if (k->pairs) {
		bpf_map__set_max_entries(s->maps.pairs, k->pairs);
		s->rodata->pair_mask = k->pairs - 1;
	}
	bpf_program__set_autoload(s->progs.reads, evidence);
	bpf_program__set_autoload(s->progs.splices, evidence);
	r = bypass__load(s);
	if (r == 0 && evidence) { /* the kernel looks at the function only now */
		s->links.reads = bpf_program__attach(s->progs.reads);
		s->links.splices = bpf_program__attach(s->progs.splices);
		if (!s->links.reads || !s->links.splices)
			r = -ENOTSUP;
	}
	if (r < 0) {
		bypass__destroy(s);
		return r;
	}
	*ret = s;
	return 0;
}

static int attach(struct bypass_skel *s, int cgroup, struct err *reterr)
{
	int r = bpf_prog_attach(bpf_program__fd(s->progs.gate), bpf_map__fd(s->maps.socks), BPF_SK_MSG_VERDICT, 0);

	if (r < 0)
		return err_set(reterr, -errno, "the kernel attaches no sk_msg program (CONFIG_BPF_STREAM_PARSER, CONFIG_NET_SOCK_MSG): %s",
			       strerror(errno));
	s->links.events = bpf_program__attach_cgroup(s->progs.events, cgroup);
	r = s->links.events ? 0 : -errno;
	return r == 0 ? 0 : err_set(reterr, r, "cannot attach to the cgroup: %s%s", strerror(-r),
				    r == -EPERM ? " (another program is attached there, or above, without leave for more)" : "");
}

static int keep_fd(int fd)
{
	return fd < 0 ? -1 : fcntl(fd, F_DUPFD_CLOEXEC, 3);
}

/* what we go on with when the skeleton is gone */
static int keep(struct bypass_obj *o, const struct bypass_skel *s)
{
	const struct bpf_map *map[BYPASS_MAPS] = {s->maps.node,  s->maps.agents, s->maps.spaces, s->maps.pairs,
						  s->maps.links, s->maps.slots,	 s->maps.socks};
	const struct bpf_link *link[BYPASS_LINKS] = {s->links.events, s->links.reads, s->links.splices};
	bool ok = true;

	for (int i = 0; i < BYPASS_MAPS; i++)
		ok = (o->map[i] = keep_fd(bpf_map__fd(map[i]))) >= 0 && ok;
	for (int i = 0; i < BYPASS_LINKS; i++)
		o->link[i] = link[i] ? keep_fd(bpf_link__fd(link[i])) : -1;
	o->bind = keep_fd(bpf_program__fd(s->progs.bind));
	o->adopt = keep_fd(bpf_program__fd(s->progs.adopt));
	return ok && o->bind >= 0 && o->adopt >= 0 ? 0 : -EMFILE;
}

static void *map_one(int fd, size_t size, int prot)
{
	void *p = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

static int map_memory(struct bypass_obj *o)
{
	struct bpf_map_info slots = {0}, pairs = {0};
	uint32_t n[2] = {sizeof(slots), sizeof(pairs)};

	if (bpf_obj_get_info_by_fd(o->map[BM_SLOTS], &slots, &n[0]) || bpf_obj_get_info_by_fd(o->map[BM_PAIRS], &pairs, &n[1]))
		return -errno;
	o->slots = slots.max_entries & ~1u;
	o->pairs = pairs.max_entries;
	o->node = map_one(o->map[BM_NODE], sizeof(*o->node), PROT_READ | PROT_WRITE);
	o->slot = map_one(o->map[BM_SLOTS], o->slots * sizeof(*o->slot), PROT_READ | PROT_WRITE);
	o->pair = map_one(o->map[BM_PAIRS], o->pairs * sizeof(*o->pair), PROT_READ);
	return o->node && o->slot && o->pair ? 0 : -errno;
}

static int load(struct bypass_obj *o, const struct cfg_kernel *cfg, const struct bypass_knobs *knobs, int cgroup, struct err *reterr)
{
	struct btf *btf;
	bool want;
	struct bypass_skel *s = NULL;
	int r = place_addresses(reterr); /* else no sleeping reader would be seen, see bpf/bypass_gate.h */

	if (r < 0)
		return r;
	btf = btf__load_vmlinux_btf();
	want = cfg->bypass.evidence != SWITCH_OFF && kernel_has(btf, "tcp_bpf_recvmsg") && kernel_has(btf, "tcp_splice_read");
	r = -ENOTSUP;
	said[0] = '\0';
	if (want)
		r = open_and_load(&s, o, knobs, btf, true);
	o->evidence = r == 0;
	if (r < 0) {
		said[0] = '\0';
		r = open_and_load(&s, o, knobs, btf, false);
	}
	btf__free(btf);
	if (r < 0 || !s)
		return refused(r < 0 ? r : -EIO, reterr);
	r = keep(o, s);
	if (r == 0)
		r = map_memory(o);
	if (r < 0) {
		err_set(reterr, r, "cannot map the bypass' counters: %s", strerror(-r));
		goto out;
	}
	*o->node = (struct adit_node){.magic = ADIT_BYPASS_MAGIC, .abi = ADIT_BYPASS_ABI, .size = ADIT_BYPASS_SIZE,
				     .cast = o->cast};
	r = attach(s, cgroup, reterr);
	if (r == 0)
		o->link[BL_EVENTS] = keep_fd(bpf_link__fd(s->links.events));
out:
	bypass__destroy(s);
	return r;
}

/* ---- the pin folder ---- */

static const char *pin_path(const struct bypass_obj *o, const char *name, char out[256])
{
	snprintf(out, 256, "%s/%s", o->pin, name);
	return out;
}

static void unpin(const struct bypass_obj *o)
{
	char path[256];

	for (int i = 0; i < BYPASS_LINKS; i++)
		unlink(pin_path(o, link_name[i], path));
	for (int i = 0; i < BYPASS_MAPS; i++)
		unlink(pin_path(o, map_name[i], path));
	for (size_t i = 0; i < ARRAY_LEN(prog_name); i++)
		unlink(pin_path(o, prog_name[i], path));
	rmdir(o->pin);
}

static int pin_one(const struct bypass_obj *o, int fd, const char *name)
{
	char path[256];

	return fd < 0 || bpf_obj_pin(fd, pin_path(o, name, path)) == 0 ? 0 : -errno;
}

static int pin_all(const struct bypass_obj *o, struct err *reterr)
{
	const int prog[] = {o->bind, o->adopt};
	int r = 0;

	for (int i = 0; i < BYPASS_MAPS && r == 0; i++)
		r = pin_one(o, o->map[i], map_name[i]);
	for (size_t i = 0; i < ARRAY_LEN(prog) && r == 0; i++)
		r = pin_one(o, prog[i], prog_name[i]);
	for (int i = 0; i < BYPASS_LINKS && r == 0; i++)
		r = pin_one(o, o->link[i], link_name[i]);
	if (r < 0)
		unpin(o);
	return r == 0 ? 0 : err_set(reterr, r, "cannot pin below %s: %s", o->pin, strerror(-r));
}

/* Return: 0 shared; -ENOENT: nothing usable is there, load; or -errno with the sentence */
static int share(struct bypass_obj *o, struct err *reterr)
{
	char path[256];
	bool all = true;
	uint32_t live;

	o->map[BM_NODE] = bpf_obj_get(pin_path(o, map_name[BM_NODE], path));
	if (o->map[BM_NODE] < 0) {
		if (errno != ENOENT)
			return err_set(reterr, -errno, "%s: %s", path, strerror(errno));
		unpin(o); /* an agent was killed before it had pinned all */
		mkdir(o->pin, 0700);
		return -ENOENT;
	}
	for (int i = 0; i < BYPASS_MAPS; i++)
		if (i != BM_NODE)
			all = (o->map[i] = bpf_obj_get(pin_path(o, map_name[i], path))) >= 0 && all;
	o->bind = bpf_obj_get(pin_path(o, "bind", path));
	o->adopt = bpf_obj_get(pin_path(o, "adopt", path));
	for (int i = 0; i < BYPASS_LINKS; i++)
		o->link[i] = bpf_obj_get(pin_path(o, link_name[i], path));
	o->evidence = o->link[BL_READS] >= 0 && o->link[BL_SPLICES] >= 0;
	all = all && o->bind >= 0 && o->adopt >= 0 && o->link[BL_EVENTS] >= 0;
	if (all && map_memory(o) == 0 && o->node->magic == ADIT_BYPASS_MAGIC && o->node->abi == ADIT_BYPASS_ABI &&
	    o->node->size == ADIT_BYPASS_SIZE && obj_attached(o)) {
		o->cast = o->node->cast;
		o->shared = true;
		return 0;
	}
	live = 0;
	if (o->map[BM_AGENTS] >= 0)
		agents_prune(o->map[BM_AGENTS], 0, &live);
	if (live)
		return err_set(reterr, -EBUSY, "%s was pinned by another version of Adit (or its cgroup was removed), and %u of its agents "
			       "still run: stop those first", o->pin, live);
	return -ENOENT;
}

/* every file of it closed, as after {-1} */
static void drop(struct bypass_obj *o)
{
	for (int i = 0; i < BYPASS_MAPS; i++)
		clean_fd(&o->map[i]), o->map[i] = -1;
	for (int i = 0; i < BYPASS_LINKS; i++)
		clean_fd(&o->link[i]), o->link[i] = -1;
	clean_fd(&o->bind), o->bind = -1;
	clean_fd(&o->adopt), o->adopt = -1;
	if (o->node)
		munmap(o->node, sizeof(*o->node));
	if (o->slot)
		munmap(o->slot, o->slots * sizeof(*o->slot));
	if (o->pair)
		munmap((void *)o->pair, o->pairs * sizeof(*o->pair));
	o->node = NULL;
	o->slot = NULL;
	o->pair = NULL;
}

/* the folder that the lock is on; -1 and o->private: nothing can be pinned */
static int pin_folder(struct bypass_obj *o, const char *pin)
{
	char parent[200];
	struct statfs fs;
	char *slash;

	snprintf(parent, sizeof(parent), "%s", pin);
	slash = strrchr(parent, '/');
	if (slash && slash != parent)
		*slash = '\0';
	if (statfs(parent, &fs)) {
		snprintf(o->private, sizeof(o->private), "not shared with other agents: %.100s: %s", parent, strerror(errno));
		return -1;
	}
	if ((uint32_t)fs.f_type != BPFFS_MAGIC && (statfs(pin, &fs) || (uint32_t)fs.f_type != BPFFS_MAGIC)) {
		snprintf(o->private, sizeof(o->private), "not shared with other agents: %.60s is no bpffs (mount -t bpf bpf /sys/fs/bpf)", parent);
		return -1;
	}
	mkdir(pin, 0700);
	AUTO_FD fd = open(pin, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (fd < 0 || flock(fd, LOCK_EX)) {
		snprintf(o->private, sizeof(o->private), "not shared with other agents: %.100s: %s", pin, strerror(errno));
		return -1;
	}
	snprintf(o->pin, sizeof(o->pin), "%s/bypass", pin);
	mkdir(o->pin, 0700);
	return fd_take(&fd);
}

int obj_create(struct bypass_obj *o, const struct cfg_kernel *cfg, const struct bypass_knobs *knobs, int cgroup, struct err *reterr)
{
	libbpf_print_fn_t before = libbpf_set_print(listen_to);
	bool loaded = false;
	int r = -ENOENT;

	*o = (struct bypass_obj){.bind = -1, .adopt = -1, .dir = -1};
	memset(o->map, -1, sizeof(o->map));
	memset(o->link, -1, sizeof(o->link));
	if (cfg->pin)
		o->dir = pin_folder(o, cfg->pin);
	if (o->dir >= 0)
		r = share(o, reterr);
	if (r == -ENOENT) {
		drop(o);
		if (o->dir >= 0) {
			unpin(o);
			mkdir(o->pin, 0700);
		}
		loaded = true;
		r = load(o, cfg, knobs, cgroup, reterr);
		if (r == 0 && o->dir >= 0)
			r = pin_all(o, reterr);
	}
	if (r == 0)
		r = enter(o, reterr);
	if (r < 0 && loaded && o->dir >= 0)
		unpin(o);
	if (o->dir >= 0)
		flock(o->dir, LOCK_UN);
	libbpf_set_print(before);
	if (r < 0)
		obj_destroy(o);
	return r;
}

void obj_destroy(struct bypass_obj *o)
{
	uint32_t others = 0;

	if (o->dir >= 0)
		flock(o->dir, LOCK_EX);
	if (o->agent)
		bpf_map_delete_elem(o->map[BM_AGENTS], &o->tgid);
	if (o->map[BM_AGENTS] >= 0)
		agents_prune(o->map[BM_AGENTS], o->tgid, &others);
	if (o->dir >= 0 && !others && o->agent)
		unpin(o);
	drop(o);
	clean_fd(&o->dir); /* and the lock with it */
	o->dir = -1;
}

bool obj_attached(const struct bypass_obj *o)
{
	struct bpf_link_info info = {0};
	uint32_t len = sizeof(info);

	return bpf_obj_get_info_by_fd(o->link[BL_EVENTS], &info, &len) == 0 && info.cgroup.cgroup_id;
}
