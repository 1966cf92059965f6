/* Which ports of a net, for capture and steer: the value that the trie of nets gave, or NULL. */
#pragma once

static __always_inline int net_has(const struct adit_net *n, u16 port)
{
	if (!n)
		return 0;
	for (u32 i = 0; i < ADIT_NET_RANGES; i++) {
		if (i >= n->n)
			return 0;
		if (port >= n->range[i].first && port <= n->range[i].last)
			return 1;
	}
	return 0;
}
