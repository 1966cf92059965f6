/*
 * What an operator should know of a context, in sentences, and when that changes: certificates that run out, lists that were not renewed, a
 * certificate that its own CA file would not accept. Asked for at load, once in a while by whoever watches the identities, and by
 * aditctl.
 */
#include "base/clean.h"
#include "tls/ctx_int.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

/* a third of its life is left */
static uint64_t soon_of(const struct tls_cert_info *c)
{
	return c->not_after - (c->not_after > c->not_before ? c->not_after - c->not_before : 0) / 3;
}

static enum tls_state state_of(const struct tls_cert_info *c, uint64_t now)
{
	return now > c->not_after ? TLS_EXPIRED : now < c->not_before ? TLS_EARLY : now >= soon_of(c) ? TLS_EXPIRING : TLS_GOOD;
}

enum tls_state tls_ctx_state(const struct tls_ctx *t, uint64_t now)
{
	return state_of(&t->info.cert, now);
}

struct notes {
	const struct tls_ctx *t;
	uint64_t now;
	void (*say)(void *arg, bool bad, const char *text);
	void *arg;
};

__attribute__((format(printf, 3, 4))) static void note(const struct notes *n, bool bad, const char *fmt, ...)
{
	char s[ERR_MAX];
	int at = snprintf(s, sizeof(s), "identity '%s': ", n->t->name);
	va_list ap;

	va_start(ap, fmt);
	if (at > 0 && (size_t)at < sizeof(s))
		vsnprintf(s + at, sizeof(s) - (size_t)at, fmt, ap);
	va_end(ap);
	n->say(n->arg, bad, s);
}

static void note_own(const struct notes *n)
{
	const struct tls_info *i = &n->t->info;
	struct cert_names names;
	char in[TLS_AGO];

	switch (state_of(&i->cert, n->now)) {
	case TLS_GOOD:
		break;
	case TLS_EXPIRING:
		note(n, false, "certificate %s expires in %s: a third of its life is left, and it was not renewed", i->certificate,
		     tls_ago((int64_t)(i->cert.not_after - n->now), in));
		break;
	case TLS_EXPIRED:
		note(n, true, "certificate %s expired %s ago; peers will refuse it", i->certificate,
		     tls_ago((int64_t)(n->now - i->cert.not_after), in));
		break;
	case TLS_EARLY:
		note(n, true, "certificate %s is valid only in %s; is this node's clock right?", i->certificate,
		     tls_ago((int64_t)(i->cert.not_before - n->now), in));
		break;
	}
	if (cert_names(n->t->own->at[0], &names) == 0 && crls_revoked(n->t->crls, &names))
		note(n, true, "certificate %s is revoked by %s; peers will refuse it", i->certificate, i->crl);
}

static void note_cas(const struct notes *n)
{
	const struct tls_info *i = &n->t->info;
	uint32_t usable = 0;
	char in[TLS_AGO];

	for (uint32_t k = 0; k < i->n_cas; k++) {
		enum tls_state s = state_of(&i->cas[k], n->now);

		usable += s == TLS_GOOD || s == TLS_EXPIRING;
		if (s == TLS_EXPIRED)
			note(n, false, "CA %s in %s expired %s ago; peers with its certificates are refused", i->cas[k].subject, i->ca,
			     tls_ago((int64_t)(n->now - i->cas[k].not_after), in));
		else if (s == TLS_EXPIRING && i->cas[k].not_after - n->now < 30 * 86400)
			note(n, false, "CA %s in %s expires in %s", i->cas[k].subject, i->ca,
			     tls_ago((int64_t)(i->cas[k].not_after - n->now), in));
	}
	if (!usable)
		note(n, true, "no CA in %s is valid now: every peer is refused", i->ca);
}

static void note_crls(const struct notes *n)
{
	char ago[TLS_AGO];

	for (uint32_t k = 0; k < crls_count(n->t->crls); k++) {
		const struct tls_crl_info *c = crls_info(n->t->crls, k);

		if (c->next_update && n->now > c->next_update)
			note(n, false, "the revocation list of %s in %s should have been renewed %s ago; it stays in force", c->issuer,
			     n->t->info.crl, tls_ago((int64_t)(n->now - c->next_update), ago));
	}
}

void tls_ctx_notes(const struct tls_ctx *t, uint64_t now, void (*say)(void *arg, bool bad, const char *text), void *arg)
{
	const struct notes n = { .t = t, .now = now, .say = say, .arg = arg };

	note_own(&n);
	note_cas(&n);
	note_crls(&n);
}

static void next(uint64_t *best, uint64_t now, uint64_t at)
{
	if (at > now && (!*best || at < *best))
		*best = at;
}

static void next_of(uint64_t *best, uint64_t now, const struct tls_cert_info *c)
{
	next(best, now, c->not_before);
	next(best, now, soon_of(c));
	next(best, now, c->not_after + 1);
}

uint64_t tls_ctx_next(const struct tls_ctx *t, uint64_t now)
{
	uint64_t best = 0;

	next_of(&best, now, &t->info.cert);
	for (uint32_t k = 0; k < t->info.n_cas; k++)
		next_of(&best, now, &t->info.cas[k]);
	for (uint32_t k = 0; k < crls_count(t->crls); k++)
		if (crls_info(t->crls, k)->next_update)
			next(&best, now, crls_info(t->crls, k)->next_update + 1);
	return best;
}
