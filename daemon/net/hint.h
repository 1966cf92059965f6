/* What an operator can do about an errno of a connection. */
#pragma once

enum net_to {
	NET_TUNNEL,  /* a peer agent's tunnel port */
	NET_BACKEND, /* an endpoint of a TCP cluster */
};

/** net_hint() - "; is the agent running there?", or "" when there is nothing to add to @e's own words. @e: errno, sign ignored */
const char *net_hint(int e, enum net_to to);
/** net_error() - strerror() and the hint; valid until the next call in this thread */
const char *net_error(int e, enum net_to to);
/** net_dns_hint() - the same for c-ares' statuses */
const char *net_dns_hint(int status);
