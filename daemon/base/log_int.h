/* Between log.c (lines), log_out.c (where they go), log_level.c and log_rate.c. */
#pragma once
#include "base/log.h"

#define LOG_LINE_MAX 4096 /* bytes; PIPE_BUF */

/**
 * log_out() - a line to the target; never waits once log_never_wait() was called
 * Return: how many lines were lost since this was said last, if the target takes lines again; else 0
 */
uint64_t log_out(const char *line, size_t n);
/** log_out_flush() - what waits, as far as the target takes it. Return: as log_out(). */
uint64_t log_out_flush(void);
/** log_out_journal() - one datagram of the journal's protocol. Return: false: the journal is not there, say it otherwise */
bool log_out_journal(const char *fields, size_t n);
void log_out_init(int fd);
/** log_level_init() - every area, and what a reset goes back to */
void log_level_init(enum log_level level);
void log_level_tick(uint64_t now_ms);
