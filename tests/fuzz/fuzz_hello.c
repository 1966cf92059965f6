/* A TLS hello from any bytes: the verdict does not depend on what comes later, a name lies within, and pieces do not change it. */
/* fuzz: -max_len=2000 */
#include "codec/hello.h"
#include <stdio.h>
#include <stdlib.h>

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static int ask(const uint8_t *data, size_t n, uint8_t *room, struct slice *ret)
{
	struct err e = {{0}};
	int r;

	memcpy(room, data, n);
	r = hello_server_name(room, n, ret, &e);
	check(r >= 0 || (e.msg[0] && !strpbrk(e.msg, "\r\n\x1b")), "a refusal has a reason");
	return r;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint8_t *a = malloc(size + 1), *b = malloc(size + 1);
	struct slice s = {NULL, 0}, t = {NULL, 0};
	int r;

	if (!a || !b)
		abort();
	r = ask(data, size, a, &s);
	if (r == 1) {
		check(!s.n || (s.n <= HELLO_NAME_MAX && s.p >= (char *)a && s.p + s.n <= (char *)a + size), "a name lies within");
		for (size_t k = 0; k < size; k++)
			check(ask(data, k, b, &t) != 1 || (t.n == s.n && (!s.n || !memcmp(t.p, s.p, s.n))), "what follows does not change the name");
	} else if (r == 0) {
		for (size_t k = 0; k < size; k++)
			check(ask(data, k, b, &t) == 0, "what asks for more did so before");
	}
	free(a);
	free(b);
	return 0;
}
