/*
 * Records: bytes on a tunnel socket <-> plaintext, behind one interface.
 *
 * Engines, each direction its own: `plain` (no TLS, trusted links and tests), `user` (TLS 1.3 records sealed and opened here with
 * wolfCrypt after wolfSSL's handshake) and `ktls` (the kernel does it: the keys go there after the handshake, and the socket is then
 * written and read as plain TCP). wolfSSL_read/write are not used for data: each would copy every byte twice more. With `user`,
 * payload is copied by the kernel and touched once by the cipher, nothing else: recv() reads many records into the worker's buffer,
 * they are opened in place, and what leaves is sealed from the worker's plaintext buffer into its output buffer and goes out in
 * one send(). With `ktls` one recvmsg() brings the content of many records, and one send() becomes many.
 *
 * `ktls` is taken when the configuration allows it and the kernel takes the keys; else `user`, and rec_engine_why() says why.
 *
 * Worker thread only. The descriptor belongs to the rec from rec_open() on.
 */
#pragma once
#include "base/buf.h"
#include "base/err.h"
#include "loop/loop.h"
#include "tls/ctx.h"

/* RFC 8446 6; rec.alert may be one of them */
enum {
	ALERT_CLOSE_NOTIFY = 0,
	ALERT_UNEXPECTED_MESSAGE = 10,
	ALERT_BAD_RECORD_MAC = 20,
	ALERT_RECORD_OVERFLOW = 22,
	ALERT_CERTIFICATE_REVOKED = 44,
	ALERT_CERTIFICATE_EXPIRED = 45,
	ALERT_UNKNOWN_CA = 48,
	ALERT_ACCESS_DENIED = 49,
	ALERT_DECODE_ERROR = 50,
};

enum rec_engine { REC_PLAIN, REC_USER, REC_KTLS };

/**
 * rec_choose - which of our identities is this client here for?
 * @name: the server name that it asks for (SNI), as it sent it, @n bytes; n 0: it names none
 * Return: the context for the handshake, which takes a reference; NULL: refuse it, with the sentence.
 */
typedef struct tls_ctx *rec_choose(void *arg, const char *name, size_t n, struct err *reterr);

struct rec_keys; /* cipher state of the directions whose engine is `user`, and of both during the handshake */

/** struct rec_count - records of a direction that the kernel does: known now and then */
struct rec_count {
	uint64_t seq;	 /* of the next record, when last looked */
	uint64_t unseen; /* no more than so many since */
};

struct rec {
	struct loop *loop;
	int fd;
	enum rec_engine tx, rx; /* REC_USER until the handshake is over */
	bool server;
	bool readable, writable; /* as epoll's edges say */
	bool hup;		 /* FIN or error waits behind the bytes: read until it shows */
	bool ended;		 /* close_notify or FIN was read */
	bool full;		 /* ktls: the last read filled the buffer */
	bool attached, asked;	 /* ktls: TCP_ULP is set; was tried */
	uint8_t alert;		 /* fatal alert that the peer is due at the end; 0: none */
	uint8_t cipher;		 /* enum seal_cipher */
	uint8_t why;		 /* enum rec_why: why there is no ktls */
	int why_tx, why_rx;	 /* -errno of the kernel's refusals */
	struct WOLFSSL *ssl;	 /* during the handshake */
	struct tls_ctx *tls;	 /* a reference, until rec_close() */
	rec_choose *choose;	 /* server: asked before the handshake; NULL: tls it is. Set after rec_open() */
	void *choose_arg;
	struct tls_chain *chain; /* the peer's, once it has shown it; owned */
	struct tls_frames frames; /* what wolfSSL read */
	struct rec_keys *keys;	 /* NULL: no direction is `user` */
	struct buf part;	 /* user: received, not yet a whole record */
	struct buf pend;	 /* not yet taken by the socket: sealed (user) or as it is (plain, ktls) */
	struct pipe *out;	 /* payload behind pend; NULL: none. payload.c */
	struct rec_count rx_count, tx_count; /* ktls */
	uint64_t rx_bytes, tx_bytes; /* on the socket; ktls: payload */
};

/* plaintext of one record or of one recv(); points into the worker's input buffer until the next rec_read() of any tunnel */
typedef int (*rec_sink)(void *arg, const uint8_t *p, size_t n);

/** rec_open() - @tls NULL: plain. Takes @fd on success. */
int rec_open(struct rec *r, struct loop *l, int fd, struct tls_ctx *tls, bool server, const char *sni);
/** rec_handshake() - Return: 0 done (peer checked, *ret_peer filled in), -EAGAIN, or -errno with the reason */
int rec_handshake(struct rec *r, const char *const *ids, uint32_t n_ids, struct tls_peer *ret_peer, struct err *reterr);
/**
 * rec_read() - one recv(), then every whole record to @sink
 * Return: bytes read, 0 at an orderly end, -EAGAIN (and readable: come again), or -errno: the sink's, -EPROTO with the sentence for
 * bad records, -EKEYEXPIRED for a KeyUpdate that cannot be followed (say GOAWAY, close orderly), -ECONNRESET, -ECONNABORTED for FIN
 * without close_notify (truncation).
 */
ssize_t rec_read(struct rec *r, rec_sink sink, void *arg, struct err *reterr);
/** rec_write() - seal and send the first @n bytes of scratch.plain; only when !rec_blocked(). Return: 0 or -errno. */
int rec_write(struct rec *r, size_t n);
/** rec_flush() - send what waits. Return: 0 all gone, -EAGAIN, or -errno. */
int rec_flush(struct rec *r);
static inline bool rec_blocked(const struct rec *r)
{
	return r->pend.len || r->out;
}

/* ---- payload.c: bytes that go between the socket and a pipe ---- */
bool rec_can_splice_tx(const struct rec *r);
bool rec_can_splice_rx(const struct rec *r);
/** rec_splice_out() - the first @n bytes of scratch.plain, then what is in @p, which is taken; only when !rec_blocked(). Return: 0 or -errno. */
int rec_splice_out(struct rec *r, size_t n, struct pipe *p);
/**
 * rec_read_some() - plaintext, @n bytes at most and no byte more
 * Return: bytes, -EAGAIN, -ENOMSG: something else than data is next, rec_read() it; plain: 0 at the end, -errno
 */
ssize_t rec_read_some(struct rec *r, uint8_t *p, size_t n);
/** rec_splice_in() - the same, into an empty pipe */
ssize_t rec_splice_in(struct rec *r, struct pipe *p, size_t n);
/** rec_drained() - all that was written survives rec_close(); otherwise an EPOLLOUT edge follows. For a tunnel that wants to end. */
bool rec_drained(struct rec *r);
/** rec_worn() - so many records were sealed with one key that the tunnel must be replaced (RFC 8446 section 5.5) */
bool rec_worn(const struct rec *r);
extern uint64_t rec_worn_after; /* records; tests lower it */
/** rec_close() - an alert that the peer is due; @orderly: close_notify; else RST when something is wrong. Accepts zeroed memory. */
void rec_close(struct rec *r, bool orderly);
const char *rec_engine_str(const struct rec *r); /* ktls: both directions; mixed: one of them; user, plain */
const char *rec_engine_tx_str(const struct rec *r);
const char *rec_engine_rx_str(const struct rec *r);
/** rec_engine_why() - why not a faster one, "" if there is none; the text lives until this thread's next call */
const char *rec_engine_why(const struct rec *r);
