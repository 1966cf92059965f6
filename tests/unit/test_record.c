/*
 * Records over TCP on loopback: who may shake hands, bytes both ways, what the wire looks like, every ending, keys that change, and
 * what no honest peer sends. Certificates are made when the program starts.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "net/sock.h"
#include "unit/certs.h"
#include "unit/rand.h"
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>

#define WAIT_MS 10000
#define AES128	"TLS13-AES128-GCM-SHA256"
#define AES256	"TLS13-AES256-GCM-SHA384"

static struct config cfg = {.workers = 1};
static struct loop l;

static void no_event(void *owner, union ev_ref ref, uint32_t events)
{
	(void)owner, (void)ref, (void)events;
}

static int64_t buffered(void)
{
	return atomic_load(&l.stats.g[SG_BUFFERED]);
}

static uint64_t counter(enum stats_counter c)
{
	return atomic_load(&l.stats.c[c]);
}

/* ---- two ends of a connection: 0 connected (client), 1 accepted (server) ---- */

struct two {
	struct tls_ctx *ctx[2];
	struct rec r[2];
	const char *ids[2];
	int res[2];
	struct err e[2];
	struct tls_peer peer[2];
};

static void tcp_pair(int fd[2])
{
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}}, peer;
	struct pollfd p = {.events = POLLIN};
	struct err e = {""};
	int s;

	if (sock_listen(&a, 8, &s, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(sock_local(s, &a), 0);
	fd[0] = sock_connect(&a);
	assert_true(fd[0] >= 0);
	p.fd = s;
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	fd[1] = sock_accept(s, &peer);
	assert_true(fd[1] >= 0);
	close(s);
}

static struct tls_ctx *ctx_of(const struct cfg_identity *id)
{
	struct tls_ctx *t = NULL;
	struct err w = {""}, e = {""};

	if (tls_ctx_create(&t, id, &w, &e) < 0)
		fail_msg("%s", e.msg);
	return t;
}

static void open_ctx(struct two *t, const struct cfg_identity *client, const struct cfg_identity *server)
{
	int fd[2];

	memset(t, 0, sizeof(*t));
	tcp_pair(fd);
	if (client) {
		t->ctx[0] = ctx_of(client);
		t->ctx[1] = ctx_of(server);
	}
	for (int i = 0; i < 2; i++) {
		assert_int_equal(rec_open(&t->r[i], &l, fd[i], t->ctx[i], i, NULL), 0);
		t->res[i] = -EAGAIN;
	}
}

static int ms_left(const struct timespec *from)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return WAIT_MS - (int)((now.tv_sec - from->tv_sec) * 1000 + (now.tv_nsec - from->tv_nsec) / 1000000);
}

static void shake(struct two *t)
{
	struct timespec t0;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (t->res[0] == -EAGAIN || t->res[1] == -EAGAIN) {
		struct pollfd p[2];

		for (int i = 0; i < 2; i++) {
			if (t->res[i] == -EAGAIN)
				t->res[i] = rec_handshake(&t->r[i], t->ids[i] ? &t->ids[i] : NULL, t->ids[i] ? 1 : 0, &t->peer[i], &t->e[i]);
			if (t->res[i] < 0 && t->res[i] != -EAGAIN)
				rec_close(&t->r[i], false);
			p[i] = (struct pollfd){.fd = t->res[i] == -EAGAIN ? t->r[i].fd : -1, .events = POLLIN};
		}
		assert_true(ms_left(&t0) > 0);
		(void)poll(p, 2, 20);
	}
}

static void two_close(struct two *t)
{
	for (int i = 0; i < 2; i++) {
		rec_close(&t->r[i], false);
		tls_ctx_destroy(t->ctx[i]);
	}
	assert_int_equal(buffered(), 0);
}

static void two_open(struct two *t, const char *ciphers)
{
	struct cfg_identity client = certs_identity("node", ciphers), server = certs_identity("b", ciphers);

	open_ctx(t, &client, &server);
	shake(t);
	for (int i = 0; i < 2; i++)
		if (t->res[i])
			fail_msg("%s", t->e[i].msg);
}

/* ---- what arrives ---- */

struct got {
	uint8_t *p;
	size_t n, cap, calls, largest;
	int refuse; /* errno for the next call */
};

static int take(void *arg, const uint8_t *p, size_t n)
{
	struct got *g = arg;

	if (g->refuse)
		return g->refuse;
	g->calls++;
	g->largest = n > g->largest ? n : g->largest;
	if (g->n + n > g->cap) {
		g->cap = 2 * (g->n + n);
		g->p = realloc(g->p, g->cap);
		assert_non_null(g->p);
	}
	if (n)
		memcpy(g->p + g->n, p, n);
	g->n += n;
	return 0;
}

/* read until @want bytes are there or something else than bytes came; Return: the last of rec_read() */
static ssize_t read_some(struct rec *r, struct got *g, size_t want, struct err *e)
{
	struct pollfd p = {.fd = r->fd, .events = POLLIN};
	ssize_t n = 0;

	do {
		if (!r->ended && poll(&p, 1, WAIT_MS) != 1)
			return -ETIME;
		r->readable = true;
		n = rec_read(r, take, g, e);
	} while ((n > 0 || n == -EAGAIN) && (!want || g->n < want));
	return n;
}

static ssize_t read_end(struct rec *r, struct got *g, struct err *e)
{
	return read_some(r, g, 0, e);
}

static void put(struct rec *r, const void *p, size_t n)
{
	memcpy(l.scratch.plain, p, n);
	assert_int_equal(rec_write(r, n), 0);
}

static void crosses(struct rec *from, struct rec *to, const char *text)
{
	struct got g = {0};
	struct err e = {""};

	put(from, text, strlen(text));
	if (read_some(to, &g, strlen(text), &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(g.n, strlen(text));
	assert_memory_equal(g.p, text, g.n);
	free(g.p);
}

/* ---- handshakes ---- */

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
	struct err w = {""}, e = {""};

	assert_true(tls_ctx_create(&t, &own, &w, &e) < 0);
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
	struct err w = {""}, e = {""};

	(void)state;
	refused("old", NULL, "has expired");
	refused("future", NULL, "not valid yet");
	if (tls_ctx_create(&t, &old, &w, &e) < 0)
		fail_msg("%s", e.msg);
	/* a clock that is wrong now may be put right */
	assert_non_null(strstr(w.msg, "expired"));
	tls_ctx_destroy(t);
	assert_int_equal(tls_ctx_create(&t, &soon, &w, &e), 0);
	assert_non_null(strstr(w.msg, "clock"));
	tls_ctx_destroy(t);
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

static void suites_without_aes_gcm_are_refused_with_words(void **state)
{
	struct cfg_identity c = certs_identity("node", "TLS13-CHACHA20-POLY1305-SHA256"), s = certs_identity("b", c.ciphers);
	struct two t;

	(void)state;
	open_ctx(&t, &c, &s);
	shake(&t);
	for (int i = 0; i < 2; i++) {
		if (t.res[i] == -EPROTO)
			assert_non_null(strstr(t.e[i].msg, "AES-GCM"));
		else
			assert_true(i == 1 && t.res[1] < 0); /* the client went first */
	}
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
	struct err w = {""}, e = {""};
	struct tls_ctx *t = NULL;
	struct cfg_identity id;

	(void)state;
	for (int i = 0; i < 3; i++) {
		const char *f[3];

		for (int k = 0; k < 3; k++)
			f[k] = certs_file(k == i ? "missing" : ok[k], k == 1 ? ".key" : ".pem");
		id = (struct cfg_identity){.name = "me", .certificate = f[0], .key = f[1], .ca = f[2]};
		assert_int_equal(tls_ctx_create(&t, &id, &w, &e), -EINVAL);
		assert_non_null(strstr(e.msg, sayings[i]));
		assert_non_null(strstr(e.msg, "missing"));
		assert_non_null(strstr(e.msg, "'me'"));
	}
	id = certs_identity("node", NULL);
	id.key = certs_file("b", ".key");
	assert_int_equal(tls_ctx_create(&t, &id, &w, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "does not belong to"));
	id = certs_identity("node", "NO-SUCH-SUITE");
	assert_int_equal(tls_ctx_create(&t, &id, &w, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "NO-SUCH-SUITE"));
	id = certs_identity("node", NULL);
	assert_int_equal(tls_ctx_create(&t, &id, &w, &e), 0);
	assert_string_equal(tls_ctx_id(t), "spiffe://cluster.local/ns/adit/sa/node");
	assert_string_equal(tls_ctx_trust_domain(t), "cluster.local");
	assert_string_equal(w.msg, "");
	tls_ctx_destroy(t);
	tls_ctx_destroy(NULL);
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

static void peers_that_do_not_speak_tls_are_told_apart(void **state)
{
	static const char http[] = "GET / HTTP/1.1\r\nHost: x\r\n\r\n", h2[] = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

	(void)state;
	not_a_peer(http, sizeof(http) - 1, false, -EPROTO, "is the port right?");
	not_a_peer(h2, sizeof(h2) - 1, false, -EPROTO, "is the port right?");
	not_a_peer("", 0, true, -ECONNRESET, "closed the connection during the handshake");
}

/* ---- bytes ---- */

static uint8_t byte_at(int side, uint64_t i)
{
	return (uint8_t)(i * 131 + (i >> 8) * 7 + (i >> 16) * 3 + (uint64_t)side * 91);
}

struct flow {
	uint64_t sent, got, left; /* left: of the message being written */
	int side;
	size_t largest;
};

static int check_bytes(void *arg, const uint8_t *p, size_t n)
{
	struct flow *f = arg;

	for (size_t i = 0; i < n; i++)
		if (p[i] != byte_at(f->side, f->got + i))
			fail_msg("byte %llu of side %d is wrong", (unsigned long long)(f->got + i), f->side);
	f->got += n;
	f->largest = n > f->largest ? n : f->largest;
	return 0;
}

static void write_more(struct rec *r, struct flow *f, struct rnd *rnd, uint64_t total)
{
	size_t n;

	r->writable = true; /* as an edge would say; EAGAIN is what it costs when it is not so */
	if (rec_blocked(r)) {
		int e = rec_flush(r);

		assert_true(e == 0 || e == -EAGAIN);
		return;
	}
	if (f->sent == total)
		return;
	if (!f->left)
		f->left = min_u64(total - f->sent, 1 + rnd_below(rnd, 1u << rnd_below(rnd, 21)));
	n = (size_t)min_u64(f->left, 1 + rnd_below(rnd, SCRATCH_PLAIN));
	for (size_t i = 0; i < n; i++)
		l.scratch.plain[i] = byte_at(f->side, f->sent + i);
	assert_int_equal(rec_write(r, n), 0);
	f->sent += n;
	f->left -= n;
	for (size_t i = 0; i < n; i++) /* the trick with the content type leaves no trace */
		assert_true(l.scratch.plain[i] == byte_at(f->side, f->sent - n + i));
}

static void both_ways(struct two *t, struct rnd *rnd, uint64_t total)
{
	struct flow f[2] = {{.side = 0}, {.side = 1}};
	struct timespec t0;
	struct err e = {""};

	for (int i = 0; i < 2; i++) {
		int small = 4096 << rnd_below(rnd, 8);

		(void)setsockopt(t->r[i].fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	}
	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (f[0].got < total || f[1].got < total) {
		int side = (int)rnd_below(rnd, 2);

		if (rnd_below(rnd, 2)) {
			write_more(&t->r[side], &f[side], rnd, total);
		} else {
			ssize_t n = rec_read(&t->r[!side], check_bytes, &f[side], &e);

			if (n < 0 && n != -EAGAIN)
				fail_msg("%zd: %s", n, e.msg);
			assert_int_not_equal(n, 0);
		}
		assert_int_equal(buffered(), t->r[0].part.len + t->r[0].pend.len + t->r[1].part.len + t->r[1].pend.len);
		assert_true(ms_left(&t0) > 0);
	}
	assert_true(f[0].got == total && f[1].got == total);
}

static void bytes_arrive_as_they_were_sent(void **state)
{
	static const char *const suite[] = {AES128, AES256};
	struct rnd rnd = rnd_start("bytes through records");

	(void)state;
	for (int i = 0; i < 2; i++) {
		struct two t;

		two_open(&t, suite[i]);
		both_ways(&t, &rnd, 3u << 20);
		two_close(&t);
	}
}

static void the_plain_engine_hands_bytes_on(void **state)
{
	struct rnd rnd = rnd_start("bytes without TLS");
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	open_ctx(&t, NULL, NULL);
	shake(&t);
	assert_int_equal(t.res[0] | t.res[1], 0);
	assert_string_equal(rec_engine_str(&t.r[0]), "plain");
	assert_string_equal(t.peer[0].id, "");
	assert_false(rec_worn(&t.r[0]));
	both_ways(&t, &rnd, 3u << 20);
	put(&t.r[0], "the end", 7);
	rec_close(&t.r[0], true);
	assert_int_equal(read_end(&t.r[1], &g, &e), 0);
	assert_int_equal(g.n, 7);
	free(g.p);
	two_close(&t);
}

static void nothing_written_sends_nothing(void **state)
{
	struct two t;
	uint64_t was;

	(void)state;
	two_open(&t, AES128);
	was = counter(ST_SYS_SEND);
	assert_int_equal(rec_write(&t.r[0], 0), 0);
	assert_int_equal(rec_flush(&t.r[0]), 0);
	assert_int_equal(counter(ST_SYS_SEND), was);
	two_close(&t);
}

/* what lies on the wire: the lengths of the records in p[0..n) */
static size_t record_sizes(const uint8_t *p, size_t n, size_t *out, size_t max)
{
	size_t k = 0;

	for (size_t off = 0; off < n; k++) {
		size_t body = (size_t)(p[off + 3] << 8 | p[off + 4]);

		assert_true(k < max);
		assert_int_equal(p[off], 23); /* TLS 1.3 says application data whatever is inside */
		assert_int_equal(p[off + 1] << 8 | p[off + 2], 0x0303);
		out[k] = body - TAG - 1;
		off += HDR + body;
		assert_true(off <= n);
	}
	return k;
}

static size_t raw_read(int fd, uint8_t *p, size_t want)
{
	size_t n = 0;

	while (n < want) {
		struct pollfd pf = {.fd = fd, .events = POLLIN};
		ssize_t r;

		assert_int_equal(poll(&pf, 1, WAIT_MS), 1);
		r = recv(fd, p + n, want - n, MSG_DONTWAIT);
		assert_true(r > 0);
		n += (size_t)r;
	}
	return n;
}

static void records_are_filled(void **state)
{
	static const size_t sizes[] = {1, 16383, 16384, 16385, 100000, SCRATCH_PLAIN - 1, SCRATCH_PLAIN};
	static uint8_t wire[SCRATCH_OUT];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
		size_t n = sizes[i], records = (n + 16383) / 16384, len[16];
		uint64_t calls;
		struct two t;

		two_open(&t, AES128);
		calls = counter(ST_SYS_SEND);
		assert_int_equal(rec_write(&t.r[0], n), 0);
		if (!rec_blocked(&t.r[0]))
			assert_int_equal(counter(ST_SYS_SEND), calls + 1); /* many records, one system call */
		while (rec_blocked(&t.r[0])) {
			t.r[0].writable = true;
			(void)rec_flush(&t.r[0]);
		}
		raw_read(t.r[1].fd, wire, n + records * (HDR + 1 + TAG));
		assert_int_equal(recv(t.r[1].fd, wire, 1, MSG_DONTWAIT | MSG_PEEK), -1); /* and no more */
		assert_int_equal(record_sizes(wire, n + records * (HDR + 1 + TAG), len, 16), records);
		for (size_t k = 0; k + 1 < records; k++)
			assert_int_equal(len[k], 16384);
		assert_int_equal(len[records - 1], n - (records - 1) * 16384);
		two_close(&t);
	}
}

static void many_records_are_read_with_one_call(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	uint64_t calls;

	(void)state;
	two_open(&t, AES128);
	for (int i = 0; i < 100; i++)
		put(&t.r[0], "sixteen bytes...", 16);
	usleep(20000);
	calls = counter(ST_SYS_RECV);
	assert_true(rec_read(&t.r[1], take, &g, &e) > 0);
	assert_int_equal(g.calls, 100);
	assert_int_equal(counter(ST_SYS_RECV), calls + 1);
	assert_false(t.r[1].readable); /* a short read: an edge follows */
	free(g.p);
	two_close(&t);
}

static void what_the_sink_refuses_ends_the_reading(void **state)
{
	struct got g = {.refuse = -EPROTO};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	put(&t.r[0], "abc", 3);
	assert_int_equal(read_some(&t.r[1], &g, 3, &e), -EPROTO);
	two_close(&t);
}

/* ---- made by hand ---- */

struct wire {
	uint8_t p[400000];
	size_t n;
};
static struct wire w;

/* append a record of @type as @r would send it, with @pad zeros behind the content type */
static uint8_t *craft(struct rec *r, uint8_t type, const void *p, size_t n, size_t pad)
{
	static uint8_t inner[40000];
	uint8_t *at = w.p + w.n;
	ssize_t len;

	assert_true(n + pad < sizeof(inner) - 2 && w.n + n + pad + 64 < sizeof(w.p));
	if (n)
		memcpy(inner, p, n);
	if (pad) {
		inner[n] = type;
		memset(inner + n + 1, 0, pad);
		len = seal(r->keys, 0, inner, n + pad, at);
	} else {
		len = seal(r->keys, type, inner, n, at);
	}
	assert_true(len > 0);
	w.n += (size_t)len;
	return at;
}

static void wire_send(struct rec *r)
{
	size_t off = 0;

	while (off < w.n) {
		struct pollfd p = {.fd = r->fd, .events = POLLOUT};
		ssize_t n;

		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		n = send(r->fd, w.p + off, w.n - off, MSG_DONTWAIT | MSG_NOSIGNAL);
		assert_true(n > 0);
		off += (size_t)n;
	}
	w.n = 0;
}

/* one record from the client, and what the server says to it */
static void one(uint8_t type, const void *p, size_t n, size_t pad, int want, const char *because)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	ssize_t r;

	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], type, p, n, pad);
	wire_send(&t.r[0]);
	rec_close(&t.r[0], true); /* close_notify behind it */
	r = read_end(&t.r[1], &g, &e);
	if (r != want || (because && !strstr(e.msg, because)))
		fail_msg("type %u: %zd '%s', not %d '%s'", type, r, e.msg, want, because ? because : "");
	if (want == 0 && type == TYPE_DATA) {
		assert_int_equal(g.n, n);
		if (n)
			assert_memory_equal(g.p, p, n);
	}
	free(g.p);
	two_close(&t);
}

static void padding_is_taken_off(void **state)
{
	static const uint8_t zeros[64];

	(void)state;
	one(TYPE_DATA, "abc", 3, 1, 0, NULL);
	one(TYPE_DATA, "abc", 3, 1000, 0, NULL);
	one(TYPE_DATA, "", 0, 16383, 0, NULL);
	one(TYPE_DATA, zeros, sizeof(zeros), 0, 0, NULL); /* zeros that are content */
	one(TYPE_DATA, zeros, sizeof(zeros), 7, 0, NULL);
	one(TYPE_DATA, "", 0, 0, 0, NULL);
	one(TYPE_HANDSHAKE, "\4\0\0\0", 4, 5, 0, NULL);
}

static void what_no_peer_sends_is_refused(void **state)
{
	static const uint8_t finished[36] = {20, 0, 0, 32}, hello[4] = {1, 0, 0, 0}, ticket[8] = {4, 0, 0, 4};

	(void)state;
	one(TYPE_HANDSHAKE, ticket, sizeof(ticket), 0, 0, NULL); /* a session ticket: not wanted, not an error */
	one(TYPE_HANDSHAKE, finished, sizeof(finished), 0, -EPROTO, "unexpected");
	one(TYPE_HANDSHAKE, hello, sizeof(hello), 0, -EPROTO, "unexpected"); /* renegotiation */
	one(TYPE_HANDSHAKE, "", 0, 0, -EPROTO, "unexpected");
	one(24 /* heartbeat */, "abc", 3, 0, -EPROTO, "type 24");
	one(20 /* a sealed ChangeCipherSpec */, "\1", 1, 0, -EPROTO, "type 20");
	one(0, "", 0, 0, -EPROTO, "without content type");
	one(0, "\0\0\0", 3, 0, -EPROTO, "without content type");
	one(TYPE_ALERT, "\2", 1, 0, -EPROTO, "unexpected");
	one(TYPE_ALERT, "\2\x28", 2, 0, -EPROTO, "alert 40");
	one(TYPE_ALERT, "\1\0", 2, 0, 0, NULL);
	one(TYPE_HANDSHAKE, "\x18\0\0\1\2", 5, 0, -EPROTO, "malformed KeyUpdate");
	one(TYPE_HANDSHAKE, "\x18\0\0\1\0\0", 6, 0, -EPROTO, "malformed KeyUpdate");
	one(TYPE_HANDSHAKE, "\x18\0\0\0", 4, 0, -EPROTO, "malformed KeyUpdate");
}

/* the client's bytes as they are in @w, then FIN */
static void raw(struct two *t, int want, const char *because)
{
	struct got g = {0};
	struct err e = {""};
	ssize_t r;

	wire_send(&t->r[0]);
	(void)shutdown(t->r[0].fd, SHUT_WR);
	r = read_end(&t->r[1], &g, &e);
	if (r != want || !strstr(e.msg, because))
		fail_msg("%zd '%s', not %d '%s'", r, e.msg, want, because);
	assert_int_equal(g.n, 0); /* nothing of it came through */
	free(g.p);
}

static void a_flipped_bit_is_seen_wherever_it_is(void **state)
{
	enum { N = 40 };

	(void)state;
	for (size_t at = 0; at < HDR + N + 1 + TAG; at++) {
		struct two t;
		char b[N] = "a record that somebody has touched";

		if (at > 8 && at % 5) /* handshakes take time */
			continue;
		two_open(&t, AES128);
		w.n = 0;
		craft(&t.r[0], TYPE_DATA, b, N, 0)[at] ^= (uint8_t)(1u << at % 8);
		/* a length that became longer makes it wait for bytes that never come */
		raw(&t, at == 3 ? -ECONNABORTED : -EPROTO, at == 3 ? "close_notify" : "");
		two_close(&t);
	}
}

static void records_out_of_order_are_refused(void **state)
{
	uint8_t keep[64];
	struct two t;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], TYPE_DATA, "first", 5, 0);
	memcpy(keep, w.p, w.n);
	w.n = 0;
	craft(&t.r[0], TYPE_DATA, "again", 5, 0); /* the second alone */
	raw(&t, -EPROTO, "does not authenticate");
	two_close(&t);
	two_open(&t, AES128);
	w.n = 0;
	memcpy(w.p, keep, 5 + HDR + 1 + TAG); /* of another connection */
	w.n = 5 + HDR + 1 + TAG;
	raw(&t, -EPROTO, "does not authenticate");
	two_close(&t);
}

static void a_repeated_record_is_refused(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	size_t n;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], TYPE_DATA, "pay 100", 7, 0);
	n = w.n;
	memcpy(w.p + n, w.p, n);
	w.n = 2 * n;
	wire_send(&t.r[0]);
	assert_int_equal(read_end(&t.r[1], &g, &e), -EPROTO);
	assert_int_equal(g.n, 7); /* once */
	free(g.p);
	two_close(&t);
}

static void headers_that_are_none_are_refused(void **state)
{
	static const uint8_t bad[][HDR] = {
		{22, 3, 3, 0, 40},	/* a handshake in the clear */
		{21, 3, 3, 0, 2},	/* an alert in the clear */
		{23, 2, 3, 0, 40},	/* a version nobody has */
		{23, 3, 3, 0, 16},	/* no room for content type and tag */
		{23, 3, 3, 0, 0},
		{23, 3, 3, 0x41, 1},	/* 16641: more than 2^14 + 256 */
		{23, 3, 3, 0xff, 0xff},
		{'G', 'E', 'T', ' ', '/'},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct two t;

		two_open(&t, AES128);
		memcpy(w.p, bad[i], HDR);
		w.n = HDR;
		raw(&t, -EPROTO, "not a TLS 1.3 record");
		two_close(&t);
	}
}

static void a_late_change_cipher_spec_is_passed_over(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	memcpy(w.p, "\x14\3\3\0\1\1", 6); /* RFC 8446 D.4 */
	w.n = 6;
	craft(&t.r[0], TYPE_DATA, "abc", 3, 0);
	wire_send(&t.r[0]);
	assert_true(read_some(&t.r[1], &g, 3, &e) > 0);
	assert_int_equal(g.n, 3);
	free(g.p);
	two_close(&t);
}

static void records_may_come_in_pieces_of_any_size(void **state)
{
	struct rnd rnd = rnd_start("records in pieces");
	struct got g = {0};
	struct err e = {""};
	char text[3000];
	struct two t;

	(void)state;
	two_open(&t, AES256);
	for (size_t i = 0; i < sizeof(text); i++)
		text[i] = (char)byte_at(0, i);
	w.n = 0;
	memcpy(w.p, "\x14\3\3\0\1\1", 6);
	w.n = 6;
	craft(&t.r[0], TYPE_DATA, text, 1000, 3);
	craft(&t.r[0], TYPE_HANDSHAKE, "\4\0\0\0", 4, 0);
	craft(&t.r[0], TYPE_DATA, text + 1000, 0, 0);
	craft(&t.r[0], TYPE_DATA, text + 1000, 2000, 0);
	for (size_t off = 0, n; off < w.n; off += n) {
		struct pollfd p = {.fd = t.r[1].fd, .events = POLLIN};

		n = min_u64(w.n - off, off < 100 ? 1 : 1 + rnd_below(&rnd, 700));
		assert_int_equal(send(t.r[0].fd, w.p + off, n, 0), (ssize_t)n);
		assert_int_equal(poll(&p, 1, WAIT_MS), 1);
		assert_int_equal(rec_read(&t.r[1], take, &g, &e), (ssize_t)n);
		assert_int_equal(buffered(), t.r[1].part.len);
		assert_in_range(t.r[1].part.len, 0, HDR + RECORD_MAX);
	}
	assert_int_equal(g.n, sizeof(text));
	assert_memory_equal(g.p, text, sizeof(text));
	free(g.p);
	w.n = 0;
	two_close(&t);
}

/* ---- endings ---- */

static void an_orderly_end_is_0(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	put(&t.r[0], "last words", 10);
	rec_close(&t.r[0], true);
	assert_int_equal(read_end(&t.r[1], &g, &e), 0);
	assert_int_equal(g.n, 10);
	assert_true(t.r[1].ended);
	assert_int_equal(rec_read(&t.r[1], take, &g, &e), 0); /* and stays so */
	free(g.p);
	two_close(&t);
}

static void bytes_after_close_notify_do_not_count(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	craft(&t.r[0], TYPE_ALERT, "\1\0", 2, 0);
	craft(&t.r[0], TYPE_DATA, "too late", 8, 0);
	wire_send(&t.r[0]);
	assert_int_equal(read_end(&t.r[1], &g, &e), 0);
	assert_int_equal(g.n, 0);
	assert_int_equal(buffered(), 0);
	free(g.p);
	two_close(&t);
}

static void a_truncated_connection_is_an_error(void **state)
{
	struct two t;

	(void)state;
	two_open(&t, AES128);
	w.n = 0;
	raw(&t, -ECONNABORTED, "without close_notify");
	two_close(&t);
	for (size_t cut = 1; cut < 60; cut += 6) { /* in the middle of a record */
		two_open(&t, AES128);
		w.n = 0;
		craft(&t.r[0], TYPE_DATA, "0123456789012345678901234567890123456789", 40, 0);
		w.n = cut;
		raw(&t, -ECONNABORTED, "without close_notify");
		two_close(&t);
	}
}

static void a_reset_is_an_error(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	sock_reset(t.r[0].fd);
	t.r[0].fd = fcntl(t.r[1].fd, F_DUPFD_CLOEXEC, 0); /* something to close */
	assert_int_equal(read_end(&t.r[1], &g, &e), -ECONNRESET);
	put(&t.r[1], "x", 0);
	memcpy(l.scratch.plain, "x", 1);
	assert_int_equal(rec_write(&t.r[1], 1), -EPIPE);
	free(g.p);
	two_close(&t);
}

static void closing_what_was_never_opened_is_fine(void **state)
{
	struct rec zero = {0};
	struct two t;

	(void)state;
	rec_close(&zero, true);
	open_ctx(&t, NULL, NULL);
	rec_close(&t.r[0], true);
	rec_close(&t.r[0], true); /* twice */
	two_close(&t);
	{
		struct cfg_identity id = certs_identity("node", AES128);

		open_ctx(&t, &id, &id); /* in the middle of a handshake */
		(void)rec_handshake(&t.r[0], NULL, 0, &t.peer[0], &t.e[0]);
		rec_close(&t.r[0], true);
		two_close(&t);
	}
}

static void output_that_waits_is_kept_and_counted(void **state)
{
	struct flow f = {.side = 0};
	struct err e = {""};
	struct two t;

	(void)state;
	two_open(&t, AES128);
	while (!rec_blocked(&t.r[0])) {
		for (size_t i = 0; i < SCRATCH_PLAIN; i++)
			l.scratch.plain[i] = byte_at(0, f.sent + i);
		assert_int_equal(rec_write(&t.r[0], SCRATCH_PLAIN), 0);
		f.sent += SCRATCH_PLAIN;
	}
	assert_false(t.r[0].writable);
	assert_int_equal(buffered(), t.r[0].pend.len);
	assert_in_range(t.r[0].pend.len, 1, SCRATCH_OUT);
	assert_int_equal(rec_flush(&t.r[0]), -EAGAIN); /* without an edge it does not even try */
	while (f.got < f.sent) {
		ssize_t n = rec_read(&t.r[1], check_bytes, &f, &e);

		assert_true(n > 0 || n == -EAGAIN);
		t.r[0].writable = true;
		n = rec_flush(&t.r[0]);
		assert_true(n == 0 || n == -EAGAIN);
	}
	assert_false(rec_blocked(&t.r[0]));
	assert_true(f.got == f.sent);
	two_close(&t);
}

static void an_end_with_output_waiting_is_not_made_to_look_orderly(void **state)
{
	struct got g = {0};
	struct err e = {""};
	struct two t;
	ssize_t n;

	(void)state;
	two_open(&t, AES128);
	while (!rec_blocked(&t.r[0]))
		assert_int_equal(rec_write(&t.r[0], SCRATCH_PLAIN), 0);
	rec_close(&t.r[0], true);
	n = read_end(&t.r[1], &g, &e);
	assert_true(n == -ECONNABORTED || n == -ECONNRESET);
	free(g.p);
	two_close(&t);
}

static void keys_wear_out(void **state)
{
	struct two t;

	(void)state;
	two_open(&t, AES128);
	assert_false(rec_worn(&t.r[0]));
	t.r[0].keys->tx.seq = WORN;
	assert_true(rec_worn(&t.r[0]));
	t.r[1].keys->rx.seq = WORN;
	assert_true(rec_worn(&t.r[1]));
	crosses(&t.r[0], &t.r[1], "still works");
	two_close(&t);
}

/* ---- keys that change ---- */

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
	static const char *const suite[] = {AES128, AES256};
	struct err e = {""};

	(void)state;
	for (int i = 0; i < 2; i++) {
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

/* ---- another implementation ---- */

struct openssl {
	pid_t pid;
	int in, out; /* its input, its output */
	char said[65536];
	size_t n;
	struct two t; /* [1] is the rec */
};

static void openssl_start(struct openssl *o, const char *more)
{
	struct cfg_identity id = certs_identity("b", AES128 ":" AES256);
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}}, peer;
	struct pollfd p = {.events = POLLIN};
	struct err e = {""};
	int in[2], out[2], s;
	char cmd[1200];

	memset(o, 0, sizeof(*o));
	assert_int_equal(sock_listen(&a, 8, &s, &e), 0);
	assert_int_equal(sock_local(s, &a), 0);
	snprintf(cmd, sizeof(cmd), "exec openssl s_client -connect 127.0.0.1:%u -CAfile %s %s 2>&1", a.port, certs_file("ca", ".pem"), more);
	assert_int_equal(pipe2(in, O_CLOEXEC), 0);
	assert_int_equal(pipe2(out, O_CLOEXEC), 0);
	o->pid = fork();
	assert_true(o->pid >= 0);
	if (o->pid == 0) {
		dup2(in[0], STDIN_FILENO);
		dup2(out[1], STDOUT_FILENO);
		execl("/bin/sh", "sh", "-c", cmd, NULL);
		_exit(127);
	}
	close(in[0]);
	close(out[1]);
	o->in = in[1];
	o->out = out[0];
	p.fd = s;
	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
	s = sock_accept(p.fd, &peer);
	assert_true(s >= 0);
	close(p.fd);
	o->t.ctx[1] = ctx_of(&id);
	o->t.r[0].fd = -1;
	o->t.res[1] = -EAGAIN;
	assert_int_equal(rec_open(&o->t.r[1], &l, s, o->t.ctx[1], true, NULL), 0);
	shake(&o->t);
}

static void openssl_stop(struct openssl *o)
{
	int status;

	close(o->in);
	kill(o->pid, SIGKILL);
	waitpid(o->pid, &status, 0);
	close(o->out);
	two_close(&o->t);
}

static void openssl_says(struct openssl *o, const char *text)
{
	struct timespec t0;

	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (!memmem(o->said, o->n, text, strlen(text))) {
		struct pollfd p = {.fd = o->out, .events = POLLIN};
		ssize_t n = poll(&p, 1, 100) == 1 ? read(o->out, o->said + o->n, sizeof(o->said) - o->n) : 0;

		o->n += n > 0 ? (size_t)n : 0;
		if (ms_left(&t0) <= 0)
			fail_msg("openssl never said '%s' but: %.*s", text, (int)o->n, o->said);
	}
	o->n = 0;
}

static void openssl_types(struct openssl *o, const char *text)
{
	assert_int_equal(write(o->in, text, strlen(text)), (ssize_t)strlen(text));
}

static void openssl_sends(struct openssl *o, const char *text)
{
	struct got g = {0};
	struct err e = {""};

	openssl_types(o, text);
	if (read_some(&o->t.r[1], &g, strlen(text), &e) <= 0)
		fail_msg("%s", e.msg);
	assert_int_equal(g.n, strlen(text));
	assert_memory_equal(g.p, text, g.n);
	free(g.p);
}

static void openssl_updates_its_keys(void **state)
{
	static const char *const suite[] = {"TLS_AES_128_GCM_SHA256", "TLS_AES_256_GCM_SHA384"};
	struct got g = {0};
	struct err e = {""};
	char args[600];

	(void)state;
	for (int i = 0; i < 2; i++) {
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

static int setup(void **state)
{
	(void)state;
	signal(SIGPIPE, SIG_IGN);
	wolfSSL_Init();
	if (certs_make())
		return -1;
	return loop_init(&l, 0, &cfg, NULL, no_event);
}

static int teardown(void **state)
{
	(void)state;
	loop_finish(&l);
	wolfSSL_Cleanup();
	return 0;
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
		cmocka_unit_test(suites_without_aes_gcm_are_refused_with_words),
		cmocka_unit_test(no_common_suite_is_a_failure_on_both_sides),
		cmocka_unit_test(identity_files_that_do_not_fit_are_named),
		cmocka_unit_test(peers_that_do_not_speak_tls_are_told_apart),
		cmocka_unit_test(bytes_arrive_as_they_were_sent),
		cmocka_unit_test(the_plain_engine_hands_bytes_on),
		cmocka_unit_test(nothing_written_sends_nothing),
		cmocka_unit_test(records_are_filled),
		cmocka_unit_test(many_records_are_read_with_one_call),
		cmocka_unit_test(what_the_sink_refuses_ends_the_reading),
		cmocka_unit_test(padding_is_taken_off),
		cmocka_unit_test(what_no_peer_sends_is_refused),
		cmocka_unit_test(a_flipped_bit_is_seen_wherever_it_is),
		cmocka_unit_test(records_out_of_order_are_refused),
		cmocka_unit_test(a_repeated_record_is_refused),
		cmocka_unit_test(headers_that_are_none_are_refused),
		cmocka_unit_test(a_late_change_cipher_spec_is_passed_over),
		cmocka_unit_test(records_may_come_in_pieces_of_any_size),
		cmocka_unit_test(an_orderly_end_is_0),
		cmocka_unit_test(bytes_after_close_notify_do_not_count),
		cmocka_unit_test(a_truncated_connection_is_an_error),
		cmocka_unit_test(a_reset_is_an_error),
		cmocka_unit_test(closing_what_was_never_opened_is_fine),
		cmocka_unit_test(output_that_waits_is_kept_and_counted),
		cmocka_unit_test(an_end_with_output_waiting_is_not_made_to_look_orderly),
		cmocka_unit_test(keys_wear_out),
#if !ADIT_WOLFSSL_PACKAGED
		cmocka_unit_test(key_updates_are_followed),
		cmocka_unit_test(too_many_key_updates_are_refused),
		cmocka_unit_test(an_answer_to_an_update_waits_its_turn),
#endif
		cmocka_unit_test(openssl_updates_its_keys),
		cmocka_unit_test(clients_that_are_no_agents_are_refused),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
