/*
 * Joining: from two sockets of ours to the two ends of the chain, and what happens to them afterwards.
 *
 * A connection of this node is put down in the kernel under its first sequence numbers (bpf/bypass.bpf.c, pairs). An agent that wants
 * to join says in `links` what it does between its two sockets and walks from connection to connection, over its own links and those
 * of other agents, until it finds ends that are no agent's (or an agent's that ends the chain there: a leg). A neighbour without a
 * link has not asked yet: later. All agents of a chain ask; the first one that can binds, the others find the binding and
 * watch the same slots.
 *
 *   order: the bytes that C gave to TCP since the beginning are C.write_seq - w0. Those that S has read are S.copied_seq - r0, less
 *   what relays added on the way (a PROXY header), plus what they took out. Equal: nothing is under way, nothing can be overtaken.
 *
 * A binding is for life: a socket is never bound again, so a gate that has read it cannot be surprised.
 */
#include "kern/bypass_int.h"
#include "base/clean.h"
#include <bpf/bpf.h>
#include <linux/sockios.h>
#include <netinet/tcp.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>

#define HOPS	   16u /* relays in a chain; more is a loop */
#define DEMOTE_MS  20u /* no send() is within the gate any more: in place of an RCU grace period */

/** struct bypass_ends - what demotion needs, and what a watcher saw last: one malloc per joined connection */
struct bypass_ends {
	struct adit_req_end end[2];
	struct bypass_counts seen;  /* a watcher's: the slots are not its own and may go away under it */
	uint64_t since_ms;	    /* the gate was closed */
	bool out[2];
};

static void at_of(const struct adit_pair_key *key, uint8_t side, const struct adit_pair *pair, struct bypass_at *ret)
{
	*ret = (struct bypass_at){
		.key = *key,
		.side = side,
		.end = pair->end[side],
		.wfirst = side ? pair->pseq : key->aseq,
		.rfirst = side ? key->aseq : pair->pseq,
		.netns = -1,
	};
}

static int end_of(struct bypass *b, const struct adit_pair_key *key, uint8_t side, struct bypass_at *ret)
{
	const struct adit_pair *p = &b->obj.pair[adit_pair_place(key) & (b->obj.pairs - 1)];
	struct adit_pair pair;

	for (int i = 0; i < 3; i++) { /* it may be written while we read */
		memcpy(&pair, p, sizeof(pair));
		__atomic_signal_fence(__ATOMIC_ACQUIRE); /* read, then looked at again */
		if (!pair.busy && !__atomic_load_n(&p->busy, __ATOMIC_ACQUIRE) && !memcmp(&pair, p, sizeof(pair)))
			break;
		pair.end[0].cookie = 0;
	}
	if (memcmp(&pair.key, key, sizeof(*key)) || !pair.end[0].cookie || !pair.end[1].cookie)
		return -ENOENT;
	at_of(key, side, &pair, ret);
	return 0;
}

static void tuple(struct adit_req_end *q, bool v6, const void *local, uint16_t local_port, const void *remote, uint16_t remote_port)
{
	q->v6 = v6;
	if (v6) {
		memcpy(q->tuple.ipv6.saddr, remote, 16);
		memcpy(q->tuple.ipv6.daddr, local, 16);
		q->tuple.ipv6.sport = htons(remote_port);
		q->tuple.ipv6.dport = htons(local_port);
	} else {
		memcpy(&q->tuple.ipv4.saddr, remote, 4);
		memcpy(&q->tuple.ipv4.daddr, local, 4);
		q->tuple.ipv4.sport = htons(remote_port);
		q->tuple.ipv4.dport = htons(local_port);
	}
}

static uint32_t inum_of(int sock)
{
	AUTO_FD ns = ioctl(sock, SIOCGSKNS);
	struct stat st;

	return ns < 0 || fstat(ns, &st) ? 0 : (uint32_t)st.st_ino;
}

/* the socket's counters may be caught between two of their updates: not three times in a row */
static int run_again(struct bypass *b, struct adit_req *q)
{
	int answer = ADIT_UNKNOWN;

	for (int i = 0; i < 3 && answer == ADIT_UNKNOWN; i++)
		answer = obj_run(&b->obj, q);
	return answer;
}

int bypass_whereis(struct bypass *b, int fd, struct bypass_at *ret)
{
	struct adit_req q = {.op = ADIT_OP_WHERE, .end[0].netns = -1};
	struct sockaddr_storage local, remote;
	socklen_t n[2] = {sizeof(local), sizeof(remote)}, len = sizeof(q.end[0].bind.cookie);
	struct addr l, r;
	int answer;

	if (getsockopt(fd, SOL_SOCKET, SO_COOKIE, &q.end[0].bind.cookie, &len) || getsockname(fd, (struct sockaddr *)&local, &n[0]) ||
	    getpeername(fd, (struct sockaddr *)&remote, &n[1]))
		return -ENOENT;
	addr_from_sa((struct sockaddr *)&local, &l); /* IPv4-mapped becomes IPv4: so it is found in the kernel, too */
	addr_from_sa((struct sockaddr *)&remote, &r);
	if (l.family != r.family || (l.family != AF_INET && l.family != AF_INET6))
		return -ENOENT;
	tuple(&q.end[0], l.family == AF_INET6, l.ip, l.port, r.ip, r.port);
	answer = run_again(b, &q);
	if (answer == ADIT_GONE && nsids_get(&b->nsids, inum_of(fd), 0, (const int[2]){fd, -1}, &q.end[0].netns) == 0 &&
	    q.end[0].netns >= 0)
		answer = run_again(b, &q); /* a socket of ours in another namespace */
	if (answer == ADIT_NOT_OPEN || answer == ADIT_GONE)
		return -ENOTCONN;
	if (answer != ADIT_DONE || !q.pair.end[!q.side].cookie)
		return -ENOENT;
	at_of(&q.end[0].key, (uint8_t)q.side, &q.pair, ret);
	return 0;
}

int bypass_far(struct bypass *b, const struct bypass_at *at, struct bypass_at *ret)
{
	return end_of(b, &at->key, !at->side, ret);
}

static int link_write(struct bypass *b, const struct bypass_at *at, const struct bypass_at *other, uint32_t delta, uint32_t back)
{
	struct adit_link l = {.terminal = !other, .delta = delta, .back = back};

	if (other) {
		l.other = other->key;
		l.other_side = other->side;
		l.other_cookie = other->end.cookie;
	}
	return bpf_map_update_elem(b->obj.map[BM_LINKS], &at->end.cookie, &l, BPF_ANY);
}

/**
 * walk() - from a socket of ours over its connection and all relays to the end
 * *delta grows by what relays add to the stream on the way from us to the end, *back by what they add on the way from the end to us.
 * Return: 0, or -EAGAIN, -ENOENT with *why.
 */
static int walk(struct bypass *b, const struct bypass_at *from, struct bypass_at *ret, uint32_t *delta, uint32_t *back,
		uint32_t *hops, enum bypass_why *why)
{
	struct bypass_at at = *from, far;
	struct adit_link link;

	for (uint32_t i = 0; i < HOPS; i++) {
		*why = BYPASS_WHY_REMOTE;
		if (bypass_far(b, &at, &far))
			return -ENOENT;
		*ret = far;
		if (!far.end.agent)
			return 0;
		*why = BYPASS_WHY_WAIT;
		if (bpf_map_lookup_elem(b->obj.map[BM_LINKS], &far.end.cookie, &link))
			return -EAGAIN;
		if (link.terminal)
			return 0;
		*delta += link.delta;
		*back += link.back;
		++*hops;
		if (end_of(b, &link.other, link.other_side, &at) || at.end.cookie != link.other_cookie)
			return -EAGAIN;
	}
	*why = BYPASS_WHY_ERROR;
	return -ENOENT;
}

/* an accepted socket of an application says nothing of who accepted it; its listener does */
static void ask_listener(struct bypass *b, struct bypass_at *at)
{
	struct adit_req q = {.op = ADIT_OP_LISTENER};

	q.end[0].netns = at->netns;
	tuple(&q.end[0], at->end.family == AF_INET6, at->end.local, at->key.pport, at->end.remote, 0);
	if (at->side && !at->end.tgid && obj_run(&b->obj, &q) == ADIT_DONE)
		at->end.tgid = q.side;
}

static bool allowed(struct bypass *b, const struct bypass_at *at, const uint16_t port[2])
{
	struct who_end e = {.cgroup = at->end.cgroup, .tgid = at->end.tgid, .uid = at->end.uid, .port = {port[0], port[1]}};

	return at->end.agent || who_allows(&b->who, b->cfg.allow, b->cfg.n_allow, &e);
}

static void req_end(struct bypass *b, const struct bypass_at *at, const struct bypass_at *peer, uint32_t delta, uint32_t slot,
		    uint32_t flags, struct adit_req_end *ret)
{
	const struct adit_end *e = &at->end;
	uint16_t local = at->side ? at->key.pport : at->key.aport, remote = at->side ? at->key.aport : at->key.pport;

	*ret = (struct adit_req_end){
		.bind = {.cookie = e->cookie,
			 .peer = peer->end.sk,
			 .peer_cookie = peer->end.cookie,
			 .wbase = at->wfirst,
			 .rbase = peer->rfirst + delta,
			 .slot = slot,
			 .flags = flags,
			 .max_bytes = b->cfg.queue_bytes,
			 .max_messages = b->cfg.queue_messages,
			 .passed = 1},
		.netns = at->netns,
		.key = at->key,
		.side = at->side,
		.wfirst = at->wfirst,
		.rfirst = at->rfirst,
	};
	tuple(ret, e->family == AF_INET6, e->local, local, e->remote, remote);
}

static int no(struct bypass_join *j, enum bypass_why why)
{
	j->why = (uint8_t)why;
	return why == BYPASS_WHY_WAIT || why == BYPASS_WHY_NODELAY ? -EAGAIN : -ENOTCONN;
}

void bypass_gate(struct bypass *b, const struct bypass_join *j, bool open)
{
	for (uint32_t i = 0; i < 2; i++)
		if (b->slots.at[j->slot + i].cookie == j->cookie[i])
			__atomic_store_n(&b->slots.at[j->slot + i].open, open, __ATOMIC_RELEASE);
}

static int take_slots(struct bypass *b, uint32_t *ret)
{
	uint32_t now = (uint32_t)bypass_now_ms();
	int r = slots_take(&b->slots, now, ret);

	if (r < 0 && slots_reclaim(&b->slots, obj_alive, &b->obj, now)) {
		atomic_store(&b->slots.full_until_ms, 0);
		r = slots_take(&b->slots, now, ret);
	}
	return r;
}

/* another agent of the chain was quicker: the same slots, if they are about the same two ends */
static int watch(struct bypass *b, uint32_t slot, struct bypass_ends *ends, struct bypass_join *j)
{
	if (slot + 1 >= b->slots.n || !__atomic_load_n(&b->slots.at[slot].owner, __ATOMIC_RELAXED) ||
	    b->slots.at[slot].cookie != j->cookie[0] || b->slots.at[slot + 1].cookie != j->cookie[1])
		return no(j, BYPASS_WHY_BOUND);
	j->ends = ends;
	j->slot = slot;
	j->state = BYPASS_OPEN;
	j->why = BYPASS_WHY_OTHER;
	j->watcher = true;
	return 0;
}

static enum bypass_why why_not(int answer)
{
	switch ((enum adit_answer)(answer & 0xff)) {
	case ADIT_GONE:
	case ADIT_UNKNOWN:
	case ADIT_NOT_OPEN:
		return BYPASS_WHY_STATE;
	case ADIT_HAS_ULP:
		return BYPASS_WHY_ULP;
	case ADIT_WAIT_NODELAY:
		return BYPASS_WHY_NODELAY;
	case ADIT_NO_MEMORY:
	case ADIT_MAP_FULL:
		return BYPASS_WHY_FULL;
	case ADIT_BUSY:
	case ADIT_BOUND:
		return BYPASS_WHY_BOUND;
	case ADIT_REFUSED:
		return BYPASS_WHY_TAKEN;
	case ADIT_DONE:
	case ADIT_BAD_REQUEST:
	case ADIT_STILL_OPEN:
	case ADIT_NOT_EMPTY:
	case ADIT_NOT_IN:
		break;
	}
	return BYPASS_WHY_ERROR;
}

static int netns_of(struct bypass *b, struct bypass_at *at, const int fd[2])
{
	uint32_t tgid = at->end.tgid;

	if (!tgid && at->end.netns != b->nsids.own)
		bpf_map_lookup_elem(b->obj.map[BM_SPACES], &at->end.netns, &tgid);
	return nsids_get(&b->nsids, at->end.netns, tgid, fd, &at->netns);
}

/* @again: the namespace's id may have been an old one */
static int find_netns(struct bypass *b, struct bypass_at *l, struct bypass_at *r, const int fd[2], bool again)
{
	if (again) {
		nsids_forget(&b->nsids, l->end.netns);
		nsids_forget(&b->nsids, r->end.netns);
	}
	return netns_of(b, l, fd) || netns_of(b, r, fd) ? -ENOENT : 0;
}

int bypass_bind(struct bypass *b, struct bypass_at *l, struct bypass_at *r, uint32_t delta, uint32_t flags, const int fd[2],
		uint64_t hold, struct bypass_join *j)
{
	AUTO_FREE struct bypass_ends *ends = calloc(1, sizeof(*ends));
	struct adit_req q = {0};
	uint32_t slot;
	int answer;

	j->cookie[0] = l->end.cookie;
	j->cookie[1] = r->end.cookie;
	if (!ends || take_slots(b, &slot))
		return no(j, BYPASS_WHY_FULL);
	if (b->obj.evidence)
		flags |= ADIT_BIND_EVIDENCE;
	for (int tries = 0;; tries++) {
		q.op = ADIT_OP_BIND;
		req_end(b, l, r, delta, slot, flags, &q.end[0]);
		req_end(b, r, l, 0, slot + 1, flags, &q.end[1]);
		for (uint32_t i = 0; i < 2; i++)
			if (hold && q.end[i].bind.cookie == hold)
				q.end[i].bind.flags |= ADIT_BIND_HOLD;
		for (uint32_t i = 0; i < 2; i++)
			__atomic_store_n(&b->slots.at[slot + i].cookie, j->cookie[i], __ATOMIC_RELEASE);
		answer = run_again(b, &q);
		if (answer != ADIT_GONE || tries || (l->netns < 0 && r->netns < 0))
			break;
		if (find_netns(b, l, r, fd, true)) {
			slots_give(&b->slots, slot, (uint32_t)bypass_now_ms());
			return no(j, BYPASS_WHY_NETNS);
		}
	}
	if (answer != ADIT_DONE) {
		slots_give(&b->slots, slot, (uint32_t)bypass_now_ms());
		__atomic_store_n(&b->slots.at[slot].freed_ms, 0, __ATOMIC_RELAXED); /* nobody watches it */
		if (answer < 0)
			return no(j, BYPASS_WHY_ERROR);
		if ((answer & 0xff) != ADIT_BUSY)
			return no(j, why_not(answer));
		memcpy(ends->end, q.end, sizeof(ends->end));
		answer = watch(b, (uint32_t)answer >> 8 & ~1u, ends, j);
		if (answer == 0)
			ends = NULL;
		return answer;
	}
	memcpy(ends->end, q.end, sizeof(ends->end));
	j->ends = TAKE(ends);
	j->slot = slot;
	j->state = BYPASS_OPEN;
	j->why = BYPASS_WHY_NONE;
	atomic_fetch_add_explicit(&b->joined, 1, memory_order_relaxed);
	bypass_gate(b, j, true);
	return 0;
}

/* both ends can be reached, and are on the list or an agent's */
static int ends_allowed(struct bypass *b, struct bypass_at *l, struct bypass_at *r, const int fd[2], struct bypass_join *j)
{
	const uint16_t port[2] = {l->key.pport, r->key.pport};

	if (find_netns(b, l, r, fd, false))
		return no(j, BYPASS_WHY_NETNS);
	for (uint32_t i = 0; i < b->cfg.n_allow; i++)
		if (b->cfg.allow[i].n_executables) {
			ask_listener(b, l);
			ask_listener(b, r);
			break;
		}
	return allowed(b, l, port) && allowed(b, r, port) ? 0 : no(j, BYPASS_WHY_UNLISTED);
}

static int refused(struct bypass *b, int r)
{
	if (r < 0 && r != -EAGAIN)
		atomic_fetch_add_explicit(&b->refused_joins, 1, memory_order_relaxed);
	return r;
}

int bypass_join(struct bypass *b, int a, int u, uint32_t taken, uint32_t injected, struct bypass_join *j)
{
	uint32_t delta = injected - taken, back = 0, hops = 0;
	struct bypass_at at_a, at_u, l, r;
	enum bypass_why why;
	int e;

	e = bypass_whereis(b, a, &at_a);
	e = e ? e : bypass_whereis(b, u, &at_u);
	if (e)
		return refused(b, no(j, e == -ENOTCONN ? BYPASS_WHY_STATE : BYPASS_WHY_REMOTE));
	if (link_write(b, &at_a, &at_u, delta, 0) || link_write(b, &at_u, &at_a, 0, delta))
		return refused(b, no(j, BYPASS_WHY_FULL));
	/* the stream of the source: what left neighbours add counts on their way back, so to speak */
	e = walk(b, &at_a, &l, &back, &delta, &hops, &why);
	if (e < 0)
		return refused(b, no(j, why));
	e = walk(b, &at_u, &r, &delta, &back, &hops, &why);
	if (e < 0)
		return refused(b, no(j, why));
	e = ends_allowed(b, &l, &r, (const int[2]){a, u}, j);
	if (e == 0)
		e = bypass_bind(b, &l, &r, delta, ADIT_BIND_STRICT, (const int[2]){a, u}, 0, j);
	if (e == 0)
		atomic_fetch_add_explicit(&b->joins, 1, memory_order_relaxed);
	return refused(b, e);
}

int bypass_join_leg(struct bypass *b, int fd, struct bypass_join *j)
{
	uint32_t delta = 0, back = 0, hops = 0, flags;
	struct bypass_at own, far;
	uint64_t hold;
	enum bypass_why why;
	int one = 1, e;

	if (!b->cfg.legs)
		return refused(b, no(j, BYPASS_WHY_OFF));
	e = bypass_whereis(b, fd, &own);
	if (e)
		return refused(b, no(j, e == -ENOTCONN ? BYPASS_WHY_STATE : BYPASS_WHY_REMOTE));
	setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	if (link_write(b, &own, NULL, 0, 0))
		return refused(b, no(j, BYPASS_WHY_FULL));
	e = walk(b, &own, &far, &delta, &back, &hops, &why);
	if (e < 0)
		return refused(b, no(j, why));
	if (far.end.agent) /* both ends are agents': nothing to gain that a join of their owners would not give */
		return refused(b, no(j, BYPASS_WHY_REMOTE));
	e = ends_allowed(b, &own, &far, (const int[2]){fd, -1}, j);
	if (e < 0)
		return refused(b, e);
	flags = hops ? ADIT_BIND_STRICT : 0;
	hold = b->hold_legs ? own.end.cookie : 0;
	/* accepted: the application is the source, and stands on the left */
	e = own.side ? bypass_bind(b, &far, &own, back, flags, (const int[2]){fd, -1}, hold, j) :
		       bypass_bind(b, &own, &far, delta, flags, (const int[2]){fd, -1}, hold, j);
	if (e == 0)
		atomic_fetch_add_explicit(&b->legs, 1, memory_order_relaxed);
	return refused(b, e);
}

void bypass_hold_legs(struct bypass *b)
{
	b->hold_legs = true;
}

static bool mine(const struct bypass *b, const struct bypass_join *j)
{
	return j->state != BYPASS_NONE && j->state != BYPASS_CLOSED && b->slots.at[j->slot].cookie == j->cookie[0];
}

bool bypass_hold(struct bypass *b, struct bypass_join *j, int side)
{
	uint32_t *behind = &b->slots.at[j->slot + (uint32_t)side].behind;

	if (!mine(b, j) || !__atomic_load_n(behind, __ATOMIC_ACQUIRE))
		return false;
	/* cleared first: the gate may set it again at any time, for bytes that come later */
	__atomic_store_n(behind, 0, __ATOMIC_SEQ_CST);
	struct adit_req q = {.op = ADIT_OP_EMPTY, .end = {j->ends->end[!side]}};
	if (obj_run(&b->obj, &q) != ADIT_NOT_EMPTY)
		return false;
	__atomic_store_n(behind, 1, __ATOMIC_RELEASE);
	return true;
}

void bypass_counts(const struct bypass *b, const struct bypass_join *j, struct bypass_counts *ret)
{
	*ret = j->watcher && j->ends ? j->ends->seen : (struct bypass_counts){0};
	if (!mine(b, j))
		return;
	for (uint32_t i = 0; i < 2; i++) {
		const struct adit_slot *s = &b->slots.at[j->slot + i];

		ret->bytes[i] = __atomic_load_n(&s->bytes, __ATOMIC_RELAXED);
		ret->messages[i] = __atomic_load_n(&s->messages, __ATOMIC_RELAXED);
		ret->pass_bytes[i] = __atomic_load_n(&s->pass_bytes, __ATOMIC_RELAXED);
		ret->pass_messages[i] = __atomic_load_n(&s->pass_messages, __ATOMIC_RELAXED);
		for (uint32_t k = 0; k < BYPASS_REFUSALS; k++)
			ret->refused[i][k] = __atomic_load_n(&s->refused[k], __ATOMIC_RELAXED);
	}
	ret->last_ms = bypass_last_ms(b, j);
	if (j->watcher)
		j->ends->seen = *ret;
}

uint64_t bypass_last_ms(const struct bypass *b, const struct bypass_join *j)
{
	if (!mine(b, j))
		return 0;
	return max_u64(__atomic_load_n(&b->slots.at[j->slot].last_ns, __ATOMIC_RELAXED),
		       __atomic_load_n(&b->slots.at[j->slot + 1].last_ns, __ATOMIC_RELAXED)) /
	       1000000;
}

/* closed for good: the last counts go into the sums, the slots back */
static void give_back(struct bypass *b, struct bypass_join *j)
{
	struct bypass_counts n;

	bypass_gate(b, j, false);
	bypass_counts(b, j, &n);
	if (!j->watcher && mine(b, j)) {
		atomic_fetch_add_explicit(&b->bytes, n.bytes[0] + n.bytes[1], memory_order_relaxed);
		atomic_fetch_add_explicit(&b->messages, n.messages[0] + n.messages[1], memory_order_relaxed);
		for (uint32_t k = 0; k < BYPASS_REFUSALS; k++)
			atomic_fetch_add_explicit(&b->refused[k], n.refused[0][k] + n.refused[1][k], memory_order_relaxed);
		slots_give(&b->slots, j->slot, (uint32_t)bypass_now_ms());
	}
	if (!j->watcher)
		atomic_fetch_sub_explicit(&b->joined, 1, memory_order_relaxed);
	free(j->ends);
	j->ends = NULL;
	j->state = BYPASS_CLOSED;
}

void bypass_leave(struct bypass *b, struct bypass_join *j)
{
	if (j->state == BYPASS_OPEN || j->state == BYPASS_DEMOTING)
		give_back(b, j);
}

int bypass_demote(struct bypass *b, struct bypass_join *j, uint64_t now_ms)
{
	struct bypass_ends *e = j->ends;
	bool all = true;

	if (j->state != BYPASS_OPEN && j->state != BYPASS_DEMOTING)
		return 0;
	j->why = BYPASS_WHY_BULK;
	if (j->state == BYPASS_OPEN) {
		bypass_gate(b, j, false);
		j->state = BYPASS_DEMOTING;
		e->since_ms = now_ms;
		return -EAGAIN;
	}
	for (uint32_t i = 0; !j->watcher && i < 2; i++) { /* who bound them takes them out */
		struct adit_req q = {.op = ADIT_OP_TAKE_OUT, .end = {e->end[i]}};
		int r;

		if (now_ms - e->since_ms < DEMOTE_MS)
			return -EAGAIN;
		if (e->out[i])
			continue;
		r = obj_run(&b->obj, &q);
		e->out[i] = r != ADIT_NOT_EMPTY && r != ADIT_STILL_OPEN;
		all = all && e->out[i];
	}
	if (!all)
		return -EAGAIN;
	atomic_fetch_add_explicit(&b->demoted, 1, memory_order_relaxed);
	give_back(b, j);
	return 0;
}
