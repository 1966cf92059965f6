/* :authority of a CONNECT: host:port, IP:port, [v6]:port (RFC 9110 7.2, RFC 3986 3.2). Pure. */
#pragma once
#include "base/err.h"
#include "codec/codec_types.h"
#include "model/addr.h"

#define AUTHORITY_HOST_MAX 253u

struct authority {
	struct slice host;  /* without brackets; points into the input */
	uint16_t port;
	struct addr addr;   /* AF_UNSPEC when host is a name */
};
/** authority_parse() - the port is required (1..65535); names: letters, digits, '-', '_', '.'. Return: 0 or -EINVAL. */
int authority_parse(const char *s, size_t n, struct authority *ret, struct err *reterr);
