/* The byte queue: against a naive model, and its promises about memory. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/base/buf.c"
#include "unit/rand.h"

static void memory_is_returned_when_empty(void **state)
{
	struct buf b = {0};

	(void)state;
	assert_int_equal(buf_append(&b, "hello", 5), 0);
	assert_non_null(b.data);
	buf_take(&b, 2);
	assert_non_null(b.data);
	assert_memory_equal(buf_at(&b), "llo", 3);
	buf_take(&b, 3);
	assert_null(b.data);
	assert_int_equal(b.cap, 0);
	buf_finish(&b);
}

static void room_that_stays_unused_is_returned(void **state)
{
	struct buf b = {0};

	(void)state;
	assert_non_null(buf_room(&b, 10000));
	buf_added(&b, 0);
	assert_null(b.data);
	assert_non_null(buf_room(&b, 0));
	buf_added(&b, 0);
	assert_null(b.data);
}

static void nothing_appended_allocates_nothing(void **state)
{
	struct buf b = {0};

	(void)state;
	assert_int_equal(buf_append(&b, NULL, 0), 0);
	assert_null(b.data);
	buf_finish(&b);
}

static void room_then_added_is_append(void **state)
{
	struct buf b = {0};

	(void)state;
	assert_int_equal(buf_append(&b, "ab", 2), 0);
	memcpy(buf_room(&b, 100), "cdef", 4);
	buf_added(&b, 4);
	assert_int_equal(b.len, 6);
	assert_memory_equal(buf_at(&b), "abcdef", 6);
	buf_finish(&b);
	assert_null(b.data);
}

static void what_waits_moves_to_the_front_instead_of_growing(void **state)
{
	struct buf b = {0};
	uint8_t *p = buf_room(&b, 1024);
	uint32_t cap = b.cap;

	(void)state;
	memset(p, 'a', cap);
	buf_added(&b, cap);
	buf_take(&b, cap - 10);
	assert_non_null(buf_room(&b, cap - 10));
	assert_int_equal(b.cap, cap);
	assert_int_equal(b.off, 0);
	assert_ptr_equal(b.data, p);
	buf_finish(&b);
}

static void what_cannot_fit_is_refused_and_nothing_appended(void **state)
{
	volatile size_t huge = SIZE_MAX, large = UINT32_MAX; /* volatile: or the compiler objects */
	struct buf b = {0};

	(void)state;
	assert_int_equal(buf_append(&b, "x", 1), 0);
	assert_int_equal(buf_append(&b, "y", huge), -ENOMEM);
	assert_int_equal(buf_append(&b, "y", large), -ENOMEM);
	assert_null(buf_room(&b, (size_t)BUF_MAX));
	assert_null(buf_room(&b, SIZE_MAX));
	assert_int_equal(b.len, 1);
	assert_memory_equal(buf_at(&b), "x", 1);
	buf_finish(&b);
}

static void a_queue_that_is_nibbled_at_is_not_copied_each_time(void **state)
{
	enum { BIG = 1 << 20, NIBBLE = 64 };
	static uint8_t bytes[BIG];
	struct buf b = {0};
	uint32_t moves = 0;

	(void)state;
	assert_int_equal(buf_append(&b, bytes, BIG), 0);
	for (int i = 0; i < 100000; i++) {
		uint32_t off;

		buf_take(&b, NIBBLE);
		off = b.off;
		assert_int_equal(buf_append(&b, bytes, NIBBLE), 0);
		moves += b.off < off;
	}
	assert_true(moves < 20);
	assert_true(b.cap <= 4 * BIG);
	buf_finish(&b);
}

static void behaves_as_a_plain_queue(void **state)
{
	enum { MAX = 1 << 18 };
	static uint8_t model[MAX], in[MAX];
	struct rnd r = rnd_start("buf against a model");
	size_t len = 0, high = 0;
	struct buf b = {0};

	(void)state;
	for (int step = 0; step < 20000; step++) {
		size_t n = rnd_below(&r, 1u << rnd_below(&r, 15));

		switch (rnd_below(&r, 4)) {
		case 0:
		case 1:
			if (n > MAX - len)
				break;
			for (size_t i = 0; i < n; i++)
				in[i] = (uint8_t)rnd_u64(&r);
			if (rnd_below(&r, 2)) {
				assert_int_equal(buf_append(&b, in, n), 0);
			} else {
				uint8_t *p = buf_room(&b, n + rnd_below(&r, 1000));

				assert_non_null(p);
				memcpy(p, in, n);
				buf_added(&b, n);
			}
			memcpy(model + len, in, n);
			len += n;
			break;
		case 2:
			n = n < len ? n : len;
			buf_take(&b, n);
			memmove(model, model + n, len - n);
			len -= n;
			break;
		case 3:
			if (rnd_below(&r, 50))
				break;
			buf_take(&b, len);
			len = high = 0;
			break;
		}
		if (len == 0)
			high = 0;
		high = len + 1000 > high ? len + 1000 : high;
		assert_int_equal(b.len, len);
		assert_true(b.cap <= 4 * high + BUF_MIN);
		assert_true(b.data || len == 0);
		if (len)
			assert_memory_equal(buf_at(&b), model, len);
	}
	buf_finish(&b);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(memory_is_returned_when_empty),
		cmocka_unit_test(room_that_stays_unused_is_returned),
		cmocka_unit_test(nothing_appended_allocates_nothing),
		cmocka_unit_test(room_then_added_is_append),
		cmocka_unit_test(what_waits_moves_to_the_front_instead_of_growing),
		cmocka_unit_test(what_cannot_fit_is_refused_and_nothing_appended),
		cmocka_unit_test(a_queue_that_is_nibbled_at_is_not_copied_each_time),
		cmocka_unit_test(behaves_as_a_plain_queue),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
