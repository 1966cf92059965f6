/*
 * The admin API as aditd serves it and aditctl uses it: HTTP/1.1 on a UNIX socket, JSON bodies (docs/ADMIN-API.md).
 * A name once given stays; new members may appear in answers at any time.
 */
#pragma once

#define ADIT_ADMIN_SOCKET     "/run/adit/admin.sock" /* default of the configuration's admin.socket */
#define ADIT_ADMIN_SOCKET_ENV "ADIT_SOCKET"	     /* environment: another default for aditctl */
#define ADIT_CONFIG_FILE      "/etc/adit/adit.yaml"

#define ADIT_API_INDEX	      "/v1"
#define ADIT_API_STATUS	      "/v1/status"
#define ADIT_API_LISTENERS    "/v1/listeners"
#define ADIT_API_CHAINS	      "/v1/chains"
#define ADIT_API_CLUSTERS     "/v1/clusters"
#define ADIT_API_TUNNELS      "/v1/tunnels"
#define ADIT_API_CONNS	      "/v1/conns"  /* ?limit= &listener= &peer= */
#define ADIT_API_CONN	      "/v1/conns/" /* and the id; GET, DELETE */
#define ADIT_API_WORKLOADS    "/v1/workloads"
#define ADIT_API_LIMITS	      "/v1/limits" /* ?limit= */
#define ADIT_API_EXPLAIN      "/v1/explain"  /* ?src= &dst= &listener= &principal= &authority= &header=K=V... &metadata=K=V... */
#define ADIT_API_EXPLAIN_CONN "/v1/explain/" /* and the id */
#define ADIT_API_DENIED	      "/v1/denied"   /* ?limit= &listener= &since_ms= */
#define ADIT_API_STATS	      "/v1/stats"  /* ?match=GLOB */
#define ADIT_API_KERNEL	      "/v1/kernel"
#define ADIT_API_KERNEL_BYPASS "/v1/kernel/bypass"
#define ADIT_API_LOG	      "/v1/log"
#define ADIT_API_TRACE	      "/v1/trace" /* ?conn= or peer= or listener=, &level= &for_ms= &count= &format= */
#define ADIT_API_LOG_LEVEL    "/v1/log-level"
#define ADIT_API_CONFIG_CHECK "/v1/config/check"
#define ADIT_API_DRAIN	      "/v1/drain"
#define ADIT_API_UPGRADE      "/v1/upgrade"
#define ADIT_API_POLICIES     "/v1/policies" /* GET; POST ?if_generation= &dry_run= &prune= &file= */
#define ADIT_API_POLICY	      "/v1/policies/" /* and the name; GET, PUT, DELETE */
#define ADIT_API_POLICIES_CHECK "/v1/policies/check"
#define ADIT_API_POLICIES_DIFF "/v1/policies/diff"
#define ADIT_API_AUDIT	      "/v1/audit" /* ?limit= */
#define ADIT_API_CERTS	      "/v1/certs" /* ?identity= */
#define ADIT_API_RELOAD	      "/v1/reload"

/* also on the TCP address of admin.metrics */
#define ADIT_API_METRICS       "/metrics"
#define ADIT_API_METRICS_ISTIO "/stats/prometheus"
#define ADIT_API_READY	       "/healthz/ready"
#define ADIT_API_LIVE	       "/healthz/live"

#define ADIT_API_CONNS_LIMIT 1000u /* connections listed when the query names no limit */
