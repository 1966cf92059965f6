/*
 * Lines are written by one write(2) to a file opened with O_APPEND, so two daemons (an upgrade) do not write into each other's. The file is
 * never shortened or closed by aditd: who keeps it small is logrotate, which moves it and sends SIGUSR1.
 *
 * A line's length is bounded by its makers (the diff is cut at 16 KiB); the number of lines that people without rights can cause is
 * bounded here, and what was left out is said in the next line.
 */
#include "control/audit.h"
#include "base/clean.h"
#include "control/store.h"
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define AUDIT_FILE	"audit.log"
#define AUDIT_TAIL	((size_t)1 << 20)
#define STRANGERS_BURST 16u
#define COMM_MAX	64u

struct audit {
	char *dir, *path;
	int fd; /* -1: not open */
	uint32_t strangers; /* lines that they may cause now */
	time_t filled;	    /* when that was counted, CLOCK_MONOTONIC */
	uint64_t left_out;
};

int audit_create(struct audit **ret, const char *dir)
{
	struct audit *a = calloc(1, sizeof(*a));

	if (!a)
		return -ENOMEM;
	a->fd = -1;
	a->strangers = STRANGERS_BURST;
	a->dir = strdup(dir);
	if (!a->dir || asprintf(&a->path, "%s/" AUDIT_FILE, dir) < 0) {
		a->path = NULL;
		audit_destroy(a);
		return -ENOMEM;
	}
	*ret = a;
	return 0;
}

void audit_destroy(struct audit *a)
{
	if (!a)
		return;
	audit_reopen(a);
	free(a->dir);
	free(a->path);
	free(a);
}

void audit_reopen(struct audit *a)
{
	if (a && a->fd >= 0)
		close(fd_take(&a->fd));
}

int audit_ready(struct audit *a, struct err *reterr)
{
	int r;

	if (a->fd >= 0)
		return 0;
	r = store_folder(a->dir, reterr);
	if (r < 0)
		return r;
	a->fd = open(a->path, O_RDWR | O_APPEND | O_CREAT | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK, 0600);
	if (a->fd < 0)
		return err_set(reterr, -errno, "%s: %s: what is changed could not be written down", a->path, strerror(errno));
	return 0;
}

/* ---- one line ---- */

static void put_time(struct json *j)
{
	struct timespec ts;
	struct tm tm;
	char s[40];
	size_t n;

	clock_gettime(CLOCK_REALTIME, &ts);
	if (!gmtime_r(&ts.tv_sec, &tm))
		return;
	n = strftime(s, sizeof(s), "%Y-%m-%dT%H:%M:%S", &tm);
	snprintf(s + n, sizeof(s) - n, ".%03ldZ", ts.tv_nsec / 1000000);
	json_str(j, "time", s);
}

/* as the kernel has it now; the process may be gone, or another by now: the uid is what counts */
static void put_comm(struct json *j, pid_t pid)
{
	char path[32], comm[COMM_MAX];
	ssize_t n;

	snprintf(path, sizeof(path), "/proc/%d/comm", pid);
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC);
	n = fd < 0 ? -1 : read(fd, comm, sizeof(comm));
	if (n > 0)
		json_strn(j, "comm", comm, (size_t)n - (comm[n - 1] == '\n'));
	else
		json_str(j, "comm", NULL);
}

/* the members of a JSON object, behind what is there already */
static void put_detail(struct text *line, const char *detail)
{
	const char *open = strchr(detail, '{'), *close = strrchr(detail, '}');

	if (!open || !close || close < open)
		return;
	for (open++; open < close && strchr(" \t\r\n", *open); open++)
		;
	while (close > open && strchr(" \t\r\n", close[-1]))
		close--;
	if (close == open)
		return;
	text_add(line, ", ");
	for (; open < close; open++) /* line breaks between members: within a text they are escaped */
		if (*open != '\n' && *open != '\r')
			text_addn(line, open, 1);
}

static void line_make(struct text *line, const struct audit *a, const struct audit_entry *e)
{
	struct json j;

	json_init(&j, line, false);
	json_open(&j, NULL, '{');
	put_time(&j);
	json_i64(&j, "uid", e->uid == (uid_t)-1 ? -1 : (int64_t)e->uid);
	json_i64(&j, "gid", e->gid == (gid_t)-1 ? -1 : (int64_t)e->gid);
	json_i64(&j, "pid", e->pid);
	put_comm(&j, e->pid);
	json_str(&j, "what", e->what);
	json_str(&j, "result", e->done ? "done" : e->stranger ? "not allowed" : "refused");
	if (e->status)
		json_u64(&j, "status", e->status);
	if (e->error && !e->done)
		json_str(&j, "error", e->error);
	if (a->left_out)
		json_u64(&j, "left_out", a->left_out);
	if (e->detail)
		put_detail(line, e->detail);
	json_close(&j, '}');
	text_add(line, "\n");
}

static bool stranger_fits(struct audit *a)
{
	struct timespec ts;
	uint64_t more;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	more = (uint64_t)(ts.tv_sec - a->filled);
	a->filled = ts.tv_sec;
	a->strangers = (uint32_t)min_u64(a->strangers + more, STRANGERS_BURST);
	if (!a->strangers) {
		a->left_out++;
		return false;
	}
	a->strangers--;
	return true;
}

int audit_write(struct audit *a, const struct audit_entry *e, struct err *reterr)
{
	struct text line = {0};
	ssize_t n;
	int r;

	if (!a || (e->stranger && !stranger_fits(a)))
		return 0;
	r = audit_ready(a, reterr);
	if (r < 0)
		return r;
	line_make(&line, a, e);
	if (!text_ok(&line)) {
		text_finish(&line);
		return err_set(reterr, -ENOMEM, "%s: out of memory", a->path);
	}
	n = write(a->fd, line.s, line.len);
	if (n != (ssize_t)line.len)
		r = err_set(reterr, n < 0 ? -errno : -ENOSPC, "%s: %s", a->path, n < 0 ? strerror(errno) : "only a part of a line could be written");
	else
		a->left_out = 0;
	text_finish(&line);
	return r;
}

/* ---- the end of it ---- */

static bool is_object(const char *s, size_t n)
{
	json_t *o = json_loadb(s, n, 0, NULL);
	bool yes = json_is_object(o);

	json_decref(o);
	return yes;
}

/* what a crash left half or somebody else wrote is passed over */
static void lines_put(struct text *out, const char *s, size_t n)
{
	const char *end = s + n, *nl;

	for (; s < end && (nl = memchr(s, '\n', (size_t)(end - s))); s = nl + 1)
		if (is_object(s, (size_t)(nl - s)))
			text_addn(out, s, (size_t)(nl + 1 - s));
}

int audit_tail(struct audit *a, uint32_t n, struct text *out, struct err *reterr)
{
	AUTO_FREE char *buf = NULL;
	struct stat st;
	size_t want, at;
	ssize_t got;
	int r = audit_ready(a, reterr);

	if (r < 0)
		return r;
	if (fstat(a->fd, &st) < 0)
		return err_set(reterr, -errno, "%s: %s", a->path, strerror(errno));
	want = (size_t)min_u64((uint64_t)st.st_size, AUDIT_TAIL);
	buf = malloc(want + 1);
	if (!buf)
		return err_set(reterr, -ENOMEM, "%s: out of memory", a->path);
	got = pread(a->fd, buf, want, st.st_size - (off_t)want);
	if (got < 0)
		return err_set(reterr, -errno, "%s: %s", a->path, strerror(errno));
	want = (size_t)got;
	for (at = want; at && n; at--)
		if (buf[at - 1] == '\n' && at < want)
			if (!--n)
				break;
	lines_put(out, buf + at, want - at);
	return text_ok(out) ? 0 : err_set(reterr, -ENOMEM, "%s: out of memory", a->path);
}
