/*
 * The chain: which listeners a connection passes and which cluster it leaves for, resolved once when it opens. A hop inside
 * the daemon is an entry in this list: no socket, no copy, no system call. Pure over the snapshot; worker thread.
 */
#pragma once
#include "model/config.h"
#include "policy/route.h"

struct stages {
	uint8_t n;
	uint16_t id[CFG_CHAIN_MAX]; /* listener ids, outermost first */
	const struct cfg_route *route; /* the last that matched; NULL: a default target */
	const struct cfg_cluster *cluster;
	bool forward;
	const char *denied; /* policy that said no */
};

/** struct stage_context - what the stages see: always the outermost leg's */
struct stage_context {
	struct route_input in;
	const char *principal; /* SPIFFE id from the certificate, NULL without */
	struct addr src, orig_dst;
};

enum stage_verdict { STAGE_GO, STAGE_NO_ROUTE, STAGE_DENIED, STAGE_LOOP };

/** stages_resolve() - from listener @first to the cluster. The policy of each listener passed is asked (hook below). */
enum stage_verdict stages_resolve(const struct cfg_listener *first, const struct stage_context *ctx, struct stages *ret);
/**
 * stages_extend() - the cluster leads to @next, a listener of this very node (the short way): the chain goes on from there, for which
 * @ctx is what @next would have seen of a tunnel
 * Return: as above, or STAGE_LOOP: the chain has passed @next already. What was passed is in @s whatever comes of it.
 */
enum stage_verdict stages_extend(const struct cfg_listener *next, const struct stage_context *ctx, struct stages *s);
