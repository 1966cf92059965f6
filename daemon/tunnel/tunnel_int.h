/* Between tunnel.c, ops.c and pool.c. */
#pragma once
#include "tunnel/tunnel.h"

extern const struct h2_ops tunnel_ops;
/** tunnel_set_state() - Return: false if the state machine has no such edge (then nothing changes) */
bool tunnel_set_state(struct tunnel *t, enum tunnel_state to);
void tunnel_opened(struct tunnel *t);
/** tunnel_broke() - why what came is no HTTP/2, in words that say what to do; static text */
const char *tunnel_broke(const struct tunnel *t);
/** tunnel_tick_arm() - its timer, by what is due first */
void tunnel_tick_arm(struct tunnel *t);
/* ---- rotate.c ---- */
/** rotate_begin() - it is open. May close it. */
void rotate_begin(struct tunnel *t);
/** rotate_tick() - the time for something may have come. May drain or close it. */
void rotate_tick(struct tunnel *t);
/** rotate_in_ms() - when it will; UINT64_MAX: never */
uint64_t rotate_in_ms(const struct tunnel *t);
/** tunnel_read_payload() - as rec_read(), of what need not come to our memory; -ENOMSG: rec_read() is due */
ssize_t tunnel_read_payload(struct tunnel *t);
