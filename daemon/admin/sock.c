/*
 * The admin's sockets.
 *
 * A UNIX socket outlives its daemon as a file, and bind() refuses while the file is there. Whether a daemon is behind it is
 * found out by connecting: ECONNREFUSED means nobody listens, and the file is removed; an answer means that a second
 * daemon was started with the same configuration, which is refused instead of taking the socket away from the first.
 *
 * The mode is set on the socket before bind(), since the kernel creates the file with the socket's mode, and umask can only
 * narrow it: there is no moment in which others may connect. chmod() afterwards undoes what umask took.
 *
 * The kernel lets connect() through by the file's mode. SO_PEERCRED is asked again, because the mode may have been changed
 * by hand, and because reading and changing are different rights.
 */
#include "admin/sock.h"
#include "base/clean.h"
#include <string.h>
#include <sys/stat.h>

#define BACKLOG	   64
#define GROUPS_MAX 1024

/* mkdir -p for what is in front of the last slash */
static int parents_make(const char *path, struct err *reterr)
{
	char dir[sizeof(((struct sockaddr_un *)NULL)->sun_path)];
	char *slash;

	strcpy(dir, path); /* the caller looked at the length */
	slash = strrchr(dir, '/');
	if (!slash || slash == dir)
		return 0;
	*slash = '\0';
	for (char *p = dir + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		if (mkdir(dir, 0755) < 0 && errno != EEXIST)
			return err_set(reterr, -errno,
				       "admin socket: cannot make directory %s: %s; make it, or set admin.socket", dir,
				       strerror(errno));
		*p = c;
		if (c == '\0')
			return 0;
	}
}

/* Return: 0 when bind() may follow. */
static int stale_remove(const struct sockaddr_un *sa, struct err *reterr)
{
	const char *path = sa->sun_path;
	struct stat st;
	AUTO_FD fd = -1;

	if (lstat(path, &st) < 0)
		return errno == ENOENT ? 0 : err_set(reterr, -errno, "admin socket %s: %s", path, strerror(errno));
	if (!S_ISSOCK(st.st_mode))
		return err_set(reterr, -EEXIST,
			       "admin socket %s: there is a file that is no socket; remove it, or set admin.socket",
			       path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return err_set(reterr, -errno, "admin socket: %s", strerror(errno));
	if (connect(fd, (const struct sockaddr *)sa, sizeof(*sa)) == 0 ||
	    errno == EAGAIN) /* EAGAIN: its backlog is full */
		return err_set(
			reterr, -EADDRINUSE,
			"admin socket %s: another aditd answers there; stop it, or set admin.socket to another path",
			path);
	if (errno != ECONNREFUSED)
		return err_set(reterr, -errno, "admin socket %s: %s", path, strerror(errno));
	if (unlink(path) < 0 && errno != ENOENT)
		return err_set(reterr, -errno, "admin socket %s: cannot remove the one left by a dead daemon: %s", path,
			       strerror(errno));
	return 0;
}

int sock_unix(const char *path, mode_t mode, struct sock_file *ret_file, struct err *reterr)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;
	AUTO_FD fd = -1;
	int r;

	if (strlen(path) >= sizeof(sa.sun_path))
		return err_set(reterr, -ENAMETOOLONG, "admin socket %s: longer than %zu bytes", path,
			       sizeof(sa.sun_path) - 1);
	strcpy(sa.sun_path, path);
	r = parents_make(path, reterr);
	if (r == 0)
		r = stale_remove(&sa, reterr);
	if (r < 0)
		return r;
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd < 0 || fchmod(fd, mode) < 0 || bind(fd, (struct sockaddr *)&sa, sizeof(sa)) < 0)
		return err_set(reterr, -errno, "admin socket %s: %s", sa.sun_path, strerror(errno));
	if (lstat(path, &st) < 0 || chmod(path, mode) < 0 || listen(fd, BACKLOG) < 0) {
		r = err_set(reterr, -errno, "admin socket %s: %s", sa.sun_path, strerror(errno));
		unlink(path);
		return r;
	}
	*ret_file = (struct sock_file){.path = path, .dev = st.st_dev, .ino = st.st_ino};
	return fd_take(&fd);
}

void sock_unix_adopted(const char *path, struct sock_file *ret_file)
{
	struct stat st;

	*ret_file = (struct sock_file){0};
	if (lstat(path, &st) == 0)
		*ret_file = (struct sock_file){.path = path, .dev = st.st_dev, .ino = st.st_ino};
}

void sock_unix_remove(const struct sock_file *f)
{
	struct stat st;

	if (f->path && lstat(f->path, &st) == 0 && st.st_dev == f->dev && st.st_ino == f->ino)
		unlink(f->path);
}

int sock_tcp(const struct addr *a, struct err *reterr)
{
	struct sockaddr_storage sa;
	socklen_t n = addr_to_sa(a, &sa);
	char text[ADDR_STR];
	const int one = 1;
	AUTO_FD fd = socket(sa.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

	if (fd >= 0)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (fd < 0 || bind(fd, (struct sockaddr *)&sa, n) < 0 || listen(fd, BACKLOG) < 0)
		return err_set(reterr, -errno, "metrics address %s: %s; set admin.metrics to another",
			       addr_str(a, text), strerror(errno));
	return fd_take(&fd);
}

/* Is the peer in group @gid? SO_PEERCRED knows the primary one, SO_PEERGROUPS (Linux 4.13) the others. */
static bool peer_in_group(int fd, gid_t primary, gid_t gid)
{
	gid_t groups[GROUPS_MAX];
	socklen_t n = sizeof(groups);

	if (primary == gid)
		return true;
	if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &n) < 0)
		return false;
	for (size_t i = 0; i < n / sizeof(groups[0]); i++)
		if (groups[i] == gid)
			return true;
	return false;
}

int sock_peer(int fd, const char *path, struct sock_peer *ret)
{
	struct ucred c;
	socklen_t n = sizeof(c);
	struct stat st;

	*ret = (struct sock_peer){.uid = (uid_t)-1, .gid = (gid_t)-1};
	if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &c, &n) < 0)
		return -errno;
	*ret = (struct sock_peer){.pid = c.pid, .uid = c.uid, .gid = c.gid};
	ret->may_change = c.uid == 0 || c.uid == geteuid();
	ret->may_read = ret->may_change;
	if (!ret->may_read && lstat(path, &st) == 0)
		ret->may_read = (st.st_mode & S_IWOTH) ||
				((st.st_mode & S_IWGRP) && peer_in_group(fd, c.gid, st.st_gid));
	return 0;
}
