/*
 * Between the API, the state folder and control_install(). The audit log is written last, when the result is known; if it cannot be written then,
 * that is said in the log, and what was done stays done. Changes of policies are refused before, when it cannot be opened (policies.c).
 */
#include "control/applied.h"
#include "base/clean.h"
#include "base/log.h"
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- what policies.c asks for */

static int judge(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	struct config_source more = {.name = (char *)name, .text = (char *)text, .n = n}; /* read only */
	struct control *ctl = arg;
	struct config *cfg = NULL;
	int r;

	health_release(&ctl->d->health); /* it may take long, and touches nothing of the daemon */
	r = config_build(&ctl->sources, text ? &more : NULL, &cfg, reterr);
	health_hold(&ctl->d->health);
	config_free(cfg);
	return r;
}

/* Return: 0 or -ENOMEM */
static int source_make(struct config_source *ret, const char *name, const char *text, size_t n)
{
	*ret = (struct config_source){.name = strdup(name), .text = malloc(n + 1), .n = n};
	if (!ret->name || !ret->text) {
		free(ret->name);
		free(ret->text);
		*ret = (struct config_source){.name = NULL};
		return -ENOMEM;
	}
	memcpy(ret->text, text, n);
	ret->text[n] = '\0';
	return 0;
}

static int install(void *arg, const char *name, const char *text, size_t n, struct err *reterr)
{
	struct control *ctl = arg;
	struct config_source s;
	int r = text ? source_make(&s, name, text, n) : 0;

	if (!text)
		s = (struct config_source){.name = NULL};
	if (r < 0)
		return err_set(reterr, r, "out of memory");
	r = control_install(ctl, NULL, &s, "policies", NULL, reterr);
	free(s.name);
	free(s.text);
	return r;
}

static int files(void *arg, struct doc *ret, struct err *reterr)
{
	const struct control *ctl = arg;
	int r = 0;

	*ret = (struct doc){.at = NULL};
	for (uint32_t i = 0; i < ctl->sources.n && r == 0; i++) {
		const struct config_source *s = &ctl->sources.at[i];
		struct doc one;

		r = doc_parse(s->name, s->text, s->n, DOC_CONFIG, &one, reterr);
		if (r < 0)
			break;
		if (one.n && doc_append(ret, &one) < 0)
			r = err_set(reterr, -ENOMEM, "out of memory");
		doc_finish(&one);
	}
	if (r < 0)
		doc_finish(ret);
	return r;
}

/* ---- what the API asks for */

static int change(void *arg, const struct policy_order *o, struct policy_outcome *ret, struct err *reterr)
{
	return policies_change(((struct control *)arg)->policies, o, ret, reterr);
}

static int views(void *arg, struct policy_views *ret, struct err *reterr)
{
	return policies_views(((struct control *)arg)->policies, ret, reterr);
}

static void write_down(struct control *ctl, const struct audit_entry *e)
{
	struct err why = {""};

	if (audit_write(ctl->audit, e, &why) == 0)
		ctl->audit_failed = false;
	else if (!ctl->audit_failed) /* once: there may never have been a folder */
		log_warn(LA_MAIN, "not in the audit log, nor is what follows: %s by uid %u, pid %d: %s", e->what, e->uid, e->pid, why.msg);
	ctl->audit_failed |= *why.msg != '\0';
}

static void audit(void *arg, const struct admin_act *act)
{
	write_down(arg, &(struct audit_entry){.pid = act->by.pid,
					      .uid = act->by.uid,
					      .gid = act->by.gid,
					      .what = act->what,
					      .done = act->status < 400,
					      .status = act->status,
					      .error = act->error,
					      .detail = act->detail,
					      .stranger = act->stranger});
}

static int audit_last(void *arg, uint32_t n, struct text *out, struct err *reterr)
{
	const struct control *ctl = arg;

	if (!ctl->audit)
		return err_set(reterr, -ENOENT, "no state_dir is configured, so nothing is written down");
	return audit_tail(ctl->audit, n, out, reterr);
}

void applied_ops(struct control *ctl, struct policy_ops *ret)
{
	*ret = (struct policy_ops){.change = change, .views = views, .audit = audit, .audit_tail = audit_last, .arg = ctl};
}

void applied_signal(struct control *ctl, const struct signalfd_siginfo *si, int r, const struct err *e)
{
	struct audit_entry entry = {.pid = (pid_t)si->ssi_pid,
				    .uid = si->ssi_uid,
				    .gid = (gid_t)-1,
				    .done = r >= 0,
				    .error = r < 0 ? e->msg : NULL};
	char what[32];

	snprintf(what, sizeof(what), "SIG%s", sigabbrev_np((int)si->ssi_signo));
	entry.what = what;
	write_down(ctl, &entry);
}

void applied_own(struct control *ctl, const char *what, int r, const struct err *e)
{
	write_down(ctl, &(struct audit_entry){
				.pid = getpid(), .uid = geteuid(), .gid = getegid(), .what = what, .done = r >= 0, .error = r < 0 ? e->msg : NULL});
}

/* ---- start and end */

int applied_open(struct control *ctl, struct err *reterr)
{
	const struct policies_host host = {judge, install, files, ctl};
	AUTO_FREE char *dir = NULL;
	const struct store_text *s;
	int r = config_state_dir(&ctl->sources, &dir, reterr);

	if (r == 0)
		r = policies_open(&ctl->policies, dir, reterr);
	if (r == 0 && dir && audit_create(&ctl->audit, dir) < 0)
		r = err_set(reterr, -ENOMEM, "out of memory");
	if (r < 0)
		return r;
	policies_attach(ctl->policies, &host, ctl->audit);
	s = policies_source(ctl->policies);
	if (s->text && source_make(&ctl->applied, s->path, s->text, s->n) < 0)
		return err_set(reterr, -ENOMEM, "out of memory");
	return 0;
}

void applied_close(struct control *ctl)
{
	policies_close(TAKE(ctl->policies));
	audit_destroy(TAKE(ctl->audit));
}
