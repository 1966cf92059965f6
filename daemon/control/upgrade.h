/*
 * One daemon takes over from another while connections come: `aditd --upgrade`, or `aditctl upgrade`, which has the running daemon start
 * the new one. The two speak over a UNIX socket beside the admin socket (ADMIN_SOCKET.upgrade; root and the daemon's own user only).
 * Main thread.
 *
 *	new			old
 *	HELLO version		is it one of us, do we speak the same?
 *				SOCKETS (with the descriptors) ..., END
 *	builds everything
 *	READY
 *				GO
 *	accepts
 *	TAKEN
 *				lets go of the sockets, of what is pinned, of both addresses of the admin API; MAINPID= to the manager
 *				DONE, and drains
 *	READY=1
 *
 * Until TAKEN the old one goes on accepting, too: the sockets are the same, so are their queues. If the new one goes away before it, nothing
 * has changed but that.
 */
#pragma once
#include "admin/admin.h"
#include "base/err.h"
#include "net/adopt.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

struct daemon;
struct notify;

#define UPGRADE_VERSION 1u

/** struct upgrade - the old one's side */
struct upgrade {
	struct daemon *d;
	struct admin *admin;
	const struct notify *notify;
	int epoll, listen, peer; /* -1: none */
	char path[112], **argv;
	dev_t dev; /* of the socket's file: only ours is removed */
	ino_t ino;
	pid_t child, peer_pid, failed;
	uint64_t deadline_ms; /* of the peer */
	bool asked, ready, replaced; /* it has got the sockets; it said READY; it said TAKEN */
	struct err why;	      /* of the last that failed; "" */
};

/**
 * upgrade_open() - listen for a successor; without an admin socket there is none
 * @argv: how we were started, for upgrade_spawn(); outlives @u
 * Return: 0, or -errno with the sentence; upgrade_close() in any case.
 */
int upgrade_open(struct upgrade *u, struct daemon *d, struct admin *admin, const struct notify *n, char **argv, struct err *reterr);
int upgrade_fd(const struct upgrade *u); /* readable: upgrade_run() */
/** upgrade_run() - also once a second or so. Return: true: somebody else is the daemon now; drain. */
bool upgrade_run(struct upgrade *u);
void upgrade_close(struct upgrade *u);
/** upgrade_spawn() - start @program (NULL: the file we were started from) with our arguments and --upgrade. Return: its pid or -errno. */
int upgrade_spawn(struct upgrade *u, const char *program, struct err *reterr);
void upgrade_state(const struct upgrade *u, struct admin_upgrade *ret);

/* ---- the new one's side ---- */
/**
 * upgrade_ask() - get the sockets of the daemon behind @admin_socket
 * Return: descriptor for the rest of the talk (caller closes), -ENOENT: nobody is there, or -errno with the sentence.
 */
int upgrade_ask(const char *admin_socket, struct adopt *set, struct err *reterr);
/** upgrade_ready() - everything is built; returns when we may begin. Return: 0 or -errno with the sentence: then leave. */
int upgrade_ready(int fd, struct err *reterr);
/** upgrade_taken() - we accept; returns when the other has let go, or is gone */
void upgrade_taken(int fd);
