/* x-envoy-peer-metadata: the bytes that Istio's agents exchange, and whatever else may come in their place. */
#include "../../daemon/codec/peer_metadata.c"

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

/* ---- what the decoder says, as text: "KEY=value|LABELS.key=value|" */

struct heard {
	char text[65536];
	size_t n;
	unsigned int calls;
};

static void hear(void *arg, bool label, struct slice key, struct slice value)
{
	struct heard *h = arg;

	h->calls++;
	h->n += (size_t)snprintf(h->text + h->n, sizeof(h->text) - h->n, "%s%.*s=%.*s|", label ? "LABELS." : "",
				 (int)key.n, key.p ? key.p : "", (int)value.n, value.p ? value.p : "");
	assert_true(h->n < sizeof(h->text));
}

static struct heard heard;

static int decode(const char *base64, size_t n)
{
	heard.n = 0;
	heard.calls = 0;
	heard.text[0] = '\0';
	return peer_metadata_decode(base64, n, hear, &heard);
}

/* The same for the bytes of a Struct. */
static int decode_raw(const void *raw, size_t n)
{
	char *text = malloc(base64_len(n) + 1);
	int r;

	assert_non_null(text);
	base64_encode(text, raw, n);
	r = decode(text, base64_len(n));
	free(text);
	return r;
}
#define RAW(lit) decode_raw(lit, sizeof(lit) - 1)

/* ---- encoding */

static const struct metadata_self web = {
	.node_id = "n1",
	.known = {[MD_CLUSTER] = "c1",
		  [MD_NAMESPACE] = "shop",
		  [MD_WORKLOAD] = "web",
		  [MD_WORKLOAD_TYPE] = "deployment",
		  [MD_SERVICE] = "web",
		  [MD_VERSION] = "v1",
		  [MD_REGION] = "eu",
		  [MD_ZONE] = "eu-1"},
	.extra = (const struct header[]){H("team", "blue"), H("Zone", "x"), H("app", "not-this")},
	.n_extra = 3,
};

/* Made by an independent encoder from the same fields, keys sorted. */
static const char web_text[] =
	"ChsKEUFWQUlMQUJJTElUWV9aT05FEgYaBGV1LTEKEgoKQ0xVU1RFUl9JRBIEGgJjMQooCghJREVOVElUWRIcGhpzcGlmZmU6Ly90ZC9ucy9zaG"
	"9w"
	"L3NhL3dlYgqhAQoGTEFCRUxTEpYBKpMBCgsKBFpvbmUSAxoBeAoMCgNhcHASBRoDd2ViCigKH3NlcnZpY2UuaXN0aW8uaW8vY2Fub25pY2FsLW"
	"5h"
	"bWUSBRoDd2ViCisKI3NlcnZpY2UuaXN0aW8uaW8vY2Fub25pY2FsLXJldmlzaW9uEgQaAnYxCg4KBHRlYW0SBhoEYmx1ZQoPCgd2ZXJzaW9uEg"
	"Qa"
	"AnYxCg0KBE5BTUUSBRoDd2ViChMKCU5BTUVTUEFDRRIGGgRzaG9wCkQKBU9XTkVSEjsaOWt1YmVybmV0ZXM6Ly9hcGlzL2FwcHMvdjEvbmFtZX"
	"Nw"
	"YWNlcy9zaG9wL2RlcGxveW1lbnRzL3dlYgoOCgZSRUdJT04SBBoCZXUKFgoNV09SS0xPQURfTkFNRRIFGgN3ZWI=";

static void the_struct_has_the_known_bytes(void **state)
{
	char *text = peer_metadata_encode(&web, "spiffe://td/ns/shop/sa/web");

	(void)state;
	assert_string_equal(text, web_text);
	free(text);
}

static void one_field_has_the_known_bytes(void **state)
{
	struct metadata_self self = {.known = {[MD_REGION] = "a"}};
	char *text = peer_metadata_encode(&self, NULL);
	uint8_t raw[64];
	static const uint8_t want[] = {0x0a, 13, 0x0a, 6, 'R', 'E', 'G', 'I', 'O', 'N', 0x12, 3, 0x1a, 1, 'a'};

	(void)state;
	assert_int_equal(base64_decode(raw, text, strlen(text)), sizeof(want));
	assert_memory_equal(raw, want, sizeof(want));
	free(text);
	self.known[MD_REGION] = NULL;
	text = peer_metadata_encode(&self, NULL);
	assert_string_equal(text, ""); /* the empty Struct */
	free(text);
}

static void lengths_above_127_take_two_bytes(void **state)
{
	static char c[301];
	struct metadata_self self = {.known = {[MD_CLUSTER] = c}};
	static const uint8_t want[] = {0x0a, 0xbe, 0x02, 0x0a, 0x0a, 'C',  'L',	 'U',  'S',  'T',  'E',
				       'R',  '_',  'I',	 'D',  0x12, 0xaf, 0x02, 0x1a, 0xac, 0x02, 'c'};
	uint8_t raw[512];
	char *text;

	(void)state;
	memset(c, 'c', 300);
	text = peer_metadata_encode(&self, NULL);
	assert_int_equal(base64_decode(raw, text, strlen(text)), sizeof(want) + 299);
	assert_memory_equal(raw, want, sizeof(want));
	free(text);
}

static void the_order_of_labels_does_not_matter(void **state)
{
	struct header extra[12];
	struct metadata_self self = {.known = {[MD_SERVICE] = "s", [MD_VERSION] = "v"}, .extra = extra, .n_extra = 12};
	static const char *const keys[12] = {"a", "b",	  "ab",	    "B",	"zz",	   "z",
					     "_", "app2", "versio", "versions", "service", "\xc3\xa4"};
	struct rnd r = rnd_start(__func__);
	char *first = NULL;

	(void)state;
	for (int i = 0; i < 12; i++)
		extra[i] = (struct header){{keys[i], strlen(keys[i])}, {keys[i], strlen(keys[i])}};
	for (int round = 0; round < 200; round++) {
		char *text = peer_metadata_encode(&self, NULL);

		if (!first)
			first = strdup(text);
		assert_string_equal(text, first);
		free(text);
		for (int i = 11; i > 0; i--) {
			int k = (int)rnd_below(&r, (uint64_t)i + 1);
			struct header h = extra[i];

			extra[i] = extra[k];
			extra[k] = h;
		}
	}
	free(first);
}

static void free_labels_do_not_replace_the_standard_ones(void **state)
{
	const struct header extra[] = {H("app", "evil"), H("version", "evil"), H("x", "1"), H("x", "2")};
	struct metadata_self self = {.known = {[MD_SERVICE] = "s", [MD_VERSION] = "v"}, .extra = extra, .n_extra = 4};
	char *text = peer_metadata_encode(&self, NULL);

	(void)state;
	assert_int_equal(decode(text, strlen(text)), 0);
	assert_string_equal(heard.text, "LABELS.app=s|LABELS.service.istio.io/canonical-name=s|"
					"LABELS.service.istio.io/canonical-revision=v|LABELS.version=v|LABELS.x=1|");
	free(text);
}

static void what_a_peer_would_refuse_is_left_out(void **state)
{
	const struct header extra[] = {H("ok", "1"), H("bad", "\xff"), H("\xc0\x80", "1"), H("empty", "")};
	struct metadata_self self = {
		.known = {[MD_CLUSTER] = "\xed\xa0\x80",
			  [MD_REGION] = "",
			  [MD_ZONE] = "\xf0\x9f\x92\xa1",
			  [MD_WORKLOAD] = "w",
			  [MD_WORKLOAD_TYPE] = "pod"},
		.extra = extra,
		.n_extra = 4,
	};
	char *text = peer_metadata_encode(&self, NULL);

	(void)state;
	assert_int_equal(decode(text, strlen(text)), 0);
	assert_string_equal(heard.text, "AVAILABILITY_ZONE=\xf0\x9f\x92\xa1|LABELS.ok=1|NAME=w|WORKLOAD_NAME=w|");
	free(text);
}

static void labels_are_bounded(void **state)
{
	static struct header extra[500];
	static char names[500][8];
	struct metadata_self self = {.extra = extra, .n_extra = 500};
	char *text;

	(void)state;
	for (int i = 0; i < 500; i++) {
		snprintf(names[i], sizeof(names[i]), "l%03d", 499 - i);
		extra[i] = (struct header){{names[i], 4}, SLICE("v")};
	}
	text = peer_metadata_encode(&self, NULL);
	assert_int_equal(decode(text, strlen(text)), 0);
	assert_int_equal(heard.calls, LABELS_MAX);
	free(text);
}

/* ---- decoding */

static void what_others_encoded_is_read(void **state)
{
	static const char want[] =
		"AVAILABILITY_ZONE=eu-1|CLUSTER_ID=c1|IDENTITY=spiffe://td/ns/shop/sa/web|LABELS.Zone=x|"
		"LABELS.app=web|LABELS.service.istio.io/canonical-name=web|"
		"LABELS.service.istio.io/canonical-revision=v1|LABELS.team=blue|LABELS.version=v1|NAME=web|"
		"NAMESPACE=shop|OWNER=kubernetes://apis/apps/v1/namespaces/shop/deployments/web|REGION=eu|"
		"WORKLOAD_NAME=web|";

	(void)state;
	assert_int_equal(decode(web_text, strlen(web_text)), 0);
	assert_string_equal(heard.text, want);
	assert_int_equal(decode(web_text, strlen(web_text) - 1), 0); /* without padding */
	assert_string_equal(heard.text, want);
	assert_int_equal(decode("", 0), 0);
	assert_int_equal(heard.calls, 0);
}

static void other_kinds_of_value_are_passed_over(void **state)
{
	(void)state;
	assert_int_equal(
		RAW("\x0a\x07\x0a\x01n\x12\x02\x08\x00" /* null */
		    "\x0a\x0e\x0a\x01"
		    "d\x12\x09\x11\0\0\0\0\0\0\xf0\x3f"				     /* 1.0 */
		    "\x0a\x07\x0a\x01t\x12\x02\x20\x01"				     /* true */
		    "\x0a\x0c\x0a\x01l\x12\x07\x32\x05\x0a\x03\x1a\x01x"	     /* ["x"] */
		    "\x0a\x0f\x0a\x01o\x12\x0a\x2a\x08\x0a\x06\x0a\x01k\x12\x01\x1a" /* not entered, so not judged */
		    "\x0a\x08\x0a\x01s\x12\x03\x1a\x01v"
		    "\x0a\x03\x0a\x01k"		/* no value */
		    "\x0a\x05\x12\x03\x1a\x01v" /* no key */
		    "\x0a\x05\x0a\x01"
		    "e\x12\x00"						/* empty Value */
		    "\x12\x01x\x18\x05\x25\0\0\0\0\x29\0\0\0\0\0\0\0\0" /* fields that a Struct has not */
		    ),
		0);
	assert_string_equal(heard.text, "s=v|");
}

static void fields_in_any_order_and_the_last_of_several(void **state)
{
	(void)state;
	/* value before key */
	assert_int_equal(RAW("\x0a\x08\x12\x03\x1a\x01v\x0a\x01k"), 0);
	assert_string_equal(heard.text, "k=v|");
	/* two keys, two members of the oneof: a bool is the last */
	assert_int_equal(RAW("\x0a\x0b\x0a\x01"
			     "a\x0a\x01k\x12\x03\x1a\x01v"),
			 0);
	assert_string_equal(heard.text, "k=v|");
	assert_int_equal(RAW("\x0a\x0a\x0a\x01k\x12\x05\x1a\x01v\x20\x01"), 0);
	assert_string_equal(heard.text, "");
}

static void only_labels_are_entered_and_nothing_below(void **state)
{
	(void)state;
	assert_int_equal(RAW("\x0a\x18\x0a\x06LABELS\x12\x0e\x2a\x0c\x0a\x0a\x0a\x03"
			     "app\x12\x03\x1a\x01x"),
			 0);
	assert_string_equal(heard.text, "LABELS.app=x|");
	/* LABELS in LABELS */
	assert_int_equal(
		RAW("\x0a\x26\x0a\x06LABELS\x12\x1c\x2a\x1a\x0a\x18\x0a\x06LABELS\x12\x0e\x2a\x0c\x0a\x0a\x0a\x03"
		    "app\x12\x03\x1a\x01x"),
		0);
	assert_string_equal(heard.text, "");
}

static void malformed_structs_are_refused(void **state)
{
	(void)state;
	assert_int_equal(RAW("\x0a"), -EINVAL);
	assert_int_equal(RAW("\x0a\x02\x0a"), -EINVAL);					    /* longer than there is */
	assert_int_equal(RAW("\x0a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"), -EINVAL);	    /* 2^64 - 1 bytes */
	assert_int_equal(RAW("\x0a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"), -EINVAL); /* eleven bytes of varint */
	assert_int_equal(RAW("\x02\x00"), -EINVAL);					    /* field 0 */
	assert_int_equal(RAW("\x0b\x0c"), -EINVAL);					    /* a group */
	assert_int_equal(RAW("\x0e"), -EINVAL);						    /* wire type 6 */
	assert_int_equal(RAW("\x0d\0\0\0"), -EINVAL);					    /* three of four bytes */
	assert_int_equal(RAW("\x0a\x05\x0a\x06KEY"), -EINVAL);			 /* key longer than its entry */
	assert_int_equal(RAW("\x0a\x08\x0a\x01k\x12\x03\x1a\x02v"), -EINVAL);	 /* string longer than its value */
	assert_int_equal(RAW("\x0a\x08\x0a\x01k\x12\x03\x1a\x01\xff"), -EINVAL); /* no UTF-8 */
	assert_int_equal(RAW("\x0a\x08\x0a\x01\xff\x12\x03\x1a\x01v"), -EINVAL);
	assert_int_equal(RAW("\x0a\x12\x0a\x06LABELS\x12\x08\x2a\x06\x0a\x04\x0a\x06LA"), -EINVAL); /* inside LABELS */
}

static void malformed_base64_is_refused(void **state)
{
	static const char *const bad[] = {
		"C",
		"CgsKB",
		"CgsKBE5BTUUSAxoBY",
		"CgsKBE5BTUUSAxoBY===",
		"=",
		"==",
		"====",
		"CgsK=E5BTUUSAxoBYQ==",
		"CgsKBE5B\nTUUSAxoBYQ==",
		"CgsKBE5BTUUSAxoBYQ== ",
		" CgsKBE5BTUUSAxoBYQ==",
		"CgsKBE5BTUUSAxoBYQ=",
		"CgsKBE5BTUUSAxoB-Q==",
		"CgsKBE5BTUUSAxoB_Q==",
		"CgsKBE5BTUUSAxoBYQ==CgsKBE5BTUUSAxoBYQ==",
		"\x80\x80\x80\x80",
	};

	(void)state;
	assert_int_equal(decode("CgsKBE5BTUUSAxoBYQ==", 20), 0);
	assert_string_equal(heard.text, "NAME=a|");
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		if (decode(bad[i], strlen(bad[i])) != -EINVAL)
			fail_msg("'%s' was accepted", bad[i]);
}

static void base64_takes_all_bytes_and_lengths(void **state)
{
	uint8_t in[300], out[300];
	char text[401];
	struct rnd r = rnd_start(__func__);

	(void)state;
	for (size_t n = 0; n <= sizeof(in); n++) {
		char own[404], *at;

		for (size_t i = 0; i < n; i++)
			in[i] = (uint8_t)rnd_u64(&r);
		base64_encode(text, in, n);
		text[base64_len(n)] = '\0';
		assert_int_equal(base64_decode(out, text, base64_len(n)), n);
		assert_memory_equal(in, out, n);
		/* in place, as the encoder does it */
		at = own + base64_len(n) - n;
		memcpy(at, in, n);
		base64_encode(own, (uint8_t *)at, n);
		assert_memory_equal(own, text, base64_len(n));
	}
}

static void utf8_is_told_from_what_is_none(void **state)
{
	static const char *const good[] = {"",
					   "a",
					   "\xc2\x80",
					   "\xdf\xbf",
					   "\xe0\xa0\x80",
					   "\xed\x9f\xbf",
					   "\xee\x80\x80",
					   "\xef\xbf\xbf",
					   "\xf0\x90\x80\x80",
					   "\xf4\x8f\xbf\xbf"};
	static const char *const bad[] = {"\x80",
					  "\xc0\x80",
					  "\xc1\xbf",
					  "\xc2",
					  "\xc2z",
					  "\xe0\x9f\xbf",
					  "\xed\xa0\x80",
					  "\xe1\x80",
					  "\xf0\x8f\xbf\xbf",
					  "\xf4\x90\x80\x80",
					  "\xf5\x80\x80\x80",
					  "\xff",
					  "\xf1\x80\x80"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(good); i++)
		assert_true(utf8_ok((struct slice){good[i], strlen(good[i])}));
	for (size_t i = 0; i < ARRAY_LEN(bad); i++)
		assert_false(utf8_ok((struct slice){bad[i], strlen(bad[i])}));
}

/* Structs in Structs, as deep as they go: neither deep recursion nor much work. */
static void deep_nesting_costs_nothing(void **state)
{
	static uint8_t raw[PEER_METADATA_MAX];
	size_t at = sizeof(raw), n = 0;

	(void)state;
	while (at > 64) {
		uint8_t head[32], *p = head;

		p = put_entry(p, SLICE("LABELS"), 5, n);
		at -= (size_t)(p - head);
		memcpy(raw + at, head, (size_t)(p - head));
		n = sizeof(raw) - at;
	}
	assert_int_equal(decode_raw(raw + at, n), 0);
	assert_int_equal(heard.calls, 0);
}

static void too_long_a_header_is_refused_unread(void **state)
{
	static char text[PEER_METADATA_MAX * 2];

	(void)state;
	memset(text, 'A', sizeof(text));
	assert_int_equal(decode(text, base64_len(PEER_METADATA_MAX) + 1), -EINVAL);
	assert_int_equal(decode(text, sizeof(text)), -EINVAL);
}

/* A Struct that ends early is refused, wherever it ends between two entries' ends. */
static void truncated_structs_are_refused(void **state)
{
	uint8_t raw[1024];
	ptrdiff_t len = base64_decode(raw, web_text, strlen(web_text));
	unsigned int whole = 0;

	(void)state;
	for (ptrdiff_t n = 0; n <= len; n++) {
		uint8_t *exact = malloc((size_t)n ? (size_t)n : 1); /* an overrun is seen by ASan */

		assert_non_null(exact);
		memcpy(exact, raw, (size_t)n);
		heard.n = 0;
		whole += struct_decode((struct span){exact, exact + n}, false, hear, &heard);
		free(exact);
	}
	assert_int_equal(whole, 10); /* nothing, and after each of nine entries */
}

static void damaged_structs_do_no_harm(void **state)
{
	struct rnd r = rnd_start(__func__);
	uint8_t raw[1024];
	ptrdiff_t len = base64_decode(raw, web_text, strlen(web_text));

	(void)state;
	for (int i = 0; i < 100000; i++) {
		uint8_t *p = malloc((size_t)len);
		unsigned int changes = 1 + (unsigned int)rnd_below(&r, 4);

		assert_non_null(p);
		memcpy(p, raw, (size_t)len);
		while (changes--)
			p[rnd_below(&r, (uint64_t)len)] = (uint8_t)rnd_u64(&r);
		heard.n = 0;
		heard.calls = 0;
		(void)struct_decode((struct span){p, p + len}, false, hear, &heard);
		assert_true(heard.calls < 64);
		free(p);
	}
}

static void what_we_say_is_what_is_heard(void **state)
{
	struct rnd r = rnd_start(__func__);

	(void)state;
	for (int i = 0; i < 5000; i++) {
		static const enum md_known used[] = {MD_ZONE,	   MD_CLUSTER, MD_IDENTITY,
						     MD_NAMESPACE, MD_REGION,  MD_WORKLOAD};
		static const char *const names[] = {"AVAILABILITY_ZONE", "CLUSTER_ID", "IDENTITY", NULL, "REGION",
						    "WORKLOAD_NAME"};
		struct metadata_self self = {.node_id = NULL};
		char values[6][300], want[2200] = "", *text;
		size_t n = 0;

		for (int k = 0; k < 6; k++) {
			size_t len = rnd_below(&r, 4) ? rnd_below(&r, 20) : rnd_below(&r, 300);

			for (size_t c = 0; c < len; c++)
				values[k][c] = (char)(1 + rnd_below(&r, 127));
			values[k][len] = '\0';
			if (used[k] != MD_NAMESPACE) /* no owner */
				self.known[used[k]] = len || rnd_below(&r, 2) ? values[k] : NULL;
		}
		for (int k = 0; k < 6; k++) {
			const char *v = self.known[used[k]];

			/* NAME comes before REGION, and is the workload */
			if (used[k] == MD_REGION && self.known[MD_WORKLOAD] && *self.known[MD_WORKLOAD])
				n += (size_t)snprintf(want + n, sizeof(want) - n, "NAME=%s|", self.known[MD_WORKLOAD]);
			if (v && *v)
				n += (size_t)snprintf(want + n, sizeof(want) - n, "%s=%s|", names[k], v);
		}
		text = peer_metadata_encode(&self, NULL);
		assert_non_null(text);
		assert_int_equal(decode(text, strlen(text)), 0);
		assert_string_equal(heard.text, want);
		free(text);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_struct_has_the_known_bytes),
		cmocka_unit_test(one_field_has_the_known_bytes),
		cmocka_unit_test(lengths_above_127_take_two_bytes),
		cmocka_unit_test(the_order_of_labels_does_not_matter),
		cmocka_unit_test(free_labels_do_not_replace_the_standard_ones),
		cmocka_unit_test(what_a_peer_would_refuse_is_left_out),
		cmocka_unit_test(labels_are_bounded),
		cmocka_unit_test(what_others_encoded_is_read),
		cmocka_unit_test(other_kinds_of_value_are_passed_over),
		cmocka_unit_test(fields_in_any_order_and_the_last_of_several),
		cmocka_unit_test(only_labels_are_entered_and_nothing_below),
		cmocka_unit_test(malformed_structs_are_refused),
		cmocka_unit_test(malformed_base64_is_refused),
		cmocka_unit_test(base64_takes_all_bytes_and_lengths),
		cmocka_unit_test(utf8_is_told_from_what_is_none),
		cmocka_unit_test(deep_nesting_costs_nothing),
		cmocka_unit_test(too_long_a_header_is_refused_unread),
		cmocka_unit_test(truncated_structs_are_refused),
		cmocka_unit_test(damaged_structs_do_no_harm),
		cmocka_unit_test(what_we_say_is_what_is_heard),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
