/* aditctl as people use it: command lines, tables, JSON and exit codes, against the real API with a daemon of numbers. */
#include "../../ctl/change.c"
#include "../../ctl/run.c"

#include "admin/admin.h"
#include "unit/fake_inspect.h"
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>

static struct daemon d;
static char dir[] = "/tmp/adit-test-ctl-XXXXXX";
static char path[64];
static struct admin *admin;
static pthread_t loop;
static int quit[2];
static char *out, *err;
static uint64_t drained_within;

/* Run a command line (blank-separated). Return: exit code; what was written is in out and err. */
static int ctl(const char *line)
{
	char copy[256], *argv[24] = {"aditctl"}, *save;
	size_t out_n, err_n;
	FILE *o, *e;
	int argc = 1, r;

	snprintf(copy, sizeof(copy), "%s", line);
	for (char *s = strtok_r(copy, " ", &save); s && argc < 24; s = strtok_r(NULL, " ", &save))
		argv[argc++] = s;
	free(out);
	free(err);
	o = open_memstream(&out, &out_n);
	e = open_memstream(&err, &err_n);
	r = ctl_run(argc, argv, o, e);
	fclose(o);
	fclose(e);
	return r;
}

static void shows(const char *line, const char *want)
{
	if (ctl(line) != CTL_OK)
		fail_msg("%s: %s", line, err);
	if (!strstr(out, want))
		fail_msg("%s: no\n%s\nin\n%s", line, want, out);
	assert_string_equal(err, "");
}

static void says(int code, const char *line, const char *want)
{
	assert_int_equal(ctl(line), code);
	if (!strstr(err, want))
		fail_msg("%s: no '%s' in '%s'", line, want, err);
	assert_string_equal(out, "");
}

static void status_is_read_at_a_glance(void **state)
{
	(void)state;
	assert_int_equal(ctl("status"), CTL_OK);
	assert_string_equal(out, "node         node-a\n"
				 "version      0.1.0, wolfSSL 5.5.4 tuned\n"
				 "state        ready, up 3d04h, pid 812, 8 workers\n"
				 "kernel       6.1.0-fake: splice on; missing: evidence (aditctl kernel says why)\n"
				 "config       3 listeners, 4 clusters; generation 0\n"
				 "connections  2\n"
				 "tunnels      1 in, 4 out, 812 streams\n"
				 "buffers      12M of 256M\n"
				 "overload     refuse: memory 4%, 93% of the cgroup's 128M (sockets: 40M), descriptors 5%, CPU 20%\n"
				 "access log   3 records dropped\n");
}

static void tables_are_exact(void **state)
{
	(void)state;
	assert_int_equal(ctl("listener"), CTL_OK);
	assert_string_equal(out, "NAME       TYPE      ADDRESS         TO                      ROUTES  ACTIVE  "
				 "ACCEPTED  FAILED    IN   OUT\n"
				 "outbound   tcp       10.0.0.1:15001  cluster:via-audit            1       0       "
				 "100       2  3.0M  1.4K\n"
				 "tunnel-in  tunnel    10.0.0.1:15008  -                            1       1       "
				 "101       2  3.0M  1.4K\n"
				 "audit      internal  -               cluster:to-b (forward)       0       2       "
				 "102       2  3.0M  1.4K\n");
	assert_int_equal(ctl("chain"), CTL_OK);
	assert_string_equal(out, "ENTRY      CHAIN                                                          WHEN\n"
				 "outbound   outbound > audit > cluster:to-b (forward)                      audited: "
				 "authority ends with .db.local\n"
				 "outbound   outbound > cluster:via-audit > audit > cluster:to-b (forward)  -\n"
				 "tunnel-in  tunnel-in > cluster:local-redis                                redis: "
				 "port 6379, x-client-id=node-a\n"
				 "tunnel-in  tunnel-in > refused (no route)                                 -\n");
	assert_int_equal(ctl("cluster"), CTL_OK);
	assert_string_equal(
		out,
		"CLUSTER      TYPE          ENDPOINT          ADDRESS         ACTIVE  TOTAL  FAILED  TUNNELS  QUEUED\n"
		"to-b         tunnel        10.0.0.2:15008    10.0.0.2:15008     812   5000       0        4       0\n"
		"to-b         tunnel        10.0.0.2:15008    10.0.0.2:15008     812   5000       0        4       0\n"
		"local-redis  tcp           redis.local:6379  not resolved         0      0       3        0       1\n"
		"anywhere     original_dst  10.0.0.0/8:80-90  -                    -      -       -        -       -\n"
		"via-audit    internal      audit             -                    -      -       -        -       "
		"-\n");
	assert_int_equal(ctl("tunnel"), CTL_OK);
	assert_string_equal(out, "ID  DIR  STATE  PEER            IDENTITY                    STREAMS  TOTAL    RX  TX "
				 "   RTT    AGE  IDLE  ENGINE     WHY\n"
				 " 3  out  open   10.0.0.2:15008  spiffe://adit.test/node-b  812/1024   5000  1.0G   0 "
				 " 230us  2h00m  10us  ktls/user  receive: half a record was read\n"
				 " 1  in   open   10.0.0.9:50000  -                               0/0      0     0   0 "
				 "     -    0us   0us  user       -\n");
}

static void connections_show_legs_peer_and_metadata(void **state)
{
	(void)state;
	shows("conn",
	      "\n               7  open      10.0.0.1:40000  10.0.0.2:15008  tcp>t3/41  MISMATCH adit.test/node-b  "
	      "x-server-id=node-b, rack=?[31mred  1.5K   24M  4m05s  relay  outbound > audit > cluster:to-b\n");
	shows("conn list",
	      "\n9007199254740993  half-src  10.0.0.9:50000  127.0.0.1:6379  t1/5>tcp   adit.test/node-c ");
	shows("conn -l nothing", "no connection matches\n");
	shows("conn --limit 1", "1 more; --limit 0 shows all\n");
	shows("-o wide conn", "ORIGINAL-DST");
	shows("conn show 7",
	      "\nmismatch              the peer's metadata contradicts its certificate; the certificate counts\n");
	shows("conn show 7", "\nsent                  1.5K (1536 bytes)\n");
	shows("conn 9007199254740993", "\nmover                 leg\nwhy no faster one     carries bulk\n");
	shows("conn 9007199254740993", "\nbypass refused        order 12, reader 3\n");
}

static void the_kernel_plane_is_one_table(void **state)
{
	(void)state;
	d.bypass = false;
	assert_int_equal(ctl("kernel"), CTL_OK);
	assert_string_equal(out, "Linux 6.1.0-fake\n"
				 "NAME      STATE    WHY OR DETAIL\n"
				 "bypass    off      kernel.bypass.enabled is false\n"
				 "evidence  missing  no fentry on tcp_bpf_recvmsg\n"
				 "splice    on       17 MB moved\n");
	says(CTL_FAILED, "kernel bypass off", "there is no bypass to switch");
	d.bypass = true;
	shows("kernel", "\nbypass, since the start: 0 joined, 0 legs, 0 refused, 0 demoted, 4.8K in 50 messages; 0 of 64 slots used\n"
			"bypass, messages that went by TCP: ");
	shows("kernel bypass off", "bypass is off: what was in it goes by TCP, through the agent\n");
	assert_int_equal(d.switched, 2);
	shows("kernel bypass on", "bypass is on\n");
	assert_int_equal(d.switched, 1);
	shows("kernel -o json", "\"release\": \"6.1.0-fake\"");
	shows("listener -o wide", "blue   steered");
	d.bypass = false;
}

static void limits_are_two_tables(void **state)
{
	(void)state;
	assert_int_equal(ctl("limits"), CTL_OK);
	assert_string_equal(out, "AT         NAME       ACTIVE     MAX  RATE  BURST  LEFT  REFUSED  BY-RATE\n"
				 "daemon     limits        812  100000     -      -     -        0        0\n"
				 "listener   tunnel-in       6       -   100    200   199        0        3\n"
				 "principal  batch           7      10     -      -     -        4        0\n"
				 "\n"
				 "AT         NAME   WHO                        ACTIVE  LEFT  REFUSED  BY-RATE  IDLE\n"
				 "principal  batch  spiffe://td/ns/batch/sa/a       7     0        4        0  2.0s\n"
				 "principal  batch  (all others together)           0     0        0        0   0us\n");
	shows("limits -o wide", "TUNNELS/S");
	shows("limits -n 1 -o json", "\"subjects\": [");
}

static void json_is_the_apis(void **state)
{
	json_t *o;

	(void)state;
	assert_int_equal(ctl("-o json conn --peer node-c"), CTL_OK);
	o = json_loads(out, 0, NULL);
	assert_int_equal(js_u64(o, "matched"), 1);
	assert_int_equal(js_u64(json_array_get(json_object_get(o, "conns"), 0), "id"), 9007199254740993);
	json_decref(o);
	shows("log-level -o json", "\"chain\": \"info\"");
	shows("metrics", "adit_build_info{");
}

static void stats_hide_zeros_until_asked(void **state)
{
	(void)state;
	shows("stats", "connections_accepted   4321\n");
	shows("stats", "resets_sent.CANCEL        2\n");
	shows("stats", "\nLATENCY    COUNT    P50    P90    P99    MAX\nopen           1  831us  831us  831us  "
		       "831us\nqueue          0      -      -      -      -\n");
	assert_null(strstr(out, "goaway"));
	shows("stats goaway", "goaway_received      0\n");
	shows("stats -o wide", "goaway_received");
	shows("stats nonsense", "nothing matches");
}

static void changes_are_made_and_confirmed(void **state)
{
	(void)state;
	shows("conn kill 7", "connection 7 closed\n");
	assert_int_equal(d.killed, 1);
	says(CTL_FAILED, "conn kill 8", "aditctl conn: no connection 8; it may have ended");
	shows("log-level tls=debug net=warn", "tls     debug\n");
	shows("log-level info", "net     info\n");
	says(CTL_FAILED, "log-level tsl=debug", "unknown log area 'tsl'; there are: all, main");
	shows("drain --no-wait --within 250ms", "draining: no new connections; aditd ends within 250ms\n");
	assert_int_equal(drained_within, 250);
	shows("drain --no-wait", "aditd ends within 5.0s\n");
}

static void why_is_told_as_a_tree(void **state)
{
	(void)state;
	shows("policy explain --dst 10.0.0.9:80", "goes through\n"
						 "  enters by listener 'outbound' (captured): its capture takes this destination\n"
						 "      note: a note\n"
						 "  [+] listener 'outbound'\n"
						 "      policies: allowed by web/rules/1: an ALLOW policy matches and no DENY policy does\n"
						 "        [+] allow web, which decides\n");
	shows("policy explain --dst 10.0.0.9:80", "            rule 0: namespace is 'ops?[31m'; the rule wants shop\n"
						 "        7 more that do not match\n"
						 "        dry run: try/rules/0 would deny it\n"
						 "        dry run: default-deny would deny it\n"
						 "      [-] route redis: port is 80; it wants 6379\n"
						 "      [+] no route matches: the default, to cluster 'to-b'\n"
						 "  [+] short way to listener 'tunnel-in': the endpoint is this node\n");
	shows("policy explain --dst 10.0.0.9:80", "      endpoint node-b:15008, resolved: 10.0.0.2:15008; 0 live, 0 failed of 0\n"
						 "      worker 0: takes 10.0.0.2:15008: goes into tunnel 3, which has 2 streams and room for 10\n"
						 "      worker 1: takes 10.0.0.2:15008: a new tunnel is dialled\n"
						 "      not the short way: the endpoint is another node\n"
						 "  [-] splice: off\n");
	shows("policy explain --dst 10.0.0.9:6666", "DENIED: denied by policy no-dev/rules/0 at cluster 'to-b'\n");
	shows("policy explain --dst 10.0.0.9:6666", "        [x] deny no-dev, which decides\n            rule 0 matches\n");
	says(CTL_FAILED, "policy explain --listener nobody", "there is no listener 'nobody'");
	says(CTL_USAGE, "policy explain", "want --dst ADDRESS:PORT");
	says(CTL_USAGE, "policy explain --dst 1.2.3.4:5 --header x", "--header 'x': want NAME=VALUE");
	says(CTL_USAGE, "policy explain --dst 1.2.3.4:5 --follow", "does not take --follow");
}

static void what_became_of_a_connection_is_told(void **state)
{
	(void)state;
	shows("conn explain 7", "connection 7: open for 2.0s\n"
				"from    10.0.0.7:1\n"
				"asked   10.0.0.9:80\n"
				"chain   outbound > cluster:to-b\n"
				"bytes   1.5K sent, 0 received, in 2.0s\n"
				"time\n"
				"  35ms      waiting for a tunnel\n"
				"  41ms      in all until it was open\n"
				"slow?\n"
				"  * it waited 35 ms for a tunnel with room\n"
				"mover   relay, no faster one: young\n"
				"such a connection now: goes through\n");
	shows("conn explain 8", "connection 8: denied: denied by policy no-dev/rules/0 at cluster 'to-b'; ended by aditd (UAEX)\n");
	shows("conn explain 8", "  it was never open\nslow?\n  nothing kept it waiting\n");
	shows("conn explain 8", "such a connection now (the peer's metadata is not remembered): DENIED: denied by policy");
	says(CTL_FAILED, "conn explain 9", "neither live nor remembered");
	says(CTL_USAGE, "conn explain", "want one connection id");
}

static void denials_are_a_table(void **state)
{
	(void)state;
	shows("denied", "TIME              COUNT  KIND      SOURCE      IDENTITY      LISTENER   DESTINATION  BY              WHY");
	shows("denied", "12  policy    10.0.0.7:1  -             outbound   -            no-dev/rules/0  denied by policy no-dev/rules/0  aditctl conn explain 8");
	shows("denied -n 1", "1 more; --limit 0 shows all\n");
	shows("denied --listener nobody", "no denial matches\n");
	shows("denied --since 5m", "no denial matches\n");
	says(CTL_USAGE, "denied --since soon", "want a time like 30s");
	says(CTL_USAGE, "denied -f -o json", "--follow is for people");
}

static void wrong_command_lines_are_explained(void **state)
{
	(void)state;
	says(CTL_USAGE, "", "usage: aditctl");
	says(CTL_USAGE, "nothing", "aditctl: no command 'nothing'\nTry: aditctl --help\n");
	says(CTL_USAGE, "status extra", "aditctl status: unexpected 'extra'\nTry: aditctl status --help\n");
	says(CTL_USAGE, "status --limit 3", "aditctl status: does not take --limit");
	says(CTL_USAGE, "status --nonsense", "unknown option --nonsense");
	says(CTL_USAGE, "status -x", "unknown option -x");
	says(CTL_USAGE, "status -o xml", "-o 'xml': want table, json or wide");
	says(CTL_USAGE, "status -o", "-o: value missing");
	says(CTL_USAGE, "status --output", "--output: value missing");
	says(CTL_USAGE, "status --help=yes", "--help takes no value");
	says(CTL_USAGE, "status --watch=x", "--watch=x: want seconds");
	says(CTL_USAGE, "conn show", "show: want one connection id");
	says(CTL_USAGE, "conn kill seven", "'seven' is no connection id");
	says(CTL_USAGE, "conn drop 7", "'drop': want list, show ID, explain ID or kill ID");
	says(CTL_USAGE, "conn show 7 --watch", "--watch is for the list");
	says(CTL_USAGE, "kernel bypass", "bypass: want on or off");
	says(CTL_USAGE, "kernel bypass maybe", "bypass: want on or off");
	says(CTL_USAGE, "kernel splice off", "'splice': want nothing, or bypass on|off");
	says(CTL_USAGE, "kernel bypass on --watch", "--watch is for the table");
	says(CTL_USAGE, "drain --within 5", "--within '5': want a time like");
	says(CTL_USAGE, "log-level =debug", "'=debug': want AREA=LEVEL");
	says(CTL_USAGE, "config", "want: config check [FILE]");
	says(CTL_FAILED, "conn --limit ten", "limit 'ten': want a whole number");
}

static void every_command_has_help(void **state)
{
	(void)state;
	shows("--help", "usage: aditctl [-s SOCKET]");
	for (size_t i = 0; i < ARRAY_LEN(commands); i++) {
		char line[64], want[64];

		snprintf(line, sizeof(line), "%s --help", commands[i].name);
		snprintf(want, sizeof(want), "usage: aditctl %s", commands[i].name);
		shows(line, want);
		for (size_t k = 0; k < ARRAY_LEN(options); k++) {
			snprintf(want, sizeof(want), "--%s", options[k].name);
			if (options[k].takes & commands[i].takes && !strstr(out, want))
				fail_msg("%s does not tell of %s", line, want);
		}
		snprintf(line, sizeof(line), "help %s", commands[i].name);
		assert_int_equal(ctl(line), CTL_OK);
		snprintf(want, sizeof(want), "\n  %s", commands[i].name);
		shows("help", want);
	}
	says(CTL_USAGE, "help nothing", "no command 'nothing'");
}

static void no_daemon_is_exit_3_with_a_hint(void **state)
{
	(void)state;
	says(CTL_UNREACHABLE, "status -s /nonexistent/a.sock", "no socket /nonexistent/a.sock: is aditd running");
	says(CTL_UNREACHABLE, "conn kill 7 --socket=/nonexistent/a.sock", "is aditd running");
	says(CTL_UNREACHABLE, "conn -w -s /nonexistent/a.sock", "is aditd running");
	shows("version -s /nonexistent/a.sock", "aditd   not reachable");
	shows("version", "aditd   0.1.0, wolfSSL");
}

static void a_configuration_is_checked_without_a_daemon(void **state)
{
	char file[80], line[128], want[128];
	FILE *f;

	(void)state;
	snprintf(file, sizeof(file), "%s/bad.yaml", dir);
	f = fopen(file, "we");
	fputs("node:\n  id: a\nnonsense: 1\n", f);
	fclose(f);
	snprintf(line, sizeof(line), "config check %s -s /nonexistent", file);
	snprintf(want, sizeof(want), "%s:3:1: ", file);
	says(CTL_FAILED, line, want);
	assert_memory_equal(err, want, strlen(want));
	snprintf(line, sizeof(line), "-o json config check %s", file);
	assert_int_equal(ctl(line), CTL_FAILED);
	assert_non_null(strstr(out, "\"ok\": false"));
	assert_non_null(strstr(out, want));
	unlink(file);
}

/* ---- the daemon ---- */

static void on_drain(void *arg, uint64_t within_ms)
{
	(void)arg;
	drained_within = within_ms;
}

static void *run_loop(void *arg)
{
	struct pollfd p[2] = {{.fd = admin_fd(admin), .events = POLLIN}, {.fd = quit[0], .events = POLLIN}};

	(void)arg;
	while (poll(p, 2, -1) >= 0 && !p[1].revents)
		admin_run(admin);
	return NULL;
}

static int setup(void **state)
{
	struct config conf = {.admin_mode = 0600};
	struct err e = {""};

	(void)state;
	if (!mkdtemp(dir) || pipe(quit) < 0)
		return -1;
	snprintf(path, sizeof(path), "%s/admin.sock", dir);
	setenv("ADIT_SOCKET", path, 1);
	fake_setup(&d);
	conf.admin_socket = path;
	if (admin_start(&admin, &d, &conf, &e) < 0) {
		print_error("%s\n", e.msg);
		return -1;
	}
	admin_set_ops(admin, &(struct admin_ops){.drain = on_drain});
	return pthread_create(&loop, NULL, run_loop, NULL);
}

static int teardown(void **state)
{
	(void)state;
	close(quit[1]);
	pthread_join(loop, NULL);
	close(quit[0]);
	admin_stop(admin);
	free(out);
	free(err);
	return rmdir(dir);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(status_is_read_at_a_glance),
		cmocka_unit_test(tables_are_exact),
		cmocka_unit_test(connections_show_legs_peer_and_metadata),
		cmocka_unit_test(the_kernel_plane_is_one_table),
		cmocka_unit_test(limits_are_two_tables),
		cmocka_unit_test(json_is_the_apis),
		cmocka_unit_test(stats_hide_zeros_until_asked),
		cmocka_unit_test(changes_are_made_and_confirmed),
		cmocka_unit_test(why_is_told_as_a_tree),
		cmocka_unit_test(what_became_of_a_connection_is_told),
		cmocka_unit_test(denials_are_a_table),
		cmocka_unit_test(wrong_command_lines_are_explained),
		cmocka_unit_test(every_command_has_help),
		cmocka_unit_test(no_daemon_is_exit_3_with_a_hint),
		cmocka_unit_test(a_configuration_is_checked_without_a_daemon),
	};

	return cmocka_run_group_tests(tests, setup, teardown);
}
