/* Every allocation of the lowest layers refused once: no crash, no leak, no half-done work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <errno.h>
#include <string.h>

#include "base/buf.h"
#include "base/ring.h"
#include "base/slab.h"
#include "base/text.h"
#include "obs/series.h"
#include "oom/oom.h"

static void buf_once(void)
{
	static const char bytes[1000];
	struct buf b = {0};
	uint32_t len = 0;

	for (int i = 0; i < 20; i++) {
		if (buf_append(&b, bytes, sizeof(bytes)) == 0)
			len += sizeof(bytes);
		else
			assert_true(oom_struck());
		if (buf_room(&b, 3000)) {
			buf_added(&b, 10);
			len += 10;
		} else {
			assert_true(oom_struck());
		}
		assert_int_equal(b.len, len); /* what did not fit left no trace */
	}
	if (len)
		buf_take(&b, len);
	assert_null(b.data);
	buf_finish(&b);
}

static void buf_survives(void **state)
{
	(void)state;
	assert_true(oom_sweep(buf_once) >= 5);
}

static void slab_once(void)
{
	struct slab s;
	void *p;

	slab_init(&s, 100, 1000);
	for (uint32_t i = 0; i < 300; i++) {
		uint32_t used = s.used;

		p = slab_alloc(&s);
		if (!p) {
			assert_true(oom_struck());
			assert_int_equal(s.used, used);
			continue;
		}
		assert_ptr_equal(slab_get(&s, ((struct slab_head *)p)->idx, ((struct slab_head *)p)->gen), p);
		if (i % 3 == 0)
			slab_free(&s, p);
	}
	slab_finish(&s);
}

static void slab_survives(void **state)
{
	(void)state;
	assert_true(oom_sweep(slab_once) >= 6);
}

static void ring_once(void)
{
	struct bytering b;
	struct ring r;

	if (ring_init(&r, 16) == 0)
		assert_true(ring_push(&r, &r));
	else
		assert_true(oom_struck());
	ring_finish(&r);
	if (bytering_init(&b, 1024) == 0)
		assert_non_null(bytering_reserve(&b, 100));
	else
		assert_true(oom_struck());
	bytering_finish(&b);
}

static void rings_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(ring_once) >= 2);
}

static void json_once(void)
{
	struct text t = {0};
	struct json j;

	json_init(&j, &t, true);
	json_open(&j, NULL, '{');
	json_open(&j, "list", '[');
	for (int i = 0; i < 300; i++) {
		json_open(&j, NULL, '{');
		json_str(&j, "name", "a \"name\"\n\xff");
		json_u64(&j, "n", (uint64_t)i);
		json_f(&j, "f", i / 10.0);
		json_close(&j, '}');
	}
	json_close(&j, ']');
	json_close(&j, '}');
	assert_int_equal(text_ok(&t), !oom_struck());
	if (text_ok(&t))
		assert_string_equal(t.s + t.len - 6, "\n  ]\n}");
	else if (t.s)
		assert_int_equal(strlen(t.s), t.len);
	text_finish(&t);
}

static void json_survives(void **state)
{
	(void)state;
	assert_true(oom_sweep(json_once) >= 5);
}

static void series_once(void)
{
	static const char *const names[] = {"a", "b", "c"};
	static struct series_table t;
	int r = series_init(&t);

	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_true(oom_struck());
		return;
	}
	for (int i = 0; i < 6; i++) {
		struct series_labels l = {.v = {[SL_DST_SERVICE] = names[i % 3]}};
		struct series *s = series_get(&t, &l);

		assert_non_null(s);
		if (s == t.list[0])
			assert_true(oom_struck());
		else
			assert_string_equal(s->v[SL_DST_SERVICE], names[i % 3]);
	}
	if (!oom_struck())
		assert_int_equal(t.n, 4);
	series_finish(&t);
}

static void series_survive(void **state)
{
	(void)state;
	assert_true(oom_sweep(series_once) >= 5);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(buf_survives),	 cmocka_unit_test(slab_survives),  cmocka_unit_test(rings_survive),
		cmocka_unit_test(json_survives), cmocka_unit_test(series_survive),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
