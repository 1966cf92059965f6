/*
 * Which route of a listener takes a connection: first match wins, conditions AND-ed. Pure; worker thread; regexes run with
 * a match limit, and one that exceeds it does not match.
 */
#pragma once
#include "model/config.h"
#include "model/metadata_block.h"
#include "model/slice.h"

struct route_input {
	struct slice authority;	      /* text of :authority, or of the original destination */
	struct addr addr;	      /* literal address of it, AF_UNSPEC for names */
	uint16_t port;
	const struct header *headers; /* of the outermost leg */
	size_t n_headers;
	/* decoded metadata is matched, too, under its member names (e.g. k8s.namespace.name); may be NULL */
	const struct metadata *md;
};
/**
 * route_find() - first match wins
 * The authority is matched in lower case, with its port or without. A header that comes several times is matched as one, joined
 * by ", "; without such a header the member of @md counts.
 * Return: the matching route; NULL: none (the listener's default target applies).
 */
const struct cfg_route *route_find(const struct cfg_listener *l, const struct route_input *in);
/**
 * route_why() - for people: why does @r not take it? A sentence in @out, "" when it does.
 * Return: does it?
 */
#define ROUTE_WHY 256u
bool route_why(const struct cfg_route *r, const struct route_input *in, char out[ROUTE_WHY]);
/**
 * match_text() - one string match; @s.p NULL means absent (only `present: invert` and inverted matches say yes)
 * A regex must match the whole text. One that exceeds its limits (steps, 4096 bytes of text) says no, inverted or not.
 */
bool match_text(const struct cfg_match *m, struct slice s);
/** match_compile() / match_release() - regex life cycle, for config/. Return: 0 or -EINVAL with pcre2's sentence. */
int match_compile(struct cfg_match *m, struct err *reterr);
void match_release(struct cfg_match *m);
