/*
 * Counters of one worker. The worker writes (relaxed), any thread reads. One list: the name in code, the name in metrics
 * (without "adit_"; counters get "_total"), and the help text.
 */
#pragma once
#include <stdatomic.h>
#include <stdint.h>

#define STATS_COUNTERS(X)                                                                                                        \
	X(ACCEPTED, "connections_accepted", "TCP connections accepted from applications")                                        \
	X(ACCEPT_PAUSED, "accept_paused", "times accepting stopped because descriptors or connections ran out")                  \
	X(REFUSED_LIMIT, "connections_refused_limit", "connections refused by a connection or memory limit")                    \
	X(REFUSED_RATE, "connections_refused_rate", "connections and tunnels refused by a rate limit")                          \
	X(CONNECT_OK, "upstream_connects", "TCP connects to endpoints that succeeded")                                           \
	X(CONNECT_FAIL, "upstream_connect_failures", "TCP connects to endpoints that failed or timed out")                       \
	X(HANDSHAKES_CLIENT, "tls_handshakes_client", "TLS handshakes completed as client")                                      \
	X(HANDSHAKES_SERVER, "tls_handshakes_server", "TLS handshakes completed as server")                                      \
	X(HANDSHAKE_FAIL, "tls_handshake_failures", "TLS handshakes that failed")                                                \
	X(IDENTITY_REFUSED, "identity_refused", "peers whose certificate was valid but whose SPIFFE id was not accepted")        \
	X(TUNNELS_OPENED, "tunnels_opened", "tunnels established, both directions")                                              \
	X(TUNNELS_CLOSED, "tunnels_closed", "tunnels closed, both directions")                                                   \
	X(TUNNELS_ROTATED, "tunnels_rotated", "tunnels replaced because a certificate was renewed or runs out")                  \
	X(TUNNELS_EXPIRED, "tunnels_expired", "tunnels closed because a certificate had expired, and timeouts.expiry_grace was over") \
	X(TUNNELS_UNTRUSTED, "tunnels_untrusted", "tunnels closed because their peer was revoked, or its CA or id is not accepted any more") \
	X(STREAMS_OPENED, "streams_opened", "CONNECT streams opened or accepted")                                                \
	X(STREAMS_CLOSED, "streams_closed", "CONNECT streams closed")                                                            \
	X(POOL_HIT, "pool_hits", "streams that found a tunnel with room")                                                        \
	X(POOL_MISS, "pool_misses", "streams for which a tunnel had to be opened")                                               \
	X(POOL_QUEUED, "pool_queued", "streams that had to wait for a tunnel")                                                   \
	X(POOL_OVERFLOW, "pool_overflow", "streams refused because the queue was full")                                          \
	X(POOL_TIMEOUT, "pool_queue_timeouts", "streams that waited longer than the queue time-out")                             \
	X(REDISPATCHED, "streams_redispatched", "streams sent again over another tunnel because the peer had not processed them") \
	X(GOAWAY_RX, "goaway_received", "GOAWAY frames received")                                                                \
	X(GOAWAY_TX, "goaway_sent", "GOAWAY frames sent")                                                                        \
	X(RST_RX, "rst_stream_received", "RST_STREAM frames received")                                                           \
	X(RST_TX, "rst_stream_sent", "RST_STREAM frames sent")                                                                   \
	X(PING_TIMEOUT, "ping_timeouts", "tunnels closed because a PING was not answered")                                       \
	X(HOSTILE, "hostile_peers", "tunnels closed because the peer broke a limit or the protocol")                             \
	X(BAD_REQUEST, "bad_requests", "CONNECT requests refused as malformed")                                                  \
	X(NO_ROUTE, "no_route", "connections and requests that no route matched")                                                \
	X(DENIED, "denied", "connections and requests denied by policy")                                                         \
	X(LATE_DENIED, "late_denied", "live connections closed because policies that came into force later deny them")             \
	X(METADATA_MISMATCH, "metadata_mismatch", "streams whose metadata contradicts the peer's certificate")                   \
	X(METADATA_DROPPED, "metadata_dropped", "metadata headers cut or dropped by a limit")                                    \
	X(IDLE_CLOSED, "idle_closed", "connections closed by the idle time-out")                                                 \
	X(DNS_QUERIES, "dns_queries", "DNS look-ups started")                                                                    \
	X(DNS_FAILURES, "dns_failures", "DNS look-ups that failed")                                                              \
	X(TUNNEL_RX_BYTES, "tunnel_received_bytes", "bytes read from tunnel sockets")                                            \
	X(TUNNEL_TX_BYTES, "tunnel_sent_bytes", "bytes written to tunnel sockets")                                               \
	X(RECORDS_RX, "tls_records_received", "TLS records decrypted; by the kernel: as of its last look, and at the end")       \
	X(RECORDS_TX, "tls_records_sent", "TLS records encrypted; by the kernel: as of its last look, and at the end")           \
	X(RECORDS_BAD, "tls_records_bad", "TLS records that did not authenticate or that no peer may send; the tunnel is closed") \
	X(APP_RX_BYTES, "local_received_bytes", "bytes read from local legs")                                                    \
	X(APP_TX_BYTES, "local_sent_bytes", "bytes written to local legs")                                                       \
	X(SYS_RECV, "syscalls_recv", "recv and readv calls on connections")                                                      \
	X(SYS_SEND, "syscalls_send", "send and writev calls on connections")                                                     \
	X(SYS_WAIT, "syscalls_epoll_wait", "epoll_wait calls")                                                                   \
	X(SYS_OTHER, "syscalls_other", "accept, connect, setsockopt, epoll_ctl, shutdown and close calls")                       \
	X(COPIED_BYTES, "copied_bytes", "payload bytes copied within user space, beside encryption")                             \
	X(TURNS, "loop_turns", "event loop turns")                                                                               \
	X(FLOW_STALLS, "flow_control_stalls", "times a stream had bytes to send and no window")                                  \
	X(SYS_SPLICE, "syscalls_splice", "splice calls")                                                                         \
	X(SPLICED_BYTES, "spliced_bytes", "payload bytes moved by splice, not through user space")                               \
	X(BYPASSED_BYTES, "bypassed_bytes", "payload bytes moved by the bypass, not through the agent")                          \
	X(BYPASS_JOINS, "bypass_joins", "connections joined end to end")                                                         \
	X(BYPASS_LEGS, "bypass_legs", "local legs bypassed")                                                                     \
	X(BYPASS_REFUSED, "bypass_refused", "connections that asked to be joined and could not be")                              \
	X(BYPASS_DEMOTED, "bypass_demoted", "joined connections that carry bulk and went back to splice")                        \
	X(KTLS_TX, "ktls_tx", "tunnels whose records the kernel seals")                                                          \
	X(KTLS_RX, "ktls_rx", "tunnels whose records the kernel opens")                                                          \
	X(KTLS_REFUSED, "ktls_refused", "tunnels for which the kernel refused its TLS")                                          \
	X(CAPTURED, "captured", "connections whose original destination was claimed")                                           \
	X(PROXY_HEADERS, "proxy_headers", "PROXY headers accepted")                                                              \
	X(PROXY_REFUSED, "proxy_refused", "connections refused for a bad or missing PROXY header")                               \
	X(WORKLOAD_ASKED, "workload_asked", "connections whose process the kernel was asked for")                              \
	X(WORKLOAD_REFUSED, "workload_refused", "connections refused because no workload has them, or it cannot be told which")   \
	X(SHORTCUTS, "shortcuts", "connections to a tunnel endpoint that is this node: taken to its listener directly")          \
	X(OVERLOAD_REFUSED, "overload_refused", "connections, streams and tunnels refused because memory, descriptors or CPU were short") \
	X(OVERLOAD_CLOSED, "overload_closed", "connections and tunnels closed because memory or descriptors were short")          \
	X(MEMORY_PRESSURE, "memory_pressure", "times windows were shrunk because the memory budget was used up")

#define STATS_GAUGES(X)                                                                                                          \
	X(CONNECTIONS, "connections", "live connections")                                                                        \
	X(TUNNELS_IN, "tunnels_in", "live tunnels accepted from peers")                                                          \
	X(TUNNELS_OUT, "tunnels_out", "live tunnels opened to peers")                                                            \
	X(STREAMS, "streams", "live CONNECT streams")                                                                            \
	X(QUEUED, "pool_queue", "connections waiting for a tunnel")                                                              \
	X(BUFFERED, "buffered_bytes", "bytes held in connection and tunnel buffers")

/* resets by code are counted apart: stats.rst_rx[code], stats.rst_tx[code], code < 14 (RFC 9113 section 7) */
#define STATS_H2_CODES 14u

enum stats_counter {
#define X(id, name, help) ST_##id,
	STATS_COUNTERS(X)
#undef X
	ST_COUNTERS
};
enum stats_gauge {
#define X(id, name, help) SG_##id,
	STATS_GAUGES(X)
#undef X
	SG_GAUGES
};

struct stats {
	_Atomic uint64_t c[ST_COUNTERS];
	_Atomic int64_t g[SG_GAUGES];
	_Atomic uint64_t rst_rx[STATS_H2_CODES], rst_tx[STATS_H2_CODES];
};

static inline void stats_bump(_Atomic uint64_t *c, uint64_t n)
{
	atomic_store_explicit(c, atomic_load_explicit(c, memory_order_relaxed) + n, memory_order_relaxed);
}
static inline void stats_add(struct stats *s, enum stats_counter id, uint64_t n)
{
	stats_bump(&s->c[id], n);
}
static inline void stats_inc(struct stats *s, enum stats_counter id)
{
	stats_bump(&s->c[id], 1);
}
static inline void stats_gauge(struct stats *s, enum stats_gauge id, int64_t delta)
{
	atomic_store_explicit(&s->g[id], atomic_load_explicit(&s->g[id], memory_order_relaxed) + delta, memory_order_relaxed);
}
