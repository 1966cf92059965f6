/*
 * Records that the kernel makes and opens: all that tls/record.h promises, on a real kernel; and what only a real one can show.
 *
 *	ktls		all of it
 *	ktls figures	system calls and records per GB
 *
 * Needs the kernel's tls module (exit status 77 without it); ADIT_CERTS names a directory with node and b.
 */
/* link: -lcmocka */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/ktls_cases.h"
#include "unit/openssl_peer.h"
#include <bpf/bpf.h>

static uint64_t tls_stat(const char *name)
{
	FILE *f = fopen("/proc/net/tls_stat", "re");
	unsigned long long v, found = UINT64_MAX;
	char key[64];

	assert_non_null(f);
	while (fscanf(f, "%63s %llu", key, &v) == 2)
		if (!strcmp(key, name))
			found = v;
	fclose(f);
	assert_true(found != UINT64_MAX);
	return found;
}

static uint64_t kernel_did(bool tx)
{
	return tls_stat(tx ? "TlsTxSw" : "TlsRxSw");
}

static uint64_t kernel_errors(void)
{
	return tls_stat("TlsDecryptError");
}

static void nothing_is_left(void **state)
{
	(void)state;
	assert_int_equal(tls_stat("TlsCurrTxSw"), 0);
	assert_int_equal(tls_stat("TlsCurrRxSw"), 0);
}

/* how the figures of the engines compare, both ends in one process that reads after each write: printed by `ktls figures` */
static void figures(void **state)
{
	static const enum cfg_switch kinds[] = {USER, KTLS};

	(void)state;
	for (size_t k = 0; k < ARRAY_LEN(kinds); k++) {
		enum { TOTAL = 16 << 20 };
		uint64_t send_n = counter(ST_SYS_SEND), recv_n = counter(ST_SYS_RECV), rec = counter(ST_RECORDS_TX), o = counter(ST_SYS_OTHER);
		struct flow f = {.side = 0};
		struct err e = {""};
		struct two t;

		engines(&t, AES128, kinds[k], kinds[k]);
		while (f.got < TOTAL) {
			size_t n = min_u64(TOTAL - f.sent, SCRATCH_PLAIN);
			ssize_t r = 1;

			t.r[0].writable = true;
			if (rec_blocked(&t.r[0])) {
				(void)rec_flush(&t.r[0]);
			} else if (n) {
				for (size_t i = 0; i < n; i++)
					l.scratch.plain[i] = byte_at(0, f.sent + i);
				assert_int_equal(rec_write(&t.r[0], n), 0);
				f.sent += n;
			}
			t.r[1].readable = true;
			while (t.r[1].readable) {
				r = rec_read(&t.r[1], check_bytes, &f, &e);
				assert_true(r > 0 || r == -EAGAIN);
			}
		}
		two_close(&t);
		print_message("# per GB with %s: %.0f send, %.0f receive, %.0f other calls, %.0f records\n", k ? "ktls" : "user",
			      (double)(counter(ST_SYS_SEND) - send_n) * 1e9 / TOTAL, (double)(counter(ST_SYS_RECV) - recv_n) * 1e9 / TOTAL,
			      (double)(counter(ST_SYS_OTHER) - o) * 1e9 / TOTAL, (double)(counter(ST_RECORDS_TX) - rec) * 1e9 / TOTAL);
	}
}

/* ---- what the kernel refuses ---- */

static void a_socket_in_a_sockmap_keeps_the_user_engine(void **state)
{
	struct cfg_identity c = certs_identity("node", AES128), s = certs_identity("b", AES128);
	int map = bpf_map_create(BPF_MAP_TYPE_SOCKMAP, NULL, 4, 4, 1, NULL);
	uint64_t refusals = counter(ST_KTLS_REFUSED);
	struct rnd rnd = rnd_start("a socket in a sockmap");
	struct two t;
	uint32_t key = 0;

	(void)state;
	assert_true(map >= 0);
	cfg.kernel.ktls = KTLS;
	open_ctx(&t, &c, &s);
	assert_int_equal(bpf_map_update_elem(map, &key, &t.r[1].fd, BPF_ANY), 0);
	shake(&t);
	assert_int_equal(t.res[0] | t.res[1], 0);
	assert_string_equal(rec_engine_str(&t.r[0]), "ktls");
	assert_string_equal(rec_engine_str(&t.r[1]), "user");
	assert_non_null(strstr(rec_engine_why(&t.r[1]), "both directions: Invalid argument (is the socket in a sockmap?)"));
	assert_int_equal(counter(ST_KTLS_REFUSED), refusals + 1);
	both_ways(&t, &rnd, 300000);
	assert_int_not_equal(bpf_map_update_elem(map, &key, &t.r[0].fd, BPF_ANY), 0); /* and the other way round */
	two_close(&t);
	close(map);
}

/* ---- OpenSSL ---- */

static void openssl_updates_its_keys_and_the_tunnel_ends(void **state)
{
	static const char *const names[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384", "TLS_CHACHA20_POLY1305_SHA256"};
	char args[600];

	(void)state;
	cfg.kernel.ktls = KTLS;
	for (int i = 0; i < 3; i++) {
		struct got g = {0};
		struct err e = {""};
		struct openssl o;

		snprintf(args, sizeof(args), "-tls1_3 -alpn h2 -ciphersuites %s -cert %s -key %s", names[i], certs_file("node", ".pem"),
			 certs_file("node", ".key"));
		openssl_start(&o, args);
		if (o.t.res[1])
			fail_msg("%s", o.t.e[1].msg);
		assert_string_equal(rec_engine_str(&o.t.r[1]), "ktls");
		openssl_sends(&o, "hello\n");
		put(&o.t.r[1], "answer one\n", 11);
		openssl_says(&o, "answer one");
		openssl_types(&o, i == 0 ? "Q\n" : i == 1 ? "K\n" : "k\n");
		assert_int_equal(read_end(&o.t.r[1], &g, &e), i == 0 ? 0 : -EKEYEXPIRED);
		if (i) {
			put(&o.t.r[1], "GOAWAY\n", 7);
			rec_close(&o.t.r[1], true);
			openssl_says(&o, "GOAWAY");
		}
		openssl_stop(&o);
		free(g.p);
	}
}

int main(int argc, char **argv)
{
	const struct CMUnitTest only_figures[] = {cmocka_unit_test(figures)};
	const struct CMUnitTest tests[] = {
		KTLS_CASES,
		cmocka_unit_test(a_socket_in_a_sockmap_keeps_the_user_engine),
		cmocka_unit_test(openssl_updates_its_keys_and_the_tunnel_ends),
		cmocka_unit_test(nothing_is_left),
	};
	struct err e = {""};

	if (ktls_probe(&e) == -ENOENT) {
		puts(e.msg);
		return 77;
	}
	if (argc > 1 && !strcmp(argv[1], "figures"))
		return cmocka_run_group_tests(only_figures, record_setup, record_teardown);
	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
