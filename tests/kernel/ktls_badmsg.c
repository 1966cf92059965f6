/*
 * A record that does not open is EBADMSG at every recvmsg() from then on, never bytes. The error also stands in the way of what is sent:
 * the alert (bad_record_mac) leaves only after getsockopt(SO_ERROR) has cleared it. The same for a record that is too large. Counted in
 * /proc/net/tls_stat. tls/ktls.c. Source: net/tls/tls_sw.c, tls_err_abort().
 */
#include "ktls.h"

static void broken(uint8_t *raw, size_t n, const char *what, int want, int want2)
{
	int fd[2], type, error, first;
	uint8_t b[400];
	ssize_t r;

	ktls_sink(fd);
	CHECK(send(fd[0], raw, n, 0) == (ssize_t)n, "send");
	usleep(QUIET_MS * 1000);
	r = ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type);
	error = errno;
	CHECK(r == -1 && (error == want || error == want2), "%s: %zd", what, r);
	r = ktls_send(fd[1], ALERT, "\2\24", 2, MSG_DONTWAIT);
	first = r == 2 ? 0 : errno;
	(void)get_int(fd[1], SOL_SOCKET, SO_ERROR);
	if (first) {
		r = ktls_send(fd[1], ALERT, "\2\24", 2, MSG_DONTWAIT);
		CHECK(r == 2, "the alert after SO_ERROR was read: %zd", r);
	}
	found("%s: %s; alert at once: %s", what, strerror(error), first ? strerror(first) : "sent");
	r = ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type);
	CHECK(r == -1, "%s: it came through after all", what);
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	int tap[2];
	uint8_t raw[400], huge[RECORD_HEADER + 64] = {DATA, 3, 3, 0xff, 0xff};
	size_t n;

	ktls_tap(tap);
	CHECK(send(tap[0], "some bytes", 10, 0) == 10, "send");
	n = read_quiet(tap[1], raw, sizeof(raw));
	raw[RECORD_HEADER + 3] ^= 1;
	broken(raw, n, "a bit changed", EBADMSG, EBADMSG);
	broken(huge, sizeof(huge), "a length beyond all records", EMSGSIZE, EINVAL);
	return 0;
}
