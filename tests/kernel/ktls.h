/*
 * For the programs about kTLS: two ends of a loopback connection with keys that both know, so no handshake and no TLS library.
 * Direction 0 is what fd[0] sends and fd[1] receives. Source: Documentation/networking/tls.rst; linux/tls.h.
 */
#pragma once
#include "kernel.h"
#include <endian.h>
#include <linux/tls.h>
#include <poll.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define RECORD	      16384 /* payload of the largest record */
#define RECORD_HEADER 5
#define RECORD_EXTRA  17 /* type byte and tag, encrypted with the payload */

enum { ALERT = 21, HANDSHAKE = 22, DATA = 23 };

union ktls_keys {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 gcm128;
	struct tls12_crypto_info_aes_gcm_256 gcm256;
	struct tls12_crypto_info_chacha20_poly1305 chacha;
};

/* the keys of @direction; @seq: number of the next record. Return: bytes of *k that setsockopt() wants */
static inline socklen_t ktls_keys(union ktls_keys *k, uint16_t cipher, int direction, uint64_t seq)
{
	uint64_t be = htobe64(seq);

	memset(k, 0x11 * (direction + 1), sizeof(*k));
	k->info.version = TLS_1_3_VERSION;
	k->info.cipher_type = cipher;
	switch (cipher) {
	case TLS_CIPHER_AES_GCM_128:
		memcpy(k->gcm128.rec_seq, &be, sizeof(be));
		return sizeof(k->gcm128);
	case TLS_CIPHER_AES_GCM_256:
		memcpy(k->gcm256.rec_seq, &be, sizeof(be));
		return sizeof(k->gcm256);
	case TLS_CIPHER_CHACHA20_POLY1305:
		memcpy(k->chacha.rec_seq, &be, sizeof(be));
		return sizeof(k->chacha);
	}
	CHECK(false, "cipher %u", cipher);
	return 0;
}

static inline int ktls_ulp(int fd)
{
	return setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls"));
}

/* the ULP, or skip: there is no kTLS here */
static inline void ktls_attach(int fd)
{
	if (!ktls_ulp(fd))
		return;
	CHECK(errno == ENOENT, "TCP_ULP");
	skip("no tls module (CONFIG_TLS, modprobe tls)");
}

/* @way: TLS_TX or TLS_RX */
static inline int ktls_set(int fd, int way, uint16_t cipher, int direction, uint64_t seq)
{
	union ktls_keys k;
	socklen_t n = ktls_keys(&k, cipher, direction, seq);

	return setsockopt(fd, SOL_TLS, way, &k, n);
}

/* fd[0] sends and fd[1] receives with kTLS, and the other way round */
static inline void ktls_pair(int fd[2], uint16_t cipher)
{
	tcp_pair(fd);
	set_int(fd[1], IPPROTO_TCP, TCP_NODELAY, 1);
	for (int i = 0; i < 2; i++) {
		ktls_attach(fd[i]);
		CHECK(!ktls_set(fd[i], TLS_TX, cipher, i, 0), "TLS_TX, cipher %u", cipher);
		CHECK(!ktls_set(fd[i], TLS_RX, cipher, !i, 0), "TLS_RX, cipher %u", cipher);
	}
}

/* fd[0] seals with kTLS; fd[1] is plain TCP and sees the records as they travel */
static inline void ktls_tap(int fd[2])
{
	tcp_pair(fd);
	ktls_attach(fd[0]);
	CHECK(!ktls_set(fd[0], TLS_TX, TLS_CIPHER_AES_GCM_128, 0, 0), "TLS_TX");
}

/* fd[0] is plain TCP and sends what it likes; fd[1] opens records with kTLS */
static inline void ktls_sink(int fd[2])
{
	tcp_pair(fd);
	ktls_attach(fd[1]);
	CHECK(!ktls_set(fd[1], TLS_TX, TLS_CIPHER_AES_GCM_128, 1, 0), "TLS_TX");
	CHECK(!ktls_set(fd[1], TLS_RX, TLS_CIPHER_AES_GCM_128, 0, 0), "TLS_RX");
}

/* one recvmsg() with room for the type; *ret_type is 0 when the kernel said none */
static inline ssize_t ktls_recv(int fd, void *buf, size_t len, int flags, int *ret_type)
{
	char control[CMSG_SPACE(1)];
	struct iovec iov = {buf, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t n = recvmsg(fd, &m, flags);

	*ret_type = 0;
	if (n < 0)
		return n;
	for (struct cmsghdr *c = CMSG_FIRSTHDR(&m); c; c = CMSG_NXTHDR(&m, c))
		if (c->cmsg_level == SOL_TLS && c->cmsg_type == TLS_GET_RECORD_TYPE)
			*ret_type = *CMSG_DATA(c);
	return n;
}

/* one record of another type than data */
static inline ssize_t ktls_send(int fd, int type, const void *buf, size_t len, int flags)
{
	union {
		char bytes[CMSG_SPACE(1)];
		struct cmsghdr align;
	} control = {0};
	struct iovec iov = {(void *)(uintptr_t)buf, len};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control.bytes, .msg_controllen = sizeof(control.bytes)};
	struct cmsghdr *c = CMSG_FIRSTHDR(&m);

	c->cmsg_level = SOL_TLS;
	c->cmsg_type = TLS_SET_RECORD_TYPE;
	c->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(c) = (uint8_t)type;
	return sendmsg(fd, &m, flags);
}

static inline void pattern(uint8_t *b, size_t n, size_t at)
{
	for (size_t i = 0; i < n; i++)
		b[i] = (uint8_t)(((at + i) * 2654435761u) >> 13);
}

/* all that comes until nothing more does within QUIET_MS. Return: bytes */
static inline size_t read_quiet(int fd, uint8_t *buf, size_t len)
{
	size_t got = 0;

	while (got < len) {
		struct pollfd p = {.fd = fd, .events = POLLIN};
		ssize_t n;

		if (poll(&p, 1, got ? QUIET_MS : WAIT_MS) <= 0)
			break;
		n = recv(fd, buf + got, len - got, MSG_DONTWAIT);
		if (n <= 0)
			break;
		got += (size_t)n;
	}
	return got;
}
