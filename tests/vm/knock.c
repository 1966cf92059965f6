/*
 * Does anybody get refused? New connections without a break, each with a few bytes there and back.
 *
 *	knock serve PORT		answer with what comes, on every address, ready when it has printed "listening"
 *	knock at ADDRESS PORT MS	a connection every MS milliseconds, until SIGTERM; then what became of them, in one line:
 *					"N knocks, N refused, N reset, N lost, slowest N ms", exit status 0 if all were answered
 *	knock once ADDRESS PORT		exit status 0 answered, 1 refused, 2 anything else
 *	knock hold ADDRESS PORT		one connection with a byte there and back every 100 ms; when it ends, says how
 *
 * An answer may take half a minute: the machine is emulated. serve knows nothing of its peers' ends, and serves each in a process.
 */
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE_MS 30000

enum end { ANSWERED, REFUSED, RESET, LOST, ENDS };

static volatile sig_atomic_t stop;

static void on_term(int sig)
{
	(void)sig;
	stop = 1;
}

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static struct sockaddr_in address(const char *text, const char *port)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons((uint16_t)atoi(port))};

	if (inet_pton(AF_INET, text, &a.sin_addr) != 1) {
		fprintf(stderr, "knock: '%s': want an IPv4 address\n", text);
		exit(2);
	}
	return a;
}

static int door(const struct sockaddr_in *a)
{
	const struct timeval patience = {.tv_sec = PATIENCE_MS / 1000};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return -1;
	(void)setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	(void)setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience));
	if (connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0)
		return fd;
	close(fd);
	return -1;
}

static enum end exchange(int fd, const void *what, size_t n)
{
	char back[64];
	ssize_t r = 0;

	if (send(fd, what, n, MSG_NOSIGNAL) != (ssize_t)n)
		return errno == ECONNRESET || errno == EPIPE ? RESET : LOST;
	for (size_t have = 0; have < n; have += (size_t)r) {
		r = recv(fd, back + have, n - have, 0);
		if (r <= 0)
			return r < 0 && errno == ECONNRESET ? RESET : LOST;
	}
	return memcmp(what, back, n) ? LOST : ANSWERED;
}

static enum end knock(const struct sockaddr_in *a)
{
	int fd = door(a);
	enum end e;

	if (fd < 0)
		return errno == ECONNREFUSED ? REFUSED : errno == ECONNRESET ? RESET : LOST;
	e = exchange(fd, "anybody home?", 13);
	close(fd);
	return e;
}

static int at(const struct sockaddr_in *a, int every_ms)
{
	const struct timespec pause = {.tv_sec = every_ms / 1000, .tv_nsec = every_ms % 1000 * 1000000L};
	uint64_t count[ENDS] = {0}, n = 0, slowest = 0;
	struct sigaction sa = {.sa_handler = on_term};
	sigset_t term, none;

	sigemptyset(&none);
	sigemptyset(&term);
	sigaddset(&term, SIGTERM);
	(void)sigprocmask(SIG_BLOCK, &term, NULL); /* it must not interrupt a knock: only the pause between two */
	(void)sigaction(SIGTERM, &sa, NULL);
	while (!stop) {
		uint64_t began = now_ms();

		count[knock(a)]++;
		n++;
		if (now_ms() - began > slowest)
			slowest = now_ms() - began;
		(void)ppoll(NULL, 0, &pause, &none);
	}
	printf("%llu knocks, %llu refused, %llu reset, %llu lost, slowest %llu ms\n", (unsigned long long)n, (unsigned long long)count[REFUSED],
	       (unsigned long long)count[RESET], (unsigned long long)count[LOST], (unsigned long long)slowest);
	return count[ANSWERED] == n && n ? 0 : 1;
}

static int hold(const struct sockaddr_in *a)
{
	static const char *const said[ENDS] = {"", "refused", "reset", "ended"};
	uint64_t began = now_ms();
	enum end e = ANSWERED;
	int fd = door(a);

	printf("%s\n", fd < 0 ? "no connection" : "open");
	fflush(stdout);
	while (fd >= 0 && e == ANSWERED) {
		(void)poll(NULL, 0, 100);
		e = exchange(fd, "!", 1);
	}
	printf("%s after %llu ms\n", said[e], (unsigned long long)(now_ms() - began));
	return fd < 0;
}

static int serve(const char *port)
{
	struct sockaddr_in a = address("0.0.0.0", port);
	int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	(void)signal(SIGCHLD, SIG_IGN);
	if (s < 0 || setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one)) || bind(s, (struct sockaddr *)&a, sizeof(a)) ||
	    listen(s, SOMAXCONN)) {
		perror("knock: serve");
		return 2;
	}
	printf("listening\n");
	fflush(stdout);
	for (;;) {
		int fd = accept(s, NULL, NULL);
		char bytes[64];
		ssize_t r;

		if (fd < 0 || fork()) {
			if (fd >= 0)
				close(fd);
			continue;
		}
		while ((r = recv(fd, bytes, sizeof(bytes), 0)) > 0)
			if (send(fd, bytes, (size_t)r, MSG_NOSIGNAL) != r)
				break;
		_exit(0);
	}
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "serve"))
		return serve(argv[2]);
	if (argc >= 4) {
		struct sockaddr_in a = address(argv[2], argv[3]);
		enum end e;

		if (argc == 5 && !strcmp(argv[1], "at"))
			return at(&a, atoi(argv[4]));
		if (!strcmp(argv[1], "hold"))
			return hold(&a);
		e = knock(&a);
		return e == ANSWERED ? 0 : e == REFUSED ? 1 : 2;
	}
	fprintf(stderr, "usage: knock serve PORT | at ADDRESS PORT MS | once ADDRESS PORT | hold ADDRESS PORT\n");
	return 2;
}
