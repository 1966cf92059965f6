/*
 * The memory of what was. Two rings of facts, and a table of denials.
 *
 * Texts of an ended connection lie packed in its slot, in the order of their worth: what does not fit is cut, at the end of the
 * longest first. Names are copied, because the configuration that they come from may be gone when somebody asks.
 *
 * The table of denials is looked through from end to end: 256 hashes side by side, which is cheap beside the accept() that came
 * before, and needs no second structure. Two denials with the same 64 bits (seeded: nobody can make them) count as equal.
 */
#include "chain/recent.h"
#include "base/clean.h"
#include "chain/daemon.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

#define FAILED_MIN 16u

_Static_assert(sizeof(struct recent_conn) <= 576, "an ended connection is about half a KiB");

const char *const recent_by[RECENT_BY] = { "src", "dst", "peer", "adit", "both" };
const char *const recent_mover[RECENT_MOVERS] = { "relay", "splice", "leg", "bypass" };

int recent_init(struct recent *r, uint32_t conns, uint64_t seed)
{
	uint32_t failed = conns ? (uint32_t)max_u64(conns / 4, FAILED_MIN) : 0;

	memset(r, 0, sizeof(*r));
	r->seed = seed;
	r->denial = calloc(RECENT_DENIALS, sizeof(*r->denial));
	r->ended.c = calloc(conns + 1u, sizeof(*r->ended.c));
	r->failed.c = calloc(failed + 1u, sizeof(*r->failed.c));
	r->ended.size = conns;
	r->failed.size = failed;
	return r->denial && r->ended.c && r->failed.c ? 0 : -ENOMEM; /* the caller finishes it */
}

void recent_finish(struct recent *r)
{
	free(r->denial);
	free(r->ended.c);
	free(r->failed.c);
	memset(r, 0, sizeof(*r));
}

static void put(char *out, size_t size, const char *s)
{
	size_t n = s ? strnlen(s, size - 1) : 0;

	if (n)
		memcpy(out, s, n);
	out[n] = '\0';
}

/* ---- denials ---- */

static uint64_t hash_more(uint64_t h, const char *s)
{
	return s ? XXH3_64bits_withSeed(s, strlen(s), h) : h + 0x9e3779b97f4a7c15u;
}

static uint64_t hash_addr(uint64_t h, const struct addr *a, bool port)
{
	struct addr k = a ? *a : (struct addr){ .family = AF_UNSPEC };

	k.pad = 0;
	if (!port)
		k.port = 0;
	return XXH3_64bits_withSeed(&k, sizeof(k), h);
}

static uint64_t group_of(const struct recent *r, const struct denial_facts *f)
{
	return hash_more(hash_more(hash_more(r->seed + f->kind, f->listener), f->cluster), f->policy);
}

/* who it was: by identity, and by address where there is none */
static uint64_t key_of(uint64_t group, const struct denial_facts *f)
{
	uint64_t h = hash_more(hash_more(hash_addr(group, f->dst, true), f->authority), f->why);

	return f->principal && *f->principal ? hash_more(h, f->principal) : hash_addr(h, f->src, false);
}

/* the oldest of the group that has most; groups with the same eight bits share their fate */
static uint32_t victim(const struct recent *r)
{
	uint16_t n[256] = { 0 };
	uint32_t v = RECENT_DENIALS, most = 0;

	for (uint32_t i = 0; i < RECENT_DENIALS; i++)
		most = (uint32_t)max_u64(++n[r->group[i]], most);
	for (uint32_t i = 0; i < RECENT_DENIALS; i++)
		if (n[r->group[i]] == most && (v == RECENT_DENIALS || r->denial[i].last_us < r->denial[v].last_us))
			v = i;
	return v;
}

static uint32_t slot_of(const struct recent *r, uint64_t key)
{
	uint32_t i;

	for (i = 0; i < r->n_denials && r->key[i] != key; i++)
		;
	return i;
}

static void note(struct recent *r, uint64_t now_us, const struct denial_facts *f)
{
	uint64_t group = group_of(r, f), key = key_of(group, f);
	uint32_t i = slot_of(r, key);
	bool known = i < r->n_denials;
	struct recent_denial *d;

	if (!known)
		i = r->n_denials < RECENT_DENIALS ? r->n_denials++ : victim(r);
	d = &r->denial[i];
	if (!known) {
		r->key[i] = key;
		r->group[i] = (uint8_t)group;
		d->first_us = now_us;
		d->n = 0;
		d->kind = (uint8_t)f->kind;
		put(d->listener, sizeof(d->listener), f->listener);
		put(d->cluster, sizeof(d->cluster), f->cluster);
		put(d->principal, sizeof(d->principal), f->principal);
		put(d->authority, sizeof(d->authority), f->authority);
		put(d->policy, sizeof(d->policy), f->policy);
		put(d->why, sizeof(d->why), f->why);
	}
	d->n++;
	d->last_us = now_us;
	d->conn = f->conn;
	d->src = f->src ? *f->src : (struct addr){ .family = AF_UNSPEC };
	d->dst = f->dst ? *f->dst : (struct addr){ .family = AF_UNSPEC };
}

void denied_note(struct worker *w, const struct denial_facts *f)
{
	if (w->recent.denial)
		note(&w->recent, w->loop.now_us + w->loop.real_offset_us, f);
}

/* Return: DENIALS when its end was none */
static enum denial denial_of(const struct conn *c)
{
	switch ((enum ending)c->ending) {
	case END_DENIED:
		if (c->stages.denied)
			return DENIAL_POLICY;
		return c->stages.cluster && c->stages.cluster->type == CLUSTER_ORIGINAL_DST ? DENIAL_DESTINATION : DENIAL_IDENTITY;
	case END_REVOKED: return DENIAL_POLICY;
	case END_NO_ROUTE: return DENIAL_ROUTE;
	case END_LIMIT:
	case END_QUEUE_FULL: return DENIAL_LIMIT;
	case END_RATE: return DENIAL_RATE;
	case END_OVERLOAD: return DENIAL_OVERLOAD;
	case END_PROXY: return DENIAL_PROXY;
	case END_PEER_DENIED: return DENIAL_PEER;
	case END_COMPLETE:
	case END_SRC_RESET:
	case END_DST_RESET:
	case END_SRC_TUNNEL:
	case END_DST_TUNNEL:
	case END_EXPIRED:
	case END_UNTRUSTED:
	case END_BAD_REQUEST:
	case END_HEADERS:
	case END_CONNECT:
	case END_CONNECT_TIME:
	case END_NO_NAME:
	case END_NO_TUNNEL:
	case END_QUEUE_TIME:
	case END_PEER_REFUSED:
	case END_OPEN_TIME:
	case END_MEMORY:
	case END_IDLE:
	case END_KILLED:
	case END_SHUTDOWN:
	case END_DRAINED:
	case ENDINGS: break;
	}
	return DENIALS;
}

static void note_conn(struct conn *c, enum denial kind)
{
	char rule[POLICY_RULE_NAME];
	struct denial_facts f = {
		.kind = kind,
		.listener = c->snap->cfg->listeners[c->stages.id[0]].name,
		.cluster = c->stages.cluster ? c->stages.cluster->name : NULL,
		.src = &c->src,
		.dst = c->orig_dst.family != AF_UNSPEC ? &c->orig_dst : NULL,
		.authority = c->orig_dst.family == AF_UNSPEC ? c->authority : NULL,
		.principal = conn_principal(c),
		.policy = kind == DENIAL_POLICY ? judge_name(c, rule) : NULL,
		.why = c->why ? c->why : ending_text(c->ending),
		.conn = c->id,
	};

	denied_note(c->w, &f);
}

/* ---- ended connections ---- */

static uint32_t cut32(uint64_t v)
{
	return (uint32_t)min_u64(v, UINT32_MAX);
}

struct packing {
	struct recent_conn *c;
	uint32_t at;
};

/* at most @max bytes of it; the order of calls is that of enum recent_text */
static void pack(struct packing *p, enum recent_text which, const char *s, uint32_t max)
{
	uint32_t n = (uint32_t)min_u64(s ? strnlen(s, max) : 0, min_u64(RECENT_TEXT - p->at, 255));

	if (n)
		memcpy(p->c->text + p->at, s, n);
	p->c->end[which] = (uint8_t)n;
	p->at += n;
}

const char *recent_text(const struct recent_conn *c, enum recent_text which, char out[RECENT_TEXT])
{
	uint32_t at = 0;

	for (uint32_t i = 0; i < which; i++)
		at += c->end[i];
	memcpy(out, c->text + at, c->end[which]);
	out[c->end[which]] = '\0';
	return out;
}

/* listener > listener > cluster:name, without snprintf(), which costs more than all the rest */
static const char *chain_of(const struct conn *c, char out[128])
{
	const struct config *cfg = c->snap->cfg;
	char *p = out, *end = out + 127;

	for (uint32_t i = 0; i < c->stages.n + (c->stages.cluster ? 1u : 0u); i++) {
		const char *s = i < c->stages.n ? cfg->listeners[c->stages.id[i]].name : c->stages.cluster->name;

		if (i)
			p = mempcpy(p, " > ", min_u64(3, (uint64_t)(end - p)));
		if (i == c->stages.n)
			p = mempcpy(p, "cluster:", min_u64(8, (uint64_t)(end - p)));
		p = mempcpy(p, s, min_u64(strlen(s), (uint64_t)(end - p)));
	}
	*p = '\0';
	return out;
}

static void pack_texts(const struct conn *c, struct recent_conn *r)
{
	struct packing p = { .c = r };
	const struct leg *d = &c->leg[DST];
	char chain[128], rule[POLICY_RULE_NAME];

	pack(&p, RT_LISTENER, c->snap->cfg->listeners[c->stages.id[0]].name, 40);
	pack(&p, RT_CHAIN, chain_of(c, chain), 120);
	pack(&p, RT_POLICY, judge_name(c, rule), 60);
	pack(&p, RT_WHY, c->why, 140);
	pack(&p, RT_PRINCIPAL, conn_principal(c), 100);
	pack(&p, RT_PEER, d->who ? d->who->tls.id : NULL, 100);
	pack(&p, RT_AUTHORITY, c->authority, 80);
	pack(&p, RT_ROUTE, c->stages.route ? c->stages.route->name : NULL, 40);
	pack(&p, RT_MOVER_WHY, c->open_us ? conn_mover_why(c) : NULL, 80);
}

void recent_facts(const struct conn *c, struct recent_conn *r)
{
	const char *ended_by = ending_by(c), *moved_by = conn_mover(c);
	const struct loop *l = &c->w->loop;
	const struct leg *s = &c->leg[SRC], *d = &c->leg[DST];

	*r = (struct recent_conn){
		.id = c->id,
		.end_us = l->now_us + l->real_offset_us,
		.start_us = c->start_us + l->real_offset_us,
		.duration_us = l->now_us - c->start_us,
		.bytes = { c->bytes[SRC], c->bytes[DST] },
		.bypassed = c->bypassed[SRC] + c->bypassed[DST],
		.spliced = c->spliced[SRC] + c->spliced[DST],
		.src = c->src,
		.orig_dst = c->orig_dst,
		.dst = c->dst,
		.open_us = c->open_us ? cut32(max_u64(c->open_us - c->start_us, 1)) : 0,
		.queue_us = cut32(c->queue_us),
		.begun_us = c->connect_us ? cut32(max_u64(c->connect_us - c->start_us, 1)) : 0,
		.stuck_ms = { leg_stuck_ms(s, l->now_ms), leg_stuck_ms(d, l->now_ms) },
		.tunnel_in = s->who ? s->who->tunnel : 0,
		.stream_in = s->sid,
		.tunnel_out = d->who ? d->who->tunnel : 0,
		.stream_out = d->sid,
		.status = c->status,
		.worker = (uint16_t)l->worker,
		.ending = c->ending,
		.tries = c->tries,
		.n_via = c->n_via,
	};
	memcpy(r->at, c->at, sizeof(r->at));
	for (uint32_t i = 0; i < ARRAY_LEN(recent_by); i++)
		r->by = strcmp(recent_by[i], ended_by) ? r->by : (uint8_t)i;
	for (uint32_t i = 0; i < ARRAY_LEN(recent_mover); i++)
		r->mover = strcmp(recent_mover[i], moved_by) ? r->mover : (uint8_t)i;
	pack_texts(c, r);
}

static void remember(const struct conn *c, struct recent_ring *ring)
{
	if (!ring->size)
		return;
	recent_facts(c, &ring->c[ring->next]);
	ring->next = (ring->next + 1) % ring->size;
	ring->n = ring->n < ring->size ? ring->n + 1 : ring->n;
}

void recent_end(struct conn *c)
{
	struct recent *r = &c->w->recent;
	enum denial kind = denial_of(c);

	if (!r->denial)
		return;
	if (kind != DENIALS)
		note_conn(c, kind);
	remember(c, c->open_us ? &r->ended : &r->failed);
}

const struct recent_conn *recent_each(const struct recent *r, uint32_t *i)
{
	uint32_t k = (*i)++;

	if (k < r->failed.n)
		return &r->failed.c[k];
	k -= r->failed.n;
	return k < r->ended.n ? &r->ended.c[k] : NULL;
}
