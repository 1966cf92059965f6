/*
 * Log lines.
 *
 * A line is composed in a stack buffer and leaves with one write(2): lines of several threads never mix, no lock is held,
 * and nothing is allocated. It stays below PIPE_BUF (4096), so that this holds for pipes too. When the reader is gone or slow
 * and the descriptor non-blocking, the line is lost: logging must not stop the daemon.
 *
 *   text     2026-01-02T03:04:05.678Z info  chain  message
 *   json     {"time":"2026-01-02T03:04:05.678Z","level":"info","area":"chain","message":"..."}
 *   journal  <6>chain: message
 *
 * A message is one line whatever is in it: control bytes (a peer's text that nobody quoted) are escaped, so that nobody can
 * forge a line or move the cursor of a terminal. Text that is too long ends in "...".
 */
#include "base/log.h"
#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOG_MESSAGE_MAX 2048 /* bytes, before escaping */
#define LOG_LINE_MAX	4096 /* bytes; PIPE_BUF */

_Atomic uint8_t log_levels[LA_AREAS] = {[0 ... LA_AREAS - 1] = LOG_INFO};

static int log_fd = STDERR_FILENO;
static enum log_format log_form = LOG_TEXT;

static const char *const level_str[LOG_LEVELS] = {
	[LOG_ERR] = "error",
	[LOG_WARN] = "warn",
	[LOG_INFO] = "info",
	[LOG_DBG] = "debug",
};
static const uint8_t level_priority[LOG_LEVELS] = {[LOG_ERR] = 3, [LOG_WARN] = 4, [LOG_INFO] = 6, [LOG_DBG] = 7};

static const char *const area_str[LA_AREAS] = {
	[LA_MAIN] = "main",	[LA_CONFIG] = "config", [LA_ADMIN] = "admin", [LA_CHAIN] = "chain",
	[LA_TUNNEL] = "tunnel", [LA_TLS] = "tls",	[LA_NET] = "net",
};

void log_init(int fd, enum log_format format, enum log_level level)
{
	log_fd = fd;
	log_form = format;
	for (unsigned int i = 0; i < LA_AREAS; i++)
		atomic_store_explicit(&log_levels[i], (uint8_t)level, memory_order_relaxed);
}

/* Return: bytes of the character at s that can be shown as they are; 0: the byte must be escaped. */
static size_t shown(const char *s, size_t n)
{
	unsigned char c = (unsigned char)s[0];
	size_t len;

	if (c < 0x80)
		return c >= 0x20 && c != 0x7f;
	len = text_utf8(s, n);
	return len == 2 && c == 0xc2 && (unsigned char)s[1] < 0xa0 ? 0 : len; /* U+0080..9f are control characters */
}

enum escape { ESC_TEXT /* control bytes */, ESC_QUOTED /* and quotes, backslashes */, ESC_JSON };

/* One character of s as it is to be written. Return: bytes written to out; *ret_used of s are done. */
static size_t escape(char out[8], const char *s, size_t n, enum escape how, size_t *ret_used)
{
	static const char hex[] = "0123456789abcdef";
	unsigned char c = (unsigned char)s[0];
	size_t len = shown(s, n), i = 0;

	*ret_used = len ? len : 1;
	if (len) {
		if (how != ESC_TEXT && (c == '"' || c == '\\'))
			out[i++] = '\\';
		memcpy(out + i, s, len);
		return i + len;
	}
	if (how == ESC_JSON && c >= 0x80) {
		memcpy(out, "\xef\xbf\xbd", 3); /* U+FFFD */
		return 3;
	}
	memcpy(out, how == ESC_JSON ? "\\u00" : "\\x", how == ESC_JSON ? 4 : 2);
	i = how == ESC_JSON ? 4 : 2;
	out[i++] = hex[c >> 4];
	out[i++] = hex[c & 15];
	return i;
}

/* Write s, escaped, to out as far as max bytes go. Return: bytes written; *ret_all: nothing was left out. */
static size_t compose(char *out, size_t max, const char *s, size_t n, enum escape how, bool *ret_all)
{
	size_t at = 0, used, len;
	char c[8];

	for (; n; s += used, n -= used, at += len) {
		len = escape(c, s, n, how, &used);
		if (len > max - at)
			break;
		memcpy(out + at, c, len);
	}
	*ret_all = n == 0;
	return at;
}

static size_t time_write(char *out, size_t max)
{
	struct timespec now;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &now);
	gmtime_r(&now.tv_sec, &tm);
	return (size_t)snprintf(out, max, "%04d-%02d-%02dT%02d:%02d:%02d.%03dZ", tm.tm_year + 1900, tm.tm_mon + 1,
				tm.tm_mday, tm.tm_hour, tm.tm_min, tm.tm_sec, (int)(now.tv_nsec / 1000000));
}

void log_write(enum log_level level, enum log_area area, const char *fmt, ...)
{
	char message[LOG_MESSAGE_MAX], line[LOG_LINE_MAX], when[64];
	const char *tail = "\n";
	int saved = errno, n;
	size_t len, at = 0;
	va_list ap;
	bool all;

	va_start(ap, fmt);
	n = vsnprintf(message, sizeof(message), fmt, ap);
	va_end(ap);
	if (n < 0)
		n = snprintf(message, sizeof(message), "%s", fmt);
	len = (size_t)n < sizeof(message) ? (size_t)n : sizeof(message) - 1;

	if (log_form != LOG_JOURNAL)
		time_write(when, sizeof(when));
	switch (log_form) {
	case LOG_TEXT:
		at = (size_t)snprintf(line, sizeof(line), "%s %-5s %-6s ", when, log_level_str(level),
				      log_area_str(area));
		break;
	case LOG_JSON:
		at = (size_t)snprintf(line, sizeof(line),
				      "{\"time\":\"%s\",\"level\":\"%s\",\"area\":\"%s\",\"message\":\"", when,
				      log_level_str(level), log_area_str(area));
		tail = "\"}\n";
		break;
	case LOG_JOURNAL:
		at = (size_t)snprintf(line, sizeof(line), "<%d>%s: ", level_priority[level], log_area_str(area));
		break;
	}
	at += compose(line + at, sizeof(line) - at - sizeof("...\"}\n"), message, len,
		      log_form == LOG_JSON ? ESC_JSON : ESC_TEXT, &all);
	if (!all || len < (size_t)n) {
		memcpy(line + at, "...", 3);
		at += 3;
	}
	memcpy(line + at, tail, strlen(tail));
	at += strlen(tail);

	while (write(log_fd, line, at) < 0 && errno == EINTR)
		;
	errno = saved;
}

bool log_rate_ok(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, uint32_t *ret_held)
{
	if (now_ms < r->next_ms) {
		if (r->held < UINT32_MAX)
			r->held++;
		return false;
	}
	r->next_ms = now_ms + every_ms;
	*ret_held = r->held;
	r->held = 0;
	return true;
}

/* "abc" or "ab"...: the dots are outside, so they cannot be the peer's */
bool log_rate_text(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, char ret_more[LOG_MORE])
{
	uint32_t held;

	ret_more[0] = '\0';
	if (!log_rate_ok(r, now_ms, every_ms, &held))
		return false;
	if (held)
		snprintf(ret_more, LOG_MORE, " (%u more since the last line)", held);
	return true;
}

char *log_quote(char *out, size_t n, const void *text, size_t len)
{
	size_t at;
	bool all;

	if (n < sizeof("\"\"...")) {
		if (n)
			out[0] = '\0';
		return out;
	}
	at = 1 + compose(out + 1, n - 3, text, len, ESC_QUOTED, &all);
	if (!all) /* once more, with room for the dots */
		at = 1 + compose(out + 1, n - 6, text, len, ESC_QUOTED, &all);
	out[0] = '"';
	memcpy(out + at, all ? "\"" : "\"...", all ? 2 : 5);
	return out;
}

const char *log_level_str(enum log_level l)
{
	return (unsigned int)l < LOG_LEVELS ? level_str[l] : "?";
}

const char *log_area_str(enum log_area a)
{
	return (unsigned int)a < LA_AREAS ? area_str[a] : "?";
}

static int find(const char *const *names, unsigned int n, const char *name)
{
	for (unsigned int i = 0; i < n; i++)
		if (strcmp(names[i], name) == 0)
			return (int)i;
	return -EINVAL;
}

int log_level_set(const char *area, const char *level)
{
	int l = find(level_str, LOG_LEVELS, level), a = find(area_str, LA_AREAS, area);
	bool every = strcmp(area, "all") == 0;

	if (l < 0 || (a < 0 && !every))
		return -EINVAL;
	for (int i = 0; i < LA_AREAS; i++)
		if (every || i == a)
			atomic_store_explicit(&log_levels[i], (uint8_t)l, memory_order_relaxed);
	return 0;
}
