/* Messages between the two daemons of an upgrade: one per datagram of a SOCK_SEQPACKET. Both sides of it; nobody else includes this. */
#pragma once
#include "base/err.h"
#include <stdint.h>

#define TALK_MAGIC 0x41444954u /* "ADIT" */
#define TALK_FDS   200u	       /* of SCM_MAX_FD 253 */

enum talk_kind { TALK_HELLO = 1, TALK_SOCKETS, TALK_END, TALK_READY, TALK_GO, TALK_TAKEN, TALK_DONE, TALK_NO };

/** struct talk - magic, version, kind and text stay where they are in every version, so that a refusal is understood */
struct talk {
	uint32_t magic, version, kind, n /* descriptors */;
	char text[256]; /* SOCKETS: the name; NO: the sentence */
};
_Static_assert(sizeof(struct talk) == 272, "the same in every build of this version");

/** talk_send() - at most @wait_ms. Return: 0 or -errno. */
int talk_send(int fd, enum talk_kind kind, const char *text, const int *fds, uint32_t n, uint64_t wait_ms);
/**
 * talk_recv() - @fds: room for TALK_FDS, NULL: none are expected; they are the caller's
 * Return: 0, -EAGAIN: nothing came in @wait_ms, -ECONNRESET: the other is gone, -EPROTO.
 */
int talk_recv(int fd, struct talk *ret, int *fds, uint32_t *ret_n, uint64_t wait_ms);
