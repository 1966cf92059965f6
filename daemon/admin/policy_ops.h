/*
 * What the API may ask about policies: plain data both ways, so that admin/ needs to know neither files nor snapshots (control/ does,
 * which is above). Main thread.
 */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include <stdint.h>
#include <sys/types.h>

/** struct policy_order - a change that is asked for */
struct policy_order {
	const char *text; /* apply: YAML, with what is to be added or changed; NULL: delete @name */
	size_t n;
	const char *file; /* what @text is called in messages */
	const char *name; /* delete: which; apply: the only one that @text may have; NULL: any */
	bool prune;	  /* applied before and not in @text: removed */
	bool dry_run;	  /* judge and compare only */
	bool if_generation; /* refuse unless @generation is in force */
	uint64_t generation;
};

enum policy_fate { POLICY_ADDED, POLICY_CHANGED, POLICY_REMOVED, POLICY_FATES };
/** struct policy_outcome - what came, or would come of it; zeroed is empty */
struct policy_outcome {
	uint64_t generation;	  /* in force now */
	uint32_t n[POLICY_FATES]; /* how many; so many names, NUL-terminated one behind the other, in names[] */
	uint32_t unchanged;
	struct text names[POLICY_FATES];
	struct text diff; /* what changes, policy by policy; "# NAME: added" and lines with "+ ", "- ", "  " in front */
	bool diff_cut;	  /* it was longer than POLICY_DIFF_MAX */
};
#define POLICY_DIFF_MAX (256u << 10) /* bytes */
static inline void policy_outcome_finish(struct policy_outcome *o)
{
	for (int i = 0; i < POLICY_FATES; i++)
		text_finish(&o->names[i]);
	text_finish(&o->diff);
}

/** struct policy_view - one policy as it is written */
struct policy_view {
	const char *name, *file, *text; /* text: its keys as YAML, @n bytes */
	uint32_t line, n;
	bool applied; /* kept by aditd, to be changed with aditctl; else of a file of the configuration */
};
/** struct policy_views - all in force, in order; valid until the next call that changes anything */
struct policy_views {
	uint64_t generation;
	const struct policy_view *at;
	uint32_t n;
};

struct admin_peer {
	pid_t pid;
	uid_t uid;
	gid_t gid;
};
/** struct admin_act - an attempt to change something, for the audit log */
struct admin_act {
	struct admin_peer by;
	const char *what;   /* "DELETE /v1/conns/7" */
	unsigned int status; /* as answered */
	const char *error;  /* as answered, NULL: none */
	const char *detail; /* a JSON object; NULL: none */
	bool stranger;	    /* refused for who it is */
};

/**
 * struct policy_ops - members that are NULL are answered with 501
 * @change:	Return: 0 and @ret (finish it); or with the sentence -EINVAL (the text), -ENOENT (no such policy), -EEXIST (it is a file's),
 *		-ESTALE (another generation), -EROFS (the state folder), -ENOMEM, other -errno; then nothing was changed
 * @views:	Return: 0 or -errno with the sentence
 * @audit:	one line of the log
 * @audit_tail:	the last @n lines, oldest first, each a JSON object and a line break
 */
struct policy_ops {
	int (*change)(void *arg, const struct policy_order *o, struct policy_outcome *ret, struct err *reterr);
	int (*views)(void *arg, struct policy_views *ret, struct err *reterr);
	void (*audit)(void *arg, const struct admin_act *act);
	int (*audit_tail)(void *arg, uint32_t n, struct text *out, struct err *reterr);
	void *arg;
};
