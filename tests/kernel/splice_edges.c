/*
 * What loop/pipe.c and chain/splice.c conclude from a splice(2) between a pipe and a TCP socket:
 * - asked for exactly what the pipe holds, all of it leaves at once; asked for more, the last segment is held back (as with MSG_MORE) while
 *   the pipe may get more;
 * - a splice into a socket that takes only a part means that the socket is full: the next says EAGAIN, and with EPOLLET an edge with
 *   EPOLLOUT comes when there is room again;
 * - urgent data stops it: at the mark it says EAGAIN although bytes wait behind, and goes on only after recv(). EPOLLPRI tells.
 * Source: splice(2); fs/splice.c, splice_to_socket(); net/ipv4/tcp.c, tcp_splice_read(), tcp_read_sock(), tcp_sendmsg_locked().
 */
#include "kernel.h"
#include <fcntl.h>
#include <poll.h>

#define PIPE (1 << 20)

static uint8_t bytes[PIPE];

static void new_pipe(int p[2])
{
	CHECK(!pipe2(p, O_CLOEXEC | O_NONBLOCK), "pipe");
	if (fcntl(p[0], F_SETPIPE_SZ, PIPE) < PIPE)
		skip("no pipe of 1 MiB: %s", strerror(errno));
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

static bool comes(int fd, int ms)
{
	return poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, ms) == 1;
}

static void exactly_what_is_there(void)
{
	int fd[2], p[2];

	new_pair(fd);
	new_pipe(p);
	for (size_t n = 1; n < 60000; n = n * 3 + 1) {
		CHECK(write(p[1], bytes, n) == (ssize_t)n, "write");
		CHECK(give(p, fd[0], n) == (ssize_t)n, "splice");
		for (size_t got = 0; got < n;) {
			ssize_t k;

			CHECK(comes(fd[1], 20), "%zu of %zu bytes are held back", n - got, n);
			k = recv(fd[1], bytes, sizeof(bytes), 0);
			CHECK(k > 0, "recv");
			got += (size_t)k;
		}
	}
	CHECK(write(p[1], bytes, 1000) == 1000, "write");
	CHECK(give(p, fd[0], 2000) == 1000, "splice");
	printf("# asked for more than there is: %s\n", comes(fd[1], 20) ? "it leaves at once, too" : "it is held back");
	close(fd[0]);
	close(fd[1]);
	close(p[0]);
	close(p[1]);
}

static void a_part_means_full(void)
{
	size_t held = 0, in = 0, out = 0;
	int fd[2], p[2], ep, parts = 0;
	uint32_t seen;

	new_pair(fd);
	new_pipe(p);
	ep = edges(fd[0]);
	edge_with(ep, EPOLLOUT);
	while (parts < 5) {
		ssize_t n;

		if (!held) {
			n = write(p[1], bytes, 1 + (in * 7919) % (PIPE / 2));
			CHECK(n > 0, "write");
			held = (size_t)n;
			in += held;
		}
		n = give(p, fd[0], held);
		CHECK(n >= 0 || errno == EAGAIN, "splice");
		out += n > 0 ? (size_t)n : 0;
		held -= n > 0 ? (size_t)n : 0;
		if (!held)
			continue;
		parts += n > 0;
		if (n > 0 && parts & 1) /* no EAGAIN is needed for the edge */
			CHECK(give(p, fd[0], held) == -1 && errno == EAGAIN, "it took a part, and then more");
		while (edge(ep, 0))
			;
		while (recv(fd[1], bytes, sizeof(bytes), 0) > 0 || comes(fd[1], 20))
			;
		seen = edge(ep, WAIT_MS);
		CHECK(seen & EPOLLOUT, "no edge after there is room, but 0x%x", seen);
	}
	CHECK(in == out + held, "%zu in, %zu out, %zu held", in, out, held);
	close(fd[0]);
	close(fd[1]);
	close(p[0]);
	close(p[1]);
	close(ep);
}

static void urgent(void)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLPRI | EPOLLET};
	int fd[2], p[2], ep = epoll_create1(EPOLL_CLOEXEC);
	ssize_t n;

	new_pair(fd);
	new_pipe(p);
	CHECK(send(fd[0], "abc", 3, 0) == 3 && send(fd[0], "!", 1, MSG_OOB) == 1 && send(fd[0], "def", 3, 0) == 3, "send");
	settle();
	CHECK(ep >= 0 && !epoll_ctl(ep, EPOLL_CTL_ADD, fd[1], &ev), "epoll");
	CHECK(edge(ep, WAIT_MS) & EPOLLPRI, "EPOLLPRI does not tell");
	CHECK(take(fd[1], p) == 3, "splice to the mark");
	n = take(fd[1], p);
	CHECK(n == -1 && errno == EAGAIN, "at the mark it says %zd", n);
	CHECK(comes(fd[1], 0), "nothing waits behind the mark");
	CHECK(recv(fd[1], bytes, sizeof(bytes), 0) == 3 && !memcmp(bytes, "def", 3), "recv");
	close(fd[0]);
	close(fd[1]);
	close(p[0]);
	close(p[1]);
	close(ep);
}

int main(void)
{
	exactly_what_is_there();
	a_part_means_full();
	urgent();
	return 0;
}
