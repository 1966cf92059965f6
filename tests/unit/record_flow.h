/* Bytes that follow from their position, in writes of random size, both ways at once over the two of record_pair.h. */
#pragma once
#include "unit/rand.h"
#include "unit/record_pair.h"

struct flow {
	uint64_t sent, got, left; /* left: of the message being written */
	int side;
	size_t largest;
};

static inline int check_bytes(void *arg, const uint8_t *p, size_t n)
{
	struct flow *f = arg;

	for (size_t i = 0; i < n; i++)
		if (p[i] != byte_at(f->side, f->got + i))
			fail_msg("byte %llu of side %d is wrong", (unsigned long long)(f->got + i), f->side);
	f->got += n;
	f->largest = n > f->largest ? n : f->largest;
	return 0;
}

static inline void write_more(struct rec *r, struct flow *f, struct rnd *rnd, uint64_t total)
{
	size_t n;

	r->writable = true; /* as an edge would say; EAGAIN is what it costs when it is not so */
	if (rec_blocked(r)) {
		int e = rec_flush(r);

		assert_true(e == 0 || e == -EAGAIN);
		return;
	}
	if (f->sent == total)
		return;
	if (!f->left)
		f->left = min_u64(total - f->sent, 1 + rnd_below(rnd, 1u << rnd_below(rnd, 21)));
	n = (size_t)min_u64(f->left, 1 + rnd_below(rnd, SCRATCH_PLAIN));
	for (size_t i = 0; i < n; i++)
		l.scratch.plain[i] = byte_at(f->side, f->sent + i);
	assert_int_equal(rec_write(r, n), 0);
	f->sent += n;
	f->left -= n;
	for (size_t i = 0; i < n; i++) /* the trick with the content type leaves no trace */
		assert_true(l.scratch.plain[i] == byte_at(f->side, f->sent - n + i));
}

static inline void both_ways(struct two *t, struct rnd *rnd, uint64_t total)
{
	struct flow f[2] = {{.side = 0}, {.side = 1}};
	struct timespec t0;
	struct err e = {""};

	for (int i = 0; i < 2; i++) {
		int small = 4096 << rnd_below(rnd, 8);

		(void)setsockopt(t->r[i].fd, SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
	}
	clock_gettime(CLOCK_MONOTONIC, &t0);
	while (f[0].got < total || f[1].got < total) {
		int side = (int)rnd_below(rnd, 2);

		if (rnd_below(rnd, 2)) {
			write_more(&t->r[side], &f[side], rnd, total);
		} else {
			ssize_t n = rec_read(&t->r[!side], check_bytes, &f[side], &e);

			if (n < 0 && n != -EAGAIN)
				fail_msg("%zd: %s", n, e.msg);
			assert_int_not_equal(n, 0);
		}
		assert_int_equal(buffered(), t->r[0].part.len + t->r[0].pend.len + t->r[1].part.len + t->r[1].pend.len);
		assert_true(ms_left(&t0) > 0);
	}
	assert_true(f[0].got == total && f[1].got == total);
}
