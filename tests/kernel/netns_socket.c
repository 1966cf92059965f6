/*
 * A socket belongs to the network namespace in which it was made, whatever the thread does afterwards: a listener made inside a namespace
 * accepts there while its thread has long returned, and what it accepts is there, too. SO_NETNS_COOKIE tells the namespace, 0 for none.
 * net/netns.c. Source: network_namespaces(7), setns(2).
 */
#include "netns.h"

#ifndef SO_NETNS_COOKIE
#define SO_NETNS_COOKIE 71
#endif

static uint64_t cookie(int fd)
{
	uint64_t v = 0;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE, &v, &n) && v, "SO_NETNS_COOKIE");
	return v;
}

int main(void)
{
	int here = netns_fd(), there = netns_new(), inside = listener(0, false), outside, c, s;
	struct sockaddr_in a = loopback(port_of(inside));

	CHECK(!setns(here, CLONE_NEWNET), "back");
	outside = new_socket();
	CHECK(cookie(inside) != cookie(outside), "the same namespace");
	CHECK(connect(outside, (struct sockaddr *)&a, sizeof(a)) == -1 && errno == ECONNREFUSED, "it listens here");
	CHECK(!setns(there, CLONE_NEWNET), "there");
	c = new_socket();
	CHECK(!setns(here, CLONE_NEWNET), "back");
	CHECK(!connect(c, (struct sockaddr *)&a, sizeof(a)), "connect from here with a socket made there");
	s = accept(inside, NULL, NULL);
	CHECK(s >= 0, "accept");
	CHECK(cookie(s) == cookie(inside) && cookie(c) == cookie(inside), "what was accepted is elsewhere");
	CHECK(send(c, "x", 1, 0) == 1, "send");
	close(there);
	CHECK(send(c, "y", 1, 0) == 1, "sockets keep their namespace alive");
	close(c);
	close(s);
	close(inside);
	close(outside);
	return 0;
}
