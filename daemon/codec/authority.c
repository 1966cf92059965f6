/*
 * host:port of a CONNECT.
 *
 * Strict on purpose: the text is matched by routes and then dialled, so every spelling that another program might read as a
 * different destination is refused. There is one way to write a port (no leading zeros), and a name whose last label is a number
 * must be a dotted quad: resolvers take "127.1", "0x7f.1" and "2130706433" for 127.0.0.1.
 */
#include "codec/authority.h"
#include "base/log.h"
#include <stdio.h>

#define LABEL_MAX 63u

/* "host:port" as the peer wrote it, quoted and cut, then what is wrong with it */
static int refuse(struct err *e, struct slice text, const char *why)
{
	char quoted[96];

	return e ? err_set(e, -EINVAL, "authority %s: %s", log_quote(quoted, sizeof(quoted), text.p, text.n), why)
		 : -EINVAL;
}

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

static bool port_parse(struct slice s, uint16_t *ret)
{
	uint32_t v = 0;

	if (!s.n || s.n > 5 || s.p[0] == '0')
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (!is_digit(s.p[i]))
			return false;
		v = v * 10 + (uint32_t)(s.p[i] - '0');
	}
	if (v > UINT16_MAX)
		return false;
	*ret = (uint16_t)v;
	return true;
}

/* A number in any of the notations that inet_aton() knows. */
static bool label_is_number(struct slice s)
{
	bool hex = s.n >= 2 && s.p[0] == '0' && (s.p[1] | 0x20) == 'x';

	for (size_t i = hex ? 2 : 0; i < s.n; i++)
		if (!is_digit(s.p[i]) && !(hex && (s.p[i] | 0x20) >= 'a' && (s.p[i] | 0x20) <= 'f'))
			return false;
	return s.n > 0;
}

/* Return: NULL, or what is wrong; *ret_number: the last label is a number. One dot at the end is allowed (RFC 1034 3.1). */
static const char *name_check(struct slice s, bool *ret_number)
{
	size_t label = 0, n = s.n;

	if (!n)
		return "no host";
	if (n > AUTHORITY_HOST_MAX)
		return "host is longer than 253 bytes";
	if (n > 1 && s.p[n - 1] == '.')
		n--;
	for (size_t i = 0; i < n; i++) {
		char c = s.p[i];

		if (c == '.') {
			if (i == label)
				return "empty label in host";
			label = i + 1;
		} else if (!is_digit(c) && !((c | 0x20) >= 'a' && (c | 0x20) <= 'z') && c != '-' && c != '_') {
			return "character not allowed in host";
		} else if (i - label >= LABEL_MAX) {
			return "label in host is longer than 63 bytes";
		}
	}
	if (label == n)
		return "empty label in host";
	*ret_number = label_is_number((struct slice){s.p + label, n - label});
	return NULL;
}

int authority_parse(const char *s, size_t n, struct authority *ret, struct err *reterr)
{
	struct slice all = {s, n};
	struct authority a = {.addr = {.family = AF_UNSPEC}};
	const char *colon, *why;
	bool number = false;

	if (n > AUTHORITY_HOST_MAX + sizeof("[]:65535") - 1)
		return refuse(reterr, all, "too long");
	colon = n ? memrchr(s, ':', n) : NULL;
	if (!colon || !port_parse((struct slice){colon + 1, (size_t)(s + n - colon - 1)}, &a.port))
		return refuse(reterr, all, "want host:port with a port in 1..65535");
	a.host = (struct slice){s, (size_t)(colon - s)};
	if (a.host.n && a.host.p[0] == '[') {
		if (a.host.p[a.host.n - 1] != ']')
			return refuse(reterr, all, "'[' without ']'");
		a.host = (struct slice){a.host.p + 1, a.host.n - 2};
		if (!memchr(a.host.p, ':', a.host.n) || addr_parse_ip(a.host.p, a.host.n, &a.addr, NULL) < 0)
			return refuse(reterr, all, "no IPv6 address in brackets");
	} else {
		why = name_check(a.host, &number);
		if (why)
			return refuse(reterr, all, why);
		if (number && addr_parse_ip(a.host.p, a.host.n, &a.addr, NULL) < 0)
			return refuse(reterr, all, "ends in a number but is no IPv4 address");
	}
	if (a.addr.family != AF_UNSPEC)
		a.addr.port = a.port;
	*ret = a;
	return 0;
}
