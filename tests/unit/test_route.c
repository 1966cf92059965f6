/* Routes (row A13): first match wins, conditions are AND-ed, and a peer cannot spell or tire its way past one. */
#include "../../daemon/policy/route.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <cmocka.h>
#include "base/clean.h"
#include "codec/authority.h"
#include "codec/metadata.h"
#include "rand.h"

#define H(name, text)                          \
	{                                      \
		{name, sizeof(name) - 1},      \
		{                              \
			text, sizeof(text) - 1 \
		}                              \
	}

static struct slice text_of(const char *s)
{
	return (struct slice){s, s ? strlen(s) : 0};
}

static struct cidr net_of(const char *s)
{
	struct cidr c;

	assert_int_equal(cidr_parse(s, strlen(s), &c, NULL), 0);
	return c;
}

/* What a worker makes of an :authority. */
static struct route_input input_of(const char *authority)
{
	struct authority a;

	assert_int_equal(authority_parse(authority, strlen(authority), &a, NULL), 0);
	return (struct route_input){.authority = text_of(authority), .addr = a.addr, .port = a.port};
}

static struct cfg_match regex_of(const char *text)
{
	struct cfg_match m = {.kind = MATCH_REGEX, .text = text};
	struct err e = {{0}};

	if (match_compile(&m, &e) < 0)
		fail_msg("%s", e.msg);
	return m;
}

/* ---- one text */

static void texts_match_by_kind(void **state)
{
	static const struct {
		enum cfg_match_kind kind;
		const char *pattern, *text;
		bool yes;
	} t[] = {
		{MATCH_EXACT, "blue", "blue", true},
		{MATCH_EXACT, "blue", "blu", false},
		{MATCH_EXACT, "blue", "blues", false},
		{MATCH_EXACT, "blue", "Blue", false},
		{MATCH_EXACT, "", "", true},
		{MATCH_EXACT, "", "x", false},
		{MATCH_PREFIX, "blue", "blues", true},
		{MATCH_PREFIX, "blue", "blu", false},
		{MATCH_PREFIX, "", "", true},
		{MATCH_SUFFIX, ".local", "a.local", true},
		{MATCH_SUFFIX, ".local", "local", false},
		{MATCH_SUFFIX, "", "x", true},
		{MATCH_PRESENT, NULL, "", true},
		{MATCH_PRESENT, NULL, "x", true},
		{MATCH_EXACT, "blue", NULL, false},
		{MATCH_PREFIX, "", NULL, false},
		{MATCH_SUFFIX, "", NULL, false},
		{MATCH_PRESENT, NULL, NULL, false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct cfg_match m = {.kind = t[i].kind, .text = t[i].pattern};

		assert_int_equal(match_text(&m, text_of(t[i].text)), t[i].yes);
		m.invert = true;
		assert_int_equal(match_text(&m, text_of(t[i].text)), !t[i].yes);
	}
}

static void a_regex_matches_the_whole_text(void **state)
{
	static const struct {
		const char *pattern, *text;
		bool yes;
	} t[] = {
		{"b(lue|lack)", "blue", true},
		{"b(lue|lack)", "black", true},
		{"b(lue|lack)", "blues", false},
		{"b(lue|lack)", "ablue", false},
		{"a|ab", "ab", true},
		{".*", "", true},
		{"", "", true},
		{"", "x", false},
		{"v[0-9]+", "v12", true},
		{"(?i)BLUE", "blue", true},
		{"a.c", "a\nc", true},
		{"blue", NULL, false},
		{"blue", "blue\n", false},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct cfg_match m = regex_of(t[i].pattern);

		if (match_text(&m, text_of(t[i].text)) != t[i].yes)
			fail_msg("'%s' and '%s'", t[i].pattern, t[i].text);
		m.invert = true;
		assert_int_equal(match_text(&m, text_of(t[i].text)), !t[i].yes);
		match_release(&m);
	}
}

static void bytes_that_are_no_utf8_are_matched_as_bytes(void **state)
{
	struct cfg_match m = regex_of("a.+z");

	(void)state;
	assert_true(match_text(&m, SLICE("a\xff\xfe\0z")));
	match_release(&m);
}

static void a_regex_that_is_wrong_says_where(void **state)
{
	static const char *const bad[] = {"(", "a)", "[", "*", "a{2,1}", "\\", "(?<x", "\\C", "(*UTF)a", "(?1)"};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		struct cfg_match m = {.kind = MATCH_REGEX, .text = bad[i]};
		struct err e = {{0}};

		assert_int_equal(match_compile(&m, &e), -EINVAL);
		assert_null(m.regex);
		assert_non_null(strstr(e.msg, bad[i]));
		assert_non_null(strstr(e.msg, "offset"));
		assert_int_equal(match_compile(&m, NULL), -EINVAL);
		match_release(&m);
	}
}

static void only_regexes_are_compiled(void **state)
{
	struct cfg_match m = {.kind = MATCH_EXACT, .text = "("};

	(void)state;
	assert_int_equal(match_compile(&m, NULL), 0);
	assert_null(m.regex);
	match_release(&m);
	m = regex_of("a");
	assert_int_equal(match_compile(&m, NULL), 0); /* again: nothing is lost */
	match_release(&m);
	match_release(&m);
	assert_false(match_text(&m, SLICE("a"))); /* released: no */
}

static void a_regex_that_gets_tired_says_no_also_when_inverted(void **state)
{
	static const char *const evil[] = {"(a+)+[bc]", "(a|aa)+[bc]", "(.*)(.*)(.*)(.*)(.*)[bc]", "((((a*)*)*)*)*[bc]",
					   "(a?){40}a{40}[bc]"};
	static char text[REGEX_TEXT_MAX + 1];

	(void)state;
	memset(text, 'a', sizeof(text));
	for (size_t i = 0; i < ARRAY_LEN(evil); i++) {
		struct cfg_match m = regex_of(evil[i]);

		assert_false(match_text(&m, (struct slice){text, 60}));
		assert_false(match_text(&m, (struct slice){text, REGEX_TEXT_MAX}));
		m.invert = true;
		assert_false(match_text(&m, (struct slice){text, 60}));
		assert_false(match_text(&m, (struct slice){text, REGEX_TEXT_MAX}));
		assert_true(match_text(&m, SLICE("x"))); /* not tired: an ordinary no */
		match_release(&m);
	}
}

static void ordinary_regexes_do_not_get_tired(void **state)
{
	static const char *const good[] = {
		".*", "a+", "(a)+", "(?:a|b)*", "[^b]*(a)(a)(.*)a", "a*a*a*", "(?:(?:a{10})*a*)"};
	static char text[REGEX_TEXT_MAX + 1];

	(void)state;
	memset(text, 'a', sizeof(text));
	for (size_t i = 0; i < ARRAY_LEN(good); i++) {
		struct cfg_match m = regex_of(good[i]);

		assert_true(match_text(&m, (struct slice){text, 500}));
		match_release(&m);
	}
	for (int invert = 0; invert < 2; invert++) { /* longer than a regex is run on */
		struct cfg_match m = regex_of(".*");

		m.invert = invert;
		assert_int_equal(match_text(&m, (struct slice){text, REGEX_TEXT_MAX}), !invert);
		assert_false(match_text(&m, (struct slice){text, REGEX_TEXT_MAX + 1}));
		match_release(&m);
	}
}

/* ---- routes */

static void no_route_is_no_match_and_no_condition_matches_all(void **state)
{
	struct cfg_route r[2] = {{.name = "any"}, {.name = "never"}};
	struct cfg_listener l = {.routes = NULL};
	struct route_input in = input_of("a:1"), empty = {.port = 0};

	(void)state;
	assert_null(route_find(&l, &in));
	l.routes = r;
	l.n_routes = 2;
	assert_ptr_equal(route_find(&l, &in), &r[0]);
	assert_ptr_equal(route_find(&l, &empty), &r[0]);
}

static void A13_a_header_picks_the_upstream(void **state)
{
	struct cfg_header_match blue = {"x-tenant", {.kind = MATCH_EXACT, .text = "blue"}};
	struct cfg_header_match none = {"x-tenant", {.kind = MATCH_PRESENT, .invert = true}};
	struct cfg_route r[] = {{.name = "blue", .headers = &blue, .n_headers = 1},
				{.name = "default", .headers = &none, .n_headers = 1}};
	struct cfg_listener l = {.routes = r, .n_routes = 2};
	const struct header is_blue[] = {H("x-client-id", "1"), H("x-tenant", "blue")},
			    is_red[] = {H("x-tenant", "red")};
	struct route_input in = input_of("a:1");

	(void)state;
	assert_ptr_equal(route_find(&l, &in), &r[1]); /* absent: default */
	in.headers = is_blue;
	in.n_headers = 2;
	assert_ptr_equal(route_find(&l, &in), &r[0]);
	in.headers = is_red;
	in.n_headers = 1;
	assert_null(route_find(&l, &in)); /* 404 and NR, says the caller */
}

static void A13_decoded_metadata_is_matched_under_its_names(void **state)
{
	struct cfg_header_match shop = {"k8s.namespace.name", {.kind = MATCH_EXACT, .text = "shop"}};
	struct cfg_route r = {.headers = &shop, .n_headers = 1};
	struct cfg_listener l = {.routes = &r, .n_routes = 1};
	struct header h = H("baggage", "k8s.namespace.name=sh%6fp");
	const struct header contrary[] = {H("k8s.namespace.name", "other")};
	struct metadata_limits lim = {8192, 64};
	struct route_input in = input_of("a:1");
	int err;

	(void)state;
	in.headers = &h;
	in.n_headers = 1;
	assert_null(route_find(&l, &in));
	in.md = metadata_build(&h, 1, &lim, &err);
	assert_ptr_equal(route_find(&l, &in), &r);
	in.n_headers = 0; /* an inner listener that has only the metadata */
	assert_ptr_equal(route_find(&l, &in), &r);
	in.headers = contrary; /* headers come first */
	in.n_headers = 1;
	assert_null(route_find(&l, &in));
	metadata_put((struct metadata *)in.md);
}

static void all_conditions_must_hold(void **state)
{
	struct cfg_match authority = {.kind = MATCH_PREFIX, .text = "10."};
	struct cidr net = net_of("10.0.0.0/8");
	struct cfg_header_match hm[] = {{"a", {.kind = MATCH_EXACT, .text = "1"}},
					{"b", {.kind = MATCH_EXACT, .text = "2"}}};
	struct cfg_route r = {
		.authority = &authority, .cidr = &net, .n_cidr = 1, .port = 80, .headers = hm, .n_headers = 2};
	struct cfg_listener l = {.routes = &r, .n_routes = 1};
	const struct header both[] = {H("a", "1"), H("b", "2")};
	struct route_input in = input_of("10.0.0.7:80"), other;

	(void)state;
	in.headers = both;
	in.n_headers = 2;
	assert_ptr_equal(route_find(&l, &in), &r);
	in.n_headers = 1;
	assert_null(route_find(&l, &in));
	in.n_headers = 2;
	for (int i = 0; i < 3; i++) {
		static const char *const wrong[] = {"10.0.0.7:81", "11.0.0.7:80", "10.example:80"};

		other = input_of(wrong[i]);
		other.headers = both;
		other.n_headers = 2;
		assert_null(route_find(&l, &other));
	}
}

static void the_first_match_wins(void **state)
{
	struct cfg_match svc = {.kind = MATCH_SUFFIX, .text = ".svc"}, db = {.kind = MATCH_EXACT, .text = "db.svc"};
	struct cfg_route r[] = {{.name = "p", .port = 1},
				{.name = "svc", .authority = &svc},
				{.name = "db", .authority = &db},
				{.name = "rest"}};
	struct cfg_listener l = {.routes = r, .n_routes = 4};
	struct route_input in = input_of("db.svc:5432");

	(void)state;
	assert_string_equal(route_find(&l, &in)->name, "svc");
	in = input_of("db.svc:1");
	assert_string_equal(route_find(&l, &in)->name, "p");
	in = input_of("db.prod:5432");
	assert_string_equal(route_find(&l, &in)->name, "rest");
}

static void authorities_match_with_or_without_port_and_in_any_case(void **state)
{
	static const struct {
		enum cfg_match_kind kind;
		const char *pattern, *authority;
		bool yes;
	} t[] = {
		{MATCH_EXACT, "db.prod:5432", "db.prod:5432", true},
		{MATCH_EXACT, "db.prod:5432", "db.prod:5433", false},
		{MATCH_EXACT, "db.prod", "db.prod:5432", true},
		{MATCH_EXACT, "db.prod", "DB.Prod:5432", true}, /* host names know no case */
		{MATCH_EXACT, "db.prod", "db.prod.evil:5432", false},
		{MATCH_EXACT, "5432", "db.prod:5432", false},
		{MATCH_SUFFIX, ".prod", "db.prod:5432", true},
		{MATCH_SUFFIX, ".prod:5432", "db.PROD:5432", true},
		{MATCH_SUFFIX, ".prod", "db.dev:5432", false},
		{MATCH_PREFIX, "db.", "Db.prod:1", true},
		{MATCH_REGEX, "db[.](prod|dev)", "dB.prod:5432", true},
		{MATCH_REGEX, "db[.](prod|dev):[0-9]+", "db.prod:5432", true},
		{MATCH_REGEX, "prod", "db.prod:5432", false},
		{MATCH_EXACT, "[2001:db8::7]", "[2001:DB8::7]:80", true},
		{MATCH_EXACT, "[2001:db8::7]:80", "[2001:db8::7]:80", true},
		{MATCH_EXACT, "[2001:db8:", "[2001:db8::7]:80", false},
		{MATCH_EXACT, "10.0.0.7", "10.0.0.7:8080", true},
		{MATCH_PRESENT, NULL, "a:1", true},
	};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(t); i++) {
		struct cfg_match m = {.kind = t[i].kind, .text = t[i].pattern};
		struct cfg_route r = {.authority = &m};
		struct cfg_listener l = {.routes = &r, .n_routes = 1};
		struct route_input in = input_of(t[i].authority);

		assert_int_equal(match_compile(&m, NULL), 0);
		if ((route_find(&l, &in) == &r) != t[i].yes)
			fail_msg("'%s' and '%s'", t[i].pattern, t[i].authority);
		m.invert = true;
		assert_int_equal(route_find(&l, &in) == &r, !t[i].yes);
		match_release(&m);
	}
}

static void networks_match_literal_addresses_only(void **state)
{
	struct cidr nets[3] = {net_of("10.1.0.0/16"), net_of("2001:db8::/32"), net_of("192.0.2.1:8000-8010")};
	struct cfg_route r = {.cidr = nets, .n_cidr = 3};
	struct cfg_listener l = {.routes = &r, .n_routes = 1};
	static const char *const in_it[] = {"10.1.2.3:1", "[2001:db8::1]:1", "192.0.2.1:8000", "192.0.2.1:8010",
					    "[::ffff:10.1.9.9]:1"};
	static const char *const not_in_it[] = {"10.2.0.0:1",	  "[2001:db9::1]:1", "192.0.2.1:8011",
						"192.0.2.2:8000", "a.b:1",	     "10.1.x:1"};
	struct route_input in;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(in_it); i++) {
		in = input_of(in_it[i]);
		assert_ptr_equal(route_find(&l, &in), &r);
		in.addr.port = 0; /* the port is the input's, wherever the address comes from */
		assert_ptr_equal(route_find(&l, &in), &r);
	}
	for (size_t i = 0; i < ARRAY_LEN(not_in_it); i++) {
		in = input_of(not_in_it[i]);
		assert_null(route_find(&l, &in));
	}
}

static void a_header_that_comes_twice_is_one_value(void **state)
{
	struct cfg_header_match is = {"x", {.kind = MATCH_EXACT, .text = "red, blue"}};
	struct cfg_route r = {.headers = &is, .n_headers = 1};
	struct cfg_listener l = {.routes = &r, .n_routes = 1};
	const struct header h[] = {H("x", "red"), H("y", "1"), H("x", "blue"), H("x", ""), {{"x", 1}, {NULL, 0}}};
	struct route_input in = input_of("a:1");

	(void)state;
	in.headers = h;
	in.n_headers = 3;
	assert_ptr_equal(route_find(&l, &in), &r);
	in.n_headers = 2;
	assert_null(route_find(&l, &in));
	is.match.text = "red, blue, , ";
	in.n_headers = 5;
	assert_ptr_equal(route_find(&l, &in), &r);
	is.match.text = "";
	in.headers = h + 4;
	in.n_headers = 1;
	assert_ptr_equal(route_find(&l, &in), &r); /* present, and empty */
}

static void copies_that_do_not_fit_fail_the_condition(void **state)
{
	static char big[JOINED_MAX];
	struct cfg_header_match not_blue = {"x", {.kind = MATCH_EXACT, .text = "blue", .invert = true}};
	struct cfg_route r = {.headers = &not_blue, .n_headers = 1};
	struct cfg_listener l = {.routes = &r, .n_routes = 1};
	struct header h[2] = {{SLICE("x"), {big, 0}}, {SLICE("x"), {big, 0}}};
	struct route_input in = input_of("a:1");

	(void)state;
	memset(big, 'x', sizeof(big));
	in.headers = h;
	for (size_t first = 0; first <= JOINED_MAX; first += first < JOINED_MAX - 8 && first > 8 ? 101 : 1)
		for (size_t second = JOINED_MAX - 4 - first; (ssize_t)second >= 0 && second <= JOINED_MAX - first;
		     second++) {
			h[0].value.n = first;
			h[1].value.n = second;
			in.n_headers = 2;
			assert_int_equal(route_find(&l, &in) == &r, first + 2 + second <= JOINED_MAX);
			in.n_headers = 1;
			assert_ptr_equal(route_find(&l, &in), &r); /* alone, any length will do */
		}
}

/* ---- against an evaluator written for clearness */

static const char *const words[] = {"", "a", "ab", "b", "ba", "aab"};

static struct cfg_match match_of(struct rnd *r, void *const regexes[])
{
	static const char *const patterns[] = {"a*", "(a|b)+", "b?"};
	struct cfg_match m = {
		.kind = rnd_below(r, 5), .invert = rnd_below(r, 3) == 0, .text = words[rnd_below(r, ARRAY_LEN(words))]};

	if (m.kind == MATCH_REGEX) {
		uint64_t i = rnd_below(r, ARRAY_LEN(patterns));

		m.text = patterns[i];
		m.regex = regexes[i];
	}
	return m;
}

static bool naive_text(const struct cfg_match *m, const char *s)
{
	size_t n = s ? strlen(s) : 0, p = strlen(m->text);
	bool yes = false;

	if (s && m->kind == MATCH_PRESENT)
		yes = true;
	if (s && m->kind == MATCH_EXACT)
		yes = !strcmp(s, m->text);
	if (s && m->kind == MATCH_PREFIX)
		yes = !strncmp(s, m->text, p);
	if (s && m->kind == MATCH_SUFFIX)
		yes = n >= p && !strcmp(s + n - p, m->text);
	if (s && m->kind == MATCH_REGEX && !strcmp(m->text, "a*"))
		yes = strspn(s, "a") == n;
	if (s && m->kind == MATCH_REGEX && !strcmp(m->text, "(a|b)+"))
		yes = n && strspn(s, "ab") == n;
	if (s && m->kind == MATCH_REGEX && !strcmp(m->text, "b?"))
		yes = !strcmp(s, "b") || !n;
	return yes != m->invert;
}

static bool naive_route(const struct cfg_route *r, const char *host, uint16_t port, const char *const values[3])
{
	if (r->port && r->port != port)
		return false;
	if (r->authority) { /* these words have no ':', so the host alone decides, and the whole text only for prefixes */
		struct cfg_match plain = *r->authority;
		char all[32];
		bool yes;

		snprintf(all, sizeof(all), "%s:%u", host, port);
		plain.invert = false;
		yes = naive_text(&plain, all) || naive_text(&plain, host);
		if (yes == r->authority->invert)
			return false;
	}
	for (uint32_t i = 0; i < r->n_headers; i++)
		if (!naive_text(&r->headers[i].match, values[r->headers[i].name[0] - 'x']))
			return false;
	return true;
}

static void routes_are_found_as_a_naive_evaluator_finds_them(void **state)
{
	static const char *const names[] = {"x", "y", "z"}, *const hosts[] = {"a", "ab", "b", "ba"};
	struct cfg_match regexes[3] = {regex_of("a*"), regex_of("(a|b)+"), regex_of("b?")};
	void *const compiled[3] = {regexes[0].regex, regexes[1].regex, regexes[2].regex};
	struct metadata_limits lim = {8192, 64};
	struct rnd r = rnd_start(__func__);
	unsigned int found = 0, missed = 0;

	(void)state;
	for (int round = 0; round < 20000; round++) {
		struct cfg_route routes[6];
		struct cfg_match authority[6];
		struct cfg_header_match hm[6][3];
		struct cfg_listener l = {.routes = routes, .n_routes = (uint32_t)rnd_below(&r, 7)};

		memset(routes, 0, sizeof(routes));
		for (uint32_t i = 0; i < l.n_routes; i++) {
			if (rnd_below(&r, 2)) {
				authority[i] = match_of(&r, compiled);
				routes[i].authority = &authority[i];
			}
			routes[i].port = (uint16_t)rnd_below(&r, 3);
			routes[i].headers = hm[i];
			routes[i].n_headers = (uint32_t)rnd_below(&r, 4);
			for (uint32_t k = 0; k < routes[i].n_headers; k++)
				hm[i][k] = (struct cfg_header_match){names[rnd_below(&r, 3)], match_of(&r, compiled)};
		}
		for (int in_round = 0; in_round < 5; in_round++) {
			const char *values[3], *host = hosts[rnd_below(&r, ARRAY_LEN(hosts))];
			struct header h[3], in_md[3];
			char authority_text[32], spelled[32];
			struct route_input in;
			size_t n_md = 0;
			const struct cfg_route *want = NULL;
			int err;

			in = (struct route_input){.headers = h, .port = (uint16_t)(1 + rnd_below(&r, 2))};
			snprintf(authority_text, sizeof(authority_text), "%s:%u", host, in.port);
			for (size_t i = 0; i <= strlen(authority_text); i++) {
				char c = authority_text[i];

				spelled[i] = c >= 'a' && c <= 'z' && rnd_below(&r, 2) ? (char)(c - 0x20) : c;
			}
			in.authority = text_of(spelled);
			for (int k = 0; k < 3; k++) { /* in a header, in the metadata, or nowhere */
				values[k] = rnd_below(&r, 3) ? words[rnd_below(&r, ARRAY_LEN(words))] : NULL;
				if (!values[k])
					continue;
				if (rnd_below(&r, 2))
					h[in.n_headers++] = (struct header){text_of(names[k]), text_of(values[k])};
				else
					in_md[n_md++] = (struct header){text_of(names[k]), text_of(values[k])};
			}
			in.md = metadata_build(in_md, n_md, &lim, &err);
			for (uint32_t i = 0; i < l.n_routes && !want; i++)
				if (naive_route(&routes[i], host, in.port, values))
					want = &routes[i];
			assert_ptr_equal(route_find(&l, &in), want);
			metadata_put((struct metadata *)in.md);
			want ? found++ : missed++;
		}
	}
	assert_true(found > 1000 && missed > 1000);
	for (int i = 0; i < 3; i++)
		match_release(&regexes[i]);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(texts_match_by_kind),
		cmocka_unit_test(a_regex_matches_the_whole_text),
		cmocka_unit_test(bytes_that_are_no_utf8_are_matched_as_bytes),
		cmocka_unit_test(a_regex_that_is_wrong_says_where),
		cmocka_unit_test(only_regexes_are_compiled),
		cmocka_unit_test(a_regex_that_gets_tired_says_no_also_when_inverted),
		cmocka_unit_test(ordinary_regexes_do_not_get_tired),
		cmocka_unit_test(no_route_is_no_match_and_no_condition_matches_all),
		cmocka_unit_test(A13_a_header_picks_the_upstream),
		cmocka_unit_test(A13_decoded_metadata_is_matched_under_its_names),
		cmocka_unit_test(all_conditions_must_hold),
		cmocka_unit_test(the_first_match_wins),
		cmocka_unit_test(authorities_match_with_or_without_port_and_in_any_case),
		cmocka_unit_test(networks_match_literal_addresses_only),
		cmocka_unit_test(a_header_that_comes_twice_is_one_value),
		cmocka_unit_test(copies_that_do_not_fit_fail_the_condition),
		cmocka_unit_test(routes_are_found_as_a_naive_evaluator_finds_them),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
