/* Live traces without a daemon: filters, what a worker writes, lines, secrets, and the ring between two threads. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <jansson.h>
#include <pthread.h>
#include <stdlib.h>
#include <time.h>

#include "../../daemon/loop/trace.c"
#include "../../daemon/obs/trace.c"
#include "unit/rand.h"

static struct loop l;
static struct tracer tracer;

static int setup(void **state)
{
	(void)state;
	memset(&l, 0, sizeof(l));
	memset(&tracer, 0, sizeof(tracer));
	l.now_us = 5;
	l.real_offset_us = 1767322984000000u;
	return bytering_init(&tracer.ring, TRACE_RING);
}

static int teardown(void **state)
{
	(void)state;
	bytering_finish(&tracer.ring);
	return 0;
}

static struct trace_filter filter(const char *conn, const char *peer, const char *listener, const char *level)
{
	struct trace_filter f;
	struct err e = {""};

	if (trace_parse(conn, peer, listener, level, &f, &e) < 0)
		fail_msg("%s", e.msg);
	return f;
}

static void refused(const char *conn, const char *peer, const char *listener, const char *level, const char *because)
{
	struct trace_filter f = {.by = 99};
	struct err e = {""};

	assert_int_equal(trace_parse(conn, peer, listener, level, &f, &e), -EINVAL);
	if (!strstr(e.msg, because))
		fail_msg("'%s', not '%s'", e.msg, because);
	assert_int_equal(f.by, 99);
}

static void what_to_follow_is_one_thing(void **state)
{
	char big[TRACE_NAME + 8];

	(void)state;
	assert_int_equal(filter("17", NULL, NULL, NULL).conn, 17);
	assert_int_equal(filter("17", NULL, NULL, "bytes").level, TL_BYTES);
	assert_int_equal(filter(NULL, "10.0.0.7", NULL, NULL).by, TRACE_BY_ADDR);
	assert_int_equal(filter(NULL, "[2001:db8::7]:80", NULL, NULL).addr.port, 80);
	assert_int_equal(filter(NULL, "spiffe://x.org/a", NULL, NULL).by, TRACE_BY_ID);
	assert_string_equal(filter(NULL, NULL, "in", "frames").text, "in");
	refused(NULL, NULL, NULL, NULL, "One of");
	refused("1", "10.0.0.7", NULL, NULL, "One of");
	refused("0", NULL, NULL, NULL, "want its id");
	refused("", NULL, NULL, NULL, "want its id");
	refused("1x", NULL, NULL, NULL, "want its id");
	refused("99999999999999999999999", NULL, NULL, NULL, "want its id");
	refused(NULL, "nobody", NULL, NULL, "want an address");
	refused(NULL, "", NULL, NULL, "want an address");
	refused(NULL, NULL, "", NULL, "want its name");
	refused("1", NULL, NULL, "all", "want events, frames or bytes");
	memset(big, 'a', sizeof(big) - 1);
	big[sizeof(big) - 1] = '\0';
	refused(NULL, big, NULL, NULL, "want an address");
	refused(NULL, NULL, big, NULL, "want its name");
}

static unsigned int drain(struct text *out, bool json)
{
	const struct trace_rec *r;
	unsigned int n = 0;
	uint32_t len;

	while ((r = bytering_peek(&tracer.ring, &len))) {
		(json ? trace_json : trace_line)(out, r);
		bytering_release(&tracer.ring);
		n++;
	}
	return n;
}

static void only_who_follows_and_only_its_level(void **state)
{
	struct trace_filter a = filter("17", NULL, NULL, NULL), b = filter(NULL, "10.0.0.7", NULL, "bytes");
	struct addr to = b.addr;
	struct text out = {0};

	(void)state;
	assert_int_equal(trace_by_conn(&l, 17), 0); /* nobody */
	trace_filter_set(&l, &tracer, 0, &a);
	trace_filter_set(&l, &tracer, 2, &b);
	assert_int_equal(l.tracing, 5);
	assert_int_equal(trace_by_conn(&l, 17), 1);
	assert_int_equal(trace_by_conn(&l, 18), 0);
	to.port = 99;
	assert_int_equal(trace_by_addr(&l, &to), 4);
	to.ip[3] = 8;
	assert_int_equal(trace_by_addr(&l, &to), 0);
	assert_int_equal(trace_by_id(&l, NULL), 0);
	assert_int_equal(trace_by_listener(&l, ""), 0);
	trace(&l, 0, TRACE_OPEN, TW(.conn = 1), "%s", (char *)NULL); /* not even evaluated */
	trace(&l, 1, TRACE_READ, TW(.conn = 17, .a = 3), "%s", "");	 /* not its level */
	trace(&l, 8, TRACE_OPEN, TW(.conn = 1), "stale mask");
	assert_int_equal(drain(&out, false), 0);
	trace(&l, 5, TRACE_OPEN, TW(.conn = 17), "both");
	trace(&l, 5, TRACE_READ, TW(.conn = 17, .a = 3), "%s", "");
	{
		const struct trace_rec *r;
		uint32_t n;

		r = bytering_peek(&tracer.ring, &n);
		assert_int_equal(r->traces, 5);
		bytering_release(&tracer.ring);
		r = bytering_peek(&tracer.ring, &n);
		assert_int_equal(r->traces, 4);
	}
	assert_int_equal(drain(&out, false), 1);
	trace_filter_set(&l, &tracer, 0, NULL);
	trace_filter_set(&l, &tracer, 2, NULL);
	assert_int_equal(l.tracing, 0);
	trace(&l, 5, TRACE_OPEN, TW(.conn = 17), "over");
	assert_int_equal(drain(&out, false), 0);
	text_finish(&out);
}

static void lines_say_it_all(void **state)
{
	struct trace_filter f = filter("17", NULL, NULL, "bytes");
	struct text out = {0};

	(void)state;
	l.worker = 3;
	trace_filter_set(&l, &tracer, 0, &f);
	trace(&l, 1, TRACE_OPEN, TW(.conn = 17), "from %s", "a\n\x1b[2Jb\x7f");
	trace(&l, 1, TRACE_FRAME, TW(.tunnel = 4, .stream = 5, .side = 1, .a = trace_frame(16384, 0, 9), .b = 70000), "%s", "");
	trace(&l, 1, TRACE_FRAME, TW(.tunnel = 4, .a = trace_frame(0, 4, 1)), "%s", "");
	trace(&l, 1, TRACE_FRAME, TW(.tunnel = 4, .stream = 5, .a = trace_frame(4, 3, 0), .b = 8), "%s", "");
	trace(&l, 1, TRACE_FRAME, TW(.tunnel = 4, .a = trace_frame(9, 200, 0xd2)), "%s", "");
	trace(&l, 1, TRACE_WRITE, TW(.conn = 17, .side = 1, .a = 512), "by splice");
	assert_int_equal(drain(&out, false), 6);
	assert_string_equal(out.s, "03:03:04.000005 conn 17 open from a\\x0a\\x1b[2Jb\\x7f\n"
				   "03:03:04.000005 tunnel 3.4 frame sent DATA END_STREAM|PADDED, 16384 bytes, stream 5, window 70000\n"
				   "03:03:04.000005 tunnel 3.4 frame received SETTINGS ACK, 0 bytes\n"
				   "03:03:04.000005 tunnel 3.4 frame received RST_STREAM, 4 bytes, stream 5, code 8\n"
				   "03:03:04.000005 tunnel 3.4 frame received type 200 0xd2, 9 bytes\n"
				   "03:03:04.000005 conn 17 write destination 512 bytes by splice\n");
	text_finish(&out);
}

static void any_record_is_one_json_object(void **state)
{
	struct trace_filter f = filter("17", NULL, NULL, "bytes");
	struct rnd r = rnd_start("trace lines");
	json_error_t e;

	(void)state;
	trace_filter_set(&l, &tracer, 0, &f);
	for (int i = 0; i < 3000; i++) {
		struct text out = {0}, line = {0};
		char text[2000];
		size_t n = rnd_below(&r, sizeof(text));
		json_t *o;

		for (size_t k = 0; k < n; k++)
			text[k] = (char)rnd_u64(&r);
		trace(&l, 1, (enum trace_kind)rnd_below(&r, TRACE_KINDS_N),
		      TW(.conn = rnd_u64(&r) >> 1, .tunnel = (uint32_t)rnd_u64(&r), .stream = (uint32_t)rnd_u64(&r), .side = i & 1, .a = rnd_u64(&r) >> 1,
			 .b = rnd_u64(&r) >> 1),
		      "%.*s", (int)n, text);
		{
			uint32_t len;
			const struct trace_rec *rec = bytering_peek(&tracer.ring, &len);

			assert_non_null(rec);
			assert_true(rec->len < TRACE_TEXT);
			trace_json(&out, rec);
			trace_line(&line, rec);
			bytering_release(&tracer.ring);
		}
		assert_ptr_equal(strchr(out.s, '\n'), out.s + out.len - 1);
		assert_ptr_equal(strchr(line.s, '\n'), line.s + line.len - 1);
		o = json_loads(out.s, JSON_REJECT_DUPLICATES, &e);
		if (!o)
			fail_msg("%s: %s", e.text, out.s);
		json_decref(o);
		text_finish(&out);
		text_finish(&line);
	}
}

static void secrets_are_left_out(void **state)
{
	static const struct header h[] = {
		{{":method", 7}, {"CONNECT", 7}},
		{{"authorization", 13}, {"Bearer hush", 11}},
		{{"X-Api-Key", 9}, {"hush", 4}},
		{{"set-cookie", 10}, {"hush=1", 6}},
		{{"baggage", 7}, {"k8s.namespace.name=n,my.Token=hush,password=hush,a=b", 51}},
		{{"x-team", 6}, {"blue", 4}},
	};
	char out[512], small[24];

	(void)state;
	trace_headers(out, sizeof(out), h, ARRAY_LEN(h));
	assert_null(strstr(out, "hush"));
	assert_string_equal(out, ":method: CONNECT, authorization: [redacted], X-Api-Key: [redacted], set-cookie: [redacted], "
				 "baggage: k8s.namespace.name=n,my.Token=[redacted],password=[redacted],a=, x-team: blue");
	for (size_t n = 1; n <= sizeof(small); n++) {
		trace_headers(small, n, h, ARRAY_LEN(h));
		assert_true(strlen(small) < n);
		assert_memory_equal(small, out, strlen(small));
	}
	trace_headers(out, sizeof(out), NULL, 0);
	assert_string_equal(out, "");
}

#define MANY 200000u

static void *reads(void *arg)
{
	uint64_t *sum = arg, last = 0;
	const struct trace_rec *r;
	uint32_t n;

	for (;;) {
		r = bytering_peek(&tracer.ring, &n);
		if (!r) {
			struct timespec ts = {.tv_nsec = 100000};

			nanosleep(&ts, NULL);
			continue;
		}
		assert_true(r->what.a > last); /* in order */
		last = r->what.a;
		assert_int_equal(n, sizeof(*r) + r->len);
		if (r->kind == TRACE_END) {
			bytering_release(&tracer.ring);
			return NULL;
		}
		assert_int_equal(r->text[0], 'x');
		*sum += 1;
		bytering_release(&tracer.ring);
	}
}

static void two_threads_lose_nothing_uncounted(void **state)
{
	struct trace_filter f = filter("17", NULL, NULL, "bytes");
	uint64_t got = 0, dropped;
	pthread_t t;

	(void)state;
	trace_filter_set(&l, &tracer, 0, &f);
	assert_int_equal(pthread_create(&t, NULL, reads, &got), 0);
	for (uint64_t i = 1; i <= MANY; i++)
		trace(&l, 1, TRACE_READ, TW(.conn = 17, .a = i), "x%.*s", (int)(i % 50), "..................................................");
	dropped = tracer.ring.dropped;
	for (uint64_t before = dropped;; before = tracer.ring.dropped) {
		trace(&l, 1, TRACE_END, TW(.a = MANY + 1), "x");
		if (tracer.ring.dropped == before)
			break;
		sched_yield();
	}
	pthread_join(t, NULL);
	assert_int_equal(got + dropped, MANY);
	print_message("%llu of %u dropped\n", (unsigned long long)dropped, MANY);
}

/* what it costs when nobody looks: printed, and far from what would be felt */
static void nobody_looking_costs_a_branch(void **state)
{
	struct timespec a, b;
	volatile uint8_t watch = 0;
	uint64_t ns;

	(void)state;
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (uint32_t i = 0; i < 100000000u; i++)
		trace(&l, watch, TRACE_READ, TW(.conn = i, .a = i), "%s", "");
	clock_gettime(CLOCK_MONOTONIC, &b);
	ns = (uint64_t)(b.tv_sec - a.tv_sec) * 1000000000u + (uint64_t)b.tv_nsec - (uint64_t)a.tv_nsec;
	print_message("%.2f ns per trace point, the loop around it included\n", (double)ns / 1e8);
	assert_true(ns < 100000000ull * 50);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(what_to_follow_is_one_thing),	      T(only_who_follows_and_only_its_level), T(lines_say_it_all),
		T(any_record_is_one_json_object),     T(secrets_are_left_out),		      T(two_threads_lose_nothing_uncounted),
		T(nobody_looking_costs_a_branch),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
