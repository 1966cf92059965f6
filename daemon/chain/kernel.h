/*
 * The kernel plane as a whole: every means is probed at start, held here, and explained in one place (aditctl kernel). Nothing of it
 * is needed: what is missing has its reason here and a path in user space.
 *
 * Main thread, except what the members' own headers allow workers.
 */
#pragma once
#include "kern/bypass.h"
#include "kern/capture.h"
#include "kern/steer.h"
#include "kern/transmark.h"
#include "net/local.h"
#include "net/netns.h"

struct daemon;

enum kernel_means { KERNEL_BYPASS, KERNEL_CAPTURE, KERNEL_STEER, KERNEL_SPLICE, KERNEL_KTLS, KERNEL_LOCAL, KERNEL_TRANSPARENT, KERNEL_MEANS };

/** struct foreign - a namespace that clusters with `source: client` are dialled from */
struct foreign {
	struct foreign *next;
	char *name; /* ns.name */
	struct netns ns;
	struct transmark_devices devices;
};

struct kernel {
	struct bypass *bypass;	 /* NULL: not on */
	struct capture *capture;
	struct steer *steer;
	struct local *local;
	struct transmark *transmark;
	struct foreign *foreign;
	struct err why_transmark;
	bool splice, ktls;	 /* may be used */
	struct err why[KERNEL_MEANS]; /* of what is not on */
};

/**
 * kernel_probe() - what must be there before sockets are made: bypass, local addresses, splice, kTLS
 * Return: 0, or -errno with the sentence when the configuration insists on something that is missing.
 */
int kernel_probe(struct kernel *k, const struct config *cfg, struct err *reterr);
/** kernel_attach() - what needs the listeners' sockets: capture, steering. Return: as above. */
int kernel_attach(struct daemon *d, struct err *reterr);
/** kernel_hand_over() - another daemon of ours goes on with what is pinned, and with rules and routes: they stay when we end */
void kernel_hand_over(struct kernel *k);
/** kernel_renew() - @d has another configuration than @old; what cannot be had is logged, and explained as at the start */
void kernel_renew(struct daemon *d, const struct config *old);
/** kernel_finish() - @keep: capture stays for the next agent. Accepts zeroed memory. */
void kernel_finish(struct kernel *k, bool keep);
/** kernel_fd() - becomes readable when kernel_run() has something to do; -1: never */
int kernel_fd(const struct kernel *k);
void kernel_run(struct kernel *k);
/** kernel_tick() - once a second */
void kernel_tick(struct kernel *k);

/* ---- foreign.c: the way back for source addresses that are not ours ---- */
/* also with another configuration; namespaces that it does not have any more stay until the end. What is missing is logged and kept in why[KERNEL_TRANSPARENT] */
void foreign_start(struct kernel *k, const struct config *cfg);
void foreign_tick(struct kernel *k);
void foreign_finish(struct kernel *k);
void foreign_text(const struct kernel *k, char *out, size_t size); /* for people */
