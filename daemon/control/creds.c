/*
 * Credentials. There is one entry per identity in force. A file that changes (watch.c) is a reason to look at all of them: whatever gives
 * another context makes a snapshot, by the one way there is (control_install()), and that comes back to creds_load() and creds_commit().
 *
 * Bad files are the usual case in the middle of a replacement: the certificate is there, its key not yet. Each look that finds
 * them is counted, the sentence is logged once per cause, and the next event may find them good. What is in force does not change
 * meanwhile, not for other identities either.
 */
#include "control/creds.h"
#include "base/clean.h"
#include "base/log.h"
#include "control/watch.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

#define REMIND_S 3600u /* what does not work is said again */

struct entry {
	struct cert_row row; /* its texts are ours */
	char *name;
	struct tls_ctx *ctx;
	struct err why; /* row.bad */
	uint64_t next;	/* unix seconds: notes may have changed */
	enum cfg_rotate rotate;
};

struct creds {
	struct creds_ops ops;
	struct watch *watch;
	struct entry *at;
	struct cert_row *rows;
	uint32_t n;
	const struct config *cfg; /* in force; of the snapshot */
};

static const char *const rotates[] = { [ROTATE_REPLACED] = "replaced", [ROTATE_EXPIRY] = "expiry" };

static uint64_t unix_s(void)
{
	return (uint64_t)time(NULL);
}

static struct entry *entry_of(struct creds *c, const char *name)
{
	for (uint32_t i = 0; i < c->n; i++)
		if (!strcmp(c->at[i].name, name))
			return &c->at[i];
	return NULL;
}

static bool same_text(const char *a, const char *b)
{
	return a == b || (a && b && !strcmp(a, b));
}

static bool same_files(const struct tls_ctx *t, const struct cfg_identity *id)
{
	const struct tls_info *i = tls_ctx_info(t);

	return same_text(i->certificate, id->certificate) && same_text(i->key, id->key) && same_text(i->ca, id->ca) && same_text(i->crl, id->crl);
}

/* ---- loading ---- */

static void tls_free(struct tls_ctx **tls, uint32_t n)
{
	for (uint32_t i = 0; tls && i < n; i++)
		tls_ctx_put(tls[i]);
	free(tls);
}

static void went_bad(struct entry *e, const struct err *why, bool look)
{
	bool news = !e->row.bad || strcmp(e->why.msg, why->msg) != 0;

	if (look || !e->row.bad)
		e->row.failures++;
	if (!e->row.bad)
		e->row.bad_since = unix_s();
	e->why = *why;
	e->row.bad = e->why.msg;
	if (news)
		log_err(LA_MAIN, "%s; what was loaded before stays in force (serial %s)", why->msg, tls_ctx_info(e->ctx)->cert.serial);
}

static void is_good(struct entry *e)
{
	if (e->row.bad)
		log_info(LA_MAIN, "identity '%s': its files are good again", e->name);
	e->row.bad = NULL;
	e->row.bad_since = 0;
}

/* @look: on behalf of the files, which have changed; else of somebody who wants contexts */
static int load(struct creds *c, const struct config *cfg, bool look, struct tls_ctx **tls, struct err *reterr)
{
	struct err warn;

	for (uint32_t i = 0; i < cfg->n_identities; i++) {
		const struct cfg_identity *id = &cfg->identities[i];
		struct entry *e = entry_of(c, id->name);
		int r = tls_ctx_renew(&tls[i], e ? e->ctx : NULL, id, &warn, reterr);

		if (r < 0 && (r == -ENOMEM || !e || !same_files(e->ctx, id)))
			return r;
		if (r < 0) {
			went_bad(e, reterr, look);
			tls[i] = tls_ctx_get(e->ctx);
		} else if (e && same_files(e->ctx, id)) {
			is_good(e);
		}
	}
	return 0;
}

int creds_load(struct creds *c, const struct config *cfg, struct tls_ctx ***ret, struct err *reterr)
{
	struct tls_ctx **tls = calloc(cfg->n_identities + 1u, sizeof(struct tls_ctx *));
	int r = tls ? load(c, cfg, false, tls, reterr) : err_set(reterr, -ENOMEM, "out of memory");

	if (r < 0) {
		tls_free(tls, cfg->n_identities);
		return r;
	}
	*ret = tls;
	return 0;
}

/* the files have changed */
static void look(void *arg)
{
	struct creds *c = arg;
	struct tls_ctx **tls;
	struct err e = { "" };
	bool different = false;

	if (!c->cfg || !(tls = calloc(c->cfg->n_identities + 1u, sizeof(struct tls_ctx *))))
		return;
	if (load(c, c->cfg, true, tls, &e) == 0)
		for (uint32_t i = 0; i < c->cfg->n_identities; i++) {
			const struct entry *en = entry_of(c, c->cfg->identities[i].name);

			different |= !en || en->ctx != tls[i];
		}
	tls_free(tls, c->cfg->n_identities);
	if (different)
		c->ops.changed(c->ops.arg);
}

/* ---- in force ---- */

static void say(void *arg, bool bad, const char *text)
{
	bool *any = arg;

	*any |= bad;
	if (bad)
		log_err(LA_MAIN, "%s", text);
	else
		log_warn(LA_MAIN, "%s", text);
}

static void notes(struct entry *e)
{
	uint64_t now = unix_s();
	bool bad = false;

	tls_ctx_notes(e->ctx, now, say, &bad);
	e->next = tls_ctx_next(e->ctx, now);
	if (bad && (!e->next || e->next > now + REMIND_S))
		e->next = now + REMIND_S;
}

static void report_line(struct text *t, const char *name, const struct tls_ctx *old, const struct tls_ctx *new_)
{
	const struct tls_info *i = tls_ctx_info(new_);
	uint64_t now = unix_s();
	char left[TLS_AGO];

	if (tls_ctx_same_leaf(old, new_))
		text_addf(t, "~ identity %s: %s\n", name, tls_ctx_same_trust(old, new_) ? "settings" : "who is trusted (CA or CRL file)");
	else
		text_addf(t, "~ identity %s: certificate renewed, serial %s, %s%s\n", name, i->cert.serial,
			  i->cert.not_after > now ? "expires in " : "expired since ", tls_ago((int64_t)(i->cert.not_after - now), left));
}

static void entries_free(struct entry *at, uint32_t n)
{
	for (uint32_t i = 0; at && i < n; i++) {
		tls_ctx_put(at[i].ctx);
		free(at[i].name);
	}
	free(at);
}

static void watch_files(struct creds *c, const struct config *cfg)
{
	const char **path = calloc((size_t)cfg->n_identities * TLS_FILES + 1, sizeof(*path));
	struct err e = { "" };
	uint32_t n = 0;

	for (uint32_t i = 0; path && i < cfg->n_identities; i++)
		for (int k = 0; k < TLS_FILES; k++)
			if (tls_file_name(&cfg->identities[i], (enum tls_file)k))
				path[n++] = tls_file_name(&cfg->identities[i], (enum tls_file)k);
	if (!path || watch_set(c->watch, path, n, &e) < 0)
		log_err(LA_MAIN, "certificates are not watched: %s; aditctl reload reads them", path ? e.msg : "out of memory");
	free(path);
}

void creds_commit(struct creds *c, const struct config *cfg, struct tls_ctx *const *tls, struct text *report)
{
	struct entry *at = calloc(cfg->n_identities + 1u, sizeof(*at));
	struct cert_row *rows = calloc(cfg->n_identities + 1u, sizeof(*rows));
	uint32_t n = 0;

	for (uint32_t i = 0; at && rows && i < cfg->n_identities; i++) {
		const struct cfg_identity *id = &cfg->identities[i];
		struct entry *old = entry_of(c, id->name), *e = &at[n];
		bool same = old && old->ctx == tls[i];

		if (old)
			*e = *old;
		e->name = strdup(id->name);
		if (!e->name)
			break;
		n++;
		if (old && !same && report)
			report_line(report, id->name, old->ctx, tls[i]);
		e->ctx = tls_ctx_get(tls[i]);
		e->rotate = id->rotate;
		e->row.name = e->name;
		e->row.ctx = e->ctx;
		e->row.rotate = rotates[id->rotate];
		e->row.bad = old && old->row.bad ? e->why.msg : NULL;
		e->row.loads += !same;
		if (!same)
			notes(e);
	}
	if (!at || !rows || n < cfg->n_identities) {
		log_err(LA_MAIN, "out of memory: certificates are in force, and not shown or watched");
		entries_free(at, n);
		free(rows);
		return;
	}
	entries_free(c->at, c->n);
	free(c->rows);
	c->at = at;
	c->rows = rows;
	c->n = n;
	c->cfg = cfg;
	watch_files(c, cfg);
}

uint32_t creds_list(void *creds, const struct cert_row **ret)
{
	struct creds *c = creds;

	for (uint32_t i = 0; i < c->n; i++)
		c->rows[i] = c->at[i].row;
	*ret = c->rows;
	return c->n;
}

/* ---- life ---- */

int creds_fd(const struct creds *c)
{
	return watch_fd(c->watch);
}

void creds_run(struct creds *c)
{
	watch_run(c->watch);
}

void creds_tick(struct creds *c)
{
	uint64_t now = unix_s();

	for (uint32_t i = 0; i < c->n; i++)
		if (c->at[i].next && now >= c->at[i].next)
			notes(&c->at[i]);
}

int creds_create(struct creds **ret, const struct creds_ops *ops, struct err *reterr)
{
	struct creds *c = calloc(1, sizeof(*c));
	struct watch_ops w = { .changed = look, .arg = c };
	int r;

	if (!c)
		return err_set(reterr, -ENOMEM, "out of memory");
	c->ops = *ops;
	r = watch_create(&c->watch, &w, reterr);
	if (r < 0) {
		free(c);
		return r;
	}
	*ret = c;
	return 0;
}

void creds_destroy(struct creds *c)
{
	if (!c)
		return;
	watch_destroy(c->watch);
	entries_free(c->at, c->n);
	free(c->rows);
	free(c);
}
