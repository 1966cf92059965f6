/*
 * The relay: moves bytes between two legs in user space. Everything works with it alone.
 *
 *   socket -> stream	pulled by the session when it may send: recv() straight into the records' plaintext buffer
 *   stream -> socket	DATA of one tunnel read is gathered per connection, then one sendmsg() from where it was decrypted
 *   socket -> socket	through the worker's buffer
 *   stream -> stream	through the destination leg's queue
 *
 * A queue holds only what a full socket did not take (or what waits for the upstream); the stream's window bounds it, because credit
 * is returned only when bytes have left.
 */
#include "base/clean.h"
#include "chain/relay_int.h"
#include "net/sock.h"
#include <sys/uio.h>

#define PUMP_TURN (256u * 1024u) /* bytes of one connection per event, socket to socket */
#define IOVS 64

/* the shortest of the chain's listeners; 0: none */
static uint64_t idle_ms(const struct conn *c)
{
	uint64_t ms = 0;

	for (uint32_t i = 0; i < c->stages.n; i++) {
		uint64_t v = c->snap->cfg->listeners[c->stages.id[i]].idle_timeout_ms;

		if (v && (!ms || v < ms))
			ms = v;
	}
	return ms;
}

static void idle(struct timer *t, void *arg)
{
	struct conn *c = arg;
	uint64_t now = c->w->loop.now_ms, ms = idle_ms(c), end;

	if (c->state != CONN_OPEN)
		return;
	bypass_sync(c);
	end = c->last_ms + ms;
	if (now < end) {
		timer_arm(&c->w->loop.timers, t, end);
		return;
	}
	stats_inc(&c->w->loop.stats, ST_IDLE_CLOSED);
	conn_end(c, END_IDLE, "no byte for %llu s", (unsigned long long)(ms / 1000));
}

static void queued(struct conn *c, int64_t n)
{
	stats_gauge(&c->w->loop.stats, SG_BUFFERED, n);
}

/* all bytes for a socket leg are out and no more will come: FIN */
static void maybe_fin(struct conn *c, struct leg *to)
{
	if (!peer_of(c, to)->in_done || leg_waits(to) || to->out_done || c->state != CONN_OPEN)
		return;
	if (to->kind == LEG_STREAM) {
		h2_resume(&to->s); /* the pull answers with END_STREAM */
		return;
	}
	if (c->touched) /* the end of the batch asks again */
		return;
	to->out_done = true;
	if (!to->in_done) {
		stats_inc(&c->w->loop.stats, ST_SYS_OTHER);
		(void)shutdown(to->fd, SHUT_WR);
		conn_trace(c, TRACE_HALF, "FIN to the %s", to->side == SRC ? "source" : "destination");
	}
	conn_complete(c);
}

static int queue_add(struct conn *c, struct leg *to, const uint8_t *p, size_t n)
{
	if (buf_append(&to->q, p, n) < 0) {
		conn_end(c, END_MEMORY, "out of memory");
		return -ENOMEM;
	}
	queued(c, (int64_t)n);
	stats_add(&c->w->loop.stats, ST_COPIED_BYTES, n);
	return 0;
}

/* Return: bytes written, or -1 when the connection ended */
static ssize_t leg_write(struct conn *c, struct leg *to, const struct iovec *iov, int n)
{
	struct msghdr m = { .msg_iov = (struct iovec *)(uintptr_t)iov, .msg_iovlen = (size_t)n };
	ssize_t r = n == 1 ? send(to->fd, iov->iov_base, iov->iov_len, MSG_DONTWAIT | MSG_NOSIGNAL) :
			     sendmsg(to->fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);

	stats_inc(&c->w->loop.stats, ST_SYS_SEND);
	if (r >= 0) {
		leg_trace(c, to, TRACE_WRITE, r, "%s", "");
		stats_add(&c->w->loop.stats, ST_APP_TX_BYTES, (uint64_t)r);
		return r;
	}
	if (errno == EAGAIN || errno == EINTR) {
		to->writable = false;
		leg_stuck(c, to);
		return 0;
	}
	if (errno == EACCES && to->mapped) { /* its application has redirected bytes unread: bypass_hold_legs() */
		bypass_later(c, to);
		return 0;
	}
	write_failed(c, to, errno);
	return -1;
}

static void queue_flush(struct conn *c, struct leg *to)
{
	struct leg *from = peer_of(c, to);

	if (leg_waits(to) && to->writable && bypass_holds(c, to))
		return;
	if (to->pipe && to->writable && splice_flush(c, to) < 0)
		return;
	while (!to->pipe && to->q.len && to->writable) {
		struct iovec v = { buf_at(&to->q), to->q.len };
		ssize_t r = leg_write(c, to, &v, 1);

		if (r < 0)
			return;
		if ((size_t)r < v.iov_len) {
			to->writable = false; /* an edge follows */
			leg_stuck(c, to);
		}
		queued(c, -r);
		buf_take(&to->q, (size_t)r);
		moved(c, from->side, (size_t)r);
		credit(from, (size_t)r);
	}
	maybe_fin(c, to);
}

/* ---- socket -> socket ---- */

static ssize_t leg_read(struct conn *c, struct leg *from, uint8_t *p, size_t max)
{
	ssize_t r = recv(from->fd, p, max, MSG_DONTWAIT);

	stats_inc(&c->w->loop.stats, ST_SYS_RECV);
	if (r > 0) {
		leg_trace(c, from, TRACE_READ, r, "%s", "");
		stats_add(&c->w->loop.stats, ST_APP_RX_BYTES, (uint64_t)r);
		if ((size_t)r < max && !from->hup && !from->mapped && !from->urgent)
			from->readable = false; /* drained: an edge follows when more comes */
		return r;
	}
	if (r == 0) {
		from->readable = false;
		conn_in_done(c, from->side);
		return 0;
	}
	if (errno == EAGAIN || errno == EINTR) {
		from->readable = false;
		return -EAGAIN;
	}
	read_failed(c, from, errno);
	return -ECONNRESET;
}

static void pump(struct conn *c, struct leg *from)
{
	struct leg *to = peer_of(c, from);
	uint8_t *buf = c->w->loop.scratch.in;
	size_t done = splice_pump(c, from, PUMP_TURN);

	while (c->state == CONN_OPEN && from->readable && !from->in_done && to->writable && !leg_waits(to) && done < PUMP_TURN &&
	       !bypass_holds(c, to)) {
		ssize_t n = leg_read(c, from, buf, SCRATCH_PLAIN), w;
		struct iovec v = { buf, (size_t)n };

		if (n <= 0)
			break;
		if (to->out_done) { /* nobody takes bytes any more on that side */
			not_taken(c, to);
			return;
		}
		w = leg_write(c, to, &v, 1);
		if (w < 0)
			return;
		moved(c, from->side, (size_t)w);
		done += (size_t)n;
		if (w < n) {
			to->writable = false;
			leg_stuck(c, to);
			if (queue_add(c, to, buf + w, (size_t)(n - w)) < 0)
				return;
		}
	}
	if (c->state != CONN_OPEN)
		return;
	if (done)
		splice_saw(c, from, done);
	if (from->in_done)
		maybe_fin(c, to);
	else if (from->readable && to->writable && !leg_waits(to))
		loop_defer(&c->w->loop, &c->task);
}

/* ---- socket -> stream ---- */

/* sent before the answer: kept for another tunnel, should the peer not have processed the stream */
static int early_keep(struct conn *c, const uint8_t *p, size_t n)
{
	if (!c->early)
		return 0;
	if (buf_append(&c->early_data, p, n) < 0) {
		conn_end(c, END_MEMORY, "out of memory");
		return -ENOMEM;
	}
	queued(c, (int64_t)n);
	return 0;
}

static size_t early_room(const struct conn *c)
{
	size_t limit = c->snap->cfg->limits.early_data;

	return limit > c->early_data.len ? limit - c->early_data.len : 0;
}

void relay_early_drop(struct conn *c)
{
	queued(c, -(int64_t)c->early_data.len);
	buf_finish(&c->early_data);
}

ssize_t relay_pull(struct conn *c, int side, uint8_t *dst, size_t max, bool *ret_eof)
{
	struct leg *to = &c->leg[side], *from = peer_of(c, to);
	ssize_t n;

	if (c->state == CONN_CLOSED || to->out_done)
		return -EAGAIN;
	leg_moves(c, to);
	if (c->early) {
		max = min_u64(max, early_room(c));
		if (!max && (to->q.len || !from->in_done))
			return -EAGAIN; /* the rest waits until the answer is here: in the socket, or against the stream's window */
	}
	if (to->q.len) {
		n = (ssize_t)min_u64(to->q.len, max);
		if (early_keep(c, buf_at(&to->q), (size_t)n) < 0)
			return -EAGAIN;
		memcpy(dst, buf_at(&to->q), (size_t)n);
		buf_take(&to->q, (size_t)n);
		queued(c, -n);
		stats_add(&c->w->loop.stats, ST_COPIED_BYTES, (uint64_t)n);
		moved(c, from->side, (size_t)n);
		credit(from, (size_t)n);
		leg_pulled(c, to, (size_t)n, max);
		return n;
	}
	if (!from->in_done && from->kind == LEG_SOCK && from->readable) {
		n = leg_read(c, from, dst, max);
		if (n > 0) {
			if (early_keep(c, dst, (size_t)n) < 0)
				return -EAGAIN;
			splice_saw(c, from, (size_t)n);
			moved(c, from->side, (size_t)n);
			leg_pulled(c, to, (size_t)n, max);
			return n;
		}
		if (n < 0)
			return -EAGAIN;
	}
	if (!from->in_done)
		return -EAGAIN;
	*ret_eof = true;
	to->out_done = true;
	conn_complete(c);
	return 0;
}

/* ---- stream -> socket or stream ---- */

void relay_data(struct conn *c, int side, const uint8_t *p, size_t n)
{
	struct worker *w = c->w;
	struct leg *from = &c->leg[side], *to = peer_of(c, from);
	struct chunk *k;

	if (!n)
		return;
	if (!p) { /* they are in the leg's pipe: splice_put() */
		if (c->state == CONN_OPEN && to->pipe)
			queue_flush(c, to);
		return;
	}
	if (c->state == CONN_CLOSED || to->out_done) {
		credit(from, n);
		if (c->state != CONN_CLOSED)
			not_taken(c, to);
		return;
	}
	if (c->state == CONN_OPEN && to->kind == LEG_SOCK && to->writable && !leg_waits(to)) {
		if (w->n_chunks == CHUNKS)
			relay_batch(w);
		if (c->state == CONN_CLOSED || leg_waits(to))
			goto queue;
		k = &w->chunks[w->n_chunks];
		*k = (struct chunk){ .p = p, .n = (uint32_t)n, .next = CHUNK_NONE };
		if (c->touched) {
			w->chunks[c->chunk_last].next = w->n_chunks;
		} else {
			c->touched = true;
			c->chunk_first = w->n_chunks;
			w->touched[w->n_touched++] = c;
		}
		c->chunk_last = w->n_chunks++;
		return;
	}
queue:
	if (c->state == CONN_CLOSED) {
		credit(from, n);
		return;
	}
	if (queue_add(c, to, p, n) == 0 && c->state == CONN_OPEN && to->kind == LEG_STREAM)
		h2_resume(&to->s);
	else if (c->state == CONN_DIALING && to->kind == LEG_STREAM)
		h2_resume(&to->s); /* forwarding: early data */
}

static void batch_conn(struct conn *c)
{
	struct worker *w = c->w;
	struct leg *from = c->leg[SRC].kind == LEG_STREAM ? &c->leg[SRC] : &c->leg[DST], *to = peer_of(c, from);
	uint16_t k = c->chunk_first;

	c->touched = false;
	while (k != CHUNK_NONE && c->state == CONN_OPEN) {
		struct iovec v[IOVS];
		size_t total = 0, left;
		int n = 0;
		ssize_t r;

		for (uint16_t i = k; i != CHUNK_NONE && n < IOVS; i = w->chunks[i].next, n++) {
			v[n] = (struct iovec){ (void *)(uintptr_t)w->chunks[i].p, w->chunks[i].n };
			total += w->chunks[i].n;
		}
		r = to->writable && !leg_waits(to) ? leg_write(c, to, v, n) : 0;
		if (r < 0)
			return;
		moved(c, from->side, (size_t)r);
		credit(from, (size_t)r);
		if ((size_t)r < total) {
			to->writable = false;
			leg_stuck(c, to);
		}
		left = (size_t)r;
		for (int i = 0; i < n; i++, k = w->chunks[k].next) {
			if (left >= v[i].iov_len) {
				left -= v[i].iov_len;
				continue;
			}
			if (queue_add(c, to, (uint8_t *)v[i].iov_base + left, v[i].iov_len - left) < 0)
				return;
			left = 0;
		}
	}
	if (c->state == CONN_OPEN && from->in_done)
		maybe_fin(c, to);
}

void relay_batch(struct worker *w)
{
	for (uint32_t i = 0; i < w->n_touched; i++)
		batch_conn(w->touched[i]);
	w->n_touched = 0;
	w->n_chunks = 0;
}

void relay_in_done(struct conn *c, int side)
{
	struct leg *g = &c->leg[side], *to = peer_of(c, g);

	if (c->state == CONN_CLOSED || g->in_done)
		return;
	conn_in_done(c, side);
	if (c->state == CONN_OPEN)
		maybe_fin(c, to);
	else if (to->kind == LEG_STREAM)
		h2_resume(&to->s);
	if (c->state == CONN_OPEN)
		conn_complete(c);
}

/* ---- events ---- */

static void more_task(struct task *t)
{
	relay_more(container_of(t, struct conn, task));
}

void relay_more(struct conn *c)
{
	for (int i = 0; i < 2; i++)
		if (c->leg[i].kind == LEG_SOCK && c->leg[!i].kind == LEG_SOCK)
			pump(c, &c->leg[i]);
}

void relay_open(struct conn *c)
{
	struct worker *w = c->w;
	uint64_t ms = idle_ms(c);

	if (!conn_set_state(c, CONN_OPEN))
		return;
	c->early = false;
	c->open_us = w->loop.now_us;
	hist_add(&w->loop.hist[LH_OPEN_US], c->open_us - c->start_us);
	relay_early_drop(c);
	report_open(c);
	conn_trace(c, TRACE_ESTABLISHED, "after %llu us", (unsigned long long)(c->open_us - c->start_us));
	timer_disarm(&w->loop.timers, &c->timer);
	if (ms) {
		c->timer.fire = idle;
		c->timer.arg = c;
		timer_arm(&w->loop.timers, &c->timer, w->loop.now_ms + ms);
	}
	c->last_ms = w->loop.now_ms;
	bypass_opened(c);
	c->task.run = more_task;
	if (c->leg[SRC].kind == LEG_STREAM) {
		c->status = 200;
		c->leg[SRC].answered = true;
		conn_trace(c, TRACE_HEADERS, "sent :status: 200");
		if (connect_accept(&c->leg[SRC].s, whose_answer(c, c->leg[SRC].s.h->owner), c->peer_md) < 0) {
			conn_end(c, END_MEMORY, "out of memory");
			return;
		}
	}
	for (int i = 0; i < 2 && c->state == CONN_OPEN; i++) {
		struct leg *g = &c->leg[i];

		if (g->kind == LEG_SOCK)
			queue_flush(c, g);
		else
			h2_resume(&g->s);
	}
	relay_more(c);
}

static void readable(struct conn *c, struct leg *g)
{
	struct leg *to = peer_of(c, g);

	if (to->kind == LEG_SOCK) {
		if (c->state == CONN_OPEN)
			pump(c, g);
		return;
	}
	if (to->kind != LEG_STREAM)
		return; /* dialing: it stays in the socket */
	if (to->out_done && !g->in_done) { /* the peer has ended the stream cleanly; only a FIN is still welcome */
		uint8_t b[256];
		ssize_t n = leg_read(c, g, b, sizeof(b));

		if (n > 0)
			conn_end(c, to->side == SRC ? END_SRC_RESET : END_DST_RESET, "the peer takes no more bytes");
		else if (n == 0)
			conn_complete(c);
		return;
	}
	h2_resume(&to->s);
}

void relay_event(struct conn *c, int side, uint32_t events)
{
	struct leg *g = &c->leg[side];
	int e;

	if (events & EPOLLERR) {
		e = sock_error(g->fd);
		conn_end(c, side == SRC ? END_SRC_RESET : END_DST_RESET, "%s", strerror(e ? -e : ECONNRESET));
		return;
	}
	if (events & (EPOLLRDHUP | EPOLLHUP))
		g->hup = true;
	if (events & EPOLLPRI)
		g->urgent = true;
	if (events & (EPOLLIN | EPOLLRDHUP | EPOLLHUP))
		g->readable = true;
	if (events & EPOLLOUT) {
		g->writable = true;
		leg_moves(c, g);
		if (c->state == CONN_OPEN) {
			queue_flush(c, g);
			if (c->state == CONN_OPEN && peer_of(c, g)->kind == LEG_SOCK && peer_of(c, g)->readable)
				pump(c, peer_of(c, g));
		}
	}
	if (c->state != CONN_CLOSED && g->readable && !g->in_done)
		readable(c, g);
}
