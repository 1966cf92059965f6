/* aditctl upgrade: the daemon starts its successor, which takes over; here it is waited for until it answers, or failed. */
#include "base/clean.h"
#include "ctl.h"
#include "http.h"
#include <adit/admin.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>

#define LOOK_MS 100
#define TRIES	900 /* the daemon gives it a minute */

static json_t *ask(const struct ctl *c, const char *path)
{
	struct http_answer a = {0};
	struct err e = {""};
	json_t *o = NULL;

	if (http_call(c->socket, "GET", path, NULL, 0, &a, &e) == 0 && a.status == 200)
		o = json_loadb(a.body.s ? a.body.s : "", a.body.len, 0, NULL);
	text_finish(&a.body);
	return o;
}

/* which daemon answers is seen by its pid. Return: enum ctl_exit, or -1: not yet. */
static int look(struct ctl *c, uint64_t pid)
{
	json_t *s = ask(c, ADIT_API_STATUS), *u;
	int r = -1;

	if (js_u64(s, "pid") == pid) {
		fprintf(c->out, "upgraded: aditd %s (pid %llu) takes connections now; the old one drains\n", js_str(s, "version"),
			(unsigned long long)pid);
		r = fflush(c->out) ? CTL_FAILED : CTL_OK;
	}
	json_decref(s);
	if (r >= 0)
		return r;
	u = ask(c, ADIT_API_UPGRADE);
	if (u && !strcmp(js_str(u, "state"), "failed"))
		r = ctl_fail(c, CTL_FAILED, "the new daemon did not take over: %s; the old one goes on as before", js_str(u, "why"));
	json_decref(u);
	return r;
}

int cmd_upgrade(struct ctl *c)
{
	struct text body = {0};
	json_t *o = NULL;
	struct json j;
	uint64_t pid;
	int r;

	if (c->n_words) {
		json_init(&j, &body, false);
		json_open(&j, NULL, '{');
		json_str(&j, "program", c->word[0]);
		json_close(&j, '}');
	}
	r = ctl_call(c, "POST", ADIT_API_UPGRADE, body.s, &o);
	text_finish(&body);
	if (r != CTL_OK || !o)
		return r;
	pid = js_u64(o, "pid");
	json_decref(o);
	fprintf(c->out, "started pid %llu\n", (unsigned long long)pid);
	if (c->no_wait)
		return fflush(c->out) ? CTL_FAILED : CTL_OK;
	for (int i = 0; i < TRIES; i++) {
		r = look(c, pid);
		if (r >= 0)
			return r;
		(void)poll(NULL, 0, LOOK_MS);
	}
	return ctl_fail(c, CTL_FAILED, "pid %llu has not taken over; see the log", (unsigned long long)pid);
}
