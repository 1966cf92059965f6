/*
 * TLS by the kernel (Documentation/networking/tls.rst), software mode. What it is like:
 *
 * - Keys are given once per direction and socket. Another TLS_RX, as a KeyUpdate would need, is EBUSY before Linux 6.14; so a peer
 *   that updates its keys loses the tunnel, and record.c says so (tests/kernel/ktls_rekey.c).
 * - send() makes records of 16384 bytes and of the rest; what does not fit into the socket is not sealed (ktls_records.c), except
 *   that the last one may wait inside, and close() drops it (ktls_close.c). Other types than data go by control message.
 * - recvmsg() joins data records as far as there are any, and gives others one by one, each with its type in a control message
 *   (ktls_recv.c). Without room for that message they are EIO. FIN is 0 bytes without type; FIN within a record is that, too, or
 *   (some 6.1) EAGAIN (ktls_truncated.c).
 * - A record that does not authenticate is EBADMSG, and leaves the same error on the socket for both directions (ktls_badmsg.c).
 * - The number of records is not told by calls, but getsockopt() knows it (ktls_ciphers.c).
 * - A socket that is in a sockmap is refused (EINVAL), and the other way round (sockmap_ktls.c).
 *
 * The probe's verdict is process-wide and atomic. A cipher that the kernel does not have is not asked for again: each attempt makes
 * a privileged process wait for modprobe.
 */
#include "base/clean.h"
#include "tls/ktls.h"
#include <linux/tls.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>

#ifndef SOL_TLS
#define SOL_TLS 282
#endif

#define PROBE_MS 1000

union crypto_info {
	struct tls_crypto_info info;
	struct tls12_crypto_info_aes_gcm_128 aes128;
	struct tls12_crypto_info_aes_gcm_256 aes256;
	struct tls12_crypto_info_chacha20_poly1305 chacha20;
};

static const struct {
	const char *name;
	uint16_t type;	 /* TLS_CIPHER_* */
	socklen_t len;	 /* of its crypto_info, to the byte */
	size_t seq;	 /* where in it the record's number is, big endian */
} ciphers[SEAL_CIPHERS] = {
	[SEAL_AES128] = { "AES-128-GCM", TLS_CIPHER_AES_GCM_128, sizeof(struct tls12_crypto_info_aes_gcm_128),
			  offsetof(struct tls12_crypto_info_aes_gcm_128, rec_seq) },
	[SEAL_AES256] = { "AES-256-GCM", TLS_CIPHER_AES_GCM_256, sizeof(struct tls12_crypto_info_aes_gcm_256),
			  offsetof(struct tls12_crypto_info_aes_gcm_256, rec_seq) },
	[SEAL_CHACHA20] = { "CHACHA20-POLY1305", TLS_CIPHER_CHACHA20_POLY1305, sizeof(struct tls12_crypto_info_chacha20_poly1305),
			    offsetof(struct tls12_crypto_info_chacha20_poly1305, rec_seq) },
};

static _Atomic int unusable;		     /* -errno: there is none; not tried again */
static _Atomic int refused[SEAL_CIPHERS][2]; /* -errno by [cipher][tx]: not tried again */

int ktls_attach(int fd)
{
	int r = atomic_load_explicit(&unusable, memory_order_relaxed);

	if (r || setsockopt(fd, IPPROTO_TCP, TCP_ULP, "tls", sizeof("tls")) == 0)
		return r;
	r = -errno;
	if (r == -ENOENT)
		atomic_store_explicit(&unusable, r, memory_order_relaxed);
	return r;
}

int ktls_start(int fd, bool tx, enum seal_cipher c, const uint8_t *key, const uint8_t iv[12], uint64_t seq)
{
	union crypto_info u;
	int r = atomic_load_explicit(&refused[c][tx], memory_order_relaxed), one = 1;

	if (r)
		return r;
	memset(&u, 0, sizeof(u));
	u.info.version = TLS_1_3_VERSION;
	u.info.cipher_type = ciphers[c].type;
	switch (c) {
	case SEAL_AES128:
		memcpy(u.aes128.key, key, sizeof(u.aes128.key));
		memcpy(u.aes128.salt, iv, sizeof(u.aes128.salt));
		memcpy(u.aes128.iv, iv + sizeof(u.aes128.salt), sizeof(u.aes128.iv));
		break;
	case SEAL_AES256:
		memcpy(u.aes256.key, key, sizeof(u.aes256.key));
		memcpy(u.aes256.salt, iv, sizeof(u.aes256.salt));
		memcpy(u.aes256.iv, iv + sizeof(u.aes256.salt), sizeof(u.aes256.iv));
		break;
	case SEAL_CHACHA20:
		memcpy(u.chacha20.key, key, sizeof(u.chacha20.key));
		memcpy(u.chacha20.iv, iv, sizeof(u.chacha20.iv));
		break;
	case SEAL_CIPHERS:
		return -EINVAL;
	}
	for (int i = 0; i < 8; i++)
		((uint8_t *)&u)[ciphers[c].seq + (size_t)i] = (uint8_t)(seq >> (56 - 8 * i));
	r = setsockopt(fd, SOL_TLS, tx ? TLS_TX : TLS_RX, &u, ciphers[c].len) ? -errno : 0;
	explicit_bzero(&u, sizeof(u));
	if (r == -ENOENT)
		atomic_store_explicit(&refused[c][tx], r, memory_order_relaxed);
	/* Linux 6.0: straight into our buffer, and once more by way of its own if the record is padded, which ours are not */
	if (r == 0 && !tx)
		(void)setsockopt(fd, SOL_TLS, TLS_RX_EXPECT_NO_PAD, &one, sizeof(one));
	return r;
}

ssize_t ktls_recv(int fd, void *buf, size_t n, int flags, uint8_t *ret_type)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(1)];
	} c;
	struct iovec iov = { buf, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	ssize_t r = recvmsg(fd, &m, flags);

	if (r < 0)
		return -errno;
	*ret_type = 0;
	for (struct cmsghdr *h = CMSG_FIRSTHDR(&m); h; h = CMSG_NXTHDR(&m, h))
		if (h->cmsg_level == SOL_TLS && h->cmsg_type == TLS_GET_RECORD_TYPE)
			*ret_type = *CMSG_DATA(h);
	return r;
}

ssize_t ktls_send_type(int fd, uint8_t type, const void *p, size_t n)
{
	union {
		struct cmsghdr align;
		uint8_t bytes[CMSG_SPACE(1)];
	} c = { .bytes = { 0 } };
	struct iovec iov = { (void *)p, n };
	struct msghdr m = { .msg_iov = &iov, .msg_iovlen = 1, .msg_control = &c, .msg_controllen = sizeof(c) };
	struct cmsghdr *h = CMSG_FIRSTHDR(&m);
	ssize_t r;

	h->cmsg_level = SOL_TLS;
	h->cmsg_type = TLS_SET_RECORD_TYPE;
	h->cmsg_len = CMSG_LEN(1);
	*CMSG_DATA(h) = type;
	m.msg_controllen = h->cmsg_len;
	r = sendmsg(fd, &m, MSG_DONTWAIT | MSG_NOSIGNAL);
	return r < 0 ? -errno : r;
}

void ktls_unblock(int fd)
{
	socklen_t len = sizeof(int);
	int e;

	(void)getsockopt(fd, SOL_SOCKET, SO_ERROR, &e, &len);
}

void ktls_look(struct rec *r, bool tx)
{
	struct rec_count *c = tx ? &r->tx_count : &r->rx_count;
	socklen_t len = ciphers[r->cipher].len;
	union crypto_info u;
	uint64_t seq = 0;

	memset(&u, 0, sizeof(u));
	c->unseen = 0;
	stats_inc(&r->loop->stats, ST_SYS_OTHER);
	if (getsockopt(r->fd, SOL_TLS, tx ? TLS_TX : TLS_RX, &u, &len) == 0) {
		for (size_t i = 0; i < 8; i++)
			seq = seq << 8 | ((uint8_t *)&u)[ciphers[r->cipher].seq + i];
		if (seq > c->seq) {
			stats_add(&r->loop->stats, tx ? ST_RECORDS_TX : ST_RECORDS_RX, seq - c->seq);
			c->seq = seq;
		}
	}
	explicit_bzero(&u, sizeof(u)); /* the key is in it */
}

void ktls_moved(struct rec *r, bool tx, size_t n)
{
	struct rec_count *c = tx ? &r->tx_count : &r->rx_count;

	c->unseen += n + 1; /* no record is shorter, and one may be empty */
	if (c->seq < rec_worn_after && c->seq + c->unseen >= rec_worn_after)
		ktls_look(r, tx);
}

/* ---- the probe ---- */

static int pair_open(int ret[2], struct err *reterr)
{
	struct sockaddr_in a = { .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct timeval patience = { .tv_sec = PROBE_MS / 1000 };
	socklen_t len = sizeof(a);
	AUTO_FD l = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO_FD c = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	AUTO_FD s = -1;

	if (l < 0 || c < 0 || bind(l, (struct sockaddr *)&a, len) || listen(l, 1) || getsockname(l, (struct sockaddr *)&a, &len) ||
	    setsockopt(c, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof(patience)) ||
	    setsockopt(l, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience)) || connect(c, (struct sockaddr *)&a, len))
		return err_set(reterr, -errno, "cannot be tested: no connection on 127.0.0.1: %s", strerror(errno));
	s = accept4(l, NULL, NULL, SOCK_CLOEXEC);
	if (s < 0)
		return err_set(reterr, -errno, "cannot be tested: no connection on 127.0.0.1: %s", strerror(errno));
	ret[0] = fd_take(&c);
	ret[1] = fd_take(&s);
	return 0;
}

static int probe_hears(int fd, uint8_t type, const void *p, size_t n)
{
	struct pollfd pf = { .fd = fd, .events = POLLIN };
	uint8_t got[64], t = 0;
	ssize_t r = poll(&pf, 1, PROBE_MS) == 1 ? ktls_recv(fd, got, sizeof(got), MSG_DONTWAIT, &t) : -ETIMEDOUT;

	if (r < 0)
		return (int)r;
	return (size_t)r == n && t == type && !memcmp(got, p, n) ? 0 : -EBADMSG;
}

/* one sends what the other can read, by type, and not what it cannot */
static int probe_cipher(enum seal_cipher c, struct err *reterr)
{
	static const uint8_t key[32] = "a key that nobody has to know..", iv[12] = "initial one", text[] = "probe", alert[2] = { 1, 0 };
	int fd[2] = { -1, -1 }, r = pair_open(fd, reterr);

	if (r < 0)
		return r;
	for (int i = 0; i < 2 && r == 0; i++)
		r = ktls_attach(fd[i]);
	if (r < 0) {
		if (r == -ENOENT)
			err_set(reterr, r, "this kernel has no TLS: load its module (modprobe tls) and start again");
		else
			err_set(reterr, r, "TCP_ULP tls: %s", strerror(-r));
		goto out;
	}
	for (int tx = 0; tx < 2; tx++) {
		int e = ktls_start(fd[tx], tx, c, key, iv, 7);

		atomic_store_explicit(&refused[c][tx], e, memory_order_relaxed);
		r = r ? r : e;
	}
	if (r < 0) {
		err_set(reterr, r, "the kernel refuses %s: %s", ciphers[c].name, strerror(-r));
		goto out;
	}
	r = send(fd[1], text, sizeof(text), MSG_DONTWAIT | MSG_NOSIGNAL) == (ssize_t)sizeof(text) ? 0 : -EIO;
	if (r == 0)
		r = probe_hears(fd[0], TYPE_DATA, text, sizeof(text));
	if (r == 0)
		r = ktls_send_type(fd[1], TYPE_ALERT, alert, sizeof(alert)) == sizeof(alert) ? 0 : -EIO;
	if (r == 0)
		r = probe_hears(fd[0], TYPE_ALERT, alert, sizeof(alert));
	if (r < 0) {
		err_set(reterr, r, "the kernel's %s fails its test: %s", ciphers[c].name, strerror(-r));
		for (int tx = 0; tx < 2; tx++)
			atomic_store_explicit(&refused[c][tx], r, memory_order_relaxed);
	}
out:
	close(fd[0]);
	close(fd[1]);
	return r;
}

int ktls_probe(struct err *reterr)
{
	struct err first = { "" }, other;
	int r = 0, works = 0;

	atomic_store_explicit(&unusable, 0, memory_order_relaxed);
	for (unsigned int c = 0; c < SEAL_CIPHERS; c++) {
		int e;

		for (int tx = 0; tx < 2; tx++)
			atomic_store_explicit(&refused[c][tx], 0, memory_order_relaxed);
		e = probe_cipher((enum seal_cipher)c, r ? &other : &first);
		works += e == 0;
		r = r ? r : e;
	}
	if (works)
		return 0;
	atomic_store_explicit(&unusable, r, memory_order_relaxed);
	return err_set(reterr, r, "%s", first.msg);
}

const char *ktls_ciphers(char *out, size_t n)
{
	size_t len = 0;

	out[0] = '\0';
	for (unsigned int c = 0; c < SEAL_CIPHERS && len < n; c++)
		if (!atomic_load_explicit(&refused[c][0], memory_order_relaxed) && !atomic_load_explicit(&refused[c][1], memory_order_relaxed))
			len += (size_t)snprintf(out + len, n - len, "%s%s", len ? ", " : "", ciphers[c].name);
	return out;
}
