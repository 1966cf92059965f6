/* Between the files of chain/explain*.c. */
#pragma once
#include "chain/explain.h"
#include "chain/inspect.h"
#include "net/dns.h"
#include "tunnel/pool.h"

/**
 * explain_policies() - member "policies" of @j: those asked at a listener or cluster, and what they say
 * @f: policy_look() of @in; not looked at when there is no policy
 * Return: 0 or -ENOMEM.
 */
int explain_policies(const struct config *cfg, const struct policy_input *in, const struct policy_facts *f, enum policy_place at,
		     uint32_t id, struct json *j, bool *ret_allowed);

#define EXPLAIN_ENDPOINTS 32u /* looked at per cluster */

/** struct out_row - how a worker sees a cluster now */
struct out_row {
	uint32_t n; /* endpoints */
	struct {
		struct addr addr[DNS_ADDRS];
		uint32_t n_addr; /* 0: its name is not resolved yet */
		uint64_t active, total, failed;
	} ep[EXPLAIN_ENDPOINTS];
	uint32_t first;	     /* which the balance would take; UINT32_MAX: one of two at random */
	struct addr to;	     /* its address that would be dialled; AF_UNSPEC: not known */
	struct pool_look pool; /* tunnel clusters, for `to` */
	uint32_t listener;   /* slot of that of this node, by the short way; UINT32_MAX: none */
	const char *short_why; /* why not; static */
};

#define EXPLAIN_METADATA 16384u /* bytes of a block that are copied; a larger one is not */

/** struct leg_now - how one side of a live connection stands */
struct leg_now {
	bool stream, stuck, held /* by the bypass, for its reader */, readable, in_done, out_done;
	uint64_t waiting;	 /* bytes that wait to be written to it */
	uint64_t tunnel_waiting; /* stream: sealed bytes that the tunnel's socket has not taken */
	int32_t window, tunnel_window; /* stream: what may be sent to the peer */
};

/** struct conn_facts - of a connection, live or ended */
struct conn_facts {
	bool live, open, proxy_wait, name_wait, tunnel_wait;
	struct recent_conn c;
	struct recent_denial d; /* when only the denial is remembered: c.id is 0 */
	struct conn_row row;	/* live */
	struct leg_now leg[2];	/* live */
	_Alignas(8) uint8_t md[EXPLAIN_METADATA]; /* live: struct metadata, size 0: none or too large */
};
