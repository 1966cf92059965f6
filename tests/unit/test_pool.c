/* The pool: how streams are spread over tunnels, in which order, and who waits and for how long. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include "daemon/tunnel/pool.c"
#include "unit/pool_peer.h"

/* ---- spreading ---- */

static void many_streams_share_a_tunnel(void **state)
{
	(void)state;
	get_many(0, 50);
	assert_int_equal(opened(0, 50), 0); /* they wait for the handshake */
	assert_int_equal(pool_queued(&pool), 50);
	settle();
	assert_int_equal(opened(0, 50), 50);
	assert_int_equal(links(&peer[0]), 1);
	assert_int_equal(pool_tunnels(&pool), 1);
	for (unsigned int i = 0; i < 50; i++) {
		assert_true(cl[i].waited && cl[i].answered);
		assert_int_equal(cl[i].n_ready, 1);
		assert_int_equal(serial[i], i + 1); /* first come, first served */
		assert_ptr_equal(cl[i].t, cl[0].t);
	}
	assert_int_equal(get(50), 0); /* no waiting any more */
	assert_false(cl[50].waited);
	assert_int_equal(cl[50].n_ready, 1);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_HIT]), 1);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_MISS]), 1);
}

static void a_full_tunnel_gets_a_second_and_is_used_again(void **state)
{
	(void)state;
	cluster.pool.max_streams = 10;
	get_many(0, 25);
	settle();
	assert_int_equal(opened(0, 25), 25);
	assert_int_equal(links(&peer[0]), 3);
	for (unsigned int i = 0; i < 15; i++)
		end(i);
	settle();
	get_many(25, 40); /* as many as ended */
	settle();
	assert_int_equal(opened(25, 40), 15);
	assert_int_equal(links(&peer[0]), 3);
	assert_int_equal(pool_tunnels(&pool), 3);
	for (unsigned int i = 25; i < 40; i++)
		assert_in_range(cl[i].t->h2.streams, 1, 10);
}

static void the_peers_limit_counts(void **state)
{
	(void)state;
	peer[0].max_streams = 4;
	get_many(0, 10);
	settle();
	assert_int_equal(opened(0, 10), 10);
	assert_int_equal(links(&peer[0]), 3);
	for (unsigned int i = 0; i < 10; i++)
		assert_int_equal(cl[i].n_closed, 0); /* none was refused */
}

static void a_limit_that_changes_counts(void **state)
{
	nghttp2_settings_entry iv = {NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS, 2};

	(void)state;
	get_many(0, 3);
	settle();
	assert_int_equal(links(&peer[0]), 1);
	peer[0].link[0].x->h2.max_streams = 2;
	assert_int_equal(nghttp2_submit_settings(peer[0].link[0].x->h2.ng, NGHTTP2_FLAG_NONE, &iv, 1), 0);
	settle();
	get_many(3, 5);
	settle();
	assert_int_equal(links(&peer[0]), 2);
	assert_ptr_not_equal(cl[3].t, cl[0].t);
	assert_int_equal(opened(0, 5), 5); /* those that were there go on */
	iv.value = 50;
	peer[0].link[0].x->h2.max_streams = 50;
	assert_int_equal(nghttp2_submit_settings(peer[0].link[0].x->h2.ng, NGHTTP2_FLAG_NONE, &iv, 1), 0);
	settle();
	for (unsigned int i = 3; i < 5; i++)
		end(i);
	settle();
	assert_int_equal(h2_room(&cl[0].t->h2), 47);
}

static void the_fullest_is_filled_first(void **state)
{
	struct tunnel *a, *b;

	(void)state;
	cluster.pool.max_streams = 10;
	get_many(0, 30);
	settle();
	assert_int_equal(links(&peer[0]), 3);
	a = cl[0].t;
	b = cl[10].t;
	for (unsigned int i = 0; i < 8; i++)
		end(i); /* a: 2 left */
	for (unsigned int i = 10; i < 15; i++)
		end(i); /* b: 5 left; the third, which took the last stream, is full */
	settle();
	assert_int_equal(a->h2.streams, 2);
	assert_int_equal(b->h2.streams, 5);
	get_many(30, 34);
	settle();
	for (unsigned int i = 30; i < 34; i++)
		assert_ptr_equal(cl[i].t, b);
	assert_int_equal(a->h2.streams, 2);
}

static void addresses_and_clusters_have_tunnels_of_their_own(void **state)
{
	bool waited;

	(void)state;
	cluster2 = cluster; /* the same peer, another identity perhaps */
	get_many(0, 3);
	cl[3].w.ready = cl[4].w.ready = ready;
	assert_int_equal(pool_get(&pool2, &peer[0].at, NULL, &cl[3].w, &waited), 0);
	assert_int_equal(pool_get(&pool, &peer[1].at, NULL, &cl[4].w, &waited), 0);
	settle();
	assert_int_equal(opened(0, 5), 5);
	assert_int_equal(links(&peer[0]), 2);
	assert_int_equal(links(&peer[1]), 1);
	assert_int_equal(pool_tunnels(&pool), 2);
	assert_int_equal(pool_tunnels(&pool2), 1);
	assert_ptr_not_equal(cl[3].t, cl[0].t);
	assert_ptr_not_equal(cl[4].t, cl[0].t);
}

static int get_as(unsigned int i, const struct cfg_identity *id)
{
	cl[i].w.ready = ready;
	return pool_get(&pool, &peer[0].at, id, &cl[i].w, &cl[i].waited);
}

/* row A06: the same cluster, the same address; a name is an identity, whatever configuration it stands in */
static void identities_have_tunnels_of_their_own(void **state)
{
	struct cfg_identity blue = {.name = "blue"}, green = {.name = "green"}, again = {.name = "blue"};
	struct pool_look look;

	(void)state;
	cluster.by_workload = true;
	for (unsigned int i = 0; i < 12; i++)
		assert_int_equal(get_as(i, i % 3 == 0 ? &blue : i % 3 == 1 ? &green : &again), 0);
	settle();
	assert_int_equal(opened(0, 12), 12);
	assert_int_equal(links(&peer[0]), 2);
	for (unsigned int i = 2; i < 12; i++) {
		assert_ptr_equal(cl[i].t, cl[i % 3 == 1].t);
		assert_ptr_not_equal(cl[i].t, cl[i % 3 != 1].t);
	}
	pool_look(&pool, &peer[0].at, &green, &look);
	assert_int_equal(look.streams, 4);
	pool_look(&pool, &peer[0].at, &again, &look);
	assert_int_equal(look.streams, 8);
	pool_look(&pool, &peer[0].at, NULL, &look);
	assert_int_equal(look.open, 0);
}

/* where the cluster fixes it, who asks does not matter */
static void a_fixed_identity_is_for_all(void **state)
{
	struct cfg_identity blue = {.name = "blue"}, green = {.name = "green"};

	(void)state;
	for (unsigned int i = 0; i < 6; i++)
		assert_int_equal(get_as(i, i % 2 ? &blue : &green), 0);
	settle();
	assert_int_equal(opened(0, 6), 6);
	assert_int_equal(links(&peer[0]), 1);
}

/* an identity that is not in the new configuration: its tunnels take no new streams and end, who waits is told; others go on */
static void an_identity_that_is_gone_has_no_new_streams(void **state)
{
	struct cfg_identity blue = {.name = "blue"}, green = {.name = "green"}, left[] = {{.name = "green"}};
	struct config next = cfg;
	struct snapshot *snap = aligned_alloc(64, sizeof(*snap) + sizeof(struct snapshot_users));

	(void)state;
	assert_non_null(snap);
	memset(snap, 0, sizeof(*snap) + sizeof(struct snapshot_users));
	next.identities = left;
	next.n_identities = 1;
	snap->cfg = &next;
	snap->n_workers = 1;
	cluster.by_workload = true;
	assert_int_equal(get_as(0, &blue), 0);
	assert_int_equal(get_as(1, &green), 0);
	settle();
	assert_int_equal(opened(0, 2), 2);
	pool_adopt(&pool, snap, &cluster, false);
	assert_int_equal(cl[0].t->state, TUNNEL_DRAINING);
	assert_int_equal(cl[1].t->state, TUNNEL_OPEN);
	assert_int_equal(get_as(2, &green), 0);
	settle();
	assert_ptr_equal(cl[2].t, cl[1].t);
	end(0);
	settle();
	assert_int_equal(links(&peer[0]), 1);
	for (unsigned int i = 1; i < 3; i++)
		end(i);
	settle();
	tunnels_finish(&ts);
	assert_int_equal(snapshot_used(snap), 0);
	tunnels_init(&ts, &l, 100, &hooks, NULL);
	free(snap);
}

static void streams_reach_the_peer_in_order_over_several_tunnels(void **state)
{
	char want[1000] = "", *p = want;

	(void)state;
	cluster.pool.max_streams = 7;
	peer[0].backwards = true; /* the new tunnel would overtake the old one */
	for (unsigned int i = 0; i < 40; i++) {
		assert_int_equal(get(i), 0);
		if (i % 5 == 0) {
			loop_turn(&l, 0);
			(void)peer_pump(&peer[0]);
		}
		p += sprintf(p, "c%u:1 ", i);
	}
	settle();
	assert_int_equal(opened(0, 40), 40);
	assert_int_equal(links(&peer[0]), 6);
	assert_string_equal(order_seen, want);
}

/* ---- waiting ---- */

static void who_waits_is_served_in_order_when_a_stream_ends(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 2;
	cluster.pool.max_streams = 4;
	get_many(0, 12);
	settle();
	assert_int_equal(links(&peer[0]), 2);
	assert_int_equal(opened(0, 8), 8);
	assert_int_equal(opened(8, 12), 0);
	assert_int_equal(pool_queued(&pool), 4);
	for (unsigned int i = 0; i < 4; i++) {
		end(i);
		settle();
		assert_int_equal(opened(8, 12), i + 1);
		assert_true(cl[8 + i].s.id != 0);
	}
	assert_int_equal(pool_queued(&pool), 0);
}

static void the_queue_is_bounded(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	cluster.pool.queue = 3;
	get_many(0, 1);
	settle();
	get_many(1, 4);
	assert_int_equal(get(4), -EBUSY);
	assert_int_equal(cl[4].n_ready, 0); /* and will not be called */
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_OVERFLOW]), 1);
	end(0);
	settle();
	assert_int_equal(get(4), 0);
	assert_int_equal(cl[4].n_ready, 0);
}

static bool first_two_gone(void)
{
	return cl[1].n_ready && cl[2].n_ready;
}

static void waiting_has_an_end(void **state)
{
	uint64_t t0;

	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	cluster.pool.queue_timeout_ms = 60;
	get_many(0, 1);
	settle();
	t0 = ms();
	get_many(1, 3);
	run(first_two_gone);
	assert_in_range(ms() - t0, 50, 9000);
	for (unsigned int i = 1; i < 3; i++) {
		assert_null(cl[i].t);
		assert_int_equal(cl[i].error, -ETIMEDOUT);
		assert_non_null(strstr(cl[i].why, "full"));
		assert_int_equal(cl[i].n_ready, 1);
	}
	assert_true(serial[1] < serial[2]);
	assert_int_equal(pool_queued(&pool), 0);
	assert_int_equal(atomic_load(&l.stats.c[ST_POOL_TIMEOUT]), 2);
}

static void each_waits_its_own_time(void **state)
{
	uint64_t t0 = ms();

	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	cluster.pool.queue_timeout_ms = 120;
	get_many(0, 1);
	settle();
	t0 = ms();
	get_many(1, 2);
	while (ms() - t0 < 80)
		loop_turn(&l, 5);
	get_many(2, 3);
	run(first_two_gone);
	assert_in_range(ms() - t0, 190, 9000); /* the second came 80 ms later */
}

static void who_goes_away_is_not_called(void **state)
{
	(void)state;
	cluster.pool.max_tunnels = 1;
	cluster.pool.max_streams = 1;
	get_many(0, 1);
	settle();
	get_many(1, 4);
	pool_cancel(&cl[1].w);
	pool_cancel(&cl[1].w); /* not queued: nothing happens */
	pool_cancel(&cl[3].w);
	pool_cancel(&cl[40].w); /* never queued */
	assert_int_equal(pool_queued(&pool), 1);
	end(0);
	settle();
	assert_true(cl[2].s.id != 0);
	assert_int_equal(cl[1].n_ready + cl[3].n_ready, 0);
}

static void all_may_go_away_before_the_tunnel_is_there(void **state)
{
	(void)state;
	get_many(0, 5);
	for (unsigned int i = 0; i < 5; i++)
		pool_cancel(&cl[i].w);
	settle();
	assert_int_equal(served, 0);
	assert_int_equal(pool_tunnels(&pool), 1); /* the next will be glad */
	assert_int_equal(get(5), 0);
	assert_true(cl[5].s.id != 0);
}

int main(void)
{
#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)
	const struct CMUnitTest tests[] = {
		T(many_streams_share_a_tunnel),
		T(a_full_tunnel_gets_a_second_and_is_used_again),
		T(the_peers_limit_counts),
		T(a_limit_that_changes_counts),
		T(the_fullest_is_filled_first),
		T(addresses_and_clusters_have_tunnels_of_their_own),
		T(identities_have_tunnels_of_their_own),
		T(a_fixed_identity_is_for_all),
		T(an_identity_that_is_gone_has_no_new_streams),
		T(streams_reach_the_peer_in_order_over_several_tunnels),
		T(who_waits_is_served_in_order_when_a_stream_ends),
		T(the_queue_is_bounded),
		T(waiting_has_an_end),
		T(each_waits_its_own_time),
		T(who_goes_away_is_not_called),
		T(all_may_go_away_before_the_tunnel_is_there),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
