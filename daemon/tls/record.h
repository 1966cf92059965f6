/*
 * Records: bytes on a tunnel socket <-> plaintext, behind one interface.
 *
 * Engines: `plain` (no TLS, trusted links and tests) and `user` (TLS 1.3 records sealed and opened here with wolfCrypt's AES-GCM
 * after wolfSSL's handshake; RFC 8446 section 5). wolfSSL_read/write are not used for data: each would copy every byte twice
 * more. With `user`, payload is copied by the kernel and touched once by the cipher, nothing else: recv() reads many
 * records into the worker's buffer, they are opened in place, and what leaves is sealed from the
 * worker's plaintext buffer into its output buffer and goes out in one send().
 *
 * Worker thread only. The descriptor belongs to the rec from rec_open() on.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "loop/loop.h"
#include "tls/ctx.h"

enum rec_engine { REC_PLAIN, REC_USER, REC_KTLS };

struct rec_keys; /* cipher state of both directions */

struct rec {
	struct loop *loop;
	int fd;
	enum rec_engine tx, rx; /* each direction's own; REC_USER until the handshake is over */
	bool server;
	bool readable, writable; /* as epoll's edges say */
	bool hup;		 /* FIN or error waits behind the bytes: read until it shows */
	bool ended;		 /* close_notify or FIN was read */
	struct WOLFSSL *ssl;	 /* during the handshake */
	struct tls_ctx *tls;
	struct rec_keys *keys;
	struct buf part;	 /* received, not yet a whole record */
	struct buf pend;	 /* sealed, not yet taken by the kernel */
	uint64_t rx_bytes, tx_bytes;
};

/* plaintext of one record or of one recv(); points into the worker's input buffer until the next rec_read() of any tunnel */
typedef int (*rec_sink)(void *arg, const uint8_t *p, size_t n);

/** rec_open() - @tls NULL: plain. Takes @fd on success. */
int rec_open(struct rec *r, struct loop *l, int fd, struct tls_ctx *tls, bool server, const char *sni);
/** rec_handshake() - Return: 0 done (peer checked, *ret_peer filled in), -EAGAIN, or -errno with the reason */
int rec_handshake(struct rec *r, const char *const *ids, uint32_t n_ids, struct tls_peer *ret_peer, struct err *reterr);
/**
 * rec_read() - one recv(), then every whole record to @sink
 * Return: bytes read, 0 at an orderly end, -EAGAIN, or -errno: the sink's, -EPROTO with the sentence for bad records,
 * -ECONNRESET, -ECONNABORTED for FIN without close_notify (truncation).
 */
ssize_t rec_read(struct rec *r, rec_sink sink, void *arg, struct err *reterr);
/** rec_write() - seal and send the first @n bytes of scratch.plain; only when !rec_blocked(). Return: 0 or -errno. */
int rec_write(struct rec *r, size_t n);
/** rec_flush() - send what waits. Return: 0 all gone, -EAGAIN, or -errno. */
int rec_flush(struct rec *r);
static inline bool rec_blocked(const struct rec *r)
{
	return r->pend.len != 0;
}
/** rec_worn() - so many records were sealed with one key that the tunnel must be replaced (RFC 8446 section 5.5) */
bool rec_worn(const struct rec *r);
/** rec_close() - @orderly: close_notify first; else RST when something is wrong. Accepts zeroed memory. */
void rec_close(struct rec *r, bool orderly);
const char *rec_engine_str(const struct rec *r);
const char *rec_engine_why(const struct rec *r); /* why not a faster one */
