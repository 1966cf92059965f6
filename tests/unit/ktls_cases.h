/*
 * What records promise when the kernel makes and opens them, for a real kernel (tests/vm/ktls.c) and for fake_ktls.h
 * (tests/unit/test_record_ktls.c). Engines per side are chosen by the configuration in force at its first step of the handshake.
 * What a peer does wrong is made by the user engine, which can be told to. Before it: daemon/tls/record.c.
 */
#pragma once
#include "unit/record_pair.h"
#include "unit/record_flow.h"
#include <fcntl.h>
#include <sys/epoll.h>

/* how many sockets the kernel has given TLS in that direction since it began */
static uint64_t kernel_did(bool tx);
/* how many records it could not open */
static uint64_t kernel_errors(void);

static const char *const suites[] = {AES128, AES256, CHACHA};

#define USER SWITCH_OFF
#define KTLS SWITCH_AUTO

static void engines(struct two *t, const char *suite, enum cfg_switch client, enum cfg_switch server)
{
	struct cfg_identity c = certs_identity("node", suite), s = certs_identity("b", suite);
	enum cfg_switch want[2] = {client, server};

	open_ctx(t, &c, &s);
	for (int i = 0; i < 2; i++) {
		cfg.kernel.ktls = want[i];
		t->res[i] = rec_handshake(&t->r[i], NULL, 0, &t->peer[i], &t->e[i]);
	}
	shake(t);
	for (int i = 0; i < 2; i++) {
		if (t->res[i])
			fail_msg("%s", t->e[i].msg);
		assert_string_equal(rec_engine_str(&t->r[i]), want[i] == KTLS ? "ktls" : "user");
		assert_string_equal(rec_engine_why(&t->r[i]), want[i] == KTLS ? "" : "kernel.ktls: off");
		assert_true((t->r[i].keys == NULL) == (want[i] == KTLS));
	}
}

/* a client whose records are made by hand, and a server whose records the kernel opens */
static void forger(struct two *t)
{
	engines(t, AES128, USER, KTLS);
	w.n = 0;
}

/* ---- what works ---- */

static void the_probe_finds_all_ciphers(void **state)
{
	struct err e = {""};
	char text[128];

	(void)state;
	assert_int_equal(ktls_probe(&e), 0);
	assert_string_equal(ktls_ciphers(text, sizeof(text)), "AES-128-GCM, AES-256-GCM, CHACHA20-POLY1305");
}

static void every_byte_by_every_cipher_and_pair_of_engines(void **state)
{
	static const enum cfg_switch pairs[][2] = {{KTLS, KTLS}, {USER, KTLS}, {KTLS, USER}};
	struct rnd rnd = rnd_start("bytes through the kernel's records");
	uint64_t errors = kernel_errors();

	(void)state;
	for (size_t c = 0; c < ARRAY_LEN(suites); c++)
		for (size_t p = 0; p < ARRAY_LEN(pairs); p++) {
			uint64_t kernel_tx = kernel_did(true), kernel_rx = kernel_did(false), n = p == 0 ? 2 : 1;
			uint64_t ours_tx = counter(ST_KTLS_TX), ours_rx = counter(ST_KTLS_RX);
			struct two t;

			engines(&t, suites[c], pairs[p][0], pairs[p][1]);
			both_ways(&t, &rnd, 200000);
			two_close(&t);
			assert_int_equal(kernel_did(true) - kernel_tx, n);
			assert_int_equal(kernel_did(false) - kernel_rx, n);
			assert_int_equal(counter(ST_KTLS_TX) - ours_tx, n);
			assert_int_equal(counter(ST_KTLS_RX) - ours_rx, n);
		}
	assert_int_equal(kernel_errors(), errors);
}

static void messages_of_any_size_come_back(void **state)
{
	static const size_t sizes[] = {1, 2, 9, 16383, 16384, 16385, 32768, 100000, SCRATCH_PLAIN, 300000};
	struct two t;

	(void)state;
	engines(&t, AES256, KTLS, KTLS);
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		struct flow f = {.side = 0};
		struct err e = {""};
		struct timespec t0;

		clock_gettime(CLOCK_MONOTONIC, &t0);
		while (f.got < sizes[i]) {
			size_t n = min_u64(sizes[i] - f.sent, SCRATCH_PLAIN);
			ssize_t r;

			t.r[0].writable = true;
			if (rec_blocked(&t.r[0])) {
				r = rec_flush(&t.r[0]);
				assert_true(r == 0 || r == -EAGAIN);
			} else if (n) {
				for (size_t k = 0; k < n; k++)
					l.scratch.plain[k] = byte_at(0, f.sent + k);
				assert_int_equal(rec_write(&t.r[0], n), 0);
				f.sent += n;
			}
			r = rec_read(&t.r[1], check_bytes, &f, &e);
			assert_true(r > 0 || r == -EAGAIN);
			assert_true(ms_left(&t0) > 0);
		}
	}
	two_close(&t);
}

/* ---- edges: whoever reads only when told to, and as long as `readable`, gets everything ---- */

static size_t some_records(struct two *t, struct rnd *rnd, struct flow *f)
{
	static uint8_t b[20000];
	size_t kinds = 1 + rnd_below(rnd, 12), data = 0;

	for (size_t i = 0; i < kinds; i++) {
		size_t n = rnd_below(rnd, 4) ? rnd_below(rnd, 300) : rnd_below(rnd, 16384);

		if (rnd_below(rnd, 3) == 0) {
			craft(&t->r[0], TYPE_HANDSHAKE, "\4\0\0\4abcd", 8, rnd_below(rnd, 3) ? 0 : 5); /* a ticket */
			continue;
		}
		for (size_t k = 0; k < n; k++)
			b[k] = byte_at(0, f->sent + k);
		craft(&t->r[0], TYPE_DATA, b, n, rnd_below(rnd, 3) || n > 16000 ? 0 : rnd_below(rnd, 300)); /* some of them padded or empty */
		f->sent += n;
		data += n;
	}
	return data;
}

static void nothing_stays_behind_an_edge(void **state)
{
	struct rnd rnd = rnd_start("edges");
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	struct timespec t0;
	struct err e = {""};

	(void)state;
	for (int round = 0; round < 12; round++) {
		int ep = epoll_create1(EPOLL_CLOEXEC), left = 40;
		struct flow f = {.side = 0};
		struct rec *r;
		struct two t;
		ssize_t n = 1;

		forger(&t);
		r = &t.r[1];
		assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, r->fd, &ev), 0);
		r->readable = false;
		clock_gettime(CLOCK_MONOTONIC, &t0);
		while (!r->ended) {
			struct epoll_event got;

			if (left && (rnd_below(&rnd, 2) || f.got == f.sent)) {
				(void)some_records(&t, &rnd, &f);
				if (--left == 0) /* without FIN: nothing else would wake the reader */
					craft(&t.r[0], TYPE_ALERT, "\1\0", 2, 0);
				wire_send(&t.r[0]);
			}
			if (epoll_wait(ep, &got, 1, r->readable ? 0 : left ? 1 : 20) == 1 && (got.events & EPOLLIN))
				r->readable = true;
			if (r->readable)
				n = rec_read(r, check_bytes, &f, &e);
			if (n < 0 && n != -EAGAIN)
				fail_msg("%zd: %s", n, e.msg);
			if (ms_left(&t0) <= 0)
				fail_msg("round %d: %llu of %llu bytes, and no end", round, (unsigned long long)f.got,
					 (unsigned long long)f.sent);
		}
		assert_true(f.got == f.sent);
		close(ep);
		two_close(&t);
	}
}

/* ---- endings ---- */

static void close_notify_both_ways(void **state)
{
	static const enum cfg_switch pairs[][2] = {{KTLS, KTLS}, {USER, KTLS}, {KTLS, USER}};

	(void)state;
	for (size_t p = 0; p < ARRAY_LEN(pairs); p++)
		for (int from = 0; from < 2; from++) {
			struct got g = {0};
			struct err e = {""};
			struct two t;

			engines(&t, AES128, pairs[p][0], pairs[p][1]);
			put(&t.r[from], "last words", 10);
			rec_close(&t.r[from], true);
			assert_int_equal(read_end(&t.r[!from], &g, &e), 0);
			assert_int_equal(g.n, 10);
			assert_true(t.r[!from].ended);
			assert_int_equal(rec_read(&t.r[!from], take, &g, &e), 0);
			free(g.p);
			two_close(&t);
		}
}

/* what a loop does: events set readable and hup, and it reads while readable; Return: the last of rec_read() */
static ssize_t as_told(struct rec *r, struct got *g, struct err *e)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	int ep = epoll_create1(EPOLL_CLOEXEC), reads = 0;
	struct timespec t0;
	ssize_t n = 1;

	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, r->fd, &ev), 0);
	r->readable = false;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (n > 0 || n == -EAGAIN) {
		if (epoll_wait(ep, &ev, 1, r->readable ? 0 : 100) == 1) {
			r->readable |= (ev.events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
			r->hup |= (ev.events & (EPOLLRDHUP | EPOLLHUP | EPOLLERR)) != 0;
		}
		if (r->readable)
			n = rec_read(r, take, g, e);
		assert_true(++reads < 1000); /* no spinning */
		assert_true(ms_left(&t0) > 0);
	}
	close(ep);
	return n;
}

/* a read that fills the buffer in the middle of the last data record; the event of what is behind that is over by the next read */
static void nothing_stays_behind_a_full_buffer(void **state)
{
	static const size_t more[] = {1, 5000, 15000};
	static uint8_t b[16384 + 1];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(more); i++) {
		size_t total = SCRATCH_IN + more[i];
		struct got g = {0};
		struct err e = {""};
		struct two t;

		forger(&t);
		(void)setsockopt(t.r[1].fd, SOL_SOCKET, SO_RCVBUF, &(int){1 << 20}, sizeof(int));
		for (size_t n, sent = 0; sent < total; sent += n) {
			n = min_u64(total - sent, 16384);
			craft(&t.r[0], TYPE_DATA, b, n, 0);
		}
		craft(&t.r[0], TYPE_ALERT, "\1\0", 2, 0);
		wire_send(&t.r[0]);
		usleep(100000); /* all of it is there */
		assert_int_equal(as_told(&t.r[1], &g, &e), 0);
		assert_int_equal(g.n, total);
		assert_int_equal(g.largest, SCRATCH_IN);
		free(g.p);
		two_close(&t);
	}
}

static void a_truncated_connection_is_an_error(void **state)
{
	(void)state;
	for (size_t cut = 0; cut < HDR + 40 + 1 + TAG; cut += 12) {
		struct got g = {0};
		struct err e = {""};
		struct two t;

		forger(&t);
		craft(&t.r[0], TYPE_DATA, "whole", 5, 0);
		wire_send(&t.r[0]);
		craft(&t.r[0], TYPE_DATA, "0123456789012345678901234567890123456789", 40, 0);
		w.n = cut;
		if (cut)
			wire_send(&t.r[0]);
		w.n = 0;
		(void)shutdown(t.r[0].fd, SHUT_WR);
		assert_int_equal(as_told(&t.r[1], &g, &e), -ECONNABORTED);
		assert_non_null(strstr(e.msg, "without close_notify"));
		assert_int_equal(g.n, 5);
		free(g.p);
		two_close(&t);
	}
}

static void a_reset_is_an_error(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	engines(&t, AES128, KTLS, KTLS);
	sock_reset(t.r[0].fd);
	t.r[0].fd = fcntl(t.r[1].fd, F_DUPFD_CLOEXEC, 0); /* something to close */
	t.r[0].tx = t.r[0].rx = REC_PLAIN;
	assert_int_equal(as_told(&t.r[1], &g, &e), -ECONNRESET);
	for (int i = 0; i < 5; i++) { /* reading tells; writing may go on for a while, unlike with plain TCP */
		int r;

		memcpy(l.scratch.plain, "x", 1);
		t.r[1].writable = true;
		r = rec_write(&t.r[1], 1);
		assert_true(r == 0 || r == -EPIPE || r == -EBADMSG);
	}
	free(g.p);
	two_close(&t);
}

static void output_that_waits_is_plaintext_and_arrives(void **state)
{
	struct flow f = {.side = 0};
	struct err e = {""};
	struct two t;

	(void)state;
	engines(&t, AES128, KTLS, KTLS);
	while (!rec_blocked(&t.r[0])) {
		for (size_t i = 0; i < SCRATCH_PLAIN; i++)
			l.scratch.plain[i] = byte_at(0, f.sent + i);
		assert_int_equal(rec_write(&t.r[0], SCRATCH_PLAIN), 0);
		f.sent += SCRATCH_PLAIN;
	}
	assert_false(t.r[0].writable);
	assert_int_equal(buffered(), t.r[0].pend.len);
	assert_in_range(t.r[0].pend.len, 1, SCRATCH_PLAIN);
	for (size_t i = 0; i < t.r[0].pend.len; i++)
		assert_int_equal(buf_at(&t.r[0].pend)[i], byte_at(0, f.sent - t.r[0].pend.len + i));
	assert_int_equal(rec_flush(&t.r[0]), -EAGAIN); /* without an edge it does not even try */
	while (f.got < f.sent) {
		ssize_t n = rec_read(&t.r[1], check_bytes, &f, &e);

		assert_true(n > 0 || n == -EAGAIN);
		t.r[0].writable = true;
		n = rec_flush(&t.r[0]);
		assert_true(n == 0 || n == -EAGAIN);
	}
	assert_false(rec_blocked(&t.r[0]));
	two_close(&t);
}

/* what close() would drop is waited for */
static void a_drained_end_loses_nothing(void **state)
{
	(void)state;
	for (int wait = 0; wait < 2; wait++) {
		int lost = 0;

		for (size_t n = 1000; n < 40000; n += 5000) {
			struct flow f = {.side = 0};
			struct got g = {0};
			struct err e = {""};
			struct pollfd p;
			struct two t;
			ssize_t r;

			engines(&t, AES128, KTLS, KTLS);
			(void)setsockopt(t.r[0].fd, SOL_SOCKET, SO_SNDBUF, &(int){30000}, sizeof(int));
			p = (struct pollfd){.fd = t.r[0].fd, .events = POLLOUT};
			while (!rec_blocked(&t.r[0]) && poll(&p, 1, 0) == 1) {
				memset(l.scratch.plain, 'x', n);
				assert_int_equal(rec_write(&t.r[0], n), 0);
				f.sent += n;
			}
			while (rec_blocked(&t.r[0]) || (wait && !rec_drained(&t.r[0]))) {
				r = rec_read(&t.r[1], take, &g, &e);
				assert_true(r > 0 || r == -EAGAIN);
				t.r[0].writable = true;
				(void)rec_flush(&t.r[0]);
			}
			rec_close(&t.r[0], true);
			r = read_end(&t.r[1], &g, &e);
			if (wait) {
				assert_int_equal(r, 0);
				assert_int_equal(g.n, f.sent);
			} else if (r != 0 || g.n != f.sent) {
				assert_int_equal(r, -ECONNABORTED); /* lost, but not silently */
				lost++;
			}
			free(g.p);
			two_close(&t);
		}
		if (!wait)
			print_message("# without waiting %d of 8 ends lost bytes\n", lost);
	}
}

/* an edge comes for a socket that was full, and then it takes more */
static void room_is_told(void **state)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET};
	int ep = epoll_create1(EPOLL_CLOEXEC);
	struct flow f = {.side = 0};
	struct err e = {""};
	struct timespec t0;
	struct two t;

	(void)state;
	engines(&t, AES128, KTLS, KTLS);
	assert_int_equal(epoll_ctl(ep, EPOLL_CTL_ADD, t.r[0].fd, &ev), 0);
	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (f.got < 2000000) {
		size_t n = min_u64(2000000 - f.sent, 100000);
		ssize_t r;

		if (rec_blocked(&t.r[0])) {
			if (epoll_wait(ep, &ev, 1, 0) == 1 && (ev.events & EPOLLOUT))
				t.r[0].writable = true;
			r = rec_flush(&t.r[0]);
			assert_true(r == 0 || r == -EAGAIN);
		} else if (n) {
			for (size_t i = 0; i < n; i++)
				l.scratch.plain[i] = byte_at(0, f.sent + i);
			assert_int_equal(rec_write(&t.r[0], n), 0);
			f.sent += n;
			if (!rec_blocked(&t.r[0]))
				continue;
		}
		r = rec_read(&t.r[1], check_bytes, &f, &e);
		assert_true(r > 0 || r == -EAGAIN);
		assert_true(ms_left(&t0) > 0);
	}
	close(ep);
	two_close(&t);
}

/* ---- records that no honest peer sends ---- */

static void one(uint8_t type, const void *p, size_t n, size_t pad, int want, const char *because)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	ssize_t r;

	forger(&t);
	craft(&t.r[0], TYPE_DATA, "before", 6, 0);
	craft(&t.r[0], type, p, n, pad);
	if (want == 0) {
		craft(&t.r[0], TYPE_DATA, "after", 5, 0);
		craft(&t.r[0], TYPE_ALERT, "\1\0", 2, 0);
	}
	wire_send(&t.r[0]);
	r = as_told(&t.r[1], &g, &e);
	if (r != want || (because && !strstr(e.msg, because)))
		fail_msg("type %u: %zd '%s', not %d '%s'", type, r, e.msg, want, because ? because : "");
	if (want == 0) {
		size_t len = type == TYPE_DATA ? n : 0;

		assert_int_equal(g.n, 11 + len);
		if (len)
			assert_memory_equal(g.p + 6, p, len);
	}
	free(g.p);
	two_close(&t);
}

static void other_types_are_taken_or_refused(void **state)
{
	static const uint8_t ticket[300] = {4, 0, 1, 40}, finished[36] = {20, 0, 0, 32}, zeros[64];

	(void)state;
	one(TYPE_HANDSHAKE, ticket, sizeof(ticket), 0, 0, NULL);
	one(TYPE_HANDSHAKE, ticket, sizeof(ticket), 9, 0, NULL);
	one(TYPE_DATA, "", 0, 0, 0, NULL);
	one(TYPE_DATA, "", 0, 1000, 0, NULL);
	one(TYPE_DATA, "abc", 3, 1000, 0, NULL);
	one(TYPE_DATA, zeros, sizeof(zeros), 7, 0, NULL);
	one(TYPE_HANDSHAKE, finished, sizeof(finished), 0, -EPROTO, "unexpected");
	one(24 /* heartbeat */, "abc", 3, 0, -EPROTO, "type 24");
	one(TYPE_ALERT, "\2\x28", 2, 0, -EPROTO, "alert 40");
	one(TYPE_ALERT, "\2", 1, 0, -EPROTO, "unexpected");
	one(TYPE_HANDSHAKE, "\x18\0\0\1\2", 5, 0, -EPROTO, "malformed KeyUpdate");
	one(TYPE_HANDSHAKE, "\x18\0\0\1\0", 5, 0, -EKEYEXPIRED, "updated its keys");
	one(TYPE_HANDSHAKE, "\x18\0\0\1\1", 5, 0, -EKEYEXPIRED, "updated its keys");
}

/* the other side hears what was wrong with its record, after what was said before */
static void hears_alert(struct two *t, const char *which)
{
	struct got g = {0};
	struct err e = {""};

	put(&t->r[1], "GOAWAY", 6);
	rec_close(&t->r[1], false);
	assert_int_equal(read_end(&t->r[0], &g, &e), -EPROTO);
	assert_int_equal(g.n, 6);
	if (!strstr(e.msg, which))
		fail_msg("'%s', not '%s'", e.msg, which);
	free(g.p);
}

static void damaged_records_are_refused_with_an_alert(void **state)
{
	(void)state;
	for (size_t at = HDR; at < HDR + 40 + 1 + TAG; at += 9) {
		struct got g = {0};
		struct err e = {""};
		struct two t;

		forger(&t);
		craft(&t.r[0], TYPE_DATA, "good", 4, 0);
		craft(&t.r[0], TYPE_DATA, "a record that somebody has touched......", 40, 0)[at] ^= 4;
		wire_send(&t.r[0]);
		assert_int_equal(as_told(&t.r[1], &g, &e), -EPROTO);
		assert_string_equal(e.msg, "TLS record does not authenticate");
		assert_int_equal(g.n, 4);
		hears_alert(&t, "alert 20");
		free(g.p);
		two_close(&t);
	}
}

static void headers_that_are_none_are_refused(void **state)
{
	static const struct {
		uint8_t b[HDR];
		const char *alert;
	} bad_headers[] = {
		{{23, 3, 3, 0x42, 0}, "alert 22"}, /* too long */
		{{23, 2, 9, 0, 40}, "alert 10"},   /* a version nobody has */
		{{23, 3, 3, 0, 3}, "alert 20"},	   /* no room for a tag */
		{{'G', 'E', 'T', ' ', '/'}, "alert "},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad_headers); i++) {
		struct got g = {0};
		struct err e = {""};
		struct two t;

		forger(&t);
		memset(w.p, 0, 100);
		memcpy(w.p, bad_headers[i].b, HDR);
		w.n = 100;
		wire_send(&t.r[0]);
		assert_int_equal(as_told(&t.r[1], &g, &e), -EPROTO);
		hears_alert(&t, bad_headers[i].alert);
		free(g.p);
		two_close(&t);
	}
}

static void after_a_key_update_there_is_a_goodbye(void **state)
{
	struct got g = {0}, back = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	forger(&t);
	craft(&t.r[0], TYPE_HANDSHAKE, "\x18\0\0\1\0", 5, 0);
	(void)seal_update(t.r[0].keys, &t.r[0].keys->tx);
	craft(&t.r[0], TYPE_DATA, "with new keys", 13, 0); /* nobody gets to that */
	wire_send(&t.r[0]);
	assert_int_equal(as_told(&t.r[1], &g, &e), -EKEYEXPIRED);
	put(&t.r[1], "GOAWAY", 6);
	rec_close(&t.r[1], true);
	assert_int_equal(read_end(&t.r[0], &back, &e), 0); /* close_notify */
	assert_int_equal(back.n, 6);
	free(back.p);
	two_close(&t);
}

/* ---- limits and figures ---- */

static void keys_wear_out(void **state)
{
	uint64_t was = rec_worn_after, tx = counter(ST_RECORDS_TX), rx = counter(ST_RECORDS_RX);
	struct got g = {0};
	struct err e = {""};
	struct two t;
	int sent = 0;

	(void)state;
	rec_worn_after = 100;
	engines(&t, AES128, KTLS, KTLS);
	while (!rec_worn(&t.r[0]) && sent < 200) {
		put(&t.r[0], "a record", 8);
		sent++;
	}
	assert_int_equal(sent, 100);
	assert_true(read_some(&t.r[1], &g, 800, &e) > 0);
	assert_true(rec_worn(&t.r[1]));
	assert_false(t.r[1].tx_count.seq);
	put(&t.r[1], "still works", 11); /* until what is on it has ended */
	g.n = 0;
	assert_true(read_some(&t.r[0], &g, 11, &e) > 0);
	two_close(&t);
	assert_int_equal(counter(ST_RECORDS_TX) - tx, 101);
	assert_int_equal(counter(ST_RECORDS_RX) - rx, 101);
	rec_worn_after = was;
	free(g.p);
}

static void many_records_are_read_with_one_call(void **state)
{
	struct got g = {0};
	struct err e = {""};
	uint64_t calls;
	struct two t;

	(void)state;
	engines(&t, AES128, KTLS, KTLS);
	for (int i = 0; i < 100; i++)
		put(&t.r[0], "sixteen bytes...", 16);
	usleep(100000);
	calls = counter(ST_SYS_RECV);
	assert_true(rec_read(&t.r[1], take, &g, &e) > 0);
	assert_int_equal(g.n, 1600);
	assert_int_equal(g.calls, 1);
	assert_int_equal(counter(ST_SYS_RECV), calls + 1);
	assert_false(t.r[1].readable);
	free(g.p);
	two_close(&t);
}

#define KTLS_CASES                                                                  \
	cmocka_unit_test(the_probe_finds_all_ciphers),                              \
		cmocka_unit_test(every_byte_by_every_cipher_and_pair_of_engines),   \
		cmocka_unit_test(messages_of_any_size_come_back),                   \
		cmocka_unit_test(nothing_stays_behind_an_edge),                     \
		cmocka_unit_test(nothing_stays_behind_a_full_buffer),               \
		cmocka_unit_test(close_notify_both_ways),                           \
		cmocka_unit_test(a_truncated_connection_is_an_error),               \
		cmocka_unit_test(a_reset_is_an_error),                              \
		cmocka_unit_test(output_that_waits_is_plaintext_and_arrives),       \
		cmocka_unit_test(a_drained_end_loses_nothing),                      \
		cmocka_unit_test(room_is_told),                                     \
		cmocka_unit_test(other_types_are_taken_or_refused),                 \
		cmocka_unit_test(damaged_records_are_refused_with_an_alert),        \
		cmocka_unit_test(headers_that_are_none_are_refused),                \
		cmocka_unit_test(after_a_key_update_there_is_a_goodbye),            \
		cmocka_unit_test(keys_wear_out),                                    \
		cmocka_unit_test(many_records_are_read_with_one_call)
