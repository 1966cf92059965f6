/* What the service manager is told, byte by byte, and what it hands over. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/control/notify.c"
#include "daemon/net/adopt.c"
#include <sys/wait.h>

static int manager = -1; /* its end */
static struct notify n;

static void manager_at(const char *path)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct err e = {""};
	size_t len = strlen(path);

	if (manager >= 0)
		close(manager);
	memcpy(sa.sun_path, path, len);
	if (path[0] == '@')
		sa.sun_path[0] = '\0';
	else
		(void)unlink(path);
	manager = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(manager, (struct sockaddr *)&sa, (socklen_t)(offsetof(struct sockaddr_un, sun_path) + len)), 0);
	setenv("NOTIFY_SOCKET", path, 1);
	if (notify_open(&n, &e) < 0)
		fail_msg("%s", e.msg);
	assert_true(n.fd >= 0);
}

static const char *heard(int *ret_fd)
{
	static char text[4096];
	char control[256];
	struct iovec iov = {text, sizeof(text) - 1};
	struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = control, .msg_controllen = sizeof(control)};
	ssize_t got = recvmsg(manager, &m, MSG_DONTWAIT);
	struct cmsghdr *c;

	assert_true(got >= 0);
	text[got] = '\0';
	c = CMSG_FIRSTHDR(&m);
	if (ret_fd) {
		assert_non_null(c);
		memcpy(ret_fd, CMSG_DATA(c), sizeof(*ret_fd));
	} else {
		assert_null(c);
	}
	return text;
}

static void done(void)
{
	notify_close(&n);
	unsetenv("NOTIFY_SOCKET");
	unsetenv("WATCHDOG_USEC");
	unsetenv("WATCHDOG_PID");
}

static void says_everything(void **state)
{
	char path[64];

	(void)state;
	snprintf(path, sizeof(path), "/tmp/adit-notify-%d", (int)getpid());
	for (int i = 0; i < 2; i++) {
		uint64_t us = 0;

		manager_at(i ? "@adit-notify-test" : path);
		notify_ready(&n, "up\nand well");
		assert_string_equal(heard(NULL), "READY=1\nSTATUS=up and well\n");
		notify_reloading(&n);
		assert_int_equal(sscanf(heard(NULL), "RELOADING=1\nMONOTONIC_USEC=%llu\n", (unsigned long long *)&us), 1);
		assert_true(us > 0);
		notify_stopping(&n);
		assert_string_equal(heard(NULL), "STOPPING=1\n");
		notify_status(&n, "%d left", 7);
		assert_string_equal(heard(NULL), "STATUS=7 left");
		notify_watchdog(&n);
		assert_string_equal(heard(NULL), "WATCHDOG=1\n");
		notify_extend(&n, 1500);
		assert_string_equal(heard(NULL), "EXTEND_TIMEOUT_USEC=1500000\n");
		notify_main_pid(&n, 42);
		assert_string_equal(heard(NULL), "MAINPID=42\n");
		notify_store_remove(&n, "web");
		assert_string_equal(heard(NULL), "FDSTOREREMOVE=1\nFDNAME=web\n");
		done();
	}
	unlink(path);
}

static int listener(bool share, struct addr *ret)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	int fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0), one = 1;

	if (share)
		assert_int_equal(setsockopt(fd, SOL_SOCKET, SO_REUSEPORT, &one, sizeof(one)), 0);
	assert_int_equal(bind(fd, (struct sockaddr *)&sa, sizeof(sa)), 0);
	assert_int_equal(listen(fd, 8), 0);
	assert_int_equal(sock_local(fd, ret), 0);
	return fd;
}

static void descriptors_are_kept(void **state)
{
	struct addr a, b;
	int fd = listener(false, &a), got = -1;

	(void)state;
	manager_at("@adit-notify-test");
	assert_int_equal(notify_store(&n, fd, "outbound"), 0);
	assert_string_equal(heard(&got), "FDSTORE=1\nFDNAME=outbound\n");
	assert_int_equal(sock_local(got, &b), 0);
	assert_true(addr_eq(&a, &b));
	assert_int_equal(notify_store(&n, fd, "a:b"), -EINVAL);
	assert_int_equal(notify_store(&n, fd, ""), -EINVAL);
	close(got);
	close(fd);
	done();
}

static void nobody_wants_to_know(void **state)
{
	struct err e = {""};

	(void)state;
	unsetenv("NOTIFY_SOCKET");
	assert_int_equal(notify_open(&n, &e), 0);
	assert_int_equal(n.fd, -1);
	notify_ready(&n, "x");
	notify_status(&n, "x");
	assert_int_equal(notify_store(&n, 0, "x"), -ENOTCONN);
	setenv("NOTIFY_SOCKET", "relative", 1);
	assert_int_equal(notify_open(&n, &e), -EINVAL);
	assert_non_null(strstr(e.msg, "NOTIFY_SOCKET"));
	/* gone away: nothing blocks, nothing dies */
	setenv("NOTIFY_SOCKET", "@adit-nobody", 1);
	assert_int_equal(notify_open(&n, &e), 0);
	notify_watchdog(&n);
	done();
}

static void a_manager_that_does_not_read_blocks_nobody(void **state)
{
	(void)state;
	manager_at("@adit-notify-test");
	for (int i = 0; i < 10000; i++)
		notify_status(&n, "line %d", i);
	done();
}

static void watchdog_may_be_for_another(void **state)
{
	char pid[24];

	(void)state;
	setenv("WATCHDOG_USEC", "3000000", 1);
	manager_at("@adit-notify-test");
	assert_int_equal(n.watchdog_ms, 3000);
	snprintf(pid, sizeof(pid), "%d", (int)getpid());
	setenv("WATCHDOG_PID", pid, 1);
	manager_at("@adit-notify-test");
	assert_int_equal(n.watchdog_ms, 3000);
	setenv("WATCHDOG_PID", "1", 1);
	manager_at("@adit-notify-test");
	assert_int_equal(n.watchdog_ms, 0);
	done();
}

static uint32_t rest;
static void left(void *arg, const struct adopted *a)
{
	(void)arg;
	(void)a;
	rest++;
}

/* in a process of its own: descriptors from 3 on */
static void inherit_child(struct addr *at, const char *names, const char *pid)
{
	struct adopt set = {0};
	struct err e = {""};
	int r;

	setenv("LISTEN_PID", pid, 1);
	setenv("LISTEN_FDS", "3", 1);
	setenv("LISTEN_FDNAMES", names, 1);
	r = notify_inherit(&set, &e);
	if (strcmp(pid, "1") == 0)
		_exit(r == 0 && set.n == 0 ? 0 : 1);
	if (r != 3 || set.n != 2 || getenv("LISTEN_FDS") || !(fcntl(3, F_GETFD) & FD_CLOEXEC))
		_exit(2); /* the third is /dev/null */
	if (adopt_take(&set, &at[1], adopt_netns(-1) + 1, NULL) != -ENOENT)
		_exit(3); /* another namespace's address */
	if (adopt_take(&set, &at[1], adopt_netns(-1), NULL) != 4)
		_exit(4);
	if (adopt_take(&set, &at[1], 0, "web") != 3) /* by name, wherever it is */
		_exit(5);
	if (adopt_take(&set, &at[0], adopt_netns(-1), "web") != -ENOENT)
		_exit(6);
	adopt_rest(&set, left, NULL);
	_exit(rest ? 7 : 0);
}

static void inherited(const char *names, bool ours)
{
	struct addr at[2];
	int fd[3] = {listener(true, &at[0]), listener(false, &at[1]), open("/dev/null", O_RDONLY)}, status = -1;
	pid_t p = fork();
	char pid[24];

	if (p == 0) {
		for (int i = 0; i < 3; i++) /* out of the way of 3..5 */
			fd[i] = fcntl(fd[i], F_DUPFD, 20);
		for (int i = 0; i < 3; i++)
			dup2(fd[i], 3 + i);
		for (int i = 6; i < 40; i++)
			close(i);
		snprintf(pid, sizeof(pid), "%d", ours ? (int)getpid() : 1);
		inherit_child(at, names, pid);
	}
	assert_int_equal(waitpid(p, &status, 0), p);
	assert_int_equal(status, 0);
	for (int i = 0; i < 3; i++)
		close(fd[i]);
}

static void sockets_are_inherited(void **state)
{
	(void)state;
	inherited("web:other:null", true);
	inherited("web", true);
	inherited("web:other:null", false);
}

static void the_same_socket_twice_is_one(void **state)
{
	struct adopt set = {0};
	struct err e = {""};
	struct addr a;
	int fd = listener(true, &a);

	(void)state;
	assert_true(adopt_can_share(fd));
	assert_int_equal(adopt_add(&set, fd, "a", &e), 0);
	assert_int_equal(adopt_add(&set, dup(fd), "b", &e), 0);
	assert_int_equal(set.n, 1);
	rest = 0;
	adopt_rest(&set, left, NULL);
	assert_int_equal(rest, 1);
	assert_int_equal(fcntl(fd, F_GETFD), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(says_everything),
		cmocka_unit_test(descriptors_are_kept),
		cmocka_unit_test(nobody_wants_to_know),
		cmocka_unit_test(a_manager_that_does_not_read_blocks_nobody),
		cmocka_unit_test(watchdog_may_be_for_another),
		cmocka_unit_test(sockets_are_inherited),
		cmocka_unit_test(the_same_socket_twice_is_one),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
