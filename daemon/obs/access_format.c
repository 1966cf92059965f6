/*
 * Access log, the text: one JSON line per record in one of three formats.
 *
 *   native:  all we know. Names say the unit; a fact that is not there has no key. bytes_sent is towards the upstream.
 *   ztunnel: the keys of Istio's ztunnel (dotted), in its order; bytes_sent is towards the peer agent, so an inbound record
 *            counts the other way round than native; duration is text ("13ms"); what is missing has no key.
 *   envoy:   the keys of Istio's default JSON log for Envoy; bytes_received comes from downstream; what is missing is null.
 *
 * A field is a name, what to write, and which string if it is one. `fields` of the configuration selects from one format's
 * table by name and gives the order; it is resolved once, when the log is opened.
 *
 * Level: an error is a connection that did not end well; a warning one that this side refused (401, 403).
 */
#include "base/clean.h"
#include "obs/access_format.h"
#include <stdio.h>
#include <string.h>
#include <time.h>

enum access_what {
	W_STR,
	W_TIME,	 /* end of the connection, microseconds */
	W_START, /* its beginning, milliseconds */
	W_LEVEL,
	W_SCOPE,
	W_MESSAGE,
	W_NODE,
	W_CONN,
	W_DIRECTION,
	W_TLS,
	W_TUNNEL,
	W_STREAM,
	W_STATUS,
	W_STATUS_OR_0,
	W_SENT, /* towards the upstream */
	W_RECV,
	W_TO_PEER, /* towards the peer agent */
	W_FROM_PEER,
	W_DURATION_US,
	W_DURATION_MS,
	W_DURATION_TEXT,
	W_OPEN_US,
	W_QUEUE_US,
	W_MISMATCH,
	W_METHOD,
	W_PROTOCOL,
	W_DETAILS,
	W_TERMINATION,
	W_TRANSPORT_FAILURE,
	W_NULL, /* Envoy knows it, we do not */
};

struct access_field {
	const char *name;
	uint8_t what; /* enum access_what */
	uint8_t str;  /* enum access_str, for W_STR */
};

static const struct access_field native_fields[] = {
	{"time", W_TIME, 0},
	{"level", W_LEVEL, 0},
	{"scope", W_SCOPE, 0},
	{"message", W_MESSAGE, 0},
	{"node", W_NODE, 0},
	{"conn", W_CONN, 0},
	{"direction", W_DIRECTION, 0},
	{"listener", W_STR, AS_listener},
	{"outer_listener", W_STR, AS_outer_listener},
	{"route", W_STR, AS_route},
	{"cluster", W_STR, AS_cluster},
	{"policy", W_STR, AS_policy},
	{"mover", W_STR, AS_mover},
	{"src_addr", W_STR, AS_src_addr},
	{"src_identity", W_STR, AS_src_identity},
	{"src_workload", W_STR, AS_src_workload},
	{"src_namespace", W_STR, AS_src_namespace},
	{"src_cluster", W_STR, AS_src_cluster},
	{"src_node", W_STR, AS_src_node},
	{"dst_addr", W_STR, AS_dst_addr},
	{"hbone_addr", W_STR, AS_hbone_addr},
	{"original_dst", W_STR, AS_original_dst},
	{"dst_identity", W_STR, AS_dst_identity},
	{"dst_workload", W_STR, AS_dst_workload},
	{"dst_namespace", W_STR, AS_dst_namespace},
	{"dst_cluster", W_STR, AS_dst_cluster},
	{"dst_node", W_STR, AS_dst_node},
	{"dst_service", W_STR, AS_dst_service},
	{"tls", W_TLS, 0},
	{"tunnel", W_TUNNEL, 0},
	{"stream", W_STREAM, 0},
	{"status", W_STATUS, 0},
	{"response_flags", W_STR, AS_response_flags},
	{"bytes_sent", W_SENT, 0},
	{"bytes_recv", W_RECV, 0},
	{"duration_us", W_DURATION_US, 0},
	{"open_us", W_OPEN_US, 0},
	{"queue_us", W_QUEUE_US, 0},
	{"closed_by", W_STR, AS_closed_by},
	{"error", W_STR, AS_error},
	{"trace_id", W_STR, AS_trace_id},
	{"peer_metadata", W_STR, AS_peer_headers},
	{"mismatch", W_MISMATCH, 0},
};

static const struct access_field ztunnel_fields[] = {
	{"level", W_LEVEL, 0},
	{"time", W_TIME, 0},
	{"scope", W_SCOPE, 0},
	{"message", W_MESSAGE, 0},
	{"src.addr", W_STR, AS_src_addr},
	{"src.workload", W_STR, AS_src_workload},
	{"src.namespace", W_STR, AS_src_namespace},
	{"src.identity", W_STR, AS_src_identity},
	{"src.cluster", W_STR, AS_src_cluster},
	{"dst.addr", W_STR, AS_dst_addr},
	{"dst.hbone_addr", W_STR, AS_hbone_addr},
	{"dst.service", W_STR, AS_dst_service},
	{"dst.workload", W_STR, AS_dst_workload},
	{"dst.namespace", W_STR, AS_dst_namespace},
	{"dst.identity", W_STR, AS_dst_identity},
	{"dst.cluster", W_STR, AS_dst_cluster},
	{"direction", W_DIRECTION, 0},
	{"bytes_sent", W_TO_PEER, 0},
	{"bytes_recv", W_FROM_PEER, 0},
	{"duration", W_DURATION_TEXT, 0},
	{"error", W_STR, AS_error},
};

static const struct access_field envoy_fields[] = {
	{"start_time", W_START, 0},
	{"method", W_METHOD, 0},
	{"path", W_NULL, 0},
	{"protocol", W_PROTOCOL, 0},
	{"response_code", W_STATUS_OR_0, 0},
	{"response_flags", W_STR, AS_response_flags},
	{"response_code_details", W_DETAILS, 0},
	{"connection_termination_details", W_TERMINATION, 0},
	{"upstream_transport_failure_reason", W_TRANSPORT_FAILURE, 0},
	{"bytes_received", W_SENT, 0},
	{"bytes_sent", W_RECV, 0},
	{"duration", W_DURATION_MS, 0},
	{"upstream_service_time", W_NULL, 0},
	{"x_forwarded_for", W_NULL, 0},
	{"user_agent", W_NULL, 0},
	{"request_id", W_STR, AS_trace_id},
	{"authority", W_STR, AS_hbone_addr},
	{"upstream_host", W_STR, AS_dst_addr},
	{"upstream_cluster", W_STR, AS_cluster},
	{"upstream_local_address", W_NULL, 0},
	{"downstream_local_address", W_STR, AS_original_dst},
	{"downstream_remote_address", W_STR, AS_src_addr},
	{"requested_server_name", W_NULL, 0},
	{"route_name", W_STR, AS_route},
};

static const struct {
	const struct access_field *at;
	uint32_t n;
} formats[] = {
	[ACCESS_NATIVE] = {native_fields, ARRAY_LEN(native_fields)},
	[ACCESS_ZTUNNEL] = {ztunnel_fields, ARRAY_LEN(ztunnel_fields)},
	[ACCESS_ENVOY] = {envoy_fields, ARRAY_LEN(envoy_fields)},
};

/* ---- fields by name ---- */

static const struct access_field *field_find(enum cfg_access_format f, const char *name)
{
	for (uint32_t i = 0; i < formats[f].n; i++)
		if (!strcmp(formats[f].at[i].name, name))
			return &formats[f].at[i];
	return NULL;
}

const char *access_fields_known(enum cfg_access_format f, const char **fields, uint32_t n)
{
	for (uint32_t i = 0; i < n; i++)
		if (!field_find(f, fields[i]))
			return fields[i];
	return NULL;
}

static int str_copy(char **to, const char *from)
{
	if (!from)
		return 0;
	*to = strdup(from);
	return *to ? 0 : -ENOMEM;
}

int access_format_init(struct access_format *f, const struct cfg_access_log *cfg, const struct cfg_node *node,
		       struct err *reterr)
{
	uint32_t n = cfg->n_fields ? cfg->n_fields : formats[cfg->format].n;

	*f = (struct access_format){.kind = cfg->format, .clock_s = UINT64_MAX};
	f->fields = calloc(n, sizeof(*f->fields));
	if (!f->fields || str_copy(&f->node_id, node->id) || str_copy(&f->node_workload, node->workload) ||
	    str_copy(&f->node_namespace, node->namespace_) || str_copy(&f->node_cluster, node->cluster) ||
	    str_copy(&f->node_service, node->service)) {
		access_format_finish(f);
		return err_set(reterr, -ENOMEM, "access log: out of memory");
	}
	for (uint32_t i = 0; i < n; i++) {
		f->fields[i] = cfg->n_fields ? field_find(cfg->format, cfg->fields[i]) : &formats[cfg->format].at[i];
		if (!f->fields[i]) {
			access_format_finish(f);
			return err_set(reterr, -EINVAL, "access log: unknown field '%s'", cfg->fields[i]);
		}
	}
	f->n_fields = n;
	return 0;
}

void access_format_finish(struct access_format *f)
{
	free(f->fields);
	free(f->node_id);
	free(f->node_workload);
	free(f->node_namespace);
	free(f->node_cluster);
	free(f->node_service);
	*f = (struct access_format){0};
}

/* ---- one record ---- */

struct view {
	struct access_wire w;
	const char *s[AS_STRINGS]; /* NULL: absent; not NUL-terminated */
	size_t n[AS_STRINGS];
};

static void view_fill(struct view *v, enum access_str at, const char *s)
{
	if (v->s[at] || !s)
		return;
	v->s[at] = s;
	v->n[at] = strlen(s);
}

/* What a record does not say of the side that is this node is known: the configuration's node. */
static void view_open(struct view *v, const struct access_format *f, const void *rec)
{
	const char *p = (const char *)rec + sizeof(v->w);

	memcpy(&v->w, rec, sizeof(v->w));
	for (uint32_t i = 0; i < AS_STRINGS; i++) {
		v->s[i] = NULL;
		v->n[i] = 0;
		if (v->w.len[i] == ACCESS_ABSENT)
			continue;
		v->s[i] = p;
		v->n[i] = v->w.len[i];
		p += v->n[i];
	}
	view_fill(v, AS_response_flags, "-");
	if (v->w.dir == ACCESS_OUTBOUND || v->w.dir == ACCESS_LOCAL) {
		view_fill(v, AS_src_workload, f->node_workload);
		view_fill(v, AS_src_namespace, f->node_namespace);
		view_fill(v, AS_src_cluster, f->node_cluster);
		view_fill(v, AS_src_node, f->node_id);
	}
	if (v->w.dir == ACCESS_INBOUND || v->w.dir == ACCESS_LOCAL) {
		view_fill(v, AS_dst_workload, f->node_workload);
		view_fill(v, AS_dst_namespace, f->node_namespace);
		view_fill(v, AS_dst_cluster, f->node_cluster);
		view_fill(v, AS_dst_node, f->node_id);
		view_fill(v, AS_dst_service, f->node_service);
	}
}

/* Is @flag one of the comma-separated flags? */
static bool flag_has(const struct view *v, const char *flag)
{
	const char *p = v->s[AS_response_flags], *end = p + v->n[AS_response_flags];
	size_t n = strlen(flag);

	while (p < end) {
		const char *comma = memchr(p, ',', (size_t)(end - p));
		const char *stop = comma ? comma : end;

		if ((size_t)(stop - p) == n && !memcmp(p, flag, n))
			return true;
		p = stop + 1;
	}
	return false;
}

static bool is_denied(const struct view *v)
{
	return !v->w.ok && v->w.dir != ACCESS_OUTBOUND && (v->w.status == 401 || v->w.status == 403);
}

static const char *dir_str(uint8_t dir)
{
	switch ((enum access_dir)dir) {
	case ACCESS_INBOUND: return "inbound";
	case ACCESS_OUTBOUND: return "outbound";
	case ACCESS_FORWARD: return "forward";
	case ACCESS_LOCAL: return "local";
	}
	return "unknown";
}

/* RFC 3339 in UTC; the text of the second is kept, most records share it. */
static void put_time(struct access_format *f, struct json *j, const char *key, uint64_t us, bool millis)
{
	uint64_t s = us / 1000000;
	char out[48];

	if (s != f->clock_s) {
		time_t t = (time_t)s;
		struct tm tm;

		gmtime_r(&t, &tm);
		strftime(f->clock, sizeof(f->clock), "%Y-%m-%dT%H:%M:%S", &tm);
		f->clock_s = s;
	}
	if (millis)
		snprintf(out, sizeof(out), "%s.%03uZ", f->clock, (unsigned int)(us % 1000000 / 1000));
	else
		snprintf(out, sizeof(out), "%s.%06uZ", f->clock, (unsigned int)(us % 1000000));
	json_str(j, key, out);
}

static void put_str(struct json *j, const char *key, const char *s, size_t n, bool null)
{
	if (s)
		json_strn(j, key, s, n);
	else if (null)
		json_str(j, key, NULL);
}

static void put_number(struct json *j, const char *key, uint64_t v)
{
	if (v)
		json_u64(j, key, v);
}

/* Envoy's RESPONSE_CODE_DETAILS, as far as our flags tell. */
static void put_details(struct json *j, const char *key, const struct view *v)
{
	static const char *const by_flag[][2] = {
		{"NR", "route_not_found"},
		{"NC", "cluster_not_found"},
		{"UH", "no_healthy_upstream"},
		{"UO", "overflow"},
		{"SI", "stream_idle_timeout"},
		{"DT", "max_duration_timeout"},
		{"DC", "downstream_remote_disconnect"},
	};
	struct text t = {0};

	if (is_denied(v) && v->s[AS_policy]) {
		text_add(&t, "rbac_access_denied_matched_policy[");
		text_addn(&t, v->s[AS_policy], v->n[AS_policy]);
		text_add(&t, "]");
		json_strn(j, key, t.s ? t.s : "", t.len);
		text_finish(&t);
		return;
	}
	for (uint32_t i = 0; i < ARRAY_LEN(by_flag); i++) {
		if (flag_has(v, by_flag[i][0])) {
			json_str(j, key, by_flag[i][1]);
			return;
		}
	}
	json_str(j, key, v->w.status >= 200 && v->w.status < 300 ? "via_upstream" : NULL);
}

static void put_field(struct access_format *f, struct json *j, const struct access_field *fd, const struct view *v)
{
	const bool null = f->kind == ACCESS_ENVOY;
	const bool flip = v->w.dir == ACCESS_INBOUND; /* the peer agent is downstream */
	const char *k = fd->name;
	char num[32];

	switch ((enum access_what)fd->what) {
	case W_STR: put_str(j, k, v->s[fd->str], v->n[fd->str], null); break;
	case W_TIME: put_time(f, j, k, v->w.start_us + v->w.duration_us, false); break;
	case W_START: put_time(f, j, k, v->w.start_us, true); break;
	case W_LEVEL: json_str(j, k, v->w.ok ? "info" : is_denied(v) ? "warn" : "error"); break;
	case W_SCOPE: json_str(j, k, "access"); break;
	case W_MESSAGE: json_str(j, k, v->w.ok ? "connection complete" : "connection failed"); break;
	case W_NODE:
		if (f->node_id)
			json_str(j, k, f->node_id);
		break;
	case W_CONN: json_u64(j, k, v->w.conn_id); break;
	case W_DIRECTION: json_str(j, k, dir_str(v->w.dir)); break;
	case W_TLS: json_bool(j, k, v->w.tls); break;
	case W_TUNNEL: put_number(j, k, v->w.tunnel_id); break;
	case W_STREAM: put_number(j, k, v->w.stream_id); break;
	case W_STATUS: put_number(j, k, v->w.status); break;
	case W_STATUS_OR_0: json_u64(j, k, v->w.status); break;
	case W_SENT: json_u64(j, k, v->w.bytes_sent); break;
	case W_RECV: json_u64(j, k, v->w.bytes_recv); break;
	case W_TO_PEER: json_u64(j, k, flip ? v->w.bytes_recv : v->w.bytes_sent); break;
	case W_FROM_PEER: json_u64(j, k, flip ? v->w.bytes_sent : v->w.bytes_recv); break;
	case W_DURATION_US: json_u64(j, k, v->w.duration_us); break;
	case W_DURATION_MS: json_u64(j, k, v->w.duration_us / 1000); break;
	case W_DURATION_TEXT:
		snprintf(num, sizeof(num), "%llums", (unsigned long long)(v->w.duration_us / 1000));
		json_str(j, k, num);
		break;
	case W_OPEN_US: put_number(j, k, v->w.open_us); break;
	case W_QUEUE_US: json_u64(j, k, v->w.queue_us); break;
	case W_MISMATCH:
		if (v->w.mismatch)
			json_bool(j, k, true);
		break;
	case W_METHOD: json_str(j, k, v->s[AS_hbone_addr] ? "CONNECT" : NULL); break;
	case W_PROTOCOL:
		json_str(j, k, v->w.dir == ACCESS_INBOUND || v->w.dir == ACCESS_FORWARD ? "HTTP/2" : NULL);
		break;
	case W_DETAILS: put_details(j, k, v); break;
	case W_TERMINATION: put_str(j, k, flag_has(v, "UF") ? NULL : v->s[AS_error], v->n[AS_error], true); break;
	case W_TRANSPORT_FAILURE: put_str(j, k, flag_has(v, "UF") ? v->s[AS_error] : NULL, v->n[AS_error], true); break;
	case W_NULL: json_str(j, k, NULL); break;
	}
}

void access_format_line(struct access_format *f, const void *rec, struct text *out)
{
	struct view v;
	struct json j;

	view_open(&v, f, rec);
	json_init(&j, out, false);
	json_open(&j, NULL, '{');
	for (uint32_t i = 0; i < f->n_fields; i++)
		put_field(f, &j, f->fields[i], &v);
	json_close(&j, '}');
	text_add(out, "\n");
}
