/*
 * The chain: which listeners a connection passes and which cluster it leaves for, resolved once when it opens. A hop inside
 * the daemon is an entry in this list: no socket, no copy, no system call. At each of them, and at the cluster, the policies in scope
 * are asked, with what the outermost leg shows. Pure over the snapshot; worker thread.
 */
#pragma once
#include "model/config.h"
#include "policy/policy.h"
#include "policy/route.h"

#define STAGE_NO_CLUSTER 0xffffu

struct stages {
	uint8_t n;
	uint16_t id[CFG_CHAIN_MAX]; /* listener ids, outermost first */
	uint16_t to[CFG_CHAIN_MAX]; /* ids of the clusters behind each; STAGE_NO_CLUSTER: it led to a listener, or nowhere */
	const struct cfg_route *route; /* the last that matched; NULL: a default target */
	const struct cfg_cluster *cluster;
	bool forward;
	uint32_t policy, rule; /* that denied, or the last that allowed; POLICY_NONE: none did */
	const char *denied;    /* STAGE_DENIED: the listener or cluster where; NULL else */
	bool denied_cluster;
};

/** struct stage_context - what the stages see: always the outermost leg's */
struct stage_context {
	struct route_input in;
	const char *principal; /* SPIFFE id from the certificate, NULL without */
	struct addr src, orig_dst;
	const struct policy_set *policies; /* NULL: there are none */
	/* told of each verdict of theirs; may be NULL */
	void (*judged)(void *arg, enum policy_place at, uint32_t id, const struct policy_verdict *v);
	void *judged_arg;
};

/** stages_input() - what policies are asked with for @ctx that entered by listener @first (its id); refers to @ctx and to @room */
void stages_input(const struct stage_context *ctx, uint32_t first, char room[ADDR_STR], struct policy_input *ret);

enum stage_verdict { STAGE_GO, STAGE_NO_ROUTE, STAGE_DENIED, STAGE_LOOP };

/** struct stages_asked - policies asked one place after the other, with one context; on the caller's stack */
struct stages_asked {
	const struct stage_context *ctx;
	struct policy_facts facts;
	char authority[ADDR_STR];
};
/** stages_ask_begin() - @first: id of the listener where it entered; UINT32_MAX: one that is gone */
void stages_ask_begin(struct stages_asked *q, const struct stage_context *ctx, uint32_t first);
/** stages_ask() - Return: allowed? @ret->policy and so on say by whom, as far as anybody decided. */
bool stages_ask(const struct stages_asked *q, enum policy_place at, uint32_t id, const char *name, struct stages *ret);

/** stages_resolve() - from listener @first, where the connection entered, to the cluster; as far as policies let it */
enum stage_verdict stages_resolve(const struct cfg_listener *first, const struct stage_context *ctx, struct stages *ret);
/**
 * stages_extend() - the cluster leads to @next, a listener of this very node (the short way): the chain goes on from there, for which
 * @ctx is what @next would have seen of a tunnel
 * Return: as above, or STAGE_LOOP: the chain has passed @next already. What was passed is in @s whatever comes of it.
 */
enum stage_verdict stages_extend(const struct cfg_listener *next, const struct stage_context *ctx, struct stages *s);
/**
 * stages_judge() - the policies once more, for the stages from index @from on and the cluster, with another @ctx: a name has
 * become an address
 * Return: STAGE_GO or STAGE_DENIED; @s says by whom.
 */
enum stage_verdict stages_judge(const struct config *cfg, uint32_t from, const struct stage_context *ctx, struct stages *s);
