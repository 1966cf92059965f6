/*
 * The kernel's trie gives the longest prefix that matches, and nothing of the shorter ones. So each prefix must say all by itself: the
 * ports that it or any prefix around it wants, less those that it or any around it excepts.
 *
 * All prefixes are sorted by address, then length: a prefix comes after those that contain it and before everything behind its end.
 * One pass with a stack of the prefixes around the current one then gives each what it inherits.
 */
#include "kern/nets.h"
#include "base/clean.h"
#include <stdlib.h>
#include <string.h>

#define SET_MAX 64u	/* ranges of ports of one net while it is worked out */
#define DEPTH	129u	/* prefixes of one address */

struct set {
	uint32_t n;
	struct cfg_ports r[SET_MAX]; /* ascending, neither touching nor overlapping */
};

struct item {
	struct net_entry net;
	struct cfg_ports ports;
	bool except;
};

struct level {
	const struct net_entry *net;
	struct set to, except;
};

/* Return: false when there are too many ranges */
static bool set_add(struct set *s, struct cfg_ports p)
{
	uint32_t i = 0, k;

	while (i < s->n && s->r[i].last + 1u < p.first)
		i++;
	for (k = i; k < s->n && s->r[k].first <= p.last + 1u; k++) { /* swallowed */
		if (s->r[k].first < p.first)
			p.first = s->r[k].first;
		if (s->r[k].last > p.last)
			p.last = s->r[k].last;
	}
	if (s->n - (k - i) + 1 > SET_MAX)
		return false;
	memmove(&s->r[i + 1], &s->r[k], (s->n - k) * sizeof(s->r[0]));
	s->r[i] = p;
	s->n = s->n - (k - i) + 1;
	return true;
}

/* @to less @except; Return: how many ranges that is, of which the first ADIT_NET_RANGES are in @ret */
static uint32_t set_less(const struct set *to, const struct set *except, struct adit_net *ret)
{
	uint32_t n = 0;

	memset(ret, 0, sizeof(*ret));
	for (uint32_t i = 0; i < to->n; i++) {
		uint32_t at = to->r[i].first, last = to->r[i].last;

		for (uint32_t k = 0; at <= last; k++) {
			bool more = k < except->n && except->r[k].first <= last;
			uint32_t end = more ? except->r[k].first : last + 1; /* of what is kept, exclusive */

			if (end > at) {
				if (n < ADIT_NET_RANGES) {
					ret->range[n].first = (uint16_t)at;
					ret->range[n].last = (uint16_t)(end - 1);
				}
				n++;
			}
			if (!more)
				break;
			if (except->r[k].last + 1u > at)
				at = except->r[k].last + 1u;
		}
	}
	ret->n = n;
	return n;
}

static int item_cmp(const void *va, const void *vb)
{
	const struct net_entry *a = &((const struct item *)va)->net, *b = &((const struct item *)vb)->net;
	int r = a->family - b->family;

	if (!r)
		r = memcmp(a->addr, b->addr, sizeof(a->addr));
	return r ? r : a->bits - b->bits;
}

static bool contains(const struct net_entry *a, const struct net_entry *b)
{
	uint8_t whole = a->bits / 8, mask = (uint8_t)(0xff00u >> (a->bits & 7));

	if (a->family != b->family || a->bits > b->bits || memcmp(a->addr, b->addr, whole))
		return false;
	return !(a->bits & 7) || !((a->addr[whole] ^ b->addr[whole]) & mask);
}

static struct item *put(struct item *at, int family, const struct cidr *c, bool except)
{
	*at = (struct item){.except = except, .ports = {c->port_first, c->port_last}};
	if (!c->port_last)
		at->ports.last = UINT16_MAX;
	at->net.family = (uint16_t)family;
	if (c->net.family != AF_UNSPEC) {
		at->net.bits = c->bits;
		memcpy(at->net.addr, c->net.ip, family == AF_INET ? 4 : 16);
	}
	return at + 1;
}

static struct item *put_all(struct item *at, const struct cidr *c, uint32_t n, bool except)
{
	for (uint32_t i = 0; i < n; i++) {
		if (c[i].net.family != AF_INET6)
			at = put(at, AF_INET, &c[i], except);
		if (c[i].net.family != AF_INET)
			at = put(at, AF_INET6, &c[i], except);
	}
	return at;
}

static int too_many(const struct net_entry *e, struct err *reterr)
{
	struct addr a = {.family = (uint8_t)e->family};
	char s[ADDR_STR];

	memcpy(a.ip, e->addr, sizeof(a.ip));
	return err_set(reterr, -E2BIG, "the ports of %s/%u are in more than %u pieces", addr_ip_str(&a, s), e->bits, ADIT_NET_RANGES);
}

/* @item is sorted; one entry for each net */
static int resolve(const struct item *item, uint32_t n, struct level *stack, struct net_entry *out, uint32_t *ret_n, struct err *reterr)
{
	uint32_t depth = 0, made = 0;

	for (uint32_t i = 0; i < n;) {
		const struct net_entry *net = &item[i].net;
		struct level *l;

		while (depth && !contains(stack[depth - 1].net, net))
			depth--;
		l = &stack[depth++];
		if (depth > 1)
			*l = l[-1];
		else
			memset(l, 0, sizeof(*l));
		l->net = net;
		for (; i < n && item_cmp(&item[i], container_of(net, struct item, net)) == 0; i++)
			if (!set_add(item[i].except ? &l->except : &l->to, item[i].ports))
				return too_many(net, reterr);
		out[made] = *net;
		if (set_less(&l->to, &l->except, &out[made].ports) > ADIT_NET_RANGES)
			return too_many(net, reterr);
		made++;
	}
	*ret_n = made;
	return 0;
}

int nets_build(const struct cidr *to, uint32_t n_to, const struct cidr *except, uint32_t n_except, struct net_entry **ret, uint32_t *ret_n,
	       struct err *reterr)
{
	static const struct cidr any = {.net.family = AF_UNSPEC};
	static const struct cidr here[] = {
		{.net = {.family = AF_INET, .ip = {127}}, .bits = 8},
		{.net = {.family = AF_INET6, .ip = {[15] = 1}}, .bits = 128},
		{.net = {.family = AF_INET6, .ip = {0xfe, 0x80}}, .bits = 10},
	};
	size_t most = 2 * ((size_t)n_to + n_except + 1 + ARRAY_LEN(here));
	AUTO_FREE struct item *item = calloc(most, sizeof(*item));
	AUTO_FREE struct level *stack = calloc(DEPTH, sizeof(*stack));
	AUTO_FREE struct net_entry *out = calloc(most, sizeof(*out));
	struct item *end = item;
	int r;

	if (!item || !stack || !out)
		return err_set(reterr, -ENOMEM, "out of memory");
	end = put_all(end, n_to ? to : &any, n_to ? n_to : 1, false);
	end = put_all(end, except, n_except, true);
	if (!n_to)
		end = put_all(end, here, ARRAY_LEN(here), true);
	qsort(item, (size_t)(end - item), sizeof(*item), item_cmp);
	r = resolve(item, (uint32_t)(end - item), stack, out, ret_n, reterr);
	if (r == 0)
		*ret = TAKE(out);
	return r;
}

struct adit_net_key net_key(const struct net_entry *e, uint32_t rule)
{
	struct adit_net_key k = {.prefixlen = ADIT_NET_BITS + e->bits, .rule = rule, .family = e->family};

	memcpy(k.addr, e->addr, sizeof(k.addr));
	return k;
}

static void bits_set(uint8_t *bits, struct cfg_ports p, bool on)
{
	for (uint32_t i = p.first; i <= p.last; i++) {
		if (on)
			bits[i >> 3] |= (uint8_t)BIT(i & 7);
		else
			bits[i >> 3] &= (uint8_t)~BIT(i & 7);
	}
}

void ports_bits(const struct cfg_ports *ports, uint32_t n, const struct cfg_ports *except, uint32_t n_except, uint8_t *ret)
{
	memset(ret, n ? 0 : 0xff, ADIT_PORTS);
	for (uint32_t i = 0; i < n; i++)
		bits_set(ret, ports[i], true);
	for (uint32_t i = 0; i < n_except; i++)
		bits_set(ret, except[i], false);
}
