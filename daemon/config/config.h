/*
 * YAML -> struct config (model/config.h). Main thread. All or nothing: on any error nothing is returned and the sentence says
 * "FILE:LINE:COLUMN: what is wrong with which key or value".
 */
#pragma once
#include "model/config.h"

/**
 * config_load() - read @path and, beside it, conf.d/ *.yaml in name order (lists are appended; a scalar given twice is an error)
 * Return: 0 and *ret (config_free() it), or -EINVAL, -ENOENT, -ENOMEM, ... with the sentence.
 */
int config_load(const char *path, struct config **ret, struct err *reterr);
/**
 * struct config_sources - the texts that a configuration is made of, as they were read. Kept, so that something else can change (a policy
 * is applied, a certificate renewed) without what somebody is writing into the files just then.
 */
struct config_source {
	char *name; /* for messages; the first's folder is what relative paths are relative to */
	char *text;
	size_t n;
};
struct config_sources {
	struct config_source *at;
	uint32_t n;
	bool running; /* identities' files need not be there: who has loaded them before judges them (control/creds.h) */
};
/** config_read() - the files that config_load() would read. Return: 0 and *ret (config_sources_free() it), or -errno with the sentence. */
int config_read(const char *path, struct config_sources *ret, struct err *reterr);
/** config_build() - what config_load() makes of them, and of @more (NULL: nothing) behind them. Return: as config_load(). */
int config_build(const struct config_sources *s, const struct config_source *more, struct config **ret, struct err *reterr);
/** config_state_dir() - what `state_dir` of them says. Return: 0 and *ret, free(3) it (NULL: none), or as config_build(). */
int config_state_dir(const struct config_sources *s, char **ret, struct err *reterr);
bool config_sources_equal(const struct config_sources *a, const struct config_sources *b);
void config_sources_free(struct config_sources *s); /* zeroed memory is fine */
/** config_parse() - the same from memory; @name stands for the file in messages. For tests and fuzzing. */
int config_parse(const char *name, const char *text, size_t n, struct config **ret, struct err *reterr);
void config_free(struct config *c);
