/*
 * Prometheus text exposition (format 0.0.4), written into a struct text. The functions take data and know no daemon; what is
 * said of listeners, endpoints and the process is put together in admin/scrape.c with the same primitives. A family's samples
 * are contiguous and its HELP and TYPE come once, as the format demands, so callers go through their rows once per family.
 * Main thread. Names and labels are documented in docs/METRICS.md.
 */
#pragma once
#include "base/hist.h"
#include "base/stats.h"
#include "base/text.h"
#include "obs/series.h"

#define METRICS_CONTENT_TYPE "text/plain; version=0.0.4; charset=utf-8"

enum metrics_type { METRICS_COUNTER, METRICS_GAUGE, METRICS_HISTOGRAM };

struct metrics_label {
	const char *name, *value; /* value NULL: "" */
};

/** metrics_family() - the HELP and TYPE lines; @name complete, with "_total" for a counter */
void metrics_family(struct text *t, const char *name, enum metrics_type type, const char *help);
/* one sample; label values are escaped, invalid UTF-8 becomes U+FFFD */
void metrics_u64(struct text *t, const char *name, const struct metrics_label *l, uint32_t n, uint64_t v);
void metrics_i64(struct text *t, const char *name, const struct metrics_label *l, uint32_t n, int64_t v);
/** metrics_seconds() - @us microseconds as seconds, exactly */
void metrics_seconds(struct text *t, const char *name, const struct metrics_label *l, uint32_t n, uint64_t us);

/** metrics_stats() - all counters and gauges of base/stats.h, and the resets by code */
void metrics_stats(struct text *t, const struct stats *s);
/** metrics_hist() - a histogram of seconds from one of microseconds (a merged one, that nobody writes) */
void metrics_hist(struct text *t, const char *name, const char *help, const struct hist *us);
/**
 * metrics_series() - the istio_tcp_* family
 * @list:	series of all workers, sorted in place; those with the same labels become one sample, their sum
 */
void metrics_series(struct text *t, const struct series **list, size_t n);

/** metrics_h2_code() - name of an HTTP/2 error code (RFC 9113 section 7), NULL from STATS_H2_CODES on */
const char *metrics_h2_code(uint32_t code);
/** metrics_counter_name(), metrics_gauge_name() - as in base/stats.h, without prefix and suffix */
const char *metrics_counter_name(enum stats_counter c);
const char *metrics_gauge_name(enum stats_gauge g);
