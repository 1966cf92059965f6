/*
 * Certificates of peers and revocation lists of files: what is read of them here. First byte: 0 a certificate as DER, 1 a list as DER,
 * 2 a PEM file. The rest is it. No crash, bounded results, and a sentence for everything that is refused.
 */
#include "base/clean.h"
#include "tls/crl.h"
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n);

static void need(bool b)
{
	if (!b)
		abort();
}

static void certificate(struct tls_bytes der)
{
	struct err e = {""};
	struct tls_cert_info info;
	struct cert_names names;
	char id[TLS_ID_MAX] = "";
	uint64_t from, to;

	if (cert_leaf(der, id, &e) < 0)
		need(e.msg[0]);
	else
		need(strlen(id) < TLS_ID_MAX && !strncmp(id, "spiffe://", 9));
	e.msg[0] = '\0';
	if (cert_signer(der, &e) < 0)
		need(e.msg[0]);
	if (cert_info(der, &info) == 0)
		need(strlen(info.serial) < TLS_SERIAL_MAX && strlen(info.fingerprint) == 64);
	if (cert_names(der, &names) == 0)
		need(names.serial.p >= der.p && names.serial.p + names.serial.n <= der.p + der.n);
	(void)cert_times(der, &from, &to);
}

static void list(struct tls_bytes der)
{
	struct crls *c = NULL;
	struct err e = {""};

	/* nobody can forge the signature: what is behind it is reached by unit tests */
	if (crls_create(&c, &der, 1, &der, 1, &e) < 0)
		need(e.msg[0] && !c);
	crls_destroy(c);
}

static void pem(struct tls_bytes f)
{
	struct tls_ders d = {0};
	struct err e = {""};
	size_t all = 0;

	if (tls_pem(&d, f, "CERTIFICATE", &e) < 0) {
		need(e.msg[0] && !d.buf);
		return;
	}
	for (uint32_t i = 0; i < d.n; i++)
		all += d.at[i].n;
	need(d.n >= 1 && d.n <= TLS_PEM_MAX && all <= f.n);
	tls_ders_finish(&d);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct tls_bytes b = {data + 1, n - 1};

	if (!n)
		return 0;
	if (data[0] % 3 == 0)
		certificate(b);
	else if (data[0] % 3 == 1)
		list(b);
	else
		pem(b);
	return 0;
}
