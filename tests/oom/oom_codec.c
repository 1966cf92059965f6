/* Metadata and routes when memory runs out: a reason is given, nothing is lost, and nothing half made is handed out. */
#include "oom/oom.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include <errno.h>
#include "base/clean.h"
#include "codec/metadata.h"
#include "policy/route.h"

#define H(name, text)                          \
	{                                      \
		{name, sizeof(name) - 1},      \
		{                              \
			text, sizeof(text) - 1 \
		}                              \
	}

static const struct header extra[] = {H("team", "blue")};
static const struct metadata_self self = {
	.node_id = "n1",
	.known = {[MD_NAMESPACE] = "shop", [MD_WORKLOAD] = "web", [MD_WORKLOAD_TYPE] = "pod", [MD_SERVICE] = "web"},
	.extra = extra,
	.n_extra = 1,
};

/* region = eu, and our own baggage */
static const struct header headers[] = {H("baggage", "k8s.namespace.name=shop,a=%41"), H("x-client-id", "c"),
					H("x-envoy-peer-metadata", "Cg4KBlJFR0lPThIEGgJldQ==")};

static void build_once(void)
{
	struct metadata_limits lim = {8192, 64};
	int err = 1;
	struct metadata *m = metadata_build(headers, ARRAY_LEN(headers), &lim, &err);

	if (!m) {
		assert_int_equal(err, -ENOMEM);
		assert_true(oom_struck());
		return;
	}
	assert_int_equal(err, 0);
	assert_int_equal(m->n, 4);
	metadata_put(m);
}

static void a_block_is_whole_or_not_there(void **state)
{
	(void)state;
	assert_int_equal(oom_sweep(build_once), 1); /* one allocation for each CONNECT */
}

static void nothing_once(void)
{
	static const struct header nothing[] = {H(":method", "CONNECT")};
	struct metadata_limits lim = {8192, 64};
	int err = 1;

	assert_null(metadata_build(nothing, 1, &lim, &err));
	assert_int_equal(err, 0);
}

static void nothing_to_keep_needs_no_memory(void **state)
{
	(void)state;
	assert_int_equal(oom_sweep(nothing_once), 0);
}

static void say_once(void)
{
	AUTO_FREE char *baggage = baggage_encode(&self);
	AUTO_FREE char *peer = peer_metadata_encode(&self, "spiffe://td/ns/shop/sa/web");

	assert_true((baggage && peer) || oom_struck());
	if (baggage)
		assert_string_equal(
			baggage, "k8s.namespace.name=shop,k8s.pod.name=web,service.name=web,adit.node.id=n1,team=blue");
}

static void what_we_say_is_whole_or_not_there(void **state)
{
	(void)state;
	assert_true(oom_sweep(say_once) >= 3);
}

static struct cfg_match regex = {.kind = MATCH_REGEX, .text = "(b|l|u|e)+"};

static void route_once(void)
{
	struct cfg_header_match blue = {"x-tenant", regex};
	struct cfg_route r = {.headers = &blue, .n_headers = 1};
	struct cfg_listener l = {.routes = &r, .n_routes = 1};
	const struct header h[] = {H("x-tenant", "blue")};
	struct route_input in = {.headers = h, .n_headers = 1};

	assert_ptr_equal(route_find(&l, &in), &r);
}

static void routing_needs_no_memory(void **state)
{
	(void)state;
	assert_int_equal(match_compile(&regex, NULL), 0);
	assert_int_equal(oom_sweep(route_once), 0);
	match_release(&regex);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_block_is_whole_or_not_there),
		cmocka_unit_test(nothing_to_keep_needs_no_memory),
		cmocka_unit_test(what_we_say_is_whole_or_not_there),
		cmocka_unit_test(routing_needs_no_memory),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
