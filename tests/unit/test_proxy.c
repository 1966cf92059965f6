/* PROXY protocol: what others write is read as the document says, what we write is read back, all else is refused at its first byte. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/codec/proxy.c"
#include "base/clean.h"
#include <stdlib.h>
#include "rand.h"

static const uint8_t *bytes(const char *s)
{
	return (const uint8_t *)s;
}

static int decode(const char *s, size_t n, struct proxy *h)
{
	struct err e = { "" };
	int r = proxy_decode(bytes(s), n, h, &e);

	assert_true((r < 0) == (e.msg[0] != '\0'));
	return r;
}

static void is_addr(const struct addr *a, const char *text)
{
	char s[ADDR_STR];

	assert_string_equal(addr_str(a, s), text);
}

/* ---- version 1 ---- */

static void lines_of_version_1(void **state)
{
	static const struct {
		const char *line, *src, *dst;
	} ok[] = {
		{ "PROXY TCP4 192.168.0.1 192.168.0.11 56324 443\r\n", "192.168.0.1:56324", "192.168.0.11:443" },
		{ "PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n", "255.255.255.255:65535", "255.255.255.255:65535" },
		{ "PROXY TCP4 10.0.0.1 10.0.0.2 0 1\r\n", "10.0.0.1:0", "10.0.0.2:1" },
		{ "PROXY TCP6 2001:db8::1 2001:db8::2 4000 80\r\n", "[2001:db8::1]:4000", "[2001:db8::2]:80" },
		{ "PROXY TCP6 ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff 65535 65535\r\n",
		  "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535", "[ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff]:65535" },
		{ "PROXY TCP6 ::ffff:10.0.0.1 ::ffff:10.0.0.2 4000 80\r\n", "10.0.0.1:4000", "10.0.0.2:80" },
		{ "PROXY UNKNOWN\r\n", "-", "-" },
		{ "PROXY UNKNOWN ffff:f...f:ffff ffff:f...f:ffff 65535 65535\r\n", "-", "-" },
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(ok); i++) {
		struct proxy h;
		char more[256];
		int n = snprintf(more, sizeof(more), "%sGET / HTTP/1.1\r\n", ok[i].line);

		assert_int_equal(decode(more, (size_t)n, &h), strlen(ok[i].line));
		assert_int_equal(h.version, 1);
		is_addr(&h.src, ok[i].src);
		is_addr(&h.dst, ok[i].dst);
		assert_null(h.principal.p);
		assert_null(h.service.p);
	}
}

static void other_lines_are_refused(void **state)
{
	static const char *const no[] = {
		"GET / HTTP/1.1\r\n",
		"PROXY\r\n",
		"PROXY \r\n",
		"PROXY TCP\r\n",
		"PROXY  TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
		"proxy TCP4 10.0.0.1 10.0.0.2 1 2\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 \r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2 3\r\n",
		"PROXY TCP4 10.0.0.1  10.0.0.2 1 2\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 01 2\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 65536 2\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 +1 2\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 -2\r\n",
		"PROXY TCP4 010.0.0.1 10.0.0.2 1 2\r\n",
		"PROXY TCP4 10.0.1 10.0.0.2 1 2\r\n",
		"PROXY TCP4 ::1 ::1 1 2\r\n",
		"PROXY TCP6 10.0.0.1 10.0.0.2 1 2\r\n",
		"PROXY TCP6 [::1] ::1 1 2\r\n",
		"PROXY TCP6 fe80::1%lo ::1 1 2\r\n",
		"PROXY UDP4 10.0.0.1 10.0.0.2 1 2\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1 2\r\r\n",
		"PROXY TCP4 10.0.0.1 10.0.0.2 1\t2\r\n",
		"PROXY UNKNOWN\n",
		"PROXY UNKNOWNS\r\n",
	};
	struct proxy h = { .version = 9 };
	char line[200];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(no); i++)
		if (decode(no[i], strlen(no[i]), &h) >= 0)
			fail_msg("taken: %s", no[i]);
	assert_int_equal(h.version, 9);
	memset(line, 'x', sizeof(line));
	memcpy(line, "PROXY UNKNOWN ", 14);
	memcpy(line + PROXY_V1_MAX - 2, "\r\n", 2);
	assert_int_equal(decode(line, sizeof(line), &h), PROXY_V1_MAX);
	memset(line + PROXY_V1_MAX - 2, 'x', 2);
	assert_int_equal(decode(line, PROXY_V1_MAX - 1, &h), 0);
	assert_int_equal(decode(line, PROXY_V1_MAX, &h), -EINVAL);
	memcpy(line + PROXY_V1_MAX - 1, "\r\n", 2);
	assert_int_equal(decode(line, PROXY_V1_MAX + 1, &h), -EINVAL);
}

/* ---- version 2 ---- */

#define SIG "\r\n\r\n\0\r\nQUIT\n"
#define BYTES(lit) (lit), sizeof(lit) - 1

static void blocks_of_version_2(void **state)
{
	struct proxy h;

	(void)state;
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x0c\x0a\0\0\1\x0a\0\0\2\x9c\x40\0\x50more"), &h), 28);
	assert_int_equal(h.version, 2);
	is_addr(&h.src, "10.0.0.1:40000");
	is_addr(&h.dst, "10.0.0.2:80");
	assert_int_equal(decode(BYTES(SIG "\x21\x21\0\x24\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\1\x20\1\x0d\xb8\0\0\0\0\0\0\0\0\0\0\0\2"
					  "\x9c\x40\0\x50"), &h), 52);
	is_addr(&h.src, "[2001:db8::1]:40000");
	is_addr(&h.dst, "[2001:db8::2]:80");
	assert_int_equal(decode(BYTES(SIG "\x21\x21\0\x24\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\1\0\0\0\0\0\0\0\0\0\0\xff\xff\x0a\0\0\2"
					  "\x9c\x40\0\x50"), &h), 52);
	is_addr(&h.src, "10.0.0.1:40000"); /* mapped IPv4 is IPv4 */
	is_addr(&h.dst, "10.0.0.2:80");
}

static void without_addresses_for_tcp_the_sockets_hold(void **state)
{
	struct proxy h;
	char unix_[V2_HEAD + UNIX_LEN] = SIG "\x21\x31\0\xd8/run/app.sock";

	(void)state;
	assert_int_equal(decode(BYTES(SIG "\x20\0\0\0"), &h), 16);
	assert_int_equal(h.src.family, AF_UNSPEC);
	assert_int_equal(decode(BYTES(SIG "\x20\x11\0\x0c\x0a\0\0\1\x0a\0\0\2\x9c\x40\0\x50"), &h), 28); /* LOCAL: to be ignored */
	assert_int_equal(h.src.family, AF_UNSPEC);
	assert_int_equal(decode(BYTES(SIG "\x20\x77\0\1\0"), &h), 17);
	assert_int_equal(decode(BYTES(SIG "\x21\0\0\3abc"), &h), 19);
	assert_int_equal(h.src.family, AF_UNSPEC);
	assert_int_equal(decode(BYTES(SIG "\x21\x12\0\x0c\x0a\0\0\1\x0a\0\0\2\x9c\x40\0\x50"), &h), 28); /* UDP */
	assert_int_equal(h.src.family, AF_UNSPEC);
	assert_int_equal(decode(unix_, sizeof(unix_), &h), sizeof(unix_));
	assert_int_equal(h.src.family, AF_UNSPEC);
}

static void other_blocks_are_refused(void **state)
{
	struct proxy h;

	(void)state;
	assert_int_equal(decode(BYTES("\r\n\r\n\0\r\nQUIX"), &h), -EINVAL);
	assert_int_equal(decode(BYTES(SIG "\x11"), &h), -EINVAL); /* version 1 in a binary header */
	assert_int_equal(decode(BYTES(SIG "\x22"), &h), -EINVAL); /* command */
	assert_int_equal(decode(BYTES(SIG "\x21\x41"), &h), -EINVAL);
	assert_int_equal(decode(BYTES(SIG "\x21\x10"), &h), -EINVAL);
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x0b\x0a\0\0\1\x0a\0\0\2\x9c\x40\0"), &h), -EINVAL);
	assert_int_equal(decode(BYTES(SIG "\x21\x21\0\x0c\x0a\0\0\1\x0a\0\0\2\x9c\x40\0\x50"), &h), -EINVAL);
	assert_int_equal(decode(BYTES(SIG "\x21\x11\x40\0"), &h), -EINVAL); /* too long, said before it is there */
	assert_int_equal(decode(BYTES(SIG "\x21\x11\x3f\xf0"), &h), 0);
}

#define TCP4 "\x0a\0\0\1\x0a\0\0\2\x9c\x40\0\x50"

static void tlvs_say_principal_and_service(void **state)
{
	struct proxy h;

	(void)state;
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x2a" TCP4 "\xd0\0\x10spiffe://td/a/b1" "\x04\0\0" "\xd1\0\5a.b-c"), &h), 58);
	assert_true(slice_is(h.principal, "spiffe://td/a/b1"));
	assert_true(slice_is(h.service, "a.b-c"));
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x12" TCP4 "\xea\0\3xyz"), &h), 34); /* unknown: skipped */
	assert_null(h.principal.p);
}

static void tlvs_that_are_wrong_are_refused(void **state)
{
	struct proxy h;

	(void)state;
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x0e" TCP4 "\4\0"), &h), -EINVAL);		   /* cut */
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x0f" TCP4 "\4\0\1"), &h), -EINVAL);	   /* beyond the header */
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x12" TCP4 "\xd0\0\3abc"), &h), -EINVAL);	   /* no SPIFFE id */
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x0f" TCP4 "\xd1\0\0"), &h), -EINVAL);	   /* no host */
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x12" TCP4 "\xd1\0\3a\nb"), &h), -EINVAL);
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x14" TCP4 "\xd1\0\1a\xd1\0\1b"), &h), -EINVAL); /* twice: which? */
	assert_int_equal(decode(BYTES(SIG "\x21\x11\0\x11" TCP4 "\3\0\2ab"), &h), -EINVAL);	   /* checksum of two bytes */
}

static void the_checksum_must_be_right(void **state)
{
	static const uint8_t digits[] = "123456789";
	char b[] = SIG "\x21\x11\0\x13" TCP4 "\3\0\4\0\0\0";
	struct proxy h;
	uint32_t c;

	(void)state;
	assert_int_equal(~crc32c(UINT32_MAX, digits, 9), 0xe3069283u); /* the check value of CRC-32C */
	c = ~crc32c(UINT32_MAX, bytes(b), sizeof(b)); /* the array's final NUL is the checksum's last byte */
	for (int i = 0; i < 4; i++)
		b[sizeof(b) - 4 + (size_t)i] = (char)(c >> (24 - 8 * i));
	assert_int_equal(decode(b, sizeof(b), &h), sizeof(b));
	b[20] ^= 1; /* an address */
	assert_int_equal(decode(b, sizeof(b), &h), -EINVAL);
}

/* ---- both ---- */

static struct addr random_addr(struct rnd *r)
{
	struct addr a = { .family = rnd_below(r, 2) ? AF_INET : AF_INET6, .port = (uint16_t)rnd_u64(r) };

	if (!rnd_below(r, 16))
		return (struct addr){ 0 };
	for (int i = 0; i < (a.family == AF_INET ? 4 : 16); i++)
		a.ip[i] = (uint8_t)rnd_u64(r);
	return a;
}

static struct slice random_text(struct rnd *r, char *out, size_t max, const char *begin)
{
	size_t n = strlen(begin), len = n + 1 + rnd_below(r, max - n);

	if (!rnd_below(r, 4))
		return (struct slice){ NULL, 0 };
	memcpy(out, begin, n);
	for (; n < len; n++)
		out[n] = (char)('a' + rnd_below(r, 26));
	return (struct slice){ out, len };
}

static bool same(struct slice a, struct slice b)
{
	return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n));
}

/* what is encoded is decoded, from every cut: more bytes are asked for until the last one is there, and none behind is touched */
static void what_is_written_is_read(void **state)
{
	struct rnd r = rnd_start("proxy");
	char id[SPIFFE_MAX], host[PROXY_SERVICE_MAX];
	uint8_t out[2 * PROXY_OUT_MAX];
	struct proxy h, got;

	(void)state;
	for (int i = 0; i < 3000; i++) {
		bool known;
		size_t n;

		h = (struct proxy){ .version = (uint8_t)(1 + rnd_below(&r, 2)), .src = random_addr(&r), .dst = random_addr(&r) };
		h.principal = random_text(&r, id, i % 50 ? 100 : sizeof(id), "spiffe://cluster.local/");
		h.service = random_text(&r, host, sizeof(host), "");
		known = h.src.family && h.dst.family;
		n = proxy_encode(out, &h);
		assert_true(n <= PROXY_OUT_MAX && (h.version == 2 || n <= PROXY_V1_MAX));
		memset(out + n, 'x', 8);
		for (size_t k = 0; k < n; k += 1 + (n > 300 && k > 60 ? rnd_below(&r, 97) : 0))
			assert_int_equal(proxy_decode(out, k, &got, NULL), 0);
		assert_int_equal(proxy_decode(out, n + 8, &got, NULL), n);
		assert_int_equal(got.version, h.version);
		assert_true(known ? addr_eq(&got.src, &h.src) && addr_eq(&got.dst, &h.dst) : !got.src.family && !got.dst.family);
		if (h.version == 2 && known)
			assert_true(same(got.principal, h.principal) && same(got.service, h.service));
		else
			assert_true(!got.principal.p && !got.service.p);
	}
}

static void too_long_tlvs_are_left_out(void **state)
{
	char id[SPIFFE_MAX + 1], host[PROXY_SERVICE_MAX + 1];
	struct proxy h = { .version = 2, .principal = { id, sizeof(id) }, .service = { host, sizeof(host) } };
	uint8_t out[PROXY_OUT_MAX];

	(void)state;
	h.src.family = h.dst.family = AF_INET;
	assert_int_equal(proxy_encode(out, &h), 28);
}

/* a client that speaks another protocol is found out by its first byte, not waited for */
static void other_protocols_are_refused_by_their_first_byte(void **state)
{
	struct proxy h;

	(void)state;
	for (int c = 0; c < 256; c++) {
		char b = (char)c;

		assert_int_equal(decode(&b, 1, &h), b == 'P' || b == '\r' ? 0 : -EINVAL);
	}
	assert_int_equal(decode("", 0, &h), 0);
	assert_int_equal(decode(BYTES("PRI * HTTP/2.0"), &h), -EINVAL);
	assert_int_equal(decode(BYTES("\r\nGET"), &h), -EINVAL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(lines_of_version_1),
		cmocka_unit_test(other_lines_are_refused),
		cmocka_unit_test(blocks_of_version_2),
		cmocka_unit_test(without_addresses_for_tcp_the_sockets_hold),
		cmocka_unit_test(other_blocks_are_refused),
		cmocka_unit_test(tlvs_say_principal_and_service),
		cmocka_unit_test(tlvs_that_are_wrong_are_refused),
		cmocka_unit_test(the_checksum_must_be_right),
		cmocka_unit_test(what_is_written_is_read),
		cmocka_unit_test(too_long_tlvs_are_left_out),
		cmocka_unit_test(other_protocols_are_refused_by_their_first_byte),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
