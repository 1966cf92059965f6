/* Between record.c, handshake.c and payload.c. */
#pragma once
#include "tls/ktls.h"

enum { ALERT_WARNING = 1, ALERT_FATAL = 2 };

/** rec_alert() - best effort: what does not fit into the socket's buffer now is not worth waiting for. After the handshake. */
void rec_alert(struct rec *r, uint8_t level, uint8_t code);
/** rec_keys_drop() - both directions are the kernel's, or it is the end */
void rec_keys_drop(struct rec *r);

/** rec_send() - now, past what waits. @flags: MSG_MORE or 0. Return: bytes that the socket took, or -errno. */
ssize_t rec_send(struct rec *r, const uint8_t *p, size_t n, int flags);
/** rec_send_failed() - what @e of the socket means */
int rec_send_failed(const struct rec *r, int e);
/** rec_queue() - rec_send(), and what was not taken waits in pend. Return: 0 or -errno. */
int rec_queue(struct rec *r, const uint8_t *p, size_t n, int flags);
/* so many bytes went, came */
void rec_sent(struct rec *r, size_t n);
void rec_received(struct rec *r, size_t n);

/** rec_flush_pipe() - what waits in the pipe, after pend. Return: 0 all gone, -EAGAIN, or -errno. */
int rec_flush_pipe(struct rec *r);

/** rec_name() - rec->choose, once the client's hello is here. Return: 0, -EAGAIN, or -errno with the sentence (and an alert was sent). */
int rec_name(struct rec *r, struct err *reterr);
/** rec_use() - another context than that of rec_open(); nothing of the handshake was read yet. Return: 0 or -ENOMEM. */
int rec_use(struct rec *r, struct tls_ctx *t);
