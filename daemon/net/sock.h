/*
 * TCP sockets as the agent wants them. All calls are non-blocking. Sources: tcp(7), socket(7), ip(7).
 */
#pragma once
#include "base/err.h"
#include "model/addr.h"
#include "net/netns.h"
#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

/**
 * sock_probe() - is the address free? sock_listen() cannot tell: SO_REUSEPORT joins whoever listens there with it, be it another
 * agent of the same user. Return: as sock_listen().
 */
int sock_probe(const struct addr *a, struct err *reterr);
/**
 * sock_listen() - one SO_REUSEPORT listener. TCP_NODELAY and keep-alive are set here and inherited by accepted sockets.
 * Return: 0 and *ret_fd (caller closes), or -errno with a sentence that says what to do.
 */
int sock_listen(const struct addr *a, int backlog, int *ret_fd, struct err *reterr);
/** sock_listener_options() - what sock_listen() sets, for a socket that others bound: non-blocking, and what accepted sockets inherit */
void sock_listener_options(int fd);
/**
 * sock_listener_quiet() - let no more handshakes begin at this listening socket: SYNs are dropped, not refused, so that who knocks tries
 * again in a second; those that have begun are completed. The socket's for good: not for one that somebody else has, too.
 */
void sock_listener_quiet(int fd);
/**
 * sock_spread_by_source() - all connections of one client address go to the same of the @n listeners of a reuseport group, so
 * that a worker sees them in the order in which they were opened. @fd: any of the group.
 */
int sock_spread_by_source(int fd, uint32_t n);
/**
 * sock_reserve() - keep the last descriptors below the process's limit for people: the admin socket, logs, certificates. From the
 * main thread, before workers run. sock_scarce(): @fd is among them; what needs a new one now should wait or be refused.
 */
void sock_reserve(uint64_t limit);
bool sock_scarce(int fd);
/** sock_scarce_now() - would the next descriptor be among them? */
bool sock_scarce_now(void);
/** sock_accept() - Return: descriptor, or -EAGAIN, -EMFILE, ... */
int sock_accept(int fd, struct addr *ret_peer);
/** sock_connect() - begins; Return: descriptor (completion is EPOLLOUT), or -errno when it failed at once. */
int sock_connect(const struct addr *a);
/** struct sock_how - where a connection is made, and as whom; zeroed: as sock_connect() */
struct sock_how {
	struct netns *netns;	 /* NULL: our own namespace */
	const struct addr *from; /* NULL: an address of ours. Else this one, whoever's it is, with a port of the kernel's choice */
	uint32_t mark;		 /* with from: SO_MARK, for the way back (net/local.h) */
};
/** sock_connect_how() - as sock_connect(). Return: descriptor, or -errno with the sentence when it failed at once. */
int sock_connect_how(const struct addr *a, const struct sock_how *how, struct err *reterr);
/** sock_error() - SO_ERROR as negative errno, 0 if none */
int sock_error(int fd);
int sock_local(int fd, struct addr *ret);
/** sock_spread_plain() - the kernel chooses again. Return: 0 or -errno */
int sock_spread_plain(int fd);
/** sock_spread_first() - new connections go to the first @n listeners of the group only, to any of them. Return: 0 or -errno */
int sock_spread_first(int fd, uint32_t n);
/** sock_bound() - at most about @bytes in each direction's buffer from now on; what is in it stays */
void sock_bound(int fd, int bytes);
/** sock_unbound() - they grow by need again (Linux 5.14; before, they stay small) */
void sock_unbound(int fd);
/** sock_memory() - bytes that the kernel holds for it, both directions */
uint64_t sock_memory(int fd);
/** sock_reset() - close with RST instead of FIN (SO_LINGER 0, socket(7)) */
void sock_reset(int fd);
/** sock_tunnel_options() - keep-alive and a low-water mark for unsent bytes, so that scheduling happens late (tcp(7)) */
void sock_tunnel_options(int fd);
/** sock_rtt_us() - the path's round-trip time: TCP's minimum over the last minutes, so that our own queues do not count; 0 if unknown */
uint32_t sock_rtt_us(int fd);
