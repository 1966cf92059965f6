/*
 * A rec with known keys against any bytes, and against records made with the right keys, whole, damaged, forged, in pieces of any
 * size. What must come out is computed beside it. The socket is memory: recv() and send() are wrapped.
 *
 * Byte 0: bit 0 AES-256, bit 1 plain engine, bit 2 server, bit 3 CHACHA20, bit 4 receiving and bit 5 sending by the kernel (the one of
 * unit/fake_ktls.h), bit 6 as Linux 6.1 does; byte 1 seeds sizes and the socket's moods. Then commands, three bytes each:
 *	what	below: the kind of record, or garbage
 *	size	two bytes, little endian, of which the payload is made: the input's bytes as far as they go, then zeros
 */
/* fuzz: -max_len=2048 */
/* link: -Wl,--wrap=setsockopt,--wrap=getsockopt,--wrap=recvmsg,--wrap=sendmsg,--wrap=send,--wrap=recv,--wrap=epoll_wait,--wrap=poll,--wrap=close */
#include "daemon/tls/record.c"
#include "base/clean.h"
#define FAKE_TCP
#define FAKE_IN 40000u
static ssize_t fake_tcp_recv(int fd, void *p, size_t n, int flags);
static ssize_t fake_tcp_send(int fd, const void *p, size_t n, int flags);
static int fake_tcp_close(int fd);
#include "unit/fake_ktls.h"
#include <stdio.h>
#include <stdlib.h>

#define FD 250 /* no descriptor: what is wrapped must not reach the kernel */
#define WIRE (1u << 20)

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "broken promise: %s\n", what);
		abort();
	}
}

static uint64_t rnd_state;

static uint32_t rnd(uint32_t n)
{
	rnd_state = rnd_state * 6364136223846793005u + 1442695040888963407u;
	return (uint32_t)(rnd_state >> 33) % n;
}

/* ---- the socket ---- */

static uint8_t wire[WIRE], back[WIRE]; /* to the rec; from it */
static size_t wire_n, wire_off, back_n;
static int fin; /* 0: more may come; 1: FIN behind the bytes; 2: RST */
static int closed;
static bool full; /* now and then the socket takes only a part */

static ssize_t fake_tcp_recv(int fd, void *p, size_t n, int flags)
{
	size_t k = min_u64(n, wire_n - wire_off);

	check(fd == FD && (flags & MSG_DONTWAIT), "recv() on the tunnel's descriptor, without waiting");
	if (!k) {
		if (fin == 1)
			return 0;
		errno = fin ? ECONNRESET : EAGAIN;
		return -1;
	}
	if (rnd(3))
		k = min_u64(k, 1 + rnd(1u << rnd(15)));
	memcpy(p, wire + wire_off, k);
	wire_off += k;
	return (ssize_t)k;
}

static ssize_t fake_tcp_send(int fd, const void *p, size_t n, int flags)
{
	size_t k = n;

	check(fd == FD && (flags & MSG_DONTWAIT) && (flags & MSG_NOSIGNAL), "send() on the tunnel's descriptor, without waiting");
	check(n > 0, "send() of something");
	if (full && rnd(2)) {
		if (rnd(2)) {
			errno = EAGAIN;
			return -1;
		}
		k = 1 + rnd((uint32_t)n);
	}
	k = min_u64(k, WIRE - back_n);
	if (!k) {
		errno = EAGAIN;
		return -1;
	}
	memcpy(back + back_n, p, k);
	back_n += k;
	return (ssize_t)k;
}

static int fake_tcp_close(int fd)
{
	if (fd != FD)
		return __real_close(fd);
	closed++;
	return 0;
}

/* ---- keys ---- */

static struct config cfg = {.workers = 1};
static struct loop l;
static struct rec r;
static struct rec_keys mirror; /* the peer's: its tx is our rx */

static void dir_set(const struct rec_keys *k, struct dir *d, uint8_t what)
{
	uint8_t key[32], iv[12];

	memset(key, what, sizeof(key));
	memset(d->secret, what + 1, k->hash_len);
	memset(iv, what + 2, sizeof(iv));
	check(seal_key(k, d, key, iv) == 0, "keys can be set");
}

static void keys_set(struct rec_keys *k, uint8_t how, uint8_t tx, uint8_t rx)
{
	memset(k, 0, sizeof(*k));
	k->cipher = how & 8 ? SEAL_CHACHA20 : how & 1 ? SEAL_AES256 : SEAL_AES128;
	k->hash_len = k->cipher == SEAL_AES256 ? 48 : 32;
	k->have_secrets = true;
	dir_set(k, &k->tx, tx);
	dir_set(k, &k->rx, rx);
}

/* ---- what must come out ---- */

static uint8_t model[WIRE];
static size_t model_n, model_at;  /* payload that must arrive; has arrived */
static bool model_end;		  /* then an orderly end */
static bool model_bad;		  /* then an error */
static bool model_expired;	  /* then a KeyUpdate that cannot be followed */
static uint8_t model_updates;	  /* KeyUpdates so far */

static int sink(void *arg, const uint8_t *p, size_t n)
{
	(void)arg;
	check(n <= model_n - model_at, "nothing arrives that was not sent");
	check(!memcmp(p, model + model_at, n), "what arrives is what was sent");
	model_at += n;
	return 0;
}

static bool over(void)
{
	return model_end || model_bad || model_expired;
}

static void expect(const void *p, size_t n)
{
	if (over())
		return;
	memcpy(model + model_n, p, n);
	model_n += n;
}

/* ---- commands ---- */

static uint8_t *put(uint8_t type, const void *p, size_t n, size_t pad, size_t *ret_n)
{
	static uint8_t inner[70000];
	uint8_t *at = wire + wire_n;
	ssize_t k;

	memcpy(inner, p, n);
	if (pad) {
		inner[n] = type;
		memset(inner + n + 1, 0, pad);
		k = seal(&mirror, 0, inner, n + pad, at);
	} else {
		k = seal(&mirror, type, inner, n, at);
	}
	check(k > 0, "a record can be made");
	wire_n += (size_t)k;
	*ret_n = (size_t)k;
	return at;
}


static void control_expect(uint8_t type, const uint8_t *p, size_t n)
{
	if (over())
		return;
	if (type == TYPE_ALERT && n == 2 && p[1] == 0)
		model_end = true;
	else if (type == TYPE_HANDSHAKE && n >= 4 && p[0] == HS_NEW_SESSION_TICKET)
		;
	else if (type == TYPE_HANDSHAKE && n == 5 && !memcmp(p, "\x18\0\0\1", 4) && p[4] <= 1 &&
		 (r.rx == REC_KTLS || (p[4] && r.tx == REC_KTLS)))
		model_expired = true;
	else if (type == TYPE_HANDSHAKE && n == 5 && !memcmp(p, "\x18\0\0\1", 4) && p[4] <= 1 && model_updates < UPDATES_MAX) {
		model_updates++;
		check(seal_update(&mirror, &mirror.tx) == 0, "keys can be updated");
	} else {
		model_bad = true;
	}
}

static void command(uint8_t what, const uint8_t *p, size_t n)
{
	uint8_t update[5] = {HS_KEY_UPDATE, 0, 0, 1, 0};
	uint8_t *at;
	size_t k;

	if (wire_n + n + 40000 > WIRE || model_n + n > WIRE)
		return;
	switch (what & 15) {
	default: /* payload, now and then padded */
		n = min_u64(n, RECORD_PLAIN);
		at = put(TYPE_DATA, p, n, what & 16 ? min_u64(rnd(300), RECORD_PLAIN - n) : 0, &k);
		expect(p, n);
		break;
	case 8: /* any type */
		n = min_u64(n, 300);
		if (!n)
			break;
		put(p[0], p + 1, n - 1, what & 16 ? 3 : 0, &k);
		if (over())
			break;
		/* zeros at the end are padding, of whatever type the byte before them is */
		if (p[0] == 0 || p[0] == TYPE_DATA) {
			size_t m = n - 1;
			uint8_t type = p[0];

			if (!type) {
				while (m && !p[m])
					m--;
				type = m ? p[m] : 0;
				m = m ? m - 1 : 0;
			}
			if (type == TYPE_DATA)
				expect(p + 1, m);
			else if (type == 0)
				model_bad = true;
			else
				control_expect(type, p + 1, m);
		} else {
			control_expect(p[0], p + 1, n - 1);
		}
		break;
	case 9: /* KeyUpdate */
		update[4] = what & 16 ? 1 : 0;
		put(TYPE_HANDSHAKE, update, 5, 0, &k);
		control_expect(TYPE_HANDSHAKE, update, 5);
		break;
	case 10: /* a damaged one */
		n = min_u64(n, 200);
		at = put(TYPE_DATA, p, n, 0, &k);
		at[HDR + rnd((uint32_t)(k - HDR))] ^= (uint8_t)(1u << rnd(8));
		if (!over())
			model_bad = true;
		break;
	case 11: /* close_notify */
		put(TYPE_ALERT, "\1\0", 2, 0, &k);
		if (!over())
			model_end = true;
		break;
	case 12: /* ChangeCipherSpec in the clear */
		memcpy(wire + wire_n, "\x14\3\3\0\1\1", 6);
		wire_n += 6;
		if (r.rx == REC_KTLS && !over()) /* which the kernel does not know */
			model_bad = true;
		break;
	case 13: /* one left out: the next does not fit */
		if (over())
			break;
		k = wire_n;
		put(TYPE_DATA, p, min_u64(n, 10), 0, &n);
		wire_n = k;
		put(TYPE_DATA, "x", 1, 0, &n);
		model_bad = true;
		break;
	}
	(void)at;
}

static void invariants(void)
{
	check(atomic_load(&l.stats.g[SG_BUFFERED]) == (int64_t)r.part.len + r.pend.len, "what is buffered is counted");
	check(r.part.len < HDR + RECORD_MAX, "less than a record waits to be whole");
	check(r.pend.len <= 4u * SCRATCH_OUT, "what waits to be sent is bounded");
}

/* ---- what it sends ---- */

static uint8_t said[WIRE];
static size_t said_n;

static void speak(void)
{
	size_t n = rnd(50) ? rnd(200) : rnd(SCRATCH_PLAIN);

	if (rec_blocked(&r) || said_n + n > WIRE / 2)
		return;
	for (size_t i = 0; i < n; i++)
		said[said_n + i] = l.scratch.plain[i] = (uint8_t)(said_n + i + 7 * (said_n >> 8));
	said_n += n;
	check(rec_write(&r, n) == 0, "what is to be sent can be sent, or waits");
}

/* open all of it with the mirror's keys */
static void back_check(void)
{
	size_t off = 0, got = 0, len;
	struct err e = {""};
	uint8_t type;

	if (r.tx == REC_PLAIN) {
		check(back_n == said_n && !memcmp(back, said, said_n), "what is sent is what was said");
		return;
	}
	while (back_n - off >= HDR) {
		size_t body = (size_t)back[off + 3] << 8 | back[off + 4];

		check(back_n - off >= HDR + body, "whole records only");
		check(unseal(&mirror, back + off, HDR + body, &type, &len, &e) == 0, "the peer can open what is sent");
		if (type == TYPE_HANDSHAKE) {
			check(len == 5 && back[off + HDR] == HS_KEY_UPDATE && back[off + HDR + 4] == 0, "a KeyUpdate in answer");
			check(seal_update(&mirror, &mirror.rx) == 0, "keys can be updated");
		} else if (type == TYPE_DATA) {
			check(got + len <= said_n && !memcmp(back + off + HDR, said + got, len), "what is sent is what was said");
			got += len;
		} else {
			check(type == TYPE_ALERT && len == 2 && off + HDR + body == back_n, "an alert, and nothing after it");
			check(back[off + HDR] == (r.alert ? 2 : 1) && back[off + HDR + 1] == r.alert, "close_notify, or what was wrong");
		}
		off += HDR + body;
	}
	check(off == back_n && got == said_n, "all that was said is sent, and no more");
}

/* ---- a run ---- */

static void to_kernel(uint8_t how)
{
	struct fake_sock *f = calloc(1, sizeof(*f));

	check(f != NULL, "memory");
	fake_socks[FD] = f;
	keys_set(&f->keys, how, 20, 10);
	f->ulp = true;
	r.cipher = f->cipher_of[0] = f->cipher_of[1] = f->keys.cipher;
	if (how & 16) {
		f->on[0] = true;
		r.rx = REC_KTLS;
		seal_forget(&r.keys->rx);
	}
	if (how & 32) {
		f->on[1] = true;
		r.tx = REC_KTLS;
		seal_forget(&r.keys->tx);
	}
	if ((how & 48) == 48)
		rec_keys_drop(&r);
}

static void begin(uint8_t how)
{
	struct rec none = {.loop = NULL};

	if (!l.scratch.in) {
		l.scratch.in = malloc(SCRATCH_IN);
		l.scratch.plain = malloc(SCRATCH_PLAIN + 64);
		l.scratch.out = malloc(SCRATCH_OUT);
		check(l.scratch.in && l.scratch.plain && l.scratch.out, "memory to begin with");
		l.cfg = &cfg;
	}
	memset(&l.stats, 0, sizeof(l.stats));
	wire_n = wire_off = back_n = model_n = model_at = said_n = 0;
	fin = closed = 0;
	model_end = model_bad = model_expired = false;
	model_updates = 0;
	memset(&fake, 0, sizeof(fake));
	fake.linux61 = how & 64;
	r = none;
	check(rec_open(&r, &l, FD, NULL, (how & 4) != 0, NULL) == 0, "a rec can be opened");
	keys_set(&mirror, how, 10, 20);
	if (how & 2)
		return;
	r.tx = r.rx = REC_USER;
	r.keys = calloc(1, sizeof(*r.keys));
	check(r.keys != NULL, "memory");
	keys_set(r.keys, how, 20, 10);
	if (how & 48)
		to_kernel(how);
}

static size_t commands(const uint8_t *p, size_t n, bool plain, bool *ret_garbage)
{
	while (n >= 3) {
		uint8_t what = p[0];
		size_t size = (size_t)(p[1] | p[2] << 8) & 0x7fff, have;
		static uint8_t payload[0x8000];

		p += 3;
		n -= 3;
		have = min_u64(size, n);
		memcpy(payload, p, have);
		memset(payload + have, 0, size - have);
		p += have;
		n -= have;
		if (!plain && what < 0xe0) {
			command(what, payload, size);
			continue;
		}
		if (wire_n + size > WIRE / 2)
			break;
		memcpy(wire + wire_n, payload, size); /* garbage, or just bytes */
		wire_n += size;
		if (plain)
			expect(payload, size);
		else
			*ret_garbage = true;
		if (!plain)
			break; /* what follows it is anybody's guess */
	}
	return n;
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
	struct err e = {""};
	bool garbage = false, plain;
	ssize_t k = 1;

	if (n < 2)
		return 0;
	plain = p[0] & 2;
	rnd_state = p[1] * 0x9e3779b97f4a7c15u;
	begin(p[0]);
	full = rnd(2);
	(void)commands(p + 2, n - 2, plain, &garbage);
	fin = (int)rnd(3);
	for (int i = 0; i < 100000; i++) {
		if (rnd(8) == 0 && !over()) {
			speak();
			invariants();
		}
		if (rnd(4) == 0) {
			r.writable = true;
			check(rec_flush(&r) != -EPIPE, "send() has not failed");
			invariants();
		}
		if (r.rx == REC_KTLS && fin && wire_off == wire_n) /* as an event would say */
			r.hup = true;
		k = rec_read(&r, sink, NULL, &e);
		if (k < 0 && k != -EAGAIN)
			break;
		invariants();
		if (k == 0 || (k == -EAGAIN && !r.readable && wire_off == wire_n && (r.rx != REC_KTLS || !fin || r.hup)))
			break;
	}
	if (!garbage) {
		check(model_at == model_n || wire_off < wire_n, "all that was sent has arrived");
		if (model_bad) {
			check(k == -EPROTO && e.msg[0], "what is wrong is refused, with a sentence");
		} else if (model_expired) {
			check(k == -EKEYEXPIRED && e.msg[0], "what cannot be followed is said to be so");
		} else if (model_end) {
			check(k == 0 && r.ended, "close_notify is an orderly end");
		} else if (plain) {
			check(k == (fin == 0 ? -EAGAIN : fin == 1 ? 0 : -ECONNRESET), "the socket's end is told");
		} else {
			check(k == (fin == 0 ? -EAGAIN : fin == 1 ? -ECONNABORTED : -ECONNRESET), "an end without close_notify is an error");
		}
	}
	full = false;
	r.writable = true;
	check(rec_flush(&r) == 0, "what waited is sent");
	rec_close(&r, rnd(2));
	check(closed == 1 && r.fd == -1, "closed once");
	rec_close(&r, true);
	check(closed == 1, "and not again");
	check(atomic_load(&l.stats.g[SG_BUFFERED]) == 0, "nothing stays counted");
	back_check();
	seal_forget(&mirror.tx);
	seal_forget(&mirror.rx);
	return 0;
}
