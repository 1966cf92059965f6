/* A PROXY header from any bytes: the verdict does not depend on what follows, no prefix of a header is one, and it can be written again. */
/* fuzz: -max_len=600 */
#include "codec/proxy.h"
#include <stdio.h>
#include <stdlib.h>

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static bool inside(struct slice s, const uint8_t *p, int n)
{
	return !s.p || (s.p >= (const char *)p && s.p + s.n <= (const char *)p + n);
}

static bool same(struct slice a, struct slice b)
{
	return a.n == b.n && (!a.n || !memcmp(a.p, b.p, a.n));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct proxy h, again;
	struct err e = {{0}};
	uint8_t out[PROXY_OUT_MAX];
	int n = proxy_decode(data, size, &h, &e);
	size_t k, len;

	if (n < 0) {
		check(e.msg[0] && !strpbrk(e.msg, "\r\n\x1b"), "a refusal has a reason");
		return 0;
	}
	for (k = 0; k < (n ? (size_t)n : size); k++)
		check(proxy_decode(data, k, &again, NULL) == 0, "the beginning of a header asks for more");
	if (!n)
		return 0;
	check((size_t)n <= size && n <= (int)PROXY_MAX && (h.version != 1 || n <= (int)PROXY_V1_MAX), "limits");
	check(proxy_decode(data, (size_t)n, &again, NULL) == n, "what follows does not matter");
	check(inside(h.principal, data, n) && inside(h.service, data, n), "slices lie in the header");
	check((h.src.family == AF_UNSPEC) == (h.dst.family == AF_UNSPEC), "both addresses or none");
	len = proxy_encode(out, &h);
	check(len <= sizeof(out) && proxy_decode(out, len, &again, NULL) == (int)len, "what is written can be read");
	check(again.version == h.version && addr_eq(&again.src, &h.src) && addr_eq(&again.dst, &h.dst), "round trip");
	if (h.version == 2 && h.src.family != AF_UNSPEC)
		check(same(again.principal, h.principal) && same(again.service, h.service), "round trip of TLVs");
	return 0;
}
