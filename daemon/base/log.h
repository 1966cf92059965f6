/*
 * Log lines for operators. Any thread; one write(2) per line; levels per area, changeable at run time.
 * Text that came from a peer is quoted by the caller with log_quote(). Secrets never get here.
 */
#pragma once
#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum log_level { LOG_ERR, LOG_WARN, LOG_INFO, LOG_DBG, LOG_LEVELS };

/* areas are the folders that may log; "all" is every one */
enum log_area { LA_MAIN, LA_CONFIG, LA_ADMIN, LA_CHAIN, LA_TUNNEL, LA_TLS, LA_NET, LA_AREAS };

enum log_format { LOG_TEXT, LOG_JSON, LOG_JOURNAL /* "<3>" priorities, no time */ };

extern _Atomic uint8_t log_levels[LA_AREAS];

/** log_init() - once, before threads. @fd is not owned. */
void log_init(int fd, enum log_format format, enum log_level level);
void log_write(enum log_level level, enum log_area area, const char *fmt, ...) __attribute__((format(printf, 3, 4)));

static inline bool log_on(enum log_level level, enum log_area area)
{
	return (uint8_t)level <= atomic_load_explicit(&log_levels[area], memory_order_relaxed);
}
#define log_line(level, area, ...)                           \
	do {                                                 \
		if (log_on(level, area))                     \
			log_write(level, area, __VA_ARGS__); \
	} while (0)
#define log_err(area, ...)  log_line(LOG_ERR, area, __VA_ARGS__)
#define log_warn(area, ...) log_line(LOG_WARN, area, __VA_ARGS__)
#define log_info(area, ...) log_line(LOG_INFO, area, __VA_ARGS__)
#define log_dbg(area, ...)  log_line(LOG_DBG, area, __VA_ARGS__)

/**
 * struct log_rate - lets one line per @every_ms through and counts the rest
 * One thread owns it; zero-initialised is ready.
 */
struct log_rate {
	uint64_t next_ms;
	uint32_t held; /* lines held back since the last one */
};
/** log_rate_ok() - Return: true if the line may go out; *ret_held says how many were held back before it. */
bool log_rate_ok(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, uint32_t *ret_held);

#define LOG_MORE 48
/** log_rate_text() - the same, with the words for the end of the line: "" or " (N more since the last line)" */
bool log_rate_text(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, char ret_more[LOG_MORE]);

/** log_quote() - "text" with control bytes as \xNN, cut at @n bytes of output with "..."; Return: @out. */
char *log_quote(char *out, size_t n, const void *text, size_t len);

const char *log_level_str(enum log_level l);
const char *log_area_str(enum log_area a);
/** log_level_set() - @area "all" or a name; Return: 0 or -EINVAL (unknown area or level name). */
int log_level_set(const char *area, const char *level);
