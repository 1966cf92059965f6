/*
 * aditctl drain: asks for it, then looks how far it is until the daemon has ended (its socket is gone, or another daemon answers there).
 * On a terminal one line that changes; else a line whenever the number does, once a second at the most.
 */
#include "base/clean.h"
#include "ctl.h"
#include "http.h"
#include "human.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>

#define LOOK_MS 200

/* what there is to say in the meantime. Return: false: it is over. */
static bool progress(struct ctl *c, uint64_t *last, uint32_t turn)
{
	struct http_answer a = {0};
	struct err e = {""};
	char left[HUMAN];
	json_t *o = NULL;
	bool goes_on;

	if (http_call(c->socket, "GET", ADIT_API_DRAIN, NULL, 0, &a, &e) == 0 && a.status == 200)
		o = json_loadb(a.body.s ? a.body.s : "", a.body.len, 0, NULL);
	text_finish(&a.body);
	goes_on = o && js_bool(o, "draining");
	if (goes_on && (c->clear || (turn % (1000 / LOOK_MS) == 0 && js_u64(o, "connections") != *last))) {
		*last = js_u64(o, "connections");
		fprintf(c->out, "%s%s: %" PRIu64 " of %" PRIu64 " connections left, %s to the deadline%s", c->clear ? "\r\033[K" : "",
			js_str(o, "phase"), *last, js_u64(o, "began_with"), human_time(js_u64(o, "left_ms") * 1000, left), c->clear ? "" : "\n");
		(void)fflush(c->out);
	}
	json_decref(o);
	return goes_on;
}

static int wait_for_end(struct ctl *c)
{
	uint64_t last = UINT64_MAX;
	uint32_t turn = 0;

	while (progress(c, &last, turn++))
		(void)poll(NULL, 0, LOOK_MS);
	fprintf(c->out, "%sdrained: aditd has ended\n", c->clear ? "\r\033[K" : "");
	return fflush(c->out) ? CTL_FAILED : CTL_OK;
}

int cmd_drain(struct ctl *c)
{
	struct text out = {0};
	char body[64], *sent = NULL, t[HUMAN];
	uint64_t ms = 0;
	json_t *o = NULL;
	int r;

	if (c->n_words)
		return ctl_usage(c, "unexpected '%s'", c->word[0]);
	if (c->within && !human_ms(c->within, &ms))
		return ctl_usage(c, "--within '%s': want a time like 500ms, 30s or 5m", c->within);
	if (c->within) {
		snprintf(body, sizeof(body), "{\"within_ms\": %" PRIu64 "}", ms);
		sent = body;
	}
	r = ctl_call(c, "POST", ADIT_API_DRAIN, sent, &o);
	if (r != CTL_OK || !o)
		return r;
	text_addf(&out, "draining: no new connections; aditd ends within %s\n", human_time(js_u64(o, "within_ms") * 1000, t));
	json_decref(o);
	r = ctl_print(c, &out);
	return r != CTL_OK || c->no_wait ? r : wait_for_end(c);
}
