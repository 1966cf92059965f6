/* Metrics: the text is what Prometheus accepts, checked line by line. */
#include "../../daemon/obs/metrics.c"

#include "unit/prom_check.h"

static void counters_and_gauges_all_appear(void **state)
{
	struct stats *s = calloc(1, sizeof(*s));
	struct text t = {0};

	(void)state;
	stats_add(s, ST_ACCEPTED, 12345);
	stats_gauge(s, SG_STREAMS, -1);
	stats_bump(&s->rst_rx[8], 3);
	metrics_stats(&t, s);
	assert_int_equal(prom_check(&t), ST_COUNTERS + SG_GAUGES + 2 * STATS_H2_CODES);
	assert_true(prom_has(&t, "adit_connections_accepted_total 12345"));
	assert_true(prom_has(&t, "adit_streams -1"));
	assert_true(prom_has(&t, "adit_rst_stream_codes_total{direction=\"received\",code=\"CANCEL\"} 3"));
	assert_true(prom_has(&t, "adit_rst_stream_codes_total{direction=\"sent\",code=\"CANCEL\"} 0"));
	assert_true(prom_has(&t, "# TYPE adit_streams gauge"));
	assert_true(prom_has(&t, "# HELP adit_streams live CONNECT streams"));
	text_finish(&t);
	free(s);
}

static void histogram_is_cumulative_and_ends_with_inf(void **state)
{
	struct hist *h = calloc(1, sizeof(*h));
	struct text t = {0};

	(void)state;
	hist_add(h, 40);
	hist_add(h, 700);
	hist_add(h, 700);
	hist_add(h, 60000000); /* a minute: beyond the last bucket */
	metrics_hist(&t, "adit_x_seconds", "x", h);
	assert_int_equal(prom_check(&t), ARRAY_LEN(bucket_us) + 3);
	assert_true(prom_has(&t, "adit_x_seconds_bucket{le=\"0.00005\"} 1"));
	assert_true(prom_has(&t, "adit_x_seconds_bucket{le=\"0.0005\"} 1"));
	assert_true(prom_has(&t, "adit_x_seconds_bucket{le=\"0.001\"} 3"));
	assert_true(prom_has(&t, "adit_x_seconds_bucket{le=\"1\"} 3"));
	assert_true(prom_has(&t, "adit_x_seconds_bucket{le=\"10\"} 3"));
	assert_true(prom_has(&t, "adit_x_seconds_bucket{le=\"+Inf\"} 4"));
	assert_true(prom_has(&t, "adit_x_seconds_sum 60.001440"));
	assert_true(prom_has(&t, "adit_x_seconds_count 4"));
	text_finish(&t);
	free(h);
}

static void empty_histogram_is_all_zero(void **state)
{
	struct hist *h = calloc(1, sizeof(*h));
	struct text t = {0};

	(void)state;
	metrics_hist(&t, "adit_x_seconds", "x", h);
	assert_int_equal(prom_check(&t), ARRAY_LEN(bucket_us) + 3);
	assert_true(prom_has(&t, "adit_x_seconds_sum 0.000000"));
	text_finish(&t);
	free(h);
}

static void the_same_pair_on_two_workers_is_one_sample(void **state)
{
	struct series a = {.opened = 3, .received_bytes = 10}, b = {.opened = 4, .received_bytes = 5},
		      c = {.opened = 9};
	const struct series *list[] = {&a, &c, &b};
	struct text t = {0};

	(void)state;
	a.v[SL_REPORTER] = b.v[SL_REPORTER] = "source";
	b.v[SL_SRC_WORKLOAD] = ""; /* as absent as NULL */
	c.v[SL_REPORTER] = "destination";
	c.v[SL_RESPONSE_FLAGS] = "UF";
	metrics_series(&t, list, 3);
	assert_int_equal(prom_check(&t), 5 * 2);
	assert_true(prom_has(&t,
			     "istio_tcp_connections_opened_total{reporter=\"source\",source_workload=\"unknown\","
			     "source_canonical_service=\"unknown\","
			     "source_canonical_revision=\"unknown\",source_workload_namespace=\"unknown\",source_"
			     "principal=\"unknown\","
			     "source_app=\"unknown\",source_version=\"unknown\",source_cluster=\"unknown\",destination_"
			     "service=\"unknown\","
			     "destination_service_namespace=\"unknown\",destination_service_name=\"unknown\","
			     "destination_workload=\"unknown\","
			     "destination_canonical_service=\"unknown\",destination_canonical_revision=\"unknown\","
			     "destination_workload_namespace=\"unknown\",destination_principal=\"unknown\",destination_"
			     "app=\"unknown\","
			     "destination_version=\"unknown\",destination_cluster=\"unknown\",request_protocol="
			     "\"unknown\",response_flags=\"-\","
			     "connection_security_policy=\"unknown\",source_region=\"unknown\",source_zone=\"unknown\","
			     "destination_region=\"unknown\",destination_zone=\"unknown\"} 7"));
	assert_non_null(strstr(t.s, "istio_tcp_received_bytes_total{reporter=\"source\""));
	text_finish(&t);
}

static void series_that_count_nothing_are_left_out(void **state)
{
	struct series a = {.failed = 1}, b = {0};
	const struct series *list[] = {&a, &b};
	struct text t = {0};

	(void)state;
	b.v[SL_REPORTER] = "other";
	metrics_series(&t, list, 2);
	assert_int_equal(prom_check(&t), 5);
	assert_null(strstr(t.s, "other"));
	text_finish(&t);
}

static void no_series_is_still_valid(void **state)
{
	struct text t = {0};

	(void)state;
	metrics_series(&t, NULL, 0);
	assert_int_equal(prom_check(&t), 0);
	text_finish(&t);
}

static void label_values_are_escaped(void **state)
{
	const struct metrics_label l[] = {{"a", "x\\y\"z\nw"}, {"b", "\xc3\xa9\xff{},"}, {"c", NULL}};
	struct text t = {0};

	(void)state;
	metrics_family(&t, "m", METRICS_GAUGE, "back\\slash\nline");
	metrics_u64(&t, "m", l, 3, UINT64_MAX);
	assert_int_equal(prom_check(&t), 1);
	assert_string_equal(t.s,
			    "# HELP m back\\\\slash\\nline\n# TYPE m gauge\n"
			    "m{a=\"x\\\\y\\\"z\\nw\",b=\"\xc3\xa9\xef\xbf\xbd{},\",c=\"\"} 18446744073709551615\n");
	text_finish(&t);
}

static void names_are_found(void **state)
{
	(void)state;
	assert_string_equal(metrics_h2_code(0), "NO_ERROR");
	assert_string_equal(metrics_h2_code(13), "HTTP_1_1_REQUIRED");
	assert_null(metrics_h2_code(14));
	assert_string_equal(metrics_counter_name(ST_POOL_HIT), "pool_hits");
	assert_string_equal(metrics_gauge_name(SG_QUEUED), "pool_queue");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(counters_and_gauges_all_appear),
		cmocka_unit_test(histogram_is_cumulative_and_ends_with_inf),
		cmocka_unit_test(empty_histogram_is_all_zero),
		cmocka_unit_test(the_same_pair_on_two_workers_is_one_sample),
		cmocka_unit_test(series_that_count_nothing_are_left_out),
		cmocka_unit_test(no_series_is_still_valid),
		cmocka_unit_test(label_values_are_escaped),
		cmocka_unit_test(names_are_found),
	};

	return cmocka_run_group_tests(tests, NULL, NULL);
}
