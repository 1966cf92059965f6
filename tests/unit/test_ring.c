/* The rings: alone, and between two threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <pthread.h>
#include <sched.h>

#include "daemon/base/ring.c"
#include "unit/rand.h"

static void sizes_must_be_powers_of_two(void **state)
{
	struct ring r;
	struct bytering b;

	(void)state;
	assert_int_equal(ring_init(&r, 0), -EINVAL);
	assert_int_equal(ring_init(&r, 3), -EINVAL);
	ring_finish(&r);
	assert_int_equal(bytering_init(&b, 0), -EINVAL);
	assert_int_equal(bytering_init(&b, 32), -EINVAL);
	assert_int_equal(bytering_init(&b, 100), -EINVAL);
	bytering_finish(&b);
}

static void items_come_in_order_and_full_is_refused(void **state)
{
	struct ring r;
	int x[10];

	(void)state;
	assert_int_equal(ring_init(&r, 4), 0);
	r.head = r.tail = UINT32_MAX - 1; /* they wrap within this test */
	for (int round = 0; round < 3; round++) {
		assert_null(ring_pop(&r));
		for (int i = 0; i < 4; i++)
			assert_true(ring_push(&r, &x[i]));
		assert_false(ring_push(&r, &x[4]));
		for (int i = 0; i < 4; i++)
			assert_ptr_equal(ring_pop(&r), &x[i]);
	}
	assert_null(ring_pop(&r));
	ring_finish(&r);
}

static void one_slot_is_enough(void **state)
{
	struct ring r;
	int x;

	(void)state;
	assert_int_equal(ring_init(&r, 1), 0);
	assert_true(ring_push(&r, &x));
	assert_false(ring_push(&r, &x));
	assert_ptr_equal(ring_pop(&r), &x);
	assert_null(ring_pop(&r));
	ring_finish(&r);
}

static void *ring_producer(void *arg)
{
	struct ring *r = arg;

	for (uintptr_t i = 1; i <= 200000; i++) {
		uintptr_t *item = malloc(sizeof(*item));

		*item = i;
		while (!ring_push(r, item))
			sched_yield();
	}
	return NULL;
}

static void ownership_moves_between_threads(void **state)
{
	uintptr_t want = 1, *item;
	struct ring r;
	pthread_t t;

	(void)state;
	assert_int_equal(ring_init(&r, 64), 0);
	assert_int_equal(pthread_create(&t, NULL, ring_producer, &r), 0);
	while (want <= 200000) {
		item = ring_pop(&r);
		if (!item) {
			sched_yield();
			continue;
		}
		assert_int_equal(*item, want);
		want++;
		free(item);
	}
	pthread_join(t, NULL);
	assert_null(ring_pop(&r));
	ring_finish(&r);
}

/* ---- bytes ---- */

static void records_come_back_whole_aligned_and_in_order(void **state)
{
	struct rnd rnd = rnd_start("byte ring, one thread");
	uint32_t in = 0, out = 0, n, dropped = 0;
	struct bytering r;

	(void)state;
	assert_int_equal(bytering_init(&r, 1024), 0);
	for (int step = 0; step < 100000; step++) {
		if (rnd_below(&rnd, 2)) {
			uint32_t len = 4 + (uint32_t)rnd_below(&rnd, 500);
			uint8_t *p = bytering_reserve(&r, len);

			if (!p) {
				dropped++;
				continue;
			}
			assert_int_equal((uintptr_t)p % 8, 0);
			assert_true(p >= r.mem && p + len <= r.mem + r.size);
			memset(p, (int)(in & 0xff), len);
			memcpy(p, &in, 4);
			bytering_commit(&r, len);
			in++;
		} else {
			const uint8_t *p = bytering_peek(&r, &n);
			uint32_t id;

			if (!p) {
				assert_int_equal(in, out);
				assert_int_equal(bytering_used(&r), 0);
				continue;
			}
			assert_ptr_equal(bytering_peek(&r, &n), p); /* until released */
			memcpy(&id, p, 4);
			assert_int_equal(id, out);
			for (uint32_t i = 4; i < n; i++)
				assert_int_equal(p[i], out & 0xff);
			bytering_release(&r);
			out++;
		}
	}
	assert_true(in > 10000);
	assert_int_equal(r.dropped, dropped);
	bytering_finish(&r);
}

static void half_of_the_ring_fits_at_every_position(void **state)
{
	struct bytering r;
	uint32_t n;

	(void)state;
	for (uint64_t at = 0; at < 64; at += 8) {
		assert_int_equal(bytering_init(&r, 64), 0);
		r.head = r.tail = at;
		assert_null(bytering_reserve(&r, 25));
		assert_null(bytering_reserve(&r, UINT32_MAX));
		assert_int_equal(r.dropped, 2);
		assert_non_null(bytering_reserve(&r, 24));
		bytering_commit(&r, 24);
		assert_non_null(bytering_peek(&r, &n));
		assert_int_equal(n, 24);
		bytering_release(&r);
		assert_null(bytering_peek(&r, &n));
		bytering_finish(&r);
	}
}

static void empty_records_are_records(void **state)
{
	struct bytering r;
	uint32_t n = 1;

	(void)state;
	assert_int_equal(bytering_init(&r, 64), 0);
	for (int i = 0; i < 8; i++) {
		assert_non_null(bytering_reserve(&r, 0));
		bytering_commit(&r, 0);
	}
	assert_int_equal(bytering_used(&r), 64);
	assert_null(bytering_reserve(&r, 0));
	for (int i = 0; i < 8; i++) {
		assert_non_null(bytering_peek(&r, &n));
		assert_int_equal(n, 0);
		bytering_release(&r);
	}
	assert_null(bytering_peek(&r, &n));
	bytering_finish(&r);
}

static void a_reservation_may_be_dropped(void **state)
{
	struct bytering r;
	uint32_t n;

	(void)state;
	assert_int_equal(bytering_init(&r, 64), 0);
	memcpy(bytering_reserve(&r, 20), "first", 5);
	assert_null(bytering_peek(&r, &n)); /* not committed */
	memcpy(bytering_reserve(&r, 7), "second", 7);
	bytering_commit(&r, 7);
	assert_string_equal(bytering_peek(&r, &n), "second");
	assert_int_equal(n, 7);
	bytering_finish(&r);
}

struct bytes_job {
	struct bytering r;
	struct rnd rnd;
	uint64_t sent;
	_Atomic bool done;
};

static void *bytes_producer(void *arg)
{
	struct bytes_job *j = arg;

	for (uint32_t i = 0; i < 200000; i++) {
		uint32_t n = 8 + (uint32_t)rnd_below(&j->rnd, 100) * 4;
		uint32_t *p = bytering_reserve(&j->r, n);

		if (!p) {
			sched_yield();
			continue;
		}
		for (uint32_t k = 0; k < n / 4; k++)
			p[k] = i;
		bytering_commit(&j->r, n);
		j->sent++;
	}
	atomic_store(&j->done, true);
	return NULL;
}

static void records_cross_threads_or_are_counted(void **state)
{
	static struct bytes_job j;
	uint64_t got = 0;
	int64_t last = -1;
	pthread_t t;

	(void)state;
	j.rnd = rnd_start("byte ring, two threads");
	assert_int_equal(bytering_init(&j.r, 4096), 0);
	assert_int_equal(pthread_create(&t, NULL, bytes_producer, &j), 0);
	for (;;) {
		bool done = atomic_load(&j.done);
		const uint32_t *p;
		uint32_t n;

		assert_true(bytering_used(&j.r) <= 4096);
		p = bytering_peek(&j.r, &n);
		if (!p) {
			if (done)
				break;
			sched_yield();
			continue;
		}
		assert_true((int64_t)p[0] > last);
		last = p[0];
		for (uint32_t k = 0; k < n / 4; k++)
			if (p[k] != p[0])
				fail();
		bytering_release(&j.r);
		got++;
	}
	pthread_join(t, NULL);
	assert_int_equal(got, j.sent);
	assert_int_equal(got + j.r.dropped, 200000);
	bytering_finish(&j.r);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(sizes_must_be_powers_of_two),
		cmocka_unit_test(items_come_in_order_and_full_is_refused),
		cmocka_unit_test(one_slot_is_enough),
		cmocka_unit_test(ownership_moves_between_threads),
		cmocka_unit_test(records_come_back_whole_aligned_and_in_order),
		cmocka_unit_test(half_of_the_ring_fits_at_every_position),
		cmocka_unit_test(empty_records_are_records),
		cmocka_unit_test(a_reservation_may_be_dropped),
		cmocka_unit_test(records_cross_threads_or_are_counted),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
