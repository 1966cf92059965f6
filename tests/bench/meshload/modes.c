/* What a client does with its connections. */
#include "meshload.h"

int run_bulk(void)
{
	double cpu0 = cpu_self();
	if (o.streams + o.first > MAX_SLOTS)
		die("too many streams");
	memset((void *)(sh->rx + o.first), 0, (size_t)o.streams * sizeof sh->rx[0]);
	if (!o.first)
		sh->errors = 0;
	conns = calloc((size_t)o.streams, sizeof *conns);
	for (int i = 0; i < o.streams; i++) {
		conns[i].slot = (uint32_t)(o.first + i);
		conns[i].mode = (unsigned char)o.dir;
		c_open(&conns[i]);
	}
	wait_established(o.streams);
	uint64_t t = now_ns(), start = t + (uint64_t)(o.warmup * 1e9);
	uint64_t end = start + (uint64_t)(o.time * 1e9), t_meas = 0;
	uint64_t *up0 = calloc((size_t)o.streams, 8), *dn0 = calloc((size_t)o.streams, 8);
	struct epoll_event evs[256];
	while (t < end) {
		int n = epoll_wait(ep, evs, 256, 50);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c->st != ST_RUN)
				continue;
			if (evs[i].events & EPOLLOUT) {
				for (int k = 0; k < ROUNDS_PER_EVENT; k++) {
					ssize_t w = send(c->fd, pat_at(c->slot, 0, c->tx), 128 * 1024, MSG_NOSIGNAL);
					if (w < 0) {
						if (errno != EAGAIN && errno != EINTR)
							c_fail(c);
						break;
					}
					c->tx += (uint64_t)w;
				}
			}
			if (c->st == ST_RUN && (evs[i].events & ~(uint32_t)EPOLLOUT))
				for (int k = 0; k < ROUNDS_PER_EVENT; k++) {
					ssize_t r = c_read(c);
					if (r < 0)
						c_fail(c);
					if (r < IO_MAX / 8)
						break;
				}
		}
		t = now_ns();
		if (!t_meas && t >= start) {
			t_meas = t;
			for (int i = 0; i < o.streams; i++) {
				up0[i] = sh->rx[o.first + i];
				dn0[i] = conns[i].rx;
			}
		}
	}
	double sec = (double)(t - t_meas) / 1e9, up = 0, dn = 0, tot = 0, lo = 1e30, hi = 0;
	for (int i = 0; i < o.streams; i++) {
		double u = (double)(sh->rx[o.first + i] - up0[i]), d = (double)(conns[i].rx - dn0[i]);
		up += u;
		dn += d;
		tot += (double)sh->rx[o.first + i] + (double)conns[i].rx;
		if (u + d < lo)
			lo = u + d;
		if (u + d > hi)
			hi = u + d;
	}
	head("bulk");
	printf("\"dir\":\"%c\",\"seconds\":%.3f,\"up_MBps\":%.1f,\"down_MBps\":%.1f,"
	       "\"total_bytes\":%.0f,\"min_over_max_stream\":%.3f,",
	       o.dir, sec, up / sec / 1e6, dn / sec / 1e6, tot, hi > 0 ? lo / hi : 0);
	return tail_print(cpu0);
}

int run_pingpong(void)
{
	double cpu0 = cpu_self();
	if (!o.first)
		sh->errors = 0;
	conns = calloc((size_t)o.streams, sizeof *conns);
	for (int i = 0; i < o.streams; i++) {
		conns[i].slot = (uint32_t)(o.first + i);
		conns[i].mode = M_ECHO;
		c_open(&conns[i]);
	}
	wait_established(o.streams);
	uint64_t t = now_ns(), start = t + (uint64_t)(o.warmup * 1e9);
	uint64_t end = start + (uint64_t)(o.time * 1e9);
	double gap = o.rate > 0 ? 1e9 / o.rate : 0;
	uint64_t t_first = t, seq = 0, late = 0;
	struct epoll_event evs[256];
	if (!gap)
		for (int i = 0; i < o.streams; i++)
			if (conns[i].st == ST_RUN) {
				conns[i].t0 = now_ns();
				if (c_ping(&conns[i]) < 0)
					c_fail(&conns[i]);
			}
	while (t < end) {
		struct timespec to = {.tv_nsec = 50000000};
		if (gap) {
			/* paced: stream seq % N sends at t_first + seq * gap; latency is
			 * counted from that intended moment, so a stall is not hidden */
			for (;;) {
				uint64_t due = t_first + (uint64_t)((double)seq * gap);
				if (due > t) {
					to.tv_nsec = (long)(due - t);
					break;
				}
				struct conn *c = &conns[seq % (uint64_t)o.streams];
				if (c->st == ST_RUN && !c->busy) {
					c->t0 = due;
					if (c_ping(c) < 0)
						c_fail(c);
				} else {
					late++;
				}
				seq++;
			}
			if (to.tv_nsec > 50000000)
				to.tv_nsec = 50000000;
		}
		int n = epoll_pwait2(ep, evs, 256, &to, NULL);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			if (c->st != ST_RUN)
				continue;
			if (c_read(c) < 0) {
				c_fail(c);
				continue;
			}
			if (c->busy && c->rx == c->tx) {
				t = now_ns();
				c->busy = 0;
				if (t >= start) {
					hist_add(t - c->t0);
					n_done++;
				}
				if (!gap && t < end) {
					c->t0 = t;
					if (c_ping(c) < 0)
						c_fail(c);
				}
			}
		}
		t = now_ns();
	}
	head("pingpong");
	printf("\"size\":%d,\"rate_set\":%.0f,\"per_s\":%.0f,\"skipped\":%llu,", o.size, o.rate,
	       (double)n_done / ((double)(t - start) / 1e9), (unsigned long long)late);
	hist_print();
	printf(",");
	return tail_print(cpu0);
}

int run_short(void)
{
	double cpu0 = cpu_self();
	if (o.size < HELLO_LEN || o.size > MAX_MSG)
		die("short needs --size >= %d", HELLO_LEN);
	if (!o.first)
		sh->errors = 0;
	uint32_t next = 0;
	conns = calloc((size_t)o.streams, sizeof *conns);
	uint64_t t = now_ns(), start = t + (uint64_t)(o.warmup * 1e9);
	uint64_t end = start + (uint64_t)(o.time * 1e9), drain = end + 3000000000ull;
	int live = 0;
	for (int i = 0; i < o.streams; i++) {
		conns[i].mode = M_REQ;
		conns[i].slot = next++ % MAX_SLOTS;
		conns[i].t0 = now_ns();
		if (c_open(&conns[i]) == 0)
			live++;
	}
	struct epoll_event evs[256];
	uint64_t in_window = 0;
	while (live && t < drain) {
		int n = epoll_wait(ep, evs, 256, 50);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			int fin = 0;
			if (c->st == ST_DEAD)
				continue;
			if (c->st != ST_RUN) {
				if (c_setup(c, evs[i].events) < 0) {
					c_fail(c);
					fin = 1;
				}
			} else if (c_read(c) < 0) {
				c_fail(c);
				fin = 1;
			} else if (c->rx >= (uint64_t)o.size) {
				t = now_ns();
				if (o.rst) {
					struct linger l = {1, 0};
					setsockopt(c->fd, SOL_SOCKET, SO_LINGER, &l, sizeof l);
				}
				close(c->fd);
				n_done++;
				if (t >= start && t < end) {
					in_window++;
					hist_add(t - c->t0);
				}
				fin = 1;
			}
			if (fin) {
				live--;
				if (now_ns() < end) {
					c->slot = next++ % MAX_SLOTS;
					c->t0 = now_ns();
					if (c_open(c) == 0)
						live++;
				}
			}
		}
		t = now_ns();
	}
	head("short");
	printf("\"size\":%d,\"per_s\":%.0f,\"completed\":%llu,\"stuck\":%d,", o.size, (double)in_window / o.time,
	       (unsigned long long)n_done, live);
	hist_print();
	printf(",");
	return tail_print(cpu0) || live;
}

/* Echo one message on each running connection, `window` at a time.  Returns answers seen. */
static int idle_round(int *opened)
{
	struct epoll_event evs[256];
	int next = 0, inflight = 0, ok = 0;
	uint64_t last = now_ns();
	while ((next < o.count || inflight) && now_ns() - last < 10000000000ull) {
		while (next < o.count && inflight < o.window) {
			struct conn *c = &conns[next++];
			if (opened) {
				c->slot = (uint32_t)(next - 1) % MAX_SLOTS;
				c->mode = M_ECHO;
				if (c_open(c) == 0)
					inflight++;
			} else if (c->st == ST_RUN) {
				if (c_ping(c) < 0)
					c_fail(c);
				else
					inflight++;
			}
		}
		int n = epoll_wait(ep, evs, 256, 100);
		for (int i = 0; i < n; i++) {
			struct conn *c = evs[i].data.ptr;
			last = now_ns();
			if (c->st == ST_DEAD)
				continue;
			if (c->st != ST_RUN) {
				int rc = c_setup(c, evs[i].events);
				if (!rc && c->st == ST_RUN)
					rc = c_ping(c);
				if (rc < 0) {
					c_fail(c);
					inflight--;
				}
			} else if (c_read(c) < 0) {
				if (c->busy)
					inflight--;
				c_fail(c);
			} else if (c->busy && c->rx == c->tx) {
				c->busy = 0;
				inflight--;
				ok++;
			}
		}
	}
	if (opened)
		*opened = ok;
	return ok;
}

int run_idle(void)
{
	double cpu0 = cpu_self();
	int ok = 0;
	char b;
	if (!o.first)
		sh->errors = 0;
	o.streams = o.count;
	conns = calloc((size_t)o.count, sizeof *conns);
	uint64_t t = now_ns();
	idle_round(&ok);
	head("idle");
	printf("\"phase\":\"open\",\"verified\":%d,\"seconds\":%.3f,", ok, (double)(now_ns() - t) / 1e9);
	int rc = tail_print(cpu0);
	while (read(0, &b, 1) > 0)
		;
	t = now_ns();
	int alive = idle_round(NULL);
	head("idle");
	printf("\"phase\":\"reuse\",\"verified\":%d,\"seconds\":%.3f,", alive, (double)(now_ns() - t) / 1e9);
	return tail_print(cpu0) || rc || ok != o.count;
}
