/*
 * x-envoy-peer-metadata (Istio): base64 of a google.protobuf.Struct. Pure. The seam between metadata.c, which keeps what it
 * is told, and peer_metadata.c, which knows the wire form; peer_metadata_encode() is in metadata.h.
 */
#pragma once
#include "codec/codec_types.h"

#define PEER_METADATA_MAX 16384u /* bytes of the Struct; a longer header is refused unread */

/* one string of the Struct, valid during the call; @label: it is a member of LABELS */
typedef void peer_metadata_fn(void *arg, bool label, struct slice key, struct slice value);

/**
 * peer_metadata_decode() - hand every string field of the Struct, and every string in LABELS, to @fn
 * @s:	standard alphabet; the padding may be missing
 * Fields of other kinds are passed over.
 * Return: 0, or -EINVAL (malformed or too long) with @fn perhaps called already.
 */
int peer_metadata_decode(const char *s, size_t n, peer_metadata_fn *fn, void *arg);
