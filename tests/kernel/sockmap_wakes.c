/*
 * A reader of redirected bytes notices them as it notices others: an edge for EPOLLET, poll(), a recv() that sleeps, MSG_PEEK, readv();
 * a short read leaves the rest, and poll() still reports it. What does not work as with TCP: recv(MSG_WAITALL) gives what is there. A
 * sender's send() returns all it was given, and EPOLLOUT stays. bpf/bypass.bpf.c; docs/DATAPATH.md says who may be listed. Source:
 * net/ipv4/tcp_bpf.c.
 */
/* link: -lbpf */
#include "bpf.h"
#include <pthread.h>
#include <sys/uio.h>

static struct sockmap m;

static void edges_and_polls(void)
{
	char b[100], c[4];
	struct iovec iov[2] = {{b, 3}, {c, 4}};
	struct pollfd p;
	int fd[2], ep;

	sockmap_pair(&m, fd);
	ep = edges(fd[1]);
	CHECK(edge(ep, WAIT_MS) & EPOLLOUT, "a new socket is writable");
	for (int i = 0; i < 20; i++) {
		sockmap_redirect(&m, i % 3 != 0);
		CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
		edge_with(ep, EPOLLIN);
		CHECK(recv(fd[1], b, sizeof(b), MSG_DONTWAIT) == 5, "recv");
	}
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "1234567", 7, 0) == 7, "send");
	edge_with(ep, EPOLLIN);
	CHECK(recv(fd[1], b, sizeof(b), MSG_PEEK | MSG_DONTWAIT) == 7 && !memcmp(b, "1234567", 7), "MSG_PEEK");
	CHECK(recv(fd[1], b, 2, MSG_DONTWAIT) == 2 && !memcmp(b, "12", 2), "a short read");
	p = (struct pollfd){.fd = fd[1], .events = POLLIN};
	CHECK(poll(&p, 1, 0) == 1 && p.revents == POLLIN, "poll() does not see the rest");
	CHECK(readv(fd[1], iov, 2) == 5 && !memcmp(b, "345", 3) && !memcmp(c, "67", 2), "readv");
	p.revents = 0;
	CHECK(poll(&p, 1, 0) == 0, "poll() sees bytes where none are");
	CHECK(recv(fd[1], b, sizeof(b), MSG_DONTWAIT) == -1 && errno == EAGAIN, "recv of nothing");
	p = (struct pollfd){.fd = fd[0], .events = POLLOUT};
	CHECK(poll(&p, 1, 0) == 1, "the sender is not writable");
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

static void *sleeper(void *arg)
{
	static char b[16];

	return recv(*(int *)arg, b, sizeof(b), 0) == 5 ? b : NULL;
}

static void a_sleeping_reader(void)
{
	pthread_t t;
	void *ret;
	int fd[2];
	char b[16];
	ssize_t n;

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, true);
	CHECK(!pthread_create(&t, NULL, sleeper, &fd[1]), "thread");
	settle();
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	CHECK(!pthread_join(t, &ret), "join");
	CHECK(ret && !memcmp(ret, "hello", 5), "recv in a sleep");

	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	n = recv(fd[1], b, 10, MSG_WAITALL | MSG_DONTWAIT);
	CHECK(n == 5, "recv: %zd", n);
	close(fd[0]);
	close(fd[1]);
}

static void waitall_is_short(void)
{
	struct timeval tv = {.tv_usec = 300000};
	int fd[2];
	char b[16];
	ssize_t n;

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, true);
	CHECK(!setsockopt(fd[1], SOL_SOCKET, SO_RCVTIMEO, &tv, sizeof(tv)), "SO_RCVTIMEO");
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	n = recv(fd[1], b, 10, MSG_WAITALL);
	CHECK(n == 5, "recv(MSG_WAITALL): %zd", n);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	sockmap_init(&m);
	edges_and_polls();
	a_sleeping_reader();
	waitall_is_short();
	return 0;
}
