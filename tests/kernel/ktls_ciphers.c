/*
 * AES-128-GCM, AES-256-GCM and CHACHA20-POLY1305 with TLS 1.3, both directions with keys of their own, beginning at any record number,
 * every byte. getsockopt(TLS_TX) and (TLS_RX) give the number of the next record, live: that is how a tunnel is retired before its
 * keys wear out. /proc/net/tls_stat counts the sockets of this network namespace. tls/ktls.c. Source: Documentation/networking/tls.rst.
 */
#include "ktls.h"

#define TOTAL (300 << 10)

static uint64_t stat_of(const char *name)
{
	char line[80], key[40];
	unsigned long long v;
	FILE *f = fopen("/proc/net/tls_stat", "re");

	CHECK(f, "/proc/net/tls_stat");
	while (fgets(line, sizeof(line), f))
		if (sscanf(line, "%39s %llu", key, &v) == 2 && !strcmp(key, name)) {
			fclose(f);
			return v;
		}
	CHECK(false, "no %s in /proc/net/tls_stat", name);
	return 0;
}

static uint64_t number(int fd, int way)
{
	union ktls_keys k;
	socklen_t n = sizeof(k.gcm128);
	uint64_t be;

	k.info.version = TLS_1_3_VERSION;
	k.info.cipher_type = TLS_CIPHER_AES_GCM_128;
	CHECK(!getsockopt(fd, SOL_TLS, way, &k, &n), "getsockopt");
	memcpy(&be, k.gcm128.rec_seq, sizeof(be));
	return be64toh(be);
}

static void carry(int from, int to)
{
	static uint8_t out[TOTAL], in[TOTAL];
	size_t sent = 0, got = 0;

	pattern(out, TOTAL, 7);
	while (got < TOTAL) {
		size_t n = 1 + sent * 7919 % 40000;
		ssize_t r;
		int type;

		if (n > TOTAL - sent)
			n = TOTAL - sent;
		if (n) {
			r = send(from, out + sent, n, MSG_DONTWAIT);
			CHECK(r > 0 || errno == EAGAIN, "send");
			sent += r > 0 ? (size_t)r : 0;
		}
		r = ktls_recv(to, in + got, TOTAL - got, MSG_DONTWAIT, &type);
		CHECK((r > 0 && type == DATA) || (r < 0 && errno == EAGAIN), "recvmsg %zd, type %d", r, type);
		got += r > 0 ? (size_t)r : 0;
	}
	CHECK(!memcmp(out, in, TOTAL), "other bytes came");
}

static void numbers(void)
{
	int fd[2], type;
	char b[8];

	tcp_pair(fd);
	ktls_attach(fd[0]);
	ktls_attach(fd[1]);
	CHECK(!ktls_set(fd[0], TLS_TX, TLS_CIPHER_AES_GCM_128, 0, 0x1fffffffe), "TLS_TX");
	CHECK(!ktls_set(fd[1], TLS_RX, TLS_CIPHER_AES_GCM_128, 0, 0x1fffffffe), "TLS_RX");
	for (uint64_t i = 0; i < 5; i++) {
		CHECK(number(fd[0], TLS_TX) == 0x1fffffffe + i, "TX number %llx", (unsigned long long)number(fd[0], TLS_TX));
		CHECK(number(fd[1], TLS_RX) == 0x1fffffffe + i, "RX number %llx", (unsigned long long)number(fd[1], TLS_RX));
		CHECK(send(fd[0], "x", 1, 0) == 1, "send");
		CHECK(ktls_recv(fd[1], b, sizeof(b), 0, &type) == 1 && type == DATA, "recv");
	}
	close(fd[0]);
	close(fd[1]);
}

int main(void)
{
	static const uint16_t cipher[] = {TLS_CIPHER_AES_GCM_128, TLS_CIPHER_AES_GCM_256, TLS_CIPHER_CHACHA20_POLY1305};
	uint64_t errors;
	int fd[2];

	ktls_pair(fd, cipher[0]);
	close(fd[0]);
	close(fd[1]);
	errors = stat_of("TlsDecryptError");
	for (int i = 0; i < 3; i++) {
		ktls_pair(fd, cipher[i]);
		CHECK(stat_of("TlsCurrTxSw") >= 2 && stat_of("TlsCurrRxSw") >= 2, "sockets are not counted");
		carry(fd[0], fd[1]);
		carry(fd[1], fd[0]);
		close(fd[0]);
		close(fd[1]);
	}
	numbers();
	CHECK(stat_of("TlsDecryptError") == errors, "decrypt errors");
	return 0;
}
