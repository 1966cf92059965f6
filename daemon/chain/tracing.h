/*
 * Live traces: started and stopped by the main thread, followed by the workers, read by the main thread. At most TRACES at a time.
 */
#pragma once
#include "base/err.h"
#include "loop/trace.h"

struct conn;
struct daemon;

/* ---- main thread ---- */
/**
 * tracing_start() - follow what fits @f, what is there already included
 * Return: 0 and its number; -EBUSY (TRACES run already), -ENOMEM, -EAGAIN (a worker has too many orders) with the sentence
 */
int tracing_start(struct daemon *d, const struct trace_filter *f, uint32_t *ret_slot, struct err *reterr);
void tracing_stop(struct daemon *d, uint32_t slot);
/** tracing_read() - everything that has come, in the order of each worker; r->traces says whose it is */
void tracing_read(struct daemon *d, void (*fn)(void *arg, const struct trace_rec *r), void *arg);
/** tracing_lost() - records that found no room in a worker's ring, since the start */
uint64_t tracing_lost(const struct daemon *d);
uint32_t tracing_running(const struct daemon *d);
/** tracing_finish() - the workers are gone */
void tracing_finish(struct daemon *d);

/* ---- worker ---- */
/** tracing_look() - more is known of @c: does a trace follow it now? Only when loop.tracing is not 0. */
void tracing_look(struct conn *c);
/** tracing_route() - its chain is resolved; @not: why it leads nowhere, NULL: it leads to the cluster */
void tracing_route(struct conn *c, const char *not);
/** tracing_headers() - of CONNECT or its answer; @dir: where they go */
struct header;
void tracing_headers(struct conn *c, const char *dir, uint32_t tunnel, uint32_t stream, const struct header *h, size_t n);
/** tracing_verdict() - of a policy, at a listener or cluster */
struct policy_verdict;
void tracing_verdict(struct conn *c, bool cluster, const char *name, const struct policy_verdict *v);
