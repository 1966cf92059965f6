/*
 * KeyUpdate: the record arrives as type 22, first byte 24, like any other. New keys with a second TLS_RX or TLS_TX are EBUSY on kernels
 * that cannot rekey; the next record then does not open. So a tunnel with kTLS ends at a KeyUpdate, and never sends one. tls/ktls.c.
 * Source: net/tls/tls_main.c, do_tls_setsockopt_conf(); rekeying came with Linux 6.14.
 */
#include "ktls.h"

int main(void)
{
	static const uint8_t update[] = {24, 0, 0, 1, 0};
	int fd[2], type;
	uint8_t b[64];
	ssize_t n;

	ktls_pair(fd, TLS_CIPHER_AES_GCM_128);
	CHECK(ktls_send(fd[0], HANDSHAKE, update, sizeof(update), 0) == sizeof(update), "KeyUpdate");
	n = ktls_recv(fd[1], b, sizeof(b), 0, &type);
	CHECK(n == sizeof(update) && type == HANDSHAKE && b[0] == 24, "KeyUpdate: %zd bytes, type %d", n, type);
	CHECK(send(fd[0], "old", 3, 0) == 3, "send");
	n = ktls_recv(fd[1], b, sizeof(b), MSG_DONTWAIT, &type);
	found("data after a KeyUpdate, without new keys: %s", n > 0 ? "opened with the old ones" : strerror(errno));
	CHECK(n == 3 || errno == EKEYEXPIRED, "neither opened nor refused: %zd", n);
	if (!ktls_set(fd[1], TLS_RX, TLS_CIPHER_AES_GCM_128, 1, 0)) {
		found("new keys by a second TLS_RX: taken");
	} else {
		CHECK(errno == EBUSY, "a second TLS_RX");
		found("new keys by a second TLS_RX: EBUSY");
	}
	close(fd[0]);
	close(fd[1]);
	return 0;
}
