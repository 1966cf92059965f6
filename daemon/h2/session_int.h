/* Between session.c and input.c. */
#pragma once
#include "h2/session.h"

#define H2_STREAM_SLACK 1000u /* streams above the announced limit that are refused one by one; beyond, the session ends */

#define H2_PING_FENCE (1ull << 63)

void h2_input_callbacks(nghttp2_session_callbacks *c);
void h2_headers_drop(struct h2 *h);
void h2_stream_gone(struct h2_stream *s);
void h2_reset_id(struct h2 *h, int32_t id, uint32_t code);
bool h2_pressure(const struct loop *l);
void h2_tune_connection(struct h2 *h, size_t n);
