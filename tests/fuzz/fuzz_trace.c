/*
 * Live traces and what goes with them, from any bytes: what to follow, records as lines and JSON, headers without secrets, who a peer is by its
 * first bytes.
 */
/* fuzz: -max_len=2048 */
#include "codec/secret.h"
#include "obs/trace.h"
#include "tls/ctx.h"
#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static void ask(char *s)
{
	const char *const what[3][3] = {{s, NULL, NULL}, {NULL, s, NULL}, {NULL, NULL, s}};
	struct trace_filter f;
	struct err e;

	for (int i = 0; i < 3; i++) {
		memset(&f, 0xff, sizeof(f));
		memset(&e, 0, sizeof(e));
		if (trace_parse(what[i][0], what[i][1], what[i][2], NULL, &f, &e) < 0) {
			check(e.msg[0] && f.by == 0xff, "a refusal has a sentence and changes nothing");
			continue;
		}
		check(f.by == TRACE_BY_CONN ? i == 0 && f.conn : f.by == TRACE_BY_LISTENER ? i == 2 : i == 1, "it is what was asked for");
		check(f.by != TRACE_BY_ID || !strcmp(f.text, s), "ids are kept whole");
	}
	(void)trace_parse("1", NULL, NULL, s, &f, &e);
}

static void lines(const uint8_t *data, size_t size)
{
	struct trace_rec *r = calloc(1, sizeof(*r) + size);
	struct text line = {0}, json = {0};
	json_t *o;

	memcpy(r, data, size < sizeof(*r) ? size : sizeof(*r));
	r->kind %= TRACE_KINDS_N;
	r->at_us >>= 12; /* a year of four digits */
	r->what.a >>= 1;
	r->what.b >>= 1;
	r->what.conn >>= 1;
	r->len = (uint16_t)(size > sizeof(*r) ? size - sizeof(*r) : 0);
	if (r->len)
		memcpy(r->text, data + sizeof(*r), r->len);
	trace_line(&line, r);
	trace_json(&json, r);
	check(line.len && strchr(line.s, '\n') == line.s + line.len - 1, "one line");
	for (const char *p = line.s; p < line.s + line.len - 1; p++)
		check((unsigned char)*p >= 0x20 && *p != 0x7f, "no control characters");
	o = json_loadb(json.s, json.len, JSON_REJECT_DUPLICATES | JSON_ALLOW_NUL, NULL);
	if (!json_is_object(o))
		fprintf(stderr, "%s\n", json.s);
	check(json_is_object(o), "one JSON object");
	json_decref(o);
	text_finish(&line);
	text_finish(&json);
	free(r);
}

static void headers(const char *s, size_t n)
{
	struct header h[8];
	char out[600], small[16];
	size_t k = 0;

	for (size_t at = 0; k < 8 && at < n; k++) {
		size_t a = (unsigned char)s[at] % 32, b;

		at++;
		a = a < n - at ? a : n - at;
		b = n - at - a < 40 ? n - at - a : 40;
		h[k] = (struct header){{s + at, a}, {s + at + a, b}};
		at += a + b;
	}
	if (k)
		h[0].name = SLICE("baggage");
	trace_headers(out, sizeof(out), h, k);
	check(strlen(out) < sizeof(out), "cut");
	trace_headers(small, sizeof(small), h, k);
	check(strlen(small) < sizeof(small), "cut shorter");
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	char *s = malloc(size + 1);

	memcpy(s, data, size);
	s[size] = '\0';
	ask(s);
	lines(data, size);
	headers(s, size);
	(void)secret_name(s, size);
	(void)tls_foreign(data, size);
	(void)tls_unexpected(data, size);
	free(s);
	return 0;
}
