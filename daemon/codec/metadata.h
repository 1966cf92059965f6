/*
 * What a peer says of itself in CONNECT headers, decoded into one immutable block (model/metadata_block.h). Pure.
 * Decoded: baggage (W3C: several lines, percent-decoding, members), x-envoy-peer-metadata[-id] (base64 of a
 * google.protobuf.Struct; Istio), and every other header that the caller did not consume (x-client-id, ...).
 *
 * Pairs are named as the peer named them: baggage members and headers by their own name, fields of x-envoy-peer-metadata as
 * "peer.NAME", its labels as "peer.LABELS.app". "workload.type" (deployment, cronjob, job, pod) is added when it is known.
 * Well-known members come from baggage, else from x-envoy-peer-metadata[-id].
 */
#pragma once
#include "codec/codec_types.h"
#include "model/metadata_block.h"

struct metadata_limits {
	uint32_t bytes;	  /* of text */
	uint32_t members; /* 64 */
};

/**
 * metadata_build() - decode the headers of one CONNECT (pseudo-headers, forwarded, trace context, connection headers, date
 *	and credentials are skipped)
 * Malformed or oversized parts, and values with control characters, are dropped and counted in ->dropped, never fatal.
 * Return: a block with refs 1 (it may hold no pairs, only the count of what was dropped), or NULL with *ret_err 0 when there is
 * nothing to keep, or NULL with -ENOMEM.
 */
struct metadata *metadata_build(const struct header *h, size_t n, const struct metadata_limits *lim, int *ret_err);
/** metadata_hash_seed() - a random number, before threads start, so that peers cannot choose colliding blocks */
void metadata_hash_seed(uint64_t seed);

/** struct metadata_self - what we say; strings borrowed for the call, NULL = not sent */
struct metadata_self {
	const char *node_id, *known[MD_KNOWN]; /* MD_WORKLOAD_TYPE: deployment, cronjob, job or pod (default) */
	const struct header *extra;	       /* further baggage members, further LABELS */
	size_t n_extra;
};
/**
 * baggage_encode() - W3C baggage text in HBONE's order; at most 64 members and 8192 bytes, further ones are left out
 * Return: malloc'd text ("" if nothing), NULL: out of memory.
 */
char *baggage_encode(const struct metadata_self *self);
/** peer_metadata_encode() - x-envoy-peer-metadata: base64 of the deterministic Struct (sorted keys). malloc'd or NULL. */
char *peer_metadata_encode(const struct metadata_self *self, const char *identity);
