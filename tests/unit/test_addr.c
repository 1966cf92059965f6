/* Addresses and CIDRs: what is read, what is refused, and that what is written reads back. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>
#include <stdlib.h>

#include "daemon/model/addr.c"
#include "unit/rand.h"

static struct addr parsed(const char *s)
{
	struct addr a;
	struct err e = {0};

	if (addr_parse(s, strlen(s), &a, &e) < 0)
		fail_msg("%s", e.msg);
	return a;
}

static void addresses_are_read_and_written(void **state)
{
	static const char *const rows[][2] = {
		{"10.0.0.7:80", "10.0.0.7:80"},
		{"0.0.0.0:0", "0.0.0.0:0"},
		{"255.255.255.255:65535", "255.255.255.255:65535"},
		{"[::]:15008", "[::]:15008"},
		{"[2001:db8::7]:80", "[2001:db8::7]:80"},
		{"[2001:DB8:0:0:0:0:0:7]:80", "[2001:db8::7]:80"},
		{"[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535"},
		{"[::ffff:10.0.0.7]:80", "10.0.0.7:80"}, /* v4-mapped is IPv4 */
		{"[::ffff:a00:7]:80", "10.0.0.7:80"},
	};
	char s[ADDR_STR];

	(void)state;
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct addr a = parsed(rows[i][0]);

		assert_string_equal(addr_str(&a, s), rows[i][1]);
	}
	assert_int_equal(parsed("10.0.0.7:80").port, 80);
}

static void wrong_addresses_are_refused_with_a_sentence(void **state)
{
	static const char *const rows[] = {
		"",
		":",
		":80",
		"10.0.0.7",
		"10.0.0.7:",
		"10.0.0.7:x",
		"10.0.0.7:+80",
		"10.0.0.7: 80",
		"10.0.0.7:65536",
		"10.0.0.7:000080",
		"10.0.0:80",
		"10.0.0.256:80",
		"010.0.0.7:80",
		" 10.0.0.7:80",
		"localhost:80",
		"2001:db8::7:80",
		"[2001:db8::7]",
		"[2001:db8::7]80",
		"[2001:db8::7:80",
		"[2001:db8::g]:80",
		"[fe80::1%eth0]:80",
		"[10.0.0.7]:80",
		"[]:80",
		"[[::1]]:80",
		"unix:/run/x",
	};
	static const struct addr untouched = {.family = 99};

	(void)state;
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct addr a = untouched;
		struct err e = {0};

		if (addr_parse(rows[i], strlen(rows[i]), &a, &e) != -EINVAL)
			fail_msg("accepted: %s", rows[i]);
		assert_memory_equal(&a, &untouched, sizeof(a));
		assert_non_null(strstr(e.msg, "want "));
		assert_int_equal(addr_parse(rows[i], strlen(rows[i]), &a, NULL), -EINVAL);
	}
}

static void length_counts_not_the_nul(void **state)
{
	struct addr a;
	struct err e = {0};
	char s[ADDR_STR];

	(void)state;
	assert_int_equal(addr_parse("10.0.0.7:8080", 12, &a, &e), 0);
	assert_string_equal(addr_str(&a, s), "10.0.0.7:808");
	assert_int_equal(addr_parse("10.0.0.7\0x:80", 13, &a, &e), -EINVAL);
	assert_int_equal(addr_parse("10.0.0.7:8\0", 11, &a, &e), -EINVAL);
}

static void bare_ips_are_read_and_written(void **state)
{
	struct addr a;
	struct err e = {0};
	char s[ADDR_STR];

	(void)state;
	assert_int_equal(addr_parse_ip("10.0.0.7", 8, &a, &e), 0);
	assert_int_equal(a.port, 0);
	assert_string_equal(addr_ip_str(&a, s), "10.0.0.7");
	assert_int_equal(addr_parse_ip("2001:db8::7", 11, &a, &e), 0);
	assert_string_equal(addr_ip_str(&a, s), "2001:db8::7");
	assert_int_equal(addr_parse_ip("::ffff:10.0.0.7", 15, &a, &e), 0);
	assert_int_equal(a.family, AF_INET);
	assert_int_equal(addr_parse_ip("[::1]", 5, &a, &e), -EINVAL);
	assert_int_equal(addr_parse_ip("10.0.0.7:80", 11, &a, &e), -EINVAL);
	assert_int_equal(addr_parse_ip("", 0, &a, &e), -EINVAL);
}

static void text_of_a_peer_is_quoted_and_cut_in_the_sentence(void **state)
{
	struct addr a;
	struct err e = {0};
	char big[1000];

	(void)state;
	memset(big, 'x', sizeof(big));
	big[1] = '\n';
	assert_int_equal(addr_parse(big, sizeof(big), &a, &e), -EINVAL);
	assert_null(strchr(e.msg, '\n'));
	assert_true(strlen(e.msg) < 150);
}

static void none_is_a_dash(void **state)
{
	struct addr a = {.family = AF_UNSPEC};
	struct sockaddr_storage ss;
	char s[ADDR_STR];

	(void)state;
	assert_string_equal(addr_str(&a, s), "-");
	assert_string_equal(addr_ip_str(&a, s), "-");
	assert_int_equal(addr_to_sa(&a, &ss), 0);
}

static void addresses_are_equal_with_their_ports(void **state)
{
	struct addr a = parsed("10.0.0.7:80"), b = parsed("10.0.0.7:81"), c = parsed("[::ffff:10.0.0.7]:80"),
		    d = parsed("[a00:7::]:80"), none = {0};

	(void)state;
	assert_false(addr_eq(&a, &b));
	assert_true(addr_eq(&a, &c));
	assert_memory_equal(&a, &c, sizeof(a)); /* one form: may be hashed */
	assert_false(addr_eq(&a, &d));
	assert_false(addr_eq(&a, &none));
	assert_true(addr_eq(&none, &none));
}

static void sockaddrs_round_trip(void **state)
{
	static const char *const rows[] = {"10.0.0.7:80", "[2001:db8::7]:65535", "0.0.0.0:0", "[::]:1"};
	struct sockaddr_un un = {.sun_family = AF_UNIX};
	struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(80)};
	struct sockaddr_storage ss;
	struct addr b;
	char s[ADDR_STR];

	(void)state;
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct addr a = parsed(rows[i]);
		socklen_t len = addr_to_sa(&a, &ss);

		assert_int_equal(len, a.family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6));
		addr_from_sa((struct sockaddr *)&ss, &b);
		assert_true(addr_eq(&a, &b));
	}
	inet_pton(AF_INET6, "::ffff:10.0.0.7", &in6.sin6_addr); /* as accept() on a dual-stack socket reports it */
	addr_from_sa((struct sockaddr *)&in6, &b);
	assert_string_equal(addr_str(&b, s), "10.0.0.7:80");
	addr_from_sa((struct sockaddr *)&un, &b);
	assert_int_equal(b.family, AF_UNSPEC);
}

static struct cidr cidr(const char *s)
{
	struct cidr c;
	struct err e = {0};

	if (cidr_parse(s, strlen(s), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static void cidrs_contain_what_they_say(void **state)
{
	static const struct {
		const char *cidr, *addr;
		bool in;
	} rows[] = {
		{"10.0.0.0/8", "10.255.1.2:1", true},
		{"10.0.0.0/8", "11.0.0.0:1", false},
		{"10.0.0.7", "10.0.0.7:1", true},
		{"10.0.0.7", "10.0.0.6:1", false},
		{"10.0.0.7/32", "10.0.0.7:1", true},
		{"10.0.0.4/30", "10.0.0.7:1", true},
		{"10.0.0.4/30", "10.0.0.8:1", false},
		{"128.0.0.0/1", "255.0.0.0:1", true},
		{"128.0.0.0/1", "127.0.0.0:1", false},
		{"0.0.0.0/0", "1.2.3.4:1", true},
		{"0.0.0.0/0", "[::1]:1", false},
		{"::/0", "[::1]:1", true},
		{"::/0", "1.2.3.4:1", false},
		{"2001:db8::/33", "[2001:db8:7fff::1]:1", true},
		{"2001:db8::/33", "[2001:db8:8000::1]:1", false},
		{"2001:db8::7", "[2001:db8::7]:1", true},
		{"2001:db8::7/128", "[2001:db8::6]:1", false},
		{"::ffff:10.0.0.0/104", "10.1.2.3:1", true}, /* v4-mapped is IPv4, in rules too */
		{"::ffff:0.0.0.0/96", "10.1.2.3:1", true},
		{"*", "1.2.3.4:1", true},
		{"*", "[::1]:1", true},
		{"*:80", "[::1]:80", true},
		{"*:80", "[::1]:81", false},
		{"10.0.0.0/8:80", "10.1.1.1:80", true},
		{"10.0.0.0/8:80", "10.1.1.1:81", false},
		{"10.0.0.0/8:80-90", "10.1.1.1:90", true},
		{"10.0.0.0/8:80-90", "10.1.1.1:91", false},
		{"10.0.0.0/8:80-90", "10.1.1.1:79", false},
		{"10.0.0.7:80", "10.0.0.7:80", true},
		{"[2001:db8::/32]:443", "[2001:db8::1]:443", true},
		{"[2001:db8::/32]:443", "[2001:db8::1]:444", false},
		{"[2001:db8::1]:443-444", "[2001:db8::1]:444", true},
		{"[2001:db8::/32]", "[2001:db8::1]:1", true},
		{"*:1-65535", "1.2.3.4:0", false},
	};
	struct addr none = {0};

	(void)state;
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct cidr c = cidr(rows[i].cidr);
		struct addr a = parsed(rows[i].addr);

		if (cidr_has(&c, &a) != rows[i].in)
			fail_msg("%s %s", rows[i].cidr, rows[i].addr);
		assert_false(cidr_has(&c, &none));
	}
}

static void wrong_cidrs_are_refused_with_a_sentence(void **state)
{
	static const char *const rows[] = {
		"",
		"/",
		"10.0.0.0/",
		"10.0.0.0/33",
		"10.0.0.0/-1",
		"10.0.0.0/8/8",
		"10.0.0/8",
		"::/129",
		"10.0.0.0/8:",
		"10.0.0.0/8:0",
		"10.0.0.0/8:90-80",
		"10.0.0.0/8:80-",
		"10.0.0.0/8:-80",
		"10.0.0.0/8:1-65536",
		"[::/0",
		"[::/0]x",
		"[10.0.0.0/8]:80",
		"**",
		"*/8",
		"[*]:80",
		"::ffff:0:0/95",
		"::ffff:10.0.0.0/95",
		"10.0.0.0/ 8",
		":80",
	};
	static const struct cidr untouched = {.bits = 99};

	(void)state;
	for (unsigned int i = 0; i < sizeof(rows) / sizeof(rows[0]); i++) {
		struct cidr c = untouched;
		struct err e = {0};

		if (cidr_parse(rows[i], strlen(rows[i]), &c, &e) != -EINVAL)
			fail_msg("accepted: %s", rows[i]);
		assert_memory_equal(&c, &untouched, sizeof(c));
		assert_non_null(strstr(e.msg, "want "));
	}
}

static void host_bits_are_a_mistake_and_the_sentence_helps(void **state)
{
	struct cidr c;
	struct err e = {0};

	(void)state;
	assert_int_equal(cidr_parse("10.0.0.7/8", 10, &c, &e), -EINVAL);
	assert_string_equal(e.msg, "\"10.0.0.7/8\": want 10.0.0.0/8, or /32 for one address");
	assert_int_equal(cidr_parse("[2001:db8::7/33]:80", 19, &c, &e), -EINVAL);
	assert_string_equal(e.msg, "\"2001:db8::7/33\": want 2001:db8::/33, or /128 for one address");
}

/* bit by bit */
static bool in_model(const struct addr *net, unsigned int bits, const struct addr *a)
{
	for (unsigned int i = 0; i < bits; i++)
		if ((net->ip[i / 8] ^ a->ip[i / 8]) & (0x80 >> i % 8))
			return false;
	return net->family == a->family;
}

static void random_addresses_round_trip_and_match(void **state)
{
	struct rnd r = rnd_start("addresses");

	(void)state;
	for (int i = 0; i < 20000; i++) {
		bool v6 = rnd_below(&r, 2);
		struct addr a = {.family = v6 ? AF_INET6 : AF_INET, .port = (uint16_t)rnd_u64(&r)}, b;
		unsigned int full = v6 ? 128 : 32, bits = (unsigned int)rnd_below(&r, full + 1), flip;
		char s[ADDR_STR], text[ADDR_STR + 8];
		struct cidr c;

		for (unsigned int k = 0; k < full / 8; k++)
			a.ip[k] = rnd_below(&r, 3) ? (uint8_t)rnd_u64(&r) : 0;
		addr_str(&a, s);
		b = parsed(s);
		assert_true(addr_eq(&a, &b));

		b = a;
		for (unsigned int k = bits; k < full; k++)
			b.ip[k / 8] &= (uint8_t) ~(0x80 >> k % 8);
		snprintf(text, sizeof(text), "%s/%u", addr_ip_str(&b, s), bits);
		c = cidr(text);
		assert_true(cidr_has(&c, &a));
		flip = (unsigned int)rnd_below(&r, full);
		a.ip[flip / 8] ^= (uint8_t)(0x80 >> flip % 8);
		assert_int_equal(cidr_has(&c, &a), in_model(&b, bits, &a));
	}
}

static void any_bytes_are_read_or_refused(void **state)
{
	static const char alphabet[] = "0123456789abf.:[]/-*";
	struct rnd r = rnd_start("address garbage");

	(void)state;
	for (int i = 0; i < 200000; i++) {
		size_t n = rnd_below(&r, 24);
		char *s = malloc(n + 1); /* exact, so that reading on is seen */
		struct addr a;
		struct cidr c;
		struct err e = {0};

		s = realloc(s, n ? n : 1);
		for (size_t k = 0; k < n; k++)
			s[k] = rnd_below(&r, 50) ? alphabet[rnd_below(&r, sizeof(alphabet) - 1)] : (char)rnd_u64(&r);
		addr_parse(s, n, &a, &e);
		addr_parse_ip(s, n, &a, &e);
		if (cidr_parse(s, n, &c, &e) == 0) {
			assert_true(c.bits <= 128);
			assert_true(c.port_first <= c.port_last);
		}
		free(s);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(addresses_are_read_and_written),
		cmocka_unit_test(wrong_addresses_are_refused_with_a_sentence),
		cmocka_unit_test(length_counts_not_the_nul),
		cmocka_unit_test(bare_ips_are_read_and_written),
		cmocka_unit_test(text_of_a_peer_is_quoted_and_cut_in_the_sentence),
		cmocka_unit_test(none_is_a_dash),
		cmocka_unit_test(addresses_are_equal_with_their_ports),
		cmocka_unit_test(sockaddrs_round_trip),
		cmocka_unit_test(cidrs_contain_what_they_say),
		cmocka_unit_test(wrong_cidrs_are_refused_with_a_sentence),
		cmocka_unit_test(host_bits_are_a_mistake_and_the_sentence_helps),
		cmocka_unit_test(random_addresses_round_trip_and_match),
		cmocka_unit_test(any_bytes_are_read_or_refused),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
