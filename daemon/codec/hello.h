/* The server name that a TLS client asks for, before any of it is answered (RFC 8446 4.1.2, RFC 6066 3). Pure. */
#pragma once
#include "base/err.h"
#include "model/slice.h"

#define HELLO_MAX 17408u /* bytes of records that are looked at: a hello of 16 KiB, in pieces of some size */
#define HELLO_NAME_MAX 255u

/**
 * hello_server_name() - what a connection begins with, records and all
 * @p: written to: pieces of the hello are put together in place
 * Return: 1 and *ret (into @p; n 0: no name is asked for), 0: more bytes are needed, -EINVAL with the sentence: that is no hello.
 */
int hello_server_name(uint8_t *p, size_t n, struct slice *ret, struct err *reterr);
