/*
 * Bulk that does not come to our memory: socket -> pipe -> socket by splice(2), and the payload of DATA frames where the records'
 * engine can take or give it so (tls/payload.c).
 *
 * Copying is cheaper for little and for what comes in small pieces; references are for what is large. So a direction is
 * watched: how much it moved in one go (one event of a socket, one frame of a stream). Two large goes in a row and the next is spliced;
 * when goes get small it is copied again. kernel.splice_above says what is large; what was measured is in docs/PERFORMANCE.md.
 *
 * Order: a leg's pipe goes before its queue. Nothing is read into a pipe while anything waits for the same leg, and a pipe stays with a
 * leg only while it holds what a full socket did not take. So at most one splice's worth waits there, as with the relay, and a
 * connection that is idle owns no pipe. All else, half-close, reset, credit, is the relay's.
 */
#include "base/clean.h"
#include "chain/relay_int.h"

#define GO_MAX (512u * 1024u) /* bytes per splice: what may wait in a pipe */
#define ENTER 2u	      /* large goes before splice takes over */
#define STAY 4u		      /* and the credit that it has then: after STAY - ENTER + 1 small ones the relay is back */

static bool large(const struct conn *c, size_t n)
{
	uint32_t above = c->snap->cfg->kernel.splice_above;

	return n >= (above ? above : CFG_SPLICE_ABOVE);
}

bool leg_spliceable(const struct conn *c, int side)
{
	const struct leg *g = &c->leg[side];

	/* splice() does not see what a sockmap redirects, and does not get past urgent data: tests/kernel/splice_edges.c */
	return g->kind == LEG_SOCK && !g->mapped && !g->urgent;
}

void splice_saw(struct conn *c, struct leg *from, size_t n)
{
	if (large(c, n) && from->bulk == ENTER - 1 && c->w->d->kernel.splice)
		conn_trace(c, TRACE_MOVER, "splice takes over from the %s", from->side == SRC ? "source" : "destination");
	else if (!large(c, n) && from->bulk == ENTER)
		conn_trace(c, TRACE_MOVER, "relay takes over from the %s: small pieces", from->side == SRC ? "source" : "destination");
	if (large(c, n))
		from->bulk = (uint8_t)min_u64(from->bulk + 1u, STAY);
	else if (from->bulk)
		from->bulk--;
}

static bool due(const struct conn *c, const struct leg *from)
{
	return from->bulk >= ENTER && c->w->d->kernel.splice && leg_spliceable(c, from->side);
}

/* Return: bytes, 0 at the end, -EAGAIN, or -errno when the connection ended */
static ssize_t leg_fill(struct conn *c, struct leg *from, struct pipe *p, size_t max)
{
	struct loop *l = &c->w->loop;
	ssize_t n = pipe_fill(l, p, from->fd, max);

	if (n > 0) {
		leg_trace(c, from, TRACE_READ, n, "by splice");
		stats_add(&l->stats, ST_APP_RX_BYTES, (uint64_t)n);
		return n;
	}
	from->readable = false;
	if (n == 0)
		conn_in_done(c, from->side);
	else if (n != -EAGAIN)
		read_failed(c, from, (int)-n);
	return n;
}

int splice_flush(struct conn *c, struct leg *to)
{
	struct loop *l = &c->w->loop;
	struct leg *from = peer_of(c, to);
	ssize_t n = pipe_drain(l, to->pipe, to->fd);

	if (n == -EAGAIN) {
		to->writable = false;
		leg_stuck(c, to);
		return 0;
	}
	if (n < 0) {
		write_failed(c, to, (int)-n);
		return -1;
	}
	leg_trace(c, to, TRACE_WRITE, n, "by splice");
	stats_add(&l->stats, ST_APP_TX_BYTES, (uint64_t)n);
	if (to->pipe->len) {
		to->writable = false; /* an edge follows */
		leg_stuck(c, to);
	} else {
		pipe_put(l, TAKE(to->pipe));
	}
	c->spliced[from->side] += (uint64_t)n;
	moved(c, from->side, (size_t)n);
	credit(from, (size_t)n);
	return 0;
}

size_t splice_pump(struct conn *c, struct leg *from, size_t max)
{
	struct leg *to = peer_of(c, from);
	struct loop *l = &c->w->loop;
	size_t done = 0;
	struct pipe *p;
	ssize_t n;

	if (!due(c, from) || !leg_spliceable(c, to->side))
		return 0;
	while (from->readable && to->writable && !leg_waits(to) && done < max && !bypass_holds(c, to)) {
		p = pipe_get(l);
		if (!p) {
			from->bulk = 0;
			break;
		}
		n = leg_fill(c, from, p, GO_MAX);
		if (n <= 0) {
			pipe_put(l, p);
			break;
		}
		done += (size_t)n;
		to->pipe = p;
		if (to->out_done) {
			not_taken(c, to);
			break;
		}
		if (splice_flush(c, to) < 0)
			break;
	}
	return done;
}

void splice_drop(struct conn *c)
{
	for (int i = 0; i < 2; i++)
		pipe_put(&c->w->loop, TAKE(c->leg[i].pipe));
}

/* ---- socket -> stream ---- */

ssize_t splice_pull(struct conn *c, int side, size_t max, struct pipe **ret)
{
	struct leg *to = &c->leg[side], *from = peer_of(c, to);
	struct loop *l = &c->w->loop;
	struct pipe *p;
	ssize_t n;

	if (c->state != CONN_OPEN || to->out_done || leg_waits(to) || from->in_done || !from->readable || !due(c, from))
		return -EAGAIN;
	leg_moves(c, to);
	p = pipe_get(l);
	if (!p) {
		from->bulk = 0;
		return -EAGAIN;
	}
	n = leg_fill(c, from, p, max);
	if (n <= 0) {
		pipe_put(l, p);
		return -EAGAIN; /* an end is relay_pull()'s to tell */
	}
	splice_saw(c, from, (size_t)n);
	c->spliced[from->side] += (uint64_t)n;
	moved(c, from->side, (size_t)n);
	leg_pulled(c, to, (size_t)n, max);
	*ret = p;
	return n;
}

/* ---- stream -> socket ---- */

bool splice_room(const struct conn *c, int side)
{
	const struct leg *from = &c->leg[side], *to = &c->leg[!side];

	return c->state == CONN_OPEN && c->w->d->kernel.splice && leg_spliceable(c, !side) && to->writable && !leg_waits(to) &&
	       !to->out_done && !from->in_done && !c->touched;
}

void splice_put(struct conn *c, int side, struct pipe *p)
{
	c->leg[!side].pipe = p;
}
