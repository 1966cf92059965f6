/*
 * TLS contexts: one identity (certificate, key, CA) made ready for both sides of a tunnel, and the check of who the peer is.
 * TLS 1.3 only, mutual, ALPN "h2", no resumption (a resumed session may come without the peer's certificate, and the identity
 * is all that policy has). A context is read-only after creation and shared by all workers.
 * Sources: SPIFFE X509-SVID; HBONE (interop C1.1); wolfSSL manual.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"

struct WOLFSSL;
struct tls_ctx;

#define TLS_ID_MAX 256 /* bytes of a SPIFFE id kept per tunnel, with NUL; longer ids are refused */

/** struct tls_peer - what a finished handshake says of the other side */
struct tls_peer {
	char id[TLS_ID_MAX];
	char cipher[32];
	uint64_t not_after; /* unix seconds */
};

/** tls_library() - "5.5.4 tuned" or "5.5.4 packaged"; static text */
const char *tls_library(void);
bool tls_library_tuned(void);

/**
 * tls_ctx_create() - load and check an identity; all or nothing
 * @ret_warn:	a sentence when the certificate is not valid now (peers will refuse it); "" otherwise
 */
int tls_ctx_create(struct tls_ctx **ret, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr);
void tls_ctx_destroy(struct tls_ctx *t); /* NULL is fine */
const char *tls_ctx_id(const struct tls_ctx *t);	      /* our own SPIFFE id */
uint64_t tls_ctx_not_after(const struct tls_ctx *t);	      /* unix seconds */
uint64_t tls_ctx_not_before(const struct tls_ctx *t);	      /* unix seconds */
const char *tls_ctx_ca_text(const struct tls_ctx *t);	      /* subjects of our CA file, quoted, cut; NULL: unknown */
const char *tls_ctx_trust_domain(const struct tls_ctx *t);

/** struct tls_frames - where in the peer's records wolfSSL's reading stands: it keeps what it has of a record to itself */
struct tls_frames {
	uint8_t hdr[5], have; /* of a header that is being read */
	uint16_t left;	      /* of the body that follows it */
	uint8_t first[8], n_first; /* the peer's first bytes: tls_foreign() */
};
static inline bool tls_frames_whole(const struct tls_frames *f)
{
	return !f->have && !f->left;
}

/** tls_session() - a wolfSSL object for a handshake over @fd, which counts in @f what it reads; NULL: out of memory */
struct WOLFSSL *tls_session(struct tls_ctx *t, bool server, int fd, const char *sni, struct tls_frames *f);
/**
 * tls_peer_check() - after the handshake: exactly one URI SAN, a leaf for signing, in the trust domain or in @ids
 * Return: 0, or -EACCES with the reason.
 */
int tls_peer_check(struct WOLFSSL *ssl, const struct tls_ctx *t, const char *const *ids, uint32_t n_ids, struct tls_peer *ret,
		   struct err *reterr);
/** tls_id_check() - is @id in the trust domain of @t, or among @ids if there are any? Return: 0, or -EACCES with the reason. */
int tls_id_check(const struct tls_ctx *t, const char *id, const char *const *ids, uint32_t n_ids, struct err *reterr);

/* ---- explain.c: failures in words that say what to do ---- */
/** tls_explain() - a failed handshake; right after it, in its thread. Return: negative errno. */
int tls_explain(struct WOLFSSL *ssl, int ret, const struct tls_ctx *t, const struct tls_frames *f, struct err *reterr);
/** tls_alert_explain() - an alert from the peer; @t: ours, for what is wrong with our own certificate. Return: -EACCES. */
int tls_alert_explain(int code, const struct tls_ctx *t, struct err *reterr);
/** tls_alert_hint() - what an alert from the peer means for the operator; static text */
const char *tls_alert_hint(int code);
/** tls_foreign() - who a peer is that should speak TLS, by its first bytes; NULL: TLS, or who knows. Static text. */
const char *tls_foreign(const uint8_t *p, size_t n);
/** tls_unexpected() - the same of one that should speak HTTP/2 without TLS */
const char *tls_unexpected(const uint8_t *p, size_t n);
/** tls_ago() - "90 seconds", "12 minutes", "3 hours", "5 days", sign ignored. Return: @out. */
#define TLS_AGO 32
char *tls_ago(int64_t seconds, char out[TLS_AGO]);
/** tls_subjects() - quoted subjects of a PEM file's certificates, cut; malloc'd, NULL: none */
char *tls_subjects(const char *file);
/** tls_verify_note() - verify callback of every context: what tls_explain() will say of the certificate */
struct WOLFSSL_X509_STORE_CTX;
int tls_verify_note(int ok, struct WOLFSSL_X509_STORE_CTX *store);
/** tls_reason() - wolfSSL's own words */
const char *tls_reason(int e, char *out /* WOLFSSL_MAX_ERROR_SZ */);
