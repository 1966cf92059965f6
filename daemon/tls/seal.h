/*
 * The user engine: TLS 1.3 records sealed and opened with wolfCrypt (RFC 8446 section 5), and their keys. No I/O.
 * Internal to tls/. A worker's thread.
 */
#pragma once
#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/aes.h>

#include "base/err.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#define HDR 5u
#define TAG 16u
#define RECORD_PLAIN 16384u
#define RECORD_MAX (RECORD_PLAIN + 256u) /* RFC 8446 5.2: ciphertext length limit */
#define SECRET_MAX 48u

enum { TYPE_ALERT = 21, TYPE_HANDSHAKE = 22, TYPE_DATA = 23 };
enum { HS_NEW_SESSION_TICKET = 4, HS_KEY_UPDATE = 24 };

enum seal_cipher { SEAL_AES128, SEAL_AES256, SEAL_CHACHA20, SEAL_CIPHERS };

/** struct dir - one direction's keys; zeroed is empty */
struct dir {
	Aes aes;
	uint8_t key[32]; /* of CHACHA20, which has no schedule to prepare */
	uint8_t iv[12];
	uint64_t seq; /* of the next record */
	uint8_t secret[SECRET_MAX];
};

/** struct rec_keys - of a connection whose records, or some of them, are made here; exists from rec_open() on */
struct rec_keys {
	struct dir tx, rx;
	uint8_t cipher; /* enum seal_cipher */
	uint8_t hash_len;
	bool have_secrets; /* wolfSSL told them: KeyUpdates can be followed */
	uint8_t updates;
};

/** seal_key_len() - bytes */
size_t seal_key_len(enum seal_cipher c);
/** seal_key() - @d's keys, for the cipher in @k. Return: 0 or -EIO. */
int seal_key(const struct rec_keys *k, struct dir *d, const uint8_t *key, const uint8_t iv[12]);
/** seal_update() - the next generation of @d (RFC 8446 7.2). Return: 0, -EIO, or -ENOTSUP with the packaged wolfSSL. */
int seal_update(const struct rec_keys *k, struct dir *d);
/**
 * seal() - one record of @type from p[0..n) to @out, which has room for n + HDR + 1 + TAG and does not overlap
 * @p:	p[n] is written to, and put back
 * Return: bytes, or -EIO
 */
ssize_t seal(struct rec_keys *k, uint8_t type, uint8_t *p, size_t n, uint8_t *out);
/** unseal() - the record p[0..n), header and all, in place: content at p + HDR. Return: 0 or -EPROTO with the sentence. */
int unseal(struct rec_keys *k, uint8_t *p, size_t n, uint8_t *ret_type, size_t *ret_n, struct err *reterr);
/** seal_forget() - no trace of @d's keys is left */
void seal_forget(struct dir *d);
