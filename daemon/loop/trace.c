/*
 * Live traces, the workers' side. Nothing here runs unless somebody traces.
 */
#include "loop/trace.h"
#include "base/clean.h"
#include "loop/loop.h"
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

static const uint8_t kind_level[TRACE_KINDS_N] = {
#define X(id, name, level) [TRACE_##id] = level,
	TRACE_KINDS(X)
#undef X
};

void trace_emit(struct loop *l, uint8_t watch, enum trace_kind kind, const struct trace_what *what, const char *fmt, ...)
{
	uint8_t mask = l->tracing & watch;
	struct trace_rec *r;
	char text[TRACE_TEXT];
	size_t n;
	va_list ap;
	int len;

	if (!mask || !(mask & l->tracer->at[kind_level[kind]]))
		return;
	va_start(ap, fmt);
	len = vsnprintf(text, sizeof(text), fmt, ap);
	va_end(ap);
	n = len < 0 ? 0 : min_u64((uint64_t)len, sizeof(text) - 1);
	r = bytering_reserve(&l->tracer->ring, (uint32_t)(sizeof(*r) + n));
	if (!r)
		return;
	*r = (struct trace_rec){ .at_us = l->now_us + l->real_offset_us,
				 .what = *what,
				 .kind = (uint8_t)kind,
				 .traces = mask & l->tracer->at[kind_level[kind]],
				 .worker = (uint8_t)l->worker,
				 .len = (uint16_t)n };
	memcpy(r->text, text, n);
	bytering_commit(&l->tracer->ring, (uint32_t)(sizeof(*r) + n));
}

static bool fits(const struct loop *l, uint32_t i, enum trace_by by)
{
	return (l->tracing & 1u << i) && l->tracer->filter[i].by == by;
}

uint8_t trace_by_conn(const struct loop *l, uint64_t id)
{
	uint8_t m = 0;

	for (uint32_t i = 0; l->tracing && i < TRACES; i++)
		if (fits(l, i, TRACE_BY_CONN) && l->tracer->filter[i].conn == id)
			m |= (uint8_t)(1u << i);
	return m;
}

uint8_t trace_by_addr(const struct loop *l, const struct addr *a)
{
	uint8_t m = 0;

	for (uint32_t i = 0; l->tracing && a->family != AF_UNSPEC && i < TRACES; i++) {
		struct addr b = *a;

		if (!fits(l, i, TRACE_BY_ADDR))
			continue;
		if (!l->tracer->filter[i].addr.port)
			b.port = 0;
		if (addr_eq(&b, &l->tracer->filter[i].addr))
			m |= (uint8_t)(1u << i);
	}
	return m;
}

static uint8_t by_text(const struct loop *l, enum trace_by by, const char *s)
{
	uint8_t m = 0;

	for (uint32_t i = 0; l->tracing && s && *s && i < TRACES; i++)
		if (fits(l, i, by) && !strcmp(l->tracer->filter[i].text, s))
			m |= (uint8_t)(1u << i);
	return m;
}

uint8_t trace_by_id(const struct loop *l, const char *id)
{
	return by_text(l, TRACE_BY_ID, id);
}

uint8_t trace_by_listener(const struct loop *l, const char *name)
{
	return by_text(l, TRACE_BY_LISTENER, name);
}

void trace_filter_set(struct loop *l, struct tracer *t, uint32_t slot, const struct trace_filter *f)
{
	uint8_t bit = (uint8_t)(1u << slot);

	l->tracer = t;
	for (uint32_t i = 0; i < TL_LEVELS; i++)
		t->at[i] = (uint8_t)(f && i <= f->level ? t->at[i] | bit : t->at[i] & ~bit);
	if (f) {
		t->filter[slot] = *f;
		l->tracing |= bit;
	} else {
		l->tracing &= (uint8_t)~bit;
		t->filter[slot].by = TRACE_BY_NONE;
	}
}
