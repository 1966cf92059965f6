/*
 * Credentials: the identities' files and what is made of them. Files are watched; those that changed make new contexts, the others keep
 * theirs; files that are no good leave the old context in force, and are complained about in the log, in metrics and by `aditctl cert`.
 * Main thread.
 */
#pragma once
#include "admin/cert_ops.h"
#include "base/text.h"
#include "model/config.h"
#include <stdbool.h>

struct creds;

/** struct creds_ops - @changed: files of some identity have changed so that another context is due: make a snapshot */
struct creds_ops {
	void (*changed)(void *arg);
	void *arg;
};

int creds_create(struct creds **ret, const struct creds_ops *ops, struct err *reterr);
void creds_destroy(struct creds *c); /* NULL is fine */
/**
 * creds_load() - the contexts of @cfg's identities, by index, as the files are now; those without change are the ones in force
 * @ret: malloc'd, each a reference for the caller; what snapshot_create() takes
 * Files of an identity that is in force with the same file names may be bad: then its context stays. All else is an error.
 */
int creds_load(struct creds *c, const struct config *cfg, struct tls_ctx ***ret, struct err *reterr);
/** creds_commit() - @tls, of @cfg, are in force now: @report says what is new, a line each (NULL: nobody wants to know). Watches their files. */
void creds_commit(struct creds *c, const struct config *cfg, struct tls_ctx *const *tls, struct text *report);
int creds_fd(const struct creds *c); /* readable: creds_run() */
void creds_run(struct creds *c);
/** creds_tick() - once a second: what runs out is said in time */
void creds_tick(struct creds *c);
/** creds_list() - for struct cert_ops */
uint32_t creds_list(void *creds, const struct cert_row **ret);
