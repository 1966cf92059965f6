/*
 * Crash safety is the old recipe: write a second file, fsync it, rename it over the first, fsync the folder (rename(2); ext4, xfs and btrfs
 * keep the order then). A daemon killed anywhere in between leaves the old file or the new one, and perhaps a second file that the next
 * change overwrites.
 *
 * A disk may still lose what it promised, and people edit files. The first line counts and hashes the rest; what does not fit is refused, and so
 * the daemon does not start: policies that are not known may be those that deny. The way out is in the sentence, and in docs/POLICY.md.
 */
#include "control/store.h"
#include "base/clean.h"
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <xxhash.h>

#define STORE_TEMP "policies.yaml.new"
#define STORE_MAX  ((size_t)4 << 20) /* bytes of one source of the configuration */
#define HEAD_MAX   128u		     /* of the first line */
#define HEAD_FORM  "# adit policies 1, generation %" PRIu64 ", %zu bytes, xxh3 %016" PRIx64 "\n"

static int path_of(const char *dir, const char *name, char **ret, struct err *e)
{
	if (asprintf(ret, "%s/%s", dir, name) < 0) {
		*ret = NULL;
		return err_set(e, -ENOMEM, "out of memory");
	}
	return 0;
}

void store_finish(struct store_text *s)
{
	free(s->path);
	free(s->temp);
	free(s->text);
	*s = (struct store_text){.path = NULL};
}

/* ---- reading ---- */

static int damaged(const char *path, struct err *e, const char *what)
{
	return err_set(e, -EBADMSG,
		       "%s is damaged (%s), so the policies applied are not known. Look at it, then either move it into conf.d beside the "
		       "configuration (it is YAML) and correct it there, or remove it, and start again; aditctl policy apply brings back what is missing",
		       path, what);
}

static int whole(const char *path, const char *text, size_t n, uint64_t *ret_generation, struct err *e)
{
	const char *nl = memchr(text, '\n', n < HEAD_MAX ? n : HEAD_MAX);
	char head[HEAD_MAX], again[HEAD_MAX];
	uint64_t generation, hash;
	size_t bytes, len;

	if (!nl)
		return damaged(path, e, n ? "it does not begin as aditd writes it" : "it is empty");
	len = (size_t)(nl + 1 - text);
	if (len >= sizeof(head))
		return damaged(path, e, "it does not begin as aditd writes it");
	memcpy(head, text, len);
	head[len] = '\0';
	if (sscanf(head, "# adit policies 1, generation %" SCNu64 ", %zu bytes, xxh3 %" SCNx64, &generation, &bytes, &hash) != 3)
		return damaged(path, e, "it does not begin as aditd writes it");
	snprintf(again, sizeof(again), HEAD_FORM, generation, bytes, hash);
	if (strcmp(head, again) != 0)
		return damaged(path, e, "it does not begin as aditd writes it");
	if (bytes != n - len)
		return damaged(path, e, bytes > n - len ? "its end is missing" : "there is more than was written");
	if (XXH3_64bits_withSeed(text + len, bytes, generation) != hash)
		return damaged(path, e, "its check sum is wrong");
	*ret_generation = generation;
	return 0;
}

/* Whoever may write to it decides who gets in. */
static int ours(int fd, const char *path, struct stat *ret, struct err *e)
{
	if (fstat(fd, ret) < 0)
		return err_set(e, -errno, "%s: %s", path, strerror(errno));
	if ((ret->st_uid != 0 && ret->st_uid != geteuid()) || (ret->st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(e, -EPERM, "%s can be written by others than aditd: chown it to root or to aditd's user, and chmod go-w", path);
	return 0;
}

static int text_read(int fd, const char *path, size_t n, char **ret, struct err *e)
{
	AUTO_FREE char *text = malloc(n + 1);
	size_t at = 0;
	ssize_t got;

	if (!text)
		return err_set(e, -ENOMEM, "%s: out of memory", path);
	while (at < n) {
		got = read(fd, text + at, n - at);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return err_set(e, -errno, "%s: %s", path, strerror(errno));
		if (!got)
			return damaged(path, e, "it shrank while it was read");
		at += (size_t)got;
	}
	text[n] = '\0';
	*ret = TAKE(text);
	return 0;
}

static int file_load(const char *path, struct store_text *s, struct err *e)
{
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
	struct stat st;
	int r;

	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (fd < 0)
		return err_set(e, -errno, "%s: %s", path, strerror(errno));
	r = ours(fd, path, &st, e);
	if (r < 0)
		return r;
	if (!S_ISREG(st.st_mode) || st.st_size > (off_t)STORE_MAX)
		return damaged(path, e, S_ISREG(st.st_mode) ? "it is larger than 4 MiB" : "it is no file");
	s->n = (size_t)st.st_size;
	r = text_read(fd, path, s->n, &s->text, e);
	return r < 0 ? r : whole(path, s->text, s->n, &s->generation, e);
}

int store_load(const char *dir, struct store_text *ret, struct err *reterr)
{
	struct store_text s = {.path = NULL};
	int r = path_of(dir, STORE_FILE, &s.path, reterr);

	if (r >= 0)
		r = file_load(s.path, &s, reterr);
	if (r < 0)
		store_finish(&s);
	*ret = s;
	return r;
}

/* ---- writing ---- */

int store_folder(const char *dir, struct err *reterr)
{
	struct stat st;

	if (mkdir(dir, 0700) < 0 && errno != EEXIST)
		return err_set(reterr, -errno, "state_dir %s: %s; make it, owned by aditd's user, or set state_dir to another folder", dir,
			       strerror(errno));
	if (stat(dir, &st) < 0)
		return err_set(reterr, -errno, "state_dir %s: %s", dir, strerror(errno));
	if (!S_ISDIR(st.st_mode))
		return err_set(reterr, -ENOTDIR, "state_dir %s is no folder", dir);
	if ((st.st_uid != 0 && st.st_uid != geteuid()) || (st.st_mode & (S_IWGRP | S_IWOTH)))
		return err_set(reterr, -EPERM, "state_dir %s can be written by others than aditd: chown it to aditd's user, and chmod 0700", dir);
	return 0;
}

static int write_all(int fd, const char *s, size_t n)
{
	while (n) {
		ssize_t put = write(fd, s, n);

		if (put < 0 && errno == EINTR)
			continue;
		if (put < 0)
			return -errno;
		s += put;
		n -= (size_t)put;
	}
	return 0;
}

static int folder_sync(const char *dir)
{
	AUTO_FD fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

	return fd < 0 || fsync(fd) < 0 ? -errno : 0;
}

static int put(const char *temp, const char *text, size_t n)
{
	int r;

	AUTO_FD fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0)
		return -errno;
	r = fchmod(fd, 0600) < 0 ? -errno : write_all(fd, text, n);
	if (r == 0 && fsync(fd) < 0)
		r = -errno;
	if (r < 0)
		unlink(temp);
	return r;
}

void store_drop(const struct store_text *s)
{
	unlink(s->temp);
}

int store_commit(const char *dir, const struct store_text *s, struct err *reterr)
{
	int r = 0;

	if (rename(s->temp, s->path) < 0) {
		r = err_set(reterr, -errno, "%s: %s", s->path, strerror(errno));
		unlink(s->temp);
	}
	if (r == 0)
		(void)folder_sync(dir); /* it is there, whatever this says: a crash of the machine decides */
	return r;
}

int store_write(const char *dir, const struct store_text *old, const char *body, size_t n, struct store_text *ret, struct err *reterr)
{
	struct store_text now = {.path = NULL}, s = {.generation = old->generation + 1};
	char head[HEAD_MAX];
	size_t len;
	int r = store_folder(dir, reterr);

	*ret = s;
	if (r == 0)
		r = store_load(dir, &now, reterr);
	if (r < 0)
		return r;
	if (now.generation != old->generation) {
		r = err_set(reterr, -EBUSY,
			    "%s is of generation %" PRIu64 ", this aditd knows %" PRIu64
			    ": another aditd uses the folder, or the file was exchanged; restart",
			    now.path, now.generation, old->generation);
		store_finish(&now);
		return r;
	}
	store_finish(&now);
	len = (size_t)snprintf(head, sizeof(head), HEAD_FORM, s.generation, n, XXH3_64bits_withSeed(body, n, s.generation));
	if (len + n > STORE_MAX)
		return err_set(reterr, -EFBIG, "the applied policies would take %zu KiB, at most 4096: put some into files in conf.d",
			       (len + n) / 1024);
	s.n = len + n;
	s.text = malloc(s.n + 1);
	r = s.text ? path_of(dir, STORE_FILE, &s.path, reterr) : err_set(reterr, -ENOMEM, "out of memory");
	if (r == 0)
		r = path_of(dir, STORE_TEMP, &s.temp, reterr);
	if (r == 0) {
		memcpy(s.text, head, len);
		memcpy(s.text + len, body, n);
		s.text[s.n] = '\0';
		r = put(s.temp, s.text, s.n);
		if (r < 0)
			r = err_set(reterr, r, "%s cannot be written: %s; nothing was changed", s.temp, strerror(-r));
	}
	if (r < 0)
		store_finish(&s);
	*ret = s;
	return r;
}
