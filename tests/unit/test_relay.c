/*
 * The whole data path in one thread: applications' sockets, agent and backend, with every pair of legs. Each connection does what it
 * likes: pieces of any size, pauses, half-closes, resets. What has to be true is little: bytes come as they were sent, a clean end
 * means all of them, a reset is never a clean end, and nothing is left when all is over.
 *
 *	plain	 TCP -> backend				socket, socket
 *	tunnel	 TCP -> tunnel -> backend		socket, stream; stream, socket
 *	forward	 TCP -> tunnel -> tunnel -> backend	and stream, stream between
 *
 * All of it twice: by the relay alone, and with splice(2) for whatever comes twice in a row. Tunnels are without TLS, so that their
 * payload can be spliced, too.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/chain/relay.c"
#include "base/log.h"
#include "unit/h2_pair.h"
#include "unit/rand.h"
#include <netinet/tcp.h>
#include <poll.h>
#include <signal.h>
#include <time.h>

#define FLOWS 24

enum { PLAIN, TUNNEL, FORWARD, FORMS };
enum { L_PLAIN, L_TUNNEL, L_FORWARD, L_IN, L_ON, LISTENERS };

static struct cfg_listener li[LISTENERS];
static struct cfg_cluster cl[3]; /* backend, to L_IN, to L_ON */
static struct cfg_endpoint ep[3];
static struct config cfg;
static struct daemon *d;
static struct worker *w;
static int backend;
static bool by_splice;

/* ---- the agent ---- */

static uint16_t free_port(void)
{
	struct addr a = {.family = AF_INET, .ip = {127, 0, 0, 1}};
	struct err e = {""};
	int fd;

	assert_int_equal(sock_listen(&a, 1, &fd, &e), 0);
	assert_int_equal(sock_local(fd, &a), 0);
	close(fd);
	return a.port;
}

static struct addr at(uint16_t port)
{
	return (struct addr){.family = AF_INET, .port = port, .ip = {127, 0, 0, 1}};
}

static void configure(void)
{
	struct addr a = at(0);
	struct err e = {""};

	side_limits(&cfg);
	cfg.kernel.splice = by_splice ? SWITCH_AUTO : SWITCH_OFF;
	cfg.kernel.splice_above = 1;
	cfg.limits.max_connections = 1000;
	cfg.limits.max_tunnels_in = 100;
	cfg.limits.early_data = 65536;
	cfg.timeouts = (struct cfg_timeouts){
		.connect_ms = 5000, .handshake_ms = 5000, .open_ms = 5000, .ping_ms = 10000, .ping_timeout_ms = 20000};
	assert_int_equal(sock_listen(&a, 100, &backend, &e), 0);
	assert_int_equal(sock_local(backend, &a), 0);
	for (uint32_t i = 0; i < LISTENERS; i++)
		li[i] = (struct cfg_listener){.name = "l",
					      .id = i,
					      .type = i >= L_IN ? LISTENER_TUNNEL : LISTENER_TCP,
					      .address = at(free_port()),
					      .backlog = 100,
					      .max_streams = 1000};
	ep[0] = (struct cfg_endpoint){.address = a, .id = 0};
	ep[1] = (struct cfg_endpoint){.address = li[L_IN].address, .id = 1};
	ep[2] = (struct cfg_endpoint){.address = li[L_ON].address, .id = 2};
	for (uint32_t i = 0; i < 3; i++)
		cl[i] = (struct cfg_cluster){
			.name = "c",
			.id = i,
			.type = i ? CLUSTER_TUNNEL : CLUSTER_TCP,
			.endpoints = &ep[i],
			.n_endpoints = 1,
			.connect_timeout_ms = 5000,
			.pool = {.max_tunnels = 4, .max_streams = 1000, .queue = 100, .queue_timeout_ms = 5000},
		};
	li[L_PLAIN].to.cluster = li[L_IN].to.cluster = &cl[0];
	li[L_TUNNEL].to.cluster = &cl[1];
	li[L_FORWARD].to.cluster = &cl[2];
	li[L_ON].to = (struct cfg_target){.cluster = &cl[1], .forward = true};
	cfg.listeners = li;
	cfg.n_listeners = LISTENERS;
	cfg.clusters = cl;
	cfg.n_clusters = cfg.n_endpoints = 3;
}

static int setup(void **state)
{
	struct snapshot *snap;
	struct err e = {""};

	(void)state;
	(void)log_level_set("all", "error");
	configure();
	if (snapshot_create(&snap, &cfg, NULL, cfg.workers, NULL, &e) < 0 || daemon_create(&d, snap, &e) < 0)
		fail_msg("%s", e.msg);
	w = &d->workers[0];
	for (uint32_t i = 0; i < LISTENERS; i++) {
		union ev_ref ref = {.kind = EV_LISTENER, .idx = i};

		assert_int_equal(loop_watch_level(&w->loop, w->listeners[i]->fd, ref, EPOLLIN), 0);
	}
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	daemon_destroy(d);
	close(backend);
	return 0;
}

/* ---- applications ---- */

struct end {
	int fd;
	uint64_t to_send, sent, got;
	bool fin;	  /* half-closes when all is sent */
	bool shut, eof;	  /* did, and saw */
	bool aborted;	  /* reset it itself */
	int error;	  /* saw */
	bool idle;	  /* does not read for now */
};

struct flow {
	struct end e[2]; /* client, server */
	bool hello;	 /* the server knows whom it talks to */
};
static struct flow flow[FLOWS];

static void end_close(struct end *e)
{
	if (e->fd >= 0)
		close(e->fd);
	e->fd = -1;
}

static int connect_to(uint16_t port)
{
	struct addr a = at(port);
	int fd = sock_connect(&a);

	assert_true(fd >= 0);
	return fd;
}

/* the first byte says which connection it is */
static void greet(unsigned int i, int form)
{
	static const int via[FORMS] = {L_PLAIN, L_TUNNEL, L_FORWARD};
	struct end *e = flow[i].e;

	memset(&flow[i], 0, sizeof(flow[i]));
	e[0].fd = connect_to(li[via[form]].address.port);
	e[1].fd = -1;
	e[0].to_send = e[1].to_send = 1;
}

static void send_some(unsigned int i, int k, size_t max)
{
	struct end *e = &flow[i].e[k];

	while (e->fd >= 0 && !e->shut && !e->error && !e->aborted && max && e->sent < e->to_send) {
		uint8_t first = (uint8_t)i;
		size_t n = min_u64(min_u64(e->to_send - e->sent, max), PATTERN_PERIOD);
		const void *p = e->sent ? (const void *)pattern((int32_t)i, k, e->sent) : &first;
		ssize_t r = send(e->fd, p, e->sent ? n : 1, MSG_DONTWAIT | MSG_NOSIGNAL);

		if (r < 0) {
			if (errno != EAGAIN && errno != ENOTCONN)
				e->error = errno;
			return;
		}
		e->sent += (uint64_t)r;
		max -= (size_t)r;
	}
	if (e->fd >= 0 && e->fin && !e->shut && e->sent == e->to_send && !e->error && !e->aborted) {
		assert_int_equal(shutdown(e->fd, SHUT_WR), 0);
		e->shut = true;
	}
}

static void read_some(unsigned int i, int k, size_t max)
{
	static uint8_t b[65536];
	struct end *e = &flow[i].e[k], *other = &flow[i].e[!k];

	while (e->fd >= 0 && !e->eof && !e->error && !e->aborted && max) {
		ssize_t r = recv(e->fd, b, min_u64(sizeof(b), max), MSG_DONTWAIT);

		if (r < 0) {
			if (errno != EAGAIN && errno != ENOTCONN)
				e->error = errno;
			return;
		}
		if (r == 0) {
			e->eof = true;
			/* the one promise that matters most: a clean end is the end */
			if (!other->shut || e->got != other->sent)
				fail_msg("connection %u, side %d: a clean end after %llu bytes, but %llu were sent, and they %s", i, k,
					 (unsigned long long)e->got, (unsigned long long)other->sent,
					 other->shut ? "were all" : "were not all");
			return;
		}
		for (size_t at_ = e->got ? 0 : 1; at_ < (size_t)r;) {
			size_t n = min_u64((size_t)r - at_, PATTERN_PERIOD);

			if (memcmp(b + at_, pattern((int32_t)i, !k, e->got + at_), n))
				fail_msg("connection %u, side %d: wrong bytes behind %llu", i, k, (unsigned long long)e->got);
			at_ += n;
		}
		e->got += (uint64_t)r;
		assert_true(e->got <= other->sent);
		max -= (size_t)r;
	}
}

/* who has connected to the backend says so in its first byte */
static int stranger[FLOWS];

static void backend_accept(void)
{
	struct addr peer;
	uint8_t i;
	int fd;

	for (unsigned int k = 0; k < FLOWS; k++)
		if (stranger[k] < 0) {
			fd = sock_accept(backend, &peer);
			if (fd < 0)
				break;
			stranger[k] = fd;
		}
	for (unsigned int k = 0; k < FLOWS; k++) {
		ssize_t n = stranger[k] >= 0 ? recv(stranger[k], &i, 1, MSG_DONTWAIT) : -1;

		if (n == 1) {
			assert_in_range(i, 0, FLOWS - 1);
			assert_false(flow[i].hello);
			flow[i].e[1].fd = stranger[k];
			flow[i].e[1].got = 1;
			flow[i].hello = true;
			stranger[k] = -1;
		} else if (n == 0 || (stranger[k] >= 0 && errno != EAGAIN)) {
			close(stranger[k]); /* reset before it said anything */
			stranger[k] = -1;
		}
	}
}

static void turn(void)
{
	loop_turn(&w->loop, 1);
	backend_accept();
}

static uint64_t ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void nothing_is_left(void)
{
	uint64_t t0 = ms();

	while (w->conns.used && ms() - t0 < 5000)
		turn();
	assert_int_equal(w->conns.used, 0);
	assert_int_equal(atomic_load(&d->connections), 0);
	assert_int_equal(atomic_load(&w->loop.stats.g[SG_CONNECTIONS]), 0);
	assert_int_equal(atomic_load(&w->loop.stats.g[SG_STREAMS]), 0);
	assert_int_equal(atomic_load(&w->loop.stats.g[SG_QUEUED]), 0);
	for (int i = 0; i < 20 && atomic_load(&w->loop.stats.g[SG_BUFFERED]); i++)
		turn(); /* tunnels may still have a little to send */
	assert_int_equal(atomic_load(&w->loop.stats.g[SG_BUFFERED]), 0);
	assert_int_equal(w->loop.pipes.made, w->loop.pipes.n_idle);
	for (uint32_t i = 0; i < LISTENERS; i++)
		assert_int_equal(atomic_load(&d->per_listener[i]), 0);
	for (uint32_t i = 0; i < 3; i++)
		assert_int_equal(atomic_load(&d->per_cluster[i]), 0);
	assert_int_equal(atomic_load(&w->loop.stats.c[ST_HOSTILE]), 0);
}

static int begin(void **state)
{
	(void)state;
	for (unsigned int i = 0; i < FLOWS; i++) {
		flow[i].e[0].fd = flow[i].e[1].fd = -1;
		stranger[i] = -1;
	}
	return 0;
}

static void all_close(void)
{
	for (unsigned int i = 0; i < FLOWS; i++) {
		for (int k = 0; k < 2; k++)
			end_close(&flow[i].e[k]);
		if (stranger[i] >= 0)
			close(stranger[i]);
		stranger[i] = -1;
	}
	nothing_is_left();
}

static void established(unsigned int i)
{
	uint64_t t0 = ms();

	while (!flow[i].hello) {
		send_some(i, 0, 1);
		turn();
		assert_in_range(ms() - t0, 0, 20000);
	}
}

/* ---- each form, one connection ---- */

static void both_send_and_end(int form, uint64_t up, uint64_t down)
{
	struct end *c = &flow[0].e[0], *s = &flow[0].e[1];
	uint64_t t0 = ms();

	greet(0, form);
	c->to_send = up;
	s->to_send = down;
	c->fin = s->fin = true;
	while (!c->eof || !s->eof) {
		for (int k = 0; k < 2; k++) {
			send_some(0, k, 200000);
			read_some(0, k, 200000);
		}
		turn();
		assert_int_equal(c->error | s->error, 0);
		assert_in_range(ms() - t0, 0, 20000);
	}
	all_close();
}

static uint64_t counted(enum stats_counter i)
{
	return atomic_load(&w->loop.stats.c[i]);
}

static void bytes_go_both_ways_through_every_form(void **state)
{
	(void)state;
	for (int form = 0; form < FORMS; form++) {
		uint64_t spliced = counted(ST_SPLICED_BYTES);

		both_send_and_end(form, 1, 1);
		both_send_and_end(form, 2, 3000000);
		both_send_and_end(form, 3000000, 1);
		both_send_and_end(form, 2000000, 2000000);
		spliced = counted(ST_SPLICED_BYTES) - spliced;
		if (!by_splice)
			assert_int_equal(spliced, 0);
		else /* nearly all; in a tunnel at both its ends, each frame for itself */
			assert_true(spliced > (form == PLAIN ? 8000000u : 14000000u));
	}
}

static void one_direction_may_end_long_before_the_other(void **state)
{
	(void)state;
	for (int form = 0; form < FORMS; form++)
		for (int first = 0; first < 2; first++) {
			struct end *a = &flow[0].e[first], *b = &flow[0].e[!first];
			uint64_t t0;

			greet(0, form);
			established(0);
			a->fin = true;
			t0 = ms();
			while (!b->eof) {
				send_some(0, first, 100);
				read_some(0, !first, 100);
				turn();
				assert_in_range(ms() - t0, 0, 20000);
			}
			assert_false(a->eof);
			b->to_send = 5000000; /* EOF was seen: now comes the answer */
			b->fin = true;
			while (!a->eof) {
				send_some(0, !first, 300000);
				read_some(0, first, 300000);
				turn();
				assert_in_range(ms() - t0, 0, 20000);
			}
			assert_true(a->got == 5000000);
			all_close();
		}
}

/* an answer that is complete is given to the client although the server has not read all of the question */
static void an_end_does_not_wait_for_the_other_direction(void **state)
{
	(void)state;
	for (int form = 0; form < FORMS; form++) {
		struct end *c = &flow[0].e[0], *s = &flow[0].e[1];
		uint64_t t0;

		greet(0, form);
		established(0);
		c->to_send = 60u << 20; /* more than all windows and buffers */
		for (int i = 0; i < 200; i++) {
			send_some(0, 0, 1 << 20);
			turn();
		}
		s->to_send = 1000;
		s->fin = true;
		t0 = ms();
		while (!c->eof) {
			send_some(0, 1, 10000);
			read_some(0, 0, 10000);
			turn();
			assert_int_equal(c->error, 0);
			assert_in_range(ms() - t0, 0, 20000);
		}
		assert_true(c->got == 1000);
		all_close();
	}
}

static void a_reset_is_a_reset_at_the_other_end(void **state)
{
	(void)state;
	for (int form = 0; form < FORMS; form++)
		for (int who = 0; who < 2; who++)
			for (int busy = 0; busy < 3; busy++) {
				struct end *a = &flow[0].e[who], *b = &flow[0].e[!who];
				uint64_t t0 = ms();

				greet(0, form);
				established(0);
				if (busy == 1)
					a->to_send = b->to_send = 300000;
				for (int i = 0; i < 20; i++) {
					send_some(0, 0, 10000);
					send_some(0, 1, 10000);
					turn();
				}
				if (busy == 2) { /* the other has half-closed already */
					b->fin = true;
					send_some(0, !who, 10);
					for (int i = 0; i < 20; i++) {
						read_some(0, who, 100);
						turn();
					}
				}
				a->aborted = true;
				sock_reset(a->fd);
				a->fd = -1;
				while (!b->error) {
					read_some(0, !who, 100000);
					assert_false(b->eof);
					turn();
					assert_in_range(ms() - t0, 0, 20000);
				}
				assert_int_equal(b->error, ECONNRESET);
				all_close();
			}
}

static void a_client_that_goes_before_it_is_connected_leaves_nothing(void **state)
{
	(void)state;
	for (int form = 0; form < FORMS; form++) {
		for (unsigned int i = 0; i < FLOWS; i++) {
			greet(i, form);
			if (i % 3)
				(void)send(flow[i].e[0].fd, "x", 1, MSG_NOSIGNAL);
			if (i % 2)
				loop_turn(&w->loop, 0);
			if (i % 4 < 2)
				sock_reset(flow[i].e[0].fd);
			else
				close(flow[i].e[0].fd);
			flow[i].e[0].fd = -1;
		}
		for (int i = 0; i < 100; i++) {
			loop_turn(&w->loop, 1);
			for (unsigned int k = 0; k < 4; k++) { /* the backend closes whatever comes */
				struct addr peer;
				int fd = sock_accept(backend, &peer);

				if (fd >= 0)
					close(fd);
			}
		}
		nothing_is_left();
	}
}

static void a_backend_that_is_not_there_is_a_reset(void **state)
{
	(void)state;
	close(backend);
	backend = -1;
	for (int form = 0; form < FORMS; form++) {
		struct end *c = &flow[0].e[0];
		uint64_t t0 = ms();

		greet(0, form);
		while (!c->error) {
			send_some(0, 0, 1);
			read_some(0, 0, 1);
			assert_false(c->eof);
			loop_turn(&w->loop, 1);
			assert_in_range(ms() - t0, 0, 20000);
		}
		assert_int_equal(c->error, ECONNRESET);
		end_close(c);
		nothing_is_left();
	}
}

/* ---- all at once, at random ---- */

static void flow_begin(unsigned int i, struct rnd *r)
{
	greet(i, (int)rnd_below(r, FORMS));
	for (int k = 0; k < 2; k++) {
		struct end *e = &flow[i].e[k];

		e->to_send = 1 + (rnd_u64(r) >> (42 + rnd_below(r, 22)));
		e->fin = true;
	}
	if (rnd_below(r, 3) == 0)
		(void)setsockopt(flow[i].e[0].fd, SOL_SOCKET, SO_RCVBUF, &(int){65536}, sizeof(int)); /* much smaller, and the kernel probes for seconds */
}

static void flow_step(unsigned int i, struct rnd *r, bool aborts)
{
	int k = (int)rnd_below(r, 2);
	struct end *e = &flow[i].e[k];

	if (e->fd < 0)
		return;
	switch (rnd_below(r, 10)) {
	case 0:
	case 1:
	case 2:
	case 3: send_some(i, k, 1 + rnd_below(r, 1u << rnd_below(r, 19))); break;
	case 4:
	case 5:
	case 6:
	case 7:
		if (!e->idle)
			read_some(i, k, 1 + rnd_below(r, 1u << rnd_below(r, 19)));
		break;
	case 8: e->idle = rnd_below(r, 3) == 0; break;
	case 9:
		if (aborts && rnd_below(r, 300) == 0 && flow[i].hello) {
			e->aborted = true;
			sock_reset(e->fd);
			e->fd = -1;
		}
		break;
	}
}

static bool flow_over(unsigned int i)
{
	struct end *e = flow[i].e;

	return (e[0].eof || e[0].error || e[0].aborted) && (e[1].eof || e[1].error || e[1].aborted);
}

static void flow_check(unsigned int i)
{
	struct end *e = flow[i].e;
	bool aborted = e[0].aborted || e[1].aborted;

	for (int k = 0; k < 2; k++) {
		if (!aborted && e[k].error)
			fail_msg("connection %u, side %d: %s, although nobody reset it", i, k, strerror(e[k].error));
		if (e[k].error)
			assert_true(e[k].error == ECONNRESET || e[k].error == EPIPE);
		end_close(&e[k]);
	}
}

static void run_all(struct rnd *r, unsigned int total, bool aborts)
{
	unsigned int begun = 0, over = 0, steps = 0;
	uint64_t t0 = ms();

	while (over < total) {
		for (unsigned int i = 0; i < FLOWS; i++) {
			if (flow[i].e[0].fd < 0 && flow[i].e[1].fd < 0 && !flow[i].e[0].aborted && begun < total) {
				flow_begin(i, r);
				begun++;
			}
			for (int n = 0; n < 4; n++)
				flow_step(i, r, aborts);
			if ((flow[i].e[0].fd >= 0 || flow[i].e[1].fd >= 0 || flow[i].e[0].aborted) && flow_over(i)) {
				flow_check(i);
				memset(&flow[i], 0, sizeof(flow[i]));
				flow[i].e[0].fd = flow[i].e[1].fd = -1;
				over++;
			}
		}
		turn();
		if (++steps % 64 == 0) /* nobody sleeps for ever */
			for (unsigned int i = 0; i < FLOWS; i++)
				flow[i].e[0].idle = flow[i].e[1].idle = false;
		if (ms() - t0 > 40000)
			fail_msg("%u of %u over", over, total);
	}
	all_close();
}

static void whatever_they_do_no_byte_is_lost(void **state)
{
	struct rnd r = rnd_start("connections of all forms");

	(void)state;
	run_all(&r, 120, false);
	assert_true((counted(ST_SPLICED_BYTES) > 1000000) == by_splice);
}

static void and_no_reset_looks_like_an_end(void **state)
{
	struct rnd r = rnd_start("connections that are reset");

	(void)state;
	run_all(&r, 200, true);
}

/* windows are squeezed and let go again all the time */
static void nor_is_any_when_memory_is_short(void **state)
{
	struct rnd r = rnd_start("connections with little memory");

	(void)state;
	cfg.limits.memory = 100000;
	run_all(&r, 80, true);
	assert_true(atomic_load(&w->loop.stats.c[ST_MEMORY_PRESSURE]) > 0);
}

static int each(void **state)
{
	by_splice = false;
	return setup(state) | begin(state);
}

static int each_by_splice(void **state)
{
	by_splice = true;
	return setup(state) | begin(state);
}

/* one argument: only tests of that name, * for anything */
int main(int argc, char **argv)
{
#define T(f) cmocka_unit_test_setup_teardown(f, each, teardown)
#define S(f) {#f "_by_splice", f, each_by_splice, teardown, NULL}
	const struct CMUnitTest tests[] = {
		T(bytes_go_both_ways_through_every_form),
		S(bytes_go_both_ways_through_every_form),
		T(one_direction_may_end_long_before_the_other),
		S(one_direction_may_end_long_before_the_other),
		T(an_end_does_not_wait_for_the_other_direction),
		S(an_end_does_not_wait_for_the_other_direction),
		T(a_reset_is_a_reset_at_the_other_end),
		S(a_reset_is_a_reset_at_the_other_end),
		T(a_client_that_goes_before_it_is_connected_leaves_nothing),
		T(a_backend_that_is_not_there_is_a_reset),
		T(whatever_they_do_no_byte_is_lost),
		S(whatever_they_do_no_byte_is_lost),
		T(and_no_reset_looks_like_an_end),
		S(and_no_reset_looks_like_an_end),
		T(nor_is_any_when_memory_is_short),
		S(nor_is_any_when_memory_is_short),
	};

	signal(SIGPIPE, SIG_IGN); /* splice() has no MSG_NOSIGNAL */
	if (argc > 1)
		cmocka_set_test_filter(argv[1]);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
