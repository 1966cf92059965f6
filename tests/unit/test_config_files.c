/*
 * Configuration in files: conf.d, what is relative to what, files that cannot be read, warnings, and that the examples and every
 * YAML block of docs/CONFIGURATION.md load. Run in the top folder of the sources.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#include "base/log.h"
#include "config/config.h"

static char dir[64];	/* of this test */
static char path[4096]; /* put(), at() */

static const char *at(const char *name)
{
	snprintf(path, sizeof(path), "%s/%s", dir, name);
	return path;
}

static void put(const char *name, const char *text)
{
	FILE *f = fopen(at(name), "we");

	assert_non_null(f);
	assert_true(fputs(text, f) >= 0);
	assert_int_equal(fclose(f), 0);
}

static int set_up(void **state)
{
	static const char *const pem[] = {"node.pem", "node.key", "ca.pem", "edge.pem", "edge.key", "rack"};
	size_t i;

	(void)state;
	strcpy(dir, "/tmp/adit-config-XXXXXX");
	if (!mkdtemp(dir))
		return -1;
	for (i = 0; i < sizeof(pem) / sizeof(*pem); i++)
		put(pem[i], "r1\n");
	return 0;
}

static int tear_down(void **state)
{
	char command[128];

	(void)state;
	snprintf(command, sizeof(command), "rm -rf '%s'", dir);
	return system(command);
}

static struct config *loads(const char *name)
{
	struct config *c = NULL;
	struct err e = {""};

	if (config_load(at(name), &c, &e) < 0)
		fail_msg("%s", e.msg);
	return c;
}

/* @says with DIR for the folder's name */
static void refused(const char *name, int code, const char *says)
{
	struct config *c = NULL;
	struct err e = {""};
	char want[1024] = "", *w = want;
	const char *p;

	for (p = says; *p;)
		if (!strncmp(p, "DIR", 3)) {
			w = stpcpy(w, dir);
			p += 3;
		} else {
			*w++ = *p++;
			*w = 0;
		}
	assert_int_equal(config_load(at(name), &c, &e), code);
	assert_string_equal(e.msg, want);
	assert_null(c);
}

static void conf_d_lists_are_appended_in_name_order(void **state)
{
	struct config *c;

	(void)state;
	put("adit.yaml", "listeners:\n  - {name: a, type: tcp, address: \"127.0.0.1:1\", cluster: late}\n"
			 "clusters: &c\n  - {name: first, type: tcp, endpoints: \"10.0.0.1:1\"}\n"
			 "node: {id: n}\nidentities:\n");
	mkdir(at("conf.d"), 0700);
	put("conf.d/20-b.yaml", "clusters:\n  - {name: third, type: tcp, endpoints: \"10.0.0.3:1\"}\n");
	put("conf.d/10-a.yaml",
	    "clusters:\n  - {name: late, type: tcp, endpoints: \"10.0.0.2:1\"}\nlog: {level: warn}\n");
	put("conf.d/30-empty.yaml", "# nothing\n");
	put("conf.d/31-empty.yaml", "clusters:\nlisteners: []\n");
	put("conf.d/40.yml", "this is: [not read");
	put("conf.d/.50.yaml", "this is: [not read");
	put("conf.d/60.yaml~", "this is: [not read");
	put("conf.d/70-id.yaml", "identities:\n  - {name: i, certificate: node.pem, key: node.key, ca: ca.pem}\n");
	c = loads("adit.yaml");
	assert_int_equal(c->n_clusters, 3);
	assert_string_equal(c->clusters[0].name, "first");
	assert_string_equal(c->clusters[1].name, "late");
	assert_string_equal(c->clusters[2].name, "third");
	assert_ptr_equal(c->listeners[0].to.cluster, &c->clusters[1]);
	assert_int_equal(c->log_level, LOG_WARN);
	assert_int_equal(c->n_identities, 1);
	/* relative to the main file's folder, also in conf.d */
	assert_string_equal(c->identities[0].certificate, at("node.pem"));
	config_free(c);
}

static void conf_d_errors_name_their_file(void **state)
{
	(void)state;
	put("adit.yaml", "clusters:\n  - {name: c, type: tcp, endpoints: \"10.0.0.1:1\"}\n");
	mkdir(at("conf.d"), 0700);
	put("conf.d/a.yaml", "\nclusters:\n  - {name: d, type: tcp, endpoints: \"10.0.0.1\"}\n");
	refused("adit.yaml", -EINVAL,
		"DIR/conf.d/a.yaml:3:37: clusters[1] 'd' endpoints: '10.0.0.1' has no port: want HOST:PORT, IP:PORT or "
		"[IPv6]:PORT");
	put("conf.d/a.yaml", "clusters:\n  - {name: c, type: tcp, endpoints: \"10.0.0.1:1\"}\n");
	refused("adit.yaml", -EINVAL,
		"DIR/conf.d/a.yaml:2:12: clusters[1]: name 'c' is taken: DIR/adit.yaml:2:12 has it, too");
	put("conf.d/a.yaml", "clusters: {name: x}\n");
	refused("adit.yaml", -EINVAL, "DIR/conf.d/a.yaml:1:11: clusters: want a list, not a mapping");
	put("conf.d/a.yaml", "[]");
	refused("adit.yaml", -EINVAL, "DIR/conf.d/a.yaml:1:1: want a mapping (key: value) at the top, not a list");
	put("conf.d/a.yaml", "a: [");
	refused("adit.yaml", -EINVAL,
		"DIR/conf.d/a.yaml:2:1: did not find expected node content while parsing a flow node");
}

static void a_key_set_in_two_files_is_an_error_that_names_both(void **state)
{
	(void)state;
	put("adit.yaml", "node: {id: a}\n");
	mkdir(at("conf.d"), 0700);
	put("conf.d/a.yaml", "workers: 1\n");
	put("conf.d/b.yaml", "# b\nworkers: 2\n");
	refused("adit.yaml", -EINVAL,
		"DIR/conf.d/b.yaml:2:1: workers: is set in two files, first at DIR/conf.d/a.yaml:1:1");
	put("conf.d/b.yaml", "  node: {zone: z}\n");
	refused("adit.yaml", -EINVAL, "DIR/conf.d/b.yaml:1:3: node: is set in two files, first at DIR/adit.yaml:1:1");
}

/* the appended entries must not appear where the first file's list is used under another name */
static void conf_d_does_not_reach_into_aliases(void **state)
{
	(void)state;
	put("adit.yaml", "clusters: &c\n  - {name: c, type: tcp, endpoints: \"10.0.0.1:1\"}\nlisteners: *c\n");
	mkdir(at("conf.d"), 0700);
	put("conf.d/a.yaml", "clusters:\n  - {name: d, type: tcp, endpoints: \"10.0.0.1:1\"}\n");
	refused("adit.yaml", -EINVAL, "DIR/adit.yaml:2:26: listeners[0] 'c': unknown key 'endpoints'");
}

static void files_that_cannot_be_read(void **state)
{
	(void)state;
	refused("none.yaml", -ENOENT, "DIR/none.yaml: No such file or directory");
	refused(".", -EISDIR, "DIR/.: is a directory");
	put("adit.yaml", "");
	put("conf.d", "");
	refused("adit.yaml", -ENOTDIR, "DIR/conf.d/: Not a directory");
	unlink(at("conf.d"));
	mkdir(at("conf.d"), 0700);
	mkdir(at("conf.d/x.yaml"), 0700);
	refused("adit.yaml", -EISDIR, "DIR/conf.d/x.yaml: is a directory");
	rmdir(at("conf.d/x.yaml"));
	assert_int_equal(symlink("nowhere", at("conf.d/x.yaml")), 0);
	refused("adit.yaml", -ENOENT, "DIR/conf.d/x.yaml: No such file or directory");
	unlink(at("conf.d/x.yaml"));

	put("big.yaml", "");
	assert_int_equal(truncate(at("big.yaml"), 101 << 20), 0);
	refused("big.yaml", -EFBIG, "DIR/big.yaml: larger than 4 MiB");
	mkfifo(at("fifo.yaml"), 0600); /* without a writer: empty at once, not a wait for ever */
	config_free(loads("fifo.yaml"));
}

static void values_come_from_the_first_line_of_a_file(void **state)
{
	struct config *c;

	(void)state;
	put("v", "  one \ntwo\n");
	put("adit.yaml", "node: {id: {file: v}, metadata: {a: {file: v}}}");
	c = loads("adit.yaml");
	assert_string_equal(c->node.id, "one");
	assert_string_equal(c->node.metadata[0].value, "one");
	config_free(c);
	put("v", "\n\n");
	refused("adit.yaml", -EINVAL, "DIR/adit.yaml:1:19: node.id.file: is empty");
	put("v", "a\x01");
	refused("adit.yaml", -EINVAL, "DIR/adit.yaml:1:19: node.id.file: byte 0x01 at offset 1 cannot be sent");
}

/* ---- warnings ---- */

/* what config_load() logs, times and levels cut off */
static void warns(const char *yaml, const char *line)
{
	int p[2];
	char out[4096];
	ssize_t n;
	char *found;

	assert_int_equal(pipe2(p, O_CLOEXEC | O_NONBLOCK), 0);
	put("adit.yaml", yaml);
	log_init(p[1], LOG_JOURNAL, LOG_WARN);
	config_free(loads("adit.yaml"));
	log_init(2, LOG_TEXT, LOG_ERR);
	n = read(p[0], out, sizeof(out) - 1);
	close(p[0]);
	close(p[1]);
	out[n > 0 ? n : 0] = 0;
	found = strstr(out, "adit.yaml:");
	if (!line) {
		assert_string_equal(out, "");
		return;
	}
	assert_non_null(found);
	found[strcspn(found, "\n")] = 0;
	assert_string_equal(found, line);
}

#define OUT "clusters:\n  - {name: out, type: tcp, endpoints: [\"10.0.0.1:80\", \"127.0.0.1:90\"]}\n"

static void what_is_suspicious_is_warned_of(void **state)
{
	(void)state;
	warns("listeners:\n  - {name: a, type: tcp, address: \"127.0.0.1:1\", cluster: out}\n" OUT, NULL);
	warns("listeners:\n  - {name: a, type: internal, cluster: out}\n" OUT,
	      "adit.yaml:2:5: listeners[0] 'a': no listener leads to it");
	warns("listeners:\n  - {name: a, type: tunnel, tls: false, address: \"127.0.0.1:1\"}\n" OUT,
	      "adit.yaml:2:5: listeners[0] 'a': has no target: every connection will be refused (404)");
	warns("listeners:\n  - {name: a, type: tcp, address: \"127.0.0.1:1\", routes: [{cluster: out}, {name: b, "
	      "cluster: out}]}\n" OUT,
	      "adit.yaml:2:5: listeners[0] 'a': route 'a/routes/0' matches everything, the routes behind it are never "
	      "used");
	warns("listeners:\n  - {name: a, type: tcp, address: \"0.0.0.0:90\", listener: i}\n  - {name: i, type: "
	      "internal, cluster: out}\n" OUT,
	      "adit.yaml:3:40: listeners[1] 'i' cluster: connections may go round for ever: cluster 'out' has the "
	      "address of listener "
	      "'a', which leads here");
	warns("listeners:\n  - {name: a, type: tcp, address: \"127.0.0.1:91\", cluster: out}\n"
	      "  - {name: b, type: tcp, address: \"127.0.0.1:90\", cluster: far}\n" OUT
	      "  - {name: far, type: tcp, endpoints: [\"10.0.0.1:91\"]}\n",
	      NULL);
}

/* ---- examples, documentation ---- */

static char *slurp(const char *name)
{
	FILE *f = fopen(name, "re");
	char *s;
	long n;

	if (!f)
		fail_msg("%s: cannot be read; the test runs in the top folder", name);
	fseek(f, 0, SEEK_END);
	n = ftell(f);
	rewind(f);
	s = calloc(1, (size_t)n + 1);
	assert_non_null(s);
	assert_int_equal(fread(s, 1, (size_t)n, f), n);
	fclose(f);
	return s;
}

static void every_example_loads(void **state)
{
	DIR *d = opendir("docs/examples");
	const struct dirent *e;
	char name[512], *text;
	int n = 0;

	(void)state;
	assert_non_null(d);
	setenv("ADIT_NODE", "node-a", 1);
	while ((e = readdir(d))) {
		if (!strstr(e->d_name, ".yaml"))
			continue;
		snprintf(name, sizeof(name), "docs/examples/%s", e->d_name);
		text = slurp(name);
		warns(text, NULL); /* loads without a warning */
		free(text);
		n++;
	}
	closedir(d);
	assert_true(n >= 5);
}

static void every_block_of_the_documentation_loads(void **state)
{
	char *text = slurp("docs/CONFIGURATION.md"), *p, *end, *from;
	struct config *c = NULL;
	struct err e = {""};
	int n = 0;

	(void)state;
	setenv("ADIT_NODE", "node-a", 1);
	for (p = text; (from = strstr(p, "\n```yaml\n")); p = end + 1) {
		from += strlen("\n```yaml\n");
		end = strstr(from, "\n```\n");
		assert_non_null(end);
		*end = 0;
		if (config_parse(at("docs.yaml"), from, strlen(from), &c, &e) < 0)
			fail_msg("%s in the block:\n%s", e.msg, from);
		config_free(c);
		n++;
	}
	assert_true(n >= 8);
	free(text);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test_setup_teardown(conf_d_lists_are_appended_in_name_order, set_up, tear_down),
		cmocka_unit_test_setup_teardown(conf_d_errors_name_their_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(a_key_set_in_two_files_is_an_error_that_names_both, set_up, tear_down),
		cmocka_unit_test_setup_teardown(conf_d_does_not_reach_into_aliases, set_up, tear_down),
		cmocka_unit_test_setup_teardown(files_that_cannot_be_read, set_up, tear_down),
		cmocka_unit_test_setup_teardown(values_come_from_the_first_line_of_a_file, set_up, tear_down),
		cmocka_unit_test_setup_teardown(what_is_suspicious_is_warned_of, set_up, tear_down),
		cmocka_unit_test_setup_teardown(every_example_loads, set_up, tear_down),
		cmocka_unit_test_setup_teardown(every_block_of_the_documentation_loads, set_up, tear_down),
	};

	log_init(2, LOG_TEXT, LOG_ERR);
	return cmocka_run_group_tests(tests, NULL, NULL);
}
