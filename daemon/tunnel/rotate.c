/*
 * Certificates run out, are renewed and revoked while tunnels live. A tunnel was made with one context of ours and one chain of the
 * peer's; what happens to it:
 *
 *   ours was renewed	it is replaced: at once (spread a little, or all peers would dial in the same moment), or, with `rotate: expiry`,
 *			when two thirds of its time are over
 *   the peer's runs out
 *			the same, at two thirds (dialled) or five sixths (accepted: who dials goes first) of the time that is left. If the peer
 *			still shows the old one, again at two thirds of the rest, and so on: seldom, and more urgent towards the end
 *   one of the two has expired
 *			it goes on for timeouts.expiry_grace, since a broken renewal should not cut what works; then its streams are ended
 *   the peer is revoked, or its CA was removed
 *			it is closed, now
 *
 * To replace: a dialled tunnel is `stale` from then on. It goes on taking streams until another one to the same peer is open
 * (pool.c), and drains then; when that one cannot be had it is tried again, later and later. An accepted tunnel is told GOAWAY in two steps,
 * and the peer dials.
 */
#include "base/clean.h"
#include "base/log.h"
#include "tunnel/pool.h"
#include "tunnel/tunnel_int.h"
#include <time.h>

#define SPREAD_MS     10000u /* at the most; a quarter of what is left at the most, too */
#define AGAIN_MIN_MS  1000u  /* not more often than that */
#define AGAIN_MAX_MS  30000u
#define WARM_MS	      1000u  /* without streams for longer: not worth another tunnel */

static struct tls_ctx *current(const struct tunnel *t)
{
	return t->who->own && t->identity ? snapshot_tls(t->snap, t->identity) : NULL;
}

/* has our certificate been renewed since? */
static bool renewed(const struct tunnel *t)
{
	const struct tls_ctx *now = current(t);

	return now && !tls_ctx_same_leaf(now, t->who->own);
}

static uint64_t left_ms(const struct tunnel *t)
{
	uint64_t now = (uint64_t)time(NULL);

	return t->expires > now ? (t->expires - now) * 1000u : 0;
}

/* 0..@ms, another for each tunnel; nobody gains by guessing it */
static uint64_t spread(const struct tunnel *t, uint64_t ms)
{
	uint64_t x = (t->l->now_us ^ (uint64_t)t->id << 32 ^ (uintptr_t)t) * 0x9e3779b97f4a7c15u;

	return ms ? (x >> 33) % ms : 0;
}

/* Return: false: it was closed */
static bool still_trusted(struct tunnel *t)
{
	const struct tls_ctx *now = current(t);
	const char *const *ids = t->server ? t->listener->accept_ids : t->peer->pool->cluster->expect_ids;
	uint32_t n = t->server ? t->listener->n_accept_ids : t->peer->pool->cluster->n_expect_ids;
	struct err why = { "" };
	int r;

	if (!now || !t->rec.chain || tls_ctx_same_trust(now, t->who->own))
		return true;
	r = tls_ctx_recheck(now, t->rec.chain, ids, n, &why);
	if (r == 0 || r == -ENOMEM || r == -EKEYEXPIRED) /* what has expired has its grace */
		return true;
	stats_inc(&t->l->stats, ST_TUNNELS_UNTRUSTED);
	t->end = TUNNEL_END_UNTRUSTED;
	t->rec.alert = r == -EKEYREVOKED ? ALERT_CERTIFICATE_REVOKED : ALERT_UNKNOWN_CA;
	err_set(&t->why, 0, "no longer trusted: %s", why.msg);
	tunnel_close(t, -EACCES, t->why.msg);
	return false;
}

static void due_set(struct tunnel *t, uint64_t in_ms)
{
	uint64_t at = t->l->now_ms + max_u64(in_ms, 1);

	if (!t->rotate_ms || at < t->rotate_ms)
		t->rotate_ms = at;
	tunnel_tick_arm(t);
}

static void look(struct tunnel *t)
{
	if (!still_trusted(t) || t->state != TUNNEL_OPEN || t->stale || !renewed(t))
		return;
	if (t->identity->rotate == ROTATE_REPLACED)
		due_set(t, spread(t, min_u64(left_ms(t) / 4, SPREAD_MS)));
	else if (!t->rotate_ms) /* its time came before there was anything to replace it by */
		due_set(t, spread(t, AGAIN_MIN_MS));
}

void rotate_begin(struct tunnel *t)
{
	uint64_t ms;

	if (!t->who->own)
		return;
	t->expires = min_u64(tls_ctx_not_after(t->who->own), t->who->tls.until);
	ms = left_ms(t) / 6 * (t->server ? 5 : 4);
	t->rotate_ms = ms < AGAIN_MIN_MS ? 0 : t->l->now_ms + ms - spread(t, ms / 16);
	look(t);
}

void tunnels_renewed(struct tunnels *ts)
{
	struct tunnel *t;

	for (uint32_t i = 0; (t = slab_next(&ts->slab, &i));)
		if (t->state > TUNNEL_HANDSHAKE && t->state != TUNNEL_CLOSED && t->who->own)
			look(t);
}

static void expire(struct tunnel *t)
{
	bool ours = tls_ctx_not_after(t->who->own) <= t->who->tls.until;
	char ago[TLS_AGO];

	stats_inc(&t->l->stats, ST_TUNNELS_EXPIRED);
	t->end = TUNNEL_END_EXPIRED;
	tls_ago((int64_t)((uint64_t)time(NULL) - t->expires), ago);
	if (ours) {
		err_set(&t->why, 0, "our certificate expired %s ago and was not renewed in time (timeouts.expiry_grace is over)", ago);
	} else {
		t->rec.alert = ALERT_CERTIFICATE_EXPIRED;
		err_set(&t->why, 0, "the peer's certificate expired %s ago and was not renewed in time (timeouts.expiry_grace is over)", ago);
	}
	tunnel_close(t, -ETIMEDOUT, t->why.msg);
}

static uint64_t grace_end(const struct tunnel *t) /* unix ms */
{
	return t->expires * 1000u + t->l->cfg->timeouts.expiry_grace_ms;
}

static uint64_t unix_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_REALTIME, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void again(struct tunnel *t)
{
	uint64_t ms = min_u64((uint64_t)AGAIN_MIN_MS << min_u64(t->rotate_tries++, 5), AGAIN_MAX_MS);

	t->rotate_ms = t->l->now_ms + ms;
}

static void replace(struct tunnel *t)
{
	bool was = t->stale;

	t->stale = true;
	if (!was)
		stats_inc(&t->l->stats, ST_TUNNELS_ROTATED);
	err_set(&t->why, 0, "replaced: %s", renewed(t) ? "our certificate was renewed" : "the peer's certificate expires");
	if (t->server || (!t->h2.streams && t->idle_ms && t->l->now_ms - t->idle_ms >= WARM_MS && !t->peer->queued)) {
		tunnel_drain(t);
		return;
	}
	again(t);
	pool_replace(t->peer);
}

void rotate_tick(struct tunnel *t)
{
	if (!t->expires)
		return;
	if (unix_ms() >= grace_end(t)) {
		expire(t);
		return;
	}
	if (t->state != TUNNEL_OPEN || !t->rotate_ms || t->l->now_ms < t->rotate_ms)
		return;
	if (renewed(t) || t->who->tls.until <= tls_ctx_not_after(t->who->own))
		replace(t);
	else
		t->rotate_ms = 0; /* ours runs out, and there is no other: look() when there is */
}

uint64_t rotate_in_ms(const struct tunnel *t)
{
	uint64_t now = unix_ms(), end = t->expires ? grace_end(t) : 0, ms = end > now ? end - now : t->expires ? 0 : UINT64_MAX;

	if (t->rotate_ms && t->state == TUNNEL_OPEN)
		ms = min_u64(ms, t->rotate_ms > t->l->now_ms ? t->rotate_ms - t->l->now_ms : 0);
	return ms;
}
