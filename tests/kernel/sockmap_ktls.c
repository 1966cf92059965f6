/*
 * A socket is in a sockmap or has a ULP, not both: TLS_TX and TLS_RX are EINVAL on a socket that is in a map, or the ULP itself is
 * refused; a socket with a ULP is refused by the map. So sockets of tunnels are never put in, and an application's socket with kTLS
 * stays out by itself. (Older kernels allowed both; a verdict program there can bring the kernel down.) The ULP alone, without keys, is
 * enough. bpf/bypass.bpf.c; tls/ktls.c. Source: net/core/sock_map.c, sock_map_link(); net/tls/tls_main.c.
 */
/* link: -lbpf */
#include "bpf.h"
#include "ktls.h"

int main(void)
{
	struct sockmap m;
	char b[16];
	int fd[2];

	sockmap_init(&m);
	tcp_pair(fd);
	ktls_attach(fd[0]);
	CHECK(sockmap_put(m.senders, fd[0]), "a socket with the ULP went into a sockmap");
	found("a socket with the ULP into a sockmap: %s", strerror(errno));
	CHECK(!ktls_set(fd[0], TLS_TX, TLS_CIPHER_AES_GCM_128, 0, 0), "TLS_TX");
	CHECK(!ktls_set(fd[0], TLS_RX, TLS_CIPHER_AES_GCM_128, 1, 0), "TLS_RX");
	CHECK(sockmap_put(m.senders, fd[0]), "a kTLS socket went into a sockmap");
	close(fd[0]);
	close(fd[1]);

	sockmap_pair(&m, fd);
	if (ktls_ulp(fd[0])) {
		found("the ULP on a socket in a sockmap: %s", strerror(errno));
	} else {
		CHECK(ktls_set(fd[0], TLS_TX, TLS_CIPHER_AES_GCM_128, 0, 0), "TLS_TX on a socket in a sockmap");
		found("the ULP on a socket in a sockmap: taken, then TLS_TX: %s", strerror(errno));
		CHECK(ktls_set(fd[0], TLS_RX, TLS_CIPHER_AES_GCM_128, 1, 0), "TLS_RX on a socket in a sockmap");
	}
	CHECK(send(fd[0], "plain", 5, 0) == 5 && recv(fd[1], b, sizeof(b), 0) == 5 && !memcmp(b, "plain", 5), "plain bytes go on");
	close(fd[0]);
	close(fd[1]);
	return 0;
}
