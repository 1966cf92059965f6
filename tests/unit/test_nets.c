/* Networks with exceptions, as the kernel's trie will see them: by the longest prefix alone. Checked against the plain reading. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/kern/nets.c"
#include "unit/rand.h"

static struct cidr cidr(const char *s)
{
	struct cidr c;
	struct err e = {""};

	if (cidr_parse(s, strlen(s), &c, &e) < 0)
		fail_msg("%s: %s", s, e.msg);
	return c;
}

/* as the kernel does it: the entry with the longest prefix, then its ports */
static bool takes(const struct net_entry *e, uint32_t n, const struct addr *a)
{
	const struct net_entry *best = NULL;
	struct net_entry at = {.family = a->family, .bits = a->family == AF_INET ? 32 : 128};

	memcpy(at.addr, a->ip, sizeof(at.addr));
	for (uint32_t i = 0; i < n; i++)
		if (contains(&e[i], &at) && (!best || e[i].bits > best->bits))
			best = &e[i];
	for (uint32_t i = 0; best && i < best->ports.n; i++)
		if (a->port >= best->ports.range[i].first && a->port <= best->ports.range[i].last)
			return true;
	return false;
}

static bool any(const struct cidr *c, uint32_t n, const struct addr *a)
{
	for (uint32_t i = 0; i < n; i++)
		if (cidr_has(&c[i], a))
			return true;
	return false;
}

static struct addr addr(const char *s)
{
	struct addr a;

	assert_int_equal(addr_parse(s, strlen(s), &a, NULL), 0);
	return a;
}

static void longer_nets_repeat_what_shorter_ones_say(void **state)
{
	const struct cidr to[] = {cidr("10.0.0.0/8:80-90"), cidr("10.1.0.0/16:443"), cidr("10.1.1.1")};
	const struct cidr except[] = {cidr("10.1.0.0/24"), cidr("10.0.0.0/8:85"), cidr("10.1.1.1:22")};
	static const struct {
		const char *at;
		bool in;
	} want[] = {
		{"10.9.9.9:80", true},	{"10.9.9.9:85", false},	{"10.9.9.9:443", false}, {"10.1.2.3:443", true}, {"10.1.2.3:90", true},
		{"10.1.2.3:85", false},	{"10.1.0.7:80", false},	{"10.1.1.1:9999", true}, {"10.1.1.1:22", false}, {"11.0.0.1:80", false},
		{"[fd00::1]:80", false},
	};
	struct net_entry *e;
	uint32_t n;

	(void)state;
	assert_int_equal(nets_build(to, ARRAY_LEN(to), except, ARRAY_LEN(except), &e, &n, NULL), 0);
	assert_int_equal(n, 4);
	for (size_t i = 0; i < ARRAY_LEN(want); i++) {
		struct addr a = addr(want[i].at);

		if (takes(e, n, &a) != want[i].in)
			fail_msg("%s", want[i].at);
	}
	free(e);
}

static void everything_is_not_this_node(void **state)
{
	static const char *const in[] = {"1.2.3.4:1", "255.255.255.255:65535", "[2001:db8::1]:80", "126.255.255.255:1"};
	static const char *const out[] = {"127.0.0.1:80", "127.255.255.255:80", "[::1]:80", "[fe80::1]:80"};
	struct net_entry *e;
	uint32_t n;

	(void)state;
	assert_int_equal(nets_build(NULL, 0, NULL, 0, &e, &n, NULL), 0);
	for (size_t i = 0; i < ARRAY_LEN(in); i++) {
		struct addr a = addr(in[i]), b = addr(out[i]);

		assert_true(takes(e, n, &a));
		assert_false(takes(e, n, &b));
	}
	free(e);
	const struct cidr star = cidr("*");
	assert_int_equal(nets_build(&star, 1, NULL, 0, &e, &n, NULL), 0);
	struct addr a = addr("127.0.0.1:80");
	assert_true(takes(e, n, &a)); /* who names it means it */
	free(e);
}

static void too_many_pieces_are_refused(void **state)
{
	struct cidr to[ADIT_NET_RANGES + 1];
	struct err e = {""};
	struct net_entry *out = NULL;
	uint32_t n;

	(void)state;
	for (uint16_t i = 0; i < ARRAY_LEN(to); i++) {
		to[i] = cidr("10.0.0.0/8");
		to[i].port_first = to[i].port_last = (uint16_t)(100 + 2 * i);
	}
	assert_int_equal(nets_build(to, ADIT_NET_RANGES, NULL, 0, &out, &n, &e), 0);
	free(out);
	assert_int_equal(nets_build(to, ADIT_NET_RANGES + 1, NULL, 0, &out, &n, &e), -E2BIG);
	assert_non_null(strstr(e.msg, "10.0.0.0/8"));
}

static struct cidr random_cidr(struct rnd *r)
{
	static const uint8_t bits[] = {0, 1, 7, 8, 9, 15, 16, 24, 31, 32};
	bool six = (uint32_t)rnd_below(r, 4) == 0;
	struct cidr c = {.net.family = six ? AF_INET6 : AF_INET, .bits = bits[(uint32_t)rnd_below(r, ARRAY_LEN(bits))]};

	for (uint32_t i = 0; i < c.bits; i++)
		if ((uint32_t)rnd_below(r, 4) == 0)
			c.net.ip[i / 8] |= (uint8_t)(0x80 >> (i & 7));
	if ((uint32_t)rnd_below(r, 2)) {
		c.port_first = (uint16_t)(1 + (uint32_t)rnd_below(r, 6));
		c.port_last = (uint16_t)(c.port_first + (uint32_t)rnd_below(r, 4));
	}
	return c;
}

/* an address near one of the networks */
static struct addr random_addr(struct rnd *r, const struct cidr *c)
{
	struct addr a = c->net;
	uint32_t i = (uint32_t)rnd_below(r, 40);

	if (i < 32)
		a.ip[i / 8] ^= (uint8_t)(0x80 >> (i & 7));
	a.port = (uint16_t)(1 + (uint32_t)rnd_below(r, 12));
	return a;
}

static void random_nets_mean_what_they_say(void **state)
{
	struct rnd r = rnd_start("nets");

	(void)state;
	for (int round = 0; round < 400; round++) {
		struct cidr to[12], except[12];
		uint32_t n_to = 1 + (uint32_t)rnd_below(&r, 12), n_except = (uint32_t)rnd_below(&r, 12), n;
		struct net_entry *e;

		for (uint32_t i = 0; i < 12; i++) {
			to[i] = random_cidr(&r);
			except[i] = random_cidr(&r);
		}
		if (nets_build(to, n_to, except, n_except, &e, &n, NULL) < 0)
			continue; /* too many pieces */
		for (int i = 0; i < 200; i++) {
			struct addr a = random_addr(&r, (uint32_t)rnd_below(&r, 2) ? &to[(uint32_t)rnd_below(&r, n_to)] : &except[(uint32_t)rnd_below(&r, 12)]);

			if (takes(e, n, &a) != (any(to, n_to, &a) && !any(except, n_except, &a)))
				fail_msg("round %d, try %d", round, i);
		}
		free(e);
	}
}

static void a_bit_for_each_port(void **state)
{
	static const struct cfg_ports ports[] = {{80, 80}, {1000, 2000}, {65535, 65535}}, except[] = {{1500, 1600}};
	static uint8_t bits[ADIT_PORTS];

	(void)state;
	ports_bits(ports, 3, except, 1, bits);
	for (uint32_t p = 0; p < 65536; p++) {
		bool want = p == 80 || (p >= 1000 && p <= 2000 && !(p >= 1500 && p <= 1600)) || p == 65535;

		assert_int_equal(!!(bits[p >> 3] & 1 << (p & 7)), want);
	}
	ports_bits(NULL, 0, except, 1, bits);
	assert_int_equal(bits[0], 0xff);
	assert_int_equal(bits[1504 >> 3], 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(longer_nets_repeat_what_shorter_ones_say),
		cmocka_unit_test(everything_is_not_this_node),
		cmocka_unit_test(too_many_pieces_are_refused),
		cmocka_unit_test(random_nets_mean_what_they_say),
		cmocka_unit_test(a_bit_for_each_port),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
