/*
 * Whose is a connection (rows A06, A12): first match wins, conditions are AND-ed, the kernel is asked only when it matters, and doubt is
 * never taken for an answer. Compared with a naive evaluator on random lists.
 */
#include "../../daemon/policy/workload.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>
#include <cmocka.h>
#include "base/clean.h"
#include "rand.h"

static struct cidr net_of(const char *s)
{
	struct cidr c;

	assert_int_equal(cidr_parse(s, strlen(s), &c, NULL), 0);
	return c;
}

static struct addr ip_of(const char *s)
{
	struct addr a;

	assert_int_equal(addr_parse_ip(s, strlen(s), &a, NULL), 0);
	return a;
}

static struct config config_of(struct cfg_workload *all, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		all[i].id = i;
	return (struct config){.workloads = all, .n_workloads = n};
}

static struct cidr ten, loop;
static uint32_t uid_1000 = 1000, listener_1 = 1;
static const char *shop = "/shop.slice";

static void the_first_that_matches_wins(void **state)
{
	struct cfg_workload l[] = {
		{.name = "a", .source = &ten, .n_source = 1, .listeners = &listener_1, .n_listeners = 1},
		{.name = "b", .source = &ten, .n_source = 1},
		{.name = "c", .source = &ten, .n_source = 1},
	};
	struct config c = config_of(l, ARRAY_LEN(l));
	struct workload_facts f = {.source = ip_of("10.1.2.3"), .listener = 1};
	const struct cfg_workload *w = NULL;

	(void)state;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	assert_string_equal(w->name, "a");
	f.listener = 0;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	assert_string_equal(w->name, "b");
	f.source = ip_of("11.0.0.1");
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_NONE);
}

static void who_only_serves_has_no_connections(void **state)
{
	struct cfg_workload l[] = {{.name = "a", .addresses = &ten, .n_addresses = 1}};
	struct config c = config_of(l, ARRAY_LEN(l));
	struct workload_facts f = {.source = ip_of("10.1.2.3"), .process = WORKLOAD_LOCAL, .has_uid = true, .cgroup = "/"};
	const struct cfg_workload *w = NULL;
	struct addr a = ip_of("10.0.0.9"), b = ip_of("11.0.0.9");

	(void)state;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_NONE);
	assert_ptr_equal(workload_serving(&c, &a), &l[0]);
	assert_null(workload_serving(&c, &b));
}

static void the_kernel_is_asked_only_when_it_matters(void **state)
{
	struct cfg_workload l[] = {
		{.name = "cheap", .source = &ten, .n_source = 1},
		{.name = "uid", .source = &loop, .n_source = 1, .uids = &uid_1000, .n_uids = 1},
	};
	struct config c = config_of(l, ARRAY_LEN(l));
	struct workload_facts f = {.source = ip_of("10.1.2.3")};
	const struct cfg_workload *w = NULL;

	(void)state;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	f.source = ip_of("192.0.2.1");
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_NONE);
	f.source = ip_of("127.0.0.1");
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_ASK);
	f.process = WORKLOAD_FOREIGN;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_NONE);
	f.process = WORKLOAD_LOCAL;
	f.has_uid = true;
	f.uid = 1001;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_NONE);
	f.uid = 1000;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	assert_string_equal(w->name, "uid");
}

static void doubt_is_not_passed_on_to_the_next(void **state)
{
	struct cfg_workload l[] = {
		{.name = "both", .uids = &uid_1000, .n_uids = 1, .cgroups = &shop, .n_cgroups = 1},
		{.name = "rest", .source = &loop, .n_source = 1},
	};
	struct config c = config_of(l, ARRAY_LEN(l));
	struct workload_facts f = {.source = ip_of("127.0.0.1"), .process = WORKLOAD_LOCAL};
	const struct cfg_workload *w = NULL;

	(void)state;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_UNSURE);
	assert_string_equal(w->name, "both");
	f.has_uid = true;
	f.uid = 1000;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_UNSURE);
	/* what is known rules it out, whatever the rest may be */
	f.uid = 5;
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	assert_string_equal(w->name, "rest");
	f.has_uid = false;
	f.cgroup = "/other.slice";
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	assert_string_equal(w->name, "rest");
	f.cgroup = "/shop.slice/web.service";
	assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_UNSURE);
}

static void cgroups_are_compared_by_folders(void **state)
{
	(void)state;
	assert_true(workload_path_below("/shop.slice", "/shop.slice"));
	assert_true(workload_path_below("/shop.slice/a/b", "/shop.slice"));
	assert_true(workload_path_below("/anything", "/"));
	assert_true(workload_path_below("/", "/"));
	assert_false(workload_path_below("/shop.slice2", "/shop.slice"));
	assert_false(workload_path_below("/shop", "/shop.slice"));
	assert_false(workload_path_below("/a/shop.slice", "/shop.slice"));
	assert_false(workload_path_below("", "/shop.slice"));
}

static void server_names_match_in_any_case(void **state)
{
	const char *names[] = {"web.shop.example", "*.api.example"};
	struct cfg_workload l[] = {{.name = "a", .server_names = names, .n_server_names = 2}};
	struct config c = config_of(l, 1);

	(void)state;
	assert_non_null(workload_named(&c, "WEB.shop.Example", 16));
	assert_non_null(workload_named(&c, "x.API.example", 13));
	assert_non_null(workload_named(&c, "x.y.api.example", 15));
	assert_null(workload_named(&c, "api.example", 11));
	assert_null(workload_named(&c, "web.shop.example.", 17));
	assert_null(workload_named(&c, "xweb.shop.example", 17));
	assert_null(workload_named(&c, "", 0));
}

static void the_evidence_is_named(void **state)
{
	struct cfg_workload l = {.source = &ten, .n_source = 1, .uids = &uid_1000, .n_uids = 1, .cgroups = &shop, .n_cgroups = 1,
				 .listeners = &listener_1, .n_listeners = 1};
	char text[WORKLOAD_BY];

	(void)state;
	assert_string_equal(workload_by(&l, text), "listener, source, uid, cgroup");
	l.n_source = l.n_listeners = l.n_uids = 0;
	assert_string_equal(workload_by(&l, text), "cgroup");
}

/* ---- random lists: each condition on its own, then put together in the most stupid way */

#define LISTS 4000
#define MOST  6

static const char *const path[] = {"/a", "/a/b", "/a/b/c", "/b", "/ab", "/"};
static const char *const net[] = {"10.0.0.0/8", "10.1.0.0/16", "10.1.2.3", "127.0.0.0/8", "*", "fd00::/8"};
static const char *const ip[] = {"10.0.0.1", "10.1.2.3", "127.0.0.1", "fd00::1", "192.0.2.1"};

struct list {
	struct cfg_workload l[MOST];
	struct cidr source[MOST][2];
	const char *cgroups[MOST][2];
	uint32_t uids[MOST][2], listeners[MOST][2];
};

static void list_make(struct rnd *r, struct list *x, uint32_t n)
{
	memset(x, 0, sizeof(*x));
	for (uint32_t i = 0; i < n; i++) {
		struct cfg_workload *l = &x->l[i];

		*l = (struct cfg_workload){.source = x->source[i], .n_source = (uint32_t)rnd_below(r, 3), .cgroups = x->cgroups[i],
					   .n_cgroups = (uint32_t)rnd_below(r, 3), .uids = x->uids[i], .n_uids = (uint32_t)rnd_below(r, 3),
					   .listeners = x->listeners[i], .n_listeners = (uint32_t)rnd_below(r, 3)};
		for (int k = 0; k < 2; k++) {
			x->source[i][k] = net_of(net[rnd_below(r, ARRAY_LEN(net))]);
			x->cgroups[i][k] = path[rnd_below(r, ARRAY_LEN(path))];
			x->uids[i][k] = (uint32_t)rnd_below(r, 4);
			x->listeners[i][k] = (uint32_t)rnd_below(r, 3);
		}
	}
}

/* every fact that could be the true one is tried: if they do not agree on one workload, nothing is sure */
static bool naive_one(const struct cfg_workload *l, const struct workload_facts *f)
{
	bool s = !l->n_source, p = !l->n_cgroups, u = !l->n_uids, e = !l->n_listeners;

	for (uint32_t i = 0; i < l->n_source; i++)
		s |= cidr_has(&l->source[i], &f->source);
	for (uint32_t i = 0; i < l->n_listeners; i++)
		e |= l->listeners[i] == f->listener;
	for (uint32_t i = 0; i < l->n_uids; i++)
		u |= f->process == WORKLOAD_LOCAL && l->uids[i] == f->uid;
	for (uint32_t i = 0; i < l->n_cgroups; i++) {
		char top[32], it[32];

		snprintf(top, sizeof(top), "%s/", strcmp(l->cgroups[i], "/") ? l->cgroups[i] : "");
		snprintf(it, sizeof(it), "%s/", f->cgroup && strcmp(f->cgroup, "/") ? f->cgroup : "");
		p |= f->process == WORKLOAD_LOCAL && !strncmp(it, top, strlen(top));
	}
	return s && p && u && e && (l->n_source || l->n_cgroups || l->n_uids || l->n_listeners);
}

static const struct cfg_workload *naive(const struct config *c, const struct workload_facts *f)
{
	for (uint32_t i = 0; i < c->n_workloads; i++)
		if (naive_one(&c->workloads[i], f))
			return &c->workloads[i];
	return NULL;
}

/* Return: one answer for all that could be true, or false */
static bool naive_sure(const struct config *c, struct workload_facts f, const struct cfg_workload **ret)
{
	bool first = true, has_uid = f.has_uid;
	const char *cgroup = f.cgroup;

	for (uint32_t u = 0; u < (has_uid ? 1 : 5); u++)
		for (uint32_t p = 0; p < (cgroup ? 1 : ARRAY_LEN(path) + 1); p++) {
			const struct cfg_workload *w;

			f.uid = has_uid ? f.uid : u;
			f.cgroup = cgroup ? cgroup : p < ARRAY_LEN(path) ? path[p] : "/elsewhere";
			w = naive(c, &f);
			if (!first && w != *ret)
				return false;
			*ret = w;
			first = false;
		}
	return true;
}

static void agrees_with_the_naive_one(void **state)
{
	struct rnd r = rnd_start("workloads");
	uint32_t found = 0, unsure = 0, none = 0, asked = 0;
	struct list x;

	(void)state;
	for (uint32_t t = 0; t < LISTS; t++) {
		uint32_t n = (uint32_t)rnd_below(&r, MOST + 1);
		struct config c;

		list_make(&r, &x, n);
		c = config_of(x.l, n);
		for (int k = 0; k < 20; k++) {
			const struct cfg_workload *got = NULL, *want = NULL;
			struct workload_facts f = {.source = ip_of(ip[rnd_below(&r, ARRAY_LEN(ip))]), .listener = (uint32_t)rnd_below(&r, 3)};
			enum workload_answer a = workload_find(&c, &f, &got);
			bool sure;

			if (a == WORKLOAD_ASK) {
				asked++;
				f.process = rnd_below(&r, 4) ? WORKLOAD_LOCAL : WORKLOAD_FOREIGN;
				f.has_uid = rnd_below(&r, 4) != 0;
				f.uid = (uint32_t)rnd_below(&r, 4);
				f.cgroup = rnd_below(&r, 4) ? path[rnd_below(&r, ARRAY_LEN(path))] : NULL;
				a = workload_find(&c, &f, &got);
			} else {
				f.process = WORKLOAD_LOCAL; /* nothing that would come of asking changes the answer */
			}
			assert_true(a != WORKLOAD_ASK);
			if (f.process == WORKLOAD_FOREIGN)
				f.has_uid = true, f.cgroup = "/";
			sure = naive_sure(&c, f, &want);
			/* unsure where one list of conditions hides another: never the other way round */
			if (a == WORKLOAD_UNSURE) {
				unsure++;
				assert_true(!f.has_uid || !f.cgroup);
				continue;
			}
			assert_true(sure);
			assert_ptr_equal(want, a == WORKLOAD_FOUND ? got : NULL);
			found += a == WORKLOAD_FOUND;
			none += a == WORKLOAD_NONE;
		}
	}
	assert_true(found > 100 && none > 100 && unsure > 100 && asked > 100);
}

/* the last of 256: what a list costs a connection; printed, and bounded so loosely that only a mistake in the order of growth fails */
static void a_long_list_costs_little(void **state)
{
	static struct cfg_workload l[256];
	static struct cidr nets[256];
	struct config c;
	struct workload_facts f = {.source = ip_of("10.0.255.7")};
	const struct cfg_workload *w = NULL;
	struct timespec a, b;
	double ns;

	(void)state;
	for (uint32_t i = 0; i < 256; i++) {
		char text[32];

		snprintf(text, sizeof(text), "10.0.%u.0/24", i);
		nets[i] = net_of(text);
		l[i] = (struct cfg_workload){.source = &nets[i], .n_source = 1};
	}
	c = config_of(l, 256);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < 1000; i++)
		assert_int_equal(workload_find(&c, &f, &w), WORKLOAD_FOUND);
	clock_gettime(CLOCK_MONOTONIC, &b);
	ns = ((double)(b.tv_sec - a.tv_sec) * 1e9 + (double)(b.tv_nsec - a.tv_nsec)) / 1000;
	printf("# the last of 256 workloads by source: %.0f ns\n", ns);
	assert_ptr_equal(w, &l[255]);
	assert_true(ns < 100000);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_first_that_matches_wins),
		cmocka_unit_test(who_only_serves_has_no_connections),
		cmocka_unit_test(the_kernel_is_asked_only_when_it_matters),
		cmocka_unit_test(doubt_is_not_passed_on_to_the_next),
		cmocka_unit_test(cgroups_are_compared_by_folders),
		cmocka_unit_test(server_names_match_in_any_case),
		cmocka_unit_test(the_evidence_is_named),
		cmocka_unit_test(agrees_with_the_naive_one),
		cmocka_unit_test(a_long_list_costs_little),
	};

	ten = net_of("10.0.0.0/8");
	loop = net_of("127.0.0.0/8");
	return cmocka_run_group_tests(tests, NULL, NULL);
}
