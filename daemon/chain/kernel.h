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
#include "net/local.h"

struct daemon;

enum kernel_means { KERNEL_BYPASS, KERNEL_CAPTURE, KERNEL_STEER, KERNEL_SPLICE, KERNEL_KTLS, KERNEL_LOCAL, KERNEL_TRANSPARENT, KERNEL_MEANS };

struct kernel {
	struct bypass *bypass;	 /* NULL: not on */
	struct capture *capture;
	struct steer *steer;
	struct local *local;
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
/** kernel_finish() - @keep: capture stays for the next agent. Accepts zeroed memory. */
void kernel_finish(struct kernel *k, bool keep);
/** kernel_fd() - becomes readable when kernel_run() has something to do; -1: never */
int kernel_fd(const struct kernel *k);
void kernel_run(struct kernel *k);
/** kernel_tick() - once a second */
void kernel_tick(struct kernel *k);
