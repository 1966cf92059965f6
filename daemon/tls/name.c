/*
 * Several identities behind one address: a client may say in its hello whom it wants (SNI, RFC 6066 section 3), and gets the certificate of
 * that one. The hello is looked at in the socket (MSG_PEEK) before the handshake begins, so that the handshake is made with the chosen
 * context from its first byte on, the check of the client's certificate included; wolfSSL can change no more than the certificate on
 * the way, and Debian's not even that.
 *
 * The name is a wish and proves nothing: it chooses among our own identities, and who may have it is decided by the client's certificate.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include "base/clean.h"
#include "codec/hello.h"
#include "tls/record_int.h"
#include <sys/socket.h>

_Static_assert(HELLO_MAX <= SCRATCH_IN, "peeked into it");

#define ALERT_UNRECOGNIZED_NAME 112

/* nothing is sealed yet */
static int refuse(struct rec *r, uint8_t code, int e)
{
	uint8_t record[] = {21, 3, 3, 0, 2, ALERT_FATAL, code};

	(void)!send(r->fd, record, sizeof(record), MSG_DONTWAIT | MSG_NOSIGNAL);
	return e;
}

int rec_name(struct rec *r, struct err *reterr)
{
	uint8_t *p = r->loop->scratch.in;
	ssize_t n = recv(r->fd, p, HELLO_MAX, MSG_PEEK | MSG_DONTWAIT);
	struct slice name = {NULL, 0};
	struct tls_ctx *t;
	int e;

	stats_inc(&r->loop->stats, ST_SYS_RECV);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return -EAGAIN;
	if (n <= 0)
		return err_set(reterr, -ECONNRESET, "peer closed the connection during the handshake");
	e = hello_server_name(p, (size_t)n, &name, reterr);
	if (e == 0)
		return r->hup ? err_set(reterr, -ECONNRESET, "peer closed the connection during the handshake") : -EAGAIN;
	if (e < 0) {
		const char *who = tls_foreign(p, (size_t)n);

		if (who)
			err_set(reterr, e, "%s", who);
		return refuse(r, ALERT_DECODE_ERROR, -EPROTO);
	}
	t = r->choose(r->choose_arg, name.p, name.n, reterr);
	if (!t)
		return refuse(r, ALERT_UNRECOGNIZED_NAME, -EACCES);
	r->choose = NULL;
	e = t == r->tls ? 0 : rec_use(r, t);
	return e == 0 ? 0 : err_set(reterr, e, "out of memory");
}
