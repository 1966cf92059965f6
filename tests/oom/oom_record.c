/*
 * Records when memory runs out. wolfSSL keeps its memory where a handshake is swept, so that what fails is ours (5.5.4 itself loses
 * a key share of 72 bytes when an allocation of TLSX_KeyShare_Establish() fails); loading an identity is swept with all of it.
 */
#include "oom/oom.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tls/record.c"
#include "unit/record_pair.h"

void *__real_malloc(size_t n);
void *__real_realloc(void *p, size_t n);
void __real_free(void *p);

static bool spare_wolfssl;

static void *wolf_malloc(size_t n)
{
	return spare_wolfssl ? __real_malloc(n) : malloc(n);
}

static void *wolf_realloc(void *p, size_t n)
{
	return spare_wolfssl ? __real_realloc(p, n) : realloc(p, n);
}

static void wolf_free(void *p)
{
	if (spare_wolfssl)
		__real_free(p);
	else
		free(p);
}

static struct tls_ctx *ctx[2];

/* Return: both are open and have shaken hands */
static bool opened(struct two *t, bool tls)
{
	int fd[2];

	memset(t, 0, sizeof(*t));
	tcp_pair(fd);
	t->r[0].fd = t->r[1].fd = -1;
	for (int i = 0; i < 2; i++) {
		int r = rec_open(&t->r[i], &l, fd[i], tls ? ctx[i] : NULL, i, NULL);

		t->res[i] = r ? r : -EAGAIN;
		if (r < 0) {
			assert_int_equal(r, -ENOMEM);
			assert_true(oom_struck());
			close(fd[i]); /* it stayed ours */
		}
	}
	if (t->res[0] == -EAGAIN && t->res[1] == -EAGAIN)
		shake(t);
	for (int i = 0; i < 2; i++)
		if (t->res[i]) {
			assert_true(oom_struck());
			return false;
		}
	return true;
}

static void closed(struct two *t)
{
	for (int i = 0; i < 2; i++)
		rec_close(&t->r[i], true);
	assert_int_equal(buffered(), 0);
}

static bool fine(ssize_t r)
{
	assert_int_equal(buffered() >= 0, 1);
	if (r >= 0 || r == -EAGAIN)
		return true;
	assert_int_equal(r, -ENOMEM);
	assert_true(oom_struck());
	return false;
}

static size_t arrived;

static int count(void *arg, const uint8_t *p, size_t n)
{
	(void)arg, (void)p;
	arrived += n;
	return 0;
}

/* more than the socket takes, read in between: what waits and what is not yet whole both need memory */
static bool stream(struct two *t, size_t total)
{
	struct err e = {""};
	size_t sent = 0;
	struct timespec t0;

	arrived = 0;
	clock_gettime(CLOCK_MONOTONIC, &t0);
	(void)setsockopt(t->r[0].fd, SOL_SOCKET, SO_SNDBUF, &(int){20000}, sizeof(int));
	while (arrived < total) {
		int r = 0;

		t->r[0].writable = true;
		if (rec_blocked(&t->r[0])) {
			r = rec_flush(&t->r[0]);
		} else if (sent < total) {
			size_t n = min_u64(total - sent, 50000);

			memset(l.scratch.plain, 'x', n);
			r = rec_write(&t->r[0], n);
			sent += n;
		}
		if (!fine(r))
			return false;
		t->r[1].readable = true;
		if (!fine(rec_read(&t->r[1], count, NULL, &e)))
			return false;
		assert_true(ms_left(&t0) > 0);
	}
	assert_int_equal(arrived, total);
	return true;
}

static void plain_once(void)
{
	struct two t;

	if (opened(&t, false))
		(void)stream(&t, 300000);
	closed(&t);
}

static void bytes_without_tls(void **state)
{
	(void)state;
	spare_wolfssl = true;
	assert_true(oom_sweep(plain_once) >= 1);
}

static void tls_once(void)
{
	struct two t;

	if (opened(&t, true))
		(void)stream(&t, 300000);
	closed(&t);
}

static void bytes_in_records(void **state)
{
	(void)state;
	spare_wolfssl = true;
	assert_true(oom_sweep(tls_once) >= 2);
}

/* a KeyUpdate that has to be answered while the socket is full */
static void update_once(void)
{
	static const uint8_t update[5] = {HS_KEY_UPDATE, 0, 0, 1, 1};
	struct err e = {""};
	struct two t;

	if (!opened(&t, true))
		goto out;
	memset(l.scratch.plain, 'x', SCRATCH_PLAIN);
	while (!rec_blocked(&t.r[1]))
		if (!fine(rec_write(&t.r[1], SCRATCH_PLAIN)))
			goto out;
	w.n = 0;
	craft(&t.r[0], TYPE_HANDSHAKE, update, 5, 0);
	wire_send(&t.r[0]);
	for (int i = 0; i < 1000 && !t.r[1].keys->updates; i++) {
		ssize_t r = rec_read(&t.r[1], count, NULL, &e);

		if (!fine(r))
			goto out;
		if (r == -EAGAIN)
			usleep(1000);
	}
	assert_int_equal(buffered(), t.r[1].pend.len + t.r[1].part.len);
out:
	closed(&t);
}

static void an_update_with_a_full_socket(void **state)
{
	(void)state;
#if ADIT_WOLFSSL_PACKAGED
	skip();
#endif
	spare_wolfssl = true;
	assert_true(oom_sweep(update_once) >= 3);
}

static void ctx_once(void)
{
	struct cfg_identity id = certs_identity("node", AES128);
	struct err warn = {""}, e = {""};
	struct tls_ctx *t = NULL;
	int r = tls_ctx_create(&t, &id, &warn, &e);

	if (r < 0) {
		assert_true(oom_struck());
		assert_null(t);
		assert_string_not_equal(e.msg, "");
		return;
	}
	assert_string_equal(tls_ctx_id(t), "spiffe://cluster.local/ns/adit/sa/node");
	tls_ctx_put(t);
}

static void ctx_and_wolfssl_once(void)
{
	spare_wolfssl = false;
	ctx_once();
	spare_wolfssl = true;
}

static void an_identity_is_whole_or_not_there(void **state)
{
	(void)state;
	spare_wolfssl = true;
	assert_true(oom_sweep(ctx_once) >= 2);
	assert_true(oom_sweep(ctx_and_wolfssl_once) >= 100);
}

static int setup(void **state)
{
	struct cfg_identity id[2];

	if (record_setup(state))
		return -1;
	if (wolfSSL_SetAllocators(wolf_malloc, wolf_free, wolf_realloc))
		return -1;
	spare_wolfssl = true;
	id[0] = certs_identity("node", AES128);
	id[1] = certs_identity("b", AES128);
	for (int i = 0; i < 2; i++)
		ctx[i] = ctx_of(&id[i]);
	return 0;
}

static int teardown(void **state)
{
	spare_wolfssl = true;
	for (int i = 0; i < 2; i++)
		tls_ctx_put(ctx[i]);
	return record_teardown(state);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bytes_without_tls),
		cmocka_unit_test(bytes_in_records),
		cmocka_unit_test(an_update_with_a_full_socket),
		cmocka_unit_test(an_identity_is_whole_or_not_there),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
