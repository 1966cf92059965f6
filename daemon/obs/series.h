/*
 * The TCP metric family per service pair (names and labels of Istio's TCP metrics). One table per worker: the worker finds or
 * adds a series when a connection opens and bumps it; the main thread reads while the worker runs. Series are never
 * removed; above SERIES_MAX all further pairs share one series whose labels are "other", so a peer cannot grow the table.
 */
#pragma once
#include "base/stats.h"
#include <stdbool.h>
#include <stddef.h>

#define SERIES_MAX 4096u
#define SERIES_LABEL_MAX 128u /* bytes per label value; longer ones are cut */

enum series_label {
	SL_REPORTER, SL_SRC_WORKLOAD, SL_SRC_CANONICAL_SERVICE, SL_SRC_CANONICAL_REVISION, SL_SRC_NAMESPACE, SL_SRC_PRINCIPAL,
	SL_SRC_APP, SL_SRC_VERSION, SL_SRC_CLUSTER, SL_DST_SERVICE, SL_DST_SERVICE_NAMESPACE, SL_DST_SERVICE_NAME, SL_DST_WORKLOAD,
	SL_DST_CANONICAL_SERVICE, SL_DST_CANONICAL_REVISION, SL_DST_NAMESPACE, SL_DST_PRINCIPAL, SL_DST_APP, SL_DST_VERSION,
	SL_DST_CLUSTER, SL_REQUEST_PROTOCOL, SL_RESPONSE_FLAGS, SL_SECURITY_POLICY, SL_SRC_REGION, SL_SRC_ZONE, SL_DST_REGION,
	SL_DST_ZONE,
	SL_LABELS
};

struct series_labels {
	const char *v[SL_LABELS]; /* NULL or "": "unknown" ("-" for response_flags) */
};

struct series {
	_Atomic uint64_t opened, closed, failed, received_bytes, sent_bytes;
	uint64_t hash;
	const char *v[SL_LABELS]; /* immutable once published */
};

struct series_table {
	struct series *list[SERIES_MAX + 1]; /* published in order; [0] is the overflow series */
	_Atomic uint32_t n;		     /* written by the worker, release; read with acquire */
	uint32_t *slot;			     /* open addressing, worker only */
	uint64_t seed;			     /* of the hash: a peer cannot choose labels that collide */
};
int series_init(struct series_table *t);
void series_finish(struct series_table *t);
/** series_get() - find or add; worker thread. Return: never NULL (the overflow series when full or out of memory). */
struct series *series_get(struct series_table *t, const struct series_labels *l);
