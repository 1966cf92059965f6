/*
 * With EPOLLET, a read that returned less than asked for may stop: more bytes give a new edge, and so does a FIN, with EPOLLRDHUP.
 * What gives no further edge is a FIN that was there already when the last edge was taken; but that edge said EPOLLRDHUP, which
 * is why chain/relay.c keeps `hup` and then reads until 0. Source: epoll(7), "Possible pitfalls"; tcp(7).
 */
#include "kernel.h"

static void drained(int fd, size_t want)
{
	char b[4096];
	ssize_t n = recv(fd, b, sizeof(b), MSG_DONTWAIT);

	CHECK(n == (ssize_t)want, "read %zd bytes, not %zu", n, want); /* a short read: nothing asks for EAGAIN */
}

static void bytes_after_a_short_read(void)
{
	int fd[2], ep;

	tcp_pair(fd);
	ep = edges(fd[1]);
	CHECK(edge(ep, WAIT_MS) & EPOLLOUT, "a new socket is writable");
	for (int i = 0; i < 3; i++) {
		CHECK(send(fd[0], "abc", 3, 0) == 3, "send");
		edge_with(ep, EPOLLIN);
		drained(fd[1], 3);
		CHECK(!edge(ep, QUIET_MS), "an edge although nothing happened");
	}
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

static void fin_after_a_short_read(void)
{
	int fd[2], ep;

	tcp_pair(fd);
	ep = edges(fd[1]);
	CHECK(send(fd[0], "abc", 3, 0) == 3, "send");
	edge_with(ep, EPOLLIN);
	drained(fd[1], 3);
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	CHECK(edge_with(ep, EPOLLIN | EPOLLRDHUP) & EPOLLRDHUP, "the edge of a FIN says EPOLLRDHUP");
	drained(fd[1], 0);
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

static void fin_before_the_edge_was_taken(void)
{
	int fd[2], ep;
	uint32_t e;

	tcp_pair(fd);
	ep = edges(fd[1]);
	CHECK(edge(ep, WAIT_MS) & EPOLLOUT, "a new socket is writable");
	CHECK(send(fd[0], "abc", 3, 0) == 3, "send");
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	usleep(QUIET_MS * 1000);
	e = edge(ep, WAIT_MS);
	CHECK((e & (EPOLLIN | EPOLLRDHUP)) == (EPOLLIN | EPOLLRDHUP), "bytes and FIN: 0x%x", e);
	drained(fd[1], 3);
	if (edge(ep, QUIET_MS))
		printf("# an edge although the FIN was reported already: harmless\n");
	drained(fd[1], 0);
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

/* between epoll_wait() and the read: the FIN's edge must not be lost with the bytes' */
static void fin_between_edge_and_read(void)
{
	int fd[2], ep;

	tcp_pair(fd);
	ep = edges(fd[1]);
	CHECK(send(fd[0], "abc", 3, 0) == 3, "send");
	edge_with(ep, EPOLLIN);
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	usleep(QUIET_MS * 1000);
	drained(fd[1], 3);
	CHECK(edge_with(ep, EPOLLRDHUP) & EPOLLIN, "and EPOLLIN with it");
	drained(fd[1], 0);
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

/* registered when bytes are there already, as accepted sockets are */
static void bytes_before_registration(void)
{
	int fd[2], ep;

	tcp_pair(fd);
	CHECK(send(fd[0], "abc", 3, 0) == 3, "send");
	usleep(QUIET_MS * 1000);
	ep = edges(fd[1]);
	edge_with(ep, EPOLLIN);
	drained(fd[1], 3);
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

int main(void)
{
	bytes_after_a_short_read();
	fin_after_a_short_read();
	fin_before_the_edge_was_taken();
	fin_between_edge_and_read();
	bytes_before_registration();
	return 0;
}
