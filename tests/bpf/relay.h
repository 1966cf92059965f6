/*
 * A relay of a few lines on kern/bypass.h, a process of its own: accepts, connects on, moves bytes, asks to be joined, demotes, leaves.
 * Random or quick. What it does wrong the programs beside it would see as wrong bytes.
 */
#pragma once
#include "lab.h"

/** struct relay_sums - in shared memory; every relay adds */
struct relay_sums {
	_Atomic uint64_t conns, joins, watches, legs, demoted, refused[BYPASS_WHYS], redirected, passed, gate[BYPASS_REFUSALS];
	_Atomic uint32_t stop, up;
};

struct relay_opts {
	const char *ip, *to_ip;	  /* where it listens, where it connects to */
	uint16_t port, to;
	int listen_fd;		  /* > 0: this listener, made before (in another namespace, say) */
	int to_netns;		  /* > 0: connect from that namespace */
	uint32_t after;		  /* reads from the source before it asks to be joined; 0: never */
	uint32_t taken, injected; /* the source's first bytes kept, bytes written before them */
	uint64_t bulk;		  /* bytes passed with less than an eighth redirected: demote; 0: never */
	uint64_t seed;		  /* not 0: random sizes, stalls, moments to join, gates closed and opened */
	struct relay_sums *sums;
	struct bypass_knobs knobs;
	const struct cfg_kernel *cfg;
	uint32_t max;		  /* connections at a time */
	bool no_bypass, cut;	  /* cut: sums->stop resets the connections of joined ones */
	bool hasty;		  /* bytes are not held back for readers that wait for edges: a mistake */
};

struct flow {
	int from, to;
	char *buf;
	size_t len, off;
	bool eof, shut;
	uint64_t reads;
};
struct pass {
	int a, u;
	struct flow f[2];
	struct bypass_join j;
	uint32_t taken, injected;
	uint64_t stall_us, join_us, judged_us, seen[2], asked;
	bool never, dead, hasty;
};

#define RELAY_BUF 65536u

/* Return: 0 nothing moved, 1 something did, -1 broken */
static inline int flow_move(struct bypass *b, struct pass *p, struct flow *f, uint64_t *rs)
{
	int moved = 0;

	for (int i = 0; i < 8 && !f->shut; i++) {
		size_t want = rs ? 1 + below(rs, RELAY_BUF) : RELAY_BUF;
		ssize_t r;

		if (f->off < f->len && b && !p->hasty && p->j.state != BYPASS_NONE && bypass_hold(b, &p->j, f == &p->f[1])) {
			p->stall_us = now_us() + 1000;
			return moved;
		}
		if (f->off < f->len) {
			r = send(f->to, f->buf + f->off, f->len - f->off, MSG_NOSIGNAL | MSG_DONTWAIT);
			if (r < 0)
				return errno == EAGAIN ? moved : -1;
			f->off += (size_t)r;
			moved = 1;
			if (f->off < f->len)
				return moved;
			f->off = f->len = 0;
		}
		if (f->eof) {
			shutdown(f->to, SHUT_WR);
			f->shut = true;
			return 1;
		}
		if (rs && below(rs, 300) == 0) {
			p->stall_us = now_us() + below(rs, 3000);
			return 1;
		}
		r = recv(f->from, f->buf, want, MSG_DONTWAIT);
		if (r < 0)
			return errno == EAGAIN ? moved : -1;
		moved = 1;
		f->eof = r == 0;
		f->len = (size_t)r;
		f->reads += r > 0;
	}
	return moved;
}

/* the beginning of the stream: bytes taken out, bytes put in. Return: 1 done, 0 later, -1 broken */
static inline int pass_begin(struct pass *p, const struct relay_opts *o)
{
	char t[256];

	memset(t, 'Q', sizeof(t));
	while (p->taken < o->taken) {
		ssize_t r = recv(p->a, t, o->taken - p->taken, MSG_DONTWAIT);

		if (r <= 0)
			return r < 0 && errno == EAGAIN ? 0 : -1;
		p->taken += (uint32_t)r;
	}
	memset(t, 'Q', sizeof(t));
	while (p->injected < o->injected) {
		ssize_t r = send(p->u, t, o->injected - p->injected, MSG_NOSIGNAL | MSG_DONTWAIT);

		if (r < 0)
			return errno == EAGAIN ? 0 : -1;
		p->injected += (uint32_t)r;
	}
	return 1;
}

static inline void pass_free(struct bypass *b, struct pass *p, const struct relay_opts *o, bool broken)
{
	struct bypass_counts n;

	if (b && p->j.state != BYPASS_NONE) {
		bypass_counts(b, &p->j, &n);
		if (!p->j.watcher) {
			o->sums->redirected += n.bytes[0] + n.bytes[1];
			o->sums->passed += n.pass_bytes[0] + n.pass_bytes[1];
			for (uint32_t i = 0; i < BYPASS_REFUSALS; i++)
				o->sums->gate[i] += n.refused[0][i] + n.refused[1][i];
		}
		bypass_leave(b, &p->j);
	}
	if (broken) {
		reset(p->a);
		reset(p->u);
	} else {
		close(p->a);
		close(p->u);
	}
	free(p->f[0].buf);
	free(p->f[1].buf);
	memset(p, 0, sizeof(*p));
}

static inline void pass_join(struct bypass *b, struct pass *p, const struct relay_opts *o, uint64_t *rs)
{
	bool go = o->seed ? p->join_us <= now_us() && below(rs, 4) == 0 : p->f[0].reads >= o->after && p->f[0].reads > p->asked;
	int r;

	if (!b || !o->after || p->never || p->j.state != BYPASS_NONE || !go || !p->f[1].reads || p->taken < o->taken ||
	    p->injected < o->injected)
		return;
	p->asked = p->f[0].reads;
	r = bypass_join(b, p->a, p->u, o->taken, o->injected, &p->j);
	if (r == 0) {
		if (p->j.watcher)
			o->sums->watches++;
		else
			o->sums->joins++;
	} else if (r != -EAGAIN || ++p->j.tries > 50) {
		o->sums->refused[p->j.why]++;
		p->never = true;
	}
}

/* demotion, and in random mode a gate that opens and closes */
static inline void pass_judge(struct bypass *b, struct pass *p, const struct relay_opts *o, uint64_t *rs)
{
	uint64_t now = now_us(), passed, redirected;
	struct bypass_counts n;

	if (p->j.state == BYPASS_DEMOTING) {
		if (now - p->judged_us > 20000 && bypass_demote(b, &p->j, now / 1000) == 0)
			o->sums->demoted++;
		p->judged_us = now;
		return;
	}
	if (p->j.state != BYPASS_OPEN || now - p->judged_us < 1000)
		return;
	p->judged_us = now;
	if (rs && below(rs, 30) == 0)
		bypass_gate(b, &p->j, below(rs, 4) != 0);
	bypass_counts(b, &p->j, &n);
	passed = n.pass_bytes[0] + n.pass_bytes[1];
	redirected = n.bytes[0] + n.bytes[1];
	if (o->bulk && passed - p->seen[0] > o->bulk) {
		if (redirected - p->seen[1] < (passed - p->seen[0]) / 8)
			bypass_demote(b, &p->j, now / 1000);
		p->seen[0] = passed;
		p->seen[1] = redirected;
	}
}

static inline bool pass_new(struct pass *p, const struct relay_opts *o, int fd, int ep, uint64_t *rs)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.ptr = p};
	int u, back = -1;

	if (o->to_netns > 0) {
		back = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
		MUST(setns(o->to_netns, CLONE_NEWNET));
	}
	u = connect_to(o->to_ip, o->to);
	if (back >= 0) {
		MUST(setns(back, CLONE_NEWNET));
		close(back);
	}
	if (u < 0) {
		close(fd);
		return false;
	}
	*p = (struct pass){.a = fd, .u = u, .hasty = o->hasty};
	p->f[0] = (struct flow){.from = fd, .to = u, .buf = malloc(RELAY_BUF)};
	p->f[1] = (struct flow){.from = u, .to = fd, .buf = malloc(RELAY_BUF)};
	nodelay(fd);
	nodelay(u);
	if (rs) {
		p->join_us = now_us() + (below(rs, 3) ? below(rs, 2000) : below(rs, 3) ? 0 : below(rs, 20000));
		p->never = below(rs, 10) == 0;
	}
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev));
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, u, &ev));
	o->sums->conns++;
	return true;
}

static inline void relay_loop(const struct relay_opts *o)
{
	struct bypass *b = o->no_bypass ? NULL : lab_bypass(o->cfg, &o->knobs);
	int l = o->listen_fd > 0 ? o->listen_fd : listen_on(o->ip, o->port), ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	struct pass *all = calloc(o->max, sizeof(*all));
	struct epoll_event ev[64], in = {.events = EPOLLIN};
	uint64_t state = o->seed, *rs = o->seed ? &state : NULL;
	uint32_t high = 0;
	bool busy = false, soon = false;

	nonblock(l, true);
	MUST(epoll_ctl(ep, EPOLL_CTL_ADD, l, &in));
	o->sums->up++;
	while (!o->sums->stop) {
		int n = epoll_wait(ep, ev, 64, busy ? 0 : soon ? 1 : 20), fd;
		bool accepting = rs != NULL;

		busy = soon = false;
		for (int i = 0; i < n; i++) {
			struct pass *p = ev[i].data.ptr;

			accepting |= !p;
			if (p && p->a && ev[i].events & EPOLLERR)
				p->dead = true;
			busy |= p != NULL;
		}
		for (uint32_t i = 0; i < high; i++) {
			struct pass *p = &all[i];
			int r, s;

			if (!p->a)
				continue;
			pass_join(b, p, o, rs);
			pass_judge(b, p, o, rs);
			soon |= p->stall_us || (rs && p->j.state != BYPASS_CLOSED && !p->never);
			if (p->stall_us > now_us())
				continue;
			p->stall_us = 0;
			r = pass_begin(p, o);
			s = r > 0 ? flow_move(b, p, &p->f[0], rs) : 0;
			r = r < 0 ? r : flow_move(b, p, &p->f[1], rs);
			busy |= r > 0 || s > 0;
			if (r < 0 || s < 0 || p->dead)
				pass_free(b, p, o, true);
			else if (p->f[0].shut && p->f[1].shut)
				pass_free(b, p, o, false);
		}
		while (accepting && (fd = accept4(l, NULL, NULL, SOCK_CLOEXEC)) >= 0) {
			uint32_t i = 0;

			while (i < o->max && all[i].a)
				i++;
			if (i == o->max) {
				close(fd);
				continue;
			}
			busy |= pass_new(&all[i], o, fd, ep, rs);
			high = i >= high ? i + 1 : high;
		}
	}
	for (uint32_t i = 0; i < high; i++)
		if (all[i].a)
			pass_free(b, &all[i], o, o->cut);
	bypass_destroy(b);
}

/* sockets that we inherited would pass for an agent's */
static inline void close_others(int keep1, int keep2)
{
	for (int fd = 3; fd < 1024; fd++)
		if (fd != keep1 && fd != keep2)
			close(fd);
}

static inline void relay_run(void *arg)
{
	const struct relay_opts *o = arg;

	close_others(o->listen_fd, o->to_netns);
	relay_loop(o);
}

static inline struct relay_sums *relay_sums(void)
{
	struct relay_sums *s = mmap(NULL, sizeof(*s), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

	if (s == MAP_FAILED)
		exit(1);
	return s;
}

/* waits until it listens; a relay that cannot have the bypass ends with 77, and so do we */
static inline pid_t relay_start(struct relay_opts *o)
{
	uint32_t before = o->sums->up;
	pid_t p = lab_child(relay_run, o);

	for (int i = 0; o->sums->up == before; i++) {
		int status;

		if (waitpid(p, &status, WNOHANG) == p)
			exit(WIFEXITED(status) ? WEXITSTATUS(status) : 1);
		if (i > LONG_MS)
			skip("the relay does not come up");
		sleep_ms(1);
	}
	return p;
}
