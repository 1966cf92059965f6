/* Configuration: every key reaches its member, every default is what model/config.h says. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "config/config.h"
#include "policy/route.h"

#define PEM "/etc/passwd" /* a readable file: what is in it is not config's business */

static struct config *good(const char *yaml)
{
	struct config *c = NULL;
	struct err e = {""};
	int r = config_parse("t.yaml", yaml, strlen(yaml), &c, &e);

	if (r < 0)
		fail_msg("%s", e.msg);
	return c;
}

static void addr_is(const struct addr *a, const char *want)
{
	char text[ADDR_STR];

	assert_string_equal(addr_str(a, text), want);
}

static void nothing_is_a_configuration_of_defaults(void **state)
{
	static const char *const empty[] = {"", "\n# only a comment\n", "---\n", "{}",
					    "node:\nlog:\nlisteners:\nlimits:\naccess_log:\n"};
	char host[256] = "";
	size_t i;

	(void)state;
	gethostname(host, sizeof(host) - 1);
	for (i = 0; i < sizeof(empty) / sizeof(*empty); i++) {
		struct config *c = good(empty[i]);

		assert_string_equal(c->node.id, host);
		assert_null(c->node.cluster);
		assert_null(c->node.namespace_);
		assert_null(c->node.workload_type);
		assert_null(c->node.workload);
		assert_null(c->node.service);
		assert_null(c->node.version);
		assert_null(c->node.region);
		assert_null(c->node.zone);
		assert_int_equal(c->node.n_metadata + c->node.n_request_headers + c->node.n_response_headers, 0);
		assert_true(c->node.send_baggage && c->node.send_forwarded && c->node.send_traceparent);
		assert_false(c->node.send_peer_metadata);
		assert_in_range(c->workers, 1, 256);
		assert_int_equal(c->mover, MOVER_AUTO);
		assert_string_equal(c->admin_socket, "/run/adit/admin.sock");
		assert_int_equal(c->admin_mode, 0660);
		assert_int_equal(c->metrics.family, AF_UNSPEC);
		assert_int_equal(c->log_format, CFG_LOG_AUTO);
		assert_int_equal(c->log_level, LOG_INFO);
		assert_false(c->access_log.enabled);
		assert_int_equal(c->n_identities + c->n_listeners + c->n_clusters + c->n_endpoints, 0);
		config_free(c);
	}
	config_free(NULL);
}

static void log_levels_are_per_area(void **state)
{
	struct config *c = good("log: {level: warn, areas: {tunnel: debug, tls: error}, format: auto}\n");

	(void)state;
	for (int a = 0; a < LA_AREAS; a++)
		assert_int_equal(c->log_areas[a], a == LA_TUNNEL ? LOG_DBG : a == LA_TLS ? LOG_ERR : LOG_WARN);
	config_free(c);
	c = good("log: {areas: {}}\n");
	assert_int_equal(c->log_areas[LA_MAIN], LOG_INFO);
	config_free(c);
}

static void limits_and_timeouts_have_the_documented_defaults(void **state)
{
	struct config *c = good("");

	(void)state;
	assert_int_equal(c->limits.max_connections, 100000);
	assert_int_equal(c->limits.max_tunnels_in, 4096);
	assert_int_equal(c->limits.memory, 256 << 20);
	assert_int_equal(c->limits.early_data, 65536);
	assert_int_equal(c->limits.stream_window, 262144);
	assert_int_equal(c->limits.stream_window_max, 8 << 20);
	assert_int_equal(c->limits.connection_window, 16 << 20);
	assert_int_equal(c->limits.max_frame_size, 1 << 20);
	assert_int_equal(c->limits.header_bytes, 16384);
	assert_int_equal(c->limits.header_count, 64);
	assert_int_equal(c->limits.metadata_bytes, 8192);
	assert_int_equal(c->limits.rst_rate, 100);
	assert_int_equal(c->limits.ping_rate, 100);
	assert_int_equal(c->limits.settings_rate, 50);
	assert_int_equal(c->limits.empty_data_rate, 100);
	assert_int_equal(c->limits.window_update_rate, 10000);
	assert_int_equal(c->limits.glitch_rate, 100);
	assert_int_equal(c->limits.refused_rate, 500);
	assert_int_equal(c->limits.continuation_max, 20);
	assert_int_equal(c->timeouts.connect_ms, 10000);
	assert_int_equal(c->timeouts.handshake_ms, 10000);
	assert_int_equal(c->timeouts.open_ms, 15000);
	assert_int_equal(c->timeouts.idle_ms, 3600000);
	assert_int_equal(c->timeouts.ping_ms, 10000);
	assert_int_equal(c->timeouts.ping_timeout_ms, 20000);
	assert_int_equal(c->timeouts.drain_ms, 5000);
	config_free(c);
}

static void node_takes_every_key(void **state)
{
	struct config *c;
	char host[256] = "";
	FILE *f = fopen("/etc/hostname", "re");

	(void)state;
	setenv("ADIT_TEST_ENV", "  from env\t", 1);
	c = good("node:\n"
		 "  id: node-a\n  cluster: c1\n  namespace: ns\n  workload_type: cronjob\n  workload: w\n  service: s\n"
		 "  version: v1\n  region: r\n  zone: z\n"
		 "  metadata:\n    team: blue\n    Case.Kept: 'two words'\n    env: {env: ADIT_TEST_ENV}\n"
		 "  request_headers: { X-Client-Id: node-a, x-pid: {env: ADIT_TEST_ENV} }\n"
		 "  response_headers: { x-server-id: caf\xc3\xa9 }\n"
		 "  send: { baggage: false, forwarded: false, traceparent: false, peer_metadata: true }\n");
	assert_string_equal(c->node.id, "node-a");
	assert_string_equal(c->node.cluster, "c1");
	assert_string_equal(c->node.namespace_, "ns");
	assert_string_equal(c->node.workload_type, "cronjob");
	assert_string_equal(c->node.workload, "w");
	assert_string_equal(c->node.service, "s");
	assert_string_equal(c->node.version, "v1");
	assert_string_equal(c->node.region, "r");
	assert_string_equal(c->node.zone, "z");
	assert_int_equal(c->node.n_metadata, 3);
	assert_string_equal(c->node.metadata[0].key, "team");
	assert_string_equal(c->node.metadata[0].value, "blue");
	assert_string_equal(c->node.metadata[1].key, "Case.Kept");
	assert_string_equal(c->node.metadata[1].value, "two words");
	assert_string_equal(c->node.metadata[2].value, "from env");
	assert_int_equal(c->node.n_request_headers, 2);
	assert_string_equal(c->node.request_headers[0].key, "x-client-id");
	assert_string_equal(c->node.request_headers[0].value, "node-a");
	assert_string_equal(c->node.request_headers[1].value, "from env");
	assert_int_equal(c->node.n_response_headers, 1);
	assert_string_equal(c->node.response_headers[0].key, "x-server-id");
	assert_string_equal(c->node.response_headers[0].value, "caf\xc3\xa9");
	assert_false(c->node.send_baggage || c->node.send_forwarded || c->node.send_traceparent);
	assert_true(c->node.send_peer_metadata);
	config_free(c);

	if (!f)
		return;
	if (fscanf(f, "%255s", host) == 1) {
		c = good("node: {metadata: {h: {file: /etc/hostname}}}");
		assert_string_equal(c->node.metadata[0].value, host);
		config_free(c);
	}
	fclose(f);
}

static void flat_sections_take_every_key(void **state)
{
	struct config *c = good(
		"workers: 3\n"
		"mover: relay\n"
		"admin: { socket: sub/a.sock, mode: \"0600\", metrics: \"[::1]:15020\" }\n"
		"log: { level: debug, format: journal }\n"
		"access_log: { path: stderr, format: ztunnel }\n"
		"limits:\n"
		"  max_connections: 1\n  max_tunnels_in: 2\n  memory: 2GiB\n  early_data: 4KiB\n  stream_window: "
		"65535\n"
		"  stream_window_max: 1MiB\n  connection_window: 2MiB\n  max_frame_size: 16384\n  header_bytes: 8KiB\n"
		"  header_count: 10\n  metadata_bytes: 1000\n"
		"  rates: { rst: 1, ping: 2, settings: 3, empty_data: 4, window_update: 5, glitch: 0 }\n"
		"  continuation_max: 7\n"
		"timeouts: { connect: 500ms, handshake: 2s, open: 3m, idle: 0, ping: 0s, ping_timeout: 4h, drain: 2d "
		"}\n");

	(void)state;
	assert_int_equal(c->workers, 3);
	assert_int_equal(c->mover, MOVER_RELAY);
	assert_string_equal(c->admin_socket, "sub/a.sock");
	assert_int_equal(c->admin_mode, 0600);
	addr_is(&c->metrics, "[::1]:15020");
	assert_int_equal(c->log_level, LOG_DBG);
	assert_int_equal(c->log_format, CFG_LOG_JOURNAL);
	assert_true(c->access_log.enabled);
	assert_string_equal(c->access_log.path, "stderr");
	assert_int_equal(c->access_log.format, ACCESS_ZTUNNEL);
	assert_int_equal(c->access_log.n_fields, 0);
	assert_int_equal(c->limits.max_connections, 1);
	assert_int_equal(c->limits.max_tunnels_in, 2);
	assert_int_equal(c->limits.memory, 2ull << 30);
	assert_int_equal(c->limits.early_data, 4096);
	assert_int_equal(c->limits.stream_window, 65535);
	assert_int_equal(c->limits.stream_window_max, 1 << 20);
	assert_int_equal(c->limits.connection_window, 2 << 20);
	assert_int_equal(c->limits.max_frame_size, 16384);
	assert_int_equal(c->limits.header_bytes, 8192);
	assert_int_equal(c->limits.header_count, 10);
	assert_int_equal(c->limits.metadata_bytes, 1000);
	assert_int_equal(c->limits.rst_rate, 1);
	assert_int_equal(c->limits.ping_rate, 2);
	assert_int_equal(c->limits.settings_rate, 3);
	assert_int_equal(c->limits.empty_data_rate, 4);
	assert_int_equal(c->limits.window_update_rate, 5);
	assert_int_equal(c->limits.glitch_rate, 0);
	assert_int_equal(c->limits.continuation_max, 7);
	assert_int_equal(c->timeouts.connect_ms, 500);
	assert_int_equal(c->timeouts.handshake_ms, 2000);
	assert_int_equal(c->timeouts.open_ms, 180000);
	assert_int_equal(c->timeouts.idle_ms, 0);
	assert_int_equal(c->timeouts.ping_ms, 0);
	assert_int_equal(c->timeouts.ping_timeout_ms, 4 * 3600000);
	assert_int_equal(c->timeouts.drain_ms, 2 * 86400000);
	assert_int_equal(c->drain.jitter_ms, 86400000); /* half of it */
	assert_int_equal(c->drain.quiet_ms, 0);
	assert_int_equal(c->watchdog_ms, 10000);
	config_free(c);

	c = good("drain: { quiet: 2s, within: 30s, jitter: 10s }\nwatchdog: 0\ntimeouts: { idle: 1s }\n");
	assert_int_equal(c->timeouts.drain_ms, 30000);
	assert_int_equal(c->drain.quiet_ms, 2000);
	assert_int_equal(c->drain.jitter_ms, 10000);
	assert_int_equal(c->watchdog_ms, 0);
	config_free(c);

	c = good(
		"workers: auto\nadmin: { socket: '', metrics: \"\" }\naccess_log: {}\nlog: {level: error, format: json}");
	assert_null(c->admin_socket);
	assert_int_equal(c->metrics.family, AF_UNSPEC);
	assert_true(c->access_log.enabled);
	assert_string_equal(c->access_log.path, "stdout");
	assert_int_equal(c->access_log.format, ACCESS_NATIVE);
	assert_int_equal(c->log_level, LOG_ERR);
	assert_int_equal(c->log_format, CFG_LOG_JSON);
	config_free(c);
}

static void windows_that_are_not_given_follow_the_one_that_is(void **state)
{
	struct config *c = good("limits: {stream_window: 32MiB}");

	(void)state;
	assert_int_equal(c->limits.stream_window_max, 32 << 20);
	assert_int_equal(c->limits.connection_window, 32 << 20);
	config_free(c);
	c = good("limits: {connection_window: 100000}");
	assert_int_equal(c->limits.stream_window, 100000);
	assert_int_equal(c->limits.stream_window_max, 100000);
	config_free(c);
	c = good("limits: {stream_window_max: 2KiB}");
	assert_int_equal(c->limits.stream_window, 2048);
	config_free(c);
}

static void files_are_relative_to_the_configuration(void **state)
{
	static const char yaml[] = "admin: {socket: a.sock}\naccess_log: {path: /var/x.log}\n";
	struct config *c = NULL;
	struct err e = {""};

	(void)state;
	assert_int_equal(config_parse("/etc/adit/adit.yaml", yaml, strlen(yaml), &c, &e), 0);
	assert_string_equal(c->admin_socket, "/etc/adit/a.sock");
	assert_string_equal(c->access_log.path, "/var/x.log");
	config_free(c);
}

static const char identities[] = "identities:\n"
				 "  - {name: default, certificate: " PEM ", key: " PEM ", ca: " PEM "}\n"
				 "  - {name: other, certificate: " PEM ", key: " PEM ", ca: " PEM
				 ", crl: " PEM ", rotate: expiry, trust_domain: prod.example,\n"
				 "     ciphers: \"TLS_AES_256_GCM_SHA384:TLS13-AES128-GCM-SHA256\"}\n";

static struct config *with_identities(const char *rest)
{
	char all[8192];

	snprintf(all, sizeof(all), "%s%s", identities, rest);
	return good(all);
}

static void identities_take_every_key(void **state)
{
	struct config *c = with_identities("");

	(void)state;
	assert_int_equal(c->n_identities, 2);
	assert_string_equal(c->identities[0].name, "default");
	assert_string_equal(c->identities[0].certificate, PEM);
	assert_string_equal(c->identities[0].key, PEM);
	assert_string_equal(c->identities[0].ca, PEM);
	assert_null(c->identities[0].trust_domain);
	assert_null(c->identities[0].crl);
	assert_int_equal(c->identities[0].rotate, ROTATE_REPLACED);
	assert_string_equal(c->identities[1].crl, PEM);
	assert_int_equal(c->identities[1].rotate, ROTATE_EXPIRY);
	assert_int_equal(c->timeouts.expiry_grace_ms, 300000);
	assert_string_equal(c->identities[0].ciphers, "TLS13-AES128-GCM-SHA256:TLS13-AES256-GCM-SHA384");
	assert_string_equal(c->identities[1].trust_domain, "prod.example");
	assert_string_equal(c->identities[1].ciphers, "TLS13-AES256-GCM-SHA384:TLS13-AES128-GCM-SHA256");
	config_free(c);
}

static void tcp_listener_takes_every_key(void **state)
{
	struct config *c = good(
		"listeners:\n"
		"  - {name: a, type: tcp, address: \"127.0.0.1:9100\", cluster: out, backlog: 7, spread: connection,\n"
		"     max_connections: 9, idle_timeout: 5m, access_log: false}\n"
		"  - {name: b, type: tcp, address: \"[2001:db8::1]:9100\", listener: in}\n"
		"  - {name: in, type: internal, cluster: out}\n"
		"clusters:\n  - {name: out, type: tcp, endpoints: \"10.0.0.1:80\"}\n"
		"timeouts: {idle: 7m}\n");
	const struct cfg_listener *l = c->listeners;

	(void)state;
	assert_int_equal(c->n_listeners, 3);
	assert_string_equal(l[0].name, "a");
	assert_int_equal(l[0].id, 0);
	assert_int_equal(l[0].type, LISTENER_TCP);
	addr_is(&l[0].address, "127.0.0.1:9100");
	assert_ptr_equal(l[0].to.cluster, &c->clusters[0]);
	assert_null(l[0].to.listener);
	assert_false(l[0].to.forward);
	assert_int_equal(l[0].backlog, 7);
	assert_int_equal(l[0].spread, SPREAD_CONNECTION);
	assert_int_equal(l[0].max_connections, 9);
	assert_int_equal(l[0].idle_timeout_ms, 300000);
	assert_false(l[0].access_log);
	assert_int_equal(l[0].n_routes, 0);
	assert_false(l[0].tls);
	assert_null(l[0].identity);

	assert_int_equal(l[1].id, 1);
	addr_is(&l[1].address, "[2001:db8::1]:9100");
	assert_ptr_equal(l[1].to.listener, &l[2]);
	assert_null(l[1].to.cluster);
	assert_int_equal(l[1].backlog, 4096);
	assert_int_equal(l[1].spread, SPREAD_SOURCE);
	assert_int_equal(l[1].max_connections, 0);
	assert_int_equal(l[1].idle_timeout_ms, 420000);
	assert_true(l[1].access_log);

	assert_int_equal(l[2].type, LISTENER_INTERNAL);
	assert_int_equal(l[2].address.family, AF_UNSPEC);
	config_free(c);
}

static void tunnel_listener_takes_every_key(void **state)
{
	struct config *c = with_identities(
		"listeners:\n"
		"  - {name: t, type: tunnel, address: \"0.0.0.0:15008\", forward: up, identity: other, max_streams: "
		"77,\n"
		"     accept: [\"spiffe://cluster.local/ns/*/sa/*\", \"spiffe://x/*\", \"*/sa/web\", \"spiffe://a/b\", "
		"\"*\"]}\n"
		"  - {name: plain, type: tunnel, address: \"0.0.0.0:15009\", tls: false, cluster: up}\n"
		"clusters:\n  - {name: up, type: tunnel, identity: default, endpoints: [\"10.0.0.1:15008\"]}\n");
	const struct cfg_listener *l = c->listeners;

	(void)state;
	assert_int_equal(l[0].type, LISTENER_TUNNEL);
	assert_true(l[0].tls);
	assert_ptr_equal(l[0].identity, &c->identities[1]);
	assert_int_equal(l[0].max_streams, 77);
	assert_int_equal(l[0].n_accept_ids, 5);
	assert_string_equal(l[0].accept_ids[0], "spiffe://cluster.local/ns/*/sa/*");
	assert_string_equal(l[0].accept_ids[4], "*");
	assert_ptr_equal(l[0].to.cluster, &c->clusters[0]);
	assert_true(l[0].to.forward);
	assert_false(l[1].tls);
	assert_null(l[1].identity);
	assert_int_equal(l[1].max_streams, 1024);
	assert_int_equal(l[1].n_accept_ids, 0);
	assert_false(l[1].to.forward);
	config_free(c);
}

static void the_only_identity_need_not_be_named(void **state)
{
	struct config *c = good("identities: [{name: me, certificate: " PEM ", key: " PEM ", ca: " PEM "}]\n"
				"listeners: [{name: t, type: tunnel, address: \"0.0.0.0:1\", cluster: up}]\n"
				"clusters: [{name: up, type: tunnel, endpoints: \"10.0.0.1:1\"}]\n");

	(void)state;
	assert_ptr_equal(c->listeners[0].identity, &c->identities[0]);
	assert_ptr_equal(c->clusters[0].identity, &c->identities[0]);
	config_free(c);
}

static const char routed[] = "listeners:\n"
			     "  - name: t\n"
			     "    type: tunnel\n"
			     "    tls: false\n"
			     "    address: \"127.0.0.1:15008\"\n"
			     "    routes:\n"
			     "      - name: blue\n"
			     "        match:\n"
			     "          authority: { exact: \"A:80\" }\n"
			     "          cidr: [\"10.0.0.0/8:80-90\", \"fd00::/8\"]\n"
			     "          port: 80\n"
			     "          headers:\n"
			     "            - { name: X-Tenant, exact: blue }\n"
			     "            - { name: x-b, prefix: p, invert: true }\n"
			     "            - { name: x-c, suffix: s }\n"
			     "            - { name: x-d, regex: \"a+b\" }\n"
			     "            - { name: x-e, present: true }\n"
			     "            - { name: x-f, present: false }\n"
			     "            - { name: x-g, present: false, invert: true }\n"
			     "        listener: in\n"
			     "      - match: { authority: \"b:80\", cidr: 10.0.0.1 }\n"
			     "        forward: up\n"
			     "      - match: { authority: { regex: \"C:[0-9]+\", invert: true } }\n"
			     "        cluster: out\n"
			     "      - match: {}\n"
			     "        cluster: out\n"
			     "  - {name: in, type: internal, cluster: out}\n"
			     "clusters:\n"
			     "  - {name: out, type: tcp, endpoints: [\"10.0.0.1:80\"]}\n"
			     "  - {name: up, type: tunnel, tls: false, endpoints: [\"10.0.0.1:15008\"]}\n";

static void routes_take_every_key(void **state)
{
	struct config *c = good(routed);
	const struct cfg_listener *l = c->listeners;
	const struct cfg_route *r = l[0].routes;
	const struct cfg_header_match *h = r[0].headers;

	(void)state;
	assert_int_equal(l[0].n_routes, 4);
	assert_null(l[0].to.cluster);
	assert_null(l[0].to.listener);
	assert_string_equal(r[0].name, "blue");
	assert_int_equal(r[0].authority->kind, MATCH_EXACT);
	assert_string_equal(r[0].authority->text, "a:80");
	assert_int_equal(r[0].n_cidr, 2);
	assert_int_equal(r[0].cidr[0].bits, 8);
	assert_int_equal(r[0].cidr[0].port_first, 80);
	assert_int_equal(r[0].cidr[0].port_last, 90);
	assert_int_equal(r[0].cidr[1].net.family, AF_INET6);
	assert_int_equal(r[0].port, 80);
	assert_int_equal(r[0].n_headers, 7);
	assert_string_equal(h[0].name, "x-tenant");
	assert_int_equal(h[0].match.kind, MATCH_EXACT);
	assert_string_equal(h[0].match.text, "blue");
	assert_false(h[0].match.invert);
	assert_int_equal(h[1].match.kind, MATCH_PREFIX);
	assert_true(h[1].match.invert);
	assert_int_equal(h[2].match.kind, MATCH_SUFFIX);
	assert_int_equal(h[3].match.kind, MATCH_REGEX);
	assert_non_null(h[3].match.regex);
	assert_true(match_text(&h[3].match, SLICE("aab")));
	assert_int_equal(h[4].match.kind, MATCH_PRESENT);
	assert_false(h[4].match.invert);
	assert_null(h[4].match.text);
	assert_true(h[5].match.invert);
	assert_false(h[6].match.invert);
	assert_ptr_equal(r[0].to.listener, &l[1]);

	assert_string_equal(r[1].name, "t/routes/1");
	assert_int_equal(r[1].authority->kind, MATCH_EXACT);
	assert_string_equal(r[1].authority->text, "b:80");
	assert_int_equal(r[1].n_cidr, 1);
	assert_int_equal(r[1].cidr[0].bits, 32);
	assert_true(r[1].to.forward);
	assert_ptr_equal(r[1].to.cluster, &c->clusters[1]);
	assert_string_equal(r[2].authority->text, "C:[0-9]+");
	assert_true(r[2].authority->invert);
	assert_string_equal(r[3].name, "t/routes/3");
	assert_null(r[3].authority);
	assert_int_equal(r[3].n_cidr + r[3].port + r[3].n_headers, 0);
	config_free(c);
}

static void tunnel_cluster_takes_every_key(void **state)
{
	struct config *c = with_identities(
		"clusters:\n"
		"  - name: one\n    type: tunnel\n    balance: random_two\n"
		"    endpoints: [\"10.0.0.2:15008\", \"node-b.example.:15009\", \"[::1]:1\", localhost:2]\n"
		"    connect_timeout: 1s\n    dns_refresh: 2s\n    max_connections: 3\n    authority: "
		"\"127.0.0.1:9000\"\n"
		"    identity: other\n    expect: \"spiffe://prod.example/ns/a/sa/b\"\n    sni: b.example\n"
		"    pool: {max_tunnels: 1, max_streams: 2, max_requests: 3, queue: 8, queue_timeout: 5s, "
		"idle_timeout: 6m, max_age: 7h}\n"
		"  - {name: two, type: tunnel, tls: false, endpoints: \"10.0.0.3:1\"}\n"
		"timeouts: {connect: 9s}\n");
	const struct cfg_cluster *a = &c->clusters[0], *b = &c->clusters[1];

	(void)state;
	assert_int_equal(a->type, CLUSTER_TUNNEL);
	assert_int_equal(a->balance, BALANCE_RANDOM_TWO);
	assert_int_equal(a->n_endpoints, 4);
	addr_is(&a->endpoints[0].address, "10.0.0.2:15008");
	assert_int_equal(a->endpoints[0].port, 15008);
	assert_null(a->endpoints[0].host);
	assert_int_equal(a->endpoints[1].address.family, AF_UNSPEC);
	assert_string_equal(a->endpoints[1].host, "node-b.example.");
	assert_int_equal(a->endpoints[1].port, 15009);
	addr_is(&a->endpoints[2].address, "[::1]:1");
	assert_string_equal(a->endpoints[3].host, "localhost");
	assert_int_equal(a->endpoints[3].id, 3);
	assert_int_equal(a->connect_timeout_ms, 1000);
	assert_int_equal(a->dns_refresh_ms, 2000);
	assert_int_equal(a->max_connections, 3);
	assert_string_equal(a->authority, "127.0.0.1:9000");
	assert_ptr_equal(a->identity, &c->identities[1]);
	assert_true(a->tls);
	assert_int_equal(a->n_expect_ids, 1);
	assert_string_equal(a->expect_ids[0], "spiffe://prod.example/ns/a/sa/b");
	assert_string_equal(a->sni, "b.example");
	assert_int_equal(a->pool.max_tunnels, 1);
	assert_int_equal(a->pool.max_streams, 2);
	assert_int_equal(a->pool.max_requests, 3);
	assert_int_equal(a->pool.queue, 8);
	assert_int_equal(a->pool.queue_timeout_ms, 5000);
	assert_int_equal(a->pool.idle_timeout_ms, 360000);
	assert_int_equal(a->pool.max_age_ms, 7 * 3600000);

	assert_int_equal(b->id, 1);
	assert_int_equal(b->balance, BALANCE_ROUND_ROBIN);
	assert_int_equal(b->endpoints[0].id, 4);
	assert_int_equal(c->n_endpoints, 5);
	assert_int_equal(b->connect_timeout_ms, 9000);
	assert_int_equal(b->dns_refresh_ms, 30000);
	assert_int_equal(b->max_connections, 0);
	assert_null(b->authority);
	assert_null(b->identity);
	assert_null(b->sni);
	assert_false(b->tls);
	assert_int_equal(b->n_expect_ids, 0);
	assert_int_equal(b->pool.max_tunnels, 16);
	assert_int_equal(b->pool.max_streams, 1024);
	assert_int_equal(b->pool.max_requests, 0);
	assert_int_equal(b->pool.queue, 1024);
	assert_int_equal(b->pool.queue_timeout_ms, 5000);
	assert_int_equal(b->pool.idle_timeout_ms, 300000);
	assert_int_equal(b->pool.max_age_ms, 0);
	config_free(c);
}

static void other_clusters_take_every_key(void **state)
{
	struct config *c = good("listeners: [{name: in, type: internal, cluster: od}]\n"
				"clusters:\n"
				"  - {name: od, type: original_dst, destinations: [\"127.0.0.0/8\", \"*:80\"], "
				"connect_timeout: 1s, max_connections: 2}\n"
				"  - {name: i, type: internal, listener: in, max_connections: 4}\n"
				"  - {name: t, type: tcp, endpoints: \"10.0.0.1:1\", balance: least_request}\n");

	(void)state;
	assert_int_equal(c->clusters[0].type, CLUSTER_ORIGINAL_DST);
	assert_int_equal(c->clusters[0].n_destinations, 2);
	assert_int_equal(c->clusters[0].connect_timeout_ms, 1000);
	assert_int_equal(c->clusters[0].max_connections, 2);
	assert_int_equal(c->clusters[1].type, CLUSTER_INTERNAL);
	assert_ptr_equal(c->clusters[1].listener, &c->listeners[0]);
	assert_int_equal(c->clusters[2].type, CLUSTER_TCP);
	assert_int_equal(c->clusters[2].balance, BALANCE_LEAST_REQUEST);
	config_free(c);
}

/* one anchor, used twice: the same text gives the same values */
static void aliases_stand_for_their_anchor(void **state)
{
	struct config *c = good("clusters:\n"
				"  - {name: a, type: tcp, endpoints: &e [\"10.0.0.1:1\", \"10.0.0.2:1\"]}\n"
				"  - {name: b, type: tcp, endpoints: *e}\n");

	(void)state;
	assert_int_equal(c->n_endpoints, 4);
	addr_is(&c->clusters[1].endpoints[1].address, "10.0.0.2:1");
	assert_int_equal(c->clusters[1].endpoints[1].id, 3);
	config_free(c);
}

static void quotes_comments_and_bom_change_nothing(void **state)
{
	struct config *c = good("\xef\xbb\xbf# first\r\n\"workers\": '3' # three\r\nlog: {'level': \"debug\"}\r\n");

	(void)state;
	assert_int_equal(c->workers, 3);
	assert_int_equal(c->log_level, LOG_DBG);
	config_free(c);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(nothing_is_a_configuration_of_defaults),
		cmocka_unit_test(log_levels_are_per_area),
		cmocka_unit_test(limits_and_timeouts_have_the_documented_defaults),
		cmocka_unit_test(node_takes_every_key),
		cmocka_unit_test(flat_sections_take_every_key),
		cmocka_unit_test(windows_that_are_not_given_follow_the_one_that_is),
		cmocka_unit_test(files_are_relative_to_the_configuration),
		cmocka_unit_test(identities_take_every_key),
		cmocka_unit_test(tcp_listener_takes_every_key),
		cmocka_unit_test(tunnel_listener_takes_every_key),
		cmocka_unit_test(the_only_identity_need_not_be_named),
		cmocka_unit_test(routes_take_every_key),
		cmocka_unit_test(tunnel_cluster_takes_every_key),
		cmocka_unit_test(other_clusters_take_every_key),
		cmocka_unit_test(aliases_stand_for_their_anchor),
		cmocka_unit_test(quotes_comments_and_bom_change_nothing),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
