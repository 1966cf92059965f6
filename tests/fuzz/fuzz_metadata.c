/*
 * Metadata of a CONNECT from any bytes. Records end with 0xff; the first byte says what they are:
 *	b baggage, p x-envoy-peer-metadata, s the same from the bytes of its Struct, i x-envoy-peer-metadata-id, h name=value
 * The first record's place is taken by two bytes: limits of text (16 bytes each) and of members.
 * A block must hold together, be the same when built again, and what it says must come through our own encoders.
 */
/* fuzz: -max_len=4096 */
#include "../../daemon/codec/peer_metadata.c"
#include "codec/metadata.h"
#include <stdio.h>

#define RECORDS 32

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static bool printable(const char *s)
{
	for (; *s; s++)
		if ((uint8_t)*s < 0x20 || *s == 0x7f)
			return false;
	return true;
}

static void check_block(const struct metadata *m, const struct metadata_limits *lim)
{
	uint32_t len = m->size - (uint32_t)sizeof(*m), pos = 0, at = 1;
	static uint8_t starts[65536];
	const char *k, *v;
	unsigned int n = 0;

	check(len >= 1 && (len == 1 || len <= lim->bytes) && !m->text[0] && !m->text[len - 1], "text is bounded");
	while (metadata_each(m, &pos, &k, &v)) {
		check(k == m->text + at && *k && printable(k) && printable(v), "pairs are text, one behind the other");
		starts[v - m->text] = 1;
		at = pos;
		n++;
	}
	check(at == len && n == m->n && n <= lim->members, "pairs are counted");
	for (unsigned int i = 0; i < MD_KNOWN; i++)
		check(!m->known[i] || (starts[m->known[i]] && m->text[m->known[i]]), "known members are values");
	for (pos = 0; metadata_each(m, &pos, &k, &v);)
		starts[v - m->text] = 0;
}

static void say_again(const struct metadata *m)
{
	static const struct metadata_limits lim = {60000, 64};
	struct metadata_self self = {.node_id = NULL};
	char *baggage, *peer;
	struct header h[2];
	struct metadata *again;
	int err;

	for (unsigned int i = 0; i < MD_KNOWN; i++)
		self.known[i] = metadata_known(m, i);
	if (!self.known[MD_WORKLOAD_TYPE])
		self.known[MD_WORKLOAD_TYPE] = "pod";
	baggage = baggage_encode(&self);
	peer = peer_metadata_encode(&self, NULL);
	check(baggage && peer && strlen(baggage) <= 8192, "encoders encode");
	h[0] = (struct header){SLICE("baggage"), {baggage, strlen(baggage)}};
	h[1] = (struct header){SLICE("x-envoy-peer-metadata"), {peer, strlen(peer)}};
	again = metadata_build(h, 2, &lim, &err);
	for (unsigned int i = 0; i < MD_IDENTITY;
	     i++) { /* the identity is said only to those who can take it as UTF-8 */
		const char *a = metadata_known(m, i), *b = metadata_known(again, i);

		if (a && i != MD_WORKLOAD_TYPE)
			check(b && !strcmp(a, b), "what is said is heard");
	}
	metadata_put(again);
	free(baggage);
	free(peer);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct metadata_limits lim;
	struct header h[RECORDS];
	char *own[RECORDS] = {NULL};
	struct metadata *m, *again;
	size_t n = 0;
	int err;

	if (size < 2)
		return 0;
	lim = (struct metadata_limits){.bytes = data[0] * 16u, .members = data[1]};
	data += 2;
	size -= 2;
	while (size && n < RECORDS) {
		const uint8_t *end = memchr(data, 0xff, size), *eq;
		size_t len = end ? (size_t)(end - data) : size;
		struct slice s = {(const char *)data + 1, len ? len - 1 : 0};

		switch (len ? data[0] : 0) {
		case 'b': h[n++] = (struct header){SLICE("baggage"), s}; break;
		case 'p': h[n++] = (struct header){SLICE("x-envoy-peer-metadata"), s}; break;
		case 'i': h[n++] = (struct header){SLICE("x-envoy-peer-metadata-id"), s}; break;
		case 's':
			own[n] = malloc(base64_len(s.n) + 1);
			base64_encode(own[n], (const uint8_t *)s.p, s.n);
			h[n] = (struct header){SLICE("x-envoy-peer-metadata"), {own[n], base64_len(s.n)}};
			n++;
			break;
		case 'h':
			eq = memchr(s.p, '=', s.n);
			if (eq) {
				size_t name = (size_t)((const char *)eq - s.p);

				h[n++] = (struct header){{s.p, name}, {s.p + name + 1, s.n - name - 1}};
			}
			break;
		}
		len += end != NULL;
		data += len;
		size -= len;
	}
	m = metadata_build(h, n, &lim, &err);
	check(err == 0, "memory is there");
	if (m) {
		check_block(m, &lim);
		again = metadata_build(h, n, &lim, &err);
		check(metadata_eq(m, again), "the same headers make the same block");
		metadata_put(again);
		say_again(m);
		metadata_put(m);
	}
	while (n)
		free(own[--n]);
	return 0;
}
