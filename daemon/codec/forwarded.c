/*
 * The original source address (RFC 7239, for=) and the trace context (W3C) of a CONNECT.
 *
 * forwarded is a list of elements, each a list of pairs; values are tokens or quoted strings, so commas and semicolons only
 * separate outside quotes. Hops may hide themselves ("unknown", "_gateway"): the first for= that names an address is taken.
 */
#include "codec/forwarded.h"
#include <errno.h>
#include <stdio.h>
#include <strings.h>

#define NODE_MAX 64u /* no literal address with port is longer; longer values are not one */

size_t forwarded_encode(char out[FORWARDED_MAX], const struct addr *src)
{
	char text[ADDR_STR];

	if (src->family == AF_UNSPEC)
		return (size_t)snprintf(out, FORWARDED_MAX, "for=unknown");
	return (size_t)snprintf(out, FORWARDED_MAX, "for=\"%s\"", addr_str(src, text));
}

/* RFC 7239 6.2: digits, or an obfuscated "_text", which says nothing: 0 */
static bool node_port(struct slice s, uint16_t *ret)
{
	uint32_t v = 0;

	*ret = 0;
	if (s.n > 1 && s.p[0] == '_')
		return true;
	if (!s.n || s.n > 5)
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (uint32_t)(s.p[i] - '0');
	}
	*ret = (uint16_t)v;
	return v <= UINT16_MAX;
}

/* IPv4, IPv4:port, [IPv6], [IPv6]:port */
static bool node_parse(struct slice s, struct addr *ret)
{
	struct addr a = {.family = AF_UNSPEC};
	struct slice ip = s, port = {NULL, 0};
	const char *end;
	uint16_t number = 0;

	if (s.n && s.p[0] == '[') {
		end = memchr(s.p, ']', s.n);
		if (!end || !memchr(s.p, ':', (size_t)(end - s.p)))
			return false;
		ip = (struct slice){s.p + 1, (size_t)(end - s.p - 1)};
		end++;
		if (end < s.p + s.n && *end != ':')
			return false;
	} else {
		end = memchr(s.p, ':', s.n);
		if (end)
			ip.n = (size_t)(end - s.p);
		else
			end = s.p + s.n;
	}
	if (end < s.p + s.n) {
		port = (struct slice){end + 1, (size_t)(s.p + s.n - end - 1)};
		if (!node_port(port, &number))
			return false;
	}
	if (!ip.n || addr_parse_ip(ip.p, ip.n, &a, NULL) < 0)
		return false;
	a.port = number;
	*ret = a;
	return true;
}

struct cursor {
	const char *p, *end;
};

static void skip_space(struct cursor *c)
{
	while (c->p < c->end && (*c->p == ' ' || *c->p == '\t'))
		c->p++;
}

/* A token or a quoted string, unescaped into @out; one that is too long becomes empty. Return: false if malformed. */
static bool value_read(struct cursor *c, char out[NODE_MAX], size_t *ret_n)
{
	bool quoted = c->p < c->end && *c->p == '"';
	size_t n = 0;

	for (c->p += quoted; c->p < c->end; c->p++) {
		if (quoted ? *c->p == '"' : *c->p == ',' || *c->p == ';' || *c->p == ' ' || *c->p == '\t')
			break;
		if (!quoted && *c->p == '"')
			return false;
		if (quoted && *c->p == '\\' && c->end - c->p > 1)
			c->p++;
		if (n <= NODE_MAX && n++ < NODE_MAX)
			out[n - 1] = *c->p;
	}
	if (quoted && c->p++ == c->end)
		return false;
	*ret_n = n <= NODE_MAX ? n : 0;
	return true;
}

int forwarded_parse(const char *s, size_t n, struct addr *ret)
{
	struct cursor c = {s, s + n};

	for (;;) {
		char value[NODE_MAX];
		const char *name;
		size_t value_n;
		bool is_for;

		while (c.p < c.end && (*c.p == ',' || *c.p == ';' || *c.p == ' ' || *c.p == '\t'))
			c.p++;
		name = c.p;
		while (c.p < c.end && *c.p != '=' && *c.p != ',' && *c.p != ';' && *c.p != '"' && *c.p != ' ')
			c.p++;
		if (c.p == name || c.p == c.end || *c.p != '=')
			return -EINVAL;
		is_for = c.p - name == 3 && !strncasecmp(name, "for", 3);
		c.p++;
		if (!value_read(&c, value, &value_n))
			return -EINVAL;
		skip_space(&c);
		if (c.p < c.end && *c.p != ',' && *c.p != ';')
			return -EINVAL;
		if (is_for && node_parse((struct slice){value, value_n}, ret))
			return 0;
	}
}

/* ---- traceparent: version-trace_id-parent_id-flags, lower-case hex */

static int hex_digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

static bool hex_byte(const char *s, uint8_t *ret)
{
	int hi = hex_digit(s[0]), lo = hex_digit(s[1]);

	if (hi < 0 || lo < 0)
		return false;
	*ret = (uint8_t)(hi << 4 | lo);
	return true;
}

/* Return: true if @n digits of hex that are not all zero; @out gets a NUL. */
static bool id_read(char *out, const char *s, size_t n)
{
	bool some = false;

	for (size_t i = 0; i < n; i++) {
		if (hex_digit(s[i]) < 0)
			return false;
		some |= s[i] != '0';
		out[i] = s[i];
	}
	out[n] = '\0';
	return some;
}

int traceparent_parse(const char *s, size_t n, struct traceparent *ret)
{
	struct traceparent t;
	uint8_t version;

	if (n < TRACEPARENT_LEN || !hex_byte(s, &version) || version == 0xff)
		return -EINVAL;
	if (n > TRACEPARENT_LEN && (version == 0 || s[TRACEPARENT_LEN] != '-'))
		return -EINVAL;
	if (s[2] != '-' || s[35] != '-' || s[52] != '-')
		return -EINVAL;
	if (!id_read(t.trace_id, s + 3, 32) || !id_read(t.parent_id, s + 36, 16) || !hex_byte(s + 53, &t.flags))
		return -EINVAL;
	*ret = t;
	return 0;
}

/* @n random bytes as hex; all zero is no id, so the last one is made 1 then. Return: where to go on. */
static char *id_write(char *out, const uint8_t *rnd, size_t n)
{
	static const char hex[] = "0123456789abcdef";
	uint8_t some = 0;

	for (size_t i = 0; i < n; i++) {
		some |= rnd[i];
		*out++ = hex[rnd[i] >> 4];
		*out++ = hex[rnd[i] & 15];
	}
	if (!some)
		out[-1] = '1';
	return out;
}

void traceparent_encode(char out[TRACEPARENT_LEN + 1], const uint8_t rnd[24], uint8_t flags)
{
	char *p = out;

	*p++ = '0';
	*p++ = '0';
	*p++ = '-';
	p = id_write(p, rnd, 16);
	*p++ = '-';
	p = id_write(p, rnd + 16, 8);
	*p++ = '-';
	snprintf(p, 3, "%02x", flags);
}
