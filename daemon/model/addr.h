/* Addresses as plain data: IPv4, IPv6, or a UNIX socket path. Text forms: 10.0.0.7:80, [2001:db8::7]:80, unix:/path. */
#pragma once
#include "base/err.h"
#include <netinet/in.h>
#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>

#define ADDR_STR 64 /* enough for every IP form; a longer UNIX path is cut */

/** struct addr - 20 bytes; family AF_UNSPEC: none. v4-mapped IPv6 is stored as IPv4. UNIX paths are not kept here. */
struct addr {
	uint8_t family; /* AF_UNSPEC, AF_INET, AF_INET6 */
	uint8_t pad;
	uint16_t port;	 /* host order */
	uint8_t ip[16];	 /* network order; IPv4 in the first four */
};

/** addr_parse() - "IP:PORT", "[IP6]:PORT"; no names. Return: 0 or -EINVAL with the sentence. */
int addr_parse(const char *s, size_t n, struct addr *ret, struct err *reterr);
/** addr_parse_ip() - an address without port. */
int addr_parse_ip(const char *s, size_t n, struct addr *ret, struct err *reterr);
/** addr_str() - Return: @out; "-" for AF_UNSPEC. */
char *addr_str(const struct addr *a, char out[ADDR_STR]);
/** addr_ip_str() - without the port and brackets. */
char *addr_ip_str(const struct addr *a, char out[ADDR_STR]);
bool addr_eq(const struct addr *a, const struct addr *b);
static inline bool addr_is_any(const struct addr *a) /* 0.0.0.0, :: */
{
	static const uint8_t zero[16];

	return (a->family == AF_INET || a->family == AF_INET6) && !memcmp(a->ip, zero, a->family == AF_INET ? 4 : 16);
}
static inline bool addr_is_loopback(const struct addr *a) /* 127.0.0.0/8, ::1 */
{
	static const uint8_t one[16] = {[15] = 1};

	return a->family == AF_INET ? a->ip[0] == 127 : a->family == AF_INET6 && !memcmp(a->ip, one, sizeof(one));
}
/** addr_to_sa() - Return: the length to give to the kernel, 0 for AF_UNSPEC. */
socklen_t addr_to_sa(const struct addr *a, struct sockaddr_storage *ret);
void addr_from_sa(const struct sockaddr *sa, struct addr *ret);

/** struct cidr - 10.0.0.0/8, ::/0, a bare IP (full length); with ports: first..last, 0..0 = any */
struct cidr {
	struct addr net; /* port unused */
	uint8_t bits;
	uint16_t port_first, port_last;
};
/** cidr_parse() - "CIDR", "CIDR:PORT", "CIDR:PORT-PORT" (IPv6 with ports: "[CIDR]:PORT"), "*" or "*:PORT" = both families. */
int cidr_parse(const char *s, size_t n, struct cidr *ret, struct err *reterr);
bool cidr_has(const struct cidr *c, const struct addr *a); /* port compared when the cidr names any */
