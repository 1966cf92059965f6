/* What the kernel says of one connection: the right one, both families, and nothing when there is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/net/diag.c"
#include <pthread.h>
#include <sched.h>
#include <sys/syscall.h>

struct pair {
	int l, fd[2]; /* listener, connecting, accepted */
	struct addr a, b; /* of fd[0], of fd[1] */
};

static struct addr name_of(int fd)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	struct addr a;

	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
	addr_from_sa((struct sockaddr *)&sa, &a);
	return a;
}

static void pair_make(struct pair *p, const char *listen_on, int family)
{
	struct sockaddr_storage sa;
	struct addr a;
	socklen_t n;

	assert_int_equal(addr_parse(listen_on, strlen(listen_on), &a, NULL), 0);
	n = addr_to_sa(&a, &sa);
	p->l = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(p->l, (struct sockaddr *)&sa, n), 0);
	assert_int_equal(listen(p->l, 8), 0);
	p->b = name_of(p->l);
	n = addr_to_sa(&p->b, &sa);
	if (family == AF_INET6 && p->b.family == AF_INET) { /* IPv4 by an IPv6 socket */
		struct sockaddr_in6 in6 = { .sin6_family = AF_INET6, .sin6_port = htons(p->b.port) };

		in6.sin6_addr.s6_addr[10] = in6.sin6_addr.s6_addr[11] = 0xff;
		memcpy(in6.sin6_addr.s6_addr + 12, p->b.ip, 4);
		memcpy(&sa, &in6, sizeof(in6));
		n = sizeof(in6);
	}
	p->fd[0] = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(p->fd[0], (struct sockaddr *)&sa, n), 0);
	p->fd[1] = accept(p->l, NULL, NULL);
	assert_true(p->fd[1] >= 0);
	p->a = name_of(p->fd[0]);
}

static void pair_close(struct pair *p)
{
	close(p->fd[0]);
	close(p->fd[1]);
	close(p->l);
}

static void knows(int netns, const struct pair *p)
{
	uint8_t bytes[1000] = { 0 };
	struct diag_tcp d;

	assert_int_equal(write(p->fd[0], bytes, sizeof(bytes)), sizeof(bytes));
	assert_int_equal(diag_tcp(netns, &p->b, &p->a, &d), 0); /* the receiver */
	assert_string_equal(d.state, "established");
	assert_int_equal(d.rqueue, sizeof(bytes));
	assert_int_equal(d.received_bytes, sizeof(bytes));
	assert_int_equal(d.uid, geteuid());
	assert_true(d.inode && d.cwnd && d.mss && d.congestion[0]);
	assert_int_equal(diag_tcp(netns, &p->a, &p->b, &d), 0); /* the sender */
	assert_int_equal(d.acked_bytes, sizeof(bytes) + 1);	 /* tcp_info counts the SYN */
	assert_true(d.rtt_us && d.min_rtt_us);
	assert_int_equal(d.rqueue, 0);
	assert_int_equal(shutdown(p->fd[0], SHUT_WR), 0);
	assert_int_equal(diag_tcp(netns, &p->b, &p->a, &d), 0);
	assert_string_equal(d.state, "close-wait");
}

static void a_connection_is_known(void **state)
{
	struct pair p;

	(void)state;
	pair_make(&p, "127.0.0.1:0", AF_INET);
	knows(-1, &p);
	pair_close(&p);
}

static void ipv6_too(void **state)
{
	struct pair p;
	AUTO_FD fd = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct sockaddr_in6 one = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_LOOPBACK_INIT };

	(void)state;
	if (fd < 0 || bind(fd, (struct sockaddr *)&one, sizeof(one)))
		skip();
	pair_make(&p, "[::1]:0", AF_INET6);
	knows(-1, &p);
	pair_close(&p);
	pair_make(&p, "127.0.0.1:0", AF_INET6);
	assert_int_equal(p.a.family, AF_INET);
	knows(-1, &p);
	pair_close(&p);
}

static void a_listener_is_no_connection(void **state)
{
	struct diag_tcp d;
	struct pair p;

	(void)state;
	pair_make(&p, "127.0.0.1:0", AF_INET);
	p.a.port ^= 1;
	assert_int_equal(diag_tcp(-1, &p.b, &p.a, &d), -ENOENT);
	pair_close(&p);
	assert_int_equal(diag_tcp(-1, &p.b, &p.a, &d), -ENOENT);
	assert_int_equal(d.state[0], '\0');
}

static void addresses_must_fit(void **state)
{
	struct addr none = { 0 }, v4 = { .family = AF_INET }, v6 = { .family = AF_INET6 };
	struct diag_tcp d;

	(void)state;
	assert_int_equal(diag_tcp(-1, &none, &none, &d), -EINVAL);
	assert_int_equal(diag_tcp(-1, &v4, &v6, &d), -EINVAL);
}

/* ---- another namespace: a thread's */

static pthread_barrier_t step;
static struct pair far;
static char path[64];

static void *other(void *arg)
{
	bool ok = !unshare(CLONE_NEWNET) && !system("ip link set lo up");

	(void)arg;
	snprintf(path, sizeof(path), ok ? "/proc/self/task/%ld/ns/net" : "", syscall(SYS_gettid));
	if (ok)
		pair_make(&far, "127.0.0.1:0", AF_INET);
	pthread_barrier_wait(&step);
	pthread_barrier_wait(&step);
	return NULL;
}

static void it_asks_in_the_namespace_it_is_told(void **state)
{
	struct diag_tcp d;
	pthread_t t;
	int fd = -1;

	(void)state;
	pthread_barrier_init(&step, NULL, 2);
	assert_int_equal(pthread_create(&t, NULL, other, NULL), 0);
	pthread_barrier_wait(&step);
	if (path[0]) {
		fd = netns_open(path, NULL);
		assert_int_equal(diag_tcp(-1, &far.a, &far.b, &d), -ENOENT);
		knows(fd, &far);
		pair_close(&far);
		close(fd);
	}
	pthread_barrier_wait(&step);
	pthread_join(t, NULL);
	if (fd < 0)
		skip();
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_connection_is_known),
		cmocka_unit_test(ipv6_too),
		cmocka_unit_test(a_listener_is_no_connection),
		cmocka_unit_test(addresses_must_fit),
		cmocka_unit_test(it_asks_in_the_namespace_it_is_told),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
