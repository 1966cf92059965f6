/*
 * TLS contexts: one identity (certificate, key, CAs, revocation lists) made ready for both sides of a tunnel, and the check of who the peer
 * is. TLS 1.3 only, mutual, ALPN "h2", no resumption (a resumed session may come without the peer's certificate, and the identity
 * is all that policy has).
 *
 * A context is read-only after creation, shared by all threads and counted: whoever keeps one beyond the call that gave it to him has a
 * reference. When files change a new one is made; handshakes, tunnels and what is logged of them keep the one they began with.
 * Sources: SPIFFE X509-SVID; HBONE (interop C1.1); wolfSSL manual.
 */
#pragma once
#include "tls/crl.h"

struct WOLFSSL;
struct tls_ctx;

#define TLS_CHAIN_MAX	16384u /* bytes of a peer's certificates that are kept; a longer chain is refused */
#define TLS_CHAIN_CERTS 8u

/** struct tls_chain - certificates as a peer sent them, the leaf first; one allocation */
struct tls_chain {
	uint32_t n;
	struct tls_bytes at[TLS_CHAIN_CERTS]; /* into der */
	uint8_t der[];
};

/** struct tls_peer - what a finished handshake says of the other side */
struct tls_peer {
	char id[TLS_ID_MAX];
	char cipher[32];
	uint64_t not_after; /* unix seconds; of the leaf */
	uint64_t until;	    /* of the whole chain, its CA included: not trusted after that */
};

/** struct tls_info - a context for people; lives as long as it */
struct tls_info {
	const char *certificate, *key, *ca, *crl; /* file names; crl NULL: none */
	struct tls_cert_info cert;
	uint32_t n_chain; /* certificates in the file, the leaf included */
	uint32_t n_cas;
	const struct tls_cert_info *cas;
	uint64_t loaded; /* unix seconds */
};

enum tls_state { TLS_GOOD, TLS_EXPIRING /* a third of its life is left, or less */, TLS_EXPIRED, TLS_EARLY /* not valid yet */ };

/** tls_library() - "5.5.4 tuned" or "5.5.4 packaged"; static text */
const char *tls_library(void);
bool tls_library_tuned(void);

/**
 * tls_ctx_create() - load and check an identity; all or nothing. One reference for the caller.
 * @ret_warn:	a sentence when it will not be of much use now (expired, not valid yet, revoked, ...); "" otherwise
 */
int tls_ctx_create(struct tls_ctx **ret, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr);
/** tls_ctx_renew() - the same, but if nothing has changed since @old was made (NULL: it is new) *ret is another reference to @old */
int tls_ctx_renew(struct tls_ctx **ret, struct tls_ctx *old, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr);
struct tls_ctx *tls_ctx_get(struct tls_ctx *t); /* any thread; NULL is fine */
void tls_ctx_put(struct tls_ctx *t);		/* any thread; NULL is fine */
const char *tls_ctx_id(const struct tls_ctx *t);	      /* our own SPIFFE id */
uint64_t tls_ctx_not_after(const struct tls_ctx *t);	      /* unix seconds */
uint64_t tls_ctx_not_before(const struct tls_ctx *t);	      /* unix seconds */
const char *tls_ctx_ca_text(const struct tls_ctx *t);	      /* subjects of our CA file, quoted, cut; NULL: unknown */
const char *tls_ctx_trust_domain(const struct tls_ctx *t);
const struct tls_info *tls_ctx_info(const struct tls_ctx *t);
const struct crls *tls_ctx_crls(const struct tls_ctx *t); /* NULL: none */
enum tls_state tls_ctx_state(const struct tls_ctx *t, uint64_t now);
/** tls_ctx_same_trust() - do both accept the same peers, ids aside? (same CAs, lists, trust domain) */
bool tls_ctx_same_trust(const struct tls_ctx *a, const struct tls_ctx *b);
bool tls_ctx_same_leaf(const struct tls_ctx *a, const struct tls_ctx *b); /* do both show the same certificate? */
/** tls_ctx_notes() - what an operator should know of @t at @now, a sentence each; @bad: it does not work, or soon will not */
void tls_ctx_notes(const struct tls_ctx *t, uint64_t now, void (*say)(void *arg, bool bad, const char *text), void *arg);
/** tls_ctx_next() - when (unix seconds, after @now) what tls_ctx_notes() and tls_ctx_state() say may change by itself; 0: never */
uint64_t tls_ctx_next(const struct tls_ctx *t, uint64_t now);

/** struct tls_frames - where in the peer's records wolfSSL's reading stands: it keeps what it has of a record to itself */
struct tls_frames {
	uint8_t hdr[5], have; /* of a header that is being read */
	uint16_t left;	      /* of the body that follows it */
	uint64_t all;	      /* bytes read */
	uint8_t first[8], n_first; /* the peer's first bytes: tls_foreign() */
};
static inline bool tls_frames_whole(const struct tls_frames *f)
{
	return !f->have && !f->left;
}

/**
 * tls_session() - a wolfSSL object for a handshake over @fd, which counts in @f what it reads, and puts the peer's chain into *ret_chain, to
 * be freed by the caller; NULL: out of memory
 */
struct WOLFSSL *tls_session(struct tls_ctx *t, bool server, int fd, const char *sni, struct tls_frames *f, struct tls_chain **ret_chain);
/**
 * tls_peer_check() - after the handshake: the rules for leaves, dates and revocation of the whole chain, in the trust domain or in @ids
 * Return: 0, -EACCES, or -EKEYREVOKED, with the reason.
 */
int tls_peer_check(struct WOLFSSL *ssl, const struct tls_ctx *t, const struct tls_chain *chain, const char *const *ids, uint32_t n_ids,
		   struct tls_peer *ret, struct err *reterr);
/**
 * tls_ctx_recheck() - would a peer that showed @chain still be accepted under @t? Everything but the handshake, signatures included.
 * Return: 0, -EACCES, -EKEYREVOKED, -EKEYEXPIRED, with the reason. -ENOMEM: not known.
 */
int tls_ctx_recheck(const struct tls_ctx *t, const struct tls_chain *chain, const char *const *ids, uint32_t n_ids, struct err *reterr);
/** tls_ctx_revokes() - do the lists of @t name the certificate of @other, another context of ours? */
bool tls_ctx_revokes(const struct tls_ctx *t, const struct tls_ctx *other);
/** tls_id_check() - is @id in the trust domain of @t, or among @ids if there are any? Return: 0, or -EACCES with the reason. */
int tls_id_check(const struct tls_ctx *t, const char *id, const char *const *ids, uint32_t n_ids, struct err *reterr);

/* ---- explain.c: failures in words that say what to do ---- */
/** tls_explain() - a failed handshake; right after it, in its thread. Return: negative errno. */
int tls_explain(struct WOLFSSL *ssl, int ret, const struct tls_ctx *t, const struct tls_frames *f, struct err *reterr);
/** tls_alert_explain() - an alert from the peer; @t: ours, for what is wrong with our own certificate. Return: -EACCES. */
int tls_alert_explain(int code, const struct tls_ctx *t, struct err *reterr);
/** tls_own_fault() - "; our certificate expired 12 minutes ago: renew it", or ""; valid until the next call in this thread */
const char *tls_own_fault(const struct tls_ctx *t);
/** tls_alert_hint() - what an alert from the peer means for the operator; static text */
const char *tls_alert_hint(int code);
/** tls_foreign() - who a peer is that should speak TLS, by its first bytes; NULL: TLS, or who knows. Static text. */
const char *tls_foreign(const uint8_t *p, size_t n);
/** tls_unexpected() - the same of one that should speak HTTP/2 without TLS */
const char *tls_unexpected(const uint8_t *p, size_t n);
/** tls_ago() - "90 seconds", "12 minutes", "3 hours", "5 days", sign ignored. Return: @out. */
#define TLS_AGO 32
char *tls_ago(int64_t seconds, char out[TLS_AGO]);
/** tls_verify_note() - verify callback of every context: what tls_explain() will say of the certificate */
struct WOLFSSL_X509_STORE_CTX;
int tls_verify_note(int ok, struct WOLFSSL_X509_STORE_CTX *store);
/** tls_reason() - wolfSSL's own words */
const char *tls_reason(int e, char *out /* WOLFSSL_MAX_ERROR_SZ */);
