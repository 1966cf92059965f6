/* What a peer says of itself in CONNECT headers (rows A11, A13): kept, bounded, and never more than it said. */
#include "../../daemon/codec/metadata.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <cmocka.h>
#include "rand.h"

#define H(name, text)                          \
	{                                      \
		{name, sizeof(name) - 1},      \
		{                              \
			text, sizeof(text) - 1 \
		}                              \
	}

static const struct metadata_limits usual = {.bytes = 8192, .members = 64};

static struct header header_of(const char *name, const char *value)
{
	return (struct header){{name, strlen(name)}, {value, strlen(value)}};
}

/* Whatever was built holds together. */
static void check_block(const struct metadata *m, const struct metadata_limits *lim)
{
	uint32_t len = m->size - (uint32_t)sizeof(*m), pos = 0, end = 1;
	const char *k, *v;
	bool starts[TEXT_MAX + 1] = {false};
	unsigned int n = 0;

	assert_true(len >= 1 && len <= TEXT_MAX && (len <= lim->bytes || len == 1));
	assert_int_equal(m->text[0], 0);
	assert_int_equal(m->text[len - 1], 0);
	while (metadata_each(m, &pos, &k, &v)) {
		assert_true(k == m->text + end && *k);
		assert_false(has_control(k, strlen(k)));
		assert_false(has_control(v, strlen(v)));
		starts[v - m->text] = true;
		end = pos;
		n++;
	}
	assert_int_equal(end, len);
	assert_int_equal(n, m->n);
	assert_true(n <= lim->members);
	for (unsigned int i = 0; i < MD_KNOWN; i++) {
		assert_true(!m->known[i] || starts[m->known[i]]);
		assert_true(!m->known[i] || m->text[m->known[i]]);
	}
}

static struct metadata *build_with(const struct header *h, size_t n, const struct metadata_limits *lim)
{
	int err = 1;
	struct metadata *m = metadata_build(h, n, lim, &err);

	assert_int_equal(err, 0);
	if (m) {
		assert_int_equal(m->refs, 1);
		check_block(m, lim);
	}
	return m;
}

static struct metadata *build(const struct header *h, size_t n)
{
	return build_with(h, n, &usual);
}

static struct metadata *from_baggage(const char *text)
{
	struct header h = header_of("baggage", text);

	return build(&h, 1);
}

#define assert_known(m, k, want)    assert_string_equal(metadata_known(m, k), want)
#define assert_found(m, name, want) assert_string_equal(metadata_find(m, name), want)

/* ---- baggage */

static void A11_baggage_of_hbone_peers_is_known(void **state)
{
	struct metadata *m = from_baggage(
		"k8s.cluster.name=C,k8s.namespace.name=N,k8s.deployment.name=W,service.name=S,"
		"service.version=V,cloud.region=R,cloud.availability_zone=Z,adit.node.id=node-1");

	(void)state;
	assert_known(m, MD_CLUSTER, "C");
	assert_known(m, MD_NAMESPACE, "N");
	assert_known(m, MD_WORKLOAD, "W");
	assert_known(m, MD_WORKLOAD_TYPE, "deployment");
	assert_known(m, MD_SERVICE, "S");
	assert_known(m, MD_VERSION, "V");
	assert_known(m, MD_REGION, "R");
	assert_known(m, MD_ZONE, "Z");
	assert_known(m, MD_NODE_ID, "node-1");
	assert_null(metadata_known(m, MD_IDENTITY));
	assert_found(m, "k8s.deployment.name", "W");
	assert_found(m, "workload.type", "deployment");
	assert_int_equal(m->n, 9);
	assert_int_equal(m->dropped, 0);
	metadata_put(m);
}

static void every_workload_type_is_known(void **state)
{
	static const char *const types[] = {"deployment", "cronjob", "job", "pod"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(types); i++) {
		char text[64];
		struct metadata *m;

		snprintf(text, sizeof(text), "k8s.%s.name=w", types[i]);
		m = from_baggage(text);
		assert_known(m, MD_WORKLOAD_TYPE, types[i]);
		assert_known(m, MD_WORKLOAD, "w");
		metadata_put(m);
	}
}

static void baggage_is_read_as_w3c_writes_it(void **state)
{
	struct metadata *m = from_baggage(
		" a = 1 ;prop;x=y,\tb=two words\t,,c=%2C%3b%25%e2%82%ac%20,d=x=y, ,e=,f;p=1,Key!#$%&'*+-.^_`|~=v");

	(void)state;
	assert_found(m, "a", "1");
	assert_found(m, "b", "two words");
	assert_found(m, "c", ",;%\xe2\x82\xac "); /* decoded after it was split */
	assert_found(m, "d", "x=y");
	assert_null(metadata_find(m, "e")); /* an empty value is none */
	assert_found(m, "Key!#$%&'*+-.^_`|~", "v");
	assert_int_equal(m->n, 5);
	assert_int_equal(m->dropped, 1); /* f: no '=' */
	metadata_put(m);
}

static void a_percent_sign_without_hex_digits_stands_for_itself(void **state)
{
	struct metadata *m = from_baggage("a=100%,b=%4,c=%zz,d=%%41,e=%4%41,f=%c3%,g=%");

	(void)state;
	assert_found(m, "a", "100%");
	assert_found(m, "b", "%4");
	assert_found(m, "c", "%zz");
	assert_found(m, "d", "%A");
	assert_found(m, "e", "%4A");
	assert_found(m, "f", "\xc3%");
	assert_found(m, "g", "%");
	metadata_put(m);
}

static void several_baggage_lines_are_one(void **state)
{
	const struct header h[] = {H("baggage", "service.name=S"), H("x-a", "1"),
				   H("baggage", "cloud.region=R,service.name=T")};
	struct metadata *m = build(h, ARRAY_LEN(h));

	(void)state;
	assert_known(m, MD_SERVICE, "S"); /* the first counts */
	assert_found(m, "service.name", "S");
	assert_known(m, MD_REGION, "R");
	assert_int_equal(m->n, 4);
	metadata_put(m);
}

static void control_characters_drop_a_value_and_are_counted(void **state)
{
	static const char raw[] = "a=x\ny,b=ok,c=\0zero,d=\x7f,e=%00,f=%0d%0A,g=%7F,h=\x1f,i=tab\tin,j=\x80\xff";
	const struct header h[] = {{SLICE("baggage"), {raw, sizeof(raw) - 1}},
				   H("x-a", "eight by\x01"),
				   H("x-b", "12345678\x1b"),
				   H("x-c", "\r\nx: y"),
				   H("x-d", "fine")};
	struct metadata *m = build(h, ARRAY_LEN(h));

	(void)state;
	assert_found(m, "b", "ok");
	assert_found(m, "j", "\x80\xff");
	assert_found(m, "x-d", "fine");
	assert_int_equal(m->n, 3);
	assert_int_equal(m->dropped, 11);
	metadata_put(m);
}

static void every_control_character_is_found_at_every_place(void **state)
{
	(void)state;
	for (int c = 0; c < 256; c++)
		for (size_t n = 1; n < 20; n++)
			for (size_t at = 0; at < n; at++) {
				char s[20];

				memset(s, c & 1 ? 0x20 : 0x80, sizeof(s));
				s[at] = (char)c;
				assert_int_equal(has_control(s, n), c < 0x20 || c == 0x7f);
			}
}

static void malformed_members_are_counted_and_the_rest_is_kept(void **state)
{
	struct metadata *m = from_baggage("=v,a b=1,k\"=1,noequals,\xc3\xa4=1,a/b=1,good=1,(x)=2");

	(void)state;
	assert_int_equal(m->n, 1);
	assert_found(m, "good", "1");
	assert_int_equal(m->dropped, 7);
	metadata_put(m);
}

/* ---- x-envoy-peer-metadata */

static char *peer_text(const char *ns, const char *service)
{
	struct metadata_self self = {.known = {[MD_NAMESPACE] = ns,
					       [MD_WORKLOAD] = "pw",
					       [MD_WORKLOAD_TYPE] = "cronjob",
					       [MD_CLUSTER] = "pc",
					       [MD_SERVICE] = service,
					       [MD_VERSION] = "pv",
					       [MD_REGION] = "pr",
					       [MD_ZONE] = "pz"}};
	char *text = peer_metadata_encode(&self, "spiffe://td/ns/pn/sa/a");

	assert_non_null(text);
	return text;
}

static void A11_peer_metadata_fills_what_baggage_did_not(void **state)
{
	char *text = peer_text("pn", "ps");
	struct header h[] = {header_of("x-envoy-peer-metadata", text),
			     header_of("x-envoy-peer-metadata-id", "sidecar~1"),
			     header_of("baggage", "k8s.namespace.name=N,k8s.pod.name=W,adit.node.id=n1")};

	(void)state;
	for (int round = 0; round < 2; round++) { /* whatever comes first */
		struct metadata *m = build(h, 3);
		struct header swap = h[0];

		assert_known(m, MD_NAMESPACE, "N");
		assert_known(m, MD_WORKLOAD, "W");
		assert_known(m, MD_WORKLOAD_TYPE, "pod");
		assert_known(m, MD_NODE_ID, "n1");
		assert_known(m, MD_CLUSTER, "pc");
		assert_known(m, MD_SERVICE, "ps");
		assert_known(m, MD_VERSION, "pv");
		assert_known(m, MD_REGION, "pr");
		assert_known(m, MD_ZONE, "pz");
		assert_known(m, MD_IDENTITY, "spiffe://td/ns/pn/sa/a");
		assert_found(m, "peer.NAMESPACE", "pn");
		assert_found(m, "peer.LABELS.service.istio.io/canonical-name", "ps");
		assert_found(m, "x-envoy-peer-metadata-id", "sidecar~1");
		metadata_put(m);
		h[0] = h[2];
		h[2] = swap;
	}
	free(text);
}

static void A11_peer_metadata_alone_is_enough(void **state)
{
	char *text = peer_text("pn", NULL);
	struct header h[] = {header_of("x-envoy-peer-metadata", text),
			     header_of("x-envoy-peer-metadata-id", "sidecar~1")};
	struct metadata *m = build(h, 2);

	(void)state;
	assert_known(m, MD_NODE_ID, "sidecar~1");
	assert_known(m, MD_NAMESPACE, "pn");
	assert_known(m, MD_WORKLOAD, "pw");
	assert_known(m, MD_WORKLOAD_TYPE, "cronjob");
	assert_null(metadata_known(m, MD_SERVICE));
	metadata_put(m);
	free(text);
}

static void near_members_count_last(void **state)
{
	/* {LABELS: {app: "A", version: "V1"}, NAME: "I"} */
	struct header h[] = {header_of("baggage", "app.name=B"),
			     header_of("x-envoy-peer-metadata",
				       "CikKBkxBQkVMUxIfKh0KCgoDYXBwEgMaAUEKDwoHdmVyc2lvbhIEGgJWMQoLCgROQU1FEgMaAUk=")};
	struct metadata *m = build(h + 1, 1);

	(void)state;
	assert_known(m, MD_SERVICE, "A");
	assert_known(m, MD_VERSION, "V1");
	assert_known(m, MD_WORKLOAD, "I");
	assert_null(metadata_known(m, MD_WORKLOAD_TYPE));
	metadata_put(m);
	m = build(h, 2);
	assert_known(m, MD_SERVICE, "B");
	metadata_put(m);
}

static void half_a_struct_is_dropped_whole(void **state)
{
	char *text = peer_text("pn", "ps");
	struct header h[] = {
		H("x-client-id", "c"), {SLICE("x-envoy-peer-metadata"), {text, strlen(text) - 8}}, H("baggage", "a=1")};
	struct metadata *m = build(h, 3);

	(void)state;
	assert_int_equal(m->n, 2);
	assert_int_equal(m->dropped, 1);
	assert_null(metadata_known(m, MD_NAMESPACE));
	assert_null(metadata_find(m, "x-envoy-peer-metadata"));
	metadata_put(m);
	free(text);
}

static void a_second_struct_is_refused(void **state)
{
	char *one = peer_text("one", NULL), *two = peer_text("two", "s");
	struct header h[] = {header_of("x-envoy-peer-metadata", one), header_of("x-envoy-peer-metadata", two)};
	struct metadata *m = build(h, 2);

	(void)state;
	assert_known(m, MD_NAMESPACE, "one");
	assert_null(metadata_known(m, MD_SERVICE));
	assert_int_equal(m->dropped, 1);
	metadata_put(m);
	free(one);
	free(two);
}

static void control_characters_in_a_struct_drop_that_field(void **state)
{
	struct metadata_self self = {.known = {[MD_CLUSTER] = "a\nb", [MD_REGION] = "r"}};
	char *text = peer_metadata_encode(&self, NULL);
	struct header h = header_of("x-envoy-peer-metadata", text);
	struct metadata *m = build(&h, 1);

	(void)state;
	assert_null(metadata_known(m, MD_CLUSTER));
	assert_known(m, MD_REGION, "r");
	assert_int_equal(m->dropped, 1);
	metadata_put(m);
	free(text);
}

/* ---- other headers */

static void A11_A13_free_headers_are_kept_under_their_names(void **state)
{
	const struct header h[] = {H("x-client-id", "client-7"), H("x-tenant", "blue"), H("x-empty", "")};
	struct metadata *m = build(h, ARRAY_LEN(h));

	(void)state;
	assert_found(m, "x-client-id", "client-7");
	assert_found(m, "x-tenant", "blue");
	assert_found(m, "x-empty", "");
	assert_null(metadata_find(m, "x-tenan"));
	assert_null(metadata_find(m, ""));
	metadata_put(m);
}

static void headers_consumed_elsewhere_and_credentials_are_not_kept(void **state)
{
	const struct header h[] = {
		H(":method", "CONNECT"),
		H(":authority", "a:1"),
		H(":status", "200"),
		H("forwarded", "for=1.2.3.4"),
		H("traceparent", "00-"),
		H("tracestate", "a=b"),
		H("content-length", "0"),
		H("host", "a"),
		H("te", "trailers"),
		H("user-agent", "x"),
		H("connection", "close"),
		H("keep-alive", "1"),
		H("proxy-connection", "x"),
		H("transfer-encoding", "chunked"),
		H("upgrade", "x"),
		H("trailer", "x"),
		H("date", "now"),
		H("cookie", "s=1"),
		H("set-cookie", "s=1"),
		H("authorization", "Bearer x"),
		H("proxy-authorization", "Basic x"),
	};

	(void)state;
	assert_null(build(h, ARRAY_LEN(h)));
	assert_null(build(h, 0));
}

static void header_names_that_are_no_tokens_are_dropped(void **state)
{
	const struct header h[] = {H("x y", "1"),	   H("", "1"),
				   H("x\0y", "1"),	   H("x\n", "1"),
				   {{NULL, 0}, {NULL, 0}}, {SLICE("x-n"), {NULL, 0}}};
	struct metadata *m = build(h, ARRAY_LEN(h));

	(void)state;
	assert_int_equal(m->n, 1);
	assert_int_equal(m->dropped, 5);
	assert_found(m, "x-n", "");
	metadata_put(m);
}

static void a_header_cannot_pass_for_a_known_member(void **state)
{
	const struct header h[] = {H("k8s.namespace.name", "kube-system"), H("adit.node.id", "x")};
	struct metadata *m = build(h, 2);

	(void)state;
	assert_null(metadata_known(m, MD_NAMESPACE));
	assert_null(metadata_known(m, MD_NODE_ID));
	metadata_put(m);
}

/* ---- limits */

static void what_was_only_dropped_is_still_counted(void **state)
{
	struct metadata *m = from_baggage("nothing,good");

	(void)state;
	assert_int_equal(m->n, 0);
	assert_int_equal(m->dropped, 2);
	assert_null(metadata_find(m, "nothing"));
	metadata_put(m);
	assert_null(from_baggage(""));
	assert_null(from_baggage(" , ,;x,"));
}

static void limits_hold_and_cuts_are_counted(void **state)
{
	char text[5000];
	size_t n = 0;
	struct header h = {SLICE("baggage"), {text, 0}};

	(void)state;
	for (int i = 0; i < 100; i++)
		n += (size_t)snprintf(text + n, sizeof(text) - n, "k%02d=value-%02d,", i, i);
	h.value.n = n;
	for (uint32_t members = 0; members < 103; members += 17)
		for (uint32_t bytes = 0; bytes < 1500; bytes += 7) {
			struct metadata_limits lim = {.bytes = bytes, .members = members};
			struct metadata *m = build_with(&h, 1, &lim);
			uint32_t fit = bytes ? (bytes - 1) / 13 : 0; /* "kNN" and "value-NN" with their NULs */

			fit = fit < members ? fit : members;
			assert_int_equal(m->n, fit < 100 ? fit : 100);
			assert_int_equal(m->dropped, 100 - m->n);
			metadata_put(m);
		}
}

static void a_long_value_leaves_room_for_a_short_one(void **state)
{
	static char big[9000];
	struct header h[] = {H("a", "1"), {SLICE("x-big"), {big, sizeof(big)}}, H("b", "2")};
	struct metadata *m;

	(void)state;
	memset(big, 'x', sizeof(big));
	m = build(h, 3);
	assert_found(m, "a", "1");
	assert_null(metadata_find(m, "x-big"));
	assert_found(m, "b", "2");
	assert_int_equal(m->dropped, 1);
	metadata_put(m);
}

static void offsets_fit_however_large_the_limit(void **state)
{
	static char big[59900];
	struct header h[] = {
		{SLICE("x-big"), {big, sizeof(big)}}, H("baggage", "service.name=last"), {SLICE("x-more"), {big, 200}}};
	struct metadata_limits lim = {.bytes = UINT32_MAX, .members = UINT32_MAX};
	struct metadata *m;

	(void)state;
	memset(big, 'x', sizeof(big));
	m = build_with(h, 3, &lim);
	assert_known(m, MD_SERVICE, "last");
	assert_int_equal(m->dropped, 1);
	metadata_put(m);
}

static void the_count_of_drops_saturates(void **state)
{
	static char text[200000];
	struct header h = {SLICE("baggage"), {text, sizeof(text)}};
	struct metadata *m;

	(void)state;
	for (size_t i = 0; i < sizeof(text); i += 2)
		memcpy(text + i, "x,", 2);
	m = build(&h, 1);
	assert_int_equal(m->dropped, UINT16_MAX);
	metadata_put(m);
}

/* ---- blocks */

static void equal_contents_are_equal_blocks(void **state)
{
	struct metadata *a = from_baggage("service.name=S,x=1"), *b = from_baggage(" service.name = S ;p, x=1"),
			*c = from_baggage("service.name=S,x=2"), *d = from_baggage("x=1,service.name=S");
	const struct header same_text[] = {H("service.name", "S"), H("x", "1")};
	struct metadata *e = build(same_text, 2);

	(void)state;
	assert_true(metadata_eq(a, a));
	assert_true(metadata_eq(a, b));
	assert_true(a->hash == b->hash);
	assert_false(metadata_eq(a, c));
	assert_false(a->hash == c->hash);
	assert_false(metadata_eq(a, d));
	assert_int_equal(a->size, e->size);
	assert_memory_equal(a->text, e->text, a->size - sizeof(*a));
	assert_false(metadata_eq(a, e)); /* a header is not a member, although the text is the same */
	assert_false(metadata_eq(a, NULL));
	assert_false(metadata_eq(NULL, a));
	assert_true(metadata_eq(NULL, NULL));
	c->hash = a->hash; /* a collision decides nothing */
	assert_false(metadata_eq(a, c));
	metadata_put(a);
	metadata_put(b);
	metadata_put(c);
	metadata_put(d);
	metadata_put(e);
}

static void the_seed_changes_hashes(void **state)
{
	uint64_t before = hash_seed;
	struct metadata *a = from_baggage("x=1"), *b;

	(void)state;
	metadata_hash_seed(before + 1);
	b = from_baggage("x=1");
	assert_false(a->hash == b->hash);
	metadata_hash_seed(before);
	metadata_put(a);
	metadata_put(b);
}

static void the_last_reference_frees(void **state)
{
	struct metadata *m = from_baggage("x=1");

	(void)state;
	assert_ptr_equal(metadata_get_ref(m), m);
	assert_int_equal(m->refs, 2);
	metadata_put(m);
	assert_found(m, "x", "1");
	metadata_put(m);
	metadata_put(NULL);
	assert_null(metadata_get_ref(NULL));
	assert_null(metadata_known(NULL, MD_CLUSTER));
	assert_null(metadata_find(NULL, "x"));
}

/* ---- what we say */

static void A11_we_say_it_in_the_order_of_hbone(void **state)
{
	const struct header extra[] = {H("team", "blue green"), H("bad key", "x"),
				       H("note", "a,b;c=\"d\"\\%\xc3\xa4\n"), H("none", "")};
	struct metadata_self self = {.node_id = "n1",
				     .known = {[MD_CLUSTER] = "C",
					       [MD_NAMESPACE] = "N",
					       [MD_WORKLOAD_TYPE] = "job",
					       [MD_WORKLOAD] = "W",
					       [MD_SERVICE] = "S",
					       [MD_VERSION] = "V",
					       [MD_REGION] = "R",
					       [MD_ZONE] = "Z",
					       [MD_NODE_ID] = "not this",
					       [MD_IDENTITY] = "not said here"},
				     .extra = extra,
				     .n_extra = 4};
	char *text = baggage_encode(&self);

	(void)state;
	assert_string_equal(text,
			    "k8s.cluster.name=C,k8s.namespace.name=N,k8s.job.name=W,service.name=S,service.version=V,"
			    "cloud.region=R,cloud.availability_zone=Z,adit.node.id=n1,team=blue%20green,"
			    "note=a%2Cb%3Bc=%22d%22%5C%25%C3%A4%0A");
	free(text);
}

static void nothing_to_say_is_an_empty_text(void **state)
{
	struct metadata_self self = {.known = {[MD_CLUSTER] = "", [MD_WORKLOAD_TYPE] = "pod"}};
	char *text = baggage_encode(&self);

	(void)state;
	assert_string_equal(text, "");
	free(text);
	self.known[MD_WORKLOAD] = "w";
	self.known[MD_WORKLOAD_TYPE] = "statefulset"; /* HBONE has no word for it */
	text = baggage_encode(&self);
	assert_string_equal(text, "k8s.pod.name=w");
	free(text);
}

static void what_we_say_is_bounded(void **state)
{
	static char big[9000], names[200][16];
	static struct header extra[200];
	struct metadata_self self = {.node_id = "n1", .extra = extra, .n_extra = 200};
	struct metadata *m;
	char *text;

	(void)state;
	memset(big, '%', sizeof(big));
	for (int i = 0; i < 200; i++) {
		snprintf(names[i], sizeof(names[i]), "k%d", i);
		extra[i] = (struct header){{names[i], strlen(names[i])}, {big, i == 3 ? 9000 : i == 5 ? 2728 : 10}};
	}
	text = baggage_encode(&self);
	assert_true(strlen(text) <= BAGGAGE_MAX);
	m = from_baggage(text);
	assert_true(m->n <= BAGGAGE_MEMBERS && m->n > 60);
	assert_null(metadata_find(m, "k3"));
	assert_null(metadata_find(m, "k5")); /* 3 * 2728 is less than 8192, but not beside the others */
	assert_int_equal(m->dropped, 0);
	metadata_put(m);
	free(text);
}

static void A11_what_we_say_is_what_is_heard(void **state)
{
	struct rnd r = rnd_start(__func__);

	(void)state;
	for (int i = 0; i < 5000; i++) {
		static const char *const types[] = {"deployment", "cronjob", "job", "pod"};
		struct metadata_self self = {.node_id = NULL};
		char values[MD_KNOWN][40];
		char *baggage, *peer;
		struct header h[2];
		struct metadata *m;

		for (int k = 0; k < MD_KNOWN; k++) {
			size_t len = 1 + rnd_below(&r, 30);

			for (size_t c = 0; c < len; c++)
				values[k][c] = (char)(0x21 + rnd_below(&r, 0x5e));
			values[k][len] = '\0';
			self.known[k] = rnd_below(&r, 4) ? values[k] : NULL;
		}
		self.known[MD_WORKLOAD_TYPE] = types[rnd_below(&r, 4)];
		self.node_id = self.known[MD_NODE_ID];
		baggage = baggage_encode(&self);
		peer = peer_metadata_encode(&self, NULL);
		h[0] = header_of("baggage", baggage);
		h[1] = header_of("x-envoy-peer-metadata", peer);
		m = build(h, 2);
		for (int k = 0; k < MD_KNOWN; k++) {
			const char *got = metadata_known(m, k);

			if (k == MD_WORKLOAD_TYPE && !self.known[MD_WORKLOAD])
				assert_null(got);
			else if (self.known[k])
				assert_string_equal(got, self.known[k]);
			else
				assert_null(got);
		}
		metadata_put(m);
		free(baggage);
		free(peer);
	}
}

/* ---- against a reader written for clearness */

struct naive {
	char pairs[200][2][400];
	unsigned int n, dropped;
};

static void naive_trim(char *s)
{
	size_t n = strlen(s), lead = strspn(s, " \t");

	while (n > lead && (s[n - 1] == ' ' || s[n - 1] == '\t'))
		n--;
	memmove(s, s + lead, n - lead);
	s[n - lead] = '\0';
}

static void naive_member(struct naive *v, char *s, const struct metadata_limits *lim, size_t *used)
{
	static const char token[] = "!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ";
	char *eq, *name = s, value[400], out[400];
	size_t n = 0, need;

	s[strcspn(s, ";")] = '\0';
	naive_trim(s);
	if (!*s)
		return;
	eq = strchr(s, '=');
	if (!eq) {
		v->dropped++;
		return;
	}
	*eq = '\0';
	strcpy(value, eq + 1);
	naive_trim(name);
	naive_trim(value);
	if (!*name || name[strspn(name, token)]) {
		v->dropped++;
		return;
	}
	if (!*value)
		return;
	need = strlen(name) + strlen(value) + 2;
	for (char *p = value; *p; p++) {
		unsigned int byte;

		if (*p == '%' && strspn(p + 1, "0123456789abcdefABCDEF") >= 2) {
			sscanf(p + 1, "%2x", &byte);
			out[n++] = (char)byte;
			p += 2;
		} else {
			out[n++] = *p;
		}
	}
	for (size_t i = 0; i < n; i++)
		if ((unsigned char)out[i] < 0x20 || out[i] == 0x7f)
			need = SIZE_MAX / 2;
	if (v->n >= lim->members || *used + need > lim->bytes) {
		v->dropped++;
		return;
	}
	out[n] = '\0';
	strcpy(v->pairs[v->n][0], name);
	strcpy(v->pairs[v->n++][1], out);
	*used += strlen(name) + n + 2;
}

static void baggage_is_read_as_a_naive_reader_reads_it(void **state)
{
	struct rnd r = rnd_start(__func__);
	static const char *const bits[] = {",",	    ",",    "=",    "=",    ";",   " ",		  "\t",	 "%",
					   "%2",    "%2C",  "%41",  "%00",  "%zz", "a",		  "key", "x.y",
					   "value", "\x01", "\x7f", "\x80", "\"",  "longer-text", "9"};
	static struct naive v;

	(void)state;
	for (int i = 0; i < 60000; i++) {
		struct metadata_limits lim = {.bytes = 1 + (uint32_t)rnd_below(&r, 120),
					      .members = (uint32_t)rnd_below(&r, 8)};
		char lines[2][320], copy[320];
		struct header h[2];
		struct metadata *m;
		size_t used = 1;
		uint32_t pos = 0;
		const char *name, *value;

		v.n = v.dropped = 0;
		for (int k = 0; k < 2; k++) {
			char *rest = copy, *one;

			lines[k][0] = '\0';
			for (uint64_t b = rnd_below(&r, 25); b; b--)
				strcat(lines[k], bits[rnd_below(&r, ARRAY_LEN(bits))]);
			h[k] = header_of("baggage", lines[k]);
			strcpy(copy, lines[k]);
			while ((one = strsep(&rest, ",")))
				naive_member(&v, one, &lim, &used);
		}
		m = build_with(h, 2, &lim);
		if (!m) {
			assert_int_equal(v.n + v.dropped, 0);
			continue;
		}
		assert_int_equal(m->dropped, v.dropped);
		assert_int_equal(m->n, v.n);
		for (unsigned int k = 0; metadata_each(m, &pos, &name, &value); k++) {
			assert_string_equal(name, v.pairs[k][0]);
			assert_string_equal(value, v.pairs[k][1]);
		}
		metadata_put(m);
	}
}

static void arbitrary_headers_make_sound_blocks(void **state)
{
	struct rnd r = rnd_start(__func__);
	static const char *const names[] = {"baggage",
					    "baggage",
					    "x-envoy-peer-metadata",
					    "x-envoy-peer-metadata-id",
					    "x-client-id",
					    "forwarded",
					    ":authority",
					    "a b",
					    "cookie"};

	(void)state;
	for (int i = 0; i < 20000; i++) {
		char bytes[8][100];
		struct header h[8];
		struct metadata_limits lim = {.bytes = (uint32_t)rnd_below(&r, 400),
					      .members = (uint32_t)rnd_below(&r, 20)};
		size_t n = rnd_below(&r, 9);

		for (size_t k = 0; k < n; k++) {
			static const char soup[] = "k8s.pod.name=service.name=ABCDabcd0123+/==,;% %41\x01\xff";
			size_t len = rnd_below(&r, sizeof(bytes[0]));

			for (size_t c = 0; c < len; c++)
				bytes[k][c] = rnd_below(&r, 50) ? soup[rnd_below(&r, sizeof(soup) - 1)]
								: (char)rnd_u64(&r);
			h[k] = header_of(names[rnd_below(&r, ARRAY_LEN(names))], "");
			h[k].value = (struct slice){bytes[k], len};
		}
		metadata_put(build_with(h, n, &lim));
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(A11_baggage_of_hbone_peers_is_known),
		cmocka_unit_test(every_workload_type_is_known),
		cmocka_unit_test(baggage_is_read_as_w3c_writes_it),
		cmocka_unit_test(a_percent_sign_without_hex_digits_stands_for_itself),
		cmocka_unit_test(several_baggage_lines_are_one),
		cmocka_unit_test(control_characters_drop_a_value_and_are_counted),
		cmocka_unit_test(every_control_character_is_found_at_every_place),
		cmocka_unit_test(malformed_members_are_counted_and_the_rest_is_kept),
		cmocka_unit_test(A11_peer_metadata_fills_what_baggage_did_not),
		cmocka_unit_test(A11_peer_metadata_alone_is_enough),
		cmocka_unit_test(near_members_count_last),
		cmocka_unit_test(half_a_struct_is_dropped_whole),
		cmocka_unit_test(a_second_struct_is_refused),
		cmocka_unit_test(control_characters_in_a_struct_drop_that_field),
		cmocka_unit_test(A11_A13_free_headers_are_kept_under_their_names),
		cmocka_unit_test(headers_consumed_elsewhere_and_credentials_are_not_kept),
		cmocka_unit_test(header_names_that_are_no_tokens_are_dropped),
		cmocka_unit_test(a_header_cannot_pass_for_a_known_member),
		cmocka_unit_test(what_was_only_dropped_is_still_counted),
		cmocka_unit_test(limits_hold_and_cuts_are_counted),
		cmocka_unit_test(a_long_value_leaves_room_for_a_short_one),
		cmocka_unit_test(offsets_fit_however_large_the_limit),
		cmocka_unit_test(the_count_of_drops_saturates),
		cmocka_unit_test(equal_contents_are_equal_blocks),
		cmocka_unit_test(the_seed_changes_hashes),
		cmocka_unit_test(the_last_reference_frees),
		cmocka_unit_test(A11_we_say_it_in_the_order_of_hbone),
		cmocka_unit_test(nothing_to_say_is_an_empty_text),
		cmocka_unit_test(what_we_say_is_bounded),
		cmocka_unit_test(A11_what_we_say_is_what_is_heard),
		cmocka_unit_test(baggage_is_read_as_a_naive_reader_reads_it),
		cmocka_unit_test(arbitrary_headers_make_sound_blocks),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
