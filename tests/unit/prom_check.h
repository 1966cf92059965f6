/* A strict reader of the Prometheus text format, for tests: fails the test at the first line that a scraper would refuse. */
#pragma once
#include "base/text.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PROM_MAX 65536

struct prom {
	char *name[PROM_MAX]; /* "HELP family" and samples with their labels: all must be unique */
	size_t n;
	char family[128], type[16];
	bool help;	  /* HELP seen, TYPE expected */
	double last, inf; /* histogram: previous bucket, +Inf */
	bool bucket;
};

static inline size_t prom_name(const char *s)
{
	size_t n = 0;

	while (isalpha((unsigned char)s[n]) || s[n] == '_' || s[n] == ':' || (n && isdigit((unsigned char)s[n])))
		n++;
	return n;
}

static inline void prom_once(struct prom *p, const char *what, size_t n)
{
	for (size_t i = 0; i < p->n; i++)
		if (strlen(p->name[i]) == n && !memcmp(p->name[i], what, n))
			fail_msg("twice: %.*s", (int)n, what);
	assert_true(p->n < PROM_MAX);
	p->name[p->n++] = strndup(what, n);
}

static inline void prom_comment(struct prom *p, const char *line)
{
	bool help = !strncmp(line, "# HELP ", 7);
	const char *name = line + 7;
	size_t n = prom_name(name);

	if (!help && strncmp(line, "# TYPE ", 7))
		fail_msg("neither HELP nor TYPE: %s", line);
	if (n == 0 || name[n] != ' ')
		fail_msg("no name: %s", line);
	if (help) {
		prom_once(p, line, (size_t)(name - line) + n);
		snprintf(p->family, sizeof(p->family), "%.*s", (int)n, name);
		p->help = true;
		p->last = -1;
		p->bucket = false;
		return;
	}
	if (!p->help || strlen(p->family) != n || strncmp(p->family, name, n))
		fail_msg("TYPE without its HELP before: %s", line);
	snprintf(p->type, sizeof(p->type), "%s", name + n + 1);
	if (strcmp(p->type, "counter") && strcmp(p->type, "gauge") && strcmp(p->type, "histogram"))
		fail_msg("type: %s", line);
	if (!strcmp(p->type, "counter") && (n < 7 || strncmp(name + n - 6, "_total", 6)))
		fail_msg("a counter's name ends in _total: %s", line);
	p->help = false;
}

static inline const char *prom_labels(const char *s, const char *line)
{
	while (*s != '}') {
		size_t n = prom_name(s);

		if (n == 0 || strncmp(s + n, "=\"", 2))
			fail_msg("label: %s", line);
		s += n + 2;
		for (; *s != '"'; s++) {
			if (*s == '\0')
				fail_msg("open label value: %s", line);
			if (*s == '\\' && !strchr("\\\"n", *++s))
				fail_msg("escape: %s", line);
		}
		s++;
		if (*s == ',')
			s++;
		else if (*s != '}')
			fail_msg("after a label value: %s", line);
	}
	return s + 1;
}

static inline void prom_sample(struct prom *p, const char *line)
{
	size_t n = prom_name(line), fam = strlen(p->family);
	const char *s = line + n, *suffix = line + fam;
	char *end;
	double v;

	if (p->help || n < fam || strncmp(line, p->family, fam))
		fail_msg("outside its family %s: %s", p->family, line);
	if (*s == '{')
		s = prom_labels(s + 1, line);
	prom_once(p, line, (size_t)(s - line));
	if (*s != ' ')
		fail_msg("no blank before the value: %s", line);
	v = strtod(s + 1, &end);
	if (end == s + 1 || *end)
		fail_msg("value: %s", line);
	if (strcmp(p->type, "gauge") && v < 0)
		fail_msg("negative: %s", line);
	if (strcmp(p->type, "histogram")) {
		if (n != fam)
			fail_msg("outside its family %s: %s", p->family, line);
		return;
	}
	if (!strncmp(suffix, "_bucket{", 8)) {
		if (v < p->last)
			fail_msg("bucket is smaller than the one before: %s", line);
		p->last = v;
		p->bucket = strstr(line, "le=\"+Inf\"") != NULL;
		p->inf = v;
	} else if (!strncmp(suffix, "_count", 6)) {
		if (!p->bucket || v != p->inf)
			fail_msg("count is not the +Inf bucket: %s", line);
	} else if (strncmp(suffix, "_sum", 4)) {
		fail_msg("part of a histogram: %s", line);
	}
}

/** prom_check() - Return: the number of samples */
static inline size_t prom_check(const struct text *t)
{
	struct prom *p = calloc(1, sizeof(*p));
	char *copy, *line, *save;
	size_t samples = 0;

	assert_true(text_ok(t) && t->len > 0 && t->s[t->len - 1] == '\n');
	assert_null(strstr(t->s, "\n\n"));
	copy = strdup(t->s);
	for (line = strtok_r(copy, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		if (line[0] == '#') {
			prom_comment(p, line);
		} else {
			prom_sample(p, line);
			samples++;
		}
	}
	while (p->n)
		free(p->name[--p->n]);
	free(copy);
	free(p);
	return samples;
}

static inline bool prom_has(const struct text *t, const char *want)
{
	size_t n = strlen(want);

	for (const char *s = t->s; s && *s; s = strchr(s, '\n') + 1)
		if (!strncmp(s, want, n) && s[n] == '\n')
			return true;
	print_error("no line: %s\n", want);
	return false;
}
