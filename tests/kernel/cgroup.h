/*
 * For the programs that attach to a cgroup: one of their own below the cgroup2 mount, which they enter, and which is removed when they
 * end.
 */
#pragma once
#include "bpf.h"
#include <mntent.h>
#include <sys/stat.h>
#include <sys/wait.h>

static int cgroup_fd = -1;
static char cgroup_dir[256];

static inline void cgroup_write(const char *dir, const char *file, const char *text)
{
	char path[320];
	int fd;

	snprintf(path, sizeof(path), "%s/%s", dir, file);
	fd = open(path, O_WRONLY | O_CLOEXEC);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text), "%s", path);
	close(fd);
}

/*
 * The rest of main() runs in a child inside the new cgroup; the parent waits for it, removes the cgroup (a process cannot leave its
 * own behind empty) and ends with the child's status.
 */
static inline void cgroup_enter(void)
{
	char mount[128] = "", pid[16];
	struct mntent *m;
	FILE *f = setmntent("/proc/self/mounts", "re");
	int status;
	pid_t p;

	CHECK(f, "/proc/self/mounts");
	while ((m = getmntent(f)))
		if (!strcmp(m->mnt_type, "cgroup2"))
			snprintf(mount, sizeof(mount), "%s", m->mnt_dir);
	endmntent(f);
	if (!mount[0])
		skip("cgroup2 is not mounted");
	snprintf(cgroup_dir, sizeof(cgroup_dir), "%s/adit-kernel-%d", mount, getpid());
	if (mkdir(cgroup_dir, 0755))
		skip("cannot make a cgroup below %s: %s", mount, strerror(errno));
	cgroup_fd = open(cgroup_dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	CHECK(cgroup_fd >= 0, "%s", cgroup_dir);
	fflush(stdout);
	p = fork();
	CHECK(p >= 0, "fork");
	if (!p) {
		snprintf(pid, sizeof(pid), "%d", getpid());
		cgroup_write(cgroup_dir, "cgroup.procs", pid);
		return;
	}
	waitpid(p, &status, 0);
	close(cgroup_fd);
	for (int i = 0; i < 100 && rmdir(cgroup_dir) && errno == EBUSY; i++)
		usleep(10000);
	exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
}
