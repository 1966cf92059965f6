/*
 * What is in force, and how it changes. The one place that makes snapshots: from the configuration's files as they were last read, the
 * applied policies, and the certificates. Whatever changes one of these ends in control_install(). Main thread.
 */
#pragma once
#include "base/text.h"
#include "chain/daemon.h"
#include "config/config.h"
#include "control/creds.h"
#include "control/watch.h"

/** struct control_override - what the command line says, whatever the configuration does */
struct control_override {
	uint32_t workers; /* 0: as configured */
	int mover;	  /* -1: as configured */
};

struct control {
	struct daemon *d; /* NULL until it runs */
	const char *file;
	struct control_override over;
	struct config_sources sources; /* of what is in force */
	struct config_source applied;  /* policies of the state folder, in force; text NULL: none */
	struct policies *policies;     /* what keeps them, and who changed what: applied.c */
	struct audit *audit;
	bool audit_failed;	       /* that was said */
	struct creds *creds;	       /* the identities' files: creds.h */
	const struct config *boot;     /* the first configuration: it stays as long as the daemon */
	struct watch *watch;	       /* of the files; NULL: not watched */
};

/** control_open() - read and build everything for the start. Return: 0 and the first snapshot, or -errno with the sentence. */
int control_open(struct control *ctl, const char *file, const struct control_override *over, struct snapshot **ret, struct err *reterr);
void control_close(struct control *ctl); /* the daemon is gone; zeroed memory is fine */

/**
 * control_install() - build, and bring into force
 * @sources:	the configuration's files; taken when it succeeds. NULL: those in force.
 * @applied:	policies of the state folder; taken when it succeeds. NULL: those in force; without text: none.
 *		Both NULL: the very configuration in force, with its certificates as they are now.
 * @why:	for the log: "reload", "policy applied by uid 0", "certificates changed"
 * @ret_report:	what has changed, a line each ("+ listener web", "~ cluster db: endpoints", "- policy p"), and what waits for a restart
 *		("! kernel: takes effect after a restart"); may be NULL
 * Return: 0, or -errno with the sentence: then everything is as before.
 */
int control_install(struct control *ctl, struct config_sources *sources, struct config_source *applied, const char *why,
		    struct text *ret_report, struct err *reterr);
/** control_watch_fd() - readable: control_watch_run(); -1: never. After control_start(). */
int control_watch_fd(const struct control *ctl);
void control_watch_run(struct control *ctl);
/** control_start() - the daemon runs: files are watched from now on, if so configured */
void control_start(struct control *ctl, struct daemon *d);
/** control_reload() - read the files again. Return: as above. */
int control_reload(struct control *ctl, const char *why, struct text *ret_report, struct err *reterr);
