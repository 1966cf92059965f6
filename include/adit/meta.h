/* Header names that agents exchange. Facts: HBONE (Istio), W3C Baggage and Trace Context, RFC 7239. */
#pragma once
#define META_BAGGAGE "baggage"
#define META_FORWARDED "forwarded"
#define META_TRACEPARENT "traceparent"
#define META_PEER_METADATA "x-envoy-peer-metadata"
#define META_PEER_METADATA_ID "x-envoy-peer-metadata-id"
/* our own baggage member for the node id; other agents ignore unknown members */
#define META_NODE_ID "adit.node.id"
