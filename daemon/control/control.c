/*
 * Bringing into force. A change is built completely beside what is in force, compared with it for the report, and given to daemon_swap(),
 * which takes all of it or nothing.
 */
#include "control/control.h"
#include "base/clean.h"
#include "base/log.h"
#include "config/parts.h"
#include "control/applied.h"
#include "obs/logging.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

/* sections that are read once, at the start */
static bool waits_for_restart(const char *section)
{
	static const char *const s[] = {"workers", "mover", "kernel", "admin", "metrics", "state_dir"};

	for (size_t i = 0; i < ARRAY_LEN(s); i++)
		if (!strcmp(s[i], section))
			return true;
	return false;
}

static void report_line(void *arg, enum part_change what, const char *section, const char *name, const char *keys)
{
	static const char mark[] = {[PART_ADDED] = '+', [PART_CHANGED] = '~', [PART_REMOVED] = '-'};
	struct text *t = arg;
	size_t n = strlen(section);

	if (waits_for_restart(section)) {
		text_addf(t, "! %s: takes effect after a restart\n", section);
		return;
	}
	if (!name) {
		text_addf(t, "%c %s\n", mark[what], section);
		return;
	}
	if (n > 3 && !strcmp(section + n - 3, "ies"))
		text_addf(t, "%c %.*sy", mark[what], (int)n - 3, section);
	else
		text_addf(t, "%c %.*s", mark[what], (int)n - 1, section);
	text_addf(t, " %s%s%s\n", name, what == PART_CHANGED && *keys ? ": " : "", what == PART_CHANGED ? keys : "");
}

static uint64_t real_us(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (uint64_t)t.tv_sec * 1000000u + (uint64_t)t.tv_nsec / 1000u;
}

static void override(const struct control *ctl, struct config *cfg)
{
	if (ctl->over.workers)
		cfg->workers = ctl->over.workers;
	if (ctl->d)
		cfg->workers = ctl->d->n_workers;
	if (ctl->boot) /* what was set up at the start goes on as it is */
		cfg->kernel = ctl->boot->kernel;
	if (ctl->over.mover >= 0)
		cfg->mover = (enum cfg_mover)ctl->over.mover;
}

/* Return: 0 and a snapshot of @sources and @applied */
static int build(struct control *ctl, const struct config_sources *sources, const struct config_source *applied, struct snapshot **ret,
		 struct err *reterr)
{
	struct config *cfg = NULL;
	struct tls_ctx **tls;
	int r;

	if (ctl->d)
		health_release(&ctl->d->health); /* it may take long, and touches nothing of the daemon */
	r = config_build(sources, applied && applied->text ? applied : NULL, &cfg, reterr);
	if (ctl->d)
		health_hold(&ctl->d->health);
	if (r < 0)
		return r;
	override(ctl, cfg);
	r = creds_load(ctl->creds, cfg, &tls, reterr);
	if (r == 0)
		r = snapshot_create(ret, cfg, tls, cfg->workers, config_free, reterr);
	if (r < 0)
		config_free(cfg);
	return r;
}

static void certificates_changed(void *arg)
{
	struct control *ctl = arg;
	struct err e = {""};

	if (ctl->d && !ctl->d->draining)
		(void)control_install(ctl, NULL, NULL, "certificates changed", NULL, &e); /* it says what comes of it */
}

int control_open(struct control *ctl, const char *file, const struct control_override *over, struct snapshot **ret, struct err *reterr)
{
	const struct creds_ops creds = {.changed = certificates_changed, .arg = ctl};
	int r;

	*ctl = (struct control){.file = file, .over = *over};
	r = config_read(file, &ctl->sources, reterr);
	if (r == 0)
		r = creds_create(&ctl->creds, &creds, reterr);
	if (r == 0)
		r = applied_open(ctl, reterr);
	if (r == 0)
		r = build(ctl, &ctl->sources, &ctl->applied, ret, reterr);
	ctl->sources.running = true; /* from now on a key that is just being replaced is no reason to refuse a policy */
	if (r < 0)
		control_close(ctl);
	return r;
}

static void source_free(struct config_source *s)
{
	free(s->name);
	free(s->text);
	*s = (struct config_source){.name = NULL};
}

void control_close(struct control *ctl)
{
	watch_destroy(TAKE(ctl->watch));
	config_sources_free(&ctl->sources);
	source_free(&ctl->applied);
	applied_close(ctl);
	creds_destroy(TAKE(ctl->creds));
}

/* ---- files that change */

static void files_changed(void *arg)
{
	struct err e = {""};

	applied_own(arg, "changed files", control_reload(arg, "changed files", NULL, &e), &e); /* it says what comes of it */
}

/* what is watched: the file and conf.d beside it; nothing, unless so configured */
static void watch_files(struct control *ctl)
{
	const char *slash = strrchr(ctl->file, '/');
	const struct watch_ops ops = {.changed = files_changed, .arg = ctl};
	AUTO_FREE char *dir = NULL;
	struct err e = {""};
	int r = 0;

	if (!ctl->watch)
		r = watch_create(&ctl->watch, &ops, &e);
	if (r == 0 && asprintf(&dir, "%.*sconf.d", slash ? (int)(slash - ctl->file) + 1 : 0, ctl->file) < 0)
		r = err_set(&e, -ENOMEM, "out of memory");
	if (r == 0)
		r = watch_set(ctl->watch, (const char *const[]){ctl->file, dir}, ctl->d->cfg->watch ? 2 : 0, &e);
	if (r < 0)
		log_err(LA_MAIN, "watch: %s; aditctl reload reads changed files", e.msg);
}

void control_start(struct control *ctl, struct daemon *d)
{
	ctl->d = d;
	ctl->boot = d->cfg;
	d->changes.last_us = real_us();
	creds_commit(ctl->creds, d->snap->cfg, d->snap->tls, NULL);
	watch_files(ctl);
}

int control_watch_fd(const struct control *ctl)
{
	return ctl->watch ? watch_fd(ctl->watch) : -1;
}

void control_watch_run(struct control *ctl)
{
	watch_run(ctl->watch);
}

static int install(struct control *ctl, struct config_sources *sources, struct config_source *applied, struct text *report,
		   struct err *reterr)
{
	struct daemon *d = ctl->d;
	struct snapshot *next = NULL;
	struct tls_ctx **tls;
	bool levels;
	int r;

	if (d->draining)
		return err_set(reterr, -ESHUTDOWN, "the daemon is draining: nothing changes any more");
	if (!sources && !applied) {
		r = creds_load(ctl->creds, d->snap->cfg, &tls, reterr);
		if (r == 0)
			r = snapshot_create(&next, d->snap->cfg, tls, d->n_workers, config_free, reterr);
	} else {
		r = build(ctl, sources ? sources : &ctl->sources, applied ? applied : &ctl->applied, &next, reterr);
	}
	if (r < 0 || !next)
		return r;
	if (report && next->cfg != d->snap->cfg)
		(void)config_diff(d->snap->cfg, next->cfg, report_line, report);
	/* what an operator has set stays, unless the configuration says something else now */
	levels = memcmp(next->cfg->log_areas, d->snap->cfg->log_areas, sizeof(next->cfg->log_areas)) != 0;
	r = daemon_swap(d, next, reterr);
	if (r == 0 && levels)
		logging_levels(next->cfg, NULL);
	if (r < 0)
		snapshot_destroy(next);
	else
		creds_commit(ctl->creds, next->cfg, next->tls, report);
	return r;
}

/* one line of the log per change */
static void log_report(const struct text *t, const char *why)
{
	const char *s = t->s;

	if (!t->len) {
		log_info(LA_MAIN, "%s: nothing has changed", why);
		return;
	}
	while (s && *s) {
		const char *end = strchr(s, '\n');

		log_info(LA_MAIN, "%s: %.*s", why, (int)(end ? end - s : (long)strlen(s)), s);
		s = end ? end + 1 : NULL;
	}
}

static void refused(struct control *ctl, const char *why, const struct err *e)
{
	ctl->d->changes.refused++;
	ctl->d->changes.why = *e;
	log_err(LA_MAIN, "%s refused, nothing has changed: %s", why, e->msg);
}

int control_install(struct control *ctl, struct config_sources *sources, struct config_source *applied, const char *why,
		    struct text *ret_report, struct err *reterr)
{
	struct text own = {.s = NULL}, *report = ret_report ? ret_report : &own;
	int r = install(ctl, sources, applied, report, reterr);

	if (r < 0) {
		refused(ctl, why, reterr);
	} else {
		ctl->d->changes.done++;
		ctl->d->changes.last_us = real_us();
		ctl->d->changes.why.msg[0] = '\0';
		atomic_store(&ctl->d->health.limit_ms, ctl->d->cfg->watchdog_ms);
		log_report(report, why);
		if (sources) {
			config_sources_free(&ctl->sources);
			ctl->sources = *sources;
			*sources = (struct config_sources){.at = NULL};
			policies_files_changed(ctl->policies);
			watch_files(ctl);
		}
		if (applied) {
			source_free(&ctl->applied);
			ctl->applied = *applied;
			*applied = (struct config_source){.name = NULL};
		}
	}
	text_finish(&own);
	return r;
}

int control_reload(struct control *ctl, const char *why, struct text *ret_report, struct err *reterr)
{
	struct config_sources s;
	int r = config_read(ctl->file, &s, reterr);

	if (r < 0) {
		refused(ctl, why, reterr);
		return r;
	}
	s.running = true;
	r = control_install(ctl, &s, NULL, why, ret_report, reterr);
	config_sources_free(&s);
	return r;
}
