/*
 * What a certificate says. wolfSSL decodes extensions; names, serial number and dates are read here by a walk over the DER, since they are
 * compared by the byte with what revocation lists say, and wolfSSL keeps them only in some of its builds.
 *
 * The rules (SPIFFE X509-SVID): a leaf has exactly one URI name, which is the id, with a path; it is no CA's; if it says what its key is
 * for, that is digitalSignature and neither keyCertSign nor cRLSign; if it says what the certificate is for (extended key usage), both
 * serverAuth and clientAuth are there, for an agent is both; the name is critical if the subject is empty (RFC 5280 4.2.1.6). A signing
 * certificate is a CA's, may sign certificates, and its own id, if it has one, has no path. Certificates that leave out the
 * key usage are accepted: the rule to have one is for those who issue.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>
#include <wolfssl/wolfcrypt/asn.h>
#include <wolfssl/wolfcrypt/sha256.h>

#include "base/clean.h"
#include "codec/spiffe.h"
#include "tls/cert.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum { DER_INTEGER = 0x02, DER_UTC_TIME = 0x17, DER_TIME = 0x18, DER_SEQUENCE = 0x30, DER_CONTEXT_0 = 0xa0 };

bool der_take(struct tls_bytes *in, uint8_t *ret_tag, struct tls_bytes *ret, struct tls_bytes *ret_whole)
{
	const uint8_t *p = in->p;
	size_t head = 2, len;

	if (in->n < 2 || (p[0] & 0x1f) == 0x1f)
		return false;
	len = p[1];
	if (len & 0x80) {
		size_t k = len & 0x7f;

		if (!k || k > 4 || in->n < 2 + k)
			return false;
		len = 0;
		for (size_t i = 0; i < k; i++)
			len = len << 8 | p[2 + i];
		head += k;
	}
	if (len > in->n - head)
		return false;
	*ret_tag = p[0];
	if (ret)
		*ret = (struct tls_bytes){ p + head, len };
	if (ret_whole)
		*ret_whole = (struct tls_bytes){ p, head + len };
	in->p += head + len;
	in->n -= head + len;
	return true;
}

static bool take_as(struct tls_bytes *in, uint8_t want, struct tls_bytes *ret, struct tls_bytes *ret_whole)
{
	uint8_t tag;

	return der_take(in, &tag, ret, ret_whole) && tag == want;
}

struct tls_bytes der_serial(struct tls_bytes v)
{
	while (v.n > 1 && !v.p[0]) {
		v.p++;
		v.n--;
	}
	return v;
}

static int digits(const uint8_t *p, int n)
{
	int v = 0;

	for (int i = 0; i < n; i++) {
		if (p[i] < '0' || p[i] > '9')
			return -1;
		v = v * 10 + p[i] - '0';
	}
	return v;
}

/* RFC 5280 4.1.2.5: always with seconds, always Z */
uint64_t der_time(uint8_t tag, struct tls_bytes v)
{
	size_t y = tag == DER_UTC_TIME ? 2 : 4;
	struct tm tm = { 0 };
	int f[6];
	time_t t;

	if ((tag != DER_UTC_TIME && tag != DER_TIME) || v.n != y + 11 || v.p[v.n - 1] != 'Z')
		return 0;
	f[0] = digits(v.p, (int)y);
	for (int i = 0; i < 5; i++)
		f[1 + i] = digits(v.p + y + 2 * i, 2);
	for (int i = 0; i < 6; i++)
		if (f[i] < 0)
			return 0;
	if (y == 2)
		f[0] += f[0] < 50 ? 2000 : 1900;
	if (f[1] < 1 || f[1] > 12 || f[2] < 1 || f[2] > 31 || f[3] > 23 || f[4] > 59 || f[5] > 60)
		return 0;
	tm.tm_year = f[0] - 1900;
	tm.tm_mon = f[1] - 1;
	tm.tm_mday = f[2];
	tm.tm_hour = f[3];
	tm.tm_min = f[4];
	tm.tm_sec = f[5];
	t = timegm(&tm);
	return t > 0 ? (uint64_t)t : 0;
}

/* RFC 5280 4.1: the parts of TBSCertificate up to its dates */
static int walk(struct tls_bytes der, struct cert_names *ret, struct tls_bytes *ret_validity)
{
	struct tls_bytes cert, tbs, v;
	uint8_t tag;

	if (!take_as(&der, DER_SEQUENCE, &cert, NULL) || !take_as(&cert, DER_SEQUENCE, &tbs, NULL) || !der_take(&tbs, &tag, &v, NULL))
		return -EINVAL;
	if (tag == DER_CONTEXT_0 && !der_take(&tbs, &tag, &v, NULL)) /* version */
		return -EINVAL;
	if (tag != DER_INTEGER || !v.n)
		return -EINVAL;
	ret->serial = der_serial(v);
	if (!take_as(&tbs, DER_SEQUENCE, NULL, NULL) || !take_as(&tbs, DER_SEQUENCE, NULL, &ret->issuer) ||
	    !take_as(&tbs, DER_SEQUENCE, ret_validity, NULL) || !take_as(&tbs, DER_SEQUENCE, NULL, &ret->subject))
		return -EINVAL;
	return 0;
}

int cert_names(struct tls_bytes der, struct cert_names *ret)
{
	struct tls_bytes validity;

	return walk(der, ret, &validity);
}

int cert_times(struct tls_bytes der, uint64_t *ret_not_before, uint64_t *ret_not_after)
{
	struct tls_bytes validity, from, to;
	struct cert_names names;
	uint8_t a, b;

	if (walk(der, &names, &validity) < 0 || !der_take(&validity, &a, &from, NULL) || !der_take(&validity, &b, &to, NULL))
		return -EINVAL;
	*ret_not_before = der_time(a, from);
	*ret_not_after = der_time(b, to);
	return *ret_not_after ? 0 : -EINVAL;
}

void tls_hex(char *out, const uint8_t *p, size_t n)
{
	static const char d[] = "0123456789ABCDEF";

	for (size_t i = 0; i < n; i++) {
		*out++ = d[p[i] >> 4];
		*out++ = d[p[i] & 15];
	}
	*out = '\0';
}

/* Return: 0, -EINVAL, -ENOMEM. wc_FreeDecodedCert() in any case. */
static int decode(DecodedCert *c, struct tls_bytes der)
{
	int r;

	wc_InitDecodedCert(c, der.p, (word32)der.n, NULL);
	r = wc_ParseCert(c, CERT_TYPE, NO_VERIFY, NULL);
	return r == MEMORY_E ? -ENOMEM : r ? -EINVAL : 0;
}

int cert_info(struct tls_bytes der, struct tls_cert_info *ret)
{
	uint8_t sum[WC_SHA256_DIGEST_SIZE];
	struct cert_names names;
	DecodedCert c;
	int r;

	memset(ret, 0, sizeof(*ret));
	r = cert_names(der, &names);
	if (r == 0)
		r = cert_times(der, &ret->not_before, &ret->not_after);
	if (r < 0)
		return r;
	r = decode(&c, der);
	if (r == 0) {
		snprintf(ret->subject, sizeof(ret->subject), "%.*s", TLS_NAME_MAX - 1, c.subject);
		snprintf(ret->issuer, sizeof(ret->issuer), "%.*s", TLS_NAME_MAX - 1, c.issuer);
		tls_hex(ret->serial, names.serial.p, min_u64(names.serial.n, (sizeof(ret->serial) - 1) / 2));
		if (wc_Sha256Hash(der.p, (word32)der.n, sum))
			r = -ENOMEM;
		else
			tls_hex(ret->fingerprint, sum, sizeof(sum));
	}
	wc_FreeDecodedCert(&c);
	return r;
}

static const DNS_entry *uri_of(const DecodedCert *c, uint32_t *ret_n)
{
	const DNS_entry *uri = NULL;

	*ret_n = 0;
	for (const DNS_entry *e = c->altNames; e; e = e->next)
		if (e->type == ASN_URI_TYPE) {
			uri = e;
			++*ret_n;
		}
	return uri;
}

static int leaf_usage(const DecodedCert *c, struct err *reterr)
{
	const byte both = EXTKEYUSE_SERVER_AUTH | EXTKEYUSE_CLIENT_AUTH;

	if (c->isCA)
		return err_set(reterr, -EACCES, "certificate is a CA's; a signing certificate is no identity");
	if (c->extKeyUsageSet && (!(c->extKeyUsage & KEYUSE_DIGITAL_SIG) || (c->extKeyUsage & (KEYUSE_KEY_CERT_SIGN | KEYUSE_CRL_SIGN))))
		return err_set(reterr, -EACCES, "certificate's key usage must be digitalSignature without keyCertSign and cRLSign");
	if (c->extExtKeyUsageSet && (c->extExtKeyUsage & both) != both)
		return err_set(reterr, -EACCES, "certificate's extended key usage has no %s: an agent's has serverAuth and clientAuth",
			       c->extExtKeyUsage & EXTKEYUSE_SERVER_AUTH ? "clientAuth" : "serverAuth");
	return 0;
}

static int leaf_id(const DecodedCert *c, struct tls_bytes der, char ret_id[TLS_ID_MAX], struct err *reterr)
{
	struct cert_names names;
	const DNS_entry *uri;
	struct spiffe sp;
	uint32_t n;

	uri = uri_of(c, &n);
	if (n != 1)
		return err_set(reterr, -EACCES, "certificate has %u URI names; a SPIFFE certificate has exactly one", n);
	if (uri->len <= 0 || uri->len >= TLS_ID_MAX)
		return err_set(reterr, -EACCES, "SPIFFE id of %d bytes; at most %d are accepted", uri->len, TLS_ID_MAX - 1);
	if (spiffe_parse(uri->name, (size_t)uri->len, &sp, reterr) < 0)
		return -EACCES;
	if (!sp.path.n)
		return err_set(reterr, -EACCES, "SPIFFE id without a path names a trust domain, not a workload");
	if (cert_names(der, &names) < 0)
		return err_set(reterr, -EACCES, "certificate cannot be parsed");
	if (names.subject.n == 2 && !c->extSubjAltNameCrit)
		return err_set(reterr, -EACCES, "certificate's subject is empty, and its URI name is not critical");
	memcpy(ret_id, uri->name, (size_t)uri->len);
	ret_id[uri->len] = '\0';
	return 0;
}

int cert_leaf(struct tls_bytes der, char ret_id[TLS_ID_MAX], struct err *reterr)
{
	DecodedCert c;
	int r = decode(&c, der);

	if (r < 0)
		r = err_set(reterr, -EACCES, r == -ENOMEM ? "out of memory" : "certificate cannot be parsed");
	if (r == 0)
		r = leaf_usage(&c, reterr);
	if (r == 0)
		r = leaf_id(&c, der, ret_id, reterr);
	wc_FreeDecodedCert(&c);
	return r;
}

int cert_signer(struct tls_bytes der, struct err *reterr)
{
	const DNS_entry *uri;
	struct spiffe sp;
	DecodedCert c;
	uint32_t n;
	int r = decode(&c, der);

	uri = r == 0 ? uri_of(&c, &n) : NULL;
	if (r < 0)
		r = err_set(reterr, -EACCES, r == -ENOMEM ? "out of memory" : "cannot be parsed");
	else if (!c.isCA)
		r = err_set(reterr, -EACCES, "is no CA's (basic constraints), and could vouch for nobody");
	else if (c.extKeyUsageSet && !(c.extKeyUsage & KEYUSE_KEY_CERT_SIGN))
		r = err_set(reterr, -EACCES, "may not sign certificates (key usage without keyCertSign)");
	else if (uri && spiffe_parse(uri->name, (size_t)uri->len, &sp, NULL) == 0 && sp.path.n)
		r = err_set(reterr, -EACCES, "has a SPIFFE id with a path, as workloads have; a CA's names a trust domain only");
	wc_FreeDecodedCert(&c);
	return r;
}
