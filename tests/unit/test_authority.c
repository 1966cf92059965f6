/* :authority of a CONNECT (row A31): every legal form, and nothing that two programs could read differently. */
#include "../../daemon/codec/authority.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include "rand.h"

static int parse(const char *s, struct authority *a)
{
	return authority_parse(s, strlen(s), a, NULL);
}

static void A31_the_three_forms_are_read(void **state)
{
	static const struct {
		const char *text, *host, *addr;
		uint16_t port;
	} ok[] = {
		{"10.0.0.7:8080", "10.0.0.7", "10.0.0.7:8080", 8080},
		{"[2001:db8::7]:8080", "2001:db8::7", "[2001:db8::7]:8080", 8080},
		{"[::]:1", "::", "[::]:1", 1},
		{"[::ffff:10.0.0.7]:80", "::ffff:10.0.0.7", "10.0.0.7:80", 80}, /* v4-mapped is IPv4 */
		{"echo.ns.svc.cluster.local:80", "echo.ns.svc.cluster.local", NULL, 80},
		{"echo.:65535", "echo.", NULL, 65535},
		{"a:1", "a", NULL, 1},
		{"_dns-sd.X-1:53", "_dns-sd.X-1", NULL, 53},
		{"1a.2b:80", "1a.2b", NULL, 80},
		{"10.0.0.7.nip.io:80", "10.0.0.7.nip.io", NULL, 80},
	};

	(void)state;
	for (size_t i = 0; i < sizeof(ok) / sizeof(ok[0]); i++) {
		struct authority a;
		char text[ADDR_STR];

		assert_int_equal(parse(ok[i].text, &a), 0);
		assert_int_equal(a.port, ok[i].port);
		assert_int_equal(a.host.n, strlen(ok[i].host));
		assert_memory_equal(a.host.p, ok[i].host, a.host.n);
		assert_true(a.host.p >= ok[i].text && a.host.p < ok[i].text + strlen(ok[i].text));
		if (ok[i].addr)
			assert_string_equal(addr_str(&a.addr, text), ok[i].addr);
		else
			assert_int_equal(a.addr.family, AF_UNSPEC);
	}
}

static void A31_malformed_authorities_are_refused(void **state)
{
	static const char *const bad[] = {
		"",
		":",
		":80",
		"host",
		"host:",
		"host:0",
		"host:65536",
		"host:99999",
		"host:100000",
		"host:080",
		"host:+80",
		"host:-1",
		"host: 80",
		"host:8x",
		"host:80 ",
		"host:80:90",
		"2001:db8::7:80",
		"[2001:db8::7]",
		"[2001:db8::7]80",
		"[2001:db8::7]:",
		"[2001:db8::7:80",
		"2001:db8::7]:80",
		"[]:80",
		"[10.0.0.7]:80",
		"[host]:80",
		"[fe80::1%eth0]:80",
		"[::1]]:80",
		"[[::1]]:80",
		"[::g]:80",
		"user@host:80",
		"host/path:80",
		"ho st:80",
		"host\t:80",
		".host:80",
		"a..b:80",
		"..:80",
		".:80",
		"host..:80",
		"h\xc3\xb6st:80",
		"host%41:80",
		"ho,st:80",
		"a\\b:80",
		/* numbers that a resolver would take for an address */
		"127.1:80",
		"127:80",
		"2130706433:80",
		"0x7f000001:80",
		"0x7f.1:80",
		"127.0.0.1.:80",
		"256.0.0.1:80",
		"1.2.3.4.5:80",
		"010.0.0.1:80",
		"a.0x:80",
		"host.1:80",
	};

	(void)state;
	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct authority a, untouched;
		struct err e = {{0}};

		memset(&a, 0x5a, sizeof(a));
		memset(&untouched, 0x5a, sizeof(untouched));
		if (authority_parse(bad[i], strlen(bad[i]), &a, &e) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
		assert_memory_equal(&a, &untouched, sizeof(a));
		assert_non_null(strstr(e.msg, "authority \""));
	}
}

static void bytes_that_are_no_text_are_refused(void **state)
{
	struct authority a;
	struct err e = {{0}};

	(void)state;
	assert_int_equal(authority_parse("ho\0st:80", 8, &a, &e), -EINVAL);
	assert_null(strchr(e.msg, '\n'));
	assert_int_equal(authority_parse("host:8\0", 7, &a, NULL), -EINVAL);
	assert_int_equal(authority_parse("host\r\n:80", 9, &a, &e), -EINVAL);
	assert_null(strchr(e.msg, '\n')); /* what the peer wrote is quoted */
	assert_int_equal(authority_parse(NULL, 0, &a, &e), -EINVAL);
}

static void lengths_are_bounded(void **state)
{
	char s[70000];
	struct authority a;

	(void)state;
	memset(s, 'a', sizeof(s));
	for (size_t i = 63; i < 256; i += 64)
		s[i] = '.';
	memcpy(s + 253, ":80", 3);
	assert_int_equal(authority_parse(s, 256, &a, NULL), 0);
	assert_int_equal(a.host.n, AUTHORITY_HOST_MAX);
	s[253] = 'a';
	memcpy(s + 254, ":80", 3);
	assert_int_equal(authority_parse(s, 257, &a, NULL), -EINVAL);
	memset(s, 'a', sizeof(s));
	memcpy(s + 63, ":80", 3);
	assert_int_equal(authority_parse(s, 66, &a, NULL), 0);
	memcpy(s + 63, "a:80", 4);
	assert_int_equal(authority_parse(s, 67, &a, NULL), -EINVAL);
	memcpy(s + sizeof(s) - 3, ":80", 3);
	assert_int_equal(authority_parse(s, sizeof(s), &a, NULL), -EINVAL);
}

/* What is accepted is what was written: host and port put together again give the input. */
static void accepted_text_has_one_spelling(void **state)
{
	static const char alphabet[] = "0123456789abfxX.:[]-_ %@\n";
	unsigned int accepted = 0;
	struct rnd r;

	(void)state;
	r = rnd_start(__func__);
	for (int i = 0; i < 300000; i++) {
		char s[32], again[64];
		size_t n = rnd_below(&r, 16);
		struct authority a;
		bool brackets;

		for (size_t k = 0; k < n; k++)
			s[k] = alphabet[rnd_below(&r, sizeof(alphabet) - 1)];
		memcpy(s + n, ":7", 2);
		n += rnd_below(&r, 4) ? 2 : 0;
		if (authority_parse(s, n, &a, NULL) < 0)
			continue;
		accepted++;
		brackets = memchr(a.host.p, ':', a.host.n) != NULL;
		snprintf(again, sizeof(again), "%s%.*s%s:%u", brackets ? "[" : "", (int)a.host.n, a.host.p,
			 brackets ? "]" : "", a.port);
		assert_int_equal(strlen(again), n);
		assert_memory_equal(again, s, n);
		assert_true(brackets ? a.addr.family != AF_UNSPEC : a.addr.family != AF_INET6);
	}
	assert_true(accepted > 100);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(A31_the_three_forms_are_read),
		cmocka_unit_test(A31_malformed_authorities_are_refused),
		cmocka_unit_test(bytes_that_are_no_text_are_refused),
		cmocka_unit_test(lengths_are_bounded),
		cmocka_unit_test(accepted_text_has_one_spelling),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
