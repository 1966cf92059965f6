/*
 * A receiver in a sockmap reads what was redirected to it before what came by TCP, whatever was sent first; and a reader asleep in
 * recv(MSG_WAITALL) behind TCP bytes takes redirected ones in between. So a message may be redirected only when every byte sent by TCP
 * has been read, and nobody sleeps inside recv(): the order rule and the sleeper rule of the gate (bpf/bypass.bpf.c). With bytes of TCP
 * read first the order is right, and so it is when the redirect is switched off in between. Source: net/ipv4/tcp_bpf.c,
 * tcp_bpf_recvmsg().
 */
/* link: -lbpf */
#include "bpf.h"
#include <pthread.h>

static struct sockmap m;

static void send_text(int fd, const char *s)
{
	CHECK(send(fd, s, strlen(s), 0) == (ssize_t)strlen(s), "send '%s'", s);
	settle();
}

static void expect(int fd, const char *s)
{
	char b[64] = "";
	ssize_t n = recv(fd, b, sizeof(b) - 1, MSG_DONTWAIT);

	CHECK(n == (ssize_t)strlen(s) && !strcmp(b, s), "got '%s', want '%s'", b, s);
}

static void redirected_overtakes_tcp(void)
{
	int fd[2];

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, false);
	send_text(fd[0], "first");
	sockmap_redirect(&m, true);
	send_text(fd[0], "second");
	expect(fd[1], "second");
	expect(fd[1], "first");
	close(fd[0]);
	close(fd[1]);
}

static void in_order_when_all_is_read(void)
{
	int fd[2];

	sockmap_pair(&m, fd);
	for (int i = 0; i < 6; i++) {
		sockmap_redirect(&m, i & 1);
		send_text(fd[0], "abc");
		expect(fd[1], "abc");
	}
	sockmap_redirect(&m, true);
	send_text(fd[0], "one ");
	send_text(fd[0], "two ");
	sockmap_redirect(&m, false);
	send_text(fd[0], "three");
	expect(fd[1], "one two ");
	expect(fd[1], "three");
	close(fd[0]);
	close(fd[1]);
}

static void *reader(void *arg)
{
	static char b[16];
	ssize_t n = recv(*(int *)arg, b, 10, MSG_WAITALL);

	return n == 10 || n == 5 ? b : NULL;
}

static void asleep_behind_tcp(void)
{
	pthread_t t;
	void *ret;
	int fd[2];

	sockmap_pair(&m, fd);
	sockmap_redirect(&m, false);
	CHECK(!pthread_create(&t, NULL, reader, &fd[1]), "thread");
	settle();
	send_text(fd[0], "11111");
	sockmap_redirect(&m, true);
	send_text(fd[0], "22222");
	sockmap_redirect(&m, false);
	send_text(fd[0], "33333");
	CHECK(!pthread_join(t, &ret), "join");
	CHECK(ret, "recv(MSG_WAITALL)");
	found("recv(MSG_WAITALL) of 11111 by TCP, 22222 redirected, 33333 by TCP: %.10s", (char *)ret);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	sockmap_init(&m);
	redirected_overtakes_tcp();
	in_order_when_all_is_read();
	asleep_behind_tcp();
	return 0;
}
