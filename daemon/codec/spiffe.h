/* SPIFFE ids (SPIFFE-ID standard) and patterns over them. Pure. */
#pragma once
#include "base/err.h"
#include "codec/codec_types.h"

#define SPIFFE_MAX 2048u

struct spiffe {
	struct slice trust_domain, path; /* path without the first '/'; point into the input */
	struct slice ns, sa;		 /* set when the path is ns/NS/sa/SA */
};
/** spiffe_parse() - Return: 0, or -EINVAL with what is wrong. */
int spiffe_parse(const char *s, size_t n, struct spiffe *ret, struct err *reterr);
/** spiffe_match() - exact, or with one '*' at the end or the beginning; also "spiffe://td/ns/STAR/sa/STAR" (each '*' one segment) */
bool spiffe_match(const char *pattern, const char *id, size_t id_len);
