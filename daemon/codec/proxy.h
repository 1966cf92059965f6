/*
 * PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt), with the TLVs of meshes: 0xD0 the source's SPIFFE id, 0xD1 the
 * service's host name. Pure: bytes in, verdict and length out; slices point into the input.
 */
#pragma once
#include "base/err.h"
#include "codec/codec_types.h"
#include "model/addr.h"

#define PROXY_V1_MAX 107u   /* bytes with CRLF; the protocol's own limit */
#define PROXY_MAX 16384u    /* bytes of a version 2 header that are accepted; the protocol would allow 65551 */
#define PROXY_OUT_MAX 2432u /* bytes that proxy_encode() writes at the most */
#define PROXY_SERVICE_MAX 253u

struct proxy {
	uint8_t version;	 /* 1, 2 */
	struct addr src, dst;	 /* AF_UNSPEC: the header says nothing (LOCAL, UNKNOWN, UNSPEC, UDP, UNIX): the socket's addresses hold */
	struct slice principal;	 /* 0xD0: a SPIFFE id; p NULL: not said */
	struct slice service;	 /* 0xD1: a host name; p NULL: not said */
};
/**
 * proxy_decode() - the header that a connection begins with
 * Bytes that cannot become a header any more are refused at once, however few they are.
 * Return: its length in bytes; 0: more bytes are needed; -EINVAL with the sentence (*ret is untouched then).
 */
int proxy_decode(const uint8_t *p, size_t n, struct proxy *ret, struct err *reterr);
/**
 * proxy_encode() - a header of @h->version (TLVs only in version 2)
 * Addresses of different families are both written as IPv6; without one of them the header says UNKNOWN or LOCAL. A principal or
 * service that is longer than the protocol's readers take (2048, 253 bytes) is left out.
 * Return: its length.
 */
size_t proxy_encode(uint8_t out[PROXY_OUT_MAX], const struct proxy *h);
