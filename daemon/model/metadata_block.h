/*
 * What a peer says of itself, decoded into one immutable block: names and values. Plain data; codec/metadata.h builds blocks
 * and says what names there are. Nothing in a block is trusted as identity.
 */
#pragma once
#include "model/slice.h"

/* well-known members, found without searching */
enum md_known {
	MD_NODE_ID, MD_CLUSTER, MD_NAMESPACE, MD_WORKLOAD_TYPE, MD_WORKLOAD, MD_SERVICE, MD_VERSION, MD_REGION, MD_ZONE, MD_IDENTITY,
	MD_KNOWN
};

struct metadata {
	uint32_t refs;	/* owner's count; metadata_put() frees at 0. One thread. */
	uint32_t size;	/* bytes of the whole block */
	uint64_t hash;	/* of the contents: equal blocks may be shared */
	uint16_t n;	/* pairs in text */
	uint16_t known[MD_KNOWN]; /* offset of the value in text, 0: absent */
	uint16_t dropped;	  /* members and headers left out because of a limit or malformed */
	char text[];	/* [0] is NUL; then "name\0value\0" pairs */
};
#define METADATA_CONTENT offsetof(struct metadata, n) /* from here on, to ->size, is what is hashed and compared */

struct metadata *metadata_get_ref(struct metadata *m);
void metadata_put(struct metadata *m); /* NULL is fine */
bool metadata_eq(const struct metadata *a, const struct metadata *b);
/** metadata_find() - value by name ("k8s.namespace.name", "x-client-id"), NUL-terminated; NULL: absent */
const char *metadata_find(const struct metadata *m, const char *name);
static inline const char *metadata_known(const struct metadata *m, enum md_known k)
{
	return m && m->known[k] ? m->text + m->known[k] : NULL;
}
/** metadata_each() - walk pairs: *pos starts at 0. Return: false at the end. */
bool metadata_each(const struct metadata *m, uint32_t *pos, const char **ret_name, const char **ret_value);
