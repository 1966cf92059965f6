/* Live connections: list, show, kill. */
#include "base/clean.h"
#include "ctl.h"
#include "human.h"
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
	{.head = "MOVER"},
	{.head = "CHAIN", .shrink = true},
	{.head = "IDLE", .right = true, .wide = true},
	{.head = "BUFFERED", .right = true, .wide = true},
	{.head = "WHY", .wide = true},
	{.head = "BYPASSED", .right = true, .wide = true},
	{.head = "SPLICED", .right = true, .wide = true},
	{.head = "WORKER", .right = true, .wide = true},
	{.head = "ROUTE", .wide = true},
	{.head = "ORIGINAL-DST", .wide = true},
	{.head = "AUTHORITY", .wide = true},
	{.head = "WORKLOAD", .wide = true},
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

/* both directions together */
static const char *both(const json_t *o, const char *sent, const char *recv)
{
	static char out[HUMAN];

	return human_bytes(js_u64(o, sent) + js_u64(o, recv), out);
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
	table_add(t, js_str(o, "mover"));
	table_add(t, js_str(o, "chain"));
	table_add(t, js_time(o, "idle_us"));
	table_add(t, js_bytes(o, "buffered"));
	table_add(t, js_str(o, "mover_why"));
	table_add(t, both(o, "bypassed_sent", "bypassed_recv"));
	table_add(t, both(o, "spliced_sent", "spliced_recv"));
	table_addf(t, "%" PRIu64, js_u64(o, "worker"));
	table_add(t, js_str(o, "route"));
	table_add(t, js_str(o, "original_dst"));
	table_add(t, js_str(o, "authority"));
	table_add(t, js_str(o, "workload"));
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
	{"workload", "workload", SHOW_TEXT},
	{"workload_by", "workload known by", SHOW_TEXT},
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
	{"mover_why", "why no faster one", SHOW_TEXT},
	{"bypassed_sent", "bypassed, sent", SHOW_BYTES},
	{"bypassed_recv", "bypassed, received", SHOW_BYTES},
	{"bypass_refused", "bypass refused", SHOW_TEXT},
	{"spliced_sent", "spliced, sent", SHOW_BYTES},
	{"spliced_recv", "spliced, received", SHOW_BYTES},
	{"worker", "worker", SHOW_NUMBER},
};

static const struct table_col fact_cols[] = {{.head = "FACT"}, {.head = "VALUE"}};

static const char *delivers(const json_t *o)
{
	static char out[HUMAN];

	return human_bytes(js_u64(o, "delivery_bps") / 8, out);
}

/* what the kernel knows of one socket; @o null: it is none of this node, or gone */
static void put_socket(struct table *t, const char *label, const json_t *o)
{
	if (!json_is_object(o))
		return;
	table_add(t, label);
	table_addf(t, "%s > %s, %s, uid %" PRIu64, js_str(o, "local"), js_str(o, "remote"), js_str(o, "state"), js_u64(o, "uid"));
	table_add(t, "  path");
	table_addf(t, "rtt %s (least %s), %s, cwnd %" PRIu64 " x %" PRIu64 ", delivers %s/s", js_time(o, "rtt_us"), js_time(o, "min_rtt_us"),
		   *js_str(o, "congestion") ? js_str(o, "congestion") : "-", js_u64(o, "cwnd"), js_u64(o, "mss"), delivers(o));
	table_add(t, "  bytes");
	table_addf(t, "unread %s, unacknowledged %s, acknowledged %s, received %s, retransmitted %" PRIu64 ", lost %" PRIu64, js_bytes(o, "rqueue"),
		   js_bytes(o, "wqueue"), js_bytes(o, "acked_bytes"), js_bytes(o, "received_bytes"), js_u64(o, "total_retransmits"),
		   js_u64(o, "lost"));
}

static void put_tcp(struct table *t, const json_t *tcp)
{
	const json_t *from = json_object_get(tcp, "source"), *to = json_object_get(tcp, "destination");

	put_socket(t, "source, its end", json_object_get(from, "application"));
	put_socket(t, "source, our end", json_object_get(from, "agent"));
	put_socket(t, "destination, our end", json_object_get(to, "agent"));
	put_socket(t, "destination, its end", json_object_get(to, "application"));
}

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
	put_tcp(t, json_object_get(o, "tcp"));
	if (js_bool(o, "mismatch")) {
		table_add(t, "mismatch");
		table_add(t, "the peer's metadata contradicts its certificate; the certificate counts");
	}
}

static bool id_given(const char *s)
{
	return *s && strlen(s) <= 20 && strspn(s, "0123456789") == strlen(s);
}

static int conn_path(struct ctl *c, char out[64])
{
	const bool alone = c->n_words == 1 && id_given(c->word[0]);
	const char *id = alone ? c->word[0] : c->word[1];

	if (!alone && c->n_words != 2)
		return ctl_usage(c, "%s: want one connection id", c->word[0]);
	if (!id_given(id))
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
	text_addf(&out, "why it is so: aditctl conn explain %" PRIu64 "\n", js_u64(o, "id"));
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
	if (!strcmp(c->word[0], "show") || (c->n_words == 1 && id_given(c->word[0])))
		return conn_show(c);
	if (!strcmp(c->word[0], "kill"))
		return conn_kill(c);
	if (!strcmp(c->word[0], "explain")) {
		char path[64];
		int r = conn_path(c, path);

		return r == CTL_OK ? conn_explain(c, c->word[1]) : r;
	}
	return ctl_usage(c, "'%s': want list, show ID, explain ID or kill ID", c->word[0]);
}
