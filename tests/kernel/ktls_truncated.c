/*
 * A stream that ends inside a record was cut off, and must not look like an end. What the kernel says then is 0 as at a clean end, or
 * EAGAIN for ever while poll() reports POLLIN | POLLRDHUP; tls/ktls.c has to take both for truncation: there was no close_notify. As
 * long as the rest may come it is EAGAIN, and poll() may report POLLIN all the time: only edges are of use. Source: net/tls/tls_strp.c;
 * net/tls/tls_sw.c, tls_rx_rec_wait().
 */
#include "ktls.h"

static void cut_off(size_t keep, const char *what)
{
	int tap[2], fd[2], type, again = 0;
	uint8_t raw[400], b[400];
	struct pollfd p;
	ssize_t n;

	ktls_tap(tap);
	CHECK(send(tap[0], "first", 5, 0) == 5, "send");
	CHECK(send(tap[0], b, 200, 0) == 200, "send");
	n = (ssize_t)read_quiet(tap[1], raw, sizeof(raw));
	CHECK(n == 5 + 200 + 2 * (RECORD_HEADER + RECORD_EXTRA), "two records: %zd", n);

	ktls_sink(fd);
	CHECK(send(fd[0], raw, 5 + RECORD_HEADER + RECORD_EXTRA + keep, 0) > 0, "send");
	CHECK(ktls_recv(fd[1], b, sizeof(b), 0, &type) == 5 && type == DATA, "the whole record");
	n = ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type);
	CHECK(n == -1 && errno == EAGAIN, "a part of a record: %zd", n);
	p = (struct pollfd){.fd = fd[1], .events = POLLIN};
	found("%s: EAGAIN, poll() says %s", what, poll(&p, 1, 0) ? "POLLIN" : "nothing");
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	usleep(QUIET_MS * 1000);
	for (int i = 0; i < 5; i++) {
		p = (struct pollfd){.fd = fd[1], .events = POLLIN | POLLRDHUP};
		CHECK(poll(&p, 1, WAIT_MS) == 1 && p.revents & POLLRDHUP, "poll: 0x%x", p.revents);
		n = ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type);
		if (n < 0 && errno == EAGAIN) {
			again++;
			continue;
		}
		CHECK(n <= 0 && !type, "bytes of an unfinished record: %zd, type %d", n, type);
		break;
	}
	CHECK(again == 0 || again == 5, "EAGAIN %d times", again);
	found("%s, then FIN: %s", what, again ? "EAGAIN for ever, with POLLIN" : n == 0 ? "0, as at an end" : strerror(errno));
	close(tap[0]);
	close(tap[1]);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	cut_off(3, "part of a record's header");
	cut_off(8, "the beginning of a record");
	cut_off(100, "half a record");
	return 0;
}
