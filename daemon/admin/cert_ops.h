/*
 * What the API may ask about identities: plain rows, so that admin/ needs to know neither files nor snapshots (control/ does, which is above).
 */
#pragma once
#include "tls/ctx.h"

/** struct cert_row - an identity that is in force; valid until the main thread's next turn */
struct cert_row {
	const char *name;
	const struct tls_ctx *ctx;
	const char *rotate; /* as configured */
	const char *bad;    /* why its files, as they are now, were not taken; NULL: they are in force */
	uint64_t bad_since; /* unix seconds */
	uint64_t loads, failures;
};

/** struct cert_ops - @list: on the main thread, or held (inspect_hold()). Return: how many rows. */
struct cert_ops {
	uint32_t (*list)(void *arg, const struct cert_row **ret);
	void *arg;
};
