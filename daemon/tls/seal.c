/*
 * TLS 1.3 records made in user space. A record is a header of five bytes, the content with its type behind it (and zeros, if the
 * sender pads) sealed, and a tag; the header is authenticated, too. The nonce is the IV with the record's number put on its end
 * by XOR (RFC 8446 5.3), so a number is never used twice with one key: it counts up, and KeyUpdate starts it anew with the key.
 *
 * TLS 1.3 appends the content type to the plaintext before encryption, so that byte is written behind the slice and the byte that
 * was there is put back afterwards; the cipher writes to another buffer, which makes the trick safe and a copy unnecessary.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/aes.h>
#include <wolfssl/wolfcrypt/chacha20_poly1305.h>
#include <wolfssl/wolfcrypt/kdf.h>

#include "tls/seal.h"
#include <string.h>

size_t seal_key_len(enum seal_cipher c)
{
	return c == SEAL_AES128 ? 16 : 32;
}

int seal_key(const struct rec_keys *k, struct dir *d, const uint8_t *key, const uint8_t iv[12])
{
	size_t n = seal_key_len((enum seal_cipher)k->cipher);

	memcpy(d->iv, iv, sizeof(d->iv));
	if (k->cipher == SEAL_CHACHA20) {
		memcpy(d->key, key, n);
		return 0;
	}
	wc_AesFree(&d->aes);
	return wc_AesInit(&d->aes, NULL, INVALID_DEVID) || wc_AesGcmSetKey(&d->aes, key, (word32)n) ? -EIO : 0;
}

void seal_forget(struct dir *d)
{
	wc_AesFree(&d->aes);
	explicit_bzero(d, sizeof(*d));
}

int seal_update(const struct rec_keys *k, struct dir *d)
{
#if !ADIT_WOLFSSL_PACKAGED
	static const uint8_t proto[] = "tls13 ", upd[] = "traffic upd", key_l[] = "key", iv_l[] = "iv";
	int digest = k->hash_len == 48 ? WC_SHA384 : WC_SHA256;
	word32 key_len = (word32)seal_key_len((enum seal_cipher)k->cipher);
	uint8_t next[SECRET_MAX], key[32], iv[12];
	int r;

	if (!k->have_secrets ||
	    wc_Tls13_HKDF_Expand_Label(next, k->hash_len, d->secret, k->hash_len, proto, 6, upd, 11, NULL, 0, digest) ||
	    wc_Tls13_HKDF_Expand_Label(key, key_len, next, k->hash_len, proto, 6, key_l, 3, NULL, 0, digest) ||
	    wc_Tls13_HKDF_Expand_Label(iv, 12, next, k->hash_len, proto, 6, iv_l, 2, NULL, 0, digest))
		return -EIO;
	memcpy(d->secret, next, k->hash_len);
	d->seq = 0;
	r = seal_key(k, d, key, iv);
	explicit_bzero(next, sizeof(next));
	explicit_bzero(key, sizeof(key));
	return r;
#else
	(void)k, (void)d;
	return -ENOTSUP;
#endif
}

static void nonce(const struct dir *d, uint8_t out[12])
{
	memcpy(out, d->iv, 12);
	for (int i = 0; i < 8; i++)
		out[4 + i] ^= (uint8_t)(d->seq >> (56 - 8 * i));
}

ssize_t seal(struct rec_keys *k, uint8_t type, uint8_t *p, size_t n, uint8_t *out)
{
	struct dir *d = &k->tx;
	uint8_t iv[12], keep = p[n];
	size_t body = n + 1;
	int e;

	out[0] = TYPE_DATA;
	out[1] = 3;
	out[2] = 3;
	out[3] = (uint8_t)((body + TAG) >> 8);
	out[4] = (uint8_t)(body + TAG);
	nonce(d, iv);
	p[n] = type;
	if (k->cipher == SEAL_CHACHA20)
		e = wc_ChaCha20Poly1305_Encrypt(d->key, iv, out, HDR, p, (word32)body, out + HDR, out + HDR + body);
	else
		e = wc_AesGcmEncrypt(&d->aes, out + HDR, p, (word32)body, iv, sizeof(iv), out + HDR + body, TAG, out, HDR);
	p[n] = keep;
	if (e)
		return -EIO;
	d->seq++;
	return (ssize_t)(HDR + body + TAG);
}

int unseal(struct rec_keys *k, uint8_t *p, size_t n, uint8_t *ret_type, size_t *ret_n, struct err *reterr)
{
	struct dir *d = &k->rx;
	size_t body = n - HDR - TAG;
	uint8_t iv[12], *in = p + HDR;
	int e;

	nonce(d, iv);
	if (k->cipher == SEAL_CHACHA20)
		e = wc_ChaCha20Poly1305_Decrypt(d->key, iv, p, HDR, in, (word32)body, in + body, in);
	else
		e = wc_AesGcmDecrypt(&d->aes, in, in, (word32)body, iv, sizeof(iv), in + body, TAG, p, HDR);
	if (e)
		return err_set(reterr, -EPROTO, "TLS record does not authenticate");
	d->seq++;
	while (body && !in[body - 1]) /* padding */
		body--;
	if (!body)
		return err_set(reterr, -EPROTO, "TLS record without content type");
	*ret_type = in[body - 1];
	*ret_n = body - 1;
	return 0;
}
