/*
 * An HTTP/2 session: frames and streams, nothing of CONNECT and nothing of sockets. nghttp2 does the protocol; this file decides
 * how bytes get in and out:
 *   - out: DATA is pulled from its source straight into the worker's plaintext buffer (nghttp2's NO_COPY path), only while
 *     the socket takes bytes; one flush per loop turn, frames and records filled.
 *   - in:  DATA is handed on as pointers into the worker's input buffer.
 *   - payload that is large and belongs to one stream may pass by: out by a pipe behind the frame's header, in by a pipe of the owner's,
 *     of which this file learns no more than the length.
 *   - credit: a stream's window is given back only for bytes that left (h2_consumed()); the connection's at once, so one stuck
 *     stream never stops another. When memory is short the windows of all streams are shrunk.
 *   - limits: rates of control frames per second (interop C1.6), header list, concurrent streams.
 * Worker thread only. Sources: RFC 9113, nghttp2 1.52 programmers' guide.
 */
#pragma once
#include "base/buf.h"
#include "codec/codec_types.h"
#include "loop/loop.h"
#include <nghttp2/nghttp2.h>

/** struct h2_stream - what the session keeps per stream; lives in the user's object; id 0: none, and then h is NULL */
struct h2_stream {
	LIST_ENTRY(h2_stream) link; /* of h->all */
	struct h2 *h;
	int32_t id;
	uint32_t window;   /* receive window in force */
	uint32_t got;	   /* consumed since t0 */
	uint32_t t0_ms;
	uint8_t watch;	   /* live traces that follow it; set by its owner */
	bool answered;	   /* the final response HEADERS were sent (server) or received (client) */
};

enum { H2_HEADERS_END = 1, H2_HEADERS_TOO_BIG = 2 };

struct h2_ops {
	/* server: a request's headers; the owner calls h2_accept() or h2_refuse() before it returns */
	void (*request)(void *owner, int32_t id, const struct header *h, size_t n, unsigned flags);
	void (*response)(void *owner, struct h2_stream *s, const struct header *h, size_t n, unsigned flags);
	/* @p NULL: they are where h2_spliced()'s caller has put them */
	void (*data)(void *owner, struct h2_stream *s, const uint8_t *p, size_t n);
	void (*end)(void *owner, struct h2_stream *s); /* END_STREAM; all data was given */
	/* the stream is gone; @s->id is 0 already. @by_peer: RST_STREAM or GOAWAY from the peer */
	void (*closed)(void *owner, struct h2_stream *s, uint32_t code, bool by_peer);
	/* fill @dst with at most @max bytes; Return: n, 0 with *ret_eof, -EAGAIN (h2_resume() later) */
	ssize_t (*pull)(void *owner, struct h2_stream *s, uint8_t *dst, size_t max, bool *ret_eof);
	/* as pull, into a pipe that is the session's then; Return: n, or -EAGAIN: pull() may have some. NULL: never */
	ssize_t (*pull_pipe)(void *owner, struct h2_stream *s, size_t max, struct pipe **ret);
	void (*settings)(void *owner);	/* the peer's SETTINGS arrived */
	void (*goaway)(void *owner, uint32_t code);
	void (*pong)(void *owner, uint64_t sent_us, bool fence);
	void (*dirty)(void *owner);	/* there is something to flush: call h2_flush() before the turn ends */
	void (*hostile)(void *owner, const char *why); /* NULL: it broke the protocol itself, not a limit of ours */
	/* the first @n bytes of scratch.plain go out; only while !blocked(). Return: 0 or -errno */
	int (*write)(void *owner, size_t n);
	/* the first @n bytes of scratch.plain, then what is in @p, which the owner takes. NULL if pull_pipe is */
	int (*write_pipe)(void *owner, size_t n, struct pipe *p);
	bool (*blocked)(void *owner); /* earlier output still waits for the socket */
	uint32_t (*rtt_us)(void *owner);
};

enum h2_rate { HR_RST, HR_PING, HR_SETTINGS, HR_EMPTY_DATA, HR_WINDOW_UPDATE, HR_GLITCH, HR_REFUSED, HR_RATES };

#define H2_HEAD 9u /* bytes of a frame's header */
struct h2_headers; /* the header block being received */

struct h2 {
	nghttp2_session *ng;
	struct loop *loop;
	const struct h2_ops *ops;
	void *owner;
	bool server;
	bool paused;	     /* the pull stopped because the buffer is full */
	bool settled;	     /* the peer's first SETTINGS arrived */
	bool goaway_rx, goaway_tx;
	bool dead;	     /* hostile: nothing is read any more, GOAWAY goes out */
	int32_t reset_id;    /* the stream whose RST_STREAM is being processed: its closing is the peer's doing */
	uint32_t max_streams; /* server: what we allow */
	uint32_t streams;     /* open now */
	uint32_t off;	     /* bytes of scratch.plain filled by the running flush */
	uint32_t piped;	     /* bytes that it sent by pipes */
	struct pipe *pipe;   /* payload of the frame whose header comes next */
	int error;	     /* of write_pipe */
	struct buf behind;   /* a frame that came behind a pipe which filled the socket */
	uint8_t head[H2_HEAD]; /* of the frame being received */
	uint8_t head_n;	     /* bytes of it that are here */
	uint32_t left;	     /* bytes of its payload that are not */
	int32_t run_id;	     /* the stream of the last DATA frames, all large */
	uint32_t run;	     /* bytes of payload in them */
	size_t spliced;	     /* bytes that h2_spliced() has told and nghttp2 has not seen */
	uint32_t bulk, bulk_now; /* streams that filled a whole frame in the last / this flush */
	int32_t bulk_last;
	uint32_t rtt_us, rtt_at_ms;
	uint32_t window, got, t0_ms; /* the connection's, as in struct h2_stream */
	bool squeezed;	     /* memory is short: streams have small windows */
	bool squeezing;	     /* the SETTINGS for that, or for the contrary, are not acknowledged yet */
	uint8_t settings_out; /* SETTINGS frames of ours without acknowledgement */
	uint64_t squeezed_ms;
	uint64_t rate_s;     /* second that the rates are counted in */
	uint32_t rate[HR_RATES];
	uint8_t watch;	     /* live traces that follow the session: frames on stream 0; set by its owner */
	uint32_t trace_id;   /* what they call it */
	uint32_t goaways;    /* received */
	uint32_t pings;	     /* of ours without answer */
	char goaway_text[96]; /* what the last one said, quoted; "" nothing */
	uint8_t first[8], n_first; /* bytes that came first: who is it, if it is no HTTP/2? */
	uint32_t early_rst;  /* client: RST_STREAM before a response sent in this second */
	uint64_t early_rst_s;
	struct h2_headers *hdr;
	LIST_HEAD(, h2_stream) all;
	uint64_t total;	     /* streams over its life */
};

/** h2_init() - SETTINGS are queued, flush follows. Return: 0 or -ENOMEM. */
int h2_init(struct h2 *h, struct loop *l, bool server, uint32_t max_streams, const struct h2_ops *ops, void *owner);
/** h2_abort() - the connection is lost: every stream is closed with H2_LOST, then the session is freed. Accepts zeroed memory. */
#define H2_LOST UINT32_MAX
void h2_abort(struct h2 *h);
void h2_finish(struct h2 *h); /* streams get no more callbacks; accepts zeroed memory */

/** h2_input() - plaintext in. Return: 0, or -EPROTO when the session must end (flush, then close). */
int h2_input(void *h2, const uint8_t *p, size_t n);
/**
 * h2_payload() - may what comes next be spliced: the rest of a large DATA frame of a stream that has had nothing else of late?
 * Return: that many bytes, and the stream; 0: no, give it to h2_input()
 */
size_t h2_payload(const struct h2 *h, struct h2_stream **ret);
/** h2_header() - bytes to read, no more, to know whether h2_payload() comes next; 0: it is not to be expected */
size_t h2_header(const struct h2 *h);
/**
 * h2_spliced() - @n <= H2_SPLICE_MAX bytes, of what h2_payload() said, were received without coming here
 * They are counted as if they had come by h2_input(): data() is called with NULL. A stream that does not take them is closed: closed().
 * Return: as h2_input()
 */
int h2_spliced(struct h2 *h, struct h2_stream *s, size_t n);
#define H2_SPLICE_MAX (256u * 1024u)
/** h2_flush() - everything that may go out now. Return: 0, 1 (more to send: call again next turn), or -errno. */
int h2_flush(struct h2 *h);
/** h2_over() - nothing to read and nothing to write any more: close the socket */
bool h2_over(const struct h2 *h);

/** h2_open() - client: a request; the body is pulled. Return: 0 or -errno (-ESTALE: ids used up or GOAWAY). */
int h2_open(struct h2 *h, struct h2_stream *s, const nghttp2_nv *nv, size_t n);
/** h2_accept() - server: the request @id belongs to @s from now on */
int h2_accept(struct h2 *h, struct h2_stream *s, int32_t id);
/** h2_respond() - response headers of an accepted stream; the body is pulled */
int h2_respond(struct h2_stream *s, const nghttp2_nv *nv, size_t n);
/** h2_refuse() - response with END_STREAM, then RST_STREAM(NO_ERROR) as RFC 9113 8.1 has it; @s (or @id) is forgotten */
void h2_refuse(struct h2 *h, int32_t id, const nghttp2_nv *nv, size_t n);
/** h2_reset() - RST_STREAM; @s is forgotten at once, without a callback */
void h2_reset(struct h2_stream *s, uint32_t code);
/** h2_forget() - the owner goes away although the stream may live on (both directions ended) */
void h2_forget(struct h2_stream *s);
/** h2_resume() - the source has bytes (or its end) again */
void h2_resume(struct h2_stream *s);
/** h2_consumed() - @n bytes of data() have left (or were thrown away): credit for the peer. A closed @s is fine. */
void h2_consumed(struct h2_stream *s, size_t n);
/** h2_window_check() - now and then: shrink or restore the streams' windows as memory asks for; end who ignores SETTINGS */
void h2_window_check(struct h2 *h);
/** h2_may_reset_early() - client: may a stream without response be reset now without looking hostile to the peer? */
bool h2_may_reset_early(struct h2 *h);
/** h2_room() - client: how many more streams the peer's settings allow */
uint32_t h2_room(const struct h2 *h);
size_t h2_window(const struct h2_stream *s); /* bytes that may be sent on it now: the peer's windows, the stream's and the session's */
uint32_t h2_peer_max_streams(const struct h2 *h);
/** h2_ping() - pong() gets the time of sending, and whether it was a @fence */
void h2_ping(struct h2 *h, bool fence);
/** h2_goaway() - first: GOAWAY(2^31-1), no stream is refused yet; last: with the real last id (RFC 9113 6.8) */
void h2_goaway_first(struct h2 *h);
void h2_goaway_last(struct h2 *h, uint32_t code);
