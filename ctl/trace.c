/* Live traces: what comes is printed as it comes. The daemon makes the lines, text or JSON. */
#include "base/clean.h"
#include "ctl.h"
#include "http.h"
#include "human.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
	(void)sig;
	interrupted = 1;
}

/* Return: false to end */
static bool print(void *arg, const char *s, size_t n)
{
	struct ctl *c = arg;

	return fwrite(s, 1, n, c->out) == n && fflush(c->out) == 0 && !interrupted;
}

static int path_make(struct ctl *c, struct text *path)
{
	const char *const kinds[] = {"conn", "peer", "listener"};
	char ms[32];
	uint64_t v = 0;
	size_t k;

	for (k = 0; c->n_words && k < ARRAY_LEN(kinds) && strcmp(c->word[0], kinds[k]); k++)
		;
	if (c->n_words != 2 || k == ARRAY_LEN(kinds))
		return ctl_usage(c, "want: conn ID, peer ADDRESS or SPIFFE-ID, or listener NAME");
	if (c->for_time && (!human_ms(c->for_time, &v) || !v))
		return ctl_usage(c, "--for '%s': want a time like 500ms, 30s or 5m", c->for_time);
	text_add(path, ADIT_API_TRACE);
	http_query(path, kinds[k], c->word[1]);
	http_query(path, "level", c->level);
	snprintf(ms, sizeof(ms), "%" PRIu64, v);
	http_query(path, "for_ms", v ? ms : NULL);
	http_query(path, "count", c->count);
	http_query(path, "format", c->output == OUT_JSON ? "json" : "text");
	return text_ok(path) ? CTL_OK : ctl_fail(c, CTL_FAILED, "out of memory");
}

int cmd_trace(struct ctl *c)
{
	struct sigaction stop = {.sa_handler = on_interrupt}, before;
	struct http_answer a = {0};
	struct text path = {0};
	struct err e = {""};
	int r = path_make(c, &path);

	if (r != CTL_OK) {
		text_finish(&path);
		return r;
	}
	interrupted = 0;
	sigaction(SIGINT, &stop, &before); /* without SA_RESTART: recv() is to end */
	r = http_stream(c->socket, path.s, print, c, &a, &e);
	sigaction(SIGINT, &before, NULL);
	text_finish(&path);
	if (r < 0 && !interrupted)
		r = ctl_fail(c, r == -ENOTCONN ? CTL_UNREACHABLE : CTL_FAILED, "%s", e.msg);
	else if (a.status >= 300)
		r = ctl_refused(c, &a);
	else
		r = ferror(c->out) ? CTL_FAILED : CTL_OK;
	text_finish(&a.body);
	return r;
}
