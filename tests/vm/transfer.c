/*
 * Both ends of a TCP connection that carries bytes each way at once and looks at every one of them.
 *
 *	transfer listen PORT BYTES [CONNECTIONS]	on 127.0.0.1, ready when it has printed "listening"
 *	transfer connect ADDRESS PORT BYTES [CONNECTIONS]
 *
 * Each side sends BYTES that follow from their position and from the side, shuts its direction down, and reads until the other's
 * FIN. The first of them go in round trips of 1 to 4096 bytes, the rest both ways at once in writes of 1 byte to 128 KiB. Connections
 * are made one after the other. Exit status 0: all bytes came, in order, and each end was clean; 1: the line says what was seen.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define IDLE_MS 30000
#define BLOCK	(128 << 10)
#define ROUNDS	200 /* round trips, while they fit into half of the bytes */

static uint8_t in[BLOCK], out[BLOCK];

static __attribute__((noreturn)) void die(const char *what, uint64_t at)
{
	printf("transfer: %s at byte %llu: %s\n", what, (unsigned long long)at, strerror(errno));
	exit(1);
}

/* splitmix64's finalizer over the number of the 8-byte word: any position can be computed alone */
static uint8_t byte_at(uint64_t pos, uint64_t side)
{
	uint64_t z = (pos >> 3) * 0x9e3779b97f4a7c15u + side * 0xd1b54a32d192ed03u;

	z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
	z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
	z ^= z >> 31;
	return (uint8_t)(z >> (8 * (pos & 7)));
}

static size_t next_size(uint64_t pos, uint64_t total)
{
	static const size_t sizes[] = {1, 9, 700, 1448, 4096, 16384, 16375, 40000, 65536, BLOCK};
	size_t n = sizes[byte_at(pos, 77) % (sizeof(sizes) / sizeof(sizes[0]))];

	return n < total - pos ? n : (size_t)(total - pos);
}

/* @n bytes that must come, from position @at of the other side */
static void take(int fd, uint64_t side, uint64_t at, size_t n)
{
	struct pollfd p = {.fd = fd, .events = POLLIN};

	for (size_t have = 0; have < n;) {
		ssize_t r;

		if (poll(&p, 1, IDLE_MS) != 1)
			die("nothing comes any more", at + have);
		r = recv(fd, in + have, n - have, MSG_DONTWAIT);
		if (r == 0 || (r < 0 && errno != EAGAIN))
			die(r ? "recv" : "the end came too early", at + have);
		have += r > 0 ? (size_t)r : 0;
	}
	for (size_t i = 0; i < n; i++)
		if (in[i] != byte_at(at + i, !side))
			die("a wrong byte", at + i);
}

static void give(int fd, uint64_t side, uint64_t at, size_t n)
{
	for (size_t i = 0; i < n; i++)
		out[i] = byte_at(at + i, side);
	if (send(fd, out, n, MSG_NOSIGNAL) != (ssize_t)n)
		die("send", at);
}

/* the connecting side asks, the other answers with as many bytes. Return: bytes each way */
static uint64_t round_trips(int fd, uint64_t side, uint64_t total)
{
	uint64_t at = 0;

	for (uint64_t i = 0; i < ROUNDS; i++) {
		size_t n = 1 + byte_at(i, 78) % 16 * 273;

		if (at + n > total / 2)
			break;
		if (!side)
			give(fd, side, at, n);
		take(fd, side, at, n);
		if (side)
			give(fd, side, at, n);
		at += n;
	}
	return at;
}

static void carry(int fd, uint64_t side, uint64_t total)
{
	uint64_t sent = round_trips(fd, side, total), got = sent;
	size_t have = 0, off = 0;
	bool eof = false, shut = false;

	while (!eof || !shut) {
		struct pollfd p = {.fd = fd, .events = (short)((eof ? 0 : POLLIN) | (shut ? 0 : POLLOUT))};
		ssize_t n;

		if (poll(&p, 1, IDLE_MS) != 1)
			die("nothing happens any more", got);
		if (p.revents & (POLLIN | POLLHUP | POLLERR)) {
			n = recv(fd, in, sizeof(in), MSG_DONTWAIT);
			if (n < 0 && errno != EAGAIN)
				die("recv", got);
			eof = n == 0;
			for (ssize_t i = 0; i < n; i++, got++)
				if (in[i] != byte_at(got, !side))
					die("a wrong byte", got);
			if (got > total)
				die("too many bytes", got);
		}
		if (shut || !(p.revents & POLLOUT))
			continue;
		if (off == have) {
			have = next_size(sent, total);
			off = 0;
			for (size_t i = 0; i < have; i++)
				out[i] = byte_at(sent + i, side);
		}
		n = have ? send(fd, out + off, have - off, MSG_DONTWAIT | MSG_NOSIGNAL) : 0;
		if (n < 0 && errno != EAGAIN)
			die("send", sent);
		if (n > 0) {
			off += (size_t)n;
			sent += (uint64_t)n;
		}
		if (sent == total) {
			if (shutdown(fd, SHUT_WR))
				die("shutdown", sent);
			shut = true;
		}
	}
	errno = 0;
	if (got != total)
		die("the end came too early", got);
}

int main(int argc, char **argv)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	bool listens = argc >= 4 && !strcmp(argv[1], "listen");
	int l = -1, at = listens ? 2 : 3, one = 1;
	uint64_t total;
	long count;

	if (!listens && !(argc >= 5 && !strcmp(argv[1], "connect") && inet_pton(AF_INET, argv[2], &a.sin_addr) == 1)) {
		printf("usage: transfer listen PORT BYTES [CONNECTIONS] | connect ADDRESS PORT BYTES [CONNECTIONS]\n");
		return 2;
	}
	a.sin_port = htons((uint16_t)strtoul(argv[at], NULL, 10));
	total = strtoull(argv[at + 1], NULL, 10);
	count = argc > at + 2 ? strtol(argv[at + 2], NULL, 10) : 1;
	if (listens) {
		l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
		if (l < 0 || setsockopt(l, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) ||
		    bind(l, (struct sockaddr *)&a, sizeof(a)) || listen(l, 64))
			die("listen", 0);
		printf("listening\n");
		fflush(stdout);
	}
	for (long i = 0; i < count; i++) {
		int fd = listens ? accept(l, NULL, NULL) : socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

		if (fd < 0 || (!listens && connect(fd, (struct sockaddr *)&a, sizeof(a))) ||
		    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one)))
			die("connect", 0);
		carry(fd, listens, total);
		close(fd);
	}
	printf("transfer: %ld connections, %llu bytes each way, all right\n", count, (unsigned long long)total);
	return 0;
}
