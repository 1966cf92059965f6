/*
 * The inside of the access log: what a record looks like in the ring, and how it becomes a line. Shared by access.c (worker
 * side), access_format.c (text) and access_log.c (log thread) only; others use access.h.
 */
#pragma once
#include "base/text.h"
#include "obs/access.h"

#define ACCESS_STR_MAX	2048u  /* bytes of one string in a record; longer ones are cut at a character */
#define ACCESS_META_MAX 8192u  /* the same for peer_headers */
#define ACCESS_BATCH	65536u /* bytes per write(2) */

/* the strings of struct access_rec, in the order in which they lie in the ring */
#define ACCESS_STRINGS(X) \
	X(listener)       \
	X(outer_listener) \
	X(route)          \
	X(cluster)        \
	X(mover)          \
	X(src_addr)       \
	X(dst_addr)       \
	X(hbone_addr)     \
	X(original_dst)   \
	X(src_identity)   \
	X(dst_identity)   \
	X(src_workload)   \
	X(src_namespace)  \
	X(src_cluster)    \
	X(src_node)       \
	X(dst_workload)   \
	X(dst_namespace)  \
	X(dst_cluster)    \
	X(dst_node)       \
	X(dst_service)    \
	X(peer_headers)   \
	X(response_flags) \
	X(closed_by)      \
	X(error)          \
	X(trace_id)       \
	X(policy)
enum access_str {
#define X(name) AS_##name,
	ACCESS_STRINGS(X)
#undef X
		AS_STRINGS
};
#define ACCESS_ABSENT UINT16_MAX

/* In the ring: this, then the strings without NUL, one behind the other. */
struct access_wire {
	uint64_t conn_id, start_us, duration_us, open_us, queue_us, bytes_sent, bytes_recv;
	uint32_t tunnel_id, stream_id;
	uint16_t status;
	uint8_t dir; /* enum access_dir */
	bool ok, tls, mismatch;
	uint16_t len[AS_STRINGS]; /* bytes, ACCESS_ABSENT for NULL */
};

struct access_field;

/* A format with its fields resolved, and what the log says of this node. Zeroed is fine for finish(). One thread. */
struct access_format {
	enum cfg_access_format kind;
	const struct access_field **fields;
	uint32_t n_fields;
	char *node_id, *node_workload, *node_namespace, *node_cluster, *node_service;
	uint64_t clock_s; /* the second whose text is in clock[] */
	char clock[24];
};

/** access_format_init() - copies what it needs of @cfg and @node. Return: 0, -EINVAL (unknown field) or -ENOMEM. */
int access_format_init(struct access_format *f, const struct cfg_access_log *cfg, const struct cfg_node *node,
		       struct err *reterr);
void access_format_finish(struct access_format *f);
/** access_format_line() - append one line, with the newline, for a record as access_emit() left it in the ring */
void access_format_line(struct access_format *f, const void *rec, struct text *out);

/** access_log_lost() - lines that could not be written (disk full, reader gone). Any thread; NULL is fine. */
uint64_t access_log_lost(const struct access_log *l);
