/* CONNECT as it is on the wire, both ways: the exact headers of request and answer, and what is made of a peer's. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tunnel/connect.c"
#include "unit/h2_pair.h"

static struct side *c, *s;
static struct h2_ops ops; /* as side_ops, but headers are written down */

static struct seen {
	char text[40][300]; /* "name: value" */
	size_t n;
	unsigned int flags;
} request, response;

static void note(struct seen *to, const struct header *h, size_t n, unsigned int flags)
{
	assert_in_range(n, 0, 40);
	to->n = n;
	to->flags = flags;
	for (size_t i = 0; i < n; i++)
		snprintf(to->text[i], sizeof(to->text[i]), "%.*s: %.*s", (int)h[i].name.n, h[i].name.p, (int)h[i].value.n, h[i].value.p);
}

static void on_request(void *owner, int32_t id, const struct header *h, size_t n, unsigned int flags)
{
	note(&request, h, n, flags);
	side_ops.request(owner, id, h, n, flags);
}

static void on_response(void *owner, struct h2_stream *st, const struct header *h, size_t n, unsigned int flags)
{
	note(&response, h, n, flags);
	side_ops.response(owner, st, h, n, flags);
}

static void is_exactly(const struct seen *x, ...)
{
	const char *want;
	size_t i = 0;
	va_list ap;

	va_start(ap, x);
	for (; (want = va_arg(ap, const char *)); i++) {
		assert_true(i < x->n);
		assert_string_equal(x->text[i], want);
	}
	va_end(ap);
	assert_int_equal(i, x->n); /* and nothing else */
}

static int setup(void **state)
{
	(void)state;
	ops = side_ops;
	ops.request = on_request;
	ops.response = on_response;
	c = side_new();
	s = side_new();
	if (!c || !s || h2_init(&c->h2, &c->l, false, 0, &ops, c) < 0 || h2_init(&s->h2, &s->l, true, 100, &ops, s) < 0)
		return -1;
	s->no_answer = true;
	memset(&request, 0, sizeof(request));
	memset(&response, 0, sizeof(response));
	return sides_settle(c, s);
}

static int teardown(void **state)
{
	(void)state;
	h2_abort(&c->h2);
	h2_abort(&s->h2);
	side_free(c);
	side_free(s);
	return 0;
}

static void settle(void)
{
	assert_int_equal(sides_settle(c, s), 0);
}

static struct cfg_kv request_headers[] = {{"x-client-id", "node-a"}, {"x-tenant", "blue"}};
static struct cfg_kv response_headers[] = {{"x-server-id", "node-b"}};
static struct cfg_kv members[] = {{"team", "red"}};

static struct cfg_node node_full(void)
{
	return (struct cfg_node){
		.id = "node-a",
		.cluster = "c1",
		.namespace_ = "shop",
		.workload_type = "deployment",
		.workload = "web",
		.service = "web",
		.version = "v2",
		.region = "eu",
		.zone = "eu-1",
		.metadata = members,
		.n_metadata = 1,
		.request_headers = request_headers,
		.n_request_headers = 2,
		.response_headers = response_headers,
		.n_response_headers = 1,
		.send_baggage = true,
		.send_forwarded = true,
		.send_traceparent = true,
	};
}

#define BAGGAGE                                                                                                                  \
	"baggage: k8s.cluster.name=c1,k8s.namespace.name=shop,k8s.deployment.name=web,service.name=web,service.version=v2,"      \
	"cloud.region=eu,cloud.availability_zone=eu-1,adit.node.id=node-a,team=red"
#define TRACE "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00"

static struct addr addr_of(const char *text)
{
	struct addr a;

	assert_int_equal(addr_parse(text, strlen(text), &a, NULL), 0);
	return a;
}

static struct str *open_with(const struct connect_self *self, const char *authority, const char *src, const char *trace)
{
	struct addr a = src ? addr_of(src) : (struct addr){.family = AF_UNSPEC};
	struct str *t = str_new(c);
	char copy[300];

	snprintf(copy, sizeof(copy), "%s", authority);
	assert_int_equal(connect_open(&c->h2, &t->s, self, copy, strlen(copy), &a, trace), 0);
	memset(copy, 'x', sizeof(copy)); /* it was copied */
	t->id = t->s.id;
	return t;
}

static struct connect_self self_of(const struct cfg_node *n)
{
	struct connect_self self;

	assert_int_equal(connect_self_init(&self, n, "spiffe://td/ns/shop/sa/web"), 0);
	return self;
}

/* ---- requests ---- */

static void a_request_is_what_hbone_says(void **state)
{
	struct cfg_node n = node_full();
	struct connect_self self = self_of(&n);
	struct frame f = {0};

	(void)state;
	open_with(&self, "10.0.0.7:8080", "10.0.0.3:41234", TRACE);
	assert_int_equal(side_flush(c), 0);
	assert_int_equal(wire_count(c, 0, NGHTTP2_HEADERS, 0, &f), 1);
	assert_int_equal(f.flags, NGHTTP2_FLAG_END_HEADERS); /* no END_STREAM, no priority */
	settle();
	is_exactly(&request, ":method: CONNECT", ":authority: 10.0.0.7:8080", BAGGAGE, "x-client-id: node-a", "x-tenant: blue",
		   "forwarded: for=\"10.0.0.3:41234\"", "traceparent: " TRACE, NULL); /* no :scheme, :path, content-length */
	assert_int_equal(request.flags, 0);
	connect_self_finish(&self);
}

static void authorities_go_as_they_are(void **state)
{
	static const char *const text[] = {"[2001:db8::7]:8080", "echo.ns.svc.cluster.local:80", "127.0.0.1:1"};
	struct cfg_node n = {.id = "n"};
	struct connect_self self = self_of(&n);
	char want[100];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(text); i++) {
		open_with(&self, text[i], NULL, NULL);
		settle();
		snprintf(want, sizeof(want), ":authority: %s", text[i]);
		is_exactly(&request, ":method: CONNECT", want, NULL);
	}
	connect_self_finish(&self);
}

static void what_is_switched_off_is_not_sent(void **state)
{
	struct cfg_node n = node_full();
	struct connect_self self;

	(void)state;
	n.send_baggage = n.send_forwarded = n.send_traceparent = false;
	n.n_request_headers = 0;
	self = self_of(&n);
	open_with(&self, "10.0.0.7:8080", "10.0.0.3:41234", TRACE);
	settle();
	is_exactly(&request, ":method: CONNECT", ":authority: 10.0.0.7:8080", NULL);
	connect_self_finish(&self);
}

static void what_is_not_known_is_not_sent(void **state)
{
	struct cfg_node n = {.id = "n", .send_baggage = true, .send_forwarded = true, .send_traceparent = true};
	struct connect_self self;

	(void)state;
	n.request_headers = (struct cfg_kv[]){{"x-empty", ""}};
	n.n_request_headers = 1;
	self = self_of(&n);
	open_with(&self, "10.0.0.7:8080", NULL, NULL);
	settle();
	is_exactly(&request, ":method: CONNECT", ":authority: 10.0.0.7:8080", "baggage: adit.node.id=n", NULL);
	connect_self_finish(&self);
}

static void ipv6_sources_are_in_brackets(void **state)
{
	struct cfg_node n = {.id = "n", .send_forwarded = true};
	struct connect_self self = self_of(&n);

	(void)state;
	open_with(&self, "10.0.0.7:8080", "[2001:db8::3]:41234", NULL);
	settle();
	is_exactly(&request, ":method: CONNECT", ":authority: 10.0.0.7:8080", "forwarded: for=\"[2001:db8::3]:41234\"", NULL);
	connect_self_finish(&self);
}

static void peer_metadata_is_sent_when_wanted(void **state)
{
	struct cfg_node n = {.id = "sidecar~10.0.0.3~web.shop~shop.local", .namespace_ = "shop", .send_peer_metadata = true};
	struct connect_self self = self_of(&n);

	(void)state;
	open_with(&self, "10.0.0.7:8080", NULL, NULL);
	settle();
	assert_int_equal(request.n, 4);
	assert_string_equal(request.text[2], "x-envoy-peer-metadata-id: sidecar~10.0.0.3~web.shop~shop.local");
	assert_memory_equal(request.text[3], "x-envoy-peer-metadata: ", 23);
	connect_self_finish(&self);
}

/* who takes the short way sees what a peer would have been sent */
static void headers_said_are_headers_sent(void **state)
{
	struct cfg_node node = node_full();
	struct header h[CONNECT_SELF_NV + 8];
	struct connect_self self;
	char fwd[FORWARDED_MAX];
	struct addr src;
	struct seen said;

	(void)state;
	node.send_peer_metadata = true;
	for (int i = 0; i < 2; i++) {
		const char *from = i ? "[2001:db8::3]:41234" : NULL;

		assert_int_equal(connect_self_init(&self, &node, "spiffe://td/ns/shop/sa/web"), 0);
		open_with(&self, "echo.shop:80", from, TRACE);
		settle();
		src = from ? addr_of(from) : (struct addr){.family = AF_UNSPEC};
		note(&said, h, connect_headers(&self, "echo.shop:80", 12, &src, TRACE, fwd, h), 0);
		assert_int_equal(said.n, request.n);
		for (size_t k = 0; k < said.n; k++)
			assert_string_equal(said.text[k], request.text[k]);
		connect_self_finish(&self);
	}
}

static void the_second_request_costs_little(void **state)
{
	struct cfg_node n = node_full();
	struct connect_self self = self_of(&n);
	struct frame f = {0};
	uint32_t first = 0;
	char src[32], trace[TRACEPARENT_LEN + 1];

	(void)state;
	for (int i = 0; i < 90; i++) { /* each from another port, with another trace */
		snprintf(src, sizeof(src), "10.0.0.3:%d", 10000 + i);
		snprintf(trace, sizeof(trace), "00-0123456789abcdef0123456789abc%03x-0123456789abcdef-00", i);
		open_with(&self, "10.0.0.7:8080", src, trace);
		assert_int_equal(side_flush(c), 0);
		assert_int_equal(wire_count(c, 0, NGHTTP2_HEADERS, 0, &f), 1);
		if (!i)
			first = f.n;
		else
			assert_in_range(f.n, 10, 90); /* what changes is sent, the rest is an index */
		settle();
		snprintf(request.text[39], sizeof(request.text[39]), "traceparent: %s", trace);
		assert_string_equal(request.text[6], request.text[39]);
	}
	assert_true(first > 200);
	connect_self_finish(&self);
}

static void there_is_room_for_many_headers(void **state)
{
	static struct cfg_kv kv[60];
	static char names[60][32];
	struct cfg_node n = {.id = "n", .send_baggage = true, .send_peer_metadata = true, .send_forwarded = true, .send_traceparent = true};
	struct connect_self self;

	(void)state;
	for (int i = 0; i < 60; i++) {
		snprintf(names[i], sizeof(names[i]), "x-header-%d", i);
		kv[i] = (struct cfg_kv){names[i], "v"};
	}
	n.request_headers = n.response_headers = kv;
	n.n_request_headers = n.n_response_headers = 60;
	self = self_of(&n);
	assert_int_equal(self.n_request, CONNECT_SELF_NV); /* the rest is left out, nothing is overrun */
	assert_int_equal(self.n_response, CONNECT_SELF_NV);
	c->cfg.limits.header_count = s->cfg.limits.header_count = 100;
	{
		struct str *t = str_new(c);
		struct addr a = addr_of("10.0.0.3:1");

		ops.request = side_ops.request; /* more than is written down */
		ops.response = side_ops.response;
		assert_int_equal(connect_open(&c->h2, &t->s, &self, "a:1", 3, &a, TRACE), 0);
		t->id = t->s.id;
		settle();
		assert_int_equal(s->requests, 1);
		assert_int_equal(connect_accept(&s->str[0].s, &self, true), 0);
		settle();
		assert_string_equal(t->status, "200");
	}
	connect_self_finish(&self);
}

/* ---- answers ---- */

static void an_answer_is_what_hbone_says(void **state)
{
	struct cfg_node n = node_full();
	struct connect_self self = self_of(&n);
	struct frame f = {0};

	(void)state;
	open_with(&self, "10.0.0.7:8080", NULL, NULL);
	settle();
	assert_int_equal(connect_accept(&s->str[0].s, &self, false), 0);
	assert_int_equal(side_flush(s), 0);
	assert_int_equal(wire_count(s, 0, NGHTTP2_HEADERS, 0, &f), 1);
	assert_int_equal(f.flags, NGHTTP2_FLAG_END_HEADERS);
	settle();
	is_exactly(&response, ":status: 200", BAGGAGE, "x-server-id: node-b", NULL);
	connect_self_finish(&self);
}

static void peer_metadata_is_answered_in_kind_only(void **state)
{
	struct cfg_node n = {.id = "n", .send_peer_metadata = true};
	struct connect_self self = self_of(&n);

	(void)state;
	for (int asked = 0; asked < 2; asked++) {
		open_with(&self, "10.0.0.7:8080", NULL, NULL);
		settle();
		assert_int_equal(connect_accept(&s->str[asked].s, &self, asked), 0);
		settle();
		assert_int_equal(response.n, asked ? 3 : 1);
		assert_string_equal(response.text[0], ":status: 200");
		if (asked)
			assert_string_equal(response.text[1], "x-envoy-peer-metadata-id: n");
	}
	connect_self_finish(&self);
}

static void a_refusal_has_its_status_and_an_end(void **state)
{
	static const int status[] = {400, 401, 403, 404, 431, 503, 504};
	struct cfg_node n = node_full();
	struct connect_self self = self_of(&n);
	char want[20];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(status); i++) {
		struct str *t = open_with(&self, "10.0.0.7:8080", NULL, NULL);

		settle();
		connect_refuse(&s->h2, t->id, status[i], &self, i % 2 ? "no\nway" : NULL);
		settle();
		snprintf(want, sizeof(want), ":status: %d", status[i]);
		is_exactly(&response, want, BAGGAGE, "x-server-id: node-b", i % 2 ? "adit-reason: no?way" : NULL, NULL);
		assert_int_equal(response.flags, H2_HEADERS_END);
		assert_true(t->closed);
		assert_int_equal(t->code, NGHTTP2_NO_ERROR);
	}
	assert_int_equal(s->h2.streams, 0);
	connect_self_finish(&self);
}

/* ---- taking a request apart ---- */

#define H(n_, v_) {{n_, sizeof(n_) - 1}, {v_, sizeof(v_) - 1}}

static void a_good_request_is_taken_apart(void **state)
{
	static const struct header h[] = {
		H(":method", "CONNECT"),
		H(":authority", "[2001:db8::7]:8080"),
		H("forwarded", "for=\"10.0.0.3:41234\";host=x"),
		H("traceparent", TRACE),
		H("x-envoy-peer-metadata-id", "n"),
		H("baggage", "a=b"),
	};
	struct connect_in in;
	struct err e = {""};
	struct addr to = addr_of("[2001:db8::7]:8080"), from = addr_of("10.0.0.3:41234");

	(void)state;
	assert_int_equal(connect_parse(h, ARRAY_LEN(h), 0, &in, &e), 0);
	assert_true(slice_is(in.authority, "[2001:db8::7]:8080"));
	assert_int_equal(in.to.port, 8080);
	assert_true(addr_eq(&in.to.addr, &to));
	assert_true(addr_eq(&in.forwarded, &from));
	assert_true(in.has_trace);
	assert_string_equal(in.trace.trace_id, "0123456789abcdef0123456789abcdef");
	assert_true(in.has_peer_md);
	assert_string_equal(e.msg, "");
}

static void three_forms_of_authority(void **state)
{
	static const char *const text[] = {"10.0.0.7:80", "[::1]:443", "db.example:5432"};
	struct connect_in in;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(text); i++) {
		struct header h[] = {H(":method", "CONNECT"), {{":authority", 10}, {text[i], strlen(text[i])}}};

		assert_int_equal(connect_parse(h, 2, 0, &in, NULL), 0);
		assert_int_equal(in.to.addr.family, i == 0 ? AF_INET : i == 1 ? AF_INET6 : AF_UNSPEC);
	}
}

static void a_bad_request_is_400_with_the_reason(void **state)
{
	static const struct {
		const char *method, *authority;
		unsigned int flags;
		int status;
		const char *why;
	} bad[] = {
		{"GET", "a:1", 0, 400, "only CONNECT"},
		{"connect", "a:1", 0, 400, "only CONNECT"},
		{NULL, "a:1", 0, 400, "only CONNECT"},
		{"CONNECT", NULL, 0, 400, ":authority is missing"},
		{"CONNECT", "", 0, 400, ""},
		{"CONNECT", "a", 0, 400, "port"},
		{"CONNECT", "a:0", 0, 400, "port"},
		{"CONNECT", "a:65536", 0, 400, "port"},
		{"CONNECT", ":80", 0, 400, ""},
		{"CONNECT", "[::1", 0, 400, ""},
		{"CONNECT", "user@a:80", 0, 400, ""},
		{"CONNECT", "a b:80", 0, 400, ""},
		{"CONNECT", "a:1", H2_HEADERS_END, 400, "END_STREAM"},
		{"CONNECT", "a:1", H2_HEADERS_TOO_BIG, 431, "too large"},
		{NULL, NULL, H2_HEADERS_TOO_BIG, 431, "too large"},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct header h[2];
		struct connect_in in;
		struct err e = {""};
		size_t n = 0;

		if (bad[i].method)
			h[n++] = (struct header){{":method", 7}, {bad[i].method, strlen(bad[i].method)}};
		if (bad[i].authority)
			h[n++] = (struct header){{":authority", 10}, {bad[i].authority, strlen(bad[i].authority)}};
		assert_int_equal(connect_parse(h, n, bad[i].flags, &in, &e), bad[i].status);
		assert_string_not_equal(e.msg, "");
		if (!strstr(e.msg, bad[i].why))
			fail_msg("%zu: '%s', not '%s'", i, e.msg, bad[i].why);
		assert_int_equal(connect_parse(h, n, bad[i].flags, &in, NULL), bad[i].status); /* nobody needs the sentence */
	}
}

static void what_is_malformed_beside_it_is_no_reason_to_refuse(void **state)
{
	static const struct header h[] = {
		H(":method", "CONNECT"),
		H(":authority", "a:1"),
		H("forwarded", "for=unknown"),
		H("traceparent", "00-zz"),
	};
	struct connect_in in;

	(void)state;
	assert_int_equal(connect_parse(h, ARRAY_LEN(h), 0, &in, NULL), 0);
	assert_int_equal(in.forwarded.family, AF_UNSPEC);
	assert_false(in.has_trace);
	assert_false(in.has_peer_md);
}

static void a_status_is_read(void **state)
{
	static const struct header ok[] = {H("x", "y"), H(":status", "200")}, none[] = {H("x", "200")}, odd[] = {H(":status", "20")};

	(void)state;
	assert_int_equal(connect_status(ok, 2), 200);
	assert_int_equal(connect_status(none, 1), 0);
	assert_int_equal(connect_status(odd, 1), 0);
	assert_int_equal(connect_status(NULL, 0), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_request_is_what_hbone_says),
		T(authorities_go_as_they_are),
		T(what_is_switched_off_is_not_sent),
		T(what_is_not_known_is_not_sent),
		T(ipv6_sources_are_in_brackets),
		T(peer_metadata_is_sent_when_wanted),
		T(headers_said_are_headers_sent),
		T(the_second_request_costs_little),
		T(there_is_room_for_many_headers),
		T(an_answer_is_what_hbone_says),
		T(peer_metadata_is_answered_in_kind_only),
		T(a_refusal_has_its_status_and_an_end),
		cmocka_unit_test(a_good_request_is_taken_apart),
		cmocka_unit_test(three_forms_of_authority),
		cmocka_unit_test(a_bad_request_is_400_with_the_reason),
		cmocka_unit_test(what_is_malformed_beside_it_is_no_reason_to_refuse),
		cmocka_unit_test(a_status_is_read),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
