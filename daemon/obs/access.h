/*
 * Access log: one JSON line per connection and listener passed, written at its end. The worker only copies the facts into a
 * ring of its own (no formatting, no system call); the log thread formats and writes in batches. When the ring is
 * full the record is dropped and counted, never waited for.
 */
#pragma once
#include "base/ring.h"
#include "model/config.h"

enum access_dir { ACCESS_INBOUND, ACCESS_OUTBOUND, ACCESS_FORWARD, ACCESS_LOCAL };

/** struct access_rec - the facts; strings may be NULL (absent), live as long as the call */
struct access_rec {
	uint64_t conn_id;
	uint64_t start_us;    /* CLOCK_REALTIME */
	uint64_t duration_us; /* accept to end */
	uint64_t open_us;     /* accept to established upstream (200 / connected); 0: never */
	uint64_t queue_us;    /* waited for a tunnel */
	uint64_t bytes_sent;  /* towards the upstream */
	uint64_t bytes_recv;  /* from the upstream */
	enum access_dir dir;
	uint16_t status;      /* HTTP status of the CONNECT (sent or received), 0: none */
	uint32_t tunnel_id, stream_id;	 /* of the leg that is a stream; downstream's if both are */
	bool ok;	      /* complete: both directions ended cleanly */
	bool tls;
	const char *listener, *outer_listener /* of the chain's first, if not this one */, *route, *cluster, *mover;
	const char *src_addr, *dst_addr /* as dialled */, *hbone_addr /* :authority */, *original_dst;
	const char *src_identity, *dst_identity; /* SPIFFE ids from certificates only */
	const char *src_workload, *src_namespace, *src_cluster, *src_node;
	const char *dst_workload, *dst_namespace, *dst_cluster, *dst_node, *dst_service;
	const char *peer_headers;  /* the configured metadata headers of the peer, "name=value,..." */
	const char *response_flags; /* "-" or interop C7 letters, comma-separated */
	const char *closed_by;	   /* who ended it first: "src", "dst", "peer", "adit" */
	const char *error;	   /* why it failed, a sentence */
	const char *trace_id, *policy;
	bool mismatch;		   /* metadata contradicts the certificate */
};

struct access_ring {
	struct bytering ring;
};
int access_ring_init(struct access_ring *r, uint32_t bytes);
void access_ring_finish(struct access_ring *r);
/** access_emit() - worker thread; copies everything. */
void access_emit(struct access_ring *r, const struct access_rec *rec);

/** struct access_log - the log thread over all workers' rings */
struct access_log;
/** access_log_open() - opens the file; nothing is written yet. @rings outlive it. Return: 0 or -errno with the sentence. */
int access_log_open(struct access_log **ret, const struct cfg_access_log *cfg, const struct cfg_node *node, struct access_ring **rings,
		    uint32_t n_rings, struct err *reterr);
/** access_log_run() - starts the thread; only one at a time may empty the rings. Return: 0 or -errno. */
int access_log_run(struct access_log *l);
/** access_log_start() - both */
int access_log_start(struct access_log **ret, const struct cfg_access_log *cfg, const struct cfg_node *node,
		     struct access_ring **rings, uint32_t n_rings, struct err *reterr);
void access_log_reopen(struct access_log *l); /* after rotation; any thread */
/** access_log_stop() - drains the rings, flushes, joins. NULL is fine. */
void access_log_stop(struct access_log *l);
uint64_t access_log_written(const struct access_log *l);
/** access_fields_known() - for config check. Return: NULL if all are known, else the first unknown. */
const char *access_fields_known(enum cfg_access_format f, const char **fields, uint32_t n);
