/* Access log: what workers put in comes out as exact lines, in all formats; full rings drop; bad disks do not hurt. */
#include "../../daemon/obs/access.c"
#include "../../daemon/obs/access_format.c"
#include "../../daemon/obs/access_log.c"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <sys/resource.h>
#include <stdio.h>
#include <sys/stat.h>

static const struct cfg_node node = {
	.id = "node-b", .workload = "redis", .namespace_ = "db", .cluster = "east", .service = "cache"};

/* 2026-01-02T03:04:05.678901Z */
#define START 1767323045678901ull

static struct access_rec rec_full(void)
{
	return (struct access_rec){
		.conn_id = 77,
		.start_us = START,
		.duration_us = 13274,
		.open_us = 812,
		.queue_us = 5,
		.bytes_sent = 100,
		.bytes_recv = 2000,
		.dir = ACCESS_INBOUND,
		.status = 200,
		.tunnel_id = 3,
		.stream_id = 41,
		.ok = true,
		.tls = true,
		.listener = "audit",
		.outer_listener = "tunnel-in",
		.route = "redis",
		.cluster = "local-redis",
		.mover = "relay",
		.src_addr = "10.0.0.1:4711",
		.dst_addr = "127.0.0.1:6379",
		.hbone_addr = "10.0.0.2:6379",
		.original_dst = "10.0.0.2:6379",
		.src_identity = "spiffe://adit.test/ns/web/sa/shop",
		.dst_identity = "spiffe://adit.test/ns/db/sa/redis",
		.src_workload = "shop",
		.src_namespace = "web",
		.src_cluster = "west",
		.src_node = "node-a",
		.peer_headers = "x-client-id=node-a",
		.response_flags = NULL,
		.closed_by = "src",
		.trace_id = "0af7651916cd43dd8448eb211c80319c",
		.policy = "allow-web",
	};
}

/* One record through a ring and the formatter. Return: the line, valid until the next call. */
static const char *line_of(enum cfg_access_format format, const char **fields, uint32_t n_fields,
			   const struct access_rec *rec)
{
	static struct text out;
	struct cfg_access_log cfg = {.enabled = true, .format = format, .fields = fields, .n_fields = n_fields};
	struct access_format f;
	struct access_ring r;
	const void *p;
	uint32_t n;

	text_finish(&out);
	if (!rec)
		return NULL;
	assert_int_equal(access_ring_init(&r, 1u << 18), 0);
	assert_int_equal(access_format_init(&f, &cfg, &node, NULL), 0);
	access_emit(&r, rec);
	p = bytering_peek(&r.ring, &n);
	assert_non_null(p);
	access_format_line(&f, p, &out);
	bytering_release(&r.ring);
	access_format_finish(&f);
	access_ring_finish(&r);
	assert_true(text_ok(&out));
	return out.s;
}

static void native_line_is_exact(void **state)
{
	struct access_rec rec = rec_full();

	(void)state;
	assert_string_equal(
		line_of(ACCESS_NATIVE, NULL, 0, &rec),
		"{\"time\":\"2026-01-02T03:04:05.692175Z\",\"level\":\"info\",\"scope\":\"access\",\"message\":"
		"\"connection complete\","
		"\"node\":\"node-b\",\"conn\":77,\"direction\":\"inbound\",\"listener\":\"audit\",\"outer_listener\":"
		"\"tunnel-in\","
		"\"route\":\"redis\",\"cluster\":\"local-redis\",\"policy\":\"allow-web\",\"mover\":\"relay\","
		"\"src_addr\":\"10.0.0.1:4711\",\"src_identity\":\"spiffe://adit.test/ns/web/sa/"
		"shop\",\"src_workload\":\"shop\","
		"\"src_namespace\":\"web\",\"src_cluster\":\"west\",\"src_node\":\"node-a\",\"dst_addr\":\"127.0.0.1:"
		"6379\","
		"\"hbone_addr\":\"10.0.0.2:6379\",\"original_dst\":\"10.0.0.2:6379\","
		"\"dst_identity\":\"spiffe://adit.test/ns/db/sa/"
		"redis\",\"dst_workload\":\"redis\",\"dst_namespace\":\"db\","
		"\"dst_cluster\":\"east\",\"dst_node\":\"node-b\",\"dst_service\":\"cache\",\"tls\":true,\"tunnel\":3,"
		"\"stream\":41,"
		"\"status\":200,\"response_flags\":\"-\",\"bytes_sent\":100,\"bytes_recv\":2000,\"duration_us\":13274,"
		"\"open_us\":812,"
		"\"queue_us\":5,\"closed_by\":\"src\",\"trace_id\":\"0af7651916cd43dd8448eb211c80319c\","
		"\"peer_metadata\":\"x-client-id=node-a\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void absent_facts_have_no_key(void **state)
{
	struct access_rec rec = {
		.start_us = START, .dir = ACCESS_FORWARD, .listener = "t", .error = "no route for 10.0.0.9:80"};

	(void)state;
	assert_string_equal(
		line_of(ACCESS_NATIVE, NULL, 0, &rec),
		"{\"time\":\"2026-01-02T03:04:05.678901Z\",\"level\":\"error\",\"scope\":\"access\","
		"\"message\":\"connection failed\",\"node\":\"node-b\",\"conn\":0,\"direction\":\"forward\","
		"\"listener\":\"t\",\"tls\":false,\"response_flags\":\"-\",\"bytes_sent\":0,\"bytes_recv\":0,"
		"\"duration_us\":0,\"queue_us\":0,\"error\":\"no route for 10.0.0.9:80\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void ztunnel_line_is_exact(void **state)
{
	struct access_rec rec = rec_full();

	(void)state;
	assert_string_equal(line_of(ACCESS_ZTUNNEL, NULL, 0, &rec),
			    "{\"level\":\"info\",\"time\":\"2026-01-02T03:04:05.692175Z\",\"scope\":\"access\","
			    "\"message\":\"connection complete\","
			    "\"src.addr\":\"10.0.0.1:4711\",\"src.workload\":\"shop\",\"src.namespace\":\"web\","
			    "\"src.identity\":\"spiffe://adit.test/ns/web/sa/"
			    "shop\",\"src.cluster\":\"west\",\"dst.addr\":\"127.0.0.1:6379\","
			    "\"dst.hbone_addr\":\"10.0.0.2:6379\",\"dst.service\":\"cache\",\"dst.workload\":\"redis\","
			    "\"dst.namespace\":\"db\","
			    "\"dst.identity\":\"spiffe://adit.test/ns/db/sa/"
			    "redis\",\"dst.cluster\":\"east\",\"direction\":\"inbound\","
			    "\"bytes_sent\":2000,\"bytes_recv\":100,\"duration\":\"13ms\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void ztunnel_outbound_counts_towards_the_peer(void **state)
{
	const char *fields[] = {"direction", "bytes_recv", "bytes_sent", "src.workload", "dst.workload"};
	struct access_rec rec = rec_full();

	(void)state;
	rec.dir = ACCESS_OUTBOUND;
	rec.src_workload = NULL;
	assert_string_equal(
		line_of(ACCESS_ZTUNNEL, fields, 5, &rec),
		"{\"direction\":\"outbound\",\"bytes_recv\":2000,\"bytes_sent\":100,\"src.workload\":\"redis\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void envoy_line_is_exact(void **state)
{
	struct access_rec rec = rec_full();

	(void)state;
	assert_string_equal(
		line_of(ACCESS_ENVOY, NULL, 0, &rec),
		"{\"start_time\":\"2026-01-02T03:04:05.678Z\",\"method\":\"CONNECT\",\"path\":null,\"protocol\":\"HTTP/"
		"2\","
		"\"response_code\":200,\"response_flags\":\"-\",\"response_code_details\":\"via_upstream\","
		"\"connection_termination_details\":null,\"upstream_transport_failure_reason\":null,\"bytes_received\":"
		"100,"
		"\"bytes_sent\":2000,\"duration\":13,\"upstream_service_time\":null,\"x_forwarded_for\":null,\"user_"
		"agent\":null,"
		"\"request_id\":\"0af7651916cd43dd8448eb211c80319c\",\"authority\":\"10.0.0.2:6379\","
		"\"upstream_host\":\"127.0.0.1:6379\",\"upstream_cluster\":\"local-redis\",\"upstream_local_address\":"
		"null,"
		"\"downstream_local_address\":\"10.0.0.2:6379\",\"downstream_remote_address\":\"10.0.0.1:4711\","
		"\"requested_server_name\":null,\"route_name\":\"redis\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void envoy_says_why(void **state)
{
	const char *fields[] = {"response_code_details", "upstream_transport_failure_reason",
				"connection_termination_details"};
	struct access_rec rec = rec_full();

	(void)state;
	rec.ok = false;
	rec.status = 403;
	rec.response_flags = "UAEX";
	rec.closed_by = "adit";
	assert_string_equal(line_of(ACCESS_ENVOY, fields, 1, &rec),
			    "{\"response_code_details\":\"rbac_access_denied_matched_policy[allow-web]\"}\n");
	rec.status = 404;
	rec.response_flags = "UF,NR";
	rec.error = "refused";
	assert_string_equal(
		line_of(ACCESS_ENVOY, fields, 3, &rec),
		"{\"response_code_details\":\"route_not_found\",\"upstream_transport_failure_reason\":\"refused\","
		"\"connection_termination_details\":null}\n");
	rec.response_flags = "UFX";
	assert_string_equal(line_of(ACCESS_ENVOY, fields, 3, &rec),
			    "{\"response_code_details\":null,\"upstream_transport_failure_reason\":null,"
			    "\"connection_termination_details\":\"refused\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void level_tells_refusals_from_failures(void **state)
{
	const char *fields[] = {"level"};
	struct access_rec rec = rec_full();

	(void)state;
	rec.ok = false;
	rec.status = 401;
	assert_string_equal(line_of(ACCESS_NATIVE, fields, 1, &rec), "{\"level\":\"warn\"}\n");
	rec.dir = ACCESS_OUTBOUND; /* the peer refused us: somebody must act here */
	assert_string_equal(line_of(ACCESS_NATIVE, fields, 1, &rec), "{\"level\":\"error\"}\n");
	line_of(0, NULL, 0, NULL);
}

static void hostile_text_stays_one_json_line(void **state)
{
	const char *fields[] = {"peer_metadata", "mismatch"};
	struct access_rec rec = rec_full();

	(void)state;
	rec.mismatch = true;
	rec.peer_headers = "x=\"\n{\x1b\xff";
	assert_string_equal(line_of(ACCESS_NATIVE, fields, 2, &rec),
			    "{\"peer_metadata\":\"x=\\\"\\n{\\u001b\xef\xbf\xbd\",\"mismatch\":true}\n");
	line_of(0, NULL, 0, NULL);
}

static void long_strings_are_cut_at_a_character(void **state)
{
	const char *fields[] = {"error"};
	struct access_rec rec = rec_full();
	char big[5000];
	const char *line;

	(void)state;
	memset(big, 'a', sizeof(big));
	big[sizeof(big) - 1] = '\0';
	memcpy(big + ACCESS_STR_MAX - 2, "\xe2\x82\xac", 3); /* straddles the limit */
	rec.error = big;
	line = line_of(ACCESS_NATIVE, fields, 1, &rec);
	assert_int_equal(strlen(line), strlen("{\"error\":\"\"}\n") + ACCESS_STR_MAX - 2);
	assert_null(strstr(line, "\xef\xbf\xbd"));
	line_of(0, NULL, 0, NULL);
}

static void unknown_fields_are_named(void **state)
{
	const char *fields[] = {"time", "src.addr"};
	struct cfg_access_log cfg = {.enabled = true, .path = "stdout", .fields = fields, .n_fields = 2};
	struct access_format f;
	struct err e = {0};

	(void)state;
	assert_string_equal(access_fields_known(ACCESS_NATIVE, fields, 2), "src.addr");
	assert_null(access_fields_known(ACCESS_ZTUNNEL, fields, 2));
	assert_null(access_fields_known(ACCESS_NATIVE, fields, 1));
	assert_int_equal(access_format_init(&f, &cfg, &node, &e), -EINVAL);
	assert_string_equal(e.msg, "access log: unknown field 'src.addr'");
}

static void full_ring_drops_and_counts(void **state)
{
	struct access_rec rec = rec_full();
	struct access_ring r;
	uint32_t n, kept = 0;

	(void)state;
	assert_int_equal(access_ring_init(&r, 4096), 0);
	for (int i = 0; i < 100; i++)
		access_emit(&r, &rec);
	while (bytering_peek(&r.ring, &n)) {
		bytering_release(&r.ring);
		kept++;
	}
	assert_true(kept > 3);
	assert_int_equal(kept + atomic_load(&r.ring.dropped), 100);
	access_ring_finish(&r);
}

/* ---- the thread ---- */

static char path[] = "/tmp/adit-test-access-XXXXXX";

static struct access_log *start(struct access_ring **rings, uint32_t n, const char *to)
{
	struct cfg_access_log cfg = {.enabled = true, .path = to, .format = ACCESS_NATIVE};
	struct access_log *l;
	struct err e = {0};

	if (access_log_start(&l, &cfg, &node, rings, n, &e) < 0)
		fail_msg("%s", e.msg);
	return l;
}

static uint64_t lines_in(const char *file)
{
	FILE *f = fopen(file, "re");
	uint64_t lines = 0;
	int c, last = '\n';

	assert_non_null(f);
	while ((c = getc(f)) != EOF) {
		if (last == '\n')
			assert_int_equal(c, '{');
		lines += c == '\n';
		last = c;
	}
	fclose(f);
	assert_int_equal(last, '\n');
	return lines;
}

#define BURST 20000

static void *producer(void *arg)
{
	struct access_rec rec = rec_full();

	for (uint32_t i = 0; i < BURST; i++) {
		rec.conn_id = i;
		access_emit(arg, &rec);
		if (i % 256 == 0)
			usleep(1000);
	}
	return NULL;
}

static void every_record_is_written_or_counted(void **state)
{
	struct access_ring r[2], *rings[2] = {&r[0], &r[1]};
	pthread_t t[2];
	struct access_log *l;

	(void)state;
	for (int i = 0; i < 2; i++)
		assert_int_equal(access_ring_init(&r[i], 1u << 18), 0);
	assert_int_equal(truncate(path, 0), 0);
	l = start(rings, 2, path);
	for (int i = 0; i < 2; i++)
		pthread_create(&t[i], NULL, producer, &r[i]);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	access_log_stop(l); /* drains */
	assert_int_equal(lines_in(path) + r[0].ring.dropped + r[1].ring.dropped, 2 * BURST);
	for (int i = 0; i < 2; i++)
		access_ring_finish(&r[i]);
}

static bool eventually(const struct access_log *l, uint64_t written, uint64_t lost)
{
	for (int i = 0; i < 400; i++) {
		if (access_log_written(l) >= written && access_log_lost(l) >= lost)
			return true;
		usleep(10000);
	}
	return false;
}

static void lines_appear_without_stopping(void **state)
{
	struct access_rec rec = rec_full();
	struct access_ring r, *rings[1] = {&r};
	struct access_log *l;

	(void)state;
	access_ring_init(&r, 1u << 16);
	assert_int_equal(truncate(path, 0), 0);
	l = start(rings, 1, path);
	access_emit(&r, &rec);
	assert_true(eventually(l, 1, 0));
	assert_int_equal(lines_in(path), 1);
	access_log_stop(l);
	access_ring_finish(&r);
}

static void reopen_follows_rotation(void **state)
{
	struct access_rec rec = rec_full();
	struct access_ring r, *rings[1] = {&r};
	struct access_log *l;
	char old[sizeof(path) + 4];
	struct stat st;

	(void)state;
	access_ring_init(&r, 1u << 16);
	assert_int_equal(truncate(path, 0), 0);
	l = start(rings, 1, path);
	access_emit(&r, &rec);
	assert_true(eventually(l, 1, 0));
	snprintf(old, sizeof(old), "%s.1", path);
	assert_int_equal(rename(path, old), 0);
	access_log_reopen(l);
	for (int i = 0; i < 400 && stat(path, &st) < 0; i++)
		usleep(10000);
	access_emit(&r, &rec);
	access_log_stop(l);
	assert_int_equal(lines_in(old), 1);
	assert_int_equal(lines_in(path), 1);
	unlink(old);
	access_ring_finish(&r);
}

static void a_full_disk_is_counted_and_survived(void **state)
{
	struct access_rec rec = rec_full();
	struct access_ring r, *rings[1] = {&r};
	struct access_log *l;

	(void)state;
	if (access("/dev/full", W_OK) < 0)
		skip();
	access_ring_init(&r, 1u << 16);
	l = start(rings, 1, "/dev/full");
	access_emit(&r, &rec);
	access_emit(&r, &rec);
	assert_true(eventually(l, 0, 2));
	assert_int_equal(access_log_written(l), 0);
	access_log_stop(l);
	access_ring_finish(&r);
}

static void a_reader_that_left_is_counted_and_survived(void **state)
{
	struct access_rec rec = rec_full();
	struct access_ring r, *rings[1] = {&r};
	struct access_log *l;
	char fifo[sizeof(path) + 6];
	int rd;

	(void)state;
	snprintf(fifo, sizeof(fifo), "%s.fifo", path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	rd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(rd >= 0);
	access_ring_init(&r, 1u << 16);
	l = start(rings, 1, fifo);
	access_emit(&r, &rec);
	assert_true(eventually(l, 1, 0));
	close(rd);
	access_emit(&r, &rec);
	assert_true(eventually(l, 1, 1));
	access_log_stop(l);
	unlink(fifo);
	access_ring_finish(&r);
}

/* A reader that does not read for a while gets whole lines afterwards, also when a block was cut in the middle. */
static void a_cut_line_is_ended_before_the_next(void **state)
{
	struct access_rec rec = rec_full();
	struct access_ring r, *rings[1] = {&r};
	struct access_log *l;
	char fifo[sizeof(path) + 6];
	static char buf[1 << 20];
	size_t got = 0, torn = 0;
	ssize_t n;
	int rd;

	(void)state;
	snprintf(fifo, sizeof(fifo), "%s.fifo", path);
	assert_int_equal(mkfifo(fifo, 0600), 0);
	rd = open(fifo, O_RDONLY | O_NONBLOCK | O_CLOEXEC);
	assert_true(rd >= 0);
	access_ring_init(&r, 1u << 18);
	l = start(rings, 1, fifo);
	for (int i = 0; i < 150; i++)
		access_emit(&r, &rec); /* more than a pipe holds, less than the ring */
	assert_true(eventually(l, 1, 1));
	for (int round = 0; round < 20; round++) {
		while ((n = read(rd, buf + got, sizeof(buf) - 1 - got)) > 0)
			got += (size_t)n;
		if (round == 0)
			access_emit(&r, &rec);
		usleep(20000);
	}
	access_log_stop(l);
	while ((n = read(rd, buf + got, sizeof(buf) - 1 - got)) > 0)
		got += (size_t)n;
	assert_int_equal(buf[got - 1], '\n');
	for (char *p = buf, *nl; (nl = memchr(p, '\n', (size_t)(buf + got - p))); p = nl + 1) {
		assert_int_equal(*p, '{');
		torn += nl[-1] != '}';
	}
	assert_true(torn <= 1);
	close(rd);
	unlink(fifo);
	access_ring_finish(&r);
}

static void no_file_is_an_error_with_a_sentence(void **state)
{
	struct cfg_access_log cfg = {.enabled = true, .path = "/nonexistent/dir/access.log"};
	struct access_log *l = NULL;
	struct err e = {0};

	(void)state;
	assert_int_equal(access_log_start(&l, &cfg, &node, NULL, 0, &e), -ENOENT);
	assert_string_equal(e.msg, "access log: cannot open /nonexistent/dir/access.log: No such file or directory");
	assert_null(l);
	cfg.enabled = false;
	assert_int_equal(access_log_start(&l, &cfg, &node, NULL, 0, &e), 0);
	assert_null(l);
	access_log_reopen(l);
	access_log_stop(l);
	assert_int_equal(access_log_written(l), 0);
}

static int setup(void **state)
{
	int fd = mkstemp(path);

	(void)state;
	if (fd < 0)
		return -1;
	close(fd);
	return 0;
}

static int teardown(void **state)
{
	(void)state;
	return unlink(path);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(native_line_is_exact),
		cmocka_unit_test(absent_facts_have_no_key),
		cmocka_unit_test(ztunnel_line_is_exact),
		cmocka_unit_test(ztunnel_outbound_counts_towards_the_peer),
		cmocka_unit_test(envoy_line_is_exact),
		cmocka_unit_test(envoy_says_why),
		cmocka_unit_test(level_tells_refusals_from_failures),
		cmocka_unit_test(hostile_text_stays_one_json_line),
		cmocka_unit_test(long_strings_are_cut_at_a_character),
		cmocka_unit_test(unknown_fields_are_named),
		cmocka_unit_test(full_ring_drops_and_counts),
		cmocka_unit_test(every_record_is_written_or_counted),
		cmocka_unit_test(lines_appear_without_stopping),
		cmocka_unit_test(reopen_follows_rotation),
		cmocka_unit_test(a_full_disk_is_counted_and_survived),
		cmocka_unit_test(a_reader_that_left_is_counted_and_survived),
		cmocka_unit_test(a_cut_line_is_ended_before_the_next),
		cmocka_unit_test(no_file_is_an_error_with_a_sentence),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
