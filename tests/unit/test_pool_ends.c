/* The pool when tunnels fail, drain, age, and are replaced. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tunnel/pool.c"
#include "unit/pool_peer.h"

/* ---- failures ---- */

static void a_dial_that_fails_fails_all_who_wait_once(void **state)
{
	(void)state;
	close(peer[0].fd);
	peer[0].fd = -1;
	get_many(0, 5);
	settle();
	for (unsigned int i = 0; i < 5; i++) {
		assert_int_equal(cl[i].n_ready, 1);
		assert_null(cl[i].t);
		assert_int_equal(cl[i].error, -ECONNREFUSED);
		assert_non_null(strstr(cl[i].why, "is the agent running there?"));
	}
	assert_int_equal(pool_tunnels(&pool), 0);
	assert_int_equal(pool_queued(&pool), 0);
	get_many(5, 6); /* each new one is an attempt of its own */
	settle();
	assert_int_equal(cl[5].n_ready, 1);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_MISS]), 2);
}

static void who_failed_may_ask_again_at_once(void **state)
{
	(void)state;
	close(peer[0].fd);
	peer[0].fd = -1;
	for (unsigned int i = 0; i < 5; i++)
		cl[i].again = 2;
	get_many(0, 5);
	settle();
	for (unsigned int i = 0; i < 5; i++)
		assert_int_equal(cl[i].n_ready, 3);
	assert_int_equal(pool_queued(&pool), 0);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_MISS]), 3); /* they share the attempts */
}

static void who_is_cancelled_by_another_is_not_called(void **state)
{
	(void)state;
	cl[0].cancels = &cl[1];
	get_many(0, 3);
	settle();
	assert_int_equal(cl[0].n_ready, 1);
	assert_int_equal(cl[1].n_ready, 0);
	assert_int_equal(cl[2].n_ready, 1);
}

static void a_peer_that_says_nothing_is_given_up(void **state)
{
	(void)state;
	cfg.timeouts.handshake_ms = 60;
	peer[0].mute = true;
	get_many(0, 3);
	settle();
	while (!cl[2].n_ready)
		loop_turn(&l, 5);
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(cl[i].error, -ETIMEDOUT);
		assert_non_null(strstr(cl[i].why, "SETTINGS"));
	}
}

static void a_peer_that_is_none_is_given_up(void **state)
{
	(void)state;
	peer[0].mute = true;
	get_many(0, 3);
	settle();
	assert_int_equal(links(&peer[0]), 1);
	assert_int_equal(send(peer[0].link[0].fd, "SSH-2.0-OpenSSH_9.2p1 Debian-2\r\n", 32, 0), 32);
	settle();
	for (unsigned int i = 0; i < 3; i++) {
		assert_int_equal(cl[i].n_ready, 1);
		assert_true(cl[i].error < 0);
	}
	assert_int_equal(pool_tunnels(&pool), 0);
}

static bool all_lost(void)
{
	for (unsigned int i = 0; i < 3; i++)
		if (!cl[i].n_closed)
			return false;
	return true;
}

static void a_tunnel_that_ends_loses_its_streams_at_once(void **state)
{
	(void)state;
	for (int how = 0; how < 3; how++) {
		struct link_ *k;
		uint64_t t0;

		if (how) {
			teardown(NULL);
			setup(NULL);
		}
		get_many(0, 3);
		settle();
		k = &peer[0].link[0];
		switch (how) {
		case 0: /* FIN */ break;
		case 1: /* bytes and FIN, seen with one edge */
			h2_ping(&k->x->h2, false);
			assert_int_equal(side_flush(k->x), 0);
			assert_int_equal(send(k->fd, k->x->wire, k->x->n, 0), (ssize_t)k->x->n);
			break;
		case 2: /* RST */
			sock_reset(k->fd);
			k->fd = -1;
			break;
		}
		link_close(k);
		t0 = ms();
		run(all_lost);
		assert_in_range(ms() - t0, 0, 9000);
		for (unsigned int i = 0; i < 3; i++) {
			assert_int_equal(cl[i].n_closed, 1);
			assert_true(cl[i].code == H2_LOST);
		}
		assert_int_equal(pool_tunnels(&pool), 0);
		get_many(3, 4); /* and the next gets a new one */
		settle();
		assert_true(cl[3].s.id != 0);
	}
}

/* ---- GOAWAY, age ---- */

static void a_tunnel_that_drains_gets_no_new_streams(void **state)
{
	struct tunnel *old;

	(void)state;
	get_many(0, 3);
	settle();
	old = cl[0].t;
	h2_goaway_last(&peer[0].link[0].x->h2, NGHTTP2_NO_ERROR);
	settle();
	assert_int_equal(old->state, TUNNEL_DRAINING);
	get_many(3, 6);
	settle();
	for (unsigned int i = 3; i < 6; i++)
		assert_ptr_not_equal(cl[i].t, old);
	assert_int_equal(opened(0, 6), 6); /* the old ones go on */
	assert_int_equal(links(&peer[0]), 2);
	for (unsigned int i = 0; i < 3; i++)
		end(i);
	settle();
	assert_int_equal(links(&peer[0]), 1); /* closed once empty */
	assert_int_equal(pool_tunnels(&pool), 1);
}

static void draining_tunnels_do_not_count_as_room_taken(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 1;
	get_many(0, 2);
	settle();
	h2_goaway_last(&peer[0].link[0].x->h2, NGHTTP2_NO_ERROR);
	settle();
	get_many(2, 3);
	settle();
	assert_true(cl[2].s.id != 0);
}

static void a_tunnel_is_replaced_after_so_many_streams(void **state)
{
	struct tunnel *first;

	(void)state;
	cluster.pool.max_requests = 5;
	for (unsigned int i = 0; i < 12; i++) {
		get_many(i, i + 1);
		settle();
		assert_true(cl[i].s.id != 0);
		if (i == 0)
			first = cl[0].t;
		if (i == 4)
			assert_ptr_equal(cl[4].t, first);
		if (i == 5)
			assert_ptr_not_equal(cl[5].t, first);
	}
	assert_int_equal(peer[0].n, 3);
	for (unsigned int i = 0; i < 12; i++)
		end(i);
	settle();
	assert_int_equal(links(&peer[0]), 1); /* spent ones are closed, the last has some left */
}

static bool none_left(void)
{
	return pool_tunnels(&pool) == 0;
}

static void an_idle_tunnel_is_closed(void **state)
{
	uint64_t t0;

	(void)state;
	cluster.pool.idle_timeout_ms = 80;
	get_many(0, 2);
	settle();
	t0 = ms();
	while (ms() - t0 < 200)
		settle();
	assert_int_equal(pool_tunnels(&pool), 1); /* in use */
	end(0);
	end(1);
	t0 = ms();
	run(none_left);
	assert_in_range(ms() - t0, 70, 9000);
	settle();
	assert_int_equal(links(&peer[0]), 0);
}

static void an_old_tunnel_is_replaced(void **state)
{
	(void)state;
	cluster.pool.max_age_ms = 60;
	get_many(0, 1);
	settle();
	while (cl[0].t->state == TUNNEL_OPEN)
		loop_turn(&l, 5);
	assert_int_equal(cl[0].t->state, TUNNEL_DRAINING);
	assert_true(cl[0].s.id != 0); /* its stream goes on */
	get_many(1, 2);
	settle();
	assert_ptr_not_equal(cl[0].t, cl[1].t);
}

static void draining_closes_what_is_empty(void **state)
{
	(void)state;
	cluster.pool.max_streams = 2;
	get_many(0, 4);
	settle();
	assert_int_equal(pool_tunnels(&pool), 2);
	end(0);
	end(1);
	pool_drain(&pool);
	settle();
	assert_int_equal(pool_tunnels(&pool), 1);
	end(2);
	end(3);
	settle();
	assert_int_equal(pool_tunnels(&pool), 0);
	assert_int_equal(links(&peer[0]), 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(a_dial_that_fails_fails_all_who_wait_once),
		T(who_failed_may_ask_again_at_once),
		T(who_is_cancelled_by_another_is_not_called),
		T(a_peer_that_says_nothing_is_given_up),
		T(a_peer_that_is_none_is_given_up),
		T(a_tunnel_that_ends_loses_its_streams_at_once),
		T(a_tunnel_that_drains_gets_no_new_streams),
		T(draining_tunnels_do_not_count_as_room_taken),
		T(a_tunnel_is_replaced_after_so_many_streams),
		T(an_idle_tunnel_is_closed),
		T(an_old_tunnel_is_replaced),
		T(draining_closes_what_is_empty),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
