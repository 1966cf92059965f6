/*
 * Listening sockets that come from another process, and go to one: the service manager or another daemon. Main thread, except where said.
 */
#pragma once
#include "base/err.h"
#include "net/adopt.h"
#include <stdbool.h>
#include <stdint.h>

struct daemon;
struct cfg_listener;
struct worker;

/**
 * takeover_bind() - give listener @l of every worker a socket out of @set, as far as it has any for it
 * Workers that get none bind their own beside it; sockets that are left over are served for a moment and closed.
 * Return: how many workers have one (0: none is in the set), or -errno with the sentence.
 */
int takeover_bind(struct daemon *d, const struct cfg_listener *l, struct adopt *set, struct err *reterr);
/** takeover_start() - on the first worker, when it begins to accept: what is left over is served, and closed after a while */
void takeover_start(struct worker *w);
void takeover_finish(struct daemon *d); /* workers are gone */
/** takeover_keep() - what is left over stays open until this is taken back, so that it can be given away */
void takeover_keep(struct daemon *d, bool on);
/** takeover_each() - every listening socket (@spares: and those left over): @each gets the listener's name, and the socket, which stays ours */
void takeover_each(struct daemon *d, bool spares, void (*each)(void *arg, const char *name, int fd), void *arg);
