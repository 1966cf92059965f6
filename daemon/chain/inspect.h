/*
 * What people may ask of a running daemon: plain rows, copied out of the workers by orders that run on them (a worker is never
 * stopped for longer than one order: rows come in batches). Main thread only. Strings are inside the row.
 */
#pragma once
#include "base/stats.h"
#include "base/hist.h"
#include "chain/recent.h"
#include "kern/bypass.h"
#include "kern/capture.h"
#include "kern/steer.h"
#include "model/config.h"
#include "obs/series.h"

struct daemon; /* chain/daemon.h */

struct conn_row {
	uint64_t id;
	uint32_t worker;
	char state[12];	      /* opening, open, half-src, half-dst, closing */
	char mover[8];	      /* bypass, leg, splice, relay: what moves most of its bytes now */
	char mover_why[96];   /* why not a faster one; "" when there is none */
	char listener[48];
	char chain[160];      /* "outbound > audit > cluster:to-b" */
	char route[48];
	char src[ADDR_STR], dst[ADDR_STR], original_dst[ADDR_STR];
	char authority[128];
	char src_identity[192], dst_identity[192];
	char workload[65], workload_by[40]; /* of the application that opened it; "" */
	int64_t src_uid;      /* of it; -1: not asked for, or not known */
	char peer_id[96];     /* node id the peer gave in metadata */
	char metadata[512];   /* "k=v, k=v", cut */
	uint32_t tunnel_in, stream_in, tunnel_out, stream_out; /* 0: that leg is a socket */
	uint64_t bytes_sent, bytes_recv, buffered;
	uint64_t bypassed_sent, bypassed_recv;	/* of the bytes, those that never came to the agent */
	uint64_t spliced_sent, spliced_recv;	/* and those that never came to its memory */
	char bypass_refused[160];		/* "order 12, reader 3": why messages went by TCP */
	uint64_t age_us, idle_us;
	struct addr tcp[2][2]; /* [leg][local, remote] of socket legs, AF_UNSPEC else: for diag_tcp() */
	bool mismatch;
};

struct tunnel_row {
	uint64_t age_us, idle_us;
	uint32_t id, worker;
	char dir[4];	      /* in, out */
	char state[12];	      /* connecting, handshake, open, draining, closing */
	char peer[ADDR_STR], local[ADDR_STR];
	char cluster[48];     /* out: cluster; in: listener */
	char peer_identity[192], local_identity[192];
	char engine[8];	      /* ktls (both directions), mixed, user, plain */
	char engine_tx[8], engine_rx[8];
	char why[128];	      /* why not a faster engine */
	char cipher[32];
	uint32_t streams, max_streams /* in force now */;
	uint64_t streams_total;
	uint64_t rx_bytes, tx_bytes, tx_queued;
	int32_t send_window, recv_window;
	uint32_t rtt_us;
	uint64_t cert_expires; /* unix seconds of the peer's certificate, 0 = none */
	uint64_t expires;     /* unix seconds: the first of both sides' certificates; 0 = without TLS */
	char identity[48];    /* ours, by its name; "" without TLS */
	char own_serial[64];  /* of our certificate on it */
	bool stale;	      /* it goes on until another one in its place is open */
};

struct listener_row {
	const struct cfg_listener *cfg;
	uint64_t accepted, active, failed, bytes_in, bytes_out;
};
/** struct policy_row - decisions since the start, all workers; the last row is POLICY_DEFAULT: what no policy decided */
struct policy_row {
	const char *name; /* until the configuration goes */
	bool deny, dry_run, elsewhere, default_;
	uint32_t rules, values;
	uint64_t allowed, denied, dry_allowed, dry_denied;
};
/** struct workload_row - counts of all workers; the last row is of no workload: its cfg is NULL. Texts live as long as the configuration. */
struct workload_row {
	const struct cfg_workload *cfg;
	const char *id; /* SPIFFE id; NULL: without TLS */
	uint64_t connections, active, refused;
};
struct endpoint_row {
	const struct cfg_cluster *cluster;
	const struct cfg_endpoint *endpoint;
	char address[ADDR_STR]; /* resolved */
	uint64_t active, total, failed, tunnels, queued;
	bool resolved;
};

/** struct kernel_row - one means of the kernel plane, as found and tested at start */
struct kernel_row {
	char name[24];	  /* bypass, evidence, capture, steer, splice, ktls, transparent, netlink */
	char state[12];	  /* on, off (configured so), idle (nothing asks for it), missing */
	char why[256];	  /* off, missing: the reason and what to do */
	char detail[256]; /* on: figures, the self-test's result */
};

struct status_row {
	uint64_t uptime_us, pid;
	uint32_t workers;
	bool ready, draining;
	uint64_t generation;   /* number of the snapshot in force */
	uint32_t snapshots;    /* that somebody still uses, that one included */
	uint64_t changes, refused /* changes of what is in force */, changed_us /* unix time of the last */;
	char refused_why[512]; /* why the last change was refused; "" when it was not */
	char node[128], version[32], wolfssl[64] /* version and whether tuned */;
	uint64_t connections, tunnels_in, tunnels_out, streams, buffered, memory_limit;
};

enum health_phase { HEALTH_STARTING, HEALTH_READY, HEALTH_QUIET /* not ready any more, and nothing else */, HEALTH_DRAINING };
/** struct health_row - for people, made by inspect_health() */
struct health_row {
	enum health_phase phase;
	bool live;
	uint64_t left_ms;     /* draining: to the deadline */
	uint64_t connections, began_with; /* live; when the drain began */
	uint32_t stuck;	      /* workers */
	uint64_t stuck_total;
	uint64_t watchdog_ms; /* the limit; 0: nobody looks */
	char text[1024];      /* what is awaited or wrong, a line each; "" */
};


/* rows are malloc'd; caller frees. Return: 0, -ENOMEM, or -ETIMEDOUT when a worker did not answer within a second. */
int inspect_conns(struct daemon *d, struct conn_row **ret, size_t *ret_n);
int inspect_tunnels(struct daemon *d, struct tunnel_row **ret, size_t *ret_n);
/** struct denied_row - equal denials, of all workers together */
struct denied_row {
	struct recent_denial d;
	uint32_t worker; /* of the last */
};
/** inspect_denied() - the newest first */
int inspect_denied(struct daemon *d, struct denied_row **ret, size_t *ret_n);
/* read from counters, no order needed; rows malloc'd */
int inspect_listeners(struct daemon *d, struct listener_row **ret, size_t *ret_n);
int inspect_endpoints(struct daemon *d, struct endpoint_row **ret, size_t *ret_n);
int inspect_workloads(struct daemon *d, struct workload_row **ret, size_t *ret_n);
int inspect_policies(struct daemon *d, struct policy_row **ret, size_t *ret_n);
/** inspect_kernel() - rows malloc'd; *ret_release is the kernel's release, static text */
int inspect_kernel(struct daemon *d, struct kernel_row **ret, size_t *ret_n, const char **ret_release);
struct kernel_numbers {
	bool has_bypass, has_capture, has_steer; /* false: its numbers are zero */
	struct bypass_info bypass;
	struct capture_info capture;
	struct steer_info steer;
};
/** inspect_kernel_numbers() - what the rows' texts are made of */
void inspect_kernel_numbers(struct daemon *d, struct kernel_numbers *ret);
/** inspect_bypass() - the kill switch. Return: 0, or -ENOENT: there is no bypass to switch. */
int inspect_bypass(struct daemon *d, bool on);
void inspect_status(struct daemon *d, struct status_row *ret);
const struct config *inspect_config(struct daemon *d);
/* sums over workers */
void inspect_stats(struct daemon *d, struct stats *ret);
enum inspect_hist { IH_OPEN_US /* accept -> established */, IH_QUEUE_US, IH_HANDSHAKE_US, IH_CONNECT_US, IH_HISTS };
void inspect_hist(struct daemon *d, enum inspect_hist which, struct hist *ret); /* ret zeroed by the callee */
/** inspect_series() - walk worker tables: *iw worker, *is series; Return: next series or NULL */
const struct series *inspect_series(struct daemon *d, uint32_t *iw, uint32_t *is);
uint64_t inspect_access_dropped(struct daemon *d);
/** inspect_health() - any thread */
void inspect_health(struct daemon *d, struct health_row *ret);
/**
 * inspect_hold() - another thread than the main one may call what reads counters until inspect_release()
 * Return: false: the main thread did not pause for @ms.
 */
bool inspect_hold(struct daemon *d, uint64_t ms);
void inspect_release(struct daemon *d);
/** inspect_kill() - close one connection (RST to both) by id. Return: 0, -ENOENT, -ETIMEDOUT. */
int inspect_kill(struct daemon *d, uint64_t conn_id);
