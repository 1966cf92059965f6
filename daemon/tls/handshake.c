/*
 * The beginning of a connection with records: wolfSSL's handshake, the check of who the peer is, and which engine gets the keys.
 *
 * The switch to the kernel comes when the peer is accepted, before anything but the handshake was read or written: wolfSSL reads
 * record by record, so nothing is buffered in it (tls_frames says so if that ever changes). A direction that the kernel does not
 * take stays `user`, and it is remembered why. Then wolfSSL's object goes, and its keys with it.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include "base/clean.h"
#include "tls/record_int.h"
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum rec_why { WHY_NONE, WHY_EARLY, WHY_OFF, WHY_RELAY, WHY_ULP, WHY_KEYS };

#if !ADIT_WOLFSSL_PACKAGED
static int secret_taken(WOLFSSL *ssl, int id, const unsigned char *secret, int n, void *arg)
{
	struct rec *r = arg;
	bool mine;

	(void)ssl;
	if ((id != CLIENT_TRAFFIC_SECRET && id != SERVER_TRAFFIC_SECRET) || n <= 0 || (unsigned)n > SECRET_MAX)
		return 0;
	mine = (id == SERVER_TRAFFIC_SECRET) == r->server;
	memcpy(mine ? r->keys->tx.secret : r->keys->rx.secret, secret, (size_t)n);
	r->keys->hash_len = (uint8_t)n;
	r->keys->have_secrets = true;
	return 0;
}
#endif

/* wolfSSL's object for the handshake on @fd. Return: 0 or -ENOMEM */
static int session_open(struct rec *r, struct tls_ctx *tls, int fd, const char *sni)
{
	struct WOLFSSL *ssl = tls_session(tls, r->server, fd, sni, &r->frames, &r->chain);

	if (!ssl)
		return -ENOMEM;
	r->ssl = ssl;
	r->tls = tls_ctx_get(tls);
#if !ADIT_WOLFSSL_PACKAGED
	wolfSSL_set_tls13_secret_cb(r->ssl, secret_taken, r);
#endif
	return 0;
}

int rec_open(struct rec *r, struct loop *l, int fd, struct tls_ctx *tls, bool server, const char *sni)
{
	memset(r, 0, sizeof(*r));
	r->loop = l;
	r->fd = -1;
	r->server = server;
	r->tx = r->rx = tls ? REC_USER : REC_PLAIN;
	r->why = tls ? WHY_EARLY : WHY_NONE;
	r->writable = r->readable = true;
	if (tls) {
		r->keys = calloc(1, sizeof(*r->keys));
		if (!r->keys || session_open(r, tls, fd, sni) < 0) {
			free(TAKE(r->keys));
			return -ENOMEM;
		}
	}
	r->fd = fd;
	return 0;
}

int rec_use(struct rec *r, struct tls_ctx *t)
{
	struct tls_ctx *old = r->tls;

	wolfSSL_free(TAKE(r->ssl));
	if (session_open(r, t, r->fd, NULL) < 0)
		return -ENOMEM;
	tls_ctx_put(old);
	return 0;
}

/* what wolfSSL tells of a direction; valid as long as it */
struct agreed {
	const uint8_t *key, *iv;
};

static struct agreed agreed(const struct rec *r, bool tx)
{
	bool of_server = tx == r->server;

	return (struct agreed){ of_server ? wolfSSL_GetServerWriteKey(r->ssl) : wolfSSL_GetClientWriteKey(r->ssl),
				of_server ? wolfSSL_GetServerWriteIV(r->ssl) : wolfSSL_GetClientWriteIV(r->ssl) };
}

/* what wolfSSL agreed on becomes ours; it is not used for this connection any more */
static int keys_take(struct rec *r, struct err *reterr)
{
	struct agreed tx = agreed(r, true), rx = agreed(r, false);
	int bulk = wolfSSL_GetBulkCipher(r->ssl), key_len = wolfSSL_GetKeySize(r->ssl);
	struct rec_keys *k = r->keys;
	word64 seq = 0;

	if (bulk != wolfssl_aes_gcm && bulk != wolfssl_chacha)
		return err_set(reterr, -EPROTO, "cipher %s: only AES-GCM and CHACHA20-POLY1305 suites are supported on tunnels",
			       wolfSSL_get_cipher(r->ssl));
	if (!tls_frames_whole(&r->frames))
		return err_set(reterr, -EPROTO, "the handshake ended within a record");
	k->cipher = r->cipher = bulk == wolfssl_chacha ? SEAL_CHACHA20 : key_len == 16 ? SEAL_AES128 : SEAL_AES256;
	/* these return an error when the number is 0: only the number counts */
	wolfSSL_GetSequenceNumber(r->ssl, &seq);
	k->tx.seq = seq;
	seq = 0;
	wolfSSL_GetPeerSequenceNumber(r->ssl, &seq);
	k->rx.seq = seq;
	if (seal_key(k, &k->tx, tx.key, tx.iv) < 0 || seal_key(k, &k->rx, rx.key, rx.iv) < 0)
		return err_set(reterr, -EIO, "AES key set-up failed");
	return 0;
}

static uint8_t why_not(const struct rec *r)
{
	const struct config *cfg = r->loop->cfg;

	return cfg->mover == MOVER_RELAY ? WHY_RELAY : cfg->kernel.ktls == SWITCH_OFF ? WHY_OFF : WHY_NONE;
}

/* before the handshake: a FIN that is there already makes it impossible (ENOTCONN), and without keys it changes nothing */
static void kernel_attach(struct rec *r)
{
	r->asked = true;
	r->why = why_not(r);
	if (r->why)
		return;
	r->why_tx = r->why_rx = ktls_attach(r->fd);
	r->attached = r->why_tx == 0;
	stats_inc(&r->loop->stats, ST_SYS_OTHER);
	if (!r->attached) {
		r->why = WHY_ULP;
		stats_inc(&r->loop->stats, ST_KTLS_REFUSED);
	}
}

static int kernel_start(struct rec *r, bool tx)
{
	struct dir *d = tx ? &r->keys->tx : &r->keys->rx;
	struct rec_count *c = tx ? &r->tx_count : &r->rx_count;
	struct agreed a = agreed(r, tx);
	int e = ktls_start(r->fd, tx, (enum seal_cipher)r->cipher, a.key, a.iv, d->seq);

	stats_add(&r->loop->stats, ST_SYS_OTHER, tx ? 1 : 2);
	if (e < 0)
		return e;
	c->seq = d->seq;
	*(tx ? &r->tx : &r->rx) = REC_KTLS;
	stats_inc(&r->loop->stats, tx ? ST_KTLS_TX : ST_KTLS_RX);
	seal_forget(d);
	return 0;
}

static void kernel_takes_over(struct rec *r)
{
	if (!r->attached)
		return;
	r->why_tx = kernel_start(r, true);
	r->why_rx = kernel_start(r, false);
	if (r->why_tx || r->why_rx) {
		r->why = WHY_KEYS;
		stats_inc(&r->loop->stats, ST_KTLS_REFUSED);
	}
	if (r->tx == REC_KTLS && r->rx == REC_KTLS)
		rec_keys_drop(r);
}

int rec_handshake(struct rec *r, const char *const *ids, uint32_t n_ids, struct tls_peer *ret_peer, struct err *reterr)
{
	int ret, e;

	if (r->tx == REC_PLAIN)
		return 0;
	if (r->choose) {
		ret = rec_name(r, reterr);
		if (ret < 0)
			return ret;
	}
	if (!r->asked)
		kernel_attach(r);
	ret = r->server ? wolfSSL_accept(r->ssl) : wolfSSL_connect(r->ssl);
	if (ret != WOLFSSL_SUCCESS) {
		e = wolfSSL_get_error(r->ssl, ret);
		if (e == WOLFSSL_ERROR_WANT_READ || e == WOLFSSL_ERROR_WANT_WRITE)
			return -EAGAIN;
		return tls_explain(r->ssl, ret, r->tls, &r->frames, reterr);
	}
	ret = keys_take(r, reterr);
	if (ret == 0) {
		ret = tls_peer_check(r->ssl, r->tls, r->chain, ids, n_ids, ret_peer, reterr);
		if (ret < 0) /* its own log should say why, too */
			rec_alert(r, ALERT_FATAL, ret == -EKEYREVOKED ? ALERT_CERTIFICATE_REVOKED : ALERT_ACCESS_DENIED);
		else
			kernel_takes_over(r);
	}
	wolfSSL_free(TAKE(r->ssl));
	return ret;
}

static const char *const engine_str[] = { [REC_PLAIN] = "plain", [REC_USER] = "user", [REC_KTLS] = "ktls" };

const char *rec_engine_tx_str(const struct rec *r)
{
	return engine_str[r->tx];
}

const char *rec_engine_rx_str(const struct rec *r)
{
	return engine_str[r->rx];
}

const char *rec_engine_str(const struct rec *r)
{
	return r->tx == r->rx ? engine_str[r->tx] : "mixed";
}

const char *rec_engine_why(const struct rec *r)
{
	static _Thread_local char text[160];
	int e = r->why_tx ? r->why_tx : r->why_rx;

	if (r->tx == REC_PLAIN)
		return "tls: false";
	switch ((enum rec_why)r->why) {
	case WHY_NONE:
		return r->ssl ? "the handshake comes first" : "";
	case WHY_EARLY:
		return "the handshake comes first";
	case WHY_OFF:
		return "kernel.ktls: off";
	case WHY_RELAY:
		return "mover: relay";
	case WHY_ULP:
		if (r->why_tx == -ENOENT)
			return "this kernel has no TLS (modprobe tls)";
		snprintf(text, sizeof(text), "the kernel's TLS does not take the socket: %s", strerror(-r->why_tx));
		return text;
	case WHY_KEYS:
		break;
	}
	snprintf(text, sizeof(text), "the kernel refuses the keys for %s: %s%s",
		 r->why_tx && r->why_rx ? "both directions" :
		 r->why_tx		? "sending" :
					  "receiving",
		 strerror(-e), e == -EINVAL ? " (is the socket in a sockmap?)" : e == -ENOENT ? " (no such cipher)" : "");
	return text;
}
