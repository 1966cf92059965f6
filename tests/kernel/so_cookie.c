/*
 * SO_COOKIE: a number that a socket keeps for life and no other socket gets, in no namespace, also not one that reuses its address or its
 * memory. What the bypass and capture know a socket by. Source: net/core/sock_diag.c, __sock_gen_cookie().
 */
#include "netns.h"

#define MANY 2000

static uint64_t cookie(int fd)
{
	uint64_t v = 0;
	socklen_t n = sizeof(v);

	CHECK(!getsockopt(fd, SOL_SOCKET, SO_COOKIE, &v, &n) && v, "SO_COOKIE");
	return v;
}

static int compare(const void *a, const void *b)
{
	const uint64_t *x = a, *y = b;

	return (*x > *y) - (*x < *y);
}

int main(void)
{
	static uint64_t seen[MANY * 2];
	size_t n = 0;
	int fd[2], copy;

	for (int i = 0; i < MANY / 2; i++) {
		tcp_pair(fd);
		seen[n++] = cookie(fd[0]);
		seen[n++] = cookie(fd[1]);
		if (i % 100 == 0) {
			CHECK(send(fd[0], "x", 1, 0) == 1 && !shutdown(fd[0], SHUT_WR), "send");
			copy = dup(fd[0]);
			CHECK(cookie(copy) == seen[n - 2] && cookie(fd[1]) == seen[n - 1], "it changed");
			close(copy);
		}
		set_int(fd[0], SOL_SOCKET, SO_REUSEADDR, 1);
		close(fd[0]);
		close(fd[1]);
	}
	(void)netns_new();
	for (int i = 0; i < MANY / 2; i++) {
		int s = new_socket();

		seen[n++] = cookie(s);
		close(s);
	}
	qsort(seen, n, sizeof(seen[0]), compare);
	for (size_t i = 1; i < n; i++)
		CHECK(seen[i - 1] != seen[i], "twice: %llu", (unsigned long long)seen[i]);
	return 0;
}
