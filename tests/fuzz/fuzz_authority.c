/* :authority from any bytes: what is accepted has exactly one spelling, and a number at its end is an address. */
/* fuzz: -max_len=320 */
#include "codec/authority.h"
#include <stdio.h>
#include <stdlib.h>

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const char *s = (const char *)data;
	struct authority a;
	struct err e = {{0}};
	char again[512];
	bool v6;
	int n;

	if (authority_parse(s, size, &a, &e) < 0) {
		check(e.msg[0] && !strpbrk(e.msg, "\r\n\x1b"), "a refusal has a reason, and the text in it is quoted");
		return 0;
	}
	check(a.port && a.host.n && a.host.n <= AUTHORITY_HOST_MAX, "host and port are there");
	check(a.host.p >= s && a.host.p + a.host.n <= s + size, "the host lies in the input");
	v6 = memchr(a.host.p, ':', a.host.n) != NULL;
	n = snprintf(again, sizeof(again), v6 ? "[%.*s]:%u" : "%.*s:%u", (int)a.host.n, a.host.p, a.port);
	check((size_t)n == size && !memcmp(again, s, size), "one spelling");
	check(a.addr.family == AF_UNSPEC || a.addr.port == a.port, "the address has the port");
	check(v6 == (a.addr.family == AF_INET6) || a.addr.family == AF_INET, "brackets hold IPv6");
	return 0;
}
