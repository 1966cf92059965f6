/*
 * node: who we are and what we tell peers. Values may come from the environment or from a file; both are read once, here, so
 * that a worker never does it.
 */
#include "adit/meta.h"
#include "base/clean.h"
#include "config/build.h"
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static const char *const workload_types[] = {"deployment", "cronjob", "job", "pod", NULL};

/* ---- values ---- */

/* spaces and tabs off both ends; what is left must fit a header field */
static int value_keep(struct build *b, const struct tree_node *n, const struct where *w, const char *s, size_t len,
		      const char **ret)
{
	size_t i;

	while (len && (s[0] == ' ' || s[0] == '\t')) {
		s++;
		len--;
	}
	while (len && (s[len - 1] == ' ' || s[len - 1] == '\t' || s[len - 1] == '\r'))
		len--;
	if (!len)
		return say_at(b->err, n, w, "is empty");
	if (len > BUILD_VALUE)
		return say_at(b->err, n, w, "%zu bytes are too many, at most %u", len, BUILD_VALUE);
	for (i = 0; i < len; i++)
		if ((uint8_t)s[i] < 0x20 || s[i] == 0x7f)
			return say_at(b->err, n, w, "byte 0x%02x at offset %zu cannot be sent", (uint8_t)s[i], i);
	*ret = arena_text(&b->own->arena, s, len);
	return *ret ? 0 : say_no_memory(b->err);
}

static int from_env(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	struct where in = {.up = w, .key = "env"};
	char q[SAY_QUOTED];
	const char *name, *v;
	int r = value_text(b, n, &in, BUILD_TEXT, &name);

	if (r < 0)
		return r;
	v = getenv(name);
	if (!v)
		return say_at(b->err, n, &in, "environment variable %s is not set", say_quote(q, name, strlen(name)));
	return value_keep(b, n, &in, v, strlen(v), ret);
}

static int from_file(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	struct where in = {.up = w, .key = "file"};
	char line[BUILD_VALUE + 2], q[SAY_QUOTED], *end;
	const char *name;
	struct stat st;
	ssize_t got;
	int r = value_file(b, n, &in, &name);

	if (r < 0)
		return r;
	AUTO_FD fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	if (fd < 0 || fstat(fd, &st) < 0)
		return say_at(b->err, n, &in, "%s: %s", say_quote(q, name, strlen(name)), strerror(errno));
	if (!S_ISREG(st.st_mode))
		return say_at(b->err, n, &in, "%s is no file", say_quote(q, name, strlen(name)));
	got = read(fd, line, sizeof(line));
	if (got < 0)
		return say_at(b->err, n, &in, "%s: %s", say_quote(q, name, strlen(name)), strerror(errno));
	end = memchr(line, '\n', (size_t)got);
	return value_keep(b, n, &in, line, end ? (size_t)(end - line) : (size_t)got, ret);
}

/* text, {env: NAME} or {file: PATH} */
static int value_any(struct build *b, const struct tree_node *n, const struct where *w, const char **ret)
{
	const struct tree_entry *env = tree_get(n, "env"), *file = tree_get(n, "file");

	if (n->kind == TREE_SCALAR && tree_null(n))
		return say_at(b->err, n, w, "has no value: want a text, {env: NAME} or {file: PATH}");
	if (n->kind == TREE_SCALAR)
		return value_keep(b, n, w, n->text, n->n, ret);
	if (n->kind != TREE_MAP || n->n != 1 || (!env && !file))
		return say_at(b->err, n, w, "want a text, {env: NAME} or {file: PATH}");
	return env ? from_env(b, env->value, w, ret) : from_file(b, file->value, w, ret);
}

/* ---- keys and values ---- */

static bool token(const char *s)
{
	const char *p;

	for (p = s; *p; p++)
		if (!((*p >= 'a' && *p <= 'z') || (*p >= 'A' && *p <= 'Z') || (*p >= '0' && *p <= '9') ||
		      strchr("!#$%&'*+-.^_`|~", *p)))
			return false;
	return p != s && p - s <= 128;
}

static void lower(char *s)
{
	for (; *s; s++)
		if (*s >= 'A' && *s <= 'Z')
			*s += 'a' - 'A';
}

/* why a header must not be configured; NULL: it may */
static const char *header_refused(const char *name)
{
	static const char *const connection[] = {
		"connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade",
		"te",	      "host",	    "content-length",	"trailer",	     NULL};
	static const char *const ours[] = {META_BAGGAGE,       META_FORWARDED,	      META_TRACEPARENT,
					   META_PEER_METADATA, META_PEER_METADATA_ID, NULL};
	int i;

	if (name[0] == ':')
		return "pseudo-headers cannot be set";
	if (!token(name))
		return "no header name: want letters, digits and - _ .";
	for (i = 0; connection[i]; i++)
		if (!strcmp(name, connection[i]))
			return "this header belongs to the connection and is not allowed in HTTP/2 CONNECT";
	for (i = 0; ours[i]; i++)
		if (!strcmp(name, ours[i]))
			return "Adit writes this header itself (see node.send)";
	return NULL;
}

static int kvs_read(struct build *b, const struct tree_node *n, const struct where *w, bool headers,
		    struct cfg_kv **ret, uint32_t *ret_n)
{
	const struct tree_entry *e;
	const char *refused;
	struct cfg_kv *all;
	uint32_t i = 0, j;
	char *key;
	int r;

	if (n->kind != TREE_MAP)
		return say_at(b->err, n, w, "want a mapping (name: value), not %s", tree_kind_str(n));
	if (n->n > BUILD_HEADERS)
		return say_at(b->err, n, w, "%u entries are too many, at most %u", n->n, BUILD_HEADERS);
	all = arena_array(&b->own->arena, n->n, sizeof(*all));
	if (!all)
		return say_no_memory(b->err);
	for (e = n->first; e; e = e->next, i++) {
		struct where in = {.up = w, .key = e->key->text};

		key = arena_text(&b->own->arena, e->key->text, e->key->n);
		if (!key)
			return say_no_memory(b->err);
		if (headers)
			lower(key);
		refused = headers      ? header_refused(key)
			  : token(key) ? NULL
				       : "no metadata name: want letters, digits and - _ .";
		if (refused)
			return say_at(b->err, e->key, &in, "%s", refused);
		for (j = 0; j < i; j++)
			if (!strcmp(all[j].key, key))
				return say_at(b->err, e->key, &in, "header '%s' is here twice (case does not matter)",
					      key);
		all[i].key = key;
		r = value_any(b, e->value, &in, &all[i].value);
		if (r < 0)
			return r;
	}
	*ret = all;
	*ret_n = i;
	return 0;
}

int node_metadata_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_node *node = base;

	return kvs_read(b, n, w, false, &node->metadata, &node->n_metadata);
}

int node_request_headers_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_node *node = base;

	return kvs_read(b, n, w, true, &node->request_headers, &node->n_request_headers);
}

int node_response_headers_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_node *node = base;

	return kvs_read(b, n, w, true, &node->response_headers, &node->n_response_headers);
}

int node_workload_type_read(struct build *b, const struct tree_node *n, const struct where *w, void *base)
{
	struct cfg_node *node = base;
	uint32_t i;
	int r = value_enum(b, n, w, workload_types, &i);

	if (r >= 0)
		node->workload_type = workload_types[i];
	return r;
}

/* ---- tables ---- */

int node_text_read(struct build *b, const struct tree_node *n, const struct where *w, void *to)
{
	return value_any(b, n, w, to);
}

#define TEXT(name, member)                                                                               \
	{                                                                                                \
		.key = name, .kind = F_CALL, .call = node_text_read, .off = offsetof(struct cfg_node, member) \
	}
#define BOOL(name, member)                                                            \
	{                                                                             \
		.key = name, .kind = F_BOOL, .off = offsetof(struct cfg_node, member) \
	}

static const struct field send_fields[] = {
	BOOL("baggage", send_baggage),
	BOOL("forwarded", send_forwarded),
	BOOL("traceparent", send_traceparent),
	BOOL("peer_metadata", send_peer_metadata),
	{.key = NULL},
};
static const struct table send_table = {.fields = send_fields};

static const struct field node_fields[] = {
	TEXT("id", id),
	TEXT("cluster", cluster),
	TEXT("namespace", namespace_),
	{.key = "workload_type", .kind = F_CALL, .call = node_workload_type_read},
	TEXT("workload", workload),
	TEXT("service", service),
	TEXT("version", version),
	TEXT("region", region),
	TEXT("zone", zone),
	{.key = "metadata", .kind = F_CALL, .call = node_metadata_read, .may_be_empty = true},
	{.key = "request_headers", .kind = F_CALL, .call = node_request_headers_read, .may_be_empty = true},
	{.key = "response_headers", .kind = F_CALL, .call = node_response_headers_read, .may_be_empty = true},
	{.key = "send", .kind = F_MAP, .table = &send_table, .may_be_empty = true},
	{.key = NULL},
};
const struct table node_table = {.fields = node_fields};

void node_preset(struct cfg_node *n)
{
	n->send_baggage = n->send_forwarded = n->send_traceparent = true;
}

int node_finish(struct build *b)
{
	char host[256] = "";

	if (b->c->node.id)
		return 0;
	if (gethostname(host, sizeof(host) - 1) < 0 || !host[0])
		strcpy(host, "localhost");
	b->c->node.id = arena_text(&b->own->arena, host, strlen(host));
	return b->c->node.id ? 0 : say_no_memory(b->err);
}
