/*
 * FIONREAD on a socket in a sockmap: of bytes that came by TCP, and of redirected ones. Kernels differ, and an application that asks
 * (few do) would see 0 and wait for ever. So it is probed at start with real sockets before an application's socket is put in
 * (kern/selftest). Not in a sockmap the answer is right. Source: net/ipv4/tcp.c, tcp_ioctl(); net/ipv4/tcp_bpf.c.
 */
/* link: -lbpf */
#include "bpf.h"

static int unread(int fd)
{
	int n = -1;

	CHECK(!ioctl(fd, FIONREAD, &n), "FIONREAD");
	return n;
}

int main(void)
{
	struct sockmap m;
	int fd[2], by_tcp, redirected;
	char b[100];

	sockmap_init(&m);
	tcp_pair(fd);
	CHECK(send(fd[0], b, 50, 0) == 50, "send");
	settle();
	CHECK(unread(fd[1]) == 50, "not in a sockmap: %d of 50", unread(fd[1]));
	CHECK(recv(fd[1], b, sizeof(b), 0) == 50, "recv");
	close(fd[0]);
	close(fd[1]);

	sockmap_pair(&m, fd);
	CHECK(send(fd[0], b, 50, 0) == 50, "send");
	settle();
	by_tcp = unread(fd[1]);
	CHECK(recv(fd[1], b, sizeof(b), 0) == 50, "recv");
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], b, 30, 0) == 30, "send");
	settle();
	redirected = unread(fd[1]);
	CHECK(recv(fd[1], b, sizeof(b), 0) == 30, "recv");
	found("FIONREAD of 50 bytes by TCP: %d, of 30 redirected: %d", by_tcp, redirected);
	CHECK((by_tcp == 50 || by_tcp == 0) && (redirected == 30 || redirected == 0), "something else");
	CHECK(unread(fd[1]) == 0, "nothing unread: %d", unread(fd[1]));
	close(fd[0]);
	close(fd[1]);
	return 0;
}
