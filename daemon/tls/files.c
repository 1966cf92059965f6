/*
 * Reading the files of an identity. Certificate and key are two files, and whoever replaces them cannot replace both in one go, unless
 * by a link to a folder (Kubernetes, certbot). So each file is looked at before and after, by name as well as by descriptor, until nothing
 * has moved between the first look and the last: then what was read was there together.
 *
 * Half a file is what a writer leaves that truncates and writes. PEM shows it: a block begins and does not end. It is said as that,
 * since "ASN parse error" sends people to look for another fault.
 */
#include <wolfssl/options.h>
#include <wolfssl/wolfcrypt/coding.h>
#include <wolfssl/wolfcrypt/error-crypt.h>

#include "base/clean.h"
#include "tls/files.h"
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>

#define READ_TRIES   5
#define READ_WAIT_NS 20000000 /* between two of them */

static const char *const what[TLS_FILES] = { "certificate file", "key file", "CA file", "CRL file" };

const char *tls_file_what(enum tls_file k)
{
	return what[k];
}

const char *tls_file_name(const struct cfg_identity *id, enum tls_file k)
{
	switch (k) {
	case TLS_FILE_CERTIFICATE:
		return id->certificate;
	case TLS_FILE_KEY:
		return id->key;
	case TLS_FILE_CA:
		return id->ca;
	case TLS_FILE_CRL:
		return id->crl;
	case TLS_FILES:
		break;
	}
	return NULL;
}

/* ---- reading ---- */

static void wipe(struct tls_bytes *b)
{
	uint8_t *p = (uint8_t *)(uintptr_t)b->p;

	if (p)
		explicit_bzero(p, b->n);
	free(p);
	*b = (struct tls_bytes){ NULL, 0 };
}

void tls_files_finish(struct tls_files *fs)
{
	for (int k = 0; k < TLS_FILES; k++)
		wipe(&fs->f[k]);
}

static bool same(const struct stat *a, const struct stat *b)
{
	return a->st_dev == b->st_dev && a->st_ino == b->st_ino && a->st_size == b->st_size && a->st_mtim.tv_sec == b->st_mtim.tv_sec &&
	       a->st_mtim.tv_nsec == b->st_mtim.tv_nsec;
}

static int read_all(int fd, size_t n, struct tls_bytes *ret)
{
	uint8_t *p = malloc(n + 1); /* a file of no bytes is one, too */
	size_t got = 0;

	if (!p)
		return -ENOMEM;
	while (got < n) {
		ssize_t r = read(fd, p + got, n - got);

		if (r < 0 && errno == EINTR)
			continue;
		if (r <= 0) {
			int e = r < 0 ? -errno : -EAGAIN; /* shorter than it was */

			explicit_bzero(p, got);
			free(p);
			return e;
		}
		got += (size_t)r;
	}
	*ret = (struct tls_bytes){ p, n };
	return 0;
}

/* Return: 0, -EAGAIN: it is changing; -errno */
static int read_one(const char *path, struct tls_bytes *ret, struct stat *ret_st)
{
	AUTO_FD fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK); /* a FIFO does not hold us up */
	struct stat st;
	int r;

	if (fd < 0 || fstat(fd, ret_st))
		return -errno;
	if (!S_ISREG(ret_st->st_mode))
		return -EISDIR;
	if (ret_st->st_size > TLS_FILE_MAX)
		return -EFBIG;
	r = read_all(fd, (size_t)ret_st->st_size, ret);
	if (r < 0)
		return r;
	if (fstat(fd, &st) || !same(&st, ret_st)) {
		wipe(ret);
		return -EAGAIN;
	}
	return 0;
}

static int read_try(struct tls_files *fs, const struct cfg_identity *id, enum tls_file *ret_k)
{
	struct stat st[TLS_FILES], now;

	for (int k = 0; k < TLS_FILES; k++) {
		const char *path = tls_file_name(id, (enum tls_file)k);
		int r;

		*ret_k = (enum tls_file)k;
		r = path ? read_one(path, &fs->f[k], &st[k]) : 0;
		if (r < 0)
			return r;
	}
	for (int k = 0; k < TLS_FILES; k++) {
		const char *path = tls_file_name(id, (enum tls_file)k);

		*ret_k = (enum tls_file)k;
		if (path && (stat(path, &now) || !same(&now, &st[k])))
			return -EAGAIN;
	}
	return 0;
}

int tls_files_read(struct tls_files *ret, const struct cfg_identity *id, struct err *reterr)
{
	const struct timespec wait = { .tv_nsec = READ_WAIT_NS };
	enum tls_file k = TLS_FILE_CERTIFICATE;
	struct tls_files fs = { 0 };
	int r = -EAGAIN;

	for (int i = 0; i < READ_TRIES && r == -EAGAIN; i++) {
		if (i)
			nanosleep(&wait, NULL);
		r = read_try(&fs, id, &k);
		if (r < 0)
			tls_files_finish(&fs);
	}
	if (r == 0) {
		*ret = fs;
		return 0;
	}
	if (r == -ENOMEM)
		return err_set(reterr, r, "out of memory");
	if (r == -EAGAIN)
		return err_set(reterr, r, "identity '%s': %s %s changes while it is being read", id->name, what[k], tls_file_name(id, k));
	return err_set(reterr, -EINVAL, "identity '%s': %s %s: %s", id->name, what[k], tls_file_name(id, k),
		       r == -EISDIR ? "is no file" :
		       r == -EFBIG  ? "is larger than 16 MiB" :
				      strerror(-r));
}

/* ---- PEM ---- */

void tls_ders_finish(struct tls_ders *d)
{
	free(d->at);
	free(d->buf);
	*d = (struct tls_ders){ 0 };
}

/* the next "-----KIND LABEL-----" from *at on, alone on its line. Return: the label, in place; NULL: none. *at is then behind it. */
static const char *mark_next(struct tls_bytes f, const char *kind, size_t *at, size_t *ret_begin, size_t *ret_n)
{
	const char *s = (const char *)f.p, *p, *end;
	size_t k = strlen(kind);

	while (*at < f.n && (p = memmem(s + *at, f.n - *at, kind, k))) {
		size_t begin = (size_t)(p - s);

		*at = begin + k;
		if (begin && s[begin - 1] != '\n' && s[begin - 1] != '\r')
			continue;
		end = memmem(s + *at, f.n - *at, "-----", 5);
		if (!end || (size_t)(end - (s + *at)) > 64)
			continue;
		*ret_begin = begin;
		*ret_n = (size_t)(end - (s + *at));
		p = s + *at;
		*at += *ret_n + 5;
		return p;
	}
	return NULL;
}

static int pem_block(struct tls_bytes f, const char *label, size_t *at, uint8_t *out, size_t room, struct tls_bytes *ret, struct err *reterr)
{
	size_t begin, n, body, end, m, want = strlen(label);
	const char *l;
	word32 len;

	do {
		l = mark_next(f, "-----BEGIN ", at, &begin, &n);
		if (!l)
			return 0;
	} while (n != want || memcmp(l, label, want));
	body = *at;
	l = mark_next(f, "-----END ", at, &end, &m);
	if (!l)
		return err_set(reterr, -EINVAL, "is cut off: the %s that begins at byte %zu does not end; is it being written?", label, begin);
	if (m != want || memcmp(l, label, want))
		return err_set(reterr, -EINVAL, "is damaged: the %s that begins at byte %zu ends as something else", label, begin);
	len = (word32)room;
	if (Base64_Decode(f.p + body, (word32)(end - body), out, &len) || !len)
		return err_set(reterr, -EINVAL, "is damaged: the %s that begins at byte %zu is not base64", label, begin);
	*ret = (struct tls_bytes){ out, len };
	return 1;
}

int tls_pem(struct tls_ders *ret, struct tls_bytes f, const char *label, struct err *reterr)
{
	struct tls_ders d = { 0 };
	size_t at = 0, used = 0;
	int r = 1;

	if (!f.n)
		return err_set(reterr, -EINVAL, "is empty; is it being written?");
	d.at = calloc(TLS_PEM_MAX, sizeof(*d.at));
	d.buf = malloc(f.n);
	if (!d.at || !d.buf) {
		tls_ders_finish(&d);
		return err_set(reterr, -ENOMEM, "out of memory");
	}
	while (r > 0) {
		struct tls_bytes b;

		r = pem_block(f, label, &at, d.buf + used, f.n - used, &b, reterr);
		if (r > 0 && d.n == TLS_PEM_MAX)
			r = err_set(reterr, -EINVAL, "has more than %u of %s", TLS_PEM_MAX, label);
		if (r > 0) {
			d.at[d.n++] = b;
			used += b.n;
		}
	}
	if (r == 0 && !d.n)
		r = err_set(reterr, -EINVAL, "has no %s in PEM form%s", label,
			    f.p[0] == 0x30 ? " (it looks like DER: openssl -inform DER -outform PEM)" : "");
	if (r < 0) {
		tls_ders_finish(&d);
		return r;
	}
	*ret = d;
	return 0;
}
