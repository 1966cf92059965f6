/*
 * Talking to the service manager: sd_notify(3)'s protocol, and the descriptors it hands us. Without a manager (NOTIFY_SOCKET unset)
 * every call does nothing. Any thread once notify_open() has returned: one datagram per call, nothing is kept.
 */
#pragma once
#include "base/err.h"
#include "net/adopt.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <sys/un.h>

struct notify {
	int fd; /* -1: nobody wants to know */
	struct sockaddr_un to;
	socklen_t to_len;
	uint64_t watchdog_ms; /* the manager restarts us when it hears nothing for so long; 0: it does not */
};

/**
 * notify_open() - from NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID
 * Return: 0, also without a manager; -errno with the sentence when there is a manager and it cannot be told anything.
 */
int notify_open(struct notify *n, struct err *reterr);
void notify_close(struct notify *n);

/** notify_ready() - listeners are open, what there is of BPF is attached; @status for people */
void notify_ready(const struct notify *n, const char *status);
/** notify_reloading() - until the next notify_ready() */
void notify_reloading(const struct notify *n);
void notify_stopping(const struct notify *n);
void notify_status(const struct notify *n, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
void notify_watchdog(const struct notify *n);
/** notify_extend() - what goes on (start, stop) needs so much longer, counted from now */
void notify_extend(const struct notify *n, uint64_t ms);
/** notify_main_pid() - the service's main process is @pid from now on. It must be in the service's cgroup. */
void notify_main_pid(const struct notify *n, pid_t pid);
/**
 * notify_store() - the manager keeps a copy of @fd and hands it to the next process of this service, called @name
 * At most 255 printable characters without ':'. FileDescriptorStoreMax= of the unit says how many.
 * Return: 0, -errno: it was not sent.
 */
int notify_store(const struct notify *n, int fd, const char *name);
void notify_store_remove(const struct notify *n, const char *name);

/**
 * notify_inherit() - LISTEN_PID, LISTEN_FDS, LISTEN_FDNAMES: what the manager opened or kept for us goes into @set
 * The variables are unset: children do not take it for theirs. Before other descriptors are opened. Return: how many, or -errno.
 */
int notify_inherit(struct adopt *set, struct err *reterr);
