/* Whose is the other end of a connection: uid and cgroup as they are, and nothing instead of a guess. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#include "daemon/net/owner.c"
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static struct owner o = {.fd = -1};

struct pair {
	int l, fd[2]; /* listener, connecting, accepted */
	struct addr peer, local;
};

static struct addr name_of(int fd, bool peer)
{
	struct sockaddr_storage sa;
	socklen_t n = sizeof(sa);
	struct addr a;

	assert_int_equal(peer ? getpeername(fd, (struct sockaddr *)&sa, &n) : getsockname(fd, (struct sockaddr *)&sa, &n), 0);
	addr_from_sa((struct sockaddr *)&sa, &a);
	return a;
}

static void pair_make(struct pair *p, const char *on, bool mapped)
{
	struct sockaddr_storage sa;
	struct addr a;
	socklen_t n;

	assert_int_equal(addr_parse(on, strlen(on), &a, NULL), 0);
	n = addr_to_sa(&a, &sa);
	p->l = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(p->l, (struct sockaddr *)&sa, n), 0);
	assert_int_equal(listen(p->l, 8), 0);
	a = name_of(p->l, false);
	n = addr_to_sa(&a, &sa);
	if (mapped) {
		struct sockaddr_in6 in6 = {.sin6_family = AF_INET6, .sin6_port = htons(a.port)};

		in6.sin6_addr.s6_addr[10] = in6.sin6_addr.s6_addr[11] = 0xff;
		memcpy(in6.sin6_addr.s6_addr + 12, a.ip, 4);
		memcpy(&sa, &in6, sizeof(in6));
		n = sizeof(in6);
	}
	p->fd[0] = socket(sa.ss_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(connect(p->fd[0], (struct sockaddr *)&sa, n), 0);
	p->fd[1] = accept(p->l, NULL, NULL);
	assert_true(p->fd[1] >= 0);
	p->peer = name_of(p->fd[1], true);
	p->local = name_of(p->fd[1], false);
}

static void pair_close(struct pair *p)
{
	for (int i = 0; i < 2; i++)
		clean_fd(&p->fd[i]);
	close(p->l);
}

/* id of the cgroup that this process is in; 0: no cgroup2 */
static uint64_t own_cgroup(void)
{
	char line[512], path[600];
	FILE *f = fopen("/proc/self/cgroup", "re");
	struct stat st = {0};

	while (f && fgets(line, sizeof(line), f)) {
		line[strcspn(line, "\n")] = '\0';
		if (strncmp(line, "0::", 3))
			continue;
		snprintf(path, sizeof(path), "/sys/fs/cgroup%s", line + 3);
		if (stat(path, &st))
			st.st_ino = 0;
	}
	if (f)
		fclose(f);
	return st.st_ino;
}

static void open_or_skip(void)
{
	if (o.fd < 0 && owner_open(&o, -1) < 0)
		skip();
}

static void check(const char *on, bool mapped)
{
	struct owner_facts f;
	struct pair p;
	int r;

	pair_make(&p, on, mapped);
	r = owner_ask(&o, &p.peer, &p.local, &f);
	if (r == -ENOENT && geteuid()) /* no inet_diag, and no right to load it */
		skip();
	assert_int_equal(r, 0);
	assert_true(f.has_uid);
	assert_int_equal(f.uid, getuid());
	if (own_cgroup())
		assert_int_equal(f.cgroup, own_cgroup());
	pair_close(&p);
}

static void uid_and_cgroup_of_the_other_end(void **state)
{
	(void)state;
	open_or_skip();
	check("127.0.0.1:0", false);
	check("[::1]:0", false);
	check("127.0.0.1:0", true);
}

static void another_users_socket(void **state)
{
	struct owner_facts f;
	struct pair p;
	pid_t child;
	int go[2], status;
	char c;

	(void)state;
	open_or_skip();
	if (geteuid())
		skip();
	pair_make(&p, "127.0.0.1:0", false);
	assert_int_equal(pipe(go), 0);
	close(p.fd[0]);
	child = fork();
	if (!child) {
		struct sockaddr_storage sa;
		socklen_t n = addr_to_sa(&p.local, &sa);
		int s;

		close(go[1]);
		if (setuid(4242))
			_exit(1);
		s = socket(AF_INET, SOCK_STREAM, 0);
		if (connect(s, (struct sockaddr *)&sa, n))
			_exit(2);
		_exit(read(go[0], &c, 1) == 0 ? 0 : 3);
	}
	close(p.fd[1]);
	p.fd[1] = accept(p.l, NULL, NULL);
	p.peer = name_of(p.fd[1], true);
	assert_int_equal(owner_ask(&o, &p.peer, &p.local, &f), 0);
	assert_true(f.has_uid);
	assert_int_equal(f.uid, 4242);
	close(go[0]);
	close(go[1]);
	assert_int_equal(waitpid(child, &status, 0), child);
	assert_int_equal(status, 0);
	p.fd[0] = -1;
	pair_close(&p);
}

/* uid 0 is what the kernel says of a socket whose process has closed it: that is not root */
static void a_closed_end_has_no_uid(void **state)
{
	struct owner_facts f;
	struct pair p;
	int r;

	(void)state;
	open_or_skip();
	pair_make(&p, "127.0.0.1:0", false);
	clean_fd(&p.fd[0]); /* FIN_WAIT2, without a process */
	r = owner_ask(&o, &p.peer, &p.local, &f);
	assert_true(r == 0 || r == -ENOENT);
	assert_false(f.has_uid);
	if (r == 0 && own_cgroup())
		assert_int_equal(f.cgroup, own_cgroup());
	clean_fd(&p.fd[1]); /* TIME_WAIT */
	r = owner_ask(&o, &p.peer, &p.local, &f);
	assert_true(r == 0 || r == -ENOENT);
	assert_false(f.has_uid);
	assert_int_equal(f.cgroup, 0);
	pair_close(&p);
}

static void a_listener_is_not_the_answer(void **state)
{
	struct owner_facts f;
	struct pair p;
	struct addr a, b;

	(void)state;
	open_or_skip();
	pair_make(&p, "127.0.0.1:0", false);
	a = p.local;
	b = p.peer;
	b.port = 1;
	assert_int_equal(owner_ask(&o, &a, &b, &f), -ENOENT); /* the listener has that port */
	assert_false(f.has_uid || f.cgroup);
	b.family = AF_INET6;
	assert_int_equal(owner_ask(&o, &a, &b, &f), -EINVAL);
	pair_close(&p);
	assert_int_equal(owner_ask(&(struct owner){.fd = -1}, &a, &a, &f), -EBADF);
}

/* a question that was given up leaves its answer: the next one does not take it for its own */
static void a_late_answer_is_passed_over(void **state)
{
	struct question q = {.h = {.nlmsg_len = sizeof(q), .nlmsg_type = SOCK_DIAG_BY_FAMILY, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 77777},
			     .q = {.sdiag_family = AF_INET, .sdiag_protocol = IPPROTO_TCP}};
	struct sockaddr_nl kernel = {.nl_family = AF_NETLINK};

	(void)state;
	open_or_skip();
	assert_true(sendto(o.fd, &q, sizeof(q), 0, (struct sockaddr *)&kernel, sizeof(kernel)) > 0);
	check("127.0.0.1:0", false);
}

/* what it costs a worker; printed */
static void cost(void **state)
{
	struct timespec a, b;
	struct owner_facts f;
	struct pair p;
	int n = 2000;

	(void)state;
	open_or_skip();
	pair_make(&p, "127.0.0.1:0", false);
	clock_gettime(CLOCK_MONOTONIC, &a);
	for (int i = 0; i < n; i++)
		assert_int_equal(owner_ask(&o, &p.peer, &p.local, &f), 0);
	clock_gettime(CLOCK_MONOTONIC, &b);
	printf("# one question: %.2f us\n", ((double)(b.tv_sec - a.tv_sec) * 1e6 + (double)(b.tv_nsec - a.tv_nsec) / 1e3) / n);
	pair_close(&p);
	owner_close(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(uid_and_cgroup_of_the_other_end),
		cmocka_unit_test(another_users_socket),
		cmocka_unit_test(a_closed_end_has_no_uid),
		cmocka_unit_test(a_listener_is_not_the_answer),
		cmocka_unit_test(a_late_answer_is_passed_over),
		cmocka_unit_test(cost),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
