/*
 * close() with SO_LINGER 0 sends RST, also with bytes unsent and unread, and the peer sees ECONNRESET, never a clean end. Without
 * it, close() sends FIN, or RST if bytes were unread. net/sock.c: sock_reset(). Source: socket(7), RFC 1122 4.2.2.13.
 */
#include "kernel.h"

static void reset(int fd)
{
	struct linger l = {.l_onoff = 1};

	CHECK(!setsockopt(fd, SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER");
	close(fd);
}

static void plain_close_is_a_fin(void)
{
	int fd[2];
	char b;

	tcp_pair(fd);
	close(fd[0]);
	CHECK(recv(fd[1], &b, 1, 0) == 0, "not a clean end");
	close(fd[1]);
}

static void idle(void)
{
	int fd[2];
	char b;

	tcp_pair(fd);
	reset(fd[0]);
	CHECK(recv(fd[1], &b, 1, 0) == -1 && errno == ECONNRESET, "an idle connection");
	close(fd[1]);
}

static void after_half_close(void)
{
	int fd[2];
	char b;

	tcp_pair(fd);
	CHECK(!shutdown(fd[1], SHUT_WR), "shutdown");
	CHECK(recv(fd[0], &b, 1, 0) == 0, "FIN");
	reset(fd[0]);
	CHECK(recv(fd[1], &b, 1, 0) == -1 && errno == ECONNRESET, "a half-closed connection");
	close(fd[1]);
}

static void with_bytes_unsent(void)
{
	static char block[16 << 20];
	int fd[2];
	ssize_t n;

	tcp_pair(fd);
	CHECK(send(fd[0], block, sizeof(block), MSG_DONTWAIT) > 0, "send");
	reset(fd[0]);
	do
		n = recv(fd[1], block, sizeof(block), 0);
	while (n > 0);
	CHECK(n == -1 && errno == ECONNRESET, "bytes unsent: %zd", n);
	close(fd[1]);
}

int main(void)
{
	plain_close_is_a_fin();
	idle();
	after_half_close();
	with_bytes_unsent();
	return 0;
}
