/* Namespaces: names and what is wrong with them, sockets made inside, names that come to mean another one. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/net/netns.c"
#include <pthread.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define SO_NETNS_COOKIE_ 71 /* socket(7), Linux 5.14 */

/* the namespace that sockets of this thread belong to */
static uint64_t here(void)
{
	AUTO_FD fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	uint64_t cookie = 0;
	socklen_t n = sizeof(cookie);

	assert_true(fd >= 0);
	assert_int_equal(getsockopt(fd, SOL_SOCKET, SO_NETNS_COOKIE_, &cookie, &n), 0);
	return cookie;
}

/* ---- a namespace of a thread that does nothing else ---- */

static pthread_barrier_t made, done;
static char made_path[64];
static int made_error;

static void *make_one(void *arg)
{
	(void)arg;
	made_error = unshare(CLONE_NEWNET) ? errno : 0;
	snprintf(made_path, sizeof(made_path), "/proc/self/task/%ld/ns/net", syscall(SYS_gettid));
	pthread_barrier_wait(&made);
	pthread_barrier_wait(&done);
	return NULL;
}

static bool with_namespace(void (*f)(const char *path))
{
	pthread_t t;

	pthread_barrier_init(&made, NULL, 2);
	pthread_barrier_init(&done, NULL, 2);
	assert_int_equal(pthread_create(&t, NULL, make_one, NULL), 0);
	pthread_barrier_wait(&made);
	if (!made_error)
		f(made_path);
	pthread_barrier_wait(&done);
	pthread_join(t, NULL);
	return !made_error;
}

/* ---- names ---- */

static void refused(const char *name, int code, const char *says)
{
	struct err e = { "" };

	assert_int_equal(netns_open(name, &e), code);
	if (!strstr(e.msg, says))
		fail_msg("'%s': \"%s\" does not say \"%s\"", name, e.msg, says);
}

static void names_that_cannot_be_are_refused(void **state)
{
	(void)state;
	refused("", -EINVAL, "want a name");
	refused("a/b", -EINVAL, "want a name");
	refused("..", -EINVAL, "want a name");
	refused("pid:", -EINVAL, "want pid:NUMBER");
	refused("pid:0", -EINVAL, "want pid:NUMBER");
	refused("pid:1x", -EINVAL, "want pid:NUMBER");
	refused("pid:99999999999999999999", -EINVAL, "want pid:NUMBER");
}

static void what_is_not_there_says_where_to_look(void **state)
{
	(void)state;
	refused("no-such-namespace", -ENOENT, "ip netns list");
	refused("pid:999999999", -ESRCH, "no such process");
	refused("/no/such/path", -ENOENT, "/no/such/path");
}

static void what_is_no_namespace_is_refused(void **state)
{
	(void)state;
	refused("/etc/passwd", -EINVAL, "no network namespace");
	refused("/proc/self/ns/uts", -EINVAL, "no network namespace");
}

static void a_process_and_a_path_name_one(void **state)
{
	char pid[32];
	struct err e = { "" };
	struct stat a, b;
	int x, y;

	(void)state;
	snprintf(pid, sizeof(pid), "pid:%d", getpid());
	x = netns_open(pid, &e);
	y = netns_open("/proc/self/ns/net", &e);
	if (x < 0 || y < 0)
		fail_msg("%s", e.msg);
	assert_true(!fstat(x, &a) && !fstat(y, &b) && a.st_ino == b.st_ino);
	close(x);
	close(y);
}

/* ---- entering ---- */

static void nothing_to_enter_is_no_move(void **state)
{
	int back = 7;

	(void)state;
	assert_int_equal(netns_enter(-1, &back), 0);
	assert_int_equal(back, -1);
	netns_leave(back);
}

static void enter_and_leave(const char *path)
{
	struct err e = { "" };
	uint64_t before = here(), inside;
	int back, fd = netns_open(path, &e);

	if (fd < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(netns_enter(fd, &back), 0);
	inside = here();
	netns_leave(back);
	assert_true(inside != before);
	assert_true(here() == before);
	close(fd);
	assert_int_equal(fcntl(back, F_GETFD), -1); /* nothing is left open */
}

static void a_thread_enters_and_leaves(void **state)
{
	(void)state;
	if (!with_namespace(enter_and_leave))
		skip();
}

static void enter_without_right(const char *path)
{
	int fd = netns_open(path, NULL), status;
	pid_t p = fork();

	if (p == 0) {
		int back = 7, r;

		if (setgid(65534) || setuid(65534))
			_exit(2);
		r = netns_enter(fd, &back);
		_exit(r == -EPERM && back == -1 && strstr(netns_why(r), "CAP_SYS_ADMIN") ? 0 : 1);
	}
	assert_int_equal(waitpid(p, &status, 0), p);
	assert_int_equal(status, 0);
	close(fd);
}

static void without_the_right_it_says_which(void **state)
{
	(void)state;
	if (!with_namespace(enter_without_right))
		skip();
}

static void not_a_namespace_is_not_entered(void **state)
{
	AUTO_FD fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	int back;

	(void)state;
	assert_true(netns_enter(fd, &back) < 0);
	assert_int_equal(back, -1);
}

/* ---- a name that is used again and again ---- */

static char link_path[64];

static void name_moves(const char *path)
{
	struct netns n = { .name = link_path };
	struct err e = { "" };
	int fd, first;

	assert_int_equal(symlink(path, link_path), 0);
	assert_int_equal(netns_get(&n, &first, &e), 0);
	assert_true(first >= 0);
	assert_int_equal(netns_get(&n, &fd, &e), 0);
	assert_int_equal(fd, first); /* kept */
	assert_false(netns_gone(&n));

	assert_int_equal(unlink(link_path), 0);
	assert_int_equal(symlink("/proc/self/ns/net", link_path), 0);
	assert_true(netns_gone(&n)); /* another one has the name */
	assert_false(netns_gone(&n)); /* said once */
	assert_int_equal(netns_get(&n, &fd, &e), 0);
	assert_true(fd >= 0);

	assert_int_equal(unlink(link_path), 0);
	assert_int_equal(netns_get(&n, &fd, &e), -ENOENT);
	assert_int_equal(fd, -1);
	assert_non_null(strstr(e.msg, link_path));
	assert_int_equal(n.ino, 0); /* and it is not kept alive */
	assert_true(netns_gone(&n));
	assert_false(netns_gone(&n));
	netns_put(&n);
}

static void a_kept_namespace_follows_its_name(void **state)
{
	(void)state;
	snprintf(link_path, sizeof(link_path), "/tmp/adit-test-netns-%d", getpid());
	(void)unlink(link_path);
	if (!with_namespace(name_moves))
		skip();
}

static void a_process_that_has_ended_stays_ended(void **state)
{
	char name[32];
	struct netns n = { .name = name };
	struct err e = { "" };
	pid_t p = fork();
	int fd;

	(void)state;
	if (p == 0) {
		pause();
		_exit(0);
	}
	snprintf(name, sizeof(name), "pid:%d", p);
	assert_int_equal(netns_get(&n, &fd, &e), 0);
	assert_int_equal(kill(p, SIGKILL), 0);
	assert_int_equal(waitpid(p, NULL, 0), p);
	assert_int_equal(netns_get(&n, &fd, &e), -ESRCH);
	assert_non_null(strstr(e.msg, "has ended"));
	snprintf(name, sizeof(name), "pid:%d", getpid()); /* its number is given to another */
	assert_int_equal(netns_get(&n, &fd, &e), -ESRCH);
}

static void without_a_name_it_is_ours(void **state)
{
	struct netns n = { 0 };
	int fd = 7;

	(void)state;
	assert_int_equal(netns_get(&n, &fd, NULL), 0);
	assert_int_equal(fd, -1);
	assert_false(netns_gone(&n));
	netns_put(&n);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(names_that_cannot_be_are_refused),
		cmocka_unit_test(what_is_not_there_says_where_to_look),
		cmocka_unit_test(what_is_no_namespace_is_refused),
		cmocka_unit_test(a_process_and_a_path_name_one),
		cmocka_unit_test(nothing_to_enter_is_no_move),
		cmocka_unit_test(a_thread_enters_and_leaves),
		cmocka_unit_test(without_the_right_it_says_which),
		cmocka_unit_test(not_a_namespace_is_not_entered),
		cmocka_unit_test(a_kept_namespace_follows_its_name),
		cmocka_unit_test(a_process_that_has_ended_stays_ended),
		cmocka_unit_test(without_a_name_it_is_ours),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
