/*
 * What a certificate says: decoded once, without trust. The rules of SPIFFE X509-SVIDs for leaves and for those who sign.
 * Pure; any thread.
 */
#pragma once
#include "base/err.h"
#include "tls/files.h"

#define TLS_ID_MAX     256 /* bytes of a SPIFFE id kept per tunnel, with NUL; longer ids are refused */
#define TLS_NAME_MAX   256 /* bytes of a distinguished name for people, with NUL */
#define TLS_SERIAL_MAX 64  /* bytes of a serial number as hex digits, with NUL */

/** struct tls_cert_info - for people */
struct tls_cert_info {
	char subject[TLS_NAME_MAX], issuer[TLS_NAME_MAX]; /* "/CN=..." */
	char serial[TLS_SERIAL_MAX];			   /* hex, capital letters, as openssl says it */
	char fingerprint[65];				   /* SHA-256 of the DER, hex */
	uint64_t not_before, not_after;			   /* unix seconds */
};

/** struct cert_names - what of a certificate others refer to; points into its DER */
struct cert_names {
	struct tls_bytes serial; /* without leading zeros */
	struct tls_bytes issuer, subject; /* DER of the names */
};

/* ---- DER, as far as it is needed ---- */
/** der_take() - the next element of *in: its tag, its content, and all of it (both may be NULL). Return: false: none, or malformed */
bool der_take(struct tls_bytes *in, uint8_t *ret_tag, struct tls_bytes *ret, struct tls_bytes *ret_whole);
/** der_serial() - an INTEGER's content without leading zeros */
struct tls_bytes der_serial(struct tls_bytes v);
/** der_time() - UTCTime or GeneralizedTime in unix seconds; 0: malformed */
uint64_t der_time(uint8_t tag, struct tls_bytes v);

/** cert_names() - Return: 0 or -EINVAL */
int cert_names(struct tls_bytes der, struct cert_names *ret);
/** cert_times() - Return: 0 or -EINVAL */
int cert_times(struct tls_bytes der, uint64_t *ret_not_before, uint64_t *ret_not_after);
/** cert_info() - Return: 0, -EINVAL: it cannot be parsed, -ENOMEM */
int cert_info(struct tls_bytes der, struct tls_cert_info *ret);
/** cert_leaf() - the rules for an identity (SPIFFE X509-SVID 2 to 5). Return: 0, or -EACCES with the sentence. */
int cert_leaf(struct tls_bytes der, char ret_id[TLS_ID_MAX], struct err *reterr);
/** cert_signer() - the rules for a CA's. Return: 0, or -EACCES with the sentence. */
int cert_signer(struct tls_bytes der, struct err *reterr);
void tls_hex(char *out, const uint8_t *p, size_t n); /* 2n digits and NUL */
