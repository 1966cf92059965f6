/* Live connections: list, show, kill. */
#include "base/clean.h"
#include "ctl.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

static const struct table_col cols[] = {
	{.head = "ID", .right = true},
	{.head = "STATE"},
	{.head = "SRC"},
	{.head = "DST"},
	{.head = "LEGS"},
	{.head = "PEER", .shrink = true, .tail = true},
	{.head = "METADATA", .shrink = true},
	{.head = "SENT", .right = true},
	{.head = "RECV", .right = true},
	{.head = "AGE", .right = true},
	{.head = "CHAIN", .shrink = true},
	{.head = "IDLE", .right = true, .wide = true},
	{.head = "BUFFERED", .right = true, .wide = true},
	{.head = "MOVER", .wide = true},
	{.head = "WORKER", .right = true, .wide = true},
	{.head = "ROUTE", .wide = true},
	{.head = "ORIGINAL-DST", .wide = true},
	{.head = "AUTHORITY", .wide = true},
	{.head = "SRC-IDENTITY", .wide = true},
	{.head = "DST-IDENTITY", .wide = true},
	{.head = "NODE", .wide = true},
};

/* "tcp" or tunnel/stream */
static void leg(char out[32], const json_t *o, const char *tunnel, const char *stream)
{
	if (js_u64(o, tunnel))
		snprintf(out, 32, "t%" PRIu64 "/%" PRIu64, js_u64(o, tunnel), js_u64(o, stream));
	else
		snprintf(out, 32, "tcp");
}

/* Who is at the other end of the tunnel: what the certificate says, else what the metadata claims. */
static const char *peer_of(const json_t *o)
{
	const char *id = js_u64(o, "tunnel_in") ? js_str(o, "src_identity") : js_str(o, "dst_identity");

	if (!*id)
		return js_str(o, "peer_id");
	return strncmp(id, "spiffe://", 9) ? id : id + 9;
}

static void put_conn(struct table *t, const json_t *o)
{
	char in[32], out[32];

	leg(in, o, "tunnel_in", "stream_in");
	leg(out, o, "tunnel_out", "stream_out");
	table_addf(t, "%" PRIu64, js_u64(o, "id"));
	table_add(t, js_str(o, "state"));
	table_add(t, js_str(o, "src"));
	table_add(t, js_str(o, "dst"));
	table_addf(t, "%s>%s", in, out);
	table_addf(t, "%s%s", js_bool(o, "mismatch") ? "MISMATCH " : "", *peer_of(o) ? peer_of(o) : "-");
	table_add(t, js_str(o, "metadata"));
	table_add(t, js_bytes(o, "bytes_sent"));
	table_add(t, js_bytes(o, "bytes_recv"));
	table_add(t, js_time(o, "age_us"));
	table_add(t, js_str(o, "chain"));
	table_add(t, js_time(o, "idle_us"));
	table_add(t, js_bytes(o, "buffered"));
	table_add(t, js_str(o, "mover"));
	table_addf(t, "%" PRIu64, js_u64(o, "worker"));
	table_add(t, js_str(o, "route"));
	table_add(t, js_str(o, "original_dst"));
	table_add(t, js_str(o, "authority"));
	table_add(t, js_str(o, "src_identity"));
	table_add(t, js_str(o, "dst_identity"));
	table_add(t, js_str(o, "peer_id"));
}

static int conn_list(struct ctl *c)
{
	struct text out = {0}, path = {0};
	const json_t *list;
	struct table t;
	json_t *o = NULL;
	size_t i;
	int r;

	text_add(&path, ADIT_API_CONNS);
	ctl_query(&path, c);
	r = text_ok(&path) ? ctl_call(c, "GET", path.s, NULL, &o) : ctl_fail(c, CTL_FAILED, "out of memory");
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	table_init(&t, cols, ARRAY_LEN(cols));
	list = json_object_get(o, "conns");
	for (i = 0; i < json_array_size(list); i++)
		put_conn(&t, json_array_get(list, i));
	if (i)
		table_print(&t, &out, c->width, c->output == OUT_WIDE);
	else
		text_addf(&out, "%s\n", js_u64(o, "total") ? "no connection matches" : "no connections");
	if (js_u64(o, "matched") > i)
		text_addf(&out, "%" PRIu64 " more; --limit 0 shows all\n", js_u64(o, "matched") - i);
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}

/* ---- show ---- */

static const struct {
	const char *key, *label;
	enum { SHOW_TEXT, SHOW_NUMBER, SHOW_BYTES, SHOW_TIME } how;
} facts[] = {
	{"id", "id", SHOW_NUMBER},
	{"state", "state", SHOW_TEXT},
	{"age_us", "age", SHOW_TIME},
	{"idle_us", "idle", SHOW_TIME},
	{"listener", "listener", SHOW_TEXT},
	{"chain", "chain", SHOW_TEXT},
	{"route", "route", SHOW_TEXT},
	{"src", "source", SHOW_TEXT},
	{"src_identity", "source identity", SHOW_TEXT},
	{"dst", "destination", SHOW_TEXT},
	{"dst_identity", "destination identity", SHOW_TEXT},
	{"original_dst", "original destination", SHOW_TEXT},
	{"authority", "authority", SHOW_TEXT},
	{"peer_id", "peer node", SHOW_TEXT},
	{"metadata", "peer metadata", SHOW_TEXT},
	{"bytes_sent", "sent", SHOW_BYTES},
	{"bytes_recv", "received", SHOW_BYTES},
	{"buffered", "buffered", SHOW_BYTES},
	{"mover", "mover", SHOW_TEXT},
	{"worker", "worker", SHOW_NUMBER},
};

static const struct table_col fact_cols[] = {{.head = "FACT"}, {.head = "VALUE"}};

static void put_facts(struct table *t, const json_t *o)
{
	char text[32];

	for (size_t i = 0; i < ARRAY_LEN(facts); i++) {
		table_add(t, facts[i].label);
		switch (facts[i].how) {
		case SHOW_TEXT: table_add(t, js_str(o, facts[i].key)); break;
		case SHOW_NUMBER: table_addf(t, "%" PRIu64, js_u64(o, facts[i].key)); break;
		case SHOW_BYTES:
			table_addf(t, "%s (%" PRIu64 " bytes)", js_bytes(o, facts[i].key), js_u64(o, facts[i].key));
			break;
		case SHOW_TIME: table_add(t, js_time(o, facts[i].key)); break;
		}
	}
	leg(text, o, "tunnel_in", "stream_in");
	table_add(t, "source leg");
	table_add(t, text);
	leg(text, o, "tunnel_out", "stream_out");
	table_add(t, "destination leg");
	table_add(t, text);
	if (js_bool(o, "mismatch")) {
		table_add(t, "mismatch");
		table_add(t, "the peer's metadata contradicts its certificate; the certificate counts");
	}
}

static int conn_path(struct ctl *c, char out[64])
{
	const char *id = c->word[1];

	if (c->n_words != 2)
		return ctl_usage(c, "%s: want one connection id", c->word[0]);
	if (!*id || strlen(id) > 20 || strspn(id, "0123456789") != strlen(id))
		return ctl_usage(c, "'%s' is no connection id; 'aditctl conn' shows them", id);
	snprintf(out, 64, "%s%s", ADIT_API_CONN, id);
	return CTL_OK;
}

static int conn_show(struct ctl *c)
{
	struct text out = {0};
	struct table t;
	char path[64];
	json_t *o = NULL;
	int r = conn_path(c, path);

	if (r == CTL_OK)
		r = ctl_call(c, "GET", path, NULL, &o);
	if (r != CTL_OK || !o)
		return r;
	table_init(&t, fact_cols, ARRAY_LEN(fact_cols));
	put_facts(&t, o);
	table_print(&t, &out, 0, false);
	table_finish(&t);
	json_decref(o);
	return ctl_print(c, &out);
}

static int conn_kill(struct ctl *c)
{
	struct text out = {0};
	char path[64];
	json_t *o = NULL;
	int r = conn_path(c, path);

	if (r == CTL_OK)
		r = ctl_call(c, "DELETE", path, NULL, &o);
	if (r != CTL_OK || !o)
		return r;
	json_decref(o);
	text_addf(&out, "connection %s closed\n", c->word[1]);
	return ctl_print(c, &out);
}

int cmd_conn(struct ctl *c)
{
	if (c->n_words == 0 || !strcmp(c->word[0], "list"))
		return c->n_words > 1 ? ctl_usage(c, "list: unexpected '%s'", c->word[1]) : conn_list(c);
	if (!strcmp(c->word[0], "show"))
		return conn_show(c);
	if (!strcmp(c->word[0], "kill"))
		return conn_kill(c);
	return ctl_usage(c, "'%s': want list, show ID or kill ID", c->word[0]);
}
