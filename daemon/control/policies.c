/*
 * A change is one text in, one text out: the document is taken apart (config/doc.h), what is applied already is joined with it by name, and
 * the result is written beside the file in force, installed as a source of the configuration, and put in the file's place. In this order, so that a
 * daemon that dies in between starts with the old set or with the new one, and the new one is known to be good; and who was told that it is
 * done can rely on it. A disk that is full is known before anything changes.
 *
 * A name belongs to one place: what stands in a file of the configuration is changed there. Otherwise nobody could tell what holds after the
 * next start, or who undid what.
 *
 * Who is told of a mistake looks at the document that was sent. So when the whole is refused, the document is judged alone for a sentence
 * with its own lines.
 */
#include "control/policies.h"
#include "base/clean.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

struct policies {
	char *dir; /* NULL: none */
	struct store_text state;
	struct doc applied, files;
	bool files_known;
	struct policy_view *views; /* NULL: to be made */
	struct policies_host host;
	struct audit *audit;
};

int policies_open(struct policies **ret, const char *dir, struct err *reterr)
{
	struct policies *p = calloc(1, sizeof(*p));
	int r = 0;

	if (!p)
		return err_set(reterr, -ENOMEM, "out of memory");
	if (dir) {
		p->dir = strdup(dir);
		r = p->dir ? store_load(dir, &p->state, reterr) : err_set(reterr, -ENOMEM, "out of memory");
	}
	if (r == 0 && p->state.text)
		r = doc_parse(p->state.path, p->state.text, p->state.n, DOC_APPLY, &p->applied, reterr);
	if (r < 0)
		policies_close(p);
	else
		*ret = p;
	return r;
}

static void files_forget(struct policies *p)
{
	doc_finish(&p->files);
	p->files_known = false;
	free(TAKE(p->views));
}

void policies_close(struct policies *p)
{
	if (!p)
		return;
	files_forget(p);
	doc_finish(&p->applied);
	store_finish(&p->state);
	free(p->dir);
	free(p);
}

void policies_attach(struct policies *p, const struct policies_host *h, struct audit *audit)
{
	p->host = *h;
	p->audit = audit;
}

const struct store_text *policies_source(const struct policies *p)
{
	return &p->state;
}

void policies_files_changed(struct policies *p)
{
	files_forget(p);
}

/* ---- looking ---- */

static int files_know(struct policies *p, struct err *e)
{
	int r = p->files_known ? 0 : p->host.files(p->host.arg, &p->files, e);

	p->files_known = r == 0;
	return r;
}

static void views_put(struct policy_view *to, const struct doc *d, bool applied)
{
	for (uint32_t i = 0; i < d->n; i++)
		to[i] = (struct policy_view){.name = d->at[i].name,
					     .file = d->at[i].file,
					     .text = d->at[i].text,
					     .line = d->at[i].line,
					     .n = d->at[i].n,
					     .applied = applied};
}

int policies_views(struct policies *p, struct policy_views *ret, struct err *reterr)
{
	int r = files_know(p, reterr);

	if (r < 0)
		return r;
	if (!p->views) {
		p->views = calloc(p->files.n + p->applied.n + 1, sizeof(*p->views));
		if (!p->views)
			return err_set(reterr, -ENOMEM, "out of memory");
		views_put(p->views, &p->files, false);
		views_put(p->views + p->files.n, &p->applied, true);
	}
	*ret = (struct policy_views){.generation = p->state.generation, .at = p->views, .n = p->files.n + p->applied.n};
	return 0;
}

/* ---- what changes ---- */

static void told(struct policy_outcome *out, enum policy_fate fate, const struct doc_policy *from, const struct doc_policy *to)
{
	static const char *const words[] = {[POLICY_ADDED] = "added", [POLICY_CHANGED] = "changed", [POLICY_REMOVED] = "removed"};
	const char *name = fate == POLICY_REMOVED ? from->name : to->name;

	out->n[fate]++;
	text_addn(&out->names[fate], name, strlen(name) + 1);
	if (out->diff_cut || out->diff.len > POLICY_DIFF_MAX) {
		out->diff_cut = true;
		return;
	}
	text_addf(&out->diff, "# %s: %s\n", name, words[fate]);
	doc_diff(&out->diff, from, to);
}

static const struct doc_policy *in(const struct doc *d, const char *name)
{
	uint32_t i = doc_find(d, name);

	return i == UINT32_MAX ? NULL : &d->at[i];
}

static bool same(const struct doc_policy *a, const struct doc_policy *b)
{
	return a->n == b->n && !memcmp(a->text, b->text, a->n);
}

/* those that stay keep their place, new ones come behind them */
static void join(const struct policies *p, const struct policy_order *o, const struct doc *d, struct text *body, struct policy_outcome *out)
{
	text_add(body, "# Kept by aditd, changed with aditctl policy; docs/POLICY.md says what to do if it is damaged.\npolicies:\n");
	for (uint32_t i = 0; i < p->applied.n; i++) {
		const struct doc_policy *old = &p->applied.at[i], *new = in(d, old->name);

		if (o->text ? !new && o->prune : !strcmp(old->name, o->name)) {
			told(out, POLICY_REMOVED, old, NULL);
			continue;
		}
		if (new && !same(old, new))
			told(out, POLICY_CHANGED, old, new);
		else
			out->unchanged++;
		doc_put(body, new ? new : old);
	}
	for (uint32_t i = 0; i < d->n; i++) {
		if (in(&p->applied, d->at[i].name))
			continue;
		told(out, POLICY_ADDED, NULL, &d->at[i]);
		doc_put(body, &d->at[i]);
	}
}

static int names_check(const struct policies *p, const struct policy_order *o, const struct doc *d, struct err *e)
{
	const struct doc_policy *f;

	if (o->text && o->name && (d->n != 1 || strcmp(d->at[0].name, o->name) != 0))
		return err_set(e, -EINVAL, "%s: want one policy, called '%s'", o->file, o->name);
	for (uint32_t i = 0; i < d->n; i++)
		if ((f = in(&p->files, d->at[i].name)))
			return err_set(e, -EEXIST, "policy '%s' stands in %s:%u: change it there and reload, or give this one another name", f->name,
				       f->file, f->line);
	if (o->text)
		return 0;
	f = in(&p->files, o->name);
	if (f)
		return err_set(e, -EEXIST, "policy '%s' stands in %s:%u: remove it there and reload", f->name, f->file, f->line);
	if (!in(&p->applied, o->name))
		return err_set(e, -ENOENT, "there is no policy '%s'; aditctl policy list shows all", o->name);
	return 0;
}

/* The sentence about the document alone has its lines; if that is fine, the whole's stays. */
static int blame(struct policies *p, const struct policy_order *o, const struct doc *d, int r, struct err *e)
{
	struct err mine = {""};

	if (r == -EINVAL && o->text && d->source && p->host.judge(p->host.arg, o->file, o->text, o->n, &mine) == -EINVAL)
		*e = mine;
	return r;
}

/* ---- changing ---- */

static int may_change(struct policies *p, const struct policy_order *o, struct err *e)
{
	struct err why = {""};

	if (o->if_generation && o->generation != p->state.generation)
		return err_set(e, -ESTALE, "generation %" PRIu64 " is in force, not %" PRIu64 ": somebody else has changed policies; look again", p->state.generation,
			       o->generation);
	if (!p->dir || !p->audit)
		return err_set(e, -EROFS, "no state_dir is configured to keep policies in; write them into files in conf.d, or set state_dir");
	if (!o->dry_run && audit_ready(p->audit, &why) < 0)
		return err_set(e, -EROFS, "%s", why.msg);
	return 0;
}

/* @next is written beside the file in force; what was installed before it is in place is taken back if it cannot be */
static int commit(struct policies *p, const struct store_text *next, struct err *e)
{
	struct err back = {""};
	int r = p->host.install(p->host.arg, next->path, next->text, next->n, e);

	if (r < 0) {
		store_drop(next);
		return r;
	}
	r = store_commit(p->dir, next, e);
	if (r < 0 && p->host.install(p->host.arg, next->path, p->state.text, p->state.n, &back) < 0)
		return err_set(e, r, "%s is in force, but not kept: %s", next->path, back.msg);
	return r < 0 ? -EROFS : 0;
}

static int replace(struct policies *p, const struct text *body, struct err *e)
{
	struct store_text next;
	struct doc d;
	int r = store_write(p->dir, &p->state, body->s, body->len, &next, e);

	if (r < 0)
		return r == -ENOMEM || r == -EFBIG ? r : -EROFS;
	r = doc_parse(next.path, next.text, next.n, DOC_APPLY, &d, e);
	if (r < 0) {
		store_drop(&next);
	} else {
		r = commit(p, &next, e);
		if (r < 0)
			doc_finish(&d);
	}
	if (r < 0) {
		store_finish(&next);
		return r;
	}
	store_finish(&p->state);
	p->state = next;
	doc_finish(&p->applied);
	p->applied = d;
	free(TAKE(p->views));
	return 0;
}

static int change(struct policies *p, const struct policy_order *o, const struct doc *d, struct policy_outcome *out, struct err *e)
{
	struct text body = {0};
	int r = names_check(p, o, d, e);

	if (r < 0)
		return r;
	join(p, o, d, &body, out);
	if (!text_ok(&body) || !text_ok(&out->diff))
		r = err_set(e, -ENOMEM, "out of memory");
	for (int i = 0; i < POLICY_FATES && r == 0; i++)
		if (!text_ok(&out->names[i]))
			r = err_set(e, -ENOMEM, "out of memory");
	if (r == 0 && (out->n[POLICY_ADDED] || out->n[POLICY_CHANGED] || out->n[POLICY_REMOVED])) {
		if (o->dry_run)
			r = p->host.judge(p->host.arg, p->state.path ? p->state.path : STORE_FILE, body.s, body.len, e);
		else
			r = replace(p, &body, e);
		r = blame(p, o, d, r, e);
	}
	text_finish(&body);
	return r;
}

int policies_change(struct policies *p, const struct policy_order *o, struct policy_outcome *ret, struct err *reterr)
{
	struct doc d = {.at = NULL};
	int r = may_change(p, o, reterr);

	memset(ret, 0, sizeof(*ret));
	if (r == 0 && o->text)
		r = doc_parse(o->file, o->text, o->n, DOC_APPLY, &d, reterr);
	if (r == 0)
		r = files_know(p, reterr);
	if (r == 0)
		r = change(p, o, &d, ret, reterr);
	doc_finish(&d);
	ret->generation = p->state.generation;
	if (r < 0)
		policy_outcome_finish(ret);
	return r;
}
