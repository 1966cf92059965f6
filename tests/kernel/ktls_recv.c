/*
 * What recvmsg() gives on a socket with TLS_RX: it joins data records as far as the buffer goes and stops where the type changes; the
 * type comes in a control message, also for data (23); the end of the stream is 0 without one. recv() without room for the type works
 * for data and is EIO for anything else, which stays and can still be read with room for it. FIONREAD counts what TCP has, headers and
 * tags too, so it says nothing about payload. tls/ktls.c. Source: net/tls/tls_sw.c, tls_sw_recvmsg(), tls_record_content_type().
 */
#include "ktls.h"
#include <sys/ioctl.h>

static void joins_data_never_types(void)
{
	uint8_t b[RECORD * 2], ticket[40] = {4};
	int fd[2], type;
	ssize_t n;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	CHECK(send(fd[0], "one", 3, 0) == 3 && send(fd[0], "two", 3, 0) == 3, "send");
	CHECK(ktls_send(fd[0], HANDSHAKE, ticket, sizeof(ticket), 0) == sizeof(ticket), "a record of type 22");
	CHECK(ktls_send(fd[0], HANDSHAKE, ticket, 30, 0) == 30, "another");
	CHECK(send(fd[0], "three", 5, 0) == 5, "send");
	CHECK(ktls_send(fd[0], ALERT, "\1\0", 2, 0) == 2, "alert");
	settle();
	n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
	CHECK(n == 6 && type == DATA && !memcmp(b, "onetwo", 6), "two records: %zd bytes, type %d", n, type);
	n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
	CHECK(n >= 40 && type == HANDSHAKE && b[0] == 4, "a ticket: %zd bytes, type %d", n, type);
	if (n == 40) {
		n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
		CHECK(n == 30 && type == HANDSHAKE, "the second: %zd bytes, type %d", n, type);
		found("records that are not data: one recvmsg() each");
	} else {
		found("records that are not data: joined, too");
	}
	n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
	CHECK(n == 5 && type == DATA, "data again: %zd bytes, type %d", n, type);
	n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
	CHECK(n == 2 && type == ALERT && b[0] == 1, "alert: %zd bytes, type %d", n, type);
	CHECK(!shutdown(fd[0], SHUT_WR), "shutdown");
	n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
	CHECK(n == 0 && type == 0, "end: %zd, type %d", n, type);
	close(fd[0]);
	close(fd[1]);
}

static void without_room_for_the_type(void)
{
	int fd[2], type;
	char b[100];

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	CHECK(send(fd[0], "data", 4, 0) == 4, "send");
	CHECK(ktls_send(fd[0], ALERT, "\2\50", 2, 0) == 2, "alert");
	settle();
	CHECK(recv(fd[1], b, sizeof(b), 0) == 4, "data");
	CHECK(recv(fd[1], b, sizeof(b), 0) == -1 && errno == EIO, "an alert");
	CHECK(ktls_recv(fd[1], b, sizeof(b), 0, &type) == 2 && type == ALERT && b[1] == 40, "the alert is still there");
	close(fd[0]);
	close(fd[1]);
}

static void fionread_counts_ciphertext(void)
{
	int fd[2], n = -1;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	CHECK(send(fd[0], "four", 4, 0) == 4, "send");
	settle();
	CHECK(!ioctl(fd[1], FIONREAD, &n) && n == RECORD_HEADER + 4 + RECORD_EXTRA, "FIONREAD: %d", n);
	close(fd[0]);
	close(fd[1]);
}

/* the rest of a record that was read in part needs no new packet, and gives no new edge */
static void rest_of_a_record(void)
{
	int fd[2], ep, type;
	char b[100];

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	ep = edges(fd[1]);
	CHECK(send(fd[0], "123456789payload", 16, 0) == 16, "send");
	edge_with(ep, EPOLLIN);
	CHECK(ktls_recv(fd[1], b, 9, MSG_DONTWAIT, &type) == 9 && type == DATA, "header");
	CHECK(!(edge(ep, QUIET_MS) & EPOLLIN), "an edge although nothing came");
	CHECK(poll(&(struct pollfd){.fd = fd[1], .events = POLLIN}, 1, 0) == 1, "poll() does not see the rest");
	CHECK(ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type) == 7 && type == DATA, "payload");
	CHECK(send(fd[0], "more", 4, 0) == 4, "send");
	edge_with(ep, EPOLLIN);
	CHECK(ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type) == 4, "and the next");
	close(fd[0]);
	close(fd[1]);
	close(ep);
}

int main(void)
{
	joins_data_never_types();
	without_room_for_the_type();
	fionread_counts_ciphertext();
	rest_of_a_record();
	return 0;
}
