/*
 * Making snapshots (model/snapshot.h). Main thread, but snapshot_self().
 */
#pragma once
#include "base/err.h"
#include "model/snapshot.h"
#include "tunnel/connect.h"

/**
 * snapshot_create() - @cfg and the contexts of its identities, for @n_workers workers
 * @tls:	by identity index, each a reference; taken with the array, whatever comes of it. NULL: load them here.
 * @cfg_free:	for @cfg, when the last snapshot that has it goes; NULL: it is somebody else's
 * Return: 0, or -errno with the sentence; @cfg is still the caller's then.
 */
int snapshot_create(struct snapshot **ret, struct config *cfg, struct tls_ctx **tls, uint32_t n_workers, void (*cfg_free)(struct config *c),
		    struct err *reterr);
/** snapshot_destroy() - nobody uses it. NULL is fine. */
void snapshot_destroy(struct snapshot *s);
/** snapshot_self_of() - what we say as workload @l, one of its own. Any thread. */
const struct connect_self *snapshot_self_of(const struct snapshot *s, const struct cfg_workload *l);
/** snapshot_self() - what we say of ourselves as @id; NULL: without an identity. Any thread. */
const struct connect_self *snapshot_self(const struct snapshot *s, const struct cfg_identity *id);
