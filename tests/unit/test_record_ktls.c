/* Records by the kernel, on a machine whose kernel need not have them: the same cases as in tests/vm/ktls.c, and what may be refused. */
/* link: -Wl,--wrap=setsockopt,--wrap=getsockopt,--wrap=recvmsg,--wrap=sendmsg,--wrap=send,--wrap=recv,--wrap=epoll_wait,--wrap=poll,--wrap=close */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/fake_ktls.h"
#include "unit/ktls_cases.h"

static uint64_t kernel_did(bool tx)
{
	return fake.given[tx];
}

static uint64_t kernel_errors(void)
{
	return fake.errors;
}

/* every test begins with a kernel that is all right, and that is known */
static int kernel_as_new(void **state)
{
	struct err e = {""};

	(void)state;
	memset(&fake, 0, sizeof(fake));
	cfg.kernel.ktls = SWITCH_AUTO;
	cfg.mover = MOVER_AUTO;
	return ktls_probe(&e);
}

static void both(struct two *t, const char *suite)
{
	cfg.kernel.ktls = SWITCH_AUTO;
	two_open(t, suite);
}

/* ---- what is refused ---- */

static void what_the_configuration_forbids_is_not_tried(void **state)
{
	struct two t;

	(void)state;
	fake.ulp_calls = fake.key_calls = 0;
	cfg.kernel.ktls = SWITCH_OFF;
	two_open(&t, AES128);
	assert_string_equal(rec_engine_str(&t.r[0]), "user");
	assert_string_equal(rec_engine_why(&t.r[0]), "kernel.ktls: off");
	crosses(&t.r[0], &t.r[1], "as ever");
	two_close(&t);
	cfg.kernel.ktls = SWITCH_ON;
	cfg.mover = MOVER_RELAY;
	two_open(&t, AES128);
	assert_string_equal(rec_engine_str(&t.r[1]), "user");
	assert_string_equal(rec_engine_why(&t.r[1]), "mover: relay");
	two_close(&t);
	assert_int_equal(fake.ulp_calls + fake.key_calls, 0);
}

static void a_kernel_without_tls_is_asked_once(void **state)
{
	uint64_t refusals = counter(ST_KTLS_REFUSED);
	unsigned int asked = fake.ulp_calls;
	struct err e = {""};

	(void)state;
	fake.ulp = ENOENT;
	for (int i = 0; i < 3; i++) {
		struct two t;

		both(&t, AES128);
		assert_string_equal(rec_engine_str(&t.r[0]), "user");
		assert_string_equal(rec_engine_tx_str(&t.r[0]), "user");
		assert_non_null(strstr(rec_engine_why(&t.r[0]), "modprobe tls"));
		crosses(&t.r[0], &t.r[1], "as ever");
		two_close(&t);
	}
	assert_int_equal(fake.ulp_calls, asked + 1);
	assert_int_equal(counter(ST_KTLS_REFUSED), refusals + 6);
	assert_int_equal(ktls_probe(&e), -ENOENT);
	assert_non_null(strstr(e.msg, "modprobe tls"));
	fake.ulp = 0;
	assert_int_equal(ktls_probe(&e), 0); /* somebody did */
}

static void a_socket_that_the_kernel_does_not_take_stays_ours(void **state)
{
	struct two t;

	(void)state;
	fake.ulp = EOPNOTSUPP;
	both(&t, AES128);
	assert_string_equal(rec_engine_str(&t.r[0]), "user");
	assert_string_equal(rec_engine_why(&t.r[0]), "the kernel's TLS does not take the socket: Operation not supported");
	crosses(&t.r[1], &t.r[0], "as ever");
	two_close(&t);
	fake.ulp = 0;
	both(&t, AES128); /* that was about one socket */
	assert_string_equal(rec_engine_str(&t.r[0]), "ktls");
	two_close(&t);
}

static void each_direction_is_by_itself(void **state)
{
	struct rnd rnd = rnd_start("one direction by the kernel");

	(void)state;
	for (int tx = 0; tx < 2; tx++) {
		uint64_t refusals = counter(ST_KTLS_REFUSED), begun = counter(tx ? ST_KTLS_RX : ST_KTLS_TX);
		struct two t;

		assert_int_equal(kernel_as_new(NULL), 0);
		fake.keys[SEAL_AES256][tx] = EINVAL;
		both(&t, AES256);
		for (int i = 0; i < 2; i++) {
			assert_string_equal(rec_engine_str(&t.r[i]), "mixed");
			assert_string_equal(rec_engine_tx_str(&t.r[i]), tx ? "user" : "ktls");
			assert_string_equal(rec_engine_rx_str(&t.r[i]), tx ? "ktls" : "user");
			assert_non_null(strstr(rec_engine_why(&t.r[i]), tx ? "keys for sending: " : "keys for receiving: "));
			assert_non_null(strstr(rec_engine_why(&t.r[i]), "sockmap"));
			assert_non_null(t.r[i].keys);
		}
		assert_int_equal(counter(ST_KTLS_REFUSED), refusals + 2);
		assert_int_equal(counter(tx ? ST_KTLS_RX : ST_KTLS_TX), begun + 2);
		both_ways(&t, &rnd, 300000);
		two_close(&t);
	}
}

static void an_update_is_followed_as_far_as_it_is_ours(void **state)
{
	static const struct {
		bool tx_refused, request;
		int want;
	} cases[] = {{true, false, -EKEYEXPIRED}, {false, false, 0}, {false, true, -EKEYEXPIRED}};

	(void)state;
#if ADIT_WOLFSSL_PACKAGED
	skip();
#endif
	for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
		struct cfg_identity c = certs_identity("node", AES128), s = certs_identity("b", AES128);
		struct got g = {0};
		struct err e = {""};
		struct two t;
		ssize_t r;

		assert_int_equal(kernel_as_new(NULL), 0);
		open_ctx(&t, &c, &s);
		cfg.kernel.ktls = SWITCH_OFF;
		t.res[0] = rec_handshake(&t.r[0], NULL, 0, &t.peer[0], &t.e[0]);
		cfg.kernel.ktls = SWITCH_AUTO;
		fake.keys[SEAL_AES128][cases[i].tx_refused] = EPERM;
		shake(&t);
		assert_string_equal(rec_engine_str(&t.r[1]), "mixed");
		w.n = 0;
		craft(&t.r[0], TYPE_HANDSHAKE, cases[i].request ? "\x18\0\0\1\1" : "\x18\0\0\1\0", 5, 0);
		assert_int_equal(seal_update(t.r[0].keys, &t.r[0].keys->tx), 0);
		craft(&t.r[0], TYPE_DATA, "new keys", 8, 0);
		wire_send(&t.r[0]);
		r = read_some(&t.r[1], &g, 8, &e);
		assert_int_equal(r < 0 ? r : 0, cases[i].want);
		assert_int_equal(g.n, cases[i].want ? 0 : 8);
		free(g.p);
		two_close(&t);
	}
}

static void a_cipher_that_is_not_there_is_asked_for_once(void **state)
{
	unsigned int asked;
	char text[128];
	struct err e = {""};

	(void)state;
	fake.keys[SEAL_CHACHA20][0] = fake.keys[SEAL_CHACHA20][1] = ENOENT;
	asked = fake.key_calls;
	for (int i = 0; i < 3; i++) {
		struct two t;

		both(&t, CHACHA);
		assert_string_equal(rec_engine_str(&t.r[0]), "user");
		assert_string_equal(rec_engine_why(&t.r[0]),
				    "the kernel refuses the keys for both directions: No such file or directory (no such cipher)");
		crosses(&t.r[0], &t.r[1], "as ever");
		two_close(&t);
	}
	assert_int_equal(fake.key_calls, asked + 2);
	assert_int_equal(ktls_probe(&e), 0);
	assert_string_equal(ktls_ciphers(text, sizeof(text)), "AES-128-GCM, AES-256-GCM");
	assert_string_equal(ktls_ciphers(text, 8), "AES-128");
}

static void a_kernel_that_gets_it_wrong_fails_the_probe(void **state)
{
	char text[128];
	struct err e = {""};
	struct two t;

	(void)state;
	fake.wrong = true;
	assert_int_equal(ktls_probe(&e), -EBADMSG);
	assert_non_null(strstr(e.msg, "fails its test"));
	assert_string_equal(ktls_ciphers(text, sizeof(text)), "");
	both(&t, AES128);
	assert_string_equal(rec_engine_str(&t.r[0]), "user");
	crosses(&t.r[0], &t.r[1], "as ever");
	two_close(&t);
	fake.wrong = false;
	fake.keys[SEAL_AES128][0] = fake.keys[SEAL_AES256][0] = fake.keys[SEAL_CHACHA20][0] = EPERM;
	assert_int_equal(ktls_probe(&e), -EPERM);
	assert_string_equal(e.msg, "the kernel refuses AES-128-GCM: Operation not permitted");
	assert_string_equal(ktls_ciphers(text, sizeof(text)), "");
}

/* ---- when ---- */

static void keys_go_to_the_kernel_only_for_an_accepted_peer(void **state)
{
	struct cfg_identity c = certs_identity("node", AES128), s = certs_identity("b", AES128);
	unsigned int asked = fake.key_calls;
	struct two t;

	(void)state;
	open_ctx(&t, &c, &s);
	t.ids[1] = "spiffe://cluster.local/ns/adit/sa/somebody-else";
	assert_string_equal(rec_engine_why(&t.r[0]), "the handshake comes first");
	shake(&t);
	assert_int_equal(t.res[1], -EACCES);
	assert_int_equal(fake.key_calls, asked + 2); /* the client's, who does not know yet */
	two_close(&t);
}

static void linux_61_says_eagain_to_a_cut_record(void **state)
{
	(void)state;
	fake.linux61 = true;
	a_truncated_connection_is_an_error(state);
}

static void a_flood_of_other_records_does_not_hold_the_worker(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	int turns = 0;
	ssize_t r;

	(void)state;
	forger(&t);
	for (int i = 0; i < 100; i++)
		craft(&t.r[0], TYPE_HANDSHAKE, "\4\0\0\0", 4, 0);
	craft(&t.r[0], TYPE_DATA, "x", 1, 0);
	wire_send(&t.r[0]);
	while ((r = rec_read(&t.r[1], take, &g, &e)) == -EAGAIN && turns < 50) {
		assert_true(t.r[1].readable);
		turns++;
	}
	assert_int_equal(r, 1);
	assert_int_equal(turns, 100 / CONTROLS_MAX);
	free(g.p);
	two_close(&t);
}

static void the_number_of_records_is_asked_for_rarely(void **state)
{
	struct flow f = {.side = 0};
	struct err e = {""};
	struct two t;

	(void)state;
	both(&t, AES128);
	fake.looks = 0;
	while (f.got < 4000000) {
		t.r[0].writable = true;
		if (rec_blocked(&t.r[0])) {
			(void)rec_flush(&t.r[0]);
		} else if (f.sent < 4000000) {
			for (size_t i = 0; i < 100000; i++)
				l.scratch.plain[i] = byte_at(0, f.sent + i);
			assert_int_equal(rec_write(&t.r[0], 100000), 0);
			f.sent += 100000;
		}
		assert_true(rec_read(&t.r[1], check_bytes, &f, &e) != 0);
	}
	assert_int_equal(fake.looks, 0); /* no more than so many bytes can have been so many records */
	two_close(&t);
}

static void an_error_of_the_kernel_is_taken_off_the_socket(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	uint64_t bad_ones = counter(ST_RECORDS_BAD);

	(void)state;
	forger(&t);
	craft(&t.r[0], TYPE_DATA, "damaged", 7, 0)[HDR + 2] ^= 1;
	wire_send(&t.r[0]);
	assert_int_equal(read_end(&t.r[1], &g, &e), -EPROTO);
	assert_int_equal(fake.unblocks, 1);
	assert_int_equal(counter(ST_RECORDS_BAD), bad_ones + 1);
	two_close(&t);
	/* seen by a write before anything was read: the tunnel is told that, too */
	forger(&t);
	fake_of(t.r[1].fd)->err = EMSGSIZE;
	memcpy(l.scratch.plain, "x", 1);
	assert_int_equal(rec_write(&t.r[1], 1), -EBADMSG);
	two_close(&t);
	free(g.p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		KTLS_CASES,
		cmocka_unit_test_setup(what_the_configuration_forbids_is_not_tried, kernel_as_new),
		cmocka_unit_test_setup(a_kernel_without_tls_is_asked_once, kernel_as_new),
		cmocka_unit_test_setup(a_socket_that_the_kernel_does_not_take_stays_ours, kernel_as_new),
		cmocka_unit_test_setup(each_direction_is_by_itself, kernel_as_new),
		cmocka_unit_test_setup(an_update_is_followed_as_far_as_it_is_ours, kernel_as_new),
		cmocka_unit_test_setup(a_cipher_that_is_not_there_is_asked_for_once, kernel_as_new),
		cmocka_unit_test_setup(a_kernel_that_gets_it_wrong_fails_the_probe, kernel_as_new),
		cmocka_unit_test_setup(keys_go_to_the_kernel_only_for_an_accepted_peer, kernel_as_new),
		cmocka_unit_test_setup(linux_61_says_eagain_to_a_cut_record, kernel_as_new),
		cmocka_unit_test_setup(a_flood_of_other_records_does_not_hold_the_worker, kernel_as_new),
		cmocka_unit_test_setup(the_number_of_records_is_asked_for_rarely, kernel_as_new),
		cmocka_unit_test_setup(an_error_of_the_kernel_is_taken_off_the_socket, kernel_as_new),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
