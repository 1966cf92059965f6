/*
 * How what is sent becomes records: a send() above 16384 bytes is cut there; MSG_MORE holds a frame header back until the payload comes
 * by send(), splice(2) or sendfile(2), and both travel in one record if they fit; without MSG_MORE each send() is a record, also under
 * TCP_CORK. What is held back with MSG_MORE is delivered before the FIN. So a DATA frame of 9 + 16375 bytes is exactly one record.
 * tls/ktls.c. Source: net/tls/tls_sw.c, tls_sw_sendmsg().
 */
#include "ktls.h"
#include <fcntl.h>
#include <sys/sendfile.h>

static uint8_t raw[1 << 20], payload[100000];

/* the payload sizes of the records that come */
static void expect_records(int fd, const char *what, const int *want, int n)
{
	size_t got = read_quiet(fd, raw, sizeof(raw)), at = 0;

	for (int i = 0; i < n; i++) {
		int len;

		CHECK(at + RECORD_HEADER <= got && raw[at] == DATA && raw[at + 1] == 3, "%s: no record %d", what, i);
		len = (raw[at + 3] << 8) + raw[at + 4] - RECORD_EXTRA;
		CHECK(len == want[i], "%s: record %d has %d bytes, not %d", what, i, len, want[i]);
		at += RECORD_HEADER + RECORD_EXTRA + (size_t)len;
	}
	CHECK(at == got, "%s: %zu bytes more", what, got - at);
}

static void by_pipe(int fd, size_t n, unsigned int flags)
{
	int p[2];

	CHECK(!pipe2(p, O_CLOEXEC), "pipe");
	CHECK(fcntl(p[0], F_SETPIPE_SZ, 1 << 18) >= 1 << 18, "F_SETPIPE_SZ");
	CHECK(write(p[1], payload, n) == (ssize_t)n, "write");
	while (n) {
		ssize_t r = splice(p[0], NULL, fd, NULL, n, flags);

		CHECK(r > 0, "splice");
		n -= (size_t)r;
	}
	close(p[0]);
	close(p[1]);
}

static void by_file(int fd, size_t n)
{
	FILE *f = tmpfile();
	off_t at = 0;

	CHECK(f && fwrite(payload, 1, n, f) == n && !fflush(f), "file");
	CHECK(sendfile(fd, fileno(f), &at, n) == (ssize_t)n, "sendfile");
	fclose(f);
}

int main(void)
{
	int fd[2], type;
	char b[8];

	ktls_tap(fd);
	CHECK(send(fd[0], payload, 40000, 0) == 40000, "send");
	expect_records(fd[1], "send 40000", (int[]){RECORD, RECORD, 7232}, 3);
	CHECK(send(fd[0], "123456789", 9, 0) == 9 && send(fd[0], payload, 1000, 0) == 1000, "send");
	expect_records(fd[1], "9 then 1000", (int[]){9, 1000}, 2);
	set_int(fd[0], IPPROTO_TCP, TCP_CORK, 1);
	CHECK(send(fd[0], "123456789", 9, 0) == 9 && send(fd[0], payload, 1000, 0) == 1000, "send");
	set_int(fd[0], IPPROTO_TCP, TCP_CORK, 0);
	expect_records(fd[1], "9 then 1000 under TCP_CORK", (int[]){9, 1000}, 2);
	CHECK(send(fd[0], "123456789", 9, MSG_MORE) == 9 && send(fd[0], payload, 1000, 0) == 1000, "send");
	expect_records(fd[1], "9 with MSG_MORE then 1000", (int[]){1009}, 1);
	CHECK(send(fd[0], "123456789", 9, MSG_MORE) == 9, "send");
	CHECK(read_quiet(fd[1], raw, 0) == 0 && recv(fd[1], raw, 1, MSG_DONTWAIT) == -1 && errno == EAGAIN, "MSG_MORE sent something");
	by_pipe(fd[0], RECORD - 9, 0);
	expect_records(fd[1], "9 with MSG_MORE then splice 16375", (int[]){RECORD}, 1);
	CHECK(send(fd[0], "123456789", 9, MSG_MORE) == 9, "send");
	by_file(fd[0], RECORD - 9);
	expect_records(fd[1], "9 with MSG_MORE then sendfile 16375", (int[]){RECORD}, 1);
	CHECK(send(fd[0], "123456789", 9, MSG_MORE) == 9, "send");
	by_pipe(fd[0], 40000, 0);
	expect_records(fd[1], "9 with MSG_MORE then splice 40000", (int[]){RECORD, RECORD, 7241}, 3);
	close(fd[0]);
	close(fd[1]);

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	CHECK(send(fd[0], "held", 4, MSG_MORE) == 4, "send");
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	type = 0;
	if (ktls_recv(fd[1], b, sizeof(b), 0, &type) == 4)
		found("bytes held back with MSG_MORE: sent before the FIN of shutdown()");
	else
		found("bytes held back with MSG_MORE: lost at shutdown()");
	close(fd[0]);
	close(fd[1]);
	return 0;
}
