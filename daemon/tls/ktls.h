/*
 * The kernel engine: after the handshake the keys of a direction go to the kernel, and the socket is written and read as plain TCP.
 * Internal to tls/, except the probe. Worker thread only, except the probe (main thread, before there are workers).
 */
#pragma once
#include "tls/record.h"
#include "tls/seal.h"

/**
 * ktls_probe() - see what this kernel can: real records over loopback, with each cipher
 * What it finds holds for all tunnels from then on. Without it each tunnel finds out by itself.
 * Return: 0 when a cipher works in both directions, or -errno and what to do.
 */
int ktls_probe(struct err *reterr);
/** ktls_ciphers() - "AES-128-GCM, CHACHA20-POLY1305": what the probe found. Return: @out. */
const char *ktls_ciphers(char *out, size_t n);

/**
 * ktls_attach() - TLS on a connected socket, without keys yet: it goes on as plain TCP
 * Before the handshake, since a peer's FIN makes it impossible (ENOTCONN).
 * Return: 0, or -errno: -ENOENT no such module
 */
int ktls_attach(int fd);
/** ktls_start() - the kernel seals (@tx) or opens from the record @seq on. Return: 0, or -errno and nothing has changed. */
int ktls_start(int fd, bool tx, enum seal_cipher c, const uint8_t *key, const uint8_t iv[12], uint64_t seq);

/**
 * ktls_recv() - content of records of one type: several of data, or one of another
 * @ret_type:	enum TYPE_*; 0 with a return of 0: FIN
 * Return: bytes (0 with a type: an empty record), or -errno: -EAGAIN; -EBADMSG (does not authenticate), -EMSGSIZE, -EINVAL (not a record):
 * the socket takes nothing more until ktls_unblock().
 */
ssize_t ktls_recv(int fd, void *buf, size_t n, int flags, uint8_t *ret_type);
/** ktls_send_type() - one record of @type (TYPE_ALERT), whole or not at all. Return: @n or -errno. */
ssize_t ktls_send_type(int fd, uint8_t type, const void *p, size_t n);
/** ktls_unblock() - take the error off a socket whose peer sent a bad record, so that it can still be told */
void ktls_unblock(int fd);
/**
 * ktls_moved() - account for one call that moved @n bytes of payload in or out by the kernel's records
 * Nobody tells how many records that were; ktls_look() asks, and this does as soon as there may be so many that rec_worn() has to know.
 */
void ktls_moved(struct rec *r, bool tx, size_t n);
void ktls_look(struct rec *r, bool tx);
