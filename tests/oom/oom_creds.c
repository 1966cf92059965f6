/* Identities, revocation lists, chains and watched files while memory runs out: whole, or as it was before. */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <cmocka.h>

#include "base/log.h"
#include "control/creds.h"
#include "control/watch.h"
#include "oom/oom.h"
#include "tls/ctx_int.h"
#include "unit/certs.h"

void *__real_malloc(size_t n);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);

static struct cfg_identity ids[2];
static struct config cfg = {.identities = ids, .n_identities = 2};

static void fail_clean(int r, const struct err *e)
{
	assert_true(oom_struck());
	assert_true(r < 0);
	assert_string_not_equal(e->msg, "");
}

static void ctx_once(void)
{
	struct tls_ctx *t = NULL, *again = NULL;
	struct err warn = {""}, e = {""};
	int r = tls_ctx_create(&t, &ids[0], &warn, &e);

	if (r < 0) {
		assert_null(t);
		fail_clean(r, &e);
		return;
	}
	assert_int_equal(crls_count(tls_ctx_crls(t)), 1);
	r = tls_ctx_renew(&again, t, &ids[0], &warn, &e);
	if (r < 0)
		fail_clean(r, &e);
	else
		assert_ptr_equal(t, again);
	tls_ctx_put(again);
	tls_ctx_put(t);
}

static struct tls_ctx *judge;

static void chain_once(void)
{
	struct tls_chain *c = chain_create(judge->own->at, judge->own->n);
	struct err e = {""};

	if (!c) {
		assert_true(oom_struck());
		return;
	}
	if (tls_ctx_recheck(judge, c, NULL, 0, &e) < 0)
		assert_true(oom_struck());
	free(c);
}

static void nothing(void *arg)
{
	(void)arg;
}

static void watch_once(void)
{
	const struct watch_ops ops = {.changed = nothing};
	const char *a[] = {"/tmp/adit-oom-watched/a", certs_file("node", ".pem")}, *b[] = {certs_file("node", ".pem"), "/tmp"};
	struct watch *w = NULL;
	struct err e = {""};

	if (watch_create(&w, &ops, &e) < 0) {
		assert_true(oom_struck());
		return;
	}
	if (watch_set(w, a, 2, &e) < 0 || watch_set(w, b, 2, &e) < 0)
		assert_true(oom_struck());
	(void)watch_now(w);
	watch_destroy(w);
}

static void creds_once(void)
{
	const struct creds_ops ops = {.changed = nothing};
	struct tls_ctx **tls = NULL;
	struct creds *c = NULL;
	struct err e = {""};

	if (creds_create(&c, &ops, &e) < 0) {
		assert_true(oom_struck());
		return;
	}
	for (int i = 0; i < 2; i++) {
		const struct cert_row *rows;
		int r = creds_load(c, &cfg, &tls, &e);

		if (r < 0) {
			fail_clean(r, &e);
			break;
		}
		creds_commit(c, &cfg, tls, NULL);
		if (creds_list(c, &rows) != 2)
			assert_true(oom_struck());
		for (uint32_t k = 0; k < 2; k++)
			tls_ctx_put(tls[k]);
		free(tls);
		tls = NULL;
	}
	creds_destroy(c);
}

static void a_context_with_lists_is_whole_or_not_there(void **state)
{
	(void)state;
	assert_true(oom_sweep(ctx_once) >= 10);
}

static void a_chain_is_judged_or_not(void **state)
{
	struct err warn = {""}, e = {""};

	(void)state;
	assert_int_equal(tls_ctx_create(&judge, &ids[1], &warn, &e), 0);
	assert_true(oom_sweep(chain_once) >= 1);
	tls_ctx_put(judge);
}

static void a_watch_sees_what_it_can(void **state)
{
	(void)state;
	assert_true(oom_sweep(watch_once) >= 5);
}

static void credentials_stay_as_they_were(void **state)
{
	(void)state;
	assert_true(oom_sweep(creds_once) >= 20);
}

static int setup(void **state)
{
	char cmd[700];

	(void)state;
	(void)log_level_set("all", "error");
	if (certs_make(true))
		return -1;
	/* wolfSSL's own fail in oom_record.c */
	if (wolfSSL_SetAllocators(__real_malloc, __real_free, __real_realloc))
		return -1;
	snprintf(cmd, sizeof(cmd),
		 "cd %s && : >rev && echo 01 >num && printf '%%s\\n' '[ca]' default_ca=c '[c]' database=rev new_certs_dir=. default_md=sha256"
		 " crlnumber=num >crl.cnf && openssl ca -config crl.cnf -keyfile ca.key -cert ca.pem -revoke rsa.pem 2>log &&"
		 " openssl ca -config crl.cnf -keyfile ca.key -cert ca.pem -gencrl -crldays 5 -out some.crl 2>log",
		 certs_at);
	ids[0] = certs_identity("node", NULL);
	ids[0].crl = certs_file("some", ".crl");
	ids[1] = certs_identity("b", NULL);
	ids[1].name = "b";
	return system(cmd) ? -1 : 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_context_with_lists_is_whole_or_not_there),
		cmocka_unit_test(a_chain_is_judged_or_not),
		cmocka_unit_test(a_watch_sees_what_it_can),
		cmocka_unit_test(credentials_stay_as_they_were),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
