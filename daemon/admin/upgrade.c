/* POST and GET /v1/upgrade: a new daemon takes over. The program does it (admin_ops); here are request and answer. */
#include "admin/api.h"
#include <jansson.h>
#include <string.h>

void api_upgrade_state(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	struct admin_upgrade u = {.state = "impossible", .why = ""};
	struct json j;

	(void)req;
	if (a->ops.upgrade_state)
		a->ops.upgrade_state(a->ops.arg, &u);
	json_init(&j, &ans->body, true);
	json_open(&j, NULL, '{');
	json_str(&j, "state", u.state);
	json_u64(&j, "pid", (uint64_t)u.pid);
	json_str(&j, "why", or_null(u.why));
	json_close(&j, '}');
	text_add(&ans->body, "\n");
}

void api_upgrade(struct api *a, const struct api_req *req, struct api_answer *ans)
{
	json_t *o = req->body_len ? json_loadb(req->body, req->body_len, JSON_REJECT_DUPLICATES, NULL) : json_object();
	const char *program = NULL;
	struct err e = {""};
	struct json j;
	int r;

	if (!a->ops.upgrade) {
		api_fail(ans, 501, "this daemon cannot be replaced through the API");
	} else if (!o || json_unpack(o, "{s?s!}", "program", &program) < 0) {
		api_fail(ans, 400, "want {\"program\": \"/absolute/path\"}, or no body for the file that this daemon was started from");
	} else if ((r = a->ops.upgrade(a->ops.arg, program, &e)) < 0) {
		api_fail(ans, r == -EBUSY ? 409 : 422, "%s", e.msg);
	} else {
		ans->status = 202;
		json_init(&j, &ans->body, true);
		json_open(&j, NULL, '{');
		json_u64(&j, "pid", (uint64_t)r);
		json_close(&j, '}');
		text_add(&ans->body, "\n");
	}
	json_decref(o);
}
