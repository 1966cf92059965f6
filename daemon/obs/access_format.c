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
	const char *lead; /* ,"name": */
	uint8_t lead_n;
	uint8_t what; /* enum access_what */
	uint8_t str;  /* enum access_str, for W_STR */
};
#define FIELD(name, what, str)                                                  \
	{                                                                       \
		name, ",\"" name "\":", sizeof(",\"" name "\":") - 1, what, str \
	}

static const struct access_field native_fields[] = {
	FIELD("time", W_TIME, 0),
	FIELD("level", W_LEVEL, 0),
	FIELD("scope", W_SCOPE, 0),
	FIELD("message", W_MESSAGE, 0),
	FIELD("node", W_NODE, 0),
	FIELD("conn", W_CONN, 0),
	FIELD("direction", W_DIRECTION, 0),
	FIELD("listener", W_STR, AS_listener),
	FIELD("outer_listener", W_STR, AS_outer_listener),
	FIELD("route", W_STR, AS_route),
	FIELD("cluster", W_STR, AS_cluster),
	FIELD("policy", W_STR, AS_policy),
	FIELD("mover", W_STR, AS_mover),
	FIELD("src_addr", W_STR, AS_src_addr),
	FIELD("src_identity", W_STR, AS_src_identity),
	FIELD("src_workload", W_STR, AS_src_workload),
	FIELD("src_namespace", W_STR, AS_src_namespace),
	FIELD("src_cluster", W_STR, AS_src_cluster),
	FIELD("src_node", W_STR, AS_src_node),
	FIELD("dst_addr", W_STR, AS_dst_addr),
	FIELD("hbone_addr", W_STR, AS_hbone_addr),
	FIELD("original_dst", W_STR, AS_original_dst),
	FIELD("dst_identity", W_STR, AS_dst_identity),
	FIELD("dst_workload", W_STR, AS_dst_workload),
	FIELD("dst_namespace", W_STR, AS_dst_namespace),
	FIELD("dst_cluster", W_STR, AS_dst_cluster),
	FIELD("dst_node", W_STR, AS_dst_node),
	FIELD("dst_service", W_STR, AS_dst_service),
	FIELD("tls", W_TLS, 0),
	FIELD("tunnel", W_TUNNEL, 0),
	FIELD("stream", W_STREAM, 0),
	FIELD("status", W_STATUS, 0),
	FIELD("response_flags", W_STR, AS_response_flags),
	FIELD("bytes_sent", W_SENT, 0),
	FIELD("bytes_recv", W_RECV, 0),
	FIELD("duration_us", W_DURATION_US, 0),
	FIELD("open_us", W_OPEN_US, 0),
	FIELD("queue_us", W_QUEUE_US, 0),
	FIELD("closed_by", W_STR, AS_closed_by),
	FIELD("error", W_STR, AS_error),
	FIELD("trace_id", W_STR, AS_trace_id),
	FIELD("peer_metadata", W_STR, AS_peer_headers),
	FIELD("mismatch", W_MISMATCH, 0),
};

static const struct access_field ztunnel_fields[] = {
	FIELD("level", W_LEVEL, 0),
	FIELD("time", W_TIME, 0),
	FIELD("scope", W_SCOPE, 0),
	FIELD("message", W_MESSAGE, 0),
	FIELD("src.addr", W_STR, AS_src_addr),
	FIELD("src.workload", W_STR, AS_src_workload),
	FIELD("src.namespace", W_STR, AS_src_namespace),
	FIELD("src.identity", W_STR, AS_src_identity),
	FIELD("src.cluster", W_STR, AS_src_cluster),
	FIELD("dst.addr", W_STR, AS_dst_addr),
	FIELD("dst.hbone_addr", W_STR, AS_hbone_addr),
	FIELD("dst.service", W_STR, AS_dst_service),
	FIELD("dst.workload", W_STR, AS_dst_workload),
	FIELD("dst.namespace", W_STR, AS_dst_namespace),
	FIELD("dst.identity", W_STR, AS_dst_identity),
	FIELD("dst.cluster", W_STR, AS_dst_cluster),
	FIELD("direction", W_DIRECTION, 0),
	FIELD("bytes_sent", W_TO_PEER, 0),
	FIELD("bytes_recv", W_FROM_PEER, 0),
	FIELD("duration", W_DURATION_TEXT, 0),
	FIELD("error", W_STR, AS_error),
};

static const struct access_field envoy_fields[] = {
	FIELD("start_time", W_START, 0),
	FIELD("method", W_METHOD, 0),
	FIELD("path", W_NULL, 0),
	FIELD("protocol", W_PROTOCOL, 0),
	FIELD("response_code", W_STATUS_OR_0, 0),
	FIELD("response_flags", W_STR, AS_response_flags),
	FIELD("response_code_details", W_DETAILS, 0),
	FIELD("connection_termination_details", W_TERMINATION, 0),
	FIELD("upstream_transport_failure_reason", W_TRANSPORT_FAILURE, 0),
	FIELD("bytes_received", W_SENT, 0),
	FIELD("bytes_sent", W_RECV, 0),
	FIELD("duration", W_DURATION_MS, 0),
	FIELD("upstream_service_time", W_NULL, 0),
	FIELD("x_forwarded_for", W_NULL, 0),
	FIELD("user_agent", W_NULL, 0),
	FIELD("request_id", W_STR, AS_trace_id),
	FIELD("authority", W_STR, AS_hbone_addr),
	FIELD("upstream_host", W_STR, AS_dst_addr),
	FIELD("upstream_cluster", W_STR, AS_cluster),
	FIELD("upstream_local_address", W_NULL, 0),
	FIELD("downstream_local_address", W_STR, AS_original_dst),
	FIELD("downstream_remote_address", W_STR, AS_src_addr),
	FIELD("requested_server_name", W_NULL, 0),
	FIELD("route_name", W_STR, AS_route),
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

/* by a policy of this agent, which the record names */
static bool denied_here(const struct view *v)
{
	return !v->w.ok && v->s[AS_policy] && flag_has(v, "UAEX") && v->s[AS_closed_by] && v->n[AS_closed_by] == 4 &&
	       !memcmp(v->s[AS_closed_by], "adit", 4);
}

static bool is_denied(const struct view *v)
{
	return denied_here(v) || (!v->w.ok && v->w.dir != ACCESS_OUTBOUND && (v->w.status == 401 || v->w.status == 403));
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

/* ---- values ----
 *
 * A line is some forty fields; base/text's writer appends each key in four pieces, which is half the time of a line. So keys
 * are appended ready made, and only strings, which need escaping, go through it (at depth 0: it adds no comma then).
 */

static void key(struct text *t, const struct access_field *fd)
{
	const uint8_t first = t->len && t->s[t->len - 1] == '{';

	text_addn(t, fd->lead + first, fd->lead_n - first);
}

static void put_strn(struct text *t, const struct access_field *fd, const char *s, size_t n)
{
	struct json j;

	key(t, fd);
	json_init(&j, t, false);
	json_strn(&j, NULL, s, n);
}

/* @s needs no escaping */
static void put_word(struct text *t, const struct access_field *fd, const char *s)
{
	key(t, fd);
	text_addn(t, "\"", 1);
	text_add(t, s);
	text_addn(t, "\"", 1);
}

static void put_literal(struct text *t, const struct access_field *fd, const char *s)
{
	key(t, fd);
	text_add(t, s);
}

static void add_u64(struct text *t, uint64_t v)
{
	char out[20];
	size_t at = sizeof(out);

	do
		out[--at] = (char)('0' + v % 10);
	while (v /= 10);
	text_addn(t, out + at, sizeof(out) - at);
}

static void put_u64(struct text *t, const struct access_field *fd, uint64_t v)
{
	key(t, fd);
	add_u64(t, v);
}

static void put_number(struct text *t, const struct access_field *fd, uint64_t v)
{
	if (v)
		put_u64(t, fd, v);
}

static void put_str(struct text *t, const struct access_field *fd, const char *s, size_t n, bool null)
{
	if (s)
		put_strn(t, fd, s, n);
	else if (null)
		put_literal(t, fd, "null");
}

static void put_word_or_null(struct text *t, const struct access_field *fd, const char *s)
{
	if (s)
		put_word(t, fd, s);
	else
		put_literal(t, fd, "null");
}

/* RFC 3339 in UTC; the text of the second is kept, most records share it. */
static void put_time(struct access_format *f, struct text *t, const struct access_field *fd, uint64_t us,
		     uint32_t digits)
{
	const uint64_t s = us / 1000000;
	uint32_t part = (uint32_t)(us % 1000000);
	char out[8] = "......Z";

	if (s != f->clock_s) {
		const time_t unix_s = (time_t)s;
		struct tm tm;

		gmtime_r(&unix_s, &tm);
		strftime(f->clock, sizeof(f->clock), "%Y-%m-%dT%H:%M:%S", &tm);
		f->clock_s = s;
	}
	for (int i = 5; i >= 0; i--, part /= 10)
		out[i] = (char)('0' + part % 10);
	key(t, fd);
	text_addn(t, "\"", 1);
	text_add(t, f->clock);
	text_addn(t, ".", 1);
	text_addn(t, out, digits);
	text_addn(t, "Z\"", 2);
}

/* Envoy's RESPONSE_CODE_DETAILS, as far as our flags tell. */
static void put_details(struct text *t, const struct access_field *fd, const struct view *v)
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
	struct text details = {0};

	if (denied_here(v)) {
		text_add(&details, "rbac_access_denied_matched_policy[");
		text_addn(&details, v->s[AS_policy], v->n[AS_policy]);
		text_add(&details, "]");
		put_strn(t, fd, details.s ? details.s : "", details.len);
		text_finish(&details);
		return;
	}
	for (uint32_t i = 0; i < ARRAY_LEN(by_flag); i++) {
		if (flag_has(v, by_flag[i][0])) {
			put_word(t, fd, by_flag[i][1]);
			return;
		}
	}
	put_word_or_null(t, fd, v->w.status >= 200 && v->w.status < 300 ? "via_upstream" : NULL);
}

static void put_field(struct access_format *f, struct text *t, const struct access_field *fd, const struct view *v)
{
	const bool flip = v->w.dir == ACCESS_INBOUND; /* the peer agent is downstream */
	const bool uf = fd->what >= W_TERMINATION && flag_has(v, "UF");

	switch ((enum access_what)fd->what) {
	case W_STR: put_str(t, fd, v->s[fd->str], v->n[fd->str], f->kind == ACCESS_ENVOY); break;
	case W_TIME: put_time(f, t, fd, v->w.start_us + v->w.duration_us, 6); break;
	case W_START: put_time(f, t, fd, v->w.start_us, 3); break;
	case W_LEVEL: put_word(t, fd, v->w.ok ? "info" : is_denied(v) ? "warn" : "error"); break;
	case W_SCOPE: put_word(t, fd, "access"); break;
	case W_MESSAGE: put_word(t, fd, v->w.ok ? "connection complete" : "connection failed"); break;
	case W_NODE:
		if (f->node_id)
			put_strn(t, fd, f->node_id, strlen(f->node_id));
		break;
	case W_CONN: put_u64(t, fd, v->w.conn_id); break;
	case W_DIRECTION: put_word(t, fd, dir_str(v->w.dir)); break;
	case W_TLS: put_literal(t, fd, v->w.tls ? "true" : "false"); break;
	case W_TUNNEL: put_number(t, fd, v->w.tunnel_id); break;
	case W_STREAM: put_number(t, fd, v->w.stream_id); break;
	case W_STATUS: put_number(t, fd, v->w.status); break;
	case W_STATUS_OR_0: put_u64(t, fd, v->w.status); break;
	case W_SENT: put_u64(t, fd, v->w.bytes_sent); break;
	case W_RECV: put_u64(t, fd, v->w.bytes_recv); break;
	case W_TO_PEER: put_u64(t, fd, flip ? v->w.bytes_recv : v->w.bytes_sent); break;
	case W_FROM_PEER: put_u64(t, fd, flip ? v->w.bytes_sent : v->w.bytes_recv); break;
	case W_DURATION_US: put_u64(t, fd, v->w.duration_us); break;
	case W_DURATION_MS: put_u64(t, fd, v->w.duration_us / 1000); break;
	case W_DURATION_TEXT:
		key(t, fd);
		text_addn(t, "\"", 1);
		add_u64(t, v->w.duration_us / 1000);
		text_addn(t, "ms\"", 3);
		break;
	case W_OPEN_US: put_number(t, fd, v->w.open_us); break;
	case W_QUEUE_US: put_u64(t, fd, v->w.queue_us); break;
	case W_MISMATCH:
		if (v->w.mismatch)
			put_literal(t, fd, "true");
		break;
	case W_METHOD: put_word_or_null(t, fd, v->s[AS_hbone_addr] ? "CONNECT" : NULL); break;
	case W_PROTOCOL: put_word_or_null(t, fd, flip || v->w.dir == ACCESS_FORWARD ? "HTTP/2" : NULL); break;
	case W_DETAILS: put_details(t, fd, v); break;
	case W_TERMINATION: put_str(t, fd, uf ? NULL : v->s[AS_error], v->n[AS_error], true); break;
	case W_TRANSPORT_FAILURE: put_str(t, fd, uf ? v->s[AS_error] : NULL, v->n[AS_error], true); break;
	case W_NULL: put_literal(t, fd, "null"); break;
	}
}

void access_format_line(struct access_format *f, const void *rec, struct text *out)
{
	struct view v;

	view_open(&v, f, rec);
	text_addn(out, "{", 1);
	for (uint32_t i = 0; i < f->n_fields; i++)
		put_field(f, out, f->fields[i], &v);
	text_addn(out, "}\n", 2);
}
