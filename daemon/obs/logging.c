/*
 * The daemon's own log as the configuration wants it: which form, where to, which levels.
 *
 * Form auto is what suits whoever started us: systemd sets $JOURNAL_STREAM to the device and inode of the journal's socket, and if stderr
 * is that, lines go to the journal in its own protocol, with priority and fields, and without a second time stamp.
 */
#include "obs/logging.h"
#include "base/log.h"
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

void logging_levels(const struct config *cfg, const char *level)
{
	int l = level ? log_level_find(level) : -1;

	for (uint32_t i = 0; i < LA_AREAS; i++)
		log_level_home((enum log_area)i, (enum log_level)(l >= 0 ? (uint8_t)l : cfg->log_areas[i]));
}

void logging_start(const struct config *cfg, const char *level)
{
	bool in_journal = log_journal_stream(STDERR_FILENO, getenv("JOURNAL_STREAM"));
	enum log_format f = LOG_TEXT;

	switch (cfg->log_format) {
	case CFG_LOG_TEXT:
		break;
	case CFG_LOG_JSON:
		f = LOG_JSON;
		break;
	case CFG_LOG_JOURNAL:
		f = LOG_JOURNAL;
		break;
	case CFG_LOG_AUTO:
		f = in_journal ? LOG_JOURNAL : LOG_TEXT;
		break;
	}
	log_init(STDERR_FILENO, f, LOG_INFO);
	if (f == LOG_JOURNAL && in_journal)
		log_journal();
	log_never_wait();
	logging_levels(cfg, level);
}

uint64_t logging_now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC_COARSE, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

void logging_tick(void)
{
	log_tick(logging_now_ms());
}
