/* Header names that agents exchange. Facts: HBONE (Istio), W3C Baggage and Trace Context, RFC 7239. */
#pragma once
#define META_BAGGAGE "baggage"
#define META_FORWARDED "forwarded"
#define META_TRACEPARENT "traceparent"
#define META_PEER_METADATA "x-envoy-peer-metadata"
#define META_PEER_METADATA_ID "x-envoy-peer-metadata-id"
/* of an answer that refuses: why, for people; only to peers of our trust domain */
#define META_REASON "adit-reason"
#define META_REASON_MAX 200u
/* our own baggage member for the node id; other agents ignore unknown members */
#define META_NODE_ID "adit.node.id"
