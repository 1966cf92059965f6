/*
 * The configuration as plain data: what config/ builds from YAML and checks, and what every layer below reads.
 * Immutable once built; all pointers live in one arena of the struct config and die with it. Names are resolved: a reference
 * to a listener or cluster is a pointer. Times are milliseconds, sizes are bytes, 0 means "off" unless said otherwise.
 */
#pragma once
#include "base/log.h"
#include "model/addr.h"
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define CFG_CHAIN_MAX 16 /* listeners that one connection may pass */
#define CFG_SPLICE_ABOVE 16384u /* default of kernel.splice_above */

struct cfg_listener;
struct cfg_cluster;
struct policy;	   /* model/policy.h */
struct policy_set; /* policy/policy.h */
struct cfg_parts;  /* config/parts.h */
struct cfg_workload; /* model/workload.h */

struct cfg_kv {
	const char *key, *value; /* value already read from static text, environment or file */
};

/* ---- who we are ---- */
struct cfg_node {
	const char *id;		   /* default: the host name */
	/* baggage members (interop: HBONE); NULL = not sent */
	const char *cluster, *namespace_, *workload_type /* deployment|cronjob|job|pod */, *workload, *service, *version, *region, *zone;
	struct cfg_kv *metadata;   /* free key/values: sent as further baggage members */
	uint32_t n_metadata;
	struct cfg_kv *request_headers;	 /* extra headers on every CONNECT we send, e.g. x-client-id */
	uint32_t n_request_headers;
	struct cfg_kv *response_headers; /* extra headers on every CONNECT answer, e.g. x-server-id */
	uint32_t n_response_headers;
	bool send_baggage, send_forwarded, send_traceparent; /* default true */
	bool send_peer_metadata;   /* x-envoy-peer-metadata[-id]; default false */
};

enum cfg_rotate { ROTATE_REPLACED, ROTATE_EXPIRY };

struct cfg_identity {
	const char *name;
	const char *certificate, *key, *ca; /* file names, PEM */
	const char *crl;		    /* revocation lists of these CAs, PEM; NULL: none */
	enum cfg_rotate rotate;		    /* live tunnels get a renewed certificate: at once (default), or before the old one expires */
	const char *trust_domain;	    /* peers must be in it unless a listener or cluster lists ids */
	const char *ciphers;		    /* TLS 1.3 suites, colon-separated; default AES-128-GCM, then AES-256-GCM */
};

/* ---- string match ---- */
enum cfg_match_kind { MATCH_EXACT, MATCH_PREFIX, MATCH_SUFFIX, MATCH_REGEX, MATCH_PRESENT };
struct cfg_match {
	enum cfg_match_kind kind;
	bool invert;
	const char *text;  /* NULL for PRESENT */
	void *regex;	   /* pcre2_code *, compiled at config time; freed with the config */
};

struct cfg_header_match {
	const char *name; /* lower case */
	struct cfg_match match;
};

/* ---- routes: first match wins, all conditions AND-ed; a route without conditions matches everything ---- */
struct cfg_target {
	struct cfg_listener *listener; /* an internal listener, or */
	struct cfg_cluster *cluster;   /* a cluster to terminate into, or (forward) a tunnel cluster that gets the CONNECT */
	bool forward;
};
struct cfg_route {
	const char *name;	     /* default: "LISTENER/routes/N" */
	struct cfg_match *authority; /* NULL: any; on the text of :authority (for tcp listeners: the original destination) */
	struct cidr *cidr;	     /* any of these; matches only literal addresses */
	uint32_t n_cidr;
	uint16_t port;		     /* 0: any */
	struct cfg_header_match *headers;
	uint32_t n_headers;
	struct cfg_target to;
};

/* ---- the kernel plane: which sockets a rule is for ---- */
struct cfg_ports {
	uint16_t first, last;
};

/** struct cfg_who - every list that is not empty must have a match; within a list one is enough. All empty: everybody. */
struct cfg_who {
	const char **cgroups;	 /* paths below the cgroup2 mount, "/shop.slice": it and all below; "/" is all */
	uint32_t n_cgroups;
	uint32_t *uids;
	uint32_t n_uids;
	const char **executables; /* absolute paths, as /proc/PID/exe says */
	uint32_t n_executables;
	struct cfg_ports *ports; /* connected to: capture: the destination's; bypass: the first or the last of the chain, which names both ends */
	uint32_t n_ports;
};

/** struct cfg_capture - connect() of these sockets is steered to the listener that has this (bpf/capture.bpf.c) */
struct cfg_capture {
	struct cfg_who who;	   /* executables are not looked at here */
	struct cidr *to;	   /* destinations; none: any */
	uint32_t n_to;
	struct cidr *except;	   /* destinations left alone */
	uint32_t n_except;
	struct cfg_ports *except_ports;
	uint32_t n_except_ports;
	bool fail_closed;	   /* when the agent is away: refuse (ECONNREFUSED) instead of connecting directly */
};

/** struct cfg_steer - connections for these local addresses and ports reach the listener that has this (bpf/steer.bpf.c) */
struct cfg_steer {
	struct cidr *to;	   /* local addresses; none: any. Ports of the cidr count, too */
	uint32_t n_to;
	struct cfg_ports *ports;
	uint32_t n_ports;
	struct cfg_ports *except_ports;
	uint32_t n_except_ports;
};

enum cfg_proxy { PROXY_NONE, PROXY_V1, PROXY_V2 }; /* PROXY protocol (haproxy's proxy-protocol.txt) */
enum cfg_source { SOURCE_AGENT, SOURCE_CLIENT };   /* whose address the upstream sees */
enum cfg_local { LOCAL_SHORT, LOCAL_TUNNEL };	   /* a tunnel endpoint that is this very node */

/** struct cfg_rate - new connections; per_second 0: any number */
struct cfg_rate {
	uint32_t per_second, burst; /* burst: at once, after a pause; default per_second */
};

/** struct cfg_quota - limits for each who matches, apart */
struct cfg_quota {
	const char *name;
	const char **ids;	  /* limits.principals: SPIFFE ids, '*' as in accept; none: anybody who has one */
	uint32_t n_ids;
	struct cidr *from;	  /* limits.sources: these addresses; none: any */
	uint32_t n_from;
	uint32_t v4_bits, v6_bits; /* limits.sources: addresses that have these bits in common are one source; default 32, 64 */
	uint32_t max_connections; /* at the same time; 0: any number */
	struct cfg_rate rate;
	uint32_t remember;	  /* so many of those who match; all further ones share one; default 4096 */
};

/* ---- listeners ---- */
enum cfg_listener_type { LISTENER_TCP, LISTENER_TUNNEL, LISTENER_INTERNAL };
enum cfg_spread { SPREAD_SOURCE, SPREAD_CONNECTION }; /* which worker gets a connection; source keeps the order per client */

struct cfg_listener {
	const char *name;
	uint32_t id;   /* index in config.listeners */
	uint32_t slot; /* of its run-time object (chain/slots.h); set before workers see it */
	enum cfg_listener_type type;
	struct addr address;	  /* tcp, tunnel */
	uint32_t backlog;	  /* default 4096 */
	enum cfg_spread spread;	  /* default source; with capture connection */
	struct cfg_route *routes; /* tried in order, then `to` */
	uint32_t n_routes;
	struct cfg_target to;	  /* default target; both NULL: no match is 404 + NR */
	uint32_t max_connections; /* of this listener, all workers together; 0 = limits only */
	struct cfg_rate rate;	  /* connections and streams that it takes in */
	uint64_t idle_timeout_ms; /* no byte either way; default timeouts.idle */
	bool access_log;	  /* default true */
	const char *netns;	  /* tcp, tunnel: bound in this network namespace: a name of `ip netns`, "pid:N" or a path; NULL: ours */
	struct cfg_capture *capture; /* tcp; NULL: none */
	struct cfg_steer *steer;  /* tcp, tunnel; NULL: none */
	bool proxy_protocol;	  /* tcp: every connection must begin with a PROXY header, v1 or v2 */
	struct cidr *proxy_from;  /* whose header is believed; others are refused. Never empty with proxy_protocol */
	uint32_t n_proxy_from;
	/* tunnel listeners */
	struct cfg_identity *identity; /* NULL only with tls: false, or by_workload */
	bool by_workload;	       /* the identity is that of the workload asked for; `identity` when there is none, NULL: refuse */
	bool tls;		       /* default true */
	const char **accept_ids;       /* SPIFFE ids, '*' as prefix or suffix wildcard; none: whole trust domain */
	uint32_t n_accept_ids;
	uint32_t max_streams;	       /* SETTINGS_MAX_CONCURRENT_STREAMS sent; default 1024 */
	struct cfg_rate tunnel_rate;   /* tunnels accepted: handshakes cost much */
};

/* ---- clusters ---- */
enum cfg_cluster_type { CLUSTER_TCP, CLUSTER_TUNNEL, CLUSTER_ORIGINAL_DST, CLUSTER_INTERNAL };
enum cfg_balance { BALANCE_ROUND_ROBIN, BALANCE_LEAST_REQUEST, BALANCE_RANDOM_TWO };

struct cfg_endpoint {
	struct addr address;  /* literal, or AF_UNSPEC with: */
	const char *host;     /* DNS name, resolved by c-ares and again every dns_refresh_ms */
	uint16_t port;
	uint32_t id;	      /* index over all endpoints of the config */
};

struct cfg_pool {
	uint32_t max_tunnels;	     /* per worker and endpoint; default 16 */
	uint32_t max_streams;	     /* per tunnel, also bounded by the peer's setting; default 1024 */
	uint32_t max_requests;	     /* streams over a tunnel's life, then it is replaced; 0 = no limit */
	uint32_t queue;		     /* connections that may wait for a stream, per worker; default 1024 */
	uint64_t queue_timeout_ms;   /* default 5000 */
	uint64_t idle_timeout_ms;    /* a tunnel without streams is closed; default 300000 */
	uint64_t max_age_ms;	     /* a tunnel is replaced, draining; 0 = never */
};

struct cfg_cluster {
	const char *name;
	uint32_t id;   /* index in config.clusters */
	uint32_t slot; /* as a listener's */
	enum cfg_cluster_type type;
	enum cfg_balance balance;
	struct cfg_endpoint *endpoints; /* tcp, tunnel */
	uint32_t n_endpoints;
	struct cfg_listener *listener;	/* internal: the internal listener it leads to */
	struct cidr *destinations;	/* original_dst: what may be dialled; never empty */
	uint32_t n_destinations;
	uint64_t connect_timeout_ms;	/* default timeouts.connect */
	uint64_t dns_refresh_ms;	/* default 30000 */
	uint32_t max_connections;	/* all workers together; 0 = none */
	struct cfg_rate rate;		/* connections and streams to it */
	const char *netns;		/* tcp, original_dst, tunnel: dialled from this network namespace; as a listener's */
	enum cfg_source source;		/* tcp, original_dst: client = bind to the client's address (IP_TRANSPARENT, ip(7)) */
	enum cfg_proxy proxy_protocol;	/* tcp, original_dst: header sent first */
	/* tunnel clusters */
	enum cfg_local local;		/* an endpoint that is an address of this node (not loopback), with a tunnel listener of ours
					   on that port: short = straight into that listener's chain. Default short */
	const char *authority;		/* fixed :authority; NULL: original destination (or the received :authority when forwarding) */
	struct cfg_identity *identity;
	bool by_workload;		/* the identity is that of the connection's workload; `identity` when it has none, NULL: refuse */
	bool tls;
	const char **expect_ids;	/* SPIFFE ids of the peer agent; none: whole trust domain */
	uint32_t n_expect_ids;
	const char *sni;		/* default: none sent */
	struct cfg_pool pool;
};

/* ---- the rest ---- */
enum cfg_log_format { CFG_LOG_TEXT, CFG_LOG_JSON, CFG_LOG_JOURNAL, CFG_LOG_AUTO /* journal if stderr is, else text */ };
enum cfg_access_format { ACCESS_NATIVE, ACCESS_ZTUNNEL, ACCESS_ENVOY };
enum cfg_mover { MOVER_AUTO, MOVER_RELAY };

struct cfg_access_log {
	bool enabled;
	const char *path;	/* file (appended; reopened on SIGUSR1), "stdout", "stderr" */
	enum cfg_access_format format;
	const char **fields;	/* selection and order; none = all of the format */
	uint32_t n_fields;
};

enum cfg_switch { SWITCH_AUTO, SWITCH_ON, SWITCH_OFF }; /* auto: when it works; on: not starting without it */

/** struct cfg_bypass - sockmap bypass; default off (docs/DATAPATH.md says what it breaks for whom) */
struct cfg_bypass {
	bool enabled;
	struct cfg_who *allow;	   /* a connection is bypassed when each of its two ends matches one of these; none: nobody */
	uint32_t n_allow;
	enum cfg_switch evidence;  /* wait until fentry has seen how the receiver reads; default auto: where the kernel has it */
	bool legs;		   /* also one local leg of a tunnelled connection; default true */
	uint32_t after;		   /* round trips before a connection is joined; default 3 */
	uint32_t queue_bytes;	   /* redirected and unread, per socket; default 65536 */
	uint32_t queue_messages;   /* default 64 */
	uint64_t bulk;		   /* this many bytes with less than an eighth redirected: back to splice; default 8 MiB, 0 never */
};

struct cfg_kernel {
	struct cfg_bypass bypass;
	enum cfg_switch splice;	   /* default auto */
	uint32_t splice_above;	   /* bytes that one direction moved in one go before splice takes over; 0: CFG_SPLICE_ABOVE, the default */
	enum cfg_switch ktls;	   /* default auto */
	const char *pin;	   /* bpffs folder; default /sys/fs/bpf/adit; NULL ("none"): nothing outlives the process */
	const char *cgroup;	   /* where programs are attached: path below the cgroup2 mount; default "/" */
	uint64_t orphan_ms;	   /* captured destinations not claimed by then are forgotten; default 30000 */
};

struct cfg_limits {
	uint32_t max_connections;   /* whole daemon; default 100000 */
	uint32_t max_tunnels_in;    /* accepted tunnels, whole daemon; default 4096 */
	uint64_t memory;	    /* bytes that connections may hold in buffers and windows, whole daemon; default 256 MiB */
	uint32_t early_data;	    /* bytes kept per connection before the 200; default 65536 */
	uint32_t stream_window;	    /* initial window per stream; default 262144 */
	uint32_t stream_window_max; /* it grows to this when the path needs it; default 8 MiB */
	uint32_t connection_window; /* per tunnel; default 16 MiB */
	uint32_t max_frame_size;    /* what we accept; default 1 MiB, HBONE's */
	uint32_t header_bytes;	    /* header list of one CONNECT, name + value + 32; default 16384 */
	uint32_t header_count;	    /* default 64 */
	uint32_t metadata_bytes;    /* kept per stream; default 8192 */
	uint32_t recent;	    /* ended connections remembered, per worker; default 1024, 0 none */
	/* per tunnel and second, hostile peers (interop C1.6) */
	uint32_t rst_rate, ping_rate, settings_rate, empty_data_rate, window_update_rate, glitch_rate, refused_rate;
	uint32_t continuation_max;  /* per header block; default 20 */
	struct cfg_quota *principals, *sources; /* the first that matches counts; sources: for who has no principal */
	uint32_t n_principals, n_sources;
};

/** struct cfg_steps - at how much of a resource what begins: percent; 0: never. Each is at least as much as the one before. */
struct cfg_steps {
	uint32_t shrink;     /* windows, socket buffers, caches */
	uint32_t close_idle; /* connections and tunnels, the longest idle first */
	uint32_t refuse;     /* new connections and streams */
	uint32_t pause;	     /* accepting; the cgroup's memory: and who holds most of it is closed */
};

struct cfg_overload {
	bool enabled;		      /* default true */
	struct cfg_steps memory;      /* of limits.memory, and of the cgroup's; default 70, 80, 90, 95 */
	struct cfg_steps descriptors; /* of RLIMIT_NOFILE; default 70, 80, 90, 95 */
	uint32_t cpu_busy;	      /* percent of the time that a worker runs or waits for a CPU; default 95; and then: */
	uint64_t cpu_refuse_ms, cpu_pause_ms; /* when a turn of its loop takes this long; default 250, 2000; 0: never */
	uint64_t idle_ms;	      /* what may be closed as idle has been for so long; default 10000 */
};

struct cfg_timeouts {
	uint64_t connect_ms;	  /* TCP connect to an endpoint, default 10000 */
	uint64_t handshake_ms;	  /* TLS + first SETTINGS, default 10000 */
	uint64_t open_ms;	  /* CONNECT sent -> answer, default 15000 */
	uint64_t idle_ms;	  /* default 3600000; 0 = never */
	uint64_t ping_ms;	  /* silence on a tunnel before a PING, default 10000 */
	uint64_t ping_timeout_ms; /* default 20000 */
	uint64_t expiry_grace_ms; /* tunnels go on so long with an expired certificate, ours or the peer's; default 300000 */
	uint64_t drain_ms;	  /* SIGTERM to the end, default 5000 */
};

struct cfg_drain {
	uint64_t quiet_ms;  /* readiness fails, and all goes on for so long; default 0 */
	uint64_t jitter_ms; /* connections are closed one by one over the last so much of timeouts.drain; default: half of it */
};

struct config {
	struct cfg_node node;
	uint32_t workers;	 /* resolved: number, never 0 */
	enum cfg_mover mover;	 /* relay: no bypass, no splice, no kTLS */
	struct cfg_kernel kernel;
	const char *admin_socket; /* UNIX path; NULL: none. Default /run/adit/admin.sock */
	const char *state_dir;	  /* where applied policies and the audit log are kept; NULL ("none"): nowhere. Default /var/lib/adit */
	uint32_t admin_mode;	  /* file mode of the socket, default 0660 */
	bool watch;		  /* changed files of the configuration come into force by themselves */
	struct addr metrics;	  /* TCP address of /metrics and /healthz; AF_UNSPEC: none */
	enum cfg_log_format log_format;
	uint8_t log_level;	  /* enum log_level */
	uint8_t log_areas[LA_AREAS]; /* enum log_level, each; log_level where nothing else is said */
	struct cfg_access_log access_log;
	struct cfg_limits limits;
	struct cfg_timeouts timeouts;
	struct cfg_drain drain;
	uint64_t watchdog_ms;	  /* a worker that does not turn for so long is stuck; 0: nobody looks. Default 10000 */
	struct cfg_overload overload;
	struct cfg_identity *identities;
	uint32_t n_identities;
	struct cfg_listener *listeners;
	uint32_t n_listeners;
	struct cfg_cluster *clusters;
	uint32_t n_clusters;
	uint32_t n_endpoints;	  /* all clusters together */
	struct cfg_workload *workloads;
	uint32_t n_workloads;
	const struct policy *policies;
	uint32_t n_policies;
	struct policy_set *policy_set; /* of them, compiled; NULL: there are none */
	const struct cfg_parts *parts; /* config/parts.h */
	uint32_t uses;		  /* snapshots that have it (chain/snapshot.h); main thread */
	void *arena;		  /* owned by config/ */
};
