/*
 * Payload that does not come to our memory: between a tunnel's socket and a pipe, for engines whose socket carries plaintext (`plain`)
 * or does the records itself (`ktls`).
 *
 * Out: what lies in scratch.plain, the frame's header last, goes with MSG_MORE, so that the kernel's TLS does not end a record there; then
 * the pipe. Once the header is out nothing else may be: what the socket does not take stays in the rec, and rec_blocked() is true
 * until it is gone.
 *
 * In: bytes are taken by the exact number, so that what was asked for ends where a frame's header or payload does. Of the kernel's TLS
 * one splice() gives no more than one record, and EINVAL at one that is no data; recv() without room for the type gives EIO there. Both
 * leave the record where it is. So everything that is not plain data, ends and errors included, is left to rec_read().
 */
#include "tls/record_int.h"
#include "base/clean.h"
#include <errno.h>
#include <sys/socket.h>

bool rec_can_splice_tx(const struct rec *r)
{
	return r->tx != REC_USER;
}

bool rec_can_splice_rx(const struct rec *r)
{
	/* with a FIN behind the bytes rec_read() has to tell an end from a truncation */
	return r->rx != REC_USER && !r->hup && !r->ended;
}

int rec_flush_pipe(struct rec *r)
{
	while (r->out && r->writable) {
		ssize_t n = pipe_drain(r->loop, r->out, r->fd);

		if (n == -EAGAIN) {
			r->writable = false;
			break;
		}
		if (n < 0)
			return rec_send_failed(r, (int)-n);
		rec_sent(r, (size_t)n);
		if (!r->out->len)
			pipe_put(r->loop, TAKE(r->out));
	}
	return r->out ? -EAGAIN : 0;
}

int rec_splice_out(struct rec *r, size_t n, struct pipe *p)
{
	int e;

	r->out = p;
	e = rec_queue(r, r->loop->scratch.plain, n, MSG_MORE);
	if (e == 0 && !r->pend.len)
		e = rec_flush_pipe(r);
	return e == -EAGAIN ? 0 : e;
}

/* Return: -EAGAIN, or what says that rec_read() is due */
static ssize_t nothing_came(struct rec *r, ssize_t n)
{
	if (n == -EAGAIN) {
		r->readable = r->full = false;
		return n;
	}
	return r->rx == REC_KTLS ? -ENOMSG : n;
}

static ssize_t came(struct rec *r, ssize_t n)
{
	rec_received(r, (size_t)n);
	if (r->rx == REC_KTLS) {
		ktls_moved(r, false, (size_t)n);
		r->full = true; /* the rest of a record may wait, of which no edge tells */
	}
	return n;
}

ssize_t rec_read_some(struct rec *r, uint8_t *p, size_t n)
{
	ssize_t k = recv(r->fd, p, n, MSG_DONTWAIT);

	stats_inc(&r->loop->stats, ST_SYS_RECV);
	if (k > 0)
		return came(r, k);
	return nothing_came(r, k == 0 ? 0 : errno == EINTR ? -EAGAIN : -errno);
}

ssize_t rec_splice_in(struct rec *r, struct pipe *p, size_t n)
{
	ssize_t k = pipe_fill(r->loop, p, r->fd, n);

	if (k <= 0)
		return nothing_came(r, k);
	came(r, k);
	/* record by record; what ends it shows again when nothing is in the pipe, which might only be full */
	while (r->rx == REC_KTLS && p->len < n) {
		k = pipe_fill(r->loop, p, r->fd, n - p->len);
		if (k <= 0)
			break;
		came(r, k);
	}
	return (ssize_t)p->len;
}
