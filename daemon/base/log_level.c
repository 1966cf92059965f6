/*
 * Levels: one per area, an atomic byte that every log call looks at first. Changed by the main thread only; each area has a level that
 * it goes back to (the configuration's), and may have a time at which it does so by itself.
 */
#include "base/log_int.h"
#include "base/clean.h"
#include <errno.h>
#include <string.h>

_Atomic uint8_t log_levels[LA_AREAS] = {[0 ... LA_AREAS - 1] = LOG_INFO};

/* main thread */
static uint8_t home[LA_AREAS] = {[0 ... LA_AREAS - 1] = LOG_INFO};
static uint64_t until_ms[LA_AREAS]; /* 0: it stays */

static const char *const level_str[LOG_LEVELS] = {
	[LOG_ERR] = "error",
	[LOG_WARN] = "warn",
	[LOG_INFO] = "info",
	[LOG_DBG] = "debug",
};

static const char *const area_str[LA_AREAS] = {
	[LA_MAIN] = "main",	[LA_CONFIG] = "config", [LA_ADMIN] = "admin", [LA_CHAIN] = "chain",
	[LA_TUNNEL] = "tunnel", [LA_TLS] = "tls",	[LA_NET] = "net",
};

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

int log_level_find(const char *name)
{
	return find(level_str, LOG_LEVELS, name);
}

int log_area_find(const char *name)
{
	return find(area_str, LA_AREAS, name);
}

static void set(enum log_area a, uint8_t level, uint64_t until)
{
	until_ms[a] = until;
	atomic_store_explicit(&log_levels[a], level, memory_order_relaxed);
}

void log_level_init(enum log_level level)
{
	for (int i = 0; i < LA_AREAS; i++)
		log_level_home((enum log_area)i, level);
}

void log_level_home(enum log_area a, enum log_level level)
{
	home[a] = (uint8_t)level;
	set(a, (uint8_t)level, 0);
}

int log_level_set_until(const char *area, const char *level, uint64_t until)
{
	int l = log_level_find(level), a = log_area_find(area);
	bool every = strcmp(area, "all") == 0;

	if (l < 0 || (a < 0 && !every))
		return -EINVAL;
	for (int i = 0; i < LA_AREAS; i++)
		if (every || i == a)
			set((enum log_area)i, (uint8_t)l, until);
	return 0;
}

int log_level_set(const char *area, const char *level)
{
	return log_level_set_until(area, level, 0);
}

int log_level_reset(const char *area)
{
	int a = log_area_find(area);
	bool every = strcmp(area, "all") == 0;

	if (a < 0 && !every)
		return -EINVAL;
	for (int i = 0; i < LA_AREAS; i++)
		if (every || i == a)
			set((enum log_area)i, home[i], 0);
	return 0;
}

enum log_level log_level_of(enum log_area a, enum log_level *ret_home, uint64_t *ret_until_ms)
{
	*ret_home = (enum log_level)home[a];
	*ret_until_ms = until_ms[a];
	return (enum log_level)atomic_load_explicit(&log_levels[a], memory_order_relaxed);
}

void log_level_tick(uint64_t now_ms)
{
	for (int i = 0; i < LA_AREAS; i++) {
		if (!until_ms[i] || now_ms < until_ms[i])
			continue;
		set((enum log_area)i, home[i], 0);
		log_info(LA_MAIN, "log level of %s is %s again: its time is over", area_str[i], log_level_str((enum log_level)home[i]));
	}
}
