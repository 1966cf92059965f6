/*
 * With EPOLLET, a send() that took less than was given is as good as EAGAIN: an EPOLLOUT edge follows once the peer has read. So
 * tls/record.c and chain/relay.c do not try again only to see EAGAIN. With TCP_NOTSENT_LOWAT, too. Source: epoll(7), tcp(7).
 */
#include "kernel.h"

static void fill_and_drain(bool lowat)
{
	static char block[8 << 20];
	int fd[2], ep;
	ssize_t n;

	tcp_pair(fd);
	if (lowat)
		set_int(fd[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT, 128 * 1024);
	ep = edges(fd[0]);
	CHECK(edge(ep, WAIT_MS) & EPOLLOUT, "a new socket is writable");
	for (int round = 0; round < 3; round++) {
		size_t sent = 0;

		do {
			n = send(fd[0], block, sizeof(block), MSG_DONTWAIT);
			CHECK(n > 0 || (errno == EAGAIN && sent), "send %zd", n);
			sent += n > 0 ? (size_t)n : 0;
		} while (n == (ssize_t)sizeof(block));
		/* n < sizeof(block): now nothing is tried until the edge */
		while (sent) {
			n = recv(fd[1], block, sizeof(block), 0);
			CHECK(n > 0, "recv");
			sent -= (size_t)n;
		}
		edge_with(ep, EPOLLOUT);
	}
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

int main(void)
{
	fill_and_drain(false);
	fill_and_drain(true);
	return 0;
}
