/* Keys that change: KeyUpdates of wolfSSL and of OpenSSL are followed, and answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/record_pair.h"
#include "unit/openssl_peer.h"

#if !ADIT_WOLFSSL_PACKAGED

/* wolfSSL itself as the client of a rec */
struct foreign {
	WOLFSSL_CTX *ctx;
	WOLFSSL *ssl;
	struct two t; /* [1] is the rec */
};

static void foreign_open(struct foreign *f, const char *ciphers)
{
	struct cfg_identity id = certs_identity("b", ciphers);
	struct timespec t0;
	int fd[2], r;

	memset(f, 0, sizeof(*f));
	tcp_pair(fd);
	f->t.ctx[1] = ctx_of(&id);
	assert_int_equal(rec_open(&f->t.r[1], &l, fd[1], f->t.ctx[1], true, NULL), 0);
	f->t.r[0].fd = -1;
	f->ctx = wolfSSL_CTX_new(wolfTLSv1_3_client_method());
	assert_int_equal(wolfSSL_CTX_load_verify_locations(f->ctx, certs_file("ca", ".pem"), NULL), WOLFSSL_SUCCESS);
	assert_int_equal(wolfSSL_CTX_use_certificate_file(f->ctx, certs_file("node", ".pem"), WOLFSSL_FILETYPE_PEM), WOLFSSL_SUCCESS);
	assert_int_equal(wolfSSL_CTX_use_PrivateKey_file(f->ctx, certs_file("node", ".key"), WOLFSSL_FILETYPE_PEM), WOLFSSL_SUCCESS);
	f->ssl = wolfSSL_new(f->ctx);
	assert_int_equal(wolfSSL_UseALPN(f->ssl, (char[]){"h2"}, 2, WOLFSSL_ALPN_FAILED_ON_MISMATCH), WOLFSSL_SUCCESS);
	assert_int_equal(wolfSSL_set_fd(f->ssl, fd[0]), WOLFSSL_SUCCESS);
	f->t.res[1] = -EAGAIN;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	do {
		r = wolfSSL_connect(f->ssl);
		if (f->t.res[1] == -EAGAIN)
			f->t.res[1] = rec_handshake(&f->t.r[1], NULL, 0, &f->t.peer[1], &f->t.e[1]);
		assert_true(ms_left(&t0) > 0);
	} while (r != WOLFSSL_SUCCESS || f->t.res[1] == -EAGAIN);
	assert_int_equal(f->t.res[1], 0);
}

static void foreign_close(struct foreign *f)
{
	int fd = wolfSSL_get_fd(f->ssl);

	wolfSSL_free(f->ssl);
	wolfSSL_CTX_free(f->ctx);
	close(fd);
	two_close(&f->t);
}

static int foreign_says(struct foreign *f, const char *text, struct err *e)
{
	struct got g = {0};
	size_t n = strlen(text);
	ssize_t r;

	assert_int_equal(wolfSSL_write(f->ssl, text, (int)n), n);
	r = read_some(&f->t.r[1], &g, n, e);
	if (r > 0) {
		assert_int_equal(g.n, n);
		assert_memory_equal(g.p, text, n);
	}
	free(g.p);
	return r > 0 ? 0 : (int)r;
}

static void foreign_hears(struct foreign *f, const char *text)
{
	size_t n = strlen(text), got = 0;
	struct timespec t0;
	char b[256];

	put(&f->t.r[1], text, n);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (got < n) {
		int r = wolfSSL_read(f->ssl, b + got, (int)(n - got));

		if (r <= 0)
			assert_int_equal(wolfSSL_get_error(f->ssl, r), WOLFSSL_ERROR_WANT_READ);
		got += r > 0 ? (size_t)r : 0;
		assert_true(ms_left(&t0) > 0);
	}
	assert_memory_equal(b, text, n);
}

static void key_updates_are_followed(void **state)
{
	static const char *const suite[] = {AES128, AES256, CHACHA};
	struct err e = {""};

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct foreign f;

		foreign_open(&f, suite[i]);
		assert_int_equal(foreign_says(&f, "before", &e), 0);
		foreign_hears(&f, "first keys");
		for (int k = 0; k < 5; k++) {
			assert_int_equal(wolfSSL_update_keys(f.ssl), WOLFSSL_SUCCESS); /* asks for ours, too */
			assert_int_equal(foreign_says(&f, "after an update", &e), 0);
			foreign_hears(&f, "with keys of our own, updated, too");
			foreign_hears(&f, "and again");
		}
		assert_int_equal(f.t.r[1].keys->updates, 5);
		assert_int_equal(f.t.r[1].keys->tx.seq, 2); /* since our last update */
		foreign_close(&f);
	}
}

static void too_many_key_updates_are_refused(void **state)
{
	struct err e = {""};
	struct foreign f;

	(void)state;
	foreign_open(&f, AES128);
	for (int k = 0; k < UPDATES_MAX; k++) {
		assert_int_equal(wolfSSL_update_keys(f.ssl), WOLFSSL_SUCCESS);
		assert_int_equal(foreign_says(&f, "x", &e), 0);
		foreign_hears(&f, "y");
	}
	assert_int_equal(wolfSSL_update_keys(f.ssl), WOLFSSL_SUCCESS);
	assert_int_equal(foreign_says(&f, "x", &e), -EPROTO);
	assert_non_null(strstr(e.msg, "KeyUpdates"));
	foreign_close(&f);
}

static void an_answer_to_an_update_waits_its_turn(void **state)
{
	struct got g = {0};
	struct err e = {""};
	size_t sent = 0, got = 0;
	struct foreign f;
	char b[4096];

	(void)state;
	foreign_open(&f, AES128);
	memset(l.scratch.plain, 'z', SCRATCH_PLAIN);
	while (!rec_blocked(&f.t.r[1])) {
		assert_int_equal(rec_write(&f.t.r[1], SCRATCH_PLAIN), 0);
		sent += SCRATCH_PLAIN;
	}
	assert_int_equal(wolfSSL_update_keys(f.ssl), WOLFSSL_SUCCESS);
	assert_int_equal(foreign_says(&f, "while you are stuck", &e), 0);
	assert_int_equal(buffered(), f.t.r[1].pend.len);
	memset(l.scratch.plain, 'n', 10);
	while (got < sent) {
		int r = wolfSSL_read(f.ssl, b, sizeof(b));

		got += r > 0 ? (size_t)r : 0;
		f.t.r[1].writable = true;
		r = rec_flush(&f.t.r[1]);
		assert_true(r == 0 || r == -EAGAIN);
	}
	foreign_hears(&f, "with new keys");
	free(g.p);
	foreign_close(&f);
}

#endif

static void openssl_updates_its_keys(void **state)
{
	static const char *const suite[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"};
	struct got g = {0};
	struct err e = {""};
	char args[600];

	(void)state;
	for (int i = 0; i < 3; i++) {
		struct openssl o;

		snprintf(args, sizeof(args), "-tls1_3 -alpn h2 -ciphersuites %s -cert %s -key %s", suite[i], certs_file("node", ".pem"),
			 certs_file("node", ".key"));
		openssl_start(&o, args);
		if (o.t.res[1])
			fail_msg("%s", o.t.e[1].msg);
		assert_string_equal(o.t.peer[1].id, "spiffe://cluster.local/ns/adit/sa/node");
		openssl_sends(&o, "hello\n");
		put(&o.t.r[1], "answer one\n", 11);
		openssl_says(&o, "answer one");
#if !ADIT_WOLFSSL_PACKAGED
		for (int k = 0; k < 3; k++) {
			openssl_types(&o, "K\n"); /* asks for ours, too */
			openssl_says(&o, "KEYUPDATE");
			openssl_sends(&o, "new keys\n");
			put(&o.t.r[1], "answer two\n", 11);
			openssl_says(&o, "answer two");
			openssl_types(&o, "k\n");
			openssl_says(&o, "KEYUPDATE");
			openssl_sends(&o, "newer keys\n");
		}
		assert_int_equal(o.t.r[1].keys->updates, 6);
#endif
		openssl_types(&o, "Q\n");
		assert_int_equal(read_end(&o.t.r[1], &g, &e), 0); /* close_notify */
		openssl_stop(&o);
	}
	free(g.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
#if !ADIT_WOLFSSL_PACKAGED
		cmocka_unit_test(key_updates_are_followed),
		cmocka_unit_test(too_many_key_updates_are_refused),
		cmocka_unit_test(an_answer_to_an_update_waits_its_turn),
#endif
		cmocka_unit_test(openssl_updates_its_keys),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
