/*
 * Who the peer is. In a handshake wolfSSL checks the signatures, and that the peer has the key of its certificate. What it does not do, or
 * not every build of it, is done here on the certificates as they came: the rules of SPIFFE, the way from the leaf to a CA of ours with the
 * dates of all on it (wolfSSL remembers intermediate certificates of one peer for the next, and looks at the dates of CAs only when they are
 * loaded), and revocation lists.
 *
 * The chain is kept with the tunnel. So when CAs or lists change, every live tunnel's peer can be judged as if it came now, and only
 * those who would be refused are closed; then the signatures are checked here, too.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/asn.h>

#include "base/clean.h"
#include "base/log.h"
#include "codec/spiffe.h"
#include "tls/ctx_int.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

struct tls_chain *chain_create(const struct tls_bytes *der, uint32_t n)
{
	struct tls_chain *c;
	size_t all = 0, used = 0;

	for (uint32_t i = 0; i < n; i++)
		all += der[i].n;
	if (!n || n > TLS_CHAIN_CERTS || all > TLS_CHAIN_MAX)
		return NULL;
	c = malloc(sizeof(*c) + all);
	if (!c)
		return NULL;
	c->n = n;
	for (uint32_t i = 0; i < n; i++) {
		memcpy(c->der + used, der[i].p, der[i].n);
		c->at[i] = (struct tls_bytes){ c->der + used, der[i].n };
		used += der[i].n;
	}
	return c;
}

static bool equal(struct tls_bytes a, struct tls_bytes b)
{
	return a.n == b.n && !memcmp(a.p, b.p, a.n);
}

/* ---- the way to a CA ---- */

struct step {
	const struct tls_chain *chain;
	const struct tls_ctx *t;
	uint64_t now, until;
	bool used[TLS_CHAIN_CERTS];
	uint32_t way[TLS_CHAIN_CERTS], n_way; /* indexes of the chain, the leaf first */
	uint64_t ca_expired;		       /* a CA of the right name, but out of date */
};

static int dates(struct tls_bytes der, const char *whose, uint64_t now, uint64_t *ret_until, struct err *reterr)
{
	uint64_t from, to;
	char text[TLS_AGO];

	if (cert_times(der, &from, &to) < 0)
		return err_set(reterr, -EACCES, "%s certificate cannot be parsed", whose);
	if (now > to)
		return err_set(reterr, -EKEYEXPIRED, "%s certificate expired %s ago (or this node's clock is ahead)", whose,
			       tls_ago((int64_t)(now - to), text));
	if (now < from)
		return err_set(reterr, -EACCES, "%s certificate is valid only in %s (or this node's clock is behind)", whose,
			       tls_ago((int64_t)(from - now), text));
	*ret_until = min_u64(*ret_until, to);
	return 0;
}

/* is there a CA of this name that is valid now? */
static bool anchored(struct step *s, struct tls_bytes issuer)
{
	uint64_t best = 0;

	for (uint32_t i = 0; i < s->t->info.n_cas; i++) {
		const struct tls_cert_info *ca = &s->t->ca_info[i];

		if (!equal(s->t->anchors[i].names.subject, issuer))
			continue;
		if (s->now > ca->not_after)
			s->ca_expired = max_u64(s->ca_expired, ca->not_after);
		else if (s->now >= ca->not_before)
			best = max_u64(best, ca->not_after);
	}
	s->until = best ? min_u64(s->until, best) : s->until;
	return best;
}

static int next_in_chain(struct step *s, struct tls_bytes issuer)
{
	struct cert_names n;

	for (uint32_t i = 1; i < s->chain->n; i++)
		if (!s->used[i] && cert_names(s->chain->at[i], &n) == 0 && equal(n.subject, issuer))
			return (int)i;
	return -1;
}

static int way_find(struct step *s, struct err *reterr)
{
	uint32_t i = 0;

	for (;;) {
		const char *whose = i ? "peer's intermediate" : "peer's";
		struct cert_names n;
		int r = dates(s->chain->at[i], whose, s->now, &s->until, reterr), next;

		if (r < 0)
			return r;
		if (i && cert_signer(s->chain->at[i], reterr) < 0)
			return err_prefix(reterr, -EACCES, "peer's intermediate certificate");
		if (cert_names(s->chain->at[i], &n) < 0)
			return err_set(reterr, -EACCES, "%s certificate cannot be parsed", whose);
		if (crls_revoked(s->t->crls, &n))
			return err_set(reterr, -EKEYREVOKED, "%s certificate is revoked by %s", whose, s->t->info.crl);
		s->used[i] = true;
		s->way[s->n_way++] = i;
		if (anchored(s, n.issuer))
			return 0;
		next = next_in_chain(s, n.issuer);
		if (next < 0)
			break;
		i = (uint32_t)next;
	}
	if (s->ca_expired)
		return err_set(reterr, -EKEYEXPIRED, "peer's certificate is signed by a CA whose own certificate has expired (%s)", s->t->info.ca);
	return err_set(reterr, -EACCES, "peer's certificate is not signed by our CA (%s)%s", s->t->info.ca,
		       s->chain->n == 1 ? "; does it leave out an intermediate certificate?" : "");
}

int chain_path(const struct tls_ctx *t, const struct tls_chain *chain, uint64_t now, uint64_t *ret_until, struct err *reterr)
{
	struct step s = { .chain = chain, .t = t, .now = now, .until = UINT64_MAX };
	int r = way_find(&s, reterr);

	if (r == 0)
		*ret_until = s.until;
	return r;
}

int chain_signed(const struct tls_ctx *t, const struct tls_chain *chain, struct err *reterr)
{
	struct step s = { .chain = chain, .t = t, .now = (uint64_t)time(NULL), .until = UINT64_MAX };
	WOLFSSL_CERT_MANAGER *cm;
	int r = way_find(&s, reterr), w = WOLFSSL_SUCCESS;

	if (r < 0)
		return r;
	cm = wolfSSL_CertManagerNew();
	if (!cm)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (uint32_t i = 0; i < t->info.n_cas; i++) /* those out of date are not taken, and not wanted */
		w = wolfSSL_CertManagerLoadCABuffer(cm, t->anchors[i].der.p, (long)t->anchors[i].der.n, WOLFSSL_FILETYPE_ASN1);
	for (uint32_t i = s.n_way; i-- > 0;) {
		struct tls_bytes der = chain->at[s.way[i]];

		w = wolfSSL_CertManagerVerifyBuffer(cm, der.p, (long)der.n, WOLFSSL_FILETYPE_ASN1);
		if (w == WOLFSSL_SUCCESS && i)
			w = wolfSSL_CertManagerLoadCABuffer(cm, der.p, (long)der.n, WOLFSSL_FILETYPE_ASN1);
		if (w != WOLFSSL_SUCCESS)
			break;
	}
	wolfSSL_CertManagerFree(cm);
	if (w == MEMORY_E)
		return err_set(reterr, -ENOMEM, "out of memory");
	return w == WOLFSSL_SUCCESS ? 0 : err_set(reterr, -EACCES, "peer's certificate is not signed by our CA (%s)", t->info.ca);
}

bool tls_ctx_revokes(const struct tls_ctx *t, const struct tls_ctx *other)
{
	struct cert_names n;

	for (uint32_t i = 0; t->crls && i < other->own->n; i++)
		if (cert_names(other->own->at[i], &n) == 0 && crls_revoked(t->crls, &n))
			return true;
	return false;
}

/* ---- ids ---- */

int tls_id_check(const struct tls_ctx *t, const char *id, const char *const *ids, uint32_t n_ids, struct err *reterr)
{
	char q[TLS_ID_MAX + 8];
	struct spiffe sp;

	for (uint32_t i = 0; i < n_ids; i++)
		if (spiffe_match(ids[i], id, strlen(id)))
			return 0;
	log_quote(q, sizeof(q), id, strlen(id));
	if (n_ids)
		return err_set(reterr, -EACCES, "peer is %s, which is not among the %u accepted ids", q, n_ids);
	if (spiffe_parse(id, strlen(id), &sp, reterr) < 0)
		return -EACCES;
	if (!slice_is(sp.trust_domain, t->trust_domain))
		return err_set(reterr, -EACCES, "peer is %s, which is not in trust domain %s", q, t->trust_domain);
	return 0;
}

int tls_peer_check(struct WOLFSSL *ssl, const struct tls_ctx *t, const struct tls_chain *chain, const char *const *ids, uint32_t n_ids,
		   struct tls_peer *ret, struct err *reterr)
{
	unsigned short alpn_n = 0;
	char *alpn = NULL;
	uint64_t from;
	int r;

	if (!chain)
		return err_set(reterr, -EACCES, "peer sent no certificate");
	r = cert_leaf(chain->at[0], ret->id, reterr);
	if (r < 0)
		return err_prefix(reterr, -EACCES, "peer");
	if (wolfSSL_ALPN_GetProtocol(ssl, &alpn, &alpn_n) != WOLFSSL_SUCCESS || alpn_n != 2 || memcmp(alpn, "h2", 2))
		return err_set(reterr, -EACCES, "peer '%s' did not agree on ALPN h2: is it an HBONE agent?", ret->id);
	snprintf(ret->cipher, sizeof(ret->cipher), "%s", wolfSSL_get_cipher(ssl));
	r = chain_path(t, chain, (uint64_t)time(NULL), &ret->until, reterr);
	if (r < 0)
		return r == -EKEYREVOKED ? r : -EACCES;
	(void)cert_times(chain->at[0], &from, &ret->not_after);
	return tls_id_check(t, ret->id, ids, n_ids, reterr);
}

int tls_ctx_recheck(const struct tls_ctx *t, const struct tls_chain *chain, const char *const *ids, uint32_t n_ids, struct err *reterr)
{
	char id[TLS_ID_MAX];
	int r = cert_leaf(chain->at[0], id, reterr);

	if (r == 0)
		r = chain_signed(t, chain, reterr);
	return r < 0 ? r : tls_id_check(t, id, ids, n_ids, reterr);
}
