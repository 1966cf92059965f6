/*
 * PROXY protocol.
 *
 * Version 1 is one line of at most 107 bytes: PROXY TCP4|TCP6|UNKNOWN SRC DST SPORT DPORT CRLF. Version 2 is binary: a signature that
 * no text protocol begins with, command, family, length, addresses, TLVs. Strict on purpose: who connects here without a header, or
 * with one that two programs could read differently, is refused by its first wrong byte, and does not have to be waited for.
 * What a version 2 header says is believed or not as a whole: a TLV that is understood (0xD0, 0xD1, the checksum) must be right;
 * others are skipped, as the protocol asks. LOCAL and the families without addresses for TCP mean: take the socket's own.
 */
#include "codec/proxy.h"
#include "codec/spiffe.h"
#include <stdio.h>

#define V2_HEAD 16u
#define UNIX_LEN 216u

enum { CMD_LOCAL = 0x20, CMD_PROXY = 0x21 };
enum { FAM_UNSPEC = 0x00, FAM_TCP4 = 0x11, FAM_UDP4 = 0x12, FAM_TCP6 = 0x21, FAM_UDP6 = 0x22, FAM_UNIX = 0x31, FAM_UNIX_DGRAM = 0x32 };
enum { TLV_CRC32C = 0x03, TLV_PRINCIPAL = 0xd0, TLV_SERVICE = 0xd1 };

static const uint8_t signature[12] = { 0x0d, 0x0a, 0x0d, 0x0a, 0x00, 0x0d, 0x0a, 0x51, 0x55, 0x49, 0x54, 0x0a };

static int bad(struct err *e, const char *why)
{
	return err_set(e, -EINVAL, "PROXY header: %s", why);
}

/* ---- version 1 ---- */

static struct slice word(const char **at, const char *end)
{
	const char *p = *at, *space = memchr(p, ' ', (size_t)(end - p));

	*at = space ? space + 1 : end;
	return (struct slice){ p, (size_t)((space ? space : end) - p) };
}

static bool port_read(struct slice s, uint16_t *ret)
{
	uint32_t v = 0;

	if (!s.n || s.n > 5 || (s.p[0] == '0' && s.n > 1))
		return false;
	for (size_t i = 0; i < s.n; i++) {
		if (s.p[i] < '0' || s.p[i] > '9')
			return false;
		v = v * 10 + (uint32_t)(s.p[i] - '0');
	}
	*ret = (uint16_t)v;
	return v <= UINT16_MAX;
}

/* an IPv6 text may be a mapped IPv4 address, which struct addr keeps as IPv4 */
static bool ip_read(struct slice s, bool v6, struct addr *ret)
{
	return s.n && (memchr(s.p, ':', s.n) != NULL) == v6 && addr_parse_ip(s.p, s.n, ret, NULL) == 0;
}

static int v1_line(const char *p, const char *end, struct proxy *h, struct err *e)
{
	const char *at = p + 6; /* behind "PROXY " */
	struct slice proto = word(&at, end), src, dst, sport, dport;
	bool v6 = slice_is(proto, "TCP6");

	if (slice_is(proto, "UNKNOWN"))
		return 0;
	if (!v6 && !slice_is(proto, "TCP4"))
		return bad(e, "protocol is not TCP4, TCP6 or UNKNOWN");
	src = word(&at, end);
	dst = word(&at, end);
	sport = word(&at, end);
	dport = (struct slice){ at, (size_t)(end - at) };
	if (!ip_read(src, v6, &h->src) || !ip_read(dst, v6, &h->dst))
		return bad(e, "address does not fit the protocol");
	if (!port_read(sport, &h->src.port) || !port_read(dport, &h->dst.port))
		return bad(e, "want ports from 0 to 65535");
	return 0;
}

static int v1_decode(const char *p, size_t n, struct proxy *h, struct err *e)
{
	size_t max = n < PROXY_V1_MAX ? n : PROXY_V1_MAX, i;
	int r;

	if (memcmp(p, "PROXY ", n < 6 ? n : 6))
		return bad(e, "missing: the connection begins with other bytes");
	for (i = 0; i < max && p[i] >= ' ' && p[i] <= '~'; i++)
		;
	if (i == max || (i + 1 == max && p[i] == '\r')) {
		if (max == PROXY_V1_MAX)
			return bad(e, "line is longer than 107 bytes");
		return 0;
	}
	if (p[i] != '\r' || p[i + 1] != '\n')
		return bad(e, "line does not end in CRLF");
	h->version = 1;
	r = v1_line(p, p + i, h, e);
	return r < 0 ? r : (int)i + 2;
}

/* ---- version 2 ---- */

static uint32_t crc32c(uint32_t crc, const uint8_t *p, size_t n) /* RFC 3720 appendix B.4 */
{
	for (size_t i = 0; i < n; i++) {
		crc ^= p[i];
		for (int k = 0; k < 8; k++)
			crc = crc >> 1 ^ (crc & 1 ? 0x82f63b78u : 0);
	}
	return crc;
}

/* over the whole header, with zeros in place of the checksum at @at */
static bool crc_right(const uint8_t *p, size_t n, size_t at)
{
	static const uint8_t zero[4];
	uint32_t c = crc32c(UINT32_MAX, p, at);

	c = ~crc32c(crc32c(c, zero, 4), p + at + 4, n - at - 4);
	return c == ((uint32_t)p[at] << 24 | (uint32_t)p[at + 1] << 16 | (uint32_t)p[at + 2] << 8 | p[at + 3]);
}

static bool is_host(struct slice s)
{
	for (size_t i = 0; i < s.n; i++) {
		char c = s.p[i];

		if (!((c >= '0' && c <= '9') || ((c | 0x20) >= 'a' && (c | 0x20) <= 'z') || c == '-' || c == '_' || c == '.'))
			return false;
	}
	return s.n && s.n <= PROXY_SERVICE_MAX;
}

static int tlv(const uint8_t *p, size_t n, size_t at, size_t len, uint8_t type, struct proxy *h, struct err *e)
{
	struct slice v = { (const char *)p + at, len };
	struct spiffe sp;

	switch (type) {
	case TLV_CRC32C:
		if (len != 4 || !crc_right(p, n, at))
			return bad(e, "checksum is wrong");
		break;
	case TLV_PRINCIPAL:
		if (h->principal.p || spiffe_parse(v.p, v.n, &sp, NULL) < 0)
			return bad(e, "TLV 0xD0 is no SPIFFE id, or comes twice");
		h->principal = v;
		break;
	case TLV_SERVICE:
		if (h->service.p || !is_host(v))
			return bad(e, "TLV 0xD1 is no host name, or comes twice");
		h->service = v;
		break;
	}
	return 0;
}

static int tlvs(const uint8_t *p, size_t n, size_t at, struct proxy *h, struct err *e)
{
	int r = 0;

	while (r == 0 && at < n) {
		size_t len = n - at < 3 ? n : (size_t)p[at + 1] << 8 | p[at + 2];

		if (n - at < 3 || len > n - at - 3)
			return bad(e, "TLV reaches beyond the header");
		r = tlv(p, n, at + 3, len, p[at], h, e);
		at += 3 + len;
	}
	return r;
}

static void addr_take(struct addr *a, int family, const uint8_t *ip, const uint8_t *port)
{
	static const uint8_t mapped[12] = { [10] = 0xff, [11] = 0xff };

	*a = (struct addr){ .family = (uint8_t)family, .port = (uint16_t)(port[0] << 8 | port[1]) };
	if (family == AF_INET6 && !memcmp(ip, mapped, sizeof(mapped))) {
		a->family = AF_INET;
		ip += sizeof(mapped);
	}
	memcpy(a->ip, ip, a->family == AF_INET ? 4 : 16);
}

/* Return: bytes that addresses of the family take, -1: no such family */
static int family_len(uint8_t family)
{
	switch (family) {
	case FAM_UNSPEC:
		return 0;
	case FAM_TCP4:
	case FAM_UDP4:
		return 12;
	case FAM_TCP6:
	case FAM_UDP6:
		return 36;
	case FAM_UNIX:
	case FAM_UNIX_DGRAM:
		return UNIX_LEN;
	}
	return -1;
}

static int v2_block(const uint8_t *p, size_t n, struct proxy *h, struct err *e)
{
	int len = family_len(p[13]);

	if (p[12] == CMD_LOCAL) /* a health check of the sender's own; the rest of the header is to be ignored */
		return 0;
	if (n - V2_HEAD < (size_t)len)
		return bad(e, "shorter than the addresses of its family");
	if (p[13] == FAM_TCP4) {
		addr_take(&h->src, AF_INET, p + 16, p + 24);
		addr_take(&h->dst, AF_INET, p + 20, p + 26);
	} else if (p[13] == FAM_TCP6) {
		addr_take(&h->src, AF_INET6, p + 16, p + 48);
		addr_take(&h->dst, AF_INET6, p + 32, p + 50);
	} else if (p[13] == FAM_UNSPEC) {
		return 0; /* nothing says where TLVs would begin */
	}
	return tlvs(p, n, V2_HEAD + (size_t)len, h, e);
}

static int v2_decode(const uint8_t *p, size_t n, struct proxy *h, struct err *e)
{
	size_t len;
	int r;

	if (memcmp(p, signature, n < sizeof(signature) ? n : sizeof(signature)))
		return bad(e, "missing: the connection begins with other bytes");
	if (n > 12 && p[12] != CMD_LOCAL && p[12] != CMD_PROXY)
		return bad(e, "version or command is unknown");
	if (n > 13 && p[12] != CMD_LOCAL && family_len(p[13]) < 0)
		return bad(e, "address family is unknown");
	if (n < V2_HEAD)
		return 0;
	len = V2_HEAD + ((size_t)p[14] << 8 | p[15]);
	if (len > PROXY_MAX)
		return bad(e, "longer than 16384 bytes");
	if (n < len)
		return 0;
	h->version = 2;
	r = v2_block(p, len, h, e);
	return r < 0 ? r : (int)len;
}

int proxy_decode(const uint8_t *p, size_t n, struct proxy *ret, struct err *reterr)
{
	struct proxy h = { 0 };
	int r;

	if (!n)
		return 0;
	r = p[0] == signature[0] ? v2_decode(p, n, &h, reterr) : v1_decode((const char *)p, n, &h, reterr);
	if (r > 0)
		*ret = h;
	return r;
}

/* ---- encoding ---- */

static void ip6_of(uint8_t out[16], const struct addr *a)
{
	if (a->family == AF_INET6) {
		memcpy(out, a->ip, 16);
		return;
	}
	memset(out, 0, 10);
	out[10] = out[11] = 0xff;
	memcpy(out + 12, a->ip, 4);
}

static const char *ip6_text(const struct addr *a, char out[ADDR_STR + 8])
{
	char ip[ADDR_STR];

	snprintf(out, ADDR_STR + 8, "%s%s", a->family == AF_INET ? "::ffff:" : "", addr_ip_str(a, ip));
	return out;
}

static size_t v1_encode(uint8_t *out, const struct proxy *h, bool known, bool v6)
{
	char s[ADDR_STR + 8], d[ADDR_STR + 8];
	int n;

	if (!known)
		n = snprintf((char *)out, PROXY_OUT_MAX, "PROXY UNKNOWN\r\n");
	else if (v6)
		n = snprintf((char *)out, PROXY_OUT_MAX, "PROXY TCP6 %s %s %u %u\r\n", ip6_text(&h->src, s), ip6_text(&h->dst, d), h->src.port,
			     h->dst.port);
	else
		n = snprintf((char *)out, PROXY_OUT_MAX, "PROXY TCP4 %s %s %u %u\r\n", addr_ip_str(&h->src, s), addr_ip_str(&h->dst, d),
			     h->src.port, h->dst.port);
	return (size_t)n;
}

static size_t tlv_put(uint8_t *out, uint8_t type, struct slice v, size_t max)
{
	if (!v.p || !v.n || v.n > max)
		return 0;
	out[0] = type;
	out[1] = (uint8_t)(v.n >> 8);
	out[2] = (uint8_t)v.n;
	memcpy(out + 3, v.p, v.n);
	return 3 + v.n;
}

static uint8_t *port_put(uint8_t *out, uint16_t port)
{
	out[0] = (uint8_t)(port >> 8);
	out[1] = (uint8_t)port;
	return out + 2;
}

static size_t v2_encode(uint8_t *out, const struct proxy *h, bool known, bool v6)
{
	size_t n = V2_HEAD, ip = v6 ? 16 : 4;

	memcpy(out, signature, sizeof(signature));
	out[12] = known ? CMD_PROXY : CMD_LOCAL;
	out[13] = !known ? FAM_UNSPEC : v6 ? FAM_TCP6 : FAM_TCP4;
	if (known) {
		if (v6) {
			ip6_of(out + n, &h->src);
			ip6_of(out + n + ip, &h->dst);
		} else {
			memcpy(out + n, h->src.ip, ip);
			memcpy(out + n + ip, h->dst.ip, ip);
		}
		(void)port_put(port_put(out + n + 2 * ip, h->src.port), h->dst.port);
		n += 2 * ip + 4;
		n += tlv_put(out + n, TLV_PRINCIPAL, h->principal, SPIFFE_MAX);
		n += tlv_put(out + n, TLV_SERVICE, h->service, PROXY_SERVICE_MAX);
	}
	(void)port_put(out + 14, (uint16_t)(n - V2_HEAD));
	return n;
}

size_t proxy_encode(uint8_t out[PROXY_OUT_MAX], const struct proxy *h)
{
	bool known = h->src.family != AF_UNSPEC && h->dst.family != AF_UNSPEC;
	bool v6 = h->src.family == AF_INET6 || h->dst.family == AF_INET6;

	return h->version == 1 ? v1_encode(out, h, known, v6) : v2_encode(out, h, known, v6);
}
