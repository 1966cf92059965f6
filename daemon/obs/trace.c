/*
 * Live traces, for people. A record's text was made where the facts are; frames come as numbers and get their names here. Texts may hold
 * what a peer sent: control bytes are escaped, so that a trace cannot move the cursor of who watches it.
 */
#include "obs/trace.h"
#include "base/clean.h"
#include "base/log.h"
#include "codec/secret.h"
#include "codec/spiffe.h"
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

static const char *const kind_str[TRACE_KINDS_N] = {
#define X(id, name, level) [TRACE_##id] = name,
	TRACE_KINDS(X)
#undef X
};
static const char *const level_str[TL_LEVELS] = {[TL_EVENTS] = "events", [TL_FRAMES] = "frames", [TL_BYTES] = "bytes"};

const char *trace_kind_str(enum trace_kind k)
{
	return (unsigned int)k < TRACE_KINDS_N ? kind_str[k] : "?";
}

/* ---- what to follow ---- */

static int parse_conn(const char *s, struct trace_filter *f, struct err *reterr)
{
	uint64_t v = 0;
	const char *p = s;

	for (; *p >= '0' && *p <= '9' && v <= (UINT64_MAX - 9) / 10; p++)
		v = v * 10 + (uint64_t)(*p - '0');
	if (*p || p == s || !v)
		return err_set(reterr, -EINVAL, "connection '%.32s': want its id, a number that 'aditctl conn' shows", s);
	f->by = TRACE_BY_CONN;
	f->conn = v;
	return 0;
}

static int parse_peer(const char *s, struct trace_filter *f, struct err *reterr)
{
	size_t n = strlen(s);
	struct spiffe id;

	if (addr_parse(s, n, &f->addr, NULL) == 0 || addr_parse_ip(s, n, &f->addr, NULL) == 0) {
		f->by = TRACE_BY_ADDR;
		return 0;
	}
	if (n >= sizeof(f->text) || spiffe_parse(s, n, &id, NULL) < 0)
		return err_set(reterr, -EINVAL, "peer '%.64s': want an address, ADDRESS:PORT, or a SPIFFE id", s);
	f->by = TRACE_BY_ID;
	memcpy(f->text, s, n + 1);
	return 0;
}

int trace_parse(const char *conn, const char *peer, const char *listener, const char *level, struct trace_filter *ret, struct err *reterr)
{
	struct trace_filter f = {.by = TRACE_BY_NONE};
	int r = 0;

	if (!!conn + !!peer + !!listener != 1)
		return err_set(reterr, -EINVAL, "what is to be traced? One of conn, peer and listener");
	for (f.level = 0; level && f.level < TL_LEVELS && strcmp(level, level_str[f.level]); f.level++)
		;
	if (f.level == TL_LEVELS)
		return err_set(reterr, -EINVAL, "level '%.32s': want events, frames or bytes", level);
	if (conn) {
		r = parse_conn(conn, &f, reterr);
	} else if (peer) {
		r = parse_peer(peer, &f, reterr);
	} else if (!*listener || strlen(listener) >= sizeof(f.text)) {
		r = err_set(reterr, -EINVAL, "listener: want its name");
	} else {
		f.by = TRACE_BY_LISTENER;
		memcpy(f.text, listener, strlen(listener) + 1);
	}
	if (r == 0)
		*ret = f;
	return r;
}

/* ---- frames ---- */

static const char *const frame_str[] = {"DATA", "HEADERS", "PRIORITY", "RST_STREAM", "SETTINGS", "PUSH_PROMISE", "PING", "GOAWAY",
					"WINDOW_UPDATE", "CONTINUATION"};
enum { F_DATA, F_HEADERS, F_RST = 3, F_SETTINGS, F_PING = 6, F_GOAWAY, F_WINDOW, F_CONTINUATION };

static uint8_t frame_type(const struct trace_rec *r)
{
	return (uint8_t)(r->what.a >> 40);
}

static const char *type_str(const struct trace_rec *r, char out[16])
{
	uint8_t t = frame_type(r);

	if (t < ARRAY_LEN(frame_str))
		return frame_str[t];
	snprintf(out, 16, "type %u", t);
	return out;
}

static const char *flags_str(const struct trace_rec *r, char out[64])
{
	uint8_t f = (uint8_t)(r->what.a >> 32), t = frame_type(r);
	size_t n = 0;

	out[0] = '\0';
	if (f & 1)
		n += (size_t)snprintf(out + n, 64 - n, "%s", t == F_SETTINGS || t == F_PING ? "ACK" : "END_STREAM");
	if (f & 4)
		n += (size_t)snprintf(out + n, 64 - n, "%sEND_HEADERS", n ? "|" : "");
	if (f & 8)
		n += (size_t)snprintf(out + n, 64 - n, "%sPADDED", n ? "|" : "");
	if (f & 32)
		n += (size_t)snprintf(out + n, 64 - n, "%sPRIORITY", n ? "|" : "");
	if (f & 0xd2)
		snprintf(out + n, 64 - n, "%s%#x", n ? "|" : "", f & 0xd2);
	return out;
}

/* what the second number of a frame is */
static const char *frame_extra(const struct trace_rec *r)
{
	switch (frame_type(r)) {
	case F_DATA:
		return "window";
	case F_RST:
	case F_GOAWAY:
		return "code";
	case F_WINDOW:
		return "increment";
	}
	return NULL;
}

/* ---- lines ---- */

static void clock_str(uint64_t at_us, char out[48], bool date)
{
	time_t s = (time_t)(at_us / 1000000u);
	struct tm tm;
	size_t n;

	gmtime_r(&s, &tm);
	n = strftime(out, 32, date ? "%Y-%m-%dT%H:%M:%S" : "%H:%M:%S", &tm);
	snprintf(out + n, 48 - n, ".%06u%s", (unsigned int)(at_us % 1000000u), date ? "Z" : "");
}

static void add_shown(struct text *t, const char *s, size_t n)
{
	for (size_t i = 0, from = 0; i <= n; i++) {
		unsigned char c = i < n ? (unsigned char)s[i] : 0;

		if (i < n && c >= 0x20 && c != 0x7f && (c < 0x80 || c >= 0xa0))
			continue;
		text_addn(t, s + from, i - from);
		if (i < n)
			text_addf(t, "\\x%02x", c);
		from = i + 1;
	}
}

static const char *leg_str(const struct trace_rec *r)
{
	return r->what.side ? "destination" : "source";
}

void trace_line(struct text *t, const struct trace_rec *r)
{
	char at[48], type[16], flags[64];

	clock_str(r->at_us, at, false);
	text_add(t, at);
	if (r->what.conn)
		text_addf(t, " conn %" PRIu64, r->what.conn);
	if (r->what.tunnel)
		text_addf(t, " tunnel %u.%u", r->worker, r->what.tunnel);
	text_addf(t, " %s", trace_kind_str(r->kind));
	switch ((enum trace_kind)r->kind) {
	case TRACE_FRAME:
		text_addf(t, " %s %s", r->what.side ? "sent" : "received", type_str(r, type));
		if (*flags_str(r, flags))
			text_addf(t, " %s", flags);
		text_addf(t, ", %u bytes", (uint32_t)r->what.a);
		if (r->what.stream)
			text_addf(t, ", stream %u", r->what.stream);
		if (frame_extra(r))
			text_addf(t, ", %s %" PRIu64, frame_extra(r), r->what.b);
		break;
	case TRACE_READ:
	case TRACE_WRITE:
		text_addf(t, " %s %" PRIu64 " bytes", leg_str(r), r->what.a);
		break;
	case TRACE_OPEN: case TRACE_POLICY: case TRACE_ROUTE: case TRACE_DNS: case TRACE_DIAL: case TRACE_POOL: case TRACE_TUNNEL:
	case TRACE_TLS: case TRACE_HEADERS: case TRACE_ESTABLISHED: case TRACE_MOVER: case TRACE_HALF: case TRACE_RESET: case TRACE_END: case TRACE_NOTE:
	case TRACE_KINDS_N:
		break;
	}
	if (r->len) {
		text_add(t, " ");
		add_shown(t, r->text, r->len);
	}
	text_add(t, "\n");
}

void trace_json(struct text *t, const struct trace_rec *r)
{
	char at[48], type[16], flags[64];
	struct json j;

	clock_str(r->at_us, at, true);
	json_init(&j, t, false);
	json_open(&j, NULL, '{');
	json_str(&j, "time", at);
	json_u64(&j, "worker", r->worker);
	json_str(&j, "event", trace_kind_str(r->kind));
	if (r->what.conn)
		json_u64(&j, "conn", r->what.conn);
	if (r->what.tunnel)
		json_u64(&j, "tunnel", r->what.tunnel);
	if (r->what.stream)
		json_u64(&j, "stream", r->what.stream);
	if (r->kind == TRACE_FRAME) {
		json_str(&j, "direction", r->what.side ? "sent" : "received");
		json_str(&j, "type", type_str(r, type));
		json_str(&j, "flags", flags_str(r, flags));
		json_u64(&j, "length", (uint32_t)r->what.a);
		if (frame_extra(r))
			json_u64(&j, frame_extra(r), r->what.b);
	}
	if (r->kind == TRACE_READ || r->kind == TRACE_WRITE) {
		json_str(&j, "leg", leg_str(r));
		json_u64(&j, "bytes", r->what.a);
	}
	if (r->len)
		json_strn(&j, "text", r->text, r->len);
	json_close(&j, '}');
	text_add(t, "\n");
}

/* ---- headers ---- */

static size_t put(char *out, size_t max, size_t at, const char *s, size_t n)
{
	n = min_u64(n, at + 1 < max ? max - 1 - at : 0);
	memcpy(out + at, s, n);
	out[at + n] = '\0';
	return at + n;
}

/* baggage: "k=v,k=v": its members are judged one by one */
static size_t put_baggage(char *out, size_t max, size_t at, struct slice v)
{
	while (v.n) {
		const char *comma = memchr(v.p, ',', v.n);
		size_t n = comma ? (size_t)(comma - v.p) : v.n;
		const char *eq = memchr(v.p, '=', n);

		if (eq && secret_name(v.p, (size_t)(eq - v.p))) {
			at = put(out, max, at, v.p, (size_t)(eq - v.p) + 1);
			at = put(out, max, at, SECRET_SHOWN, strlen(SECRET_SHOWN));
		} else {
			at = put(out, max, at, v.p, n);
		}
		if (comma)
			at = put(out, max, at, ",", 1);
		v.p += n + !!comma;
		v.n -= n + !!comma;
	}
	return at;
}

char *trace_headers(char *out, size_t max, const struct header *h, size_t n)
{
	size_t at = 0;

	out[0] = '\0';
	for (size_t i = 0; i < n; i++) {
		if (i)
			at = put(out, max, at, ", ", 2);
		at = put(out, max, at, h[i].name.p, h[i].name.n);
		at = put(out, max, at, ": ", 2);
		if (secret_name(h[i].name.p, h[i].name.n))
			at = put(out, max, at, SECRET_SHOWN, strlen(SECRET_SHOWN));
		else if (slice_is(h[i].name, "baggage"))
			at = put_baggage(out, max, at, h[i].value);
		else
			at = put(out, max, at, h[i].value.p, h[i].value.n);
	}
	return out;
}
