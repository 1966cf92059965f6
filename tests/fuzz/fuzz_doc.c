/*
 * Policies as documents: arbitrary bytes as what `aditctl policy apply` sends. Beside sanitizer findings: what is taken apart and written is
 * read again as the same policies and written as the same text, and a difference has as many lines as its two sides.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "config/doc.h"

#define MUST(x)                                                      \
	do {                                                         \
		if (!(x)) {                                          \
			fprintf(stderr, "broken promise: %s\n", #x); \
			abort();                                     \
		}                                                    \
	} while (0)

static void write_all(struct text *out, const struct doc *d)
{
	text_add(out, "policies:\n");
	for (uint32_t i = 0; i < d->n; i++) {
		MUST(!strcmp(d->at[doc_find(d, d->at[i].name)].name, d->at[i].name));
		doc_put(out, &d->at[i]);
	}
	MUST(text_ok(out));
}

static void diff_check(const struct doc *d)
{
	struct text out = {0};
	uint32_t lines = 0, gone = 0, more = 0;

	doc_diff(&out, &d->at[0], &d->at[d->n - 1]);
	for (const char *s = out.s; s && *s; s = strchr(s, '\n') + 1) {
		gone += *s != '+';
		more += *s != '-';
	}
	for (uint32_t i = 0; i < d->at[0].n; i++)
		lines += d->at[0].text[i] == '\n';
	MUST(gone == lines);
	for (uint32_t i = lines = 0; i < d->at[d->n - 1].n; i++)
		lines += d->at[d->n - 1].text[i] == '\n';
	MUST(more == lines);
	text_finish(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n)
{
	struct text one = {0}, two = {0};
	struct err e = {""};
	struct doc d, again;

	if (doc_parse("f.yaml", (const char *)data, n, n & 1 ? DOC_APPLY : DOC_CONFIG, &d, &e) < 0) {
		MUST(e.msg[0] && !d.n && !d.own);
		return 0;
	}
	write_all(&one, &d);
	if (doc_parse("f.yaml", one.s, one.len, DOC_APPLY, &again, &e) < 0)
		fprintf(stderr, "%s\n%s\n", e.msg, one.s), abort();
	MUST(again.n == d.n);
	write_all(&two, &again);
	MUST(one.len == two.len && !memcmp(one.s, two.s, one.len));
	if (d.n)
		diff_check(&d);
	text_finish(&one);
	text_finish(&two);
	doc_finish(&d);
	doc_finish(&again);
	return 0;
}
