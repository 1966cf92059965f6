/*
 * splice(2) from a socket with TLS_RX: at most the rest of one record per call, also when more are there; EINVAL when the next record
 * is not data, which stays and is read with recvmsg(); a record can be begun with recvmsg() (the frame header) and ended with splice
 * (the payload). 0 at the end of the stream. And into a socket with TLS_TX, byte for byte, with back-pressure. tls/ktls.c. Source:
 * net/tls/tls_sw.c, tls_sw_splice_read().
 */
#include "ktls.h"
#include <fcntl.h>

#define TOTAL (1 << 20)

static uint8_t out[TOTAL], in[TOTAL];

static void new_pipe(int p[2])
{
	CHECK(!pipe2(p, O_CLOEXEC | O_NONBLOCK), "pipe");
	CHECK(fcntl(p[0], F_SETPIPE_SZ, 1 << 18) >= 1 << 18, "F_SETPIPE_SZ");
}

/* SPLICE_F_NONBLOCK is about the pipe; whether splice() waits for a socket's room is up to the socket */
static void nonblocking(const int fd[2])
{
	for (int i = 0; i < 2; i++)
		CHECK(!fcntl(fd[i], F_SETFL, O_NONBLOCK), "fcntl");
}

static void one_record_per_call(void)
{
	int fd[2], p[2];
	ssize_t n;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	new_pipe(p);
	CHECK(send(fd[0], out, 40000, 0) == 40000, "send");
	usleep(QUIET_MS * 1000);
	n = splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
	CHECK(n == RECORD, "the first splice: %zd", n);
	n = splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
	CHECK(n == RECORD, "the second: %zd", n);
	n = splice(fd[1], NULL, p[1], NULL, 7000, SPLICE_F_NONBLOCK);
	CHECK(n == 7000, "a part of the third: %zd", n);
	n = splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
	CHECK(n == 232, "its rest: %zd", n);
	n = splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
	CHECK(n == -1 && errno == EAGAIN, "no more: %zd", n);
	CHECK(read(p[0], in, TOTAL) == 40000 && !memcmp(in, out, 40000), "other bytes");
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	usleep(QUIET_MS * 1000);
	n = splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
	CHECK(n == 0, "the end: %zd", n);
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(fd[i]);
	}
}

static void header_then_payload(void)
{
	int fd[2], p[2], type;
	uint8_t head[9];

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	new_pipe(p);
	for (size_t size = 1; size <= RECORD - 9; size += 2729) {
		CHECK(send(fd[0], "123456789", 9, MSG_MORE) == 9 && send(fd[0], out, size, 0) == (ssize_t)size, "send");
		CHECK(ktls_recv(fd[1], head, 9, MSG_WAITALL, &type) == 9 && !memcmp(head, "123456789", 9), "header");
		for (size_t got = 0; got < size;) {
			ssize_t n = splice(fd[1], NULL, p[1], NULL, size - got, 0);

			CHECK(n > 0, "splice %zu of %zu", got, size);
			got += (size_t)n;
		}
		CHECK(read(p[0], in, TOTAL) == (ssize_t)size && !memcmp(in, out, size), "payload of %zu", size);
	}
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(fd[i]);
	}
}

static void not_data(void)
{
	int fd[2], p[2], type;
	uint8_t b[64];
	ssize_t n;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	new_pipe(p);
	CHECK(send(fd[0], "data", 4, 0) == 4 && ktls_send(fd[0], HANDSHAKE, "\4ticket", 7, 0) == 7 && send(fd[0], "more", 4, 0) == 4, "send");
	usleep(QUIET_MS * 1000);
	CHECK(splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK) == 4, "data");
	n = splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
	CHECK(n == -1 && errno == EINVAL, "type 22: %zd", n);
	CHECK(ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type) == 7 && type == HANDSHAKE, "it is still there");
	CHECK(splice(fd[1], NULL, p[1], NULL, TOTAL, SPLICE_F_NONBLOCK) == 4, "data behind it");
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(fd[i]);
	}
}

/* plain TCP -> pipe -> kTLS, and at the other end kTLS -> pipe -> plain TCP, nobody in user space touching a byte */
static void through(void)
{
	int a[2], t[2], b[2], p[2], q[2];
	size_t sent = 0, pin = 0, qin = 0, got = 0;

	tcp_pair(a);
	tcp_pair(b);
	ktls_pair(t, TLS_CIPHER_AES_GCM_128);
	new_pipe(p);
	new_pipe(q);
	nonblocking(a);
	nonblocking(b);
	nonblocking(t);
	while (got < TOTAL) {
		ssize_t n = send(a[0], out + sent, TOTAL - sent, MSG_DONTWAIT);

		sent += n > 0 ? (size_t)n : 0;
		n = splice(a[1], NULL, p[1], NULL, 60000, SPLICE_F_NONBLOCK);
		pin += n > 0 ? (size_t)n : 0;
		n = pin ? splice(p[0], NULL, t[0], NULL, pin, SPLICE_F_NONBLOCK) : 0;
		CHECK(n >= 0 || errno == EAGAIN, "into kTLS");
		pin -= n > 0 ? (size_t)n : 0;
		n = splice(t[1], NULL, q[1], NULL, TOTAL, SPLICE_F_NONBLOCK);
		CHECK(n >= 0 || errno == EAGAIN, "out of kTLS");
		qin += n > 0 ? (size_t)n : 0;
		n = qin ? splice(q[0], NULL, b[0], NULL, qin, SPLICE_F_NONBLOCK) : 0;
		qin -= n > 0 ? (size_t)n : 0;
		n = recv(b[1], in + got, TOTAL - got, MSG_DONTWAIT);
		got += n > 0 ? (size_t)n : 0;
	}
	CHECK(!memcmp(in, out, TOTAL), "other bytes");
	for (int i = 0; i < 2; i++) {
		close(a[i]);
		close(b[i]);
		close(t[i]);
		close(p[i]);
		close(q[i]);
	}
}

/* nobody reads: the sender is told so, by EAGAIN, and epoll tells when there is room again */
static void back_pressure(void)
{
	int fd[2], p[2], ep;
	size_t taken = 0;
	ssize_t n;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	new_pipe(p);
	nonblocking(fd);
	ep = edges(fd[0]);
	edge_with(ep, EPOLLOUT);
	for (;;) {
		CHECK(write(p[1], out, 65536) == 65536, "write");
		n = splice(p[0], NULL, fd[0], NULL, 65536, SPLICE_F_NONBLOCK);
		if (n < 65536)
			break;
		taken += (size_t)n;
		CHECK(taken < 64 << 20, "no end of it");
	}
	taken += n > 0 ? (size_t)n : 0;
	edge(ep, 0);
	while (recv(fd[1], in, TOTAL, MSG_DONTWAIT) > 0)
		;
	edge_with(ep, EPOLLOUT);
	for (int i = 0; i < 2; i++) {
		close(p[i]);
		close(fd[i]);
	}
	close(ep);
}

int main(void)
{
	pattern(out, TOTAL, 0);
	one_record_per_call();
	header_then_payload();
	not_data();
	through();
	back_pressure();
	return 0;
}
