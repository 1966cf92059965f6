/* Policies over the API: what is shown, what a change answers, and what the audit log gets of every attempt. */
#include "../../daemon/admin/policy.c"
#include "unit/admin_ask.h"

static struct policy_order order;
static char order_text[64], order_name[64];
static int change_result;
static struct admin_act act;
static char act_what[200], act_error[1024], act_detail[40000];
static uint32_t acts, tail_n;

static int fake_change(void *arg, const struct policy_order *o, struct policy_outcome *ret, struct err *reterr)
{
	assert_ptr_equal(arg, &d);
	order = *o;
	snprintf(order_text, sizeof(order_text), "%.*s", (int)o->n, o->text ? o->text : "(none)");
	snprintf(order_name, sizeof(order_name), "%s", o->name ? o->name : "(none)");
	if (change_result)
		return err_set(reterr, change_result, "no: %s", strerror(-change_result));
	*ret = (struct policy_outcome){.generation = 8, .n = {150, 1}, .unchanged = 3};
	for (int i = 0; i < 150; i++)
		text_addn(&ret->names[POLICY_ADDED], "new", 4);
	text_addn(&ret->names[POLICY_CHANGED], "old", 4);
	for (int i = 0; i < 10000; i++)
		text_add(&ret->diff, "+ a\n");
	return 0;
}

static int fake_views(void *arg, struct policy_views *ret, struct err *reterr)
{
	static const struct policy_view all[] = {
		{.name = "allow-web", .file = "/etc/adit/adit.yaml", .line = 7, .text = "name: allow-web\nrules: []\n", .n = 26},
		{.name = "no-dev", .file = "/etc/adit/adit.yaml", .line = 9},
		{.name = "far", .file = "/s/policies.yaml", .line = 3, .applied = true}, /* not where the counters have it */
		{.name = "a/b", .file = "/s/policies.yaml", .line = 4, .applied = true},
	};
	(void)arg;
	(void)reterr;
	*ret = (struct policy_views){.generation = 7, .at = all, .n = ARRAY_LEN(all)};
	return 0;
}

static void fake_audit(void *arg, const struct admin_act *a)
{
	assert_ptr_equal(arg, &d);
	acts++;
	act = *a;
	snprintf(act_what, sizeof(act_what), "%s", a->what);
	snprintf(act_error, sizeof(act_error), "%s", a->error ? a->error : "(none)");
	snprintf(act_detail, sizeof(act_detail), "%s", a->detail ? a->detail : "(none)");
}

static int fake_tail(void *arg, uint32_t n, struct text *out, struct err *reterr)
{
	(void)arg;
	(void)reterr;
	tail_n = n;
	text_add(out, "{\"what\":\"one\"}\n{\"what\":\"two\"}\n");
	return 0;
}

static int policy_setup(void **state)
{
	api.policies = (struct policy_ops){fake_change, fake_views, fake_audit, fake_tail, &d};
	change_result = 0;
	acts = 0;
	return setup(state);
}

static void policies_are_shown_with_what_they_decided(void **state)
{
	json_t *o = get("/v1/policies"), *list = json_object_get(o, "policies");

	(void)state;
	assert_int_equal(num(o, "generation"), 7);
	assert_int_equal(num(o, "default_denied"), 9);
	assert_int_equal(json_array_size(list), 4);
	assert_int_equal(num(json_array_get(list, 0), "allowed"), 70);
	assert_string_equal(str(json_array_get(list, 0), "origin"), "file");
	assert_string_equal(str(json_array_get(list, 1), "action"), "deny");
	assert_string_equal(str(json_array_get(list, 2), "origin"), "applied");
	assert_true(json_is_false(json_object_get(json_array_get(list, 2), "here")));
	json_decref(o);
	o = get("/v1/policies/allow-web");
	assert_string_equal(str(o, "yaml"), "policies:\n  - name: allow-web\n    rules: []\n");
	json_decref(o);
	o = get("/v1/policies/a/b");
	assert_string_equal(str(o, "name"), "a/b");
	json_decref(o);
	refused(404, "GET", "/v1/policies/x", NULL, false, "there is no policy 'x'; GET /v1/policies lists all");
	assert_int_equal(acts, 0);
}

static void changes_answer_with_what_they_did(void **state)
{
	json_t *o = ask(200, "POST", "/v1/policies?if_generation=7&prune=true&file=p.yaml", "policies: []", true);

	(void)state;
	assert_string_equal(order_text, "policies: []");
	assert_true(order.if_generation && order.generation == 7 && order.prune && !order.dry_run);
	assert_int_equal(num(o, "generation"), 8);
	assert_int_equal(json_array_size(json_object_get(o, "added")), 150);
	assert_int_equal(json_array_size(json_object_get(o, "removed")), 0);
	assert_int_equal(strlen(str(o, "diff")), 40000);
	assert_true(json_is_false(json_object_get(o, "diff_cut")));
	json_decref(o);
	o = json_loads(act_detail, JSON_REJECT_DUPLICATES, NULL);
	assert_int_equal(json_array_size(json_object_get(o, "added")), AUDIT_NAMES);
	assert_int_equal(num(o, "added_in_all"), 150);
	assert_int_equal(strlen(str(o, "diff")), AUDIT_DIFF);
	assert_true(json_is_true(json_object_get(o, "diff_cut")));
	json_decref(o);
	assert_string_equal(act_what, "POST /v1/policies");
	assert_int_equal(act.status, 200);
	json_decref(ask(200, "PUT", "/v1/policies/x/y?dry_run", "name: x", true));
	assert_string_equal(order_name, "x/y");
	assert_true(order.dry_run);
	json_decref(ask(200, "DELETE", "/v1/policies/x", NULL, true));
	assert_null(order.text);
	assert_int_equal(acts, 3);
	json_decref(ask(200, "POST", "/v1/policies/diff", "name: x", true));
	assert_true(order.dry_run);
	o = ask(200, "POST", "/v1/policies/check", "name: x", true);
	assert_true(order.dry_run && json_is_true(json_object_get(o, "ok")));
	json_decref(o);
	assert_int_equal(acts, 3);
}

static void refusals_have_their_status(void **state)
{
	static const struct {
		int r;
		unsigned int status;
	} all[] = {{-EINVAL, 422}, {-ENOENT, 404}, {-EEXIST, 409}, {-ESTALE, 412}, {-EROFS, 503}, {-ENOMEM, 503}};

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(all); i++) {
		char sentence[64];

		change_result = all[i].r;
		snprintf(sentence, sizeof(sentence), "no: %s", strerror(-all[i].r));
		refused(all[i].status, "POST", "/v1/policies", "x", true, sentence);
		assert_int_equal(act.status, all[i].status);
		assert_string_equal(act_error, sentence);
	}
	refused(400, "POST", "/v1/policies", NULL, true, "no body: want YAML, policies: and a list of them");
	refused(400, "DELETE", "/v1/policies/x", "x", true, "no body here: the path names the policy");
	refused(400, "POST", "/v1/policies?if_generation=x", "x", true, "if_generation=x: want the number that GET /v1/policies told");
	refused(400, "POST", "/v1/policies?dry_run=maybe", "x", true, "dry_run=maybe: want true or false");
	api.policies = (struct policy_ops){.arg = &d};
	refused(501, "POST", "/v1/policies", "x", true, "this daemon keeps no policies; write them into its configuration");
	refused(501, "GET", "/v1/policies", NULL, true, "this daemon does not know how its policies are written");
	refused(501, "GET", "/v1/audit", NULL, true, "this daemon keeps no audit log");
}

static void every_change_is_audited(void **state)
{
	(void)state;
	json_decref(ask(200, "PUT", "/v1/log-level", "{\"tls\": \"info\"}", true));
	assert_string_equal(act_what, "PUT /v1/log-level");
	assert_string_equal(act_detail, "{\"request\":\"{\\\"tls\\\": \\\"info\\\"}\"}");
	json_decref(ask(202, "POST", "/v1/drain", "{\"within_ms\": 5}", true));
	assert_string_equal(act_what, "POST /v1/drain");
	json_decref(ask(200, "DELETE", "/v1/conns/7", NULL, true));
	assert_string_equal(act_what, "DELETE /v1/conns/7");
	assert_string_equal(act_detail, "(none)");
	json_decref(ask(409, "POST", "/v1/kernel/bypass", "{\"on\": true}", true));
	assert_string_equal(act_what, "POST /v1/kernel/bypass");
	assert_int_equal(act.status, 409);
	assert_int_equal(acts, 4);
	json_decref(ask(403, "POST", "/v1/drain", NULL, false));
	assert_true(act.stranger);
	assert_int_equal(act.status, 403);
	assert_string_equal(act_error, "only root and the daemon's own user may do this; try sudo");
	json_decref(ask(403, "DELETE", "/v1/policies/x", NULL, false));
	assert_int_equal(acts, 6);
	json_decref(ask(422, "POST", "/v1/config/check", "bad", true)); /* changes nothing */
	json_decref(ask(404, "POST", "/v1/nothing", "bad", true));
	assert_int_equal(acts, 6);
}

static void the_log_is_for_those_who_may_change(void **state)
{
	json_t *o = ask(200, "GET", "/v1/audit?limit=5", NULL, true);

	(void)state;
	assert_int_equal(tail_n, 5);
	assert_string_equal(str(json_array_get(json_object_get(o, "audit"), 1), "what"), "two");
	json_decref(o);
	json_decref(ask(200, "GET", "/v1/audit?limit=0", NULL, true));
	assert_int_equal(tail_n, UINT32_MAX);
	json_decref(ask(403, "GET", "/v1/audit", NULL, false));
}

static void long_bodies_are_for_policies(void **state)
{
	(void)state;
	assert_int_equal(api_body_max("POST", "/v1/policies"), API_BODY_LONG);
	assert_int_equal(api_body_max("PUT", "/v1/policies/x"), API_BODY_LONG);
	assert_int_equal(api_body_max("POST", "/v1/policies/diff"), API_BODY_LONG);
	assert_int_equal(api_body_max("DELETE", "/v1/policies/x"), API_BODY_MAX);
	assert_int_equal(api_body_max("POST", "/v1/drain"), API_BODY_MAX);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, policy_setup, teardown)
	const struct CMUnitTest tests[] = {
		T(policies_are_shown_with_what_they_decided), T(changes_answer_with_what_they_did),
		T(refusals_have_their_status),		      T(every_change_is_audited),
		T(the_log_is_for_those_who_may_change),	      T(long_bodies_are_for_policies),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
