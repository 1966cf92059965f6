/*
 * Configuration errors: the whole sentence with its place, one row per mistake. A row that has to change because the words got
 * better is fine; a row whose line or column changes is a bug.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#include "base/log.h"
#include "config/config.h"
#include "config/tree.h"

#define PEM "/etc/passwd"

struct row {
	const char *yaml, *says;
};

static void refused(const char *yaml, size_t n, const char *says)
{
	struct config *c = (struct config *)(uintptr_t)1;
	struct err e = {""};
	int r = config_parse("t.yaml", yaml, n, &c, &e);

	if (r >= 0)
		fail_msg("accepted: %s", yaml);
	assert_string_equal(e.msg, says);
	assert_int_equal(r, -EINVAL);
	assert_ptr_equal(c, (struct config *)(uintptr_t)1); /* nothing is returned */
}

static void rows(const struct row *row, size_t n)
{
	size_t i;

	for (i = 0; i < n; i++)
		refused(row[i].yaml, strlen(row[i].yaml), row[i].says);
}
#define ROWS(table) rows(table, sizeof(table) / sizeof(*(table)))

/* clang-format off */

static void what_is_not_yaml(void **state)
{
	static const struct row table[] = {
		{"node: {id: x", "t.yaml:2:1: did not find expected ',' or '}' (while parsing a flow mapping that begins at line 1)"},
		{"a: b: c", "t.yaml:1:5: mapping values are not allowed in this context"},
		{"a:\n\t- b", "t.yaml:2:1: a tab cannot indent YAML, use spaces"},
		{"a: [*]", "t.yaml:1:6: a text that begins with * must be quoted, like \"*\""},
		{"a: [::1]:80", "t.yaml:1:5: a text with brackets must be quoted, like \"[::1]:80\""},
		{"a: \"b\nc: d\n", "t.yaml:3:1: found unexpected end of stream (while scanning a quoted scalar that begins at line 1)"},
		{"workers: 1\n---\nworkers: 2", "t.yaml:2:1: a second document (---) is not allowed"},
		{"node: !!map {id: x}", "t.yaml:1:7: tags (!...) are not supported"},
		{"node: {id: !x y}", "t.yaml:1:12: tags (!...) are not supported"},
		{"node:\n  <<: {id: a}", "t.yaml:2:3: merge keys (<<) are not supported, name the anchor's values one by one"},
		{"? [a]\n: b", "t.yaml:1:3: a key must be a word"},
		{"~: b", "t.yaml:1:1: a key must be a word"},
		{"a: *b", "t.yaml:1:4: there is no anchor 'b' before this alias"},
		{"a: &a [*a]", "t.yaml:1:8: this alias stands inside its own anchor"},
		{"log: {level: info}\nnode: {id: x}\nlog: {}\n", "t.yaml:3:1: key 'log' is here twice, first at line 1"},
		{"log:\n  level: info\n  format: text\n  level: error\n", "t.yaml:4:3: key 'level' is here twice, first at line 2"},
		{"node: {id: \"a\\0b\"}", "t.yaml:1:12: a NUL character (\\0) is not allowed"},
		{"node:\n  id: caf\xe9", "t.yaml:2:10: byte 0xe9 is not UTF-8 text"},
		{"node:\n  id: \xc0\xaf", "t.yaml:2:7: byte 0xc0 is not UTF-8 text"},
		{"node:\n  id: \xed\xa0\x80", "t.yaml:2:7: byte 0xed is not UTF-8 text"},
		{"node:\n  id: \xf4\x90\x80\x80", "t.yaml:2:7: byte 0xf4 is not UTF-8 text"},
		{"node:\n  id: caf\xc3", "t.yaml:2:10: byte 0xc3 is not UTF-8 text"},
		{"\xff\xfen", "t.yaml:1:1: byte 0xff is not UTF-8 text"},
		{"a: \x1b[31m", "t.yaml:1:4: control character 0x1b is not allowed"},
		{"%YAML 2.0\n---\na: b", "t.yaml:1:1: found incompatible YAML document"},
	};

	(void)state;
	ROWS(table);
	refused("a: b\0c", 6, "t.yaml:1:5: control character 0x00 is not allowed");
}

static void wrong_keys(void **state)
{
	static const struct row table[] = {
		{"hello", "t.yaml:1:1: want a mapping (key: value) at the top, not a single value"},
		{"- a", "t.yaml:1:1: want a mapping (key: value) at the top, not a list"},
		{"listener: []", "t.yaml:1:1: unknown key 'listener' (did you mean 'listeners'?)"},
		{"qwerty: 1", "t.yaml:1:1: unknown key 'qwerty'"},
		{"node:\n  ID: x", "t.yaml:2:3: node: unknown key 'ID' (did you mean 'id'?)"},
		{"node: {request-headers: {}}", "t.yaml:1:8: node: unknown key 'request-headers' (did you mean 'request_headers'?)"},
		{"node: {send: {bagage: true}}", "t.yaml:1:15: node.send: unknown key 'bagage' (did you mean 'baggage'?)"},
		{"limits: {rates: {rts: 1}}", "t.yaml:1:18: limits.rates: unknown key 'rts' (did you mean 'rst'?)"},
		{"drain: {quit: 1s}", "t.yaml:1:9: drain: unknown key 'quit' (did you mean 'quiet'?)"},
		{"drain: {within: 1s}\ntimeouts: {drain: 2s}", "t.yaml:1:17: drain: timeouts.drain says this, too: leave one of them out"},
		{"drain: {within: 1s, jitter: 2s}", "t.yaml:1:29: drain: jitter is longer than the whole drain (1000 ms)"},
		{"watchdog: often", "t.yaml:1:11: watchdog: 'often': want a time like 500ms, 10s, 5m, 1h or 2d"},
		{"timeouts: {conect: 1s}", "t.yaml:1:12: timeouts: unknown key 'conect' (did you mean 'connect'?)"},
		{"admin: {\"a\\eb\": 1}", "t.yaml:1:9: admin: unknown key 'a\\x1bb'"},
		{"listeners:\n  - name: a\n    type: tcp\n    adress: \"1.2.3.4:5\"\n    cluster: c\n",
		 "t.yaml:4:5: listeners[0] 'a': unknown key 'adress' (did you mean 'address'?)"},
		{"listeners:\n  - name: a\n    type: tcp\n    accept: []\n",
		 "t.yaml:4:5: listeners[0] 'a': 'accept' is for tunnel listeners, this listener is of type tcp"},
		{"listeners:\n  - name: a\n    type: internal\n    address: \"1.2.3.4:5\"\n",
		 "t.yaml:4:5: listeners[0] 'a': 'address' is for tcp and tunnel listeners, this listener is of type internal"},
		{"clusters:\n  - name: a\n    type: internal\n    connect_timeout: 1s\n",
		 "t.yaml:4:5: clusters[0] 'a': 'connect_timeout' is for tcp, tunnel and original_dst clusters, this cluster is of type internal"},
		{"clusters:\n  - name: a\n    type: tcp\n    endpoints: [\"1.2.3.4:5\"]\n    pool: {}\n",
		 "t.yaml:5:5: clusters[0] 'a': 'pool' is for tunnel clusters, this cluster is of type tcp"},
		{"listeners:\n  - type: tcp\n", "t.yaml:2:5: listeners[0]: 'name' is missing"},
		{"listeners:\n  - name: a\n", "t.yaml:2:5: listeners[0] 'a': 'type' is missing: tcp, tunnel or internal"},
		{"clusters:\n  - name: a\n", "t.yaml:2:5: clusters[0] 'a': 'type' is missing: tcp, tunnel, original_dst or internal"},
		{"listeners:\n  - {name: a, type: tcp, cluster: c}\n", "t.yaml:2:5: listeners[0] 'a': 'address' is missing"},
		{"clusters:\n  - {name: a, type: tunnel}\n", "t.yaml:2:5: clusters[0] 'a': 'endpoints' is missing"},
		{"clusters:\n  - {name: a, type: internal}\n", "t.yaml:2:5: clusters[0] 'a': 'listener' is missing"},
		{"identities:\n  - {name: a, key: " PEM ", ca: " PEM "}\n", "t.yaml:2:5: identities[0] 'a': 'certificate' is missing"},
	};

	(void)state;
	ROWS(table);
}

static void wrong_kinds(void **state)
{
	static const struct row table[] = {
		{"node: x", "t.yaml:1:7: node: want a mapping (key: value), not a single value"},
		{"node: []", "t.yaml:1:7: node: want a mapping (key: value), not a list"},
		{"node:\n  id:\n    - a", "t.yaml:3:5: node.id: want a text, {env: NAME} or {file: PATH}"},
		{"node:\n  id: {a: b}", "t.yaml:2:7: node.id: want a text, {env: NAME} or {file: PATH}"},
		{"node:\n  id:\n  zone: z", "t.yaml:2:6: node.id: has no value: want a text, {env: NAME} or {file: PATH}"},
		{"node: {id: \"\"}", "t.yaml:1:12: node.id: is empty"},
		{"node: {id: \"a\\nb\"}", "t.yaml:1:12: node.id: byte 0x0a at offset 1 cannot be sent"},
		{"listeners: {a: b}", "t.yaml:1:12: listeners: want a list, not a mapping"},
		{"listeners: a", "t.yaml:1:12: listeners: want a list, not a single value"},
		{"listeners: [a]", "t.yaml:1:13: listeners[0]: want a mapping (key: value), not a single value"},
		{"clusters: [[]]", "t.yaml:1:12: clusters[0]: want a mapping (key: value), not a list"},
		{"limits: {header_count: [1]}", "t.yaml:1:24: limits.header_count: want a whole number from 8 to 128, not a list"},
	};

	(void)state;
	ROWS(table);
}

static void wrong_values(void **state)
{
	static const struct row table[] = {
		{"workers: 0", "t.yaml:1:10: workers: '0': want a whole number from 1 to 256"},
		{"workers: 257", "t.yaml:1:10: workers: '257': want a whole number from 1 to 256"},
		{"workers: many", "t.yaml:1:10: workers: 'many': want auto, or a whole number from 1 to 256"},
		{"workers:", "t.yaml:1:9: workers: nothing: want auto, or a whole number from 1 to 256"},
		{"mover: splice", "t.yaml:1:8: mover: 'splice': want auto or relay"},
		{"node: {workload_type: deploiment}",
		 "t.yaml:1:23: node.workload_type: 'deploiment': want deployment, cronjob, job or pod (did you mean 'deployment'?)"},
		{"node: {send: {baggage: yes}}", "t.yaml:1:24: node.send.baggage: 'yes': want true or false"},
		{"admin: {mode: 660x}", "t.yaml:1:15: admin.mode: '660x': want a file mode as three octal digits, like \"0660\""},
		{"admin: {mode: 1777}", "t.yaml:1:15: admin.mode: '1777': want a file mode as three octal digits, like \"0660\""},
		{"admin: {metrics: 15020}", "t.yaml:1:18: admin.metrics: \"15020\": want IP:PORT or [IP6]:PORT"},
		{"admin: {metrics: \"1.2.3.4:0\"}", "t.yaml:1:18: admin.metrics: '1.2.3.4:0': want a port from 1 to 65535"},
		{"log: {level: loud}", "t.yaml:1:14: log.level: 'loud': want error, warn, info or debug"},
		{"log: {level: dbug}", "t.yaml:1:14: log.level: 'dbug': want error, warn, info or debug (did you mean 'debug'?)"},
		{"log: {format: xml}", "t.yaml:1:15: log.format: 'xml': want text, json, journal or auto"},
		{"log: {areas: {tunnels: debug}}", "t.yaml:1:15: log.areas.tunnels: unknown area; there are: main, config, admin, chain, tunnel, tls, net"},
		{"log: {areas: debug}", "t.yaml:1:14: log.areas: want AREA: LEVEL, for instance {tunnel: debug}, not a single value"},
		{"access_log: {format: clf}", "t.yaml:1:22: access_log.format: 'clf': want native, ztunnel or envoy"},
		{"access_log: {fields: [time, nosuch]}", "t.yaml:1:29: access_log.fields[1]: format native has no field 'nosuch'"},
		{"access_log: {fields: nosuch}", "t.yaml:1:22: access_log.fields: format native has no field 'nosuch'"},
		{"timeouts: {connect: 10}", "t.yaml:1:21: timeouts.connect: '10' has no unit: write 10ms or 10s"},
		{"timeouts: {connect: 0}", "t.yaml:1:21: timeouts.connect: '0': want more than 0: this time limit cannot be switched off"},
		{"timeouts: {idle: 10min}", "t.yaml:1:18: timeouts.idle: '10min': want a time like 500ms, 10s, 5m, 1h or 2d"},
		{"timeouts: {idle: -1s}", "t.yaml:1:18: timeouts.idle: '-1s': want a time like 500ms, 10s, 5m, 1h or 2d"},
		{"timeouts: {idle: 366d}", "t.yaml:1:18: timeouts.idle: '366d': want 365d or less"},
		{"timeouts: {idle: 99999999999999999999s}",
		 "t.yaml:1:18: timeouts.idle: '99999999999999999999s': want a time like 500ms, 10s, 5m, 1h or 2d"},
		{"timeouts: {idle: 9999999999999999999d}", "t.yaml:1:18: timeouts.idle: '9999999999999999999d': want 365d or less"},
		{"limits: {memory: 1MB}",
		 "t.yaml:1:18: limits.memory: '1MB': want bytes from 1MiB to 16384GiB, as 65536, 64KiB, 1MiB or 2GiB"},
		{"limits: {memory: 1000}",
		 "t.yaml:1:18: limits.memory: '1000': want bytes from 1MiB to 16384GiB, as 65536, 64KiB, 1MiB or 2GiB"},
		{"limits: {max_frame_size: 16383}",
		 "t.yaml:1:26: limits.max_frame_size: '16383': want bytes from 16KiB to 16777215, as 65536, 64KiB, 1MiB or 2GiB"},
		{"limits: {max_frame_size: 16MiB}",
		 "t.yaml:1:26: limits.max_frame_size: '16MiB': want bytes from 16KiB to 16777215, as 65536, 64KiB, 1MiB or 2GiB"},
		{"limits: {stream_window: 2GiB}",
		 "t.yaml:1:25: limits.stream_window: '2GiB': want bytes from 1KiB to 2147483647, as 65536, 64KiB, 1MiB or 2GiB"},
		{"limits:\n  stream_window: 2MiB\n  connection_window: 1MiB\n",
		 "t.yaml:3:22: limits: connection_window (1048576) is less than stream_window (2097152)"},
		{"limits:\n  stream_window: 2MiB\n  stream_window_max: 1MiB\n",
		 "t.yaml:3:22: limits: stream_window_max (1048576) is less than stream_window (2097152)"},
		{"limits: {max_connections: 1e5}", "t.yaml:1:27: limits.max_connections: '1e5': want a whole number from 1 to 10000000"},
		{"limits: {rates: {rst: -1}}", "t.yaml:1:23: limits.rates.rst: '-1': want a whole number from 0 to 1000000"},
	};

	(void)state;
	ROWS(table);
}

static void wrong_metadata(void **state)
{
	static const struct row table[] = {
		{"node: {metadata: [a]}", "t.yaml:1:18: node.metadata: want a mapping (name: value), not a list"},
		{"node: {metadata: {a: }}", "t.yaml:1:22: node.metadata.a: has no value: want a text, {env: NAME} or {file: PATH}"},
		{"node: {metadata: {a: '  '}}", "t.yaml:1:22: node.metadata.a: is empty"},
		{"node: {metadata: {a b: c}}", "t.yaml:1:19: node.metadata.'a b': no metadata name: want letters, digits and - _ ."},
		{"node: {metadata: {\"a\\e[31m\": b}}",
		 "t.yaml:1:19: node.metadata.'a\\x1b[31m': no metadata name: want letters, digits and - _ ."},
		{"node: {metadata: {a: \"b\\r\\nc: d\"}}", "t.yaml:1:22: node.metadata.a: byte 0x0d at offset 1 cannot be sent"},
		{"node: {metadata: {a: {env: ADIT_NOT_SET}}}",
		 "t.yaml:1:28: node.metadata.a.env: environment variable 'ADIT_NOT_SET' is not set"},
		{"node: {metadata: {a: {file: /nonexistent}}}",
		 "t.yaml:1:29: node.metadata.a.file: '/nonexistent': No such file or directory"},
		{"node: {metadata: {a: {file: /dev/zero}}}", "t.yaml:1:29: node.metadata.a.file: '/dev/zero' is no file"},
		{"node: {metadata: {a: {file: /dev/null, env: B}}}",
		 "t.yaml:1:22: node.metadata.a: want a text, {env: NAME} or {file: PATH}"},
		{"node: {metadata: {a: [b]}}", "t.yaml:1:22: node.metadata.a: want a text, {env: NAME} or {file: PATH}"},
		{"node: {request_headers: {':path': /}}", "t.yaml:1:26: node.request_headers.:path: pseudo-headers cannot be set"},
		{"node: {request_headers: {Connection: close}}",
		 "t.yaml:1:26: node.request_headers.Connection: this header belongs to the connection and is not allowed in HTTP/2 CONNECT"},
		{"node: {request_headers: {baggage: a}}",
		 "t.yaml:1:26: node.request_headers.baggage: Adit writes this header itself (see node.send)"},
		{"node: {response_headers: {X-Envoy-Peer-Metadata: a}}",
		 "t.yaml:1:27: node.response_headers.X-Envoy-Peer-Metadata: Adit writes this header itself (see node.send)"},
		{"node: {request_headers: {a/b: c}}",
		 "t.yaml:1:26: node.request_headers.a/b: no header name: want letters, digits and - _ ."},
		{"node: {request_headers: {x-a: b, X-A: c}}",
		 "t.yaml:1:34: node.request_headers.X-A: header 'x-a' is here twice (case does not matter)"},
	};

	(void)state;
	ROWS(table);
}

#define ID "identities:\n  - name: a\n    certificate: " PEM "\n    key: " PEM "\n    ca: " PEM "\n"

static void wrong_identities(void **state)
{
	static const struct row table[] = {
		{"identities:\n  - {name: a, certificate: nosuch.pem, key: " PEM ", ca: " PEM "}\n",
		 "t.yaml:2:28: identities[0] 'a' certificate: 'nosuch.pem': No such file or directory"},
		{"identities:\n  - {name: a, certificate: " PEM ", key: /etc, ca: " PEM "}\n",
		 "t.yaml:2:46: identities[0] 'a' key: '/etc' is no file"},
		{ID "    trust_domain: Cluster\n",
		 "t.yaml:6:19: identities[0] 'a' trust_domain: 'Cluster': want a trust domain: lower-case letters, digits and . - _"},
		{ID "    ciphers: TLS_AES_128_GCM_SHA257\n",
		 "t.yaml:6:14: identities[0] 'a' ciphers: 'TLS_AES_128_GCM_SHA257' is no cipher suite of tunnels (did you mean "
		 "'TLS_AES_128_GCM_SHA256'?)"},
		{ID "    ciphers: TLS_AES_128_GCM_SHA256:TLS13-AES128-GCM-SHA256\n",
		 "t.yaml:6:14: identities[0] 'a' ciphers: 'TLS13-AES128-GCM-SHA256' is here twice"},
		{ID "    ciphers: 'TLS_AES_128_GCM_SHA256:'\n", "t.yaml:6:14: identities[0] 'a' ciphers: '' is no cipher suite of tunnels"},
		{ID "  - {name: a, certificate: " PEM ", key: " PEM ", ca: " PEM "}\n",
		 "t.yaml:6:12: identities[1]: name 'a' is taken: t.yaml:2:11 has it, too"},
		{"clusters:\n  - {name: c, type: tunnel, endpoints: [\"1.2.3.4:5\"]}\n",
		 "t.yaml:2:5: clusters[0] 'c': TLS needs an identity and 'identities' has none; without TLS, say 'tls: false'"},
		{ID "  - {name: b, certificate: " PEM ", key: " PEM ", ca: " PEM "}\n"
		 "listeners:\n  - {name: l, type: tunnel, address: \"1.2.3.4:5\"}\n",
		 "t.yaml:8:5: listeners[0] 'l': 'identity' is missing: it can be left out only when there is one identity, not 2"},
		{ID "listeners:\n  - {name: l, type: tunnel, address: \"1.2.3.4:5\", identity: b}\n",
		 "t.yaml:7:61: listeners[0] 'l' identity: there is no identity 'b'"},
		{"listeners:\n  - {name: l, type: tunnel, address: \"1.2.3.4:5\", tls: false, accept: [\"spiffe://a/b\"]}\n",
		 "t.yaml:2:63: listeners[0] 'l': 'accept' without TLS: nobody proves an identity"},
		{"clusters:\n  - {name: c, type: tunnel, tls: false, expect: \"spiffe://a/b\", endpoints: \"1.2.3.4:5\"}\n",
		 "t.yaml:2:41: clusters[0] 'c': 'expect' without TLS: nobody proves an identity"},
		{ID "listeners:\n  - {name: l, type: tunnel, address: \"1.2.3.4:5\", accept: [\"http://a/b\"]}\n",
		 "t.yaml:7:60: listeners[0] 'l' accept[0]: SPIFFE id \"http://a/b\": does not begin with spiffe://"},
		{ID "listeners:\n  - {name: l, type: tunnel, address: \"1.2.3.4:5\", accept: [\"spiffe://a/n*s/b\"]}\n",
		 "t.yaml:7:60: listeners[0] 'l' accept[0]: 'spiffe://a/n*s/b': want a SPIFFE id with one * at its beginning or end, or "
		 "with * as whole segments"},
		{ID "listeners:\n  - {name: l, type: tunnel, address: \"1.2.3.4:5\", accept: []}\n",
		 "t.yaml:7:59: listeners[0] 'l' accept: is empty: nobody would be accepted; leave the key out for the whole trust domain"},
	};

	(void)state;
	ROWS(table);
}

#define TCP "listeners:\n  - name: l\n    type: tcp\n    address: \"127.0.0.1:1\"\n"
#define TUNNEL "listeners:\n  - name: l\n    type: tunnel\n    tls: false\n    address: \"127.0.0.1:1\"\n"
#define OUT "clusters:\n  - {name: out, type: tcp, endpoints: \"10.0.0.1:80\"}\n  - {name: up, type: tunnel, tls: false, endpoints: \"10.0.0.1:15008\"}\n"

static void wrong_listeners(void **state)
{
	static const struct row table[] = {
		{"listeners:\n  - {name: a, type: udp}\n", "t.yaml:2:21: listeners[0] 'a' type: 'udp': want tcp, tunnel or internal"},
		{"listeners:\n  - {name: a, type: tunel}\n",
		 "t.yaml:2:21: listeners[0] 'a' type: 'tunel': want tcp, tunnel or internal (did you mean 'tunnel'?)"},
		{"listeners:\n  - {name: a b, type: tcp}\n",
		 "t.yaml:2:12: listeners[0].name: 'a b': want a name: 1 to 64 letters, digits and . _ - / : @ +"},
		{"listeners:\n  - {name: a, type: tcp, address: \"127.0.0.1\"}\n",
		 "t.yaml:2:35: listeners[0] 'a' address: \"127.0.0.1\": want IP:PORT or [IP6]:PORT"},
		{"listeners:\n  - {name: a, type: tcp, address: \"localhost:80\"}\n",
		 "t.yaml:2:35: listeners[0] 'a' address: \"localhost:80\": want IP:PORT or [IP6]:PORT"},
		{TCP "    spread: random\n    cluster: out\n", "t.yaml:5:13: listeners[0] 'l' spread: 'random': want source or connection"},
		{TCP "    backlog: 0\n    cluster: out\n", "t.yaml:5:14: listeners[0] 'l' backlog: '0': want a whole number from 1 to 65535"},
		{TCP, "t.yaml:2:5: listeners[0] 'l': has no target: want cluster or listener, or routes"},
		{TCP "    cluster: ot\n" OUT, "t.yaml:5:14: listeners[0] 'l' cluster: there is no cluster 'ot' (did you mean 'out'?)"},
		{TCP "    cluster: elsewhere\n" OUT, "t.yaml:5:14: listeners[0] 'l' cluster: there is no cluster 'elsewhere'"},
		{TCP "    listener: out\n" OUT, "t.yaml:5:15: listeners[0] 'l' listener: 'out' is a cluster: write 'cluster: out'"},
		{TCP "    cluster: l\n" OUT, "t.yaml:5:14: listeners[0] 'l' cluster: 'l' is a listener: write 'listener: l'"},
		{TCP "    listener: l\n" OUT,
		 "t.yaml:5:15: listeners[0] 'l' listener: listener 'l' is of type tcp: only internal listeners can be a target"},
		{TCP "    cluster: out\n    listener: l\n" OUT, "t.yaml:6:5: listeners[0] 'l': 'listener' beside 'cluster': want one target"},
		{TCP "    forward: up\n" OUT, "t.yaml:5:5: listeners[0] 'l' forward: a tcp listener has no CONNECT to forward; 'cluster' opens one"},
		{TUNNEL "    forward: out\n" OUT,
		 "t.yaml:6:14: listeners[0] 'l' forward: cluster 'out' is not of type tunnel: only a tunnel can take a CONNECT"},
		{TCP "    cluster: out\n  - {name: l, type: internal}\n" OUT, "t.yaml:6:12: listeners[1]: name 'l' is taken: t.yaml:2:11 has it, too"},
		{TCP "    cluster: out\n  - {name: m, type: tcp, address: \"127.0.0.1:1\", cluster: out}\n" OUT,
		 "t.yaml:6:35: listeners[1] 'm' address: 127.0.0.1:1 is taken: listener 'l' has it, t.yaml:4:14"},
		{"admin: {metrics: \"127.0.0.1:1\"}\n" TCP "    cluster: out\n" OUT,
		 "t.yaml:5:14: listeners[0] 'l' address: 127.0.0.1:1 is the address of admin.metrics"},
	};

	(void)state;
	ROWS(table);
}

#define R TUNNEL "    routes:\n      - "

static void wrong_routes(void **state)
{
	static const struct row table[] = {
		{R "name: a\n" OUT, "t.yaml:7:9: listeners[0] 'l' routes[0] 'a': has no target: want cluster, listener or forward"},
		{R "match: {}\n" OUT, "t.yaml:7:9: listeners[0] 'l' routes[0]: has no target: want cluster, listener or forward"},
		{R "cluster: out\n        matches: {}\n" OUT,
		 "t.yaml:8:9: listeners[0] 'l' routes[0]: unknown key 'matches' (did you mean 'match'?)"},
		{R "{name: a, cluster: out}\n      - {name: b, cluster: out}\n      - {name: a, cluster: out}\n" OUT,
		 "t.yaml:9:16: listeners[0] 'l' routes[2]: name 'a' is taken: t.yaml:7:16 has it, too"},
		{R "{name: a, cluster: nix}\n" OUT, "t.yaml:7:28: listeners[0] 'l' routes[0] 'a' cluster: there is no cluster 'nix'"},
		{R "{cluster: out, match: {host: a}}\n" OUT, "t.yaml:7:32: listeners[0] 'l' routes[0].match: unknown key 'host'"},
		{R "{cluster: out, match: {port: 0}}\n" OUT,
		 "t.yaml:7:38: listeners[0] 'l' routes[0].match.port: '0': want a whole number from 1 to 65535"},
		{R "{cluster: out, match: {port: 65536}}\n" OUT,
		 "t.yaml:7:38: listeners[0] 'l' routes[0].match.port: '65536': want a whole number from 1 to 65535"},
		{R "{cluster: out, match: {cidr: [10.0.0.0/8, 10.0.0.0/33]}}\n" OUT,
		 "t.yaml:7:51: listeners[0] 'l' routes[0].match.cidr[1]: \"10.0.0.0/33\": want a prefix length from 0 to 32"},
		{R "{cluster: out, match: {cidr: [10.0.0.1/8]}}\n" OUT,
		 "t.yaml:7:39: listeners[0] 'l' routes[0].match.cidr[0]: \"10.0.0.1/8\": want 10.0.0.0/8, or /32 for one address"},
		{R "{cluster: out, match: {cidr: {a: b}}}\n" OUT, "t.yaml:7:38: listeners[0] 'l' routes[0].match.cidr: want a list, not a mapping"},
		{R "{cluster: out, match: {authority: {}}}\n" OUT,
		 "t.yaml:7:43: listeners[0] 'l' routes[0].match.authority: want one of exact, prefix, suffix, regex or present"},
		{R "{cluster: out, match: {authority: {exact: a, prefix: b}}}\n" OUT,
		 "t.yaml:7:54: listeners[0] 'l' routes[0].match.authority: 'prefix' beside 'exact': want only one of them"},
		{R "{cluster: out, match: {authority: {regex: \"a(b\"}}}\n" OUT,
		 "t.yaml:7:51: listeners[0] 'l' routes[0].match.authority.regex: regex 'a(b': missing closing parenthesis at offset 3"},
		{R "{cluster: out, match: {headers: [{exact: a}]}}\n" OUT,
		 "t.yaml:7:42: listeners[0] 'l' routes[0].match.headers[0]: 'name' is missing"},
		{R "{cluster: out, match: {headers: [{name: x-a}]}}\n" OUT,
		 "t.yaml:7:42: listeners[0] 'l' routes[0].match.headers[0]: want one of exact, prefix, suffix, regex or present"},
		{R "{cluster: out, match: {headers: [{name: \"x a\", exact: b}]}}\n" OUT,
		 "t.yaml:7:49: listeners[0] 'l' routes[0].match.headers[0].name: 'x a' is no header name: want letters, digits and - _ ."},
		{R "{cluster: out, match: {headers: [{name: x-a, present: maybe}]}}\n" OUT,
		 "t.yaml:7:63: listeners[0] 'l' routes[0].match.headers[0].present: 'maybe': want true or false"},
		{TCP "    routes: [{cluster: out, match: {headers: []}}]\n" OUT,
		 "t.yaml:5:37: listeners[0] 'l' routes[0].match: 'headers' is for tunnel and internal listeners, this listener is of type tcp"},
		{TCP "    routes: [{forward: up}]\n" OUT,
		 "t.yaml:5:15: listeners[0] 'l' routes[0].forward: a tcp listener has no CONNECT to forward; 'cluster' opens one"},
	};

	(void)state;
	ROWS(table);
}

static void wrong_clusters(void **state)
{
	static const struct row table[] = {
		{"clusters:\n  - {name: a, type: http}\n",
		 "t.yaml:2:21: clusters[0] 'a' type: 'http': want tcp, tunnel, original_dst or internal"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: []}\n",
		 "t.yaml:2:37: clusters[0] 'a' endpoints: is empty: want at least one endpoint"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [10.0.0.3]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: '10.0.0.3' has no port: want HOST:PORT, IP:PORT or [IPv6]:PORT"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [10.0.0.300:80]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: '10.0.0.300:80': want HOST:PORT, IP:PORT or [IPv6]:PORT"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [\"::1:80\"]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: '::1:80': an IPv6 address stands in brackets: [IPv6]:PORT"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [\"a..b:80\"]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: 'a..b:80': want HOST:PORT, IP:PORT or [IPv6]:PORT"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [\"-a:80\"]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: '-a:80': want HOST:PORT, IP:PORT or [IPv6]:PORT"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [\"a.b:0\", \"a.b:1\"]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: 'a.b:0': want a port from 1 to 65535"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [\"a.b:1\", \"a.b:65536\"]}\n",
		 "t.yaml:2:47: clusters[0] 'a' endpoints[1]: 'a.b:65536': want a port from 1 to 65535"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [\"1.2.3.4:0\"]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: '1.2.3.4:0': want a port from 1 to 65535"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: [[]]}\n",
		 "t.yaml:2:38: clusters[0] 'a' endpoints[0]: want HOST:PORT, IP:PORT or [IPv6]:PORT, not a list"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: a:1, balance: random}\n",
		 "t.yaml:2:51: clusters[0] 'a' balance: 'random': want round_robin, least_request or random_two"},
		{"clusters:\n  - {name: a, type: original_dst}\n",
		 "t.yaml:2:5: clusters[0] 'a': 'destinations' is missing: which addresses may be dialled (\"0.0.0.0/0\" allows all of IPv4)"},
		{"clusters:\n  - {name: a, type: original_dst, destinations: []}\n",
		 "t.yaml:2:49: clusters[0] 'a' destinations: is empty: nothing could be dialled; \"0.0.0.0/0\" allows all of IPv4, \"::/0\" all "
		 "of IPv6"},
		{"clusters:\n  - {name: a, type: original_dst, destinations: [localhost]}\n",
		 "t.yaml:2:50: clusters[0] 'a' destinations[0]: \"localhost\": want an IP address or CIDR"},
		{"clusters:\n  - {name: a, type: internal, listener: b}\n", "t.yaml:2:41: clusters[0] 'a' listener: there is no listener 'b'"},
		{TCP "    cluster: a\nclusters:\n  - {name: a, type: internal, listener: l}\n",
		 "t.yaml:7:41: clusters[0] 'a' listener: listener 'l' is not internal: only internal listeners can be a target"},
		{"clusters:\n  - {name: a, type: tunnel, tls: false, endpoints: a:1, authority: a}\n",
		 "t.yaml:2:68: clusters[0] 'a' authority: authority \"a\": want host:port with a port in 1..65535"},
		{"clusters:\n  - {name: a, type: tunnel, tls: false, endpoints: a:1, sni: 1.2.3.4}\n",
		 "t.yaml:2:62: clusters[0] 'a' sni: '1.2.3.4': want a host name"},
		{"clusters:\n  - {name: a, type: tunnel, tls: false, endpoints: a:1, pool: {max_tunnels: 0}}\n",
		 "t.yaml:2:77: clusters[0] 'a' pool.max_tunnels: '0': want a whole number from 1 to 64"},
		{"clusters:\n  - {name: a, type: tunnel, tls: false, endpoints: a:1, pool: {queue_timeout: 5}}\n",
		 "t.yaml:2:79: clusters[0] 'a' pool.queue_timeout: '5' has no unit: write 5ms or 5s"},
		{"clusters:\n  - {name: a, type: tcp, endpoints: a:1}\n  - {name: a, type: tcp, endpoints: a:1}\n",
		 "t.yaml:3:12: clusters[1]: name 'a' is taken: t.yaml:2:12 has it, too"},
	};

	(void)state;
	ROWS(table);
}

/* clang-format on */

/* ---- limits ---- */

static char *repeat(const char *head, const char *item, size_t n, const char *tail)
{
	size_t h = strlen(head), len = strlen(item), i;
	char *s = malloc(h + n * len + strlen(tail) + 1), *p = s;

	assert_non_null(s);
	p = stpcpy(p, head);
	for (i = 0; i < n; i++)
		p = stpcpy(p, item);
	strcpy(p, tail);
	return s;
}

static void too_much(const char *head, const char *item, size_t n, const char *tail, const char *says)
{
	char *s = repeat(head, item, n, tail);

	refused(s, strlen(s), says);
	free(s);
}

static void bombs_and_floods_are_refused(void **state)
{
	static const char bomb[] =
		"a: &a [x,x,x,x,x,x,x,x,x]\nb: &b [*a,*a,*a,*a,*a,*a,*a,*a,*a]\nc: &c [*b,*b,*b,*b,*b,*b,*b,*b,*b]\n"
		"d: &d [*c,*c,*c,*c,*c,*c,*c,*c,*c]\ne: &e [*d,*d,*d,*d,*d,*d,*d,*d,*d]\n"
		"f: &f [*e,*e,*e,*e,*e,*e,*e,*e,*e]\n";
	struct config *c;
	struct err e = {""};
	char *s;

	(void)state;
	refused(bomb, strlen(bomb),
		"t.yaml:6:26: too large: more than 500000 values, aliases counted as often as they are used");
	too_much("", "[", 100000, "", "t.yaml:1:33: nested deeper than 32 levels");
	too_much("a: ", "- ", 100000, "", "t.yaml:1:4: block sequence entries are not allowed in this context");
	too_much("", "- ", 100000, "", "t.yaml:1:65: nested deeper than 32 levels");
	too_much("x: [", "&a 1, ", 300, "]", "t.yaml:1:1541: more than 256 anchors");
	too_much("x: [", "a, ", 600000, "]",
		 "t.yaml:1:1499996: too large: more than 500000 values, aliases counted as often as they are used");
	too_much("listeners:\n", "  - {name: a}\n", 4097, "",
		 "t.yaml:2:3: listeners: 4097 entries are too many, at most 4096");
	too_much("clusters:\n", "  - {name: a}\n", 4097, "",
		 "t.yaml:2:3: clusters: 4097 entries are too many, at most 4096");
	too_much("identities:\n", "  - {name: a}\n", 257, "",
		 "t.yaml:2:3: identities: 257 entries are too many, at most 256");
	too_much("clusters:\n  - name: a\n    type: tcp\n    endpoints:\n", "      - a:1\n", 65537, "",
		 "t.yaml:5:7: clusters[0] 'a' endpoints: too many endpoints: at most 65536 in all clusters together");
	too_much("node: {id: ", "a", 4097, "}", "t.yaml:1:12: node.id: 4097 bytes are too many, at most 4096");
	too_much("node: {metadata: {a: ", "a", 4097, "}}",
		 "t.yaml:1:22: node.metadata.a: 4097 bytes are too many, at most 4096");
	too_much("log: {level: ", "x", 1000, "}",
		 "t.yaml:1:14: log.level: "
		 "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx...': want "
		 "error, warn, info or debug");

	s = repeat("", "#", (4 << 20) + 1, "");
	assert_int_equal(config_parse("t.yaml", s, strlen(s), &c, &e), -EFBIG);
	assert_string_equal(e.msg, "t.yaml: larger than 4 MiB");
	assert_int_equal(config_parse("t.yaml", s, 4 << 20, &c, &e), 0);
	config_free(c);
	free(s);
}

static void a_mapping_has_256_keys_at_the_most(void **state)
{
	char yaml[8192] = "node: {metadata: {";
	size_t at = strlen(yaml);
	int i;

	(void)state;
	for (i = 0; i < 65; i++)
		at += (size_t)snprintf(yaml + at, sizeof(yaml) - at, "k%d: v,", i);
	snprintf(yaml + at, sizeof(yaml) - at, "}}");
	refused(yaml, strlen(yaml), "t.yaml:1:18: node.metadata: 65 entries are too many, at most 64");
	for (; i < 257; i++)
		at += (size_t)snprintf(yaml + at, sizeof(yaml) - at, "k%d: v,", i);
	snprintf(yaml + at, sizeof(yaml) - at, "}}");
	refused(yaml, strlen(yaml), "t.yaml:1:1957: more than 256 keys in one mapping");
}

/* the most that is allowed works, and in time */
static void the_largest_configuration_is_read(void **state)
{
	char *s = repeat("clusters:\n  - name: a\n    type: tcp\n    endpoints:\n", "      - 10.0.0.1:80\n", 65536, "");
	struct config *c = NULL;
	struct err e = {""};

	(void)state;
	if (config_parse("t.yaml", s, strlen(s), &c, &e) < 0)
		fail_msg("%s", e.msg);
	assert_int_equal(c->n_endpoints, 65536);
	assert_int_equal(c->clusters[0].endpoints[65535].id, 65535);
	config_free(c);
	free(s);
}

static void a_long_file_name_leaves_room_for_the_sentence(void **state)
{
	struct config *c = NULL;
	struct err e = {""};
	char name[4000];

	(void)state;
	memset(name, 'n', sizeof(name));
	strcpy(name + sizeof(name) - 6, ".yaml");
	assert_int_equal(config_parse(name, "x: y", 4, &c, &e), -EINVAL);
	assert_non_null(strstr(e.msg, ".yaml:1:1: unknown key 'x'"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(what_is_not_yaml),
		cmocka_unit_test(wrong_keys),
		cmocka_unit_test(wrong_kinds),
		cmocka_unit_test(wrong_values),
		cmocka_unit_test(wrong_metadata),
		cmocka_unit_test(wrong_identities),
		cmocka_unit_test(wrong_listeners),
		cmocka_unit_test(wrong_routes),
		cmocka_unit_test(wrong_clusters),
		cmocka_unit_test(bombs_and_floods_are_refused),
		cmocka_unit_test(a_mapping_has_256_keys_at_the_most),
		cmocka_unit_test(the_largest_configuration_is_read),
		cmocka_unit_test(a_long_file_name_leaves_room_for_the_sentence),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
