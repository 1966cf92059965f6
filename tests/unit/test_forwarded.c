/* forwarded and traceparent of a CONNECT: what we write is read back, and what others write is read as the RFCs say. */
#include "../../daemon/codec/forwarded.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include "rand.h"

static struct addr addr_of(const char *text)
{
	struct addr a;

	assert_int_equal(addr_parse(text, strlen(text), &a, NULL), 0);
	return a;
}

static void source_addresses_are_written_as_hbone_peers_write_them(void **state)
{
	struct addr v4 = addr_of("10.0.0.3:41234"), v6 = addr_of("[2001:db8::3]:41234"), none = {.family = AF_UNSPEC};
	struct addr longest = addr_of("[2001:db80:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535");
	char out[FORWARDED_MAX];

	(void)state;
	assert_int_equal(forwarded_encode(out, &v4), strlen("for=\"10.0.0.3:41234\""));
	assert_string_equal(out, "for=\"10.0.0.3:41234\"");
	assert_int_equal(forwarded_encode(out, &v6), strlen("for=\"[2001:db8::3]:41234\""));
	assert_string_equal(out, "for=\"[2001:db8::3]:41234\"");
	forwarded_encode(out, &longest);
	assert_string_equal(out, "for=\"[2001:db80:aaaa:bbbb:cccc:dddd:eeee:ffff]:65535\"");
	assert_int_equal(forwarded_encode(out, &none), strlen("for=unknown"));
	assert_string_equal(out, "for=unknown");
}

static void the_first_literal_address_is_found(void **state)
{
	static const struct {
		const char *text, *addr;
	} ok[] = {
		{"for=\"10.0.0.3:41234\"", "10.0.0.3:41234"},
		{"for=\"10.0.0.3:41234\";host=echo.ns.svc.cluster.local", "10.0.0.3:41234"},
		{"for=192.0.2.60;proto=http;by=203.0.113.43", "192.0.2.60:0"}, /* the examples of RFC 7239 section 4 */
		{"For=\"[2001:db8:cafe::17]:4711\"", "[2001:db8:cafe::17]:4711"},
		{"for=192.0.2.43, for=198.51.100.17", "192.0.2.43:0"},
		{"for=192.0.2.43,for=\"[2001:db8:cafe::17]\",for=unknown", "192.0.2.43:0"},
		{"for=_hidden, for=_SEVKISEK, for=\"[2001:db8::1]\"", "[2001:db8::1]:0"},
		{"for=unknown, FOR=10.0.0.1", "10.0.0.1:0"},
		{"host=a;for=10.0.0.1", "10.0.0.1:0"},
		{"by=10.9.9.9;for=10.0.0.1", "10.0.0.1:0"},
		{"host=\"x,for=10.6.6.6;\";for=10.0.0.1", "10.0.0.1:0"}, /* quoted: not an element */
		{"host=\"a\\\",for=10.6.6.6\";for=10.0.0.1", "10.0.0.1:0"},
		{"for=\"10\\.0.0\\.1\"", "10.0.0.1:0"}, /* quoted-pair */
		{"for=10.0.0.1:99", "10.0.0.1:99"},	/* not a token, but written by some */
		{"for=\"10.0.0.1:_obf\"", "10.0.0.1:0"},
		{"for=\"10.0.0.1:70000\", for=10.0.0.2", "10.0.0.2:0"},
		{"for=\"2001:db8::1\", for=10.0.0.2", "10.0.0.2:0"}, /* IPv6 needs brackets */
		{"for=\"[10.0.0.1]\", for=10.0.0.2", "10.0.0.2:0"},
		{"for=\"[::1]x\", for=10.0.0.2", "10.0.0.2:0"},
		{"for=\"\", for=10.0.0.2", "10.0.0.2:0"},
		{" ,, for=10.0.0.1 ; , host=b", "10.0.0.1:0"},
		{"for=\"0000000000000000000000000000000000000000000000000000000000000000010.0.0.1\",for=10.0.0.2",
		 "10.0.0.2:0"},
		{"for=\"[::ffff:10.0.0.5]:7\"", "10.0.0.5:7"},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(ok) / sizeof(ok[0]); i++) {
		struct addr a;
		char text[ADDR_STR];

		if (forwarded_parse(ok[i].text, strlen(ok[i].text), &a) < 0)
			fail_msg("'%s' was refused", ok[i].text);
		assert_string_equal(addr_str(&a, text), ok[i].addr[0] ? ok[i].addr : "-");
	}
}

static void without_a_literal_address_nothing_is_touched(void **state)
{
	static const char *const bad[] = {
		"",
		",",
		";",
		"for",
		"for=",
		"for=unknown",
		"for=_x",
		"for=name.example",
		"for=\"10.0.0.1",
		"for=\"10.0.0.1\\",
		"for=\"10.0.0.1\\\"",
		"=10.0.0.1",
		"for =10.0.0.1",
		"for=\"10.0.0.1\"x",
		"for=10.0.0.1\"",
		"host=a b;for=10.0.0.1",
		"xfor=10.0.0.1",
		"for=[::1",
		"for=\"[::1\"",
		"for=:80",
		"for=\"[]:80\"",
		"for=10.0.0.1:",
		"for=10.0.0.1:1:2",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct addr a, before;

		memset(&a, 0x5a, sizeof(a));
		before = a;
		if (forwarded_parse(bad[i], strlen(bad[i]), &a) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		assert_memory_equal(&a, &before, sizeof(a));
	}
	assert_int_equal(forwarded_parse("for=10.0.0.1\0", 13, &(struct addr){0}), -EINVAL);
}

static void any_address_comes_back(void **state)
{
	struct rnd r;

	(void)state;
	r = rnd_start(__func__);
	for (int i = 0; i < 50000; i++) {
		struct addr a = {.family = rnd_below(&r, 2) ? AF_INET : AF_INET6, .port = (uint16_t)rnd_u64(&r)}, b;
		char out[FORWARDED_MAX], before[ADDR_STR], after[ADDR_STR];
		size_t n;

		for (int k = 0; k < (a.family == AF_INET ? 4 : 16); k++)
			a.ip[k] = rnd_below(&r, 3) ? (uint8_t)rnd_u64(&r) : 0;
		a.ip[0] = 0x20; /* not v4-mapped */
		n = forwarded_encode(out, &a);
		assert_int_equal(n, strlen(out));
		assert_int_equal(forwarded_parse(out, n, &b), 0);
		assert_string_equal(addr_str(&a, before), addr_str(&b, after));
	}
}

#define GOOD "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

static int trace(const char *s)
{
	struct traceparent t;

	return traceparent_parse(s, strlen(s), &t);
}

static void traceparent_is_read(void **state)
{
	struct traceparent t;

	(void)state;
	assert_int_equal(traceparent_parse(GOOD, TRACEPARENT_LEN, &t), 0);
	assert_string_equal(t.trace_id, "0af7651916cd43dd8448eb211c80319c");
	assert_string_equal(t.parent_id, "b7ad6b7169203331");
	assert_int_equal(t.flags, 1);
	assert_int_equal(trace("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-ff"), 0); /* a later version */
	assert_int_equal(trace("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what-comes-later"), 0);
}

static void malformed_traceparents_are_refused(void **state)
{
	char s[TRACEPARENT_LEN];
	struct traceparent t;

	(void)state;
	assert_int_equal(trace(""), -EINVAL);
	assert_int_equal(trace(GOOD "-x"), -EINVAL); /* version 00 is 55 characters */
	assert_int_equal(trace(GOOD " "), -EINVAL);
	assert_int_equal(trace("01-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01x"), -EINVAL);
	assert_int_equal(trace("ff-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"), -EINVAL);
	assert_int_equal(trace("00-00000000000000000000000000000000-b7ad6b7169203331-01"), -EINVAL);
	assert_int_equal(trace("00-0af7651916cd43dd8448eb211c80319c-0000000000000000-01"), -EINVAL);
	for (size_t i = 0; i < TRACEPARENT_LEN; i++) { /* lower-case hex and '-' in their places, nothing else */
		static const char wrong[] = {'A', 'g', ' ', '\0', '_', '/', ':', '`', '\x80'};

		memcpy(s, GOOD, sizeof(s));
		for (size_t k = 0; k < sizeof(wrong); k++) {
			s[i] = wrong[k];
			assert_int_equal(traceparent_parse(s, sizeof(s), &t), -EINVAL);
		}
		s[i] = GOOD[i] == '-' ? '0' : '-';
		assert_int_equal(traceparent_parse(s, sizeof(s), &t), -EINVAL);
		assert_int_equal(traceparent_parse(GOOD, i, &t), -EINVAL);
	}
}

static void traceparent_is_written_from_random_bytes(void **state)
{
	static const uint8_t rnd_bytes[24] = {0x0a, 0xf7, 0x65, 0x19, 0x16, 0xcd, 0x43, 0xdd, 0x84, 0x48, 0xeb, 0x21,
					      0x1c, 0x80, 0x31, 0x9c, 0xb7, 0xad, 0x6b, 0x71, 0x69, 0x20, 0x33, 0x31};
	static const uint8_t zero[24];
	char out[TRACEPARENT_LEN + 1];

	(void)state;
	traceparent_encode(out, rnd_bytes, 1);
	assert_string_equal(out, GOOD);
	traceparent_encode(out, zero, 0);
	assert_string_equal(out, "00-00000000000000000000000000000001-0000000000000001-00");
	assert_int_equal(trace(out), 0);
	traceparent_encode(out, rnd_bytes, 0xff);
	assert_int_equal(trace(out), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(source_addresses_are_written_as_hbone_peers_write_them),
		cmocka_unit_test(the_first_literal_address_is_found),
		cmocka_unit_test(without_a_literal_address_nothing_is_touched),
		cmocka_unit_test(any_address_comes_back),
		cmocka_unit_test(traceparent_is_read),
		cmocka_unit_test(malformed_traceparents_are_refused),
		cmocka_unit_test(traceparent_is_written_from_random_bytes),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
