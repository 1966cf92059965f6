/* Between session.c and input.c. */
#pragma once
#include "h2/session.h"

#define H2_STREAM_SLACK 1000u /* streams above the announced limit that are refused one by one; beyond, the session ends */

#define H2_PING_FENCE (1ull << 63)

void h2_input_callbacks(nghttp2_session_callbacks *c);
void h2_input_init(struct h2 *h);
/** h2_hostile() - GOAWAY with @code, nothing is read any more; @why: which limit, for people */
void h2_hostile(struct h2 *h, uint32_t code, const char *why);
void h2_headers_drop(struct h2 *h);
void h2_stream_gone(struct h2_stream *s);
void h2_reset_id(struct h2 *h, int32_t id, uint32_t code);
/* window.c */
#define H2_WINDOW_START (1024u * 1024u) /* of the connection */
uint32_t h2_window_initial(const struct h2 *h); /* of a new stream */
void h2_window_received(struct h2 *h, size_t n); /* DATA came in */
void h2_window_acknowledged(struct h2 *h);	 /* our SETTINGS are in force */
