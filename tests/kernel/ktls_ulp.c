/*
 * TCP_ULP "tls" on a connected socket changes nothing until keys are set, so it can be attached before the handshake: bytes go both
 * ways as before. It must be: when the peer's FIN has come, attaching is ENOTCONN, while keys can still be set on a socket that has
 * the ULP. Without the module it is ENOENT, which tells why kTLS is not used. A second attachment is EEXIST; keys without the ULP are
 * refused. tls/ktls.c. Source: net/ipv4/tcp_ulp.c; net/tls/tls_main.c, tls_init().
 */
#include "ktls.h"

static void plain_until_keys(void)
{
	int fd[2];
	char b[8];

	tcp_pair(fd);
	ktls_attach(fd[0]);
	for (int i = 0; i < 3; i++) {
		CHECK(send(fd[0], "hello", 5, 0) == 5, "send");
		CHECK(recv(fd[1], b, sizeof(b), 0) == 5 && !memcmp(b, "hello", 5), "plain bytes out");
		CHECK(send(fd[1], "back", 4, 0) == 4, "send");
		CHECK(recv(fd[0], b, sizeof(b), 0) == 4 && !memcmp(b, "back", 4), "plain bytes in");
	}
	CHECK(ktls_ulp(fd[0]) == -1 && errno == EEXIST, "a second time");
	close(fd[0]);
	CHECK(recv(fd[1], b, sizeof(b), 0) == 0, "closed as usual");
	close(fd[1]);
}

static void keys_want_the_ulp(void)
{
	int fd[2], s = new_socket();

	tcp_pair(fd);
	CHECK(ktls_set(fd[0], TLS_TX, TLS_CIPHER_AES_GCM_128, 0, 0) == -1 && errno == ENOPROTOOPT, "keys without ULP");
	CHECK(ktls_ulp(s) == -1 && errno == ENOTCONN, "not connected");
	close(s);
	close(fd[0]);
	close(fd[1]);
}

static void after_the_peers_fin(void)
{
	int fd[2], type;
	char b[8];

	tcp_pair(fd);
	CHECK(!shutdown(fd[1], SHUT_WR), "shutdown");
	CHECK(recv(fd[0], b, 1, 0) == 0, "FIN");
	CHECK(ktls_ulp(fd[0]) == -1 && errno == ENOTCONN, "ULP after the FIN");
	close(fd[0]);
	close(fd[1]);

	tcp_pair(fd);
	ktls_attach(fd[0]);
	ktls_attach(fd[1]);
	CHECK(!shutdown(fd[1], SHUT_WR), "shutdown");
	CHECK(recv(fd[0], b, 1, MSG_PEEK) == 0, "FIN");
	CHECK(!ktls_set(fd[0], TLS_TX, TLS_CIPHER_AES_GCM_128, 0, 0), "TLS_TX after the FIN");
	CHECK(!ktls_set(fd[0], TLS_RX, TLS_CIPHER_AES_GCM_128, 1, 0), "TLS_RX after the FIN");
	CHECK(!ktls_set(fd[1], TLS_RX, TLS_CIPHER_AES_GCM_128, 0, 0), "TLS_RX of who sent the FIN");
	CHECK(send(fd[0], "answer", 6, 0) == 6, "send");
	CHECK(ktls_recv(fd[1], b, sizeof(b), 0, &type) == 6 && type == DATA && !memcmp(b, "answer", 6), "it goes the other way");
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	plain_until_keys();
	keys_want_the_ulp();
	after_the_peers_fin();
	return 0;
}
