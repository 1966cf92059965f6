/* The kernel plane in the configuration: every key reaches its member, defaults, mistakes with their places, warnings. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "config/config.h"

static struct config *good(const char *yaml)
{
	struct config *c = NULL;
	struct err e = {""};

	if (config_parse("t.yaml", yaml, strlen(yaml), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

static void addr_is(const struct addr *a, const char *want)
{
	char text[ADDR_STR];

	assert_string_equal(addr_ip_str(a, text), want);
}

static void without_the_section_there_are_defaults(void **state)
{
	static const char *const same[] = {"", "kernel:\n", "kernel: {bypass: }\n", "kernel: {bypass: {allow: }}", "kernel: {bypass: {allow: []}}"};

	(void)state;
	for (size_t i = 0; i < sizeof(same) / sizeof(*same); i++) {
		struct config *c = good(same[i]);
		const struct cfg_kernel *k = &c->kernel;

		assert_false(k->bypass.enabled);
		assert_int_equal(k->bypass.n_allow, 0);
		assert_int_equal(k->bypass.evidence, SWITCH_AUTO);
		assert_true(k->bypass.legs);
		assert_int_equal(k->bypass.after, 3);
		assert_int_equal(k->bypass.queue_bytes, 65536);
		assert_int_equal(k->bypass.queue_messages, 64);
		assert_int_equal(k->bypass.bulk, 8 << 20);
		assert_int_equal(k->splice, SWITCH_AUTO);
		assert_int_equal(k->splice_above, CFG_SPLICE_ABOVE);
		assert_int_equal(k->ktls, SWITCH_AUTO);
		assert_string_equal(k->pin, "/sys/fs/bpf/adit");
		assert_string_equal(k->cgroup, "/");
		assert_int_equal(k->orphan_ms, 30000);
		config_free(c);
	}
}

static void the_section_takes_every_key(void **state)
{
	struct config *c = good("kernel:\n"
				"  bypass:\n"
				"    enabled: true\n"
				"    allow:\n"
				"      - {cgroups: [/shop.slice, /], uids: [0, 1000], executables: /usr/bin/redis-server, ports: [80, 8000-9000]}\n"
				"      - ports: \"443\"\n"
				"    evidence: off\n    legs: false\n    after: 1\n    queue_bytes: 128KiB\n    queue_messages: 7\n"
				"    bulk: 0\n"
				"  splice: on\n  splice_above: 1MiB\n  ktls: off\n  pin: none\n  cgroup: /system.slice/\n  orphan: 5s\n");
	const struct cfg_kernel *k = &c->kernel;
	const struct cfg_who *w = k->bypass.allow;

	(void)state;
	assert_true(k->bypass.enabled);
	assert_int_equal(k->bypass.n_allow, 2);
	assert_int_equal(w[0].n_cgroups, 2);
	assert_string_equal(w[0].cgroups[0], "/shop.slice");
	assert_string_equal(w[0].cgroups[1], "/");
	assert_int_equal(w[0].n_uids, 2);
	assert_int_equal(w[0].uids[0], 0);
	assert_int_equal(w[0].uids[1], 1000);
	assert_int_equal(w[0].n_executables, 1);
	assert_string_equal(w[0].executables[0], "/usr/bin/redis-server");
	assert_int_equal(w[0].n_ports, 2);
	assert_int_equal(w[0].ports[0].first, 80);
	assert_int_equal(w[0].ports[0].last, 80);
	assert_int_equal(w[0].ports[1].first, 8000);
	assert_int_equal(w[0].ports[1].last, 9000);
	assert_int_equal(w[1].n_cgroups + w[1].n_uids + w[1].n_executables, 0);
	assert_int_equal(w[1].n_ports, 1);
	assert_int_equal(w[1].ports[0].last, 443);
	assert_int_equal(k->bypass.evidence, SWITCH_OFF);
	assert_false(k->bypass.legs);
	assert_int_equal(k->bypass.after, 1);
	assert_int_equal(k->bypass.queue_bytes, 131072);
	assert_int_equal(k->bypass.queue_messages, 7);
	assert_int_equal(k->bypass.bulk, 0);
	assert_int_equal(k->splice, SWITCH_ON);
	assert_int_equal(k->splice_above, 1 << 20);
	assert_int_equal(k->ktls, SWITCH_OFF);
	assert_null(k->pin);
	assert_string_equal(k->cgroup, "/system.slice");
	assert_int_equal(k->orphan_ms, 5000);
	config_free(c);
}

#define OUT "clusters: [{name: out, type: original_dst, destinations: \"*\"}]\n"

static void listeners_capture_and_steer(void **state)
{
	struct config *c = good("listeners:\n"
				"  - name: all\n    type: tcp\n    address: \"127.0.0.1:15001\"\n    cluster: out\n    netns: blue\n"
				"    capture:\n      cgroups: /shop.slice\n      uids: 33\n      ports: [80, 443]\n      to: 10.0.0.0/8\n"
				"      except: [\"10.9.0.0/16:53\", \"fd00::/8\"]\n      except_ports: 22\n      when_away: closed\n"
				"    steer: {to: 10.0.0.1, ports: 1-1023, except_ports: [22]}\n"
				"  - {name: rest, type: tcp, address: \"127.0.0.1:15002\", cluster: out, capture: {cgroups: /a, when_away: open}}\n"
				"  - {name: px, type: tcp, address: \"127.0.0.1:1\", cluster: out, proxy_protocol: true, proxy_from: [10.0.0.0/8, \"::1\"]}\n"
				"  - {name: no, type: tcp, address: \"127.0.0.1:2\", cluster: out, proxy_protocol: false, netns: \"pid:42\"}\n"
				"  - {name: t, type: tunnel, tls: false, address: \"0.0.0.0:15008\", cluster: out, steer: {ports: 15008}, netns: /run/netns/b}\n" OUT);
	const struct cfg_listener *l = c->listeners;
	const struct cfg_capture *k = l->capture;

	(void)state;
	assert_string_equal(l[0].netns, "blue");
	assert_int_equal(k->who.n_cgroups, 1);
	assert_string_equal(k->who.cgroups[0], "/shop.slice");
	assert_int_equal(k->who.n_uids, 1);
	assert_int_equal(k->who.uids[0], 33);
	assert_int_equal(k->who.n_ports, 2);
	assert_int_equal(k->who.n_executables, 0);
	assert_int_equal(k->n_to, 1);
	addr_is(&k->to[0].net, "10.0.0.0");
	assert_int_equal(k->n_except, 2);
	assert_int_equal(k->except[0].port_first, 53);
	addr_is(&k->except[1].net, "fd00::");
	assert_int_equal(k->n_except_ports, 1);
	assert_int_equal(k->except_ports[0].first, 22);
	assert_true(k->fail_closed);
	assert_int_equal(l[0].steer->n_to, 1);
	addr_is(&l[0].steer->to[0].net, "10.0.0.1");
	assert_int_equal(l[0].steer->ports[0].last, 1023);
	assert_int_equal(l[0].steer->n_except_ports, 1);
	assert_false(l[1].capture->fail_closed);
	assert_null(l[1].steer);
	assert_null(l[1].netns);
	assert_true(l[2].proxy_protocol);
	assert_int_equal(l[2].n_proxy_from, 2);
	assert_int_equal(l[1].spread, SPREAD_CONNECTION);
	assert_null(l[2].capture);
	assert_int_equal(l[2].spread, SPREAD_SOURCE);
	assert_false(l[3].proxy_protocol);
	assert_string_equal(l[3].netns, "pid:42");
	assert_int_equal(l[4].steer->ports[0].first, 15008);
	assert_string_equal(l[4].netns, "/run/netns/b");
	config_free(c);
}

static void clusters_say_whose_address_and_where_from(void **state)
{
	struct config *c = good("clusters:\n"
				"  - {name: a, type: tcp, endpoints: \"10.0.0.1:1\", netns: blue, source: client, proxy_protocol: v2}\n"
				"  - {name: b, type: original_dst, destinations: \"*\", source: agent, proxy_protocol: v1}\n"
				"  - {name: c, type: tunnel, tls: false, endpoints: \"10.0.0.1:15008\", local: tunnel, netns: red}\n"
				"  - {name: d, type: tunnel, tls: false, endpoints: \"10.0.0.1:15008\", local: short}\n"
				"  - {name: e, type: tcp, endpoints: \"10.0.0.1:1\", proxy_protocol: none}\n");
	const struct cfg_cluster *k = c->clusters;

	(void)state;
	assert_string_equal(k[0].netns, "blue");
	assert_int_equal(k[0].source, SOURCE_CLIENT);
	assert_int_equal(k[0].proxy_protocol, PROXY_V2);
	assert_int_equal(k[1].source, SOURCE_AGENT);
	assert_int_equal(k[1].proxy_protocol, PROXY_V1);
	assert_null(k[1].netns);
	assert_int_equal(k[2].local, LOCAL_TUNNEL);
	assert_string_equal(k[2].netns, "red");
	assert_int_equal(k[3].local, LOCAL_SHORT);
	assert_int_equal(k[4].proxy_protocol, PROXY_NONE);
	config_free(c);
}

static void an_address_belongs_to_its_namespace(void **state)
{
	(void)state;
	config_free(good("listeners:\n"
			 "  - {name: a, type: tcp, address: \"127.0.0.1:1\", cluster: out}\n"
			 "  - {name: b, type: tcp, address: \"127.0.0.1:1\", cluster: out, netns: blue}\n"
			 "  - {name: c, type: tcp, address: \"127.0.0.1:1\", cluster: out, netns: red}\n"
			 "  - {name: d, type: tcp, address: \"127.0.0.1:9\", cluster: out, netns: red}\n"
			 "admin: {metrics: \"127.0.0.1:9\"}\n" OUT));
}

/* ---- mistakes ---- */

/* clang-format off */
#define L(more) "listeners: [{name: a, type: tcp, address: \"127.0.0.1:1\", cluster: out, " more "}]\n" OUT
#define C(more) "clusters: [{name: a, type: tcp, endpoints: \"10.0.0.1:1\", " more "}]"

static const struct row { const char *yaml, *says; } wrong[] = {
	{"kernel: {splise: on}", "t.yaml:1:10: kernel: unknown key 'splise' (did you mean 'splice'?)"},
	{"kernel: {splice: yes}", "t.yaml:1:18: kernel.splice: 'yes': want auto, on or off"},
	{"kernel: {splice_above: 0}", "t.yaml:1:24: kernel.splice_above: '0': want bytes from 1 to 1GiB, as 65536, 64KiB, 1MiB or 2GiB"},
	{"kernel: {pin: run/adit}", "t.yaml:1:15: kernel.pin: 'run/adit': want none, or the absolute path of a folder in a bpffs, like /sys/fs/bpf/adit"},
	{"kernel: {pin: /}", "t.yaml:1:15: kernel.pin: '/': want none, or the absolute path of a folder in a bpffs, like /sys/fs/bpf/adit"},
	{"kernel: {cgroup: system.slice}", "t.yaml:1:18: kernel.cgroup: 'system.slice': want a path below the cgroup2 mount that starts with \"/\", like \"/system.slice\""},
	{"kernel: {orphan: 0}", "t.yaml:1:18: kernel.orphan: '0': want more than 0: this time limit cannot be switched off"},
	{"kernel: on", "t.yaml:1:9: kernel: want a mapping (key: value), not a single value"},
	{"kernel: {bypass: {enable: true}}", "t.yaml:1:19: kernel.bypass: unknown key 'enable' (did you mean 'enabled'?)"},
	{"kernel: {bypass: {after: 0}}", "t.yaml:1:26: kernel.bypass.after: '0': want a whole number from 1 to 1000000"},
	{"kernel: {bypass: {queue_bytes: 1}}", "t.yaml:1:32: kernel.bypass.queue_bytes: '1': want bytes from 1KiB to 16MiB, as 65536, 64KiB, 1MiB or 2GiB"},
	{"kernel: {bypass: {allow: /shop.slice}}", "t.yaml:1:26: kernel.bypass.allow: want a list, not a single value"},
	{"kernel: {bypass: {allow: [/shop.slice]}}", "t.yaml:1:27: kernel.bypass.allow[0]: want a mapping (key: value), not a single value"},
	{"kernel: {bypass: {allow: [{}]}}", "t.yaml:1:27: kernel.bypass.allow[0]: would allow everybody: want at least one of cgroups, uids, executables and ports"},
	{"kernel: {bypass: {allow: [{cgroup: /a}]}}", "t.yaml:1:28: kernel.bypass.allow[0]: unknown key 'cgroup' (did you mean 'cgroups'?)"},
	{"kernel: {bypass: {allow: [{cgroups: []}]}}", "t.yaml:1:37: kernel.bypass.allow[0].cgroups: is empty: nothing would match; leave the key out for any"},
	{"kernel: {bypass: {allow: [{cgroups: [/a/../b]}]}}", "t.yaml:1:38: kernel.bypass.allow[0].cgroups[0]: '/a/../b': want a path below the cgroup2 mount that starts with \"/\", like \"/system.slice\""},
	{"kernel: {bypass: {allow: [{executables: nginx}]}}", "t.yaml:1:41: kernel.bypass.allow[0].executables: 'nginx': want the absolute path of a program, as /proc/PID/exe says"},
	{"kernel: {bypass: {allow: [{uids: -1}]}}", "t.yaml:1:34: kernel.bypass.allow[0].uids: '-1': want a whole number from 0 to 4294967294"},
	{"kernel: {bypass: {allow: [{ports: 0}]}}", "t.yaml:1:35: kernel.bypass.allow[0].ports: '0': want a port from 1 to 65535, or a range like \"8000-9000\""},
	{"kernel: {bypass: {allow: [{ports: 70000}]}}", "t.yaml:1:35: kernel.bypass.allow[0].ports: '70000': want a port from 1 to 65535, or a range like \"8000-9000\""},
	{"kernel: {bypass: {allow: [{ports: [80, 90-]}]}}", "t.yaml:1:40: kernel.bypass.allow[0].ports[1]: '90-': want a port from 1 to 65535, or a range like \"8000-9000\""},
	{"kernel: {bypass: {allow: [{ports: 90-80}]}}", "t.yaml:1:35: kernel.bypass.allow[0].ports: '90-80': a range begins with its lower port"},
	{"kernel: {bypass: {allow: [{ports: {80: 90}}]}}", "t.yaml:1:35: kernel.bypass.allow[0].ports: want a list, not a mapping"},
	{L("capture: {port: 80}"), "t.yaml:1:82: listeners[0] 'a' capture: unknown key 'port' (did you mean 'ports'?)"},
	{L("capture: true"), "t.yaml:1:81: listeners[0] 'a' capture: want a mapping (key: value), not a single value"},
	{L("capture: {when_away: shut}"), "t.yaml:1:93: listeners[0] 'a' capture.when_away: 'shut': want open or closed"},
	{L("capture: {to: []}"), "t.yaml:1:86: listeners[0] 'a' capture.to: is empty: nothing would match; leave the key out for any"},
	{L("capture: {uids: 1}, proxy_protocol: true, proxy_from: \"*\""), "t.yaml:1:72: listeners[0] 'a': 'capture' beside 'proxy_protocol': captured applications send no PROXY header"},
	{"listeners: [{name: a, type: tcp, address: \"0.0.0.0:15001\", cluster: out, capture: {uids: 1}}]\n" OUT, "t.yaml:1:43: listeners[0] 'a': a listener with 'capture' needs an address to send applications to, such as \"127.0.0.1:15001\""},
	{"listeners: [{name: a, type: tunnel, tls: false, address: \"127.0.0.1:1\", capture: {}}]", "t.yaml:1:73: listeners[0] 'a': 'capture' is for tcp listeners, this listener is of type tunnel"},
	{"listeners: [{name: a, type: internal, steer: {}}]", "t.yaml:1:39: listeners[0] 'a': 'steer' is for tcp and tunnel listeners, this listener is of type internal"},
	{L("steer: {portz: 80}"), "t.yaml:1:80: listeners[0] 'a' steer: unknown key 'portz' (did you mean 'ports'?)"},
	{L("proxy_protocol: true"), "t.yaml:1:72: listeners[0] 'a': 'proxy_protocol' without 'proxy_from': whose PROXY headers are to be believed? List their networks"},
	{L("proxy_protocol: true, proxy_from: []"), "t.yaml:1:106: listeners[0] 'a' proxy_from: is empty: nothing would match; leave the key out for any"},
	{L("proxy_protocol: true, proxy_from: \"10.0.0.1:80\""), "t.yaml:1:106: listeners[0] 'a' proxy_from: '10.0.0.1:80': a port means nothing here, those who connect may have any"},
	{L("proxy_from: 10.0.0.1"), "t.yaml:1:72: listeners[0] 'a': 'proxy_from' without 'proxy_protocol: true'"},
	{L("netns: run/blue"), "t.yaml:1:79: listeners[0] 'a' netns: 'run/blue': want a name of \"ip netns\", pid:NUMBER, or the absolute path of a namespace"},
	{L("netns: \"pid:0\""), "t.yaml:1:79: listeners[0] 'a' netns: 'pid:0': want a name of \"ip netns\", pid:NUMBER, or the absolute path of a namespace"},
	{L("netns: \"\""), "t.yaml:1:79: listeners[0] 'a' netns: is empty"},
	{C("source: server"), "t.yaml:1:66: clusters[0] 'a' source: 'server': want agent or client"},
	{C("proxy_protocol: true"), "t.yaml:1:74: clusters[0] 'a' proxy_protocol: 'true': want none, v1 or v2"},
	{C("local: short"), "t.yaml:1:58: clusters[0] 'a': 'local' is for tunnel clusters, this cluster is of type tcp"},
	{"listeners:\n  - {name: a, type: tcp, address: \"127.0.0.1:1\", cluster: out, netns: x}\n"
	 "  - {name: b, type: tcp, address: \"127.0.0.1:1\", cluster: out, netns: x}\n" OUT,
	 "t.yaml:3:35: listeners[1] 'b' address: 127.0.0.1:1 is taken: listener 'a' has it, t.yaml:2:35"},
};
/* clang-format on */

static void mistakes_are_named_with_their_place(void **state)
{
	(void)state;
	for (size_t i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		struct config *c = NULL;
		struct err e = {""};

		if (config_parse("t.yaml", wrong[i].yaml, strlen(wrong[i].yaml), &c, &e) >= 0)
			fail_msg("accepted: %s", wrong[i].yaml);
		assert_string_equal(e.msg, wrong[i].says);
	}
}

static void lists_are_bounded(void **state)
{
	char *yaml = malloc(1 << 16);
	struct config *c = NULL;
	struct err e = {""};
	size_t at;

	(void)state;
	assert_non_null(yaml);
	at = (size_t)sprintf(yaml, "kernel: {bypass: {allow: [{ports: [1");
	for (int i = 0; i < 1024; i++)
		at += (size_t)sprintf(yaml + at, ", %d", i + 2);
	sprintf(yaml + at, "]}]}}");
	assert_int_equal(config_parse("t.yaml", yaml, strlen(yaml), &c, &e), -EINVAL);
	assert_string_equal(e.msg, "t.yaml:1:35: kernel.bypass.allow[0].ports: 1025 entries are too many, at most 1024");
	free(yaml);
}

/* ---- warnings ---- */

static void warns(const char *yaml, const char *line)
{
	char out[4096];
	ssize_t n;
	char *found;
	int p[2];

	assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	log_init(p[1], LOG_JOURNAL, LOG_WARN);
	config_free(good(yaml));
	log_init(2, LOG_TEXT, LOG_ERR);
	n = read(p[0], out, sizeof(out) - 1);
	close(p[0]);
	close(p[1]);
	out[n > 0 ? n : 0] = 0;
	found = strstr(out, "t.yaml:");
	if (!line) {
		assert_string_equal(out, "");
		return;
	}
	assert_non_null(found);
	found[strcspn(found, "\n")] = 0;
	assert_string_equal(found, line);
}

static void what_is_suspicious_is_warned_of(void **state)
{
	(void)state;
	warns("kernel: {bypass: {enabled: true}}",
	      "t.yaml:1:19: kernel.bypass.enabled: nobody is on the list 'allow': no connection will be bypassed");
	warns("kernel: {bypass: {enabled: true, allow: [{uids: 1}]}}", NULL);
	warns("kernel: {bypass: {enabled: true, allow: [{uids: 1}]}}\nmover: relay", "t.yaml:1:19: kernel.bypass.enabled: unused: mover is relay");
	warns("kernel: {splice: on}\nmover: relay", "t.yaml:1:10: kernel.splice: unused: mover is relay");
	warns("kernel: {ktls: on}\nmover: relay", "t.yaml:1:10: kernel.ktls: unused: mover is relay");
	warns(L("capture: {}"), "t.yaml:1:72: listeners[0] 'a' capture: takes every TCP connection that this node opens; say whose with "
				"cgroups, uids, ports or to");
	warns(L("capture: {to: 10.0.0.0/8}"), NULL);
	warns(L("steer: {except_ports: 22}"),
	      "t.yaml:1:72: listeners[0] 'a' steer: takes every TCP connection that comes to this node, ssh too; say which with to or ports");
	warns(L("steer: {ports: 80}"), NULL);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(without_the_section_there_are_defaults),
		cmocka_unit_test(the_section_takes_every_key),
		cmocka_unit_test(listeners_capture_and_steer),
		cmocka_unit_test(clusters_say_whose_address_and_where_from),
		cmocka_unit_test(an_address_belongs_to_its_namespace),
		cmocka_unit_test(mistakes_are_named_with_their_place),
		cmocka_unit_test(lists_are_bounded),
		cmocka_unit_test(what_is_suspicious_is_warned_of),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
