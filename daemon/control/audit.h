/*
 * Who changed what, and who was not let: one JSON line per attempt, STATE_DIR/audit.log. Main thread.
 */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include <stdint.h>
#include <sys/types.h>

struct audit;

/** struct audit_entry - one attempt */
struct audit_entry {
	pid_t pid;	    /* who, by SO_PEERCRED or of the signal's sender; 0: aditd itself (a file changed, say) */
	uid_t uid;
	gid_t gid;	    /* (gid_t)-1: not known */
	const char *what;   /* "POST /v1/policies", "SIGHUP", ... */
	bool done;	    /* false: refused or failed */
	unsigned int status; /* as the API answered; 0: it was not the API */
	const char *error;  /* the sentence, when not done; NULL: none */
	const char *detail; /* a JSON object with what else is to be known; NULL: none */
	bool stranger;	    /* refused for who it is: anybody can cause these, so they are limited to 16 at once and one per second */
};

/** audit_create() - for state folder @dir; nothing is opened or made before the first line. Return: 0 or -ENOMEM. */
int audit_create(struct audit **ret, const char *dir);
void audit_destroy(struct audit *a); /* NULL is fine */
/** audit_ready() - open the file, made with the folder if needed. Return: 0 or -errno with what to do. */
int audit_ready(struct audit *a, struct err *reterr);
/** audit_write() - one line, at once. Return: 0 or -errno with the sentence (the caller logs it; NULL @a: 0). */
int audit_write(struct audit *a, const struct audit_entry *e, struct err *reterr);
/** audit_reopen() - it was moved away (logrotate, SIGUSR1): the next line makes a new one. NULL is fine. */
void audit_reopen(struct audit *a);
/** audit_tail() - the last @n lines, oldest first, at most 1 MiB of them, to @out. Return: 0 or -errno with the sentence. */
int audit_tail(struct audit *a, uint32_t n, struct text *out, struct err *reterr);
