/* Sockets on loopback: listening says what to do about failures, resets are seen as such, clients stay with one worker. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/net/sock.c"
#include <fcntl.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/wait.h>

#define WAIT_MS 5000

static struct addr addr_of(const char *s)
{
	struct addr a;
	struct err e = {""};

	if (addr_parse(s, strlen(s), &a, &e) < 0)
		fail_msg("%s", e.msg);
	return a;
}

/* a listener on a free port; *a becomes its address */
static int listen_on(struct addr *a)
{
	struct err e = {""};
	int fd = -1;

	if (sock_listen(a, 128, &fd, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(sock_local(fd, a), 0);
	return fd;
}

static void wait_for(int fd, short events)
{
	struct pollfd p = {.fd = fd, .events = events};

	assert_int_equal(poll(&p, 1, WAIT_MS), 1);
}

static int accept_one(int l, struct addr *peer)
{
	int fd;

	wait_for(l, POLLIN);
	fd = sock_accept(l, peer);
	assert_true(fd >= 0);
	return fd;
}

static void pair(int fd[2])
{
	struct addr a = addr_of("127.0.0.1:0"), peer;
	int l = listen_on(&a);

	fd[0] = sock_connect(&a);
	assert_true(fd[0] >= 0);
	fd[1] = accept_one(l, &peer);
	wait_for(fd[0], POLLOUT);
	assert_int_equal(sock_error(fd[0]), 0);
	close(l);
}

static int opt(int fd, int level, int name)
{
	int v = -1;
	socklen_t n = sizeof(v);

	assert_int_equal(getsockopt(fd, level, name, &v, &n), 0);
	return v;
}

/* ---- listening ---- */

static void refusal_says_who_to_look_for(void **state)
{
	struct addr a = addr_of("127.0.0.1:0");
	struct sockaddr_storage sa;
	struct err e = {""};
	int other = socket(AF_INET, SOCK_STREAM, 0), fd = -1;
	socklen_t n = addr_to_sa(&a, &sa);

	(void)state;
	assert_int_equal(bind(other, (struct sockaddr *)&sa, n), 0); /* without SO_REUSEPORT */
	assert_int_equal(listen(other, 1), 0);
	assert_int_equal(sock_local(other, &a), 0);
	assert_int_equal(sock_listen(&a, 128, &fd, &e), -EADDRINUSE);
	assert_int_equal(fd, -1); /* written on success only */
	assert_non_null(strstr(e.msg, "cannot listen on 127.0.0.1:"));
	assert_non_null(strstr(e.msg, "ss -ltnp"));
	close(other);
	assert_int_equal(sock_listen(&a, 128, &fd, NULL), 0); /* nobody has to want the sentence */
	close(fd);
}

static void refusal_says_that_the_address_is_not_here(void **state)
{
	struct addr a = addr_of("192.0.2.1:15008"); /* TEST-NET-1 */
	struct err e = {""};
	int fd = -1;

	(void)state;
	assert_int_equal(sock_listen(&a, 128, &fd, &e), -EADDRNOTAVAIL);
	assert_non_null(strstr(e.msg, "192.0.2.1:15008"));
	assert_non_null(strstr(e.msg, "ip addr"));
	assert_int_equal(fd, -1);
}

static int privileged_port_start(void)
{
	FILE *f = fopen("/proc/sys/net/ipv4/ip_unprivileged_port_start", "re");
	int v = 1024;

	if (!f)
		return v;
	if (fscanf(f, "%d", &v) != 1)
		v = 1024;
	fclose(f);
	return v;
}

static void refusal_says_which_capability_is_missing(void **state)
{
	struct addr a = addr_of("127.0.0.1:7");
	struct err e = {""};
	int status, fd;
	pid_t pid;

	(void)state;
	if (privileged_port_start() <= 7) {
		print_message("every port is unprivileged here\n");
		skip();
	}
	pid = fork();
	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 && setuid(65534))
			_exit(2);
		_exit(sock_listen(&a, 128, &fd, &e) == -EACCES && strstr(e.msg, "CAP_NET_BIND_SERVICE") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status));
	assert_int_equal(WEXITSTATUS(status), 0);
}

static void workers_share_a_port(void **state)
{
	struct addr a = addr_of("127.0.0.1:0");
	int x = listen_on(&a), y = listen_on(&a);

	(void)state;
	assert_true(a.port != 0);
	close(x);
	close(y);
}

static void both_families_may_listen_on_one_port(void **state)
{
	struct addr six = addr_of("[::]:0"), four = addr_of("0.0.0.0:0");
	struct err e = {""};
	int x = -1, y;

	(void)state;
	if (sock_listen(&six, 128, &x, &e) < 0) {
		print_message("no IPv6: %s\n", e.msg);
		skip();
	}
	assert_int_equal(sock_local(x, &six), 0);
	four.port = six.port;
	y = listen_on(&four); /* the IPv6 one is IPv6 only */
	close(x);
	close(y);
}

static void accepted_sockets_are_as_wanted(void **state)
{
	struct addr a = addr_of("127.0.0.1:0"), peer, me;
	int l = listen_on(&a), c, s;

	(void)state;
	assert_int_equal(sock_accept(l, &peer), -EAGAIN);
	c = sock_connect(&a);
	assert_true(c >= 0);
	s = accept_one(l, &peer);
	assert_int_equal(sock_local(c, &me), 0);
	assert_true(addr_eq(&me, &peer));
	assert_int_equal(opt(s, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(opt(c, IPPROTO_TCP, TCP_NODELAY), 1);
	assert_int_equal(opt(s, SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(opt(s, IPPROTO_TCP, TCP_KEEPIDLE), 180);
	assert_true(fcntl(s, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(c, F_GETFL) & O_NONBLOCK);
	assert_true(fcntl(s, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(c, F_GETFD) & FD_CLOEXEC);
	assert_true(fcntl(l, F_GETFD) & FD_CLOEXEC);
	close(c);
	close(s);
	close(l);
}

static void running_out_of_descriptors_is_told_apart(void **state)
{
	struct addr a = addr_of("127.0.0.1:0"), peer;
	int l = listen_on(&a), c = sock_connect(&a), s;
	struct rlimit was, none;

	(void)state;
	assert_true(c >= 0);
	wait_for(l, POLLIN);
	assert_int_equal(getrlimit(RLIMIT_NOFILE, &was), 0);
	none = was;
	none.rlim_cur = 3;
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
	s = sock_accept(l, &peer);
	assert_int_equal(sock_connect(&a), -EMFILE);
	assert_int_equal(setrlimit(RLIMIT_NOFILE, &was), 0);
	assert_int_equal(s, -EMFILE);
	s = sock_accept(l, &peer); /* the connection was not lost */
	assert_true(s >= 0);
	close(s);
	close(c);
	close(l);
}

/* ---- connecting ---- */

static void a_refused_connect_is_told_by_so_error(void **state)
{
	struct addr a = addr_of("127.0.0.1:0");
	int l = listen_on(&a), c;

	(void)state;
	close(l); /* the port is free now */
	c = sock_connect(&a);
	if (c < 0) {
		assert_int_equal(c, -ECONNREFUSED); /* at once is fine, too */
		return;
	}
	wait_for(c, POLLOUT);
	assert_int_equal(sock_error(c), -ECONNREFUSED);
	assert_int_equal(sock_error(c), 0); /* asked once */
	close(c);
}

static void no_address_is_no_connect(void **state)
{
	struct addr none = {.family = AF_UNSPEC}, far = addr_of("[2001:db8::1]:1");
	int fd;

	(void)state;
	assert_int_equal(sock_connect(&none), -EADDRNOTAVAIL);
	fd = sock_connect(&far); /* no route, usually; else it just begins */
	assert_true(fd >= 0 || fd == -ENETUNREACH || fd == -EADDRNOTAVAIL || fd == -EAFNOSUPPORT || fd == -EHOSTUNREACH);
	if (fd >= 0)
		close(fd);
	assert_int_equal(sock_error(-1), -EBADF);
	assert_int_equal(sock_local(-1, &none), -EBADF);
}

/* ---- endings, options ---- */

static void reset_is_a_reset(void **state)
{
	int fd[2];
	char b[8];

	(void)state;
	pair(fd);
	assert_int_equal(send(fd[0], "abc", 3, 0), 3);
	sock_reset(fd[0]);
	wait_for(fd[1], POLLIN);
	assert_int_equal(recv(fd[1], b, sizeof(b), 0), 3);
	assert_int_equal(recv(fd[1], b, sizeof(b), 0), -1);
	assert_int_equal(errno, ECONNRESET);
	close(fd[1]);
	pair(fd);
	sock_reset(fd[1]); /* the accepted side */
	wait_for(fd[0], POLLIN);
	assert_int_equal(sock_error(fd[0]), -ECONNRESET);
	close(fd[0]);
}

static void a_tunnel_keeps_little_in_the_kernel(void **state)
{
	static char block[65536];
	int fd[2], got = 0;
	size_t sent = 0;
	ssize_t n;

	(void)state;
	pair(fd);
	sock_tunnel_options(fd[0]);
	assert_int_equal(opt(fd[0], IPPROTO_TCP, TCP_NOTSENT_LOWAT), NOTSENT_LOWAT);
	assert_int_equal(opt(fd[0], SOL_SOCKET, SO_KEEPALIVE), 1);
	assert_int_equal(setsockopt(fd[1], SOL_SOCKET, SO_RCVBUF, &(int){65536}, sizeof(int)), 0);
	while ((n = send(fd[0], block, sizeof(block), MSG_DONTWAIT)) > 0)
		sent += (size_t)n;
	assert_int_equal(errno, EAGAIN);
	assert_int_equal(ioctl(fd[0], 0x894B /* SIOCOUTQNSD */, &got), 0);
	assert_in_range(got, 1, NOTSENT_LOWAT + 2 * (int)sizeof(block));
	close(fd[0]);
	close(fd[1]);
}

static void round_trips_are_measured(void **state)
{
	int fd[2];

	(void)state;
	pair(fd);
	assert_in_range(sock_rtt_us(fd[0]), 1, 10000000);
	close(fd[0]);
	close(fd[1]);
	assert_int_equal(sock_rtt_us(-1), 0);
	assert_int_equal(sock_rtt_us(STDIN_FILENO), 0); /* no TCP socket */
}

/* ---- spreading ---- */

enum { GROUP = 4 };

static int who_got_it(const int l[GROUP])
{
	struct pollfd p[GROUP];
	struct addr peer;
	int fd;

	for (int i = 0; i < GROUP; i++)
		p[i] = (struct pollfd){.fd = l[i], .events = POLLIN};
	assert_int_equal(poll(p, GROUP, WAIT_MS), 1);
	for (int i = 0; i < GROUP; i++)
		if (p[i].revents) {
			fd = sock_accept(l[i], &peer);
			assert_true(fd >= 0);
			sock_reset(fd);
			return i;
		}
	return -1;
}

static int connect_from(uint8_t net, uint8_t last, const struct addr *to)
{
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000000u | (uint32_t)net << 8 | last)};
	struct sockaddr_storage sa;
	socklen_t n = addr_to_sa(to, &sa);
	int c = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(c, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(c, (struct sockaddr *)&sa, n), 0);
	return c;
}

static void a_client_stays_with_one_listener(void **state)
{
	struct addr a = addr_of("127.0.0.1:0");
	int l[GROUP], count[GROUP] = {0}, r;

	(void)state;
	for (int i = 0; i < GROUP; i++)
		l[i] = listen_on(&a);
	r = sock_spread_by_source(l[0], GROUP);
	if (r == -ENOPROTOOPT || r == -EPERM) {
		print_message("no SO_ATTACH_REUSEPORT_CBPF: %s\n", strerror(-r));
		skip();
	}
	assert_int_equal(r, 0);
	for (int client = 0; client < 64; client++) {
		int first = -1;

		for (int i = 0; i < 5; i++) { /* another source port each time */
			int c = connect_from((uint8_t)(client >> 5), (uint8_t)(1 + client), &a), at = who_got_it(l);

			assert_true(first < 0 || first == at);
			first = at;
			close(c);
		}
		count[first]++;
	}
	for (int i = 0; i < GROUP; i++)
		assert_in_range(count[i], 4, 40); /* 16 each, were it perfect */
	for (int i = 0; i < GROUP; i++)
		close(l[i]);
}

static void ipv6_clients_stay_too(void **state)
{
	struct addr a = addr_of("[::1]:0");
	struct err e = {""};
	int l[GROUP], first = -1;

	(void)state;
	if (sock_listen(&a, 128, &l[0], &e) < 0) {
		print_message("no IPv6: %s\n", e.msg);
		skip();
	}
	assert_int_equal(sock_local(l[0], &a), 0);
	for (int i = 1; i < GROUP; i++)
		l[i] = listen_on(&a);
	assert_int_equal(sock_spread_by_source(l[0], GROUP), 0);
	for (int i = 0; i < 40; i++) {
		int c = sock_connect(&a), at;

		assert_true(c >= 0);
		at = who_got_it(l);
		assert_true(first < 0 || first == at);
		first = at;
		close(c);
	}
	for (int i = 0; i < GROUP; i++)
		close(l[i]);
}

static void spreading_over_nothing_is_refused(void **state)
{
	(void)state;
	assert_int_equal(sock_spread_by_source(-1, GROUP), -EBADF);
}

/* ---- somebody else's address as source ---- */

static void the_source_may_be_somebody_elses(void **state)
{
	struct addr a = addr_of("127.0.0.1:0"), from = addr_of("127.200.0.9:4711"), peer;
	struct sock_how how = {.from = &from};
	struct err e = {""};
	int l = listen_on(&a), c = sock_connect_how(&a, &how, &e), s;

	(void)state;
	if (c == -EPERM) {
		assert_non_null(strstr(e.msg, "CAP_NET_ADMIN"));
		close(l);
		skip();
	}
	assert_true(c >= 0);
	s = accept_one(l, &peer);
	assert_int_equal(opt(c, IPPROTO_IP, IP_TRANSPARENT), 1);
	assert_memory_equal(peer.ip, from.ip, 4);
	assert_int_not_equal(peer.port, from.port); /* the client's own connection has that one */
	assert_true(peer.port != 0);
	close(c);
	close(s);
	close(l);
}

static void its_family_must_fit(void **state)
{
	struct addr a = addr_of("127.0.0.1:1"), from = addr_of("[2001:db8::1]:4711");
	struct sock_how how = {.from = &from};
	struct err e = {""};

	(void)state;
	assert_int_equal(sock_connect_how(&a, &how, &e), -EAFNOSUPPORT);
	assert_non_null(strstr(e.msg, "other family"));
}

static void without_the_right_it_says_which(void **state)
{
	struct addr a = addr_of("127.0.0.1:1"), from = addr_of("127.200.0.9:4711");
	struct sock_how how = {.from = &from};
	struct err e = {""};
	int status;
	pid_t pid = fork();

	(void)state;
	assert_true(pid >= 0);
	if (pid == 0) {
		if (geteuid() == 0 && setuid(65534))
			_exit(2);
		_exit(sock_connect_how(&a, &how, &e) == -EPERM && strstr(e.msg, "127.200.0.9") && strstr(e.msg, "CAP_NET_ADMIN") ? 0 : 1);
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_int_equal(status, 0);
}

static void a_namespace_that_is_not_there_is_no_connect(void **state)
{
	struct netns ns = {.name = "no-such-namespace"};
	struct addr a = addr_of("127.0.0.1:1");
	struct sock_how how = {.netns = &ns};
	struct err e = {""};

	(void)state;
	assert_int_equal(sock_connect_how(&a, &how, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "no-such-namespace"));
}

static void a_bounded_socket_holds_little_until_it_is_set_free(void **state)
{
	static uint8_t block[1 << 20];
	struct addr a = addr_of("127.0.0.1:0");
	int l = listen_on(&a), c = sock_connect(&a), s;
	int before = 0, bound = 0;
	struct addr peer;
	socklen_t n = sizeof(before);

	(void)state;
	wait_for(l, POLLIN);
	s = sock_accept(l, &peer);
	assert_true(c >= 0 && s >= 0);
	wait_for(c, POLLOUT);
	assert_int_equal(sock_memory(s), 0);
	getsockopt(c, SOL_SOCKET, SO_SNDBUF, &before, &n);
	sock_bound(c, 16384);
	sock_bound(s, 16384);
	getsockopt(c, SOL_SOCKET, SO_SNDBUF, &bound, &n);
	assert_true(bound < before && bound <= 65536);
	while (send(c, block, sizeof(block), MSG_DONTWAIT) > 0)
		poll(NULL, 0, 10);
	assert_in_range(sock_memory(c) + sock_memory(s), 1024, 400000);
	sock_unbound(c);
	sock_unbound(s);
	close(c);
	close(s);
	close(l);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(refusal_says_who_to_look_for),
		cmocka_unit_test(refusal_says_that_the_address_is_not_here),
		cmocka_unit_test(refusal_says_which_capability_is_missing),
		cmocka_unit_test(workers_share_a_port),
		cmocka_unit_test(both_families_may_listen_on_one_port),
		cmocka_unit_test(accepted_sockets_are_as_wanted),
		cmocka_unit_test(running_out_of_descriptors_is_told_apart),
		cmocka_unit_test(a_refused_connect_is_told_by_so_error),
		cmocka_unit_test(no_address_is_no_connect),
		cmocka_unit_test(reset_is_a_reset),
		cmocka_unit_test(a_tunnel_keeps_little_in_the_kernel),
		cmocka_unit_test(round_trips_are_measured),
		cmocka_unit_test(a_client_stays_with_one_listener),
		cmocka_unit_test(ipv6_clients_stay_too),
		cmocka_unit_test(spreading_over_nothing_is_refused),
		cmocka_unit_test(the_source_may_be_somebody_elses),
		cmocka_unit_test(its_family_must_fit),
		cmocka_unit_test(without_the_right_it_says_which),
		cmocka_unit_test(a_namespace_that_is_not_there_is_no_connect),
		cmocka_unit_test(a_bounded_socket_holds_little_until_it_is_set_free),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
