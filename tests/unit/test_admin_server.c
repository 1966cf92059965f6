/* The API over its sockets: who gets in, what hostile clients can do, stale socket files, stopping. */
#define IDLE_S	   1u
#define REQUEST_MS 2000u
#include "../../daemon/admin/server.c"
#include "../../daemon/admin/sock.c"
#include "../../ctl/http.c"

#include "unit/fake_inspect.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <grp.h>
#include <netinet/in.h>
#include <poll.h>
#include <pthread.h>
#include <sys/wait.h>

static struct daemon d;
static char dir[] = "/tmp/adit-test-admin-XXXXXX";
static char path[64];
static struct admin *admin;
static pthread_t loop;
static int quit[2];
static _Atomic uint32_t turns;

static void *run_loop(void *arg)
{
	struct pollfd p[2] = {{.fd = admin_fd(admin), .events = POLLIN}, {.fd = quit[0], .events = POLLIN}};

	(void)arg;
	while (poll(p, 2, -1) >= 0 && !p[1].revents) {
		atomic_fetch_add(&turns, 1);
		admin_run(admin);
	}
	return NULL;
}

static uint16_t free_port(void)
{
	struct sockaddr_in sa = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t n = sizeof(sa);
	AUTO_FD fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&sa, n), 0);
	assert_int_equal(getsockname(fd, (struct sockaddr *)&sa, &n), 0);
	return ntohs(sa.sin_port);
}

static struct config conf;

static int start_with(struct err *e)
{
	struct admin *a = NULL;
	int r = admin_start(&a, &d, &conf, e);

	if (r == 0) {
		admin = a;
		admin_set_ops(a, &(struct admin_ops){.arg = NULL}); /* from here on the TCP address is answered */
	}
	return r;
}

static int start(void **state)
{
	struct err e = {""};

	(void)state;
	fake_setup(&d);
	conf = (struct config){
		.admin_socket = path,
		.admin_mode = 0660,
		.metrics = {.family = AF_INET, .ip = {127, 0, 0, 1}, .port = free_port()},
	};
	if (start_with(&e) < 0) {
		print_error("%s\n", e.msg);
		return -1;
	}
	assert_int_equal(pipe(quit), 0);
	return pthread_create(&loop, NULL, run_loop, NULL);
}

static int stop(void **state)
{
	(void)state;
	close(quit[1]);
	pthread_join(loop, NULL);
	close(quit[0]);
	admin_stop(admin);
	assert_int_equal(access(path, F_OK), -1);
	return 0;
}

static unsigned int call(const char *method, const char *what, const char *body, size_t n, struct http_answer *ret)
{
	struct err e = {""};

	*ret = (struct http_answer){0};
	if (http_call(path, method, what, body, n, ret, &e) < 0)
		fail_msg("%s", e.msg);
	return ret->status;
}

static unsigned int status_of(const char *method, const char *what, const char *body)
{
	struct http_answer a;
	unsigned int status = call(method, what, body, body ? strlen(body) : 0, &a);

	text_finish(&a.body);
	return status;
}

static int tcp_dial_from(uint8_t last)
{
	struct sockaddr_in from = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(0x7f000000u | last)};
	struct sockaddr_storage sa;
	socklen_t n = addr_to_sa(&conf.metrics, &sa);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&from, sizeof(from)), 0);
	assert_int_equal(connect(fd, (struct sockaddr *)&sa, n), 0);
	return fd;
}

static int tcp_dial(void)
{
	return tcp_dial_from(1);
}

/* Return: bytes of the answer in @out, NUL-terminated; 0 when the other end closed or reset without one */
static size_t tcp_ask(int fd, const char *request, char *out, size_t max)
{
	size_t n = 0;
	ssize_t r;

	assert_int_equal(send(fd, request, strlen(request), MSG_NOSIGNAL), strlen(request));
	while (n + 1 < max && (r = recv(fd, out + n, max - 1 - n, 0)) > 0)
		n += (size_t)r;
	out[n] = '\0';
	return n;
}

static void it_answers_over_the_socket(void **state)
{
	struct http_answer a;

	(void)state;
	assert_int_equal(call("GET", "/v1/status", NULL, 0, &a), 200);
	assert_non_null(strstr(a.body.s, "\"node\": \"node-a\""));
	text_finish(&a.body);
	assert_int_equal(status_of("GET", "/v1/conns?limit=1&peer=node%2Db", NULL), 200);
	assert_int_equal(status_of("GET", "/v1/conns?a&b&c&d&e&f&g&h&i&j", NULL), 400);
	assert_int_equal(status_of("DELETE", "/v1/conns/7", NULL), 200);
	assert_int_equal(d.killed, 1);
	assert_int_equal(status_of("PUT", "/v1/log-level", "{\"all\":\"info\"}"), 200);
	assert_int_equal(status_of("POST", "/v1/status", NULL), 405);
}

static void big_answers_arrive_whole(void **state)
{
	struct http_answer a;

	(void)state;
	d.more_conns = 5000;
	assert_int_equal(call("GET", "/v1/conns?limit=0", NULL, 0, &a), 200);
	assert_true(a.body.len > 1000000);
	assert_string_equal(a.body.s + a.body.len - 2, "}\n");
	text_finish(&a.body);
}

static void big_bodies_are_refused(void **state)
{
	size_t n = API_BODY_MAX + 1;
	char *body = malloc(n + 1);
	struct http_answer a;

	(void)state;
	memset(body, 'x', n);
	assert_int_equal(call("PUT", "/v1/log-level", body, n, &a), 413);
	assert_string_equal(a.body.s, "{\"error\":\"body too long: at most 1 MiB\"}\n");
	text_finish(&a.body);
	assert_int_equal(call("PUT", "/v1/log-level", body, n - 1, &a), 400);
	text_finish(&a.body);
	free(body);
}

static void the_socket_has_the_mode_asked_for(void **state)
{
	struct stat st;

	(void)state;
	assert_int_equal(stat(path, &st), 0);
	assert_int_equal(st.st_mode & 07777, 0660);
}

/* As another user (needs root to become one). Return: the status, 0: could not connect. */
static unsigned int status_as(uid_t uid, gid_t gid, gid_t extra, const char *method, const char *what)
{
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		struct http_answer a = {0};
		struct err e;

		if (setgroups(extra ? 1 : 0, &extra) < 0 || setgid(gid) < 0 || setuid(uid) < 0)
			_exit(255);
		if (http_call(path, method, what, NULL, 0, &a, &e) < 0)
			_exit(0);
		_exit((int)(a.status / 2)); /* 200 -> 100, 403 -> 201 */
	}
	assert_int_equal(waitpid(pid, &status, 0), pid);
	assert_true(WIFEXITED(status) && WEXITSTATUS(status) != 255);
	return (unsigned int)WEXITSTATUS(status) * 2;
}

static void others_look_or_not_as_the_mode_says(void **state)
{
	(void)state;
	if (geteuid() != 0)
		skip();
	assert_int_equal(chmod(dir, 0755), 0);
	assert_int_equal(chown(path, 0, 4242), 0);
	assert_int_equal(status_as(65534, 65534, 0, "GET", "/v1/status"), 0); /* the kernel refuses */
	assert_int_equal(status_as(65534, 4242, 0, "GET", "/v1/status"), 200);
	assert_int_equal(status_as(65534, 65534, 4242, "GET", "/v1/status"), 200);
	assert_int_equal(status_as(65534, 4242, 0, "DELETE", "/v1/conns/7"), 402); /* 403 halved and doubled */
	assert_int_equal(d.killed, 0);
	assert_int_equal(chmod(path, 0666), 0);
	assert_int_equal(status_as(65534, 65534, 0, "GET", "/v1/status"), 200);
	assert_int_equal(status_as(65534, 65534, 0, "DELETE", "/v1/conns/7"), 402);
}

static void tcp_serves_metrics_and_nothing_else(void **state)
{
	char out[65536];
	int fd = tcp_dial();

	(void)state;
	tcp_ask(fd, "GET /metrics HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_int_equal(atoi(out + 9), 200);
	assert_non_null(strstr(out, "Content-Type: text/plain; version=0.0.4"));
	assert_non_null(strstr(out, "adit_build_info{"));
	close(fd);
	fd = tcp_dial();
	tcp_ask(fd, "GET /v1/status HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_int_equal(atoi(out + 9), 404);
	close(fd);
	fd = tcp_dial();
	tcp_ask(fd, "POST /v1/drain HTTP/1.0\r\nContent-Length: 2\r\n\r\n{}", out, sizeof(out));
	assert_int_equal(atoi(out + 9), 413);
	close(fd);
	d.draining = true;
	fd = tcp_dial();
	tcp_ask(fd, "GET /healthz/ready HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_int_equal(atoi(out + 9), 503);
	close(fd);
}

static void chunks_without_end_are_refused(void **state)
{
	char out[4096];
	int fd = tcp_dial();

	(void)state;
	tcp_ask(fd,
		"POST /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\nTransfer-Encoding: "
		"chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
		out, sizeof(out));
	assert_int_equal(atoi(out + 9), 413);
	close(fd);
}

static void malformed_requests_do_no_harm(void **state)
{
	static const char *const bad[] = {
		"\r\n\r\n\r\n\r\n",
		"GET\r\n\r\n",
		"GET /metrics HTTP/9.9\r\n\r\n",
		"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 TLS here\r\n\r\n",
		"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
		"GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
		"GET /%00%ff%zz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
	};
	char out[4096];

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(bad); i++) {
		int fd = tcp_dial();

		shutdown(fd, SHUT_RD + 0 * tcp_ask(fd, bad[i], out, 2));
		close(fd);
	}
	assert_int_equal(status_of("GET", "/v1/status", NULL), 200);
}

static uint64_t closed_after(int fd)
{
	uint64_t from = now_ms();
	char c;

	while (recv(fd, &c, 1, 0) > 0)
		;
	return now_ms() - from;
}

static void silent_clients_are_closed(void **state)
{
	int fd = tcp_dial();
	uint64_t ms = closed_after(fd);

	(void)state;
	assert_in_range(ms, 500, 3500);
	close(fd);
}

static void dripping_clients_are_closed_too(void **state)
{
	static const char drip[] = "GET /metrics HTTP/1.1\r\nX: aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
	uint64_t from = now_ms();
	int fd = tcp_dial();
	size_t i;

	(void)state;
	/* a byte each 300 ms: never silent for IDLE_S, but REQUEST_MS is 2 s */
	for (i = 0; i < sizeof(drip) && send(fd, drip + i, 1, MSG_NOSIGNAL) == 1; i++)
		usleep(300000);
	assert_true(i < 20);
	assert_in_range(now_ms() - from, 1500, 5500);
	close(fd);
}

/* One address takes what it may; another is still served. */
static void a_crowd_does_not_lock_the_operator_out(void **state)
{
	char out[65536];
	int fd[50], other;

	(void)state;
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		fd[i] = tcp_dial();
	assert_int_equal(status_of("GET", "/v1/status", NULL), 200); /* the UNIX socket has its own limit */
	other = tcp_dial_from(2);
	tcp_ask(other, "GET /metrics HTTP/1.0\r\n\r\n", out, sizeof(out));
	assert_int_equal(atoi(out + 9), 200);
	close(other);
	for (size_t i = 0; i < ARRAY_LEN(fd); i++)
		close(fd[i]);
	assert_int_equal(status_of("GET", "/v1/status", NULL), 200);
}

/* With nobody connected there is no timer: the daemon sleeps. */
static void nobody_connected_means_no_wake_ups(void **state)
{
	uint32_t before;

	(void)state;
	assert_int_equal(status_of("GET", "/v1/status", NULL), 200);
	usleep(200000);
	before = atomic_load(&turns);
	usleep(1200000);
	assert_int_equal(atomic_load(&turns), before);
}

static void a_second_daemon_is_refused(void **state)
{
	struct sock_file f;
	struct err e = {""};

	(void)state;
	assert_int_equal(sock_unix(path, 0600, &f, &e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "another aditd answers there"));
	assert_int_equal(status_of("GET", "/v1/status", NULL), 200);
}

/* ---- without a running daemon ---- */

static void a_dead_daemons_socket_is_replaced(void **state)
{
	struct sock_file f;
	struct err e = {""};
	int fd;

	(void)state;
	fd = sock_unix(path, 0600, &f, &e);
	assert_true(fd >= 0);
	close(fd); /* dead: the file stays */
	assert_int_equal(access(path, F_OK), 0);
	fd = sock_unix(path, 0600, &f, &e);
	assert_true(fd >= 0);
	close(fd);
	sock_unix_remove(&f);
	assert_int_equal(access(path, F_OK), -1);
}

static void files_that_are_not_ours_stay(void **state)
{
	struct sock_file f, other;
	struct err e = {""};
	int fd, fd2;

	(void)state;
	fd = open(path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	assert_int_equal(sock_unix(path, 0600, &f, &e), -EEXIST);
	assert_non_null(strstr(e.msg, "no socket"));
	assert_int_equal(unlink(path), 0);
	/* somebody took the path over while we ran */
	fd = sock_unix(path, 0600, &f, &e);
	fd2 = open(dir, O_RDONLY | O_CLOEXEC); /* so that the inode number is not used again at once */
	assert_int_equal(rename(path, "/tmp/adit-test-admin-moved"), 0);
	close(fd2);
	fd2 = sock_unix(path, 0600, &other, &e);
	assert_true(fd >= 0 && fd2 >= 0);
	sock_unix_remove(&f);
	assert_int_equal(access(path, F_OK), 0);
	sock_unix_remove(&other);
	unlink("/tmp/adit-test-admin-moved");
	close(fd);
	close(fd2);
}

static void missing_directories_are_made(void **state)
{
	char deep[96], parent[96];
	struct sock_file f;
	struct err e = {""};
	int fd;

	(void)state;
	snprintf(deep, sizeof(deep), "%s/a/b/admin.sock", dir);
	fd = sock_unix(deep, 0600, &f, &e);
	assert_true(fd >= 0);
	close(fd);
	sock_unix_remove(&f);
	snprintf(parent, sizeof(parent), "%s/a/b", dir);
	assert_int_equal(rmdir(parent), 0);
	snprintf(parent, sizeof(parent), "%s/a", dir);
	assert_int_equal(rmdir(parent), 0);
	assert_int_equal(sock_unix("/proc/nothing/x/admin.sock", 0600, &f, &e), -ENOENT);
	assert_non_null(strstr(e.msg, "cannot make directory /proc/nothing"));
}

static void a_taken_port_leaves_nothing_behind(void **state)
{
	struct addr taken = {.family = AF_INET, .ip = {127, 0, 0, 1}, .port = free_port()};
	struct err e = {""};
	int fd = sock_tcp(&taken, &e);

	(void)state;
	assert_true(fd >= 0);
	conf = (struct config){.admin_socket = path, .admin_mode = 0600, .metrics = taken};
	assert_int_equal(start_with(&e), -EADDRINUSE);
	assert_non_null(strstr(e.msg, "set admin.metrics to another"));
	assert_int_equal(access(path, F_OK), -1);
	close(fd);
}

static void without_any_address_it_still_starts(void **state)
{
	struct err e = {""};

	(void)state;
	conf = (struct config){0};
	assert_int_equal(start_with(&e), 0);
	assert_true(admin_fd(admin) >= 0);
	admin_run(admin);
	admin_stop(admin);
	admin_stop(NULL);
}

static int setup(void **state)
{
	(void)state;
	if (!mkdtemp(dir))
		return -1;
	snprintf(path, sizeof(path), "%s/admin.sock", dir);
	log_init(STDERR_FILENO, LOG_TEXT, LOG_WARN);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return rmdir(dir);
}

#define served(f) cmocka_unit_test_setup_teardown(f, start, stop)

int main(void)
{
	const struct CMUnitTest tests[] = {
		served(it_answers_over_the_socket),
		served(big_answers_arrive_whole),
		served(big_bodies_are_refused),
		served(the_socket_has_the_mode_asked_for),
		served(others_look_or_not_as_the_mode_says),
		served(tcp_serves_metrics_and_nothing_else),
		served(chunks_without_end_are_refused),
		served(malformed_requests_do_no_harm),
		served(silent_clients_are_closed),
		served(dripping_clients_are_closed_too),
		served(a_crowd_does_not_lock_the_operator_out),
		served(nobody_connected_means_no_wake_ups),
		served(a_second_daemon_is_refused),
		cmocka_unit_test(a_dead_daemons_socket_is_replaced),
		cmocka_unit_test(files_that_are_not_ours_stay),
		cmocka_unit_test(missing_directories_are_made),
		cmocka_unit_test(a_taken_port_leaves_nothing_behind),
		cmocka_unit_test(without_any_address_it_still_starts),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
