/*
 * CONNECT as agents speak it: the headers of request and answer (HBONE, interop C1.3 and C1.4), what we say of ourselves and what
 * the peer says. Worker thread.
 */
#pragma once
#include "codec/authority.h"
#include "codec/forwarded.h"
#include "codec/metadata.h"
#include "h2/session.h"

#define CONNECT_SELF_NV 40u

/** struct connect_self - our metadata, encoded once per identity; any thread reads it. nghttp2 copies what it sends of it. */
struct connect_self {
	char *baggage, *peer_md;
	nghttp2_nv request[CONNECT_SELF_NV], response[CONNECT_SELF_NV], peer[2];
	uint32_t n_request, n_response, n_peer;
	bool forwarded, traceparent;
};
int connect_self_init(struct connect_self *s, const struct cfg_node *node, const char *identity);
void connect_self_finish(struct connect_self *s);

/** struct connect_in - a request or answer, taken apart; slices point into the headers */
struct connect_in {
	struct slice authority;	  /* request */
	struct authority to;	  /* request */
	struct addr forwarded;	  /* AF_UNSPEC: not said */
	bool has_trace, has_peer_md;
	struct traceparent trace;
	int status;		  /* answer */
};
/** connect_parse() - a request. Return: 0, or the HTTP status to refuse it with and the sentence. */
int connect_parse(const struct header *h, size_t n, unsigned flags, struct connect_in *ret, struct err *reterr);
/** connect_status() - an answer. Return: its status, 0 if it has none. */
int connect_status(const struct header *h, size_t n);
/**
 * connect_headers() - the request that connect_open() would send, as its receiver would see it
 * @ret: room for CONNECT_SELF_NV + 8; slices point into the other arguments. Return: how many.
 */
size_t connect_headers(const struct connect_self *self, const char *authority, size_t n, const struct addr *src, const char *traceparent,
		       char fwd[FORWARDED_MAX], struct header *ret);
/** connect_open() - send a request on @s. @authority is copied. Return: as h2_open(). */
int connect_open(struct h2 *h, struct h2_stream *s, const struct connect_self *self, const char *authority, size_t n,
		 const struct addr *src, const char *traceparent);
/** connect_accept() - 200 with our metadata */
int connect_accept(struct h2_stream *s, const struct connect_self *self, bool peer_md);
/** connect_refuse() - @status with END_STREAM; @why: for the peer's people, NULL: it need not know */
void connect_refuse(struct h2 *h, int32_t id, int status, const struct connect_self *self, const char *why);
/** connect_reason() - what the peer gave as reason, quoted and cut. Return: its length, 0: it gave none. */
size_t connect_reason(const struct header *h, size_t n, char *out, size_t max);
/** connect_status_hint() - where to look for the cause of a refusal; static text */
const char *connect_status_hint(int status);
