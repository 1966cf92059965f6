/*
 * Redirected bytes are charged to the receiver's sk_rmem_alloc (SO_MEMINFO shows it) and released as they are read; but nothing stops the
 * sender: neither the receiver's SO_RCVBUF nor its own SO_SNDBUF. So the gate itself has to stop at a limit, and can do so by that
 * figure. While messages pass by TCP the sockmap changes nothing about back-pressure. bpf/bypass.bpf.c. Source: net/core/skmsg.c,
 * sk_psock_queue_msg(); net/ipv4/tcp_bpf.c, bpf_tcp_ingress().
 */
/* link: -lbpf */
#include "bpf.h"
#include <linux/sock_diag.h>

static uint32_t rmem(int fd)
{
	uint32_t info[SK_MEMINFO_VARS];
	socklen_t n = sizeof(info);

	CHECK(!getsockopt(fd, SOL_SOCKET, SO_MEMINFO, info, &n), "SO_MEMINFO");
	return info[SK_MEMINFO_RMEM_ALLOC];
}

int main(void)
{
	static char block[64 << 10];
	size_t taken = 0, want = 24 << 20;
	struct sockmap m;
	int fd[2], rcvbuf;
	ssize_t n;

	sockmap_init(&m);
	sockmap_pair(&m, fd);
	set_int(fd[1], SOL_SOCKET, SO_RCVBUF, 100000);
	rcvbuf = get_int(fd[1], SOL_SOCKET, SO_RCVBUF);

	sockmap_redirect(&m, true);
	CHECK(rmem(fd[1]) == 0, "charge of an empty queue: %u", rmem(fd[1]));
	CHECK(send(fd[0], block, 10000, 0) == 10000, "send");
	CHECK(rmem(fd[1]) >= 10000, "10000 bytes redirected, charged %u", rmem(fd[1]));
	CHECK(recv(fd[1], block, 4000, 0) == 4000, "recv");
	CHECK(rmem(fd[1]) >= 6000 && rmem(fd[1]) < 10000, "4000 of them read, charged %u", rmem(fd[1]));
	CHECK(recv(fd[1], block, sizeof(block), 0) == 6000, "recv");
	CHECK(rmem(fd[1]) == 0, "all read, charged %u", rmem(fd[1]));

	while (taken < want) {
		n = send(fd[0], block, sizeof(block), MSG_DONTWAIT);
		if (n < 0)
			break;
		taken += (size_t)n;
	}
	found("a receiver with SO_RCVBUF %d that does not read: %zu KB redirected to it, %s", rcvbuf, taken >> 10,
	      taken < want ? strerror(errno) : "and no end");
	CHECK(taken > 4u * (uint32_t)rcvbuf, "the receiver's buffer does bound it: the gate's own limit is not needed");
	CHECK(rmem(fd[1]) >= taken / 2, "charged %u for %zu", rmem(fd[1]), taken);
	while (recv(fd[1], block, sizeof(block), MSG_DONTWAIT) > 0)
		;
	CHECK(rmem(fd[1]) == 0, "all read, charged %u", rmem(fd[1]));

	sockmap_redirect(&m, false);
	for (taken = 0;;) {
		n = send(fd[0], block, sizeof(block), MSG_DONTWAIT);
		if (n < 0)
			break;
		taken += (size_t)n;
		CHECK(taken < want, "by TCP: no back-pressure");
	}
	CHECK(errno == EAGAIN, "send by TCP");
	close(fd[0]);
	close(fd[1]);
	return 0;
}
