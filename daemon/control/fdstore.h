/*
 * Listening sockets in the service manager's descriptor store: after a restart, or a crash, the next process gets them, and who connects
 * meanwhile waits instead of being refused. Main thread.
 */
#pragma once
#include <stdint.h>

struct admin;
struct daemon;
struct notify;

struct fdstore {
	uint64_t sum; /* of what is in it */
	char **name;
	uint32_t n;
};

/** fdstore_update() - what is in it is what we listen on; cheap when nothing has changed. Sets d->sockets_shared. */
void fdstore_update(struct fdstore *s, struct daemon *d, const struct admin *admin, const struct notify *n);
/** fdstore_name() - what a socket is called on its way to another process, so that it is not taken by its listener's name. Return: @out. */
const char *fdstore_name(const struct daemon *d, const char *name, int fd, char out[256]);
/** fdstore_forget() - what was kept under this name, of a socket or a listener, is not wanted any more */
void fdstore_forget(const struct notify *n, const char *name);
void fdstore_finish(struct fdstore *s); /* forgets, removes nothing */
