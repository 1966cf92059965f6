/* forwarded (RFC 7239, the subset agents use) and traceparent (W3C Trace Context). Pure. */
#pragma once
#include "codec/codec_types.h"
#include "model/addr.h"

#define FORWARDED_MAX 128u
#define TRACEPARENT_LEN 55u

/** forwarded_encode() - for="10.0.0.3:41234" (IPv6: for="[2001:db8::3]:41234"). Return: length written. */
size_t forwarded_encode(char out[FORWARDED_MAX], const struct addr *src);
/** forwarded_parse() - first for= element with a literal address. Return: 0 or -EINVAL (then *ret is untouched). */
int forwarded_parse(const char *s, size_t n, struct addr *ret);

struct traceparent {
	char trace_id[33], parent_id[17]; /* lower-case hex, NUL-terminated */
	uint8_t flags;
};
/** traceparent_parse() - version 00 exactly 55 characters; higher versions by their first 55; ff and all-zero ids invalid. */
int traceparent_parse(const char *s, size_t n, struct traceparent *ret);
/** traceparent_encode() - 00-<32 hex>-<16 hex>-<flags> from 24 random bytes (zeros are avoided); NUL-terminated. */
void traceparent_encode(char out[TRACEPARENT_LEN + 1], const uint8_t rnd[24], uint8_t flags);
