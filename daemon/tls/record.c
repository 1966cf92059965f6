/*
 * The record layer. See record.h for what it is for.
 *
 * Sealing: plaintext lies contiguous in scratch.plain; a record takes 16384 bytes of it. TLS 1.3 appends the content type to the
 * plaintext before encryption, so that byte is written behind the slice and the byte that was there is put back
 * afterwards; the cipher writes to scratch.out, which makes the trick safe and the copy unnecessary.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/aes.h>
#include <wolfssl/wolfcrypt/kdf.h>

#include "base/clean.h"
#include "tls/record.h"
#include <errno.h>
#include <string.h>
#include <sys/socket.h>

#define HDR 5u
#define TAG 16u
#define RECORD_PLAIN 16384u
#define RECORD_MAX (RECORD_PLAIN + 256u) /* RFC 8446 5.2: ciphertext length limit */
#define SECRET_MAX 48u
#define UPDATES_MAX 64 /* KeyUpdates over a tunnel's life; each costs three HMACs, and a peer could send nothing else */
#define WORN (1ull << 24) /* records; the limit for AES-GCM is 2^24.5 */

enum { TYPE_ALERT = 21, TYPE_HANDSHAKE = 22, TYPE_DATA = 23 };
enum { ALERT_WARNING = 1, ALERT_FATAL = 2, ALERT_CLOSE_NOTIFY = 0, ALERT_ACCESS_DENIED = 49 };
enum { HS_NEW_SESSION_TICKET = 4, HS_KEY_UPDATE = 24 };

struct dir {
	Aes aes;
	uint8_t iv[12];
	uint64_t seq;
	uint8_t secret[SECRET_MAX];
};
struct rec_keys {
	struct dir tx, rx;
	uint8_t key_len, hash_len;
	bool have_secrets;
	uint8_t updates;
};

static int secret_taken(WOLFSSL *ssl, int id, const unsigned char *secret, int n, void *arg)
{
#if !ADIT_WOLFSSL_PACKAGED
	struct rec *r = arg;
	bool mine;

	(void)ssl;
	if ((id != CLIENT_TRAFFIC_SECRET && id != SERVER_TRAFFIC_SECRET) || n <= 0 || (unsigned)n > SECRET_MAX)
		return 0;
	mine = (id == SERVER_TRAFFIC_SECRET) == r->server;
	memcpy(mine ? r->keys->tx.secret : r->keys->rx.secret, secret, (size_t)n);
	r->keys->hash_len = (uint8_t)n;
	r->keys->have_secrets = true;
#else
	(void)ssl, (void)id, (void)secret, (void)n, (void)arg, (void)secret_taken;
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
	r->tls = tls;
	r->writable = r->readable = true;
	if (tls) {
		r->keys = calloc(1, sizeof(*r->keys));
		r->ssl = r->keys ? tls_session(tls, server, fd, sni) : NULL;
		if (!r->ssl) {
			free(TAKE(r->keys));
			return -ENOMEM;
		}
#if !ADIT_WOLFSSL_PACKAGED
		wolfSSL_set_tls13_secret_cb(r->ssl, secret_taken, r);
#endif
	}
	r->fd = fd;
	return 0;
}

static int dir_key(struct dir *d, const uint8_t *key, size_t n, const uint8_t *iv)
{
	memcpy(d->iv, iv, sizeof(d->iv));
	return wc_AesGcmSetKey(&d->aes, key, (word32)n) ? -EIO : 0;
}

/* what wolfSSL agreed on becomes ours; it is not used for this connection any more */
static int keys_take(struct rec *r, struct err *reterr)
{
	const uint8_t *ck = wolfSSL_GetClientWriteKey(r->ssl), *ci = wolfSSL_GetClientWriteIV(r->ssl);
	const uint8_t *sk = wolfSSL_GetServerWriteKey(r->ssl), *si = wolfSSL_GetServerWriteIV(r->ssl);
	struct rec_keys *k = r->keys;
	word64 tx = 0, rx = 0;

	if (wolfSSL_GetBulkCipher(r->ssl) != wolfssl_aes_gcm)
		return err_set(reterr, -EPROTO, "cipher %s: only AES-GCM suites are supported on tunnels", wolfSSL_get_cipher(r->ssl));
	k->key_len = (uint8_t)wolfSSL_GetKeySize(r->ssl);
	/* these return an error when the number is 0: only the number counts */
	wolfSSL_GetSequenceNumber(r->ssl, &tx);
	wolfSSL_GetPeerSequenceNumber(r->ssl, &rx);
	k->tx.seq = tx;
	k->rx.seq = rx;
	if (wc_AesInit(&k->tx.aes, NULL, INVALID_DEVID) || wc_AesInit(&k->rx.aes, NULL, INVALID_DEVID) ||
	    dir_key(&k->tx, r->server ? sk : ck, k->key_len, r->server ? si : ci) < 0 ||
	    dir_key(&k->rx, r->server ? ck : sk, k->key_len, r->server ? ci : si) < 0)
		return err_set(reterr, -EIO, "AES key set-up failed");
	return 0;
}

static void send_alert(struct rec *r, uint8_t level, uint8_t code);

int rec_handshake(struct rec *r, const char *const *ids, uint32_t n_ids, struct tls_peer *ret_peer, struct err *reterr)
{
	int ret, e;

	if (r->tx == REC_PLAIN)
		return 0;
	ret = r->server ? wolfSSL_accept(r->ssl) : wolfSSL_connect(r->ssl);
	if (ret != WOLFSSL_SUCCESS) {
		e = wolfSSL_get_error(r->ssl, ret);
		if (e == WOLFSSL_ERROR_WANT_READ || e == WOLFSSL_ERROR_WANT_WRITE)
			return -EAGAIN;
		return tls_explain(r->ssl, ret, reterr);
	}
	ret = keys_take(r, reterr);
	if (ret == 0) {
		ret = tls_peer_check(r->ssl, r->tls, ids, n_ids, ret_peer, reterr);
		if (ret < 0) /* its own log should say why, too */
			send_alert(r, ALERT_FATAL, ALERT_ACCESS_DENIED);
	}
	wolfSSL_free(r->ssl);
	r->ssl = NULL;
	return ret;
}

static void nonce(const struct dir *d, uint8_t out[12])
{
	memcpy(out, d->iv, 12);
	for (int i = 0; i < 8; i++)
		out[4 + i] ^= (uint8_t)(d->seq >> (56 - 8 * i));
}

/* RFC 8446 7.2: the next generation of a direction's secret, key and IV */
static int dir_update(struct rec_keys *k, struct dir *d)
{
#if !ADIT_WOLFSSL_PACKAGED
	static const uint8_t proto[] = "tls13 ", upd[] = "traffic upd", key_l[] = "key", iv_l[] = "iv";
	int digest = k->hash_len == 48 ? WC_SHA384 : WC_SHA256;
	uint8_t next[SECRET_MAX], key[32], iv[12];

	if (!k->have_secrets ||
	    wc_Tls13_HKDF_Expand_Label(next, k->hash_len, d->secret, k->hash_len, proto, 6, upd, 11, NULL, 0, digest) ||
	    wc_Tls13_HKDF_Expand_Label(key, k->key_len, next, k->hash_len, proto, 6, key_l, 3, NULL, 0, digest) ||
	    wc_Tls13_HKDF_Expand_Label(iv, 12, next, k->hash_len, proto, 6, iv_l, 2, NULL, 0, digest))
		return -EIO;
	memcpy(d->secret, next, k->hash_len);
	d->seq = 0;
	int r = dir_key(d, key, k->key_len, iv);

	explicit_bzero(next, sizeof(next));
	explicit_bzero(key, sizeof(key));
	return r;
#else
	(void)k, (void)d;
	return -ENOTSUP;
#endif
}

/* seal one record of @type from p[0..n) (p[n] is writable) to out; Return: bytes, or -EIO */
static ssize_t seal(struct rec_keys *k, uint8_t type, uint8_t *p, size_t n, uint8_t *out)
{
	uint8_t iv[12], keep = p[n];
	size_t body = n + 1;
	int e;

	out[0] = TYPE_DATA;
	out[1] = 3;
	out[2] = 3;
	out[3] = (uint8_t)((body + TAG) >> 8);
	out[4] = (uint8_t)(body + TAG);
	nonce(&k->tx, iv);
	p[n] = type;
	e = wc_AesGcmEncrypt(&k->tx.aes, out + HDR, p, (word32)body, iv, sizeof(iv), out + HDR + body, TAG, out, HDR);
	p[n] = keep;
	if (e)
		return -EIO;
	k->tx.seq++;
	return (ssize_t)(HDR + body + TAG);
}

static int send_some(struct rec *r, const uint8_t *p, size_t n)
{
	ssize_t w = 0;

	if (r->writable) {
		w = send(r->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL);
		stats_inc(&r->loop->stats, ST_SYS_SEND);
		if (w < 0) {
			if (errno != EAGAIN && errno != EINTR)
				return -errno;
			w = 0;
		}
		r->tx_bytes += (uint64_t)w;
		stats_add(&r->loop->stats, ST_TUNNEL_TX_BYTES, (uint64_t)w);
	}
	if ((size_t)w == n)
		return 0;
	r->writable = false;
	if (buf_append(&r->pend, p + w, n - (size_t)w) < 0)
		return -ENOMEM;
	stats_gauge(&r->loop->stats, SG_BUFFERED, (int64_t)(n - (size_t)w));
	return 0;
}

int rec_write(struct rec *r, size_t n)
{
	uint8_t *p = r->loop->scratch.plain, *out = r->loop->scratch.out;
	size_t off = 0, len = 0, records = 0;

	if (r->tx == REC_PLAIN)
		return n ? send_some(r, p, n) : 0;
	while (off < n) {
		size_t take = min_u64(n - off, RECORD_PLAIN);
		ssize_t s = seal(r->keys, TYPE_DATA, p + off, take, out + len);

		if (s < 0)
			return (int)s;
		off += take;
		len += (size_t)s;
		records++;
	}
	stats_add(&r->loop->stats, ST_RECORDS_TX, records);
	return len ? send_some(r, out, len) : 0;
}

int rec_flush(struct rec *r)
{
	while (r->pend.len && r->writable) {
		ssize_t w = send(r->fd, buf_at(&r->pend), r->pend.len, MSG_DONTWAIT | MSG_NOSIGNAL);

		stats_inc(&r->loop->stats, ST_SYS_SEND);
		if (w < 0) {
			if (errno != EAGAIN && errno != EINTR)
				return -errno;
			r->writable = false;
			break;
		}
		r->tx_bytes += (uint64_t)w;
		stats_add(&r->loop->stats, ST_TUNNEL_TX_BYTES, (uint64_t)w);
		stats_gauge(&r->loop->stats, SG_BUFFERED, -w);
		buf_take(&r->pend, (size_t)w);
	}
	return r->pend.len ? -EAGAIN : 0;
}

static int key_update(struct rec *r, const uint8_t *p, size_t n, struct err *reterr)
{
	uint8_t msg[6] = { HS_KEY_UPDATE, 0, 0, 1, 0 }, out[64];
	ssize_t s;

	if (n != 5 || p[1] || p[2] || p[3] != 1 || p[4] > 1)
		return err_set(reterr, -EPROTO, "malformed KeyUpdate");
	if (r->keys->updates++ >= UPDATES_MAX)
		return err_set(reterr, -EPROTO, "more than %d KeyUpdates", UPDATES_MAX);
	if (dir_update(r->keys, &r->keys->rx) < 0)
		return err_set(reterr, -EPROTO, "peer updated its keys, which this build cannot follow");
	if (!p[4])
		return 0;
	/* asked to update ours, too: RFC 8446 4.6.3. scratch.plain may be in use, so a buffer of its own */
	s = seal(r->keys, TYPE_HANDSHAKE, msg, 5, out);
	if (s < 0 || dir_update(r->keys, &r->keys->tx) < 0)
		return err_set(reterr, -EPROTO, "KeyUpdate could not be answered");
	if (r->pend.len) {
		if (buf_append(&r->pend, out, (size_t)s) < 0)
			return -ENOMEM;
		stats_gauge(&r->loop->stats, SG_BUFFERED, s);
		return 0;
	}
	return send_some(r, out, (size_t)s);
}

static int control(struct rec *r, uint8_t type, const uint8_t *p, size_t n, struct err *reterr)
{
	if (type == TYPE_ALERT && n == 2) {
		if (p[1] == 0) { /* close_notify */
			r->ended = true;
			return 0;
		}
		return err_set(reterr, -EPROTO, "TLS alert %u from the peer: %s", p[1], tls_alert_hint(p[1]));
	}
	if (type == TYPE_HANDSHAKE && n >= 4 && p[0] == HS_NEW_SESSION_TICKET)
		return 0;
	if (type == TYPE_HANDSHAKE && n >= 4 && p[0] == HS_KEY_UPDATE)
		return key_update(r, p, n, reterr);
	return err_set(reterr, -EPROTO, "unexpected TLS record of type %u", type);
}

/* open the record at p[0..n) in place; Return: 0 and the plaintext */
static int open_record(struct rec *r, uint8_t *p, size_t n, uint8_t *ret_type, size_t *ret_n, struct err *reterr)
{
	struct dir *d = &r->keys->rx;
	size_t body = n - HDR - TAG;
	uint8_t iv[12];

	nonce(d, iv);
	if (wc_AesGcmDecrypt(&d->aes, p + HDR, p + HDR, (word32)body, iv, sizeof(iv), p + HDR + body, TAG, p, HDR))
		return err_set(reterr, -EPROTO, "TLS record does not authenticate");
	d->seq++;
	while (body && !p[HDR + body - 1]) /* padding */
		body--;
	if (!body)
		return err_set(reterr, -EPROTO, "TLS record without content type");
	*ret_type = p[HDR + body - 1];
	*ret_n = body - 1;
	return 0;
}

static int records(struct rec *r, uint8_t *p, size_t n, size_t *ret_used, rec_sink sink, void *arg, struct err *reterr)
{
	size_t off = 0, count = 0, len = 0;
	uint8_t type = 0;
	int e = 0;

	while (n - off >= HDR && !r->ended) {
		size_t body = ((size_t)p[off + 3] << 8) | p[off + 4];

		if (p[off] != TYPE_DATA || p[off + 1] != 3 || body < TAG + 1 || body > RECORD_MAX) {
			if (p[off] == 20 && body == 1) { /* a late ChangeCipherSpec: RFC 8446 appendix D.4 */
				if (n - off < HDR + 1)
					break;
				off += HDR + 1;
				continue;
			}
			e = err_set(reterr, -EPROTO, "not a TLS 1.3 record (type %u, %zu bytes)", p[off], body);
			break;
		}
		if (n - off < HDR + body)
			break;
		e = open_record(r, p + off, HDR + body, &type, &len, reterr);
		if (e == 0 && type == TYPE_DATA)
			e = sink(arg, p + off + HDR, len);
		else if (e == 0)
			e = control(r, type, p + off + HDR, len, reterr);
		if (e < 0)
			break;
		off += HDR + body;
		count++;
	}
	stats_add(&r->loop->stats, ST_RECORDS_RX, count);
	*ret_used = off;
	return e;
}

ssize_t rec_read(struct rec *r, rec_sink sink, void *arg, struct err *reterr)
{
	uint8_t *in = r->loop->scratch.in;
	size_t have = r->part.len, room, used;
	ssize_t n;
	int e;

	if (r->ended)
		return 0;
	if (have)
		memcpy(in, buf_at(&r->part), have);
	room = SCRATCH_IN - have;
	n = recv(r->fd, in + have, room, MSG_DONTWAIT);
	stats_inc(&r->loop->stats, ST_SYS_RECV);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r->readable = false;
		return -EAGAIN;
	}
	if (n == 0)
		return r->rx == REC_PLAIN ? 0 : err_set(reterr, -ECONNABORTED, "connection ended without close_notify");
	if ((size_t)n < room && !r->hup)
		r->readable = false; /* an edge follows when more comes */
	r->rx_bytes += (uint64_t)n;
	stats_add(&r->loop->stats, ST_TUNNEL_RX_BYTES, (uint64_t)n);
	if (r->rx == REC_PLAIN) {
		e = sink(arg, in, (size_t)n);
		return e < 0 ? e : n;
	}
	stats_gauge(&r->loop->stats, SG_BUFFERED, -(int64_t)have);
	buf_take(&r->part, have);
	e = records(r, in, have + (size_t)n, &used, sink, arg, reterr);
	if (e < 0)
		return e;
	have = have + (size_t)n - used;
	if (have && !r->ended) {
		if (buf_append(&r->part, in + used, have) < 0)
			return -ENOMEM;
		stats_gauge(&r->loop->stats, SG_BUFFERED, (int64_t)have);
	}
	return n;
}

bool rec_worn(const struct rec *r)
{
	return r->keys && (r->keys->tx.seq >= WORN || r->keys->rx.seq >= WORN);
}

/* best effort: what does not fit into the socket's buffer now is not worth waiting for */
static void send_alert(struct rec *r, uint8_t level, uint8_t code)
{
	uint8_t alert[3] = { level, code }, out[64];
	ssize_t n = seal(r->keys, TYPE_ALERT, alert, 2, out);

	if (n > 0)
		(void)!send(r->fd, out, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void rec_close(struct rec *r, bool orderly)
{
	if (r->fd < 0 || !r->loop)
		return;
	if (orderly && r->tx == REC_USER && !r->ssl && !r->pend.len)
		send_alert(r, ALERT_WARNING, ALERT_CLOSE_NOTIFY);
	stats_gauge(&r->loop->stats, SG_BUFFERED, -(int64_t)(r->part.len + r->pend.len));
	if (r->ssl)
		wolfSSL_free(r->ssl);
	r->ssl = NULL;
	if (r->keys) {
		wc_AesFree(&r->keys->tx.aes);
		wc_AesFree(&r->keys->rx.aes);
		explicit_bzero(r->keys, sizeof(*r->keys));
		free(r->keys);
		r->keys = NULL;
	}
	buf_finish(&r->part);
	buf_finish(&r->pend);
	close(r->fd);
	r->fd = -1;
}

const char *rec_engine_str(const struct rec *r)
{
	return r->tx == REC_PLAIN ? "plain" : "user";
}

const char *rec_engine_why(const struct rec *r)
{
	return r->tx == REC_PLAIN ? "tls: false" : "the only TLS engine of this build";
}
