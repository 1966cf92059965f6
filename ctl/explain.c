/*
 * Why: `policy explain` asks what would become of a connection, `conn explain` what became of one. Both print the same tree: where it
 * enters, each listener and cluster with its routes and policies, where it leaves, by which tunnel, moved by what. Marks: [+] matches
 * or allows, [-] does not match, [x] decides against it.
 *
 * The texts contain what peers said: nothing of it reaches the terminal but characters.
 */
#include "base/clean.h"
#include "ctl.h"
#include "explain.h"
#include "http.h"
#include "human.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define EACH(list, i, o) for (size_t i = 0; i < json_array_size(list) && ((o) = json_array_get(list, i)); i++)

/* control characters become '?', in place; JSON has made sure that it is UTF-8 */
void explain_clean(struct text *t)
{
	for (size_t i = 0; t->s && i < t->len; i++) {
		unsigned char c = (unsigned char)t->s[i];

		if ((c < 0x20 && c != '\n') || c == 0x7f)
			t->s[i] = '?';
		else if (c == 0xc2 && i + 1 < t->len && (unsigned char)t->s[i + 1] < 0xa0)
			t->s[i] = t->s[i + 1] = '?';
	}
}

static const char *or_dash(const char *s)
{
	return *s ? s : "-";
}

/* ---- policies of one place ---- */

static void add_rule(struct text *out, const json_t *rule)
{
	const json_t *failed = json_object_get(rule, "failed"), *o;

	if (js_bool(rule, "matched")) {
		text_addf(out, "            rule %" PRIu64 " matches\n", js_u64(rule, "rule"));
		return;
	}
	EACH(failed, i, o)
		text_addf(out, "            rule %" PRIu64 ": %s\n", js_u64(rule, "rule"), json_string_value(o));
}

static void add_policy(struct text *out, const json_t *p)
{
	const json_t *rules = json_object_get(p, "rules"), *o;
	bool matched = js_bool(p, "matched"), deny = !strcmp(js_str(p, "action"), "deny"), dry = js_bool(p, "dry_run");

	text_addf(out, "        %s %s %s%s%s\n", !matched ? "[-]" : deny && !dry ? "[x]" : "[+]", js_str(p, "action"), js_str(p, "policy"),
		  dry ? " (dry run)" : "", js_bool(p, "decided") ? ", which decides" : "");
	if (*js_str(p, "why"))
		text_addf(out, "            %s\n", js_str(p, "why"));
	EACH(rules, i, o)
		add_rule(out, o);
}

static void add_dry(struct text *out, const json_t *policies)
{
	const json_t *list = json_object_get(policies, "dry_run"), *o;

	EACH(list, i, o)
		text_addf(out, "        dry run: %s would %s it\n", js_str(o, "by"), js_bool(o, "would_allow") ? "allow" : "deny");
	if (js_bool(policies, "dry_run_default_deny"))
		text_add(out, "        dry run: default-deny would deny it\n");
}

static void add_policies(struct text *out, const json_t *policies)
{
	const json_t *list = json_object_get(policies, "list"), *o;

	text_addf(out, "      policies: %s%s%s: %s\n", js_bool(policies, "allowed") ? "allowed" : "DENIED", *js_str(policies, "by") ? " by " : "",
		  js_str(policies, "by"), js_str(policies, "why"));
	EACH(list, i, o)
		add_policy(out, o);
	if (js_u64(policies, "left_out"))
		text_addf(out, "        %" PRIu64 " more that do not match\n", js_u64(policies, "left_out"));
	add_dry(out, policies);
}

/* ---- stages ---- */

static void add_target(struct text *out, const json_t *s)
{
	const char *l = js_str(s, "to_listener"), *c = js_str(s, "to_cluster");

	if (*l)
		text_addf(out, "listener '%s'", l);
	else if (*c)
		text_addf(out, "cluster '%s'%s", c, js_bool(s, "forward") ? ", the CONNECT is passed on" : "");
	else
		text_add(out, "nowhere");
}

static void add_routes(struct text *out, const json_t *s)
{
	const json_t *list = json_object_get(s, "routes"), *o;

	EACH(list, i, o)
	{
		if (js_bool(o, "matched"))
			continue;
		text_addf(out, "      [-] route %s: %s\n", js_str(o, "route"), js_str(o, "why"));
	}
	if (*js_str(s, "route"))
		text_addf(out, "      [+] route %s, to ", js_str(s, "route"));
	else
		text_add(out, json_array_size(list) ? "      [+] no route matches: the default, to " : "      [+] to ");
	add_target(out, s);
	text_add(out, "\n");
}

static void add_step(struct text *out, const json_t *s)
{
	const json_t *policies = json_object_get(s, "policies");

	if (!strcmp(js_str(s, "at"), "short-way")) {
		text_addf(out, "  [+] short way to listener '%s': %s\n", js_str(s, "name"), js_str(s, "why"));
		return;
	}
	text_addf(out, "  %s %s '%s'\n", policies && !js_bool(policies, "allowed") ? "[x]" : "[+]", js_str(s, "at"), js_str(s, "name"));
	add_policies(out, policies);
	if (!strcmp(js_str(s, "at"), "listener") && js_bool(policies, "allowed"))
		add_routes(out, s);
}

/* ---- where it leaves ---- */

static void add_endpoint(struct text *out, const json_t *e)
{
	const json_t *list = json_object_get(e, "addresses"), *o;

	text_addf(out, "      endpoint %s", js_str(e, "endpoint"));
	if (strcmp(js_str(e, "name"), "address") != 0) {
		text_addf(out, ", %s", js_str(e, "name"));
		EACH(list, i, o)
			text_addf(out, "%s%s", i ? ", " : ": ", json_string_value(o));
	}
	text_addf(out, "; %" PRIu64 " live, %" PRIu64 " failed of %" PRIu64 "\n", js_u64(e, "active"), js_u64(e, "failed"), js_u64(e, "total"));
}

static bool same(const json_t *a, const json_t *b, const char *key)
{
	return !strcmp(js_str(a, key), js_str(b, key));
}

/* workers that would do the same are one line */
static void add_workers(struct text *out, const json_t *list)
{
	size_t n = json_array_size(list);
	bool all = true;

	for (size_t i = 1; i < n; i++) {
		const json_t *a = json_array_get(list, 0), *b = json_array_get(list, i);

		all = all && same(a, b, "address") && same(a, b, "tunnel") && same(a, b, "first");
	}
	for (size_t i = 0; i < (all ? n > 0 : n); i++) {
		const json_t *w = json_array_get(list, i);

		text_add(out, "      ");
		if (!all)
			text_addf(out, "worker %" PRIu64 ": ", js_u64(w, "worker"));
		if (*js_str(w, "address"))
			text_addf(out, "takes %s", js_str(w, "address"));
		else
			text_addf(out, "%s", js_str(w, "first"));
		if (*js_str(w, "tunnel"))
			text_addf(out, ": %s", js_str(w, "tunnel"));
		text_add(out, "\n");
	}
	if (n && *js_str(json_array_get(list, 0), "short_way"))
		text_addf(out, "      not the short way: %s\n", js_str(json_array_get(list, 0), "short_way"));
}

static void add_cluster(struct text *out, const json_t *c)
{
	const json_t *list = json_object_get(c, "endpoints"), *e;

	if (!c)
		return;
	text_addf(out, "  leaves by cluster '%s' (%s)", js_str(c, "name"), js_str(c, "type"));
	if (*js_str(c, "balance"))
		text_addf(out, ", %s", js_str(c, "balance"));
	if (*js_str(c, "identity"))
		text_addf(out, ", as %s", js_str(c, "identity"));
	if (js_u64(c, "max_connections"))
		text_addf(out, ", %" PRIu64 " of %" PRIu64 " connections", js_u64(c, "connections"), js_u64(c, "max_connections"));
	text_add(out, "\n");
	if (!strcmp(js_str(c, "type"), "original_dst"))
		text_addf(out, "      to %s\n", *js_str(c, "goes_to") ? js_str(c, "goes_to") : js_str(c, "name"));
	EACH(list, i, e)
		add_endpoint(out, e);
	add_workers(out, json_object_get(c, "workers"));
}

static void add_movers(struct text *out, const json_t *list)
{
	const json_t *m;

	EACH(list, i, m)
		text_addf(out, "  %s %s: %s\n", js_bool(m, "may") ? "[+]" : "[-]", js_str(m, "mover"), or_dash(js_str(m, "why")));
}

static const char *verdict_text(const char *v)
{
	static const struct {
		const char *is, *text;
	} texts[] = {
		{"go", "goes through"},
		{"no-route", "REFUSED, no route"},
		{"denied", "DENIED"},
		{"loop", "REFUSED, a loop"},
		{"bad-request", "REFUSED, malformed"},
		{"identity", "REFUSED, identity"},
		{"limit", "REFUSED, limit"},
		{"elsewhere", "does not come to aditd"},
	};

	for (size_t i = 0; i < ARRAY_LEN(texts); i++)
		if (!strcmp(texts[i].is, v))
			return texts[i].text;
	return v;
}

static void add_way(struct text *out, const json_t *o)
{
	const json_t *entry = json_object_get(o, "entry"), *id = json_object_get(o, "identity"), *steps = json_object_get(o, "steps"), *s;

	if (*js_str(entry, "listener"))
		text_addf(out, "  enters by listener '%s' (%s): %s\n", js_str(entry, "listener"), js_str(entry, "how"), or_dash(js_str(entry, "why")));
	if (*js_str(entry, "note"))
		text_addf(out, "      note: %s\n", js_str(entry, "note"));
	if (id)
		text_addf(out, "  %s identity %s%s%s\n", js_bool(id, "accepted") ? "[+]" : "[x]", js_str(id, "principal"),
			  js_bool(id, "accepted") ? " is accepted" : ": ", js_str(id, "why"));
	EACH(steps, i, s)
		add_step(out, s);
	add_cluster(out, json_object_get(o, "cluster"));
	add_movers(out, json_object_get(o, "movers"));
}

static int print_clean(struct ctl *c, struct text *out)
{
	explain_clean(out);
	return ctl_print(c, out);
}

/* ---- policy explain ---- */

int explain_policy(struct ctl *c)
{
	struct text path = {0}, out = {0};
	json_t *o = NULL;
	int r;

	if (!c->dst && !c->listener && !c->authority)
		return ctl_usage(c, "explain: want --dst ADDRESS:PORT (or NAME:PORT), or --listener NAME");
	text_add(&path, ADIT_API_EXPLAIN);
	http_query(&path, "src", c->src);
	http_query(&path, "dst", c->dst);
	http_query(&path, "listener", c->listener);
	http_query(&path, "principal", c->principal);
	http_query(&path, "authority", c->authority);
	for (uint32_t i = 0; i < c->n_headers; i++)
		http_query(&path, "header", c->header[i]);
	for (uint32_t i = 0; i < c->n_members; i++)
		http_query(&path, "metadata", c->member[i]);
	r = text_ok(&path) ? ctl_call(c, "GET", path.s, NULL, &o) : ctl_fail(c, CTL_FAILED, "out of memory");
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	text_addf(&out, "%s%s%s\n", verdict_text(js_str(o, "verdict")), *js_str(o, "why") ? ": " : "", js_str(o, "why"));
	add_way(&out, o);
	json_decref(o);
	return print_clean(c, &out);
}

/* ---- conn explain ---- */

static void add_phase(struct text *out, const json_t *p, const char *key, const char *what)
{
	if (js_u64(p, key))
		text_addf(out, "  %-9s %s\n", js_time(p, key), what);
}

static void add_phases(struct text *out, const json_t *p)
{
	if (!p)
		return;
	text_add(out, "time\n");
	add_phase(out, p, "policy_us", "until its chain was known and the policies had decided");
	add_phase(out, p, "name_us", "looking up the endpoint's name");
	add_phase(out, p, "queue_us", "waiting for a tunnel");
	add_phase(out, p, "connect_us", "until the backend had accepted");
	add_phase(out, p, "answer_us", "until the peer agent had answered the CONNECT");
	add_phase(out, p, "open_us", "in all until it was open");
	add_phase(out, p, "first_byte_us", "more until the destination's first byte");
	if (!js_u64(p, "open_us"))
		text_add(out, "  it was never open\n");
}

/* what the kernel says beside what aditd knows */
static void add_socket(struct text *out, const char *side, const json_t *leg)
{
	const json_t *agent = json_object_get(leg, "agent"), *app = json_object_get(leg, "application");

	if (js_u64(agent, "total_retransmits"))
		text_addf(out, "  * %" PRIu64 " segments to the %s were sent again, %" PRIu64 " of them lost now: the path\n",
			  js_u64(agent, "total_retransmits"), side, js_u64(agent, "lost"));
	if (js_u64(app, "rqueue"))
		text_addf(out, "  * now: the application at the %s has %s unread\n", side, js_bytes(app, "rqueue"));
	if (js_u64(agent, "wqueue"))
		text_addf(out, "  * now: %s to the %s are not acknowledged\n", js_bytes(agent, "wqueue"), side);
}

static void add_slow(struct text *out, const json_t *o)
{
	const json_t *list = json_object_get(o, "slow"), *tcp = json_object_get(o, "tcp"), *s;
	size_t at = out->len;

	EACH(list, i, s)
		text_addf(out, "  * %s\n", json_string_value(s));
	add_socket(out, "source", json_object_get(tcp, "source"));
	add_socket(out, "destination", json_object_get(tcp, "destination"));
	if (out->len == at)
		text_add(out, "  nothing kept it waiting\n");
}

static void add_leg(struct text *out, const char *what, const json_t *o, const char *tunnel, const char *stream, const char *id)
{
	if (!js_u64(o, tunnel) && !*id)
		return;
	text_addf(out, "%s", what);
	if (js_u64(o, tunnel))
		text_addf(out, "tunnel %" PRIu64 ", stream %" PRIu64 "%s", js_u64(o, tunnel), js_u64(o, stream), *id ? ", " : "");
	text_addf(out, "%s\n", id);
}

static void add_head(struct text *out, const json_t *o)
{
	const json_t *end = json_object_get(o, "end");
	const char *to = *js_str(o, "authority") ? js_str(o, "authority") : js_str(o, "original_dst");

	text_addf(out, "connection %" PRIu64 ": ", js_u64(o, "id"));
	if (end)
		text_addf(out, "%s%s%s; ended by %s%s%s%s\n", js_str(end, "ending"), *js_str(end, "why") ? ": " : "", js_str(end, "why"),
			  js_str(end, "who"), *js_str(end, "flags") ? " (" : "", js_str(end, "flags"), *js_str(end, "flags") ? ")" : "");
	else
		text_addf(out, "%s for %s\n", js_str(o, "state"), js_time(o, "duration_us"));
	text_addf(out, "from    %s\n", or_dash(js_str(o, "src")));
	add_leg(out, "        ", o, "tunnel_in", "stream_in", js_str(o, "src_identity"));
	text_addf(out, "asked   %s\n", or_dash(to));
	text_addf(out, "chain   %s\n", or_dash(*js_str(o, "chain") ? js_str(o, "chain") : js_str(o, "listener")));
	if (*js_str(o, "policy"))
		text_addf(out, "policy  %s %s it\n", js_str(o, "policy"), *js_str(end, "policy") ? "denied" : "allowed");
	if (*js_str(o, "dst"))
		text_addf(out, "went to %s\n", js_str(o, "dst"));
	add_leg(out, "        ", o, "tunnel_out", "stream_out", js_str(o, "dst_identity"));
	if (json_object_get(o, "bytes_sent"))
		text_addf(out, "bytes   %s sent, %s received, in %s\n", js_bytes(o, "bytes_sent"), js_bytes(o, "bytes_recv"), js_time(o, "duration_us"));
}

int conn_explain(struct ctl *c, const char *id)
{
	struct text out = {0};
	const json_t *now;
	json_t *o = NULL;
	char path[64];
	int r;

	snprintf(path, sizeof(path), "%s%s", ADIT_API_EXPLAIN_CONN, id);
	r = ctl_call(c, "GET", path, NULL, &o);
	if (r != CTL_OK || !o)
		return r;
	add_head(&out, o);
	add_phases(&out, json_object_get(o, "phases"));
	if (json_object_get(o, "slow")) {
		text_add(&out, "slow?\n");
		add_slow(&out, o);
	}
	if (*js_str(o, "mover"))
		text_addf(&out, "mover   %s%s%s\n", js_str(o, "mover"), *js_str(o, "mover_why") ? ", no faster one: " : "", js_str(o, "mover_why"));
	now = json_object_get(o, "now");
	if (json_is_object(now)) {
		text_addf(&out, "such a connection now%s: %s%s%s\n", js_bool(o, "metadata_known") ? "" : " (the peer's metadata is not remembered)",
			  verdict_text(js_str(now, "verdict")), *js_str(now, "why") ? ": " : "", js_str(now, "why"));
		add_way(&out, now);
	} else {
		text_add(&out, "the listener by which it came is no more\n");
	}
	json_decref(o);
	return print_clean(c, &out);
}
