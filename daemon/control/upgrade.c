/*
 * The old daemon's side: it is in its main loop and serves meanwhile, so nothing here waits but for room to send, and not for long.
 */
#include "control/upgrade.h"
#include "base/clean.h"
#include "base/log.h"
#include "chain/daemon.h"
#include "control/fdstore.h"
#include "control/notify.h"
#include "control/upgrade_talk.h"
#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

#define PEER_MS 60000u /* a new daemon has so long to get ready: certificates, a large configuration, BPF */
#define SEND_MS 1000u
#define REFUSE_MS 200u

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000 + (uint64_t)ts.tv_nsec / 1000000;
}

static int watch(const struct upgrade *u, int fd)
{
	struct epoll_event ev = {.events = EPOLLIN};

	return epoll_ctl(u->epoll, EPOLL_CTL_ADD, fd, &ev) ? -errno : 0;
}

/* ---- life ---- */

/* bound beside and moved over: the one that we replace is still there under this name */
static int bind_path(struct upgrade *u)
{
	struct sockaddr_un sa = {.sun_family = AF_UNIX};
	struct stat st;

	if (snprintf(sa.sun_path, sizeof(sa.sun_path), "%s.new", u->path) >= (int)sizeof(sa.sun_path))
		return -ENAMETOOLONG;
	(void)unlink(sa.sun_path);
	if (fchmod(u->listen, 0600) || bind(u->listen, (struct sockaddr *)&sa, sizeof(sa)) || chmod(sa.sun_path, 0600) ||
	    lstat(sa.sun_path, &st) || listen(u->listen, 4) || rename(sa.sun_path, u->path))
		return -errno;
	u->dev = st.st_dev;
	u->ino = st.st_ino;
	return 0;
}

int upgrade_open(struct upgrade *u, struct daemon *d, struct admin *admin, const struct notify *n, char **argv, struct err *reterr)
{
	int r = 0;

	*u = (struct upgrade){.d = d, .admin = admin, .notify = n, .argv = argv, .listen = -1, .peer = -1};
	u->epoll = epoll_create1(EPOLL_CLOEXEC);
	if (u->epoll < 0)
		return err_set(reterr, -errno, "upgrade: %s", strerror(errno));
	if (!d->cfg->admin_socket)
		return 0;
	u->listen = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (u->listen < 0)
		r = -errno;
	else if (snprintf(u->path, sizeof(u->path), "%s.upgrade", d->cfg->admin_socket) >= (int)sizeof(u->path))
		r = -ENAMETOOLONG;
	if (r == 0)
		r = bind_path(u);
	if (r == 0)
		r = watch(u, u->listen);
	return r < 0 ? err_set(reterr, r, "%s.upgrade: %s; this daemon can be replaced by a restart only", d->cfg->admin_socket, strerror(-r)) : 0;
}

int upgrade_fd(const struct upgrade *u)
{
	return u->epoll;
}

void upgrade_close(struct upgrade *u)
{
	struct stat st;

	if (u->listen >= 0 && lstat(u->path, &st) == 0 && st.st_dev == u->dev && st.st_ino == u->ino)
		unlink(u->path);
	clean_fd(&u->listen);
	clean_fd(&u->peer);
	clean_fd(&u->epoll);
	u->listen = u->peer = u->epoll = -1;
}

/* ---- giving ---- */

struct give {
	struct upgrade *u;
	char name[256];
	int fd[TALK_FDS];
	uint32_t n;
	int r;
};

static void give_flush(struct give *g)
{
	if (g->n && g->r == 0)
		g->r = talk_send(g->u->peer, TALK_SOCKETS, g->name, g->fd, g->n, SEND_MS);
	g->n = 0;
}

static void give(void *arg, const char *name, int fd)
{
	struct give *g = arg;
	char called[256];

	name = fdstore_name(g->u->d, name, fd, called);
	if (g->n == TALK_FDS || strcmp(g->name, name))
		give_flush(g);
	snprintf(g->name, sizeof(g->name), "%s", name);
	g->fd[g->n++] = fd;
}

static int give_all(struct upgrade *u)
{
	AUTO_FREE struct give *g = calloc(1, sizeof(*g));
	int local, public_;

	if (!g)
		return -ENOMEM;
	g->u = u;
	takeover_each(u->d, true, give, g);
	admin_sockets(u->admin, &local, &public_);
	if (local >= 0)
		give(g, "admin", local);
	if (public_ >= 0)
		give(g, "admin.metrics", public_);
	give_flush(g);
	return g->r < 0 ? g->r : talk_send(u->peer, TALK_END, "", NULL, 0, SEND_MS);
}

/* ---- the talk ---- */

static void peer_gone(struct upgrade *u, const char *why)
{
	log_warn(LA_MAIN, "upgrade: the new daemon (pid %d) is not it: %s; going on as before", u->peer_pid, why);
	err_set(&u->why, 0, "%s", why);
	u->failed = u->peer_pid;
	close(fd_take(&u->peer));
	takeover_keep(u->d, false);
	u->asked = u->ready = false;
}

/* its HELLO is read first: closing a socket with something unread resets it, and the reason would be lost */
static void refuse(int fd, const char *why)
{
	struct talk t;

	(void)talk_recv(fd, &t, NULL, NULL, REFUSE_MS);
	log_warn(LA_MAIN, "upgrade refused: %s", why);
	(void)talk_send(fd, TALK_NO, why, NULL, 0, 0);
	close(fd);
}

static void peer_comes(struct upgrade *u)
{
	int fd = accept4(u->listen, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
	struct ucred who = {.uid = (uid_t)-1};
	socklen_t n = sizeof(who);

	if (fd < 0)
		return;
	(void)getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &who, &n);
	if (who.uid != 0 && who.uid != geteuid()) {
		refuse(fd, "only root and the daemon's own user may take over");
	} else if (u->peer >= 0) {
		refuse(fd, "another upgrade is under way");
	} else if (u->d->draining || u->replaced || u->d->swap) {
		refuse(fd, u->d->swap ? "a change of the configuration is under way" : "this daemon is draining already");
	} else if (watch(u, fd) < 0) {
		refuse(fd, "out of memory");
	} else {
		u->peer = fd;
		u->peer_pid = who.pid;
		u->deadline_ms = now_ms() + PEER_MS;
		log_info(LA_MAIN, "upgrade: pid %d (uid %u) wants to take over", who.pid, who.uid);
	}
}

static void hello(struct upgrade *u, const struct talk *t)
{
	char why[128];
	int r;

	if (t->version != UPGRADE_VERSION) {
		snprintf(why, sizeof(why), "it speaks version %u of the upgrade, this daemon version %u: restart instead", t->version, UPGRADE_VERSION);
		(void)talk_send(u->peer, TALK_NO, why, NULL, 0, 0);
		peer_gone(u, why);
		return;
	}
	u->asked = true;
	takeover_keep(u->d, true);
	r = give_all(u);
	if (r < 0)
		peer_gone(u, strerror(-r));
}

static void taken(struct upgrade *u)
{
	u->replaced = true;
	u->d->sockets_shared = true;
	kernel_hand_over(&u->d->kernel);
	health_release(&u->d->health); /* a scrape may be waiting for it, and the thread that serves it is waited for */
	admin_leave(u->admin);
	health_hold(&u->d->health);
	notify_main_pid(u->notify, u->peer_pid);
	(void)talk_send(u->peer, TALK_DONE, "", NULL, 0, SEND_MS);
	log_info(LA_MAIN, "upgrade: pid %d is the daemon now", u->peer_pid);
	close(fd_take(&u->peer));
}

static void peer_says(struct upgrade *u)
{
	struct talk t;
	int r = talk_recv(u->peer, &t, NULL, NULL, 0);

	if (r == -EAGAIN)
		return;
	if (r < 0)
		peer_gone(u, r == -EPROTO ? "it speaks another language" : "it ended before it was ready; its log says why");
	else if (t.kind == TALK_HELLO && !u->asked)
		hello(u, &t);
	else if (t.kind == TALK_READY && u->asked && !u->ready && talk_send(u->peer, TALK_GO, "", NULL, 0, SEND_MS) == 0)
		u->ready = true;
	else if (t.kind == TALK_TAKEN && u->ready)
		taken(u);
	else
		peer_gone(u, "it speaks out of turn");
}

/* one that we started and that ended before it said anything */
static void reap(struct upgrade *u)
{
	int status;

	if (u->child <= 0 || waitpid(u->child, &status, WNOHANG) != u->child)
		return;
	if (u->peer < 0 && !u->replaced && u->failed != u->child) {
		err_set(&u->why, 0, "it ended with %s %d before it was ready; its log says why", WIFSIGNALED(status) ? "signal" : "status",
			WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
		log_warn(LA_MAIN, "upgrade: the new daemon (pid %d): %s; going on as before", u->child, u->why.msg);
	}
	u->failed = u->child;
	u->child = 0;
}

bool upgrade_run(struct upgrade *u)
{
	if (u->replaced)
		return false;
	if (u->listen >= 0)
		peer_comes(u);
	for (int i = 0; i < 4 && u->peer >= 0; i++)
		peer_says(u);
	if (u->peer >= 0 && now_ms() > u->deadline_ms)
		peer_gone(u, "it was not ready in a minute");
	reap(u);
	return u->replaced;
}

/* ---- starting one ---- */

/* the file that this program came from: if it was replaced, the new one at the same place */
static void own_file(char out[512])
{
	static const char gone[] = " (deleted)";
	ssize_t n = readlink("/proc/self/exe", out, 511);
	size_t k = sizeof(gone) - 1;

	out[n < 0 ? 0 : n] = '\0';
	if (n > (ssize_t)k && !strcmp(out + n - k, gone))
		out[(size_t)n - k] = '\0';
}

/* ours, without what was meant for this process alone */
static char **environment(void)
{
	char **env, **out;
	size_t n = 0, k = 0;

	for (env = environ; *env; env++)
		n++;
	out = calloc(n + 1, sizeof(*out));
	for (env = environ; out && *env; env++)
		if (strncmp(*env, "WATCHDOG_PID=", 13) && strncmp(*env, "LISTEN_", 7))
			out[k++] = *env;
	return out;
}

static char **arguments(const struct upgrade *u, char *program)
{
	size_t n = 0, k = 0;
	char **out;

	while (u->argv[n])
		n++;
	out = calloc(n + 3, sizeof(*out));
	if (!out)
		return NULL;
	out[k++] = program;
	for (size_t i = 1; i < n; i++)
		if (strcmp(u->argv[i], "--upgrade"))
			out[k++] = u->argv[i];
	out[k] = (char *)"--upgrade";
	return out;
}

int upgrade_spawn(struct upgrade *u, const char *program, struct err *reterr)
{
	char own[512];
	AUTO_FREE char **env = environment(), **argv = NULL;
	posix_spawnattr_t attr;
	sigset_t none, all;
	pid_t pid;
	int r;

	if (u->listen < 0)
		return err_set(reterr, -ENOTSUP, "there is no socket for it; the log of the start says why");
	if (u->child > 0 || u->peer >= 0)
		return err_set(reterr, -EBUSY, "another upgrade is under way");
	own_file(own);
	if (program)
		snprintf(own, sizeof(own), "%s", program);
	if (own[0] != '/' || access(own, X_OK))
		return err_set(reterr, -EINVAL, "'%s' is no program: want an absolute path", own);
	argv = arguments(u, own);
	if (!env || !argv || posix_spawnattr_init(&attr))
		return err_set(reterr, -ENOMEM, "out of memory");
	sigemptyset(&none);
	sigfillset(&all);
	(void)posix_spawnattr_setsigmask(&attr, &none);
	(void)posix_spawnattr_setsigdefault(&attr, &all);
	(void)posix_spawnattr_setflags(&attr, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	u->why.msg[0] = '\0';
	u->failed = 0;
	r = posix_spawn(&pid, own, NULL, &attr, argv, env);
	posix_spawnattr_destroy(&attr);
	if (r)
		return err_set(reterr, -r, "%s: %s", own, strerror(r));
	u->child = pid;
	log_info(LA_MAIN, "upgrade: %s started as pid %d", own, pid);
	return pid;
}

void upgrade_state(const struct upgrade *u, struct admin_upgrade *ret)
{
	*ret = (struct admin_upgrade){
		.pid = u->peer >= 0 ? u->peer_pid : u->child,
		.state = u->replaced	 ? "replaced" :
			 u->ready	 ? "handing over" :
			 u->peer >= 0	 ? "getting ready" :
			 u->child > 0	 ? "starting" :
			 u->why.msg[0]	 ? "failed" :
			 u->listen < 0	 ? "impossible" :
					   "none",
		.why = u->why.msg,
	};
}
