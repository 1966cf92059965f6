/*
 * Rates: what somebody out there can provoke must not fill a disk. Each kind of line has a number per interval; what is held back is
 * counted, said with the next line of the kind, and told by the metrics. The state belongs to one thread, mostly a worker's loop; the counts
 * are everybody's.
 */
#include "base/log_int.h"
#include <stdio.h>

static _Atomic uint64_t suppressed[LOG_KINDS];

static const struct log_kind_info kinds[LOG_KINDS] = {
	[LOG_K_OTHER] = {"other", LA_MAIN, 1, 1000},
	[LOG_K_CONN_FAILED] = {"connection-failed", LA_CHAIN, 1, 1000},
	[LOG_K_CONN_REFUSED] = {"connection-refused", LA_CHAIN, 1, 1000},
	[LOG_K_DRY_RUN] = {"dry-run", LA_CHAIN, 1, 1000},
	[LOG_K_SCARCE] = {"descriptors", LA_CHAIN, 1, 10000},
	[LOG_K_NO_TUNNEL] = {"no-tunnel", LA_TUNNEL, 1, 5000},
	[LOG_K_TUNNEL_LIFE] = {"tunnel-life", LA_TUNNEL, 20, 1000},
	[LOG_K_TUNNEL_IDLE] = {"tunnel-vanished", LA_TUNNEL, 5, 1000},
	[LOG_K_TUNNEL_LOST] = {"tunnel-lost", LA_TUNNEL, 1, 1000},
	[LOG_K_TUNNEL_REFUSED] = {"tunnel-refused", LA_TUNNEL, 1, 1000},
	[LOG_K_GOAWAY] = {"goaway", LA_TUNNEL, 5, 1000},
	[LOG_K_REQUEST] = {"admin-request", LA_ADMIN, 20, 1000},
};

const struct log_kind_info *log_kind_info(enum log_kind k)
{
	return &kinds[k];
}

uint64_t log_suppressed(enum log_kind k)
{
	return atomic_load_explicit(&suppressed[k], memory_order_relaxed);
}

static bool held_back(struct log_rate *r)
{
	if (r->held < UINT32_MAX)
		r->held++;
	atomic_fetch_add_explicit(&suppressed[r->kind], 1, memory_order_relaxed);
	return false;
}

bool log_rate_ok(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, uint32_t *ret_held)
{
	if (now_ms < r->next_ms)
		return held_back(r);
	r->next_ms = now_ms + every_ms;
	*ret_held = r->held;
	r->held = 0;
	return true;
}

static bool more_text(bool ok, uint32_t held, char ret_more[LOG_MORE])
{
	ret_more[0] = '\0';
	if (ok && held)
		snprintf(ret_more, LOG_MORE, " (%u more since the last line)", held);
	return ok;
}


bool log_rate_text(struct log_rate *r, uint64_t now_ms, uint32_t every_ms, char ret_more[LOG_MORE])
{
	uint32_t held = 0;

	return more_text(log_rate_ok(r, now_ms, every_ms, &held), held, ret_more);
}

bool log_kind(struct log_rates *rates, enum log_kind k, uint64_t now_ms, char ret_more[LOG_MORE])
{
	const struct log_kind_info *i = &kinds[k];
	struct log_rate *r = &rates->kind[k];
	uint32_t held = r->held;

	r->kind = (uint8_t)k;
	if (now_ms >= r->next_ms) {
		r->next_ms = now_ms + i->every_ms;
		r->passed = 0;
	}
	if (r->passed >= i->lines) {
		ret_more[0] = '\0';
		return held_back(r);
	}
	r->passed++;
	r->held = 0;
	return more_text(true, held, ret_more);
}
