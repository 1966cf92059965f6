/*
 * Judging again: a change came into force, and what it denies must not go on. Worker thread.
 */
#pragma once
#include "chain/stage.h"
#include "loop/loop.h"

struct conn;
struct worker;

/** struct again - a worker's way through its connections; zeroed is ready */
struct again {
	struct task task;
	uint32_t cursor;
	uint32_t judged, closed, would; /* of this round: connections; those that policies in dry run would have closed */
};

/**
 * struct again_part - what a part of a chain was judged by. A chain has several where a tunnel's endpoint was this node (short.c): the
 * listener there sees what the tunnel would have brought. One part alone needs no such thing: the connection itself knows.
 */
struct again_part {
	struct again_part *next; /* in order */
	uint8_t from;		 /* index of its first stage */
	struct addr src, to;
	uint16_t port;
	char *principal, *authority; /* NULL: none */
	struct metadata *md;
};

/** judge_again() - this worker has a new snapshot: judge all connections that began in another. In batches, from the next turn on. */
void judge_again(struct worker *w);
/** judge_now() - @c began in a snapshot that is no longer the worker's: may it go on? false: it has ended */
bool judge_now(struct conn *c);
/** judge_keep() - from stage @from on, @ctx is what counts; NULL: what the connection itself knows now. Return: 0 or -ENOMEM. */
int judge_keep(struct conn *c, uint32_t from, const struct stage_context *ctx);
void judge_forget(struct conn *c);
/** judge_context() - what the last part of the chain was judged by; texts are the connection's */
void judge_context(const struct conn *c, struct stage_context *ret);
