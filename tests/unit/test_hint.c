/* What is said beside an errno: the cause to look at first. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "../../daemon/net/hint.c"
#include <adit/meta.h>
#include "tunnel/connect.h"

static void every_known_error_has_a_hint_either_way(void **state)
{
	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(hints); i++)
		for (int to = NET_TUNNEL; to <= NET_BACKEND; to++) {
			const char *s = net_hint(hints[i].e, (enum net_to)to);

			assert_ptr_equal(s, net_hint(-hints[i].e, (enum net_to)to));
			assert_true(s[0] == ';' && s[1] == ' ' && s[2]); /* it goes on after the kernel's words */
			assert_non_null(strstr(net_error(hints[i].e, (enum net_to)to), strerror(hints[i].e)));
			assert_non_null(strstr(net_error(-hints[i].e, (enum net_to)to), s));
			for (size_t k = 0; k < i; k++)
				assert_int_not_equal(hints[i].e, hints[k].e);
		}
	assert_string_equal(net_hint(EIO, NET_TUNNEL), "");
	assert_string_equal(net_error(EIO, NET_TUNNEL), strerror(EIO));
}

static void the_most_asked_ones(void **state)
{
	(void)state;
	assert_string_equal(net_error(ECONNREFUSED, NET_TUNNEL), "Connection refused; is the agent running there?");
	assert_non_null(strstr(net_error(ETIMEDOUT, NET_TUNNEL), "does a firewall block the tunnel port?"));
	assert_non_null(strstr(net_error(EADDRNOTAVAIL, NET_BACKEND), "ip_local_port_range"));
	assert_non_null(strstr(net_error(EADDRNOTAVAIL, NET_BACKEND), "source: client"));
	assert_non_null(strstr(net_error(EMFILE, NET_BACKEND), "LimitNOFILE="));
	assert_non_null(strstr(net_dns_hint(ARES_ENOTFOUND), "is it spelt right?"));
	assert_non_null(strstr(net_dns_hint(ARES_ETIMEOUT), "port 53"));
	assert_non_null(strstr(net_dns_hint(ARES_ECONNREFUSED), "/etc/resolv.conf"));
	assert_string_equal(net_dns_hint(ARES_SUCCESS), "");
}

static void statuses_say_whose_log_to_read(void **state)
{
	static const int known[] = {400, 401, 403, 404, 407, 429, 431, 502, 503, 504, 0};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(known); i++)
		assert_int_equal(connect_status_hint(known[i])[0], ';');
	assert_string_equal(connect_status_hint(418), "");
}

static void a_peers_reason_is_quoted_and_cut(void **state)
{
	static char big[2000];
	char out[META_REASON_MAX + 16];
	struct header h[2] = {{{":status", 7}, {"503", 3}}, {{"adit-reason", 11}, {"no\x1b[2J \"way\"", 12}}};

	(void)state;
	assert_true(connect_reason(h, 2, out, sizeof(out)) > 0);
	assert_string_equal(out, "\"no\\x1b[2J \\\"way\\\"\"");
	assert_int_equal(connect_reason(h, 1, out, sizeof(out)), 0);
	assert_string_equal(out, "");
	memset(big, 'x', sizeof(big));
	h[1].value = (struct slice){big, sizeof(big)};
	assert_int_equal(connect_reason(h, 2, out, sizeof(out)), META_REASON_MAX + 2);
	h[1].value.n = 0;
	assert_int_equal(connect_reason(h, 2, out, sizeof(out)), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(every_known_error_has_a_hint_either_way),
		cmocka_unit_test(the_most_asked_ones),
		cmocka_unit_test(statuses_say_whose_log_to_read),
		cmocka_unit_test(a_peers_reason_is_quoted_and_cut),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
