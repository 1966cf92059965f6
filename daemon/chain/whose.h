/*
 * Workloads of connections: whose a connection is that an application opened, as whom it leaves, whose it is what a peer asks for, and
 * what is said of them. Worker thread, except where said.
 *
 * A workload's metadata goes where its identity goes and nowhere else: what is said in headers never contradicts the certificate.
 */
#pragma once
#include "kern/cgroups.h"
#include "model/snapshot.h"
#include "model/workload.h"
#include "net/owner.h"

struct conn;
struct tunnel;
struct listener;
struct worker;
struct connect_self;
struct capture_claim;

/** struct whose - what a worker asks the kernel with; opened when it is first needed */
struct whose {
	bool ready;
	struct cgroups cgroups;
	struct owner owner; /* of our network namespace */
};
void whose_init(struct whose *x);
void whose_finish(struct whose *x);

/** struct workload_counts - of a workload, by worker; the last of a snapshot's are those of no workload. It lives from snapshot to snapshot. */
struct workload_counts {
	char *name;
	uint32_t refs; /* snapshots; main thread */
	struct workload_count {
		_Alignas(64) _Atomic uint64_t connections, active, refused;
	} at[];
};
/** workloads_prepare() - counters of @next, those of names that @old has, too, go on. Main thread. Return: 0 or -errno with the sentence. */
int workloads_prepare(struct snapshot *next, const struct snapshot *old, struct err *reterr);
void workloads_release(struct snapshot *s); /* main thread */

/** whose_captured() - the kernel said so when it was captured */
void whose_captured(struct conn *c, const struct capture_claim *claim);
/** whose_source() - an accepted TCP connection: which workload has it? false: it has ended, since that cannot be told */
bool whose_source(struct conn *c);
/** whose_asked() - a stream that came by @t: whose address is @to? false: it has ended, @t is another's */
bool whose_asked(struct conn *c, const struct tunnel *t, const struct addr *to);
/** whose_short() - the same without a tunnel, at listener @l as @id (NULL: without TLS) */
bool whose_short(struct conn *c, const struct cfg_listener *l, const struct cfg_identity *id, const struct addr *to);
/** whose_leaves() - may it leave by its cluster? false: it has ended, it has no identity for that */
bool whose_leaves(struct conn *c);
/** whose_identity() - as whom it leaves by @cl, which is the @hop-th tunnel cluster on its way, from 0 on; one of c->snap. NULL: nobody */
const struct cfg_identity *whose_identity(const struct conn *c, const struct cfg_cluster *cl, uint32_t hop);
/** whose_asks() - what we say of ourselves when it asks for a stream of @t, which was dialled */
const struct connect_self *whose_asks(const struct conn *c, const struct tunnel *t);
/** whose_self() - the same without a tunnel: the short way by @cl, its @hop */
const struct connect_self *whose_self(const struct conn *c, const struct cfg_cluster *cl, uint32_t hop);
/** whose_answer() - what we say of ourselves to who asked by @t */
const struct connect_self *whose_answer(const struct conn *c, const struct tunnel *t);
/** whose_node() - what is known of our end of leg SRC or DST, which is a socket */
const struct cfg_node *whose_node(const struct conn *c, bool src);
/** whose_principal() - SPIFFE id of the workload that opened it; NULL: unknown */
const char *whose_principal(const struct conn *c);
void whose_end(struct conn *c); /* it is counted no more */
