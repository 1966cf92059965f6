/*
 * Network namespaces. A socket belongs for life to the namespace its maker's thread was in (socket(2) takes current->nsproxy->net_ns),
 * so a thread enters, makes the socket, and returns; nothing else happens in between. The way back is a descriptor that is opened
 * before leaving, so that it cannot fail for lack of descriptors or names.
 *
 * A namespace lives as long as a process, a mounted name, a descriptor or a socket refers to it. After `ip netns del` a
 * descriptor of ours would keep it, with its interfaces, alive: so a kept one is compared with the name (device and inode of
 * nsfs, ioctl_ns(2)) each time it is used, and by netns_gone() now and then.
 */
#include "net/netns.h"
#include "base/clean.h"
#include <fcntl.h>
#include <limits.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>

#define NAMES "/run/netns" /* ip-netns(8) */

static bool is_pid(const char *name)
{
	return !strncmp(name, "pid:", 4);
}

static int path_of(const char *name, char out[PATH_MAX], struct err *reterr)
{
	size_t digits = is_pid(name) ? strspn(name + 4, "0123456789") : 0;
	int n;

	if (is_pid(name)) {
		if (!digits || digits > 9 || name[4 + digits] || name[4] == '0')
			return err_set(reterr, -EINVAL, "network namespace '%s': want pid:NUMBER", name);
		n = snprintf(out, PATH_MAX, "/proc/%s/ns/net", name + 4);
	} else if (name[0] == '/') {
		n = snprintf(out, PATH_MAX, "%s", name);
	} else {
		if (!name[0] || strchr(name, '/') || !strcmp(name, ".") || !strcmp(name, ".."))
			return err_set(reterr, -EINVAL, "network namespace '%s': want a name, pid:NUMBER or an absolute path", name);
		n = snprintf(out, PATH_MAX, NAMES "/%s", name);
	}
	if (n < 0 || n >= PATH_MAX)
		return err_set(reterr, -ENAMETOOLONG, "network namespace: the name is too long");
	return 0;
}

static int refuse(const char *name, int e, struct err *reterr)
{
	const char *hint = "";

	if (e == ENOENT)
		hint = is_pid(name) ? "; there is no such process" : name[0] == '/' ? "" : "; see: ip netns list";
	else if (e == EACCES || e == EPERM)
		hint = is_pid(name) ? "; another user's process needs CAP_SYS_PTRACE" : "; run as root";
	return err_set(reterr, is_pid(name) && e == ENOENT ? -ESRCH : -e, "network namespace '%s': %s%s", name, strerror(e), hint);
}

int netns_open(const char *name, struct err *reterr)
{
	char path[PATH_MAX];
	int r = path_of(name, path, reterr);
	AUTO_FD fd = -1;

	if (r < 0)
		return r;
	fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	if (fd < 0)
		return refuse(name, errno, reterr);
	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET) /* ENOTTY: a file that `ip netns` left, or anything else */
		return err_set(reterr, -EINVAL, "network namespace '%s': %s is no network namespace%s", name, path,
			       name[0] == '/' || is_pid(name) ? "" : "; left over? see: ip netns list");
	return fd_take(&fd);
}

const char *netns_why(int error)
{
	if (error == -EPERM)
		return "entering it needs CAP_SYS_ADMIN, here and in its user namespace";
	return strerror(-error);
}

int netns_enter(int fd, int *ret_back)
{
	static atomic_bool may_return;
	AUTO_FD back = -1;

	*ret_back = -1;
	if (fd < 0)
		return 0;
	back = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
	/* in a user namespace one may be allowed to leave and not to return: going where one is asks for the same rights */
	if (back < 0 || (!atomic_load_explicit(&may_return, memory_order_relaxed) && setns(back, CLONE_NEWNET)))
		return -errno;
	atomic_store_explicit(&may_return, true, memory_order_relaxed);
	if (setns(fd, CLONE_NEWNET))
		return -errno;
	*ret_back = fd_take(&back);
	return 0;
}

void netns_leave(int back)
{
	if (back < 0)
		return;
	/* allowed (see above), so only memory can be short. A thread that stays there would connect in the wrong network: */
	if (setns(back, CLONE_NEWNET) && (errno != ENOMEM || setns(back, CLONE_NEWNET)))
		abort();
	close(back);
}

void netns_put(struct netns *n)
{
	if (n->ino)
		close(n->fd);
	n->ino = 0;
}

static void compare(struct netns *n)
{
	char path[PATH_MAX];
	struct stat st;

	if (!n->name || !n->ino)
		return;
	if (path_of(n->name, path, NULL) == 0 && !stat(path, &st) && st.st_dev == n->dev && st.st_ino == n->ino)
		return;
	n->dead = is_pid(n->name);
	n->moved = true;
	netns_put(n);
}

bool netns_gone(struct netns *n)
{
	bool moved;

	compare(n);
	moved = n->moved;
	n->moved = false;
	return moved;
}

int netns_get(struct netns *n, int *ret_fd, struct err *reterr)
{
	struct stat st;
	int fd;

	*ret_fd = -1;
	if (!n->name)
		return 0;
	compare(n);
	if (n->dead)
		return err_set(reterr, -ESRCH, "network namespace '%s': the process has ended", n->name);
	if (!n->ino) {
		fd = netns_open(n->name, reterr);
		if (fd < 0)
			return fd;
		if (fstat(fd, &st)) {
			close(fd);
			return err_set(reterr, -EIO, "network namespace '%s': %s", n->name, strerror(EIO));
		}
		n->fd = fd;
		n->dev = st.st_dev;
		n->ino = st.st_ino;
	}
	*ret_fd = n->fd;
	return 0;
}
