/*
 * Finding the hierarchies and folders that the kernel plane needs, with sentences that say what to mount.
 *
 * The cgroup2 hierarchy is not always at /sys/fs/cgroup: beside cgroup1 it is at .../unified, and a container may see a part only.
 * Source: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.
 */
#include "kern/place.h"
#include "base/clean.h"
#include <bpf/libbpf.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/utsname.h>
#include <sys/vfs.h>

#define BPFFS_MAGIC   0xcafe4a11u /* linux/magic.h */
#define FILEID_KERNFS 0xfe	  /* include/linux/exportfs.h */
#define PATH_LEN      512
#define LOCK_PAUSE_MS 10
#define LOCK_TRIES    500

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

/* a cgroup's id is its folder's inode number, where ino_t has 64 bits (fs/kernfs/dir.c) */
uint64_t place_cgroup_id(int fd)
{
	struct stat st;

	return fstat(fd, &st) ? 0 : st.st_ino;
}

int place_cgroup(const char *below, uint64_t *ret_root, struct err *reterr)
{
	char root[256], path[PATH_LEN];
	int r = cgroup_mount(root, reterr);

	if (r < 0)
		return r;
	snprintf(path, sizeof(path), "%s/%s", root, below ? below : "");
	AUTO_FD top = open(root, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	AUTO_FD at = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	if (top < 0 || at < 0)
		return err_set(reterr, -errno, "cgroup %s: %s", path, strerror(errno));
	*ret_root = place_cgroup_id(top);
	return fd_take(&at);
}

int place_cgroup_path(int root, size_t root_len, uint64_t id, char *path, size_t size)
{
	struct {
		struct file_handle h;
		uint64_t id;
	} handle = {.h = {.handle_bytes = sizeof(id), .handle_type = FILEID_KERNFS}};
	static const char gone[] = " (deleted)";
	char link[32];
	ssize_t n;

	memcpy(handle.h.f_handle, &id, sizeof(id));
	AUTO_FD fd = open_by_handle_at(root, &handle.h, O_PATH | O_CLOEXEC);
	if (fd < 0)
		return -errno;
	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	n = readlink(link, path, size - 1);
	if (n < 0)
		return -errno;
	if ((size_t)n < root_len || (size_t)n == size - 1)
		return -ESTALE;
	path[n] = '\0';
	if ((size_t)n >= sizeof(gone) && !strcmp(path + n - (sizeof(gone) - 1), gone)) /* between the two */
		return -ESTALE;
	memmove(path, path + root_len, (size_t)n - root_len + 1);
	return 0;
}

int place_cgroup_own(struct err *reterr)
{
	FILE *f = fopen("/proc/self/cgroup", "re");
	char line[PATH_LEN];
	uint64_t root;
	int r = -ENOENT;

	while (f && r == -ENOENT && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (!strncmp(line, "0::/", 4))
			r = place_cgroup(line + 3, &root, reterr);
	}
	if (f)
		fclose(f);
	return r == -ENOENT ? err_set(reterr, r, "this process is in no cgroup of a cgroup2 hierarchy that is mounted here") : r;
}

static bool is_bpffs(const char *path)
{
	struct statfs fs;

	return !statfs(path, &fs) && (uint32_t)fs.f_type == BPFFS_MAGIC;
}

/* others hold it while they load programs, a fraction of a second; one that was stopped then must not stop us */
static int lock(int fd)
{
	for (int i = 0; i < LOCK_TRIES; i++) {
		if (!flock(fd, LOCK_EX | LOCK_NB))
			return 0;
		if (errno != EWOULDBLOCK)
			return -errno;
		(void)poll(NULL, 0, LOCK_PAUSE_MS);
	}
	return -EWOULDBLOCK;
}

int place_pins(const char *pin, bool make, struct err *reterr)
{
	char parent[PATH_LEN];
	char *slash;
	int r;

	snprintf(parent, sizeof(parent), "%s", pin);
	slash = strrchr(parent, '/');
	if (slash && slash != parent)
		*slash = '\0';
	if (!is_bpffs(parent) && !is_bpffs(pin))
		return err_set(reterr, -ENOENT, "%s is in no bpffs (mount -t bpf bpf /sys/fs/bpf)", pin);
	if (make)
		(void)mkdir(pin, 0700);
	AUTO_FD fd = open(pin, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	r = fd < 0 ? -errno : lock(fd);
	if (r < 0)
		return err_set(reterr, r, "%s: %s", pin, r == -EWOULDBLOCK ? "another agent has it locked: is one stopped?" : strerror(-r));
	return fd_take(&fd);
}

/*
 * A kernel that hides its addresses says 0 instead, and libbpf believes it: a program that compares with a function's address would be
 * loaded and never find it. _stext is among the first lines; symbols of a processor's own memory, before it, may be 0 truly.
 */
int place_addresses(struct err *reterr)
{
	FILE *f = fopen("/proc/kallsyms", "re");
	char line[256], name[128] = "";
	unsigned long long at = 0;
	int r = f ? -EACCES : -errno;

	while (f && strcmp(name, "_stext") && fgets(line, sizeof(line), f))
		if (sscanf(line, "%llx %*c %127s", &at, name) != 2)
			name[0] = '\0';
	if (f)
		fclose(f);
	if (!strcmp(name, "_stext") && at)
		return 0;
	return err_set(reterr, r, "the addresses of the kernel's functions in /proc/kallsyms are hidden%s%s: CAP_SYSLOG is needed beside "
		       "CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN, and in a systemd unit ProtectKernelTunables=no and ProtectKernelLogs=no", r == -EACCES ? "" : ": ",
		       r == -EACCES ? "" : strerror(-r));
}

/* ---- libbpf ---- */

static char said[200];
static libbpf_print_fn_t before;

static int print(enum libbpf_print_level level, const char *fmt, va_list ap)
{
	if (level != LIBBPF_WARN || said[0])
		return 0;
	vsnprintf(said, sizeof(said), fmt, ap);
	said[strcspn(said, "\n")] = '\0';
	return 0;
}

void place_hear(void)
{
	said[0] = '\0';
	before = libbpf_set_print(print);
}

void place_unhear(void)
{
	(void)libbpf_set_print(before);
}

int place_refused(int r, const char *what, struct err *reterr)
{
	struct utsname u = {0};

	(void)uname(&u);
	if (r == -EPERM || r == -EACCES)
		return err_set(reterr, r, "the kernel refuses to load BPF programs: CAP_BPF, CAP_PERFMON and CAP_NET_ADMIN are needed (or "
			       "CAP_SYS_ADMIN), and no lockdown (%s)", said[0] ? said : strerror(-r));
	if (r == -ESRCH || r == -ENOENT)
		return err_set(reterr, r, "this kernel has no type information (CONFIG_DEBUG_INFO_BTF): %s", said[0] ? said : strerror(-r));
	return err_set(reterr, r, "Linux %s does not take %s (6.1 or later is needed): %s", u.release, what, said[0] ? said : strerror(-r));
}
