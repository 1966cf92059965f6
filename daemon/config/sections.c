/* The flat sections: workers, mover, admin, log, access_log, identities, limits, timeouts. */
#include "base/clean.h"
#include "base/log.h"
#include "config/build.h"
#include "obs/access.h"
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

/* ---- limits, timeouts ---- */

#define LIMIT(name, member, lo, hi)                                                                          \
	{                                                                                                    \
		.key = name, .kind = F_U32, .off = offsetof(struct cfg_limits, member), .min = lo, .max = hi \
	}
#define BYTES(name, member, lo, hi)                                                                             \
	{                                                                                                       \
		.key = name, .kind = F_SIZE32, .off = offsetof(struct cfg_limits, member), .min = lo, .max = hi \
	}
#define WINDOW_MAX 0x7fffffffu /* RFC 9113 6.9.1 */

static const struct field rate_fields[] = {
	LIMIT("rst", rst_rate, 0, 1000000),
	LIMIT("ping", ping_rate, 0, 1000000),
	LIMIT("settings", settings_rate, 0, 1000000),
	LIMIT("empty_data", empty_data_rate, 0, 1000000),
	LIMIT("window_update", window_update_rate, 0, 100000000),
	LIMIT("glitch", glitch_rate, 0, 1000000),
	LIMIT("refused", refused_rate, 0, 1000000),
	{.key = NULL},
};
static const struct table rate_table = {.fields = rate_fields};

static const struct field limit_fields[] = {
	LIMIT("max_connections", max_connections, 1, 10000000),
	LIMIT("max_tunnels_in", max_tunnels_in, 1, 1000000),
	{.key = "memory",
	 .kind = F_SIZE64,
	 .off = offsetof(struct cfg_limits, memory),
	 .min = 1 << 20,
	 .max = 1ull << 44},
	BYTES("early_data", early_data, 1024, 16 << 20),
	BYTES("stream_window", stream_window, 1024, WINDOW_MAX),
	BYTES("stream_window_max", stream_window_max, 1024, WINDOW_MAX),
	BYTES("connection_window", connection_window, 65535, WINDOW_MAX),
	BYTES("max_frame_size", max_frame_size, 16384, 16777215),
	BYTES("header_bytes", header_bytes, 1024, 1 << 20),
	LIMIT("header_count", header_count, 8, 128),
	BYTES("metadata_bytes", metadata_bytes, 256, 1 << 20),
	LIMIT("recent", recent, 0, 1000000),
	{.key = "rates", .kind = F_MAP, .table = &rate_table, .may_be_empty = true},
	LIMIT("continuation_max", continuation_max, 1, 10000),
	{.key = "principals", .kind = F_CALL, .call = principals_read, .may_be_empty = true},
	{.key = "sources", .kind = F_CALL, .call = sources_read, .may_be_empty = true},
	{.key = NULL},
};
const struct table limits_table = {.fields = limit_fields};

void limits_preset(struct cfg_limits *l)
{
	*l = (struct cfg_limits){
		.max_connections = 100000,
		.max_tunnels_in = 4096,
		.memory = 256ull << 20,
		.early_data = 65536,
		.stream_window = 262144,
		.stream_window_max = 8 << 20,
		.connection_window = 16 << 20,
		.max_frame_size = 1 << 20,
		.header_bytes = 16384,
		.header_count = 64,
		.metadata_bytes = 8192,
		.recent = 1024,
		.rst_rate = 100,
		.ping_rate = 100,
		.settings_rate = 50,
		.empty_data_rate = 100,
		.window_update_rate = 10000,
		.glitch_rate = 100,
		.refused_rate = 500,
		.continuation_max = 20,
	};
}

/* what was not given follows what was; what was given must fit together */
int limits_finish(struct build *b)
{
	const struct tree_entry *e = tree_get(b->root, "limits");
	const struct tree_node *n = e ? e->value : NULL;
	const struct tree_entry *win = tree_get(n, "stream_window"), *most = tree_get(n, "stream_window_max"),
				*conn = tree_get(n, "connection_window");
	struct cfg_limits *l = &b->c->limits;

	if (most && l->stream_window > l->stream_window_max) {
		if (win)
			return say_at(b->err, most->value, &(struct where){.key = "limits"},
				      "stream_window_max (%u) is less than stream_window (%u)", l->stream_window_max,
				      l->stream_window);
		l->stream_window = l->stream_window_max;
	}
	if (!most && l->stream_window_max < l->stream_window)
		l->stream_window_max = l->stream_window;
	if (conn && l->connection_window < l->stream_window) {
		if (win || most)
			return say_at(b->err, conn->value, &(struct where){.key = "limits"},
				      "connection_window (%u) is less than stream_window (%u)", l->connection_window,
				      l->stream_window);
		l->stream_window = l->connection_window;
	}
	if (!conn && l->connection_window < l->stream_window)
		l->connection_window = l->stream_window;
	if (!most && l->stream_window_max > l->connection_window)
		l->stream_window_max = l->connection_window;
	return 0;
}

#define TIME(name, member, lo)                                                                       \
	{                                                                                            \
		.key = name, .kind = F_TIME, .off = offsetof(struct cfg_timeouts, member), .min = lo \
	}

static const struct field timeout_fields[] = {
	TIME("connect", connect_ms, 1), TIME("handshake", handshake_ms, 1),
	TIME("open", open_ms, 1),	TIME("idle", idle_ms, 0),
	TIME("ping", ping_ms, 0),	TIME("ping_timeout", ping_timeout_ms, 1),
	TIME("expiry_grace", expiry_grace_ms, 0),
	TIME("drain", drain_ms, 0),	{.key = NULL},
};
const struct table timeouts_table = {.fields = timeout_fields};

void timeouts_preset(struct cfg_timeouts *t)
{
	*t = (struct cfg_timeouts){
		.connect_ms = 10000,
		.handshake_ms = 10000,
		.open_ms = 15000,
		.idle_ms = 3600000,
		.ping_ms = 10000,
		.ping_timeout_ms = 20000,
		.expiry_grace_ms = 300000,
		.drain_ms = 5000,
	};
}

/* ---- drain: its deadline is timeouts.drain by another name ---- */

static const struct field drain_fields[] = {
	{.key = "quiet", .kind = F_TIME, .off = offsetof(struct config, drain.quiet_ms)},
	{.key = "within", .kind = F_TIME, .off = offsetof(struct config, timeouts.drain_ms)},
	{.key = "jitter", .kind = F_TIME, .off = offsetof(struct config, drain.jitter_ms)},
	{.key = NULL},
};
static const struct table drain_table = {.fields = drain_fields};

static int drain_finish(struct build *b)
{
	const struct tree_entry *t = tree_get(b->root, "timeouts"), *d = tree_get(b->root, "drain"), *within, *jitter;
	struct config *c = b->c;

	within = d && d->value->kind == TREE_MAP ? tree_get(d->value, "within") : NULL;
	jitter = d && d->value->kind == TREE_MAP ? tree_get(d->value, "jitter") : NULL;
	if (within && t && t->value->kind == TREE_MAP && tree_get(t->value, "drain"))
		return say_at(b->err, within->value, &(struct where){.key = "drain"}, "timeouts.drain says this, too: leave one of them out");
	if (!jitter)
		c->drain.jitter_ms = c->timeouts.drain_ms / 2;
	else if (c->drain.jitter_ms > c->timeouts.drain_ms)
		return say_at(b->err, jitter->value, &(struct where){.key = "drain"}, "jitter is longer than the whole drain (%llu ms)",
			      (unsigned long long)c->timeouts.drain_ms);
	return 0;
}

/* ---- workers ---- */

static uint32_t workers_auto(void)
{
	cpu_set_t set;
	int n = sched_getaffinity(0, sizeof(set), &set) < 0 ? 1 : CPU_COUNT(&set);

	return n < 1 ? 1 : n > 256 ? 256 : (uint32_t)n;
}

static int workers_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct config *c = base;
	char q[SAY_QUOTED];
	uint64_t v = 0;

	if (n->kind == TREE_SCALAR && !strcmp(n->text, "auto"))
		return 0;
	if (n->kind != TREE_SCALAR || !n->n || n->n > 3 || strspn(n->text, "0123456789") != n->n)
		return say_at(b->err, n, w, "%s: want auto, or a whole number from 1 to 256",
			      n->kind == TREE_SCALAR && n->n ? say_quote(q, n->text, n->n) : tree_kind_str(n));
	if (value_number(b, n, w, 1, 256, &v) < 0)
		return -EINVAL;
	c->workers = (uint32_t)v;
	return 0;
}

/* ---- admin ---- */

static bool empty_text(const struct tree_node *n)
{
	return n->kind == TREE_SCALAR && !n->plain && !n->n;
}

static int socket_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct config *c = base;
	int r;

	c->admin_socket = NULL;
	if (empty_text(n))
		return 0;
	r = value_file(b, n, w, &c->admin_socket);
	if (r >= 0 && strlen(c->admin_socket) >= sizeof(((struct sockaddr_un *)NULL)->sun_path))
		return say_at(b->err, n, w, "socket path too long: %zu bytes, at most 107", strlen(c->admin_socket));
	return r;
}

static int mode_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct config *c = base;
	char q[SAY_QUOTED];

	if (n->kind != TREE_SCALAR || n->n < 3 || n->n > 4 || strspn(n->text, "01234567") != n->n ||
	    (n->n == 4 && n->text[0] != '0'))
		return say_at(b->err, n, w, "%s: want a file mode as three octal digits, like \"0660\"",
			      n->kind == TREE_SCALAR ? say_quote(q, n->text, n->n) : tree_kind_str(n));
	c->admin_mode = (uint32_t)strtoul(n->text, NULL, 8);
	return 0;
}

static int metrics_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct config *c = base;

	c->metrics = (struct addr){.family = AF_UNSPEC};
	return empty_text(n) ? 0 : value_addr(b, n, w, &c->metrics);
}

static const struct field admin_fields[] = {
	{.key = "socket", .kind = F_CALL, .call = socket_read},
	{.key = "mode", .kind = F_CALL, .call = mode_read},
	{.key = "metrics", .kind = F_CALL, .call = metrics_read},
	{.key = NULL},
};
static const struct table admin_table = {.fields = admin_fields};

/* ---- log, access_log ---- */

static const char *const log_levels_known[] = {"error", "warn", "info", "debug", NULL};
static const char *const log_formats[] = {"text", "json", "journal", "auto", NULL};
static const char *const access_formats[] = {"native", "ztunnel", "envoy", NULL};
static const char *const movers[] = {"auto", "relay", NULL};

static int level_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct config *c = base;
	uint32_t i;
	int r = value_enum(b, n, w, log_levels_known, &i);

	if (r >= 0)
		c->log_level = (uint8_t)i;
	return r;
}

/* {AREA: LEVEL, ...} */
static int log_areas_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct config *c = base;

	if (n->kind != TREE_MAP)
		return say_at(b->err, n, w, "want AREA: LEVEL, for instance {tunnel: debug}, not %s", tree_kind_str(n));
	for (const struct tree_entry *e = n->first; e; e = e->next) {
		const struct where in = {.up = w, .key = e->key->text};
		int area = log_area_find(e->key->text), r;
		uint32_t level;

		if (area < 0)
			return say_at(b->err, e->key, &in, "unknown area; there are: main, config, admin, chain, tunnel, tls, net");
		r = value_enum(b, e->value, &in, log_levels_known, &level);
		if (r < 0)
			return r;
		c->log_areas[area] = (uint8_t)level;
	}
	return 0;
}

static const struct field log_fields[] = {
	{.key = "level", .kind = F_CALL, .call = level_read},
	{.key = "areas", .kind = F_CALL, .call = log_areas_read, .may_be_empty = true},
	{.key = "format", .kind = F_ENUM, .off = offsetof(struct config, log_format), .names = log_formats},
	{.key = NULL},
};
static const struct table log_table = {.fields = log_fields};

static int access_path_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_access_log *a = base;

	if (n->kind == TREE_SCALAR && (!strcmp(n->text, "stdout") || !strcmp(n->text, "stderr")))
		return value_text(b, n, w, BUILD_TEXT, &a->path);
	return value_file(b, n, w, &a->path);
}

static int access_fields_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_access_log *a = base;

	return schema_texts(b, n, w, &a->fields, &a->n_fields);
}

static const struct field access_log_fields[] = {
	{.key = "path", .kind = F_CALL, .call = access_path_read},
	{.key = "format", .kind = F_ENUM, .off = offsetof(struct cfg_access_log, format), .names = access_formats},
	{.key = "fields", .kind = F_CALL, .call = access_fields_read, .may_be_empty = true},
	{.key = NULL},
};
static const struct table access_log_table = {.fields = access_log_fields};

static int access_log_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_access_log *a = &((struct config *)base)->access_log;
	const struct tree_entry *fields = tree_get(n, "fields"), *e;
	struct where in = {.up = w, .key = "fields"};
	char q[SAY_QUOTED];
	const char *unknown;
	uint32_t i = 0;
	int r;

	a->enabled = true;
	a->path = "stdout";
	r = schema_read(b, &access_log_table, 0, n, w, a);
	if (r < 0 || !a->n_fields)
		return r;
	unknown = access_fields_known(a->format, a->fields, a->n_fields);
	if (!unknown)
		return 0;
	/* the list may be a single text */
	if (fields->value->kind != TREE_LIST)
		return say_at(b->err, fields->value, &in, "format %s has no field %s", access_formats[a->format],
			      say_quote(q, unknown, strlen(unknown)));
	for (e = fields->value->first; e->next && strcmp(e->value->text, unknown) != 0; e = e->next)
		i++;
	in.item = true;
	in.index = i;
	return say_at(b->err, e->value, &in, "format %s has no field %s", access_formats[a->format],
		      say_quote(q, unknown, strlen(unknown)));
}

/* ---- identities ---- */

/* the TLS 1.3 suites of tunnels (those that tls/seal.h knows) under both their names; wolfSSL is given its own */
static const char *const suites[][2] = {
	{"TLS_AES_128_GCM_SHA256", "TLS13-AES128-GCM-SHA256"},
	{"TLS_AES_256_GCM_SHA384", "TLS13-AES256-GCM-SHA384"},
	{"TLS_CHACHA20_POLY1305_SHA256", "TLS13-CHACHA20-POLY1305-SHA256"},
};
#define SUITES_DEFAULT "TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384"

static int ciphers_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_identity *id = base;
	char all[256] = "", one[64], q[SAY_QUOTED], guess[96];
	const char *s, *next;
	struct guess g;
	size_t at = 0, i;
	int r = value_text(b, n, w, 200, &s);

	for (; r >= 0 && s; s = next ? next + 1 : NULL) {
		next = strchr(s, ':');
		snprintf(one, sizeof(one), "%.*s", next ? (int)(next - s) : 63, s);
		guess_begin(&g, one);
		for (i = 0; i < ARRAY_LEN(suites); i++) {
			if (!strcmp(one, suites[i][0]) || !strcmp(one, suites[i][1]))
				break;
			guess_try(&g, suites[i][0]);
		}
		if (i == ARRAY_LEN(suites))
			return say_at(b->err, n, w, "%s is no cipher suite of tunnels%s", say_quote(q, one, strlen(one)),
				      guess_text(&g, guess, sizeof(guess)));
		if (strstr(all, suites[i][1]))
			return say_at(b->err, n, w, "%s is here twice", say_quote(q, one, strlen(one)));
		at += (size_t)snprintf(all + at, sizeof(all) - at, "%s%s", at ? ":" : "", suites[i][1]);
	}
	if (r < 0)
		return r;
	id->ciphers = arena_text(&b->own->arena, all, at);
	return id->ciphers ? 0 : say_no_memory(b->err);
}

static int trust_domain_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_identity *id = base;
	char q[SAY_QUOTED];
	int r = value_text(b, n, w, 255, &id->trust_domain);

	if (r >= 0 && strspn(n->text, "abcdefghijklmnopqrstuvwxyz0123456789.-_") != n->n)
		return say_at(b->err, n, w, "%s: want a trust domain: lower-case letters, digits and . - _",
			      say_quote(q, n->text, n->n));
	return r;
}

/* readable now; what is in it is TLS's business */
static int pem_check(struct build *b, const struct tree_node *n, const struct where *w, const char *path)
{
	char q[SAY_QUOTED];
	struct stat st;

	if (b->running)
		return 0;
	say_quote(q, path, strlen(path));
	if (stat(path, &st) < 0)
		return say_at(b->err, n, w, "%s: %s", q, strerror(errno));
	if (!S_ISREG(st.st_mode))
		return say_at(b->err, n, w, "%s is no file", q);
	if (access(path, R_OK) < 0)
		return say_at(b->err, n, w, "%s: %s", q, strerror(errno));
	return 0;
}

#define PEM_FIELD(name)                                                                                       \
	static int name##_read(struct build *b, const struct tree_node *n, const struct where *w, void *base) \
	{                                                                                                     \
		struct cfg_identity *id = base;                                                               \
		int r = value_file(b, n, w, &id->name);                                                       \
                                                                                                              \
		return r < 0 ? r : pem_check(b, n, w, id->name);                                              \
	}
PEM_FIELD(certificate)
PEM_FIELD(key)
PEM_FIELD(ca)
PEM_FIELD(crl)

static const char *const rotates[] = {[ROTATE_REPLACED] = "replaced", [ROTATE_EXPIRY] = "expiry", NULL};

static const struct field identity_fields[] = {
	{.key = "name", .kind = F_KNOWN, .required = true},
	{.key = "certificate", .kind = F_CALL, .call = certificate_read, .required = true},
	{.key = "key", .kind = F_CALL, .call = key_read, .required = true},
	{.key = "ca", .kind = F_CALL, .call = ca_read, .required = true},
	{.key = "crl", .kind = F_CALL, .call = crl_read},
	{.key = "rotate", .kind = F_ENUM, .off = offsetof(struct cfg_identity, rotate), .names = rotates},
	{.key = "trust_domain", .kind = F_CALL, .call = trust_domain_read},
	{.key = "ciphers", .kind = F_CALL, .call = ciphers_read},
	{.key = NULL},
};
static const struct table identity_table = {.fields = identity_fields};

int identities_read(struct build *b)
{
	struct config *c = b->c;
	uint32_t i, j;
	int r;

	c->identities = arena_array(&b->own->arena, b->identities.n, sizeof(*c->identities));
	if (!c->identities)
		return say_no_memory(b->err);
	c->n_identities = b->identities.n;
	for (i = 0; i < c->n_identities; i++) {
		j = b->identities.sorted[i].index;
		c->identities[j].name = b->identities.sorted[i].name;
	}
	for (i = 0; i < c->n_identities; i++) {
		struct cfg_identity *id = &c->identities[i];
		struct where w = {.key = "identities", .item = true, .index = i, .name = id->name};

		id->ciphers = SUITES_DEFAULT;
		r = schema_read(b, &identity_table, 0, b->identities.at[i], &w, id);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the top of the file ---- */

static int state_dir_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	*(const char **)to = NULL;
	return n->kind == TREE_SCALAR && !strcmp(n->text, "none") ? 0 : value_file(b, n, w, to);
}

static const struct field root_fields[] = {
	{.key = "node",
	 .kind = F_MAP,
	 .off = offsetof(struct config, node),
	 .table = &node_table,
	 .may_be_empty = true},
	{.key = "workers", .kind = F_CALL, .call = workers_read},
	{.key = "mover", .kind = F_ENUM, .off = offsetof(struct config, mover), .names = movers},
	{.key = "admin", .kind = F_MAP, .table = &admin_table, .may_be_empty = true},
	{.key = "log", .kind = F_MAP, .table = &log_table, .may_be_empty = true},
	{.key = "access_log", .kind = F_CALL, .call = access_log_read, .may_be_empty = true},
	{.key = "kernel",
	 .kind = F_MAP,
	 .off = offsetof(struct config, kernel),
	 .table = &kernel_table,
	 .may_be_empty = true},
	{.key = "limits",
	 .kind = F_MAP,
	 .off = offsetof(struct config, limits),
	 .table = &limits_table,
	 .may_be_empty = true},
	{.key = "timeouts",
	 .kind = F_MAP,
	 .off = offsetof(struct config, timeouts),
	 .table = &timeouts_table,
	 .may_be_empty = true},
	{.key = "drain", .kind = F_MAP, .table = &drain_table, .may_be_empty = true},
	{.key = "watch", .kind = F_BOOL, .off = offsetof(struct config, watch)},
	{.key = "watchdog", .kind = F_TIME, .off = offsetof(struct config, watchdog_ms)},
	{.key = "overload",
	 .kind = F_MAP,
	 .off = offsetof(struct config, overload),
	 .table = &overload_table,
	 .may_be_empty = true},
	{.key = "state_dir", .kind = F_CALL, .call = state_dir_read, .off = offsetof(struct config, state_dir)},
	{.key = "identities", .kind = F_KNOWN},
	{.key = "listeners", .kind = F_KNOWN},
	{.key = "clusters", .kind = F_KNOWN},
	{.key = "workloads", .kind = F_KNOWN},
	{.key = "policies", .kind = F_KNOWN},
	{.key = NULL},
};
static const struct table root_table = {.fields = root_fields};

int root_read(struct build *b)
{
	struct config *c = b->c;
	int r;

	c->workers = workers_auto();
	c->admin_socket = "/run/adit/admin.sock";
	c->admin_mode = 0660;
	c->state_dir = "/var/lib/adit";
	c->log_level = LOG_INFO;
	c->log_format = CFG_LOG_AUTO;
	memset(c->log_areas, UINT8_MAX, sizeof(c->log_areas));
	node_preset(&c->node);
	kernel_preset(&c->kernel);
	limits_preset(&c->limits);
	timeouts_preset(&c->timeouts);
	c->watchdog_ms = 10000;
	overload_preset(&c->overload);
	r = schema_read(b, &root_table, 0, b->root, NULL, c);
	if (r < 0)
		return r;
	for (uint32_t i = 0; i < LA_AREAS; i++)
		if (c->log_areas[i] == UINT8_MAX)
			c->log_areas[i] = c->log_level;
	r = node_finish(b);
	if (r >= 0)
		r = drain_finish(b);
	return r < 0 ? r : limits_finish(b);
}
