/*
 * The record layer: reading, writing and ending, whatever the engine. See record.h for what it is for; handshake.c chooses the engines,
 * seal.c makes records here, ktls.c lets the kernel do it, payload.c takes bytes past our memory.
 *
 * When to stop reading with `ktls`: after a short read of data there is either nothing whole left, or a record of another type,
 * which ended the read. The kernel reports each record when it gets to the head of the queue, so that one got there, and was
 * reported, during this very read, and an event follows. Not so behind a read that filled the buffer in the middle of the last
 * data record: what is behind it was reported then, and the event may be over. After such a read it goes on until EAGAIN.
 */
#include <wolfssl/options.h>
#include <wolfssl/ssl.h>

#include "base/clean.h"
#include "tls/record_int.h"
#include "tls/seal.h"
#include <errno.h>
#include <poll.h>
#include <string.h>
#include <sys/socket.h>

#define UPDATES_MAX 64 /* KeyUpdates over a tunnel's life; each costs three HMACs, and a peer could send nothing else */
/*
 * The limit for AES-GCM is 2^24.5 records. Some peers send a KeyUpdate of their own accord after 2^24, which the kernel cannot
 * follow: they are to find a new tunnel before.
 */
#define WORN ((1ull << 24) - (1ull << 22))
#define CONTROLS_MAX 16 /* records of other types than data in one rec_read() */

uint64_t rec_worn_after = WORN;

void rec_keys_drop(struct rec *r)
{
	if (!r->keys)
		return;
	seal_forget(&r->keys->tx);
	seal_forget(&r->keys->rx);
	explicit_bzero(r->keys, sizeof(*r->keys));
	free(TAKE(r->keys));
}

void rec_alert(struct rec *r, uint8_t level, uint8_t code)
{
	uint8_t alert[3] = { level, code }, out[64];
	ssize_t n;

	if (r->tx == REC_KTLS) {
		(void)!ktls_send_type(r->fd, TYPE_ALERT, alert, 2);
		return;
	}
	n = seal(r->keys, TYPE_ALERT, alert, 2, out);
	if (n > 0)
		(void)!send(r->fd, out, (size_t)n, MSG_DONTWAIT | MSG_NOSIGNAL);
}

void rec_sent(struct rec *r, size_t n)
{
	r->tx_bytes += n;
	stats_add(&r->loop->stats, ST_TUNNEL_TX_BYTES, n);
	if (r->tx == REC_KTLS)
		ktls_moved(r, true, n);
}

int rec_send_failed(const struct rec *r, int e)
{
	/* the kernel's TLS reports one error for a connection that broke and for a bad record that has come in */
	return r->tx == REC_KTLS && (e == EINVAL || e == EMSGSIZE) ? -EBADMSG : -e;
}

ssize_t rec_send(struct rec *r, const uint8_t *p, size_t n, int flags)
{
	ssize_t w = send(r->fd, p, n, MSG_DONTWAIT | MSG_NOSIGNAL | flags);
	int e = errno;

	stats_inc(&r->loop->stats, ST_SYS_SEND);
	if (w >= 0) {
		rec_sent(r, (size_t)w);
		return w;
	}
	return e == EAGAIN || e == EINTR ? 0 : rec_send_failed(r, e);
}

int rec_queue(struct rec *r, const uint8_t *p, size_t n, int flags)
{
	ssize_t w = r->writable ? rec_send(r, p, n, flags) : 0;

	if (w < 0)
		return (int)w;
	if ((size_t)w == n)
		return 0;
	r->writable = false;
	if (buf_append(&r->pend, p + w, n - (size_t)w) < 0)
		return -ENOMEM;
	stats_gauge(&r->loop->stats, SG_BUFFERED, (int64_t)(n - (size_t)w));
	return 0;
}

int rec_write(struct rec *r, size_t n)
{
	uint8_t *p = r->loop->scratch.plain, *out = r->loop->scratch.out;
	size_t off = 0, len = 0, records = 0;

	if (r->tx != REC_USER)
		return n ? rec_queue(r, p, n, 0) : 0;
	while (off < n) {
		size_t take = min_u64(n - off, RECORD_PLAIN);
		ssize_t s = seal(r->keys, TYPE_DATA, p + off, take, out + len);

		if (s < 0)
			return (int)s;
		off += take;
		len += (size_t)s;
		records++;
	}
	stats_add(&r->loop->stats, ST_RECORDS_TX, records);
	return len ? rec_queue(r, out, len, 0) : 0;
}

int rec_flush(struct rec *r)
{
	while (r->pend.len && r->writable) {
		ssize_t w = rec_send(r, buf_at(&r->pend), r->pend.len, r->out ? MSG_MORE : 0);

		if (w < 0)
			return (int)w;
		if (w == 0) {
			r->writable = false;
			break;
		}
		stats_gauge(&r->loop->stats, SG_BUFFERED, -w);
		buf_take(&r->pend, (size_t)w);
	}
	return r->pend.len ? -EAGAIN : rec_flush_pipe(r);
}

/* a peer is told at the end what it did wrong */
static int bad(struct rec *r, uint8_t alert, struct err *reterr, const char *what)
{
	r->alert = alert;
	stats_inc(&r->loop->stats, ST_RECORDS_BAD);
	return err_set(reterr, -EPROTO, "%s", what);
}

bool rec_drained(struct rec *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLOUT };

	if (rec_blocked(r))
		return false;
	/*
	 * send() may have left the last record, or a part of it, in the kernel's TLS because TCP was full, and close() drops it if TCP
	 * still is. Writable means room for more than a record.
	 */
	if (r->tx != REC_KTLS || (poll(&p, 1, 0) == 1 && p.revents))
		return true;
	r->writable = false;
	return false;
}

static int key_update(struct rec *r, const uint8_t *p, size_t n, struct err *reterr)
{
	uint8_t msg[6] = { HS_KEY_UPDATE, 0, 0, 1, 0 }, out[64];
	ssize_t s;

	if (n != 5 || p[1] || p[2] || p[3] != 1 || p[4] > 1)
		return bad(r, ALERT_DECODE_ERROR, reterr, "malformed KeyUpdate");
	/* the kernel has its keys for good (before Linux 6.14), and ours would have to change with a request */
	if (r->rx == REC_KTLS || (p[4] && r->tx == REC_KTLS))
		return err_set(reterr, -EKEYEXPIRED, "peer updated its keys, which the kernel's TLS cannot follow");
	if (r->keys->updates++ >= UPDATES_MAX)
		return err_set(reterr, -EPROTO, "more than %d KeyUpdates", UPDATES_MAX);
	if (seal_update(r->keys, &r->keys->rx) < 0)
		return err_set(reterr, -EKEYEXPIRED, "peer updated its keys, which this build cannot follow");
	if (!p[4])
		return 0;
	/* asked to update ours, too: RFC 8446 4.6.3. scratch.plain may be in use, so a buffer of its own */
	s = seal(r->keys, TYPE_HANDSHAKE, msg, 5, out);
	if (s < 0 || seal_update(r->keys, &r->keys->tx) < 0)
		return err_set(reterr, -EPROTO, "KeyUpdate could not be answered");
	if (r->pend.len) {
		if (buf_append(&r->pend, out, (size_t)s) < 0)
			return -ENOMEM;
		stats_gauge(&r->loop->stats, SG_BUFFERED, s);
		return 0;
	}
	return rec_queue(r, out, (size_t)s, 0);
}

static int control(struct rec *r, uint8_t type, const uint8_t *p, size_t n, struct err *reterr)
{
	if (type == TYPE_ALERT && n == 2) {
		if (p[1] == ALERT_CLOSE_NOTIFY) {
			r->ended = true;
			return 0;
		}
		(void)tls_alert_explain(p[1], r->tls, reterr);
		return -EPROTO;
	}
	if (type == TYPE_HANDSHAKE && n >= 4 && p[0] == HS_NEW_SESSION_TICKET)
		return 0;
	if (type == TYPE_HANDSHAKE && n >= 4 && p[0] == HS_KEY_UPDATE)
		return key_update(r, p, n, reterr);
	(void)bad(r, ALERT_UNEXPECTED_MESSAGE, NULL, "");
	return err_set(reterr, -EPROTO, "unexpected TLS record of type %u", type);
}

static int records(struct rec *r, uint8_t *p, size_t n, size_t *ret_used, rec_sink sink, void *arg, struct err *reterr)
{
	size_t off = 0, count = 0, len = 0;
	uint8_t type = 0;
	int e = 0;

	while (n - off >= HDR && !r->ended) {
		size_t body = ((size_t)p[off + 3] << 8) | p[off + 4];

		if (p[off] != TYPE_DATA || p[off + 1] != 3 || body < TAG + 1 || body > RECORD_MAX) {
			if (p[off] == 20 && body == 1) { /* a late ChangeCipherSpec: RFC 8446 appendix D.4 */
				if (n - off < HDR + 1)
					break;
				off += HDR + 1;
				continue;
			}
			(void)bad(r, body > RECORD_MAX ? ALERT_RECORD_OVERFLOW : ALERT_UNEXPECTED_MESSAGE, NULL, "");
			e = err_set(reterr, -EPROTO, "not a TLS 1.3 record (type %u, %zu bytes)", p[off], body);
			break;
		}
		if (n - off < HDR + body)
			break;
		e = unseal(r->keys, p + off, HDR + body, &type, &len, reterr);
		if (e < 0)
			(void)bad(r, ALERT_BAD_RECORD_MAC, NULL, "");
		if (e == 0 && type == TYPE_DATA)
			e = sink(arg, p + off + HDR, len);
		else if (e == 0)
			e = control(r, type, p + off + HDR, len, reterr);
		if (e < 0)
			break;
		off += HDR + body;
		count++;
	}
	stats_add(&r->loop->stats, ST_RECORDS_RX, count);
	*ret_used = off;
	return e;
}

void rec_received(struct rec *r, size_t n)
{
	r->rx_bytes += n;
	stats_add(&r->loop->stats, ST_TUNNEL_RX_BYTES, n);
}

static bool fin_is_here(const struct rec *r)
{
	struct pollfd p = { .fd = r->fd, .events = POLLRDHUP };

	return poll(&p, 1, 0) == 1 && (p.revents & POLLRDHUP);
}

static int kernel_failed(struct rec *r, int e, struct err *reterr)
{
	if (e != -EBADMSG && e != -EMSGSIZE && e != -EINVAL)
		return e;
	ktls_unblock(r->fd);
	return e == -EBADMSG  ? bad(r, ALERT_BAD_RECORD_MAC, reterr, "TLS record does not authenticate") :
	       e == -EMSGSIZE ? bad(r, ALERT_RECORD_OVERFLOW, reterr, "not a TLS 1.3 record (too long)") :
				bad(r, ALERT_UNEXPECTED_MESSAGE, reterr, "not a TLS 1.3 record");
}

static ssize_t read_kernel(struct rec *r, rec_sink sink, void *arg, struct err *reterr)
{
	static const char truncated[] = "connection ended without close_notify";
	uint8_t *in = r->loop->scratch.in, type = 0;
	/* some Linux 6.1 say EAGAIN for ever when a FIN cut a record: so nothing can follow what is not whole by then */
	bool fin = r->hup && fin_is_here(r);

	for (int i = 0; i < CONTROLS_MAX; i++) {
		ssize_t n = ktls_recv(r->fd, in, SCRATCH_IN, MSG_DONTWAIT, &type);
		int e;

		stats_inc(&r->loop->stats, ST_SYS_RECV);
		if (n == -EAGAIN || n == -EINTR) {
			if (fin && n == -EAGAIN)
				return err_set(reterr, -ECONNABORTED, truncated);
			r->readable = r->full = false;
			return -EAGAIN;
		}
		if (n < 0)
			return kernel_failed(r, (int)n, reterr);
		if (n == 0 && !type)
			return err_set(reterr, -ECONNABORTED, truncated);
		rec_received(r, (size_t)n);
		ktls_moved(r, false, (size_t)n);
		if (type == TYPE_DATA && n > 0) {
			if (n == SCRATCH_IN)
				r->full = true;
			else if (!r->full && !r->hup)
				r->readable = false;
			e = sink(arg, in, (size_t)n);
			return e < 0 ? e : n;
		}
		e = type == TYPE_DATA ? 0 : control(r, type, in, (size_t)n, reterr);
		if (e < 0)
			return e;
		if (r->ended)
			return 0;
	}
	return -EAGAIN;
}

ssize_t rec_read(struct rec *r, rec_sink sink, void *arg, struct err *reterr)
{
	uint8_t *in = r->loop->scratch.in;
	size_t have = r->part.len, room, used;
	ssize_t n;
	int e;

	if (r->ended)
		return 0;
	if (r->rx == REC_KTLS)
		return read_kernel(r, sink, arg, reterr);
	if (have)
		memcpy(in, buf_at(&r->part), have);
	room = SCRATCH_IN - have;
	n = recv(r->fd, in + have, room, MSG_DONTWAIT);
	stats_inc(&r->loop->stats, ST_SYS_RECV);
	if (n < 0) {
		if (errno != EAGAIN && errno != EINTR)
			return -errno;
		r->readable = false;
		return -EAGAIN;
	}
	if (n == 0)
		return r->rx == REC_PLAIN ? 0 : err_set(reterr, -ECONNABORTED, "connection ended without close_notify");
	if ((size_t)n < room && !r->hup)
		r->readable = false; /* an edge follows when more comes */
	rec_received(r, (size_t)n);
	if (r->rx == REC_PLAIN) {
		e = sink(arg, in, (size_t)n);
		return e < 0 ? e : n;
	}
	stats_gauge(&r->loop->stats, SG_BUFFERED, -(int64_t)have);
	buf_take(&r->part, have);
	e = records(r, in, have + (size_t)n, &used, sink, arg, reterr);
	if (e < 0)
		return e;
	have = have + (size_t)n - used;
	if (have && !r->ended) {
		if (buf_append(&r->part, in + used, have) < 0)
			return -ENOMEM;
		stats_gauge(&r->loop->stats, SG_BUFFERED, (int64_t)have);
	}
	return n;
}

bool rec_worn(const struct rec *r)
{
	uint64_t tx = r->tx == REC_KTLS ? r->tx_count.seq : r->keys ? r->keys->tx.seq : 0;
	uint64_t rx = r->rx == REC_KTLS ? r->rx_count.seq : r->keys ? r->keys->rx.seq : 0;

	return tx >= rec_worn_after || rx >= rec_worn_after;
}

void rec_close(struct rec *r, bool orderly)
{
	if (r->fd < 0 || !r->loop)
		return;
	if (r->tx != REC_PLAIN && !r->ssl && !rec_blocked(r)) {
		if (r->alert)
			rec_alert(r, ALERT_FATAL, r->alert);
		else if (orderly)
			rec_alert(r, ALERT_WARNING, ALERT_CLOSE_NOTIFY);
	}
	if (r->tx == REC_KTLS)
		ktls_look(r, true);
	if (r->rx == REC_KTLS)
		ktls_look(r, false);
	stats_gauge(&r->loop->stats, SG_BUFFERED, -(int64_t)(r->part.len + r->pend.len));
	if (r->ssl)
		wolfSSL_free(TAKE(r->ssl));
	rec_keys_drop(r);
	buf_finish(&r->part);
	buf_finish(&r->pend);
	pipe_put(r->loop, TAKE(r->out));
	free(TAKE(r->chain));
	tls_ctx_put(TAKE(r->tls));
	close(r->fd);
	r->fd = -1;
}
