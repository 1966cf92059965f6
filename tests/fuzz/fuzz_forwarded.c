/* forwarded and traceparent from any bytes: an address that was read is written and read again as the same. */
/* fuzz: -max_len=512 */
#include "codec/forwarded.h"
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
	struct traceparent t;
	struct addr a, b;
	char out[FORWARDED_MAX];
	size_t n;

	memset(&a, 0, sizeof(a));
	if (forwarded_parse(s, size, &a) == 0) {
		check(a.family == AF_INET || a.family == AF_INET6, "literal addresses only");
		n = forwarded_encode(out, &a);
		check(n == strlen(out) && forwarded_parse(out, n, &b) == 0 && addr_eq(&a, &b), "round trip");
	} else {
		check(a.family == AF_UNSPEC, "untouched when refused");
	}
	if (traceparent_parse(s, size, &t) == 0) {
		check(size >= TRACEPARENT_LEN && strlen(t.trace_id) == 32 && strlen(t.parent_id) == 16,
		      "ids are whole");
		check(strspn(t.trace_id, "0123456789abcdef") == 32 && strspn(t.trace_id, "0") < 32,
		      "ids are hex, not zero");
	}
	if (size >= 25) {
		traceparent_encode(out, data, data[24]);
		check(strlen(out) == TRACEPARENT_LEN && traceparent_parse(out, TRACEPARENT_LEN, &t) == 0 &&
			      t.flags == data[24],
		      "what is written can be read");
	}
	return 0;
}
