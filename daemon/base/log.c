/*
 * Log lines.
 *
 * A line is composed in a stack buffer and leaves as one piece (log_out.c): lines of several threads never mix, and nothing is allocated.
 * It stays below PIPE_BUF (4096), so that this holds for pipes too. When the reader is gone or slow, lines are lost and counted: logging
 * must not stop the daemon.
 *
 *   text     2026-01-02T03:04:05.678Z info  chain  message
 *   json     {"time":"2026-01-02T03:04:05.678Z","level":"info","area":"chain","conn":17,"message":"..."}
 *   journal  PRIORITY=6, ADIT_AREA=chain, ADIT_CONN=17, MESSAGE=message; or, if the journal's socket is not there: <6>chain: message
 *
 * A message is one line whatever is in it: control bytes (a peer's text that nobody quoted) are escaped, so that nobody can
 * forge a line or move the cursor of a terminal. Text that is too long ends in "...".
 */
#include "base/log_int.h"
#include "base/text.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#define LOG_MESSAGE_MAX 2048 /* bytes, before escaping */

static enum log_format log_form = LOG_TEXT;

static const uint8_t level_priority[LOG_LEVELS] = {[LOG_ERR] = 3, [LOG_WARN] = 4, [LOG_INFO] = 6, [LOG_DBG] = 7};

void log_init(int fd, enum log_format format, enum log_level level)
{
	log_out_init(fd);
	log_form = format;
	log_level_init(level);
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

/* what is in front of the message. Return: its length; *ret_tail: what comes behind */
static size_t head(char *line, size_t max, enum log_level level, enum log_area area, const struct log_about *a, const char **ret_tail)
{
	char when[64], quoted[256];
	size_t at = 0;
	bool all;

	*ret_tail = "\n";
	if (log_form != LOG_JOURNAL)
		time_write(when, sizeof(when));
	switch (log_form) {
	case LOG_TEXT:
		return (size_t)snprintf(line, max, "%s %-5s %-6s ", when, log_level_str(level), log_area_str(area));
	case LOG_JSON:
		at = (size_t)snprintf(line, max, "{\"time\":\"%s\",\"level\":\"%s\",\"area\":\"%s\",", when, log_level_str(level),
				      log_area_str(area));
		if (a && a->conn)
			at += (size_t)snprintf(line + at, max - at, "\"conn\":%llu,", (unsigned long long)a->conn);
		if (a && a->tunnel)
			at += (size_t)snprintf(line + at, max - at, "\"tunnel\":%u,", a->tunnel);
		if (a && a->peer) {
			quoted[compose(quoted, sizeof(quoted) - 1, a->peer, strlen(a->peer), ESC_JSON, &all)] = '\0';
			at += (size_t)snprintf(line + at, max - at, "\"peer\":\"%s\",", quoted);
		}
		*ret_tail = "\"}\n";
		return at + (size_t)snprintf(line + at, max - at, "\"message\":\"");
	case LOG_JOURNAL:
		break;
	}
	return (size_t)snprintf(line, max, "<%d>%s: ", level_priority[level], log_area_str(area));
}

/* Return: false when the journal is not there */
static bool journal(enum log_level level, enum log_area area, const struct log_about *a, const char *message, size_t n, bool cut)
{
	char line[LOG_LINE_MAX];
	size_t at = (size_t)snprintf(line, sizeof(line), "PRIORITY=%d\nSYSLOG_IDENTIFIER=aditd\nADIT_AREA=%s\n", level_priority[level],
				     log_area_str(area));
	bool all;

	if (a && a->conn)
		at += (size_t)snprintf(line + at, sizeof(line) - at, "ADIT_CONN=%llu\n", (unsigned long long)a->conn);
	if (a && a->tunnel)
		at += (size_t)snprintf(line + at, sizeof(line) - at, "ADIT_TUNNEL=%u\n", a->tunnel);
	if (a && a->peer) {
		at += (size_t)snprintf(line + at, sizeof(line) - at, "ADIT_PEER=");
		at += compose(line + at, 256, a->peer, strlen(a->peer), ESC_TEXT, &all);
		line[at++] = '\n';
	}
	at += (size_t)snprintf(line + at, sizeof(line) - at, "MESSAGE=%s: ", log_area_str(area));
	at += compose(line + at, sizeof(line) - at - sizeof("...\n"), message, n, ESC_TEXT, &all);
	at += (size_t)snprintf(line + at, sizeof(line) - at, "%s\n", all && !cut ? "" : "...");
	return log_out_journal(line, at);
}

static void lost_say(uint64_t n)
{
	if (n)
		log_write(LOG_WARN, LA_MAIN, "%llu log lines were lost: whoever reads the log was too slow", (unsigned long long)n);
}

static void write_about(enum log_level level, enum log_area area, const struct log_about *a, const char *fmt, va_list ap)
{
	char message[LOG_MESSAGE_MAX], line[LOG_LINE_MAX];
	int saved = errno, n = vsnprintf(message, sizeof(message), fmt, ap);
	const char *tail;
	size_t len, at;
	bool all;

	if (n < 0)
		n = snprintf(message, sizeof(message), "%s", fmt);
	len = (size_t)n < sizeof(message) ? (size_t)n : sizeof(message) - 1;
	if (log_form == LOG_JOURNAL && journal(level, area, a, message, len, len < (size_t)n)) {
		errno = saved;
		return;
	}
	at = head(line, sizeof(line), level, area, a, &tail);
	at += compose(line + at, sizeof(line) - at - sizeof("...\"}\n"), message, len, log_form == LOG_JSON ? ESC_JSON : ESC_TEXT, &all);
	if (!all || len < (size_t)n) {
		memcpy(line + at, "...", 3);
		at += 3;
	}
	memcpy(line + at, tail, strlen(tail));
	at += strlen(tail);
	lost_say(log_out(line, at));
	errno = saved;
}

void log_write(enum log_level level, enum log_area area, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	write_about(level, area, NULL, fmt, ap);
	va_end(ap);
}

void log_write_about(enum log_level level, enum log_area area, const struct log_about *about, const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	write_about(level, area, about, fmt, ap);
	va_end(ap);
}

void log_tick(uint64_t now_ms)
{
	log_level_tick(now_ms);
	lost_say(log_out_flush());
}

/* "abc" or "ab"...: the dots are outside, so they cannot be the peer's */
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
