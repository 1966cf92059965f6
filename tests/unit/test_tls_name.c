/* Several identities behind one address: a client gets the certificate of the name that it asks for, and is judged by that one's CAs. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#define CERTS_ALL
#include "unit/record_pair.h"

struct choice {
	struct tls_ctx *ctx; /* NULL: refuse */
	char name[300];
	uint32_t asked;
};

static struct tls_ctx *choose(void *arg, const char *name, size_t n, struct err *reterr)
{
	struct choice *c = arg;

	snprintf(c->name, sizeof(c->name), "%.*s", (int)n, name ? name : "");
	c->asked++;
	if (!c->ctx)
		err_set(reterr, -EACCES, "nobody is called %s", c->name);
	return c->ctx;
}

/* a handshake that asks for @sni with a server that began with @begins */
static void two_named(struct two *t, const char *sni, const char *begins, struct choice *c)
{
	struct cfg_identity client = certs_identity("node", AES128), server = certs_identity(begins, AES128);
	int fd[2];

	memset(t, 0, sizeof(*t));
	tcp_pair(fd);
	t->ctx[0] = ctx_of(&client);
	t->ctx[1] = ctx_of(&server);
	for (int i = 0; i < 2; i++) {
		assert_int_equal(rec_open(&t->r[i], &l, fd[i], t->ctx[i], i, i ? NULL : sni), 0);
		t->res[i] = -EAGAIN;
	}
	t->r[1].choose = choose;
	t->r[1].choose_arg = c;
	shake(t);
}

static void the_name_chooses(void **state)
{
	struct cfg_identity b = certs_identity("b", AES128);
	struct choice c = {.ctx = ctx_of(&b)};
	struct two t;

	(void)state;
	two_named(&t, "b.example", "node", &c);
	if (t.res[0] || t.res[1])
		fail_msg("%s; %s", t.e[0].msg, t.e[1].msg);
	assert_string_equal(c.name, "b.example");
	assert_int_equal(c.asked, 1);
	assert_string_equal(t.peer[0].id, "spiffe://cluster.local/ns/adit/sa/b");
	assert_ptr_equal(t.r[1].tls, c.ctx);
	tls_ctx_put(TAKE(c.ctx)); /* the tunnel has a reference of its own */
	crosses(&t.r[0], &t.r[1], "question");
	crosses(&t.r[1], &t.r[0], "answer");
	two_close(&t);
}

static void the_one_to_begin_with_may_stay(void **state)
{
	struct choice c = {.ctx = NULL};
	struct cfg_identity b = certs_identity("b", AES128);
	struct two t;

	(void)state;
	c.ctx = ctx_of(&b);
	two_named(&t, NULL, "b", &c);
	assert_int_equal(t.res[0], 0);
	assert_int_equal(t.res[1], 0);
	assert_string_equal(c.name, "");
	assert_string_equal(t.peer[0].id, "spiffe://cluster.local/ns/adit/sa/b");
	tls_ctx_put(c.ctx);
	two_close(&t);
}

static void nobodys_name_is_refused_and_the_client_is_told(void **state)
{
	struct choice c = {.ctx = NULL};
	struct two t;

	(void)state;
	two_named(&t, "c.example", "b", &c);
	assert_int_equal(t.res[1], -EACCES);
	assert_string_equal(t.e[1].msg, "nobody is called c.example");
	assert_true(t.res[0] < 0);
	if (!strstr(t.e[0].msg, "112"))
		fail_msg("'%s' does not name the alert", t.e[0].msg);
	assert_string_equal(t.peer[0].id, ""); /* it has seen no certificate */
	two_close(&t);
}

/* the client is judged by the CAs of the identity that it gets, not of the one to begin with */
static void the_chosen_ones_cas_judge_the_client(void **state)
{
	struct cfg_identity alien = certs_identity("alien", AES128);
	struct choice c = {.ctx = NULL};
	struct two t;

	(void)state;
	alien.ca = certs_file("alien-ca", ".pem");
	c.ctx = ctx_of(&alien);
	two_named(&t, "alien.example", "b", &c);
	assert_true(t.res[1] < 0);
	if (!strstr(t.e[1].msg, "CA"))
		fail_msg("'%s' does not blame the CA", t.e[1].msg);
	tls_ctx_put(c.ctx);
	two_close(&t);
}

/* bytes that come one by one: nothing is answered before the name is known */
static void a_slow_hello_is_waited_for(void **state)
{
	static const char http[] = "GET / HTTP/1.1\r\n\r\n";
	struct cfg_identity b = certs_identity("b", AES128);
	struct choice c = {.ctx = NULL};
	struct tls_peer peer;
	struct err e = {""};
	struct tls_ctx *ctx = ctx_of(&b);
	struct rec r;
	int fd[2];

	(void)state;
	tcp_pair(fd);
	assert_int_equal(rec_open(&r, &l, fd[1], ctx, true, NULL), 0);
	r.choose = choose;
	r.choose_arg = &c;
	assert_int_equal(rec_handshake(&r, NULL, 0, &peer, &e), -EAGAIN);
	assert_int_equal(send(fd[0], "\x16\x03\x01", 3, 0), 3);
	assert_int_equal(rec_handshake(&r, NULL, 0, &peer, &e), -EAGAIN);
	assert_int_equal(c.asked, 0);
	close(fd[0]);
	r.hup = true;
	assert_int_equal(rec_handshake(&r, NULL, 0, &peer, &e), -ECONNRESET);
	rec_close(&r, false);

	tcp_pair(fd);
	assert_int_equal(rec_open(&r, &l, fd[1], ctx, true, NULL), 0);
	r.choose = choose;
	r.choose_arg = &c;
	assert_int_equal(send(fd[0], http, sizeof(http) - 1, 0), sizeof(http) - 1);
	assert_int_equal(rec_handshake(&r, NULL, 0, &peer, &e), -EPROTO);
	if (!strstr(e.msg, "HTTP/1"))
		fail_msg("'%s' does not say what it is", e.msg);
	assert_int_equal(c.asked, 0);
	rec_close(&r, false);
	close(fd[0]);
	tls_ctx_put(ctx);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_name_chooses),
		cmocka_unit_test(the_one_to_begin_with_may_stay),
		cmocka_unit_test(nobodys_name_is_refused_and_the_client_is_told),
		cmocka_unit_test(the_chosen_ones_cas_judge_the_client),
		cmocka_unit_test(a_slow_hello_is_waited_for),
	};

	return cmocka_run_group_tests(tests, record_setup, record_teardown);
}
