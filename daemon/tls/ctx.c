/*
 * TLS contexts: an identity's files made into what handshakes need. The files are read once (files.c); both sides, the facts for people and
 * what verify.c looks up are made of the same bytes, so they cannot differ, and a context is either whole or not there.
 *
 * Old and new contexts live side by side while tunnels go over from one to the other, hence the references. A sum over all that went in
 * says whether anything has changed.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/sha256.h>

#include "base/clean.h"
#include "base/log.h"
#include "base/text.h"
#include "codec/spiffe.h"
#include "tls/ctx_int.h"
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>

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

/* ---- what wolfSSL calls ---- */

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
	f->all += n;
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

/* the peer's chain, as it came; with WOLFSSL_ALWAYS_VERIFY_CB, which both builds have, this is called for every leaf */
static int verify_seen(int ok, WOLFSSL_X509_STORE_CTX *store)
{
	struct tls_chain **chain = store->userCtx;
	struct tls_bytes at[TLS_CHAIN_CERTS];
	uint32_t n = store->totalCerts > 0 ? (uint32_t)store->totalCerts : 0;

	if (!tls_verify_note(ok, store))
		return 0;
	if (store->error_depth || *chain)
		return 1;
	for (uint32_t i = 0; i < n && i < TLS_CHAIN_CERTS; i++)
		at[i] = (struct tls_bytes){ store->certs[i].buffer, store->certs[i].length };
	*chain = n <= TLS_CHAIN_CERTS ? chain_create(at, n) : NULL;
	return *chain != NULL;
}

/* ---- made of the files ---- */

static int no_memory(struct err *reterr)
{
	return err_set(reterr, -ENOMEM, "out of memory");
}

/* what files.c and crl.c say begins with what is wrong with the file */
static int of_file(struct err *reterr, int r, const struct cfg_identity *id, enum tls_file k)
{
	if (r == -ENOMEM)
		return r;
	return err_prefix(reterr, -EINVAL, "identity '%s': %s %s", id->name, tls_file_what(k), tls_file_name(id, k));
}

static int key_use(WOLFSSL_CTX *x, const struct tls_files *fs, const struct cfg_identity *id, struct err *reterr)
{
	struct tls_bytes key = fs->f[TLS_FILE_KEY];
	struct err e = { "" };

	if (wolfSSL_CTX_use_PrivateKey_buffer(x, key.p, (long)key.n, WOLFSSL_FILETYPE_PEM) != WOLFSSL_SUCCESS) {
		if (!key.n)
			err_set(&e, 0, "is empty; is it being written?");
		else if (memmem(key.p, key.n, "ENCRYPTED", 9))
			err_set(&e, 0, "is encrypted: the agent has nobody to ask for the password; protect it by its file mode");
		else if (memmem(key.p, key.n, "-----BEGIN ", 11) && !memmem(key.p, key.n, "-----END ", 9))
			err_set(&e, 0, "is cut off: it begins and does not end; is it being written?");
		else
			err_set(&e, 0, "is no private key in PEM form that can be used (EC or RSA)");
		err_set(reterr, 0, "%s", e.msg);
		return of_file(reterr, -EINVAL, id, TLS_FILE_KEY);
	}
	if (wolfSSL_CTX_check_private_key(x) != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': key file %s does not belong to %s: the two must be replaced together", id->name,
			       id->key, id->certificate);
	return 0;
}

static int side_init(struct tls_ctx *t, const struct tls_files *fs, const struct cfg_identity *id, bool server, struct err *reterr)
{
	WOLFSSL_CTX *x = wolfSSL_CTX_new(server ? wolfTLSv1_3_server_method() : wolfTLSv1_3_client_method());
	struct tls_bytes cert = fs->f[TLS_FILE_CERTIFICATE];
	char why[WOLFSSL_MAX_ERROR_SZ];
	uint64_t now = (uint64_t)time(NULL);
	int r;

	t->side[server] = x;
	if (!x)
		return no_memory(reterr);
	for (uint32_t i = 0; i < t->cas.n; i++) {
		if (now > t->ca_info[i].not_after) /* an expired one beside a good one is usual; what it signed is refused */
			continue;
		r = wolfSSL_CTX_load_verify_buffer_ex(x, t->cas.at[i].p, (long)t->cas.at[i].n, WOLFSSL_FILETYPE_ASN1, 0,
						      WOLFSSL_LOAD_FLAG_DATE_ERR_OKAY);
		if (r != WOLFSSL_SUCCESS)
			return err_set(reterr, -EINVAL, "identity '%s': CA file %s: certificate %u: %s", id->name, id->ca, i + 1,
				       tls_reason(r, why));
	}
	r = wolfSSL_CTX_use_certificate_chain_buffer(x, cert.p, (long)cert.n);
	if (r != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': certificate file %s: %s", id->name, id->certificate, tls_reason(r, why));
	r = key_use(x, fs, id, reterr);
	if (r < 0)
		return r;
	if (id->ciphers && wolfSSL_CTX_set_cipher_list(x, id->ciphers) != WOLFSSL_SUCCESS)
		return err_set(reterr, -EINVAL, "identity '%s': ciphers '%s': want names like TLS13-AES128-GCM-SHA256", id->name, id->ciphers);
	wolfSSL_CTX_set_verify(x, WOLFSSL_VERIFY_PEER | WOLFSSL_VERIFY_FAIL_IF_NO_PEER_CERT, verify_seen);
	wolfSSL_CTX_SetIORecv(x, io_recv);
	wolfSSL_CTX_SetIOSend(x, io_send);
	wolfSSL_CTX_set_session_cache_mode(x, WOLFSSL_SESS_CACHE_OFF);
	if (server)
		wolfSSL_CTX_no_ticket_TLSv13(x);
	return 0;
}

static int own_read(struct tls_ctx *t, const struct tls_files *fs, const struct cfg_identity *id, struct err *reterr)
{
	struct tls_ders d = { 0 };
	int r = tls_pem(&d, fs->f[TLS_FILE_CERTIFICATE], "CERTIFICATE", reterr);

	if (r < 0)
		return of_file(reterr, r, id, TLS_FILE_CERTIFICATE);
	r = cert_leaf(d.at[0], t->id, reterr);
	if (r == 0 && cert_info(d.at[0], &t->info.cert) < 0)
		r = err_set(reterr, -EINVAL, "certificate cannot be parsed");
	if (r == 0) {
		t->info.n_chain = d.n;
		t->own = chain_create(d.at, d.n);
		if (!t->own)
			r = err_set(reterr, -EINVAL, "the chain has more than %u certificates or %u bytes, or memory is out", TLS_CHAIN_CERTS,
				    TLS_CHAIN_MAX);
	}
	tls_ders_finish(&d);
	return r < 0 ? of_file(reterr, r, id, TLS_FILE_CERTIFICATE) : 0;
}

static int cas_read(struct tls_ctx *t, const struct tls_files *fs, const struct cfg_identity *id, struct err *reterr)
{
	int r = tls_pem(&t->cas, fs->f[TLS_FILE_CA], "CERTIFICATE", reterr);

	if (r < 0)
		return of_file(reterr, r, id, TLS_FILE_CA);
	t->anchors = calloc(t->cas.n, sizeof(*t->anchors));
	t->ca_info = calloc(t->cas.n, sizeof(*t->ca_info));
	if (!t->anchors || !t->ca_info)
		return no_memory(reterr);
	t->info.n_cas = t->cas.n;
	t->info.cas = t->ca_info;
	for (uint32_t i = 0; i < t->cas.n; i++) {
		r = cert_signer(t->cas.at[i], reterr);
		if (r == 0 && cert_info(t->cas.at[i], &t->ca_info[i]) < 0)
			r = err_set(reterr, -EINVAL, "cannot be parsed");
		if (r < 0)
			return err_prefix(reterr, -EINVAL, "identity '%s': CA file %s: certificate %u of %u", id->name, id->ca, i + 1, t->cas.n);
		t->anchors[i].der = t->cas.at[i];
		(void)cert_names(t->cas.at[i], &t->anchors[i].names);
	}
	return 0;
}

static int crls_read(struct tls_ctx *t, const struct tls_files *fs, const struct cfg_identity *id, struct err *reterr)
{
	struct tls_ders d = { 0 };
	int r;

	if (!id->crl)
		return 0;
	r = tls_pem(&d, fs->f[TLS_FILE_CRL], "X509 CRL", reterr);
	if (r == 0)
		r = crls_create(&t->crls, d.at, d.n, t->cas.at, t->cas.n, reterr);
	tls_ders_finish(&d);
	return r < 0 ? of_file(reterr, r, id, TLS_FILE_CRL) : 0;
}

/* ---- the same as before? ---- */

static void sum_add(wc_Sha256 *h, const void *p, size_t n)
{
	uint64_t len = n; /* so that bytes cannot move from one part to the next */

	(void)wc_Sha256Update(h, (const byte *)&len, sizeof(len));
	(void)wc_Sha256Update(h, p ? p : "", (word32)n);
}

static void sum_text(wc_Sha256 *h, const char *s)
{
	sum_add(h, s, s ? strlen(s) + 1 : 0);
}

static void sums(struct tls_ctx *t, const struct tls_files *fs, const struct cfg_identity *id)
{
	wc_Sha256 h;

	(void)wc_InitSha256(&h);
	for (int k = 0; k < TLS_FILES; k++) {
		sum_add(&h, fs->f[k].p, fs->f[k].n);
		sum_text(&h, tls_file_name(id, (enum tls_file)k));
	}
	sum_text(&h, id->name);
	sum_text(&h, id->trust_domain);
	sum_text(&h, id->ciphers);
	(void)wc_Sha256Final(&h, t->content);
	(void)wc_InitSha256(&h);
	sum_add(&h, fs->f[TLS_FILE_CA].p, fs->f[TLS_FILE_CA].n);
	sum_add(&h, fs->f[TLS_FILE_CRL].p, fs->f[TLS_FILE_CRL].n);
	sum_text(&h, t->trust_domain);
	(void)wc_Sha256Final(&h, t->trust);
}

bool tls_ctx_same_trust(const struct tls_ctx *a, const struct tls_ctx *b)
{
	return a == b || !memcmp(a->trust, b->trust, sizeof(a->trust));
}

bool tls_ctx_same_leaf(const struct tls_ctx *a, const struct tls_ctx *b)
{
	return a == b || !memcmp(a->info.cert.fingerprint, b->info.cert.fingerprint, sizeof(a->info.cert.fingerprint));
}

/* ---- life ---- */

static char *keep(char **at, const char *s)
{
	char *to = *at;

	if (!s)
		return NULL;
	*at = stpcpy(to, s) + 1;
	return to;
}

static int texts_keep(struct tls_ctx *t, const struct cfg_identity *id, struct err *reterr)
{
	struct text cas = { 0 };
	struct spiffe sp;
	char q[96];
	size_t n = strlen(id->name) + 1;
	char *at;
	int r = spiffe_parse(t->id, strlen(t->id), &sp, reterr);

	if (r < 0)
		return r;
	for (int k = 0; k < TLS_FILES; k++)
		n += tls_file_name(id, (enum tls_file)k) ? strlen(tls_file_name(id, (enum tls_file)k)) + 1 : 0;
	t->trust_domain = id->trust_domain ? strdup(id->trust_domain) : strndup(sp.trust_domain.p, sp.trust_domain.n);
	t->files = at = malloc(n);
	for (uint32_t i = 0; i < t->info.n_cas && cas.len < 2 * sizeof(q); i++)
		text_addf(&cas, "%s%s", i ? ", " : "", log_quote(q, sizeof(q), t->ca_info[i].subject, strlen(t->ca_info[i].subject)));
	t->ca_text = cas.s;
	if (!t->trust_domain || !t->files || !text_ok(&cas))
		return no_memory(reterr);
	t->name = keep(&at, id->name);
	t->info.certificate = keep(&at, id->certificate);
	t->info.key = keep(&at, id->key);
	t->info.ca = keep(&at, id->ca);
	t->info.crl = keep(&at, id->crl);
	return 0;
}

static void destroy(struct tls_ctx *t)
{
	for (int s = 0; s < 2; s++)
		if (t->side[s])
			wolfSSL_CTX_free(t->side[s]);
	crls_destroy(t->crls);
	tls_ders_finish(&t->cas);
	free(t->anchors);
	free(t->ca_info);
	free(t->own);
	free(t->trust_domain);
	free(t->ca_text);
	free(t->files);
	free(t);
}

struct tls_ctx *tls_ctx_get(struct tls_ctx *t)
{
	if (t)
		atomic_fetch_add_explicit(&t->refs, 1, memory_order_relaxed);
	return t;
}

void tls_ctx_put(struct tls_ctx *t)
{
	/* release: what others did with it comes before; acquire: the last one sees that */
	if (t && atomic_fetch_sub_explicit(&t->refs, 1, memory_order_acq_rel) == 1)
		destroy(t);
}

static void warn_first(void *arg, bool bad, const char *text)
{
	struct err *warn = arg;

	if (bad && !warn->msg[0])
		err_set(warn, 0, "%s", text);
}

static int make(struct tls_ctx *t, const struct tls_files *fs, const struct cfg_identity *id, struct err *reterr)
{
	int r = own_read(t, fs, id, reterr);

	if (r == 0)
		r = cas_read(t, fs, id, reterr);
	if (r == 0)
		r = texts_keep(t, id, reterr);
	if (r == 0)
		r = crls_read(t, fs, id, reterr);
	for (int s = 0; r == 0 && s < 2; s++)
		r = side_init(t, fs, id, s, reterr);
	return r;
}

int tls_ctx_renew(struct tls_ctx **ret, struct tls_ctx *old, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr)
{
	struct tls_ctx *t = calloc(1, sizeof(*t));
	struct tls_files fs = { 0 };
	int r = t ? tls_files_read(&fs, id, reterr) : no_memory(reterr);

	if (r == 0) {
		t->refs = 1;
		t->info.loaded = (uint64_t)time(NULL);
		r = make(t, &fs, id, reterr);
	}
	if (r == 0) {
		sums(t, &fs, id);
		if (old && !memcmp(old->content, t->content, sizeof(t->content))) {
			destroy(t);
			t = tls_ctx_get(old);
		}
		ret_warn->msg[0] = '\0';
		tls_ctx_notes(t, (uint64_t)time(NULL), warn_first, ret_warn);
		*ret = TAKE(t);
	}
	tls_files_finish(&fs);
	if (t)
		destroy(t);
	return r;
}

int tls_ctx_create(struct tls_ctx **ret, const struct cfg_identity *id, struct err *ret_warn, struct err *reterr)
{
	return tls_ctx_renew(ret, NULL, id, ret_warn, reterr);
}

/* ---- what it says ---- */

const char *tls_ctx_id(const struct tls_ctx *t)
{
	return t->id;
}

uint64_t tls_ctx_not_after(const struct tls_ctx *t)
{
	return t->info.cert.not_after;
}

uint64_t tls_ctx_not_before(const struct tls_ctx *t)
{
	return t->info.cert.not_before;
}

const char *tls_ctx_ca_text(const struct tls_ctx *t)
{
	return t->ca_text;
}

const char *tls_ctx_trust_domain(const struct tls_ctx *t)
{
	return t->trust_domain;
}

const struct tls_info *tls_ctx_info(const struct tls_ctx *t)
{
	return &t->info;
}

const struct crls *tls_ctx_crls(const struct tls_ctx *t)
{
	return t->crls;
}

struct WOLFSSL *tls_session(struct tls_ctx *t, bool server, int fd, const char *sni, struct tls_frames *f, struct tls_chain **ret_chain)
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
	wolfSSL_SetCertCbCtx(ssl, ret_chain);
	wolfSSL_KeepArrays(ssl); /* the write keys are asked for after the handshake */
	return ssl;
}
