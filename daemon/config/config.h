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
/** config_parse() - the same from memory; @name stands for the file in messages. For tests and fuzzing. */
int config_parse(const char *name, const char *text, size_t n, struct config **ret, struct err *reterr);
void config_free(struct config *c);
