/*
 * The files of an identity as bytes: read once, so that everything made of them fits together, and PEM taken apart. No TLS in here.
 * Main thread, or whoever makes a context; nothing is shared.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"

enum tls_file { TLS_FILE_CERTIFICATE, TLS_FILE_KEY, TLS_FILE_CA, TLS_FILE_CRL, TLS_FILES };

#define TLS_FILE_MAX (16u * 1024u * 1024u) /* bytes; a revocation list with some 400,000 entries */
#define TLS_PEM_MAX  512u		   /* blocks of one file */

struct tls_bytes {
	const uint8_t *p;
	size_t n;
};

/** struct tls_files - owned; tls_files_finish() wipes what was in them. A file that is not configured has n 0. */
struct tls_files {
	struct tls_bytes f[TLS_FILES];
};

/** tls_file_what() - "certificate file", "key file", ...; static text */
const char *tls_file_what(enum tls_file k);
/** tls_file_name() - as configured; NULL: not configured */
const char *tls_file_name(const struct cfg_identity *id, enum tls_file k);

/**
 * tls_files_read() - all files of @id, as they were at one moment: when one of them changes meanwhile, all are read again
 * Return: 0; -EINVAL with the sentence, which names identity and file; -EAGAIN: they never stood still (a tenth of a second is waited
 * at the most); -ENOMEM.
 */
int tls_files_read(struct tls_files *ret, const struct cfg_identity *id, struct err *reterr);
void tls_files_finish(struct tls_files *fs);

/** struct tls_ders - the blocks of a PEM file, decoded; owned, tls_ders_finish() */
struct tls_ders {
	uint32_t n;
	struct tls_bytes *at; /* into buf */
	uint8_t *buf;
};

/**
 * tls_pem() - the blocks called @label of @f; others are passed over
 * Return: 0 and at least one; -EINVAL with a sentence that begins with what is wrong ("is empty", "is cut off: ..."), -ENOMEM.
 */
int tls_pem(struct tls_ders *ret, struct tls_bytes f, const char *label, struct err *reterr);
void tls_ders_finish(struct tls_ders *d);
