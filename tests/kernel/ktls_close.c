/*
 * What send() took on a kTLS socket may still wait inside the kernel's TLS, sealed and not yet TCP's, when TCP was full: close() then
 * drops it, with no error anywhere, and the peer sees an end inside a record or between two. Nothing is lost if the socket was writable
 * again before close(): so a tunnel that ends waits for POLLOUT first. tls/record.c, rec_drained(). Source: net/tls/tls_sw.c,
 * tls_push_record(), tls_sw_release_resources_tx().
 */
#include "ktls.h"
#include <fcntl.h>

#define LIMIT (64 << 20)

/* fill the socket, read a while, close it. Return: bytes that send() took and that did not come */
static size_t lost(bool wait, size_t piece)
{
	static uint8_t block[65536];
	size_t taken = 0, got = 0;
	struct pollfd p;
	int fd[2], type;
	ssize_t n;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	set_int(fd[0], SOL_SOCKET, SO_SNDBUF, 150000);
	set_int(fd[1], SOL_SOCKET, SO_RCVBUF, 100000);
	CHECK(!fcntl(fd[0], F_SETFL, O_NONBLOCK), "fcntl");
	while (taken < LIMIT) {
		n = send(fd[0], block, piece, 0);
		if (n < 0)
			break;
		taken += (size_t)n;
	}
	CHECK(errno == EAGAIN, "send");
	if (wait) {
		p = (struct pollfd){.fd = fd[0], .events = POLLOUT};
		while (!poll(&p, 1, 0)) {
			n = ktls_recv(fd[1], block, sizeof(block), MSG_DONTWAIT, &type);
			CHECK(n > 0 || (n < 0 && errno == EAGAIN), "recv");
			got += n > 0 ? (size_t)n : 0;
		}
	}
	close(fd[0]);
	do {
		n = ktls_recv(fd[1], block, sizeof(block), 0, &type);
		got += n > 0 ? (size_t)n : 0;
	} while (n > 0);
	close(fd[1]);
	CHECK(got <= taken, "more came than was sent");
	return taken - got;
}

int main(void)
{
	static const size_t pieces[] = {100, 1000, 9000, 16384, 40000, 65536};
	size_t at_once = 0, ends = 0;

	for (size_t i = 0; i < sizeof(pieces) / sizeof(pieces[0]); i++) {
		size_t n = lost(false, pieces[i]);

		at_once += n;
		ends += n > 0;
		n = lost(true, pieces[i]);
		CHECK(!n, "writable before close(), and %zu bytes of sends of %zu were lost", n, pieces[i]);
	}
	found("close() while TCP is full: %zu of 6 ends lost bytes, %zu KB in all", ends, at_once >> 10);
	return 0;
}
