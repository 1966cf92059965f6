/*
 * What applications may meet (docs/DATAPATH.md, "what it breaks"): each use of a socket is tried on one that is not on the allow-list,
 * on one that is in the map with the gate closed, and on one that bytes are redirected to. The first must be as without any bypass; what
 * the other two do differs between kernels and is printed.
 */
#include "bpf/relay.h"
#include <linux/errqueue.h>
#include <linux/sockios.h>
#include <pthread.h>
#include <sys/sendfile.h>

enum { FREE, MAPPED, REDIRECTED, STATES };

static struct bypass *b;
static uint8_t out[4 << 20], in[4 << 20];

#define ANSWER 64
typedef void use_fn(int c, int s, char ret[ANSWER]);

static void limit(int fd, int ms)
{
	struct timeval t = {.tv_sec = ms / 1000, .tv_usec = ms % 1000 * 1000};

	setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &t, sizeof(t));
}

static const char *err_or(ssize_t r, char t[ANSWER])
{
	if (r < 0)
		snprintf(t, ANSWER, "%s", errno == EAGAIN ? "EAGAIN" : errno == EINTR ? "EINTR" : errno == ECONNRESET ? "ECONNRESET" : strerror(errno));
	else
		snprintf(t, ANSWER, "%zd", r);
	return t;
}

/* ---- somebody else, a little later ---- */

struct later {
	pthread_t thread, target;
	int fd, ms, what;
};
enum { SEND_PIECES, SEND_100, SIGNAL, SHUT_WRITE };

static void *later_run(void *arg)
{
	struct later *l = arg;

	sleep_ms((unsigned)l->ms);
	switch (l->what) {
	case SEND_PIECES:
		for (int i = 0; i < 10; i++) {
			send(l->fd, out + 10 * i, 10, 0);
			sleep_ms(4);
		}
		break;
	case SEND_100:
		send(l->fd, out, 100, 0);
		break;
	case SIGNAL:
		pthread_kill(l->target, SIGUSR1);
		break;
	case SHUT_WRITE:
		shutdown(l->fd, SHUT_WR);
		break;
	}
	return NULL;
}
static void later(struct later *l, int fd, int ms, int what)
{
	*l = (struct later){.fd = fd, .ms = ms, .what = what, .target = pthread_self()};
	pthread_create(&l->thread, NULL, later_run, l);
}
static void nothing(int signal)
{
	(void)signal;
}

/* ---- the uses; bytes go from c to s ---- */

static void use_fionread(int c, int s, char ret[ANSWER])
{
	int n = -1;

	send(c, out, 100, 0);
	sleep_ms(5);
	ioctl(s, FIONREAD, &n);
	snprintf(ret, ANSWER, "%d", n);
}
static void use_outq(int c, int s, char ret[ANSWER])
{
	int n = -1;

	(void)s;
	send(c, out, 100, 0);
	sleep_ms(60); /* a delayed ACK at most */
	ioctl(c, SIOCOUTQ, &n);
	snprintf(ret, ANSWER, "%d", n);
}
static uint32_t segments_out(int fd)
{
	uint32_t info[64] = {0}; /* struct tcp_info; the C library's is too old for this member */
	socklen_t n = sizeof(info);

	getsockopt(fd, IPPROTO_TCP, TCP_INFO, info, &n);
	return info[34]; /* tcpi_segs_out */
}
static void use_info(int c, int s, char ret[ANSWER])
{
	uint32_t before = segments_out(c);

	(void)s;
	send(c, out, 100, 0);
	sleep_ms(5);
	snprintf(ret, ANSWER, "%u segments", segments_out(c) - before);
}
static void use_peek(int c, int s, char ret[ANSWER])
{
	char t[ANSWER];
	ssize_t a;

	send(c, out, 100, 0);
	sleep_ms(5);
	a = recv(s, in, 50, MSG_PEEK | MSG_DONTWAIT);
	snprintf(ret, ANSWER, "%zd, %.40s", a, err_or(recv(s, in, 200, MSG_DONTWAIT), t));
}
static void use_waitall(int c, int s, char ret[ANSWER])
{
	struct later l;

	limit(s, 2000);
	later(&l, c, 20, SEND_PIECES);
	err_or(recv(s, in, 100, MSG_WAITALL), ret);
	pthread_join(l.thread, NULL);
}
static void use_lowat(int c, int s, char ret[ANSWER])
{
	int n = 100;
	bool early;

	setsockopt(s, SOL_SOCKET, SO_RCVLOWAT, &n, sizeof(n));
	send(c, out, 50, 0);
	early = poll(&(struct pollfd){.fd = s, .events = POLLIN}, 1, 20) == 1;
	send(c, out, 50, 0);
	snprintf(ret, ANSWER, "%s, %s", early ? "ready at 50" : "not ready at 50",
		 poll(&(struct pollfd){.fd = s, .events = POLLIN}, 1, 500) == 1 ? "ready at 100" : "never");
}
static void use_signal(int c, int s, char ret[ANSWER])
{
	struct sigaction sa = {.sa_handler = nothing};
	struct later l;

	(void)c;
	sigaction(SIGUSR1, &sa, NULL);
	limit(s, 0);
	later(&l, c, 30, SIGNAL);
	err_or(recv(s, in, 100, 0), ret);
	pthread_join(l.thread, NULL);
}
static void use_restart(int c, int s, char ret[ANSWER])
{
	struct sigaction sa = {.sa_handler = nothing, .sa_flags = SA_RESTART};
	struct later l, m;

	sigaction(SIGUSR1, &sa, NULL);
	limit(s, 0);
	later(&l, c, 30, SIGNAL);
	later(&m, c, 100, SEND_100);
	err_or(recv(s, in, 100, 0), ret);
	pthread_join(l.thread, NULL);
	pthread_join(m.thread, NULL);
}
static void use_shutdown_beside(int c, int s, char ret[ANSWER])
{
	struct later l, m;

	limit(s, 0);
	later(&l, s, 30, SHUT_WRITE);
	later(&m, c, 100, SEND_100);
	err_or(recv(s, in, 100, 0), ret);
	pthread_join(l.thread, NULL);
	pthread_join(m.thread, NULL);
}
static void use_timeout(int c, int s, char ret[ANSWER])
{
	(void)c;
	limit(s, 50);
	err_or(recv(s, in, 100, 0), ret);
}
static void use_oob(int c, int s, char ret[ANSWER])
{
	struct pollfd p = {.fd = s, .events = POLLPRI};

	send(c, out, 10, MSG_OOB);
	poll(&p, 1, 50);
	sleep_ms(5);
	snprintf(ret, ANSWER, "%s, %zd", p.revents & POLLPRI ? "POLLPRI" : "no mark", recv(s, in, 100, MSG_DONTWAIT));
}
static void use_splice(int c, int s, char ret[ANSWER])
{
	int p[2];

	MUST(pipe(p));
	send(c, out, 1000, 0);
	sleep_ms(5);
	nonblock(s, true);
	err_or(splice(s, NULL, p[1], NULL, 65536, SPLICE_F_NONBLOCK), ret);
	nonblock(s, false);
	close(p[0]);
	close(p[1]);
}
static void use_splice_fin(int c, int s, char ret[ANSWER])
{
	int p[2];

	MUST(pipe(p));
	send(c, out, 1000, 0);
	shutdown(c, SHUT_WR);
	sleep_ms(5);
	nonblock(s, true);
	err_or(splice(s, NULL, p[1], NULL, 65536, SPLICE_F_NONBLOCK), ret);
	nonblock(s, false);
	close(p[0]);
	close(p[1]);
}
static void use_sendfile(int c, int s, char ret[ANSWER])
{
	AUTO_FD f = memfd_create("adit", MFD_CLOEXEC);
	off_t at = 0;
	bool right;

	MUST(write(f, out, 50000));
	MUST(sendfile(c, f, &at, 50000));
	right = read_exactly(s, in, 50000, 2000) && !memcmp(in, out, 50000);
	snprintf(ret, ANSWER, "%s", right ? "50000" : "wrong");
}
static void use_zerocopy(int c, int s, char ret[ANSWER])
{
	char control[100], t[ANSWER];
	struct msghdr m = {.msg_control = control, .msg_controllen = sizeof(control)};
	int one = 1;

	setsockopt(c, SOL_SOCKET, SO_ZEROCOPY, &one, sizeof(one));
	send(c, out, 20000, MSG_ZEROCOPY);
	if (!read_exactly(s, in, 20000, 2000))
		return;
	sleep_ms(50);
	snprintf(ret, ANSWER, "20000, %.40s", recvmsg(c, &m, MSG_ERRQUEUE | MSG_DONTWAIT) >= 0 ? "completed" : err_or(-1, t));
}
static void use_receive_mapped(int c, int s, char ret[ANSWER])
{
	struct tcp_zerocopy_receive z = {0};
	socklen_t n = sizeof(z);
	void *p = mmap(NULL, 65536, PROT_READ, MAP_SHARED, s, 0);
	char t[ANSWER];

	if (p == MAP_FAILED) {
		snprintf(ret, ANSWER, "no mmap()");
		return;
	}
	send(c, out, 40000, 0);
	sleep_ms(10);
	z.address = (uint64_t)(uintptr_t)p;
	z.length = 65536;
	if (getsockopt(s, IPPROTO_TCP, TCP_ZEROCOPY_RECEIVE, &z, &n))
		snprintf(ret, ANSWER, "%.40s", err_or(-1, t));
	else
		snprintf(ret, ANSWER, "%s", z.length + z.recv_skip_hint ? "seen" : "not seen");
	munmap(p, 65536);
}
static void use_close_unread(int c, int s, char ret[ANSWER])
{
	send(c, out, 1000, 0);
	sleep_ms(5);
	shutdown(dup(s), SHUT_RDWR); /* the socket itself is closed by the caller: do as much here */
	limit(c, 200);
	err_or(recv(c, in, 100, 0), ret);
}
static void use_big(int c, int s, char ret[ANSWER])
{
	size_t sent = 0, got = 0;
	bool right = true;

	nonblock(c, true);
	while (got < sizeof(out) && right) {
		ssize_t r = sent < sizeof(out) ? send(c, out + sent, sizeof(out) - sent, 0) : 0;
		struct pollfd p = {.fd = s, .events = POLLIN};

		sent += r > 0 ? (size_t)r : 0;
		right = poll(&p, 1, 2000) == 1;
		r = recv(s, in + got, sizeof(in) - got, MSG_DONTWAIT);
		got += r > 0 ? (size_t)r : 0;
	}
	nonblock(c, false);
	snprintf(ret, ANSWER, "%s", right && !memcmp(in, out, sizeof(in)) ? "right" : "wrong");
}
static void use_edges(int c, int s, char ret[ANSWER])
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	AUTO_FD ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	int edges = 0;

	epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev);
	for (int i = 0; i < 100; i++) {
		send(c, out, 50, 0);
		edges += epoll_wait(ep, &ev, 1, 500) == 1;
		while (recv(s, in, 100, MSG_DONTWAIT) > 0)
			;
	}
	snprintf(ret, ANSWER, "%d of 100", edges);
}

/* as tokio and nginx do: a read that fills less than was asked for has drained the socket, the next edge will come by itself */
static void use_short_reads(int c, int s, char ret[ANSWER])
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	AUTO_FD ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	size_t got = 0;
	ssize_t r;

	epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev);
	nonblock(c, true);
	send(c, out, 100, 0);
	send(c, out + 100, 90000, 0); /* more than may wait redirected */
	sleep_ms(50);
	while (got < 90100 && epoll_wait(ep, &ev, 1, 300) == 1)
		do {
			r = recv(s, in + got, 16384, MSG_DONTWAIT);
			got += r > 0 ? (size_t)r : 0;
		} while (r == 16384);
	nonblock(c, false);
	snprintf(ret, ANSWER, "%zu of 90100", got);
}

static const struct {
	const char *name;
	use_fn *use;
	const char *want; /* without bypass; NULL: whatever the kernel does */
} uses[] = {
	{"FIONREAD of 100 bytes", use_fionread, "100"},
	{"SIOCOUTQ, all read by TCP", use_outq, "0"},
	{"TCP_INFO of the sender, 100 bytes", use_info, NULL},
	{"MSG_PEEK, then recv", use_peek, "50, 100"},
	{"recv MSG_WAITALL of ten pieces", use_waitall, "100"},
	{"SO_RCVLOWAT 100", use_lowat, "not ready at 50, ready at 100"},
	{"blocking recv, signal", use_signal, "EINTR"},
	{"blocking recv, signal, SA_RESTART", use_restart, "100"},
	{"blocking recv, shutdown beside it", use_shutdown_beside, "100"},
	{"SO_RCVTIMEO", use_timeout, "EAGAIN"},
	{"MSG_OOB", use_oob, "POLLPRI, 9"},
	{"splice out of the socket", use_splice, "1000"},
	{"splice out of the socket, after FIN", use_splice_fin, "1000"},
	{"sendfile", use_sendfile, "50000"},
	{"MSG_ZEROCOPY", use_zerocopy, "20000, completed"},
	{"TCP_ZEROCOPY_RECEIVE", use_receive_mapped, NULL},
	{"shutdown with bytes unread", use_close_unread, NULL},
	{"4 MB at once", use_big, "right"},
	{"edges of epoll", use_edges, "100 of 100"},
	{"edges of epoll, short reads", use_short_reads, "90100 of 90100"},
};

static void connect_pair(int *c, int *s)
{
	int l = listen_on("127.0.0.1", 7000);

	*c = (int)MUST(connect_to("127.0.0.1", 7000));
	*s = (int)MUST(accept4(l, NULL, NULL, SOCK_CLOEXEC));
	close(l);
	nodelay(*c);
	nodelay(*s);
	MUST(send(*c, "x", 1, 0));
	MUST(recv(*s, in, 1, 0));
}

static void try(size_t i, int state, char ret[ANSWER])
{
	struct bypass_join j = {0};
	struct bypass_at at[2];
	int c, s;

	connect_pair(&c, &s);
	if (state != FREE) {
		if (bypass_whereis(b, c, &at[0]) || bypass_whereis(b, s, &at[1]) ||
		    bypass_bind(b, &at[0], &at[1], 0, 0, (const int[2]){-1, -1}, 0, &j))
			skip("cannot be joined: %s", bypass_why_str((enum bypass_why)j.why));
		bypass_gate(b, &j, state == REDIRECTED);
		for (int k = 0; k < 6; k++) {
			MUST(send(c, out, 10, 0));
			if (!read_exactly(s, in, 10, LONG_MS))
				show(false, "%s: the way there", uses[i].name);
		}
	}
	memset(in, 0, sizeof(in));
	uses[i].use(c, s, ret);
	if (state != FREE)
		bypass_leave(b, &j);
	close(c);
	close(s);
}

/* a leg whose agent asks before it writes: nothing is put behind redirected bytes, and not much more is redirected */
static void held(void)
{
	struct epoll_event ev = {.events = EPOLLIN | EPOLLET};
	AUTO_FD ep = (int)MUST(epoll_create1(EPOLL_CLOEXEC));
	size_t got = 0, sent = 0, most = 0, all = sizeof(out);
	struct bypass_join j = {0};
	struct bypass_at at[2];
	uint64_t rest = 1, last = now_us();
	int c, s, asked = 0;
	ssize_t r;

	connect_pair(&c, &s);
	if (bypass_whereis(b, c, &at[0]) || bypass_whereis(b, s, &at[1]) ||
	    bypass_bind(b, &at[0], &at[1], 0, 0, (const int[2]){-1, -1}, at[0].end.cookie, &j))
		skip("cannot be joined: %s", bypass_why_str((enum bypass_why)j.why));
	nonblock(c, true);
	epoll_ctl(ep, EPOLL_CTL_ADD, s, &ev);
	while (got < all && now_us() - last < 3000000) {
		if (sent < all && !bypass_hold(b, &j, 0)) {
			r = send(c, out + sent, min_u64(all - sent, 1 + below(&rest, below(&rest, 3) ? 3000 : 100000)), 0);
			sent += r > 0 ? (size_t)r : 0;
		} else {
			asked++;
		}
		most = max_u64(most, sent - got);
		if (below(&rest, 20) == 0 && epoll_wait(ep, &ev, 1, 0) == 1)
			do {
				r = recv(s, in + got, 16384, MSG_DONTWAIT);
				got += r > 0 ? (size_t)r : 0;
				last = now_us();
			} while (r == 16384);
	}
	show(asked > 3 && got == all && !memcmp(in, out, all) && most < 3000000,
	     "a leg that asks: held %d times, %zu of %zu bytes, at most %zu unread", asked, got, all, most);
	bypass_leave(b, &j);
	close(c);
	close(s);
}

int main(void)
{
	lab_enter();
	for (size_t i = 0; i < sizeof(out); i++)
		out[i] = (uint8_t)(i * 2654435761u >> 13);
	b = lab_bypass(NULL, NULL);
	printf("# %-38s %-32s %-32s %s\n", "use", "not on the list", "in the map", "redirected");
	for (size_t i = 0; i < ARRAY_LEN(uses); i++) {
		char said[STATES][ANSWER] = {"", "", ""};

		for (int state = 0; state < STATES; state++)
			try(i, state, said[state]);
		printf("# %-38s %-32s %-32s %s\n", uses[i].name, said[FREE], said[MAPPED], said[REDIRECTED]);
		if (uses[i].want)
			show(!strcmp(said[FREE], uses[i].want), "%s: as ever for those not on the list", uses[i].name);
	}
	held();
	bypass_destroy(b);
	return lab_done();
}
