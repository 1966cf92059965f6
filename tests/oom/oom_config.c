/* Reading a configuration while memory runs out, also in libyaml: -ENOMEM and nothing lost, wherever it happens. */
/* link: -Wl,--whole-archive -l:libyaml.a -Wl,--no-whole-archive */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <stdio.h>
#include <cmocka.h>

#include "base/log.h"
#include "config/config.h"
#include "oom/oom.h"

static char dir[64];
static const char *yaml;

static void put(const char *name, const char *text)
{
	char path[256];
	FILE *f;

	snprintf(path, sizeof(path), "%s/%s", dir, name);
	f = fopen(path, "we");
	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static void parse_once(void)
{
	struct config *c = NULL;
	struct err e = {""};
	int r = config_parse("t.yaml", yaml, strlen(yaml), &c, &e);

	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_non_null(strstr(e.msg, "out of memory"));
		assert_null(c);
		return;
	}
	assert_false(oom_struck());
	config_free(c);
}

static void refuse_once(void)
{
	struct config *c = NULL;
	struct err e = {""};
	int r = config_parse("t.yaml", yaml, strlen(yaml), &c, &e);

	assert_true(r == -ENOMEM || (r == -EINVAL && !oom_struck()));
	assert_null(c);
}

static void load_once(void)
{
	struct config *c = NULL;
	struct err e = {""};
	char path[256];
	int r;

	snprintf(path, sizeof(path), "%s/adit.yaml", dir);
	r = config_load(path, &c, &e);
	if (r < 0) {
		assert_int_equal(r, -ENOMEM);
		assert_null(c);
		return;
	}
	config_free(c);
}

static const char full[] =
	"node: {id: {env: PATH}, metadata: {a: b, f: {file: /etc/passwd}}, request_headers: {x-a: b}}\n"
	"access_log: {path: a.log, fields: [time, listener]}\n"
	"identities: [{name: i, certificate: /etc/passwd, key: /etc/passwd, ca: /etc/passwd, ciphers: "
	"TLS_AES_128_GCM_SHA256}]\n"
	"kernel: {bypass: {allow: [{cgroups: [/a/, /b], uids: 1, executables: /bin/a, ports: 1-2}, {uids: 2}]}, pin: /a, cgroup: /c/}\n"
	"listeners:\n"
	"  - {name: c, type: tcp, address: \"127.0.0.1:2\", netns: x, cluster: od, capture: {cgroups: /a, to: \"*\"}, steer: {ports: 1}}\n"
	"  - {name: p, type: tcp, address: \"127.0.0.1:3\", cluster: od, proxy_protocol: true, proxy_from: 10.0.0.1}\n"
	"  - name: t\n    type: tunnel\n    address: \"127.0.0.1:1\"\n    accept: [\"spiffe://a/b\"]\n"
	"    routes:\n"
	"      - {name: a, match: {authority: {suffix: A}, cidr: [10.0.0.0/8], headers: [{name: a, exact: b}]}, "
	"listener: in}\n"
	"      - {match: &m {headers: [{name: a, regex: \"a+\"}, {name: b, regex: \"b+\"}]}, forward: up}\n"
	"      - {match: *m, cluster: via}\n"
	"  - {name: in, type: internal, cluster: out}\n"
	"clusters:\n"
	"  - {name: out, type: tcp, endpoints: [\"10.0.0.1:80\", \"a.b:80\"]}\n"
	"  - {name: up, type: tunnel, identity: workload, identity_default: i, expect: \"spiffe://a/b\", sni: a.b, authority: \"a:80\", endpoints: a:80}\n"
	"  - {name: via, type: internal, listener: in}\n"
	"  - {name: od, type: original_dst, destinations: \"*\"}\n"
	"workloads:\n"
	"  - {name: w, identity: i, match: {source: \"*\", cgroups: /a/, uids: 1, listeners: [c]}, serves: {addresses: 10.0.0.1, server_names: A.b},\n"
	"     workload: x, metadata: {a: c}, request_headers: {x-b: b}}\n"
	"policies:\n"
	"  - name: a\n    action: allow\n    scope: {listeners: c, clusters: [out], labels: {a: b}}\n"
	"    rules: [{principal: [td/ns/a/sa/b, {prefix: td/}], authority: A.b, metadata: {x-a: \"*\"}, source_ip: 10.0.0.0/8}]\n"
	"  - {name: d, action: deny, dry_run: true, rules: [{not_listener: c, destination_port: [1, 2-9], namespace: \"a*\"}]}\n";

static void a_configuration_survives_every_failure(void **state)
{
	(void)state;
	yaml = full;
	assert_true(oom_sweep(parse_once) >= 5);
}

/* many small pieces: several chunks of both arenas */
static void a_large_configuration_survives_every_failure(void **state)
{
	size_t room = 20000, at;
	char *s = malloc(room);
	int i;

	(void)state;
	assert_non_null(s);
	at = (size_t)snprintf(s, room,
			      "listeners:\n  - name: t\n    type: tunnel\n    tls: false\n    address: \"1.2.3.4:5\"\n"
			      "    routes:\n");
	for (i = 0; i < 25; i++)
		at += (size_t)snprintf(
			s + at, room - at,
			"      - {name: r%d, match: {headers: [{name: a, regex: \"x%d\"}]}, cluster: c%d}\n", i, i, i);
	at += (size_t)snprintf(s + at, room - at, "clusters:\n");
	for (i = 0; i < 25; i++)
		at += (size_t)snprintf(s + at, room - at, "  - {name: c%d, type: tcp, endpoints: [\"10.0.0.1:%d\"]}\n",
				       i, i + 1);
	yaml = s;
	assert_true(oom_sweep(parse_once) >= 10);
	free(s);
}

static void a_wrong_configuration_survives_every_failure(void **state)
{
	static const char *const wrong[] = {
		"a: [",
		"nodes: {id: a}",
		"node: {id: a}\nnode: {id: b}",
		"listeners: [{name: a, type: internal, listener: b}, {name: b, type: internal, listener: a}]",
		"listeners: [{name: t, type: tunnel, tls: false, address: \"1.2.3.4:5\", routes: [{match: {headers: "
		"[{name: a, regex: "
		"\"x+\"}, {name: a, regex: \"x(\"}]}, cluster: c}]}]\nclusters: [{name: c, type: tcp, endpoints: a:1}]",
	};
	size_t i;

	(void)state;
	for (i = 0; i < sizeof(wrong) / sizeof(*wrong); i++) {
		yaml = wrong[i];
		oom_sweep(refuse_once);
	}
}

static void files_survive_every_failure(void **state)
{
	char path[256];

	(void)state;
	strcpy(dir, "/tmp/adit-oom-XXXXXX");
	assert_non_null(mkdtemp(dir));
	snprintf(path, sizeof(path), "%s/conf.d", dir);
	assert_int_equal(mkdir(path, 0700), 0);
	put("adit.yaml", full);
	put("conf.d/a.yaml", "clusters:\n  - {name: a, type: tcp, endpoints: a:1}\n");
	put("conf.d/b.yaml", "log: {level: warn}\n");
	assert_true(oom_sweep(load_once) >= 8);
	snprintf(path, sizeof(path), "rm -rf '%s'", dir);
	assert_int_equal(system(path), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_configuration_survives_every_failure),
		cmocka_unit_test(a_large_configuration_survives_every_failure),
		cmocka_unit_test(a_wrong_configuration_survives_every_failure),
		cmocka_unit_test(files_survive_every_failure),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
