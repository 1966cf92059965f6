/*
 * TCP_NOTSENT_LOWAT bounds what send() takes: beyond the mark of bytes that TCP has not sent yet it says EAGAIN, however large the
 * send buffer. So what a tunnel has written is on its way, and what is not can still be scheduled. net/sock.c:
 * sock_tunnel_options(). Source: tcp(7); net/ipv4/tcp.c, sk_stream_memory_free().
 */
#include "kernel.h"

#define MARK (128 * 1024)

/* how much goes into a socket whose peer does not read */
static size_t fill(int mark)
{
	static char block[16384];
	int fd[2];
	size_t sent = 0;
	ssize_t n;

	tcp_pair(fd);
	if (setsockopt(fd[0], SOL_SOCKET, SO_SNDBUFFORCE, &(int){2 << 20}, sizeof(int))) /* beyond net.core.wmem_max, for root */
		set_int(fd[0], SOL_SOCKET, SO_SNDBUF, 2 << 20);
	set_int(fd[1], SOL_SOCKET, SO_RCVBUF, 65536);
	if (mark)
		set_int(fd[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT, mark);
	while ((n = send(fd[0], block, sizeof(block), MSG_DONTWAIT)) > 0)
		sent += (size_t)n;
	CHECK(errno == EAGAIN, "send");
	close(fd[0]);
	close(fd[1]);
	return sent;
}

int main(void)
{
	size_t without = fill(0), with = fill(MARK);

	printf("# a full socket takes %zu bytes, with the mark %zu\n", without, with);
	if (without < 8 * MARK)
		skip("the send buffer takes only %zu bytes here: the mark makes no difference", without);
	/* what the peer's window took is sent, not unsent: the mark comes on top, and one send() may pass it */
	CHECK(with < without / 2, "the mark does not bound what send() takes");
	return 0;
}
