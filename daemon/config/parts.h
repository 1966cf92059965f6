/*
 * What a configuration consists of, part by part, as far as needed to say how two differ: names, and a hash of what was written.
 * Defaults that are spelt out are a difference here and none in effect; nobody minds.
 */
#pragma once
#include "base/text.h"
#include "model/config.h"

/** struct cfg_part - listeners/NAME/KEY, or SECTION/KEY */
struct cfg_part {
	const char *section, *name /* NULL: the section is no list */, *key;
	uint64_t hash;
};
struct cfg_parts {
	struct cfg_part *at; /* sorted */
	uint32_t n;
};

struct build;
/** parts_build() - of the tree of @b, into its arena. Return: 0 or -ENOMEM. */
int parts_build(struct build *b);

enum part_change { PART_ADDED, PART_CHANGED, PART_REMOVED };
/**
 * config_diff() - call @said for each thing that is different: a member of a list (@keys: which of its keys, "a, b"; only with
 * PART_CHANGED), or a section (@name NULL)
 * Return: how many.
 */
uint32_t config_diff(const struct config *old, const struct config *new_,
		     void (*said)(void *arg, enum part_change what, const char *section, const char *name, const char *keys), void *arg);
