/* Between ctx.c and verify.c: what a context is made of. */
#pragma once
#include "tls/ctx.h"
#include <stdatomic.h>

struct WOLFSSL_CTX;

/** struct anchor - a CA of the bundle, by what is looked up */
struct anchor {
	struct tls_bytes der; /* into tls_ctx.cas */
	struct cert_names names;
};

struct tls_ctx {
	_Atomic uint32_t refs;
	struct WOLFSSL_CTX *side[2]; /* client, server */
	char id[TLS_ID_MAX];
	char *name; /* of the identity, for sentences */
	char *trust_domain;
	char *ca_text; /* subjects of the CA file, for messages */
	struct tls_ders cas;
	struct anchor *anchors; /* info.n_cas; dates are in info.cas */
	struct tls_cert_info *ca_info;
	struct crls *crls;
	struct tls_chain *own;
	struct tls_info info;
	char *files; /* the texts of info's file names */
	uint8_t content[32], trust[32]; /* sums of all that it was made of, and of what decides on peers */
};

/** chain_create() - a copy of @n certificates; NULL: too many, too long, or out of memory */
struct tls_chain *chain_create(const struct tls_bytes *der, uint32_t n);
/** chain_path() - is there a way from the leaf of @chain to a CA of @t, by names, dates and revocation? Return: as tls_ctx_recheck() */
int chain_path(const struct tls_ctx *t, const struct tls_chain *chain, uint64_t now, uint64_t *ret_until, struct err *reterr);
/** chain_signed() - and is each certificate of it signed by the next? */
int chain_signed(const struct tls_ctx *t, const struct tls_chain *chain, struct err *reterr);
