/*
 * After a RST, recv() gives the bytes that arrived before it and then ECONNRESET, once; epoll says EPOLLERR, and so does SO_ERROR,
 * which takes the error away: recv() then says 0. So chain/relay.c asks SO_ERROR first and does not take the 0 for a FIN.
 * Source: net/ipv4/tcp.c, tcp_recvmsg_locked(); socket(7), SO_ERROR.
 */
#include "kernel.h"

static void reset(int fd)
{
	struct linger l = {.l_onoff = 1};

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER");
	close(fd);
}

static void bytes_then_error(void)
{
	int fd[2], ep;
	char b[64];

	tcp_pair(fd);
	ep = edges(fd[1]);
	CHECK(send(fd[0], "abc", 3, 0) == 3, "send");
	reset(fd[0]);
	CHECK(edge_with(ep, EPOLLERR) & EPOLLIN, "EPOLLIN comes with the error");
	CHECK(recv(fd[1], b, sizeof(b), MSG_DONTWAIT) == 3, "the bytes are kept");
	CHECK(recv(fd[1], b, sizeof(b), MSG_DONTWAIT) == -1 && errno == ECONNRESET, "then the error");
	CHECK(recv(fd[1], b, sizeof(b), MSG_DONTWAIT) == 0, "and only once");
	close(fd[1]);
	close(ep);
}

static void so_error_takes_it(void)
{
	int fd[2], ep;
	char b[64];

	tcp_pair(fd);
	ep = edges(fd[1]);
	reset(fd[0]);
	edge_with(ep, EPOLLERR);
	CHECK(get_int(fd[1], SOL_SOCKET, SO_ERROR) == ECONNRESET, "SO_ERROR");
	CHECK(get_int(fd[1], SOL_SOCKET, SO_ERROR) == 0, "only once");
	CHECK(recv(fd[1], b, sizeof(b), MSG_DONTWAIT) == 0, "recv() has nothing to report any more");
	close(fd[1]);
	close(ep);
}

static void send_says_so_too(void)
{
	int fd[2];

	tcp_pair(fd);
	reset(fd[0]);
	usleep(QUIET_MS * 1000);
	CHECK(send(fd[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == ECONNRESET, "send: the error first");
	CHECK(send(fd[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE, "then EPIPE");
	close(fd[1]);
}

int main(void)
{
	bytes_then_error();
	so_error_takes_it();
	send_says_so_too();
	return 0;
}
