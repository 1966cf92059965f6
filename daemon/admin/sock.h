/* The admin's sockets: where they are bound, and who is at the other end of the UNIX one. Main thread. */
#pragma once
#include "model/addr.h"
#include <sys/types.h>

/** struct sock_file - the socket file as we made it, so that only ours is removed */
struct sock_file {
	const char *path; /* not owned */
	dev_t dev;
	ino_t ino;
};

/**
 * sock_unix() - bind @path with file mode @mode and listen
 * Missing parent directories are made (0755). A socket file whose daemon is dead is removed; nothing else ever is.
 * Return: descriptor, or -EADDRINUSE (another daemon answers), -EEXIST (a file that is no socket), -errno.
 */
int sock_unix(const char *path, mode_t mode, struct sock_file *ret_file, struct err *reterr);
/** sock_unix_adopted() - the socket bound to @path came from another process: the file is ours to remove now */
void sock_unix_adopted(const char *path, struct sock_file *ret_file);
/** sock_unix_remove() - unlink the file if it is still the one that was bound */
void sock_unix_remove(const struct sock_file *f);
/** sock_tcp() - bind @a and listen. Return: descriptor or -errno with the sentence. */
int sock_tcp(const struct addr *a, struct err *reterr);

struct sock_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
	bool may_read, may_change;
};

/**
 * sock_peer() - who is connected to @fd, and what that may do
 * root and the daemon's own user may do all; members of the file's group (supplementary ones count) read if the mode lets the
 * group write to the file, everybody if it lets others. What cannot be found out is not allowed.
 * Return: 0 or -errno (nothing is allowed).
 */
int sock_peer(int fd, const char *path, struct sock_peer *ret);
