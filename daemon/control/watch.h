/*
 * Files that may change: told once they have, and are at rest again. A file may be replaced by rename, by another link in front of it
 * (Kubernetes' ..data, certbot), by truncating and writing; its folder may go and come back. Only another content counts: a file that is
 * touched, or replaced by a copy, has not changed.
 *
 * Main thread. One descriptor for its epoll; nothing is called but from watch_run() and watch_now().
 */
#pragma once
#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>

struct watch;

#define WATCH_SETTLE_MS 200u  /* so long nothing must happen to a file; ten times that at the most */
#define WATCH_POLL_MS	5000u /* for what inotify does not see: network file systems, folders of folders that move, its queue overflown */

/** struct watch_ops - @changed: some of the files have other content; watch_changed() says which. May call watch_set(). */
struct watch_ops {
	void (*changed)(void *arg);
	void *arg;
	uint32_t settle_ms, poll_ms; /* 0: those above */
};

/** watch_create() - watches nothing yet. Without inotify (limits of the machine) it polls. Return: 0 or -errno with the sentence. */
int watch_create(struct watch **ret, const struct watch_ops *ops, struct err *reterr);
/**
 * watch_set() - from now on these @n paths, copied. A path that was watched before keeps what is known of it; of a new one the content now
 * is what changes are measured against. A folder counts as changed when files in it come, go or change. A path that does
 * not exist is watched for.
 * Return: 0, or -ENOMEM (then it is as before).
 */
int watch_set(struct watch *w, const char *const *paths, uint32_t n, struct err *reterr);
int watch_fd(const struct watch *w); /* readable: watch_run() */
void watch_run(struct watch *w);
/** watch_now() - look at once, without waiting for rest. Return: had anything changed (then ops.changed was called)? */
bool watch_now(struct watch *w);
bool watch_changed(const struct watch *w, uint32_t i); /* within ops.changed: has path @i? */
void watch_destroy(struct watch *w); /* NULL is fine */
