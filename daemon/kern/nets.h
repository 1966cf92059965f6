/*
 * Networks with ports, wanted and excepted, made into entries of an LPM trie of which the longest match alone decides (bpf/nets.h).
 * Plain data, no I/O.
 */
#pragma once
#include "base/err.h"
#include "model/config.h"
#include <adit/capture_abi.h>

/** struct net_entry - @ports of one network; for the kernel: net_key(), and ports as it is */
struct net_entry {
	uint16_t family; /* AF_INET, AF_INET6 */
	uint8_t bits;
	uint8_t addr[16]; /* network order, IPv4 in the first four */
	struct adit_net ports;
};

/**
 * nets_build() - what is in @to and not in @except
 * With @n_to 0 it is everything but loopback and link-local addresses, which mean this very node or cable wherever one is.
 * Return: 0 and *ret (malloc'd, *ret_n of them), or -errno with the sentence.
 */
int nets_build(const struct cidr *to, uint32_t n_to, const struct cidr *except, uint32_t n_except, struct net_entry **ret, uint32_t *ret_n,
	       struct err *reterr);
struct adit_net_key net_key(const struct net_entry *e, uint32_t rule);

/** ports_bits() - a bit for each port of @ports (none: every port) that is not in @except; @ret has ADIT_PORTS bytes */
void ports_bits(const struct cfg_ports *ports, uint32_t n, const struct cfg_ports *except, uint32_t n_except, uint8_t *ret);
