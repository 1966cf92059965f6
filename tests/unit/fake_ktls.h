/*
 * A kernel with TLS, for machines that have none: system calls on sockets are wrapped, keys are taken by setsockopt(), records are made
 * and opened with the user engine, and everything else goes on to the real kernel. It does what Linux does as far as tls/ can tell
 * (tests/vm/ktls.c runs the same tests on the real thing), and what it shall refuse or get wrong can be said in `fake`.
 *
 * link with -Wl,--wrap= of setsockopt getsockopt recvmsg sendmsg send recv epoll_wait poll close. One thread; descriptors below FAKES.
 * Who has a TCP of his own, too, defines FAKE_TCP and fake_tcp_recv(), fake_tcp_send(), fake_tcp_close().
 */
#pragma once
#include "tls/seal.h"
#include <errno.h>
#include <linux/tls.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/socket.h>

#define FAKES	 256
#ifndef FAKE_IN
#define FAKE_IN (1u << 20) /* what TCP may hold */
#endif
#define FAKE_OUT (RECORD_MAX + 64u)

int __real_setsockopt(int fd, int level, int name, const void *p, socklen_t n);
int __real_getsockopt(int fd, int level, int name, void *p, socklen_t *n);
ssize_t __real_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __real_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __real_send(int fd, const void *p, size_t n, int flags);
ssize_t __real_recv(int fd, void *p, size_t n, int flags);
int __real_epoll_wait(int ep, struct epoll_event *e, int n, int ms);
int __real_poll(struct pollfd *p, nfds_t n, int ms);
int __real_close(int fd);
int __wrap_setsockopt(int fd, int level, int name, const void *p, socklen_t n);
int __wrap_getsockopt(int fd, int level, int name, void *p, socklen_t *n);
ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags);
ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags);
ssize_t __wrap_send(int fd, const void *p, size_t n, int flags);
ssize_t __wrap_recv(int fd, void *p, size_t n, int flags);
int __wrap_epoll_wait(int ep, struct epoll_event *e, int n, int ms);
int __wrap_poll(struct pollfd *p, nfds_t n, int ms);
int __wrap_close(int fd);

#ifndef FAKE_TCP
#define fake_tcp_recv  __real_recv
#define fake_tcp_send  __real_send
#define fake_tcp_close __real_close
#endif

/* what the kernel is like today; zeroed: all is well */
static struct {
	int ulp;		      /* errno of TCP_ULP */
	int keys[SEAL_CIPHERS][2];    /* errno by cipher and direction [0 rx, 1 tx] */
	bool linux61;		      /* FIN within a record is EAGAIN */
	bool wrong;		      /* what is opened is not what was sealed */
	unsigned int ulp_calls, key_calls, looks, unblocks; /* how often it was asked */
	unsigned int given[2], errors;
} fake;

struct fake_sock {
	bool ulp, on[2];
	struct rec_keys keys;
	uint8_t cipher_of[2];
	uint8_t in[FAKE_IN], out[FAKE_OUT];
	size_t in_n, out_off, out_n;
	bool opened; /* a record is, and content[at..at + left) of it is still to be read */
	uint8_t type, content[RECORD_MAX];
	size_t at, left;
	bool was_head; /* the record at the head of `in` has been reported */
	bool edge, eof;
	int err;
	uint64_t seq[2];
};
static struct fake_sock *fake_socks[FAKES];

static inline struct fake_sock *fake_of(int fd)
{
	return fd >= 0 && fd < FAKES ? fake_socks[fd] : NULL;
}

static inline int fake_says(int e)
{
	errno = e;
	return e ? -1 : 0;
}

/* Return: the length of the whole record at the head, 0: not yet, -errno: that is none */
static inline ssize_t fake_head(const struct fake_sock *f)
{
	size_t body;

	if (f->in_n < HDR)
		return 0;
	body = (size_t)f->in[3] << 8 | f->in[4];
	if (body > RECORD_MAX)
		return -EMSGSIZE;
	if (body < TAG + 1)
		return -EBADMSG;
	if (f->in[1] != 3 || f->in[2] != 3)
		return -EINVAL;
	return f->in_n < HDR + body ? 0 : (ssize_t)(HDR + body);
}

static inline void fake_report(struct fake_sock *f)
{
	bool head = fake_head(f) != 0;

	if (head && !f->was_head)
		f->edge = true;
	f->was_head = head;
}

static inline void fake_fill(int fd, struct fake_sock *f)
{
	while (!f->eof && f->in_n < FAKE_IN) {
		ssize_t n = fake_tcp_recv(fd, f->in + f->in_n, FAKE_IN - f->in_n, MSG_DONTWAIT);

		if (n < 0 && errno != EAGAIN)
			f->err = errno;
		if (n == 0)
			f->eof = true;
		if (n <= 0)
			break;
		f->in_n += (size_t)n;
	}
	fake_report(f);
}

/* Return: 1 a record is open, 0 there is none, -errno */
static inline int fake_open(struct fake_sock *f)
{
	ssize_t n = fake_head(f);

	if (f->opened)
		return 1;
	if (n <= 0)
		return (int)n;
	f->keys.cipher = f->cipher_of[0];
	if (unseal(&f->keys, f->in, (size_t)n, &f->type, &f->left, NULL) < 0) {
		fake.errors++;
		return -EBADMSG;
	}
	if (fake.wrong && f->left)
		f->in[HDR] ^= 1;
	f->seq[0]++;
	f->opened = true;
	f->at = 0;
	memcpy(f->content, f->in + HDR, f->left);
	/* what is behind it becomes the head now, not when this is read */
	f->in_n -= (size_t)n;
	memmove(f->in, f->in + n, f->in_n);
	f->was_head = false;
	fake_report(f);
	return 1;
}

/* content of records of one type; *ret_type stays 0 when there was no record */
static inline ssize_t fake_read(int fd, struct fake_sock *f, uint8_t *p, size_t n, uint8_t *ret_type)
{
	size_t got = 0;

	*ret_type = 0;
	fake_fill(fd, f);
	while (got < n) {
		int r = fake_open(f);
		size_t k;

		if (r < 0 && !got) {
			f->err = -r; /* and stays, for both directions */
			return r;
		}
		if (r <= 0 || (*ret_type && *ret_type != f->type))
			break;
		if (f->type == TYPE_DATA && !f->left) { /* an empty record is not told */
			f->opened = false;
			continue;
		}
		*ret_type = f->type;
		k = f->left < n - got ? f->left : n - got;
		memcpy(p + got, f->content + f->at, k);
		f->at += k;
		f->left -= k;
		got += k;
		f->opened = f->left != 0;
		if (*ret_type != TYPE_DATA)
			break;
	}
	if (*ret_type)
		return (ssize_t)got;
	if (f->err) {
		int e = f->err;

		f->err = 0; /* that of TCP is told once */
		return -e;
	}
	if (f->eof && !(fake.linux61 && f->in_n))
		return 0;
	return -EAGAIN;
}

/* what TCP had no room for; Return: all of it is gone */
static inline bool fake_push(int fd, struct fake_sock *f)
{
	while (f->out_n) {
		ssize_t n = fake_tcp_send(fd, f->out + f->out_off, f->out_n, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (n < 0)
			return false;
		f->out_off += (size_t)n;
		f->out_n -= (size_t)n;
	}
	return true;
}

static inline void fake_push_all(void)
{
	for (int fd = 0; fd < FAKES; fd++)
		if (fake_socks[fd])
			(void)fake_push(fd, fake_socks[fd]);
}

static inline ssize_t fake_write(int fd, struct fake_sock *f, uint8_t type, const uint8_t *p, size_t n)
{
	static uint8_t plain[RECORD_PLAIN + 1];
	size_t done = 0;

	if (f->err && f->err != ECONNRESET)
		return -f->err;
	while (done < n && fake_push(fd, f)) {
		size_t k = n - done < RECORD_PLAIN ? n - done : RECORD_PLAIN;

		f->keys.cipher = f->cipher_of[1];
		memcpy(plain, p + done, k);
		f->out_n = (size_t)seal(&f->keys, type, plain, k, f->out);
		f->out_off = 0;
		f->seq[1]++;
		done += k;
		if (!fake_push(fd, f) && errno != EAGAIN)
			return done > k ? (ssize_t)(done - k) : -errno;
	}
	return done ? (ssize_t)done : -EAGAIN;
}

static inline int fake_keys(struct fake_sock *f, bool tx, const void *p, socklen_t n)
{
	const struct tls12_crypto_info_aes_gcm_128 *a = p;
	const struct tls12_crypto_info_aes_gcm_256 *b = p;
	const struct tls12_crypto_info_chacha20_poly1305 *c = p;
	struct dir *d = tx ? &f->keys.tx : &f->keys.rx;
	enum seal_cipher which = a->info.cipher_type == TLS_CIPHER_AES_GCM_128 ? SEAL_AES128 :
				 a->info.cipher_type == TLS_CIPHER_AES_GCM_256 ? SEAL_AES256 :
										 SEAL_CHACHA20;
	static const size_t len[] = {sizeof(*a), sizeof(*b), sizeof(*c)};
	const uint8_t *key = which == SEAL_AES128 ? a->key : which == SEAL_AES256 ? b->key : c->key;
	const uint8_t *seq = which == SEAL_AES128 ? a->rec_seq : which == SEAL_AES256 ? b->rec_seq : c->rec_seq;
	uint8_t iv[12];

	fake.key_calls++;
	if (fake.keys[which][tx])
		return fake.keys[which][tx];
	if (!f->ulp || f->on[tx])
		return f->ulp ? EBUSY : ENOPROTOOPT;
	if (a->info.version != TLS_1_3_VERSION || n != len[which] ||
	    (which == SEAL_CHACHA20 && a->info.cipher_type != TLS_CIPHER_CHACHA20_POLY1305))
		return EINVAL;
	if (which == SEAL_CHACHA20) {
		memcpy(iv, c->iv, 12);
	} else {
		memcpy(iv, which == SEAL_AES128 ? a->salt : b->salt, 4);
		memcpy(iv + 4, which == SEAL_AES128 ? a->iv : b->iv, 8);
	}
	f->keys.cipher = f->cipher_of[tx] = (uint8_t)which;
	if (seal_key(&f->keys, d, key, iv) < 0)
		return EINVAL;
	d->seq = 0;
	for (int i = 0; i < 8; i++)
		d->seq = d->seq << 8 | seq[i];
	f->seq[tx] = d->seq;
	f->on[tx] = true;
	fake.given[tx]++;
	return 0;
}

int __wrap_setsockopt(int fd, int level, int name, const void *p, socklen_t n)
{
	struct fake_sock *f = fake_of(fd);

	if (level == IPPROTO_TCP && name == TCP_ULP) {
		fake.ulp_calls++;
		if (fake.ulp)
			return fake_says(fake.ulp);
		if (fd >= FAKES || strcmp(p, "tls") != 0)
			return fake_says(ENOENT);
		if (f)
			return fake_says(EEXIST);
		fake_socks[fd] = calloc(1, sizeof(*f));
		if (!fake_socks[fd])
			abort();
		fake_socks[fd]->ulp = true;
		return 0;
	}
	if (level == SOL_TLS && f && (name == TLS_TX || name == TLS_RX))
		return fake_says(fake_keys(f, name == TLS_TX, p, n));
	if (level == SOL_TLS && f)
		return 0;
	return __real_setsockopt(fd, level, name, p, n);
}

int __wrap_getsockopt(int fd, int level, int name, void *p, socklen_t *n)
{
	struct fake_sock *f = fake_of(fd);

	if (f && level == SOL_TLS && (name == TLS_TX || name == TLS_RX) && f->on[name == TLS_TX]) {
		uint8_t *end = (uint8_t *)p + *n; /* the record's number is last in all of them */
		uint64_t seq = f->seq[name == TLS_TX];

		fake.looks++;
		for (int i = 0; i < 8; i++)
			*--end = (uint8_t)(seq >> 8 * i);
		return 0;
	}
	if (f && level == SOL_SOCKET && name == SO_ERROR && f->err) {
		fake.unblocks++;
		*(int *)p = f->err;
		f->err = 0;
		return 0;
	}
	return __real_getsockopt(fd, level, name, p, n);
}

ssize_t __wrap_recvmsg(int fd, struct msghdr *m, int flags)
{
	struct fake_sock *f = fake_of(fd);
	uint8_t type;
	ssize_t n;

	fake_push_all();
	if (!f || !f->on[0])
		return __real_recvmsg(fd, m, flags);
	n = fake_read(fd, f, m->msg_iov->iov_base, m->msg_iov->iov_len, &type);
	if (n < 0)
		return fake_says((int)-n);
	if (type && m->msg_controllen >= CMSG_SPACE(1)) {
		struct cmsghdr *h = m->msg_control;

		h->cmsg_level = SOL_TLS;
		h->cmsg_type = TLS_GET_RECORD_TYPE;
		h->cmsg_len = CMSG_LEN(1);
		*CMSG_DATA(h) = type;
	} else {
		m->msg_controllen = 0;
	}
	return n;
}

ssize_t __wrap_recv(int fd, void *p, size_t n, int flags)
{
	struct fake_sock *f = fake_of(fd);
	uint8_t type;
	ssize_t r;

	fake_push_all();
	if (!f || !f->on[0])
		return fake_tcp_recv(fd, p, n, flags);
	r = fake_read(fd, f, p, n, &type);
	return r < 0 ? fake_says((int)-r) : type && type != TYPE_DATA ? fake_says(EIO) : r;
}

ssize_t __wrap_send(int fd, const void *p, size_t n, int flags)
{
	struct fake_sock *f = fake_of(fd);
	ssize_t r;

	if (!f || !f->on[1])
		return fake_tcp_send(fd, p, n, flags);
	r = fake_write(fd, f, TYPE_DATA, p, n);
	return r < 0 ? fake_says((int)-r) : r;
}

ssize_t __wrap_sendmsg(int fd, const struct msghdr *m, int flags)
{
	struct fake_sock *f = fake_of(fd);
	const struct cmsghdr *h = m->msg_control;
	ssize_t r;

	if (!f || !f->on[1])
		return __real_sendmsg(fd, m, flags);
	if (!h || h->cmsg_level != SOL_TLS || h->cmsg_type != TLS_SET_RECORD_TYPE)
		return fake_says(EINVAL);
	r = fake_write(fd, f, *CMSG_DATA(h), m->msg_iov->iov_base, m->msg_iov->iov_len);
	return r < 0 ? fake_says((int)-r) : r;
}

/* with a single socket in the set: each record is reported when it gets to the head */
int __wrap_epoll_wait(int ep, struct epoll_event *e, int n, int ms)
{
	bool edge = false;
	int r;

	fake_push_all();
	for (int fd = 0; fd < FAKES; fd++)
		if (fake_socks[fd] && fake_socks[fd]->edge) {
			fake_socks[fd]->edge = false;
			edge = true;
		}
	r = __real_epoll_wait(ep, e, n, edge ? 0 : ms);
	if (!edge)
		return r;
	e->events = (r > 0 ? e->events : 0) | EPOLLIN | EPOLLOUT;
	return 1;
}

int __wrap_poll(struct pollfd *p, nfds_t n, int ms)
{
	struct fake_sock *f;

	fake_push_all();
	for (nfds_t i = 0; i < n; i++) {
		f = fake_of(p[i].fd);
		if (f && (p[i].events & POLLIN) && (f->in_n || f->opened || f->edge || f->eof)) { /* what it took in already */
			p[i].revents = POLLIN | (f->eof ? POLLRDHUP : 0);
			return 1;
		}
		if (f && f->eof && (p[i].events & POLLRDHUP)) {
			p[i].revents = POLLRDHUP;
			return 1;
		}
	}
	return __real_poll(p, n, ms);
}

int __wrap_close(int fd)
{
	struct fake_sock *f = fake_of(fd);

	if (f) {
		(void)fake_push(fd, f); /* and drops the rest */
		seal_forget(&f->keys.tx);
		seal_forget(&f->keys.rx);
		free(f);
		fake_socks[fd] = NULL;
	}
	return fake_tcp_close(fd);
}
