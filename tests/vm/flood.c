/*
 * Many connections that do not behave, held until SIGTERM.
 *
 *	flood source PORT			send without end on whatever connects, as fast as it goes; ready when it has printed "listening"
 *	flood hold ADDRESS PORT N SECONDS	N connections that say nothing and read nothing, for so long or until SIGTERM
 *
 * hold prints how many were made, and how many of them were reset by the end. Exit status 0.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MOST 4000

static struct pollfd fds[MOST];
static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static struct sockaddr_in address(const char *text, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET, text, &a.sin_addr) != 1)
		exit(2);
	return a;
}

static int source(const char *port)
{
	static uint8_t block[65536];
	struct sockaddr_in a = address("127.0.0.1", port);
	int one = 1, n = 1, fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK, 0);

	if (setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) || bind(fd, (struct sockaddr *)&a, sizeof(a)) || listen(fd, 1000))
		return 2;
	puts("listening");
	fflush(stdout);
	fds[0] = (struct pollfd){.fd = fd, .events = POLLIN};
	while (!stop) {
		int c;

		if (poll(fds, (nfds_t)n, 1000) < 0)
			continue;
		while (n < MOST && (c = accept4(fd, NULL, NULL, SOCK_NONBLOCK)) >= 0)
			fds[n++] = (struct pollfd){.fd = c, .events = POLLOUT};
		for (int i = 1; i < n; i++) {
			if (!(fds[i].revents & (POLLOUT | POLLERR | POLLHUP)) || send(fds[i].fd, block, sizeof(block), MSG_NOSIGNAL) >= 0 ||
			    errno == EAGAIN)
				continue;
			close(fds[i].fd);
			fds[i] = fds[--n];
		}
	}
	return 0;
}

static int hold(const char *where, const char *port, int want, int seconds)
{
	struct sockaddr_in a = address(where, port);
	time_t end = time(NULL) + seconds;
	int n = 0, reset = 0;

	for (int i = 0; i < want && i < MOST && !stop; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0), small = 4096;

		(void)setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &small, sizeof(small)); /* what waits, waits at the other end */
		if (connect(fd, (struct sockaddr *)&a, sizeof(a)))
			close(fd);
		else
			fds[n++] = (struct pollfd){.fd = fd};
	}
	printf("%d made\n", n);
	fflush(stdout);
	while (!stop && time(NULL) < end)
		poll(NULL, 0, 200);
	poll(fds, (nfds_t)n, 0);
	for (int i = 0; i < n; i++)
		reset += (fds[i].revents & (POLLERR | POLLHUP)) != 0;
	printf("%d reset\n", reset);
	return 0;
}

int main(int argc, char **argv)
{
	signal(SIGTERM, on_term);
	if (argc == 3 && !strcmp(argv[1], "source"))
		return source(argv[2]);
	if (argc == 6 && !strcmp(argv[1], "hold"))
		return hold(argv[2], argv[3], atoi(argv[4]), atoi(argv[5]));
	fprintf(stderr, "usage: see flood.c\n");
	return 2;
}
