/* aditctl cert: identities, how long they last, what is wrong with them, and which tunnels use them. */
#include "base/clean.h"
#include "ctl.h"
#include "http.h"
#include "human.h"
#include "table.h"
#include <adit/admin.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const struct table_col cols[] = {
	{.head = "IDENTITY"},
	{.head = "STATE"},
	{.head = "SPIFFE-ID", .shrink = true, .tail = true},
	{.head = "SERIAL", .shrink = true},
	{.head = "ISSUER", .shrink = true, .tail = true},
	{.head = "LEFT", .right = true},
	{.head = "CAS", .right = true},
	{.head = "REVOKED", .right = true},
	{.head = "TUNNELS", .right = true},
	{.head = "OLD", .right = true},
	{.head = "FAILED", .right = true},
	{.head = "FILE", .shrink = true, .tail = true},
	{.head = "EXPIRES", .wide = true},
	{.head = "ROTATE", .wide = true},
	{.head = "KEY", .wide = true},
	{.head = "CA", .wide = true},
	{.head = "CRL", .wide = true},
	{.head = "FINGERPRINT", .wide = true},
};

/* "12d", "3h12m", "-4m05s" */
static const char *left_text(const json_t *o, char out[HUMAN + 1])
{
	int64_t s = (int64_t)json_integer_value(json_object_get(o, "seconds_left"));
	uint64_t abs = (uint64_t)(s < 0 ? -s : s);

	out[0] = '-';
	if (abs >= 3 * 86400)
		snprintf(out + 1, HUMAN, "%" PRIu64 "d", abs / 86400);
	else
		(void)human_time(abs * 1000000u, out + 1);
	return s < 0 ? out : out + 1;
}

static const char *date_text(uint64_t unix_s, char out[32])
{
	time_t s = (time_t)unix_s;
	struct tm tm;

	if (!unix_s || !gmtime_r(&s, &tm) || !strftime(out, 32, "%Y-%m-%d %H:%M:%SZ", &tm))
		return "-";
	return out;
}

static uint64_t revoked(const json_t *o)
{
	const json_t *list = json_object_get(o, "crls");
	uint64_t n = 0;

	for (size_t i = 0; i < json_array_size(list); i++)
		n += js_u64(json_array_get(list, i), "revoked");
	return n;
}

static uint64_t old_tunnels(const json_t *o)
{
	const json_t *list = json_object_get(o, "tunnels");
	uint64_t n = 0;

	for (size_t i = 0; i < json_array_size(list); i++)
		n += !js_bool(json_array_get(list, i), "current");
	return n;
}

static void put_row(struct table *t, const json_t *o)
{
	char left[HUMAN + 1], date[32];

	table_add(t, js_str(o, "identity"));
	table_add(t, js_str(o, "state"));
	table_add(t, js_str(o, "spiffe_id"));
	table_add(t, js_str(o, "serial"));
	table_add(t, js_str(o, "issuer"));
	table_add(t, left_text(o, left));
	table_addf(t, "%zu", json_array_size(json_object_get(o, "cas")));
	if (*js_str(o, "crl"))
		table_addf(t, "%" PRIu64, revoked(o));
	else
		table_add(t, NULL);
	table_addf(t, "%zu", json_array_size(json_object_get(o, "tunnels")));
	table_addf(t, "%" PRIu64, old_tunnels(o));
	table_addf(t, "%" PRIu64, js_u64(o, "reload_failures"));
	table_add(t, js_str(o, "certificate"));
	table_add(t, date_text(js_u64(o, "not_after"), date));
	table_add(t, js_str(o, "rotate"));
	table_add(t, js_str(o, "key"));
	table_add(t, js_str(o, "ca"));
	table_add(t, js_str(o, "crl"));
	table_add(t, js_str(o, "fingerprint"));
}

/* what needs attention, below the table as well as in what is said of one */
static void put_notes(struct text *out, const json_t *o)
{
	const json_t *notes = json_object_get(o, "notes");

	if (*js_str(o, "error"))
		text_addf(out, "! %s; what was loaded before stays in force\n", js_str(o, "error"));
	for (size_t i = 0; i < json_array_size(notes); i++)
		text_addf(out, "! %s\n", json_string_value(json_array_get(notes, i)));
}

static void list_all(const struct ctl *c, const json_t *list, struct text *out)
{
	struct table t;

	table_init(&t, cols, ARRAY_LEN(cols));
	for (size_t i = 0; i < json_array_size(list); i++)
		put_row(&t, json_array_get(list, i));
	table_print(&t, out, c->width, c->output == OUT_WIDE);
	table_finish(&t);
	for (size_t i = 0; i < json_array_size(list); i++)
		put_notes(out, json_array_get(list, i));
}

static void line(struct text *out, const char *what, const char *value)
{
	if (*value)
		text_addf(out, "%-14s %s\n", what, value);
}

static void show_one(const json_t *o, struct text *out)
{
	const json_t *cas = json_object_get(o, "cas"), *crls = json_object_get(o, "crls"), *tunnels = json_object_get(o, "tunnels");
	char left[HUMAN + 1], date[32];

	line(out, "identity", js_str(o, "identity"));
	line(out, "state", js_str(o, "state"));
	line(out, "spiffe id", js_str(o, "spiffe_id"));
	line(out, "trust domain", js_str(o, "trust_domain"));
	line(out, "serial", js_str(o, "serial"));
	line(out, "subject", js_str(o, "subject"));
	line(out, "issuer", js_str(o, "issuer"));
	line(out, "valid from", date_text(js_u64(o, "not_before"), date));
	text_addf(out, "%-14s %s, %s left\n", "expires", date_text(js_u64(o, "not_after"), date), left_text(o, left));
	line(out, "fingerprint", js_str(o, "fingerprint"));
	line(out, "certificate", js_str(o, "certificate"));
	line(out, "key", js_str(o, "key"));
	line(out, "ca", js_str(o, "ca"));
	line(out, "crl", js_str(o, "crl"));
	line(out, "rotate", js_str(o, "rotate"));
	text_addf(out, "%-14s %s; %" PRIu64 " times, %" PRIu64 " refused\n", "loaded", date_text(js_u64(o, "loaded"), date), js_u64(o, "loads"),
		  js_u64(o, "reload_failures"));
	put_notes(out, o);
	for (size_t i = 0; i < json_array_size(cas); i++) {
		const json_t *k = json_array_get(cas, i);

		text_addf(out, "%-14s %s, serial %s, until %s\n", "  ca", js_str(k, "subject"), js_str(k, "serial"),
			  date_text(js_u64(k, "not_after"), date));
	}
	for (size_t i = 0; i < json_array_size(crls); i++) {
		const json_t *k = json_array_get(crls, i);

		text_addf(out, "%-14s of %s, number %s, %" PRIu64 " revoked, next %s\n", "  crl", js_str(k, "issuer"),
			  *js_str(k, "number") ? js_str(k, "number") : "-", js_u64(k, "revoked"), date_text(js_u64(k, "next_update"), date));
	}
	for (size_t i = 0; i < json_array_size(tunnels); i++) {
		const json_t *k = json_array_get(tunnels, i);

		text_addf(out, "%-14s %" PRIu64 " (worker %" PRIu64 ") %s %s, %s, %" PRIu64 " streams%s%s\n", "  tunnel", js_u64(k, "id"),
			  js_u64(k, "worker"), !strcmp(js_str(k, "dir"), "in") ? "from" : "to", js_str(k, "peer"), js_str(k, "state"),
			  js_u64(k, "streams"), js_bool(k, "current") ? "" : ", older certificate ",
			  js_bool(k, "current") ? "" : js_str(k, "serial"));
	}
}

int cmd_cert(struct ctl *c)
{
	const char *name = c->n_words && strcmp(c->word[0], "list") != 0 ? c->word[0] : NULL;
	struct text out = {0}, path = {0};
	json_t *o = NULL;
	int r;

	text_add(&path, ADIT_API_CERTS);
	if (name)
		http_query(&path, "identity", name);
	if (!text_ok(&path))
		return ctl_fail(c, CTL_FAILED, "out of memory");
	r = ctl_call(c, "GET", path.s, NULL, &o);
	text_finish(&path);
	if (r != CTL_OK || !o)
		return r;
	if (!json_array_size(json_object_get(o, "certs")))
		text_add(&out, "no identities\n");
	else if (name)
		show_one(json_array_get(json_object_get(o, "certs"), 0), &out);
	else
		list_all(c, json_object_get(o, "certs"), &out);
	json_decref(o);
	return ctl_print(c, &out);
}
