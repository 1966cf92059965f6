/*
 * Watching files. inotify tells of names in folders, so a path is walked as the kernel would, link by link, and every folder on the
 * way in which a link or the file itself lies is watched for these names; where the way ends early, the last folder that is there. After
 * every change the way is walked again, for it may be another one.
 *
 * Events are only a reason to look: what is compared are the contents, by a hash. So spurious events cost a read of some small files, and
 * lost ones are made up for by looking every few seconds anyhow. Watches come before contents are read: what changes in
 * between is an event.
 *
 * A change is told when nothing has happened for the settle time, since certificate and key come as two files, and writers truncate
 * first. A file that never rests is looked at after ten times that.
 */
#include "control/watch.h"
#include "base/clean.h"
#include "base/log.h"
#include <dirent.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/inotify.h>
#include <sys/stat.h>
#include <sys/timerfd.h>
#include <time.h>
#include <xxhash.h>

#define LINKS_MAX   40u	      /* as the kernel */
#define PATIENCE    10u	      /* settle times from the first event to the look */
#define HASHED_MAX  (64u << 20) /* bytes of a file that are looked at */
#define ALWAYS_HASH (1u << 18) /* files up to here are read at every poll, larger ones when stat() says so */
#define EVENTS	    (IN_CREATE | IN_MOVED_TO | IN_MOVED_FROM | IN_DELETE | IN_CLOSE_WRITE | IN_MODIFY | IN_ATTRIB | IN_DELETE_SELF | IN_MOVE_SELF)

struct sign { /* what was there */
	bool there;
	dev_t dev;
	ino_t ino;
	off_t size;
	struct timespec mtime, ctime;
	uint64_t hash;
};

struct path {
	char *name; /* absolute */
	struct sign sign;
	bool changed;
};

/* a name in a folder that inotify watches; "" is every name */
struct spot {
	int wd;
	char name[NAME_MAX + 1];
};

struct watch {
	struct watch_ops ops;
	int ep, in, timer;
	struct path *paths;
	uint32_t n;
	struct spot *spots;
	uint32_t n_spots, cap_spots;
	uint64_t settle_ms, first_ms; /* CLOCK_MONOTONIC: look then, and the first event; 0: none */
	uint64_t poll_ms;
};

static uint64_t now_ms(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (uint64_t)ts.tv_sec * 1000u + (uint64_t)ts.tv_nsec / 1000000u;
}

static void timer_set(struct watch *w)
{
	uint64_t at = w->settle_ms ? min_u64(w->settle_ms, w->poll_ms) : w->poll_ms;
	struct itimerspec it = { .it_value = { .tv_sec = (time_t)(at / 1000u), .tv_nsec = (long)(at % 1000u) * 1000000 + 1 } };

	(void)timerfd_settime(w->timer, TFD_TIMER_ABSTIME, &it, NULL);
}

/* ---- content ---- */

static uint64_t hash_file(int fd)
{
	XXH64_state_t *h = XXH64_createState();
	uint8_t buf[16384];
	uint64_t sum = 0;
	size_t all = 0;
	ssize_t n;

	if (!h)
		return 0;
	(void)XXH64_reset(h, 1);
	while (all < HASHED_MAX && (n = read(fd, buf, sizeof(buf))) > 0) {
		(void)XXH64_update(h, buf, (size_t)n);
		all += (size_t)n;
	}
	sum = XXH64_digest(h);
	XXH64_freeState(h);
	explicit_bzero(buf, sizeof(buf)); /* it may have been a key */
	return sum;
}

static uint64_t hash_folder(int fd)
{
	DIR *d = fdopendir(dup(fd));
	const struct dirent *e;
	uint64_t sum = 0;
	struct stat st;

	while (d && (e = readdir(d))) {
		uint64_t of[4] = { 0 };

		if (e->d_name[0] == '.')
			continue;
		if (fstatat(fd, e->d_name, &st, 0) == 0) {
			of[0] = (uint64_t)st.st_ino;
			of[1] = (uint64_t)st.st_size;
			of[2] = (uint64_t)st.st_mtim.tv_sec;
			of[3] = (uint64_t)st.st_mtim.tv_nsec;
		}
		sum += XXH64(e->d_name, strlen(e->d_name), XXH64(of, sizeof(of), 0)); /* in any order */
	}
	if (d)
		closedir(d);
	return sum;
}

static bool same_stat(const struct sign *s, const struct stat *st)
{
	return s->there && s->dev == st->st_dev && s->ino == st->st_ino && s->size == st->st_size &&
	       s->mtime.tv_sec == st->st_mtim.tv_sec && s->mtime.tv_nsec == st->st_mtim.tv_nsec && s->ctime.tv_sec == st->st_ctim.tv_sec &&
	       s->ctime.tv_nsec == st->st_ctim.tv_nsec;
}

/* Return: is its content another than @s says? *s is what is there now. */
static bool sign_take(const char *name, struct sign *s)
{
	AUTO_FD fd = open(name, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
	struct sign was = *s;
	struct stat st;

	if (fd < 0 || fstat(fd, &st)) {
		*s = (struct sign){ 0 };
		return was.there;
	}
	if (S_ISREG(st.st_mode) && st.st_size > ALWAYS_HASH && same_stat(s, &st))
		return false;
	*s = (struct sign){ .there = true,
			    .dev = st.st_dev,
			    .ino = st.st_ino,
			    .size = st.st_size,
			    .mtime = st.st_mtim,
			    .ctime = st.st_ctim };
	s->hash = S_ISDIR(st.st_mode) ? hash_folder(fd) : S_ISREG(st.st_mode) ? hash_file(fd) : 1;
	return !was.there || was.hash != s->hash;
}

/* ---- where to listen ---- */

static void spot_add(struct watch *w, const char *folder, const char *name)
{
	int wd = w->in < 0 ? -1 : inotify_add_watch(w->in, folder, EVENTS | IN_ONLYDIR);

	if (wd < 0 || strlen(name) > NAME_MAX)
		return; /* the poll sees it */
	for (uint32_t i = 0; i < w->n_spots; i++)
		if (w->spots[i].wd == wd && !strcmp(w->spots[i].name, name))
			return;
	if (w->n_spots == w->cap_spots) {
		uint32_t cap = w->cap_spots ? w->cap_spots * 2 : 16;
		struct spot *p = reallocarray(w->spots, cap, sizeof(*p));

		if (!p)
			return;
		w->spots = p;
		w->cap_spots = cap;
	}
	w->spots[w->n_spots].wd = wd;
	snprintf(w->spots[w->n_spots++].name, sizeof(w->spots[0].name), "%s", name);
}

/* @rest, from folder @at (which ends in '/', or is ""): the way that the kernel takes. Both are PATH_MAX. */
static void way_walk(struct watch *w, char *at, char *rest)
{
	char name[NAME_MAX + 1], link[PATH_MAX], tail[PATH_MAX];
	uint32_t links = 0;
	struct stat st;

	while (*rest) {
		size_t n = strcspn(rest, "/"), k = strlen(at);
		ssize_t l;

		if (!n || (n == 1 && rest[0] == '.')) {
			if (!rest[n])
				return;
			memmove(rest, rest + n + 1, strlen(rest + n + 1) + 1);
			continue;
		}
		if (n > NAME_MAX || k + n + 2 > PATH_MAX)
			return;
		memcpy(name, rest, n);
		name[n] = '\0';
		snprintf(tail, sizeof(tail), "%s", rest[n] ? rest + n + 1 : "");
		memcpy(at + k, name, n + 1);
		if (lstat(at, &st)) { /* it ends here: what comes is news in this folder */
			at[k] = '\0';
			spot_add(w, at, name);
			return;
		}
		l = S_ISLNK(st.st_mode) ? readlink(at, link, sizeof(link) - 1) : -1;
		if (l > 0 && links++ < LINKS_MAX) {
			link[l] = '\0';
			at[k] = '\0';
			spot_add(w, at, name);
			if (snprintf(rest, PATH_MAX, "%s%s%s", link, *tail ? "/" : "", tail) >= PATH_MAX)
				return;
			if (link[0] == '/')
				strcpy(at, "/");
			continue;
		}
		if (!*tail) {
			at[k] = '\0';
			spot_add(w, at, name);
			if (S_ISDIR(st.st_mode)) {
				memcpy(at + k, name, n + 1);
				spot_add(w, at, "");
			}
			return;
		}
		at[k + n] = '/';
		at[k + n + 1] = '\0';
		memmove(rest, tail, strlen(tail) + 1);
	}
}

static void spots_renew(struct watch *w)
{
	struct spot *old = w->spots;
	uint32_t n_old = w->n_spots;

	w->spots = NULL;
	w->n_spots = w->cap_spots = 0;
	for (uint32_t i = 0; i < w->n; i++) {
		char at[PATH_MAX] = "/", rest[PATH_MAX];

		snprintf(rest, sizeof(rest), "%s", w->paths[i].name + 1);
		way_walk(w, at, rest);
	}
	for (uint32_t i = 0; i < n_old; i++) {
		bool used = false;

		for (uint32_t k = 0; k < w->n_spots && !used; k++)
			used = w->spots[k].wd == old[i].wd;
		for (uint32_t k = 0; k < i && !used; k++) /* removed already */
			used = old[k].wd == old[i].wd;
		if (!used)
			(void)inotify_rm_watch(w->in, old[i].wd);
	}
	free(old);
}

/* ---- looking ---- */

bool watch_now(struct watch *w)
{
	bool any = false;

	w->settle_ms = w->first_ms = 0;
	w->poll_ms = now_ms() + w->ops.poll_ms;
	spots_renew(w);
	for (uint32_t i = 0; i < w->n; i++) {
		w->paths[i].changed = sign_take(w->paths[i].name, &w->paths[i].sign);
		any |= w->paths[i].changed;
	}
	timer_set(w);
	if (any)
		w->ops.changed(w->ops.arg);
	return any;
}

bool watch_changed(const struct watch *w, uint32_t i)
{
	return i < w->n && w->paths[i].changed;
}

static bool concerns(const struct watch *w, const struct inotify_event *e)
{
	if (e->mask & (IN_Q_OVERFLOW | IN_DELETE_SELF | IN_MOVE_SELF | IN_UNMOUNT))
		return true;
	for (uint32_t i = 0; i < w->n_spots; i++)
		if (w->spots[i].wd == e->wd && (!w->spots[i].name[0] || (e->len && !strcmp(w->spots[i].name, e->name))))
			return true;
	return false;
}

static void events_read(struct watch *w)
{
	char buf[8192] __attribute__((aligned(8)));
	uint64_t now = now_ms();
	bool any = false;
	ssize_t n;

	for (int i = 0; i < 16 && (n = read(w->in, buf, sizeof(buf))) > 0; i++)
		for (const char *p = buf; p < buf + n;) {
			const struct inotify_event *e = (const void *)p;

			any |= concerns(w, e);
			p += sizeof(*e) + e->len;
		}
	if (!any)
		return;
	if (!w->first_ms)
		w->first_ms = now;
	w->settle_ms = min_u64(now + w->ops.settle_ms, w->first_ms + PATIENCE * (uint64_t)w->ops.settle_ms);
	timer_set(w);
}

/* something moved that no event told of: give it the time to rest, too */
static void poll_files(struct watch *w)
{
	bool any = false;

	w->poll_ms = now_ms() + w->ops.poll_ms;
	for (uint32_t i = 0; i < w->n && !any; i++) {
		struct sign s = w->paths[i].sign;

		any = sign_take(w->paths[i].name, &s);
	}
	if (any && !w->settle_ms) {
		w->first_ms = now_ms();
		w->settle_ms = w->first_ms + w->ops.settle_ms;
	}
	timer_set(w);
}

void watch_run(struct watch *w)
{
	uint64_t n, now;

	(void)!read(w->timer, &n, sizeof(n));
	if (w->in >= 0)
		events_read(w);
	now = now_ms();
	if (w->settle_ms && now >= w->settle_ms)
		(void)watch_now(w);
	else if (now >= w->poll_ms)
		poll_files(w);
}

int watch_fd(const struct watch *w)
{
	return w->ep;
}

/* ---- life ---- */

static void paths_free(struct path *p, uint32_t n)
{
	for (uint32_t i = 0; p && i < n; i++)
		free(p[i].name);
	free(p);
}

static char *absolute(const char *path)
{
	char cwd[PATH_MAX], *s = NULL;

	if (path[0] == '/')
		return strdup(path);
	if (!getcwd(cwd, sizeof(cwd)) || asprintf(&s, "%s/%s", cwd, path) < 0)
		return NULL;
	return s;
}

int watch_set(struct watch *w, const char *const *paths, uint32_t n, struct err *reterr)
{
	struct path *p = calloc(n + 1u, sizeof(*p)), *old = w->paths;
	uint32_t n_old = w->n;

	for (uint32_t i = 0; p && i < n; i++) {
		p[i].name = absolute(paths[i]);
		if (!p[i].name) {
			paths_free(p, n);
			p = NULL;
		}
	}
	if (!p)
		return err_set(reterr, -ENOMEM, "out of memory");
	w->paths = p;
	w->n = n;
	spots_renew(w);
	for (uint32_t i = 0; i < n; i++) {
		const struct path *was = NULL;

		for (uint32_t k = 0; k < n_old && !was; k++)
			was = !strcmp(old[k].name, p[i].name) ? &old[k] : NULL;
		if (was)
			p[i].sign = was->sign;
		else
			(void)sign_take(p[i].name, &p[i].sign);
	}
	paths_free(old, n_old);
	w->poll_ms = now_ms() + w->ops.poll_ms;
	timer_set(w);
	return 0;
}

static int add(int ep, int fd)
{
	struct epoll_event ev = { .events = EPOLLIN, .data.fd = fd };

	return epoll_ctl(ep, EPOLL_CTL_ADD, fd, &ev);
}

int watch_create(struct watch **ret, const struct watch_ops *ops, struct err *reterr)
{
	struct watch *w = calloc(1, sizeof(*w));
	int r;

	if (!w)
		return err_set(reterr, -ENOMEM, "out of memory");
	w->ops = *ops;
	w->ops.settle_ms = ops->settle_ms ? ops->settle_ms : WATCH_SETTLE_MS;
	w->ops.poll_ms = ops->poll_ms ? ops->poll_ms : WATCH_POLL_MS;
	w->poll_ms = now_ms() + w->ops.poll_ms;
	w->ep = epoll_create1(EPOLL_CLOEXEC);
	w->timer = timerfd_create(CLOCK_MONOTONIC, TFD_CLOEXEC | TFD_NONBLOCK);
	w->in = inotify_init1(IN_CLOEXEC | IN_NONBLOCK);
	if (w->in < 0)
		log_warn(LA_CONFIG, "inotify: %s (fs.inotify.max_user_instances?); files are looked at every %u ms instead", strerror(errno),
			 w->ops.poll_ms);
	if (w->ep < 0 || w->timer < 0 || add(w->ep, w->timer) || (w->in >= 0 && add(w->ep, w->in))) {
		r = err_set(reterr, -errno, "watching files: %s", strerror(errno));
		watch_destroy(w);
		return r;
	}
	timer_set(w);
	*ret = w;
	return 0;
}

void watch_destroy(struct watch *w)
{
	if (!w)
		return;
	paths_free(w->paths, w->n);
	free(w->spots);
	for (int i = 0; i < 3; i++) {
		int fd = i == 0 ? w->in : i == 1 ? w->timer : w->ep;

		if (fd >= 0)
			close(fd);
	}
	free(w);
}
