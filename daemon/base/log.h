/*
 * Log lines for operators. Any thread; levels per area, changeable at run time (main thread); no line waits for its reader.
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

/* LOG_JOURNAL: the journal's own protocol after log_journal(), else lines with "<3>" priorities; no time, it has its own */
enum log_format { LOG_TEXT, LOG_JSON, LOG_JOURNAL };

extern _Atomic uint8_t log_levels[LA_AREAS];

/** log_init() - before threads; again: all is as at first. @fd is not owned. */
void log_init(int fd, enum log_format format, enum log_level level);
/** log_never_wait() - from now on a target that takes nothing costs lines (log_dropped()), never time. Before threads. */
void log_never_wait(void);
/** log_journal_stream() - is @fd the journal, as @env ($JOURNAL_STREAM, systemd.exec(5)) says? */
bool log_journal_stream(int fd, const char *env);
/** log_journal() - LOG_JOURNAL lines go to the journal itself, with fields. Before threads. */
void log_journal(void);
/** log_tick() - main thread, about once a second: levels that fall back, lines that waited */
void log_tick(uint64_t now_ms);
/** log_dropped() - lines lost because the target did not take them; any thread */
uint64_t log_dropped(void);

/** struct log_about - what a line is about, for formats that have fields; zero and NULL: not said */
struct log_about {
	uint64_t conn;
	uint32_t tunnel;
	const char *peer; /* address or SPIFFE id */
};
void log_write(enum log_level level, enum log_area area, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void log_write_about(enum log_level level, enum log_area area, const struct log_about *about, const char *fmt, ...)
	__attribute__((format(printf, 4, 5)));

static inline bool log_on(enum log_level level, enum log_area area)
{
	return (uint8_t)level <= atomic_load_explicit(&log_levels[area], memory_order_relaxed);
}
#define log_line(level, area, ...)                           \
	do {                                                 \
		if (log_on(level, area))                     \
			log_write(level, area, __VA_ARGS__); \
	} while (0)
#define log_about(level, area, about, ...)                                \
	do {                                                              \
		if (log_on(level, area))                                  \
			log_write_about(level, area, about, __VA_ARGS__); \
	} while (0)
#define log_err(area, ...)  log_line(LOG_ERR, area, __VA_ARGS__)
#define log_warn(area, ...) log_line(LOG_WARN, area, __VA_ARGS__)
#define log_info(area, ...) log_line(LOG_INFO, area, __VA_ARGS__)
#define log_dbg(area, ...)  log_line(LOG_DBG, area, __VA_ARGS__)

/* ---- rates: for every line that a peer, an application or a client of the admin socket can provoke ---- */

/* kinds of such lines; how many of each: log_rate.c. At level debug there are others, without limits: who asks for them gets them. */
enum log_kind {
	LOG_K_OTHER,
	LOG_K_CONN_FAILED,    /* never got through */
	LOG_K_CONN_REFUSED,   /* by a limit, at the door */
	LOG_K_DRY_RUN,	      /* a policy in dry run */
	LOG_K_SCARCE,	      /* descriptors ran out */
	LOG_K_NO_TUNNEL,      /* a dial that failed */
	LOG_K_TUNNEL_LIFE,    /* opened, closed in order */
	LOG_K_TUNNEL_IDLE,    /* the peer vanished, nothing was under way */
	LOG_K_TUNNEL_LOST,    /* with live streams */
	LOG_K_TUNNEL_REFUSED, /* an incoming one that did not come up */
	LOG_K_GOAWAY,
	LOG_K_REQUEST,	      /* changes asked for on the admin socket */
	LOG_KINDS
};
struct log_kind_info {
	const char *name;
	enum log_area area;
	uint16_t lines; /* per @every_ms and thread */
	uint32_t every_ms;
};
const struct log_kind_info *log_kind_info(enum log_kind k);
/** log_suppressed() - lines of a kind held back so far; any thread */
uint64_t log_suppressed(enum log_kind k);

/**
 * struct log_rate - lets one line per @every_ms through and counts the rest
 * One thread owns it; zero-initialised is ready.
 */
struct log_rate {
	uint64_t next_ms;
	uint32_t held;	 /* lines held back since the last one */
	uint16_t passed; /* in this interval */
	uint8_t kind;	 /* enum log_kind: where they are counted */
};
struct log_rates {
	struct log_rate kind[LOG_KINDS];
};
/** log_rate_ok() - Return: true if the line may go out; *ret_held says how many were held back before it. */
bool log_rate_ok(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, uint32_t *ret_held);

#define LOG_MORE 48
/** log_rate_text() - the same, with the words for the end of the line: "" or " (N more since the last line)" */
bool log_rate_text(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, char ret_more[LOG_MORE]);

/** log_kind() - the same, by kind: as many lines as log_rate.c allows */
bool log_kind(struct log_rates *rates, enum log_kind k, uint64_t now_ms, char ret_more[LOG_MORE]);

/** log_quote() - "text" with control bytes as \xNN, cut at @n bytes of output with "..."; Return: @out. */
char *log_quote(char *out, size_t n, const void *text, size_t len);

/* ---- levels; changed by the main thread only ---- */
const char *log_level_str(enum log_level l);
const char *log_area_str(enum log_area a);
int log_level_find(const char *name); /* enum log_level, or -EINVAL */
int log_area_find(const char *name);  /* enum log_area, or -EINVAL; "all" is none */
/** log_level_home() - set it, and go back to it at a reset: the configuration's */
void log_level_home(enum log_area a, enum log_level level);
/** log_level_set() - @area "all" or a name; Return: 0 or -EINVAL (unknown area or level name). */
int log_level_set(const char *area, const char *level);
/** log_level_set_until() - the same, until log_tick(@until_ms); 0: for good */
int log_level_set_until(const char *area, const char *level, uint64_t until_ms);
/** log_level_reset() - back to what log_level_home() said. Return: 0 or -EINVAL. */
int log_level_reset(const char *area);
/** log_level_of() - the level in force; *ret_until_ms 0: it stays */
enum log_level log_level_of(enum log_area a, enum log_level *ret_home, uint64_t *ret_until_ms);
