/* Identities as their files change: who shares what with whom, and what stays in force when files are no good. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/control/creds.c"
#include "unit/certs.h"

static char dir[64];
static struct creds *c;
static struct cfg_identity ids[3];
static struct config cfg = {.identities = ids};
static struct tls_ctx **force; /* what is in force: the snapshot's part */
static uint32_t n_force;
static int changes;
static struct text report;

static const char *at(const char *name)
{
	static char text[16][128];
	static unsigned int n;
	char *out = text[n++ % 16];

	snprintf(out, sizeof(text[0]), "%s/%s", dir, name);
	return out;
}

static void copy(const char *from, const char *to)
{
	char cmd[400];

	snprintf(cmd, sizeof(cmd), "cp '%s' '%s.new' && mv '%s.new' '%s'", from, to, to, to);
	assert_int_equal(system(cmd), 0);
}

/* @name's files of @from: NULL: those of the identity's own name */
static void put(const char *name, const char *from)
{
	char crt[32], key[32];

	snprintf(crt, sizeof(crt), "%s.crt", name);
	snprintf(key, sizeof(key), "%s.key", name);
	copy(certs_file(from, ".key"), at(key));
	copy(certs_file(from, ".pem"), at(crt));
}

static int install(struct err *e)
{
	struct tls_ctx **tls = NULL;
	int r = creds_load(c, &cfg, &tls, e);

	if (r < 0) {
		assert_null(tls);
		return r;
	}
	creds_commit(c, &cfg, tls, &report);
	tls_free(force, n_force);
	force = tls;
	n_force = cfg.n_identities;
	return 0;
}

static void changed(void *arg)
{
	struct err e = {""};

	(void)arg;
	changes++;
	assert_int_equal(install(&e), 0);
}

static const struct cert_row *row(const char *name)
{
	const struct cert_row *r;
	uint32_t n = creds_list(c, &r);

	for (uint32_t i = 0; i < n; i++)
		if (!strcmp(r[i].name, name))
			return &r[i];
	return NULL;
}

static int setup(void **state)
{
	(void)state;
	return certs_make(true);
}

static int begin(void **state)
{
	static char names[3][3][128];
	const struct creds_ops ops = {.changed = changed};
	struct err e = {""};

	(void)state;
	snprintf(dir, sizeof(dir), "/tmp/adit-creds-XXXXXX");
	assert_non_null(mkdtemp(dir));
	copy(certs_file("ca", ".pem"), at("ca.crt"));
	put("one", "node");
	put("two", "b");
	cfg.n_identities = 2;
	for (int i = 0; i < 3; i++) {
		static const char *const name[] = {"one", "two", "three"};

		snprintf(names[i][0], sizeof(names[i][0]), "%s/%s.crt", dir, name[i]);
		snprintf(names[i][1], sizeof(names[i][1]), "%s/%s.key", dir, name[i]);
		snprintf(names[i][2], sizeof(names[i][2]), "%s/ca.crt", dir);
		ids[i] = (struct cfg_identity){.name = name[i], .certificate = names[i][0], .key = names[i][1], .ca = names[i][2]};
	}
	changes = 0;
	assert_int_equal(creds_create(&c, &ops, &e), 0);
	assert_int_equal(install(&e), 0);
	return 0;
}

static int end(void **state)
{
	char cmd[128];

	(void)state;
	tls_free(force, n_force);
	force = NULL;
	n_force = 0;
	creds_destroy(c);
	text_finish(&report);
	snprintf(cmd, sizeof(cmd), "rm -rf '%s'", dir);
	return system(cmd);
}

static void what_has_not_changed_is_shared(void **state)
{
	struct tls_ctx *one = force[0], *two = force[1];
	struct err e = {""};

	(void)state;
	assert_int_equal(install(&e), 0);
	assert_true(force[0] == one && force[1] == two);
	assert_int_equal(row("one")->loads, 1);
	put("one", "rsa");
	assert_true(watch_now(c->watch));
	assert_int_equal(changes, 1);
	assert_true(force[0] != one && force[1] == two);
	assert_string_equal(tls_ctx_id(row("one")->ctx), "spiffe://cluster.local/ns/adit/sa/rsa");
	assert_int_equal(row("one")->loads, 2);
	assert_int_equal(row("two")->loads, 1);
	assert_non_null(strstr(report.s, "~ identity one: certificate renewed, serial "));
	assert_null(strstr(report.s, "identity two"));
}

static void the_same_files_again_change_nothing(void **state)
{
	(void)state;
	put("one", "node");
	put("two", "b");
	(void)watch_now(c->watch);
	assert_int_equal(changes, 0);
}

static void an_authority_is_said_as_one(void **state)
{
	char cmd[300];

	(void)state;
	snprintf(cmd, sizeof(cmd), "cat '%s' >>'%s'", certs_file("alien-ca", ".pem"), at("ca.crt"));
	assert_int_equal(system(cmd), 0);
	assert_true(watch_now(c->watch));
	assert_int_equal(changes, 1);
	assert_non_null(strstr(report.s, "~ identity one: who is trusted"));
	assert_non_null(strstr(report.s, "~ identity two: who is trusted"));
}

static void bad_files_leave_the_old_in_force(void **state)
{
	struct tls_ctx *one = force[0];
	struct err e = {""};

	(void)state;
	copy(certs_file("b", ".key"), at("one.key")); /* of another certificate */
	put("two", "rsa");			      /* a good one beside it is taken */
	assert_true(watch_now(c->watch));
	assert_int_equal(changes, 1);
	assert_ptr_equal(force[0], one);
	assert_ptr_equal(row("one")->ctx, one);
	assert_non_null(strstr(row("one")->bad, "does not belong to"));
	assert_int_equal(row("one")->failures, 1);
	assert_true(row("one")->bad_since > 0);
	assert_null(row("two")->bad);
	assert_string_equal(tls_ctx_id(force[1]), "spiffe://cluster.local/ns/adit/sa/rsa");
	/* whoever makes a snapshot for another reason gets the old one, and that is no further failure */
	assert_int_equal(install(&e), 0);
	assert_ptr_equal(force[0], one);
	assert_int_equal(row("one")->failures, 1);
	assert_non_null(row("one")->bad);
	/* another try, as bad */
	assert_int_equal(unlink(at("one.key")), 0);
	assert_true(watch_now(c->watch));
	assert_int_equal(row("one")->failures, 2);
	assert_non_null(strstr(row("one")->bad, "No such file"));
	assert_int_equal(changes, 1);
	/* and the very one that is in force: good again, nothing changes */
	put("one", "node");
	assert_true(watch_now(c->watch));
	assert_int_equal(changes, 1);
	assert_null(row("one")->bad);
	assert_int_equal(row("one")->bad_since, 0);
	assert_int_equal(row("one")->failures, 2);
}

static void what_is_new_must_be_good(void **state)
{
	struct err e = {""};

	(void)state;
	cfg.n_identities = 3;
	assert_int_equal(install(&e), -EINVAL);
	assert_non_null(strstr(e.msg, "identity 'three'"));
	assert_null(row("three"));
	put("three", "rsa");
	assert_int_equal(install(&e), 0);
	assert_non_null(row("three"));
	ids[2].certificate = at("elsewhere.crt"); /* the same name, other files */
	assert_int_equal(install(&e), -EINVAL);
	assert_non_null(strstr(e.msg, "elsewhere.crt"));
	assert_null(row("three")->bad);
	cfg.n_identities = 1; /* removed */
	assert_int_equal(install(&e), 0);
	assert_null(row("three"));
	assert_null(row("two"));
	put("two", "rsa"); /* nobody's any more */
	assert_false(watch_now(c->watch));
}

static void what_runs_out_is_looked_at_again(void **state)
{
	(void)state;
	assert_true(c->at[0].next > unix_s());
	put("one", "old");
	assert_true(watch_now(c->watch));
	assert_int_equal(tls_ctx_state(row("one")->ctx, unix_s()), TLS_EXPIRED);
	assert_in_range(c->at[0].next, unix_s(), unix_s() + REMIND_S); /* bad news are repeated */
	c->at[0].next = unix_s();
	creds_tick(c);
	assert_true(c->at[0].next > unix_s());
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(what_has_not_changed_is_shared, begin, end),
		cmocka_unit_test_setup_teardown(the_same_files_again_change_nothing, begin, end),
		cmocka_unit_test_setup_teardown(an_authority_is_said_as_one, begin, end),
		cmocka_unit_test_setup_teardown(bad_files_leave_the_old_in_force, begin, end),
		cmocka_unit_test_setup_teardown(what_is_new_must_be_good, begin, end),
		cmocka_unit_test_setup_teardown(what_runs_out_is_looked_at_again, begin, end),
	};

	return cmocka_run_group_tests(tests, setup, NULL);
}
