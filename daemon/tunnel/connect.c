/*
 * CONNECT headers. Everything that is the same for each stream is encoded once; HPACK then sends it as an index.
 */
#include "tunnel/connect.h"
#include "adit/meta.h"
#include "base/clean.h"
#include "base/log.h"
#include <stdio.h>
#include <string.h>

#define NV(name_, nlen_, value_, vlen_, flags_)                                                                                  \
	((nghttp2_nv){ (uint8_t *)(uintptr_t)(name_), (uint8_t *)(uintptr_t)(value_), (nlen_), (vlen_), (flags_) })
#define STATIC (NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE)
#define NV_STATIC(name_, value_) NV(name_, strlen(name_), value_, strlen(value_), STATIC)

static void add(nghttp2_nv *nv, uint32_t *n, const char *name, const char *value)
{
	if (value && *value && *n < CONNECT_SELF_NV)
		nv[(*n)++] = NV(name, strlen(name), value, strlen(value), 0);
}

int connect_self_init(struct connect_self *s, const struct cfg_node *node, const char *identity)
{
	struct metadata_self self = {
		.node_id = node->id,
		.known = { [MD_CLUSTER] = node->cluster,
			   [MD_NAMESPACE] = node->namespace_,
			   [MD_WORKLOAD_TYPE] = node->workload_type,
			   [MD_WORKLOAD] = node->workload,
			   [MD_SERVICE] = node->service,
			   [MD_VERSION] = node->version,
			   [MD_REGION] = node->region,
			   [MD_ZONE] = node->zone },
	};
	AUTO_FREE struct header *extra = calloc(node->n_metadata + 1u, sizeof(*extra));

	memset(s, 0, sizeof(*s));
	if (!extra)
		return -ENOMEM;
	for (uint32_t i = 0; i < node->n_metadata; i++)
		extra[i] = (struct header){ { node->metadata[i].key, strlen(node->metadata[i].key) },
					    { node->metadata[i].value, strlen(node->metadata[i].value) } };
	self.extra = extra;
	self.n_extra = node->n_metadata;
	s->forwarded = node->send_forwarded;
	s->traceparent = node->send_traceparent;
	if (node->send_baggage) {
		s->baggage = baggage_encode(&self);
		if (!s->baggage)
			return -ENOMEM;
		add(s->request, &s->n_request, META_BAGGAGE, s->baggage);
		add(s->response, &s->n_response, META_BAGGAGE, s->baggage);
	}
	for (uint32_t i = 0; i < node->n_request_headers; i++)
		add(s->request, &s->n_request, node->request_headers[i].key, node->request_headers[i].value);
	for (uint32_t i = 0; i < node->n_response_headers; i++)
		add(s->response, &s->n_response, node->response_headers[i].key, node->response_headers[i].value);
	if (node->send_peer_metadata) {
		s->peer_md = peer_metadata_encode(&self, identity);
		if (!s->peer_md) {
			connect_self_finish(s);
			return -ENOMEM;
		}
		add(s->peer, &s->n_peer, META_PEER_METADATA_ID, node->id);
		add(s->peer, &s->n_peer, META_PEER_METADATA, s->peer_md);
	}
	return 0;
}

void connect_self_finish(struct connect_self *s)
{
	free(TAKE(s->baggage));
	free(TAKE(s->peer_md));
}

int connect_parse(const struct header *h, size_t n, unsigned flags, struct connect_in *ret, struct err *reterr)
{
	bool connect = false;

	memset(ret, 0, sizeof(*ret));
	if (flags & H2_HEADERS_TOO_BIG)
		return err_set(reterr, 431, "header list too large");
	for (size_t i = 0; i < n; i++) {
		struct slice name = h[i].name, v = h[i].value;

		if (slice_is(name, ":method"))
			connect = slice_is(v, "CONNECT");
		else if (slice_is(name, ":authority"))
			ret->authority = v;
		else if (slice_is(name, META_FORWARDED))
			(void)forwarded_parse(v.p, v.n, &ret->forwarded);
		else if (slice_is(name, META_TRACEPARENT))
			ret->has_trace = traceparent_parse(v.p, v.n, &ret->trace) == 0;
		else if (slice_is(name, META_PEER_METADATA) || slice_is(name, META_PEER_METADATA_ID))
			ret->has_peer_md = true;
	}
	if (!connect)
		return err_set(reterr, 400, "only CONNECT is served here");
	if (flags & H2_HEADERS_END)
		return err_set(reterr, 400, "CONNECT with END_STREAM carries no connection");
	if (!ret->authority.p || authority_parse(ret->authority.p, ret->authority.n, &ret->to, reterr) < 0) {
		if (!ret->authority.p)
			err_set(reterr, 400, ":authority is missing");
		return 400;
	}
	return 0;
}

int connect_status(const struct header *h, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (slice_is(h[i].name, ":status") && h[i].value.n == 3)
			return (h[i].value.p[0] - '0') * 100 + (h[i].value.p[1] - '0') * 10 + (h[i].value.p[2] - '0');
	return 0;
}

size_t connect_reason(const struct header *h, size_t n, char *out, size_t max)
{
	out[0] = '\0';
	for (size_t i = 0; i < n; i++)
		if (slice_is(h[i].name, META_REASON) && h[i].value.n)
			return strlen(log_quote(out, max, h[i].value.p, min_u64(h[i].value.n, META_REASON_MAX)));
	return 0;
}

const char *connect_status_hint(int status)
{
	switch (status) {
	case 400:
		return "; it found our request malformed: its log says how";
	case 401:
	case 403:
		return "; a policy or its 'destinations' there: its access log says which";
	case 404:
		return "; no route there takes this authority: aditctl chain on that node";
	case 407:
		return "; it is a proxy that wants a password, not an HBONE agent";
	case 429:
		return "; a limit of requests there";
	case 431:
		return "; our metadata is too large for it";
	case 502:
	case 503:
		return "; its backend refuses or is unreachable, or one of its limits: its log says which";
	case 504:
		return "; its backend did not answer in time";
	case 0:
		return "; it is no HTTP answer";
	}
	return "";
}

static size_t request_nv(const struct connect_self *self, const char *authority, size_t n, const struct addr *src, const char *traceparent,
			 char fwd[FORWARDED_MAX], nghttp2_nv nv[CONNECT_SELF_NV + 8])
{
	size_t k = 0, f;

	nv[k++] = NV_STATIC(":method", "CONNECT");
	nv[k++] = NV(":authority", 10, authority, n, NGHTTP2_NV_FLAG_NO_COPY_NAME);
	memcpy(nv + k, self->request, self->n_request * sizeof(*nv));
	k += self->n_request;
	memcpy(nv + k, self->peer, self->n_peer * sizeof(*nv));
	k += self->n_peer;
	if (self->forwarded && src && src->family != AF_UNSPEC) {
		f = forwarded_encode(fwd, src);
		/* different for each connection: not worth a place in the HPACK table */
		nv[k++] = NV(META_FORWARDED, sizeof(META_FORWARDED) - 1, fwd, f, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
	}
	if (self->traceparent && traceparent)
		nv[k++] = NV(META_TRACEPARENT, sizeof(META_TRACEPARENT) - 1, traceparent, TRACEPARENT_LEN,
			     NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
	return k;
}

size_t connect_headers(const struct connect_self *self, const char *authority, size_t n, const struct addr *src, const char *traceparent,
		       char fwd[FORWARDED_MAX], struct header *ret)
{
	nghttp2_nv nv[CONNECT_SELF_NV + 8];
	size_t k = request_nv(self, authority, n, src, traceparent, fwd, nv);

	for (size_t i = 0; i < k; i++)
		ret[i] = (struct header){ { (const char *)nv[i].name, nv[i].namelen }, { (const char *)nv[i].value, nv[i].valuelen } };
	return k;
}

int connect_open(struct h2 *h, struct h2_stream *s, const struct connect_self *self, const char *authority, size_t n,
		 const struct addr *src, const char *traceparent)
{
	nghttp2_nv nv[CONNECT_SELF_NV + 8];
	char fwd[FORWARDED_MAX];

	return h2_open(h, s, nv, request_nv(self, authority, n, src, traceparent, fwd, nv));
}

int connect_accept(struct h2_stream *s, const struct connect_self *self, bool peer_md)
{
	nghttp2_nv nv[CONNECT_SELF_NV + 8];
	size_t k = 0;

	nv[k++] = NV_STATIC(":status", "200");
	memcpy(nv + k, self->response, self->n_response * sizeof(*nv));
	k += self->n_response;
	if (peer_md) {
		memcpy(nv + k, self->peer, self->n_peer * sizeof(*nv));
		k += self->n_peer;
	}
	return h2_respond(s, nv, k);
}

/* what a header value may be: visible ASCII and blanks between */
static size_t reason_clean(char out[META_REASON_MAX], const char *why)
{
	size_t n = strnlen(why, META_REASON_MAX);

	for (size_t i = 0; i < n; i++)
		out[i] = why[i] >= ' ' && why[i] < 0x7f ? why[i] : '?';
	while (n && out[n - 1] == ' ')
		n--;
	return n;
}

void connect_refuse(struct h2 *h, int32_t id, int status, const struct connect_self *self, const char *why)
{
	nghttp2_nv nv[CONNECT_SELF_NV + 8];
	char text[8], reason[META_REASON_MAX];
	size_t k = 0, n = why ? reason_clean(reason, why) : 0;

	snprintf(text, sizeof(text), "%03u", (unsigned)status % 1000u);
	nv[k++] = NV(":status", 7, text, 3, NGHTTP2_NV_FLAG_NO_COPY_NAME);
	memcpy(nv + k, self->response, self->n_response * sizeof(*nv));
	k += self->n_response;
	if (n && reason[0] != ' ')
		nv[k++] = NV(META_REASON, sizeof(META_REASON) - 1, reason, n, NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_INDEX);
	h2_refuse(h, id, nv, k);
}
