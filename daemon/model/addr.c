/*
 * Addresses as data.
 *
 * One form per address: IPv4 that arrives as v4-mapped IPv6 (::ffff:10.0.0.7, what a dual-stack socket reports) is stored as
 * IPv4, unused bytes are zero. So addresses can be compared and hashed as memory, and a rule for 10.0.0.0/8 holds however
 * the connection came in. Text is strict: dotted quads without leading zeros, IPv6 in brackets before a port, no names, no
 * zones, no host bits behind a prefix (10.0.0.7/8 is more likely a mistake than a wish, and it would be one in a policy).
 */
#include "model/addr.h"
#include "base/log.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>

static int refuse(struct err *reterr, const char *s, size_t n, const char *want)
{
	char q[80];

	return err_set(reterr, -EINVAL, "%s: want %s", log_quote(q, sizeof(q), s, n), want);
}

/* The address alone, without brackets. Return: whether it is one. */
static bool ip_read(const char *s, size_t n, struct addr *ret)
{
	static const uint8_t mapped[12] = {[10] = 0xff, [11] = 0xff};
	struct addr a = {0};
	char text[INET6_ADDRSTRLEN];

	if (n >= sizeof(text) || memchr(s, '\0', n))
		return false;
	memcpy(text, s, n);
	text[n] = '\0';
	if (inet_pton(AF_INET, text, a.ip) == 1) {
		a.family = AF_INET;
	} else if (inet_pton(AF_INET6, text, a.ip) == 1) {
		a.family = AF_INET6;
		if (memcmp(a.ip, mapped, sizeof(mapped)) == 0) {
			a.family = AF_INET;
			memmove(a.ip, a.ip + 12, 4);
			memset(a.ip + 4, 0, 12);
		}
	} else {
		return false;
	}
	*ret = a;
	return true;
}

/* Digits only. Return: whether they are a number from 0 to max. */
static bool number_read(const char *s, size_t n, uint32_t max, uint32_t *ret)
{
	uint32_t v = 0;

	if (n == 0 || n > 5)
		return false;
	for (size_t i = 0; i < n; i++) {
		if (s[i] < '0' || s[i] > '9')
			return false;
		v = v * 10 + (uint32_t)(s[i] - '0');
	}
	if (v > max)
		return false;
	*ret = v;
	return true;
}

/*
 * Cut "HOST", "HOST:PORT", "[HOST]", "[HOST]:PORT" in two. Several colons without brackets are an IPv6 address without port.
 * Return: false if the brackets are wrong; *ret_port is NULL without a port.
 */
static bool host_cut(const char *s, size_t n, const char **ret_host, size_t *ret_host_n, const char **ret_port,
		     size_t *ret_port_n)
{
	const char *end = s + n, *colon;

	*ret_port = NULL;
	*ret_port_n = 0;
	if (n && s[0] == '[') {
		const char *close = memchr(s, ']', n);

		if (!close || (close + 1 < end && close[1] != ':'))
			return false;
		*ret_host = s + 1;
		*ret_host_n = (size_t)(close - s) - 1;
		colon = close + 1 < end ? close + 1 : NULL;
		if (!memchr(*ret_host, ':', *ret_host_n))
			return false;
	} else {
		colon = n ? memchr(s, ':', n) : NULL;
		if (colon && memchr(colon + 1, ':', (size_t)(end - colon) - 1))
			colon = NULL;
		*ret_host = s;
		*ret_host_n = colon ? (size_t)(colon - s) : n;
	}
	if (colon) {
		*ret_port = colon + 1;
		*ret_port_n = (size_t)(end - colon) - 1;
	}
	return true;
}

int addr_parse(const char *s, size_t n, struct addr *ret, struct err *reterr)
{
	const char *host, *port;
	size_t host_n, port_n;
	struct addr a;
	uint32_t v;

	if (!host_cut(s, n, &host, &host_n, &port, &port_n) || !port || !ip_read(host, host_n, &a))
		return refuse(reterr, s, n, "IP:PORT or [IP6]:PORT");
	if (!number_read(port, port_n, UINT16_MAX, &v))
		return refuse(reterr, s, n, "a port from 0 to 65535");
	a.port = (uint16_t)v;
	*ret = a;
	return 0;
}

int addr_parse_ip(const char *s, size_t n, struct addr *ret, struct err *reterr)
{
	if (!ip_read(s, n, ret))
		return refuse(reterr, s, n, "an IP address");
	return 0;
}

char *addr_ip_str(const struct addr *a, char out[ADDR_STR])
{
	if ((a->family != AF_INET && a->family != AF_INET6) || !inet_ntop(a->family, a->ip, out, ADDR_STR))
		memcpy(out, "-", 2);
	return out;
}

char *addr_str(const struct addr *a, char out[ADDR_STR])
{
	char ip[INET6_ADDRSTRLEN];

	if ((a->family != AF_INET && a->family != AF_INET6) || !inet_ntop(a->family, a->ip, ip, sizeof(ip)))
		memcpy(out, "-", 2);
	else
		snprintf(out, ADDR_STR, a->family == AF_INET ? "%s:%u" : "[%s]:%u", ip, a->port);
	return out;
}

bool addr_eq(const struct addr *a, const struct addr *b)
{
	if (a->family != b->family)
		return false;
	if (a->family != AF_INET && a->family != AF_INET6)
		return true;
	return a->port == b->port && memcmp(a->ip, b->ip, a->family == AF_INET ? 4 : 16) == 0;
}

socklen_t addr_to_sa(const struct addr *a, struct sockaddr_storage *ret)
{
	if (a->family == AF_INET) {
		struct sockaddr_in in = {.sin_family = AF_INET, .sin_port = htons(a->port)};

		memcpy(&in.sin_addr, a->ip, 4);
		memcpy(ret, &in, sizeof(in));
		return sizeof(in);
	}
	if (a->family == AF_INET6) {
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(a->port)};

		memcpy(&in6.sin6_addr, a->ip, 16);
		memcpy(ret, &in6, sizeof(in6));
		return sizeof(in6);
	}
	return 0;
}

void addr_from_sa(const struct sockaddr *sa, struct addr *ret)
{
	struct addr a = {0};

	if (sa->sa_family == AF_INET) {
		struct sockaddr_in in;

		memcpy(&in, sa, sizeof(in));
		a.family = AF_INET;
		a.port = ntohs(in.sin_port);
		memcpy(a.ip, &in.sin_addr, 4);
	} else if (sa->sa_family == AF_INET6) {
		struct sockaddr_in6 in6;

		memcpy(&in6, sa, sizeof(in6));
		a.port = ntohs(in6.sin6_port);
		if (IN6_IS_ADDR_V4MAPPED(&in6.sin6_addr)) {
			a.family = AF_INET;
			memcpy(a.ip, in6.sin6_addr.s6_addr + 12, 4);
		} else {
			a.family = AF_INET6;
			memcpy(a.ip, &in6.sin6_addr, 16);
		}
	}
	*ret = a;
}

/* ---- cidr ---- */

/* Do a and b agree in the first bits? */
static bool prefix_eq(const uint8_t *a, const uint8_t *b, unsigned int bits)
{
	unsigned int rest = bits % 8;

	if (memcmp(a, b, bits / 8) != 0)
		return false;
	return rest == 0 || ((a[bits / 8] ^ b[bits / 8]) >> (8 - rest)) == 0;
}

/* "IP" or "IP/BITS" without brackets; n > 0 */
static int net_parse(const char *s, size_t n, struct cidr *c, struct err *reterr)
{
	const char *slash = memchr(s, '/', n);
	size_t ip_n = slash ? (size_t)(slash - s) : n;
	uint8_t net[16] = {0};
	uint32_t full, bits;

	if (!ip_read(s, ip_n, &c->net))
		return refuse(reterr, s, n, "an IP address or CIDR");
	full = memchr(s, ':', ip_n) ? 128 : 32; /* as written; v4-mapped is IPv4 by now */
	bits = full;
	if (slash && !number_read(slash + 1, n - ip_n - 1, full, &bits))
		return refuse(reterr, s, n,
			      full == 32 ? "a prefix length from 0 to 32" : "a prefix length from 0 to 128");
	if (full == 128 && c->net.family == AF_INET) {
		if (bits < 96)
			return refuse(reterr, s, n, "a prefix length from 96 to 128 for v4-mapped addresses");
		bits -= 96;
	}
	c->bits = (uint8_t)bits;

	memcpy(net, c->net.ip, (bits + 7) / 8);
	if (bits % 8)
		net[bits / 8] &= (uint8_t)(0xff << (8 - bits % 8));
	if (memcmp(net, c->net.ip, sizeof(net)) != 0) {
		char ip[ADDR_STR], want[ADDR_STR + 40];
		struct addr a = c->net;

		memcpy(a.ip, net, sizeof(net));
		snprintf(want, sizeof(want), "%s/%u, or /%u for one address", addr_ip_str(&a, ip), bits,
			 c->net.family == AF_INET ? 32u : 128u);
		return refuse(reterr, s, n, want);
	}
	return 0;
}

/* "PORT" or "PORT-PORT" */
static bool ports_read(const char *s, size_t n, struct cidr *c)
{
	const char *dash = n ? memchr(s, '-', n) : NULL;
	uint32_t first, last;

	if (!number_read(s, dash ? (size_t)(dash - s) : n, UINT16_MAX, &first))
		return false;
	last = first;
	if (dash && !number_read(dash + 1, n - (size_t)(dash - s) - 1, UINT16_MAX, &last))
		return false;
	c->port_first = (uint16_t)first;
	c->port_last = (uint16_t)last;
	return first > 0 && first <= last;
}

int cidr_parse(const char *s, size_t n, struct cidr *ret, struct err *reterr)
{
	struct cidr c = {.net.family = AF_UNSPEC};
	const char *host, *port;
	size_t host_n, port_n;
	int r;

	if (!host_cut(s, n, &host, &host_n, &port, &port_n) || host_n == 0)
		return refuse(reterr, s, n, "CIDR, CIDR:PORT, CIDR:PORT-PORT, [CIDR6]:PORT or *");
	if (host_n != 1 || host[0] != '*') {
		r = net_parse(host, host_n, &c, reterr);
		if (r < 0)
			return r;
	}
	if (port && !ports_read(port, port_n, &c))
		return refuse(reterr, s, n, "a port, or first and last port, from 1 to 65535");
	*ret = c;
	return 0;
}

bool cidr_has(const struct cidr *c, const struct addr *a)
{
	if (a->family != AF_INET && a->family != AF_INET6)
		return false;
	if (c->net.family != AF_UNSPEC && (c->net.family != a->family || !prefix_eq(c->net.ip, a->ip, c->bits)))
		return false;
	return c->port_last == 0 || (a->port >= c->port_first && a->port <= c->port_last);
}
