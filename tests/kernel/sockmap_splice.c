/*
 * splice(2) from a socket does not see redirected bytes: with some waiting it says EAGAIN (or waits, if the socket may), and after the
 * FIN that the stream has ended: silent loss. So programs that read by splice are never listed for the bypass, and evidence mode bans a
 * socket at its first splice. splice and sendfile into a socket of a sockmap work: the program is asked as for send().
 * docs/DATAPATH.md. Source: net/ipv4/tcp.c, tcp_splice_read().
 */
/* link: -lbpf */
#include "bpf.h"
#include <sys/sendfile.h>

static struct sockmap m;

static void out_of_it(void)
{
	int fd[2], p[2];
	char b[64];
	ssize_t n, at_end;

	CHECK(!pipe2(p, O_CLOEXEC | O_NONBLOCK), "pipe");
	sockmap_pair(&m, fd);
	CHECK(!fcntl(fd[1], F_SETFL, O_NONBLOCK), "fcntl"); /* SPLICE_F_NONBLOCK is about the pipe */
	sockmap_redirect(&m, false);
	CHECK(send(fd[0], "tcp", 3, 0) == 3, "send");
	settle();
	n = splice(fd[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK);
	CHECK(n == 3 && read(p[0], b, sizeof(b)) == 3, "bytes that came by TCP: %zd", n);
	sockmap_redirect(&m, true);
	CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
	settle();
	n = splice(fd[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK);
	CHECK(n == 5 || (n == -1 && errno == EAGAIN), "redirected bytes: %zd", n);
	if (n == 5) {
		found("splice() from a socket sees redirected bytes");
		return;
	}
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	settle();
	at_end = splice(fd[1], NULL, p[1], NULL, 100, SPLICE_F_NONBLOCK);
	found("splice() with 5 redirected bytes waiting: EAGAIN; after the FIN: %s", at_end == 0 ? "0, the bytes are lost" : "EAGAIN");
	CHECK(recv(fd[1], b, sizeof(b), 0) == 5, "recv() sees them");
	for (int i = 0; i < 2; i++) {
		close(fd[i]);
		close(p[i]);
	}
}

static void into_it(void)
{
	int fd[2], p[2];
	off_t at = 0;
	char b[64];
	FILE *f = tmpfile();

	CHECK(f && fputs("from a file", f) >= 0 && !fflush(f), "file");
	CHECK(!pipe2(p, O_CLOEXEC), "pipe");
	sockmap_pair(&m, fd);
	for (int on = 0; on < 2; on++) {
		sockmap_redirect(&m, on);
		CHECK(write(p[1], "from a pipe", 11) == 11, "write");
		CHECK(splice(p[0], NULL, fd[0], NULL, 11, 0) == 11, "splice");
		CHECK(recv(fd[1], b, sizeof(b), 0) == 11 && !memcmp(b, "from a pipe", 11), "from a pipe");
		at = 0;
		CHECK(sendfile(fd[0], fileno(f), &at, 11) == 11, "sendfile");
		CHECK(recv(fd[1], b, sizeof(b), 0) == 11 && !memcmp(b, "from a file", 11), "from a file");
	}
	fclose(f);
	for (int i = 0; i < 2; i++) {
		close(fd[i]);
		close(p[i]);
	}
}

int main(void)
{
	sockmap_init(&m);
	out_of_it();
	into_it();
	return 0;
}
