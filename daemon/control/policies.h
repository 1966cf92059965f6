/*
 * The policies applied with aditctl: kept in the state folder, one source of the configuration beside its files, changed as a whole.
 * Main thread.
 */
#pragma once
#include "admin/policy_ops.h"
#include "config/doc.h"
#include "control/audit.h"
#include "control/store.h"

struct policies;

/**
 * struct policies_host - what puts a set in force
 * @judge:	would the configuration be accepted with YAML @text (@n bytes, called @name) as the applied policies? @text NULL: none
 * @install:	put it in force, the same way; what was before is when this fails
 * @files:	the policies of the configuration's files, as last read, in order
 * Return of all: 0 or -errno with the sentence.
 */
struct policies_host {
	int (*judge)(void *arg, const char *name, const char *text, size_t n, struct err *reterr);
	int (*install)(void *arg, const char *name, const char *text, size_t n, struct err *reterr);
	int (*files)(void *arg, struct doc *ret, struct err *reterr);
	void *arg;
};

/**
 * policies_open() - read state folder @dir
 * @dir NULL: there is none; nothing can be changed then.
 * Return: 0, or -errno with the sentence when what was applied is there and cannot be known: do not start then.
 */
int policies_open(struct policies **ret, const char *dir, struct err *reterr);
void policies_close(struct policies *p); /* NULL is fine */
/** policies_attach() - before policies_change(); copied. @audit stays the caller's; NULL: nothing can be changed. */
void policies_attach(struct policies *p, const struct policies_host *h, struct audit *audit);
/** policies_source() - what is applied, as a file of the configuration; @ret->text NULL: nothing is. Valid until the next change. */
const struct store_text *policies_source(const struct policies *p);
/** policies_files_changed() - the configuration's files were read again */
void policies_files_changed(struct policies *p);

/** policies_change(), policies_views() - as struct policy_ops has it */
int policies_change(struct policies *p, const struct policy_order *o, struct policy_outcome *ret, struct err *reterr);
int policies_views(struct policies *p, struct policy_views *ret, struct err *reterr);
