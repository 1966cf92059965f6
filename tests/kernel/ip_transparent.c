/*
 * IP_TRANSPARENT lets a socket be bound to an address that is nobody's here and connect from it, so that an application sees the client's
 * own address. The answers come back if a rule sends packets with our mark to a table that has everything as local, and if the other end
 * of the same namespace puts the mark of the SYN on its answers: net.ipv4.tcp_fwmark_accept; without it the connection is not made.
 * Without CAP_NET_ADMIN the option is EPERM. net/transparent.c, net/sock.c. Source: ip(7); Documentation/networking/ip-sysctl.rst.
 */
#include "netns.h"
#include <linux/capability.h>
#include <linux/fib_rules.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <sys/syscall.h>

#define MARK  0x15008
#define TABLE 9150

struct request {
	struct nlmsghdr h;
	union {
		struct rtmsg route;
		struct fib_rule_hdr rule;
	};
	char attributes[128];
};

static void put(struct request *r, unsigned short type, uint32_t v)
{
	struct rtattr *at = (struct rtattr *)((char *)r + NLMSG_ALIGN(r->h.nlmsg_len));

	at->rta_type = type;
	at->rta_len = RTA_LENGTH(sizeof(v));
	memcpy(RTA_DATA(at), &v, sizeof(v));
	r->h.nlmsg_len = NLMSG_ALIGN(r->h.nlmsg_len) + RTA_SPACE(sizeof(v));
}

static void ask(int nl, struct request *r, const char *what)
{
	struct {
		struct nlmsghdr h;
		struct nlmsgerr e;
		char more[256];
	} answer;

	CHECK(send(nl, r, r->h.nlmsg_len, 0) == (ssize_t)r->h.nlmsg_len, "%s", what);
	CHECK(recv(nl, &answer, sizeof(answer), 0) > 0 && answer.h.nlmsg_type == NLMSG_ERROR, "%s: no answer", what);
	errno = -answer.e.error;
	CHECK(!answer.e.error, "%s", what);
}

/* ip rule add fwmark MARK lookup TABLE; ip route add local default dev lo table TABLE */
static void policy_routing(void)
{
	struct request rule = {.h = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct fib_rule_hdr)), .nlmsg_type = RTM_NEWRULE,
				     .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
			       .rule = {.family = AF_INET, .action = FR_ACT_TO_TBL}};
	struct request route = {.h = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct rtmsg)), .nlmsg_type = RTM_NEWROUTE,
				      .nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE},
				.route = {.rtm_family = AF_INET, .rtm_type = RTN_LOCAL, .rtm_scope = RT_SCOPE_HOST}};
	int nl = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);

	CHECK(nl >= 0, "netlink");
	put(&rule, FRA_FWMARK, MARK);
	put(&rule, FRA_TABLE, TABLE);
	ask(nl, &rule, "rule");
	put(&route, RTA_TABLE, TABLE);
	put(&route, RTA_OIF, 1);
	ask(nl, &route, "route");
	close(nl);
}

static void sysctl(const char *path, const char *v)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	CHECK(fd >= 0 && write(fd, v, 1) == 1, "%s", path);
	close(fd);
}

/* a connection to @port of loopback as 203.0.113.9. Return: the socket, or -1 when it is not made */
static int connect_as(uint16_t port, int timeout_ms)
{
	struct sockaddr_in from = {.sin_family = AF_INET}, to = loopback(port);
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	struct pollfd p = {.fd = fd, .events = POLLOUT};

	CHECK(fd >= 0 && inet_pton(AF_INET, "203.0.113.9", &from.sin_addr) == 1, "socket");
	CHECK(bind(fd, (struct sockaddr *)&from, sizeof(from)) == -1 && errno == EADDRNOTAVAIL, "bound without the option");
	set_int(fd, IPPROTO_IP, IP_TRANSPARENT, 1);
	set_int(fd, SOL_SOCKET, SO_MARK, MARK);
	set_int(fd, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, 1);
	CHECK(!bind(fd, (struct sockaddr *)&from, sizeof(from)), "bind to somebody else's address");
	CHECK(connect(fd, (struct sockaddr *)&to, sizeof(to)) == -1 && errno == EINPROGRESS, "connect");
	if (poll(&p, 1, timeout_ms) == 1 && !get_int(fd, SOL_SOCKET, SO_ERROR))
		return fd;
	close(fd);
	return -1;
}

static void without_the_right(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct none[2] = {0};
	int fd = new_socket(), one = 1;

	CHECK(!syscall(SYS_capset, &h, none), "capset");
	CHECK(setsockopt(fd, IPPROTO_IP, IP_TRANSPARENT, &one, sizeof(one)) == -1 && errno == EPERM, "IP_TRANSPARENT without CAP_NET_ADMIN");
	close(fd);
}

int main(void)
{
	struct sockaddr_in peer;
	socklen_t n = sizeof(peer);
	int l, c, s;
	char b[8], name[INET_ADDRSTRLEN];

	(void)netns_new();
	l = listener(0, false);
	policy_routing();
	CHECK(connect_as(port_of(l), 300) == -1, "the answer finds its way without tcp_fwmark_accept");
	sysctl("/proc/sys/net/ipv4/tcp_fwmark_accept", "1");
	c = connect_as(port_of(l), WAIT_MS);
	CHECK(c >= 0, "no connection");
	s = accept(l, (struct sockaddr *)&peer, &n);
	CHECK(s >= 0 && inet_ntop(AF_INET, &peer.sin_addr, name, sizeof(name)) && !strcmp(name, "203.0.113.9"), "the application sees %s", name);
	CHECK(send(c, "hello", 5, 0) == 5 && recv(s, b, sizeof(b), 0) == 5, "there");
	CHECK(send(s, "back", 4, 0) == 4, "send");
	CHECK(poll(&(struct pollfd){.fd = c, .events = POLLIN}, 1, WAIT_MS) == 1 && recv(c, b, sizeof(b), 0) == 4, "and back");
	close(c);
	close(s);
	close(l);
	without_the_right();
	return 0;
}
