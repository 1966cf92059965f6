/*
 * For the programs beside it: each shows one behaviour of the kernel that the agent relies on, and says so in its first lines.
 * Exit status 0: it is so here. 77: cannot be told here, the reason is the last line. 1: it is not so, the line says what was seen.
 */
#pragma once
#include <arpa/inet.h>
#include <errno.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define WAIT_MS	 5000 /* for what must happen */
#define QUIET_MS 50   /* for what must not */

static inline __attribute__((format(printf, 1, 2), noreturn)) void skip(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	exit(77);
}

/* what this kernel does where kernels differ: docs/KERNELS.md */
static inline __attribute__((format(printf, 1, 2))) void found(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	printf("# found: ");
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
}

#define CHECK(ok, ...)                                                  \
	do {                                                            \
		if (!(ok)) {                                            \
			printf("%s:%d: %s: ", __FILE__, __LINE__, #ok); \
			printf(__VA_ARGS__);                            \
			printf(" (%s)\n", strerror(errno));             \
			exit(1);                                        \
		}                                                       \
	} while (0)

static inline struct sockaddr_in loopback(uint16_t port)
{
	return (struct sockaddr_in){
		.sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static inline int get_int(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, level, name, &v, &n), "getsockopt %d", name);
	return v;
}

static inline void set_int(int fd, int level, int name, int v)
{
	CHECK(!setsockopt(fd, level, name, &v, sizeof(v)), "setsockopt %d", name);
}

static inline uint16_t port_of(int fd)
{
	struct sockaddr_in a;
	socklen_t n = sizeof(a);

	CHECK(!getsockname(fd, (struct sockaddr *)&a, &n), "getsockname");
	return ntohs(a.sin_port);
}

static inline int new_socket(void)
{
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	CHECK(fd >= 0, "socket");
	return fd;
}

/* a listener on any port, or on the given one */
static inline int listener(uint16_t port, bool reuseport)
{
	struct sockaddr_in a = loopback(port);
	int fd = new_socket();

	if (reuseport)
		set_int(fd, SOL_SOCKET, SO_REUSEPORT, 1);
	CHECK(!bind(fd, (struct sockaddr *)&a, sizeof(a)), "bind");
	CHECK(!listen(fd, 64), "listen");
	return fd;
}

/* two connected TCP sockets on loopback: fd[0] connected, fd[1] was accepted */
static inline void tcp_pair(int fd[2])
{
	int l = listener(0, false);
	struct sockaddr_in a = loopback(port_of(l));

	fd[0] = new_socket();
	CHECK(!connect(fd[0], (struct sockaddr *)&a, sizeof(a)), "connect");
	fd[1] = accept(l, NULL, NULL);
	CHECK(fd[1] >= 0, "accept");
	set_int(fd[0], IPPROTO_TCP, TCP_NODELAY, 1);
	close(l);
}

/* let the kernel finish what it has been given */
static inline void settle(void)
{
	usleep(QUIET_MS * 1000);
}

/* as the loop registers descriptors: everything, edge-triggered, once */
static inline int edges(int fd)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLOUT | EPOLLRDHUP | EPOLLET, .data.fd = fd};
	int ep = epoll_create1(EPOLL_CLOEXEC);

	CHECK(ep >= 0, "epoll_create1");
	CHECK(!epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev), "epoll_ctl");
	return ep;
}

/* the events of the next edge; 0: none within @ms */
static inline uint32_t edge(int ep, int ms)
{
	struct epoll_event ev = {0};
	int n = epoll_wait(ep, &ev, 1, ms);

	CHECK(n >= 0, "epoll_wait");
	return n ? ev.events : 0;
}

/* wait until one of @mask comes, and give back all that was seen */
static inline uint32_t edge_with(int ep, uint32_t mask)
{
	uint32_t seen = 0;

	while (!(seen & mask)) {
		uint32_t e = edge(ep, WAIT_MS);

		CHECK(e, "no edge with 0x%x came, only 0x%x", mask, seen);
		seen |= e;
	}
	return seen;
}
