/*
 * Revocation lists (RFC 5280 section 5) of an identity's CAs: read and checked once, looked up by every handshake. Read-only afterwards,
 * any thread.
 */
#pragma once
#include "tls/cert.h"

struct tls_crl_info {
	char issuer[TLS_NAME_MAX];
	char number[TLS_SERIAL_MAX];	   /* hex; "" if it has none */
	uint64_t this_update, next_update; /* unix seconds; next_update 0: it does not say */
	uint32_t revoked;		   /* entries */
};

struct crls; /* all lists of one file */

/**
 * crls_create() - @lists as DER, each signed by one of @cas (DER, too). One that is older than its nextUpdate is taken all the same: what it
 * revokes stays revoked. Copies what it needs.
 * Return: 0, -EINVAL with a sentence that begins with what is wrong, -ENOMEM.
 */
int crls_create(struct crls **ret, const struct tls_bytes *lists, uint32_t n, const struct tls_bytes *cas, uint32_t n_cas, struct err *reterr);
void crls_destroy(struct crls *c); /* NULL is fine */
uint32_t crls_count(const struct crls *c);
const struct tls_crl_info *crls_info(const struct crls *c, uint32_t i);
/** crls_revoked() - is the certificate with these names on one of the lists? NULL: no lists */
bool crls_revoked(const struct crls *c, const struct cert_names *names);
