/*
 * TLS contexts and identity. The chain is verified by wolfSSL; what a certificate may say (one SPIFFE id in a URI SAN, not a
 * signing certificate) is checked here on the decoded certificate, for our own as well as for the peer's.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/asn.h>

#include "base/clean.h"
#include "base/log.h"
#include "codec/spiffe.h"
#include "tls/ctx.h"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

struct tls_ctx {
	WOLFSSL_CTX *side[2]; /* client, server */
	char id[TLS_ID_MAX];
	char *trust_domain;
	uint64_t not_before, not_after;
	char *ca_text; /* subjects of the CA file, for messages */
};

const char *tls_library(void)
{
#if ADIT_WOLFSSL_PACKAGED
	return LIBWOLFSSL_VERSION_STRING " packaged (slow: no AES-NI; run make setup for the tuned build)";
#else
	return LIBWOLFSSL_VERSION_STRING " tuned";
#endif
}

bool tls_library_tuned(void)
{
	return !ADIT_WOLFSSL_PACKAGED;
}

static uint64_t date_unix(const byte *date, int len)
{
	struct tm tm = { 0 };

	/* @date starts with its ASN.1 tag and length */
	if (!date || len < 3 || wc_GetDateAsCalendarTime(date + 2, len - 2, date[0], &tm))
		return 0;
	return (uint64_t)timegm(&tm);
}

/* SPIFFE X509-SVID sections 2 and 4: what a leaf must look like */
static int leaf_check(const byte *der, word32 n, char ret_id[TLS_ID_MAX], uint64_t *ret_not_before, uint64_t *ret_not_after,
		      struct err *reterr)
{
	struct DecodedCert c;
	const DNS_entry *uri = NULL;
	struct spiffe sp;
	uint32_t uris = 0;
	int r = -EACCES;

	wc_InitDecodedCert(&c, der, n, NULL);
	if (wc_ParseCert(&c, CERT_TYPE, NO_VERIFY, NULL)) {
		err_set(reterr, r, "certificate cannot be parsed");
		goto out;
	}
	for (const DNS_entry *e = c.altNames; e; e = e->next)
		if (e->type == ASN_URI_TYPE) {
			uri = e;
			uris++;
		}
	if (uris != 1) {
		err_set(reterr, r, "certificate has %u URI names; a SPIFFE certificate has exactly one", uris);
		goto out;
	}
	if (c.isCA) {
		err_set(reterr, r, "certificate is a CA's; a signing certificate is no identity");
		goto out;
	}
	if (c.extKeyUsageSet && (!(c.extKeyUsage & KEYUSE_DIGITAL_SIG) || (c.extKeyUsage & (KEYUSE_KEY_CERT_SIGN | KEYUSE_CRL_SIGN)))) {
		err_set(reterr, r, "certificate's key usage must be digitalSignature without keyCertSign and cRLSign");
		goto out;
	}
	if (uri->len <= 0 || uri->len >= TLS_ID_MAX) {
		err_set(reterr, r, "SPIFFE id of %d bytes; at most %d are accepted", uri->len, TLS_ID_MAX - 1);
		goto out;
	}
	if (spiffe_parse(uri->name, (size_t)uri->len, &sp, reterr) < 0)
		goto out;
	if (!sp.path.n) {
		err_set(reterr, r, "SPIFFE id without a path names a trust domain, not a workload");
		goto out;
	}
	memcpy(ret_id, uri->name, (size_t)uri->len);
	ret_id[uri->len] = '\0';
	*ret_not_before = date_unix(c.beforeDate, c.beforeDateLen);
	*ret_not_after = date_unix(c.afterDate, c.afterDateLen);
	r = 0;
out:
	wc_FreeDecodedCert(&c);
	return r;
}

static void frames_count(struct tls_frames *f, const uint8_t *p, size_t n)
{
	while (n) {
		size_t k = min_u64(f->left, n);

		f->left = (uint16_t)(f->left - k);
		p += k;
		n -= k;
		if (!n)
			break;
		f->hdr[f->have++] = *p++;
		n--;
		if (f->have == sizeof(f->hdr)) {
			f->left = (uint16_t)(f->hdr[3] << 8 | f->hdr[4]);
			f->have = 0;
		}
	}
}

static void first_keep(struct tls_frames *f, const char *p, size_t n)
{
	for (; n && f->n_first < sizeof(f->first); n--)
		f->first[f->n_first++] = (uint8_t)*p++;
}

static int io_recv(WOLFSSL *ssl, char *buf, int n, void *arg)
{
	ssize_t r = recv(wolfSSL_get_fd(ssl), buf, (size_t)n, MSG_DONTWAIT);

	if (r > 0) {
		first_keep(arg, buf, (size_t)r);
		frames_count(arg, (const uint8_t *)buf, (size_t)r);
		return (int)r;
	}
	if (r == 0)
		return WOLFSSL_CBIO_ERR_CONN_CLOSE;
	if (errno == EAGAIN || errno == EINTR)
		return WOLFSSL_CBIO_ERR_WANT_READ;
	return errno == ECONNRESET ? WOLFSSL_CBIO_ERR_CONN_RST : WOLFSSL_CBIO_ERR_GENERAL;
}

static int io_send(WOLFSSL *ssl, char *buf, int n, void *arg)
{
	ssize_t r = send(wolfSSL_get_fd(ssl), buf, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);

	(void)arg;
	if (r >= 0)
		return (int)r;
	if (errno == EAGAIN || errno == EINTR)
		return WOLFSSL_CBIO_ERR_WANT_WRITE;
	return errno == ECONNRESET || errno == EPIPE ? WOLFSSL_CBIO_ERR_CONN_RST : WOLFSSL_CBIO_ERR_GENERAL;
}

static int side_init(WOLFSSL_CTX **ret, const struct cfg_identity *id, bool server, struct err *reterr)
{
	WOLFSSL_CTX *x = wolfSSL_CTX_new(server ? wolfTLSv1_3_server_method() : wolfTLSv1_3_client_method());
	char why[WOLFSSL_MAX_ERROR_SZ];
	int r;

	*ret = x;
	if (!x)
		return err_set(reterr, -ENOMEM, "out of memory");
	r = wolfSSL_CTX_load_verify_locations(x, id->ca, NULL);
	if (r != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': CA file %s: %s", id->name, id->ca, tls_reason(r, why));
	r = wolfSSL_CTX_use_certificate_chain_file(x, id->certificate);
	if (r != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': certificate file %s: %s", id->name, id->certificate, tls_reason(r, why));
	r = wolfSSL_CTX_use_PrivateKey_file(x, id->key, WOLFSSL_FILETYPE_PEM);
	if (r != WOLFSSL_SUCCESS || wolfSSL_CTX_check_private_key(x) != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': key file %s is unreadable or does not belong to %s", id->name, id->key,
			       id->certificate);
	if (id->ciphers && wolfSSL_CTX_set_cipher_list(x, id->ciphers) != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': ciphers '%s': want names like TLS13-AES128-GCM-SHA256", id->name, id->ciphers);
	wolfSSL_CTX_set_verify(x, WOLFSSL_VERIFY_PEER | WOLFSSL_VERIFY_FAIL_IF_NO_PEER_CERT, tls_verify_note);
	wolfSSL_CTX_SetIORecv(x, io_recv);
	wolfSSL_CTX_SetIOSend(x, io_send);
	wolfSSL_CTX_set_session_cache_mode(x, WOLFSSL_SESS_CACHE_OFF);
	if (server)
		wolfSSL_CTX_no_ticket_TLSv13(x);
	return 0;
}

static int own_certificate(struct tls_ctx *t, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr)
{
	WOLFSSL_X509 *x = wolfSSL_X509_load_certificate_file(id->certificate, WOLFSSL_FILETYPE_PEM);
	uint64_t now = (uint64_t)time(NULL);
	const byte *der;
	int n = 0, r;

	ret_warn->msg[0] = '\0';
	if (!x)
		return err_set(reterr, -EINVAL, "identity '%s': certificate file %s cannot be read", id->name, id->certificate);
	der = wolfSSL_X509_get_der(x, &n);
	r = leaf_check(der, (word32)n, t->id, &t->not_before, &t->not_after, reterr);
	wolfSSL_X509_free(x);
	if (r < 0)
		return err_prefix(reterr, r, "identity '%s': %s", id->name, id->certificate);
	if (t->not_after && now > t->not_after)
		err_set(ret_warn, 0, "identity '%s': certificate %s expired %llu minutes ago; peers will refuse it", id->name, id->certificate,
			(unsigned long long)(now - t->not_after) / 60);
	else if (t->not_before > now)
		err_set(ret_warn, 0, "identity '%s': certificate %s is valid only in %llu minutes; is this node's clock right?", id->name,
			id->certificate, (unsigned long long)(t->not_before - now + 59) / 60);
	return 0;
}

int tls_ctx_create(struct tls_ctx **ret, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr)
{
	struct tls_ctx *t = calloc(1, sizeof(*t));
	struct spiffe sp;
	int r;

	if (!t)
		return err_set(reterr, -ENOMEM, "out of memory");
	r = own_certificate(t, id, ret_warn, reterr);
	for (int s = 0; r == 0 && s < 2; s++)
		r = side_init(&t->side[s], id, s, reterr);
	if (r < 0)
		goto fail;
	r = spiffe_parse(t->id, strlen(t->id), &sp, reterr);
	if (r < 0)
		goto fail;
	t->trust_domain = id->trust_domain ? strdup(id->trust_domain) : strndup(sp.trust_domain.p, sp.trust_domain.n);
	if (!t->trust_domain) {
		r = err_set(reterr, -ENOMEM, "out of memory");
		goto fail;
	}
	t->ca_text = tls_subjects(id->ca); /* NULL: messages say less */
	*ret = t;
	return 0;
fail:
	tls_ctx_destroy(t);
	return r;
}

void tls_ctx_destroy(struct tls_ctx *t)
{
	if (!t)
		return;
	for (int s = 0; s < 2; s++)
		if (t->side[s])
			wolfSSL_CTX_free(t->side[s]);
	free(t->trust_domain);
	free(t->ca_text);
	free(t);
}

const char *tls_ctx_id(const struct tls_ctx *t)
{
	return t->id;
}

uint64_t tls_ctx_not_after(const struct tls_ctx *t)
{
	return t->not_after;
}

uint64_t tls_ctx_not_before(const struct tls_ctx *t)
{
	return t->not_before;
}

const char *tls_ctx_ca_text(const struct tls_ctx *t)
{
	return t->ca_text;
}

const char *tls_ctx_trust_domain(const struct tls_ctx *t)
{
	return t->trust_domain;
}

struct WOLFSSL *tls_session(struct tls_ctx *t, bool server, int fd, const char *sni, struct tls_frames *f)
{
	WOLFSSL *ssl = wolfSSL_new(t->side[server]);
	char alpn[] = "h2";

	if (!ssl)
		return NULL;
	if (wolfSSL_set_fd(ssl, fd) != WOLFSSL_SUCCESS ||
	    wolfSSL_UseALPN(ssl, alpn, 2, WOLFSSL_ALPN_FAILED_ON_MISMATCH) != WOLFSSL_SUCCESS ||
	    (sni && wolfSSL_UseSNI(ssl, WOLFSSL_SNI_HOST_NAME, sni, (unsigned short)strlen(sni)) != WOLFSSL_SUCCESS)) {
		wolfSSL_free(ssl);
		return NULL;
	}
	wolfSSL_SetIOReadCtx(ssl, f); /* after set_fd(), which sets it, too */
	wolfSSL_KeepArrays(ssl); /* the write keys are asked for after the handshake */
	return ssl;
}

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

int tls_peer_check(struct WOLFSSL *ssl, const struct tls_ctx *t, const char *const *ids, uint32_t n_ids, struct tls_peer *ret,
		   struct err *reterr)
{
	WOLFSSL_X509 *x = wolfSSL_get_peer_certificate(ssl);
	unsigned short alpn_n = 0;
	char *alpn = NULL;
	const byte *der;
	uint64_t from;
	int n = 0, r;

	if (!x)
		return err_set(reterr, -EACCES, "peer sent no certificate");
	der = wolfSSL_X509_get_der(x, &n);
	r = der ? leaf_check(der, (word32)n, ret->id, &from, &ret->not_after, reterr) : -EACCES;
	wolfSSL_X509_free(x);
	if (r < 0)
		return err_prefix(reterr, -EACCES, "peer");
	if (wolfSSL_ALPN_GetProtocol(ssl, &alpn, &alpn_n) != WOLFSSL_SUCCESS || alpn_n != 2 || memcmp(alpn, "h2", 2))
		return err_set(reterr, -EACCES, "peer '%s' did not agree on ALPN h2: is it an HBONE agent?", ret->id);
	snprintf(ret->cipher, sizeof(ret->cipher), "%s", wolfSSL_get_cipher(ssl));
	return tls_id_check(t, ret->id, ids, n_ids, reterr);
}
