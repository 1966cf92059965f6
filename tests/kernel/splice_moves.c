/*
 * splice(2) between two TCP sockets through a pipe, as the mover does it: every byte in order; when the pipe is full it says EAGAIN
 * while the socket still has bytes, and these hold the sender back as unread bytes do; 0 at the FIN, and only when all bytes before it
 * are out; ECONNRESET after a reset; with EPOLLET a new edge comes after EAGAIN, and after a short splice. SPLICE_F_NONBLOCK is about
 * the pipe: the sockets have to be O_NONBLOCK themselves. What was taken into the pipe is out of the socket's receive window and cannot
 * be lost by it. A pipe holds so many pieces, not bytes: small segments fill it early. chain/splice.c. Source: splice(2); fs/splice.c;
 * net/ipv4/tcp.c, tcp_splice_read().
 */
#include "kernel.h"
#include <fcntl.h>
#include <poll.h>

#define PIPE  (1 << 20)
#define TOTAL (8 << 20)

static uint8_t out[TOTAL], in[TOTAL];

static void pattern(void)
{
	for (size_t i = 0; i < TOTAL; i++)
		out[i] = (uint8_t)((i * 2654435761u) >> 13);
}

static void new_pipe(int p[2], int size)
{
	CHECK(!pipe2(p, O_CLOEXEC | O_NONBLOCK), "pipe");
	if (fcntl(p[0], F_SETPIPE_SZ, size) < size)
		skip("no pipe of %d bytes: %s", size, strerror(errno));
}

static void new_pair(int fd[2])
{
	tcp_pair(fd);
	for (int i = 0; i < 2; i++)
		CHECK(!fcntl(fd[i], F_SETFL, O_NONBLOCK), "fcntl");
}

static ssize_t take(int fd, int p[2])
{
	return splice(fd, NULL, p[1], NULL, PIPE, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
}

static ssize_t give(int p[2], int fd, size_t n)
{
	return splice(p[0], NULL, fd, NULL, n, SPLICE_F_MOVE | SPLICE_F_NONBLOCK);
}

static void every_byte(void)
{
	int a[2], b[2], p[2];
	size_t sent = 0, held = 0, got = 0;
	bool fin = false;
	ssize_t n;

	new_pair(a);
	new_pair(b);
	new_pipe(p, PIPE);
	while (got < TOTAL) {
		size_t step = 1 + (sent * 7919) % 70000;

		if (sent < TOTAL) {
			n = send(a[0], out + sent, step < TOTAL - sent ? step : TOTAL - sent, 0);
			sent += n > 0 ? (size_t)n : 0;
			if (sent == TOTAL)
				CHECK(!shutdown(a[0], SHUT_WR), "shutdown");
		}
		n = fin ? -1 : take(a[1], p);
		CHECK(n >= 0 || fin || errno == EAGAIN, "from the socket");
		if (n == 0) {
			CHECK(sent == TOTAL, "the end before the end");
			fin = true;
		}
		held += n > 0 ? (size_t)n : 0;
		n = held ? give(p, b[0], held) : 0;
		CHECK(n >= 0 || errno == EAGAIN, "into the socket");
		held -= n > 0 ? (size_t)n : 0;
		n = recv(b[1], in + got, TOTAL - got, 0);
		got += n > 0 ? (size_t)n : 0;
	}
	CHECK(!memcmp(in, out, TOTAL), "other bytes");
	settle();
	CHECK(take(a[1], p) == 0, "the end, again and again");
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
		close(p[i]);
	}
}

/* nobody empties the pipe: the sender stops */
static void back_pressure(void)
{
	size_t sent = 0, taken = 0;
	struct pollfd pf;
	int fd[2], p[2];
	ssize_t n;

	new_pair(fd);
	new_pipe(p, PIPE);
	for (int quiet = 0; quiet < 3;) {
		n = send(fd[0], out, 65536, 0);
		if (n > 0) {
			sent += (size_t)n;
			quiet = 0;
		} else {
			usleep(20000);
			quiet++;
		}
		n = take(fd[1], p);
		CHECK(n > 0 || (n < 0 && errno == EAGAIN), "splice %zd", n);
		taken += n > 0 ? (size_t)n : 0;
		CHECK(sent < 256u << 20, "the sender is never stopped");
	}
	pf = (struct pollfd){.fd = fd[1], .events = POLLIN};
	CHECK(poll(&pf, 1, 0) == 1 && take(fd[1], p) == -1 && errno == EAGAIN, "EAGAIN of a full pipe although bytes wait");
	printf("# the sender was stopped after %zu KB, %zu KB of them in the pipe\n", sent >> 10, taken >> 10);
	close(fd[0]);
	close(fd[1]);
	close(p[0]);
	close(p[1]);
}

static void resets(void)
{
	struct linger l = {.l_onoff = 1};
	int fd[2], p[2];
	ssize_t n;

	new_pair(fd);
	new_pipe(p, PIPE);
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	settle();
	CHECK(take(fd[1], p) == 5, "splice");
	CHECK(!setsockopt(fd[0], SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER");
	close(fd[0]);
	settle();
	n = take(fd[1], p);
	CHECK(n == -1 && errno == ECONNRESET, "after a reset: %zd", n);
	CHECK(read(p[0], in, TOTAL) == 5, "what the pipe has stays");
	close(fd[1]);

	new_pair(fd);
	CHECK(write(p[1], "hello", 5) == 5, "write");
	CHECK(!setsockopt(fd[1], SOL_SOCKET, SO_LINGER, &l, sizeof(l)), "SO_LINGER");
	close(fd[1]);
	settle();
	n = give(p, fd[0], 5);
	CHECK(n == -1 && (errno == ECONNRESET || errno == EPIPE), "into a socket that was reset: %zd", n);
	close(fd[0]);
	close(p[0]);
	close(p[1]);
}

static void edges_come(void)
{
	int fd[2], p[2], ep;

	new_pair(fd);
	new_pipe(p, PIPE);
	ep = edges(fd[1]);
	edge_with(ep, EPOLLOUT);
	for (int i = 0; i < 4; i++) {
		CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
		edge_with(ep, EPOLLIN);
		CHECK(take(fd[1], p) == 5, "a short splice");
		if (i & 1)
			CHECK(take(fd[1], p) == -1 && errno == EAGAIN, "EAGAIN");
		CHECK(!(edge(ep, QUIET_MS) & EPOLLIN), "an edge although nothing came");
	}
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	edge_with(ep, EPOLLRDHUP);
	CHECK(take(fd[1], p) == 0, "the end");
	close(fd[0]);
	close(fd[1]);
	close(p[0]);
	close(p[1]);
	close(ep);
}

/* one-byte segments: how many until the pipe is full? */
static void small_pieces(void)
{
	int fd[2], p[2], slots = 65536 / 4096, n = 0;

	new_pair(fd);
	new_pipe(p, 65536);
	while (n < 1000) {
		CHECK(send(fd[0], "x", 1, 0) == 1, "send");
		CHECK(poll(&(struct pollfd){.fd = fd[1], .events = POLLIN}, 1, WAIT_MS) == 1, "it does not come");
		if (take(fd[1], p) != 1)
			break;
		n++;
	}
	CHECK(errno == EAGAIN, "splice");
	found("a pipe of 64 KiB is full after %d pieces of 1 byte", n);
	CHECK(n >= slots, "fewer than it has pages");
	close(fd[0]);
	close(fd[1]);
	close(p[0]);
	close(p[1]);
}

int main(void)
{
	pattern();
	every_byte();
	back_pressure();
	resets();
	edges_come();
	small_pieces();
	return 0;
}
