/*
 * What an operator can do about an errno of a connection. "Connection refused" is what the kernel knows; who reads it at three in the
 * morning wants to know where to look first. One table, so that the log, the access log and aditctl say the same.
 */
#include "net/hint.h"
#include "base/clean.h"
#include <ares.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
	int e;
	const char *say[2]; /* by enum net_to */
} hints[] = {
	{ ECONNREFUSED, { "; is the agent running there?", "; nothing listens there: is the application running, and on that address?" } },
	{ ETIMEDOUT, { "; does a firewall block the tunnel port?", "; a firewall drops it, or the host is down" } },
	{ EHOSTUNREACH, { "; the host is down, or a firewall rejects the tunnel port", "; the host is down, or a firewall rejects the port" } },
	{ ENETUNREACH, { "; this node has no route there (ip route get ADDRESS)", "; this node has no route there (ip route get ADDRESS)" } },
	{ EADDRNOTAVAIL,
	  { "; all local ports towards it are in use (net.ipv4.ip_local_port_range), or this node has no address of its family",
	    "; all local ports towards it are in use (net.ipv4.ip_local_port_range), or the source address of 'source: client' cannot be used" } },
	{ ECONNRESET, { "; something accepts and resets: a load balancer without backend, a firewall?", "; it accepts and resets at once" } },
	{ EMFILE, { "; aditd has no descriptors left (LimitNOFILE=, ulimit -n)", "; aditd has no descriptors left (LimitNOFILE=, ulimit -n)" } },
	{ ENFILE, { "; this node has no descriptors left (fs.file-max)", "; this node has no descriptors left (fs.file-max)" } },
	{ EPERM, { "; a firewall of this node forbids it (nft list ruleset)", "; a firewall of this node forbids it (nft list ruleset)" } },
	{ EACCES, { "; a rule of this node forbids it (ip route: prohibit; firewall; broadcast address)",
		    "; a rule of this node forbids it (ip route: prohibit; firewall; broadcast address)" } },
	{ EAFNOSUPPORT, { "; this node has no such address family (IPv6 off?)", "; this node has no such address family (IPv6 off?)" } },
	{ EINVAL, { "; the address cannot be connected to (blackhole route?)", "; the address cannot be connected to (blackhole route?)" } },
};

const char *net_hint(int e, enum net_to to)
{
	for (size_t i = 0; i < ARRAY_LEN(hints); i++)
		if (hints[i].e == e || hints[i].e == -e)
			return hints[i].say[to];
	return "";
}

const char *net_error(int e, enum net_to to)
{
	static _Thread_local char text[256];

	snprintf(text, sizeof(text), "%s%s", strerror(e < 0 ? -e : e), net_hint(e, to));
	return text;
}

const char *net_dns_hint(int status)
{
	switch (status) {
	case ARES_ENOTFOUND:
		return "; no DNS server knows it: is it spelt right?";
	case ARES_ENODATA:
		return "; the name is there and has no address";
	case ARES_ECONNREFUSED:
		return "; the servers of /etc/resolv.conf do not answer: is DNS reachable from this node?";
	case ARES_ETIMEOUT:
		return "; the servers of /etc/resolv.conf do not answer: a firewall on port 53?";
	case ARES_ESERVFAIL:
	case ARES_EREFUSED:
		return "; the DNS server could not or would not answer: its log says why";
	}
	return "";
}
