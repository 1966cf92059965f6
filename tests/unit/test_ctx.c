/*
 * Identities as they are loaded: all or nothing and what people read when it is nothing; revocation lists; whether a chain that was
 * good is good under another context; references.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#define CERTS_ALL
#include "unit/record_pair.h"
#include "tls/ctx_int.h"

/* beside those of certs.h: an intermediate CA `mid` and its leaf `deep` (deep.pem has both), leaves for one side only, lists */
static const char script[] =
	"cd %s && exec >more.log 2>&1 && set -e\n"
	"req() { openssl req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout $1.key -subj \"${2:-/CN=$1}\" -out $1.req; }\n"
	"by() { openssl x509 -req -in $1.req -CA $2.pem -CAkey $2.key -days 2 -extfile $1.ext -out $1.pem; }\n"
	"U=subjectAltName=URI:spiffe://cluster.local/ns/adit/sa\n"
	"L='basicConstraints=critical,CA:false\\nkeyUsage=critical,digitalSignature\\n'\n"
	"req mid; printf 'basicConstraints=critical,CA:true\\nkeyUsage=critical,keyCertSign,cRLSign\\n' >mid.ext; by mid ca\n"
	"req deep; printf \"$L$U/deep\\n\" >deep.ext; by deep mid; cp deep.pem alone.pem; cp deep.key alone.key; cat mid.pem >>deep.pem\n"
	"req server; printf \"$L$U/x\\nextendedKeyUsage=serverAuth\\n\" >server.ext; by server ca\n"
	"req client; printf \"$L$U/x\\nextendedKeyUsage=clientAuth\\n\" >client.ext; by client ca\n"
	"req both; printf \"$L$U/x\\nextendedKeyUsage=serverAuth,clientAuth\\n\" >both.ext; by both ca\n"
	"req bare /; printf \"$L$U/x\\n\" >bare.ext; by bare ca\n"
	"sed s/subjectAltName=/\\&critical,/ bare.ext >named.ext; cp bare.req named.req; cp bare.key named.key; by named ca\n"
	"printf '%%s\\n' [ca] default_ca=c [c] database=rev new_certs_dir=. default_md=sha256 crlnumber=num crl_extensions=e [e]"
	" authorityKeyIdentifier=keyid:always >crl.cnf; : >rev; echo 2A >num\n"
	"rev() { openssl ca -config crl.cnf -keyfile $1.key -cert $1.pem -revoke $2.pem; }\n"
	"gen() { openssl ca -config crl.cnf -keyfile $1.key -cert $1.pem -gencrl -out $2 ${@:3}; }\n"
	"gen ca none.crl -crldays 5; rev ca b; gen ca b.crl -crldays 5; gen ca late.crl -crlsec 1\n"
	": >rev; rev ca mid; gen ca mid.crl -crldays 5; : >rev; gen mid alien.crl -crldays 5\n"
	"cat none.crl mid.crl >two.crl; head -c 300 b.crl >cut.crl\n"
	"head -c 400 node.pem >cut.pem; : >empty.pem; openssl x509 -in node.pem -outform DER -out der.pem\n"
	"sed 's/^-----END CERT/-----END X509/' node.pem >odd.pem; cat node.pem node.pem >twice.pem; head -c 60 node.key >cut.key\n"
	"openssl ec -in node.key -aes128 -passout pass:x -out locked.key; cat old.pem ca.pem >withold.pem; sed -i 's/^[A-Z].*/\\&!/' odd.pem\n";

static int setup(void **state)
{
	char cmd[sizeof(script) + 100], file[128];
	FILE *f;

	if (record_setup(state))
		return -1;
	snprintf(file, sizeof(file), "%s/more", certs_at);
	f = fopen(file, "we");
	if (!f || fprintf(f, script, certs_at) < 0 || fclose(f))
		return -1;
	snprintf(cmd, sizeof(cmd), "bash %s || { cat %s/more.log; exit 1; }", file, certs_at);
	return system(cmd) ? -1 : 0;
}

static struct cfg_identity with(const char *cert, const char *key, const char *ca, const char *crl)
{
	struct cfg_identity id = certs_identity("node", AES128);

	if (cert)
		id.certificate = certs_file(cert, "");
	if (key)
		id.key = certs_file(key, "");
	if (ca)
		id.ca = certs_file(ca, "");
	if (crl)
		id.crl = certs_file(crl, "");
	return id;
}

static void not_loaded(struct cfg_identity id, const char *file, const char *says)
{
	struct err warn = {""}, e = {""};
	struct tls_ctx *t = NULL;

	if (tls_ctx_create(&t, &id, &warn, &e) == 0)
		fail_msg("%s: loaded", file);
	assert_null(t);
	if (!strstr(e.msg, says) || !strstr(e.msg, file) || !strstr(e.msg, "identity 'node'"))
		fail_msg("'%s', not '%s' of %s", e.msg, says, file);
}

static struct tls_ctx *loaded(struct cfg_identity id, const char *warns)
{
	struct err warn = {""}, e = {""};
	struct tls_ctx *t = NULL;

	if (tls_ctx_create(&t, &id, &warn, &e) < 0)
		fail_msg("%s", e.msg);
	if (warns ? !strstr(warn.msg, warns) : warn.msg[0])
		fail_msg("'%s', not '%s'", warn.msg, warns ? warns : "");
	return t;
}

static void files_that_are_no_use_are_said_as_what_they_are(void **state)
{
	(void)state;
	not_loaded(with("cut.pem", NULL, NULL, NULL), "cut.pem", "is cut off: the CERTIFICATE that begins at byte 0 does not end");
	not_loaded(with("empty.pem", NULL, NULL, NULL), "empty.pem", "is empty");
	not_loaded(with("der.pem", NULL, NULL, NULL), "der.pem", "looks like DER");
	not_loaded(with("odd.pem", NULL, NULL, NULL), "odd.pem", "is damaged");
	not_loaded(with("node.key", NULL, NULL, NULL), "node.key", "has no CERTIFICATE in PEM form");
	not_loaded(with(NULL, "cut.key", NULL, NULL), "cut.key", "is cut off");
	not_loaded(with(NULL, "empty.pem", NULL, NULL), "empty.pem", "is empty");
	not_loaded(with(NULL, "locked.key", NULL, NULL), "locked.key", "is encrypted");
	not_loaded(with(NULL, "node.pem", NULL, NULL), "node.pem", "is no private key");
	not_loaded(with(NULL, "b.key", NULL, NULL), "b.key", "does not belong to");
	not_loaded(with(NULL, NULL, "cut.pem", NULL), "cut.pem", "is cut off");
	not_loaded(with(NULL, NULL, "withold.pem", NULL), "withold.pem", "certificate 1 of 2: is no CA's");
	not_loaded(with(NULL, NULL, NULL, "cut.crl"), "cut.crl", "is cut off: the X509 CRL");
	not_loaded(with(NULL, NULL, NULL, "node.pem"), "node.pem", "has no X509 CRL");
	not_loaded(with(NULL, NULL, NULL, "alien.crl"), "alien.crl", "is of no CA in the CA file");
	not_loaded(with(NULL, NULL, NULL, "missing.crl"), "missing.crl", "No such file");
	not_loaded(with("", NULL, NULL, NULL), certs_at, "is no file");
}

static void an_agent_is_client_and_server(void **state)
{
	(void)state;
	not_loaded(with("server.pem", "server.key", NULL, NULL), "server.pem", "extended key usage has no clientAuth");
	not_loaded(with("client.pem", "client.key", NULL, NULL), "client.pem", "extended key usage has no serverAuth");
	tls_ctx_put(loaded(with("both.pem", "both.key", NULL, NULL), NULL));
	not_loaded(with("bare.pem", "bare.key", NULL, NULL), "bare.pem", "subject is empty, and its URI name is not critical");
	tls_ctx_put(loaded(with("named.pem", "named.key", NULL, NULL), NULL));
}

static void what_was_loaded_can_be_shown(void **state)
{
	struct tls_ctx *t = loaded(with(NULL, NULL, NULL, "two.crl"), NULL), *deep = loaded(with("deep.pem", "deep.key", NULL, NULL), NULL);
	const struct tls_info *i = tls_ctx_info(t);
	const struct tls_crl_info *c;
	char cmd[600], line[128] = "";
	FILE *f;

	(void)state;
	snprintf(cmd, sizeof(cmd), "openssl x509 -in %s -noout -serial -fingerprint -sha256 | sed 's/.*=//; s/://g' | tr '\\n' ' '",
		 i->certificate);
	f = popen(cmd, "re");
	assert_non_null(fgets(line, sizeof(line), f));
	pclose(f);
	snprintf(cmd, sizeof(cmd), "%s %s ", i->cert.serial, i->cert.fingerprint);
	assert_string_equal(cmd, line);
	assert_string_equal(i->cert.issuer, i->cas[0].subject);
	assert_int_equal(i->n_cas, 1);
	assert_int_equal(i->n_chain, 1);
	assert_int_equal(tls_ctx_info(deep)->n_chain, 2);
	assert_int_equal(crls_count(tls_ctx_crls(t)), 2);
	c = crls_info(tls_ctx_crls(t), 0);
	assert_string_equal(c->number, "2A");
	assert_int_equal(c->revoked, 0);
	assert_int_equal(crls_info(tls_ctx_crls(t), 1)->revoked, 1);
	assert_in_range(c->next_update, i->loaded + 4 * 86400, i->loaded + 6 * 86400);
	assert_int_equal(tls_ctx_state(t, i->cert.not_after + 1), TLS_EXPIRED);
	assert_int_equal(tls_ctx_state(t, i->cert.not_before - 1), TLS_EARLY);
	assert_int_equal(tls_ctx_state(t, i->loaded), TLS_GOOD);
	assert_int_equal(tls_ctx_state(t, i->cert.not_after - 100 * 86400), TLS_EXPIRING);
	assert_in_range(tls_ctx_next(t, i->loaded), i->loaded, c->next_update + 1);
	tls_ctx_put(t);
	tls_ctx_put(deep);
}

static void nothing_new_is_the_same_context(void **state)
{
	struct cfg_identity id = with(NULL, NULL, NULL, NULL), other;
	struct tls_ctx *a = loaded(id, NULL), *b = NULL;
	struct err warn, e;

	(void)state;
	assert_int_equal(tls_ctx_renew(&b, a, &id, &warn, &e), 0);
	assert_ptr_equal(a, b);
	tls_ctx_put(b);
	other = id;
	other.ciphers = AES256;
	assert_int_equal(tls_ctx_renew(&b, a, &other, &warn, &e), 0);
	assert_ptr_not_equal(a, b);
	assert_true(tls_ctx_same_trust(a, b));
	tls_ctx_put(b);
	other = with(NULL, NULL, NULL, "none.crl");
	assert_int_equal(tls_ctx_renew(&b, a, &other, &warn, &e), 0);
	assert_ptr_not_equal(a, b);
	assert_false(tls_ctx_same_trust(a, b));
	tls_ctx_put(b);
	other = with(NULL, "b.key", NULL, NULL);
	assert_true(tls_ctx_renew(&b, a, &other, &warn, &e) < 0);
	tls_ctx_put(a);
	tls_ctx_put(NULL);
}

/* @client and @server meet. Return: what the server said, "" if they got on */
static const char *meet(struct two *t, struct cfg_identity client, struct cfg_identity server)
{
	static struct err said;

	open_ctx(t, &client, &server);
	shake(t);
	said = t->e[1];
	if (t->res[1] == 0)
		said.msg[0] = '\0';
	return said.msg;
}

static void a_revoked_certificate_is_refused(void **state)
{
	struct two t;

	(void)state;
	assert_string_equal(meet(&t, certs_identity("node", AES128), with(NULL, NULL, NULL, "b.crl")), "");
	two_close(&t);
	assert_non_null(strstr(meet(&t, certs_identity("b", AES128), with(NULL, NULL, NULL, "b.crl")), "is revoked by"));
	assert_int_equal(t.res[1], -EKEYREVOKED);
	assert_true(poll(NULL, 0, 0) == 0);
	two_close(&t);
	/* a list past its date revokes as before */
	sleep(2);
	assert_non_null(strstr(meet(&t, certs_identity("b", AES128), with(NULL, NULL, NULL, "late.crl")), "is revoked by"));
	two_close(&t);
	/* an intermediate one counts */
	assert_string_equal(meet(&t, with("deep.pem", "deep.key", NULL, NULL), with(NULL, NULL, NULL, "none.crl")), "");
	two_close(&t);
	for (int i = 0; i < 2; i++) {
		struct tls_ctx *us = loaded(with(NULL, NULL, NULL, i ? "b.crl" : "none.crl"), NULL), *them = loaded(certs_identity("b", AES128), NULL);

		assert_int_equal(tls_ctx_revokes(us, them), i);
		assert_false(tls_ctx_revokes(them, us)); /* has no list */
		tls_ctx_put(us);
		tls_ctx_put(them);
	}
	assert_non_null(strstr(meet(&t, with("deep.pem", "deep.key", NULL, NULL), with(NULL, NULL, NULL, "two.crl")),
			       "intermediate certificate is revoked"));
	two_close(&t);
	tls_ctx_put(loaded(with("b.pem", "b.key", NULL, "b.crl"), "is revoked by"));
}

/* what one peer showed does not help the next */
static void an_intermediate_must_be_sent(void **state)
{
	struct cfg_identity server = certs_identity("node", AES128), deep = with("deep.pem", "deep.key", NULL, NULL),
			    alone = with("alone.pem", "alone.key", NULL, NULL);
	struct two t;

	(void)state;
	for (int i = 0; i < 2; i++) {
		assert_string_equal(meet(&t, deep, server), "");
		assert_string_equal(t.peer[1].id, "spiffe://cluster.local/ns/adit/sa/deep");
		for (int k = 0; k < 2; k++)
			rec_close(&t.r[k], false);
		tls_ctx_put(t.ctx[0]);
		t.ctx[0] = ctx_of(&alone);
		for (int k = 0; k < 2; k++) {
			static int fd[2];

			if (!k)
				tcp_pair(fd);
			assert_int_equal(rec_open(&t.r[k], &l, fd[k], t.ctx[k], k, NULL), 0);
			t.res[k] = -EAGAIN;
		}
		shake(&t);
		assert_int_equal(t.res[1], -EACCES);
		assert_non_null(strstr(t.e[1].msg, "is not signed by our CA"));
		two_close(&t);
	}
}

static void a_chain_is_judged_again(void **state)
{
	static const char *const td[] = {"spiffe://cluster.local/*"}, *const no[] = {"spiffe://cluster.local/x"};
	struct tls_ctx *ok = loaded(with(NULL, NULL, NULL, NULL), NULL), *none = loaded(with(NULL, NULL, NULL, "none.crl"), NULL),
		       *b = loaded(with(NULL, NULL, NULL, "b.crl"), NULL), *mid = loaded(with(NULL, NULL, NULL, "mid.crl"), NULL),
		       *alien = loaded(with(NULL, NULL, "alien-ca.pem", NULL), NULL);
	struct cfg_identity far_id = certs_identity("node", AES128);
	struct tls_chain *forged;
	struct tls_ctx *far;
	struct err e = {""};
	struct two t;

	(void)state;
	assert_string_equal(meet(&t, certs_identity("b", AES128), certs_identity("node", AES128)), "");
	assert_int_equal(tls_ctx_recheck(ok, t.r[1].chain, NULL, 0, &e), 0);
	assert_int_equal(tls_ctx_recheck(ok, t.r[1].chain, td, 1, &e), 0);
	assert_int_equal(tls_ctx_recheck(none, t.r[1].chain, NULL, 0, &e), 0);
	assert_int_equal(tls_ctx_recheck(mid, t.r[1].chain, NULL, 0, &e), 0);
	assert_int_equal(tls_ctx_recheck(ok, t.r[1].chain, no, 1, &e), -EACCES);
	assert_int_equal(tls_ctx_recheck(b, t.r[1].chain, NULL, 0, &e), -EKEYREVOKED);
	assert_int_equal(tls_ctx_recheck(alien, t.r[1].chain, NULL, 0, &e), -EACCES);
	assert_non_null(strstr(e.msg, "not signed by our CA"));
	far_id.trust_domain = "other.example";
	far = loaded(far_id, NULL);
	assert_int_equal(tls_ctx_recheck(far, t.r[1].chain, NULL, 0, &e), -EACCES);
	assert_non_null(strstr(e.msg, "other.example"));
	/* names alone do not do: one byte of the signature is another */
	forged = chain_create(t.r[1].chain->at, t.r[1].chain->n);
	forged->der[forged->at[0].n - 5] ^= 1;
	assert_int_equal(tls_ctx_recheck(ok, forged, NULL, 0, &e), -EACCES);
	free(forged);
	two_close(&t);
	assert_string_equal(meet(&t, with("deep.pem", "deep.key", NULL, NULL), certs_identity("node", AES128)), "");
	assert_int_equal(t.r[1].chain->n, 2);
	assert_int_equal(tls_ctx_recheck(ok, t.r[1].chain, NULL, 0, &e), 0);
	assert_int_equal(tls_ctx_recheck(mid, t.r[1].chain, NULL, 0, &e), -EKEYREVOKED);
	assert_int_equal(tls_ctx_recheck(alien, t.r[1].chain, NULL, 0, &e), -EACCES);
	two_close(&t);
	tls_ctx_put(ok);
	tls_ctx_put(none);
	tls_ctx_put(b);
	tls_ctx_put(mid);
	tls_ctx_put(alien);
	tls_ctx_put(far);
}

/* whatever bytes: no crash, and a sentence */
static void damaged_files_are_refused_with_a_sentence(void **state)
{
	static const char *const from[] = {"deep.pem", "two.crl"};
	uint32_t rnd = 12345;

	(void)state;
	for (int k = 0; k < 2; k++) {
		struct tls_files fs;
		struct cfg_identity id = with(from[0], "deep.key", NULL, "two.crl");
		struct tls_ders d;
		struct err e = {""};

		assert_int_equal(tls_files_read(&fs, &id, &e), 0);
		assert_int_equal(tls_pem(&d, fs.f[k ? TLS_FILE_CRL : TLS_FILE_CERTIFICATE], k ? "X509 CRL" : "CERTIFICATE", &e), 0);
		for (int i = 0; i < 3000; i++) {
			size_t n = d.at[0].n;
			uint8_t *p = malloc(n);
			char sid[TLS_ID_MAX];
			struct tls_bytes b;

			memcpy(p, d.at[0].p, n);
			for (int m = 0; m < 1 + i % 3; m++) {
				rnd = rnd * 1103515245u + 12345u;
				p[(rnd >> 8) % n] = (uint8_t)(rnd >> 24);
			}
			b = (struct tls_bytes){p, i % 5 ? n : (rnd >> 8) % n};
			e.msg[0] = '\0';
			if (k) {
				struct crls *c = NULL;

				if (crls_create(&c, &b, 1, &b, 0, &e) < 0)
					assert_string_not_equal(e.msg, "");
				crls_destroy(c);
			} else {
				struct tls_cert_info info;

				if (cert_leaf(b, sid, &e) < 0)
					assert_string_not_equal(e.msg, "");
				(void)cert_info(b, &info);
			}
			free(p);
		}
		tls_ders_finish(&d);
		tls_files_finish(&fs);
	}
}

static void contexts_outlive_their_owner(void **state)
{
	struct two t;

	(void)state;
	assert_string_equal(meet(&t, certs_identity("b", AES128), certs_identity("node", AES128)), "");
	for (int i = 0; i < 2; i++)
		tls_ctx_put(TAKE(t.ctx[i])); /* replaced; the records have theirs */
	crosses(&t.r[0], &t.r[1], "still");
	two_close(&t);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(files_that_are_no_use_are_said_as_what_they_are),
		cmocka_unit_test(an_agent_is_client_and_server),
		cmocka_unit_test(what_was_loaded_can_be_shown),
		cmocka_unit_test(nothing_new_is_the_same_context),
		cmocka_unit_test(a_revoked_certificate_is_refused),
		cmocka_unit_test(an_intermediate_must_be_sent),
		cmocka_unit_test(a_chain_is_judged_again),
		cmocka_unit_test(damaged_files_are_refused_with_a_sentence),
		cmocka_unit_test(contexts_outlive_their_owner),
	};

	return cmocka_run_group_tests(tests, setup, record_teardown);
}
