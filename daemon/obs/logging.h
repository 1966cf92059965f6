/* The daemon's own log as the configuration wants it. Main thread. */
#pragma once
#include "model/config.h"

/**
 * logging_start() - format, target and levels; once, before threads
 * @level: the command line's, for all areas; NULL: the configuration's
 */
void logging_start(const struct config *cfg, const char *level);
/** logging_levels() - the configuration was read again: its levels; what an operator has set meanwhile is over */
void logging_levels(const struct config *cfg, const char *level);
/** logging_tick() - about once a second */
void logging_tick(void);
/** logging_now_ms() - the clock of log_level_set_until() */
uint64_t logging_now_ms(void);
