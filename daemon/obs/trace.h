/* Live traces, for people: a request becomes a filter, a record becomes a line. Pure; any thread. */
#pragma once
#include "base/err.h"
#include "base/text.h"
#include "codec/codec_types.h"
#include "loop/trace.h"

/**
 * trace_parse() - what to follow: exactly one of @conn (an id), @peer (ADDRESS, ADDRESS:PORT or SPIFFE id) and @listener (a name) is given
 * @level:	events, frames, bytes; NULL: events
 * Return: 0, or -EINVAL with the sentence
 */
int trace_parse(const char *conn, const char *peer, const char *listener, const char *level, struct trace_filter *ret, struct err *reterr);
/** trace_line() - "11:22:33.456789 conn 17 policy listener 'in': ...\n" */
void trace_line(struct text *t, const struct trace_rec *r);
/** trace_json() - {"time": ..., "event": ..., ...}\n */
void trace_json(struct text *t, const struct trace_rec *r);
/** trace_headers() - "name: value, name: value", secrets left out, what is not text escaped, cut. Return: @out. */
char *trace_headers(char *out, size_t max, const struct header *h, size_t n);
const char *trace_kind_str(enum trace_kind k);
