/* Handshakes: who may take part, who is told what, and what operators read about the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#define CERTS_ALL
#include "unit/record_pair.h"
#include "unit/openssl_peer.h"

static void both_learn_who_the_other_is(const char *ciphers, const char *name)
{
	uint64_t now = (uint64_t)time(NULL);
	struct two t;

	two_open(&t, ciphers);
	assert_string_equal(t.peer[0].id, "spiffe://cluster.local/ns/adit/sa/b");
	assert_string_equal(t.peer[1].id, "spiffe://cluster.local/ns/adit/sa/node");
	for (int i = 0; i < 2; i++) {
		if (!strstr(t.peer[i].cipher, name))
			fail_msg("%s, not %s", t.peer[i].cipher, name);
		assert_in_range(t.peer[i].not_after, now + 300 * 86400, now + 400 * 86400);
		assert_string_equal(rec_engine_str(&t.r[i]), "user");
		assert_null(t.r[i].ssl); /* not needed any more */
	}
	crosses(&t.r[0], &t.r[1], "question");
	crosses(&t.r[1], &t.r[0], "answer");
	two_close(&t);
}

static void a_handshake_tells_both_who_the_other_is(void **state)
{
	(void)state;
	both_learn_who_the_other_is(AES128, "AES_128_GCM");
	both_learn_who_the_other_is(AES256, "AES_256_GCM");
	both_learn_who_the_other_is(AES128 ":" AES256, "AES_128_GCM");
}

static void rsa_keys_work(void **state)
{
	struct cfg_identity client = certs_identity("rsa", AES128), server = certs_identity("rsa", AES128);
	struct two t;

	(void)state;
	open_ctx(&t, &client, &server);
	shake(&t);
	assert_int_equal(t.res[0], 0);
	assert_int_equal(t.res[1], 0);
	two_close(&t);
}

/* @who shows its certificate to a server, then to a client */
static void refused(const char *who, const char *ca, const char *because)
{
	for (int side = 0; side < 2; side++) {
		struct cfg_identity good = certs_identity("node", AES128), bad = certs_identity(who, AES128);
		struct two t;

		if (ca)
			bad.ca = certs_file(ca, ".pem");
		open_ctx(&t, side ? &good : &bad, side ? &bad : &good);
		shake(&t);
		assert_int_equal(t.res[!side], -EACCES);
		if (!strstr(t.e[!side].msg, because))
			fail_msg("%s: '%s', not '%s'", who, t.e[!side].msg, because);
		two_close(&t);
	}
}

/* the same where our own start-up check refuses such a certificate: the context is made, then the certificate is changed */
static void refused_leaf(const char *who, const char *because)
{
	struct cfg_identity own = certs_identity(who, AES128);
	struct tls_ctx *t = NULL;
	struct err warn = {""}, e = {""};

	assert_true(tls_ctx_create(&t, &own, &warn, &e) < 0);
	assert_null(t);
	assert_non_null(strstr(e.msg, certs_file(who, ".pem")));
	if (!strstr(e.msg, because))
		fail_msg("%s: own: '%s', not '%s'", who, e.msg, because);
}

static void a_certificate_of_another_ca_is_refused(void **state)
{
	(void)state;
	refused("alien", NULL, "not signed by our CA");
}

static void another_trust_domain_is_refused(void **state)
{
	(void)state;
	refused("stranger", NULL, "which is not in trust domain cluster.local");
}

static void an_expired_certificate_is_refused(void **state)
{
	struct cfg_identity old = certs_identity("old", AES128), soon = certs_identity("future", AES128);
	struct tls_ctx *t = NULL;
	struct err warn = {""}, e = {""};

	(void)state;
	refused("old", NULL, "expired 24 hours ago");
	refused("future", NULL, "is valid only in");
	if (tls_ctx_create(&t, &old, &warn, &e) < 0)
		fail_msg("%s", e.msg);
	/* a clock that is wrong now may be put right */
	assert_non_null(strstr(warn.msg, "expired"));
	tls_ctx_put(t);
	assert_int_equal(tls_ctx_create(&t, &soon, &warn, &e), 0);
	assert_non_null(strstr(warn.msg, "clock"));
	tls_ctx_put(t);
}

static void a_certificate_that_is_no_identity_is_refused(void **state)
{
	(void)state;
	refused_leaf("twins", "2 URI names");
	refused_leaf("nobody", "0 URI names");
	refused_leaf("asca", "CA's");
	refused_leaf("nosign", "key usage");
	refused_leaf("encrypts", "key usage");
	refused_leaf("pathless", "without a path");
	refused_leaf("web", "spiffe://");
	refused_leaf("long", "at most 255");
}

static void an_id_that_is_not_expected_is_refused(void **state)
{
	struct cfg_identity node = certs_identity("node", AES128), b = certs_identity("b", AES128);

	(void)state;
	for (int side = 0; side < 2; side++) {
		struct two t;

		open_ctx(&t, &node, &b);
		t.ids[side] = "spiffe://cluster.local/ns/adit/sa/somebody-else";
		shake(&t);
		assert_int_equal(t.res[side], -EACCES);
		assert_non_null(strstr(t.e[side].msg, "not among the 1 accepted ids"));
		assert_non_null(strstr(t.e[side].msg, side ? "/sa/node" : "/sa/b"));
		assert_string_not_equal(t.peer[side].id, ""); /* for the counter of refused identities */
		two_close(&t);
	}
}

static void accepted_ids_go_before_the_trust_domain(void **state)
{
	struct cfg_identity client = certs_identity("stranger", AES128), server = certs_identity("b", AES128);
	struct two t;

	(void)state;
	open_ctx(&t, &client, &server);
	t.ids[0] = "spiffe://cluster.local/ns/adit/*";
	t.ids[1] = "spiffe://other.example/*";
	shake(&t);
	assert_int_equal(t.res[0], 0);
	assert_int_equal(t.res[1], 0);
	two_close(&t);
}

static void a_configured_trust_domain_is_used(void **state)
{
	struct cfg_identity client = certs_identity("stranger", AES128), server = certs_identity("b", AES128);
	struct two t;

	(void)state;
	client.trust_domain = "cluster.local";
	server.trust_domain = "other.example";
	open_ctx(&t, &client, &server);
	shake(&t);
	assert_int_equal(t.res[0], 0);
	assert_int_equal(t.res[1], 0);
	two_close(&t);
}

static void no_common_suite_is_a_failure_on_both_sides(void **state)
{
	struct cfg_identity c = certs_identity("node", AES128), s = certs_identity("b", AES256);
	struct two t;

	(void)state;
	open_ctx(&t, &c, &s);
	shake(&t);
	assert_true(t.res[0] < 0 && t.res[0] != -EAGAIN);
	assert_true(t.res[1] < 0 && t.res[1] != -EAGAIN);
	assert_true(t.e[0].msg[0] && t.e[1].msg[0]);
	two_close(&t);
}

static void identity_files_that_do_not_fit_are_named(void **state)
{
	static const char *const ok[] = {"node", "node", "ca"};
	static const char *const sayings[] = {"certificate file", "key file", "CA file"};
	struct err warn = {""}, e = {""};
	struct tls_ctx *t = NULL;
	struct cfg_identity id;

	(void)state;
	for (int i = 0; i < 3; i++) {
		const char *f[3];

		for (int k = 0; k < 3; k++)
			f[k] = certs_file(k == i ? "missing" : ok[k], k == 1 ? ".key" : ".pem");
		id = (struct cfg_identity){.name = "me", .certificate = f[0], .key = f[1], .ca = f[2]};
		assert_int_equal(tls_ctx_create(&t, &id, &warn, &e), -EINVAL);
		assert_non_null(strstr(e.msg, sayings[i]));
		assert_non_null(strstr(e.msg, "missing"));
		assert_non_null(strstr(e.msg, "'me'"));
	}
	id = certs_identity("node", NULL);
	id.key = certs_file("b", ".key");
	assert_int_equal(tls_ctx_create(&t, &id, &warn, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "does not belong to"));
	id = certs_identity("node", "NO-SUCH-SUITE");
	assert_int_equal(tls_ctx_create(&t, &id, &warn, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "NO-SUCH-SUITE"));
	id = certs_identity("node", NULL);
	assert_int_equal(tls_ctx_create(&t, &id, &warn, &e), 0);
	assert_string_equal(tls_ctx_id(t), "spiffe://cluster.local/ns/adit/sa/node");
	assert_string_equal(tls_ctx_trust_domain(t), "cluster.local");
	assert_string_equal(warn.msg, "");
	tls_ctx_put(t);
	tls_ctx_put(NULL);
	assert_non_null(tls_library());
}

/* a peer that is none: @n bytes, then FIN */
static void not_a_peer(const void *p, size_t n, bool fin, int want, const char *because)
{
	struct cfg_identity id = certs_identity("node", AES128);
	struct two t;

	open_ctx(&t, &id, &id);
	if (n)
		assert_int_equal(send(t.r[0].fd, p, n, 0), (ssize_t)n);
	if (fin)
		assert_int_equal(shutdown(t.r[0].fd, SHUT_WR), 0);
	t.res[0] = 0; /* says nothing else */
	shake(&t);
	if (t.res[1] != want || !strstr(t.e[1].msg, because))
		fail_msg("%d '%s', not %d '%s'", t.res[1], t.e[1].msg, want, because);
	two_close(&t);
}

static void alerts_say_what_is_wrong_with_ours(void **state)
{
	struct cfg_identity good = certs_identity("node", AES128), old = certs_identity("old", AES128), future = certs_identity("future", AES128);
	const struct cfg_identity *const ids[] = { &good, &old, &future };
	const char *const says[] = { "is the peer's clock ahead?", "our certificate expired 24 hours ago: renew it", "ours is valid only" };
	struct err e = { "" }, warn;
	struct tls_ctx *t;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ids); i++) {
		assert_int_equal(tls_ctx_create(&t, ids[i], &warn, &e), 0);
		assert_int_equal(tls_alert_explain(45, t, &e), -EACCES);
		if (!strstr(e.msg, i == 2 ? "our certificate is valid only in" : says[i]))
			fail_msg("%s", e.msg);
		assert_non_null(tls_ctx_ca_text(t));
		tls_ctx_put(t);
	}
	for (int code = 0; code < 256; code++) {
		assert_int_equal(tls_alert_explain(code, NULL, &e), -EACCES);
		assert_non_null(strstr(e.msg, tls_alert_hint(code)));
	}
}

static void first_bytes_say_who_it_is(void **state)
{
	static const uint8_t hello[] = { 0x16, 3, 1, 2, 0 }, alert[] = { 0x15, 3, 3, 0, 2 }, settings[] = { 0, 0, 18, 4, 0 };

	(void)state;
	assert_non_null(strstr(tls_foreign((const uint8_t *)"HTTP/1.1", 8), "answers HTTP/1"));
	assert_non_null(strstr(tls_foreign((const uint8_t *)"SSH-2.0-", 8), "SSH server"));
	assert_non_null(strstr(tls_foreign(settings, 5), "HTTP/2 without TLS"));
	assert_null(tls_foreign(hello, 5));
	assert_null(tls_foreign(alert, 5));
	assert_null(tls_foreign(NULL, 0));
	assert_non_null(strstr(tls_unexpected(hello, 5), "the peer speaks TLS"));
	assert_non_null(strstr(tls_unexpected(alert, 5), "wants TLS"));
	assert_non_null(strstr(tls_unexpected((const uint8_t *)"HTTP/1.1", 8), "answers HTTP/1"));
	assert_null(tls_unexpected(settings, 5));
	assert_null(tls_unexpected(hello, 2));
}

static void times_are_in_words(void **state)
{
	char s[TLS_AGO];

	(void)state;
	assert_string_equal(tls_ago(0, s), "0 seconds");
	assert_string_equal(tls_ago(-119, s), "119 seconds");
	assert_string_equal(tls_ago(720, s), "12 minutes");
	assert_string_equal(tls_ago(7200, s), "2 hours");
	assert_string_equal(tls_ago(200000, s), "2 days");
}

static void peers_that_do_not_speak_tls_are_told_apart(void **state)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n", h2[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

	(void)state;
	not_a_peer(http, sizeof(http) - 1, false, -EPROTO, "it is an HTTP/1 client");
	not_a_peer(h2, sizeof(h2) - 1, false, -EPROTO, "HTTP/2 without TLS");
	not_a_peer("", 0, true, -ECONNRESET, "closed the connection during the handshake");
}

static void openssl_refused(const char *args, const char *because)
{
	struct openssl o;

	openssl_start(&o, args);
	if (o.t.res[1] != -EACCES && o.t.res[1] != -EPROTO)
		fail_msg("%s: %d %s", args, o.t.res[1], o.t.e[1].msg);
	if (!strstr(o.t.e[1].msg, because))
		fail_msg("%s: '%s', not '%s'", args, o.t.e[1].msg, because);
	openssl_stop(&o);
}

static void clients_that_are_no_agents_are_refused(void **state)
{
	char cert[400], args[600];

	(void)state;
	snprintf(cert, sizeof(cert), "-cert %s -key %s", certs_file("node", ".pem"), certs_file("node", ".key"));
	openssl_refused("-tls1_3 -alpn h2", "no certificate");
	snprintf(args, sizeof(args), "-tls1_3 %s", cert);
	openssl_refused(args, "ALPN h2");
	snprintf(args, sizeof(args), "-tls1_3 -alpn http/1.1 %s", cert);
	openssl_refused(args, "ALPN h2");
	snprintf(args, sizeof(args), "-tls1_2 -alpn h2 %s", cert);
	openssl_refused(args, "TLS 1.3");
	/* what our own start-up check would not let us show */
	for (int i = 0; i < 2; i++) {
		const char *who = i ? "nobody" : "twins";

		snprintf(args, sizeof(args), "-tls1_3 -alpn h2 -cert %s -key %s", certs_file(who, ".pem"), certs_file(who, ".key"));
		openssl_refused(args, i ? "0 URI names" : "2 URI names");
	}
	snprintf(args, sizeof(args), "-tls1_3 -alpn h2 -cert %s -key %s", certs_file("asca", ".pem"), certs_file("asca", ".key"));
	openssl_refused(args, "CA's");
	snprintf(args, sizeof(args), "-tls1_3 -alpn h2 -cert %s -key %s", certs_file("long", ".pem"), certs_file("long", ".key"));
	openssl_refused(args, "at most 255");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_handshake_tells_both_who_the_other_is),
		cmocka_unit_test(rsa_keys_work),
		cmocka_unit_test(a_certificate_of_another_ca_is_refused),
		cmocka_unit_test(another_trust_domain_is_refused),
		cmocka_unit_test(an_expired_certificate_is_refused),
		cmocka_unit_test(a_certificate_that_is_no_identity_is_refused),
		cmocka_unit_test(an_id_that_is_not_expected_is_refused),
		cmocka_unit_test(accepted_ids_go_before_the_trust_domain),
		cmocka_unit_test(a_configured_trust_domain_is_used),
		cmocka_unit_test(no_common_suite_is_a_failure_on_both_sides),
		cmocka_unit_test(identity_files_that_do_not_fit_are_named),
		cmocka_unit_test(peers_that_do_not_speak_tls_are_told_apart),
		cmocka_unit_test(alerts_say_what_is_wrong_with_ours),
		cmocka_unit_test(first_bytes_say_who_it_is),
		cmocka_unit_test(times_are_in_words),
		cmocka_unit_test(clients_that_are_no_agents_are_refused),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
