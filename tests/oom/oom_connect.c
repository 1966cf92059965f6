/* CONNECT when memory runs out: what we say of ourselves is whole or not there, and no stream is left half opened or half answered. */
/* link: -Wl,--wrap=nghttp2_session_server_new2 -Wl,--wrap=nghttp2_session_client_new2 -Wl,--wrap=nghttp2_session_callbacks_new -Wl,--wrap=nghttp2_option_new */
#include "oom/oom.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#define STREAMS 16
#include "oom/h2_memory.h"
#include "tunnel/connect.h"
#include "unit/h2_pair.h"

static struct cfg_kv headers[] = {{"x-client-id", "node-a"}, {"x-tenant", "blue"}};
static struct cfg_kv members[] = {{"team", "red"}};
static const struct cfg_node node = {
	.id = "node-a",
	.namespace_ = "shop",
	.workload = "web",
	.service = "web",
	.metadata = members,
	.n_metadata = 1,
	.request_headers = headers,
	.n_request_headers = 2,
	.response_headers = headers,
	.n_response_headers = 2,
	.send_baggage = true,
	.send_forwarded = true,
	.send_traceparent = true,
	.send_peer_metadata = true,
};

static struct connect_self self;
static struct side *c, *s;

static void self_once(void)
{
	struct connect_self me;
	int r = connect_self_init(&me, &node, "spiffe://td/ns/shop/sa/web");

	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_true(oom_struck());
		connect_self_finish(&me); /* as the worker does with all of them */
		return;
	}
	assert_false(oom_struck());
	assert_int_equal(me.n_request, 3);
	assert_int_equal(me.n_response, 3);
	assert_int_equal(me.n_peer, 2);
	connect_self_finish(&me);
}

static void what_we_say_is_whole_or_not_there(void **state)
{
	(void)state;
	assert_true(oom_sweep(self_once) >= 3);
}

static void parse_once(void)
{
	static const struct header h[] = {
		{{":method", 7}, {"CONNECT", 7}},
		{{":authority", 10}, {"10.0.0.7:80", 11}},
		{{"forwarded", 9}, {"for=\"10.0.0.3:41234\"", 20}},
	};
	struct connect_in in;

	assert_int_equal(connect_parse(h, 3, 0, &in, NULL), 0);
	assert_int_equal(connect_status(h, 3), 0);
}

static void taking_apart_needs_no_memory(void **state)
{
	(void)state;
	assert_int_equal(oom_sweep(parse_once), 0);
}

static void begin(struct side *x)
{
	memset(x->str, 0, STREAMS * sizeof(*x->str));
	memset(&x->h2, 0, sizeof(x->h2));
	x->n = x->n_str = 0;
	x->no_answer = true;
}

static bool settle(void)
{
	for (int i = 0; i < 50; i++) {
		size_t moved;
		int r[4] = {side_flush(c), side_flush(s)};

		moved = c->n + s->n;
		r[2] = c->n ? h2_input(&s->h2, c->wire, c->n) : 0;
		c->n = 0;
		r[3] = s->n ? h2_input(&c->h2, s->wire, s->n) : 0;
		s->n = 0;
		for (int k = 0; k < 4; k++)
			if (r[k] < 0) {
				assert_true(oom_struck());
				return false;
			}
		if (!moved)
			return true;
	}
	return false;
}

/* one accepted, one refused */
static void both(void)
{
	struct addr src = {.family = AF_INET, .port = 41234, .ip = {10, 0, 0, 3}};
	struct str *t[2] = {str_new(c), str_new(c)};

	for (int i = 0; i < 2; i++) {
		int r = connect_open(&c->h2, &t[i]->s, &self, "10.0.0.7:80", 11, &src,
				     "00-0123456789abcdef0123456789abcdef-0123456789abcdef-00");

		t[i]->id = t[i]->s.id;
		if (r < 0) {
			assert_true(oom_struck());
			assert_true(r == -ENOMEM || r == -ESTALE);
			assert_int_equal(t[i]->s.id, 0); /* nothing to clean up */
			return;
		}
	}
	if (!settle() || s->n_str < 2) {
		assert_true(oom_struck());
		return;
	}
	if (s->str[0].s.id && connect_accept(&s->str[0].s, &self, true) < 0) {
		assert_true(oom_struck());
		h2_reset(&s->str[0].s, NGHTTP2_INTERNAL_ERROR);
	}
	if (s->str[1].s.id)
		connect_refuse(&s->h2, s->str[1].s.id, 503, &self, "why");
	assert_int_equal(s->str[1].s.id, 0);
	if (!settle() || oom_struck())
		return;
	assert_string_equal(t[0]->status, "200");
	assert_string_equal(t[1]->status, "503");
	assert_true(t[1]->closed);
}

static void both_once(void)
{
	begin(c);
	begin(s);
	if (h2_init(&c->h2, &c->l, false, 0, &side_ops, c) == 0 && h2_init(&s->h2, &s->l, true, 10, &side_ops, s) == 0 && settle())
		both();
	else
		assert_true(oom_struck());
	h2_abort(&c->h2);
	h2_abort(&s->h2);
	for (unsigned int i = 0; i < c->n_str; i++)
		assert_in_range(c->str[i].n_closed, 0, 1);
	assert_int_equal(c->h2.streams | s->h2.streams, 0);
}

static void no_stream_is_left_half_open(void **state)
{
	(void)state;
	assert_true(oom_sweep(both_once) >= 50);
}

static int setup(void **state)
{
	(void)state;
	for (int i = 0; i < 2; i++) {
		struct side *x = side_new();

		if (!x)
			return -1;
		x->cap = 1 << 20;
		x->wire = malloc(x->cap);
		if (!x->wire)
			return -1;
		*(i ? &s : &c) = x;
	}
	return connect_self_init(&self, &node, "spiffe://td/ns/shop/sa/web");
}

static int teardown(void **state)
{
	(void)state;
	connect_self_finish(&self);
	side_free(c);
	side_free(s);
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_we_say_is_whole_or_not_there),
		cmocka_unit_test(taking_apart_needs_no_memory),
		cmocka_unit_test(no_stream_is_left_half_open),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
