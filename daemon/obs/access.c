/*
 * Access log, the worker's side. A connection's end is on the data path, so nothing is formatted here: the fixed facts go into
 * one struct, the strings behind it, one reservation and one commit in a ring that only this worker fills. No system call, no
 * wake-up (the log thread looks by itself, at least every 100 ms), no waiting: a full ring drops the record, and bytering
 * counts it.
 *
 * A record is 128 bytes and its strings, typically 400..700 bytes together; long strings are cut, so that no peer can make a record
 * that never fits.
 */
#include "obs/access.h"
#include "base/clean.h"
#include "obs/access_format.h"
#include <assert.h>
#include <string.h>

static const uint16_t str_at[AS_STRINGS] = {
#define X(name) [AS_##name] = offsetof(struct access_rec, name),
	ACCESS_STRINGS(X)
#undef X
};

static_assert(AS_STRINGS == 26, "a string added to struct access_rec belongs into ACCESS_STRINGS too");

int access_ring_init(struct access_ring *r, uint32_t bytes)
{
	return bytering_init(&r->ring, bytes);
}

void access_ring_finish(struct access_ring *r)
{
	bytering_finish(&r->ring);
}

/* Length to keep: at the most @max bytes, and no UTF-8 sequence cut in two. */
static uint16_t str_keep(const char *s, size_t max)
{
	size_t n = strnlen(s, max + 1);

	if (n <= max)
		return (uint16_t)n;
	n = max;
	while (n > 0 && max - n < 4 && ((uint8_t)s[n] & 0xc0) == 0x80)
		n--;
	return (uint16_t)n;
}

void access_emit(struct access_ring *r, const struct access_rec *rec)
{
	struct access_wire w = {
		.conn_id = rec->conn_id,
		.start_us = rec->start_us,
		.duration_us = rec->duration_us,
		.open_us = rec->open_us,
		.queue_us = rec->queue_us,
		.bytes_sent = rec->bytes_sent,
		.bytes_recv = rec->bytes_recv,
		.tunnel_id = rec->tunnel_id,
		.stream_id = rec->stream_id,
		.status = rec->status,
		.dir = (uint8_t)rec->dir,
		.ok = rec->ok,
		.tls = rec->tls,
		.mismatch = rec->mismatch,
	};
	const char *s[AS_STRINGS];
	uint32_t total = sizeof(w);
	uint8_t *p;

	for (uint32_t i = 0; i < AS_STRINGS; i++) {
		memcpy(&s[i], (const char *)rec + str_at[i], sizeof(s[i]));
		w.len[i] = ACCESS_ABSENT;
		if (!s[i])
			continue;
		w.len[i] = str_keep(s[i], i == AS_peer_headers ? ACCESS_META_MAX : ACCESS_STR_MAX);
		total += w.len[i];
	}
	p = bytering_reserve(&r->ring, total);
	if (!p)
		return; /* full: counted by the ring */
	memcpy(p, &w, sizeof(w));
	p += sizeof(w);
	for (uint32_t i = 0; i < AS_STRINGS; i++) {
		if (!s[i])
			continue;
		memcpy(p, s[i], w.len[i]);
		p += w.len[i];
	}
	bytering_commit(&r->ring, total);
}
