/*
 * Revocation lists. wolfSSL has its own, which walks a linked list under a mutex for every handshake of every worker, refuses everybody
 * whose CA has no list, and takes no list past its date. Here a list is parsed into a sorted table per issuer; wolfSSL only checks the
 * signature. What that means for operators (docs/IDENTITY.md): what a list names is refused; a CA without a list revokes nothing; a list past
 * its nextUpdate stays in force, and is complained about.
 *
 * A list that this code does not understand is refused as a whole (RFC 5280 5.2: unknown critical extensions): delta lists, which make
 * sense only with their base, and indirect ones, which speak of other CAs' certificates.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/openssl/evp.h>

#include "base/clean.h"
#include "tls/crl.h"
#include <stdio.h>
#include <string.h>

enum { DER_INTEGER = 0x02, DER_BITS = 0x03, DER_OCTETS = 0x04, DER_OID = 0x06, DER_UTC_TIME = 0x17, DER_TIME = 0x18, DER_SEQUENCE = 0x30 };
enum { DER_BOOLEAN = 0x01, DER_CONTEXT_0 = 0xa0 };

struct crl {
	struct tls_crl_info info;
	uint8_t *name; /* of the issuer, DER */
	size_t name_n;
	struct tls_bytes *serials; /* sorted; info.revoked many; into serials_buf */
	uint8_t *serials_buf;
};

struct crls {
	uint32_t n;
	struct crl at[];
};

/* a list in pieces; points into its DER */
struct parts {
	struct tls_bytes tbs, algorithm /* OID */, signature, issuer, revoked, extensions;
	uint64_t this_update, next_update;
};

static bool take(struct tls_bytes *in, uint8_t want, struct tls_bytes *ret)
{
	uint8_t tag;

	return der_take(in, &tag, ret, NULL) && tag == want;
}

static bool peek(struct tls_bytes in, uint8_t want)
{
	return in.n && in.p[0] == want;
}

static int tbs_parse(struct tls_bytes tbs, struct parts *p)
{
	struct tls_bytes v, oid;
	uint8_t tag;

	if (peek(tbs, DER_INTEGER) && (!take(&tbs, DER_INTEGER, &v) || v.n != 1 || v.p[0] != 1)) /* version 2 */
		return -EINVAL;
	if (!take(&tbs, DER_SEQUENCE, &v) || !take(&v, DER_OID, &oid) || oid.n != p->algorithm.n || memcmp(oid.p, p->algorithm.p, oid.n))
		return -EINVAL; /* both places must say the same algorithm */
	if (!der_take(&tbs, &tag, NULL, &p->issuer) || tag != DER_SEQUENCE || !der_take(&tbs, &tag, &v, NULL))
		return -EINVAL;
	p->this_update = der_time(tag, v);
	if (!p->this_update)
		return -EINVAL;
	if (peek(tbs, DER_UTC_TIME) || peek(tbs, DER_TIME)) {
		if (!der_take(&tbs, &tag, &v, NULL))
			return -EINVAL;
		p->next_update = der_time(tag, v);
		if (!p->next_update)
			return -EINVAL;
	}
	if (peek(tbs, DER_SEQUENCE) && !take(&tbs, DER_SEQUENCE, &p->revoked))
		return -EINVAL;
	if (peek(tbs, DER_CONTEXT_0) && (!take(&tbs, DER_CONTEXT_0, &v) || !take(&v, DER_SEQUENCE, &p->extensions)))
		return -EINVAL;
	return tbs.n ? -EINVAL : 0;
}

static int parse(struct tls_bytes der, struct parts *p)
{
	struct tls_bytes list, v, tbs;
	uint8_t tag;

	memset(p, 0, sizeof(*p));
	if (!take(&der, DER_SEQUENCE, &list) || !der_take(&list, &tag, &tbs, &p->tbs) || tag != DER_SEQUENCE ||
	    !take(&list, DER_SEQUENCE, &v) || !take(&v, DER_OID, &p->algorithm) || !take(&list, DER_BITS, &p->signature) ||
	    p->signature.n < 2 || p->signature.p[0])
		return -EINVAL;
	p->signature.p++; /* how many bits of the last byte are unused: none */
	p->signature.n--;
	return tbs_parse(tbs, p);
}

/* id-ce-*: 2.5.29.x */
enum { EXT_CRL_NUMBER = 20, EXT_DELTA = 27, EXT_DISTRIBUTION = 28, EXT_AUTHORITY_KEY = 35 };

static int extensions_read(struct tls_bytes in, struct tls_crl_info *info, struct err *reterr)
{
	struct tls_bytes ext, oid, v, num;
	bool critical;
	int which;

	while (in.n) {
		if (!take(&in, DER_SEQUENCE, &ext) || !take(&ext, DER_OID, &oid))
			return err_set(reterr, -EINVAL, "has an extension that cannot be parsed");
		critical = peek(ext, DER_BOOLEAN) && take(&ext, DER_BOOLEAN, &v) && v.n && v.p[0];
		which = oid.n == 3 && oid.p[0] == 0x55 && oid.p[1] == 0x1d ? oid.p[2] : -1;
		if (which == EXT_DELTA)
			return err_set(reterr, -EINVAL, "is a delta list; the complete one is wanted");
		if (which == EXT_CRL_NUMBER && take(&ext, DER_OCTETS, &v) && take(&v, DER_INTEGER, &num) && num.n)
			tls_hex(info->number, der_serial(num).p, min_u64(der_serial(num).n, (sizeof(info->number) - 1) / 2));
		else if (critical && which != EXT_AUTHORITY_KEY && which != EXT_CRL_NUMBER)
			return err_set(reterr, -EINVAL, "has a critical extension%s: only complete lists of one CA are understood",
				       which == EXT_DISTRIBUTION ? " (issuing distribution point)" : "");
	}
	return 0;
}

static int by_serial(const void *a, const void *b)
{
	const struct tls_bytes *x = a, *y = b;
	int c = memcmp(x->p, y->p, min_u64(x->n, y->n));

	return c ? c : (x->n > y->n) - (x->n < y->n);
}

/* Return: how many there are; -EINVAL; fills in @c->serials when there is room */
static int64_t entries(struct tls_bytes in, struct crl *c)
{
	int64_t n = 0;
	size_t used = 0;

	while (in.n) {
		struct tls_bytes entry, serial;
		uint8_t tag;

		if (!take(&in, DER_SEQUENCE, &entry) || !take(&entry, DER_INTEGER, &serial) || !serial.n || !der_take(&entry, &tag, NULL, NULL))
			return -EINVAL;
		serial = der_serial(serial);
		if (c->serials) {
			memcpy(c->serials_buf + used, serial.p, serial.n);
			c->serials[n] = (struct tls_bytes){ c->serials_buf + used, serial.n };
		}
		used += serial.n;
		n++;
	}
	return n;
}

static int entries_read(struct tls_bytes in, struct crl *c, struct err *reterr)
{
	int64_t n = entries(in, c);

	if (n < 0)
		return err_set(reterr, -EINVAL, "has an entry that cannot be parsed");
	c->info.revoked = (uint32_t)n;
	c->serials = calloc((size_t)n + 1, sizeof(*c->serials));
	c->serials_buf = malloc(in.n + 1);
	if (!c->serials || !c->serials_buf)
		return err_set(reterr, -ENOMEM, "out of memory");
	(void)entries(in, c);
	qsort(c->serials, (size_t)n, sizeof(*c->serials), by_serial);
	return 0;
}

/* ---- who signed it ---- */

static const WOLFSSL_EVP_MD *digest_of(struct tls_bytes oid)
{
	static const uint8_t rsa[] = { 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01 }; /* PKCS #1: 11, 12, 13 */
	static const uint8_t ecdsa[] = { 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x04, 0x03 };	  /* X9.62, with SHA-2: 2, 3, 4 */
	int k = -1;

	if (oid.n == sizeof(rsa) + 1 && !memcmp(oid.p, rsa, sizeof(rsa)))
		k = oid.p[sizeof(rsa)] - 11;
	else if (oid.n == sizeof(ecdsa) + 1 && !memcmp(oid.p, ecdsa, sizeof(ecdsa)))
		k = oid.p[sizeof(ecdsa)] - 2;
	return k == 0 ? wolfSSL_EVP_sha256() : k == 1 ? wolfSSL_EVP_sha384() : k == 2 ? wolfSSL_EVP_sha512() : NULL;
}

static bool signed_by(const struct parts *p, const WOLFSSL_EVP_MD *md, struct tls_bytes ca)
{
	WOLFSSL_X509 *x = wolfSSL_X509_d2i(NULL, ca.p, (int)ca.n);
	WOLFSSL_EVP_PKEY *key = x ? wolfSSL_X509_get_pubkey(x) : NULL;
	WOLFSSL_EVP_MD_CTX *m = key ? wolfSSL_EVP_MD_CTX_new() : NULL;
	bool good = m && wolfSSL_EVP_DigestVerifyInit(m, NULL, md, NULL, key) == WOLFSSL_SUCCESS &&
		    wolfSSL_EVP_DigestVerifyUpdate(m, p->tbs.p, p->tbs.n) == WOLFSSL_SUCCESS &&
		    wolfSSL_EVP_DigestVerifyFinal(m, p->signature.p, p->signature.n) == WOLFSSL_SUCCESS;

	if (m)
		wolfSSL_EVP_MD_CTX_free(m);
	if (key)
		wolfSSL_EVP_PKEY_free(key);
	wolfSSL_X509_free(x);
	return good;
}

static int issuer_find(const struct parts *p, const struct tls_bytes *cas, uint32_t n_cas, struct tls_crl_info *info, struct err *reterr)
{
	const WOLFSSL_EVP_MD *md = digest_of(p->algorithm);
	struct tls_cert_info ca;
	struct cert_names names;
	bool named = false;

	if (!md)
		return err_set(reterr, -EINVAL, "is signed in a way that is not supported: want RSA or ECDSA with SHA-2");
	for (uint32_t i = 0; i < n_cas; i++) {
		if (cert_names(cas[i], &names) < 0 || names.subject.n != p->issuer.n || memcmp(names.subject.p, p->issuer.p, p->issuer.n))
			continue;
		named = true;
		if (!signed_by(p, md, cas[i]))
			continue;
		if (cert_info(cas[i], &ca) < 0)
			return err_set(reterr, -ENOMEM, "out of memory");
		memcpy(info->issuer, ca.subject, sizeof(info->issuer));
		return 0;
	}
	return err_set(reterr, -EINVAL, named ? "is not signed by the CA that it names: was it changed?" :
						"is of no CA in the CA file; add its CA there, or leave the list out");
}

static int crl_read(struct crl *c, struct tls_bytes der, const struct tls_bytes *cas, uint32_t n_cas, struct err *reterr)
{
	struct parts p;
	int r;

	if (parse(der, &p) < 0)
		return err_set(reterr, -EINVAL, "cannot be parsed");
	c->info.this_update = p.this_update;
	c->info.next_update = p.next_update;
	r = extensions_read(p.extensions, &c->info, reterr);
	if (r == 0)
		r = issuer_find(&p, cas, n_cas, &c->info, reterr);
	if (r == 0)
		r = entries_read(p.revoked, c, reterr);
	if (r < 0)
		return r;
	c->name = malloc(p.issuer.n);
	if (!c->name)
		return err_set(reterr, -ENOMEM, "out of memory");
	memcpy(c->name, p.issuer.p, p.issuer.n);
	c->name_n = p.issuer.n;
	return 0;
}

int crls_create(struct crls **ret, const struct tls_bytes *lists, uint32_t n, const struct tls_bytes *cas, uint32_t n_cas, struct err *reterr)
{
	struct crls *c = calloc(1, sizeof(*c) + n * sizeof(c->at[0]));
	int r = 0;

	if (!c)
		return err_set(reterr, -ENOMEM, "out of memory");
	for (; r == 0 && c->n < n; c->n++) {
		r = crl_read(&c->at[c->n], lists[c->n], cas, n_cas, reterr);
		if (r < 0 && n > 1)
			err_prefix(reterr, r, "list %u of %u", c->n + 1, n);
	}
	if (r < 0) {
		crls_destroy(c);
		return r;
	}
	*ret = c;
	return 0;
}

void crls_destroy(struct crls *c)
{
	for (uint32_t i = 0; c && i < c->n; i++) {
		free(c->at[i].name);
		free(c->at[i].serials);
		free(c->at[i].serials_buf);
	}
	free(c);
}

uint32_t crls_count(const struct crls *c)
{
	return c ? c->n : 0;
}

const struct tls_crl_info *crls_info(const struct crls *c, uint32_t i)
{
	return &c->at[i].info;
}

bool crls_revoked(const struct crls *c, const struct cert_names *names)
{
	for (uint32_t i = 0; c && i < c->n; i++) {
		const struct crl *l = &c->at[i];

		if (l->name_n == names->issuer.n && !memcmp(l->name, names->issuer.p, l->name_n) &&
		    bsearch(&names->serial, l->serials, l->info.revoked, sizeof(*l->serials), by_serial))
			return true;
	}
	return false;
}
